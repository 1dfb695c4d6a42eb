"""The Go monconn's defects, each with a test that monconn does not have it."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress, parse_network
from monconn.config.config import Config, ServiceConfig, from_pairs, parse
from monconn.faces.cli.main import main
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.net.listen import SHORTAGE_PAUSE_SECONDS, Listener
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.run.application import Application
from monconn.testing import connect, make_monitor
from monconn.wrapping import MonitoringFactory

PATIENCE_SECONDS = 10.0
BOTH_SIDES = pytest.mark.parametrize("first", ["client", "backend"])

# -- real sockets, with the service between them


class FirstEnd(Observer):
    """Waits for the first connection that ends."""

    def __init__(self) -> None:
        self.record: Deferred[ConnectionRecord] = Deferred()

    def closed(self, record: ConnectionRecord) -> None:
        if not self.record.called:
            self.record.callback(record)


class Forwarding:
    """A backend that listens, and one service of an application in front of it.

    :param host: of both.
    :param rules: as for ServiceConfig.
    """

    def __init__(self, host: str = "127.0.0.1", **rules: Any) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(PATIENCE_SECONDS)
        self._sockets = [self._listener]
        backend = TcpAddress(host, self._listener.getsockname()[1])
        service = ServiceConfig("web", TcpAddress(host, 0), backend).changed(**rules)
        config = Config((service,))
        self.app = Application(config, reactor)
        self.app.privilegedStartService()
        self.app.startService()
        self.monitor = self.app.registry.get("web")
        self.first_end = FirstEnd()
        self.monitor.add_observer(self.first_end)
        port = int(self.monitor.listen.rpartition(":")[2])
        self.address = (host, port)

    # For a thread: they wait.

    def client(self, source_ip: str = "") -> socket.socket:
        """A client's connection; the backend has not been asked yet."""
        source = (source_ip, 0) if source_ip else None
        return self._keep(socket.create_connection(self.address, PATIENCE_SECONDS, source))

    def accept(self) -> socket.socket:
        """The backend's side of the next client."""
        return self._keep(self._listener.accept()[0])

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The two sockets of a new connection: the client's and the backend's."""
        return self.client(), self.accept()

    def _keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(PATIENCE_SECONDS)
        self._sockets.append(sock)
        return sock

    async def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self.app.stop_now()
        await self.app.stopService()


Forward = Callable[..., Forwarding]


@pytest_twisted.async_yield_fixture
async def forward() -> AsyncIterator[Forward]:
    """Makes a Forwarding; all of them are closed after the test."""
    made: list[Forwarding] = []

    def make(*args: Any, **rules: Any) -> Forwarding:
        made.append(Forwarding(*args, **rules))
        return made[-1]

    yield make
    for forwarding in made:
        await forwarding.close()


def receive_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def send_through(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    sender.sendall(data)
    received = b""
    while len(received) < len(data):
        received += receiver.recv(65536)
    assert received == data


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_refused(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@BOTH_SIDES
@pytest_twisted.ensureDeferred
async def test_eof_one_way_ends_both_ways(forward: Forward, first: str) -> None:
    forwarding = forward()

    def talk() -> None:
        client, backend = forwarding.pair()
        one, other = (client, backend) if first == "client" else (backend, client)
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert receive_all(other) == b"question"
        other.sendall(b"late reply")
        other.close()
        assert receive_all(one) == b"late reply"

    await deferToThread(talk)
    record = await forwarding.first_end.record
    assert (record.client_end, record.backend_end) == ("fin", "fin")
    assert record.reason == f"{first}_closed"


@BOTH_SIDES
@pytest_twisted.ensureDeferred
async def test_reset_reaches_the_other_side_as_reset(forward: Forward, first: str) -> None:
    forwarding = forward()

    def talk() -> None:
        client, backend = forwarding.pair()
        one, other = (client, backend) if first == "client" else (backend, client)
        send_through(one, other, b"hello")
        reset(one)
        with pytest.raises(ConnectionResetError):
            other.recv(1)

    await deferToThread(talk)
    assert (await forwarding.first_end.record).reason == f"{first}_reset"


@pytest_twisted.ensureDeferred
async def test_byte_counters_move_while_connection_lives(forward: Forward) -> None:
    forwarding = forward()
    client, backend = await deferToThread(forwarding.pair)
    for turn in (1, 2, 3):
        await deferToThread(send_through, client, backend, b"x" * 1000)
        await deferToThread(send_through, backend, client, b"y" * 70)
        assert forwarding.monitor.bytes() == (turn * 1000, turn * 70)
        (record,) = forwarding.monitor.connections()
        assert (record.up, record.down) == (turn * 1000, turn * 70)
    client.close()
    backend.close()
    await forwarding.first_end.record
    assert forwarding.monitor.bytes() == (3000, 210)


@pytest_twisted.ensureDeferred
async def test_refused_client_does_not_slow_others(forward: Forward) -> None:
    """In the Go tool each refusal took a second, during which no other client was accepted."""
    forwarding = forward(ip_blacklist=(parse_network("127.0.0.2"),))

    def talk() -> None:
        refused = [forwarding.client("127.0.0.2") for _ in range(30)]
        send_through(*forwarding.pair(), b"hello")
        assert all(map(is_refused, refused))

    await deferToThread(talk)
    assert forwarding.monitor.stats()["refused_by"] == {"blocked": 30}


@pytest_twisted.ensureDeferred
async def test_stop_ends_with_last_connection(forward: Forward) -> None:
    forwarding = forward(wait_timeout=3600.0)
    client, backend = await deferToThread(forwarding.pair)
    stopped = forwarding.app.stopService()
    await deferToThread(send_through, client, backend, b"still served")
    assert not stopped.called
    client.close()
    assert await deferToThread(receive_all, backend) == b""
    assert not stopped.called
    backend.close()
    await stopped.addTimeout(PATIENCE_SECONDS, reactor)
    (record,) = forwarding.monitor.closed_records
    assert record.reason == "client_closed"


def has_keepalive_timer(server: tuple[str, int], client: tuple[str, int]) -> bool:
    """Whether keepalive is on, as /proc shows it for the server's side of a connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
        if ports == [server[1], client[1]]:
            return fields[5].startswith("02:")
    raise AssertionError("there is no such connection")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux shows it")
