"""One device: its totals, its usual intervals, and when its next message is overdue."""

from __future__ import annotations

from array import array
from collections import deque
from itertools import islice, pairwise
from typing import Any

import attrs

from monconn.config.sections import DevicesConfig
from monconn.model.alarms import ALARM_KINDS, Alarm, AlarmKind
from monconn.model.devices import StoredAlarm, StoredDevice
from monconn.model.reasons import ORDERLY_REASONS, Reason, Refusal
from monconn.model.record import ConnectionRecord, iso_time

INFINITE = float("inf")
NEVER = -INFINITE
GAPS_RETAINED = 9
"""The last intervals between messages, or between reconnects; the typical one is their median."""
GAPS_NEEDED = 3
"""The fewest intervals that give a typical one."""
LEAST_SILENT_SECONDS = 5.0
"""The shortest silence that raises an alarm: new messages are polled for once a second."""
ONE_MESSAGE_SECONDS = 0.5
"""Bytes that come sooner after the last ones belong to the same message. Otherwise a device that
opens several short connections in a row would be expected every few milliseconds."""
ONE_ARRIVAL_SECONDS = 1.0
"""A connection that follows another one sooner is no reconnect: programs often open several."""
RETURN_SECONDS = 120.0
"""How long devices may take at least to come back after monconn was restarted: many wait longer
after each attempt that failed, and their attempts failed while it did not run."""
KEEPALIVE_TIMES = 1.5
"""How many times the keepalive that it has declared a connected device may say nothing: after that,
an MQTT server must close its connection (MQTT 3.1.1, 3.1.2.10)."""
ADDRESSES_RETAINED = 8
"""The addresses of a device that are remembered: those that it has used last."""
CLIENT_ID = "mqtt_client_id"
KEEPALIVE = "mqtt_keepalive_seconds"
_SHORT_SECONDS = 2.0
"""Intervals below are equal: polls once a second see 1.4 s, then 0.7 s, of messages every 0.7 s."""


