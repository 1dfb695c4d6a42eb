"""Observers hear of things in the order in which they happen, whatever one of them does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.errors import ObserverError, SettingTypeError
from monconn.model.actions import OWN_CODE, Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor import observers
from monconn.monitor.interfaces import IConnection, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry

HOOKS = (
    *("opened", "refused", "backend_connected", "data", "half_closed", "closed", "alarmed"),
    "acted",
)


@implementer(IConnection)
class Connection:
    """A connection without sockets, which is over as soon as it is reset."""

    def __init__(self, monitor: Monitor, record: ConnectionRecord) -> None:
        self.record = record
        self._monitor = monitor

    def end(self, reason: Reason, reset: bool = False) -> None:
        self.record.end(reason, self._monitor.clock.seconds())
        if reset:
            self._monitor.closed(self)

    def measure(self) -> None:
        pass

    def policy_changed(self) -> None:
        pass


def enter(monitor: Monitor, ip: str = "10.0.0.1") -> Connection | None:
    record = monitor.admit(f"{ip}:4711", ip)
    if record is None:
        return None
    record.state = "open"
    connection = Connection(monitor, record)
    monitor.opened(connection)
    return connection


class Events(Observer):
    """Collects what it hears of, as ``CLIENT_IP HOOK``."""

    watches_payload = True

    def __init__(self) -> None:
        self.heard: list[str] = []

    def opened(self, record: ConnectionRecord) -> None:
        self.happened("opened", record)

    def refused(self, record: ConnectionRecord) -> None:
        self.happened("refused", record)

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.happened("data", record)

    def backend_connected(self, record: ConnectionRecord) -> None:
        self.happened("backend_connected", record)

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        self.happened("half_closed", record)

    def closed(self, record: ConnectionRecord) -> None:
        assert record.reason is not None
        assert record.closed is not None
        self.happened("closed", record)

    def alarmed(self, alarm: Alarm) -> None:
        self.happened("alarmed", alarm)

    def acted(self, action: Action) -> None:
        self.happened("acted", action)

    def happened(self, hook: str, what: ConnectionRecord | Alarm | Action) -> None:
        if isinstance(what, ConnectionRecord):
            self.heard.append(f"{what.client_ip} {hook}")
        elif isinstance(what, Action):
            self.heard.append(f"{what.target} {what.kind}")
        else:
            self.heard.append(f"{what.device} {hook}")

    def of(self, ip: str) -> list[str]:
        """The hooks of a client's connections."""
        return [event.split()[1] for event in self.heard if event.startswith(f"{ip} ")]


Do = Callable[[Any], object]


class Acting(Events):
    """Does something, once, in a hook."""

    def __init__(self, hook: str, do: Do) -> None:
        super().__init__()
        self.hook = hook
        self.do = do
        self.is_running = False

    def happened(self, hook: str, what: Any) -> None:
        assert not self.is_running, "a hook was called within a hook"
        super().happened(hook, what)
        if hook == self.hook:
            self.hook = ""
            self.is_running = True
            try:
                self.do(what)
            finally:
                self.is_running = False


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000)
    return clock


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    return Monitor("web", clock=clock)


def live_through_all_hooks(monitor: Monitor) -> None:
    """Have every hook called, of connections that may have ended meanwhile."""
    other = enter(monitor, "10.0.0.2")
    connection = enter(monitor)
    assert connection is not None
    record = connection.record
    monitor.block("10.0.0.3")
    enter(monitor, "10.0.0.3")
    if record.id in monitor:
        monitor.backend_connected(record)
    if record.id in monitor:
        monitor.saw(record, "up", b"x")
    if record.id in monitor:
        monitor.half_closed(record, "client")
    monitor.alarm(Alarm("silent", "web", "10.0.0.9", 1.0, False, ""))
    for each in (connection, other):
        if each is not None and each.record.id in monitor:
            each.end("client_closed", reset=True)


def act(monitor: Monitor, how: str) -> None:
    """Do what ends other connections, and is an event itself."""
    if how == "close":
        for record in monitor.connections():
            monitor.close(record.id)
    elif how == "reset":
        for record in monitor.connections():
            monitor.close(record.id, reset=True)
    elif how == "block":
        monitor.block("10.0.0.1")
        monitor.unblock("10.0.0.1")
    elif how == "stop":
        monitor.stop(10.0)
        monitor.resume()
    elif how == "stop_now":
        monitor.stop_now()
        monitor.resume()
    elif how == "apply":
        monitor.apply(monitor.policy.changed(ip_blacklist=["10.0.0.1"], conn_limit=7))
        monitor.apply(monitor.policy.changed(ip_blacklist=[]))
    elif how == "enter":
        connection = enter(monitor, "10.0.0.7")
        assert connection is not None
        monitor.saw(connection.record, "up", b"x")
        connection.end("client_closed", reset=True)
    elif how == "raise":
        raise ZeroDivisionError
    elif how == "exit":
        sys.exit()
    elif how == "cancelled":
        raise asyncio.CancelledError
    else:
        raise GeneratorExit


