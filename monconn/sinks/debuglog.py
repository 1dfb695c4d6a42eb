"""What happens to each connection, a line each, for whoever has asked for it (``-D``)."""

from __future__ import annotations

from collections.abc import Iterator

from monconn.errors import UnknownService
from monconn.log import Logger
from monconn.model.reasons import Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.units import format_duration

_LIMIT_OF: dict[Reason, str] = {
    "connect_timeout": "connect_timeout",
    "read_timeout": "read_timeout",
    "write_timeout": "write_timeout",
    "idle_timeout": "max_idle",
    "lifetime": "max_lifetime",
}
"""The time limit that has ended a connection, by its key in a configuration."""


class DebugLog(Observer):
    """Logs openings, dials, half-closes, refusals and ends, each with the connection's id.

    It is an observer only where somebody has asked for it: others pay nothing.

    :param registry: the monitors, for what a rule compared with what.
    """

    _log = Logger()

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def opened(self, record: ConnectionRecord) -> None:
        """Log a client that was admitted, and how near the limits are."""
        parts = ["admitted", *self._limits(record)]
        if record.backend:
            parts.append(f"dialling {record.backend}")
        self._write(record, ", ".join(parts))

    def refused(self, record: ConnectionRecord) -> None:
        """Log which rule has refused a client, and what it has compared."""
        monitor = self._monitor(record)
        text = f"refused by {record.refusal}"
        if monitor is not None and (compared := _compared(record, monitor)):
            text += f": {compared}"
        self._write(record, f"{text}{f' ({record.detail})' if record.detail else ''}")

    def backend_connected(self, record: ConnectionRecord) -> None:
        """Log to whom and how fast the backend was dialled."""
        took = format_duration(record.connect_seconds or 0.0)
        self._write(record, f"connected to {record.backend} in {took}")

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Log which side has ended first, with the other going on."""
        after = format_duration(self._age(record))
        other = "backend" if side == "client" else "client"
        self._write(record, f"the {side} has ended its side after {after}, the {other} has not")

    def closed(self, record: ConnectionRecord) -> None:
        """Log how each side has ended, and which limit was reached."""
        parts = [f"closed: {record.reason}"]
        if record.connected is None:
            parts.append(f"never connected to {record.backend}")
        parts.append(f"the client's end: {record.client_end}, the backend's: {record.backend_end}")
        if record.reason in _LIMIT_OF and (monitor := self._monitor(record)) is not None:
            key = _LIMIT_OF[record.reason]
            limit = getattr(monitor.policy.timeouts, key)
            parts.append(f"{key} is {format_duration(limit)}")
        self._write(record, ", ".join(parts) + (f" ({record.detail})" if record.detail else ""))

    def _write(self, record: ConnectionRecord, text: str) -> None:
        self._log.debug(
            "{service}: {client} id {id}: {text}",
            service=record.service,
            id=record.id,
            client=record.client,
            text=text,
        )

    def _monitor(self, record: ConnectionRecord) -> Monitor | None:
        try:
            return self._registry.get(record.service)
        except UnknownService:  # deleted meanwhile
            return None

    def _age(self, record: ConnectionRecord) -> float:
        monitor = self._monitor(record)
        return 0.0 if monitor is None else record.age_seconds(monitor.clock.seconds())

    def _limits(self, record: ConnectionRecord) -> Iterator[str]:
        monitor = self._monitor(record)
        if monitor is None:
            return
        rules = monitor.policy.rules
        if rules.conn_limit:
            yield f"connection {len(monitor)} of {rules.conn_limit} (conn_limit)"
            if monitor.room.is_full():
                yield "further ones wait in the accept queue"
        if rules.ip_limit:
            yield f"client {monitor.admission.clients} of {rules.ip_limit} (ip_limit)"


def _compared(record: ConnectionRecord, monitor: Monitor) -> str:
    """What the rule that has refused a client has compared with its setting."""
    rules, admission = monitor.policy.rules, monitor.admission
    if record.refusal == "conn_limit":
        return f"{len(monitor)} connections are live, of {rules.conn_limit} that may be"
    if record.refusal == "ip_limit":
        return f"{admission.clients} clients are connected, of {rules.ip_limit} that may be"
    if record.refusal == "per_ip_limit":
        client = admission.prefixes.client_of(record.client_ip)
        return f"{client} has {rules.per_ip_limit} connections or more (per_ip_limit)"
    if record.refusal == "per_ip_rate":
        client = admission.prefixes.client_of(record.client_ip)
        return f"{client} may open {rules.per_ip_rate}"
    if record.refusal == "rate":
        return f"{rules.rate} may be opened"
    if record.refusal == "blocked":
        block = monitor.find_block(record.client_ip)
        return "" if block is None else f"{record.client_ip} is in {block.network}"
    return ""
