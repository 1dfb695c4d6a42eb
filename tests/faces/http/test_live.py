"""The stream of a page: ticks for all, what is rare, and nothing while nobody watches."""

from __future__ import annotations

import pytest

from monconn.faces.http.caller import Caller
from monconn.faces.http.live import GATHERING_SECONDS, RECENT_FIELDS, RECENT_TICKS
from monconn.faces.http.shared import Shared
from monconn.model.actions import OWN_CODE
from monconn.model.alarms import Alarm
from tests.ops.world import World

from .streaming import Client

ALICE = Caller("view", "alice", "session")


@pytest.fixture
def world() -> World:
    return World("web", "ssh")


@pytest.fixture
def shared(world: World) -> Shared:
    return Shared(world.operations)


def watch(shared: Shared) -> Client:
    return Client(shared.live.stream(ALICE))


def observers(world: World) -> int:
    return sum(len(m.observers.by_hook["alarmed"]) for m in world.registry)


def test_one_who_joins_is_told_who_it_is_and_the_figures(world: World, shared: Shared) -> None:
    world.connect("web", "192.0.2.1", "192.0.2.2")
    hello, tick = watch(shared).take()
    assert hello.event == "hello"
    assert (hello.data["role"], hello.data["name"]) == ("view", "alice")
    assert hello.data["served"] == world.operations.token
    assert (tick.event, tick.data["sequence"], tick.data["connections"]) == ("tick", 1, 2)
    assert [each["sid"] for each in tick.data["services"]] == ["web", "ssh"]


def test_a_second_is_made_once_for_all(world: World, shared: Shared) -> None:
    first, second = watch(shared), watch(shared)
    first.take()
    assert [each.event for each in second.take()] == ["hello", "recent", "tick"]
    (made,) = world.connect("web", "192.0.2.1")
    made.end("client_closed")
    world.clock.advance(1)
    (tick,) = first.take()
    assert [tick] == second.take()
    assert tick.data["sequence"] == 2
    web = tick.data["services"][0]
    assert (web["total"], web["closed_by"]) == (1, {"client_closed": 1})


def test_one_who_joins_gets_the_ticks_of_the_last_minutes(world: World, shared: Shared) -> None:
    first = watch(shared)
    for _ in range(RECENT_TICKS + 5):
        world.clock.advance(1)
    ticks = [each.data for each in first.take() if each.event == "tick"]
    _, recent, tick = watch(shared).take()
    held = recent.data["ticks"]
    assert [each["sequence"] for each in held] == [
        each["sequence"] for each in ticks[-RECENT_TICKS:]
    ]
    assert tuple(held[-1]["services"][0]) == RECENT_FIELDS
    assert tick.data == ticks[-1]


def test_what_is_held_is_bounded_in_bytes(
    world: World, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.faces.http.live.RECENT_BYTES", 1000)
    watch(shared)
    for _ in range(10):
        world.clock.advance(1)
    _, recent, _ = watch(shared).take()
    assert 0 < len(recent.data["ticks"]) < 5


def test_nobody_watching_costs_nothing(world: World, shared: Shared) -> None:
    before = observers(world), len(world.clock.calls)
    clients = [watch(shared) for _ in range(3)]
    world.clock.advance(5)
    assert (observers(world), len(world.clock.calls)) != before
    for each in clients:
        each.leave()
    world.clock.advance(0)  # the turn in which there was work is over
    assert (observers(world), len(world.clock.calls)) == before
    assert len(shared.live) == 0
    # Nor is what was held then told as if it were of these minutes.
    assert [each.event for each in watch(shared).take()] == ["hello", "tick"]


def test_leaving_amid_a_tick_ends_it(world: World, shared: Shared) -> None:
    world.connect("web", *["192.0.2.1"] * 50)
    client = watch(shared)
    world.clock.advance(1)
    client.leave()
    client.leave()
    world.clock.advance(3)
    assert world.clock.calls == []


def test_alarms_and_actions_come_as_they_happen(world: World, shared: Shared) -> None:
    client = watch(shared)
    client.take()
    world.connect("web", "192.0.2.1")
    world.registry.get("web").alarm(Alarm("silent", "web", "192.0.2.1", 1.0, False, "said nothing"))
    world.operations.block(OWN_CODE, "192.0.2.1")
    world.clock.advance(GATHERING_SECONDS)
    alarm, action = client.take()
    assert (alarm.event, alarm.data["alarm"]) == ("alarm", "silent")
    assert (action.event, action.data["action"]) == ("action", "block")


def test_no_row_is_made_of_what_comes_and_goes(
    world: World, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(shared)
    monkeypatch.setattr("monconn.ops.feed.connection_row", lambda *_: pytest.fail("a row is made"))
    (made,) = world.connect("web", "192.0.2.1")
    made.end("client_closed")


def test_a_slow_reader_is_told_what_it_has_missed(world: World, shared: Shared) -> None:
    client = watch(shared)
    client.take()
    client.be_slow()
    world.clock.pump([1, 1, 1])
    world.operations.block(OWN_CODE, "192.0.2.1")
    world.operations.unblock(OWN_CODE, "192.0.2.1")
    world.clock.advance(GATHERING_SECONDS)
    assert client.take() == []
    client.catch_up()
    (missed,) = client.take()
    assert (missed.event, missed.data) == ("missed", {"events": 2})
    world.clock.advance(1)
    (tick,) = client.take()
    assert (tick.event, tick.data["sequence"]) == ("tick", 5)


def test_many_alarms_are_written_together_and_within_a_bound(
    world: World, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = watch(shared)
    client.take()
    for number in range(30):
        world.operations.block(OWN_CODE, f"192.0.2.{number}")
    world.clock.advance(GATHERING_SECONDS)
    assert len(client.writer.written) == 1
    assert len(client.take()) == 30
    monkeypatch.setattr("monconn.faces.http.live.RARE_BYTES", 1000)
    for number in range(30):
        world.operations.unblock(OWN_CODE, f"192.0.2.{number}")
    world.clock.advance(GATHERING_SECONDS)
    *actions, missed = client.take()
    assert 0 < len(actions) < 5
    assert missed.data == {"events": 30 - len(actions)}


def test_a_service_that_comes_and_goes_is_in_the_ticks(world: World, shared: Shared) -> None:
    client = watch(shared)
    world.registry.new("dns", clock=world.clock)
    world.registry.delete("ssh")
    world.clock.advance(1)
    assert [each["sid"] for each in client.take()[-1].data["services"]] == ["web", "dns"]
