"""Whether anything can make the data path wait: the longest turn of the loop under each attack."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from benchmarks import processes
from benchmarks.servers import LoadProcess
from monconn.faces.control.client import Client
from soak.loads import metrics_url, verb
from soak.process import Monconn, SoakError

ATTACK_SECONDS = 3.0
MOST_TURN_SECONDS = 0.020
"""Processor time of the longest turn: what one party may make all others wait for."""


@attrs.frozen
class Outcome:
    """What one attack did.

    :param name: what was tried.
    :param turn_seconds: processor time of the longest turn.
    :param wall_seconds: the longest turn by the clock, the machine's other work included.
    :param trip_seconds: the worst round trip of another service's client.
    :param memory_bytes: the highest resident memory.
    :param faults: what else was wrong.
    """

    name: str
    turn_seconds: float
    wall_seconds: float
    trip_seconds: float
    memory_bytes: int
    faults: list[str]

    def __str__(self) -> str:
        return (
            f"{self.name:<56}{self.turn_seconds * 1e3:6.1f}{self.wall_seconds * 1e3:6.0f}"
            f"{self.trip_seconds * 1e3:7.0f}{self.memory_bytes >> 20:5d}"
        )


LEGEND = (
    "attacks; in ms: the longest turn of the loop in processor time and by the clock, and the"
    " worst round trip of another service's client; memory at its highest"
)
HEADER = f"{'':<56}{'turn':>6}{'clock':>6}{'trip':>7}{'MiB':>5}"


class Isolation:
    """Attacks on one monconn, one after the other.

    :param monconn: what is attacked.
    :param load_program: what ``compile_load`` made.
    :param scale: of the numbers of connections, below 1 for a small machine.
    :param seconds: how long each goes on at least.
    """

    def __init__(
        self,
        monconn: Monconn,
        load_program: Path,
        scale: float,
        seconds: float = ATTACK_SECONDS,
    ) -> None:
        self._monconn = monconn
        self._place = monconn.place
        self._load = str(load_program)
        self._scale = scale
        self._seconds = seconds
        self._faults: list[str] = []

    def outcomes(self) -> Iterator[Outcome]:
        """Try each attack."""
        place = self._place
        with self._held(self._count(3000)):
            live = f"{self._count(3000):,} live"
            yield self._try(
                f"8 control clients pipeline and never read, {live}",
                self._strangers("control_pipelined", place.control, 8),
                self._verbs_are_answered,
            )
            yield self._try(
                "16 scrapers pipeline, half never read",
                self._strangers("metrics_pipelined", place.metrics, 16),
                self._scrapes_are_answered,
            )
            yield self._try(
                "64 scrapers dribble a byte every 2 s",
                self._strangers("metrics_dribbled", place.metrics, 64),
                self._scrapes_are_answered,
            )
            yield self._try(
                f"list, ip, devices, history, report in turn, {live}",
                contextlib.nullcontext(),
                self._all_listings,
            )
        yield self._try(
            "50 clients wait for a name that is never resolved",
            self._strangers("names", place.names, 50),
            self._scrapes_are_answered,
        )
        clients = self._count(4000)
        yield self._try(
            f"{clients:,} clients of a UNIX backend whose queue is full",
            self._strangers("waiting", place.full_queue, clients),
        )
        clients = self._count(8000)
        yield self._try(
            f"{clients:,} relays reset while their peers do not read",
            self._strangers("resets", place.deaf, clients),
        )
        yield self._try(
            "300 TLS handshakes begun at once, again and again",
            self._strangers("hellos", place.tls, 300),
        )
        yield self._try("SSH strangers try keys", contextlib.nullcontext(), self._try_keys)
        clients = self._count(8000)
        with self._held(clients):
            yield self._try(
                f"close --reset of {clients:,} connections",
                contextlib.nullcontext(),
                lambda: verb(place, "close", "--reset", "service:plain"),
            )
        clients = self._count(5000)
        blocks = self._count(10_000)
        with self._held(clients):
            yield self._try(
                f"{blocks:,} blocks one after the other, {clients:,} live",
                contextlib.nullcontext(),
                lambda: self._block(blocks),
            )
        self._monconn.ask("fill_addresses")
        yield self._try(
            "120,000 client addresses and all blocks listed",
            contextlib.nullcontext(),
            self._list_addresses,
        )

    def _count(self, number: int) -> int:
        return max(int(number * self._scale), 1)

    def _try(
        self,
        name: str,
        strangers: contextlib.AbstractContextManager[object],
        meanwhile: Callable[[], object] | None = None,
    ) -> Outcome:
        """One attack, with a look at what everybody else feels."""
        self._faults = []
        self._monconn.ask("longest_turn")  # begins anew
        peak = _Peak(self._monconn.pid)
        with peak, self._ping() as trips, strangers:
            ends = time.monotonic() + self._seconds
            try:
                if meanwhile is not None:
                    meanwhile()
            except (OSError, subprocess.SubprocessError) as error:
                self._faults.append(f"meanwhile: {error}")
            time.sleep(max(ends - time.monotonic(), 0))
        turn = self._monconn.ask("longest_turn")
        if turn["cpu_seconds"] > MOST_TURN_SECONDS:
            self._faults.append(f"a turn took {turn['cpu_seconds'] * 1e3:.0f} ms")
        if not trips:
            self._faults.append("another service's client was cut off")
        return Outcome(
            name,
            turn["cpu_seconds"],
            turn["wall_seconds"],
            trips[1] if trips else -1,
            peak.bytes,
            self._faults,
        )

    @contextlib.contextmanager
    def _held(self, count: int) -> Iterator[None]:
        command = [self._load, "messages", str(self._place.plain), str(count), "1", "0"]
        with LoadProcess(command):
            yield

    @contextlib.contextmanager
    def _strangers(self, name: str, *arguments: object) -> Iterator[None]:
        with _process(name, *arguments):
            yield

    @contextlib.contextmanager
    def _ping(self) -> Iterator[list[float]]:
        """Gives the median and the worst round trip, in the end; nothing if it was cut off."""
        trips: list[float] = []
        with _process("ping", self._place.devices) as process:
            yield trips
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            trips += [float(each) for each in process.stdout.readline().split()]
            if trips and trips[0] < 0:
                trips.clear()

    # -- what happens meanwhile

    def _scrapes_are_answered(self) -> None:
        ends = time.monotonic() + self._seconds
        while time.monotonic() < ends:
            with urllib.request.urlopen(metrics_url(self._place), timeout=5) as answer:
                if b"monconn_connections{" not in answer.read():
                    self._faults.append("a scrape is incomplete")
            time.sleep(0.5)

    def _verbs_are_answered(self) -> None:
        verb(self._place, "stats", "--json")
        verb(self._place, "list", "--json", "--sort", "rate")

    def _all_listings(self) -> None:
        for arguments in (
            ("list", "--json"),
            ("list", "nothing-has-this"),
            ("list", "--sort", "idle", "unreachable:0.."),
            ("ip",),
            ("devices",),
            ("stats",),
            ("history", "--json"),
            ("history", "--events"),
            ("report",),
        ):
            verb(self._place, *arguments)

    def _try_keys(self) -> None:
        key = f"{self._place.folder}/stranger_key"
        if not os.path.exists(key):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        ends = time.monotonic() + self._seconds
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no"]
        options += ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        command = ["ssh", "-p", str(self._place.manhole), "-i", key, "127.0.0.1", "list"]
        for option in options:
            command[1:1] = ["-o", option]
        while time.monotonic() < ends:
            tries = [
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for _ in range(4)
            ]
            if not all(each.wait(30) for each in tries):
                raise SoakError("a stranger's key opened the manhole")

    def _block(self, count: int) -> None:
        with Client(f"unix:{self._place.control}") as client:
            for number in range(count):
                client.call("Block", network=f"198.18.{number >> 8}.{number & 255}")

    def _list_addresses(self) -> None:
        for arguments in (("ip", "--json"), ("stats", "--json"), ("blocks", "--json")):
            verb(self._place, *arguments)


class _Peak:
    """Samples a process's resident memory while its block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.bytes = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.bytes = max(self.bytes, processes.rss_bytes(self._pid))


@contextlib.contextmanager
def _process(name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "soak.strangers", name, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "begun\n":
            raise SoakError(f"{name} has not begun")
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
