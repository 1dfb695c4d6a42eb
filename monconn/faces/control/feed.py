"""Connections opened, refused and closed, told to whoever subscribes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.listing import row
from monconn.ops.rates import Rates
from monconn.ratelimit import RateLimiter

EVENTS_A_SECOND = 1_000
"""Beyond these, events are dropped and counted, so that watching never becomes the cost."""


class Subscriber(Protocol):
    """Who is told."""

    def push(self, event: bytes) -> None:
        """An event, as a JSON object."""

    def drop(self) -> None:
        """One more event was not told."""


class Feed(Observer):
    """Observes the monitors while there is a subscriber.

    :param registry: the monitors.
    :param clock: gives monotonic ``seconds()``.
    """

    def __init__(self, registry: Registry, clock: Any) -> None:
        self._registry = registry
        self._clock = clock
        self._subscribers: dict[Subscriber, str | None] = {}
        registry.when_added(self._watch)
        self._room = RateLimiter(clock, EVENTS_A_SECOND)

    def subscribe(self, subscriber: Subscriber, service: str | None) -> None:
        """Tell someone of a service's events, or of all services'."""
        if not self._subscribers:
            for monitor in self._registry:
                monitor.add_observer(self)
        self._subscribers[subscriber] = service

    def _watch(self, monitor: Monitor) -> None:
        if self._subscribers:
            monitor.add_observer(self)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Tell someone nothing more; harmless for one that is not told anything."""
        if self._subscribers.pop(subscriber, self) is not self and not self._subscribers:
            for monitor in self._registry:
                monitor.remove_observer(self)

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""
        self._notify("opened", record)

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        self._notify("refused", record)

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self._notify("closed", record)

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
        self._push("alarm", alarm.service, alarm.snapshot)

    def _notify(self, event: str, record: ConnectionRecord) -> None:
        now = self._clock.seconds
        self._push(event, record.service, lambda: row(record, Rates(), now()))

    def _push(self, event: str, service: str, show: Callable[[], dict[str, Any]]) -> None:
        subscribers = [
            subscriber
            for subscriber, wanted in self._subscribers.items()
            if wanted in (None, service)
        ]
        if not subscribers:
            return
        if not self._room.take():
            for subscriber in subscribers:
                subscriber.drop()
            return
        encoded = json.dumps({"event": event, "at": iso_time(time.time()), **show()}).encode()
        for subscriber in subscribers:
            subscriber.push(encoded)
