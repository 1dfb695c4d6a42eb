"""Rare input that an edge-triggered reader can mishandle."""

from __future__ import annotations

import array
import errno
import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.net.resolver import Resolver
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.sockets.pipes import PipePool

from .test_given_back import Leftovers
from .world import World, exactly, reset, to_the_end, until

PLAIN = ("copy", "splice", "nested")


def in_world(*families: str, of: tuple[str, ...] = PLAIN) -> Callable[[Any], Any]:
    def decorate(play: Callable[[World], None]) -> Any:
        @pytest.mark.parametrize("pipe", of)
        @pytest.mark.parametrize("family", families or ("ipv4",))
        @pytest_twisted.ensureDeferred
        async def test(tmp_path: Path, family: str, pipe: str) -> None:
            def enter_and_play() -> None:
                with World(tmp_path, family, pipe) as world:
                    play(world)

            await deferToThread(enter_and_play)

        test.__name__ = play.__name__
        return test

    return decorate


@in_world()
def test_an_urgent_byte_does_not_stall_reading(world: World) -> None:
    client, backend = world.pair()

    def send() -> None:  # in one turn of the reactor, which finds all of it at once
        client.sendall(b"abc")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"def")

    world.on_reactor(send)
    assert exactly(backend, 6) == b"abcdef"


@in_world()
def test_an_urgent_byte_in_bulk_loses_no_data(world: World) -> None:
    client, backend = world.pair()
    data = bytes(range(251)) * 12_000

    def send() -> None:
        client.sendall(data)
        client.send(b"!", socket.MSG_OOB)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sending = world.meanwhile(send)
    received, end = to_the_end(backend)
    sending.result()
    assert (received == data + data, end) == (True, "fin")


@in_world("unix")
def test_a_passed_descriptor_does_not_stall_reading(world: World) -> None:
    client, backend = world.pair()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))]

    def send() -> None:
        client.sendall(b"abc")
        client.sendmsg([b"def"], rights)
        client.sendall(b"ghi")

    world.on_reactor(send)
    assert exactly(backend, 9) == b"abcdefghi"


@in_world()
def test_a_reset_right_after_the_end_is_seen(world: World) -> None:
    client, backend = world.pair()
    record = world.live()

    def end_and_reset() -> None:  # in one turn of the reactor, which gets both events at once
        client.shutdown(socket.SHUT_WR)
        reset(client)

    world.on_reactor(end_and_reset)
    assert to_the_end(backend) == (b"", "fin")
    until(lambda: record.state == "closed")  # the backend hears that nobody is left
    assert (record.reason, record.client_end) == ("client_closed", "fin")


@in_world()
def test_a_reset_by_both_gives_the_slot_back_at_once(world: World) -> None:
    client, backend = world.pair()
    record = world.live()
    backend.send(bytes(1_000_000))  # more than the client's receive buffer takes
    until(lambda: record.down)
    reset(backend)
    until(lambda: record.state == "closing")
    reset(client)
    until(lambda: record.state == "closed", GRACE_SECONDS - 1)


@in_world(of=("copy", "splice"))
def test_a_failed_dial_leaves_nothing_to_collect(world: World) -> None:
    world._backend_listener.close()
    left = Leftovers()
    gc.disable()
    try:
        for _ in range(10):
            client = world.client()
            client.sendall(b"hello?")
            to_the_end(client)
            client.close()
        until(lambda: not len(world.monitor))
        until(lambda: not left())
    finally:
        gc.enable()
    assert {record.reason for record in world.monitor.closed_records} == {"backend_refused"}


@pytest.mark.parametrize("bound", ["\0monconn-test", "file"])
@pytest_twisted.ensureDeferred
async def test_a_unix_client_may_have_a_name(tmp_path: Path, bound: str) -> None:
    def play() -> None:
        with World(tmp_path, "unix", "copy") as world:
            client = world._keep(socket.socket(socket.AF_UNIX))
            client.bind(f"{bound}{os.getpid()}" if bound[0] == "\0" else str(tmp_path / bound))
            client.connect(world.where)
            client.sendall(b"hello")
            assert exactly(world.backend(), 5) == b"hello"
            record = world.live()
            assert (record.client, record.client_ip) == (f"unix:{os.getpid()}", "unix")

    await deferToThread(play)


# -- shortages


def test_pipes_that_would_be_small_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PipePool()
    with patch("fcntl.fcntl", side_effect=PermissionError(errno.EPERM, "no")):
        before = len(os.listdir("/proc/self/fd"))
        assert pool.take() is None
        assert len(os.listdir("/proc/self/fd")) == before
    assert pool.take() is None  # no second attempt for a moment
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    pipe = pool.take()
    assert pipe is not None
    pipe.close()


# -- names


@pytest_twisted.ensureDeferred
async def test_simultaneous_queries_of_a_name_share_the_answer() -> None:
    from twisted.internet import reactor

    threads: Any = reactor
    looked_up: list[object] = []
    answer = [(socket.AF_INET, ("127.0.0.1", 80))]
    targets = Resolver(TcpAddress("name.test", 80), threads, MonotonicClock())

    def resolve(address: object) -> Any:
        looked_up.append(address)
        return answer

    found: list[Any] = []
    failed: list[str] = []
    with patch("monconn.net.resolver._resolve", resolve):
        for _ in range(5):
            targets.resolve(found.append, failed.append)
        while len(found) < 5:
            await deferToThread(lambda: None)
    assert (found, failed, len(looked_up)) == ([answer] * 5, [], 1)
    assert targets.cached() == answer
