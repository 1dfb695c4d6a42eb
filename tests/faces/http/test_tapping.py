"""Taps as server-sent events: resumed within some seconds, with what was dropped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from monconn.errors import UnknownConnection
from monconn.faces.http.caller import Caller
from monconn.faces.http.sse import HEARTBEAT_SECONDS, EventStream
from monconn.faces.http.tapping import HELD_SECONDS, MOST_HELD_BYTES, PIECE_BYTES, HttpTaps
from monconn.ops.taps import QUEUE_BYTES
from tests.ops.tapping import WatchableConnection
from tests.ops.world import World

from .streaming import Client, Sent

ALICE = Caller("operate", "alice", "token")


@pytest.fixture
def world() -> World:
    return World("web")


@pytest.fixture
def live(world: World) -> WatchableConnection:
    return WatchableConnection(world.registry.get("web")).open()


@pytest.fixture
def taps(world: World) -> Iterator[HttpTaps]:
    taps = HttpTaps(world.operations)
    yield taps
    taps.close()
    world.clock.advance(2)  # the log sums up what it has left out
    assert (len(taps), len(world.operations.taps)) == (0, 0)
    assert world.clock.calls == []


def opened(taps: HttpTaps, caller: Caller = ALICE, **arguments: Any) -> EventStream:
    """A tap, or what raising it has raised."""
    opening = taps.open(caller, **arguments)
    results: list[Any] = [opening]
    if isinstance(opening, Deferred):
        opening.addBoth(results.append)
        taps.operations.clock.advance(0)  # type: ignore[attr-defined]
    if not isinstance(results[-1], EventStream):
        results[-1].raiseException()
    stream: EventStream = results[-1]
    return stream


def take(world: World, client: Client) -> list[Sent]:
    world.clock.pump([0] * 300)
    return client.take()


def data_of(sent: list[Sent]) -> bytes:
    return b"".join(base64.b64decode(e.data["data"]) for e in sent if e.event == "data")


def test_events_come_until_the_connection_ends(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps, filter=str(live.record.id)))
    started, began = take(world, client)
    assert (started.event, started.data["connections"], began.event) == ("started", 1, "began")
    live.data("up", b"hello")
    live.data("down", b"\x00\xff")
    live.end("client_closed")
    sent = take(world, client)
    assert [each.event for each in sent] == ["data", "data", "ended", "end"]
    assert [each.data.get("direction") for each in sent[:2]] == ["up", "down"]
    assert data_of(sent) == b"hello\x00\xff"
    assert sent[2].data["reason"] == "client_closed"
    assert sent[3].data == {"dropped_bytes": 0, "left_out": 0}
    assert client.writer.is_finished
    # A browser connects again all the same, and is told not to.
    assert taps.open(ALICE, filter=str(live.record.id), last_id=sent[-1].id) is None


def test_one_who_connects_again_lacks_nothing_and_gets_nothing_twice(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps, follow=True))
    got = b""
    for number in range(60):
        live.data("up", b"%03d" % number)
        if number % 5 == 0:
            got += data_of(take(world, client))
        if number % 7 == 0:
            client.leave()
            live.data("up", b"-")
            client = Client(opened(taps, follow=True, last_id=client.last_id()))
    got += data_of(take(world, client))
    assert got.replace(b"-", b"") == b"".join(b"%03d" % number for number in range(60))
    assert got.count(b"-") == 9
    assert len(taps) == 1


def test_what_was_sent_and_has_not_arrived_is_sent_again(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps))
    last_id = take(world, client)[-1].id
    live.data("up", b"lost")
    live.data("up", b" on the way")
    assert data_of(take(world, client)) == b"lost on the way"
    again = Client(opened(taps, last_id=last_id))
    assert client.writer.is_finished  # though nobody has noticed that it has left
    assert data_of(take(world, again)) == b"lost on the way"


def test_a_tap_stays_open_for_some_seconds(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps))
    last_id = take(world, client)[-1].id
    client.leave()
    client.leave()
    assert live.is_watched
    world.clock.advance(HELD_SECONDS)
    assert not live.is_watched
    missed, started, began = take(world, Client(opened(taps, last_id=last_id)))
    assert (missed.event, missed.data) == ("missed", {"events": None})
    assert (started.event, began.event) == ("started", "began")


def test_nobody_else_gets_it(world: World, taps: HttpTaps, live: WatchableConnection) -> None:
    last_id = take(world, Client(opened(taps)))[-1].id
    bob = Caller("operate", "bob", "token")
    assert take(world, Client(opened(taps, bob, last_id=last_id)))[0].event == "missed"
    assert take(world, Client(opened(taps, follow=True, last_id=last_id)))[0].event == "missed"
    assert len(taps) == 3


def test_what_a_slow_client_does_not_take_is_dropped_and_counted(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps))
    take(world, client)
    client.be_slow()
    chunk = bytes(60_000)
    for _ in range(2 * QUEUE_BYTES // len(chunk)):
        live.data("down", chunk)
    assert take(world, client) == []
    client.catch_up()
    sent = take(world, client)
    (dropped,) = [each for each in sent if each.event == "dropped"]
    assert len(data_of(sent)) + dropped.data["bytes"] == live.record.down
    assert dropped.data["bytes"] > 0
    assert all(len(base64.b64decode(e.data.get("data", ""))) <= PIECE_BYTES for e in sent)


def test_what_is_held_to_be_sent_again_is_bounded(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    client = Client(opened(taps))
    last_id = take(world, client)[-1].id
    for _ in range(5 * MOST_HELD_BYTES // 40_000):
        live.data("down", bytes(40_000))
        world.clock.pump([0] * 3)
    (tap,) = taps._taps
    assert sum(map(len, tap._held)) <= MOST_HELD_BYTES
    events = len(take(world, client))
    missed, *rest = take(world, Client(opened(taps, last_id=last_id)))
    assert missed.event == "missed"
    assert missed.data["events"] + len(rest) == events


def test_heartbeats(world: World, taps: HttpTaps, live: WatchableConnection) -> None:
    client = Client(opened(taps))
    take(world, client)
    world.clock.pump([HEARTBEAT_SECONDS] * 2)
    assert client.comments() == 2


def test_mistakes_leave_no_tap(world: World, taps: HttpTaps) -> None:
    with pytest.raises(UnknownConnection):
        opened(taps, filter="99")
    assert len(taps) == 0


def test_one_that_leaves_before_it_is_open_leaves_no_tap(
    world: World, taps: HttpTaps, live: WatchableConnection
) -> None:
    opening = taps.open(ALICE)
    if isinstance(opening, Deferred):
        opening.addErrback(lambda _: None)
        opening.cancel()
    opened(taps).stop()  # and one whose answer was not begun
    world.clock.advance(HELD_SECONDS)
    assert not live.is_watched


def test_many_that_are_left_are_closed_one_by_one(
    world: World, taps: HttpTaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [Client(opened(taps, follow=True)) for _ in range(3)]
    last = take(world, clients[0])[-1]
    for each in clients:
        each.leave()
    waiting: list[Any] = []
    monkeypatch.setattr(taps.queue, "add", waiting.append)
    world.clock.advance(HELD_SECONDS)
    assert (len(taps), len(waiting)) == (3, 3)
    # One of them is asked for again in time.
    back = Client(opened(taps, follow=True, last_id=last.id))
    for count, call in zip((3, 2, 1), waiting[:3], strict=True):
        call()
        assert len(taps) == count
    monkeypatch.undo()
    world.clock.advance(0)
    back.leave()
