from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from monconn.model.totals import Totals
from monconn.sinks.history import retention
from monconn.sinks.history.query import HistoryFilter, report
from monconn.sinks.history.retention import STEP_ROWS, prune
from monconn.sinks.history.store import write

from .past import HOUR, MEBIBYTE, NOON, RUN, closed, count, history, refused

DAY = 24 * HOUR


def size_on_disk(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.iterdir() if not each.match("*-shm"))


def prune_all(db: sqlite3.Connection, path: Path, keep: float, max_size: int, now: float) -> None:
    deadline = time.monotonic() + 30
    while prune(db, str(path), keep, max_size, now):
        assert time.monotonic() < deadline


def test_by_age(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    db = history(
        path, [make(NOON + HOUR * each) for each in range(10) for make in (closed, refused)]
    )
    prune_all(db, path, 4 * HOUR, 64 * MEBIBYTE, NOON + 9.5 * HOUR)
    oldest = "SELECT min({}) - ? FROM {}"
    assert {
        table: db.execute(oldest.format(column, table), (NOON,)).fetchone()[0] / HOUR
        for table, column in [
            ("connections", "closed_at"), ("events", "at"), ("hours", "hour"), ("refusals", "hour"),
        ]
    } == {"connections": 6, "events": 6, "hours": 5, "refusals": 5}  # fmt: skip
    db.close()


def test_in_small_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_TURN_SECONDS", 0.0)
    path = tmp_path / "history.db"
    db = history(path, [closed()] * (STEP_ROWS + 1))
    left = []
    while prune(db, str(path), HOUR, 64 * MEBIBYTE, NOON + DAY):
        left.append(count(db, "connections"))
    assert left == [1, 0]
    db.close()


def test_the_file_stays_within_its_size(tmp_path: Path) -> None:
    path, max_size = tmp_path / "history.db", 2 * MEBIBYTE
    db = history(path, max_size=max_size)
    biggest = written = 0
    for step in range(30):
        at = NOON + step * HOUR
        write(db, [closed(at + each, f"10.0.{step}.{each % 256}") for each in range(1000)], {}, RUN)
        written += 1000
        prune_all(db, path, 365 * DAY, max_size, at + 1000)
        biggest = max(biggest, size_on_disk(path))
    assert biggest <= max_size * 1.2
    retained = count(db, "connections")
    assert 2000 < retained < written / 2
    newest = db.execute("SELECT max(closed_at), min(closed_at) FROM connections").fetchone()
    assert newest[0] == at + 999
    assert newest[1] > NOON + 10 * HOUR  # the oldest went first
    db.close()
    assert size_on_disk(path) <= max_size


def test_the_file_shrinks_to_a_lower_limit(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    history(path, [closed(NOON + each) for each in range(20_000)]).close()
    before = size_on_disk(path)
    assert before > 2 * MEBIBYTE
    db = history(path, max_size=MEBIBYTE)
    prune_all(db, path, 365 * DAY, MEBIBYTE, NOON + DAY)
    assert count(db, "connections") > 0
    db.close()
    assert size_on_disk(path) <= MEBIBYTE


def test_the_sums_outlive_what_they_sum_up(tmp_path: Path) -> None:
    path, max_size = tmp_path / "history.db", MEBIBYTE
    db = history(path, [closed(NOON + each / 2) for each in range(20_000)], max_size)
    write(db, [], {"web": Totals(20_000)}, RUN)
    prune_all(db, path, 365 * DAY, max_size, NOON + 3 * HOUR)
    assert 0 < count(db, "connections") < 10_000
    made = report(db, HistoryFilter(since=NOON + 60))
    assert (made["resolution"], made["connections"], made["up"]) == ("hours", 20_000, 200_000)
    assert made["kept_since"] is None
    assert count(db, "counters") == 3  # these are never forgotten
    db.close()


def test_sums_are_removed_if_they_are_too_many(tmp_path: Path) -> None:
    path, max_size = tmp_path / "history.db", 2 * MEBIBYTE
    db = history(path, max_size=max_size)
    for hour in range(80):  # each connection a client of its own
        at = NOON + hour * HOUR
        write(db, [closed(at, f"10.{hour}.{n >> 8}.{n & 255}") for n in range(500)], {}, RUN)
        prune_all(db, path, 365 * DAY, max_size, at)
    assert size_on_disk(path) <= max_size * 1.2
    assert count(db, "connections") >= 500
    assert count(db, "hours") >= count(db, "connections")
    db.close()


def test_a_log_that_a_reader_holds_removes_no_rows(tmp_path: Path) -> None:
    path, max_size = tmp_path / "history.db", 2 * MEBIBYTE
    db = history(path, [closed()] * 100, max_size)
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM connections").fetchone()
    for _ in range(20):
        write(db, [closed()] * 100, {}, RUN)
    while (tmp_path / "history.db-wal").stat().st_size < max_size:
        write(db, [], {"web": Totals(count(db, "connections"))}, RUN)
        db.execute("UPDATE connections SET up = up + 1")
        db.commit()
    prune_all(db, path, 365 * DAY, max_size, NOON)
    assert count(db, "connections") == 2100
    reader.close()
    prune_all(db, path, 365 * DAY, max_size, NOON)
    assert (tmp_path / "history.db-wal").stat().st_size <= max_size // 4
    db.close()


def test_nothing_left_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    db = history(path, [closed()], max_size=1024)
    prune_all(db, path, 365 * DAY, 1024, NOON)
    assert count(db, "connections") == 0
    db.close()
