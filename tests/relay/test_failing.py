"""Connections that are ended from within: by an observer, or by an exception."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor

from .world import World, to_the_end, until


class Closer(Observer):
    """Ends a connection as soon as it sees a byte of it."""

    watches_payload = True

    def __init__(self, monitor: Monitor, reset: bool) -> None:
        self._monitor = monitor
        self._reset = reset

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self._monitor.close(record.id, reset=self._reset)


@pytest.mark.parametrize("pipe", ["stream", "copy", "splice"])
@pytest.mark.parametrize(("reset", "end"), [(True, "reset"), (False, "fin")])
@pytest_twisted.ensureDeferred
async def test_an_observer_ends_what_it_sees(
    tmp_path: Path, pipe: str, reset: bool, end: str
) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            world.on_reactor(world.monitor.add_observer, Closer(world.monitor, reset))
            client.sendall(b"stop")
            assert to_the_end(client)[1] == end
            assert to_the_end(backend)[1] == end
            client.close()
            backend.close()
            world.expect("operator", "KD", "none", "none", up=4, down=0)

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["copy", "splice"])
@pytest_twisted.ensureDeferred
async def test_a_relay_that_fails_ends_alone(
    tmp_path: Path, pipe: str, monkeypatch: pytest.MonkeyPatch, logged_failures: list[object]
) -> None:
    """The loop that carries it goes on for the others."""

    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client, _ = world.pair()
            record = world.live()
            other, its_backend = world.pair()
            connection = world.monitor.live.by_id[record.id]
            world.on_reactor(setattr, connection.client, "peer", None)  # type: ignore[attr-defined]
            client.sendall(b"breaks it")
            assert to_the_end(client)[1] == "reset"
            until(lambda: record.reason == "error")
            other.sendall(b"still there?")
            assert its_backend.recv(100) == b"still there?"

    await deferToThread(play)
    assert logged_failures
    logged_failures.clear()
