"""Alarms as lines in the log."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from monconn.model.alarms import Alarm
from monconn.ratelimit import RateLimitedLog

LINES_A_SECOND = 20


class AlarmLog:
    """A line in the log for each alarm; where there are many, one line a second sums them up.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._sums = RateLimitedLog(clock, LINES_A_SECOND, self._sum_up)
        self.flush = self._sums.flush
        """Write the line that sums up, if there is anything to sum up."""

    def write(self, alarm: Alarm) -> None:
        """Tell of an alarm that begins, or of one that is over."""
        if not self._sums.has_room():
            self._sums.add(f"{alarm.kind} over" if alarm.is_over else alarm.kind)
            return
        tell = self._log.info if alarm.is_over else self._log.warn
        tell("{service}: {line}", service=alarm.service, line=alarm.describe())

    def _sum_up(self, count: int, kinds: str) -> None:
        self._log.warn("{count} more alarms began or are over: {kinds}", count=count, kinds=kinds)
