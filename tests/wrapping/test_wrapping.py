"""Any factory may be wrapped: its behaviour is unchanged, and everything is recorded.

Without a reactor: over the memory transport, which is Twisted's own over no network.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.interfaces import (
    IConsumer,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IPullProducer,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer
from zope.interface.verify import verifyObject

from monconn.errors import SettingTypeError
from monconn.model import tcpinfo
from monconn.model.flow import Data
from monconn.model.reasons import Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IRecordable, IWatchable, Observer
from monconn.monitor.monitor import Monitor
from monconn.net.sockets import TCP_INFO_BYTES, ErrorTrackingSocket
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from monconn.policy.rules import Rules
from monconn.policy.timeouts import GRACE_SECONDS, Timeouts
from monconn.testing import MemoryTransport, RecordingObserver, connect, make_monitor
from monconn.wrapping import MonitoringFactory, MonitoringProtocol

NO_LIMITS = Timeouts(write_timeout=0.0, max_idle=0.0)


class RecordingProtocol(Protocol):
    """Records its calls, and does nothing else."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connectionMade(self) -> None:
        self.calls.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.calls.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(RecordingProtocol):
    """The same, and stays when its peer has ended."""

    def readConnectionLost(self) -> None:
        self.calls.append("read end")

    def writeConnectionLost(self) -> None:
        self.calls.append("write end")


@implementer(IHandshakeListener)
class HandshakeListener(RecordingProtocol):
    def handshakeCompleted(self) -> None:
        self.calls.append("handshake")


@implementer(IFileDescriptorReceiver)
class DescriptorReceiver(RecordingProtocol):
    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.calls.append(descriptor)


@implementer(IPushProducer)
class PushProducer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


@implementer(IPullProducer)
class PullProducer:
    """Gives a consumer one piece each time it is asked."""

    def __init__(self, consumer: Any, pieces: list[bytes]) -> None:
        self.consumer, self.pieces, self.stopped = consumer, pieces, False

    def resumeProducing(self) -> None:
        if self.pieces:
            self.consumer.write(self.pieces.pop(0))
        else:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class TlsTransport(MemoryTransport):
    """One on which TLS can be started, as far as interfaces go."""

    def startTLS(self, context: object, normal: bool = True) -> None:
        directlyProvides(self, ISSLTransport)


class TransportWithSocket(MemoryTransport):
    """One with a socket, on which an error can be noted."""

    def __init__(self) -> None:
        super().__init__()
        self.socket: Any = socket.socket()

    def connectionLost(self, reason: Failure) -> None:
        self.socket.close()
        super().connectionLost(reason)


class World:
    """A wrapped protocol with all that is around it."""

    def __init__(
        self,
        protocol: type[RecordingProtocol] = RecordingProtocol,
        *,
        timeouts: Timeouts = NO_LIMITS,
        rules: Rules | None = None,
        is_client: bool = False,
        transport: type[MemoryTransport] = MemoryTransport,
    ) -> None:
        self.observer = RecordingObserver()
        self.clock = Clock()
        self.monitor = make_monitor(clock=self.clock, timeouts=timeouts, rules=rules)
        self.monitor.add_observer(self.observer)
        self.factory = MonitoringFactory(
            self.monitor, Factory.forProtocol(protocol), is_client=is_client
        )
        self.transport = transport()
        self.wrapper: Any = self.factory.buildProtocol(self.transport.getPeer())
        self.inner: RecordingProtocol = self.wrapper.wrappedProtocol
        self.transport.protocol = self.wrapper
        self.wrapper.makeConnection(self.transport)
        self.record: ConnectionRecord = self.wrapper.record

    @property
    def ends(self) -> tuple[str | None, str, str]:
        """Why it ended, and how its client and its backend did."""
        return self.record.reason, self.record.client_end, self.record.backend_end

    def note_tcp(self, times: int) -> None:
        """What the kernel says of a peer that has not answered so many retransmissions."""
        remote: Side = "backend" if self.factory.is_client else "client"
        self.record.note_tcp(remote, unanswered(times), self.clock.seconds())

    @property
    def hooks(self) -> list[str]:
        """The observer's notifications other than bytes, by name."""
        return [event[0] for event in self.observer.events if event[0] != "data"]


# -- bytes


def test_a_server_counts_up_what_it_receives_and_down_what_it_writes() -> None:
    world = World()
    world.transport.peer_sends(b"12345")
    world.wrapper.write(b"123")
    assert (world.record.up, world.record.down) == (5, 3)
    assert world.monitor.bytes() == (5, 3)
    assert world.inner.calls == ["made", b"12345"]
    assert world.transport.written == b"123"


def test_a_client_counts_up_what_it_writes_and_down_what_it_receives() -> None:
    world = World(is_client=True)
    world.transport.peer_sends(b"12345")
    world.wrapper.write(b"123")
    assert (world.record.up, world.record.down) == (3, 5)


def test_a_clients_record_shows_our_side_as_the_client() -> None:
    record = World(is_client=True).record
    assert (record.client, record.backend) == ("127.0.0.1:8000", "192.0.2.1:50000")


def test_a_servers_record_shows_the_peer_as_the_client() -> None:
    record = World().record
    assert (record.client, record.client_ip) == ("192.0.2.1:50000", "192.0.2.1")
    assert (record.state, record.pipe) == ("open", "stream")


@pytest.mark.parametrize("pieces", [list, tuple, iter, lambda data: (piece for piece in data)])
def test_a_sequence_of_any_kind_is_written_and_counted(pieces: Callable[..., Any]) -> None:
    world = World()
    world.wrapper.writeSequence(pieces([b"12", b"", b"345"]))
    assert world.transport.written == b"12345"
    assert world.record.down == 5


def test_what_the_transport_does_not_take_is_not_counted() -> None:
    world = World()
    for write, wrong in ((world.wrapper.write, "text"), (world.wrapper.writeSequence, [b"1", "2"])):
        with pytest.raises(TypeError):
            write(wrong)
    assert world.record.down == 0
    assert world.transport.written == b""


def test_bytes_are_counted_and_reported_as_they_move() -> None:
    world = World()
    world.clock.advance(3)
    world.transport.peer_sends(b"up")
    world.clock.advance(4)
    world.wrapper.write(b"down")
    record = world.record
    assert (record.last_up, record.last_down, record.last_activity) == (3, 7, 7)
    assert world.observer.events[1:] == [
        ("data", record, "up", b"up"),
        ("data", record, "down", b"down"),
    ]


def test_bytes_written_to_a_closed_connection_are_neither_counted_nor_reported() -> None:
    class WritesLate(RecordingProtocol):
        transport: Any

        def connectionLost(self, reason: Any = None) -> None:
            self.transport.write(b"goodbye")
            self.transport.writeSequence([b"and", b"all"])

    world = World(WritesLate)
    world.transport.peer_ends()
    world.wrapper.write(b"still there?")
    assert world.record.down == 0
    assert world.monitor.bytes() == (0, 0)
    assert [event[0] for event in world.observer.events] == ["opened", "closed"]


def test_payload_is_passed_only_to_observers_that_watch_it() -> None:
    world = World()
    world.monitor.remove_observer(world.observer)
    idle = RecordingObserver(watches_payload=False)
    world.monitor.add_observer(idle)
    world.monitor.saw = None  # type: ignore[assignment,method-assign]
    world.transport.peer_sends(b"data")
    assert idle.events == []
    assert world.record.up == 4


