"""The devices in a history: what is usual for them, from one run of monconn to the next.

Its table has a row for each device, which is replaced when the device has changed: a minute later
at most, and together with the event of an alarm of it. So the alarms in these rows are those that
the events leave open, whenever monconn is killed.
"""

from __future__ import annotations

import ipaddress
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Protocol

import attrs

from monconn.addresses import Network
from monconn.model.alarms import ALARM_KINDS, SERVICE_ALARM_KINDS
from monconn.model.devices import StoredAlarm, StoredDevice
from monconn.model.reasons import REASONS
from monconn.sinks.history.filters import rows

PAGE_ROWS = 1_000
_MOST_OPEN_ALARMS = 10_000
_RECENT_EVENTS = 100_000
"""The last entries that are searched at the start: there is no index by the kind of event."""
_MOST_GAPS = 100
_MOST_ADDRESSES = 100
_MOST_CHARACTERS = 256
_STEP_ROWS = 2_000
_LATEST = 1e12


class DeviceSource(Protocol):
    """Where the devices are that are to be stored."""

    @property
    def has_urgent(self) -> bool:
        """Whether an alarm has begun or ended since devices were taken."""

    def store_changes(self) -> None:
        """Remember from now on what changes, and take all that is there for changed."""

    def take_changed(self, most: int) -> tuple[list[StoredDevice], list[tuple[str, str]]]:
        """Devices that have changed since they were taken, and those that were forgotten: service
        and name."""

    def restore(self, service: str, stored: Iterable[StoredDevice]) -> Iterator[None]:
        """Add devices of an earlier run, in steps; they come in the order of last_seen_at, the
        latest first."""

    def restored(self, service: str) -> None:
        """There are no more: its devices may be taken from now on."""


def save(db: sqlite3.Connection, devices: Sequence[StoredDevice]) -> None:
    """Replace the rows of devices, within a transaction."""
    db.executemany(
        "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_row(each) for each in devices],
    )


def delete(db: sqlite3.Connection, names: Sequence[tuple[str, str]]) -> None:
    """Delete the rows of devices, within a transaction.

    :param names: the service and the name of each.
    """
    db.executemany("DELETE FROM devices WHERE service = ? AND device = ?", names)


def _row(device: StoredDevice) -> tuple[Any, ...]:
    first, last = (None, None) if device.fact else _addresses(device.device)
    usual: dict[str, Any] = {
        "left_at": device.left_at,
        "last_message_at": device.last_message_at,
        "messages": [round(each, 3) for each in device.message_gaps],
        "messages_for": device.message_gaps_for,
        "reconnects": [round(each, 3) for each in device.reconnect_gaps],
        "reconnects_for": device.reconnect_gaps_for,
    }
    # Only where there is any: versions that do not know them read the row all the same.
    if device.fact:
        usual["fact"] = device.fact
    if device.addresses:
        usual["addresses"] = device.addresses
    if device.keepalive_seconds is not None:
        usual["keepalive"] = device.keepalive_seconds
    return (
        device.service,
        device.device,
        first,
        last,
        device.first_seen_at,
        device.last_seen_at,
        device.total,
        device.up,
        device.down,
        device.last_reason,
        json.dumps([attrs.asdict(each) for each in device.alarms]) if device.alarms else "[]",
        json.dumps(usual),
    )


def _addresses(device: str) -> tuple[bytes | None, bytes | None]:
    """The first and the last address of a device; None of one that has none, such as ``unix``."""
    if "/" not in device:
        try:
            address = inet_pton(AF_INET6 if ":" in device else AF_INET, device)
        except OSError:
            pass
        else:
            return address, address
    try:
        network = ipaddress.ip_network(device.partition("%")[0], strict=False)
    except ValueError:
        return None, None
    return network.network_address.packed, network.broadcast_address.packed


