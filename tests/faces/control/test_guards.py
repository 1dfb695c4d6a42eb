"""Access to the control port, and limits on malicious clients."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import ControlConfig, TlsConfig
from monconn.errors import ControlError, ListenError
from monconn.faces.control import peers, place
from monconn.faces.control.boxes import BOX_BYTES
from monconn.faces.control.client import (
    Client,
    CommandFailed,
    NoServer,
    SeveralServers,
    find_server,
)
from monconn.faces.control.server import (
    CLIENTS_AT_ONCE,
    HELLO_SECONDS,
    MAX_STRANGERS,
    ControlFactory,
)
from monconn.faces.control.service import ControlService
from monconn.monitor.registry import Registry
from monconn.net.sockets import PeerCredentials
from monconn.ops.operations import Operations
from tests import running_reactor
from tests.certificates import Certificate, make_certificate
from tests.logged import logged_lines

from .conftest import Port, with_port

MakePort = Callable[..., Port]


def box(**values: str) -> bytes:
    strings = [text.encode() for pair in values.items() for text in pair]
    return b"".join(struct.pack("!H", len(each)) + each for each in strings) + b"\0\0"


HELLO = box(_command="Hello", _ask="1", version="1")


def raw(port: Port) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(port.where.removeprefix("unix:"))
    return sock


def hangs_up(sock: socket.socket) -> bool:
    """Whether the server ends the connection, whatever it says before."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


# -- nonsense


@with_port
def test_hello_comes_first(port: Port) -> None:
    port.monitor("web")
    with raw(port) as sock:
        sock.sendall(box(_command="CloseConnections", _ask="1", service="web"))
        assert b"DENIED" in sock.recv(65536)
        sock.sendall(box(_command="ListServices", _ask="2"))
        assert b"DENIED" in sock.recv(65536)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff" * 1000,
        b"\0\0\0\0",
        os.urandom(4096),
        box(_answer="1", x="y"),
        box(_error="1", _error_code="X", _error_description="y"),
        HELLO + box(a="b"),
        HELLO + b"".join(box(**{f"k{n}": "v" * 60_000})[:-2] for n in range(20)),
    ],
    ids=["http", "ff", "zeros", "random", "answer", "error", "no_command", "endless_box"],
)
@pytest_twisted.ensureDeferred
async def test_a_malformed_request_disconnects_only_its_sender(
    make_port: MakePort, nonsense: bytes, logged_failures: list[object]
) -> None:
    def play() -> None:
        with make_port() as port:
            port.monitor("web")
            client = port.client()
            with raw(port) as sock:
                try:
                    sock.sendall(nonsense)
                except ConnectionError:
                    pass
                else:
                    sock.shutdown(socket.SHUT_WR)
                assert hangs_up(sock)
            assert [row["sid"] for row in client.rows("ListServices")] == ["web"]

    await deferToThread(play)
    assert not logged_failures


@with_port
def test_wrong_arguments_are_an_error(port: Port) -> None:
    client = port.client()
    for arguments in ({"id": "nonsense"}, {}, {"id": 1.5}):
        with pytest.raises(CommandFailed) as failed:
            client.call("ShowConnection", **arguments)
        assert failed.value.code == "BAD_REQUEST"
    assert client.call("Hello", version=1)["version"] == "1"


@with_port
def test_the_number_of_clients_is_limited(port: Port) -> None:
    clients = [port.client() for _ in range(CLIENTS_AT_ONCE)]
    with pytest.raises(CommandFailed, match="are served already"):
        port.client()
    clients.pop().close()
    while True:
        try:
            port.client()
            break
        except CommandFailed:  # it has not noticed yet that the other one left
            continue


@with_port
def test_whoever_says_nothing_keeps_nobody_out(port: Port) -> None:
    silent = [raw(port) for _ in range(MAX_STRANGERS)]
    assert port.client().hello["version"] == "1"
    assert hangs_up(silent.pop(0))
    for stranger in silent:
        stranger.sendall(HELLO)
        assert b"_answer" in stranger.recv(1000)
        stranger.close()


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
@pytest_twisted.ensureDeferred
async def test_who_leaves_with_requests_and_answers_unread_is_forgotten(
    make_port: MakePort, how: str
) -> None:
    def play() -> None:
        with make_port() as port:
            web = port.monitor("web")
            port.connections(web, *["192.0.2.1"] * 500)
            assert port.service is not None
            factory = port.service._factory
            request = box(_command="ListConnections", _ask="2")
            for _ in range(5):
                with raw(port) as sock:
                    sock.sendall(HELLO + box(_command="Subscribe", _ask="3") + request * 300)
                    if how != "close":
                        assert sock.recv(100)
                    if how == "half_close":
                        sock.shutdown(socket.SHUT_WR)
                        assert hangs_up(sock)
            while factory.clients:
                port.on_reactor(lambda: None)  # one turn of the reactor
            assert not factory.greeted
            assert not port.service._factory.operations.feed._subscriptions
            assert list(port.client().rows("ListServices"))

    await deferToThread(play)


