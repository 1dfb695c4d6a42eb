from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.progress import SendProgress
from monconn.policy.timeouts import Timeouts

NEVER = float("inf")
BUCKET = Deadlines.BUCKET_SECONDS
OFF = {
    "connect_timeout": 0.0,
    "read_timeout": 0.0,
    "write_timeout": 0.0,
    "max_idle": 0.0,
    "half_close_timeout": 0.0,
    "max_lifetime": 0.0,
}


def make_record(**fields: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 1,
        "service": "",
        "client": "",
        "client_ip": "",
        "listener": "",
        "backend": "",
        "opened_at": 0.0,
        "opened": 100.0,
        "state": "open",
    }
    return ConnectionRecord(**known | fields)


# -- Timeouts: when a connection is to end


@pytest.mark.parametrize(
    ("limits", "fields", "deadline"),
    [
        ({}, {}, (NEVER, None)),
        ({"connect_timeout": 10}, {"state": "connecting"}, (110, "connect_timeout")),
        ({"connect_timeout": 10}, {"state": "open"}, (NEVER, None)),
        # idle: from the opening on, and bytes either way count
        ({"max_idle": 20}, {}, (120, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0}, (125, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0, "last_down": 107.0}, (127, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0, "last_delivered": 109.0}, (129, "idle_timeout")),
        ({"max_idle": 20}, {"state": "connecting"}, (120, "idle_timeout")),
        # lifetime: whatever it does
        ({"max_lifetime": 50}, {"last_up": 149.0}, (150, "lifetime")),
        # read: only bytes from the client count, and only while we read and it may send
        ({"read_timeout": 30}, {"reading_since": 100.0}, (130, "read_timeout")),
        (
            {"read_timeout": 30},
            {"reading_since": 100.0, "last_up": 104.0, "last_down": 109.0},
            (134, "read_timeout"),
        ),
        ({"read_timeout": 30}, {"reading_since": 108.0, "last_up": 104.0}, (138, "read_timeout")),
        ({"read_timeout": 30}, {"reading_since": None}, (NEVER, None)),
        ({"read_timeout": 30}, {"reading_since": 100.0, "client_end": "fin"}, (NEVER, None)),
        # write: either side
        ({"write_timeout": 40}, {}, (NEVER, None)),
        ({"write_timeout": 40}, {"client_stalled": 102.0}, (142, "write_timeout")),
        ({"write_timeout": 40}, {"backend_stalled": 103.0}, (143, "write_timeout")),
        (
            {"write_timeout": 40},
            {"client_stalled": 109.0, "backend_stalled": 103.0},
            (143, "write_timeout"),
        ),
        # half-closed: from then on, and bytes count
        ({"half_close_timeout": 5}, {"last_up": 104.0}, (NEVER, None)),
        ({"half_close_timeout": 5}, {"half_closed": 106.0}, (111, "half_close_timeout")),
        (
            {"half_close_timeout": 5},
            {"half_closed": 106.0, "last_down": 108.0},
            (113, "half_close_timeout"),
        ),
        (
            {"half_close_timeout": 5},
            {"half_closed": 106.0, "last_up": 101.0},
            (111, "half_close_timeout"),
        ),
        # several: the earliest
        (
            {"max_idle": 20, "max_lifetime": 15, "connect_timeout": 30},
            {"state": "connecting"},
            (115, "lifetime"),
        ),
    ],
)
def test_next_deadline(
    limits: dict[str, float], fields: dict[str, Any], deadline: tuple[float, str | None]
) -> None:
    assert Timeouts(**OFF | limits).next_deadline(make_record(**fields)) == deadline


@pytest.mark.parametrize(
    ("limits", "now", "look"),
    [
        ({}, 100.0, NEVER),
        # Four looks in the length of these, as nobody says that bytes that wait have moved.
        ({"max_idle": 20}, 100.0, 105.0),
        ({"max_idle": 20}, 118.0, 120.0),
        ({"write_timeout": 40}, 100.0, 110.0),
        ({"write_timeout": 40, "max_idle": 8}, 100.0, 102.0),
        ({"write_timeout": 40, "max_idle": 80}, 175.0, 180.0),
    ],
)
def test_next_look(limits: dict[str, float], now: float, look: float) -> None:
    assert Timeouts(**OFF | limits).next_check(make_record(), now) == look


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, 30.0),
        ({"connect_timeout": 10, "max_lifetime": 20}, 10),
        ({"read_timeout": 7, "max_lifetime": 20}, 7),
        ({"max_lifetime": 20}, 20),
        ({"write_timeout": 40, "max_idle": 80}, 10),
        ({"write_timeout": 80, "max_idle": 40}, 10),
        ({"half_close_timeout": 1}, 30.0),  # the change of state brings a look
    ],
)
def test_first_look(limits: dict[str, float], seconds: float) -> None:
    """It is reckoned beforehand: what a look at the opening would say, or half a minute."""
    timeouts = Timeouts(**OFF | limits)
    assert timeouts.first_check_seconds == seconds
    fresh = make_record(state="connecting", reading_since=100.0)
    assert min(timeouts.next_check(fresh, 100.0), 130.0) == 100.0 + seconds


