"""The two data paths: sockets, and Twisted's transports. They meet in the relay.

Admission, relay and verdict are the same on both, and each side of a connection may be on either.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocol

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    socket_address,
)
from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.net.descriptors import Descriptors, limit_of, pipes_of
from monconn.net.listen import AdoptReactor
from monconn.net.loops import Loops, target_of
from monconn.net.resolver import Lookups, Resolver, SocketAddress, address_later
from monconn.net.sockets import SHORTAGES
from monconn.net.tls import ClientTls, ServerTls
from monconn.policy.tls import BackendTls
from monconn.policy.tls_endpoints import tls_backend
from monconn.relay.delivery import DeliveryWatch
from monconn.relay.ends import End
from monconn.relay.preface import Preface, PrefaceRoom, WaitingProtocol, WaitingSocket
from monconn.relay.relay import Relay
from monconn.relay.sockets.connect import Connector
from monconn.relay.sockets.end import HAS_SPLICE, Shared, SocketEnd
from monconn.relay.sockets.handshake import Handshake, HandshakeRoom
from monconn.relay.sockets.loop import HAS_EPOLL, NestedSocketLoop, SocketLoop, TurnShare
from monconn.relay.sockets.pipes import PipePool
from monconn.relay.sockets.tls import TlsEnd
from monconn.relay.transports.dial import NoBackend, OneProtocol, backend_tls, dialler
from monconn.relay.transports.end import TransportEnd, TransportShared
from monconn.relay.transports.names import EndpointReactor

ChooseBackend = Callable[[ConnectionRecord], Address]
"""Chooses where a client is forwarded to; called for each dial."""
MakeBackend = Callable[[ConnectionRecord, "Address | None"], End]
"""Makes the backend's End of a connection. An address takes the place of the configured one."""

_MOST_BACKENDS = 1000
# Global: a loop may lead through services of several programs' parts in one process.
_loops = Loops()


class DataPath(Protocol):
    """Relays clients that were admitted."""

    def begin(
        self, record: ConnectionRecord, sock: socket.SocketType, backend: Address | None = None
    ) -> None:
        """Relay a client.

        :param sock: does not block; taken over.
        :param backend: where to, if not where the service forwards to.
        """

    def wait(self, room: PrefaceRoom, peer: tuple[str, str], sock: socket.SocketType) -> None:
        """Read a client's preface, and relay it if it is admitted then.

        :param peer: the client's address, for display, and its IP.
        :param sock: does not block; taken over.
        """

    def preface_room(self, preface: Preface) -> PrefaceRoom:
        """A room in which the service's clients wait until their preface is complete."""

    def must_wait(self) -> bool:
        """Whether the next client is to be left in the accept queue."""


class SocketPath:
    """Takes clients on sockets, and serves them by its own epoll.

    Those that speak TLS have been admitted before their handshake, so that one that is blocked
    costs none. They are asked about again after it, and only then are given a slot and a connection
    to the backend.

    :param shared: what the service's socket Ends have in common.
    :param make_backend: makes the backend's End.
    :param prefaces: where the rooms of clients with a preface are known.
    :param handshakes: where clients are amid their handshake, if they speak TLS.
    """

    _log = Logger()

    def __init__(
        self,
        shared: Shared,
        make_backend: MakeBackend,
        prefaces: WeakSet[PrefaceRoom],
        handshakes: HandshakeRoom | None = None,
    ) -> None:
        self._shared = shared
        self._make_backend = make_backend
        self._prefaces = prefaces
        self._handshakes = handshakes
        self.must_wait = (shared.monitor.room if handshakes is None else handshakes).must_wait

    def begin(
        self,
        record: ConnectionRecord,
        sock: socket.SocketType,
        backend: Address | None = None,
        handshake: Handshake | None = None,
    ) -> None:
        """Implements ``DataPath.begin``.

        :param handshake: the client's, which is complete; None if it is still to come, or the
            client speaks no TLS.
        """
        if self._handshakes is not None and handshake is None:
            self._handshakes.enter(record, sock, backend, self.begin)
            return
        backend_end = self._make_backend(record, backend)
        if handshake is not None:
            record.pipe = "tls"
            client: SocketEnd = TlsEnd("client", record, self._shared, handshake=handshake)
        else:
            client = SocketEnd("client", record, self._shared)
            if record.pipe == "stream" and isinstance(backend_end, SocketEnd):
                record.pipe = "copy"
        Relay(self._shared.monitor, record, client, backend_end, self._shared.deadlines)
        loops = self._shared.loops
        if loops.dials or loops.unknown_dials:
            loops.accepted(record, sock)
        try:
            client.begin(sock)
        except Exception:
            self._log.failure("a client could not be served")
            client.failed()

    def wait(self, room: PrefaceRoom, peer: tuple[str, str], sock: socket.SocketType) -> None:
        """Implements ``DataPath.wait``."""
        WaitingSocket(room, peer, sock, self._shared.loop, self.begin)

    def preface_room(self, preface: Preface) -> PrefaceRoom:
        """Implements ``DataPath.preface_room``."""
        room = PrefaceRoom(self._shared.monitor, preface, self._shared.deadlines)
        self._prefaces.add(room)
        return room


