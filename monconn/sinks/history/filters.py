"""Which part of a history is queried, and the same as SQL conditions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from monconn.addresses import Network, parse_network
from monconn.errors import QuestionError, quoted
from monconn.model.actions import ACTION_KINDS
from monconn.model.alarms import ALARM_KINDS
from monconn.model.reasons import REASONS, REFUSALS

USUAL_ROWS = 1_000
"""The limit where none is given."""
MOST_ROWS = 10_000
"""The highest limit that a running monconn accepts: each row takes about a kilobyte."""


class Condition(Protocol):
    """A condition on the columns of a table, made from the terms of the filter language."""

    @property
    def text(self) -> str:
        """SQL for a ``WHERE``."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Values of the named parameters, by names that none of :func:`where` begins with."""

    @property
    def functions(self) -> Mapping[str, Callable[[Any], Any]]:
        """The SQL functions of one argument that the text calls, by name."""


@attrs.frozen
class Order:
    """By what rows are sorted; those that have no such value come last either way.

    :param name: a key of the rows.
    """

    name: str
    is_descending: bool


@attrs.frozen
class HistoryFilter:
    """Conditions on the rows of a history; None is no condition."""

    service: str | None = None
    client: Network | None = None
    since: float | None = None
    """Wall clock, in seconds; compared with the end of a connection."""
    until: float | None = None
    """Wall clock, in seconds; excluded."""
    reason: str | None = None
    """The reason of a connection; of an event, the refusal, or the kind of the alarm or action."""
    limit: int = USUAL_ROWS
    order: Order | None = None
    """None for the latest first."""
    condition: Condition | None = None
    """A further condition on the columns of connections or of events. A report takes
    none: the sums of whole hours lack most columns."""
    after: tuple[float, int] | None = None
    """The time and the entry of a row: only those that come after it, where the latest is first."""


# What datetime can write, less a day for time zones.
_FIRST_SECOND = -62135596800 + 86400
_LAST_SECOND = 253402300799 - 86400


def make_filter(
    *,
    events: bool = False,
    service: str | None = None,
    client: str | None = None,
    since: float | None = None,
    until: float | None = None,
    reason: str | None = None,
    limit: int | None = None,
    order: Order | None = None,
    condition: Condition | None = None,
    after: tuple[float, int] | None = None,
) -> HistoryFilter:
    """A filter from values as users give them.

    :param events: whether the reason is a refusal, or the kind of an alarm or an action.
    :param after: as :attr:`HistoryFilter.after` is.
    :raises AddressError: the client is no network.
    :raises QuestionError: the reason is unknown, or since is not before until, or one of them is
        no time that has a date.
    """
    known = (*REFUSALS, *ALARM_KINDS, *ACTION_KINDS) if events else REASONS
    if reason is not None and reason not in known:
        raise QuestionError(f"{quoted(reason)} is none of {', '.join(known)}")
    for moment in (since, until):
        if moment is not None and not _FIRST_SECOND <= moment <= _LAST_SECOND:
            raise QuestionError("since and until must be in the years 1 to 9999")
    if since is not None and since >= (time.time() if until is None else until):
        raise QuestionError("there is no time between since and until")
    network = None if client is None else parse_network(client)
    limit = max(limit or USUAL_ROWS, 1)
    return HistoryFilter(service, network, since, until, reason, limit, order, condition, after)


def where(
    selection: HistoryFilter, time_column: str, word_column: str, tag: str = ""
) -> tuple[str, dict[str, Any]]:
    """An SQL condition, and the values of its named parameters.

    :param time_column: compared with since and until.
    :param word_column: compared with the reason.
    :param tag: ends the parameters' names, so that they differ from others in the statement.
    """
    conditions = ["TRUE"]
    values: dict[str, Any] = {}
    for name, condition in (
        ("service", "service ="),
        ("since", f"{time_column} >="),
        ("until", f"{time_column} <"),
        ("reason", f"{word_column} ="),
    ):
        if getattr(selection, name) is not None:
            conditions.append(f"{condition} :{name}{tag}")
            values[name + tag] = getattr(selection, name)
    if selection.client is not None:
        first, last = (
            selection.client.network_address.packed,
            selection.client.broadcast_address.packed,
        )
        # Compare the length first: as bytes, an IPv4 address may lie between two IPv6 ones.
        conditions.append(f"length(client_address) = {len(first)}")
        conditions.append(f"client_address BETWEEN :first{tag} AND :last{tag}")
        values.update({f"first{tag}": first, f"last{tag}": last})
    if selection.after is not None:
        # The first term is what SQLite uses an index for.
        moment, entry = f":after{tag}", f":after_entry{tag}"
        conditions.append(f"{time_column} <= {moment}")
        conditions.append(f"({time_column} < {moment} OR entry < {entry})")
        values[moment[1:]], values[entry[1:]] = selection.after
    if selection.condition is not None:
        conditions.append(f"({selection.condition.text})")
        values.update(selection.condition.values)
    return " AND ".join(conditions), values


def order_by(order: Order | None, time_column: str, columns: Mapping[str, Sequence[str]]) -> str:
    """What follows ``ORDER BY``.

    :param columns: of each key by which rows can be sorted, the columns that hold it.
    """
    latest = f"{time_column} DESC, entry DESC"
    if order is None:
        return latest
    direction = "DESC" if order.is_descending else "ASC"
    # Without a collation for figures, which NOCASE leaves as they are.
    sorted_by = [f"{each} COLLATE NOCASE {direction}" for each in columns[order.name]]
    return ", ".join((f"{columns[order.name][0]} IS NULL", *sorted_by, latest))


def rows(
    db: sqlite3.Connection,
    statement: str,
    values: Mapping[str, Any],
    condition: Condition | None = None,
) -> list[dict[str, Any]]:
    """The rows that a statement finds, by column name.

    :param condition: part of the statement: its functions are created first.
    """
    for name, function in ({} if condition is None else condition.functions).items():
        db.create_function(name, 1, function, deterministic=True)
    cursor = db.execute(statement, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
