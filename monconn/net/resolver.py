"""The socket addresses of a backend, in the order in which they are to be tried."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads

from monconn.addresses import TcpAddress, UnixAddress
from monconn.background import run_in_thread
from monconn.clock import Clock
from monconn.errors import os_error_text
from monconn.log import Logger
from monconn.model.reasons import Reason
from monconn.net.sockets import zone_index
from monconn.units import format_duration

SocketAddress = tuple[socket.AddressFamily, Any]
"""A family, and the address that ``connect`` takes for it."""
Found = Callable[[Sequence[SocketAddress]], object]
NotFound = Callable[[Reason, str], object]
Cancel = Callable[[], object]
_Renewing = tuple[Sequence[SocketAddress], Found, Callable[[], object]]

CACHE_SECONDS = 30.0
"""``getaddrinfo`` does not return an answer's TTL: short enough to follow a name that moves."""
STALE_SECONDS = 86_400.0
"""For how long the last addresses are used if the name cannot be resolved any more. RFC 8767, 5,
suggests one to three days: as long as it takes people to notice, and to mend a name server."""
PATIENCE_SECONDS = 1.8
"""How long a client waits for an answer before it is given the last addresses (RFC 8767, 5: the
"client response timer")."""
LISTEN_SECONDS = 10.0
"""How long to wait for the address of a name to listen on: enough for a second name server to be
asked, after the five seconds that the first is given (resolv.conf(5), ``timeout``)."""
QUERY_SECONDS = 60.0
"""After that long a query is taken for one that will never be answered, and another may begin: a
directory service or a socket of the resolver's may hang for good. An answer that comes later is
used nevertheless."""
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
MOST_ADDRESSES = 64
"""How many addresses of an answer are used, which may have thousands over TCP: they are ordered and
compared again for each connection that fails. Within a connect timeout no more can be tried."""
MOST_LOOKUPS = 16
"""Queries of one service at once, each in a thread. Only services that choose their backends by
what clients say have so many names; what they use up is theirs alone."""

