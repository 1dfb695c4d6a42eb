"""A forwarder on the running reactor, between a client's and a backend's plain sockets.

A world is used from a thread (``deferToThread``), so that scenarios are blocking socket code.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from OpenSSL import SSL
from twisted.internet.threads import blockingCallFromThread

from monconn.addresses import EndpointAddress, TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.net.listen import Listener, open_listener
from monconn.net.tls import ServerTls
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.policy.tls import BackendTls, ListenTls
from monconn.relay import paths
from monconn.relay.forwarder import Forwarder
from monconn.relay.paths import ChooseBackend, DataPaths
from monconn.relay.preface import Preface, PrefaceRoom
from monconn.relay.sockets import end
from monconn.relay.sockets.loop import NestedSocketLoop

from .tls_socket import RECORD_BYTES, TlsSocket, certificate, context

TLS_PIPES = {
    "tls_to_plain": ("1.3", ""),
    "plain_to_tls": ("", "1.3"),
    "tls_to_tls": ("1.3", "1.3"),
    "tls12_to_tls12": ("1.2", "1.2"),
}
"""The versions of TLS that clients and backends speak, by pipe."""
PIPES = (
    "stream",
    "copy",
    "splice",
    "nested",
    "stream_to_plain",
    "plain_to_stream",
    *TLS_PIPES,
)
"""How the bytes are to be moved; ``nested`` is ``splice`` as under a reactor other than ours, and
the others have Ends of both kinds, the client's first."""
MOVES = {
    "stream": ("stream",),
    "stream_to_plain": ("stream",),
    "plain_to_stream": ("stream",),
    "copy": ("copy",),
    "splice": ("copy", "splice"),
    "nested": ("copy", "splice"),
    **dict.fromkeys(TLS_PIPES, ("tls",)),
}
"""Values of a record's ``pipe``, by data path: small chunks are never spliced."""
FAMILIES = {
    "ipv4": ("127.0.0.1", "127.0.0.1"),
    "ipv6": ("::1", "::1"),
    "unix": ("unix", "unix"),
    "ipv4_to_unix": ("127.0.0.1", "unix"),
}
"""Where the service listens, and where its backend does."""
PATIENCE_SECONDS = 20.0
"""The time limit of any single step on a busy machine."""
HELD_BYTES = {
    "stream": 256 * 1024,
    "stream_to_plain": 512 * 1024,
    "plain_to_stream": 512 * 1024,
    "copy": 128 * 1024,
    "splice": 2 * 1024 * 1024,
    "nested": 2 * 1024 * 1024,
    **dict.fromkeys(TLS_PIPES, 256 * 1024),
}
"""The most that we may hold of one direction, by pipe; the kernel's buffers come on top."""

