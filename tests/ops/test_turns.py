"""Work over many connections goes on over turns of the reactor, of which each has little."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.model.actions import OWN_CODE
from monconn.ops.feed import QUEUED_EVENTS, FeedEvent, Subscription
from monconn.ops.live_queries import QUERIES_AT_ONCE
from monconn.ops.operations import Operations
from monconn.ops.rates import MOST_SECONDS, Rates
from monconn.ops.rows import ORDERS
from monconn.steps import SORTED_AT_ONCE, RowSteps, sort_in_steps
from monconn.turns import WORK_SECONDS, result_of
from tests.properties import examples
from tests.turning import TurnClock

from .world import World

MANY = 2_000
STEPS_A_TURN = 50


class StepClock(TurnClock):
    """A clock on which every step takes as long as all others."""

    def seconds(self) -> float:
        self.rightNow += WORK_SECONDS / STEPS_A_TURN
        return super().seconds()


class Busy(World):
    """Many connections, each from an IP of its own."""

    def __init__(self) -> None:
        super().__init__("web", "ssh")
        self.made = self.connect("web", *(f"10.0.{n // 250}.{n % 250}" for n in range(MANY)))
        for number, each in enumerate(self.made):
            each.record.up = number * 7919 % MANY
        self.devices = DevicesService(DevicesConfig(), self.registry, self.clock)
        self.operations = Operations(self.registry, self.clock, devices=self.devices)
        self.result(self.operations.connections(limit=0))  # so that rates are known

    def turns_of(self, deferred: Deferred[Any]) -> tuple[int, Any]:
        """How many turns an answer takes, and the answer."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        turns = 1
        while not results:
            self.clock.turn()
            turns += 1
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return turns, results[0]


def rows_of(clock: TurnClock, rows: RowSteps[Any]) -> Deferred[list[Any]]:
    """All rows of a query, made in as many turns as they take."""

    def collect() -> Generator[None, None, list[Any]]:
        found = []
        for row in rows:
            if row is not None:
                found.append(row)
            yield
        return found

    return result_of(clock, collect())


@pytest.fixture
def busy() -> Iterator[Busy]:
    world = Busy()
    world.clock.__class__ = StepClock
    yield world
    world.clock.advance(MOST_SECONDS + 1)
    assert not world.clock.getDelayedCalls()


@pytest.mark.parametrize(
    "ask",
    [
        lambda asked: asked.connections("client:10.0.0.0/30", limit=1),
        lambda asked: asked.connections(sort="up"),
        lambda asked: asked.connections(text="no such text"),
        lambda asked: asked.connections("unreachable:0.."),
        lambda asked: asked.close(OWN_CODE, service="web", dry_run=True),
        lambda asked: asked.close(OWN_CODE, filter="client:10.0.0.0/30"),
        lambda asked: asked.close(OWN_CODE, service="web"),
        lambda asked: rows_of(asked.clock, asked.services()),
        lambda asked: rows_of(asked.clock, asked.ips("web")),
        lambda asked: rows_of(asked.clock, asked.clients(filter="no such text")),
        lambda asked: rows_of(asked.clock, asked.devices(filter="no such text")),
    ],
)
def test_many_connections_take_many_turns(
    busy: Busy, ask: Callable[[Operations], Deferred[Any]]
) -> None:
    turns, _ = busy.turns_of(ask(busy.operations))
    assert turns >= MANY / STEPS_A_TURN


def test_many_blocks_take_many_turns(busy: Busy) -> None:
    web = busy.registry.get("web")
    for number in range(MANY):
        web.block(f"172.16.{number // 250}.{number % 250}", actor=None)
    turns, rows = busy.turns_of(rows_of(busy.clock, busy.operations.blocks(filter="172.16.0.0/31")))
    assert [row.network for row in rows] == ["172.16.0.0/32", "172.16.0.1/32"]
    assert turns >= MANY / STEPS_A_TURN


def test_a_long_list_is_that_of_a_short_time(busy: Busy) -> None:
    _, listing = busy.turns_of(busy.operations.connections(sort="up", offset=5, limit=3))
    assert listing.total == MANY
    assert [row.up for row in listing.rows] == [MANY - 6, MANY - 7, MANY - 8]
    _, (web, ssh) = busy.turns_of(rows_of(busy.clock, busy.operations.services()))
    assert (web.connections, web.ip_count, web.up) == (MANY, MANY, sum(range(MANY)))
    assert (ssh.connections, ssh.up, ssh.ips) == (0, 0, None)


