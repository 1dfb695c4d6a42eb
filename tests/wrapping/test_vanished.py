"""Peers of wrapped protocols that vanish without a word, in a network namespace of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import ClientFactory, Factory, Protocol

from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from monconn.policy.sides import Keepalive
from monconn.wrapping import MonitoringFactory
from tests.namespaces import Network

PATIENCE_SECONDS = 20.0
SECONDS = 3.0
BIG = bytes(1 << 24)

CABLE = 0

# Runs on the peers' machine: listens, connects to each port that it is given, and waits.
PEER = """
import socket, sys
host, ports = sys.argv[1], sys.argv[2:]
listener = socket.create_server(("", 7000))
connected = [socket.create_connection((host, int(port)), 10) for port in ports]
sys.stdin.read()
"""


class Quiet(Protocol):
    transport: Any


class World:
    def __init__(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.ports: list[Any] = []
        self.monitors: list[Monitor] = []
        self.factories: dict[Monitor, MonitoringFactory] = {}

    def factory(self, base: type[Factory], policy: Policy, is_client: bool) -> Any:
        monitor = Monitor("vanished", policy=policy)
        self.monitors.append(monitor)

        wrapped = base()
        wrapped.noisy = False
        wrapped.protocol = Quiet
        self.factories[monitor] = MonitoringFactory(monitor, wrapped, is_client=is_client)
        return self.factories[monitor]

    def listen(self, host: str, **settings: Any) -> Monitor:
        factory = self.factory(Factory, Policy.of(**settings), is_client=False)
        self.ports.append(self.reactor.listenTCP(0, factory, interface=host))
        return self.monitors[-1]

    def connect(self, host: str, **settings: Any) -> Monitor:
        factory = self.factory(ClientFactory, Policy.of(**settings), is_client=True)
        self.reactor.connectTCP(host, 7000, factory)
        return self.monitors[-1]

    def protocol(self, monitor: Monitor) -> Quiet:
        """That of a monitor's only connection."""
        (wrapper,) = self.factories[monitor].protocols
        wrapped: Quiet = wrapper.wrappedProtocol
        return wrapped

    async def until(self, condition: Callable[[], bool]) -> None:
        from twisted.internet import task

        give_up = self.reactor.seconds() + PATIENCE_SECONDS
        while not condition():
            assert self.reactor.seconds() < give_up, "it never came to be"
            await task.deferLater(self.reactor, 0.05)

    async def clear(self) -> None:
        for port in self.ports:
            await port.stopListening()
        for monitor in self.monitors:
            monitor.stop_now()
        await self.until(lambda: not any(map(len, self.monitors)))


@pytest_twisted.async_yield_fixture
async def world() -> Any:
    world = World()
    yield world
    await world.clear()


def ends(monitor: Monitor) -> tuple[str, ...]:
    """How its only connection has ended."""
    (record,) = monitor.closed_records
    how = record.client_end, record.backend_end, str(record.closed_by)
    return str(record.reason), *how, record.detail


@pytest.fixture
def peer(network: Network) -> Iterator[Callable[..., None]]:
    """Starts a program on the peers' machine, which connects to ports of ours."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*ports: int) -> None:
        processes.append(network.start_python(PEER, network.ours(CABLE), *map(str, ports)))

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_vanished_is_lost_whoever_ends(
    world: World, network: Network, peer: Callable[..., None]
) -> None:
    limit = {"unreachable_timeout": SECONDS, "keepalive": False}
    closed = world.listen(network.ours(CABLE), keepalive=False)
    aborted = world.listen(network.ours(CABLE), keepalive=False)
    limited = world.listen(network.ours(CABLE), keepalive=False, max_idle=SECONDS + 2)
    watched = world.listen(network.ours(CABLE), **limit)
    probed = world.listen(network.ours(CABLE), keepalive=Keepalive(idle=1, interval=1, count=2))
    peer(*(port.getHost().port for port in world.ports))
    await world.until(lambda: sum(map(len, world.monitors)) == len(world.ports))
    called = world.connect(network.theirs(CABLE), **limit)
    await world.until(lambda: len(called) == 1)
    network.cut(CABLE)
    for monitor in (closed, aborted, limited, watched, called):
        world.protocol(monitor).transport.write(b"are you there?")

    def unreachable_since(monitor: Monitor) -> float | None:
        (record,) = monitor.connections()
        monitor.measure(record.id)
        return record.client_unreachable

    # A protocol's own keepalive, such as MQTT's, takes longer to give up.
    await world.until(lambda: None not in map(unreachable_since, (closed, aborted)))
    world.protocol(closed).transport.loseConnection()
    world.protocol(aborted).transport.abortConnection()
    await world.until(lambda: not any(map(len, world.monitors)))
    lost = "client_lost", "timeout"
    assert ends(closed) == (*lost, "fin", "backend", "")
    assert ends(aborted)[:4] == (*lost, "reset", "backend")
    assert ends(limited) == (*lost, "none", "client", "idle_timeout")
    assert ends(watched) == (*lost, "none", "client", "unreachable_timeout")
    assert ends(probed) == (*lost, "none", "client", "")
    assert ends(called) == ("backend_lost", "none", "timeout", "backend", "unreachable_timeout")


@pytest_twisted.ensureDeferred
async def test_a_peer_that_reads_nothing_is_there(
    world: World, network: Network, peer: Callable[..., None]
) -> None:
    limit = {"unreachable_timeout": 1, "keepalive": Keepalive(idle=1, interval=1, count=2)}
    silent = world.listen(network.ours(CABLE), **limit)
    full = world.listen(network.ours(CABLE), **limit)
    ended = world.listen(network.ours(CABLE), **limit, half_close_timeout=4)
    peer(*(port.getHost().port for port in world.ports))
    await world.until(lambda: sum(map(len, world.monitors)) == len(world.ports))
    world.protocol(full).transport.write(BIG)
    world.protocol(ended).transport.loseWriteConnection()
    await world.until(lambda: not len(ended))  # which takes some probes
    assert ends(ended) == ("half_close_timeout", "none", "fin", "monconn", "")
    assert (len(silent), len(full)) == (1, 1)
    for monitor in (silent, full):
        (record,) = monitor.connections()
        monitor.measure(record.id)
        assert record.client_heard is not None
        assert record.client_unreachable is None


@pytest_twisted.ensureDeferred
async def test_without_half_close_timeout_a_peer_may_stay_after_our_end(
    world: World, network: Network, peer: Callable[..., None]
) -> None:
    monitor = world.listen(network.ours(CABLE))
    peer(*(port.getHost().port for port in world.ports))
    await world.until(lambda: len(monitor) == 1)
    world.protocol(monitor).transport.loseWriteConnection()
    (record,) = monitor.connections()
    assert record.backend_end == "fin"
    assert monitor.timeouts.next_deadline(record)[1] == "idle_timeout"