class TransportPath:
    """Takes clients on Twisted's transports, or makes transports of sockets.

    :param monitor: the service's monitor.
    :param shared: what the service's transport Ends have in common.
    :param reactor: makes transports of sockets.
    :param make_backend: makes the backend's End.
    :param prefaces: where the rooms of clients with a preface are known.
    """

    def __init__(
        self,
        monitor: Monitor,
        shared: TransportShared,
        reactor: AdoptReactor,
        make_backend: MakeBackend,
        prefaces: WeakSet[PrefaceRoom],
    ) -> None:
        self._prefaces = prefaces
        self._monitor = monitor
        self._shared = shared
        self._reactor = reactor
        self._make_backend = make_backend
        self.must_wait = monitor.room.must_wait

    def begin(
        self, record: ConnectionRecord, sock: socket.SocketType, backend: Address | None = None
    ) -> None:
        """Implements ``DataPath.begin``."""
        client = self.client_end(record, backend)
        try:
            self._adopt(sock, client)
        except OSError as error:
            # ENOTCONN: it has reset the connection meanwhile. EMFILE, ENFILE: we, or the machine,
            # have no descriptor left.
            has_reset = error.errno == errno.ENOTCONN
            record.is_shortage = error.errno in SHORTAGES
            relay = client.reports
            relay.connected(client)
            client.phase = "closed"
            relay.broken(client, "reset" if has_reset else "none", str(error))

    def wait(self, room: PrefaceRoom, peer: tuple[str, str], sock: socket.SocketType) -> None:
        """Implements ``DataPath.wait``."""
        client = self.waiting(room, peer)
        try:
            self._adopt(sock, client)
        except OSError as error:
            has_reset = error.errno == errno.ENOTCONN
            if has_reset:
                room.give_up(client, "client_reset", "reset", str(error))
            else:
                is_shortage = error.errno in SHORTAGES
                room.give_up(client, "error", "none", str(error), is_shortage=is_shortage)

    def _adopt(self, sock: socket.SocketType, protocol: IProtocol) -> None:
        try:
            self._reactor.adoptStreamConnection(sock.fileno(), sock.family, OneProtocol(protocol))
        finally:
            sock.close()  # Twisted has duplicated the descriptor

    def preface_room(self, preface: Preface) -> PrefaceRoom:
        """Implements ``DataPath.preface_room``."""
        room = PrefaceRoom(self._monitor, preface, self._shared.deadlines)
        self._prefaces.add(room)
        return room

    def waiting(self, room: PrefaceRoom, peer: tuple[str, str]) -> WaitingProtocol:
        """A protocol that reads a client's preface first."""
        return WaitingProtocol(room, peer, self.client_end)

    def client_end(self, record: ConnectionRecord, backend: Address | None = None) -> TransportEnd:
        """The client's side of a new relay, for a transport to be connected to."""
        client = TransportEnd("client", self._shared)
        backend_end = self._make_backend(record, backend)
        Relay(self._monitor, record, client, backend_end, self._shared.deadlines)
        return client


