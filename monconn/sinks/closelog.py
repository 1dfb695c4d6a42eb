"""One readable line in the log for each connection that ends."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.ratelimit import RateLimitedLog
from monconn.units import format_bytes

LINES_A_SECOND = 50


class CloseLog(Observer):
    """Says who, how long, how much and why; under load, one line a second sums it up.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._sums = RateLimitedLog(clock, LINES_A_SECOND, self._sum_up)
        self._summed_up = self._summed_down = 0
        self.flush = self._sums.flush
        """Write the line that sums up, if there is anything to sum up."""

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self._write(record, str(record.reason))

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        self._write(record, f"refused: {record.refusal}")

    def _write(self, record: ConnectionRecord, what: str) -> None:
        if self._sums.has_room():
            line = record.describe(self._clock.seconds())
            self._log.info("{service}: {line}", service=record.service, line=line)
        else:
            self._summed_up += record.up
            self._summed_down += record.down
            self._sums.add(what)

    def _sum_up(self, count: int, reasons: str) -> None:
        self._log.info(
            "{count} more connections ended, up {up}, down {down}: {reasons}",
            count=count,
            up=format_bytes(self._summed_up),
            down=format_bytes(self._summed_down),
            reasons=reasons,
        )
        self._summed_up = self._summed_down = 0
