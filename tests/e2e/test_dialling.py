"""Whose fault it is that a backend is not reached, and who the client is: in network namespaces.

Each test has all ports and addresses to itself, so that fixed ones are no danger.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monconn.faces.control.client import Client
from tests.namespaces import Namespace, ip, set_ephemeral_ports

from .programs import HANG_SECONDS, Backend, Monconn, echo, until

FRONT, BACK = 7001, 7002
PATHS = {"sockets": "127.0.0.1:{port}", "transports": "tcp:127.0.0.1:{port}:timeout=5"}
"""A backend's address on either data path."""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


class Ours:
    """A running monconn, queried by its control port."""

    def __init__(
        self, launch: Callable[..., Monconn], folder: Path, services: dict[str, Any]
    ) -> None:
        control = f"unix:{folder / 'control'}"
        config = {"services": services, "control": {"listen": control}}
        (folder / "monconn.yaml").write_text(json.dumps(config))
        self.monconn = launch("monconn", "-c", folder / "monconn.yaml")
        for name in services:
            self.monconn.log.wait_for(f"{name}: listening on")
        self._client = Client(control)

    def closed(self, count: int) -> list[dict[str, Any]]:
        """The connections that have ended, the oldest first, once there are so many."""

        def rows() -> list[dict[str, Any]] | None:
            rows = [dict(row) for row in self._client.rows("ListConnections", closed=True)]
            return rows if len(rows) >= count else None

        found = until(rows, f"{count} connections that have ended")
        assert found is not None
        return sorted(found, key=lambda row: int(row["id"]))

    def live(self) -> int:
        return len(list(self._client.rows("ListConnections")))

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def ours(launch: Callable[..., Monconn], tmp_path: Path) -> Iterator[Callable[..., Ours]]:
    """Starts monconn with some services."""
    started: list[Ours] = []

    def start(**services: Any) -> Ours:
        started.append(Ours(launch, tmp_path, services))
        return started[-1]

    yield start
    for each in started:
        each.close()


def client(source_port: int = 0, port: int = FRONT) -> socket.socket:
    """A client; with a port of its own it takes none from those who connect."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(HANG_SECONDS)
    sock.bind(("127.0.0.1", source_port))
    sock.connect(("127.0.0.1", port))
    return sock


def received(sock: socket.socket) -> bytes:
    """What a client gets up to its end, whatever that is; it has said something before."""
    with sock:
        try:
            sock.sendall(b"secret")
            return sock.recv(100)
        except ConnectionError:
            return b""


def add_link(name: str) -> None:
    """Add an interface that is up."""
    ip(f"link add {name} type veth peer name {name}p")
    for each in (name, f"{name}p"):
        ip(f"link set {each} up")


@pytest.mark.parametrize("path", PATHS)
def test_a_connection_to_itself_is_a_refused_one(
    namespace: Namespace, ours: Callable[..., Ours], path: str
) -> None:
    """The kernel gives the backend's very port to our socket, and connects it to itself."""

    def play() -> None:
        set_ephemeral_ports(BACK, BACK + 1)
        monconn = ours(
            web={"listen": f"127.0.0.1:{FRONT}", "backend": PATHS[path].format(port=BACK)}
        )
        assert [received(client(8000 + number)) for number in range(4)] == [b""] * 4
        rows = monconn.closed(4)
        assert {(row["reason"], row["code"], row["down"]) for row in rows} == {
            ("backend_refused", "SC", 0)
        }
        socket.create_server(("127.0.0.1", BACK)).close()  # its port is free for the backend

    namespace.run(play)


@pytest.mark.parametrize("path", PATHS)
def test_no_port_is_left_to_connect_from(
    namespace: Namespace, ours: Callable[..., Ours], serve: Callable[..., Backend], path: str
) -> None:
    def play() -> None:
        set_ephemeral_ports(9000, 9001)
        serve(echo, ports=[BACK])
        monconn = ours(
            web={"listen": f"127.0.0.1:{FRONT}", "backend": PATHS[path].format(port=BACK)}
        )
        first, second = client(8000), client(8001)
        for each in (first, second):
            each.sendall(b"x")
            assert each.recv(1) == b"x"
        assert [received(client(8002 + number)) for number in range(3)] == [b""] * 3
        rows = monconn.closed(3)
        assert {(row["reason"], row["code"], row["closed_by"]) for row in rows} == {
            ("error", "RC", "monconn")
        }
        for each in (first, second):  # without a port in TIME_WAIT
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        monconn.closed(5)
        assert received(client(8010)) == b"secret"

    namespace.run(play)


# -- loops that only addresses show

