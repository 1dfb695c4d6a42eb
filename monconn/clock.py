"""Monotonic time and timers, used for everything except displayed times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.python.threadable import isInIOThread


class Timers(Protocol):
    """The part of a reactor that :class:`MonotonicClock` needs (``IReactorTime``)."""

    def callLater(
        self, delay: float, call: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> IDelayedCall:
        """Call something after ``delay`` seconds, as ``IReactorTime.callLater`` does."""


class Clock(Timers, Protocol):
    """Monotonic time and timers, as everything with a deadline needs.

    :class:`MonotonicClock` in production, ``twisted.internet.task.Clock`` in tests.
    """

    def seconds(self) -> float:
        """Monotonic seconds."""


def retry_pauses(pauses_seconds: Sequence[float]) -> Sequence[float]:
    """The pauses to sleep between attempts: none in the thread of a running reactor.

    There a sleep would stop every connection; before the reactor runs there is nothing to stop.
    """
    # False until a reactor has started; importing one here to ask it would install it.
    return () if isInIOThread() else pauses_seconds


class MonotonicClock:
    """Monotonic seconds, and the reactor's timers.

    A reactor's own ``seconds()`` is the wall clock, which can jump.

    :param reactor: whose timers to use; the installed one if left out, looked up when the
        first timer is set, so that making a monitor installs no reactor.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self, reactor: Timers | None = None) -> None:
        self._reactor = reactor

    def callLater(
        self, delay: float, call: Callable[..., object], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Call something later, as ``IReactorTime.callLater`` does."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor.callLater(delay, call, *args, **kwargs)
