"""Which connections to show, in which order, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import attrs

from monconn.addresses import Network
from monconn.model.reasons import State
from monconn.model.record import ConnectionRecord
from monconn.ops.rates import Rates
from monconn.policy.networks import NetworkSet

Order = Literal["id", "up", "down", "age", "idle", "rate", "closed"]
ORDERS: tuple[Order, ...] = get_args(Order)


@attrs.frozen
class ConnectionQuery:
    """What to show; None and 0 ask for nothing in particular."""

    client: Network | None = None
    state: State | None = None
    idle_over_seconds: float = 0.0
    text: str = ""
    """Stands somewhere in client, service, state, backend or reason, in small letters."""
    order: Order = "id"
    """``id`` is oldest first; by the others, the most (or the latest) comes first."""


def listed(
    records: Iterable[ConnectionRecord], wanted: ConnectionQuery, rates: Rates, now: float
) -> list[ConnectionRecord]:
    """The records that are wanted, in order.

    :param rates: whose last look is to be gone by.
    :param now: monotonic seconds.
    """
    found = list(_matching(records, wanted, now))
    found.sort(key=_key(wanted.order, rates, now), reverse=wanted.order != "id")
    return found


def _matching(
    records: Iterable[ConnectionRecord], wanted: ConnectionQuery, now: float
) -> Iterator[ConnectionRecord]:
    clients = None if wanted.client is None else NetworkSet([wanted.client])
    for record in records:
        if clients is not None and not clients.covers(record.client_ip):
            continue
        if wanted.state is not None and record.state != wanted.state:
            continue
        if wanted.idle_over_seconds and record.idle_seconds(now) <= wanted.idle_over_seconds:
            continue
        if wanted.text and wanted.text not in _words_of(record):
            continue
        yield record


def _words_of(record: ConnectionRecord) -> str:
    words = (record.client, record.service, record.state, record.backend, record.reason or "")
    return "\n".join(words).lower()


def _key(order: Order, rates: Rates, now: float) -> Callable[[ConnectionRecord], float]:
    keys: dict[Order, Callable[[ConnectionRecord], float]] = {
        "id": lambda record: record.id,
        "up": lambda record: record.up,
        "down": lambda record: record.down,
        "age": lambda record: record.age_seconds(now),
        "idle": lambda record: record.idle_seconds(now),
        "rate": lambda record: sum(rates.of(record, now)),
        "closed": lambda record: record.closed or 0.0,
    }
    return keys[order]


def row(record: ConnectionRecord, rates: Rates, now: float) -> dict[str, Any]:
    """A connection as plain values for JSON, with its rates in bytes a second."""
    shown = record.snapshot(now)
    up_rate, down_rate = rates.of(record, now)
    return shown | {"up_rate": round(up_rate, 1), "down_rate": round(down_rate, 1)}
