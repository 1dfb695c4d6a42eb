from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

import monconn
from monconn.errors import DuplicateService, UnknownService
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.testing import RecordingObserver


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_new_makes_and_adds(registry: Registry) -> None:
    rules, timeouts, clock = Rules(), Timeouts(), Clock()
    monitor = registry.new("web", rules, timeouts, listen=":80", backend="b:80", clock=clock)
    assert registry.get("web") is monitor
    assert (monitor.name, monitor.policy.rules, monitor.timeouts) == ("web", rules, timeouts)
    assert (monitor.listen, monitor.backend, monitor.clock) == (":80", "b:80", clock)


def test_name_left_out(registry: Registry) -> None:
    assert registry.new() is registry.get("default")


def test_add(registry: Registry) -> None:
    monitor = Monitor("web")
    registry.add(monitor)
    assert registry.get("web") is monitor


@pytest.mark.parametrize("way", ["new", "add"])
def test_name_is_taken(registry: Registry, way: str) -> None:
    first = registry.new("web")
    with pytest.raises(DuplicateService, match=r"^a service named 'web' exists already$"):
        registry.new("web") if way == "new" else registry.add(Monitor("web"))
    assert registry.get("web") is first


@pytest.mark.parametrize("what", ["get", "delete"])
def test_unknown_name(registry: Registry, what: str) -> None:
    with pytest.raises(UnknownService, match=r'^there is no service named "web"$'):
        getattr(registry, what)("web")


def test_delete_frees_the_name(registry: Registry) -> None:
    monitor = registry.new("web")
    assert registry.delete("web") is monitor
    assert (registry.names(), len(registry)) == ([], 0)
    assert registry.new("web") is not monitor


def test_names_and_monitors_are_in_the_order_they_came(registry: Registry) -> None:
    monitors = [registry.new(name) for name in ("b", "c", "a")]
    assert registry.names() == ["b", "c", "a"]
    assert list(registry) == monitors
    assert len(registry) == 3


def test_may_change_while_it_is_iterated(registry: Registry) -> None:
    for name in "abc":
        registry.new(name)
    for monitor in registry:
        registry.delete(monitor.name)
    assert len(registry) == 0


def test_empty_one_is_still_true(registry: Registry) -> None:
    """So that ``registry or another`` does not lose it."""
    assert registry


# -- shutting down


def enter(monitor: Monitor) -> Any:
    connection: Any = SimpleNamespace(record=monitor.admit("10.0.0.1:1", "10.0.0.1"))
    monitor.opened(connection)
    return connection


def test_shutdown_ends_with_the_last_connection_of_all(registry: Registry) -> None:
    clock = Clock()
    monitors = [registry.new(name, clock=clock) for name in "abc"]
    connections = [enter(monitor) for monitor in monitors[:2]]
    done = registry.shutdown(60.0)
    assert all(monitor.stopping for monitor in monitors)
    for monitor, connection in zip(monitors, connections, strict=False):
        assert not done.called
        monitor.closed(connection)
    assert done.called


@pytest.mark.parametrize(("arguments", "seconds"), [((), 60.0), ((5.0,), 5.0)])
def test_shutdown_waits(registry: Registry, arguments: tuple[float, ...], seconds: float) -> None:
    clock = Clock()
    connection = enter(registry.new(clock=clock))
    ends: list[str] = []
    connection.end = lambda reason, reset: ends.append(reason)
    registry.shutdown(*arguments)
    clock.advance(seconds - 0.1)
    assert ends == []
    clock.advance(0.1)
    assert ends == ["stopping"]


def test_shutdown_without_services(registry: Registry) -> None:
    assert registry.shutdown().called


def test_default_registry() -> None:
    monitor = monconn.new("a test's own")
    try:
        assert monconn.get("a test's own") is monitor
        assert "a test's own" in monconn.names()
        assert monitor in list(monconn.registry)
    finally:
        assert monconn.delete("a test's own") is monitor


# -- subscriptions


def test_a_subscription_ends_when_it_is_cancelled(registry: Registry) -> None:
    added: list[str] = []
    cancels = [registry.when_added(lambda monitor: added.append(monitor.name)) for _ in range(2)]
    registry.new("a")
    cancels[0]()
    cancels[0]()  # harmless
    registry.new("b")
    assert added == ["a", "a", "b"]


def test_an_observer_is_removed_from_all_when_it_is_cancelled(registry: Registry) -> None:
    observer, clock = RecordingObserver(), Clock()
    first = registry.new("first", clock=clock)
    cancel = registry.observe(observer)
    second = registry.new("second", clock=clock)
    enter(first)
    enter(second)
    registry.delete("second")  # its connections go on
    cancel()
    for monitor in (first, second, registry.new("third", clock=clock)):
        enter(monitor)
    assert [event[1].service for event in observer.events] == ["first", "second"]


def test_subscribers_are_notified_of_deleted_monitors(registry: Registry) -> None:
    deleted: list[Monitor] = []
    cancel = registry.when_deleted(deleted.append)
    first, _ = registry.new("first"), registry.new("second")
    registry.delete("first")
    cancel()
    registry.delete("second")
    assert deleted == [first]


def test_cancelled_subscriptions_leave_nothing_behind(registry: Registry) -> None:
    monitor = registry.new("web", clock=Clock())
    for _ in range(50):
        registry.observe(RecordingObserver())()
        registry.when_added(print)()
        monitor.room.subscribe(print)()
        monitor.add_observer(RecordingObserver())()
    assert len(registry._when_added) == len(monitor.room.waiting) == 0
    assert not any(monitor.observers.by_hook.values())
