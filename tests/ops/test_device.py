"""A device's story, from memory and from the history."""

from __future__ import annotations

import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from monconn.devices.diagnosis import DeviceEnd, device_pattern
from monconn.errors import MonconnError, NotConfigured, UnknownDevice
from monconn.ops.device import MOST_ROWS, DeviceStory
from monconn.ops.device_rows import story_lines
from monconn.ops.operations import Operations
from monconn.ops.text_table import cell_width
from monconn.policy.policy import Policy

from .device_world import DeviceWorld


@pytest.fixture
def world() -> DeviceWorld:
    return DeviceWorld("web", "mqtt")


def whats(story: DeviceStory) -> list[str]:
    return [row.what for row in story.rows]


def test_story(world: DeviceWorld) -> None:
    first, second = world.connect("web", "10.0.0.7", "10.0.0.7")
    world.connect("web", "10.0.0.8")
    first.record.count("up", 10, world.clock.seconds())
    first.record.facts["tls_server_name"] = "sensor.example"
    world.clock.advance(5)
    first.end("client_reset")
    (third,) = world.connect("mqtt", "10.0.0.7")
    story = world.story("10.0.0.7")
    head = story.head
    assert head["device"] == "10.0.0.7"
    assert {each["service"] for each in head["services"]} == {"mqtt", "web"}
    assert head["connections_total"] == 2
    assert {each["id"] for each in head["connections"]} == {second.record.id, third.record.id}
    assert head["facts"] == {"tls_server_name": "sensor.example"}
    assert sorted(whats(story)) == ["ended", "open", "open"]
    (ended,) = [row for row in story.rows if row.what == "ended"]
    assert (ended.reason, ended.duration_seconds, ended.up) == ("client_reset", 5.0, 10)
    assert world.story("10.0.0.7", service="web").head["connections_total"] == 1
    assert world.story("SENSOR.example").head["device"] == "10.0.0.7"


def test_facts_of_two_connections_are_not_mixed(world: DeviceWorld) -> None:
    (first,) = world.connect("web", "10.0.0.7")
    first.record.facts.update({"protocol": "mqtt", "mqtt_disconnect": "normal", "asset": "A7"})
    world.clock.advance(5)
    first.end("client_closed")
    (second,) = world.connect("web", "10.0.0.7")
    second.record.facts.update({"protocol": "mqtt", "mqtt_user": "ada"})
    facts = world.story("10.0.0.7").head["facts"]
    assert facts == {"protocol": "mqtt", "mqtt_user": "ada", "asset": "A7"}


def test_a_device_that_is_a_network_is_found_by_any_address(world: DeviceWorld) -> None:
    world.connect("web", "2001:db8::1", "2001:db8::2")
    for name in ("2001:db8::1", "2001:db8:0::ffff", "2001:db8::/64"):
        story = world.story(name)
        assert story.head["device"] == "2001:db8::/64"
    assert {each["address"] for each in story.head["addresses"]} == {"2001:db8::1", "2001:db8::2"}


def test_unknown_devices(world: DeviceWorld) -> None:
    one, other = world.connect("web", "10.0.0.7", "10.0.0.8")
    one.record.facts["user"] = other.record.facts["user"] = "ada"
    with pytest.raises(UnknownDevice, match=r"no device .10\.0\.0\.9.; similar: 10\.0\.0\.7, 10"):
        world.story("10.0.0.9")
    with pytest.raises(UnknownDevice, match="monconn devices lists"):
        world.story("nothing")
    with pytest.raises(UnknownDevice, match=r"several devices: 10\.0\.0\.7, 10\.0\.0\.8"):
        world.story("ada")
    with pytest.raises(MonconnError):
        world.story("10.0.0.7", service="ssh")
    with pytest.raises(NotConfigured):
        Operations(world.registry, world.clock).device("10.0.0.7")


