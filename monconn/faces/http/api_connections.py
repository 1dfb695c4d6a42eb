"""Routes of connections: live ones, those that ended last, and what is done to them."""

from __future__ import annotations

import re
from itertools import islice

from twisted.internet.defer import Deferred

from monconn.errors import UnknownConnection, quoted
from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import encoded_in_turns, json_response
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.model.flow import to_json
from monconn.model.uid import parse_uid
from monconn.net.http.messages import Answer, Response
from monconn.ops.closing import CloseResult
from monconn.ops.columns import Listing
from monconn.ops.live_queries import LastingListing
from monconn.ops.rows import ConnectionRow


def _connections(call: Call) -> Answer:
    arguments = call.arguments
    closed = arguments.get("closed", False)
    asked = {
        "service": arguments.get("service"),
        "client": arguments.get("client"),
        "sort": arguments.get("sort", "closed" if closed else "id"),
        "closed": closed,
    }
    filter = arguments.get("filter")
    # A part by its place, or one that is shared, needs no more than its own rows.
    is_continued = not ("offset" in arguments or "max_age" in arguments)

    def answer(found: Listing[ConnectionRow] | LastingListing) -> Answer:
        others = {"total": found.total}
        return rows_answer(call, found.rows, others, is_continued=is_continued)

    if is_continued:
        lasting = call.operations.lasting_connections
        return following(call) or lasting(filter, **asked).addCallback(answer)
    return call.operations.connections(
        filter,
        **asked,
        offset=arguments.get("offset"),
        limit=arguments.get("limit", of.USUAL_LIMIT),
    ).addCallback(answer)


def _id(call: Call) -> int:
    """The id that is meant by an id or a uid.

    :raises UnknownConnection: there is none.
    """
    text: str = call.arguments["id"]
    if re.fullmatch("[0-9]{1,18}", text):
        return int(text)
    if parse_uid(text) is not None:
        return call.operations.registry.id_of(text)
    raise UnknownConnection(f"no connection has the id {quoted(text)}")


def _connection(call: Call) -> Deferred[Response]:
    found = call.operations.connection(_id(call))
    return found.addCallback(lambda row: json_response(row.to_json()))


def _recording(call: Call) -> Deferred[Response]:
    events = call.operations.recording(call.actor, _id(call), how="for the HTTP API")
    return encoded_in_turns(call.operations.clock, map(to_json, events), name="events")


# -- closing


def _close_one(call: Call) -> Deferred[Response]:
    wanted = _id(call)

    def answer(done: CloseResult) -> Response:
        if done.unknown:
            raise UnknownConnection(f"no live connection has the id {wanted}")
        return json_response({"closed": len(done.ids)})

    reset = call.arguments.get("reset")
    return call.operations.close(call.actor, ids=[wanted], reset=reset).addCallback(answer)


def _close(call: Call) -> Deferred[Response]:
    dry_run = call.arguments.get("dry_run", False)

    def answer(done: CloseResult) -> Response | Deferred[Response]:
        values = {"closed": len(done.ids), "unknown": list(done.unknown)}
        if not dry_run:
            return json_response(values)
        rows = (row.to_json() for row in islice(done.rows, of.MOST_ROWS))
        return encoded_in_turns(call.operations.clock, rows, lambda: values)

    return call.operations.close(call.actor, **call.arguments).addCallback(answer)


_ID = Parameter(
    "id", of.read_text, of.ID_SCHEMA, "The connection's id, or its uid.", is_required=True
)
_RESET = of.in_body_flag("reset", "At once, dropping what is under way.")
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["event"],
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"},
    },
}

ROUTES = (
    Route(
        "GET",
        "/api/v1/connections",
        "view",
        "Live connections, or those that ended last.",
        _connections,
        (
            of.filter_of("connections"),
            of.sort_of(ConnectionRow),
            of.LIMIT,
            of.OFFSET,
            of.CURSOR,
            of.flag("closed", "Those that ended last instead of live ones, the latest first."),
            of.SERVICE,
            of.CLIENT,
            of.MAX_AGE,
        ),
        ConnectionRow,
        is_list=True,
    ),
    Route(
        "GET",
        "/api/v1/connections/{id}",
        "view",
        "One connection, live or closed lately, with its diagnosis and what TCP knows of it.",
        _connection,
        (_ID, of.MAX_AGE),
        ConnectionRow,
    ),
    Route(
        "GET",
        "/api/v1/connections/{id}/recording",
        "operate",
        "What is recorded of a connection: its first and its last bytes, in base64.",
        _recording,
        (_ID,),
        schema={
            "type": "object",
            "required": ["events"],
            "properties": {"events": {"type": "array", "items": _EVENT_SCHEMA}},
        },
    ),
    Route(
        "POST",
        "/api/v1/connections/{id}/close",
        "operate",
        "End one connection.",
        _close_one,
        (_ID, _RESET),
        schema={
            "type": "object",
            "required": ["closed"],
            "properties": {"closed": {"type": "integer"}},
        },
    ),
    Route(
        "POST",
        "/api/v1/connections/close",
        "operate",
        "End the live connections for which all that is given is true.",
        _close,
        (
            Parameter("ids", of.body_ids, of.IDS, "Only these."),
            of.filter_of("connections", "Only those that match: ids, or terms with keys."),
            of.CLIENT,
            of.SERVICE,
            _RESET,
            of.in_body_seconds("spread", "Seconds over which they are ended evenly."),
            of.DRY_RUN,
        ),
        schema={
            "type": "object",
            "required": ["closed", "unknown"],
            "properties": {
                "closed": {"type": "integer", "description": "How many were, or would be, ended."},
                "unknown": {**of.IDS, "description": "Those of ids that no live connection has."},
                "rows": {
                    "type": "array",
                    "description": "Of a dry run, the first of them.",
                    "items": {"$ref": "#/components/schemas/Connection"},
                },
            },
        },
        errors=(404, 409, 422),
    ),
)
