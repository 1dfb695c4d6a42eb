"""Failing starts: their messages, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .programs import LAUNCHERS, Monconn, connect, is_refused, until, write_config

Launch = Callable[..., Monconn]

# A plugin of Twisted's with an endpoint that fails only once the reactor runs.
LATE_PLUGIN = """
from twisted.internet import defer, endpoints, interfaces, task
from twisted.plugin import IPlugin
from zope.interface import implementer

@implementer(IPlugin, interfaces.IStreamServerEndpointStringParser)
class LateParser:
    prefix = "late"

    def parseStreamServer(self, reactor, *args):
        return LateEndpoint(reactor)

@implementer(interfaces.IStreamServerEndpoint)
class LateEndpoint:
    def __init__(self, reactor):
        self._reactor = reactor

    def listen(self, factory):
        return task.deferLater(self._reactor, 0.1, self._fail)

    def _fail(self):
        raise OSError(99, "Too late")

late = LateParser()
"""


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A listener on a port that monconn would like to have."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def one_too_many(folder: Path, echo_port: int, taken: socket.socket) -> Path:
    """Three services, of which the last cannot have its port."""
    backend = f"127.0.0.1:{echo_port}"
    return write_config(
        folder,
        path={"listen": f"unix:{folder / 'monconn.sock'}", "backend": backend},
        free={"listen": "127.0.0.1:0", "backend": backend},
        taken={"listen": f"127.0.0.1:{taken.getsockname()[1]}", "backend": backend},
    )


def test_a_taken_port_ends_it_with_one_line(
    launch: Launch, echo_port: int, tmp_path: Path, taken: socket.socket
) -> None:
    folders = {how: tmp_path / how.replace(" ", "") for how in LAUNCHERS}
    for folder in folders.values():
        folder.mkdir()
    # All at once, because each waits between its tries.
    launched = {
        how: launch(how, "-c", one_too_many(folder, echo_port, taken), folder=folder)
        for how, folder in folders.items()
    }
    holder = f"process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
    problem = (
        f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}: address already in use"
        f" by {holder}: stop that first, or choose another port"
    )
    for how, monconn in launched.items():
        assert monconn.status() == 1
        if how == "twistd":  # which has its own message, and the first 100 characters of ours
            assert problem.partition(" by ")[0] in str(monconn.program.err)
        else:
            assert str(monconn.program.err) == f"monconn: {problem}\n"
        if how.startswith("twistd"):  # for those who keep the log only
            assert str(monconn.log).count(problem) == 1
        assert "Traceback" not in str(monconn.log)
        assert not (folders[how] / "monconn.sock").exists()
        assert not (folders[how] / "twistd.pid").exists()


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_a_port_that_becomes_free_is_taken_at_the_next_try(
    launch: Launch, echo_port: int, tmp_path: Path, taken: socket.socket, how: str
) -> None:
    monconn = launch(how, "-c", one_too_many(tmp_path, echo_port, taken))
    until((tmp_path / "monconn.sock").exists, "the first service")
    port = taken.getsockname()[1]
    taken.close()
    assert monconn.port("taken") == port
    with connect(port) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert monconn.stop() == 0


@pytest.mark.parametrize("how", ["monconn", "twistd -n", "twist"])
def test_a_signal_during_the_start_stops_it(
    launch: Launch, echo_port: int, tmp_path: Path, taken: socket.socket, how: str
) -> None:
    monconn = launch(how, "-c", one_too_many(tmp_path, echo_port, taken))
    until((tmp_path / "monconn.sock").exists, "the first service")
    monconn.send(signal.SIGTERM)
    taken.close()
    assert monconn.status() == 0
    assert not (tmp_path / "monconn.sock").exists()
    assert is_refused(monconn.port("free"))


@pytest.mark.parametrize("how", LAUNCHERS)
def test_a_wrong_configuration_ends_it_with_all_problems(
    launch: Launch, tmp_path: Path, how: str
) -> None:
    config = write_config(tmp_path, web={"listn": ":80", "backend": "127.0.0.1:1", "max_idle": -1})
    monconn = launch(how, "-c", config)
    assert monconn.status() == (2 if how == "monconn" else 1)
    problems = str(monconn.program.err).splitlines()
    for key in "listn", "listen", "max_idle":
        assert [line for line in problems if line.startswith(f"{config}:1: services.web.{key}: ")]
    assert len(problems) == 3
    assert not re.search("Traceback|Usage|Options", str(monconn.program.out))


@pytest.mark.parametrize("how", ["monconn", "twistd -n", "twist"])
def test_an_endpoint_that_fails_late_ends_it(
    launch: Launch, echo_port: int, tmp_path: Path, how: str
) -> None:
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "late.py").write_text(LATE_PLUGIN)
    backend = f"127.0.0.1:{echo_port}"
    config = write_config(
        tmp_path,
        web={"listen": "127.0.0.1:0", "backend": backend},
        late={"listen": "late:now", "backend": backend},
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monconn = launch(how, "-c", config, env={"PYTHONPATH": path})
    assert monconn.status() == 1
    assert str(monconn.program.err) == "monconn: cannot listen on late:now: too late\n"
    assert is_refused(monconn.port("web"))
    assert "late: listening" not in str(monconn.log)
    assert "Traceback" not in str(monconn.log)
