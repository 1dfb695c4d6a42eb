"""Two Ends and a verdict: one client's way to its backend and back."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from zope.interface import implementer

from monconn.model.reasons import BROKEN_REASONS, CLOSED_REASONS, Reason, Side, SideEnd, State
from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.progress import SendProgress
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.ends import End
from monconn.relay.verdict import TABLE, Action, Event, RelayState

_SHOWN_STATE: dict[RelayState, State] = {
    "connecting": "connecting",
    "connecting_client_ended": "connecting",
    "connecting_client_gone": "connecting",
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


@implementer(IConnection)
class Relay:
    """Moves bytes between two Ends until the verdict table says how it ends.

    :param monitor: the service's monitor; told when all is over.
    :param record: what :meth:`Monitor.admit` made for the client.
    :param deadlines: looks after the time limits.
    """

    __slots__ = (
        "_deadlines",
        "_first_ended",
        "_gone",
        "_monitor",
        "_progress",
        "_state",
        "backend",
        "bucket",
        "client",
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
        self._first_ended: Side | None = None
        self._gone: tuple[Side, ...] = ()
        self._progress: tuple[SendProgress, SendProgress] | None = (
            None  # most end before they are looked at
        )
        client.reports = backend.reports = self
        client.peer, backend.peer = backend, client

    def _other(self, end: End) -> End:
        return self.backend if end.side == "client" else self.client

    # -- bytes

    def data(self, end: End, data: bytes) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        record, now = self.record, self._monitor.clock.seconds()
        if end.side == "client":
            if record.first_up is None:
                record.first_up = now
            record.up += len(data)
            record.last_up = now
        else:
            if record.first_down is None:
                record.first_down, record.asked = now, record.last_up
            record.down += len(data)
            record.last_down = now
        if self._monitor.watched:
            was_ending = record.reason is not None
            self._monitor.saw(record, "up" if end.side == "client" else "down", data)
            if record.reason is not None and not was_ending:
                return  # an observer has ended the connection because of this very chunk
        self._other(end).send_queue.send(data)

    def filled(self, end: End) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        if end.side == "backend":
            self.record.reading_since = None
        self._other(end).pause()

    def drained(self, end: End) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        if end.side == "backend":
            self.record.reading_since = self._monitor.clock.seconds()
            self._reschedule_check()
        self._other(end).resume()

    # -- events

    def connected(self, end: End) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        if end.side == "client":
            self._begin()
        else:
            self.record.connected = self._monitor.clock.seconds()
            self._handle("connected")

    def _begin(self) -> None:
        self.record.reading_since = self.record.opened
        first_look = self.record.opened + self._monitor.timeouts.first_check_seconds
        self._deadlines.schedule(self, first_look)
        self._monitor.opened(self)
        if self.record.reason is None:  # else an observer has ended it already
            self.backend.dial()

    def connect_failed(self, end: End, reason: Reason, detail: str) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        self._set_reason(reason, detail)
        self._handle("connect_failed")
        self._leave(end.side)

    def eof(self, end: End) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        self.record.note_end(end.side, "fin")
        if self._first_ended is None:
            self._first_ended = end.side
            self.record.half_closed = self._monitor.clock.seconds()
        self._handle(_EOF_EVENT[end.side])

    def gone(self, end: End) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        self._handle(_GONE_EVENT[end.side])
        self._leave(end.side)

    def broken(self, end: End, how: SideEnd, detail: str) -> None:
        """See :class:`~monconn.relay.ends.EndListener`."""
        self.record.note_end(end.side, how)
        self._set_reason(BROKEN_REASONS[end.side, how], detail)
        has_early_bytes = end.side == "client" and self.record.connected is None and self.record.up
        self._handle("client_broken_early" if has_early_bytes else _BROKEN_EVENT[end.side])
        self._leave(end.side)

    def end(self, reason: Reason, reset: bool = False) -> None:
        """See :class:`IConnection`."""
        self._set_reason(reason)
        self._handle("cut_hard" if reset else "cut")

    def measure(self) -> None:
        """See :class:`IConnection`."""
        for end in (self.client, self.backend):
            self.record.note_tcp(end.side, end.tcp_info())

    def policy_changed(self) -> None:
        """Reschedule the next check for the monitor's new time limits."""
        if self.record.ending is None and len(self._gone) < 2:  # else the grace period runs
            now = self._monitor.clock.seconds()
            next_check = self._monitor.timeouts.next_check(self.record, now)
            self._deadlines.schedule(self, next_check)

    def _set_reason(self, reason: Reason, detail: str = "") -> None:
        self.record.end(reason, self._monitor.clock.seconds(), detail)

    def _handle(self, event: Event) -> None:
        outcome = TABLE[self._state].get(event)
        if outcome is None or len(self._gone) == 2:
            return
        before = self._state
        self._state, actions = outcome
        self.record.state = _SHOWN_STATE[self._state]
        for action in actions:
            _DO[action](self)()
        has_limits = self._monitor.timeouts.follow_changes or self.record.ending is not None
        if has_limits and self._state != before and len(self._gone) < 2:
            self._reschedule_check()

    def _leave(self, side: Side) -> None:
        if side not in self._gone:
            self._gone += (side,)
        if len(self._gone) < 2:
            return
        if self.record.reason is None:
            self._set_reason(CLOSED_REASONS[self._first_ended or side])
        self._deadlines.cancel(self)
        for end in (self.client, self.backend):
            end.reports = end.peer = None  # no cycle is left to be collected
        self._monitor.closed(self)

    # -- time limits

    def check(self, now: float) -> float | None:
        """See :class:`~monconn.policy.timeouts.Checked`."""
        if self.record.ending is not None:
            return self._check_ending(self.record.ending, now)
        self.client.enable_keepalive()
        self.backend.enable_keepalive()
        self._check_progress(now)
        when, reason = self._monitor.timeouts.next_deadline(self.record)
        if reason is not None and when <= now:
            self._time_out(reason)
            return None  # the change of state has set the next look
        return self._monitor.timeouts.next_check(self.record, now)

    def _check_ending(self, ending: float, now: float) -> float | None:
        if now < ending + GRACE_SECONDS:
            return ending + GRACE_SECONDS
        self._handle("cut_hard")
        return None

    def _check_progress(self, now: float) -> None:
        if self._progress is None:
            self._progress = SendProgress(), SendProgress()
        for end, backlog in zip((self.client, self.backend), self._progress, strict=True):
            moved_after = backlog.check(end.pending_bytes(), end.delivered_bytes(), now)
            self.record.last_delivered = moved_after or self.record.last_delivered
        self.record.client_stalled, self.record.backend_stalled = (
            backlog.stalled_since for backlog in self._progress
        )

    def _time_out(self, reason: Reason) -> None:
        if reason == "connect_timeout":
            self.record.note_end("backend", "timeout")
        elif reason == "read_timeout":
            self.record.note_end("client", "timeout")
        elif reason == "write_timeout":
            self.record.note_end(self._stuck_side(), "timeout")
        self.end(reason, reset=reason == "write_timeout")

    def _stuck_side(self) -> Side:
        client, backend = self.record.client_stalled, self.record.backend_stalled
        if client is None or (backend is not None and backend < client):
            return "backend"
        return "client"

    def _reschedule_check(self) -> None:
        """Set the next look to an earlier time if what has happened asks for it."""
        timeouts = self._monitor.timeouts
        if self.record.ending is not None:
            self._deadlines.schedule(self, self.record.ending + GRACE_SECONDS)
        elif timeouts.follow_changes:
            now = self._monitor.clock.seconds()
            self._deadlines.schedule(self, timeouts.next_check(self.record, now))


_DO: dict[Action, Callable[[Relay], Callable[[], None]]] = {
    "end_client": attrgetter("client.end_writing"),
    "end_backend": attrgetter("backend.end_writing"),
    "close_client": attrgetter("client.close"),
    "close_backend": attrgetter("backend.close"),
    "reset_client": attrgetter("client.reset"),
    "reset_backend": attrgetter("backend.reset"),
    "abort_client": attrgetter("client.abort"),
    "abort_backend": attrgetter("backend.abort"),
}