# -- with a clock of the test's own


class Seat:
    """One client's side in the server, without a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: bool = True) -> None:
        monkeypatch.setattr(peers, "is_authorized", lambda transport, access: allowed)
        monkeypatch.setattr(peers, "has_hung_up", lambda transport: False)
        self.clock = Clock()
        self.registry = Registry()
        self.factory = ControlFactory(Operations(self.registry, self.clock))
        self.protocol = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.transport.abortConnection = self.transport.loseConnection  # type: ignore[method-assign]
        self.protocol.makeConnection(self.transport)

    def send(self, *requests: bytes) -> None:
        """Have requests arrive, and as many turns pass as they need."""
        self.protocol.dataReceived(b"".join(requests))
        for _ in range(2 * len(requests)):
            self.clock.advance(0)


def test_a_client_without_hello_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, polite = Seat(monkeypatch), Seat(monkeypatch)
    polite.send(HELLO)
    for seat in (silent, polite):
        seat.clock.advance(HELLO_SECONDS)
    assert silent.transport.disconnecting
    assert not polite.transport.disconnecting


def test_an_unauthorized_client_is_disconnected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(monkeypatch, allowed=False)
    assert seat.transport.disconnecting
    assert not seat.factory.clients


def test_the_size_of_a_box_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(monkeypatch)
    part = struct.pack("!H", 1) + b"k" + struct.pack("!H", 60_000) + b"v" * 60_000
    for _ in range(BOX_BYTES // len(part) + 2):
        seat.protocol.dataReceived(part)
    assert seat.transport.disconnecting


def test_a_slow_subscriber_misses_events_and_gets_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seat = Seat(monkeypatch)
    seat.send(HELLO, box(_command="Subscribe", _ask="2"))
    monitor = seat.registry.new("web", clock=seat.clock)
    monitor.lifecycle.stopping = True
    seat.transport.clear()
    seat.protocol.pauseProducing()
    for _ in range(5):
        monitor.admit("192.0.2.1:1", "192.0.2.1")
    assert seat.transport.value() == b""
    assert seat.transport.producerState == "paused"  # nor is it read from
    seat.protocol.resumeProducing()
    monitor.admit("192.0.2.1:1", "192.0.2.1")
    assert b"refused" in seat.transport.value()
    assert b"\0\x07dropped\0\x015" in seat.transport.value()


def test_a_hang_up_is_found_without_reading() -> None:
    class Transport:
        def fileno(self) -> int:
            return one.fileno()

    for family in (socket.AF_UNIX, socket.AF_INET):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if family == socket.AF_UNIX:
                one, other = socket.socketpair()
            else:
                other = socket.create_connection(listener.getsockname())
                one, _ = listener.accept()
            other.sendall(b"unread")
            assert not peers.has_hung_up(Transport())
            other.close()
            while not peers.has_hung_up(Transport()):  # until the kernel has passed it on
                pass
            one.close()
            assert peers.has_hung_up(Transport())


# -- which users


@pytest.mark.parametrize(("uid", "own", "enters"), [(7, 7, True), (0, 7, True), (8, 7, False)])
def test_the_same_user_and_root_may_connect(uid: int, own: int, enters: bool) -> None:
    one, other = socket.socketpair()

    class Transport:
        def getHandle(self) -> socket.socket:
            return one

    with (
        patch.object(os, "getuid", return_value=own),
        patch.object(peers, "peer_credentials") as of,
    ):
        of.return_value = PeerCredentials(1, uid, 1)
        assert peers.is_authorized(Transport()) == enters
    assert peers.is_authorized(Transport())
    one.close()
    other.close()


def test_tcp_does_not_identify_the_peer(tmp_path: Path) -> None:
    """Not even on this machine: a socket whose process has gone passes for root's."""

    class Transport:
        def getHandle(self) -> socket.socket:
            return sock

    with socket.socket() as sock:
        assert not peers.is_authorized(Transport())
    with pytest.raises(ListenError, match="needs tls"):
        started(ControlConfig(TcpAddress("127.0.0.1", 0)))


@pytest.mark.parametrize("number", range(3))
def test_what_is_no_file_is_not_read(tmp_path: Path, number: int) -> None:
    """It may have come after the configuration was checked: a FIFO would hold the start."""
    own = make_certificate(tmp_path)
    paths = [str(own.certificate), str(own.key), str(own.certificate)]
    paths[number] = str(tmp_path / "fifo")
    os.mkfifo(paths[number])
    with pytest.raises(ListenError, match="is a FIFO, and no regular file"):
        started(ControlConfig(TcpAddress("127.0.0.1", 0), tls=TlsConfig(*paths)))


