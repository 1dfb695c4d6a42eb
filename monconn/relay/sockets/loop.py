"""The plain Ends' part of an epoll, or a whole one.

A chunk on it costs no dispatch of Twisted's. Sockets are registered once, edge-triggered:
to pause one costs no system call, and one that hangs up while it is paused tells so once.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

HAS_EPOLL = hasattr(select, "epoll")

# The bits of an event, named here so that systems without epoll can import this.
PRI: int = getattr(select, "EPOLLPRI", 2)
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
RDHUP: int = getattr(select, "EPOLLRDHUP", 8192)

EVENTS_A_TURN = 128
"""Sockets served before the reactor's other descriptors have their turn."""


class SocketHandler(Protocol):
    """What the loop tells of events."""

    def ready(self, events: int) -> None:
        """The socket is ready, or has failed.

        :param events: epoll's bits.
        """

    def failed(self) -> None:
        """``ready`` has raised: end what can be ended."""


class SocketLoop:
    """The plain sockets of an epoll that someone else waits on and closes.

    :param epoll: a ``select.epoll``.
    :param clock: gives monotonic ``seconds()``.
    """

    _log = Logger()

    def __init__(self, epoll: Any, clock: Any) -> None:
        self._epoll = epoll
        self._seconds = clock.seconds
        self._ends: dict[int, SocketHandler] = {}
        self._changed: set[int] = set()
        self._events = select.EPOLLIN | PRI | OUT | RDHUP | select.EPOLLET
        self.now: float = self._seconds()
        """When the events that are being served were fetched, in monotonic seconds."""

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, fd: int, end: SocketHandler) -> None:
        """Tell an End of its socket's events from now on, beginning with those that are there."""
        self._epoll.register(fd, self._events)
        self._changed.add(fd)
        self._ends[fd] = end

    def set_handler(self, fd: int, end: SocketHandler) -> None:
        """Tell another of a socket's events."""
        self._ends[fd] = end

    def rearm(self, fd: int) -> None:
        """Have a socket that is still ready tell so once more, in a later turn."""
        self._epoll.modify(fd, self._events)

    def remove(self, fd: int) -> None:
        """Tell nothing more; to be called before the socket is closed, which does the rest."""
        self._changed.add(fd)
        self._ends.pop(fd, None)

    def serve(self, events: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Tell the Ends of events that were fetched.

        :returns: those of descriptors that are none of ours.
        """
        self.now = self._seconds()
        ends, changed = self._ends, self._changed
        changed.clear()
        others = []
        for fd, bits in events:
            end = ends.get(fd)
            if fd in changed:
                continue  # it is a closed socket's, whose number may have been taken since
            if end is None:
                others.append((fd, bits))
                continue
            try:
                end.ready(bits)
            except BaseException:
                self._failed(end)
        return others

    def _failed(self, end: SocketHandler) -> None:
        # Whatever comes of it, the others' events are told: there will be no more of them.
        self._log.failure("a relay failed")
        try:
            end.failed()
        except BaseException:
            self._log.failure("a relay that failed could not be ended")

    def refresh(self) -> None:
        """Set :attr:`now`, for who is about to work outside of :meth:`serve`."""
        self.now = self._seconds()


@implementer(IReadDescriptor)
class NestedSocketLoop(SocketLoop):
    """A loop with an epoll of its own, which any reactor sees as one descriptor.

    :param reactor: an ``IReactorFDSet``; it is bothered only while there are sockets.
    :param clock: gives monotonic ``seconds()``.
    """

    def __init__(self, reactor: Any, clock: Any) -> None:
        super().__init__(select.epoll(), clock)
        self._reactor = reactor

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._epoll.fileno()  # type: ignore[no-any-return]

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "monconn.relay"

    def connectionLost(self, reason: Any) -> None:
        """See ``IFileDescriptor``."""

    def add(self, fd: int, end: SocketHandler) -> None:
        """See :meth:`SocketLoop.add`."""
        super().add(fd, end)
        if len(self._ends) == 1:
            self._reactor.addReader(self)

    def remove(self, fd: int) -> None:
        """See :meth:`SocketLoop.remove`."""
        super().remove(fd)
        if not self._ends:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """See ``IReadDescriptor``: some sockets are ready."""
        self.serve(self._epoll.poll(0, EVENTS_A_TURN))

    def close(self) -> None:
        """Close the epoll; the sockets are closed by their Ends."""
        self._reactor.removeReader(self)
        self._epoll.close()
