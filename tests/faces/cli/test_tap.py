"""``monconn tap``: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from monconn.faces.cli import tap as tap_verb
from monconn.faces.cli.main import main
from monconn.model import flow
from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from tests.faces.control.conftest import Port
from tests.faces.hostile import HELLO, HostileServer, answer, box, hostile_server
from tests.ops.tapping import WatchableConnection
from tests.properties import examples
from tests.relay.world import until

from .test_hostile import run, values

HOSTILE = b"\x1b]0;owned\x07\x1b[2J\xff\x00\r\n"


@attrs.frozen
class Running:
    """A control port with one service and one connection."""

    port: Port
    mqtt: Monitor
    live: WatchableConnection
    folder: Path

    def monconn(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["tap", *arguments, "--control", self.port.where])

    def start(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """The verb in a process."""
        program = "from monconn.faces.cli.main import main; main()"
        command = [sys.executable, "-c", program, "tap", "--control", self.port.where]
        return subprocess.Popen([*command, *arguments], stdout=stdout, stderr=subprocess.PIPE)

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The verb in a process, once it has put its tap on."""
        with self.start(*arguments) as process:
            try:
                assert process.stderr is not None
                assert process.stderr.readline().startswith(b"tapping")
                yield process
            finally:
                process.kill()

    def during(self, play: Callable[[], None], *arguments: str, status: int = 0) -> Result:
        """What the verb writes while things happen, until the connection has ended."""

        def play_and_end() -> None:
            until(lambda: self.live.is_watched)
            play()
            self.port.on_reactor(self.live.end, "client_closed")

        playing = Thread(target=play_and_end)
        playing.start()
        result = self.monconn(*arguments)
        playing.join()
        assert result.exit_code == status, result.output
        return result

    def talk(self) -> None:
        """A question, and an answer that a terminal would obey."""
        self.port.on_reactor(self.live.data, "up", "grüße\n".encode())
        self.port.on_reactor(self.live.data, "down", HOSTILE)


def running(check: Callable[[Running], None]) -> Any:
    """A test that runs in a thread, with a control port on the running reactor."""

    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def run() -> None:
            with Port(tmp_path) as port:
                mqtt = port.monitor("mqtt", backend="10.0.0.1:1883")
                live = port.on_reactor(lambda: WatchableConnection(mqtt).open())
                check(Running(port, mqtt, live, tmp_path))

        await deferToThread(run)

    test.__name__ = check.__name__
    return test


@running
def test_a_hex_dump_without_colours_in_a_pipe(running: Running) -> None:
    result = running.during(running.talk, str(running.live.record.id))
    lines = result.stdout.splitlines()
    assert len(lines) == 7
    assert lines[2] == f"{'00000000  67 72 c3 bc c3 9f 65 0a':<60}|gr....e.|"
    assert lines[4] == (
        "00000000  1b 5d 30 3b 6f 77 6e 65  64 07 1b 5b 32 4a ff 00  |.]0;owned..[2J..|"
    )
    assert lines[-1].endswith("closed: client_closed (up 8 B, down 18 B)")
    assert "\x1b" not in result.stdout
    assert result.stderr == "tapping 1 connection: Ctrl-C ends it\n"


@running
def test_text(running: Running) -> None:
    lines = running.during(running.talk, "--text", "service:mqtt").stdout.splitlines()
    assert "  grüße" in lines
    assert "  \\x1b]0;owned\\x07\\x1b[2J\\xff\\x00\\r" in lines


@running
def test_json(running: Running) -> None:
    text = running.during(running.talk, "--json", "--all").stdout
    began, up, down, ended = map(json.loads, text.splitlines())
    assert (began["event"], began["service"], ended["reason"]) == ("began", "mqtt", "client_closed")
    assert base64.b64decode(up["data"]).decode() == "grüße\n"
    assert base64.b64decode(down["data"]) == HOSTILE


@running
def test_raw(running: Running) -> None:
    result = running.during(running.talk, "--raw", "down", "--service", "mqtt")
    assert result.stdout_bytes == HOSTILE


@running
def test_pcap_to_a_file_that_only_its_owner_reads(running: Running) -> None:
    file = running.folder / "x.pcapng"
    file.write_bytes(b"old" * 10_000)
    file.chmod(0o644)
    result = running.during(running.talk, "--all", "--pcap", str(file))
    assert result.stdout == ""
    assert result.stderr.splitlines()[1:] == [f"written: {file}"]
    assert file.read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert "grüße\n".encode() in file.read_bytes()
    assert b"oldold" not in file.read_bytes()


@running
def test_what_was_lost_is_said_at_most_once_a_second(running: Running) -> None:
    def lose() -> None:
        for _ in range(100):
            running.port.on_reactor(running.live.data, "up", bytes(1_000_000))

    with patch.object(tap_verb, "NOTE_SECONDS", 3600.0):
        result = running.during(lose, "--all", "--json")
    lost = [line for line in result.stderr.splitlines() if "not shown" in line]
    assert 1 <= len(lost) <= 2
    gaps = [json.loads(line) for line in result.stdout.splitlines() if '"gap"' in line]
    data = [json.loads(line) for line in result.stdout.splitlines() if '"data", "conn' in line]
    seen = sum(len(base64.b64decode(each["data"])) for each in data)
    assert seen + sum(gap["size"] for gap in gaps) == 100_000_000


@running
def test_pcap_to_a_pipe_and_each_chunk_at_once(running: Running) -> None:
    with running.process("--all", "--pcap", "-") as process:
        assert process.stdout is not None
        running.talk()
        seen = b""
        while HOSTILE not in seen:  # though the connection goes on
            seen += os.read(process.stdout.fileno(), 65536)
    assert seen[:4] == bytes.fromhex("0a0d0d0a")


