"""Listening sockets of our own: every listener of the program, but for Twisted's endpoints.

Twisted's ports open UNIX sockets to all users (mode 0666), stop listening with ``shutdown(2)``,
which also stops every process that the socket was handed to, and cannot leave clients in the
kernel's queue.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReadDescriptor
from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from monconn import files, unixsocket
from monconn.addresses import Address, TcpAddress, UnixAddress
from monconn.errors import ListenError, Remark, os_error_text
from monconn.log import Logger
from monconn.net.descriptors import Descriptors, Unlimited
from monconn.net.resolver import address_now
from monconn.net.sockets import ProbeTimes, set_keepalive, zone_index
from monconn.processes import InUse, tcp_holder

BACKLOG = 4096
"""The kernel's queue of clients not yet accepted; ``net.core.somaxconn`` may shorten it."""
BATCH = 32
"""Clients accepted in one turn of the reactor, so that a flood of them does not starve others. Each
takes up to 0.1 ms: listeners that are flooded at the same time share it."""
FLOODED_SECONDS = 0.1
"""For how long a listener counts as flooded that has accepted as many clients as it may."""
SHORTAGE_PAUSE_SECONDS = 0.25
"""How long to leave clients in the queue once descriptors or memory have run out. Without the
pause the listener would stay readable and the loop would spin."""

FILE_CHECK_SECONDS = 5.0
"""How often the file of a UNIX socket is checked: one ``stat`` for each listener. Without it such a
service runs on for ever, and nobody can reach it."""

SocketAddress = TcpAddress | UnixAddress
# When they have last accepted a whole batch (monotonic seconds), the longest ago first.
_flooded: dict[Listener, float] = {}
# accept(2) fails with these because of this process or this machine, not because of the client.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ListenReactor(Protocol):
    """The part of a reactor that :class:`Listener` needs (``IReactorFDSet``, ``IReactorTime``)."""

    def addReader(self, reader: IReadDescriptor) -> None:
        """Implements ``IReactorFDSet.addReader``."""

    def removeReader(self, reader: IReadDescriptor) -> None:
        """Implements ``IReactorFDSet.removeReader``."""

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object
    ) -> IDelayedCall:
        """Implements ``IReactorTime.callLater``."""


class AdoptReactor(Protocol):
    """The part of a reactor that makes transports of sockets (``IReactorSocket``)."""

    def adoptStreamConnection(
        self, descriptor: int, family: int, factory: IProtocolFactory, /
    ) -> object:
        """Implements ``IReactorSocket.adoptStreamConnection``."""


class ServeReactor(ListenReactor, AdoptReactor, Protocol):
    """The part of a reactor that :func:`serve_factory` needs."""


def open_listener(
    address: SocketAddress,
    *,
    keepalive: ProbeTimes | None = None,
    default_mode: int | None = None,
) -> socket.socket:
    """Bind and listen.

    :param address: an empty host is every address, IPv6 and IPv4. A name is looked up, but not in
        the thread of a reactor that runs: see :func:`monconn.net.resolver.address_later`.
    :param keepalive: when the kernel sends keepalive probes to silent clients; None for never.
    :param default_mode: the permissions of a UNIX socket whose address names none; None leaves
        them to the umask.
    :returns: a listening, non-blocking socket.
    :raises ListenError: the address cannot be had; its cause is the ``OSError``.
    """
    try:
        sock = _bind(address, keepalive, default_mode)
        if not isinstance(address, UnixAddress):
            _listen(sock)
        return sock
    except OSError as error:
        cause = in_words(error, address)
        raise _listen_error(address, cause) from cause


def check_listener(address: SocketAddress, named: Address | None = None) -> list[Remark]:
    """Find what :func:`open_listener` would fail with, so that nobody notices.

    A TCP address is bound for a moment, by the same options, and never listened on: until it is
    closed others can have it all the same, if they set SO_REUSEADDR, too.

    :param named: the address as it is configured, for the message.
    :returns: what is worth knowing of what is there.
    :raises ListenError: the same as :func:`open_listener` would.
    """
    try:
        if isinstance(address, UnixAddress):
            return unixsocket.check(address.path)
        _bind(address, None, None).close()
        return []
    except OSError as error:
        cause = in_words(error, address)
        raise _listen_error(named or address, cause) from cause


