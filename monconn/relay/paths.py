"""Two ways to move a connection's bytes; admission, relay and verdict are the same on both."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from monconn.addresses import Address, EndpointAddress
from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.net.resolver import Resolver
from monconn.relay.ends import End
from monconn.relay.relay import Relay
from monconn.relay.sockets.end import SocketEnd
from monconn.relay.sockets.loop import HAS_EPOLL, NestedSocketLoop, SocketLoop
from monconn.relay.sockets.pipes import PipePool
from monconn.relay.sockets.reader import HAS_SPLICE, Shared
from monconn.relay.transports.dial import OneProtocol, dialler, verifies_host
from monconn.relay.transports.end import TransportEnd

MakeEnd = Callable[[ConnectionRecord], End]


class DataPath(Protocol):
    """Relays clients that were admitted."""

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """Relay a client.

        :param sock: does not block; taken over.
        """


class SocketPath:
    """The client's side is a plain socket.

    :param shared: what the service's plain Ends have in common.
    :param deadlines: looks after the relays' time limits.
    :param make_backend: makes the backend's side.
    """

    _log = Logger()

    def __init__(self, shared: Shared, deadlines: Deadlines, make_backend: MakeEnd) -> None:
        self._shared = shared
        self._deadlines = deadlines
        self._make_backend = make_backend

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """See :class:`DataPath`."""
        client = SocketEnd("client", record, self._shared)
        backend = self._make_backend(record)
        if backend.send_queue.accepts_pipes:
            record.pipe = "copy"
        Relay(self._shared.monitor, record, client, backend, self._deadlines)
        try:
            client.begin(sock)
        except Exception:
            self._log.failure("a client could not be served")
            client.failed()


class TransportPath:
    """The client's side is a transport of Twisted's.

    :param monitor: the service's monitor.
    :param deadlines: looks after the relays' time limits.
    :param reactor: an ``IReactorSocket``.
    :param make_backend: makes the backend's side.
    :param keepalive: whether the system is to ask silent peers if they are still there.
    """

    def __init__(
        self,
        monitor: Monitor,
        deadlines: Deadlines,
        reactor: Any,
        make_backend: MakeEnd,
        *,
        keepalive: bool = True,
    ) -> None:
        self._monitor = monitor
        self._deadlines = deadlines
        self._reactor = reactor
        self._make_backend = make_backend
        self._keepalive = keepalive

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """See :class:`DataPath`."""
        client = self.client_end(record)
        try:
            self._reactor.adoptStreamConnection(sock.fileno(), sock.family, OneProtocol(client))
        except OSError as error:
            # Either it has reset the connection before we came to look, or there is a
            # shortage of descriptors.
            has_reset = error.errno == errno.ENOTCONN
            relay = client.reports
            relay.connected(client)
            relay.broken(client, "reset" if has_reset else "none", str(error))
        finally:
            sock.close()  # Twisted has made a descriptor of its own

    def client_end(self, record: ConnectionRecord) -> TransportEnd:
        """The client's side of a new relay, for a transport to be connected to."""
        client = TransportEnd("client", self._monitor.clock, keepalive=self._keepalive)
        backend = self._make_backend(record)
        Relay(self._monitor, record, client, backend, self._deadlines)
        return client


class DataPaths:
    """Makes the path of a program's services, which share their clock-work, epoll and pipes.

    :param reactor: the reactor to run on.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger()

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self._clock = clock
        self.deadlines = Deadlines(clock)
        self._loop: SocketLoop | None = None
        self._pipes = PipePool()
        self._told = False

    def between(
        self, monitor: Monitor, listen: Address, backend: Address, *, keepalive: bool = True
    ) -> SocketPath | TransportPath:
        """The best path for clients off a listening socket of ours."""
        if not HAS_EPOLL:
            self._notify("this system has no epoll: forwarding over Twisted's transports, slower")
            return self.from_endpoint(monitor, backend, keepalive=keepalive)
        shared = self._shared(monitor, keepalive)
        return SocketPath(shared, self.deadlines, self._make_backend(monitor, backend, keepalive))

    def from_endpoint(
        self, monitor: Monitor, backend: Address, *, keepalive: bool = True
    ) -> TransportPath:
        """The best path for clients that come as transports."""
        make_backend = self._make_backend(monitor, backend, keepalive)
        return TransportPath(
            monitor, self.deadlines, self._reactor, make_backend, keepalive=keepalive
        )

    def _make_backend(self, monitor: Monitor, backend: Address, keepalive: bool) -> MakeEnd:
        if HAS_EPOLL and not isinstance(backend, EndpointAddress):
            shared = self._shared(monitor, keepalive)
            targets = Resolver(backend, self._reactor, self._clock)
            return lambda record: SocketEnd("backend", record, shared, targets)
        dial = dialler(backend, self._reactor)
        verifies = verifies_host(backend)
        return lambda _: TransportEnd(
            "backend", monitor.clock, dial=dial, keepalive=keepalive, verifies_host=verifies
        )

    def _shared(self, monitor: Monitor, keepalive: bool) -> Shared:
        if self._loop is None:
            self._loop = getattr(self._reactor, "socket_loop", None)  # a MonconnReactor's
        if self._loop is None:
            self._loop = NestedSocketLoop(self._reactor, self._clock)
        if not HAS_SPLICE:
            self._notify("this system cannot splice: copying all bytes")
        return Shared(monitor, self._loop, self._pipes, keepalive)

    def _notify(self, what: str) -> None:
        if not self._told:
            self._told = True
            self._log.warn("{what}", what=what)

    def close(self) -> None:
        """Give back what the path share, once no connection is left."""
        if isinstance(self._loop, NestedSocketLoop):  # the reactor's own may have others' sockets
            self._loop.close()
        self._loop = None
        self._pipes.close()
