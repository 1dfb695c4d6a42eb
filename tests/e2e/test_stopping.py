"""How the services stop, under each launcher."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from monconn.faces.control.client import Client

from .programs import LAUNCHERS, Monconn, connect, is_refused, until, write_config

Launch = Callable[..., Monconn]


def service(echo_port: int, wait_timeout: float = 600) -> dict[str, object]:
    return {
        "listen": "127.0.0.1:0",
        "backend": f"127.0.0.1:{echo_port}",
        "wait_timeout": wait_timeout,
    }


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("monconn", signal.SIGTERM),
        ("monconn", signal.SIGINT),
        ("monconn", signal.SIGQUIT),
        ("twistd -n", signal.SIGINT),
        ("twistd", signal.SIGTERM),
        ("twist", signal.SIGQUIT),
        ("twist", signal.SIGTERM),
        ("twistd -y", signal.SIGTERM),
    ],
)
def test_ends_at_once_without_connections(
    launch: Launch, echo_port: int, tmp_path: Path, how: str, number: int
) -> None:
    monconn = launch(how, "-c", write_config(tmp_path, web=service(echo_port)))
    port = monconn.port("web")
    monconn.send(number)
    assert monconn.status() == 0
    assert is_refused(port)


@pytest.mark.parametrize("how", LAUNCHERS)
def test_waits_for_the_last_connection_and_no_longer(
    launch: Launch, echo_port: int, tmp_path: Path, how: str
) -> None:
    monconn = launch(how, "-c", write_config(tmp_path, web=service(echo_port)))
    port = monconn.port("web")
    with connect(port) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        monconn.send(signal.SIGTERM)
        until(lambda: is_refused(port))
        client.sendall(b"while stopping")
        assert client.recv(100) == b"while stopping"
    assert monconn.status() == 0
    monconn.log.wait_for(r"web: 127\.0\.0\.1:\d+ client_closed after .*, up 20 B, down 20 B$")


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_ends_what_never_ends_by_itself(
    launch: Launch, echo_port: int, tmp_path: Path, how: str
) -> None:
    monconn = launch(how, "-c", write_config(tmp_path, web=service(echo_port, wait_timeout=0.2)))
    with connect(monconn.port("web")) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        monconn.send(signal.SIGTERM)
        assert client.recv(100) == b""
        assert monconn.status() == 0
    monconn.log.wait_for(r"web: 127\.0\.0\.1:\d+ stopping after .*, up 5 B, down 5 B$")


@pytest.mark.parametrize("how", LAUNCHERS)
def test_a_second_signal_stops_at_once(
    launch: Launch, echo_port: int, tmp_path: Path, how: str
) -> None:
    monconn = launch(how, "-c", write_config(tmp_path, web=service(echo_port)))
    port = monconn.port("web")
    with connect(port) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        monconn.send(signal.SIGINT)
        until(lambda: is_refused(port))
        monconn.send(signal.SIGINT)
        assert monconn.status() == 0
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    monconn.log.wait_for(r"web: 127\.0\.0\.1:\d+ stopping after")


def test_the_control_port_answers_while_a_stop_waits(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    path = tmp_path / "control"
    config = write_config(tmp_path, web=service(echo_port))
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"control": {"listen": f"unix:{path}"}})
    )
    monconn = launch("monconn", "-c", config)
    port = monconn.port("web")
    with connect(port) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        monconn.send(signal.SIGTERM)
        until(lambda: is_refused(port))
        with Client(str(path)) as server:
            (row,) = server.rows("ListConnections")
            assert server.call("CloseConnections", ids=[row["id"]])["closed"] == "1"
        assert client.recv(100) == b""
    assert monconn.status() == 0
    assert not path.exists()
