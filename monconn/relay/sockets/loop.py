"""The relay's sockets in an epoll: the reactor's own, or a separate one.

Events bypass Twisted's dispatch. Sockets are registered once, edge-triggered, for
input and output at the same time. So pausing and resuming one costs no system call
(level-triggered, each needs an ``epoll_ctl``), and one that hangs up while it is paused is reported
once: ``EPOLLHUP`` and ``EPOLLERR`` cannot be masked, and level-triggered they would wake the loop
without end. The price is that a handler that stops reading before the socket is empty must
:meth:`SocketLoop.rearm` it.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.clock import Clock
from monconn.log import Logger

HAS_EPOLL = hasattr(select, "epoll")

# The bits of an event, named here so that this can be imported where there is no epoll.
PRI: int = getattr(select, "EPOLLPRI", 2)
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
RDHUP: int = getattr(select, "EPOLLRDHUP", 8192)

READ_ON = PRI | RDHUP | HUP | ERR
"""Once one of these was reported, a read that returns less than its limit may not have emptied the
socket: no further event reports an end that has arrived already, and recv stops at TCP's urgent
mark. Then each read must be followed by another, until EAGAIN or the end."""
EVENTS_A_TURN = 64
"""How many sockets are served before the reactor's other descriptors are. One that has 64 KiB to
read and to pass on takes 0.16 ms, and of thousands that are reset at once each one has."""
SOCKET_BYTES = 1 << 20
"""About how much one socket passes on before the others of a turn are served."""
LEAST_SOCKET_BYTES = 1 << 16
"""The same, if there are so many that a turn would be long. In smaller pieces, spliced bulk costs
up to twice as much."""
FEW_EVENTS = 16
"""With no more, a turn is never too long for that."""
LOOK_EVENTS = 8
"""With more, it is checked after each so many how long the turn has taken: sockets that have been
quiet before, and all have much to read now, would hold it for a tenth of a second."""
SHORT_SECONDS = 0.006
LONG_SECONDS = 0.01
"""If serving the sockets of a turn has taken longer, the rest is left to a later one, and each may
pass on half as much in the next; twice as much, if it was shorter than the other. A mebibyte takes
0.15 ms spliced, 0.5 copied, 1 over TLS, and 2 if the kernel has to find memory for it."""
SHARE_SECONDS = 0.003
"""How long TLS handshakes may take in one turn, each step of which costs 0.1 to 1 ms; and so may
floods of short records, of which each costs 3 µs."""


FREE_BYTES = 1 << 22
"""About how many bytes of TLS are read in one turn before those that are left wait for their share,
too: 4 ms. A hundred sockets with much to read at once would take a tenth of a second."""


class SocketHandler(Protocol):
    """Receives the events of one socket."""

    def ready(self, events: int) -> None:
        """The socket is ready, or has failed.

        :param events: epoll's bits.
        """

    def failed(self) -> None:
        """``ready`` has raised: end what can be ended."""


class SocketLoop:
    """The relay's sockets in an epoll that someone else waits on and closes.

    :param epoll: a ``select.epoll``.
    :param clock: gives monotonic time.
    """

    _log = Logger()

    def __init__(self, epoll: Any, clock: Clock) -> None:
        self._epoll = epoll
        self._seconds = clock.seconds
        self._handlers: dict[int, SocketHandler] = {}
        self._changed: set[int] = set()
        self._events = select.EPOLLIN | PRI | OUT | RDHUP | select.EPOLLET
        self.now: float = self._seconds()
        """When the events being served were fetched (monotonic seconds): one clock call for all."""
        self.fetched: float = self.now
        """The same, whatever :meth:`refresh` has made of :attr:`now` since."""
        self.turn = 0
        """How often events were fetched."""
        self.socket_bytes = SOCKET_BYTES
        """About how much each socket may pass on in this turn."""

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, fd: int, handler: SocketHandler) -> None:
        """Report a socket's events from now on, beginning with what it is ready for already."""
        self._epoll.register(fd, self._events)
        self._changed.add(fd)
        self._handlers[fd] = handler

    def set_handler(self, fd: int, handler: SocketHandler) -> None:
        """Report a socket's events to another handler."""
        self._handlers[fd] = handler

    def rearm(self, fd: int) -> None:
        """Have a socket that is still ready reported once more, in a later turn.

        ``EPOLL_CTL_MOD`` checks the socket's state anew even if nothing was changed.
        """
        self._epoll.modify(fd, self._events)

    def remove(self, fd: int) -> None:
        """Report nothing more; to be called before the socket is closed.

        Closing takes it out of the epoll: one system call less than ``EPOLL_CTL_DEL``.
        """
        self._changed.add(fd)
        self._handlers.pop(fd, None)

    def unregister(self, fd: int) -> None:
        """Report nothing more of a socket that stays open, and may be added again."""
        self._epoll.unregister(fd)
        self.remove(fd)

    def serve(self, events: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Call the handlers of events that were fetched.

        :returns: the events of descriptors that are not ours.
        """
        self.now = self.fetched = self._seconds()
        self.turn += 1
        has_many = len(events) > FEW_EVENTS
        if not has_many:
            self.socket_bytes = SOCKET_BYTES
        handlers, changed = self._handlers, self._changed
        changed.clear()
        others = []
        remaining = self._in_time(events) if has_many else iter(events)
        for fd, bits in remaining:
            handler = handlers.get(fd)
            if fd in changed:
                # An event of a socket that was closed in this batch. Its number may belong to a new
                # one already, which must not take a stale HUP for its own.
                continue
            if handler is None:
                others.append((fd, bits))
                continue
            try:
                handler.ready(bits)
            except KeyboardInterrupt:
                self.handler_failed(handler)  # interrupted anywhere, it may have lost bytes
                self._rearm_all(remaining)
                raise
            except BaseException:  # SystemExit too: edge-triggered, the others' events come once
                self.handler_failed(handler)
        if has_many:
            self._adapt_socket_bytes(self._seconds() - self.fetched)
        return others

    def _in_time(self, events: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Many events; once they have taken long, those that are left may each pass on little, and
        once they have taken too long, those are left to a later turn."""
        granted = self.socket_bytes
        for number, event in enumerate(events, 1):
            yield event
            if number % LOOK_EVENTS:
                continue
            took_seconds = self._seconds() - self.fetched
            if took_seconds > LONG_SECONDS:
                self._rearm_all(events[number:])
                break
            if took_seconds > SHORT_SECONDS:
                self.socket_bytes = LEAST_SOCKET_BYTES
        self.socket_bytes = granted

    def _adapt_socket_bytes(self, took_seconds: float) -> None:
        """Set how much each socket may pass on, by how long a turn with many has taken."""
        if took_seconds > LONG_SECONDS:
            self.socket_bytes = max(LEAST_SOCKET_BYTES, self.socket_bytes // 2)
        elif took_seconds < SHORT_SECONDS:
            self.socket_bytes = min(SOCKET_BYTES, self.socket_bytes * 2)

    def _rearm_all(self, events: Iterable[tuple[int, int]]) -> None:
        """Have events that will not be served now reported again; those of other descriptors are,
        as they are level-triggered."""
        for fd, _ in events:
            if fd in self._handlers and fd not in self._changed:
                self.rearm(fd)

    def handler_failed(self, handler: SocketHandler) -> None:
        """A handler has raised what is being handled: have it end what it can."""
        self._log.failure("a relay failed")
        try:
            handler.failed()
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._log.failure("a relay that failed could not be ended")

    def refresh(self) -> None:
        """Set :attr:`now`, for work that is about to be done outside of :meth:`serve`."""
        self.now = self._seconds()


class SharingHandler(SocketHandler, Protocol):
    """Handles events whose work costs much."""

    def resume(self) -> None:
        """There is time for what :meth:`TurnShare.take` has refused."""


class TurnShare:
    """The time that costly work of one kind gets in each turn: a flood of it stalls no bytes.

    What finds no time waits here, and not as an event that is reported again: the epoll reports
    its sockets in turn, a batch at a time, so that others' events would wait behind a thousand of
    these for as many turns as it takes to report them all.

    :param loop: whose turns.
    :param clock: gives monotonic time and timers.
    """

    def __init__(self, loop: SocketLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._turn = -1  # of which the share is
        self._until = 0.0
        self._counted_turn = -1  # in which so many bytes were counted
        self._counted_bytes = 0
        self._waiting: deque[SharingHandler] = deque()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self, handler: SharingHandler) -> bool:
        """Whether there is time for one more in this turn.

        :param handler: is resumed in a later turn, if there is not.
        """
        if not self._waiting and self._has_time():
            return True
        self._waiting.append(handler)
        self._set_timer()
        return False

    def count(self, size: int) -> None:
        """Count what was done without a share, or within one.

        :param size: in bytes; what costs more than its bytes counts as more.
        """
        if self._counted_turn != self._loop.turn:
            self._counted_turn, self._counted_bytes = self._loop.turn, 0
        self._counted_bytes += size

    def is_needed(self) -> bool:
        """Whether so much was done in this turn that nothing more is to be without a share."""
        return self._counted_turn == self._loop.turn and self._counted_bytes >= FREE_BYTES

    def _has_time(self) -> bool:
        """Whether some of this turn's share is left; there is always for the first."""
        if self._turn != self._loop.turn:
            self._turn = self._loop.turn
            self._until = self._clock.seconds() + SHARE_SECONDS
            return True
        return self._clock.seconds() < self._until

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(0, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._turn == self._loop.turn:
            # The same turn, whose share is used up; or a reactor's whose own turns are not ours.
            self._turn = -1
            self._set_timer()
            return
        try:
            while self._waiting and self._has_time():
                handler = self._waiting.popleft()
                try:
                    handler.resume()
                except KeyboardInterrupt:
                    self._loop.handler_failed(handler)
                    raise
                except BaseException:  # as in SocketLoop.serve
                    self._loop.handler_failed(handler)
        finally:
            if self._waiting:
                self._set_timer()


@implementer(IReadDescriptor)
class NestedSocketLoop(SocketLoop):
    """A loop with an epoll of its own, which any reactor sees as one descriptor.

    An epoll can be polled itself: it is readable while it has events.

    :param reactor: watches the epoll, but only while there are sockets in it.
    :param clock: gives monotonic time.
    """

    def __init__(self, reactor: IReactorFDSet, clock: Clock) -> None:
        super().__init__(select.epoll(), clock)
        self._reactor = reactor

    def fileno(self) -> int:
        """Return the epoll's descriptor."""
        return self._epoll.fileno()  # type: ignore[no-any-return]

    def logPrefix(self) -> str:
        """Return the name that Twisted's log gives to this descriptor."""
        return "monconn.relay"

    def connectionLost(self, reason: Failure) -> None:
        """Ignore that the reactor has stopped: :meth:`close` closes the epoll."""

    def add(self, fd: int, handler: SocketHandler) -> None:
        """Register a socket; with the first one, the reactor begins to watch the epoll."""
        super().add(fd, handler)
        if len(self._handlers) == 1:
            self._reactor.addReader(self)

    def remove(self, fd: int) -> None:
        """Unregister a socket; after the last one, the reactor no longer watches the epoll."""
        super().remove(fd)
        if not self._handlers:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Serve the sockets that are ready."""
        self.serve(self._epoll.poll(0, EVENTS_A_TURN))

    def close(self) -> None:
        """Close the epoll; the sockets are closed by their handlers."""
        self._reactor.removeReader(self)
        self._epoll.close()
