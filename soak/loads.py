"""The mixed load: every kind of client and watcher at once, and what they saw."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.servers import BenchmarkError, LoadProcess
from soak.process import Monconn, Place

MIB = 1 << 20
CHURN_AT_ONCE = 16
CHURN_COUNT = 500
MESSAGE_BYTES = 64
WATCH_SECONDS = 4.0
"""How long a watcher lives before it is killed and another one comes."""
ROOT = Path(__file__).parent.parent


class Mixed:
    """All loads at once, each in a thread or process of its own.

    :param monconn: what they go through.
    :param load_program: what ``compile_load`` made.
    :param seed: of what is random in them.
    """

    def __init__(self, monconn: Monconn, load_program: Path, seed: int) -> None:
        self._monconn = monconn
        self._place = monconn.place
        self._load = str(load_program)
        self._seed = seed
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.counts: Counter[str] = Counter()
        """What was done, by its name."""
        self.faults: list[str] = []
        """What clients and watchers found wrong."""
        self.killed_at = 0.0
        """When monconn was killed (wall-clock seconds)."""

    def run(self, seconds: float, *, killed: bool = False) -> None:
        """Run everything for a while.

        :param killed: whether monconn is killed amid it: then it is no fault that clients fail.
        """
        kinds: list[Callable[[], None]] = [
            self._churn,
            self._messages,
            self._bulk,
            self._stall,
            self._tls_churn,
            self._tls_bulk,
            self._chaos,
            self._devices,
            self._scrape,
            self._list,
            self._events,
            self._top,
        ]
        self._threads = [
            threading.Thread(target=self._guarded, args=(kind, killed), daemon=True)
            for kind in kinds
        ]
        for thread in self._threads:
            thread.start()
        self._stopped.wait(seconds)
        if killed:
            self.killed_at = time.time()
            self._monconn.kill()
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, kind: Callable[[], None], killed: bool) -> None:
        while not self._stopped.is_set():
            try:
                kind()
            except (OSError, BenchmarkError, subprocess.SubprocessError) as error:
                if killed:
                    return
                if not self._stopped.is_set():
                    self._fault(f"{kind.__name__.strip('_')}: {error}")
                self._stopped.wait(0.5)

    def _fault(self, text: str) -> None:
        with self._lock:
            self.faults.append(text)

    def _count(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self.counts[name] += int(amount)

    # -- clients

    def _generated(self, *arguments: object) -> LoadProcess:
        return LoadProcess([self._load, *map(str, arguments)])

    def _churn(self) -> None:
        """Connections with one message each, counted to the last one."""
        with self._generated("connect", self._place.churn, CHURN_AT_ONCE, CHURN_COUNT, 60) as load:
            while not self._stopped.is_set():
                self._count(churned=load.run()["done"])

    def _messages(self) -> None:
        with self._generated("messages", self._place.plain, 200, 20, 0.5) as load:
            while not self._stopped.wait(0.2):
                self._count(messages=load.run()["done"])

    def _bulk(self) -> None:
        with self._generated("bulk", self._place.plain, 2, 64 * MIB, 5) as load:
            while not self._stopped.wait(0.2):
                self._count(bulk_bytes=load.run()["done"])

    def _stall(self) -> None:
        """Clients that ask for much and read nothing, and then are gone."""
        with self._generated("stall", self._place.plain, 50, 1 << 30, 0) as load:
            load.run()
            self._stopped.wait(2)
        self._count(stalled=50)

    def _tls(self, *arguments: object) -> LoadProcess:
        program = str(ROOT / "benchmarks" / "tls_load.py")
        return LoadProcess([sys.executable, program, *map(str, arguments)])

    def _tls_churn(self) -> None:
        with self._tls("connect", self._place.tls, 2, 1 << 50, 0.5) as load:
            while not self._stopped.wait(0.1):
                self._count(tls_connections=load.run()["done"])

    def _tls_bulk(self) -> None:
        with self._tls("bulk", self._place.tls, 1, 32 * MIB, 2) as load:
            while not self._stopped.wait(0.5):
                self._count(tls_bytes=load.run()["done"])

    def _chaos(self) -> None:
        self._peers("chaos", self._place.chaos, 12, self._seed)

    def _devices(self) -> None:
        self._peers("devices", self._place.devices, 100, self._seed)

    def _peers(self, role: str, *arguments: int) -> None:
        """Clients in a process of their own, until the load ends."""
        command = [sys.executable, "-m", "soak.peers", role, *map(str, arguments)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            self._stopped.wait()
            process.stdin.close()
            for line in process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "fault" in answer:
                    self._fault(f"{role}: {answer['fault']}")
                else:
                    self._count(**{f"{role}_{name}": each for name, each in answer.items()})

    # -- watchers

    def _scrape(self) -> None:
        with urllib.request.urlopen(metrics_url(self._place), timeout=10) as answer:
            if b"monconn_connections{" not in answer.read():
                self._fault("scrape: the metrics are incomplete")
        self._count(scrapes=1)
        self._stopped.wait(1)

    def _list(self) -> None:
        done = self._verb("list", "--json", "--sort", "rate")
        json.loads(done)
        self._count(listings=1)
        self._stopped.wait(0.5)

    def _verb(self, *arguments: str) -> str:
        return verb(self._place, *arguments)

    def _events(self) -> None:
        """A reader of events that is killed now and then."""
        command = [*monconn_command(self._place, "events"), "--json"]
        with self._killed_later(command, subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                json.loads(line)
                self._count(events=1)

    def _top(self) -> None:
        """``monconn top`` on a terminal that is read."""
        terminal, theirs = pty.openpty()
        try:
            with self._killed_later(monconn_command(self._place, "top"), theirs):
                os.close(theirs)
                with contextlib.suppress(OSError):  # EIO: the program has ended
                    while os.read(terminal, 65536):
                        pass
            self._count(tops=1)
        finally:
            os.close(terminal)

    @contextlib.contextmanager
    def _killed_later(self, command: list[str], output: int) -> Iterator[subprocess.Popen[str]]:
        """A program that is killed by its id after :data:`WATCH_SECONDS`, or when the load ends."""
        process = subprocess.Popen(
            command,
            stdin=output if output != subprocess.PIPE else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TERM": "xterm-256color"},
        )

        def kill() -> None:
            self._stopped.wait(WATCH_SECONDS)
            process.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with process:
                yield process
        finally:
            killer.join()


def metrics_url(place: Place) -> str:
    return f"http://127.0.0.1:{place.metrics}/metrics"


def monconn_command(place: Place, *arguments: str) -> list[str]:
    """The command line of a verb."""
    program = str(Path(sys.executable).parent / "monconn")
    return [program, arguments[0], "--control", f"unix:{place.control}", *arguments[1:]]


def verb(place: Place, *arguments: str) -> str:
    """What a verb prints.

    :raises OSError: it fails.
    """
    done = subprocess.run(
        monconn_command(place, *arguments), capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise OSError(f"monconn {' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return done.stdout