# -- what the wrapped protocol sees of its transport


def test_addresses_and_unknown_attributes_are_the_transports() -> None:
    world = World()
    assert world.wrapper.getPeer() == world.transport.getPeer()
    assert world.wrapper.getHost() == world.transport.getHost()
    world.wrapper.setTcpNoDelay(True)
    assert world.transport.getTcpNoDelay() is True
    world.transport.negotiatedProtocol = b"h2"  # type: ignore[attr-defined]
    assert world.wrapper.negotiatedProtocol == b"h2"
    with pytest.raises(AttributeError):
        _ = world.wrapper.nothing_of_the_kind


@pytest.mark.parametrize("keepalive", [True, False])
def test_keepalive_is_on_unless_switched_off(keepalive: bool) -> None:
    wrapped = Factory.forProtocol(RecordingProtocol)
    factory = MonitoringFactory(make_monitor(), wrapped, keepalive=keepalive)
    transport = TransportWithSocket()
    factory.buildProtocol(transport.getPeer()).makeConnection(transport)
    asks = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    transport.socket.close()
    assert bool(asks) == keepalive


def test_reading_is_paused_and_resumed() -> None:
    world = World()
    world.wrapper.pauseProducing()
    world.transport.peer_sends(b"later")
    assert world.inner.calls == ["made"]
    world.wrapper.resumeProducing()
    world.transport.drain()
    assert world.inner.calls == ["made", b"later"]


def test_a_push_producer_is_paused_resumed_and_stopped() -> None:
    world = World()
    producer = PushProducer()
    world.wrapper.registerProducer(producer, True)
    world.wrapper.write(bytes(100_000))
    world.transport.drain()
    world.transport.peer_resets()
    assert producer.calls == ["pause", "resume", "stop"]


def test_an_unregistered_push_producer_is_not_called() -> None:
    world = World()
    producer = PushProducer()
    world.wrapper.registerProducer(producer, True)
    world.wrapper.unregisterProducer()
    world.wrapper.write(bytes(100_000))
    world.transport.peer_resets()
    assert producer.calls == []


def test_a_pull_producers_bytes_are_counted() -> None:
    world = World()
    producer = PullProducer(world.wrapper, [b"one", b"two", b"three"])
    world.wrapper.registerProducer(producer, False)
    world.transport.drain()
    assert world.transport.written == b"onetwothree"
    assert world.record.down == 11
    assert world.transport.producer is None


@pytest.mark.parametrize("stop", ["loseConnection", "stopProducing", "stopConsuming"])
def test_every_orderly_close_is_an_end_of_our_side(stop: str) -> None:
    world = World()
    world.wrapper.write(b"last words")
    getattr(world.wrapper, stop)()
    assert world.wrapper.disconnecting
    world.transport.drain()
    assert world.transport.written == b"last words"
    assert world.ends == ("backend_closed", "none", "fin")


def test_a_closed_transport_says_so() -> None:
    world = World()
    assert world.wrapper.connected
    assert not world.wrapper.disconnecting
    world.transport.peer_ends()
    assert not world.wrapper.connected
    assert world.wrapper.disconnected


# -- factories


def test_a_factory_that_refuses_by_none_is_passed_on_and_leaves_no_trace() -> None:
    class Refusing(Factory):
        def buildProtocol(self, addr: Any) -> None:
            return None

    monitor = make_monitor(rules=Rules(conn_limit=1))
    observer = RecordingObserver()
    monitor.add_observer(observer)
    for _ in range(3):
        protocol, transport = connect(MonitoringFactory(monitor, Refusing()))
        assert protocol is None
        assert transport.disconnected
    assert len(monitor) == 0
    assert monitor.stats()["total"] == 0
    assert monitor.stats()["refused"] == 0
    assert observer.events == []


def test_a_protocol_that_raises_in_connection_made_is_watched_like_any_other() -> None:
    class Raises(RecordingProtocol):
        def connectionMade(self) -> None:
            raise RuntimeError("by its author")

    monitor = make_monitor()
    factory = MonitoringFactory(monitor, Factory.forProtocol(Raises))
    transport = MemoryTransport()
    wrapper = factory.buildProtocol(transport.getPeer())
    transport.protocol = wrapper
    with pytest.raises(RuntimeError, match="by its author"):
        wrapper.makeConnection(transport)  # to the reactor, as without us
    assert len(monitor) == 1
    transport.peer_sends(b"data")
    transport.peer_ends()
    assert wrapper.record.reason == "client_closed"
    assert (len(monitor), factory.protocols) == (0, {})


def test_a_factorys_start_and_stop_hooks_are_called() -> None:
    calls = []

    class Started(ServerFactory):
        def startFactory(self) -> None:
            calls.append("start")

        def stopFactory(self) -> None:
            calls.append("stop")

    factory = MonitoringFactory(make_monitor(), Started())
    factory.doStart()
    factory.doStop()
    assert calls == ["start", "stop"]


def test_a_client_factorys_connector_hooks_are_called() -> None:
    calls: list[Any] = []

    class Connecting(ClientFactory):
        def startedConnecting(self, connector: Any) -> None:
            calls.append(("started", connector))

        def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
            calls.append(("failed", connector, reason))

        def clientConnectionLost(self, connector: Any, reason: Any) -> None:
            calls.append(("lost", connector, reason))

    factory = MonitoringFactory(make_monitor(), Connecting())
    factory.startedConnecting("connector")
    factory.clientConnectionFailed("connector", "reason")
    factory.clientConnectionLost("connector", "reason")
    assert calls == [
        ("started", "connector"),
        ("failed", "connector", "reason"),
        ("lost", "connector", "reason"),
    ]


def test_the_factorys_type_says_whether_connections_are_outgoing() -> None:
    monitor = make_monitor()
    assert MonitoringFactory(monitor, ClientFactory()).is_client
    assert not MonitoringFactory(monitor, ServerFactory()).is_client
    assert not MonitoringFactory(monitor, Factory()).is_client
    assert MonitoringFactory(monitor, Factory(), is_client=True).is_client
    assert not MonitoringFactory(monitor, ClientFactory(), is_client=False).is_client


def test_a_wrapping_factory_has_the_direction_of_the_innermost() -> None:
    monitor = make_monitor()
    assert not MonitoringFactory(monitor, WrappingFactory(ServerFactory())).is_client
    assert MonitoringFactory(monitor, WrappingFactory(ClientFactory())).is_client


def test_other_wrappers_may_be_around_and_inside() -> None:
    monitor = make_monitor(timeouts=NO_LIMITS)
    inside = MonitoringFactory(monitor, WrappingFactory(Factory.forProtocol(RecordingProtocol)))
    wrapper, transport = connect(WrappingFactory(inside))
    transport.peer_sends(b"data")
    wrapper.wrappedProtocol.wrappedProtocol.wrappedProtocol.transport.write(b"answer")
    (record,) = monitor.connections()
    assert (record.up, record.down) == (4, 6)
    transport.peer_ends()
    assert record.reason == "client_closed"


