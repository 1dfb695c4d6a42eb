"""Attempts to connect: which of several addresses are tried when, and what is reported."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from monconn.addresses import TcpAddress, UnixAddress
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.net.loops import Loops
from monconn.net.resolver import SocketAddress
from monconn.net.sockets import SHORTAGES
from monconn.relay.sockets import connect
from monconn.relay.sockets.connect import (
    ATTEMPT_DELAY_SECONDS,
    FAILURES_AT_ONCE,
    MOST_ATTEMPTS,
    ConnectAttempt,
    Connector,
)
from monconn.relay.sockets.loop import ERR, HUP, OUT
from tests.turning import TurnClock

PORT = 80
REFUSED, UNREACHABLE, TIMEOUT = errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT


def addresses(*numbers: int) -> list[SocketAddress]:
    return [(socket.AF_INET, (f"192.0.2.{number}", PORT)) for number in numbers]


class FakeSocket:
    """A socket to a numbered address, whose fate a test decides."""

    family = socket.AF_INET

    def __init__(self, world: World) -> None:
        self._world = world
        self.number = 0
        self.error = 0
        self.is_closed = False
        self.is_reset = False

    def connect_ex(self, where: Any) -> int:
        self.number = int(where[0].rpartition(".")[2])
        self._world.sockets[self.number] = self
        return self._world.at_once.get(self.number, errno.EINPROGRESS)

    def getsockname(self) -> tuple[str, int]:
        return self._world.local

    def setsockopt(self, *_: object) -> None:
        self.is_reset = True

    def getsockopt(self, *_: object) -> int:
        return self.error

    def fileno(self) -> int:
        return -1 if self.is_closed else 1000 + self.number

    def close(self) -> None:
        self.is_closed = True


class FakeLoop:
    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.error: OSError | None = None

    def add(self, fd: int, handler: Any) -> None:
        if self.error is not None:
            raise self.error
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        del self.handlers[fd]


class FakeResolver:
    """Knows some addresses, and others if it is asked anew."""

    address: TcpAddress | UnixAddress = TcpAddress("backend.test", PORT)
    staleness = ""

    def __init__(self, known: Sequence[SocketAddress]) -> None:
        self.known = known
        self.others: Sequence[SocketAddress] = ()
        self.renewals: list[list[SocketAddress]] = []
        self.refreshed = 0
        self.preferred: list[tuple[SocketAddress, list[SocketAddress]]] = []

    def cached(self) -> Sequence[SocketAddress]:
        return self.known

    def resolve(self, found: Any, failed: Any) -> Any:
        return lambda: None  # the name server hangs

    def renew(self, tried: Any, found: Any, none_left: Any) -> Any:
        self.renewals.append(list(tried))
        if self.others:
            found(self.others)
        else:
            none_left()
        return lambda: None

    def refresh(self) -> None:
        self.refreshed += 1

    def prefer(self, winner: SocketAddress, slower: Any) -> None:
        self.preferred.append((winner, list(slower)))


class World:
    """One attempt to connect, and everything around it; the listener of the attempt.

    :param numbers: the addresses that are known.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
        self.clock = TurnClock()
        self.sockets: dict[int, FakeSocket] = {}
        self.at_once: dict[int, int] = {}
        self.local = ("192.0.2.99", 5)
        self.loop = FakeLoop()
        self.loops = Loops()
        self.resolver = FakeResolver(addresses(*numbers))
        self.record = ConnectionRecord(1, "web", "c:1", "c", ":1", "backend.test:80", 0.0, 0.0)
        self.won: int | None = None
        self.failure: tuple[Reason, str] | None = None
        self.shortage: OSError | None = None
        monkeypatch.setattr(connect, "_make_socket", self._make_socket)
        resolver: Any = self.resolver
        loop: Any = self.loop
        self.connector = Connector(resolver, loop, self.clock, self.loops)
        self.attempt = ConnectAttempt(self.connector, self)

    def _make_socket(self, family: int) -> FakeSocket:
        if self.shortage is not None:
            raise self.shortage
        return FakeSocket(self)

    # -- as a ConnectListener

    def connect_succeeded(self, sock: Any, events: int, error_number: int = 0) -> None:
        assert (self.won, self.failure) == (None, None)
        self.won = sock.number

    def connect_failed(self, reason: Reason, detail: str) -> None:
        assert (self.won, self.failure) == (None, None)
        self.failure = reason, detail

    def failed(self) -> None:
        raise AssertionError

    # -- what happens

    def begin(self) -> None:
        self.attempt.begin()

    def wait(self, times: int = 1) -> None:
        """Let the delay between two attempts pass."""
        self.clock.pump([ATTEMPT_DELAY_SECONDS] * times)

    def event(self, number: int, error_number: int = 0) -> None:
        """An address has answered."""
        sock = self.sockets[number]
        sock.error = error_number
        self.loop.handlers[sock.fileno()].ready(ERR | HUP if error_number else OUT)

    def trying(self) -> list[int]:
        return [number for number, sock in self.sockets.items() if not sock.is_closed]

    def expect_nothing_left(self) -> None:
        assert self.clock.getDelayedCalls() == []
        assert set(self.loop.handlers) <= {1000 + (self.won or 0)}
        assert self.trying() == ([] if self.won is None else [self.won])
        assert self.attempt._tries == []
        assert self.connector.descriptors.attempts == 0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch, 1, 2, 3)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch, 1)


