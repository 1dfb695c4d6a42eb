from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.policy.buckets import MOST_CHANGES, ClientBuckets, TokenBucket
from monconn.policy.quantities import Rate
from tests.counting import calls_in_python
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


RATES = (Rate(10), Rate(1, burst=5), Rate(1, 60.0, 3), Rate(100, burst=2))


@settings(max_examples=examples(100))
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from(("take", "set_rate")), st.integers(0, 3)),
        max_size=60,
    )
)
def test_another_rate_is_as_if_all_had_it_at_once(steps: list[tuple[float, str, int]]) -> None:
    buckets = ClientBuckets(RATES[0])
    model = [TokenBucket(RATES[0]) for _ in range(4)]
    now = NOW
    changes = 0
    for pause, what, number in steps:
        now += pause
        if what == "set_rate":
            changes += 1
            if changes > MOST_CHANGES:
                break
            buckets.set_rate(RATES[number], now)
            model = [each.with_rate(RATES[number], now) for each in model]
        else:
            assert buckets.has(str(number), now) == model[number].has(now)
            if model[number].has(now):
                buckets.take(str(number), now)
                model[number].take(now)
    for number, each in enumerate(model):
        assert buckets.used(str(number), now) == pytest.approx(each.used(now))
        assert buckets.next_at(str(number), now) == pytest.approx(each.next_at(now))


def test_another_rate_costs_no_more_with_many_clients() -> None:
    calls = []
    for count in (10, 1000):
        buckets = ClientBuckets(RATES[0])
        for number in range(count):
            buckets.take(str(number), NOW)
        calls.append(calls_in_python(lambda made=buckets: made.set_rate(RATES[1], NOW)))  # type: ignore[misc]
    assert calls[0] == calls[1]
    for number in range(MOST_CHANGES * 2):
        buckets.set_rate(RATES[number % 4], NOW)
    assert len(buckets._changes) == MOST_CHANGES
    assert buckets.used("1", NOW) == pytest.approx(1)


def test_most_clients_are_bounded() -> None:
    buckets = ClientBuckets(Rate(1, 3600.0), most=100)
    for number in range(1000):
        buckets.take(str(number), NOW)
    assert len(buckets) <= 100
    assert not buckets.has("999", NOW)
    assert buckets.has("0", NOW)
