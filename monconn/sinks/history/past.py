"""The past of one device: its connections, alarms and refusals, and the runs of monconn."""

from __future__ import annotations

import ipaddress
import sqlite3
from collections.abc import Sequence
from typing import Any

import attrs

from monconn.sinks.history.filters import rows
from monconn.sinks.history.query import checked, connection_dict, event_dict


@attrs.frozen
class Past:
    """What a history has of one device, newest first."""

    connections: list[dict[str, Any]]
    """As :func:`monconn.sinks.history.query.connections` gives them."""
    events: list[dict[str, Any]]
    """Its alarms and refusals, and starts and stops of monconn."""


def past_of(
    db: sqlite3.Connection,
    device: str,
    services: Sequence[str],
    since: float,
    limit: int,
) -> Past:
    """The last connections of a device, and what happened in the time that they cover.

    :param device: its name: an IP, a network, or another one that clients' addresses have.
    :param services: only at these.
    :param since: wall-clock seconds, before which nothing is looked for.
    :param limit: the most of connections, and of events.
    """
    whose, values = _whose(device)
    marks = ", ".join(f":service{number}" for number in range(len(services)))
    values |= {f"service{number}": name for number, name in enumerate(services)}
    values |= {"since": since, "limit": limit}
    # With +closed_at, SQLite does not go through all rows by their time, but by the client.
    found = rows(
        db,
        f"SELECT * FROM connections WHERE {whose} AND service IN ({marks}) AND +closed_at >= :since"
        " ORDER BY +closed_at DESC, entry DESC LIMIT :limit",
        values,
    )
    if len(found) == limit:
        values["since"] = max(since, min(row["opened_at"] for row in found))
    happened = rows(
        db,
        "SELECT * FROM events WHERE at >= :since AND (event IN ('started', 'stopped')"
        f" OR (event IN ('alarm', 'refused') AND {whose} AND service IN ({marks})))"
        " ORDER BY at DESC, entry DESC LIMIT :limit",
        values,
    )
    return Past(
        [connection_dict(row) for row in checked("connections", found)],
        [event_dict(row) for row in checked("events", happened)],
    )


def _whose(device: str) -> tuple[str, dict[str, Any]]:
    """An SQL condition for the rows of a device, and its values."""
    try:
        network = ipaddress.ip_network(device.partition("%")[0], strict=False)
    except ValueError:
        return "client_ip = :device", {"device": device}
    if network.num_addresses == 1 and "%" not in device:
        return "client_address = :first", {"first": network.network_address.packed}
    if "%" in device:
        return "client_ip = :device", {"device": device}
    first, last = network.network_address.packed, network.broadcast_address.packed
    return (
        "client_address BETWEEN :first AND :last AND length(client_address) = :length",
        {"first": first, "last": last, "length": len(first)},
    )
