"""Devices by the names that their connections tell, and by those that a configuration gives."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.addresses import name_of_text, parse_network
from monconn.devices.devices import COUNTED_AT_ONCE, MOST_PENDING
from monconn.errors import SettingError, SettingTypeError
from monconn.model.devices import StoredDevice
from monconn.model.record import iso_time
from monconn.policy.devices import DeviceRules
from monconn.policy.policy import Policy
from tests.properties import examples

from .test_devices import Connection, World, counts_of, number_ip
from .test_restart import Run

PUMP = "pump-7"


class Brokers(World):
    """A service whose clients say their MQTT client ids."""

    def enter_as(
        self, name: str | None, ip: str = "10.0.0.1", keepalive: int | None = None
    ) -> Connection:
        connection = self.enter(ip)
        connection.speak(20)
        self.say(connection, name, keepalive)
        return connection

    def say(self, connection: Connection, name: str | None, keepalive: int | None = None) -> None:
        if name is not None:
            connection.record.set_fact("mqtt_client_id", name)
        if keepalive is not None:
            connection.record.set_fact("mqtt_keepalive_seconds", keepalive)
        self.monitor.identified(connection.record)

    def take_over(self, connection: Connection, is_there: bool = True) -> None:
        """The broker ends a connection, as another one has its client id."""
        record = connection.record
        record.backend_ended = self.clock.seconds()
        if is_there:
            record.note_end("client", "fin")
            connection.end("backend_closed")
        else:
            connection.end("client_lost")

    def names(self) -> list[str]:
        return sorted(row["device"] for row in self.devices.rows())

    def named(self, name: str) -> dict[str, Any]:
        (row,) = [row for row in self.devices.rows() if row["device"] == name]
        return row

    def details(self) -> list[str]:
        """The lines of the alarms since the last call."""
        self.devices.rows()
        alarms = [event[1] for event in self.observer.events if event[0] == "alarmed"]
        self.observer.events.clear()
        return [alarm.describe() for alarm in alarms]


def test_devices_behind_one_address_are_many_by_their_client_ids() -> None:
    world = Brokers()
    world.enter_as(PUMP)
    world.enter_as("pump-8")
    world.enter()
    assert world.names() == ["10.0.0.1", PUMP, "pump-8"]
    row = world.named(PUMP)
    assert (row["name"], row["identity"], row["addresses"]) == (
        PUMP,
        "mqtt_client_id",
        ["10.0.0.1"],
    )


def test_a_connection_moves_once_it_tells_its_name_and_leaves_nothing_behind() -> None:
    world = Brokers()
    connection = world.enter()
    assert world.names() == ["10.0.0.1"]
    world.say(connection, PUMP)
    assert world.names() == [PUMP]
    assert world.named(PUMP)["total"] == world.named(PUMP)["connections"] == 1
    connection.end()
    assert world.named(PUMP)["connections"] == 0
    assert len(world.devices.of("web")) == 1


def test_a_name_counts_at_the_end_even_if_nobody_said_that_there_is_one() -> None:
    world = Brokers()
    connection = world.enter()
    world.wait(2)
    connection.record.set_fact("mqtt_client_id", PUMP)
    connection.end()
    assert world.names() == [PUMP]


def test_a_name_that_changes_moves_the_connection() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP)
    assert world.names() == [PUMP]
    world.say(connection, "pump-8")
    assert world.names() == ["pump-8"]
    connection.end()
    assert world.named("pump-8")["total"] == 1


def test_one_that_was_known_by_its_address_is_not_missed_there() -> None:
    world = Brokers()
    for _ in range(10):
        connection = world.enter()
        connection.speak()
        connection.end()
        world.wait(100)
    world.alarms()
    world.enter_as(PUMP)
    world.wait(5000)
    assert world.alarms() == []
    assert world.names() == ["10.0.0.1", PUMP]


def test_an_alarm_about_an_address_ends_when_the_device_is_back_by_name() -> None:
    world = Brokers()
    for _ in range(12):
        connection = world.enter()
        connection.speak()
        connection.end()
        world.wait(100)
    world.wait(300)
    assert world.alarms() == [("silent", "10.0.0.1", False)]
    world.enter_as(PUMP)
    assert world.details() == [f"10.0.0.1 silent is over: is back, and calls itself {PUMP}"]


def test_a_changing_address_is_one_device() -> None:
    world = Brokers()
    for number in range(12):
        world.enter_as(PUMP, f"10.0.0.{number}").end()
    (row,) = world.devices.rows()
    assert row["total"] == 12
    assert row["addresses"] == [f"10.0.0.{number}" for number in range(11, 3, -1)]
    assert world.devices.of("web").users_of("10.0.0.11") == [PUMP]
    assert world.devices.of("web").users_of("10.0.0.3") == []


def test_attempts_that_fail_before_a_name_is_told_are_those_of_the_only_device_there() -> None:
    world = Brokers(storm_connections=3)
    world.enter_as(PUMP).end("backend_reset")
    for _ in range(4):
        world.wait(2)
        world.enter().end("backend_refused")
    assert world.names() == [PUMP]
    assert world.named(PUMP)["total"] == 5
    assert world.alarms() == [("reconnect_storm", PUMP, False)]
    # Of several, nobody knows which one it was.
    world.enter_as("pump-8").end("backend_reset")
    world.enter().end("backend_refused")
    assert world.names() == ["10.0.0.1", PUMP, "pump-8"]


@pytest.mark.parametrize(
    "text", ["", " ", "10.0.0.5", "10.0.0.0/8", "::1", "fe80::1%eth0", "unix", "local"]
)
def test_what_could_be_taken_for_an_address_is_no_name(text: str) -> None:
    world = Brokers()
    world.enter_as(text)
    assert world.names() == ["10.0.0.1"]


def test_names_are_printable_and_short() -> None:
    assert name_of_text("\x1b[31mred\n") == "\\x1b[31mred"
    assert len(name_of_text("x" * 5000)) == 128
    assert name_of_text("plant 1/pump") == "plant 1/pump"


def test_one_address_cannot_push_out_all_others() -> None:
    world = Brokers(kept=10)
    for number in range(4):
        world.enter_as(f"mine-{number}", f"10.0.1.{number}").end()
    for number in range(100):
        world.enter_as(f"x{number}", "10.9.9.9").end()
    names = world.names()
    assert [each for each in names if each.startswith("mine")] == [f"mine-{n}" for n in range(4)]
    assert len(names) == 10
    assert "10.9.9.9" in names


def test_nor_can_one_host_with_many_addresses() -> None:
    world = Brokers(kept=10)
    for number in range(4):
        world.enter_as(f"mine-{number}", f"10.0.1.{number}").end()
    for number in range(100):
        world.enter_as(f"x{number}", f"2001:db8::{number:x}").end()
    names = world.names()
    assert [each for each in names if each.startswith("mine")] == [f"mine-{n}" for n in range(4)]
    assert len(names) == 10
    assert "2001:db8::/64" in names


def test_a_flood_of_names_is_counted_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Brokers()
    devices = world.devices.of("web")
    counted = counts_of(devices, monkeypatch, "_count_opened")
    for number in range(3 * MOST_PENDING):
        counted.append(0)
        world.enter_as(f"x{number}", f"10.9.{number >> 8}.{number & 255}").end()
        assert len(devices._opened) <= MOST_PENDING
    assert 0 < max(counted) <= COUNTED_AT_ONCE
    counted.append(0)
    assert len(devices) == 3 * MOST_PENDING


def test_names_that_are_told_during_a_flood_are_counted_little_by_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Brokers()
    devices = world.devices.of("web")
    many = 3 * MOST_PENDING
    connections = [world.enter(number_ip(number)) for number in range(many)]
    assert len(devices) == many
    for number, connection in enumerate(connections):
        world.say(connection, f"x{number}")
    counted = counts_of(devices, monkeypatch, "_count_opened")  # as are those that move
    for number in range(many, 2 * many):
        counted.append(0)
        world.enter(number_ip(number))
    assert 0 < max(counted) <= COUNTED_AT_ONCE
    assert len(devices._told) <= MOST_PENDING
    counted.append(0)
    assert len(devices) == 2 * many
    assert world.named("x0")["connections"] == 1


def test_names_that_were_forgotten_give_their_places_back() -> None:
    world = Brokers(kept=4)
    for number in range(10):
        world.enter_as(f"x{number}", "10.9.9.9").end()
    world.devices.forget(parse_network("10.9.9.9"))
    world.enter_as("y", "10.9.9.9").end()
    assert world.names() == ["y"]


def test_another_identity_by_a_library_user() -> None:
    world = Brokers(identity=("asset", "mqtt_client_id", "address"))
    connection = world.enter_as(PUMP)
    assert world.names() == [PUMP]
    connection.record.set_fact("asset", 4711)
    world.monitor.identified(connection.record)
    assert world.names() == ["4711"]


def test_another_identity_begins_with_the_live_connections() -> None:
    world = Brokers()
    world.enter_as(PUMP)
    world.enter_as("pump-8", "10.0.0.2").end()
    assert world.names() == [PUMP, "pump-8"]
    world.monitor.apply(Policy(devices=DeviceRules(identity=("address",))))
    world.wait(3)
    assert world.names() == ["10.0.0.1"]
    world.monitor.apply(Policy())
    world.wait(3)
    assert world.names() == [PUMP]


def rules(**settings: Any) -> DeviceRules:
    return DeviceRules(**settings)


def test_settings_are_checked() -> None:
    assert rules(identity=["tls_server_name"]).identity == ("tls_server_name", "address")
    for wrong in ([], ["address", "mqtt_client_id"], ["x", "x"], ["X"], ["a b"]):
        with pytest.raises(SettingError):
            rules(identity=wrong)
    for wrong_type in ("address", 3):
        with pytest.raises(SettingTypeError):
            rules(identity=wrong_type)
    given = rules(names={"10.0.0.5": "pump house", "2001:db8::/64": "lab"})
    assert [name for _, name in given.names or ()] == ["pump house", "lab"]
    for names in ({"x": "y"}, {"10.0.0.5": ""}, {"10.0.0.5": "\n"}, {"10.0.0.5": "x" * 129}):
        with pytest.raises(SettingError):
            rules(names=names)
    with pytest.raises(SettingError):
        rules(names=(("10.0.0.5", "a"), ("10.0.0.5/32", "b")))
    assert Policy.of(names={"10.0.0.5": "a"}).devices.names == rules(names={"10.0.0.5": "a"}).names


def test_given_names_are_shown_with_the_address() -> None:
    world = Brokers()
    given = rules(names={"10.0.0.0/24": "plant", "10.0.0.5": "pump house", "2001:db8::/64": "lab"})
    world.monitor.apply(Policy(devices=given))
    world.wait(2)
    for ip in ("10.0.0.5", "10.0.0.6", "10.0.1.1", "2001:db8::7"):
        world.enter(ip)
    names = {row["device"]: row["name"] for row in world.devices.rows()}
    assert names == {
        "10.0.0.5": "pump house",
        "10.0.0.6": "plant",
        "10.0.1.1": "10.0.1.1",
        "2001:db8::/64": "lab",
    }
    assert world.named("2001:db8::/64")["addresses"] == ["2001:db8::7"]


def test_a_device_by_address_is_shown_by_the_only_client_id_that_it_tells() -> None:
    world = Brokers(identity=("address",))
    world.enter_as(PUMP).end()
    world.enter_as(PUMP)
    assert (world.row()["device"], world.row()["name"]) == ("10.0.0.1", PUMP)
    world.enter_as("pump-8")
    assert world.row()["name"] == "10.0.0.1"


# -- declared keepalive


def test_a_declared_keepalive_counts_from_the_first_message() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP, keepalive=60)
    world.wait(80)
    connection.speak()
    world.wait(89)
    assert world.alarms() == []
    world.wait(5)
    (line,) = world.details()
    assert line.startswith(f"{PUMP} (10.0.0.1) silent alarm: said nothing for 1m3")
    assert line.endswith(", declared keepalive 60 s")
    connection.speak()
    world.wait(2)
    assert world.kinds() == ["-silent"]
    assert world.named(PUMP)["keepalive_seconds"] == 60


def test_a_device_that_is_not_read_from_is_not_silent() -> None:
    world = Brokers()
    record = world.enter_as(PUMP, keepalive=20).record
    record.reading_since, record.backend_reading_since = None, 1000.0  # the broker takes nothing
    world.wait(100)
    assert world.alarms() == []
    record.reading_since = world.clock.seconds()
    world.wait(20)
    assert world.alarms() == []
    world.wait(40)
    assert world.kinds() == ["silent"]


def test_a_keepalive_of_none_leaves_it_to_the_rhythm() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP, keepalive=0)
    world.speak_every(connection, 10.0, 40)
    assert "keepalive_seconds" not in world.named(PUMP)
    world.wait(40)
    (line,) = world.details()
    assert "usually says something every 10.0s" in line


def test_no_keepalive_counts_where_silence_raises_no_alarm() -> None:
    world = Brokers(silent_heartbeats=0)
    world.enter_as(PUMP, keepalive=10)
    world.wait(100)
    assert world.alarms() == []


def test_after_a_failure_a_device_gets_more_time_to_come_back() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP, keepalive=20)
    world.wait(5)
    connection.end("client_reset")
    world.wait(50)
    assert world.alarms() == []
    world.wait(10)
    assert world.kinds() == ["silent"]
    world.enter_as(PUMP, keepalive=20)
    world.wait(1)
    assert world.kinds() == ["-silent"]


def test_behind_one_address_the_longest_keepalive_counts() -> None:
    world = Brokers(identity=("address",))
    world.enter_as(PUMP, keepalive=600)
    world.enter_as("pump-8", keepalive=10)
    world.wait(100)
    assert world.alarms() == []


def test_a_device_that_nobody_could_recognize_is_not_missed() -> None:
    world = Brokers()
    world.monitor.apply(Policy(decode="off"))
    connection = world.enter_as(PUMP, keepalive=20)
    world.wait(5)
    connection.end("client_reset")
    world.wait(500)
    assert world.alarms() == []
    world.monitor.apply(Policy())
    world.wait(200)
    assert world.kinds() == ["silent"]


# -- two with one client id


def test_a_reconnect_over_a_connection_that_was_left_is_no_duplicate() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP, keepalive=60)
    for number in range(20):
        world.wait(20)
        following = world.enter_as(PUMP, f"10.0.0.{number}", keepalive=60)
        # The broker ends the old one at once; nobody answers, and we need a while to see it.
        connection.record.backend_ended = world.clock.seconds()
        world.wait(11)
        world.take_over(connection, is_there=False)
        connection = following
    assert [kind for kind in world.kinds() if "duplicate" in kind] == []


def test_a_connection_that_is_left_where_the_broker_does_not_end_it_is_no_duplicate() -> None:
    world = Brokers()
    world.enter_as(PUMP)
    world.wait(20)
    following = world.enter_as(PUMP)
    for _ in range(10):
        world.wait(10)
        following.speak()
    assert world.alarms() == []


def test_two_that_fight_for_a_client_id_are_duplicates() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP, "10.0.0.1")
    for number in range(1, 4):
        world.wait(5)
        assert world.alarms() == []
        following = world.enter_as(PUMP, f"10.0.0.{1 + number % 2}")
        world.take_over(connection)
        connection = following
    (line,) = world.details()
    assert "duplicate alarm: 3 connections within 10.0s were taken over while" in line
    assert "10.0.0.1:4711, by 10.0.0.2:4711" in line
    world.wait(299)
    assert world.details() == []
    world.wait(5)
    (line,) = world.details()
    assert line.endswith("duplicate is over: no sign of a second device for 5m00s")


def test_a_change_of_networks_now_and_then_is_no_duplicate() -> None:
    world = Brokers()
    connection = world.enter_as(PUMP)
    for _ in range(10):
        world.wait(200)
        following = world.enter_as(PUMP, "10.0.0.2")
        world.take_over(connection)
        connection = following
    assert world.alarms() == []


def test_two_that_are_there_together_are_duplicates() -> None:
    world = Brokers()
    one = world.enter_as(PUMP, "10.0.0.1")
    world.wait(20)
    other = world.enter_as(PUMP, "10.0.0.2")
    world.wait(5)
    one.speak()
    world.wait(4)
    assert world.alarms() == []
    world.wait(4)
    (line,) = world.details()
    assert "connected from 10.0.0.1:4711 and 10.0.0.2:4711 at once" in line
    assert world.named(PUMP)["alarms"] == ["duplicate"]
    one.end()
    other.end()
    world.wait(303)
    assert world.kinds() == ["-duplicate"]


def test_only_client_ids_must_be_unique() -> None:
    world = Brokers(identity=("tls_server_name", "address"))
    for _ in range(2):
        connection = world.enter()
        connection.record.set_fact("tls_server_name", "a.example")
        world.monitor.identified(connection.record)
        world.wait(5)
    for record in world.monitor.connections():
        record.last_up = world.clock.seconds()
    world.wait(30)
    assert world.names() == ["a.example"]
    assert world.alarms() == []


# -- forgetting, and from one run to the next


def test_an_address_is_forgotten_and_a_device_that_has_no_other() -> None:
    from ipaddress import ip_network

    world = Brokers()
    world.enter_as(PUMP, "10.0.0.1").end()
    world.enter_as(PUMP, "10.0.0.2").end()
    world.enter_as("pump-8", "10.0.0.1")
    devices = world.devices.of("web")
    assert world.devices.forget(ip_network("10.0.0.1/32")) == 1
    assert world.names() == [PUMP, "pump-8"]  # whose connection is a new device's
    assert world.named(PUMP)["addresses"] == ["10.0.0.2"]
    assert world.named("pump-8")["total"] == 1
    assert devices.users_of("10.0.0.1") == ["pump-8"]


@pytest_twisted.ensureDeferred
async def test_names_go_on_after_a_restart(tmp_path: Path) -> None:
    class BrokerRun(Run, Brokers):
        pass

    path = tmp_path / "history"
    run = BrokerRun(path)
    await run.restored()
    run.enter_as(PUMP, "10.0.0.1", keepalive=60).end()
    run.enter_as(PUMP, "10.0.0.2", keepalive=60)
    run.enter("10.0.0.3")
    run.wait(3)
    await run.saved()
    await run.stop()

    run = BrokerRun(path)
    await run.restored()
    row = run.named(PUMP)
    assert (row["total"], row["addresses"], row["keepalive_seconds"]) == (
        2,
        ["10.0.0.2", "10.0.0.1"],
        60.0,
    )
    assert row["identity"] == "mqtt_client_id"
    run.enter_as(PUMP, "10.0.0.3")
    run.wait(600)
    assert [alarm for alarm in run.alarms() if "10.0.0.3" in alarm] == []
    await run.stop()

    run = BrokerRun(path, identity=("address",))
    await run.restored()
    assert run.names() == ["10.0.0.3"]
    run.wait(2)
    await run.saved()
    await run.stop()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT device FROM devices").fetchall() == [("10.0.0.3",)]


def test_a_row_of_an_earlier_version_is_one_by_address() -> None:
    stored = StoredDevice("web", "10.0.0.1", 1.0, 2.0, 1, 0, 0, None, None, None)
    world = Brokers()
    world.devices.of("web").restore(stored)
    assert world.named("10.0.0.1")["identity"] == "address"
    assert world.named("10.0.0.1")["first_seen"] == iso_time(1.0)


# -- whatever happens


_IPS = ("10.0.0.1", "10.0.0.2", "2001:db8::1", "unix")
_NAMES = (None, "a", "b", "10.0.0.1", "\x1b")
_IDENTITIES = (("mqtt_client_id", "address"), ("address",), ("asset", "address"))
_ENDS = ("client_reset", "backend_closed", "backend_refused")
_STEPS = st.one_of(
    st.tuples(st.just("enter"), st.sampled_from(_IPS), st.sampled_from(_NAMES)),
    st.tuples(st.just("say"), st.integers(0, 9), st.sampled_from(_NAMES)),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(_ENDS)),
    st.tuples(st.just("silently"), st.integers(0, 9), st.sampled_from(_NAMES)),
    st.tuples(st.just("wait"), st.sampled_from((0.3, 1.0, 12.0, 150.0)), st.none()),
    st.tuples(st.just("forget"), st.sampled_from(_IPS[:3]), st.none()),
    st.tuples(st.just("identity"), st.sampled_from(_IDENTITIES), st.none()),
    st.tuples(st.just("refuse"), st.sampled_from(_IPS), st.none()),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(_STEPS, max_size=40))
def test_each_live_connection_is_one_of_one_device(steps: list[tuple[str, Any, Any]]) -> None:
    world = Brokers(kept=3, storm_connections=2)
    devices = world.devices.of("web")
    live: list[Connection] = []
    for what, which, value in steps:
        if what == "enter":
            live.append(world.enter_as(value, which, keepalive=10))
        elif what == "wait":
            world.wait(which)
        elif what == "forget":
            world.devices.forget(parse_network(which))
        elif what == "identity":
            world.monitor.apply(Policy(devices=DeviceRules(identity=which)))
        elif what == "refuse":
            live.append(world.enter(which))
            devices.refused(attrs.evolve(live[-1].record, refusal="conn_limit"))
        elif live:
            connection = live[which % len(live)]
            if what == "say":
                world.say(connection, value)
            elif what == "silently" and value:
                connection.record.set_fact("mqtt_client_id", value)
            elif what == "end":
                live.remove(connection)
                connection.end(value)
    world.wait(2)
    rows = world.devices.rows()
    records = [record for device in devices.all() for record in device.live or ()]
    assert len(records) == len(set(records))  # of no two devices
    assert set(records) <= set(world.monitor.connections())
    assert sum(row["connections"] for row in rows) == len(records)
    if devices.forgotten == 0:  # else some are those of devices that were dropped
        assert len(records) == len(world.monitor)
    # Nothing is left of connections that have ended, nor of devices that are gone.
    assert devices._named.keys() <= set(world.monitor.connections())
    named = [device for device in devices.all() if device.fact]
    used = {(device.name, address) for device in named for address in device.addresses or ()}
    assert used == {
        (device.name, address)
        for address, users in devices._users._users.items()
        for device in (users if isinstance(users, set) else {users})
    }
    assert all(row["total"] >= row["connections"] for row in rows)
    for connection in live:
        connection.end()
    world.wait(2)
    assert not devices._named
    assert all(row["connections"] == 0 for row in world.devices.rows())
    for queue in (devices._opened, devices._closed, devices._identified, devices._told):
        assert not queue
