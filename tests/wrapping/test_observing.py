"""What observers hear of wrapped connections."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from monconn.testing import MemoryTransport, RecordingObserver, connect, make_monitor
from monconn.wrapping import MonitoringFactory


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Protocol):
    def readConnectionLost(self) -> None:
        pass

    def writeConnectionLost(self) -> None:
        pass


class Wrapped:
    """A wrapped connection, observed."""

    def __init__(self, protocol: type[Protocol] = HalfCloseable, is_client: bool = False) -> None:
        self.observer = RecordingObserver(half_closes=True)
        self.monitor = make_monitor()
        self.monitor.add_observer(self.observer)
        factory = MonitoringFactory(
            self.monitor, Factory.forProtocol(protocol), is_client=is_client
        )
        made: tuple[Any, MemoryTransport] = connect(factory)
        self.wrapper, self.transport = made

    @property
    def half_closes(self) -> list[Any]:
        return [event[2] for event in self.observer.events if event[0] == "half_closed"]


@pytest.mark.parametrize("is_client", [False, True])
def test_the_peers_end_is_a_half_close(is_client: bool) -> None:
    wrapped = Wrapped(is_client=is_client)
    wrapped.transport.peer_ends()
    assert wrapped.half_closes == ["backend" if is_client else "client"]
    wrapped.wrapper.loseWriteConnection()
    wrapped.wrapper.loseConnection()
    wrapped.transport.drain()
    hooks = [event[0] for event in wrapped.observer.events]
    assert hooks == ["opened", "half_closed", "closed"]


@pytest.mark.parametrize("is_client", [False, True])
def test_our_end_is_a_half_close(is_client: bool) -> None:
    wrapped = Wrapped(is_client=is_client)
    wrapped.wrapper.loseWriteConnection()
    wrapped.transport.drain()
    assert wrapped.half_closes == ["client" if is_client else "backend"]
    wrapped.transport.peer_sends(b"late answer")
    wrapped.transport.peer_ends()
    assert len(wrapped.half_closes) == 1


def test_a_protocol_without_half_close_has_none() -> None:
    wrapped = Wrapped(Protocol)
    wrapped.transport.peer_ends()
    assert [event[0] for event in wrapped.observer.events] == ["opened", "closed"]


def test_an_end_while_the_connection_is_being_closed_is_none() -> None:
    wrapped = Wrapped()
    wrapped.monitor.close(wrapped.wrapper.record.id)
    wrapped.transport.peer_ends()
    assert wrapped.half_closes == []


def test_an_observer_may_write_to_another_connection() -> None:
    """Which is an event of that one, and heard of after this one."""
    chat = Wrapped()
    log = RecordingObserver()

    class Announces(Observer):
        def opened(self, record: ConnectionRecord) -> None:
            chat.wrapper.write(b"a new one: %d" % record.id)

    chat.monitor.add_observer(Announces())
    chat.monitor.add_observer(log)
    factory = MonitoringFactory(chat.monitor, Factory.forProtocol(Protocol))
    newcomer, _ = connect(factory)
    assert [(event[0], event[1]) for event in log.events] == [
        ("opened", newcomer.record),
        ("data", chat.wrapper.record),
    ]
    assert chat.transport.written == b"a new one: %d" % newcomer.record.id


def test_a_write_of_no_bytes_is_none(logged_failures: list[Any]) -> None:
    """Some protocols write them, and decoders expect a first byte."""
    monitor = make_monitor()
    monitor.apply(Policy.of(recorder=RecorderSettings()))
    made: tuple[Any, MemoryTransport] = connect(
        MonitoringFactory(monitor, Factory.forProtocol(Protocol))
    )
    wrapper, transport = made
    wrapper.write(b"")
    wrapper.writeSequence([b"", b""])
    transport.peer_sends(b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n")
    assert logged_failures == []
    assert wrapper.record.facts["http_host"] == "example.net"
    events = monitor.recorder.events(wrapper.record.id)
    assert events is not None
    assert [event.kind for event in events] == ["began", "data", "ended"]


def test_a_watcher_is_shown_bytes_whatever_was_written() -> None:
    """It may store them, and the protocol may go on to change what it has written."""
    monitor = make_monitor()
    made: tuple[Any, Any] = connect(MonitoringFactory(monitor, Factory.forProtocol(Protocol)))
    wrapper, transport = made
    transport.write = lambda data: None  # as Twisted's sockets do, it takes bytearrays too
    seen: list[bytes] = []
    monitor.watch(wrapper.record.id, lambda direction, data: seen.append(data))
    buffer = bytearray(b"first")
    wrapper.write(buffer)
    buffer[:] = b"later"
    wrapper.write(memoryview(b"second"))
    assert seen == [b"first", b"second"]
    assert [type(each) for each in seen] == [bytes, bytes]
