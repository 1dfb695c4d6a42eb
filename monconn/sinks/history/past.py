"""The past of one device: its connections, alarms and refusals, and the runs of monconn."""

from __future__ import annotations

import ipaddress
import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from monconn.addresses import name_of_text
from monconn.sinks.history.filters import rows
from monconn.sinks.history.query import checked, connection_dict, event_dict


@attrs.frozen
class Told:
    """A device whose name is a fact about its connections.

    :param fact: which fact.
    :param addresses: those that its connections have come from.
    :param own: those of them that no other device has used: refusals there are of this one.
    """

    fact: str
    addresses: Sequence[str]
    own: Sequence[str]


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
    told: Told | None = None,
) -> Past:
    """The last connections of a device, and what happened in the time that they cover.

    :param device: its name: an IP, a network, or another one that clients' addresses have.
    :param services: only at these.
    :param told: what there is to know of one whose name is no address.
    :param since: wall-clock seconds, before which nothing is looked for.
    :param limit: the most of connections, and of events.
    """
    if told is None:
        whose, values = _whose(device)
        # That of an address tells only its own, and not those of devices that have used it.
        values["device"] = device
        whose_event = f"(event = 'refused' OR client = :device) AND {whose}"
    else:
        db.create_function("monconn_said", 1, _said(told.fact, device), deterministic=True)
        values = {"device": device}
        whose = f"{_from(told.addresses, 'address', values)} AND monconn_said(facts)"
        refused = _from(told.own, "own", values)
        whose_event = (
            f"((event = 'alarm' AND client = :device) OR (event = 'refused' AND {refused}))"
        )
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
        f" OR (event IN ('alarm', 'refused') AND {whose_event} AND service IN ({marks})))"
        " ORDER BY at DESC, entry DESC LIMIT :limit",
        values,
    )
    return Past(
        [connection_dict(row) for row in checked("connections", found)],
        [event_dict(row) for row in checked("events", happened)],
    )


def _from(addresses: Sequence[str], tag: str, values: dict[str, Any]) -> str:
    """An SQL condition for the rows of clients with some addresses, to whose values it adds."""
    packed = []
    others = []
    for number, each in enumerate(addresses):
        try:
            values[f"{tag}{number}"] = ipaddress.ip_address(each).packed
            packed.append(f":{tag}{number}")
        except ValueError:  # with a zone, or "unix"
            values[f"{tag}{number}"] = each
            others.append(f":{tag}{number}")
    return (
        f"(client_address IN ({', '.join(packed)})"
        f" OR (client_address IS NULL AND client_ip IN ({', '.join(others)})))"
        if others
        else f"client_address IN ({', '.join(packed)})"
    )


def _said(fact: str, device: str) -> Callable[[str | None], bool]:
    """A function that says whether the facts of a connection have a device's name."""

    def is_said(facts: str | None) -> bool:
        try:
            told = json.loads(facts or "{}").get(fact)
        except (ValueError, AttributeError, RecursionError):
            return False
        return told is not None and name_of_text(str(told)) == device

    return is_said


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
