"""Long work in parts, and how long the turns of the loop take."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from monconn import turns
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.turns import (
    BURST_SECONDS,
    LOG_PERIOD_SECONDS,
    LONG_SECONDS,
    QUICK_SECONDS,
    RECENT_SECONDS,
    SAMPLE_SECONDS,
    SLICE_SECONDS,
    WORK_SECONDS,
    RecentMaximum,
    TurnMeter,
    TurnQueue,
    TurnWatch,
    describe_stack,
    in_turns,
)
from tests.turning import TurnClock

STEP_SECONDS = SLICE_SECONDS / 10
STEPS_A_TURN = round(WORK_SECONDS / STEP_SECONDS)


def steps(clock: TurnClock, done: list[str], name: str, count: int) -> Iterator[None]:
    for _ in range(count):
        clock.work(STEP_SECONDS)
        done.append(name)
        yield


# -- work in parts


def test_short_work_is_done_at_once() -> None:
    done: list[str] = []
    clock = TurnClock()
    results: list[object] = []
    in_turns(clock, steps(clock, done, "a", 5)).addCallback(results.append)
    assert len(done) == 5
    assert results == [None]


def test_work_that_takes_no_time_leaves_no_timer() -> None:
    clock = Clock()
    in_turns(clock, range(1000))
    assert not clock.getDelayedCalls()
    assert clock not in turns._works


def test_long_work_takes_its_share_of_each_turn() -> None:
    done: list[str] = []
    clock = TurnClock()
    work = in_turns(clock, steps(clock, done, "a", 3 * STEPS_A_TURN))
    clock.turn()  # the one in which it has begun
    for turn in range(1, 4):
        assert abs(len(done) - turn * STEPS_A_TURN) <= 2, "rounding"
        clock.turn()
    assert work.called
    clock.turn()
    assert clock not in turns._works
    assert not clock.getDelayedCalls()


def test_works_share_a_turn() -> None:
    done: list[str] = []
    clock = TurnClock()
    for name in "abc":
        in_turns(clock, steps(clock, done, name, 10 * STEPS_A_TURN))
    clock.turn()
    for _ in range(6):
        before = len(done)
        clock.turn()
        assert abs(len(done) - before - STEPS_A_TURN) <= 2, "rounding"
    counts = [done[STEPS_A_TURN + 2 :].count(name) for name in "abc"]
    assert max(counts) - min(counts) <= 3 * SLICE_SECONDS / STEP_SECONDS


def test_short_works_share_the_turn_as_well() -> None:
    done: list[str] = []
    clock = TurnClock()
    for _ in range(20):
        in_turns(clock, steps(clock, done, "a", STEPS_A_TURN // 4))
    assert len(done) <= STEPS_A_TURN + 2
    for _ in range(21):
        clock.turn()
    assert len(done) == 20 * (STEPS_A_TURN // 4)


def test_short_work_does_not_wait_for_the_end_of_long_work() -> None:
    done: list[str] = []
    clock = TurnClock()
    in_turns(clock, steps(clock, done, "long", 100 * STEPS_A_TURN))
    short = in_turns(clock, steps(clock, done, "short", 1))
    clock.turn()
    clock.turn()
    assert short.called


def test_the_next_turn_has_its_whole_share() -> None:
    done: list[str] = []
    clock = TurnClock()
    in_turns(clock, steps(clock, done, "a", STEPS_A_TURN // 2))
    clock.turn()
    in_turns(clock, steps(clock, done, "a", STEPS_A_TURN - 2))
    assert len(done) == STEPS_A_TURN // 2 + STEPS_A_TURN - 2


def test_what_a_step_raises_is_the_result_and_ends_no_other_work() -> None:
    done: list[str] = []
    clock = TurnClock()

    def fails() -> Iterator[None]:
        yield
        raise ValueError("no")

    in_turns(clock, steps(clock, done, "a", 2 * STEPS_A_TURN))
    failed = in_turns(clock, fails())
    errors: list[Any] = []
    failed.addErrback(lambda failure: errors.append(failure.value))
    for _ in range(4):
        clock.turn()
    assert str(errors[0]) == "no"
    assert len(done) == 2 * STEPS_A_TURN


def test_cancelled_work_does_no_further_step() -> None:
    done: list[str] = []
    clock = TurnClock()
    work = in_turns(clock, steps(clock, done, "a", 10 * STEPS_A_TURN))
    work.addErrback(lambda failure: failure.trap(CancelledError))
    before = len(done)
    work.cancel()
    for _ in range(3):
        clock.turn()
    assert len(done) == before
    assert clock not in turns._works


def test_a_step_may_add_work_and_cancel_its_own() -> None:
    clock = TurnClock()
    done: list[str] = []

    def adds() -> Iterator[None]:
        in_turns(clock, steps(clock, done, "added", 1))
        yield
        work.cancel()
        yield
        done.append("after the end")

    def begin() -> Iterator[None]:
        clock.work(WORK_SECONDS)  # so that it is known as "work" as it goes on
        yield
        yield from adds()

    work = in_turns(clock, begin())
    work.addErrback(lambda failure: failure.trap(CancelledError))
    for _ in range(4):
        clock.turn()
    assert done == ["added"]


# -- the queue


def test_a_queue_with_a_share_takes_no_more_of_the_time() -> None:
    clock = TurnClock()
    queue = TurnQueue(clock, 0.2)
    called: list[float] = []

    def call() -> None:
        called.append(clock.seconds())
        clock.work(0.01)

    def called_within_a_second() -> int:
        called.clear()
        ends = clock.seconds() + 1
        while clock.seconds() < ends:
            queue.add(call)
            clock.turn()
            clock.work(0.001)  # what others do
        return len(called)

    # As much as may be at once, and then a fifth of the time.
    assert 0.01 * called_within_a_second() == pytest.approx(BURST_SECONDS + 0.2, abs=0.02)
    assert 0.01 * called_within_a_second() == pytest.approx(0.2, abs=0.02)
    while queue._calls:
        clock.turn()
        clock.work(0.001)
    clock.work(100)  # it may not take more later
    assert 0.01 * called_within_a_second() == pytest.approx(BURST_SECONDS + 0.2, abs=0.02)


def test_a_queue_without_a_share_goes_on_in_the_next_turn() -> None:
    clock = TurnClock()
    queue = TurnQueue(clock)
    for _ in range(50):
        queue.add(lambda: clock.work(0.01))
    for _ in range(50):
        clock.turn()
    assert clock.seconds() == pytest.approx(0.5)


# -- the meter


class Loop:
    """What a loop does around its turns, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meter = TurnMeter(lambda: self.now)
        self.meter.start()

    def turn(self, seconds: float) -> None:
        began = self.now
        self.now += seconds
        self.meter.sum_seconds += seconds
        if self.now > self.meter.measure_from:
            self.meter.measure(began, self.now)
        self.meter.count += 1


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The processor time of the thread, in a list of one."""
    used = [50.0]
    monkeypatch.setattr("time.thread_time", lambda: used[0])
    return used


def test_turns_are_counted_by_how_long_they_take(cpu: list[float]) -> None:
    loop = Loop()
    for seconds in (0.0001, 0.0002, 0.0015, 0.03, 0.03, 0.07):
        loop.turn(seconds)
    figures = loop.meter.figures()
    by_bound = dict(zip(figures.wall.bounds, figures.wall.counts, strict=False))
    assert {bound: count for bound, count in by_bound.items() if count} == {
        0.001: 2,
        0.002: 1,
        0.05: 2,
        0.1: 1,
    }
    assert figures.wall.sum == pytest.approx(0.1318)
    assert figures.longest_seconds == pytest.approx(0.07)
    assert figures.longest_cpu_seconds == 0.0
    assert figures.cpu.counts[0] == 6


def test_processor_time_is_that_of_the_turn(cpu: list[float]) -> None:
    loop = Loop()
    cpu[0] += 0.02
    loop.turn(0.03)
    cpu[0] += 0.5  # more than the turn took: it was used before
    loop.turn(0.06)
    figures = loop.meter.figures()
    assert figures.longest_cpu_seconds == pytest.approx(0.06)
    assert sum(figures.cpu.counts) == 2
    assert figures.cpu.sum == pytest.approx(0.52)


def test_quick_turns_cost_a_reading_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[None] = []

    def read() -> float:
        readings.append(None)
        return 0.0

    monkeypatch.setattr("time.thread_time", read)
    loop = Loop()
    for _ in range(1000):
        loop.turn(QUICK_SECONDS / 20)
    assert len(readings) <= 52
    assert loop.meter.figures().wall.counts[0] == 1000


def test_the_maximum_is_forgotten_after_a_while() -> None:
    maximum = RecentMaximum()
    for value, now in ((5.0, 0.0), (3.0, 10.0), (4.0, 20.0), (1.0, 30.0)):
        maximum.add(value, now)
    assert maximum.get(RECENT_SECONDS) == 5.0
    assert maximum.get(RECENT_SECONDS + 1) == 4.0
    assert maximum.get(RECENT_SECONDS + 21) == 1.0
    assert maximum.get(RECENT_SECONDS + 31) == 0.0


def test_a_long_turn_is_logged_at_most_once_a_minute(cpu: list[float]) -> None:
    loop = Loop()
    with capturedLogs() as events:
        loop.turn(LONG_SECONDS - 0.001)
        assert not events
        cpu[0] += 0.3
        loop.turn(0.312)
        for _ in range(3):
            loop.turn(0.2)
        loop.now += LOG_PERIOD_SECONDS
        loop.turn(0.2)
    assert [formatEvent(event) for event in events] == [
        "the loop was busy for 312ms (300ms of processor time)",
        "the loop was busy for 200ms (0s of processor time);"
        " 3 more such turns since the last message",
    ]


# -- what ran


def innermost() -> str:
    return describe_stack(sys._getframe())


def test_a_stack_is_described_from_the_inside() -> None:
    names = innermost().split(" < ")
    assert names[0].startswith(f"{__name__}.innermost:")
    assert names[1].startswith(f"{__name__}.test_a_stack_is_described_from_the_inside:")
    assert describe_stack(None) == ""


@pytest.fixture
def own_reactor() -> Iterator[Any]:
    """A reactor of ours, beside the one of the tests, which the test runs itself."""
    if not HAS_EPOLL:
        pytest.skip("this system has no epoll")
    from monconn.relay.sockets.reactor import MonconnReactor

    reactor = MonconnReactor()
    yield reactor
    reactor.waker.connectionLost(None)
    reactor._poller.close()


def run(reactor: Any, call: Callable[[], object]) -> None:
    """Run a reactor for as long as a call takes."""

    def work() -> None:
        try:
            call()
        finally:
            reactor.stop()

    reactor.callLater(0, work)
    reactor.run(installSignalHandlers=False)


def test_our_reactor_measures_its_turns_and_tells_what_ran(own_reactor: Any) -> None:
    meter: TurnMeter = own_reactor.turn_meter
    watch = TurnWatch(meter)

    def blocks_the_loop() -> None:
        turn, pause = meter.count, threading.Event()
        while not watch.what_ran(turn):
            pause.wait(0.001)
        pause.wait(LONG_SECONDS)

    with capturedLogs() as events:
        watch.start()
        run(own_reactor, blocks_the_loop)
        watch.stop()
    lines = [text for event in events if "the loop was busy" in (text := formatEvent(event))]
    assert len(lines) == 1
    assert "blocks_the_loop:" in lines[0]
    assert meter.figures().longest_seconds > LONG_SECONDS
    assert meter.figures().longest_cpu_seconds < meter.figures().longest_seconds


def test_the_watch_sleeps_while_the_loop_waits(
    own_reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes up as the loop does, and sees that turn, too."""
    meter: TurnMeter = own_reactor.turn_meter
    watch = TurnWatch(meter)
    woken: list[None] = []
    wake = watch._wake

    def noted_wake() -> None:
        woken.append(None)
        wake()

    monkeypatch.setattr(watch, "_wake", noted_wake)
    seen: list[str] = []

    def blocks_the_loop() -> None:
        if not woken:
            own_reactor.callLater(2 * SAMPLE_SECONDS, blocks_the_loop)
            return
        while not watch.what_ran(meter.count):
            threading.Event().wait(0.001)
        seen.append(watch.what_ran(meter.count))
        own_reactor.stop()

    watch.start()
    own_reactor.callLater(2 * SAMPLE_SECONDS, blocks_the_loop)
    own_reactor.run(installSignalHandlers=False)
    watch.stop()
    assert "blocks_the_loop:" in seen[0]
