"""TLS with real programs: curl, openssl, mosquitto's clients; nginx and HAProxy as backends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from monconn.relay.sockets.loop import HAS_EPOLL
from tests import ROOT
from tests.certificates import Certificate, make_certificate

from .programs import (
    HANG_SECONDS,
    Backend,
    Monconn,
    Program,
    Text,
    accepts,
    connect,
    echo,
    free_port,
    receive,
    until,
)
from .programs import write_config as write
from .test_programs import NGINX_IN_A_FOLDER, PAGE_BYTES, digest, make_file, run, user_line

if not HAS_EPOLL:
    pytest.skip("TLS of our own needs epoll", allow_module_level=True)

FindProgram = Callable[[str], str]

NGINX_CONFIG = (
    NGINX_IN_A_FOLDER
    + """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {server.certificate};
        ssl_certificate_key {server.key};
        ssl_client_certificate {client.certificate};
        ssl_verify_client on;
        ssl_protocols TLSv1.2;
        root {folder}/pages;
        location /who {{ return 200 "$ssl_client_s_dn $ssl_server_name $ssl_protocol\\n"; }}
    }}
}}
"""
)
HAPROXY_CONFIG = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend tls
    bind 127.0.0.1:{port} ssl crt {folder}/both.pem
    default_backend echo
backend echo
    server echo 127.0.0.1:{backend}
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """For the listener, another server name, the backends, and us as their client."""
    folder = tmp_path_factory.mktemp("certificates")
    return {
        name: make_certificate(folder / name, common_name=name)
        for name in ("main", "other", "backend", "device")
    }


@attrs.frozen
class Nginx:
    port: int
    pages: Path


@pytest.fixture(scope="module")
def nginx(
    program: FindProgram,
    certificates: dict[str, Certificate],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Nginx]:
    """A web server over TLS, for clients with a certificate."""
    path, port = program("nginx"), free_port()
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "pages").mkdir()
    make_file(folder / "pages" / "big", PAGE_BYTES)
    (folder / "nginx.conf").write_text(
        NGINX_CONFIG.format(
            folder=folder,
            port=port,
            server=certificates["backend"],
            client=certificates["device"],
            user=user_line("user root;"),
        )
    )
    server = Program([path, "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        until(lambda: accepts(port) or server.process.poll() is not None, "nginx")
        assert server.process.poll() is None, str(server.err)
        yield Nginx(port, folder / "pages")
    finally:
        server.send(signal.SIGTERM)
        server.status()
        server.close()


def identity(made: Certificate) -> dict[str, object]:
    return {"certificate": str(made.certificate), "key": str(made.key)}


@pytest.fixture(scope="module")
def echo_backend() -> Iterator[Backend]:
    backend = Backend(echo)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def monconn(
    certificates: dict[str, Certificate],
    nginx: Nginx,
    echo_backend: Backend,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Monconn]:
    tls = identity(certificates["main"])
    ca = str(certificates["backend"].certificate)
    plain = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_backend.port}"}
    services: dict[str, dict[str, object]] = {
        "web": {
            **plain,
            "tls": {**tls, "alpn": ["http/1.1"]},
            "backend": f"tls:localhost:{nginx.port}",
            "backend_tls": {"ca": ca, **identity(certificates["device"])},
        },
        "names": {
            **plain,
            "tls": {**tls, "certificates": {"*.example.org": identity(certificates["other"])}},
        },
        "modern": {**plain, "tls": {**tls, "minimum_version": "1.3"}},
        "mqtt": {**plain, "tls": {**tls, "alpn": ["mqtt", "x-amzn-mqtt-ca"]}},
    }
    folder = tmp_path_factory.mktemp("monconn")
    made = Monconn("monconn", ["-c", write(folder, **services)], folder)
    try:
        yield made
        assert made.stop() == 0
        assert "Traceback" not in str(made.log)
    finally:
        made.close()


@pytest.fixture
def curl(program: FindProgram, certificates: dict[str, Certificate]) -> list[str]:
    return [program("curl"), "-sS", "--fail", "--cacert", str(certificates["main"].certificate)]


def test_curl_through_tls_to_nginx(
    monconn: Monconn, nginx: Nginx, curl: list[str], tmp_path: Path
) -> None:
    site = f"https://localhost:{monconn.port('web')}"
    assert run(*curl, f"{site}/who") == "CN=device localhost TLSv1.2\n"
    assert run(*curl, "-w", "%{http_version}", "-o", "/dev/null", f"{site}/who") == "1.1"
    run(*curl, "-o", tmp_path / "got", f"{site}/big")
    assert digest(tmp_path / "got") == digest(nginx.pages / "big")
    # nginx says nothing more to a client that has ended.
    monconn.log.wait_for(r"web: \S+ client_closed after \S+, up \d+ B, down 19\.1 MiB( \(.*)?$")


def test_a_client_that_does_not_trust_us(monconn: Monconn, program: FindProgram) -> None:
    site = f"https://localhost:{monconn.port('web')}/who"
    done = subprocess.run(
        [program("curl"), "-sS", site], capture_output=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 60
    refused = r"web: 127\.0\.0\.1:\d+ refused: handshake_failed"
    monconn.log.wait_for(rf"{refused} \(the client has sent the alert unknown_ca: it does not")


def test_a_client_that_is_too_old(monconn: Monconn, curl: list[str]) -> None:
    site = f"https://localhost:{monconn.port('modern')}/"
    done = subprocess.run(
        [*curl, "--tls-max", "1.2", site], capture_output=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 35
    refused = r"modern: 127\.0\.0\.1:\d+ refused: handshake_failed"
    monconn.log.wait_for(rf"{refused} \(the client has only versions of TLS below the minimum")


def test_plain_http_to_a_tls_listener(monconn: Monconn, curl: list[str]) -> None:
    site = f"http://localhost:{monconn.port('names')}/"
    done = subprocess.run([*curl, site], capture_output=True, timeout=HANG_SECONDS, check=False)
    assert done.returncode != 0
    refused = r"names: 127\.0\.0\.1:\d+ refused: handshake_failed"
    monconn.log.wait_for(rf"{refused} \(the client speaks plain HTTP\)")


def s_client(program: FindProgram, monconn: Monconn, *options: str | Path, text: str = "") -> str:
    """What ``openssl s_client`` prints; its input stays open until the text has come back."""
    where = f"127.0.0.1:{monconn.port('names')}"
    argv = [program("openssl"), "s_client", "-connect", where, *options]
    done = subprocess.run(
        argv,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [("www.example.org", "other"), ("localhost", "main"), ("", "main")],
)
def test_a_certificate_by_server_name(
    monconn: Monconn, program: FindProgram, version: str, name: str, shown: str
) -> None:
    options = ["-servername", name] if name else ["-noservername"]
    printed = s_client(program, monconn, version, *options)
    assert re.search(rf"subject=CN ?= ?{shown}\n", printed), printed


@pytest.mark.parametrize("name", ["www.example.org", "localhost"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_are_resumed(
    monconn: Monconn, program: FindProgram, tmp_path: Path, version: str, name: str
) -> None:
    session, options = tmp_path / "session", [version, "-servername", name, "-ign_eof"]
    argv = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{monconn.port('names')}"]
    client = subprocess.Popen(
        [*argv, *options, "-sess_out", session],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    received = Text(client.stdout)
    try:
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        # With TLS 1.3 there are two tickets, both before the answer, and for each the file is
        # written anew: a client killed before the answer may leave it empty.
        received.wait_for("^hello$")
    finally:
        client.kill()
        client.wait()
        client.stdin.close()
        received.close()
    printed = s_client(program, monconn, version, "-servername", name, "-sess_in", session)
    assert "\nReused, TLSv1" in printed


def test_reconnecting(monconn: Monconn, program: FindProgram) -> None:
    """By session ids, too, if a client has no tickets: then each handshake is a full one."""
    printed = s_client(program, monconn, "-tls1_2", "-reconnect")
    assert printed.count("\nReused, TLSv1.2") == 5
    printed = s_client(program, monconn, "-tls1_2", "-reconnect", "-no_ticket")
    assert printed.count("\nNew, TLSv1.2") == 6


def test_a_key_update(monconn: Monconn, program: FindProgram) -> None:
    """``K`` in a line of its own asks for new keys."""
    where = f"127.0.0.1:{monconn.port('names')}"
    client = subprocess.Popen(
        [program("openssl"), "s_client", "-connect", where, "-tls1_3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    printed = Text(client.stdout)
    try:
        for line, answer in (
            (b"before\n", "^before$"),
            (b"K\n", "KEYUPDATE"),
            (b"after\n", "^after$"),
        ):
            client.stdin.write(line)
            client.stdin.flush()
            printed.wait_for(answer)
    finally:
        client.kill()
        client.wait()
        client.stdin.close()
        printed.close()


def test_a_renegotiation_is_refused(monconn: Monconn, program: FindProgram) -> None:
    """``R`` asks for one."""
    printed = s_client(program, monconn, "-tls1_2", text="R\n")
    assert "no renegotiation" in printed


@pytest.fixture
def haproxy_port(
    start: Callable[..., Program],
    program: FindProgram,
    certificates: dict[str, Certificate],
    echo_backend: Backend,
    tmp_path: Path,
) -> int:
    port, made = free_port(), certificates["backend"]
    both = made.certificate.read_bytes() + made.key.read_bytes()
    (tmp_path / "both.pem").write_bytes(both)
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG.format(port=port, backend=echo_backend.port, folder=tmp_path))
    start(program("haproxy"), "-db", "-f", config)
    until(lambda: accepts(port), "HAProxy")
    return port


def test_haproxy_as_a_backend(
    launch: Callable[..., Monconn],
    certificates: dict[str, Certificate],
    haproxy_port: int,
    program: FindProgram,
    tmp_path: Path,
) -> None:
    plain = {"listen": "127.0.0.1:0", "backend": f"tls:localhost:{haproxy_port}"}
    ca = str(certificates["backend"].certificate)
    services: dict[str, dict[str, object]] = {
        "right": {**plain, "backend_tls": {"ca": ca}},
        "unknown": {**plain, "backend_tls": {"ca": str(certificates["main"].certificate)}},
        "misnamed": {**plain, "backend_tls": {"ca": ca, "server_name": "www.example.org"}},
        "trustful": {**plain, "backend_tls": {"verify": False}},
        "of_the_system": {**plain},
    }
    monconn = launch("monconn", "-c", write(tmp_path, **services))
    for name in ("right", "trustful"):
        with connect(monconn.port(name)) as client:
            client.sendall(b"hello")
            assert receive(client, 5) == b"hello"
    faults = {
        "unknown": "is not trusted: it is self-signed",
        "misnamed": r"is not for www\.example\.org, but for localhost, 127\.0\.0\.1",
        "of_the_system": "is not trusted: it is self-signed",
    }
    for name, fault in faults.items():
        with connect(monconn.port(name)) as client:
            assert client.recv(1) == b""
        ended = rf"{name}: \S+ backend_unreachable after \S+, up 0 B, down 0 B"
        monconn.log.wait_for(rf"{ended} \(the backend's certificate {fault}")
    assert "Traceback" not in str(monconn.log)


def test_mosquitto_clients(
    launch: Callable[..., Monconn],
    start: Callable[..., Program],
    program: FindProgram,
    certificates: dict[str, Certificate],
    tmp_path: Path,
) -> None:
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(f"{user}listener {port} 127.0.0.1\nallow_anonymous true\n")
    start(program("mosquitto"), "-c", config)
    until(lambda: accepts(port), "mosquitto")
    made = certificates["main"]
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{port}", "tls": identity(made)}
    monconn = launch("monconn", "-c", write(tmp_path, mqtts=service))
    where = ["-h", "localhost", "-p", str(monconn.port()), "-t", "t", "-q", "1"]
    where += ["--cafile", str(made.certificate)]
    run(program("mosquitto_pub"), *where, "-r", "-m", "retained")
    subscriber = start(program("mosquitto_sub"), *where)
    subscriber.out.wait_for("^retained$")
    run(program("mosquitto_pub"), *where, "-m", "and another")
    subscriber.out.wait_for("^and another$")


def test_the_commands_of_the_page(
    launch: Callable[..., Monconn],
    program: FindProgram,
    serve: Callable[..., Backend],
    tmp_path: Path,
) -> None:
    """A certificate is made, and tried with curl and openssl, as docs/tls.md has it."""
    for name in "openssl", "curl":
        program(name)
    page = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")
    make, use = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    use = use.partition("curl")[2]
    shell = ["sh", "-e", "-c"]
    subprocess.run([*shell, make], cwd=tmp_path, check=True, capture_output=True)

    def answer(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello\n")

    service = {
        "listen": "127.0.0.1:0",
        "tls": {"certificate": str(tmp_path / "web.pem"), "key": str(tmp_path / "web.key")},
        "backend": f"127.0.0.1:{serve(answer).port}",
    }
    file = write(tmp_path, web=service)
    run(Path(sys.executable).with_name("monconn"), "check", file)
    monconn = launch("monconn", "-c", file)
    use = f"curl {use}".replace("8443", str(monconn.port()))
    done = subprocess.run(
        [*shell, use],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    assert done.stdout.startswith("hello\n")
    assert "Verification: OK" in done.stdout + done.stderr


def test_what_is_known_of_a_handshake(monconn: Monconn, program: FindProgram) -> None:
    """It can be asked for as any other fact can."""
    where = ["-connect", f"127.0.0.1:{monconn.port('mqtt')}", "-servername", "device.example.org"]
    argv = [program("openssl"), "s_client", *where, "-tls1_2", "-alpn", "http/1.1,mqtt"]
    client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    ask: list[str | Path] = [
        Path(sys.executable).with_name("monconn"),
        "list",
        "--json",
        "service:mqtt",
    ]
    try:
        until(lambda: json.loads(run(*ask, "state:open")), "the connection")
        (row,) = json.loads(run(*ask, "tls_version:1.2"))
        assert row["facts"] == {
            "tls_version": "1.2",
            "tls_server_name": "device.example.org",
            "alpn": "mqtt",
        }
        assert row["pipe"] == "tls"
        assert json.loads(run(*ask, "tls_version:1.3")) == []
    finally:
        client.kill()
        client.wait()
        assert client.stdin is not None
        client.stdin.close()
