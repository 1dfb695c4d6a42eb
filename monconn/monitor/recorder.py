"""The flight recorder: the first and the last bytes of each direction of a service's connections.

All recordings of the process share one bounded amount of memory, the :class:`Arena`. When that is
used up, the recordings of connections that ended in good order are dropped first, then those of
others, and those of live connections last; the oldest first each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from operator import attrgetter
from typing import Literal

import attrs
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.model.flow import Data, FlowEvent, SideEnded, began, ended
from monconn.model.reasons import ORDERLY_REASONS, Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.tracks import Track
from monconn.policy.recorder import RecorderSettings

ARENA_BYTES = 64 << 20
"""The most that all recordings of the process may take, their overhead included."""
RECORDING_OVERHEAD = 2_048
"""What Python needs for a recording without any chunk: 650 bytes of its own, and 700 of the record,
which lives on with it; the rest is for texts of the record, and its two ``tcp_info``."""
TIDIED_AT_ONCE = 256
"""Recordings that are dropped in one turn of the loop, once they are too old or too many."""
_REMEMBERED = 1_000

Cause = Literal["room", "keep", "keep_for", "forgotten", "off"]
"""Why a recording was dropped: no room in the arena, what ``keep`` and ``keep_for`` say, its client
was forgotten, or the recorder was switched off."""
_CAUSES: dict[Cause, str] = {
    "room": f"there was no room left in the {ARENA_BYTES >> 20} MiB of all recordings",
    "keep": "later ones have taken its place (recorder: {keep: …})",
    "keep_for": "it was too old (recorder: {keep_for: …})",
    "forgotten": "its client was forgotten",
    "off": "the recorder was switched off",
}
Kind = Literal["orderly", "abnormal", "live"]
KINDS: tuple[Kind, ...] = ("orderly", "abnormal", "live")
"""Kinds of recordings, in the order in which they are dropped."""
_by_time: Callable[[FlowEvent], float] = attrgetter("at")


class Recording:
    """What is recorded of one connection.

    :param record: the connection's.
    :param settings: how much of each direction.
    :param recorder: the service's.
    """

    __slots__ = ("_recorder", "down", "kind", "record", "up")

    def __init__(
        self, record: ConnectionRecord, settings: RecorderSettings, recorder: Recorder
    ) -> None:
        self.record = record
        self.kind: Kind = "live"
        charge = recorder.arena.charge
        self.up = Track(settings, charge)
        self.down = Track(settings, charge)
        self._recorder = recorder

    def size(self) -> int:
        """Memory, in bytes."""
        return self.up.size + self.down.size + RECORDING_OVERHEAD

    def byte_count(self) -> int:
        """How many bytes are recorded."""
        tracks = (self.up, self.down)
        return sum(len(data) for track in tracks for _, _, data in track.chunks())

    def drop(self, cause: Cause) -> None:
        """Remove it from its recorder."""
        self._recorder.drop(self, cause)

    def events(self, now: float) -> list[FlowEvent]:
        """All of it as events, in the order of their times.

        Between the first and the last bytes of a direction there may be a gap, as offsets tell. So
        may there be at its end, if the connection lives: what the other side does not take is
        recorded once it goes on. Of chunks that were joined the time is that of the first.

        :param now: monotonic seconds, for the end of those that are live.
        """
        record = self.record
        wall = record.opened_at - record.opened
        of_bytes: list[FlowEvent] = []
        latest = {"client": record.opened, "backend": record.opened}
        sides: tuple[tuple[Side, Direction, Track], ...] = (
            ("client", "up", self.up),
            ("backend", "down", self.down),
        )
        for side, direction, track in sides:
            sent = record.up if direction == "up" else record.down
            for at, offset, data in track.chunks():
                # Bytes never come before earlier ones, whatever their times.
                latest[side] = at = max(at, latest[side])
                of_bytes.append(Data(record.id, wall + at, direction, offset, data))
            how = record.end_of(side)
            if how != "none":
                known = record.ended_since(side)
                at = max(latest[side], now if known is None else known)
                of_bytes.append(SideEnded(record.id, wall + at, side, how, sent))
        until = now if record.closed is None else record.closed
        first = attrs.evolve(began(record, record.opened_at), up=0, down=0)
        return [first, *sorted(of_bytes, key=_by_time), ended(record, wall + until)]


class Shelves:
    """Recordings by kind, the oldest of each first."""

    def __init__(self) -> None:
        self.by_kind: dict[Kind, OrderedDict[int, Recording]] = {
            kind: OrderedDict() for kind in KINDS
        }

    def find(self, connection_id: int) -> Recording | None:
        """A connection's recording."""
        for recordings in self.by_kind.values():
            if (found := recordings.get(connection_id)) is not None:
                return found
        return None

    def oldest(self, kind: Kind) -> Recording | None:
        """The oldest of a kind."""
        return next(iter(self.by_kind[kind].values()), None)

    def __len__(self) -> int:
        return sum(map(len, self.by_kind.values()))

    def ended(self) -> int:
        """How many there are of connections that have ended."""
        return len(self.by_kind["orderly"]) + len(self.by_kind["abnormal"])

    def all(self) -> list[Recording]:
        """All that are there now."""
        return [each for recordings in self.by_kind.values() for each in recordings.values()]


