"""Taps over a real control port: what comes, who may, and what a slow or a lost client costs."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from monconn.errors import ControlError
from monconn.faces.control import client as client_module
from monconn.faces.control.client import BadAnswer, Client, CommandFailed, NoServer
from monconn.faces.control.pages import PAGE_BYTES
from monconn.faces.control.taps import BOXES_A_TURN, PIECE_BYTES, TapSender
from monconn.model import flow
from monconn.model.flow import Began, Data, Ended, FlowEvent
from monconn.model.record import FACT_CHARACTERS, FACTS
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.taps import QUEUE_BYTES, TapResult, Taps
from monconn.policy.policy import Policy
from monconn.turns import TurnQueue
from tests.ops.tapping import WatchableConnection
from tests.relay.world import until
from tests.turning import TurnClock

from .conftest import Port, with_port


def open_one(port: Port, monitor: Monitor, ip: str = "192.0.2.1") -> WatchableConnection:
    return port.on_reactor(lambda: WatchableConnection(monitor, ip).open())


def taps_of(port: Port) -> Taps:
    assert port.service is not None
    return port.service._factory.operations.taps


def events_of(client: Client) -> Iterator[FlowEvent]:
    for batch in client.flow_events():
        for each in batch:
            event = flow.from_json(each)
            assert event is not None
            yield event


@with_port
def test_events_come_until_the_connection_ends(port: Port) -> None:
    mqtt = port.monitor("mqtt")
    live, other = open_one(port, mqtt), open_one(port, mqtt)
    client = port.client()
    answer = client.tap(filter=f"{live.record.id} 999999", how="hex")
    assert {key: answer[key] for key in ("connections", "left_out", "unknown")} == {
        "connections": "1",
        "left_out": "0",
        "unknown": "[999999]",
    }
    big = bytes(range(256)) * 1000
    port.on_reactor(live.data, "up", b"hello")
    port.on_reactor(live.data, "down", big)
    port.on_reactor(other.data, "up", b"not seen")
    port.on_reactor(live.end, "operator")
    began, first, *pieces, ended = events_of(client)
    assert isinstance(began, Began)
    assert isinstance(ended, Ended)
    assert isinstance(first, Data)
    assert (first.direction, first.offset, first.data) == ("up", 0, b"hello")
    received = b""
    for piece in pieces:
        assert isinstance(piece, Data)
        assert (piece.direction, piece.offset) == ("down", len(received))
        assert len(piece.data) <= PIECE_BYTES
        received += piece.data
    assert received == big
    assert (ended.up, ended.down, ended.reason) == (5, len(big), "operator")
    assert (client.bytes_dropped, client.connections_left_out) == (0, 0)
    until(lambda: not len(taps_of(port)))


@with_port
def test_the_longest_facts_fit(port: Port) -> None:
    live = open_one(port, port.monitor("mqtt"))
    for number in range(FACTS):
        live.record.set_fact(f"fact_{number:027}", "\U0001f600" * FACT_CHARACTERS)
    client = port.client()
    client.tap()
    port.on_reactor(live.end, "operator")
    began, ended = events_of(client)
    assert isinstance(began, Began)
    assert began.facts == dict(live.record.facts)
    assert isinstance(ended, Ended)


@with_port
def test_a_second_tap_replaces_the_first(port: Port) -> None:
    mqtt = port.monitor("mqtt")
    first, second = open_one(port, mqtt), open_one(port, mqtt, "192.0.2.2")
    client = port.client()
    client.tap(filter=str(first.record.id))
    next(client.flow_events())
    client.tap(filter=str(second.record.id))
    assert (first.is_watched, second.is_watched) == (False, True)


@with_port
def test_a_tap_may_be_replaced_though_there_are_as_many_as_may_be(port: Port) -> None:
    mqtt = port.monitor("mqtt")
    first, second = open_one(port, mqtt), open_one(port, mqtt, "192.0.2.2")
    with patch("monconn.ops.taps.MOST_TAPS", 1):
        client = port.client()
        client.tap(filter=str(first.record.id))
        next(client.flow_events())
        client.tap(filter=str(second.record.id))
        assert (first.is_watched, second.is_watched) == (False, True)
        assert len(taps_of(port)) == 1
        with pytest.raises(CommandFailed, match="1 taps and captures are open already"):
            port.client().tap()
        assert second.is_watched


@with_port
def test_a_client_that_leaves_gives_the_connection_back(port: Port) -> None:
    live = open_one(port, port.monitor("mqtt"))
    client = port.client()
    client.tap(follow=True)
    assert live.is_watched
    client.close()
    until(lambda: not live.is_watched)
    assert len(taps_of(port)) == 0


@with_port
def test_the_servers_stop_gives_the_connection_back(port: Port) -> None:
    live = open_one(port, port.monitor("mqtt"))
    client = port.client()
    client.tap()
    assert port.service is not None
    port.on_reactor(port.service.close_listener)
    assert not live.is_watched
    with pytest.raises(NoServer, match="sends no more bytes"):
        list(events_of(client))


def unsent(transport: Any) -> int:
    """How many bytes a transport holds, as its client does not read."""
    held: list[bytes] = [transport.dataBuffer[transport.offset :], *transport._tempDataBuffer]
    return sum(map(len, held))


@with_port
def test_a_slow_reader_loses_data_which_is_counted_and_shows_as_gaps(port: Port) -> None:
    live = open_one(port, port.monitor("mqtt"))
    client = port.client()
    client.tap()
    chunk = bytes(100_000)
    total = 3 * QUEUE_BYTES
    assert port.service is not None
    (protocol,) = port.service._factory.greeted
    for _ in range(0, total, len(chunk)):
        port.on_reactor(live.data, "up", chunk)
        # All of what is not taken is in the tap's queue, which is bounded, and no transport's.
        pending = port.on_reactor(unsent, protocol.transport)
        assert pending < 256 * 1024
    port.on_reactor(live.end, "operator")
    received = expected = missing = 0
    for event in events_of(client):
        if isinstance(event, Data):
            missing += event.offset - expected
            received += len(event.data)
            expected = event.offset + len(event.data)
        elif isinstance(event, Ended):
            missing += event.up - expected
    sent = live.record.up
    assert received + missing == sent
    assert client.bytes_dropped == missing > 0
    assert received <= QUEUE_BYTES + 1024 * 1024


@with_port
def test_a_client_that_leaves_while_it_is_not_read_from(port: Port) -> None:
    live = open_one(port, port.monitor("mqtt"))
    client = port.client()
    client.tap()
    for _ in range(100):
        port.on_reactor(live.data, "up", bytes(100_000))
    client.close()
    until(lambda: not live.is_watched)


@with_port
def test_payload_never_is_denied(port: Port) -> None:
    secret = port.monitor("secret", policy=Policy(payload="never"))
    live = open_one(port, secret)
    client = port.client()
    for arguments in ({"service": "secret"}, {"filter": str(live.record.id)}, {}):
        with pytest.raises(CommandFailed, match="service secret has payload: never") as failed:
            client.tap(**arguments)
        assert failed.value.code == "DENIED"
    allowed = open_one(port, port.monitor("open"))
    assert client.tap()["services_left_out"] == '["secret"]'
    assert (allowed.is_watched, live.is_watched) == (True, False)


@with_port
def test_what_is_wrong_is_an_error(port: Port) -> None:
    port.monitor("mqtt")
    client = port.client()
    for arguments, code in (
        ({"filter": "999999"}, "UNKNOWN_CONNECTION"),
        ({"filter": "a bare word"}, "BAD_FILTER"),
        ({"service": "none"}, "UNKNOWN_SERVICE"),
        ({"follow": "perhaps"}, "BAD_REQUEST"),
    ):
        with pytest.raises(CommandFailed) as failed:
            client.call("Tap", **arguments)
        assert failed.value.code == code
    assert len(taps_of(port)) == 0


def test_a_turn_sends_a_few_boxes_and_none_while_the_client_is_slow() -> None:
    clock, sent = TurnClock(), []
    registry = Registry()
    live = WatchableConnection(registry.new("mqtt", clock=clock)).open()
    sender = TapSender(lambda **values: sent.append(values), TurnQueue(clock))
    tap = Taps(registry, clock).open(sender.ready)
    for _ in range(30):
        live.data("up", bytes(100_000))
    clock.turn()
    assert not sent, "the answer goes first"
    sender.start(TapResult(tap, (), ()))
    counts = []
    for _ in range(3):
        clock.turn()
        counts.append(len(sent))
    assert counts == [BOXES_A_TURN, 2 * BOXES_A_TURN, 3 * BOXES_A_TURN]
    sender.pause()
    clock.turn()
    assert len(sent) == counts[-1]
    sender.resume()
    live.end("operator")
    while not sent[-1]["is_over"]:
        clock.turn()
    events = [each for values in sent for each in json.loads(values["events"])]
    assert max(len(values["events"]) for values in sent) <= PAGE_BYTES + 2
    assert [each["offset"] for each in events[1:3]] == [0, PIECE_BYTES]
    assert sum(len(each["data"]) * 3 // 4 for each in events[1:-1]) >= 3_000_000
    assert not clock.calls


# -- the other side is not what it should be


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(each)) + each for each in texts)


@contextmanager
def served(hello: dict[str, bytes], *boxes: dict[str, bytes]) -> Iterator[Client]:
    """A client of a server that answers Hello and one request, and sends boxes."""
    here, there = socket.socketpair()
    answers = [{"_answer": b"1", "version": b"1", "server": b"monconn 0.1", **hello}, *boxes]
    for box in answers:
        pairs = [text for key, value in box.items() for text in (key.encode(), value)]
        there.sendall(strings(*pairs, b""))
    there.shutdown(socket.SHUT_WR)
    with (
        there,
        patch.object(client_module, "_connected", lambda where, seconds: here),
        Client("unix:/nowhere") as client,
    ):
        yield client


def test_an_old_server_is_an_error_that_says_so() -> None:
    with (
        served({"filters": b"True"}) as client,
        pytest.raises(ControlError, match=r"monconn 0\.1 runs, which is too old for tap"),
    ):
        client.tap()


BOX = {"events": b"[]", "dropped_bytes": b"0", "left_out": b"0", "is_over": b"False"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"events": b"{}"},
        {"events": b"[1]"},
        {"events": b"["},
        {"events": b"[" * 60_000},  # nested too deep
        {"dropped_bytes": b"many"},
        {"left_out": b""},
    ],
    ids=range(6),
)
def test_a_server_that_sends_something_else(wrong: dict[str, bytes]) -> None:
    with served({"taps": b"True"}, {"_answer": b"2"}, {**BOX, **wrong}) as client:
        client.tap()
        with pytest.raises(BadAnswer):
            list(client.flow_events())


def test_events_of_a_later_version_are_passed_on() -> None:
    events = [{"event": "renamed", "connection": 1}]
    box = {**BOX, "events": json.dumps(events).encode(), "is_over": b"True", "more": b"1"}
    with served({"taps": b"True"}, {"_answer": b"2"}, box) as client:
        client.tap()
        assert list(client.flow_events()) == [events]
