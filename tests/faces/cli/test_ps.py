"""Which running monconn is meant: what is derived of each, and the options that choose."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from monconn.errors import MonconnError
from monconn.faces.cli.main import main
from monconn.faces.control import instances
from monconn.faces.control.client import Client, NoServer, SeveralServers, find_server
from monconn.faces.control.instances import Answer, Instance


def instance(*command: str, pid: int | None = 1) -> Instance:
    return Instance(f"/run/{pid}", pid, command)


@pytest.mark.parametrize(
    ("command", "short"),
    [
        (("/opt/x/bin/python3.11", "/opt/x/bin/monconn", "-c", "a.yaml"), "monconn -c a.yaml"),
        (("/usr/bin/monconn", "demo"), "monconn demo"),
        (("python", "/bin/twistd", "-n", "monconn", "-c", "b"), "twistd -n monconn -c b"),
        (("python",), "python"),
        (("/bin/monconn", "-c", "a\nb\x1b"), r"monconn -c a\nb\x1b"),
        ((), ""),
    ],
)
def test_the_command_is_shown_as_it_was_typed(command: tuple[str, ...], short: str) -> None:
    assert instance(*command).short_command == short


@pytest.mark.parametrize(
    "options", [("-c", "/etc/m/mqtt.yaml"), ("-c/etc/m/mqtt.yaml",), ("--config=/etc/m/mqtt.yaml",)]
)
def test_a_file_has_three_names(options: tuple[str, ...]) -> None:
    made = instance("monconn", *options)
    assert made.config_file == "/etc/m/mqtt.yaml"
    assert all(made.runs_file(name) for name in ("/etc/m/mqtt.yaml", "mqtt.yaml", "mqtt"))
    assert not made.runs_file("mq")
    assert not instance("monconn", "-p", "mqtt=mqtt").runs_file("mqtt")


def test_services_are_as_many_as_there_is_room_for() -> None:
    assert Answer().services_text() == "(does not answer)"
    assert Answer("monconn 1", []).services_text() == "(no services)"
    assert Answer("monconn 1", ["web", "a\nb"]).services_text() == r"web, a\nb"
    many = [f"service-{number}" for number in range(50)]
    assert Answer("monconn 1", many).services_text() == "service-0, service-1 and 48 more"


class Choice:
    """Instances that are made up."""

    def __init__(self, **made: tuple[Instance, Answer]) -> None:
        self.made = list(made.values())

    def running(self) -> list[Instance]:
        return [each for each, _ in self.made]

    def ask(self, asked: list[Instance]) -> list[tuple[Instance, Answer]]:
        return [(each, said) for each, said in self.made if each in asked]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice(
        first=(instance("monconn", "-c", "a.yaml", pid=11), Answer("monconn 1", ["web", "both"])),
        second=(instance("monconn", "-c", "web.yaml", pid=12), Answer("monconn 1", ["both"])),
    )
    monkeypatch.setattr(instances, "running", choice.running)
    monkeypatch.setattr(instances, "ask", choice.ask)


@pytest.mark.usefixtures("two")
def test_one_is_chosen_by_pid_service_or_file() -> None:
    assert find_server("pid:11") == "/run/11"
    assert find_server("name:web") == "/run/11"  # a service goes before a file
    assert find_server("name:web.yaml") == "/run/12"
    assert find_server("/elsewhere") == "/elsewhere"


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("where", "error", "begins"),
    [
        (None, SeveralServers, "2 monconns are running; say which:"),
        ("name:both", SeveralServers, "2 monconns are running; say which:"),
        ("pid:13", NoServer, "no running monconn has the pid 13; there are:"),
        ("name:x\x1b", NoServer, r"no running monconn has a service or a file x\x1b; there are:"),
        ("pid:x", MonconnError, "pid:x is no process id"),
    ],
)
def test_a_choice_that_fails_lists_those_that_run(
    where: str | None, error: type[MonconnError], begins: str
) -> None:
    with pytest.raises(error) as caught:
        find_server(where)
    head, *lines = str(caught.value).splitlines()
    assert head == begins
    if where != "pid:x":
        assert [line.split() for line in lines] == [
            ["--pid", "11", "web,", "both", "monconn", "-c", "a.yaml"],
            ["--pid", "12", "both", "monconn", "-c", "web.yaml"],
        ]


@pytest.mark.usefixtures("two")
def test_the_options_of_each_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*arguments])
        return result.exit_code, result.stderr

    for verb in (["list"], ["top"], ["report"], ["shell"], ["show", "1"]):
        assert status(*verb, "--pid", "13")[0] == 3
        assert status(*verb)[0] == 2
    assert status("list", "--pid", "11") == (
        3,
        "monconn: nobody answers at /run/11: no such file or directory\n",
    )
    monkeypatch.setenv("MONCONN_CONTROL", "/elsewhere")  # gives way to what is typed
    assert "/run/12" in status("list", "--name", "web.yaml")[1]
    assert "/elsewhere" in status("list")[1]
    code, text = status("list", "--pid", "11", "--name", "web")
    assert (code, "--control, --pid and --name: one of them" in text) == (2, True)
    assert status("list", "--control", "/x", "--pid", "11")[0] == 2


def test_lines_fit_into_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        str(number): (
            Instance("/run/x", 5, ("monconn", "-c", "x" * 200)),
            Answer("monconn 1", ["service-with-a-long-name", "and-another"]),
        )
        for number in range(30)
    }
    choice = Choice(**made)
    monkeypatch.setattr(instances, "running", choice.running)
    monkeypatch.setattr(instances, "ask", lambda asked: [(each, Answer()) for each in asked])
    with pytest.raises(SeveralServers) as caught:
        find_server(None)
    lines = str(caught.value).splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[1].startswith("  --control /run/x  ")  # as the process id is no choice
    assert lines[-1] == "  and 10 more: monconn ps"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "monconn"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def mute(runtime: Path) -> Iterator[Any]:
    """Sockets that let clients connect, and answer nothing."""
    sockets = []
    for number in range(20):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(runtime / f"control-{number}.sock"))
        listener.listen(8)
        sockets.append(listener)
    yield sockets
    for listener in sockets:
        listener.close()


@pytest.mark.usefixtures("mute")
def test_those_that_do_not_answer_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    waited: list[float] = []

    class Waiting(Client):
        def __init__(self, where: str, answer_seconds: float | None = None) -> None:
            at_once.append(threading.active_count())
            waited.append(answer_seconds or 0.0)
            super().__init__(where, 0.05)

    monkeypatch.setattr(instances, "Client", Waiting)
    result = CliRunner().invoke(main, ["ps"])
    assert result.exit_code == 0
    rows = result.stdout.splitlines()[1:]
    assert len(rows) == 20
    assert all("(does not answer)" in row for row in rows)
    assert set(waited) == {instances.ASK_SECONDS}
    assert max(at_once) > 2  # not one after the other


@pytest.mark.usefixtures("mute")
def test_how_many_are_not_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_client(*_: object) -> None:
        raise NoServer("x")

    monkeypatch.setattr(instances, "Client", no_client)
    monkeypatch.setattr(instances, "MOST_ASKED", 18)
    result = CliRunner().invoke(main, ["ps"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1 + 18
    assert result.stderr == "monconn: 2 more run: only the first 18 are asked\n"
    with pytest.raises(NoServer, match="of 18 that were asked for their services, of 20; there"):
        find_server("name:web")
    monkeypatch.setattr(instances, "MOST_ASKED", 20)
    assert CliRunner().invoke(main, ["ps"]).stderr == ""


def test_none_runs(runtime: Path) -> None:
    result = CliRunner().invoke(main, ["ps"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert "start one: monconn -p LISTEN=BACKEND" in result.stderr
    result = CliRunner().invoke(main, ["ps", "--json"])
    assert (result.exit_code, result.stdout) == (3, "[]\n")


def test_when_this_process_began(runtime: Path, mute: list[socket.socket]) -> None:
    (first, *_) = instances.running()
    assert first.pid is not None
    assert first.started_at is None or 0 <= time.time() - first.started_at < 24 * 3600
    assert first.command