class Arena:
    """The memory of all recordings of the process.

    :param limit: in bytes.
    """

    def __init__(self, limit: int = ARENA_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self.shelves = Shelves()

    def charge(self, size: int) -> None:
        """A recording takes more memory, or less; others are dropped if there is no room.

        It may be the very one that has grown.
        """
        self.used += size
        if self.used > self.limit:
            self._make_room()

    def _make_room(self) -> None:
        for kind in KINDS:
            while self.used > self.limit and (oldest := self.shelves.oldest(kind)) is not None:
                oldest.drop("room")


_arena = Arena()


class Recorder:
    """The recordings of one service's connections.

    :param clock: gives monotonic time and timers.
    :param arena: the process's, if left out.
    """

    def __init__(self, clock: Clock, arena: Arena | None = None) -> None:
        self.arena = _arena if arena is None else arena
        self.dropped: dict[Cause, int] = dict.fromkeys(_CAUSES, 0)
        """How many recordings were dropped, by cause."""
        self._clock = clock
        self._settings: RecorderSettings | None = None
        self._shelves = Shelves()
        self.live = self._shelves.by_kind["live"]
        """The recordings of live connections, by their ids."""
        self._causes: OrderedDict[int, Cause] = OrderedDict()  # of those dropped last
        self._timer: IDelayedCall | None = None

    def configure(self, settings: RecorderSettings | None) -> None:
        """Record new connections by other settings.

        Those that are recorded already go on as they are; ``keep`` and ``keep_for`` hold for all.

        :param settings: None to record nothing, and drop what there is.
        """
        if settings != self._settings:
            self._settings = settings
            if len(self._shelves):
                self._tidy_in(0.0)

    def begin(self, record: ConnectionRecord) -> Recording | None:
        """Begin a recording of a connection that opens; None if nothing is recorded."""
        if self._settings is None:
            return None
        recording = Recording(record, self._settings, self)
        self._put(recording)
        self.arena.charge(RECORDING_OVERHEAD)
        return recording

    def closed(self, record: ConnectionRecord) -> None:
        """A connection has ended; harmless if it is not recorded."""
        recording = self.live.get(record.id)
        if recording is None:
            return
        self._take(recording)
        recording.kind = "orderly" if record.reason in ORDERLY_REASONS else "abnormal"
        self._put(recording)
        surplus = self._surplus()
        if surplus is not None:  # one, as one has come; if ``keep`` has become less, _tidy runs
            self.drop(*surplus)
        if self._timer is None:
            self._tidy_in_time()

    def events(self, connection_id: int) -> list[FlowEvent] | None:
        """What is recorded of a connection of this service, live or closed.

        In an observer's ``closed`` it is complete. See :meth:`Recording.events` for what is in it.

        :returns: None if there is no recording, or not any more; :meth:`why_not` says why.
        """
        recording = self.find(connection_id)
        return None if recording is None else recording.events(self._clock.seconds())

    def find(self, connection_id: int) -> Recording | None:
        """A connection's recording; None if there is none, or not any more."""
        return None if self._settings is None else self._shelves.find(connection_id)

    def why_not(self, connection_id: int) -> str:
        """Why there is no recording of a connection of this service, in words."""
        if self._settings is None:
            return "its service has no recorder (recorder: true in a file, --record beside -p)"
        cause = self._causes.get(connection_id)
        if cause is not None:
            return f"its recording was dropped: {_CAUSES[cause]}"
        return "it opened before its service had a recorder, or its recording was dropped long ago"

    def has_dropped(self, connection_id: int) -> bool:
        """Whether a connection of this service had a recording, as far as that is remembered."""
        return connection_id in self._causes

    def __len__(self) -> int:
        """How many recordings there are, of live connections and of others."""
        return len(self._shelves)

    def __bool__(self) -> bool:
        return True

    # -- dropping

    def drop(self, recording: Recording, cause: Cause) -> None:
        """Drop one of this recorder's recordings."""
        self._take(recording)
        self.arena.used -= recording.size()
        recording.up.drop()
        recording.down.drop()
        self.dropped[cause] += 1
        self._causes[recording.record.id] = cause
        if len(self._causes) > _REMEMBERED:
            self._causes.popitem(last=False)

    def _put(self, recording: Recording) -> None:
        """Add a recording, as the latest of its kind, of this service and of all."""
        kind, number = recording.kind, recording.record.id
        self._shelves.by_kind[kind][number] = recording
        self.arena.shelves.by_kind[kind][number] = recording

    def _take(self, recording: Recording) -> None:
        kind, number = recording.kind, recording.record.id
        del self._shelves.by_kind[kind][number], self.arena.shelves.by_kind[kind][number]

    def forget_in_steps(
        self, concerns: Callable[[ConnectionRecord], bool], *, dry_run: bool = False
    ) -> Generator[None, None, int]:
        """Drop the recordings of some connections, live ones included, which are recorded no more.

        :param concerns: which ones.
        :param dry_run: only count.
        :returns: how many there were.
        """
        count = 0
        for recording in self._shelves.all():
            if self._shelves.find(recording.record.id) is recording and concerns(recording.record):
                count += 1
                if not dry_run:
                    recording.drop("forgotten")
            yield
        return count

    def _surplus(self) -> tuple[Recording, Cause] | None:
        """A recording that must not be there any more, and why; None if all may stay."""
        settings = self._settings
        if settings is None:
            for kind in KINDS:
                if (oldest := self._shelves.oldest(kind)) is not None:
                    return oldest, "off"
            return None
        orderly, abnormal = self._shelves.oldest("orderly"), self._shelves.oldest("abnormal")
        too_old = self._clock.seconds() - settings.keep_for
        for each in (orderly, abnormal):
            if each is not None and (each.record.closed or 0.0) <= too_old:
                return each, "keep_for"
        if self._shelves.ended() > settings.keep and (oldest := orderly or abnormal):
            return oldest, "keep"
        return None

    def _tidy(self) -> None:
        self._timer = None
        for _ in range(TIDIED_AT_ONCE):
            surplus = self._surplus()
            if surplus is None:
                self._tidy_in_time()
                return
            self.drop(*surplus)
        self._tidy_in(0.0)

    def _tidy_in_time(self) -> None:
        """Tidy up when the next recording is too old."""
        settings = self._settings
        if settings is None:
            return
        ended = [
            each.record.closed
            for kind in KINDS
            if (each := self._shelves.oldest(kind)) is not None and each.record.closed is not None
        ]
        if ended:
            self._tidy_in(max(0.0, min(ended) + settings.keep_for - self._clock.seconds()))

    def _tidy_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._tidy)