WAYS = (
    *("close", "reset", "block", "stop", "stop_now", "apply", "enter"),
    *("raise", "exit", "cancelled", "generator"),
)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("hook", HOOKS)
def test_the_others_hear_everything_in_order(
    monitor: Monitor, logged_failures: list[Failure], hook: str, how: str
) -> None:
    before, after = Events(), Events()
    acting = Acting(hook, lambda _: act(monitor, how))
    for observer in (before, acting, after):
        monitor.add_observer(observer)
    live_through_all_hooks(monitor)
    assert acting.hook == "", "it has not acted"
    assert after.heard == before.heard
    for ip in ("10.0.0.1", "10.0.0.2", "10.0.0.7"):
        heard = [each for each in after.of(ip) if each not in ("block", "unblock")]
        order = ["opened", "backend_connected", "data", "half_closed", "closed"]
        assert heard == sorted(set(heard), key=order.index), heard
        assert heard[:1] + heard[-1:] == ["opened", "closed"] or (ip == "10.0.0.7" and not heard)
    assert after.of("10.0.0.3") == ["refused"]
    assert len(monitor) == 0
    failed = how in ("raise", "exit", "cancelled", "generator")
    assert len(logged_failures) == failed
    logged_failures.clear()
    if not failed:
        assert acting.heard == after.heard


def test_what_follows_an_event_is_heard_after_it(monitor: Monitor) -> None:
    last = Events()
    monitor.add_observer(Acting("opened", lambda record: monitor.close(record.id, reset=True)))
    monitor.add_observer(Acting("closed", lambda _: monitor.block("192.0.2.0/24")))
    monitor.add_observer(last)
    connection = enter(monitor)
    assert connection is not None
    assert last.heard == [
        "10.0.0.1 opened",
        "10.0.0.1 closed",
        f"id {connection.record.id} reset",
        "192.0.2.0/24 block",
    ]


def test_the_order_is_that_of_all_services(clock: Clock) -> None:
    """As a log of several has it."""
    registry = Registry()
    web, ssh = registry.new("web", clock=clock), registry.new("ssh", clock=clock)
    other = enter(ssh, "10.0.0.2")
    assert other is not None
    log = Events()
    registry.observe(Acting("opened", lambda _: other.end("operator", reset=True)))
    registry.observe(log)
    enter(web)
    assert log.heard == ["10.0.0.1 opened", "10.0.0.2 closed"]


def test_an_action_that_concerns_several_services_is_heard_once_and_in_its_place(
    clock: Clock,
) -> None:
    registry = Registry()
    web, ssh = registry.new("web", clock=clock), registry.new("ssh", clock=clock)
    log = Events()

    def report(_: object) -> None:
        web.report(Action("reset_stats", OWN_CODE, 1.0), [ssh])
        ssh.block("10.0.0.5")

    registry.observe(Acting("opened", report))
    registry.observe(log)
    enter(web)
    assert log.heard == ["10.0.0.1 opened", " reset_stats", "10.0.0.5/32 block"]


def test_one_that_is_added_hears_what_happens_from_then_on(monitor: Monitor) -> None:
    added = Events()

    def add(record: ConnectionRecord) -> None:
        monitor.close(record.id, reset=True)
        monitor.add_observer(added)
        enter(monitor, "10.0.0.2")

    monitor.add_observer(Acting("opened", add))
    enter(monitor)
    assert added.heard == ["10.0.0.2 opened"]


def test_one_that_is_removed_hears_nothing_more_of_what_has_happened(monitor: Monitor) -> None:
    removed = Events()

    def remove(record: ConnectionRecord) -> None:
        monitor.close(record.id, reset=True)
        monitor.remove_observer(removed)
        monitor.add_observer(removed)  # is another subscription

    monitor.add_observer(Acting("opened", remove))
    monitor.add_observer(removed)
    enter(monitor)
    enter(monitor, "10.0.0.2")
    assert removed.heard == ["10.0.0.2 opened"]


def test_one_that_fails_hears_nothing_more_of_what_has_happened(
    monitor: Monitor, logged_failures: list[Failure]
) -> None:
    def fail(record: ConnectionRecord) -> None:
        monitor.close(record.id, reset=True)
        raise ZeroDivisionError

    monitor.add_observer(failing := Acting("opened", fail))
    monitor.add_observer(other := Events())
    enter(monitor)
    assert failing.heard == ["10.0.0.1 opened"]
    assert other.of("10.0.0.1") == ["opened", "closed"]
    logged_failures.clear()


