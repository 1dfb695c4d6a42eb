"""The measurements: each function performs one run and returns its figures by name."""

from __future__ import annotations

import time
from typing import Any

import attrs

from benchmarks import processes
from benchmarks.contestants import SYSLOG, Contestant
from benchmarks.servers import BenchmarkError, LoadProcess, Server

UNLIMITED = 1 << 50
MOST_LOST_BY_SYSLOG = 0.2
FEW = 50
STALLED_BYTES = 1 << 30


@attrs.frozen
class Load:
    """One kind of load."""

    name: str
    title: str
    mode: str
    connections: int
    limit: int = UNLIMITED
    on_one_processor: bool = False
    """Whether client, forwarder and backend share a processor. With one connection they take turns
    anyway, and waking another processor may take longer than what is measured: the result would
    depend on where the kernel happens to place them."""

    @property
    def is_bulk(self) -> bool:
        return self.mode == "bulk"


LOADS = (
    Load("bulk-1", "Bulk, 1 stream", "bulk", 1),
    Load("bulk-8", "Bulk, 8 streams", "bulk", 8),
    # Limited by the ephemeral ports, which closed connections occupy for a while (TIME_WAIT).
    Load("connect", "New connections, 64 at once", "connect", 64, 12_000),
    Load("messages-1", "64-byte messages, 1 connection", "messages", 1, on_one_processor=True),
    Load("messages-64", "64-byte messages, 64 connections", "messages", 64, 64),
    Load("tls-bulk", "TLS bulk, 1 stream", "bulk", 1),
    Load("tls-connect", "TLS connections, 8 at once", "connect", 8),
)
LOADS_BY_NAME = {load.name: load for load in LOADS}


def warm_up(server: Server) -> None:
    """Run each kind of load once, so that no round pays for imports and first allocations."""
    for mode, connections, count in (("bulk", 1, 32 << 20), ("connect", 8, 200)):
        with server.load(mode, connections, count, 0.3) as load:
            load.run()


def run_load(server: Server, load: Load, seconds: float) -> dict[str, float]:
    """Run one load through one server."""
    with server.load(load.mode, load.connections, load.limit, seconds) as running:
        if not load.on_one_processor:
            return timed(server, running, load)
        with processes.on_one_processor([running.pid, *server.pids]):
            return timed(server, running, load)


def timed(server: Server, running: LoadProcess, load: Load) -> dict[str, float]:
    """One run of a load whose connections are open: cost and time per unit of work."""
    if server.contestant is None:
        return speed(load, running.run())
    lines = server.lines()
    before = processes.cpu_seconds(server.pid)
    result = running.run()
    server.fetch_metrics()
    time.sleep(server.contestant.settle_seconds)
    cpu_seconds = processes.cpu_seconds(server.pid) - before
    if server.contestant.log and load.mode == "connect":
        check_lines(server.contestant, server.lines() - lines, result["done"])
    return cost(load, result["done"], cpu_seconds) | speed(load, result)


def check_lines(contestant: Contestant, lines: int, connections: int) -> None:
    """A log that loses lines costs less than one that has them all, and counts for nothing.

    Those that find the queue of a datagram socket full are lost, and each has cost its system call.

    :raises BenchmarkError: too many are missing.
    """
    least = connections * (1 - MOST_LOST_BY_SYSLOG if contestant.log == SYSLOG else 1)
    if lines < least:
        raise BenchmarkError(f"the log has {lines} lines of {connections} connections")


def cost(load: Load, done: int, cpu_seconds: float) -> dict[str, float]:
    if not done:
        raise BenchmarkError("nothing was done in time")
    if load.is_bulk:
        return {"cpu_s_per_gb": cpu_seconds / done * 1e9}
    return {"cpu_us": cpu_seconds / done * 1e6}


def speed(load: Load, result: dict[str, Any]) -> dict[str, float]:
    if not result["done"]:
        raise BenchmarkError("nothing was done in time")
    per_second = result["done"] / result["seconds"]
    if load.is_bulk:
        return {"gb_per_s": per_second / 1e9}
    latencies = {key: result[key] for key in ("p50_us", "p99_us") if key in result}
    return {"per_s": per_second} | latencies


def run_held(server: Server, held: int, seconds: float) -> dict[str, float]:
    """Measure memory with thousands of idle connections, and the cost of a message among them.

    The memory to compare with is read after a few connections: what is imported or allocated once,
    with the first of them, does not belong to any connection. When all have closed, as many are
    made once more: what the first have left and is free, those can use.
    """
    messages = LOADS_BY_NAME["messages-64"]
    fresh = processes.rss_bytes(server.pid)
    with server.load("messages", FEW, FEW, seconds) as running:
        with_few = timed(server, running, messages)
    start = quiet_rss_bytes(server)
    in_use = bytes_in_use(server)
    with server.load("messages", held, FEW, seconds) as running:
        full = quiet_rss_bytes(server)
        with_many = timed(server, running, messages)
        full = max(full, processes.rss_bytes(server.pid))
    after = quiet_rss_bytes(server)
    in_use_after = bytes_in_use(server)
    with server.load("messages", held, FEW, seconds):
        again = quiet_rss_bytes(server)
    figures = {
        "connections": held,
        "fresh_bytes": fresh,
        "start_bytes": start,
        "held_bytes": full,
        "after_bytes": after,
        "again_bytes": again,
        "bytes_per_connection": (full - start) / held,
        "after_by_start": after / start,
        "again_by_first": again / full,
        "few_cpu_us": with_few["cpu_us"],
        "many_cpu_us": with_many["cpu_us"],
        "growth": with_many["cpu_us"] / with_few["cpu_us"],
    }
    if in_use:
        figures |= {"in_use_bytes": in_use, "in_use_after_bytes": in_use_after}
        figures["in_use_after_by_start"] = in_use_after / in_use
    return figures


def bytes_in_use(server: Server) -> int:
    """How much of its memory is in use; 0 of a forwarder that does not say."""
    if server.contestant is None or not server.contestant.says_memory_in_use:
        return 0
    return server.bytes_in_use()


def run_tls_held(server: Server, held: int) -> dict[str, float]:
    """Measure the memory of idle TLS connections; see :func:`run_held`."""
    with server.load("held", FEW, FEW, 0) as running:
        running.run()
    start = quiet_rss_bytes(server)
    with server.load("held", held, held, 0) as running:
        running.run()
        full = quiet_rss_bytes(server)
    return {"connections": held, "bytes_per_connection": (full - start) / held}


def run_stalled(server: Server, stalled: int) -> dict[str, float]:
    """Measure the memory that a forwarder uses for clients that request much and read nothing."""
    with server.load("messages", FEW, FEW, 0) as running:
        running.run()
    start = quiet_rss_bytes(server)
    with server.load("stall", stalled, STALLED_BYTES, 0) as running:
        running.run()
        memory = quiet_rss_bytes(server) - start
        pipes = processes.pipe_bytes(server.pid)
    return {
        "connections": stalled,
        "bytes_each": (memory + pipes) / stalled,
        "pipe_bytes_each": pipes / stalled,
    }


def quiet_rss_bytes(server: Server) -> int:
    """Resident memory after all pending work is done."""
    processes.wait_until_quiet(server.pid)
    return processes.rss_bytes(server.pid)
