"""One timer for the deadlines of many connections."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.monitor.deadlines import FAILED_AGAIN_SECONDS, Deadlines
from monconn.turns import WORK_SECONDS
from tests.turning import TurnClock

NEVER = float("inf")
BUCKET = Deadlines.BUCKET_SECONDS


class Item:
    """Records when it was checked; what the check does and returns is given."""

    def __init__(self, check: Callable[[float], float | None] = lambda now: None) -> None:
        self.bucket: int | None = None
        self.checks: list[float] = []
        self._check_result = check

    def check(self, now: float) -> float | None:
        self.checks.append(now)
        return self._check_result(now)


def advance(clock: Clock, seconds: float, step: float = 0.01) -> None:
    clock.pump([step] * round(seconds / step))


def keys_held(deadlines: Deadlines) -> int:
    """The size of the internal containers, which is visible only as memory."""
    return len(deadlines._buckets) + len(deadlines._keys)


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=30),
    st.floats(0, 1e6),
)
def test_never_early_and_at_most_a_bucket_late(delays: list[float], began: float) -> None:
    clock = Clock()
    clock.advance(began)
    deadlines = Deadlines(clock)
    times = [began + delay for delay in delays]
    items = [Item() for _ in times]
    for item, when in zip(items, times, strict=True):
        deadlines.schedule(item, when)
    while clock.getDelayedCalls():  # jump from timer to timer, as a precise reactor would
        clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
    for item, when in zip(items, times, strict=True):
        (checked,) = item.checks
        assert when <= checked <= when + BUCKET + 1e-6
    assert keys_held(deadlines) == 0


@given(st.integers(0, 10**7))
def test_moments_between_two_buckets(tenths: int) -> None:
    """Where rounding decides which bucket it is."""
    clock = Clock()
    clock.advance(tenths * BUCKET)
    item = Item()
    Deadlines(clock).schedule(item, clock.seconds())
    clock.advance(BUCKET + 1e-6)
    assert len(item.checks) == 1


def test_due_by_a_time_and_not_later_for_that() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    new, early, late = Item(), Item(), Item()
    deadlines.schedule(early, 3.0)
    deadlines.schedule(late, 9.0)
    for item in (new, early, late):
        deadlines.schedule_by(item, 5.0)
    advance(clock, 12)
    assert [round(each.checks[0]) for each in (new, early, late)] == [5, 3, 5]
    assert len(late.checks) == 1


def test_one_timer_however_many_items() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    for when in (7.0, 3.0, 9.0, 1.0, 1.0, 8.0):
        deadlines.schedule(Item(), when)
        assert len(clock.getDelayedCalls()) == 1
    while len(deadlines):
        assert len(clock.getDelayedCalls()) == 1
        advance(clock, 0.1)
    assert clock.getDelayedCalls() == []


def test_check_is_repeated_at_the_time_it_asks_for() -> None:
    clock = Clock()
    item = Item(lambda now: now + 1.0 if now < 3 else None)
    Deadlines(clock).schedule(item, 1.0)
    advance(clock, 10.0)
    assert item.checks == pytest.approx([1.1, 2.2, 3.3], abs=0.11)


@pytest.mark.parametrize("tenths", [3, 43, 81, 1000])
def test_check_that_asks_for_no_time_at_all_does_not_spin(tenths: int) -> None:
    clock = Clock()
    item = Item(lambda now: now if len(item.checks) < 1000 else None)
    Deadlines(clock).schedule(item, (tenths - 0.5) * BUCKET)
    clock.advance(tenths * BUCKET)
    assert len(item.checks) == 1


def test_earlier_time_moves_the_timer() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    late, early = Item(), Item()
    deadlines.schedule(late, 100.0)
    deadlines.schedule(early, 1.0)
    advance(clock, 1.2)
    assert (len(early.checks), len(late.checks)) == (1, 0)


@pytest.mark.parametrize(("first", "second"), [(1.0, 5.0), (5.0, 1.0), (2.0, 2.0)])
def test_last_time_counts(first: float, second: float) -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item = Item()
    deadlines.schedule(item, first)
    deadlines.schedule(item, second)
    assert len(deadlines) == 1
    advance(clock, 10.0)
    assert item.checks == [pytest.approx(second + 0.05, abs=0.07)]


def test_cancelled_is_not_checked() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item, other = Item(), Item()
    deadlines.schedule(item, 1.0)
    deadlines.schedule(other, 1.0)
    deadlines.cancel(item)
    deadlines.cancel(item)  # harmless
    advance(clock, 2.0)
    assert (item.checks, len(other.checks), len(deadlines)) == ([], 1, 0)


def test_never_is_no_time_and_drops_an_earlier_one() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item = Item()
    deadlines.schedule(item, 1.0)
    deadlines.schedule(item, NEVER)
    advance(clock, 5.0)
    assert (item.checks, len(deadlines)) == ([], 0)


def test_check_may_drop_and_move_others() -> None:
    """As one connection's end may end others, all of them due in the same turn."""
    clock = Clock()
    deadlines = Deadlines(clock)
    items: list[Item] = []

    def rule_the_others(now: float) -> None:
        dropped, moved = [item for item in items if not item.checks]
        deadlines.cancel(dropped)
        deadlines.schedule(moved, now + 5.0)
        moved._check_result = lambda now: None

    items += [Item(rule_the_others) for _ in range(3)]
    for item in items:
        deadlines.schedule(item, 1.0)
    advance(clock, 2.0)
    assert sorted(len(item.checks) for item in items) == [0, 0, 1]
    advance(clock, 10.0)
    assert sorted(len(item.checks) for item in items) == [0, 1, 1]


