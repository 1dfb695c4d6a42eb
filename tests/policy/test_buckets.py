from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.policy.buckets import ClientBuckets, TokenBucket
from monconn.policy.quantities import Rate
from tests.properties import examples

NOW = 1000.0


def taken(bucket: TokenBucket, at: float, most: int = 1000) -> int:
    """How many tokens could be taken at once."""
    for count in range(most):
        if not bucket.has(at):
            return count
        bucket.take(at)
    return most


def test_burst_and_then_one_for_each_interval() -> None:
    bucket = TokenBucket(Rate(20, burst=50))
    assert taken(bucket, NOW) == 50
    assert bucket.next_at(NOW) == pytest.approx(NOW + 0.05)
    assert taken(bucket, NOW + 0.051) == 1
    assert taken(bucket, NOW + 1.001) == 19
    assert taken(bucket, NOW + 3600) == 50


def test_used_up_stays_used_up_with_another_rate() -> None:
    bucket = TokenBucket(Rate(10))
    assert taken(bucket, NOW) == 10
    slower = bucket.with_rate(Rate(1, burst=5), NOW)
    assert taken(slower, NOW) == 0
    assert taken(slower, NOW + 1.001) == 1
    faster = TokenBucket(Rate(10)).with_rate(Rate(100), NOW)
    assert taken(faster, NOW) == 100


@settings(max_examples=examples(100))
@given(
    st.integers(1, 50),
    st.floats(0.1, 100),
    st.integers(1, 100),
    st.lists(st.floats(0, 30), max_size=60),
)
def test_never_more_than_burst_and_rate(
    count: int, period: float, burst: int, pauses: list[float]
) -> None:
    rate = Rate(count, period, burst)
    bucket, now, total = TokenBucket(rate), NOW, 0
    for pause in pauses:
        now += pause
        total += taken(bucket, now)
        assert total <= burst + (now - NOW) * rate.per_second + 1e-3


def test_clients_are_apart_and_forgotten_once_full() -> None:
    buckets = ClientBuckets(Rate(1, burst=2))
    for _ in range(2):
        buckets.take("a", NOW)
    assert not buckets.has("a", NOW)
    assert buckets.has("b", NOW)
    buckets.take("b", NOW + 10)  # by then a's is full
    assert len(buckets) == 1
    assert buckets.used("a", NOW + 10) == 0


def test_most_clients_are_bounded() -> None:
    buckets = ClientBuckets(Rate(1, 3600.0), most=100)
    for number in range(1000):
        buckets.take(str(number), NOW)
    assert len(buckets) <= 100
    assert not buckets.has("999", NOW)
    assert buckets.has("0", NOW)
