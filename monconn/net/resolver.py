"""The socket addresses of a backend, in the order in which they are to be tried."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import Clock
from monconn.errors import os_error_text
from monconn.log import Logger
from monconn.model.reasons import Reason
from monconn.net.sockets import zone_index

SocketAddress = tuple[socket.AddressFamily, Any]
"""A family, and the address that ``connect`` takes for it."""
Found = Callable[[Sequence[SocketAddress]], object]
NotFound = Callable[[Reason, str], object]
Cancel = Callable[[], object]

CACHE_SECONDS = 30.0
"""``getaddrinfo`` does not return an answer's TTL: short enough to follow a name that moves."""
QUERY_INTERVAL_SECONDS = 1.0
"""The least time between the end of one query and the beginning of the next: a backend that is down
has every client ask anew, which must not become a flood of queries."""
RENEWAL_SECONDS = 2.0
"""How long a connection whose addresses have all failed waits for new ones: it has a reason to end
already, and a name server that hangs must not hold it."""
LAST_SECONDS = 300.0
"""How long an address that failed, or was slower than another, is tried after all others."""
ANSWERS_A_TURN = 64
"""Connections that go on in one turn of the reactor once their backend's name is resolved: each
then takes 50 µs, and with the handshake of TLS more."""
MOST_LOOKUPS = 64
"""Queries at once, each in a thread. Only services that choose their backends by what clients say
have so many names."""

