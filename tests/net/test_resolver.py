"""Names are resolved once for all who ask, again if no address answers, and in good order."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from monconn.addresses import TcpAddress, UnixAddress
from monconn.net.resolver import (
    ANSWERS_A_TURN,
    CACHE_SECONDS,
    LAST_SECONDS,
    MOST_ADDRESSES,
    MOST_LOOKUPS,
    PATIENCE_SECONDS,
    QUERY_INTERVAL_SECONDS,
    QUERY_SECONDS,
    RENEWAL_SECONDS,
    STALE_SECONDS,
    Lookups,
    Resolver,
    SocketAddress,
)
from tests.logged import logged_lines
from tests.properties import examples


def v4(number: int) -> SocketAddress:
    return socket.AF_INET, (f"192.0.2.{number}", 80)


def v6(number: int) -> SocketAddress:
    return socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)


class Queries(Lookups):
    """In the place of threads: a test answers each query when it likes."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Any], object]] = []

    def start(self, query: Callable[[], object], done: Callable[[Any], object]) -> bool:
        self.asked.append(done)
        return True

    def answer(self, *addresses: SocketAddress) -> None:
        self.asked[-1](list(addresses))


class Asking:
    """Someone who wants a backend's addresses."""

    def __init__(self) -> None:
        self.addresses: list[SocketAddress] | None = None
        self.failure: tuple[str, str] | None = None
        self.none_left = False

    def found(self, addresses: Any) -> None:
        self.addresses = list(addresses)

    def failed(self, reason: str, detail: str) -> None:
        self.failure = reason, detail

    def nothing(self) -> None:
        self.none_left = True


class World:
    """A resolver of a name, with a clock and queries of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.queries = Queries()
        self.seen: dict[SocketAddress, float] = {}
        self.resolver = Resolver(
            TcpAddress("backend.test", 80),
            Mock(),
            self.clock,
            self.queries,
        )

    def fresh(self) -> set[SocketAddress]:
        """The addresses of answers that are not too old."""
        now = self.clock.seconds()
        return {each for each, at in self.seen.items() if now - at <= STALE_SECONDS}

    def resolve(self) -> Asking:
        asking = Asking()
        self.cancel = self.resolver.resolve(asking.found, asking.failed)
        return asking

    def renew(self, *tried: SocketAddress) -> Asking:
        asking = Asking()
        self.cancel = self.resolver.renew(tried, asking.found, asking.nothing)
        return asking

    def known(self, *addresses: SocketAddress) -> list[SocketAddress]:
        """Have the name resolved to these; return them in the resolver's order."""
        self.resolve()
        self.queries.answer(*addresses)
        return list(self.resolver.cached())


@pytest.fixture
def world() -> World:
    return World()


# -- queries


def test_who_asks_meanwhile_shares_the_answer(world: World) -> None:
    both = [world.resolve(), world.resolve()]
    world.queries.answer(v4(1))
    assert [each.addresses for each in both] == [[v4(1)]] * 2
    assert len(world.queries.asked) == 1


