"""Real programs through the real command: OpenSSH, curl and nginx, mosquitto."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from .programs import (
    HANG_SECONDS,
    SCRIPTS,
    Monconn,
    Program,
    accepts,
    free_port,
    until,
    write_config,
)

FindProgram = Callable[[str], str]
Forward = Callable[..., Monconn]

SSH_BYTES = 5_000_000
PAGE_BYTES = 20_000_000
SSHD_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""
NGINX_IN_A_FOLDER = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
"""
"""The beginning of a configuration: nothing is written elsewhere."""
NGINX_CONFIG = (
    NGINX_IN_A_FOLDER
    + """\
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{ipv4_port};
        listen [::1]:{ipv6_port};
        listen unix:{folder}/nginx.sock;
        root {folder}/pages;
        location /upload/ {{ dav_methods PUT; }}
    }}
}}
"""
)
MOSQUITTO_CONFIG = """
{user}
per_listener_settings true
persistence false
log_dest stderr
listener {port} 127.0.0.1
allow_anonymous true
listener {closed_port} 127.0.0.1
allow_anonymous false
"""


def run(*argv: str | Path) -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


def make_file(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def user_line(directive: str) -> str:
    """A root's server would become a user that may not read the test's files."""
    return directive if os.geteuid() == 0 else ""


@pytest.fixture(params=["monconn -p", "twistd -n"])
def forward(
    request: pytest.FixtureRequest, launch: Callable[..., Monconn], tmp_path: Path
) -> Forward:
    """Starts monconn in front of a backend, by ``-p`` or with a file under ``twistd``."""

    def _forward(backend: str, listen: str = "127.0.0.1:0") -> Monconn:
        if request.param == "monconn -p":
            return launch("monconn", "-p", f"{listen}={backend}")
        service = {"listen": listen, "backend": backend}
        return launch(request.param, "-c", write_config(tmp_path, forwarded=service))

    return _forward


# -- OpenSSH


@attrs.frozen
class Sshd:
    """An SSH server of the test's own."""

    port: int
    options: list[str | Path]
    """For ``ssh`` and ``scp``, beside the port."""


@pytest.fixture(scope="module")
def privilege_separation() -> Iterator[None]:
    """The folder without which sshd does not start, and which its init script makes."""
    folder = Path("/run/sshd")
    if folder.exists():
        yield
        return
    try:
        folder.mkdir(mode=0o755)
    except OSError as error:
        pytest.skip(f"sshd needs {folder}, which cannot be made: {error.strerror}")
    yield
    folder.rmdir()


@pytest.fixture(scope="module")
def sshd(
    program: FindProgram, privilege_separation: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sshd]:
    for name in "ssh", "scp", "ssh-keygen":
        program(name)
    folder = tmp_path_factory.mktemp("sshd")
    for key in "host_key", "user_key":
        run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=port, folder=folder))
    server = Program([program("sshd"), "-D", "-e", "-f", config])
    options: list[str | Path] = ["-F", "/dev/null", "-i", folder / "user_key"]
    for option in "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null":
        options += ["-o", option]
    try:
        server.err.wait_for("Server listening on")
        yield Sshd(port, options)
    finally:
        server.close()


def test_openssh(forward: Forward, sshd: Sshd, program: FindProgram, tmp_path: Path) -> None:
    monconn = forward(f"127.0.0.1:{sshd.port}")
    port = str(monconn.port())
    there = f"{getpass.getuser()}@127.0.0.1"
    ssh = [program("ssh"), *sshd.options, "-p", port, there]
    assert run(*ssh, "echo hello from the other side") == "hello from the other side\n"

    sent = make_file(tmp_path / "sent", SSH_BYTES)
    scp = [program("scp"), "-q", *sshd.options, "-P", port]
    run(*scp, sent, f"{there}:{tmp_path / 'arrived'}")
    run(*scp, f"{there}:{tmp_path / 'arrived'}", tmp_path / "back")
    assert digest(tmp_path / "arrived") == digest(tmp_path / "back") == digest(sent)
    for counted in r"up 4\.8 MiB", r"down 4\.8 MiB":
        monconn.log.wait_for(rf"(client|backend)_closed after .*{counted}")


# -- curl and nginx


@attrs.frozen
class Nginx:
    """A web server of the test's own: the same pages on each of its listeners."""

    ipv4: str
    ipv6: str
    unix: str
    pages: Path


@pytest.fixture(scope="module")
def nginx(program: FindProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    path = program("nginx")
    program("curl")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "pages" / "upload").mkdir(parents=True)
    (folder / "pages" / "small").write_text("a small page\n")
    make_file(folder / "pages" / "big", PAGE_BYTES)
    ipv4_port, ipv6_port = free_port(), free_port("::1")
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(
            folder=folder, ipv4_port=ipv4_port, ipv6_port=ipv6_port, user=user_line("user root;")
        )
    )
    server = Program([path, "-e", "stderr", "-p", folder, "-c", config])
    try:
        until(lambda: accepts(ipv4_port) or server.process.poll() is not None, "nginx")
        assert server.process.poll() is None, str(server.err)
        unix = f"unix:{folder / 'nginx.sock'}"
        yield Nginx(f"127.0.0.1:{ipv4_port}", f"[::1]:{ipv6_port}", unix, folder / "pages")
    finally:
        server.send(signal.SIGTERM)  # it would leave its workers behind if it were killed
        server.status()
        server.close()


