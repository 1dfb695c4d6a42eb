"""Monotonic time and timers, used for everything except displayed times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall


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
    # Nobody's until a reactor has started; importing one here to ask it would install it. The
    # command's verbs, which import nothing of Twisted's, have none.
    threadable = sys.modules.get("twisted.python.threadable")
    in_reactor = threadable is not None and threadable.isInIOThread()
    return () if in_reactor else pauses_seconds


class SteadyClock:
    """The wall clock as it is now, which leaps no more: what a reactor's ``seconds`` should be.

    Twisted's timers go by ``seconds()``, which is ``time.time`` unless a reactor says otherwise:
    a wall clock set back by an hour would delay all of them by an hour. Plain ``time.monotonic``
    would do for timers, but the access log of ``twisted.web`` shows ``seconds()`` as a date.
    """

    def __init__(self) -> None:
        self.offset_seconds = time.time() - time.monotonic()
        """To be added to ``time.monotonic()``."""

    def seconds(self) -> float:
        """The wall clock at the start and the monotonic clock's progress since."""
        return self.offset_seconds + time.monotonic()


def make_steady(reactor: Any) -> None:
    """Have the timers of a reactor that is not ours go by a :class:`SteadyClock`.

    Only for a program that is ours as a whole. A reactor that has timers already, whose times
    are the wall clock's, is left as it is, as is one with a ``seconds`` of its own.
    """
    from twisted.internet.base import ReactorBase  # here, as verbs need it not

    is_stock = isinstance(reactor, ReactorBase) and reactor.seconds is ReactorBase.seconds
    if is_stock and not reactor.getDelayedCalls():
        reactor.seconds = SteadyClock().seconds  # each use of it is an attribute of the reactor


class MonotonicClock:
    """Monotonic seconds, and the reactor's timers.

    A reactor's own ``seconds()`` is the wall clock, unless it is made steady: that one can leap.

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
