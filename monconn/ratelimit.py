"""Some lines a second, and one that sums up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from monconn.clock import RateLimiter


class RateLimitedLog:
    """Counts what finds no room among a second's lines, and has it told of a second later.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param a_second: how many lines there may be.
    :param tell: called with how many were counted, and of which kinds, the most frequent first.
    """

    def __init__(self, clock: Any, a_second: int, tell: Callable[[int, str], object]) -> None:
        self.has_room = RateLimiter(clock, a_second).take
        """Use the place of a line, if there is one left."""
        self._clock = clock
        self._notify = tell
        self._counted: Counter[str] = Counter()
        self._timer: Any = None

    def add(self, kind: str) -> None:
        """Count one."""
        self._counted[kind] += 1
        if self._timer is None:
            self._timer = self._clock.callLater(1.0, self.flush)

    def flush(self) -> None:
        """Have it told now, if there is anything to tell."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._counted:
            counted, self._counted = self._counted, Counter()
            kinds = ", ".join(f"{count} {kind}" for kind, count in counted.most_common())
            self._notify(sum(counted.values()), kinds)
