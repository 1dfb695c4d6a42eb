"""Blocks with an end, at one service and at all: when they hold, and what is told of their end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any
from unittest.mock import patch

import pytest
from twisted.internet.task import Clock

from monconn.errors import SettingError
from monconn.model.actions import Action
from monconn.monitor.blocking import MAX_REASON_CHARACTERS
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.block_files import BlockFile
from monconn.policy.policy import Policy
from tests.monitor.test_monitor import Connection, try_to_connect

NET = "10.0.0.0/8"
HOUR = 3600.0


class Actions(Observer):
    """What was done."""

    def __init__(self) -> None:
        self.seen: list[Action] = []

    def acted(self, action: Action) -> None:
        self.seen.append(action)

    def kinds(self) -> list[str]:
        return [each.kind for each in self.seen]


class World:
    """Two services, with a clock that only the test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1000.0
        self.registry = Registry()
        self.web = self.registry.new("web", clock=self.clock)
        self.ssh = self.registry.new("ssh", clock=self.clock)
        self.actions = Actions()
        self.registry.observe(self.actions)

    def enters(self, ip: str, monitor: Monitor | None = None) -> bool:
        return (monitor or self.web).admit(f"{ip}:1", ip) is not None

    def connect(self, ip: str) -> Connection:
        connection = try_to_connect(self.web, ip)
        assert connection is not None
        return connection


@pytest.fixture
def world() -> World:
    return World()


Block = Callable[..., bool]


@pytest.mark.parametrize("is_for_all", [True, False])
def test_a_block_ends_by_the_monotonic_clock_alone(world: World, is_for_all: bool) -> None:
    block: Block = world.registry.block if is_for_all else world.web.block
    with patch("time.time", return_value=1e9):
        assert block(NET, for_seconds=HOUR, reason="brute force")
    for wall in (0.0, 5e9):  # wherever the wall clock goes
        with patch("time.time", return_value=wall):
            assert not world.enters("10.1.2.3")
            assert world.enters("11.1.2.3")
            assert world.enters("10.1.2.3", world.ssh) != is_for_all
    world.clock.rightNow += HOUR - 0.001
    assert not world.enters("10.1.2.3")
    world.clock.rightNow += 0.001  # no timer has run
    assert world.enters("10.1.2.3")
    assert world.web.find_block("10.1.2.3") is None
    assert world.actions.kinds() == ["block"]
    world.clock.advance(0.2)
    (block_action, ended) = world.actions.seen
    assert block_action.detail == "for 1h00m, because: brute force"
    assert (ended.kind, ended.target, ended.service) == (
        "block_ended",
        NET,
        None if is_for_all else "web",
    )
    where = "all services" if is_for_all else "web"
    assert ended.describe() == f"the block of {NET} at {where} has ended"
    world.clock.advance(2 * HOUR)
    assert world.actions.kinds() == ["block", "block_ended"]
    assert not world.clock.getDelayedCalls()


def test_a_block_again_changes_its_end_and_its_reason(world: World) -> None:
    assert world.registry.block(NET, for_seconds=60, reason="first")
    world.clock.advance(30)
    assert not world.registry.block(NET, for_seconds=60)  # it was blocked
    (entry,) = world.registry.blocks.in_force()
    assert (entry.until, entry.reason) == (1090.0, "first")
    assert not world.registry.block(NET, for_seconds=120, reason="second")
    assert (entry.until, entry.reason, entry.hits) == (1150.0, "second", 0)
    world.clock.advance(119)
    assert not world.enters("10.1.2.3")
    assert not world.registry.block(NET)
    world.clock.advance(1000)
    assert not world.enters("10.1.2.3")
    assert entry.until is None
    assert entry.hits == 2
    assert [each.changed for each in world.actions.seen] == [True] * 4
    assert not world.registry.block(NET)
    assert not world.actions.seen[-1].changed


def test_one_that_has_ended_is_told_of_before_another_begins(world: World) -> None:
    world.web.block(NET, for_seconds=60)
    world.clock.rightNow += 60
    assert world.web.block(NET, for_seconds=60)
    world.clock.rightNow += 60
    assert not world.web.unblock(NET)
    world.clock.advance(100)
    kinds = ["block", "block_ended", "block", "block_ended", "unblock"]
    assert world.actions.kinds() == kinds


def test_hits_are_the_clients_that_it_has_met(world: World) -> None:
    world.registry.block(NET)
    world.web.block("10.1.0.0/16")
    for ip in ("10.1.2.3", "10.2.3.4", "10.2.3.5", "11.1.1.1"):
        world.enters(ip)
    assert [each.hits for each in world.web.block_entries()] == [1]
    assert [each.hits for each in world.registry.blocks.in_force()] == [2]


def test_one_that_is_asked_about_again_counts_once() -> None:
    policy = Policy.of(block=[NET], dry_run=["block"])
    monitor = Monitor("web", policy=policy, clock=Clock())
    record = monitor.admit("10.1.2.3:1", "10.1.2.3")
    assert monitor.admit("10.1.2.3:1", "10.1.2.3", record=record) is record  # after its handshake
    assert [each.hits for each in monitor.block_entries()] == [1]
    monitor.apply(policy.changed(dry_run=[], block=[]))
    record = monitor.admit("10.1.2.3:1", "10.1.2.3")
    monitor.block(NET)  # amid its handshake
    assert monitor.admit("10.1.2.3:1", "10.1.2.3", record=record) is None
    assert [each.hits for each in monitor.block_entries()] == [1]