def test_check_may_schedule_the_past() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    other = Item()
    deadlines.schedule(other, 1.0)
    deadlines.schedule(Item(lambda now: deadlines.schedule(other, 0.5)), 1.0)
    advance(clock, 3.0)
    assert 1 <= len(other.checks) <= 2
    assert (len(deadlines), keys_held(deadlines)) == (0, 0)


def test_item_that_raises_is_checked_again(logged_failures: list[Failure]) -> None:
    """Else a relay would never end by itself any more."""
    clock = Clock()
    deadlines = Deadlines(clock)

    def raises_once(now: float) -> None:
        if len(item.checks) == 1:
            raise ZeroDivisionError

    item = Item(raises_once)
    deadlines.schedule(item, 1)
    advance(clock, FAILED_AGAIN_SECONDS + 2)
    assert len(item.checks) == 2
    assert len(deadlines) == 0
    logged_failures.clear()


def test_item_that_raises_stops_no_other(logged_failures: list[Failure]) -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    items = [Item(lambda now: 1 / 0), Item(), Item(lambda now: 1 / 0), Item()]
    for item in items:
        deadlines.schedule(item, 1.0)
    deadlines.schedule(later := Item(), 2.0)
    advance(clock, 3.0)
    assert [len(item.checks) for item in (*items, later)] == [1, 1, 1, 1, 1]
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError] * 2
    logged_failures.clear()


def test_timer_that_fires_early_is_set_again() -> None:
    """A reactor's timers go by a clock of their own."""
    clock = Clock()
    monotonic = Clock()

    class TwoClocks:
        seconds = staticmethod(monotonic.seconds)
        callLater = staticmethod(clock.callLater)

    item = Item()
    Deadlines(TwoClocks).schedule(item, 1.0)
    monotonic.advance(0.9)
    clock.advance(2.0)
    assert item.checks == []
    monotonic.advance(0.3)
    clock.advance(0.3)
    assert len(item.checks) == 1


def test_thousands_of_items() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    random_number = random.Random(1)
    times = [random_number.uniform(0, 60) for _ in range(20_000)]
    items = [Item() for _ in times]
    for item, when in zip(items, times, strict=True):
        deadlines.schedule(item, when)
    for item in items[::2]:
        deadlines.cancel(item)
    assert len(deadlines) == 10_000
    advance(clock, 61, step=0.1)
    assert [len(item.checks) for item in items] == [0, 1] * 10_000
    assert keys_held(deadlines) == 0


@pytest.mark.parametrize("days", [1, 365])
def test_connections_that_come_and_go_leave_nothing_behind(days: int) -> None:
    """With a lifetime of days, each tenth of a second would otherwise keep a bucket."""
    clock = Clock()
    deadlines = Deadlines(clock)
    for number in range(5_000):
        item = Item()
        deadlines.schedule(item, days * 86400 + number)
        deadlines.cancel(item)
    assert len(deadlines) == 0
    assert keys_held(deadlines) < 200


def test_deadlines_that_change_all_the_time_leave_nothing_behind() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    items = [Item() for _ in range(10)]
    for number in range(5_000):
        deadlines.schedule(items[number % 10], number % 7 + 1)
    assert len(deadlines) == 10
    assert keys_held(deadlines) < 200
    advance(clock, 9)
    assert [len(item.checks) for item in items] == [1] * 10
    assert keys_held(deadlines) == 0


def test_thousands_that_are_due_at_once_are_checked_in_parts() -> None:
    clock = TurnClock()
    deadlines = Deadlines(clock)
    a_turn, count = 40, 1000
    checked: list[float] = []

    def check(now: float) -> None:
        clock.work(WORK_SECONDS / a_turn)
        checked.append(now)

    for _ in range(count):
        deadlines.schedule(Item(check), 10.0)
    clock.work(10.0 + 2 * BUCKET)
    late = Item()
    changes = []
    while len(checked) < count:
        before = len(checked)
        clock.turn()
        changes.append(len(checked) - before)
        assert len(changes) < 2 * count / a_turn, "it comes to an end"
        if len(changes) == 3:
            deadlines.schedule(late, clock.seconds())
    assert max(changes) <= a_turn + 1
    assert checked == sorted(checked)
    assert checked[-1] > checked[0], "each is told the time of its check"
    clock.advance(2 * BUCKET)
    assert len(late.checks) == 1, "what was scheduled meanwhile has its timer"
    assert len(deadlines) == 0
