from __future__ import annotations

import pytest

from monconn.policy.quantities import (
    Bandwidth,
    Rate,
    parse_bandwidth,
    parse_bytes_per_second,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20/s", Rate(20)),
        ("20/s burst 50", Rate(20, 1.0, 50)),
        ("100/m", Rate(100, 60.0)),
        ("5 / 10s", Rate(5, 10.0)),
        ("1/h burst 3", Rate(1, 3600.0, 3)),
        ("3/500ms", Rate(3, 0.5)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "20", "/s", "0/s", "20/s burst 0", "20/0s", "-1/s", "20/x", "20/s burst", "9999999/s"],
)
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "bandwidth"),
    [
        ("1MiB/s", Bandwidth(1 << 20, 1 << 20)),
        ("1MiB/s,64KiB/s", Bandwidth(1 << 20, 1 << 16)),
        ("5000/s", Bandwidth(5000, 5000)),
    ],
)
def test_bandwidths(text: str, bandwidth: Bandwidth) -> None:
    assert parse_bandwidth(text) == bandwidth


@pytest.mark.parametrize("text", ["1MiB", "1MiB/m", "x/s", "/s", "1MiB/s,2", "100/s", "0/s"])
def test_no_bandwidths(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_bandwidth(text)


def test_texts() -> None:
    assert str(Bandwidth(1 << 20, 1 << 20)) == "1MiB/s"
    assert str(Bandwidth(0, 1 << 16)) == "{down: 64KiB/s}"
    assert parse_bytes_per_second("1.5KiB/s") == 1536
