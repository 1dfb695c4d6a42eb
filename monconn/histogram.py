"""Counts of values by ranges."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts values by ranges.

    :param bounds: the ranges' upper bounds, ascending; a value equal to one is within it.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values of each range (not cumulative); the last is of those above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """A copy that does not change."""
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts.copy(), self.sum
        return copied
