"""Rows grow old by the file's own time, whatever the wall clock says."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.sinks.history import file_time
from monconn.sinks.history.file_time import FileTime, load, retained, save
from monconn.sinks.history.retention import prune
from monconn.sinks.history.store import write
from tests.properties import examples

from .past import HOUR, MEBIBYTE, NOON, RUN, closed, history

DAY = 24 * HOUR
MINUTE = 60
KEEP = 30 * DAY
BOOT_1970 = 100.0


class Machine:
    """A machine whose true time, and by how much its wall clock is wrong, tests decide.

    Each row is written with the true time in its ``id``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = history(path)
        self.db.execute("PRAGMA synchronous = OFF")
        self.true = NOON
        self.error = 0.0
        self.time: FileTime | None = None

    @property
    def wall(self) -> float:
        return self.true + self.error

    def start(self, **wall: float) -> FileTime:
        """Start monconn."""
        if "at" in wall:
            self.error = wall["at"] - self.true
        self.time = FileTime(load(self.db), lambda: self.true, lambda: self.wall)
        self.write()
        return self.time

    def write(self) -> None:
        assert self.time is not None
        self.time.check()
        row = closed(self.wall, id=int(self.true - NOON))
        write(self.db, [row], {}, RUN, self.time.changed())

    def run(self, seconds: float, every: float = HOUR, **wall: float) -> None:
        """Go on, write a row at times, and prune."""
        if "at" in wall:
            self.error = wall["at"] - self.true
        end = self.true + seconds
        self.write()
        while self.true < end:
            self.true = min(end, self.true + every)
            self.write()
            self.prune()

    def prune(self) -> None:
        assert self.time is not None
        self.time.forget(KEEP)
        stretches = self.time.stretches()
        file_time.remove(self.db, stretches)
        while prune(self.db, str(self.path), KEEP, 64 * MEBIBYTE, self.wall, stretches):
            pass

    def off(self, seconds: float) -> None:
        self.time = None
        self.true += seconds

    def ages(self) -> list[float]:
        """The true ages of all rows, the oldest first."""
        found = self.db.execute("SELECT id FROM connections ORDER BY id").fetchall()
        return [self.true - NOON - row[0] for row in found]

    def sums(self) -> int:
        return int(self.db.execute("SELECT coalesce(sum(connections), 0) FROM hours").fetchone()[0])


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    machine = Machine(tmp_path / "history.db")
    yield machine
    machine.db.close()


def test_with_a_good_clock_rows_are_as_old_as_they_say(machine: Machine) -> None:
    machine.start()
    machine.run(40 * DAY)
    assert KEEP - HOUR <= machine.ages()[0] <= KEEP
    assert machine.sums() == pytest.approx(len(machine.ages()), abs=2)
    for _ in range(20):  # off at night
        machine.off(14 * HOUR)
        machine.start()
        machine.run(10 * HOUR)
    assert KEEP - 14 * HOUR <= machine.ages()[0] <= KEEP + 2 * HOUR


@pytest.mark.parametrize("ahead", [400 * DAY, 36_500 * DAY, 31 * DAY])
def test_a_machine_that_boots_ahead_forgets_nothing(machine: Machine, ahead: float) -> None:
    machine.start()
    machine.run(10 * DAY)
    before = len(machine.ages())
    for _ in range(10):  # each boot, until the clock is set right
        machine.off(HOUR)
        time = machine.start(at=machine.true + ahead)
        assert time.gap_seconds == pytest.approx(ahead, abs=2 * HOUR)
        machine.run(2 * HOUR, every=MINUTE)
        machine.run(HOUR, at=machine.true)
    assert len(machine.ages()) == machine.sums()
    assert len(machine.ages()) > before
    assert machine.ages()[0] == 10 * DAY + 10 * 4 * HOUR