def test_absences_are_told_if_they_are_longer_than_usual(world: DeviceWorld) -> None:
    now = time.time()
    for number in range(6):
        (connection,) = world.connect("web", "10.0.0.7")
        connection.record.opened_at = now - 1000 + number * 60 + (300 if number > 3 else 0)
        connection.end("client_closed")
        connection.record.closed_at = connection.record.opened_at + 1.0
    story = world.story("10.0.0.7")
    absences = [row.duration_seconds for row in story.rows if row.what == "absent"]
    assert absences == [359.0]


def test_a_timeline_is_limited(world: DeviceWorld) -> None:
    for connection in world.connect("web", *["10.0.0.7"] * 50):
        connection.end("client_closed")
    story = world.story("10.0.0.7", limit=10)
    assert len(story.rows) == 10
    assert len(world.story("10.0.0.7", limit=10 * MOST_ROWS).rows) == 50


def test_a_pattern_is_the_same_however_few_lines_are_shown(world: DeviceWorld) -> None:
    for connection in world.connect("web", *["10.0.0.7"] * 20):
        connection.end("client_reset")
    whole, few = world.story("10.0.0.7"), world.story("10.0.0.7", limit=2)
    assert len(few.rows) == 2
    assert "f its last 20 connections" in whole.head["pattern"][0]
    for key in ("pattern", "facts", "addresses", "timeline_total"):
        assert few.head[key] == whole.head[key]


def test_a_story_fits_a_terminal(world: DeviceWorld) -> None:
    for _ in range(60):
        (connection,) = world.connect("web", "10.0.0.7")
        connection.record.detail = "a \x1b[31mdetail\x1b[0m of the peer's " * 3
        world.clock.advance(6)
        connection.end("client_reset")
    story = world.story("10.0.0.7")
    rows = [row.to_json() for row in story.rows]
    for width in (60, 80, 120, 200):
        lines = story_lines(story.head, rows, width, 22)
        assert max(map(len, lines)) <= width
        assert "\x1b" not in "".join(lines)
        assert lines[0].startswith("device     10.0.0.7 at web")
        assert lines[-1].endswith("more: --all")
    assert len(story_lines(story.head, rows, 80, 22)) <= 24
    assert len(story_lines(story.head, rows, 80, None)) > 60


def test_json_of_a_story_has_all_of_it(world: DeviceWorld) -> None:
    world.connect("web", "10.0.0.7")
    made = world.story("10.0.0.7").to_json()
    assert made["timeline"][0]["what"] == "open"
    assert {"device", "services", "alarms", "pattern", "since", "history"} <= made.keys()


# -- with a history


@pytest_twisted.ensureDeferred
async def test_what_only_the_history_knows_is_merged_without_duplicates(tmp_path: Path) -> None:
    world = DeviceWorld("web")
    history = world.start_history(tmp_path)
    monitor = world.registry.get("web")
    for _ in range(3):
        (connection,) = world.connect("web", "10.0.0.7")
        connection.end("client_closed")
    world.connect("web", "10.0.0.8")[0].end("client_closed")
    world.clock.advance(1.0)
    saving: Deferred[None] | None = history._saving
    assert saving is not None
    await saving
    monitor.closed_records.popleft()  # memory has forgotten the first
    told = world.operations.device("10.0.0.7")
    story = await told
    assert whats(story).count("ended") == 3
    assert whats(story)[-1] == "started"
    assert story.head["history"] is True
    world.devices.forget(ip_network("10.0.0.7"))
    monitor.closed_records.clear()
    story = await world.operations.device("10.0.0.7")
    assert (whats(story).count("ended"), story.head["services"]) == (3, [])
    with pytest.raises(UnknownDevice):
        await world.operations.device("10.0.0.9")
    await history.stopService()


# -- patterns


def ends(*figures: tuple[str, float, float]) -> list[DeviceEnd]:
    return [DeviceEnd(*each) for each in figures]


def test_a_device_that_is_cut_when_it_is_idle() -> None:
    first, second = device_pattern(ends(*[("client_lost", 660.0 + n, 600.0 + n) for n in range(9)]))
    assert first == (
        "All of its last 9 connections ended with client_lost, each after 11m00s to 11m08s, when"
        " no byte had moved for 10m00s to 10m08s."
    )
    assert second.endswith("it had vanished before.")  # which is up to keepalive, and no proof
    _, second = device_pattern(ends(*[("client_reset", 660.0 + n, 600.0 + n) for n in range(9)]))
    assert second.startswith("The same silence before each reset: the client, or something on")


