"""Server-sent events: the live figures of a page, and the feed of events."""

from __future__ import annotations

from monconn.faces.http import parameters as of
from monconn.faces.http.routes import Call, Route
from monconn.net.http.messages import Response

_LAST_EVENT_ID = of.text(
    "last_event_id",
    "The id of the last event that was got, for clients that cannot set the header Last-Event-ID.",
)


def _live(call: Call) -> Response:
    call.shared.check_room(call.known_caller)
    return call.shared.answer(call.known_caller, call.shared.live.stream(call.known_caller))


def _events(call: Call) -> Response:
    call.shared.check_room(call.known_caller)
    arguments = call.arguments
    stream = call.shared.events.stream(
        arguments.get("service"), arguments.get("filter"), _last_id(call)
    )
    return call.shared.answer(call.known_caller, stream)


def _last_id(call: Call) -> str | None:
    """What a client says that it got last; empty if it got nothing with an id."""
    # A browser repeats the address with the argument that it began with, and has the header later.
    given: str | None = call.arguments.get("last_event_id")
    return call.request.headers.get("last-event-id", given) or None


ROUTES = (
    Route(
        "GET",
        "/api/v1/live",
        "view",
        "The figures of all services once a second, and alarms and actions as they happen.",
        _live,
        content_type="text/event-stream",
    ),
    Route(
        "GET",
        "/api/v1/events",
        "view",
        "What happens, as it happens: connections, refusals, alarms and actions.",
        _events,
        (of.filter_of("events"), of.SERVICE, _LAST_EVENT_ID),
    ),
)
