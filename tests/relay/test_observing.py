"""What observers hear of forwarded connections, and what comes of what they do about them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.testing import RecordingObserver

from .test_relay import FakeEnd, Stage, close_in_order
from .world import PIPES, World, exactly, to_the_end

HOOKS = ("opened", "backend_connected", "data", "half_closed", "closed")
WAYS = ("close", "reset", "block", "stop_now")


def hooks(observer: RecordingObserver) -> list[Any]:
    return [event[0] for event in observer.events]


# -- between fake Ends


class ClosesInData(Observer):
    """Ends the connection because of a chunk."""

    watches_payload = True

    def __init__(self, stage: Stage, reset: bool) -> None:
        self._stage = stage
        self._reset = reset

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        if b"bad" in data and record.id in self._stage.monitor:
            self._stage.monitor.close(record.id, reset=self._reset)


@pytest.mark.parametrize("reset", [False, True])
def test_a_chunk_for_which_an_observer_ends_the_connection_is_not_sent(reset: bool) -> None:
    stage = Stage().open()
    stage.monitor.add_observer(ClosesInData(stage, reset))
    stage.monitor.add_observer(other := RecordingObserver())
    stage.data(stage.client, b"good")
    stage.data(stage.client, b"bad")
    sends = [call for call in stage.asked() if call.startswith("send")]
    assert sends == ["send backend b'good'"]
    assert hooks(other) == ["data", "data"]


def test_a_connection_that_ends_already_may_be_reset_because_of_a_chunk() -> None:
    """Then both Ends are gone by the time the chunk would be sent."""

    class Aborts(FakeEnd):
        def abort(self) -> None:
            super().abort()
            self.reports.gone(self)

    stage = Stage()
    client, backend = Aborts("client", stage.calls), Aborts("backend", stage.calls)
    stage.client, stage.backend = client, backend
    stage.relay = type(stage.relay)(stage.monitor, stage.record, client, backend, stage.deadlines)
    stage.open()
    stage.monitor.add_observer(ClosesInData(stage, reset=True))
    stage.monitor.add_observer(other := RecordingObserver())
    stage.relay.end("operator")
    stage.asked()
    stage.data(client, b"bad")
    assert stage.asked() == ["abort client", "abort backend"]
    assert hooks(other) == ["data", "closed"]


@pytest.mark.parametrize("first", ["client", "backend"])
def test_the_first_end_in_order_is_a_half_close(first: Side) -> None:
    stage = Stage().open()
    states: list[str] = []

    class States(Observer):
        def half_closed(self, record: ConnectionRecord, side: Side) -> None:
            states.append(record.state)

    stage.monitor.add_observer(observer := RecordingObserver(half_closes=True))
    stage.monitor.add_observer(States())
    other = "backend" if first == "client" else "client"
    stage.relay.eof(stage.end_of(first))
    stage.data(stage.end_of(other), b"late")
    stage.relay.eof(stage.end_of(other))
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    assert hooks(observer) == ["half_closed", "data", "closed"]
    assert observer.events[0] == ("half_closed", stage.record, first)
    assert states == ["half_closed"]


def test_a_client_that_ends_before_the_backend_is_connected_has_half_closed() -> None:
    stage = Stage()
    stage.monitor.add_observer(observer := RecordingObserver(half_closes=True))
    stage.relay.connected(stage.client)
    stage.relay.eof(stage.client)
    assert hooks(observer) == ["opened", "half_closed"]


@pytest.mark.parametrize("end", [lambda stage: stage.relay.end("operator"), close_in_order])
def test_the_answer_to_an_end_is_no_half_close(end: Callable[[Stage], object]) -> None:
    stage = Stage().open()
    end(stage)
    stage.monitor.add_observer(observer := RecordingObserver(half_closes=True))
    if stage.record.closed is None:
        stage.relay.eof(stage.client)
    assert hooks(observer) == []


def test_a_connection_that_passing_on_the_end_has_closed_is_closed_only() -> None:
    class Breaks(FakeEnd):
        def end_writing(self) -> None:
            self.reports.broken(self, "reset", "")

    stage = Stage()
    client, backend = FakeEnd("client", stage.calls), Breaks("backend", stage.calls)
    stage.client, stage.backend = client, backend
    stage.relay = type(stage.relay)(stage.monitor, stage.record, client, backend, stage.deadlines)
    stage.open()
    stage.monitor.add_observer(observer := RecordingObserver(half_closes=True))
    stage.relay.eof(client)
    assert stage.record.reason == "backend_reset"
    assert "half_closed" not in hooks(observer)


# -- on real sockets


class Acts(Observer):
    """Does something in one of its hooks, once."""

    watches_payload = True

    def __init__(self, world: World, hook: str, how: str) -> None:
        self.hook = hook
        self._world = world
        self._how = how

    def _act(self, hook: str, record: ConnectionRecord) -> None:
        if hook != self.hook:
            return
        self.hook = ""
        monitor = self._world.monitor
        if self._how == "block":
            monitor.block("0.0.0.0/0")
            monitor.unblock("0.0.0.0/0")
        elif self._how == "stop_now":
            monitor.stop_now()
            monitor.resume()
        elif record.id in monitor:
            monitor.close(record.id, reset=self._how == "reset")

    def opened(self, record: ConnectionRecord) -> None:
        self._act("opened", record)

    def backend_connected(self, record: ConnectionRecord) -> None:
        self._act("backend_connected", record)

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self._act("data", record)

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        self._act("half_closed", record)

    def closed(self, record: ConnectionRecord) -> None:
        self._act("closed", record)


def in_world(folder: Path, pipe: str, play: Callable[[World], object]) -> None:
    with World(folder, "ipv4", pipe) as world:
        play(world)


def converse(world: World) -> None:
    """A client's part, which may be cut short, even while it connects."""
    try:
        sock = world.client()
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        to_the_end(sock)
    except OSError:
        pass


