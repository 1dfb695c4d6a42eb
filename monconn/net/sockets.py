"""What the kernel knows of a connection's socket and Twisted's transports do not report.

The transport buffers measured here are those of ``twisted.internet.abstract.FileDescriptor``, the
base of all of Twisted's TCP and UNIX transports.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol
from weakref import ref

from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure

from monconn.addresses import plain_ip
from monconn.model.reasons import SideEnd

_SO_MEMINFO = 55
_TCP_INFO = 11
TCP_INFO_BYTES = 232
_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid
# sk_meminfo (linux/sock_diag.h): skip RMEM_ALLOC and RCVBUF; then WMEM_ALLOC (in flight), SNDBUF
# (the limit), FWD_ALLOC (reserved), WMEM_QUEUED (queued).
_MEMINFO = struct.Struct("8x4I")

# A peer that vanished, as the kernel reports it: retransmissions or keepalive probes ran out
# (ETIMEDOUT), or the last retries were answered by routers (ICMP unreachable: EHOSTUNREACH,
# ENETUNREACH, EHOSTDOWN, ENONET) or went out of an interface that is down (ENETDOWN).
_PEER_LOST_ERRNOS = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENONET if hasattr(errno, "ENONET") else errno.ENETDOWN,
    }
)

RESET_ERRNOS = frozenset({errno.ECONNRESET, errno.EPIPE})
"""``SO_ERROR`` of a connection that was established and reset before anyone has looked; EPIPE if
the peer had ended its side before (``tcp_reset`` in Linux' ``net/ipv4/tcp_input.c``). One that was
never established has ECONNREFUSED."""
SHORTAGES = frozenset(
    {
        errno.EMFILE,  # descriptors of this process
        errno.ENFILE,  # descriptors of this machine
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,  # watches of an epoll (epoll_ctl(2))
        errno.EADDRNOTAVAIL,  # local ports, as TCP's connect reports it
        errno.EAGAIN,  # the same, as other protocols do
    }
)
"""Errors of making a connection that are due to this process or this machine, not to the peer."""


class ErrorTrackingSocket(socket.socket):
    """A socket that remembers the error that ended it, and the bytes left unread in it.

    Twisted reports a reset (``ECONNRESET``) and a vanished peer (``ETIMEDOUT``) by the same
    ``ConnectionLost``; the error number distinguishes them. And when a write fails, Twisted closes
    the socket at once, with everything unread that the peer sent before: it is read here first.
    """

    __slots__ = (
        "_tcp_info",
        "allowance",
        "error_number",
        "has_ended",
        "keep_unread",
        "unread_data",
    )

    error_number: int
    """The first error; 0 for none. It is ``EPIPE`` if the peer had ended in order before."""
    has_ended: bool
    """Whether the end of what the peer sends was read."""
    keep_unread: bool
    """Whether ``close`` reads what is left into :attr:`unread_data`."""
    unread_data: bytes
    """The bytes that were unread when the socket was closed."""
    allowance: Callable[[], int] | None
    """Called before each read: how many bytes it may return at most. With 0 the socket seems to
    have none, though it is still readable: so that is for somebody whose transport pauses now."""

    def recv(self, size: int, *args: Any) -> bytes:
        """Receive; an error is remembered."""
        if self.allowance is not None:
            size = self._bounded(size)
        try:
            data = super().recv(size, *args)
        except OSError as error:
            self._note(error)
            raise
        if not data:
            self._note_end()
        return data

    def recvmsg(self, size: int, *args: Any) -> Any:
        """Receive, as Twisted does on UNIX sockets; an error is remembered."""
        if self.allowance is not None:
            size = self._bounded(size)
        try:
            received = super().recvmsg(size, *args)
        except OSError as error:
            self._note(error)
            raise
        if not received[0]:
            self._note_end()
        return received

    def _bounded(self, size: int) -> int:
        assert self.allowance is not None
        allowed = self.allowance()
        if not allowed:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return min(size, allowed)

    def send(self, data: Any, *flags: int) -> int:
        """Send; an error is remembered."""
        if not data:
            # Twisted sends zero bytes before it shuts down its writing. On a UNIX socket whose peer
            # has closed in order that fails with EPIPE, as if the connection were broken.
            return 0
        try:
            return super().send(data, *flags)
        except OSError as error:
            self._note(error)
            raise

    def close(self) -> None:
        """Close; the kernel's pending error (``SO_ERROR``), if there is one, is fetched first."""
        self._tcp_info = self.tcp_info()
        if not self.error_number and self.fileno() >= 0:
            self.error_number = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self.keep_unread:
            self.keep_unread = False
            self.unread_data = b"".join(iter(self._read_on, b""))
        super().close()

    def tcp_info(self) -> bytes | None:
        """:func:`tcp_info` of the socket; after it was closed, as of then."""
        return self._tcp_info if self.fileno() < 0 else tcp_info(self)

    def _read_on(self) -> bytes:
        try:
            return super().recv(65536)
        except OSError:
            return b""

    def _note(self, error: OSError) -> None:
        if error.errno == errno.EAGAIN or self.error_number:
            return
        self.error_number = error.errno or 0
        if error.errno == errno.EPIPE and self.family == socket.AF_UNIX:
            # So fails a write to a UNIX socket that has closed. If that left bytes unread, which
            # makes it a reset, SO_ERROR is ECONNRESET. Over TCP a reset that comes after a FIN is
            # EPIPE, and any other ECONNRESET (tcp_reset of net/ipv4/tcp_input.c).
            self.error_number = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EPIPE

    def _note_end(self) -> None:
        if self.error_number not in (0, errno.EPIPE):
            # Its error taken by a write, a socket that has failed looks as if its peer had ended.
            raise OSError(self.error_number, os.strerror(self.error_number))
        self.has_ended = True


def descriptor_of(transport: Any) -> FileDescriptor | None:
    """The socket transport beneath a transport and its layers (TLS, wrappers), if any."""
    while transport is not None and not isinstance(transport, FileDescriptor):
        transport = getattr(transport, "transport", None)
    return transport


def track_errors(descriptor: Any) -> ErrorTrackingSocket | None:
    """Replace a transport's socket by an :class:`ErrorTrackingSocket`.

    From then on the transport takes no end for one that was not read.

    :param descriptor: what :func:`descriptor_of` gives.
    :returns: the socket; None if the transport has none.
    """
    plain = getattr(descriptor, "socket", None)
    if isinstance(plain, ErrorTrackingSocket):
        return plain
    if not isinstance(plain, socket.socket):
        return None
    # family, type and proto of the C base class: socket.socket's own properties make enums of them,
    # which takes longer than all the rest here.
    bare: Any = super(socket.socket, plain)
    noting = ErrorTrackingSocket(bare.family, bare.type, bare.proto, fileno=plain.detach())
    noting.error_number = 0
    noting.allowance = None
    noting.has_ended = False
    noting.keep_unread = False
    noting.unread_data = b""
    noting._tcp_info = None
    noting.setblocking(False)
    descriptor.socket = noting
    descriptor.fileno = noting.fileno
    descriptor.readConnectionLost = partial(_input_ended, ref(descriptor))  # and no cycle
    return noting


def _input_ended(transport: ref[Any], reason: Failure) -> None:
    """Replaces a transport's ``readConnectionLost``: pass on an end only if it was read.

    To Twisted's poll and epoll reactors (``_PollLikeMixin``) a hang-up without input, on a
    descriptor that they read from, is an end in order with nothing left. But they fetch the events
    of all descriptors at once: one that was paused then, and that an event served before this one
    has resumed, was not asked about its input. It may have been reset, with bytes to be read.
    """
    descriptor: Any = transport()
    if descriptor.socket.has_ended:
        type(descriptor).readConnectionLost(descriptor, reason)
    else:
        descriptor.startReading()  # the reactor has stopped it; the next poll reports input


def end_by_errno(error_number: int) -> SideEnd:
    """How a side ended, by its socket's error: it vanished, or (any other error) it reset us."""
    return "timeout" if error_number in _PEER_LOST_ERRNOS else "reset"


def buffered_bytes(descriptor: Any) -> int:
    """How many bytes a transport holds that it has not yet passed to the kernel.

    ``_tempDataLen`` is private to Twisted: bytes written in this turn wait in a list of their own
    until the transport is next writable, and no public attribute counts them. Without it such bytes
    would be overtaken by ours, and a reset would be sent before them.
    """
    if descriptor is None:
        return 0
    return int(len(descriptor.dataBuffer) - descriptor.offset + descriptor._tempDataLen)


def unacknowledged_bytes(sock: socket.SocketType) -> int:
    """How many sent bytes the peer's kernel has not yet acknowledged (``SIOCOUTQ``)."""
    return _queued(sock, termios.TIOCOUTQ)


def local_address(sock: socket.SocketType) -> str | None:
    """The address of our side of a socket as ``IP:PORT``, without a zone, as it is in its packets.

    :returns: None if there is none: of a UNIX socket, or of a listener on all addresses.
    """
    try:
        return _name_text(sock.getsockname())
    except OSError:
        return None


def peer_address(sock: socket.SocketType) -> str | None:
    """The same for its peer's side."""
    try:
        return _name_text(sock.getpeername())
    except OSError:  # ENOTCONN: it has reset the connection
        return None


def _name_text(name: Any) -> str | None:
    if not isinstance(name, tuple) or name[0] in ("0.0.0.0", "::"):
        return None
    ip = plain_ip(name[0].partition("%")[0])
    return f"[{ip}]:{name[1]}" if ":" in ip else f"{ip}:{name[1]}"


def tcp_info(sock: socket.SocketType) -> bytes | None:
    """The kernel's statistics of a TCP connection, undecoded (see :mod:`monconn.model.tcpinfo`).

    :returns: Linux' ``struct tcp_info`` (``linux/tcp.h``); None where there is none.
    """
    if sock.family == socket.AF_UNIX:
        return None
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, TCP_INFO_BYTES)
    except OSError:
        return None


