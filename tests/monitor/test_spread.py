"""Connections end evenly over a time, whoever leaves meanwhile."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.monitor.spread import LEAST_SECONDS, Spread

from ..properties import examples


class World:
    def __init__(self, count: int, seconds: float) -> None:
        self.clock: Any = Clock()
        self.ended: list[tuple[float, int]] = []
        self.is_over = False
        self.spread = Spread(self.clock, range(count), seconds, self._end, self._done)
        self.spread.start()

    def _end(self, chosen: list[int]) -> None:
        self.ended += [(self.clock.seconds(), each) for each in chosen]

    def _done(self, spread: Spread) -> None:
        self.is_over = True

    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())


def test_one_ends_after_each_share_of_the_time_in_random_order() -> None:
    orders = set()
    for _ in range(20):
        world = World(5, 10.0)
        for _ in range(100):
            world.clock.advance(0.125)
        assert [round(when, 3) for when, _ in world.ended] == [2, 4, 6, 8, 10]
        assert sorted(each for _, each in world.ended) == list(range(5))
        assert (world.is_over, world.timers()) == (True, 0)
        orders.add(tuple(each for _, each in world.ended))
    assert len(orders) > 1


def test_many_end_in_few_steps() -> None:
    world = World(10_000, 1.0)
    steps = 0
    while world.timers():
        (timer,) = world.clock.getDelayedCalls()
        world.clock.advance(timer.getTime() - world.clock.seconds())
        steps += 1
        due = 10_000 * world.clock.seconds()
        assert abs(len(world.ended) - due) <= 10_000 * LEAST_SECONDS
    assert (len(world.ended), world.clock.seconds()) == (10_000, 1.0)
    assert steps <= 1 / LEAST_SECONDS + 1


def test_the_pace_is_that_of_those_who_are_left() -> None:
    world = World(100, 100.0)
    gone: set[int] = set()
    for _ in range(10):
        world.clock.advance(1)
    for each in range(100):
        if each not in {ended for _, ended in world.ended} and len(gone) < 45:
            gone.add(each)
            world.spread.left(each)
    for _ in range(720):
        world.clock.advance(0.125)
    assert len(world.ended) == 55
    times = [when for when, _ in world.ended[10:]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(1.8 <= gap <= 2.2 for gap in gaps), gaps
    assert abs(times[-1] - 100) < 1e-6


@given(
    st.integers(1, 60),
    st.floats(0.2, 100),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 59)), max_size=60),
)
@settings(max_examples=examples(100), deadline=None)
def test_each_ends_once_and_in_time(
    count: int, seconds: float, leaving: list[tuple[float, int]]
) -> None:
    world = World(count, seconds)
    left: dict[int, float] = {}
    for after, each in leaving:
        world.clock.advance(after)
        if each < count and each not in left:
            left[each] = world.clock.seconds()
            world.spread.left(each)
        assert world.timers() == (0 if world.is_over else 1)
    world.clock.advance(seconds)
    world.clock.advance(seconds)
    ended = [each for _, each in world.ended]
    assert len(ended) == len(set(ended))
    assert set(ended) | set(left) >= set(range(count))
    for when, each in world.ended:
        assert when <= left.get(each, when), "it had left before"
    assert (world.is_over, world.timers(), len(world.spread)) == (True, 0, 0)


def test_what_is_cancelled_ends_nobody() -> None:
    world = World(5, 10.0)
    world.clock.advance(2)
    world.spread.cancel()
    world.spread.cancel()
    world.clock.advance(20)
    assert (len(world.ended), world.is_over, world.timers()) == (1, True, 0)
