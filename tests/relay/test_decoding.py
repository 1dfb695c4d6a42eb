"""Connections whose first bytes are decoded, by a relay and by a wrapped factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from monconn.decode.first_bytes import FirstBytes
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord, Fact
from monconn.monitor.interfaces import IDecoded, Observer
from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from monconn.testing import connect, make_monitor
from monconn.wrapping import MonitoringFactory

from .test_relay import Stage
from .world import World, exactly, until

REQUEST = b"GET /pumps HTTP/1.1\r\nHost: example.org\r\n\r\n"
FACTS: dict[str, Fact] = {
    "protocol": "http",
    "http_method": "GET",
    "http_path": "/pumps",
    "http_host": "example.org",
}


class Listener(Observer):
    """Notes what is known of a connection at each event."""

    watches_payload = True

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def identified(self, record: ConnectionRecord) -> None:
        self.seen.append(("identified", dict(record.facts)))

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.seen.append((direction, dict(record.facts)))

    def closed(self, record: ConnectionRecord) -> None:
        self.seen.append(("closed", dict(record.facts)))


def is_watched(stage: Stage) -> tuple[bool, bool]:
    return stage.client.is_watched, stage.backend.is_watched


def test_facts_are_known_before_the_chunk_is_shown_and_passed_on() -> None:
    stage, listener = Stage().open(), Listener()
    stage.monitor.add_observer(listener)
    assert verifyObject(IDecoded, stage.relay)
    stage.data(stage.client, REQUEST)
    assert listener.seen == [("identified", FACTS), ("up", FACTS)]
    assert stage.asked() == [f"send backend {REQUEST!r}"]


def test_a_connection_is_copied_only_until_it_is_decided() -> None:
    stage = Stage().open()
    assert is_watched(stage) == (True, True)
    stage.data(stage.client, REQUEST[:10])
    assert is_watched(stage) == (True, True)
    stage.data(stage.client, REQUEST[10:])
    assert is_watched(stage) == (False, False)
    stage.data(stage.client, REQUEST.replace(b"GET", b"PUT"))
    assert stage.record.facts == FACTS


@pytest.mark.parametrize("cancels_first", [True, False])
def test_a_watcher_and_the_decoder_do_not_end_each_other(cancels_first: bool) -> None:
    stage = Stage().open()
    cancel = stage.relay.add_watcher(lambda direction, data: None)
    if cancels_first:
        cancel()
        assert is_watched(stage) == (True, True)
    stage.data(stage.client, REQUEST)
    assert is_watched(stage) == ((False, False) if cancels_first else (True, True))
    cancel()
    assert is_watched(stage) == (False, False)


def test_who_is_identified_may_be_watched_from_that_chunk_on() -> None:
    chunks: list[bytes] = []

    class Tap(Observer):
        def identified(self, record: ConnectionRecord) -> None:
            stage.monitor.watch(record.id, lambda direction, data: chunks.append(data))

    stage = Stage().open()
    stage.monitor.add_observer(Tap())
    stage.data(stage.client, REQUEST)
    assert is_watched(stage) == (True, True)
    stage.data(stage.backend, b"HTTP/1.1 200 OK\r\n")
    assert chunks == [REQUEST, b"HTTP/1.1 200 OK\r\n"]


def test_who_is_identified_may_be_ended_before_the_chunk_is_passed_on() -> None:
    class Guard(Observer):
        def identified(self, record: ConnectionRecord) -> None:
            stage.monitor.close(record.id, reset=True)

    stage = Stage().open()
    stage.monitor.add_observer(Guard())
    stage.data(stage.client, REQUEST)
    assert stage.asked() == ["abort client", "abort backend"]


def test_what_was_said_is_known_at_the_end_of_a_connection_that_said_too_little() -> None:
    stage, listener = Stage().open(), Listener()
    stage.data(stage.client, b"GET /half")
    stage.monitor.add_observer(listener)
    stage.relay.end("operator", True)
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    facts = {"protocol": "http", "http_method": "GET", "http_path": "/half"}
    assert listener.seen == [("closed", facts)]


@pytest.mark.parametrize("failing", ["chunk", "ended"])
def test_a_decoder_that_fails_keeps_no_byte(
    monkeypatch: pytest.MonkeyPatch, logged_failures: list[object], failing: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(FirstBytes, failing, fail)
    stage = Stage().open()
    if failing == "chunk":
        stage.data(stage.client, REQUEST)
        assert stage.asked() == [f"send backend {REQUEST!r}"]
        assert is_watched(stage) == (False, False)
    stage.relay.end("operator", True)
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    assert stage.record.state == "closed"
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_a_changed_setting_holds_for_new_connections() -> None:
    monitor = Monitor("web", policy=Policy(decode="off"))
    assert monitor.decoders.first is None
    monitor.apply(attrs.evolve(monitor.policy, decode="auto"))
    assert monitor.decoders.first is not None


def test_nothing_is_decoded_of_a_service_that_is_off() -> None:
    monitor = make_monitor(policy=Policy(decode="off"))
    wrapper, transport = connect(MonitoringFactory(monitor, Factory.forProtocol(Protocol)))
    wrapper.dataReceived(REQUEST)
    assert not monitor.connections()[0].has_facts
    transport.loseConnection()


class Greeter(Protocol):
    """Is told who it speaks with before it has the bytes."""

    def dataReceived(self, data: bytes) -> None:
        self.known = dict(self.transport.record.facts)  # type: ignore[union-attr]
        self.transport.write(b"SSH-2.0-server\r\n")  # type: ignore[union-attr]


def test_facts_of_a_wrapped_factory_are_known_to_its_protocol() -> None:
    monitor = make_monitor()
    wrapper, transport = connect(MonitoringFactory(monitor, Factory.forProtocol(Greeter)))
    wrapper.dataReceived(b"SSH-2.0-client\r\n")
    assert wrapper.wrappedProtocol.known == {"protocol": "ssh", "ssh_client": "SSH-2.0-client"}
    record = monitor.connections()[0]
    assert record.facts["ssh_server"] == "SSH-2.0-server"
    assert wrapper.decoding is None
    transport.loseConnection()


BULK = bytes(3_000_000)


@pytest.mark.parametrize("pipe", ["stream", "splice", "nested"])
@pytest_twisted.ensureDeferred
async def test_a_connection_is_spliced_once_it_is_decided(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            client.sendall(REQUEST)
            assert exactly(backend, len(REQUEST)) == REQUEST
            record = world.live()
            until(lambda: record.has_facts)
            assert record.facts == FACTS
            for sender, receiver in ((client, backend), (backend, client)):
                receiving = world.meanwhile(exactly, receiver, len(BULK))
                sender.sendall(BULK)
                assert receiving.result() == BULK
            assert record.pipe == ("stream" if pipe == "stream" else "splice")

    await deferToThread(play)