def test_alpn_is_offered_exactly_by_factories_that_provide_it() -> None:
    @implementer(IProtocolNegotiationFactory)
    class Negotiating(Factory):
        def acceptableProtocols(self) -> list[bytes]:
            return [b"h2", b"http/1.1"]

    factory = MonitoringFactory(make_monitor(), Negotiating())
    assert verifyObject(IProtocolNegotiationFactory, factory)
    assert factory.acceptableProtocols() == [b"h2", b"http/1.1"]
    plain = MonitoringFactory(make_monitor(), Factory())
    assert not IProtocolNegotiationFactory.providedBy(plain)


# -- interfaces


@pytest.mark.parametrize(
    ("protocol", "interface"),
    [
        (HalfCloseable, IHalfCloseableProtocol),
        (HandshakeListener, IHandshakeListener),
        (DescriptorReceiver, IFileDescriptorReceiver),
    ],
)
def test_a_protocols_interfaces_are_provided_exactly_if_it_does(
    protocol: type[RecordingProtocol], interface: Any
) -> None:
    assert verifyObject(interface, World(protocol).wrapper)
    assert not interface.providedBy(World(RecordingProtocol).wrapper)


def test_a_transports_interfaces_are_provided_exactly_if_it_does() -> None:
    wrapper = World().wrapper
    for interface in (ITransport, ITCPTransport, IConsumer, IPushProducer, IConnection, IProtocol):
        assert verifyObject(interface, wrapper)
    assert not ISSLTransport.providedBy(wrapper)
    assert verifyObject(IProtocolFactory, MonitoringFactory(make_monitor(), Factory()))


def test_starting_tls_changes_what_is_provided() -> None:
    class Both(HalfCloseable, HandshakeListener):
        pass

    world = World(Both, transport=TlsTransport)
    world.wrapper.startTLS(object())
    assert ISSLTransport.providedBy(world.wrapper)
    assert IHalfCloseableProtocol.providedBy(world.wrapper)
    assert IHandshakeListener.providedBy(world.wrapper)
    assert IConnection.providedBy(world.wrapper)


def test_a_handshake_and_a_descriptor_are_passed_on() -> None:
    handshake, descriptor = World(HandshakeListener), World(DescriptorReceiver)
    handshake.wrapper.handshakeCompleted()
    descriptor.wrapper.fileDescriptorReceived(5)
    assert handshake.inner.calls == ["made", "handshake"]
    assert descriptor.inner.calls == ["made", 5]


# -- the end, and its reason


def peer_fin(world: World) -> None:
    world.transport.peer_ends()


def peer_reset(world: World) -> None:
    world.transport.peer_resets()


def our_close(world: World) -> None:
    world.wrapper.loseConnection()
    world.transport.drain()


def close_beneath(world: World) -> None:
    world.transport.loseConnection()
    world.transport.drain()


def our_abort(world: World) -> None:
    world.wrapper.abortConnection()
    world.transport.drain()


def abort_after_close(world: World) -> None:
    world.wrapper.write(b"waits for ever")
    world.wrapper.loseConnection()
    our_abort(world)


def abort_after_our_half(world: World) -> None:
    world.wrapper.loseWriteConnection()
    world.transport.drain()
    our_abort(world)


def reset_after_close(world: World) -> None:
    world.wrapper.loseConnection()
    world.transport.peer_resets()


def fin_after_our_half(world: World) -> None:
    world.wrapper.loseWriteConnection()
    world.transport.drain()
    world.transport.peer_ends()


def exception_in_the_protocol(world: World) -> None:
    world.transport.connectionLost(Failure(ValueError("of the protocol")))


def operator(world: World) -> None:
    world.monitor.close(world.record.id)
    world.transport.drain()


def operator_by_reset(world: World) -> None:
    world.monitor.close(world.record.id, reset=True)
    world.transport.drain()


def block(world: World) -> None:
    world.monitor.block("192.0.2.0/24")
    world.transport.drain()


def stop(world: World) -> None:
    world.monitor.stop(0)
    world.clock.advance(0)
    world.transport.drain()


def stop_now(world: World) -> None:
    world.monitor.stop_now()
    world.transport.drain()


SERVER_ENDS: list[tuple[Callable[[World], None], tuple[str, str, str]]] = [
    (peer_fin, ("client_closed", "fin", "none")),
    (peer_reset, ("client_reset", "reset", "none")),
    (our_close, ("backend_closed", "none", "fin")),
    (close_beneath, ("backend_closed", "none", "fin")),
    (our_abort, ("backend_reset", "none", "reset")),
    (abort_after_close, ("backend_reset", "none", "reset")),
    (abort_after_our_half, ("backend_closed", "none", "fin")),
    (reset_after_close, ("client_reset", "reset", "none")),
    (fin_after_our_half, ("backend_closed", "fin", "fin")),
    (exception_in_the_protocol, ("error", "none", "none")),
    (operator, ("operator", "none", "none")),
    (operator_by_reset, ("operator", "none", "none")),
    (block, ("blocked", "none", "none")),
    (stop, ("stopping", "none", "none")),
    (stop_now, ("stopping", "none", "none")),
]


@pytest.mark.parametrize(("how", "ends"), SERVER_ENDS, ids=[how.__name__ for how, _ in SERVER_ENDS])
def test_every_end_has_its_reason_and_comes_once(
    how: Callable[[World], None], ends: tuple[str, str, str]
) -> None:
    world = World()
    how(world)
    assert world.ends == ends
    assert world.record.state == "closed"
    assert world.hooks == ["opened", "closed"]
    assert (len(world.monitor), world.factory.protocols) == (0, {})
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        (peer_fin, ("backend_closed", "none", "fin")),
        (peer_reset, ("backend_reset", "none", "reset")),
        (our_close, ("client_closed", "fin", "none")),
        (our_abort, ("client_reset", "reset", "none")),
        (fin_after_our_half, ("client_closed", "fin", "fin")),
    ],
)
def test_on_a_clients_connection_the_sides_are_exchanged(
    how: Callable[[World], None], ends: tuple[str, str, str]
) -> None:
    world = World(is_client=True)
    how(world)
    assert world.ends == ends


