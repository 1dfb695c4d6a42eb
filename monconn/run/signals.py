"""What the signals to stop do, alike under ``monconn``, ``twistd`` and ``twist``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopSignals:
    """The first signal stops the reactor in good order, and so the services; the second at once.

    :param reactor: the reactor that will run.
    :param stop_now: ends what the first signal has left to end by itself.
    """

    def __init__(self, reactor: Any, stop_now: Callable[[], object]) -> None:
        self._reactor = reactor
        self._stop_now = stop_now
        self._came_early = False
        self._stopping = False

    def install(self) -> None:
        """Take over the signals, before the reactor runs and again once it does.

        As it starts, the reactor puts in handlers of its own; and with those, ``twistd`` and
        ``twist`` die of the signal after a clean stop.
        """
        _handle_all(self._note)
        self._reactor.callWhenRunning(self._take_over)

    def _note(self, number: int, frame: Any) -> None:
        self._came_early = True
        _handle_all(signal.SIG_DFL)  # the next one need not wait until everything has started

    def _take_over(self) -> None:
        _handle_all(self._received)
        if self._came_early:
            self.stop()

    def _received(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.stop)

    def stop(self) -> None:
        """What a signal asks for."""
        if self._stopping:
            self._stop_now()
            return
        self._stopping = True
        try:
            self._reactor.stop()
        except ReactorNotRunning:  # somebody else has stopped it, and this is the second wish
            self._stop_now()


def _handle_all(handler: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
