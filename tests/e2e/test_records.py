"""Records of connections, by the real command: JSON log, history, devices, metrics."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from .programs import HANG_SECONDS, SCRIPTS, Backend, Monconn, connect, receive, until

WORDS = (
    *("reason", "code", "closed_by", "client_end", "backend_end", "up", "down", "client", "pipe"),
)


@attrs.define
class World:
    """monconn with every section, and a folder with its files."""

    folder: Path
    monconn: Monconn

    @property
    def control(self) -> str:
        return f"unix:{self.folder / 'control'}"

    def ask(self, *arguments: str, status: int = 0) -> str:
        """What a verb prints."""
        ran = subprocess.run(
            [SCRIPTS / "monconn", *arguments],
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert ran.returncode == status, ran.stderr
        return ran.stdout if status == 0 else ran.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ask(*arguments, "--json", "--control", self.control))

    def log(self) -> list[dict[str, Any]]:
        """The lines of the JSON log."""
        path = self.folder / "log.json"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def metrics(self) -> str:
        port = self.monconn.log.wait_for(r"metrics at http://127\.0\.0\.1:(\d+)/metrics")[1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=HANG_SECONDS) as page:
            text: str = page.read().decode()
            return text


@pytest.fixture(params=["monconn", "twistd -n"])
def world(
    request: pytest.FixtureRequest,
    launch: Callable[..., Monconn],
    echo_port: int,
    tmp_path: Path,
) -> World:
    config = {
        "services": {"web": {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}},
        "control": {"listen": f"unix:{tmp_path / 'control'}"},
        "json_log": {"path": str(tmp_path / "log.json"), "at_open": True},
        "history": {"path": str(tmp_path / "history.sqlite")},
        "metrics": {"listen": "127.0.0.1:0"},
    }
    (tmp_path / "monconn.yaml").write_text(json.dumps(config))
    how = "-c" if request.param == "monconn" else "--config"
    return World(tmp_path, launch(request.param, how, tmp_path / "monconn.yaml"))


def talk(world: World, count: int = 5) -> None:
    with connect(world.monconn.port()) as client:
        client.sendall(b"x" * count)
        assert receive(client, count) == b"x" * count
        client.shutdown(1)
        assert client.recv(1) == b""


def test_the_same_terms_in_every_output(world: World) -> None:
    talk(world)
    until(lambda: [each["event"] for each in world.log()] == ["opened", "closed"])
    logged = world.log()[-1]
    (listed,) = world.json("list", "--closed")
    (stored,) = until(lambda: world.json("history"))
    for row in (logged, listed, stored):
        assert {word: row[word] for word in WORDS} == {
            "reason": "client_closed",
            "code": "--",
            "closed_by": "client",
            "client_end": "fin",
            "backend_end": "fin",
            "up": 5,
            "down": 5,
            "client": listed["client"],
            "pipe": listed["pipe"],
        }
    metrics = world.metrics()
    assert re.search(
        r'^monconn_connections_closed_total\{reason="client_closed",service="web"\} 1',
        metrics,
        re.M,
    )
    assert re.search(r'^monconn_bytes_total\{direction="up",service="web"\} 5', metrics, re.M)
    assert world.monconn.stop() == 0


def test_show_includes_tcp_info_and_the_diagnosis(world: World) -> None:
    with connect(world.monconn.port()) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        (live,) = world.json("list")
        details = world.json("show", str(live["id"]))
        assert details["client_tcp"]["segments_sent"] == 1
        assert details["backend_tcp"]["retransmits"] == 0
        assert 0 < details["first_up_seconds"] <= details["first_down_seconds"]
        text = world.ask("show", str(live["id"]), "--control", world.control)
    assert details["diagnosis"]["looks_like"] in text
    assert re.search(r"^client TCP  .*sent again 0 of 1 segments", text, re.M)
    assert len(re.findall(r"^because ", text, re.M)) == 3


def test_the_history_can_be_read_after_monconn_has_ended(world: World) -> None:
    for count in (5, 6, 7):
        talk(world, count)
    until(lambda: len(world.json("history", "--since", "1h")) == 3)
    asked = world.json("history")
    assert world.json("history", "--reason", "operator") == []
    assert world.json("history", "--client", "10.0.0.0/8") == []
    assert world.json("report")["connections"] == 3
    (device,) = world.json("devices")
    assert (device["device"], device["total"], device["up"]) == ("127.0.0.1", 3, 18)
    assert world.monconn.stop() == 0

    file = str(world.folder / "history.sqlite")
    assert json.loads(world.ask("history", "--file", file, "--json")) == asked
    rows = list(csv.DictReader(io.StringIO(world.ask("history", "--file", file, "--csv"))))
    assert [row["up"] for row in rows] == ["7", "6", "5"]
    events = json.loads(world.ask("history", "--file", file, "--events", "--json"))
    assert [each["event"] for each in events] == ["stopped", "action", "started"]
    assert (events[1]["action"], events[1]["actor"]) == ("stop", "signal SIGTERM")
    text = world.ask("report", "--file", file)
    assert "connections  3, refused 0" in text
    assert re.search(r"^  client_closed  █+ +3$", text, re.M)
    assert "no such" in world.ask("report", "--file", f"{file}.gone", status=1)


@pytest.mark.parametrize("how", ["monconn", "twist", "twistd -n"])
def test_the_json_log_can_go_to_standard_output(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path, how: str
) -> None:
    config = {
        "services": {"web": {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}},
        "json_log": {"path": "stdout"},
    }
    (tmp_path / "monconn.yaml").write_text(json.dumps(config))
    option = "-c" if how == "monconn" else "--config"
    monconn = launch(how, option, tmp_path / "monconn.yaml")
    connect(monconn.port()).close()
    line = monconn.program.out.wait_for(r'(\{"schema": ?2.*"client_closed".*\})')[1]
    assert json.loads(line)["event"] == "closed"
    assert monconn.stop() == 0


def test_the_log_is_written_anew_after_a_signal(world: World) -> None:
    talk(world)
    until(lambda: len(world.log()) == 2)
    (world.folder / "log.json").rename(world.folder / "log.json.1")
    world.monconn.send(signal.SIGUSR1)
    until((world.folder / "log.json").exists)
    talk(world)
    until(lambda: len(world.log()) == 2)
    assert world.monconn.stop() == 0
    assert len((world.folder / "log.json.1").read_text().splitlines()) == 2


def test_a_client_without_a_backend_is_in_the_history(
    world: World, serve: Callable[..., Backend]
) -> None:
    with connect(world.monconn.port()) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        (live,) = world.json("list")
        world.ask("close", str(live["id"]), "--control", world.control)
        assert client.recv(1) == b""
    (stored,) = until(lambda: world.json("history", "--reason", "operator"))
    assert (stored["code"], stored["closed_by"]) == ("KD", "operator")


def test_without_a_history_the_message_says_how_to_enable_one(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path
) -> None:
    config = {
        "services": {"web": {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}},
        "control": {"listen": f"unix:{tmp_path / 'control'}"},
    }
    (tmp_path / "monconn.yaml").write_text(json.dumps(config))
    world = World(tmp_path, launch("monconn", "-c", tmp_path / "monconn.yaml"))
    world.monconn.port()
    said = world.ask("history", "--control", world.control, status=1)
    assert said == "monconn: no history is stored: docs/history.md says how to have one\n"
    titles = world.ask("devices", "--control", world.control)
    assert titles.startswith("DEVICE ")
    assert titles.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"json_log": {"path": "/no/such/folder/x"}}, "json_log: /no/such/folder/x: "),
        ({"history": {"path": "/no/such/folder/x"}}, "history: /no/such/folder/x: no such file"),
        ({"metrics": {"listen": "192.0.2.1:9"}}, "metrics: cannot listen on 192.0.2.1:9: "),
    ],
)
@pytest.mark.parametrize("how", ["monconn", "twist", "twistd -n"])
def test_unavailable_files_and_ports_are_reported_at_the_start(
    launch: Callable[..., Monconn],
    tmp_path: Path,
    how: str,
    section: dict[str, Any],
    message: str,
) -> None:
    services = {"web": {"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"}}
    (tmp_path / "monconn.yaml").write_text(json.dumps({"services": services, **section}))
    option = "-c" if how == "monconn" else "--config"
    monconn = launch(how, option, tmp_path / "monconn.yaml")
    assert monconn.status() == 1
    assert f"monconn: {message}" in str(monconn.program.err)
    assert "Traceback" not in str(monconn.program.out) + str(monconn.program.err)