# getaddrinfo opens sockets and files itself, and passes their errors on (EAI_SYSTEM).
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Answers, and not failures: there is no such name (NXDOMAIN), or it has no address. Its last
# addresses are not its own any more (RFC 8767, 4). EAI_NODATA is a GNU extension.
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Lookups:
    """Threads for the queries of one service, which may hang.

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

        if self._running >= MOST_LOOKUPS:
            return False
        try:
            run_in_thread(self._reactor, "monconn lookup", query, finish)
        except RuntimeError:
            return False
        self._running += 1
        return True


def address_now(address: TcpAddress) -> SocketAddress:
    """The first address of a host to listen on; waits for it, but not for ever.

    In a thread, as a signal to end the program has no effect while ``getaddrinfo`` blocks this one.

    :raises OSError: the name cannot be resolved, or not within :data:`LISTEN_SECONDS`.
    """
    answers = SimpleQueue[Any]()

    def run() -> None:
        try:
            answers.put(_resolve(address))
        except Exception as error:
            answers.put(error)

    try:
        threading.Thread(target=run, name="monconn lookup", daemon=True).start()
    except RuntimeError as error:  # the system gives us no more threads
        raise OSError(errno.EAGAIN, str(error)) from error
    try:
        return _first(answers.get(timeout=LISTEN_SECONDS))
    except Empty:
        raise _not_in_time() from None


def check_names(names: Iterable[str], seconds: float) -> dict[str, list[str] | OSError]:
    """The IP addresses of names, or why a name has none; waits for all of them together.

    :param seconds: the longest that this takes.
    """
    waiting = list(dict.fromkeys(names))
    asked = SimpleQueue[str]()
    for name in waiting:
        asked.put(name)
    answers = SimpleQueue[tuple[str, "list[str] | OSError"]]()

    def run() -> None:
        while not asked.empty():
            try:
                name = asked.get_nowait()
                found = _resolve(TcpAddress(name, 0))
                answers.put((name, list(dict.fromkeys(where[0] for _, where in found))))
            except Empty:
                return
            except UnicodeError:  # a label that IDNA does not encode
                answers.put((name, OSError(errno.EINVAL, "no valid name")))
            except OSError as error:
                answers.put((name, error))

    known: dict[str, list[str] | OSError] = {}
    for _ in waiting[:MOST_LOOKUPS]:
        try:
            threading.Thread(target=run, name="monconn lookup", daemon=True).start()
        except RuntimeError:  # the system gives us no more threads; there may be some
            break
    until = time.monotonic() + seconds
    while len(known) < len(waiting):
        try:
            name, answer = answers.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            break
        known[name] = answer
    late = OSError(errno.ETIMEDOUT, f"no answer within {seconds:g} seconds")
    return {name: known.get(name, late) for name in waiting}


def address_later(address: TcpAddress, lookups: Lookups, clock: Clock) -> Deferred[SocketAddress]:
    """As :func:`address_now`, in the thread of a reactor that runs.

    :returns: fires with the address, or fails with an ``OSError``.
    """
    first: Deferred[SocketAddress] = Deferred()

    def done(answer: Any) -> None:
        if timer.active():  # else it is too late
            timer.cancel()
            try:
                first.callback(_first(answer))
            except OSError as error:
                first.errback(error)

    timer = clock.callLater(LISTEN_SECONDS, lambda: first.errback(_not_in_time()))
    if not lookups.start(lambda: _resolve(address), done):
        done(OSError(errno.EMFILE, "too many names are being looked up"))
    return first


def _first(answer: Any) -> SocketAddress:
    if isinstance(answer, OSError):
        raise answer
    if isinstance(answer, BaseException):  # such as a UnicodeError
        raise OSError(errno.EINVAL, str(answer)) from answer
    first: SocketAddress = answer[0]
    return first


def _not_in_time() -> OSError:
    text = f"the name was not resolved within {LISTEN_SECONDS:g} seconds"
    return OSError(errno.ETIMEDOUT, text)


class Resolver:
    """The socket addresses of a backend.

    A name is resolved in a thread, and the answer cached. If it cannot be resolved any more, its
    last addresses are used for a day, as RFC 8767 says. They are ordered as the resolver
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
        self._name = address.host if isinstance(address, TcpAddress) else ""
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
        self._answered_at = 0.0  # when the known addresses were found
        self._query = 0  # the number of the last one
        self._query_timers: list[IDelayedCall] = []
        self._stale_because = ""  # the last addresses are used in place of an answer
        # By an object each, so that one who gives up can be taken out of thousands.
        self._waiting: dict[object, tuple[Found, NotFound]] = {}
        self._next_share: IDelayedCall | None = None
        self._renewing: dict[object, _Renewing] = {}
        self._renewed: dict[object, _Renewing] = {}  # whose wait is over
        self._renewal: IDelayedCall | None = None

    def cached(self) -> Sequence[SocketAddress]:
        """The addresses, if they are known; empty if :meth:`resolve` must be asked."""
        return self._known if self._clock.seconds() < self._good_until else ()

    @property
    def staleness(self) -> str:
        """Why the addresses may be wrong by now; empty while the name can be resolved."""
        if not self._stale_because:
            return ""
        age = format_duration(self._clock.seconds() - self._answered_at)
        return f"{self._name} was resolved {age} ago, and cannot be now: {self._stale_because}"

    def resolve(self, found: Found, failed: NotFound) -> Cancel:
        """Resolve the name; calls while a query is under way share its answer.

        If there is none within :data:`PATIENCE_SECONDS`, or the query fails, the last addresses are
        the answer for :data:`STALE_SECONDS`, unless they are known to be those of nobody.

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
        others = self._others(tried)
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

        def cancel() -> None:
            self._renewing.pop(key, None)
            self._renewed.pop(key, None)

        return cancel

    def _others(self, tried: Sequence[SocketAddress]) -> Sequence[SocketAddress]:
        """The addresses that were not tried and are not too old."""
        if not self._may_be_used():
            return []
        known = set(tried)
        return [each for each in self._known if each not in known]

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
        self._query += 1
        address, query = self.address, self._query
        if not self._lookups.start(
            lambda: _resolve(address), lambda answer: self._answered(answer, query)
        ):
            self._answered(OSError(errno.EMFILE, "too many names are being looked up"), query)
            return
        self._query_timers = [
            self._clock.callLater(PATIENCE_SECONDS, self._answer_is_late),
            self._clock.callLater(QUERY_SECONDS, self._give_up_query),
        ]

    def _answer_is_late(self) -> None:
        """Those who wait get the last addresses, and those who come until the query is over."""
        if self._may_be_used():
            self._use_stale(QUERY_SECONDS, "no answer yet")
            self._pass_on()

    def _give_up_query(self) -> None:
        self._answered(TimeoutError(errno.ETIMEDOUT, "no name server has answered"), self._query)

    def _answered(self, answer: Any, query: int) -> None:
        """A query is over.

        :param query: its number. One that was given up before may have an answer nevertheless, but
            its failure tells nothing of the present one.
        """
        is_error = isinstance(answer, BaseException)
        if not self._is_asking or query != self._query:
            if is_error:
                return
        else:
            self._is_asking = False
            self._cancel_query_timers()
        now = self._clock.seconds()
        self._next_query = now + QUERY_INTERVAL_SECONDS
        if is_error:
            self._failure = self._describe(answer)
            if _says_there_is_none(answer):
                self._known, self._good_until, self._stale_because = (), 0.0, ""
            elif self._may_be_used():
                self._use_stale(CACHE_SECONDS, os_error_text(answer))
        else:
            if self._stale_because:
                self._stale_because = ""
                self._log.info("{name} is resolved again", name=self._name)
            self._failure = None
            self._last = {each: until for each, until in self._last.items() if now < until}
            self._known = self._ordered(_alternating(answer)[:MOST_ADDRESSES])
            self._answered_at, self._good_until = now, now + CACHE_SECONDS
        self._end_renewal()

    def _cancel_query_timers(self) -> None:
        timers, self._query_timers = self._query_timers, []
        for timer in timers:
            if timer.active():
                timer.cancel()

    def _may_be_used(self) -> bool:
        """Whether the last addresses are not too old to be used in place of an answer."""
        return bool(self._known) and self._clock.seconds() - self._answered_at < STALE_SECONDS

    def _use_stale(self, seconds: float, why: str) -> None:
        """Use the last addresses, for some seconds at most."""
        until = min(self._clock.seconds() + seconds, self._answered_at + STALE_SECONDS)
        self._good_until = max(self._good_until, until)
        is_new, self._stale_because = not self._stale_because, why
        if is_new:
            self._log.warn(
                "{staleness}; its addresses are used, for a day at most", staleness=self.staleness
            )

    def _pass_on(self) -> None:
        """Give the last answer to some of those who wait, and to the others in later turns."""
        if self._next_share is not None and self._next_share.active():
            return  # a query has ended meanwhile: no turn is to have two shares
        has_answer = bool(self.cached()) or not self._is_asking
        for _ in range(ANSWERS_A_TURN):
            # The oldest; one that is called may have others give up.
            if has_answer and self._waiting:
                found, failed = self._waiting.pop(next(iter(self._waiting)))
                if self._failure is None or self.cached():
                    self._call(found, self._known)
                else:
                    self._call(failed, *self._failure)
            elif self._renewed:
                tried, found, none_left = self._renewed.pop(next(iter(self._renewed)))
                others = self._others(tried)
                if others:
                    self._call(found, others)
                else:
                    self._call(none_left)
            else:
                return
        if self._renewed or (has_answer and self._waiting):
            self._next_share = self._clock.callLater(0, self._pass_on)

    def _end_renewal(self) -> None:
        """Answer those whose addresses have all failed with what is known now."""
        if self._renewal is not None:
            if self._renewal.active():
                self._renewal.cancel()
            self._renewal = None
        self._renewed.update(self._renewing)
        self._renewing.clear()
        self._pass_on()

    def _describe(self, error: BaseException) -> tuple[Reason, str]:
        is_shortage = not isinstance(error, socket.gaierror) and (
            getattr(error, "errno", None) in _SHORTAGES
        )
        reason: Reason = "error" if is_shortage else "backend_unreachable"
        return reason, f"cannot resolve {self._name}: {os_error_text(error)}"

    def _ordered(self, addresses: Sequence[SocketAddress]) -> Sequence[SocketAddress]:
        return sorted(addresses, key=lambda each: each in self._last)  # which is stable

    def _call(self, call: Callable[..., object], *answer: object) -> None:
        try:
            call(*answer)
        except Exception:  # the others who wait are to have their answer nevertheless
            self._log.failure("a connection failed when the backend's name was resolved")


def _nothing() -> None:
    """Cancels what is over."""


def _says_there_is_none(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME


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
