"""Ending connections evenly over a time, so that their clients come back evenly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock

LEAST_SECONDS = 0.05
"""The least time between two steps: of ten thousand connections in a minute, each ends a few."""
MOST_SPREADS = 16
"""How many there may be of one service: each holds a list of connections."""


class Spread:
    """Ends connections in random order, evenly over a time, with a single timer.

    The pace is that of those which are left over the time that is left: where some leave by
    themselves, the others are ended neither sooner nor in a crowd.

    :param clock: monotonic time and timers.
    :param ids: the connections.
    :param seconds: the time after which the last one is ended.
    :param end: ends some of them, by their ids; they need not be live any more.
    :param done: called once none is left, or it is cancelled; maybe more than once.
    """

    def __init__(
        self,
        clock: Clock,
        ids: Iterable[int],
        seconds: float,
        end: Callable[[list[int]], object],
        done: Callable[[Spread], object],
    ) -> None:
        self._clock = clock
        self._order = list(ids)
        # Not the order of their opening: those that came together would leave together.
        random.shuffle(self._order)
        self._left = set(self._order)
        self._end = end
        self._done = done
        self._at = clock.seconds()
        self.ends = self._at + seconds
        """When the last one is ended, in monotonic seconds."""
        self._owed = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin; the first connection is ended after its share of the time."""
        self._schedule()

    def __len__(self) -> int:
        """How many are still to be ended."""
        return len(self._left)

    def left(self, connection_id: int) -> None:
        """A connection has ended; harmless for one that is not among them."""
        if connection_id in self._left:
            self._left.discard(connection_id)
            if not self._left:
                self.cancel()

    def cancel(self) -> None:
        """End no more; harmless the second time."""
        self._left.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._done(self)

    def _schedule(self) -> None:
        if not self._left:
            self.cancel()
            return
        rest = max(0.0, self.ends - self._clock.seconds())
        gap = max(rest / len(self._left), LEAST_SECONDS)
        self._timer = self._clock.callLater(min(gap, rest), self._step)

    def _step(self) -> None:
        self._timer = None
        now, rest = self._clock.seconds(), self.ends - self._at
        count = len(self._left)
        if now < self.ends:
            self._owed += count * (now - self._at) / rest
            # At least one, though others have left meanwhile: it is this one's time.
            count = min(count, max(1, int(self._owed + 1e-6)))
            self._owed = max(0.0, self._owed - count)
        self._at = now
        chosen: list[int] = []
        while len(chosen) < count:
            connection_id = self._order.pop()
            if connection_id in self._left:
                self._left.discard(connection_id)
                chosen.append(connection_id)
        if chosen:
            self._end(chosen)
        self._schedule()
