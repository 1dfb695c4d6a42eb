"""The bytes on their way to a socket."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Protocol

from monconn.net.sockets import send_buffer_room, unacknowledged_bytes
from monconn.relay.sockets.pipes import Pipe, PipePool

_CLOSED = OSError(errno.EBADF, "closed")
# MOVE: take over pages instead of copying them, where the kernel can. NONBLOCK concerns the pipe;
# the socket does not block anyway.
SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)


class QueueOwner(Protocol):
    """Receives the events of a send queue; implemented by its End."""

    def filled(self) -> None:
        """The kernel takes no more: the rest is queued, and :meth:`flushed` will follow."""

    def flushed(self) -> None:
        """Everything that was queued has been given to the kernel."""

    def cannot_write(self) -> None:
        """Writing has failed for good; :attr:`SendQueue.error` says why."""


class SendQueue:
    """Gives bytes to a socket, and queues what the kernel does not take: as bytes, or in a pipe.

    :param owner: the End whose socket it is.
    :param pipes: where pipes are given back.
    """

    accepts_pipes = True
    __slots__ = (
        "_fd",
        "_owner",
        "_pending",
        "_pipe",
        "_pipes",
        "_sock",
        "blocked",
        "error",
        "has_sent_end",
        "sent",
    )

    def __init__(self, owner: QueueOwner, pipes: PipePool) -> None:
        self._owner: QueueOwner | None = owner
        self._pipes = pipes
        self._sock: Any = None  # a socket, except before and after the connection
        self._fd = -1
        self._pending: bytearray | None = None
        self._pipe: Pipe | None = None  # its bytes come before those of _pending
        self.blocked = True
        """Whether bytes have to wait: there is no socket yet, or some are queued."""
        self.error: OSError | None = None
        """Why a write has failed. What the peer sent before that can still be read."""
        self.has_sent_end = False
        self.sent = 0
        """Bytes that the kernel took, ever."""

    def connect_succeeded(self, sock: socket.SocketType, fd: int) -> None:
        """Start writing to a connected socket; what is queued already waits for :meth:`flush`."""
        self._sock, self._fd, self.blocked = sock, fd, bool(self._pending)

    def send(self, chunk: bytes | bytearray | memoryview) -> None:
        """Give bytes to the kernel, and queue what it does not take."""
        if self.error is not None:
            return
        if not self.blocked:
            try:
                sent = self._sock.send(chunk)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(error)
                return
            self.sent += sent
            if sent == len(chunk):
                return
            chunk = chunk[sent:]
        # A copy in any case: the chunk may be a view of the buffer that all Ends read into.
        if self._pending is None:
            self._pending = bytearray(chunk)
        else:
            self._pending += chunk
        self.blocked = True
        if self._owner is not None:
            self._owner.filled()

    def splice(self, pipe: Pipe) -> None:
        """Give a pipe's bytes to the kernel, and retain the pipe while it holds any.

        If the last ones are recorded, those are read, once all before them have left the pipe.
        """
        if self.error is not None:
            self._pipes.give_back(pipe)
            return
        is_partial = False
        recorded = 0 if pipe.tail is None else pipe.tail.count
        try:
            while pipe.held > recorded:
                sent = os.splice(pipe.reader, self._fd, pipe.held - recorded, flags=SPLICE_FLAGS)
                pipe.held -= sent
                self.sent += sent
                is_partial = True
        except BlockingIOError:
            self._pipe = pipe
            self.blocked = True
            if self._owner is not None:
                self._owner.filled()
            return
        except OSError as error:
            self._pipes.give_back(pipe)
            if is_partial and error.errno == errno.EPIPE and self._sock.family != socket.AF_UNIX:
                # splice_to_socket (fs/splice.c) has failed after it sent some, and then returns how
                # much: the error is lost, and EPIPE is what any later call gets. It says nothing
                # about an end that came before, as EPIPE itself would.
                error = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            self._fail(error)
            return
        tail = pipe.read_tail() if recorded else b""
        self._pipes.give_back(pipe)
        if tail:
            self.send(tail)

    def flush(self) -> None:
        """Give what is queued to the kernel, which may take some again."""
        self.blocked = False
        pipe, self._pipe = self._pipe, None
        pending, self._pending = self._pending, None
        if pipe is not None:
            self.splice(pipe)
        if pending is not None:  # it follows whatever is left of the pipe's bytes
            SendQueue.send(self, memoryview(pending))  # and not a subclass's: it has been there
        if not self.blocked and self._owner is not None:
            self._owner.flushed()

    def room(self) -> int:
        """About how many bytes the kernel has room for."""
        return 0 if self.blocked else send_buffer_room(self._sock)

    def end(self) -> None:
        """Send the end (FIN)."""
        self.has_sent_end = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # ENOTCONN: the peer has reset in the meantime, and the loop reports that

    def held(self) -> int:
        """How many bytes are queued here."""
        queued = 0 if self._pending is None else len(self._pending)
        return queued + (0 if self._pipe is None else self._pipe.held)

    def unacknowledged(self) -> int:
        """How many bytes the kernel holds that the peer has not acknowledged."""
        # A UNIX socket's bytes are in the receiver's queue, and stay readable if the sender closes.
        if self._sock is None or self._sock.family == socket.AF_UNIX or self.error is not None:
            return 0  # that of a socket that has failed never changes again
        return unacknowledged_bytes(self._sock)

    def _fail(self, error: OSError) -> None:
        self.error = error
        if self._owner is not None:
            self._owner.cannot_write()

    def close(self) -> None:
        """Drop what is queued; the End closes the socket."""
        self.error = _CLOSED
        self._owner = self._sock = None  # no cycle is left to be collected
        self.blocked = False
        self._pending = None
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None
