"""What real programs' first bytes say: curl, openssl, ssh and psql."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from monconn.relay.sockets.loop import HAS_EPOLL
from tests.certificates import make_certificate

from .programs import HANG_SECONDS, Backend, Monconn, until

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
ANSWERS = {
    "http": (PAGE,),
    "https": (b"",),
    "https_here": (PAGE,),
    "mqtts": (b"",),
    "ssh": (b"SSH-2.0-pump_1.0 beta\r\n",),
    "postgresql": (b"N", b""),
}
"""What the backend of each service answers."""

FactsOf = Callable[..., dict[str, Any]]


def answers(*answers: bytes) -> Callable[[socket.socket], None]:
    """A backend's part: an answer to each chunk; then it leaves."""

    def serve(client: socket.socket) -> None:
        for each in answers:
            client.recv(65536)
            client.sendall(each)

    return serve


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FactsOf]:
    """Runs a program against one of the services, and returns the facts in the log; what the
    program thinks of it does not matter."""
    folder = tmp_path_factory.mktemp("decoding")
    log = folder / "log.json"
    with ExitStack() as running:
        services: dict[str, dict[str, object]] = {}
        for name, given in ANSWERS.items():
            backend = Backend(answers(*given))
            running.callback(backend.close)
            services[name] = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{backend.port}"}
        if HAS_EPOLL:
            ours = make_certificate(folder / "ours")
            tls = {"certificate": str(ours.certificate), "key": str(ours.key)}
            services["https_here"]["tls"] = tls
        config = {"services": services, "json_log": {"path": str(log)}, "control": False}
        (folder / "monconn.yaml").write_text(json.dumps(config))
        monconn = Monconn("monconn", ("-c", folder / "monconn.yaml"), folder)
        running.callback(monconn.close)

        def find(service: str, *argv: str) -> dict[str, Any]:
            port = str(monconn.port(service))
            subprocess.run(
                [each.replace("PORT", port) for each in argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=HANG_SECONDS,
                cwd=folder,
            )

            def closed() -> Any:
                lines = log.read_text().splitlines() if log.exists() else []
                events = [json.loads(each) for each in lines]
                return [
                    each
                    for each in events
                    if (each["event"], each["service"]) == ("closed", service)
                ]

            facts: dict[str, Any] = until(closed)[0]["facts"]
            return facts

        yield find


def test_curl(program: Callable[[str], str], facts_of: FactsOf) -> None:
    curl = program("curl")
    url = "http://www.example.org:PORT/things/7?token=secret"
    resolve = "www.example.org:PORT:127.0.0.1"
    facts = facts_of("http", curl, "--noproxy", "*", "-u", "ada:pw", "--resolve", resolve, url)
    assert facts.pop("http_host").startswith("www.example.org:")
    assert facts == {"protocol": "http", "http_method": "GET", "http_path": "/things/7"}


def test_curl_over_tls_that_passes_through(
    program: Callable[[str], str], facts_of: FactsOf
) -> None:
    resolve = "www.example.org:PORT:127.0.0.1"
    url = "https://www.example.org:PORT/"
    assert facts_of(
        "https", program("curl"), "--noproxy", "*", "-k", "--resolve", resolve, url
    ) == {
        "protocol": "tls",
        "tls_server_name": "www.example.org",
        "tls_alpn_offered": "h2,http/1.1",
    }


@pytest.mark.skipif(not HAS_EPOLL, reason="TLS of our own needs epoll")
def test_curl_over_tls_that_ends_here(program: Callable[[str], str], facts_of: FactsOf) -> None:
    url = "https://localhost:PORT/x"
    facts = facts_of("https_here", program("curl"), "--noproxy", "*", "-k", url)
    assert facts["protocol"] == "http"
    assert facts["http_path"] == "/x"
    assert facts["tls_server_name"] == "localhost"
    assert "tls_alpn_offered" not in facts


def test_openssl(program: Callable[[str], str], facts_of: FactsOf) -> None:
    names = ("-servername", "broker.example.org", "-alpn", "mqtt,x-amzn-mqtt-ca")
    facts = facts_of("mqtts", program("openssl"), "s_client", "-connect", "127.0.0.1:PORT", *names)
    assert facts == {
        "protocol": "tls",
        "tls_server_name": "broker.example.org",
        "tls_alpn_offered": "mqtt,x-amzn-mqtt-ca",
    }


def test_ssh(program: Callable[[str], str], facts_of: FactsOf) -> None:
    options = ("-F", "none", "-o", "BatchMode=yes", "-p", "PORT", "ada@127.0.0.1")
    facts = facts_of("ssh", program("ssh"), *options)
    assert facts.pop("ssh_client").startswith("SSH-2.0-OpenSSH")
    assert facts == {"protocol": "ssh", "ssh_server": "SSH-2.0-pump_1.0 beta"}


def test_psql(facts_of: FactsOf) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed: its start-up is also written by hand")
    wanted = "host=127.0.0.1 port=PORT user=ada dbname=sales sslmode=prefer gssencmode=disable"
    facts = facts_of("postgresql", psql, "-w", wanted)
    assert facts == {
        "protocol": "postgresql",
        "postgresql_user": "ada",
        "postgresql_database": "sales",
    }