# getaddrinfo opens sockets and files itself, and passes their errors on (EAI_SYSTEM).
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class Lookups:
    """Threads for queries, which may hang.

    Each query has a daemon thread of its own: one that hangs makes no other wait, and does not keep
    the program from ending. (The reactor's pool has ten threads for everything, and is joined at
    the end.)

    :param reactor: results are passed to its thread.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._running = 0

    def start(self, query: Callable[[], object], done: Callable[[Any], object]) -> bool:
        """Call something in a thread.

        :param done: called in the reactor's thread with the result, or with the exception.
        :returns: False if there are too many queries already, or no thread can be had.
        """

        def finish(answer: object) -> None:
            self._running -= 1
            done(answer)

        def run() -> None:
            try:
                answer = query()
            except BaseException as error:
                answer = error
            self._reactor.callFromThread(finish, answer)

        if self._running >= MOST_LOOKUPS:
            return False
        try:
            threading.Thread(target=run, name="monconn lookup", daemon=True).start()
        except RuntimeError:  # the system gives us no more threads
            return False
        self._running += 1
        return True


class Resolver:
    """The socket addresses of a backend.

    A name is resolved in a thread, and the answer cached. Its addresses are ordered as the resolver
    returns them (RFC 6724), but with the families alternating (RFC 8305, 4), and those last that
    have failed while another did not. They are not shuffled: whether load is to be spread over them
    is for the name server to decide, by the order of its answers.

    The zone of a link-local address (``fe80::1%eth0``) is looked up each time: the interface may
    come later, and has another index each time that it does.

    :param address: the backend.
    :param reactor: results of queries are passed to its thread.
    :param clock: gives monotonic time and timers.
    :param lookups: the threads for queries; some of its own if left out.
    """

    _log = Logger()

    def __init__(
        self,
        address: TcpAddress | UnixAddress,
        reactor: IReactorFromThreads,
        clock: Clock,
        lookups: Lookups | None = None,
    ) -> None:
        self.address = address
        self._clock = clock
        self._lookups = Lookups(reactor) if lookups is None else lookups
        self._zone = _zone_of(address)
        self._known: Sequence[SocketAddress] = () if self._zone else _numeric(address)
        self.is_name = not (self._known or self._zone)
        """Whether the addresses may be others the next time."""
        self._good_until = float("inf") if self._known else 0.0
        self._last: dict[SocketAddress, float] = {}  # to be tried last, and until when
        self._is_asking = False
        self._next_query = 0.0
        self._failure: tuple[Reason, str] | None = None  # of the last query
        # By an object each, so that one who gives up can be taken out of thousands.
        self._waiting: dict[object, tuple[Found, NotFound]] = {}
        self._renewing: dict[
            object, tuple[Sequence[SocketAddress], Found, Callable[[], object]]
        ] = {}
        self._renewal: IDelayedCall | None = None

    def cached(self) -> Sequence[SocketAddress]:
        """The addresses, if they are known; empty if :meth:`resolve` must be asked."""
        return self._known if self._clock.seconds() < self._good_until else ()

    def resolve(self, found: Found, failed: NotFound) -> Cancel:
        """Resolve the name; calls while a query is under way share its answer.

        :param found: called with at least one address.
        :param failed: called with a reason to end the connection, and the error's text.
        :returns: has neither called.
        """
        if self._zone:
            try:
                addresses = [_zoned(self.address, self._zone)]
            except OSError as error:
                failed("backend_unreachable", str(error.strerror))
            else:
                found(addresses)
            return _nothing
        if self._failure and not self._is_asking and self._clock.seconds() < self._next_query:
            failed(*self._failure)
            return _nothing
        key = object()
        self._waiting[key] = found, failed
        self._ask()
        return lambda: self._waiting.pop(key, None)

    def renew(
        self, tried: Sequence[SocketAddress], found: Found, none_left: Callable[[], object]
    ) -> Cancel:
        """Ask anew, as all addresses have failed; but not more often than is fair to name servers.

        :param tried: these addresses.
        :param found: called with the addresses that are not among them, if there are any.
        :param none_left: called if there are none, or the answer takes too long.
        :returns: has neither called.
        """
        others = [each for each in self._known if each not in tried]
        if others:  # a query of another connection has brought them
            found(others)
            return _nothing
        if not (self.is_name and self._may_ask()):
            none_left()
            return _nothing
        key = object()
        self._renewing[key] = tried, found, none_left
        if self._renewal is None:
            self._renewal = self._clock.callLater(RENEWAL_SECONDS, self._end_renewal)
        self._ask()
        return lambda: self._renewing.pop(key, None)

    def refresh(self) -> None:
        """Ask anew, without anyone waiting for it: no address has answered in time."""
        if self.is_name and self._may_ask():
            self._ask()

    def prefer(self, winner: SocketAddress, slower: Iterable[SocketAddress]) -> None:
        """Order the addresses by what an attempt has shown.

        :param winner: the first that could be connected to.
        :param slower: those that had been tried before it.
        """
        until = self._clock.seconds() + LAST_SECONDS
        self._last.update(dict.fromkeys(slower, until))
        self._last.pop(winner, None)
        self._known = self._ordered(self._known)

    def _may_ask(self) -> bool:
        return self._is_asking or self._clock.seconds() >= self._next_query

    def _ask(self) -> None:
        if self._is_asking:
            return
        self._is_asking = True
        address = self.address
        if not self._lookups.start(lambda: _resolve(address), self._answered):
            self._answered(OSError(errno.EMFILE, "too many names are being looked up"))

    def _answered(self, answer: Any) -> None:
        self._is_asking = False
        now = self._clock.seconds()
        self._next_query = now + QUERY_INTERVAL_SECONDS
        if isinstance(answer, BaseException):
            self._failure = self._describe(answer)
        else:
            self._failure = None
            self._last = {each: until for each, until in self._last.items() if now < until}
            self._known = self._ordered(_alternating(answer))
            self._good_until = now + CACHE_SECONDS
        self._pass_on()
        self._end_renewal()

    def _pass_on(self) -> None:
        """Give the last answer to some of those who wait, and to the others in later turns."""
        for _ in range(min(len(self._waiting), ANSWERS_A_TURN)):
            # The oldest; one that is called may have others give up.
            key = next(iter(self._waiting), None)
            if key is None:
                break
            found, failed = self._waiting.pop(key)
            if self._failure is None:
                self._call(found, self._known)
            else:
                self._call(failed, *self._failure)
        if self._waiting and not self._is_asking:
            self._clock.callLater(0, self._pass_on)

    def _end_renewal(self) -> None:
        """Answer those whose addresses have all failed with what is known now."""
        if self._renewal is not None:
            if self._renewal.active():
                self._renewal.cancel()
            self._renewal = None
        renewing, self._renewing = self._renewing, {}
        for tried, found, none_left in renewing.values():
            others = [each for each in self._known if each not in tried]
            if others:
                self._call(found, others)
            else:
                self._call(none_left)

    def _describe(self, error: BaseException) -> tuple[Reason, str]:
        is_shortage = not isinstance(error, socket.gaierror) and (
            getattr(error, "errno", None) in _SHORTAGES
        )
        reason: Reason = "error" if is_shortage else "backend_unreachable"
        host = self.address.host if isinstance(self.address, TcpAddress) else ""
        return reason, f"cannot resolve {host}: {os_error_text(error)}"

    def _ordered(self, addresses: Sequence[SocketAddress]) -> Sequence[SocketAddress]:
        return sorted(addresses, key=lambda each: each in self._last)  # which is stable

    def _call(self, call: Callable[..., object], *answer: object) -> None:
        try:
            call(*answer)
        except Exception:  # the others who wait are to have their answer nevertheless
            self._log.failure("a connection failed when the backend's name was resolved")


def _nothing() -> None:
    """Cancels what is over."""


def _alternating(addresses: Sequence[SocketAddress]) -> list[SocketAddress]:
    """The addresses without repetitions, families interleaved, the first one's first.

    So that a family that leads nowhere delays the other by one attempt (RFC 8305, 4).
    """
    by_family: dict[int, list[SocketAddress]] = {}
    for each in dict.fromkeys(addresses):
        by_family.setdefault(each[0], []).append(each)
    ordered: list[SocketAddress] = []
    families = list(by_family.values())
    for index in range(max(map(len, families), default=0)):
        ordered += [family[index] for family in families if index < len(family)]
    return ordered


def _zone_of(address: TcpAddress | UnixAddress) -> str:
    """The zone of an IPv6 address: an interface's name or index; empty if it names none."""
    if isinstance(address, UnixAddress) or ":" not in address.host:
        return ""
    return address.host.partition("%")[2]


def _zoned(address: TcpAddress | UnixAddress, zone: str) -> SocketAddress:
    """The socket address of an IPv6 address with a zone.

    :raises OSError: there is no such interface.
    """
    assert isinstance(address, TcpAddress)
    return socket.AF_INET6, (address.host.partition("%")[0], address.port, 0, zone_index(zone))


def _numeric(address: TcpAddress | UnixAddress) -> Sequence[SocketAddress]:
    """The only address of a backend that is given by IP or by path; none of a name."""
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, address.path)]
    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        return []
    if version == 4:
        return [(socket.AF_INET, (address.host, address.port))]
    return [(socket.AF_INET6, (address.host, address.port, 0, 0))]


def _resolve(address: TcpAddress | UnixAddress) -> Sequence[SocketAddress]:
    assert isinstance(address, TcpAddress)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]
