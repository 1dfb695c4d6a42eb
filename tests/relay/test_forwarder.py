"""Accepted clients and their relays, where Twisted's reactor cannot adopt a socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.net.sockets import RESET_ERRNOS
from monconn.policy.rules import Rules
from monconn.relay.forwarder import Forwarder
from monconn.relay.paths import MakeBackend, TransportPath
from monconn.relay.relay import Relay
from monconn.relay.transports.end import TransportEnd, TransportShared
from tests.logged import logged_lines

from .world import to_the_end


class BrokenReactor:
    """Cannot adopt a connection."""

    def __init__(self, number: int) -> None:
        self._number = number

    def adoptStreamConnection(self, fileno: int, family: int, factory: Any) -> None:
        raise OSError(self._number, os.strerror(self._number))


class Dialler:
    """Never gets an answer; records which dials were given up."""

    def __init__(self) -> None:
        self.given_up: list[object] = []

    def __call__(self, protocol: object) -> Deferred[Any]:
        return Deferred(lambda _: self.given_up.append(protocol))


def stream_ends(clock: Clock, dial: Dialler) -> MakeBackend:
    return lambda *_: TransportEnd("backend", TransportShared.of(clock), dial=dial)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and its socket as a listener gives it."""
    client, accepted = socket.socketpair()
    client.settimeout(5)
    yield client, accepted
    client.close()
    accepted.close()


class Transport(StringTransport):
    """That of a client that ends as soon as it is told the end."""

    def __init__(self, end: TransportEnd) -> None:
        super().__init__()
        self._end = end

    def _lost(self) -> None:
        if self.connected:
            self.connected = False
            self._end.connectionLost(Failure(ConnectionDone()))

    def loseConnection(self) -> None:
        self._lost()

    def loseWriteConnection(self) -> None:
        self._end.readConnectionLost()

    def abortConnection(self) -> None:
        self._lost()

    def unregisterProducer(self) -> None:
        self.producer = None  # as reactors do, also if there is none

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class ActsWhenConnected(Observer):
    """Ends the connection once its backend is there."""

    def __init__(self, monitor: Monitor, how: str) -> None:
        self._monitor = monitor
        self._how = how
        self.heard: list[str] = []

    def backend_connected(self, record: ConnectionRecord) -> None:
        self.heard.append("backend_connected")
        if self._how == "raise":
            raise ValueError("an observer's")
        if self._how != "nothing":
            self._monitor.close(record.id, reset=self._how == "reset")

    def closed(self, record: ConnectionRecord) -> None:
        self.heard.append("closed")


