"""When a connection must end, and a clock-work that looks at each one in time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from monconn.core.record import ConnectionRecord, Reason

GRACE_SECONDS = 5.0
"""How long a peer may take to receive what is under way once the verdict has fallen."""
_LOOKS_A_LENGTH = 4
_NEVER = float("inf")
_SETTLED_SECONDS = 30.0
"""A connection that has lasted so long is worth what is not worth it for each."""


@attrs.frozen
class Timeouts:
    """The time limits of one service, in seconds; 0 = off."""

    connect_timeout: float = 10.0
    """Until the backend stands."""
    read_timeout: float = 0.0
    """Without a byte from a client that we read from and that has not ended its side."""
    write_timeout: float = 600.0
    """With bytes waiting for either side and no progress."""
    max_idle: float = 900.0
    """Without a byte either way, counted from the opening."""
    half_close_timeout: float = 0.0
    """Without a byte either way once one side has ended."""
    max_lifetime: float = 0.0
    """From the opening."""

    first_look_seconds: float = attrs.field(init=False, repr=False, eq=False)
    """How long after its opening a connection must be looked at."""
    follow_changes: bool = attrs.field(init=False, repr=False, eq=False)
    """Whether a change of state can bring a deadline nearer."""

    @first_look_seconds.default
    def _first_look_seconds(self) -> float:
        limits = (
            _SETTLED_SECONDS,
            self.connect_timeout,
            self.read_timeout,
            self.write_timeout / _LOOKS_A_LENGTH,
            self.max_idle / _LOOKS_A_LENGTH,
            self.max_lifetime,
        )
        return min(limit for limit in limits if limit)

    @follow_changes.default
    def _follow_changes(self) -> bool:
        return bool(self.half_close_timeout or self.read_timeout)

    def next_deadline(self, record: ConnectionRecord) -> tuple[float, Reason | None]:
        """When the connection is to end if nothing more happens, and with which reason.

        :returns: monotonic seconds and the reason; infinity and None without any limit.
        """
        never: tuple[float, Reason | None] = (_NEVER, None)
        return min(self._deadlines(record), key=lambda deadline: deadline[0], default=never)

    def _deadlines(self, record: ConnectionRecord) -> Iterator[tuple[float, Reason]]:
        if self.connect_timeout and record.state == "connecting":
            yield record.opened + self.connect_timeout, "connect_timeout"
        if self.max_lifetime:
            yield record.opened + self.max_lifetime, "lifetime"
        if self.max_idle:
            yield record.last_activity + self.max_idle, "idle_timeout"
        if self.half_close_timeout and record.half_closed is not None:
            since = max(record.half_closed, record.last_activity)
            yield since + self.half_close_timeout, "half_close_timeout"
        if self.read_timeout and record.reading_since is not None and record.client_end == "none":
            since = max(record.reading_since, record.last_up or 0.0)
            yield since + self.read_timeout, "read_timeout"
        if self.write_timeout:
            for stalled in (record.client_stalled, record.backend_stalled):
                if stalled is not None:
                    yield stalled + self.write_timeout, "write_timeout"

    def next_look(self, record: ConnectionRecord, now: float) -> float:
        """When to look at the connection again, in monotonic seconds.

        Bytes that wait in the system's queues, and then move, announce themselves to
        nobody, so that a connection is looked at four times in the length of the limits
        that they count for.
        """
        when = self.next_deadline(record)[0]
        for limit in (self.write_timeout, self.max_idle):
            if limit:
                when = min(when, now + limit / _LOOKS_A_LENGTH)
        return when


class Backlog:
    """Whether the bytes that wait for one side, here or in the system's queue, make progress."""

    __slots__ = ("_delivered", "_looked", "_waiting", "stalled_since")

    def __init__(self) -> None:
        self._looked = 0.0
        self._delivered = 0
        self._waiting = 0
        self.stalled_since: float | None = None
        """Since when bytes wait without progress, as far as looks have told; None if none do."""

    def look(self, waiting: int, delivered: int, now: float) -> float | None:
        """Note how things stand now.

        :param waiting: bytes that the peer has not taken yet.
        :param delivered: bytes that it has taken, ever.
        :returns: when the last look was, if some of what waited then was taken since.
        """
        has_moved = self._waiting > 0 and delivered > self._delivered
        moved_after = self._looked if has_moved else None
        if not waiting:
            self.stalled_since = None
        elif has_moved or self.stalled_since is None:
            self.stalled_since = now
        self._looked, self._waiting = now, waiting
        self._delivered = max(delivered, self._delivered)
        return moved_after


class Watched(Protocol):
    """What :class:`Deadlines` looks after."""

    bucket: int | None

    def look(self, now: float) -> float | None:
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
        self._buckets: dict[int, set[Watched]] = {}
        self._keys: list[int] = []
        self._timer: Any = None
        self._timer_key: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def schedule(self, item: Watched, when: float) -> None:
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

    def cancel(self, item: Watched) -> None:
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
                    self._look(item, now)
        if self._keys:
            self._set_timer()

    def _look(self, item: Watched, now: float) -> None:
        try:
            again = item.look(now)
        except Exception:
            self._log.failure("looking after {item} failed", item=str(item))
            return
        if again is not None:
            self.schedule(item, max(again, now))