def test_defaults() -> None:
    assert Timeouts() == Timeouts(
        connect_timeout=10,
        read_timeout=0,
        write_timeout=600,
        max_idle=900,
        half_close_timeout=0,
        max_lifetime=0,
    )


# -- SendProgress: do waiting bytes make progress?


@pytest.mark.parametrize(
    "looks",  # each: bytes waiting, bytes delivered, now, stalled since
    [
        [(0, 0, 1.0, None)],
        [(5, 0, 1.0, 1.0), (5, 0, 2.0, 1.0), (9, 0, 3.0, 1.0)],
        # progress, though more waits than before
        [(5, 0, 1.0, 1.0), (9, 3, 2.0, 2.0), (9, 3, 3.0, 2.0)],
        # all delivered; what waits later waits from then on
        [(5, 0, 1.0, 1.0), (0, 5, 2.0, None), (5, 5, 3.0, 3.0), (5, 5, 4.0, 3.0)],
        # delivered and waiting again between two looks
        [(5, 0, 1.0, 1.0), (5, 5, 2.0, 2.0)],
        [(0, 7, 1.0, None), (5, 7, 2.0, 2.0), (5, 7, 3.0, 2.0)],
    ],
)
def test_backlog(looks: list[tuple[int, int, float, float | None]]) -> None:
    backlog = SendProgress()
    for waiting, delivered, now, since in looks:
        backlog.check(waiting, delivered, now)
        assert backlog.stalled_since == since


def test_backlog_tells_when_what_waited_has_moved() -> None:
    backlog = SendProgress()
    assert backlog.check(0, 10, 1.0) is None
    assert backlog.check(5, 20, 2.0) is None  # nothing had waited before
    assert backlog.check(5, 20, 3.0) is None
    assert backlog.check(2, 23, 4.0) == 3.0
    assert backlog.check(0, 25, 5.0) == 4.0
    assert backlog.check(0, 25, 6.0) is None


# -- Deadlines: looking in time


class Item:
    """Notes when it was looked at, and does and answers what it was told."""

    def __init__(self, look: Callable[[float], float | None] = lambda now: None) -> None:
        self.bucket: int | None = None
        self.looks: list[float] = []
        self._check_result = look

    def check(self, now: float) -> float | None:
        self.looks.append(now)
        return self._check_result(now)


def advance(clock: Clock, seconds: float, step: float = 0.01) -> None:
    clock.pump([step] * round(seconds / step))


def keys_held(deadlines: Deadlines) -> int:
    """The size of what is kept inside, which nothing but memory shows."""
    return len(deadlines._buckets) + len(deadlines._keys)


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=30),
    st.floats(0, 1e6),
)
def test_never_early_and_at_most_a_bucket_late(delays: list[float], began: float) -> None:
    clock = Clock()
    clock.advance(began)
    deadlines = Deadlines(clock)
    wishes = [began + delay for delay in delays]
    items = [Item() for _ in wishes]
    for item, when in zip(items, wishes, strict=True):
        deadlines.schedule(item, when)
    while clock.getDelayedCalls():  # jump from timer to timer, as a precise reactor would
        clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
    for item, when in zip(items, wishes, strict=True):
        (looked,) = item.looks
        assert when <= looked <= when + BUCKET + 1e-6
    assert keys_held(deadlines) == 0


@given(st.integers(0, 10**7))
def test_moments_between_two_buckets(tenths: int) -> None:
    """Where rounding decides which bucket it is."""
    clock = Clock()
    clock.advance(tenths * BUCKET)
    item = Item()
    Deadlines(clock).schedule(item, clock.seconds())
    clock.advance(BUCKET + 1e-6)
    assert len(item.looks) == 1


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


def test_look_is_repeated_at_the_time_it_asks_for() -> None:
    clock = Clock()
    item = Item(lambda now: now + 1.0 if now < 3 else None)
    Deadlines(clock).schedule(item, 1.0)
    advance(clock, 10.0)
    assert item.looks == pytest.approx([1.1, 2.2, 3.3], abs=0.11)


