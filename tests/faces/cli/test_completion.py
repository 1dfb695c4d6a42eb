"""Completion: the scripts for the shells, and what they are offered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from monconn.errors import ControlError
from monconn.faces.cli import completion
from monconn.faces.cli.main import main

from .test_inspect import Services, with_services

HANG_SECONDS = 60.0
_COMMAND = "import sys; sys.argv[0] = 'monconn'; from monconn.faces.cli.main import main; main()"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_MONCONN_COMPLETE" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_no_mistakes_of_syntax(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    checked = subprocess.run(
        [shell, "-n"], input=script, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def offered(shell: str, typed: str, control: str = "") -> list[str]:
    """What a shell is told.

    :param typed: the line up to the cursor.
    :param control: the server; without it, there is none.
    """
    words = typed.split(" ")
    environment = {
        "COMP_LINE": typed,
        "COMP_WORDS": typed,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
        "MONCONN_CONTROL": control,
        "XDG_RUNTIME_DIR": "/nonexistent",
    }
    kind = get_completion_class(shell)
    assert kind is not None
    with patch.dict(os.environ, environment):
        made = kind(main, {}, "monconn", "_MONCONN_COMPLETE").complete()
    return made.splitlines()


def in_bash(typed: str, control: str = "") -> list[str]:
    return [each.removeprefix("plain,") for each in offered("bash", typed, control)]


def test_completion_knows_the_verbs() -> None:
    assert in_bash("monconn bl") == ["block", "blocks"]


@pytest.mark.parametrize(
    ("typed", "values"),
    [  # bash makes each colon and each = a word, and replaces what follows it
        ("list cli", ["client:"]),
        ("list closed_by:o", ["operator"]),
        ("list closed_by:", ["client", "backend", "operator", "monconn"]),
        ("list closed_by:=o", ["operator"]),
        ("close up:1.. not:reason:client_l", ["client_lost"]),
        ("history rea", ["reason:"]),
        ("list not:cli", ["client:"]),
        ("tap mqtt_c", ["mqtt_client_id:", "mqtt_clean_start:", "mqtt_connack:"]),
        ("list not:http_h", ["http_host:"]),
        ("history protocol:p", ["postgresql"]),
        ("tap not:protocol:m", ["mqtt"]),
        ("blocks mqtt_c", []),  # have no facts
        ("list --state half", ["half_closed"]),
        ("history --reason client_l", ["client_lost"]),
        ("show ", []),  # nobody can be asked
        ("list service:", []),
        ("list --pid ", []),
    ],
)
def test_bash_completes_values(typed: str, values: list[str]) -> None:
    assert in_bash(f"monconn {typed}") == values


@pytest.mark.parametrize("typed", ["-c ", "check ", "history --file "])
def test_files_are_left_to_the_shell(typed: str) -> None:
    assert offered("bash", f"monconn {typed}x") == ["file,x"]


def test_zsh_and_fish_complete_filters() -> None:
    assert offered("zsh", "monconn list closed_by:o") == ["plain", "closed_by:operator", "_"]
    assert offered("fish", "monconn list closed_by:o") == ["plain,closed_by:operator"]


@with_services
def test_values_of_the_running_one_are_completed(services: Services) -> None:
    where = services.port.where
    web, web6, ssh = (str(each.record.id) for each in services.connections)
    assert in_bash("monconn list service:w", where) == ["web"]
    assert in_bash("monconn list service:w", f"{where}.gone") == []
    assert in_bash("monconn list --service ", where) == ["web", "ssh"]
    assert in_bash("monconn stats s", where) == ["ssh", "service:", "state:"]
    assert in_bash("monconn show ", where) == [web, web6, ssh]
    assert in_bash("monconn explain ", where)[-3:] == [web, web6, ssh]
    assert in_bash(f"monconn explain {web6}", where) == [web6]
    assert in_bash(f"monconn close {web6}", where)[0] == web6
    assert in_bash("monconn close ", where)[:4] == [web, web6, ssh, "id:"]
    assert in_bash(f"monconn list id:{web}", where)[0] == web
    assert in_bash("monconn list client:2001:", where) == ["db8::1"]
    assert in_bash("monconn block 192", where) == ["192.0.2.1"]
    web_record, _, ssh_record = (each.record for each in services.connections)
    for record, name in ((web_record, "pump-3"), (ssh_record, "valve-4")):
        record.set_fact("protocol", "mqtt")
        record.set_fact("mqtt_client_id", name)
    assert in_bash("monconn tap mqtt_client_id:pu", where) == ["pump-3"]
    services.lines("block", "10.0.0.0/8")
    assert in_bash("monconn unblock ", where) == ["10.0.0.0/8"]
    services.port.on_reactor(services.connections[0].end, "operator")
    services.port.on_reactor(services.connections[2].end, "operator")
    assert in_bash("monconn show ", where) == [web6, ssh, web]  # live, then the latest first
    assert in_bash("monconn close ", where)[:2] == [web6, "id:"]
    client = "[2001:db8::1]:1025 web open"
    assert offered("zsh", f"monconn show {web6}", where)[:3] == ["plain", web6, client]
    assert offered("fish", f"monconn show {web6}", where)[0] == f"plain,{web6}\t{client}"


@with_services
def test_ids_are_bounded_and_found_by_what_they_begin_with(services: Services) -> None:
    made = services.port.connections(services.ssh, *["192.0.2.9"] * 150)
    ids = [each.record.id for each in made]
    found = in_bash("monconn close ", services.port.where)
    assert sum(each.isdigit() for each in found) == completion.MOST_VALUES
    last = str(ids[-1])  # not among the first hundred
    assert last in in_bash(f"monconn show {last[:-1]}", services.port.where)


@with_services
def test_nothing_is_offered_that_a_shell_would_execute(services: Services) -> None:
    services.port.monitor("$(reboot)", listen=":1", backend=":2")
    services.port.monitor("a b", listen=":3", backend=":4")
    found = in_bash("monconn list --service ", services.port.where)
    assert found == ["web", "ssh"]


def test_no_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(where: str | None) -> str:
        raise ControlError("a folder of others")

    monkeypatch.setattr(completion, "find_server", fail)
    kind = completion.Bash(main, {}, "monconn", "_MONCONN_COMPLETE")
    assert kind.get_completions(["show"], "") == []
    assert [each.value for each in kind.get_completions(["list"], "clo")] == ["closed_by:"]
    monkeypatch.setattr(completion, "complete", None)  # a mistake of ours
    assert kind.get_completions(["list"], "clo") == []


# -- in bash itself


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "monconn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{_COMMAND}" "$@"\n')
    program.chmod(0o755)
    script = """
eval "$(monconn completion bash)"
complete -p monconn
compopt() { echo compopt "$@"; }
try() {
    COMP_LINE=$1 COMP_POINT=${#1}
    _monconn_completion "$2"
    (IFS=,; echo "${COMPREPLY[*]}")
}
try 'monconn bl' monconn
try 'monconn list cli' monconn
try "$HOME/monconn list closed_by:o" '~/monconn'
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.stderr == ""
    declared, *rest = done.stdout.splitlines()
    assert declared == "complete -o nosort -F _monconn_completion monconn"
    assert rest == ["block,blocks", "compopt -o nospace", "client:", "operator"]
