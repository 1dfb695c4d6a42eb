"""Every reason and refusal, made on real sockets on each path, and its row in the documentation."""

from __future__ import annotations

import ctypes
import errno
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import tcp
from twisted.internet.threads import deferToThread

from monconn.model.reasons import REASONS, REFUSALS
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.relay.sockets import connect as attempt
from tests import ROOT

from .world import World, _twins, exactly, listen_tls, reset, to_the_end, until

PAGE = ROOT / "docs" / "reasons.md"
ROADS = ("stream", "splice")
"""Over Twisted's transports, and over plain sockets."""
SECONDS = 0.3
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_TAKE_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
_NO_PACKET = struct.pack("HP", 1, ctypes.addressof(_TAKE_NOTHING))


@attrs.frozen
class Scenario:
    """A scenario that leads to a reason, and the record's code and ends after it."""

    play: Callable[[World], None]
    reason: str
    code: str
    ends: tuple[str, str]
    world: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.reason}-{self.play.__name__}"


SCENARIOS: list[Scenario] = []
Play = Callable[[World], None]


def scenario(
    reason: str, code: str, client_end: str = "none", backend_end: str = "none", **world: Any
) -> Callable[[Play], Play]:
    """Add a function to the table; several times for one that leads to several reasons."""

    def note(play: Play) -> Play:
        SCENARIOS.append(Scenario(play, reason, code, (client_end, backend_end), world))
        return play

    return note


def open_pair(world: World) -> tuple[socket.socket, socket.socket]:
    """A client and its backend, once bytes have gone both ways."""
    client, backend = world.pair()
    for sender, receiver in ((client, backend), (backend, client)):
        sender.sendall(b"hello")
        assert exactly(receiver, 5) == b"hello"
    return client, backend


def wait_and_close(first: socket.socket, other: socket.socket) -> None:
    """Wait until we end a connection, and answer."""
    for sock in (first, other):
        to_the_end(sock)
        sock.close()


def connect_without_backend(world: World) -> None:
    """Be a client for which there is no backend."""
    client = world.client()
    to_the_end(client)
    client.close()


def vanish(sock: socket.socket) -> None:
    """Have a side answer nothing any more, not even to the kernel, and ours give up soon."""
    for ours in _twins(sock):
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 200)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _NO_PACKET)


# -- ends by the two sides


@scenario("client_closed", "--", "fin", "fin")
def client_closes(world: World) -> None:
    client, backend = open_pair(world)
    client.close()
    wait_and_close(backend, backend.dup())


@scenario("backend_closed", "--", "fin", "fin")
def backend_closes(world: World) -> None:
    client, backend = open_pair(world)
    backend.close()
    wait_and_close(client, client.dup())


@scenario("client_reset", "CD", "reset")
def client_resets(world: World) -> None:
    client, backend = open_pair(world)
    reset(client)
    assert to_the_end(backend)[1] == "reset"


@scenario("backend_reset", "SD", "none", "reset")
def backend_resets(world: World) -> None:
    client, backend = open_pair(world)
    reset(backend)
    assert to_the_end(client)[1] == "reset"


@scenario("client_lost", "CD", "timeout")
def client_vanishes(world: World) -> None:
    client, backend = open_pair(world)
    vanish(client)
    backend.sendall(b"are you there?")
    assert to_the_end(backend)[1] == "reset"


@scenario("backend_lost", "SD", "none", "timeout")
def backend_vanishes(world: World) -> None:
    client, backend = open_pair(world)
    vanish(backend)
    client.sendall(b"are you there?")
    assert to_the_end(client)[1] == "reset"


# -- before the backend is connected


@scenario("backend_refused", "SC")
def backend_refuses(world: World) -> None:
    world.refuse_at_backend()
    connect_without_backend(world)


@scenario("backend_unreachable", "SC", family="unix")
def backend_is_not_there(world: World) -> None:
    world.unlink_backend()
    connect_without_backend(world)


@scenario(
    "connect_timeout",
    "sC",
    "none",
    "timeout",
    backlog=0,
    timeouts=Timeouts(connect_timeout=SECONDS),
)
def backend_does_not_answer_the_call(world: World) -> None:
    world.fill_backend()
    connect_without_backend(world)


@scenario("error", "RC")
def no_descriptor_is_left(world: World) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "_make_socket", fail)
        patch.setattr(tcp.BaseClient, "createInternetSocket", fail)
        connect_without_backend(world)


# -- time limits


@scenario("read_timeout", "cD", "timeout", timeouts=Timeouts(read_timeout=SECONDS))
@scenario("idle_timeout", "cD", timeouts=Timeouts(max_idle=SECONDS))
@scenario("lifetime", "PD", timeouts=Timeouts(max_lifetime=SECONDS))
def nothing_more_happens(world: World) -> None:
    wait_and_close(*open_pair(world))


@scenario("idle_timeout", "sD", timeouts=Timeouts(max_idle=SECONDS))
def backend_owes_an_answer(world: World) -> None:
    client, backend = open_pair(world)
    client.sendall(b"hello?")
    assert exactly(backend, 6) == b"hello?"
    wait_and_close(client, backend)


@scenario("half_close_timeout", "sD", "fin", timeouts=Timeouts(half_close_timeout=SECONDS))
@scenario("idle_timeout", "sD", "fin", timeouts=Timeouts(max_idle=SECONDS))
def client_half_closes(world: World) -> None:
    client, backend = open_pair(world)
    client.shutdown(socket.SHUT_WR)
    wait_and_close(client, backend)


