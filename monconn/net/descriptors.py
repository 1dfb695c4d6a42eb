"""The limit on descriptors: how many clients it has room for, and what is held back from them.

Without a reserve clients take every descriptor, and the control port, the log and the history fail
when they are needed most. And a client that is accepted with the last one is lost, as there is none
for its backend: in the kernel's queue it could have waited.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.selectreactor import SelectReactor

from monconn.clock import Clock
from monconn.log import Logger

Cancel = Callable[[], object]

USEFUL_LIMIT = 1 << 20
"""The limit is not raised above this, Linux's own highest (``fs.nr_open``) unless configured.
Containers may have a billion, and there are programs that go through all descriptors that there
could be: for them a billion is minutes."""
_MOST_OF_SELECT = 1024
"""``FD_SETSIZE``: select(2) has no higher numbers."""
RESERVE = 640
"""Descriptors that clients leave to all else: 256 clients and 128 streams of the HTTP API, 64
clients for metrics, those of control port and manhole, files of log and history, name servers'
sockets, and clients of Twisted's endpoints."""
MOST_ATTEMPTS = 1024
"""Attempts to connect to a second address while the first has not answered, in the program."""
PIPES = 48
"""The most pipes of a :class:`~monconn.relay.sockets.pipes.PipePool`; they have two each."""
_CREDIT = 1000
"""Clients accepted before the limit is looked up again: it can be changed from outside, with
prlimit(1)."""
LOG_PERIOD_SECONDS = 60.0
"""How often it is logged at most that clients wait."""
WAKE_SECONDS = 0.01
"""How long after a connection has closed it is checked whether there is room, for all listeners."""
CHECK_SECONDS = 1.0
"""How often it is if none of our connections has closed: others may have descriptors, too."""


