"""Durations, sizes, rates and times as people write and read them, and sparklines.

Whatever is for people (tables, details, log lines, reports, alarms) is formatted by these functions
and no others, so that a figure looks the same wherever it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction

from monconn.errors import UnitError, quoted

_SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_BARS = "▁▂▃▄▅▆▇█"
_LONGEST_SECONDS = 36525 * 86400  # a century: more is a mistake

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_PLAIN = re.compile(_NUMBER)
_SIZE = re.compile(rf"({_NUMBER})\s*(?:({'|'.join(_BINARY_UNITS)})|B)?")
_PART = re.compile(rf"({_NUMBER})\s*(ms|[dhms])\s*")


def parse_duration(value: int | float | str) -> float:
    """Parse a duration into seconds: a number, or a text such as 15, 1.5s, 500ms, 15m or 1h30m.

    :raises UnitError: for anything else, and if it is negative or longer than a century.
    """
    if isinstance(value, str):
        seconds = _seconds_from_text(value)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnitError(_not_a_duration(type(value).__name__))
    elif isinstance(value, float) and not math.isfinite(value):
        raise UnitError(_not_a_duration(str(value)))
    else:
        seconds = Fraction(value)
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise UnitError("must be 0 or more seconds, and at most a hundred years")
    return float(seconds)


def parse_size(value: int | str) -> int:
    """Parse a size into bytes: a number, or a text such as 4096, 64KiB, 1.5 MiB or 1GiB.

    :raises UnitError: for anything else.
    """
    found = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if found is None:
        raise UnitError(
            f"must be a number of bytes or a text like 64KiB or 1GiB, not {quoted(str(value))}"
        )
    power = _BINARY_UNITS.index(found[2]) + 1 if found[2] else 0
    return int(Fraction(found[1]) * 1024**power)


def format_duration(seconds: float) -> str:
    """A duration as a short text of two units at most: 38ms, 1.25s, 12.3s, 4m05s, 2h03m, 3d04h.

    Below ten milliseconds it has a second digit (2.1ms, 0.21ms), as round trips do in a local
    network; what is shorter than 5 µs is 0s.
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if round(seconds, 3) < 1:
        return _format_milliseconds(seconds * 1000)
    if round(seconds, 2) < 10:
        return f"{seconds:.2f}s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    # Rounded before the units are chosen, so that 3599.7 becomes 1h00m and never 60m00s.
    for small_seconds, large, small in ((1, "m", "s"), (60, "h", "m")):
        count = round(seconds / small_seconds)
        if count < (3600 if small == "s" else 24 * 60):
            return f"{count // 60}{large}{count % 60:02}{small}"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02}h"


def _format_milliseconds(milliseconds: float) -> str:
    # Rounded before the digits are chosen, so that 9.96 becomes 10ms and never 10.0ms.
    if round(milliseconds, 1) >= 10:
        return f"{milliseconds:.0f}ms"
    if round(milliseconds, 2) >= 1:
        return f"{milliseconds:.1f}ms"
    rounded = round(milliseconds, 2)
    return f"{rounded:.2f}ms" if rounded else "0s"


def format_bytes(count: int) -> str:
    """A size as a short text in powers of 1024: 0 B, 812 B, 1.2 KiB, 34.0 MiB."""
    if count < 0:
        return f"-{format_bytes(-count)}"
    if count < 1024:
        return f"{count} B"
    # Integers only: large counts would overflow a float, and lose precision before that.
    power = min((count.bit_length() - 1) // 10, len(_BINARY_UNITS))
    unit_bytes = 1024**power
    tenths = (count * 10 + unit_bytes // 2) // unit_bytes
    if tenths == 10240 and power < len(_BINARY_UNITS):
        return format_bytes(1024 * unit_bytes)  # 1023.96 KiB is 1.0 MiB
    return f"{tenths // 10}.{tenths % 10} {_BINARY_UNITS[power - 1]}"


def format_rate(bytes_per_second: float) -> str:
    """A rate as a short text: 12.1 KiB/s; a dash below one byte a second."""
    return f"{format_bytes(int(bytes_per_second))}/s" if bytes_per_second >= 1 else "-"


def local_time(iso: str, *, always_dated: bool = False) -> str:
    """A time of day in the local zone, with the date unless it is today.

    :param iso: as in JSON: ISO 8601 with its zone.
    :param always_dated: with the date also if it is today.
    :raises ValueError: it is no such time.
    :raises OverflowError: it is beyond what has a date.
    """
    moment = datetime.fromisoformat(iso).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    is_short = is_today and not always_dated
    return moment.strftime("%H:%M:%S" if is_short else "%Y-%m-%d %H:%M:%S")


def parse_moment(text: str, now: float) -> float:
    """Wall-clock seconds of a time: ``2h`` (ago), or ``2026-01-31T08:00``, in the local zone unless
    it has one.

    :param now: wall-clock seconds.
    :raises UnitError: for anything else.
    """
    try:
        return now - parse_duration(text)
    except UnitError:
        pass
    try:
        # Python 3.10 does not know Z, which RFC 3339 has.
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise UnitError(
            f"{quoted(text)} is neither a time ago, such as 2h, nor a date, such as"
            " 2026-01-31T08:00"
        ) from None


def sparkline(values: Sequence[float]) -> str:
    """One bar per value; the highest fills its cell, 0 is the lowest bar and nothing else is."""
    highest = max(values, default=0)
    return "".join(
        _BARS[round(value / highest * (len(_BARS) - 2)) + 1 if value > 0 else 0] for value in values
    )


def _seconds_from_text(text: str) -> Fraction:
    rest = text.strip()
    if _PLAIN.fullmatch(rest):
        return Fraction(rest)
    seconds, units = Fraction(0), list(_SECONDS)
    while rest:
        part = _PART.match(rest)
        if part is None or part[2] not in units:
            break
        seconds += Fraction(part[1]) * _SECONDS[part[2]]
        # Only smaller units may follow; so the loop ends.
        units = units[units.index(part[2]) + 1 :]
        rest = rest[part.end() :]
    if rest or not text.strip():
        raise UnitError(_not_a_duration(quoted(text)))
    return seconds


def _not_a_duration(what: str) -> str:
    return f"must be a number of seconds or a text like 500ms, 15m or 1h30m, not {what}"


# -- as a configuration has them


def duration_text(seconds: float) -> str:
    """A duration exactly, as it may be written in a configuration: 500ms, 15m, 1h30m, 30d."""
    rest = round(seconds * 1000)
    parts = []
    for name, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0"


def size_text(count: int) -> str:
    """A size exactly, as it may be written in a configuration: 1GiB, 64KiB, 1000."""
    for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and not count % size:
            return f"{count // size}{name}"
    return str(count)