@pytest.mark.parametrize("answer", [[v4(1)], socket.gaierror(-2, "Name or service not known")])
def test_one_that_fails_keeps_the_answer_from_nobody(
    world: World, answer: Any, logged_failures: list[Any]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    world.resolver.resolve(fail, fail)
    other = world.resolve()
    world.queries.asked[-1](answer)
    assert other.addresses or other.failure
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize("answer", [[v4(1)], socket.gaierror(-2, "Name or service not known")])
def test_thousands_who_wait_go_on_in_several_turns(world: World, answer: Any) -> None:
    waiting = [world.resolve() for _ in range(3 * ANSWERS_A_TURN)]
    world.queries.asked[-1](answer)
    answered = [each for each in waiting if each.addresses or each.failure]
    assert answered == waiting[:ANSWERS_A_TURN]
    world.clock.advance(0)  # all further turns
    assert all(each.addresses or each.failure for each in waiting)
    assert not world.clock.getDelayedCalls()


def test_one_that_gives_up_is_forgotten(world: World) -> None:
    asking = world.resolve()
    world.cancel()
    assert not world.resolver._waiting
    world.queries.answer(v4(1))
    assert asking.addresses is None


def test_an_answer_is_kept_for_a_while(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(CACHE_SECONDS - 1)
    assert world.resolver.cached()
    world.clock.advance(1)
    assert not world.resolver.cached()


def test_a_name_that_cannot_be_resolved_is_not_asked_for_by_each_client(world: World) -> None:
    first = world.resolve()
    world.queries.asked[-1](socket.gaierror(-2, "Name or service not known"))
    expected = "backend_unreachable", "cannot resolve backend.test: name or service not known"
    assert first.failure == expected
    assert world.resolve().failure == expected
    assert len(world.queries.asked) == 1
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    assert world.resolve().failure is None
    assert len(world.queries.asked) == 2


def test_a_shortage_of_descriptors_is_ours(world: World) -> None:
    asking = world.resolve()
    world.queries.asked[-1](OSError(errno.EMFILE, "Too many open files"))
    assert asking.failure == ("error", "cannot resolve backend.test: too many open files")


# -- addresses of before (RFC 8767)

TEMPORARY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What the resolver logs."""
    with logged_lines("monconn.net.resolver.Resolver") as lines:
        yield lines


@pytest.mark.parametrize(
    "error", [TEMPORARY, OSError(errno.EMFILE, "Too many open files"), UnicodeError("odd")]
)
def test_a_name_that_cannot_be_resolved_any_more_keeps_its_addresses(
    world: World, error: Exception, messages: list[str]
) -> None:
    world.known(v4(1))
    world.clock.advance(CACHE_SECONDS)
    asking = world.resolve()
    world.queries.asked[-1](error)
    assert asking.addresses == [v4(1)]
    assert world.resolver.cached() == [v4(1)], "the next one does not wait"
    assert world.resolver.staleness.startswith(
        "backend.test was resolved 30.0s ago, and cannot be now: "
    )
    world.clock.advance(CACHE_SECONDS)
    assert world.resolve().addresses is None, "it is tried again"
    world.queries.asked[-1](error)
    assert len(messages) == 1
    world.clock.advance(CACHE_SECONDS)
    world.resolve()
    world.queries.answer(v4(2))
    assert world.resolver.cached() == [v4(2)]
    assert world.resolver.staleness == ""
    assert messages[1:] == ["backend.test is resolved again"]


def test_nobody_waits_long_for_a_name_server_that_hangs(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(CACHE_SECONDS)
    waiting = [world.resolve() for _ in range(3 * ANSWERS_A_TURN)]
    world.clock.advance(PATIENCE_SECONDS)
    assert all(each.addresses == [v4(1)] for each in waiting)
    assert world.resolver.cached() == [v4(1)]
    assert "no answer yet" in world.resolver.staleness
    assert len(world.queries.asked) == 2
    world.queries.answer(v4(2))
    assert world.resolver.cached() == [v4(2)]
    assert not world.clock.getDelayedCalls()


def test_one_who_asks_first_waits_until_the_time_limit_of_its_own(world: World) -> None:
    asking = world.resolve()
    world.clock.advance(PATIENCE_SECONDS)
    assert (asking.addresses, asking.failure) == (None, None)


def test_a_query_that_hangs_for_good_is_followed_by_another(world: World) -> None:
    asking = world.resolve()
    world.clock.advance(QUERY_SECONDS)
    expected = "backend_unreachable", "cannot resolve backend.test: no name server has answered"
    assert asking.failure == expected
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    asking = world.resolve()
    assert len(world.queries.asked) == 2
    world.queries.asked[0](TEMPORARY)
    assert asking.failure is None, "what failed late tells nothing of the present one"
    world.queries.asked[0]([v4(1)])
    assert asking.addresses == [v4(1)], "an answer is one, however late"
    world.queries.asked[1]([v4(2)])
    assert world.resolver.cached() == [v4(2)]


def test_addresses_are_used_for_a_day_at_most(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(STALE_SECONDS - 1)
    world.resolve()
    world.queries.asked[-1](TEMPORARY)
    assert world.resolver.cached() == [v4(1)]
    world.clock.advance(1)
    assert world.resolver.cached() == ()
    asking = world.resolve()
    world.clock.advance(PATIENCE_SECONDS)
    assert asking.addresses is None
    world.queries.asked[-1](TEMPORARY)
    assert asking.failure is not None


def test_a_name_that_is_no_more_has_no_addresses(world: World) -> None:
    """RFC 8767, 4: that is an answer, too."""
    world.known(v4(1))
    world.clock.advance(CACHE_SECONDS)
    asking = world.resolve()
    world.queries.asked[-1](NO_SUCH_NAME)
    assert asking.failure == (
        "backend_unreachable",
        "cannot resolve backend.test: name or service not known",
    )
    assert world.resolver.cached() == ()
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    asking = world.resolve()
    world.clock.advance(PATIENCE_SECONDS)
    assert asking.addresses is None


# -- asking anew


def test_other_addresses_are_found_once_all_have_failed(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    asking = world.renew(v4(1))
    world.queries.answer(v4(1), v4(2))
    assert asking.addresses == [v4(2)]
    assert world.resolver.cached() == [v4(1), v4(2)]


def test_the_same_addresses_are_none(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    asking = world.renew(v4(1))
    world.queries.answer(v4(1))
    assert (asking.none_left, asking.addresses) == (True, None)
    assert not world.clock.getDelayedCalls()


def test_thousands_of_failing_clients_are_one_query_at_a_time(world: World) -> None:
    world.known(v4(1))
    for second in range(3):
        assert world.renew(v4(1)).none_left, "asked a moment ago"
        world.clock.advance(QUERY_INTERVAL_SECONDS)
        waiting = [world.renew(v4(1)) for _ in range(1000)]
        assert len(world.queries.asked) == 2 + second
        world.queries.answer(v4(1))
        assert [each.none_left for each in waiting].count(True) == ANSWERS_A_TURN
        world.clock.advance(0)  # all further turns
        assert all(each.none_left for each in waiting)


def test_what_another_has_found_needs_no_query(world: World) -> None:
    world.known(v4(2))
    assert world.renew(v4(1)).addresses == [v4(2)]
    assert len(world.queries.asked) == 1


def test_a_name_server_that_hangs_does_not_hold_who_has_failed(world: World) -> None:
    world.known(v4(1))
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    asking = world.renew(v4(1))
    world.clock.advance(RENEWAL_SECONDS)
    assert asking.none_left
    world.queries.answer(v4(2))
    assert world.resolver.cached() == [v4(2)]


def test_a_refresh_is_waited_for_by_nobody(world: World) -> None:
    world.known(v4(1))
    world.resolver.refresh()
    assert len(world.queries.asked) == 1, "asked a moment ago"
    world.clock.advance(QUERY_INTERVAL_SECONDS)
    world.resolver.refresh()
    assert world.resolver.cached() == [v4(1)]
    world.queries.answer(v4(2))
    assert world.resolver.cached() == [v4(2)]


@pytest.mark.parametrize("address", [TcpAddress("192.0.2.1", 80), UnixAddress("/run/back")])
def test_an_address_is_never_asked_for(address: TcpAddress | UnixAddress) -> None:
    queries = Queries()
    resolver = Resolver(address, Mock(), Clock(), queries)
    asking = Asking()
    resolver.renew(resolver.cached(), asking.found, asking.nothing)
    resolver.refresh()
    assert (asking.none_left, queries.asked) == (True, [])


# -- order


def test_families_take_turns(world: World) -> None:
    addresses = v6(1), v6(2), v6(3), v4(1), v4(2), v6(1)
    assert world.known(*addresses) == [v6(1), v4(1), v6(2), v4(2), v6(3)]


def test_of_thousands_of_addresses_some_of_both_families_are_used(world: World) -> None:
    known = world.known(*map(v6, range(2_000)), *map(v4, range(4_000)))
    assert len(known) == MOST_ADDRESSES
    assert known[:4] == [v6(0), v4(0), v6(1), v4(1)]


def test_the_order_of_an_answer_is_kept_within_a_family(world: World) -> None:
    assert world.known(v4(3), v4(1), v4(2)) == [v4(3), v4(1), v4(2)]


def test_what_has_failed_is_tried_last_and_in_time_first_again(world: World) -> None:
    addresses = v4(1), v4(2), v4(3)
    world.known(*addresses)
    world.resolver.prefer(v4(3), addresses[:2])
    assert world.resolver.cached() == [v4(3), v4(1), v4(2)]
    assert world.known(*addresses) == [v4(3), v4(1), v4(2)], "also in a later answer"
    world.clock.advance(LAST_SECONDS)
    assert world.known(*addresses) == [v4(1), v4(2), v4(3)]


def test_one_that_answers_again_is_no_longer_last(world: World) -> None:
    world.known(v4(1), v4(2))
    world.resolver.prefer(v4(2), [v4(1)])
    world.resolver.prefer(v4(1), [v4(2)])
    assert world.resolver.cached() == [v4(1), v4(2)]


# -- zones


def test_a_zone_is_looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces: dict[str, int] = {}

    def index(name: str) -> int:
        if name not in interfaces:
            raise OSError("no interface with this name")
        return interfaces[name]

    monkeypatch.setattr(socket, "if_nametoindex", index)
    resolver = Resolver(
        TcpAddress("fe80::1%eth7", 80),
        Mock(),
        Clock(),
        Queries(),
    )
    for expected in (None, 3, 5, None):
        interfaces = {} if expected is None else {"eth7": expected}
        asking = Asking()
        assert not resolver.cached()
        resolver.resolve(asking.found, asking.failed)
        if expected is None:
            assert asking.failure == ("backend_unreachable", "there is no interface eth7")
        else:
            assert asking.addresses == [(socket.AF_INET6, ("fe80::1", 80, 0, expected))]


# -- threads


class Hanging:
    """Queries that hang until they are released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> str:
        self.threads.append(threading.current_thread())
        self.released.wait(30)
        return "answer"


@pytest_twisted.ensureDeferred
async def test_queries_that_hang_hold_up_neither_others_nor_the_end_of_the_program() -> None:
    from twisted.internet import reactor

    lookups = Lookups(reactor)  # type: ignore[arg-type]
    hanging = Hanging()
    answers: list[object] = []
    try:
        assert all(lookups.start(hanging, answers.append) for _ in range(MOST_LOOKUPS - 1))
        other: Deferred[object] = Deferred()
        assert lookups.start(lambda: "at once", other.callback)
        assert not lookups.start(hanging, answers.append), "a bound"
        assert await other == "at once"
        assert not answers
        last: Deferred[object] = Deferred()
        assert lookups.start(hanging, last.callback), "there is room again"
        assert all(thread.daemon for thread in hanging.threads)
    finally:
        hanging.released.set()
    assert await last == "answer"


@pytest_twisted.ensureDeferred
async def test_an_exception_is_an_answer() -> None:
    from twisted.internet import reactor

    def fail() -> None:
        raise UnicodeError("label too long")

    answer: Deferred[object] = Deferred()
    assert Lookups(reactor).start(fail, answer.callback)  # type: ignore[arg-type]
    assert isinstance(await answer, UnicodeError)


# -- in any order

STEPS = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.5, 2.0, 31.0, 61.0, 90_000.0])),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("fail"), st.sampled_from([TEMPORARY, NO_SUCH_NAME, OSError(24, "none")])),
    st.tuples(st.sampled_from(["resolve", "renew", "refresh", "cancel"]), st.just(0)),
)


