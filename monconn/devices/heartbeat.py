"""One device: its totals, its usual intervals, and when its next message is overdue."""

from __future__ import annotations

from array import array
from typing import Any

from monconn.config.sections import DevicesConfig
from monconn.model.alarms import AlarmKind
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord, iso_time

INFINITE = float("inf")
NEVER = -INFINITE
GAPS_RETAINED = 9
"""The last intervals between messages, or between reconnects; the typical one is their median."""
GAPS_NEEDED = 3
"""The fewest intervals that give a typical one; without it a device has no deadline."""
LEAST_SILENT_SECONDS = 5.0
"""The shortest silence that raises an alarm: new messages are polled for once a second."""
ONE_MESSAGE_SECONDS = 0.5
"""Bytes that come sooner after the last ones belong to the same message. Otherwise a device that
opens several short connections in a row would be expected every few milliseconds."""
ONE_ARRIVAL_SECONDS = 1.0
"""A connection that follows another one sooner is no reconnect: programs often open several."""

ORDERLY: frozenset[Reason | None] = frozenset(
    ("client_closed", "backend_closed", "operator", "blocked", "stopping", "lifetime")
)
"""Reasons after which only a device that usually reconnects is expected back."""
FORCED: frozenset[Reason | None] = frozenset(("operator", "blocked", "stopping"))
"""Reasons after which no device is expected back: we disconnected it."""


def with_gap(gaps: array[float] | None, seconds: float) -> array[float]:
    """Append an interval; only the last :data:`GAPS_RETAINED` remain."""
    if gaps is None:
        return array("f", (seconds,))
    if len(gaps) == GAPS_RETAINED:
        del gaps[0]
    gaps.append(seconds)
    return gaps


