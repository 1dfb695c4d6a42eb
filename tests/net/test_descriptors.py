"""Clients are accepted as far as there are descriptors for them and their backends."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock

from monconn.net import descriptors as module
from monconn.net.descriptors import (
    CHECK_SECONDS,
    USEFUL_LIMIT,
    WAKE_SECONDS,
    Descriptors,
    attempts_of,
    limit_of,
    most_connections,
    pipes_of,
    raise_limit,
    reserve_of,
)
from monconn.net.listen import BATCH, Listener
from tests.properties import examples

from .test_listen import FakeSocket

OTHERS = 20


class Kernel:
    """In the place of the process' limit and its table of descriptors."""

    def __init__(self) -> None:
        self.soft, self.hard = 100, 100
        self.lowest_free = OTHERS
        self.set: list[tuple[int, int]] = []

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.soft, self.hard

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        self.set.append(limits)
        self.soft, self.hard = limits


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(resource, "getrlimit", kernel.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", kernel.setrlimit)
    monkeypatch.setattr(module, "_lowest_free", lambda: kernel.lowest_free)
    monkeypatch.setattr(module, "_open_descriptors", lambda: OTHERS)
    return kernel


# -- the limit


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 524_288, 524_288),
        (1024, 1_073_741_816, USEFUL_LIMIT),
        (1024, resource.RLIM_INFINITY, USEFUL_LIMIT),
        (1024, 1024, None),
        (2_000_000, 1_073_741_816, None),  # who has set that wants it
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_the_soft_limit_is_raised_to_a_useful_one(
    kernel: Kernel, soft: int, hard: int, expected: int | None
) -> None:
    kernel.soft, kernel.hard = soft, hard
    before = USEFUL_LIMIT if soft == resource.RLIM_INFINITY else soft
    assert raise_limit(object()) == before
    assert kernel.set == ([] if expected is None else [(expected, hard)])


def test_select_has_no_more_than_its_own(kernel: Kernel) -> None:
    kernel.soft, kernel.hard = 2000, 524_288
    reactor = SelectReactor.__new__(SelectReactor)
    raise_limit(reactor)
    assert kernel.set == []
    assert (limit_of(reactor), limit_of(object())) == (1024, 2000)


def test_a_limit_that_cannot_be_raised_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    kernel.hard = 1000
    assert raise_limit(object()) == 100
    assert limit_of(object()) == 100


def test_it_is_told(kernel: Kernel) -> None:
    kernel.soft = 20_000
    made = Descriptors(object(), Clock(), int, lambda _: list)
    room = most_connections(20_000, OTHERS)
    assert made.describe(1024) == (
        f"descriptors: limit raised from 1,024 to 20,000, enough for about {room:,} connections"
    )
    assert made.describe(20_000).startswith("descriptors: limit 20,000, enough for")


@given(st.integers(1, 2_000_000), st.integers(0, 3000))
@example(1, 0)
@example(1024, 20)
@settings(max_examples=examples(100))
def test_connections_never_need_what_is_held_back(limit: int, others: int) -> None:
    shared = reserve_of(limit) + 2 * pipes_of(limit) + attempts_of(limit)
    most = most_connections(limit, others)
    assert most == 1 or 2 * most + others + shared <= limit
    assert shared <= limit // 3


# -- accepting


class Reactor(Clock):
    """Serves listeners, all in a turn, in the order in which they were added."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.added = 0

    def addReader(self, reader: IReadDescriptor) -> None:
        self.added += 1
        self.readers.append(reader)

    def removeReader(self, reader: IReadDescriptor) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def turn(self) -> None:
        for each in tuple(self.readers):
            each.doRead()


class Service:
    """A listener with clients in its queue."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.queued = 0
        self.live = 0
        self.full = False
        self.calls: dict[Any, None] = {}
        sock: Any = FakeSocket()
        sock._accept = self.accept
        self.listener = Listener(
            sock,
            world.reactor,
            self.accepted,
            lambda: self.full,
            descriptors=world.descriptors,
        )
        self.listener.resume()

    def accept(self) -> Any:
        if not self.queued:
            raise BlockingIOError
        self.queued -= 1
        return self._world.next_descriptor(), ("192.0.2.1", 4711)

    def accepted(self, client: Any, address: Any) -> None:
        client.detach()
        self.live += 1

    def close(self) -> None:
        """One of its connections closes."""
        self.live -= 1
        for call in tuple(self.calls):
            call()


