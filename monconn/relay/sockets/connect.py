"""Connecting a socket to a backend, without blocking."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.net.descriptors import Descriptors, Unlimited
from monconn.net.loops import (
    Loops,
    end_loop,
    ephemeral_ports,
    has_source_address,
    is_own_address,
    loop_of,
    target_of,
)
from monconn.net.resolver import Resolver, SocketAddress
from monconn.net.sockets import RESET_ERRNOS, SHORTAGES, reset_on_close
from monconn.relay.sockets.loop import ERR, HUP, SocketLoop
from monconn.turns import in_turns

_FAILED = ERR | HUP
ATTEMPT_DELAY_SECONDS = 0.25
"""How long an address may take to answer before the next is tried as well (RFC 8305, 5)."""
MOST_ATTEMPTS = 8
"""Addresses that one connection tries at once; then the one that has taken longest, 2 s at least,
is given up for the next, so that any number of dead ones does not hide one that answers."""
FAILURES_AT_ONCE = 4
"""Addresses that may fail at once, as those of networks without a route do, before the next are
tried in turns of the loop that all attempts share: each takes 50 µs, and a name may have many."""
RETRY_SECONDS = 0.01
"""How long after a UNIX socket's queue was full the next attempt is made."""
RETRIES_A_TURN = 64
_STREAM_NONBLOCK = int(socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))

_NO_PORT_LEFT = "no local port is left to connect from"


def connect_reason(error_number: int) -> Reason:
    """The reason for a connection to a backend that could not be made."""
    if error_number in SHORTAGES:
        return "error"
    if error_number == errno.ECONNREFUSED:
        return "backend_refused"
    # Anything else (no route, no such UNIX socket, no permission, ...) is "unreachable".
    return "connect_timeout" if error_number == errno.ETIMEDOUT else "backend_unreachable"


# Of several addresses that have failed, the error that says most is reported: that one refuses, as
# something answers there. What we lack ourselves goes before all: another address might have
# answered.
_TELLING: tuple[Reason, ...] = (
    "connect_timeout",
    "backend_unreachable",
    "backend_refused",
    "error",
)


class ConnectListener(Protocol):
    """Receives the result of an attempt; implemented by the End."""

    record: ConnectionRecord

    def connect_succeeded(
        self, sock: socket.SocketType, events: int, error_number: int = 0
    ) -> None:
        """The socket is connected, and is in the loop.

        :param events: what the loop has reported of it.
        :param error_number: one of ``RESET_ERRNOS`` if it was reset already. It was taken from the
            socket, which looks as if the peer had ended; what came before the reset can be read.
        """

    def connect_failed(self, reason: Reason, detail: str) -> None:
        """None of the addresses could be connected to."""

    def failed(self) -> None:
        """End what can be ended."""


