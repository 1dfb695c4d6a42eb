from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from zope.interface import implementer

from monconn.config.sections import DevicesConfig
from monconn.devices.alarmlog import LINES_A_SECOND
from monconn.devices.devices import (
    COUNTED_AT_ONCE,
    MOST_MEASURED,
    MOST_PENDING,
    Devices,
)
from monconn.devices.identity import DeviceIdentity
from monconn.devices.service import DevicesService
from monconn.errors import UnknownService
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import IConnection, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.devices import DeviceRules
from monconn.policy.policy import Policy
from monconn.sinks.metrics.figures import ServiceFigures
from monconn.testing import RecordingObserver, make_monitor
from tests.properties import examples

FLEET = 5_000


@implementer(IConnection)
class Connection:
    """A connection without sockets: it closes as soon as it is ended."""

    def __init__(self, monitor: Monitor, record: ConnectionRecord) -> None:
        self.monitor = monitor
        self.record = record

    def speak(self, count: int = 1) -> None:
        self.record.up += count
        self.record.last_up = self.monitor.clock.seconds()

    def end(self, reason: Any = "client_closed", reset: bool = False) -> None:
        self.record.end(reason, self.monitor.clock.seconds())
        self.monitor.closed(self)

    def policy_changed(self) -> None:
        """There are no deadlines."""

    def measure(self) -> None:
        pass


