"""Services are started, changed, drained and stopped by one operation."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any, cast
from unittest.mock import Mock, patch

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread

from monconn.addresses import EndpointAddress, TcpAddress, UnixAddress
from monconn.config.config import ServiceConfig
from monconn.errors import AddressError, DuplicateService, ListenError, UnknownService
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.net import resolver
from monconn.net.listen import BATCH, open_listener
from monconn.policy.sides import Keepalive, Sides
from monconn.run.supervisor import Changes, Supervisor

HANG_SECONDS = 30.0
ANY = TcpAddress("127.0.0.1", 0)


class Backend:
    """A server in this process whose clients are answered with its name."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(HANG_SECONDS)
        self.clients: list[socket.socket] = []
        self.address = TcpAddress("127.0.0.1", self._server.getsockname()[1])

    def serve(self) -> None:
        """Accept a client, and send it our name."""
        client, _ = self._server.accept()
        client.sendall(self._name)
        self.clients.append(client)

    def close(self) -> None:
        for each in (self._server, *self.clients):
            each.close()


class World:
    """A supervisor on the reactor that runs, with backends and clients."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.registry = Registry()
        self.failures: list[ListenError] = []
        self.supervisor = Supervisor(reactor, self.registry, failed=self.failures.append)
        self.backends = {name: Backend(name) for name in (b"A", b"B")}
        self.sockets: list[socket.socket] = []

    def service(self, name: str = "web", listen: Any = ANY, **settings: Any) -> ServiceConfig:
        backend = settings.pop("backend", self.backends[b"A"].address)
        return ServiceConfig(name, listen, backend).changed(**settings)

    def monitor(self, name: str = "web") -> Monitor:
        return self.registry.get(name)

    def port(self, name: str = "web") -> int:
        listen = self.monitor(name).listen.removeprefix("tcp:").removesuffix(":backlog=9")
        return int(listen.removesuffix(":interface=127.0.0.1").rpartition(":")[2])

    async def connect(self, name: str = "web", backend: bytes = b"A") -> socket.socket:
        """A client that has got the backend's name."""
        address = ("127.0.0.1", self.port(name))

        def connect() -> socket.socket:
            client = socket.create_connection(address, timeout=HANG_SECONDS)
            self.sockets.append(client)
            self.backends[backend].serve()
            assert client.recv(1) == backend
            return client

        client: socket.socket = await deferToThread(connect)
        return client

    def leave(self, client: socket.socket) -> None:
        """A client and its backend end their connection."""
        client.close()
        for backend in self.backends.values():
            while backend.clients:
                backend.clients.pop().close()

    async def until(self, condition: Any) -> None:
        give_up = self.reactor.seconds() + HANG_SECONDS
        while not condition():
            assert self.reactor.seconds() < give_up
            await deferLater(self.reactor, 0.01)

    async def end(self) -> None:
        stopped = self.supervisor.stop()
        for monitor in self.registry:
            monitor.stop_now()
        await stopped
        opened: list[Any] = [*self.sockets, *self.backends.values()]
        for each in opened:
            each.close()


@pytest_twisted.async_yield_fixture
async def world() -> Any:
    world = World()
    yield world
    await world.end()


@pytest.fixture(autouse=True)
def one_try() -> Iterator[None]:
    """Pauses between several are tested with a clock."""
    with patch("monconn.run.supervisor.PAUSES_SECONDS", ()):
        yield


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# -- start and stop


@pytest_twisted.ensureDeferred
async def test_start_is_to_apply_to_nothing_and_stop_is_to_apply_nothing(world: World) -> None:
    service = world.service()
    changes = await world.supervisor.apply((), [service])
    assert changes == Changes(started=("web",))
    assert (world.supervisor.services, world.registry.names()) == ((service,), ["web"])
    port = world.port()
    await world.connect()
    assert await world.supervisor.apply([service], ()) == Changes(stopped=("web",))
    assert not listens(port)
    assert world.supervisor.services == ()


