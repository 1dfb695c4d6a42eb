from __future__ import annotations

from typing import Any

import pytest

from monconn.model.record import ConnectionRecord
from monconn.policy.sides import Sides
from monconn.policy.timeouts import Timeouts

NEVER = float("inf")
OFF = {
    "connect_timeout": 0.0,
    "read_timeout": 0.0,
    "write_timeout": 0.0,
    "max_idle": 0.0,
    "half_close_timeout": 0.0,
    "max_lifetime": 0.0,
}


def make_record(**fields: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 1,
        "service": "",
        "client": "",
        "client_ip": "",
        "listener": "",
        "backend": "",
        "opened_at": 0.0,
        "opened": 100.0,
        "state": "open",
    }
    return ConnectionRecord(**known | fields)


@pytest.mark.parametrize(
    ("limits", "fields", "deadline"),
    [
        ({}, {}, (NEVER, None)),
        ({"connect_timeout": 10}, {"state": "connecting"}, (110, "connect_timeout")),
        ({"connect_timeout": 10}, {"state": "open"}, (NEVER, None)),
        # idle: from the opening on, and bytes either way count
        ({"max_idle": 20}, {}, (120, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0}, (125, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0, "last_down": 107.0}, (127, "idle_timeout")),
        ({"max_idle": 20}, {"last_up": 105.0, "last_delivered": 109.0}, (129, "idle_timeout")),
        ({"max_idle": 20}, {"state": "connecting"}, (120, "idle_timeout")),
        # lifetime: whatever it does
        ({"max_lifetime": 50}, {"last_up": 149.0}, (150, "lifetime")),
        # read: only bytes from the client count, and only while we read and it may send
        ({"read_timeout": 30}, {"reading_since": 100.0}, (130, "read_timeout")),
        (
            {"read_timeout": 30},
            {"reading_since": 100.0, "last_up": 104.0, "last_down": 109.0},
            (134, "read_timeout"),
        ),
        ({"read_timeout": 30}, {"reading_since": 108.0, "last_up": 104.0}, (138, "read_timeout")),
        ({"read_timeout": 30}, {"reading_since": None}, (NEVER, None)),
        ({"read_timeout": 30}, {"reading_since": 100.0, "client_end": "fin"}, (NEVER, None)),
        # write: either side
        ({"write_timeout": 40}, {}, (NEVER, None)),
        ({"write_timeout": 40}, {"client_stalled": 102.0}, (142, "write_timeout")),
        ({"write_timeout": 40}, {"backend_stalled": 103.0}, (143, "write_timeout")),
        (
            {"write_timeout": 40},
            {"client_stalled": 109.0, "backend_stalled": 103.0},
            (143, "write_timeout"),
        ),
        # half-closed: from then on, and bytes count
        ({"half_close_timeout": 5}, {"last_up": 104.0}, (NEVER, None)),
        ({"half_close_timeout": 5}, {"half_closed": 106.0}, (111, "half_close_timeout")),
        (
            {"half_close_timeout": 5},
            {"half_closed": 106.0, "last_down": 108.0},
            (113, "half_close_timeout"),
        ),
        (
            {"half_close_timeout": 5},
            {"half_closed": 106.0, "last_up": 101.0},
            (111, "half_close_timeout"),
        ),
        # unset: once the backend has ended, and from that moment
        ({"half_close_timeout": None}, {"half_closed": 106.0, "last_up": 104.0}, (NEVER, None)),
        (
            {"half_close_timeout": None},
            {"half_closed": 106.0, "backend_ended": 109.0},
            (169, "half_close_timeout"),
        ),
        (
            {"half_close_timeout": None},
            {"half_closed": 106.0, "backend_ended": 106.0, "last_delivered": 120.0},
            (180, "half_close_timeout"),
        ),
        # several: the earliest
        (
            {"max_idle": 20, "max_lifetime": 15, "connect_timeout": 30},
            {"state": "connecting"},
            (115, "lifetime"),
        ),
    ],
)
def test_next_deadline(
    limits: dict[str, float], fields: dict[str, Any], deadline: tuple[float, str | None]
) -> None:
    assert Timeouts(**OFF | limits).next_deadline(make_record(**fields)) == deadline


