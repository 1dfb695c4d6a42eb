"""Pausing, draining and stopping one service, with connections that are made up."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from monconn.errors import QuestionError, SettingError
from monconn.model.actions import Action, Actor
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IPausable, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.spread import MOST_SPREADS
from monconn.policy.policy import Policy
from monconn.turns import WORK_SECONDS

ALICE = Actor.process(1000, 4242, "alice")


@implementer(IConnection, IPausable)
@attrs.define(eq=False)
class Connection:
    monitor: Monitor
    record: ConnectionRecord
    is_held: bool = False

    def end(self, reason: Reason, reset: bool = False) -> None:
        if self.record.end(reason, self.monitor.clock.seconds()):
            self.monitor.closed(self)

    def measure(self) -> None: ...

    def policy_changed(self) -> None: ...

    def pause(self) -> None:
        self.is_held = True

    def unpause(self) -> None:
        self.is_held = False


class Actions(Observer):
    def __init__(self) -> None:
        self.seen: list[Action] = []

    def acted(self, action: Action) -> None:
        self.seen.append(action)


class World:
    def __init__(self, count: int = 0, clock: Any = None, **settings: Any) -> None:
        self.clock: Any = clock or Clock()
        self.actions = Actions()
        policy = Policy.of(**settings)
        self.monitor = Monitor("web", policy=policy, clock=self.clock, observers=[self.actions])
        self.made: list[Connection] = []
        for _ in range(count):
            self.connect()

    def connect(self) -> bool:
        record = self.monitor.admit("192.0.2.1:1", "192.0.2.1")
        if record is None:
            return False
        self.made.append(Connection(self.monitor, record))
        self.monitor.opened(self.made[-1])
        return True

    def must_wait(self) -> bool:
        return self.monitor.room.must_wait()

    def held(self) -> int:
        return sum(each.is_held for each in self.made)

    def said(self) -> list[tuple[str, str, bool]]:
        return [(each.kind, each.target, each.changed) for each in self.actions.seen]

    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())


def test_a_pause_holds_all_that_live_and_has_clients_wait() -> None:
    world = World(3)
    states: list[bool] = []
    cancel = world.monitor.when_paused(states.append)
    assert world.monitor.pause(actor=ALICE)
    assert (world.held(), world.must_wait(), world.monitor.state) == (
        3,
        True,
        "paused",
    )
    assert not world.monitor.pause(actor=ALICE)
    assert world.monitor.resume(actor=ALICE)
    assert (world.held(), world.must_wait(), world.monitor.state) == (
        0,
        False,
        "running",
    )
    assert not world.monitor.resume(actor=ALICE)
    assert states == [True, False]
    assert world.said() == [("pause", "", True), ("pause", "", False), ("resume", "", True)]
    assert {each.actor for each in world.actions.seen} == {ALICE}
    cancel()


def test_thousands_are_held_in_turns_and_what_is_said_last_counts() -> None:
    ticks = iter(range(10**9))

    class Slow(Clock):
        def seconds(self) -> float:  # each look at the clock takes a part of a turn's share
            return next(ticks) * WORK_SECONDS / 50

    slow = Slow()
    world = World(500, slow)
    world.monitor.pause()
    assert 0 < world.held() < 500
    world.monitor.resume()
    world.monitor.pause()
    for _ in range(2000):
        slow.advance(0)
        if world.held() == 500:
            break
    assert world.held() == 500
    world.monitor.resume()
    for _ in range(2000):
        slow.advance(0)
        if not world.held():
            break
    assert world.held() == 0


def test_a_pause_ends_by_itself_for_who_began_it() -> None:
    world = World(1)
    world.monitor.pause(30, actor=ALICE)
    assert "paused_until" in world.monitor.stats()
    world.clock.advance(20)
    world.monitor.pause(30, actor=ALICE)
    world.clock.advance(29)
    assert world.monitor.is_paused
    world.clock.advance(1)
    assert (world.monitor.state, world.held(), world.timers()) == ("running", 0, 0)
    assert world.said()[-1] == ("resume", "the time of the pause is over", True)
    assert world.actions.seen[-1].actor == ALICE
    assert world.monitor.pauses.delay_of(0) == 50


def test_what_cannot_be_paused() -> None:
    world = World(1)
    with pytest.raises(SettingError):
        world.monitor.pause(0)
    world.monitor.drain()
    with pytest.raises(QuestionError, match="resume web first"):
        world.monitor.pause()
    world.monitor.resume()
    world.monitor.lifecycle.can_pause = False
    with pytest.raises(QuestionError, match="part of a program"):
        world.monitor.pause()
    world.monitor.lifecycle.can_pause = True
    world.monitor.stop(10)
    for call in (world.monitor.pause, world.monitor.drain):
        with pytest.raises(QuestionError, match="stopping"):
            call()
    assert world.monitor.state == "stopping"


def test_draining_ends_a_pause_refuses_and_lets_live() -> None:
    world = World(2)
    world.monitor.pause(30)
    assert world.monitor.drain(actor=ALICE)
    assert (world.monitor.state, world.held(), world.must_wait()) == (
        "draining",
        0,
        False,
    )
    assert not world.connect()
    assert world.monitor.stats()["refused_by"] == {"draining": 1}
    assert not world.monitor.drain()
    world.clock.advance(1000)
    assert len(world.monitor) == 2
    assert world.monitor.resume()
    assert world.connect()


def test_draining_spread_over_a_time_and_resumed_amid_it() -> None:
    world = World(10)
    world.monitor.drain(100)
    world.clock.advance(20)
    assert len(world.monitor) == 8
    assert {each.record.reason for each in world.made} == {None, "operator"}
    world.monitor.drain(50)  # takes the place of the one before
    assert world.timers() == 1
    world.clock.advance(12.5)
    assert len(world.monitor) == 6
    assert world.monitor.resume()
    world.clock.advance(500)
    assert (len(world.monitor), world.timers()) == (6, 0)
    assert [each for each in world.said() if each[0] == "drain"] == [
        ("drain", "spread over 1m40s", True),
        ("drain", "spread over 50.0s", True),  # it drained already, and ends them sooner now
    ]


def test_draining_once_more_changes_what_ends_its_connections_or_nothing() -> None:
    world = World(10)
    for seconds in (0, 0, 100, 0, 0):
        world.monitor.drain(seconds)
    assert [changed for _, _, changed in world.said()] == [True, False, True, True, False]
    world.clock.advance(500)
    assert len(world.monitor) == 10


@pytest.mark.parametrize(("spread", "wait", "half"), [(100, 1000, 50), (1000, 100, 50)])
def test_a_stop_is_spread_over_no_more_than_the_wait(
    spread: float, wait: float, half: float
) -> None:
    world = World(10, spread=spread, wait_timeout=wait)
    done: list[object] = []
    world.monitor.stop(wait).addCallback(done.append)
    for _ in range(int(half / 10)):
        world.clock.advance(10)
    assert len(world.monitor) == 5
    for _ in range(int(half / 10)):
        world.clock.advance(10)
    assert len(world.monitor) == 0
    world.clock.advance(0)
    assert (len(done), world.timers()) == (1, 0)
    assert {each.record.reason for each in world.made} == {"stopping"}


def test_a_second_signal_goes_before_a_spread() -> None:
    world = World(10, spread=100)
    world.monitor.stop(1000)
    world.clock.advance(10)
    world.monitor.stop_now()
    assert len(world.monitor) == 0
    world.clock.advance(0)
    assert world.timers() == 0


def test_connections_are_closed_over_a_time() -> None:
    world = World(10)
    ids = [each.record.id for each in world.made[:4]]
    assert world.monitor.ending.close_spread([*ids, 10**9], 40) == 4
    world.made[0].end("client_closed")
    world.clock.advance(10)
    for _ in range(30):
        world.clock.advance(1)
    assert len(world.monitor) == 6
    reasons = [each.record.reason for each in world.made[:4]]
    assert reasons == ["client_closed", *["operator"] * 3]
    assert world.timers() == 0


def test_there_are_only_so_many_spreads() -> None:
    world = World(2)
    ids = [world.made[0].record.id]
    for _ in range(MOST_SPREADS):
        world.monitor.ending.close_spread(ids, 100)
    with pytest.raises(QuestionError, match="orders already"):
        world.monitor.ending.close_spread(ids, 100)
    world.made[0].end("client_closed")
    assert world.timers() == 0
    world.monitor.ending.close_spread([world.made[1].record.id], 100)
    assert world.monitor.resume()
    world.clock.advance(200)
    assert (len(world.monitor), world.timers()) == (1, 0)


def test_a_stop_ends_a_pause() -> None:
    world = World(2)
    world.monitor.pause(30)
    world.monitor.stop(10)
    assert (world.monitor.state, world.held(), world.monitor.is_paused) == ("stopping", 0, False)
    world.clock.advance(100)
    assert world.timers() == 0
