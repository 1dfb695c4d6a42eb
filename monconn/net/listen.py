"""Our own listening sockets: one that waits costs nobody anything, and can be handed over."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from monconn.addresses import TcpAddress, UnixAddress
from monconn.errors import ListenError, os_error_text
from monconn.net.sockets import enable_keepalive

BACKLOG = 4096
BATCH = 64
"""Clients taken at one go; then others have their turn."""
PAUSES_SECONDS = (0.5, 1.0)
"""Between the tries to bind."""
SHORTAGE_PAUSE_SECONDS = 0.25
"""How long to leave clients in the queue once descriptors or memory have run out."""

SocketAddress = TcpAddress | UnixAddress
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def open_listener(
    address: SocketAddress,
    *,
    keepalive: bool = True,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
) -> socket.socket:
    """Bind and listen, trying again after each pause.

    :param keepalive: whether the system is to ask silent clients if they are still there.
    :returns: a socket that listens and does not block.
    :raises ListenError: it could not be had after the last try.
    """
    for pause in (*pauses_seconds, None):
        try:
            return _with_options(_bind(address), keepalive)
        except OSError as error:
            if pause is None or error.errno in (errno.EACCES, errno.EPERM):
                raise ListenError(f"cannot listen on {address}: {os_error_text(error)}") from error
            sleep(pause)
    raise AssertionError("unreachable")


def _with_options(sock: socket.socket, keepalive: bool) -> socket.socket:
    # Clients' sockets get these from their listener, without a call for each of them.
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keepalive:
            enable_keepalive(sock)
    return sock


def _bind(address: SocketAddress) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _listening(socket.AF_UNIX, address.path, mode=address.mode)
    if address.host == "":
        return _bind_everywhere(address.port)
    family, _, _, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _listening(family, where)


def _bind_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return _listening(socket.AF_INET6, ("::", port), dual_stack=True)
    return _listening(socket.AF_INET, ("0.0.0.0", port))


def _listening(
    family: int, where: Any, *, dual_stack: bool = False, mode: int | None = None
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            _remove_stale(where)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind(where)
        if mode is not None:
            os.chmod(where, mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a UNIX socket that nobody listens on any more; nothing else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


@implementer(IReadDescriptor)
class Listener:
    """ByteSink clients off a listening socket, in batches.

    :param sock: as :func:`open_listener` gives it; closed by :meth:`close`.
    :param reactor: an ``IReactorFDSet`` that also has ``callLater``.
    :param accepted: called with each client's socket (non-blocking) and its address.
    :param must_wait: asked before each client; while it says yes, clients are left in the
        queue until :meth:`resume`.
    """

    _log = Logger()

    def __init__(
        self,
        sock: socket.socket,
        reactor: Any,
        accepted: Callable[[socket.SocketType, Any], object],
        must_wait: Callable[[], bool],
    ) -> None:
        self._sock: socket.socket | None = sock
        self._fileno = sock.fileno()
        self._path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        self._reactor = reactor
        self._accepted = accepted
        self._must_wait = must_wait
        self._family, self._type, self._proto = int(sock.family), int(sock.type), sock.proto
        self._reads = False
        self._pause: Any = None
        self._short = False

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._fileno

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "monconn.accept"

    def connectionLost(self, reason: Any) -> None:
        """See ``IFileDescriptor``: the reactor lets go of it."""
        self.close()

    def resume(self) -> None:
        """Take clients, or go on taking them; harmless at any time."""
        if not self._reads and self._sock is not None and self._pause is None:
            self._reads = True
            self._reactor.addReader(self)

    def _rest(self) -> None:
        self._reads = False
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        """See ``IReadDescriptor``: at least one client waits."""
        for _ in range(BATCH):
            if self._sock is None:
                return
            if self._must_wait():
                self._rest()
                return
            try:
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._wait_for_better_times(error)
                    return
                continue  # this client has left again (ECONNABORTED and its like)
            self._short = False
            # The type beneath socket.socket: it knows no enums, and costs half as much to make.
            client = socket.SocketType(self._family, self._type, self._proto, fileno=fd)
            client.setblocking(False)
            try:
                self._accepted(client, address)
            except Exception:  # which the reactor would answer by closing the listener
                client.close()
                self._log.failure("a client could not be served")

    def _wait_for_better_times(self, error: OSError) -> None:
        if not self._short:
            self._short = True
            self._log.warn("cannot accept clients for now: {reason}", reason=os_error_text(error))
        self._rest()
        self._pause = self._reactor.callLater(SHORTAGE_PAUSE_SECONDS, self._pause_over)

    def _pause_over(self) -> None:
        self._pause = None
        self.resume()

    def close(self) -> None:
        """Listen no more; harmless the second time.

        The socket is closed and never shut down, which would end it for every process
        that it was handed to.
        """
        if self._sock is None:
            return
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._rest()
        sock, self._sock = self._sock, None
        if self._path:
            _unlink_quietly(self._path)  # first: once it is closed, the path may be another's
        sock.close()


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
