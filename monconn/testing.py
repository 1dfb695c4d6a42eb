"""For tests of monitored code: a connection in memory, a monitor whose clock stands still,
and an observer that remembers. Needs no reactor."""

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
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IObserver
from monconn.monitor.monitor import Monitor
from monconn.net.sockets import buffered_bytes

_NO_REACTOR: Any = object()
_HOST = IPv4Address("TCP", "127.0.0.1", 8000)
_PEER_PORT = 50_000


@implementer(ITCPTransport)
class MemoryTransport(FileDescriptor):
    """Twisted's own transport, over a network that is the test.

    Buffers, producers and ends behave as on a socket. Nothing happens by itself: what is
    written waits, and what is to end goes on, until :meth:`drain`.

    :param peer_ip: the peer's address.
    """

    protocol: IProtocol | None = None

    def __init__(self, peer_ip: str = "192.0.2.1") -> None:
        super().__init__(reactor=_NO_REACTOR)
        self.connected = 1
        self.reading = True
        """Whether the protocol takes what the peer sends, or has paused it."""
        self.writing = False
        self.ended_writing = False
        """Whether the peer was told that nothing more comes."""
        self.aborted = False
        self._incoming: deque[bytes] = deque()
        self._taken = bytearray()
        self._peer = _address(peer_ip)
        self._no_delay = False
        self._keep_alive = False

    # -- what a test sees and does

    @property
    def written(self) -> bytes:
        """All that was written, whether or not the network has taken it."""
        waiting = bytes(self.dataBuffer[self.offset :]) + b"".join(self._tempDataBuffer)
        return bytes(self._taken) + waiting

    @property
    def waiting(self) -> int:
        """How many written bytes the network has not taken."""
        return buffered_bytes(self)

    def peer_sends(self, data: bytes) -> None:
        """Have the peer send bytes, which wait while the protocol pauses its transport."""
        self._incoming.append(data)
        self._deliver()

    def peer_ends(self) -> None:
        """Have the peer end its side, after what it has sent."""
        self._incoming.append(b"")
        self._deliver()

    def peer_resets(self) -> None:
        """Have the peer reset the connection; what waits either way is lost."""
        self.connectionLost(Failure(error.ConnectionLost()))

    def fill(self) -> None:
        """Have the network take nothing more: a push producer is paused until :meth:`drain`."""
        if self.producer is not None and self.streamingProducer:
            self.producerPaused = True
            self.producer.pauseProducing()  # type: ignore[attr-defined]
            self.startWriting()

    def drain(self) -> None:
        """Let the network take all that waits, and do what follows: producers are resumed,
        what the peer sent meanwhile is delivered, and what was to end ends."""
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

    # -- what FileDescriptor leaves to its heirs

    def writeSomeData(self, data: bytes) -> int:
        """See ``FileDescriptor``."""
        self._taken += data
        return len(data)

    def startReading(self) -> None:
        """See ``FileDescriptor``."""
        self.reading = True

    def stopReading(self) -> None:
        """See ``FileDescriptor``."""
        self.reading = False

    def startWriting(self) -> None:
        """See ``FileDescriptor``."""
        self.writing = not self.aborted

    def stopWriting(self) -> None:
        """See ``FileDescriptor``."""
        self.writing = False

    def _closeWriteConnection(self) -> None:
        self.ended_writing = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def readConnectionLost(self, reason: Failure) -> None:
        """See ``FileDescriptor``."""
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection as the system would; harmless the second time."""
        if self.disconnected:
            return
        super().connectionLost(reason)
        if self.protocol is not None:
            self.protocol.connectionLost(reason)

    # -- ITCPTransport

    def abortConnection(self) -> None:
        """See ``ITCPTransport``; done by the next :meth:`drain`."""
        self.aborted = True
        self.stopReading()
        self.stopWriting()

    def getHost(self) -> IPv4Address:
        """See ``ITCPTransport``."""
        return _HOST

    def getPeer(self) -> IPv4Address | IPv6Address:
        """See ``ITCPTransport``."""
        return self._peer

    def getTcpNoDelay(self) -> bool:
        """See ``ITCPTransport``."""
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        """See ``ITCPTransport``."""
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""
        self._keep_alive = bool(enabled)


@implementer(IObserver)
class RecordingObserver:
    """An observer that keeps what it is told.

    :param watches_payload: whether it wants to be told of bytes, too.
    """

    def __init__(self, watches_payload: bool = True) -> None:
        self.watches_payload = watches_payload
        self.events: list[tuple[Any, ...]] = []
        """``("opened", record)``, ``("data", record, direction, data)`` and so on, in order."""

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""
        self.events.append(("opened", record))

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        self.events.append(("refused", record))

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """See :meth:`IObserver.data`."""
        self.events.append(("data", record, direction, data))

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self.events.append(("closed", record))

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
        self.events.append(("alarmed", alarm))


def make_monitor(name: str = "test", clock: Clock | None = None, **options: Any) -> Monitor:
    """A monitor whose time moves only when a test turns ``monitor.clock``.

    :param options: as for :class:`Monitor`.
    """
    return Monitor(name, clock=Clock() if clock is None else clock, **options)


def connect(factory: IProtocolFactory, peer_ip: str = "192.0.2.1") -> tuple[Any, MemoryTransport]:
    """Connect a factory's protocol in memory, as a server's or as a client's.

    :param peer_ip: the address of the other side.
    :returns: what the factory built (for a ``MonitoringFactory``, the protocol that it
        wraps is ``.wrappedProtocol``) and its transport; None and a closed transport if
        the factory wanted none.
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