@pytest_twisted.ensureDeferred
async def test_a_removed_service_is_drained_and_then_forgotten(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    client, monitor = await world.connect(), world.monitor()
    await world.supervisor.apply([service], ())
    drained = world.supervisor.drained()
    assert (world.registry.names(), len(monitor), drained.called) == (["web"], 1, False)
    world.leave(client)
    await drained
    assert world.registry.names() == []
    assert monitor.closed_records[0].reason == "client_closed"


@pytest_twisted.ensureDeferred
async def test_what_is_not_drained_in_time_is_ended(world: World) -> None:
    service = world.service(wait_timeout=0.05)
    await world.supervisor.apply((), [service])
    monitor = world.monitor()
    await world.connect()
    await world.supervisor.apply([service], ())
    await world.supervisor.drained()
    assert monitor.closed_records[0].reason == "stopping"


@pytest_twisted.ensureDeferred
async def test_what_was_unblocked_everywhere_is_so_at_a_service_that_comes_back(
    world: World,
) -> None:
    service, other = world.service(), world.service("other")
    await world.supervisor.apply((), [service, other])
    monitor = world.monitor()
    monitor.block("192.0.2.1")
    monitor.block("192.0.2.2")
    await world.supervisor.apply([service], ())
    await world.supervisor.drained()
    assert world.registry.names() == ["other"]
    world.registry.unblock("192.0.2.1")
    await world.supervisor.apply((), [service])
    assert world.monitor() is monitor
    assert [str(each) for each in monitor.blocks()] == ["192.0.2.2/32"]


@pytest.mark.parametrize("listen", [ANY, EndpointAddress("tcp:0:interface=127.0.0.1")])
@pytest_twisted.ensureDeferred
async def test_clients_of_a_paused_service_wait_in_the_queue(world: World, listen: Any) -> None:
    await world.supervisor.apply((), [world.service(listen=listen)])
    await world.connect()
    monitor = world.monitor()
    monitor.pause()
    waiting = socket.create_connection(("127.0.0.1", world.port()), HANG_SECONDS)
    world.sockets.append(waiting)
    await deferLater(world.reactor, 0.1)
    assert (monitor.totals().opened, len(monitor)) == (1, 1)
    monitor.resume()
    await deferToThread(world.backends[b"A"].serve)
    assert await deferToThread(waiting.recv, 1) == b"A"


@pytest_twisted.ensureDeferred
async def test_many_who_wait_at_a_paused_service_are_accepted_in_several_turns(
    world: World,
) -> None:
    service = world.service(wait_timeout=0.05)
    await world.supervisor.apply((), [service])
    monitor = world.monitor()
    monitor.pause()
    await deferLater(world.reactor, 0.01)
    for _ in range(6 * BATCH):
        client = socket.create_connection(("127.0.0.1", world.port()), HANG_SECONDS)
        world.sockets.append(client)
    with patch("monconn.turns.WORK_SECONDS", 1e-9):  # one step in each
        removed, seen = world.supervisor.apply([service], ()), [0]
        while not removed.called:
            seen.append(monitor.totals().opened)
            await deferLater(world.reactor, 0)
        await removed
    seen.append(monitor.totals().opened)
    assert seen[-1] == 6 * BATCH
    # One step, and one batch that the reactor had been told of.
    assert max(after - before for before, after in pairwise(seen)) <= 2 * BATCH


@pytest.mark.parametrize("takes_over", [False, True])
@pytest_twisted.ensureDeferred
async def test_many_who_wait_at_a_listener_that_moves_are_accepted_in_several_turns(
    world: World, takes_over: bool
) -> None:
    before = world.service()
    await world.supervisor.apply((), [before])
    monitor, address = world.monitor(), TcpAddress("127.0.0.1", world.port())
    after = [world.service(listen=TcpAddress("localhost", 0))]
    if takes_over:
        after.append(world.service("new", address))
    for _ in range(6 * BATCH):
        world.sockets.append(socket.create_connection((address.host, address.port), HANG_SECONDS))
    with patch("monconn.turns.WORK_SECONDS", 1e-9):  # one step in each
        moved, seen = world.supervisor.apply([before], after), [0]
        while not moved.called:
            seen.append(monitor.totals().opened)
            await deferLater(world.reactor, 0)
        await moved
    seen.append(monitor.totals().opened)
    assert seen[-1] == 6 * BATCH
    # One step, and one batch that the reactor had been told of.
    assert max(after - before for before, after in pairwise(seen)) <= 2 * BATCH


@pytest_twisted.ensureDeferred
async def test_those_who_wait_at_a_paused_service_are_served_by_its_stop(world: World) -> None:
    service = world.service(wait_timeout=HANG_SECONDS)
    await world.supervisor.apply((), [service])
    monitor = world.monitor()
    monitor.pause()
    waiting = socket.create_connection(("127.0.0.1", world.port()), HANG_SECONDS)
    world.sockets.append(waiting)
    await world.supervisor.apply([service], ())
    assert (monitor.state, len(monitor)) == ("stopping", 1)
    await deferToThread(world.backends[b"A"].serve)
    assert await deferToThread(waiting.recv, 1) == b"A"


@pytest_twisted.ensureDeferred
async def test_a_paused_service_that_is_changed_stays_paused(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    monitor = world.monitor()
    monitor.pause()
    other = world.service(listen=EndpointAddress("tcp:0:interface=127.0.0.1:backlog=9"))
    await world.supervisor.apply([service], [other])
    waiting = socket.create_connection(("127.0.0.1", world.port()), HANG_SECONDS)
    world.sockets.append(waiting)
    await deferLater(world.reactor, 0.1)
    assert (monitor.state, len(monitor)) == ("paused", 0)
    monitor.resume()
    await deferToThread(world.backends[b"A"].serve)
    assert await deferToThread(waiting.recv, 1) == b"A"


@pytest_twisted.ensureDeferred
async def test_monitors_are_retained_after_a_stop_and_reused_by_a_start(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    world.leave(await world.connect())
    monitor = world.monitor()
    await world.supervisor.stop()
    assert world.monitor() is monitor
    await world.supervisor.apply((), [service])
    await world.connect()
    assert world.monitor() is monitor
    assert monitor.totals().opened == 2


@pytest_twisted.ensureDeferred
async def test_what_is_applied_behind_a_stop_starts_nothing(world: World) -> None:
    service = world.service(wait_timeout=0.2)
    await world.supervisor.apply((), [service])
    await world.connect()
    port = world.port()
    stopped = world.supervisor.stop()
    with pytest.raises(ListenError, match="the services are stopping"):
        await world.supervisor.apply((), [service])
    await stopped
    assert not listens(port)
    await world.supervisor.apply((), [service])
    assert world.supervisor.services == (service,)


@pytest_twisted.ensureDeferred
async def test_a_service_that_returns_while_it_drains_continues(world: World) -> None:
    service = world.service(wait_timeout=0.2)
    await world.supervisor.apply((), [service])
    await world.connect()
    monitor = world.monitor()
    await world.supervisor.apply([service], ())
    drained = world.supervisor.drained()
    await world.supervisor.apply((), [service])
    await drained  # nothing drains any more
    await world.connect()
    await deferLater(world.reactor, 0.3)
    assert world.monitor() is monitor
    assert (len(monitor), monitor.totals().opened) == (2, 2)


@pytest_twisted.ensureDeferred
async def test_deleting_the_monitor_of_a_draining_service_is_harmless(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    client, monitor = await world.connect(), world.monitor()
    await world.supervisor.apply([service], ())
    world.registry.delete("web")
    successor = world.registry.new("web")
    with pytest.raises(DuplicateService):
        await world.supervisor.apply((), [service])
    world.leave(client)
    await world.supervisor.drained()
    assert list(world.registry) == [successor]
    assert len(monitor) == 0


# -- changes that apply to live connections


@pytest_twisted.ensureDeferred
async def test_nothing_has_changed(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    changes = await world.supervisor.apply([service], [service])
    assert not changes
    assert changes.describe() == "nothing changed"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("before", [0, 3600])  # switched on, and shortened
async def test_max_idle_applies_to_live_connections(world: World, before: float) -> None:
    service = world.service(max_idle=before, write_timeout=0)
    await world.supervisor.apply((), [service])
    await world.connect()
    monitor = world.monitor()
    shorter = service.changed(max_idle=0.2)
    changes = await world.supervisor.apply([service], [shorter])
    assert changes == Changes(changed={"web": ("max_idle",)})
    assert changes.describe() == "changed web (max_idle)"
    (record,) = monitor.connections()
    await world.until(lambda: record.reason)
    assert record.reason == "idle_timeout"


@pytest_twisted.ensureDeferred
async def test_a_limit_that_was_switched_off_no_longer_applies(world: World) -> None:
    service = world.service(max_idle=0.3)
    await world.supervisor.apply((), [service])
    await world.connect()
    await world.supervisor.apply([service], [service.changed(max_idle=0)])
    await deferLater(world.reactor, 0.6)
    assert len(world.monitor()) == 1


@pytest_twisted.ensureDeferred
async def test_connections_of_a_newly_blocked_network_end(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    client, monitor = await world.connect(), world.monitor()
    monitor.block("192.0.2.1")
    await world.supervisor.apply([service], [service.changed(ip_blacklist=["127.0.0.0/8"])])
    (record,) = monitor.connections()
    assert record.reason == "blocked"
    assert await deferToThread(client.recv, 1) == b""
    assert list(map(str, monitor.blocks("operator"))) == ["192.0.2.1/32"]


@pytest_twisted.ensureDeferred
async def test_clients_that_wait_are_let_in_when_the_limit_rises(world: World) -> None:
    service = world.service(conn_limit=1)
    await world.supervisor.apply((), [service])
    await world.connect()
    waiting = world.connect()
    connecting = Deferred.fromCoroutine(waiting)
    await deferLater(world.reactor, 0.1)
    assert len(world.monitor()) == 1
    await world.supervisor.apply([service], [service.changed(conn_limit=2)])
    await connecting
    assert len(world.monitor()) == 2


@pytest_twisted.ensureDeferred
async def test_bytes_are_dumped_once_that_is_switched_on(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    monitor = world.monitor()
    await world.supervisor.apply([service], [service.changed(print_bytes=True)])
    assert monitor.watched
    await world.supervisor.apply([service], [service])
    assert not monitor.watched


# -- changes that apply to new clients


@pytest_twisted.ensureDeferred
async def test_another_backend_applies_to_new_clients(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    before, port = await world.connect(), world.port()
    other = world.service(backend=world.backends[b"B"].address)
    changes = await world.supervisor.apply([service], [other])
    assert changes == Changes(changed={"web": ("backend",)})
    await world.connect(backend=b"B")
    first, second = world.monitor().connections()
    assert [first.backend, second.backend] == [str(service.backend), str(other.backend)]
    assert world.port() == port
    world.backends[b"A"].clients[0].sendall(b"still there")
    received = await deferToThread(before.recv, 11, socket.MSG_WAITALL)
    assert received == b"still there"


def has_keepalive_timer(client: socket.socket) -> bool:
    """Whether the other side of a client's connection has keepalive, as /proc shows it."""
    server, us = (
        f"0100007F:{sock[1]:04X}" for sock in (client.getpeername(), client.getsockname())
    )
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == [server, us]:
            return fields[5].startswith("02:")  # timer_active, 02 for keepalive (proc_net_tcp)
    raise AssertionError("no such connection")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("keepalive", [True, False])
async def test_keepalive_applies_to_new_and_to_live_clients(world: World, keepalive: bool) -> None:
    service = world.service(keepalive=not keepalive)
    await world.supervisor.apply((), [service])
    live = await world.connect()
    await world.supervisor.apply([service], [service.changed(keepalive=keepalive)])
    assert has_keepalive_timer(live) == keepalive
    assert has_keepalive_timer(await world.connect()) == keepalive
    sock = world.supervisor._running["web"].port._sock  # type: ignore[attr-defined]
    assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == keepalive


@pytest_twisted.ensureDeferred
async def test_each_side_has_its_own_keepalive(world: World) -> None:
    def times(sock: socket.socket) -> Keepalive | None:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return None
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        return Keepalive(*(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names))

    one, two, three = Keepalive(77, 7, 2), Keepalive(88, 8, 3), Keepalive(99, 9, 4)
    service = world.service(keepalive=Sides(client=one, backend=two))
    await world.supervisor.apply((), [service])
    await world.connect()
    (relay,) = cast(Any, world.monitor().live.by_id.values())
    assert times(relay.client._sock) == one  # from the listener, before the first check
    changed = service.changed(keepalive=Sides(client=False, backend=three))
    await world.supervisor.apply([service], [changed])
    assert (times(relay.client._sock), times(relay.backend._sock)) == (None, three)
    relay.check(world.monitor().clock.seconds())
    assert (times(relay.client._sock), times(relay.backend._sock)) == (None, three)


@pytest_twisted.ensureDeferred
async def test_another_listener_interrupts_no_connection(world: World, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    service, moved = world.service(), world.service(listen=UnixAddress(str(path)))
    await world.supervisor.apply((), [service])
    port, monitor = world.port(), world.monitor()
    await world.connect()
    assert await world.supervisor.apply([service], [moved]) == Changes(changed={"web": ("listen",)})
    assert not listens(port)
    assert path.is_socket()
    assert (world.monitor(), len(monitor), monitor.listen) == (monitor, 1, f"unix:{path}")
    await world.supervisor.apply([moved], [service])
    assert not path.exists()
    await world.connect()
    assert monitor.totals().opened == 2


@pytest_twisted.ensureDeferred
async def test_services_may_swap_their_ports(world: World) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [TcpAddress("127.0.0.1", each.getsockname()[1]) for each in (one, two)]
    before = [world.service("a", ports[0]), world.service("b", ports[1])]
    after = [world.service("a", ports[1]), world.service("b", ports[0])]
    await world.supervisor.apply((), before)
    await world.supervisor.apply(before, after)
    assert [world.port("a"), world.port("b")] == [ports[1].port, ports[0].port]
    await world.connect("a")
    assert (len(world.monitor("a")), len(world.monitor("b"))) == (1, 0)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("takes_over", [False, True])
async def test_who_has_connected_before_a_listener_moves_is_served(
    world: World, takes_over: bool
) -> None:
    """There is no turn of the reactor in which they could be accepted otherwise."""
    before = world.service()
    await world.supervisor.apply((), [before])
    address = TcpAddress("127.0.0.1", world.port())
    after = [world.service(listen=TcpAddress("localhost", 0))]
    if takes_over:
        after.append(world.service("new", address))
    queued = [socket.create_connection((address.host, address.port), 20) for _ in range(100)]
    world.sockets += queued
    await world.supervisor.apply([before], after)
    assert world.monitor().totals().opened == len(queued)
    assert not takes_over or not world.monitor("new").totals().opened


@pytest_twisted.ensureDeferred
async def test_a_new_name_takes_over_the_port(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    renamed = world.service("www", TcpAddress("127.0.0.1", world.port()))
    changes = await world.supervisor.apply([service], [renamed])
    assert changes == Changes(started=("www",), stopped=("web",))
    assert changes.describe() == "started www; stopped web"
    assert world.registry.names() == ["www"]
    await world.connect("www")


# -- all or nothing


@pytest_twisted.ensureDeferred
async def test_if_a_port_is_not_available_nothing_changes(world: World, tmp_path: Path) -> None:
    service, gone = world.service(), world.service("gone")
    await world.supervisor.apply((), [service, gone])
    before = {name: world.port(name) for name in world.registry.names()}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TcpAddress("127.0.0.1", taken.getsockname()[1])
        new = [
            service.changed(conn_limit=1),
            world.service("first", UnixAddress(str(tmp_path / "first.sock"))),
            world.service("second", address),
        ]
        with pytest.raises(ListenError, match=r"cannot listen on 127.*: address already in use"):
            await world.supervisor.apply([service, gone], new)
    assert world.supervisor.services == (service, gone)
    assert {name: world.port(name) for name in world.registry.names()} == before
    assert not (tmp_path / "first.sock").exists()
    assert not world.monitor().rules.conn_limit
    await world.connect("web")
    await world.connect("gone")
    assert not world.failures


@pytest_twisted.ensureDeferred
async def test_a_listener_that_could_not_be_opened_again_is_with_the_next_change(
    world: World,
) -> None:
    await world.supervisor.apply((), [world.service()])
    address = TcpAddress("127.0.0.1", world.port())
    before = world.service(listen=address)
    await world.supervisor.apply(world.supervisor.services, [before])
    port = world.supervisor._running["web"].port
    close, thieves = port.close, []

    def close_and_lose_the_address() -> Deferred[Any]:
        closed = close()
        thieves.append(socket.create_server((address.host, address.port)))
        return closed

    with (
        patch.object(port, "close", close_and_lose_the_address),
        pytest.raises(ListenError, match="already in use"),
    ):
        await world.supervisor.apply([before], [world.service("www", address)])
    for thief in thieves:
        thief.close()
    assert not listens(address.port)
    changes = await world.supervisor.apply([before], [before])
    assert changes == Changes(changed={"web": ("listen",)})
    await world.connect()
    assert not await world.supervisor.apply([before], [before])


@pytest_twisted.ensureDeferred
async def test_whoever_stops_waiting_for_a_change_does_not_stop_it(world: World) -> None:
    service = world.service(listen=EndpointAddress("tcp:0:interface=127.0.0.1"))
    await world.supervisor.apply((), [service])
    port = int(world.monitor().listen.split(":")[1])
    stopping = world.supervisor.apply([service], ())  # Twisted's port takes a turn to close
    assert not stopping.called
    stopping.cancel()
    with pytest.raises(CancelledError):
        await stopping
    await world.until(lambda: not listens(port))
    assert world.supervisor.services == ()
    await world.supervisor.apply((), [world.service()])
    await world.connect()


@pytest_twisted.ensureDeferred
async def test_a_permanent_listen_error_closes_no_other_listener(
    world: World, tmp_path: Path
) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    sock = world.supervisor._running["web"].port
    nowhere = world.service("no", EndpointAddress("ssl:0:privateKey=/no/such/file:backlog=5"))
    with pytest.raises(ListenError, match="no such file"):
        await world.supervisor.apply([service], [nowhere])
    assert world.supervisor._running["web"].port is sock


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("other", ["web", "new"])
async def test_an_invalid_backend_changes_nothing(world: World, other: str) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    wrong = world.service(other, backend=EndpointAddress("nonsense:1"))
    with pytest.raises(AddressError, match=f"^{other}: cannot use nonsense:1: Unknown endpoint"):
        await world.supervisor.apply([service], [wrong, world.service("third")])
    assert (world.supervisor.services, world.registry.names()) == ((service,), ["web"])
    await world.connect()


@pytest_twisted.ensureDeferred
async def test_services_that_lead_back_to_themselves_change_nothing(world: World) -> None:
    """Also through services that other code has applied, on ports that were any."""
    one = world.service("one")
    await world.supervisor.apply((), [one])
    back = TcpAddress("localhost", world.port("one"))
    itself = world.service("one", backend=back)
    with pytest.raises(AddressError, match=r"^one: forwards to its own listener, 127\.0\.0\.1:"):
        await world.supervisor.apply([one], [itself])
    unix = UnixAddress("/tmp/never")
    two = world.service("two", unix, backend=back)
    three = world.service("one", backend=unix)
    with pytest.raises(AddressError, match=r"leads back to its own listener \((one|two) → "):
        await world.supervisor.apply([one], [three, two])
    assert world.supervisor.services == (one,)
    await world.supervisor.apply((), [world.service("two", backend=back)])
    with pytest.raises(AddressError, match=r"leads back to its own listener"):
        await world.supervisor.apply(
            [one], [world.service("one", backend=TcpAddress("", world.port("two")))]
        )
    assert [each.name for each in world.supervisor.services] == ["one", "two"]


@pytest_twisted.ensureDeferred
async def test_proxy_headers_are_refused_in_python_too(world: World) -> None:
    with pytest.raises(AddressError, match="would record, limit and block the load balancer"):
        await world.supervisor.apply((), [world.service("web", EndpointAddress("haproxy:tcp:0"))])
    assert world.supervisor.services == ()


@pytest_twisted.ensureDeferred
async def test_listeners_are_known_as_long_as_they_listen(world: World, tmp_path: Path) -> None:
    listening = world.supervisor._paths.loops.listening
    before = dict(listening)
    services = (
        world.service("tcp"),
        world.service("unix", UnixAddress(str(tmp_path / "front"))),
        world.service("endpoint", EndpointAddress("tcp:0:interface=127.0.0.1:backlog=9")),
        world.service("path", EndpointAddress(f"unix:{tmp_path / 'other'}:lockfile=0")),
    )
    await world.supervisor.apply((), services)
    ports = {world.port("tcp"), int(world.monitor("endpoint").listen.split(":")[1])}
    known = {*ports, str(tmp_path / "front"), str(tmp_path / "other")}
    assert set(listening) - set(before) == known
    await world.supervisor.apply(services, ())
    assert dict(listening) == before


@pytest_twisted.ensureDeferred
async def test_names_are_checked_first(world: World) -> None:
    service = world.service()
    await world.supervisor.apply((), [service])
    world.registry.new("other")
    with pytest.raises(UnknownService, match='no service named "ssh" runs'):
        await world.supervisor.apply([world.service("ssh")], ())
    for wrong in ([service], [world.service("other")], [world.service("x")] * 2):
        with pytest.raises(DuplicateService, match="exists already"):
            await world.supervisor.apply((), wrong)
    address = UnixAddress("/tmp/x")
    with pytest.raises(ListenError, match=r'^b: cannot listen on unix:/tmp/x: the service "a"'):
        await world.supervisor.apply((), [world.service("a", address), world.service("b", address)])
    assert world.supervisor.services == (service,)


@pytest_twisted.ensureDeferred
async def test_services_of_others_are_left_alone(world: World) -> None:
    one, two = world.service("one"), world.service("two")
    await world.supervisor.apply((), [one])
    await world.supervisor.apply((), [two])
    await world.supervisor.apply([two], ())
    assert world.supervisor.services == (one,)


@pytest_twisted.ensureDeferred
async def test_changes_come_one_after_the_other(world: World) -> None:
    service = world.service()
    applied = [
        world.supervisor.apply((), [service]),
        world.supervisor.apply([service], [service.changed(conn_limit=5)]),
        world.supervisor.apply([service], ()),
    ]
    results = [await each for each in applied]
    assert results == [
        Changes(started=("web",)),
        Changes(changed={"web": ("conn_limit",)}),
        Changes(stopped=("web",)),
    ]


# -- trying again


def running_reactor() -> MemoryReactorClock:
    reactor = MemoryReactorClock()
    reactor.running = True
    return reactor


IN_USE = CannotListenError("any", 443, OSError(98, "Address already in use"))


@pytest.fixture
def endpoint() -> Iterator[Mock]:
    made = Mock(spec=["listen"])
    with patch("monconn.run.ports.serverFromString", return_value=made):
        yield made


def foreign(**settings: Any) -> ServiceConfig:
    return ServiceConfig("web", EndpointAddress("ssl:443:backlog=5"), ANY).changed(**settings)


def open_port(number: int = 443) -> Mock:
    return Mock(**{"getHost.return_value": IPv4Address("TCP", "0.0.0.0", number)})


def test_while_the_reactor_runs_tries_are_made_by_timers(endpoint: Mock) -> None:
    endpoint.listen.side_effect = [fail(IN_USE), fail(IN_USE), succeed(open_port())]
    clock = Clock()
    supervisor = Supervisor(running_reactor(), clock=clock)
    with (
        patch("monconn.run.supervisor.PAUSES_SECONDS", (0.5, 1.0)),
        patch("monconn.run.supervisor.time.sleep") as sleep,
    ):
        applying = supervisor.apply((), [foreign()])
        clock.pump([0.5, 0.9])
        assert (endpoint.listen.call_count, applying.called) == (2, False)
        clock.advance(0.2)
    assert applying.result == Changes(started=("web",))
    sleep.assert_not_called()


def test_while_the_reactor_runs_a_slow_endpoint_is_waited_for(endpoint: Mock) -> None:
    listening: Deferred[Any] = Deferred()
    endpoint.listen.return_value = listening
    supervisor = Supervisor(running_reactor(), clock=Clock())
    applying = supervisor.apply((), [foreign()])
    assert not applying.called
    assert supervisor.registry.names() == []
    listening.errback(OSError(99, "Too late"))
    with pytest.raises(ListenError, match=r"^cannot listen on ssl:443:backlog=5: too late$"):
        applying.result.raiseException()  # type: ignore[attr-defined]
    applying.addErrback(lambda _: None)
    assert supervisor.services == ()


def test_an_endpoint_takes_another_backend_and_other_limits(endpoint: Mock) -> None:
    port = open_port()
    endpoint.listen.return_value = succeed(port)
    supervisor = Supervisor(running_reactor(), clock=Clock())
    service = foreign()
    supervisor.apply((), [service])
    changed = ServiceConfig("web", service.listen, TcpAddress("10.0.0.1", 1)).changed(conn_limit=3)
    applying = supervisor.apply([service], [changed])
    assert applying.result == Changes(changed={"web": ("backend", "conn_limit")})
    monitor = supervisor.registry.get("web")
    assert (monitor.backend, monitor.rules.conn_limit) == ("10.0.0.1:1", 3)
    assert monitor.rules.when_full == "refuse"
    port.stopListening.assert_not_called()


def test_an_endpoint_that_was_closed_before_it_listens_is_closed_then(endpoint: Mock) -> None:
    listening: Deferred[Any] = Deferred()
    endpoint.listen.return_value = listening
    supervisor = Supervisor(MemoryReactorClock(), clock=Clock())
    assert supervisor.apply((), [foreign()]).called
    supervisor.stop()
    port = open_port()
    listening.callback(port)
    port.stopListening.assert_called_once_with()


# -- names to listen on


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue[Any]]:
    """Answers, or errors, for ``front.test``, whose look-up hangs without any."""
    answers: Queue[Any] = Queue()
    usual = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "front.test":
            return usual(host, port, *args, **kwargs)
        answer = answers.get(timeout=HANG_SECONDS)
        if isinstance(answer, BaseException):
            raise answer
        return usual(answer, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers
    for _ in range(2):  # those that hang still
        answers.put(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))


@pytest_twisted.ensureDeferred
async def test_a_name_to_listen_on_holds_up_nobody(world: World, name_server: Queue[Any]) -> None:
    services = [world.service()]
    await world.supervisor.apply((), services)
    applying = world.supervisor.apply(
        services, [*services, world.service("named", listen=TcpAddress("front.test", 0))]
    )
    await world.connect()  # while the name server hangs
    assert not applying.called
    name_server.put("127.0.0.1")
    assert (await applying).started == ("named",)
    await world.connect("named")
    assert world.monitor("named").listen == f"front.test:{world.port('named')}"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "service not known"),
        (UnicodeError("label too long"), "label too long"),
        (None, "the name was not resolved within 0.01 seconds"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_name_to_listen_on_that_is_not_resolved(
    world: World,
    name_server: Queue[Any],
    answer: Any,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver, "LISTEN_SECONDS", 10.0 if answer else 0.01)
    monkeypatch.setattr("monconn.run.supervisor.PAUSES_SECONDS", ())
    address = TcpAddress("front.test", 80)
    if answer:
        name_server.put(answer)
    with pytest.raises(ListenError, match=problem) as running:
        await world.supervisor.apply((), [world.service(listen=address)])
    assert str(running.value).startswith("cannot listen on front.test:80: ")
    if answer:
        name_server.put(answer)
    with pytest.raises(ListenError, match=problem):  # as before the reactor runs
        await deferToThread(open_listener, address)
    with pytest.raises(ListenError, match="would hold up every connection"):
        open_listener(address)
