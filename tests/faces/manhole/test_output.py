"""What a manhole session writes and stores for a client that does not read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from monconn.model.actions import Actor
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations
from monconn.ops.text_table import text_table, text_table_steps

pytest.importorskip("twisted.conch.manhole_ssh")

from twisted.conch.ssh import connection

from monconn.faces.manhole import server
from monconn.faces.manhole.prompt import (
    KEYS_PER_STEP,
    MAX_TYPED_CHARACTERS,
    LineShell,
    Prompt,
    Terminal,
)
from monconn.faces.manhole.session import PIECE_BYTES, Output
from monconn.ops.rows import BlockRow


class Client:
    """A client whose window is open until the test shuts it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.received = b""
        self.most_in_a_turn = 0
        self.channel = SimpleNamespace(buf=b"")
        self.transport = SimpleNamespace(
            is_congested=False, factory=SimpleNamespace(clock=self.clock)
        )
        process: Any = SimpleNamespace(session=self.channel, outReceived=self._receive)
        transport: Any = self.transport
        self.output = Output(process, transport)

    def _receive(self, data: bytes) -> None:
        self.received += data

    def turn(self) -> None:
        """Run one timer."""
        before = len(self.received)
        [timer] = self.clock.getDelayedCalls()
        self.clock.calls.clear()
        timer.func()  # type: ignore[attr-defined]
        self.most_in_a_turn = max(self.most_in_a_turn, len(self.received) - before)


def fired(waits: Deferred[None]) -> list[None]:
    results: list[None] = []
    waits.addCallback(results.append)
    return results


def test_a_turn_writes_one_piece() -> None:
    client = Client()
    text = bytes(range(256)) * 4096
    client.output.write(text)
    assert client.received == text[:PIECE_BYTES]
    drained = fired(client.output.drained())
    while not drained:
        client.turn()
    assert client.received == text
    assert client.most_in_a_turn == PIECE_BYTES
    assert not client.clock.getDelayedCalls()
    client.output.write(b"short")
    assert client.received == text + b"short"
    drained = fired(client.output.drained())
    assert not drained
    client.turn()
    assert drained


@pytest.mark.parametrize("is_window", [True, False])
def test_nothing_is_written_without_room(is_window: bool) -> None:
    client = Client()
    client.output.write(bytes(2 * PIECE_BYTES))
    if is_window:
        client.channel.buf = b"rest"
    else:
        client.transport.is_congested = True
    client.turn()
    drained = fired(client.output.drained())
    client.output.write(b"more")
    client.turn()
    assert len(client.received) == PIECE_BYTES
    assert not client.clock.getDelayedCalls()
    client.channel.buf, client.transport.is_congested = b"", False
    client.output.continue_soon()
    client.turn()
    client.turn()
    assert client.received == bytes(2 * PIECE_BYTES) + b"more"
    assert drained


def test_nobody_waits_for_a_client_that_has_gone() -> None:
    client = Client()
    client.output.write(bytes(3 * PIECE_BYTES))
    drained = fired(client.output.drained())
    client.output.close()
    client.output.write(b"late")
    assert drained
    assert len(client.received) == PIECE_BYTES
    assert not client.clock.getDelayedCalls()


class Stalled:
    """Output to a client that reads when the test says so."""

    def __init__(self) -> None:
        self.written = b""
        self.asked = 0
        self._waits: list[Deferred[None]] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def drained(self) -> Deferred[None]:
        self._waits.append(Deferred())
        return self._waits[-1]

    def ask_for_input(self) -> None:
        self.asked += 1

    def read(self) -> None:
        waits, self._waits = self._waits, []
        for each in waits:
            each.callback(None)


def test_a_line_waits_until_the_answer_before_is_read() -> None:
    stalled = Stalled()
    ends: list[int] = []
    operations = Operations(Registry(), Clock())
    shell = LineShell(operations, Actor.ssh("key", "user"), stalled, ends.append)
    shell.dataReceived(b"".join(b"print(%d)\n" % number for number in range(1000)))
    assert stalled.written == b"0\n"
    for _ in range(3):
        assert shell.is_busy
        assert not stalled.asked
        stalled.read()
    assert stalled.written == b"0\n1\n2\n3\n"
    shell.dataReceived(b"exit()\n")
    while not ends:
        stalled.read()
    assert stalled.written.endswith(b"\n999\n")