def answer(sock: socket.socket) -> None:
    """A backend's part."""
    try:
        if exactly(sock, len(b"question")):
            sock.sendall(b"answer")
        to_the_end(sock)
    except (OSError, AssertionError):
        pass
    sock.close()


@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_observers_hear_everything_in_order_whatever_one_of_them_does(
    pipe: str, tmp_path: Path
) -> None:
    def play(world: World) -> None:
        for count, (hook, how) in enumerate(product(HOOKS, WAYS), 1):
            before, after = (RecordingObserver(half_closes=True) for _ in range(2))
            observers = (before, Acts(world, hook, how), after)
            for observer in observers:
                world.on_reactor(world.monitor.add_observer, observer)
            conversing = world.meanwhile(converse, world)
            if hook != "opened":  # else it is never dialled, or left at once
                answer(world.backend())
            world.closed(count)
            for observer in observers:
                world.on_reactor(world.monitor.remove_observer, observer)
            conversing.result()
            heard = hooks(after)
            assert heard == hooks(before)
            assert (heard[0], heard[-1]) == ("opened", "closed"), (hook, how, heard)
            assert set(heard[1:-1]) <= {"data", "half_closed"}, (hook, how, heard)
            assert heard.count("half_closed") <= 1

    await deferToThread(in_world, tmp_path, pipe, play)


@pytest.mark.parametrize("first", ["client", "backend"])
@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_a_half_close_is_heard_of_once(pipe: str, first: str, tmp_path: Path) -> None:
    observer = RecordingObserver(half_closes=True)

    def play(world: World) -> None:
        world.on_reactor(world.monitor.add_observer, observer)
        client, backend = world.pair()
        one, other = (client, backend) if first == "client" else (backend, client)
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert to_the_end(other)[0] == b"question"
        other.sendall(b"answer")
        other.close()
        assert to_the_end(one)[0] == b"answer"
        world.closed()

    await deferToThread(in_world, tmp_path, pipe, play)
    record = observer.events[0][1]
    assert hooks(observer) == ["opened", "data", "half_closed", "data", "closed"]
    assert observer.events[2] == ("half_closed", record, first)
