"""Server-sent events: the live figures of a page, the feed of events, and taps."""

from __future__ import annotations

from functools import partial

from monconn.faces.http import parameters as of
from monconn.faces.http.routes import Call, Route
from monconn.faces.http.sse import EventStream
from monconn.net.http.messages import EVENT_STREAM, Answer, Response
from monconn.ops.filter_keys import CONNECTION_KEYS, EVENT_KEYS
from monconn.ops.filters import Keys

_LAST_EVENT_ID = of.text(
    "last_event_id",
    "The id of the last event that was got, for clients that cannot set the header Last-Event-ID.",
)


def _live(call: Call) -> Response:
    call.shared.check_room(call.known_caller)
    if call.request.method == "HEAD":
        return _head(call)
    return call.shared.answer(call.known_caller, call.shared.live.stream(call.known_caller))


def _events(call: Call) -> Response:
    call.shared.check_room(call.known_caller)
    if call.request.method == "HEAD":
        return _head(call, EVENT_KEYS)
    arguments = call.arguments
    stream = call.shared.events.stream(
        arguments.get("service"), arguments.get("filter"), _last_id(call), call.known_caller
    )
    return call.shared.answer(call.known_caller, stream)


def _tap(call: Call) -> Answer:
    caller, shared, arguments = call.known_caller, call.shared, call.arguments
    shared.check_room(caller)
    if call.request.method == "HEAD":
        return _head(call)
    opened = shared.taps.open(
        caller,
        filter=arguments.get("filter"),
        service=arguments.get("service"),
        follow=arguments.get("follow", False),
        last_id=_last_id(call),
    )
    if opened is None:
        return Response(204)  # which tells a browser not to connect again
    if isinstance(opened, EventStream):
        return shared.answer(caller, opened)
    return opened.addCallback(partial(shared.answer, caller))


def _head(call: Call, keys: Keys = CONNECTION_KEYS) -> Response:
    """What the head of the answer to a GET is made of, without a stream: a HEAD opens no tap, nor
    anything else that others would notice.

    :param keys: of the filter.
    :raises MonconnError: there is no such service, or the filter cannot be understood.
    """
    call.operations.monitors(call.arguments.get("service"))
    call.operations.filter(call.arguments.get("filter"), keys)
    return EventStream(lambda _: None, lambda _: None).answer(lambda: None)


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
        content_type=EVENT_STREAM,
    ),
    Route(
        "GET",
        "/api/v1/events",
        "view",
        "What happens, as it happens: connections, refusals, alarms and actions.",
        _events,
        (of.filter_of("events"), of.SERVICE, _LAST_EVENT_ID),
        content_type=EVENT_STREAM,
    ),
    Route(
        "GET",
        "/api/v1/tap",
        "operate",
        "The bytes of live connections from now on, as they pass.",
        _tap,
        (
            of.filter_of("connections"),
            of.SERVICE,
            of.flag("follow", "Also those that are opened, or match, later."),
            _LAST_EVENT_ID,
        ),
        errors=(204, 404, 409),
        content_type=EVENT_STREAM,
    ),
)
