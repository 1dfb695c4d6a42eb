"""Starts a contestant with a backend behind it, and runs loads through it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.contestants import (
    CERTIFICATE_FILES,
    SYSLOG,
    TLS,
    Contestant,
    Place,
    nginx_module,
    program,
)

ROOT = Path(__file__).parent.parent
START_SECONDS = 10.0
REPORT_SECONDS = 5.0
POLL_SECONDS = 0.002
MESSAGE = b"E".ljust(64, b"\0")


class BenchmarkError(Exception):
    """Something failed, so that the measurement is not valid."""


class StartError(BenchmarkError):
    """A forwarder did not start."""


def compile_load(folder: Path) -> Path:
    """Build the load generator.

    :raises BenchmarkError: there is no C compiler, or it does not like the source.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchmarkError("no C compiler (cc) is installed, and the load generator needs one")
    output = folder / "load"
    source = str(ROOT / "benchmarks" / "load.c")
    command = [compiler, "-O2", "-Wall", "-o", str(output), source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{compiler} failed:\n{done.stderr}")
    return output


class LoadProcess:
    """One load; its connections are open within the ``with`` block, and each ``run`` is measured.

    :param command: ``load.c`` or ``tls_load.py``, and what to do.
    :raises BenchmarkError: from entering or ``run``, if anything failed.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: Any = None

    def __enter__(self) -> LoadProcess:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.opened = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def run(self) -> dict[str, Any]:
        """Run once more; returns the amount of work, its duration, and latencies."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # each load has a deadline of its own
        if not line:
            raise BenchmarkError(f"the load ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("errors"):
            raise BenchmarkError(answer["first_error"])
        return answer

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(processes.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            processes.stop(self._process)
        self._process.stdout.close()


class Server:
    """A backend and, unless it is None, a forwarder in front of it.

    :param folder: for its files and its log.
    :param load_program: what ``compile_load`` made.
    :param certificate: the folder that holds the files of ``make_certificate``.
    :param held: connections that must fit.
    """

    def __init__(
        self,
        contestant: Contestant | None,
        folder: Path,
        load_program: Path,
        certificate: Path,
        held: int,
    ) -> None:
        self.contestant = contestant
        self.name = contestant.name if contestant else "direct"
        self.startup_seconds = 0.0
        self._folder = folder
        self._load_program = str(load_program)
        self._certificate = certificate
        self._held = held
        self._backend: Any = None  # each a Popen while it runs
        self._forwarder: Any = None
        self._syslog: Any = None
        self._lines = self._log_offset = 0
        self._reports = 0
        self._port = 0

    @property
    def pid(self) -> int:
        """The forwarder's process id."""
        return int(self._forwarder.pid)

    @property
    def pids(self) -> list[int]:
        """The process ids of the forwarder, if there is one, and of the backend."""
        return [each.pid for each in (self._forwarder, self._backend) if each is not None]

    def is_running(self) -> bool:
        return all(
            process is not None and process.poll() is None
            for process in (self._backend, self._forwarder if self.contestant else self._backend)
        )

    def start(self) -> None:
        """Start both; returns when a byte has been forwarded.

        :raises StartError: it did not come up.
        """
        self._backend = subprocess.Popen(
            [self._load_program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        backend_port = json.loads(self._backend.stdout.readline())["port"]
        self._port = backend_port
        if self.contestant is not None:
            self._start_forwarder(self.contestant, backend_port)

    def _start_forwarder(self, contestant: Contestant, backend_port: int) -> None:
        self._folder.mkdir(mode=0o755)
        self._port = free_port()
        module = nginx_module() if contestant.name.startswith("nginx") else None
        place = Place(self._port, backend_port, self._folder, self._held, module or "")
        for name, text in contestant.files(place).items():
            (self._folder / name).write_text(text)
        for name in CERTIFICATE_FILES if contestant.loads == TLS else ():
            shutil.copy(self._certificate / name, self._folder)
        if contestant.log == SYSLOG:
            self._start_syslog()
        command = contestant.command(place)
        command[0] = program(command[0]) or command[0]
        since = time.monotonic()
        with (self._folder / "log").open("wb") as log:
            self._forwarder = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_for_first_byte(since, contestant.loads == TLS)
        self.startup_seconds = time.monotonic() - since

    def _wait_for_first_byte(self, since: float, is_tls: bool) -> None:
        while not first_byte(self._port, is_tls):
            if self._forwarder.poll() is not None or time.monotonic() > since + START_SECONDS:
                log = (self._folder / "log").read_text(errors="replace").split("\n")
                last = next((line for line in reversed(log) if line), "it said nothing")
                raise StartError(f"did not start: {last[:200]}")
            time.sleep(POLL_SECONDS)

    def _start_syslog(self) -> None:
        """Start what reads the socket: else lines are lost as soon as its queue is full."""
        self._syslog = subprocess.Popen(
            [self._load_program, "syslog", str(self._folder / SYSLOG)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._syslog.stdout.readline()

    def lines(self) -> int:
        """How many lines the log of its connections has; 0 if there is none."""
        if self._syslog is not None:
            self._syslog.stdin.write("how many?\n")
            self._syslog.stdin.flush()
            return int(json.loads(self._syslog.stdout.readline())["lines"])
        if self.contestant is not None and self.contestant.log:
            with (self._folder / self.contestant.log).open("rb") as log:
                log.seek(self._log_offset)
                while piece := log.read(1 << 20):
                    self._lines += piece.count(b"\n")
                self._log_offset = log.tell()
        return self._lines

    def fetch_metrics(self) -> None:
        """Fetch the metrics, if there are any.

        :raises BenchmarkError: what came is no such answer.
        """
        if self.contestant is None or not self.contestant.metrics:
            return
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self._folder / self.contestant.metrics))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        if not answer.startswith(b"HTTP/1.1 200") or b"monconn_connections" not in answer:
            raise BenchmarkError("there are no metrics")

    def bytes_in_use(self) -> int:
        """How much of its memory ``in_use.py`` uses.

        :raises BenchmarkError: it does not say.
        """
        self._reports += 1
        self._forwarder.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < deadline:
            log = (self._folder / "log").read_text(errors="replace")
            malloc = re.findall(r"^# bytes in use by malloc = (\d+)$", log, re.MULTILINE)
            if len(malloc) == self._reports:
                blocks = re.findall(
                    r"^# bytes in allocated blocks += +([\d,]+)$", log, re.MULTILINE
                )
                return int(malloc[-1]) + int(blocks[-1].replace(",", ""))
            time.sleep(POLL_SECONDS)
        raise BenchmarkError("it does not say how much memory is in use")

    def load(self, mode: str, connections: int, count: int, seconds: float) -> LoadProcess:
        """A load through the forwarder, as ``load.c`` and ``tls_load.py`` name them."""
        arguments = [mode, str(self._port), str(connections), str(count), str(seconds)]
        if self.contestant is not None and self.contestant.loads == TLS:
            tls_load = str(ROOT / "benchmarks" / "tls_load.py")
            return LoadProcess([sys.executable, tls_load, *arguments])
        return LoadProcess([self._load_program, *arguments])

    def terminate(self) -> None:
        """Ask the forwarder to stop, without waiting for it."""
        if self._forwarder is not None:
            self._forwarder.terminate()

    def stop(self) -> None:
        """Stop both, and remove the files."""
        if self._forwarder is not None:
            processes.stop(self._forwarder)
        for helper in (self._backend, self._syslog):
            if helper is not None:
                helper.stdin.close()
                helper.stdout.close()
                processes.stop(helper)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _environment(folder: Path) -> dict[str, str]:
    """This process's environment without variables that change Python, and with an empty home."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return inherited | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}


def free_port() -> int:
    """A port that is free at present."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def first_byte(port: int, is_tls: bool) -> bool:
    """Whether a message comes back through a port; with TLS, whether it accepts a connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            if is_tls:
                return True
            sock.sendall(MESSAGE)
            return sock.recv(1) == MESSAGE[:1]
    except OSError:
        return False
