"""A report of a period of a history."""

from __future__ import annotations

import heapq
import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import attrs

from monconn.errors import QuestionError
from monconn.model.record import iso_time
from monconn.sinks.history.filters import HistoryFilter, rows, where
from monconn.sinks.history.store import HOUR_SECONDS, hour_of

TOP = 10
BUSIEST = 5
MOST_POINTS = 168
MOST_SORTED = 200_000
"""The most connections whose median is computed; sorting more would take too long."""
_FIGURES = ("connections", "up", "down")


@attrs.frozen
class _Period:
    """A period split into whole hours, which have sums, and the parts of hours at its edges."""

    since: float
    until: float
    whole: tuple[float, float]
    edges: list[tuple[float, float]]
    is_exact: bool


@attrs.frozen
class _Source:
    """A table to sum up: a statement to which conditions are appended, and its columns."""

    select: str
    time: str
    word: str


def report(db: sqlite3.Connection, selection: HistoryFilter) -> dict[str, Any]:
    """Sum up a period.

    :returns: figures for JSON. ``resolution`` is ``exact``, or ``hours`` if single connections of
        that time were removed already: then they are those of all hours that the period touches.
    :raises QuestionError: the filter has a condition on single rows.
    """
    if selection.condition is not None:
        raise QuestionError("a report is by service, client and time: it takes no other filter")
    db.execute("BEGIN")  # one snapshot for all statements, whatever is written meanwhile
    try:
        return _report(db, selection)
    except (TypeError, ValueError, ArithmeticError, OSError):  # those of text in place of figures
        raise sqlite3.DatabaseError("a row has a value of the wrong type") from None
    finally:
        db.rollback()


def _report(db: sqlite3.Connection, selection: HistoryFilter) -> dict[str, Any]:
    period = _period(db, selection)
    reasons = _sums(db, selection, period, "reason", "connections DESC, reason")
    refusals = _refusals(db, selection, period)
    hours = _sums(db, selection, period, "hour", "hour")
    clients = _sums(db, selection, period, "client_ip", "client_ip")
    points, hours_each = _points(hours)
    forgotten = _complete_since(db, "hours")
    return {
        "resolution": "exact" if period.is_exact else "hours",
        "since": iso_time(period.since),
        "until": iso_time(period.until),
        "kept_since": iso_time(forgotten) if forgotten > period.since else None,
        "service": selection.service,
        **{name: sum(each[name] for each in reasons) for name in _FIGURES},
        "refused": sum(refusals.values()),
        "reasons": {each["reason"]: each["connections"] for each in reasons},
        "refusals": refusals,
        "alarms": _alarms(db, selection, period),
        "lost": _lost(db, selection, period),
        "clients_by_connections": _top(clients, lambda each: each["connections"]),
        "clients_by_bytes": _top(clients, lambda each: each["up"] + each["down"]),
        "hours": points,
        "hours_each": hours_each,
        "busiest": [_hour_dict(each) for each in _busiest(hours)],
        "duration_seconds": _spread(db, selection, period, "duration_seconds"),
        "connect_seconds": _spread(db, selection, period, "connect_seconds"),
    }


# -- the period


def _period(db: sqlite3.Connection, selection: HistoryFilter) -> _Period:
    now = time.time()
    begin, end = _extent(db, now)
    since = begin if selection.since is None else selection.since
    until = end if selection.until is None else selection.until
    first = min(max(since, begin), end)
    last = min(max(until, first), end)
    edges = _edges(first, last)
    forgotten = max(_complete_since(db, "connections"), _complete_since(db, "events"))
    if all(edge[0] >= forgotten for edge in edges):
        return _Period(since, min(until, now), (_next_hour(first), hour_of(last)), edges, True)
    whole = (hour_of(first), _next_hour(last))
    return _Period(min(since, whole[0]), min(max(until, whole[1]), now), whole, [], False)


def _extent(db: sqlite3.Connection, now: float) -> tuple[float, float]:
    """From the first hour that has sums to the end of the present one.

    Later rows were written while the wall clock was wrong.
    """
    (first,) = db.execute(
        "SELECT min(first) FROM"
        " (SELECT min(hour) AS first FROM hours UNION ALL SELECT min(hour) FROM refusals)"
    ).fetchone()
    last = _next_hour(now)
    return (hour_of(now) if first is None else min(first, last)), last


def _edges(first: float, last: float) -> list[tuple[float, float]]:
    """The parts of a period that lie in hours which are not wholly within it."""
    begin, end = _next_hour(first), hour_of(last)
    if begin > end:
        return [(first, last)]  # within one hour
    return [edge for edge in ((first, begin), (end, last)) if edge[0] < edge[1]]


def _next_hour(wall_seconds: float) -> int:
    """The end of the hour that a time is in; the time itself if it is on the hour."""
    return math.ceil(wall_seconds / HOUR_SECONDS) * HOUR_SECONDS


def _complete_since(db: sqlite3.Connection, table: str) -> float:
    """The time from which on a table has all its rows."""
    row = db.execute("SELECT since FROM kept WHERE name = ?", (table,)).fetchone()
    return -math.inf if row is None else float(row[0])


# -- the figures


