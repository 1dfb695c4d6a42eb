"""Monitoring of the connections of any Twisted factory, server or client.

The wrapped protocol is the *backend* of the connection's record: ``up`` is what it
receives, ``down`` what it writes, and when it ends the connection, the backend did. For
outgoing connections it is the other way round: our side is the *client*, and ``read_timeout``
(for a silent client) does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

from monconn.errors import SettingTypeError
from monconn.model.reasons import BROKEN_REASONS, CLOSED_REASONS, Direction, Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IWatchable
from monconn.monitor.monitor import Monitor
from monconn.monitor.progress import SendProgress
from monconn.monitor.watchers import Watch, Watchers
from monconn.net.peers import RefusedProtocol, describe_peer
from monconn.net.sockets import (
    buffered_bytes,
    descriptor_of,
    end_by_errno,
    peer_pid,
    set_keepalive,
    track_errors,
    unacknowledged_bytes,
)
from monconn.policy.sides import Keepalive, check_keepalive
from monconn.policy.timeouts import GRACE_SECONDS

_FORWARDED = (IHalfCloseableProtocol, IHandshakeListener, IFileDescriptorReceiver)


@implementer(IConnection, IWatchable)
class MonitoringProtocol(ProtocolWrapper, TimeoutMixin):
    """Counts the bytes of a wrapped protocol's connection, and records how it ends.

    The wrapped protocol behaves as it does without the wrapper. ``write`` counts bytes as they are
    handed to the transport, which may still hold them.

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
        self._progress = SendProgress()
        self._first_ended: Side | None = None
        self._watchers: Watchers | None = None
        self._descriptor: Any = None
        self._socket: Any = None
        self._aborted = False

    # -- the beginning

    def makeConnection(self, transport: ITransport) -> None:
        """Begin to monitor, and connect the wrapped protocol last, as its code may raise."""
        self._provide_interfaces(transport)
        Protocol.makeConnection(self, transport)
        self._descriptor = descriptor_of(transport)
        self._socket = track_errors(self._descriptor)
        self._keepalive: Keepalive | None = None
        self._set_keepalive()
        record = self.record
        record.client = self._client_name()
        record.state = "open"
        record.connected = record.opened
        if self._remote == "client":
            record.reading_since = record.opened
        self._schedule_check()
        self._monitor.opened(self)
        self.factory.registerProtocol(self)
        self.wrappedProtocol.makeConnection(self)

    def _set_keepalive(self) -> None:
        keepalive = self.factory.chosen_keepalive()
        if self._socket is not None and keepalive != self._keepalive:
            self._keepalive = keepalive
            set_keepalive(self._socket, keepalive)

    def _provide_interfaces(self, transport: ITransport) -> None:
        # ProtocolWrapper hides these of the wrapped protocol: without IHalfCloseableProtocol a
        # peer's EOF becomes connectionLost, and late replies are lost.
        directlyProvides(self, providedBy(transport))
        for interface in _FORWARDED:
            if interface.providedBy(self.wrappedProtocol):
                alsoProvides(self, interface)

    def _client_name(self) -> str:
        if self.factory.is_client:
            return describe_peer(self.transport.getHost())[0]
        if self.record.client == "unix" and self._socket is not None:
            return f"unix:{peer_pid(self._socket)}"
        return self.record.client

    # -- bytes

    def dataReceived(self, data: bytes) -> None:
        """Count bytes from the peer, and pass them on."""
        self._count(self._inward, data)
        super().dataReceived(data)

    def write(self, data: bytes) -> None:
        """Write, and count the bytes."""
        super().write(data)
        self._count(self._outward, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Write each piece, and count the bytes."""
        pieces = list(data)  # it may be an iterator, which counting would exhaust
        super().writeSequence(pieces)
        for piece in pieces:
            self._count(self._outward, piece)

    def _count(self, direction: Direction, data: bytes) -> None:
        record, now = self.record, self._monitor.clock.seconds()
        if record.state == "closed":
            return  # the transport discards it
        record.count(direction, len(data), now)
        if self._monitor.observers.watched:
            self._monitor.saw(record, direction, data)
        if self._watchers is not None:
            self._watchers.show(direction, data)

    def add_watcher(self, call: Watch) -> Callable[[], None]:
        """Report every chunk of the payload from now on: as it is read, or as it is written.

        :param call: called with the direction and the bytes.
        :returns: cancels that; harmless the second time.
        """
        if self._watchers is None:  # made on demand: most connections are never watched
            self._watchers = Watchers()
        return self._watchers.add(call)

    # -- what the wrapped protocol does to its transport

    def pauseProducing(self) -> None:
        """Read no more from the peer; time without reading is not the client's silence."""
        self.record.reading_since = None
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the peer again; ``read_timeout`` counts from now."""
        if self.record.reading_since is None and self._remote == "client":
            self.record.reading_since = self._monitor.clock.seconds()
            if self._monitor.timeouts.read_timeout and self.record.ending is None:
                self._schedule_check()  # there was no such deadline while we did not read
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Close the transport (``IPushProducer``): the consumer wants no more bytes."""
        self.disconnecting = 1
        self.transport.stopProducing()

    def stopConsuming(self) -> None:
        """Close the transport (``IConsumer``): the producer has no more bytes."""
        self.disconnecting = 1
        super().stopConsuming()

    def loseWriteConnection(self) -> None:
        """End our side; bytes from the peer still arrive."""
        self._half_close(self._local)
        self.transport.loseWriteConnection()

    def abortConnection(self) -> None:
        """Reset the connection."""
        self._aborted = True
        self.transport.abortConnection()

    def startTLS(self, *args: Any, **kwargs: Any) -> None:
        """Switch to TLS; the transport provides other interfaces from then on."""
        self.transport.startTLS(*args, **kwargs)
        self._provide_interfaces(self.transport)

    # -- events of the transport

    def readConnectionLost(self) -> None:
        """The peer has ended its side."""
        self._half_close(self._remote)
        self.wrappedProtocol.readConnectionLost()

    def _half_close(self, side: Side) -> None:
        self.record.note_end(side, "fin")
        if self._first_ended is None and self.record.state == "open":
            self._first_ended = side
            self.record.state = "half_closed"
            self.record.half_closed = self._monitor.clock.seconds()
            self._schedule_check()

    def writeConnectionLost(self) -> None:
        """Our side has ended, and the transport has sent that."""
        self.wrappedProtocol.writeConnectionLost()

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done."""
        self.wrappedProtocol.handshakeCompleted()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """The peer, on a UNIX socket, has sent a descriptor."""
        self.wrappedProtocol.fileDescriptorReceived(descriptor)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over: find out why, record it, and notify the wrapped protocol."""
        self.connected = 0
        self.setTimeout(None)
        self._decide_from_failure(reason)
        self.measure()
        self._monitor.closed(self)
        wrapped, self.wrappedProtocol = self.wrappedProtocol, None
        self.factory.unregisterProtocol(self)
        if wrapped is not None:
            wrapped.connectionLost(reason)

    def _decide_from_failure(self, reason: Failure) -> None:
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
            # ConnectionLost without an errno over TLS: a FIN without close_notify, which is common.
            self.record.note_end(self._remote, "fin")
            self._decide(CLOSED_REASONS[self._first_ended or self._remote])
        else:
            self._decide("error", reason.getErrorMessage())

    def _decide(self, reason: Reason, detail: str = "") -> bool:
        return self.record.end(reason, self._monitor.clock.seconds(), detail)

    # -- IConnection

    def end(self, reason: Reason, reset: bool = False) -> None:
        """End the connection for a reason on our side; if it is still open 5 s later, reset it."""
        is_first = self._decide(reason)
        if reset:
            self._reset()
        elif is_first:
            self.setTimeout(GRACE_SECONDS)
            self._close()

    def measure(self) -> None:
        """Update the record from what the kernel knows of the socket."""
        if self._socket is not None:
            now, tcp = self._monitor.clock.seconds(), self._socket.tcp_info()
            if self._keepalive is None:
                self.record.note_tcp(self._remote, tcp, now)
            else:
                self.record.note_tcp(self._remote, tcp, now, self._keepalive.interval)

    def policy_changed(self) -> None:
        """Apply the monitor's keepalive, and set the timer for its new time limits."""
        if self.record.ending is None and self.connected:  # else the timer is the grace period's
            self._set_keepalive()
            self._schedule_check()

    def _close(self) -> None:
        # What a producer has written is delivered. It is stopped, as what it would still write
        # might have no end; and unregistered, as TLS waits for a registered one even if it is idle.
        producer = getattr(self.transport, "producer", None)
        try:
            if producer is not None:
                self.transport.unregisterProducer()
                producer.stopProducing()
            self.loseConnection()
        except (
            Exception
        ):  # raised by the wrapped protocol: a caller that ends many connections must go on
            self._log.failure("{client}: failed to close", client=self.record.client)

    def _reset(self) -> None:
        if hasattr(self.transport, "abortConnection"):
            self.transport.abortConnection()
        else:  # such as a transport without a socket
            self.transport.loseConnection()

    # -- time limits

    def callLater(self, period: float, func: Any) -> Any:
        """Use the monitor's clock for ``TimeoutMixin``, which would import the global reactor."""
        return self._monitor.clock.callLater(period, func)

    def _schedule_check(self) -> None:
        now = self._monitor.clock.seconds()
        when = self._monitor.timeouts.next_check(self.record, now)
        self.setTimeout(None if when == float("inf") else max(0.0, when - now))

    def timeoutConnection(self) -> None:
        """Act on the deadline that has come, or set the timer for the next one.

        One timer per connection: bytes only note the time, and it is set again when it fires.
        """
        if self.record.ending is not None:
            self._reset()  # the grace period is over
            return
        now = self._monitor.clock.seconds()
        waiting = buffered_bytes(self._descriptor)
        if self._socket is not None:
            waiting += unacknowledged_bytes(self._socket)
        written = self.record.down if self._outward == "down" else self.record.up
        moved_after = self._progress.check(waiting, written - waiting, now)
        self.record.last_delivered = moved_after or self.record.last_delivered
        setattr(self.record, f"{self._remote}_stalled", self._progress.stalled_since)
        when, reason = self._monitor.timeouts.next_deadline(self.record)
        has_struck = reason is not None and when <= now
        if lost_by := self._find_lost(reason if has_struck else None, now):
            if self.disconnecting:
                self.record.note_end(self._local, "fin")
            self.record.note_end(self._remote, "timeout")
            self._decide(BROKEN_REASONS[self._remote, "timeout"], lost_by)
            self._reset()
            return
        if reason is None or not has_struck:
            self._schedule_check()
            return
        if reason in ("read_timeout", "write_timeout"):
            self.record.note_end(self._remote, "timeout")
        self.end(reason, reset=reason == "write_timeout")

    def _find_lost(self, struck: Reason | None, now: float) -> str:
        """The time limit that has found that the peer has vanished; empty if none has.

        :param struck: the reason of a time limit that has struck: what has been silent may have
            vanished.
        """
        limit = self._monitor.timeouts.unreachable_limit(self._remote, self.record)
        if not limit and struck is None:
            return ""
        self.measure()
        record = self.record
        if limit and record.is_unreachable(self._remote, limit, now):
            return "unreachable_timeout"
        is_client = self._remote == "client"
        since = record.client_unreachable if is_client else record.backend_unreachable
        return "" if struck is None or since is None else struck


class MonitoringFactory(WrappingFactory):
    """Wraps any factory, so that a monitor watches its connections.

    A client that the monitor refuses is closed, and the wrapped factory is not asked.

    :param monitor: the service's monitor.
    :param wrapped: the factory to wrap.
    :param is_client: whether the connections are outgoing ones; left out, a
        ``ClientFactory`` is a client's and any other a server's.
    :param keepalive: whether the kernel is to probe silent peers, or a :class:`Keepalive` that says
        when; the policy's setting if left out.
    :raises SettingError: an argument is not valid.
    """

    protocol = MonitoringProtocol

    def __init__(
        self,
        monitor: Monitor,
        wrapped: IProtocolFactory,
        *,
        is_client: bool | None = None,
        keepalive: bool | Keepalive | None = None,
    ) -> None:
        if not isinstance(monitor, Monitor):
            raise SettingTypeError(
                f"MonitoringFactory(monitor={monitor!r}): must be a Monitor, as monconn.new() makes"
            )
        if not callable(getattr(wrapped, "buildProtocol", None)):
            raise SettingTypeError(
                f"MonitoringFactory(wrapped={wrapped!r}): must be a factory, with buildProtocol()"
            )
        super().__init__(wrapped)
        self.monitor = monitor
        self.is_client = _is_client(wrapped) if is_client is None else is_client
        if keepalive is not None:
            try:
                check_keepalive(keepalive)
            except TypeError as error:
                raise SettingTypeError(
                    f"MonitoringFactory(keepalive={keepalive!r}): {error}"
                ) from None
        self.keepalive = keepalive
        if IProtocolNegotiationFactory.providedBy(wrapped):
            alsoProvides(self, IProtocolNegotiationFactory)

    def acceptableProtocols(self) -> list[bytes]:
        """The wrapped factory's; ``IProtocolNegotiationFactory`` is provided if that provides it.

        Without it, Twisted fails the TLS handshake of clients that offer protocols (ALPN).
        """
        protocols: list[bytes] = self.wrappedFactory.acceptableProtocols()
        return protocols

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A monitored protocol; None, or one that closes at once, if the client is refused."""
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

    def has_keepalive(self) -> bool:
        """Whether connections are to have TCP keepalive."""
        return self.chosen_keepalive() is not None

    def chosen_keepalive(self) -> Keepalive | None:
        """How the kernel is to probe silent peers; None for not at all."""
        chosen = self.monitor.policy.keepalive
        if self.keepalive is not None:
            chosen = check_keepalive(self.keepalive)
        return chosen.backend if self.is_client else chosen.client

    def unregisterProtocol(self, p: Any) -> None:
        """Forget a protocol; harmless the second time, unlike ``WrappingFactory``'s."""
        self.protocols.pop(p, None)


def _is_client(factory: Any) -> bool:
    while isinstance(factory, WrappingFactory):  # a subclass of ClientFactory, whatever it wraps
        factory = factory.wrappedFactory
    return isinstance(factory, ClientFactory)
