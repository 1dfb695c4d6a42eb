"""Turns of the reactor's loop: how long they take, what ran in long ones, and long work in parts.

A turn is what the loop does between two waits for events. Whoever has an event meanwhile waits for
its end, so no work may take more than a few milliseconds of one: what is longer is divided by
:func:`in_turns`, and what many clients may ask for at once waits in a :class:`TurnQueue`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.histogram import Histogram
from monconn.log import Logger
from monconn.units import format_duration

T = TypeVar("T")

WORK_SECONDS = 0.003
"""How long the work of :func:`in_turns` may take in one turn, all of it together."""
SLICE_SECONDS = 0.001
"""After how long the next of several works is continued."""
QUEUE_SECONDS = 0.004
"""How long the calls of a :class:`TurnQueue` take in one turn; the last may exceed it by its own
time."""
BURST_SECONDS = 0.1
"""How long the calls of one with a share may take at once, after a time without any."""

TURN_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""The ranges of the histograms of turns, in seconds."""
QUICK_SECONDS = TURN_BOUNDS[0]
"""Turns up to this are counted and nothing more; and the processor time of others is read no
earlier than this before they began, so it is too high by no more."""
LONG_SECONDS = 0.1
"""A turn that takes longer is logged."""
LOG_PERIOD_SECONDS = 60.0
RECENT_SECONDS = 60.0
SAMPLE_SECONDS = LONG_SECONDS / 2
"""How often it is checked whether a turn goes on, so that each long one is seen before its end."""
MOST_FRAMES = 6


# -- work in parts


def in_turns(clock: Clock, steps: Iterable[object]) -> Deferred[None]:
    """Do work in as many turns of the loop as it takes.

    All such work with one clock shares :data:`WORK_SECONDS` of each turn. What is short is done
    before this returns, unless other work goes on or the share of this turn is used up.

    :param clock: monotonic time and timers.
    :param steps: advanced step by step; each step should take well below a millisecond. A generator
        that makes a list of a hundred thousand rows, say, yields after every few.
    :returns: fires after the last step, or with what a step has raised. To cancel it ends the work
        before its next step.
    """
    works = _works.get(clock)
    if works is None:
        works = _works[clock] = _Works(clock)
    work = _Work(iter(steps))
    works.add(work)
    return work.done


def result_of(clock: Clock, steps: Generator[None, None, T]) -> Deferred[T]:
    """Run steps in as many turns as they take.

    :returns: fires with what the generator returns, or has raised; at once if that is soon.
    """
    results: list[T] = []

    def run() -> Iterator[None]:
        results.append((yield from steps))

    return in_turns(clock, run()).addCallback(lambda _: results[0])


def uncancellable(deferred: Deferred[T]) -> Deferred[T]:
    """A Deferred for the same result; to cancel it has no effect on the work."""
    result: Deferred[T] = Deferred()

    def finished(value: Any) -> None:
        if not result.called:
            result.callback(value)  # or the failure

    deferred.addBoth(finished)
    return result


class _Work:
    """Steps that are under way; ``done`` fires after the last one."""

    def __init__(self, steps: Iterator[object]) -> None:
        self._steps = steps
        self.done: Deferred[None] = Deferred()

    def run(self, seconds: Callable[[], float], until: float) -> bool:
        """Do some steps.

        :returns: whether more are left.
        """
        if self.done.called:  # it was cancelled
            return False
        try:
            for _ in self._steps:
                if self.done.called:
                    return False
                if seconds() >= until:
                    return True
        except Exception:
            if not self.done.called:
                self.done.errback()
        else:
            if not self.done.called:
                self.done.callback(None)
        return False


