"""Run all that a page of the documentation shows: ``python -m tests.run_page docs/tls.md``.

It runs as it is written, on a machine of its own: in namespaces that end with it, with the
documented addresses, ports, names and folders, backends at the addresses that the page forwards to,
and clients that are connected. A running monconn is there until the page starts one itself.

``--update`` then writes what the commands have printed into the page, in place of its samples.
"""

from __future__ import annotations

import argparse
import ast
import gc
import inspect
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from monconn.errors import MonconnError
from monconn.faces.cli.main import main as monconn_command
from monconn.faces.control.client import Client, find_server
from tests import ROOT
from tests.certificates import make_certificate
from tests.pages import Block, Command, blocks, commands

# What is not run, and why. Nothing else is left out.
NOT_RUN = {
    r"^(\S*/)?(pip|pipx|uv tool) install": "tests/test_packaging.py does, without network",
    r"^python3 -m venv|^ln -s /opt": "the same",
    r"^(sudo )?apt(-get)? install": "installs programs for the whole machine",
    r"^git clone": "there is no network",
    r"^(sudo )?systemctl (?!kill)|^journalctl": "no systemd runs; the unit itself is verified",
    r"^adduser|^install -d": "makes a user; the machine of a page has it",
    r"^man ": "tests/test_packaging.py reads the manual pages",
    r"\| wireshark ": "needs a screen; tests/sinks/test_pcapng.py has tshark read the same",
}
# What runs until it is interrupted. Those that serve end with the page, or with the next one.
SERVES = re.compile(
    r"(^|&& |\w=\S+ )(\S*/)?(monconn (-p|-c|-D|demo)|twistd|twist|python3 \w+\.py)\b"
)
FOLLOWS = re.compile(r"^(monconn (events|top|tap)|tail -F|curl -sN)")
TAPS = re.compile(r"^monconn tap ")
TAP_SECONDS = 7
"""For a sample of what a tap shows: as long as a device of the demo stays away."""
# What asks on the terminal before it does it; the answer is yes.
ASKS = re.compile(r"monconn forget (?!.*--(yes|dry-run|file))")
CHECKS = re.compile(r"monconn check")
# What is about blocks finds those that stand above it; for everything else they are lifted.
BLOCKS = re.compile(r"monconn (block|unblock|blocks|why|reload)\b")
# Neither a shell nor a new Python would add anything to these but their time.
IN_PROCESS = re.compile(r"monconn (?!shell)[^|&;<>()$`'\"\\*?\[\]{}!~\n#]*(#.*)?$")
MAKE = re.compile(r"^make\b")
# Pages whose Python needs more than names: the tests that run it.
PYTHON_RUN_BY = {
    "library.md": "tests/test_examples.py",
    "observers.md": "tests/test_examples.py and tests/e2e/test_observers.py",
    "tls.md": "tests/run/test_tls.py",
}

ADDRESSES = ("192.0.2.0/24", "198.51.100.0/24", "10.0.0.0/8")  # of documentation, and private
CLIENTS = ("192.0.2.7", "192.0.2.9", "10.1.2.3")
HOSTS = "\n127.0.0.1 localhost\n10.0.0.5 broker.example.org www.example.org example.org\n"
FOLDERS = ("/etc/monconn", "/var/lib/monconn", "/var/log/monconn", "/run/monconn", "/run/user")
HISTORY = "/var/lib/monconn/history.db"
PATIENCE_SECONDS = 30.0
COLUMNS = 80  # of the samples
ANSWER_SECONDS = 0.5
SHOWN_ID = 42
"""Of the connection that the pages show, close and explain."""
CONTROL = "MONCONN_CONTROL"
LASTING_ID = re.compile(rf"\b[0-9a-z]{{12}}-{SHOWN_ID}\b")
"""Of the same connection, in any run of monconn: that of ours takes its place."""

