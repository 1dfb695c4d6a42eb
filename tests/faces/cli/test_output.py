"""What verbs print: to streams that cannot show it or cannot take it, and for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.faces.cli import output
from monconn.faces.cli.main import main
from monconn.faces.cli.output import csv_cell, print_csv, print_json, print_rows
from monconn.ops.rows import ServiceRow
from tests.faces.hostile import HostileServer, answer, hostile_server
from tests.properties import examples

NAME = "日本 é \u202e\x1b[31m"
SERVICE = {"sid": NAME, "listen": ":80", "backend": "unix:/run/caf\udce9", "up": 5 << 30}
SIGNS = "─▏▁█ → 1 ± 2 × …"
SOURCE = "from monconn.faces.cli.main import main; main(prog_name='monconn')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    """Answers each listing with one row of any kind."""

    def send(request: dict[str, str]) -> Iterator[bytes]:
        rows = json.dumps([NAME] if request["_command"] == "ListIps" else [SERVICE])
        connection = json.dumps({"id": 1, "state": "open", "detail": SIGNS})
        yield answer(request, {"rows": rows, "connection": connection})

    with hostile_server(tmp_path_factory.mktemp("server")) as made:
        made.answers = send
        yield made


def monconn(server: HostileServer, *arguments: str, **how: Any) -> subprocess.CompletedProcess[Any]:
    """The command, in a process of its own."""
    env = {**os.environ, "MONCONN_CONTROL": server.where, **how.pop("env", {})}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run(
        [sys.executable, "-c", SOURCE, *arguments], env=env, check=False, timeout=60, **how
    )


# -- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_an_escape(server: HostileServer, encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding}
    shown = {
        "ascii": r"\u65e5\u672c \xe9 ",
        "latin-1": "\\u65e5\\u672c é ",
        "utf-8": "日本 é ",
    }[encoding]
    made = monconn(server, "stats", env=env)
    assert (made.returncode, made.stderr) == (0, b"")
    text = made.stdout.decode(encoding)
    assert shown + r"\u202e\x1b[31m" in text
    assert r"unix:/run/caf\udce9" in text
    made = monconn(server, "stats", "--json", env=env)
    assert (made.returncode, made.stderr) == (0, b"")
    assert json.loads(made.stdout.decode(encoding))[0]["sid"] == NAME
    assert made.stdout.strip().decode(encoding).isprintable()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "-|_# -> 1 +- 2 x ..."), ("latin-1", "-|_# -> 1 ± 2 × ..."), ("utf-8", SIGNS)],
)
def test_our_own_signs_have_forms_in_every_encoding(
    server: HostileServer, encoding: str, shown: str
) -> None:
    made = monconn(server, "show", "1", env={"PYTHONIOENCODING": encoding})
    assert (made.returncode, made.stderr) == (0, b"")
    assert shown in made.stdout.decode(encoding)


@pytest.mark.parametrize("arguments", [["liste\u20ac"], ["list", "--sort", "\u20ac"], ["--\u20ac"]])
@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}], ids=str
)
def test_a_mistake_in_the_command_is_told_in_ascii(
    server: HostileServer, arguments: list[str], env: dict[str, str]
) -> None:
    made = monconn(server, *arguments, env={**env, "PYTHONCOERCECLOCALE": "0"})
    assert made.returncode == 2
    assert made.stderr.isascii()
    assert b"Usage: " in made.stderr


def test_csv_is_utf_8_whatever_the_terminal(server: HostileServer) -> None:
    made = monconn(server, "history", "--csv", env={"PYTHONIOENCODING": "latin-1"})
    assert (made.returncode, made.stderr) == (0, b"")
    made.stdout.decode("utf-8")


# -- outputs that take nothing


@pytest.mark.parametrize(
    "arguments",
    [("stats", "--json"), ("history", "--csv"), ("--help",)],
    ids=" ".join,
)
def test_a_full_disk_is_an_error(server: HostileServer, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        made = monconn(server, *arguments, stdout=full)
    assert made.returncode == 1
    assert made.stderr == b"monconn: cannot write the output: no space left on device\n"


def test_a_closed_output_is_an_error(server: HostileServer) -> None:
    close = "import os; os.close(1); os.execv({0!r}, [{0!r}, '-c', {1!r}, *{2!r}])"
    for arguments in (["stats"], ["history", "--csv"]):
        made = subprocess.run(
            [sys.executable, "-c", close.format(sys.executable, SOURCE, arguments)],
            env={**os.environ, "MONCONN_CONTROL": server.where},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert made.returncode == 1
        assert made.stderr == b"monconn: cannot write the output: the standard output is closed\n"


def test_nothing_is_said_when_nobody_reads_any_more(server: HostileServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    made = monconn(server, "stats", stdout=writer)
    os.close(writer)
    assert (made.returncode, made.stderr) == (1, b"")


def test_errors_may_be_lost_but_are_no_reason_to_fail_otherwise(server: HostileServer) -> None:
    with Path("/dev/full").open("wb") as full:
        assert monconn(server, "stats", stdout=full, stderr=full).returncode == 1


# -- JSON


def test_json_is_printed_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    printed: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(100):
            printed.append(len(out.getvalue()))
            yield {"sid": f"{number}", "listen": "x" * 10_000}

    assert print_rows(ServiceRow, rows(), as_json=True) == 100
    assert [each["sid"] for each in json.loads(out.getvalue())] == [str(n) for n in range(100)]
    behind = [10_000 * number - each for number, each in enumerate(printed)]
    assert max(behind) <= output._CHUNK_CHARACTERS + 20_000


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 1}, {"b": [2, "\x9b"]}]])
def test_json_rows_are_one_line(rows: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert print_rows(ServiceRow, iter(rows), as_json=True) == len(rows)
    text = capfd.readouterr().out
    assert text == json.dumps(rows, ensure_ascii=False).replace("\x9b", r"\u009b") + "\n"


@settings(max_examples=examples(100))
@given(st.recursive(st.text(st.characters(exclude_categories=())), st.lists, max_leaves=5))
def test_json_is_right_and_printable(value: Any) -> None:
    for encoding in ("utf-8", "latin-1"):
        data = io.BytesIO()
        before, sys.stdout = sys.stdout, io.TextIOWrapper(data, encoding=encoding)
        try:
            print_json(value)
        finally:
            sys.stdout.detach()
            sys.stdout = before
        text = data.getvalue().decode(encoding)
        assert json.loads(text) == value
        assert text.rstrip("\n").isprintable()


# -- CSV


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, None),
        (-5, -5),
        (-0.25, -0.25),
        (0.1 + 0.2, 0.3),
        (True, True),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("", ""),
        ("=1+1", "'=1+1"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("--", "--"),  # the code of a connection that ended normally
        ("--1", "'--1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("\n=1", r"'\n=1"),
        ("＝1+1", "'＝1+1"),
        ("a=1", "a=1"),
        ("a\nb\x1b", r"a\nb\x1b"),
        (["=1"], "['=1']"),
    ],
)
def test_no_cell_is_a_formula(value: Any, cell: Any) -> None:
    assert csv_cell(value) == cell


@given(st.lists(st.text(st.characters(exclude_categories=())) | st.integers() | st.none()))
def test_csv_can_be_read_again(values: list[Any]) -> None:
    names = [f"c{number}" for number in range(len(values))]
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        assert print_csv(names, [dict(zip(names, values, strict=True)) | {"more": 1}]) == 1
        text = sys.stdout.getvalue()
    finally:
        sys.stdout = before
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == names
    if names:
        assert rows[1] == ["" if each is None else str(csv_cell(each)) for each in values]
    assert all(line.isprintable() for line in text.split("\n"))


def test_the_help_of_a_group_has_its_lines() -> None:
    result = CliRunner().invoke(main, ["capture"])
    shown = result.stdout + result.stderr
    assert "\\n" not in shown
    assert "Commands:\n" in shown
