"""Counters of the metrics beyond a monitor's own totals: plain numbers, cheap to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import attrs
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.histogram import Histogram
from monconn.model import tcpinfo
from monconn.model.alarms import ALARM_KINDS, Alarm, AlarmKind
from monconn.model.reasons import REASONS, Direction, Reason, ServiceState, Side
from monconn.model.record import PROTOCOLS, ConnectionRecord
from monconn.model.totals import Totals
from monconn.monitor.interfaces import Observer
from monconn.policy.policy import Policy
from monconn.sinks.capture_files import CaptureTotals
from monconn.sinks.notify.output import OutputTotals
from monconn.turns import TurnFigures

DURATION_BOUNDS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400)
"""Seconds that a connection lasts: from a backend that refuses to a device connected for a day."""
LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds that a client waits for a backend."""
RTT_BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds to a peer and back: from this host to a mobile network that queues for seconds."""
RETRANSMITS_BOUNDS = (0, 1, 5, 20, 100)
"""Segments sent again: the first is of connections without any."""
DECODED_AT_ONCE = 64
"""Connections whose figures of TCP are decoded together."""
LAG_PERIOD_SECONDS = 1.0
LAGS_RETAINED = 60


class TcpFigures:
    """Round-trip times and retransmissions of one side of a service's connections, at their end."""

    __slots__ = ("retransmits", "rtt")

    def __init__(self) -> None:
        self.rtt = Histogram(RTT_BOUNDS)
        self.retransmits = Histogram(RETRANSMITS_BOUNDS)

    def add(self, raws: Iterable[bytes | None]) -> None:
        """Count connections, each by the ``tcp_info`` of its socket, if it has one."""
        # As Histogram.observe does, whose call would take as long as all else.
        unpack = tcpinfo.ROUND_TRIP_AND_RETRANSMITS.unpack_from
        rtt_counts, retransmits_counts = self.rtt.counts, self.retransmits.counts
        rtt_sum = segments_sum = 0
        for raw in raws:
            if raw is None:
                continue
            microseconds, segments = unpack(raw)
            if microseconds:  # else none was measured
                rtt_counts[bisect_left(RTT_BOUNDS, microseconds / 1e6)] += 1
                rtt_sum += microseconds
            retransmits_counts[bisect_left(RETRANSMITS_BOUNDS, segments)] += 1
            segments_sum += segments
        self.rtt.sum += rtt_sum / 1e6
        self.retransmits.sum += segments_sum

    def copy(self) -> TcpFigures:
        """A copy that does not change."""
        copied = TcpFigures()
        copied.rtt, copied.retransmits = self.rtt.copy(), self.retransmits.copy()
        return copied


