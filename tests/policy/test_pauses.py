"""How long a service stood still, and what that does to time limits."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.policy import pauses
from monconn.policy.pauses import Pauses
from monconn.policy.timeouts import Timeouts

from ..properties import examples
from .test_timeouts import OFF, make_record

STEPS = st.lists(st.integers(0, 50), max_size=12)


def paused(steps: list[int]) -> tuple[Pauses, list[tuple[int, int]], int]:
    """Pauses that begin and end after so many seconds each; and what they are, up to now."""
    made, now, spans, begun = Pauses(), 0, [], 0
    for index, step in enumerate(steps):
        now += step
        if index % 2 == 0:
            made.begin(now)
            made.begin(now + 1)  # has no effect
            begun = now
        else:
            made.end(now)
            spans.append((begun, now))
    if len(steps) % 2:
        spans.append((begun, now))
    return made, spans, now


@given(STEPS, st.integers(0, 300))
@settings(max_examples=examples(100))
def test_each_second_of_a_pause_counts_once(steps: list[int], when: int) -> None:
    made, spans, now = paused(steps)
    expected = sum(max(0, end - max(begin, when)) for begin, end in spans)
    assert made.paused_since(when, now) == expected
    is_paused = bool(len(steps) % 2)
    assert made.delay_of(when) == (math.inf if is_paused else expected)


@given(STEPS.filter(lambda steps: len(steps) % 2 == 0))
@settings(max_examples=examples(50))
def test_old_pauses_are_joined_and_none_of_their_time_is_lost(steps: list[int]) -> None:
    made, spans, _now = paused(steps)
    with patch.object(pauses, "MOST_PAUSES", 2):
        joined, _, _ = paused(steps)
    assert len(joined._began) <= 2
    assert len(joined._began) == len(joined._ended) == len(joined._before)
    assert joined.delay_of(0) == made.delay_of(0)
    if spans:
        assert joined.delay_of(spans[-1][0]) == made.delay_of(spans[-1][0])


def test_limits_on_silence_stand_still_and_others_go_on() -> None:
    made = Pauses()
    made.begin(110)
    cases: dict[str, tuple[dict[str, float], str]] = {
        "max_idle": ({}, "idle_timeout"),
        "half_close_timeout": ({"half_closed": 100.0}, "half_close_timeout"),
        "write_timeout": ({"client_stalled": 100.0}, "write_timeout"),
    }
    for key, (fields, reason) in cases.items():
        timeouts, record = Timeouts(**OFF | {key: 20.0}), make_record(**fields)
        assert timeouts.next_deadline(record, made)[0] == math.inf, reason
    after = Pauses()
    after.begin(110)
    after.end(150)
    for key, (fields, reason) in cases.items():
        timeouts, record = Timeouts(**OFF | {key: 20.0}), make_record(**fields)
        assert timeouts.next_deadline(record, after) == (160, reason)
        later = make_record(**fields, last_up=155.0, last_delivered=155.0)
        if key != "write_timeout":
            assert timeouts.next_deadline(later, after) == (175, reason)
    unset = Timeouts(**OFF | dict[str, Any](half_close_timeout=None))
    record = make_record(backend_ended=100.0)
    assert unset.next_deadline(record, after) == (200, "half_close_timeout")
    others: tuple[tuple[str, dict[str, Any], tuple[float, str]], ...] = (
        ("max_lifetime", {}, (120, "lifetime")),
        ("connect_timeout", {"state": "connecting"}, (120, "connect_timeout")),
    )
    for key, more, deadline in others:
        timeouts = Timeouts(**OFF | {key: 20.0})
        for each in (made, after):
            assert timeouts.next_deadline(make_record(**more), each) == deadline
