"""Listening sockets: accepting clients, opening and closing."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.wire import Echo
from twisted.python.failure import Failure
from zope.interface import provider

from monconn import files
from monconn.addresses import TcpAddress, UnixAddress, parse_network
from monconn.errors import ListenError
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.net.listen import (
    BATCH,
    FILE_CHECK_SECONDS,
    SHORTAGE_PAUSE_SECONDS,
    Listener,
    client_address,
    open_listener,
    serve_factory,
    wait_while_full,
)
from monconn.policy.rules import Rules
from tests import running_reactor
from tests.relay.world import World, exactly, to_the_end, until, until_settled

LOOPBACK = TcpAddress("127.0.0.1", 0)


def never() -> bool:
    return False


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Connects clients to a listening socket."""
    clients = []

    def connect_to(sock: socket.socket, host: str | None = None) -> socket.socket:
        where = sock.getsockname() if host is None else (host, port_of(sock))
        family = sock.family if host is None else family_of(host)
        client = socket.socket(family, socket.SOCK_STREAM)
        clients.append(client)
        client.settimeout(5)
        client.connect(where)
        return client

    yield connect_to
    for client in clients:
        client.close()


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@pytest.fixture
def opened() -> Iterator[Callable[..., socket.socket]]:
    """Opens listening sockets as the program does, without pauses."""
    sockets = []

    def open_one(address: Any) -> socket.socket:
        sockets.append(open_listener(address))
        return sockets[-1]

    yield open_one
    for sock in sockets:
        sock.close()


class Taken:
    """Accepts clients from a listening socket, by a reactor that does nothing on its own."""

    def __init__(self, sock: Any, must_wait: Callable[[], bool] = never) -> None:
        self.reactor = MemoryReactorClock()
        self.clients: list[tuple[socket.socket, Any]] = []
        self.listener = Listener(sock, self.reactor, self.accepted, must_wait)
        self.listener.resume()

    def accepted(self, client: Any, address: Any) -> None:
        self.clients.append((client, address))

    @property
    def is_reading(self) -> bool:
        return self.listener in self.reactor.getReaders()

    def close(self) -> None:
        self.listener.close()
        for client, _ in self.clients:
            client.close()


# -- accepting clients


def test_clients_are_handed_over_with_their_address(opened: Any, connect: Any) -> None:
    sock = opened(LOOPBACK)
    taken = Taken(sock)
    assert taken.is_reading
    client = connect(sock)
    taken.listener.doRead()
    ((accepted, address),) = taken.clients
    assert address == client.getsockname()
    assert not accepted.getblocking()
    assert taken.is_reading
    taken.close()


def test_a_batch_is_bounded(opened: Any, connect: Any) -> None:
    sock = opened(LOOPBACK)
    taken = Taken(sock)
    for _ in range(BATCH + 5):
        connect(sock)
    taken.listener.doRead()
    assert len(taken.clients) == BATCH
    taken.listener.doRead()
    assert len(taken.clients) == BATCH + 5
    taken.close()