class World:
    """One service with its devices, and an observer that records the alarms."""

    def __init__(self, **config: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.registry = Registry()
        self.monitor = make_monitor("web", self.clock)
        self.registry.add(self.monitor)
        self.devices = DevicesService(DevicesConfig(**config), self.registry, self.clock)
        self.devices.startService()
        self.observer = RecordingObserver(watches_payload=False)
        self.monitor.add_observer(self.observer)

    def enter(self, ip: str = "10.0.0.1") -> Connection:
        record = self.monitor.admit(f"{ip}:4711", ip)
        assert record is not None
        connection = Connection(self.monitor, record)
        self.monitor.opened(connection)
        return connection

    def speak_every(self, connection: Connection, seconds: float, times: int) -> None:
        for _ in range(times):
            self.wait(seconds)
            connection.speak()
        self.wait(1.0)

    def visit_every(self, seconds: float, times: int, reason: str = "client_closed") -> None:
        for _ in range(times):
            connection = self.enter()
            connection.speak()
            connection.end(reason)
            self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Advance the clock in steps, so that there is a poll in each second."""
        whole = int(seconds)
        for _ in range(whole):
            self.clock.advance(1.0)
        if seconds > whole:
            self.clock.advance(seconds - whole)

    def alarms(self) -> list[tuple[str, str, bool]]:
        """The devices' alarms since the last call: the kind, the device, whether it is over."""
        self.devices.rows()  # counts all that is queued
        alarms = [event[1] for event in self.observer.events if event[0] == "alarmed"]
        self.observer.events.clear()
        return [(alarm.kind, alarm.device, alarm.is_over) for alarm in alarms if alarm.device]

    def kinds(self) -> list[str]:
        """The same for a single device: ``silent``, and ``-silent`` when that is over."""
        return ["-" * is_over + kind for kind, _, is_over in self.alarms()]

    def measured(self) -> Any:
        return self.devices.measured(self.row())["last_heard_seconds"]

    def row(self) -> dict[str, Any]:
        (row,) = self.devices.rows()
        return row


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def events() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as captured:
        yield captured


def number_ip(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


# -- what a device is


@pytest.mark.parametrize(
    ("config", "ip", "device"),
    [
        ({}, "10.0.0.1", "10.0.0.1"),
        ({}, "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ({}, "unix", "unix"),
        ({}, "local", "local"),
        ({}, "fe80::1%eth0", "fe80::1%eth0"),
        ({"prefix_v4": 24, "prefix_v6": 128}, "10.1.2.3", "10.1.2.0/24"),
        ({"prefix_v4": 24, "prefix_v6": 128}, "2001:db8::4", "2001:db8::4"),
        ({"prefix_v4": 24}, "unix", "unix"),
        ({"prefix_v4": 1}, "200.1.2.3", "128.0.0.0/1"),
        ({"prefix_v6": 60}, "2001:db8:1:ffff::4", "2001:db8:1:fff0::/60"),
        ({"prefix_v6": 1}, "2001:db8::1", "::/1"),
    ],
)
def test_name_of_a_device(config: dict[str, Any], ip: str, device: str) -> None:
    assert DeviceIdentity(DevicesConfig(**config)).of(ip) == device


# -- rows


def test_a_row_says_when_the_device_was_last_heard_on_any_live_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = [world.enter(), world.enter(), world.enter()]
    now = world.clock.seconds()
    heard = {connections[0].record.id: now - 50, connections[1].record.id: now - 7.5}

    def measure(connection_id: int) -> None:
        world.monitor.connection(connection_id).client_heard = heard.get(connection_id)

    monkeypatch.setattr(world.monitor, "measure", measure)
    assert world.row()["last_heard_seconds"] is None  # the kernel was not asked
    assert world.measured() == 7.5
    assert world.row()["last_heard_seconds"] == 7.5
    connections[1].end("client_closed")
    assert world.measured() == 50.0
    connections[0].end("client_closed")
    assert world.measured() is None


def test_a_row_asks_the_kernel_about_a_bounded_number_of_connections(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(world.monitor, "measure", measured.append)
    for _ in range(MOST_MEASURED + 5):
        world.enter()
    world.measured()
    assert len(measured) == MOST_MEASURED


def test_row(world: World) -> None:
    first = world.enter()
    first.speak(3)
    first.record.down = 20
    world.wait(60.0)
    first.end("client_reset")
    second = world.enter()
    second.speak(4)
    world.wait(2.5)
    row = world.row()
    assert json.loads(json.dumps(row)) == row
    assert second.record.last_up is not None
    for key in ("first_seen", "last_seen"):  # wall clock: the test's own
        assert row.pop(key) == iso_time(
            {"first_seen": first, "last_seen": second}[key].record.opened_at
        )
    assert row == {
        "device": "10.0.0.1",
        "name": "10.0.0.1",
        "identity": "address",
        "addresses": ["10.0.0.1"],
        "service": "web",
        "connections": 1,
        "total": 2,
        "reconnect_seconds": None,
        "heartbeat_seconds": None,
        "silent_seconds": 2.5,
        "last_heard_seconds": None,
        "up": 7,
        "down": 20,
        "last_reason": "client_reset",
        "alarms": [],
    }


def test_device_without_a_message(world: World) -> None:
    world.enter()
    world.wait(5.0)
    assert world.row()["silent_seconds"] is None


def test_the_device_seen_last_comes_first(world: World) -> None:
    other = make_monitor("mqtt", world.clock)
    world.registry.add(other)  # a later one is followed as well
    base = 1_700_000_000.0
    for number, (monitor, ip) in enumerate(
        [(world.monitor, "10.0.0.1"), (other, "10.0.0.2"), (world.monitor, "10.0.0.3")]
    ):
        record = monitor.admit(f"{ip}:1", ip)
        assert record is not None
        record.opened_at = base + number
        monitor.opened(Connection(monitor, record))
    rows = [(row["service"], row["device"]) for row in world.devices.rows()]
    assert rows == [("web", "10.0.0.3"), ("mqtt", "10.0.0.2"), ("web", "10.0.0.1")]
    assert [row["device"] for row in world.devices.rows("mqtt")] == ["10.0.0.2"]
    with pytest.raises(UnknownService):
        world.devices.rows("ssh")


def test_typical_times(world: World) -> None:
    """Medians: the one long gap does not count."""
    for seconds in (10.0, 12.0, 11.0, 500.0, 10.5):
        connection = world.enter()
        connection.speak()
        world.wait(1.0)
        connection.end("operator")
        world.wait(seconds - 1.0)
    world.enter().speak()
    world.wait(1.0)
    row = world.row()
    assert row["heartbeat_seconds"] == row["reconnect_seconds"] == 11.0


def test_connections_opened_together_are_one_arrival(world: World) -> None:
    for _ in range(4):
        for _ in range(6):
            world.enter().end()
            world.clock.advance(0.1)
        world.wait(20.0)
    assert world.row()["reconnect_seconds"] == pytest.approx(20.1)


def test_connections_that_were_live_before_are_known() -> None:
    monitor = make_monitor("web")
    registry = Registry()
    registry.add(monitor)
    record = monitor.admit("10.0.0.1:1", "10.0.0.1")
    assert record is not None
    monitor.opened(connection := Connection(monitor, record))
    devices = DevicesService(DevicesConfig(), registry, monitor.clock)
    connection.speak(5)
    connection.end()
    (row,) = devices.rows()
    assert (row["connections"], row["total"], row["up"]) == (0, 1, 5)


def test_deleted_service_is_no_longer_followed(world: World) -> None:
    connection = world.enter()
    world.registry.delete("web")
    world.wait(1.0)
    assert list(world.devices.rows()) == []
    world.enter("10.0.0.2")
    connection.end()
    world.registry.add(world.monitor)
    assert [row["device"] for row in world.devices.rows()] == ["10.0.0.2"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "speak", "end", "wait"]),
        st.integers(0, 4),
        st.sampled_from(["client_closed", "client_reset", "operator", "idle_timeout"]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_counts_are_those_of_the_monitor(steps: list[tuple[str, int, str]]) -> None:
    world = World(storm_connections=2, silent_heartbeats=1)
    live: list[Connection] = []
    for what, number, reason in steps:
        if what == "open":
            live.append(world.enter(number_ip(number)))
        elif what == "wait":
            world.wait(float(number * number))
        elif live and what == "speak":
            live[number % len(live)].speak(number + 1)
        elif live:
            live.pop(number % len(live)).end(reason)
        rows = list(world.devices.rows())
        by_ip = {row["device"]: row["connections"] for row in rows if row["connections"]}
        assert by_ip == world.monitor.connections_by_ip()
        assert sum(row["total"] for row in rows) == world.monitor.totals().opened
        assert (sum(row["up"] for row in rows), 0) == world.monitor.bytes()
        assert sorted(world.monitor.connections_by_ip().items()) == sorted(by_ip.items())
    raised = Counter((kind, device) for kind, device, is_over in world.alarms() if not is_over)
    assert all(
        row["alarms"] == [] or raised[row["alarms"][0], row["device"]] for row in rows_of(world)
    )


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "speak", "fail", "end", "wait", "long", "block", "unblock", "forget", "off"]
        ),
        st.integers(0, 2),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=examples(150))
@given(CHANGES)
def test_alarms_that_have_begun_and_are_not_over_are_those_of_the_rows(
    steps: list[tuple[str, int]],
) -> None:
    """Whatever happens; and each ends once, and the metrics agree."""
    world = World(storm_connections=1, silent_heartbeats=1, kept=2)
    figures = ServiceFigures()
    world.monitor.add_observer(figures)
    live: list[Connection] = []
    active: set[tuple[str, str]] = set()
    for what, number in steps:
        ip = number_ip(number)
        live = [each for each in live if each.record.closed is None]
        if what == "open" and not world.monitor.is_blocked(ip):
            live.append(world.enter(ip))
        elif what == "speak" and live:
            world.speak_every(live[number % len(live)], 10.0, 6)
        elif what in ("fail", "end") and live:
            live[number % len(live)].end("client_reset" if what == "fail" else "client_closed")
        elif what in ("wait", "long"):
            world.wait(5.0 if what == "wait" else 70.0)
        elif what == "block":
            world.monitor.block(ip)
        elif what == "unblock":
            world.monitor.unblock(ip)
        elif what == "forget":
            world.devices.forget(ip_network(ip))
        elif what == "off":
            rules = DeviceRules(silent_heartbeats=number % 2, storm_connections=number // 2)
            world.monitor.apply(Policy(devices=rules))
        for kind, device, is_over in world.alarms():
            assert is_over == ((kind, device) in active)
            (active.discard if is_over else active.add)((kind, device))
        shown = {(kind, row["device"]) for row in rows_of(world) for kind in row["alarms"]}
        assert shown == active
        for kind, count in figures.alarms_active.items():
            assert count == sum(kind == each for each, _ in active)
    world.registry.delete("web")
    world.wait(1.0)
    assert sum(figures.alarms_active.values()) == 0


def rows_of(world: World) -> list[dict[str, Any]]:
    return list(world.devices.rows())


# -- silence


def test_short_connections_in_a_row_are_no_interval(world: World) -> None:
    """Such as those of a browser, or of a program that sends several requests and then waits."""
    for _ in range(5):
        connection = world.enter()
        connection.speak()
        connection.end("client_closed")
        world.clock.advance(0.01)
    connection = world.enter()
    connection.speak()
    world.wait(60.0)
    assert world.row()["heartbeat_seconds"] is None
    assert world.kinds() == []


def test_silent_while_connected(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    assert world.row()["heartbeat_seconds"] == 60.0
    world.wait(178.0)  # 179 s since it spoke
    assert world.kinds() == []
    world.wait(3.0)
    assert world.kinds() == ["silent"]
    assert world.row()["alarms"] == ["silent"]
    world.wait(3600.0)
    assert world.kinds() == []  # once
    connection.speak()
    world.wait(1.0)
    assert world.kinds() == ["-silent"]
    assert world.row()["alarms"] == []
    world.speak_every(connection, 60.0, 21)
    world.wait(200.0)
    assert world.kinds() == ["silent"]  # and again


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_paused_service_has_no_silent_devices(world: World, is_connected: bool) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    world.monitor.pause()
    if not is_connected:
        connection.end("client_reset")
    world.wait(3600.0)
    assert world.kinds() == []
    world.monitor.resume()
    world.wait(100.0)
    assert world.kinds() == []
    world.wait(200.0)
    world.devices.rows()  # counts what is queued
    details = [event[1].detail for event in world.observer.events if event[0] == "alarmed"]
    assert world.kinds() == ["silent"]
    assert "it could not be heard until" in details[0]
    assert "restarted" not in details[0]


def test_a_device_that_a_draining_service_keeps_out_is_not_silent(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    world.monitor.drain()
    connection.end("client_reset")
    world.wait(3600.0)
    assert world.kinds() == []
    world.monitor.resume()
    world.wait(300.0)
    assert world.kinds() == ["silent"]


def test_three_intervals_make_a_typical_one(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 10.0, 2)
    world.wait(300.0)
    assert (world.kinds(), world.row()["heartbeat_seconds"]) == ([], None)


def test_no_device_is_silent_within_five_seconds(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 1.0, 301)
    world.wait(3.0)  # 4 s since it spoke
    assert world.kinds() == []
    world.wait(3.0)
    assert world.kinds() == ["silent"]


def test_an_irregular_device_has_no_typical_interval(world: World) -> None:
    """Such as a person at a keyboard: no alarm for each pause."""
    connection = world.enter()
    raised = []
    for _ in range(10):
        connection.speak()
        world.speak_every(connection, 1.0, 3)
        world.wait(60.0)
        raised += world.kinds()
    assert raised == []


def test_a_slower_interval_is_learned(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 10.0, 30)
    world.speak_every(connection, 60.0, 40)
    assert world.kinds() == ["silent", "-silent"]
    world.wait(185.0)
    assert world.kinds() == ["silent"]


def test_message_just_before_the_poll_counts(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 10.0, 31)
    world.wait(29.0)
    world.clock.advance(0.9)
    connection.speak()
    world.wait(10.0)
    assert world.kinds() == []


def test_a_process_that_was_stopped_raises_no_alarm(world: World) -> None:
    """Bytes that arrived meanwhile are read after the timers have run."""
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 10.0, 31)
    world.clock.advance(3600.0)
    connection.speak()
    world.wait(5.0)
    assert world.kinds() == []


@pytest.mark.parametrize("reason", ["client_reset", "client_lost", "idle_timeout", "error"])
def test_disconnected_abnormally(world: World, reason: str) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 20.0, 21)
    connection.end(reason)
    world.wait(57.0)
    assert world.kinds() == []
    world.wait(4.0)
    assert world.kinds() == ["silent"]
    back = world.enter()
    world.wait(2.0)
    assert world.kinds() == []  # it has said nothing yet
    back.speak()
    world.wait(1.0)
    assert world.kinds() == ["-silent"]


def test_reconnected_without_a_message(world: World) -> None:
    """A device that only reconnects, again and again, is still silent."""
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 20.0, 21)
    for _ in range(8):
        connection.end("backend_refused")
        world.wait(10.0)
        connection = world.enter()
    assert world.kinds() == ["silent"]


@pytest.mark.parametrize(
    "reason", ["client_closed", "backend_closed", "operator", "blocked", "stopping", "lifetime"]
)
def test_disconnected_normally(world: World, reason: str) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 20.0, 21)
    connection.end(reason)
    world.wait(3600.0)
    # When it comes back, it may take its time for the first word.
    connection = world.enter()
    world.wait(50.0)
    assert world.kinds() == []
    world.wait(20.0)
    assert world.kinds() == ["silent"]
    connection.end(reason)
    assert world.kinds() == ["-silent"]