def test_a_chain_of_ends_needs_no_stack(monitor: Monitor) -> None:
    """Each end of a connection makes an observer end the next."""
    depths: set[int] = set()

    class EndsTheNext(Observer):
        def closed(self, record: ConnectionRecord) -> None:
            depth, frame = 0, sys._getframe()
            while frame.f_back is not None:
                depth, frame = depth + 1, frame.f_back
            depths.add(depth)
            for record in monitor.connections()[:1]:
                monitor.close(record.id, reset=True)

    count = 3 * sys.getrecursionlimit()
    for _ in range(count):
        enter(monitor)
    monitor.add_observer(EndsTheNext())
    monitor.add_observer(log := Events())
    monitor.close(monitor.connections()[0].id, reset=True)
    assert len(monitor) == 0
    assert len(log.of("10.0.0.1")) == count
    assert len(depths) <= 2


@pytest.mark.parametrize("breadth", [1, 3])
def test_one_that_answers_each_action_with_others_is_switched_off(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, breadth: int
) -> None:
    monkeypatch.setattr(observers, "CAUSED_EVENTS", 100)

    class Endless(Observer):
        calls = 0

        def acted(self, action: Action) -> None:
            self.calls += 1
            for _ in range(breadth):
                monitor.block("10.0.0.1")

    monitor.add_observer(endless := Endless())
    monitor.add_observer(other := Events())
    with capturedLogs() as logged:
        monitor.block("10.0.0.2")
    assert 100 // breadth <= endless.calls <= 100 // breadth + 2
    assert len(other.heard) == 1 + breadth * endless.calls
    assert texts(logged, "switched off") == [
        "web: observer Endless is switched off: it answers events that follow from others by"
        " causing more, without an end (100)"
    ]
    endless.calls = 0
    monitor.block("10.0.0.3")
    assert endless.calls == 0


def test_many_answers_at_once_are_no_endless_chain(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "CAUSED_EVENTS", 100)

    class Blocks(Observer):
        def refused(self, record: ConnectionRecord) -> None:
            monitor.block(record.client_ip)

    monitor.add_observer(Blocks())
    monitor.lifecycle.stopping = True
    for number in range(200):
        enter(monitor, f"10.0.1.{number}")
    assert len(monitor.blocks()) == 200


def test_to_answer_one_action_by_many_is_no_endless_chain(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "CAUSED_EVENTS", 100)
    for _ in range(200):
        enter(monitor)

    def close_all(_: object) -> None:
        for record in monitor.connections():
            monitor.close(record.id, reset=True)

    monitor.add_observer(acting := Acting("acted", close_all))
    monitor.block("192.0.2.1")
    assert len(acting.heard) == 1 + 200 + 200


def texts(logged: Sequence[LogEvent], part: str) -> list[str]:
    found = [formatEvent(event) for event in logged]
    return [text for text in found if part in text]


def test_the_others_are_notified_before_an_interrupt_ends_the_program(monitor: Monitor) -> None:
    def interrupted(record: ConnectionRecord) -> None:
        monitor.close(record.id, reset=True)
        raise KeyboardInterrupt

    monitor.add_observer(Acting("opened", interrupted))
    monitor.add_observer(other := Events())
    with pytest.raises(KeyboardInterrupt):
        enter(monitor)
    assert other.of("10.0.0.1") == ["opened", "closed"]
    enter(monitor)
    assert other.of("10.0.0.1")[2:] == ["opened"]


@pytest.mark.parametrize("ended_before", [False, True])
def test_a_stop_is_over_after_all_have_heard_of_the_last_end(
    monitor: Monitor, ended_before: bool
) -> None:
    """Whoever waits for it stops what writes the events."""
    log = Events()
    stopped_after: list[list[str]] = []

    def stop(record: ConnectionRecord) -> None:
        if ended_before:
            monitor.close(record.id, reset=True)
        monitor.stop(10.0).addCallback(lambda _: stopped_after.append(list(log.heard)))
        if not ended_before:
            monitor.stop_now()
        assert not stopped_after

    monitor.add_observer(Acting("opened", stop))
    monitor.add_observer(log)
    enter(monitor)
    (heard,) = stopped_after
    assert "10.0.0.1 closed" in heard


def test_a_stop_that_is_taken_back_in_a_hook_does_not_end_the_next_one(monitor: Monitor) -> None:
    over: list[str] = []

    def stop_twice(record: ConnectionRecord) -> None:
        monitor.stop(10.0).addCallback(lambda _: over.append("first"))
        monitor.resume()
        monitor.stop(10.0).addCallback(lambda _: over.append("second"))

    monitor.add_observer(Acting("opened", stop_twice))
    connection = enter(monitor)
    assert connection is not None
    assert over == ["first"]
    connection.end("client_closed", reset=True)
    assert over == ["first", "second"]


