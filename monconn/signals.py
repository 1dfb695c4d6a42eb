"""What the signals to stop do, alike under ``monconn``, ``twistd`` and ``twist``."""

from __future__ import annotations

import signal
from typing import Any, Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopSignals:
    """The first signal stops the reactor in good order, and so the services; the second at once.

    :param reactor: the reactor that will run.
    :param stop_now: ends what the first signal has left to end by itself.
    """

    def __init__(self, reactor: Any, stop_now: Callable[[], object]) -> None:
        self._reactor = reactor
        self._stop_now = stop_now
        self._stopping = False

    def install(self) -> None:
        """Take over the signals once the reactor runs.

        Before that, the reactor's own handlers would replace ours; and with those,
        ``twistd`` and ``twist`` die of the signal after a clean stop.
        """
        self._reactor.callWhenRunning(self._take_over)

    def _take_over(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._received)

    def _received(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.stop)

    def stop(self) -> None:
        """What a signal asks for."""
        if self._stopping:
            self._stop_now()
        else:
            self._stopping = True
            self._reactor.stop()
