"""One readable line in the log for each connection that ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import Logger

from monconn.core.clock import Allowance
from monconn.core.interfaces import Observer
from monconn.core.record import ConnectionRecord
from monconn.units import format_bytes

LINES_A_SECOND = 50


class CloseLog(Observer):
    """Says who, how long, how much and why; under load, one line a second sums it up.

    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._room = Allowance(clock, LINES_A_SECOND)
        self._summed: Counter[str] = Counter()
        self._summed_bytes = [0, 0]
        self._timer: Any = None

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self._write(record, str(record.reason))

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        self._write(record, f"refused: {record.refusal}")

    def _write(self, record: ConnectionRecord, what: str) -> None:
        if self._room.take():
            line = record.describe(self._clock.seconds())
            self._log.info("{service}: {line}", service=record.service, line=line)
        else:
            self._sum_up(what, record.up, record.down)

    def _sum_up(self, what: str, up: int, down: int) -> None:
        self._summed[what] += 1
        self._summed_bytes[0] += up
        self._summed_bytes[1] += down
        if self._timer is None:
            self._timer = self._clock.callLater(1.0, self.flush)

    def flush(self) -> None:
        """Write the line that sums up, if there is anything to sum up."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._summed:
            return
        up, down = self._summed_bytes
        self._log.info(
            "{count} more connections ended, up {up}, down {down}: {reasons}",
            count=sum(self._summed.values()),
            up=format_bytes(up),
            down=format_bytes(down),
            reasons=", ".join(f"{count} {what}" for what, count in self._summed.most_common()),
        )
        self._summed.clear()
        self._summed_bytes = [0, 0]
