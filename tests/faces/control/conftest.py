"""A control port on the running reactor, over monitors whose connections are made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet.threads import blockingCallFromThread, deferToThread
from zope.interface import implementer

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import ControlConfig
from monconn.faces.control.client import Client
from monconn.faces.control.service import ControlService
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from tests import running_reactor

T = TypeVar("T")


@implementer(IConnection)
class FakeConnection:
    """A connection without sockets."""

    def __init__(self, monitor: Monitor, record: ConnectionRecord) -> None:
        self.record = record
        self._monitor = monitor
        self.was_reset = False
        self.was_measured = False

    def end(self, reason: Reason, reset: bool = False) -> None:
        """End at once."""
        self.was_reset = reset
        if self.record.end(reason, self._monitor.clock.seconds()):
            self._monitor.closed(self)

    def measure(self) -> None:
        """There are no sockets; it is noted that they were asked for."""
        self.was_measured = True

    def policy_changed(self) -> None:
        """There are no deadlines."""


class Port:
    """A control port, used from a thread; a context manager that closes it."""

    def __init__(self, folder: Path, **config: Any) -> None:
        listen = config.pop("listen", UnixAddress(str(folder / "control")))
        self.config = ControlConfig(listen, **config)
        self.clock = MonotonicClock()
        self.registry = Registry()
        self.service: ControlService | None = None
        self._clients: list[Client] = []

    def __enter__(self) -> Port:
        self.on_reactor(self._start)
        return self

    def _start(self) -> None:
        self.service = ControlService(self.config, self.registry, running_reactor(), self.clock)
        self.service.startService()

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        assert self.service is not None
        self.on_reactor(self.service.stopService)

    def on_reactor(self, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Call something in the reactor's thread; what it returns, in time."""
        return blockingCallFromThread(running_reactor(), call, *args, **kwargs)

    @property
    def where(self) -> str:
        """The port's address."""
        assert self.service is not None
        where = self.service.where
        assert where is not None
        return where

    def client(self) -> Client:
        """One more client."""
        self._clients.append(Client(self.where))
        return self._clients[-1]

    def monitor(self, name: str, **kwargs: Any) -> Monitor:
        """One more service."""
        return self.registry.new(name, clock=self.clock, **kwargs)

    def connections(self, monitor: Monitor, *ips: str) -> list[FakeConnection]:
        """One more connection from each IP."""
        return self.on_reactor(self._open, monitor, ips)

    def _open(self, monitor: Monitor, ips: tuple[str, ...]) -> list[FakeConnection]:
        opened = []
        for number, ip in enumerate(ips, 1024):
            record = monitor.admit(str(TcpAddress(ip, number)), ip)
            assert record is not None
            record.state = "open"
            opened.append(FakeConnection(monitor, record))
            monitor.opened(opened[-1])
        return opened


def with_port(play: Callable[[Port], None]) -> Any:
    """A test that is played in a thread, with a control port on the running reactor."""

    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def enter_and_play() -> None:
            with Port(tmp_path) as port:
                play(port)

        await deferToThread(enter_and_play)

    test.__name__ = play.__name__
    test.__doc__ = play.__doc__
    return test


@pytest.fixture
def make_port(tmp_path: Path) -> Callable[..., Port]:
    """Makes control ports."""
    return lambda **config: Port(tmp_path, **config)