@pytest.mark.parametrize("reason", ["client_closed", "lifetime"])
def test_a_device_that_connects_for_each_message_does_not_return(world: World, reason: str) -> None:
    world.visit_every(100.0, 10, reason)
    assert world.row()["reconnect_seconds"] == 100.0
    world.wait(195.0)  # 295 s since it left
    assert world.kinds() == []
    world.wait(10.0)
    assert world.kinds() == ["silent"]
    world.enter()
    assert world.kinds() == ["-silent"]


@pytest.mark.parametrize("reason", ["operator", "blocked", "stopping"])
def test_a_device_that_we_disconnected_is_not_expected(world: World, reason: str) -> None:
    world.visit_every(100.0, 15)
    world.visit_every(100.0, 1, reason)
    world.wait(3600.0)
    assert world.kinds() == []


def test_never_silent_when_disabled() -> None:
    world = World(silent_heartbeats=0)
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 20.0, 21)
    world.wait(600.0)
    connection.end("client_reset")
    world.visit_every(10.0, 5)
    world.wait(600.0)
    assert world.kinds() == []
    assert world.row()["heartbeat_seconds"] is not None


# -- storms


@pytest.mark.parametrize(
    "reason", ["client_reset", "backend_refused", "client_lost", "error", "connect_timeout"]
)
def test_storm_is_the_one_connection_too_many(world: World, reason: str) -> None:
    def come() -> None:
        world.enter().end(reason)

    for _ in range(10):
        come()
        world.clock.advance(5.9)
    assert world.kinds() == []
    come()  # the eleventh within 59 s
    assert world.kinds() == ["reconnect_storm"]
    assert world.row()["alarms"] == ["reconnect_storm"]
    come()
    assert world.kinds() == []
    # Over with fewer than five in a minute: of the twelve, the fifth last came 17.7 s ago.
    world.wait(42.0)
    assert world.kinds() == []
    world.wait(2.0)
    assert world.kinds() == ["-reconnect_storm"]
    assert world.row()["alarms"] == []


