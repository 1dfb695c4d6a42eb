from __future__ import annotations

import os
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monconn.errors import FileError
from monconn.model.actions import Action, Actor
from monconn.model.alarms import Alarm
from monconn.model.totals import Totals
from monconn.ops.filter_keys import HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow
from monconn.sinks.history.file_time import Stretch
from monconn.sinks.history.query import (
    HistoryFilter,
    connections,
    events,
    make_filter,
    open_read_only,
)
from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import Event, _connection_row, load_totals, packed, write
from tests.counting import calls_in_python

from .past import MEBIBYTE, NOON, RUN, closed, count, history, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def make_foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE precious (word TEXT)")
        db.execute("INSERT INTO precious VALUES ('ring')")
    db.close()


# -- opening


def test_a_new_file_is_private(path: Path) -> None:
    db = history(path, [closed()])
    assert {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {
        "history.db": 0o600,
        "history.db-wal": 0o600,
        "history.db-shm": 0o600,
    }
    assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_what_was_written_is_there_the_next_time(path: Path) -> None:
    history(path, [closed()]).close()
    db = history(path, [closed()])
    assert count(db, "connections") == 2
    db.close()


@pytest.mark.parametrize(
    "open_file", [lambda path: open_for_writing(path, MEBIBYTE), open_read_only]
)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "file is not a database"),
        ("foreign", "is a database, but no history of monconn's"),
        ("newer", "was written by another version of monconn"),
        ("folder", "is a folder, and no regular file"),
    ],
)
def test_other_files_are_left_alone(
    path: Path, kind: str, message: str, open_file: Callable[[str], object]
) -> None:
    if kind == "text":
        path.write_text("dear diary, " * 100)
    elif kind == "foreign":
        make_foreign(path)
    elif kind == "newer":
        history(path).close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.mkdir()
    before = None if kind == "folder" else path.read_bytes()
    with pytest.raises(FileError, match=message) as caught:
        open_file(str(path))
    assert str(caught.value).startswith(f"history: {path}: ")
    assert before == (None if kind == "folder" else path.read_bytes())


def test_a_file_that_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file or directory"):
        open_for_writing(str(tmp_path / "none" / "history.db"), MEBIBYTE)


def test_reading_creates_no_file(path: Path) -> None:
    with pytest.raises(FileError, match="no such file or directory"):
        open_read_only(str(path))
    assert not path.exists()


def test_reading_beside_the_writer_and_never_writing(tmp_path: Path) -> None:
    path = tmp_path / "odd name? 100%#.db"
    writer = history(path, [closed()])
    reader = open_read_only(str(path))
    assert len(connections(reader, HistoryFilter())) == 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM connections")
    reader.close()
    writer.close()


# -- writing


def test_a_connection_has_the_values_of_its_record(path: Path) -> None:
    tcp = bytearray(struct.calcsize("=8x 4I 5I 4I 8I 2I I 4Q 2I 4I Q 3Q 2I 2Q 4I"))
    struct.pack_into("=I", tcp, 8 + 15 * 4, 25_000)  # rtt
    struct.pack_into("=I", tcp, 8 + 23 * 4, 7)  # retransmits
    record = closed(
        id=42, connected=100.25, first_down=100.5, client_end="fin", client_tcp=bytes(tcp),
        detail="caf\udce9",
    )  # fmt: skip
    db = history(path, [record])
    (found,) = connections(db, HistoryFilter())
    assert found["run_started_at"] == "2023-11-15T11:59:59.000+00:00"
    assert found["closed_at"] == "2023-11-15T12:00:00.000+00:00"
    assert found["detail"] == "caf?"
    assert (found["client_rtt_seconds"], found["client_retransmits"]) == (0.025, 7)
    assert (found["backend_rtt_seconds"], found["backend_retransmits"]) == (None, None)
    snapshot = record.snapshot(0.0)
    same = found.keys() & snapshot.keys() - {"detail"}
    assert same >= {"id", "client", "service", "reason", "code", "up", "down", "closed_at"}
    assert {name: found[name] for name in same} == {name: snapshot[name] for name in same}
    db.close()