@pytest.mark.parametrize("options", [{}, {"keepalive": True}, {"keepalive": False}], ids=str)
@pytest_twisted.ensureDeferred
async def test_keepalive_left_out_means_on(forward: Forward, options: dict[str, bool]) -> None:
    forwarding = forward(**options)
    client, _ = await deferToThread(forwarding.pair)
    is_on = options.get("keepalive", True)
    assert has_keepalive_timer(client.getpeername(), client.getsockname()) == is_on


@pytest.mark.parametrize(
    "config",
    [
        "web: {listen_port: 80, backend_port: 8080}",
        'services: {web: {listen: ":80", backend: ":8080"}}',
    ],
)
def test_keepalive_left_out_of_a_file_means_on(config: str) -> None:
    assert parse(config, "file").services[0].policy.keepalive


@pytest_twisted.ensureDeferred
async def test_ipv6_in_p(forward: Forward) -> None:
    (service,) = from_pairs(["[::1]:80=[::1]:8080"]).services
    assert (service.listen, service.backend) == (TcpAddress("::1", 80), TcpAddress("::1", 8080))
    try:
        forwarding = forward("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    await deferToThread(lambda: send_through(*forwarding.pair(), b"hello"))
    assert forwarding.monitor.listen == f"[::1]:{forwarding.address[1]}"
    assert forwarding.monitor.connections_by_ip() == {"::1": 1}


# -- without sockets


def enter(monitor: Monitor, ip: str) -> Any:
    """Connect a client; the protocol it gets."""
    protocol, _ = connect(MonitoringFactory(monitor, Factory.forProtocol(Protocol)), ip)
    return protocol


@pytest.mark.parametrize("active", ["nobody", "client", "service"])
def test_silent_client_is_not_idle_at_the_first_tick(active: str) -> None:
    clock = Clock()
    monitor = make_monitor(clock=clock, timeouts=Timeouts(max_idle=900.0))
    protocol, transport = connect(
        MonitoringFactory(monitor, Factory.forProtocol(Protocol)), "192.0.2.1"
    )
    clock.pump([15.0] * 59)
    assert monitor.connections()[0].reason is None
    if active == "client":
        transport.peer_sends(b"x")
    elif active == "service":
        protocol.wrappedProtocol.transport.write(b"x")
    clock.pump([15.0])
    transport.drain()
    assert len(monitor) == (0 if active == "nobody" else 1)
    clock.pump([15.0] * 60)
    transport.drain()
    assert [record.reason for record in monitor.closed_records] == ["idle_timeout"]


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_ip_limit_is_exact(limit: int) -> None:
    """All of them come before anything else can happen."""
    monitor = make_monitor(rules=Rules(ip_limit=limit))
    for number in range(limit + 3):
        enter(monitor, f"10.0.0.{number}")
    assert len(monitor.connections_by_ip()) == limit
    assert monitor.stats()["refused_by"] == {"ip_limit": 3}
    enter(monitor, "10.0.0.0")  # a known one may come again
    assert len(monitor) == limit + 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ip_counts_begin_at_one(count: int) -> None:
    monitor = make_monitor()
    for _ in range(count):
        enter(monitor, "10.0.0.1")
    assert monitor.connections_by_ip() == {"10.0.0.1": count}


def test_ips_known_without_limit() -> None:
    monitor = make_monitor(rules=Rules(ip_limit=0))
    enter(monitor, "10.0.0.2")
    enter(monitor, "10.0.0.1")
    assert monitor.stats()["ips"] == ["10.0.0.1", "10.0.0.2"]


def test_no_silent_cap_above_64_ips() -> None:
    monitor = make_monitor()
    for number in range(1000):
        enter(monitor, f"10.0.{number // 250}.{number % 250}")
    assert len(monitor.stats()["ips"]) == len(monitor.clients) == 1000


def test_reset_stats_does_not_block() -> None:
    monitor = make_monitor()
    protocol = enter(monitor, "10.0.0.1")
    protocol.dataReceived(b"12345")
    monitor.reset_stats()
    assert monitor.bytes() == (0, 0)
    protocol.dataReceived(b"678")
    enter(monitor, "10.0.0.2")
    assert monitor.bytes() == (3, 0)
    assert monitor.stats()["total"] == 1


def test_pair_without_equals_is_clear_error() -> None:
    result = CliRunner().invoke(main, ["-p", "127.0.0.1:80"])
    assert result.exit_code == 2
    assert "127.0.0.1:80" in result.output
    assert "has no '=': write LISTEN=BACKEND, such as :80=10.0.0.5:80" in result.output


def test_config_error_ends_the_program(tmp_path: Path) -> None:
    file = tmp_path / "monconn.yaml"
    file.write_text("services:\n  web:\n    listen: :80\n    backend: nonsense\n")
    result = CliRunner().invoke(main, ["-c", str(file)])
    assert result.exit_code == 2
    assert f"{file}:4: services.web.backend" in result.output


class ListeningSocket:
    """A listening socket whose clients are given beforehand; some of them are errors."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self, *clients: Any) -> None:
        self._clients = list(clients)

    def fileno(self) -> int:
        return 0

    def _accept(self) -> tuple[Any, Any]:
        client = self._clients.pop(0) if self._clients else BlockingIOError()
        if isinstance(client, OSError):
            raise client
        return client.detach(), ("192.0.2.1", 4711)

    def close(self) -> None:
        self._clients = [OSError(errno.EBADF, "use of closed connection")]


@pytest.mark.parametrize("text", ["use of closed connection", "something else"])
@pytest.mark.parametrize(
    ("number", "waits"),
    [
        (errno.ECONNABORTED, False),  # this client has left again
        (errno.EPERM, False),  # forbidden by a firewall
        (errno.EMFILE, True),  # to try again at once would be a busy loop
        (errno.ENOBUFS, True),
    ],
)
def test_accept_error_by_type(number: int, waits: bool, text: str) -> None:
    ours, theirs = socket.socketpair()
    accepted: list[socket.socket] = []
    memory_reactor = MemoryReactorClock()
    listener = Listener(
        ListeningSocket(OSError(number, text), ours),  # type: ignore[arg-type]
        memory_reactor,
        lambda sock, address: accepted.append(sock),  # type: ignore[arg-type]
        must_wait=lambda: False,
    )
    listener.resume()
    listener.doRead()
    assert (accepted == []) == waits
    assert (memory_reactor.getReaders() == []) == waits
    memory_reactor.advance(SHORTAGE_PAUSE_SECONDS)
    assert memory_reactor.getReaders() == [listener]
    listener.doRead()
    assert len(accepted) == 1
    accepted[0].close()

    listener.close()
    listener.doRead()  # as in the same turn of the reactor
    assert memory_reactor.getReaders() == []
    theirs.close()


def test_stats_are_serialised() -> None:
    name = 'we"b\\ {}% \N{SNOWMAN}'
    monitor = make_monitor(name, listen='unix:/tmp/"quoted"')
    protocol = enter(monitor, "10.0.0.1")
    stats = json.loads(json.dumps(monitor.stats()))
    assert (stats["sid"], stats["listen"], stats["ips"]) == (name, monitor.listen, ["10.0.0.1"])
    snapshot_read = json.loads(json.dumps(protocol.record.snapshot(monitor.clock.seconds())))
    assert (snapshot_read["service"], snapshot_read["listener"]) == (name, monitor.listen)