@pytest.mark.parametrize(
    ("error_number", "ends"),
    [
        (errno.ETIMEDOUT, ("client_lost", "timeout", "none")),
        (errno.EHOSTUNREACH, ("client_lost", "timeout", "none")),
        (errno.ECONNRESET, ("client_reset", "reset", "none")),
        (errno.EPIPE, ("client_reset", "reset", "none")),
    ],
)
def test_a_vanished_peer_is_lost_and_not_reset(
    error_number: int, ends: tuple[str, str, str]
) -> None:
    world = World(transport=TransportWithSocket)
    world.transport.socket.error_number = error_number  # type: ignore[attr-defined]
    world.transport.peer_resets()
    assert world.ends == ends


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel say that no peer answers: five retransmissions in six seconds."""
    raw = bytearray(TCP_INFO_BYTES)
    raw[0], raw[tcpinfo.RETRANSMITS] = 1, 5  # established
    struct.pack_into("=I", raw, 8, 6_400_000)  # the retransmission timeout, in µs
    struct.pack_into("=2I", raw, 52, 7_000, 7_000)  # last heard, in ms
    monkeypatch.setattr(ErrorTrackingSocket, "tcp_info", lambda _: bytes(raw))


def half_close_by_peer(world: World) -> None:
    world.transport.socket.has_ended = True  # type: ignore[attr-defined]
    world.transport.peer_ends()


def half_close_by_us(world: World) -> None:
    world.wrapper.loseWriteConnection()
    world.transport.drain()


def lost_by_errno(error_number: int) -> Callable[[World], None]:
    def fail(world: World) -> None:
        world.transport.socket.error_number = error_number  # type: ignore[attr-defined]
        world.transport.peer_resets()

    return fail


def idle_too_long(world: World) -> None:
    world.clock.advance(60)
    world.transport.drain()


@pytest.mark.parametrize(
    ("before", "how", "ends", "closed_by"),
    [
        (None, our_close, ("client_lost", "timeout", "fin"), "backend"),
        (None, our_abort, ("client_lost", "timeout", "reset"), "backend"),
        (None, idle_too_long, ("client_lost", "timeout", "none"), "client"),
        (None, exception_in_the_protocol, ("error", "none", "none"), "monconn"),
        (None, operator, ("operator", "none", "none"), "operator"),
        (None, lost_by_errno(errno.ECONNRESET), ("client_reset", "reset", "none"), "client"),
        (half_close_by_us, our_close, ("client_lost", "timeout", "fin"), "backend"),
        (half_close_by_peer, our_close, ("client_lost", "timeout", "fin"), "client"),
        (half_close_by_peer, idle_too_long, ("client_lost", "timeout", "none"), "client"),
    ],
)
def test_a_peer_that_does_not_answer_is_lost_whoever_ends(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[World], None] | None,
    how: Callable[[World], None],
    ends: tuple[str, str, str],
    closed_by: str,
) -> None:
    world = World(
        HalfCloseable,
        timeouts=Timeouts(write_timeout=0, max_idle=60),
        transport=TransportWithSocket,
    )
    world.clock.advance(10)
    if before is not None:
        before(world)
    unreachable(monkeypatch)
    how(world)
    assert world.ends == ends
    assert world.record.closed_by == closed_by


@pytest.mark.parametrize(
    ("error_number", "ends"),
    [
        (errno.ECONNRESET, ("client_closed", "fin", "none")),
        (errno.EPIPE, ("client_closed", "fin", "none")),
        (errno.ETIMEDOUT, ("client_lost", "timeout", "none")),
    ],
)
def test_a_reset_after_an_end_in_order_changes_nothing(
    error_number: int, ends: tuple[str, str, str]
) -> None:
    world = World(HalfCloseable, transport=TransportWithSocket)
    half_close_by_peer(world)
    world.wrapper.write(b"the answer")
    lost_by_errno(error_number)(world)
    assert world.ends == ends
    assert world.record.closed_by == "client"


def test_a_reset_after_our_end_is_one() -> None:
    world = World(HalfCloseable, transport=TransportWithSocket)
    half_close_by_us(world)
    lost_by_errno(errno.ECONNRESET)(world)
    assert world.ends == ("client_reset", "reset", "fin")


def test_an_error_has_its_own_text() -> None:
    world = World()
    exception_in_the_protocol(world)
    assert world.record.detail == "ValueError: of the protocol"


def test_a_tls_error_is_an_error_with_its_text() -> None:
    world = World(transport=TlsTransport)
    world.wrapper.startTLS(object())
    world.transport.connectionLost(Failure(SSL.Error([("SSL routines", "", "no shared cipher")])))
    assert world.ends == ("error", "none", "none")
    assert "cipher" in world.record.detail
    assert "[" not in world.record.detail


def test_a_tls_connection_without_close_notify_has_ended_in_order() -> None:
    world = World(transport=TlsTransport)
    world.wrapper.startTLS(object())
    world.transport.peer_resets()  # ConnectionLost, and no error on the socket
    assert world.ends == ("client_closed", "fin", "none")


def test_the_peer_may_end_first_and_read_on() -> None:
    world = World(HalfCloseable)
    world.clock.advance(2)
    world.transport.peer_sends(b"question")
    world.transport.peer_ends()
    assert world.record.state == "half_closed"
    assert (world.record.half_closed, world.record.client_end) == (2, "fin")
    world.wrapper.write(b"late answer")
    our_close(world)
    assert world.inner.calls == ["made", b"question", "read end", error.ConnectionDone]
    assert world.transport.written == b"late answer"
    assert world.ends == ("client_closed", "fin", "fin")


def test_we_may_end_first_and_read_on() -> None:
    world = World(HalfCloseable)
    world.wrapper.write(b"question")
    world.wrapper.loseWriteConnection()
    world.transport.drain()
    assert world.record.state == "half_closed"
    assert world.transport.ended_writing
    world.transport.peer_sends(b"late answer")
    world.transport.peer_ends()
    our_close(world)
    assert world.inner.calls == [
        *("made", "write end", b"late answer", "read end"),
        error.ConnectionDone,
    ]
    assert world.ends == ("backend_closed", "fin", "fin")


def test_without_half_close_the_peers_end_is_the_end() -> None:
    world = World(RecordingProtocol)
    world.transport.peer_ends()
    assert world.inner.calls == ["made", error.ConnectionDone]
    assert world.ends == ("client_closed", "fin", "none")


def test_a_second_connection_lost_is_harmless() -> None:
    world = World()
    for _ in range(2):
        world.wrapper.connectionLost(Failure(error.ConnectionDone()))
    assert world.inner.calls == ["made", error.ConnectionDone]
    assert world.hooks == ["opened", "closed"]
    assert world.monitor.stats()["total"] == 1


def test_the_first_reason_is_retained() -> None:
    world = World()
    world.monitor.close(world.record.id)
    world.transport.peer_resets()
    assert world.ends == ("operator", "none", "none")


# -- ends by us


def test_our_close_delivers_pending_bytes() -> None:
    world = World()
    world.wrapper.write(b"under way")
    world.monitor.close(world.record.id)
    assert world.record.state == "closing"
    world.transport.drain()
    assert world.transport.written == b"under way"
    assert not world.transport.aborted


def test_our_reset_does_not_wait() -> None:
    world = World()
    world.wrapper.write(b"under way")
    world.monitor.close(world.record.id, reset=True)
    assert world.transport.aborted


def test_a_peer_that_does_not_take_its_end_is_reset_after_a_grace() -> None:
    world = World()
    world.wrapper.write(b"never taken")
    world.monitor.close(world.record.id)
    world.clock.advance(GRACE_SECONDS - 0.1)
    assert not world.transport.aborted
    world.clock.advance(0.1)
    assert world.transport.aborted
    world.transport.drain()
    assert world.record.reason == "operator"
    assert world.clock.getDelayedCalls() == []


def test_a_second_end_does_not_lengthen_the_grace() -> None:
    world = World()
    world.wrapper.write(b"never taken")
    world.monitor.close(world.record.id)
    world.clock.advance(GRACE_SECONDS - 1)
    world.monitor.close(world.record.id)
    world.clock.advance(1)
    assert world.transport.aborted


def test_a_second_end_may_be_a_reset() -> None:
    world = World()
    world.wrapper.write(b"never taken")
    world.monitor.close(world.record.id)
    world.monitor.close(world.record.id, reset=True)
    assert world.transport.aborted


def test_an_end_that_comes_at_once_leaves_no_timer() -> None:
    world = World(HalfCloseable)
    world.wrapper.loseWriteConnection()
    world.transport.drain()  # from here on, Twisted's loseConnection closes within the call
    world.monitor.close(world.record.id)
    assert world.record.state == "closed"
    assert world.clock.getDelayedCalls() == []


def test_the_wrapped_protocol_sees_that_we_are_closing() -> None:
    world = World()
    world.monitor.close(world.record.id)
    assert world.wrapper.disconnecting


def test_our_close_does_not_wait_for_a_push_producer() -> None:
    world = World()
    producer = PushProducer()
    world.wrapper.registerProducer(producer, True)
    world.wrapper.write(bytes(100_000))
    world.monitor.close(world.record.id)
    world.transport.drain()
    assert producer.calls == ["pause", "stop"]
    assert len(world.transport.written) == 100_000
    assert world.hooks[-1] == "closed"
    assert not world.transport.aborted


def test_our_close_does_not_wait_for_a_pull_producer() -> None:
    world = World()
    producer = PullProducer(world.wrapper, [b"one", b"two", b"three"])
    world.wrapper.registerProducer(producer, False)
    world.monitor.close(world.record.id)
    world.transport.drain()
    assert world.transport.written == b"one"
    assert producer.stopped
    assert world.hooks[-1] == "closed"


def test_a_producer_that_fails_to_stop_affects_no_other_connection(
    logged_failures: list[Failure],
) -> None:
    class Stubborn(PushProducer):
        def stopProducing(self) -> None:
            raise RuntimeError("of the producer")

    world = World()
    world.wrapper.registerProducer(Stubborn(), True)
    _, other = connect(world.factory)
    world.monitor.block("192.0.2.1")
    other.drain()
    assert other.disconnected
    assert logged_failures[0].check(RuntimeError)
    logged_failures.clear()
    world.clock.advance(GRACE_SECONDS)
    world.transport.drain()
    assert len(world.monitor) == 0


def test_a_transport_that_cannot_reset_is_closed() -> None:
    class Bare:
        """All that ITransport asks for."""

        closed = False
        write = writeSequence = getPeer = getHost = lambda *_: None

        def loseConnection(self) -> None:
            self.closed = True

    monitor = make_monitor()
    wrapper = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)).buildProtocol(None)
    transport = Bare()
    wrapper.makeConnection(transport)
    monitor.close(wrapper.record.id, reset=True)
    assert transport.closed


# -- refusals


def refuses_to_build() -> Factory:
    class MustNotBuild(Factory):
        def buildProtocol(self, addr: Any) -> None:
            raise AssertionError("a refused client reached the wrapped factory")

    return MustNotBuild()


def blocked(monitor: Monitor) -> None:
    monitor.block("192.0.2.1")


def full(monitor: Monitor) -> None:
    monitor.rules.conn_limit = 1
    connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)), "192.0.2.1")


def full_of_others(monitor: Monitor) -> None:
    monitor.rules.ip_limit = 1
    connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)), "192.0.2.2")


def not_allowed(monitor: Monitor) -> None:
    monitor.rules.allow = ["10.0.0.0/8"]


def full_of_its_own(monitor: Monitor) -> None:
    monitor.rules.per_ip_limit = 1
    connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)), "192.0.2.1")


def too_fast(monitor: Monitor) -> None:
    monitor.rules.rate = "1/h"
    connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)), "192.0.2.2")


def comes_too_often(monitor: Monitor) -> None:
    monitor.rules.per_ip_rate = "1/h"
    connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)), "192.0.2.1")


def stopping(monitor: Monitor) -> None:
    monitor.stop(60)


@pytest.mark.parametrize(
    ("prepare", "refusal"),
    [
        (blocked, "blocked"),
        (full, "conn_limit"),
        (full_of_others, "ip_limit"),
        (not_allowed, "not_allowed"),
        (full_of_its_own, "per_ip_limit"),
        (too_fast, "rate"),
        (comes_too_often, "per_ip_rate"),
        (stopping, "stopping"),
    ],
)
def test_a_refused_client_never_reaches_the_wrapped_factory(
    prepare: Callable[[Monitor], None], refusal: str
) -> None:
    monitor = make_monitor()
    prepare(monitor)
    live = len(monitor)
    observer = RecordingObserver()
    monitor.add_observer(observer)
    _, transport = connect(MonitoringFactory(monitor, refuses_to_build()), "192.0.2.1")
    transport.drain()
    assert transport.disconnected
    ((hook, record),) = observer.events
    assert (hook, record.refusal, record.client) == ("refused", refusal, "192.0.2.1:50000")
    assert monitor.stats()["refused_by"] == {refusal: 1}
    assert len(monitor) == live


def test_a_refused_client_that_sends_and_never_ends_is_closed() -> None:
    monitor = make_monitor()
    monitor.block("192.0.2.1")
    _, transport = connect(MonitoringFactory(monitor, refuses_to_build()))
    transport.peer_sends(b"hello?")
    transport.drain()
    assert transport.disconnected


def test_an_outgoing_connection_that_is_refused_has_no_protocol() -> None:
    monitor = make_monitor(rules=Rules(conn_limit=1))
    factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol), is_client=True)
    assert connect(factory)[0] is not None
    assert connect(factory)[0] is None
    assert monitor.stats()["refused_by"] == {"conn_limit": 1}


def test_a_limit_on_client_addresses_leaves_outgoing_connections_alone() -> None:
    monitor = make_monitor(rules=Rules(ip_limit=1))
    factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol), is_client=True)
    assert [connect(factory)[0] is not None for _ in range(3)] == [True] * 3


def test_rules_of_clients_leave_outgoing_connections_alone() -> None:
    policy = Policy.of(allow=["10.0.0.0/8"], per_ip_limit=1, per_ip_rate="1/h", ip_limit=1)
    monitor = make_monitor(policy=policy)
    factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol), is_client=True)
    assert [connect(factory)[0] is not None for _ in range(3)] == [True] * 3
    monitor.rules.rate = "1/h"  # those of the service are about all
    assert [connect(factory)[0] is not None for _ in range(2)] == [True, False]


def test_a_dry_run_lets_clients_in_and_counts_them() -> None:
    monitor = make_monitor(policy=Policy.of(allow=["10.0.0.0/8"], dry_run=["allow"]))
    factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol))
    assert connect(factory, "192.0.2.1")[0] is not None
    assert monitor.stats()["would_refuse"] == {"not_allowed": 1}


def test_a_closed_connection_gives_its_slot_back_once() -> None:
    monitor = make_monitor(rules=Rules(conn_limit=2))
    factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol))
    pairs = [connect(factory) for _ in range(2)]
    wrapper, transport = pairs[0]
    transport.peer_ends()
    wrapper.connectionLost(Failure(error.ConnectionDone()))
    assert len(monitor) == 1
    connect(factory)
    assert len(monitor) == 2
    assert connect(factory)[1].connected  # full: RefusedProtocol closes it in the next turn
    assert len(monitor) == 2


# -- time limits


class CountingClock(Clock):
    """A clock that counts what is asked of its timers."""

    asked = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        call = super().callLater(*args, **kwargs)
        for name in ("cancel", "reset", "delay"):
            setattr(call, name, self._counted(getattr(call, name)))
        return call

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.asked += 1
            return method(*args)

        return counted


def test_chunks_cost_no_timer() -> None:
    clock = CountingClock()
    monitor = make_monitor(clock=clock, timeouts=Timeouts(max_idle=10, read_timeout=20))
    wrapper, transport = connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)))
    assert clock.asked == 1  # set once, at the opening
    for _ in range(1000):
        transport.peer_sends(b"chunk")
        wrapper.write(b"chunk")
        wrapper.writeSequence([b"chunk"])
    assert clock.asked == 1


def test_the_timer_is_set_anew_from_the_last_byte_when_it_is_due() -> None:
    world = World(timeouts=Timeouts(max_idle=10, write_timeout=0))
    world.clock.advance(7)
    world.transport.peer_sends(b"chunk")
    (timer,) = world.clock.getDelayedCalls()
    set_for = timer.getTime()
    assert 7 < set_for <= 10
    world.clock.advance(set_for - 7)
    (timer,) = world.clock.getDelayedCalls()
    assert set_for < timer.getTime() <= 17


def test_without_limits_there_is_no_timer() -> None:
    assert World(timeouts=NO_LIMITS).clock.getDelayedCalls() == []


def test_idle_counts_from_the_opening() -> None:
    world = World(timeouts=Timeouts(max_idle=10, write_timeout=0))
    world.wrapper.write(b"under way")
    world.clock.advance(9.9)
    assert world.record.reason is None
    world.clock.advance(0.1)
    world.transport.drain()
    assert world.record.reason == "idle_timeout"
    assert not world.transport.aborted


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bytes_of_either_direction_keep_a_connection_from_being_idle(direction: str) -> None:
    world = World(timeouts=Timeouts(max_idle=10, write_timeout=0))
    for _ in range(5):
        world.clock.advance(9)
        if direction == "up":
            world.transport.peer_sends(b"1")
        else:
            world.wrapper.write(b"1")
    world.clock.advance(9.9)
    assert world.record.reason is None
    world.clock.advance(0.1)
    assert world.record.reason == "idle_timeout"


def test_a_lifetime_ends_the_busiest_connection() -> None:
    world = World(timeouts=Timeouts(max_lifetime=10, max_idle=3, write_timeout=0))
    for _ in range(10):
        assert world.record.reason is None
        world.clock.advance(1)
        world.transport.peer_sends(b"1")
    assert world.record.reason == "lifetime"


def test_a_silent_client_is_timed_out_whatever_is_written_to_it() -> None:
    world = World(timeouts=Timeouts(read_timeout=10, max_idle=0, write_timeout=0))
    for _ in range(10):
        assert world.record.reason is None
        world.clock.advance(1)
        world.wrapper.write(b"1")
        world.transport.drain()
    world.transport.drain()
    assert world.ends == ("read_timeout", "timeout", "none")


def test_a_client_that_we_paused_is_not_silent() -> None:
    world = World(timeouts=Timeouts(read_timeout=10, max_idle=0, write_timeout=0))
    world.clock.advance(5)
    world.wrapper.pauseProducing()
    world.clock.advance(100)
    assert world.record.reason is None
    world.wrapper.resumeProducing()
    world.clock.advance(9.9)
    assert world.record.reason is None
    world.clock.advance(0.1)
    assert world.record.reason == "read_timeout"


def test_a_redundant_resume_does_not_restart_the_read_timeout() -> None:
    world = World(timeouts=Timeouts(read_timeout=10, max_idle=0, write_timeout=0))
    world.clock.advance(9)
    world.wrapper.resumeProducing()
    world.clock.advance(1)
    assert world.record.reason == "read_timeout"


def test_a_client_that_has_ended_its_side_is_not_silent() -> None:
    world = World(HalfCloseable, timeouts=Timeouts(read_timeout=10, max_idle=0, write_timeout=0))
    world.transport.peer_ends()
    world.clock.advance(100)
    assert world.record.reason is None


def test_our_own_silence_on_an_outgoing_connection_is_no_timeout() -> None:
    world = World(timeouts=Timeouts(read_timeout=10, max_idle=0, write_timeout=0), is_client=True)
    for _ in range(30):
        world.transport.peer_sends(b"news")
        world.clock.advance(1)
    world.wrapper.pauseProducing()
    world.wrapper.resumeProducing()
    world.clock.advance(30)
    assert world.record.reason is None


def test_a_resume_after_the_end_sets_no_timer() -> None:
    world = World(timeouts=Timeouts(read_timeout=10))
    world.wrapper.pauseProducing()
    world.transport.peer_resets()
    world.wrapper.resumeProducing()
    assert world.clock.getDelayedCalls() == []


def test_a_resume_while_we_are_closing_leaves_the_grace_as_it_is() -> None:
    world = World(timeouts=Timeouts(read_timeout=1))
    world.wrapper.pauseProducing()
    world.wrapper.write(b"never taken")
    world.monitor.close(world.record.id)
    world.wrapper.resumeProducing()
    (timer,) = world.clock.getDelayedCalls()
    assert timer.getTime() == GRACE_SECONDS


def test_a_write_that_is_stuck_is_timed_out_and_reset() -> None:
    world = World(timeouts=Timeouts(write_timeout=40, max_idle=0))
    world.wrapper.write(b"never taken")
    for _ in range(40):
        world.clock.advance(1)
    assert not world.transport.aborted
    for _ in range(11):  # checked every 10 s; the first check finds bytes pending
        world.clock.advance(1)
    assert world.transport.aborted
    world.transport.drain()
    assert world.ends == ("write_timeout", "timeout", "none")


def test_a_slow_reader_is_not_stuck() -> None:
    world = World(timeouts=Timeouts(write_timeout=40, max_idle=0))
    for _ in range(200):
        world.wrapper.write(b"taken late")
        world.clock.advance(1)
        if world.clock.seconds() % 30 == 0:
            world.transport.drain()
    assert world.record.reason is None


def test_on_an_outgoing_connection_it_is_the_backend_that_is_stuck() -> None:
    world = World(timeouts=Timeouts(write_timeout=40, max_idle=0), is_client=True)
    world.wrapper.write(b"never taken")
    for _ in range(51):
        world.clock.advance(1)
    world.transport.drain()
    assert world.ends == ("write_timeout", "none", "timeout")


@pytest.mark.parametrize("first", ["peer", "we"])
def test_a_half_closed_connection_has_a_limit_of_its_own(first: str) -> None:
    limits = Timeouts(half_close_timeout=10, max_idle=0, write_timeout=0)
    world = World(HalfCloseable, timeouts=limits)
    world.clock.advance(100)
    if first == "peer":
        world.transport.peer_ends()
    else:
        world.wrapper.loseWriteConnection()
        world.transport.drain()
    world.clock.advance(9.9)
    assert world.record.reason is None
    world.clock.advance(0.1)
    world.transport.drain()
    assert world.record.reason == "half_close_timeout"


def test_bytes_keep_a_half_closed_connection() -> None:
    limits = Timeouts(half_close_timeout=10, max_idle=0, write_timeout=0)
    world = World(HalfCloseable, timeouts=limits)
    world.transport.peer_ends()
    for _ in range(5):
        world.clock.advance(9)
        world.wrapper.write(b"late")
    assert world.record.reason is None


# -- observers


class Failing(Observer):
    watches_payload = True

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, *_: object) -> None:
        raise RuntimeError("of the observer")


@pytest.mark.parametrize("hook", ["opened", "data", "closed", "refused"])
def test_a_failing_observer_is_switched_off_and_affects_no_other(
    hook: str, logged_failures: list[Failure]
) -> None:
    monitor = make_monitor(rules=Rules(conn_limit=1))
    other = RecordingObserver()
    monitor.add_observer(Failing(hook))
    monitor.add_observer(other)
    for _ in range(2):
        factory = MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol))
        wrapper, transport = connect(factory)
        connect(factory)  # refused
        transport.peer_sends(b"question")
        wrapper.write(b"answer")
        transport.peer_ends()
        assert transport.written == b"answer"
        assert (wrapper.record.up, wrapper.record.down) == (8, 6)
    assert [event[0] for event in other.events] == [
        *("opened", "refused", "data", "data", "closed") * 2
    ]
    (failure,) = logged_failures
    assert failure.check(RuntimeError)
    logged_failures.clear()


def test_an_observer_may_close_a_connection_within_its_data() -> None:
    world = World(HalfCloseable)
    world.wrapper.loseWriteConnection()
    world.transport.drain()  # from here on, Twisted's loseConnection closes within the call

    class Closer(Observer):
        watches_payload = True

        def data(self, record: ConnectionRecord, direction: str, data: bytes) -> None:
            world.monitor.close(record.id)

    world.monitor.add_observer(Closer())
    world.transport.peer_sends(b"the last straw")
    assert world.hooks == ["opened", "closed"]
    assert world.ends == ("operator", "none", "fin")
    assert world.inner.calls == ["made", "write end", error.ConnectionDone]


@pytest.mark.parametrize("reset", [False, True])
def test_an_observer_may_close_a_connection_at_once(reset: bool) -> None:
    class ClosesAtOnce(Observer):
        def opened(self, record: ConnectionRecord) -> None:
            monitor.close(record.id, reset=reset)

    clock = Clock()
    monitor = make_monitor(clock=clock)
    monitor.add_observer(ClosesAtOnce())
    wrapper, transport = connect(MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol)))
    if not reset:
        clock.advance(GRACE_SECONDS)
    assert transport.aborted
    transport.drain()
    assert wrapper.record.reason == "operator"
    assert len(monitor) == 0


# -- nothing changes: the same script, with a wrapper and without


class Scripted(RecordingProtocol):
    """Executes a script; its producers are stored."""

    producer: PushProducer | None = None

    def do(self, what: str) -> None:
        getattr(self, f"do_{what}")(self.transport)

    def do_write(self, transport: Any) -> None:
        transport.write(b"written")

    def do_write_much(self, transport: Any) -> None:
        transport.write(bytes(70_000))

    def do_sequence(self, transport: Any) -> None:
        transport.writeSequence([b"a", b"", b"sequence"])

    def do_pause(self, transport: Any) -> None:
        transport.pauseProducing()

    def do_resume(self, transport: Any) -> None:
        transport.resumeProducing()

    def do_push(self, transport: Any) -> None:
        self.do_leave(transport)
        self.producer = PushProducer()
        self.calls.append(self.producer.calls)
        transport.registerProducer(self.producer, True)

    def do_pull(self, transport: Any) -> None:
        self.do_leave(transport)
        transport.registerProducer(PullProducer(transport, [b"pulled", b"twice"]), False)

    def do_leave(self, transport: Any) -> None:
        transport.unregisterProducer()

    def do_lose_write(self, transport: Any) -> None:
        transport.loseWriteConnection()

    def do_lose(self, transport: Any) -> None:
        transport.loseConnection()

    def do_abort(self, transport: Any) -> None:
        transport.abortConnection()

    def do_stop(self, transport: Any) -> None:
        transport.stopProducing()


class HalfCloseableScripted(Scripted, HalfCloseable):
    pass


PEER_STEPS: dict[str, Callable[[MemoryTransport], None]] = {
    "peer sends": lambda transport: transport.peer_sends(b"sent"),
    "peer ends": lambda transport: transport.peer_ends(),
    "peer resets": lambda transport: transport.peer_resets(),
    "fill": lambda transport: transport.fill(),
    "drain": lambda transport: transport.drain(),
}
OUR_STEPS = [name.removeprefix("do_") for name in dir(Scripted) if name.startswith("do_")]


def transcript(factory: IProtocolFactory, script: list[str]) -> list[Any]:
    """All that both sides see of a script."""
    built, transport = connect(factory)
    protocol: Any = built.wrappedProtocol if isinstance(built, ProtocolWrapper) else built
    seen: list[Any] = []
    for step in script:
        if transport.disconnected:
            break
        if step in PEER_STEPS:
            PEER_STEPS[step](transport)
        else:
            protocol.do(step)
        seen.append((step, transport.written, transport.reading, transport.waiting))
    return [
        seen,
        protocol.calls,
        transport.ended_writing,
        transport.aborted,
        transport.disconnected,
    ]


@given(
    script=st.lists(st.sampled_from([*PEER_STEPS, *OUR_STEPS]), max_size=25),
    protocol=st.sampled_from([Scripted, HalfCloseableScripted]),
    is_client=st.booleans(),
)
def test_a_wrapped_protocol_behaves_as_without_the_wrapper(
    script: list[str], protocol: type[Scripted], is_client: bool
) -> None:
    monitor = make_monitor(timeouts=NO_LIMITS)
    plain = Factory.forProtocol(protocol)
    wrapped = MonitoringFactory(monitor, Factory.forProtocol(protocol), is_client=is_client)
    without, with_us = transcript(plain, script), transcript(wrapped, script)
    assert with_us == without
    is_closed = without[-1]
    assert len(monitor) == (0 if is_closed else 1)
    records = [*monitor.connections(), *monitor.closed_records]
    assert len(records) == 1
    assert (records[0].reason is not None) == bool(is_closed)


def chunks_of(data: bytes) -> Iterator[bytes]:
    yield from (data[at : at + 7] for at in range(0, len(data), 7))


@given(up=st.lists(st.binary(max_size=50)), down=st.lists(st.binary(max_size=50)))
def test_counts_are_exact_at_every_moment(up: list[bytes], down: list[bytes]) -> None:
    world = World()
    for data in up:
        if data:
            world.transport.peer_sends(data)
    for data in down:
        world.wrapper.writeSequence(chunks_of(data))
        assert world.record.down == len(world.transport.written)
    watched = {"up": b"", "down": b""}
    for event in world.observer.events[1:]:
        watched[event[2]] += event[3]
    assert watched == {"up": b"".join(up), "down": b"".join(down)}
    before = world.monitor.bytes()
    world.transport.peer_resets()
    assert before == world.monitor.bytes() == (len(watched["up"]), len(watched["down"]))


def test_a_custom_protocol_class_may_be_used() -> None:
    class Labelled(MonitoringProtocol):
        label = "mine"

    class LabellingFactory(MonitoringFactory):
        protocol = Labelled

    wrapper, _ = connect(LabellingFactory(make_monitor(), Factory.forProtocol(RecordingProtocol)))
    assert wrapper.label == "mine"


def test_a_protocol_may_be_replaced_on_a_live_connection() -> None:
    """As WebSocket servers do: what they find is a ``ProtocolWrapper``."""
    world = World()
    successor = HalfCloseable()
    world.wrapper.wrappedProtocol = successor
    successor.makeConnection(world.wrapper)
    world.transport.peer_sends(b"frame")
    assert successor.calls == ["made", b"frame"]
    alsoProvides(world.wrapper, IHalfCloseableProtocol)
    world.transport.peer_ends()
    assert successor.calls[-1] == "read end"


# -- lines for people


def test_a_connection_in_one_line() -> None:
    world = World()
    world.transport.peer_sends(bytes(2048))
    world.clock.advance(65)
    assert world.record.describe(world.clock.seconds()) == (
        "192.0.2.1:50000 open, 1m05s old, idle 1m05s, up 2.0 KiB, down 0 B"
    )
    exception_in_the_protocol(world)
    world.clock.advance(100)
    assert world.record.describe(world.clock.seconds()) == (
        "192.0.2.1:50000 error after 1m05s, up 2.0 KiB, down 0 B (ValueError: of the protocol)"
    )


def test_a_refused_client_in_one_line() -> None:
    world = World()
    world.monitor.block("192.0.2.1")
    connect(world.factory)
    refused = world.observer.events[-1][1]
    assert refused.describe(0) == "192.0.2.1:50000 refused: blocked"


def test_a_service_in_one_line() -> None:
    world = World(rules=Rules(conn_limit=2))
    connect(world.factory)
    connect(world.factory)
    world.transport.peer_sends(b"12345")
    world.wrapper.write(b"123")
    world.transport.peer_ends()
    world.clock.advance(12.34)
    assert world.monitor.describe() == (
        "test: connections 1, ips 1, total 2, refused 1, up 5 B, down 3 B, uptime 12.3s"
    )


# -- another policy while connections live


@pytest.mark.parametrize("before", [0, 3600])  # switched on, and shortened
def test_max_idle_applies_to_live_connections(before: float) -> None:
    world = World(timeouts=Timeouts(max_idle=before, write_timeout=0))
    world.clock.advance(5)
    world.monitor.timeouts = Timeouts(max_idle=10, write_timeout=0)
    world.clock.advance(4.9)
    assert world.record.reason is None
    world.clock.advance(0.1)
    assert world.record.reason == "idle_timeout"


def test_a_limit_that_was_switched_off_no_longer_applies() -> None:
    world = World(timeouts=Timeouts(max_idle=10, write_timeout=0))
    world.monitor.timeouts = NO_LIMITS
    world.clock.advance(3600)
    assert world.record.reason is None


def test_another_policy_leaves_the_grace_period_as_it_is() -> None:
    world = World(timeouts=NO_LIMITS)
    world.transport.fill()
    world.wrapper.write(b"x")
    world.monitor.close(world.record.id)
    world.monitor.timeouts = Timeouts(max_idle=3600)
    world.clock.advance(GRACE_SECONDS)
    assert world.transport.aborted


def test_keepalive_is_the_policys_unless_it_is_given() -> None:
    def has_keepalive(policy: Policy, **kwargs: Any) -> bool:
        monitor = make_monitor(policy=policy)
        return MonitoringFactory(monitor, Factory.forProtocol(Protocol), **kwargs).has_keepalive()

    assert has_keepalive(Policy())
    assert not has_keepalive(Policy(keepalive=False))
    assert has_keepalive(Policy(keepalive=False), keepalive=True)
    assert not has_keepalive(Policy(), keepalive=False)


@pytest.mark.parametrize(
    ("monitor", "factory", "message"),
    [
        (None, None, r"^MonitoringFactory\(monitor=None\): must be a Monitor, as monconn\.new"),
        (
            make_monitor(),
            None,
            r"^MonitoringFactory\(wrapped=None\): must be a factory, with build",
        ),
        (make_monitor(), Protocol(), r"must be a factory, with buildProtocol\(\)$"),
    ],
)
def test_invalid_monitors_and_factories(monitor: Any, factory: Any, message: str) -> None:
    with pytest.raises(SettingTypeError, match=message):
        MonitoringFactory(monitor, factory)


# -- a watcher of one connection


def test_one_connection_can_be_watched_alone() -> None:
    world = World(timeouts=NO_LIMITS)
    other, transport = connect(world.factory)
    seen: list[tuple[str, bytes]] = []
    cancel = world.monitor.watch(world.record.id, lambda *chunk: seen.append(chunk))
    transport.peer_sends(b"not mine")
    world.transport.peer_sends(b"up")
    world.wrapper.write(b"down")
    world.wrapper.writeSequence(iter([b"more", b"and more"]))
    assert seen == [("up", b"up"), ("down", b"down"), ("down", b"more"), ("down", b"and more")]
    cancel()
    cancel()  # harmless
    world.wrapper.write(b"unseen")
    assert len(seen) == 4
    assert verifyObject(IWatchable, other)


def test_first_and_last_bytes_are_recorded_as_a_service_has_it() -> None:
    world = World(timeouts=NO_LIMITS)
    assert world.monitor.recorder.events(world.record.id) is None
    world.monitor.apply(Policy.of(recorder=RecorderSettings(first=2, last=3)))
    wrapper, transport = connect(world.factory)
    transport.peer_sends(b"question")
    wrapper.writeSequence(iter([b"a", b"nswer"]))
    assert verifyObject(IRecordable, wrapper)
    events = world.monitor.recorder.events(wrapper.record.id)
    assert events is not None
    assert [
        (each.direction, each.offset, each.data) for each in events if isinstance(each, Data)
    ] == [
        *(("up", 0, b"qu"), ("up", 5, b"ion")),
        *(("down", 0, b"a"), ("down", 1, b"n"), ("down", 3, b"wer")),
    ]


# -- peers that vanish


def unanswered(times: int) -> bytes:
    """``tcp_info`` of a peer that has not answered so many retransmissions, nor anything lately."""
    raw = bytearray(TCP_INFO_BYTES)
    raw[0], raw[2] = 1, times  # established
    struct.pack_into("=2I", raw, 52, 10_000_000, 10_000_000)
    return bytes(raw)


@pytest.mark.parametrize("is_client", [False, True])
def test_a_peer_that_is_unreachable_for_too_long_is_lost(
    is_client: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = attrs.evolve(NO_LIMITS, unreachable_timeout=10)
    world = World(timeouts=timeouts, is_client=is_client)
    monkeypatch.setattr(world.wrapper, "measure", lambda: world.note_tcp(0))
    world.clock.pump([1.0] * 100)
    assert world.ends[0] is None
    monkeypatch.setattr(world.wrapper, "measure", lambda: world.note_tcp(4))
    world.clock.pump([1.0] * 9)
    assert world.ends[0] is None
    world.clock.pump([1.0] * 5)
    remote = "backend" if is_client else "client"
    assert (world.record.reason, world.record.detail) == (f"{remote}_lost", "unreachable_timeout")
    ends = {"client": world.record.client_end, "backend": world.record.backend_end}
    assert ends == {"client": "none", "backend": "none", remote: "timeout"}
    assert world.transport.aborted


def test_a_time_limit_that_strikes_on_a_vanished_peer_is_not_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(timeouts=Timeouts(write_timeout=0, max_idle=40))
    monkeypatch.setattr(world.wrapper, "measure", lambda: world.note_tcp(4))
    world.note_tcp(4)
    world.clock.pump([1.0] * 41)
    assert (world.record.reason, world.record.detail) == ("client_lost", "idle_timeout")
