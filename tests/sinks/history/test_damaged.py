"""Files that are damaged, hostile, or none: only our own errors, and an end to each."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.errors import FileError
from monconn.model.totals import Totals
from monconn.ops.columns import Row
from monconn.ops.filter_keys import HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow
from monconn.sinks.history import file_time, schema
from monconn.sinks.history.file_time import FileTime
from monconn.sinks.history.presence import Wanted, presence_of
from monconn.sinks.history.query import HistoryFilter, connections, events, report
from monconn.sinks.history.retention import prune
from monconn.sinks.history.schema import check_file, limited, open_for_writing, open_read_only
from monconn.sinks.history.store import load_totals, write
from tests.properties import examples

from .past import HOUR, MEBIBYTE, NOON, RUN, closed, history, refused

USUAL = HistoryFilter()
PRESENT = Wanted(["192.0.2.1", "192.0.2.0/24"], {"x"}, ["192.0.2.1"], ["tag"])
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where many files are made: a disk would have to write each of them."""


def make_good(path: Path) -> None:
    rows = [closed(NOON + each * 60, id=each, detail="x" * 50) for each in range(12)]
    rows += [refused(NOON + each) for each in range(6)]
    rows[0].set_fact("tag", "x")
    db = history(path)
    write(db, rows, {"web": Totals(60, 600, 1200)}, RUN, FileTime().changed())
    db.close()


