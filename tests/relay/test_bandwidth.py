"""Bandwidths on every data path: the sender waits, in the kernel's buffers, and nothing is lost."""

from __future__ import annotations

import random
import socket
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from monconn.devices.diagnosis import diagnose
from monconn.model.reasons import Direction
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.ops.details import connection_details
from monconn.ops.feed import connection_row
from monconn.ops.rates import Rates
from monconn.policy.buckets import MOST_QUANTUM
from monconn.policy.policy import Policy
from monconn.policy.quantities import Bandwidth, parse_bandwidth
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.relay.ends import HOLD_RATE
from monconn.relay.relay import Relay

from .test_relay import ALL_OFF, FakeEnd
from .test_stages import counted, relay_of, sides, staged
from .world import PIPES, World, ends_by_reset, exactly, is_tcp, reset, to_the_end, until

KIB = 1 << 10
DATA = random.Random(5).randbytes(300 * KIB)
HARDLY_ANY = Rules(per_connection_bandwidth=parse_bandwidth("1KiB/s"))
# How nested and copied bytes move makes no difference: those with a throttle are always copied.
PATHS = tuple(pipe for pipe in PIPES if pipe not in ("copy", "nested"))
TLS_RECORDS = 1 << 16
"""What may pass at once over TLS, whose records are read whole."""


def limit(world: World, rules: Rules) -> None:
    world.on_reactor(world.monitor.apply, Policy(rules=rules))


def is_held(world: World, direction: Direction) -> bool:
    relay = relay_of(world)
    return bool((relay.client if direction == "up" else relay.backend).holds & HOLD_RATE)


def send_held(world: World, direction: Direction, sender: socket.socket) -> Any:
    """Send more than passes, and wait until the rest is held."""
    sending = world.meanwhile(sender.sendall, DATA)
    until(lambda: is_held(world, direction))
    return sending


def throttled(families: tuple[str, ...] = ("ipv4",), pipes: tuple[str, ...] = PATHS) -> Any:
    return staged(pipes, families)


def pass_some(world: World, direction: Direction) -> None:
    limit(
        world,
        Rules(
            bandwidth=parse_bandwidth("3MiB/s"), per_connection_bandwidth=parse_bandwidth("2MiB/s")
        ),
    )
    sender, receiver = sides(world, direction)
    sending = world.meanwhile(sender.sendall, DATA)
    assert exactly(receiver, len(DATA)) == DATA
    sending.result()
    sender.shutdown(socket.SHUT_WR)
    assert to_the_end(receiver) == (b"", "fin")
    assert world.live().limited_seconds > 0
    receiver.sendall(b"answer")
    assert exactly(sender, 6) == b"answer"
    receiver.shutdown(socket.SHUT_WR)
    (record,) = world.closed()
    assert record.limited_since is None
    assert record.reason in ("client_closed", "backend_closed")


@throttled()
def test_bytes_pass_and_the_end_after_them(world: World, direction: Direction) -> None:
    pass_some(world, direction)


@throttled(("unix", "ipv4_to_unix"), ("stream", "splice"))
def test_bytes_pass_on_unix_sockets(world: World, direction: Direction) -> None:
    pass_some(world, direction)


@throttled()
def test_bandwidths_hold_at_once_for_live_connections(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    relay = relay_of(world)
    end = relay.client if direction == "up" else relay.backend
    sending = world.meanwhile(sender.sendall, DATA)  # the last chunk is one of bulk
    assert exactly(receiver, len(DATA)) == DATA
    sending.result()
    limit(world, HARDLY_ANY)
    before = counted(world, direction)
    sending = send_held(world, direction, sender)
    assert world.live().limited_since is not None
    limit(world, Rules(per_connection_bandwidth=parse_bandwidth("2KiB/s")))
    limit(world, Rules(bandwidth=parse_bandwidth("1KiB/s")))
    until(lambda: is_held(world, direction))
    passed = counted(world, direction) - before
    assert passed <= TLS_RECORDS
    limit(world, Rules(bandwidth=parse_bandwidth("1GiB/s")))
    assert exactly(receiver, len(DATA)) == DATA
    sending.result()
    limit(world, Rules())
    until(lambda: end.throttle is None)
    assert (end.holds, end.is_watched) == (0, False)
    sending = world.meanwhile(sender.sendall, DATA)
    assert exactly(receiver, len(DATA)) == DATA
    sending.result()


@throttled()
def test_nothing_is_queued_and_what_is_held_is_not_waited_for_at_a_close(
    world: World, direction: Direction
) -> None:
    limit(world, HARDLY_ANY)
    sender, receiver = sides(world, direction)
    sending = send_held(world, direction, sender)
    taken = counted(world, direction)
    assert taken <= TLS_RECORDS
    assert exactly(receiver, taken) == DATA[:taken]  # all that was read was passed on
    # A minute of bytes is left; by then this test would have failed.
    world.on_reactor(world.monitor.close, world.live().id)
    assert to_the_end(receiver)[1] == "fin"
    receiver.close()
    sending.exception()
    sender.close()
    (record,) = world.closed()
    assert record.reason == "operator"


@throttled()
def test_the_reset_of_a_held_side_is_passed_on(world: World, direction: Direction) -> None:
    limit(world, Rules(per_connection_bandwidth=parse_bandwidth("512KiB/s")))
    sender, receiver = sides(world, direction)
    sender.sendall(DATA[: 2 * MOST_QUANTUM])
    until(lambda: counted(world, direction) and is_held(world, direction))
    assert is_tcp(sender)
    reset(sender)
    received, how = to_the_end(receiver)
    assert how in ends_by_reset(receiver)
    assert DATA.startswith(received)
    (record,) = world.closed()
    assert record.reason == ("client_reset" if direction == "up" else "backend_reset")


@throttled(pipes=("stream", "splice", "tls_to_tls"))
def test_connections_share_a_bandwidth(world: World, direction: Direction) -> None:
    limit(world, Rules(bandwidth=parse_bandwidth("4MiB/s")))
    pairs = [world.pair() for _ in range(3)]
    until(lambda: all(each.state == "open" for each in world.monitor.connections()))
    ways = [each if direction == "up" else each[::-1] for each in pairs]
    moving = []
    for sender, receiver in ways:
        world.meanwhile(sender.sendall, DATA)
        moving.append(world.meanwhile(exactly, receiver, len(DATA)))
    assert [each.result() for each in moving] == [DATA] * 3


# -- what a hold means to the rest


class Held:
    """A relay whose client is held by its bandwidth, after a chunk of a hundred seconds."""

    def __init__(self, **timeouts: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        rules = Rules(per_connection_bandwidth=parse_bandwidth("1KiB/s"))
        limits = Timeouts(**{**ALL_OFF, **timeouts})
        self.monitor = Monitor("web", rules, limits, clock=self.clock)
        record = self.monitor.admit("192.0.2.1:4711", "192.0.2.1")
        assert record is not None
        self.record = record
        self.calls: list[str] = []
        self.client, self.backend = FakeEnd("client", self.calls), FakeEnd("backend", self.calls)
        deadlines = Deadlines(self.clock)
        self.relay = Relay(self.monitor, record, self.client, self.backend, deadlines)
        self.relay.connected(self.client)
        self.relay.connected(self.backend)
        self.relay.data(self.client, bytes(100 * KIB), self.clock.seconds())

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))