SERVER = """
services:
  web: {listen: "192.0.2.1:80", backend: "127.0.0.1:9"}
  mqtt: {listen: "192.0.2.1:1883", backend: "127.0.0.1:9"}
  ssh: {listen: "192.0.2.1:22", backend: "127.0.0.1:9"}
history: {path: /var/lib/monconn/history.db}
json_log: {path: /var/log/monconn/connections.json}
metrics: {listen: 127.0.0.1:9101}
http: {listen: 127.0.0.1:9180}
manhole: {listen: 127.0.0.1:2222, authorized_keys: ~/.ssh/authorized_keys}
"""


class PageError(Exception):
    """What a page shows does not work."""


# -- the machine


def on_machine(arguments: list[str]) -> list[str]:
    """The command that runs this program on a machine of its own."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *as_root, "--net", "--mount", "--pid", "--fork", "--kill-child"]
    return [*unshare, "--mount-proc", sys.executable, "-m", "tests.run_page", *arguments]


def make_machine(page: Path, home: Path) -> None:
    """Have the documented addresses, names and folders, and a home with keys."""

    def run(command: str) -> None:
        subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)

    run("ip link set lo up")
    for address in ADDRESSES:
        run(f"ip address add {address} dev lo")
    # Outside of our namespace nothing of this is seen.
    run(f"mount -t tmpfs tmpfs {home}")
    run(f"cp -a /etc {home}/etc && mount --bind {home}/etc /etc")
    for folder in ("/var/lib", "/var/log", "/run"):
        run(f"mount -t tmpfs -o mode=755 tmpfs {folder}")
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with open("/etc/hosts", "a", encoding="ascii") as hosts:
        hosts.write(HOSTS)
    passwd = Path("/etc/passwd")
    lines = passwd.read_text(encoding="utf-8", errors="replace").splitlines()
    ours = f"root:x:0:0:root:{home}:/bin/bash"  # ssh takes the home from here
    passwd.write_text("\n".join([ours, *(line for line in lines if line[:5] != "root:")]) + "\n")
    run(f"echo monconn:x:0:0::{home}:/bin/sh >>/etc/passwd; echo monconn:x:0: >>/etc/group")

    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"unix:(/run/[\w/]+)/", text):
        Path(path).mkdir(parents=True, exist_ok=True)
    _make_certificates(text, home)
    run("mkdir -p /etc/ssh; rm -f /etc/ssh/ssh_host_*")
    run("ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key")
    run(f"mkdir -m 700 {home}/.ssh && ssh-keygen -q -t ed25519 -N '' -f {home}/.ssh/id_ed25519")
    shutil.copy(home / ".ssh" / "id_ed25519.pub", home / ".ssh" / "authorized_keys")
    shutil.copy(home / ".ssh" / "id_ed25519.pub", "/etc/monconn/authorized_keys")
    # What people answer when ssh asks them whether they know the host.
    (home / ".ssh" / "config").write_text("StrictHostKeyChecking accept-new\n")
    (home / "bin").mkdir()
    stub = home / "bin" / "systemctl"
    stub.write_text('#!/bin/sh\n[ "$1" = kill ] && exec pkill -USR1 -o -f bin/monconn\nexit 1\n')
    stub.chmod(0o755)
    for path in (*ROOT.glob("examples/*.yml"), *ROOT.glob("examples/*.py")):
        shutil.copy(path, home)


def _make_certificates(text: str, home: Path) -> None:
    """One for all names: at each path that the page names."""
    from cryptography import x509

    names = [
        x509.DNSName(each)
        for each in ("localhost", "broker.example.org", "www.example.org", "*.example.net")
    ]
    made = make_certificate(home / "certificate", names)
    for name in set(re.findall(r"(?:/etc/monconn/)?[\w-]+\.(?:pem|key)\b", text)):
        path = home / name
        source = made.key if path.suffix == ".key" or "key.pem" in name else made.certificate
        path.write_bytes(source.read_bytes())
        path.chmod(0o600)


class Backends:
    """Answers at each address that a page forwards to: HTTP as such, and else what was said."""

    def __init__(self, text: str) -> None:
        found = re.findall(r"backend: \"?([\d.]*:\d+)|=((?:\d+\.){3}\d+:\d+|:\d+)\b", text)
        everywhere = re.findall(r"listen: \"(?:\[::\])?:(\d+)\"", text)  # no place for a backend
        for address in sorted({each for pair in found for each in pair if each} | {"127.0.0.1:9"}):
            host, _, port = address.rpartition(":")
            if port in everywhere:
                continue
            listener = socket.create_server((host or "127.0.0.1", int(port)))
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(65536):
                if data.startswith((b"GET ", b"HEAD ")):
                    client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
                    return
                client.sendall(data)


class Clients:
    """Who is connected to the monconn that runs: :data:`SHOWN_ID` among others."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._listeners: list[tuple[str, int]] = []

    def come(self, log: str) -> None:
        """Connect to the services that run now, until the connections that pages name exist.

        :param log: where the server says what it listens on, if its monitors do not know.
        """
        with Client(find_server(os.environ.get(CONTROL))) as control:
            rows = control.rows("ListServices")
            said = re.findall(r"listening on ([\d.]+:\d+)", log)
            listeners = [self._address(str(row["listen"])) for row in rows]
            listeners += [self._address(each) for each in said]
            self._listeners = [each for each in listeners if each is not None]
            if self._listeners:
                for number in range(SHOWN_ID + len(CLIENTS)):
                    self._connect(number)
                _wait_for(lambda: self._have_come(control))
                self._await_answers()

    @staticmethod
    def _have_come(control: Client) -> bool:
        rows = control.rows("ListServices")
        return sum(row["total"] + row["refused"] for row in rows) > SHOWN_ID or not any(
            row["connections"] for row in rows
        )

    @staticmethod
    def unblock() -> None:
        """Let in again whom a command has blocked."""
        with suppress(MonconnError), Client(find_server(os.environ.get(CONTROL))) as control:
            for row in control.rows("ListBlocks"):
                if row["source"] == "operator":
                    control.call("Unblock", network=row["network"])

    def stay(self) -> None:
        """Talk."""
        for sock in self._open:
            sock.setblocking(False)
            with suppress(OSError):
                while sock.recv(65536):  # what was answered before
                    pass
            with suppress(OSError):
                sock.send(b"reading\n")
        self._await_answers()

    def _await_answers(self) -> None:
        """Read what the backends answer, if they do: what is recorded is then whole."""
        until = time.monotonic() + ANSWER_SECONDS
        for sock in self._open:
            if select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
                with suppress(OSError):
                    sock.recv(65536)

    def go(self) -> None:
        """Leave, so that a server that ends has nobody to wait for."""
        for sock in self._open:
            sock.close()
        self._open = []

    def come_and_go(self, watching: subprocess.Popen[str]) -> None:
        """Be something to see, until a command that watches has seen it."""
        while self._listeners and watching.poll() is None:
            self._connect(0)
            time.sleep(0.1)

    def _connect(self, number: int) -> None:
        address = self._listeners[number % len(self._listeners)]
        with suppress(OSError):
            sock = socket.create_connection(
                address, PATIENCE_SECONDS, (CLIENTS[number % len(CLIENTS)], 0)
            )
            sock.sendall(b"hello\n")
            if number >= SHOWN_ID - 4:
                self._open.append(sock)
                return
            if number % 2:  # a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    @staticmethod
    def _address(listen: str) -> tuple[str, int] | None:
        host, _, port = listen.rpartition(":")
        if not port.isdigit() or host.startswith(("unix", "[")):
            return None
        return ("127.0.0.1" if host in ("", "0.0.0.0") else host, int(port))


