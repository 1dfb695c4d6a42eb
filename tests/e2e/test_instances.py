"""Several monconns at once, and one of them that is stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monconn.faces.cli.main import main

from .programs import Monconn, write_config


def monconn(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_several_are_listed_and_one_is_chosen(
    launch: Callable[..., Monconn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = {"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"}
    file = write_config(tmp_path, web=service, mqtt=service)
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    plain = launch("monconn", "-p", "127.0.0.1:0=127.0.0.1:9", env=env)
    plain.port()
    twistd = launch("twistd -n", "-c", file, env=env)
    twistd.port("mqtt")
    pids = [plain.program.process.pid, twistd.program.process.pid]
    listed = json.loads(monconn("ps", "--json").stdout)
    assert [each["pid"] for each in listed] == pids
    assert [each["services"] for each in listed] == [["127.0.0.1:0"], ["web", "mqtt"]]
    assert listed[0]["command"] == "monconn -p 127.0.0.1:0=127.0.0.1:9"
    assert (listed[0]["config"], listed[1]["config"]) == (None, str(file))
    assert listed[1]["command"].startswith("twistd --pidfile=")
    several = monconn("list")
    assert (several.exit_code, several.stdout) == (2, "")
    assert [line.split()[:2] for line in several.stderr.splitlines()[1:]] == [
        ["--pid", str(pid)] for pid in pids
    ]
    for option, value in (("--pid", str(pids[1])), ("--name", "mqtt"), ("--name", "monconn")):
        assert len(json.loads(monconn("stats", option, value, "--json").stdout)) == 2
    plain.send(signal.SIGSTOP)
    try:
        answers = [each["services"] for each in json.loads(monconn("ps", "--json").stdout)]
        assert answers == [None, ["web", "mqtt"]]
        assert monconn("stats", "--name", "web").exit_code == 0
        assert f"--pid {pids[0]}  (does not answer)" in monconn("list").stderr
    finally:
        plain.send(signal.SIGCONT)
