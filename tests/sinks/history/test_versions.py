"""Files of an older version of the schema: read as they are, updated by the one who writes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monconn.errors import FileError
from monconn.ops.filter_keys import HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.sinks.history import schema
from monconn.sinks.history.query import HistoryFilter, connections, open_read_only, report
from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import load_totals, write
from tests import ROOT

from .past import MEBIBYTE, NOON, RUN, closed, history
from .version_1 import make_version_1
from .version_2 import make_version_2
from .version_3 import make_version_3

UPDATER = """
import os, signal, sqlite3, sys
from monconn.sinks.history.schema import open_for_writing

def connect(*arguments, **options):
    db = open_database(*arguments, **options)
    db.set_trace_callback(lambda statement: sys.argv[2] in statement and die())
    return db

def die():
    os.kill(os.getpid(), signal.SIGKILL)

open_database, sqlite3.connect = sqlite3.connect, connect
open_for_writing(sys.argv[1], 1 << 26)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    make_version_1(path)
    return path


@pytest.fixture
def path_2(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    make_version_2(path)
    return path


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def columns(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Name, type, NOT NULL, default and key of each column of connections."""
    return [row[1:] for row in db.execute("PRAGMA main.table_info(connections)")]


def ids(db: sqlite3.Connection, terms: str = "") -> list[int]:
    condition = parse(terms, HISTORY_KEYS).to_sql()
    return [row["id"] for row in connections(db, HistoryFilter(condition=condition))]


def test_version_1_is_updated_by_its_writer(path: Path, tmp_path: Path) -> None:
    db = open_for_writing(str(path), MEBIBYTE)
    new = history(tmp_path / "new.db")
    assert (version(db), columns(db)) == (version(new), columns(new))
    new.close()
    assert version(db) == schema.SCHEMA_VERSION
    record = closed(NOON + 3, id=3, pipe="splice")
    record.set_fact("tag", "x")
    write(db, [record], {}, RUN)
    assert ids(db) == [3, 2, 1]
    assert ids(db, "tag:x pipe:splice") == [3]
    assert ids(db, "not:tag:x not:pipe:splice") == [2, 1]
    assert load_totals(db)["web"].opened == 2
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    open_for_writing(str(path), MEBIBYTE).close()  # updated once only


def test_version_2_is_updated_by_its_writer(path_2: Path, tmp_path: Path) -> None:
    db = open_for_writing(str(path_2), MEBIBYTE)
    new = history(tmp_path / "new.db")
    assert (version(db), columns(db)) == (version(new), columns(new))
    new.close()
    record = closed(NOON + 3, id=3)
    assert record.closed is not None
    record.client_heard = record.closed - 70.5
    write(db, [record], {}, RUN)
    assert ids(db) == [3, 2, 1]
    assert ids(db, "tag:x pipe:splice") == [2, 1]
    assert ids(db, "heard:1m..") == [3]
    latest, _, before = connections(db, HistoryFilter())
    assert latest["client_last_heard_seconds"] == 70.5
    assert "backend_last_heard_seconds" not in latest
    assert "client_last_heard_seconds" not in before
    assert load_totals(db)["web"].opened == 2
    db.close()


def test_version_2_is_read_and_left_alone(path_2: Path) -> None:
    before = path_2.read_bytes()
    db = open_read_only(str(path_2))
    assert ids(db) == ids(db, "tag:x pipe:splice") == ids(db, "not:heard:0..") == [2, 1]
    assert ids(db, "heard:0..") == []
    db.close()
    assert path_2.read_bytes() == before


def test_version_3_is_updated_by_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    make_version_3(path)
    reader = open_read_only(str(path))
    assert (version(reader), ids(reader), ids(reader, "uid:x")) == (3, [2, 1], [])
    reader.close()
    db = open_for_writing(str(path), MEBIBYTE)
    record = closed(NOON + 3, id=3)
    write(db, [record], {}, RUN)
    latest, _, before = connections(db, HistoryFilter())
    assert latest["uid"] == record.uid
    assert "uid" not in before
    assert ids(db, f"uid:{record.uid}") == ids(db, record.uid) == [3]
    assert ids(db, f"not:uid:{record.uid}") == [2, 1]
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        *("facts TEXT", "pipe TEXT", "backend_last_heard_seconds REAL", "uid TEXT"),
        *(f"user_version = {schema.SCHEMA_VERSION}", "COMMIT"),
    ],
)
def test_killed_while_updating(path: Path, statement: str) -> None:
    arguments = [sys.executable, "-c", UPDATER, str(path), statement]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    reader = open_read_only(str(path))
    assert (version(reader), ids(reader)) == (1, [2, 1])
    reader.close()
    db = open_for_writing(str(path), MEBIBYTE)
    assert (version(db), ids(db)) == (schema.SCHEMA_VERSION, [2, 1])
    db.close()


def test_an_update_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = (*schema._ADDED_COLUMNS, (3, "facts", "TEXT"))
    monkeypatch.setattr(schema, "_ADDED_COLUMNS", twice)
    before = path.read_bytes()
    with pytest.raises(FileError, match="duplicate column name"):
        open_for_writing(str(path), MEBIBYTE)
    assert path.read_bytes() == before


def test_version_1_is_read_and_left_alone(path: Path) -> None:
    before = path.read_bytes()
    db = open_read_only(str(path))
    assert ids(db) == ids(db, "client:192.0.2.0/24 up:10..") == [2, 1]
    assert ids(db, "tag:x") == ids(db, "pipe:splice") == ids(db, "tag 192.0.2.1") == []
    assert ids(db, "not:tag:x not:pipe:splice") == [2, 1]
    (latest, _) = connections(db, HistoryFilter())
    assert "facts" not in latest
    assert "pipe" not in latest
    assert report(db, HistoryFilter(since=NOON, until=NOON + 10))["connections"] == 2
    db.close()
    assert path.read_bytes() == before


def test_version_1_is_read_by_its_index(path: Path) -> None:
    db = open_read_only(str(path))
    statement = "EXPLAIN QUERY PLAN SELECT * FROM connections WHERE closed_at > 0 LIMIT 1"
    assert "connections_by_time" in str(db.execute(statement).fetchall())
    db.close()


def test_a_reader_of_version_1_goes_on_while_a_writer_updates_it(path: Path) -> None:
    reader = open_read_only(str(path))
    assert ids(reader) == [2, 1]
    writer = open_for_writing(str(path), MEBIBYTE)
    write(writer, [closed(NOON + 3, id=3, pipe="copy")], {}, RUN)
    assert ids(reader) == [3, 2, 1]
    again = open_read_only(str(path))
    assert ids(again, "pipe:copy") == [3]
    for db in (reader, again, writer):
        db.close()
