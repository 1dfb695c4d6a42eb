"""The event feed: delivery, drops, and that no subscription is left behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monconn.faces.cli.render import event_line
from monconn.model.actions import OWN_CODE
from monconn.model.alarms import Alarm
from monconn.ops.feed import CHECKS_PER_SECOND, EVENTS_PER_SECOND, FeedEvent

from .world import World


def observers_of(world: World) -> int:
    return sum(
        observer is world.operations.feed
        for monitor in world.registry
        for observer, _ in monitor.observers.by_hook["opened"]
    )


def test_everything_that_happens_is_an_event() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(events.append)
    (made,) = world.connect("web", "192.0.2.1")
    world.result(world.operations.close(OWN_CODE, ids=[made.record.id]))
    monitor = world.registry.get("web")
    monitor.alarm(Alarm("silent", "web", "192.0.2.1", 1.0, False, "said nothing"))
    monitor.lifecycle.stopping = True
    monitor.admit("192.0.2.1:1", "192.0.2.1")
    assert [event.kind for event in events] == ["opened", "closed", "action", "alarm", "refused"]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    for event in events:
        sent = event.to_json()
        assert (sent["event"], sent["sequence"]) == (event.kind, event.sequence)
        assert {"event", "at", "sequence", *event.row.to_json()} == sent.keys()
        assert json.loads(event.encode()) == sent
    assert events[2].to_json()["text"].startswith("closed 1 connection (id ")


def test_an_alarm_of_a_service_has_its_figures() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(events.append, filter="reason:outage")
    figures = {"devices": 7, "devices_of": 9, "network": "10.1.0.0/16", "own": "not shown"}
    alarm = Alarm("outage", "web", "", 1.0, False, "many", subject="10.1.0.0/16", figures=figures)
    world.registry.get("web").alarm(alarm)
    (event,) = events
    sent = event.to_json()
    assert (sent["device"], sent["subject"], sent["devices"]) == ("", "10.1.0.0/16", 7)
    assert "own" not in sent


def test_a_subscriber_gets_what_it_asked_for() -> None:
    world = World("web", "ssh")
    of_ssh: list[FeedEvent] = []
    filtered: list[FeedEvent] = []
    world.operations.subscribe(of_ssh.append, service="ssh")
    world.operations.subscribe(filtered.append, filter="event:closed client:192.0.2.0/24")
    web = world.connect("web", "192.0.2.1", "198.51.100.1")
    (ssh,) = world.connect("ssh", "192.0.2.9")
    for each in (*web, ssh):
        each.end("stopping")
    world.operations.reset_stats(OWN_CODE)
    world.operations.reset_stats(OWN_CODE, service="web")
    assert [event.kind for event in of_ssh] == ["opened", "closed", "action"]
    assert [event.row.to_json()["client"] for event in filtered] == [
        "192.0.2.1:1024",
        "192.0.2.9:1024",
    ]


def test_actions_are_found_by_their_kind_and_actor() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(events.append, filter="reason:block client:code")
    world.operations.block(OWN_CODE, "192.0.2.1")
    world.operations.unblock(OWN_CODE, "192.0.2.1")
    assert [event.row.to_json()["action"] for event in events] == ["block"]


def test_a_slow_subscriber_loses_events_and_no_other_does() -> None:
    world = World("web")
    slow_got: list[FeedEvent] = []
    quick_got: list[FeedEvent] = []
    slow = world.operations.subscribe(slow_got.append)
    quick = world.operations.subscribe(quick_got.append)
    slow.pause()
    world.connect("web", *["192.0.2.1"] * 5)
    slow.resume()
    world.connect("web", "192.0.2.1")
    assert (len(slow_got), slow.dropped) == (1, 5)
    assert (len(quick_got), quick.dropped) == (6, 0)
    assert slow_got[0] is quick_got[5]
    assert slow_got[0].sequence == 6


def test_a_failing_subscriber_is_cancelled_alone(logged_failures: list[Any]) -> None:
    def fail(event: FeedEvent) -> None:
        raise RuntimeError("it fails")

    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(fail)
    world.operations.subscribe(events.append)
    world.connect("web", "192.0.2.1", "192.0.2.2")
    assert len(events) == 2
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_events_beyond_the_rate_limit_are_dropped_and_counted() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    seldom: list[FeedEvent] = []
    everything = world.operations.subscribe(events.append)
    one = world.operations.subscribe(seldom.append, filter="client:198.51.100.1")
    monitor = world.registry.get("web")
    monitor.lifecycle.stopping = True
    for _ in range(CHECKS_PER_SECOND + 10):
        monitor.admit("192.0.2.1:1", "192.0.2.1")
    assert (len(events), everything.dropped) == (
        EVENTS_PER_SECOND,
        CHECKS_PER_SECOND + 10 - EVENTS_PER_SECOND,
    )
    assert (len(seldom), one.dropped) == (0, 10)  # dropped without being tested by the filter
    world.clock.advance(1.0)
    monitor.admit("198.51.100.1:1", "198.51.100.1")
    assert (len(seldom), len(events)) == (1, EVENTS_PER_SECOND + 1)


def test_events_that_a_filter_rejects_do_not_count_against_the_limit() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    subscription = world.operations.subscribe(events.append, filter="client:198.51.100.1")
    monitor = world.registry.get("web")
    monitor.lifecycle.stopping = True
    for _ in range(EVENTS_PER_SECOND + 10):
        monitor.admit("192.0.2.1:1", "192.0.2.1")
    monitor.admit("198.51.100.1:1", "198.51.100.1")
    assert (len(events), subscription.dropped) == (1, 0)


def test_monitors_are_observed_only_while_there_is_a_subscriber() -> None:
    world = World("web")
    first = world.operations.subscribe(print)
    second = world.operations.subscribe(print)
    assert observers_of(world) == 1
    world.registry.new("late", clock=world.clock)
    assert observers_of(world) == 2
    first.cancel()
    first.cancel()
    assert observers_of(world) == 2
    second.cancel()
    assert observers_of(world) == 0
    world.registry.new("later", clock=world.clock)
    assert observers_of(world) == 0


def test_no_callback_is_left_in_the_registry() -> None:
    world = World("web")
    before = len(world.registry._when_added)
    for _ in range(50):
        world.operations.subscribe(print).cancel()
    assert len(world.registry._when_added) == before


def test_subscribing_twice_is_two_subscriptions() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    one = world.operations.subscribe(events.append)
    world.operations.subscribe(events.append)
    world.connect("web", "192.0.2.1")
    one.cancel()
    world.connect("web", "192.0.2.1")
    assert [event.sequence for event in events] == [1, 1, 2]


@pytest.mark.parametrize(
    ("filter", "kinds"),
    [
        (None, ["opened", "closed"]),
        ("client:192.0.2.0/24", ["opened", "closed"]),
        ("not:event:opened", ["closed"]),
        ("event:closed", ["closed"]),
        ("event:close", ["closed"]),  # a part of both names
        ("event:half_closed", ["half_closed"]),
        ("event:half", ["half_closed"]),
        ("event:half_closed event:closed", ["half_closed", "closed"]),
        ("event:half_closed not:event:half_closed", []),
    ],
)
def test_half_closes_are_delivered_only_to_those_who_name_them(
    filter: str | None, kinds: list[str]
) -> None:
    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(events.append, filter=filter)
    (made,) = world.connect("web", "192.0.2.1")
    made.record.note_end("backend", "fin")
    world.registry.get("web").half_closed(made.record, "backend")
    made.end("stopping")
    assert [event.kind for event in events] == kinds
    for event in events:
        sent = event.to_json()
        assert sent.get("side") == ("backend" if event.kind == "half_closed" else None)
        assert event_line({**sent, "at": sent["at"]}).count("192.0.2.1:1024") == 1


def test_the_line_of_a_half_close() -> None:
    world = World("web")
    events: list[FeedEvent] = []
    world.operations.subscribe(events.append, filter="event:half_closed")
    (made,) = world.connect("web", "192.0.2.1")
    world.registry.get("web").half_closed(made.record, "client")
    (event,) = events
    assert event_line(event.to_json()).endswith(
        f" web: 192.0.2.1:1024 half-closed by the client, id {made.record.id}"
    )
