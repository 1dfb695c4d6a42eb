"""``monconn explain``: words without a running monconn, and connections with one or of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from monconn.faces.cli.main import main
from monconn.ops.explanations import EXPLANATIONS
from tests.faces.cli.test_inspect import Services, with_services
from tests.sinks.history.past import NOON, closed, history


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("MONCONN_CONTROL", raising=False)


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_a_reason_needs_no_running_monconn() -> None:
    result = explain("client_reset")
    assert result.exit_code == 0
    assert result.stdout.startswith("client_reset, reason (CC CD CL): the client reset the conn")
    for part in ("What usually causes it", "What to look at next", "SO_LINGER", "tcpdump"):
        assert part in result.stdout


def test_words_need_no_quotes() -> None:
    result = explain("connection", "refused")
    assert result.stdout.startswith("ECONNREFUSED, error: ")


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("CD",), "CD, how HAProxy"),
        (("--",), "--, how HAProxy"),
        (("--", "--"), "--, how HAProxy"),
        (("PR",), "PR, how HAProxy"),
    ],
)
def test_codes(arguments: tuple[str, ...], first: str) -> None:
    result = explain(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(first)


def test_all_words_with_a_line_each() -> None:
    lines = explain().stdout.splitlines()
    for each in EXPLANATIONS:
        assert any(line.split()[:1] == [each.word] for line in lines)


def test_json() -> None:
    found = json.loads(explain("blocked", "--json").stdout)
    assert [each["kind"] for each in found] == ["reason", "refusal"]
    assert found[0]["codes"] == ["PD", "PL"]
    assert found[0]["next"][0] == {
        "text": "What is blocked, by whom and why",
        "command": "monconn blocks",
    }
    assert json.loads(explain("--json", "--").stdout)["code"] == "--"
    assert len(json.loads(explain("--json").stdout)) == len(EXPLANATIONS)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("client_rest", "did you mean client_reset, "),
        ("cd", "did you mean CD, cD?"),
        ("pr", "did you mean PR?"),
        ("zz", "monconn explain lists all words"),
        ("\x1b[31m", "monconn explain lists all words"),
    ],
)
def test_an_unknown_word(word: str, hint: str) -> None:
    result = explain(word)
    assert (result.exit_code, result.stdout) == (2, "")
    assert hint in result.stderr
    assert "\x1b" not in result.stderr


def test_the_shell_completes_words() -> None:
    completed = ShellComplete(main, {}, "monconn", "_MONCONN_COMPLETE")
    found = completed.get_completions(["explain"], "client_")
    assert [each.value for each in found] == [
        *("client_closed", "client_reset", "client_lost", "client_identifier_not_valid"),
    ]
    words = [each.value for each in completed.get_completions(["explain"], "")]
    assert words.index("client_reset") < words.index("half_closed") < words.index("ECONNRESET")
    assert len(words) == len(set(words))


def test_a_connection_without_a_running_monconn() -> None:
    result = explain("42")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no monconn is running" in result.stderr


@with_services
def test_a_live_connection_and_one_closed_lately(services: Services) -> None:
    record = services.connections[0].record
    text = services.monconn("explain", str(record.id)).stdout
    assert text.startswith("The client 192.0.2.1:1024 at web is open, ")
    assert "had sent" not in text
    assert "open, state: both sides are connected" in text
    services.port.on_reactor(services.connections[0].end, "client_reset")
    text = services.monconn("explain", str(record.id)).stdout
    assert text.startswith("The client 192.0.2.1:1024 at web reset the connection after ")
    assert f"monconn show {record.id}" in text
    made = services.json("explain", str(record.id))
    assert made["connection"]["reason"] == "client_reset"
    assert [each["word"] for each in made["explanations"]] == ["client_reset"]
    assert "".join(made["account"]) != ""
    assert services.json("explain", record.uid)["connection"]["id"] == record.id


@with_services
def test_an_unknown_connection(services: Services) -> None:
    result = services.monconn("explain", "99999999")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "monconn: no connection has the id 99999999, or had it lately, and no history is stored\n"
    )


def test_a_connection_of_a_history(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    fields: dict[str, Any] = {"id": 7, "reason": "client_lost", "client_end": "timeout"}
    history(path, [closed(NOON, id=7), closed(NOON + 60, "192.0.2.9", **fields)]).close()
    result = explain("7", "--file", str(path))
    assert "The client 192.0.2.9:4711 at web vanished after 2.00s, on 2023-11-15" in result.stdout
    assert "monconn device 192.0.2.9" in result.stdout
    assert "this is the latest with the id 7, of the run since 2023-11-15" in result.stderr
    uid = closed(id=7).uid
    result = explain(uid, "--file", str(path))
    assert result.stdout.startswith("The client 192.0.2.9:4711")
    assert "uid:" not in result.stdout
    result = explain("8", "--file", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == "monconn: no connection has the id 8, or had it lately, nor in the history\n"
    )
