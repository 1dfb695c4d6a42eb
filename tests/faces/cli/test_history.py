"""Options of the verbs for a history; what they answer is in tests/e2e/test_records.py."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from click.testing import CliRunner, Result

from monconn.faces.cli import history as history_verbs
from monconn.faces.cli.history import parse_moment
from monconn.faces.cli.main import main
from monconn.model.record import ConnectionRecord
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow
from monconn.ops.sorting import sort_names
from monconn.sinks.history import query
from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import Event, write

SERVICE = {"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"}


def monconn(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def moment(text: str | None) -> float | None:
    nothing: Any = None
    return parse_moment(nothing, nothing, text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("2h", 7200), ("1d", 86400)])
def test_a_time_ago(text: str, seconds: float) -> None:
    assert moment(text) == pytest.approx(time.time() - seconds, abs=5)


def test_a_date_is_local_time_unless_it_says_which() -> None:
    local = datetime(2026, 1, 31, 8, 30).astimezone()
    assert moment("2026-01-31T08:30") == local.timestamp()
    assert moment("2026-01-31 08:30") == local.timestamp()
    elsewhere = datetime(2026, 1, 31, 8, 30, tzinfo=timezone(timedelta(hours=5)))
    assert moment("2026-01-31T08:30:00+05:00") == elsewhere.timestamp()
    utc = datetime(2026, 1, 31, 8, 30, tzinfo=timezone.utc)
    assert moment("2026-01-31T08:30Z") == utc.timestamp()


def test_no_time_given() -> None:
    assert moment(None) is None


@pytest.mark.parametrize("text", ["", "soon", "-2h", "2026-13-01", "0001-01-01"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is neither a time ago, such as 2h, nor a date"):
        moment(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("history", "--since", "soon"), "is neither a time ago"),
        (("history", "--csv", "--json"), "--csv or --json, not both"),
        (("history", "--limit", "0"), "0 is not in the range"),
        (("report", "--since", "soon"), "is neither a time ago"),
    ],
)
def test_mistakes_in_the_command(arguments: tuple[str, ...], message: str) -> None:
    result = monconn(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("verb", ["history", "report"])
def test_a_file_that_cannot_be_read(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    result = monconn(verb, "--file", str(path))
    assert result.stderr == f"monconn: history: {path}: no such file or directory\n"
    assert (result.exit_code, result.stdout) == (1, "")
    path.write_text("nonsense" * 100)
    result = monconn(verb, "--file", str(path))
    assert result.stderr == f"monconn: history: {path}: file is not a database\n"
    assert result.exit_code == 1


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv"], ["--events"]])
def test_a_history_whose_values_are_not_what_they_should_be(
    options: list[str], tmp_path: Path
) -> None:
    path = os.fspath(tmp_path / "history.db")
    db = open_for_writing(path, 1 << 30)
    for table in ("connections", "events"):
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        odd = ["\x1b[2J" if each not in ("entry", "at", "event") else 1 for each in names]
        marks = ", ".join("?" * len(names))
        db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", odd)
    db.commit()
    db.close()
    result = monconn("history", "--file", path, *options)
    assert result.exit_code in (0, 1)
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert isinstance(result.exception, SystemExit | None)


def test_an_empty_history(tmp_path: Path) -> None:
    path = str(tmp_path / "history.db")
    open_for_writing(path, 1 << 30).close()
    assert monconn("history", "--file", path).stdout.split() == [
        *("CLOSED", "CLIENT", "SERVICE", "REASON", "CODE", "UP", "DOWN", "LASTED", "DETAIL")
    ]
    assert monconn("history", "--file", path, "--csv").stdout.startswith(
        "run_started_at,id,service"
    )
    assert monconn("history", "--file", path, "--json").stdout == "[]\n"
    assert "connections  0, refused 0" in monconn("report", "--file", path).stdout
    result = monconn("history", "--file", path, "--client", "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith('monconn: "nonsense" is neither')
    result = monconn("history", "--file", path, "--reason", "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith('monconn: "nonsense" is none of client_closed, ')
    assert monconn("history", "--file", path, "--events", "--reason", "silent").exit_code == 0
    result = monconn("report", "--file", path, "--since", "1h", "--until", "2h")
    assert result.stderr == "monconn: there is no time between since and until\n"
    assert "connections  0" in monconn("report", "--file", path, "--until", "2d").stdout


def test_a_history_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    open_for_writing(str(path), 1 << 30).close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"x" * len(content[4096:])
    path.write_bytes(content)
    for verb in ("history", "report"):
        result = monconn(verb, "--file", str(path))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"monconn: history: {path}: ")
        assert "malformed" in result.stderr


def test_rows_beyond_the_limit_are_mentioned(tmp_path: Path) -> None:
    path = str(tmp_path / "history.db")
    db = open_for_writing(path, 1 << 30)
    write(db, [Event(time.time(), "started") for _ in range(1_001)], {}, 0.0)
    db.close()
    result = monconn("history", "--events", "--json", "--file", path)
    assert len(json.loads(result.stdout)) == 1_000
    assert result.stderr == "monconn: only the latest 1000 are shown: say --limit, or --until\n"
    result = monconn("history", "--events", "--json", "--file", path, "--limit", "1000")
    assert (len(json.loads(result.stdout)), result.stderr) == (1_000, "")


@pytest.fixture
def history_file(tmp_path: Path) -> str:
    path = str(tmp_path / "history.db")
    db = open_for_writing(path, 1 << 30)
    record = ConnectionRecord(
        id=1,
        service="web",
        client="192.0.2.7:51312",
        client_ip="192.0.2.7",
        listener=":80",
        backend="10.0.0.5:80",
        opened_at=time.time() - 90,
        opened=100.0,
        state="open",
    )
    other = attrs.evolve(record, id=2, client="[2001:db8::1]:7", client_ip="2001:db8::1", up=4096)
    record.set_fact("mqtt_client_id", "sensor-7")
    record.end("client_closed", 190.0)
    other.end("backend_reset", 103.0)
    for each in (record, other):
        each.closed, each.closed_at, each.state = each.ending, time.time(), "closed"
    refusal = Event(time.time(), "refused", "web", "192.0.2.9:7", "192.0.2.9", "ip_limit")
    write(db, [record, other, Event(time.time(), "started"), refusal], {}, 0.0)
    db.close()
    return path


@pytest.mark.parametrize(
    ("terms", "ids"),
    [
        ((), {1, 2}),
        (("reason:reset",), {2}),
        (("age:1m..", "client:192.0.2.0/24"), {1}),
        (("up:1KiB..", "--client", "192.0.2.0/24"), set()),
        (("not:client:192.0.2.7",), {2}),
        (("2001:db8::1",), {2}),
        (("mqtt_client_id:sensor-7",), {1}),
        (("fact.mqtt_client_id:sensor", "state:closed", "pipe:stream"), {1}),
        (("not:mqtt_client_id:sensor-7",), {2}),
        (("mqtt_client_id:sensor-8",), set()),
    ],
)
def test_filters_of_a_file(history_file: str, terms: tuple[str, ...], ids: set[int]) -> None:
    result = monconn("history", "--file", history_file, "--json", *terms)
    assert {row["id"] for row in json.loads(result.stdout)} == ids


def test_filters_of_events_in_a_file(history_file: str) -> None:
    result = monconn("history", "--file", history_file, "--events", "event:refused", "reason:limit")
    titles, row = result.stdout.splitlines()
    assert titles.split() == ["AT", "EVENT", "SERVICE", "CLIENT", "WHAT", "DETAIL"]
    assert row.split()[1:] == ["refused", "web", "192.0.2.9:7", "ip_limit", "-"]


def test_facts_are_in_json_where_there_are_any(history_file: str) -> None:
    result = monconn("history", "--file", history_file, "--json")
    facts = {row["id"]: row.get("facts") for row in json.loads(result.stdout)}
    assert facts == {1: {"mqtt_client_id": "sensor-7"}, 2: None}


@pytest.mark.parametrize("events", [(), ("--events",)])
def test_a_mistake_in_a_filter_of_a_file(history_file: str, events: tuple[str, ...]) -> None:
    result = monconn("history", "--file", history_file, *events, "raison:lost")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        'monconn: filter: unknown key "raison" in term 1 "raison:lost": did you mean reason?\n'
    )


def test_fields_of_rows() -> None:
    assert tuple(HistoryConnectionRow.fields()) == query.CONNECTION_KEYS
    assert tuple(HistoryEventRow.fields()) == query.EVENT_KEYS


def test_csv_of_a_file(history_file: str) -> None:
    head, row = monconn("history", "--file", history_file, "--csv", "id:2").stdout.splitlines()
    assert head == (
        "run_started_at,id,service,client,client_ip,backend,opened_at,closed_at,duration_seconds,"
        "connect_seconds,first_up_seconds,first_down_seconds,last_up_seconds,last_down_seconds,up,"
        "down,reason,phase,code,closed_by,client_end,backend_end,client_rtt_seconds,"
        "client_retransmits,backend_rtt_seconds,backend_retransmits,detail"
    )
    assert row.split(",")[1:4] == ["2", "web", "[2001:db8::1]:7"]


@pytest.mark.parametrize(
    ("sort", "ids"),
    [("up", [2, 1]), ("-up", [1, 2]), ("lasted", [1, 2]), ("client", [1, 2]), ("reason", [2, 1])],
)
def test_sorted_by_any_column(history_file: str, sort: str, ids: list[int]) -> None:
    result = monconn("history", "--file", history_file, "--json", "--sort", sort)
    assert [row["id"] for row in json.loads(result.stdout)] == ids
    result = monconn("history", "--file", history_file, "--json", "--sort", sort, "--limit", "1")
    assert [row["id"] for row in json.loads(result.stdout)] == ids[:1]


def test_every_order_of_a_history_is_one_of_the_file(history_file: str) -> None:
    for row_class, options in ((HistoryConnectionRow, []), (HistoryEventRow, ["--events"])):
        for name in sort_names(row_class):
            result = monconn("history", "--file", history_file, *options, "--sort", name)
            assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3), name


def test_figures_have_no_more_digits_than_the_clock(history_file: str) -> None:
    with closing(sqlite3.connect(history_file)) as db:
        db.execute(
            "UPDATE connections SET duration_seconds = 0.1 + 0.2, connect_seconds = 1e-5 / 3"
        )
        db.commit()
    made = monconn("history", "--file", history_file, "--csv", "id:2").stdout.splitlines()
    row = dict(zip(*(line.split(",") for line in made), strict=True))
    assert (row["duration_seconds"], row["connect_seconds"]) == ("0.3", "3e-06")
    (made_json,) = json.loads(monconn("history", "--file", history_file, "--json", "id:2").stdout)
    assert made_json["duration_seconds"] == 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a FIFO, and no regular file"),
        (lambda path: os.symlink("/dev/zero", path), "is a device, and no regular file"),
        (lambda path: Path(path).write_text("nonsense" * 100), "file is not a database"),
    ],
)
def test_what_is_no_history(tmp_path: Path, make: Callable[[str], object], message: str) -> None:
    path, config = str(tmp_path / "history.db"), tmp_path / "monconn.yaml"
    make(path)
    config.write_text(json.dumps({"services": {"a": SERVICE}, "history": {"path": path}}))
    for verb in ("history", "report"):
        result = monconn(verb, "--file", path)
        assert (result.exit_code, result.stderr) == (1, f"monconn: history: {path}: {message}\n")
    result = monconn("check", str(config))
    assert result.stderr.startswith(str(config))
    assert "history.path: " in result.stderr
    assert result.stderr.endswith(f"{message}\n")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("path", [":memory:", "file:history.db?mode=ro"])
def test_what_is_no_path_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "monconn.yaml"
    config.write_text(json.dumps({"services": {"a": SERVICE}, "history": {"path": path}}))
    result = monconn("check", str(config))
    assert "give the path of" in result.stderr
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == [config]


def test_check_creates_nothing(tmp_path: Path) -> None:
    path, config = tmp_path / "history.db", tmp_path / "monconn.yaml"
    config.write_text(json.dumps({"services": {"a": SERVICE}, "history": {"path": str(path)}}))
    assert monconn("check", str(config)).exit_code == 0
    assert not path.exists()
    db = open_for_writing(str(path), 1 << 30)
    files = sorted(tmp_path.iterdir())
    assert monconn("check", str(config)).exit_code == 0  # while another monconn writes it, too
    assert sorted(tmp_path.iterdir()) == files
    db.close()


def test_a_file_that_would_be_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_verbs, "_FILE_SECONDS", 0.0)
    path = str(tmp_path / "history.db")
    with closing(open_for_writing(path, 1 << 30)) as db:
        write(db, [Event(each, "started") for each in range(20_000)], {}, 0.0)
    result = monconn("history", "--events", "--file", path, "nowhere")
    message = "this took longer than 0 s: ask for a shorter period"
    assert result.stderr == f"monconn: history: {path}: {message}\n"
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_leap_of_the_clock_is_an_event(tmp_path: Path) -> None:
    path = str(tmp_path / "history.db")
    with closing(open_for_writing(path, 1 << 30)) as db:
        write(db, [Event(0.0, "clock", detail="was set back by 1h")], {}, 0.0)
    assert "clock" in monconn("history", "--events", "--file", path, "event:clock").stdout
    (event,) = json.loads(monconn("history", "--events", "--json", "--file", path).stdout)
    assert (event["event"], event["detail"]) == ("clock", "was set back by 1h")
