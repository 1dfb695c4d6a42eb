"""Every verb against servers that send rows and answers of any form."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.faces.cli.main import main
from monconn.ops.columns import Row
from monconn.ops.rows import (
    BlockRow,
    ClientRow,
    ConnectionRow,
    DeviceRow,
    HistoryConnectionRow,
    HistoryEventRow,
    NotifyRow,
    ReportRow,
    ServiceRow,
)
from monconn.ops.why_rows import WhyRow
from tests.faces.hostile import HostileServer, answer, box, hostile_server
from tests.properties import examples

VERBS: dict[tuple[str, ...], type[Row]] = {
    ("list",): ConnectionRow,
    ("list", "--closed"): ConnectionRow,
    ("list", "--json"): ConnectionRow,
    ("show", "1"): ConnectionRow,
    ("show", "1", "--json"): ConnectionRow,
    ("stats",): ServiceRow,
    ("stats", "web", "--json"): ServiceRow,
    ("ip",): ClientRow,
    ("devices",): DeviceRow,
    ("blocks",): BlockRow,
    ("why", "192.0.2.1"): WhyRow,
    ("events",): ConnectionRow,
    ("events", "--json"): ConnectionRow,
    ("history",): HistoryConnectionRow,
    ("history", "--csv"): HistoryConnectionRow,
    ("history", "--events"): HistoryEventRow,
    ("history", "--events", "--csv"): HistoryEventRow,
    ("report",): ReportRow,
    ("report", "--json"): ReportRow,
    ("close", "1", "--dry-run"): ConnectionRow,
    ("close", "1", "--json"): ConnectionRow,
    ("block", "192.0.2.1"): BlockRow,
    ("block", "192.0.2.1", "--for", "1h"): BlockRow,
    ("unblock", "192.0.2.1", "--json"): BlockRow,
    ("pause", "web", "--for", "1s"): ServiceRow,
    ("drain", "web", "--json"): ServiceRow,
    ("notify",): NotifyRow,
    ("notify", "test"): NotifyRow,
    ("reload",): ConnectionRow,
    ("reload", "--json"): ConnectionRow,
    ("shell", "list"): ConnectionRow,
}
SENT = ("rows", "connection", "report", "closed", "unknown", "changed", "until", "result")
USUAL: dict[str, Any] = {
    "text": "web",
    "count": 3,
    "bytes": 5,
    "bytes_per_second": 1.5,
    "seconds": 0.25,
    "time": "2026-11-23T01:02:03.456+00:00",
    "flag": True,
    "list": [],
    "object": {},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["", "\x1b[2J", "=1+1", "‮", 10**400, -1, float("inf"), "x" * 5000])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


def usual(row_class: type[Row]) -> dict[str, Any]:
    """A row as a server sends it."""
    row = {name: USUAL[column.unit] for name, column in row_class.fields().items()}
    extra: dict[str, Any] = {"event": "closed", "side": "client", "sid": "web", "at": USUAL["time"]}
    if row_class is ConnectionRow:
        extra |= {"client_tcp": None, "backend_tcp": None, "diagnosis": None}
    if row_class is WhyRow:
        rule = {"rule": "conn_limit", "refuses": True, "dry_run": False, "used": 3, "limit": 3}
        row["rules"] = [rule]
        auto_block = {"used": 1, "limit": 3, "of": [], "within_seconds": 1, "for_seconds": 1}
        row["auto_block"] = auto_block
    if row_class is NotifyRow:
        extra |= {"ok": True, "answer": "answered 200"}
    if row_class is ConnectionRow:  # and of a reload: its changes and their problems, and its head
        change = ["section", "key", "old", "new", "holds", "place", "path", "message", "source"]
        head = {key: ["web"] for key in ("added", "removed", "changed", "notes")}
        extra |= dict.fromkeys(change, "x") | head | {"line": 3, "file": "x", "dry_run": False}
    if row_class is ReportRow:
        extra |= {"duration_seconds": None, "connect_seconds": None}
    return row | extra


def run(*arguments: str, where: str) -> tuple[int, str]:
    """A verb's exit status and everything that it prints."""
    result = CliRunner().invoke(main, [*arguments, "--control", where])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def answer_with(server: HostileServer, row: Any, others: dict[str, str]) -> None:
    text = json.dumps(row)
    each = {
        "rows": f"[{text}]",
        "connection": text,
        "report": text,
        "closed": "1",
        "unknown": "[]",
        "changed": "True",
        "connections": "1",
        "result": text,
        "total": "1",
    }

    def send(request: dict[str, str]) -> Iterator[bytes]:
        yield answer(request, each | others)
        if request["_command"] == "Subscribe":
            yield box({"_command": "Event", "dropped": "0", "event": text, **others})
            raise OSError  # which has it close the connection

    server.answers = send


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    with hostile_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_usual_answer_is_shown(server: HostileServer, verb: tuple[str, ...]) -> None:
    if verb[0] == "shell":
        pytest.skip("there is no manhole")
    answer_with(server, usual(VERBS[verb]), {})
    status, output = run(*verb, where=server.where)
    # Events end with the connection.
    assert status == (3 if verb[0] == "events" else 0), output
    assert "cannot be understood" not in output


