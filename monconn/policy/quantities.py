"""Amounts of time's passing: how many clients, or how many bytes, in each second."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import attrs

from monconn.errors import UnitError, quoted
from monconn.policy.kinds import Kind
from monconn.units import duration_text, parse_duration, parse_size, size_text

MOST_PER_SECOND = 1_000_000.0
LEAST_BYTES_PER_SECOND = 1024
"""Below it a connection would be read from less than once a second, a few bytes each time."""
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"([0-9]{1,9})\s*/\s*([0-9.]*(?:ms|[smhd]))(?:\s+burst\s+([0-9]{1,9}))?")
_RATE_EXAMPLES = "must be a number in a time, such as 20/s, 100/m or 20/s burst 50"
_BANDWIDTH_EXAMPLES = "must be bytes in a second, such as 1MiB/s, or {up: 1MiB/s, down: 64KiB/s}"


@attrs.frozen
class Rate:
    """How many clients may come in a time, and how many at once after a pause.

    :raises ValueError: it lets nobody in, or more than a million a second.
    """

    count: int
    """How many in each ``period_seconds``, in the long run."""
    period_seconds: float = 1.0
    burst: int = 0
    """How many may come at once if none has come for long; ``count`` if it is left out."""

    def __attrs_post_init__(self) -> None:
        if not self.burst:
            object.__setattr__(self, "burst", self.count)
        if self.count < 1 or self.burst < 1 or not 0 < self.period_seconds < math.inf:
            raise ValueError(
                "must let somebody in: write 1/h for few, and leave it out for no limit"
            )
        if self.per_second > MOST_PER_SECOND:
            raise ValueError(f"must be at most {MOST_PER_SECOND:,.0f} a second")

    @property
    def per_second(self) -> float:
        """How many a second, in the long run."""
        return self.count / self.period_seconds

    def __str__(self) -> str:
        period = next(
            (unit for unit, seconds in _PERIODS.items() if seconds == self.period_seconds),
            duration_text(self.period_seconds),
        )
        burst = "" if self.burst == self.count else f" burst {self.burst}"
        return f"{self.count}/{period}{burst}"


def parse_rate(text: str) -> Rate:
    """A rate from a text such as ``20/s``, ``5/10s`` or ``20/s burst 50``.

    :raises ValueError: it is none.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{_RATE_EXAMPLES}, not {quoted(text)}")
    count, period, burst = found.groups()
    try:
        seconds = _PERIODS[period] if period in _PERIODS else parse_duration(period)
    except UnitError:
        raise ValueError(f"{_RATE_EXAMPLES}, not {quoted(text)}") from None
    if burst is not None and not int(burst):
        raise ValueError("must have a burst of at least 1: with 0 nobody could ever come")
    return Rate(int(count), seconds, int(burst or 0))


@attrs.frozen
class Bandwidth:
    """The most bytes in a second, for each direction; 0 is no limit.

    :raises ValueError: a limit is less than :data:`LEAST_BYTES_PER_SECOND`, or there is none.
    """

    up: int = 0
    """Bytes a second from clients to the backend."""
    down: int = 0

    def __attrs_post_init__(self) -> None:
        for each in (self.up, self.down):
            if each and each < LEAST_BYTES_PER_SECOND:
                raise ValueError(f"must be at least {size_text(LEAST_BYTES_PER_SECOND)}/s")
        if not self.up and not self.down:
            raise ValueError("must limit something: leave it out for no limit")

    def __str__(self) -> str:
        if self.up == self.down:
            return f"{size_text(self.up)}/s"
        limits = {"up": self.up, "down": self.down}
        given = (f"{way}: {size_text(each)}/s" for way, each in limits.items() if each)
        return f"{{{', '.join(given)}}}"


def parse_bytes_per_second(text: str) -> int:
    """Bytes in a second from a text such as ``1MiB/s``.

    :raises ValueError: it is none.
    """
    size, slash, unit = text.strip().rpartition("/")
    if not slash or unit.strip() != "s":
        raise ValueError(f"{_BANDWIDTH_EXAMPLES}, not {quoted(text)}")
    return parse_size(size)


def parse_bandwidth(text: str) -> Bandwidth:
    """A bandwidth from ``1MiB/s`` for both directions, or ``1MiB/s,64KiB/s`` for up and down.

    :raises ValueError: it is none.
    """
    up, comma, down = text.partition(",")
    each = parse_bytes_per_second(up)
    return Bandwidth(each, parse_bytes_per_second(down) if comma else each)


def _check_rate(value: Any) -> Rate | None:
    if value is None or isinstance(value, Rate):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{_RATE_EXAMPLES}, or Rate(...)")
    return None if _is_no_limit(value) else parse_rate(value)


def _check_bandwidth(value: Any) -> Bandwidth | None:
    if value is None or isinstance(value, Bandwidth):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{_BANDWIDTH_EXAMPLES}, or Bandwidth(...)")
    return None if _is_no_limit(value) else parse_bandwidth(value)


def _is_no_limit(text: str) -> bool:
    """Whether a text takes back what holds for all services."""
    return text.strip() in ("none", "0")


RATE = Kind(
    "rate, or unset", _check_rate, lambda text: None if _is_no_limit(text) else parse_rate(text)
)
BANDWIDTH = Kind(
    "bandwidth, or unset",
    _check_bandwidth,
    lambda text: None if _is_no_limit(text) else parse_bandwidth(text),
)

OptionalRate = Annotated[Rate | None, RATE]
OptionalBandwidth = Annotated[Bandwidth | None, BANDWIDTH]
