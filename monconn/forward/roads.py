"""Two ways to move a connection's bytes; admission, relay and verdict are the same on both."""

from __future__ import annotations

import errno
import socket
from typing import Any, Protocol

from twisted.logger import Logger

from monconn.addresses import Address, EndpointAddress
from monconn.core.monitor import Monitor
from monconn.core.record import ConnectionRecord
from monconn.core.timeouts import Deadlines
from monconn.forward.dial import Dial, OneProtocol, dialler
from monconn.forward.loop import CAN_LOOP, Loop, NestedLoop
from monconn.forward.pipes import PipePool
from monconn.forward.plain import PlainEnd, Shared
from monconn.forward.relay import Relay
from monconn.forward.stream import StreamEnd
from monconn.forward.targets import Targets


class Road(Protocol):
    """Relays clients that were admitted."""

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """Relay a client.

        :param sock: does not block; taken over.
        """


class PlainRoad:
    """Both sides are plain sockets, in one epoll of our own.

    :param shared: what its Ends have in common.
    :param deadlines: looks after the relays' time limits.
    """

    def __init__(self, shared: Shared, deadlines: Deadlines) -> None:
        self._shared = shared
        self._deadlines = deadlines

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """See :class:`Road`."""
        record.pipe = "copy"
        client = PlainEnd("client", record, self._shared)
        backend = PlainEnd("backend", record, self._shared)
        client.peer, backend.peer = backend, client
        Relay(self._shared.monitor, record, client, backend, self._deadlines)
        client.begin(sock)


class StreamRoad:
    """Both sides are Twisted's transports.

    :param monitor: the service's monitor.
    :param deadlines: looks after the relays' time limits.
    :param reactor: an ``IReactorSocket``.
    :param dial: begins to connect a protocol to the backend.
    :param keepalive: whether the system is to ask silent peers if they are still there.
    """

    def __init__(
        self,
        monitor: Monitor,
        deadlines: Deadlines,
        reactor: Any,
        dial: Dial,
        *,
        keepalive: bool = True,
    ) -> None:
        self._monitor = monitor
        self._deadlines = deadlines
        self._reactor = reactor
        self._dial = dial
        self._keepalive = keepalive

    def begin(self, record: ConnectionRecord, sock: socket.SocketType) -> None:
        """See :class:`Road`."""
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

    def client_end(self, record: ConnectionRecord) -> StreamEnd:
        """The client's side of a new relay, for a transport to be connected to."""
        clock, keepalive = self._monitor.clock, self._keepalive
        client = StreamEnd("client", clock, keepalive=keepalive)
        backend = StreamEnd("backend", clock, dial=self._dial, keepalive=keepalive)
        Relay(self._monitor, record, client, backend, self._deadlines)
        return client


class Roads:
    """Makes the roads of a program's services, which share their clock-work, epoll and pipes.

    :param reactor: the reactor to run on.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger(namespace="monconn.forward")

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self._clock = clock
        self.deadlines = Deadlines(clock)
        self._loop: Loop | None = None
        self._pipes = PipePool()
        self._told = False

    def between(
        self, monitor: Monitor, listen: Address, backend: Address, *, keepalive: bool = True
    ) -> PlainRoad | StreamRoad:
        """The best road from a listener to a backend."""
        if isinstance(listen, EndpointAddress) or isinstance(backend, EndpointAddress):
            return self.stream(monitor, backend, keepalive=keepalive)
        if not CAN_LOOP:
            self._tell_slower()
            return self.stream(monitor, backend, keepalive=keepalive)
        if self._loop is None:
            self._loop = getattr(self._reactor, "plain_loop", None)  # a PlainReactor's
        if self._loop is None:
            self._loop = NestedLoop(self._reactor, self._clock)
        targets = Targets(backend, self._reactor, self._clock)
        shared = Shared(monitor, self._loop, self._pipes, targets, keepalive)
        return PlainRoad(shared, self.deadlines)

    def stream(self, monitor: Monitor, backend: Address, *, keepalive: bool = True) -> StreamRoad:
        """The road that every listener and every backend can take."""
        dial = dialler(backend, self._reactor)
        return StreamRoad(monitor, self.deadlines, self._reactor, dial, keepalive=keepalive)

    def _tell_slower(self) -> None:
        if not self._told:
            self._told = True
            self._log.warn("this system has no epoll: forwarding over Twisted's transports, slower")

    def close(self) -> None:
        """Give back what the roads share, once no connection is left."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._pipes.close()
