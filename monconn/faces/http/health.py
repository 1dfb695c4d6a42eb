"""Whether the program works, for balancers and supervisors: without a token, and saying no more."""

from __future__ import annotations

from collections.abc import Callable

from monconn.faces.http.encoding import json_response
from monconn.faces.http.routes import Call, Route
from monconn.net.http.messages import Response

_SCHEMA = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "unavailable"]}},
}


def health_routes(is_ready: Callable[[], bool]) -> tuple[Route, ...]:
    """The routes of health.

    :param is_ready: whether clients of all services are accepted.
    """

    def live(call: Call) -> Response:
        return json_response({"status": "ok"})

    def ready(call: Call) -> Response:
        if is_ready():
            return live(call)
        return json_response({"status": "unavailable"}, 503)

    return (
        Route(
            "GET",
            "/health",
            None,
            "The same as /health/ready.",
            ready,
            schema=_SCHEMA,
            other_schemas={503: _SCHEMA},
        ),
        Route("GET", "/health/live", None, "Whether it runs.", live, schema=_SCHEMA),
        Route(
            "GET",
            "/health/ready",
            None,
            "Whether every service accepts clients: 503 if not, or once it stops.",
            ready,
            schema=_SCHEMA,
            other_schemas={503: _SCHEMA},
        ),
    )
