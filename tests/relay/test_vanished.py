"""Peers that vanish, in a network namespace: who is said to be lost, who ended, and by which limit.

Everything runs at the same time, each row at a service of its own. Two cables lead to the machine
of the peers; one of them is cut, the other stays, for those that live and must not be lost.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.model.reasons import Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.net.listen import Listener, open_listener
from monconn.policy import timeouts
from monconn.policy.policy import Policy
from monconn.policy.sides import Keepalive
from monconn.relay import paths
from monconn.relay.forwarder import Forwarder
from monconn.relay.paths import DataPaths

STAYING, VANISHING = 0, 1
"""The cables."""
THEIR_MAC = "02:00:00:00:00:02"
CLONE_NEWNET = 0x40000000
OFF: dict[str, Any] = {"keepalive": False, "max_idle": 0, "write_timeout": 0}
PROBING = Keepalive(idle=1, interval=1, count=9)
SOON = Keepalive(idle=1, interval=1, count=3)
BACKEND_ENDED_SECONDS = 5.0
LATER_SECONDS = 8.0
"""After the cut: by then, one look at the kernel's counters shows that a peer has vanished."""
PATIENCE_SECONDS = 20.0


@attrs.frozen
class Row:
    """A connection, what its sides do before and after one of them vanishes, and how it ends."""

    vanishes: Side | None
    before: str
    after: str
    policy: dict[str, Any]
    expected: tuple[str, ...] | None
    """Reason, closed by, client's and backend's end, code, detail; None if it goes on living."""


def lost(closed_by: str, client_end: str, backend_end: str, code: str, limit: str) -> Any:
    side = "client" if client_end == "timeout" else "backend"
    return (f"{side}_lost", closed_by, client_end, backend_end, code, limit)


ROWS = [
    # The broker misses its device, and ends in order.
    Row(
        "client",
        "",
        "backend ends",
        {},
        lost("backend", "timeout", "fin", "CL", "half_close_timeout"),
    ),
    Row(
        "client",
        "",
        "backend ends",
        {"half_close_timeout": 0, "max_idle": 8},
        lost("backend", "timeout", "fin", "CL", "idle_timeout"),
    ),
    Row(
        "client",
        "",
        "backend sends, backend ends",
        {"unreachable_timeout": 3.5},
        lost("backend", "timeout", "fin", "CL", "unreachable_timeout"),
    ),
    # The last answer reaches nobody.
    Row(
        "client",
        "client ends",
        "backend sends, backend ends",
        {},
        lost("client", "timeout", "fin", "CL", "half_close_timeout"),
    ),
    Row(
        "client",
        "client ends",
        "backend sends",
        {"write_timeout": 8},
        lost("client", "timeout", "none", "CD", "write_timeout"),
    ),
    Row(
        "client",
        "client ends",
        "backend sends",
        {"half_close_timeout": 8},
        lost("client", "timeout", "none", "CD", "half_close_timeout"),
    ),
    # A subscriber only receives.
    Row(
        "client",
        "",
        "backend sends",
        {"unreachable_timeout": 3.5},
        lost("client", "timeout", "none", "CD", "unreachable_timeout"),
    ),
    Row(
        "client",
        "",
        "backend sends",
        {"write_timeout": 8},
        lost("client", "timeout", "none", "CD", "write_timeout"),
    ),
    Row(
        "client",
        "backend fills",
        "",
        {"unreachable_timeout": 3.5},
        lost("client", "timeout", "none", "CD", "unreachable_timeout"),
    ),
    # Nobody sends: only keepalive can tell.
    Row(
        "client",
        "",
        "",
        {"keepalive": PROBING, "max_idle": 8},
        lost("client", "timeout", "none", "CD", "idle_timeout"),
    ),
    Row(
        "client",
        "",
        "",
        {"keepalive": PROBING, "read_timeout": 8},
        lost("client", "timeout", "none", "CD", "read_timeout"),
    ),
    Row(
        "client",
        "",
        "",
        {"keepalive": PROBING, "max_lifetime": 8},
        lost("client", "timeout", "none", "CD", "lifetime"),
    ),
    Row(
        "client",
        "",
        "",
        {"keepalive": PROBING, "unreachable_timeout": 3.5},
        lost("client", "timeout", "none", "CD", "unreachable_timeout"),
    ),
    Row(
        "client", "", "", {"keepalive": SOON}, lost("client", "timeout", "none", "CD", "ETIMEDOUT")
    ),
    Row(
        "client",
        "",
        "",
        {"max_idle": 5, "unreachable_timeout": 3.5},
        ("idle_timeout", "monconn", "none", "none", "cD", ""),
    ),
    Row(
        "client",
        "",
        "",
        {"read_timeout": 5},
        ("read_timeout", "monconn", "timeout", "none", "cD", ""),
    ),
    # The backend gives up with a reset.
    Row(
        "client",
        "",
        "backend sends, backend resets later",
        {},
        lost("backend", "timeout", "reset", "CD", "ECONNRESET"),
    ),
    # The backend vanishes.
    Row(
        "backend",
        "",
        "client sends",
        {"unreachable_timeout": 3.5},
        lost("backend", "none", "timeout", "SD", "unreachable_timeout"),
    ),
    Row(
        "backend",
        "",
        "client ends",
        {"unreachable_timeout": 3.5},
        lost("client", "fin", "timeout", "SD", "unreachable_timeout"),
    ),
    Row(
        "backend",
        "",
        "client sends, client ends",
        {"max_idle": 8},
        lost("client", "fin", "timeout", "SD", "idle_timeout"),
    ),
    Row(
        "backend",
        "",
        "client ends",
        {"half_close_timeout": 8},
        lost("client", "fin", "timeout", "SD", "half_close_timeout"),
    ),
    Row(
        "backend",
        "backend ends",
        "client sends",
        {},
        lost("backend", "none", "timeout", "SD", "half_close_timeout"),
    ),
    Row(
        "backend",
        "",
        "",
        {"keepalive": SOON},
        lost("backend", "none", "timeout", "SD", "ETIMEDOUT"),
    ),
    Row(
        "backend",
        "",
        "client sends, client resets later",
        {},
        lost("client", "reset", "timeout", "SD", "ECONNRESET"),
    ),
    Row("backend", "", "", {"max_idle": 5}, ("idle_timeout", "monconn", "none", "none", "cD", "")),
    # Those that live.
    Row(
        None,
        "",
        "backend ends",
        {},
        ("half_close_timeout", "monconn", "none", "fin", "cL", ""),
    ),
    Row(None, "client ends", "", {}, None),
    Row(None, "backend fills", "", {"unreachable_timeout": 2}, None),
    Row(None, "backend fills, backend ends", "", {"unreachable_timeout": 2}, None),
    Row(None, "client fills", "", {"unreachable_timeout": 2}, None),
    Row(None, "", "", {"keepalive": PROBING, "unreachable_timeout": 2}, None),
    Row(None, "", "client stops, backend sends", {"unreachable_timeout": 2}, None),
]


