"""Routes of devices and of clients."""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import Deferred

from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import CONTENT_TYPE, encode_rows
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.net.http.messages import Answer, Response
from monconn.ops.device import MOST_ROWS, USUAL_ROWS, DeviceStory
from monconn.ops.rows import ClientRow, DeviceRow
from monconn.turns import result_of


def _devices(call: Call) -> Answer:
    arguments = call.arguments
    return following(call) or rows_answer(
        call, call.operations.devices(arguments.get("service"), arguments.get("filter"))
    )


def _device(call: Call) -> Deferred[Response]:
    arguments = call.arguments

    def make(story: DeviceStory) -> Generator[None, None, Response]:
        rows = (row.to_json() for row in story.rows)
        encoded = yield from encode_rows(rows, lambda: {"device": story.head})
        return Response(200, encoded, CONTENT_TYPE)

    return call.operations.device(
        arguments["name"],
        service=arguments.get("service"),
        since=arguments.get("since"),
        limit=arguments.get("limit", USUAL_ROWS),
    ).addCallback(lambda story: result_of(call.operations.clock, make(story)))


def _clients(call: Call) -> Answer:
    arguments = call.arguments
    return following(call) or rows_answer(
        call, call.operations.clients(arguments.get("service"), arguments.get("filter"))
    )


_STORY_SCHEMA = {
    "type": "object",
    "required": ["device", "rows"],
    "properties": {
        "device": {
            "type": "object",
            "description": "Who it is, its rhythm at each service, its live connections, alarms,"
            " addresses and facts.",
        },
        "rows": {
            "type": "array",
            "description": "What it did, and what happened to it; the latest first.",
            "items": {"$ref": "#/components/schemas/Timeline"},
        },
    },
}

ROUTES = (
    Route(
        "GET",
        "/api/v1/devices",
        "view",
        "Each device that was seen, the one seen last first.",
        _devices,
        (of.filter_of("devices"), of.SERVICE, of.LIMIT, of.CURSOR, of.MAX_AGE),
        DeviceRow,
        is_list=True,
    ),
    Route(
        "GET",
        "/api/v1/devices/{name}",
        "view",
        "One device: its rhythm, its alarms, and what it did, from memory and from the history.",
        _device,
        (
            Parameter(
                "name",
                of.read_text,
                of.TEXT,
                "The device's name, an IP of it, or what is a fact about one of its connections.",
                is_required=True,
            ),
            of.SERVICE,
            of.SINCE,
            of.integer("limit", "The most rows of its timeline.", 1, MOST_ROWS),
            of.MAX_AGE,
        ),
        schema=_STORY_SCHEMA,
    ),
    Route(
        "GET",
        "/api/v1/clients",
        "view",
        "The totals of each client IP at each service, for the IPs seen last.",
        _clients,
        (of.filter_of("clients"), of.SERVICE, of.LIMIT, of.CURSOR, of.MAX_AGE),
        ClientRow,
        is_list=True,
    ),
)
