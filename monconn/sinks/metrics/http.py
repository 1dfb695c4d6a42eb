"""The HTTP server for metrics: one page, with limits on clients, requests and time."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.protocols.policies import WrappingFactory
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from monconn.clock import Clock
from monconn.log import Logger
from monconn.ratelimit import RateLimiter
from monconn.sinks.metrics.families import Families, encoder_for
from monconn.sinks.metrics.figures import Sample

MOST_CLIENTS = 64
ANSWERS_A_SECOND = 20
"""Requests beyond these get a 503: scraping must not become the load."""
TIMEOUT_SECONDS = 10.0
"""How long a client may send nothing."""

_START_PAGE = (
    b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>monconn</title></head>\n'
    b'<body><p>monconn: <a href="/metrics">metrics</a></p></body></html>\n'
)


class MetricsFactory(WrappingFactory):
    """Serves ``/metrics`` over HTTP to a bounded number of clients.

    :param sample: takes the present figures; called in the reactor's thread.
    :param reactor: an ``IReactorTime`` and ``IReactorThreads``.
    :param clock: monotonic time.
    """

    noisy = False

    def __init__(self, sample: Callable[[], Sample], reactor: Any, clock: Clock) -> None:
        root = _Page()
        root.putChild(b"", _StartPage())
        root.putChild(b"metrics", _Metrics(sample, reactor, clock))
        super().__init__(
            _Site(root, requestFactory=_Request, timeout=TIMEOUT_SECONDS, reactor=reactor)
        )

    def buildProtocol(self, addr: Any) -> Any:
        """Build a client's protocol; None, which closes its connection, for one too many."""
        if len(self.protocols) >= MOST_CLIENTS:
            return None
        return super().buildProtocol(addr)

    def close(self) -> None:
        """Disconnect all clients."""
        for protocol in tuple(self.protocols):
            protocol.transport.abortConnection()


class _Site(Site):
    """A site without an access log.

    ``HTTPFactory.startFactory`` would open that log, and start a timer that formats the date for it
    once a second.
    """

    noisy = False

    def startFactory(self) -> None:
        """Open no log."""

    def stopFactory(self) -> None:
        """Close no log."""

    def log(self, request: Any) -> None:
        """Write no line for a request."""


class _Request(Request):
    """A request whose body is discarded: nothing here takes one, and Twisted would store it in
    memory or in a temporary file, whatever its size."""

    def gotLength(self, length: int | None) -> None:
        """Prepare an empty body."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Discard a piece of the body."""


class _Page(Resource):
    """A resource for GET and HEAD at exactly its path."""

    def getChild(self, path: bytes, request: Any) -> IResource:
        """404 for every path below."""
        return notFound()

    def render(self, request: Any) -> Any:
        """Answer GET and HEAD alike (twisted.web omits the body for HEAD), and others with 405."""
        if request.method in (b"GET", b"HEAD"):
            return super().render(request)
        request.setHeader("Allow", "GET, HEAD")
        return _plain(request, 405, b"only GET and HEAD\n")


class _StartPage(_Page):
    def render_GET(self, request: Any) -> bytes:
        """A page that links to the metrics."""
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return _START_PAGE


class _Metrics(_Page):
    """The metrics, encoded in a thread: with many services that takes long."""

    _log = Logger()

    def __init__(self, sample: Callable[[], Sample], reactor: Any, clock: Clock) -> None:
        super().__init__()
        self._sample = sample
        self._reactor = reactor
        self._limiter = RateLimiter(clock, ANSWERS_A_SECOND)
        self._turn = DeferredLock()  # more threads would compete with the reactor for the GIL

    def render_GET(self, request: Any) -> Any:
        """Encode the present figures; 503 if asked too often."""
        if not self._limiter.take():
            request.setHeader("Retry-After", "1")
            return _plain(request, 503, b"asked too often\n")
        Deferred.fromCoroutine(self._answer(request))
        return NOT_DONE_YET

    async def _answer(self, request: Any) -> None:
        encode, content_type = encoder_for(_accept(request))
        try:
            text = await self._turn.run(self._encoded, encode)
        except Exception:
            self._log.failure("the metrics could not be written")
            content_type = ""
        if request.channel is None:  # the client has disconnected meanwhile
            return
        if not content_type:
            text = _plain(request, 500, b"the metrics could not be written\n")
        else:
            request.setHeader("Content-Type", content_type)
            request.setHeader("Content-Length", str(len(text)))
        request.write(text)
        request.finish()

    def _encoded(self, encode: Callable[[Families], bytes]) -> Deferred[bytes]:
        threads = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, threads, encode, Families(self._sample()))


def _accept(request: Any) -> str:
    headers = request.requestHeaders.getRawHeaders(b"accept", [])
    return b",".join(headers).decode("latin-1")


def _plain(request: Any, status: int, text: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    return text
