"""The items that wait to be written into the history."""

from __future__ import annotations

import time
from collections import Counter

from monconn.clock import Clock
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.ratelimit import RateLimiter
from monconn.sinks.history.store import Event, Item

QUEUED_ITEMS = 50_000
REFUSALS_A_SECOND = 10
"""Refusals that get a row each; beyond these, one row a second counts them."""


class WriteQueue(Observer):
    """Queues items for the history; those that find it full are dropped, and counted.

    :param clock: monotonic time.
    :param limit: the most items that may be queued, including those being written.
    """

    def __init__(self, clock: Clock, limit: int = QUEUED_ITEMS) -> None:
        self._limit = limit
        self._items: list[Item] = []
        self._room = limit
        self._refusal_rows = RateLimiter(clock, REFUSALS_A_SECOND)
        self._more_refused: Counter[tuple[str, str | None]] = Counter()
        self.dropped = 0
        """How many items were dropped in all."""

    def closed(self, record: ConnectionRecord) -> None:
        """Queue a connection that has closed."""
        self.add(record)

    def refused(self, record: ConnectionRecord) -> None:
        """Queue a refusal, or only count it."""
        if self._refusal_rows.take():
            self.add(record)
        else:
            self._more_refused[record.service, record.refusal] += 1

    def alarmed(self, alarm: Alarm) -> None:
        """Queue an alarm that begins or is over; one that goes on is there already."""
        if not alarm.goes_on:
            self.add(alarm)

    def acted(self, action: Action) -> None:
        """Implements ``IActionObserver.acted``: queue the action to be written."""
        self.add(action)

    def add(self, item: Item) -> None:
        """Queue an item, if there is room."""
        if len(self._items) < self._room:
            self._items.append(item)
        else:
            self.dropped += 1

    def take(self) -> list[Item]:
        """Take all items, which count as queued until :meth:`done` or :meth:`put_back`."""
        now = time.time()
        for (service, refusal), count in tuple(self._more_refused.items()):
            if len(self._items) < self._limit:  # else they stay counted
                self._items.append(Event(now, "refused", service, word=refusal, count=count))
                del self._more_refused[service, refusal]
        items, self._items = self._items, []
        self._room = max(0, self._limit - len(items))
        return items

    def done(self) -> None:
        """The items taken last are written, or lost."""
        self._room = self._limit

    def put_back(self, items: list[Item]) -> None:
        """Queue the items taken last again: they could not be written yet."""
        self._items[:0] = items
        self._room = self._limit
