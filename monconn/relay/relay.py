"""Two Ends and a verdict table: one client's connection to its backend."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from zope.interface import implementer

from monconn.model.reasons import (
    BROKEN_REASONS,
    CLOSED_REASONS,
    DIRECTION_OF,
    LOST_REASONS,
    Direction,
    Reason,
    Side,
    SideEnd,
    State,
)
from monconn.model.record import ConnectionRecord
from monconn.monitor.bandwidth import DirectionLimits, Throttle
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.interfaces import (
    IAddressed,
    IConnection,
    IDecoded,
    IPausable,
    IRecordable,
    IWatchable,
)
from monconn.monitor.monitor import Monitor
from monconn.monitor.progress import SendProgress
from monconn.monitor.recorder import Recording
from monconn.monitor.watchers import Watch, Watchers
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.ends import (
    HOLD_CONNECTING,
    HOLD_FULL,
    HOLD_PAUSE,
    HOLD_RATE,
    HOLD_STAGE,
    End,
)
from monconn.relay.stages import Stage, StageChain
from monconn.relay.verdict import TABLE, Action, Event, RelayState

_RECORD_STATE: dict[RelayState, State] = {
    "connecting": "connecting",
    "connecting_client_ended": "connecting",
    "connecting_client_gone": "connecting",
    "connecting_client_dropped": "connecting",
    "connecting_client_broken": "closing",
    "open": "open",
    "client_ended": "half_closed",
    "backend_ended": "half_closed",
    "draining": "half_closed",
    "closing": "closing",
}
_EOF_EVENT: dict[Side, Event] = {"client": "client_eof", "backend": "backend_eof"}
_GONE_EVENT: dict[Side, Event] = {"client": "client_gone", "backend": "backend_gone"}
_BROKEN_EVENT: dict[Side, Event] = {"client": "client_broken", "backend": "backend_broken"}
_DROPPED_EVENT: dict[Side, Event] = {"client": "client_dropped", "backend": "backend_gone"}
_LOST_REASON: dict[Side, Reason] = {side: reason for reason, side in LOST_REASONS.items()}


@implementer(IConnection, IWatchable, IRecordable, IAddressed, IDecoded, IPausable)
class Relay:
    """Moves bytes between two Ends until the verdict table says how it ends.

    :param monitor: the service's monitor, which gets the connection's beginning and end.
    :param record: what :meth:`Monitor.admit` made for the client.
    :param client: the client's End.
    :param backend: the backend's End, which has not been dialled.
    :param deadlines: checks the time limits.
    """

    __slots__ = (
        "_deadlines",
        "_gone",
        "_lost_detail",
        "_monitor",
        "_progress",
        "_silent_before_pause",
        "_state",
        "_watchers",
        "backend",
        "bucket",
        "client",
        "decoding",
        "record",
    )

    def __init__(
        self,
        monitor: Monitor,
        record: ConnectionRecord,
        client: End,
        backend: End,
        deadlines: Deadlines,
    ) -> None:
        self.record = record
        self.client = client
        self.backend = backend
        self.bucket: int | None = None
        self._monitor = monitor
        self._deadlines = deadlines
        self._state: RelayState = "connecting"
        self._gone: tuple[Side, ...] = ()
        self._lost_detail = ""  # of a side that has vanished after its end
        # Made on demand: most connections end before the first check, and unwatched.
        self._progress: tuple[SendProgress, SendProgress] | None = None
        self._watchers: Watchers | None = None
        # In a pause: for how many seconds each side had been read from in vain when it began.
        self._silent_before_pause: tuple[float, float] | None = None
        client.reports = backend.reports = self
        client.peer, backend.peer = backend, client
        self.decoding = monitor.decoders.first
        if self.decoding is not None:
            client.is_watched = backend.is_watched = True
        if monitor.bandwidth is not None:
            self._set_throttles()

    # -- bytes

    def data(self, end: End, data: bytes, now: float) -> None:
        """Implements ``EndListener.data``."""
        record, direction = self.record, DIRECTION_OF[end.side]
        record.count(direction, len(data), now)
        if end.throttle is not None:
            end.throttle.charge(len(data), now)
        # Recorded first: whoever is called below may ask for the recording. Decoded before it is
        # shown: who begins to watch because of a fact is shown the chunk that has told it.
        if end.track is not None:
            end.track.add(data, now)
        was_ending = record.reason is not None
        if self.decoding is not None:
            self._monitor.decoders.chunk(self, direction, data)
            if self.decoding is None and not self._watchers:
                self.client.is_watched = self.client.throttle is not None
                self.backend.is_watched = self.backend.throttle is not None
        if self._monitor.observers.watched:
            self._monitor.saw(record, direction, data)
        if self._watchers is not None:
            self._watchers.show(direction, data)
        if record.reason is not None and (not was_ending or record.state == "closed"):
            return  # an observer has ended the connection because of this very chunk
        end.peer.sink.send(data)

    def add_watcher(self, call: Watch) -> Callable[[], None]:
        """Implements ``IWatchable.add_watcher``.

        While it is there, this connection's bytes are copied through Python; other connections
        are not affected.
        """
        if len(self._gone) == 2:
            return lambda: None
        if self._watchers is None:
            self._watchers = Watchers(self._set_watched)
        return self._watchers.add(call)

    def _set_watched(self, is_watched: bool) -> None:
        is_watched = is_watched or self.decoding is not None
        for end in (self.client, self.backend):
            end.is_watched = is_watched or end.throttle is not None

    def record_payload(self, recording: Recording) -> None:
        """Implements ``IRecordable.record_payload``; what is spliced goes on being spliced."""
        self.client.track, self.backend.track = recording.up, recording.down

    def add_stage(self, direction: Direction, stage: Stage) -> Callable[[], None]:
        """Put a stage between a sender and the other side, behind those that are there.

        Bytes that were sent before do not pass it.

        :param direction: ``up`` for the client's bytes, ``down`` for the backend's.
        :returns: removes it: it forwards what it holds. Harmless the second time.
        """
        sender, receiver = self._ends(direction)
        if receiver.phase == "closed":
            stage.close()
            return lambda: None
        chain = receiver.stages
        if chain is None:
            chain = StageChain(receiver, lambda must_hold: self._hold_stage(sender, must_hold))
            receiver.set_stages(chain)
        chain.add(stage)
        return lambda: self._remove_stage(receiver, chain, stage)

    def _hold_stage(self, sender: End, must_hold: bool) -> None:
        if must_hold:
            self._hold(sender, HOLD_STAGE)
        else:
            self._release(sender, HOLD_STAGE)

    def _remove_stage(self, receiver: End, chain: StageChain, stage: Stage) -> None:
        chain.remove(stage)
        if not len(chain) and receiver.stages is chain:
            receiver.set_stages(None)

    def hold(self, direction: Direction, hold: int) -> None:
        """Stop reading one direction's bytes, for one more reason.

        :param direction: ``up`` for the client's bytes, ``down`` for the backend's.
        :param hold: a flag that belongs to the caller (see :mod:`monconn.relay.ends`).
        """
        self._hold(self._ends(direction)[0], hold)

    def release(self, direction: Direction, hold: int) -> None:
        """Take back what :meth:`hold` did; reading resumes if no other hold is left."""
        self._release(self._ends(direction)[0], hold)

    # -- bandwidth

    def _set_throttles(self) -> None:
        """Limit what the service's bandwidths limit now."""
        bandwidth = self._monitor.bandwidth
        assert bandwidth is not None
        self._set_throttle(self.client, "up", bandwidth.up)
        self._set_throttle(self.backend, "down", bandwidth.down)
        self._set_watched(bool(self._watchers))

    def _set_throttle(self, end: End, direction: Direction, limits: DirectionLimits) -> None:
        throttle = end.throttle
        if limits:
            if throttle is None:
                end.set_throttle(Throttle(self, direction, limits))
            else:
                throttle.configured(self._monitor.clock.seconds())
        elif throttle is not None:
            was_held = throttle.is_held
            throttle.close()
            end.set_throttle(None)
            if was_held:
                self.resume_after_bandwidth(direction)

    def hold_for_bandwidth(self, direction: Direction) -> None:
        """Implements ``Throttled.hold_for_bandwidth``."""
        record = self.record
        if record.limited_since is None:
            record.limited_since = self._monitor.clock.seconds()
        self.hold(direction, HOLD_RATE)

    def resume_after_bandwidth(self, direction: Direction) -> bool:
        """Implements ``Throttled.resume_after_bandwidth``."""
        sender, receiver = self._ends(direction)
        record = self.record
        if record.limited_since is not None and not receiver.holds & HOLD_RATE:
            record.limited_until = self._monitor.clock.seconds()
            record.limited_seconds += record.limited_until - record.limited_since
            record.limited_since = None
        self._release(sender, HOLD_RATE)
        return not sender.reads_at_once

    def throttle_failed(self) -> None:
        """Implements ``Throttled.throttle_failed``."""
        self.end("error", reset=True)

    def _ends(self, direction: Direction) -> tuple[End, End]:
        """The sender and the receiver."""
        if direction == "up":
            return self.client, self.backend
        return self.backend, self.client

    def _hold(self, end: End, hold: int) -> None:
        if end.side == "client":
            self.record.reading_since = None
        else:
            self.record.backend_reading_since = None
        end.hold(hold)

    def _release(self, end: End, hold: int) -> None:
        if len(self._gone) == 2:
            return
        if not end.holds & ~hold:
            if end.side == "client":
                self.record.reading_since = self._monitor.clock.seconds()
                self._reschedule_check()
            else:
                self.record.backend_reading_since = self._monitor.clock.seconds()
        end.release(hold)

    def filled(self, end: End) -> None:
        """Implements ``EndListener.filled``."""
        self._hold(end.peer, HOLD_FULL)

    def drained(self, end: End) -> None:
        """Implements ``EndListener.drained``."""
        if end.peer.holds & HOLD_FULL:
            self._release(end.peer, HOLD_FULL)

    def pause(self) -> None:
        """Implements ``IPausable.pause``; a connection that is ending goes on."""
        record = self.record
        is_paused = self._silent_before_pause is not None
        if is_paused or record.ending is not None or len(self._gone) == 2:
            return
        now = self._monitor.clock.seconds()
        self._silent_before_pause = (
            _silence(self.client, record.reading_since, record.last_up, now),
            _silence(self.backend, record.backend_reading_since, record.last_down, now),
        )
        self._hold(self.client, HOLD_PAUSE)
        self._hold(self.backend, HOLD_PAUSE)

    def unpause(self) -> None:
        """Implements ``IPausable.unpause``; what was left of time limits is left."""
        record, silent = self.record, self._silent_before_pause
        self._silent_before_pause = None
        if silent is None or len(self._gone) == 2:
            return
        now = self._monitor.clock.seconds()
        client_seconds, backend_seconds = silent
        if not self.client.holds & ~HOLD_PAUSE:
            record.reading_since = now - client_seconds
        if record.connected is not None and not self.backend.holds & ~HOLD_PAUSE:
            record.backend_reading_since = now - backend_seconds
        if record.ending is None:
            when = self._monitor.timeouts.next_check(record, now, self._monitor.pauses)
            self._deadlines.schedule(self, max(now, when))
        self.client.release(HOLD_PAUSE)
        self.backend.release(HOLD_PAUSE)

    # -- events

    def connected(self, end: End) -> None:
        """Implements ``EndListener.connected``."""
        if self._monitor.observers.wants_addresses:
            self._ask_addresses(end)
        if end.side == "client":
            self._begin()
        else:
            self.record.connected = self._monitor.clock.seconds()
            self._monitor.attempts.failed = 0
            if not end.holds:
                self.record.backend_reading_since = self.record.connected
            self._handle("connected")
            self._release(self.client, HOLD_CONNECTING)
            # It may have ended by now, by what was held for the backend.
            if self._monitor.observers.by_hook["backend_connected"] and len(self._gone) < 2:
                self._monitor.backend_connected(self.record)

    def _begin(self) -> None:
        self.record.reading_since = self.record.opened
        first_check = self.record.opened + self._monitor.policy.first_check_seconds
        self._deadlines.schedule(self, first_check)
        self._monitor.opened(self)
        if self._monitor.is_paused:
            self.pause()
        if self.record.reason is None:  # else an observer has ended it already
            self.backend.dial()

    def connect_failed(self, end: End, reason: Reason, detail: str) -> None:
        """Implements ``EndListener.connect_failed``."""
        self._set_reason(reason, detail)
        try:
            self._handle("connect_failed")
        finally:  # the End is closed, and reports nothing again
            self._leave(end.side)

    def eof(self, end: End) -> None:
        """Implements ``EndListener.eof``."""
        record, side = self.record, end.side
        if record.reason is not None:
            # It only follows ours; or it is how a loop of services, which has given the reason to
            # all of its connections, is undone from where it was found.
            self._handle("cut")
            return
        record.note_end(side, "fin")
        now = self._monitor.clock.seconds()
        if record.half_closed is None:
            record.half_closed = now
        if side == "backend":
            record.backend_ended = now
        self._handle(_EOF_EVENT[side])
        if side == "backend" and len(self._gone) < 2:
            latest = self._monitor.timeouts.latest_check(now)
            if latest is not None:
                self._deadlines.schedule_by(self, latest)
        if self._monitor.observers.by_hook["half_closed"]:
            self._notify_half_closed(end)

    def _notify_half_closed(self, end: End) -> None:
        record = self.record
        # A connection that has a reason is being closed, or has been by passing on the end.
        if record.reason is None and record.end_of(end.peer.side) == "none":
            self._monitor.half_closed(record, end.side)

    def gone(self, end: End) -> None:
        """Implements ``EndListener.gone``."""
        side = end.side
        try:
            if self._state in _HEEDS_GONE:  # few do, and it happens twice to each connection
                self._handle(_GONE_EVENT[side])
        finally:
            self._leave(side)

    def broken(self, end: End, how: SideEnd, detail: str) -> None:
        """Implements ``EndListener.broken``."""
        try:
            self._side_broke(end.side, how, detail)
        finally:
            self._leave(end.side)

    def _side_broke(self, side: Side, how: SideEnd, detail: str) -> None:
        record = self.record
        if how == "reset":
            record.note_answer(side)
        if record.reason is None and record.end_of(side) == "fin":
            # That has decided the reason, and a reset tells nothing new.
            if how == "timeout":
                self._note_lost(side, detail)
            self._handle(_DROPPED_EVENT[side])
            return
        lost = side
        if record.reason is None and how != "timeout":
            # What has reset, or failed, may have done so because the other has vanished.
            lost = self._find_unreachable() or side
        record.note_end(side, how)
        if lost == side:
            self._set_reason(BROKEN_REASONS[side, how], detail)
        else:
            record.note_end(lost, "timeout")
            self._set_reason(_LOST_REASON[lost], detail)
        has_early_bytes = side == "client" and record.connected is None and record.up
        self._handle("client_broken_early" if has_early_bytes else _BROKEN_EVENT[side])

    def _note_lost(self, side: Side, detail: str) -> None:
        """A side has vanished that had ended in order.

        What it sent is still to be delivered; then that is the reason.
        """
        self.record.note_end(side, "timeout")
        self._lost_detail = detail

    def end(self, reason: Reason, reset: bool = False) -> None:
        """Implements ``IConnection.end``."""
        self._set_reason(reason)
        self._handle("cut_hard" if reset else "cut")

    def measure(self) -> None:
        """Implements ``IConnection.measure``."""
        now = self._monitor.clock.seconds()
        keepalive = self._monitor.policy.keepalive
        for end in (self.client, self.backend):
            probing = keepalive.of(end.side)
            interval = None if probing is None else probing.interval
            self.record.note_tcp(end.side, end.tcp_info(), now, interval)

    def ask_addresses(self) -> None:
        """Implements ``IAddressed.ask_addresses``."""
        self._ask_addresses(self.client)
        self._ask_addresses(self.backend)

    def _ask_addresses(self, end: End) -> None:
        # Not done for each connection, as it costs up to two system calls for each side.
        record = self.record
        if end.side == "client":
            if record.client_local is None:
                record.client_local = end.addresses()[0]
        elif record.backend_peer is None:
            record.backend_local, record.backend_peer = end.addresses()

    def _set_reason(self, reason: Reason, detail: str = "") -> None:
        self.record.end(reason, self._monitor.clock.seconds(), detail)

    def _handle(self, event: Event) -> None:
        before = self._state
        outcome = _OUTCOMES[before].get(event)
        if outcome is None or len(self._gone) == 2:
            return
        self._state, self.record.state, methods = outcome
        # First: should an End raise, the relay still has its deadline, and is cut by it.
        if self._state != before and (
            self.record.ending is not None or self._monitor.timeouts.follow_changes
        ):
            self._reschedule_check()
        for method in methods:
            method(self)()

    def _leave(self, side: Side) -> None:
        if side not in self._gone:
            self._gone += (side,)
        if len(self._gone) < 2:
            return
        record = self.record
        if record.reason is None:
            if record.client_end == "timeout":
                self._set_reason("client_lost", self._lost_detail)
            elif record.backend_end == "timeout":
                self._set_reason("backend_lost", self._lost_detail)
            else:
                self._set_reason(CLOSED_REASONS[record.first_end or side])
        self._deadlines.cancel(self)
        for end in (self.client, self.backend):
            if end.throttle is not None:
                end.throttle.close()
                end.set_throttle(None)
            del end.reports, end.peer  # no cycle is left to be collected
        self._watchers = None
        self._monitor.closed(self)

    # -- time limits

    def policy_changed(self) -> None:
        """Apply the monitor's keepalive, time limits and bandwidths as they are now.

        Whatever was scheduled before: a limit may have been switched on, or shortened.
        """
        if self.record.ending is None and len(self._gone) < 2:
            self._set_keepalive()
            now = self._monitor.clock.seconds()
            when = self._monitor.timeouts.next_check(self.record, now, self._monitor.pauses)
            self._deadlines.schedule(self, max(now, when))
            if self._monitor.bandwidth is not None:
                self._set_throttles()

    def check(self, now: float) -> float | None:
        """Act on the time limits; see :class:`~monconn.monitor.deadlines.Checked`."""
        if self.record.ending is not None:
            return self._check_ending(self.record.ending, now)
        self._set_keepalive()
        self._check_progress(now)
        self.measure()  # also to note since when a side does not answer
        if not self._has_lost(now):
            when, reason = self._monitor.timeouts.next_deadline(self.record, self._monitor.pauses)
            if reason is not None and when <= now:
                self._time_out(reason)
        if self.record.ending is not None or len(self._gone) == 2:
            return None  # the change of state has scheduled the next check
        return self._monitor.timeouts.next_check(self.record, now, self._monitor.pauses)

    def _set_keepalive(self) -> None:
        keepalive = self._monitor.policy.keepalive
        self.client.set_keepalive(keepalive.client)
        self.backend.set_keepalive(keepalive.backend)

    def _check_ending(self, ending: float, now: float) -> float | None:
        if now < ending + GRACE_SECONDS:
            return ending + GRACE_SECONDS
        self._handle("cut_hard")
        for end in (self.client, self.backend):
            if end.phase == "closed" and len(self._gone) < 2:
                self._leave(end.side)  # it could not report it: something has raised as it closed
        return None

    def _check_progress(self, now: float) -> None:
        if self._progress is None:
            self._progress = SendProgress(), SendProgress()
        for end, progress in zip((self.client, self.backend), self._progress, strict=True):
            moved_after = progress.check(end.pending_bytes(), end.delivered_bytes(), now)
            self.record.last_delivered = moved_after or self.record.last_delivered
        self.record.client_stalled, self.record.backend_stalled = (
            progress.stalled_since for progress in self._progress
        )

    def _has_lost(self, now: float) -> bool:
        """End the connection if a side has been unreachable for as long as it may."""
        timeouts, record = self._monitor.timeouts, self.record
        for side in (self.client.side, self.backend.side):
            if side in self._gone:
                continue  # what is known of it will not change
            limit = timeouts.unreachable_limit(side, record)
            if limit and record.is_unreachable(side, limit, now):
                is_given = timeouts.unreachable_timeout.of(side)
                self._lose(side, "unreachable_timeout" if is_given else "half_close_timeout")
                return True
        return False

    def _find_unreachable(self) -> Side | None:
        """Which side does not answer, by what the kernel knows; the one that was first to."""
        for end in (self.client, self.backend):
            if self.record.end_of(end.side) == "timeout":  # noted before; the other side lives on
                return end.side
        self.measure()
        silent: list[tuple[float, Side]] = [
            (since, end.side)
            for end in (self.client, self.backend)
            if (since := self.record.unreachable_since(end.side)) is not None
            and end.side not in self._gone
        ]
        return min(silent)[1] if silent else None

    def _lose(self, side: Side, limit: str) -> None:
        """End the connection because a side has vanished.

        :param limit: which time limit brought it to light.
        """
        if self.record.end_of(side) == "fin":
            self._note_lost(side, limit)
            self._handle(_DROPPED_EVENT[side])
        else:
            self.record.note_end(side, "timeout")
            self._set_reason(_LOST_REASON[side], self._lost_detail or limit)
            self._handle(_BROKEN_EVENT[side])
        (self.client if side == "client" else self.backend).abort()

    def _time_out(self, reason: Reason) -> None:
        # What has been silent may have vanished: then that is the reason, and not the silence.
        if reason != "connect_timeout" and (lost := self._find_unreachable()) is not None:
            self._lose(lost, reason)
            return
        if reason == "connect_timeout":
            self.record.note_end("backend", "timeout")
        elif reason == "read_timeout":
            self.record.note_end("client", "timeout")
        elif reason == "write_timeout":
            self.record.note_end(self._stalled_side(), "timeout")
        self.end(reason, reset=reason == "write_timeout")

    def _stalled_side(self) -> Side:
        client, backend = self.record.client_stalled, self.record.backend_stalled
        if client is None or (backend is not None and backend < client):
            return "backend"
        return "client"

    def _reschedule_check(self) -> None:
        """Schedule the next check anew if what has happened may have brought a limit nearer."""
        timeouts = self._monitor.timeouts
        if self.record.ending is not None:
            self._deadlines.schedule(self, self.record.ending + GRACE_SECONDS)
        elif timeouts.follow_changes:
            now = self._monitor.clock.seconds()
            when = timeouts.next_check(self.record, now, self._monitor.pauses)
            first = self.record.opened + self._monitor.policy.first_check_seconds
            # The first check is not only for limits: it sets keepalive.
            self._deadlines.schedule(self, min(when, first) if now < first else when)


