"""The own time of a history's file, by which rows grow old, whatever the wall clock says.

Rows show the wall clock's time, and a wall clock may be wrong: a machine without a battery boots in
1970, one whose battery is flat a year ahead, and both are set right minutes later. A row that is
to be retained for 30 days must not be gone for that. So the file has a time of its own: how long it
has been written, counted by the monotonic clock. It is stored as *stretches*, in which the wall
clock went evenly, so that each row's age follows from its wall-clock time.

How long the machine was off only the wall clock tells. What it claims, the *lead*, is counted once
the file has been written for a tenth as long without another leap: a night after an hour and a
half, and a year not before rows have grown old by the running time alone.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence

import attrs

LEAP_SECONDS = 60.0
"""What a wall clock may gain or lose within a check without a leap; NTP slews less."""
TRUSTED_AFTER = 0.1
"""How long it must run without a leap until a lead is counted, as a share of the lead."""
MOST_STRETCHES = 1_000
_MOST_SECONDS = 1e12


def steady_seconds() -> float:
    """Monotonic seconds that go on while the machine is suspended, as the wall clock does."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def wall_seconds() -> float:
    """Seconds since 1970, as far as the machine knows."""
    return time.time()


@attrs.frozen
class Stretch:
    """A time in which the file was written and the wall clock did not leap."""

    entry: int
    elapsed: float
    """The file's own time at the beginning."""
    at: float
    """The wall clock at the beginning."""
    seconds: float = 0.0
    """How long it was; of the present one, up to now."""
    lead: float = 0.0
    """By how much more time has passed if the wall clock is right; 0 once that is counted."""

    @property
    def end(self) -> float:
        """The file's own time at the end."""
        return self.elapsed + self.seconds

    @property
    def end_at(self) -> float:
        """The wall clock at the end."""
        return self.at + self.seconds


class FileTime:
    """The time of a file that is being written, from now on.

    :param stretches: those that the file has, the oldest first.
    :param steady: monotonic seconds.
    :param wall: wall-clock seconds.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch] = (),
        steady: Callable[[], float] = steady_seconds,
        wall: Callable[[], float] = wall_seconds,
    ) -> None:
        self._steady = steady
        self._wall = wall
        self._past = list(stretches)
        self._began, at = self._steady(), self._wall()
        self._offset = at - self._began
        self.gap_seconds = 0.0
        """By how much the wall clock is beyond the time at which the file was written last, or
        behind it (negative)."""
        if not self._past:
            self._now = Stretch(1, 0.0, at)
        else:
            self.gap_seconds = gap = at - self._past[-1].end_at
            if 0 <= gap < LEAP_SECONDS:
                self._now = self._past.pop()  # a restart
                self._began -= self._now.seconds + gap
            else:
                self._now = self._begin(at)
        self._first_changed = self._now.entry

    def _begin(self, at: float) -> Stretch:
        last = self._past[-1]
        # The most that the wall clock was beyond the file's time as far as it is believed: one that
        # returns from where it was set back to is not ahead.
        known = [each for each in self._past if not each.lead] or self._past[:1]
        lead = (at - last.end) - max(each.at - each.elapsed for each in known)
        return Stretch(last.entry + 1, last.end, at, 0.0, max(0.0, lead))

    def check(self) -> float:
        """Take note of the time.

        :returns: by how many seconds the wall clock has leapt since the last call: 0 if it has not.
        """
        steady, at = self._steady(), self._wall()
        leap, self._offset = at - steady - self._offset, at - steady
        now = attrs.evolve(self._now, seconds=steady - self._began)
        self._now = now
        # What smaller steps add up to is put right as well, but is no leap to tell of.
        if abs(at - now.end_at) >= LEAP_SECONDS:
            self._past.append(now)
            self._began = steady
            self._now = self._begin(at)
            return leap if abs(leap) >= LEAP_SECONDS else 0.0
        if now.lead and now.seconds >= now.lead * TRUSTED_AFTER:
            self._now = attrs.evolve(now, elapsed=now.elapsed + now.lead, lead=0.0)
        return 0.0

    def stretches(self) -> list[Stretch]:
        """All stretches, up to the last check."""
        return [*self._past[-(MOST_STRETCHES - 1) :], self._now]

    def changed(self) -> list[Stretch]:
        """The stretches that the file does not have yet, or not as they are now."""
        return [each for each in self.stretches() if each.entry >= self._first_changed]

    def forget(self, keep_seconds: float) -> None:
        """Forget the stretches that are older than what is retained."""
        now = self._now.end
        past = self._past[-MOST_STRETCHES:]
        self._past = [each for each in past if now - each.end <= keep_seconds]


def load(db: sqlite3.Connection) -> list[Stretch]:
    """The stretches of a file; of one that lacks them, from its first row to its last.

    :raises sqlite3.Error: the file cannot be read.
    """
    found = db.execute(
        "SELECT entry, elapsed, at, seconds, lead FROM clock ORDER BY entry"
    ).fetchall()
    if found:
        return [Stretch(int(_number(entry)), *map(_number, row)) for entry, *row in found]
    (first,) = db.execute(
        "SELECT min(time) FROM (SELECT min(at) AS time FROM events UNION ALL"
        " SELECT min(closed_at) FROM connections UNION ALL SELECT min(hour) FROM hours)"
    ).fetchone()
    if first is None:
        return []
    # By entry, not by time: the newest times may be those of a clock that was ahead.
    (last,) = db.execute(
        "SELECT max(time) FROM ("
        "SELECT at AS time FROM events WHERE entry = (SELECT max(entry) FROM events) UNION ALL"
        " SELECT closed_at FROM connections WHERE entry = (SELECT max(entry) FROM connections))"
    ).fetchone()
    first = _number(first)
    return [Stretch(1, 0.0, first, max(0.0, (first if last is None else _number(last)) - first))]


def _number(value: object) -> float:
    """A time or a duration, which SQLite does not check.

    :raises sqlite3.DatabaseError: it is none.
    """
    if not isinstance(value, int | float) or not abs(value) < _MOST_SECONDS:
        raise sqlite3.DatabaseError("a time of the table clock is no number")
    return float(value)


def save(db: sqlite3.Connection, changed: Sequence[Stretch]) -> None:
    """Store stretches, within the caller's transaction."""
    db.executemany(
        "INSERT OR REPLACE INTO clock VALUES (?, ?, ?, ?, ?)",
        [(each.entry, each.elapsed, each.at, each.seconds, each.lead) for each in changed],
    )