class _Works:
    """The works of one clock, one slice of each after the other.

    It exists while there is work, or until the turn in which there was some is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: deque[_Work] = deque()
        self._left_seconds = WORK_SECONDS  # of this turn
        self._timer: IDelayedCall | None = None
        self._is_running = False
        self._began = 0.0

    def running_seconds(self) -> float:
        """For how long it has worked in this turn, up to now."""
        return self._clock.seconds() - self._began if self._is_running else 0.0

    def add(self, work: _Work) -> None:
        is_first = not self._queue
        self._queue.append(work)
        if is_first and not self._is_running:
            self._run(has_begun_turn=True)

    def _run(self, *, has_begun_turn: bool = False) -> None:
        seconds = self._clock.seconds
        self._began = began = now = seconds()
        ends = began + self._left_seconds
        self._is_running = True
        try:
            while self._queue and now < ends:
                work = self._queue.popleft()
                if work.run(seconds, min(ends, now + SLICE_SECONDS)):
                    self._queue.append(work)
                now = seconds()
        finally:
            self._is_running = False
            took = seconds() - began
            self._left_seconds -= took
            _worked[self._clock] = _worked.get(self._clock, 0.0) + took
            if not (self._queue or self._left_seconds < WORK_SECONDS):
                del _works[self._clock]
            elif self._timer is None:
                call = self._pass_turn if self._queue and has_begun_turn else self._next_turn
                self._timer = self._clock.callLater(0, call)

    def _pass_turn(self) -> None:
        # A reactor makes timed calls after it has served events, in one of which the work has
        # begun: so this may be the same turn, whose share is used up.
        self._timer = self._clock.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._timer = None
        self._left_seconds = WORK_SECONDS
        if self._queue:
            self._run()
        else:
            del _works[self._clock]


_works: dict[Clock, _Works] = {}
_worked: WeakKeyDictionary[Clock, float] = WeakKeyDictionary()


def worked_seconds(clock: Clock) -> float:
    """How long all work in turns with a clock has taken, ever, up to now: the difference of two
    values is what was worked meanwhile."""
    works = _works.get(clock)
    running = works.running_seconds() if works is not None else 0.0
    return _worked.get(clock, 0.0) + running


class TurnQueue:
    """What the clients of a server have asked for: one call for each in a turn, whatever it sends.

    :param clock: monotonic time and timers.
    :param share: the most of the loop's time that the calls take, as a part of it, once they have
        taken :data:`BURST_SECONDS`.
    """

    def __init__(self, clock: Clock, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._left_seconds = BURST_SECONDS  # less than none after more was used
        self._counted_at = clock.seconds()
        self._calls: deque[Callable[[], object]] = deque()
        self._timer: IDelayedCall | None = None

    def add(self, call: Callable[[], object]) -> None:
        """Call something in a later turn; it must not raise."""
        self._calls.append(call)
        if self._timer is None:
            self._timer = self._clock.callLater(self._pause(0.0), self._take_turn)

    def _pause(self, took: float) -> float:
        """For how long nothing may be called, after a turn's calls that took some time."""
        if self._share == 1:
            return 0.0
        now = self._clock.seconds()
        self._left_seconds += self._share * (now - self._counted_at) - took
        self._left_seconds = min(self._left_seconds, BURST_SECONDS)
        self._counted_at = now
        return max(0.0, -self._left_seconds / self._share)

    def _take_turn(self) -> None:
        self._timer = None
        began = self._clock.seconds()
        ends = began + QUEUE_SECONDS
        try:
            for _ in range(len(self._calls)):  # what they add is for the turn after this one
                self._calls.popleft()()
                if self._clock.seconds() >= ends:
                    break
        finally:
            pause = self._pause(self._clock.seconds() - began)
            if self._calls and self._timer is None:
                self._timer = self._clock.callLater(pause, self._take_turn)


# -- how long turns take


class RecentMaximum:
    """The greatest of the values of the last :data:`RECENT_SECONDS`."""

    def __init__(self) -> None:
        # Falling values at rising times: one with a greater after it is never the maximum again.
        self._values: deque[tuple[float, float]] = deque()

    def add(self, value: float, now: float) -> None:
        """Add a value."""
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))
        self.get(now)  # the old ones are dropped

    def get(self, now: float) -> float:
        """The greatest one; 0 if there is none."""
        while self._values and self._values[0][0] < now - RECENT_SECONDS:
            self._values.popleft()
        return self._values[0][1] if self._values else 0.0


@attrs.frozen
class TurnFigures:
    """What a :class:`TurnMeter` has measured up to now."""

    wall: Histogram
    """How long turns took."""
    cpu: Histogram
    """The processor time of the loop's thread in them."""
    longest_seconds: float
    """The longest of the last minute, that is :data:`RECENT_SECONDS`."""
    longest_cpu_seconds: float


