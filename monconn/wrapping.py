"""A monitor's eyes around any Twisted factory, server or client.

The wrapped protocol is the *backend* of the connection's record: ``up`` is what it
receives, ``down`` what it writes, and when it ends the connection, the backend did. On a
client's connections the sides are the other way round: ours is the *client*, and the
time limit on a silent client does not apply.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, TimeoutMixin, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from monconn.model.reasons import BROKEN_REASONS, CLOSED_REASONS, Direction, Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.progress import SendProgress
from monconn.net.peers import RefusedProtocol, describe_peer
from monconn.net.sockets import (
    buffered_bytes,
    descriptor_of,
    enable_keepalive,
    end_by_errno,
    peer_pid,
    track_errors,
    unacknowledged_bytes,
)
from monconn.policy.timeouts import GRACE_SECONDS

_FORWARDED = (IHalfCloseableProtocol, IHandshakeListener, IFileDescriptorReceiver)


@implementer(IConnection)
class MonitoringProtocol(ProtocolWrapper, TimeoutMixin):
    """Counts and judges one connection of a wrapped protocol, and changes nothing about it.

    ``write`` counts bytes as they are handed to the transport, which may still hold them.

    :param factory: the :class:`MonitoringFactory`.
    :param wrappedProtocol: what the wrapped factory has built.
    :param record: what :meth:`Monitor.admit` made for the connection.
    """

    factory: MonitoringFactory
    transport: Any
    wrappedProtocol: Any
    _log = Logger()

    def __init__(self, factory: Any, wrappedProtocol: IProtocol, record: ConnectionRecord) -> None:
        super().__init__(factory, wrappedProtocol)
        self.record = record
        self._monitor = factory.monitor
        self._remote: Side = "backend" if factory.is_client else "client"
        self._local: Side = "client" if factory.is_client else "backend"
        self._inward: Direction = "down" if factory.is_client else "up"
        self._outward: Direction = "up" if factory.is_client else "down"
        self._backlog = SendProgress()
        self._first_ended: Side | None = None
        self._descriptor: Any = None
        self._socket: Any = None
        self._aborted = False

    # -- the beginning

    def makeConnection(self, transport: ITransport) -> None:
        """See :class:`IProtocol`. The wrapped protocol is connected last, as its code may raise."""
        self._provide(transport)
        Protocol.makeConnection(self, transport)
        self._descriptor = descriptor_of(transport)
        self._socket = track_errors(self._descriptor)
        if self.factory.keepalive and self._socket is not None:
            enable_keepalive(self._socket)
        self._open()
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)

    def _provide(self, transport: ITransport) -> None:
        directlyProvides(self, providedBy(transport))
        for interface in _FORWARDED:
            if interface.providedBy(self.wrappedProtocol):
                alsoProvides(self, interface)

    def _open(self) -> None:
        record = self.record
        record.client = self._name_of_client()
        record.state = "open"
        record.connected = record.opened
        if self._remote == "client":
            record.reading_since = record.opened
        self._look_again()
        self._monitor.opened(self)

    def _name_of_client(self) -> str:
        if self.factory.is_client:
            return describe_peer(self.transport.getHost())[0]
        if self.record.client == "unix" and self._socket is not None:
            return f"unix:{peer_pid(self._socket)}"
        return self.record.client

    # -- bytes

    def dataReceived(self, data: bytes) -> None:
        """See :class:`IProtocol`."""
        self._count(self._inward, data)
        super().dataReceived(data)

    def write(self, data: bytes) -> None:
        """See :class:`ITransport`."""
        super().write(data)
        self._count(self._outward, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See :class:`ITransport`."""
        pieces = list(data)  # it may be an iterator, which counting would use up
        super().writeSequence(pieces)
        for piece in pieces:
            self._count(self._outward, piece)

    def _count(self, direction: Direction, data: bytes) -> None:
        record, now = self.record, self._monitor.clock.seconds()
        if record.state == "closed":
            return  # nobody takes it any more
        if direction == "up":
            if record.first_up is None:
                record.first_up = now
            record.up += len(data)
            record.last_up = now
        else:
            if record.first_down is None:
                record.first_down, record.asked = now, record.last_up
            record.down += len(data)
            record.last_down = now
        if self._monitor.watched:
            self._monitor.saw(record, direction, data)

    # -- what the wrapped protocol does to its transport

    def pauseProducing(self) -> None:
        """See ``IPushProducer``."""
        self.record.reading_since = None
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        if self.record.reading_since is None and self._remote == "client":
            self._read_on()
        self.transport.resumeProducing()

    def _read_on(self) -> None:
        self.record.reading_since = self._monitor.clock.seconds()
        if self._monitor.timeouts.read_timeout and self.record.ending is None:
            self._look_again()  # which had nothing to wait for while we did not read

    def stopProducing(self) -> None:
        """See ``IProducer``."""
        self.disconnecting = 1
        self.transport.stopProducing()

    def stopConsuming(self) -> None:
        """See ``ProtocolWrapper``."""
        self.disconnecting = 1
        super().stopConsuming()

    def loseWriteConnection(self) -> None:
        """See ``IHalfCloseableDescriptor``."""
        self._half_close(self._local)
        self.transport.loseWriteConnection()

    def abortConnection(self) -> None:
        """See ``ITCPTransport``."""
        self._aborted = True
        self.transport.abortConnection()

    def startTLS(self, *args: Any, **kwargs: Any) -> None:
        """See ``ITLSTransport``."""
        self.transport.startTLS(*args, **kwargs)
        self._provide(self.transport)

    # -- what the transport tells the wrapped protocol

    def readConnectionLost(self) -> None:
        """See ``IHalfCloseableProtocol``."""
        self._half_close(self._remote)
        self.wrappedProtocol.readConnectionLost()

    def _half_close(self, side: Side) -> None:
        self.record.note_end(side, "fin")
        if self._first_ended is None and self.record.state == "open":
            self._first_ended = side
            self.record.state = "half_closed"
            self.record.half_closed = self._monitor.clock.seconds()
            self._look_again()

    def writeConnectionLost(self) -> None:
        """See ``IHalfCloseableProtocol``."""
        self.wrappedProtocol.writeConnectionLost()

    def handshakeCompleted(self) -> None:
        """See ``IHandshakeListener``."""
        self.wrappedProtocol.handshakeCompleted()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """See ``IFileDescriptorReceiver``."""
        self.wrappedProtocol.fileDescriptorReceived(descriptor)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`IProtocol`."""
        self.connected = 0
        self.setTimeout(None)
        self._judge(reason)
        self.measure()
        self._monitor.closed(self)
        wrapped, self.wrappedProtocol = self.wrappedProtocol, None
        self.factory.unregisterProtocol(self)
        if wrapped is not None:
            wrapped.connectionLost(reason)

    def _judge(self, reason: Failure) -> None:
        error_number = getattr(self._socket, "error_number", 0)
        is_tls = ISSLTransport.providedBy(self.transport)
        if self._aborted:
            self.record.note_end(self._local, "reset")
            self._decide(BROKEN_REASONS[self._local, "reset"])
        elif reason.check(error.ConnectionLost) and (error_number or not is_tls):
            how = end_by_errno(error_number)
            self.record.note_end(self._remote, how)
            self._decide(BROKEN_REASONS[self._remote, how])
        elif self.disconnecting:
            self.record.note_end(self._local, "fin")
            self._decide(CLOSED_REASONS[self._first_ended or self._local])
        elif reason.check(error.ConnectionDone, error.ConnectionLost):
            # Lost: its TCP was ended without TLS's close_notify, as many do.
            self.record.note_end(self._remote, "fin")
            self._decide(CLOSED_REASONS[self._first_ended or self._remote])
        else:
            self._decide("error", reason.getErrorMessage())

    def _decide(self, reason: Reason, detail: str = "") -> bool:
        return self.record.end(reason, self._monitor.clock.seconds(), detail)

    # -- ends of ours

    def end(self, reason: Reason, reset: bool = False) -> None:
        """See :class:`IConnection`."""
        is_first = self._decide(reason)
        if reset:
            self._reset()
        elif is_first:
            self.setTimeout(GRACE_SECONDS)
            self._close()

    def measure(self) -> None:
        """See :class:`IConnection`."""
        if self._socket is not None:
            self.record.note_tcp(self._remote, self._socket.tcp_info())

    def _close(self) -> None:
        # What a producer has made is delivered. What it would make might have no end, and
        # TLS waits for it even if it is idle.
        producer = getattr(self.transport, "producer", None)
        try:
            if producer is not None:
                self.transport.unregisterProducer()
                producer.stopProducing()
            self.loseConnection()
        except Exception:  # of the wrapped protocol: whoever ends many goes on with the next
            self._log.failure("{client}: failed to close", client=self.record.client)

    def _reset(self) -> None:
        if hasattr(self.transport, "abortConnection"):
            self.transport.abortConnection()
        else:  # not every transport is a socket's
            self.transport.loseConnection()

    # -- time limits

    def callLater(self, period: float, func: Any) -> Any:
        """See ``TimeoutMixin``: by the monitor's clock."""
        return self._monitor.clock.callLater(period, func)

    def _look_again(self) -> None:
        now = self._monitor.clock.seconds()
        when = self._monitor.timeouts.next_check(self.record, now)
        self.setTimeout(None if when == float("inf") else max(0.0, when - now))

    def timeoutConnection(self) -> None:
        """See ``TimeoutMixin``: look what is due, and set the next look."""
        if self.record.ending is not None:
            self._reset()  # the time of grace is over
            return
        now = self._monitor.clock.seconds()
        waiting = buffered_bytes(self._descriptor)
        if self._socket is not None:
            waiting += unacknowledged_bytes(self._socket)
        written = self.record.down if self._outward == "down" else self.record.up
        moved_after = self._backlog.check(waiting, written - waiting, now)
        self.record.last_delivered = moved_after or self.record.last_delivered
        setattr(self.record, f"{self._remote}_stalled", self._backlog.stalled_since)
        when, reason = self._monitor.timeouts.next_deadline(self.record)
        if reason is None or when > now:
            self._look_again()
            return
        if reason in ("read_timeout", "write_timeout"):
            self.record.note_end(self._remote, "timeout")
        self.end(reason, reset=reason == "write_timeout")


