"""A paused service: nothing is read, accepted, refused or ended, and nothing is lost."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from monconn.policy.rules import Rules
from monconn.relay.ends import HOLD_FULL, HOLD_PAUSE
from monconn.relay.preface import Decision

from .test_phases import relay_of
from .test_relay import Stage
from .tls_socket import TlsSocket, context
from .world import PIPES, World, exactly, reset, to_the_end, until, until_settled

Scenario = Callable[[World], None]


def run(folder: Path, pipe: str, scenario: Scenario, **options: Any) -> Deferred[None]:
    def play() -> None:
        with World(folder, "ipv4", pipe, **options) as world:
            scenario(world)

    return deferToThread(play)


def moved(world: World) -> int:
    return until_settled(lambda: sum(world.monitor.bytes()), 0.1)


# -- bytes


@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_bytes_wait_both_ways_and_are_delivered_in_order(tmp_path: Path, pipe: str) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        client.sendall(b"before")
        assert exactly(backend, 6) == b"before"
        world.on_reactor(world.monitor.pause)
        before = sum(world.monitor.bytes())
        client.sendall(b"up")
        backend.sendall(b"down")
        client.shutdown(socket.SHUT_WR)
        assert moved(world) == before
        assert (world.live().state, world.live().reason) == ("open", None)
        world.on_reactor(world.monitor.resume)
        assert exactly(client, 4) == b"down"
        assert to_the_end(backend) == (b"up", "fin")
        backend.close()
        assert to_the_end(client) == (b"", "fin")
        client.close()
        world.closed()

    await run(tmp_path, pipe, scenario)


@pytest.mark.parametrize("pipe", ["copy", "splice", "stream", "tls_to_tls"])
@pytest_twisted.ensureDeferred
async def test_what_came_before_a_reset_is_delivered_after_the_pause(
    tmp_path: Path, pipe: str
) -> None:
    """However long the pause takes: GRACE_SECONDS begin with its end."""

    def scenario(world: World) -> None:
        client, backend = world.pair()
        client.sendall(b"x")
        assert exactly(backend, 1) == b"x"
        world.on_reactor(world.monitor.pause)
        client.sendall(b"last")
        until_settled(lambda: len(world.monitor), 0.05)
        reset(client)
        until_settled(lambda: len(world.monitor), 0.7)  # longer than the grace
        assert len(world.monitor) == 1
        world.on_reactor(world.monitor.resume)
        assert to_the_end(backend)[0] == b"last"
        backend.close()
        (record,) = world.closed()
        assert (record.reason, record.up) == ("client_reset", 5)

    await run(tmp_path, pipe, scenario, grace_seconds=0.3)


@pytest.mark.parametrize("pipe", ["copy", "stream"])
@pytest_twisted.ensureDeferred
async def test_a_reset_is_noticed_where_nothing_is_to_be_read(tmp_path: Path, pipe: str) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        client.sendall(b"x")
        assert exactly(backend, 1) == b"x"
        world.on_reactor(world.monitor.pause)
        reset(client)
        assert to_the_end(backend) == (b"", "reset")
        (record,) = world.closed()
        assert record.reason == "client_reset"
        assert world.monitor.is_paused

    await run(tmp_path, pipe, scenario)


@pytest.mark.parametrize("pipe", ["splice", "stream"])
@pytest_twisted.ensureDeferred
async def test_a_pause_amid_bulk_loses_nothing(tmp_path: Path, pipe: str) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        data = bytes(range(256)) * 40_000
        sending = world.meanwhile(client.sendall, data)
        got = exactly(backend, 1_000_000)
        world.on_reactor(world.monitor.pause)
        relay = relay_of(world)
        until(lambda: relay.client.holds & HOLD_PAUSE)
        taken = until_settled(lambda: relay.record.up, 0.1)
        receiving = world.meanwhile(exactly, backend, taken - len(got))
        got += receiving.result()
        until(lambda: not relay.client.holds & HOLD_FULL)
        assert relay.client.holds == HOLD_PAUSE
        world.on_reactor(world.monitor.resume)
        got += exactly(backend, len(data) - len(got))
        sending.result()
        assert got == data

    await run(tmp_path, pipe, scenario)


# -- who comes meanwhile


@pytest.mark.parametrize("pipe", ["copy", "tls_to_plain"])
@pytest_twisted.ensureDeferred
async def test_clients_wait_in_the_queue(tmp_path: Path, pipe: str) -> None:
    def scenario(world: World) -> None:
        world.on_reactor(world.monitor.pause)
        coming = [world.meanwhile(world.client) for _ in range(3)]
        world._backend_listener.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            world.raw_backend()
            raise AssertionError("a backend was dialled")
        assert (len(world.monitor), world.monitor.stats()["refused"]) == (0, 0)
        world.on_reactor(world.monitor.resume)
        world._backend_listener.settimeout(20)
        for client in [each.result() for each in coming]:
            client.sendall(b"x")
        for _ in coming:
            assert exactly(world.backend(), 1) == b"x"

    await run(tmp_path, pipe, scenario)


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_ends_in_a_pause_waits_with_us(tmp_path: Path) -> None:
    def scenario(world: World) -> None:
        raw = world.raw_client()
        (room,) = until(lambda: tuple(world.paths._rooms))
        until(lambda: len(room))
        world.on_reactor(world.monitor.pause)
        tls = SSL.Connection(context("1.3"), None)
        tls.set_connect_state()
        client = world._keep(TlsSocket(raw, tls))
        client.sendall(b"x")
        until(lambda: room._waiting)
        assert len(world.monitor) == 0
        world.on_reactor(world.monitor.resume)
        assert exactly(world.backend(), 1) == b"x"

    await run(tmp_path, "tls_to_plain", scenario)


class OneByte:
    """A preface of one byte."""

    max_bytes = 10
    timeout_seconds = 10.0

    def read(self, data: bytes, ended: bool) -> Decision | None:
        return Decision(consumed=1)


@pytest.mark.parametrize("pipe", ["copy", "stream"])
@pytest_twisted.ensureDeferred
async def test_a_preface_that_is_complete_in_a_pause_waits_with_us(
    tmp_path: Path, pipe: str
) -> None:
    def scenario(world: World) -> None:
        client, leaving = world.client(), world.client()
        until(lambda: len(world.room()) == 2)
        world.on_reactor(world.monitor.pause)
        client.sendall(b"!x")
        leaving.sendall(b"!y")
        until(lambda: len(world.room()._decided) == 2)
        client.sendall(b"yz")
        client.shutdown(socket.SHUT_WR)
        leaving.close()
        until_settled(lambda: len(world.room()), 0.1)
        assert len(world.monitor) == 0
        world.on_reactor(world.monitor.resume)
        got = {to_the_end(world.backend())[0] for _ in range(2)}
        assert got == {b"xyz", b"y"}
        assert len(world.room()) == 0

    await run(tmp_path, pipe, scenario, preface=OneByte())


@pytest_twisted.ensureDeferred
async def test_a_connection_whose_connect_is_under_way_begins_held(tmp_path: Path) -> None:
    def scenario(world: World) -> None:
        world.fill_backend()
        client = world.client()
        client.sendall(b"x")
        until(lambda: len(world.monitor) == 1)
        world.on_reactor(world.monitor.pause)
        world.empty_backend()
        backend = world.backend()
        backend.sendall(b"y")
        until(lambda: world.live().state == "open")
        assert moved(world) == 0
        world.on_reactor(world.monitor.resume)
        assert (exactly(backend, 1), exactly(client, 1)) == (b"x", b"y")

    await run(tmp_path, "copy", scenario, backlog=0)


# -- its end


@pytest.mark.parametrize("pipe", ["copy", "stream"])
@pytest_twisted.ensureDeferred
async def test_a_pause_ends_by_itself(tmp_path: Path, pipe: str) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        world.on_reactor(world.monitor.pause, 0.2)
        client.sendall(b"x")
        assert exactly(backend, 1) == b"x"
        assert world.monitor.state == "running"
        assert world.monitor.pauses.delay_of(0) >= 0.2

    await run(tmp_path, pipe, scenario)


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_it_and_what_waits_is_delivered(tmp_path: Path) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        world.on_reactor(world.monitor.pause)
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        stopped = world.meanwhile(world.on_reactor, world.monitor.stop, 20)
        assert to_the_end(backend) == (b"last", "fin")
        backend.close()
        stopped.result()
        (record,) = world.closed()
        assert record.reason == "client_closed"

    await run(tmp_path, "copy", scenario)


@pytest_twisted.ensureDeferred
async def test_draining_refuses_those_who_come_though_others_would_wait(tmp_path: Path) -> None:
    def scenario(world: World) -> None:
        client, backend = world.pair()
        waiting = world.client()  # as the service is full
        world.on_reactor(world.monitor.drain)
        assert to_the_end(waiting)[0] == b""
        assert to_the_end(world.client())[0] == b""
        assert world.monitor.stats()["refused_by"]["draining"] == 2
        client.sendall(b"x")
        assert exactly(backend, 1) == b"x"
        world.on_reactor(world.monitor.resume)
        client.close()
        assert to_the_end(backend)[0] == b""
        backend.close()
        again, other = world.pair()
        again.sendall(b"y")
        assert exactly(other, 1) == b"y"

    await run(tmp_path, "copy", scenario, rules=Rules(conn_limit=1))


# -- time limits


def test_what_was_left_of_limits_is_left() -> None:
    stage = Stage(read_timeout=30, max_idle=40).open()
    stage.clock.advance(20)
    stage.monitor.pause()
    assert stage.client.holds & stage.backend.holds & HOLD_PAUSE
    stage.clock.advance(1000)
    assert stage.record.reason is None
    stage.monitor.resume()
    assert not (stage.client.holds | stage.backend.holds)
    stage.clock.advance(9)
    assert stage.record.reason is None
    stage.clock.advance(1.5)
    assert stage.record.reason == "read_timeout"


def test_the_lifetime_goes_on_in_a_pause() -> None:
    stage = Stage(max_lifetime=30).open()
    stage.monitor.pause()
    stage.clock.advance(31)
    assert stage.record.reason == "lifetime"
