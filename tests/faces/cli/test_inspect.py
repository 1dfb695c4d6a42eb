"""The verbs that look into a running monconn: what they print, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread

from monconn.faces.cli.main import main
from monconn.monitor.monitor import Monitor
from tests import ROOT
from tests.faces.control.conftest import MadeUp, Port

EXAMPLE = ROOT / "examples" / "control_client.py"


@attrs.frozen
class Scene:
    """A control port with two services and three connections."""

    port: Port
    web: Monitor
    ssh: Monitor
    connections: list[MadeUp]

    def monconn(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--control", self.port.where])

    def lines(self, *words: str) -> list[list[str]]:
        """The words of each line that is printed."""
        result = self.monconn(*words)
        assert result.exit_code == 0, result.output
        return [line.split() for line in result.stdout.splitlines() if line.strip()]

    def json(self, *words: str) -> Any:
        result = self.monconn(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


def scene(play: Callable[[Scene], None]) -> Any:
    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def enter_and_play() -> None:
            with Port(tmp_path) as port:
                web = port.monitor("web", listen=":80", backend="10.0.0.5:80")
                ssh = port.monitor("ssh", listen=":22", backend="10.0.0.5:22")
                made = port.connections(web, "192.0.2.1", "2001:db8::1")
                made += port.connections(ssh, "192.0.2.1")
                made[0].record.up = 5734
                play(Scene(port, web, ssh, made))

        await deferToThread(enter_and_play)

    test.__name__ = play.__name__
    return test


@scene
def test_list_is_a_table(scene: Scene) -> None:
    head, _, *rows = scene.lines("list")
    assert head == [
        "ID",
        "CLIENT",
        "SERVICE",
        "STATE",
        "UP",
        "DOWN",
        "UP/S",
        "DOWN/S",
        "AGE",
        "IDLE",
    ]
    first = scene.connections[0].record
    assert rows[0][:7] == [str(first.id), "192.0.2.1:1024", "web", "open", "5.6", "KiB", "0"]
    assert rows[1][1] == "[2001:db8::1]:1025"  # brackets are no mark-up
    assert len(rows) == 3


@scene
def test_list_takes_filters(scene: Scene) -> None:
    def ids(*words: str) -> list[int]:
        return [row["id"] for row in scene.json("list", *words)]

    web, web6, ssh = (each.record.id for each in scene.connections)
    assert ids() == [web, web6, ssh]
    assert ids("--service", "ssh") == [ssh]
    assert ids("--client", "192.0.2.0/24") == [web, ssh]
    assert ids("--sort", "up", "--limit", "1") == [web]
    assert ids("--idle-over", "5m") == []
    assert ids("--state", "half_closed") == []
    assert scene.monconn("list", "--idle-over", "soon").exit_code == 2
    assert scene.monconn("list", "--sort", "colour").exit_code == 2
    failed = scene.monconn("list", "--client", "nonsense")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert failed.stderr.startswith('monconn: "nonsense" is neither')


@scene
def test_closed_ones_say_why(scene: Scene) -> None:
    record = scene.connections[0].record
    scene.port.on_reactor(scene.connections[0].end, "operator")
    head, _, row = scene.lines("list", "--closed")
    assert head == ["ID", "CLIENT", "SERVICE", "REASON", "CODE", "UP", "DOWN", "LASTED", "CLOSED"]
    assert row[:5] == [str(record.id), "192.0.2.1:1024", "web", "operator", "KD"]
    (shown,) = scene.json("list", "--closed")
    assert shown["reason"] == "operator"


@scene
def test_show(scene: Scene) -> None:
    id_ = str(scene.connections[0].record.id)
    assert ["up", "5734", "(5.6", "KiB)"] in scene.lines("show", id_)
    assert scene.json("show", id_)["up"] == 5734
    failed = scene.monconn("show", "987654321")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == "monconn: no connection has the id 987654321, or had it lately\n"


@scene
def test_stats(scene: Scene) -> None:
    _, _, web, ssh = scene.lines("stats")
    assert web[:6] == ["web", ":80", "10.0.0.5:80", "2", "2", "2"]
    assert ssh[0] == "ssh"
    assert [row["sid"] for row in scene.json("stats")] == ["web", "ssh"]
    shown = scene.json("stats", "web")
    assert shown["ips"] == ["192.0.2.1", "2001:db8::1"]
    assert shown["up"] == 5734
    assert scene.monconn("stats", "ftp").exit_code == 1


@scene
def test_ips_are_summed_up_over_services(scene: Scene) -> None:
    rows = {row["ip"]: row for row in scene.json("ip")}
    assert rows["192.0.2.1"]["connections"] == 2
    assert rows["192.0.2.1"]["up"] == 5734
    assert rows["2001:db8::1"]["total"] == 1
    assert "service" not in rows["192.0.2.1"]
    only = scene.json("ip", "--service", "ssh")
    assert [(row["ip"], row["connections"]) for row in only] == [("192.0.2.1", 1)]
    assert scene.lines("ip")[0][:3] == ["IP", "NOW", "TOTAL"]


@scene
def test_close(scene: Scene) -> None:
    first, second, third = scene.connections
    result = scene.monconn("close", str(first.record.id), "987654321")
    assert result.exit_code == 1
    assert result.stdout == "1 connection closed\n"
    assert result.stderr == "monconn: no live connection has the id 987654321\n"
    assert scene.lines("close", "--client", "2001:db8::/32", "--reset") == [
        ["1", "connection", "closed"]
    ]
    assert second.was_reset
    scene.lines("close", "--service", "ssh")
    assert [each.record.reason for each in (first, second, third)] == ["operator"] * 3
    assert scene.monconn("close").exit_code == 2
    assert scene.monconn("close", "1", "--service", "web").exit_code == 2


@scene
def test_deeds_in_json(scene: Scene) -> None:
    id_ = scene.connections[0].record.id
    many = [str(each) for each in range(10**8, 10**8 + 2500)]
    result = scene.monconn("close", str(id_), *many, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"closed": 1, "unknown": [int(each) for each in many]}
    assert scene.json("block", "10.0.0.1") == [{"network": "10.0.0.1", "changed": True}]
    assert scene.json("unblock", "10.0.0.2") == [{"network": "10.0.0.2", "changed": False}]


@scene
def test_what_others_say_does_nothing_to_the_terminal(scene: Scene) -> None:
    scene.connections[0].record.client = "\x1b]0;mine\x07"
    assert "\x1b" not in scene.monconn("list").stdout
    assert "\x1b" not in scene.monconn("show", str(scene.connections[0].record.id)).stdout


@scene
def test_nothing_is_said_in_a_word(scene: Scene) -> None:
    assert scene.monconn("list", "--closed").stdout == "none\n"
    assert scene.json("list", "--closed") == []


@scene
def test_block(scene: Scene) -> None:
    assert scene.monconn("block", "192.0.2.0/24", "192.0.2.0/24").stdout == (
        "192.0.2.0/24 is blocked\n192.0.2.0/24 was blocked already\n"
    )
    assert [each.record.reason for each in scene.connections] == ["blocked", None, "blocked"]
    scene.lines("block", "--service", "ssh", "10.0.0.1")
    assert scene.json("blocks") == [
        {"service": "web", "network": "192.0.2.0/24"},
        {"service": "ssh", "network": "10.0.0.1/32"},
        {"service": "ssh", "network": "192.0.2.0/24"},
    ]
    assert scene.lines("blocks")[2] == ["192.0.2.0/24", "web"]
    assert scene.monconn("unblock", "192.0.2.0/24", "10.9.9.9").stdout == (
        "192.0.2.0/24 is let in again\n10.9.9.9 was not blocked\n"
    )
    assert scene.monconn("block", "nonsense").exit_code == 2


@scene
def test_events(scene: Scene) -> None:
    """In a process of its own, which goes on until it is ended."""
    with watching(scene.port, "--json") as process:
        assert process.stdout is not None
        until_observed(scene.web)
        scene.port.on_reactor(scene.connections[0].end, "operator")
        event = json.loads(process.stdout.readline())
        assert (event["event"], event["reason"]) == ("closed", "operator")
        process.terminate()
    with watching(scene.port) as process:
        assert process.stdout is not None
        until_observed(scene.web)
        scene.port.connections(scene.web, "192.0.2.5")
        scene.port.on_reactor(scene.web.block, "192.0.2.5")
        lines = [process.stdout.readline().split(None, 1)[1] for _ in range(2)]
        assert lines[0].startswith("web: 192.0.2.5:1024 opened, id ")
        assert lines[1].startswith("web: 192.0.2.5:1024 blocked after 0.0")
        process.terminate()


def watching(port: Port, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from monconn.faces.cli.main import main; main()", "events"]
    return subprocess.Popen(
        [*command, *options, "--control", port.where], stdout=subprocess.PIPE, text=True
    )


def until_observed(monitor: Monitor) -> None:
    while not monitor._observers.by_hook["opened"]:
        pass


@scene
def test_a_client_of_nothing_but_sockets(scene: Scene) -> None:
    path = scene.port.where.removeprefix("unix:")
    shown = subprocess.run(
        [sys.executable, EXAMPLE, path], capture_output=True, text=True, check=True, timeout=30
    ).stdout.splitlines()
    record = scene.connections[0].record
    assert shown[0].startswith("monconn ")
    assert f"{record.id} 192.0.2.1:1024 open 5734 0" in shown
    assert len(shown) == 4


# -- which server


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["list"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert (
        result.stderr == f"monconn: no monconn is running: nobody answers in {tmp_path}/monconn\n"
    )
    result = CliRunner().invoke(main, ["list", "--control", f"unix:{tmp_path}/none"])
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("MONCONN_CONTROL", str(tmp_path / "elsewhere"))
    result = CliRunner().invoke(main, ["stats"])
    assert (result.exit_code, "elsewhere" in result.stderr) == (3, True)


@pytest.mark.parametrize("where", ["nonsense", "host:80", "tls:a:b", "tls:[::1]:7:c:k", ":"])
def test_an_address_that_is_none(where: str) -> None:
    result = CliRunner().invoke(main, ["list", "--control", where])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_MONCONN_COMPLETE" in result.stdout


def test_completion_knows_the_verbs() -> None:
    environment = {
        **os.environ,
        "_MONCONN_COMPLETE": "bash_complete",
        "COMP_WORDS": "monconn bl",
        "COMP_CWORD": "1",
    }
    command = "import sys; sys.argv[0] = 'monconn'; from monconn.faces.cli.main import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=30
    )
    assert found.stdout.split() == ["plain,block", "plain,blocks"]