class Once(Asking):
    """Someone who must be answered exactly once, unless it gives up."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.answers = 0
        self.has_given_up = False

    def found(self, addresses: Any) -> None:
        assert addresses
        assert set(addresses) <= self.world.fresh(), "no address is older than a day"
        self.count()

    def failed(self, reason: str, detail: str) -> None:
        assert detail
        self.count()

    def nothing(self) -> None:
        self.count()

    def count(self) -> None:
        assert not self.has_given_up
        self.answers += 1


@given(st.lists(STEPS, max_size=60))
@example([("resolve", 0), ("answer", 1), ("advance", 31.0), ("resolve", 0), ("advance", 90_000.0)])
@settings(max_examples=examples(100))
def test_everybody_is_answered_once_whatever_the_name_server_does(
    steps: list[tuple[str, Any]],
) -> None:
    world = World()
    open_queries: list[Callable[[Any], object]] = []
    asking: list[tuple[Once, Callable[[], object]]] = []
    asked_at = float("-inf")
    count = 0
    for step, value in steps:
        if step == "advance":
            world.clock.advance(value)
        elif step in ("answer", "fail") and open_queries:
            done = open_queries.pop(0)
            if step == "answer":
                world.seen[v4(value)] = world.clock.seconds()
            done([v4(value)] if step == "answer" else value)
        elif step == "resolve":
            one = Once(world)
            if cached := world.resolver.cached():
                one.found(cached)
            else:
                asking.append((one, world.resolver.resolve(one.found, one.failed)))
        elif step == "renew":
            one = Once(world)
            tried = [v4(1)]
            asking.append((one, world.resolver.renew(tried, one.found, one.nothing)))
        elif step == "refresh":
            world.resolver.refresh()
        elif step == "cancel" and asking:
            one, cancel = asking.pop()
            one.has_given_up = True
            cancel()
        if len(world.queries.asked) > count:
            assert len(world.queries.asked) == count + 1
            assert world.clock.seconds() - asked_at >= QUERY_INTERVAL_SECONDS
            asked_at = world.clock.seconds()
            count += 1
            open_queries.append(world.queries.asked[-1])
    world.clock.advance(QUERY_SECONDS)
    assert all(one.answers == 1 for one, _ in asking)
    assert not world.clock.getDelayedCalls()
    assert not world.resolver._waiting
