"""One readable log line for each connection that closes or is refused."""

from __future__ import annotations

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.ratelimit import RateLimitedLog
from monconn.units import format_bytes

LINES_A_SECOND = 50


class CloseLog(Observer):
    """Logs client, duration, bytes and reason; under load, one line a second summarizes the others.

    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limited = RateLimitedLog(clock, LINES_A_SECOND, self._write_summary)
        self._summary_up = self._summary_down = 0
        self.flush = self._limited.flush
        """Write the summary now, if there is anything to summarize."""

    def closed(self, record: ConnectionRecord) -> None:
        """Log a connection that has closed, or a client that was refused."""
        if self._limited.has_room():
            line = record.describe(self._clock.seconds())
            self._log.info("{service}: {line}", service=record.service, line=line)
        else:
            self._summary_up += record.up
            self._summary_down += record.down
            is_refused = record.refusal is not None
            self._limited.add(f"refused: {record.refusal}" if is_refused else str(record.reason))

    refused = closed

    def _write_summary(self, count: int, reasons: str) -> None:
        self._log.info(
            "{count} more connections ended, up {up}, down {down}: {reasons}",
            count=count,
            up=format_bytes(self._summary_up),
            down=format_bytes(self._summary_down),
            reasons=reasons,
        )
        self._summary_up = self._summary_down = 0
