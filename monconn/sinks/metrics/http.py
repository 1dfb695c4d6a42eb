"""The pages of the metrics' own port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monconn.clock import Clock
from monconn.net.http.messages import Answer, Request, Response
from monconn.net.http.server import HttpFactory
from monconn.sinks.metrics.encoding import Encoder
from monconn.sinks.metrics.figures import Sample

_HTML = "text/html; charset=utf-8"
_START_PAGE = (
    b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>monconn</title></head>\n'
    b'<body><p>monconn: <a href="/metrics">metrics</a></p></body></html>\n'
)


class MetricsPages:
    """Answers with the present figures.

    :param sample: takes them; called in the reactor's thread.
    :param reactor: an ``IReactorFromThreads``.
    :param clock: monotonic time and timers.
    """

    def __init__(self, sample: Callable[[], Sample], reactor: Any, clock: Clock) -> None:
        self._encoder = Encoder(sample, reactor, clock)
        self._clock = clock

    def factory(self) -> HttpFactory:
        """Serves them, and a page that leads there, without asking who it is."""
        return HttpFactory(self._answer, self._clock)

    def _answer(self, request: Request) -> Answer:
        if request.path not in ("/", "/metrics"):
            return Response(404, b"not found\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"method not allowed\n", headers=(("Allow", "GET, HEAD"),))
        return Response(200, _START_PAGE, _HTML) if request.path == "/" else self.metrics(request)

    def metrics(self, request: Request) -> Answer:
        """The figures, in the format that a request accepts."""
        return self._encoder.request(request.headers.get("accept", ""))

    def stop(self) -> None:
        """Encode nothing more."""
        self._encoder.stop()
