"""What waits to be written into the history."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from monconn.clock import RateLimiter
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.sinks.history.store import Event, Item

QUEUED_ITEMS = 50_000
REFUSALS_A_SECOND = 10
"""Refusals that get a row of their own; beyond, one row a second counts them."""


class WriteQueue(Observer):
    """Holds what is to be written; what finds no room is dropped, and counted.

    :param clock: gives monotonic ``seconds()``.
    :param limit: the most that may wait, with what is being written.
    """

    def __init__(self, clock: Any, limit: int = QUEUED_ITEMS) -> None:
        self._limit = limit
        self._items: list[Item] = []
        self._room = limit
        self._rows_for_refusals = RateLimiter(clock, REFUSALS_A_SECOND)
        self._more_refused: Counter[tuple[str, str | None]] = Counter()
        self.dropped = 0
        """How much was dropped, ever."""

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self.add(record)

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        if self._rows_for_refusals.take():
            self.add(record)
        else:
            self._more_refused[record.service, record.refusal] += 1

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
        self.add(alarm)

    def acted(self, action: Action) -> None:
        """See :meth:`IActionObserver.acted`."""
        self.add(action)

    def add(self, item: Item) -> None:
        """Hold something, if there is room."""
        if len(self._items) < self._room:
            self._items.append(item)
        else:
            self.dropped += 1

    def take(self) -> list[Item]:
        """All that is to be written now; it keeps its room until :meth:`done`."""
        now = time.time()
        for (service, refusal), count in tuple(self._more_refused.items()):
            if len(self._items) < self._limit:  # else they are counted on
                self._items.append(Event(now, "refused", service, word=refusal, count=count))
                del self._more_refused[service, refusal]
        items, self._items = self._items, []
        self._room = max(0, self._limit - len(items))
        return items

    def done(self) -> None:
        """What was taken is written, or given up."""
        self._room = self._limit

    def put_back(self, items: list[Item]) -> None:
        """What was taken could not be written yet."""
        self._items[:0] = items
        self._room = self._limit