def test_services_to_come_have_what_is_blocked_at_all(world: World) -> None:
    world.registry.block(NET, for_seconds=60)
    later = world.registry.new("mail", clock=world.clock)
    assert not world.enters("10.1.2.3", later)
    with_connections = Monitor("held", clock=world.clock)
    connection = try_to_connect(with_connections, "10.1.2.3")
    assert connection is not None
    world.registry.add(with_connections)
    assert connection.record.reason == "blocked"


def test_what_is_connected_ends_unless_it_is_kept_open(world: World) -> None:
    first, second = world.connect("10.1.2.3"), world.connect("11.1.2.3")
    assert world.registry.block(NET, keep_open=True)
    assert [each.record.reason for each in (first, second)] == [None, None]
    assert not world.enters("10.1.2.3")
    assert not world.registry.block(NET)  # without: it ends what was kept
    assert [each.record.reason for each in (first, second)] == ["blocked", None]
    assert [each.count for each in world.actions.seen] == [0, 1]


def test_unblock_everywhere_and_at_one(world: World) -> None:
    world.web.apply(world.web.policy.changed(block=[NET]))
    world.registry.block(NET)
    world.ssh.block(NET, for_seconds=60)
    assert not world.web.unblock("10.1.0.0/16")
    assert world.registry.unblock(NET)
    assert world.enters("10.1.2.3")
    assert world.enters("10.1.2.3", world.ssh)
    world.web.apply(world.web.policy.changed(block=[NET, "11.0.0.0/8"]))
    assert world.enters("10.1.2.3")  # it stays unblocked while the configuration names it
    assert not world.registry.unblock(NET)
    world.clock.advance(100)
    assert "block_ended" not in world.actions.kinds()


def test_a_configured_block_outlasts_one_with_an_end(world: World) -> None:
    world.web.apply(world.web.policy.changed(block=[NET]))
    assert not world.web.block(NET, for_seconds=60)
    assert [each.source for each in world.web.block_entries()] == ["configuration"]
    world.clock.advance(61)
    assert not world.enters("10.1.2.3")
    assert world.actions.kinds() == ["block", "block_ended"]


def test_files_of_networks(world: World) -> None:
    connection = world.connect("10.1.2.3")

    files: dict[str, BlockFile] = {}

    def configure(path: str, **networks: str) -> None:
        named = {ip_network(net): origin for origin, net in networks.items()}
        files[path] = BlockFile(path, repr(named).encode(), named)
        world.web.apply(world.web.policy.changed(block_files=list(files.values())))
        world.clock.advance(0)

    configure("bad", line_1=NET, line_2="2001:db8::/32")
    assert connection.record.reason == "blocked"
    configure("worse", line_7=NET)
    assert not world.enters("10.1.2.3")
    configure("bad")
    assert not world.enters("10.1.2.3")
    (entry,) = world.web.block_entries()
    assert (entry.source, entry.origin) == ("file", "line_7")
    world.web.unblock(NET)
    assert world.enters("10.1.2.3")
    configure("worse", line_9=NET)
    assert world.enters("10.1.2.3")  # unblocked while a file goes on naming it
    configure("worse")
    configure("worse", line_9=NET)
    assert not world.enters("10.1.2.3")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"for_seconds": 0}, "longer than 0"),
        ({"for_seconds": -1.0}, "longer than 0"),
        ({"for_seconds": float("nan")}, "longer than 0"),
        ({"for_seconds": float("inf")}, "longer than 0"),
        ({"for_seconds": 1e12}, "at most"),
        ({"reason": "x" * (MAX_REASON_CHARACTERS + 1)}, "too long"),
    ],
)
def test_what_cannot_be(world: World, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        world.web.block(NET, **arguments)
    assert world.web.blocks() == []


def test_thousands_have_one_timer_and_end_in_turns(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    count = 3_000
    with caplog.at_level(logging.CRITICAL):
        for number in range(count):
            world.registry.block(f"10.{number >> 8}.{number & 255}.0/24", for_seconds=HOUR)
            world.registry.block(f"10.{number >> 8}.{number & 255}.0/24", for_seconds=2 * HOUR)
        assert len(world.registry.blocks) == count
        assert len(world.clock.getDelayedCalls()) <= 2  # one is the log's
        world.actions.seen.clear()
        world.clock.rightNow += 2 * HOUR + 1
        assert world.enters("10.1.2.3")
        while world.clock.getDelayedCalls():
            world.clock.advance(1)
    assert len(world.registry.blocks) == 0
    assert world.actions.kinds() == ["block_ended"] * count
    assert not world.registry.blocks.tables


def test_what_is_lifted_leaves_one_timer_at_most(world: World) -> None:
    for _ in range(100):
        world.registry.block(NET, for_seconds=HOUR)
        world.registry.unblock(NET)
    world.clock.advance(2)  # the log's summary
    assert len(world.clock.getDelayedCalls()) == 1
    world.clock.advance(2 * HOUR)
    assert not world.clock.getDelayedCalls()
    assert "block_ended" not in world.actions.kinds()