Address = TcpAddress | UnixAddress | EndpointAddress
T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Wait until a condition is true; return its value."""
    give_up = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < give_up, "the condition never came true"
        time.sleep(0.002)
    return result


def until_settled(figure: Callable[[], int], seconds: float = 0.15) -> int:
    """Wait until a figure has not changed for a while; return it."""
    seen, since = figure(), time.monotonic()
    give_up = since + PATIENCE_SECONDS
    while time.monotonic() < since + seconds:
        time.sleep(0.01)
        now = figure()
        if now != seen:
            seen, since = now, time.monotonic()
        assert since < give_up, "it never settles"
    return seen


class World:
    """One monconn service and its backend; a context manager that closes everything.

    :param folder: for UNIX sockets.
    :param family: one of :data:`FAMILIES`.
    :param pipe: one of :data:`PIPES`.
    :param front: where to listen, if not as the family says.
    :param backlog: how many clients the backend's queue takes.
    :param grace_seconds: put in the place of the relay's ``GRACE_SECONDS``.
    :param preface: reads the clients' first bytes.
    :param choose: chooses the backend of each connection.
    :param tls: how we speak TLS with clients, if we do.
    """

    def __init__(
        self,
        folder: Path,
        family: str = "ipv4",
        pipe: str = "stream",
        *,
        timeouts: Timeouts | None = None,
        rules: Rules | None = None,
        front: TcpAddress | UnixAddress | None = None,
        backlog: int = 512,
        grace_seconds: float | None = None,
        preface: Preface | None = None,
        choose: ChooseBackend | None = None,
        tls: ListenTls | None = None,
    ) -> None:
        front_host, back_host = FAMILIES[family]
        self.pipe = pipe
        self.reads_early = pipe.startswith("stream")
        """Whether the client is read from before the backend is connected."""
        self.client_tls, self.backend_tls = TLS_PIPES.get(pipe, ("", ""))
        """The versions of TLS that they speak; empty for none."""
        self.record_bytes = RECORD_BYTES if self.client_tls or self.backend_tls else 0
        """How many bytes may be of no use without those that follow them."""
        self._tls = tls or listen_tls()
        self._backlog = backlog
        self._grace_seconds = grace_seconds
        self._preface = preface
        self._choose = choose
        self._front: TcpAddress | UnixAddress = front or _address(front_host, folder / "front")
        self.backend_address: Address = _address(back_host, folder / "back")
        self._clock = MonotonicClock()
        self.monitor = Monitor("test", rules, timeouts, clock=self._clock)
        self._sockets: list[socket.socket] = []
        self._patches: list[Any] = []
        self._helpers = ThreadPoolExecutor(8)

    # -- up and down

    def __enter__(self) -> World:
        self._backend_listener = self._listen_as_backend()
        if self.pipe == "stream":
            self._patches.append(patch.object(paths, "HAS_EPOLL", False))
            self._patches[-1].start()
        if self.pipe == "copy":
            self._patches.append(patch.object(end, "HAS_SPLICE", False))
            self._patches[-1].start()
        for module in _modules_with("GRACE_SECONDS") if self._grace_seconds else ():
            self._patches.append(patch.object(module, "GRACE_SECONDS", self._grace_seconds))
            self._patches[-1].start()
        self.on_reactor(self._open)
        return self

    def _listen_as_backend(self) -> socket.socket:
        address = self.backend_address
        if isinstance(address, UnixAddress):
            listener = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(address.path)
        else:
            assert isinstance(address, TcpAddress)
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = self._keep(socket.socket(family, socket.SOCK_STREAM))
            listener.bind((address.host, 0))
            self.backend_address = TcpAddress(address.host, listener.getsockname()[1])
        listener.listen(self._backlog)
        listener.settimeout(PATIENCE_SECONDS)
        return listener

    def _open(self) -> None:
        from twisted.internet import reactor

        sock = open_listener(self._front)
        self.where = sock.getsockname()
        self._family = sock.family
        self.paths = DataPaths(reactor, self._clock)
        if self.pipe == "nested":
            self.paths._loop = NestedSocketLoop(reactor, self._clock)
        self.deadlines = self.paths.deadlines
        self.forwarder = _forwarder(
            self.pipe,
            self.monitor,
            self.paths,
            self._front,
            self._choose or self.backend_address,
            self._preface,
            ServerTls(self._tls) if self.client_tls else None,
            BackendTls(str(certificate().certificate)) if self.backend_tls else None,
        )
        self._listener = Listener(sock, reactor, self.forwarder.accepted, self.forwarder.must_wait)
        self.monitor.room.subscribe(self._listener.resume)
        self._listener.resume()

    def __exit__(self, *_: object) -> None:
        self.on_reactor(self._listener.close)
        self.on_reactor(self.monitor.stop_now)
        for sock in self._sockets:
            sock.close()
        self._helpers.shutdown()
        try:
            until(lambda: not len(self.monitor))
        finally:
            self.on_reactor(self.paths.close)
            for each in self._patches:
                each.stop()

    def on_reactor(self, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Call something in the reactor's thread; return its result."""
        from twisted.internet import reactor

        running: Any = reactor  # of whose interfaces its type names none
        return blockingCallFromThread(running, call, *args, **kwargs)

    def meanwhile(self, call: Callable[..., T], *args: object) -> Future[T]:
        """Call something in another thread."""
        return self._helpers.submit(call, *args)

    # -- sockets, which all have a timeout and are closed in the end

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._sockets.append(sock)
        return sock

    def client(self, source: str | None = None) -> socket.socket:
        """A client that is connected to monconn, after its handshake.

        :param source: the IP that it comes from; of any family, if we listen on all.
        """
        sock = self.raw_client(source)
        if not self.client_tls:
            return sock
        tls = SSL.Connection(context(self.client_tls), None)
        tls.set_connect_state()
        return self._keep(TlsSocket(sock, tls))

    def raw_client(self, source: str | None = None) -> socket.socket:
        """A client before any handshake."""
        if source is None:
            return self._connected(self._family, self.where)
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        host = "::1" if ":" in source else "127.0.0.1"
        return self._connected(family, (host, self.where[1]), (source, 0))

    def _connected(self, family: int, where: Any, source: Any = None) -> socket.socket:
        sock = self._keep(socket.socket(family, socket.SOCK_STREAM))
        sock.settimeout(PATIENCE_SECONDS)
        if source is not None:
            sock.bind(source)
        sock.connect(where)
        return sock

    def backend(self) -> socket.socket:
        """The backend's side of the next connection that we have made to it."""
        sock = self.raw_backend()
        if not self.backend_tls:
            return sock
        tls = SSL.Connection(context(self.backend_tls), None)
        tls.set_accept_state()
        return self._keep(TlsSocket(sock, tls))

    def raw_backend(self) -> socket.socket:
        """The same before any handshake."""
        sock, _ = self._backend_listener.accept()
        sock.settimeout(PATIENCE_SECONDS)
        return self._keep(sock)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A client and its backend."""
        client = self.client()
        return client, self.backend()

    def refuse_at_backend(self) -> None:
        """Have the backend accept no more connections."""
        self._backend_listener.close()

    def unlink_backend(self) -> None:
        """Remove the backend's UNIX socket."""
        assert isinstance(self.backend_address, UnixAddress)
        os.unlink(self.backend_address.path)

    def fill_backend(self) -> None:
        """Fill the backend's queue (of a backlog of 0), so that the next one must wait."""
        self._connected(self._backend_listener.family, self._backend_listener.getsockname())

    def empty_backend(self) -> None:
        """Accept the connections that :meth:`fill_backend` has queued."""
        self.raw_backend().close()

    # -- monconn's side

    def room(self) -> PrefaceRoom:
        """The room in which clients wait until their preface is complete."""
        assert self.forwarder._room is not None
        return self.forwarder._room

    def live(self) -> ConnectionRecord:
        """The record of the only live connection, once it is there."""
        (record,) = until(self.monitor.connections)
        return record

    def closed(self, count: int = 1) -> list[ConnectionRecord]:
        """The records of all connections, once they are closed and nothing of them is left."""
        until(lambda: len(self.monitor.closed_records) >= count and not len(self.monitor))
        records = list(self.monitor.closed_records)
        assert len(records) == count
        assert self.monitor.connections_by_ip() == {}
        assert len(self.deadlines) == 0
        assert self.monitor.bytes() == (
            sum(record.up for record in records),
            sum(record.down for record in records),
        )
        for record in records:
            assert record.state == "closed"
            assert record.pipe in MOVES[self.pipe]
        return records

    def expect(
        self, reason: str, code: str, client_end: str, backend_end: str, *, up: Any, down: Any
    ) -> ConnectionRecord:
        """Check how the only connection ended, and that nothing of it is left."""
        (record,) = self.closed()
        seen = (record.reason, record.code, record.client_end, record.backend_end)
        assert seen == (reason, code, client_end, backend_end)
        assert (record.up, record.down) == (up, down)
        return record

    def held_for(self, receiver: socket.socket, taken: int) -> int:
        """Bytes that we hold: taken from their sender and not yet given to the kernel."""
        return taken - unread(receiver) - sum(map(unsent, _twins(receiver)))


