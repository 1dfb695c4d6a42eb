"""A connection's memory is freed when it ends, and not by the garbage collector."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.relay.relay import Relay
from monconn.relay.sockets.connect import ConnectAttempt
from monconn.relay.sockets.end import SocketEnd
from monconn.relay.sockets.handshake import Handshake
from monconn.relay.sockets.send_queue import SendQueue
from monconn.relay.transports.end import TransportEnd

from .world import PIPES, World, until

OF_A_CONNECTION = (ConnectAttempt, Handshake, SendQueue, SocketEnd, Relay, TransportEnd)
ROUNDS = 20


def _of_connections() -> list[object]:
    return [thing for thing in gc.get_objects() if isinstance(thing, OF_A_CONNECTION)]


class Leftovers:
    """What connections leave behind from now on.

    Others' objects may be there: Twisted's log remembers failures, and the frames of each.
    """

    def __init__(self) -> None:
        gc.collect()
        self._others = _of_connections()

    def __call__(self) -> list[object]:
        known = set(map(id, self._others))
        return [thing for thing in _of_connections() if id(thing) not in known]


def one_connection(world: World) -> None:
    client, backend = world.pair()
    data = bytes(300_000)
    exchanged = world.meanwhile(client.sendall, data)
    received = 0
    while received < len(data):
        received += len(backend.recv(1 << 16))
    exchanged.result()
    client.close()
    backend.close()
    until(lambda: not len(world.monitor))


# Twisted's endpoints, which dial for a backend that is no plain socket, leave cycles of their own.
@pytest.mark.parametrize("pipe", [pipe for pipe in PIPES if not pipe.endswith("stream")])
@pytest_twisted.ensureDeferred
async def test_nothing_is_left_to_collect(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            one_connection(world)
            before = len(os.listdir("/proc/self/fd"))
            left = Leftovers()
            gc.disable()
            try:
                for _ in range(ROUNDS):
                    one_connection(world)
                until(lambda: not left())
                until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            finally:
                gc.enable()

    await deferToThread(play)