def test_a_connection_has_its_pipe_and_its_facts(path: Path) -> None:
    record = closed(pipe="splice")
    record.set_fact("mqtt_client_id", "sensor-7")
    record.set_fact("clean", True)
    record.set_fact("odd", 'caf\udce9"\0')
    db = history(path, [record, closed()])
    plain, found = connections(db, HistoryFilter())
    assert (found["pipe"], plain["pipe"]) == ("splice", "stream")
    assert found["facts"] == {"mqtt_client_id": "sensor-7", "clean": True, "odd": 'caf?"\0'}
    assert "facts" not in plain
    for row in (plain, found):
        assert HistoryConnectionRow(**row).to_json() == row
    db.close()


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": [1]}', '{"a": null}'])
def test_facts_of_another_type_are_an_error_of_the_file(path: Path, text: str) -> None:
    db = history(path, [closed()])
    db.execute("UPDATE connections SET facts = ?", (text,))
    with pytest.raises(sqlite3.DatabaseError, match="no JSON object of plain values"):
        connections(db, HistoryFilter())
    db.close()


@pytest.mark.parametrize("text", ["{", "[]", "1", b"\xff", "[" * 100_000])
def test_damaged_facts_are_an_error_of_the_file(path: Path, text: object) -> None:
    db = history(path, [closed()])
    db.execute("UPDATE connections SET facts = ?", (text,))
    with pytest.raises(sqlite3.DatabaseError, match=r"no JSON object|is no text"):
        connections(db, HistoryFilter())
    with pytest.raises(sqlite3.DatabaseError):
        connections(db, HistoryFilter(condition=parse("tag:x", HISTORY_KEYS).to_sql()))
    db.close()


def test_a_batch_is_written_atomically(path: Path) -> None:
    db = history(path)
    db.execute("DROP TABLE counters")  # which are written last
    with pytest.raises(sqlite3.OperationalError, match="counters"):
        write(db, [closed(), refused()], {"web": Totals(1)}, RUN, [Stretch(1, 0.0, NOON)])
    for table in ("connections", "events", "hours", "refusals", "clock"):
        assert count(db, table) == 0
    db.close()


class Odd:
    """A fact that is no JSON."""


ITSELF: dict[str, Any] = {}
ITSELF["itself"] = ITSELF
UNWRITABLE: dict[str, dict[str, Any]] = {
    "a number beyond 64 bits": {"up": 1 << 63},
    "a lone surrogate": {"backend": "unix:/run/\udcff"},
    "a type that SQLite lacks": {"service": Odd()},
    "a fact that is no JSON": {"facts": {"odd": Odd()}},
    "a fact that refers to itself": {"facts": ITSELF},
    "tcp_info of another kernel": {"client_tcp": "x"},
}


