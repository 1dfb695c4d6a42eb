"""One epoll for all plain Ends, which the reactor sees as a single descriptor.

A chunk on it costs no dispatch of Twisted's: the reactor calls :meth:`Loop.doRead` once
for all the sockets that are ready. Sockets are registered once, edge-triggered: to pause
one costs no system call, and one that hangs up while it is paused tells so once.
"""

from __future__ import annotations

import select
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

CAN_LOOP = hasattr(select, "epoll")
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
RDHUP: int = getattr(select, "EPOLLRDHUP", 8192)
"""The bits of an event, named here so that systems without epoll can import this."""
EVENTS_A_TURN = 128
"""Sockets served before the reactor's other descriptors have their turn."""


class Ready(Protocol):
    """What the loop tells of events."""

    def ready(self, events: int) -> None:
        """The socket is ready, or has failed.

        :param events: epoll's bits.
        """

    def failed(self) -> None:
        """``ready`` has raised: end what can be ended."""


@implementer(IReadDescriptor)
class Loop:
    """Watches plain sockets.

    :param reactor: an ``IReactorFDSet``; it is bothered only while there are sockets.
    :param clock: gives monotonic ``seconds()``.
    """

    _log = Logger(namespace="monconn.forward")

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self._seconds = clock.seconds
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._ends: dict[int, Ready] = {}
        self._events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        self.now: float = self._seconds()
        """When the events that are being served were fetched, in monotonic seconds."""

    def __len__(self) -> int:
        return len(self._ends)

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "monconn.forward"

    def connectionLost(self, reason: Any) -> None:
        """See ``IFileDescriptor``."""

    def add(self, fd: int, end: Ready) -> None:
        """Tell an End of its socket's events from now on, beginning with those that are there."""
        if not self._ends:
            self._reactor.addReader(self)
        self._ends[fd] = end
        self._epoll.register(fd, self._events)

    def hand_over(self, fd: int, end: Ready) -> None:
        """Tell another of a socket's events."""
        self._ends[fd] = end

    def ask_again(self, fd: int) -> None:
        """Have a socket that is still ready tell so once more, in a later turn."""
        self._epoll.modify(fd, self._events)

    def remove(self, fd: int) -> None:
        """Tell nothing more; to be called before the socket is closed, which does the rest."""
        if self._ends.pop(fd, None) is not None and not self._ends:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """See ``IReadDescriptor``: some sockets are ready."""
        self.now = self._seconds()
        ends = self._ends
        for fd, events in self._poll(0, EVENTS_A_TURN):
            end = ends.get(fd)
            if end is not None:
                try:
                    end.ready(events)
                except Exception:
                    self._log.failure("a relay failed")
                    end.failed()

    def close(self) -> None:
        """Close the epoll; the sockets are closed by their Ends."""
        self._reactor.removeReader(self)
        self._ends.clear()
        self._epoll.close()
