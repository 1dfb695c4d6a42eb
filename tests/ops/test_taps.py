"""Taps: which connections they see, what they see of them, and what they may cost."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest
from twisted.python.failure import Failure

from monconn.errors import Forbidden, QuestionError, UnknownConnection
from monconn.model.actions import Actor
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.monitor.monitor import Monitor
from monconn.ops import taps
from monconn.ops.filters import FilterError
from monconn.ops.taps import EVENT_BYTES, Tap, TapResult
from monconn.policy.policy import Policy
from monconn.turns import in_turns

from .tapping import WatchableConnection, taken
from .world import World

ACTOR = Actor.process(1000, 7, "ada")


def ready(tap: Tap) -> None:
    """The test takes events when it likes."""


def opened(world: World, *terms: str, **arguments: Any) -> TapResult:
    done = world.result(world.operations.tap(ACTOR, ready, filter=terms or None, **arguments))
    if isinstance(done, Failure):
        done.raiseException()
    return done


def world_with(count: int) -> tuple[World, list[WatchableConnection]]:
    world = World("mqtt")
    monitor = world.registry.get("mqtt")
    return world, [WatchableConnection(monitor, f"192.0.2.{n + 1}").open() for n in range(count)]


def plain(events: Iterable[FlowEvent]) -> list[tuple[Any, ...]]:
    """Events without their times and what is known of the connection anyway."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Began):
            found.append(("began", event.connection, event.up, event.down))
        elif isinstance(event, Data):
            found.append((event.direction, event.offset, event.data))
        elif isinstance(event, SideEnded):
            found.append((event.side, event.how, event.offset))
        else:
            found.append(("ended", event.up, event.down, event.reason))
    return found


# -- what is seen


def test_a_connection_is_seen_from_its_middle_to_its_end() -> None:
    world, (seen, other) = world_with(2)
    seen.data("up", b"before")
    tap = opened(world, str(seen.record.id)).tap
    assert (len(tap), tap.is_over, other.is_watched) == (1, False, False)
    seen.data("up", b"hello")
    seen.data("down", b"hi")
    seen.record.note_end("client", "fin")
    world.registry.get("mqtt").half_closed(seen.record, "client")
    seen.record.note_end("backend", "reset")
    seen.end("backend_reset")
    assert tap.is_over
    assert plain(taken(tap)) == [
        ("began", seen.record.id, 6, 0),
        ("up", 6, b"hello"),
        ("down", 0, b"hi"),
        ("client", "fin", 11),
        ("backend", "reset", 2),
        ("ended", 11, 2, "backend_reset"),
    ]


def test_a_side_that_ended_before_is_said_at_the_beginning() -> None:
    world, (half,) = world_with(1)
    half.data("up", b"bye")
    half.record.note_end("client", "fin")
    tap = opened(world, str(half.record.id)).tap
    assert plain(taken(tap)) == [("began", half.record.id, 3, 0), ("client", "fin", 3)]


@pytest.mark.parametrize("set_back", [0, 3600])
def test_a_side_that_ended_before_has_its_own_time(set_back: float) -> None:
    world, (half,) = world_with(1)
    record = half.record
    record.opened_at = time.time() - 60 + set_back
    record.note_end("client", "fin")
    record.half_closed = record.opened + 20
    began, ended = taken(opened(world, str(record.id)).tap)
    expected = began.at if set_back else record.opened_at + 20
    assert ended.at == pytest.approx(expected, abs=1e-6)


def test_the_address_that_the_client_has_connected_to_is_asked_for() -> None:
    world, _ = world_with(1)
    (began,) = taken(opened(world).tap)
    assert isinstance(began, Began)
    assert began.client_local == "192.0.2.99:1883"


def test_without_follow_only_those_that_match_now() -> None:
    world, (first, second) = world_with(2)
    tap = opened(world, "client:192.0.2.1").tap
    WatchableConnection(world.registry.get("mqtt")).open()
    assert (len(tap), second.is_watched) == (1, False)
    first.end("operator")
    assert tap.is_over


def test_with_follow_those_that_are_opened_later_too() -> None:
    world, _ = world_with(1)
    tap = opened(world, "client:192.0.2.7", follow=True).tap
    assert (len(tap), tap.is_over) == (0, False)
    later = WatchableConnection(world.registry.get("mqtt"), "192.0.2.7").open()
    added = world.registry.new("new", clock=world.clock)
    at_a_new_service = WatchableConnection(added, "192.0.2.7").open()
    assert later.is_watched
    assert at_a_new_service.is_watched
    later.end("operator")
    at_a_new_service.end("operator")
    assert not tap.is_over