@scenario("half_close_timeout", "cL", "none", "fin", timeouts=Timeouts(half_close_timeout=SECONDS))
@scenario("idle_timeout", "cL", "none", "fin", timeouts=Timeouts(max_idle=SECONDS))
def backend_half_closes(world: World) -> None:
    client, backend = open_pair(world)
    backend.shutdown(socket.SHUT_WR)
    wait_and_close(backend, client)


def send_until_broken(sender: socket.socket) -> None:
    with suppress(ConnectionError):
        sender.sendall(bytes(64 << 20))


@scenario("write_timeout", "cD", "timeout", timeouts=Timeouts(write_timeout=SECONDS))
def client_does_not_read(world: World) -> None:
    _, backend = world.pair()
    send_until_broken(backend)


@scenario("write_timeout", "sD", "none", "timeout", timeouts=Timeouts(write_timeout=SECONDS))
def backend_does_not_read(world: World) -> None:
    client, _ = world.pair()
    send_until_broken(client)


# -- ends by the operator


@scenario("operator", "KD")
def operator_closes(world: World) -> None:
    client, backend = open_pair(world)
    world.on_reactor(world.monitor.close_all)
    wait_and_close(client, backend)


@scenario("blocked", "PD")
def client_is_blocked(world: World) -> None:
    client, backend = open_pair(world)
    world.on_reactor(world.monitor.block, "127.0.0.1")
    wait_and_close(client, backend)


@scenario("stopping", "KD")
def service_stops(world: World) -> None:
    client, backend = open_pair(world)
    world.on_reactor(world.monitor.stop_now)
    wait_and_close(client, backend)


@pytest.mark.parametrize("path", ROADS)
@pytest.mark.parametrize("played", SCENARIOS, ids=str)
@pytest_twisted.ensureDeferred
async def test_reason(played: Scenario, path: str, tmp_path: Path) -> None:
    def play() -> None:
        options = {"family": "ipv4", **played.world}
        with World(tmp_path, pipe=path, **options) as world:
            played.play(world)
            until(lambda: world.monitor.closed_records)
            (record,) = world.monitor.closed_records
        assert (record.reason, record.code) == (played.reason, played.code)
        assert (record.client_end, record.backend_end) == played.ends

    await deferToThread(play)


# -- refusals


def block(world: World) -> None:
    world.on_reactor(world.monitor.block, "127.0.0.1")


def stop(world: World) -> None:
    world.on_reactor(setattr, world.monitor.lifecycle, "stopping", True)


def connect_another_client(world: World) -> None:
    world.client("127.0.0.2")
    world.live()


def connect_before(world: World) -> None:
    world.client()
    world.live()


def drain(world: World) -> None:
    world.on_reactor(world.monitor.drain)


def nothing(world: World) -> None:
    pass


REFUSED: dict[str, tuple[dict[str, Any], Play]] = {
    "blocked": ({}, block),
    "stopping": ({}, stop),
    "conn_limit": ({"conn_limit": 1, "when_full": "refuse"}, connect_another_client),
    "ip_limit": ({"ip_limit": 1}, connect_another_client),
    "per_ip_limit": ({"per_ip_limit": 1}, connect_before),
    "rate": ({"rate": "1/h", "when_full": "refuse"}, connect_before),
    "per_ip_rate": ({"per_ip_rate": "1/h"}, connect_before),
    "not_allowed": ({"allow": ["192.0.2.0/24"]}, nothing),
    "draining": ({}, drain),
}
"""By refusal: the rules, and what happens before the client comes."""


AMID_HANDSHAKE: dict[str, tuple[float, bytes]] = {
    "handshake_failed": (10.0, b"GET / HTTP/1.0\r\n\r\n"),
    "handshake_timeout": (0.2, b""),
}
"""By refusal of TLS clients: the time limit, and what they send."""


@pytest.mark.parametrize("refusal", AMID_HANDSHAKE)
@pytest_twisted.ensureDeferred
async def test_refusal_amid_a_handshake(refusal: str, tmp_path: Path) -> None:
    seconds, sent = AMID_HANDSHAKE[refusal]

    def play() -> None:
        with World(tmp_path, pipe="tls_to_plain", tls=listen_tls(seconds)) as world:
            world.raw_client().sendall(sent)
            until(lambda: world.monitor.stats()["refused_by"] == {refusal: 1})

    await deferToThread(play)


@pytest.mark.parametrize("path", ROADS)
@pytest.mark.parametrize("refusal", REFUSED)
@pytest_twisted.ensureDeferred
async def test_refusal(refusal: str, path: str, tmp_path: Path) -> None:
    rules, prepare = REFUSED[refusal]

    def play() -> None:
        with World(tmp_path, pipe=path, rules=Rules(**rules)) as world:
            prepare(world)
            to_the_end(world.client())
            assert world.monitor.stats()["refused_by"] == {refusal: 1}

    await deferToThread(play)


# -- completeness


def documented() -> dict[str, str]:
    """The documented table: by reason, which side ended the connection, and the codes."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+ \| .*) \|$", PAGE.read_text(), re.MULTILINE)
    return dict(rows)


def test_every_reason_is_made_here() -> None:
    assert {played.reason for played in SCENARIOS} == set(REASONS)


def test_every_refusal_is_made_here() -> None:
    assert set(REFUSED) | set(AMID_HANDSHAKE) == set(REFUSALS)


def test_page_has_every_reason_in_order() -> None:
    assert tuple(documented()) == REASONS


@pytest.mark.parametrize("played", SCENARIOS, ids=str)
def test_page_has_the_code(played: Scenario) -> None:
    """Where the backend was not connected, the page says it once for all reasons."""
    said = documented()[played.reason]
    assert f"`{played.code}`" in said or played.code[1] == "C"


def test_page_has_every_refusal() -> None:
    _, _, section = PAGE.read_text().partition("## Refusals")
    table = section.partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(REFUSALS)
