"""What is special to TLS: handshakes, the two shapes of an end, faults amid the data, memory."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.threads import deferToThread

from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.policy.quantities import Rate
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.relay.ends import HOLD_PAUSE
from monconn.relay.relay import Relay
from monconn.relay.sockets import handshake
from monconn.relay.sockets.handshake import (
    PIECE_BYTES,
    RECORDS_A_PIECE,
    Handshake,
    HandshakeRoom,
    RecordFinder,
)
from monconn.relay.sockets.tls import MOST_EMPTY_RECORDS, TlsEnd

from .tls_socket import Cut, TlsSocket, context
from .world import (
    TLS_PIPES,
    World,
    exactly,
    is_tcp,
    listen_tls,
    reset,
    to_the_end,
    unread,
    unsent,
    until,
    until_settled,
)

MB = 1 << 20
ANSWER = bytes(range(256)) * (4 * MB // 256)
CLIENT_PIPES = [pipe for pipe, (client, _) in TLS_PIPES.items() if client]
BACKEND_PIPES = [pipe for pipe, (_, backend) in TLS_PIPES.items() if backend]


Play = Callable[[World], None]


@attrs.frozen
class Case:
    play: Play
    pipes: tuple[str, ...]
    world: dict[str, Any]


CASES: list[Case] = []


def case(*pipes: str, **world: Any) -> Callable[[Play], Play]:
    """Play a function in a world of each of these pipes."""

    def note(play: Play) -> Play:
        CASES.append(Case(play, pipes, world))
        return play

    return note


def refusals(world: World) -> list[ConnectionRecord]:
    """The records of those who are refused from now on."""
    noted: list[ConnectionRecord] = []

    class Noting(Observer):
        def refused(self, record: ConnectionRecord) -> None:
            noted.append(record)

    world.on_reactor(world.monitor.add_observer, Noting())
    return noted


def handshakes(world: World) -> HandshakeRoom:
    path: Any = world.forwarder._path
    room: HandshakeRoom = path._handshakes
    return room


def tls_client(version: str = "1.3") -> SSL.Connection:
    """A client's TLS, which has not begun; its socket is elsewhere."""
    tls = SSL.Connection(context(version), None)
    tls.set_connect_state()
    return tls


def hello() -> bytes:
    """The first bytes of a handshake."""
    tls = tls_client()
    with pytest.raises(SSL.WantReadError):
        tls.do_handshake()
    return tls.bio_read(1 << 16)


def tls_of(sock: socket.socket) -> TlsSocket:
    assert isinstance(sock, TlsSocket)
    return sock


# -- ends


def answered_after_its_end(world: World, end: Callable[[TlsSocket], None]) -> str:
    """A client gets a whole answer after its end, and both are over then.

    :param end: how it ends its side.
    :returns: the record's detail.
    """
    client, backend = world.pair()
    client.sendall(b"question")
    end(tls_of(client))
    assert to_the_end(backend) == (b"question", "fin")
    sending = world.meanwhile(backend.sendall, ANSWER)
    assert exactly(client, len(ANSWER)) == ANSWER
    sending.result()
    backend.close()
    assert to_the_end(client) == (b"", "fin")
    client.close()
    return world.expect("client_closed", "--", "fin", "fin", up=8, down=len(ANSWER)).detail


@case(*CLIENT_PIPES)
def client_ends_by_a_bare_fin(world: World) -> None:
    detail = answered_after_its_end(world, TlsSocket.fin)
    assert detail == "the client ended without close_notify"


@case(*CLIENT_PIPES)
def client_says_its_end_and_sends_no_fin(world: World) -> None:
    assert answered_after_its_end(world, TlsSocket.end) == ""


@case(*CLIENT_PIPES)
def backend_ends_first_and_gets_the_rest(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"that was all")
    backend.shutdown(socket.SHUT_WR)
    assert to_the_end(client) == (b"that was all", "fin")
    sending = world.meanwhile(client.sendall, ANSWER)
    assert exactly(backend, len(ANSWER)) == ANSWER
    sending.result()
    client.close()
    assert to_the_end(backend) == (b"", "fin")
    world.expect("backend_closed", "--", "fin", "fin", up=len(ANSWER), down=12)


