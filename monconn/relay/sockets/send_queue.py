"""What is on its way to a plain socket."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Protocol

from monconn.net.sockets import send_buffer_room, unacknowledged_bytes
from monconn.relay.sockets.pipes import Pipe, PipePool

_CLOSED = OSError(errno.EBADF, "closed")
SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)


class Giving(Protocol):
    """What an send_queue tells its End."""

    def filled(self) -> None:
        """The system takes no more: what is left is held, and :meth:`flushed` will follow."""

    def flushed(self) -> None:
        """All that was held is given to the system."""

    def cannot_write(self) -> None:
        """The peer takes no more, ever; :attr:`SendQueue.error` says why."""


class SendQueue:
    """Gives bytes to a socket, and holds what the system does not take: as bytes, or in a pipe.

    :param end: the End whose socket it is.
    :param pipes: where pipes go back to.
    """

    accepts_pipes = True
    __slots__ = ("_end", "_fd", "_pending", "_pipe", "_pipes", "_sock", "blocked", "error", "sent")

    def __init__(self, end: Giving, pipes: PipePool) -> None:
        self._end: Any = end
        self._pipes = pipes
        self._sock: Any = None
        self._fd = -1
        self._pending = b""
        self._pipe: Pipe | None = None
        self.blocked = True
        """Whether the system takes nothing now: there is no socket yet, or bytes are held."""
        self.error: OSError | None = None
        """Why a write has failed; what the peer sent before that can be read yet."""
        self.sent = 0
        """Bytes that the system took, ever."""

    def connect_succeeded(self, sock: socket.SocketType, fd: int) -> None:
        """Begin, with a connected socket; what is held already waits for :meth:`flush`."""
        self._sock, self._fd, self.blocked = sock, fd, bool(self._pending)

    def send(self, chunk: bytes | memoryview) -> None:
        """Give bytes to the system, and hold what it does not take."""
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
        self._pending += bytes(chunk)
        self.blocked = True
        self._end.filled()

    def splice(self, pipe: Pipe) -> None:
        """Give a pipe's bytes to the system, and keep the pipe while it holds any."""
        if self.error is not None:
            self._pipes.give_back(pipe)
            return
        try:
            while pipe.held:
                sent = os.splice(pipe.reader, self._fd, pipe.held, flags=SPLICE_FLAGS)
                pipe.held -= sent
                self.sent += sent
        except BlockingIOError:
            self._pipe = pipe
            self.blocked = True
            self._end.filled()
            return
        except OSError as error:
            self._pipes.give_back(pipe)
            self._fail(error)
            return
        self._pipes.give_back(pipe)

    def flush(self) -> None:
        """Give what is held to the system, which may take some again."""
        self.blocked = False
        pending, self._pending = self._pending, b""
        pipe, self._pipe = self._pipe, None
        assert not (pending and pipe), "who has filled us is not read from"
        if pending:
            self.send(memoryview(pending))
        elif pipe is not None:
            self.splice(pipe)
        if not self.blocked and self._sock is not None:
            self._end.flushed()

    def room(self) -> int:
        """How many bytes the system has room for, about."""
        return 0 if self.blocked else send_buffer_room(self._sock)

    def end(self) -> None:
        """Tell the peer that no more will come."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was reset in the meantime: the loop tells

    def held(self) -> int:
        """How many bytes are held here."""
        return len(self._pending) + (0 if self._pipe is None else self._pipe.held)

    def unacknowledged(self) -> int:
        """How many bytes the system holds that the peer has not taken."""
        # A UNIX socket's reader gets what was sent even once the sender is closed.
        if self._sock is None or self._sock.family == socket.AF_UNIX:
            return 0
        return unacknowledged_bytes(self._sock)

    def _fail(self, error: OSError) -> None:
        self.error = error
        self._end.cannot_write()

    def close(self) -> None:
        """Drop what is held; the End closes the socket."""
        self.error = _CLOSED
        self._end = self._sock = None  # no cycle is left to be collected
        self.blocked = False
        self._pending = b""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None