@cache
def good() -> bytes:
    """A file with rows in each table."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "history.db")
        make_good(path)
        return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def read_all(path: Path) -> None:
    """Everything that is asked of a file."""
    condition = parse("tag:x 192.0.2", HISTORY_KEYS).to_sql()
    with closing(open_read_only(str(path))) as db, limited(db, str(path), 5):
        for ask in (
            lambda: [shown(HistoryConnectionRow, each) for each in connections(db, USUAL)],
            lambda: [shown(HistoryEventRow, each) for each in events(db, USUAL)],
            lambda: connections(db, HistoryFilter(condition=condition, since=NOON)),
            lambda: report(db, USUAL),
            lambda: presence_of(db, PRESENT, ["web"], NOON, NOON + HOUR, 30.0),
            lambda: report(db, HistoryFilter(since=NOON + 100, until=NOON + 2 * HOUR)),
        ):
            with suppress(sqlite3.Error):  # which the callers turn into a FileError
                ask()


def shown(row_class: type[Row], values: dict[str, Any]) -> list[str]:
    """A row as the command prints it."""
    row = row_class(**values)
    json.dumps(row.to_json(), allow_nan=False)
    return [column.text(row) for column in row_class.fields().values()]


def write_all(path: Path) -> None:
    """Everything that is done to a file that is being written."""
    with closing(open_for_writing(str(path), MEBIBYTE)) as db, limited(db, str(path), 5):
        with suppress(sqlite3.Error):
            load_totals(db)
        try:
            time = FileTime(file_time.load(db))
        except sqlite3.Error:
            time = FileTime()
        with suppress(sqlite3.Error):
            write(db, [closed(), refused()], {"web": Totals(61)}, RUN, time.changed())
        with suppress(sqlite3.Error):
            file_time.remove(db, time.stretches())
            while prune(db, str(path), HOUR, MEBIBYTE, NOON + 2 * HOUR, time.stretches()):
                pass


def use(content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "history.db")
        for do in (lambda path: check_file(str(path)), read_all, write_all):
            path.write_bytes(content)
            with suppress(FileError):
                do(path)


# The header and the pages' own headers are where damage is of most consequence.
DAMAGES = st.tuples(
    st.integers(0, 1000),
    st.one_of(st.integers(0, 150), st.integers(0, 4095)),
    st.one_of(st.binary(min_size=1, max_size=8), st.just(bytes(300))),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(DAMAGES, min_size=1, max_size=20), st.none() | st.integers(0, 100_000))
@example([(0, 3308, b"\x80")], None)  # within the schema: SQLite's message is no UTF-8
def test_damaged_pages_cause_only_errors_of_the_file(
    damages: list[tuple[int, int, bytes]], cut_at: int | None
) -> None:
    """Each damage is a page, an offset in it, and what is written there."""
    content = bytearray(good())
    for page, offset, piece in damages:
        at = page % (len(content) // 4096) * 4096 + offset
        content[at : at + len(piece)] = piece
    use(bytes(content[:cut_at]))


VALUES = ["NULL", "'text'", "x'00ff'", "-1", "9e999", "1e300", "9223372036854775807", "char(0)",
          "zeroblob(2000000)", "'{\"a\":'", "char(55296)", "cast(x'fffe' AS TEXT)"]  # fmt: skip


@settings(max_examples=examples(60), deadline=None)
@given(
    table=st.sampled_from(
        ["connections", "events", "hours", "refusals", "counters", "kept", "clock"]
    ),
    number=st.integers(0, 40),
    value=st.sampled_from(VALUES),
)
@example("connections", 8, "1e300")
@example("clock", 2, "9e999")
@example("clock", 0, "9223372036854775807")
@example("counters", 2, "'text'")
@example("hours", 0, "9223372036854775807")
def test_odd_values_cause_only_errors_of_the_file(table: str, number: int, value: str) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "history.db")
        path.write_bytes(good())
        db = sqlite3.connect(path)
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        with suppress(sqlite3.IntegrityError, sqlite3.DataError), db:
            name = names[number % len(names)]
            some = f"SELECT {name} FROM {table} LIMIT 3"
            db.execute(f"UPDATE {table} SET {name} = {value} WHERE {name} IN ({some})")
        db.close()
        use(path.read_bytes())


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
HOSTILE = {
    "a view without end": (
        "ALTER TABLE connections RENAME TO c;"
        f" CREATE VIEW connections AS {ENDLESS} c.* FROM n, c WHERE i < 0",
        "table connections is missing",
    ),
    "counters without end": (
        f"DROP TABLE counters; CREATE VIEW counters AS {ENDLESS} 'web', 'up', i FROM n",
        "table counters is missing",
    ),
    "a virtual table": (
        "DROP TABLE events; CREATE VIRTUAL TABLE events USING fts5(at, event)",
        "table events is missing",
    ),
    "a table that is missing": ("DROP TABLE kept", "table kept is missing"),
}
HOSTILE_TO_WRITERS = {
    "a trigger": (
        "CREATE TRIGGER t AFTER INSERT ON connections BEGIN"
        f" INSERT INTO kept {ENDLESS} i, i FROM n; END",
        'has a trigger, "t"',
    ),
    "one column more": (
        "ALTER TABLE connections ADD COLUMN more TEXT",
        "connections has other columns",
    ),
    "one column more in sums": ("ALTER TABLE hours ADD COLUMN more TEXT", "table hours has other"),
    "one column less": ("ALTER TABLE events DROP COLUMN detail", "events has other columns"),
}  # fmt: skip


def change(path: Path, statements: str) -> None:
    make_good(path)
    with closing(sqlite3.connect(path)) as db:
        try:
            db.executescript(statements)
        except sqlite3.OperationalError as error:
            pytest.skip(f"this SQLite cannot: {error}")


@pytest.mark.parametrize(("statements", "message"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "open_file", [lambda path: open_for_writing(path, MEBIBYTE), open_read_only]
)
def test_a_hostile_schema_is_refused(
    path: Path, statements: str, message: str, open_file: Callable[[str], object]
) -> None:
    change(path, statements)
    with pytest.raises(FileError, match=message):
        open_file(str(path))


@pytest.mark.parametrize(
    ("statements", "message"), HOSTILE_TO_WRITERS.values(), ids=HOSTILE_TO_WRITERS
)
def test_what_would_keep_rows_from_being_written_is_refused(
    path: Path, statements: str, message: str
) -> None:
    change(path, statements)
    with pytest.raises(FileError, match=message):
        open_for_writing(str(path), MEBIBYTE)
    read_all(path)


def test_views_and_indexes_of_a_users_own_are_welcome(path: Path) -> None:
    change(path, "CREATE VIEW v AS SELECT * FROM hours; CREATE INDEX i ON connections (backend)")
    open_for_writing(str(path), MEBIBYTE).close()
    read_all(path)


def test_a_statement_without_end_is_interrupted(path: Path) -> None:
    make_good(path)
    with closing(open_read_only(str(path))) as db:
        with pytest.raises(FileError, match="longer than 0 s"), limited(db, str(path), 0):
            db.execute(f"{ENDLESS} sum(i) FROM n")
        with (
            pytest.raises(sqlite3.OperationalError, match="interrupted"),
            limited(db, str(path), 60, lambda: True),
        ):
            db.execute(f"{ENDLESS} sum(i) FROM n")
        assert len(connections(db, USUAL)) == 12  # afterwards nothing is interrupted


def test_a_file_that_is_replaced_while_it_is_read(path: Path) -> None:
    make_good(path)
    with closing(open_read_only(str(path))) as db:
        assert len(connections(db, USUAL)) == 12
        other = path.with_name("other")
        other.write_bytes(good()[:5000])
        other.replace(path)
        assert len(connections(db, USUAL)) == 12  # of the file that it has opened
    with suppress(FileError):
        read_all(path)


# -- paths


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_kernel(path: Path) -> None:
    path.symlink_to("/proc/self/status")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (link_to_kernel, "is a file of the kernel's"),
        (make_fifo, "is a FIFO, and no regular file"),
        (make_socket, "is a socket, and no regular file"),
        (link_to_device, "is a device, and no regular file"),
        (Path.mkdir, "is a folder, and no regular file"),
    ],
)
@pytest.mark.parametrize(
    "open_file",
    [lambda path: open_for_writing(path, MEBIBYTE), open_read_only, check_file, schema.lock],
)
def test_what_is_no_file_is_never_opened(
    path: Path, make: Callable[[Path], object], message: str, open_file: Callable[[str], object]
) -> None:
    make(path)
    with pytest.raises(FileError, match=message):
        open_file(str(path))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("beside", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize(
    "open_file",
    [lambda path: open_for_writing(path, MEBIBYTE), open_read_only, check_file, schema.lock],
)
def test_what_is_beside_a_history_and_no_file_is_never_opened(
    path: Path, beside: str, open_file: Callable[[str], object]
) -> None:
    """To open a FIFO is to wait until somebody writes into it."""
    open_for_writing(str(path), MEBIBYTE).close()
    os.mkfifo(f"{path}{beside}")
    with pytest.raises(FileError, match=f"{beside}: is a FIFO, and no regular file"):
        open_file(str(path))


@pytest.mark.parametrize(
    "odd",
    [":memory:", "file:x.db", "file:x.db?mode=memory", "a\0b", "a\ud800b", "x" * 300, "no/such/x"],
)
@pytest.mark.parametrize(
    "open_file", [lambda path: open_for_writing(path, MEBIBYTE), open_read_only, schema.lock]
)
def test_odd_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, open_file: Callable[[str], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError) as caught:
        open_file(odd)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("odd", ["a b?c#d%41é.db", "\udcff.db", "-x", "a\nb"])
def test_odd_names_of_good_files(tmp_path: Path, odd: str) -> None:
    path = tmp_path / odd
    make_good(path)
    check_file(str(path))
    read_all(path)
    assert path.stat().st_size > 0


def test_check_reads_the_header_only(path: Path, tmp_path: Path) -> None:
    check_file(str(path))  # is to be created
    path.touch()
    check_file(str(path))
    make_good(path)
    check_file(str(path))
    assert list(tmp_path.iterdir()) == [path]
    for offset, value, message in (
        (0, b"dear diary", "is not a database"),
        (68, b"\0\0\0\0", "no history of monconn's"),
        (60, b"\0\0\0\x63", "another version of monconn"),
    ):
        content = bytearray(path.read_bytes())
        content[offset : offset + len(value)] = value
        other = tmp_path / "other"
        other.write_bytes(content)
        with pytest.raises(FileError, match=message):
            check_file(str(other))
    other.write_bytes(b"SQLite")
    with pytest.raises(FileError, match="is not a database"):
        check_file(str(other))