@case(*BACKEND_PIPES)
def backend_cuts_its_answer_off(world: World) -> None:
    client, backend = world.pair()
    client.sendall(b"question")
    assert exactly(backend, 8) == b"question"
    reading = world.meanwhile(to_the_end, client, 1 << 15, 0.0005)  # slowly
    backend.sendall(ANSWER)
    tls_of(backend).fin()
    assert reading.result() == (ANSWER, "reset")
    record = world.expect("backend_reset", "SD", "none", "reset", up=8, down=len(ANSWER))
    assert record.detail == "the backend ended without close_notify"
    assert record.closed_by == "backend"


@case(*BACKEND_PIPES)
def backend_cuts_the_answer_to_a_client_that_has_ended(world: World) -> None:
    client, backend = world.pair()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert to_the_end(backend) == (b"question", "fin")
    backend.sendall(b"part")
    tls_of(backend).cut()
    assert to_the_end(client) == (b"part", "reset")
    record = world.expect("backend_reset", "SD", "fin", "reset", up=8, down=4)
    assert record.detail == "the backend ended without close_notify"


@case(*BACKEND_PIPES)
def backend_closes_when_the_client_ends_and_says_nothing(world: World) -> None:
    client, backend = world.pair()
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    assert to_the_end(backend) == (b"bye", "fin")
    tls_of(backend).cut()
    assert to_the_end(client) == (b"", "reset")
    record = world.expect("client_closed", "--", "fin", "fin", up=3, down=0)
    assert record.detail == "the backend ended without close_notify"


@case(*CLIENT_PIPES)
def client_sends_and_leaves_at_once(world: World) -> None:
    """Its kernel must not be made to answer with a reset: it has not sent everything yet."""
    data = ANSWER[: 1 << 18]
    for number in range(1, 21):
        client = world.client()
        client.sendall(data)
        tls_of(client).end()
        socket.socket.close(client)
        backend = world.backend()
        assert to_the_end(backend) == (data, "fin")
        backend.close()
        assert world.closed(number)[-1].reason == "client_closed"


@case(*CLIENT_PIPES)
def client_ends_and_resets_at_once(world: World) -> None:
    """Both are reported by the same event: no other one comes."""
    client, backend = world.pair()
    world.on_reactor(_end_and_reset, tls_of(client))
    assert to_the_end(backend)[0] == b""
    backend.close()
    (record,) = world.closed()
    assert record.closed_by == "client"


def _end_and_reset(client: TlsSocket) -> None:
    client.end()
    reset(client)


@case(*CLIENT_PIPES)
def everything_comes_with_the_end_of_the_handshake(world: World) -> None:
    """No event reports it once more."""
    sock = world.raw_client()
    tls = tls_client(world.client_tls)
    is_done = False
    while not is_done:
        try:
            tls.do_handshake()
            is_done = True
        except SSL.WantReadError:
            pass
        if is_done:
            tls.send(b"early")
            tls.shutdown()
        try:
            sock.sendall(tls.bio_read(1 << 16))
        except SSL.WantReadError:
            pass
        if is_done:
            sock.shutdown(socket.SHUT_WR)
        else:
            tls.bio_write(sock.recv(1 << 16))
    backend = world.backend()
    assert to_the_end(backend) == (b"early", "fin")
    backend.close()
    world.expect("client_closed", "--", "fin", "fin", up=5, down=0)


# -- faults amid the data


