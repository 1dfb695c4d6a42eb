"""Writes a batch of items into the history's file."""

from __future__ import annotations

import ipaddress
import json
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import attrs

from monconn.model import tcpinfo, uid
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.devices import StoredDevice
from monconn.model.reasons import REASONS, REFUSALS, HistoryEventKind
from monconn.model.record import ConnectionRecord
from monconn.model.totals import Totals
from monconn.sinks.history import devices, file_time
from monconn.sinks.history.file_time import Stretch

T = TypeVar("T")

HOUR_SECONDS = 3600
# Made once: json.dumps makes an encoder for each call that has settings of its own, and nearly
# every connection has facts.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@attrs.frozen
class Event:
    """An event other than a connection; ``count`` of them within a second."""

    at: float
    event: HistoryEventKind
    service: str | None = None
    client: str | None = None
    client_ip: str | None = None
    word: str | None = None
    """The refusal, the alarm's kind, or the action's kind."""
    is_over: bool = False
    count: int = 1
    detail: str = ""


Item = ConnectionRecord | Alarm | Action | Event
"""What observers are notified of (refused and closed connections, alarms, actions), or our own."""


def write(
    db: sqlite3.Connection,
    items: Iterable[Item],
    totals: Mapping[str, Totals],
    run_started_at: float,
    stretches: Sequence[Stretch] = (),
    changed: Sequence[StoredDevice] = (),
    forgotten: Sequence[tuple[str, str]] = (),
) -> list[Exception]:
    """Write a batch in one transaction.

    :param totals: the services' counters; only those that have changed.
    :param run_started_at: wall-clock seconds; with it, ids of this run differ from those of others.
    :param stretches: those of the file's time that have changed.
    :param changed: devices.
    :param forgotten: the service and the name of each device that is to be deleted.
    :returns: for each item that can never be written, why; all others are written.
    :raises sqlite3.DatabaseError: the file cannot be written, and nothing was.
    """
    with db:
        db.execute("BEGIN IMMEDIATE")
        errors = _write_possible(
            db, list(items), lambda each: _write_items(db, each, run_started_at)
        )
        _write_possible(db, list(totals.items()), lambda each: _save(db, dict(each)))
        _write_possible(db, list(forgotten), lambda each: devices.delete(db, each))
        _write_possible(db, list(changed), lambda each: devices.save(db, each))
        file_time.save(db, stretches)
    return errors


def _write_possible(
    db: sqlite3.Connection, parts: list[T], write_parts: Callable[[list[T]], None]
) -> list[Exception]:
    """Write all parts of a batch that can be written, within a transaction.

    One that cannot (a service's name that is no UTF-8, a number beyond 64 bits) is found by halves:
    of 50,000 parts in 32 attempts.

    :returns: why, for each part that is left out.
    """
    if not parts:
        return []
    db.execute("SAVEPOINT parts")
    try:
        write_parts(parts)
    except Exception as error:
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            raise  # the file's fault (full, locked, malformed), and not the part's
        db.execute("ROLLBACK TO parts")
        db.execute("RELEASE parts")
        if len(parts) == 1:
            return [error]
        middle = len(parts) // 2
        return [
            *_write_possible(db, parts[:middle], write_parts),
            *_write_possible(db, parts[middle:], write_parts),
        ]
    db.execute("RELEASE parts")
    return []


def _write_items(db: sqlite3.Connection, items: list[Item], run_started_at: float) -> None:
    connections: list[ConnectionRecord] = []
    events: list[Event] = []
    for item in items:
        if isinstance(item, ConnectionRecord) and item.refusal is None:
            connections.append(item)
        else:
            events.append(_event(item))
    _insert(db, "connections", [_connection_row(each, run_started_at) for each in connections])
    _insert(db, "events", [_event_row(each) for each in events])
    _add_up(db, connections, events)


