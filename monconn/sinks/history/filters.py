"""Which part of a history is asked for, and the conditions that say so in SQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from monconn.addresses import Network, parse_network
from monconn.errors import QuestionError, quoted
from monconn.model.alarms import ALARM_KINDS
from monconn.model.reasons import REASONS, REFUSALS

USUAL_ROWS = 1_000
"""As many are told where nobody says how many."""
MOST_ROWS = 10_000
"""As many can be asked for at once of a monconn that runs: each takes about a kilobyte."""


@attrs.frozen
class HistoryFilter:
    """Which part of the past is asked for."""

    service: str | None = None
    client: Network | None = None
    since: float | None = None
    """Wall clock; of a connection, its end counts."""
    until: float | None = None
    """Wall clock; what happened just then is out."""
    reason: str | None = None
    """Of an event, its word: the refusal, or the alarm's kind."""
    limit: int = USUAL_ROWS
    condition: str = ""
    """One more condition in SQL on the columns of the one table that is asked, where there is one;
    not for reports, whose sums lack most columns."""
    values: Mapping[str, Any] = attrs.field(factory=dict)
    """For the named parameters in it."""
    functions: Mapping[str, Callable[[Any], Any]] = attrs.field(factory=dict)
    """Those of one argument that it calls."""


def make_filter(
    *,
    events: bool = False,
    service: str | None = None,
    client: str | None = None,
    since: float | None = None,
    until: float | None = None,
    reason: str | None = None,
    limit: int | None = None,
) -> HistoryFilter:
    """What somebody asks for, in their own words.

    :param events: whether the reason is the word of an event.
    :raises AddressError: the client is no network.
    :raises QuestionError: there is no such reason, or no time between since and until.
    """
    words = (*REFUSALS, *ALARM_KINDS) if events else REASONS
    if reason is not None and reason not in words:
        raise QuestionError(f"{quoted(reason)} is none of {', '.join(words)}")
    if since is not None and since >= (time.time() if until is None else until):
        raise QuestionError("there is no time between since and until")
    network = None if client is None else parse_network(client)
    return HistoryFilter(service, network, since, until, reason, max(limit or USUAL_ROWS, 1))


def where(
    past: HistoryFilter, time_column: str, word_column: str, tag: str = ""
) -> tuple[str, dict[str, Any]]:
    """Conditions on a table of ours, and the values for them.

    :param tag: tells these values from others in the same statement.
    """
    conditions = ["TRUE"]
    values: dict[str, Any] = {}
    for name, condition in (
        ("service", "service ="),
        ("since", f"{time_column} >="),
        ("until", f"{time_column} <"),
        ("reason", f"{word_column} ="),
    ):
        if getattr(past, name) is not None:
            conditions.append(f"{condition} :{name}{tag}")
            values[name + tag] = getattr(past, name)
    if past.client is not None:
        first, last = past.client.network_address.packed, past.client.broadcast_address.packed
        # The length tells IPv4 from IPv6: as bytes, one may lie between two of the other.
        conditions.append(f"length(client_address) = {len(first)}")
        conditions.append(f"client_address BETWEEN :first{tag} AND :last{tag}")
        values.update({f"first{tag}": first, f"last{tag}": last})
    if past.condition:
        conditions.append(f"({past.condition})")
        values.update(past.values)
    return " AND ".join(conditions), values


def rows(db: sqlite3.Connection, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a statement finds, by the columns' names."""
    cursor = db.execute(statement, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