@pytest.mark.parametrize(
    ("limits", "now", "check"),
    [
        ({}, 100.0, NEVER),
        # Four checks within each of these, as no event says that waiting bytes have moved.
        ({"max_idle": 20}, 100.0, 105.0),
        ({"max_idle": 20}, 118.0, 120.0),
        ({"write_timeout": 40}, 100.0, 110.0),
        ({"write_timeout": 40, "max_idle": 8}, 100.0, 102.0),
        ({"write_timeout": 40, "max_idle": 80}, 175.0, 180.0),
        ({"half_close_timeout": 20}, 100.0, NEVER),
    ],
)
def test_next_check(limits: dict[str, float], now: float, check: float) -> None:
    assert Timeouts(**OFF | limits).next_check(make_record(), now) == check


@pytest.mark.parametrize(
    ("limits", "fields", "check"),
    [
        # As long as it answers, what happens after a check cannot be due before the next one.
        ({"unreachable_timeout": 20.0}, {}, 205.0),
        ({"unreachable_timeout": 2.0}, {}, 200.5),
        # Once it does not: often, as nothing tells that it answers again, and when it is due.
        ({"unreachable_timeout": 20.0}, {"client_unanswered": 199.0}, 201.0),
        ({"unreachable_timeout": 20.0}, {"backend_unanswered": 180.5}, 200.5),
        ({"unreachable_timeout": 20.0}, {"backend_unanswered": 150.0}, 200.25),
        ({"unreachable_timeout": Sides(20.0, 0.0)}, {"backend_unanswered": 150.0}, 205.0),
        # Unset, it is half_close_timeout's default once the backend has ended, if that is unset.
        ({}, {"client_unanswered": 199.0}, NEVER),
        ({"half_close_timeout": None}, {"client_unanswered": 199.0}, NEVER),
        (
            {"half_close_timeout": None},
            {"backend_ended": 195.0, "client_unanswered": 195.0, "client_stalled": 196.0},
            201.0,
        ),
        ({"half_close_timeout": None}, {"backend_ended": 199.0}, 215.0),
        ({"half_close_timeout": 300}, {"backend_ended": 199.0, "half_closed": 199.0}, 275.0),
        (
            {"half_close_timeout": None, "unreachable_timeout": 600},
            {"backend_ended": 199.0, "client_stalled": 199.0},
            215.0,
        ),
        # Set, bytes that are still being delivered prolong it.
        ({"half_close_timeout": 300}, {"half_closed": 199.0}, 275.0),
        ({"half_close_timeout": 300}, {}, NEVER),
    ],
)
def test_next_check_of_a_side_that_may_have_vanished(
    limits: dict[str, Any], fields: dict[str, Any], check: float
) -> None:
    assert Timeouts(**OFF | limits).next_check(make_record(**fields), 200.0) == check


def test_next_check_once_a_side_has_ended() -> None:
    """What a slow reader acknowledges counts for half_close_timeout, too."""
    timeouts = Timeouts(**OFF | {"half_close_timeout": 20})
    record = make_record(half_closed=104.0)
    assert timeouts.next_check(record, 105.0) == 110.0
    assert timeouts.next_check(record, 120.0) == 124.0


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, 30.0),
        ({"connect_timeout": 10, "max_lifetime": 20}, 10),
        ({"read_timeout": 7, "max_lifetime": 20}, 7),
        ({"max_lifetime": 20}, 20),
        ({"write_timeout": 40, "max_idle": 80}, 10),
        ({"write_timeout": 80, "max_idle": 40}, 10),
        ({"unreachable_timeout": 40}, 10),
        ({"half_close_timeout": 1}, 30.0),  # the change of state brings a check
    ],
)
def test_first_check(limits: dict[str, float], seconds: float) -> None:
    """Computed beforehand: what a check at the opening would say, or half a minute."""
    timeouts = Timeouts(**OFF | limits)
    assert timeouts.first_check_seconds == seconds
    fresh = make_record(state="connecting", reading_since=100.0)
    assert min(timeouts.next_check(fresh, 100.0), 130.0) == 100.0 + seconds


def test_defaults() -> None:
    assert Timeouts() == Timeouts(
        connect_timeout=10,
        read_timeout=0,
        write_timeout=600,
        max_idle=900,
        half_close_timeout=None,
        max_lifetime=0,
    )
