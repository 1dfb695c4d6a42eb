"""``monconn recording`` over a control port."""

from __future__ import annotations

import base64
import json
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from monconn.faces.control.client import Client
from monconn.faces.control.taps import PIECE_BYTES
from monconn.policy.policy import Policy
from monconn.policy.recorder import MOST_RECORDED_BYTES, RecorderSettings
from tests.ops.tapping import WatchableConnection

from .test_inspect import Services, with_services

BULK = random.Random(7).randbytes(3 * MOST_RECORDED_BYTES)


def recorded(services: Services, **settings: int) -> WatchableConnection:
    """A connection that has said something."""

    def make() -> WatchableConnection:
        services.web.apply(Policy.of(recorder=RecorderSettings(**settings)))
        connection = WatchableConnection(services.web).open()
        connection.data("up", b"hello \x1b[31m\xc3\xa4\n")
        connection.data("down", b"\x00\x01")
        return connection

    return services.port.on_reactor(make)


@with_services
def test_a_recording_is_a_hex_dump(services: Services) -> None:
    connection = recorded(services)
    result = services.monconn("recording", str(connection.record.id))
    assert result.exit_code == 0, result.output
    opened, head, dump, *_, end = result.stdout.splitlines()
    assert "opened, to 10.0.0.5:80" in opened
    assert "→ up 14 B" in head
    assert dump.startswith("00000000  68 65 6c 6c 6f 20 1b 5b")
    assert "still open" in end
    by_uid = services.monconn("recording", connection.record.uid).stdout.splitlines()
    assert by_uid[:-1] == result.stdout.splitlines()[:-1]  # the last one has the time


@with_services
def test_who_taps_too_late_is_told_where_the_bytes_are(services: Services) -> None:
    connection = recorded(services)
    services.port.on_reactor(connection.end, "client_reset")
    number = connection.record.id
    result = services.monconn("tap", str(number))
    assert (result.exit_code, result.stderr) == (
        1,
        f"monconn: no live connection has the id {number}:"
        f" monconn recording {number} has what was said\n",
    )


@with_services
def test_nothing_that_a_terminal_obeys_is_printed(services: Services) -> None:
    connection = recorded(services)
    for option in ("--text", "--json"):
        output = services.monconn("recording", str(connection.record.id), option).stdout
        assert "\x1b" not in output
        assert output.endswith("\n")


@with_services
def test_as_json_and_in_pages_all_bytes_arrive(services: Services) -> None:
    """A value on the wire has 65,535 bytes at most, and so chunks are parted."""
    most = MOST_RECORDED_BYTES
    connection = recorded(services, first=most, last=most)
    services.port.on_reactor(connection.data, "up", BULK)
    lines = services.monconn("recording", str(connection.record.id), "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    data = [event for event in events if event["event"] == "data" and event["direction"] == "up"]
    stream = b"hello \x1b[31m\xc3\xa4\n" + BULK
    for event in data:
        piece = base64.b64decode(event["data"])
        assert piece == stream[event["offset"] :][: len(piece)]
        assert len(piece) <= PIECE_BYTES
    assert sum(len(base64.b64decode(event["data"])) for event in data) == 2 * most
    assert [event["event"] for event in events].count("gap") == 1


@with_services
def test_as_pcapng(services: Services) -> None:
    wanted = str(recorded(services).record.id)
    with TemporaryDirectory() as folder:
        path = Path(folder, "there.pcapng")
        for _ in range(2):  # it may be written again
            result = services.monconn("recording", wanted, "--pcap", str(path))
            assert (result.exit_code, result.stdout) == (0, ""), result.output
        assert path.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
        assert os.stat(path).st_mode & 0o777 == 0o600
        missing = services.monconn("recording", wanted, "--pcap", f"{folder}/no/x")
    assert missing.exit_code == 1
    assert "cannot write" in missing.output
    piped = services.monconn("recording", wanted, "--pcap", "-")
    assert piped.stdout_bytes.startswith(b"\x0a\x0d\x0d\x0a")
    assert b"hello \x1b[31m" in piped.stdout_bytes


@with_services
def test_what_cannot_be_shown_is_said(services: Services) -> None:
    connection = recorded(services)
    live = services.connections[0].record.id
    for arguments, status, message in (
        ([str(live)], 1, "before its service had a recorder"),
        (["999999999"], 1, "no connection has the id"),
        (["what"], 2, "is no id"),
        ([str(connection.record.id), "--text", "--json"], 2, "one of them"),
        ([str(services.connections[2].record.id)], 1, "no recorder"),
    ):
        result = services.monconn("recording", *arguments)
        assert (result.exit_code, message in result.output) == (status, True), result.output
        assert "Traceback" not in result.output


@with_services
def test_an_older_server_is_told_so(services: Services) -> None:
    connection = recorded(services)
    greet = Client._greet

    def without(self: Client) -> dict[str, str]:
        hello = greet(self)
        del hello["recordings"]
        return hello

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_greet", without)
        result = services.monconn("recording", str(connection.record.id))
    assert result.exit_code == 1
    assert "too old for recordings" in result.output
