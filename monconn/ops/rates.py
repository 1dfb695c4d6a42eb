"""How fast bytes move on live connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from monconn.model.record import ConnectionRecord

LEAST_SECONDS = 0.25
"""The shortest time between two samples that gives a meaningful rate."""
ENOUGH_SECONDS = 1.0
"""The age at which the older sample is replaced by a newer one."""
MOST_SECONDS = 10.0
"""The age at which a sample is too old to compare with."""


_Counts = dict[int, tuple[int, int, float]]  # by id: bytes up and down, and when they were read


class Rates:
    """Bytes per second, from two samples of the counters.

    Samples are taken only when rates are queried, so that the data path pays nothing.
    """

    def __init__(self) -> None:
        self.are_known = False
        """Whether there are two samples, far enough apart."""
        self._sampled_at: float | None = None  # when the next sample's earlier one was begun
        self._earlier: _Counts = {}  # the one to compare the next sample with
        self._before: _Counts = {}  # the two that rates are made of
        self._after: _Counts = {}

    def sample(
        self, records: Iterable[ConnectionRecord], seconds: Callable[[], float]
    ) -> Iterator[None]:
        """Read the counters of all live connections, in steps.

        If rates are not known after that, sample again :data:`LEAST_SECONDS` later.

        :param seconds: gives monotonic time.
        """
        began = seconds()
        since = float("inf") if self._sampled_at is None else began - self._sampled_at
        if since < LEAST_SECONDS:
            return
        counted: _Counts = {}
        for record in records:
            counted[record.id] = record.up, record.down, seconds()
            yield
        self.are_known = since <= MOST_SECONDS or not counted
        replaced = [self._before, self._after, self._earlier]
        self._before, self._after = (self._earlier if self.are_known else {}), counted
        if since >= ENOUGH_SECONDS:
            self._sampled_at, self._earlier = began, counted
        in_use = (self._before, self._after, self._earlier)
        yield from _cleared(each for each in replaced if not any(each is one for one in in_use))

    def forget(self) -> Iterator[None]:
        """Drop all samples, in steps: they are too old, and hold 200 bytes for each connection."""
        replaced = [self._before, self._after, self._earlier]
        self.are_known, self._sampled_at = False, None
        self._before, self._after, self._earlier = {}, {}, {}
        yield from _cleared(replaced)

    def of(self, record: ConnectionRecord, now: float) -> tuple[float, float]:
        """Bytes per second up and down; of one opened since the last sample, since its opening."""
        if record.closed is not None:
            return 0.0, 0.0
        before, after = self._before.get(record.id), self._after.get(record.id)
        if before is not None and after is not None:
            passed = (after[2] - before[2]) or LEAST_SECONDS
            return (after[0] - before[0]) / passed, (after[1] - before[1]) / passed
        seconds = max(now - record.opened, LEAST_SECONDS)
        return record.up / seconds, record.down / seconds


def _cleared(samples: Iterable[_Counts]) -> Iterator[None]:
    """Empty samples step by step: to free a hundred thousand entries at once takes 10 ms."""
    for counts in samples:
        while counts:
            counts.popitem()
            yield
