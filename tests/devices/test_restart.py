"""Devices from one run of monconn to the next, where a history is kept."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from monconn.config.sections import HistoryConfig
from monconn.model.alarms import Alarm
from monconn.policy.devices import DeviceRules
from monconn.policy.policy import Policy
from monconn.sinks.history.query import HistoryFilter, events, open_read_only
from monconn.sinks.history.service import HistoryService
from monconn.sinks.metrics.figures import ServiceFigures

from .test_devices import World

WAIT_SECONDS = 20.0


class Run(World):
    """One run, whose history uses the running reactor's threads."""

    def __init__(self, path: Path, start: float = 0.0, **config: Any) -> None:
        from twisted.internet import reactor

        super().__init__(**config)
        self.clock.advance(start)
        self.path = path
        self.reactor: Any = reactor
        self.figures = ServiceFigures()
        self.monitor.add_observer(self.figures)
        self.history = HistoryService(HistoryConfig(str(path)), self.registry, reactor, self.clock)
        self.history.keep_devices(self.devices)
        self.history.startService()

    async def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            assert time.monotonic() < deadline
            await deferLater(self.reactor, 0.005)

    async def restored(self) -> None:
        await self.until(lambda: self.devices.of("web").may_store)

    async def saved(self) -> None:
        """Have all that was queued written."""
        for _ in range(3):
            self.clock.advance(1.0)
            await self.until(self._is_idle)

    def _is_idle(self) -> bool:
        saving = self.history._saving
        return saving is None or bool(saving.called)

    async def stop(self) -> None:
        self.monitor.stop(0.0)
        self.wait(2.0)
        self.devices.stopService()
        await self.history.stopService()

    async def kill(self) -> None:
        """End without what a stop writes."""
        self.history._ticking.stop()
        self.history._devices = None
        await self.history.stopService()

    def alarm_events(self) -> list[tuple[str, bool, str]]:
        with closing(open_read_only(str(self.path))) as db:
            found = events(db, HistoryFilter())
        return [
            (each["device"], each["over"], each["detail"])
            for each in reversed(found)
            if each["event"] == "alarm"
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


async def with_a_heartbeat(path: Path, **config: Any) -> Run:
    run = Run(path, **config)
    await run.restored()
    connection = run.enter()
    connection.speak(3)
    run.speak_every(connection, 60.0, 21)
    assert run.kinds() == []
    return run


@pytest_twisted.ensureDeferred
async def test_what_is_usual_for_a_device_is_known_after_a_restart(path: Path) -> None:
    run = await with_a_heartbeat(path)
    before = run.row()
    for record in run.monitor.connections():
        run.monitor.close(record.id)
    await run.stop()
    after = Run(path, start=5000.0)
    await after.restored()
    row = after.row()
    for key in ("device", "total", "heartbeat_seconds", "up", "first_seen"):
        assert row[key] == before[key], key
    assert (row["connections"], row["alarms"]) == (0, [])
    connection = after.enter()
    connection.speak(1)
    after.wait(1.0)
    row = after.row()
    assert (row["total"], row["up"], row["heartbeat_seconds"]) == (2, before["up"] + 1, 60.0)
    # Nothing that passed while monconn did not run is an interval.
    after.speak_every(connection, 60.0, 2)
    after.wait(175.0)
    assert after.kinds() == []
    after.wait(10.0)
    assert after.kinds() == ["silent"]
    await after.stop()


@pytest.mark.parametrize("ends", ["stop", "kill"])
@pytest_twisted.ensureDeferred
async def test_a_device_that_does_not_come_back_after_a_restart_is_silent(
    path: Path, ends: str
) -> None:
    run = await with_a_heartbeat(path)
    for _ in range(70):
        await run.saved()
        if path_has_device(path):
            break
    await (run.stop() if ends == "stop" else run.kill())
    after = Run(path)
    await after.restored()
    after.wait(178.0)
    assert after.kinds() == []
    after.wait(5.0)
    assert after.kinds() == ["silent"]
    await after.stop()


def path_has_device(path: Path) -> bool:
    with closing(open_read_only(str(path))) as db:
        return bool(db.execute("SELECT count(*) FROM devices").fetchone()[0])


@pytest_twisted.ensureDeferred
async def test_devices_have_time_to_come_back(path: Path) -> None:
    """However often they spoke: many wait for a minute when they cannot connect."""
    run = Run(path)
    await run.restored()
    connection = run.enter()
    run.speak_every(connection, 2.0, 152)
    await run.stop()
    after = Run(path)
    await after.restored()
    after.wait(115.0)
    assert after.kinds() == []
    after.wait(10.0)
    assert after.kinds() == ["silent"]
    await after.stop()


@pytest.mark.parametrize("ends", ["stop", "kill"])
@pytest_twisted.ensureDeferred
async def test_an_alarm_goes_on_after_a_restart_and_ends(path: Path, ends: str) -> None:
    run = await with_a_heartbeat(path)
    run.wait(200.0)
    assert run.kinds() == ["silent"]
    await run.saved()
    await (run.stop() if ends == "stop" else run.kill())
    after = Run(path)
    await after.restored()
    assert after.row()["alarms"] == ["silent"]
    goes_on = [event[1] for event in after.observer.events if event[0] == "alarmed"]
    assert [(alarm.goes_on, alarm.is_over) for alarm in goes_on] == [(True, False)]
    assert (after.figures.alarms_active["silent"], after.figures.alarms["silent"]) == (1, 0)
    after.kinds()
    after.wait(3600.0)
    assert after.kinds() == []  # it is no new one
    after.enter().speak()
    after.wait(1.0)
    assert after.kinds() == ["-silent"]
    assert after.figures.alarms_active["silent"] == 0
    await after.saved()
    assert [over for _, over, _ in after.alarm_events()] == [False, True]
    await after.stop()
    third = Run(path)
    await third.restored()
    assert third.row()["alarms"] == []
    await third.stop()


@pytest_twisted.ensureDeferred
async def test_a_storm_is_over_after_a_restart(path: Path) -> None:
    run = Run(path)
    await run.restored()
    for _ in range(15):
        run.enter().end("client_reset")
    assert run.kinds() == ["reconnect_storm"]
    await run.saved()
    await run.kill()
    after = Run(path)
    await after.restored()
    assert after.kinds() == ["-reconnect_storm"]
    await after.saved()
    assert after.alarm_events()[-1] == ("10.0.0.1", True, "monconn was restarted")
    await after.stop()


@pytest_twisted.ensureDeferred
async def test_alarms_of_a_service_that_is_there_no_more_end(path: Path) -> None:
    run = await with_a_heartbeat(path)
    run.wait(200.0)
    await run.saved()
    await run.kill()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE devices SET service = 'other'")
        db.execute("UPDATE events SET service = 'other' WHERE event = 'alarm'")
    after = Run(path)
    await after.restored()
    after.wait(61.0)
    for _ in range(3):
        await after.saved()
    _, is_over, detail = after.alarm_events()[-1]
    assert (is_over, detail) == (True, "there is no such service any more")
    await after.stop()


@pytest_twisted.ensureDeferred
async def test_alarms_that_an_older_monconn_left_open_end(path: Path) -> None:
    run = await with_a_heartbeat(path)
    run.wait(200.0)
    await run.saved()
    await run.kill()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE devices")
    after = Run(path)
    await after.restored()
    await after.saved()
    assert after.alarm_events()[-1] == ("10.0.0.1", True, "monconn was restarted")
    await after.stop()


@pytest.mark.parametrize(
    "change",
    [
        "usual = '{'",
        "usual = '{}'",
        "alarms = '[{}]'",
        "alarms = x'00'",
        "total = 'many'",
        "last_reason = 'magic'",
        "first_seen_at = 1e300",
        "device = x'31'",
        "device = 'a' || char(27)",
        """alarms = '[{"kind": "silent", "at": 1, "detail": "\\ud800", "is_away": 0}]'""",
    ],
)
@pytest_twisted.ensureDeferred
async def test_rows_that_cannot_be_used_lose_nothing_else(path: Path, change: str) -> None:
    run = await with_a_heartbeat(path)
    run.enter("10.0.0.2").end()
    await run.stop()
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE devices SET {change} WHERE device = '10.0.0.1'")
    after = Run(path)
    await after.restored()
    assert [row["device"] for row in after.devices.rows()] == ["10.0.0.2"]
    after.enter().end()
    await after.saved()
    await after.stop()
    third = Run(path)
    await third.restored()
    assert {row["device"] for row in third.devices.rows()} == {"10.0.0.1", "10.0.0.2"}
    await third.stop()


@pytest_twisted.ensureDeferred
async def test_no_more_devices_are_restored_than_are_kept(path: Path) -> None:
    run = await with_a_heartbeat(path)
    run.wait(200.0)
    assert run.kinds() == ["silent"]
    for number in range(20):
        run.enter(f"10.0.1.{number}").end()
        run.wait(1.0)
        time.sleep(0.002)  # last_seen is the wall clock's
    await run.stop()
    with sqlite3.connect(path) as db:  # the other clock was in a hurry
        db.execute("UPDATE devices SET last_seen_at = 1e9 WHERE device = '10.0.0.1'")
    after = Run(path, kept=5)
    await after.restored()
    names = [row["device"] for row in after.devices.rows()]
    assert names == [f"10.0.1.{number}" for number in range(19, 14, -1)]
    assert after.alarms() == [("silent", "10.0.0.1", True)]
    await after.stop()
    with closing(open_read_only(str(path))) as db:
        assert db.execute("SELECT count(*) FROM devices").fetchone()[0] == 5


# -- settings, and removal of a service


def test_alarms_end_with_their_setting() -> None:
    world = World()
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 20.0, 21)
    world.wait(100.0)
    assert world.kinds() == ["silent"]
    world.monitor.apply(Policy(devices=DeviceRules(silent_heartbeats=0)))
    world.wait(1.0)
    assert world.kinds() == ["-silent"]
    world.wait(1000.0)
    assert world.kinds() == []
    world.monitor.apply(Policy())
    world.wait(2.0)
    assert world.kinds() == ["silent"]


