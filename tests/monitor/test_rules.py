"""Rules at work: files of blocks, dry runs, and clients that wait for a rate."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from twisted.internet.task import Clock

from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from monconn.turns import WORK_SECONDS
from tests.monitor.test_monitor import Connection, enter, try_to_connect
from tests.turning import TurnClock


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000.0)
    return clock


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    return Monitor("web", clock=clock)


@pytest.fixture
def listing(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the value of ``block_files``: one file, which lists these."""

    def make(*networks: str) -> list[str]:
        (tmp_path / "blocked").write_text("".join(f"{each}\n" for each in networks))
        return [str(tmp_path / "blocked")]

    return make


def reason(connection: Connection) -> str | None:
    return connection.record.reason


# -- files of blocks


def test_a_file_is_in_force_from_the_first_client_on(
    clock: Clock, listing: Callable[..., list[str]], tmp_path: Path
) -> None:
    made = Monitor("web", policy=Policy.of(block_files=listing("10.0.0.0/8")), clock=clock)
    assert try_to_connect(made, "10.0.0.1") is None
    (block,) = made.block_entries()
    assert (block.source, block.origin) == ("file", f"{tmp_path}/blocked:1")
    assert made.totals().refused == {"blocked": 1}
    assert block.hits == 1


def test_a_changed_file_ends_those_that_it_blocks(
    monitor: Monitor, listing: Callable[..., list[str]]
) -> None:
    stays, goes, kept = (enter(monitor, f"10.{each}.0.1") for each in range(3))
    # That an operator's own block keeps connections open does not keep the file's from ending them.
    monitor.block("10.2.0.1", keep_open=True)
    monitor.apply(Policy.of(block_files=listing("10.1.0.0/16", "10.2.0.0/16")))
    assert list(map(reason, (stays, goes, kept))) == [None, "blocked", "blocked"]
    monitor.apply(Policy.of(block_files=listing("10.0.0.0/16")))
    assert reason(stays) == "blocked"
    enter(monitor, "10.1.0.1")
    assert monitor.unblock("10.0.0.0/16")
    enter(monitor, "10.0.0.1")
    monitor.apply(Policy())
    assert [str(each) for each in monitor.blocks()] == ["10.2.0.1/32"]


class SlowClock(TurnClock):
    """Each step of work takes a tenth of what a turn has for it."""

    def seconds(self) -> float:
        self.rightNow += WORK_SECONDS / 10
        return self.rightNow

    def turns(self) -> int:
        """Make turns until nothing is left to be done; how many it took."""
        count = 0
        while any(each.getTime() <= self.rightNow for each in self.calls):
            self.turn()
            count += 1
        return count


def test_a_long_file_is_put_in_force_in_turns(listing: Callable[..., list[str]]) -> None:
    clock = SlowClock()
    monitor = Monitor("web", clock=clock)
    connection = enter(monitor, "10.255.0.1")
    networks = [f"10.{each >> 8}.{each & 255}.1" for each in range(5_000)]
    monitor.apply(Policy.of(block_files=listing(*networks, "10.255.0.1")))
    assert reason(connection) is None
    # Another change before that is done: nothing of the first is left.
    monitor.apply(Policy.of(block_files=listing("10.255.0.1", "10.255.0.2")))
    assert clock.turns() > 2
    assert reason(connection) == "blocked"
    assert len(monitor.blocks()) == 2
    monitor.apply(Policy.of(block_files=listing(*networks)))
    assert clock.turns() > 5
    assert len(monitor.blocks()) == 5_000
    monitor.apply(Policy())
    clock.turns()
    assert monitor.blocks() == []


