"""The time that everything but displays goes by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall


class Clock(Protocol):
    """What everything with a deadline needs: monotonic time and timers.

    :class:`MonotonicClock` in production, ``twisted.internet.task.Clock`` in tests.
    """

    def seconds(self) -> float:
        """Monotonic seconds."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Call something after ``delay`` seconds, as ``IReactorTime.callLater`` does.

        The parameters are named as Twisted's own clocks name them, so that those conform.
        """


class MonotonicClock:
    """Monotonic seconds, and the reactor's timers.

    A reactor's own ``seconds()`` is the wall clock, which can jump.

    :param reactor: whose timers to use; the installed one if left out, looked up when the
        first timer is set, so that making a monitor installs no reactor.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self, reactor: Any = None) -> None:
        self._reactor = reactor

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Call something later, as ``IReactorTime.callLater`` does."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        delayed: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return delayed


class RateLimiter:
    """Whether there is room for one more this second.

    :param clock: gives monotonic ``seconds()``.
    :param a_second: how many there may be.
    """

    def __init__(self, clock: Any, a_second: int) -> None:
        self._clock = clock
        self._a_second = a_second
        self._second = 0
        self._used = 0

    def take(self) -> bool:
        """Use a place, if one is left."""
        second = int(self._clock.seconds())
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        return self._used <= self._a_second
