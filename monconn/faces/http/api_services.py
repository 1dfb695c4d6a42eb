"""Routes of services: their figures, and what is done to a whole one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred

from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import json_response
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.net.http.messages import Answer, Response
from monconn.ops.operations import ChangeResult
from monconn.ops.rows import IpRow, ServiceRow
from monconn.turns import result_of


def _services(call: Call) -> Answer:
    return following(call) or rows_answer(call, call.operations.services())


def _service(call: Call) -> Deferred[Response]:
    steps = call.operations.services(call.arguments["name"])

    def find() -> Generator[None, None, Response]:
        found = None
        for row in steps:
            found = row or found
            yield
        assert found is not None
        return json_response(found.to_json())

    return result_of(call.operations.clock, find())


def _ips(call: Call) -> Answer:
    arguments = call.arguments
    return following(call) or rows_answer(
        call, call.operations.ips(arguments["name"], arguments.get("filter"))
    )


# -- actions


def _changed(done: ChangeResult) -> Response:
    values: dict[str, Any] = {
        "changed": done.changed,
        "updated": done.is_update,
        "connections": done.count,
    }
    return json_response(values)


def _pause(call: Call) -> Response:
    name, seconds = call.arguments["name"], call.arguments.get("seconds")
    return _changed(call.operations.pause(call.actor, name, seconds=seconds))


def _resume(call: Call) -> Response:
    return _changed(call.operations.resume(call.actor, call.arguments["name"]))


def _drain(call: Call) -> Response:
    name, spread = call.arguments["name"], call.arguments.get("spread")
    return _changed(call.operations.drain(call.actor, name, spread=spread))


def _reset_stats(call: Call) -> Response:
    done = call.operations.reset_stats(
        call.actor, service=call.arguments["name"], dry_run=call.arguments.get("dry_run")
    )
    return json_response({"changed": done.changed})


def _subtract_stats(call: Call) -> Response:
    arguments = call.arguments
    done = call.operations.subtract_stats(
        call.actor,
        arguments["name"],
        arguments["up"],
        arguments["down"],
        dry_run=arguments.get("dry_run"),
    )
    return json_response({"changed": done.changed})


_CHANGED = {
    "type": "object",
    "required": ["changed", "updated", "connections"],
    "properties": {
        "changed": {"type": "boolean", "description": "Whether it was not so already."},
        "updated": {"type": "boolean", "description": "Whether only its end has changed."},
        "connections": {"type": "integer", "description": "How many are live."},
    },
}
_STATS_CHANGED = {
    "type": "object",
    "required": ["changed"],
    "properties": {"changed": {"type": "boolean"}},
}


def _action(
    name: str, summary: str, run: Any, *parameters: Parameter, schema: Any = _CHANGED
) -> tuple[Route, ...]:
    # Clients take "." and ".." out of a path, however they are encoded
    # (https://url.spec.whatwg.org/#double-dot-path-segment): a body can have any name.
    return tuple(
        Route(
            "POST",
            path,
            "operate",
            summary + more,
            run,
            (of.IN_SERVICE, *parameters),
            schema=schema,
            errors=(404, 409, 422),
        )
        for path, more in (
            (f"/api/v1/services/{{name}}/{name}", ""),
            (f"/api/v1/service/{name}", " The name is in the body, and may be any."),
        )
    )


ROUTES = (
    Route(
        "GET",
        "/api/v1/services",
        "view",
        "Each service in figures.",
        _services,
        (of.LIMIT, of.CURSOR, of.MAX_AGE),
        ServiceRow,
        is_list=True,
    ),
    Route(
        "GET",
        "/api/v1/services/{name}",
        "view",
        "One service in figures.",
        _service,
        (of.IN_SERVICE, of.MAX_AGE),
        ServiceRow,
    ),
    Route(
        "GET",
        "/api/v1/services/{name}/ips",
        "view",
        "The client IPs that have live connections at a service.",
        _ips,
        (of.IN_SERVICE, of.filter_of("clients"), of.LIMIT, of.CURSOR, of.MAX_AGE),
        IpRow,
        is_list=True,
    ),
    *_action(
        "pause",
        "Read nothing from a service's connections, and accept nobody.",
        _pause,
        of.in_body_seconds("seconds", "After which it ends by itself; never if left out."),
    ),
    *_action("resume", "End a service's pause or its draining.", _resume),
    *_action(
        "drain",
        "Refuse a service's clients, and let its connections go on.",
        _drain,
        of.in_body_seconds("spread", "Seconds over which these are ended evenly."),
    ),
    *_action(
        "reset_stats",
        "Set a service's totals to zero.",
        _reset_stats,
        of.DRY_RUN,
        schema=_STATS_CHANGED,
    ),
    *_action(
        "subtract_stats",
        "Subtract bytes from a service's totals, once they are stored elsewhere.",
        _subtract_stats,
        of.in_body_integer("up", "Bytes from clients.", is_required=True),
        of.in_body_integer("down", "Bytes to clients.", is_required=True),
        of.DRY_RUN,
        schema=_STATS_CHANGED,
    ),
)
