"""One timer for the deadlines of thousands of connections."""

from __future__ import annotations

import heapq
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from monconn.clock import Clock

_NEVER = float("inf")


class Checked(Protocol):
    """An item that :class:`Deadlines` checks."""

    bucket: int | None
    """Belongs to :class:`Deadlines`: the bucket that the item is in. Starts as None."""

    def check(self, now: float) -> float | None:
        """Act on what is due.

        :param now: monotonic seconds.
        :returns: when to check again, in monotonic seconds; None for never.
        """


_STALE_KEYS_KEPT = 64


class Deadlines:
    """Checks many items, each at a time of its own, with a single timer.

    Items that are due within the same tenth of a second share a bucket, so that scheduling and
    cancelling cost O(1) however many items there are: a timer of the reactor's for each would
    cost O(log n), and leave cancelled entries in its heap.

    :param clock: gives monotonic time and timers.
    """

    BUCKET_SECONDS = 0.1
    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, set[Checked]] = {}
        self._keys: list[int] = []
        self._timer: IDelayedCall | None = None
        self._timer_key: int | None = None

    def __len__(self) -> int:
        """How many items are scheduled."""
        return sum(map(len, self._buckets.values()))

    def schedule(self, item: Checked, when: float) -> None:
        """Check an item once, up to a tenth of a second after a given time.

        It replaces the item's earlier schedule, if there is one.

        :param when: monotonic seconds; infinity for never.
        """
        if item.bucket is not None:
            self.cancel(item)
        if when == _NEVER:
            return
        key = int(when / self.BUCKET_SECONDS) + 1
        # Rounding of floats may place the bucket before the deadline: the item would find nothing
        # due, ask for the same time again, and so for ever within one tick.
        if key * self.BUCKET_SECONDS <= when:
            key += 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
            heapq.heappush(self._keys, key)
            self._set_timer()
        bucket.add(item)
        item.bucket = key

    def cancel(self, item: Checked) -> None:
        """Do not check an item any more; harmless if it is not scheduled."""
        if item.bucket is None:
            return
        bucket = self._buckets.get(item.bucket)  # None while this very bucket is being checked
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                self._drop_bucket(item.bucket)
        item.bucket = None

    def _drop_bucket(self, key: int) -> None:
        del self._buckets[key]
        # A heap cannot remove from its middle: the key goes when its time comes, or when stale keys
        # outnumber the others, so that the cost stays O(1) amortised and the heap bounded.
        if len(self._keys) > 2 * len(self._buckets) + _STALE_KEYS_KEPT:
            self._keys = sorted(self._buckets)

    def _set_timer(self) -> None:
        if self._timer_key is not None and self._timer_key <= self._keys[0]:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_key = self._keys[0]
        delay = max(0.0, self._timer_key * self.BUCKET_SECONDS - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_key = None
        now = self._clock.seconds()
        while self._keys and self._keys[0] * self.BUCKET_SECONDS <= now:
            key = heapq.heappop(self._keys)
            for item in self._buckets.pop(key, ()):
                if item.bucket == key:  # else a check earlier in this tick has cancelled it
                    self.cancel(item)
                    self._check(item, now)
        if self._keys:
            self._set_timer()

    def _check(self, item: Checked, now: float) -> None:
        try:
            again = item.check(now)
        except Exception:
            self._log.failure("checking {item} failed", item=str(item))
            return
        if again is not None:
            self.schedule(item, max(again, now))