def typical_seconds(gaps: array[float] | None) -> float | None:
    """The median of the intervals (of two, the greater one); None while there are too few."""
    if gaps is None or len(gaps) < GAPS_NEEDED:
        return None
    return sorted(gaps)[len(gaps) // 2]


def limit_seconds(gaps: array[float], times: int) -> float:
    """The interval that is too long; infinite for a device without a regular one.

    A device that exceeded the limit more than once in its last intervals is not regular: an alarm
    for it would only repeat that.

    :param times: how many typical intervals are too long; 0 for never.
    """
    count = len(gaps)
    if count < GAPS_NEEDED or not times:
        return INFINITE
    ordered = sorted(gaps)
    limit = ordered[count // 2] * times
    if limit < LEAST_SILENT_SECONDS:
        limit = LEAST_SILENT_SECONDS
    return INFINITE if ordered[-2] > limit else limit


class Device:
    """One device of one service.

    Times are monotonic seconds, except ``first_seen_at`` and ``last_seen_at`` (wall clock).
    ``up`` and ``down`` are bytes of closed connections. There may be ten thousands of devices, so
    each attribute that few of them need is None until then.

    A monitor's totals per client cannot serve here: those are of one address each, and a device may
    be a network; which of them are dropped first differs, too.
    """

    __slots__ = (
        "bucket",
        "down",
        "first_seen_at",
        "is_away_too_long",
        "is_forgotten",
        "is_silent",
        "is_storm",
        "last_message",
        "last_reason",
        "last_seen_at",
        "left",
        "live",
        "message_gaps",
        "message_limit",
        "name",
        "opened",
        "openings",
        "quiet_since",
        "reconnect_gaps",
        "reconnect_limit",
        "total",
        "up",
    )

    def __init__(self, name: str, first_seen_at: float) -> None:
        self.name = name
        self.first_seen_at = self.last_seen_at = first_seen_at
        self.live: set[ConnectionRecord] | None = None
        """Its live connections; None if there are none."""
        self.total = self.up = self.down = 0
        self.last_reason: Reason | None = None
        self.opened = self.left = self.last_message = NEVER
        self.quiet_since = NEVER
        """The start of its silence: its last message, or its return if that was expected."""
        self.message_gaps: array[float] | None = None
        self.reconnect_gaps: array[float] | None = None
        self.message_limit = self.reconnect_limit = INFINITE
        self.openings: array[float] | None = None
        """When its last connections opened, as many as make a storm; None before the second."""
        self.bucket: int | None = None
        """The wheel's, which bucket it is in (:class:`monconn.monitor.deadlines.Scheduled`)."""
        self.is_silent = self.is_storm = self.is_forgotten = False
        self.is_away_too_long = False
        """Whether it is silent because it did not reconnect; else, its connection is silent."""

    def open(self, record: ConnectionRecord, config: DevicesConfig) -> bool:
        """Count a connection that has opened.

        :returns: whether a reconnect storm begins with it.
        """
        storms = False
        at = record.opened
        if self.total:
            gap = at - self.opened
            if gap >= ONE_ARRIVAL_SECONDS:
                gaps = self.reconnect_gaps = with_gap(self.reconnect_gaps, gap)
                self.reconnect_limit = limit_seconds(gaps, config.silent_heartbeats)
            if config.storm_connections:
                storms = self._storms(at, config)
        if self.live is not None:
            self.live.add(record)
        else:
            self.live = {record}
            if not self.total or self.last_reason in ORDERLY:
                self.quiet_since = at
        self.total += 1
        self.opened = at
        self.last_seen_at = record.opened_at
        return storms

    def _storms(self, at: float, config: DevicesConfig) -> bool:
        """Whether too many were opened within ``storm_within``, and no storm has begun yet."""
        openings = self.openings
        if openings is None:
            openings = self.openings = array("d", (self.opened,))
        openings.append(at)
        if len(openings) <= config.storm_connections:
            return False
        if len(openings) > config.storm_connections + 1:
            del openings[0]
        return not self.is_storm and at - openings[0] < config.storm_within

    def note_message(self, record: ConnectionRecord, silent_times: int) -> float | None:
        """Record a connection's last message, if it is a new one.

        :returns: for how many seconds the device had been silent; None without a new message.
        """
        at = record.last_up
        if at is None or at <= self.last_message:
            return None
        if self.last_message != NEVER and at - self.last_message >= ONE_MESSAGE_SECONDS:
            gaps = self.message_gaps = with_gap(self.message_gaps, at - self.last_message)
            self.message_limit = limit_seconds(gaps, silent_times)
        silence = at - self.quiet_since
        self.last_message = self.quiet_since = at
        self.last_seen_at = record.opened_at + (at - record.opened)
        return silence

    def close(self, record: ConnectionRecord, now: float) -> None:
        """Add the totals of one of its live connections, which has closed."""
        if self.live is not None:
            self.live.discard(record)
            if not self.live:
                self.live = None
        self.up += record.up
        self.down += record.down
        self.last_reason = record.reason
        self.left = now if record.closed is None else record.closed
        if record.closed_at is not None:
            self.last_seen_at = record.closed_at

    def signed_off(self) -> bool:
        """Whether it has no connection, and the last one ended in an orderly way or by us."""
        return self.live is None and self.last_reason in ORDERLY

    # -- deadlines

    def silent_due(self) -> float:
        """When the silent alarm is to be raised; infinite for never."""
        if self.is_silent:
            return INFINITE
        message_due = self.quiet_since + self.message_limit
        if self.live is not None:
            return message_due
        if self.last_reason in FORCED:
            return INFINITE
        if self.last_reason in ORDERLY:
            return self.return_due()
        return min(message_due, self.return_due())

    def return_due(self) -> float:
        """When it will have been disconnected for too long, if it usually reconnects."""
        return self.left + self.reconnect_limit

    def calm_due(self, config: DevicesConfig) -> float:
        """When the storm is over: fewer than half of what makes one opened within that time."""
        if not self.is_storm or self.openings is None:
            return INFINITE
        return self.openings[-((config.storm_connections + 1) // 2)] + config.storm_within

    def opened_since(self, moment: float) -> int:
        """How many connections opened after a time, as far as ``openings`` has them."""
        return sum(at > moment for at in self.openings or ())

    def last_heard_seconds(self, now: float) -> float | None:
        """Since when its kernel was not heard, on any of its live connections.

        As of when ours was last asked about them; None without one over TCP.

        :param now: monotonic seconds.
        """
        times = (record.client_heard for record in self.live or ())
        heard = max((each for each in times if each is not None), default=None)
        return None if heard is None else _rounded(max(0.0, now - heard))

    def snapshot(self, service: str, now: float) -> dict[str, Any]:
        """Its row as plain values for JSON.

        :param now: monotonic seconds.
        """
        live = self.live or ()
        alarms: list[AlarmKind] = []
        if self.is_silent:
            alarms.append("silent")
        if self.is_storm:
            alarms.append("reconnect_storm")
        return {
            "device": self.name,
            "service": service,
            "connections": len(live),
            "total": self.total,
            "first_seen": iso_time(self.first_seen_at),
            "last_seen": iso_time(self.last_seen_at),
            "reconnect_seconds": _rounded(typical_seconds(self.reconnect_gaps)),
            "heartbeat_seconds": _rounded(typical_seconds(self.message_gaps)),
            "silent_seconds": None
            if self.last_message == NEVER
            else _rounded(now - self.last_message),
            "last_heard_seconds": self.last_heard_seconds(now),
            "up": self.up + sum(record.up for record in live),
            "down": self.down + sum(record.down for record in live),
            "last_reason": self.last_reason,
            "alarms": alarms,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
