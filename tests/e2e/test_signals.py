"""What signals do, and that nothing that hangs keeps the program from ending."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import monconn_command

from .programs import SCRIPTS, Monconn, Program, connect, write_config

Launch = Callable[..., Monconn]

# Runs as Python starts, before any of our code.
SITE = "sitecustomize.py"


def config(folder: Path, echo_port: int, **rest: object) -> Path:
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}
    path = write_config(folder, web=service)
    path.write_text(json.dumps(json.loads(path.read_text()) | rest))
    return path


def with_code(folder: Path, **modules: str) -> dict[str, str]:
    """Variables with which a program finds modules of this text."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def relays(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"


# -- signals that do not stop it


@pytest.mark.parametrize(
    ("how", "rest"),
    [
        ("monconn", {}),
        ("monconn", {"json_log": {"path": "log.json"}}),
        ("twistd -n", {}),
        ("twistd", {"json_log": {"path": "log.json"}}),
        ("twist", {}),
    ],
)
def test_others_than_those_to_stop_never_end_it(
    launch: Launch, echo_port: int, tmp_path: Path, how: str, rest: Mapping[str, object]
) -> None:
    monconn = launch(how, "-c", config(tmp_path, echo_port, **rest))
    port = monconn.port()
    monconn.send(signal.SIGHUP)
    # First, as twistd begins a new file for its log at SIGUSR1.
    monconn.log.wait_for("nothing is different .* for signal SIGHUP")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        monconn.send(number)
        relays(port)
    if how == "twistd":
        assert list(tmp_path.glob("twistd.log.*"))
    assert monconn.stop() == 0


def test_a_hangup_stops_it_if_its_terminal_is_gone(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()

    def use_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    monconn = launch("monconn", "-c", config(tmp_path, echo_port), before=use_terminal)
    os.close(theirs)
    relays(monconn.port())
    os.close(ours)  # the kernel sends SIGHUP to the session's leader
    assert monconn.status() == 0
    monconn.log.wait_for("for signal SIGHUP")


def test_a_hangup_that_nohup_has_ignored_is_ignored(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()

    def use_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    monconn = launch("monconn", "-c", config(tmp_path, echo_port), before=use_terminal)
    os.close(theirs)
    port = monconn.port()
    os.close(ours)
    monconn.send(signal.SIGHUP)
    relays(port)
    assert monconn.stop() == 0


# -- while it starts


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGINT, "monconn"),
        (signal.SIGINT, "twisted.internet"),
        (signal.SIGTERM, "monconn.run.application"),
    ],
)
def test_a_signal_while_python_imports_is_one_line(
    start: Callable[..., Program], tmp_path: Path, number: int, module: str
) -> None:
    code = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Interrupting())
"""
    env = with_code(tmp_path, sitecustomize=code)
    monconn = start(SCRIPTS / "monconn", "-p", "127.0.0.1:0=127.0.0.1:9", env=env)
    assert monconn.status() == -number
    name = signal.Signals(number).name
    monconn.err.wait_for("start$")
    assert str(monconn.err) == f"monconn: ended by {name} during its start\n"
    assert str(monconn.out) == ""


def test_the_command_imports_little_before_it_handles_signals() -> None:
    code = """
import os, signal, sys
before = set(sys.modules)
import monconn_command
print(*set(sys.modules) - before)
"""
    # -S: modules that a site imports for purposes of its own would hide that we do.
    paths = {"PYTHONPATH": str(Path(monconn_command.__file__).parent)}
    ran = subprocess.run([sys.executable, "-S", "-c", code], env=paths, stdout=subprocess.PIPE)
    assert ran.stdout.split() == [b"monconn_command"]


def test_signals_of_tools_while_python_imports_do_not_end_it(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    code = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name in ("monconn", "monconn.run.application"):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(os.getpid(), number)
sys.meta_path.insert(0, Interrupting())
"""
    env = with_code(tmp_path, sitecustomize=code)
    monconn = launch("monconn", "-c", config(tmp_path, echo_port), env=env)
    relays(monconn.port())
    assert monconn.stop() == 0


