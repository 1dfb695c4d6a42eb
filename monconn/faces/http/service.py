"""The HTTP API and its page as a Twisted service: where it listens, and with which certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from zope.interface import implementer

from monconn.addresses import TcpAddress, UnixAddress
from monconn.background import ThreadReactor, run_in_thread
from monconn.clock import Clock
from monconn.config.http import ON_THIS_MACHINE, HttpConfig, HttpTlsConfig
from monconn.errors import ListenError, NotConfigured, Remark
from monconn.faces.http.app import ROUTES, HttpApp
from monconn.faces.http.guard import MOST_WAITING, SECURITY_HEADERS, Guard
from monconn.faces.http.health import health_routes
from monconn.faces.http.page_files import PageFiles
from monconn.faces.http.routes import Call, Route
from monconn.log import Logger
from monconn.monitor.registry import Registry
from monconn.net.descriptors import USEFUL_LIMIT, limit_of, reserve_of
from monconn.net.http.messages import Answer, Handler, Request
from monconn.net.listen import (
    Listener,
    ServeReactor,
    check_listener,
    client_address,
    open_listener,
    serve_factory,
    wait_while_full,
)
from monconn.net.tls import ServerTls, files_digest
from monconn.net.tls_faults import TlsError
from monconn.net.tls_serving import HANDSHAKE_SHARE, TlsFactory
from monconn.ops.access import Access
from monconn.ops.operations import Operations
from monconn.policy.sides import Keepalive
from monconn.policy.tls import ListenTls
from monconn.sinks.metrics.service import check_library
from monconn.turns import TurnQueue

if TYPE_CHECKING:  # needs h11
    from monconn.net.http.server import HttpFactory

MOST_CLIENTS = 256
"""A browser has up to six connections to a host. One that is idle costs 3 KiB, one that sends as
much as it may 100 KiB. Where the limit on descriptors is low, there are fewer."""
MOST_STREAMS = 128
"""Whoever has one is known."""
MOST_HEAD_BYTES = 1 << 14
MOST_BODY_BYTES = 1 << 16
"""Enough for a close of as many ids as one may have."""
IDLE_SECONDS = 75.0


class HttpReactor(ServeReactor, ThreadReactor, Protocol):
    """The part of a reactor that :class:`HttpService` needs."""


class HttpService(Service):
    """Serves the HTTP API and its page.

    :param config: where to listen, and what is served.
    :param registry: the monitors to serve.
    :param reactor: an ``IReactorFDSet``, ``IReactorSocket`` and ``IReactorFromThreads``.
    :param clock: monotonic time and timers.
    :param operations: what can be asked and done; if left out, what can be done with the registry
        alone. A control port with the same ones hands out links and tokens (``monconn web``).
    :param config_path: the configuration's file, for where those of tokens and sessions are; empty
        without one.
    :param is_ready: whether clients of all services are accepted.
    :param metrics: answers with the metrics, if they are served.
    """

    _log = Logger()

    def __init__(
        self,
        config: HttpConfig,
        registry: Registry,
        reactor: HttpReactor,
        clock: Clock,
        operations: Operations | None = None,
        config_path: str = "",
        is_ready: Callable[[], bool] = lambda: True,
        metrics: Callable[[Request], Answer] | None = None,
    ) -> None:
        self._operations = operations = operations or Operations(registry, clock)
        self._config = config
        self._access = Access(config, config_path, registry, reactor, clock)
        self._reactor = reactor
        self._clock = clock
        self._guard = Guard(config, self._access, clock)
        figures = metrics if config.metrics else None

        def answer_metrics(call: Call) -> Answer:
            if figures is None:
                raise NotConfigured(
                    "metrics are not served here: http: {metrics: true} serves them"
                )
            return figures(call.request)

        about = "The metrics, for Prometheus."
        metrics_route = Route(
            "GET", "/metrics", "view", about, answer_metrics, content_type="text/plain"
        )
        routes = [*ROUTES, *health_routes(is_ready), metrics_route]
        self._app = HttpApp(operations, self._guard, routes, PageFiles())
        self._listener: Listener | None = None
        self._factory: HttpFactory | None = None
        self._tls: _TlsConnections | None = None
        self.where: str | None = None
        """``HOST:PORT`` or ``unix:PATH``; None while it does not listen."""

    def privilegedStartService(self) -> None:
        """Listen.

        :raises ListenError: the address cannot be bound, a file cannot be used, or the library is
            missing.
        """
        if self._listener is not None:
            return
        address = self._config.listen
        with _errors():
            self._check_address()
            limit = limit_of(self._reactor)
            self._factory = factory = make_factory(self._app, self._clock, limit)
            # One that waits keeps its place: those who guess must not take all of them.
            self._guard.most_waiting = min(MOST_WAITING, factory.limits.clients // 4)
            self._app.shared.queues.fit(factory.limits.clients)
            served: IProtocolFactory = factory
            if self._config.tls is not None:
                self._tls = _TlsConnections(*_read_tls(self._config.tls))
                handshakes = TurnQueue(self._clock, HANDSHAKE_SHARE)
                served = TlsFactory(self._tls, factory, handshakes)
            sock = open_listener(address, keepalive=Keepalive(), default_mode=0o600)
        if not isinstance(address, UnixAddress):
            self._access.port = sock.getsockname()[1]
        self.where = client_address(address, sock)
        self._listener = serve_factory(sock, self._reactor, served, factory.batch)
        wait_while_full(self._listener, factory.is_full, factory.retry_seconds)
        scheme = "http" if self._config.tls is None else "https"
        url = self.where if isinstance(address, UnixAddress) else f"{scheme}://{self.where}/"
        self._log.info("HTTP API and page at {url}", url=url)

    def _check_address(self) -> None:
        # Of a file it is said with its line; a program may have made the configuration by itself.
        config = self._config
        if isinstance(config.listen, TcpAddress) and not config.is_private:
            raise ListenError(f"{config.listen} {ON_THIS_MACHINE}, or have a certificate (tls)")

    def renew_certificate(self) -> None:
        """Read the certificate's files again, in a thread: what is there by now is shown in new
        handshakes, unless it cannot be used."""
        config, connections = self._config.tls, self._tls
        if config is None or connections is None:
            return

        def finished(found: tuple[ServerTls, bytes] | BaseException) -> None:
            if isinstance(found, BaseException):
                self._log.warn("http goes on with the certificate it has: {why}", why=str(found))
            elif found[1] != connections.digest:
                connections.tls, connections.digest = found
                self._log.info("http: the certificate was read again")

        try:
            run_in_thread(self._reactor, "monconn http", lambda: _read_tls(config), finished)
        except RuntimeError as error:  # no thread can be started
            finished(error)

    def startService(self) -> None:
        """Accept clients.

        :raises FileError: a file of who may use it is damaged, or open to others.
        :raises ListenError: as of :meth:`privilegedStartService`.
        """
        self._access.startService()
        self._operations.access = self._access
        super().startService()
        self.privilegedStartService()  # which twist does not call
        if self._listener is not None:
            self._listener.resume()

    def stopService(self) -> Deferred[None]:
        """Stop listening, end all streams in order, and disconnect all clients.

        :returns: fires once they have left, which some have a moment for.
        """
        super().stopService()
        closed = self.close_listener()
        self._guard.stop()
        if self._access.running:  # else the start has failed before
            self._access.stopService()
        if self._operations.access is self._access:
            self._operations.access = None
        return closed

    def close_listener(self) -> Deferred[None]:
        """Stop listening, and disconnect all clients; harmless the second time."""
        if self._listener is not None:
            self._listener.close()
            self._listener = self.where = None
        self._app.close()  # first, so that the ends of streams are sent
        return succeed(None) if self._factory is None else self._factory.close()


def check_http(config: HttpConfig) -> list[Remark]:
    """Find what the start of :class:`HttpService` would fail with, without listening.

    :raises ListenError: the address cannot be bound, a file cannot be used, or a library is
        missing.
    """
    with _errors():
        _require_library()
        remarks = []
        if config.metrics:
            check_library()
        if config.tls is not None:
            tls, _ = _read_tls(config.tls)
            found = [*map(Remark, tls.warnings), *tls.remarks]
            remarks = [Remark(each.message, each.is_warning, "tls") for each in found]
        return [*remarks, *check_listener(config.listen)]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ListenError as error:
        raise ListenError(f"http: {error}", error.key) from error


def make_factory(handler: Handler, clock: Clock, descriptors: int = USEFUL_LIMIT) -> HttpFactory:
    """The server, with its limits.

    :param descriptors: how many the process may have. Clients and streams take three fifths of
        those that are held back for admin interfaces and files, at most.
    :raises ListenError: the library is missing.
    """
    _require_library()
    from monconn.net.http.requests import Limits
    from monconn.net.http.server import HttpFactory

    fifth = max(reserve_of(descriptors) // 5, 2)
    clients, streams = min(MOST_CLIENTS, 2 * fifth), min(MOST_STREAMS, fifth)
    limits = Limits(clients, streams, MOST_HEAD_BYTES, MOST_BODY_BYTES, IDLE_SECONDS)
    return HttpFactory(handler, clock, limits, SECURITY_HEADERS)


def _require_library() -> None:
    """Find whether the server can be imported.

    :raises ListenError: the library is missing.
    """
    try:
        import monconn.net.http.server  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise ListenError("needs h11: pip install 'monconn[http]'") from None


def _read_tls(config: HttpTlsConfig) -> tuple[ServerTls, bytes]:
    """What makes the TLS connections of clients, and a digest of the files that it is from.

    :raises ListenError: a file cannot be used.
    """
    # A browser that offers HTTP/2, too, goes on with HTTP/1.1.
    settings = ListenTls(config.certificate, config.key, alpn=("http/1.1",))
    digest = files_digest(settings)
    try:
        return ServerTls(settings), digest
    except TlsError as error:
        raise ListenError(f"its certificate cannot be used: {error}", "tls") from error


@implementer(IOpenSSLServerConnectionCreator)
@attrs.define
class _TlsConnections:
    """Makes the TLS connections of clients."""

    tls: ServerTls
    digest: bytes

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Implements ``IOpenSSLServerConnectionCreator``."""
        return self.tls.connection()