def test_curl_and_nginx(
    forward: Forward,
    nginx: Nginx,
    program: FindProgram,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    monconn = forward(nginx.ipv4)
    site = f"http://127.0.0.1:{monconn.port()}"
    curl = [program("curl"), "-sS", "--fail"]

    twice = run(*curl, "-w", "%{num_connects}\n", f"{site}/small", f"{site}/small")
    assert twice == "a small page\n1\na small page\n0\n"  # the second in the same connection
    monconn.log.wait_for(r"client_closed after \S+, up \d+ B, down \d+ B$")

    run(*curl, "-o", tmp_path / "got", f"{site}/big")
    assert digest(tmp_path / "got") == digest(nginx.pages / "big")
    monconn.log.wait_for(r"client_closed after \S+, up \d+ B, down 19\.1 MiB$")

    name = re.sub(r"\W", "-", request.node.name)
    run(*curl, "-T", nginx.pages / "big", f"{site}/upload/{name}")
    assert digest(nginx.pages / "upload" / name) == digest(nginx.pages / "big")
    monconn.log.wait_for(r"client_closed after \S+, up 19\.1 MiB, down \d+ B$")


def test_http_over_unix_sockets_and_ipv6(
    forward: Forward, nginx: Nginx, program: FindProgram, tmp_path: Path
) -> None:
    listener = tmp_path / "monconn.sock"
    monconn = forward(nginx.ipv6, f"unix:{listener}")
    monconn.log.wait_for("listening on unix:")
    curl = [program("curl"), "-sS", "--fail", "--unix-socket", str(listener)]
    assert run(*curl, "http://localhost/small") == "a small page\n"
    monconn.log.wait_for(r": unix:\d+ client_closed after \S+, up \d+ B, down \d+ B$")


def test_a_unix_backend_and_an_ipv6_listener(
    forward: Forward, nginx: Nginx, program: FindProgram
) -> None:
    monconn = forward(nginx.unix, "[::1]:0")
    curl = [program("curl"), "-sS", "--fail", "-g"]
    assert run(*curl, f"http://[::1]:{monconn.port()}/small") == "a small page\n"
    monconn.log.wait_for(r": \[::1\]:\d+ client_closed after \S+, up \d+ B, down \d+ B$")


# -- taps on them


def test_a_tap_on_curl_and_one_on_mosquitto(
    launch: Callable[..., Monconn],
    nginx: Nginx,
    mosquitto: Mosquitto,
    program: FindProgram,
    start: Callable[..., Program],
    tmp_path: Path,
) -> None:
    control = f"unix:{tmp_path / 'control'}"
    (tmp_path / "monconn.yaml").write_text(
        f"""\
services:
  web: {{listen: "127.0.0.1:0", backend: "{nginx.ipv4}"}}
  mqtt: {{listen: "127.0.0.1:0", backend: "127.0.0.1:{mosquitto.port}"}}
control: {{listen: "{control}"}}
"""
    )
    monconn = launch("monconn", "-c", tmp_path / "monconn.yaml")
    url, mqtt_port = f"http://127.0.0.1:{monconn.port('web')}/tapped", monconn.port("mqtt")
    make_file(nginx.pages / "tapped", 3_000_000)  # however slow this machine is, it can wait
    curl = [program("curl"), "-sS", "--fail", "-i"]
    tap: list[str | Path] = [SCRIPTS / "monconn", "tap", "--control", control, "--follow"]
    with (tmp_path / "answer").open("wb") as answer:
        web = start(*tap, "service:web", "--raw", "down", stdout=answer.fileno())
        mqtt = start(*tap, "service:mqtt", "--text")
        for each in (web, mqtt):
            each.err.wait_for("^waiting for connections that match")
        run(*curl, "-o", tmp_path / "got", url)
        assert web.status() == 0, str(web.err)
    assert "not shown" not in str(web.err)
    assert digest(tmp_path / "answer") == digest(tmp_path / "got")

    where = ["-h", "127.0.0.1", "-p", str(mqtt_port), "-t", "test/tap"]
    run(program("mosquitto_pub"), *where, "-i", "pump-7", "-m", "pressure 3.1 bar")
    mqtt.out.wait_for("pump-7")
    mqtt.out.wait_for("pressure 3.1 bar")
    mqtt.out.wait_for(r"closed: client_closed \(up \d+ B, down \d+ B\)$")
    mqtt.send(signal.SIGINT)
    assert mqtt.status() == 130
    monconn.log.wait_for(r"began to tap service:=web \(raw, following\) at web for uid \d+")
    monconn.log.wait_for(r"began to tap service:=mqtt \(text, following\) at mqtt for uid \d+")


# -- mosquitto


@attrs.frozen
class Mosquitto:
    """A broker of the test's own."""

    port: int
    closed_port: int
    """Where it lets nobody in."""


@pytest.fixture(scope="module")
def mosquitto(
    program: FindProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mosquitto]:
    path = program("mosquitto")
    for name in "mosquitto_pub", "mosquitto_sub":
        program(name)
    ports = Mosquitto(free_port(), free_port())
    config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    config.write_text(MOSQUITTO_CONFIG.format(**attrs.asdict(ports), user=user_line("user root")))
    server = Program([path, "-c", config])
    try:
        until(lambda: accepts(ports.closed_port) or server.process.poll() is not None, "mosquitto")
        assert server.process.poll() is None, str(server.err)
        yield ports
    finally:
        server.close()


def test_mosquitto(
    forward: Forward,
    mosquitto: Mosquitto,
    program: FindProgram,
    start: Callable[..., Program],
    request: pytest.FixtureRequest,
) -> None:
    monconn = forward(f"127.0.0.1:{mosquitto.port}")
    topic = f"test/{request.node.name}"
    where = ["-h", "127.0.0.1", "-p", str(monconn.port()), "-t", topic, "-q", "1"]
    run(program("mosquitto_pub"), *where, "-r", "-m", "retained")
    subscriber = start(program("mosquitto_sub"), *where)
    subscriber.out.wait_for("^retained$")
    run(program("mosquitto_pub"), *where, "-m", "and another")
    subscriber.out.wait_for("^and another$")

    def ends() -> list[str]:
        return re.findall(r"(\w+) after \S+, up \d+ B, down \d+ B$", str(monconn.log), re.MULTILINE)

    until(lambda: len(ends()) == 2, "the ends of both publishers")
    subscriber.send(signal.SIGKILL)
    until(lambda: len(ends()) == 3, "the end of the subscriber")
    assert ends()[-1] == "client_closed"  # its kernel has closed the connection in order


def test_devices_are_told_by_their_client_ids_and_two_with_one_are_told(
    launch: Callable[..., Monconn],
    mosquitto: Mosquitto,
    program: FindProgram,
    start: Callable[..., Program],
    tmp_path: Path,
) -> None:
    control = f"unix:{tmp_path / 'control'}"
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{mosquitto.port}"}
    config = tmp_path / "monconn.yaml"
    config.write_text(json.dumps({"services": {"mqtt": service}, "control": {"listen": control}}))
    monconn = launch("monconn", "-c", config)
    where = ["-h", "127.0.0.1", "-p", str(monconn.port()), "-t", "t", "-i"]
    # All are behind one address; two fight for one client id, and each is back after a second.
    for name in "pump-7", "pump-8", "pump-7":
        start(program("mosquitto_sub"), *where, name)
    monconn.log.wait_for(r"mqtt: pump-7 \(127.0.0.1\) duplicate alarm: 3 connections within ")
    listed = run(SCRIPTS / "monconn", "devices", "--json", "--control", control)
    devices = {row["device"]: row for row in json.loads(listed)}
    assert devices.keys() == {"pump-7", "pump-8"}
    assert devices["pump-7"]["alarms"] == ["duplicate"]
    assert devices["pump-8"]["keepalive_seconds"] == 60


def test_mosquitto_is_followed_to_the_end(
    launch: Callable[..., Monconn],
    mosquitto: Mosquitto,
    program: FindProgram,
    start: Callable[..., Program],
    tmp_path: Path,
) -> None:
    ports = {"open": mosquitto.port, "shut": mosquitto.closed_port}
    services = {
        name: {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{port}", "decode": "mqtt"}
        for name, port in ports.items()
    }
    monconn = launch("monconn", "-c", write_config(tmp_path, **services))
    publish = [program("mosquitto_pub"), "-h", "127.0.0.1", "-t", "t", "-m", "hello", "-p"]
    for version in "mqttv31", "mqttv311", "mqttv5":
        run(*publish, str(monconn.port("open")), "-V", version, "-i", "pump-3")
    goodbye = r"open: .* client_closed after .* \(device said goodbye\)$"
    until(lambda: len(re.findall(goodbye, str(monconn.log), re.MULTILINE)) == 3, "three goodbyes")

    for version in "mqttv311", "mqttv5":
        denied = [*publish, str(monconn.port("shut")), "-V", version]
        assert subprocess.run(denied, capture_output=True, timeout=HANG_SECONDS).returncode
    refused = r"shut: .* after .* \(broker said not authorised\)$"
    until(lambda: len(re.findall(refused, str(monconn.log), re.MULTILINE)) == 2, "two refusals")

    will = ["--will-topic", "gone", "--will-payload", "pump-3"]
    where = ["-h", "127.0.0.1", "-p", str(monconn.port("open")), "-t", "news"]
    subscriber = start(program("mosquitto_sub"), *where, *will)
    witness = start(program("mosquitto_sub"), *where, "-t", "gone")
    run(*publish, str(monconn.port("open")), "-t", "news", "-r")
    for each in subscriber, witness:
        each.out.wait_for("^hello$")
    subscriber.send(signal.SIGKILL)
    monconn.log.wait_for(
        r"client_closed .* \(device closed without DISCONNECT, so its will is due\)$"
    )
    witness.out.wait_for("^pump-3$")