class DataPaths:
    """Makes the data paths of a program's services, which share timers, epoll and pipes.

    :param reactor: the reactor to run on.
    :param clock: gives monotonic time and timers.
    """

    _log = Logger()

    # The reactor is Any: no interface of Twisted's covers sockets, descriptors, threads and
    # clients' endpoints, nor a MonconnReactor's socket_loop.
    def __init__(self, reactor: Any, clock: Clock) -> None:
        self._reactor = reactor
        self._clock = clock
        self.deadlines = Deadlines(clock)
        self._deliveries = DeliveryWatch(clock)
        self._loop: SocketLoop | None = None
        self._shares: tuple[TurnShare, TurnShare] | None = None  # handshakes, short records
        # Weak: that of a path which is replaced is needed as long as clients are in it.
        self._rooms = WeakSet[HandshakeRoom]()
        self._prefaces = WeakSet[PrefaceRoom]()
        self._monitors = WeakSet[Monitor]()
        self.descriptors = Descriptors(reactor, clock, self._clients, self._when_room)
        """Says whether the services may accept another client."""
        self._pipes = PipePool(lent=pipes_of(limit_of(reactor)))
        # By service, so that none uses up another's, however often its path is replaced.
        self._lookups = WeakKeyDictionary[Monitor, Lookups]()
        self.loops = _loops
        """Knows the listeners of the program, to which its services must not lead in a loop."""
        self._has_warned = False

    def between(
        self,
        monitor: Monitor,
        listen: Address,
        backend: Address | ChooseBackend,
        *,
        tls: ServerTls | None = None,
        backend_tls: BackendTls | ClientTls | None = None,
    ) -> SocketPath | TransportPath:
        """The best path for clients accepted from one of our listening sockets.

        :param backend: where to forward to, or what chooses that for each connection.
        :param tls: makes the clients' TLS connections, if they speak TLS.
        :param backend_tls: how to speak TLS with a backend whose address is a string
            ``tls:HOST:PORT``, if not as its options say; or what does that already.
        :raises TlsError: a file that ``backend_tls`` names cannot be used.
        """
        if not HAS_EPOLL:
            assert tls is None
            self._warn("this platform has no epoll: forwarding over Twisted's transports, slower")
            return self.from_endpoint(monitor, backend, backend_tls=backend_tls)
        make_backend = self._make_backend(monitor, backend, backend_tls)
        shared = self._shared(monitor)
        if tls is None:
            return SocketPath(shared, make_backend, self._prefaces)
        room = HandshakeRoom(monitor, tls, shared.loop, shared.handshakes, self.deadlines)
        self._rooms.add(room)
        return SocketPath(shared, make_backend, self._prefaces, room)

    def from_endpoint(
        self,
        monitor: Monitor,
        backend: Address | ChooseBackend,
        *,
        backend_tls: BackendTls | ClientTls | None = None,
    ) -> TransportPath:
        """The best path for clients that come on Twisted's transports; see :meth:`between`."""
        make_backend = self._make_backend(monitor, backend, backend_tls)
        return TransportPath(
            monitor,
            self._transport_shared(monitor),
            self._reactor,
            make_backend,
            self._prefaces,
        )

    def _make_backend(
        self, monitor: Monitor, backend: Address | ChooseBackend, tls: BackendTls | ClientTls | None
    ) -> MakeBackend:
        # One maker for each address: it caches resolved names, and queues attempts that wait.
        makers: dict[Address, Callable[[ConnectionRecord], End]] = {}

        def maker(address: Address) -> Callable[[ConnectionRecord], End]:
            made = makers.get(address)
            if made is None:
                if len(makers) >= _MOST_BACKENDS:  # clients seem to choose arbitrary addresses
                    makers.clear()
                made = makers[address] = self._backend_maker(monitor, address, tls)
            return made

        self._monitors.add(monitor)
        configured = None if callable(backend) else maker(backend)

        def make(record: ConnectionRecord, address: Address | None) -> End:
            if address is None and configured is not None:
                record.backend = record.backend or str(backend)
                return configured(record)
            try:
                if address is None:
                    assert callable(backend)
                    address = backend(record)
                record.backend = str(address)
                return maker(address)(record)
            except Exception as error:
                self._log.failure("no backend could be chosen")
                failed: Deferred[Any] = fail(NoBackend(f"no backend could be chosen: {error}"))
                shared = self._transport_shared(monitor)
                return TransportEnd("backend", shared, dial=lambda _: failed)

        return make

    def _clients(self) -> int:
        """How many clients are connected to us, wherever they are on their way."""
        groups: tuple[Iterable[Sized], ...] = (self._monitors, self._rooms, self._prefaces)
        return sum(len(each) for group in groups for each in group)

    def _when_room(self, call: Callable[[], object]) -> Callable[[], object]:
        cancels = [monitor.room.subscribe(call) for monitor in self._monitors]

        def cancel() -> None:
            for each in cancels:
                each()

        return cancel

    def _backend_maker(
        self, monitor: Monitor, address: Address, tls: BackendTls | ClientTls | None
    ) -> Callable[[ConnectionRecord], End]:
        own = tls_backend(address) if HAS_EPOLL else None
        where = address if own is None else own[0]
        if HAS_EPOLL and not isinstance(where, EndpointAddress):
            shared = self._shared(monitor)
            resolver = self._resolver(monitor, where)
            connector = Connector(resolver, shared.loop, self._clock, self.loops, self.descriptors)
            if own is None:
                return lambda record: SocketEnd("backend", record, shared, connector)
            client_tls = (
                tls if isinstance(tls, ClientTls) else ClientTls(tls or own[1], own[0].host)
            )

            def tls_end(record: ConnectionRecord) -> TlsEnd:
                record.pipe = "tls"
                return TlsEnd("backend", record, shared, connector, tls=client_tls)

            return tls_end
        twisted_tls = backend_tls(address, tls)
        names = EndpointReactor(self._reactor, lambda name: self._resolver(monitor, name))
        dial = dialler(address, names, twisted_tls)
        transport_shared = self._transport_shared(monitor)
        socket_of = socket_address(address, listens=False)
        target = None if socket_of is None else target_of(socket_of)
        return lambda _: TransportEnd(
            "backend", transport_shared, dial=dial, target=target, tls=twisted_tls
        )

    def address_of(self, monitor: Monitor, address: TcpAddress) -> Deferred[SocketAddress]:
        """Look up a host that a service is to listen on; see :func:`address_later`."""
        return address_later(address, self._lookups_of(monitor), self._clock)

    def _resolver(self, monitor: Monitor, address: TcpAddress | UnixAddress) -> Resolver:
        return Resolver(address, self._reactor, self._clock, self._lookups_of(monitor))

    def _lookups_of(self, monitor: Monitor) -> Lookups:
        lookups = self._lookups.get(monitor)
        if lookups is None:
            lookups = self._lookups[monitor] = Lookups(self._reactor)
        return lookups

    def _transport_shared(self, monitor: Monitor) -> TransportShared:
        return TransportShared(monitor.clock, self.deadlines, self._deliveries, loops=self.loops)

    def _shared(self, monitor: Monitor) -> Shared:
        if self._loop is None:
            self._loop = getattr(self._reactor, "socket_loop", None)  # a MonconnReactor's
        if self._loop is None:
            self._loop = NestedSocketLoop(self._reactor, self._clock)
        if self._shares is None:
            self._shares = TurnShare(self._loop, self._clock), TurnShare(self._loop, self._clock)
        if not HAS_SPLICE:
            self._warn("this platform has no splice: copying all bytes")
        return Shared(
            monitor,
            self._loop,
            self._pipes,
            self.deadlines,
            self._deliveries,
            *self._shares,
            loops=self.loops,
        )

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log.warn("{what}", what=what)

    def close(self) -> None:
        """Release the shared pipes and epoll, once no connection is left.

        Clients that are still amid their handshake are turned away.
        """
        for room in tuple(self._rooms):
            room.close()
        if isinstance(self._loop, NestedSocketLoop):  # the reactor's own may have others' sockets
            self._loop.close()
        self._loop = self._shares = None
        self._pipes.close()