# -- one after the other, and side by side


def test_the_first_that_answers_in_time_is_the_only_one_tried(world: World) -> None:
    world.begin()
    world.event(1)
    assert (world.won, list(world.sockets), world.resolver.preferred) == (1, [1], [])
    world.expect_nothing_left()


def test_the_next_is_tried_after_a_while_and_the_others_are_closed(world: World) -> None:
    world.begin()
    world.wait()
    assert world.trying() == [1, 2]
    world.event(2)
    assert world.won == 2
    assert world.resolver.preferred == [(addresses(2)[0], addresses(1))]
    world.expect_nothing_left()


def test_a_slow_one_may_still_answer_first(world: World) -> None:
    world.begin()
    world.wait(2)
    assert world.trying() == [1, 2, 3]
    world.event(1)
    assert (world.won, world.resolver.preferred) == (1, [])
    world.expect_nothing_left()


def test_further_attempts_wait_for_descriptors_and_the_first_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors: Any = world.connector.descriptors
    monkeypatch.setattr(descriptors, "may_try_more", lambda: descriptors.attempts < 1)
    world.begin()
    world.wait(3)
    assert world.trying() == [1, 2]
    assert descriptors.attempts == 1
    world.event(1, REFUSED)
    world.wait()
    assert world.trying() == [2, 3], "another has room now"
    descriptors.attempts += 1  # one of another connection
    world.event(2, REFUSED)
    world.event(3, REFUSED)
    descriptors.attempts -= 1
    assert world.failure == ("backend_refused", "connection refused")
    world.expect_nothing_left()


def test_a_failure_says_that_the_addresses_are_those_of_before(world: World) -> None:
    world.resolver.staleness = "backend.test was resolved 2h03m ago, and cannot be now: no answer"
    world.at_once = dict.fromkeys((1, 2, 3), REFUSED)
    world.begin()
    assert world.failure == (
        "backend_refused",
        "connection refused; backend.test was resolved 2h03m ago, and cannot be now: no answer",
    )


def test_the_next_is_tried_at_once_when_one_fails(world: World) -> None:
    world.at_once[1] = UNREACHABLE
    world.begin()
    assert world.trying() == [2]
    world.event(2, REFUSED)
    assert world.trying() == [3]
    world.event(3)
    assert world.won == 3
    assert world.resolver.preferred == [(addresses(3)[0], addresses(1, 2))]
    world.expect_nothing_left()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> World:
    """An attempt with many addresses, each of which takes a millisecond to fail."""
    numbers = range(1, 201)
    world = World(monkeypatch, *numbers)
    clock = world.clock
    world.at_once = dict.fromkeys(numbers, UNREACHABLE)

    def take_time(family: int) -> FakeSocket:
        clock.work(0.001)
        return FakeSocket(world)

    monkeypatch.setattr(connect, "_make_socket", take_time)
    return world


def test_many_that_fail_at_once_are_tried_in_several_turns(failing: World) -> None:
    failing.attempt.begin()
    counts = [len(failing.sockets)]
    while failing.failure is None:
        assert failing.clock.getDelayedCalls()
        before = len(failing.sockets)
        failing.clock.turn()
        counts.append(len(failing.sockets) - before)
    assert max(counts) <= 2 * FAILURES_AT_ONCE
    assert sum(counts) == 200
    assert failing.failure == ("backend_unreachable", "no route to host")


def test_who_gives_up_tries_none_in_a_later_turn(failing: World) -> None:
    failing.attempt.begin()
    tried = len(failing.sockets)
    assert tried < 200
    failing.attempt.give_up()
    while failing.clock.getDelayedCalls():
        failing.clock.turn()
    assert len(failing.sockets) == tried
    assert failing.failure is None


def test_any_number_of_silent_ones_does_not_hide_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, *range(1, 41))
    world.begin()
    for _ in range(39):
        world.wait()
        assert len(world.trying()) <= MOST_ATTEMPTS
    world.event(40)
    assert world.won == 40
    world.expect_nothing_left()


def test_giving_up_leaves_nothing_and_has_the_name_looked_up(world: World) -> None:
    world.begin()
    world.wait()
    world.attempt.give_up()
    assert (world.won, world.failure, world.resolver.refreshed) == (None, None, 1)
    world.expect_nothing_left()


def test_a_name_server_that_hangs_is_not_mistaken_for_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.begin()
    world.record.end("connect_timeout", 10.0)
    world.attempt.give_up()
    assert world.record.detail == "the name of backend.test:80 was not resolved in time"
    world.expect_nothing_left()


# -- once all have failed


def test_new_addresses_are_tried(world: World) -> None:
    world.resolver.others = addresses(7)
    world.at_once = dict.fromkeys((1, 2, 3), REFUSED)
    world.begin()
    assert world.resolver.renewals == [addresses(1, 2, 3)]
    world.event(7)
    assert world.won == 7
    world.expect_nothing_left()


