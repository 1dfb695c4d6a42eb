"""The devices in a history: what is usual for them, from one run of monconn to the next."""

from __future__ import annotations

import sqlite3

from monconn.addresses import Network


def delete_devices(db: sqlite3.Connection, network: Network, service: str | None = None) -> int:
    """Delete the rows of every device that has an address in a network.

    :param service: only at this one.
    :returns: how many rows there were.
    """
    first, last = network.network_address.packed, network.broadcast_address.packed
    deleted = db.execute(
        "DELETE FROM devices WHERE length(first_address) = :length AND first_address <= :last"
        " AND last_address >= :first AND (:service IS NULL OR service = :service)",
        {"length": len(first), "first": first, "last": last, "service": service},
    )
    return deleted.rowcount
