"""A configuration's file that runs, and is changed; for the tests of reloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.wire import Echo

from monconn.model.actions import Action, Actor
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.ops.reload import ReloadResult
from monconn.run.application import Application
from monconn.run.sources import load

ADMIN = Actor.process(0, 1, "admin")


class Actions(Observer):
    """Remembers actions."""

    def __init__(self) -> None:
        self.actions: list[Action] = []

    def acted(self, action: Action) -> None:
        self.actions.append(action)


class Client(Protocol):
    """A client that knows whether its connection lives."""

    def __init__(self) -> None:
        self.is_connected = False
        self._waiting: Deferred[bytes] | None = None

    def connectionMade(self) -> None:
        self.is_connected = True

    def dataReceived(self, data: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.is_connected = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(reason)

    def ask(self) -> Deferred[bytes]:
        """Send something, and wait for the echo."""
        self._waiting = Deferred()
        assert self.transport is not None
        self.transport.write(b"x")
        return self._waiting


class World:
    """A folder with a configuration, and the program that runs it on the real reactor."""

    def __init__(self, folder: Path) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = folder
        self.file = folder / "monconn.yaml"
        self.actions = Actions()
        self.apps: list[Application] = []
        self.clients: list[Client] = []
        echo: Any = Factory.forProtocol(Echo)
        self._ports: list[Any] = [
            self.reactor.listenTCP(0, echo, interface="127.0.0.1") for _ in range(2)
        ]
        self.a, self.b = (f"127.0.0.1:{port.getHost().port}" for port in self._ports)

    def write(self, content: Any, name: str = "monconn.yaml") -> None:
        """Write a file: a text, or what JSON can say, which is YAML."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    def service(self, **keys: Any) -> dict[str, Any]:
        return {"listen": "127.0.0.1:0", "backend": self.a, **keys}

    def config(self, web: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        """A configuration without a control port, with a service."""
        return {"services": {"web": self.service(**(web or {}))}, "control": False, **sections}

    def start(self, content: Any = None) -> Application:
        """Start what the file says."""
        if content is not None:
            self.write(content)
        loaded = load(str(self.file))
        app = Application(loaded.config, self.reactor, file=loaded, show=lambda text: None)
        self.apps.append(app)
        app.registry.observe(self.actions)
        app.startService()
        return app

    @property
    def app(self) -> Application:
        return self.apps[-1]

    def monitor(self, name: str = "web") -> Monitor:
        return self.app.registry.get(name)

    def reload(self, content: Any = None, *, dry_run: bool = False) -> Deferred[ReloadResult]:
        if content is not None:
            self.write(content)
        return self.app.reload(ADMIN, dry_run=dry_run)

    async def connect(self, name: str = "web") -> Client:
        """A client whose connection through a service is established."""
        host, _, port = self.monitor(name).listen.rpartition(":")
        endpoint = clientFromString(self.reactor, f"tcp:{host}:{port}")
        client: Client = await connectProtocol(endpoint, Client())
        self.clients.append(client)
        assert await client.ask() == b"x"
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(3000):
            if condition():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it did not come about")

    async def stop_app(self) -> None:
        """Stop the program, without waiting for its connections."""
        for client in self.clients:
            if client.is_connected:
                client.transport.abortConnection()  # type: ignore[union-attr]
        stopped = self.app.stopService()
        self.app.stop_now()
        await stopped

    async def stop(self) -> None:
        if self.apps and self.app.running:
            await self.stop_app()
        for port in self._ports:
            await port.stopListening()
