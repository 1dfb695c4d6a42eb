"""Starts the real command and other programs, waits for what they do, and ends each by its id."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from tests import ROOT

HANG_SECONDS = 30.0
"""The time limit of any single step on a busy machine; beyond, the test fails."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
TAC = ROOT / "monconn.tac"
LAUNCHERS = ("monconn", "twistd -n", "twistd", "twist", "twistd -y")

# Waits for the daemon as well, which the test cannot: the daemon is not its child.
_REAPER = """
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
print("launched with status", subprocess.call(sys.argv[1:]), flush=True)
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError:
        break
    print("process", pid, "ended with status", os.waitstatus_to_exitcode(status), flush=True)
"""

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "it") -> T:
    """Wait until a condition is true; return its value."""
    give_up = time.monotonic() + HANG_SECONDS
    while not (result := condition()):
        assert time.monotonic() < give_up, f"{what} never came to be"
        time.sleep(0.005)
    return result


class Text:
    """What a program has written so far, as a thread reads it from a pipe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._bytes = b""
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self._stream.fileno(), 65536):
            with self._changed:
                self._bytes += piece
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __str__(self) -> str:
        with self._changed:
            return self._bytes.decode()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a regular expression is found."""
        found = None

        def seen() -> bool:
            nonlocal found
            found = re.search(pattern, self._bytes.decode(errors="replace"), re.MULTILINE)
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(seen, HANG_SECONDS)
        assert found is not None, f"{pattern!r} is not in {str(self)!r}"
        return found

    def close(self) -> None:
        self._thread.join(HANG_SECONDS)
        self._stream.close()


class FileText:
    """What a program has written so far to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return self._path.read_text() if self._path.exists() else ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a regular expression is found."""
        found = until(lambda: re.search(pattern, str(self), re.MULTILINE), f"{pattern!r}")
        assert found is not None
        return found


class Program:
    """A program that runs, and is killed by :meth:`close` if it still does.

    :param argv: its path and its arguments.
    :param env: variables beside ours.
    :param stdout: a descriptor for its standard output; a pipe that is read if left out.
    :param pass_fds: descriptors that it is to have, too.
    :param before: called in the new process before the program.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
        before: Callable[[], object] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            pass_fds=pass_fds,
            preexec_fn=before,
            # Without a controlling terminal, wherever the tests run: SIGHUP depends on it.
            start_new_session=True,
            # If the user has set the variable, buffering of output would not be tested.
            env={**os.environ, "PYTHONUNBUFFERED": "", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        self.err = Text(self.process.stderr)
        self.out = self.err if self.process.stdout is None else Text(self.process.stdout)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for its end; its exit status."""
        try:
            return self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args!r} hangs: {self.out} {self.err}") from None

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self.process.kill()
        self.process.wait()
        for text in {self.out, self.err}:
            text.close()


class Monconn:
    """The services under one of :data:`LAUNCHERS`.

    :param how: which launcher.
    :param options: ``-c FILE`` or ``-p …``.
    :param folder: to run in.
    :param before: called in the new process before the program.
    """

    def __init__(
        self,
        how: str,
        options: Sequence[str | Path],
        folder: Path,
        *,
        env: dict[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.log: Text | FileText
        self._pid_file = folder / "twistd.pid"
        self._is_daemon = how == "twistd"
        self._daemon_pid = 0
        argv = [*_launcher(how, folder), *options]
        if how == "twistd -y":
            env = {**(env or {}), "MONCONN_CONFIG": str(options[1])}
            argv = [*_launcher(how, folder), "-y", TAC]
        self.program = Program(argv, cwd=folder, env=env, stdout=stdout, before=before)
        if self._is_daemon:
            self.log = FileText(folder / "twistd.log")
        else:
            self.log = self.program.out

    def port(self, service: str = ".*") -> int:
        """Wait until a service on a TCP port listens; its port."""
        listening = rf"{service}: listening on [^,]*?:(\d+)[:,]"
        return int(self.log.wait_for(listening)[1])

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid(), number)

    def _pid(self) -> int:
        if not self._is_daemon:
            return self.program.process.pid
        if not self._daemon_pid:  # it takes the file away at its end
            self._daemon_pid = int(self._pid_file.read_text())
        return self._daemon_pid

    def status(self) -> int:
        """Wait for its end; its exit status."""
        if not self._is_daemon:
            return self.program.status()
        assert self.program.status() == 0
        launched = self.program.out.wait_for(r"launched with status (\d+)")
        if launched[1] != "0":
            return int(launched[1])
        end = rf"process {self._daemon_pid} ended with status (-?\d+)"
        return int(self.program.out.wait_for(end)[1])

    def stop(self) -> int:
        """Stop it in good order; its exit status."""
        self.send(signal.SIGTERM)
        return self.status()

    def close(self) -> None:
        """End it, whatever it does."""
        if self._is_daemon:  # a daemon is adopted by the reaper once its parent has ended
            until(lambda: not _kill_children(self.program.process), "the end of the daemon")
        self.program.close()


def _kill_children(parent: subprocess.Popen[bytes]) -> list[int]:
    """Kill the children that a process has at this moment; which."""
    if parent.poll() is not None:
        return []
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_child(path, parent)]
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return children


