"""The socket addresses of a backend."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import Clock
from monconn.errors import os_error_text

SocketAddress = tuple[socket.AddressFamily, Any]
"""A family, and the address that ``connect`` takes for it."""

CACHE_SECONDS = 30.0
"""``getaddrinfo`` does not return an answer's TTL: short enough to follow a name that moves."""


class Resolver:
    """The socket addresses of a backend; a name is resolved in a thread, and the answer cached.

    :param address: the backend.
    :param reactor: its thread pool resolves names, as ``getaddrinfo`` blocks.
    :param clock: gives monotonic time.
    """

    _log = Logger()

    def __init__(
        self, address: TcpAddress | UnixAddress, reactor: IReactorThreads, clock: Clock
    ) -> None:
        self._address = address
        self._reactor = reactor
        self._clock = clock
        self._known: Sequence[SocketAddress] = _literal(address)
        self._good_until = float("inf") if self._known else 0.0
        self._waiting: list[tuple[Callable[..., object], Callable[[str], object]]] = []

    def cached(self) -> Sequence[SocketAddress]:
        """The addresses, if they are known; empty if :meth:`resolve` must be asked."""
        return self._known if self._clock.seconds() < self._good_until else ()

    def resolve(
        self,
        found: Callable[[Sequence[SocketAddress]], object],
        failed: Callable[[str], object],
    ) -> None:
        """Resolve the name; calls while a query is under way share its answer.

        :param found: called with at least one address.
        :param failed: called with the error's text.
        """
        self._waiting.append((found, failed))
        if len(self._waiting) == 1:
            pool = self._reactor.getThreadPool()
            query = deferToThreadPool(self._reactor, pool, _resolve, self._address)
            query.addCallbacks(self._remember, self._fail)

    def _remember(self, targets: Sequence[SocketAddress]) -> None:
        self._known = targets
        self._good_until = self._clock.seconds() + CACHE_SECONDS
        waiting, self._waiting = self._waiting, []
        for found, _ in waiting:
            self._call(found, targets)

    def _fail(self, failure: Failure) -> None:
        text = os_error_text(failure.value)
        waiting, self._waiting = self._waiting, []
        for _, failed in waiting:
            self._call(failed, text)

    def _call(self, call: Callable[..., object], answer: object) -> None:
        try:
            call(answer)
        except Exception:  # the others who wait are to have their answer nevertheless
            self._log.failure("a connection failed when the backend's name was resolved")


def _literal(address: TcpAddress | UnixAddress) -> Sequence[SocketAddress]:
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, address.path)]
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return []
    return _resolve(address)


def _resolve(address: TcpAddress | UnixAddress) -> Sequence[SocketAddress]:
    assert isinstance(address, TcpAddress)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]