def test_a_clock_that_stays_ahead_is_believed_late(machine: Machine) -> None:
    machine.start()
    machine.run(10 * DAY)
    machine.off(MINUTE * 5)
    machine.start(at=machine.true + 400 * DAY)
    machine.run(20 * DAY)
    assert machine.ages()[0] == pytest.approx(30 * DAY, abs=HOUR)
    machine.run(20 * DAY)
    assert machine.ages()[0] == pytest.approx(30 * DAY, abs=HOUR)  # by now the rest is gone


@pytest.mark.parametrize("off", [0.0, 3 * DAY])
def test_a_machine_that_boots_in_1970_forgets_nothing(machine: Machine, off: float) -> None:
    machine.start()
    machine.run(DAY)
    rows = len(machine.ages())
    for _ in range(7):
        machine.off(off)
        time = machine.start(at=BOOT_1970)
        assert time.gap_seconds < -50 * 365 * DAY
        machine.run(10 * MINUTE, every=MINUTE)
        machine.run(10 * HOUR, at=machine.true)
    assert len(machine.ages()) > rows
    assert machine.ages()[0] == pytest.approx(machine.true - NOON)
    assert machine.sums() == len(machine.ages())
    machine.run(30 * DAY)  # but in the end they go, too
    assert machine.ages()[0] <= KEEP + HOUR
    assert machine.db.execute("SELECT min(closed_at) > 1e9 FROM connections").fetchone() == (1,)
    assert machine.db.execute("SELECT min(hour) > 1e9 FROM hours").fetchone() == (1,)


def test_the_first_rows_of_all_may_be_of_1970(machine: Machine) -> None:
    machine.start(at=BOOT_1970)
    machine.run(10 * MINUTE, every=MINUTE)
    machine.run(29 * DAY, at=machine.true)
    assert machine.ages()[0] == machine.true - NOON
    machine.run(2 * DAY)
    assert machine.ages()[0] <= KEEP


def test_a_leap_while_it_runs(machine: Machine) -> None:
    time = machine.start()
    machine.run(10 * DAY)
    machine.error = 400 * DAY
    assert time.check() == pytest.approx(400 * DAY)
    assert time.check() == 0
    machine.run(DAY)
    machine.error = -400 * DAY
    assert time.check() == pytest.approx(-800 * DAY)
    machine.run(DAY)
    machine.run(17 * DAY, at=machine.true)
    assert machine.ages()[0] == machine.true - NOON == 29 * DAY
    machine.run(30 * DAY)
    assert machine.ages()[0] <= KEEP + HOUR


def test_a_clock_that_goes_back_and_forth_makes_nothing_older(machine: Machine) -> None:
    machine.start()
    machine.run(DAY)
    for _ in range(20):
        machine.run(DAY / 2, at=machine.true - DAY)
        machine.run(DAY / 2, at=machine.true)
    assert machine.ages()[0] == machine.true - NOON == 21 * DAY


def test_off_for_a_year(machine: Machine) -> None:
    """It looks like a clock that is ahead: rows are removed as the running time goes on."""
    machine.start()
    machine.run(10 * DAY)
    machine.off(365 * DAY)
    machine.start()
    machine.run(19 * DAY)
    assert machine.ages()[0] == machine.true - NOON
    machine.run(18 * DAY)
    assert machine.ages()[0] <= 38 * DAY


def test_small_steps_and_restarts_are_neither_leaps_nor_stretches(machine: Machine) -> None:
    time = machine.start()
    for step in range(100):
        machine.true += 1
        machine.error = step % 7
        assert time.check() == 0
    machine.write()
    for _ in range(20):
        machine.off(20)
        machine.start()
    assert machine.time is not None
    assert len(machine.time.stretches()) == 1
    for _ in range(200):  # a drift that nobody sets right in one go
        machine.true += HOUR
        machine.error += 1
        machine.write()
    assert 2 <= len(machine.time.stretches()) <= 5


def test_a_clock_that_leaps_all_the_time_costs_little(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_time, "MOST_STRETCHES", 50)
    machine.start()
    for step in range(200):
        machine.run(1, every=1, at=machine.true + step % 2 * HOUR)
    assert machine.db.execute("SELECT count(*) FROM clock").fetchone()[0] <= 50