def in_words(error: Exception, address: Address | None) -> Exception:
    """An error of listening, with what it is about and what helps.

    :param address: the socket's, if it is known.
    """
    number = getattr(error, "errno", None)
    if not isinstance(address, TcpAddress) or number is None:
        return error
    text = os_error_text(error)
    if number == errno.EADDRINUSE:
        ip = "" if is_name(address) else address.host.replace("localhost", "127.0.0.1")
        holder = tcp_holder(ip, address.port)
        if holder is None:
            return error
        return InUse(f"{text} by {holder}: stop that first, or choose another port", holder)
    if number == errno.EADDRNOTAVAIL and address.host not in ("", "0.0.0.0", "::"):
        return OSError(number, f"{text}: this host has no address {address.host}")
    if number == errno.EACCES and address.port < (first := _first_unprivileged_port()):
        advice = f"ports below {first} need root, or the capability CAP_NET_BIND_SERVICE"
        return OSError(number, f"{text}: {advice}")
    return error


def _listen_error(named: Address, cause: Exception) -> ListenError:
    return ListenError(f"cannot listen on {named}: {os_error_text(cause)}")


def _first_unprivileged_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _bind(
    address: SocketAddress, keepalive: ProbeTimes | None, default_mode: int | None
) -> socket.socket:
    """A socket with an address; a UNIX socket listens already."""
    if isinstance(address, UnixAddress):
        mode = default_mode if address.mode is None else address.mode
        return unixsocket.listen(address.path, mode, BACKLOG)
    if address.host == "":
        if socket.has_dualstack_ipv6():
            return _bound(
                socket.AF_INET6, ("::", address.port), dual_stack=True, keepalive=keepalive
            )
        return _bound(socket.AF_INET, ("0.0.0.0", address.port), keepalive=keepalive)
    ip, _, zone = address.host.partition("%")
    if zone:
        scoped = ip, address.port, 0, zone_index(zone)
        return _bound(socket.AF_INET6, scoped, keepalive=keepalive)
    if is_name(address):
        if isInIOThread():
            raise OSError(errno.EWOULDBLOCK, "looking a name up would hold up every connection")
        family, where = address_now(address)
    else:
        family, where = _numeric(address)
    return _bound(family, where, keepalive=keepalive)


def is_name(address: SocketAddress) -> bool:
    """Whether an address to listen on is a name that a name server may have to be asked for."""
    if isinstance(address, UnixAddress) or address.host in ("", "localhost"):  # RFC 6761, 6.3
        return False
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return True
    return False


def _numeric(address: TcpAddress) -> tuple[socket.AddressFamily, Any]:
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return family, where


def _listen(sock: socket.socket) -> None:
    try:
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:  # only to close it
        sock.close()
        raise