def raise_limit(reactor: object) -> int:
    """Raise this process' soft limit to the hard one, but not above :data:`USEFUL_LIMIT`.

    For programs of our own: a library leaves the limits of others alone.

    :param reactor: one that uses select(2) cannot serve more than it has.
    :returns: the limit before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _highest(hard)
    if soft != resource.RLIM_INFINITY and soft < most and not isinstance(reactor, SelectReactor):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # above fs.nr_open, or OPEN_MAX on macOS
            pass
    return _finite(soft)


def limit_of_start() -> tuple[int, int]:
    """The limit that :func:`raise_limit` would set for a start, and how many connections it has
    room for, about."""
    soft, hard = (_finite(each) for each in resource.getrlimit(resource.RLIMIT_NOFILE))
    limit = max(soft, _highest(hard))
    return limit, most_connections(limit, _open_descriptors())


def _highest(hard: int) -> int:
    return USEFUL_LIMIT if hard == resource.RLIM_INFINITY else min(hard, USEFUL_LIMIT)


def limit_of(reactor: object) -> int:
    """How many descriptors this process may have, as far as its reactor can serve them."""
    limit = _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return min(limit, _MOST_OF_SELECT) if isinstance(reactor, SelectReactor) else limit


def _finite(limit: int) -> int:
    return USEFUL_LIMIT if limit == resource.RLIM_INFINITY else limit


def reserve_of(limit: int) -> int:
    """How many descriptors clients and their backends leave to all else."""
    return min(RESERVE, limit // 8)


def pipes_of(limit: int) -> int:
    """How many pipes there may be."""
    return min(PIPES, limit // 64)


def attempts_of(limit: int) -> int:
    """How many attempts to connect to a second address there may be."""
    return min(MOST_ATTEMPTS, limit // 16)


def most_connections(limit: int, others: int) -> int:
    """How many connections a limit has room for.

    Each has two descriptors, or will have them: that of a client is counted twice from the moment
    at which it is accepted.

    :param others: how many descriptors are open beside those of connections.
    """
    shared = reserve_of(limit) + 2 * pipes_of(limit) + attempts_of(limit)
    return max((limit - shared - others) // 2, 1)


class Descriptors:
    """Says whether another client may be accepted, for all services of a program.

    To ask it costs nothing for most clients: they take from a credit, which is renewed when it is
    used up, and then the connections are counted.

    :param reactor: see :func:`limit_of`.
    :param clock: gives monotonic time and timers.
    :param clients: how many clients are connected to us, admitted or not.
    :param when_room: calls something each time a connection has closed, until that is cancelled.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: object,
        clock: Clock,
        clients: Callable[[], int],
        when_room: Callable[[Callable[[], object]], Cancel],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._clients = clients
        self._when_room = when_room
        self._others: int | None = None
        self._waiting: dict[Callable[[], object], None] = {}
        self._cancel: Cancel | None = None
        self._timer: IDelayedCall | None = None
        self._is_soon = False
        self._checks = 0
        self._was_first: dict[Callable[[], object], int] = {}  # in which check
        self._is_short = False
        self._log_from = 0.0
        self.credit: float = 0
        """How many clients may be accepted before :meth:`has_room` is asked again."""
        self.first_reserved: float = 0
        """The lowest number of a descriptor that is not for clients. The kernel gives the lowest
        that is free: who gets this one knows that all below are taken, by whomever."""
        self.attempts = 0
        """How many attempts to connect are beside an earlier one of the same connection."""
        self.waits = 0
        """How often clients had to wait since there were too few descriptors."""

    def most(self) -> int:
        """How many connections there may be."""
        if self._others is None:  # now, before there are connections
            self._others = _open_descriptors()
        return most_connections(limit_of(self._reactor), self._others)

    def describe(self, before: int) -> str:
        """The limit in one line for people.

        :param before: what it was before it was raised, as :func:`raise_limit` returned it.
        """
        limit = limit_of(self._reactor)
        change = f"raised from {before:,} to {limit:,}" if limit > before else f"{limit:,}"
        return f"descriptors: limit {change}, enough for about {self.most():,} connections"

    def has_room(self) -> bool:
        """Whether another client may be accepted; if so, there is :attr:`credit`."""
        limit = limit_of(self._reactor)
        self.first_reserved = limit - reserve_of(limit)
        room = self.most() - self._clients()
        if room > 0 and _lowest_free() >= self.first_reserved:
            room = 0
        self.credit = max(min(room, _CREDIT), 0)
        if self._is_short and room > self.most() // 16:  # else each that leaves would be logged
            self._is_short = False
        return room > 0

    def may_try_more(self) -> bool:
        """Whether a connection may try another address while it waits for one."""
        return self.attempts < attempts_of(limit_of(self._reactor))

    def wait(self, resume: Callable[[], object]) -> None:
        """Have a listener leave its clients in the queue until there is room.

        :param resume: called then, once.
        """
        if not self._is_short:
            self._is_short = True
            self.waits += 1
            self._log_shortage()
        self._waiting[resume] = None
        if self._timer is None:
            self._timer = self._clock.callLater(CHECK_SECONDS, self._check)
            self._cancel = self._when_room(self._check_soon)

    def _log_shortage(self) -> None:
        now = self._clock.seconds()
        if now < self._log_from:
            return
        self._log_from = now + LOG_PERIOD_SECONDS
        self._log.warn(
            "the limit of {limit:,} descriptors has no room for more than {connections:,}"
            " connections: other clients wait in the queue",
            limit=limit_of(self._reactor),
            connections=self._clients(),
        )

    def leave(self, resume: Callable[[], object]) -> None:
        """Call a listener no more; harmless for one that does not wait."""
        self._was_first.pop(resume, None)
        if resume in self._waiting:
            del self._waiting[resume]
            if not self._waiting:
                self._stop_checking()

    def _check_soon(self) -> None:
        """A connection has closed: check, together with all those that close meanwhile."""
        if self._timer is not None and not self._is_soon:
            self._is_soon = True
            self._timer.reset(WAKE_SECONDS)

    def _check(self) -> None:
        self._is_soon = False
        if not self.has_room():
            self._timer = self._clock.callLater(CHECK_SECONDS, self._check)
            return
        self._timer = None
        self._stop_checking()
        # The first may take all that there is: next time it is the last.
        waiting = sorted(self._waiting, key=lambda each: self._was_first.get(each, 0))
        self._waiting.clear()
        self._checks += 1
        self._was_first[waiting[0]] = self._checks
        for resume in waiting:
            resume()

    def _stop_checking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_soon = False
        if self._cancel is not None:
            self._cancel()
            self._cancel = None


class Unlimited:
    """In the place of :class:`Descriptors`, for listeners that may use the reserve."""

    credit = first_reserved = math.inf
    attempts = 0

    def has_room(self) -> bool:
        """Implements :meth:`Descriptors.has_room`."""
        return True

    def may_try_more(self) -> bool:
        """Implements :meth:`Descriptors.may_try_more`."""
        return True

    def wait(self, resume: Callable[[], object]) -> None:
        """Implements :meth:`Descriptors.wait`; never called."""

    def leave(self, resume: Callable[[], object]) -> None:
        """Implements :meth:`Descriptors.leave`."""


def _open_descriptors() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # one is for the folder itself
        except OSError:  # not mounted, or other systems
            pass
    return reserve_of(USEFUL_LIMIT)


def _lowest_free() -> float:
    """The lowest number that is free; infinite if there is none."""
    try:
        probe = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return math.inf
    os.close(probe)
    return probe