@pytest.mark.parametrize("limit", ["max_idle", "read_timeout", "half_close_timeout"])
def test_time_on_hold_counts_for_no_limit(limit: str) -> None:
    held = Held(**{limit: 20})
    if limit == "half_close_timeout":
        held.relay.eof(held.backend)
    assert held.client.holds == HOLD_RATE
    held.pass_seconds(95)
    assert (held.record.reason, held.client.holds) == (None, HOLD_RATE)
    held.pass_seconds(10)
    assert (held.record.reason, held.client.holds) == (None, 0)
    assert held.record.limited_seconds == pytest.approx(100, abs=0.2)
    held.pass_seconds(20)  # counted from when it was read from again
    assert held.record.reason == ("idle_timeout" if limit == "max_idle" else limit)


def test_people_see_that_bandwidth_limits_a_connection() -> None:
    held = Held()
    held.pass_seconds(30)
    row = connection_row(held.record, Rates(), held.clock.seconds())
    assert row.limited_seconds == pytest.approx(30, abs=0.1)
    assert row.is_limited
    assert row.state == "open"
    state = row.find_column("state")
    assert state is not None
    assert state.text(row) == "limited"
    details = dict(filter(None, connection_details(row.to_json())))
    assert details["state"] == "open, limited by bandwidth"
    assert details["limited"] == "not read from for 30.0s, as its bandwidth was used up"
    diagnosis = diagnose(held.record, held.clock.seconds())
    assert diagnosis["looks_like"] == "limited by bandwidth"
    held.pass_seconds(72)
    row = connection_row(held.record, Rates(), held.clock.seconds())
    assert row.limited_seconds == pytest.approx(100, abs=0.1)
    assert row.is_limited is False
    assert held.monitor.bandwidth is not None
    assert held.monitor.bandwidth.held_seconds() == {"up": pytest.approx(100, abs=0.1), "down": 0}


def test_an_end_has_a_throttle_only_for_a_direction_that_is_limited() -> None:
    clock = Clock()
    monitor = Monitor("web", Rules(bandwidth=Bandwidth(down=5000)), clock=clock)
    record = monitor.admit("192.0.2.1:4711", "192.0.2.1")
    assert record is not None
    client, backend = FakeEnd("client", []), FakeEnd("backend", [])
    relay = Relay(monitor, record, client, backend, Deadlines(clock))
    relay.connected(client)
    assert client.throttle is None
    assert backend.throttle is not None
    relay.decoding = None
    cancel = relay.add_watcher(lambda direction, data: None)
    assert client.is_watched
    cancel()
    assert (client.is_watched, backend.is_watched) == (False, True)
    monitor.apply(attrs.evolve(monitor.policy, rules=Rules(bandwidth=Bandwidth(up=5000))))
    assert client.throttle is not None
    assert backend.throttle is None
    assert (client.is_watched, backend.is_watched) == (True, False)


def test_a_service_without_bandwidth_has_nothing_of_it() -> None:
    monitor = Monitor("web", Rules(conn_limit=5))
    assert monitor.bandwidth is None


def test_nothing_of_a_connection_is_left_in_its_limits() -> None:
    held = Held()
    assert held.monitor.bandwidth is not None
    assert len(held.monitor.bandwidth.up.timers) == 1
    held.relay.end("operator", reset=True)
    held.relay.gone(held.client)
    held.relay.gone(held.backend)
    assert len(held.monitor.bandwidth.up.timers) == 0
    assert held.client.throttle is None