# -- where


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "monconn"


def started(config: ControlConfig | None = None) -> ControlService:
    service = ControlService(
        config or ControlConfig(), Registry(), running_reactor(), MonotonicClock()
    )
    service.startService()
    return service


@pytest_twisted.ensureDeferred
async def test_several_control_sockets_do_not_collide(runtime: Path) -> None:
    first, second = started(), started()
    assert first.where == f"unix:{runtime}/control.sock"
    assert second.where == f"unix:{runtime}/control-{os.getpid()}.sock"
    assert (runtime.stat().st_mode & 0o777) == 0o700
    assert (Path(first.where[5:]).stat().st_mode & 0o777) == 0o600
    with pytest.raises(SeveralServers) as several:
        await deferToThread(find_server, None)
    assert f"{runtime}/control.sock" in str(several.value)
    assert find_server("there") == "there"
    first.stopService()
    assert await deferToThread(find_server, None) == str(second.where)[5:]
    second.stopService()
    with pytest.raises(NoServer):
        find_server(None)


@pytest_twisted.ensureDeferred
async def test_a_stale_socket_is_no_obstacle(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / "control.sock"))
    service = started()
    assert service.where == f"unix:{runtime}/control.sock"
    service.stopService()


def test_a_folder_that_others_can_enter_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o755)
    with pytest.raises(ControlError, match="chmod 700"):
        place.make_folder(runtime)
    assert started().where is None  # which does not keep the services from starting


def test_a_server_in_a_folder_of_others_is_not_used(runtime: Path) -> None:
    service = started()
    runtime.chmod(0o755)
    with pytest.raises(ControlError, match="chmod 700"):
        find_server(None)
    runtime.chmod(0o700)
    service.stopService()


@pytest.mark.parametrize("kind", ["held", "folder", "link"])
def test_a_lock_that_cannot_be_had_keeps_no_service_from_starting(runtime: Path, kind: str) -> None:
    runtime.mkdir(mode=0o700)
    lock = runtime / ".lock"
    with logged_lines() as lines, contextlib.ExitStack() as held:
        if kind == "held":  # by a process that was stopped amid its start, say
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
        elif kind == "folder":
            lock.mkdir()
        else:
            lock.symlink_to(runtime.parent / "elsewhere")
        assert started().where is None
    assert not (runtime.parent / "elsewhere").exists()
    assert f"no control port: {lock}" in lines[-1]
    assert "Errno" not in lines[-1]


@pytest_twisted.ensureDeferred
async def test_stale_sockets_are_removed(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / "control-4711.sock"))
    service = started()
    assert [path.name for path in runtime.glob("*.sock")] == ["control.sock"]
    service.stopService()


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ControlError, match="not a folder"):
        place.make_folder(tmp_path / "link")


def test_without_a_runtime_folder_each_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert place.control_folder().name == f"monconn-{os.getuid()}"


def test_a_configured_address_must_be_available(tmp_path: Path) -> None:
    from monconn.addresses import UnixAddress

    with pytest.raises(ListenError, match="cannot listen"):
        started(ControlConfig(UnixAddress(str(tmp_path / "none" / "control"))))


# -- TLS


def is_refused(sock: ssl.SSLSocket) -> bool:
    """Whether there is no answer; with TLS 1.3 a client is notified after its handshake."""
    try:
        sock.sendall(HELLO)
        return sock.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


@pytest_twisted.ensureDeferred
async def test_tls_requires_a_trusted_certificate(make_port: MakePort, tmp_path: Path) -> None:
    ours, theirs = make_certificate(folder(tmp_path, "a")), make_certificate(folder(tmp_path, "b"))
    tls = TlsConfig(str(ours.certificate), str(ours.key), str(ours.certificate))

    def address(port: Port, own: Certificate) -> str:
        return f"tls:{port.where}:{own.certificate}:{own.key}:{ours.certificate}"

    def play() -> None:
        with make_port(listen=TcpAddress("127.0.0.1", 0), tls=tls) as port:
            port.monitor("web")
            with Client(address(port, ours)) as client, logged_lines() as lines:
                assert client.hello["version"] == "1"
                client.call("ResetStats")
            assert lines == ["set the totals of all services to zero for certificate CN=localhost"]
            with pytest.raises(NoServer):
                Client(address(port, theirs))
            context = ssl.create_default_context(cafile=str(ours.certificate))
            plain = socket.create_connection(("127.0.0.1", int(port.where.rpartition(":")[2])))
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as without:
                without.settimeout(20)
                assert is_refused(without)

    await deferToThread(play)
