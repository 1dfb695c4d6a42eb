"""Ends over plain sockets, TCP or UNIX: the path that nearly every byte takes."""

from __future__ import annotations

import errno
import socket
from typing import Any

from monconn.model.reasons import Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.net.resolver import Resolver
from monconn.net.sockets import (
    enable_keepalive,
    end_by_errno,
    reset_on_close,
    tcp_info,
    unread_bytes,
)
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.sockets.connect import ConnectAttempt
from monconn.relay.sockets.loop import ERR, HUP, OUT, PRI, RDHUP
from monconn.relay.sockets.reader import Reader, Shared, error_of
from monconn.relay.sockets.send_queue import SendQueue

DELIVERY_POLL_SECONDS = 0.01

_BROKEN = ERR  # and not HUP, which two ends in good order show as well
# After these there may be bytes that no further event tells of, or a mark that a read stops at.
_READ_ALL = PRI | RDHUP | HUP | ERR
_WRITABLE = OUT | HUP | ERR
_READABLE = ~OUT


class SocketEnd(Reader):
    """One side of a relay over a plain socket (see :class:`~monconn.relay.ends.End`).

    What it takes it gives to its :attr:`peer`'s send_queue directly; only what changes the
    connection's state goes through the relay.

    :param side: which of the two.
    :param record: the connection's record.
    :param shared: what it has in common with others.
    :param targets: whom to dial, if it is the backend's.
    """

    __slots__ = (
        "_attempt",
        "_gone",
        "_has_keepalive",
        "_ready",
        "_targets",
        "_write_ended",
        "side",
    )

    def __init__(
        self,
        side: Side,
        record: ConnectionRecord,
        shared: Shared,
        targets: Resolver | None = None,
    ) -> None:
        self.side = side
        self.record = record
        self.reports: Any = None
        self.peer: Any = None
        self.send_queue = SendQueue(self, shared.pipes)
        self._shared = shared
        self._targets = targets
        self._loop = shared.loop
        self._monitor = shared.monitor
        self._is_client = side == "client"
        self._attempt: ConnectAttempt | None = None
        self._sock: Any = None
        self._fd = -1
        self._paused = self._is_client  # until the backend stands
        self._ready = False  # there may be something to read, seen while paused
        self._reads_all = False  # a short read may not be all that there is
        self._urgent = False  # where splicing would stop at the mark, or take it for the end
        self._broken = False  # the loop has told of an error
        self._eof = False
        self._flows = False  # the last chunk was a big one
        self._has_keepalive = not shared.keepalive
        self._write_ended = False
        self._closing = False  # closing or resetting: nothing is reported but the end
        self._resetting = False
        self._gone = False

    # -- the beginning

    def begin(self, sock: socket.SocketType) -> None:
        """Take over a connected socket, the client's."""
        self._attach(sock)
        self._loop.add(self._fd, self)
        self.reports.connected(self)

    def _attach(self, sock: socket.SocketType) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._reads_all = sock.family == socket.AF_UNIX  # descriptors among the bytes part reads
        self.send_queue.connect_succeeded(sock, self._fd)

    def dial(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        assert self._targets is not None
        self._attempt = ConnectAttempt(self._targets, self._loop, self._monitor.clock, self)
        self._attempt.begin()

    def connect_succeeded(self, sock: socket.SocketType, events: int) -> None:
        """See :class:`~monconn.relay.sockets.connect.ConnectListener`."""
        self._attempt = None
        self._attach(sock)
        self._loop.set_handler(self._fd, self)
        self.reports.connected(self)
        if not self._gone:
            self.send_queue.flush()  # with nothing to give, too: that has the client read
        if events != OUT and not self._gone:
            self.ready(events)

    def connect_failed(self, reason: Reason, words: str) -> None:
        """See :class:`~monconn.relay.sockets.connect.ConnectListener`."""
        self._attempt = None
        self._dispose()
        self.reports.connect_failed(self, reason, words)

    # -- what the relay asks

    def pause(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        self._paused = self._ready = True

    def resume(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._paused and not (self._closing or self._eof):
            self._paused = False
            if self._ready or self._reads_all:
                self._loop.refresh()
                self._read()

    def end_writing(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._write_ended or self._gone:
            return
        self._write_ended = True
        if not self.send_queue.blocked:
            self.send_queue.end()

    def close(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._closing or self._gone:
            return
        self._closing = True
        if self._sock is None:
            self._leave()
        elif not self._eof:
            # Closed with bytes unread, a socket sends a reset, which could overtake what
            # the peer has yet to read: so read on, and forget, until the peer has ended.
            self.end_writing()
            self._discard_input()
        elif not self.send_queue.blocked:
            self._leave()

    def reset(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._closing or self._gone:
            return
        self._closing = self._resetting = True
        if self._sock is None:
            self._leave()
        else:
            self._reset_once_delivered()

    def _reset_once_delivered(self) -> None:
        if self._gone:
            return
        if self.send_queue.blocked or self.send_queue.unacknowledged():
            self._monitor.clock.callLater(DELIVERY_POLL_SECONDS, self._reset_once_delivered)
        else:
            self.abort()

    def abort(self) -> None:
        """See :class:`~monconn.relay.ends.End`."""
        if self._gone:
            return
        self._closing = True
        if self._sock is not None:
            reset_on_close(self._sock)
        self._leave()

    def enable_keepalive(self) -> None:
        """See :class:`~monconn.relay.ends.End`: have the system ask a silent peer."""
        if not self._has_keepalive and self._sock is not None:
            self._has_keepalive = True
            enable_keepalive(self._sock)

    def tcp_info(self) -> bytes | None:
        """See :class:`~monconn.relay.ends.End`."""
        return None if self._gone or self._sock is None else tcp_info(self._sock)

    def pending_bytes(self) -> int:
        """See :class:`~monconn.relay.ends.End`."""
        return self.send_queue.held() + self.send_queue.unacknowledged()

    def delivered_bytes(self) -> int:
        """See :class:`~monconn.relay.ends.End`."""
        return self.send_queue.sent - self.send_queue.unacknowledged()

    # -- what the loop tells

    def ready(self, events: int) -> None:
        """See :class:`~monconn.relay.sockets.loop.SocketHandler`."""
        if self.send_queue.blocked and events & _WRITABLE:
            self.send_queue.flush()
        if events & _READABLE and not self._gone:
            if events & _READ_ALL:
                self._note_events(events)
            if self._paused or self._eof or self._closing:
                self._handle_unread_events(events)
            elif self._flows or self._copy():  # one small chunk is nearly always all
                self._read()

    def _note_events(self, events: int) -> None:
        self._reads_all = True
        self._urgent = self._urgent or bool(events & PRI)
        self._broken = self._broken or bool(events & _BROKEN)

    def _handle_unread_events(self, events: int) -> None:
        """Something came from a peer that is not read from now."""
        if self._resetting and events & _BROKEN:
            self._leave()
        elif self._closing:
            self._discard_input()
        elif self._eof:
            if events & _BROKEN:
                self._break(error_of(self._sock))
        else:
            self._ready = True
            if events & _BROKEN:
                self._hung_up()

    def failed(self) -> None:
        """See :class:`~monconn.relay.sockets.loop.SocketHandler`."""
        if self.reports is not None:
            self.reports.end("error", True)

    def _hung_up(self) -> None:
        """The peer has reset while we read nothing from it."""
        if self.record.connected is None and not unread_bytes(self._sock):
            self._break(error_of(self._sock))
        else:  # what it sent before is delivered if that is possible soon
            self._monitor.clock.callLater(GRACE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._gone and not self._closing:
            self._break(self.send_queue.error or error_of(self._sock))

    # -- what the send_queue tells

    def filled(self) -> None:
        """See :class:`~monconn.relay.sockets.send_queue.Giving`."""
        self.reports.filled(self)

    def flushed(self) -> None:
        """See :class:`~monconn.relay.sockets.send_queue.Giving`."""
        if self._write_ended:
            self.send_queue.end()
        if not self._closing:
            self.reports.drained(self)
        elif self._eof and not self._resetting:
            self._leave()

    def cannot_write(self) -> None:
        """See :class:`~monconn.relay.sockets.send_queue.Giving`: what the peer sent is read yet."""
        error = self.send_queue.error
        assert error is not None
        if self._closing:
            self._leave()
        elif self._eof:
            self._break(error)
        else:
            self._monitor.clock.callLater(GRACE_SECONDS, self._give_up)
            self._reads_all = True
            self._loop.rearm(self._fd)

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
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        self.send_queue.close()
        if self._sock is not None:
            if self._is_client:
                self.record.client_tcp = tcp_info(self._sock)
            else:
                self.record.backend_tcp = tcp_info(self._sock)
            self._loop.remove(self._fd)
            self._sock.close()