def test_a_failing_callback_of_a_stop_keeps_nothing_from_observers(
    monitor: Monitor, logged_failures: list[Failure]
) -> None:
    log = Events()

    def later(_: object) -> None:
        observers.when_delivered(lambda: 1 // 0)
        monitor.block("10.0.0.5")

    monitor.add_observer(Acting("opened", later))
    monitor.add_observer(log)
    enter(monitor)
    assert log.heard == ["10.0.0.1 opened", "10.0.0.5/32 block"]
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()


# -- what is no observer


@pytest.mark.parametrize("hook", HOOKS)
def test_an_async_def_is_refused_where_it_would_never_run(monitor: Monitor, hook: str) -> None:
    async def never(*args: object) -> None:
        raise AssertionError

    wrong = type("Mine", (Observer,), {hook: never, "watches_payload": True})
    with pytest.raises(ObserverError, match=f"Mine.{hook} is an async def.*AsyncObserver"):
        monitor.add_observer(wrong())
    with pytest.raises(ObserverError, match=f"Mine.{hook} is an async def"):
        Registry().observe(wrong())
    with pytest.raises(ObserverError, match=f"Mine.{hook} is an async def"):
        observers.check_class(wrong)
    live_through_all_hooks(monitor)


def test_an_async_generator_is_refused_too(monitor: Monitor) -> None:
    class Mine(Observer):
        async def closed(self, record: ConnectionRecord) -> Any:
            yield record

    with pytest.raises(ObserverError, match="an async def"):
        monitor.add_observer(Mine())


def test_observers_from_before_the_optional_hooks_go_on_working(monitor: Monitor) -> None:
    class Old:
        watches_payload = False

        def __init__(self) -> None:
            self.heard: list[str] = []

        def __getattr__(self, name: str) -> Any:
            if name not in ("opened", "refused", "data", "closed", "alarmed"):
                raise AttributeError(name)
            return lambda *args: self.heard.append(name)

    monitor.add_observer(old := Old())  # type: ignore[arg-type]
    live_through_all_hooks(monitor)
    assert old.heard == ["opened", "opened", "refused", "alarmed", "closed", "closed"]


# -- some services, some connections


def test_only_some_services(clock: Clock) -> None:
    registry = Registry()
    registry.observe(some := Events(), services=["ssh", "mqtt"])
    registry.observe(every := Events())
    for name, ip in (("web", "10.0.0.1"), ("ssh", "10.0.0.2"), ("mqtt", "10.0.0.3")):
        enter(registry.new(name, clock=clock), ip)
    assert some.heard == ["10.0.0.2 opened", "10.0.0.3 opened"]
    assert len(every.heard) == 3


def test_one_name_is_not_taken_for_several() -> None:
    with pytest.raises(SettingTypeError, match="services='ssh'"):
        Registry().observe(Observer(), services="ssh")


def test_only_some_connections(clock: Clock) -> None:
    registry = Registry()
    monitor = registry.new("web", clock=clock)
    stop = registry.observe(
        some := Events(), where=lambda record: record.client_ip.endswith(("1", "3"))
    )
    live_through_all_hooks(monitor)
    assert some.heard == [
        "10.0.0.1 opened",
        "10.0.0.3/32 block",  # which concerns no single connection
        "10.0.0.3 refused",
        "10.0.0.1 backend_connected",
        "10.0.0.1 data",
        "10.0.0.1 half_closed",
        "10.0.0.9 alarmed",
        "10.0.0.1 closed",
    ]
    stop()
    enter(monitor)
    assert len(some.heard) == 8


def test_a_failing_where_is_the_observers_failure(
    monitor: Monitor, logged_failures: list[Failure]
) -> None:
    monitor.add_observer(some := Events(), where=lambda record: 1 / 0)
    monitor.add_observer(other := Events())
    enter(monitor)
    assert (some.heard, other.heard) == ([], ["10.0.0.1 opened"])
    assert not any(some is each[0] for each in monitor.observers.by_hook["closed"])
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()


def test_addresses_are_wanted_as_long_as_an_observer_wants_them() -> None:
    class Wants(Observer):
        wants_addresses = True

    monitor = Monitor("web", clock=Clock())
    first, second = Wants(), Wants()
    assert not monitor.observers.wants_addresses
    for each in (Observer(), first, second):
        monitor.add_observer(each)
    assert monitor.observers.wants_addresses
    monitor.remove_observer(first)
    assert monitor.observers.wants_addresses
    monitor.remove_observer(second)
    assert not monitor.observers.wants_addresses
