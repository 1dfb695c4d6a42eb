"""Streams: how many a caller may have, and that they end with its right to them."""

from __future__ import annotations

import pytest

from monconn.faces.http.caller import Caller
from monconn.faces.http.problems import Problem
from monconn.faces.http.shared import CHECK_SECONDS, STREAMS_OF_CALLER, Shared
from tests.ops.world import World

from .streaming import Client


def test_the_streams_of_a_caller_are_limited() -> None:
    world = World("web")
    shared = Shared(world.operations)
    alice, bob = (Caller("view", name, "token") for name in ("alice", "bob"))
    streams = [shared.answer(alice, shared.live.stream(alice)) for _ in range(STREAMS_OF_CALLER)]
    with pytest.raises(Problem, match="alice has 96 streams already") as caught:
        shared.check_room(alice)
    assert caught.value.status == 429
    shared.check_room(bob)
    Client(streams[0].body).leave()
    shared.check_room(alice)


def test_a_stream_ends_once_its_caller_may_have_it_no_more() -> None:
    world = World("web")
    shared = Shared(world.operations)
    may = {"alice", "bob"}
    alice, bob = (
        Client(shared.answer(caller, shared.live.stream(caller)).body)
        for caller in (
            Caller("view", name, "token", lambda name=name: name in may)  # type: ignore[misc]
            for name in ("alice", "bob")
        )
    )
    may.remove("bob")
    world.clock.advance(CHECK_SECONDS)
    assert (alice.writer.is_finished, bob.writer.is_finished) == (False, True)
    alice.leave()
    world.clock.advance(0)
    assert world.clock.calls == []


def test_all_streams_end_with_the_server() -> None:
    world = World("web")
    shared = Shared(world.operations)
    alice = Caller("view", "alice", "token")
    clients = [
        Client(shared.answer(alice, stream).body)
        for stream in (shared.live.stream(alice), shared.events.stream())
    ]
    shared.close()
    assert all(each.writer.is_finished for each in clients)
    world.clock.advance(0)
    assert world.clock.calls == []