@pytest.mark.parametrize("knows_at_once", [False, True])
def test_a_filter_over_facts_gets_the_chunk_that_tells_them(knows_at_once: bool) -> None:
    world, (early,) = world_with(1)
    early.record.set_fact("mqtt_client_id", "pump-1")
    tap = opened(world, "fact.mqtt_client_id:pump-7", follow=True).tap
    late = WatchableConnection(world.registry.get("mqtt"))
    if knows_at_once:  # as from a preface
        late.record.set_fact("mqtt_client_id", "pump-7")
    late.open()
    assert late.is_watched == knows_at_once
    late.tell(b"CONNECT", mqtt_client_id="pump-7")
    late.data("down", b"CONNACK")
    world.clock.turn()
    assert plain(taken(tap)) == [
        ("began", late.record.id, 0, 0),
        ("up", 0, b"CONNECT"),
        ("down", 0, b"CONNACK"),
    ]
    assert not early.is_watched


def test_one_that_is_identified_begins_though_no_more_bytes_come() -> None:
    world, (quiet,) = world_with(1)
    tap = opened(world, "fact.mqtt_client_id:pump-7", follow=True).tap
    quiet.record.set_fact("mqtt_client_id", "pump-7")
    world.registry.get("mqtt").identified(quiet.record)
    world.clock.turn()
    assert plain(taken(tap)) == [("began", quiet.record.id, 0, 0)]


def test_a_service_alone_and_a_rate() -> None:
    world, (one,) = world_with(1)
    other = WatchableConnection(world.registry.new("web", clock=world.clock)).open()
    assert len(opened(world, service="web").tap) == 1
    assert (one.is_watched, other.is_watched) == (False, True)
    deferred = world.operations.tap(ACTOR, ready, filter="rate:1KiB..")
    one.data("up", bytes(100_000))
    assert len(world.result(deferred).tap) == 1
    assert one.is_watched


def test_ids_that_are_not_live() -> None:
    world, (live,) = world_with(1)
    known = str(live.record.id)
    assert opened(world, known, "999999").unknown == (999_999,)
    with pytest.raises(UnknownConnection, match="999999"):
        opened(world, "999999")
    with pytest.raises(FilterError):
        opened(world, "a bare word")


def test_the_first_bytes_of_each_direction() -> None:
    world, (live,) = world_with(1)
    tap = world.operations.taps.open(ready, first=4)
    live.data("up", b"12345")
    live.data("up", b"unseen")
    live.data("down", b"abc")
    assert live.is_watched
    live.data("down", b"de")
    assert not live.is_watched, "it is spliced again"
    live.data("up", b"unseen")
    live.end("operator")
    assert plain(taken(tap)) == [
        ("began", live.record.id, 0, 0),
        ("up", 0, b"1234"),
        ("down", 0, b"abc"),
        ("down", 3, b"d"),
        ("ended", 17, 5, "operator"),
    ]


# -- payload: never


def forbid(monitor: Monitor) -> None:
    monitor.apply(attrs.evolve(monitor.policy, payload="never"))


def test_services_that_forbid_it() -> None:
    world, (allowed,) = world_with(1)
    secret = world.registry.new("secret", policy=Policy(payload="never"), clock=world.clock)
    hidden = WatchableConnection(secret).open()
    refused: list[dict[str, Any]] = [
        {"service": "secret"},
        {"filter": "service:secret"},
        {"filter": str(hidden.record.id)},
        {"filter": f"{hidden.record.id} {allowed.record.id}"},
    ]
    for arguments in refused:
        with pytest.raises(Forbidden, match="service secret has payload: never"):
            world.result(world.operations.tap(ACTOR, ready, **arguments))
    done = opened(world, follow=True)
    assert done.services_left_out == ("secret",)
    WatchableConnection(secret).open()
    assert (len(done.tap), hidden.is_watched) == (1, False)
    assert opened(world, "service:mqtt").services_left_out == ()
    assert [action.service for action in world.actions.all] == [None, "mqtt"]


def test_once_the_policy_forbids_it_a_watcher_is_given_no_bytes() -> None:
    world, (live,) = world_with(1)
    monitor = world.registry.get("mqtt")
    seen: list[bytes] = []
    monitor.watch(live.record.id, lambda _, data: seen.append(data))
    live.data("up", b"seen")
    forbid(monitor)
    live.data("up", b"secret")
    assert seen == [b"seen", b""]


