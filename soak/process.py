"""The monconn under test: its configuration, its process, and what it has in use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from benchmarks import processes
from benchmarks.servers import free_port

START_SECONDS = 20.0
STOP_SECONDS = 20.0
QUIET_SECONDS = 15.0


class SoakError(Exception):
    """The soak cannot go on."""


@attrs.frozen
class Backends:
    """The ports and paths of the backends."""

    checked: int
    """``load.c``: bytes that are checked on arrival."""
    behaving: int
    devices: int
    deaf: int
    full_queue: str
    """A UNIX socket that is never accepted from."""


@attrs.frozen
class Place:
    """The ports and files of the monconn under test: the same after a restart.

    :param folder: for its files.
    :param backends: whom it forwards to.
    """

    folder: Path
    backends: Backends
    churn: int = attrs.field(factory=free_port)
    plain: int = attrs.field(factory=free_port)
    tls: int = attrs.field(factory=free_port)
    chaos: int = attrs.field(factory=free_port)
    devices: int = attrs.field(factory=free_port)
    deaf: int = attrs.field(factory=free_port)
    names: int = attrs.field(factory=free_port)
    full_queue: int = attrs.field(factory=free_port)
    metrics: int = attrs.field(factory=free_port)
    manhole: int = attrs.field(factory=free_port)

    @property
    def control(self) -> str:
        return f"{self.folder}/control.sock"

    @property
    def json_log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def history(self) -> Path:
        return self.folder / "history.db"

    def configuration(self) -> dict[str, Any]:
        """The configuration, as what JSON and YAML have in common."""

        def service(port: int, backend: str, **more: Any) -> dict[str, Any]:
            return {"listen": f"127.0.0.1:{port}", "backend": backend, **more}

        certificate = {"certificate": f"{self.folder}/cert.pem", "key": f"{self.folder}/key.pem"}
        checked = f"127.0.0.1:{self.backends.checked}"
        return {
            "services": {
                "churn": service(self.churn, checked),
                "plain": service(self.plain, checked),
                "tls": service(self.tls, checked, tls=certificate),
                "chaos": service(self.chaos, f"127.0.0.1:{self.backends.behaving}"),
                "devices": service(self.devices, f"127.0.0.1:{self.backends.devices}"),
                "deaf": service(self.deaf, f"127.0.0.1:{self.backends.deaf}"),
                "names": service(self.names, "tls:never.hangs.test:443", connect_timeout="3s"),
                "full_queue": service(
                    self.full_queue, f"unix:{self.backends.full_queue}", connect_timeout="3s"
                ),
            },
            "control": {"listen": f"unix:{self.control}"},
            "metrics": {"listen": f"127.0.0.1:{self.metrics}"},
            "manhole": {
                "listen": f"127.0.0.1:{self.manhole}",
                "authorized_keys": f"{self.folder}/authorized_keys",
                "host_key": f"{self.folder}/host_key",
            },
            "history": {"path": str(self.history)},
            "json_log": {"path": str(self.json_log)},
        }


class Monconn:
    """A running monconn.

    :param place: where everything is.
    :raises SoakError: it does not start.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        path = place.folder / "monconn.yaml"
        path.write_text(json.dumps(place.configuration(), indent=1))
        self._probe_path = place.folder / "probe.sock"
        self._probe_path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "soak.under_test", str(path), str(self._probe_path)]
        self.log = place.folder / "monconn.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        since = time.monotonic()
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() - since > START_SECONDS:
                raise SoakError(f"monconn does not start:\n{self.last_lines()}")
            time.sleep(0.02)

    def _is_up(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.place.metrics), timeout=1):
                return self._probe_path.exists() and bool(self.ask("figures"))
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def ask(self, question: str) -> Any:
        """Ask the inside; see :mod:`soak.under_test`."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(os.fspath(self._probe_path))
            sock.sendall(question.encode() + b"\n")
            with sock.makefile() as stream:
                return json.loads(stream.readline())

    def quiet_figures(self) -> dict[str, int]:
        """What is in use once nothing happens any more.

        :raises SoakError: connections are live, long after all clients have left.
        """
        until = time.monotonic() + QUIET_SECONDS
        while self.ask("figures")["live"]:
            if time.monotonic() > until:
                raise SoakError(
                    f"connections are still live {QUIET_SECONDS:g} s after the load, such as"
                    f" {self.ask('live')}"
                )
            time.sleep(0.2)
        processes.wait_until_quiet(self.pid)
        figures: dict[str, int] = self.ask("figures")
        figures["resident bytes"] = processes.rss_bytes(self.pid)
        return figures

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop it in order.

        :returns: its exit status.
        :raises SoakError: it does not end.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SoakError(f"monconn did not end within {STOP_SECONDS:g} s of SIGTERM") from None
