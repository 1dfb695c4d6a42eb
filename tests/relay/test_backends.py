"""Backends with several addresses, and those that do not keep their connections."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.relay.sockets import connect

from .world import PIPES, World, exactly, to_the_end, until

ROUNDS = 40
DEAD = 6


@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_one_that_resets_at_accept_is_one_that_resets(tmp_path: Path, pipe: str) -> None:
    """The reset may have come before we notice that the connection was established.

    Over TLS it was not: the reset comes amid the handshake, and the client gets an end.
    """

    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            was_connected = not world.backend_tls
            resetting = world.meanwhile(accept_and_reset, world)
            for _ in range(ROUNDS):
                assert end_of_client(world) == (b"", "reset" if was_connected else "fin")
            resetting.result()
            ends = {(each.reason, each.backend_end, each.code) for each in world.closed(ROUNDS)}
            expected = ("reset", "SD") if was_connected else ("none", "SC")
            assert ends == {("backend_reset", *expected)}

    await deferToThread(play)


def end_of_client(world: World) -> tuple[bytes, str]:
    """What a client gets, and how it ends; the reset may come before it knows that it connected."""
    try:
        client = world.client()
    except ConnectionResetError:
        return b"", "reset"
    with client:
        return to_the_end(client)


def accept_and_reset(world: World) -> None:
    for _ in range(ROUNDS):
        backend, _ = world._backend_listener.accept()
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        backend.close()


@pytest_twisted.ensureDeferred
async def test_dead_addresses_hide_no_living_one_and_cost_nothing_once_known(
    tmp_path: Path,
) -> None:
    """They are those of full queues, and answer nothing at all."""
    made: list[int] = []
    make_socket = connect._make_socket

    def count(family: int) -> Any:
        made.append(family)
        return make_socket(family)

    def play() -> None:
        with World(tmp_path, "ipv4", "copy", choose=lambda _: name) as world:
            assert isinstance(world.backend_address, TcpAddress)
            port = world.backend_address.port
            name = TcpAddress("many.test", port)
            for number in range(DEAD):
                deafen(world, (f"127.0.9.{number}", port))
            addresses = [f"127.0.9.{number}" for number in range(DEAD)] + ["127.0.0.1"]
            found = [(socket.AF_INET, (host, port)) for host in addresses]
            with (
                patch("monconn.net.resolver._resolve", return_value=found),
                patch.object(connect, "_make_socket", count),
            ):
                for expected in (DEAD + 1, 1):
                    talk(world)
                    assert len(made) == expected
                    made.clear()

    await deferToThread(play)


def deafen(world: World, where: tuple[str, int]) -> None:
    """Have an address drop whoever connects: its queue is full."""
    listener = world._keep(socket.socket())
    listener.bind(where)
    listener.listen(0)
    world._connected(socket.AF_INET, where)


def talk(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"hello")
    assert exactly(client, 5) == b"hello"
    client.close()
    backend.close()
    until(lambda: not len(world.monitor))
