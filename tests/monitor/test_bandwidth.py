"""Bandwidths: exact, evenly shared, and nobody waits for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.model.reasons import Direction
from monconn.monitor.bandwidth import BandwidthLimits, DirectionLimits, Throttle
from monconn.policy.buckets import (
    BURST_SECONDS,
    LEAST_QUANTUM,
    MOST_DEBT_SECONDS,
    MOST_QUANTUM,
    QUANTUM_SECONDS,
    ByteBucket,
)
from monconn.policy.quantities import Bandwidth
from monconn.policy.rules import Rules

from ..properties import examples

KIB, MIB = 1 << 10, 1 << 20
TURN_BYTES = 1 << 20


class Sender:
    """A direction of a connection that reads as Ends do.

    :param reads_later: whether it reads in a turn of the reactor that follows.
    """

    def __init__(
        self, clock: Clock, limits: DirectionLimits, waiting: float, *, reads_later: bool = False
    ) -> None:
        self.waiting = waiting  # bytes to be read
        self.read = 0
        self.reads: list[int] = []
        self.resumed = 0
        self._clock = clock
        self._reads_later = reads_later
        self.throttle = Throttle(self, "up", limits)

    def hold_for_bandwidth(self, direction: Direction) -> None:
        assert direction == "up"

    def resume_after_bandwidth(self, direction: Direction) -> bool:
        self.resumed += 1
        if self._reads_later:
            self._clock.callLater(0, self.ready)
        else:
            self.ready()
        return self._reads_later

    def throttle_failed(self) -> None:
        raise AssertionError

    def ready(self) -> None:
        """There is something to read: as SocketEnd._read, a share of a turn at most."""
        left = TURN_BYTES
        while self.waiting and not self.throttle.is_held and left > 0:
            allowed = self.throttle.allowance(self._clock.seconds())
            if not allowed:
                return
            count = int(min(allowed, self.waiting))
            self.waiting -= count
            self.read += count
            self.reads.append(count)
            left -= count
            self.throttle.charge(count, self._clock.seconds())
        if self.waiting and not self.throttle.is_held:
            self._clock.callLater(0, self.ready)


def limited(clock: Clock, **rules: Any) -> BandwidthLimits:
    limits = BandwidthLimits(clock)
    limits.configure(Rules(**rules))
    return limits


def pass_seconds(clock: Clock, seconds: float, step: float = 0.002) -> None:
    clock.pump([step] * round(seconds / step))


def is_waited_for(sender: Sender, limits: DirectionLimits) -> bool:
    """Whether a throttle that holds will be woken."""
    throttle = sender.throttle
    if throttle.bucket is not None:
        return True
    return throttle in limits._waiting and (limits.bucket is not None or limits._is_taking_turns)


# -- a bucket


def test_a_bucket_goes_into_debt_and_makes_up_for_it() -> None:
    bucket = ByteBucket(1000)
    assert not bucket.is_in_debt(100)
    bucket.take(600, 100)  # 100 of which have waited
    assert bucket.is_in_debt(100.49)
    assert bucket.next_at(100) == pytest.approx(100.5)
    assert not bucket.is_in_debt(100.51)


def test_a_bucket_saves_up_no_more_than_a_burst() -> None:
    bucket = ByteBucket(1000)
    bucket.take(1, 0)
    bucket.take(100, 100)
    assert bucket.next_at(100) == 100  # in so many as pass in BURST_SECONDS
    bucket.take(100, 100)
    assert bucket.next_at(100) == pytest.approx(100.1)


def test_many_reads_at_once_are_not_made_up_for_longer_than_a_second() -> None:
    bucket = ByteBucket(1000)
    for _ in range(50):
        bucket.take(900, 0)
    assert bucket.next_at(0) == pytest.approx(MOST_DEBT_SECONDS)
    bucket.take(64_000, 0)
    assert bucket.next_at(0) == pytest.approx(64)  # one read is


def test_another_rate_keeps_the_debt_but_not_for_longer() -> None:
    bucket = ByteBucket(1000)
    bucket.take(2100, 0)
    assert bucket.with_rate(10_000, 0).next_at(0) == pytest.approx(0.2)
    assert bucket.with_rate(100, 0).next_at(0) == pytest.approx(2)
    assert not bucket.with_rate(100, 3).is_in_debt(3)


@pytest.mark.parametrize(
    ("rate", "quantum"),
    [(KIB, LEAST_QUANTUM), (64 * KIB, int(64 * KIB * QUANTUM_SECONDS)), (100 * MIB, MOST_QUANTUM)],
)
def test_how_much_is_read_at_once(rate: int, quantum: int) -> None:
    assert ByteBucket(rate).quantum() == quantum


# -- exact


@settings(max_examples=examples(15), deadline=None)
@given(
    rate=st.integers(64 * KIB, 2 * MIB),
    connections=st.integers(1, 8),
    is_shared=st.booleans(),
    reads_later=st.booleans(),
    step=st.sampled_from([0.001, 0.003, 0.0101, 0.04]),
)
def test_ten_seconds_are_exact(
    rate: int, connections: int, is_shared: bool, reads_later: bool, step: float
) -> None:
    clock = Clock()
    clock.advance(1000.123)
    key = "bandwidth" if is_shared else "per_connection_bandwidth"
    limits = limited(clock, **{key: Bandwidth(up=rate)})
    senders = [
        Sender(clock, limits.up, float("inf"), reads_later=reads_later) for _ in range(connections)
    ]
    for sender in senders:
        sender.ready()
    pass_seconds(clock, 10, step)
    if is_shared:
        assert sum(each.read for each in senders) == pytest.approx(10 * rate, rel=0.05)
    else:
        for each in senders:
            assert each.read == pytest.approx(10 * rate, rel=0.05)


@pytest.mark.parametrize("rate", [100 * MIB, 400 * MIB])
@pytest.mark.parametrize("connections", [1, 50])
def test_a_high_bandwidth_is_exact(rate: int, connections: int) -> None:
    clock = Clock()
    limits = limited(clock, bandwidth=Bandwidth(up=rate))
    senders = [Sender(clock, limits.up, float("inf")) for _ in range(connections)]
    for sender in senders:
        sender.ready()
    pass_seconds(clock, 2)
    assert sum(each.read for each in senders) == pytest.approx(2 * rate, rel=0.07)


def test_the_narrower_of_both_limits_holds() -> None:
    clock = Clock()
    limits = limited(
        clock,
        bandwidth=Bandwidth(up=100 * KIB),
        per_connection_bandwidth=Bandwidth(up=80 * KIB),
    )
    senders = [Sender(clock, limits.up, float("inf")) for _ in range(2)]
    senders[0].ready()
    pass_seconds(clock, 10)
    assert senders[0].read == pytest.approx(800 * KIB, rel=0.05)
    senders[1].ready()
    pass_seconds(clock, 10)
    assert sum(each.read for each in senders) == pytest.approx(1800 * KIB, rel=0.05)


# -- shared evenly


@settings(max_examples=examples(15), deadline=None)
@given(
    rate=st.integers(64 * KIB, 4 * MIB),
    connections=st.integers(2, 60),
    reads_later=st.booleans(),
)
def test_all_have_the_same_share(rate: int, connections: int, reads_later: bool) -> None:
    clock = Clock()
    limits = limited(clock, bandwidth=Bandwidth(up=rate))
    senders = [
        Sender(clock, limits.up, float("inf"), reads_later=reads_later) for _ in range(connections)
    ]
    for sender in senders:
        sender.ready()
    pass_seconds(clock, 5)
    # The first has the burst, and a quantum that is not shared yet; later it is one turn at most.
    most = rate * BURST_SECONDS + 2 * MOST_QUANTUM
    turns = [len(each.reads) for each in senders]
    rest = [sum(each.reads[-min(turns) :]) for each in senders]
    assert max(rest) - min(rest) <= max(MOST_QUANTUM, rate * QUANTUM_SECONDS)
    assert max(each.read for each in senders) - min(each.read for each in senders) <= most
    assert min(turns) >= 5 * rate / connections / max(LEAST_QUANTUM, rate * 0.05) - 2


def test_one_who_asks_for_little_need_not_wait_for_those_who_ask_for_much() -> None:
    clock = Clock()
    limits = limited(clock, bandwidth=Bandwidth(up=MIB))
    greedy = [Sender(clock, limits.up, float("inf")) for _ in range(20)]
    for sender in greedy:
        sender.ready()
    modest = Sender(clock, limits.up, 0)
    longest = 0.0
    for _ in range(50):
        modest.waiting = 100
        modest.ready()
        began = clock.seconds()
        while modest.waiting:
            clock.advance(0.002)
        longest = max(longest, clock.seconds() - began)
        pass_seconds(clock, 0.03)
    assert modest.read == 5000
    # One round of the others, each of whose quanta is the smaller the more wait; and the debt that
    # the first one has left, whose quantum was not shared.
    assert longest <= 2 * QUANTUM_SECONDS + 0.05


def test_idle_connections_take_no_part() -> None:
    clock = Clock()
    limits = limited(clock, bandwidth=Bandwidth(up=MIB))
    idle = [Sender(clock, limits.up, 10) for _ in range(100)]
    busy = Sender(clock, limits.up, float("inf"))
    for sender in (*idle, busy):
        sender.ready()
    pass_seconds(clock, 10)
    assert all(each.read == 10 and not each.throttle.is_held for each in idle)
    assert busy.read == pytest.approx(10 * MIB, rel=0.05)


# -- nobody waits for ever


class World:
    """Connections that come, send and go, under limits that change."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.all = BandwidthLimits(self.clock)
        self.limits = self.all.up
        self.senders: list[Sender] = []

    def apply(self, shared: int, each: int) -> None:
        """Each connection learns of it, some of them later."""
        self.limits.configure(shared, each)
        for sender in self.senders:
            self.clock.callLater(0.001 * len(self.senders), self._learn, sender)

    def _learn(self, sender: Sender) -> None:
        if sender in self.senders:
            sender.throttle.configured(self.clock.seconds())

    def check(self) -> None:
        for sender in self.senders:
            if sender.throttle.is_held:
                assert is_waited_for(sender, self.limits)
        assert all(not each.throttle.is_held for each in self.senders) or self.clock.calls


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_who_is_on_hold_is_woken(data: st.DataObject) -> None:
    world = World()
    rates = st.sampled_from([0, KIB, 50 * KIB, 10 * MIB])
    world.limits.configure(50 * KIB, 0)
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["new", "send", "close", "apply", "wait", "wait"]))
        if action == "new":
            later = data.draw(st.booleans())
            world.senders.append(Sender(world.clock, world.limits, 0, reads_later=later))
        elif action == "apply":
            world.apply(data.draw(rates), data.draw(rates))
        elif action == "wait":
            world.clock.advance(data.draw(st.sampled_from([0, 0.005, 0.02, 0.5])))
        elif world.senders:
            sender = data.draw(st.sampled_from(world.senders))
            if action == "send":
                sender.waiting += data.draw(st.sampled_from([1, KIB, 70 * KIB]))
                if not sender.throttle.is_held:
                    sender.ready()
            else:
                sender.throttle.close()
                sender.waiting = 0
                world.senders.remove(sender)
        world.check()
    world.apply(100 * MIB, 0)
    pass_seconds(world.clock, 2, 0.01)
    assert not any(each.waiting or each.throttle.is_held for each in world.senders)
    assert not len(world.limits)


def test_one_that_fails_as_it_is_resumed_ends_and_keeps_nobody_waiting(
    logged_failures: list[Failure],
) -> None:
    clock = Clock()
    limits = limited(clock, bandwidth=Bandwidth(up=64 * KIB))
    failed = []

    class Failing(Sender):
        def resume_after_bandwidth(self, direction: Direction) -> bool:
            raise OSError("amid reading")

        def throttle_failed(self) -> None:
            failed.append(self)

    failing, other = Failing(clock, limits.up, MIB), Sender(clock, limits.up, 8 * KIB)
    failing.ready()
    other.ready()
    pass_seconds(clock, 2)
    assert failed == [failing]
    logged_failures.clear()
    assert other.read == 8 * KIB