def steps_of(judge: Callable[[], object]) -> int:
    """How many instructions of Python's are executed: what depends on no machine."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    gc.disable()  # others have calls of theirs made by each collection
    sys.settrace(trace)
    try:
        judge()
    finally:
        sys.settrace(None)
        gc.enable()
    return count


def test_ten_thousand_networks_cost_a_client_no_more_than_ten(
    clock: Clock, listing: Callable[..., list[str]]
) -> None:
    networks = [f"10.{each >> 8}.{each & 255}.0/24" for each in range(10_000)]
    for ip in ("192.0.2.1", "10.0.3.7"):  # one that is not blocked, and one that is
        steps = []
        for count in (10, 10_000):
            policy = Policy.of(block_files=listing(*networks[:count]))
            monitor = Monitor("web", policy=policy, clock=clock)
            judge = monitor.admission.judge
            judge(ip, 0, 1000.0)
            steps.append(steps_of(lambda judge=judge, ip=ip: judge(ip, 0, 1000.0)))  # type: ignore[misc]
        assert steps[0] == steps[1] > 10


# -- dry runs


def would(monitor: Monitor) -> dict[str, int]:
    return {str(key): count for key, count in monitor.totals().would_refuse.items()}


def test_a_dry_run_of_block_holds_for_what_is_configured(
    monitor: Monitor, listing: Callable[..., list[str]]
) -> None:
    policy = Policy.of(
        block=["10.0.0.0/8"], block_files=listing("10.1.0.0/16", "192.0.2.0/24"), dry_run=["block"]
    )
    first = enter(monitor, "10.1.0.1")
    monitor.apply(policy)
    second = enter(monitor, "192.0.2.1")
    assert list(map(reason, (first, second))) == [None, None]
    assert second.record.would_refuse == ("blocked",)
    assert would(monitor) == {"blocked": 1}
    # What an operator blocks is blocked, whatever is configured for the same or a smaller network.
    monitor.block("192.0.0.0/16")
    assert reason(second) == "blocked"
    assert try_to_connect(monitor, "192.0.2.1") is None
    monitor.block("10.0.0.0/8", for_seconds=60)
    assert reason(first) == "blocked"
    assert try_to_connect(monitor, "10.1.0.1") is None
    monitor.clock.advance(60)  # type: ignore[attr-defined]
    third = enter(monitor, "10.1.0.1")
    assert would(monitor) == {"blocked": 2}
    # Once it is no dry run any more, those are ended that it blocks.
    monitor.apply(policy.changed(dry_run=[]))
    assert reason(third) == "blocked"


def test_a_client_is_counted_once_by_each_rule_that_would_refuse_it(monitor: Monitor) -> None:
    monitor.apply(Policy.of(per_ip_limit=1, rate="1/h", dry_run=["per_ip_limit", "rate"]))
    enter(monitor)
    second = enter(monitor)
    assert second.record.would_refuse == ("per_ip_limit", "rate")
    # As after a TLS handshake: it is asked about again.
    assert monitor.admit("10.0.0.1:1", "10.0.0.1", record=second.record) is second.record
    assert second.record.would_refuse == ("per_ip_limit", "rate")
    assert would(monitor) == {"per_ip_limit": 1, "rate": 1}
    monitor.reset_stats()
    assert would(monitor) == {}


# -- clients that wait for a rate


class Queue:
    """Clients in an accept queue, and the listener that takes them out of it."""

    def __init__(self, monitor: Monitor, count: int) -> None:
        self.monitor = monitor
        self.waiting = count
        self.asked = self.refused = 0
        monitor.room.subscribe(self.resume)

    def resume(self) -> None:
        while self.waiting:
            self.asked += 1
            if self.monitor.room.must_wait():
                return
            self.waiting -= 1
            connection = try_to_connect(
                self.monitor, f"10.0.{self.waiting >> 8}.{self.waiting & 255}"
            )
            self.refused += connection is None


def test_a_herd_is_let_in_at_the_pace(monitor: Monitor, clock: Clock) -> None:
    monitor.rules.rate = "50/s burst 10"
    queue = Queue(monitor, 500)
    queue.resume()
    assert len(monitor) == 10
    for second in range(1, 10):
        clock.pump([0.1] * 10)
        assert len(monitor) == 10 + 50 * second
    clock.pump([0.1] * 10)
    assert (len(monitor), queue.waiting) == (500, 0)
    assert queue.refused == 0
    # One timer for all, and the queue is looked at no more often than there are tokens.
    assert queue.asked <= 2 * 500
    assert not clock.getDelayedCalls()


def test_those_who_wait_are_let_in_as_soon_as_the_rate_is_changed(
    monitor: Monitor, clock: Clock
) -> None:
    monitor.rules.rate = "1/h"
    queue = Queue(monitor, 5)
    queue.resume()
    assert queue.waiting == 4
    monitor.rules.rate = "10/s burst 1"
    assert len(clock.getDelayedCalls()) == 1
    clock.pump([0.1] * 2)
    assert queue.waiting == 2
    monitor.rules.dry_run = ("rate",)
    assert queue.waiting == 0
    assert not clock.getDelayedCalls()


def test_nothing_is_left_of_the_rate_once_it_stops(monitor: Monitor, clock: Clock) -> None:
    monitor.rules.rate = "1/h"
    queue = Queue(monitor, 2)
    queue.resume()
    assert len(clock.getDelayedCalls()) == 1
    monitor.stop(0)
    assert monitor.totals().refused == {"stopping": 1}  # and waits no longer
    clock.advance(5)
    assert len(monitor) == 0
    assert not clock.getDelayedCalls()
    monitor.resume()
    assert monitor.room.must_wait()
    assert len(clock.getDelayedCalls()) == 1


class BusyClock(TurnClock):
    """Time passes whenever somebody asks for it."""

    def seconds(self) -> float:
        self.work(0.0002)
        return super().seconds()

    def turns(self) -> int:
        """Turns until all is done."""
        count = 0
        while self.calls and count < 1_000:
            self.turn()
            count += 1
        return count


def test_a_long_list_is_compared_at_once_and_in_force_in_several_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def policy(first: int, **settings: Any) -> Policy:
        networks = [f"10.0.{each >> 8}.{each & 255}" for each in range(first, first + 1_000)]
        return Policy.of(block=networks, allow=["0.0.0.0/0", *networks], **settings)

    clock = BusyClock()
    monitor = Monitor(policy=policy(0), clock=clock)
    connection = enter(monitor, "10.0.3.250")
    clock.turns()
    same = policy(0, conn_limit=9)
    compared: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(IPv4Network, "__eq__", lambda *both: compared.append(both))
        monitor.apply(same)
    assert (compared, monitor.policy, clock.turns()) == ([], same, 0)

    monitor.apply(policy(4))
    for _ in range(3):
        clock.turn()
    monitor.apply(policy(0))  # amid it
    clock.turns()
    assert monitor.blocks() == list(policy(0).rules.block)
    monitor.apply(policy(30))
    assert clock.turns() > 3
    assert monitor.blocks() == list(policy(30).rules.block)
    assert connection.record.reason == "blocked"


def test_clients_are_counted_as_devices_are(monitor: Monitor) -> None:
    monitor.apply(Policy.of(per_ip_limit=1, ip_limit=2))
    enter(monitor, "10.0.0.1")
    monitor.use_prefixes(24, 64)
    assert try_to_connect(monitor, "10.0.0.2") is None
    enter(monitor, "10.0.1.2")
    assert try_to_connect(monitor, "10.0.2.2") is None
    # What a service's own devices say goes first.
    monitor.apply(monitor.policy.changed(prefix_v4=8))
    assert try_to_connect(monitor, "10.0.3.2") is None
    assert monitor.totals().refused == {"per_ip_limit": 2, "ip_limit": 1}