@case(*CLIENT_PIPES)
def client_sends_garbage_amid_its_data(world: World) -> None:
    client, backend = world.pair()
    client.sendall(b"good")
    assert exactly(backend, 4) == b"good"
    socket.socket.sendall(client, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert to_the_end(backend)[1] == "reset"
    record = world.expect("error", "ID", "none", "none", up=4, down=0)
    assert record.detail == "a record of the client's has been altered on its way"


@case(*BACKEND_PIPES)
def backend_sends_garbage_amid_its_data(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"good")
    assert exactly(client, 4) == b"good"
    socket.socket.sendall(backend, b"\x17\x03\x03\x00\x20" + bytes(32))
    assert to_the_end(client) == (b"", "reset")
    world.expect("error", "ID", "none", "none", up=0, down=4)


@case(*CLIENT_PIPES)
def client_refuses_what_it_gets(world: World) -> None:
    client, backend = world.pair()
    backend.sendall(b"good")
    assert exactly(client, 4) == b"good"
    tls_of(client).tls.bio_write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(SSL.Error):
        client.recv(1)
    tls_of(client)._flush()  # the alert
    assert to_the_end(backend) == (b"", "reset")
    record = world.expect("client_reset", "CD", "reset", "none", up=0, down=4)
    assert "the alert" in record.detail


class KeyUpdates:
    """Makes the records of a client over TLS 1.3 that only updates its keys (RFC 8446, 7.2).

    :param lines: what the client's handshake has logged of its secrets.
    """

    def __init__(self, lines: list[bytes], cipher: str) -> None:
        is_long = cipher.endswith("SHA384")
        self._hash: hashes.HashAlgorithm = hashes.SHA384() if is_long else hashes.SHA256()
        wanted = (line for line in lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0"))
        self._secret = bytes.fromhex(next(wanted).split()[2].decode())
        self._sent = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def _record(self, kind: bytes, content: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self._expand(b"iv", 12), "big") ^ self._sent
        self._sent += 1
        key = AESGCM(self._expand(b"key", 32))
        return header + key.encrypt(nonce.to_bytes(12, "big"), content + kind, header)

    def records(self, count: int) -> bytes:
        records = b""
        for _ in range(count):
            records += self._record(b"\x16", b"\x18\x00\x00\x01\x00")
            self._secret = self._expand(b"traffic upd", self._hash.digest_size)
            self._sent = 0
        return records

    def data(self, data: bytes) -> bytes:
        return self._record(b"\x17", data)


def client_that_updates_its_keys(world: World) -> tuple[socket.socket, KeyUpdates]:
    lines: list[bytes] = []
    made = context("1.3")
    made.set_keylog_callback(lambda _, line: lines.append(line))
    tls = SSL.Connection(made, None)
    tls.set_connect_state()
    client = TlsSocket(world.raw_client(), tls)
    cipher = tls.get_cipher_name()
    assert cipher is not None
    return client, KeyUpdates(lines, cipher)


@case("tls_to_plain")
def keys_are_updated_now_and_then(world: World) -> None:
    client, updates = client_that_updates_its_keys(world)
    backend = world.backend()
    raw = socket.socket(fileno=os.dup(client.fileno()))
    for _ in range(5):
        raw.sendall(updates.records(MOST_EMPTY_RECORDS) + updates.data(b"up"))
        assert exactly(backend, 2) == b"up"
        backend.sendall(b"down")
        assert exactly(client, 4) == b"down"
    raw.close()
    client.close()
    backend.close()
    world.closed()


@case("tls_to_plain")
def keys_are_updated_without_end(world: World) -> None:
    client, updates = client_that_updates_its_keys(world)
    backend = world.backend()
    raw = socket.socket(fileno=os.dup(client.fileno()))
    raw.sendall(updates.records(8 * MOST_EMPTY_RECORDS))
    raw.close()
    assert to_the_end(backend)[1] == "reset"
    record = world.expect("error", "ID", "none", "none", up=0, down=0)
    assert record.detail == "the client sends too many records without data"
    client.close()


@case("tls12_to_tls12")
def client_wants_to_negotiate_anew(world: World) -> None:
    client, backend = world.pair()
    tls_of(client).tls.renegotiate()
    with pytest.raises(SSL.Error):
        tls_of(client).tls.do_handshake()
    tls_of(client)._flush()
    with pytest.raises((SSL.Error, OSError)):
        client.recv(1)  # the alert no_renegotiation, which is fatal to OpenSSL
    socket.socket.close(client)
    assert to_the_end(backend)[0] == b""
    backend.close()
    world.closed()


# -- handshakes of clients


@case("tls_to_plain")
def blocked_client_costs_no_handshake(world: World) -> None:
    world.on_reactor(world.monitor.block, "127.0.0.1")
    client = world.raw_client()
    assert to_the_end(client)[0] == b""
    until(lambda: world.monitor.stats()["refused_by"] == {"blocked": 1})
    assert len(handshakes(world)) == 0


@case("tls_to_plain")
def client_blocked_amid_its_handshake(world: World) -> None:
    sock = world.raw_client()
    until(lambda: len(handshakes(world)) == 1)
    world.on_reactor(world.monitor.block, "127.0.0.1")
    tls = tls_client()
    client = world._keep(TlsSocket(sock, tls))
    with pytest.raises((Cut, ConnectionResetError)):
        client.recv(1)
    until(lambda: world.monitor.stats()["refused_by"] == {"blocked": 1})


FAULTS = {
    b"GET / HTTP/1.0\r\n\r\n": "the client speaks plain HTTP",
    b"\x00" * 300: "the client does not speak TLS",
    b"SSH-2.0-OpenSSH_9.2\r\n": "the client does not speak TLS",
}


@case("tls_to_plain")
def garbage_is_refused(world: World) -> None:
    noted = refusals(world)
    for sent in FAULTS:
        client = world.raw_client()
        client.sendall(sent)
        to_the_end(client)
    until(lambda: len(noted) == len(FAULTS))
    assert [record.detail for record in noted] == list(FAULTS.values())
    assert {record.refusal for record in noted} == {"handshake_failed"}
    assert {(record.code, record.pipe) for record in noted} == {("PR", "tls")}
    assert world.monitor.stats()["total"] == 0


@case("tls_to_plain")
def client_that_does_not_trust_us_says_so(world: World) -> None:
    noted = refusals(world)
    mistrusting = context("1.3")
    mistrusting.set_verify(SSL.VERIFY_PEER, lambda *_: False)
    tls = SSL.Connection(mistrusting, None)
    tls.set_connect_state()
    sock = world.raw_client()
    with pytest.raises(SSL.Error):
        world._keep(TlsSocket(sock, tls))
    until(lambda: noted)
    assert "alert" in noted[0].detail
    assert "[" not in noted[0].detail


@case("tls_to_plain")
def clients_that_leave_amid_the_handshake(world: World) -> None:
    noted = refusals(world)
    for sent in (b"", hello(), hello()[:40]):
        client = world.raw_client()
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        to_the_end(client)
    until(lambda: len(noted) == 3)
    client = world.raw_client()
    client.sendall(hello()[:9])
    until(lambda: len(handshakes(world)) == 1)
    if is_tcp(client):
        reset(client)
    else:
        client.close()
    until(lambda: len(noted) == 4 and not len(handshakes(world)))
    details = ["closed amid the handshake"] * 3
    details.append("reset amid the handshake" if is_tcp(client) else details[0])
    assert [record.detail for record in noted] == details


@case("tls_to_plain")
def client_that_the_loop_does_not_take(world: World) -> None:
    noted = refusals(world)
    loop = world.paths._loop
    assert loop is not None
    with patch.object(loop, "add", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        to_the_end(world.raw_client())
    until(lambda: [record.detail for record in noted] == ["no space left on device"])
    assert len(handshakes(world)) == len(world.deadlines) == 0


@case("tls_to_plain", tls=listen_tls(0.3))
def slow_clients_cost_no_backend(world: World) -> None:
    noted = refusals(world)
    silent, dribbling = world.raw_client(), world.raw_client()
    until(lambda: len(handshakes(world)) == 2)
    for byte in hello()[:20]:
        try:
            dribbling.sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(0.02)
    for client in (silent, dribbling):
        to_the_end(client)
    until(lambda: len(noted) == 2)
    assert {record.refusal for record in noted} == {"handshake_timeout"}
    assert sorted(record.detail for record in noted) == [
        "it was not complete in 0.3 s",
        "nothing was received in 0.3 s",
    ]
    world._backend_listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        world.raw_backend()
    assert world.monitor.stats()["total"] == 0


@case(*CLIENT_PIPES)
def handshake_in_single_bytes(world: World) -> None:
    class Dribbling(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            for at in range(len(data)):
                super().sendall(data[at : at + 1])

    raw = world.raw_client()
    sock = Dribbling(raw.family, raw.type, raw.proto, raw.detach())
    sock.settimeout(5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = tls_client(world.client_tls)
    done = False
    while not done:
        try:
            tls.do_handshake()
            done = True
        except SSL.WantReadError:
            pass
        try:
            sock.sendall(tls.bio_read(1 << 16))
        except SSL.WantReadError:
            pass
        if not done:
            tls.bio_write(sock.recv(1))
    tls.send(b"hello")
    sock.sendall(tls.bio_read(1 << 16))
    backend = world.backend()
    assert exactly(backend, 5) == b"hello"
    backend.close()
    sock.close()
    world.closed()


@case("tls_to_plain", tls=listen_tls(0.5))
def surplus_waits_in_the_accept_queue(world: World) -> None:
    noted = refusals(world)
    with patch.object(handshake, "MOST_HANDSHAKES", 4):
        silent = [world.raw_client() for _ in range(6)]
        until(lambda: len(handshakes(world)) == 4)
        assert until_settled(lambda: len(handshakes(world))) == 4
        client = world.client()  # once those before it have timed out
        assert len(noted) >= 4
        for each in silent:
            each.close()
        backend = world.backend()
        client.sendall(b"here I am")
        assert exactly(backend, 9) == b"here I am"
    client.close()
    backend.close()
    world.closed()


@case("tls_to_plain", rules=Rules(conn_limit=1))
def those_who_find_no_slot_wait_after_the_handshake(world: World) -> None:
    tries = []
    for _ in range(3):
        sock = world.raw_client()
        tries.append(sock)
    until(lambda: len(handshakes(world)) == 3)
    clients = []
    for sock in tries:
        tls = tls_client()
        clients.append(world._keep(TlsSocket(sock, tls)))
    for number, client in enumerate(clients):
        client.sendall(b"number %d" % number)
    for number, client in enumerate(clients):
        backend = world.backend()
        assert len(world.monitor) == 1
        assert exactly(backend, 8) == b"number %d" % number
        assert to_the_end_of_pair(client, backend) == (b"", "fin")
    world.closed(3)
    assert world.monitor.stats()["refused"] == 0


def to_the_end_of_pair(client: socket.socket, backend: socket.socket) -> tuple[bytes, str]:
    client.close()
    try:
        return to_the_end(backend)
    finally:
        backend.close()


@case("tls_to_plain", rules=Rules(conn_limit=1, when_full="refuse"))
def those_who_find_no_slot_are_refused_if_the_rules_say_so(world: World) -> None:
    first, second = world.raw_client(), world.raw_client()
    until(lambda: len(handshakes(world)) == 2)
    clients = []
    for sock in (first, second):
        tls = tls_client()
        clients.append(world._keep(TlsSocket(sock, tls)))
    with pytest.raises((Cut, ConnectionResetError)):
        clients[1].recv(1)
    until(lambda: world.monitor.stats()["refused_by"] == {"conn_limit": 1})
    to_the_end_of_pair(clients[0], world.backend())
    world.closed()


@case("tls_to_plain", rules=Rules(conn_limit=1))
def those_who_wait_for_a_slot_are_refused_by_a_service_that_stops(world: World) -> None:
    tries = [world.raw_client() for _ in range(3)]
    until(lambda: len(handshakes(world)) == 3)
    clients = []
    for sock in tries:
        tls = SSL.Connection(context("1.3"), None)
        tls.set_connect_state()
        clients.append(world._keep(TlsSocket(sock, tls)))
    backend = world.backend()
    until(lambda: len(handshakes(world)._waiting) == 2)
    world.on_reactor(lambda: [world.monitor.stop(60.0)])  # nobody waits for its end
    for client in clients[1:]:
        with pytest.raises((Cut, ConnectionResetError)):
            client.recv(1)
    until(lambda: world.monitor.stats()["refused_by"] == {"stopping": 2})
    assert len(world.monitor) == 1
    to_the_end_of_pair(clients[0], backend)
    world.closed()


@case("tls_to_plain", rules=Rules(rate=Rate(2, 3600.0), per_ip_rate=Rate(3, 3600.0)))
def who_was_let_in_before_the_handshake_uses_up_no_more_of_a_rate_after_it(world: World) -> None:
    tries = [world.raw_client() for _ in range(3)]
    until(lambda: len(handshakes(world)) == 2)  # the third waits in the accept queue
    clients = [world._keep(TlsSocket(sock, tls_client())) for sock in tries[:2]]
    pairs = [(client, world.backend()) for client in clients]
    until(lambda: (len(world.monitor), len(handshakes(world))) == (2, 0))
    # The third of the client's own three was not used up by the second look at the others.
    world.on_reactor(world.monitor.apply, world.monitor.policy.changed(rate=None))
    pairs.append((world._keep(TlsSocket(tries[2], tls_client())), world.backend()))
    assert world.monitor.stats()["refused"] == 0
    for client, backend in pairs:
        to_the_end_of_pair(client, backend)
    world.closed(3)


@case("tls_to_plain", rules=Rules(conn_limit=1))
def what_is_left_of_a_program_turns_away_who_is_not_admitted(world: World) -> None:
    world.raw_client()
    until(lambda: len(handshakes(world)) == 1)
    world.on_reactor(handshakes(world).close)
    assert len(handshakes(world)) == 0
    assert world.monitor.stats()["refused_by"] == {"stopping": 1}
    assert len(world.deadlines) == 0


@case("tls_to_plain")
def flood_of_handshakes_stalls_no_bytes(world: World) -> None:
    """Hundreds of hellos at once are worked off beside the connections that are there."""
    client, backend = world.pair()
    first = hello()
    flood = [world.raw_client() for _ in range(300)]

    def send_all() -> None:
        for sock in flood:
            sock.sendall(first)

    # From the reactor's thread, so that all are there when it looks.
    turns: Counter[int] = Counter()
    loop = world.paths._loop
    assert loop is not None
    step = Handshake._step

    def counting(handshake: Handshake) -> None:
        turns[loop.turn] += 1
        step(handshake)

    with (
        patch.object(Handshake, "_step", counting),
        # A machine that is busy with other things is no work of ours that takes long.
        patch("monconn.relay.sockets.loop.LONG_SECONDS", 3600.0),
        patch.object(loop, "rearm", wraps=loop.rearm) as rearm,
    ):
        world.on_reactor(send_all)
        until(lambda: all(unread(sock) for sock in flood))
    assert len(turns) > 3, "one turn has served them all"
    assert not rearm.call_count, "others' events wait behind theirs"
    assert not len(handshakes(world)._share)
    client.sendall(b"ping")
    assert exactly(backend, 4) == b"ping"
    for sock in flood:
        sock.close()
    until(lambda: not len(handshakes(world)))
    to_the_end_of_pair(client, backend)
    world.closed()


# -- handshakes with backends


@case("plain_to_tls")
def handshakes_with_backends_wait_for_time(world: World) -> None:
    assert world.paths._shares is not None
    share, _ = world.paths._shares
    has_time = False
    asked: list[None] = []

    def may_go_on() -> bool:
        asked.append(None)
        return has_time

    with patch.object(share, "_has_time", may_go_on):
        client, raw = world.client(), world.raw_backend()
        until(lambda: len(asked) > 3)
        assert unread(raw) == 0
        has_time = True
        tls = SSL.Connection(context(world.backend_tls), None)
        tls.set_accept_state()
        backend = TlsSocket(raw, tls)
    client.sendall(b"ping")
    assert exactly(backend, 4) == b"ping"
    to_the_end_of_pair(client, backend)
    world.closed()


@case("plain_to_tls", "tls_to_tls")
def backend_that_speaks_no_tls(world: World) -> None:
    client = world.client()
    backend = world.raw_backend()
    backend.sendall(b"220 welcome to this server, which knows no TLS\r\n")
    assert to_the_end(client) == (b"", "fin")
    client.close()
    backend.close()
    record = world.expect("backend_unreachable", "SC", "none", "none", up=0, down=0)
    assert record.detail == "the backend does not speak TLS"


@case("plain_to_tls", "tls_to_tls")
def backend_closes_amid_the_handshake(world: World) -> None:
    client = world.client()
    backend = world.raw_backend()
    exactly(backend, 100)
    backend.shutdown(socket.SHUT_WR)
    assert to_the_end(client) == (b"", "fin")
    client.close()
    record = world.expect("backend_unreachable", "SC", "none", "none", up=0, down=0)
    assert record.detail == "closed amid the handshake"


@case("plain_to_tls")
def backend_resets_amid_the_handshake(world: World) -> None:
    client = world.client()
    backend = world.raw_backend()
    exactly(backend, 100)
    reset(backend)
    assert to_the_end(client) == (b"", "fin")
    client.close()
    world.expect("backend_reset", "SC", "none", "none", up=0, down=0)


@case("plain_to_tls", "tls_to_tls", timeouts=Timeouts(connect_timeout=0.3))
def backend_says_nothing(world: World) -> None:
    client = world.client()
    backend = world.raw_backend()
    assert to_the_end(client) == (b"", "fin")
    client.close()
    to_the_end(backend)
    record = world.expect("connect_timeout", "sC", "none", "timeout", up=0, down=0)
    assert record.detail == "the backend's TLS handshake was not complete"


@case("plain_to_tls")
def client_leaves_amid_the_backend_s_handshake(world: World) -> None:
    client = world.client()
    client.sendall(b"hello")
    backend = world.raw_backend()
    client.close()
    tls = SSL.Connection(context("1.3"), None)
    tls.set_accept_state()
    served = world._keep(TlsSocket(backend, tls))
    assert to_the_end(served) == (b"hello", "fin")
    served.close()
    world.expect("client_closed", "--", "fin", "fin", up=5, down=0)


# -- key update, and bytes of any size


@case("tls_to_tls", "tls12_to_tls12")
def pieces_of_any_size(world: World) -> None:
    client, backend = world.pair()
    for sender, receiver in ((client, backend), (backend, client)):
        for size in (1, 16383, 16384, 16385, 65535, 65536, 65537, 300_000, 1):
            sending = world.meanwhile(sender.sendall, ANSWER[:size])
            assert exactly(receiver, size) == ANSWER[:size]
            sending.result()
    to_the_end_of_pair(client, backend)
    world.closed()


@case("tls_to_plain")
def short_records_take_no_larger_share(world: World) -> None:
    client, backend = world.pair()
    count = 30_000
    tls = tls_of(client).tls
    records = []
    for _ in range(count):
        tls.send(b"x")
        records.append(tls.bio_read(100))
    loop = world.paths._loop
    assert loop is not None
    (relay,) = world.monitor.live.by_id.values()
    assert isinstance(relay, Relay)
    world.on_reactor(relay.hold, "up", HOLD_PAUSE)
    sending = world.meanwhile(socket.socket.sendall, client, b"".join(records))
    until_settled(lambda: unsent(client))  # as much of it has come as the kernel takes
    read: list[int] = []
    copy = TlsEnd._copy_records

    def noting(end: TlsEnd, wanted: int) -> int:
        if end.side == "client":
            read.append(wanted)
        return copy(end, wanted)

    assert world.paths._shares is not None
    _, share = world.paths._shares
    with (
        patch.object(TlsEnd, "_copy_records", noting),
        patch.object(share, "take", wraps=share.take) as take,
    ):
        world.on_reactor(relay.release, "up", HOLD_PAUSE)
        assert exactly(backend, count) == b"x" * count
        sending.result()
    assert set(read) == {1 << 12}, "however few of them have come"
    assert take.call_count >= len(read), "all are read in a share of the turn"
    to_the_end_of_pair(client, backend)
    world.closed()


@case("tls_to_plain")
def those_who_begin_to_send_short_records_wait_for_a_share(world: World) -> None:
    """What is in 64 KiB of those who have sent long ones is not known before it is read."""
    pairs = [world.pair() for _ in range(6)]
    count = 2_500
    for client, backend in pairs:
        sending = world.meanwhile(client.sendall, ANSWER)
        assert exactly(backend, len(ANSWER)) == ANSWER
        sending.result()
    loop = world.paths._loop
    assert loop is not None
    relays = [each for each in world.monitor.live.by_id.values() if isinstance(each, Relay)]
    for relay in relays:
        world.on_reactor(relay.hold, "up", HOLD_PAUSE)
    for client, _ in pairs:
        tls = tls_of(client).tls
        records = []
        for _ in range(count):
            tls.send(b"x")
            records.append(tls.bio_read(100))
        socket.socket.sendall(client, b"".join(records))
        until_settled(lambda sock=client: unsent(sock))  # type: ignore[misc]
    read: Counter[int] = Counter()
    find = RecordFinder.pieces

    def counting(finder: RecordFinder, received: memoryview) -> list[tuple[int, int]]:
        pieces = find(finder, received)
        read[loop.turn] += sum(records for _, records in pieces)
        return pieces

    def release_all() -> None:
        loop.turn += 1  # all of it is one turn
        for relay in relays:
            relay.release("up", HOLD_PAUSE)

    with patch.object(RecordFinder, "pieces", counting):
        world.on_reactor(release_all)
        for _, backend in pairs:
            assert exactly(backend, count) == b"x" * count
    assert sum(read.values()) >= len(pairs) * count
    assert max(read.values()) < 3 * count, "nearly all were read in one turn"
    for client, backend in pairs:
        to_the_end_of_pair(client, backend)
    world.closed(len(pairs))


# -- memory


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


IDLE_BYTES = 40 << 10
"""What an idle connection may take of us; about 30 KiB are measured. Both sides are this process
here, and the client has as much for itself."""


@case("tls_to_plain")
def idle_connections_are_small(world: World) -> None:
    pairs = [world.pair() for _ in range(50)]  # what is made once is made
    count = 400
    before = resident_bytes()
    pairs += [world.pair() for _ in range(count)]
    each = (resident_bytes() - before) / count
    assert each < 2 * IDLE_BYTES
    for client, backend in pairs:
        client.close()
        backend.close()
    world.closed(450)


def cases() -> list[Any]:
    return [
        pytest.param(each, pipe, id=f"{each.play.__name__}-{pipe}")
        for each in CASES
        for pipe in each.pipes
    ]


@pytest.mark.parametrize(("played", "pipe"), cases())
@pytest_twisted.ensureDeferred
async def test_tls(played: Case, pipe: str, tmp_path: Path) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe, **played.world) as world:
            played.play(world)

    await deferToThread(play)


ON_UNIX_SOCKETS = (
    client_ends_by_a_bare_fin,
    client_says_its_end_and_sends_no_fin,
    backend_ends_first_and_gets_the_rest,
    everything_comes_with_the_end_of_the_handshake,
    clients_that_leave_amid_the_handshake,
)


@pytest.mark.parametrize("play", ON_UNIX_SOCKETS)
@pytest_twisted.ensureDeferred
async def test_tls_of_clients_on_unix_sockets(play: Play, tmp_path: Path) -> None:
    def enter_and_play() -> None:
        with World(tmp_path, "unix", "tls_to_plain") as world:
            play(world)

    await deferToThread(enter_and_play)


# -- the records of what is received


@given(
    st.lists(st.integers(0, 300) | st.integers(0, 1 << 14), max_size=150),
    st.lists(st.integers(1, 7) | st.integers(1, 1 << 16), min_size=1),
)
def test_records_are_found_however_they_are_received(lengths: list[int], reads: list[int]) -> None:
    stream = b"".join(b"\x17\x03\x03" + each.to_bytes(2, "big") + bytes(each) for each in lengths)
    finder, at, found = RecordFinder(), 0, 0
    sizes = itertools.cycle(reads)
    # Single bytes of a megabyte would take long.
    while at < len(stream):
        received = memoryview(stream)[at : at + max(next(sizes), len(stream) >> 10)]
        pieces = finder.pieces(received)
        begin = 0
        for end, records in pieces[:-1]:
            assert records <= RECORDS_A_PIECE
            assert 0 < end - begin < PIECE_BYTES + 5 + (1 << 14)
            begin = end
        assert pieces[-1][0] == len(received)
        found += sum(records for _, records in pieces)
        at += len(received)
    assert found == len(lengths)
