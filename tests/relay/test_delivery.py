"""Shared timers: resets after delivery, retries at a full queue, failures of unread sides."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from monconn.addresses import Address, TcpAddress, UnixAddress
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.relay.delivery import CHECK_INTERVAL_SECONDS, CHECKS_A_TURN, DeliveryWatch
from monconn.relay.paths import DataPaths
from monconn.relay.relay import Relay
from monconn.relay.sockets import connect
from monconn.relay.sockets.connect import RETRY_SECONDS, ConnectAttempt, Connector
from monconn.relay.sockets.end import SocketEnd
from monconn.relay.sockets.loop import HAS_EPOLL

from .test_given_back import Leftovers
from .test_relay import FakeEnd
from .world import World, exactly, reset, to_the_end, until

# -- resets


class ResettingEnd(FakeEnd):
    def __init__(self) -> None:
        super().__init__("client", [])
        self.phase = "resetting"
        self.held = 1
        self.checks = 0

    def is_delivered(self) -> bool:
        self.checks += 1
        return super().is_delivered()

    def abort(self) -> None:
        super().abort()
        self.phase = "closed"


def test_an_end_is_aborted_once_everything_is_delivered() -> None:
    clock, end = Clock(), ResettingEnd()
    watch = DeliveryWatch(clock)
    watch.add(end)
    clock.pump([CHECK_INTERVAL_SECONDS] * 5)
    assert end.phase == "resetting"
    end.held = 0
    clock.advance(CHECK_INTERVAL_SECONDS)
    assert (end.phase, len(watch), clock.getDelayedCalls()) == ("closed", 0, [])


def test_an_end_that_holds_nothing_is_aborted_at_once() -> None:
    clock, end = Clock(), ResettingEnd()
    end.held = 0
    DeliveryWatch(clock).add(end)
    assert (end.phase, clock.getDelayedCalls()) == ("closed", [])


def test_thousands_cost_no_more_per_turn_and_all_are_checked() -> None:
    clock = Clock()
    watch, ends = DeliveryWatch(clock), [ResettingEnd() for _ in range(20 * CHECKS_A_TURN)]
    for end in ends:
        watch.add(end)
    assert len(clock.getDelayedCalls()) == 1
    for turn in range(1, 21):
        clock.advance(CHECK_INTERVAL_SECONDS)
        assert sum(end.checks - 1 for end in ends) == turn * CHECKS_A_TURN
    assert {end.checks for end in ends} == {2}


def test_an_end_that_is_closed_otherwise_is_dropped() -> None:
    clock, end = Clock(), ResettingEnd()
    watch = DeliveryWatch(clock)
    watch.add(end)
    end.phase = "closed"
    clock.advance(CHECK_INTERVAL_SECONDS)
    assert (len(watch), end._calls, clock.getDelayedCalls()) == (0, [], [])


def test_a_failing_end_does_not_affect_the_others(logged_failures: list[object]) -> None:
    clock, bad, good = Clock(), ResettingEnd(), ResettingEnd()
    watch = DeliveryWatch(clock)
    for end in (bad, good):
        watch.add(end)
    bad.abort = lambda: 1 / 0  # type: ignore[method-assign, assignment]
    bad.held = good.held = 0
    clock.advance(CHECK_INTERVAL_SECONDS)
    assert good.phase == "closed"
    assert len(logged_failures) == 1
    logged_failures.clear()


# -- a full queue


class KnownAddress:
    """A UNIX socket's address, known at once."""

    address = UnixAddress("/backend")

    def cached(self) -> Sequence[Any]:
        return [(socket.AF_UNIX, "/backend")]


class FullQueue:
    """In the place of sockets: ``connect_ex`` fails with EAGAIN until there is room."""

    def __init__(self) -> None:
        self.room = 0
        self.tries = 0

    def make(self, family: int) -> FullQueue:
        return self

    def connect_ex(self, address: object) -> int:
        self.tries += 1
        if not self.room:
            return errno.EAGAIN
        self.room -= 1
        return 0

    def fileno(self) -> int:
        return 1000

    def close(self) -> None: ...


class Loop:
    def add(self, fd: int, handler: object) -> None: ...

    def remove(self, fd: int) -> None: ...


class Dialling:
    def __init__(self, names: list[int], name: int) -> None:
        self._names = names
        self._name = name
        self.record = ConnectionRecord(
            name, "test", "unix:1", "unix", "unix:/front", "unix:/backend", 0.0, 0.0
        )

    def connect_succeeded(self, sock: object, events: int, error_number: int = 0) -> None:
        self._names.append(self._name)

    def connect_failed(self, reason: Reason, detail: str) -> None:
        raise AssertionError(reason)

    def failed(self) -> None:
        raise AssertionError


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FullQueue:
    queue = FullQueue()
    monkeypatch.setattr(connect, "_make_socket", queue.make)
    return queue


