"""What real programs' first bytes say: curl, openssl, ssh and psql."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monconn.relay.sockets.loop import HAS_EPOLL
from tests.certificates import make_certificate

from .programs import HANG_SECONDS, Backend, Monconn, until

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


def answers(*answers: bytes) -> Callable[[socket.socket], None]:
    """A backend's part: an answer to each chunk; then it leaves."""

    def serve(client: socket.socket) -> None:
        for each in answers:
            client.recv(65536)
            client.sendall(each)

    return serve


@pytest.fixture
def facts_of(
    launch: Callable[..., Monconn], serve: Callable[..., Backend], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Runs a program against a service whose backend gives these answers, and returns the facts in
    the log; what the program thinks of it does not matter."""

    def find(*argv: str, answer: tuple[bytes, ...] = (b"",), **service: object) -> dict[str, Any]:
        log = tmp_path / "log.json"
        backend = serve(answers(*answer))
        services = {
            "one": {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{backend.port}", **service}
        }
        config = {"services": services, "json_log": {"path": str(log)}, "control": False}
        (tmp_path / "monconn.yaml").write_text(json.dumps(config))
        port = launch("monconn", "-c", tmp_path / "monconn.yaml").port("one")
        subprocess.run(
            [each.replace("PORT", str(port)) for each in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HANG_SECONDS,
            cwd=tmp_path,
        )

        def closed() -> Any:
            lines = log.read_text().splitlines() if log.exists() else []
            events = [json.loads(each) for each in lines]
            return [each for each in events if each["event"] == "closed"]

        facts: dict[str, Any] = until(closed)[0]["facts"]
        return facts

    return find


FactsOf = Callable[..., dict[str, Any]]


def test_curl(program: Callable[[str], str], facts_of: FactsOf) -> None:
    curl = program("curl")
    url = "http://www.example.org:PORT/things/7?token=secret"
    resolve = "www.example.org:PORT:127.0.0.1"
    facts = facts_of(
        curl, "--noproxy", "*", "-u", "ada:pw", "--resolve", resolve, url, answer=(PAGE,)
    )
    assert facts.pop("http_host").startswith("www.example.org:")
    assert facts == {"protocol": "http", "http_method": "GET", "http_path": "/things/7"}


def test_curl_over_tls_that_passes_through(
    program: Callable[[str], str], facts_of: FactsOf
) -> None:
    resolve = "www.example.org:PORT:127.0.0.1"
    url = "https://www.example.org:PORT/"
    assert facts_of(program("curl"), "--noproxy", "*", "-k", "--resolve", resolve, url) == {
        "protocol": "tls",
        "tls_server_name": "www.example.org",
        "tls_alpn_offered": "h2,http/1.1",
    }


@pytest.mark.skipif(not HAS_EPOLL, reason="TLS of our own needs epoll")
def test_curl_over_tls_that_ends_here(
    program: Callable[[str], str], facts_of: FactsOf, tmp_path: Path
) -> None:
    ours = make_certificate(tmp_path / "ours")
    tls = {"certificate": str(ours.certificate), "key": str(ours.key)}
    facts = facts_of(
        *(program("curl"), "--noproxy", "*", "-k"),
        "https://localhost:PORT/x",
        answer=(PAGE,),
        tls=tls,
    )
    assert facts["protocol"] == "http"
    assert facts["http_path"] == "/x"
    assert facts["tls_server_name"] == "localhost"
    assert "tls_alpn_offered" not in facts


def test_openssl(program: Callable[[str], str], facts_of: FactsOf) -> None:
    names = ("-servername", "broker.example.org", "-alpn", "mqtt,x-amzn-mqtt-ca")
    facts = facts_of(program("openssl"), "s_client", "-connect", "127.0.0.1:PORT", *names)
    assert facts == {
        "protocol": "tls",
        "tls_server_name": "broker.example.org",
        "tls_alpn_offered": "mqtt,x-amzn-mqtt-ca",
    }


def test_ssh(program: Callable[[str], str], facts_of: FactsOf) -> None:
    options = ("-F", "none", "-o", "BatchMode=yes", "-p", "PORT", "ada@127.0.0.1")
    facts = facts_of(program("ssh"), *options, answer=(b"SSH-2.0-pump_1.0 beta\r\n",))
    assert facts.pop("ssh_client").startswith("SSH-2.0-OpenSSH")
    assert facts == {"protocol": "ssh", "ssh_server": "SSH-2.0-pump_1.0 beta"}


def test_psql(facts_of: FactsOf) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed: its start-up is also written by hand")
    wanted = "host=127.0.0.1 port=PORT user=ada dbname=sales sslmode=prefer gssencmode=disable"
    facts = facts_of(psql, "-w", wanted, answer=(b"N", b""))
    assert facts == {
        "protocol": "postgresql",
        "postgresql_user": "ada",
        "postgresql_database": "sales",
    }
