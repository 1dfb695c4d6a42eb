"""How a plain End takes what its peer has sent, and passes it on."""

from __future__ import annotations

import errno
import os
import socket
from abc import abstractmethod
from typing import Any

import attrs

from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.relay.sockets.loop import SocketLoop
from monconn.relay.sockets.pipes import Pipe, PipePool
from monconn.relay.sockets.send_queue import SPLICE_FLAGS, SendQueue

CHUNK_BYTES = 1 << 16
"""How much one read may bring before much has come."""
COPY_BYTES = 1 << 18
SPLICE_BYTES = 1 << 20
"""How much one read may bring if the other side has room for it, about."""
LEAST_BYTES = 1 << 14
"""How much one read may bring if the other side has hardly any room, and it may have to be held."""
SPLICE_FROM_BYTES = 1 << 15
"""Chunks smaller than this cost less copied than spliced."""
TURN_BYTES = 1 << 20
"""How much one side passes on before others have their turn, about."""

HAS_SPLICE = hasattr(os, "splice")

_buffer = memoryview(bytearray(COPY_BYTES))  # empty again before the next chunk comes


@attrs.frozen
class Shared:
    """What the plain Ends of a service have in common."""

    monitor: Monitor
    loop: SocketLoop
    """Tells of the sockets' events."""
    pipes: PipePool
    """Lends pipes for splicing."""
    keepalive: bool = True
    """Whether the system is to ask a silent peer if it is still there."""


class Reader:
    """The part of a ``SocketEnd`` that every byte passes through."""

    __slots__ = (
        "_broken",
        "_closing",
        "_eof",
        "_fd",
        "_flows",
        "_is_client",
        "_loop",
        "_monitor",
        "_paused",
        "_reads_all",
        "_resetting",
        "_shared",
        "_sock",
        "_urgent",
        "peer",
        "record",
        "reports",
        "send_queue",
    )

    send_queue: SendQueue
    peer: Any
    record: ConnectionRecord
    reports: Any
    _broken: bool
    _eof: bool
    _fd: int
    _flows: bool
    _is_client: bool
    _closing: bool
    _loop: SocketLoop
    _monitor: Monitor
    _paused: bool
    _reads_all: bool
    _resetting: bool
    _shared: Shared
    _sock: Any
    _urgent: bool

    def _read(self) -> None:
        """Pass on what the peer has sent, but no more than is fair to others."""
        left = TURN_BYTES
        while left > 0:
            count = self._read_bulk() if self._flows else self._copy()
            if not count:
                return
            left -= count
        self._loop.rearm(self._fd)

    def _read_bulk(self) -> int:
        """Pass on what the other side has room for; how much, or 0 if that was all for now."""
        # What finds no room is held, for as long as the other side stands still.
        send_queue = self.peer.send_queue
        wanted = max(LEAST_BYTES, send_queue.room())
        may_splice = HAS_SPLICE and send_queue.accepts_pipes and wanted >= SPLICE_FROM_BYTES
        is_hidden = not (self._urgent or self._monitor.watched)
        pipe = self._shared.pipes.take() if may_splice and is_hidden else None
        if pipe is None:
            return self._copy(min(COPY_BYTES, wanted))
        return self._splice(pipe, min(SPLICE_BYTES, wanted))

    def _copy(self, wanted: int = CHUNK_BYTES) -> int:
        """Pass on a chunk through Python; how much, or 0 if that was all for now."""
        watched = self._monitor.watched
        chunk: Any  # bytes if watched, to be kept by whoever sees them
        try:
            if watched:
                chunk = self._sock.recv(wanted)
                count = len(chunk)
            else:
                count = self._sock.recv_into(_buffer, wanted)
                chunk = _buffer[:count]
        except OSError as error:
            return self._cannot_read(error)
        if not count:
            return self._end_of_input()
        self._count(count)
        if watched:
            self._monitor.saw(self.record, "up" if self._is_client else "down", chunk)
            if self._closing:  # an observer has ended the connection because of this very chunk
                return 0
        self.peer.send_queue.send(chunk)
        self._flows = count >= CHUNK_BYTES or count == wanted  # which may be less, to a full side
        return count if (count == wanted or self._reads_all) and self._goes_on() else 0

    def _splice(self, pipe: Pipe, wanted: int) -> int:
        """The same past Python."""
        try:
            count = os.splice(self._fd, pipe.writer, wanted, flags=SPLICE_FLAGS)
        except OSError as error:
            self._shared.pipes.give_back(pipe)
            return self._cannot_read(error)
        if not count:
            self._shared.pipes.give_back(pipe)
            return self._copy()  # which knows the end from an urgent mark
        self._count(count)
        self._flows = count >= SPLICE_FROM_BYTES
        self.record.pipe = "splice"
        pipe.held = count
        self.peer.send_queue.splice(pipe)
        return count if self._goes_on() else 0

    def _goes_on(self) -> bool:
        return not (self._paused or self._closing)

    def _count(self, count: int) -> None:
        record = self.record
        if self._is_client:
            if not record.up:
                record.first_up = self._loop.now
            record.up += count
            record.last_up = self._loop.now
        else:
            if not record.down:
                record.first_down, record.asked = self._loop.now, record.last_up
            record.down += count
            record.last_down = self._loop.now

    def _cannot_read(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            self._break(self.send_queue.error or error)
        return 0

    def _end_of_input(self) -> int:
        if self.send_queue.error is not None:
            self._break(self.send_queue.error)
        elif self._broken:  # by a reset that came after the end
            self._break(error_of(self._sock))
        else:
            self._eof = True
            self.reports.eof(self)
        return 0

    def _discard_input(self) -> None:
        """Read on without passing anything on, until the peer has ended too."""
        if self._resetting or self._eof:
            return
        try:
            for _ in range(TURN_BYTES // COPY_BYTES):
                if not self._sock.recv_into(_buffer):
                    self._eof = True
                    if not self.send_queue.blocked:
                        self._leave()
                    return
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        self._loop.rearm(self._fd)

    @abstractmethod
    def _break(self, error: OSError) -> None:
        """The connection broke."""

    @abstractmethod
    def _leave(self) -> None:
        """All is over, in order."""


def error_of(sock: socket.SocketType) -> OSError:
    """What has broken a connection, as far as its socket tells."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
    return OSError(number, os.strerror(number))