def test_what_reaches_back_furthest_is_known_without_the_wall_clock(machine: Machine) -> None:
    machine.start()
    machine.run(3 * DAY)
    assert machine.time is not None
    now = machine.time.stretches()
    assert file_time.age(now, NOON, machine.wall) == pytest.approx(3 * DAY)
    machine.run(DAY, at=machine.true + 400 * DAY)
    now = machine.time.stretches()
    for at, days in ((NOON, 4), (NOON + DAY, 3), (NOON - DAY, 5), (NOON + 100 * DAY, 1)):
        assert file_time.age(now, at, machine.wall) == pytest.approx(days * DAY)


@pytest.mark.parametrize("change", [lambda db: None, lambda db: db.execute("DROP TABLE clock")])
def test_a_file_without_a_clock_of_its_own(
    machine: Machine, change: Callable[[sqlite3.Connection], object]
) -> None:
    """As monconn wrote it before."""
    write(machine.db, [closed(NOON + each * DAY) for each in range(20)], {}, RUN)
    machine.db.execute("DROP TABLE clock")
    machine.db.close()
    machine.db = history(machine.path)
    (whole,) = load(machine.db)
    assert (whole.at, whole.seconds) == (NOON, 19 * DAY)
    machine.true = NOON + 19 * DAY
    machine.start(at=machine.true + 400 * DAY)
    machine.prune()
    assert len(machine.ages()) == 21


def test_an_empty_file_has_no_time_yet(machine: Machine) -> None:
    assert load(machine.db) == []
    assert retained([], KEEP) == []


def test_odd_times_are_an_error_of_the_file(machine: Machine) -> None:
    machine.db.execute("INSERT INTO clock VALUES (1, 'soon', 2, 3, 4)")
    with pytest.raises(sqlite3.DatabaseError, match="is no number"):
        load(machine.db)


def test_what_is_stored_is_what_was(machine: Machine) -> None:
    time = machine.start()
    machine.run(DAY)
    machine.run(DAY, at=BOOT_1970)
    assert load(machine.db) == time.stretches()
    with machine.db:
        save(machine.db, time.changed())  # again
    assert load(machine.db) == time.stretches()


CLOCKS = st.one_of(st.just(0.0), st.floats(-60 * 365 * DAY, 60 * 365 * DAY), st.floats(-7200, 7200))
STEPS = st.tuples(
    st.booleans(),  # whether monconn is restarted
    st.floats(0, 100 * DAY),  # how long it was off, if so
    CLOCKS,  # by how much the wall clock is wrong from then on
    st.floats(1, 3 * DAY),  # how long it runs
)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=25))
@example([(False, 0.0, 0.0, DAY), (True, 0.0, 400 * DAY, HOUR), (True, 0.0, -400 * DAY, HOUR)])
def test_whatever_the_clock_does_nothing_is_removed_early(
    steps: list[tuple[bool, float, float, float]],
) -> None:
    """Time off counts for ten times the running time at most, so no row is removed before that of
    an eleventh of ``keep``; restarts within a minute count that minute."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder, "history.db"))
        machine.start()
        ran, restarts, newest = 0.0, 0, 0.0
        rows: dict[int, float] = {}
        for number, (is_restarted, off, error, seconds) in enumerate(steps):
            if is_restarted:
                machine.off(off)
                restarts += 1
            machine.error = error
            if is_restarted:
                machine.start()
            machine.true += seconds
            ran += seconds
            time = machine.time
            assert time is not None
            time.check()
            elapsed = time.stretches()[-1].end
            assert elapsed >= newest  # the file's time never goes back
            newest = elapsed
            row = closed(machine.wall, id=number)
            assert write(machine.db, [row], {}, RUN, time.changed()) == []
            rows[number] = ran
            machine.prune()
        left = {row[0] for row in machine.db.execute("SELECT id FROM connections")}
        machine.db.close()
    spared = (KEEP - 60 * (restarts + 1)) / 11
    assert {number for number, at in rows.items() if ran - at < spared} <= left