# -- the network


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def inside(namespace: int, outside: int) -> Iterator[None]:
    """Have this thread make its sockets in a namespace."""
    enter(namespace)
    try:
        yield
    finally:
        enter(outside)


@attrs.frozen
class Network:
    """Our machine and that of the peers, with two cables between them."""

    name: str
    ours: int
    theirs: int

    def cut(self, way: str) -> None:
        """Nothing answers at the other end of one cable, from now on."""
        if way == "silence":
            # Else the address could not be resolved any more, which the kernel knows.
            theirs = f"{_address(VANISHING, 'peer')} lladdr {THEIR_MAC} dev ours{VANISHING}"
            run(f"ip -n {self.name}m neigh replace {theirs}")
            run(f"ip -n {self.name}p addr flush dev peer{VANISHING}")
        elif way == "their_link":
            run(f"ip -n {self.name}p link set peer{VANISHING} down")
        else:
            run(f"ip -n {self.name}m link set ours{VANISHING} down")


def _address(cable: int, end: str) -> str:
    return f"10.99.{cable}.{1 if end == 'ours' else 2}"


@pytest.fixture
def network() -> Iterator[Network]:
    """Skips the test where namespaces are not permitted."""
    name = f"monconn{os.getpid()}"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    made: list[int] = [home]
    try:
        try:
            run(f"ip netns add {name}m")
            run(f"ip netns add {name}p")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this needs root and network namespaces: {error}")
        for cable in (STAYING, VANISHING):
            run(f"ip -n {name}m link add ours{cable} type veth peer name peer{cable} netns {name}p")
            run(f"ip -n {name}p link set peer{cable} address {THEIR_MAC}")
            for machine, end in (("m", "ours"), ("p", "peer")):
                run(f"ip -n {name}{machine} addr add {_address(cable, end)}/24 dev {end}{cable}")
                run(f"ip -n {name}{machine} link set {end}{cable} up")
        made += [os.open(f"/run/netns/{name}{each}", os.O_RDONLY) for each in "mp"]
        with inside(made[1], home):
            yield Network(name, made[1], made[2])
    finally:
        for each in "mp":
            subprocess.run(["ip", "netns", "del", f"{name}{each}"], capture_output=True)
        for descriptor in made:
            os.close(descriptor)


# -- a row at work


