"""The helpers for users' tests behave as real transports and monitors do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

import monconn
from monconn.monitor.interfaces import IObserver
from monconn.testing import MemoryTransport, RecordingObserver, connect, make_monitor


class RecordingProtocol(Protocol):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connectionMade(self) -> None:
        self.calls.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.calls.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.calls.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(RecordingProtocol):
    def readConnectionLost(self) -> None:
        self.calls.append("read end")

    def writeConnectionLost(self) -> None:
        self.calls.append("write end")


@implementer(IPushProducer)
class Producer:
    """A push producer; registered as a pull producer, it writes one piece per call."""

    def __init__(self, consumer: Any = None, pieces: int = 0) -> None:
        self.calls: list[str] = []
        self.consumer, self.pieces = consumer, pieces

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        if self.pieces:
            self.pieces -= 1
            self.consumer.write(b"piece")
        elif self.consumer:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.calls.append("stop")


def connected(protocol: type[RecordingProtocol] = RecordingProtocol) -> tuple[Any, MemoryTransport]:
    return connect(Factory.forProtocol(protocol))


# -- MemoryTransport


@pytest.mark.parametrize(
    "interface",
    [
        ITransport,
        ITCPTransport,
        IConsumer,
        IPushProducer,
        IHalfCloseableDescriptor,
        IReadWriteDescriptor,
    ],
)
def test_a_memory_transport_provides_what_a_sockets_does(interface: Any) -> None:
    assert verifyObject(interface, MemoryTransport())


def test_it_needs_no_reactor() -> None:
    program = (
        "import sys; from monconn.testing import *; from twisted.internet.protocol import *\n"
        "import monconn\n"
        "factory = monconn.MonitoringFactory(make_monitor(), Factory.forProtocol(Protocol))\n"
        "connect(factory)[1].peer_ends()\n"
        "print('twisted.internet.reactor' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_written_bytes_are_recorded_whether_or_not_they_were_sent() -> None:
    _, transport = connected()
    transport.write(b"one ")
    transport.writeSequence([b"two ", b"three "])
    assert (transport.written, transport.waiting) == (b"one two three ", 14)
    transport.drain()
    transport.write(b"four")
    assert (transport.written, transport.waiting) == (b"one two three four", 4)


def test_bytes_of_the_peer_wait_while_reading_is_paused() -> None:
    protocol, transport = connected()
    transport.pauseProducing()
    transport.peer_sends(b"one")
    transport.peer_sends(b"two")
    transport.peer_ends()
    assert protocol.calls == ["made"]
    transport.resumeProducing()
    assert protocol.calls == ["made"]  # as on a socket: never from within the call
    transport.drain()
    assert protocol.calls == ["made", b"one", b"two", error.ConnectionDone]


def test_a_protocol_may_pause_in_the_middle() -> None:
    class Pausing(RecordingProtocol):
        transport: Any

        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()

    protocol, transport = connected(Pausing)
    transport.pauseProducing()
    transport.peer_sends(b"one")
    transport.peer_sends(b"two")
    for calls in (b"one", b"two"):
        transport.resumeProducing()
        transport.drain()
        assert protocol.calls[-1] == calls


def test_the_peers_fin_ends_a_protocol_without_half_close() -> None:
    protocol, transport = connected()
    transport.peer_ends()
    assert protocol.calls == ["made", error.ConnectionDone]
    assert transport.disconnected


def test_the_peers_fin_leaves_a_protocol_with_half_close_writing() -> None:
    protocol, transport = connected(HalfCloseable)
    transport.peer_ends()
    transport.write(b"late")
    transport.drain()
    assert protocol.calls == ["made", "read end"]
    assert transport.written == b"late"
    assert transport.connected


def test_our_half_close_follows_what_was_written() -> None:
    protocol, transport = connected(HalfCloseable)
    transport.write(b"last")
    transport.loseWriteConnection()
    assert not transport.ended_writing
    transport.drain()
    transport.write(b"too late")
    transport.peer_sends(b"still here")
    assert transport.ended_writing
    assert transport.written == b"last"
    assert protocol.calls == ["made", "write end", b"still here"]


def test_a_close_waits_for_what_was_written() -> None:
    protocol, transport = connected()
    transport.write(b"last")
    transport.loseConnection()
    transport.peer_sends(b"not read any more")
    assert protocol.calls == ["made"]
    transport.drain()
    assert protocol.calls == ["made", error.ConnectionDone]
    assert not transport.aborted


def test_an_abort_does_not_wait() -> None:
    protocol, transport = connected()
    transport.write(b"lost")
    transport.abortConnection()
    transport.write(b"lost, too")
    transport.peer_sends(b"lost as well")
    assert protocol.calls == ["made"]
    transport.drain()
    assert protocol.calls == ["made", error.ConnectionAborted]
    assert transport.aborted


def test_a_reset_by_the_peer_comes_at_once_and_once() -> None:
    protocol, transport = connected()
    transport.peer_resets()
    transport.peer_resets()
    transport.drain()
    assert protocol.calls == ["made", error.ConnectionLost]


def test_a_push_producer_is_paused_by_filling_and_resumed_by_draining() -> None:
    _, transport = connected()
    producer = Producer()
    transport.registerProducer(producer, True)
    transport.fill()
    assert producer.calls == ["pause"]
    transport.drain()
    assert producer.calls == ["pause", "resume"]


def test_a_push_producer_is_paused_by_its_own_bytes() -> None:
    _, transport = connected()
    producer = Producer()
    transport.registerProducer(producer, True)
    transport.write(bytes(transport.bufferSize + 1))
    transport.drain()
    transport.peer_resets()
    assert producer.calls == ["pause", "resume", "stop"]


def test_a_pull_producer_is_asked_until_it_leaves() -> None:
    _, transport = connected()
    producer = Producer(transport, pieces=3)
    transport.registerProducer(producer, False)
    transport.fill()  # it is never paused, as it is asked for each piece
    assert transport.written == b"piece"
    transport.drain()
    assert transport.written == b"piece" * 3
    assert producer.calls == ["resume"] * 4


def test_options_of_tcp_are_remembered() -> None:
    transport = MemoryTransport()
    assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (False, False)
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    assert (transport.getTcpNoDelay(), transport.getTcpKeepAlive()) == (True, True)


@pytest.mark.parametrize("ip", ["192.0.2.7", "2001:db8::7"])
def test_the_peer_has_the_address_that_it_was_given(ip: str) -> None:
    _, transport = connect(Factory.forProtocol(RecordingProtocol), ip)
    assert transport.getPeer().host == ip


# -- the rest


def test_an_observer_records_every_event_in_order() -> None:
    monitor = make_monitor("web", rules=monconn.Rules(conn_limit=1))
    observer = RecordingObserver()
    assert verifyObject(IObserver, observer)
    monitor.add_observer(observer)
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol))
    protocol, transport = connect(factory)
    connect(factory)
    transport.peer_sends(b"up")
    protocol.write(b"down")
    transport.peer_ends()
    record = protocol.record
    refused = observer.events[1][1]
    assert observer.events == [
        ("opened", record),
        ("refused", refused),
        ("data", record, "up", b"up"),
        ("data", record, "down", b"down"),
        ("closed", record),
    ]
    assert (record.service, refused.refusal) == ("web", "conn_limit")


def test_an_observer_may_ignore_bytes() -> None:
    monitor = make_monitor()
    monitor.add_observer(RecordingObserver(watches_payload=False))
    assert not monitor.watched


def test_a_monitors_time_is_controlled_by_the_test() -> None:
    clock = Clock()
    assert make_monitor(clock=clock).clock is clock
    monitor = make_monitor(clock=clock, timeouts=monconn.Timeouts(max_idle=60))
    protocol, _ = connect(
        monconn.MonitoringFactory(monitor, Factory.forProtocol(RecordingProtocol))
    )
    clock.pump([15] * 4)
    assert protocol.record.reason == "idle_timeout"
    assert monitor.uptime_seconds() == 60


def test_a_factory_that_returns_none_leaves_a_closed_connection() -> None:
    class Refusing(Factory):
        def buildProtocol(self, addr: Any) -> None:
            return None

    protocol, transport = connect(Refusing())
    assert protocol is None
    assert transport.disconnected
