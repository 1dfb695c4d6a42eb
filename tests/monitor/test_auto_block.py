"""Clients are blocked by themselves after so much of something within a time."""

from __future__ import annotations

from collections import Counter, deque
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.errors import SettingError, SettingTypeError
from monconn.model.actions import Action
from monconn.model.record import ConnectionRecord
from monconn.monitor import auto_block
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.ops.forget import forget_in_monitor
from monconn.policy.auto_block import AutoBlock, parse_auto_block
from monconn.policy.policy import Policy
from tests.logged import logged_lines
from tests.monitor.test_invariant import Connection
from tests.properties import examples


def auto(**given: Any) -> AutoBlock:
    return AutoBlock(**given)


THREE_RESETS = auto(of=["client_reset"], after=3, within=60, for_=600)


class Actions(Observer):
    """Remembers actions."""

    def __init__(self) -> None:
        self.actions: list[Action] = []

    def acted(self, action: Action) -> None:
        self.actions.append(action)


class World:
    """A service that blocks by itself."""

    def __init__(self, settings: AutoBlock | None, **others: Any) -> None:
        self.clock = Clock()
        self.observer = Actions()
        policy = Policy.of(auto_block=settings, **others)
        self.monitor = Monitor("web", policy=policy, clock=self.clock)
        self.monitor.add_observer(self.observer)

    def connect(self, ip: str) -> Connection | None:
        record = self.monitor.admit(f"[{ip}]:1", ip)
        if record is None:
            return None
        connection = Connection(self.monitor, record)
        self.monitor.opened(connection)
        return connection

    def end(self, connection: Connection | None, reason: Any = "client_reset") -> None:
        assert connection is not None
        connection.end(reason)
        self.monitor.closed(connection)

    def reset(self, ip: str, times: int = 1) -> None:
        for _ in range(times):
            self.end(self.connect(ip))

    @property
    def blocked(self) -> list[str]:
        return [str(each) for each in self.monitor.blocks("auto")]

    def actions(self, kind: str = "block") -> list[Action]:
        return [action for action in self.observer.actions if action.kind == kind]


def test_the_last_of_so_many_blocks_the_client_for_a_time() -> None:
    world = World(THREE_RESETS)
    other = world.connect("10.0.0.2")
    world.reset("10.0.0.1", 2)
    live = world.connect("10.0.0.1")
    assert world.blocked == []
    world.reset("10.0.0.1")
    assert world.blocked == ["10.0.0.1/32"]
    assert world.connect("10.0.0.1") is None, "at once, though the others are ended a turn later"
    world.clock.advance(0)
    assert live is not None
    assert live.record.reason == "blocked"
    assert other is not None
    assert other.record.reason is None
    (action,) = world.actions()
    assert action.actor.describe() == "auto_block"
    assert (action.target, action.count) == ("10.0.0.1/32", 1)
    assert action.detail == "for 10m00s, because: 3 × client_reset in 1m"
    (block,) = world.monitor.block_entries()
    assert (block.source, block.by, block.until) == ("auto", "auto_block", 600)
    assert block.reason == "3 × client_reset in 1m"
    world.clock.advance(599)
    assert world.connect("10.0.0.1") is None
    world.clock.advance(1)
    assert world.connect("10.0.0.1") is not None
    world.clock.advance(0.2)
    assert len(world.actions("block_ended")) == 1


def test_the_window_slides() -> None:
    world = World(THREE_RESETS)
    assert world.monitor.why("10.0.0.1").auto_block_used == 0
    world.reset("10.0.0.1", 2)
    assert world.monitor.why("10.0.0.1").auto_block_used == 2
    world.clock.advance(60.1)
    assert world.monitor.why("10.0.0.1").auto_block_used == 0
    for _ in range(10):
        world.reset("10.0.0.1")
        world.clock.advance(30.1)
    assert world.blocked == []
    world.reset("10.0.0.1", 2)
    assert world.blocked == ["10.0.0.1/32"]


def test_all_that_is_counted_is_added_up_and_named() -> None:
    settings = auto(of=["per_ip_limit", "client_reset", "idle_timeout"], after=4)
    world = World(settings, per_ip_limit=1)
    world.reset("10.0.0.1", 2)
    live = world.connect("10.0.0.1")
    assert world.connect("10.0.0.1") is None
    assert world.connect("10.0.0.2") is not None
    world.end(live, "client_closed")
    world.end(world.connect("10.0.0.1"), "idle_timeout")
    (block,) = world.monitor.block_entries()
    assert block.reason == "2 × client_reset, 1 × per_ip_limit, 1 × idle_timeout in 1m"


