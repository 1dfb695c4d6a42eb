"""Queries on a history: its connections, its events, and a report of a period."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from typing import Any

from monconn.model.record import iso_time
from monconn.sinks.history.filters import (
    MOST_ROWS,
    USUAL_ROWS,
    HistoryFilter,
    Order,
    make_filter,
    order_by,
    rows,
    where,
)
from monconn.sinks.history.report import report
from monconn.sinks.history.schema import open_read_only, usual_columns

__all__ = [
    "CONNECTION_KEYS",
    "EVENT_KEYS",
    "MOST_ROWS",
    "USUAL_ROWS",
    "HistoryFilter",
    "Order",
    "connections",
    "connections_part",
    "events",
    "events_part",
    "make_filter",
    "open_read_only",
    "report",
]

CONNECTION_KEYS = (
    *("run_started_at", "id", "service", "client", "client_ip", "backend", "opened_at"),
    *("closed_at", "duration_seconds", "connect_seconds", "first_up_seconds"),
    *("first_down_seconds", "last_up_seconds", "last_down_seconds", "up", "down", "reason"),
    *("phase", "code", "closed_by", "client_end", "backend_end", "client_rtt_seconds"),
    *("client_retransmits", "backend_rtt_seconds", "backend_retransmits", "detail"),
    *("pipe", "client_last_heard_seconds", "backend_last_heard_seconds", "facts", "uid"),
)
"""The keys of a connection; those from ``detail`` on only if there is such a value."""
EVENT_KEYS = (
    *("event", "at", "service", "client", "client_ip", "refusal", "code", "alarm", "device"),
    *("over", "count", "detail", "action", "actor"),
)
"""The keys that an event may have: each kind has some of them."""

Part = tuple[list[dict[str, Any]], tuple[float, int] | None]
"""Rows, and the place of the last one: :attr:`HistoryFilter.after` for those that come after it."""


# Addresses are sorted as numbers, IPv4 first; their text would not be.
_ADDRESS = ("length(client_address)", "client_address")
_CONNECTION_ORDERS: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in CONNECTION_KEYS if key != "facts"},
    "client": (*_ADDRESS, "client"),
    "client_ip": (*_ADDRESS, "client_ip"),
}
_EVENT_ORDERS: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("event", "at", "service", "over", "count", "detail")},
    **dict.fromkeys(("what", "refusal", "code", "alarm", "action"), ("word",)),
    **dict.fromkeys(("client", "device"), (*_ADDRESS, "client")),
    "client_ip": (*_ADDRESS, "client_ip"),
    "actor": ("client",),
}


def connections(db: sqlite3.Connection, selection: HistoryFilter) -> list[dict[str, Any]]:
    """The connections that have closed, newest first unless the selection says otherwise, with
    the keys of a record's snapshot.

    :raises KeyError: they cannot be sorted by what it says.
    :raises sqlite3.Error: the file cannot be read.
    """
    return connections_part(db, selection)[0]


def connections_part(db: sqlite3.Connection, selection: HistoryFilter) -> Part:
    """As :func:`connections`, with the place of the last one."""
    conditions, values = where(selection, "closed_at", "reason")
    found = rows(
        db,
        f"SELECT * FROM connections WHERE {conditions}"
        f" ORDER BY {order_by(selection.order, 'closed_at', _CONNECTION_ORDERS)} LIMIT :limit",
        {**values, "limit": selection.limit},
        selection.condition,
    )
    made = list(checked("connections", found))
    place = (made[-1]["closed_at"], made[-1]["entry"]) if made else None
    return [connection_dict(row) for row in made], place


def events(db: sqlite3.Connection, selection: HistoryFilter) -> list[dict[str, Any]]:
    """Refusals, alarms, actions, starts and stops; the rest is as with :func:`connections`."""
    return events_part(db, selection)[0]


def events_part(db: sqlite3.Connection, selection: HistoryFilter) -> Part:
    """As :func:`events`, with the place of the last one."""
    conditions, values = where(selection, "at", "word")
    found = rows(
        db,
        f"SELECT * FROM events WHERE {conditions}"
        f" ORDER BY {order_by(selection.order, 'at', _EVENT_ORDERS)} LIMIT :limit",
        {**values, "limit": selection.limit},
        selection.condition,
    )
    made = list(checked("events", found))
    place = (made[-1]["at"], made[-1]["entry"]) if made else None
    return [event_dict(row) for row in made], place


_TYPES: dict[str, tuple[type, ...]] = {
    "TEXT": (str,),
    "INTEGER": (int,),
    "REAL": (int, float),
    "BLOB": (bytes, str, int, float),  # which is not shown
}
_DAY_SECONDS = 86_400
_LAST_SECONDS = 253_402_300_800.0
"""The end of the year 9999, beyond which there is no date."""


def checked(table: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows whose values are of their columns' types, which SQLite itself does not care about.

    :raises sqlite3.DatabaseError: some other program has written another one.
    """
    columns = [
        (name, _TYPES[kind] if is_never_null or name == "entry" else (*_TYPES[kind], type(None)))
        for name, (kind, is_never_null) in usual_columns(table).items()
    ]
    for row in rows:
        values = {}
        for name, types in columns:
            values[name] = value = row.get(name)
            if type(value) not in types or (
                type(value) is float and not -_LAST_SECONDS < value < _LAST_SECONDS
            ):
                kind = "text" if types[0] is str else "number"
                raise sqlite3.DatabaseError(f"the {name} of a row in {table} is no {kind}")
        yield values


