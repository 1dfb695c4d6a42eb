"""How exact bandwidths are, and what they cost others: ``python -m benchmarks.bandwidth``.

For each case monconn forwards with a bandwidth for ten seconds, from the first byte on, as fast as
it takes bytes. Bytes are counted where they arrive. Meanwhile a message of 64 bytes goes back and
forth through another service of the same process, which has no bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10.0
CASES = (
    # bytes a second, of what, direction, connections
    *[
        (rate, "connection", way, 1)
        for rate in (1 << 16, 1 << 20, 100 << 20)
        for way in ("up", "down")
    ],
    *[
        (rate, "service", way, 50)
        for rate in (1 << 16, 1 << 20, 100 << 20)
        for way in ("up", "down")
    ],
    (400 << 20, "service", "down", 50),
    (1 << 20, "connection", "down", 50),
)
MESSAGE = b"m".ljust(64)
BUFFER = bytearray(1 << 18)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def listening() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=256)
    sock.settimeout(10)
    return sock


@contextmanager
def monconn(services: dict[str, Any]) -> Iterator[int]:
    """monconn with some services; gives its process id."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "monconn.yaml"
        config.write_text(json.dumps({"services": services, "control": False}))
        program = Path(sys.executable).with_name("monconn")
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [str(program), "-c", str(config)], stdout=file, stderr=subprocess.STDOUT
            )
        try:
            while output.read_text().count("listening on") < len(services):
                assert process.poll() is None, output.read_text()
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def move(senders: list[socket.socket], receivers: list[socket.socket]) -> list[int]:
    """Send as fast as possible; count what arrives on each in ten seconds from the first byte."""
    with selectors.DefaultSelector() as selector:
        for sock in senders:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_WRITE)
        counts = dict.fromkeys(receivers, 0)
        for sock in receivers:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        ends = None
        data = bytes(1 << 18)
        while ends is None or time.monotonic() < ends:
            for key, events in selector.select(0.05):
                ready: Any = key.fileobj
                if events & selectors.EVENT_WRITE:
                    ready.send(data)
                else:
                    count = ready.recv_into(BUFFER)
                    if ends is None:
                        ends = time.monotonic() + SECONDS
                    if time.monotonic() < ends:
                        counts[ready] += count
    return list(counts.values())


def ping(port: int) -> None:
    """Send a message each 5 ms until the input ends; print how long they took, in seconds."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took, ends = [], time.monotonic() + SECONDS
        while time.monotonic() < ends:
            began = time.monotonic()
            sock.sendall(MESSAGE)
            assert sock.recv(64) == MESSAGE
            took.append(time.monotonic() - began)
            time.sleep(0.005)
    print(json.dumps(took))


def echo(port: int) -> None:
    """Be the neighbour's backend, for one client."""
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        client, _ = server.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while piece := client.recv(4096):
            client.sendall(piece)


def run_case(rate: int, scope: str, way: str, connections: int) -> dict[str, Any]:
    front, neighbour, echo_port = free_port(), free_port(), free_port()
    with listening() as server:
        limited: dict[str, Any] = {
            "listen": f"127.0.0.1:{front}",
            "backend": f"127.0.0.1:{server.getsockname()[1]}",
        }
        if rate:
            name = "bandwidth" if scope == "service" else "per_connection_bandwidth"
            limited[name] = {way: f"{rate >> 10}KiB/s"}
        services = {
            "limited": limited,
            "neighbour": {
                "listen": f"127.0.0.1:{neighbour}",
                "backend": f"127.0.0.1:{echo_port}",
            },
        }
        me = [sys.executable, "-m", "benchmarks.bandwidth"]
        with monconn(services) as pid:
            echoing = subprocess.Popen([*me, "--echo", str(echo_port)], stdout=subprocess.PIPE)
            assert echoing.stdout is not None
            echoing.stdout.readline()
            pairs = []
            for _ in range(connections):
                client = socket.create_connection(("127.0.0.1", front))
                pairs.append((client, server.accept()[0]))
            pinging = subprocess.Popen([*me, "--ping", str(neighbour)], stdout=subprocess.PIPE)
            clients, backends = [each for each, _ in pairs], [each for _, each in pairs]
            before = cpu_seconds(pid)
            senders, receivers = (clients, backends) if way == "up" else (backends, clients)
            counts = move(senders, receivers)
            used = cpu_seconds(pid) - before
            took = json.loads(pinging.communicate()[0])
            for sock in (*clients, *backends):
                sock.close()
            echoing.kill()
            echoing.wait()
    took.sort()
    total = sum(counts)
    expected = rate * SECONDS * (connections if scope == "connection" else 1)
    return {
        "off_percent": 100 * (total / expected - 1) if rate else 0.0,
        "mib_per_second": total / SECONDS / (1 << 20),
        "least_share": min(counts) / (total / connections) if total else 0.0,
        "greatest_share": max(counts) / (total / connections) if total else 0.0,
        "cpu_percent": 100 * used / SECONDS,
        "median_ms": 1e3 * statistics.median(took),
        "p99_ms": 1e3 * took[int(len(took) * 0.99)],
        "longest_ms": 1e3 * took[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ping", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of cases")
    options = parser.parse_args()
    if options.ping:
        ping(options.ping)
        return
    if options.echo:
        echo(options.echo)
        return
    print(
        "bandwidth  of          direction  connections  off     MiB/s    shares     processor"
        "  neighbour's message: median, 99 %, longest"
    )
    for number, (rate, scope, way, connections) in enumerate(CASES):
        if options.only and number not in options.only:
            continue
        found = run_case(rate, scope, way, connections)
        print(
            f"{rate >> 10:>6} KiB {scope:<12}{way:<11}{connections:<13}"
            f"{found['off_percent']:+.2f} %  {found['mib_per_second']:<9.3f}"
            f"{found['least_share']:.2f}–{found['greatest_share']:.2f}  "
            f"{found['cpu_percent']:5.1f} %    {found['median_ms']:.2f}  {found['p99_ms']:.2f}  "
            f"{found['longest_ms']:.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