@attrs.frozen
class Rhythm:
    """How regular intervals must be, and for how long, before their absence raises an alarm.

    Of random intervals, as those of a person, few series look regular by chance. If they come at
    random (exponentially distributed), nine are regular, but for the one exception, in 1 case of
    23 by :data:`MESSAGES`. Who sends many has many such chances, so more than nine must be.
    """

    shortest: float
    """Of an interval, as a share of the typical one."""
    longest: float
    needed: int
    """How many of the last intervals; only of :data:`GAPS_RETAINED` may one be an exception."""
    seconds: float
    """For how long they must have been regular before the rhythm is known."""
    intervals: int
    """And for how many times the typical interval."""

    def limit_seconds(self, gaps: array[float], times: int) -> float:
        """The interval that is too long; infinite for a device whose intervals are not regular.

        :param times: how many typical intervals are too long; 0 for never.
        """
        count = len(gaps)
        if count < self.needed or not times:
            return INFINITE
        ordered = sorted(gaps)
        typical = max(ordered[count // 2], _SHORT_SECONDS)
        shortest, longest = typical * self.shortest, typical * self.longest
        exceptions = sum(
            each < shortest or each > longest for each in ordered if each > _SHORT_SECONDS
        )
        if exceptions > (count == GAPS_RETAINED):
            return INFINITE
        return max(ordered[count // 2] * times, LEAST_SILENT_SECONDS)

    def regular_seconds(self, gaps: array[float]) -> float:
        """How long it is since the end of the last interval that was longer than a regular one.

        People and browsers are regular, too, between the pauses in which something is read.
        """
        longest = self.longest * max(sorted(gaps)[len(gaps) // 2], _SHORT_SECONDS)
        seconds = 0.0
        for gap in reversed(gaps):
            if gap > longest:
                break
            seconds += gap
        return seconds

    def is_known(self, gaps: array[float], regular_seconds: float | None) -> bool:
        """Whether the intervals have been regular for long enough.

        :param regular_seconds: for how long they have been; None if they are not.
        """
        if regular_seconds is None or regular_seconds < self.seconds:
            return False
        return regular_seconds >= self.intervals * sorted(gaps)[len(gaps) // 2]


MESSAGES = Rhythm(shortest=0.45, longest=2.2, needed=GAPS_RETAINED, seconds=300.0, intervals=20)
"""Of messages, by devices that stay connected, or whose connection was cut.

Who types sends every second or so, for a minute or two without a pause: hence the time. Random
intervals of any length look regular for a while: hence their number. Of sessions of 120 messages
at random intervals of 2 to 200 s on average, 1 % raise an alarm at most; if half a minute and five
intervals were enough, 15 to 50 % would. A device that pings 60 s after its last packet, and
reports each 90 s, sends after 60 and 30 s by turns: hence shares of about a half and two.
"""
RECONNECTS = Rhythm(shortest=0.8, longest=1.25, needed=8, seconds=900.0, intervals=0)
"""Of connections, by devices that close each in good order. Clients that come and go at will do
that, too, so more is asked for: ten minutes of curl in a loop are no rhythm yet. Eight that are so
regular are no chance, however long each is."""

ORDERLY = ORDERLY_REASONS
"""Reasons after which only a device that usually reconnects is expected back."""
FORCED: frozenset[Reason | None] = frozenset(("operator", "blocked", "stopping"))
"""Reasons after which no device is expected back: we disconnected it."""
GOOD_ENDS: frozenset[Reason | None] = ORDERLY | {"idle_timeout", "read_timeout", None}
"""Ends after which a connection is no part of a storm: in good order, or by a limit on silence, to
which pools of connections leave those that they do not need."""
NO_ATTEMPTS: frozenset[Refusal | None] = frozenset(
    ("blocked", "not_allowed", "draining", "stopping")
)
"""Refusals that are meant: clients that go on trying are no storm."""


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


TOGETHER_SECONDS = 10.0
"""How long two connections with one client id must have been there together: a server that gets the
second CONNECT closes the first one at once (MQTT 3.1.1, 3.1.4-2), or as soon as it can."""
TAKE_OVER_SECONDS = 10.0
"""How long after another connection's opening its CONNECT may come, and have the server close the
one that is there."""
TAKE_OVERS = 3
"""How many connections of clients that were there must have been taken over in
:data:`DUPLICATE_SECONDS`. One is what a device does that changes from one network to another; of
two that fight for one client id, each comes back after some seconds, or a minute."""
DUPLICATE_SECONDS = 300.0
"""After so long without a sign of a second device, there is none any more."""
_MOST_COMPARED = 100


class Rivals:
    """The signs that two devices have one client id.

    In MQTT, a server that gets a CONNECT with the client id of a connection closes that one. So two
    live ones are there for a moment only, unless the server is lax: as a rule each device throws
    the other out, comes back, and is thrown out itself. A device that reconnects because its
    network was away leaves a connection behind that is taken over as well, but behind which nobody
    answers the server's end any more: that is no sign.
    """

    __slots__ = ("arrivals", "ousted", "seen_at")

    def __init__(self) -> None:
        self.arrivals: deque[tuple[float, str]] = deque(maxlen=4)
        """When connections came while another one was there, and from where."""
        self.ousted: deque[float] = deque(maxlen=TAKE_OVERS)
        """When connections were taken over whose clients were there."""
        self.seen_at = NEVER
        """When there were two devices last."""

    def note_closed(self, record: ConnectionRecord) -> str | None:
        """Count a connection that has closed.

        :returns: who took it over, if that makes it clear that there are two.
        """
        if record.reason != "backend_closed" or record.client_end != "fin":
            return None
        ended = record.backend_ended or record.ending or 0.0
        by = [client for at, client in self.arrivals if _is_taken_over(record, at, ended)]
        if not by:
            return None
        self.ousted.append(ended)
        if len(self.ousted) < TAKE_OVERS or ended - self.ousted[0] > DUPLICATE_SECONDS:
            return None
        self.seen_at = ended
        return by[-1]


def _is_taken_over(record: ConnectionRecord, arrived: float, ended: float) -> bool:
    return record.opened < arrived <= ended <= arrived + TAKE_OVER_SECONDS


def two_at_once(
    live: set[ConnectionRecord], now: float
) -> tuple[ConnectionRecord, ConnectionRecord] | None:
    """Two connections that are there at the same time, both with a client behind them.

    The older one must have said something since the other is there: else it may be one that the
    device has left behind, of which the server does not know yet either.

    :param live: those of one device.
    :param now: monotonic seconds.
    """
    there = [record for record in islice(live, _MOST_COMPARED) if _is_there(record)]
    there.sort(key=lambda record: record.opened)
    for older, newer in pairwise(there):
        spoke = older.last_up is not None and older.last_up > newer.opened + ONE_ARRIVAL_SECONDS
        if spoke and now - newer.opened >= TOGETHER_SECONDS:
            return older, newer
    return None


def _is_there(record: ConnectionRecord) -> bool:
    return (
        record.reason is None
        and record.backend_ended is None
        and record.client_end == "none"
        and record.client_unreachable is None
    )


class Device:
    """One device of one service.

    Times are monotonic seconds, except ``first_seen_at`` and ``last_seen_at`` (wall clock).
    ``up`` and ``down`` are bytes of closed connections. There may be ten thousands of devices, so
    each attribute that few of them need is None until then.

    A monitor's totals per client cannot serve here: those are of one address each, and a device may
    be a network; which of them are dropped first differs, too.
    """

    __slots__ = (
        "addresses",
        "alarms",
        "bucket",
        "called",
        "declared_away_limit",
        "declared_limit",
        "down",
        "fact",
        "failed",
        "first_seen_at",
        "folded",
        "is_away_too_long",
        "is_duplicate",
        "is_expected",
        "is_forgotten",
        "is_silent",
        "is_stored",
        "is_storm",
        "keepalive",
        "last_message",
        "last_reason",
        "last_seen_at",
        "left",
        "live",
        "message_gaps",
        "message_limit",
        "messages_since",
        "name",
        "opened",
        "openings",
        "origin",
        "quiet_since",
        "reconnect_gaps",
        "reconnect_limit",
        "reconnects_since",
        "restored",
        "rivals",
        "total",
        "up",
    )

    def __init__(self, name: str, first_seen_at: float, fact: str = "") -> None:
        self.name = name
        self.fact = fact
        """The fact about its connections that is its name; empty if its name is an address."""
        self.origin: str | None = None
        """The IP or network that it was known from first; None if its name is an address."""
        self.called: str | None = None
        """The client id that its connections tell, though its name is its address; empty if they
        tell several."""
        self.addresses: list[str] | None = None
        """Those that it has used last, the last one at the end; None if its name is its address."""
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
        self.messages_since: float | None = None
        """Since when its messages have been regular; None if they are not."""
        self.reconnects_since: float | None = None
        self.message_limit = self.reconnect_limit = INFINITE
        self.keepalive: float | None = None
        """The keepalive that it has declared, in seconds; None if it has not."""
        self.declared_limit: float | None = None
        """The silence that is too long by that, while it is connected; None if it has not."""
        self.declared_away_limit: float | None = None
        """The same once its connection has failed."""
        self.rivals: Rivals | None = None
        """None unless there were two connections at once where there should be one."""
        self.failed: Reason | Refusal | None = None
        """How its last connection or attempt failed, if it has not connected since then."""
        self.openings: array[float] | None = None
        """When it reconnected after such a failure, as often as makes a storm; None before."""
        self.bucket: int | None = None
        """The wheel's, which bucket it is in (:class:`monconn.monitor.deadlines.Scheduled`)."""
        self.alarms: dict[AlarmKind, Alarm] | None = None
        """Those that are active, as they began."""
        self.folded: set[AlarmKind] | None = None
        """Those of them that are a part of a bigger one, and were not notified."""
        self.restored = NEVER
        """When it was restored from an earlier run, or could be heard last of a time in which it
        could not; what was before is no interval."""
        self.is_expected = False
        """Whether it was connected when that run ended, so that it should come back."""
        self.is_stored = False
        """Whether the history has it."""
        self.is_silent = self.is_storm = self.is_duplicate = self.is_forgotten = False
        self.is_away_too_long = False
        """Whether it is silent because it did not reconnect; else, its connection is silent."""

    def open(self, record: ConnectionRecord, config: DevicesConfig) -> bool:
        """Count a connection that has opened.

        :returns: whether a reconnect storm begins with it.
        """
        at = record.opened
        if self.opened > self.restored and at - self.opened >= ONE_ARRIVAL_SECONDS:
            self._count_reconnect(at, config.silent_heartbeats)
        storms = False
        if self.failed is not None and at >= self.left:  # else it was there when the other failed
            storms = self.attempt(at, config)
            self.failed = None
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

    def take_back(self, record: ConnectionRecord) -> None:
        """One of its live connections is another device's, as that one's name has become known.

        What its opening has changed is undone, as far as it was the last to open.
        """
        if self.live is not None:
            self.live.discard(record)
            if not self.live:
                self.live = None
        self.total -= 1
        if self.opened != record.opened:
            return
        if self.openings is not None and self.openings[-1] == record.opened:
            del self.openings[-1]
            if not self.openings:
                self.openings = None
        gaps = self.reconnect_gaps
        if gaps and self.opened > self.restored:
            self.opened -= gaps.pop()  # most often; else, it is the opening before that is off

    def expect_nothing(self) -> bool:
        """Forget what is usual for it, as its connections have names of their own by now.

        :returns: whether there was anything to forget.
        """
        had = self.is_expected or self.message_gaps is not None or self.reconnect_gaps is not None
        self.is_expected = False
        self.message_gaps = self.reconnect_gaps = None
        self.messages_since = self.reconnects_since = None
        self.message_limit = self.reconnect_limit = INFINITE
        self.keepalive = self.declared_limit = self.declared_away_limit = None
        self.failed = None
        return had

    def declare(self, keepalive: float, silent_times: int) -> None:
        """Note the keepalive that a connection of it has declared: within so many seconds it sends
        something, if only a PINGREQ.

        :param keepalive: of several that are connected, the longest one counts; 0 is none.
        :param silent_times: how many intervals are too long once it is disconnected; 0 for never.
        """
        if self.keepalive is not None and self.live is not None and len(self.live) > 1:
            keepalive = max(keepalive, self.keepalive)
        self.keepalive = keepalive or None
        self._limit_by_keepalive(silent_times)

    def _limit_by_keepalive(self, silent_times: int) -> None:
        keepalive = self.keepalive
        if keepalive is None or not silent_times:
            self.declared_limit = self.declared_away_limit = None
        else:
            self.declared_limit = max(KEEPALIVE_TIMES * keepalive, LEAST_SILENT_SECONDS)
            self.declared_away_limit = max(silent_times * keepalive, self.declared_limit)

    @property
    def silence_limit(self) -> float:
        """The silence that is too long, as it is now: by what it has declared, or else by what is
        usual; infinite for none."""
        declared = self.declared_away_limit if self.live is None else self.declared_limit
        return self.message_limit if declared is None else declared

    def _count_reconnect(self, at: float, silent_times: int) -> None:
        gaps = self.reconnect_gaps = with_gap(self.reconnect_gaps, at - self.opened)
        limit = RECONNECTS.limit_seconds(gaps, silent_times)
        if limit == INFINITE:
            self.reconnects_since = None
        else:
            if self.reconnects_since is None:
                self.reconnects_since = at - sum(gaps)
            if not RECONNECTS.is_known(gaps, at - self.reconnects_since):
                limit = INFINITE
        self.reconnect_limit = limit

    def attempt(self, at: float, config: DevicesConfig) -> bool:
        """Count an attempt to connect after a failure.

        :returns: whether there were too many within ``storm_within``, and no storm has begun yet.
        """
        if not config.storm_connections:
            return False
        openings = self.openings
        if openings is None:
            openings = self.openings = array("d", (self.opened,))  # the one that has failed
        openings.append(at)
        if len(openings) <= config.storm_connections:
            return False
        del openings[: -config.storm_connections - 1]
        return not self.is_storm and at - openings[0] < config.storm_within

    def note_message(self, record: ConnectionRecord, silent_times: int) -> float | None:
        """Record a connection's last message, if it is a new one.

        :returns: for how many seconds the device had been silent; None without a new message.
        """
        at = record.last_up
        if at is None or at <= self.last_message:
            return None
        silence = at - self.quiet_since
        if self.last_message > self.restored and at - self.last_message >= ONE_MESSAGE_SECONDS:
            gaps = self.message_gaps = with_gap(self.message_gaps, at - self.last_message)
            limit = MESSAGES.limit_seconds(gaps, silent_times)
            if limit == INFINITE:
                self.messages_since = None
            else:
                seconds = MESSAGES.regular_seconds(gaps)
                # Once it is known, one message may be missed; after an alarm it is learned anew, or
                # somebody who once seemed regular would raise one with each pause.
                stays_known = silence <= self.message_limit < INFINITE
                if self.messages_since is None or (not seconds and not stays_known):
                    self.messages_since = at - seconds
                if not MESSAGES.is_known(gaps, at - self.messages_since):
                    limit = INFINITE
            self.message_limit = limit
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
        self.is_expected = False
        if record.reason not in GOOD_ENDS:
            self.failed = record.reason
        self.left = now if record.closed is None else record.closed
        if record.closed_at is not None:
            self.last_seen_at = record.closed_at

    def is_unread(self, now: float) -> bool:
        """Whether what it has said lately may be in the kernel's queue still, as the backend does
        not take what came before.

        :param now: monotonic seconds.
        """
        for record in islice(self.live or (), _MOST_COMPARED):
            since = record.reading_since
            if record.client_end != "none" or record.backend_reading_since is None:
                continue  # nothing will come; or we are the client, or are not connected yet
            if since is None or now - since < LEAST_SILENT_SECONDS:
                return True
        return False

    def signed_off(self) -> bool:
        """Whether it has no connection, and the last one ended in an orderly way or by us."""
        return self.live is None and self.last_reason in ORDERLY

    # -- deadlines

    def silent_due(self) -> float:
        """When the silent alarm is to be raised; infinite for never."""
        if self.is_silent:
            return INFINITE
        limit = self.message_limit if self.declared_limit is None else self.silence_limit
        message_due = self.quiet_since + limit
        if self.restored > self.quiet_since:
            message_due = self.restored + max(limit, RETURN_SECONDS)
        if self.live is not None:
            return message_due
        if not self.is_expected:
            if self.last_reason in FORCED:
                return INFINITE
            if self.last_reason in ORDERLY:
                return self.return_due()
        return min(message_due, self.return_due())

    def return_due(self) -> float:
        """When it will have been disconnected for too long, if it usually reconnects.

        What passed before it was restored is no absence of its own: it could not connect.
        """
        if self.restored > self.left:
            return self.restored + max(self.reconnect_limit, RETURN_SECONDS)
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

    def snapshot(self, service: str, now: float, name: str | None = None) -> dict[str, Any]:
        """Its row as plain values for JSON.

        :param now: monotonic seconds.
        :param name: the name that its address was given; None if there is none.
        """
        live = self.live or ()
        values = {
            "device": self.name,
            "name": name or self.name,
            "identity": self.fact or "address",
            "addresses": list(self.last_addresses()),
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
            "alarms": sorted(self.alarms or (), key=ALARM_KINDS.index),
        }
        if self.keepalive is not None:
            values["keepalive_seconds"] = self.keepalive
        return values

    def last_addresses(self) -> tuple[str, ...]:
        """Those that it has used last, the last one first."""
        if self.addresses is None:
            return () if self.fact or "/" in self.name else (self.name,)
        return tuple(reversed(self.addresses))

    def apply(self, silent_times: int) -> None:
        """Replace the number of typical intervals that are too long."""
        self._limit_by_keepalive(silent_times)
        self.message_limit = self.reconnect_limit = INFINITE
        gaps, since = self.message_gaps, self.messages_since
        if gaps and MESSAGES.is_known(gaps, _seconds_since(since, self.last_message)):
            self.message_limit = MESSAGES.limit_seconds(gaps, silent_times)
        gaps, since = self.reconnect_gaps, self.reconnects_since
        if gaps and RECONNECTS.is_known(gaps, _seconds_since(since, self.opened)):
            self.reconnect_limit = RECONNECTS.limit_seconds(gaps, silent_times)

    # -- from one run to the next

    def to_store(self, service: str, now: float, wall_now: float) -> StoredDevice:
        """All of it that outlives this run.

        :param now: monotonic seconds.
        :param wall_now: the same moment in seconds of the wall clock.
        """
        live = self.live or ()
        offset = wall_now - now
        return StoredDevice(
            service,
            self.name,
            self.first_seen_at,
            self.last_seen_at,
            self.total,
            self.up + sum(record.up for record in live),
            self.down + sum(record.down for record in live),
            self.last_reason,
            left_at=None if live or self.left == NEVER else self.left + offset,
            last_message_at=None if self.last_message == NEVER else self.last_message + offset,
            message_gaps=tuple(self.message_gaps or ()),
            message_gaps_for=_seconds_since(self.messages_since, self.last_message),
            reconnect_gaps=tuple(self.reconnect_gaps or ()),
            reconnect_gaps_for=_seconds_since(self.reconnects_since, self.opened),
            alarms=tuple(
                StoredAlarm(
                    kind,
                    alarm.at,
                    alarm.detail,
                    self.is_away_too_long,
                    is_folded=kind in (self.folded or ()),
                )
                for kind, alarm in (self.alarms or {}).items()
            ),
            fact=self.fact,
            addresses=() if self.addresses is None else self.last_addresses(),
            keepalive_seconds=self.keepalive,
        )

    def restore(self, stored: StoredDevice, now: float, wall_now: float, silent_times: int) -> None:
        """Have it go on from where an earlier run has left it; it may have been seen since then.

        :param now: monotonic seconds.
        :param wall_now: the same moment in seconds of the wall clock.
        """

        def monotonic(at: float | None) -> float:
            return NEVER if at is None else min(at - wall_now, 0.0) + now

        is_new = not self.total
        self.first_seen_at = min(self.first_seen_at, stored.first_seen_at)
        self.total += stored.total
        self.up += stored.up
        self.down += stored.down
        if self.reconnect_gaps is None and stored.reconnect_gaps:
            gaps = self.reconnect_gaps = array("f", stored.reconnect_gaps[-GAPS_RETAINED:])
            self.reconnects_since = _before(now, stored.reconnect_gaps_for)
            if RECONNECTS.is_known(gaps, stored.reconnect_gaps_for):
                self.reconnect_limit = RECONNECTS.limit_seconds(gaps, silent_times)
        if self.message_gaps is None and stored.message_gaps:
            gaps = self.message_gaps = array("f", stored.message_gaps[-GAPS_RETAINED:])
            self.messages_since = _before(now, stored.message_gaps_for)
            if MESSAGES.is_known(gaps, stored.message_gaps_for):
                self.message_limit = MESSAGES.limit_seconds(gaps, silent_times)
        if not is_new:
            return
        self.keepalive = stored.keepalive_seconds
        self._limit_by_keepalive(silent_times)
        self.restored = now
        self.last_seen_at = stored.last_seen_at
        self.last_reason = stored.last_reason
        self.is_expected = stored.left_at is None or stored.last_reason == "stopping"
        self.last_message = self.quiet_since = monotonic(stored.last_message_at)
        self.opened = self.left = monotonic(stored.left_at or stored.last_seen_at)


def _seconds_since(since: float | None, at: float) -> float | None:
    return None if since is None else at - since


def _before(now: float, seconds: float | None) -> float | None:
    return None if seconds is None else now - seconds


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
