"""Helpers to test monitored code without a reactor: a connection in memory, a monitor with a fake
clock, and an observer that records its events."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet import error
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IHalfCloseObserver, IObserver
from monconn.monitor.monitor import Monitor
from monconn.net.sockets import buffered_bytes

_NO_REACTOR: Any = object()
_HOST = IPv4Address("TCP", "127.0.0.1", 8000)
_PEER_PORT = 50_000


@implementer(ITCPTransport)
class MemoryTransport(FileDescriptor):
    """Twisted's own transport over a network that the test simulates.

    Buffers, producers and half-closes behave as on a socket. Nothing happens by itself: written
    bytes stay in the buffer, and a connection that was closed stays open, until :meth:`drain`.

    :param peer_ip: the peer's address.
    """

    protocol: IProtocol | None = None

    def __init__(self, peer_ip: str = "192.0.2.1") -> None:
        super().__init__(reactor=_NO_REACTOR)
        self.connected = 1
        self.reading = True
        """False while the protocol has paused its transport."""
        self.writing = False
        self.ended_writing = False
        """Whether the writing side was closed (a FIN was sent)."""
        self.aborted = False
        self._incoming: deque[bytes] = deque()
        self._taken = bytearray()
        self._peer = _address(peer_ip)
        self._no_delay = False
        self._keep_alive = False

    # -- the test's side

    @property
    def written(self) -> bytes:
        """All bytes written, whether or not they have left the buffer."""
        # FileDescriptor has no public view of its buffer: what is left of the chunk that is being
        # sent, and the private list of those after it. A test writes both and compares.
        waiting = bytes(self.dataBuffer[self.offset :]) + b"".join(self._tempDataBuffer)
        return bytes(self._taken) + waiting

    @property
    def waiting(self) -> int:
        """How many of the written bytes are still in the buffer."""
        return buffered_bytes(self)

    def peer_sends(self, data: bytes) -> None:
        """Have the peer send bytes, which are delivered at once unless the transport is paused."""
        self._incoming.append(data)
        self._deliver()

    def peer_ends(self) -> None:
        """Have the peer close its writing side, after what it has sent."""
        self._incoming.append(b"")
        self._deliver()

    def peer_resets(self) -> None:
        """Have the peer reset the connection; bytes not yet delivered either way are lost."""
        self.connectionLost(Failure(error.ConnectionLost()))

    def fill(self) -> None:
        """Fill the send buffer: a push producer is paused until :meth:`drain`."""
        if self.producer is not None and self.streamingProducer:
            self.producerPaused = True
            self.producer.pauseProducing()  # type: ignore[attr-defined]
            self.startWriting()

    def drain(self) -> None:
        """Send the whole buffer, with all that follows: producers are resumed, bytes that the
        peer has sent are delivered, and a connection that was closed ends."""
        self._deliver()
        while self.writing:
            why = self.doWrite()
            if why is not None:
                self.connectionLost(Failure(why))
        if self.aborted:
            self.connectionLost(Failure(error.ConnectionAborted()))

    def _deliver(self) -> None:
        while self.reading and self._incoming:
            data = self._incoming.popleft()
            if data:
                assert self.protocol is not None
                self.protocol.dataReceived(data)
            else:
                self.stopReading()
                self.readConnectionLost(Failure(error.ConnectionDone()))

    # -- FileDescriptor

    def writeSomeData(self, data: bytes) -> int:
        """Send bytes; returns how many, which is all of them."""
        self._taken += data
        return len(data)

    def startReading(self) -> None:
        """Resume the delivery of the peer's bytes, with the next :meth:`drain`."""
        self.reading = True

    def stopReading(self) -> None:
        """Stop the delivery of the peer's bytes."""
        self.reading = False

    def startWriting(self) -> None:
        """Have the buffer sent by the next :meth:`drain`."""
        self.writing = not self.aborted

    def stopWriting(self) -> None:
        """Note that there is nothing to send."""
        self.writing = False

    # Twisted's private hook for a half-close, which its own TCP transports override, too: called by
    # FileDescriptor once the buffer is empty.
    def _closeWriteConnection(self) -> None:
        self.ended_writing = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def readConnectionLost(self, reason: Failure) -> None:
        """Handle the peer's FIN, as the protocol provides for it."""
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection; harmless the second time."""
        if self.disconnected:
            return
        super().connectionLost(reason)
        if self.protocol is not None:
            self.protocol.connectionLost(reason)

    # -- ITCPTransport

    def abortConnection(self) -> None:
        """Abort the connection, with the next :meth:`drain`."""
        self.aborted = True
        self.stopReading()
        self.stopWriting()

    def getHost(self) -> IPv4Address:
        """The local address, always the same."""
        return _HOST

    def getPeer(self) -> IPv4Address | IPv6Address:
        """The peer's address."""
        return self._peer

    def getTcpNoDelay(self) -> bool:
        """The value last set."""
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Store the value."""
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        """The value last set."""
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Store the value."""
        self._keep_alive = bool(enabled)


@implementer(IObserver, IHalfCloseObserver)
class RecordingObserver:
    """An observer that records its events.

    :param watches_payload: whether to record bytes, too.
    :param half_closes: whether to record half-closed connections, too.
    """

    def __init__(self, watches_payload: bool = True, *, half_closes: bool = False) -> None:
        self.watches_payload = watches_payload
        self._half_closes = half_closes
        self.events: list[tuple[Any, ...]] = []
        """``("opened", record)``, ``("data", record, direction, data)`` and so on, in order."""

    def opened(self, record: ConnectionRecord) -> None:
        """Record the event ``opened``."""
        self.events.append(("opened", record))

    def refused(self, record: ConnectionRecord) -> None:
        """Record the event ``refused``."""
        self.events.append(("refused", record))

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Record the event ``data``."""
        self.events.append(("data", record, direction, data))

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Record the event ``half_closed``, as ``("half_closed", record, side)``, if asked to."""
        if self._half_closes:
            self.events.append(("half_closed", record, side))

    def closed(self, record: ConnectionRecord) -> None:
        """Record the event ``closed``."""
        self.events.append(("closed", record))

    def alarmed(self, alarm: Alarm) -> None:
        """Record the event ``alarmed``."""
        self.events.append(("alarmed", alarm))


class ManualMonitor(Monitor):
    """A monitor with a fake clock."""

    clock: Clock


def make_monitor(name: str = "test", clock: Clock | None = None, **options: Any) -> ManualMonitor:
    """A monitor whose time moves only by ``monitor.clock.advance()``.

    :param options: as for :class:`Monitor`.
    """
    return ManualMonitor(name, clock=Clock() if clock is None else clock, **options)


def connect(factory: IProtocolFactory, peer_ip: str = "192.0.2.1") -> tuple[Any, MemoryTransport]:
    """Connect a protocol of a factory in memory, a server's or a client's.

    :param peer_ip: the address of the other side.
    :returns: the protocol that the factory built (that of a ``MonitoringFactory`` has the wrapped
        one as ``.wrappedProtocol``) and its transport; None and a closed transport if the factory
        returned None.
    """
    transport = MemoryTransport(peer_ip)
    protocol = factory.buildProtocol(transport.getPeer())
    transport.protocol = protocol
    if protocol is None:
        transport.connectionLost(Failure(error.ConnectionDone()))
    else:
        protocol.makeConnection(transport)
    return protocol, transport


def _address(ip: str) -> IPv4Address | IPv6Address:
    if ":" in ip:
        return IPv6Address("TCP", ip, _PEER_PORT)
    return IPv4Address("TCP", ip, _PEER_PORT)
