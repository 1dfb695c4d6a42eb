"""Devices that are missing together, and backends that are down."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.addresses import parse_network
from monconn.model.alarms import Alarm
from monconn.policy.devices import DeviceRules
from tests.properties import examples

from .test_devices import Connection, World

MINUTE = 60.0
MANY = 40


class Fleet(World):
    """Devices that say something every ten seconds."""

    def __init__(self, count: int = MANY, **config: Any) -> None:
        super().__init__(**config)
        self.connections: dict[str, Connection] = {}
        for number in range(count):
            ip = f"10.{number % 2}.{number // 2}.7"
            self.connections[ip] = self.enter(ip)
            self.connections[ip].record.backend = "10.9.9.9:80"
        self.live(32)

    def live(self, times: int, but: tuple[str, ...] = ()) -> None:
        for _ in range(times):
            for ip, connection in self.connections.items():
                if ip not in but:
                    connection.speak()
            self.wait(10.0)

    def raised(self) -> list[Alarm]:
        """The alarms since the last call."""
        self.devices.rows()
        found = [event[1] for event in self.observer.events if event[0] == "alarmed"]
        self.observer.events.clear()
        return found


def words(alarms: list[Alarm]) -> list[str]:
    return ["-" * alarm.is_over + alarm.kind for alarm in alarms]


def rows_with(fleet: Fleet, alarm: str) -> int:
    return sum(alarm in row["alarms"] for row in fleet.devices.rows())


def test_many_silent_devices_are_one_outage() -> None:
    fleet = Fleet()
    fleet.wait(MINUTE)
    (alarm,) = fleet.raised()
    assert (alarm.kind, alarm.device, alarm.is_over) == ("outage", "", False)
    assert alarm.detail == (
        "40 of 40 devices are missing: 40 silent, for 37.0s; in common: backend 10.9.9.9:80"
    )
    shown = alarm.snapshot()
    assert shown["devices"] == shown["devices_of"] == MANY
    assert (shown["backend"], shown["subject"]) == ("10.9.9.9:80", "10.9.9.9:80")
    assert rows_with(fleet, "silent") == MANY, "each device shows its own"
    assert fleet.monitor.stats()["alarms"] == ["outage"]
    fleet.live(2)
    (over,) = fleet.raised()
    assert over.is_over
    assert over.detail.startswith("40 of 40 devices are back after ")
    assert rows_with(fleet, "silent") == 0
    assert fleet.monitor.stats()["alarms"] == []
    fleet.live(3)
    assert fleet.raised() == []


def test_what_a_network_has_in_common_is_named() -> None:
    """Twenty of forty, all of one network."""
    fleet = Fleet()
    gone = tuple(ip for ip in fleet.connections if ip.startswith("10.1."))
    fleet.live(6, but=gone)
    (alarm,) = fleet.raised()
    assert alarm.figures["network"] == alarm.subject == "10.1.0.0/16"
    assert (alarm.figures["devices"], alarm.figures["devices_of"]) == (20, 40)
    assert "in common: network 10.1.0.0/16, backend 10.9.9.9:80" in alarm.detail


def test_few_of_a_big_service_are_an_outage_if_they_are_many_of_their_network() -> None:
    fleet = Fleet(count=0, outage_percent=50)
    for number in range(60):
        ip = f"10.5.0.{number}" if number < 12 else f"10.{number}.0.1"
        fleet.connections[ip] = fleet.enter(ip)
    fleet.live(32)
    gone = tuple(ip for ip in fleet.connections if ip.startswith("10.5.0."))
    fleet.live(6, but=gone)
    assert words(fleet.raised()) == ["outage"]


def test_few_of_many_are_single_devices() -> None:
    fleet = Fleet(outage_percent=70)
    gone = tuple(ip for ip in fleet.connections if ip.startswith("10.1."))[:12]
    fleet.live(6, but=gone)
    assert words(fleet.raised()) == ["silent"] * 12


@pytest.mark.parametrize("config", [{"outage_devices": 0}, {"outage_devices": MANY + 1}])
def test_it_can_be_switched_off(config: dict[str, int]) -> None:
    fleet = Fleet(**config)
    fleet.wait(MINUTE)
    assert words(fleet.raised()) == ["silent"] * MANY


def test_lost_devices_are_missing_until_they_are_back() -> None:
    fleet = Fleet(silent_heartbeats=0)
    for connection in fleet.connections.values():
        connection.end("client_lost")
    fleet.wait(3.0)
    assert fleet.raised() == [], "it is not known yet how many there are"
    fleet.wait(10.0)
    (alarm,) = fleet.raised()
    assert alarm.detail.startswith("40 of 40 devices are missing: 40 lost, for 6.00s")
    back = list(fleet.connections)[:31]
    for ip in back:
        fleet.enter(ip)
    fleet.wait(3.0)
    assert fleet.raised() == [], "nine of forty are not there"
    fleet.enter(list(fleet.connections)[31])
    fleet.wait(3.0)
    (over,) = fleet.raised()
    assert "32 of 40 devices are back" in over.detail
    assert "missing still: 10.0.16.7" in over.detail
    assert over.detail.endswith("and 3 more")


def test_devices_that_are_back_at_once_are_no_outage() -> None:
    """A broker that is restarted resets all, and takes them back."""
    fleet = Fleet()
    for ip, connection in list(fleet.connections.items()):
        connection.end("backend_reset")
        fleet.wait(0.05)
        fleet.connections[ip] = fleet.enter(ip)
    fleet.live(6)
    assert fleet.raised() == []


def test_a_backend_that_is_restarted_in_a_pause_makes_no_outage() -> None:
    """Nobody can come back before the pause is over, and then not all do in the same moment."""
    fleet = Fleet()
    fleet.monitor.pause()
    for connection in fleet.connections.values():
        connection.end("backend_reset")
    fleet.wait(MINUTE)
    assert fleet.raised() == []
    fleet.monitor.resume()
    fleet.wait(30.0)
    for ip in fleet.connections:
        fleet.connections[ip] = fleet.enter(ip)
    fleet.live(20)
    assert fleet.raised() == []


def test_devices_that_do_not_come_back_after_a_pause_are_an_outage() -> None:
    fleet = Fleet()
    fleet.monitor.pause()
    for connection in fleet.connections.values():
        connection.end("backend_reset")
    fleet.wait(20.0)
    fleet.monitor.resume()
    fleet.wait(3 * MINUTE)
    assert words(fleet.raised()) == ["outage"]


def test_a_drained_service_whose_backend_ends_has_no_outage() -> None:
    fleet = Fleet()
    fleet.monitor.drain()
    for connection in fleet.connections.values():
        connection.end("backend_reset")
    fleet.wait(10 * MINUTE)
    assert fleet.raised() == []
    fleet.monitor.resume()
    for ip in fleet.connections:
        fleet.connections[ip] = fleet.enter(ip)
    fleet.live(20)
    assert fleet.raised() == []


def test_orderly_ends_are_no_outage() -> None:
    fleet = Fleet(silent_heartbeats=0)
    for reason, connection in zip(
        ("client_closed", "backend_closed", "operator", "idle_timeout") * MANY,
        fleet.connections.values(),
        strict=False,
    ):
        connection.end(reason)
    fleet.wait(5 * MINUTE)
    assert fleet.raised() == []


def test_devices_that_stay_away_after_an_outage_have_alarms_of_their_own() -> None:
    fleet = Fleet()
    fleet.wait(MINUTE)
    assert words(fleet.raised()) == ["outage"]
    gone = tuple(fleet.connections)[:3]
    fleet.live(2, but=gone)
    alarms = fleet.raised()
    assert words(alarms) == ["-outage", *["silent"] * 3]
    assert {alarm.device for alarm in alarms[1:]} == set(gone)
    fleet.live(1)
    assert words(fleet.raised()) == ["-silent"] * 3


def test_a_single_device_long_after_it_began_is_no_part_of_it() -> None:
    fleet = Fleet()
    gone = tuple(ip for ip in fleet.connections if ip.startswith("10.1."))
    fleet.live(30, but=gone)
    assert words(fleet.raised()) == ["outage"]
    fleet.live(6, but=(*gone, "10.0.0.7"))
    assert words(fleet.raised()) == ["silent"]


def test_forgotten_devices_are_missed_no_more() -> None:
    fleet = Fleet()
    fleet.wait(MINUTE)
    assert words(fleet.raised()) == ["outage"]
    fleet.devices.forget(parse_network("10.1.0.0/16"))
    fleet.wait(2.0)
    assert fleet.raised() == [], "the others are missing still"
    fleet.devices.forget(parse_network("10.0.0.0/8"))
    fleet.wait(2.0)
    (over,) = fleet.raised()
    assert over.is_over
    assert over.detail.startswith("all 40 devices are forgotten after ")


def test_those_who_come_back_are_counted_without_those_who_are_forgotten() -> None:
    fleet = Fleet()
    fleet.wait(MINUTE)
    fleet.raised()
    fleet.devices.forget(parse_network("10.1.0.0/16"))
    for ip in [each for each in fleet.connections if each.startswith("10.1.")]:
        del fleet.connections[ip]
    fleet.live(2)
    (over,) = fleet.raised()
    assert over.detail.startswith("20 of 20 devices are back after ")
    assert over.detail.endswith("; forgotten: 20")


def test_an_outage_holds_no_device_that_is_forgotten() -> None:
    """Else one that lasts would hold all that come and go meanwhile."""
    fleet = Fleet(silent_heartbeats=0)
    for connection in fleet.connections.values():
        connection.end("client_lost")
    fleet.wait(13.0)
    assert words(fleet.raised()) == ["outage"]
    for number in range(5):
        network = f"10.77.{number}.0/24"
        for host in range(20):
            fleet.enter(network.replace("0/24", str(host))).end("client_lost")
        fleet.wait(3.0)
        fleet.devices.forget(parse_network(network))
        fleet.wait(3.0)
    assert fleet.raised() == []
    for ip in fleet.connections:
        fleet.enter(ip)
    fleet.wait(3.0)
    (over,) = fleet.raised()
    assert over.detail.startswith("40 of 40 devices are back after ")
    assert over.detail.endswith("; forgotten: 100")


def test_an_outage_ends_with_its_service() -> None:
    fleet = Fleet()
    fleet.wait(MINUTE)
    fleet.raised()
    fleet.registry.delete("web")
    fleet.wait(2.0)
    (over,) = fleet.raised()
    assert (over.kind, over.is_over, over.detail) == ("outage", True, "the service was removed")


def test_what_was_part_of_an_outage_is_stored_as_that() -> None:
    fleet = Fleet()
    fleet.devices.store_changes()
    fleet.devices.restored("web")
    fleet.wait(MINUTE)
    stored, _ = fleet.devices.take_changed(1_000)
    assert all(each.alarms[0].is_folded for each in stored)
    assert len(stored) == MANY
    after = Fleet(count=0)
    for _ in after.devices.restore("web", stored):
        pass
    assert after.raised() == []
    after.wait(20.0)
    assert words(after.raised()) == ["outage"], "and not one for each"


# -- backends


@pytest.fixture
def world() -> World:
    return World()


def fail(world: World, reason: str = "backend_refused", ip: str = "10.0.0.1") -> None:
    connection = world.enter(ip)
    connection.record.backend = "10.9.9.9:80"
    connection.end(reason)


def backend_alarms(world: World) -> list[Alarm]:
    found = [event[1] for event in world.observer.events if event[0] == "alarmed"]
    world.observer.events.clear()
    return [each for each in found if each.kind == "backend_down"]


@pytest.mark.parametrize("reason", ["backend_refused", "backend_unreachable", "connect_timeout"])
def test_a_backend_is_down_after_three_attempts(world: World, reason: str) -> None:
    for _ in range(3):
        assert backend_alarms(world) == []
        fail(world, reason)
        world.wait(1.0)
    (alarm,) = backend_alarms(world)
    assert alarm.detail == (
        "3 attempts to connect to 10.9.9.9:80 have failed within 2.00s, and none has succeeded:"
        f" the last one with {reason}"
    )
    assert (alarm.device, alarm.subject, alarm.figures["attempts"]) == ("", "10.9.9.9:80", 3)
    fail(world, reason)
    world.wait(5.0)
    assert backend_alarms(world) == []
    world.monitor.attempts.failed = 0  # as a relay does whose backend is connected
    world.wait(1.0)
    (over,) = backend_alarms(world)
    assert over.is_over
    assert over.detail == "10.9.9.9:80 is connected to again, after 9.00s and 4 failed attempts"
    assert world.monitor.stats()["alarms"] == []


def test_a_burst_is_one_piece_of_evidence(world: World) -> None:
    for _ in range(100):
        fail(world)
    world.wait(5 * MINUTE)
    assert backend_alarms(world) == []
    fail(world)
    world.wait(1.0)
    assert len(backend_alarms(world)) == 1


def test_one_client_a_day_is_enough(world: World) -> None:
    for _ in range(3):
        fail(world)
        world.clock.advance(86_400.0)
    assert len(backend_alarms(world)) == 1


def test_ends_of_other_kinds_say_nothing_of_the_backend(world: World) -> None:
    for reason in ("client_reset", "backend_reset", "error", "client_closed", "backend_closed"):
        for _ in range(4):
            fail(world, reason)
            world.wait(1.0)
    assert backend_alarms(world) == []


def test_storms_of_many_devices_while_their_backend_is_down_are_not_notified_one_by_one() -> None:
    fleet = Fleet(silent_heartbeats=0)
    for connection in fleet.connections.values():
        connection.end("backend_reset")
    for _ in range(15):
        fleet.wait(2.0)
        for ip in fleet.connections:
            fail(fleet, ip=ip)
    fleet.wait(2.0)
    assert words(fleet.raised()) == ["backend_down"]
    assert rows_with(fleet, "reconnect_storm") == MANY
    fleet.monitor.attempts.failed = 0
    for ip in fleet.connections:
        fleet.enter(ip)
    fleet.wait(3 * MINUTE)
    assert words(fleet.raised()) == ["-backend_down"]
    assert rows_with(fleet, "reconnect_storm") == 0


def test_devices_that_do_not_come_back_to_their_backend_are_an_outage() -> None:
    fleet = Fleet()
    for connection in fleet.connections.values():
        connection.end("backend_reset")
    for _ in range(60):
        fleet.wait(1.0)
        fail(fleet, ip="10.77.0.1")
    assert words(fleet.raised()) == ["backend_down", "reconnect_storm"]
    assert rows_with(fleet, "silent") == MANY
    fleet.monitor.attempts.failed = 0
    fleet.enter("10.77.0.1")
    fleet.wait(80.0)
    assert "outage" not in words(fleet.raised())
    fleet.wait(30.0)
    assert words(fleet.raised())[:1] == ["outage"]


STEP = st.sampled_from(
    ["speak", "lost", "reset", "closed", "enter", "fail", "up", "forget", "settings"]
)


@settings(deadline=None, max_examples=examples(60))
@given(
    st.lists(st.tuples(STEP, st.integers(0, 5), st.sampled_from([0, 1, 7, 40, 150])), max_size=30)
)
def test_each_alarm_begins_and_is_over_by_turns(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is held, folded and notified later: of one device and kind as of a service's."""
    fleet = Fleet(6, outage_devices=3, storm_connections=3)
    names = list(fleet.connections)
    is_active: dict[tuple[str, str], bool] = {}
    for what, number, seconds in (*steps, ("up", 0, 150), *[("enter", n, 0) for n in range(6)]):
        ip = names[number]
        connection = fleet.connections[ip]
        if what == "speak" and connection.record.closed is None:
            connection.speak()
        elif what in ("lost", "reset", "closed") and connection.record.closed is None:
            connection.end(
                {"lost": "client_lost", "reset": "backend_reset"}.get(what, "client_closed")
            )
        elif what == "enter" and connection.record.closed is not None:
            fleet.connections[ip] = fleet.enter(ip)
        elif what == "fail":
            for _ in range(4):
                fail(fleet, ip=ip)
                fleet.wait(1.0)
        elif what == "up":
            fleet.monitor.attempts.failed = 0
        elif what == "forget":
            fleet.devices.forget(parse_network(ip))
        elif what == "settings":
            rules = DeviceRules(outage_devices=number)
            fleet.monitor.apply(attrs.evolve(fleet.monitor.policy, devices=rules))
        fleet.wait(float(seconds))
        for alarm in fleet.raised():
            key = alarm.kind, alarm.device
            assert is_active.get(key, False) is alarm.is_over, key
            is_active[key] = not alarm.is_over
    shown = {(kind, row["device"]) for row in fleet.devices.rows() for kind in row["alarms"]}
    active = {key for key, begun in is_active.items() if begun and key[1]}
    assert active <= shown, "what is notified is shown"
    assert {kind for kind, device in is_active if not device and is_active[kind, device]} == set(
        fleet.monitor.stats()["alarms"]
    )
    fleet.registry.delete("web")
    fleet.wait(3.0)
    for alarm in fleet.raised():
        key = alarm.kind, alarm.device
        assert is_active.get(key, False) is alarm.is_over, key
        is_active[key] = not alarm.is_over
    assert not any(is_active.values())
