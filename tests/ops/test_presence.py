"""When devices were there, from memory and from the history."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from monconn.errors import MonconnError, NotConfigured, QuestionError
from monconn.model.alarms import Alarm
from monconn.ops.operations import Operations
from monconn.ops.presence import MOST_INTERVALS, MOST_NAMES, merged, with_fewer
from monconn.sinks.history.presence import PastPresence, Wanted, presence_of
from monconn.sinks.history.schema import open_read_only
from monconn.sinks.history.store import Event
from tests.properties import examples
from tests.sinks.history.past import HOUR, NOON, closed, history
from tests.sinks.history.version_1 import make_version_1

from .device_world import DeviceWorld


@pytest.fixture
def world() -> DeviceWorld:
    return DeviceWorld("web", "mqtt")


# -- from memory


def test_memory_knows_closed_and_live_connections(world: DeviceWorld) -> None:
    now = time.time()
    first, second, other = world.connect("web", "10.0.0.7", "10.0.0.7", "10.0.0.8")
    first.end("client_closed")
    first.record.opened_at, first.record.closed_at = now - 1000, now - 900
    second.record.opened_at = now - 500
    found = world.presence("10.0.0.7", "10.0.0.9", since=now - 2000)
    (row,) = found.rows  # of a device that is not known there is none
    assert (row["service"], row["device"], row["connections"]) == ("web", "10.0.0.7", 2)
    assert row["connected"][0] == [pytest.approx(now - 1000), pytest.approx(now - 900)]
    assert row["connected"][1][0] == pytest.approx(now - 500)
    assert row["connected"][1][1] == pytest.approx(found.until, abs=0.01)
    assert row["connected_seconds"] == pytest.approx(600, abs=1)
    # The monitor is no older than that, and there is no history.
    (unknown,) = row["unknown"]
    assert (unknown["why"], unknown["since"]) == ("not_recorded", pytest.approx(now - 2000))
    assert not found.has_history
    assert world.presence("10.0.0.7", service="mqtt").rows == []
    assert other.record.client_ip == "10.0.0.8"


def test_memory_that_has_dropped_connections_says_since_when_it_knows(world: DeviceWorld) -> None:
    now = time.time()
    monitor = world.registry.get("web")
    most = monitor.closed_records.maxlen
    assert most is not None
    monitor._booted -= 1000  # it has run for so long
    for connection in world.connect("web", *["10.0.0.7"] * most):
        connection.end("client_closed")
    monitor.closed_records[0].closed_at = now - 50
    (row,) = world.presence("10.0.0.7", since=now - 100).rows
    assert row["unknown"][0]["until"] == pytest.approx(now - 50, abs=1)


def test_what_lies_outside_of_the_period_is_left_out(world: DeviceWorld) -> None:
    now = time.time()
    (first,) = world.connect("web", "10.0.0.7")
    first.end("client_closed")
    first.record.opened_at, first.record.closed_at = now - 1000, now - 900
    (row,) = world.presence("10.0.0.7", since=now - 950, until=now - 920).rows
    assert row["connected"] == [[pytest.approx(now - 950), pytest.approx(now - 920)]]
    (row,) = world.presence("10.0.0.7", since=now - 800, until=now - 700).rows
    assert (row["connected"], row["connections"]) == ([], 0)


def test_alarms_of_memory(world: DeviceWorld) -> None:
    now = time.time()
    world.connect("web", "10.0.0.7")
    devices = world.devices.of("web")
    for at, kind, is_over in (
        (now - 500, "silent", True),
        (now - 400, "silent", False),
        (now - 300, "silent", True),
        (now - 200, "reconnect_storm", False),
    ):
        devices.alarms.append(Alarm(kind, "web", "10.0.0.7", at, is_over, "why"))  # type: ignore[arg-type]
    (row,) = world.presence("10.0.0.7", since=now - 1000).rows
    assert [(each["alarm"], each["since"], each["until"]) for each in row["alarms"]] == [
        ("silent", None, pytest.approx(now - 500)),
        ("silent", pytest.approx(now - 400), pytest.approx(now - 300)),
        ("reconnect_storm", pytest.approx(now - 200), None),
    ]
    (row,) = world.presence("10.0.0.7", since=now - 450, until=now - 250).rows
    assert [each["alarm"] for each in row["alarms"]] == ["silent"]


@pytest.mark.parametrize(
    ("names", "period"),
    [
        ([f"10.0.0.{number}" for number in range(MOST_NAMES + 1)], {}),
        (["x" * 1000], {}),
        (["10.0.0.7"], {"since": 50.0, "until": 40.0}),
        (["10.0.0.7"], {"since": 1e12}),
        (["10.0.0.7"], {"since": float("nan")}),
        (["10.0.0.7"], {"until": float("nan")}),
        (["10.0.0.7"], {"since": -1e300}),
    ],
)
def test_what_cannot_be_asked(
    world: DeviceWorld, names: list[str], period: dict[str, float]
) -> None:
    with pytest.raises(QuestionError):
        world.presence(*names, **period)


def test_where_there_are_no_devices_or_no_such_service(world: DeviceWorld) -> None:
    with pytest.raises(NotConfigured):
        Operations(world.registry, world.clock).presence(["10.0.0.7"])
    with pytest.raises(MonconnError):
        world.presence("10.0.0.7", service="ssh")
    assert world.presence().rows == []


# -- intervals


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10)), max_size=40), st.integers(1, 10)
)
@settings(max_examples=examples(50), deadline=None)
def test_intervals(spans: list[tuple[int, int]], most: int) -> None:
    intervals = [(float(begin), float(begin + length)) for begin, length in spans]
    found = merged(intervals)
    assert all(one[1] < other[0] for one, other in pairwise(found))
    for point in range(220):
        at = point / 2
        assert any(b <= at <= e for b, e in intervals) == any(b <= at <= e for b, e in found)
    fewer = with_fewer(found, most)
    assert len(fewer) == min(len(found), most)
    assert all(any(b <= begin and end <= e for b, e in fewer) for begin, end in found)


# -- from the history


def past(
    path: Path, items: Sequence[Any], wanted: Wanted, since: float, until: float, parts: int = 100
) -> PastPresence:
    history(path, items).close()
    db = open_read_only(str(path))
    try:
        return presence_of(db, wanted, ["web"], since, until, (until - since) / parts)
    finally:
        db.close()


def test_a_history_tells_of_addresses_networks_and_others(tmp_path: Path) -> None:
    found = past(
        tmp_path / "history.db",
        [
            closed(NOON, "192.0.2.1", seconds=600),
            closed(NOON + 500, "192.0.2.1", seconds=100),
            closed(NOON + 900, "192.0.2.1", seconds=100, service="other"),
            closed(NOON, "2001:db8::1", seconds=60),
            closed(NOON, "unix", seconds=30),
            closed(NOON, "192.0.2.9"),
        ],
        Wanted(["192.0.2.1", "2001:db8::/64", "unix"]),
        NOON - 300,
        NOON + HOUR,
    )
    spells = sorted((each.device, each.begin, each.end, each.seconds) for each in found.spells)
    assert spells == [
        ("192.0.2.1", NOON - 600, NOON, 300.0),
        ("192.0.2.1", NOON + 400, NOON + 500, 100.0),
        ("2001:db8::/64", NOON - 60, NOON, 60.0),
        ("unix", NOON - 30, NOON, 30.0),
    ]


def test_a_history_tells_of_devices_by_their_facts(tmp_path: Path) -> None:
    facts = [{"mqtt_client_id": "pump-7"}, {"mqtt_client_id": "pump-8"}, {}]
    records = [closed(NOON + 60 * number) for number, _ in enumerate(facts)]
    for record, each in zip(records, facts, strict=True):
        record.facts.update(each)
    found = past(
        tmp_path / "history.db",
        records,
        Wanted([], {"pump-7"}, ["192.0.2.1", "unix"], ["mqtt_client_id"]),
        NOON - HOUR,
        NOON + HOUR,
    )
    assert [(each.device, each.end) for each in found.spells] == [("pump-7", NOON)]


def test_the_spells_of_ever_so_many_connections_are_no_more_than_parts(tmp_path: Path) -> None:
    found = past(
        tmp_path / "history.db",
        [closed(NOON + number, seconds=0.5) for number in range(1000)],
        Wanted(["192.0.2.1"]),
        NOON,
        NOON + 1000,
        parts=20,
    )
    assert 20 <= len(found.spells) <= 21
    assert sum(each.count for each in found.spells) == 1000
    assert sum(each.seconds for each in found.spells) == pytest.approx(499.5)


def test_alarms_of_a_history(tmp_path: Path) -> None:
    def alarm(at: float, device: str, is_over: bool) -> Event:
        return Event(at, "alarm", "web", device, device, "silent", is_over, 1, "why")

    found = past(
        tmp_path / "history.db",
        [alarm(NOON, "pump-7", False), alarm(NOON + 9, "pump-7", True), alarm(NOON, "x", False)],
        Wanted(["pump-7"]),
        NOON - 5,
        NOON + 5,
    )
    assert [(each.at, each.is_over) for each in found.alarms] == [(NOON, False), (NOON + 9, True)]


def test_when_monconn_did_not_run(tmp_path: Path) -> None:
    starts = [Event(NOON + at, "started") for at in (0, 20, 30)]
    items = [*starts, *(Event(NOON + at, "stopped") for at in (10, 40))]
    path = tmp_path / "history.db"
    found = past(path, items, Wanted(["192.0.2.1"]), NOON - 5, NOON + 50)
    assert [(each.begin - NOON, each.end - NOON, each.why) for each in found.unknown] == [
        (-5, 0, "not_recorded"),
        (10, 20, "not_running"),
        (20, 30, "killed"),
        (40, 50, "not_running"),
    ]
    later = past(tmp_path / "other.db", items, Wanted(["192.0.2.1"]), NOON + 12, NOON + 15)
    assert [(each.begin - NOON, each.end - NOON) for each in later.unknown] == [(12, 15)]


def test_many_short_connections_are_few_intervals(world: DeviceWorld) -> None:
    now = time.time()
    for number, connection in enumerate(world.connect("web", *["10.0.0.7"] * 600)):
        connection.end("client_closed")
        connection.record.opened_at = now - 3600 + number * 5
        connection.record.closed_at = connection.record.opened_at + 1
    (row,) = world.presence("10.0.0.7", since=now - 3700).rows
    assert len(row["connected"]) == MOST_INTERVALS
    assert row["connections"] == 600
    assert row["connected_seconds"] == pytest.approx(600, abs=1)


@pytest_twisted.ensureDeferred
async def test_memory_and_history_together(tmp_path: Path) -> None:
    world = DeviceWorld("web")
    service = world.start_history(tmp_path)
    monitor = world.registry.get("web")
    now = time.time()
    for began in (now - 300, now - 200):
        (connection,) = world.connect("web", "10.0.0.7")
        connection.record.opened_at = began
        connection.end("client_closed")
        connection.record.closed_at = began + 50
    world.clock.advance(1.0)
    saving: Deferred[None] | None = service._saving
    assert saving is not None
    await saving
    monitor.closed_records.popleft()  # of which only the history knows now
    (live,) = world.connect("web", "10.0.0.7")
    live.record.opened_at = now - 100
    found = await world.operations.presence(["10.0.0.7"], since=now - 400)
    (row,) = found.rows
    assert [begin for begin, _ in row["connected"]] == [
        pytest.approx(now - each, abs=0.01) for each in (300, 200, 100)
    ]
    assert row["connections"] == 3  # one is in memory and in the history
    assert found.has_history
    (unknown,) = row["unknown"]
    assert (unknown["why"], unknown["since"]) == ("not_recorded", pytest.approx(now - 400))
    await service.stopService()
    # A history that says nothing is no reason to say nothing.
    found = await world.operations.presence(["10.0.0.7"], since=now - 400)
    assert "closed" in str(found.to_json()["history_problem"])
    assert found.rows[0]["connections"] == 2


VALUES = ("x", b"\xff", -1e300, 1e300, None, 2**62, "{", "[" * 5000)


@pytest.mark.parametrize("column", ["opened_at", "closed_at", "facts", "client_ip", "service"])
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_row_that_another_program_has_written(tmp_path: Path, column: str, value: Any) -> None:
    path = tmp_path / "history.db"
    record = closed(NOON)
    record.facts["mqtt_client_id"] = "pump-7"
    db = history(path, [record, Event(NOON - 9, "started")])
    with db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        with suppress(sqlite3.IntegrityError):  # what may not be NULL
            db.execute(f"UPDATE connections SET {column} = ?", (value,))
        db.execute("UPDATE events SET detail = ?, word = ?", (value or "", value))
    db.close()
    wanted = Wanted(["192.0.2.1", "192.0.2.0/24"], {"pump-7"}, ["192.0.2.1"], ["mqtt_client_id"])
    reader = open_read_only(str(path))
    try:
        found = presence_of(reader, wanted, ["web"], NOON - HOUR, NOON + HOUR, 30.0)
    except sqlite3.Error:
        return  # it is told as the history's problem
    finally:
        reader.close()
    assert all(isinstance(each.begin, int | float) for each in found.spells)


def test_a_file_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    make_version_1(path)
    db = open_read_only(str(path))
    addresses = [each for (each,) in db.execute("SELECT DISTINCT client_ip FROM connections")]
    services = [each for (each,) in db.execute("SELECT DISTINCT service FROM connections")]
    wanted = Wanted(addresses, {"pump-7"}, addresses, ["mqtt_client_id"])
    found = presence_of(db, wanted, services, NOON - 90 * 86_400, NOON + 90 * 86_400, 3600.0)
    (total,) = db.execute("SELECT count(*) FROM connections").fetchone()
    db.close()
    assert sum(each.count for each in found.spells) == total > 0