@pytest.mark.parametrize(
    "figures",
    [
        [],
        [("client_lost", 660.0, 600.0)] * 3,
        [("client_lost", 60.0, 0.0), ("client_closed", 60.0, 0.0)] * 5,
    ],
)
def test_no_pattern_where_the_figures_prove_none(figures: list[tuple[str, float, float]]) -> None:
    assert device_pattern(ends(*figures)) == []


def test_a_normal_device_is_not_accused() -> None:
    (only,) = device_pattern(ends(*[("client_closed", 60.0, 5.0)] * 8))
    assert only == "All of its last 8 connections ended with client_closed, each after 1m00s."


def test_ends_in_good_order_alone_are_no_pattern() -> None:
    assert device_pattern(ends(*[("client_closed", 10.0 * 3**n, 1.0) for n in range(6)])) == []


def test_different_ages_and_silences_are_no_pattern_of_time() -> None:
    (only,) = device_pattern(ends(*[("client_lost", 10.0 * 3**n, 1.0 * 3**n) for n in range(6)]))
    assert only == "All of its last 6 connections ended with client_lost."


def test_no_absence_while_one_of_very_many_connections_was_open(world: DeviceWorld) -> None:
    (first,) = world.connect("web", "10.0.0.7")
    first.record.opened_at -= 1_000.0
    first.record.closed_at = first.record.opened_at + 1.0
    first.end("client_closed")
    first.record.closed_at = first.record.opened_at + 1.0
    live = world.connect("web", *["10.0.0.7"] * 200)
    for number, connection in enumerate(live):
        connection.record.opened_at -= 990.0 - number
        connection.record.opened -= 990.0 - number
    story = world.story("10.0.0.7", limit=MOST_ROWS)
    absences = [row.duration_seconds for row in story.rows if row.what == "absent"]
    assert absences == [pytest.approx(9.0, abs=0.5)]
    shown = [each["id"] for each in story.head["connections"]]
    assert shown == [each.record.id for each in live[:-21:-1]]  # the latest ones


def test_a_story_of_very_many_services() -> None:
    names = [f"service{number}" for number in range(30)]
    world = DeviceWorld(*names)
    for name in names:
        (connection,) = world.connect(name, "10.0.0.7")
        world.clock.advance(1)
        connection.end("client_closed")
    story = world.story("10.0.0.7")
    rows = [row.to_json() for row in story.rows]
    lines = story_lines(story.head, rows, 80, 22)
    assert len(lines) <= 24
    assert any("30 services: 30 connections since " in line for line in lines)
    assert sum("client_closed" in line for line in lines) > 5


def test_a_detail_goes_before_what_its_reason_means(world: DeviceWorld) -> None:
    for detail in ("device said goodbye", "device missed its own MQTT keepalive of 60 s by 31.5 s"):
        (connection,) = world.connect("web", "10.0.0.7")
        connection.record.detail = detail
        world.clock.advance(6)
        connection.end("backend_closed")
    rows = [row.to_json() for row in world.story("10.0.0.7").rows]
    head = world.story("10.0.0.7").head
    timeline = story_lines(head, rows, 80, 22)
    assert any(each.endswith("backend_closed: device said goodbye") for each in timeline)
    assert any("backend_closed: device missed its own" in each for each in timeline)
    assert "the backend closed its side" in " ".join(story_lines(head, rows, 80, None))


