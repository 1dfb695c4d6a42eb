"""``monconn capture``."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner, Result

from monconn.config.config import load_file
from monconn.errors import ConfigError
from monconn.faces.cli.main import main
from monconn.policy.policy import Policy
from monconn.run.sources import load
from tests.faces.cli.test_inspect import Services, with_services

HEADS = ["ID", "FILTER", "STATE", "CONNS", "NOW", "BYTES", "LOST", "FILE", "SINCE", "UNTIL", "BY"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["capture", *arguments, "--control", "/nowhere"])


@with_services
def test_a_capture_is_started_listed_and_stopped(services: Services) -> None:
    result = services.monconn(
        "capture", "start", "service:web", "--first", "4KiB", "--for", "10m", "--connections", "3"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    folder = os.path.join(os.environ["XDG_STATE_HOME"], "monconn", "captures")
    assert result.stdout.splitlines() == [
        f"capture 1 of service:=web: the first 4.0 KiB of each direction, to files in {folder}",
        "monconn capture stop 1 ends it, monconn capture list shows it",
    ]
    (row,) = services.json("capture", "list")
    assert (row["id"], row["filter"], row["state"]) == (1, "service:=web", "waiting")
    assert (row["first"], row["folder"], row["file"]) == (4096, folder, None)
    assert row["by"].startswith(f"uid {os.getuid()} ")
    assert row["since"] < row["until"]
    head, line = services.lines("capture", "list", "--wide")
    assert head == HEADS
    assert line[:6] == ["1", "service:=web", "waiting", "0", "0", "0"]
    csv = services.monconn("capture", "list", "--csv").stdout.splitlines()
    assert csv[0].split(",")[:3] == ["id", "filter", "state"]
    result = services.monconn("capture", "stop", "1")
    assert (result.exit_code, result.stdout) == (
        0,
        "capture 1 has ended: 0 connections, 0 B\n",
    )
    assert [row["state"] for row in services.json("capture", "list")] == ["done"]


@with_services
def test_a_service_is_chosen_as_with_other_verbs(services: Services) -> None:
    services.monconn("capture", "start", "--service", "web", "--json")
    services.monconn("capture", "start", "--service", "web", "client:10.0.0.0/8")
    assert [row["filter"] for row in services.json("capture", "list")] == [
        "service:=web",
        "client:10.0.0.0/8 service:=web",
    ]


@with_services
def test_a_service_that_there_is_not_is_doubted(services: Services) -> None:
    result = services.monconn("capture", "start", "service:mqtt")
    assert (result.exit_code, result.stdout.split()[:4]) == (
        0,
        ["capture", "1", "of", "service:mqtt:"],
    )
    assert result.stderr == 'monconn: no service\'s name has "mqtt" in it: web, ssh\n'
    assert services.monconn("capture", "start", "service:web").stderr == ""


@with_services
def test_all_are_stopped_at_once(services: Services) -> None:
    assert services.monconn("capture", "stop", "--all").stdout == "no capture runs\n"
    for first in ("all", "0", "1KiB"):
        assert services.json("capture", "start", "--all", "--first", first)["filter"] == "all"
    assert [row["first"] for row in services.json("capture", "list")] == [0, 0, 1024]
    stopped = services.json("capture", "stop", "--all")
    assert [(row["id"], row["state"]) for row in stopped] == [(1, "done"), (2, "done"), (3, "done")]


@with_services
def test_forget_says_how_many_files_there_are(services: Services) -> None:
    folder = services.json("capture", "start", "--all")["folder"]
    services.monconn("capture", "stop", "--all")
    path = os.path.join(folder, "monconn-20200101T000000Z-000001.pcapng")
    for name in os.listdir(folder):  # of other tests
        os.unlink(os.path.join(folder, name))
    with open(path, "wb"):
        pass
    try:
        operations = services.port.service._factory.operations  # type: ignore[union-attr]
        operations.captures._is_open = False  # as after a restart
        services.json("capture", "start", "--all")
        result = services.monconn("forget", "192.0.2.1", "--dry-run")
        assert "  1 capture file may have bytes of it (monconn capture list)\n" in result.stdout
        (made,) = services.json("forget", "192.0.2.1", "--dry-run")
        assert made["capture_files"] == 1
    finally:
        os.unlink(path)


@with_services
def test_mistakes_have_a_status(services: Services) -> None:
    services.web.policy = Policy(payload="never")
    for arguments, status, text in (
        (["start", "nonsense:x"], 2, "nonsense"),
        (["start", "999999"], 1, "no live connection has the id 999999"),
        (["start", "service:web"], 1, "service web has payload: never"),
        (["start"], 2, "say which connections"),
        (["start", "--all", "service:web"], 2, "--all goes with no other choice"),
        (["start", "service:web", "--service", "ssh"], 2, "--service or a term service:"),
        (["start", "--all", "--service", "web"], 2, "--all goes with no other choice"),
        (["stop"], 2, "give the IDs of captures, or --all"),
        (["stop", "--all", "1"], 2, "give the IDs of captures, or --all"),
        (["stop", "7"], 1, "no capture 7 runs"),
    ):
        result = services.monconn("capture", *arguments)
        assert (result.exit_code, result.stdout) == (status, "")
        assert text in result.stderr
    result = services.monconn("capture", "start", "--all")
    assert result.exit_code == 0
    assert "service web is left out: it has payload: never" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "--all", "--first", "some"),
        ("start", "--all", "--for", "soon"),
        ("start", "--all", "--for", "0"),
        ("start", "--all", "--connections", "0"),
        ("stop", "web"),
        ("list", "--columns", "colour"),
    ],
)
def test_mistakes_are_told_before_a_server_is_asked(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        ("{filter: mqtt}", ":4: capture.filter: filter: "),
        ("{filter: 'servcie:web'}", ":4: capture.filter: filter: "),
        ("{filter: 'service:secret'}", ":4: capture.filter: service secret has payload: never"),
    ],
)
def test_a_file_is_checked_with_its_lines(
    tmp_path: os.PathLike[str], capture: str, problem: str
) -> None:
    file = os.path.join(tmp_path, "monconn.yaml")
    with open(file, "w") as written:
        written.write(
            "services:\n"
            "  web: {listen: '127.0.0.1:0', backend: ':9'}\n"
            "  secret: {listen: '127.0.0.1:0', backend: ':9', payload: never}\n"
            f"capture: {capture}\n"
        )
    assert load_file(file).config.capture is not None
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert problem in str(caught.value)
