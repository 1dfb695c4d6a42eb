"""What other programs know of the same connection: Community IDs, by the real command."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monconn.model.community_id import community_id

from .programs import HANG_SECONDS, SCRIPTS, Monconn, connect, receive, until


def address(name: Any) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def by_the_wire(client: socket.socket) -> str:
    """What whoever sees the packets of a client makes of them."""
    return community_id(address(client.getsockname()), address(client.getpeername()))


class World:
    """monconn with a control port and a JSON log."""

    def __init__(
        self,
        launch: Callable[..., Monconn],
        folder: Path,
        listen: str,
        port: int,
        **json_log: object,
    ) -> None:
        self.log_path = folder / "log.json"
        self.control = f"unix:{folder / 'control'}"
        config = {
            "services": {"web": {"listen": listen, "backend": f"127.0.0.1:{port}"}},
            "control": {"listen": self.control},
            "json_log": {"path": str(self.log_path), **json_log},
        }
        (folder / "monconn.yaml").write_text(json.dumps(config))
        self.monconn = launch("monconn", "-c", folder / "monconn.yaml")

    def ask(self, *arguments: str) -> Any:
        ran = subprocess.run(
            [SCRIPTS / "monconn", *arguments, "--json", "--control", self.control],
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=True,
        )
        return json.loads(ran.stdout)

    def logged(self, count: int) -> list[dict[str, Any]]:
        """The lines of the JSON log, once there are so many."""

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for line in self.log_path.read_text().splitlines()]

        until(lambda: len(lines()) >= count)
        return lines()


@pytest.mark.parametrize(
    ("listen", "host", "is_single"),
    [
        ("127.0.0.1:0", "127.0.0.1", True),
        ("[::1]:0", "::1", True),
        (":0", "127.0.0.1", False),  # an IPv4 client of a socket for both
        (":0", "::1", False),
        ("tcp:0:interface=127.0.0.1", "127.0.0.1", True),
    ],
)
def test_a_shown_connection_has_its_community_ids(
    launch: Callable[..., Monconn],
    echo_port: int,
    tmp_path: Path,
    listen: str,
    host: str,
    is_single: bool,
) -> None:
    world = World(launch, tmp_path, listen, echo_port)
    ids = []
    for is_shown in (True, False):
        with connect(world.monconn.port(), host) as client:
            client.sendall(b"x")
            assert receive(client, 1) == b"x"
            (live,) = world.ask("list")
            assert "community_id" not in live
            ids.append((live["uid"], by_the_wire(client), is_shown))
            if is_shown:
                shown = world.ask("show", live["uid"])
                assert shown["community_id"] == by_the_wire(client)
                assert shown["backend_community_id"].startswith("1:")
    until(lambda: len(world.ask("list", "--closed")) == 2)
    for uid, expected, is_shown in ids:
        shown = world.ask("show", uid)
        assert shown.get("community_id") == (expected if is_shown or is_single else None)
        assert ("backend_community_id" in shown) == is_shown
    assert world.monconn.stop() == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", ":0"])
@pytest.mark.parametrize("format", ["native", "ecs"])
def test_lines_have_community_ids_if_they_are_wanted(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path, listen: str, format: str
) -> None:
    wanted = {"format": "ecs"} if format == "ecs" else {"community_id": True}
    world = World(launch, tmp_path, listen, echo_port, at_open=True, **wanted)
    with connect(world.monconn.port()) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        expected = by_the_wire(client)
    world.ask("block", "127.0.0.1")
    with connect(world.monconn.port()) as refused:
        assert refused.recv(1) == b""
        then = by_the_wire(refused)
    opened, closed, _, refusal = world.logged(4)
    if format == "native":
        assert [each["community_id"] for each in (opened, closed, refusal)] == [
            *(expected, expected, then)
        ]
        assert closed["backend_community_id"].startswith("1:")
        assert "backend_community_id" not in refusal
    else:
        assert [each["network"]["community_id"] for each in (opened, closed, refusal)] == [
            *(expected, expected, then)
        ]
        local = closed["monconn"]["backend"]["local"]
        assert closed["monconn"]["backend"]["community_id"] == community_id(
            address((local["ip"], local["port"])), f"127.0.0.1:{echo_port}"
        )
    assert world.monconn.stop() == 0


def test_lines_have_none_otherwise(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path
) -> None:
    world = World(launch, tmp_path, "127.0.0.1:0", echo_port)
    with connect(world.monconn.port()) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
    (closed,) = world.logged(1)
    assert not [key for key in closed if "community" in key]
    assert closed["uid"].endswith(f"-{closed['id']}")
    assert world.monconn.stop() == 0
