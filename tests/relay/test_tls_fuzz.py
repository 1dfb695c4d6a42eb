"""Garbage instead of TLS, from clients and from backends: told, bounded, and nothing is left."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest_twisted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from tests.properties import examples

from .test_tls import handshakes, hello, refusals, tls_client
from .tls_socket import TlsSocket
from .world import PATIENCE_SECONDS, World, exactly, until

KINDS = (20, 21, 22, 23, 24, 0, 255)
"""Of a record: change_cipher_spec, alert, handshake, application_data, heartbeat, and none."""
RECORDS = st.builds(
    lambda kind, version, length, body: (
        bytes([kind, 3, version]) + length.to_bytes(2, "big") + body
    ),
    st.sampled_from(KINDS),
    st.integers(0, 4),
    st.integers(0, 1 << 14) | st.integers(0, 65535),
    st.binary(max_size=300),
)
HTTP = st.sampled_from([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", b"\0" * 600, b""])
HELLO = hello()
DAMAGED_HELLO = st.builds(
    lambda at, value, cut: (HELLO[:at] + bytes([value]) + HELLO[at + 1 :])[:cut],
    st.integers(0, len(HELLO) - 1),
    st.integers(0, 255),
    st.integers(1, len(HELLO)),
)
GARBAGE = HTTP | st.binary(max_size=600) | DAMAGED_HELLO | st.lists(RECORDS).map(b"".join)


def damaged(data: bytes, at: int, value: int) -> bytes:
    """The same with another byte somewhere."""
    at %= max(len(data), 1)
    return data[:at] + bytes([value]) + data[at + 1 :]


def send_and_end(sock: socket.socket, data: bytes) -> None:
    """Send all that is taken, and end in order."""
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    except OSError:
        pass
    finally:
        sock.close()


def serves(world: World) -> None:
    """A good client is served, and all others are gone."""
    client, backend = world.pair()
    client.sendall(b"question")
    assert exactly(backend, 8) == b"question"
    client.close()
    backend.close()
    until(lambda: not len(world.monitor))
    if world.client_tls:
        assert not len(handshakes(world))
    assert len(world.deadlines) == 0


@pytest_twisted.ensureDeferred
async def test_clients_that_send_garbage(tmp_path: Path) -> None:
    """Before, and instead of, a handshake: each is refused, and says why."""

    def play() -> None:
        with World(tmp_path, "ipv4", "tls_to_plain") as world:
            refused = refusals(world)

            @settings(max_examples=examples(60), deadline=None)
            @example(b"")
            @example(HELLO[:5] + b"\xff" * 40)
            @given(GARBAGE)
            def send(garbage: bytes) -> None:
                before = len(refused)
                send_and_end(world.raw_client(), garbage)
                until(lambda: len(refused) > before)
                assert refused[-1].refusal == "handshake_failed"
                assert refused[-1].detail.isprintable()
                assert refused[-1].detail

            send()
            serves(world)

    await deferToThread(play)


@pytest_twisted.ensureDeferred
async def test_backends_that_answer_with_garbage(tmp_path: Path) -> None:
    """Instead of a handshake: the client's connection ends, and the reason is the backend's."""

    def play() -> None:
        with World(tmp_path, "ipv4", "plain_to_tls") as world:

            @settings(max_examples=examples(60), deadline=None)
            @given(GARBAGE)
            def answer(garbage: bytes) -> None:
                before = len(world.monitor.closed_records)
                client, backend = world.raw_client(), world.raw_backend()
                send_and_end(backend, garbage)
                client.close()
                until(lambda: len(world.monitor.closed_records) > before)
                record = world.monitor.closed_records[-1]
                assert record.reason == "backend_unreachable"
                assert record.detail.isprintable()
                assert record.detail

            answer()
            serves(world)

    await deferToThread(play)


@pytest_twisted.ensureDeferred
async def test_damage_after_the_handshake(tmp_path: Path) -> None:
    """A byte that has changed on the way: nothing false is delivered, and the connection ends."""

    def play() -> None:
        with World(tmp_path, "ipv4", "tls_to_plain") as world:

            @settings(
                max_examples=examples(40),
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            @given(st.binary(min_size=1, max_size=2000), st.integers(0), st.integers(0, 255))
            def damage(payload: bytes, at: int, value: int) -> None:
                before = len(world.monitor.closed_records)
                tls = tls_client(world.client_tls)
                client = TlsSocket(world.raw_client(), tls)
                client.sendall(b"first")
                sock = socket.socket(fileno=client.detach())  # without TLS from now on
                sock.settimeout(PATIENCE_SECONDS)
                backend = world.backend()
                assert exactly(backend, 5) == b"first"
                tls.send(payload)
                record = tls.bio_read(1 << 16)
                sending = world.meanwhile(send_and_end, sock, damaged(record, at, value))
                received = b""
                try:
                    while data := backend.recv(65536):
                        received += data
                except OSError:
                    pass
                backend.close()
                sending.result()
                assert received in (b"", payload)  # the latter if the byte was the same
                until(lambda: len(world.monitor.closed_records) > before)

            damage()
            serves(world)

    await deferToThread(play)
