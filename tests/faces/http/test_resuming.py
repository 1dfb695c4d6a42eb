"""Streams under any sequence of events, cuts and stalls: nothing is lost without being counted."""

from __future__ import annotations

import base64
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.faces.http.caller import Caller
from monconn.faces.http.events import Channels
from monconn.faces.http.sse import EventStream
from monconn.faces.http.tapping import HttpTaps
from monconn.model.actions import OWN_CODE
from tests.ops.tapping import WatchableConnection
from tests.ops.world import World
from tests.properties import examples

from .streaming import Client, Sent

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("happen"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["turn", "slow", "catch_up", "leave", "lose", "too_fast"])),
    ),
    max_size=40,
)


class Resumer:
    """A client that connects again each time, and knows what it has really received."""

    def __init__(self, connect: Any) -> None:
        self._connect = connect
        self.client = Client(connect(None))
        self.got: list[Sent] = []

    def take(self) -> None:
        self.got += self.client.take()

    def again(self, *, is_lost: bool) -> None:
        """Connect again; what was written lately may be lost on the way."""
        if is_lost:
            self.client.writer.written.clear()
        self.take()
        self.client.leave()
        last_id = self.client.last_id()
        self.client = Client(self._connect(last_id or None))
        self.client._last_id = last_id


def step(world: World, reader: Resumer, name: str) -> None:
    if name == "turn":
        world.clock.pump([0.05, 0, 0])
        reader.take()
    elif name == "slow":
        reader.client.be_slow()
    elif name == "catch_up":
        reader.client.catch_up()
    elif name in ("leave", "lose"):
        reader.again(is_lost=name == "lose")


@settings(max_examples=examples(60), deadline=None)
@given(STEPS, st.integers(1, 30), st.sampled_from([1, 700, 1 << 20]))
def test_events(steps: list[tuple[Any, ...]], held: int, piece: int) -> None:
    world = World("web")
    channels = Channels(world.operations)
    with (
        patch("monconn.faces.http.events.MOST_HELD_EVENTS", held),
        patch("monconn.faces.http.events.PIECE_BYTES", piece),
    ):
        reader = Resumer(lambda last_id: channels.stream(None, "event:action", last_id))
        reader.take()
        happened = 0

        def happen(count: int) -> None:
            nonlocal happened
            for _ in range(count):
                happened += 1
                world.operations.reset_stats(OWN_CODE)

        for name, *arguments in steps:
            if name == "happen":
                happen(*arguments)
            elif name == "too_fast":
                with patch.object(world.operations.feed._room, "take", lambda: False):
                    happen(2)
            else:
                step(world, reader, name)
        reader.client.catch_up()
        happen(1)  # after which what was dropped is told
        world.clock.pump([0.05, *[0] * 40, 0.05, *[0] * 40])
        reader.take()
        position = 0
        for each in reader.got:
            number = int(each.id.rpartition("-")[2])
            if each.event == "missed":
                assert number == position + each.data["events"]
            else:
                assert number == position + 1
            position = number
        assert position == happened
        channels.close()
        world.clock.advance(5)
        assert world.clock.calls == []


@settings(max_examples=examples(60), deadline=None)
@given(STEPS, st.sampled_from([0, 600, 1 << 20]), st.sampled_from([1, 300, 1 << 16]))
def test_bytes(steps: list[tuple[Any, ...]], held: int, turn: int) -> None:
    world = World("web")
    live = WatchableConnection(world.registry.get("web")).open()
    taps = HttpTaps(world.operations)
    alice = Caller("operate", "alice", "token")

    def connect(last_id: str | None) -> EventStream:
        opened: list[Any] = [taps.open(alice, follow=True, last_id=last_id)]
        if not isinstance(opened[0], EventStream):
            opened.pop().addCallback(opened.append)
        (stream,) = opened
        assert isinstance(stream, EventStream)
        return stream

    with (
        patch("monconn.faces.http.tapping.MOST_HELD_BYTES", held),
        patch("monconn.faces.http.tapping.TURN_BYTES", turn),
    ):
        reader = Resumer(connect)
        world.clock.pump([0, 0])
        reader.take()
        for name, *arguments in steps:
            if name == "happen":
                for _ in range(*arguments):
                    live.data("up", b"%06d" % live.record.up)
            else:
                step(world, reader, name)
        reader.client.catch_up()
        live.end("client_closed")
        world.clock.pump([0] * 300)
        reader.take()
        end, position = 0, 0
        for each in reader.got:
            number = int(each.id.rpartition("-")[2])
            before = each.data["events"] if each.event == "missed" else 1
            assert number == position + before
            position = number
            if each.event == "data":
                offset, data = each.data["offset"], base64.b64decode(each.data["data"])
                assert offset >= end
                assert data == b"%06d" % offset
                end = offset + len(data)
        if not any(each.event == "missed" for each in reader.got):
            assert end == live.record.up
        assert reader.got[-1].event == "ended"
        taps.close()
        world.clock.advance(5)
        assert world.clock.calls == []
        assert not live.is_watched