@pytest.mark.parametrize("reason", ["client_closed", "backend_closed", "operator", "idle_timeout"])
def test_no_storm_of_connections_that_end_in_good_order(world: World, reason: str) -> None:
    """``ab -n 10000 -c 50``, say, or a pool whose connections are left to our limit."""
    for _ in range(50):
        many = [world.enter() for _ in range(20)]
        for connection in many:
            connection.speak()
            connection.end(reason)
        world.clock.advance(0.2)
    assert world.kinds() == []


def test_connections_that_fail_at_once_are_one_failure(world: World) -> None:
    """A pool of 50 whose backend has restarted connects anew, and that is all."""
    for _ in range(2):
        many = [world.enter() for _ in range(50)]
        world.clock.advance(0.01)
        for connection in many:
            connection.end("backend_reset")
    assert world.kinds() == []


def test_a_device_that_is_refused_again_and_again_is_a_storm(world: World) -> None:
    connection = world.enter()
    world.monitor.rules.conn_limit = 1
    for _ in range(11):
        assert world.monitor.admit("10.0.0.1:1", "10.0.0.1") is None
        assert world.monitor.admit("10.0.0.2:1", "10.0.0.2") is None  # a stranger: no device
        world.wait(2.0)
    (alarm,) = [event[1] for event in world.observer.events if event[0] == "alarmed"]
    assert alarm.detail == "11 connections within 20.0s, each after a failure (conn_limit)"
    assert world.kinds() == ["reconnect_storm"]
    connection.end()


