"""A running monconn for the tests of the page: with backends, clients, devices and a history."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from monconn.faces.cli import demo_mqtt as mqtt
from tests.e2e.programs import SCRIPTS, Backend, Monconn, connect, echo, free_port, until

PATIENCE_SECONDS = 20.0
"""How long the page may take to show something, on a busy machine."""
DEVICES = {"pump-1": "127.0.0.11", "meter-2": "127.0.0.12", "valve-4": "127.0.0.14"}
"""The devices of the service ``mqtt`` by their names, with their addresses."""
CLIENTS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
"""The clients of the service ``web``."""
STRANGE_NAME = "<img src=x onerror=alert(1)>\u202e\x07"
"""The name of a device that means no good; not connected unless a test wants it."""
_READING_SECONDS = 0.5


class Site:
    """monconn with the services ``web`` (an echo) and ``mqtt`` (a broker), and an HTTP port.

    It listens on the same ports after a restart. Each device sends a reading twice a second.

    :param folder: for its configuration, history, tokens and control socket.
    :param settings: more of the configuration, at its top.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ports = {"web": free_port(), "mqtt": free_port()}
        self._environment = {
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        for place in self._environment.values():
            Path(place).mkdir(mode=0o700)
        self._backends = {"web": Backend(_serve_echo), "mqtt": Backend(_serve_mqtt)}
        services = {
            name: {
                "listen": f"127.0.0.1:{port}",
                "backend": f"127.0.0.1:{self._backends[name].port}",
                "recorder": True,
            }
            for name, port in self.ports.items()
        }
        services["mqtt"]["decode"] = "mqtt"
        self.config = folder / "monconn.yaml"
        self.settings: dict[str, object] = {
            "services": services,
            "history": {"path": str(folder / "history.db")},
            "http": {"listen": f"127.0.0.1:{self.port}"},
            **settings,
        }
        self.config.write_text(json.dumps(self.settings), encoding="utf-8")  # JSON is YAML
        self.logged_in: Any = None
        """What a browser keeps that has logged in, once one has."""
        self._monconn: Monconn | None = None
        self._sockets: list[socket.socket] = []
        self._devices: list[socket.socket] = []
        self._stopped = threading.Event()
        self.start()
        self._readings = threading.Thread(target=self._send_readings, daemon=True)
        self._readings.start()

    # -- monconn

    def start(self) -> None:
        """Start monconn, and wait until it serves."""
        folder = self.folder
        self._monconn = Monconn("monconn", ("-c", self.config), folder, env=self._environment)
        for name in self.ports:
            self._monconn.port(name)
        until(lambda: _listens(self.port), "the HTTP port")

    def stop(self) -> None:
        """End monconn in good order, without waiting for live connections; the page is left
        without its server."""
        assert self._monconn is not None
        self._monconn.send(signal.SIGTERM)
        process = self._monconn.program.process
        until(lambda: "a second signal" in self.log or process.poll() is not None, "its end")
        self._monconn.send(signal.SIGTERM)
        self._monconn.status()
        self._monconn.close()
        self._monconn = None

    @property
    def log(self) -> str:
        """What monconn has written since its start."""
        assert self._monconn is not None
        return str(self._monconn.log)

    def command(self, *words: str) -> str:
        """Run ``monconn WORDS`` for this server; what it prints."""
        done = subprocess.run(
            [SCRIPTS / "monconn", *words],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"monconn {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def link(self, *options: str) -> str:
        """A link that logs in, once."""
        found = re.search(r"https?://\S+", self.command("web", "--print", *options))
        assert found is not None
        return found[0]

    # -- clients

    def connect(self, service: str = "web", client: str = CLIENTS[0]) -> socket.socket:
        """Connect a client, from an address of 127.0.0.0/8; closed with the site."""
        made = socket.create_connection(
            ("127.0.0.1", self.ports[service]), PATIENCE_SECONDS, (client, 0)
        )
        self._sockets.append(made)
        return made

    def device(self, name: str, client: str) -> socket.socket:
        """Connect an MQTT device."""
        made = self.connect("mqtt", client)
        made.sendall(mqtt.connect(name, 60, "test"))
        assert made.recv(100) == mqtt.accepted()
        self._devices.append(made)
        return made

    def usual_clients(self) -> None:
        """Connect :data:`DEVICES` and :data:`CLIENTS`, and have some connections end."""
        for name, client in DEVICES.items():
            self.device(name, client)
        for client in CLIENTS:
            exchange(self.connect("web", client), b"hello\n")
        for client in CLIENTS:
            with self.connect("web", client) as ended:
                exchange(ended, b"a" * 1000)
        reset = self.connect("web", CLIENTS[2])
        exchange(reset, b"b")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0] + 4 * [0]))
        reset.close()

    def _send_readings(self) -> None:
        while not self._stopped.wait(_READING_SECONDS):
            for each in tuple(self._devices):
                with suppress(OSError):
                    each.sendall(mqtt.publish("reading", b'{"celsius": 41.2}'))

    def close(self) -> None:
        """End all that was started."""
        self._stopped.set()
        self._readings.join()
        for each in self._sockets:
            each.close()
        if self._monconn is not None:
            self._monconn.close()
        for backend in self._backends.values():
            backend.close()


def exchange(client: socket.socket, data: bytes) -> None:
    """Send to the service ``web``, and wait until all of it has come back."""
    client.sendall(data)
    left = len(data)
    while left:
        piece = client.recv(left)
        assert piece, "the connection has ended"
        left -= len(piece)


def _listens(port: int) -> bool:
    try:
        connect(port).close()
    except OSError:
        return False
    return True


def _serve_echo(client: socket.socket) -> None:
    client.settimeout(None)  # clients stay as long as the tests of a module take
    echo(client)


def _serve_mqtt(client: socket.socket) -> None:
    packets = mqtt.Packets()
    client.settimeout(None)
    while data := client.recv(65536):
        for kind, _, _ in packets.of(data):
            if kind == mqtt.CONNECT:
                client.sendall(mqtt.accepted())
            elif kind == mqtt.PINGREQ:
                client.sendall(mqtt.alive())
            elif kind == mqtt.DISCONNECT:
                return
