"""The figures of the last minutes, and bars that show them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from monconn.units import sparkline

BUCKET_SECONDS = 3
"""What one bar stands for. Bars only move to the left, once in this time."""
MOST_BUCKETS = 240
TREND_LENGTH = 120
_EIGHTHS = " ▁▂▃▄▅▆▇█"


class Trends:
    """The last rates of the rows that are shown, and of no others."""

    def __init__(self) -> None:
        self._rates: dict[Any, deque[float]] = {}

    def add(self, rates: dict[Any, float]) -> None:
        """Add one rate for each key; keys that are not among them are forgotten."""
        before = self._rates
        self._rates = {key: before.get(key) or deque(maxlen=TREND_LENGTH) for key in rates}
        for key, rate in rates.items():
            self._rates[key].append(rate)

    def clear(self) -> None:
        """Forget all rates."""
        self._rates.clear()

    def of(self, key: Any) -> Sequence[float]:
        """The rates in bytes a second, oldest first."""
        return tuple(self._rates.get(key, ()))

    def __len__(self) -> int:
        return len(self._rates)


class Chart:
    """The means of a figure over the last minutes, one for each bucket of time."""

    def __init__(self) -> None:
        self._buckets: deque[float | None] = deque(maxlen=MOST_BUCKETS)
        self._number = 0
        self._count = 0
        self.last = 0.0
        """The latest sample."""

    def add(self, at: float, value: float) -> None:
        """Add a sample.

        :param at: monotonic seconds.
        """
        number = int(at // BUCKET_SECONDS)
        if self._buckets and number <= self._number:
            mean = self._buckets[-1] or 0.0
            self._count += 1
            self._buckets[-1] = mean + (value - mean) / self._count
        else:
            if self._buckets:  # a gap: nobody was asked
                missing = min(number - self._number - 1, MOST_BUCKETS)
                self._buckets.extend([None] * missing)
            self._number, self._count = number, 1
            self._buckets.append(value)
        self.last = value

    def clear(self) -> None:
        """Forget all samples."""
        self._buckets.clear()
        self.last = 0.0

    def values(self, count: int) -> list[float | None]:
        """The last means, oldest first; None where there was no sample."""
        return list(self._buckets)[-count:] if count > 0 else []


def trend(values: Sequence[float], width: int) -> str:
    """The last values as a sparkline of so many characters, the newest on the right."""
    return sparkline(values[-width:] if width > 0 else ()).rjust(width)


def bars(values: Sequence[float | None], width: int, height: int) -> list[str]:
    """The last values as bars over several lines, from the top line down.

    0 and more is at least the lowest bar, as in a sparkline; None is none.
    """
    shown = values[-width:] if width > 0 else ()
    highest = max((each for each in shown if each is not None), default=0.0)
    steps = height * 8
    columns = [
        0 if each is None else 1 + round(each / highest * (steps - 1)) if highest > 0 else 1
        for each in shown
    ]
    return [
        "".join(_EIGHTHS[max(min(each - floor * 8, 8), 0)] for each in columns).rjust(width)
        for floor in reversed(range(height))
    ]