@attrs.frozen
class Page:
    """Some of the devices of a service.

    :param devices: the one seen last first.
    :param unusable: how many rows have values that no device can have.
    :param next: where the next page begins; None after the last.
    """

    devices: list[StoredDevice]
    unusable: int
    next: tuple[float, str] | None


def load(db: sqlite3.Connection, service: str, after: tuple[float, str] = (math.inf, "")) -> Page:
    """The stored devices of a service, page by page.

    :param after: the ``next`` of the page before.
    """
    found = rows(
        db,
        "SELECT * FROM devices WHERE service = :service"
        " AND (last_seen_at, device) < (:at, :device)"
        " ORDER BY last_seen_at DESC, device DESC LIMIT :limit",
        {"service": service, "at": after[0], "device": after[1], "limit": PAGE_ROWS},
    )
    devices = []
    for row in found:
        try:
            devices.append(_device(row))
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
            continue
    following = None
    if len(found) == PAGE_ROWS:
        at, name = found[-1]["last_seen_at"], found[-1]["device"]
        if isinstance(at, int | float) and isinstance(name, str):
            following = (float(at), name)
    return Page(devices, len(found) - len(devices), following)


def _device(row: dict[str, Any]) -> StoredDevice:
    """A device from its row, which another program may have written.

    :raises ValueError: a value is none that a device can have; or another of the errors for that.
    """
    usual = json.loads(row["usual"])
    alarms = json.loads(row["alarms"])
    reason = row["last_reason"]
    if reason is not None and reason not in REASONS:
        raise ValueError
    if not isinstance(row["device"], str) or not row["device"].isprintable():
        raise ValueError
    for name in ("total", "up", "down"):
        if type(row[name]) is not int or row[name] < 0:
            raise ValueError
    return StoredDevice(
        row["service"],
        row["device"],
        _number(row["first_seen_at"]),
        _number(row["last_seen_at"]),
        row["total"],
        row["up"],
        row["down"],
        reason,
        left_at=_optional(usual["left_at"]),
        last_message_at=_optional(usual["last_message_at"]),
        message_gaps=tuple(map(_number, usual["messages"][:_MOST_GAPS])),
        message_gaps_for=_optional(usual["messages_for"]),
        reconnect_gaps=tuple(map(_number, usual["reconnects"][:_MOST_GAPS])),
        reconnect_gaps_for=_optional(usual["reconnects_for"]),
        alarms=tuple(_alarm(each) for each in alarms[: len(ALARM_KINDS)]),
        fact=_printable(usual.get("fact", "")),
        addresses=tuple(map(_printable, usual.get("addresses", [])[:_MOST_ADDRESSES])),
        keepalive_seconds=_optional(usual.get("keepalive")),
    )


