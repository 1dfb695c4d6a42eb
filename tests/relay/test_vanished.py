"""Peers that vanish, in a network namespace: who is said to be lost, who ended, and by which limit.

Everything runs at the same time, each row at a service of its own. Several cables lead to the
machine of the peers; they are cut in different ways, but for one, which stays, for those that live
and must not be lost.
"""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import attrs
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
from tests.namespaces import Network

STAYING, VANISHING = 0, 1
"""Cables."""
CUTS = {
    VANISHING: ("sockets", "silence"),
    2: ("sockets", "their_link"),
    3: ("sockets", "our_link"),
    4: ("transports", "silence"),
}
"""By cable: the data path of the connections over it, and how it is cut."""
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


# -- a row at work


class Played:
    """A row's service, and the sockets of its two sides.

    :param network: where they are.
    :param paths: moves the bytes.
    :param vanishing: the cable that is cut.
    """

    def __init__(
        self,
        row: Row,
        network: Network,
        paths: DataPaths,
        reactor: Any,
        vanishing: int = VANISHING,
    ) -> None:
        self.row = row
        self.cut = CUTS[vanishing]
        self._network = network
        cables = {
            side: vanishing if row.vanishes == side else STAYING for side in ("client", "backend")
        }
        with network.among_the_peers():
            self._listening = socket.create_server((network.theirs(cables["backend"]), 0))
        self._listening.setblocking(False)
        backend = TcpAddress(*self._listening.getsockname())
        ours = TcpAddress(network.ours(cables["client"]), 0)
        sock = open_listener(ours)
        self.monitor = Monitor("test", policy=Policy.of(**OFF | row.policy))
        forwarder = Forwarder(self.monitor, paths.between(self.monitor, ours, backend))
        self._listener = Listener(sock, reactor, forwarder.accepted, self.monitor.room.must_wait)
        self._listener.resume()
        self._where = sock.getsockname()
        self.sockets: dict[str, socket.socket] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Connect the client: the kernel accepts it."""
        if "stops" in self.row.after:
            code = f"import socket; s = socket.create_connection({self._where}); input()"
            self._process = self._network.start_python(code)
            return
        with self._network.among_the_peers():
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


@pytest_twisted.ensureDeferred
async def test_who_has_vanished(network: Network) -> None:
    from twisted.internet import reactor

    data_paths = DataPaths(reactor, MonotonicClock())
    played: list[Played] = []
    try:
        with patch.object(timeouts, "BACKEND_ENDED_SECONDS", BACKEND_ENDED_SECONDS):
            for cable, (pipe, _) in CUTS.items():
                with patch.object(paths, "HAS_EPOLL", pipe == "sockets"):
                    played += [Played(row, network, data_paths, reactor, cable) for row in ROWS]
            for each in played:
                each.connect()
            for each in played:
                await until(each.is_connected)
                each.act(each.row.before)
            await pause(0.5)
            for each in played:
                if each.row.before.endswith("fills"):
                    each.act(each.row.before)  # again, as we have taken some by now
            for cable, (_, way) in CUTS.items():
                network.cut(cable, way)
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
                f"{each.cut}: {each.row}\n   was {each.outcome()}"
                for each in played
                if each.outcome() != each.row.expected
            ]
            assert not wrong, "\n".join(wrong)
    finally:
        for each in played:
            each.close()
        await until(lambda: not any(len(each.monitor) for each in played))
        data_paths.close()
