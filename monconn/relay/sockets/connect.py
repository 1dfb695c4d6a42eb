"""Connecting a socket to a backend, without blocking."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from monconn.clock import Clock
from monconn.model.reasons import Reason
from monconn.net.resolver import Resolver, SocketAddress
from monconn.relay.sockets.loop import ERR, HUP, SocketLoop

_FAILED = ERR | HUP
ADDRESS_SECONDS = 2.0
"""How long one address is tried while there are others."""
RETRY_SECONDS = 0.01
"""How long after a UNIX socket's queue was full the next attempt is made."""
RETRIES_A_TURN = 64
_STREAM_NONBLOCK = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))

# Anything else (no route, no such UNIX socket, ...) is "unreachable".
_REASONS: dict[int, Reason] = {
    errno.ECONNREFUSED: "backend_refused",
    errno.ETIMEDOUT: "connect_timeout",  # the kernel's, or ADDRESS_SECONDS
    errno.EMFILE: "error",  # we have no descriptor left, or the machine has none: not the backend's
    errno.ENFILE: "error",  # fault
}


class ConnectListener(Protocol):
    """Receives the result of an attempt; implemented by the End."""

    def connect_succeeded(self, sock: socket.SocketType, events: int) -> None:
        """The socket is connected, and is in the loop, which has reported these events of it."""

    def connect_failed(self, reason: Reason, detail: str) -> None:
        """None of the addresses could be connected to."""

    def failed(self) -> None:
        """End what can be ended."""


class Connector:
    """Connects to one backend.

    It also queues the attempts that find the accept queue of a backend's UNIX socket full:
    ``connect`` fails with ``EAGAIN`` then, and no event reports when there is room again. As all
    attempts share that accept queue, only the first one is retried, so that thousands of waiting
    attempts cost no more than one; while some wait, new ones wait behind them.

    :param resolver: knows the backend's addresses.
    :param loop: reports the sockets' events.
    :param clock: gives timers.
    """

    _log = Logger()

    def __init__(self, resolver: Resolver, loop: SocketLoop, clock: Clock) -> None:
        self.resolver = resolver
        self.loop = loop
        self.clock = clock
        self.waiting: dict[ConnectAttempt, None] = {}
        """The waiting attempts, in order; a dict, so that removing one takes O(1)."""
        self._timer: IDelayedCall | None = None

    def wait(self, attempt: ConnectAttempt) -> None:
        """Try again after the attempts that are waiting already."""
        self.waiting[attempt] = None
        if self._timer is None:
            self._timer = self.clock.callLater(RETRY_SECONDS, self._retry)

    def leave(self, attempt: ConnectAttempt) -> None:
        """Do not try again; harmless for one that does not wait."""
        self.waiting.pop(attempt, None)
        if not self.waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retry(self) -> None:
        self._timer = None
        for _ in range(min(len(self.waiting), RETRIES_A_TURN)):
            attempt = next(iter(self.waiting), None)
            if attempt is None:
                break
            try:
                if not attempt.connect():
                    break  # it is still full
            except Exception:
                self._log.failure("an attempt to connect failed")
                attempt.failed()
            self.waiting.pop(attempt, None)
        if self.waiting and self._timer is None:
            self._timer = self.clock.callLater(RETRY_SECONDS, self._retry)


class ConnectAttempt:
    """Tries a backend's addresses one after the other; the relay limits how long that may take.

    :param connector: of the backend.
    :param listener: notified of success or failure.
    """

    __slots__ = ("_addresses", "_connector", "_is_over", "_listener", "_sock", "_timeout")

    def __init__(self, connector: Connector, listener: ConnectListener) -> None:
        self._connector = connector
        self._listener = listener
        self._addresses: list[SocketAddress] = []  # that are left to try
        self._sock: socket.SocketType | None = None
        self._is_over = False
        self._timeout: IDelayedCall | None = None

    def begin(self) -> None:
        """Resolve the backend's name, if need be, and try its addresses."""
        resolver = self._connector.resolver
        addresses = resolver.cached()
        if addresses:
            self._found(addresses)
        else:
            resolver.resolve(self._found, self._no_such_name)

    def give_up(self) -> None:
        """Stop trying, and report nothing."""
        self._is_over = True
        self._drop_socket()
        self._connector.leave(self)

    def _found(self, addresses: Sequence[SocketAddress]) -> None:
        if self._is_over:
            return
        self._addresses = list(addresses)
        if self._connector.waiting or not self.connect():
            self._connector.wait(self)

    def _no_such_name(self, detail: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._listener.connect_failed("backend_unreachable", detail)

    def connect(self) -> bool:
        """Try the next address.

        :returns: False if it is a UNIX socket whose queue is full.
        """
        family, address = self._addresses[0]
        try:
            sock = _make_socket(family)
        except OSError as error:
            self._failed(error.errno or errno.EMFILE)
            return True
        error_number = sock.connect_ex(address)
        if error_number in (0, errno.EINPROGRESS):
            self._sock = sock
            self._connector.loop.add(sock.fileno(), self)
            if not error_number:  # a UNIX socket is connected at once
                self._connected()
            elif len(self._addresses) > 1:
                self._timeout = self._connector.clock.callLater(ADDRESS_SECONDS, self._timed_out)
            return True
        sock.close()
        if error_number == errno.EAGAIN:
            return False
        self._failed(error_number)
        return True

    def _timed_out(self) -> None:
        self._timeout = None
        self._drop_socket()
        self._failed(errno.ETIMEDOUT)

    def _failed(self, error_number: int) -> None:
        self._addresses.pop(0)
        if self._addresses:
            if not self.connect():
                self._connector.wait(self)
            return
        self._is_over = True
        reason = _REASONS.get(error_number, "backend_unreachable")
        self._listener.connect_failed(reason, os.strerror(error_number).lower())

    def ready(self, events: int) -> None:
        """The connection is established, or has failed (connect(2), ``EINPROGRESS``)."""
        assert self._sock is not None
        if events & _FAILED:
            error_number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error_number:
                self._drop_socket()
                self._failed(error_number)
                return
        self._connected(events)

    def failed(self) -> None:
        """Report an unexpected exception; it may have been raised after the connect succeeded."""
        self._listener.failed()

    def _connected(self, events: int = 0) -> None:
        assert self._sock is not None
        self._is_over = True
        sock, self._sock = self._sock, None
        self._cancel_timeout()
        self._listener.connect_succeeded(sock, events)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _drop_socket(self) -> None:
        self._cancel_timeout()
        if self._sock is not None:
            self._connector.loop.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None


def _make_socket(family: int) -> socket.SocketType:
    # The C type beneath socket.socket, which is socket.SocketType at run time: the subclass turns
    # family and type into enums at each access, and costs twice as much to make.
    sock = socket.SocketType(family, _STREAM_NONBLOCK)
    if family != socket.AF_UNIX:
        # A relay passes on what it has: Nagle's algorithm would hold the end of a message back
        # until the peer acknowledges the rest, which it may delay by 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
