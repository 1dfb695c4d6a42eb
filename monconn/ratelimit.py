"""Limits on how often something is done, and a log that sums up what exceeds its limit."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock

WINDOW_SECONDS = 1.0


class RateLimiter:
    """Allows something so many times at most within any second, or another time.

    The window slides: it ends at each call, so that twice the limit cannot pass around the
    boundary between two fixed windows. It stores the time of each of the last ``most`` calls that
    passed, which costs some 32 bytes each and makes a call O(1); the limits here are 5,000 at most.

    :param clock: monotonic time.
    :param most: the limit, at least 1.
    :param window_seconds: within which it holds.
    """

    def __init__(self, clock: Clock, most: int, window_seconds: float = WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._passed: deque[float] = deque(maxlen=most)

    def take(self) -> bool:
        """Count one more call and return True, unless the limit is reached."""
        now = self._clock.seconds()
        passed = self._passed
        if len(passed) == passed.maxlen and now - passed[0] < self._window_seconds:
            return False
        passed.append(now)  # which drops the oldest one
        return True


class RateLimitedLog:
    """Says which log lines may be written, and sums up the others a second later.

    :param clock: monotonic time and timers.
    :param lines_per_second: how many lines may be written in full.
    :param write_summary: called with the number of lines left out and a text that counts them
        by kind, such as ``"7 client_closed, 2 error"``, the most frequent kind first.
    """

    def __init__(
        self, clock: Clock, lines_per_second: int, write_summary: Callable[[int, str], object]
    ) -> None:
        self.has_room = RateLimiter(clock, lines_per_second).take
        """Whether the next line may be written in full; True counts it."""
        self._clock = clock
        self._write_summary = write_summary
        self._left_out: Counter[str] = Counter()
        self._timer: IDelayedCall | None = None

    def add(self, kind: str) -> None:
        """Count a line that is not written in full."""
        self._left_out[kind] += 1
        if self._timer is None:
            self._timer = self._clock.callLater(WINDOW_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the summary now, if anything was left out."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._left_out:
            left_out, self._left_out = self._left_out, Counter()
            kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common())
            self._write_summary(sum(left_out.values()), kinds)
