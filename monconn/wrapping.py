"""Monitoring of the connections of any Twisted factory, server or client.

The wrapped protocol is the *backend* of the connection's record: ``up`` is what it
receives, ``down`` what it writes, and when it ends the connection, the backend did. For
outgoing connections it is the other way round: our side is the *client*, and ``read_timeout``
(for a silent client) does not apply.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import attrs
from OpenSSL import SSL
from service_identity import VerificationError
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
from twisted.protocols.policies import ProtocolWrapper, TimeoutMixin, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from monconn.addresses import UnixAddress
from monconn.errors import SettingTypeError, printable
from monconn.log import Logger
from monconn.model.reasons import (
    BROKEN_REASONS,
    CLOSED_REASONS,
    Direction,
    Reason,
    Side,
    SideEnd,
)
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IAddressed, IConnection, IDecoded, IRecordable, IWatchable
from monconn.monitor.monitor import Monitor
from monconn.monitor.progress import SendProgress
from monconn.monitor.recorder import Recording
from monconn.monitor.watchers import Watch, Watchers
from monconn.net.peers import RefusedProtocol, describe_peer
from monconn.net.sockets import (
    buffered_bytes,
    descriptor_of,
    end_by_errno,
    local_address,
    peer_address,
    peer_pid,
    set_keepalive,
    track_errors,
    unacknowledged_bytes,
)
from monconn.net.tls_faults import cut_text, error_text, is_alert
from monconn.policy.sides import Keepalive, check_keepalive
from monconn.policy.timeouts import GRACE_SECONDS

_DETAIL_CHARACTERS = 256
_NOT_NOTIFIED = "{client}: its end was not passed on by what lies beneath the wrapper"
_CLOSED = (error.ConnectionDone, error.ConnectionLost, error.ConnectionAborted)
_BYTES = (bytes, bytearray, memoryview)
_FORWARDED = (IHalfCloseableProtocol, IHandshakeListener, IFileDescriptorReceiver)


@implementer(IConnection, IWatchable, IRecordable, IAddressed, IDecoded)
class MonitoringProtocol(ProtocolWrapper, TimeoutMixin):
    """Counts the bytes of a wrapped protocol's connection, and records how it ends.

    The wrapped protocol behaves as it does without the wrapper, which is its ``transport``;
    :attr:`record` is what is known of the connection, with facts that anyone may set. ``write``
    counts bytes as they are handed to the transport, which may still hold them.

    The connection ends once, and gives its slot back, whatever the protocol and its producer raise:
    they end it with the reason ``error`` where they would end it without the wrapper.

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
        """What is known of the connection: ``self.transport.record``, to the wrapped protocol."""
        self._monitor = factory.monitor
        self._remote: Side = "backend" if factory.is_client else "client"
        self._local: Side = "client" if factory.is_client else "backend"
        self._inward: Direction = "down" if factory.is_client else "up"
        self._outward: Direction = "up" if factory.is_client else "down"
        self._progress = SendProgress()
        self._watchers: Watchers | None = None
        self._recording: Recording | None = None
        self.decoding = factory.monitor.decoders.first
        self._descriptor: Any = None
        self._socket: Any = None
        self._lose_transport: Any = None
        self._cause: Failure | None = None
        self._hung_up = True
        self._aborted = False
        self._resetting = False
        self._input_is_over = False
        self._keepalive: Keepalive | None = None

    # -- the beginning

    def makeConnection(self, transport: ITransport) -> None:
        """Begin to monitor, and connect the wrapped protocol last, as its code may raise."""
        self._provide_interfaces(transport)
        Protocol.makeConnection(self, transport)
        self._descriptor = descriptor_of(transport)
        self._socket = track_errors(self._descriptor)
        self._end_with_transport()
        with suppress(OSError):  # such as of a socket that has failed: one need not probe it
            self._set_keepalive()
        record = self.record
        record.client = self._client_name()
        if not record.listener and not self.factory.is_client:
            record.listener = _listener_name(transport)
        record.state = "open"
        record.connected = record.opened
        if self._remote == "client":
            record.reading_since = record.backend_reading_since = record.opened
        self._schedule_check()
        if self._monitor.observers.wants_addresses:
            self.ask_addresses()
        self._monitor.opened(self)
        self.factory.registerProtocol(self)
        if self.wrappedProtocol is not None:  # an observer may have ended the connection
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

    def _end_with_transport(self) -> None:
        # Twisted stops a transport's producer before it closes the socket and notifies the
        # protocol: if the producer raises, it does neither. And what lies between the transport and
        # us may raise before it notifies us: TLS hands over what it has left, another wrapper calls
        # code of its own. So we follow the transport itself. The attribute makes a cycle, until the
        # connection is lost.
        if self._descriptor is not None:
            self._lose_transport = self._descriptor.connectionLost
            self._descriptor.connectionLost = self._transport_lost

    def _transport_lost(self, reason: Failure) -> None:
        transport, lose, self._lose_transport = self._descriptor, self._lose_transport, None
        transport.__dict__.pop("connectionLost", None)
        if lose is None:
            return
        self._cause = reason
        if reason.check(error.ConnectionLost) and self._socket is not None:
            self._hung_up = _has_hung_up(self._socket)
        if transport.producer is not None:
            transport.producer = _StoppedProducer(transport.producer)
        try:
            lose(reason)
        except (Exception, SystemExit):
            if self.wrappedProtocol is None:
                raise  # by the wrapped protocol, which was notified
            self._log.failure(_NOT_NOTIFIED, client=self.record.client)
        finally:
            if self.wrappedProtocol is not None:
                self.connectionLost(reason)

    # -- bytes

    def dataReceived(self, data: bytes) -> None:
        """Count bytes from the peer, and pass them on."""
        self._count(self._inward, data)
        if self._input_is_over:
            return
        try:
            self.wrappedProtocol.dataReceived(data)
        except (Exception, SystemExit):
            if not getattr(self._descriptor, "disconnected", False):
                raise  # to the transport, which ends the connection for it
            # TLS hands over what it has left when its transport is gone already. If that raises, it
            # would not notify the protocol of the end, nor forget the connection.
            self._input_is_over = True
            self._log.failure("{client}: failed at its last bytes", client=self.record.client)

    def write(self, data: bytes) -> None:
        """Write, and count the bytes."""
        try:
            self.transport.write(data)
        except (Exception, SystemExit):
            if isinstance(data, bytes):  # the transport has taken it, and then its producer raised
                self._count(self._outward, data)
            raise
        if isinstance(data, _BYTES):  # older TLS of Twisted's takes anything, and fails later on
            self._count(self._outward, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Write each piece, and count the bytes."""
        pieces = list(data)  # it may be an iterator, which counting would exhaust
        self.transport.writeSequence(pieces)
        for piece in pieces:
            if isinstance(piece, _BYTES):
                self._count(self._outward, piece)

    def _count(self, direction: Direction, data: bytes) -> None:
        record, now = self.record, self._monitor.clock.seconds()
        if record.state == "closed" or not data:
            return  # the transport discards it; and many protocols write nothing now and then
        record.count(direction, len(data), now)
        # In the order of Relay.data.
        if self._recording is not None:
            (self._recording.up if direction == "up" else self._recording.down).add(data, now)
        data = bytes(data)  # no copy, unless it is a bytearray, which its owner may go on to change
        if self.decoding is not None:
            self._monitor.decoders.chunk(self, direction, data)
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

    def record_payload(self, recording: Recording) -> None:
        """Record every chunk from now on: as it is read, or as it is written."""
        self._recording = recording

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
        self.transport.loseWriteConnection()
        self._half_close(self._local)

    def abortConnection(self) -> None:
        """Reset the connection."""
        abort = self.transport.abortConnection  # not every transport has it
        self._aborted = True
        abort()

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
        if self.record.state == "open":
            self.record.state = "half_closed"
            self.record.half_closed = self._monitor.clock.seconds()
            self._schedule_check()
            self._monitor.half_closed(self.record, side)

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
        self.measure()
        self._decide_from_failure(reason)
        self._cause = None  # an exception's traceback leads back to here: no cycle is to be left
        self._input_is_over = True
        try:
            self._monitor.closed(self)
        finally:
            wrapped, self.wrappedProtocol = self.wrappedProtocol, None
            self.factory.unregisterProtocol(self)
            if wrapped is not None:
                wrapped.connectionLost(reason)

    def _decide_from_failure(self, reason: Failure) -> None:
        if self.record.reason is not None:
            return
        # What the transport itself has reported: TLS may put a reason of its own in its place.
        cause = self._cause or reason
        for failure in (cause, reason):
            if not failure.check(*_CLOSED):
                text = _failure_text(failure, self._remote)
                if isinstance(failure.value, SSL.Error) and is_alert(failure.value):
                    self._failed(self._remote, "reset", text)  # a fatal one: the peer has given up
                else:
                    self._decide("error", text)
                return
        tls = _TlsEnd.of(self.transport)
        error_number = getattr(self._socket, "error_number", 0)
        if self._aborted or cause.check(error.ConnectionAborted):
            # Twisted's TLS aborts, too, where it is closed before its handshake is done.
            unfinished = not (self._aborted or tls.is_established)
            detail = "closed before the TLS handshake was done" if unfinished else ""
            if self.record.end_of(self._local) == "fin":  # what follows that is nothing new
                self._decide_our_end(CLOSED_REASONS[self.record.first_end or self._local])
            else:
                self.record.note_end(self._local, "reset")
                self._decide_our_end(BROKEN_REASONS[self._local, "reset"], detail)
        elif cause.check(error.ConnectionLost) and error_number:
            how = end_by_errno(error_number)
            if how == "reset" and (self.record.end_of(self._remote) == "fin" or tls.is_notified):
                self._ended(self._remote)  # nor is this
            else:
                self._failed(self._remote, how)
        elif cause.check(error.ConnectionLost) and not self._hung_up:
            self._decide("stopping")  # the reactor stops, and closes what is left
        elif cause.check(error.ConnectionLost) and not tls.is_used and self._may_have_lost_bytes():
            self._failed(self._remote, "reset")
        elif self.disconnecting or self._was_closed_beneath(tls.is_used):
            self.record.note_end(self._local, "fin")
            self._decide_our_end(CLOSED_REASONS[self.record.first_end or self._local])
        elif not (tls.is_used and reason.check(error.ConnectionLost)):
            self._ended(self._remote)
        # A FIN without close_notify, which is common of clients. From a server it is a cut: its
        # answer may not be whole.
        elif self._remote == "client":
            self._ended("client", tls.cut_text("client"))
        else:
            self._failed("backend", "reset", tls.cut_text("backend"))

    def _decide_our_end(self, reason: Reason, detail: str = "") -> None:
        # Whoever gives up on a peer that has vanished, as a protocol does whose own pings are not
        # answered, has noticed the end, and is not its reason.
        if self.record.unreachable_since(self._remote) is not None:
            self._failed(self._remote, "timeout")
        else:
            self._decide(reason, detail)

    def _was_closed_beneath(self, is_tls: bool) -> bool:
        # By code that has the transport itself, or by a layer between, such as one that finds what
        # the peer sends to be malformed. TLS closes the socket at its peer's close_notify, too.
        transport = self.transport if is_tls else self._descriptor
        is_socket_of_tls = is_tls and transport is self._descriptor  # after startTLS
        return not is_socket_of_tls and bool(getattr(transport, "disconnecting", False))

    def _may_have_lost_bytes(self) -> bool:
        # The hang-up of a socket without an error, noticed while we did not read, is that of a peer
        # that has closed in order, or of both sides having ended.
        return self._socket is None or buffered_bytes(self._descriptor) > 0

    def _ended(self, side: Side, detail: str = "") -> None:
        self.record.note_end(side, "fin")
        self._decide(CLOSED_REASONS[self.record.first_end or side], detail)

    def _failed(self, side: Side, how: SideEnd, detail: str = "") -> None:
        self.record.note_end(side, how)
        self._decide(BROKEN_REASONS[side, how], detail)

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
        if self._socket is None:
            return
        tcp, now = self._socket.tcp_info(), self._monitor.clock.seconds()
        interval = None if self._keepalive is None else self._keepalive.interval
        self.record.note_tcp(self._remote, tcp, now, interval)

    def ask_addresses(self) -> None:
        """Complete the addresses of the socket in the record."""
        if self._socket is None:
            return
        if self._remote == "client":
            self.record.client_local = local_address(self._socket)
        elif self.record.backend_peer is None:
            self.record.backend_local = local_address(self._socket)
            self.record.backend_peer = peer_address(self._socket)

    def policy_changed(self) -> None:
        """Apply the monitor's keepalive, and set the timer for its new time limits."""
        if self.record.ending is None and self.connected:  # else the timer is the grace period's
            self._set_keepalive()
            self._schedule_check()

    def _close(self) -> None:
        # What a producer has written is delivered. It is stopped, as what it would still write
        # might have no end; and unregistered, as TLS waits for a registered one even if it is idle.
        # Looked up within the call, as either may lack its method.
        producer = getattr(self.transport, "producer", None)
        if producer is not None:
            self._try(lambda: self.transport.unregisterProducer())
            self._try(lambda: producer.stopProducing())
        self._try(self.loseConnection)

    def _reset(self) -> None:
        if hasattr(self.transport, "abortConnection"):
            self._try(self.transport.abortConnection)
        else:  # such as a transport without a socket
            self._try(self.transport.loseConnection)
        if hasattr(self._descriptor, "abortConnection"):  # harmless the second time
            self._try(self._descriptor.abortConnection)
        if self.connected:
            self._resetting = True
            self.setTimeout(GRACE_SECONDS)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        # Of the wrapped protocol, its producer, or a layer beneath. A caller that ends many
        # connections must go on, and sys.exit() in one of them must not end the program.
        except (Exception, SystemExit):
            self._log.failure("{client}: failed to close", client=self.record.client)

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
            if self._resetting:  # a transport that does not even obey that: it may live on
                self.connectionLost(Failure(error.ConnectionAborted()))
            else:
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
        limit = self._monitor.timeouts.unreachable_timeout.of(self._remote)
        if limit:
            self.measure()
            if self.record.is_unreachable(self._remote, limit, now):
                self._lose_peer("unreachable_timeout")
                return
        when, reason = self._monitor.timeouts.next_deadline(self.record)
        if reason is None or when > now:
            self._schedule_check()
            return
        self.measure()
        # What has been silent may have vanished: then that is the reason, and not the silence.
        if self.record.unreachable_since(self._remote) is not None:
            self._lose_peer(reason)
            return
        if reason in ("read_timeout", "write_timeout"):
            self.record.note_end(self._remote, "timeout")
        self.end(reason, reset=reason == "write_timeout")

    def _lose_peer(self, limit: str) -> None:
        """End the connection, as its peer has vanished.

        :param limit: the time limit that brought it to light.
        """
        self._failed(self._remote, "timeout", limit)
        self._reset()


class _StoppedProducer:
    """A producer whose transport is lost: what it raises does not keep the transport from closing.

    :param producer: the transport's.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def stopProducing(self) -> None:
        """Stop it; an exception is logged."""
        try:
            self._producer.stopProducing()
        except (Exception, SystemExit):
            MonitoringProtocol._log.failure("a producer failed to stop")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


@attrs.frozen
class _TlsEnd:
    """How far TLS had come when its connection was lost."""

    is_used: bool = False
    is_established: bool = True
    """Whether the handshake was done."""
    is_notified: bool = False
    """Whether the peer has sent its close_notify (RFC 8446, 6.1)."""

    @classmethod
    def of(cls, transport: Any) -> _TlsEnd:
        """That of a transport, with or without TLS."""
        if not ISSLTransport.providedBy(transport):
            return cls()
        handle: Any = getattr(transport, "getHandle", None)
        try:
            connection = handle()
            return cls(
                True,
                connection.get_peer_finished() is not None,
                bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN),
            )
        except (AttributeError, TypeError):  # it has failed to start, or is none of Twisted's
            return cls(True)

    def cut_text(self, peer: Side) -> str:
        """A detail for the record, of a peer that has closed TCP without a word."""
        return cut_text(peer) if self.is_established else f"the {peer} has left amid the handshake"


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
        monitor.lifecycle.can_pause = False
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
        try:
            wrapped = self.wrappedFactory.buildProtocol(addr)
            return None if wrapped is None else self.protocol(self, wrapped, record)
        except (Exception, SystemExit):
            self._failed_to_build(record)
            raise  # to the listener or connector, which logs it and closes the socket

    def _failed_to_build(self, record: ConnectionRecord) -> None:
        # It was admitted, so it opens and closes; of its transport nothing is known yet.
        connection = _NeverBuilt(record)
        self.monitor.opened(connection)
        record.end("error", self.monitor.clock.seconds(), _failure_text(Failure(), "client"))
        self.monitor.closed(connection)

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


@implementer(IConnection)
@attrs.frozen
class _NeverBuilt:
    """A connection whose protocol could not be built: it ends as soon as it opens."""

    record: ConnectionRecord

    def end(self, reason: Reason, reset: bool = False) -> None:
        """Does nothing."""

    def measure(self) -> None:
        """Does nothing."""

    def policy_changed(self) -> None:
        """Does nothing."""


def _has_hung_up(sock: Any) -> bool:
    """Whether the kernel has reported the end or the failure of both directions of a socket."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # both are reported without being asked for (poll(2))
    return bool(poll.poll(0))


def _listener_name(transport: Any) -> str:
    """The address that a server's connection was accepted at; empty if it has none."""
    try:
        host = transport.getHost()
    except Exception:  # not every transport has an address, or has one at all times
        return ""
    if hasattr(host, "port"):
        return describe_peer(host)[0]
    path = getattr(host, "name", None)
    return str(UnixAddress(os.fsdecode(path))) if path else ""


def _failure_text(failure: Failure, peer: Side) -> str:
    """The detail of an ``error``: the exception's type and text; of TLS, what the fault is."""
    exception: Any = failure.value
    if isinstance(exception, SSL.Error):
        text = error_text(exception, peer)
    elif isinstance(exception, VerificationError):
        # Twisted verifies names by it: its text is a list's repr.
        text = f"the {peer}'s certificate is not for its name"
    else:
        message = failure.getErrorMessage()
        name = type(exception).__name__
        text = f"{name}: {message}" if message else name
    return printable(text[:_DETAIL_CHARACTERS])


def _is_client(factory: Any) -> bool:
    while isinstance(factory, WrappingFactory):  # a subclass of ClientFactory, whatever it wraps
        factory = factory.wrappedFactory
    return isinstance(factory, ClientFactory)
