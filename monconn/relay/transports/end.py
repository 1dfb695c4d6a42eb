"""Ends over Twisted's transports: the data path for TLS and for every other kind of endpoint."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Literal

import attrs
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from monconn.clock import Clock
from monconn.model.reasons import Reason, Side, SideEnd
from monconn.monitor.bandwidth import Throttle
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.tracks import Track
from monconn.net.loops import Loops, Target, end_loop, is_own_address, loop_of, target_of_name
from monconn.net.sockets import (
    RESET_ERRNOS,
    SHORTAGES,
    ErrorTrackingSocket,
    buffered_bytes,
    descriptor_of,
    end_by_errno,
    has_failed,
    local_address,
    peer_address,
    set_keepalive,
    track_errors,
    unacknowledged_bytes,
    unread_bytes,
)
from monconn.net.tls import ClientTls, fault_text
from monconn.net.tls_faults import UNFINISHED, TlsError, cut_text, error_text, is_alert
from monconn.policy.sides import Keepalive
from monconn.relay.delivery import DeliveryWatch
from monconn.relay.ends import HOLD_PAUSE, ByteSink, End, EndListener, Phase
from monconn.relay.stages import StageChain
from monconn.relay.transports.dial import Dial, LoopOfServices, NoBackend
from monconn.relay.transports.names import NotResolved
from monconn.relay.transports.writer import Writer, writer_to

EARLY_BYTES = 65536
"""How much is queued for a backend that is not connected yet before its client is put on hold."""
ORIGIN_SECONDS = 0.01
"""How long a client on this host waits for it to be known whether it is a connection of ours, while
there is one that may lead to us: some turns of the reactor. A loop would outrun its detection
otherwise: the listener's event comes before that of the socket at the other end, so that each
client would be dialled for before it is known which connection it is."""
# EAGAIN of a UNIX socket is a full queue: the backend's.
_SHORTAGES = SHORTAGES - {errno.EAGAIN}
_ANY_BYTES = 1 << 30
RESET_POLL_SECONDS = 0.5
"""How often a side that we do not read from is checked for a reset."""
FINISH_POLL_SECONDS = 0.1
"""How soon a side that has ended is first checked for whether it has acknowledged everything."""


@attrs.frozen
class TransportShared:
    """Objects shared by the transport Ends of a service."""

    clock: Clock
    deadlines: Deadlines
    """Checks Ends that are on hold for resets."""
    deliveries: DeliveryWatch
    """Resets Ends once everything is delivered."""
    loops: Loops = attrs.field(factory=Loops)
    """Knows our listeners, and the connections that lead to them."""

    @classmethod
    def of(cls, clock: Clock) -> TransportShared:
        """An instance with its own timers."""
        return cls(clock, Deadlines(clock), DeliveryWatch(clock))


@implementer(IHalfCloseableProtocol, IPushProducer)
class TransportEnd(Protocol):
    """One side of a relay over a Twisted transport (see :class:`~monconn.relay.ends.End`).

    It is its own send queue. TLS has no half-close: the end of the writing is sent as
    ``close_notify``, and what the peer still sends until its own is delivered.

    :param side: which of the two.
    :param shared: what it has in common with others.
    :param dial: begins to connect this protocol, if it is the backend's.
    :param target: the port or path that it dials, if that is known.
    :param tls: has made the TLS connection to the backend; None if Twisted has, or there is none.
    """

    transport: Any  # of any kind, and None after the end
    accepts_pipes = False
    reads_at_once = False

    def __init__(
        self,
        side: Side,
        shared: TransportShared,
        *,
        dial: Dial | None = None,
        target: Target | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.side: Side = side
        self.phase: Phase = "connecting"
        self.holds = 0
        self.is_watched = False
        self.reports: EndListener
        self.peer: End
        self.track: Track | None = None
        self.stages: StageChain | None = None
        self.throttle: Throttle | None = None
        self.bucket: int | None = None
        self._dial = dial
        self._target = target
        self._shared = shared
        self._keepalive: Keepalive | Literal["inherited"] | None = "inherited"
        self._tls = tls
        self._socket: ErrorTrackingSocket | None = None  # None if the transport has no socket
        self._descriptor: Any = None  # what descriptor_of gives
        self._writer: Writer | None = None
        self._is_tls = False
        self._dialling: Deferred[Any] | None = None
        self._early: list[bytes] = []
        self._written = 0
        self._is_full = False  # the transport holds enough
        self._has_reset = False
        self._input_ended = False
        self._output_ended = False
        self._end_sent = False
        self._has_sent_fin = False
        self._finishing: float | None = None  # since when only the acknowledgement is missing
        self._is_unknown = False  # counted in Loops.unknown_dials
        self._refusal: tuple[Reason, str] | None = None  # why we have not taken the connection

    # -- the beginning

    def dial(self) -> None:
        """Begin to connect; what is sent before the connection is established is held."""
        loops, clock = self._shared.loops, self._shared.clock
        if loops.is_awaited(self.reports.record):
            self._dialling = deferLater(clock, ORIGIN_SECONDS, self._begin_dial)  # type: ignore[arg-type]
        else:
            self._dialling = maybeDeferred(self._begin_dial)
        self._dialling.addErrback(self._dial_failed)

    def _begin_dial(self) -> Deferred[Any]:
        assert self._dial is not None
        loops = self._shared.loops
        if loop := loop_of(self.reports.record):
            raise LoopOfServices(end_loop(loop, self._shared.clock.seconds()))
        if self._target is None or self._target in loops.listening:
            self._is_unknown = True
            loops.unknown_dials += 1
        return self._dial(self)

    def _dial_failed(self, failure: Failure) -> None:
        self._dialling = None
        self._dial_is_known()
        phase, self.phase = self.phase, "closed"
        self._close_stages()
        number = getattr(failure.value, "osError", None)
        if phase != "connecting":  # it was given up
            self.reports.gone(self)
        elif number in RESET_ERRNOS:
            self._was_reset(errno.errorcode[number])
        else:
            reason = _connect_reason(failure)
            is_choice = failure.check(NoBackend, LoopOfServices) is not None
            self.reports.record.is_shortage = reason == "error" and not is_choice
            detail = failure.getErrorMessage()
            if isinstance(number, int):  # as on sockets; Twisted's own text is of a "bind" at times
                detail = os.strerror(number).lower()
            elif isinstance(failure.value, OSError) and failure.value.strerror:
                detail = failure.value.strerror
            self.reports.connect_failed(self, reason, detail)

    def _was_reset(self, detail: str) -> None:
        """Report a backend that has accepted the connection, and reset it at once."""
        self.reports.connected(self)
        self.reports.broken(self, "reset", detail)

    def connectionMade(self) -> None:
        """The transport is connected; over TLS, the handshake may be still to come."""
        self._is_tls = bool(ISSLTransport.providedBy(self.transport))
        self._descriptor = descriptor_of(self.transport)
        self._socket = track_errors(self._descriptor)
        if self.side == "backend" and self._leads_to_us():
            self.transport.abortConnection()
            return
        if self._socket is not None:
            self._socket.keep_unread = not self._is_tls
            if self.throttle is not None:
                self._socket.allowance = self._allowance
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

    def _leads_to_us(self) -> bool:
        """Whether the backend's connection must not be: to itself, or one of a loop."""
        loops, record = self._shared.loops, self.reports.record
        try:
            if self._socket is not None:
                local, remote = self._socket.getsockname(), self._socket.getpeername()
                if self._is_tcp() and is_own_address(local, remote):
                    self._refusal = "backend_refused", os.strerror(errno.ECONNREFUSED).lower()
                elif loops.leads_here(target_of_name(remote), self._socket.family, remote):
                    loops.dialled(self._socket, record)
                    if loop := loop_of(record):
                        detail = end_loop(loop, self._shared.clock.seconds())
                        self._refusal = "error", detail
        except OSError:  # the peer has reset the connection already (ENOTCONN)
            pass
        self._dial_is_known()
        return self._refusal is not None

    def _dial_is_known(self) -> None:
        if self._is_unknown:
            self._is_unknown = False
            self._shared.loops.unknown_dial_ends()

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done: only now is a TLS backend connected."""
        if self.phase != "connecting":
            return
        try:
            if self._tls is not None:
                self._tls.check_peer(self.transport.getHandle())
        except TlsError:
            self.transport.failVerification(Failure())
        else:
            self._attach()

    def set_keepalive(self, keepalive: Keepalive | None) -> None:
        """Implements ``End.set_keepalive``."""
        if keepalive == self._keepalive or self._socket is None or self._is_over():
            return
        self._keepalive = keepalive
        set_keepalive(self._socket, keepalive)

    def _attach(self) -> None:
        if self.phase != "connecting":
            self.transport.abortConnection()  # it was given up meanwhile
            return
        assert self._writer is not None
        self._dialling = None
        self.phase = "open"
        early, self._early = b"".join(self._early), []
        if early:
            self._writer.write(early)
        loops = self._shared.loops
        if self.side == "client" and (loops.dials or loops.unknown_dials) and self._socket:
            loops.accepted(self.reports.record, self._socket)
        self.reports.connected(self)
        self._finish_output()
        if self.holds:
            self._stop_reading()
        if self.side == "backend" and not self._is_full and not self._is_over():
            self.reports.drained(self)

    def _is_tcp(self) -> bool:
        # Not by interface: Twisted's UNIX transports provide ITCPTransport too.
        return self._socket is not None and self._socket.family != socket.AF_UNIX

    def _is_over(self) -> bool:
        return self.phase == "closed"

    # -- holds

    def hold(self, hold: int) -> None:
        """Implements ``End.hold``."""
        held, self.holds = self.holds, self.holds | hold
        if not held:
            self._stop_reading()

    def _stop_reading(self) -> None:
        # What came before a reset is read at once, and delivered with the reset.
        if self.phase == "open" and not (self._input_ended or self._has_reset):
            self.transport.pauseProducing()
            self._check_for_reset_later()

    def release(self, hold: int) -> None:
        """Implements ``End.release``."""
        if not self.holds & hold:
            return
        self.holds &= ~hold
        # To resume after the end of input would have Twisted report that end again.
        if not self.holds and self.phase == "open" and not self._input_ended:
            self.transport.resumeProducing()

    def set_throttle(self, throttle: Throttle | None) -> None:
        """Implements ``End.set_throttle``; without a socket, reads are as long as they are."""
        self.throttle = throttle
        if self._socket is not None:
            self._socket.allowance = None if throttle is None else self._allowance

    def _allowance(self) -> int:
        """How many bytes the socket may give at once; 0 if we are on hold now."""
        # What is read at an end is discarded, or came before a reset.
        if self.phase != "open" or self._has_reset or self.throttle is None:
            return _ANY_BYTES
        return self.throttle.allowance(self._shared.clock.seconds())

    def _check_for_reset_later(self) -> None:
        # A reactor reports a reset only of a descriptor that it reads from or writes to.
        if self.phase == "open" and self.bucket is None and self._socket is not None:
            now = self._shared.clock.seconds()
            self._shared.deadlines.schedule(self, now + RESET_POLL_SECONDS)

    def check(self, now: float) -> float | None:
        """Check for a reset, as long as we do not read, and for the last acknowledgement."""
        if self._finishing is not None:
            return self._check_finishing(self._finishing, now)
        if self.phase != "open" or not (self.holds or self._input_ended) or self._socket is None:
            return None
        is_paused = self.holds & HOLD_PAUSE and not self._input_ended
        if not has_failed(self._socket) or (is_paused and unread_bytes(self._socket)):
            return now + RESET_POLL_SECONDS
        self._has_reset = True
        if self._input_ended:
            self._descriptor.connectionLost(Failure(error.ConnectionLost()))
        else:
            self.transport.resumeProducing()
        return None

    # -- as a ByteSink

    @property
    def sink(self) -> ByteSink:
        """Implements ``End.sink``."""
        return self if self.stages is None else self.stages

    def set_stages(self, stages: StageChain | None) -> None:
        """Implements ``End.set_stages``."""
        self.stages = stages

    def room(self) -> int:
        """Implements ``ByteSink.room``."""
        return 0 if self.phase != "open" or self._writer is None else self._writer.room()

    def send(self, data: bytes | memoryview) -> None:
        """Implements ``ByteSink.send``."""
        held, self._written = self._written, self._written + len(data)
        if self.phase == "connecting":
            self._early.append(bytes(data))
            if held <= EARLY_BYTES < self._written:
                self.reports.filled(self)
        elif self._writer is not None:
            self._writer.write(data)

    # -- called by the relay

    def end_writing(self) -> None:
        """Implements ``End.end_writing``."""
        if self._output_ended or self.phase == "closed":
            return
        self._output_ended = True
        if self.stages is not None:
            self.stages.end_of_input()  # stages_drained follows
        else:
            self._finish_output()

    def stages_drained(self) -> None:
        """Implements ``End.stages_drained``."""
        self._finish_output()

    def _finish_output(self) -> None:
        """Send the end, or close, as requested; Twisted delivers what it holds before."""
        if self.phase not in ("open", "draining") or self.transport is None:
            return
        if self.stages is not None and self.stages.held():
            return
        if self._output_ended and not self._end_sent:
            self._end_sent = True
            # With a producer registered that is paused, Twisted would never send the end.
            self.transport.unregisterProducer()
            if self._is_tls:
                self.transport.loseConnection()
            else:
                self.transport.loseWriteConnection()
        if self.phase == "draining" and self._input_ended:
            self._finish()

    def _finish(self) -> None:
        """Close the connection, as both sides have ended; but not before the peer has all.

        After that nobody could tell any more whether the last bytes have reached it.
        """
        if self._finishing is not None:
            return
        self.transport.unregisterProducer()
        is_decided = self.reports.record.reason is not None
        if self._is_tls or not self._is_tcp() or is_decided or not self.pending_bytes():
            self.transport.loseConnection()
            return
        if not self._end_sent:
            self._output_ended = self._end_sent = True
            self.transport.loseWriteConnection()
        self._finishing = self._shared.clock.seconds()
        self._shared.deadlines.schedule(self, self._finishing + FINISH_POLL_SECONDS)

    def _check_finishing(self, since: float, now: float) -> float | None:
        if self.phase != "draining" or self._socket is None:
            return None
        if has_failed(self._socket):
            self._descriptor.connectionLost(Failure(error.ConnectionLost()))
        elif not self.pending_bytes():
            self.transport.loseConnection()
        else:
            return now + min(max(now - since, FINISH_POLL_SECONDS), 1.0)
        return None

    def close(self) -> None:
        """Implements ``End.close``."""
        if self.phase == "connecting":
            self.phase = "draining"
            self._give_up_dialling()
        elif self.phase == "open":
            self.phase = "draining"
            self._drop_unread()
            if not self._input_ended:
                # Closed with bytes unread, a socket sends a reset (RFC 1122, 4.2.2.13), which could
                # make the peer's kernel drop what the peer has yet to read: so read on, and
                # discard.
                self.end_writing()
                if self.transport is not None:
                    self.transport.resumeProducing()
            elif self.stages is not None:
                self.stages.end_of_input()  # stages_drained follows
            else:
                self._finish_output()
        elif self.phase == "draining" and self._finishing is not None:
            self.transport.loseConnection()  # the kernel goes on delivering

    def reset(self) -> None:
        """Implements ``End.reset``."""
        if self.phase == "connecting":
            self.phase = "resetting"
            self._give_up_dialling()
        elif self.phase == "open":
            self.phase = "resetting"
            self._drop_unread()
            self.transport.unregisterProducer()
            self.transport.pauseProducing()
            if self.stages is not None:
                self.stages.end_of_input()
            self._shared.deliveries.add(self)

    def abort(self) -> None:
        """Implements ``End.abort``; Twisted reports it as closed in a later turn."""
        if self.phase == "closed":
            return
        record = self.reports.record
        if self.phase == "connecting" and self._is_tls and record.reason == "connect_timeout":
            record.add_detail(UNFINISHED)
        self.phase = "resetting"
        if self.stages is not None:
            self.stages.close()
        if self.transport is None:
            self._give_up_dialling()
        else:
            self._drop_unread()
            self.transport.abortConnection()

    def _give_up_dialling(self) -> None:
        if self.transport is not None:  # amid a handshake
            self.transport.abortConnection()
        elif self._dialling is not None:
            self._dialling.cancel()
        else:  # it was never dialled
            self.phase = "closed"
            self._close_stages()
            self.reports.gone(self)

    def _drop_unread(self) -> None:
        """Do not read what the peer has sent before the socket is closed."""
        if self._socket is not None:
            self._socket.keep_unread = False

    def _close_stages(self) -> None:
        if self.stages is not None:
            self.stages.close()

    def tcp_info(self) -> bytes | None:
        """Implements ``End.tcp_info``; once it is closed, what was known last."""
        return None if self._socket is None else self._socket.tcp_info()

    def addresses(self) -> tuple[str | None, str | None]:
        """Implements ``End.addresses``."""
        sock = self._socket
        return (None, None) if sock is None else (local_address(sock), peer_address(sock))

    def pending_bytes(self) -> int:
        """Implements ``End.pending_bytes``."""
        if self.phase == "closed":
            return 0
        # A UNIX socket's bytes are in the receiver's queue, and stay readable if the sender closes.
        in_kernel = 0
        if self._socket is not None and self._is_tcp():
            in_kernel = unacknowledged_bytes(self._socket)
        return buffered_bytes(self._descriptor) + in_kernel

    def delivered_bytes(self) -> int:
        """Implements ``End.delivered_bytes``."""
        return self._written - self.pending_bytes()

    def is_delivered(self) -> bool:
        """Implements ``End.is_delivered``."""
        if self._end_sent and self._is_tcp() and not (self._has_sent_fin or self._is_tls):
            return False  # Twisted sends it in a later turn
        return not (self.pending_bytes() or (self.stages is not None and self.stages.held()))

    # -- called by the transport

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self.phase == "open":
            self.reports.data(self, data, self._shared.clock.seconds())

    def pauseProducing(self) -> None:
        """The transport holds enough bytes (``IPushProducer``)."""
        self._is_full = True
        self.reports.filled(self)

    def resumeProducing(self) -> None:
        """The transport's buffer is empty (``IPushProducer``)."""
        self._is_full = False
        self.reports.drained(self)

    def stopProducing(self) -> None:
        """Ignored (``IPushProducer``): ``connectionLost`` follows."""

    def readConnectionLost(self) -> None:
        """The peer has ended its side."""
        if self._input_ended:
            return
        self._input_ended = True
        if self.phase == "open":
            self.reports.eof(self)
            self._check_for_reset_later()
        elif self.phase == "draining":
            self.reports.eof(self)
            self._finish_output()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our end is sent."""
        self._has_sent_fin = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed, or has failed."""
        how = self._how_it_ended(reason)
        now = self._shared.clock.seconds()
        self.reports.record.note_tcp(self.side, self.tcp_info(), now)
        if self._socket is not None and self._socket.unread_data:
            self.dataReceived(self._socket.unread_data)
        if self.bucket is not None:
            self._shared.deadlines.cancel(self)
        phase, self.phase = self.phase, "closed"
        self._close_stages()
        self._report_end(phase, how, reason)
        # No cycle is left to be collected: one holds all that OpenSSL has for a connection.
        self.transport = self._descriptor = self._writer = None

    def _had_ended(self) -> bool:
        """Whether the peer had ended in order before its connection failed."""
        if self._socket is None or self._is_tls:
            return False
        return self._socket.has_ended or self._socket.error_number == errno.EPIPE

    def _report_end(self, phase: Phase, how: SideEnd | None, reason: Failure) -> None:
        if phase == "connecting" and self._refusal is not None:
            self.reports.connect_failed(self, *self._refusal)
            return
        if phase == "connecting":  # amid the handshake of TLS
            was_reset = self._socket is not None and self._socket.error_number in RESET_ERRNOS
            self.reports.connect_failed(
                self,
                "backend_reset" if was_reset else "backend_unreachable",
                self._error_text(reason) or "closed amid the handshake",
            )
            return
        is_bare = self._is_tls and reason.check(error.ConnectionLost)
        bare = cut_text(self.side) if is_bare else ""
        if how is not None:
            if not self._input_ended and self._had_ended():
                self._input_ended = True
                self.reports.eof(self)
            self.reports.broken(self, how, self._error_text(reason) or bare)
            return
        if phase == "open" and not self._input_ended:  # over TLS an end is that of both directions
            self._input_ended = True
            if bare:
                self.reports.record.add_detail(bare)
            self.reports.eof(self)
        self.reports.gone(self)

    def _how_it_ended(self, reason: Failure) -> SideEnd | None:
        """How the connection failed; None if it was closed in order."""
        if reason.check(error.ConnectionDone, error.ConnectionAborted):
            return None
        if isinstance(reason.value, SSL.Error) and self.phase != "connecting":
            # An alert is how the peer says that it has given up; all else it was we who refused.
            return "reset" if is_alert(reason.value) else "none"
        if not reason.check(error.ConnectionLost):
            return "none"
        if self._socket is not None and self._socket.error_number:
            return end_by_errno(self._socket.error_number)
        if self._is_tls:  # a FIN without close_notify: as TlsEnd sees it
            return "reset" if self.side == "backend" and not self._end_sent else None
        # A UNIX socket whose peer has closed hangs up: nothing is lost if nothing was pending.
        return "reset" if self.pending_bytes() else None

    def _error_text(self, reason: Failure) -> str:
        value = reason.value
        if isinstance(value, SSL.Error | TlsError):  # before an error of the socket's that followed
            if self._tls is not None:
                return fault_text(value, self.transport.getHandle())
            return error_text(value, self.side)
        if self._socket is not None and self._socket.error_number:
            return errno.errorcode.get(self._socket.error_number, "")
        return "" if isinstance(value, error.ConnectionLost) else reason.getErrorMessage()


def _connect_reason(failure: Failure) -> Reason:
    if isinstance(failure.value, NotResolved):
        return failure.value.reason
    if failure.check(error.ConnectionRefusedError):
        return "backend_refused"
    if failure.check(error.TimeoutError):
        return "connect_timeout"
    if (
        failure.check(NoBackend, LoopOfServices)
        or getattr(failure.value, "osError", None) in _SHORTAGES
    ):
        return "error"
    return "backend_unreachable"
