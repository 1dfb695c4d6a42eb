"""When devices were there, as a history has it: their connections and alarms within a period."""

from __future__ import annotations

import ipaddress
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import attrs

from monconn.addresses import name_of_text
from monconn.model.alarms import ALARM_KINDS

MOST_ALARMS = 20_000
"""Of all devices together: the first ones of the period."""
_MOST_RUNS = 200
_LAST_SECONDS = 253_402_300_800.0

WhyUnknown = Literal["not_recorded", "not_running", "killed"]
"""Why it is not known whether somebody was there: it was before the first row; monconn did not
run; or the run ended without a word, so that the connections that were live are in no row."""


@attrs.frozen
class Spell:
    """The connections of a device that were opened within the same small part of the period."""

    service: str
    device: str
    begin: float
    end: float
    """When the last one of them ended; wall-clock seconds, as is all here."""
    count: int
    seconds: float
    """Of all of them together, within the period."""


@attrs.frozen
class AlarmChange:
    """An alarm of a device that began, or that is over."""

    service: str
    device: str
    at: float
    kind: str
    is_over: bool
    detail: str


@attrs.frozen
class Unknown:
    """A part of the period of which not everything is known."""

    begin: float
    end: float
    why: WhyUnknown


@attrs.frozen
class PastPresence:
    """What a history has of some devices, in no order."""

    spells: list[Spell]
    alarms: list[AlarmChange]
    unknown: list[Unknown]


@attrs.frozen
class Wanted:
    """Which devices are meant.

    :param names: those whose name is an address, a network, or what clients have for one.
    :param told: those whose name is a fact about their connections.
    :param addresses: that the connections of these have come from.
    :param facts: which facts name a device, the first that is known.
    """

    names: Sequence[str]
    told: Collection[str] = ()
    addresses: Sequence[str] = ()
    facts: Sequence[str] = ()


def presence_of(
    db: sqlite3.Connection,
    wanted: Wanted,
    services: Sequence[str],
    since: float,
    until: float,
    width: float,
) -> PastPresence:
    """The connections and alarms of some devices within a period.

    SQLite adds the connections up, outside of Python's lock: a device may have had a hundred
    thousand of them, and there are never more spells than parts of the period.

    :param services: only at these.
    :param since: wall-clock seconds.
    :param width: of each part of the period, in seconds.
    :raises sqlite3.Error: the file cannot be read.
    """
    values: dict[str, Any] = {"since": since, "until": until, "width": width}
    values |= {f"service{number}": name for number, name in enumerate(services)}
    at_services = f"service IN ({_marks('service', services)})"
    period = f"closed_at >= :since AND opened_at < :until AND {at_services}"
    spells = [
        *_spells(db, *_by_name(wanted.names), period, values),
        *(_told_spells(db, wanted, period, values) if wanted.told else ()),
    ]
    names = [*wanted.names, *wanted.told]
    values |= {f"name{number}": name for number, name in enumerate(names)}
    values["limit"] = MOST_ALARMS
    # Up to now: an alarm that ends later, and has begun earlier, goes on all the time.
    found = db.execute(
        "SELECT service, client, at, word, over, detail FROM events WHERE at >= :since"
        f" AND event = 'alarm' AND client IN ({_marks('name', names)}) AND {at_services}"
        " ORDER BY at, entry LIMIT :limit",
        values,
    )
    alarms = [
        AlarmChange(service, device, at, kind, bool(is_over), detail)
        for service, device, at, kind, is_over, detail in found
        if kind in ALARM_KINDS and _are_times(at) and isinstance(detail, str)
    ]
    return PastPresence(spells, alarms, list(_unknown(db, since, until)))


_SUMS = (
    "min(opened_at), max(closed_at), count(*), sum(min(closed_at, :until) - max(opened_at, :since))"
)
_PART = "CAST((max(opened_at, :since) - :since) / :width AS INTEGER)"


