"""What is recorded of a connection, as operators ask for it."""

from __future__ import annotations

import attrs
import pytest

from monconn.errors import Forbidden, MonconnError, NotConfigured, UnknownConnection
from monconn.model.actions import Actor
from monconn.model.flow import Data, Ended
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings

from .tapping import WatchableConnection
from .world import World

ACTOR = Actor.process(1000, 42, "ada")


def world_with(**settings: object) -> World:
    world = World("web")
    world.registry.get("web").apply(Policy.of(**settings))
    return world


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_recording_is_read_and_that_is_an_action(is_closed: bool) -> None:
    world = world_with(recorder=True)
    connection = WatchableConnection(world.registry.get("web")).open()
    connection.data("up", b"ping")
    if is_closed:
        connection.end("client_lost")
    record = connection.record
    for wanted, how, target in ((record.id, None, ""), (record.uid, "hex", " (hex)")):
        _, data, end = world.operations.recording(ACTOR, wanted, how=how)
        assert isinstance(data, Data)
        assert data.data == b"ping"
        assert isinstance(end, Ended)
        assert end.reason == ("client_lost" if is_closed else None)
        action = world.actions.all[-1]
        assert (action.kind, action.service, action.target) == (
            "read_recording",
            "web",
            f"connection {record.id}{target}",
        )
    assert len(world.actions.all) == 2


def problem(world: World, connection_id: int | str, kind: type[MonconnError]) -> str:
    with pytest.raises(kind) as raised:
        world.operations.recording(ACTOR, connection_id)
    assert world.actions.all == []
    return str(raised.value)


def test_why_there_is_none() -> None:
    world = world_with()
    web = world.registry.get("web")
    before = WatchableConnection(web).open().record.id
    why = problem(world, before, NotConfigured)
    assert "no recorder (recorder: true in a file, --record beside -p)" in why
    web.apply(Policy.of(recorder=RecorderSettings(keep=1)))
    assert "before its service had a recorder" in problem(world, before, UnknownConnection)
    ids = []
    for _ in range(2):
        connection = WatchableConnection(web).open()
        ids.append(connection.record.id)
        connection.end("client_closed")
    assert "keep: …" in problem(world, ids[0], UnknownConnection)
    assert "no connection has the id" in problem(world, ids[1] + 1, UnknownConnection)
    web.apply(Policy.of(payload="never"))
    assert "payload: never" in problem(world, ids[1], Forbidden)


def test_show_says_that_there_is_one() -> None:
    world = world_with(recorder=RecorderSettings(first=3, last=4))
    connection = WatchableConnection(world.registry.get("web")).open()
    connection.data("up", bytes(100))
    connection.data("down", bytes(2))
    for _ in range(2):
        row = world.result(world.operations.connection(connection.record.id))
        assert row.recorded == 3 + 4 + 2
        connection.end("client_closed")
    unrecorded = attrs.evolve(row, recorded=None)
    assert "recorded" not in unrecorded.to_json()


def test_recordings_are_forgotten_with_their_client() -> None:
    world = world_with(recorder=True)
    web = world.registry.get("web")
    WatchableConnection(web).open().end("client_closed")
    live = WatchableConnection(web).open()
    other = WatchableConnection(web, "192.0.2.2").open()
    done = world.result(world.operations.forget(ACTOR, "192.0.2.1"))
    assert done.removed["recordings"] == 2
    assert "recordings of bytes 2" in done.summary()
    world.actions.all.clear()
    assert "forgotten" in problem(world, live.record.id, UnknownConnection)
    assert world.operations.recording(ACTOR, other.record.id)