def test_a_device_that_tries_although_it_is_not_allowed_is_no_storm(world: World) -> None:
    world.enter().end("client_reset")
    world.monitor.apply(Policy.of(allow=["192.0.2.0/24"]))
    for _ in range(50):
        assert world.monitor.admit("10.0.0.1:1", "10.0.0.1") is None
        world.wait(1.0)
    assert world.kinds() == []


def test_a_device_that_tries_although_it_is_blocked_is_no_storm(world: World) -> None:
    world.enter().end("client_reset")
    world.monitor.block("10.0.0.1")
    for _ in range(50):
        world.monitor.admit("10.0.0.1:1", "10.0.0.1")
        world.wait(1.0)
    assert world.kinds() == []


def test_no_storm_if_connections_are_spread(world: World) -> None:
    for _ in range(50):
        world.enter().end("client_reset")
        world.clock.advance(6.0)
    assert world.kinds() == []


def test_a_second_storm_is_another_alarm(world: World) -> None:
    for _ in range(2):
        for _ in range(15):
            world.enter().end("client_reset")
        world.wait(62.0)
    assert world.kinds() == ["reconnect_storm", "-reconnect_storm"] * 2


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_storms_of_a_small_limit(allowed: int) -> None:
    world = World(storm_connections=allowed)
    for _ in range(allowed):
        world.enter().end("client_reset")
    assert world.kinds() == []
    world.enter().end("client_reset")
    assert world.kinds() == ["reconnect_storm"]
    world.wait(59.0)
    assert world.kinds() == []
    world.wait(3.0)
    assert world.kinds() == ["-reconnect_storm"]


def test_no_storm_when_disabled() -> None:
    world = World(storm_connections=0)
    for _ in range(100):
        world.enter().end("client_reset")
    assert world.kinds() == []


# -- fleets


