"""Deadlines of thousands of items: a wheel of buckets, and one timer for all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.log import Logger
from monconn.turns import in_turns

_NEVER = float("inf")
_LEAST_DROPPED_KEYS = 64
FAILED_AGAIN_SECONDS = 60.0
"""When an item is checked again whose check has raised."""


class Scheduled(Protocol):
    """An item of a :class:`DeadlineWheel`."""

    bucket: int | None
    """The wheel's: which bucket the item is in; None for none, and at first."""


class Checked(Scheduled, Protocol):
    """An item of :class:`Deadlines`."""

    def check(self, now: float) -> float | None:
        """Act on what is due.

        :param now: monotonic seconds.
        :returns: when to check again (monotonic seconds), or None for never.
        """


Item = TypeVar("Item", bound=Scheduled)


class DeadlineWheel(Generic[Item]):
    """Items by the time at which they are due, each at most once.

    Those that are due within the same interval share a bucket, so that to schedule or cancel one
    costs the same however many there are; a heap holds one entry per bucket and not per item.

    :param bucket_seconds: the interval: how late an item may be.
    """

    def __init__(self, bucket_seconds: float) -> None:
        self._bucket_seconds = bucket_seconds
        self._buckets: dict[int, set[Item]] = {}
        self._keys: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def schedule(self, item: Item, when: float) -> None:
        """Make an item due at a time instead of at any earlier one; infinity for never."""
        if item.bucket is not None:
            self.cancel(item)
        if when == _NEVER:
            return
        key = int(when / self._bucket_seconds) + 1
        # Rounding of floats may place the bucket before the deadline: the item would find nothing
        # due, ask for the same time again, and keep take_due() busy for ever.
        if key * self._bucket_seconds <= when:
            key += 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
            heapq.heappush(self._keys, key)
            self._set_timer()
        bucket.add(item)
        item.bucket = key

    def schedule_by(self, item: Item, when: float) -> None:
        """Make an item due at a time, unless it is due earlier already."""
        if item.bucket is None or item.bucket * self._bucket_seconds > when + self._bucket_seconds:
            self.schedule(item, when)

    def _set_timer(self) -> None:
        """Called when there is a new bucket; for a subclass that has a timer."""

    def cancel(self, item: Item) -> None:
        """Forget an item; harmless for one that is not scheduled."""
        if item.bucket is None:
            return
        bucket = self._buckets[item.bucket]
        bucket.discard(item)
        if not bucket:
            del self._buckets[item.bucket]
            # A heap cannot remove from its middle: the key goes when its time comes, or when stale
            # keys outnumber the others, so that the cost stays O(1) amortised and the heap bounded.
            if len(self._keys) > 2 * len(self._buckets) + _LEAST_DROPPED_KEYS:
                self._keys = sorted(self._buckets)
        item.bucket = None

    def take_due(self, now: float) -> Iterator[Item]:
        """The items that are due, no longer scheduled; others may be scheduled meanwhile."""
        while self._keys and self._keys[0] * self._bucket_seconds <= now:
            bucket = self._buckets.get(self._keys[0])
            if bucket is None:  # all of it was cancelled
                heapq.heappop(self._keys)
                continue
            item = bucket.pop()
            item.bucket = None
            if not bucket:
                del self._buckets[heapq.heappop(self._keys)]
            yield item


class Deadlines(DeadlineWheel[Checked]):
    """Checks each item when it is due, with a single timer for all.

    Thousands that are due at once are checked in as many turns of the loop as that takes.

    :param clock: monotonic time and timers.
    """

    BUCKET_SECONDS = 0.1
    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        super().__init__(self.BUCKET_SECONDS)
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._timer_key: int | None = None
        self._is_checking = False

    def _set_timer(self) -> None:
        if self._is_checking or (self._timer_key is not None and self._timer_key <= self._keys[0]):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_key = self._keys[0]
        delay = max(0.0, self._timer_key * self.BUCKET_SECONDS - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_key = None
        self._is_checking = True
        in_turns(self._clock, self._check_due()).addBoth(lambda _: self._checked())

    def _check_due(self) -> Iterator[None]:
        for item in self.take_due(self._clock.seconds()):
            now = self._clock.seconds()
            try:
                again = item.check(now)
                if again is not None:
                    self.schedule(item, max(again, now))
            except Exception:
                self._log.failure("the deadlines of {item} could not be checked", item=str(item))
                if item.bucket is None:  # or it would never end by itself
                    self.schedule(item, now + FAILED_AGAIN_SECONDS)
            yield

    def _checked(self) -> None:
        self._is_checking = False
        if self._keys:
            self._set_timer()