class Connector:
    """Connects to one backend.

    It also queues the attempts that find the accept queue of a backend's UNIX socket full:
    ``connect`` fails with ``EAGAIN`` then, and no event reports when there is room again. As all
    attempts share that accept queue, only the first one is retried, so that thousands of waiting
    attempts cost no more than one; while some wait, new ones wait behind them.

    :param resolver: knows the backend's addresses.
    :param loop: reports the sockets' events.
    :param clock: gives timers.
    :param loops: knows our listeners.
    :param descriptors: how many attempts at once there may be.
    """

    _log = Logger()

    def __init__(
        self,
        resolver: Resolver,
        loop: SocketLoop,
        clock: Clock,
        loops: Loops | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self.resolver = resolver
        self.loop = loop
        self.clock = clock
        self.loops = Loops() if loops is None else loops
        self.descriptors = Unlimited() if descriptors is None else descriptors
        address = resolver.address
        self.target = target_of(address)
        # Only then can the local port be the same: others are spared the system call.
        self.may_meet_itself = self.target in ephemeral_ports()
        self.waiting: dict[ConnectAttempt, None] = {}
        """The waiting attempts, in order; a dict, so that removing one takes O(1)."""
        self._timer: IDelayedCall | None = None

    def wait(self, attempt: ConnectAttempt) -> None:
        """Try again after the attempts that are waiting already."""
        self.waiting[attempt] = None
        if self._timer is None:
            self._timer = self.clock.callLater(RETRY_SECONDS, self._retry)

    def leave(self, attempt: ConnectAttempt) -> None:
        """Do not try again; harmless for one that does not wait."""
        self.waiting.pop(attempt, None)
        if not self.waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retry(self) -> None:
        self._timer = None
        for _ in range(min(len(self.waiting), RETRIES_A_TURN)):
            attempt = next(iter(self.waiting), None)
            if attempt is None:
                break
            try:
                if not attempt.connect():
                    break  # it is still full
            except Exception:
                self._log.failure("an attempt to connect failed")
                attempt.failed()
            self.waiting.pop(attempt, None)
        if self.waiting and self._timer is None:
            self._timer = self.clock.callLater(RETRY_SECONDS, self._retry)


class ConnectAttempt:
    """Connects to the first of a backend's addresses that answers (RFC 8305, "Happy Eyeballs").

    Each further address is tried as soon as one has failed, or has not answered for a quarter of a
    second; the others are closed once one is connected. If all have failed, the name is resolved
    anew, and addresses that are new are tried. The relay limits how long it may take in all.

    :param connector: of the backend.
    :param listener: notified of success or failure.
    """

    _log = Logger()
    __slots__ = (
        "_addresses",
        "_asked_anew",
        "_cancel_query",
        "_connector",
        "_failure",
        "_goes_on_later",
        "_is_over",
        "_listener",
        "_next",
        "_timer",
        "_tries",
    )

    def __init__(self, connector: Connector, listener: ConnectListener) -> None:
        self._connector = connector
        self._listener = listener
        self._addresses: Sequence[SocketAddress] = ()
        self._next = 0  # the index of the first that was not tried
        self._tries: list[_Try] = []  # that go on, the oldest first
        self._failure = 0  # the error number that says most
        self._asked_anew = False
        self._goes_on_later = False
        self._is_over = False
        self._timer: IDelayedCall | None = None
        self._cancel_query: Callable[[], object] | None = None

    def begin(self) -> None:
        """Resolve the backend's name, if need be, and try its addresses."""
        connector = self._connector
        record = self._listener.record
        if record.came_through is not None and (loop := loop_of(record)):
            self._is_over = True
            detail = end_loop(loop, connector.clock.seconds())
            self._listener.connect_failed("error", detail)
            return
        addresses = connector.resolver.cached()
        if addresses:
            self._found(addresses)
        else:
            self._cancel_query = connector.resolver.resolve(self._found, self._not_found)

    def give_up(self) -> None:
        """Stop trying, and report nothing."""
        record, address = self._listener.record, self._connector.resolver.address
        if record.reason == "connect_timeout" and not self._addresses:
            record.detail = f"the name of {address} was not resolved in time"
        elif record.reason == "connect_timeout" and self._connector.resolver.staleness:
            record.add_detail(self._connector.resolver.staleness)
        if self._tries:  # nothing answers, or the client has left early: both are rare
            self._connector.resolver.refresh()
        self._end()
        self._connector.leave(self)

    def _found(self, addresses: Sequence[SocketAddress]) -> None:
        if self._is_over:
            return
        self._addresses = (*self._addresses, *addresses) if self._next else addresses
        if self._connector.waiting or not self.connect():
            self._connector.wait(self)

    def _not_found(self, reason: Reason, detail: str) -> None:
        if not self._is_over:
            self._report(reason, detail)

    def connect(self) -> bool:
        """Try the next address, and further ones until one does not fail at once.

        :returns: False if it is a UNIX socket whose queue is full.
        """
        if self._goes_on_later:
            return True
        tried = 0
        while self._next < len(self._addresses):
            if tried == FAILURES_AT_ONCE:
                self._goes_on_later = True
                in_turns(self._connector.clock, self._connect_later())
                return True
            tried += 1
            address = self._addresses[self._next]
            error_number = self._try(address)
            if error_number == errno.EAGAIN and address[0] == socket.AF_UNIX:
                return False
            self._next += 1
            if error_number:
                self._note(error_number)
                continue
            if self._next < len(self._addresses):
                self._timer = self._connector.clock.callLater(ATTEMPT_DELAY_SECONDS, self._go_on)
            return True
        if not self._tries and not self._is_over:
            self._exhausted()
        return True

    def _connect_later(self) -> Iterator[None]:
        yield  # the first step may be done at once
        self._goes_on_later = False
        if not self._is_over:
            try:
                self.connect()
            except Exception:
                self._log.failure("an attempt to connect failed")
                self.failed()

    def _try(self, address: SocketAddress) -> int:
        """Begin to connect to an address.

        :returns: an error number; 0 if it is waited for, or was connected at once.
        """
        family, where = address
        connector = self._connector
        try:
            sock = _make_socket(family)
        except OSError as error:
            return error.errno or errno.EMFILE
        loops, target = connector.loops, connector.target
        # To look first spares most backends the call.
        is_ours = target in loops.listening and loops.leads_here(target, family, where)
        if is_ours and family == socket.AF_UNIX:
            _give_name(sock)
        error_number = sock.connect_ex(where)
        if error_number not in (0, errno.EINPROGRESS):
            sock.close()
            if error_number == errno.EADDRNOTAVAIL and not has_source_address(family, where):
                return errno.ENETUNREACH
            return error_number
        if (
            connector.may_meet_itself
            and sock.getsockname()[1] == where[1]
            and is_own_address(sock.getsockname(), where)
        ):
            reset_on_close(sock)  # without a reset its port would be taken for a minute
            sock.close()
            return errno.ECONNREFUSED
        if is_ours:
            loops.dialled(sock, self._listener.record)
        one = _Try(self, sock, address)
        try:
            connector.loop.add(sock.fileno(), one)
        except OSError as error:  # ENOMEM, ENOSPC: the user's share of watches is used up
            sock.close()
            return error.errno or errno.ENOMEM
        if self._tries:
            connector.descriptors.attempts += 1
        self._tries.append(one)
        if family == socket.AF_UNIX:  # which is connected at once
            self.succeeded(one, 0)
        return 0

    def _go_on(self) -> None:
        """The last address tried has failed, or takes long."""
        self._cancel_timer()
        if len(self._tries) >= MOST_ATTEMPTS:
            self._drop(self._tries[0])
            self._note(errno.ETIMEDOUT)
        elif self._tries and not self._connector.descriptors.may_try_more():
            # One more could cost another connection its first: wait until others need theirs no
            # longer.
            self._timer = self._connector.clock.callLater(ATTEMPT_DELAY_SECONDS, self._go_on)
            return
        self.connect()

    def _note(self, error_number: int) -> None:
        rank, noted = map(_TELLING.index, map(connect_reason, (error_number, self._failure)))
        if not self._failure or rank > noted:
            self._failure = error_number

    def try_failed(self, one: _Try, error_number: int) -> None:
        """One of the addresses has failed."""
        self._drop(one)
        self._note(error_number)
        if self._next < len(self._addresses):
            self._go_on()
        elif not self._tries:
            self._exhausted()

    def _exhausted(self) -> None:
        """All addresses have failed."""
        if self._asked_anew or self._failure in SHORTAGES:
            self._fail()
        else:
            self._asked_anew = True
            resolver = self._connector.resolver
            self._cancel_query = resolver.renew(self._addresses, self._found, self._fail)

    def _fail(self) -> None:
        if self._is_over:
            return
        error_number = self._failure
        text = os.strerror(error_number).lower()
        if error_number in (errno.EADDRNOTAVAIL, errno.EAGAIN):
            text = _NO_PORT_LEFT
        if staleness := self._connector.resolver.staleness:
            text = f"{text}; {staleness}"
        self._report(connect_reason(error_number), text)

    def _report(self, reason: Reason, detail: str) -> None:
        self._end()
        self._listener.record.is_shortage = reason == "error"
        self._listener.connect_failed(reason, detail)

    def succeeded(self, winner: _Try, events: int, error_number: int = 0) -> None:
        """A socket is connected; see :meth:`ConnectListener.connect_succeeded`."""
        if self._next > 1 or self._timer is not None:
            self._end_others(winner)
        self._is_over = True
        self._tries.clear()  # no cycle is left to be collected
        self._listener.connect_succeeded(winner.sock, events, error_number)

    def _end_others(self, winner: _Try) -> None:
        slower = self._addresses[: self._addresses.index(winner.address)]
        if slower:
            self._connector.resolver.prefer(winner.address, slower)
        self._remove(winner)
        self._end()

    def failed(self) -> None:
        """Report an unexpected exception; it may have been raised after the connect succeeded."""
        self._listener.failed()

    def _end(self) -> None:
        self._is_over = True
        self._cancel_timer()
        if self._cancel_query is not None:
            self._cancel_query()
            self._cancel_query = None
        while self._tries:
            self._drop(self._tries[0])

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None

    def _remove(self, one: _Try) -> None:
        self._tries.remove(one)
        if self._tries:
            self._connector.descriptors.attempts -= 1

    def _drop(self, one: _Try) -> None:
        self._remove(one)
        self._connector.loop.remove(one.sock.fileno())
        one.sock.close()


class _Try:
    """A socket that is connecting to one address.

    :param attempt: that it is part of.
    """

    __slots__ = ("address", "attempt", "sock")

    def __init__(
        self, attempt: ConnectAttempt, sock: socket.SocketType, address: SocketAddress
    ) -> None:
        self.attempt = attempt
        self.sock = sock
        self.address = address

    def ready(self, events: int) -> None:
        """The connection is established, or has failed (connect(2), ``EINPROGRESS``)."""
        error_number = 0
        if events & _FAILED:
            error_number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error_number and error_number not in RESET_ERRNOS:
                self.attempt.try_failed(self, error_number)
                return
        self.attempt.succeeded(self, events, error_number)

    def failed(self) -> None:
        """Implements ``SocketHandler.failed``."""
        self.attempt.failed()


def _give_name(sock: socket.SocketType) -> None:
    """Give a UNIX socket a name of its own (unix(7), "Autobind"), by which its peer knows it."""
    try:
        sock.bind(b"")
    except OSError:  # other systems than Linux
        pass


def _make_socket(family: int) -> socket.SocketType:
    # The C type beneath socket.socket, which is socket.SocketType at run time: the subclass turns
    # family and type into enums at each access, and costs twice as much to make.
    sock = socket.SocketType(family, _STREAM_NONBLOCK)
    if family != socket.AF_UNIX:
        # A relay passes on what it has: Nagle's algorithm would hold the end of a message back
        # until the peer acknowledges the rest, which it may delay by 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
