"""Connecting a plain socket to a backend, without blocking."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from monconn.model.reasons import Reason
from monconn.net.resolver import Resolver, SocketAddress
from monconn.relay.sockets.loop import ERR, HUP, SocketLoop

_BROKEN = ERR | HUP
QUEUE_FULL_PAUSE_SECONDS = 0.01
TARGET_SECONDS = 2.0
"""How long one target is waited for while there are others."""
_STREAM_NONBLOCK = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))

_REASONS: dict[int, Reason] = {
    errno.ECONNREFUSED: "backend_refused",
    errno.ETIMEDOUT: "connect_timeout",
    errno.EMFILE: "error",
    errno.ENFILE: "error",
}


class ConnectListener(Protocol):
    """What an attempt tells its End."""

    def connect_succeeded(self, sock: socket.SocketType, events: int) -> None:
        """The connection stands; its socket is in the loop, which has told these events."""

    def connect_failed(self, reason: Reason, words: str) -> None:
        """No target could be connected to."""

    def failed(self) -> None:
        """End what can be ended."""


class ConnectAttempt:
    """Tries a backend's targets one after the other; how long is the relay's concern.

    :param targets: of the backend.
    :param loop: tells of the socket's events.
    :param clock: gives ``callLater``.
    :param end: told what comes of it.
    """

    __slots__ = (
        "_candidates",
        "_clock",
        "_end",
        "_loop",
        "_over",
        "_sock",
        "_targets",
        "_timeout",
    )

    def __init__(
        self, targets: Resolver, loop: SocketLoop, clock: Any, end: ConnectListener
    ) -> None:
        self._targets = targets
        self._loop = loop
        self._clock = clock
        self._end = end
        self._candidates: list[SocketAddress] = []
        self._sock: Any = None
        self._over = False
        self._timeout: Any = None

    def begin(self) -> None:
        """Look the backend up, and try to connect."""
        targets = self._targets.cached()
        if targets:
            self._found(targets)
        else:
            self._targets.resolve(self._found, self._no_such_name)

    def give_up(self) -> None:
        """Stop trying, and tell nothing."""
        self._over = True
        self._drop_socket()

    def _found(self, targets: Sequence[SocketAddress]) -> None:
        self._candidates = list(targets)
        self._try_next()

    def _no_such_name(self, words: str) -> None:
        if not self._over:
            self._over = True
            self._end.connect_failed("backend_unreachable", words)

    def _try_next(self) -> None:
        if self._over:
            return
        family, where = self._candidates[0]
        try:
            sock = self._sock = _make_socket(family)
        except OSError as error:
            self._failed(error.errno or errno.EMFILE)
            return
        failed = sock.connect_ex(where)
        if failed in (0, errno.EINPROGRESS):
            self._loop.add(sock.fileno(), self)
            if not failed:
                self._connected()
            elif len(self._candidates) > 1:
                self._timeout = self._clock.callLater(TARGET_SECONDS, self._timed_out)
        elif failed == errno.EAGAIN:  # a UNIX socket's queue is full, for a moment
            self._sock = None
            sock.close()
            self._clock.callLater(QUEUE_FULL_PAUSE_SECONDS, self._try_next)
        else:
            self._sock = None
            sock.close()
            self._failed(failed)

    def _timed_out(self) -> None:
        self._timeout = None
        self._drop_socket()
        self._failed(errno.ETIMEDOUT)

    def _failed(self, error_number: int) -> None:
        self._candidates.pop(0)
        if self._candidates:
            self._try_next()
            return
        self._over = True
        reason = _REASONS.get(error_number, "backend_unreachable")
        self._end.connect_failed(reason, os.strerror(error_number).lower())

    def ready(self, events: int) -> None:
        """See :class:`~monconn.relay.sockets.loop.SocketHandler`: it stands, or has failed."""
        if events & _BROKEN:
            error_number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error_number:
                self._drop_socket()
                self._failed(error_number)
                return
        self._connected(events)

    def failed(self) -> None:
        """See :class:`SocketHandler`; what failed may be what followed the connect."""
        self._end.failed()

    def _connected(self, events: int = 0) -> None:
        self._over = True
        sock, self._sock = self._sock, None
        self._cancel_timeout()
        self._end.connect_succeeded(sock, events)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _drop_socket(self) -> None:
        self._cancel_timeout()
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None


def _make_socket(family: int) -> socket.SocketType:
    # The type beneath socket.socket: it knows no enums, and costs half as much to make.
    sock = socket.SocketType(family, _STREAM_NONBLOCK)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