def send_buffer_room(sock: socket.SocketType) -> int:
    """About how many more bytes the kernel's send buffer takes; 0 where that is not known.

    From Linux' ``SO_MEMINFO`` (``linux/sock_diag.h``): one system call, where ``SIOCOUTQ`` and
    ``SO_SNDBUF`` would be two and leave out the kernel's overhead per segment.
    """
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        in_flight, limit, _, queued = _MEMINFO.unpack(answer)
    except (OSError, struct.error):
        return 0
    return int(max(0, limit - max(in_flight, queued)))


def unread_bytes(sock: socket.SocketType) -> int:
    """How many received bytes the kernel holds that we have not yet read (``FIONREAD``)."""
    return _queued(sock, termios.FIONREAD)


def _queued(sock: socket.SocketType, which: int) -> int:
    try:
        answer = fcntl.ioctl(sock.fileno(), which, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


def has_failed(sock: socket.socket) -> bool:
    """Whether a connection has failed: a paused transport gets no event of it from its reactor."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # POLLERR is reported without being asked for (poll(2))
    return any(events & select.POLLERR for _, events in poll.poll(0))


class ProbeTimes(Protocol):
    """When the kernel probes a silent peer: a :class:`~monconn.policy.sides.Keepalive`."""

    @property
    def idle(self) -> int:
        """Whole seconds of silence before the first probe."""

    @property
    def interval(self) -> int:
        """Whole seconds between probes."""

    @property
    def count(self) -> int:
        """How many unanswered probes end the connection, with ``ETIMEDOUT``."""


def set_keepalive(sock: socket.SocketType, times: ProbeTimes | None) -> None:
    """Have the kernel probe a silent peer, or not; TCP only.

    :param times: when; None for not at all.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, times is not None)
    if times is None:
        return
    for name, value in (
        ("TCP_KEEPIDLE", times.idle),
        ("TCP_KEEPINTVL", times.interval),
        ("TCP_KEEPCNT", times.count),
    ):
        if hasattr(socket, name):  # Linux has all three, other kernels some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reset_on_close(sock: socket.SocketType) -> None:
    """Have ``close`` send a reset (``SO_LINGER`` of 0 s) instead of a FIN.

    UNIX sockets cannot send a reset: they just close.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class PeerCredentials(NamedTuple):
    """The process at the other end of a UNIX socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.SocketType) -> PeerCredentials | None:
    """The process at the other end of a UNIX socket, by ``SO_PEERCRED`` (unix(7)).

    :returns: None of other sockets, and where the kernel does not say.
    """
    if sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(credentials))


def peer_pid(sock: socket.SocketType) -> int:
    """The process at the other end of a UNIX socket; 0 where the kernel does not say."""
    peer = peer_credentials(sock)
    return 0 if peer is None else peer.pid


def zone_index(zone: str) -> int:
    """The index of an interface, given by name or by index (RFC 4007, 11.2).

    :raises OSError: there is no such interface.
    """
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        pass
    try:
        socket.if_indextoname(int(zone))
        return int(zone)
    except (OSError, ValueError, OverflowError):
        raise OSError(errno.ENODEV, f"there is no interface {zone}") from None


def zone_name(index: int) -> str:
    """The name of an interface; its index if it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