def connection_dict(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``connections`` as JSON has it; the row is changed."""
    del row["entry"], row["client_address"]
    for name in ("run_started_at", "opened_at", "closed_at"):
        row[name] = _time(row[name])
    for name, value in row.items():
        if type(value) is float:  # the difference of two moments of the clock, in microseconds
            row[name] = round(value, 6)
    facts = row.pop("facts")
    for name in ("detail", "pipe"):
        if not row[name]:
            del row[name]
    for name in ("client_last_heard_seconds", "backend_last_heard_seconds", "uid"):
        if row[name] is None:
            del row[name]
    if facts is not None:
        row["facts"] = _facts(facts)
    return row


def _time(wall_seconds: float) -> str:
    """A time for people.

    :raises sqlite3.DatabaseError: it is none.
    """
    if not -_DAY_SECONDS <= wall_seconds < _LAST_SECONDS - _DAY_SECONDS:  # in any zone
        raise sqlite3.DatabaseError("a time is before 1970, or beyond all dates")
    return iso_time(wall_seconds)


def _facts(text: Any) -> dict[str, Any]:
    """The facts from their JSON, which another program may have written.

    :raises sqlite3.DatabaseError: as for anything else in a file that is damaged.
    """
    try:
        facts = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not all(map(_is_fact, facts.values())):
        raise sqlite3.DatabaseError("the facts of a connection are no JSON object of plain values")
    return facts


def _is_fact(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no others, but Python reads 1e999 as one
    return isinstance(value, str | int)


def event_dict(row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``events`` as JSON has it."""
    values = {"event": row["event"], "at": _time(row["at"])}
    if row["event"] == "alarm":
        values.update(alarm=row["word"], service=row["service"], device=row["client"])
        values["over"] = bool(row["over"])
    elif row["event"] == "refused":
        values.update(service=row["service"], client=row["client"], client_ip=row["client_ip"])
        values.update(refusal=row["word"], code="PR", count=row["count"])
    elif row["event"] == "action":
        values.update(service=row["service"], action=row["word"], actor=row["client"])
        values["count"] = row["count"]
    elif row["event"] == "lost":
        values["count"] = row["count"]
    if row["detail"]:
        values["detail"] = row["detail"]
    return values
