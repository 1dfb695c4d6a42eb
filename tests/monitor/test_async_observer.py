"""Observers whose methods are coroutines: in order, one at a time, bounded, and in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from monconn import AsyncObserver
from monconn.errors import SettingError
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.testing import ManualMonitor, make_monitor

from .test_observers import HOOKS, enter, live_through_all_hooks


class Slow(AsyncObserver):
    """Each method waits until :meth:`proceed`."""

    watches_payload = True

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.calls: list[str] = []
        self.waiting: list[Deferred[None]] = []

    async def wait(self, hook: str) -> None:
        self.calls.append(hook)
        self.waiting.append(Deferred())
        await self.waiting[-1]
        self.calls.append(f"{hook} ends")

    async def opened(self, record: ConnectionRecord) -> None:
        await self.wait("opened")

    async def refused(self, record: ConnectionRecord) -> None:
        await self.wait("refused")

    async def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        await self.wait("data")

    async def backend_connected(self, record: ConnectionRecord) -> None:
        await self.wait("backend_connected")

    async def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        await self.wait("half_closed")

    async def closed(self, record: ConnectionRecord) -> None:
        await self.wait("closed")

    async def alarmed(self, alarm: Alarm) -> None:
        await self.wait("alarmed")

    async def acted(self, action: Action) -> None:
        await self.wait("acted")

    def proceed(self) -> None:
        self.waiting.pop(0).callback(None)


class Quick(AsyncObserver):
    """Its methods wait for nothing."""

    def __init__(self) -> None:  # and does without the base class's
        self.calls: list[str] = []

    async def opened(self, record: ConnectionRecord) -> None:
        self.calls.append("opened")

    async def closed(self, record: ConnectionRecord) -> None:
        self.calls.append("closed")


@pytest.fixture
def monitor() -> ManualMonitor:
    return make_monitor()


def turn(monitor: Monitor) -> None:
    """One turn of the reactor."""
    clock: Any = monitor.clock
    clock.advance(0)


def come_and_go(monitor: Monitor) -> None:
    connection = enter(monitor)
    assert connection is not None
    connection.end("client_closed", reset=True)


def test_methods_run_one_at_a_time_and_in_order(monitor: ManualMonitor) -> None:
    monitor.add_observer(observer := Slow())
    live_through_all_hooks(monitor)
    assert observer.calls == [], "it ran in the data path"
    turn(monitor)
    assert observer.calls == ["opened"]
    while observer.waiting:
        observer.proceed()
        turn(monitor)
    order = ["opened", "opened", "acted", "refused", "backend_connected", "data", "half_closed"]
    order += ["alarmed", "closed", "closed"]
    assert observer.calls == [each for hook in order for each in (hook, f"{hook} ends")]
    assert set(order) == set(HOOKS)
    assert monitor.clock.getDelayedCalls() == []
    assert observer.dropped == 0


def test_methods_that_wait_for_nothing(monitor: ManualMonitor) -> None:
    monitor.add_observer(observer := Quick())
    for _ in range(3):
        come_and_go(monitor)
    turn(monitor)
    assert observer.calls == ["opened", "closed"] * 3
    assert monitor.clock.getDelayedCalls() == []


def test_methods_that_take_long_leave_turns_to_others(monitor: ManualMonitor) -> None:
    class Busy(Quick):
        async def opened(self, record: ConnectionRecord) -> None:
            monitor.clock.rightNow += 0.0015
            await super().opened(record)

    monitor.add_observer(observer := Busy())
    for _ in range(4):
        enter(monitor)
    for calls in (2, 4):
        timer: Any = monitor.clock.getDelayedCalls()[0]
        run = timer.func
        timer.cancel()
        run()  # and not what it sets for the next turn, as the clock's advance() would
        assert len(observer.calls) == calls
    assert monitor.clock.getDelayedCalls() == []


def test_an_ordinary_method_may_be_among_them(monitor: ManualMonitor) -> None:
    class Mixed(Quick):
        def opened(self, record: ConnectionRecord) -> Any:
            self.calls.append("ordinary")

    monitor.add_observer(observer := Mixed())
    come_and_go(monitor)
    assert observer.calls == []
    turn(monitor)
    assert observer.calls == ["ordinary", "closed"]


def test_it_may_act_on_connections(monitor: ManualMonitor) -> None:
    class Closes(Quick):
        async def opened(self, record: ConnectionRecord) -> None:
            await super().opened(record)
            monitor.close(record.id, reset=True)

    monitor.add_observer(observer := Closes())
    enter(monitor)
    turn(monitor)
    assert observer.calls == ["opened", "closed"]


def test_hooks_that_are_not_overridden_cost_nothing(monitor: ManualMonitor) -> None:
    monitor.add_observer(Quick())
    used = {hook for hook, each in monitor.observers.by_hook.items() if each}
    assert used == {"opened", "closed"}
    assert not monitor.watched


# -- limits


def test_events_that_find_the_queue_full_are_dropped_counted_and_logged(
    monitor: ManualMonitor,
) -> None:
    monitor.add_observer(observer := Slow(queued_events=2))
    with capturedLogs() as logged:
        enter(monitor)
        turn(monitor)
        for _ in range(5):
            enter(monitor)
        come_and_go(monitor)
        assert observer.dropped == 5
        monitor.clock.advance(1)
    assert [formatEvent(each) for each in logged] == [
        "observer Slow: 5 events dropped, as its queue was full: 4 opened, 1 closed"
    ]
    while observer.waiting:
        observer.proceed()
        turn(monitor)
    assert observer.calls == ["opened", "opened ends"] * 3
    enter(monitor)
    turn(monitor)
    assert observer.calls[6:] == ["opened"]


def test_payload_is_bounded_in_bytes(monitor: ManualMonitor) -> None:
    class Bytes(AsyncObserver):
        watches_payload = True
        seen: list[int] = []

        async def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
            self.seen.append(len(data))

    monitor.add_observer(observer := Bytes(queued_bytes=100))
    connection = enter(monitor)
    assert connection is not None
    for count in (60, 50, 40, 1):
        monitor.saw(connection.record, "up", bytes(count))
    turn(monitor)
    monitor.saw(connection.record, "up", bytes(1000))  # bigger than all that may wait
    monitor.saw(connection.record, "up", bytes(1))
    turn(monitor)
    assert observer.seen == [60, 40, 1000]
    assert observer.dropped == 3
    monitor.clock.advance(1)


def test_limits_may_be_attributes_of_the_class(monitor: ManualMonitor) -> None:
    class Small(Slow):
        queued_events = 1

    monitor.add_observer(observer := Small())
    for _ in range(3):
        enter(monitor)
    assert observer.dropped == 2
    monitor.clock.advance(1)
    assert Small(queued_events=7).queued_events == 7


@pytest.mark.parametrize("limit", ["queued_events", "queued_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, "9", 1.5])
def test_a_limit_that_is_none(limit: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{limit}={value!r}"):
        AsyncObserver(**{limit: value})


# -- failures


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, GeneratorExit, CancelledError])
@pytest.mark.parametrize("when", ["at once", "later"])
def test_one_that_fails_is_switched_off_everywhere(
    logged_failures: list[Failure], error: type[BaseException], when: str
) -> None:
    registry, clock = Registry(), Clock()
    web, ssh = registry.new("web", clock=clock), registry.new("ssh", clock=clock)

    class Fails(Slow):
        async def wait(self, hook: str) -> None:
            if when == "later":
                await super().wait(hook)
            raise error

    registry.observe(failing := Fails())
    registry.observe(other := Quick())
    with capturedLogs() as logged:
        come_and_go(web)
        come_and_go(ssh)
        turn(web)
        if when == "later":
            failing.proceed()
    assert [failure.type for failure in logged_failures] == [error]
    logged_failures.clear()
    assert formatEvent(logged[0]).startswith("observer Fails failed and is switched off")
    assert formatEvent(logged[1]) == (
        "observer Fails: 3 events dropped, as it is switched off: 2 closed, 1 opened"
    )
    assert failing.dropped == 3
    assert not web.watched
    assert not ssh.watched
    come_and_go(web)
    turn(web)
    assert failing.dropped == 3
    assert other.calls == ["opened", "closed"] * 3
    assert clock.getDelayedCalls() == []


# -- the end


def test_a_stop_waits_until_all_is_handled(monitor: ManualMonitor) -> None:
    monitor.add_observer(observer := Slow())
    come_and_go(monitor)
    turn(monitor)
    results: list[bool] = []
    observer.stop(5.0).addCallback(results.append)
    observer.proceed()
    turn(monitor)
    assert results == []
    observer.proceed()
    assert results == [True]
    assert monitor.clock.getDelayedCalls() == []
    come_and_go(monitor)
    assert observer.dropped == 2
    assert monitor.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_stop_does_not_wait_for_ever(monitor: ManualMonitor, is_deaf: bool) -> None:
    cancelled: list[str] = []

    class Hangs(Slow):
        async def wait(self, hook: str) -> None:
            try:
                await super().wait(hook)
            except CancelledError:
                cancelled.append(hook)
                if is_deaf:
                    await super().wait(hook)

    monitor.add_observer(observer := Hangs())
    come_and_go(monitor)
    turn(monitor)
    results: list[bool] = []
    observer.stop(5.0).addCallback(results.append)
    with capturedLogs() as logged:
        monitor.clock.advance(5.0)
    assert results == [False]
    assert cancelled == ["opened"]
    assert observer.dropped == 2
    assert [formatEvent(each) for each in logged] == [
        "observer Hangs: 1 events dropped, as it had 5 s to handle them: 1 closed"
    ]
    assert monitor.clock.getDelayedCalls() == []


def test_a_stop_between_two_turns(monitor: ManualMonitor) -> None:
    monitor.add_observer(observer := Quick())
    come_and_go(monitor)
    results: list[bool] = []
    observer.stop(0.0).addCallback(results.append)
    turn(monitor)
    assert results == [True]
    assert observer.calls == ["opened", "closed"]
    assert monitor.clock.getDelayedCalls() == []


def test_a_stop_with_nothing_queued_is_over_at_once(monitor: ManualMonitor) -> None:
    results: list[bool] = []
    Quick().stop(1.0).addCallback(results.append)
    monitor.add_observer(observer := Quick())
    observer.stop(1.0).addCallback(results.append)
    assert results == [True, True]


# -- what can be awaited

AWAITING = """
import asyncio, sys
from twisted.internet import asyncioreactor
if sys.argv[1] == "asyncio":
    asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from monconn import AsyncObserver, Monitor

