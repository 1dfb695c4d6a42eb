"""The page behind nginx, as docs/web.md configures it: a UNIX socket, and a certificate."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from cryptography import x509

from tests import ROOT
from tests.certificates import make_certificate

from .programs import HANG_SECONDS, SCRIPTS, Monconn, Program, accepts, free_port, until
from .test_programs import NGINX_IN_A_FOLDER, user_line

HOST = "monconn.example.org"


@attrs.frozen
class Site:
    """Where the page is reached.

    :param link: what ``monconn web --print`` has printed.
    """

    port: int
    trusted: ssl.SSLContext
    link: str

    def connection(self) -> http.client.HTTPConnection:
        """A connection to nginx, which takes it for the documented host."""

        class _Here(http.client.HTTPSConnection):
            def connect(this) -> None:
                plain = socket.create_connection(("127.0.0.1", self.port), HANG_SECONDS)
                this.sock = self.trusted.wrap_socket(plain, server_hostname=HOST)

        return _Here(HOST)


def block_of_page(language: str, first_line: str) -> str:
    """A block of docs/web.md."""
    text = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n({re.escape(first_line)}.*?)^```", text, re.M | re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def site(
    tmp_path: Path,
    launch: Callable[..., Monconn],
    start: Callable[..., Program],
    program: Callable[[str], str],
) -> Site:
    nginx = program("nginx")
    made = make_certificate(tmp_path / "certificate", [x509.DNSName(HOST)], common_name=HOST)
    socket_path = tmp_path / "http.sock"
    section = block_of_page("yaml", "http: {listen: unix:")
    config = tmp_path / "monconn.yaml"
    config.write_text(
        section.replace("/run/monconn/http.sock", str(socket_path))
        + "services: {web: {listen: 127.0.0.1:0, backend: 127.0.0.1:9}}\n"
        + f"control: {{listen: unix:{tmp_path / 'control.sock'}}}\n"
    )
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    launch("monconn", "-c", config, env=environment).port()
    port = free_port()
    server = block_of_page("text", "# /etc/nginx/conf.d/monconn.conf")
    for documented, ours in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/monconn/fullchain.pem", str(made.certificate)),
        ("/etc/monconn/privkey.pem", str(made.key)),
        ("/run/monconn/http.sock", str(socket_path)),
    ):
        assert documented in server
        server = server.replace(documented, ours)
    nginx_config = tmp_path / "nginx.conf"
    head = NGINX_IN_A_FOLDER.format(folder=tmp_path, user=user_line("user root;"))
    nginx_config.write_text(f"master_process off;\n{head}{server}}}\n")
    running = start(nginx, "-p", tmp_path, "-c", nginx_config, "-e", "stderr")
    until(lambda: accepts(port) or running.process.poll() is not None, "nginx")
    asked = start(SCRIPTS / "monconn", "web", "--print", "--control", tmp_path / "control.sock")
    link = asked.out.wait_for(rf"https://{re.escape(HOST)}/\S+")[0]
    return Site(port, made.client_side(), link)


def test_the_page_is_used_through_a_proxy_as_documented(site: Site) -> None:
    code = site.link.partition("#login/")[2]
    connection = site.connection()
    headers = {"Content-Type": "application/json", "Origin": f"https://{HOST}"}
    body = json.dumps({"code": code})
    connection.request("POST", "/api/v1/session", body, headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 204
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert "; Secure" in cookie  # though it came over the socket in the clear
    session = {"Cookie": cookie.partition(";")[0]}

    connection.request("GET", "/api/v1/services", headers=session)
    rows = json.loads(connection.getresponse().read())["rows"]
    assert [row["sid"] for row in rows] == ["web"]

    connection.request("GET", "/api/v1/live", headers=session)
    stream = connection.getresponse()
    text = b""
    while text.count(b"event: tick") < 2:  # they come one by one, and not when a buffer is full
        text += stream.fp.readline()
    connection.close()

    elsewhere = site.connection()
    elsewhere.request("GET", "/api/v1/services", headers=session | {"Host": "evil.example"})
    assert elsewhere.getresponse().status == 421
    elsewhere.close()
