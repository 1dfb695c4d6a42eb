"""Scenarios of clients and backends connected through monconn, on real sockets."""

from __future__ import annotations

import gc
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import attrs
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.tcpinfo import parse
from monconn.policy.timeouts import GRACE_SECONDS, Timeouts
from monconn.relay.sockets.loop import NestedSocketLoop

from .world import (
    FAMILIES,
    HELD_BYTES,
    MOVES,
    PIPES,
    World,
    arrived,
    ends_by_reset,
    exactly,
    is_dead,
    is_tcp,
    reset,
    send_all_it_takes,
    to_the_end,
    unread,
    unsent,
    until,
    until_settled,
)

MB = 1 << 20
ALL = tuple(FAMILIES)
TCP_BACKEND = ("ipv4", "ipv6")
UNIX_BACKEND = ("unix", "ipv4_to_unix")
SLOW = ("ipv4", "unix", "ipv4_to_unix")
"""For what takes long: IPv6 cannot differ in it from IPv4."""
OTHER = {"client": "backend", "backend": "client"}
BY_EITHER = ({"by": "client"}, {"by": "backend"})


@attrs.frozen
class Scenario:
    """A function of a world, its arguments, and the worlds that it is played in."""

    play: Callable[..., None]
    arguments: dict[str, Any]
    families: tuple[str, ...]
    world: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.play.__name__, *map(str, self.arguments.values())])


SCENARIOS: list[Scenario] = []