def _silence(end: End, since: float | None, last: float | None, now: float) -> float:
    """For how many seconds a side has been read from, and has sent nothing."""
    return 0.0 if end.holds or since is None else now - max(since, last or 0.0)


_Method = Callable[[Relay], Callable[[], None]]
_METHOD: dict[Action, _Method] = {
    "end_client": attrgetter("client.end_writing"),
    "end_backend": attrgetter("backend.end_writing"),
    "close_client": attrgetter("client.close"),
    "close_backend": attrgetter("backend.close"),
    "reset_client": attrgetter("client.reset"),
    "reset_backend": attrgetter("backend.reset"),
    "abort_client": attrgetter("client.abort"),
    "abort_backend": attrgetter("backend.abort"),
}
_HEEDS_GONE = frozenset(
    state for state, outcomes in TABLE.items() if outcomes.keys() & {*_GONE_EVENT.values()}
)
# The verdict table with all that follows from an outcome looked up: it is needed five times for
# each connection.
_OUTCOMES: dict[RelayState, dict[Event, tuple[RelayState, State, tuple[_Method, ...]]]] = {
    before: {
        event: (state, _RECORD_STATE[state], tuple(_METHOD[action] for action in actions))
        for event, (state, actions) in outcomes.items()
    }
    for before, outcomes in TABLE.items()
}
