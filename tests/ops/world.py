"""Operations over monitors with fake connections, on a fake clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from monconn.addresses import TcpAddress
from monconn.model.actions import Action
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations
from tests.turning import TurnClock

T = TypeVar("T")


def rows(found: Iterable[T | None]) -> list[T]:
    """The rows of a query, without the steps that have brought none."""
    return [row for row in found if row is not None]


@implementer(IConnection)
class FakeConnection:
    """A connection without sockets, which ends as soon as ``end`` is called."""

    def __init__(self, monitor: Monitor, record: ConnectionRecord) -> None:
        self.record = record
        self.was_reset = False
        self.measured = 0
        self._monitor = monitor

    def end(self, reason: Reason, reset: bool = False) -> None:
        self.was_reset = reset
        self.record.end(reason, self._monitor.clock.seconds())
        self._monitor.closed(self)

    def measure(self) -> None:
        self.measured += 1

    def policy_changed(self) -> None:
        pass


class Actions(Observer):
    """Collects actions."""

    def __init__(self) -> None:
        self.all: list[Action] = []

    def acted(self, action: Action) -> None:
        self.all.append(action)


class World:
    """A registry with operations over it."""

    def __init__(self, *services: str) -> None:
        self.clock = TurnClock()
        self.clock.advance(1000)  # monotonic seconds are far from 0 in production, too
        self.registry = Registry()
        self.actions = Actions()
        self.operations = Operations(self.registry, self.clock)
        for name in services:
            self.registry.new(name, clock=self.clock, listen=":80", backend="10.9.9.9:80")
        self.registry.observe(self.actions)

    def connect(self, service: str, *ips: str) -> list[FakeConnection]:
        """One more connection from each IP."""
        monitor, made = self.registry.get(service), []
        for port, ip in enumerate(ips, 1024):
            record = monitor.admit(str(TcpAddress(ip, port)), ip)
            assert record is not None
            record.state = "open"
            made.append(FakeConnection(monitor, record))
            monitor.opened(made[-1])
        return made

    def result(self, deferred: Deferred[T]) -> T:
        """The result of a query or an action, now or once rates are known."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        if not results:
            self.clock.advance(0.25)
        (result,) = results
        return result  # type: ignore[no-any-return]

    def ids(self, filter: str = "", **arguments: Any) -> list[int]:
        """The ids of the connections that a query finds."""
        return [
            row.id for row in self.result(self.operations.connections(filter, **arguments)).rows
        ]