def listen_tls(handshake_timeout: float = 10.0) -> ListenTls:
    """TLS with clients, with the certificate of the tests."""
    files = str(certificate().certificate), str(certificate().key)
    return ListenTls(*files, handshake_timeout=handshake_timeout)


def _address(host: str, path: Path) -> TcpAddress | UnixAddress:
    return UnixAddress(str(path)) if host == "unix" else TcpAddress(host, 0)


def _forwarder(
    pipe: str,
    monitor: Monitor,
    paths: DataPaths,
    front: Address,
    back: Address | ChooseBackend,
    preface: Preface | None,
    tls: ServerTls | None,
    backend_tls: BackendTls | None,
) -> Forwarder:
    if pipe == "stream_to_plain":
        return Forwarder(monitor, paths.from_endpoint(monitor, back), preface)
    if pipe == "plain_to_stream":
        assert isinstance(back, TcpAddress)
        back = EndpointAddress(f"tcp:{back.host}:{back.port}")
    if backend_tls is not None:
        back = EndpointAddress(f"tls:{back}")
    path = paths.between(monitor, front, back, tls=tls, backend_tls=backend_tls)
    return Forwarder(monitor, path, preface)


def _modules_with(name: str) -> Iterable[Any]:
    modules = [module for key, module in sys.modules.items() if key.startswith("monconn.")]
    return [module for module in modules if hasattr(module, name)]


