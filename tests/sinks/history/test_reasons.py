"""How many connections have ended with which reason, over time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.addresses import parse_network
from monconn.model.record import iso_time
from monconn.ops.filter_keys import HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.sinks.history.query import HistoryFilter
from monconn.sinks.history.reasons import USUAL_SECONDS, reasons
from monconn.sinks.history.store import write
from tests.properties import examples

from .past import HOUR, NOON, RUN, closed, history


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = history(tmp_path / "history.db")
    yield db
    db.close()


def counted(made: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The parts in which anything has ended."""
    return {each["at"]: each["reasons"] for each in made["buckets"] if each["total"]}


def test_ends_are_counted_by_part_and_reason(db: sqlite3.Connection) -> None:
    items = [
        *(closed(NOON + 1 + number, id=number) for number in range(3)),
        closed(NOON + 2, id=11, reason="client_lost"),
        closed(NOON + 65, id=12),
        closed(NOON - 1, id=13),
        closed(NOON + 120, id=14),
    ]
    write(db, items, {}, RUN)
    made = reasons(db, HistoryFilter(since=NOON, until=NOON + 120), 3)
    assert made["bucket_seconds"] == 60
    assert counted(made) == {
        iso_time(NOON): {"client_closed": 3, "client_lost": 1},
        iso_time(NOON + 60): {"client_closed": 1},
    }
    assert [each["total"] for each in made["buckets"]] == [4, 1]
    assert list(made["buckets"][0]["reasons"]) == ["client_closed", "client_lost"]


def test_parts_in_which_nothing_has_ended_are_there(db: sqlite3.Connection) -> None:
    made = reasons(db, HistoryFilter(since=NOON, until=NOON + 10), 11)
    assert [each["at"] for each in made["buckets"]] == [iso_time(NOON + n) for n in range(10)]
    assert not counted(made)


def test_the_last_day_if_no_time_is_said(db: sqlite3.Connection) -> None:
    write(db, [closed(time.time() - 10), closed(time.time() - USUAL_SECONDS - 7200, id=2)], {}, RUN)
    made = reasons(db, HistoryFilter(), 60)
    assert sum(each["total"] for each in made["buckets"]) == 1
    assert made["bucket_seconds"] == 1800


def test_by_service_client_and_reason(db: sqlite3.Connection) -> None:
    other = closed(NOON + 2, "192.0.2.9", id=2, service="mqtt", reason="client_lost")
    write(db, [closed(NOON + 1), other], {}, RUN)
    for selection in (
        HistoryFilter(service="mqtt"),
        HistoryFilter(client=parse_network("192.0.2.8/30")),
        HistoryFilter(reason="client_lost"),
        HistoryFilter(condition=parse("service:mqtt age:..5s", HISTORY_KEYS).to_sql()),
    ):
        for hours in (1, 200):  # of single connections, and of the sums of hours
            until = NOON + hours * HOUR
            period = HistoryFilter(
                selection.service,
                selection.client,
                NOON,
                until,
                selection.reason,
                condition=selection.condition,
            )
            assert list(counted(reasons(db, period, 60)).values()) == [{"client_lost": 1}]


def test_sums_of_hours_outlast_connections(db: sqlite3.Connection) -> None:
    items = [closed(NOON + 10 + number * HOUR, id=number) for number in range(48)]
    write(db, items, {}, RUN)
    period = HistoryFilter(since=NOON + 30, until=NOON + 48 * HOUR)
    before = reasons(db, period, 30)
    assert before["bucket_seconds"] == 2 * HOUR
    assert before["since"] == iso_time(NOON)  # whole hours
    db.execute("DELETE FROM connections")
    assert reasons(db, period, 30)["buckets"] == before["buckets"]
    assert [each["total"] for each in before["buckets"]] == [2] * 24


def test_a_file_that_another_program_has_written(db: sqlite3.Connection) -> None:
    write(db, [closed(NOON + 1)], {}, RUN)
    db.execute("UPDATE connections SET reason = x'00'")
    with pytest.raises(sqlite3.DatabaseError, match="wrong type"):
        reasons(db, HistoryFilter(since=NOON, until=NOON + 10), 10)


@settings(max_examples=examples(50))
@given(
    since=st.floats(0, 3e9),
    seconds=st.floats(1e-3, 1e9),
    buckets=st.integers(2, 500),
)
def test_there_are_no_more_parts_than_asked_for(since: float, seconds: float, buckets: int) -> None:
    db = sqlite3.connect(":memory:")
    for table, moment in (("connections", "closed_at"), ("hours", "hour")):
        db.execute(f"CREATE TABLE {table} ({moment} REAL, reason TEXT, connections INTEGER)")
    until = since + seconds
    made = reasons(db, HistoryFilter(since=since, until=until), buckets)
    assert 1 <= len(made["buckets"]) <= buckets
    assert made["buckets"][0]["at"] <= iso_time(since)
    db.close()
