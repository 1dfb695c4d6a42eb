"""The manhole and clients without a login: what they cost is counted, and operators get in."""

from __future__ import annotations

import os
import struct
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from monconn.errors import FileError, ListenError
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations

pytest.importorskip("twisted.conch.manhole_ssh")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.ssh.keys import Key

from monconn.faces.manhole import keys, server
from monconn.files import read_trusted_file
from monconn.turns import QUEUE_SECONDS
from tests.properties import examples
from tests.turning import TurnClock

VERSION = b"SSH-2.0-stranger\r\n"
HOST_KEY = Key(ed25519.Ed25519PrivateKey.generate())


def packet(payload: bytes) -> bytes:
    """A packet as it is before keys are exchanged (RFC 4253, 6)."""
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">LB", len(payload) + padding + 1, padding) + payload + bytes(padding)


IGNORE = packet(b"\x02" + bytes(4))


class World:
    """The server without sockets, with a fake clock."""

    def __init__(self, authorized: str = "/nowhere") -> None:
        self.clock = TurnClock()
        operations = Operations(Registry(), self.clock)
        self.factory = server.ManholeFactory(
            HOST_KEY, keys.AuthorizedKeys(authorized), operations, self.clock
        )
        self.factory.doStart()
        self._ports = iter(range(1000, 60000))

    def connect(self) -> tuple[Any, StringTransport]:
        transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", next(self._ports)))
        protocol = self.factory.buildProtocol(transport.getPeer())
        assert protocol is not None
        protocol.makeConnection(transport)
        return protocol, transport

    def close(self) -> None:
        self.factory.close()
        self.clock.advance(2)
        assert not self.factory.connections or all(
            each.transport.disconnected for each in self.factory.connections
        )


def is_open(transport: StringTransport) -> bool:
    return not transport.disconnecting and not transport.disconnected


# -- the file of keys


