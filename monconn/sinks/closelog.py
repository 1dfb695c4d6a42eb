"""One readable log line for each connection that closes or is refused, or would have been."""

from __future__ import annotations

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.reasons import CLOSED_REASONS, Refusal
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.ratelimit import RateLimitedLog
from monconn.units import format_bytes

LINES_A_SECOND = 50
_IN_GOOD_ORDER = frozenset(CLOSED_REASONS.values())


class CloseLog(Observer):
    """Logs client, duration, bytes and reason; under load, one line a second summarizes the others.

    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self.quiet_services: frozenset[str] = frozenset()
        """Services whose connections are logged only if they were refused, or did not end in good
        order: those of the demo that come and go all the time."""
        self._clock = clock
        self._limited = RateLimitedLog(clock, LINES_A_SECOND, self._write_summary)
        self._summary_up = self._summary_down = 0
        # Of their own: what is let in must not take the places of those that end.
        self._limited_dry_run = RateLimitedLog(clock, LINES_A_SECOND, self._write_dry_run_summary)

    def flush(self) -> None:
        """Write the summaries now, if there is anything to summarize."""
        self._limited.flush()
        self._limited_dry_run.flush()

    def closed(self, record: ConnectionRecord) -> None:
        """Log a connection that has closed, or a client that was refused."""
        if record.service in self.quiet_services and record.reason in _IN_GOOD_ORDER:
            return
        if self._limited.has_room():
            line = record.describe(self._clock.seconds())
            self._log.info("{service}: {line}", service=record.service, line=line)
        else:
            self._summary_up += record.up
            self._summary_down += record.down
            is_refused = record.refusal is not None
            self._limited.add(f"refused: {record.refusal}" if is_refused else str(record.reason))

    refused = closed

    def would_refuse(self, record: ConnectionRecord, refusals: tuple[Refusal, ...]) -> None:
        """Log that rules in ``dry_run`` would have refused a client."""
        if self._limited_dry_run.has_room():
            self._log.info(
                "{service}: {client} would be refused: {refusals} (dry_run)",
                service=record.service,
                client=record.client,
                refusals=", ".join(refusals),
            )
        else:
            for each in refusals:
                self._limited_dry_run.add(each)

    def _write_dry_run_summary(self, count: int, refusals: str) -> None:
        self._log.info("more clients would be refused (dry_run): {refusals}", refusals=refusals)

    def _write_summary(self, count: int, reasons: str) -> None:
        self._log.info(
            "{count} more connections ended, up {up}, down {down}: {reasons}",
            count=count,
            up=format_bytes(self._summary_up),
            down=format_bytes(self._summary_down),
            reasons=reasons,
        )
        self._summary_up = self._summary_down = 0