def _printable(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MOST_CHARACTERS:
        raise ValueError
    return value


def _alarm(values: dict[str, Any]) -> StoredAlarm:
    if values["kind"] not in ALARM_KINDS or not isinstance(values["detail"], str):
        raise ValueError
    values["detail"].encode()  # JSON may have halves of surrogate pairs, which nothing else takes
    return StoredAlarm(
        values["kind"],
        _number(values["at"]),
        values["detail"],
        bool(values["is_away"]),
        bool(values.get("is_folded")),  # versions before there were outages have none
    )


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise ValueError
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


# -- alarms whose devices nobody watches any more

OpenAlarm = tuple[str, str, str]
"""The service, the device, and the kind of an alarm."""


def end_alarms_elsewhere(db: sqlite3.Connection, services: Sequence[str]) -> list[OpenAlarm]:
    """Clear the alarms in the rows of services that there are no more.

    :param services: those that there are.
    :returns: the alarms that were there.
    """
    marks = ", ".join("?" * len(services))
    elsewhere = f"alarms != '[]' AND service NOT IN ({marks})"
    with db:
        found = db.execute(
            f"SELECT service, device, alarms FROM devices WHERE {elsewhere}", services
        ).fetchall()
        db.execute(f"UPDATE devices SET alarms = '[]' WHERE {elsewhere}", services)
    ended: list[OpenAlarm] = []
    for service, device, text in found:
        try:
            alarms = map(_alarm, json.loads(text))
            ended += [(service, device, each.kind) for each in alarms if not each.is_folded]
        except (TypeError, ValueError, KeyError, RecursionError):
            continue
    return ended


def open_alarms(db: sqlite3.Connection) -> list[OpenAlarm]:
    """The alarms that the events leave open, of a file in which no devices are stored yet."""
    if db.execute("SELECT 1 FROM devices LIMIT 1").fetchone() is not None:
        return []
    # SQLite takes bare columns from the row with the maximum.
    found = db.execute(
        "SELECT service, client, word, over, max(entry) FROM events WHERE event = 'alarm'"
        " AND service IS NOT NULL AND client != '' AND word IS NOT NULL"
        f" GROUP BY service, client, word LIMIT {_MOST_OPEN_ALARMS}"
    )
    return [(service, client, word) for service, client, word, over, _ in found if not over]


def open_service_alarms(db: sqlite3.Connection) -> list[OpenAlarm]:
    """The alarms about services that the last run has left open: of those nothing goes on."""
    kinds = ", ".join(f"'{each}'" for each in SERVICE_ALARM_KINDS)
    found = db.execute(
        "SELECT service, word, over, max(entry) FROM events WHERE event = 'alarm'"
        f" AND entry > (SELECT max(entry) FROM events) - {_RECENT_EVENTS}"
        f" AND service IS NOT NULL AND word IN ({kinds})"
        f" GROUP BY service, word LIMIT {_MOST_OPEN_ALARMS}"
    )
    return [(service, "", word) for service, word, over, _ in found if not over]


def delete_devices(db: sqlite3.Connection, network: Network) -> int:
    """Delete the rows of every device that has an address in a network.

    :returns: how many rows there were.
    """
    first, last = network.network_address.packed, network.broadcast_address.packed
    deleted = db.execute(
        "DELETE FROM devices WHERE length(first_address) = :length AND first_address <= :last"
        " AND last_address >= :first",
        {"length": len(first), "first": first, "last": last},
    )
    return deleted.rowcount


def addresses_in(row: dict[str, Any], network: Network) -> tuple[list[str], list[str]]:
    """The addresses that a device with a name of its own has used: those in a network, and the
    others.

    :param row: of the table.
    """
    try:
        addresses = json.loads(row["usual"]).get("addresses", [])
    except (TypeError, ValueError, AttributeError, RecursionError):
        return [], []
    within: list[str] = []
    others: list[str] = []
    for each in addresses if isinstance(addresses, list) else []:
        try:
            is_within = ipaddress.ip_address(str(each).partition("%")[0]) in network
        except ValueError:
            is_within = False
        (within if is_within else others).append(str(each))
    return within, others


def named_devices(db: sqlite3.Connection) -> Iterator[list[dict[str, Any]]]:
    """The rows of all devices that have no address for a name, some at a time."""
    after = ("", "")
    while True:
        found = rows(
            db,
            "SELECT service, device, alarms, usual FROM devices WHERE first_address IS NULL"
            " AND (service, device) > (:service, :device) ORDER BY service, device LIMIT :limit",
            {"service": after[0], "device": after[1], "limit": _STEP_ROWS},
        )
        yield found
        if len(found) < _STEP_ROWS:
            return
        after = (found[-1]["service"], found[-1]["device"])


def forget_addresses(db: sqlite3.Connection, row: dict[str, Any], others: list[str]) -> None:
    """Replace the addresses of a device, within a transaction; its alarms may tell them as well."""
    usual = json.loads(row["usual"])
    usual["addresses"] = others
    db.execute(
        "UPDATE devices SET usual = ?, alarms = '[]' WHERE service = ? AND device = ?",
        (json.dumps(usual), row["service"], row["device"]),
    )
