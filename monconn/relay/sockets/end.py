"""Ends over sockets, TCP or UNIX: the data path that nearly every byte takes."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Literal

import attrs

from monconn.model.reasons import Direction, Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.model.tcpinfo import NOT_SENT, UNACKED
from monconn.monitor.bandwidth import Throttle
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.monitor.tracks import Track
from monconn.net.loops import Loops
from monconn.net.sockets import (
    end_by_errno,
    local_address,
    peer_address,
    reset_on_close,
    set_keepalive,
    tcp_info,
    unread_bytes,
)
from monconn.policy.sides import Keepalive
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.delivery import DeliveryWatch
from monconn.relay.ends import HOLD_CONNECTING, HOLD_PAUSE, ByteSink, End, EndListener, Phase
from monconn.relay.sockets.connect import ConnectAttempt, Connector
from monconn.relay.sockets.loop import ERR, HUP, OUT, PRI, RDHUP, READ_ON, SocketLoop, TurnShare
from monconn.relay.sockets.pipes import Pipe, PipePool
from monconn.relay.sockets.send_queue import SPLICE_FLAGS, SendQueue
from monconn.relay.stages import StageChain

CHUNK_BYTES = 1 << 16
"""How much one read may return while the connection carries small chunks."""
COPY_BYTES = 1 << 18
SPLICE_BYTES = 1 << 20
"""How much one read may return in bulk, if the other side has room for about as much."""
LEAST_BYTES = 1 << 14
"""How much one read may return if the other side has hardly any room: what the kernel does not take
then is queued for as long as its peer does not read."""
SPLICE_FROM_BYTES = 1 << 15
"""Smaller chunks cost less copied than spliced: a splice is two system calls, and one more
queries the room there is."""

HAS_SPLICE = hasattr(os, "splice")

# All Ends read into one buffer: recv_into makes no object for each chunk, and memory that was used
# a moment ago is in the processor's cache. Every sink copies what it does not pass to the kernel at
# once, so that it is free again before the next read.
read_buffer = memoryview(bytearray(COPY_BYTES))

BROKEN = ERR
"""EPOLLERR alone is a failure: EPOLLHUP also comes when both sides have ended in order."""
# As READ_ON, for a reason that is no event: among a UNIX socket's bytes there may be descriptors,
# each of which parts a read; or writing has failed, and what the peer sent before is to be read.
_PARTED = 1 << 30
ENDED = 1 << 29
"""Among the events seen: the peer had ended in order before its connection failed."""
_WRITABLE = OUT | HUP | ERR
_READABLE = ~OUT


@attrs.frozen
class Shared:
    """Objects shared by the socket Ends of a service."""

    monitor: Monitor
    loop: SocketLoop
    """Reports the sockets' events."""
    pipes: PipePool
    """Lends pipes for splicing."""
    deadlines: Deadlines
    """Ends what has failed while it was not read from."""
    deliveries: DeliveryWatch
    """Resets once everything is delivered."""
    handshakes: TurnShare
    """The time for TLS handshakes."""
    records: TurnShare
    """The time for those who send many short TLS records."""
    loops: Loops = attrs.field(factory=Loops)
    """Knows our listeners, and the connections that lead to them."""