def test_listeners_that_are_flooded_share_a_batch(
    opened: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.net.listen.FLOODED_SECONDS", 60.0)
    flooded = [Taken(opened(LOOPBACK)) for _ in range(4)]
    for taken in flooded:
        for _ in range(2 * BATCH):
            connect(taken.listener._sock)
    counts: list[int] = []
    while sum(counts) < len(flooded) * 2 * BATCH:
        before = sum(len(taken.clients) for taken in flooded)
        for taken in flooded:
            taken.listener.doRead()
        counts.append(sum(len(taken.clients) for taken in flooded) - before)
    assert counts[0] < 3 * BATCH
    assert counts[1] == BATCH
    other = Taken(opened(LOOPBACK))
    connect(other.listener._sock)
    for taken in (*flooded, other):
        taken.listener.doRead()  # the last queues are empty
    for _ in range(BATCH):
        connect(other.listener._sock)
    other.listener.doRead()
    assert len(other.clients) == BATCH + 1, "nobody else is flooded"
    for taken in (*flooded, other):
        taken.close()


def test_clients_that_must_wait_stay_in_the_queue_in_the_middle_of_a_batch(
    opened: Any, connect: Any
) -> None:
    sock = opened(LOOPBACK)
    limit = [3]
    taken = Taken(sock, lambda: len(taken.clients) >= limit[0])
    clients = [connect(sock) for _ in range(5)]
    taken.listener.doRead()
    assert len(taken.clients) == 3
    assert not taken.is_reading
    limit[0] = 4
    taken.listener.resume()
    assert taken.is_reading
    taken.listener.doRead()
    assert [address for _, address in taken.clients] == [
        client.getsockname() for client in clients[:4]
    ]
    taken.close()


def test_while_its_server_is_full_a_listener_asks_again_every_so_often(
    opened: Any, connect: Any
) -> None:
    sock = opened(LOOPBACK)
    taken = Taken(sock)
    is_full = [True]
    wait_while_full(taken.listener, lambda: is_full[0], 0.5)
    connect(sock)
    for _ in range(3):
        taken.listener.doRead()
        assert not taken.is_reading
        assert len(taken.reactor.getDelayedCalls()) == 1
        taken.reactor.advance(0.5)
        assert taken.is_reading
    is_full[0] = False
    taken.listener.doRead()
    assert len(taken.clients) == 1
    taken.close()


def test_an_exception_in_accepted_costs_one_client(
    opened: Any, connect: Any, logged_failures: list[Failure]
) -> None:
    sock = opened(LOOPBACK)
    served: list[socket.socket] = []

    def accepted(client: Any, address: Any) -> None:
        if not served and not logged_failures:
            raise ZeroDivisionError
        served.append(client)

    listener = Listener(sock, MemoryReactorClock(), accepted, never)
    unlucky, lucky = connect(sock), connect(sock)
    listener.doRead()
    assert to_the_end(unlucky) == (b"", "fin")
    (accepted_socket,) = served
    accepted_socket.sendall(b"hello")
    assert exactly(lucky, 5) == b"hello"
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()
    accepted_socket.close()
    listener.close()


class FakeSocket:
    """A listening socket whose ``accept`` returns or raises what the test chooses."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.is_closed = False

    def fileno(self) -> int:
        return 99

    def _accept(self) -> Any:
        result = self.results.pop(0) if self.results else BlockingIOError(errno.EAGAIN, "")
        if isinstance(result, OSError):
            raise result
        return result.detach(), ("192.0.2.1", 4711)

    def close(self) -> None:
        self.is_closed = True


def shortage(number: int = errno.EMFILE) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def warnings() -> Iterator[list[LogEvent]]:
    """The warnings that listeners log."""
    events: list[LogEvent] = []

    @provider(ILogObserver)
    def observer(event: LogEvent) -> None:
        if isinstance(event.get("log_source"), Listener):
            events.append(event)

    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_pauses_and_passes(number: int, warnings: list[LogEvent]) -> None:
    client = socket.socket()
    taken = Taken(FakeSocket(shortage(number), shortage(number), client))
    taken.listener.doRead()
    assert not taken.is_reading
    taken.listener.resume()
    assert not taken.is_reading, "a connection that leaves must not cut the pause short"
    taken.reactor.advance(SHORTAGE_PAUSE_SECONDS)
    assert taken.is_reading
    taken.listener.doRead()
    assert not taken.is_reading
    taken.reactor.advance(SHORTAGE_PAUSE_SECONDS)
    taken.listener.doRead()
    assert len(taken.clients) == 1
    assert [event["reason"] for event in warnings] == [os.strerror(number).lower()]
    taken.close()


def test_each_shortage_is_logged_once(warnings: list[LogEvent]) -> None:
    taken = Taken(FakeSocket(shortage(), socket.socket(), shortage(), shortage()))
    for _ in range(4):
        taken.listener.doRead()
        taken.reactor.advance(SHORTAGE_PAUSE_SECONDS)
    assert len(warnings) == 2
    taken.close()


def test_a_client_that_left_the_queue_is_skipped() -> None:
    taken = Taken(FakeSocket(ConnectionAbortedError(errno.ECONNABORTED, ""), socket.socket()))
    taken.listener.doRead()
    assert len(taken.clients) == 1
    assert taken.is_reading
    taken.close()


# -- closing


def test_closing_is_final_and_harmless_the_second_time() -> None:
    sock = FakeSocket(socket.socket())
    taken = Taken(sock)
    taken.listener.close()
    taken.listener.close()
    assert sock.is_closed
    assert not taken.is_reading
    taken.listener.resume()
    taken.listener.doRead()
    assert not taken.is_reading
    assert taken.clients == []
    sock.results.pop().close()


def test_closing_ends_a_pause() -> None:
    taken = Taken(FakeSocket(shortage()))
    taken.listener.doRead()
    taken.listener.close()
    assert taken.reactor.getDelayedCalls() == []


def test_closed_by_a_client_in_the_middle_of_a_batch() -> None:
    clients = [socket.socket(), socket.socket()]
    sock = FakeSocket(*clients)
    taken = Taken(sock)
    taken.accepted = lambda client, address: taken.listener.close()  # type: ignore[method-assign]
    taken.listener = Listener(sock, taken.reactor, taken.accepted, never)  # type: ignore[arg-type]
    taken.listener.doRead()
    assert sock.results == clients[1:]
    for client in clients:
        client.close()


def test_lost_by_the_reactor_is_closed() -> None:
    sock = FakeSocket()
    taken = Taken(sock)
    taken.listener.connectionLost(Failure(ValueError()))
    assert sock.is_closed


def test_closing_does_not_stop_other_processes(opened: Any, connect: Any) -> None:
    sock = opened(LOOPBACK)
    copy = sock.dup()
    Taken(sock).close()
    copy.setblocking(True)
    copy.settimeout(5)
    client = connect(copy)
    accepted, address = copy.accept()
    assert address == client.getsockname()
    accepted.close()
    copy.close()


def test_closing_removes_a_unix_socket(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "front"
    Taken(opened(UnixAddress(str(path)))).close()
    assert not path.exists()


def test_closing_leaves_a_unix_socket_that_another_program_has_made_since(
    opened: Any, tmp_path: Path
) -> None:
    path = tmp_path / "front"
    taken = Taken(opened(UnixAddress(str(path))))
    path.rename(tmp_path / "away")  # keeps the inode in use, so that the new one differs
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        taken.close()
        assert path.exists()


# -- the file of a UNIX socket


@pytest.fixture
def front(opened: Any, tmp_path: Path) -> Iterator[Taken]:
    """A listener on a UNIX socket, with a mode of its own."""
    taken = Taken(opened(UnixAddress(str(tmp_path / "front"), 0o620)))
    yield taken
    taken.close()


def check_file(taken: Taken) -> None:
    """Let the time pass after which a listener checks its file."""
    taken.reactor.advance(FILE_CHECK_SECONDS)


def can_connect(taken: Taken, path: Path) -> bool:
    """Whether a client that connects to a path is accepted by a listener."""
    before = len(taken.clients)
    with socket.socket(socket.AF_UNIX) as client:
        if client.connect_ex(str(path)):
            return False
        taken.listener.doRead()
        return len(taken.clients) == before + 1


def texts(events: list[LogEvent]) -> list[str]:
    return [formatEvent(event) for event in events]


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("away"))


def replace_by_a_stale_one(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


@pytest.mark.parametrize("lose", [remove, move, replace_by_a_stale_one])
def test_a_file_that_is_lost_is_made_anew(
    lose: Callable[[Path], None], front: Taken, tmp_path: Path, warnings: list[LogEvent]
) -> None:
    path, before = tmp_path / "front", files.lost["socket"]
    check_file(front)
    assert warnings == []
    lose(path)
    assert not can_connect(front, path)
    check_file(front)
    assert can_connect(front, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    assert files.lost["socket"] == before + 1
    lost, made = texts(warnings)
    assert lost == f"the socket {path} was moved, removed or replaced: clients do not find it"
    assert made == f"the socket {path} is made anew"
    check_file(front)
    assert len(warnings) == 2
    front.listener.close()
    assert not path.exists()


def test_clients_in_the_queue_of_a_lost_file_are_served(
    front: Taken, connect: Any, tmp_path: Path
) -> None:
    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX) as early, socket.socket(socket.AF_UNIX) as late:
        early.connect(str(path))
        path.unlink()
        check_file(front)
        assert len(front.clients) == 1
        late.connect(str(path))
        front.listener.doRead()
        assert len(front.clients) == 2


def test_a_full_service_makes_a_lost_file_anew_when_its_queue_is_empty(
    opened: Any, tmp_path: Path, warnings: list[LogEvent]
) -> None:
    path = tmp_path / "front"
    is_full = [True]
    taken = Taken(opened(UnixAddress(str(path))), lambda: is_full[0])
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        taken.listener.doRead()
        assert not taken.is_reading
        path.unlink()
        check_file(taken)
        check_file(taken)
        assert not path.exists()
        is_full[0] = False
        taken.listener.resume()
        check_file(taken)
        assert len(taken.clients) == 1
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)  # it was not reset
    assert can_connect(taken, path)
    assert len(warnings) == 2
    taken.close()


def test_what_others_have_put_in_its_place_is_left_alone(
    front: Taken, tmp_path: Path, warnings: list[LogEvent]
) -> None:
    path = tmp_path / "front"
    path.unlink()
    path.write_text("precious")
    for _ in range(3):
        check_file(front)
    assert path.read_text() == "precious"
    assert len(warnings) == 2
    assert texts(warnings)[1].endswith(
        "cannot be made anew for now: address already in use: there is a file, which is left alone"
    )
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        check_file(front)
        assert not can_connect(front, path)
    check_file(front)
    assert can_connect(front, path)


def test_a_file_that_is_moved_back_is_ours_again(
    front: Taken, tmp_path: Path, warnings: list[LogEvent]
) -> None:
    path = tmp_path / "front"
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    check_file(front)
    tmp_path.with_name("elsewhere").rename(tmp_path)
    check_file(front)
    assert can_connect(front, path)
    assert texts(warnings)[1:] == [
        f"the socket {path} cannot be made anew for now: no such file or directory:"
        f' there is no folder "{path.parent}", and monconn makes none',
        f"the socket {path} is in its place again",
    ]


def test_closing_ends_the_checks(front: Taken) -> None:
    front.listener.close()
    assert front.reactor.getDelayedCalls() == []


# -- opening


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_opens_on_one_address(host: str, opened: Any, connect: Any) -> None:
    sock = opened(TcpAddress(host, 0))
    assert not sock.getblocking()
    assert sock.getsockname()[0] == host
    connect(sock)


def test_without_a_host_both_families_are_served(opened: Any, connect: Any) -> None:
    sock = opened(TcpAddress("", 0))
    taken = Taken(sock)
    for host in ("127.0.0.1", "::1"):
        connect(sock, host)
        taken.listener.doRead()
    assert [address[0] for _, address in taken.clients] == ["::ffff:127.0.0.1", "::1"]
    taken.close()


def test_the_ipv6_wildcard_is_ipv6_only(opened: Any, connect: Any) -> None:
    sock = opened(TcpAddress("::", 0))
    connect(sock, "::1")
    with pytest.raises(ConnectionRefusedError):
        connect(sock, "127.0.0.1")


def test_a_port_that_was_just_closed_can_be_opened_at_once(opened: Any, connect: Any) -> None:
    sock = opened(LOOPBACK)
    port = port_of(sock)
    taken = Taken(sock)
    client = connect(sock)
    taken.listener.doRead()
    taken.close()  # first, so that the port is in TIME_WAIT
    assert to_the_end(client) == (b"", "fin")
    client.close()
    assert port_of(opened(TcpAddress("127.0.0.1", port))) == port


def test_a_taken_address_is_a_clear_error(opened: Any) -> None:
    port = port_of(opened(LOOPBACK))
    problem = (
        rf"^cannot listen on 127\.0\.0\.1:{port}: address already in use"
        rf" by process {os.getpid()} \(.+\): stop that first, or choose another port$"
    )
    with pytest.raises(ListenError, match=problem):
        open_listener(TcpAddress("127.0.0.1", port))


def test_a_failed_bind_leaves_no_descriptor_behind(opened: Any) -> None:
    port = port_of(opened(LOOPBACK))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError):
        opened(TcpAddress("127.0.0.1", port))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stale_unix_socket_is_replaced(opened: Any, connect: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "front")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
        stale.listen()
    connect(opened(UnixAddress(path)))


def test_a_live_unix_socket_is_left_alone(opened: Any, connect: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "front")
    live = opened(UnixAddress(path))
    problem = rf"address already in use by process {os.getpid()} \(.+\): stop that first, or "
    with pytest.raises(ListenError, match=problem):
        opened(UnixAddress(path))
    connect(live)


def test_a_regular_file_is_left_alone(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "front"
    path.write_text("precious")
    with pytest.raises(ListenError, match=r"cannot listen on unix:.*: address already in use"):
        opened(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_a_missing_folder_is_reported(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="no such file or directory"):
        opened(UnixAddress(str(tmp_path / "none" / "front")))


def test_the_mode_of_a_unix_socket_that_names_none(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "front"
    with open_listener(UnixAddress(str(path)), default_mode=0o600):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_name_that_a_client_uses(opened: Any) -> None:
    sock = opened(LOOPBACK)
    port = port_of(sock)
    assert client_address(TcpAddress("", 0), sock) == f"127.0.0.1:{port}"
    assert client_address(TcpAddress("::1", 0), sock) == f"[::1]:{port}"
    assert client_address(UnixAddress("/run/x", 0o600), sock) == "unix:/run/x"


def test_the_private_accept_that_listeners_use() -> None:
    """``socket.socket._accept`` is private, but ``accept`` is made of it."""
    sock = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(sock.getsockname())
    fd, address = sock._accept()  # type: ignore[attr-defined]
    assert address == client.getsockname()
    os.close(fd)
    client.close()
    sock.close()


@pytest_twisted.ensureDeferred
async def test_clients_of_a_factory(opened: Any, connect: Any) -> None:
    sock = opened(LOOPBACK)
    listener = serve_factory(sock, running_reactor(), Factory.forProtocol(Echo))
    listener.resume()

    def talk() -> bytes:
        client = connect(sock)
        client.sendall(b"hello")
        data: bytes = client.recv(5)
        client.close()
        return data

    assert await deferToThread(talk) == b"hello"
    listener.close()


def test_a_client_of_a_factory_that_has_left(opened: Any) -> None:
    class Reactor(MemoryReactorClock):
        def adoptStreamConnection(self, fd: int, family: int, factory: Any) -> None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    reactor = Reactor()
    listener = serve_factory(opened(LOOPBACK), reactor, Factory())
    client = socket.socket()
    listener._accepted(client, None)
    assert client.fileno() == -1
    listener.close()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o640])
def test_the_mode_of_a_unix_socket(mode: int, opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "front"
    opened(UnixAddress(str(path), mode))
    assert stat.S_IMODE(path.stat().st_mode) == mode


# -- together with the rules of a service


async def play(scenario: Callable[..., None], *arguments: Any) -> None:
    await deferToThread(scenario, *arguments)


class Most(Observer):
    """The most connections that were open at once, and the refused clients."""

    def __init__(self, world: World) -> None:
        self._monitor = world.monitor
        self.at_once = 0
        self.refused_records: list[ConnectionRecord] = []
        world.on_reactor(world.monitor.add_observer, self)

    def opened(self, record: ConnectionRecord) -> None:
        self.at_once = max(self.at_once, len(self._monitor))

    def refused(self, record: ConnectionRecord) -> None:
        self.refused_records.append(record)


@pytest_twisted.ensureDeferred
async def test_a_full_service_lets_clients_wait(tmp_path: Path) -> None:
    await play(full_service_lets_clients_wait, tmp_path)


def full_service_lets_clients_wait(tmp_path: Path) -> None:
    with World(tmp_path, rules=Rules(conn_limit=3)) as world, World(tmp_path) as other:
        most = Most(world)
        clients = [world.client() for _ in range(10)]
        for number, client in enumerate(clients):
            client.sendall(bytes([number]))
        assert until_settled(lambda: world.monitor.stats()["total"]) == 3
        assert len(world.monitor) == 3
        exchange(*other.pair())
        served = set()
        for _ in clients:
            backend = world.backend()
            served.add(exactly(backend, 1)[0])
            assert len(world.monitor) <= 3
            backend.close()
            clients[max(served)].close()
        assert served == set(range(10))
        assert len(world.closed(10)) == 10
        assert most.at_once == 3
        assert most.refused_records == []


def exchange(client: socket.socket, backend: socket.socket) -> None:
    client.sendall(b"ping")
    assert exactly(backend, 4) == b"ping"
    backend.sendall(b"pong")
    assert exactly(client, 4) == b"pong"


@pytest_twisted.ensureDeferred
async def test_a_full_service_refuses(tmp_path: Path) -> None:
    await play(full_service_refuses, tmp_path)


def full_service_refuses(tmp_path: Path) -> None:
    with World(tmp_path, rules=Rules(conn_limit=2, when_full="refuse")) as world:
        most = Most(world)
        pairs = [world.pair(), world.pair()]
        for _ in range(3):
            assert to_the_end(world.client()) == (b"", "fin")
        assert world.monitor.stats()["refused_by"] == {"conn_limit": 3}
        assert [(record.refusal, record.code) for record in most.refused_records] == [
            ("conn_limit", "PR")
        ] * 3
        for pair in pairs:
            exchange(*pair)
        for sock in pairs[0]:
            sock.close()
        until(lambda: len(world.monitor) == 1)
        exchange(*world.pair())
        assert most.at_once == 2


@pytest_twisted.ensureDeferred
async def test_ip_limit(tmp_path: Path) -> None:
    await play(ip_limit, tmp_path)


def ip_limit(tmp_path: Path) -> None:
    with World(tmp_path, rules=Rules(ip_limit=2)) as world:
        pairs = [(world.client(ip), world.backend()) for ip in ("127.0.0.1", "127.0.0.2")]
        more = world.client("127.0.0.2"), world.backend()
        assert to_the_end(world.client("127.0.0.3")) == (b"", "fin")
        assert world.monitor.connections_by_ip() == {"127.0.0.1": 1, "127.0.0.2": 2}
        assert world.monitor.stats()["refused_by"] == {"ip_limit": 1}
        for sock in more:
            sock.close()
        until(lambda: len(world.monitor) == 2)
        assert to_the_end(world.client("127.0.0.3")) == (b"", "fin")
        for sock in pairs[0]:
            sock.close()
        until(lambda: len(world.monitor) == 1)
        exchange(world.client("127.0.0.3"), world.backend())
        assert world.monitor.connections_by_ip() == {"127.0.0.2": 1, "127.0.0.3": 1}
        assert world.monitor.stats()["refused_by"] == {"ip_limit": 2}


@pytest_twisted.ensureDeferred
async def test_blocked_clients_are_refused_at_accept(tmp_path: Path) -> None:
    await play(blocked_clients_are_refused_at_accept, tmp_path)


def blocked_clients_are_refused_at_accept(tmp_path: Path) -> None:
    rules = Rules(block=(parse_network("127.0.0.1"), parse_network("127.1.0.0/16")))
    with World(tmp_path, rules=rules, front=TcpAddress("", 0)) as world:
        most = Most(world)
        for ip in ("127.0.0.1", "127.1.2.3"):
            assert to_the_end(world.client(ip)) == (b"", "fin")
        seen = [(record.client_ip, record.refusal, record.code) for record in most.refused_records]
        assert seen == [("127.0.0.1", "blocked", "PR"), ("127.1.2.3", "blocked", "PR")]
        assert most.at_once == 0
        exchange(world.client("::1"), world.backend())
        exchange(world.client("127.0.0.2"), world.backend())
        assert world.monitor.connections_by_ip() == {"::1": 1, "127.0.0.2": 1}