def test_names_are_asked_for_anew_once(world: World) -> None:
    world.resolver.others = addresses(7)
    world.at_once = dict.fromkeys((1, 2, 3, 7), REFUSED)
    world.begin()
    assert world.failure == ("backend_refused", "connection refused")
    assert len(world.resolver.renewals) == 1
    world.expect_nothing_left()


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((UNREACHABLE, REFUSED, TIMEOUT), ("backend_refused", "connection refused")),
        ((TIMEOUT, UNREACHABLE, TIMEOUT), ("backend_unreachable", "no route to host")),
        ((TIMEOUT, TIMEOUT, TIMEOUT), ("connect_timeout", "connection timed out")),
        ((REFUSED, errno.EMFILE, REFUSED), ("error", "too many open files")),
        ((errno.EPERM, TIMEOUT, TIMEOUT), ("backend_unreachable", "operation not permitted")),
    ],
)
def test_the_most_telling_error_is_reported(
    world: World, errors: tuple[int, int, int], expected: tuple[str, str]
) -> None:
    world.at_once = dict(zip((1, 2, 3), errors, strict=True))
    world.begin()
    assert world.failure == expected
    assert world.record.is_shortage == (expected[0] == "error")
    world.expect_nothing_left()


# -- what is our own fault


@pytest.mark.parametrize("error_number", sorted(SHORTAGES))
def test_a_shortage_is_no_backends_fault(
    alone: World, error_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "has_source_address", lambda *_: True)
    alone.at_once[1] = error_number
    alone.begin()
    assert alone.failure is not None
    alone.record.end(alone.failure[0], 1.0)
    assert (alone.failure[0], alone.record.code, alone.record.closed_by) == (
        "error",
        "RC",
        "monconn",
    )
    assert alone.resolver.renewals == [], "the name server knows nothing of it"


def test_no_socket_can_be_made(world: World) -> None:
    world.shortage = OSError(errno.ENFILE, "Too many open files in system")
    world.begin()
    assert world.failure == ("error", "too many open files in system")


def test_the_loop_takes_no_more_sockets(alone: World) -> None:
    alone.loop.error = OSError(errno.ENOSPC, "No space left on device")
    alone.begin()
    assert alone.failure == ("error", "no space left on device")
    assert alone.trying() == []


def test_an_address_without_a_way_to_it_is_no_shortage_of_ports(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv6 that is switched off has no source address: the same error number."""
    monkeypatch.setattr(connect, "has_source_address", lambda *_: False)
    alone.at_once[1] = errno.EADDRNOTAVAIL
    alone.begin()
    assert alone.failure == ("backend_unreachable", "network is unreachable")


# -- connections to ourselves


def test_a_connection_to_itself_is_refused_and_reset(alone: World) -> None:
    alone.connector.may_meet_itself = True
    alone.local = ("192.0.2.1", PORT)
    alone.begin()
    assert alone.failure == ("backend_refused", "connection refused")
    assert alone.sockets[1].is_reset
    alone.expect_nothing_left()


def test_the_same_port_of_another_address_is_another_socket(alone: World) -> None:
    alone.connector.may_meet_itself = True
    alone.local = ("192.0.2.99", PORT)
    alone.begin()
    alone.event(1)
    assert alone.won == 1


@pytest.mark.parametrize("is_own", [True, False])
def test_only_a_socket_to_a_listener_of_ours_is_noted(
    alone: World, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend on another host often has the port that we listen on."""
    monkeypatch.setattr("monconn.net.loops.is_own_host", lambda *_: is_own)
    alone.loops.listens(PORT)
    alone.begin()
    assert list(alone.loops.dials) == ([alone.local] if is_own else [])
    alone.event(1)
    assert alone.won == 1


def test_a_connection_that_comes_back_is_an_error(alone: World) -> None:
    through = ConnectionRecord(7, "web", "c:1", "c", ":1", "backend.test:80", 0.0, 0.0)
    alone.record.came_through = through
    alone.begin()
    assert alone.failure == ("error", "a loop of services: web → web")
    assert (through.reason, through.detail) == alone.failure
    assert alone.sockets == {}
    assert not alone.record.is_shortage


def test_a_chain_is_none(alone: World) -> None:
    alone.record.came_through = ConnectionRecord(7, "a", "c:1", "c", ":1", "web:80", 0.0, 0.0)
    alone.begin()
    alone.event(1)
    assert (alone.won, alone.record.came_through.reason) == (1, None)


# -- established and reset before we have looked


@pytest.mark.parametrize("error_number", [errno.ECONNRESET, errno.EPIPE])
def test_a_backend_that_resets_at_once_was_connected(alone: World, error_number: int) -> None:
    alone.begin()
    alone.event(1, error_number)
    assert alone.won == 1


def test_a_backend_that_refuses_was_not(alone: World) -> None:
    alone.begin()
    alone.event(1, REFUSED)
    assert alone.failure == ("backend_refused", "connection refused")