# -- sockets


def is_tcp(sock: socket.socket) -> bool:
    """Whether a socket is not a UNIX one."""
    return sock.family != socket.AF_UNIX


def exactly(sock: socket.socket, count: int) -> bytes:
    """Receive so many bytes."""
    received = bytearray()
    while len(received) < count:
        chunk = sock.recv(min(1 << 20, count - len(received)))
        assert chunk, f"the end came after {len(received)} of {count} bytes"
        received += chunk
    return bytes(received)


def to_the_end(sock: socket.socket, chunk: int = 1 << 20, pause: float = 0) -> tuple[bytes, str]:
    """Receive until the end, perhaps slowly; the bytes, and ``fin`` or ``reset``."""
    received = bytearray()
    while True:
        try:
            data = sock.recv(chunk)
        except (ConnectionResetError, BrokenPipeError):
            return bytes(received), "reset"
        if not data:
            return bytes(received), "fin"
        received += data
        time.sleep(pause)


def send_all_it_takes(sock: socket.socket, data: bytes) -> int:
    """Send until no more is taken or an error comes; how much was taken."""
    sent = 0
    try:
        while sent < len(data):
            sent += sock.send(data[sent : sent + (1 << 18)])
    except OSError:
        pass
    return sent


def reset(sock: socket.socket) -> None:
    """Reset a connection; on a UNIX socket it is the unread bytes that make it a reset."""
    assert is_tcp(sock) or unread(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(sock)  # and not as TLS does it in order


def ends_by_reset(sock: socket.socket) -> tuple[str, ...]:
    """How a reset that is passed on may arrive at a side: UNIX sockets have no reset."""
    return ("reset",) if is_tcp(sock) else ("fin", "reset")


def is_dead(sock: socket.socket) -> bool:
    """Whether a connection is over both ways."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def unread(sock: socket.socket) -> int:
    """Bytes that have arrived and were not received."""
    return _ioctl(sock, termios.FIONREAD)


def arrived(sock: socket.socket) -> int:
    """The same of what the peer's application has sent; over TLS the kernel has them no more."""
    return sock.arrived() if isinstance(sock, TlsSocket) else unread(sock)


def unsent(sock: socket.socket) -> int:
    """Bytes that were sent and have not arrived."""
    return _ioctl(sock, termios.TIOCOUTQ)


def _ioctl(sock: socket.socket, request: int) -> int:
    answer = fcntl.ioctl(sock.fileno(), request, bytes(4))
    return int(struct.unpack("i", answer)[0])


def _twins(sock: socket.socket) -> Iterator[socket.socket]:
    """The other end of a TCP connection, in this same process."""
    if not is_tcp(sock):
        return  # a UNIX socket's bytes are all in the receiver's queue
    for other in _open_sockets():
        with other:
            if other.family == sock.family and _ends(other) == _ends(sock)[::-1]:
                yield other


def _open_sockets() -> Iterator[socket.socket]:
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                yield socket.socket(fileno=os.dup(int(name)))
        except OSError:
            pass  # it was closed in the meantime


def _ends(sock: socket.socket) -> tuple[Any, Any]:
    try:
        return sock.getsockname(), sock.getpeername()
    except OSError:
        return None, None