class Awaits(AsyncObserver):
    async def opened(self, record):
        print(await deferLater(reactor, 0.01, lambda: "a Deferred"))
        try:
            await fail(ValueError("a failed one"))
        except ValueError as error:
            print(error)
        if sys.argv[1] == "asyncio":
            await asyncio.sleep(0.01)
            async with asyncio.Lock():
                print(await self.both())
                print(await asyncio.wait_for(self.only_asyncio(), 5))
            try:
                await asyncio.wait_for(asyncio.Future(), 0.01)
            except asyncio.TimeoutError:
                print("a timeout of asyncio's")
            try:
                await asyncio.wait_for(self.never(), 0.01)
            except asyncio.TimeoutError:
                print("another one")

    async def both(self):
        await asyncio.sleep(0)
        return await deferLater(reactor, 0.01, lambda: "a Deferred in a task")

    async def only_asyncio(self):
        await asyncio.sleep(0)
        return "another task"

    async def never(self):
        try:
            await asyncio.sleep(10)
        finally:
            print("cancelled")

    async def closed(self, record):
        never = Deferred(lambda _: print("cancelled"))
        print("closed")
        await never

    async def refused(self, record):
        sys.exit("must not end the program")

async def main():
    observer = Awaits()
    monitor = Monitor(observers=[observer])
    record = monitor.admit("10.0.0.1:1", "10.0.0.1")
    connection = type("Connection", (), {"record": record})
    monitor.opened(connection)
    record.reason = "client_closed"
    monitor.closed(connection)
    print(await observer.stop(0.5))
    refusing = Awaits()
    monitor = Monitor(observers=[refusing])
    monitor.lifecycle.stopping = True
    monitor.admit("10.0.0.1:1", "10.0.0.1")
    print(await refusing.stop(5))
    reactor.stop()

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
print("the end")
"""


@pytest.mark.parametrize("reactor", ["default", "asyncio"])
def test_deferreds_can_be_awaited_and_under_its_reactor_all_of_asyncio(reactor: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AWAITING, reactor], capture_output=True, text=True, timeout=60
    )
    of_asyncio = (
        *("a Deferred in a task", "another task", "a timeout of asyncio's"),
        *("cancelled", "another one"),
    )
    lines = done.stdout.splitlines()
    assert "cancelled" in lines[-4:]  # asyncio cancels a turn later
    lines.reverse()
    lines.remove("cancelled")
    assert lines[::-1] == [
        *("a Deferred", "a failed one"),
        *(of_asyncio if reactor == "asyncio" else ()),
        *("closed", "False", "False", "the end"),
    ]
    (error,) = (line for line in done.stderr.splitlines() if "Exit" in line or "Error" in line)
    assert error == "builtins.SystemExit: must not end the program"