def enter_fleet(world: World) -> list[Connection]:
    return [world.enter(number_ip(number)) for number in range(FLEET)]


class Fleet:
    """Has each device of a fleet send every ten minutes, ±30 %, in steps of 20 s."""

    mean = 600.0
    step = 20.0

    def __init__(self, world: World, fleet: list[Connection]) -> None:
        self.world = world
        self.dice = random.Random(1)
        self.tick = 0
        self.due: dict[int, list[Connection]] = {}
        self.silent: set[Connection] = set()
        for connection in fleet:
            self.due.setdefault(int(self.dice.uniform(0, self.mean / self.step)), []).append(
                connection
            )

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds / self.step)):
            for connection in self.due.pop(self.tick, ()):
                if connection not in self.silent:
                    connection.speak()
                    pause = round(self.mean * self.dice.uniform(0.7, 1.3) / self.step)
                    self.due.setdefault(self.tick + pause, []).append(connection)
            self.world.clock.advance(self.step)
            self.tick += 1


def test_steady_fleet_raises_no_alarm_and_a_silent_device_does(world: World) -> None:
    fleet = enter_fleet(world)
    senders = Fleet(world, fleet)
    senders.advance(4.5 * 3600.0)
    assert world.alarms() == []
    senders.silent = set(random.Random(2).sample(fleet, 50))
    names = sorted(connection.record.client_ip for connection in senders.silent)
    senders.advance(
        600.0
    )  # since then at the latest they are silent; ten minutes ago at the earliest
    assert world.alarms() == []
    senders.advance(2000.0)
    assert sorted(world.alarms()) == [("silent", name, False) for name in names]
    senders.advance(1800.0)
    assert world.alarms() == []
    for connection in senders.silent:
        connection.speak()
    world.wait(1.0)
    assert sorted(world.alarms()) == [("silent", name, True) for name in names]


def test_twenty_of_a_fleet_storm(world: World) -> None:
    fleet = enter_fleet(world)
    chosen = [connection.record.client_ip for connection in fleet[::250]]
    for _ in range(11):
        for ip in chosen:
            world.enter(ip).end("client_reset")
        world.wait(3.0)
    assert sorted(world.alarms()) == sorted(("reconnect_storm", ip, False) for ip in chosen)
    world.wait(61.0)
    assert sorted(world.alarms()) == sorted(("reconnect_storm", ip, True) for ip in chosen)


def test_restart_of_the_service_raises_no_alarm(world: World) -> None:
    fleet = enter_fleet(world)
    for _ in range(6):
        for connection in fleet:
            connection.speak()
        world.wait(10.0)
    visitors = [number_ip(FLEET + number) for number in range(100)]
    for _ in range(6):
        for ip in visitors:
            world.enter(ip).end("client_closed")
        for connection in fleet:
            connection.speak()
        world.wait(10.0)
    world.monitor.stop(60.0)
    for connection in fleet[:1000]:
        connection.end("client_reset")
    world.wait(120.0)
    assert len(world.monitor) == 0
    world.wait(600.0)
    assert world.alarms() == []


# -- bounds


def test_million_addresses() -> None:
    world = World(kept=1_000)
    stays = world.enter("192.0.2.1")
    record = stays.record
    (devices,) = world.devices._followed.values()
    for number in range(1_000_000):
        record = ConnectionRecord(
            id=-number,
            service="web",
            client="",
            client_ip=str(number),
            listener="",
            backend="",
            opened_at=0.0,
            opened=1000.0,
        )
        devices.opened(record)
        record.reason, record.closed = "client_closed", 1000.0
        devices.closed(record)
    rows = rows_of(world)
    assert (len(rows), world.devices.forgotten) == (1_000, 1_000_000 - 999)
    # Connected devices are retained, however long ago they were seen.
    assert "192.0.2.1" in {row["device"] for row in rows}


def test_more_live_devices_than_are_retained() -> None:
    """The ones seen longest ago are forgotten then, and new when they come again."""
    world = World(kept=10)
    connections = [world.enter(number_ip(number)) for number in range(15)]
    assert [row["device"] for row in world.devices.rows()] == [
        number_ip(number) for number in range(14, 4, -1)
    ]
    for connection in connections:
        connection.speak()
    world.wait(2.0)
    connections[0].end("client_reset")
    assert len(rows_of(world)) == 10
    again = world.enter(number_ip(1))
    connections[1].end("client_closed")
    row, *_ = world.devices.rows()
    assert (row["device"], row["connections"], row["total"]) == (number_ip(1), 1, 1)
    again.end("client_closed")