def _insert(db: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        db.executemany(f"INSERT INTO {table} VALUES (NULL, {marks})", rows)


def _event(item: Item) -> Event:
    if isinstance(item, Event):
        return item
    if isinstance(item, Alarm):
        return Event(
            item.at,
            "alarm",
            item.service,
            item.device,
            next(iter(item.addresses), item.device),
            item.kind,
            item.is_over,
            1,
            item.detail,
        )
    if isinstance(item, Action):
        return Event(
            item.at,
            "action",
            item.service,
            client=item.actor.describe(),  # no address, so that no client's network finds it
            word=item.kind,
            count=item.count,
            detail=item.describe(),
        )
    return Event(
        item.opened_at,
        "refused",
        item.service,
        item.client,
        item.client_ip,
        item.refusal,
        detail=item.detail,
    )


def _connection_row(record: ConnectionRecord, run_started_at: float) -> tuple[Any, ...]:
    # Written out, and rounded by way of an integer, as ConnectionRecord.snapshot is.
    opened, closed = record.opened, record.closed
    assert closed is not None
    connected, first_up, first_down = record.connected, record.first_up, record.first_down
    last_up, last_down = record.last_up, record.last_down
    client_rtt, client_retransmits = _tcp_figures(record.client_tcp)
    backend_rtt, backend_retransmits = _tcp_figures(record.backend_tcp)
    client_heard, backend_heard = record.client_heard, record.backend_heard
    return (
        run_started_at,
        record.id,
        record.service,
        record.client,
        record.client_ip,
        _bound(record.client_ip),
        record.backend,
        record.opened_at,
        record.closed_at,
        ((closed - opened) * 1e6 + 0.5) // 1 / 1e6,
        None if connected is None else ((connected - opened) * 1e6 + 0.5) // 1 / 1e6,
        None if first_up is None else ((first_up - opened) * 1e6 + 0.5) // 1 / 1e6,
        None if first_down is None else ((first_down - opened) * 1e6 + 0.5) // 1 / 1e6,
        None if last_up is None else ((last_up - opened) * 1e6 + 0.5) // 1 / 1e6,
        None if last_down is None else ((last_down - opened) * 1e6 + 0.5) // 1 / 1e6,
        record.up,
        record.down,
        record.reason,
        record.phase,
        record.code,
        record.closed_by,
        record.client_end,
        record.backend_end,
        client_rtt,
        client_retransmits,
        backend_rtt,
        backend_retransmits,
        _plain(record.detail),
        facts_text(record.unchanging_facts) if record.has_facts else None,
        record.pipe,
        None if client_heard is None else round(max(0.0, closed - client_heard) * 1e3) / 1e3,
        None if backend_heard is None else round(max(0.0, closed - backend_heard) * 1e3) / 1e3,
        f"{uid.run}-{record.id}",
    )


def facts_text(facts: Mapping[str, Any]) -> str | None:
    """Facts as the JSON object that the file contains; None if there are none."""
    if not facts:
        return None
    return _plain(_encode(dict(facts)))


def _tcp_figures(raw: bytes | None) -> tuple[float | None, int | None]:
    """Round-trip time in seconds, and segments sent again."""
    if raw is None:
        return None, None
    microseconds, retransmits = tcpinfo.ROUND_TRIP_AND_RETRANSMITS.unpack_from(raw)
    return microseconds / 1e6, retransmits


def _event_row(event: Event) -> tuple[Any, ...]:
    return (
        event.at,
        event.event,
        event.service,
        event.client,
        event.client_ip,
        None if event.client_ip is None else packed(event.client_ip),
        event.word,
        event.is_over,
        event.count,
        _plain(event.detail),
    )


def _plain(text: str) -> str:
    """A text of the operating system or of a client, without what UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@lru_cache(maxsize=4096)
def _bound(ip: str) -> bytearray | None:
    """:func:`packed` for a parameter: of bytes, unlike these, sqlite3 asks whether they are to be
    adapted, which takes longer than most else that it does with a value."""
    address = packed(ip)
    return None if address is None else bytearray(address)


@lru_cache(maxsize=4096)
def packed(ip: str) -> bytes | None:
    """An IP, or the first one of a network, in network byte order; None for anything else."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    except OSError:
        pass
    try:
        return ipaddress.ip_network(ip.partition("%")[0], strict=False).network_address.packed
    except ValueError:
        return None


def forget_addresses() -> None:
    """Forget the addresses whose packed forms are at hand."""
    _bound.cache_clear()
    packed.cache_clear()


def _add_up(
    db: sqlite3.Connection, connections: list[ConnectionRecord], events: list[Event]
) -> None:
    sums: dict[tuple[Any, ...], list[int]] = {}
    for record in connections:
        assert record.closed_at is not None
        key = (hour_of(record.closed_at), record.service, record.client_ip, record.reason)
        figures = sums.setdefault(key, [0, 0, 0])
        figures[0] += 1
        figures[1] += record.up
        figures[2] += record.down
    db.executemany(
        "INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " connections = connections + excluded.connections,"
        " up = up + excluded.up, down = down + excluded.down",
        [(*key, packed(key[2]), *figures) for key, figures in sums.items()],
    )
    refused: Counter[tuple[Any, ...]] = Counter()
    for event in events:
        if event.event == "refused":
            refused[hour_of(event.at), event.service, event.word] += event.count
    db.executemany(
        "INSERT INTO refusals VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(*key, count) for key, count in refused.items()],
    )


def hour_of(wall_seconds: float) -> int:
    """The start of the hour that a time is in."""
    return int(wall_seconds // HOUR_SECONDS) * HOUR_SECONDS


# -- counters

_REFUSED = "refused."
_WOULD_REFUSE = "would_refuse."
_CLOSED = "closed."


def _save(db: sqlite3.Connection, totals: Mapping[str, Totals]) -> None:
    for service, total in totals.items():
        db.execute("DELETE FROM counters WHERE service = ?", (service,))
        values = {"opened": total.opened, "up": total.up, "down": total.down}
        values.update({_REFUSED + word: count for word, count in total.refused.items()})
        values.update({_WOULD_REFUSE + word: count for word, count in total.would_refuse.items()})
        values.update({_CLOSED + word: count for word, count in total.closed.items()})
        db.executemany(
            "INSERT INTO counters VALUES (?, ?, ?)",
            [(service, name, value) for name, value in values.items()],
        )


def load_totals(db: sqlite3.Connection) -> dict[str, Totals]:
    """The services' counters as of the last batch.

    :raises sqlite3.DatabaseError: they cannot be read, or are no counters.
    """
    totals: dict[str, Totals] = {}
    for service, name, value in db.execute("SELECT service, name, value FROM counters"):
        if not (isinstance(service, str) and isinstance(value, int)):
            raise sqlite3.DatabaseError("a counter is no number")
        total = totals.setdefault(service, Totals())
        if name in ("opened", "up", "down"):
            setattr(total, name, value)
        for word in REFUSALS:
            if name == _REFUSED + word:
                total.refused[word] = value
            elif name == _WOULD_REFUSE + word:
                total.would_refuse[word] = value
        for reason in REASONS:
            if name == _CLOSED + reason:
                total.closed[reason] = value
    return totals
