"""Server-sent events: the live figures of a page, the feed of events, and taps."""

from __future__ import annotations

from monconn.faces.http.routes import Call, Route
from monconn.faces.http.sse import answer
from monconn.net.http.messages import Response


def _live(call: Call) -> Response:
    assert call.caller is not None
    return answer(call.shared.live.stream(call.caller))


ROUTES = (
    Route(
        "GET",
        "/api/v1/live",
        "view",
        "The figures of all services once a second, and alarms and actions as they happen.",
        _live,
    ),
)
