"""The HTTP API and its page as a Twisted service: where it listens, and with which certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twisted.application.service import Service

from monconn.addresses import UnixAddress
from monconn.clock import Clock
from monconn.config.sections import HttpConfig
from monconn.errors import ListenError, Remark
from monconn.log import Logger
from monconn.net.http.messages import Handler
from monconn.net.listen import (
    Listener,
    ServeReactor,
    check_listener,
    client_address,
    open_listener,
    serve_factory,
    wait_while_full,
)
from monconn.policy.sides import Keepalive

if TYPE_CHECKING:  # needs h11
    from monconn.net.http.server import HttpFactory

_MISSING = "http needs h11: pip install 'monconn[http]'"
CLIENTS = 256
"""A browser has up to six connections to a host."""
STREAMS = 128
BODY_BYTES = 1 << 16
HEAD_BYTES = 1 << 14
IDLE_SECONDS = 75.0


class HttpService(Service):
    """Serves the HTTP API and its page.

    :param config: where to listen.
    :param reactor: an ``IReactorFDSet`` and ``IReactorSocket``.
    :param clock: monotonic time and timers.
    :param handler: answers the requests.
    """

    _log = Logger()

    def __init__(
        self, config: HttpConfig, reactor: ServeReactor, clock: Clock, handler: Handler
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = clock
        self._handler = handler
        self._listener: Listener | None = None
        self._factory: HttpFactory | None = None
        self.where: str | None = None
        """``HOST:PORT`` or ``unix:PATH``; None while it does not listen."""

    def privilegedStartService(self) -> None:
        """Listen.

        :raises ListenError: the address cannot be bound, a file cannot be used, or the library is
            missing.
        """
        if self._listener is not None:
            return
        self._factory = factory = _make_factory(self._handler, self._clock)
        address = self._config.listen
        with _errors():
            sock = open_listener(address, keepalive=Keepalive(), default_mode=0o600)
        self.where = client_address(address, sock)
        self._listener = serve_factory(sock, self._reactor, factory, factory.batch)
        wait_while_full(self._listener, factory.is_full, factory.retry_seconds)
        scheme = "http" if self._config.tls is None else "https"
        url = self.where if isinstance(address, UnixAddress) else f"{scheme}://{self.where}/"
        self._log.info("HTTP API and page at {url}", url=url)

    def startService(self) -> None:
        """Accept clients."""
        super().startService()
        self.privilegedStartService()  # which twist does not call
        if self._listener is not None:
            self._listener.resume()

    def stopService(self) -> None:
        """Stop listening, and disconnect all clients."""
        super().stopService()
        if self._listener is not None:
            self._listener.close()
            self._listener = self.where = None
        if self._factory is not None:
            self._factory.close()


def check_http(config: HttpConfig) -> list[Remark]:
    """Find what the start of :class:`HttpService` would fail with, without listening.

    :raises ListenError: the address cannot be bound, or the library is missing.
    """
    with _errors():
        return check_listener(config.listen)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ListenError as error:
        raise ListenError(f"http: {error}") from error


def _make_factory(handler: Handler, clock: Clock) -> HttpFactory:
    try:
        from monconn.net.http.server import HttpFactory, Limits
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise ListenError(_MISSING) from None
    limits = Limits(CLIENTS, STREAMS, HEAD_BYTES, BODY_BYTES, IDLE_SECONDS)
    return HttpFactory(handler, clock, limits)