def counts_of(devices: Devices, monkeypatch: pytest.MonkeyPatch, *methods: str) -> list[int]:
    """A list whose last number is how often these methods were called since it was appended."""
    counts = [0]

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any) -> Any:
            counts[-1] += 1
            return method(*args)

        return count

    for name in methods:
        monkeypatch.setattr(devices, name, counting(getattr(devices, name)))
    return counts


def test_those_that_connect_during_a_poll_are_counted_little_by_little_before_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.visit_every(60.0, 12)
    world.devices.stopService()
    devices = world.devices.of("web")
    assert world.alarms() == []
    world.clock.advance(3600.0)
    world.enter("10.0.0.2")
    steps = devices.poll(world.clock.seconds())
    next(steps)  # it is counted
    next(steps)  # and looked at
    for number in range(4 * COUNTED_AT_ONCE):
        world.enter(number_ip(1000 + number))
    world.enter()
    counts = counts_of(devices, monkeypatch, "_count_opened")
    for _ in steps:
        counts.append(0)
    assert sum(counts) == 4 * COUNTED_AT_ONCE + 1
    assert max(counts) <= COUNTED_AT_ONCE
    assert world.alarms() == []


class Cutter(Observer):
    """Ends all connections as soon as a storm begins."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    def alarmed(self, alarm: Alarm) -> None:
        for connection in reversed(self.connections):
            connection.speak()
            connection.end("operator", reset=True)
        self.connections.clear()


@pytest.mark.parametrize("kept", [1_000, 10])
def test_a_connection_closed_because_of_an_alarm_is_counted_once(kept: int) -> None:
    """The alarm comes as a connection is counted in, and all that follows before that is done."""
    many = MOST_PENDING + 500
    world = World(storm_connections=many, storm_within=3600.0, kept=kept)
    world.monitor.add_observer(cutter := Cutter())
    for _ in range(many - 1):
        world.enter().end("client_reset")
        cutter.connections.append(world.enter())
    world.wait(1.0)
    world.enter().end("client_reset")
    cutter.connections.append(world.enter())
    for number in range(100, 120):
        world.enter(number_ip(number))
    rows = {row["device"]: row for row in rows_of(world)}
    assert len(rows) == min(kept, 21)
    if "10.0.0.1" in rows:
        row = rows["10.0.0.1"]
        assert (row["connections"], row["total"], row["up"]) == (0, 2 * many, many)
    assert world.observer.events, "the observer was switched off"


def test_alarms_of_the_forgotten_are_over() -> None:
    world = World(kept=1, storm_connections=3)
    for _ in range(32):
        connection = world.enter()
        connection.speak()
        world.wait(10.0)
        connection.end("client_reset")
    world.wait(31.0)
    assert world.kinds() == ["reconnect_storm", "silent"]
    world.enter("10.0.0.2")
    assert sorted(world.alarms()) == [
        ("reconnect_storm", "10.0.0.1", True),
        ("silent", "10.0.0.1", True),
    ]
    world.wait(600.0)
    assert world.alarms() == []


def test_forgotten_devices_are_freed() -> None:
    """By the deadlines, too."""
    world = World(kept=5)
    for number in range(50):
        for _ in range(5):
            world.enter(number_ip(number)).end("client_reset")
            world.wait(100.0)
    (devices,) = world.devices._followed.values()
    waiting = [each for some in devices._deadlines._buckets.values() for each in some]
    assert len(waiting) == len(set(waiting)) <= 5


class BusyClock(Clock):
    """A clock that advances by a tenth of a millisecond each time it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def seconds(self) -> float:
        self.rightNow += 0.0001
        return float(self.rightNow)

    def callLater(self, delay: float, *args: Any, **kwargs: Any) -> Any:
        self.pauses.append(delay)
        return super().callLater(delay, *args, **kwargs)


def test_a_long_poll_lets_others_run(world: World) -> None:
    clock = BusyClock()
    devices = DevicesService(DevicesConfig(), world.registry, clock)
    for connection in enter_fleet(world):
        connection.speak()
    devices.startService()
    clock.advance(1.0)
    # It asks how late it is after each hundred, and 5,000 take 5 ms.
    assert clock.pauses[:-1] == [1.0, 0.0, 0.0]
    assert 0.9 < clock.pauses[-1] < 1.0
    assert all(row["silent_seconds"] is not None for row in devices.rows())


# -- the log, and the life of the service


def lines(events: Sequence[LogEvent]) -> list[tuple[LogLevel, str]]:
    return [(event["log_level"], formatEvent(event)) for event in events]