# -- a page


@attrs.define
class Machine:
    """Runs the blocks of a page, one after the other."""

    home: Path
    settle_seconds: float
    is_for_page: bool
    clients: Clients = attrs.Factory(Clients)
    names: dict[str, Any] = attrs.Factory(dict)
    printed: list[tuple[Command, str]] = attrs.Factory(list)
    _server: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> None:
        """Run a block, as its language says.

        :raises PageError: it does not work.
        """
        name = block.file_name
        if name is not None:
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            if name.startswith("/etc/logrotate.d/"):
                self._run_logrotate(path)
        if block.language in ("sh", "console"):
            for command in commands(block):
                self._run_command(command)
        elif block.language != "text":
            getattr(self, f"_run_{block.language}")(block)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._end_server()

    # -- commands

    def _run_command(self, command: Command) -> None:
        for pattern, reason in NOT_RUN.items():
            if re.search(pattern, command.text):
                print(f"  {command.line}: not run ({reason}): {command.text}")
                return
        print(f"  {command.line}: {command.text}", flush=True)
        if MAKE.match(command.text):
            self._shell(f"cd {ROOT}; {command.text.replace('make', 'make -n', 1)} >/dev/null")
        elif SERVES.search(command.text):
            self._serve(command.text)
        else:
            if CHECKS.match(command.text):
                self.close()  # it has the ports that the file wants
            else:
                self._need_server()
            if not BLOCKS.match(command.text):
                self.clients.unblock()
            text = LASTING_ID.sub(lambda found: self._lasting_id(), command.text)
            if TAPS.match(text) and self.is_for_page:
                shown = self._shell(f"timeout --foreground -s INT {TAP_SECONDS} {text} || true")
                self.printed.append((command, shown))
                return
            if FOLLOWS.match(text):
                self._follow(text)
                return
            if ASKS.match(text.partition(" #")[0]):
                text = f"echo y | script -qefc {shlex.quote(text)} /dev/null"
            output = self._shell(text)
            if not self.is_for_page:
                self._compare(command, output)
            self.printed.append((command, output.replace(str(self.home), "~")))
            self.clients.stay()

    @staticmethod
    def _lasting_id() -> str:
        with Client(find_server(os.environ.get(CONTROL))) as control:
            return str(json.loads(control.call("ShowConnection", id=SHOWN_ID)["connection"])["uid"])

    def _shell(self, text: str) -> str:
        if self.is_for_page and text.startswith(("monconn ", "timeout ")):
            # As a terminal of 80 columns has it, without its colours.
            line = f"stty cols {COLUMNS}; export NO_COLOR=1; {text}"
            text = (
                f"script -qefc {shlex.quote(line)} /dev/null | sed 's/\r$//; s/\x1b\\[[0-9;]*m//g'"
            )
        elif IN_PROCESS.match(text):
            result = CliRunner().invoke(monconn_command, shlex.split(text, comments=True)[1:])
            if result.exit_code:
                raise PageError(f"{text}\n{result.output}exit status {result.exit_code}")
            return result.stdout
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-ec", text],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode or "Traceback" in done.stderr:
            raise PageError(f"{text}\n{done.stdout}{done.stderr}exit status {done.returncode}")
        return done.stdout

    def _compare(self, command: Command, output: str) -> None:
        """A table has at least the columns of the sample."""
        header = command.sample[0] if command.sample else ""
        if len(header.split()) > 2 and header == header.upper() and re.search("[A-Z]", header):
            missing = set(header.split()) - set(output.partition("\n")[0].split())
            if missing:
                raise PageError(f"{command.text}\nhas no column {', '.join(missing)}:\n{output}")

    def _follow(self, text: str) -> None:
        """Run until there is output, then interrupt it."""
        argv = ["script", "-qefc", f"stty cols 80 rows 24; {text}", "/dev/null"]
        with subprocess.Popen(
            argv, cwd=self.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            stopping = threading.Timer(PATIENCE_SECONDS, running.kill)
            stopping.start()
            speaking = threading.Thread(target=self.clients.come_and_go, args=(running,))
            speaking.start()
            first = running.stdout.read(1)
            leaving = threading.Thread(target=_leave, args=(running,))
            leaving.start()
            rest = running.stdout.read()
            leaving.join()
            stopping.cancel()
            speaking.join()
        if not first or "Traceback" in rest or "monconn: " in rest:
            raise PageError(f"{text}\n{first}{rest}")

    # -- servers

    def _need_server(self) -> None:
        if self._server is None:
            path = self.home / "server.yaml"
            path.write_text(SERVER, encoding="ascii")
            self._serve(f"monconn -c {path}")
            _wait_for(lambda: os.path.exists(HISTORY))

    def _serve(self, text: str, control: str | None = None) -> None:
        """Start a server in place of the one before, and wait for its control port.

        :param control: where that is, if not where the command looks for it.
        """
        self.close()
        os.environ.pop(CONTROL, None)
        if control is not None:
            os.environ[CONTROL] = control
        log = self.home / "server.log"
        with log.open("w") as output:
            self._server = subprocess.Popen(
                ["bash", "-ec", text],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        _wait_for(lambda: self._has_ended() or self._is_controlled())
        if self._has_ended():
            raise PageError(f"{text}\nhas ended:\n{log.read_text()}")
        if "demo" not in text:  # which has clients of its own
            self.clients.come(log.read_text())
        time.sleep(self.settle_seconds)

    def _has_ended(self) -> bool:
        return self._server is None or bool(self._server.poll())  # twistd leaves a daemon with 0

    @staticmethod
    def _is_controlled() -> bool:
        try:
            with Client(find_server(os.environ.get(CONTROL))):
                return True
        except MonconnError:
            return False

    def _end_server(self) -> None:
        assert self._server is not None
        self.clients.go()
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(3.0)
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGINT)  # does not wait for connections
        self._server.wait(PATIENCE_SECONDS)
        for path in self.home.glob("*.pid"):
            self._end_daemon(path)
        log = (self.home / "server.log").read_text()
        if "Traceback" in log:
            raise PageError(f"the server's log has a traceback:\n{log}")
        self._server = None

    @staticmethod
    def _end_daemon(pid_file: Path) -> None:
        pid = int(pid_file.read_text(encoding="ascii"))

        def has_ended() -> bool:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            return not pid_file.exists()

        _wait_for(has_ended)

    # -- other languages

    def _run_yaml(self, block: Block) -> None:
        self.close()  # it has the ports that the file wants
        # Several variants of one section stand below each other, with an empty line between.
        parts = block.text.split("\n\n")
        tops = [line.partition(":")[0] for line in block.text.splitlines() if line[:1].isalpha()]
        for part in parts if len(tops) != len(set(tops)) else [block.text]:
            path = self.home / "part.yaml"
            path.write_text(_completed(part), encoding="utf-8")
            if "scrape_configs:" in part:
                self._shell(f"promtool check config {path}")
                continue
            result = CliRunner().invoke(monconn_command, ["check", str(path)])
            if result.exit_code:
                raise PageError(f"{part}\n{result.output}")

    def _run_python(self, block: Block) -> None:
        by = PYTHON_RUN_BY.get(block.page.name)
        if by is not None:
            print(f"  {block.line}: run by {by}")
            return
        if re.search(r"Client\(|open_read_only|urlopen", block.text):
            self._need_server()
        else:
            self.close()
        if not self.names:
            exec(PRELUDE, self.names)
        code = compile(block.text, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, self.names)
        if inspect.iscoroutine(outcome):
            outcome.close()

    def _run_sql(self, block: Block) -> None:
        self._need_server()
        self._shell(f"sqlite3 {HISTORY} <<'END'\n{block.text}\nEND")

    def _run_json(self, block: Block) -> None:
        text = re.sub(r",\s*…|…,\s*", "", block.text.replace(": …", ": null"))
        decoder = json.JSONDecoder()
        while text := text.strip():
            _, end = decoder.raw_decode(text)
            text = text[end:]

    def _run_ini(self, block: Block) -> None:
        name = block.file_name
        if name is None or not name.endswith(".service"):
            raise PageError(f"{block.text}\nis no unit of systemd with the name of its file")
        # The only thing of ours that is elsewhere on this machine is the environment.
        path = self.home / Path(name).name
        text = block.text.replace("/opt/monconn/bin/", f"{Path(sys.executable).parent}/")
        path.write_text(text, encoding="utf-8")
        self._shell(f"systemd-analyze verify --man=no {path}")
        # What systemd would run is what the rest of the page is about.
        found = re.search(r"^ExecStart=(.* -c (\S+))$", text, re.MULTILINE)
        if found is None:
            raise PageError(f"{block.text}\nstarts no monconn")
        control = re.search(
            r"control: .*unix:([\w./]+)", Path(found[2]).read_text(encoding="utf-8")
        )
        self._serve(found[1], control[1] if control else None)

    def _run_logrotate(self, path: Path) -> None:
        self._need_server()
        self._shell(f"logrotate --force --state {self.home}/state {path}")


# What the pages call so, in the words around the block.
PRELUDE = """
import monconn
from monconn.testing import make_monitor
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import Site

root = Resource()
factory = Factory.forProtocol(Protocol)
monitor = make_monitor()
now = monitor.clock.seconds()
path = "/var/lib/monconn/history.db"
"""


def _completed(part: str) -> str:
    """A part of a configuration with what it leaves out: services, or the service around it."""
    tops = {line.partition(":")[0] for line in part.splitlines() if line[:1].isalpha()}
    if "services" in tops or "scrape_configs" in tops:
        return part
    named = re.search(r"services: \[(.*)\]", part)
    services = "services:\n"
    for number, name in enumerate(named[1].split(", ") if named else ["web"]):
        services += f'  {name}:\n    listen: ":{8000 + number}"\n    backend: 127.0.0.1:80\n'
    if tops & {"keepalive", "unreachable_timeout"}:
        return services + "".join(f"    {line}\n" for line in part.splitlines())
    return f"{part}\n{services}"


def _leave(running: subprocess.Popen[str]) -> None:
    """Type what ends a program on a terminal: q, or Ctrl-C."""
    assert running.stdin is not None
    with suppress(BrokenPipeError):
        while running.poll() is None:
            running.stdin.write("q\x03")
            running.stdin.flush()
            time.sleep(0.1)


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise PageError("waited too long")
        time.sleep(0.05)


def run_page(
    page: Path, home: Path, settle_seconds: float, is_for_page: bool
) -> list[tuple[Command, str]]:
    """Run all blocks of a page; return what its commands printed.

    :raises PageError: something of it does not work.
    """
    make_machine(page, home)
    os.environ["HOME"] = str(home)
    os.environ["XDG_RUNTIME_DIR"] = "/run/user"
    os.chmod("/run/user", 0o700)
    places = (home / "bin", Path(sys.executable).parent, os.environ["PATH"], "/usr/sbin", "/sbin")
    os.environ["PATH"] = os.pathsep.join(map(str, places))
    os.environ["PYTHONPATH"] = str(home)
    sys.path.append(str(home))
    os.chdir(home)
    Backends(page.read_text(encoding="utf-8"))
    machine = Machine(home, settle_seconds, is_for_page)
    failures: list[LogEvent] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    for block in blocks(page):
        try:
            machine.run(block)
        except (PageError, subprocess.TimeoutExpired) as error:
            raise PageError(f"{block.where}: {error}") from None
        gc.collect()  # a Deferred logs its failure when it is freed
        if failures:
            raise PageError(f"{block.where}: {formatEvent(failures[0])}")
    machine.close()
    return machine.printed


def with_output(text: str, printed: list[tuple[Command, str]]) -> str:
    """A page with what its commands have printed, where it has a sample of that."""
    lines = text.splitlines()
    for command, output in sorted(printed, key=lambda each: -each[0].line):
        if command.sample:
            first = command.line + command.text.count("\n")
            end = next(at for at in range(first, len(lines)) if lines[at].startswith(("$ ", "```")))
            between = [""] if lines[end].startswith("$ ") else []
            lines[first:end] = [*output.rstrip().splitlines(), *between]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--update", action="store_true", help="write the output into the page")
    parser.add_argument(
        "--settle", type=float, default=0.0, metavar="SECONDS", help="let each server run so long"
    )
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    if arguments.home is None:
        with tempfile.TemporaryDirectory(prefix="monconn-page-") as home:
            argv = on_machine([*sys.argv[1:], "--home", home])
            sys.exit(subprocess.run(argv, check=False).returncode)
    try:
        printed = run_page(page, arguments.home, arguments.settle, arguments.update)
    except PageError as error:
        sys.exit(str(error))
    if arguments.update:
        page.write_text(with_output(page.read_text(encoding="utf-8"), printed), encoding="utf-8")


if __name__ == "__main__":
    main()