@settings(max_examples=examples(150), deadline=None)
@given(
    verb=st.sampled_from(list(VERBS)),
    change=st.dictionaries(st.integers(0, 60), values, max_size=4),
    left_out=st.sets(st.integers(0, 60), max_size=2),
    others=st.dictionaries(
        st.sampled_from(SENT),
        st.sampled_from(["", "7", "{}", "[]", "[7]", '["\\u001b"]', "null", "[" * 2000, "x"]),
        max_size=1,
    ),
    whole=st.none() | values,
)
@example(("list",), {8: 10**400}, set(), {}, None)
@example(("list",), {8: float("inf")}, set(), {}, None)
@example(("show", "1"), {33: {"rtt_seconds": "x"}}, set(), {}, None)
@example(("history", "--csv"), {2: "=cmd|' /C calc'!A0\x1b"}, set(), {}, None)
@example(("report",), {13: [{"client_ip": [], "up": None}]}, set(), {}, None)
@example(("report",), {11: {"a": -(10**12), "b": -1}}, set(), {}, None)
@example(("events",), {}, {1}, {}, "event")
@example(("stats", "web", "--json"), {}, set(), {"rows": "[]"}, None)
@example(("show", "1"), {}, set(), {}, {"\x1f": None})
@example(("reload",), {}, set(), {"result": '{"problems": 1}'}, None)
def test_whatever_a_server_sends_there_is_output_or_one_error(
    server: HostileServer,
    verb: tuple[str, ...],
    change: dict[int, Any],
    left_out: set[int],
    others: dict[str, str],
    whole: Any,
) -> None:
    row = usual(VERBS[verb])
    names = list(row)
    for place, value in change.items():
        row[names[place % len(names)]] = value
    for place in left_out:
        row.pop(names[place % len(names)], None)
    answer_with(server, row if whole is None else whole, others)
    status, output = run(*verb, where=server.where)
    assert status in (0, 1, 2, 3)
    assert all(line.isprintable() for line in output.split("\n"))


def test_a_cell_of_60_000_characters_leaves_the_table_bounded(server: HostileServer) -> None:
    row = usual(ConnectionRow) | {"client": "x" * 55_000}
    answer_with(server, row, {})
    status, output = run("list", where=server.where)
    assert status == 0
    assert max(map(len, output.splitlines())) < 1000


@pytest.mark.parametrize("verb", [("list",), ("list", "--json"), ("stats",), ("history", "--csv")])
def test_a_server_that_goes_away_between_pages(
    server: HostileServer, verb: tuple[str, ...]
) -> None:
    row = json.dumps(usual(VERBS[verb]))

    def send(request: dict[str, str]) -> Iterator[bytes]:
        if request["_command"] == "NextPage":
            raise OSError  # which has it close the connection
        yield answer(request, {"rows": f"[{row}]", "next": "1"})

    server.answers = send
    status, output = run(*verb, where=server.where)
    assert status == 3
    assert output.endswith("does not answer: it has closed the connection\n")


# -- arguments


@pytest.mark.parametrize("odd", ["\udcff", "\x1b[31m\nmonconn: fine", "", "x" * 120_000, "‮", "-1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "ODD"],
        ["list", "client:ODD"],
        ["list", "--client", "ODD"],
        ["list", "--service", "ODD"],
        ["list", "--state", "ODD"],
        ["list", "--idle-over", "ODD"],
        ["list", "--text", "ODD"],
        ["list", "--sort", "ODD"],
        ["list", "--limit", "ODD"],
        ["list", "--ODD"],
        ["show", "ODD"],
        ["show", "1", "ODD"],
        ["stats", "ODD"],
        ["stats", "web", "ODD"],
        ["ip", "ODD"],
        ["devices", "ODD"],
        ["blocks", "ODD"],
        ["why", "ODD"],
        ["close", "ODD"],
        ["close", "--client", "ODD"],
        ["block", "ODD"],
        ["unblock", "ODD", "--service", "ODD"],
        ["history", "ODD"],
        ["history", "--since", "ODD"],
        ["history", "--until", "ODD"],
        ["history", "--reason", "ODD"],
        ["history", "--limit", "ODD"],
        ["history", "--file", "ODD"],
        ["history", "--file", "ODD", "ODD"],
        ["report", "--since", "ODD"],
        ["report", "--client", "ODD"],
        ["report", "--file", "ODD"],
        ["events", "ODD"],
        ["shell", "ODD"],
        ["top", "ODD"],
        ["completion", "ODD"],
        ["check", "ODD"],
        ["ODD"],
        ["-ODD"],
        ["-c", "ODD"],
        ["-p", "ODD"],
        ["list", "--control", "ODD"],
        ["list", "--control", "unix:ODD"],
        ["list", "--control", "tls:ODD:1:a:b:c"],
    ],
    ids=" ".join,
)
def test_odd_arguments(server: HostileServer, arguments: list[str], odd: str) -> None:
    answer_with(server, usual(ConnectionRow) | {"sid": odd}, {})
    given_arguments = [each.replace("ODD", odd) for each in arguments]
    env = {"MONCONN_CONTROL": server.where}
    result = CliRunner().invoke(main, given_arguments, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert all(line.isprintable() for line in result.output.split("\n"))
    if arguments[0] not in ("check", "-c"):  # which name the file in each line
        assert len(result.stderr) < 5_000


def test_completion_offers_no_names_that_a_terminal_would_obey(server: HostileServer) -> None:
    answer_with(server, usual(ServiceRow) | {"sid": "w\x1b[2J"}, {})
    env = {"MONCONN_CONTROL": server.where, "_MONCONN_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": "monconn list service:w", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, [], env=env, prog_name="monconn").output == "\n"
    answer_with(server, usual(ServiceRow) | {"sid": "web"}, {"rows": "[7]"})
    assert CliRunner().invoke(main, [], env=env, prog_name="monconn").output == "\n"


def test_top_needs_a_terminal(server: HostileServer) -> None:
    answer_with(server, usual(ConnectionRow), {})
    status, output = run("top", where=server.where)
    assert status == 2
    assert output.startswith("monconn: top needs a terminal: ")


def test_a_socket_that_does_not_listen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert run("list", where=str(tmp_path / "s"))[0] == 3
