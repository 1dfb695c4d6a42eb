"""Clients that send many requests at once, and those that do not read the answers."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed

from monconn.faces.control.boxes import BOX_BYTES, BOX_KEYS, BoxReader, MalformedBox
from monconn.faces.control.pages import MOST_HELD_ROWS, REST_SECONDS
from monconn.faces.control.server import (
    HANG_UP_SECONDS,
    HELLO_SECONDS,
    MAX_STRANGERS,
    ControlProtocol,
)
from monconn.model.alarms import Alarm
from monconn.model.record import FACTS
from monconn.ops.columns import Listing
from monconn.ops.filters import Filter
from monconn.ops.rows import HistoryEventRow
from monconn.turns import QUEUE_SECONDS, WORK_SECONDS
from tests.ops.world import FakeConnection
from tests.properties import examples

from .seats import HELLO, LIST, Server, box, count, patch_peers


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    patch_peers(monkeypatch)
    return Server()


def test_a_client_has_one_request_under_way_in_a_turn(server: Server) -> None:
    client = server.greeted()
    client.dataReceived(LIST * 300)
    assert not client.transport.is_read_from  # until little is left
    before = 0
    for _ in range(600):
        server.turns(1)
        assert count(client) - before <= 1
        before = count(client)
    assert before == 300
    assert client.transport.is_read_from
    server.clock.advance(HANG_UP_SECONDS)
    assert not server.clock.getDelayedCalls()


def test_a_client_that_does_not_read_is_not_answered_any_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ControlProtocol, "_rows", lambda self, rows: {"rows": b"[%s]" % (b" " * 60_000)}
    )
    client = server.greeted()
    client.dataReceived(box(_command="ListBlocks", _ask="2") * 1000)
    server.turns(1000)
    assert count(client) == 2  # the second one was the one too much
    assert not client.transport.is_read_from
    for number in (4, 6):
        client.transport.taken()
        server.turns(100)
        assert count(client) == 2, number
    client.connectionLost()
    server.clock.advance(HANG_UP_SECONDS)
    assert not server.clock.getDelayedCalls()


def test_the_requests_of_all_clients_share_the_time_of_a_turn(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [server.greeted() for _ in range(8)]
    begun: list[int] = []

    def services(service: str | None) -> list[Any]:
        server.clock.rightNow += QUEUE_SECONDS  # as long as a turn's share
        begun[-1] += 1
        return []

    monkeypatch.setattr(server.operations, "services", services)
    for client in clients:
        client.dataReceived(LIST * 3)
    while sum(map(count, clients)) < 24:
        begun.append(0)
        server.turns(1)
        answers = sorted(map(count, clients))
        assert answers[-1] - answers[0] <= 1  # nobody is left behind
    assert max(begun) == 1


def test_a_deferred_answer_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Deferred[Any]] = []

    def report(**arguments: Any) -> Deferred[Any]:
        waiting.append(Deferred())
        return waiting[-1]

    monkeypatch.setattr(server.operations, "report", report)
    client, other = server.greeted(), server.greeted()
    client.dataReceived(box(_command="Report", _ask="2") * 5)
    server.turns(20)
    assert len(waiting) == 1
    other.dataReceived(LIST)
    server.turns(2)
    assert count(other) == 1


def test_what_a_client_waits_for_is_cancelled_when_it_leaves(
    server: Server, monkeypatch: pytest.MonkeyPatch, logged_failures: list[object]
) -> None:
    cancelled: list[object] = []
    monkeypatch.setattr(server.operations, "report", lambda **_: Deferred(cancelled.append))
    client = server.greeted()
    client.dataReceived(box(_command="Report", _ask="2") * 5)
    server.turns(2)
    client.connectionLost()
    server.turns(20)
    assert len(cancelled) == 1
    server.clock.advance(HANG_UP_SECONDS)
    assert not server.clock.getDelayedCalls()
    assert not logged_failures


def test_a_request_that_waits_for_its_turn_dies_with_its_client(server: Server) -> None:
    client = server.greeted()
    client.dataReceived(LIST * 3)
    client.connectionLost()
    server.turns(5)
    assert count(client) == 0
    server.clock.advance(HANG_UP_SECONDS)
    assert not server.clock.getDelayedCalls()


def test_the_backlog_of_a_client_that_has_hung_up_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[object] = []
    monkeypatch.setattr(server.operations, "report", lambda **_: Deferred(cancelled.append))
    client, other = server.greeted(), server.greeted()
    for each in (client, other):
        each.dataReceived(LIST * 5 + request("Report") + LIST * 5)
    server.turns(20)
    client.transport.has_hung_up = True
    server.clock.advance(HANG_UP_SECONDS)
    assert [each.transport.was_aborted for each in (client, other)] == [True, False]
    assert len(cancelled) == 1
    assert server.clock.getDelayedCalls()  # the other one is checked again
    other.connectionLost()
    server.clock.advance(HANG_UP_SECONDS)
    assert len(cancelled) == 2
    assert not server.clock.getDelayedCalls()


@pytest.mark.parametrize("name", ["StartTLS", "ProtocolSwitch", "No", "\u20ac", "x" * 65_000])
def test_what_is_no_command_here_is_an_error(server: Server, name: str) -> None:
    client = server.greeted()
    client.dataReceived(box(_command=name, _ask="2") + LIST)
    server.turns(4)
    assert b"UNHANDLED" in client.transport.value()
    assert count(client) == 1  # and the next request is answered
    assert not client.transport.was_aborted


# -- long lists


def request(command: str, **arguments: str) -> bytes:
    return box(_command=command, _ask="2", **arguments)


def rows_in(client: ControlProtocol) -> tuple[int, str | None]:
    """How many rows the last answer has, and the number of the next page."""
    values = last_answer(client)
    following = values.get(b"next")
    return len(json.loads(values[b"rows"])), None if following is None else following.decode()


def last_answer(client: ControlProtocol) -> dict[bytes, bytes]:
    reader = BoxReader()
    reader.add(client.transport.value())
    client.transport.clear()
    found = taken(reader)
    assert found, "there is no answer"
    return found[-1]


def with_ips(server: Server, number: int) -> None:
    world = server.registry.new("web", clock=server.clock)
    for count_ in range(number):
        world.live.by_ip[f"192.0.{count_ // 250}.{count_ % 250}"] = 1


def test_the_rest_of_a_list_is_not_held_for_ever(server: Server) -> None:
    with_ips(server, 6000)
    client = server.greeted()

    def ask(data: bytes) -> None:
        client.dataReceived(data)
        server.turns(4)

    ask(request("ListIps", service="web"))
    first, following = rows_in(client)
    assert 3000 < first < 6000
    server.clock.advance(REST_SECONDS - 1)
    ask(request("NextPage", next=following or ""))
    assert rows_in(client) == (6000 - first, None)
    assert not server.clock.getDelayedCalls()
    ask(request("ListIps", service="web"))
    _, following = rows_in(client)
    server.clock.advance(REST_SECONDS)
    ask(request("NextPage", next=following or ""))
    assert last_answer(client)[b"_error_code"] == b"UNKNOWN_PAGE"
    assert not server.clock.getDelayedCalls()


def test_rows_of_the_history_are_held_for_a_few_clients(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 10_000
    most = MOST_HELD_ROWS // rows

    def history(**arguments: Any) -> Deferred[Any]:
        row = HistoryEventRow(event="refused", at="2026-01-01T00:00:00+00:00")
        return succeed(Listing(itertools.repeat(row, rows), rows))

    monkeypatch.setattr(server.operations, "history", history)
    clients = [server.greeted() for _ in range(most + 1)]
    following = []
    for client in clients:
        client.dataReceived(request("ListHistory"))
        server.turns(4)
        following.append(rows_in(client)[1])
    errors = []
    for client, number in zip(clients, following, strict=True):
        client.dataReceived(request("NextPage", next=number or ""))
        server.turns(4)
        errors.append(last_answer(client).get(b"_error_code"))
    assert errors == [b"UNKNOWN_PAGE", *[None] * most]
    for client in clients:
        client.connectionLost()
    assert not server.factory.held_rows._counts
    assert not server.clock.getDelayedCalls()


def test_a_text_of_any_length_ends_no_list_and_no_subscription(
    server: Server, logged_failures: list[object]
) -> None:
    web = server.registry.new("web", clock=server.clock)
    record = web.admit("192.0.2.1:5", "192.0.2.1")
    assert record is not None
    for number in range(FACTS):
        record.facts[f"fact{number}"] = "\N{GRINNING FACE}" * 256
    web.opened(FakeConnection(web, record))
    record.add_detail("\N{GRINNING FACE}" * 100_000)
    client, subscriber = server.greeted(), server.greeted()
    subscriber.dataReceived(request("Subscribe"))
    client.dataReceived(request("ListConnections"))
    server.turns(4)
    server.clock.advance(1)
    (row,) = json.loads(last_answer(client)[b"rows"])
    assert (len(row["facts"]), len(row["detail"])) == (FACTS, 200)
    client.dataReceived(request("ShowConnection", id=str(record.id)))
    server.turns(4)
    assert len(json.loads(last_answer(client)[b"connection"])["detail"]) == 200
    subscriber.transport.clear()
    web.alarm(Alarm("silent", "web", "192.0.2.1", 1.0, False, "x" * 100_000))
    pushed = json.loads(last_answer(subscriber)[b"event"])
    assert (pushed["alarm"], len(pushed["detail"])) == ("silent", 200)
    assert not logged_failures


def test_a_page_takes_as_many_turns_as_it_needs(server: Server) -> None:
    """A hundred thousand rows that no filter lets pass are no page, and no long turn."""
    with_ips(server, 10_000)
    client = server.greeted()
    looked_at: list[int] = [0]

    def slow_matches(self: Any, rows: Any, context: Any) -> Any:
        for _ in rows:
            looked_at[-1] += 1
            server.clock.rightNow += WORK_SECONDS / 100
            yield None

    with patch.object(Filter, "sift", slow_matches):
        client.dataReceived(request("ListIps", service="web", filter="zzz"))
        while not client.transport.value():
            looked_at.append(0)
            server.turns(1)
    assert rows_in(client) == (0, None)
    assert sum(looked_at) == 10_000
    assert max(looked_at) <= 101


# -- strangers


def v4(number: int) -> IPv4Address:
    return IPv4Address("TCP", f"192.0.2.{number}", 1)


def test_a_client_amid_its_handshake_makes_room_for_the_next(server: Server) -> None:
    strangers = [server.connect(v4(number), tls=True) for number in range(MAX_STRANGERS)]
    server.connect(v4(200), tls=True)
    assert [each.transport.was_aborted for each in strangers[:2]] == [True, False]
    assert len(server.factory.handshaking) == MAX_STRANGERS
    server.clock.advance(HELLO_SECONDS)
    assert all(each.transport.was_aborted for each in strangers)
    assert not server.factory.clients
    assert not server.clock.getDelayedCalls()


def test_many_from_one_host_do_not_drive_out_others(server: Server) -> None:
    operator = server.connect(v4(1), tls=True)
    for number in range(3 * MAX_STRANGERS):
        server.connect(IPv6Address("TCP", f"2001:db8::{number:x}", 1), tls=True)
    assert not operator.transport.was_aborted
    operator.handshakeCompleted()
    operator.dataReceived(HELLO)
    server.turns(2)
    assert count(operator) == 1


def test_who_has_completed_the_handshake_is_no_stranger(server: Server) -> None:
    operator = server.connect(v4(1), tls=True)
    operator.handshakeCompleted()
    for number in range(3 * MAX_STRANGERS):
        server.connect(v4(number), tls=True)
    assert not operator.transport.was_aborted
    assert len(server.factory.clients) == MAX_STRANGERS + 1


# -- the parser


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds)]


def taken(reader: BoxReader) -> list[dict[bytes, bytes]]:
    found = []
    while (each := reader.take()) is not None:
        found.append(dict(each))
    return found


KEYS = st.binary(min_size=1, max_size=255)
BOXES = st.lists(st.dictionaries(KEYS, st.binary(max_size=300), max_size=5), max_size=5)


@settings(max_examples=examples(50), deadline=None)
@given(BOXES, st.lists(st.integers(0, 10_000), max_size=5))
def test_boxes_are_found_however_they_are_cut(
    boxes: list[dict[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(
        b"".join(struct.pack("!H", len(each)) + each for pair in one.items() for each in pair)
        + b"\0\0"
        for one in boxes
    )
    reader, found = BoxReader(), []
    for part in parts(data, cuts):
        reader.add(part)
        found += taken(reader)
    assert found == boxes
    assert len(reader) == 0


@settings(max_examples=examples(50), deadline=None)
@given(st.binary(max_size=2000))
@example(b"\0\0" * 100)
@example(b"\0\x01k" * 100)
@example(b"\xff")
def test_any_bytes_are_boxes_or_malformed(data: bytes) -> None:
    reader = BoxReader()
    reader.add(data)
    try:
        taken(reader)
    except MalformedBox:
        pass
    assert len(reader) <= len(data)


@pytest.mark.parametrize(
    "part",
    [
        b"\0\x01k\0\0",  # the same key, again and again
        b"\0\x01k" + struct.pack("!H", 60_000) + b"v" * 60_000,
    ],
    ids=["keys", "bytes"],
)
def test_a_box_without_end_is_malformed(part: bytes) -> None:
    reader = BoxReader()

    def receive() -> None:
        for _ in range(BOX_KEYS + 1):
            reader.add(part)
            assert reader.take() is None
            assert len(reader) <= BOX_BYTES

    with pytest.raises(MalformedBox):
        receive()


def test_one_byte_at_a_time(server: Server) -> None:
    client = server.greeted()
    steps: list[Callable[[], None]] = [
        lambda byte=byte: client.dataReceived(byte)  # type: ignore[misc]
        for byte in (LIST[at : at + 1] for at in range(len(LIST)))
    ]
    for step in steps[:-1]:
        step()
        server.turns(1)
    assert count(client) == 0
    steps[-1]()
    server.turns(1)
    assert count(client) == 1
