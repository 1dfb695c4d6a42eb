"""What is counted for metrics beside a monitor's own totals: plain numbers, cheap to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from monconn.model.alarms import ALARM_KINDS, Alarm, AlarmKind
from monconn.model.reasons import REASONS, Reason
from monconn.model.record import ConnectionRecord
from monconn.model.totals import Totals
from monconn.monitor.interfaces import Observer

DURATION_BOUNDS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400)
"""Seconds that a connection lasts: from a refused backend to a device that stays for a day."""
LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds that somebody waits for a backend."""
LAG_PERIOD_SECONDS = 1.0
LAGS_KEPT = 60


class Histogram:
    """How many values lie up to each bound.

    :param bounds: rising; a value that equals one lies below it.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values between each bound and the one before it; the last are beyond all of them."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """The same numbers, which stay as they are."""
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts.copy(), self.sum
        return copied


class ServiceFigures(Observer):
    """Counts how the connections of one service ended, how long they took, and its alarms."""

    def __init__(self) -> None:
        self.closed_by_reason: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self.duration = Histogram(DURATION_BOUNDS)
        self.connect = Histogram(LATENCY_BOUNDS)
        self.first_byte = Histogram(LATENCY_BOUNDS)
        self.alarms: dict[AlarmKind, int] = dict.fromkeys(ALARM_KINDS, 0)
        """How many have begun."""
        self.alarms_active: dict[AlarmKind, int] = dict.fromkeys(ALARM_KINDS, 0)

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        if record.reason is not None:
            self.closed_by_reason[record.reason] += 1
        if record.closed is not None:
            self.duration.observe(record.closed - record.opened)
        connected = record.connected
        if connected is not None:
            self.connect.observe(connected - record.opened)
            if record.first_down is not None:
                self.first_byte.observe(record.answer_seconds(record.first_down) or 0.0)

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
        if not alarm.is_over:
            self.alarms[alarm.kind] += 1
            self.alarms_active[alarm.kind] += 1
        elif self.alarms_active[alarm.kind]:  # else it began before we were there
            self.alarms_active[alarm.kind] -= 1

    def copy(self) -> ServiceFigures:
        """The same numbers, which stay as they are."""
        copied = ServiceFigures()
        copied.closed_by_reason = self.closed_by_reason.copy()
        copied.duration = self.duration.copy()
        copied.connect = self.connect.copy()
        copied.first_byte = self.first_byte.copy()
        copied.alarms = self.alarms.copy()
        copied.alarms_active = self.alarms_active.copy()
        return copied


class LagMeter:
    """How late the reactor's timers are: what keeps it busy keeps every connection waiting.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._due = 0.0
        self._timer: Any = None
        self._lags: deque[float] = deque([0.0], maxlen=LAGS_KEPT)

    @property
    def last_seconds(self) -> float:
        """How late the last timer was."""
        return self._lags[-1]

    @property
    def max_seconds(self) -> float:
        """How late the latest of the last :data:`LAGS_KEPT` timers was."""
        return max(self._lags)

    def start(self) -> None:
        """Measure each second, until :meth:`stop`."""
        self._due = self._clock.seconds() + LAG_PERIOD_SECONDS
        self._timer = self._clock.callLater(LAG_PERIOD_SECONDS, self._measure)

    def _measure(self) -> None:
        # A wall clock that was set forward makes a timer early.
        self._lags.append(max(0.0, self._clock.seconds() - self._due))
        self.start()

    def stop(self) -> None:
        """Measure no more; harmless at any time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@attrs.frozen
class ServiceSample:
    """One service's figures at one moment."""

    name: str
    connections: int
    client_ips: int
    totals: Totals
    figures: ServiceFigures


@attrs.frozen
class Sample:
    """All figures of one moment; nothing in it changes."""

    services: Sequence[ServiceSample]
    dropped: Mapping[str, int]
    """What observers left out, by their names."""
    lag_seconds: float
    lag_max_seconds: float
    started_at: float
    """Wall clock, in seconds."""
