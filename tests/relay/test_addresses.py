"""Which addresses the sockets of a connection have, on both data paths."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.community_id import community_id
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IAddressed, Observer

from .test_preface import LinePreface
from .test_relay import Stage
from .world import FAMILIES, PIPES, World, exactly


class Wants(Observer):
    wants_addresses = True


def ends(sock: socket.socket) -> tuple[str | None, str | None]:
    """The addresses of a peer's own side and of ours, if it has any."""
    names = sock.getsockname(), sock.getpeername()
    own, other = (_text(name) if isinstance(name, tuple) else None for name in names)
    return own, other


def _text(name: Any) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def live(world: World) -> ConnectionRecord:
    """The record of the only connection, once the turn is over in which it was connected."""
    record = world.live()
    world.on_reactor(int)
    return record


def known(record: ConnectionRecord) -> tuple[str | None, ...]:
    return record.client_local, record.backend_local, record.backend_peer


def test_a_relay_can_say_its_addresses() -> None:
    assert IAddressed.providedBy(Stage().relay)


@pytest.mark.parametrize("is_wanted", [False, True])
@pytest.mark.parametrize(
    ("pipe", "family"),
    [
        *((pipe, "ipv4") for pipe in PIPES),
        *(
            (pipe, family)
            for pipe in ("stream", "splice")
            for family in FAMILIES
            if family != "ipv4"
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_addresses_are_known_if_somebody_wants_to_know(
    tmp_path: Path, pipe: str, family: str, is_wanted: bool
) -> None:
    def play() -> None:
        with World(tmp_path, family, pipe) as world:
            if is_wanted:
                world.on_reactor(world.monitor.add_observer, Wants())
            client, backend = world.pair()
            client.sendall(b"x")
            assert exactly(backend, 1) == b"x"
            record = live(world)
            name, local = ends(client)
            peer, own = ends(backend)
            if not is_wanted:
                assert known(record) == (None, None, None)
                world.on_reactor(world.monitor.ask_addresses, record.id)
            assert known(record) == (local, own, peer)
            if local is not None:
                assert record.community_id == community_id(str(name), local)
            else:
                assert record.community_id is None

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["stream", "splice"])
@pytest_twisted.ensureDeferred
async def test_the_address_on_the_wire_is_not_that_of_a_preface(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe, preface=LinePreface()) as world:
            world.on_reactor(world.monitor.add_observer, Wants())
            client = world.client()
            client.sendall(b"ip 192.0.2.7\nx")
            assert exactly(world.backend(), 1) == b"x"
            record = live(world)
            assert record.client == "192.0.2.7:1"
            name, local = ends(client)
            assert (record.client_peer, record.client_local) == (name, local)
            assert record.community_id == community_id(str(name), str(local))

    await deferToThread(play)
