"""``monconn check`` beside real starts and running monconns."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .programs import HANG_SECONDS, SCRIPTS, Monconn, until

Launch = Callable[..., Monconn]


def check(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "monconn"), "check", *options, str(file)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env={**os.environ, "XDG_RUNTIME_DIR": str(file.parent)},
    )


@pytest.mark.parametrize("how", ["monconn", "twistd -y"])
def test_what_a_monconn_with_this_file_has_is_no_error(
    launch: Launch, tmp_path: Path, how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "monconn.yaml"
    file.write_text(
        f"services:\n  web:\n    listen: 127.0.0.1:{port}\n    backend: 127.0.0.1:9\n"
        f"  unix:\n    listen: unix:{tmp_path}/web.sock\n    backend: 127.0.0.1:9\n"
        f"history:\n  path: {tmp_path}/history.db\n"
        f"control: false\n"
    )
    running = launch(how, "-c", "monconn.yaml" if how == "monconn" else file)
    running.port("web")
    until((tmp_path / "history.db.lock").exists, "the history")
    pid = running.program.process.pid
    done = check(file)
    taken = f"note: taken by monconn (process {pid}), which runs this file already"
    assert (done.returncode, done.stdout) == (0, f"{file} is valid: 2 services\n")
    assert done.stderr.splitlines() == [
        f"{file}: state: {taken}",
        f"{file}:3: services.web.listen: {taken}",
        f"{file}:6: services.unix.listen: {taken}",
        f"{file}:9: history.path: {taken}",
    ]
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text())
    done = check(other)
    assert (done.returncode, done.stdout) == (2, "")
    error = f"cannot listen on 127.0.0.1:{port}: address already in use by process {pid} ("
    assert done.stderr.startswith(f"{other}:3: services.web.listen: {error}")
    second = launch("monconn", "-c", other, folder=tmp_path)
    assert second.status() == 1
    assert str(second.program.err).startswith(f"monconn: {error}")
    assert running.stop() == 0


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_an_endpoint_that_is_taken(launch: Launch, tmp_path: Path, how: str) -> None:
    """Twisted listens there, and says less of what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "monconn.yaml"
        listen = f"tcp:{port}:interface=127.0.0.1:backlog=9"
        file.write_text(
            f"services: {{web: {{listen: '{listen}', backend: ':9'}}}}\ncontrol: false\n"
        )
        done = check(file)
        problem = f"cannot listen on {listen}: address already in use by process {os.getpid()} ("
        assert done.returncode == 2
        assert done.stderr.startswith(f"{file}:1: services.web.listen: {problem}")
        failing = launch(how, "-c", file)
        assert failing.status() == 1
        assert problem in str(failing.program.err)
        assert "Traceback" not in str(failing.log)