class Played:
    """A row's service, and the sockets of its two sides.

    :param network: where they are.
    :param paths: moves the bytes.
    """

    def __init__(self, row: Row, network: Network, paths: DataPaths, reactor: Any) -> None:
        self.row = row
        self._network = network
        cables = {
            side: VANISHING if row.vanishes == side else STAYING for side in ("client", "backend")
        }
        with inside(network.theirs, network.ours):
            self._listening = socket.create_server((_address(cables["backend"], "peer"), 0))
        self._listening.setblocking(False)
        backend = TcpAddress(*self._listening.getsockname())
        ours = TcpAddress(_address(cables["client"], "ours"), 0)
        sock = open_listener(ours)
        self.monitor = Monitor("test", policy=Policy.of(**OFF | row.policy))
        forwarder = Forwarder(self.monitor, paths.between(self.monitor, ours, backend))
        self._listener = Listener(sock, reactor, forwarder.accepted, self.monitor.must_wait)
        self._listener.resume()
        self._where = sock.getsockname()
        self.sockets: dict[str, socket.socket] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Connect the client: the kernel accepts it."""
        if "stops" in self.row.after:
            code = f"import socket; s = socket.create_connection({self._where}); input()"
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self._network.name}p", sys.executable, "-c", code],
                stdin=subprocess.PIPE,
            )
            return
        with inside(self._network.theirs, self._network.ours):
            client = socket.create_connection(self._where, 5)
        client.setblocking(False)
        self.sockets["client"] = client

    def is_connected(self) -> bool:
        """Accept the connection to the backend, once it is there."""
        if "backend" not in self.sockets:
            try:
                self.sockets["backend"] = self._listening.accept()[0]
            except BlockingIOError:
                return False
            self.sockets["backend"].setblocking(False)
        return bool(self.monitor.connections() and self.monitor.connections()[0].connected)

    def act(self, acts: str, *, later: bool = False) -> None:
        """Have the sides do what a row says; what is done later, or the rest."""
        for act in filter(None, acts.split(", ")):
            side, verb, *when = act.split()
            if bool(when) == later:
                _VERBS[verb](self, side)

    def ends(self, side: str) -> None:
        self.sockets[side].shutdown(socket.SHUT_WR)

    def sends(self, side: str) -> None:
        self.sockets[side].send(b"are you there?")

    def fills(self, side: str) -> None:
        """Send until nothing is taken any more, as the other side does not read."""
        give_up = time.monotonic() + 1.0
        while time.monotonic() < give_up:
            try:
                self.sockets[side].send(bytes(1 << 16))
            except BlockingIOError:
                return

    def resets(self, side: str) -> None:
        sock = self.sockets[side]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def stops(self, side: str) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def outcome(self) -> tuple[str | None, ...] | None:
        """How it has ended, as a row expects it; None while it lives."""
        if not self.monitor.closed_records:
            return None
        record: ConnectionRecord = self.monitor.closed_records[0]
        ends = (record.client_end, record.backend_end)
        return (record.reason, record.closed_by, *ends, record.code, record.detail)

    def close(self) -> None:
        self.monitor.stop_now()
        self._listener.close()
        self._listening.close()
        for sock in self.sockets.values():
            sock.close()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


_VERBS: dict[str, Callable[[Played, str], None]] = {
    "ends": Played.ends,
    "sends": Played.sends,
    "fills": Played.fills,
    "resets": Played.resets,
    "stops": Played.stops,
}


async def pause(seconds: float) -> None:
    from twisted.internet import reactor

    await deferLater(reactor, seconds, lambda: None)


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        await pause(0.02)


@pytest.mark.parametrize(
    ("pipe", "way"),
    [
        ("sockets", "silence"),
        ("sockets", "their_link"),
        ("sockets", "our_link"),
        ("transports", "silence"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_who_has_vanished(pipe: str, way: str, network: Network) -> None:
    from twisted.internet import reactor

    data_paths = DataPaths(reactor, MonotonicClock())
    played: list[Played] = []
    try:
        with (
            patch.object(timeouts, "BACKEND_ENDED_SECONDS", BACKEND_ENDED_SECONDS),
            patch.object(paths, "HAS_EPOLL", pipe == "sockets"),
        ):
            for row in ROWS:
                played.append(Played(row, network, data_paths, reactor))
                played[-1].connect()
            for each in played:
                await until(each.is_connected)
                each.act(each.row.before)
            await pause(0.5)
            for each in played:
                if each.row.before.endswith("fills"):
                    each.act(each.row.before)  # again, as we have taken some by now
            network.cut(way)
            for each in played:
                each.act(each.row.after)
            await pause(LATER_SECONDS)
            for each in played:
                each.act(each.row.after, later=True)
            ending = [each for each in played if each.row.expected is not None]
            give_up = time.monotonic() + PATIENCE_SECONDS
            while not all(each.outcome() for each in ending) and time.monotonic() < give_up:
                await pause(0.05)
            wrong = [
                (each.row, each.outcome()) for each in played if each.outcome() != each.row.expected
            ]
            assert not wrong, "\n".join(f"{row}\n   was {was}" for row, was in wrong)
    finally:
        for each in played:
            each.close()
        await until(lambda: not any(len(each.monitor) for each in played))
        data_paths.close()
