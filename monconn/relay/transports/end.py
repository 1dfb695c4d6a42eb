"""Ends over Twisted's transports: the path for TLS and for all that is no plain socket."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from monconn.model.reasons import Reason, Side, SideEnd
from monconn.net.sockets import (
    buffered_bytes,
    descriptor_of,
    enable_keepalive,
    end_by_errno,
    has_failed,
    track_errors,
    unacknowledged_bytes,
)
from monconn.relay.transports.dial import Dial, NamelessCertificate, refuse_nameless
from monconn.relay.transports.writer import writer_to

EARLY_BYTES = 65536
"""How much is held for a backend that does not stand yet before its client is held back."""
DELIVERY_POLL_SECONDS = 0.01
RESET_POLL_SECONDS = 0.5
"""How often a side that we do not read from is asked whether it has reset."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class TransportEnd(Protocol):
    """One side of a relay over a Twisted transport (see :class:`~monconn.relay.ends.End`).

    Over TLS, which has no half-close, the end of the writing is sent as ``close_notify``;
    what the peer still sends until its own is delivered.

    :param side: which of the two.
    :param clock: gives ``callLater``.
    :param dial: begins to connect this protocol, if it is the backend's.
    :param keepalive: whether the system is to ask a silent peer if it is still there.
    :param verifies_host: whether a TLS backend's certificate must be for its host.
    """

    transport: Any
    accepts_pipes = False

    def __init__(
        self,
        side: Side,
        clock: Any,
        *,
        dial: Dial | None = None,
        keepalive: bool = True,
        verifies_host: bool = False,
    ) -> None:
        self.side = side
        self.reports: Any = None
        self.peer: Any = None
        self._dial = dial
        self._clock = clock
        self._keepalive = keepalive
        self._verifies_host = verifies_host
        self._socket: Any = None  # a ErrorTrackingSocket, where there is a socket
        self._descriptor: Any = None
        self._writer: Any = None
        self._is_tls = False
        self._dialling: Deferred[Any] | None = None
        self._early: list[bytes] = []
        self._written = 0
        self._connected = False
        self._full = False  # our transport holds enough
        self._paused = False
        self._reset_look: Any = None
        self._has_reset = False
        self._eof = False
        self._write_ended = False
        self._closing = False  # closing or resetting: nothing is reported but the end
        self._gone = False

    # -- the beginning

    def dial(self) -> None:
        """See :class:`~monconn.relay.ends.End`; until it stands, what is written is kept."""
        assert self._dial is not None
        self._dialling = self._dial(self)
        self._dialling.addErrback(self._dial_failed)

    def _dial_failed(self, failure: Failure) -> None:
        self._dialling = None
        self._gone = True
        if self._closing:
            self.reports.gone(self)
        else:
            self.reports.connect_failed(self, _connect_reason(failure), failure.getErrorMessage())

    def connectionMade(self) -> None:
        """See :class:`IProtocol`."""
        self._is_tls = bool(ISSLTransport.providedBy(self.transport))
        self._descriptor = descriptor_of(self.transport)
        self._socket = track_errors(self._descriptor)
        if self._socket is not None:
            self._socket.keep_unread = not self._is_tls
        self._writer = writer_to(self.transport, self._descriptor, self._socket)
        if self._is_tcp():
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        handshaker = getattr(self.transport, "wrappedProtocol", None)
        if self.side == "backend" and self._is_tls and handshaker is not None:
            # The wrapper that an endpoint puts around us passes on one interface only.
            alsoProvides(handshaker, IHandshakeListener)
        else:
            self._attach()

    def handshakeCompleted(self) -> None:
        """See :class:`IHandshakeListener`: a TLS backend stands only now."""
        if self._connected or self._closing:
            return
        try:
            if self._verifies_host:
                refuse_nameless(self.transport.getPeerCertificate().to_cryptography())
        except NamelessCertificate:
            self.transport.failVerification(Failure())
        else:
            self._attach()

    def enable_keepalive(self) -> None:
        """See :class:`~monconn.relay.ends.End`: have the system ask a silent peer."""
        if self._keepalive and self._is_tcp() and not self._gone:
            self._keepalive = False
            enable_keepalive(self._socket)

    def _attach(self) -> None:
        self._dialling = None
        self._connected = True
        early, self._early = b"".join(self._early), []
        if early:
            self._writer.write(early)
        self.reports.connected(self)
        if self._write_ended:
            self._send_end()
        if self.side == "backend" and not self._full:
            self.reports.drained(self)

    def _is_tcp(self) -> bool:
        # Not asked of the transport: Twisted's UNIX ones say that they are TCP too.
        return self._socket is not None and self._socket.family != socket.AF_UNIX

    # -- what the relay asks

    def pause(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        # What came before a reset is read at once, and delivered with the reset.
        if not (self._eof or self._closing or self._gone or self._has_reset):
            self._paused = True
            self.transport.pauseProducing()
            self._watch_for_reset()

    def resume(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        # To resume after the end of input would have Twisted report that end again.
        if not (self._eof or self._closing or self._gone):
            self._paused = False
            self.transport.resumeProducing()

    def _watch_for_reset(self) -> None:
        # A reactor tells of a reset only who reads or writes.
        if self._reset_look is None and self._socket is not None:
            self._reset_look = self._clock.callLater(RESET_POLL_SECONDS, self._look_for_reset)

    def _look_for_reset(self) -> None:
        self._reset_look = None
        if self._closing or not (self._paused or self._eof):
            return
        self._has_reset = has_failed(self._socket)
        if not self._has_reset:
            self._watch_for_reset()
        elif self._eof:
            self._descriptor.connectionLost(Failure(error.ConnectionLost()))
        else:
            self.resume()

    @property
    def send_queue(self) -> TransportEnd:
        """See :class:`~monconn.relay.ends.End`: it is its own."""
        return self

    def room(self) -> int:
        """See :class:`~monconn.relay.ends.ByteSink`."""
        return 0 if self._gone or not self._connected else self._writer.room()

    def send(self, data: bytes | memoryview) -> None:
        """See :class:`~monconn.relay.ends.ByteSink`."""
        held, self._written = self._written, self._written + len(data)
        if self._gone:
            return
        if self._connected:
            self._writer.write(data)
        else:
            self._early.append(bytes(data))
            if held <= EARLY_BYTES < self._written:
                self.reports.filled(self)

    def end_writing(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._write_ended or self._gone:
            return
        self._write_ended = True
        if self._connected:
            self._send_end()

    def _send_end(self) -> None:
        # With a producer registered that is paused, Twisted would never send the end.
        self.transport.unregisterProducer()
        if self._is_tls:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def close(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._leave():
            return
        self._stop_keeping()
        if self._eof:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            # Closed with bytes unread, a socket sends a reset, which could overtake what
            # the peer has yet to read: so read on, and forget, until the peer has ended.
            self.end_writing()
            self.transport.resumeProducing()

    def reset(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._leave():
            return
        self._stop_keeping()
        self.transport.unregisterProducer()
        self.transport.pauseProducing()
        self._reset_once_delivered()

    def _reset_once_delivered(self) -> None:
        if self._gone:
            return
        if self.pending_bytes():
            self._clock.callLater(DELIVERY_POLL_SECONDS, self._reset_once_delivered)
        else:
            self.transport.abortConnection()

    def _unacknowledged(self) -> int:
        # A UNIX socket's reader gets what was sent even once the sender is closed.
        return unacknowledged_bytes(self._socket) if self._is_tcp() and not self._gone else 0

    def abort(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._gone:
            return
        self._closing = True
        if self.transport is None:
            self._give_up_dialling()
        else:
            self._stop_keeping()
            self.transport.abortConnection()

    def _leave(self) -> bool:
        """Note that we leave; True if there is no more to do for it."""
        if self._closing or self._gone:
            return True
        self._closing = True
        if not self._connected:
            self._give_up_dialling()
            return True
        return False

    def _give_up_dialling(self) -> None:
        if self.transport is not None:  # in the midst of a handshake
            self.transport.abortConnection()
        elif self._dialling is not None:
            self._dialling.cancel()
        elif not self._gone:  # it was never dialled
            self._gone = True
            self.reports.gone(self)

    def _stop_keeping(self) -> None:
        if self._socket is not None:
            self._socket.keep_unread = False

    def tcp_info(self) -> bytes | None:
        """See :class:`~monconn.relay.ends.End`; once it is gone, what was known last."""
        return None if self._socket is None else self._socket.tcp_info()

    def pending_bytes(self) -> int:
        """See :class:`~monconn.relay.ends.End`."""
        return 0 if self._gone else buffered_bytes(self._descriptor) + self._unacknowledged()

    def delivered_bytes(self) -> int:
        """See :class:`~monconn.relay.ends.End`."""
        return self._written - self.pending_bytes()

    # -- what the transport tells

    def dataReceived(self, data: bytes) -> None:
        """See :class:`IProtocol`."""
        if not self._closing:
            self.reports.data(self, data)

    def pauseProducing(self) -> None:
        """See :class:`IPushProducer`: our transport's buffer is full."""
        self._full = True
        self.reports.filled(self)

    def resumeProducing(self) -> None:
        """See :class:`IPushProducer`: our transport's buffer is empty."""
        self._full = False
        self.reports.drained(self)

    def stopProducing(self) -> None:
        """See :class:`IPushProducer`; ``connectionLost`` follows."""

    def readConnectionLost(self) -> None:
        """See :class:`IHalfCloseableProtocol`."""
        if self._eof:
            return
        self._eof = True
        if self._closing:
            self.transport.loseConnection()
        else:
            self.reports.eof(self)
            self._watch_for_reset()

    def writeConnectionLost(self) -> None:
        """See :class:`IHalfCloseableProtocol`; we have asked for it ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`IProtocol`."""
        how = self._how_it_ended(reason)
        self.reports.record.note_tcp(self.side, self.tcp_info())
        if self._socket is not None and self._socket.unread_data:
            self.dataReceived(self._socket.unread_data)
        if self._reset_look is not None:
            self._reset_look.cancel()
        self._gone = True
        self._report_end(how, reason)
        # No cycle is left to be collected: one holds all that OpenSSL has for a connection.
        self.transport = self._descriptor = self._writer = None

    def _report_end(self, how: SideEnd | None, reason: Failure) -> None:
        if not (self._connected or self._closing):
            words = self._words_for(reason) or "closed during the handshake"
            self.reports.connect_failed(self, "backend_unreachable", words)
            return
        if how is not None:
            self.reports.broken(self, how, self._words_for(reason))
            return
        if not (self._eof or self._closing):  # over TLS an end is a whole end
            self._eof = True
            self.reports.eof(self)
        self.reports.gone(self)

    def _how_it_ended(self, reason: Failure) -> SideEnd | None:
        """How the connection broke; None if it was closed in order."""
        if reason.check(error.ConnectionDone, error.ConnectionAborted):
            return None
        if not reason.check(error.ConnectionLost):
            return "none"
        if self._socket is not None and self._socket.error_number:
            return end_by_errno(self._socket.error_number)
        if self._is_tls:  # a peer that ends its TCP without TLS's close_notify: many do
            return None
        # A UNIX socket whose peer has closed hangs up; who waits for nothing misses nothing.
        return "reset" if self.pending_bytes() else None

    def _words_for(self, reason: Failure) -> str:
        if self._socket is not None and self._socket.error_number:
            return errno.errorcode.get(self._socket.error_number, "")
        return "" if reason.check(error.ConnectionLost) else reason.getErrorMessage()


def _connect_reason(failure: Failure) -> Reason:
    if failure.check(error.ConnectionRefusedError):
        return "backend_refused"
    if failure.check(error.TimeoutError):
        return "connect_timeout"
    if getattr(failure.value, "osError", None) in (errno.EMFILE, errno.ENFILE):
        return "error"  # ours, and not the backend's
    return "backend_unreachable"
