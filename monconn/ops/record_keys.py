"""What live records are sorted by: the values of a row's fields, without making rows.

To make a row of each of a hundred thousand connections would take seconds; to read one value of
each takes a tenth of one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from monconn.model.record import ConnectionRecord
from monconn.ops.rates import Rates
from monconn.ops.sorting import Sort, sort_key

MEASURED_FIELDS = frozenset(
    f"{side}_{name}_seconds"
    for side in ("client", "backend")
    for name in ("last_heard", "unreachable")
)
"""Fields whose values are as of when the kernel was last asked about the connection."""
_SINCE_OPENING = ("first_up", "first_down", "last_up", "last_down")
_MOMENTS = {
    "client_last_heard_seconds": "client_heard",
    "backend_last_heard_seconds": "backend_heard",
    "client_unreachable_seconds": "client_unreachable",
    "backend_unreachable_seconds": "backend_unreachable",
}
_NUMBERS = frozenset({"id", "up", "down", "opened_at", "closed_at", "connect_seconds"})


def record_key(sort: Sort, rates: Rates, now: float) -> Callable[[ConnectionRecord], Any]:
    """What a record is sorted by; None where it has no such value.

    :param sort: by fields of a :class:`~monconn.ops.rows.ConnectionRow`.
    :param now: monotonic seconds.
    """
    if len(sort.fields) > 1:
        return lambda record: sum(rates.of(record, now))
    (name,) = sort.fields
    if name in _NUMBERS:
        return attrgetter(name)
    keys: dict[str, Callable[[ConnectionRecord], Any]] = {
        "age_seconds": lambda record: record.age_seconds(now),
        "duration_seconds": lambda record: (
            None if record.closed is None else record.age_seconds(now)
        ),
        "idle_seconds": lambda record: record.idle_seconds(now),
        "limited_seconds": lambda record: (
            record.all_limited_seconds(now) if record.was_limited else None
        ),
        "is_limited": lambda record: record.is_limited(now) if record.was_limited else None,
        "up_rate": lambda record: rates.of(record, now)[0],
        "down_rate": lambda record: rates.of(record, now)[1],
        "mqtt_client_id": lambda record: sort_key(
            str(record.facts.get("mqtt_client_id") or "") or None if record.has_facts else None
        ),
    }
    if name in keys:
        return keys[name]
    if name in _MOMENTS:
        return _seconds_since(attrgetter(_MOMENTS[name]), now)
    if name.removesuffix("_seconds") in _SINCE_OPENING:
        get = attrgetter(name.removesuffix("_seconds"))
        return lambda record: None if get(record) is None else get(record) - record.opened
    text = attrgetter(name)
    return lambda record: sort_key(text(record) or None)


def _seconds_since(
    get: Callable[[ConnectionRecord], float | None], now: float
) -> Callable[[ConnectionRecord], float | None]:
    def seconds(record: ConnectionRecord) -> float | None:
        moment = get(record)
        if moment is None:
            return None
        return (now if record.closed is None else record.closed) - moment

    return seconds
