"""Alarms as lines in the log."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import Logger

from monconn.core.alarms import Alarm
from monconn.core.clock import Allowance

LINES_A_SECOND = 20


class AlarmLog:
    """A line in the log for each alarm; where there are many, one line a second sums them up.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._room = Allowance(clock, LINES_A_SECOND)
        self._summed: Counter[str] = Counter()
        self._timer: Any = None

    def write(self, alarm: Alarm) -> None:
        """Tell of an alarm that begins, or of one that is over."""
        if not self._room.take():
            self._sum_up(alarm)
            return
        tell = self._log.info if alarm.is_over else self._log.warn
        tell("{service}: {line}", service=alarm.service, line=alarm.describe())

    def _sum_up(self, alarm: Alarm) -> None:
        self._summed[f"{alarm.kind} over" if alarm.is_over else alarm.kind] += 1
        if self._timer is None:
            self._timer = self._clock.callLater(1.0, self.flush)

    def flush(self) -> None:
        """Write the line that sums up, if there is anything to sum up."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._summed:
            self._log.warn(
                "{count} more alarms began or are over: {kinds}",
                count=sum(self._summed.values()),
                kinds=", ".join(f"{count} {kind}" for kind, count in self._summed.most_common()),
            )
            self._summed.clear()