def _by_name(names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """For each kind of names, the rows of a table of them with an SQL condition on the connections
    that it is joined with; and the values."""
    exact: list[str] = []
    within: list[str] = []
    other: list[str] = []
    values: dict[str, Any] = {}
    for number, name in enumerate(names):
        values[f"device{number}"] = name
        try:
            network = ipaddress.ip_network(name, strict=False)
        except ValueError:  # with a zone, or "unix"
            other.append(f"(:device{number}, :device{number}, NULL)")
            continue
        values[f"first{number}"] = network.network_address.packed
        values[f"last{number}"] = network.broadcast_address.packed
        kind = exact if network.num_addresses == 1 else within
        kind.append(f"(:device{number}, :first{number}, :last{number})")
    conditions = (
        (exact, "client_address = first"),
        # Compare the length, too: as bytes, an IPv4 address may lie between two IPv6 ones.
        (within, "client_address BETWEEN first AND last AND length(client_address)=length(first)"),
        (other, "client_ip = first"),
    )
    return [
        f"WITH wanted (device, first, last) AS (VALUES {', '.join(rows)})"
        # CROSS JOIN: the devices are the outer loop, so that SQLite uses the index by client.
        f" SELECT service, device, {_SUMS} FROM wanted CROSS JOIN connections ON {condition}"
        for rows, condition in conditions
        if rows
    ], values


def _spells(
    db: sqlite3.Connection,
    statements: Sequence[str],
    own: dict[str, Any],
    period: str,
    values: dict[str, Any],
) -> Iterator[Spell]:
    for statement in statements:
        found = db.execute(
            f"{statement} WHERE {period} GROUP BY device, service, {_PART}", {**values, **own}
        )
        yield from _checked(found)


def _told_spells(
    db: sqlite3.Connection, wanted: Wanted, period: str, values: dict[str, Any]
) -> Iterator[Spell]:
    db.create_function(
        "monconn_device", 1, _device_said(wanted.facts, wanted.told), deterministic=True
    )
    own: dict[str, Any] = {}
    packed: list[str] = []
    others: list[str] = []
    for number, each in enumerate(wanted.addresses):
        try:
            own[f"from{number}"] = ipaddress.ip_address(each).packed
            packed.append(f":from{number}")
        except ValueError:
            own[f"from{number}"] = each
            others.append(f":from{number}")
    for condition, marks in (("client_address", packed), ("client_ip", others)):
        if marks:
            found = db.execute(
                f"SELECT service, monconn_device(facts) AS device, {_SUMS} FROM connections"
                f" WHERE {condition} IN ({', '.join(marks)}) AND {period} AND facts IS NOT NULL"
                f" GROUP BY device, service, {_PART} HAVING device IS NOT NULL",
                {**values, **own},
            )
            yield from _checked(found)


def _device_said(facts: Sequence[str], names: Collection[str]) -> Callable[[Any], str | None]:
    """A function that says which of some devices the facts of a connection name, if any."""

    def device_said(text: Any) -> str | None:
        try:
            told = json.loads(text)
            said = (told.get(each) for each in facts)
        except (TypeError, ValueError, AttributeError, RecursionError):
            return None
        for value in said:
            if value is not None and (name := name_of_text(str(value))):
                return name if name in names else None
        return None

    return device_said


def _checked(found: sqlite3.Cursor) -> Iterator[Spell]:
    """Spells, of whose values SQLite itself does not care which types they have.

    :raises sqlite3.DatabaseError: some other program has written another one.
    """
    for service, device, begin, end, count, seconds in found:
        if not isinstance(service, str) or not _are_times(begin, end, seconds):
            raise sqlite3.DatabaseError("a time of a row in connections is no number")
        yield Spell(service, device, begin, end, count, max(seconds, 0.0))


def _are_times(*values: Any) -> bool:
    return all(type(each) in (int, float) and abs(each) < _LAST_SECONDS for each in values)


def _unknown(db: sqlite3.Connection, since: float, until: float) -> Iterator[Unknown]:
    """The parts of a period in which monconn did not run, or of which the history has no rows."""
    runs = "SELECT at, event FROM events WHERE event IN ('started', 'stopped') AND"
    before = db.execute(f"{runs} at < ? ORDER BY at DESC, entry DESC LIMIT 1", (since,)).fetchall()
    within = db.execute(
        f"{runs} at BETWEEN ? AND ? ORDER BY at, entry LIMIT ?", (since, until, _MOST_RUNS)
    ).fetchall()
    first = [
        db.execute(f"SELECT min({column}) FROM {table}").fetchone()[0]
        for column, table in (("at", "events"), ("closed_at", "connections"))
    ]
    known = min((each for each in first if _are_times(each)), default=until)
    if known > since:
        yield Unknown(since, min(known, until), "not_recorded")
    at, event = before[0] if before else (known, "")
    for next_at, next_event in within:
        if not _are_times(at, next_at):
            continue
        if next_event == "started" and event and next_at > since:
            why: WhyUnknown = "not_running" if event == "stopped" else "killed"
            yield Unknown(max(at, since), next_at, why)
        at, event = next_at, next_event
    if event == "stopped" and _are_times(at):
        yield Unknown(max(at, since), until, "not_running")


def _marks(tag: str, values: Sequence[str]) -> str:
    return ", ".join(f":{tag}{number}" for number in range(len(values)))