def _union(
    selection: HistoryFilter, period: _Period, summed: _Source, single: _Source
) -> tuple[str, dict[str, Any]]:
    """A statement for the sums of whole hours together with the single rows at the edges."""
    parts = [(summed, period.whole), *((single, edge) for edge in period.edges)]
    texts, values = [], {}
    for number, (source, (since, until)) in enumerate(parts):
        part = attrs.evolve(selection, since=since, until=until)
        conditions, found = where(part, source.time, source.word, str(number))
        texts.append(f"{source.select} {conditions}")
        values.update(found)
    return " UNION ALL ".join(texts), values


def _sums(
    db: sqlite3.Connection, selection: HistoryFilter, period: _Period, by: str, order: str
) -> list[dict[str, Any]]:
    """Connections and bytes of a period, by a column of ``hours``."""
    column = f"CAST(closed_at / {HOUR_SECONDS} AS INTEGER) * {HOUR_SECONDS}" if by == "hour" else by
    union, values = _union(
        selection,
        period,
        _Source(f"SELECT {by}, connections, up, down FROM hours WHERE", "hour", "reason"),
        _Source(f"SELECT {column}, 1, up, down FROM connections WHERE", "closed_at", "reason"),
    )
    return rows(
        db,
        f"SELECT {by}, sum(connections) AS connections, sum(up) AS up, sum(down) AS down"
        f" FROM ({union}) GROUP BY {by} ORDER BY {order}",
        values,
    )


def _top(
    clients: list[dict[str, Any]], amount: Callable[[dict[str, Any]], int]
) -> list[dict[str, Any]]:
    return heapq.nlargest(TOP, clients, key=amount)


def _refusals(db: sqlite3.Connection, selection: HistoryFilter, period: _Period) -> dict[str, int]:
    """Refusals by kind; for a single client, only those that have a row of their own."""
    if selection.reason is not None:
        return {}  # the reason of a connection: refused clients have none
    single = _Source(
        "SELECT word AS refusal, count FROM events WHERE event = 'refused' AND", "at", "word"
    )
    if selection.client is None:
        summed = _Source("SELECT refusal, count FROM refusals WHERE", "hour", "refusal")
        union, values = _union(selection, period, summed, single)
    else:
        conditions, values = where(selection, single.time, single.word)
        union = f"{single.select} {conditions}"
    found = db.execute(
        f"SELECT refusal, sum(count) FROM ({union}) GROUP BY refusal ORDER BY 2 DESC, 1", values
    )
    return dict(found.fetchall())


def _alarms(db: sqlite3.Connection, selection: HistoryFilter, period: _Period) -> dict[str, int]:
    """How often each kind of alarm was raised."""
    conditions, values = where(
        attrs.evolve(selection, since=period.since, reason=None), "at", "word"
    )
    found = db.execute(
        "SELECT word, count(*) FROM events"
        f" WHERE event = 'alarm' AND NOT over AND {conditions} GROUP BY word ORDER BY 2 DESC, 1",
        values,
    )
    return dict(found.fetchall())


def _lost(db: sqlite3.Connection, selection: HistoryFilter, period: _Period) -> int:
    """How many items could not be written, of all services."""
    conditions, values = where(
        HistoryFilter(since=period.since, until=selection.until), "at", "word"
    )
    found = db.execute(
        f"SELECT coalesce(sum(count), 0) FROM events WHERE event = 'lost' AND {conditions}", values
    )
    return int(found.fetchone()[0])


def _busiest(hours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(hours, key=lambda each: -each["connections"])[:BUSIEST]


def _points(hours: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Points without gaps, of as many hours each as keep their number below the limit."""
    if not hours:
        return [], 1
    first, last = hours[0]["hour"], hours[-1]["hour"]
    hours_each = math.ceil(((last - first) // HOUR_SECONDS + 1) / MOST_POINTS)
    step = hours_each * HOUR_SECONDS
    points: list[dict[str, Any]] = [
        {"hour": hour, **dict.fromkeys(_FIGURES, 0)} for hour in range(first, last + 1, step)
    ]
    for each in hours:
        point = points[(each["hour"] - first) // step]
        for name in _FIGURES:
            point[name] += each[name]
    return [_hour_dict(point) for point in points], hours_each


def _hour_dict(each: dict[str, Any]) -> dict[str, Any]:
    return {"at": iso_time(each["hour"]), **{name: each[name] for name in _FIGURES}}


def _spread(
    db: sqlite3.Connection, selection: HistoryFilter, period: _Period, column: str
) -> dict[str, float] | None:
    """Mean, median and 95th percentile; None if connections were removed, or are too many."""
    if _complete_since(db, "connections") > period.since:
        return None
    conditions, values = where(selection, "closed_at", "reason")
    known = f"SELECT {column} FROM connections WHERE {column} IS NOT NULL AND {conditions}"
    count, mean = db.execute(
        f"SELECT count(*), avg({column}) FROM ({known} LIMIT {MOST_SORTED + 1})", values
    ).fetchone()
    if not 0 < count <= MOST_SORTED:
        return None

    def at(share: float) -> float:
        rank = math.ceil(share * count) - 1
        ranked = f"{known} ORDER BY {column} LIMIT 1 OFFSET {rank}"
        return round(float(db.execute(ranked, values).fetchone()[0]), 6)

    return {"mean": round(mean, 6), "median": at(0.5), "p95": at(0.95)}