@pytest.mark.parametrize("fields", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_row_that_cannot_be_written_costs_no_other(path: Path, fields: dict[str, Any]) -> None:
    db = history(path)
    batch = [closed(id=each) for each in range(1, 100)]
    fields = dict(fields)
    facts = fields.pop("facts", {})
    batch[10] = closed(**fields)
    batch[10]._facts = facts  # past the check of set_fact
    batch[70:72] = [closed(up=-1 << 70), refused(word="odd \ud800")]
    errors = write(db, batch, {"web": Totals(1), "big": Totals(1 << 63)}, RUN)
    assert len(errors) == 3
    found = [row[0] for row in db.execute("SELECT id FROM connections ORDER BY entry")]
    assert found == [each for each in range(1, 100) if each - 1 not in (10, 70, 71)]
    assert db.execute("SELECT sum(connections) FROM hours").fetchone() == (96,)
    assert count(db, "events") == count(db, "refusals") == 0
    assert {name: total.opened for name, total in load_totals(db).items()} == {"web": 1}
    db.close()


def test_rows_that_cannot_be_written_are_found_in_few_steps(path: Path) -> None:
    db = history(path)
    attempts: list[str] = []
    db.set_trace_callback(lambda statement: attempts.append(statement.split()[0]))
    batch = [closed(up=1 << 63) if each == 7_777 else closed() for each in range(10_000)]
    assert len(write(db, batch, {}, RUN)) == 1
    assert attempts.count("SAVEPOINT") <= 30
    assert attempts.count("COMMIT") == 1
    db.close()


@pytest.mark.parametrize("text", ["a\0b", "\0", "\u202e", "🎃"])
def test_odd_texts_are_stored_as_they_are(path: Path, text: str) -> None:
    db = history(path)
    assert (
        write(db, [closed(detail=text, service=text, backend=text)], {text: Totals(3)}, RUN) == []
    )
    (found,) = connections(db, HistoryFilter())
    assert (found["detail"], found["service"], found["backend"]) == (text, text, text)
    assert load_totals(db)[text].opened == 3
    db.close()


def test_hourly_sums(path: Path) -> None:
    db = history(path, [closed(), closed(NOON + 3599.9), closed(NOON + 3600)])
    write(db, [closed(), closed(reason="client_reset"), refused(), refused()], {}, RUN)
    sums = db.execute("SELECT hour - ?, reason, connections, up, down FROM hours", (NOON,))
    assert sums.fetchall() == [
        (0, "client_closed", 3, 30, 60),
        (0, "client_reset", 1, 10, 20),
        (3600, "client_closed", 1, 10, 20),
    ]  # fmt: skip
    assert db.execute("SELECT service, refusal, count FROM refusals").fetchall() == [
        ("web", "blocked", 2)
    ]
    db.close()


def test_events(path: Path) -> None:
    alarm = Alarm("silent", "web", "192.0.2.0/24", NOON + 2, False, "3 heartbeats missed")
    of_alarm = alarm.snapshot()
    del (
        of_alarm["name"],
        of_alarm["addresses"],
    )  # the device is stored, and what it is called is not
    db = history(
        path,
        [
            Event(NOON, "started", detail="monconn 1"),
            refused(NOON + 1),
            Event(NOON + 1, "refused", "web", word="rate", count=7),
            alarm,
        ],
    )
    assert events(db, HistoryFilter()) == [
        {"event": "alarm", **of_alarm},
        {
            "event": "refused", "at": "2023-11-15T12:00:01.000+00:00", "service": "web",
            "client": None, "client_ip": None, "refusal": "rate", "code": "PR", "count": 7,
        },
        {
            "event": "refused", "at": "2023-11-15T12:00:01.000+00:00", "service": "web",
            "client": "192.0.2.1:4711", "client_ip": "192.0.2.1", "refusal": "blocked",
            "code": "PR", "count": 1,
        },
        {"event": "started", "at": "2023-11-15T12:00:00.000+00:00", "detail": "monconn 1"},
    ]  # fmt: skip
    db.close()


def test_an_action_is_an_event(path: Path) -> None:
    actor = Actor.process(1000, 4242, "alice")
    action = Action("block", actor, NOON, None, "192.0.2.0/24", 3)
    db = history(path, [action, Action("unblock", actor, NOON + 1, "web", "192.0.2.0/24")])
    unblocked, blocked = events(db, HistoryFilter())
    assert blocked == {
        "event": "action", "at": "2023-11-15T12:00:00.000+00:00", "service": None,
        "action": "block", "actor": "uid 1000 (alice), pid 4242", "count": 3,
        "detail": action.describe(),
    }  # fmt: skip
    assert (unblocked["service"], unblocked["action"]) == ("web", "unblock")
    assert [row["action"] for row in events(db, HistoryFilter(reason="block"))] == ["block"]
    assert events(db, make_filter(events=True, client="0.0.0.0/0")) == []  # of no client
    for row in (unblocked, blocked):
        assert HistoryEventRow(**row).to_json() == {
            key: value for key, value in row.items() if value is not None
        }
    db.close()


def test_counters(path: Path) -> None:
    db = history(path)
    totals = {"web": Totals(3, 1, 2, Counter({"blocked": 4, "rate": 1})), "mqtt": Totals(1)}
    write(db, [], totals, RUN)
    write(db, [], {"web": Totals(5, 6, 7, Counter({"rate": 2}), Counter({"per_ip_rate": 3}))}, RUN)
    assert load_totals(db) == {
        "web": Totals(5, 6, 7, Counter({"rate": 2}), Counter({"per_ip_rate": 3})),
        "mqtt": Totals(1),
    }
    db.close()


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("192.0.2.1", b"\xc0\0\x02\x01"),
        ("2001:db8::1", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(13) + b"\x01"),
        ("2001:db8::/64", b"\x20\x01\x0d\xb8" + bytes(12)),
        ("unix", None),
        ("local", None),
    ],
)
def test_packed(ip: str, expected: bytes | None) -> None:
    assert packed(ip) == expected


def test_an_empty_file_is_used(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT, 0o640))
    history(path, [closed()]).close()
    assert path.stat().st_mode & 0o777 == 0o640


ROW_CALLS = 11


def test_calls_in_python_for_a_row() -> None:
    """The work for each connection cannot grow unnoticed, however fast the machine is."""
    record = closed()
    record.note_tcp("client", bytes(232), 1.0)
    record.note_tcp("backend", bytes(232), 1.0)
    _connection_row(record, RUN)  # from now on, what is looked up is cached
    assert calls_in_python(lambda: _connection_row(record, RUN)) <= 2 + ROW_CALLS


def test_durations_of_a_row_are_whole_microseconds() -> None:
    record = closed()
    record.connected = record.opened + 1 / 3
    assert 0.333333 in _connection_row(record, RUN)
