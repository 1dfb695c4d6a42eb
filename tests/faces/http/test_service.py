"""The HTTP port of a program that runs: what it serves, over which transport, and until when."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.config.http import HttpConfig, http_at
from monconn.errors import ConfigError, ListenError
from monconn.faces.http.page_files import PageFiles
from monconn.faces.http.problems import Problem
from monconn.faces.http.service import HttpService, make_factory
from monconn.monitor.registry import Registry
from monconn.net.descriptors import USEFUL_LIMIT, reserve_of
from monconn.net.http.messages import Request, Response
from monconn.ops.operations import Operations
from monconn.run.sources import load
from tests import running_reactor
from tests.certificates import Certificate, make_certificate
from tests.run.reloading import ADMIN, World

HANG_SECONDS = 30.0
Headers = dict[str, str]


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = World(tmp_path)
    yield made
    await made.stop()


def start(world: World, **keys: Any) -> int:
    """Start a program with the section; its port."""
    world.start(world.config(http={"listen": "127.0.0.1:0"} | keys))
    where: str = world.app._http.where
    return 0 if where.startswith("unix:") else int(where.rpartition(":")[2])


async def ask(
    port: int, path: str, method: str = "GET", headers: Headers | None = None, **options: Any
) -> tuple[int, Any, bytes]:
    """The status, headers and body of an answer."""

    def run() -> tuple[int, Any, bytes]:
        if context := options.get("context"):
            client: Any = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=HANG_SECONDS, context=context
            )
        else:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
        try:
            client.request(method, path, headers=headers or {})
            response = client.getresponse()
            return response.status, response.headers, response.read()
        finally:
            client.close()

    return await deferToThread(run)


async def token_of(world: World, role: Any) -> Headers:
    """The header of a new token."""
    access = world.app.operations.access
    assert access is not None
    made = await access.make_token(ADMIN, role, role, "operate")
    return {"Authorization": f"Bearer {made.token}"}


@pytest_twisted.ensureDeferred
async def test_the_configuration_says_what_was_chosen_at_the_start(world: World) -> None:
    port = start(world)
    _, _, body = await ask(port, "/api/v1/config", headers=await token_of(world, "view"))
    found = {
        f"{section['path']}.{each['key']}": each["value"]
        for section in json.loads(body)["sections"]
        for each in section["settings"]
    }
    assert found["http.tokens"] == world.app.operations.http_access().tokens_path
    assert found["capture.folder"].endswith("/captures")


# -- a program of one's own


@pytest_twisted.ensureDeferred
async def test_a_program_of_ones_own_serves_its_monitors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    registry, reactor = Registry(), running_reactor()
    registry.new("echo")
    clock = MonotonicClock(reactor)
    operations = Operations(registry, clock)  # which its control port may have, too
    service = HttpService(http_at("127.0.0.1:0"), registry, reactor, clock, operations)
    service.startService()
    assert service.where is not None
    port = int(service.where.rpartition(":")[2])
    made = await operations.http_access().make_token(ADMIN, "operate")
    headers = {"Authorization": f"Bearer {made.token}"}
    status, _, body = await ask(port, "/api/v1/services", headers=headers)
    assert (status, [row["sid"] for row in json.loads(body)["rows"]]) == (200, ["echo"])
    await service.stopService()


def test_it_listens_for_other_machines_only_with_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    reactor = running_reactor()
    config = HttpConfig(TcpAddress("0.0.0.0", 0))
    service = HttpService(config, Registry(), reactor, MonotonicClock(reactor))
    with pytest.raises(ListenError, match="must be on this machine"):
        service.startService()
    assert service.where is None
    service.stopService()


# -- health


@pytest.mark.parametrize("is_tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_stop_ends_streams_in_order(
    world: World, certificate: Certificate, is_tls: bool
) -> None:
    port = start(world, **({"tls": tls_of(certificate)} if is_tls else {}))
    headers = await token_of(world, "operate")
    begun: list[bytes] = []

    def read(path: str) -> int:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
        if is_tls:
            context = context_of(certificate)
            client = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=HANG_SECONDS, context=context
            )
        with contextlib.closing(client):
            client.request("GET", path, headers=headers)
            response = client.getresponse()
            begun.append(response.read1())
            return len(response.read())  # fails if the last chunk is missing

    paths = ("/api/v1/live", "/api/v1/events", "/api/v1/tap?follow=true")
    reading = [deferToThread(read, path) for path in paths]
    await world.until(lambda: len(begun) == len(paths))
    await world.app.stopService()
    for each in reading:
        await each


@pytest_twisted.ensureDeferred
async def test_health_needs_no_token_and_says_no_more(world: World) -> None:
    port = start(world)
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await ask(port, path, headers={"Host": "balancer"}))[::2] == (
            200,
            b'{"status":"ok"}',
        )
    world.app.supervisor._running["web"].has_lost_address = True
    status, _, body = await ask(port, "/health/ready")
    assert (status, body) == (503, b'{"status":"unavailable"}')
    assert (await ask(port, "/health/live"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_program_that_stops_is_not_ready(world: World) -> None:
    world.start(world.config({"wait_timeout": 60}, http={"listen": "127.0.0.1:0"}))
    port = int(world.app._http.where.rpartition(":")[2])
    await world.connect()
    stopping = world.app.stopService()
    assert (await ask(port, "/health"))[0] == 503
    assert (await ask(port, "/health/live"))[0] == 200
    world.app.stop_now()
    await stopping
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", port)) != 0


# -- metrics


@pytest_twisted.ensureDeferred
async def test_metrics_are_served_to_those_with_a_token(world: World) -> None:
    port = start(world, metrics=True)
    assert (await ask(port, "/metrics"))[0] == 401
    token = await token_of(world, "view")
    status, headers, body = await ask(port, "/metrics", headers=token)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'\nmonconn_connections{service="web"} 0.0\n' in body
    openmetrics = token | {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert (await ask(port, "/metrics", headers=openmetrics))[2].endswith(b"# EOF\n")
    _, _, description = await ask(port, "/openapi.json", headers=token)
    assert {"/metrics", "/health/ready"} <= json.loads(description)["paths"].keys()


@pytest_twisted.ensureDeferred
async def test_metrics_are_not_there_unless_configured(world: World) -> None:
    port = start(world)
    status, _, body = await ask(port, "/metrics", headers=await token_of(world, "view"))
    assert status == 404
    assert b"http: {metrics: true} serves them" in body


@pytest_twisted.ensureDeferred
async def test_both_ports_may_serve_them(world: World) -> None:
    world.start(
        world.config(
            http={"listen": "127.0.0.1:0", "metrics": True}, metrics={"listen": "127.0.0.1:0"}
        )
    )
    token = await token_of(world, "view")
    for service in (world.app._http, world.app._metrics):
        port = int(service.where.rpartition(":")[2])
        assert (await ask(port, "/metrics", headers=token))[0] == 200


# -- a client that keeps its connection


@pytest_twisted.ensureDeferred
async def test_requests_over_one_connection(world: World) -> None:
    port = start(world)
    token = await token_of(world, "view")

    def run() -> list[int]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
        found = []
        for path in ("/api/v1/services", "/nothing", "/api/v1/connections", "/health"):
            client.request("GET", path, headers=token)
            response = client.getresponse()
            found.append(response.status)
            response.read()
            assert client.sock is not None, "it is kept"
        client.close()
        return found

    assert await deferToThread(run) == [200, 404, 200, 200]


@pytest_twisted.ensureDeferred
async def test_clients_that_hold_all_places_keep_no_other_out(world: World) -> None:
    port = start(world)
    most = world.app._http._factory.limits.clients

    def run() -> bytes:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(most + 10)]
        for each in held:
            with suppress(ConnectionError):  # another has its place already
                each.sendall(b"GET /health HTTP/1.1\r\n")
        with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = client.recv(12)
        for each in held:
            each.close()
        return answer

    assert await deferToThread(run) == b"HTTP/1.1 200"
    assert len(world.app._http._factory.clients) <= most


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(USEFUL_LIMIT, (256, 128)), (5120, (256, 128)), (1024, (50, 25)), (64, (4, 2))],
)
def test_few_descriptors_are_few_clients(descriptors: int, expected: tuple[int, int]) -> None:
    limits = make_factory(PageFiles(), Clock(), descriptors).limits  # type: ignore[arg-type]
    assert (limits.clients, limits.streams) == expected
    assert sum(expected) <= max(reserve_of(descriptors), 6)


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_its_side_is_answered(world: World) -> None:
    port = start(world)

    def run() -> bytes:
        with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))

    assert (await deferToThread(run)).count(b'{"status":"ok"}') == 3


# -- where it listens


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_is_its_users_only_and_needs_a_token_too(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "http.sock"
    start(world, listen=f"unix:{path}")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    def run(request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_SECONDS)
            client.connect(str(path))
            client.sendall(request)
            return client.recv(12)

    get = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert await deferToThread(run, get % b"/health") == b"HTTP/1.1 200"
    assert await deferToThread(run, get % b"/api/v1/services") == b"HTTP/1.1 401"


# -- TLS


def context_of(certificate: Certificate, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols([*protocols])
    return context


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def tls_of(certificate: Certificate) -> dict[str, str]:
    return {"certificate": str(certificate.certificate), "key": str(certificate.key)}


@pytest_twisted.ensureDeferred
async def test_https(world: World, certificate: Certificate) -> None:
    port = start(world, tls=tls_of(certificate), metrics=True)
    token = await token_of(world, "view")
    for protocols in ((), ("http/1.1",), ("h2", "http/1.1")):
        context = context_of(certificate, *protocols)
        status, _, body = await ask(port, "/metrics", headers=token, context=context)
        assert status == 200
        assert body.count(b"\nmonconn_build_info") == 1
    access = world.app.operations.access
    assert access is not None
    assert access.url().startswith("https://")


@pytest_twisted.ensureDeferred
async def test_the_protocol_is_chosen(world: World, certificate: Certificate) -> None:
    port = start(world, tls=tls_of(certificate))

    def chosen(*protocols: str) -> str | None:
        with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as client:
            context = context_of(certificate, *protocols)
            return context.wrap_socket(client).selected_alpn_protocol()

    assert await deferToThread(chosen, "h2", "http/1.1") == "http/1.1"
    assert await deferToThread(chosen) is None
    with pytest.raises(ssl.SSLError):
        await deferToThread(chosen, "h2")


@pytest_twisted.ensureDeferred
async def test_a_long_answer_and_pipelined_requests_over_tls(
    world: World, certificate: Certificate
) -> None:
    port = start(world, tls=tls_of(certificate))
    app = world.app._http._app
    body = bytes(range(256)) * 4000
    elsewhere = app._elsewhere
    app._elsewhere = lambda request: (
        Response(200, body) if request.path == "/long" else elsewhere(request)
    )

    def run() -> bytes:
        with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as plain:
            client = context_of(certificate).wrap_socket(plain)
            client.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: client.recv(65536), b""))

    answer = await deferToThread(run)
    assert answer.count(body) == 2
    assert answer.endswith(b'{"status":"ok"}')


@pytest_twisted.ensureDeferred
async def test_plain_http_to_the_port_of_https_harms_nobody(
    world: World, certificate: Certificate
) -> None:
    port = start(world, tls=tls_of(certificate))

    def run() -> None:
        for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00", b""):
            with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as client:
                client.sendall(sent)

    await deferToThread(run)
    assert (await ask(port, "/health", context=context_of(certificate)))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_reload_reads_the_certificate_again(world: World, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one, other = make_certificate(tmp_path / "one"), make_certificate(tmp_path / "other")
    port = start(world, tls=tls_of(one))
    connections = world.app._http._tls

    async def is_trusted(certificate: Certificate) -> bool:
        try:
            return (await ask(port, "/health", context=context_of(certificate)))[0] == 200
        except ssl.SSLError:
            return False

    assert (await is_trusted(one), await is_trusted(other)) == (True, False)
    digest = connections.digest
    one_pem = one.certificate.read_bytes()
    one.certificate.write_bytes(other.certificate.read_bytes())
    with pytest.raises(ConfigError, match="is not that of the first certificate"):
        await world.reload()
    one.key.write_bytes(other.key.read_bytes())
    await world.reload()
    await world.until(lambda: connections.digest != digest)
    one.certificate.write_bytes(one_pem)
    assert (await is_trusted(one), await is_trusted(other)) == (False, True)


@pytest.mark.parametrize(
    ("tls", "key", "message"),
    [
        ({"certificate": "nothing", "key": "key"}, "certificate", "No such file"),
        ({"certificate": "certificate", "key": "nothing"}, "key", "No such file"),
        ({"certificate": "certificate", "key": "certificate"}, "key", "has no private key"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, certificate: Certificate, tls: dict[str, str], key: str, message: str
) -> None:
    files = {"certificate": certificate.certificate, "key": certificate.key}
    named = {name: str(files.get(each, tmp_path / each)) for name, each in tls.items()}
    file = tmp_path / "monconn.yaml"
    section = {"listen": ":0", "tls": named}
    service = {"web": {"listen": ":0", "backend": ":9"}}
    file.write_text(json.dumps({"http": section, "services": service}))
    with pytest.raises(ConfigError) as raised:
        load(str(file))
    (problem,) = raised.value.problems
    assert problem.path == f"http.tls.{key}"
    assert message in problem.message


# -- the page's files


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Any]:
    folder = tmp_path / "page"
    (folder / "views").mkdir(parents=True)
    (folder / "index.html").write_text("<!DOCTYPE html>" + "x" * 1000)
    (folder / "views" / "one.js").write_text("export default 1;" * 100)
    (folder / "notes.txt").write_text("not served")
    (tmp_path / "secret.js").write_text("outside")
    files = PageFiles(folder)
    (folder / "index.html").write_text("changed since")

    def find(path: str, method: str = "GET", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return files(Request(method, path, headers=named))

    return find


def test_files_are_served_as_they_were_at_the_start(page: Callable[..., Any]) -> None:
    first, script = page("/"), page("/page/views/one.js")
    assert first.body == page("/page/index.html").body == b"<!DOCTYPE html>" + b"x" * 1000
    assert first.content_type == "text/html; charset=utf-8"
    assert script.content_type == "text/javascript; charset=utf-8"
    headers = dict(script.headers)
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    zipped = page("/page/views/one.js", accept_encoding="br, gzip")
    assert dict(zipped.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == script.body
    for accept in ("br", "gzip;q=0", "gzip; q=0.000"):
        assert page("/page/views/one.js", accept_encoding=accept) == script


def test_a_file_that_is_known_is_not_sent_again(page: Callable[..., Any]) -> None:
    plain, zipped = (
        dict(page("/", accept_encoding=coding).headers)["ETag"] for coding in ("", "gzip")
    )
    assert plain != zipped
    for known in (plain, f'"other", W/{plain}', zipped, "*"):
        again = page("/", if_none_match=known)
        assert (again.status, again.body, dict(again.headers)["ETag"]) == (304, b"", plain)
    assert page("/", if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/notes.txt",
        "/page/views",
        "/page/../secret.js",
        "/page/%2e%2e/secret.js",
        "/page/views/../../secret.js",
        "/page//views/one.js",
        "/page/views/one.js/",
        "/page/views%2fone.js",
        "/page/views\\one.js",
        "/page/\x00",
        "/index.html",
        "//",
        "",
        "*",
    ],
)
def test_nothing_else_is_a_file(page: Callable[..., Any], path: str) -> None:
    assert page(path) is None


def test_files_can_only_be_read(page: Callable[..., Any]) -> None:
    assert page("/", "HEAD").status == 200
    with pytest.raises(Problem) as raised:
        page("/", "POST")
    assert (raised.value.status, raised.value.headers) == (405, (("Allow", "GET, HEAD"),))


@pytest_twisted.ensureDeferred
async def test_those_who_guess_leave_places_for_others(world: World) -> None:
    port = start(world)
    service: Any = world.app._http
    assert service._guard.most_waiting == service._factory.limits.clients // 4 == 64
    service._guard.most_waiting = 0
    wrong = {"Authorization": f"Bearer {'x' * 43}"}
    assert (await ask(port, "/api/v1/session", headers=wrong))[0] == 429
    assert (await ask(port, "/api/v1/session", headers=await token_of(world, "view")))[0] == 200