def test_a_signal_before_the_reactor_runs_says_what_a_second_does(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    code = """
import os, signal
import monconn
class Observer(monconn.Observer):
    def __init__(self):
        import twisted.internet.reactor
        twisted.internet.reactor.callWhenRunning(lambda: None)
from monconn.run.supervisor import Supervisor
apply = Supervisor.apply
def interrupted(self, *args):
    os.kill(os.getpid(), signal.SIGTERM)
    return apply(self, *args)
Supervisor.apply = interrupted
"""
    env = with_code(tmp_path, interrupting=code)
    path = config(tmp_path, echo_port, observers=[{"use": "interrupting:Observer"}])
    monconn = launch("monconn", "-c", path, env=env)
    assert monconn.status() == 0
    line = "SIGTERM: stops as soon as it has started; a second signal ends it at once"
    assert str(monconn.program.err) == f"monconn: {line}\n"


# -- while it stops


IMPATIENT = """
import monconn, monconn.run.application
monconn.run.application.PROGRESS_SECONDS = 0.1
Observer = monconn.Observer
"""


def test_a_stop_says_what_it_waits_for(launch: Launch, echo_port: int, tmp_path: Path) -> None:
    env = with_code(tmp_path, impatient=IMPATIENT)
    path = config(tmp_path, echo_port, observers=[{"use": "impatient:Observer"}])
    monconn = launch("monconn", "-c", path, env=env)
    with connect(monconn.port()) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        monconn.send(signal.SIGTERM)
        monconn.log.wait_for(
            r"waiting for live connections: web 1 \(at most 1m00s\);"
            " a second signal ends them at once$"
        )
        monconn.log.wait_for(
            r" still waiting for live connections: web 1 \(at most (1m00s|59\.\ds)\)$"
        )
        monconn.send(signal.SIGTERM)
        assert monconn.status() == 0


HANGING = """
import threading, time
import monconn
from monconn.run import signals

signals.LAST_SECONDS = signals.EXIT_SECONDS = 0.2
forever = threading.Event().wait

class InThread(monconn.Observer):
    def __init__(self):
        threading.Thread(target=forever).start()  # no daemon: Python waits for it at its end

class AtExit(monconn.Observer):
    def __init__(self):
        import atexit
        atexit.register(forever)

class InPool(monconn.Observer):
    def __init__(self):
        from twisted.internet import reactor, threads
        reactor.callWhenRunning(threads.deferToThread, forever)

class InExecutor(monconn.Observer):
    def __init__(self):
        from concurrent.futures import ThreadPoolExecutor
        self.executor = ThreadPoolExecutor()
        self.executor.submit(forever)

class InLoop(monconn.Observer):
    def opened(self, record):
        print("hangs", flush=True)
        while True:  # Python runs handlers between calls of C, and may miss one as a call begins
            time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("how", "observer"),
    [
        ("monconn", "InThread"),
        ("monconn", "AtExit"),
        ("monconn", "InPool"),
        ("twistd -n", "InPool"),
        ("twistd -n", "InExecutor"),
        ("twist", "InThread"),
    ],
)
def test_a_thread_that_hangs_does_not_delay_the_end(
    launch: Launch, echo_port: int, tmp_path: Path, how: str, observer: str
) -> None:
    path = config(tmp_path, echo_port, observers=[{"use": f"hanging:{observer}"}])
    monconn = launch(how, "-c", path, env=with_code(tmp_path, hanging=HANGING))
    relays(monconn.port())
    assert monconn.stop() == 0


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_a_second_signal_ends_it_even_if_the_loop_hangs(
    launch: Launch, echo_port: int, tmp_path: Path, how: str
) -> None:
    path = config(tmp_path, echo_port, observers=[{"use": "hanging:InLoop"}])
    monconn = launch(how, "-c", path, env=with_code(tmp_path, hanging=HANGING))
    with connect(monconn.port()):
        monconn.log.wait_for("hangs")
        monconn.send(signal.SIGTERM)
        monconn.send(signal.SIGINT)
        assert monconn.status() in (128 + signal.SIGINT, 128 + signal.SIGTERM)


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_a_name_that_is_never_resolved_does_not_delay_the_end(
    launch: Launch, tmp_path: Path, how: str
) -> None:
    code = """
import socket, threading
resolve = socket.getaddrinfo
def hang(host, *args, **kwargs):
    if "nowhere" in str(host):
        threading.Event().wait()
    return resolve(host, *args, **kwargs)
socket.getaddrinfo = hang
"""
    env = with_code(tmp_path, sitecustomize=code)
    # One is looked up by us, and one by Twisted, in the reactor's pool.
    path = write_config(
        tmp_path,
        plain={"listen": "127.0.0.1:0", "backend": "nowhere.test:80", "wait_timeout": 0},
        twisted={
            "listen": "127.0.0.1:0",
            "backend": "tcp:nowhere.test:80:timeout=600",
            "wait_timeout": 0,
        },
    )
    monconn = launch(how, "-c", path, env=env)
    with connect(monconn.port("plain")), connect(monconn.port("twisted")):
        monconn.send(signal.SIGTERM)
        assert monconn.status() == 0


def test_output_that_is_not_read_delays_no_failing_start(
    launch: Launch, echo_port: int, tmp_path: Path
) -> None:
    """Both streams are the same pipe, which is full."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, bytes(65536))
    except BlockingIOError:
        os.set_blocking(write_end, True)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        path = write_config(
            tmp_path, web={"listen": f"unix:{tmp_path / 'taken'}", "backend": "127.0.0.1:9"}
        )

        def use_pipe() -> None:
            os.dup2(write_end, 2)

        monconn = launch("monconn", "-c", path, stdout=write_end, before=use_pipe)
        assert monconn.status() == 1
    os.close(read_end)
    os.close(write_end)
