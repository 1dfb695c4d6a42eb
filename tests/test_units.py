"""Parsing and formatting durations and sizes; sparklines."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monconn.errors import UnitError
from monconn.units import format_bytes, format_duration, parse_duration, parse_size, sparkline

KIB = 1024


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (15, 15.0),
        (1.5, 1.5),
        ("15", 15.0),
        (" 1.5 ", 1.5),
        ("15s", 15.0),
        ("15m", 900.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("500ms", 0.5),
        ("0.1s", 0.1),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("36525d", 36525 * 86400.0),
    ],
)
def test_duration(value: int | float | str, seconds: float) -> None:
    assert parse_duration(value) == seconds
    assert isinstance(parse_duration(value), float)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "s", "m15", "15x", "15 minutes", "1h1h", "30m1h", "1h30", "-1", "-1s", "+1"),
        *("1,5", "1e3", "nan", "inf", ".5", "1.", "\u0661s", "1" * 400, "36525d1ms", "1h\0", "1_0"),
        *(-1, -0.001, math.nan, math.inf, -math.inf, 10**400, 1e300, True, False, None, [], b"1"),
    ],
)
def test_invalid_duration(value: Any) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(value)
    assert str(caught.value).startswith("must be ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.000004, "0s"),
        (0.00021, "0.21ms"),
        (0.00214, "2.1ms"),
        (0.00996, "10ms"),
        (0.0382, "38ms"),
        (0.35, "350ms"),
        (0.9994, "999ms"),
        (0.9996, "1.00s"),
        (9.994, "9.99s"),
        (9.996, "10.0s"),
        (12.34, "12.3s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (245, "4m05s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (7380, "2h03m"),
        (86399, "1d00h"),
        (3 * 86400 + 4 * 3600, "3d04h"),
        (400 * 86400, "400d00h"),
        (-12.34, "-12.3s"),
        (math.inf, "inf"),
    ],
)
def test_formatted_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1229, "1.2 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (34 * KIB**2, "34.0 MiB"),
        (KIB**6, "1.0 EiB"),
        (5000 * KIB**6, "5000.0 EiB"),
        (-812, "-812 B"),
    ],
)
def test_formatted_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


century = st.floats(0, 36524 * 86400)


@given(seconds=century)
def test_a_number_of_seconds_is_unchanged(seconds: float) -> None:
    assert parse_duration(seconds) == seconds


# Below each limit: the last digit shown, in seconds.
STEPS = [
    (0.000995, 1e-5),
    (0.00995, 1e-4),
    (0.9995, 1e-3),
    (9.995, 0.01),
    (59.95, 0.1),
    (3599.5, 1),
    (86370, 60),
    (math.inf, 3600),
]


@given(seconds=st.floats(0, 36524 * 86400))
def test_a_formatted_duration_reads_back_nearly_the_same(seconds: float) -> None:
    step = next(step for limit, step in STEPS if seconds < limit)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=step / 2 + 1e-7)


@given(one=century, other=century)
def test_longer_is_never_formatted_as_shorter(one: float, other: float) -> None:
    short, long = sorted([one, other])
    assert parse_duration(format_duration(short)) <= parse_duration(format_duration(long))


@given(seconds=st.floats())
def test_every_float_is_formatted(seconds: float) -> None:
    assert format_duration(seconds)


def bytes_shown(text: str) -> float:
    number, unit = text.split()
    return float(number) * float(KIB ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit))


@given(count=st.integers(0, 2**49))
def test_formatted_bytes_read_back_nearly_the_same(count: int) -> None:
    text_shown = format_bytes(count)
    last_digit = bytes_shown("1 " + text_shown.split()[1]) / 10
    assert abs(bytes_shown(text_shown) - count) <= (last_digit / 2 + 1 if count >= 1024 else 0)


@given(one=st.integers(0, 2**49), other=st.integers(0, 2**49))
def test_more_bytes_are_never_formatted_as_fewer(one: int, other: int) -> None:
    few, many = sorted([one, other])
    assert bytes_shown(format_bytes(few)) <= bytes_shown(format_bytes(many))


@given(count=st.integers())
def test_every_count_is_formatted(count: int) -> None:
    assert format_bytes(count).isprintable()


@given(text=st.text() | st.text(alphabet="0123456789.dhmskKiB ", max_size=12))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        value = parse_duration(text)
    except UnitError as error:
        value, message = 0, str(error)
    else:
        message = "read"
    assert value >= 0
    assert message.isprintable()


# -- sizes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("812 B", 812),
        ("64KiB", 65536),
        (" 1.5 MiB ", 3 * 2**19),
        ("1GiB", 2**30),
        ("2TiB", 2**41),
    ],
)
def test_sizes(text: int | str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "KiB", "1KB", "1kib", "-1", "1e3", "1 GiB 2 MiB", True, "٣"])
def test_invalid_sizes(text: int | str) -> None:
    with pytest.raises(UnitError, match="must be a number of bytes or a text like 64KiB"):
        parse_size(text)


@given(count=st.integers(0, 2**49))
def test_a_formatted_size_reads_back_nearly_the_same(count: int) -> None:
    assert abs(parse_size(format_bytes(count)) - count) <= count / 20


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([0, 0], "▁▁"),
        ([0, 1, 4, 8], "▁▃▅█"),
        ([0, 0.001, 1000], "▁▂█"),  # little is not nothing
    ],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars
