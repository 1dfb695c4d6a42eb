"""An End's phases and holds, on both data paths."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from monconn.model.reasons import Direction
from monconn.policy.sides import Keepalive
from monconn.relay.ends import (
    HOLD_CONNECTING,
    HOLD_FULL,
    HOLD_PAUSE,
    HOLD_RATE,
    HOLD_STAGE,
    PHASES,
    End,
    Phase,
)
from monconn.relay.relay import Relay

from .test_relay import Stage
from .world import PIPES, World, exactly, to_the_end, until, until_settled

HOLDS = (HOLD_CONNECTING, HOLD_FULL, HOLD_STAGE, HOLD_PAUSE, HOLD_RATE)
VERBS = ("end_writing", "close", "reset", "abort", "set_keepalive", "hold", "release")


def call(end: End, verb: str) -> None:
    if verb == "hold":
        end.hold(HOLD_PAUSE)
    elif verb == "release":
        end.release(HOLD_PAUSE)
    elif verb == "set_keepalive":
        end.set_keepalive(Keepalive())
    else:
        getattr(end, verb)()


def relay_of(world: World) -> Relay:
    relay = world.monitor.live.by_id[world.live().id]
    assert isinstance(relay, Relay)
    return relay


# -- holds


def test_each_hold_has_a_flag_of_its_own() -> None:
    assert sum(HOLDS) == HOLDS[0] | HOLDS[1] | HOLDS[2] | HOLDS[3] | HOLDS[4]


def test_the_client_is_read_from_again_once_no_hold_is_left() -> None:
    stage = Stage().open()
    stage.relay.hold("up", HOLD_PAUSE)
    stage.relay.filled(stage.backend)
    stage.clock.advance(5)
    stage.relay.drained(stage.backend)
    assert (stage.client.holds, stage.record.reading_since) == (HOLD_PAUSE, None)
    stage.relay.release("up", HOLD_PAUSE)
    assert (stage.client.holds, stage.record.reading_since) == (0, 1005)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_holders_do_not_release_each_other(
    tmp_path: Path, pipe: str, direction: Direction
) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            until(lambda: world.live().state == "open")
            relay = relay_of(world)
            sender, receiver = (client, backend) if direction == "up" else (backend, client)
            taken = lambda: relay.record.up if direction == "up" else relay.record.down  # noqa: E731
            data = bytes(20_000_000)
            # Back-pressure and a pause at the same time.
            sending = world.meanwhile(sender.sendall, data)
            before = until_settled(taken)
            end = relay.client if direction == "up" else relay.backend
            assert end.holds == HOLD_FULL
            world.on_reactor(relay.hold, direction, HOLD_PAUSE)
            receiving = world.meanwhile(exactly, receiver, before)
            receiving.result()  # there is room again, but it is paused still
            assert until_settled(taken) == before
            assert end.holds == HOLD_PAUSE
            world.on_reactor(relay.hold, direction, HOLD_STAGE)
            world.on_reactor(relay.release, direction, HOLD_PAUSE)
            assert until_settled(taken) == before
            receiving = world.meanwhile(exactly, receiver, len(data) - before)
            world.on_reactor(relay.release, direction, HOLD_STAGE)
            receiving.result()
            sending.result()
            assert (end.holds, taken()) == (0, len(data))

    await deferToThread(play)


@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_a_pause_while_connecting_outlasts_it(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            relays: list[Relay] = []
            opened = world.monitor.opened

            def pause(relay: Relay) -> None:
                relays.append(relay)
                opened(relay)
                relay.hold("down", HOLD_PAUSE)
                relay.hold("up", HOLD_PAUSE)

            world.on_reactor(setattr, world.monitor, "opened", pause)
            client, backend = world.pair()
            client.sendall(b"up")
            backend.sendall(b"down")
            until(lambda: relays and relays[0].record.state == "open")
            moved = until_settled(lambda: relays[0].record.up + relays[0].record.down)
            assert moved == 0
            for direction in ("up", "down"):
                world.on_reactor(relays[0].release, direction, HOLD_PAUSE)
            assert (exactly(backend, 2), exactly(client, 4)) == (b"up", b"down")

    await deferToThread(play)


# -- phases


@attrs.define
class Recorded:
    """The phases that an End was seen in."""

    seen: list[Phase]

    def check(self) -> None:
        places = [PHASES.index(phase) for phase in self.seen]
        assert places == sorted(places), self.seen


@pytest.mark.parametrize("pipe", ["stream", "splice", "stream_to_plain", "plain_to_stream"])
@pytest_twisted.ensureDeferred
async def test_phases_never_go_back_whatever_is_asked(tmp_path: Path, pipe: str) -> None:
    """Any calls in any order; every connection ends, once."""

    @settings(max_examples=25, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(VERBS), st.sampled_from(["client", "backend"])), max_size=6
        ),
        early=st.booleans(),
    )
    def play(steps: list[tuple[str, str]], early: bool) -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client = world.client()
            if not early:
                until(lambda: world.live().state == "open")
            relay = relay_of(world)
            ends = {"client": relay.client, "backend": relay.backend}
            recorded = {side: Recorded([end.phase]) for side, end in ends.items()}

            def step(verb: str, side: str) -> None:
                call(ends[side], verb)
                for name, end in ends.items():
                    recorded[name].seen.append(end.phase)

            for verb, side in steps:
                world.on_reactor(step, verb, side)
            world.on_reactor(relay.end, "operator", True)
            until(lambda: not len(world.monitor))
            for side, end in ends.items():
                recorded[side].seen.append(end.phase)
                recorded[side].check()
                assert end.phase == "closed"
                for verb in VERBS:
                    world.on_reactor(call, end, verb)  # harmless
                assert end.phase == "closed"
            assert len(world.monitor.closed_records) == 1
            to_the_end(client)

    await deferToThread(play)
