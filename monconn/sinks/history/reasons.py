"""How many connections have ended with which reason, over time."""

from __future__ import annotations

import math
import sqlite3
import time
from typing import Any

import attrs

from monconn.model.record import iso_time
from monconn.sinks.history.filters import HistoryFilter, rows, where
from monconn.sinks.history.store import HOUR_SECONDS

USUAL_SECONDS = 86400.0
"""The time before ``until`` where no ``since`` is given."""
_SECONDS = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * each for each in (1, 2, 5, 10, 15, 30)),
    *(HOUR_SECONDS * each for each in (1, 2, 3, 6, 12)),
)
"""How long a bucket may be; longer ones have whole days."""
_DAY_SECONDS = 86400


def reasons(db: sqlite3.Connection, selection: HistoryFilter, buckets: int) -> dict[str, Any]:
    """Count the ends of a period by time and reason.

    :param buckets: the most parts that the period is divided into, two or more. Each has a round
        length, and begins at a multiple of it since 1970.
    :returns: figures for JSON: of each part, also of one in which none has ended.
    :raises sqlite3.Error: the file cannot be read.
    """
    until = time.time() if selection.until is None else selection.until
    since = until - USUAL_SECONDS if selection.since is None else selection.since
    seconds = _length(until - since, buckets)
    first = math.floor(since / seconds) * seconds
    count = math.ceil((until - first) / seconds)
    made: list[dict[str, Any]] = [
        {"at": iso_time(first + number * seconds), "total": 0, "reasons": {}}
        for number in range(count)
    ]
    # Of whole hours there are sums, which outlast the connections. They lack most columns.
    has_sums = seconds % HOUR_SECONDS == 0 and selection.condition is None
    if has_sums:
        since = first
    table, moment, amount = (
        ("hours", "hour", "sum(connections)")
        if has_sums
        else ("connections", "closed_at", "count(*)")
    )
    chosen = attrs.evolve(selection, since=since, until=until)
    conditions, values = where(chosen, moment, "reason")
    found = rows(
        db,
        f"SELECT CAST(({moment} - :first_bucket) / :bucket_seconds AS INTEGER) AS bucket, reason,"
        f" {amount} AS count FROM {table} WHERE {conditions} GROUP BY bucket, reason"
        " ORDER BY bucket, count DESC, reason",
        {**values, "first_bucket": first, "bucket_seconds": float(seconds)},
        selection.condition,
    )
    for each in found:
        bucket, reason, ended = each["bucket"], each["reason"], each["count"]
        if not (type(bucket) is type(ended) is int and isinstance(reason, str)):
            raise sqlite3.DatabaseError("a row has a value of the wrong type")
        made[bucket]["total"] += ended
        made[bucket]["reasons"][reason] = ended
    return {
        "since": iso_time(since),
        "until": iso_time(until),
        "bucket_seconds": seconds,
        "buckets": made,
    }


def _length(period: float, buckets: int) -> int:
    """The shortest of the round lengths of which no more than so many are needed."""
    least = period / (buckets - 1)  # if it begins amid a bucket, it touches one more
    days = math.ceil(least / _DAY_SECONDS) * _DAY_SECONDS
    return next((each for each in _SECONDS if each >= least), days)
