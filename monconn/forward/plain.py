"""Ends over plain sockets, TCP or UNIX: the road that nearly every byte takes."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from monconn.core.monitor import Monitor
from monconn.core.record import ConnectionRecord, Reason, Side
from monconn.core.sockets import (
    end_by_errno,
    keep_alive,
    reset_on_close,
    unacknowledged_bytes,
    unread_bytes,
)
from monconn.core.timeouts import GRACE_SECONDS
from monconn.forward.attempt import Attempt
from monconn.forward.loop import ERR, HUP, OUT, RDHUP, Loop
from monconn.forward.pipes import Pipe, PipePool
from monconn.forward.targets import Targets

CHUNK_BYTES = 1 << 16
"""How much one read may bring when it is copied, and so how much is held for a stalled side."""
SPLICE_BYTES = 1 << 20
SPLICE_FROM_BYTES = 1 << 15
"""Chunks smaller than this cost less copied than spliced."""
CHUNKS_A_TURN = 8
DELIVERY_LOOK_SECONDS = 0.01

CAN_SPLICE = hasattr(os, "splice")

_buffer = memoryview(bytearray(CHUNK_BYTES))  # empty again before the next chunk comes
_BROKEN = ERR  # and not HUP, which two ends in good order show as well
_NO_MORE = RDHUP | HUP | ERR
_WRITABLE = OUT | HUP | ERR
_SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)


class PlainEnd:
    """One side of a relay over a plain socket (see :class:`~monconn.forward.ends.End`).

    The two Ends of a relay are :attr:`peer` to each other and pass bytes on directly; only
    what changes the connection's state goes through the relay. What is on its way through
    an End is held by the one that it goes *to*: as bytes, or in a pipe.

    :param side: which of the two.
    :param record: the connection's record.
    :param monitor: the service's monitor.
    :param loop: tells of the socket's events.
    :param pipes: lends pipes for splicing.
    :param targets: whom to dial, if it is the backend's.
    :param keepalive: whether the system is to ask a silent peer if it is still there.
    """

    __slots__ = (
        "_attempt",
        "_blocked",
        "_eof",
        "_error",
        "_fd",
        "_gone",
        "_is_client",
        "_keepalive",
        "_leaving",
        "_loop",
        "_monitor",
        "_no_more",
        "_paused",
        "_pending",
        "_pipe",
        "_pipes",
        "_ready",
        "_resetting",
        "_sent",
        "_sock",
        "_splicing",
        "_targets",
        "_write_ended",
        "peer",
        "record",
        "reports",
        "side",
    )

    def __init__(
        self,
        side: Side,
        record: ConnectionRecord,
        monitor: Monitor,
        loop: Loop,
        pipes: PipePool,
        targets: Targets | None = None,
        *,
        keepalive: bool = True,
    ) -> None:
        self.side = side
        self.record = record
        self.reports: Any = None
        self.peer: Any = None
        self._is_client = side == "client"
        self._monitor = monitor
        self._loop = loop
        self._pipes = pipes
        self._targets = targets
        self._keepalive = keepalive
        self._attempt: Attempt | None = None
        self._sock: Any = None
        self._fd = -1
        self._paused = self._is_client  # until the backend stands
        self._ready = False  # there may be something to read, seen while paused
        self._no_more = False  # the peer has ended or reset: no event will tell of it again
        self._eof = False
        self._splicing = False
        self._blocked = not self._is_client  # dialling, or bytes are held for the socket
        self._pending: bytes = b""
        self._pipe: Pipe | None = None
        self._sent = 0
        self._write_ended = False
        self._error: OSError | None = None  # a write has failed; what the peer sent is read yet
        self._leaving = False  # closing or resetting: nothing is reported but the end
        self._resetting = False
        self._gone = False

    # -- the beginning

    def begin(self, sock: socket.socket) -> None:
        """Take over a connected socket, the client's."""
        self._sock, self._fd = sock, sock.fileno()
        self._loop.add(self._fd, self)
        self.reports.connected(self)

    def dial(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        assert self._targets is not None
        self._attempt = Attempt(self._targets, self._loop, self._monitor.clock, self)
        self._attempt.begin()

    def stands(self, sock: socket.socket, events: int) -> None:
        """See :class:`~monconn.forward.attempt.Dialling`."""
        self._attempt = None
        self._sock, self._fd = sock, sock.fileno()
        self._loop.hand_over(self._fd, self)
        self._blocked = False
        self.reports.connected(self)
        if not self._gone:
            self._flushed()
        if events != OUT and not self._gone:
            self.ready(events)

    def connect_failed(self, reason: Reason, words: str) -> None:
        """See :class:`~monconn.forward.attempt.Dialling`."""
        self._attempt = None
        self._gone = True
        self.reports.connect_failed(self, reason, words)

    # -- what the relay asks

    def pause(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        self._paused = self._ready = True

    def resume(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        if self._paused and not (self._leaving or self._eof):
            self._paused = False
            if self._ready or self._no_more:
                self._take()

    def write(self, data: bytes) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        self._put(memoryview(data))

    def end_writing(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        if self._write_ended or self._gone:
            return
        self._write_ended = True
        if not self._blocked:
            self._send_end()

    def _send_end(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was reset in the meantime: the loop tells

    def close(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        if self._leaving or self._gone:
            return
        self._leaving = True
        if self._sock is None:
            self._leave()
        elif not self._eof:
            # Closed with bytes unread, a socket sends a reset, which could overtake what
            # the peer has yet to read: so read on, and forget, until the peer has ended.
            self.end_writing()
            self._forget()
        elif not self._blocked:
            self._leave()

    def reset(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        if self._leaving or self._gone:
            return
        self._leaving = self._resetting = True
        if self._sock is None:
            self._leave()
        else:
            self._reset_once_delivered()

    def _reset_once_delivered(self) -> None:
        if self._gone:
            return
        if self._blocked or self._unacknowledged():
            self._monitor.clock.callLater(DELIVERY_LOOK_SECONDS, self._reset_once_delivered)
        else:
            self.abort()

    def _unacknowledged(self) -> int:
        # A UNIX socket's reader gets what was sent even once the sender is closed.
        if self._sock is None or self._gone or self._sock.family == socket.AF_UNIX:
            return 0
        return unacknowledged_bytes(self._sock)

    def abort(self) -> None:
        """See :class:`~monconn.forward.ends.End`."""
        if self._gone:
            return
        self._leaving = True
        if self._sock is not None:
            reset_on_close(self._sock)
        self._leave()

    def settle(self) -> None:
        """See :class:`~monconn.forward.ends.End`: have the system ask a silent peer."""
        if self._keepalive and self._sock is not None:
            self._keepalive = False
            keep_alive(self._sock)

    def waiting(self) -> int:
        """See :class:`~monconn.forward.ends.End`."""
        return self._held() + self._unacknowledged()

    def _held(self) -> int:
        return len(self._pending) + (0 if self._pipe is None else self._pipe.held)

    def delivered(self) -> int:
        """See :class:`~monconn.forward.ends.End`."""
        return self._sent - self._unacknowledged()

    # -- what the loop tells

    def ready(self, events: int) -> None:
        """See :class:`~monconn.forward.loop.Ready`."""
        if self._blocked and events & _WRITABLE:
            self._unblock()
        if events & _NO_MORE:
            self._no_more = True
        if events & ~OUT and not self._gone:
            self._hear(events)

    def _hear(self, events: int) -> None:
        if self._leaving:
            self._forget()
        elif self._eof:
            if events & _BROKEN:
                self._break(_error_of(self._sock))
        elif not self._paused:
            self._take()
        else:
            self._ready = True
            if events & _BROKEN:
                self._hung_up()

    def failed(self) -> None:
        """See :class:`~monconn.forward.loop.Ready`."""
        if self.reports is not None:
            self.reports.end("error", True)

    def _hung_up(self) -> None:
        """The peer has reset while we read nothing from it."""
        if self.record.connected is None and not unread_bytes(self._sock):
            self._break(_error_of(self._sock))
        else:  # what it sent before is delivered if that is possible soon
            self._monitor.clock.callLater(GRACE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._gone and not self._leaving:
            self._break(self._error or _error_of(self._sock))

    # -- taking bytes

    def _take(self) -> None:
        """Pass on what the peer has sent, a bounded number of chunks."""
        for _ in range(CHUNKS_A_TURN):
            pipe = self._pipes.take() if self._splicing and not self._monitor.watched else None
            try:
                count = self._sock.recv_into(_buffer) if pipe is None else self._splice(pipe)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(self._error or error)
                return
            if not count:
                self._end_of_input()
                return
            if pipe is None:
                self._copied(count)
            if self._paused or self._leaving:
                return
            if count < CHUNK_BYTES and pipe is None and not self._no_more:
                return  # all that there was: an event will tell of more
        self._loop.ask_again(self._fd)

    def _copied(self, count: int) -> None:
        self._count(count)
        chunk = _buffer[:count]
        if self._monitor.watched:
            self._monitor.saw(self.record, "up" if self._is_client else "down", bytes(chunk))
        if count == CHUNK_BYTES:
            self._splicing = CAN_SPLICE
        if not self._gone:  # as it is if an observer has reset the connection
            self.peer._put(chunk)

    def _splice(self, pipe: Pipe) -> int:
        try:
            count = os.splice(self._fd, pipe.writer, SPLICE_BYTES, flags=_SPLICE_FLAGS)
        except OSError:
            self._pipes.give_back(pipe)
            raise
        if not count:
            self._pipes.give_back(pipe)
            return 0
        pipe.held = count
        self._count(count)
        self._splicing = count >= SPLICE_FROM_BYTES
        self.record.pipe = "splice"
        self.peer._pour(pipe)
        return count

    def _count(self, count: int) -> None:
        record = self.record
        if self._is_client:
            record.up += count
            record.last_up = self._loop.now
        else:
            record.down += count
            record.last_down = self._loop.now

    def _end_of_input(self) -> None:
        if self._error is not None:
            self._break(self._error)
        else:
            self._eof = True
            self.reports.eof(self)

    def _forget(self) -> None:
        """Read on without passing anything on, until the peer has ended too."""
        if self._resetting or self._eof:
            return
        try:
            for _ in range(CHUNKS_A_TURN):
                if not self._sock.recv_into(_buffer):
                    self._eof = True
                    if not self._blocked:
                        self._leave()
                    return
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        self._loop.ask_again(self._fd)

    # -- giving bytes

    def _put(self, chunk: memoryview) -> None:
        """Give bytes to the system, and hold what it does not take."""
        if self._error is not None:
            return
        sent = 0
        if not self._blocked:
            try:
                sent = self._sock.send(chunk)
            except BlockingIOError:
                pass
            except OSError as error:
                self._cannot_write(error)
                return
            self._sent += sent
            if sent == len(chunk):
                return
        self._pending += bytes(chunk[sent:])
        self._blocked = True
        self.reports.filled(self)

    def _pour(self, pipe: Pipe) -> None:
        """Give a pipe's bytes to the system, and keep the pipe while it holds any."""
        try:
            while pipe.held:
                sent = os.splice(pipe.reader, self._fd, pipe.held, flags=_SPLICE_FLAGS)
                pipe.held -= sent
                self._sent += sent
        except BlockingIOError:
            self._pipe = pipe
            self._blocked = True
            self.reports.filled(self)
            return
        except OSError as error:
            self._pipes.give_back(pipe)
            self._cannot_write(error)
            return
        self._pipes.give_back(pipe)

    def _unblock(self) -> None:
        self._blocked = False
        pending, self._pending = self._pending, b""
        pipe, self._pipe = self._pipe, None
        if pending:
            self._put(memoryview(pending))
        elif pipe is not None:
            self._pour(pipe)
        if not self._blocked and not self._gone:
            self._flushed()

    def _flushed(self) -> None:
        """All that was held is given to the system."""
        if self._write_ended:
            self._send_end()
        if not self._leaving:
            self.reports.drained(self)
        elif self._eof and not self._resetting:
            self._leave()

    def _cannot_write(self, error: OSError) -> None:
        """The peer takes no more. What it sent before that is still there to be read."""
        self._error = error
        self._pending = b""
        if self._leaving:
            self._leave()
        elif self._eof:
            self._break(error)
        else:
            self._monitor.clock.callLater(GRACE_SECONDS, self._give_up)
            self._no_more = True
            self._loop.ask_again(self._fd)

    # -- the end

    def _break(self, error: OSError) -> None:
        number = error.errno or errno.ECONNRESET
        self._dispose()
        self.reports.broken(self, end_by_errno(number), errno.errorcode.get(number, ""))

    def _leave(self) -> None:
        self._dispose()
        self.reports.gone(self)

    def _dispose(self) -> None:
        self._gone = True
        self._blocked = False
        self._pending = b""
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        if self._sock is not None:
            self._loop.remove(self._fd)
            self._sock.close()
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None
        self.peer = None


def _error_of(sock: socket.socket) -> OSError:
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
    return OSError(number, os.strerror(number))
