"""What people and programs see of a client that has vanished, in a network namespace."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from monconn.clock import MonotonicClock
from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.monitor.registry import Registry
from monconn.ops.details import connection_details
from monconn.ops.operations import Operations
from monconn.ops.rows import ConnectionRow
from monconn.ops.text_table import text_table
from monconn.relay.paths import DataPaths
from tests.namespaces import Network
from tests.ops.world import rows
from tests.relay import test_vanished
from tests.relay.test_vanished import PROBING, VANISHING, Played, Row, pause


class Seen:
    """A connection, and the operations over its service."""

    def __init__(self, played: Played, clock: MonotonicClock) -> None:
        self.played = played
        registry = Registry()
        registry.add(played.monitor)
        devices = DevicesService(DevicesConfig(), registry, clock)
        self.operations = Operations(registry, clock, devices=devices)

    async def list(self, filter: str = "") -> list[ConnectionRow]:
        return list((await self.operations.connections(filter)).rows)

    async def is_unreachable(self) -> bool:
        (row,) = await self.list()
        return row.client_unreachable_seconds is not None

    def last_heard(self) -> float:
        (device,) = rows(self.operations.devices())
        assert device.last_heard_seconds is not None
        return device.last_heard_seconds


@pytest_twisted.ensureDeferred
async def test_one_that_has_vanished_is_seen_and_one_that_is_silent_is_not(
    network: Network,
) -> None:
    from twisted.internet import reactor

    clock = MonotonicClock()
    paths = DataPaths(reactor, clock)
    policy: dict[str, Any] = {"keepalive": PROBING}
    gone, silent = (
        Seen(Played(Row(side, "", "", policy, None), network, paths, reactor), clock)
        for side in ("client", None)
    )
    both = (gone, silent)
    try:
        for each in both:
            each.played.connect()
            await test_vanished.until(each.played.is_connected)
        network.cut(VANISHING)
        for _ in range(100):
            if await gone.is_unreachable():
                break
            await pause(0.2)
        (row,), (other,) = await gone.list(), await silent.list()
        assert row.client_unreachable_seconds is not None
        assert other.client_unreachable_seconds is other.backend_unreachable_seconds is None
        assert "client unreachable for " in text_table(ConnectionRow.columns(), [row], 80)[1]
        assert len(await gone.list("unreachable:3s..")) == len(await gone.list("heard:3s..")) == 1
        assert await silent.list("unreachable:0..") == []
        assert gone.last_heard() >= 3
        assert silent.last_heard() < 3  # the probes are answered
        shown = await gone.operations.connection(row.id)
        assert "open, client unreachable for " in dict(connection_details(shown))["state"]
        assert shown.diagnosis is not None
        assert shown.diagnosis["looks_like"] == "client unreachable"
    finally:
        for each in both:
            each.played.close()
        await test_vanished.until(lambda: not any(len(each.played.monitor) for each in both))
        paths.close()
