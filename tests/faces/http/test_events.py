"""The feed as server-sent events: resumed without loss or repetition, or with what was missed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monconn.errors import UnknownService
from monconn.faces.http.events import HELD_SECONDS, MOST_CHANNELS, Channels
from monconn.faces.http.problems import Problem
from monconn.faces.http.sse import HEARTBEAT_SECONDS
from monconn.model.actions import OWN_CODE
from monconn.ops.filters import FilterError
from tests.ops.world import World

from .streaming import Client, Sent


@pytest.fixture
def world() -> World:
    return World("web", "ssh")


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    channels = Channels(world.operations)
    yield channels
    channels.close()
    world.clock.advance(2)  # the log sums up what it has left out
    assert world.clock.calls == []


def read(channels: Channels, last_id: str | None = None, filter: str = "") -> Client:
    return Client(channels.stream(None, filter, last_id))


def block(world: World, *numbers: int) -> None:
    """One event of each: its target has the number."""
    for each in numbers:
        world.operations.block(OWN_CODE, f"192.0.2.{each}")


def later(world: World) -> None:
    """Time enough for events to be sent, and less than that for a heartbeat."""
    world.clock.pump([0.05, 0, 0.05, 0])


def numbers(sent: list[Sent]) -> list[int]:
    assert {each.event for each in sent} <= {"action"}
    return [int(each.data["target"].partition("/")[0].rpartition(".")[2]) for each in sent]


def test_events_come_with_ids(world: World, channels: Channels) -> None:
    client = read(channels)
    block(world, 1, 2)
    (made,) = world.connect("web", "192.0.3.9")
    later(world)
    sent = client.take()
    assert [each.event for each in sent] == ["action", "action", "opened"]
    assert len({each.id for each in sent}) == 3
    assert all(each.id.startswith(f"{world.operations.token}-") for each in sent)
    assert sent[2].data["client"] == made.record.client


@pytest.mark.parametrize("got", range(4))
def test_one_who_connects_again_gets_what_it_lacks(
    world: World, channels: Channels, got: int
) -> None:
    client = read(channels)
    client.take()
    begin = client.last_id()
    block(world, 1, 2, 3)
    later(world)
    ids = [begin, *(each.id for each in client.take())]
    client.leave()
    block(world, 4, 5)
    other = read(channels)
    block(world, 6)
    later(world)
    assert numbers(other.take()) == [6]
    resumed = read(channels, ids[got])
    block(world, 7)
    later(world)
    assert numbers(resumed.take()) == list(range(got + 1, 8))
    assert numbers(other.take()) == [7]


def test_each_position_is_resumed_while_events_come(world: World, channels: Channels) -> None:
    """A client whose connection is lost after every third event gets each of them once."""
    got: list[int] = []
    client = read(channels)
    for number in range(1, 60):
        block(world, number)
        if number % 7 == 0:
            later(world)
        if number % 3 == 0:
            got += numbers(client.take())
            client.leave()
            client = read(channels, client.last_id())
    later(world)
    got += numbers(client.take())
    assert got == list(range(1, 60))


def test_what_is_not_held_any_more_is_counted(
    world: World, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.faces.http.events.MOST_HELD_EVENTS", 3)
    client = read(channels)
    block(world, 1)
    later(world)
    (first,) = client.take()
    client.leave()
    block(world, 2, 3, 4, 5, 6)
    resumed = read(channels, first.id)
    later(world)
    missed, *rest = resumed.take()
    assert (missed.event, missed.data) == ("missed", {"events": 2})
    assert numbers(rest) == [4, 5, 6]
    # Whoever is cut off right after that is not told once more.
    again = read(channels, missed.id)
    later(world)
    assert numbers(again.take()) == [4, 5, 6]


@pytest.mark.parametrize(
    "last_id", ["0123456789abcdef-1-1", "nonsense", "", "-", "١", "{token}-1-9", "{token}-7-0"]
)
def test_where_it_is_not_known_how_many_that_is_said(
    world: World, channels: Channels, last_id: str
) -> None:
    read(channels)
    block(world, 1)
    client = read(channels, last_id.format(token=world.operations.token))
    block(world, 2)
    later(world)
    missed, action = client.take()
    assert (missed.event, missed.data) == ("missed", {"events": None})
    assert numbers([action]) == [2]


def test_an_id_of_another_filter_tells_nothing(world: World, channels: Channels) -> None:
    client = read(channels, filter="event:action")
    block(world, 1)
    later(world)
    last_id = client.take()[0].id
    assert read(channels, last_id, "event:alarm").take()[0].event == "missed"


def test_a_slow_client_is_sent_the_rest_later(
    world: World, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other = read(channels), read(channels)
    client.be_slow()
    block(world, 1, 2, 3)
    later(world)
    assert client.take() == []
    assert numbers(other.take()) == [1, 2, 3]
    monkeypatch.setattr("monconn.faces.http.events.MOST_HELD_EVENTS", 4)
    block(world, 4, 5, 6)
    later(world)
    client.catch_up()
    later(world)
    missed, *rest = client.take()
    assert (missed.data, numbers(rest)) == ({"events": 2}, [3, 4, 5, 6])


def test_a_long_rest_is_sent_in_pieces_until_the_client_is_slow(
    world: World, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.faces.http.events.PIECE_BYTES", 500)
    client = read(channels)
    client.be_slow()
    block(world, *range(1, 30))
    later(world)
    write = client.writer.write

    def write_and_be_slow(data: bytes) -> None:
        write(data)
        client.be_slow()

    monkeypatch.setattr(client.writer, "write", write_and_be_slow)
    got: list[int] = []
    for _ in range(40):
        client.catch_up()
        later(world)
        sent = client.take()
        assert len(sent) < 5
        got += numbers(sent)
    assert got == list(range(1, 30))


def test_events_that_come_too_fast_are_counted(
    world: World, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = read(channels)
    later(world)
    monkeypatch.setattr(world.operations.feed._room, "take", lambda: False)
    block(world, 1, 2)
    monkeypatch.undo()
    block(world, 3)
    later(world)
    missed, action = client.take()
    assert (missed.data, numbers([action])) == ({"events": 2}, [3])
    monkeypatch.setattr(world.operations.feed._room, "take", lambda: False)
    block(world, 4)
    world.clock.advance(HEARTBEAT_SECONDS)
    later(world)
    (missed,) = client.take()  # though nothing came after it
    assert missed.data == {"events": 1}


def test_heartbeats(world: World, channels: Channels) -> None:
    client = read(channels)
    later(world)
    client.take()
    world.clock.pump([HEARTBEAT_SECONDS] * 3)
    assert client.comments() == 3
    client.be_slow()
    world.clock.pump([HEARTBEAT_SECONDS] * 3)
    assert client.comments() == 0


def test_events_are_written_together(world: World, channels: Channels) -> None:
    client = read(channels)
    later(world)
    client.take()
    block(world, *range(1, 50))
    later(world)
    assert len(client.writer.written) == 1
    assert numbers(client.take()) == list(range(1, 50))


def test_nobody_reading_costs_nothing_after_a_while(world: World, channels: Channels) -> None:
    client = read(channels)
    later(world)
    client.leave()
    client.leave()
    assert len(world.operations.feed._subscriptions) == 1
    world.clock.advance(HELD_SECONDS)
    world.clock.advance(0)
    assert len(world.operations.feed._subscriptions) == len(channels) == 0
    assert world.clock.calls == []


def test_filters_are_bounded(world: World, channels: Channels) -> None:
    clients = [read(channels, filter=f"client:192.0.2.{n}") for n in range(MOST_CHANNELS)]
    with pytest.raises(Problem, match="filters are read already"):
        read(channels, filter="client:192.0.2.99")
    read(channels, filter="client:192.0.2.1").leave()
    clients[7].leave()
    read(channels, filter="client:192.0.2.99")
    assert len(channels) == MOST_CHANNELS


def test_mistakes(channels: Channels) -> None:
    with pytest.raises(UnknownService):
        channels.stream("nope")
    with pytest.raises(FilterError):
        channels.stream(None, "nope:1")
    assert len(channels) == 0


def test_streams_end_with_the_server(world: World, channels: Channels) -> None:
    client = read(channels)
    channels.close()
    assert client.writer.is_finished


def test_a_service_that_was_removed_is_unknown_while_others_read(
    world: World, channels: Channels
) -> None:
    reader = Client(channels.stream("ssh"))
    world.registry.delete("ssh")
    with pytest.raises(UnknownService):
        channels.stream("ssh")
    assert not reader.writer.is_finished
