"""What can be asked and done at the manhole, with answers in lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from monconn.addresses import parse_network
from monconn.errors import UnknownConnection
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.units import format_bytes, format_duration

_HEADINGS = ("ID", "SERVICE", "CLIENT", "BACKEND", "STATE", "AGE", "IDLE", "UP", "DOWN")
_TO_THE_RIGHT = frozenset({"ID", "AGE", "IDLE", "UP", "DOWN"})


class Operations:
    """The same for the prompt and for one-shot commands.

    :param registry: the monitors.
    :param clock: gives monotonic ``seconds()``.
    """

    def __init__(self, registry: Registry, clock: Any) -> None:
        self.registry = registry
        self._clock = clock

    def monitors(self, service: str | None = None) -> list[Monitor]:
        """One service's monitor, or all of them.

        :raises UnknownService: there is none with this name.
        """
        return list(self.registry) if service is None else [self.registry.get(service)]

    def connections(self, service: str | None = None) -> list[str]:
        """The live connections as a table, oldest first.

        :raises UnknownService: there is none with this name.
        """
        records = [each for monitor in self.monitors(service) for each in monitor.connections()]
        records.sort(key=lambda record: record.id)
        if not records:
            return ["no connections"]
        now = self._clock.seconds()
        return _aligned([_HEADINGS, *(_cells(record, now) for record in records)])

    def stats(self, service: str | None = None) -> list[str]:
        """A line for each service.

        :raises UnknownService: there is none with this name.
        """
        lines = [monitor.describe() for monitor in self.monitors(service)]
        return lines or ["no services"]

    def show(self, connection_id: int) -> list[str]:
        """All that is known of a connection, live or closed lately.

        :raises UnknownConnection: there is none with this id.
        """
        record = self.registry.record(connection_id)
        shown = record.snapshot(self._clock.seconds())
        width = max(map(len, shown))
        return [
            f"{key:<{width}}  {'-' if value is None else value}" for key, value in shown.items()
        ]

    def close(self, connection_id: int, *, reset: bool = False) -> list[str]:
        """End a connection.

        :raises UnknownConnection: no live connection has this id.
        """
        for monitor in self.registry:
            if connection_id in monitor:
                monitor.close(connection_id, reset=reset)
                return [f"connection {connection_id} {'reset' if reset else 'closed'}"]
        raise UnknownConnection(f"no live connection has the id {connection_id}")

    def block(self, network: str) -> list[str]:
        """Refuse a network's clients at every service, and end those that are connected.

        :raises AddressError: it is no network.
        """
        parsed = parse_network(network)
        is_new = _any_of(monitor.block(parsed) for monitor in self.registry)
        return [f"{parsed} {'blocked' if is_new else 'was blocked already'}"]

    def unblock(self, network: str) -> list[str]:
        """Let the clients of exactly this network in again.

        :raises AddressError: it is no network.
        """
        parsed = parse_network(network)
        was_there = _any_of(monitor.unblock(parsed) for monitor in self.registry)
        return [f"{parsed} {'unblocked' if was_there else 'was not blocked'}"]

    def blocks(self) -> list[str]:
        """The blocked networks of each service."""
        rows = [(each.name, str(network)) for each in self.registry for network in each.blocks()]
        return _aligned([("SERVICE", "NETWORK"), *rows]) if rows else ["nothing is blocked"]

    def greeting(self) -> str:
        """One line about what there is."""
        live = sum(map(len, self.registry))
        return (
            f"monconn: {_counted(len(self.registry), 'service')}, {_counted(live, 'connection')}."
            " help() says what can be done, Ctrl-D leaves."
        )


def _any_of(changes: Iterable[bool]) -> bool:
    return any(list(changes))  # every one is made before anybody looks


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _cells(record: ConnectionRecord, now: float) -> tuple[str, ...]:
    return (
        str(record.id),
        record.service,
        record.client,
        record.backend or "-",
        record.state,
        format_duration(record.age_seconds(now)),
        format_duration(record.idle_seconds(now)),
        format_bytes(record.up),
        format_bytes(record.down),
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns: list[Callable[[str, int], str]] = [
        str.rjust if heading in _TO_THE_RIGHT else str.ljust for heading in rows[0]
    ]
    return [
        "  ".join(
            align(cell, width) for align, cell, width in zip(aligns, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
