"""Routes of what is over: the stored history."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

from twisted.internet.defer import Deferred

from monconn.errors import QuestionError
from monconn.faces.http import parameters as of
from monconn.faces.http.encoding import json_response
from monconn.faces.http.lists import rows_answer
from monconn.faces.http.routes import Call, Parameter, Route
from monconn.model.actions import ACTION_KINDS
from monconn.model.alarms import ALARM_KINDS
from monconn.model.reasons import REASONS, REFUSALS
from monconn.net.http.messages import Answer, Response
from monconn.ops.columns import Listing
from monconn.ops.history_queries import MOST_BUCKETS, USUAL_BUCKETS
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow, ReportRow


def _asked(call: Call) -> dict[str, Any]:
    return {name: each for name, each in call.arguments.items() if name != "max_age"}


def _period(call: Call) -> dict[str, Any]:
    """The arguments of a query.

    :raises ValueError: the cursor is none.
    """
    period = {"limit": of.USUAL_LIMIT, **_asked(call)}
    cursor = period.pop("cursor", None)
    if cursor is None:
        return period
    if "sort" in period:
        raise QuestionError("a cursor goes on with the latest first: leave sort out")
    return {**period, "after": cursor}


def _answer(call: Call, listing: Listing[Any]) -> Answer:
    # The place of the last row says it all: nothing need be held.
    is_full = listing.total == call.arguments.get("limit", of.USUAL_LIMIT)
    has_more = is_full and listing.place is not None and "sort" not in call.arguments
    others = {"next": cursor_of(listing.place)} if has_more and listing.place else {}
    return rows_answer(call, listing.rows, others, is_continued=False)


def cursor_of(place: tuple[float, int]) -> str:
    """A place in a history as text, which needs no percent-encoding."""
    return f"{struct.pack('>d', place[0]).hex()}-{place[1]}"


def read_cursor(text: str) -> tuple[float, int]:
    """The place that :func:`cursor_of` has made a text of."""
    found = re.fullmatch("([0-9a-f]{16})-([0-9]{1,18})", text)
    moment = struct.unpack(">d", bytes.fromhex(found[1]))[0] if found else math.nan
    if found is None or not math.isfinite(moment):
        raise ValueError("is no next of an answer")
    return moment, int(found[2])


def _history(call: Call) -> Deferred[Response]:
    found: Deferred[Any] = call.operations.history(**_period(call))
    return found.addCallback(lambda listing: _answer(call, listing))


def _events(call: Call) -> Deferred[Response]:
    found: Deferred[Any] = call.operations.history_events(**_period(call))
    return found.addCallback(lambda listing: _answer(call, listing))


def _reasons(call: Call) -> Deferred[Response]:
    return call.operations.history_reasons(**_asked(call)).addCallback(json_response)


def _report(call: Call) -> Deferred[Response]:
    made = call.operations.report(**_asked(call))
    return made.addCallback(lambda row: json_response(row.to_json()))


def _reason_of(words: tuple[str, ...], help: str) -> Parameter:
    return Parameter("reason", of.read_text, {"type": "string", "enum": list(words)}, help)


_CURSOR = Parameter(
    "cursor",
    read_cursor,
    {"type": "string", "pattern": "^[0-7][0-9a-e][0-9a-f]{14}-[0-9]{1,18}$"},
    "The next of an answer: the rows that follow, with the same other arguments.",
)
_PERIOD = (of.SERVICE, of.CLIENT, of.SINCE, of.UNTIL)
_REASONS_SCHEMA = {
    "type": "object",
    "required": ["since", "until", "bucket_seconds", "buckets"],
    "properties": {
        "since": {"type": "string", "format": "date-time"},
        "until": {"type": "string", "format": "date-time"},
        "bucket_seconds": {"type": "integer", "description": "The length of each bucket."},
        "buckets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["at", "total", "reasons"],
                "properties": {
                    "at": {"type": "string", "format": "date-time", "description": "Its begin."},
                    "total": {"type": "integer"},
                    "reasons": {
                        "type": "object",
                        "additionalProperties": {"type": "integer"},
                        "description": "How many connections have ended with which reason.",
                    },
                },
            },
        },
    },
}

ROUTES = (
    Route(
        "GET",
        "/api/v1/history",
        "view",
        "Connections that have ended, the latest first.",
        _history,
        (
            of.filter_of("history"),
            of.sort_of(HistoryConnectionRow),
            *_PERIOD,
            _reason_of(REASONS, "Only those that ended so."),
            of.LIMIT,
            _CURSOR,
            of.MAX_AGE,
        ),
        HistoryConnectionRow,
        is_list=True,
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/api/v1/history/events",
        "view",
        "Refusals, alarms, actions, starts and stops, the latest first.",
        _events,
        (
            of.filter_of("history_events"),
            of.sort_of(HistoryEventRow),
            *_PERIOD,
            _reason_of(
                tuple(dict.fromkeys((*REFUSALS, *ALARM_KINDS, *ACTION_KINDS))),
                "Only this refusal, alarm or action.",
            ),
            of.LIMIT,
            _CURSOR,
            of.MAX_AGE,
        ),
        HistoryEventRow,
        is_list=True,
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/api/v1/history/reasons",
        "view",
        "How many connections have ended with which reason, over time.",
        _reasons,
        (
            of.filter_of("history"),
            *_PERIOD,
            of.integer(
                "buckets",
                f"The most parts that the time is divided into; {USUAL_BUCKETS} if left out.",
                2,
                MOST_BUCKETS,
            ),
            of.MAX_AGE,
        ),
        schema=_REASONS_SCHEMA,
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/api/v1/report",
        "view",
        "A period of the history in figures.",
        _report,
        (*_PERIOD, of.MAX_AGE),
        ReportRow,
        errors=(404, 503),
    ),
)
