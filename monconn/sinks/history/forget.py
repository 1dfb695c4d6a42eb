"""Removes from a history all that it has of a client, in small parts."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator

from monconn.addresses import Network, parse_network
from monconn.policy.mentions import mentions
from monconn.sinks.history.devices import (
    addresses_in,
    delete,
    delete_devices,
    forget_addresses,
    named_devices,
)

STEP_ROWS = 2_000
"""Rows looked at in one transaction."""
PART_SECONDS = 0.25
"""How long one call works; writing uses the same thread, and must go on."""
COUNTED = ("connections", "events", "hourly_sums", "devices")

_WITHIN = "(length(client_address) = :length AND client_address BETWEEN :first AND :last)"


class Removal:
    """What is to be removed, and how far that is.

    Rows go that are a client's own, by its address, and those that name it otherwise: actions with
    its address for their target, and connections with facts or a detail that have it. Alarms go
    with the network that counts as its device, if the client is in it. A device with a name of its
    own goes, with its alarms, if it has used no other address, and else only the address does.

    :param network: the client's IP, or a network of clients.
    :param dry_run: only count.
    """

    def __init__(self, network: Network, dry_run: bool = False) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._network = network
        self._dry_run = dry_run
        self._is_mentioned = mentions(network)
        self._values = {
            "length": len(network.network_address.packed),
            "first": network.network_address.packed,
            "last": network.broadcast_address.packed,
        }
        self._gone: set[tuple[str, str]] = set()  # devices with names of their own
        self._db: sqlite3.Connection
        self._steps = self._all_steps()

    def work(self, db: sqlite3.Connection) -> bool:
        """Do a part, for :data:`PART_SECONDS` at most; whether there is more.

        :param db: one that can write, unless it is a dry run.
        :raises sqlite3.Error: the file cannot be read or written.
        """
        self._db = db
        db.create_function("monconn_mentioned", 1, self._is_mentioned, deterministic=True)
        db.create_function("monconn_overlaps", 1, self._overlaps, deterministic=True)
        db.create_function("monconn_gone", 2, self._is_gone, deterministic=True)
        if not self._dry_run:
            # Else the bytes of deleted rows stay in the file's pages until these are used again.
            db.execute("PRAGMA secure_delete = ON").fetchall()
        until = time.monotonic() + PART_SECONDS
        return any(time.monotonic() >= until for _ in self._steps)

    def _overlaps(self, device: str | None) -> bool:
        """Whether an alarm's device, an IP or a network, has an address that is to be forgotten."""
        if not device:
            return False
        try:
            found = parse_network(device.partition("%")[0])
        except ValueError:  # "unix", "local"
            return False
        return found.version == self._network.version and found.overlaps(self._network)

    def _is_gone(self, service: str | None, device: str | None) -> bool:
        return (service, device) in self._gone

    def _all_steps(self) -> Iterator[None]:
        yield from self._named_devices()
        yield from self._connections()
        yield from self._by_entry(
            "connections",
            "(facts IS NOT NULL OR detail != '')"
            f" AND (client_address IS NULL OR NOT {_WITHIN})"
            " AND (monconn_mentioned(facts) OR monconn_mentioned(detail))",
        )
        yield from self._by_entry(
            "events",
            f"(coalesce({_WITHIN}, FALSE) OR monconn_mentioned(detail) OR (event = 'alarm'"
            " AND (monconn_overlaps(client) OR monconn_gone(service, client))))",
        )
        yield from self._hours()
        self._remove_devices()

    def _connections(self) -> Iterator[None]:
        if self._dry_run:
            count = f"SELECT count(*) FROM connections WHERE {_WITHIN}"
            self.counts["connections"] += self._db.execute(count, self._values).fetchone()[0]
            return
        chosen = f"SELECT entry FROM connections WHERE {_WITHIN} LIMIT {STEP_ROWS}"
        while self._change("connections", f"entry IN ({chosen})"):
            yield

    def _by_entry(self, table: str, condition: str) -> Iterator[None]:
        """The rows of a table for which a condition is true that no index helps with."""
        after = -1
        while True:
            (last,) = self._db.execute(
                f"SELECT max(entry) FROM (SELECT entry FROM {table} WHERE entry > ?"
                f" ORDER BY entry LIMIT {STEP_ROWS})",
                (after,),
            ).fetchone()
            if last is None:
                return
            self._change(table, f"entry > {after} AND entry <= {int(last)} AND {condition}")
            after = int(last)
            yield

    def _hours(self) -> Iterator[None]:
        hour = None
        while True:
            (hour,) = self._db.execute(
                "SELECT min(hour) FROM hours"
                if hour is None
                else f"SELECT min(hour) FROM hours WHERE hour > {int(hour)}"
            ).fetchone()
            if hour is None:
                return
            self._change("hours", f"hour = {int(hour)} AND {_WITHIN}", "hourly_sums")
            yield

    def _named_devices(self) -> Iterator[None]:
        if not self._has_devices():
            return
        for found in named_devices(self._db):
            for row in found:
                within, others = addresses_in(row, self._network)
                if not within:
                    continue
                if not others:
                    self._gone.add((row["service"], row["device"]))
                elif not self._dry_run:
                    with self._db:
                        forget_addresses(self._db, row, others)
            yield
        self.counts["devices"] += len(self._gone)
        if not self._dry_run:
            with self._db:
                delete(self._db, list(self._gone))

    def _has_devices(self) -> bool:
        """Whether there is such a table: rows of a file of an older version are only counted."""
        tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'devices'"
        return bool(self._db.execute(tables).fetchone()[0])

    def _remove_devices(self) -> None:
        if not self._has_devices():
            return
        if not self._dry_run:
            with self._db:
                self.counts["devices"] += delete_devices(self._db, self._network)
            return
        self._change(
            "devices",
            "length(first_address) = :length AND first_address <= :last AND last_address >= :first",
        )

    def _change(self, table: str, condition: str, counted: str = "") -> int:
        """Remove rows, or count them; returns how many there are."""
        if self._dry_run:
            statement = f"SELECT count(*) FROM {table} WHERE {condition}"
            count = int(self._db.execute(statement, self._values).fetchone()[0])
        else:
            with self._db:
                statement = f"DELETE FROM {table} WHERE {condition}"
                count = self._db.execute(statement, self._values).rowcount
        self.counts[counted or table] += count
        return count


def overwrite(db: sqlite3.Connection) -> None:
    """Make the file anew from its rows, so that no byte of removed ones is left in it.

    What SQLite has moved from page to page, as its trees grow, leaves copies behind that no
    deletion finds (https://www.sqlite.org/lang_vacuum.html). It takes room for a second copy.

    :raises sqlite3.Error: there is no room for it, or it was interrupted.
    """
    db.execute("VACUUM")


def empty_log(db: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, which has the pages as they were before.

    :returns: False while somebody reads them.
    """
    is_busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