def test_neither_alarm_nor_reason_is_cut() -> None:
    long, wide = "n" * 200, "\u6f22" * 60
    world = DeviceWorld(long, wide)
    for name in (long, wide):
        (connection,) = world.connect(name, "10.0.0.7")
        connection.record.detail = "\u6f22" * 50
        connection.end("backend_unreachable")
    rows: list[dict[str, Any]] = [row.to_json() for row in world.story("10.0.0.7").rows]
    alarm = {"at": rows[0]["at"], "what": "alarm", "service": "b", "alarm": "silent"}
    rows.append({**alarm, "detail": "said nothing for 9.20s, usually says so every 1.0s END"})
    lines = story_lines(world.story("10.0.0.7").head, rows, 80, 22)
    timeline = lines[lines.index("") :]
    assert sum("backend_unreachable" in line for line in timeline) == 2
    assert any("END" in line for line in timeline)
    assert max(map(cell_width, timeline)) <= 80


def test_a_timeline_has_ids_of_this_run_only(world: DeviceWorld) -> None:
    (connection,) = world.connect("web", "10.0.0.7")
    connection.end("client_reset")
    story = world.story("10.0.0.7")
    ended = {**story.rows[0].to_json(), "id": 4711}
    started = {"at": ended["at"], "what": "started"}
    before = {**ended, "id": 4712}
    head = {**story.head, "timeline_total": 3}
    lines = story_lines(head, [ended, started, before], 80, None)
    titles, latest, *_, oldest = lines[lines.index("") + 1 :]
    assert titles.split()[:3] == ["WHEN", "ID", "LASTED"]
    assert "4711" in latest
    assert "client_reset" in oldest
    assert "4712" not in oldest


def test_the_age_of_a_live_connection_is_not_that_of_its_state(world: DeviceWorld) -> None:
    world.connect("web", "10.0.0.7")
    world.clock.advance(3600)
    lines = story_lines(world.story("10.0.0.7").head, [], 120, 22)
    assert any(", 1h00m old, idle " in line for line in lines)


def test_a_device_is_found_by_its_name_and_by_its_addresses(world: DeviceWorld) -> None:
    one, other, third = world.connect("mqtt", "10.0.0.7", "10.0.0.8", "10.0.0.8")
    for connection, name in ((one, "pump-7"), (other, "pump-7"), (third, "pump-8")):
        connection.record.facts["mqtt_client_id"] = name
    one.end("client_reset")
    for name in ("pump-7", "PUMP-7", "10.0.0.7"):
        head = world.story(name).head
        assert (head["device"], head["identity"], head["connections_total"]) == (
            "pump-7",
            "mqtt_client_id",
            1,
        )
        assert {each["address"] for each in head["addresses"]} == {"10.0.0.7", "10.0.0.8"}
    assert sorted(whats(world.story("pump-7"))) == ["ended", "open"]
    assert whats(world.story("pump-8")) == ["open"]
    with pytest.raises(UnknownDevice, match="is an address of several devices: pump-7"):
        world.story("10.0.0.8")


def test_a_device_is_found_by_a_name_that_the_configuration_gives(world: DeviceWorld) -> None:
    world.registry.get("web").apply(Policy.of(names={"10.0.0.7": "pump house"}))
    world.connect("web", "10.0.0.7")
    for _ in world.devices.of("web").poll(0.0):
        pass
    story = world.story("pump house")
    assert (story.head["device"], story.head["name"]) == ("10.0.0.7", "pump house")
    lines = story_lines(story.head, [row.to_json() for row in story.rows], 80, None)
    assert lines[0] == "device     pump house (10.0.0.7) at web"


def test_the_devices_that_a_filter_means_by_name_or_address(world: DeviceWorld) -> None:
    for connection in world.connect("mqtt", "10.0.0.7", "10.0.1.8"):
        connection.record.facts["mqtt_client_id"] = f"pump-{connection.record.client_ip[-1]}"
    world.connect("mqtt", "10.0.0.9")

    def found(*terms: str) -> set[str]:
        return {row.device for row in world.operations.devices(filter=list(terms)) if row}

    assert found("device:=pump-7") == {"pump-7"}
    assert found("device:pump") == {"pump-7", "pump-8"}
    assert found("device:10.0.0.0/24") == found("client:10.0.0.0/24") == {"pump-7", "10.0.0.9"}
    assert found("10.0.1.8") == {"pump-8"}