def public_lines() -> list[bytes]:
    """A line for a key of each type that is accepted."""
    made = [
        ed25519.Ed25519PrivateKey.generate(),
        *(ec.generate_private_key(c) for c in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
        rsa.generate_private_key(65537, 2048),
    ]
    return [Key(each).public().toString("openssh", comment=b"a b") for each in made]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "authorized_keys"


def write(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    path.chmod(0o600)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is read from now on."""
    sizes: list[int] = []

    def counted(*arguments: Any, **more: Any) -> tuple[bytes, os.stat_result]:
        data, found = read_trusted_file(*arguments, **more)
        sizes.append(len(data))
        return data, found

    monkeypatch.setattr(keys, "read_trusted_file", counted)
    return sizes


def set_age(path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    changed = path.stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: changed + seconds)


def test_the_file_is_read_and_its_faults_logged_once_for_each_change(
    path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    first, second, *_ = lines = public_lines()
    write(path, b"\n".join([*lines, b"restrict " + first, b"ssh-ed25519 AAAA"]))
    authorized = keys.AuthorizedKeys(str(path))
    sizes = reads(monkeypatch)
    set_age(path, monkeypatch, 1)
    for _ in range(100):
        assert len(authorized.blobs()) == len(lines)
    assert sizes == [path.stat().st_size]
    assert [line.rpartition(": ")[2] for line in logged] == [
        "options, or a type other than ed25519, ecdsa and rsa",
        "not a public key",
    ]
    write(path, second)
    set_age(path, monkeypatch, 1)
    for _ in range(100):
        assert authorized.blobs() == {Key.fromString(second).blob()}
    assert len(sizes) == 2
    assert len(logged) == 2


def test_a_change_that_leaves_the_times_as_they_are_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        Key(ed25519.Ed25519PrivateKey.generate()).public().toString("openssh") for _ in range(2)
    )
    write(path, first)
    set_age(path, monkeypatch, 0)
    monkeypatch.setattr(keys, "_identity", lambda _: (0,))  # all times in the same tick
    authorized = keys.AuthorizedKeys(str(path))
    assert authorized.blobs() == {Key.fromString(first).blob()}
    write(path, second)
    assert authorized.blobs() == {Key.fromString(second).blob()}


def test_a_file_of_bad_lines_is_summed_up(path: Path, logged: list[str]) -> None:
    write(path, b"nonsense\n" * 1000)
    assert not keys.AuthorizedKeys(str(path)).blobs()
    assert len(logged) == keys.MAX_WARNINGS + 1
    assert logged[-1].endswith(f"further lines that are not used: {1000 - keys.MAX_WARNINGS}")


def test_no_key_of_the_file_is_parsed_by_the_library(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = public_lines()
    blobs = {Key.fromString(each).blob() for each in lines}
    write(path, b"\n".join(lines))
    monkeypatch.setattr(Key, "fromString", None)
    assert keys.AuthorizedKeys(str(path)).blobs() == blobs


@settings(max_examples=examples(100), deadline=None)
@given(
    st.sampled_from(sorted(keys.TYPES)),
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(sorted(keys.TYPES))), max_size=4),
    st.binary(max_size=8),
)
@example(b"ssh-ed25519", [], b"\xff\xff\xff\xff")
@example(b"ecdsa-sha2-nistp256", [b"ecdsa-sha2-nistp256"], b"")
def test_lines_with_odd_keys(kind: bytes, fields: list[bytes], rest: bytes) -> None:
    blob = b"".join(len(each).to_bytes(4, "big") + each for each in fields) + rest
    for line in (kind + b" " + b64encode(blob), kind + b" " + blob, kind):
        taken, problem = keys._parse_line(line)
        assert bool(taken) != bool(problem)


def _too_big(path: Path) -> Path:
    write(path, b"#" * (keys.MAX_FILE_BYTES + 1))
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path, 0o600)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


ODD_FILES: list[tuple[Callable[[Path], Path], str]] = [
    (lambda _: Path("/dev/zero"), '"/dev/zero" is a device, and no regular file'),
    (lambda _: Path("/dev/tty"), '"/dev/tty" '),  # there may be none
    (_fifo, '"{path}" is a FIFO, and no regular file'),
    (_folder, '"{path}" is a folder, and no regular file'),
    (_too_big, '"{path}" is too big: at most 1.0 MiB are read'),
    (lambda path: path / "x\0y", "a path has no NUL in it"),
    (lambda path: path / "x\ud800y", "a character that no path can have"),
    (lambda path: path.parent / ("x" * 300), "file name too long"),
]


@pytest.mark.parametrize(("make", "message"), ODD_FILES)
def test_odd_files_have_a_clear_error(
    path: Path, make: Callable[[Path], Path], message: str
) -> None:
    odd = make(path)
    with pytest.raises(FileError) as raised:
        keys.AuthorizedKeys(str(odd)).blobs()
    assert message.format(path=path) in str(raised.value)
    with pytest.raises(ListenError, match="host key ") as raised_by_host_key:
        keys.host_key(odd)
    assert "\n" not in str(raised_by_host_key.value)


# -- connections


def test_the_packets_of_all_clients_share_the_time_of_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    handled: list[Any] = []

    def ignored(protocol: Any, _: bytes) -> None:
        handled.append(protocol)
        world.clock.work(QUEUE_SECONDS / 2)

    monkeypatch.setattr(server.Transport, "ssh_IGNORE", ignored)
    clients = [world.connect() for _ in range(3)]
    for protocol, transport in clients:
        protocol.dataReceived(VERSION + IGNORE * 20)
        assert transport.producerState == "paused"
    assert not handled
    while len(handled) < 60:
        before = len(handled)
        world.clock.turn()
        assert before < len(handled) <= before + 2
        counts = [handled.count(protocol) for protocol, _ in clients]
        assert max(counts) - min(counts) <= 1
    world.clock.turn()
    world.clock.turn()
    assert all(transport.producerState == "producing" for _, transport in clients)
    world.close()


@pytest.mark.parametrize("data", [IGNORE * 1000, packet(b"\x02" + bytes(30_000))])
def test_what_is_sent_before_the_login_is_limited(data: bytes, logged: list[str]) -> None:
    world = World()
    protocol, transport = world.connect()
    protocol.dataReceived(VERSION)
    world.clock.turn()
    sent = 0
    while is_open(transport):
        protocol.dataReceived(data)
        sent += len(data)
        assert sent <= server.MAX_LOGIN_BYTES + len(data)
        for _ in range(1000):
            world.clock.turn()
    assert protocol._login_packets <= server.MAX_LOGIN_PACKETS + 1
    assert len(logged) == 1
    assert "without logging in" in logged[0]
    world.close()


def test_a_version_in_pieces_has_the_time_of_a_login() -> None:
    world = World()
    protocol, transport = world.connect()
    for _ in range(int(server.LOGIN_SECONDS)):
        assert is_open(transport)
        protocol.dataReceived(b"x")
        world.clock.advance(1)
    assert not is_open(transport)
    world.close()


def test_one_kind_of_stranger_does_not_displace_all_of_the_other(logged: list[str]) -> None:
    world = World()
    exchanged = [world.connect() for _ in range(server.MAX_UNAUTHENTICATED)]
    for protocol, _ in exchanged:
        protocol.sessionID = b"x"  # has exchanged keys
    operator = world.connect()
    assert not is_open(exchanged[0][1])
    for _ in range(server.MAX_UNAUTHENTICATED // 2 - 2):
        world.connect()
    assert is_open(operator[1])
    operator[0].sessionID = b"y"
    for _ in range(1000):
        world.connect()
    assert is_open(operator[1])
    assert len(world.factory.connections) == server.MAX_UNAUTHENTICATED
    assert len(logged) == server.STRANGERS_LINES_A_SECOND
    world.clock.advance(1)
    assert logged[-1].startswith("clients without a login: left out ")
    assert logged[-1].endswith(" displaced")
    world.close()


def test_newcomers_wait_until_the_oldest_has_had_its_time() -> None:
    world = World()
    world.connect()
    world.clock.advance(server.GRACE_SECONDS / 2)
    for _ in range(server.MAX_UNAUTHENTICATED - 1):
        assert not world.factory.is_full()
        world.connect()
    assert world.factory.is_full()
    world.clock.advance(server.GRACE_SECONDS / 2)
    assert not world.factory.is_full()
    world.connect()
    assert world.factory.is_full()
    world.close()


def test_nothing_is_handled_after_the_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    handled: list[bytes] = []
    monkeypatch.setattr(server.Transport, "ssh_IGNORE", lambda self, data: handled.append(data))
    protocol, transport = world.connect()
    protocol.dataReceived(VERSION)
    protocol.sendDisconnect(2, b"enough")
    protocol.dataReceived(IGNORE * 10)
    world.clock.turn()
    assert not handled
    world.clock.advance(server.CLOSE_SECONDS)  # it does not read
    assert transport.disconnected
    world.close()


def test_what_strangers_say_is_logged_a_few_times_a_second(logged: list[str]) -> None:
    everything: list[LogEvent] = []
    observer = provider(ILogObserver)(lambda event: everything.append(event))
    globalLogPublisher.addObserver(observer)
    world = World()
    texts = [b"\x1b[2Jbye", b"x" * 30_000]
    for number in range(200):
        protocol, _ = world.connect()
        said = texts[number % 2]
        for data in (
            VERSION + packet(b"\x03" + bytes(4)),  # UNIMPLEMENTED
            packet(b"\x01" + struct.pack(">LL", 2, len(said)) + said + bytes(4)),  # DISCONNECT
        ):
            protocol.dataReceived(data)
            for _ in range(3):
                world.clock.turn()
        protocol.connectionLost(None)
    assert len(logged) == len(everything) == server.STRANGERS_LINES_A_SECOND
    assert all(line.isprintable() and len(line) < 500 for line in logged)
    world.clock.advance(1)
    assert logged[-1] == "clients without a login: left out 195 lines: 195 disconnected"
    world.close()
    globalLogPublisher.removeObserver(observer)


_PIECES = st.sampled_from(
    [
        VERSION,
        b"SSH-1.5-old\r\n",
        b"SSH-\r\n",
        b"\n",
        IGNORE,
        packet(b"\x01" + bytes(12)),  # DISCONNECT
        packet(b"\x05\x00\x00\x00\x0cssh-userauth"),
        packet(b"\x14" + bytes(16)),  # KEXINIT
        packet(b"\x15"),  # NEWKEYS
        packet(b"\x1e" + bytes(36)),  # KEX_ECDH_INIT
        packet(b"\x32" + bytes(12)),  # USERAUTH_REQUEST
        packet(b"\x5a" + bytes(12)),  # CHANNEL_OPEN
        packet(b""),
        b"\xff" * 16,
        struct.pack(">LB", 12, 255) + bytes(11),
    ]
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.one_of(_PIECES, st.binary(max_size=40)), max_size=8))
@example([VERSION, packet(b"\x15")])
def test_any_garbage_is_survived(chunks: list[bytes]) -> None:
    world = World()
    protocol, transport = world.connect()
    for chunk in [VERSION, *chunks]:
        if is_open(transport) and transport.producerState == "producing":
            protocol.dataReceived(chunk)
        for _ in range(3):
            world.clock.turn()
    _, next_one = world.connect()
    assert next_one.value().startswith(b"SSH-2.0-monconn\r\n")
    world.close()
