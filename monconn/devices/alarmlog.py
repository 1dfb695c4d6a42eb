"""Alarms as lines in the log."""

from __future__ import annotations

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.alarms import Alarm
from monconn.monitor.interfaces import Observer
from monconn.ratelimit import RateLimitedLog

LINES_A_SECOND = 20


class AlarmLog(Observer):
    """Logs each alarm that begins or ends; under load, one line a second summarizes the others.

    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._limited = RateLimitedLog(clock, LINES_A_SECOND, self._write_summary)
        self.flush = self._limited.flush
        """Write the summary now, if there is anything to summarize."""

    def alarmed(self, alarm: Alarm) -> None:
        """Log an alarm: a warning when it begins, information when it is over."""
        # Those about a service are few, and must not be lost among its devices'.
        if alarm.device and not self._limited.has_room():
            self._limited.add(f"{alarm.kind} over" if alarm.is_over else alarm.kind)
            return
        write = self._log.info if alarm.is_over else self._log.warn
        write("{service}: {line}", service=alarm.service, line=alarm.describe())

    def _write_summary(self, count: int, kinds: str) -> None:
        self._log.warn("{count} more alarms began or are over: {kinds}", count=count, kinds=kinds)
