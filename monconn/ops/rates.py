"""How fast bytes move on live connections."""

from __future__ import annotations

from collections.abc import Iterable

from monconn.model.record import ConnectionRecord

LEAST_SECONDS = 0.25
"""The shortest time between two samples that gives a meaningful rate."""
ENOUGH_SECONDS = 1.0
"""The age at which the older sample is replaced by a newer one."""
MOST_SECONDS = 10.0
"""The age at which a sample is too old to compare with."""


class Rates:
    """Bytes per second, from two samples of the counters.

    Samples are taken only when rates are queried, so that the data path pays nothing.
    """

    def __init__(self) -> None:
        self._sampled_at: float | None = None
        self._counted: dict[int, tuple[int, int]] = {}
        self._rates: dict[int, tuple[float, float]] = {}
        self._are_known = False

    def sample(self, records: Iterable[ConnectionRecord], now: float) -> bool:
        """Read the counters of all live connections.

        :param now: monotonic seconds.
        :returns: whether rates are known; if not, call again :data:`LEAST_SECONDS` later.
        """
        since = float("inf") if self._sampled_at is None else now - self._sampled_at
        if since < LEAST_SECONDS:
            return self._are_known
        counted = {record.id: (record.up, record.down) for record in records}
        self._are_known = since <= MOST_SECONDS or not counted
        self._rates = self._since(counted, since) if self._are_known else {}
        if since >= ENOUGH_SECONDS:
            self._sampled_at, self._counted = now, counted
        return self._are_known

    def _since(
        self, counted: dict[int, tuple[int, int]], seconds: float
    ) -> dict[int, tuple[float, float]]:
        before = self._counted
        return {
            id_: ((up - before[id_][0]) / seconds, (down - before[id_][1]) / seconds)
            for id_, (up, down) in counted.items()
            if id_ in before
        }

    def of(self, record: ConnectionRecord, now: float) -> tuple[float, float]:
        """Bytes per second up and down; of one opened since the last sample, since its opening."""
        if record.closed is not None:
            return 0.0, 0.0
        known = self._rates.get(record.id)
        if known is not None:
            return known
        seconds = max(now - record.opened, LEAST_SECONDS)
        return record.up / seconds, record.down / seconds