def test_a_reload_that_forbids_it_ends_what_is_seen() -> None:
    world, (live,) = world_with(1)
    tap = opened(world).tap
    live.data("up", b"seen")
    monitor = world.registry.get("mqtt")
    monitor.apply(attrs.evolve(monitor.policy, wait_timeout=1.0))
    assert live.is_watched
    forbid(monitor)
    assert not live.is_watched
    live.data("up", b"secret")
    assert plain(taken(tap))[1:] == [("up", 0, b"seen"), ("ended", 4, 0, None)]
    assert tap.is_over


@pytest.mark.parametrize("is_removed", [False, True])
def test_connections_that_may_not_be_seen_any_more_are_ended_in_turns(is_removed: bool) -> None:
    world, connections = world_with(3)
    monitor = world.registry.get("mqtt")
    tap = opened(world, follow=True).tap
    taken(tap)

    def takes_long() -> Iterator[None]:
        world.clock.work(1)
        yield

    in_turns(world.clock, takes_long())  # the share of this turn is used up
    if is_removed:
        world.registry.delete("mqtt")
    else:
        forbid(monitor)
        monitor.apply(attrs.evolve(monitor.policy, payload="allowed"))
    assert all(each.is_watched for each in connections)
    for each in connections:
        each.data("up", b"secret")
    assert taken(tap) == []
    world.clock.advance(1)
    assert not any(each.is_watched for each in connections)
    assert plain(taken(tap)) == [("ended", 6, 0, None)] * 3
    later = WatchableConnection(monitor).open()
    assert later.is_watched != is_removed


# -- its end


def test_closing_gives_everything_back() -> None:
    world, connections = world_with(3)
    before = len(world.registry.get("mqtt").observers.by_hook["closed"])
    tap = opened(world, follow=True).tap
    other = opened(world, str(connections[0].record.id)).tap
    assert all(each.is_watched for each in connections)
    for _ in range(2):
        tap.close()
    assert [each.is_watched for each in connections] == [True, False, False]
    connections[1].data("up", b"x")
    assert (tap.is_over, tap.take()) == (True, None)
    other.close()
    assert not connections[0].is_watched
    assert len(world.registry.get("mqtt").observers.by_hook["closed"]) == before
    assert len(world.operations.taps) == 0


def test_a_removed_service_is_seen_no_more() -> None:
    world, (live,) = world_with(1)
    tap = opened(world).tap
    world.registry.delete("mqtt")
    assert not live.is_watched
    assert plain(taken(tap))[-1] == ("ended", 0, 0, None)
    assert tap.is_over


def test_one_that_leaves_while_connections_are_chosen() -> None:
    world, connections = world_with(3)

    def takes_long() -> Iterator[None]:
        world.clock.work(1)
        yield

    in_turns(world.clock, takes_long())  # the share of this turn is used up
    opening = world.operations.tap(ACTOR, ready)
    assert not any(each.is_watched for each in connections)
    opening.cancel()
    world.clock.advance(1)
    assert world.result(opening).tap.is_over
    assert not any(each.is_watched for each in connections)
    assert len(world.operations.taps) == 0


# -- bounds


def test_what_is_not_taken_is_dropped_and_counted_and_shows_as_a_gap() -> None:
    world, (live,) = world_with(1)
    room_for_two = 2 * (100 + EVENT_BYTES) + EVENT_BYTES
    tap = world.operations.taps.open(ready, queue_bytes=room_for_two)
    for _ in range(5):
        live.data("up", bytes(100))
    assert tap.dropped_bytes == 300
    assert plain(taken(tap))[1:] == [("up", 0, bytes(100)), ("up", 100, bytes(100))]
    live.data("up", b"now")
    assert plain(taken(tap)) == [("up", 500, b"now")]


def test_beginnings_and_ends_are_there_though_the_queue_is_full() -> None:
    world, connections = world_with(3)
    tap = world.operations.taps.open(ready, queue_bytes=0)
    for each in connections:
        each.data("up", b"dropped")
        each.end("operator")
    kinds = [event.kind for event in taken(tap)]
    assert kinds.count("began") == kinds.count("ended") == 3
    assert (tap.dropped_bytes, tap.is_over) == (21, True)