class MonitoringFactory(WrappingFactory):
    """Wraps any factory, so that a monitor sees its connections.

    A client that the monitor refuses is closed before the wrapped factory hears of it.

    :param monitor: the service's monitor.
    :param wrapped: the factory to wrap.
    :param is_client: whether the connections are outgoing ones; left out, a
        ``ClientFactory`` is a client's and any other a server's.
    :param keepalive: whether the system is to ask silent peers if they are still there.
    """

    protocol = MonitoringProtocol

    def __init__(
        self,
        monitor: Monitor,
        wrapped: IProtocolFactory,
        *,
        is_client: bool | None = None,
        keepalive: bool = True,
    ) -> None:
        super().__init__(wrapped)
        self.monitor = monitor
        self.is_client = _is_client(wrapped) if is_client is None else is_client
        self.keepalive = keepalive
        if IProtocolNegotiationFactory.providedBy(wrapped):
            alsoProvides(self, IProtocolNegotiationFactory)

    def acceptableProtocols(self) -> list[bytes]:
        """See ``IProtocolNegotiationFactory``; provided if the wrapped factory does."""
        protocols: list[bytes] = self.wrappedFactory.acceptableProtocols()
        return protocols

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See ``IProtocolFactory``."""
        record = self._admit(addr)
        if record is None:
            return None if self.is_client else RefusedProtocol()
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped, record)

    def _admit(self, addr: Any) -> ConnectionRecord | None:
        peer, peer_ip = describe_peer(addr)
        if self.is_client:
            return self.monitor.admit("local", "local", backend=peer)
        return self.monitor.admit(peer, peer_ip)

    def unregisterProtocol(self, p: Any) -> None:
        """See ``WrappingFactory``; harmless the second time."""
        self.protocols.pop(p, None)


def _is_client(factory: Any) -> bool:
    while isinstance(factory, WrappingFactory):  # itself always a ClientFactory
        factory = factory.wrappedFactory
    return isinstance(factory, ClientFactory)