def _bound(
    family: int,
    where: Any,
    *,
    dual_stack: bool = False,
    keepalive: ProbeTimes | None = None,
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Else the address could not be bound while connections of the program before are
        # in TIME_WAIT, a minute on Linux.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux copies these to each accepted socket: no system call for each of them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keepalive is not None:
            set_keepalive(sock, keepalive)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind(where)
    except BaseException:  # only to close it
        sock.close()
        raise
    return sock


def client_address(address: SocketAddress, sock: socket.socket) -> str:
    """How a client on this machine names a listener: ``HOST:PORT`` or ``unix:PATH``.

    :param address: as configured, where the host may be empty and the port 0.
    """
    if isinstance(address, UnixAddress):
        return f"unix:{address.path}"
    return str(TcpAddress(address.host or "127.0.0.1", sock.getsockname()[1]))


@implementer(IReadDescriptor)
class Listener:
    """Accepts clients from a listening socket, in batches.

    :param sock: as :func:`open_listener` returns it; closed by :meth:`close`.
    :param reactor: clients are accepted in its thread.
    :param accepted: called with each client's socket (non-blocking) and its address.
    :param must_wait: asked before each client; while it returns True, clients are left in the
        kernel's queue until :meth:`resume`.
    :param batch: how many clients are accepted in one turn of the reactor.
    :param descriptors: says whether there is room for a client; left out, it may be accepted with
        the last descriptor, as those of admin interfaces should.
    """

    _log = Logger()

    def __init__(
        self,
        sock: socket.socket,
        reactor: ListenReactor,
        accepted: Callable[[socket.SocketType, Any], object],
        must_wait: Callable[[], bool] = lambda: False,
        batch: int = BATCH,
        descriptors: Descriptors | Unlimited | None = None,
    ) -> None:
        self._sock: socket.socket | None = sock
        self._fileno = sock.fileno()
        self._file = sock.file if isinstance(sock, unixsocket.ListeningSocket) else None
        self._file_check: IDelayedCall | None = None
        self._has_lost_file = False
        self._reactor = reactor
        self._accepted = accepted
        self.must_wait = must_wait
        """May be replaced."""
        self._batch = batch
        self._descriptors = Unlimited() if descriptors is None else descriptors
        self._awaits_descriptors = False
        self._family, self._type, self._proto = int(sock.family), int(sock.type), sock.proto
        self._is_reading = False
        self._pause: IDelayedCall | None = None
        self._is_short = False

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        return self._fileno

    def logPrefix(self) -> str:
        """The prefix of the reactor's log lines."""
        return "monconn.accept"

    def connectionLost(self, reason: Any) -> None:
        """Close: the reactor found the descriptor unusable, or is stopping."""
        self.close()

    def resume(self) -> None:
        """Start or continue to accept clients; harmless at any time."""
        if self._is_reading or self._sock is None:
            return
        if self._pause is None and not self._awaits_descriptors:
            self._is_reading = True
            self._reactor.addReader(self)
            if self._file is not None and self._file_check is None:
                self._check_file_later()

    def resume_later(self, seconds: float) -> None:
        """:meth:`resume` after a time; harmless if it is closed by then."""
        self._reactor.callLater(seconds, self.resume)

    def _stop_reading(self) -> None:
        self._is_reading = False
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Accept a batch: at least one client is in the queue."""
        descriptors = self._descriptors
        _flooded.pop(self, None)
        for _ in range(self._share() if _flooded else self._batch):
            if self._sock is None:
                return
            if self.must_wait():
                self._stop_reading()
                return
            if descriptors.credit <= 0 and not descriptors.has_room():
                self._stop_reading()
                self._awaits_descriptors = True
                descriptors.wait(self._end_wait)
                return
            try:
                # Private, but the method that socket.accept() itself is made of (CPython 3.10
                # to 3.14; a test checks that it is there). It returns the bare descriptor;
                # accept() makes a socket.socket of it, whose enums cost twice the rest.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._pause_for_shortage(error)
                    return
                # accept(2) passes on errors of the new connection, such as ECONNABORTED: that
                # client is gone, and the next one is to be tried.
                continue
            self._is_short = False
            descriptors.credit -= 1
            if fd >= descriptors.first_reserved:  # others have taken those that there was room for
                descriptors.credit = 0
            # The C type below socket.socket, without enums: see above.
            client = socket.SocketType(self._family, self._type, self._proto, fileno=fd)
            client.setblocking(False)
            try:
                self._accepted(client, address)
            except Exception:  # the reactor would close the listener because of it
                client.close()
                self._log.failure("a client could not be served")
        if self._sock is not None:
            _flooded[self] = time.monotonic()

    def _share(self) -> int:
        """How many clients it may accept while others are flooded."""
        now = time.monotonic()
        for each, when in tuple(_flooded.items()):
            if now - when < FLOODED_SECONDS:
                break
            del _flooded[each]
        return max(self._batch // (len(_flooded) + 1), 1)

    def accept_queued(self) -> None:
        """Accept those who are in the queue now, before :meth:`close`, which would reset them."""
        for _ in self.accept_in_steps():
            pass

    def accept_in_steps(self) -> Iterator[None]:
        """The same in steps, of a batch each: there may be thousands."""
        for _ in range(BACKLOG // self._batch):
            if not (self._is_reading and self._has_queued()):
                return
            self.doRead()
            yield

    def _has_queued(self) -> bool:
        poll = select.poll()
        poll.register(self._fileno, select.POLLIN)
        return bool(poll.poll(0))

    def _pause_for_shortage(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            self._log.warn("cannot accept clients for now: {reason}", reason=os_error_text(error))
        self._stop_reading()
        self._pause = self._reactor.callLater(SHORTAGE_PAUSE_SECONDS, self._end_pause)

    def _end_wait(self) -> None:
        self._awaits_descriptors = False
        self.resume()

    def _end_pause(self) -> None:
        self._pause = None
        self.resume()

    def close(self) -> None:
        """Stop listening; harmless the second time.

        The socket is closed and never shut down, which would stop every process that it was
        handed to. The file of a UNIX socket is removed if it is still the one made for it.
        """
        _flooded.pop(self, None)
        if self._sock is None:
            return
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._file_check is not None:
            self._file_check.cancel()
            self._file_check = None
        self._descriptors.leave(self._end_wait)
        self._stop_reading()
        sock, self._sock = self._sock, None
        if self._file is not None:
            self._file.remove()
        sock.close()

    # -- the file of a UNIX socket

    def _check_file_later(self) -> None:
        self._file_check = self._reactor.callLater(FILE_CHECK_SECONDS, self._check_file)

    def _check_file(self) -> None:
        """Make the socket's file anew if somebody has moved, removed or replaced it."""
        assert self._file is not None
        self._check_file_later()
        if self._file.is_in_place():
            if self._has_lost_file:  # moved back
                self._has_lost_file = False
                self._log.info("the socket {path} is in its place again", path=self._file.path)
            return
        if not self._has_lost_file:
            files.lost["socket"] += 1
            self._log.warn(
                "the socket {path} was moved, removed or replaced: clients do not find it",
                path=self._file.path,
            )
        # Those who have connected before would be reset. If the service is full, they wait first.
        self.accept_queued()
        if self._sock is None:  # one of them has stopped us
            return
        if self._has_queued():
            self._has_lost_file = True
            return
        try:
            sock = unixsocket.listen(self._file.path, self._file.mode, BACKLOG)
        except OSError as error:
            if not self._has_lost_file:
                self._log.error(
                    "the socket {path} cannot be made anew for now: {reason}",
                    path=self._file.path,
                    reason=os_error_text(error),
                )
            self._has_lost_file = True
            return
        self._has_lost_file = False
        self._replace(sock)
        self._log.info("the socket {path} is made anew", path=self._file.path)

    def _replace(self, sock: unixsocket.ListeningSocket) -> None:
        was_reading = self._is_reading
        if was_reading:
            self._stop_reading()
        if self._sock is not None:
            self._sock.close()
        self._sock, self._fileno, self._file = sock, sock.fileno(), sock.file
        if was_reading:
            self.resume()


def serve_factory(
    sock: socket.socket, reactor: ServeReactor, factory: IProtocolFactory, batch: int = BATCH
) -> Listener:
    """A listener whose clients are served by a Twisted factory; call its ``resume``.

    :param sock: as :func:`open_listener` returns it.
    :param reactor: clients are accepted and served in its thread.
    :param batch: as of :class:`Listener`; a client here costs more than an accept.
    """

    def accepted(client: socket.SocketType, address: Any) -> None:
        try:
            reactor.adoptStreamConnection(client.fileno(), client.family, factory)
        except OSError:
            pass  # the client has left already (ENOTCONN from getpeername)
        finally:
            client.close()  # Twisted has duplicated the descriptor

    return Listener(sock, reactor, accepted, batch=batch)


def wait_while_full(listener: Listener, is_full: Callable[[], bool], retry_seconds: float) -> None:
    """Leave a listener's clients in the kernel's queue while their server has no place for one.

    :param is_full: whether it has none; asked before each client, and again after
        ``retry_seconds``.
    """

    def must_wait() -> bool:
        if not is_full():
            return False
        listener.resume_later(retry_seconds)  # it is not asked again before that
        return True

    listener.must_wait = must_wait
