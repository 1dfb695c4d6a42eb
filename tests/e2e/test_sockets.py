"""The files of UNIX sockets, between several processes."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from monconn.faces.control.client import Client
from monconn.unixsocket import is_listening

from .programs import Monconn, connect, until, write_config

Launch = Callable[..., Monconn]


def config(folder: Path, echo_port: int, **service: object) -> Path:
    """One service on a UNIX socket, one on a port, and the control port."""
    folder.mkdir(exist_ok=True)
    backend = f"127.0.0.1:{echo_port}"
    services: dict[str, dict[str, object]] = {
        "path": {"listen": f"unix:{folder.parent / 'front'}", "backend": backend, **service},
        "port": {"listen": "127.0.0.1:0", "backend": backend},
    }
    path = write_config(folder, **services)
    control = {"control": {"listen": f"unix:{folder.parent / 'control'}"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | control))
    return path


def test_of_two_starts_over_a_stale_socket_one_runs(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "front"))
    path = config(tmp_path / "a", echo_port)
    both = [launch("monconn", "-c", path, folder=tmp_path / "a") for _ in range(2)]
    until(lambda: any(each.program.process.poll() is not None for each in both))
    (loser,) = [each for each in both if each.program.process.poll() is not None]
    (winner,) = [each for each in both if each is not loser]
    assert loser.status() == 1
    pid = winner.program.process.pid
    loser.program.err.wait_for(
        rf"(front|control): address already in use by process {pid} \("
        rf"|state: .* in use by process {pid} \(monconn\): stop that first"
    )
    winner.log.wait_for("path: listening on")
    assert is_listening(tmp_path / "front")
    assert winner.stop() == 0
    assert not (tmp_path / "front").exists()


def test_a_restart_while_the_old_one_drains_says_who_has_the_control_port(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    old = launch("monconn", "-c", config(tmp_path / "a", echo_port), folder=tmp_path / "a")
    with connect(old.port("port")) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        old.send(signal.SIGTERM)
        old.log.wait_for("waiting for live connections: port 1")
        new = launch("monconn", "-c", config(tmp_path / "b", echo_port), folder=tmp_path / "b")
        assert new.status() == 1
        new.program.err.wait_for(
            rf"cannot listen on unix:{tmp_path}/control: address already in use"
            rf" by process {old.program.process.pid} \(monconn\): stop that first, or choose"
        )
    assert old.status() == 0


def test_sockets_that_a_cleaner_removes_come_back(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    (tmp_path / "quick.py").write_text(
        "import monconn, monconn.net.listen\nmonconn.net.listen.FILE_CHECK_SECONDS = 0.05\n"
        "Observer = monconn.Observer\n"
    )
    path = config(tmp_path / "a", echo_port)
    observers = {"observers": [{"use": "quick:Observer"}]}
    path.write_text(json.dumps(json.loads(path.read_text()) | observers))
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    monconn.log.wait_for("path: listening on")
    for name in ("front", "control"):
        (tmp_path / name).unlink()
    until(lambda: is_listening(tmp_path / "front") and is_listening(tmp_path / "control"))
    assert (tmp_path / "control").stat().st_mode & 0o777 == 0o600
    with Client(str(tmp_path / "control")) as server:
        assert len(list(server.rows("ListServices"))) == 2
    assert monconn.stop() == 0
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_socket()) == []
