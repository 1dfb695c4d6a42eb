"""Streams: how many a caller may have, and that they end with the server."""

from __future__ import annotations

import pytest

from monconn.faces.http.caller import Caller
from monconn.faces.http.problems import Problem
from monconn.faces.http.shared import STREAMS_OF_CALLER, Shared
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