@running
def test_ctrl_c_and_a_reader_that_leaves_end_it_quietly(running: Running) -> None:
    with running.process("--all", "--follow") as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == b""
        assert process.returncode == 130
    until(lambda: not running.live.is_watched)
    with running.process("--all", "--text") as process:
        assert process.stdout is not None
        running.port.on_reactor(running.live.data, "up", b"amid a line")
        seen = b""
        while b"line" not in seen:
            seen += os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"\n", b"")  # the prompt is not amid it
    until(lambda: not running.live.is_watched)
    with running.process("--all", "--follow") as process:
        assert process.stdout is not None
        process.stdout.close()
        running.talk()
        running.talk()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(30) == 1
    until(lambda: not running.live.is_watched)


@running
def test_what_cannot_be_tapped(running: Running) -> None:
    port, number = running.port, str(running.live.record.id)
    port.on_reactor(lambda: WatchableConnection(running.mqtt).open())
    port.monitor("secret", policy=Policy(payload="never"))
    for arguments, status, message in (
        ((), 2, "say which connections"),
        (("--follow",), 2, "say which connections"),
        (("--all", number), 2, "--all goes with no other choice"),
        ((number, "--text", "--json"), 2, "one of them"),
        ((number, "--raw", "sideways"), 2, "sideways"),
        (("service:mqtt", "--raw", "up"), 2, "2 connections match"),
        (("a word",), 2, "a word"),
        (("999999",), 1, "no live connection has the id 999999"),
        (("client:192.0.2.99",), 1, "--follow waits"),
        (("service:secret",), 1, "service secret has payload: never"),
        ((number, "--pcap", "/nonexistent/x"), 1, "/nonexistent/x: no such file or directory"),
    ):
        result = running.monconn(*arguments)
        assert (result.exit_code, message in result.stderr) == (status, True), result.output
        assert not result.stdout
    until(lambda: not running.live.is_watched)


@running
def test_what_is_left_out_is_said(running: Running) -> None:
    running.port.monitor("secret", policy=Policy(payload="never"))
    end = "tapping 1 connection: Ctrl-C ends it\n"
    result = running.during(running.talk, "--all")
    assert result.stderr == f"service secret is left out: it has payload: never\n{end}"


@running
def test_ids_that_are_not_there_are_said(running: Running) -> None:
    running.port.monitor("secret", policy=Policy(payload="never"))
    end = "tapping 1 connection: Ctrl-C ends it\n"
    result = running.during(running.talk, "999999", str(running.live.record.id), status=1)
    assert result.stderr == f"monconn: no live connection has the id 999999\n{end}"
    assert "closed: client_closed" in result.stdout


@running
def test_a_terminal_gets_text_in_colours_and_no_raw_bytes(running: Running) -> None:
    ours, theirs = os.openpty()
    with patch("monconn.faces.cli.flows.terminal_width", lambda: 80):
        for option in (["--raw", "up"], ["--pcap", "-"]):
            refused = running.monconn("--all", *option)
            assert (refused.exit_code, refused.stdout) == (2, "")
            assert "not for a terminal" in refused.stderr
    with running.start("--all", stdout=theirs) as process:
        until(lambda: running.live.is_watched)
        running.talk()
        running.port.on_reactor(running.live.end, "client_closed")
        assert process.wait(30) == 0
        _, _ = process.communicate()
    shown = os.read(ours, 65536).decode()
    for fd in (ours, theirs):
        os.close(fd)
    assert "\x1b[36m" in shown
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown


# -- servers that mean no good

USUAL_EVENTS: tuple[flow.FlowEvent, ...] = (
    flow.Began(7, 1.5, 1.0, "u-7", "mqtt", "10.0.0.1:50", None, "b:1883", 3, 4, {"a": "b"}),
    flow.Data(7, 2.0, "up", 3, HOSTILE),
    flow.SideEnded(7, 2.5, "client", "fin", 21),
    flow.Ended(7, 3.0, 21, 4, "client_closed", "said goodbye"),
)
FORMATS: tuple[tuple[str, ...], ...] = (
    (),
    ("--text",),
    ("--json",),
    ("--raw", "up"),
    ("--pcap", "-"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileServer]:
    with hostile_server(tmp_path_factory.mktemp("server")) as made:
        made.greeting = lambda request: iter([answer(request, {**HELLO, "taps": "True"})])
        yield made


def send_events(server: HostileServer, events: list[Any]) -> None:
    head = {"connections": "1", "left_out": "0", "unknown": "[]", "services_left_out": "[]"}
    values = {"dropped_bytes": "0", "left_out": "0", "is_over": "True"}
    text = json.dumps(events)

    def send(request: dict[str, str]) -> Iterator[bytes]:
        yield answer(request, head)
        yield box({"_command": "FlowEvents", "events": text, **values})

    server.answers = send


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_usual_events_of_a_server(server: HostileServer, options: tuple[str, ...]) -> None:
    send_events(server, list(map(flow.to_json, USUAL_EVENTS)))
    status, output = run("tap", "--all", *options, where=server.where)
    assert status == 0, output


@settings(max_examples=examples(60), deadline=None)
@given(
    number=st.sampled_from(range(len(USUAL_EVENTS))),
    field=st.integers(0, 12),
    value=values,
    options=st.sampled_from(FORMATS),
)
def test_events_of_any_form(
    server: HostileServer, number: int, field: int, value: Any, options: tuple[str, ...]
) -> None:
    events = list(map(flow.to_json, USUAL_EVENTS))
    names = list(events[number])
    events[number][names[field % len(names)]] = value
    send_events(server, events)
    status, output = run("tap", "--all", *options, where=server.where)
    assert status in (0, 1)
    if not {"--raw", "--pcap"} & set(options):
        assert output.replace("\n", "").isprintable()