def test_lines_of_an_alarm(world: World, events: Sequence[LogEvent]) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    world.wait(182.0)
    connection.speak()
    world.wait(1.0)
    assert lines(events) == [
        (
            LogLevel.warn,
            "web: 10.0.0.1 silent alarm: said nothing for 3m01s, usually says something"
            " every 1m00s",
        ),
        (LogLevel.info, "web: 10.0.0.1 silent is over: spoke after 3m03s"),
    ]


def test_many_alarms_are_summed_up(events: Sequence[LogEvent]) -> None:
    world = World(outage_devices=0)
    for number in range(LINES_A_SECOND + 5):
        for _ in range(11):
            world.enter(number_ip(number)).end("client_reset")
    world.devices.rows()  # counts all that is queued
    assert len(events) == LINES_A_SECOND
    assert lines(events)[0] == (
        LogLevel.warn,
        "web: 10.0.0.0 reconnect_storm alarm: 11 connections within 0s, each after a failure"
        " (client_reset)",
    )
    world.wait(1.0)
    assert lines(events)[LINES_A_SECOND:] == [
        (LogLevel.warn, "5 more alarms began or are over: 5 reconnect_storm")
    ]
    assert len(world.alarms()) == LINES_A_SECOND + 5


def test_alarms_of_services_are_never_summed_up(events: Sequence[LogEvent]) -> None:
    world = World(outage_devices=0)
    for number in range(LINES_A_SECOND + 5):
        for _ in range(11):
            world.enter(number_ip(number)).end("client_reset")
    world.devices.rows()
    world.monitor.alarm(Alarm("backend_down", "web", "", 1.0, False, "gone"))
    assert lines(events)[LINES_A_SECOND:] == [
        (LogLevel.warn, "web: backend_down alarm: gone"),
    ]


def test_stop_and_start_again(events: Sequence[LogEvent]) -> None:
    world = World(outage_devices=0)
    connection = world.enter()
    for number in range(LINES_A_SECOND + 1):
        for _ in range(11):
            world.enter(number_ip(number)).end("client_reset")
    world.devices.stopService()
    assert world.clock.getDelayedCalls() == []
    assert len(events) == LINES_A_SECOND + 1  # what was left to say was said
    connection.speak()
    world.wait(10.0)
    world.devices.startService()
    world.wait(1.0)
    (row,) = [row for row in world.devices.rows() if row["connections"]]
    assert row["silent_seconds"] == 11.0


def test_an_alarm_is_announced_once(world: World, events: list[LogEvent]) -> None:
    """The log is one of the observers."""
    connection = world.enter()
    world.speak_every(connection, 10.0, 32)
    world.wait(60.0)
    assert world.kinds() == ["silent"]
    assert [text for _, text in lines(events)] == [
        "web: 10.0.0.1 silent alarm: said nothing for 31.0s, usually says something every 10.0s"
    ]


def test_alarms_that_others_raise_are_logged(world: World, events: list[LogEvent]) -> None:
    world.monitor.alarm(Alarm("silent", "web", "10.0.0.9", 0.0, False, "by own code"))
    assert lines(events) == [(LogLevel.warn, "web: 10.0.0.9 silent alarm: by own code")]


# -- what the operator forgets


def test_an_operator_forgets_a_device(world: World) -> None:
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    world.enter("10.0.0.2")
    world.wait(200.0)
    assert world.kinds() == ["silent"]
    assert world.devices.forget(ip_network("10.0.0.1/32")) == 1
    assert world.alarms() == [("silent", "10.0.0.1", True)]
    assert not world.devices.of("web").alarms  # they name it
    rows = {row["device"]: row for row in rows_of(world)}
    row = rows["10.0.0.1"]  # as its connection lives on, it is a new one
    assert (row["connections"], row["total"], row["heartbeat_seconds"]) == (1, 1, None)
    assert world.devices.forget(ip_network("10.0.0.0/8"), "web") == 2
    connection.end()
    assert sum(row["connections"] for row in rows_of(world)) == 1
    with pytest.raises(UnknownService):
        world.devices.forget(ip_network("10.0.0.0/8"), "ssh")


@pytest.mark.parametrize(("network", "count"), [("2001:db8:1:2::99/128", 1), ("10.0.0.0/8", 0)])
def test_an_address_of_a_network_forgets_the_device_that_the_network_is(
    world: World, network: str, count: int
) -> None:
    world.enter("2001:db8:1:2:3::4").end()
    world.enter("unix").end()
    assert world.devices.forget(ip_network(network)) == count
    assert len(rows_of(world)) == 2 - count
