"""Removes rows that are too old, or too many for the file's size, in small steps."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Sequence

import attrs

from monconn.sinks.history.file_time import Stretch, age, outside, retained
from monconn.sinks.history.schema import log_bytes, log_size
from monconn.sinks.history.store import HOUR_SECONDS

STEP_ROWS = 5_000
_SHRINK_ROWS = 500  # few, so that a small file loses little more than it must
_STEP_PAGES = 1_000
_TURN_SECONDS = 0.25
"""How long one call removes rows; writing uses the same thread, and must go on."""
_HOURS_REACH = 10
"""When the file is too big, hourly sums are retained this many times as long as single rows."""


@attrs.frozen
class _Table:
    """A table, the column of its rows' time, and their key."""

    name: str
    time: str
    key: str
    lasts: float = 0
    """Seconds that a row covers."""


_CONNECTIONS = _Table("connections", "closed_at", "entry")
_EVENTS = _Table("events", "at", "entry")
_HOURS = _Table("hours", "hour", "hour, service, client_ip, reason", HOUR_SECONDS)
_REFUSALS = _Table("refusals", "hour", "hour, service, refusal", HOUR_SECONDS)
_DEVICES = _Table("devices", "last_seen_at", "service, device")
_TABLES = (_CONNECTIONS, _EVENTS, _HOURS, _REFUSALS, _DEVICES)


def prune(
    db: sqlite3.Connection,
    path: str,
    keep_seconds: float,
    max_size: int,
    now: float,
    stretches: Sequence[Stretch] = (),
) -> bool:
    """Remove rows that are too old or too many, for :data:`_TURN_SECONDS` at most.

    :param path: the file's; its write-ahead log is truncated if it has grown.
    :param keep_seconds: how long rows are retained.
    :param max_size: the file's limit in bytes.
    :param now: wall-clock seconds.
    :param stretches: the file's time, by which rows grow old; without, the wall clock is believed.
    :returns: whether there may be more to remove.
    """
    until = time.monotonic() + _TURN_SECONDS
    old = outside(retained(stretches, keep_seconds), now, keep_seconds)
    latest = max([now, *(each.end_at for each in stretches if not each.lead)])
    while True:
        has_more = _forget_old(db, old, latest) or _shrink(db, max_size, stretches, now)
        if not has_more or time.monotonic() >= until:
            break
    if log_size(path) > 2 * log_bytes(max_size):
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return has_more


def _forget_old(db: sqlite3.Connection, old: Sequence[tuple[float, float]], latest: float) -> bool:
    has_forgotten = False
    for table in _TABLES:
        for since, before in old:
            # What a row covers must not reach into what is retained.
            has_forgotten |= _forget(db, table, latest, since, before - table.lasts)
    return has_forgotten


def _shrink(
    db: sqlite3.Connection, max_size: int, stretches: Sequence[Stretch], now: float
) -> bool:
    """Shrink the file by a step; returns False if it is small enough, or empty."""
    page_bytes, pages, unused = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    excess = pages - (max_size - log_bytes(max_size)) // page_bytes
    if excess <= 0:
        return False
    if unused:
        step = min(excess, unused, _STEP_PAGES)
        db.execute(f"PRAGMA incremental_vacuum({step})").fetchall()  # a page per row fetched
        return True
    return _forget_oldest(db, stretches, now)


def _forget_oldest(db: sqlite3.Connection, stretches: Sequence[Stretch], now: float) -> bool:
    """Remove the oldest rows of the table that reaches back furthest."""
    reach = {
        table: _age(db, table, stretches, now) / (_HOURS_REACH if table.lasts else 1)
        for table in _TABLES
    }
    return _forget(db, max(reach, key=lambda table: reach[table]), now, rows=_SHRINK_ROWS)


def _age(db: sqlite3.Connection, table: _Table, stretches: Sequence[Stretch], now: float) -> float:
    oldest = db.execute(f"SELECT min({table.time}) FROM {table.name}").fetchone()[0]
    if oldest is None:
        return -math.inf
    if not isinstance(oldest, int | float):
        raise sqlite3.DatabaseError(f"a time in {table.name} is no number")
    return max(0.0, age(stretches, float(oldest), now) - table.lasts)


def _forget(
    db: sqlite3.Connection,
    table: _Table,
    latest: float,
    since: float = -math.inf,
    before: float = math.inf,
    rows: int = STEP_ROWS,
) -> bool:
    """Remove the oldest rows of a table within a time; returns False if there were none.

    :param latest: the latest wall-clock time that may be right.
    """
    values = {"since": since, "before": before}
    oldest = (
        f"SELECT {table.key}, {table.time} AS time FROM {table.name}"
        f" WHERE {table.time} >= :since AND {table.time} < :before"
        f" ORDER BY {table.time} LIMIT {rows}"
    )
    last = db.execute(f"SELECT max(time) FROM ({oldest})", values).fetchone()[0]
    if last is None:
        return False
    with db:
        db.execute(
            f"DELETE FROM {table.name} WHERE ({table.key}) IN (SELECT {table.key} FROM ({oldest}))",
            values,
        )
        complete = last + table.lasts if table.lasts else math.nextafter(last, math.inf)
        if (
            last <= latest
        ):  # else it is from a clock that was ahead, and nothing before it is missing
            db.execute(
                "INSERT INTO kept VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET since = max(since, excluded.since)",
                (table.name, complete),
            )
    return True
