"""How long a service stood still: time that counts for no limit on silence."""

from __future__ import annotations

from bisect import bisect_left

MOST_PAUSES = 1_000
"""How many pauses are remembered one by one; beyond, the two oldest are counted as one."""


class Pauses:
    """The pauses of one service, on one clock; all times are monotonic seconds.

    A limit that began at some time is reached later by as long as the service stood still since
    then. So nothing is noted at a connection, however many there are.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        """When the pause began that goes on; None if there is none."""
        # Of each pause that is over: when it began and ended, and how long all before it were.
        self._began: list[float] = []
        self._ended: list[float] = []
        self._before: list[float] = []
        self._total = 0.0

    def begin(self, now: float) -> None:
        """The service stands still from now on; harmless if it does already."""
        if self.since is None:
            self.since = now

    def end(self, now: float) -> None:
        """It goes on; harmless if it does already."""
        if self.since is None:
            return
        began, self.since = self.since, None
        if now <= began:
            return
        self._began.append(began)
        self._ended.append(now)
        self._before.append(self._total)
        self._total += now - began
        if len(self._began) > MOST_PAUSES:
            self._join_oldest()

    def _join_oldest(self) -> None:
        """Count the two oldest as one pause that is as long: what is exact before and after them
        stays so."""
        length = self._before[2] - self._before[0]
        self._began[:2] = [self._ended[1] - length]
        del self._ended[0]
        del self._before[1]

    def paused_since(self, when: float, now: float) -> float:
        """For how many seconds it stood still between a time and now."""
        running = 0.0 if self.since is None else max(0.0, now - max(when, self.since))
        return running + self._ended_since(when)

    def delay_of(self, when: float) -> float:
        """By how much later a limit is reached that began at a time; infinity during a pause."""
        if self.since is not None:
            return float("inf")
        return self._ended_since(when) if self._ended else 0.0

    def _ended_since(self, when: float) -> float:
        # The first pause that ends later: of it, what is left; and all that came after it.
        at = bisect_left(self._ended, when)
        if at == len(self._ended):
            return 0.0
        return self._total - self._before[at] - max(0.0, when - self._began[at])


NO_PAUSES = Pauses()
"""Of what is never paused; shared, and so never to be changed."""