@pytest.mark.parametrize("number", sorted(RESET_ERRNOS))
@pytest.mark.parametrize("how", ["", "nothing", "close", "reset", "raise"])
def test_a_backend_that_resets_as_it_accepts(
    how: str, number: int, logged_failures: list[Failure]
) -> None:
    """The dial has failed, and the connection is over, whatever is done in between."""
    clock = Clock()
    monitor, shared = Monitor("web", clock=clock), TransportShared.of(clock)
    dialled: Deferred[Any] = Deferred()
    backend = TransportEnd("backend", shared, dial=lambda _: dialled)
    client = TransportEnd("client", shared)
    record = monitor.admit("192.0.2.1:1024", "192.0.2.1")
    assert record is not None
    observer = ActsWhenConnected(monitor, how)
    if how:
        monitor.add_observer(observer)
    relay = Relay(monitor, record, client, backend, Deadlines(clock))
    client.makeConnection(Transport(client))
    assert record.id in monitor
    with logged_lines("monconn") as lines:
        dialled.errback(ConnectError(osError=number))
        clock.pump([1.0] * 60)
    assert monitor.connections() == []
    assert list(monitor.closed_records) == [record]
    ours = {"close": "operator", "reset": "operator"}
    assert record.reason == ours.get(how, "backend_reset")
    heard = {"": [], "raise": ["backend_connected"]}
    assert observer.heard == heard.get(how, ["backend_connected", "closed"])
    assert len(lines) == (how in ("close", "reset", "raise"))
    assert len(logged_failures) == (how == "raise")
    logged_failures.clear()
    assert relay.check(clock.seconds()) is None


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [
        (errno.ENOTCONN, "client_reset", "CC"),
        (errno.EMFILE, "error", "RC"),
        (errno.ENFILE, "error", "RC"),
    ],
)
def test_a_client_that_the_reactor_cannot_take(
    number: int, reason: str, code: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    client, accepted = pair
    clock, dialler = Clock(), Dialler()
    monitor, shared = Monitor("web", clock=clock), TransportShared.of(clock)
    path = TransportPath(
        monitor, shared, BrokenReactor(number), stream_ends(clock, dialler), WeakSet()
    )
    forwarder = Forwarder(monitor, path)
    forwarder.accepted(accepted, "")
    (record,) = monitor.closed_records
    assert (record.reason, record.code) == (reason, code)
    assert os.strerror(number) in record.detail
    assert (len(monitor), len(shared.deadlines), len(dialler.given_up)) == (0, 0, 1)
    assert to_the_end(client) == (b"", "fin")
    assert accepted.fileno() == -1


INDEX, LINK = socket.if_nameindex()[0]


class Seen(Observer):
    def __init__(self) -> None:
        self.records: list[ConnectionRecord] = []

    def refused(self, record: ConnectionRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    ("family", "address", "client", "client_ip"),
    [
        (socket.AF_INET, ("192.0.2.1", 4711), "192.0.2.1:4711", "192.0.2.1"),
        (socket.AF_INET6, ("2001:db8::1", 4711, 0, 0), "[2001:db8::1]:4711", "2001:db8::1"),
        (socket.AF_INET6, ("fe80::1", 4711, 0, INDEX), f"[fe80::1%{LINK}]:4711", f"fe80::1%{LINK}"),
        (socket.AF_INET6, ("fe80::1", 4711, 0, 99999), "[fe80::1%99999]:4711", "fe80::1%99999"),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 4711, 0, 0), "192.0.2.1:4711", "192.0.2.1"),
    ],
)
def test_the_address_of_a_client(
    family: socket.AddressFamily, address: Any, client: str, client_ip: str
) -> None:
    record = refused_record(socket.socket(family), address)
    assert (record.client, record.client_ip) == (client, client_ip)


def test_the_address_of_a_client_on_a_unix_socket(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    record = refused_record(pair[1], "")
    assert (record.client, record.client_ip) == (f"unix:{os.getpid()}", "unix")


def refused_record(accepted: socket.socket, address: Any) -> ConnectionRecord:
    """The record of a client that a service which is full refuses."""
    clock, seen = Clock(), Seen()
    monitor = Monitor("web", Rules(conn_limit=1), clock=clock)
    monitor.lifecycle.stopping = True
    monitor.add_observer(seen)
    shared = TransportShared.of(clock)
    path = TransportPath(
        monitor, shared, BrokenReactor(0), stream_ends(clock, Dialler()), WeakSet()
    )
    Forwarder(monitor, path).accepted(accepted, address)
    assert accepted.fileno() == -1
    (record,) = seen.records
    assert record.refusal == "stopping"
    return record


class AnyPreface:
    """A preface that is never complete."""

    max_bytes = 100
    timeout_seconds = 5.0

    def read(self, data: bytes, ended: bool) -> None:
        return None


def test_a_client_with_a_preface_that_the_reactor_cannot_take(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    clock = Clock()
    monitor, shared = Monitor("web", clock=clock), TransportShared.of(clock)
    reactor = BrokenReactor(errno.EMFILE)
    path = TransportPath(monitor, shared, reactor, stream_ends(clock, Dialler()), WeakSet())
    Forwarder(monitor, path, AnyPreface()).accepted(pair[1], "")
    (record,) = monitor.closed_records
    assert (record.reason, record.code) == ("error", "RC")
