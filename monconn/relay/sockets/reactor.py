"""Twisted's epoll reactor with room for plain Ends: one wait for both, where others need two.

The ``monconn`` command runs on it; ``twistd --reactor=monconn`` does as well. Under any other
reactor the same is done by a :class:`~monconn.relay.sockets.loop.NestedSocketLoop`.
"""

from __future__ import annotations

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log

from monconn.clock import MonotonicClock
from monconn.relay.sockets.loop import EVENTS_A_TURN, SocketLoop


class MonconnReactor(EPollReactor):
    """An epoll reactor that serves plain Ends itself, without Twisted's dispatch."""

    def __init__(self) -> None:
        self._stays = False
        super().__init__()
        self.socket_loop = SocketLoop(self._poller, MonotonicClock(self))
        """The Ends' part of the epoll."""

    def mainLoop(self) -> None:
        """Run until the reactor is stopped."""
        self._stays = True
        try:
            super().mainLoop()
        finally:
            self._stays = False

    def iterate(self, delay: float = 0.0) -> None:
        """See ``IReactorCore``: waits no longer than asked, in the main loop too."""
        stays, self._stays = self._stays, False
        try:
            super().iterate(delay)
        finally:
            self._stays = stays

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most ``timeout`` seconds, and serve them.

        In the main loop it stays while only Ends have anything to do: one message back and forth
        would else cost a whole turn of the reactor each way.
        """
        others = self._serve(timeout)
        while self._stays and not others:
            timeout = self.timeout()
            if timeout == 0:
                return  # a timed call is due
            others = self._serve(timeout)
        for fd, event in others:
            descriptor = self._selectables.get(fd)
            if descriptor is not None:  # as it is if one that was served first has dropped it
                log.callWithLogger(descriptor, self._doReadOrWrite, descriptor, fd, event)

    doIteration = doPoll

    def _serve(self, timeout: float | None) -> list[tuple[int, int]]:
        """Serve the Ends; gives the events of others."""
        events = self._poller.poll(-1 if timeout is None else timeout, EVENTS_A_TURN)
        return self.socket_loop.serve(events)

    def stop(self) -> None:
        """See ``IReactorCore``; an End may have asked for it."""
        super().stop()
        self.wakeUp()

    def crash(self) -> None:
        """See ``IReactorCore``; an End may have asked for it."""
        super().crash()
        self.wakeUp()


def install() -> None:
    """Make it the reactor of this process.

    :raises ReactorAlreadyInstalledError: there is one already.
    """
    installReactor(MonconnReactor())