class TurnMeter:
    """Measures the turns of a loop, which tells it where each begins and ends.

    A loop that serves an event in 20 µs has no time for more than to read the clock. The
    processor time is a system call of 0.4 µs: it is read once a millisecond at most. As the thread
    uses none while it waits, a turn's is what was used since the last reading.

    Called in the loop's thread, but for what :class:`TurnWatch` reads.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self.count = 0
        """How many turns are over."""
        self.sum_seconds = 0.0
        self.measure_from = 0.0
        """A turn that ends later than this is to be given to :meth:`measure`."""
        self.is_waiting = True
        """Whether the loop waits for events."""
        self.thread_id = threading.get_ident()
        """The loop's thread."""
        self.watch: TurnWatch | None = None
        """Knows what ran in a long turn."""
        self.wake: Callable[[], object] | None = None
        """To be called once the loop has events: the watch sleeps."""
        self._cpu_seconds = self._cpu_before = 0.0
        self._wall = Histogram(TURN_BOUNDS)
        self._cpu = Histogram(TURN_BOUNDS)
        self._slow = 0  # how many turns are in these
        self._longest = RecentMaximum()
        self._longest_cpu = RecentMaximum()
        self._log_from = 0.0
        self._not_logged = 0

    def start(self) -> None:
        """The loop begins: what came before it was no turn."""
        self.thread_id = threading.get_ident()
        self.is_waiting = False
        self.measure_from = self._seconds() + QUICK_SECONDS
        self._cpu_seconds = self._cpu_before = time.thread_time()

    def measure(self, began: float, ended: float) -> None:
        """Measure a turn that may have taken long."""
        cpu_seconds = time.thread_time()
        used, self._cpu_seconds = cpu_seconds - self._cpu_seconds, cpu_seconds
        self.measure_from = ended + QUICK_SECONDS
        took = ended - began
        if took <= QUICK_SECONDS:
            return
        used = min(used, took)
        self._slow += 1
        self._wall.observe(took)
        self._cpu.observe(used)
        self._longest.add(took, ended)
        self._longest_cpu.add(used, ended)
        if took > LONG_SECONDS:
            self._log_long(took, used, ended)

    def _log_long(self, took: float, used: float, now: float) -> None:
        """Write a line about a long turn, unless there was one lately."""
        if now < self._log_from:
            self._not_logged += 1
            return
        self._log_from = now + LOG_PERIOD_SECONDS
        others, self._not_logged = self._not_logged, 0
        what = self.watch.what_ran(self.count) if self.watch is not None else ""
        self._log.warn(
            "the loop was busy for {wall} ({cpu} of processor time){what}{others}",
            wall=format_duration(took),
            cpu=format_duration(used),
            what=f": {what}" if what else "",
            others=f"; {others} more such turns since the last message" if others else "",
        )

    def figures(self) -> TurnFigures:
        """A copy of what was measured up to now."""
        now = self._seconds()
        wall, cpu = self._wall.copy(), self._cpu.copy()
        for histogram in (wall, cpu):
            histogram.counts[0] += self.count - self._slow
        wall.sum, cpu.sum = self.sum_seconds, self._cpu_seconds - self._cpu_before
        return TurnFigures(wall, cpu, self._longest.get(now), self._longest_cpu.get(now))


class TurnWatch:
    """Notes what runs in long turns, from a thread that checks every :data:`SAMPLE_SECONDS`.

    It sleeps while the loop waits. In a long turn that runs Python it gets the interpreter's lock
    like any thread; in one that waits for the kernel or a library, when that returns.

    :param meter: of the loop.
    """

    def __init__(self, meter: TurnMeter) -> None:
        self._meter = meter
        self._awake = threading.Event()
        self._has_stopped = False
        self._sample = (-1, "")  # the number of a turn, and what ran in it

    def start(self) -> None:
        """Watch from now on."""
        self._meter.watch = self
        # A daemon thread: nothing waits for its end.
        thread = threading.Thread(target=self._work, name="monconn-turns", daemon=True)
        with suppress(RuntimeError):  # the system gives us no more: turns are only measured
            thread.start()

    def stop(self) -> None:
        """Watch no more; harmless the second time."""
        self._has_stopped = True
        self._meter.watch = None
        self._awake.set()

    def _wake(self) -> None:
        self._meter.wake = None
        self._awake.set()

    def _work(self) -> None:
        meter = self._meter
        while not self._has_stopped:
            turn = meter.count
            time.sleep(SAMPLE_SECONDS)
            if meter.count != turn:
                continue
            if not meter.is_waiting:
                if self._sample[0] != turn:
                    frame = sys._current_frames().get(meter.thread_id)
                    self._sample = turn, describe_stack(frame)
                continue
            self._awake.clear()
            meter.wake = self._wake
            if meter.is_waiting:  # else a turn has begun before that was set
                self._awake.wait()

    def what_ran(self, turn: int) -> str:
        """What was seen running in a turn; empty if it was not seen.

        :param turn: how many there were before it.
        """
        number, what = self._sample
        return what if number == turn else ""


def describe_stack(frame: FrameType | None) -> str:
    """The functions of a stack, the innermost first, as far as they tell what the work is about."""
    names: list[str] = []
    while frame is not None and len(names) < MOST_FRAMES:
        module = frame.f_globals.get("__name__", "?")
        if module.startswith(_DISPATCH):
            break
        code = frame.f_code
        # With the class, from Python 3.11 on.
        name = getattr(code, "co_qualname", code.co_name)
        names.append(f"{module}.{name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)


_DISPATCH = (
    "monconn.relay.sockets.loop",
    "monconn.relay.sockets.reactor",
    "twisted.internet.base",
    "twisted.python.context",
)
"""Modules with the loop's own functions: what they call is what the turn is about."""
