"""Routes of devices and of clients."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred

from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import encoded_in_turns, json_response
from monconn.faces.http.lists import following, rows_answer
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.net.http.messages import Answer, Response
from monconn.ops.device import MOST_ROWS, USUAL_ROWS, DeviceStory
from monconn.ops.presence import MOST_ALARMS, MOST_INTERVALS, MOST_NAMES
from monconn.ops.rows import ClientRow, DeviceRow


def _devices(call: Call) -> Answer:
    arguments = call.arguments
    return following(call) or rows_answer(
        call, call.operations.devices(arguments.get("service"), arguments.get("filter"))
    )


def _device(call: Call) -> Deferred[Response]:
    arguments = call.arguments

    def answer(story: DeviceStory) -> Deferred[Response]:
        rows = (row.to_json() for row in story.rows)
        return encoded_in_turns(call.operations.clock, rows, lambda: {"device": story.head})

    return call.operations.device(
        arguments["name"],
        service=arguments.get("service"),
        since=arguments.get("since"),
        limit=arguments.get("limit", USUAL_ROWS),
    ).addCallback(answer)


_NAMES_PATTERN = rf"^([^,\\]|\\.)+(,([^,\\]|\\.)+){{0,{MOST_NAMES - 1}}}$"


def read_names(text: str) -> tuple[str, ...]:
    """Names that are separated by commas; a comma and a backslash of a name have a backslash in
    front."""
    names = [
        re.sub(r"\\(.)", r"\1", each, flags=re.S)
        for each in re.findall(r"(?:[^\\,]|\\.)+", text, re.S)
    ]
    if not 0 < len(names) <= MOST_NAMES:
        raise ValueError(f"must be the names of 1 to {MOST_NAMES} devices, separated by commas")
    return tuple(names)


def _presence(call: Call) -> Deferred[Response]:
    arguments = call.arguments
    return call.operations.presence(
        arguments["names"],
        service=arguments.get("service"),
        since=arguments.get("since"),
        until=arguments.get("until"),
    ).addCallback(lambda found: json_response(found.to_json()))


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

_MOMENT: dict[str, Any] = {
    "type": ["number", "null"],
    "description": "Seconds since 1970-01-01T00:00Z.",
}
_PRESENCE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["since", "until", "resolution_seconds", "history", "rows"],
    "properties": {
        "since": {"type": "string", "format": "date-time"},
        "until": {"type": "string", "format": "date-time"},
        "resolution_seconds": {
            "type": "number",
            "description": "Gaps between connections that are shorter may be left out.",
        },
        "history": {"type": "boolean", "description": "Whether one is stored."},
        "history_problem": {"type": "string", "description": "Why it was not asked."},
        "rows": {
            "type": "array",
            "description": "One for each device at each service where anything is known of it.",
            "items": {
                "type": "object",
                "required": [
                    *("service", "device", "connections", "connected_seconds", "connected"),
                    *("alarms", "alarms_total", "unknown"),
                ],
                "properties": {
                    "service": of.TEXT,
                    "device": of.TEXT,
                    "connections": {"type": "integer", "description": "Within the period."},
                    "connected_seconds": {
                        "type": "number",
                        "description": "With a connection, or with several.",
                    },
                    "connected": {
                        "type": "array",
                        "description": "From when to when, in seconds since 1970-01-01T00:00Z.",
                        "maxItems": MOST_INTERVALS,
                        "items": {
                            "type": "array",
                            "items": {"type": "number"},
                            "minItems": 2,
                            "maxItems": 2,
                        },
                    },
                    "alarms": {
                        "type": "array",
                        "description": "The latest ones, by when they began.",
                        "maxItems": MOST_ALARMS,
                        "items": {
                            "type": "object",
                            "required": ["alarm", "since", "until", "detail"],
                            "properties": {
                                "alarm": of.TEXT,
                                "since": {**_MOMENT, "description": "Null: before the period."},
                                "until": {**_MOMENT, "description": "Null: it goes on."},
                                "detail": of.TEXT,
                            },
                        },
                    },
                    "alarms_total": {"type": "integer"},
                    "unknown": {
                        "type": "array",
                        "description": "When not everything is known, and why: not_recorded,"
                        " not_running, or killed (connections that were live then are in no"
                        " history).",
                        "items": {
                            "type": "object",
                            "required": ["since", "until", "why"],
                            "properties": {
                                "since": {"type": "number"},
                                "until": {"type": "number"},
                                "why": {"enum": ["not_recorded", "not_running", "killed"]},
                            },
                        },
                    },
                },
            },
        },
    },
}

_DEVICE_PARAMETERS = (
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
)

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
        _DEVICE_PARAMETERS,
        schema=_STORY_SCHEMA,
    ),
    # Devices choose their names: clients take "." and ".." out of a path, however they are encoded
    # (https://url.spec.whatwg.org/#double-dot-path-segment), and "presence" is another route.
    Route(
        "GET",
        "/api/v1/device",
        "view",
        "The same, of a device with any name: also one that a path cannot have.",
        _device,
        _DEVICE_PARAMETERS,
        schema=_STORY_SCHEMA,
    ),
    Route(
        "GET",
        "/api/v1/devices/presence",
        "view",
        "When devices were connected within a period, and their alarms: for strips of time.",
        _presence,
        (
            Parameter(
                "names",
                read_names,
                {"type": "string", "pattern": _NAMES_PATTERN},
                f"Of at most {MOST_NAMES} devices, separated by commas; a comma or a backslash of a"
                " name has a backslash in front.",
                is_required=True,
            ),
            of.SERVICE,
            of.SINCE,
            of.UNTIL,
            of.MAX_AGE,
        ),
        schema=_PRESENCE_SCHEMA,
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