def remove(db: sqlite3.Connection, stretches: Sequence[Stretch]) -> None:
    """Remove from a file all stretches that are older than the given ones."""
    if stretches:
        with db:
            db.execute("DELETE FROM clock WHERE entry < ?", (stretches[0].entry,))


def retained(stretches: Sequence[Stretch], keep_seconds: float) -> list[tuple[float, float]]:
    """The wall-clock times of the rows that are younger than ``keep_seconds``, merged, in order.

    Each end is wider by what a leap may take to be noticed.
    """
    ranges: list[tuple[float, float]] = []
    oldest = stretches[-1].end - keep_seconds if stretches else 0.0
    found = (
        (each.at + max(-LEAP_SECONDS, oldest - each.elapsed), each.end_at + LEAP_SECONDS)
        for each in stretches
        if each.end >= oldest
    )
    for begin, end in sorted(found):
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return ranges


def age(stretches: Sequence[Stretch], at: float, now: float) -> float:
    """How old a row is by the file's time, from its wall-clock time.

    :param now: the wall clock, by which it is judged if there are no stretches.
    """
    if not stretches:
        return max(0.0, now - at)
    within = [each for each in stretches if each.at <= at]
    if not within:
        first = min(stretches, key=lambda each: each.at)
        return max(0.0, stretches[-1].end - first.elapsed + first.at - at)
    own = max(within, key=lambda each: each.at)
    return max(0.0, stretches[-1].end - own.elapsed - min(at - own.at, own.seconds))


def outside(
    ranges: Sequence[tuple[float, float]], now: float, keep_seconds: float
) -> list[tuple[float, float]]:
    """The wall-clock times of rows to remove: in no range, nor within ``keep_seconds`` of now.

    The second condition is for rows whose times no stretch explains, such as those that an older
    monconn has written since: these grow old by the wall clock.
    """
    taken = sorted([*ranges, (now - keep_seconds, now + keep_seconds)])
    gaps, begin = [], -math.inf
    for first, last in taken:
        if first > begin:
            gaps.append((begin, first))
        begin = max(begin, last)
    return [*gaps, (begin, math.inf)]
