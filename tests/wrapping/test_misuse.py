"""Wrapped protocols and producers that raise, or misuse their transport, on real sockets.

Whatever they do, a connection opens once, closes once for a reason that is true, and gives its slot
back; and where Twisted alone ends the connection, its peer sees the same as with the wrapper.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IHandshakeListener,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, ServerFactory
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.monitor.monitor import Monitor
from monconn.policy.rules import Rules
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.testing import RecordingObserver, connect, make_monitor
from monconn.wrapping import MonitoringFactory
from tests.certificates import make_certificate

PATIENCE_SECONDS = 20.0
HOST = "127.0.0.1"
BIG = bytes(1 << 23)  # more than the kernel takes at once
TLS_RECORDS = bytes(40_000)  # three of them, in one segment


class Mistake(Exception):
    """What the protocols of these tests raise."""


class Bad(Protocol):
    """A protocol with mistakes: each subclass makes one."""

    transport: Any

    def __init__(self) -> None:
        self.calls: list[str] = []

    def connectionMade(self) -> None:
        self.calls.append("made")
        self.made()

    def dataReceived(self, data: bytes) -> None:
        self.calls.append("data")
        self.received()

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.calls.append("lost")
        self.lost()

    def made(self) -> None:
        pass

    def received(self) -> None:
        pass

    def lost(self) -> None:
        pass


def fail(*_: object) -> None:
    raise Mistake("made on purpose")


@attrs.define
class Producer:
    """A producer that raises where it is told to."""

    raises: tuple[str, ...]
    is_stopped: bool = False

    def __getattr__(self, name: str) -> Callable[[], None]:
        if not name.endswith("Producing"):
            raise AttributeError(name)
        return fail if name.removesuffix("Producing") in self.raises else (lambda: None)


class RaisesWhenMade(Bad):
    made = fail


class RaisesAtData(Bad):
    received = fail


class RaisesWhenLost(Bad):
    lost = fail


class RaisesAtEveryEvent(Bad):
    made = received = lost = fail


class ExitsAtData(Bad):
    def received(self) -> None:
        sys.exit("on purpose")


@implementer(IHalfCloseableProtocol)
class RaisesAtTheReadEnd(Bad):
    def readConnectionLost(self) -> None:
        fail()

    def writeConnectionLost(self) -> None:
        pass


@implementer(IHalfCloseableProtocol)
class RaisesAtTheWriteEnd(Bad):
    def received(self) -> None:
        self.transport.loseWriteConnection()

    def readConnectionLost(self) -> None:
        pass

    def writeConnectionLost(self) -> None:
        fail()


@implementer(IHandshakeListener)
class RaisesAtTheHandshake(Bad):
    def handshakeCompleted(self) -> None:
        fail()


@implementer(IFileDescriptorReceiver)
class RaisesAtADescriptor(Bad):
    def fileDescriptorReceived(self, descriptor: int) -> None:
        os.close(descriptor)
        fail()


class ProducerRaisesAtPause(Bad):
    def received(self) -> None:
        self.transport.registerProducer(Producer(("pause",)), True)
        self.transport.write(BIG)


class ProducerRaisesAtResume(Bad):
    def received(self) -> None:
        self.transport.registerProducer(Producer(("resume",)), True)
        self.transport.write(BIG)


class ProducerRaisesAtStop(Bad):
    def made(self) -> None:
        self.transport.registerProducer(Producer(("stop",)), True)


class PausedProducerRaisesAtStop(Bad):
    def received(self) -> None:
        self.transport.registerProducer(Producer(("stop",)), True)
        self.transport.pauseProducing()
        self.transport.write(BIG)
        self.transport.abortConnection()


class ProducerAndProtocolRaise(Bad):
    def made(self) -> None:
        self.transport.registerProducer(Producer(("pause", "resume", "stop")), True)

    received = lost = fail


class PulledProducerRaises(Bad):
    def received(self) -> None:
        if self.calls.count("data") == 1:
            self.transport.registerProducer(Producer(("resume", "stop")), False)


class RegistersTwice(Bad):
    def received(self) -> None:
        for _ in range(2):
            self.transport.registerProducer(Producer(()), True)


class UnregistersAtOddMoments(Bad):
    def made(self) -> None:
        self.transport.unregisterProducer()
        self.transport.registerProducer(Producer(()), True)
        self.transport.unregisterProducer()
        self.transport.unregisterProducer()

    def lost(self) -> None:
        with suppress(AttributeError):
            self.transport.unregisterProducer()


class ClosesTwice(Bad):
    def received(self) -> None:
        self.transport.write(b"bye")
        self.transport.loseConnection()
        self.transport.loseConnection()

    def lost(self) -> None:
        self.transport.loseConnection()


class StopsAsAConsumer(Bad):
    def made(self) -> None:
        self.transport.registerProducer(Producer(("stop",)), True)

    def received(self) -> None:
        self.transport.stopConsuming()


class AbortsWhenMade(Bad):
    def made(self) -> None:
        self.transport.abortConnection()
        self.transport.abortConnection()


class AbortsAndRaises(Bad):
    def received(self) -> None:
        self.transport.abortConnection()
        fail()


class WritesText(Bad):
    def received(self) -> None:
        self.transport.write("text")


class WritesASequenceOfNothing(Bad):
    def received(self) -> None:
        self.transport.writeSequence(None)


class StartsTlsBadly(Bad):
    def received(self) -> None:
        self.transport.startTLS(object())


class StaysAfterTheEnd(Bad):
    def lost(self) -> None:
        transport = self.transport
        for misuse in (
            *(transport.loseConnection, transport.abortConnection, transport.stopProducing),
            *(transport.pauseProducing, transport.resumeProducing, transport.loseWriteConnection),
            *(transport.stopConsuming, transport.unregisterProducer, transport.getPeer),
            lambda: transport.write(b"late"),
            lambda: transport.writeSequence([b"la", b"te"]),
            lambda: transport.registerProducer(Producer(("stop",)), True),
            lambda: transport.startTLS(CertificateOptions()),
        ):
            with suppress(Exception):  # of Twisted's, with and without the wrapper
                misuse()


# -- the world


class Peer(Protocol):
    """Sends something, and notes what it gets."""

    transport: Any

    def __init__(self, sends_descriptor: bool) -> None:
        self.sends_descriptor = sends_descriptor
        self.heard = 0
        self.how: type[BaseException] | None = None

    def connectionMade(self) -> None:
        if self.sends_descriptor:
            self.transport.sendFileDescriptor(sys.stderr.fileno())
        self.transport.write(TLS_RECORDS)

    def dataReceived(self, data: bytes) -> None:
        self.heard += len(data)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.how = reason.type


@attrs.frozen
class Place:
    """Which side is wrapped, and what lies beneath."""

    side: str
    over: str

    def __str__(self) -> str:
        return f"{self.side}-{self.over}"


PLACES = [Place(side, over) for side in ("server", "client") for over in ("tcp", "tls", "unix")]
UNIX_CLIENT = Place("client", "unix")
TLS_PLACES = [place for place in PLACES if place.over == "tls"]
UNIX_PLACES = [place for place in PLACES if place.over == "unix"]
OTHER_PLACES = [place for place in PLACES if place.over != "tls"]


class One:
    """A factory that builds one protocol."""

    noisy = False

    def buildProtocol(self, addr: object) -> Protocol:
        return self.only

    def __init__(self, only: Protocol) -> None:
        self.only = only


class OneServer(One, ServerFactory):
    pass


class OneClient(One, ClientFactory):
    pass


class World:
    """A peer and a bad protocol, on both ends of a connection."""

    def __init__(self, path: Path, certificate: PrivateCertificate) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.path = path
        self.certificate = certificate
        self.ports: list[Any] = []
        self.count = 0
        self.monitor = Monitor("misuse", Rules(conn_limit=1))
        self.observer = RecordingObserver(watches_payload=False)
        self.monitor.add_observer(self.observer)

    def wrap(self, factory: Any) -> Any:
        return MonitoringFactory(self.monitor, factory)

    async def converse(
        self, bad: Bad, place: Place, wrap: Callable[[Any], Any], *, peer_ends: bool
    ) -> Peer:
        """Have them connect, talk and end; returns the peer."""
        peer = Peer(isinstance(bad, RaisesAtADescriptor))
        if place.side == "server":
            self._connect(place.over, wrap(OneServer(bad)), OneClient(peer))
        else:
            self._connect(place.over, OneServer(peer), wrap(OneClient(bad)))
        await self.until(lambda: bool({"data", "lost"} & {*bad.calls}) or peer.how is not None)
        if peer_ends:
            peer.transport.loseConnection()
        await self.until(lambda: peer.how is not None and len(self.monitor) == 0)
        await self.until(lambda: not self.open_connections())
        return peer

    def _connect(self, over: str, server: Any, client: Any) -> None:
        if over == "tls":
            server = TLSMemoryBIOFactory(self.certificate.options(), False, server)
            client = TLSMemoryBIOFactory(CertificateOptions(verify=False), True, client)
        if over == "unix":
            self.count += 1
            path = str(self.path / f"{self.count}.sock")
            self.ports.append(self.reactor.listenUNIX(path, server))
            self.reactor.connectUNIX(path, client)
        else:
            port = self.reactor.listenTCP(0, server, interface=HOST)
            self.ports.append(port)
            self.reactor.connectTCP(HOST, port.getHost().port, client)

    async def until(self, condition: Callable[[], bool]) -> None:
        from twisted.internet import task

        give_up = self.reactor.seconds() + PATIENCE_SECONDS
        while not condition():
            assert self.reactor.seconds() < give_up, "it never came to be"
            await task.deferLater(self.reactor, 0.001)

    async def clear(self) -> None:
        for port in self.ports:
            await port.stopListening()
        for transport in self.open_connections():
            transport.abortConnection()
        await self.until(lambda: not self.open_connections())

    def open_connections(self) -> list[Any]:
        descriptors = {*self.reactor.getReaders(), *self.reactor.getWriters()}
        return [each for each in descriptors if hasattr(each, "protocol")]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> PrivateCertificate:
    made = make_certificate(tmp_path_factory.mktemp("certificate"))
    pem = made.key.read_bytes() + made.certificate.read_bytes()
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path, certificate: PrivateCertificate) -> Any:
    world = World(tmp_path, certificate)
    yield world
    await world.clear()


CLOSED = "client_closed", "backend_closed"
ERROR = "error", "error"
RESET = "backend_reset", "client_reset"
# What is wrong, where; the reason where a server is wrapped, and where a client is; whether Twisted
# alone ends it, so that what the peer sees can be compared.
CASES: list[tuple[type[Bad], list[Place], tuple[str, str], bool]] = [
    # Twisted leaves the connection open, but for a client on TCP.
    (
        RaisesWhenMade,
        [place for place in PLACES if place != UNIX_CLIENT],
        (CLOSED[0], "error"),
        True,
    ),
    (RaisesWhenMade, [UNIX_CLIENT], CLOSED, True),
    (RaisesAtData, PLACES, ERROR, True),
    (RaisesWhenLost, PLACES, CLOSED, True),
    (RaisesAtEveryEvent, PLACES, ERROR, True),
    (ExitsAtData, PLACES, ERROR, True),
    (RaisesAtTheReadEnd, OTHER_PLACES, ERROR, True),
    (RaisesAtTheWriteEnd, OTHER_PLACES, ERROR, True),
    (RaisesAtTheHandshake, TLS_PLACES, ERROR, True),
    (RaisesAtADescriptor, UNIX_PLACES, ERROR, True),
    (ProducerRaisesAtPause, PLACES, ERROR, True),
    (ProducerRaisesAtResume, PLACES, ERROR, True),
    (ProducerRaisesAtStop, PLACES, CLOSED, False),
    (PausedProducerRaisesAtStop, PLACES, RESET, False),
    (ProducerAndProtocolRaise, PLACES, ERROR, False),
    (PulledProducerRaises, OTHER_PLACES, ERROR, False),
    (PulledProducerRaises, TLS_PLACES, CLOSED, True),
    (RegistersTwice, PLACES, ERROR, True),
    (UnregistersAtOddMoments, PLACES, CLOSED, True),
    (ClosesTwice, PLACES, ("backend_closed", "client_closed"), True),
    (StopsAsAConsumer, PLACES, ("backend_closed", "client_closed"), True),
    (AbortsWhenMade, PLACES, RESET, True),
    (AbortsAndRaises, PLACES, ERROR, True),
    (WritesText, OTHER_PLACES, ERROR, True),
    (WritesASequenceOfNothing, PLACES, ERROR, True),
    (StartsTlsBadly, OTHER_PLACES, ERROR, True),
    (StaysAfterTheEnd, PLACES, CLOSED, True),
]


@pytest.mark.parametrize(
    ("bad", "place", "reasons", "is_compared"),
    [
        pytest.param(bad, place, reasons, is_compared, id=f"{bad.__name__}-{place}")
        for bad, places, reasons, is_compared in CASES
        for place in places
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_connection_ends_once_whatever_its_protocol_does(
    world: World,
    logged_failures: list[Failure],
    bad: type[Bad],
    place: Place,
    reasons: tuple[str, str],
    is_compared: bool,
) -> None:
    protocol = bad()
    reason = reasons[place.side == "client"]
    peer_ends = bad is RaisesAtTheReadEnd or reason == CLOSED[place.side == "client"]
    peer = await world.converse(protocol, place, world.wrap, peer_ends=peer_ends)
    assert [event[0] for event in world.observer.events] == ["opened", "closed"]
    (record,) = world.monitor.closed_records
    assert record.reason == reason, record.detail
    assert protocol.calls[-1] == "lost"
    assert protocol.calls.count("lost") == 1
    values = [failure.value for failure in logged_failures]
    assert len(values) == len({*map(id, values)}), "each exception is logged once"
    if record.reason == "error":
        assert record.detail.split(":")[0] in {type(value).__name__ for value in values}
    logged_failures.clear()
    stopped: list[None] = []
    world.monitor.stop(0).addCallback(stopped.append)
    assert stopped == [None]
    if is_compared:
        alone = bad()
        other = await world.converse(alone, place, lambda factory: factory, peer_ends=peer_ends)
        assert (peer.heard, peer.how) == (other.heard, other.how)
        if alone.calls == protocol.calls:  # over TLS, Twisted alone does not notify one that raises
            assert [failure.type for failure in logged_failures] == [*map(type, values)]
        logged_failures.clear()


@pytest.mark.parametrize("place", TLS_PLACES, ids=str)
@pytest_twisted.ensureDeferred
async def test_text_over_tls_is_no_bytes_whenever_twisted_notices(
    world: World, logged_failures: list[Failure], place: Place
) -> None:
    """Twisted 24.11 takes it, and raises as it sends it, and again as the connection is lost."""
    protocol = WritesText()
    await world.converse(protocol, place, world.wrap, peer_ends=True)
    assert protocol.calls[-1] == "lost"
    assert [event[0] for event in world.observer.events] == ["opened", "closed"]
    (record,) = world.monitor.closed_records
    assert record.down == (len(TLS_RECORDS) if place.side == "client" else 0)
    assert {failure.type for failure in logged_failures} == {TypeError}
    logged_failures.clear()


# -- without a network


class RaisingFactory(Factory):
    def buildProtocol(self, addr: object) -> None:
        fail()


@pytest.mark.parametrize("is_client", [False, True])
def test_a_factory_that_raises_has_a_connection_that_is_over(is_client: bool) -> None:
    monitor = make_monitor(rules=Rules(conn_limit=1))
    observer = RecordingObserver()
    monitor.add_observer(observer)
    factory = MonitoringFactory(monitor, RaisingFactory(), is_client=is_client)
    for _ in range(2):  # the slot was given back
        with pytest.raises(Mistake):
            connect(factory)
    assert [event[0] for event in observer.events] == ["opened", "closed"] * 2
    (_, record) = monitor.closed_records
    assert (record.reason, record.detail) == ("error", "Mistake: made on purpose")
    assert (len(monitor), monitor.stats()["total"], monitor.connections_by_ip()) == (0, 2, {})


def test_an_observer_may_close_the_connection_of_a_factory_that_raises() -> None:
    monitor = make_monitor()
    observer = RecordingObserver()
    closer = RecordingObserver()
    closer.opened = lambda record: monitor.close(record.id, reset=True)  # type: ignore[method-assign]
    monitor.add_observer(observer)
    monitor.add_observer(closer)
    with pytest.raises(Mistake):
        connect(MonitoringFactory(monitor, RaisingFactory()))
    assert [event[0] for event in observer.events] == ["opened", "closed"]
    assert monitor.closed_records[0].reason == "error"


class Deaf:
    """A transport that obeys to nothing, and may raise."""

    def __init__(self, raises: bool) -> None:
        self.loseConnection = self.abortConnection = fail if raises else lambda: None
        self.getPeer = self.getHost = self.write = lambda *_: None


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_transport_that_does_not_obey_keeps_no_slot(
    logged_failures: list[Failure], raises: bool, reset: bool
) -> None:
    monitor = make_monitor()
    bad, good = Bad(), Bad()
    wrapper = MonitoringFactory(monitor, OneServer(bad)).buildProtocol(None)
    wrapper.makeConnection(Deaf(raises))
    _, transport = connect(MonitoringFactory(monitor, OneServer(good)))
    stopped: list[None] = []
    monitor.stop(0).addCallback(stopped.append)
    monitor.close_all(reset=reset)
    transport.drain()
    assert good.calls[-1] == "lost"
    for _ in range(2):
        monitor.clock.advance(GRACE_SECONDS)
    assert (bad.calls, stopped, len(monitor)) == (["made", "lost"], [None], 0)
    assert wrapper.record.reason == "operator"
    assert monitor.clock.getDelayedCalls() == []
    logged_failures.clear()


def test_bytes_of_a_failed_write_are_not_counted() -> None:
    monitor = make_monitor()
    wrapper, transport = connect(MonitoringFactory(monitor, OneServer(Bad())))
    for misuse in ("text", 5, None, bytearray(b"x")):
        with pytest.raises(TypeError):
            wrapper.write(misuse)
    with pytest.raises(TypeError):
        wrapper.writeSequence([b"fine", "text"])
    assert (wrapper.record.down, transport.written) == (0, b"")


def test_bytes_are_counted_whose_producer_raises_as_they_are_written() -> None:
    monitor = make_monitor()
    wrapper, transport = connect(MonitoringFactory(monitor, OneServer(Bad())))
    wrapper.registerProducer(Producer(("pause",)), True)
    with pytest.raises(Mistake):
        wrapper.write(bytes(100_000))
    assert wrapper.record.down == len(transport.written) == 100_000


def test_a_transport_without_abort_is_not_taken_for_aborted() -> None:
    monitor = make_monitor()
    wrapper = MonitoringFactory(monitor, OneServer(Bad())).buildProtocol(None)
    transport = Deaf(raises=False)
    del transport.abortConnection
    wrapper.makeConnection(transport)
    with pytest.raises(AttributeError):
        wrapper.abortConnection()
    wrapper.connectionLost(Failure(error.ConnectionDone()))
    assert wrapper.record.reason == "client_closed"
