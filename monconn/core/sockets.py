"""What the system knows of a connection's socket and Twisted does not tell.

The buffers looked at are those of ``twisted.internet.abstract.FileDescriptor``, the base
of all of Twisted's TCP and UNIX transports.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
from functools import partial
from typing import Any
from weakref import ref

from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure

from monconn.core.record import SideEnd

KEEPALIVE_SECONDS = 30
KEEPALIVE_PROBES = 9

_SO_MEMINFO = 55
_TCP_INFO = 11
TCP_INFO_BYTES = 232
_MEMINFO = struct.Struct("8x4I")  # bytes in flight, the limit, set aside, and queued

_GONE_SILENTLY = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENONET if hasattr(errno, "ENONET") else errno.ENETDOWN,
    }
)


class NotingSocket(socket.socket):
    """A socket that remembers the error that ended it, and what was left in it.

    Twisted reports a reset and a peer that has vanished by one and the same
    ``ConnectionLost``; this is how they are told apart. And when a write fails, Twisted
    closes the socket with all that the peer had sent before.
    """

    __slots__ = ("_tcp_info", "error_number", "has_ended", "keeps_last_words", "last_words")

    error_number: int
    """The first error met; 0 for none."""
    has_ended: bool
    """Whether the end of what the peer sends was read."""
    keeps_last_words: bool
    """Whether to read what is left before closing."""
    last_words: bytes

    def recv(self, *args: Any) -> bytes:
        """Receive, and note an error."""
        try:
            data = super().recv(*args)
        except OSError as error:
            self._note(error)
            raise
        if not data:
            self.has_ended = True
        return data

    def recvmsg(self, *args: Any) -> Any:
        """Receive (Twisted's way on UNIX sockets), and note an error."""
        try:
            received = super().recvmsg(*args)
        except OSError as error:
            self._note(error)
            raise
        if not received[0]:
            self.has_ended = True
        return received

    def send(self, data: Any, *flags: int) -> int:
        """Send, and note an error."""
        if not data:
            # Twisted sends nothing before it ends its writing; a UNIX socket whose peer has
            # closed in order would call that a broken pipe.
            return 0
        try:
            return super().send(data, *flags)
        except OSError as error:
            self._note(error)
            raise

    def close(self) -> None:
        """Close; an error that nobody has met yet is noted first."""
        self._tcp_info = self.tcp_info()
        if not self.error_number and self.fileno() >= 0:
            self.error_number = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self.keeps_last_words:
            self.keeps_last_words = False
            self.last_words = b"".join(iter(self._read_on, b""))
        super().close()

    def tcp_info(self) -> bytes | None:
        """See :func:`tcp_info`; once it is closed, what was known then."""
        return self._tcp_info if self.fileno() < 0 else tcp_info(self)

    def _read_on(self) -> bytes:
        try:
            return super().recv(65536)
        except OSError:
            return b""

    def _note(self, error: OSError) -> None:
        if error.errno != errno.EAGAIN and not self.error_number:
            self.error_number = error.errno or 0


def descriptor_of(transport: Any) -> FileDescriptor | None:
    """The socket transport beneath a transport and its layers (TLS, wrappers), if any."""
    while transport is not None and not isinstance(transport, FileDescriptor):
        transport = getattr(transport, "transport", None)
    return transport


def note_errors(descriptor: Any) -> NotingSocket | None:
    """Put a :class:`NotingSocket` in the place of a transport's socket.

    From then on the transport takes no end for one that was not read.

    :param descriptor: what :func:`descriptor_of` gives.
    :returns: the socket; None if the transport has none.
    """
    plain = getattr(descriptor, "socket", None)
    if isinstance(plain, NotingSocket):
        return plain
    if not isinstance(plain, socket.socket):
        return None
    # Of the type beneath, which knows no enums.
    bare: Any = super(socket.socket, plain)
    noting = NotingSocket(bare.family, bare.type, bare.proto, fileno=plain.detach())
    noting.error_number = 0
    noting.has_ended = False
    noting.keeps_last_words = False
    noting.last_words = b""
    noting._tcp_info = None
    noting.setblocking(False)
    descriptor.socket = noting
    descriptor.fileno = noting.fileno
    descriptor.readConnectionLost = partial(_input_ended, ref(descriptor))  # and no cycle
    return noting


def _input_ended(transport: ref[Any], reason: Failure) -> None:
    """In the place of a transport's ``readConnectionLost``: pass on an end that was read.

    To Twisted's poll and epoll reactors (``_PollLikeMixin``) a hang-up without input, on a
    descriptor that they read from, is an end in order with nothing left. But they fetch the events
    of all descriptors at once: one that was paused then, and that an event served before this one
    has resumed, was not asked about its input. It may have been reset, with bytes to be read.
    """
    descriptor: Any = transport()
    if descriptor.socket.has_ended:
        type(descriptor).readConnectionLost(descriptor, reason)
    else:
        descriptor.startReading()  # which the reactor has stopped; the next events tell of input


def end_by_errno(error_number: int) -> SideEnd:
    """How a side ended whose socket failed: it vanished, or (any other error) reset us."""
    return "timeout" if error_number in _GONE_SILENTLY else "reset"


def waiting_bytes(descriptor: Any) -> int:
    """How many bytes a transport holds that it has not yet given to the system."""
    if descriptor is None:
        return 0
    return int(len(descriptor.dataBuffer) - descriptor.offset + descriptor._tempDataLen)


def unacknowledged_bytes(sock: socket.SocketType) -> int:
    """How many bytes the system holds that the peer has not yet taken (``SIOCOUTQ``)."""
    return _queued(sock, termios.TIOCOUTQ)


def tcp_info(sock: socket.SocketType) -> bytes | None:
    """What the system knows of a TCP connection, to be read by :mod:`monconn.core.tcpinfo`.

    :returns: Linux' ``struct tcp_info`` (``linux/tcp.h``); None where there is none.
    """
    if sock.family == socket.AF_UNIX:
        return None
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, TCP_INFO_BYTES)
    except OSError:
        return None


def room_to_send(sock: socket.SocketType) -> int:
    """How many bytes more the system takes to send, about; 0 where it does not tell.

    From Linux' ``SO_MEMINFO`` (``linux/sock_diag.h``).
    """
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        in_flight, limit, _, queued = _MEMINFO.unpack(answer)
    except (OSError, struct.error):
        return 0
    return int(max(0, limit - max(in_flight, queued)))


def unread_bytes(sock: socket.SocketType) -> int:
    """How many bytes of the peer's the system holds that we have not yet taken."""
    return _queued(sock, termios.FIONREAD)


def _queued(sock: socket.SocketType, which: int) -> int:
    try:
        answer = fcntl.ioctl(sock.fileno(), which, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


def has_failed(sock: socket.socket) -> bool:
    """Whether a connection has broken, which who does not read would not be told."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # errors are told without asking for them
    return any(events & select.POLLERR for _, events in poll.poll(0))


def keep_alive(sock: socket.SocketType) -> None:
    """Have the system ask a silent peer whether it is still there; TCP only."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):  # Linux has all three, other systems some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reset_on_close(sock: socket.SocketType) -> None:
    """Have ``close`` send a reset instead of an end; UNIX sockets have none, and just close."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def peer_pid(sock: socket.SocketType) -> int:
    """The process at the other end of a UNIX socket; 0 where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])