class ServiceFigures(Observer):
    """Counts how one service's connections ended, their durations, latencies and networks, and its
    alarms."""

    def __init__(self) -> None:
        self.closed_by_reason: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self.closed_by_protocol: dict[str, int] = dict.fromkeys(PROTOCOLS, 0)
        """Of those whose protocol is known, or found to be unknown; others are in none."""
        self.duration = Histogram(DURATION_BOUNDS)
        self.connect = Histogram(LATENCY_BOUNDS)
        self.first_byte = Histogram(LATENCY_BOUNDS)
        self.tcp: dict[Side, TcpFigures] = {"client": TcpFigures(), "backend": TcpFigures()}
        """Without what is still to be decoded: see :meth:`copy`."""
        self._undecoded: list[tuple[bytes | None, bytes | None]] = []
        self.alarms: dict[AlarmKind, int] = dict.fromkeys(ALARM_KINDS, 0)
        """How many began."""
        self.alarms_active: dict[AlarmKind, int] = dict.fromkeys(ALARM_KINDS, 0)

    def closed(self, record: ConnectionRecord) -> None:
        """Count a connection that has closed."""
        if record.reason is not None:
            self.closed_by_reason[record.reason] += 1
        # Anyone may set facts: a protocol that is not listed makes no label of its own.
        protocol = record.unchanging_facts.get("protocol")
        if protocol is not None:
            listed = protocol if protocol in self.closed_by_protocol else "unknown"
            self.closed_by_protocol[listed] += 1
        if record.closed is not None:
            self.duration.observe(record.closed - record.opened)
        connected = record.connected
        if connected is not None:
            self.connect.observe(connected - record.opened)
            if record.first_down is not None:
                self.first_byte.observe(record.answer_seconds(record.first_down) or 0.0)
        # Put aside, as to decode many at once takes half of the time.
        undecoded = self._undecoded
        undecoded.append((record.client_tcp, record.backend_tcp))
        if len(undecoded) >= DECODED_AT_ONCE:
            self._decode()

    def _decode(self) -> None:
        undecoded, self._undecoded = self._undecoded, []
        self.tcp["client"].add([client for client, _ in undecoded])
        self.tcp["backend"].add([backend for _, backend in undecoded])

    def alarmed(self, alarm: Alarm) -> None:
        """Count an alarm that begins or is over."""
        if not alarm.is_over:
            self.alarms[alarm.kind] += not alarm.goes_on
            self.alarms_active[alarm.kind] += 1
        elif self.alarms_active[alarm.kind]:  # else it began before this observer was added
            self.alarms_active[alarm.kind] -= 1

    def copy(self) -> ServiceFigures:
        """A copy that does not change."""
        self._decode()
        copied = ServiceFigures()
        copied.closed_by_reason = self.closed_by_reason.copy()
        copied.closed_by_protocol = self.closed_by_protocol.copy()
        copied.duration = self.duration.copy()
        copied.connect = self.connect.copy()
        copied.first_byte = self.first_byte.copy()
        copied.tcp = {side: figures.copy() for side, figures in self.tcp.items()}
        copied.alarms = self.alarms.copy()
        copied.alarms_active = self.alarms_active.copy()
        return copied


class LagMeter:
    """Measures how late the reactor's timers run: whatever delays them delays every connection.

    :param clock: monotonic time and timers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due = 0.0
        self._timer: IDelayedCall | None = None
        self._lags: deque[float] = deque([0.0], maxlen=LAGS_RETAINED)

    @property
    def last_seconds(self) -> float:
        """How late the last timer was."""
        return self._lags[-1]

    @property
    def max_seconds(self) -> float:
        """How late the latest of the last :data:`LAGS_RETAINED` timers was."""
        return max(self._lags)

    def start(self) -> None:
        """Measure once a second until :meth:`stop`."""
        self._due = self._clock.seconds() + LAG_PERIOD_SECONDS
        self._timer = self._clock.callLater(LAG_PERIOD_SECONDS, self._measure)

    def _measure(self) -> None:
        # Timers of the reactor run on the wall clock: set forward, it makes one early.
        self._lags.append(max(0.0, self._clock.seconds() - self._due))
        self.start()

    def stop(self) -> None:
        """Stop measuring; harmless at any time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@attrs.frozen
class ServiceSample:
    """One service's figures at one time."""

    name: str
    connections: int
    client_ips: int
    clients: int | None
    """As rules count them; None if none does."""
    totals: Totals
    figures: ServiceFigures
    policy: Policy
    state: ServiceState = "running"
    held_seconds: Mapping[Direction, float] = attrs.field(factory=dict)
    """For how long connections were on hold because of bandwidth; empty if there never was one."""


@attrs.frozen
class Sample:
    """All figures at one time; nothing in it changes."""

    services: Sequence[ServiceSample]
    dropped: Mapping[str, int]
    """How much each observer has dropped, by its name."""
    lag_seconds: float
    lag_max_seconds: float
    turns: TurnFigures | None
    """None if the loop does not measure its turns."""
    started_at: float
    """Wall-clock seconds since the epoch."""
    files_lost: Mapping[str, int] = attrs.field(factory=dict)
    """As :data:`monconn.files.lost`."""
    unreadable_block_files: int = 0
    """How many files of ``block_files`` cannot be read now."""
    connections_possible: int = 0
    """How many connections the limit on descriptors has room for; 0 if that is not known."""
    descriptor_waits: int = 0
    captures: CaptureTotals | None = None
    """None if nothing may be captured."""
    outputs: Mapping[int, OutputTotals] = attrs.field(factory=dict)
    """What has become of the notifications for each output, by its number."""