class SlowClock(Clock):
    """A clock by which each look at it takes a millisecond."""

    def seconds(self) -> float:
        self.rightNow += 0.001
        return self.rightNow


def test_what_is_pasted_is_handled_in_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SlowClock()
    terminal = Terminal(Operations(Registry(), clock), Actor.ssh("key", "user"), Stalled(), print)
    keys: list[object] = []
    monkeypatch.setattr(Prompt, "keystrokeReceived", lambda self, *args: keys.append(args))
    terminal.dataReceived(b"\t" * 500)
    turns, most, before = 1, len(keys), len(keys)
    while terminal.is_busy:
        [timer] = clock.getDelayedCalls()
        clock.calls.clear()
        timer.func()  # type: ignore[attr-defined]
        turns += 1
        most, before = max(most, len(keys) - before), len(keys)
    assert len(keys) == 500
    assert most <= KEYS_PER_STEP * 5  # in WORK_SECONDS, at a millisecond a step
    assert turns >= 500 // most


def test_a_typed_line_has_a_limit() -> None:
    stalled = Stalled()
    operations = Operations(Registry(), Clock())
    terminal = Terminal(operations, Actor.ssh("key", "user"), stalled, print)
    terminal.resized(80, 24)
    for _ in range(3):
        terminal.dataReceived(b"x" * MAX_TYPED_CHARACTERS)
    assert len(terminal.terminalProtocol.lineBuffer) == MAX_TYPED_CHARACTERS
    assert stalled.written.endswith(b"\a")


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_busy_session_grants_no_further_input(is_busy: bool) -> None:
    sent: list[int] = []
    conn = server.Connection()
    conn.transport = SimpleNamespace(sendPacket=lambda kind, _: sent.append(kind))
    channel = SimpleNamespace(
        client=object(),
        session=SimpleNamespace(is_busy=is_busy),
        localClosed=0,
        localWindowLeft=0,
        id=0,
    )
    conn.channelsToRemoteChannel = _AnyChannel()
    conn.adjustWindow(channel, 1000)
    assert sent == ([] if is_busy else [connection.MSG_CHANNEL_WINDOW_ADJUST])


class _AnyChannel(dict):  # type: ignore[type-arg]
    def __missing__(self, key: object) -> int:
        return 0

    def __getitem__(self, key: object) -> int:
        return 0


def test_a_table_in_steps_is_the_table() -> None:
    usual: dict[str, Any] = dict.fromkeys(column.name for column in BlockRow.csv_columns())
    rows = [
        BlockRow(**usual | {"network": f"10.0.{each}.0/24", "service": "web" * (each % 3)})
        for each in range(95)
    ]
    for width in (None, 20):
        lines: list[str] = []
        most = before = 0
        with_steps = [each for row in rows for each in (None, row)]
        for _ in text_table_steps(BlockRow.columns(), with_steps, width, lines.append):
            most = max(most, len(lines) - before)
            before = len(lines)
        assert lines == text_table(BlockRow.columns(), rows, width)
        assert most <= 10
    assert len(lines) == 96


def test_nothing_is_handled_of_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.faces.manhole.test_strangers import IGNORE, VERSION, World

    world = World()
    handled: list[bytes] = []
    monkeypatch.setattr(server.Transport, "ssh_IGNORE", lambda self, data: handled.append(data))
    protocol, transport = world.connect()
    protocol.dataReceived(VERSION)
    protocol.pauseProducing()
    protocol.dataReceived(IGNORE)
    assert not handled
    assert transport.producerState == "paused"
    protocol.resumeProducing()
    world.clock.turn()
    assert len(handled) == 1
    world.clock.turn()
    assert transport.producerState == "producing"
    world.close()