def test_a_client_is_what_devices_say() -> None:
    world = World(THREE_RESETS, prefix_v4=24)
    for ip in ("2001:db8::1", "2001:db8::2", "10.0.0.1", "10.0.0.2", "10.0.1.1"):
        world.reset(ip)
    live = world.connect("10.0.0.9")
    world.reset("2001:db8::3")
    world.reset("10.0.0.3")
    assert world.blocked == ["10.0.0.0/24", "2001:db8::/64"]
    world.clock.advance(0)
    assert live is not None
    assert live.record.reason == "blocked"
    assert [(each.target, each.count) for each in world.actions()] == [
        ("2001:db8::/64", 0),
        ("10.0.0.0/24", 1),
    ]


def test_a_client_without_an_ip_is_never_blocked() -> None:
    world = World(THREE_RESETS)
    world.reset("unix", 10)
    assert world.blocked == []


def test_attempts_while_it_is_blocked_prolong_nothing() -> None:
    settings = auto(of=["not_allowed"], after=2, within=60, for_=100)
    world = World(settings, allow=["192.0.2.0/24"])
    for _ in range(9):
        world.connect("10.0.0.1")
        world.clock.advance(10)
    (block,) = world.monitor.block_entries()
    assert block.until == 10 + 100
    assert len(world.actions()) == 1


def test_attempts_prolong_it_if_they_are_counted() -> None:
    settings = auto(of=["not_allowed", "blocked"], after=2, within=60, for_=100)
    world = World(settings, allow=["192.0.2.0/24"])
    for _ in range(8):
        world.connect("10.0.0.1")
        world.clock.advance(10)
    (block,) = world.monitor.block_entries()
    assert block.until == 70 + 100
    assert block.reason == "2 × blocked in 1m"
    assert len(world.actions()) == 1, "to prolong it is no new block"


def test_what_somebody_has_blocked_stays_as_it_is() -> None:
    world = World(auto(of=["blocked"], after=2, within=60, for_=100))
    world.monitor.block("10.0.0.1", for_seconds=50)
    for _ in range(9):
        assert world.connect("10.0.0.1") is None
    (block,) = world.monitor.block_entries()
    assert (block.source, block.until) == ("operator", 50)
    assert world.blocked == []


def test_some_networks_are_never_blocked_which_is_told_once() -> None:
    world = World(
        auto(of=["client_reset"], after=3, never=["10.0.0.7", "2001:db8::/32"]), prefix_v4=24
    )
    with logged_lines() as lines:
        world.reset("2001:db8::1", 10)
        world.reset("10.0.0.1", 10)  # of the same client as one that must not be blocked
    assert world.blocked == []
    text = "web: auto_block leaves {} alone (3 × client_reset in 1m): is in never"
    assert lines == [text.format("2001:db8::/64"), text.format("10.0.0.0/24")]
    world.reset("10.0.1.1", 3)
    assert world.blocked == ["10.0.1.0/24"]


def test_there_are_at_most_so_many() -> None:
    world = World(auto(of=["client_reset"], after=1, for_=60, at_most=2))
    with logged_lines() as lines:
        for number in range(5):
            world.reset(f"10.0.0.{number}")
    told = [line for line in lines if "alone" in line]
    assert told == [
        "web: auto_block leaves 10.0.0.2 alone (1 × client_reset in 1m): there are 2 such"
        " blocks already (at_most)"
    ]
    assert world.blocked == ["10.0.0.0/32", "10.0.0.1/32"]
    world.clock.advance(61)
    world.reset("10.0.0.3")
    assert world.blocked == ["10.0.0.3/32"]


def test_other_settings_hold_at_once() -> None:
    world = World(None)
    world.reset("10.0.0.1", 10)
    world.monitor.rules.auto_block = THREE_RESETS
    world.reset("10.0.0.1", 2)
    world.monitor.rules.auto_block = auto(of=["client_reset"], after=4, for_=7)
    world.reset("10.0.0.1")
    assert world.blocked == []
    world.reset("10.0.0.1")
    assert world.blocked == ["10.0.0.1/32"]
    world.monitor.rules.auto_block = None
    assert world.blocked == ["10.0.0.1/32"]
    world.clock.advance(7)
    world.reset("10.0.0.1", 10)
    assert world.blocked == []


def test_it_is_no_dry_run_of_what_the_configuration_blocks() -> None:
    world = World(THREE_RESETS, dry_run=["block"], block=["10.0.0.0/24"])
    world.reset("10.0.0.1", 3)
    assert world.connect("10.0.0.1") is None


