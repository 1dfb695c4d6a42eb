"""Taps on real connections: they come and go, and no byte is lost, repeated or out of order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.flow import Began, Data, Ended, FlowEvent
from monconn.model.reasons import Direction
from monconn.monitor.registry import Registry
from monconn.ops.taps import Tap, Taps
from tests.relay.world import MOVES, World, exactly, to_the_end, until

from .tapping import taken

ROUNDS = 6
SIZE = 400_000
STREAMS: dict[Direction, bytes] = {
    "up": random.Random(1).randbytes(ROUNDS * SIZE),
    "down": random.Random(2).randbytes(ROUNDS * SIZE),
}


def seen_bytes(events: list[FlowEvent]) -> int:
    """How many bytes the events have, each of which must be what was sent at its offset."""
    count = 0
    for event in events:
        if isinstance(event, Data):
            stream = STREAMS[event.direction]
            assert event.data == stream[event.offset : event.offset + len(event.data)]
            count += len(event.data)
    return count


@pytest.mark.parametrize("pipe", ["stream", "splice", "nested", "tls_to_plain"])
@pytest_twisted.ensureDeferred
async def test_put_on_and_taken_off_a_running_connection(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            registry = Registry()
            registry.add(world.monitor)
            taps = Taps(registry, world.monitor.clock)
            pairs = [world.pair() for _ in range(2)]
            until(lambda: len(world.monitor) == 2)
            relay, other_relay = world.monitor.live.by_id.values()
            tapped, other = relay.record, other_relay.record
            moved = []
            for number in range(ROUNDS):
                tap: Tap | None = None
                if number % 2 == 0:
                    tap = world.on_reactor(taps.open, lambda _: None, ids=[tapped.id])
                    assert tap is not None
                    assert len(tap) == 1
                part = slice(number * SIZE, (number + 1) * SIZE)
                for client, backend in pairs:
                    receiving = world.meanwhile(exactly, backend, SIZE)
                    answering = world.meanwhile(exactly, client, SIZE)
                    sending = world.meanwhile(backend.sendall, STREAMS["down"][part])
                    client.sendall(STREAMS["up"][part])
                    assert receiving.result() == STREAMS["up"][part]
                    assert answering.result() == STREAMS["down"][part]
                    sending.result()
                moved.append((tapped.pipe, other.pipe))
                is_watched = [each.client.is_watched for each in (relay, other_relay)]  # type: ignore[attr-defined]
                assert is_watched == [tap is not None, False]
                if tap is not None:
                    events = world.on_reactor(taken, tap)
                    assert isinstance(events[0], Began)
                    assert (events[0].up, events[0].down) == (part.start, part.start)
                    assert seen_bytes(events) == 2 * SIZE
                    assert tap.dropped_bytes == 0
                    world.on_reactor(tap.close)
            usual = MOVES[pipe][-1]
            first = "copy" if usual == "splice" else usual  # and "splice" once it was spliced
            assert moved == [(first, usual), *[(usual, usual)] * (ROUNDS - 1)]
            last = world.on_reactor(taps.open, lambda _: None)
            for client, backend in pairs:
                client.close()
                assert to_the_end(backend)[0] == b""
                backend.close()
            until(lambda: last.is_over)
            ends = [each for each in world.on_reactor(taken, last) if isinstance(each, Ended)]
            assert [each.reason for each in ends] == ["client_closed"] * 2
            assert len(taps) == 1

    await deferToThread(play)


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_tap_that_is_not_taken(tmp_path: Path) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", "splice") as world:
            registry = Registry()
            registry.add(world.monitor)
            taps = Taps(registry, world.monitor.clock)
            tap = world.on_reactor(taps.open, lambda _: None, follow=True, queue_bytes=SIZE)
            client, backend = world.pair()
            receiving = world.meanwhile(exactly, backend, len(STREAMS["up"]))
            client.sendall(STREAMS["up"])
            assert receiving.result() == STREAMS["up"]
            seen = seen_bytes(world.on_reactor(taken, tap))
            assert seen <= SIZE
            assert seen + tap.dropped_bytes == len(STREAMS["up"])
            world.on_reactor(tap.close)

    await deferToThread(play)