OWN = "192.0.2.1"
LOOPS: dict[str, dict[str, tuple[str, str]]] = {
    "itself": {"a": (":7001", f"{OWN}:7001")},
    "two": {"a": (":7001", f"{OWN}:7002"), "b": (":7002", f"{OWN}:7001")},
    "transports": {"a": (":7001", f"tcp:{OWN}:7001:timeout=9")},
    "two of transports": {
        "a": ("tcp:7001:backlog=50", f"tcp:{OWN}:7002:timeout=9"),
        "b": ("tcp:7002:backlog=50", f"tcp:{OWN}:7001:timeout=9"),
    },
    "both": {
        "a": (":7001", f"{OWN}:7002"),
        "b": ("tcp:7002:backlog=50", f"tcp:{OWN}:7003:timeout=9"),
        "c": (":7003", f"{OWN}:7001"),
    },
    "through a path": {"a": (":7001", "unix:web"), "b": ("unix:web", f"{OWN}:7001")},
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_ended_with_an_error(
    namespace: Namespace, ours: Callable[..., Ours], loop: dict[str, tuple[str, str]]
) -> None:
    def play() -> None:
        ip(f"address add {OWN}/32 dev lo")
        monconn = ours(
            **{name: {"listen": ends[0], "backend": ends[1]} for name, ends in loop.items()}
        )
        waiting = client()
        assert waiting.recv(1) == b"", "it hears of the end, and not of a reset when it is overdue"
        waiting.close()
        assert received(client()) == b""
        until(lambda: not monconn.live(), "the end of all")
        rows = monconn.closed(2 * (len(loop) + 1))
        assert len(rows) <= 2 * (3 * len(loop) + 2), "few connections were made"
        assert (rows[0]["reason"], rows[0]["closed_by"]) == ("error", "monconn")
        names = list(loop)
        way = " → ".join([*names, names[0]])
        details = {row["detail"] for row in rows if row["reason"] == "error"}
        assert any(way in f"{detail} → " or way in detail for detail in details), details
        assert all("a loop of services: " in detail for detail in details)

    namespace.run(play)


def test_a_chain_that_ends_elsewhere_is_none(
    namespace: Namespace, ours: Callable[..., Ours], serve: Callable[..., Backend]
) -> None:
    def play() -> None:
        ip(f"address add {OWN}/32 dev lo")
        serve(echo, ports=[BACK + 7])
        monconn = ours(
            a={"listen": ":7001", "backend": f"{OWN}:7002"},
            b={"listen": ":7002", "backend": "unix:web"},
            c={"listen": "unix:web", "backend": "tcp:127.0.0.1:7003:timeout=9"},
            d={"listen": "tcp:7003:backlog=50", "backend": f"127.0.0.1:{BACK + 7}"},
        )
        clients = [client() for _ in range(20)]
        assert [received(each) for each in clients] == [b"secret"] * 20
        rows = monconn.closed(80)
        assert {row["reason"] for row in rows} == {"client_closed"}

    namespace.run(play)


# -- zones


def test_a_client_keeps_its_zone_and_rules_hold_on_all(
    namespace: Namespace, ours: Callable[..., Ours], serve: Callable[..., Backend]
) -> None:
    def play() -> None:
        add_link("link7")
        for number in (1, 2):
            ip(f"address add fe80::{number}/64 dev link7 nodad")
        serve(echo, ports=[BACK])
        monconn = ours(
            web={
                "listen": f"[fe80::1%link7]:{FRONT}",
                "backend": f"127.0.0.1:{BACK}",
                "ip_blacklist": ["fe80::2"],
            },
            endpoint={
                "listen": rf"tcp:{FRONT + 10}:interface=fe80\:\:1%link7",
                "backend": f"127.0.0.1:{BACK}",
                "ip_blacklist": ["fe80::2/127"],
            },
        )
        scope = socket.if_nametoindex("link7")
        for port in (FRONT, FRONT + 10):
            for number, answer in ((1, b"secret"), (2, b"")):
                sock = socket.socket(socket.AF_INET6)
                sock.settimeout(HANG_SECONDS)
                sock.bind((f"fe80::{number}", 0, 0, scope))
                sock.connect(("fe80::1", port, 0, scope))
                assert received(sock) == answer
        rows = monconn.closed(2)
        assert [row["client_ip"] for row in rows] == ["fe80::1%link7"] * 2
        assert all(row["client"].startswith("[fe80::1%link7]:") for row in rows)

    namespace.run(play)


def test_a_backends_zone_may_come_later(
    namespace: Namespace, ours: Callable[..., Ours], serve: Callable[..., Backend]
) -> None:
    def play() -> None:
        serve(echo, host="::", ports=[BACK])
        monconn = ours(web={"listen": f"127.0.0.1:{FRONT}", "backend": f"[fe80::1%later7]:{BACK}"})
        assert received(client()) == b""
        for number in range(2):  # each time with another index
            add_link("later7")
            ip("address add fe80::1/64 dev later7 nodad")
            assert received(client()) == b"secret"
            monconn.closed(2 + number)  # else an end may still have to be acknowledged
            ip("link delete later7")
        assert received(client()) == b""
        rows = monconn.closed(4)
        assert [row["reason"] for row in rows] == [
            "backend_unreachable",
            "client_closed",
            "client_closed",
            "backend_unreachable",
        ]
        assert rows[0]["detail"] == "there is no interface later7"

    namespace.run(play)


def test_a_listener_without_its_zone_is_said_in_one_line(
    namespace: Namespace, launch: Callable[..., Monconn]
) -> None:
    def play() -> None:
        monconn = launch("monconn", "-p", f"[fe80::1%nosuch7]:{FRONT}=127.0.0.1:{BACK}")
        assert monconn.status() == 1
        error = str(monconn.program.err)
        assert error.strip().endswith(": there is no interface nosuch7")
        assert len(error.strip().splitlines()) == 1

    namespace.run(play)