def test_a_network_that_was_unblocked_is_so_again_when_a_block_with_an_end_has_ended() -> None:
    world = World(THREE_RESETS, block=["10.0.0.1"])
    world.monitor.unblock("10.0.0.1")
    world.reset("10.0.0.1", 3)
    assert world.connect("10.0.0.1") is None
    world.clock.advance(601)
    assert world.connect("10.0.0.1") is not None
    world.monitor.block("10.0.0.1", for_seconds=5)
    world.clock.advance(6)
    assert world.connect("10.0.0.1") is not None


def test_a_client_that_is_forgotten_begins_anew() -> None:
    world = World(THREE_RESETS)
    world.reset("10.0.0.1", 2)
    world.reset("10.0.0.2", 2)
    for _ in forget_in_monitor(world.monitor, ip_network("10.0.0.1")):
        pass
    world.reset("10.0.0.1", 2)
    world.reset("10.0.0.2")
    assert world.blocked == ["10.0.0.2/32"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_block, "MOST_CLIENTS", 4)
    monkeypatch.setattr(auto_block, "MOST_COUNTED", 6)
    world = World(auto(of=["client_reset"], after=5))
    blocker: Any = world.monitor.auto_block
    for number in range(50):
        world.reset(f"10.0.0.{number}", 1 + number % 3)
        counted = [*blocker._events.values()]
        assert len(counted) <= 4
        assert sum(map(len, counted)) == blocker._event_count <= 6
    world.clock.advance(61)
    world.reset("10.0.0.1")
    world.reset("10.0.0.2")
    assert len(blocker._events) <= 4
    world.reset("10.0.0.2", 4)
    assert world.blocked == ["10.0.0.2/32"]


IPS = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1"]


@given(
    st.lists(
        st.tuples(st.sampled_from(IPS), st.sampled_from([0, 1, 9, 30]), st.booleans()), max_size=60
    ),
    st.integers(1, 4),
    st.sampled_from([5, 10, 60]),
    st.sampled_from([1, 20, 100]),
)
@settings(max_examples=examples(60), deadline=None)
def test_a_window_of_every_event_says_the_same(
    events: list[tuple[str, int, bool]], after: int, within: int, for_: int
) -> None:
    """Against a model that keeps every event, and knows no clients and no bounds."""
    world = World(auto(of=["client_reset"], after=after, within=within, for_=for_))
    past: dict[str, deque[float]] = {ip: deque() for ip in IPS}
    until: Counter[str] = Counter()
    now = 0
    for ip, seconds, is_reset in events:
        world.clock.advance(seconds)
        now += seconds
        connection = world.connect(ip)
        assert (connection is None) == (now < until[ip])
        if connection is None:
            continue
        world.end(connection, "client_reset" if is_reset else "client_closed")
        if is_reset:
            past[ip].append(now)
            if sum(each >= now - within for each in past[ip]) >= after:
                until[ip] = now + for_
                past[ip].clear()


# -- settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 of client_reset within 1m for 10m", THREE_RESETS),
        ("20 of rate, blocked", auto(of=["blocked", "rate"])),
        (
            "1 of rate for 1h never 10.0.0.0/8,::1 at_most 5",
            auto(of=["rate"], after=1, for_=3600, never=["10.0.0.0/8", "::1"], at_most=5),
        ),
    ],
)
def test_settings_as_text(text: str, expected: AutoBlock) -> None:
    assert parse_auto_block(text) == expected


@pytest.mark.parametrize(
    "text", ["", "rate", "0 of rate", "1 of rte", "1 of rate for 0", "1 of rate never x", "1 of"]
)
def test_settings_as_bad_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|neither"):
        parse_auto_block(text)


@given(st.text(max_size=60) | st.from_regex(r"[0-9]{1,3} of [a-z_, ]{1,20}", fullmatch=True))
@settings(max_examples=examples(100))
def test_any_text_is_settings_or_an_error(text: str) -> None:
    try:
        parse_auto_block(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"of": []}, "must not be empty"),
        ({"of": ["rte"]}, '"rte" is none'),
        ({"of": ["operator"]}, "must not have operator"),
        ({"of": ["rate"], "after": 0}, "from 1 to"),
        ({"of": ["rate"], "after": 10_001}, "from 1 to"),
        ({"of": ["rate"], "within": 0}, "more than 0"),
        ({"of": ["rate"], "for_": 0}, "more than 0"),
        ({"of": ["rate"], "at_most": 0}, "from 1 to"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        auto(**given)
    with pytest.raises(SettingTypeError):
        Policy.of(auto_block="20 of rate")


def test_a_record_of_none_is_not_counted() -> None:
    world = World(auto(of=["error"], after=1))
    record = world.monitor.admit("10.0.0.1:1", "10.0.0.1")
    assert isinstance(record, ConnectionRecord)
    connection = Connection(world.monitor, record)
    world.monitor.opened(connection)
    world.monitor.closed(connection)
    assert world.blocked == []
