"""One timer for the deadlines of thousands of connections."""

from __future__ import annotations

import heapq
from typing import Any, Protocol

from twisted.logger import Logger

_NEVER = float("inf")


class Checked(Protocol):
    """What :class:`Deadlines` looks after."""

    bucket: int | None

    def check(self, now: float) -> float | None:
        """Act on what is due; when to look again (monotonic seconds), or None for never."""


_LEAST_DROPPED_KEYS = 64


class Deadlines:
    """Looks at many connections in time with a single timer.

    Those that are due in the same tenth of a second share a bucket, so that to add or
    to drop one costs the same however many there are.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    BUCKET_SECONDS = 0.1
    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._buckets: dict[int, set[Checked]] = {}
        self._keys: list[int] = []
        self._timer: Any = None
        self._timer_key: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def schedule(self, item: Checked, when: float) -> None:
        """Look at an item at a time, instead of at any earlier wish; infinity for never."""
        if item.bucket is not None:
            self.cancel(item)
        if when == _NEVER:
            return
        key = int(when / self.BUCKET_SECONDS) + 1
        if key * self.BUCKET_SECONDS <= when:  # by rounding; a look at once could go on for ever
            key += 1
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
            heapq.heappush(self._keys, key)
            self._set_timer()
        bucket.add(item)
        item.bucket = key

    def cancel(self, item: Checked) -> None:
        """Look at an item no more; harmless for one that is not looked after."""
        if item.bucket is None:
            return
        bucket = self._buckets.get(item.bucket)  # None if this very bucket is being looked at
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                self._drop_bucket(item.bucket)
        item.bucket = None

    def _drop_bucket(self, key: int) -> None:
        del self._buckets[key]
        # Its key is somewhere in the heap: it goes when its time comes, or with many others.
        if len(self._keys) > 2 * len(self._buckets) + _LEAST_DROPPED_KEYS:
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
                if item.bucket == key:  # else an earlier look of this turn dropped it
                    self.cancel(item)
                    self._check(item, now)
        if self._keys:
            self._set_timer()

    def _check(self, item: Checked, now: float) -> None:
        try:
            again = item.check(now)
        except Exception:
            self._log.failure("looking after {item} failed", item=str(item))
            return
        if again is not None:
            self.schedule(item, max(again, now))
