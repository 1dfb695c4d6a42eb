"""What can be asked of a history: its connections, its events, and a period in figures."""

from __future__ import annotations

import sqlite3
from typing import Any

from monconn.core.record import iso_time
from monconn.history.past import MOST_ROWS, Past, rows, where
from monconn.history.report import report
from monconn.history.schema import open_read_only

__all__ = ["MOST_ROWS", "Past", "connections", "events", "open_read_only", "report"]


def connections(db: sqlite3.Connection, past: Past) -> list[dict[str, Any]]:
    """The connections that have ended, newest first, in the words of a record's snapshot."""
    conditions, values = where(past, "closed_at", "reason")
    found = rows(
        db,
        f"SELECT * FROM connections WHERE {conditions}"
        " ORDER BY closed_at DESC, entry DESC LIMIT :limit",
        {**values, "limit": past.limit},
    )
    return [_shown_connection(row) for row in found]


def events(db: sqlite3.Connection, past: Past) -> list[dict[str, Any]]:
    """Refusals, alarms, starts and stops, newest first."""
    conditions, values = where(past, "at", "word")
    found = rows(
        db,
        f"SELECT * FROM events WHERE {conditions} ORDER BY at DESC, entry DESC LIMIT :limit",
        {**values, "limit": past.limit},
    )
    return [_shown_event(row) for row in found]


def _shown_connection(row: dict[str, Any]) -> dict[str, Any]:
    del row["entry"], row["client_address"]
    for name in ("run_started_at", "opened_at", "closed_at"):
        row[name] = iso_time(row[name])
    if not row["detail"]:
        del row["detail"]
    return row


def _shown_event(row: dict[str, Any]) -> dict[str, Any]:
    shown = {"event": row["event"], "at": iso_time(row["at"])}
    if row["event"] == "alarm":
        shown.update(alarm=row["word"], service=row["service"], device=row["client"])
        shown["over"] = bool(row["over"])
    elif row["event"] == "refused":
        shown.update(service=row["service"], client=row["client"], client_ip=row["client_ip"])
        shown.update(refusal=row["word"], code="PR", count=row["count"])
    elif row["event"] == "lost":
        shown["count"] = row["count"]
    if row["detail"]:
        shown["detail"] = row["detail"]
    return shown
