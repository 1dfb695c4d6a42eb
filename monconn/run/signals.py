"""The signals that stop the program, handled alike under ``monconn``, ``twistd`` and ``twist``.

One more signal has a meaning: SIGUSR1 reopens the JSON log. Its handler is in
:class:`monconn.sinks.jsonlog.JsonLogService`, as that also runs in programs of others that handle
their signals themselves; it calls the handler that was there before, which is ``twistd``'s own for
its log file.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twisted.internet.error import ReactorNotRunning

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopReactor(Protocol):
    """The part of a reactor that :class:`StopSignals` needs (``IReactorCore`` and others)."""

    def callWhenRunning(self, call: Callable[[], object], /) -> object:
        """Call something once the reactor runs."""

    def callFromThread(self, call: Callable[[], object], /) -> object:
        """Call something in the reactor's thread, soon."""

    def stop(self) -> None:
        """Stop.

        :raises ReactorNotRunning: it has been stopped already.
        """


class StopSignals:
    """The first signal stops the reactor and its services gracefully; the second at once.

    :param reactor: the reactor that will run.
    :param stop_now: ends the connections that the first signal has left to end by themselves.
    :param received: called with each signal's name, and whether it is a further one, before it
        takes effect.
    """

    def __init__(
        self,
        reactor: StopReactor,
        stop_now: Callable[[], object],
        received: Callable[[str, bool], object] = lambda name, again: None,
    ) -> None:
        self._reactor = reactor
        self._stop_now = stop_now
        self._received_call = received
        self._early: int | None = None
        self._stopping = False

    def install(self) -> None:
        """Install our handlers, before the reactor runs and again once it does.

        When it starts, the reactor installs handlers of its own, with which ``twistd`` and
        ``twist`` re-raise the signal after a clean stop, and so do not exit with status 0.
        """
        _handle_all(self._note)
        self._reactor.callWhenRunning(self._take_over)

    def _note(self, number: int, frame: Any) -> None:
        self._early = number
        _handle_all(signal.SIG_DFL)  # a second one ends the program even while it starts

    def _take_over(self) -> None:
        _handle_all(self._received)
        if self._early is not None:
            self._act_on(self._early)

    def _received(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(partial(self._act_on, number))

    def _act_on(self, number: int) -> None:
        self._received_call(signal.Signals(number).name, self._stopping)
        self.stop()

    def stop(self) -> None:
        """Stop as a signal does, without one."""
        if self._stopping:
            self._stop_now()
            return
        self._stopping = True
        try:
            self._reactor.stop()
        except ReactorNotRunning:  # something else has stopped it already: this is the second time
            self._stop_now()


def _handle_all(handler: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
