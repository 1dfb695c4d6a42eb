"""Routes of blocks, and of what would happen to a client."""

from __future__ import annotations

from typing import Any, NoReturn

from twisted.python.failure import Failure

from monconn.errors import AddressError
from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import json_response
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.problems import Problem
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.model.record import iso_time
from monconn.monitor.blocking import MAX_REASON_CHARACTERS, MAX_SECONDS
from monconn.net.http.messages import Answer, Response
from monconn.ops.rows import BlockRow
from monconn.ops.why_rows import WhyRow


def _blocks(call: Call) -> Answer:
    arguments = call.arguments
    return following(call) or rows_answer(
        call, call.operations.blocks(arguments.get("service"), arguments.get("filter"))
    )


def _block(call: Call) -> Response:
    done = call.operations.block(call.actor, **call.arguments)
    values: dict[str, Any] = {
        "changed": done.changed,
        "updated": done.is_update,
        "closed": done.count,
        "services": list(done.services),
        "kept": done.is_kept,
    }
    if done.until_at is not None:
        values["until"] = iso_time(done.until_at)
    return json_response(values)


def _unblock(call: Call) -> Response:
    arguments = call.arguments
    done = call.operations.unblock(
        call.actor,
        arguments["network"],
        service=arguments.get("service"),
        dry_run=arguments.get("dry_run"),
    )
    values: dict[str, Any] = {"changed": done.changed, "services": list(done.services)}
    if done.still_blocked_by is not None:
        values["still_blocked_by"] = done.still_blocked_by
    return json_response(values)


def _why(call: Call) -> Answer:
    def explain(failure: Failure) -> NoReturn:
        failure.trap(AddressError)
        raise Problem(404, str(failure.value), "unknown-client")

    if (rest := following(call)) is not None:
        return rest
    asked = call.operations.why(call.arguments["client"], service=call.arguments.get("service"))
    return asked.addCallbacks(lambda rows: rows_answer(call, iter(rows)), explain)


_AT_SERVICE = Parameter(
    "service", of.read_text, of.SERVICE_SCHEMA, "At this one; at all if left out."
)
_SERVICES = {"type": "array", "items": {"type": "string"}}
_BLOCKED = {
    "type": "object",
    "required": ["changed", "updated", "closed", "services", "kept"],
    "properties": {
        "changed": {"type": "boolean", "description": "Whether it was not so already."},
        "updated": {
            "type": "boolean",
            "description": "Whether it was blocked already, and its end or reason has changed.",
        },
        "closed": {"type": "integer", "description": "How many connections were ended."},
        "services": _SERVICES,
        "kept": {"type": "boolean", "description": "Whether it outlasts the program."},
        "until": {"type": "string", "format": "date-time", "description": "When it ends."},
    },
}
_UNBLOCKED = {
    "type": "object",
    "required": ["changed", "services"],
    "properties": {
        "changed": {"type": "boolean", "description": "Whether it was blocked."},
        "services": _SERVICES,
        "still_blocked_by": {
            "type": "string",
            "description": "A wider network that goes on blocking it.",
        },
    },
}

ROUTES = (
    Route(
        "GET",
        "/api/v1/blocks",
        "view",
        "The blocked networks: a row for each network and place.",
        _blocks,
        (of.SERVICE, of.filter_of("blocks"), of.LIMIT, of.CURSOR, of.MAX_AGE),
        BlockRow,
        is_list=True,
    ),
    Route(
        "POST",
        "/api/v1/blocks",
        "operate",
        "Refuse the clients of an IP or a network, and end those that are connected.",
        _block,
        (
            Parameter(
                "network", of.read_network, of.NETWORK_SCHEMA, "Whom to block.", is_required=True
            ),
            _AT_SERVICE,
            of.in_body_seconds("for_seconds", "For how long; for ever if left out.", MAX_SECONDS),
            Parameter(
                "reason",
                of.read_text,
                {"type": "string", "maxLength": MAX_REASON_CHARACTERS},
                "Why.",
            ),
            of.in_body_flag("keep_open", "Leave those alone that are connected."),
            of.DRY_RUN,
        ),
        schema=_BLOCKED,
        errors=(404, 422),
    ),
    Route(
        "DELETE",
        "/api/v1/blocks/{network}",
        "operate",
        "Let the clients of exactly this IP or network in again, whoever has blocked it.",
        _unblock,
        (
            Parameter(
                "network",
                of.read_network,
                of.NETWORK_SCHEMA,
                "The network, with its slash as %2F.",
                is_required=True,
            ),
            _AT_SERVICE,
            of.flag("dry_run", "Only answer what would be done."),
        ),
        schema=_UNBLOCKED,
        errors=(409,),
    ),
    Route(
        "GET",
        "/api/v1/why",
        "view",
        "What would happen to a client now at each service, and by which line.",
        _why,
        (
            Parameter(
                "client",
                of.read_text,
                of.TEXT,
                "An IP; the id or uid of a connection, or the name of a device, for its address.",
                is_required=True,
            ),
            of.SERVICE,
            of.LIMIT,
            of.CURSOR,
        ),
        WhyRow,
        is_list=True,
        errors=(404,),
    ),
)
