"""Twisted's epoll reactor, which serves the relay's sockets from the same ``epoll_wait``.

The ``monconn`` command runs on it; ``twistd --reactor=monconn`` does as well. Any other reactor
works through a :class:`~monconn.relay.sockets.loop.NestedSocketLoop`, at a second wait per event.
"""

from __future__ import annotations

import time

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log

from monconn.clock import MonotonicClock, SteadyClock
from monconn.relay.sockets.loop import EVENTS_A_TURN, SocketLoop
from monconn.turns import TurnMeter

_LONGEST_WAIT_SECONDS = 2_000_000.0
"""epoll_wait takes milliseconds as a C int."""


class MonconnReactor(EPollReactor):
    """An epoll reactor that serves the relay's sockets itself, without Twisted's dispatch.

    It uses private attributes of ``EPollReactor``: ``_poller`` (the epoll object, so that there is
    one wait for both kinds of descriptors), ``_selectables`` and ``_doReadOrWrite`` (what Twisted's
    own ``doPoll`` does with an event), ``_newTimedCalls`` and ``_pendingTimedCalls`` (what its
    ``timeout`` looks at). ``tests/relay/test_loop.py`` names them.
    """

    def __init__(self) -> None:
        self._in_main_loop = False
        self._clock = SteadyClock()
        self.seconds = self._clock.seconds  # all timers go by it, Twisted's own as well
        super().__init__()
        self.socket_loop = SocketLoop(self._poller, MonotonicClock(self))
        """Serves the relay's part of the epoll."""
        self.turn_meter = TurnMeter()
        """Measures how long turns take: from one fetch of events to the next."""

    def mainLoop(self) -> None:
        """Run until the reactor is stopped."""
        self._in_main_loop = True
        self.socket_loop.fetched = time.monotonic()
        self.turn_meter.start()
        try:
            super().mainLoop()
        finally:
            self._in_main_loop = False

    def iterate(self, delay: float = 0.0) -> None:
        """Do one turn, as ``IReactorCore.iterate`` does.

        It waits no longer than ``delay``, even if it is called from within the main loop, where
        :meth:`doPoll` would stay.
        """
        in_main_loop, self._in_main_loop = self._in_main_loop, False
        try:
            super().iterate(delay)
        finally:
            self._in_main_loop = in_main_loop

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most ``timeout`` seconds, and serve them.

        In the main loop it does not return while only sockets of the relay have events: one
        message back and forth would otherwise cost a whole turn of the reactor each way.
        """
        others = self._serve(timeout)
        while self._in_main_loop and not others:
            # What self.timeout() does, without three calls for each wait; where there are new
            # timed calls, a turn of the reactor sorts them in.
            if self._newTimedCalls:
                return
            timeout = None
            if self._pendingTimedCalls:
                due = self._pendingTimedCalls[0].time - self._clock.offset_seconds
                timeout = due - time.monotonic()
                if timeout <= 0:
                    return  # a timed call is due
                if timeout > _LONGEST_WAIT_SECONDS:
                    timeout = _LONGEST_WAIT_SECONDS
            others = self._serve(timeout)
        for fd, event in others:
            descriptor = self._selectables.get(fd)
            if descriptor is not None:  # else one that was served before it has removed it
                log.callWithLogger(descriptor, self._doReadOrWrite, descriptor, fd, event)

    doIteration = doPoll

    def _serve(self, timeout: float | None) -> list[tuple[int, int]]:
        """Serve the relay's sockets.

        :returns: the events of all other descriptors.
        """
        # Without a call, but for turns that are long, or come a millisecond after the last that was
        # measured: for a small message this is a percent of everything.
        meter, began, now = self.turn_meter, self.socket_loop.fetched, time.monotonic()
        meter.sum_seconds += now - began
        if now > meter.measure_from:
            meter.measure(began, now)
        meter.count += 1
        meter.is_waiting = True
        events = self._poller.poll(-1 if timeout is None else timeout, EVENTS_A_TURN)
        meter.is_waiting = False
        if meter.wake is not None:
            meter.wake()
        return self.socket_loop.serve(events)

    def stop(self) -> None:
        """Stop, as ``IReactorCore.stop`` does; a call from an End must make :meth:`doPoll` return,
        hence the wake-up."""
        super().stop()
        self.wakeUp()

    def crash(self) -> None:
        """Leave the main loop, as ``IReactorCore.crash`` does; see :meth:`stop`."""
        super().crash()
        self.wakeUp()


def install() -> None:
    """Make a :class:`MonconnReactor` the reactor of this process.

    :raises ReactorAlreadyInstalledError: there is one already.
    """
    installReactor(MonconnReactor())
