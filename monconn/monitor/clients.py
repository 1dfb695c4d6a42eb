"""Totals for each client IP, for the IPs seen most recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord, iso_time

CLIENTS_RETAINED = 10_000


@attrs.define
class ClientTotal:
    """Totals of one client IP: bytes of closed connections; ``opened`` counts live ones, too.

    Times are wall-clock seconds since the epoch.
    """

    first_seen_at: float
    last_seen_at: float
    opened: int = 0
    up: int = 0
    down: int = 0
    last_reason: Reason | None = None


class ClientTotals:
    """The totals of each client IP; the IP seen longest ago is dropped first, and counted.

    :param retained: the most IPs to hold totals of.
    """

    def __init__(self, retained: int = CLIENTS_RETAINED) -> None:
        self._retained = retained
        self._by_ip: OrderedDict[str, ClientTotal] = OrderedDict()
        self.forgotten = 0
        """How many IPs were dropped to make room for others."""

    def __len__(self) -> int:
        return len(self._by_ip)

    def opened(self, record: ConnectionRecord) -> None:
        """Count a connection that has opened."""
        self._seen(record.client_ip, record.opened_at).opened += 1

    def closed(self, record: ConnectionRecord) -> None:
        """Add the bytes of a connection that has closed."""
        total = self._seen(record.client_ip, record.closed_at or record.opened_at)
        total.up += record.up
        total.down += record.down
        total.last_reason = record.reason

    def _seen(self, ip: str, at: float) -> ClientTotal:
        total = self._by_ip.get(ip)
        if total is None:
            total = self._by_ip[ip] = ClientTotal(at, at)
            if len(self._by_ip) > self._retained:
                self._by_ip.popitem(last=False)
                self.forgotten += 1
        else:
            self._by_ip.move_to_end(ip)
            total.last_seen_at = at
        return total

    def get(self, ip: str) -> ClientTotal | None:
        """The totals of one IP, without its live connections' bytes; None if it is not known."""
        return self._by_ip.get(ip)

    def forget(self, ip: str) -> bool:
        """Drop the totals of an IP; False if there are none. They are not counted as forgotten."""
        return self._by_ip.pop(ip, None) is not None

    def ips(self) -> list[str]:
        """The IPs, the one seen longest ago first."""
        return list(self._by_ip)

    def snapshot(self, live: Iterable[ConnectionRecord]) -> list[dict[str, Any]]:
        """Every IP's totals as plain values for JSON, the one seen last first.

        :param live: the live connections, whose bytes are added.
        :returns: dicts with ``ip``, ``connections`` (live), ``total`` (opened), ``up`` and
            ``down`` in bytes, ``first_seen``, ``last_seen`` and ``last_reason``.
        """
        return [row for row in self.snapshot_in_steps(live) if row is not None]

    def snapshot_in_steps(
        self, live: Iterable[ConnectionRecord]
    ) -> Iterator[dict[str, Any] | None]:
        """The same one by one, for :func:`monconn.turns.in_turns`, each as it is by then; None for
        a step that has brought none."""
        live_by_ip: dict[str, list[ConnectionRecord]] = {}
        for record in live:
            if record.client_ip in self._by_ip:  # no more IPs than are retained
                live_by_ip.setdefault(record.client_ip, []).append(record)
            yield None
        for ip, total in list(reversed(self._by_ip.items())):
            # Some have closed since they were listed: their bytes are in the total.
            records = [each for each in live_by_ip.get(ip, ()) if each.closed is None]
            yield _to_dict(ip, total, records)


def _to_dict(ip: str, total: ClientTotal, live: list[ConnectionRecord]) -> dict[str, Any]:
    return {
        "ip": ip,
        "connections": len(live),
        "total": total.opened,
        "up": total.up + sum(record.up for record in live),
        "down": total.down + sum(record.down for record in live),
        "first_seen": iso_time(total.first_seen_at),
        "last_seen": iso_time(total.last_seen_at),
        "last_reason": total.last_reason,
    }