def test_connections_beyond_the_limit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "MOST_CONNECTIONS", 2)
    world, connections = world_with(3)
    tap = opened(world, follow=True).tap
    assert (len(tap), tap.left_out) == (2, 1)
    assert [each.is_watched for each in connections] == [True, True, False]
    connections[0].end("operator")
    monitor = world.registry.get("mqtt")
    assert not WatchableConnection(monitor).open().is_watched, "its last event was not taken"
    assert [type(event) for event in taken(tap)].count(Ended) == 1
    assert WatchableConnection(monitor).open().is_watched
    assert tap.left_out == 2


def test_what_is_left_out_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is tried again, as its bytes tell more of it."""
    monkeypatch.setattr(taps, "MOST_CONNECTIONS", 1)
    world, _ = world_with(1)
    tap = opened(world, follow=True).tap
    later = WatchableConnection(world.registry.get("mqtt")).open()
    later.tell(b"CONNECT", mqtt_client_id="pump-7")
    assert (len(tap), tap.left_out) == (1, 1)
    later.end("operator")
    assert not tap._left_out, "it is forgotten"


def test_taps_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "MOST_TAPS", 2)
    world, _ = world_with(1)
    first, _ = opened(world).tap, opened(world).tap
    with pytest.raises(QuestionError, match="2 taps and captures are open"):
        opened(world)
    first.close()
    assert len(opened(world).tap) == 1


def test_a_connection_that_cannot_be_watched_is_none() -> None:
    world = World("mqtt")
    world.connect("mqtt", "192.0.2.1")
    assert opened(world).tap.is_over


def test_ready_is_called_once_until_all_is_taken() -> None:
    world, (live,) = world_with(1)
    calls: list[Tap] = []
    tap = world.operations.taps.open(calls.append)
    live.data("up", b"1")
    live.data("up", b"2")
    assert calls == [tap]
    assert len(taken(tap)) == 3
    live.data("up", b"3")
    assert calls == [tap, tap]


def test_it_is_over_only_with_its_very_last_event() -> None:
    """Also to whoever takes each event as it comes."""
    world, (live,) = world_with(1)
    kinds: list[str] = []
    over_after: list[int] = []

    def take(tap: Tap) -> None:
        kinds.extend(event.kind for event in taken(tap))
        if tap.is_over:
            over_after.append(len(kinds))

    world.operations.taps.open(take)
    live.record.note_end("client", "fin")
    live.record.note_end("backend", "reset")
    live.end("backend_reset")
    assert kinds == ["began", "side_ended", "side_ended", "ended"]
    assert set(over_after) == {4}


def test_taps_leave_no_cycles_to_be_collected() -> None:
    world, connections = world_with(4)
    gc.disable()
    try:
        tap = opened(world).tap
        limited = world.operations.taps.open(ready, first=1)
        for each in connections[:3]:
            each.data("up", b"bytes")
            each.data("down", b"bytes")
        connections[0].end("operator")
        left = [weakref.ref(each) for each in (tap, limited)]
        tap.close()
        limited.close()
        del tap, limited
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()


# -- who has done it


def test_each_tap_is_an_action() -> None:
    world, (live,) = world_with(1)
    world.registry.new("web", clock=world.clock)
    number = live.record.id
    opened(world, str(number), how="hex")
    opened(world, "client:192.0.2.0/24", follow=True, how="pcap")
    opened(world)
    assert [action.describe() for action in world.actions.all] == [
        f"began to tap connection {number} (hex) at mqtt for uid 1000 (ada), pid 7",
        "began to tap client:192.0.2.0/24 (pcap, following) at all services for"
        " uid 1000 (ada), pid 7",
        "began to tap all connections at all services for uid 1000 (ada), pid 7",
    ]


@pytest.mark.parametrize(
    ("terms", "follow", "where"),
    [
        ((), False, "mqtt"),
        ((), True, "all services"),
        (("client:192.0.2.0/24",), True, "all services"),
        (("service:mq",), True, "all services"),  # one to come may have it in its name
        (("service:mqtt",), True, "mqtt"),
    ],
)
def test_the_only_service_is_named_if_no_other_can_come(
    terms: tuple[str, ...], follow: bool, where: str
) -> None:
    world, _ = world_with(1)
    opened(world, *terms, follow=follow)
    assert f" at {where} for uid 1000" in world.actions.all[0].describe()


def test_a_tap_of_services_to_come_is_an_action_too() -> None:
    world, _ = world_with(1)
    opened(world, "not:service:mqtt", follow=True)
    assert [action.describe() for action in world.actions.all] == [
        "began to tap not:service:=mqtt (following) at all services for uid 1000 (ada), pid 7"
    ]