def scenario(
    *variants: dict[str, Any], families: tuple[str, ...] = ALL, **world: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put a function into the table, once for each set of arguments."""

    def note(play: Callable[..., None]) -> Callable[..., None]:
        SCENARIOS.extend(Scenario(play, each, families, world) for each in variants or ({},))
        return play

    return note


@lru_cache(maxsize=4)
def payload(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def sides(world: World, first: str) -> tuple[socket.socket, socket.socket]:
    """The two outer sockets of a new connection, the named side's first."""
    client, backend = world.pair()
    return (client, backend) if first == "client" else (backend, client)


def counts(first: str, from_first: Any, from_other: Any) -> dict[str, Any]:
    """``up`` and ``down``, when the named side has sent the one and the other side the other."""
    up, down = (from_first, from_other) if first == "client" else (from_other, from_first)
    return {"up": up, "down": down}


def hang_up(first: socket.socket, other: socket.socket) -> None:
    """End a connection in order, one side first."""
    first.close()
    assert to_the_end(other) == (b"", "fin")
    other.close()


def let_see_unread(first: socket.socket, other: socket.socket) -> None:
    """Leave six bytes unread at the first side, which makes its closing a reset anywhere."""
    other.sendall(b"unread")
    until(lambda: arrived(first) == 6)


def expect_reset(world: World, by: str, *, other_end: str = "none", **count: Any) -> None:
    ends = {f"{by}_end": "reset", f"{OTHER[by]}_end": other_end}
    code = ("C" if by == "client" else "S") + ("L" if ends["backend_end"] == "fin" else "D")
    world.expect(f"{by}_reset", code, **ends, **count)


def expect_closed(world: World, by: str, **count: Any) -> None:
    ends: dict[str, Any] = {f"{by}_end": "fin", f"{OTHER[by]}_end": ANY}
    world.expect(f"{by}_closed", "--", **ends, **count)


def slowly(sock: socket.socket, count: int, pause: float) -> bytes:
    received = bytearray()
    while len(received) < count:
        received += exactly(sock, min(MB, count - len(received)))
        time.sleep(pause)
    return bytes(received)


# -- ends in order


@scenario()
def request_and_reply(world: World) -> None:
    client, backend = world.pair()
    client.sendall(b"how are you?")
    assert exactly(backend, 12) == b"how are you?"
    backend.sendall(b"fine")
    assert exactly(client, 4) == b"fine"
    assert world.live().state == "open"
    hang_up(client, backend)
    world.expect("client_closed", "--", "fin", "fin", up=12, down=4)


@scenario()
def times_and_what_tcp_knows(world: World) -> None:
    client, backend = world.pair()
    record = world.live()
    until(lambda: record.state == "open")
    assert (record.first_up, record.first_down) == (None, None)
    for _ in range(2):
        client.sendall(b"ping")
        assert exactly(backend, 4) == b"ping"
        backend.sendall(b"pong")
        assert exactly(client, 4) == b"pong"
    assert record.client_tcp is None  # not queried yet
    world.on_reactor(world.monitor.measure, record.id)
    for sock, raw in ((client, record.client_tcp), (backend, record.backend_tcp)):
        assert (raw is not None) == is_tcp(sock)
        assert raw is None or parse(raw).segments_sent > 0
    record.client_tcp = record.backend_tcp = None
    hang_up(backend, client)
    world.closed()
    assert (record.client_tcp is not None, record.backend_tcp is not None) == (
        is_tcp(client),
        is_tcp(backend),
    )
    moments = [
        record.opened,
        record.connected,
        record.first_up,
        record.first_down,
        record.last_up,
        record.last_down,
        record.closed,
    ]
    assert moments == sorted(moments, key=lambda moment: moment or 0.0)
    assert len(set(moments)) > 4


@scenario()
def server_speaks_first(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"220 welcome")
    assert exactly(client, 11) == b"220 welcome"
    client.sendall(b"QUIT")
    assert exactly(backend, 4) == b"QUIT"
    hang_up(backend, client)
    world.expect("backend_closed", "--", "fin", "fin", up=4, down=11)


@scenario()
def silent_client(world: World) -> None:
    client, backend = world.pair()
    record = world.live()
    until(lambda: record.state == "open")
    hang_up(client, backend)
    world.expect("client_closed", "--", "fin", "fin", up=0, down=0)


@scenario(*({"by": by, "count": count} for by in OTHER for count in (1, 5 * MB)))
def half_close_then_late_bytes(world: World, by: str, count: int) -> None:
    first, other = sides(world, by)
    first.sendall(b"that was all")
    first.shutdown(socket.SHUT_WR)
    assert to_the_end(other) == (b"that was all", "fin")
    assert world.live().state == "half_closed"
    late = payload(count)
    sending = world.meanwhile(other.sendall, late)
    assert exactly(first, count) == late
    sending.result()
    other.close()
    assert to_the_end(first) == (b"", "fin")
    world.expect(f"{by}_closed", "--", "fin", "fin", **counts(by, 12, count))


@scenario({"count": 10}, {"count": 300_000})
def send_and_close_before_backend_accepts(world: World, count: int) -> None:
    data = payload(count)
    client = world.client()
    client.sendall(data)
    client.close()
    backend = world.backend()
    assert to_the_end(backend) == (data, "fin")
    backend.close()
    world.expect("client_closed", "--", "fin", "fin", up=count, down=0)


@scenario(families=("ipv4",), backlog=0)
def bytes_before_backend_is_connected(world: World) -> None:
    world.fill_backend()
    data = payload(300_000)
    client = world.client()
    sending = world.meanwhile(client.sendall, data)
    record = world.live()
    assert until_settled(lambda: record.up) <= HELD_BYTES[world.pipe]
    assert record.state == "connecting"
    world.empty_backend()
    backend = world.backend()
    assert exactly(backend, len(data)) == data
    sending.result()
    backend.sendall(b"thanks")
    assert exactly(client, 6) == b"thanks"
    hang_up(client, backend)
    world.expect("client_closed", "--", "fin", "fin", up=len(data), down=6)


@scenario(families=("ipv4",), backlog=0)
def send_and_close_before_backend_is_connected(world: World) -> None:
    world.fill_backend()
    data = payload(300_000)
    client = world.client()
    client.sendall(data)
    client.close()
    until(lambda: world.live().up or not world.reads_early)  # others leave them to the kernel
    world.empty_backend()
    backend = world.backend()
    assert to_the_end(backend) == (data, "fin")
    backend.close()
    world.expect("client_closed", "--", "fin", "fin", up=300_000, down=0)


# -- resets


@scenario(*({"by": by, "count": count} for by in OTHER for count in (10, MB)))
def reset_after_bytes(world: World, by: str, count: int) -> None:
    first, other = sides(world, by)
    let_see_unread(first, other)
    data = payload(count)
    reading = world.meanwhile(to_the_end, other, 1 << 15, 0.002)  # slowly
    first.sendall(data)
    until(lambda: not unsent(first))
    reset(first)
    received, end = reading.result()
    assert received == data
    assert end in ends_by_reset(other)
    expect_reset(world, by, **counts(by, count, 6))


@scenario(*BY_EITHER)
def answer_and_reset_in_the_middle_of_an_upload(world: World, by: str) -> None:
    answer, upload = payload(100_000), payload(16 * MB)
    for round_number in range(1, 5):
        first, other = sides(world, by)
        sending = world.meanwhile(send_all_it_takes, other, upload)
        exactly(first, 100_000)
        first.sendall(answer)
        until(partial(lambda sock: not unsent(sock), first))
        reset(first)
        received, end = to_the_end(other)
        assert received == answer
        sent = sending.result()
        assert end == "reset" or sent < len(upload)  # only one of the two threads gets the error
        other.close()
        record = world.closed(round_number)[-1]
        assert record.reason == f"{by}_reset"


def send_until_stalled(sender: socket.socket) -> bytes:
    """Send until no more is taken; what was taken."""
    data = payload(64 * MB)  # more than the kernel's own buffers ever grow to
    sender.settimeout(0.15)
    taken = send_all_it_takes(sender, data)
    assert taken < len(data)
    return data[:taken]


def stall(first: socket.socket, other: socket.socket) -> bytes:
    """The same, with bytes from the other side left unread."""
    let_see_unread(first, other)
    return send_until_stalled(first)


@scenario(*BY_EITHER, families=SLOW, grace_seconds=0.15)
def reset_while_other_side_stays_stalled(world: World, by: str) -> None:
    first, other = sides(world, by)
    data = stall(first, other)
    reset(first)
    began = time.monotonic()
    expect_reset(world, by, **counts(by, ANY, 6))
    assert time.monotonic() - began < 3
    received, end = to_the_end(other)
    assert received == data[: len(received)]
    assert end in ends_by_reset(other)


@scenario(*BY_EITHER, families=SLOW)
def reset_while_other_side_stalls_and_goes_on(world: World, by: str) -> None:
    first, other = sides(world, by)
    data = stall(first, other)
    arrived = len(data) - unsent(first) if is_tcp(first) else len(data)
    reset(first)
    began = time.monotonic()
    received, end = to_the_end(other)
    assert received == data[: len(received)]
    assert len(received) >= arrived - world.record_bytes
    assert end in ends_by_reset(other)
    expect_reset(world, by, **counts(by, len(received), 6))
    assert time.monotonic() - began < GRACE_SECONDS - 1


def stall_both(
    world: World, first: socket.socket, other: socket.socket
) -> tuple[bytes, int, Future[int]]:
    """The same both ways: what was taken from the first, how much of it has reached us at least,
    and what the other goes on sending."""
    sending = world.meanwhile(send_all_it_takes, other, payload(64 * MB))
    until(lambda: unread(first))
    data = send_until_stalled(first)
    return data, len(data) - unsent(first) if is_tcp(first) else len(data), sending


@scenario(*BY_EITHER, families=("ipv4", "unix"))
def reset_while_both_sides_are_stalled(world: World, by: str) -> None:
    first, other = sides(world, by)
    data, arrived, sending = stall_both(world, first, other)
    reset(first)
    received, _ = to_the_end(other)
    assert received == data[: len(received)]
    assert len(received) >= arrived - world.record_bytes
    sending.result()
    expect_reset(world, by, **counts(by, len(received), ANY))


def take_and_reset(first: socket.socket, other: socket.socket) -> bytes:
    """Take what has arrived at a stalled side, and only then reset the first."""
    taken = bytearray()
    while count := arrived(other):
        taken += other.recv(count)
    reset(first)
    return bytes(taken)


@scenario(*BY_EITHER, families=("ipv4", "unix"))
def reset_reported_together_with_room_for_earlier_bytes(world: World, by: str) -> None:
    first, other = sides(world, by)
    data, arrived, sending = stall_both(world, first, other)
    # In the reactor's thread, so that it fetches both events at once: the one has it read again
    # from the first, which was still paused when the other was fetched.
    taken = world.on_reactor(take_and_reset, first, other)
    received, _ = to_the_end(other)
    received = taken + received
    assert received == data[: len(received)]
    assert len(received) >= arrived - world.record_bytes
    sending.result()
    expect_reset(world, by, **counts(by, len(received), ANY))
    assert world.closed()[0].half_closed is None, "no end came before the reset"


@scenario(*BY_EITHER)
def reset_after_half_close(world: World, by: str) -> None:
    """The end has decided the reason; but a backend must not go on answering nobody."""
    first, other = sides(world, by)
    first.sendall(b"request")
    first.shutdown(socket.SHUT_WR)
    assert to_the_end(other) == (b"request", "fin")
    let_see_unread(first, other)
    reset(first)
    if by == "client":
        until(lambda: is_dead(other), seconds=5)
    else:
        until(lambda: world.live().backend_tcp is not None or not is_tcp(first))
        assert not is_dead(other)
        other.close()
    expect_closed(world, by, **counts(by, 7, 6))


@scenario(*BY_EITHER, families=("ipv4",), grace_seconds=0.1)
def end_and_reset_of_a_side_whose_bytes_are_read_slowly(world: World, by: str) -> None:
    """All of them are delivered, at the pace of the other side."""
    first, other = sides(world, by)
    let_see_unread(first, other)
    data = payload(8 * MB)
    sending = world.meanwhile(first.sendall, data)
    until_settled(lambda: world.live().up + world.live().down)
    received = bytearray(exactly(other, MB))
    # Longer than the grace time and the 0.1 s by which the check of it may come later, in all.
    received += slowly(other, 7 * MB - 100_000, pause=0.04)
    sending.result()
    first.shutdown(socket.SHUT_WR)
    reset(first)
    time.sleep(0.3)  # as above
    rest, end = to_the_end(other)
    assert received + rest == data
    assert end == "fin"
    if by == "client":
        until(lambda: is_dead(other), seconds=5)
    else:
        other.close()
    expect_closed(world, by, **counts(by, len(data), 6))


@scenario(*BY_EITHER, families=("ipv4",))
def end_and_reset_at_once(world: World, by: str) -> None:
    """TCP still tells which came first; UNIX sockets do not."""
    first, other = sides(world, by)
    let_see_unread(first, other)

    def end() -> None:  # in the reactor's thread, so that it sees both at once
        first.sendall(b"last words")
        first.shutdown(socket.SHUT_WR)
        reset(first)

    world.on_reactor(end)
    assert to_the_end(other) == (b"last words", "fin")
    if by == "client":
        until(lambda: is_dead(other), seconds=5)
    else:
        other.close()
    expect_closed(world, by, **counts(by, 10, 6))


@scenario(*BY_EITHER, families=("ipv4", "unix"))
def late_bytes_for_a_side_that_has_closed(world: World, by: str) -> None:
    """Its kernel answers them with a reset."""
    first, other = sides(world, by)
    first.sendall(b"last words")
    until(lambda: arrived(other) == 10)
    first.close()
    until(lambda: world.live().half_closed is not None)
    for _ in range(10):
        send_all_it_takes(other, b"too late")
        time.sleep(0.01)
    assert exactly(other, 10) == b"last words"
    other.close()
    expect_closed(world, by, **counts(by, 10, ANY))


@scenario(*BY_EITHER)
def reset_after_half_close_of_the_other(world: World, by: str) -> None:
    first, other = sides(world, by)
    let_see_unread(first, other)
    other.shutdown(socket.SHUT_WR)
    until(lambda: world.live().state == "half_closed")
    reset(first)
    received, end = to_the_end(other)
    assert (received, end in ends_by_reset(other)) == (b"", True)
    expect_reset(world, by, other_end="fin", **counts(by, 0, 6))


@scenario(families=("unix",))
def unread_bytes_make_a_reset_that_closes_both_at_once(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"unread" * 10_000)
    until(lambda: unread(client))
    client.sendall(b"never read either")
    until(lambda: unread(backend))
    began = time.monotonic()
    client.close()
    record = world.expect("client_reset", "CD", "reset", "none", up=17, down=60_000)
    assert record.closed is not None
    assert record.closed - began < 1, "its reader gets what was sent even once we have closed"
    assert to_the_end(backend)[0] == b"never read either"


# -- the last acknowledgement


def answered_and_ended(world: World) -> tuple[socket.socket, socket.socket, bytes]:
    """A client that has ended, and does not read all of its answer; it fits into kernels."""
    client, backend = world.pair()
    client.shutdown(socket.SHUT_WR)
    data = payload(400_000)
    assert to_the_end(backend) == (b"", "fin")
    backend.sendall(data)
    backend.close()
    until(lambda: world.live().down == len(data))
    until_settled(lambda: unread(client))
    return client, backend, data


@scenario(families=TCP_BACKEND)
def a_connection_lives_until_its_last_bytes_are_acknowledged(world: World) -> None:
    client, _, data = answered_and_ended(world)
    assert world.live().reason is None
    assert to_the_end(client) == (data, "fin")
    world.expect("client_closed", "--", "fin", "fin", up=0, down=len(data))


@scenario(families=TCP_BACKEND, timeouts=Timeouts(write_timeout=0.4))
def last_bytes_that_are_not_taken(world: World) -> None:
    client, _, data = answered_and_ended(world)
    world.expect("write_timeout", "cL", "timeout", "fin", up=0, down=len(data))
    client.close()


@scenario(families=TCP_BACKEND)
def a_reset_instead_of_the_last_acknowledgement(world: World) -> None:
    client, _, data = answered_and_ended(world)
    reset(client)
    world.expect("client_closed", "--", "fin", "fin", up=0, down=len(data))


@scenario(families=("ipv4",))
def an_operator_does_not_wait_for_it(world: World) -> None:
    """The kernel goes on delivering what it has."""
    client, _, data = answered_and_ended(world)
    record = world.live()
    world.on_reactor(world.monitor.close, record.id)
    if not world.reads_early:  # else some of it may be held by us
        assert world.closed()[0].reason == "operator"
    assert to_the_end(client) == (data, "fin")
    assert world.closed()[0].reason == "operator"


@scenario(families=("ipv4",))
def an_operator_ends_it_after_one_side_has_acknowledged(world: World) -> None:
    client, backend = world.pair()
    data = payload(400_000)
    record = world.live()
    for end in (client, backend):
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
    until(lambda: record.up == record.down == len(data))
    until(lambda: record.client_end == record.backend_end == "fin")
    until_settled(lambda: unread(backend))
    assert to_the_end(backend) == (data, "fin")
    backend.close()
    until_settled(lambda: unread(client))
    world.on_reactor(world.monitor.close, record.id)
    assert to_the_end(client) == (data, "fin")
    (record,) = world.closed()
    assert (record.reason, record.client_end, record.backend_end) == ("operator", "fin", "fin")


# -- unreachable backends


@scenario({"count": 0}, {"count": 1000})
def refused_backend(world: World, count: int) -> None:
    world.refuse_at_backend()
    client = world.client()
    client.sendall(bytes(count))
    began = time.monotonic()
    assert to_the_end(client) == (b"", "fin")
    assert time.monotonic() - began < 2
    client.close()
    record = world.expect("backend_refused", "SC", "none", "none", up=ANY, down=0)
    assert record.detail == "connection refused"


@scenario(families=UNIX_BACKEND)
def unreachable_backend(world: World) -> None:
    world.unlink_backend()
    client = world.client()
    assert to_the_end(client) == (b"", "fin")
    client.close()
    world.expect("backend_unreachable", "SC", "none", "none", up=0, down=0)


@scenario(families=TCP_BACKEND, backlog=0, timeouts=Timeouts(connect_timeout=0.3))
def connect_timeout(world: World) -> None:
    world.fill_backend()
    client = world.client()
    assert to_the_end(client) == (b"", "fin")
    client.close()
    record = world.expect("connect_timeout", "sC", "none", "timeout", up=0, down=0)
    assert record.connected is None


# A client whose backend's UNIX socket has a full accept queue. Twisted takes
# the kernel's "try again" for a failure.
FULL_UNIX_QUEUE = {"stream": ("backend_unreachable", "SC", "none", "none")}
WAITS_FOR_ROOM = ("connect_timeout", "sC", "none", "timeout")


@scenario(families=UNIX_BACKEND, backlog=0, timeouts=Timeouts(connect_timeout=0.3))
def full_unix_queue(world: World) -> None:
    world.fill_backend()
    client = world.client()
    assert to_the_end(client) == (b"", "fin")
    client.close()
    world.expect(*FULL_UNIX_QUEUE.get(world.pipe, WAITS_FOR_ROOM), up=0, down=0)


@scenario({"count": 0}, {"count": 6}, families=TCP_BACKEND, backlog=0, grace_seconds=0.15)
def client_aborts_while_connecting(world: World, count: int) -> None:
    world.fill_backend()
    client = world.client()
    client.sendall(bytes(count))
    up = count if world.reads_early else 0  # the others leave it to the kernel for now
    until(lambda: world.live().up == up)
    reset(client)
    world.expect("client_reset", "CC", "reset", "none", up=up, down=0)


@scenario(families=("ipv4",), backlog=0)
def client_aborts_while_connecting_and_is_delivered(world: World) -> None:
    world.fill_backend()
    client = world.client()
    client.sendall(b"hello?")
    record = world.live()
    until(lambda: not unsent(client))
    reset(client)
    # Data paths that read early see it at once; the others once they read, when the backend is
    # connected.
    until(lambda: record.client_end == "reset" or not world.reads_early)
    world.empty_backend()
    backend = world.backend()
    assert to_the_end(backend) == (b"hello?", "reset")
    code = "CC" if world.reads_early else "CD"
    world.expect("client_reset", code, "reset", "none", up=6, down=0)


# -- the operator


@scenario()
def operator_closes(world: World) -> None:
    client, backend = world.pair()
    data = payload(100_000)
    backend.sendall(data)
    record = world.live()
    until(lambda: record.down == len(data))
    world.on_reactor(world.monitor.close, record.id)
    until(lambda: record.state == "closing")
    for _ in range(3):
        client.sendall(b"still talking")  # unread input must not cost it bytes on their way to it
    assert to_the_end(client, 1 << 12, 0.001) == (data, "fin")
    assert to_the_end(backend) == (b"", "fin")
    client.close()
    backend.close()
    world.expect("operator", "KD", "none", "none", up=0, down=len(data))


@scenario(*BY_EITHER, families=SLOW)
def operator_closes_while_one_side_is_stalled(world: World, by: str) -> None:
    sender, stalled = sides(world, by)
    data = stall(sender, stalled)
    record = world.live()
    world.on_reactor(world.monitor.close, record.id)
    received, end = to_the_end(stalled)
    assert end == "fin"
    assert received == data[: len(received)]
    assert to_the_end(sender) == (b"unread", "fin")
    stalled.close()
    sender.close()
    world.expect("operator", "KD", "none", "none", **counts(by, len(received), 6))


@scenario(*BY_EITHER, families=("ipv4", "unix"))
def operator_closes_while_a_side_that_has_ended_is_stalled(world: World, by: str) -> None:
    sender, stalled = sides(world, by)
    stalled.shutdown(socket.SHUT_WR)
    assert to_the_end(sender) == (b"", "fin")
    data = send_until_stalled(sender)
    record = world.live()
    world.on_reactor(world.monitor.close, record.id)
    received, end = to_the_end(stalled)
    assert end == "fin"
    assert received == data[: len(received)]
    sender.close()
    ends = ("none", "fin") if by == "client" else ("fin", "none")
    code = "KL" if by == "client" else "KD"
    world.expect("operator", code, *ends, **counts(by, len(received), 0))


@scenario()
def operator_resets(world: World) -> None:
    client, backend = world.pair()
    record = world.live()
    until(lambda: record.state == "open")
    world.on_reactor(world.monitor.close, record.id, reset=True)
    assert to_the_end(backend)[1] in ends_by_reset(backend)
    assert to_the_end(client)[1] in ends_by_reset(client)
    world.expect("operator", "KD", "none", "none", up=0, down=0)


# -- slow readers, and their effect on others


@scenario(*BY_EITHER, families=SLOW)
def stalled_reader(world: World, by: str) -> None:
    reader, sender = sides(world, by)
    data = payload(64 * MB)
    sending = world.meanwhile(sender.sendall, data)
    record = world.live()

    def taken() -> int:
        return record.up if by == "backend" else record.down

    until(taken)
    assert world.held_for(reader, until_settled(taken)) <= HELD_BYTES[world.pipe]
    assert not sending.done()
    assert exactly(reader, len(data)) == data
    sending.result()
    hang_up(reader, sender)
    ended = world.expect(f"{by}_closed", "--", "fin", "fin", **counts(by, 0, len(data)))
    assert ended.pipe == MOVES[world.pipe][-1]


@scenario(families=SLOW)
def stalled_connection_holds_up_no_other(world: World) -> None:
    client, backend = world.pair()
    data = payload(64 * MB)
    sendings = [world.meanwhile(sock.sendall, data) for sock in (client, backend)]
    stalled = world.live()
    until_settled(lambda: stalled.up + stalled.down)

    neighbour, its_backend = world.pair()
    for _ in range(200):
        neighbour.sendall(b"ping")
        assert exactly(its_backend, 4) == b"ping"
        its_backend.sendall(b"pong")
        assert exactly(neighbour, 4) == b"pong"
    hang_up(neighbour, its_backend)
    assert not any(sending.done() for sending in sendings)

    receiving = world.meanwhile(exactly, client, len(data))
    assert exactly(backend, len(data)) == data
    assert receiving.result() == data
    hang_up(client, backend)
    first, second = world.closed(2)
    assert (first.up, first.down) == (800, 800)
    assert (second.up, second.down) == (len(data), len(data))
    assert first.reason == second.reason == "client_closed"


# -- much at once


def send_in_random_chunks(sock: socket.socket, seed: int) -> str:
    dice = random.Random(seed)
    left, digest = dice.randint(3 * MB, 8 * MB), sha256()
    while left:
        chunk = dice.randbytes(min(left, int(2 ** dice.uniform(0, 18))))
        sock.sendall(chunk)
        digest.update(chunk)
        left -= len(chunk)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def receive_in_random_chunks(sock: socket.socket, seed: int) -> tuple[str, int]:
    dice = random.Random(seed)
    count, digest = 0, sha256()
    while chunk := sock.recv(int(2 ** dice.uniform(0, 18))):
        digest.update(chunk)
        count += len(chunk)
    return digest.hexdigest(), count


@scenario({"seed": 1}, {"seed": 2})
def full_duplex(world: World, seed: int) -> None:
    client, backend = world.pair()
    up = world.meanwhile(send_in_random_chunks, client, seed)
    down = world.meanwhile(send_in_random_chunks, backend, seed + 100)
    at_client = world.meanwhile(receive_in_random_chunks, client, seed + 200)
    at_backend = world.meanwhile(receive_in_random_chunks, backend, seed + 300)
    (up_digest, up_count), (down_digest, down_count) = at_backend.result(), at_client.result()
    assert (up_digest, down_digest) == (up.result(), down.result())
    world.expect(ANY, "--", "fin", "fin", up=up_count, down=down_count)


@scenario()
def one_byte_writes(world: World) -> None:
    client, backend = world.pair()
    data = payload(2000)
    for sender, receiver in ((client, backend), (backend, client)):
        if is_tcp(sender):
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receiving = world.meanwhile(exactly, receiver, len(data))
        for at in range(len(data)):
            sender.sendall(data[at : at + 1])
        assert receiving.result() == data
    hang_up(client, backend)
    world.expect("client_closed", "--", "fin", "fin", up=2000, down=2000)


@scenario()
def two_hundred_at_once(world: World) -> None:
    clients = [world.client() for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(number.to_bytes(4, "big"))
    backends = {}
    for _ in clients:
        backend = world.backend()
        backends[int.from_bytes(exactly(backend, 4), "big")] = backend
    assert len(world.monitor) == 200
    for number, backend in backends.items():
        backend.sendall(payload(1000, seed=number))
    for number, client in enumerate(clients):
        assert exactly(client, 1000) == payload(1000, seed=number)
    for number, client in enumerate(clients):
        hang_up(client, backends[number])
    records = world.closed(200)
    ends = Counter((record.reason, record.up, record.down) for record in records)
    assert ends == {("client_closed", 4, 1000): 200}


def closes(first: socket.socket, other: socket.socket) -> None:
    hang_up(first, other)


def resets(first: socket.socket, other: socket.socket) -> None:
    let_see_unread(first, other)
    reset(first)
    other.close()


def half_closes(first: socket.socket, other: socket.socket) -> None:
    first.shutdown(socket.SHUT_WR)
    other.sendall(b"late")
    assert exactly(first, 4) == b"late"
    hang_up(other, first)


def both_close(first: socket.socket, other: socket.socket) -> None:
    first.close()
    other.close()


def objects_of_ours() -> Counter[str]:
    gc.collect()
    types = (type(each) for each in gc.get_objects())
    return Counter(
        each.__name__ for each in types if str(each.__module__).startswith("monconn.relay")
    )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@scenario({"count": 2000}, families=("ipv4",))
@scenario({"count": 200}, families=("ipv6", "unix", "ipv4_to_unix"))
def nothing_leaks(world: World, count: int) -> None:
    if world.record_bytes:
        count //= 8  # handshakes take their time
    objects = objects_of_ours()
    hang_up(*world.pair())
    world.closed()
    descriptors = open_descriptors()
    ways = [(end, by) for end in (closes, resets, half_closes, both_close) for by in OTHER]
    refused = count // 8
    for number in range(count - refused):
        end, by = ways[number % len(ways)]
        end(*sides(world, by))
    world.refuse_at_backend()
    for _ in range(refused):
        client = world.client()
        assert to_the_end(client) == (b"", "fin")
        client.close()
    until(lambda: not len(world.monitor))
    assert world.monitor.stats()["total"] == count + 1
    assert len(world.deadlines) == 0
    until(lambda: open_descriptors() < descriptors)  # the backend's listener is closed now
    until(lambda: objects_of_ours() <= objects)


@scenario(families=("ipv4",))
def nothing_leaks_of_what_was_stalled(world: World) -> None:
    data = payload(64 * MB)
    descriptors = []
    for _ in range(2):  # the first round fills caches that the second one uses
        pairs = [world.pair() for _ in range(4)]
        sendings = [world.meanwhile(send_all_it_takes, client, data) for client, _ in pairs]
        records = world.monitor.connections()
        until(partial(lambda records: all(record.up > MB for record in records), records))
        for record in records:
            world.on_reactor(world.monitor.close, record.id, reset=True)
        for client, backend in pairs:
            to_the_end(backend)
            backend.close()
            client.close()
        assert not any(sending.result() == len(data) for sending in sendings)
        until(lambda: not len(world.monitor))
        pool = world.paths._pipes  # how many it keeps depends on how many were needed at once
        descriptors.append(open_descriptors() - 2 * len(pool))
    assert descriptors[1] <= descriptors[0]


# -- the table


OF_ALL_FAMILIES = ("stream", "copy", "splice")  # the others differ in what knows no families


def cases() -> list[Any]:
    return [
        pytest.param(each, family, pipe, id=f"{each}-{family}-{pipe}")
        for pipe in PIPES
        for each in SCENARIOS
        for family in each.families
        if pipe in OF_ALL_FAMILIES or family == "ipv4"
    ]


@pytest.mark.parametrize(("played", "family", "pipe"), cases())
@pytest_twisted.ensureDeferred
async def test_relay(played: Scenario, family: str, pipe: str, tmp_path: Path) -> None:
    def play() -> None:
        with World(tmp_path, family, pipe, **played.world) as world:
            played.play(world, **played.arguments)

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["copy", "splice", "nested"])
@pytest_twisted.ensureDeferred
async def test_the_data_path_that_a_world_uses(pipe: str, tmp_path: Path) -> None:
    from twisted.internet import reactor

    own = getattr(reactor, "socket_loop", None)
    if own is None and pipe != "nested":
        pytest.skip("the tests were given a reactor that has no loop of its own")

    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            until(lambda: world.live().connected)
            loop = world.paths._loop
            assert loop is not None
            assert (isinstance(loop, NestedSocketLoop), len(loop)) == (pipe == "nested", 2)
            assert (loop is own) == (pipe != "nested")
            hang_up(client, backend)
            world.closed()
            assert len(loop) == 0

    await deferToThread(play)