class SocketEnd:
    """One side of a relay over a socket (see :class:`~monconn.relay.ends.End`).

    What it reads it gives to its peer's sink directly; only what changes the connection's state
    goes through the relay.

    :param side: which of the two.
    :param record: the connection's record.
    :param shared: what it has in common with others.
    :param connector: connects to the backend, if this is the backend's side.
    """

    # Flat, with as few calls as possible: ready, _copy and the sink's send are all that a small
    # message costs, apart from counting it. tests/e2e/test_cost.py holds the number of calls.

    __slots__ = (
        "_attempt",
        "_connector",
        "_direction",
        "_fd",
        "_has_unread",
        "_input_ended",
        "_is_bulk",
        "_is_finishing",
        "_keepalive",
        "_loop",
        "_monitor",
        "_observers",
        "_output_ended",
        "_seen",
        "_shared",
        "_sock",
        "bucket",
        "holds",
        "is_watched",
        "peer",
        "phase",
        "record",
        "reports",
        "send_queue",
        "side",
        "sink",
        "stages",
        "throttle",
        "track",
    )

    reads_at_once = True

    def __init__(
        self,
        side: Side,
        record: ConnectionRecord,
        shared: Shared,
        connector: Connector | None = None,
    ) -> None:
        self.side: Side = side
        self.record = record
        self.phase: Phase = "connecting"
        self.holds = 0
        self.is_watched = False
        self.reports: EndListener
        self.peer: End
        self.send_queue = SendQueue(self, shared.pipes)
        self.sink: ByteSink = self.send_queue
        self.track: Track | None = None
        self.stages: StageChain | None = None
        self.throttle: Throttle | None = None
        self.bucket: int | None = None
        self._shared = shared
        self._connector = connector
        self._loop = shared.loop
        self._monitor = shared.monitor
        self._observers = shared.monitor.observers
        self._direction: Direction
        if side == "client":
            self._direction = "up"
            self.holds = (
                HOLD_CONNECTING  # what it sends stays in the kernel until the backend is there
            )
        else:
            self._direction = "down"
        self._attempt: ConnectAttempt | None = None
        self._sock: Any = None  # a socket, in the phases between connecting and closed
        self._fd = -1
        self._has_unread = False  # there may be input whose event has come already
        self._seen = 0  # bits of READ_ON that were reported, and _PARTED
        # The last chunk was a big one, or how much may be read is to be asked for each.
        self._is_bulk = False
        self._keepalive: Keepalive | Literal["inherited"] | None = "inherited"
        self._input_ended = False
        self._output_ended = False
        self._is_finishing = False  # only the peer's acknowledgement is missing

    # -- the beginning

    def begin(self, sock: socket.SocketType) -> None:
        """Take over a connected socket, the client's."""
        self._attach(sock)
        self._loop.add(self._fd, self)
        self.reports.connected(self)

    def _attach(self, sock: socket.SocketType) -> None:
        self.phase = "open"
        self._sock = sock
        self._fd = sock.fileno()
        if sock.family == socket.AF_UNIX:
            self._seen = _PARTED
        self.send_queue.connect_succeeded(sock, self._fd)

    def dial(self) -> None:
        """Begin to connect to the backend."""
        assert self._connector is not None
        # Stored before it begins: a UNIX socket is connected, or refused, within begin().
        attempt = self._attempt = ConnectAttempt(self._connector, self)
        attempt.begin()

    def connect_succeeded(
        self, sock: socket.SocketType, events: int, error_number: int = 0
    ) -> None:
        """Implements ``ConnectListener.connect_succeeded``."""
        self._attempt = None
        has_ended = self._output_ended
        self._attach(sock)
        if error_number:
            self.send_queue.error = OSError(error_number, os.strerror(error_number))
            if error_number == errno.EPIPE:
                self._seen |= ENDED
        self._loop.set_handler(self._fd, self)
        self.reports.connected(self)
        # A client over one of Twisted's transports may have sent bytes, and its end, before.
        if self.phase != "closed" and (self.send_queue.blocked or has_ended):
            self.send_queue.flush()
        # The event that completed the connect may also report input or an end; being
        # edge-triggered, it is not repeated.
        if events != OUT and self.phase != "closed":
            self.ready(events)

    def connect_failed(self, reason: Reason, detail: str) -> None:
        """Implements ``ConnectListener.connect_failed``."""
        self._attempt = None
        self._dispose()
        self.reports.connect_failed(self, reason, detail)

    # -- called by the loop

    def ready(self, events: int) -> None:
        """Implements ``SocketHandler.ready``."""
        if self.send_queue.blocked and events & _WRITABLE:
            self.send_queue.flush()
        if events & _READABLE and self.phase != "closed":
            seen = self._seen
            self._seen = seen | events & READ_ON
            if events & BROKEN and seen & RDHUP and not seen & BROKEN:
                self._seen |= ENDED  # a reset reports both: the end came first
            if self.holds or self._input_ended or self.phase != "open":
                self._handle_unread_events(events)
            # A read that returned less than it may has emptied the socket, so that no second one is
            # needed to see EAGAIN: for a small message it would double the cost of reading.
            elif self._is_bulk or self._copy():
                self._read()

    def _handle_unread_events(self, events: int) -> None:
        """Act on an event of a peer that is not read from."""
        if self.phase == "draining" and not self._input_ended:
            self._discard_input()
        elif self._input_ended or self.phase == "resetting":
            if events & BROKEN:
                self._break(self._socket_error())
            elif self._is_finishing:
                self._finish()
        else:
            self._has_unread = True
            if not events & BROKEN:
                return
            if (self.record.connected is None or self.holds & HOLD_PAUSE) and not self._has_input():
                self._copy()  # which meets the end, if one came before the reset, or the error
            else:
                self._break_later()

    def _has_input(self) -> bool:
        """Whether there are bytes that were not read."""
        return unread_bytes(self._sock) > 0

    def _break_later(self) -> None:
        """Let the other side take what the peer sent before its connection failed.

        A reset is passed on after some seconds at the latest. But if the peer had ended in order
        before, nobody waits for that: the other side may take as long as if nothing had failed.
        """
        # SO_ERROR can be read once, and so can the error of a write, which takes it.
        if self.send_queue.error is None:
            self.send_queue.error = self._socket_error()
        elif self.send_queue.error.errno == errno.EPIPE and self._sock.family == socket.AF_UNIX:
            # So fails a write to a UNIX socket that has closed. If that left bytes unread, which
            # makes it a reset, SO_ERROR is ECONNRESET.
            self.send_queue.error = self._socket_error(errno.EPIPE)
        # A reset is EPIPE in CLOSE_WAIT, that is after the peer's FIN, and ECONNRESET in all other
        # states (tcp_reset of net/ipv4/tcp_input.c).
        if self.send_queue.error.errno == errno.EPIPE:
            self._seen |= ENDED
        if not self._seen & ENDED and self.bucket is None:  # else it is scheduled already
            self._shared.deadlines.schedule(self, self._monitor.clock.seconds() + GRACE_SECONDS)

    def check(self, now: float) -> float | None:
        """The connection failed some time ago, and what the peer sent before was not delivered."""
        if self.phase == "open":
            if self.holds & HOLD_PAUSE:  # nobody could have taken it
                return now + GRACE_SECONDS
            self._break(self.send_queue.error or self._socket_error())
        return None

    def failed(self) -> None:
        """Implements ``SocketHandler.failed``: have the relay end."""
        if hasattr(self, "reports"):  # else both sides are closed
            self.reports.end("error", True)

    # -- reading

    def _read(self) -> None:
        """Pass on what the peer has sent, but no more than is fair to others."""
        left = self._loop.socket_bytes
        while left > 0:
            if self.throttle is not None:
                allowed = self.throttle.allowance(self._loop.now)
                count = self._copy(allowed) if allowed else 0  # else it has put us on hold
            else:
                count = self._read_bulk() if self._is_bulk else self._copy()
            if not count:
                return
            left -= count
        self._loop.rearm(self._fd)  # edge-triggered: without it there would be no further event

    def _read_bulk(self) -> int:
        """Pass on about as much as the other side has room for; see :meth:`_copy`."""
        sink = self.peer.sink
        wanted = max(LEAST_BYTES, min(sink.room(), self._loop.socket_bytes))
        if (
            HAS_SPLICE
            and sink.accepts_pipes
            and wanted >= SPLICE_FROM_BYTES
            # splice stops at TCP's urgent mark as at the end of input, and skips no mark.
            and not (self._seen & PRI or self.is_watched or self._observers.watched)
        ):
            pipe = self._shared.pipes.take()
            if pipe is not None:
                return self._splice(sink, pipe, min(SPLICE_BYTES, wanted))
        return self._copy(min(COPY_BYTES, wanted))

    def _copy(self, wanted: int = CHUNK_BYTES) -> int:
        """Pass on a chunk through Python.

        :returns: how much, or 0 if that was all for now.
        """
        try:
            count: int = self._sock.recv_into(read_buffer, wanted)
        except OSError as error:
            return self._cannot_read(error)
        if not count:
            return self._handle_end_of_input()
        if self.is_watched or self._observers.watched:
            self.reports.data(self, bytes(read_buffer[:count]), self._loop.now)
        else:  # what the relay would do, without its call
            self.record.count(self._direction, count, self._loop.now)
            chunk = read_buffer[:count]
            if self.track is not None:
                self.track.add(chunk, self._loop.now)
            self.peer.sink.send(chunk)
        # A full read of a side with little room is bulk as well, whose reads are measured.
        self._is_bulk = count >= CHUNK_BYTES or count == wanted or self.throttle is not None
        may_be_more = count == wanted or self._seen
        return count if may_be_more and not self.holds and self.phase == "open" else 0

    def _splice(self, sink: ByteSink, pipe: Pipe, wanted: int) -> int:
        """Pass on a chunk within the kernel; see :meth:`_copy`."""
        assert isinstance(sink, SendQueue)
        try:
            count = os.splice(self._fd, pipe.writer, wanted, flags=SPLICE_FLAGS)
        except OSError as error:
            self._shared.pipes.give_back(pipe)
            return self._cannot_read(error)
        if not count:
            self._shared.pipes.give_back(pipe)
            return self._copy()  # which can distinguish the end of input from an urgent mark
        self.record.count(self._direction, count, self._loop.now)
        self._is_bulk = count >= SPLICE_FROM_BYTES
        self.record.pipe = "splice"
        pipe.held = count
        if self.track is not None:
            pipe.tail = self.track.tail_of(count, self._loop.now)
        sink.splice(pipe)
        return 0 if self.holds or self.phase != "open" else count

    def _cannot_read(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            # A failed write took the socket's error, and left ECONNRESET or EPIPE for us.
            self._break(self.send_queue.error or error)
        return 0

    def _handle_end_of_input(self) -> int:
        error = self.send_queue.error
        if error is not None and not self._seen & ENDED:
            # Its error taken, a socket that has failed looks like one whose peer has ended.
            self._break(error)
            return 0
        self._input_ended = True
        self.reports.eof(self)
        # The end came first: with the error still to be fetched, recv would have failed otherwise.
        if (error is not None or self._seen & BROKEN) and self.phase != "closed":
            self._break(error or self._socket_error())
        return 0

    def _discard_input(self) -> None:
        """Read on without passing anything on, until the peer has ended too."""
        if self.phase != "draining" or self._input_ended:
            return
        try:
            for _ in range(max(1, self._loop.socket_bytes // COPY_BYTES)):
                if not self._sock.recv_into(read_buffer):
                    self._input_ended = True
                    self.reports.eof(self)
                    if self.phase == "draining" and not self._has_output():
                        self._finish()
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._break(self.send_queue.error or error)
            return
        self._loop.rearm(self._fd)

    def hold(self, hold: int) -> None:
        """Implements ``End.hold``."""
        self.holds |= hold
        self._has_unread = True  # we may be amid reading
        # No further event reports a failure that has been reported, and reading stops before it.
        if self._seen & BROKEN and self.phase == "open" and not self._input_ended:
            self._break_later()

    def release(self, hold: int) -> None:
        """Implements ``End.release``."""
        if not self.holds & hold:
            return
        self.holds &= ~hold
        if hold == HOLD_PAUSE and self.bucket is not None:  # it has failed meanwhile
            when = self._monitor.clock.seconds() + GRACE_SECONDS
            self._shared.deadlines.schedule(self, when)
        if self.holds or self._input_ended or self.phase != "open":
            return
        if self._has_unread or self._seen:
            self._loop.refresh()
            self._read()

    def set_throttle(self, throttle: Throttle | None) -> None:
        """Implements ``End.set_throttle``."""
        self.throttle = throttle
        self._is_bulk = True

    # -- writing, and reports of the send queue and the stages

    def filled(self) -> None:
        """Implements ``QueueOwner.filled``."""
        if self.phase != "closed":
            self.reports.filled(self)

    def flushed(self) -> None:
        """Implements ``QueueOwner.flushed``."""
        if self._output_ended and not self._has_output():
            self.send_queue.end()
        if self.phase == "open":
            self.reports.drained(self)
        elif self.phase == "draining" and self._input_ended and not self._has_output():
            self._finish()

    def stages_drained(self) -> None:
        """Implements ``End.stages_drained``."""
        if self._output_ended and not self.send_queue.blocked:
            self.flushed()

    def set_stages(self, stages: StageChain | None) -> None:
        """Implements ``End.set_stages``."""
        self.stages = stages
        self.sink = self.send_queue if stages is None else stages

    def _has_output(self) -> bool:
        """Whether there are bytes for the peer that the kernel does not have yet."""
        return self.send_queue.blocked or (self.stages is not None and self.stages.held() > 0)

    def cannot_write(self) -> None:
        """Implements ``QueueOwner.cannot_write``.

        The peer has reset (ECONNRESET), closed before all was delivered (EPIPE) or vanished
        (ETIMEDOUT). What it sent before that is in the socket, and is read as far as possible.
        """
        error = self.send_queue.error
        assert error is not None
        if self.phase != "open" or self._input_ended:
            self._break(error)
        else:
            if self._seen & RDHUP and not self._seen & BROKEN:
                self._seen |= ENDED
            self._break_later()
            self._seen |= _PARTED
            self._loop.rearm(self._fd)

    # -- called by the relay

    def end_writing(self) -> None:
        """Implements ``End.end_writing``."""
        if self._output_ended or self.phase == "closed":
            return
        self._output_ended = True
        if self.stages is not None:
            self.stages.end_of_input()  # stages_drained follows
        elif not self.send_queue.blocked:
            self.send_queue.end()

    def close(self) -> None:
        """Implements ``End.close``."""
        if self.phase == "connecting":
            self._leave()
        elif self.phase == "open":
            self.phase = "draining"
            if not self._input_ended:
                # Closed with bytes unread, a socket sends a reset (RFC 1122, 4.2.2.13), which could
                # make the peer's kernel drop what the peer has yet to read: so read on, and
                # discard.
                self.end_writing()
                self._discard_input()
            elif self.stages is not None:
                self._output_ended = True
                self.stages.end_of_input()  # stages_drained follows
            elif not self.send_queue.blocked:
                self._finish()
        elif self.phase == "draining" and self._is_finishing:
            self._leave()  # the kernel goes on delivering

    def reset(self) -> None:
        """Implements ``End.reset``."""
        if self.phase == "connecting":
            self._leave()
        elif self.phase == "open":
            self.phase = "resetting"
            if self.stages is not None:
                self.stages.end_of_input()
            if self.phase == "resetting":
                self._shared.deliveries.add(self)

    def abort(self) -> None:
        """Implements ``End.abort``."""
        if self.phase == "closed":
            return
        if self._sock is not None:
            reset_on_close(self._sock)
        self._leave()

    def set_keepalive(self, keepalive: Keepalive | None) -> None:
        """Implements ``End.set_keepalive``."""
        if keepalive != self._keepalive and self._sock is not None:
            self._keepalive = keepalive
            set_keepalive(self._sock, keepalive)

    def tcp_info(self) -> bytes | None:
        """Implements ``End.tcp_info``."""
        return None if self._sock is None else tcp_info(self._sock)

    def addresses(self) -> tuple[str | None, str | None]:
        """Implements ``End.addresses``."""
        sock = self._sock
        return (None, None) if sock is None else (local_address(sock), peer_address(sock))

    def pending_bytes(self) -> int:
        """Implements ``End.pending_bytes``."""
        return self.send_queue.held() + self.send_queue.unacknowledged()

    def delivered_bytes(self) -> int:
        """Implements ``End.delivered_bytes``."""
        return self.send_queue.sent - self.send_queue.unacknowledged()

    def is_delivered(self) -> bool:
        """Implements ``End.is_delivered``."""
        must_end = self._output_ended and not self.send_queue.has_sent_end
        return not (self._has_output() or must_end or self.send_queue.unacknowledged())

    # -- the end

    def _socket_error(self, default: int = errno.ECONNRESET) -> OSError:
        # SO_ERROR may be read already (by a failed write): that it was a reset is then most likely.
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or default
        return OSError(number, os.strerror(number))

    def _finish(self) -> None:
        """Close the socket, as both sides have ended; but not before the peer has acknowledged all.

        After that nobody could tell any more whether the last bytes have reached it. The kernel has
        an event for it if we have ended our side before: with the FIN acknowledged, TCP is closed
        (EPOLLHUP). That the peer does not answer is found by the relay's checks.
        """
        if self._seen & BROKEN:
            self._break(self._socket_error())
            return
        tcp = tcp_info(self._sock)
        has_all = tcp is None or not (any(tcp[UNACKED]) or any(tcp[NOT_SENT]))
        if has_all or self.record.reason is not None:
            self._dispose(tcp)
            self.reports.gone(self)
        elif not self._is_finishing:
            self._is_finishing = True
            self.send_queue.end()

    def _break(self, error: OSError) -> None:
        number = error.errno or errno.ECONNRESET
        self._dispose()
        self.reports.broken(self, end_by_errno(number), errno.errorcode.get(number, ""))

    def _leave(self) -> None:
        self._dispose()
        self.reports.gone(self)

    def _dispose(self, tcp: bytes | None = None) -> None:
        """Close the socket.

        :param tcp: its ``tcp_info`` if that was just fetched.
        """
        self.phase = "closed"
        if self.bucket is not None:
            self._shared.deadlines.cancel(self)
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        if self.stages is not None:
            self.stages.close()
        self.send_queue.close()
        if self._sock is not None:
            now = self._monitor.clock.seconds()
            self.record.note_tcp(self.side, tcp or tcp_info(self._sock), now)
            self._loop.remove(self._fd)
            self._sock.close()
            self._sock = None
