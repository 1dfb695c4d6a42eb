"""What stop signals do, the same under ``monconn``, ``twistd`` and ``twist``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StopSignals:
    """The first signal stops the reactor, and so the services, in order; the second at once.

    :param reactor: the reactor that will run.
    :param stop_now: ends whatever the first signal has left to end by itself.
    """

    def __init__(self, reactor: Any, stop_now: Callable[[], object]) -> None:
        self._reactor = reactor
        self._stop_now = stop_now
        self._came_early = False
        self._is_stopping = False

    def install(self) -> None:
        """Install handlers: now, and once more when the reactor runs.

        A reactor that starts installs its own handlers, which do not know SIGQUIT; and under
        ``twistd`` and ``twist`` they make the process kill itself with the same signal after it
        has stopped, so that its exit status would not be 0.
        """
        _handle_all(self._note_early_signal)
        self._reactor.callWhenRunning(self._install_while_running)

    def _note_early_signal(self, number: int, frame: Any) -> None:
        self._came_early = True
        # Starting may block, for instance on a name server: a second signal then ends the process.
        _handle_all(signal.SIG_DFL)

    def _install_while_running(self) -> None:
        _handle_all(self._received)
        if self._came_early:
            self.stop()

    def _received(self, number: int, frame: Any) -> None:
        # A handler runs between any two bytecodes: only this method is safe there, and wakes the
        # reactor.
        self._reactor.callFromThread(self.stop)

    def stop(self) -> None:
        """Do what one signal asks for."""
        if self._is_stopping:
            self._stop_now()
            return
        self._is_stopping = True
        try:
            self._reactor.stop()
        except ReactorNotRunning:  # it was stopped otherwise, so this is the second request
            self._stop_now()


def _handle_all(handler: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