def test_a_limited_list_holds_no_more_than_it_needs(busy: Busy) -> None:
    busy.connect("ssh", *(f"10.1.{n // 250}.{n % 250}" for n in range(2 * SORTED_AT_ONCE)))
    for order in (*ORDERS, "client", "-client", "service", "reason", "-up"):
        _, whole = busy.turns_of(busy.operations.connections(sort=order))
        _, part = busy.turns_of(busy.operations.connections(sort=order, offset=700, limit=100))
        assert part.total == whole.total == MANY + 2 * SORTED_AT_ONCE
        if order not in ("age", "idle", "rate"):  # the clock moves on
            expected = [row.id for row in whole.rows][700:800]
            assert [row.id for row in part.rows] == expected


def test_figures_count_what_closes_meanwhile_once(busy: Busy) -> None:
    waiting = rows_of(busy.clock, busy.operations.services("web"))
    for each in busy.made[::2]:
        each.end("operator")
    _, (web,) = busy.turns_of(waiting)
    assert web.up == sum(range(MANY))
    listing = rows_of(busy.clock, busy.operations.clients("web"))
    for each in busy.made[1::2]:
        each.end("operator")
    _, clients = busy.turns_of(listing)
    assert sum(row.up for row in clients) == sum(range(MANY))


def test_connections_and_services_may_go_while_they_are_listed(busy: Busy) -> None:
    waiting = busy.operations.connections("unreachable:0.. not:unreachable:0..")
    listing = busy.operations.connections()
    closing = busy.operations.close(OWN_CODE, service="web")
    for each in busy.made[MANY // 2 :]:
        each.end("stopping")
    busy.registry.delete("web")
    assert busy.turns_of(waiting)[1].total == 0
    _, found = busy.turns_of(listing)
    assert {row.state for row in found.rows} <= {"open", "closed"}
    _, done = busy.turns_of(closing)
    assert all(each.record.closed is not None for each in busy.made)
    assert len(done.ids) <= MANY


def test_a_cancelled_query_does_nothing_more(busy: Busy) -> None:
    failures: list[Failure] = []
    listing = busy.operations.connections("unreachable:0..").addErrback(failures.append)
    closing = busy.operations.close(OWN_CODE, filter="unreachable:0..").addErrback(failures.append)
    while not any(each.measured for each in busy.made):
        busy.clock.turn()
    measured = sum(each.measured for each in busy.made)
    assert measured < MANY
    listing.cancel()
    closing.cancel()
    for _ in range(5):
        busy.clock.turn()
    assert sum(each.measured for each in busy.made) == measured
    assert [failure.check(CancelledError) for failure in failures] == [CancelledError] * 2
    assert not any(each.record.closed for each in busy.made)
    assert busy.actions.all == []


def test_an_action_that_has_begun_is_not_cancelled(busy: Busy) -> None:
    failures: list[Failure] = []
    closing = busy.operations.close(OWN_CODE, service="web").addErrback(failures.append)
    while not any(each.record.closed for each in busy.made):
        busy.clock.turn()
    closing.cancel()
    assert len(failures) == 1
    while not busy.actions.all:
        busy.clock.turn()
    assert all(each.record.closed for each in busy.made)
    assert [(each.kind, each.count) for each in busy.actions.all] == [("close", MANY)]


def test_few_queries_are_worked_on_at_once(busy: Busy) -> None:
    """Each of them makes a list of all connections."""
    failures: list[Failure] = []
    answers: list[int] = []
    waiting = [
        busy.operations.connections("not:client:192.0.2.0/24")
        .addCallback(lambda listing: answers.append(listing.total))
        .addErrback(failures.append)
        for _ in range(3 * QUERIES_AT_ONCE)
    ]
    while busy.operations._live._room.tokens:  # until rates are known
        busy.clock.turn()
    assert len(busy.operations._live._room.waiting) == 2 * QUERIES_AT_ONCE
    waiting[0].cancel()  # one that is worked on
    waiting[-1].cancel()  # and one that waits
    while len(answers) < len(waiting) - 2:
        busy.clock.turn()
    assert set(answers) == {MANY}
    assert len(failures) == 2
    assert busy.operations._live._room.tokens == QUERIES_AT_ONCE


def test_samples_for_rates_are_dropped_once_they_are_too_old() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    made.record.opened -= 1000.0
    world.result(world.operations.connections())
    world.clock.advance(MOST_SECONDS)
    rates = world.operations._live._rates
    assert not any((rates._before, rates._after, rates._earlier))
    waiting = world.operations.connections()
    assert not waiting.called  # they are measured anew
    made.record.up += 500
    (row,) = world.result(waiting).rows
    assert row.up_rate == 2000.0


def test_who_gives_up_waiting_for_rates_is_nothing_to_others() -> None:
    world = World("web")
    world.connect("web", "192.0.2.1")
    failures: list[Failure] = []
    first = world.operations.connections(sort="rate").addErrback(failures.append)
    second = world.operations.connections(sort="rate")
    first.cancel()
    assert len(failures) == 1
    assert world.result(second).total == 1
    world.clock.advance(MOST_SECONDS)
    assert not world.clock.getDelayedCalls()


def test_a_fault_in_sampling_is_that_of_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("web")

    def sample(*_: object) -> Iterator[None]:
        yield
        raise ZeroDivisionError

    monkeypatch.setattr(Rates, "sample", sample)
    for _ in range(2):  # and the next one tries again
        found = world.result(world.operations.connections().addErrback(lambda failure: failure))
        assert isinstance(found, Failure)
        assert found.check(ZeroDivisionError)


def test_a_query_of_the_history_that_nobody_waits_for_is_under_way_until_it_is_over() -> None:
    class History:
        def run(self, query: object) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

    running: list[Deferred[Any]] = []
    world = World("web")
    operations = Operations(world.registry, world.clock, history=History())  # type: ignore[arg-type]
    operations.history().addErrback(lambda _: None).cancel()  # its client has left
    operations.report().addErrback(lambda _: None).cancel()
    assert [each.called for each in running] == [False, False]
    for each in running:
        each.callback([])


# -- events


def test_filters_of_many_subscribers_take_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("web")
    tried: list[int] = [0]
    got: list[list[int]] = [[] for _ in range(60)]

    def wants(self: Subscription, event: FeedEvent) -> bool:
        tried[-1] += 1
        world.clock.rightNow += WORK_SECONDS / 10  # a hundred words, say
        return True

    monkeypatch.setattr(Subscription, "wants", wants)
    for events in got:
        world.operations.subscribe(
            lambda event, events=events: events.append(event.sequence),  # type: ignore[misc]
            filter="not:zzz",
        )
    world.connect("web", *["192.0.2.1"] * 20)
    while any(len(events) < 20 for events in got):
        tried.append(0)
        world.clock.turn()
    assert max(tried) <= 12
    assert all(events == [*range(1, 21)] for events in got)


def test_events_that_wait_are_bounded() -> None:
    world = World("web")
    got: list[FeedEvent] = []
    subscription = world.operations.subscribe(got.append, filter="event:opened")
    world.clock.__class__ = StepClock
    world.connect("web", *["192.0.2.1"] * (QUEUED_EVENTS + 500))
    assert len(world.operations.feed._queue) <= QUEUED_EVENTS
    while world.operations.feed._is_delivering:
        world.clock.turn()
    assert subscription.dropped > 0
    assert len(got) + subscription.dropped == QUEUED_EVENTS + 500


def test_an_event_that_waits_is_not_delivered_to_who_has_cancelled() -> None:
    world = World("web")
    got: list[FeedEvent] = []
    others: list[FeedEvent] = []

    def deliver(event: FeedEvent) -> None:
        got.append(event)
        second.cancel()

    first = world.operations.subscribe(deliver)
    second = world.operations.subscribe(others.append)
    world.connect("web", "192.0.2.1")
    assert (len(got), others) == (1, [])
    first.cancel()


# -- sorting


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 80), st.booleans())
def test_sorting_in_steps_is_sorting(some: list[int], times: int, reverse: bool) -> None:
    keyed = [(number, place) for place, number in enumerate(some * times)]
    expected = sorted(keyed, key=lambda each: each[0], reverse=reverse)
    steps = -(-len(keyed) // SORTED_AT_ONCE)
    sorting = sort_in_steps(keyed, reverse=reverse)
    for _ in range(steps):
        next(sorting)
    with pytest.raises(StopIteration) as stopped:
        next(sorting)
    assert list(stopped.value.value) == expected
    assert keyed == []