class World:
    """Services that share descriptors."""

    def __init__(self, kernel: Kernel, count: int = 1) -> None:
        self.kernel = kernel
        self.reactor = Reactor()
        self.services: list[Service] = []
        self.counted = 0
        self.descriptors = Descriptors(self.reactor, self.reactor, self.clients, self.when_room)
        self.services += [Service(self) for _ in range(count)]
        self.most = self.descriptors.most()

    def next_descriptor(self) -> int:
        return self.kernel.lowest_free

    def clients(self) -> int:
        self.counted += 1
        return sum(each.live for each in self.services)

    def live(self) -> int:
        return sum(each.live for each in self.services)

    def when_room(self, call: Callable[[], object]) -> Callable[[], object]:
        for each in self.services:
            each.calls[call] = None

        def cancel() -> None:
            for each in self.services:
                each.calls.pop(call, None)

        return cancel

    def until_quiet(self) -> None:
        for _ in range(200):
            self.reactor.turn()


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors of these tests are numbers only."""

    monkeypatch.setattr("monconn.net.listen.socket.SocketType", Numbered)


@pytest.fixture
def world(kernel: Kernel, no_socket: None) -> World:
    return World(kernel)


def test_no_more_clients_are_accepted_than_there_is_room_for(world: World) -> None:
    (service,) = world.services
    service.queued = 100
    world.until_quiet()
    assert service.live == world.most < 50
    assert not world.reactor.readers, "others wait in the queue"
    assert world.descriptors.waits == 1
    for left in range(10):
        service.close()
        world.reactor.advance(WAKE_SECONDS)
        world.until_quiet()
        assert service.live == world.most, left
    assert service.queued == 100 - world.most - 10
    assert world.descriptors.waits == 1, "one shortage"


def test_a_client_costs_no_count_of_connections(world: World) -> None:
    world.kernel.soft = 20_000
    (service,) = world.services
    service.queued = 5000
    world.until_quiet()
    assert service.live == 5000
    assert world.counted <= 6


def test_many_that_leave_are_one_look(world: World) -> None:
    (service,) = world.services
    service.queued = 200
    world.until_quiet()
    counted, added = world.counted, world.reactor.added
    for _ in range(30):
        service.close()
    world.reactor.advance(WAKE_SECONDS)
    assert world.reactor.added == added + 1
    assert world.counted == counted + 1
    world.until_quiet()
    assert service.live == world.most


def test_while_nothing_leaves_it_is_looked_up_once_a_second(world: World) -> None:
    (service,) = world.services
    service.queued = 200
    world.until_quiet()
    counted = world.counted
    for _ in range(100):
        world.reactor.advance(CHECK_SECONDS / 10)
    assert world.counted <= counted + 10
    service.live = 0  # unnoticed
    world.reactor.advance(CHECK_SECONDS)
    world.until_quiet()
    assert service.live == world.most


def test_services_take_turns(kernel: Kernel, no_socket: None) -> None:
    world = World(kernel, 3)
    for each in world.services:
        each.queued = 1000
    world.until_quiet()
    first = world.services[0]
    assert first.live == world.most, "it came first"
    for _ in range(30):
        next(each for each in world.services if each.live).close()
        world.reactor.advance(WAKE_SECONDS)
        world.until_quiet()
        assert world.live() == world.most
    served = [1000 - each.queued for each in world.services]
    assert served == [world.most + 10, 10, 10]


def test_a_full_service_leaves_the_room_to_others(kernel: Kernel, no_socket: None) -> None:
    world = World(kernel, 2)
    full, other = world.services
    full.queued = other.queued = 1000
    full.full = True
    world.until_quiet()
    assert (full.live, other.live) == (0, world.most)
    other.close()
    full.listener.resume()  # as its monitor does
    world.reactor.advance(WAKE_SECONDS)
    world.until_quiet()
    assert (full.live, other.live) == (0, world.most)
    full.full = False
    full.listener.resume()
    world.until_quiet()
    assert full.live == 0
    other.close()
    other.close()
    world.reactor.advance(WAKE_SECONDS)
    world.until_quiet()
    assert world.live() == world.most


def test_descriptors_of_others_count(world: World) -> None:
    (service,) = world.services
    world.kernel.lowest_free = 100 - reserve_of(100)
    service.queued = 5
    world.until_quiet()
    assert service.live == 0
    world.kernel.lowest_free -= 1
    world.reactor.advance(CHECK_SECONDS)
    world.until_quiet()
    assert service.live == 5


def test_one_that_gets_a_number_of_the_reserve_is_served_and_the_last(world: World) -> None:
    (service,) = world.services
    service.queued = 1
    world.until_quiet()
    world.kernel.lowest_free = 100 - reserve_of(100)
    service.queued = 5
    world.until_quiet()
    assert (service.live, service.queued) == (2, 4)


def test_a_limit_that_is_changed_is_noticed(world: World) -> None:
    (service,) = world.services
    service.queued = 100
    world.until_quiet()
    assert service.live == world.most
    world.kernel.soft = world.kernel.hard = 1000
    world.reactor.advance(CHECK_SECONDS)
    world.until_quiet()
    assert service.live == 100


def test_a_listener_that_is_closed_waits_no_longer(world: World) -> None:
    (service,) = world.services
    service.queued = 100
    world.until_quiet()
    assert world.reactor.getDelayedCalls()
    service.listener.close()
    assert not world.reactor.getDelayedCalls()
    assert not service.calls
    service.close()
    world.until_quiet()
    assert service.live == world.most - 1


STEP = st.tuples(st.integers(0, 2), st.sampled_from(["come", "leave", "turn", "wait"]))


@given(st.lists(STEP, max_size=80))
@settings(max_examples=examples(60))
def test_whoever_comes_is_served_in_the_end(steps: list[tuple[int, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kernel = Kernel()
        patch.setattr(resource, "getrlimit", kernel.getrlimit)
        patch.setattr(module, "_lowest_free", lambda: kernel.lowest_free)
        patch.setattr(module, "_open_descriptors", lambda: OTHERS)
        patch.setattr("monconn.net.listen.socket.SocketType", Numbered)
        world = World(kernel, 3)
        for number, step in steps:
            service = world.services[number]
            if step == "come":
                service.queued += BATCH
            elif step == "leave" and service.live:
                service.close()
            elif step == "turn":
                world.reactor.turn()
            elif step == "wait":
                world.reactor.advance(WAKE_SECONDS)
            assert world.live() <= world.most
        for _ in range(10_000):
            if not any(each.queued for each in world.services):
                break
            for each in world.services:
                if each.live:
                    each.close()
            world.reactor.advance(WAKE_SECONDS)
            world.until_quiet()
            assert world.live() <= world.most
        assert not any(each.queued for each in world.services)


class Numbered:
    """In the place of a socket, for descriptors that are numbers only."""

    def __init__(self, *_: Any, fileno: int) -> None:
        pass

    def setblocking(self, _: bool) -> None:
        """Does nothing."""

    def detach(self) -> None:
        """Does nothing."""