def attempts(clock: Clock, count: int) -> tuple[list[int], list[ConnectAttempt], Connector]:
    connector = Connector(KnownAddress(), Loop(), clock)  # type: ignore[arg-type]
    connected: list[int] = []
    made = [ConnectAttempt(connector, Dialling(connected, name)) for name in range(count)]
    for attempt in made:
        attempt.begin()
    return connected, made, connector


def test_thousands_that_wait_at_a_full_queue_cost_one_try_each_time(queue: FullQueue) -> None:
    clock = Clock()
    connected, _, connector = attempts(clock, 4000)
    assert (queue.tries, len(connector.waiting), len(clock.getDelayedCalls())) == (1, 4000, 1)
    for _ in range(10):
        clock.advance(RETRY_SECONDS)
    assert queue.tries == 11
    queue.room = 3
    clock.advance(RETRY_SECONDS)
    assert connected == [0, 1, 2], "in the order in which they came"
    assert queue.tries == 15
    queue.room = 10_000
    clock.advance(RETRY_SECONDS)
    assert len(connected) < 100, "no more than is fair to others"
    clock.pump([RETRY_SECONDS] * 100)
    assert connected == list(range(4000))
    assert clock.getDelayedCalls() == []


def test_an_attempt_that_is_given_up_leaves_the_queue(queue: FullQueue) -> None:
    clock = Clock()
    connected, made, connector = attempts(clock, 3)
    made[0].give_up()
    queue.room = 1
    clock.advance(RETRY_SECONDS)
    assert connected == [1]
    made[2].give_up()
    assert (len(connector.waiting), clock.getDelayedCalls()) == (0, [])


# -- in a world


def client_end(world: World) -> SocketEnd:
    relay = world.monitor.live.by_id[world.live().id]
    assert isinstance(relay, Relay)
    assert isinstance(relay.client, SocketEnd)
    return relay.client


@pytest.mark.skipif(not HAS_EPOLL, reason="this system has no epoll")
@pytest.mark.parametrize("pipe", ["copy", "splice"])
@pytest_twisted.ensureDeferred
async def test_an_end_that_failed_unread_is_not_held_by_a_timer(tmp_path: Path, pipe: str) -> None:
    """A timer of five seconds that was never cancelled held the dead End in memory."""

    def play() -> None:
        left = Leftovers()
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            until(lambda: world.live().state == "open")
            sending = world.meanwhile(client.sendall, bytes(8_000_000))
            until(lambda: client_end(world).holds)  # it is not read from now
            reset(client)
            sending.exception()  # it has ended, in whatever way
            until(lambda: client_end(world).bucket is not None)
            world.on_reactor(world.monitor.stop_now)
            until(lambda: not len(world.monitor))
            assert len(world.deadlines) == 0
            until(lambda: not left())
            to_the_end(backend)

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["stream", "splice"])
@pytest_twisted.ensureDeferred
async def test_the_backend_is_chosen_for_each_dial(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as two,
        ):
            servers, asked = [one, two], list[str]()

            def choose(record: ConnectionRecord) -> Address:
                asked.append(record.client)
                place = servers[(len(asked) - 1) % 2].getsockname()
                return TcpAddress(place[0], place[1])

            with World(tmp_path, "ipv4", pipe, choose=choose) as world:
                for server in (one, two, one):
                    server.settimeout(20)
                    client = world.client()
                    backend, _ = server.accept()
                    with backend:
                        client.sendall(b"hello")
                        assert exactly(backend, 5) == b"hello"
                        record = world.live()
                        assert record.backend == f"127.0.0.1:{server.getsockname()[1]}"
                        assert asked[-1] == record.client
                        client.close()
                        to_the_end(backend)
                    until(lambda: not len(world.monitor))

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["stream", "splice"])
@pytest_twisted.ensureDeferred
async def test_a_choice_that_fails_ends_the_connection(
    tmp_path: Path, pipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twisted's log would remember the failure, and with it the Ends, which other tests count.
    log = Mock()
    monkeypatch.setattr(DataPaths, "_log", log)

    def choose(record: object) -> Any:
        raise LookupError("no candidate")

    def play() -> None:
        with World(tmp_path, "ipv4", pipe, choose=choose) as world:
            client = world.client()
            assert to_the_end(client) == (b"", "fin")
            client.close()
            until(lambda: len(world.monitor.closed_records))
            record = world.monitor.closed_records[0]
            assert (record.reason, record.code) == ("error", "IC")
            assert record.detail == "no backend could be chosen: no candidate"

    await deferToThread(play)
    assert log.failure.called