def _is_child(path: Path, parent: subprocess.Popen[bytes]) -> bool:
    try:
        return f"\nPPid:\t{parent.pid}\n" in (path / "status").read_text()
    except OSError:  # it has ended
        return False


def _launcher(how: str, folder: Path) -> list[str | Path]:
    if how == "monconn":
        return [SCRIPTS / "monconn"]
    if how == "twist":
        return [SCRIPTS / "twist", "--log-format=text", "monconn"]
    twistd: list[str | Path] = [SCRIPTS / "twistd", f"--pidfile={folder / 'twistd.pid'}"]
    if how == "twistd":
        return [sys.executable, "-c", _REAPER, *twistd, "monconn"]
    return [*twistd, "-n", "monconn"] if how == "twistd -n" else [*twistd, "-n"]


def _first_free(host: str, ports: Iterable[int]) -> socket.socket:
    for port in ports:
        try:
            return socket.create_server((host, port), family=_family(host), backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("no port is free")


class Backend:
    """Listens on a port of the loopback, and serves each client in a thread.

    :param serve: called with each client's socket, which is closed afterwards.
    :param ports: the first of them that is free is used.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], object],
        host: str = "127.0.0.1",
        ports: Iterable[int] = (0,),
    ) -> None:
        self._listener = _first_free(host, ports)
        self.port = int(self._listener.getsockname()[1])
        self._serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def _serve_one(self, client: socket.socket) -> None:
        with client:
            try:
                client.settimeout(HANG_SECONDS)
                self._serve(client)
            except OSError:  # the test has ended the connection
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept up
        self._listener.close()


def echo(client: socket.socket) -> None:
    """Send back what comes."""
    while piece := client.recv(65536):
        client.sendall(piece)


def write_config(folder: Path, **services: Mapping[str, object]) -> Path:
    """A configuration file with these services."""
    path = folder / "monconn.yaml"
    path.write_text(json.dumps({"services": services}))  # JSON is YAML
    return path


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A client's socket."""
    return socket.create_connection((host, port), timeout=HANG_SECONDS)


def receive(client: socket.socket, count: int) -> bytes:
    """Exactly this many bytes, or fewer if the other side ends before."""
    pieces = []
    while count and (piece := client.recv(min(count, 65536))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def is_refused(port: int) -> bool:
    """Whether a port of the loopback has no listener any more."""
    with socket.socket() as client:
        client.settimeout(HANG_SECONDS)
        return client.connect_ex(("127.0.0.1", port)) != 0


def free_port(host: str = "127.0.0.1") -> int:
    """A port for a program that cannot be asked which one it took."""
    with socket.create_server((host, 0), family=_family(host)) as listener:
        return int(listener.getsockname()[1])


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a port has a listener."""
    with socket.socket(_family(host)) as client:
        return client.connect_ex((host, port)) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