@pytest.mark.parametrize("tenths", [3, 43, 81, 1000])
def test_look_that_asks_for_no_time_at_all_does_not_spin(tenths: int) -> None:
    clock = Clock()
    item = Item(lambda now: now if len(item.looks) < 1000 else None)
    Deadlines(clock).schedule(item, (tenths - 0.5) * BUCKET)
    clock.advance(tenths * BUCKET)
    assert len(item.looks) == 1


def test_earlier_wish_moves_the_timer() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    late, early = Item(), Item()
    deadlines.schedule(late, 100.0)
    deadlines.schedule(early, 1.0)
    advance(clock, 1.2)
    assert (len(early.looks), len(late.looks)) == (1, 0)


@pytest.mark.parametrize(("first", "second"), [(1.0, 5.0), (5.0, 1.0), (2.0, 2.0)])
def test_last_wish_counts(first: float, second: float) -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item = Item()
    deadlines.schedule(item, first)
    deadlines.schedule(item, second)
    assert len(deadlines) == 1
    advance(clock, 10.0)
    assert item.looks == [pytest.approx(second + 0.05, abs=0.07)]


def test_cancelled_is_not_looked_at() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item, other = Item(), Item()
    deadlines.schedule(item, 1.0)
    deadlines.schedule(other, 1.0)
    deadlines.cancel(item)
    deadlines.cancel(item)  # harmless
    advance(clock, 2.0)
    assert (item.looks, len(other.looks), len(deadlines)) == ([], 1, 0)


def test_never_is_no_wish_and_drops_an_earlier_one() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    item = Item()
    deadlines.schedule(item, 1.0)
    deadlines.schedule(item, NEVER)
    advance(clock, 5.0)
    assert (item.looks, len(deadlines)) == ([], 0)


def test_look_may_drop_and_move_others() -> None:
    """As one connection's end may end others, all of them due in the same turn."""
    clock = Clock()
    deadlines = Deadlines(clock)
    items: list[Item] = []

    def rule_the_others(now: float) -> None:
        dropped, moved = [item for item in items if not item.looks]
        deadlines.cancel(dropped)
        deadlines.schedule(moved, now + 5.0)
        moved._check_result = lambda now: None

    items += [Item(rule_the_others) for _ in range(3)]
    for item in items:
        deadlines.schedule(item, 1.0)
    advance(clock, 2.0)
    assert sorted(len(item.looks) for item in items) == [0, 0, 1]
    advance(clock, 10.0)
    assert sorted(len(item.looks) for item in items) == [0, 1, 1]


def test_look_may_schedule_the_past() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    other = Item()
    deadlines.schedule(other, 1.0)
    deadlines.schedule(Item(lambda now: deadlines.schedule(other, 0.5)), 1.0)
    advance(clock, 3.0)
    assert 1 <= len(other.looks) <= 2
    assert (len(deadlines), keys_held(deadlines)) == (0, 0)


def test_item_that_raises_stops_no_other(logged_failures: list[Failure]) -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    items = [Item(lambda now: 1 / 0), Item(), Item(lambda now: 1 / 0), Item()]
    for item in items:
        deadlines.schedule(item, 1.0)
    deadlines.schedule(later := Item(), 2.0)
    advance(clock, 3.0)
    assert [len(item.looks) for item in (*items, later)] == [1, 1, 1, 1, 1]
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
    assert item.looks == []
    monotonic.advance(0.3)
    clock.advance(0.3)
    assert len(item.looks) == 1


def test_thousands_of_items() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    random_number = random.Random(1)
    wishes = [random_number.uniform(0, 60) for _ in range(20_000)]
    items = [Item() for _ in wishes]
    for item, when in zip(items, wishes, strict=True):
        deadlines.schedule(item, when)
    for item in items[::2]:
        deadlines.cancel(item)
    assert len(deadlines) == 10_000
    advance(clock, 61, step=0.1)
    assert [len(item.looks) for item in items] == [0, 1] * 10_000
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


def test_wishes_that_change_all_the_time_leave_nothing_behind() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    items = [Item() for _ in range(10)]
    for number in range(5_000):
        deadlines.schedule(items[number % 10], number % 7 + 1)
    assert len(deadlines) == 10
    assert keys_held(deadlines) < 200
    advance(clock, 9)
    assert [len(item.looks) for item in items] == [1] * 10
    assert keys_held(deadlines) == 0
