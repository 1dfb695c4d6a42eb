"""What the signals to stop do, before the reactor runs and after."""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ReactorNotRunning

from monconn.run.signals import (
    LAST_SECONDS,
    OTHER_SIGNALS,
    STOP_SIGNALS,
    StopSignals,
    end_hurried,
    end_soon,
    ignore,
)


class FakeReactor:
    """A reactor that starts when the test calls ``run``."""

    def __init__(self) -> None:
        self.stopped = 0
        self._when_running: list[Callable[[], object]] = []

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self._when_running.append(call)

    def callFromThread(self, call: Callable[[], object]) -> None:
        call()

    def run(self) -> None:
        for number in STOP_SIGNALS:  # as the real one does
            signal.signal(number, signal.SIG_IGN)
        for call in self._when_running:
            call()

    def stop(self) -> None:
        if self.stopped:
            raise ReactorNotRunning
        self.stopped += 1


class Stopping:
    """A reactor, and how often everything was to be stopped at once."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.stopped_now = 0
        self.received: list[tuple[str, bool]] = []
        self.hurried: list[int] = []
        self.signals = StopSignals(
            self.reactor,
            self._stop_now,
            lambda *each: self.received.append(each),
            self.hurried.append,
        )

    def _stop_now(self) -> None:
        self.stopped_now += 1

    def counts(self) -> tuple[int, int]:
        return self.reactor.stopped, self.stopped_now


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    numbers = (*STOP_SIGNALS, *OTHER_SIGNALS, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield Stopping()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_first_stops_in_order_and_the_second_at_once(stopping: Stopping, number: int) -> None:
    stopping.signals.install()
    stopping.reactor.run()
    signal.raise_signal(number)
    assert stopping.counts() == (1, 0)
    signal.raise_signal(number)
    assert stopping.counts() == (1, 1)


def test_the_second_is_known_at_once_and_a_third_would_end_the_program(stopping: Stopping) -> None:
    """Also if the reactor never comes to act on the first."""
    stopping.signals.install()
    stopping.reactor.run()
    stopping.reactor.callFromThread = lambda call: None  # type: ignore[method-assign]
    signal.raise_signal(signal.SIGTERM)
    assert stopping.hurried == []
    signal.raise_signal(signal.SIGINT)
    assert stopping.hurried == [signal.SIGINT]
    assert {signal.getsignal(number) for number in STOP_SIGNALS} == {signal.SIG_DFL}


def test_a_closed_terminal_may_send_two_of_which_none_is_the_second(
    stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends one, and the shell another."""
    monkeypatch.setattr("monconn.run.signals.has_terminal", lambda: True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopping.signals.install()
    stopping.reactor.run()
    for _ in range(3):
        signal.raise_signal(signal.SIGHUP)
    assert (stopping.counts(), stopping.hurried) == ((1, 0), [])
    signal.raise_signal(signal.SIGTERM)
    assert (stopping.counts(), stopping.hurried) == ((1, 1), [signal.SIGTERM])
    signal.raise_signal(signal.SIGHUP)
    assert stopping.counts() == (1, 1)


def test_without_a_terminal_it_has_something_else_done(
    stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.run.signals.has_terminal", lambda: False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    names: list[str] = []
    signals = StopSignals(stopping.reactor, lambda: None, hung_up=names.append)
    signals.install()
    signal.raise_signal(signal.SIGHUP)  # while it starts: once it runs
    stopping.reactor.run()
    signal.raise_signal(signal.SIGHUP)
    assert (names, stopping.counts()) == (["SIGHUP", "SIGHUP"], (0, 0))


def test_a_closed_terminal_before_the_reactor_runs(
    stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.run.signals.has_terminal", lambda: True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopping.signals.install()
    for _ in range(2):
        signal.raise_signal(signal.SIGHUP)
    stopping.reactor.run()
    assert (stopping.counts(), stopping.received) == ((1, 0), [("SIGHUP", False)])


def test_a_handler_that_is_there_is_left_in_its_place(stopping: Stopping) -> None:
    """Such as twistd's of SIGUSR1, or what nohup does with SIGHUP."""
    others = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    before = {number: signal.getsignal(number) for number in others}
    try:
        for number in others:
            signal.signal(number, signal.SIG_IGN)
        stopping.signals.install()
        assert {signal.getsignal(number) for number in others} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_one_before_the_reactor_runs_stops_it_as_soon_as_it_does(stopping: Stopping) -> None:
    stopping.signals.install()
    signal.raise_signal(signal.SIGTERM)
    assert stopping.counts() == (0, 0)
    stopping.reactor.run()
    assert stopping.counts() == (1, 0)
    signal.raise_signal(signal.SIGINT)
    assert stopping.counts() == (1, 1)


def test_a_second_one_before_the_reactor_runs_would_end_the_program(stopping: Stopping) -> None:
    stopping.signals.install()
    signal.raise_signal(signal.SIGTERM)
    assert {signal.getsignal(number) for number in STOP_SIGNALS} == {signal.SIG_DFL}


def test_a_signal_after_the_reactor_was_stopped_otherwise_is_the_second(stopping: Stopping) -> None:
    stopping.signals.install()
    stopping.reactor.run()
    stopping.reactor.stop()
    signal.raise_signal(signal.SIGTERM)
    assert stopping.counts() == (1, 1)


def test_each_signal_is_reported_before_it_takes_effect(stopping: Stopping) -> None:
    stopping.signals.install()
    stopping.reactor.run()
    signal.raise_signal(signal.SIGTERM)
    assert stopping.received == [("SIGTERM", False)]
    signal.raise_signal(signal.SIGINT)
    assert stopping.received == [("SIGTERM", False), ("SIGINT", True)]


def test_a_signal_before_the_reactor_runs_is_reported_once_it_does(stopping: Stopping) -> None:
    stopping.signals.install()
    signal.raise_signal(signal.SIGQUIT)
    assert stopping.received == []
    stopping.reactor.run()
    assert stopping.received == [("SIGQUIT", False)]


def test_a_stop_of_our_own_is_no_signal(stopping: Stopping) -> None:
    stopping.signals.install()
    stopping.reactor.run()
    stopping.signals.stop()
    assert (stopping.counts(), stopping.received) == ((1, 0), [])


def test_the_end_is_certain_also_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit on processes, a thread that would end this one does not start."""

    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        end_hurried(signal.SIGTERM)
        seconds, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < seconds <= LAST_SECONDS
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGALRM, before)


def test_signals_that_end_nothing_cannot_kill_python_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python gives signals with handlers back to the kernel before it has ended."""
    monkeypatch.setattr(_thread, "start_new_thread", lambda call, arguments: None)
    numbers = (signal.SIGHUP, *OTHER_SIGNALS)
    before = [signal.signal(number, ignore) for number in numbers]
    try:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)  # somebody else's business
        end_soon(0)
        left = [signal.getsignal(number) for number in numbers]
        assert left == [signal.SIG_IGN, signal.SIG_IGN, signal.SIG_DFL]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