def test_a_blocked_device_is_not_expected_and_has_its_time_when_it_may_come_again() -> None:
    world = World()
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    connection.end("client_reset")
    world.wait(200.0)
    assert world.kinds() == ["silent"]
    world.monitor.block("10.0.0.1")
    world.wait(1.0)
    assert world.kinds() == ["-silent"]
    world.wait(1000.0)
    assert world.kinds() == []
    world.monitor.unblock("10.0.0.1")
    world.wait(1.0)
    assert world.kinds() == []


def test_alarms_of_a_removed_service_end() -> None:
    world = World()
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, 60.0, 21)
    world.wait(200.0)
    assert world.kinds() == ["silent"]
    world.registry.delete("web")
    world.wait(1.0)
    assert world.kinds() == ["-silent"]


def test_another_prefix_makes_other_devices() -> None:
    world = World()
    connection = world.enter("10.0.0.7")
    world.monitor.apply(Policy(devices=DeviceRules(prefix_v4=24)))
    world.wait(1.0)
    row = world.row()
    assert (row["device"], row["connections"]) == ("10.0.0.0/24", 1)
    connection.end()
    assert world.row()["connections"] == 0


@pytest_twisted.ensureDeferred
async def test_alarms_of_services_that_the_last_run_has_left_open_are_over(path: Path) -> None:
    """Nobody knows any more whether the backend is down: it may raise another one."""
    run = Run(path)
    await run.restored()
    for kind, is_over in (("backend_down", False), ("outage", False), ("outage", True)):
        run.monitor.alarm(Alarm(kind, "web", "", time.time(), is_over, "so"))  # type: ignore[arg-type]
    await run.saved()
    await run.kill()
    after = Run(path, start=5000.0)
    await after.restored()
    await after.saved()
    assert sorted(after.alarm_events()) == [
        ("", False, "so"),
        ("", False, "so"),
        ("", True, "monconn was restarted"),
        ("", True, "so"),
    ]
    await after.stop()
