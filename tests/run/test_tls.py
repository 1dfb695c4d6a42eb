"""Services with TLS, from one configuration to the next: certificates are renewed."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from monconn.addresses import EndpointAddress, TcpAddress
from monconn.config.config import ServiceConfig
from monconn.errors import AddressError, ListenError
from monconn.policy.tls import BackendTls, ListenTls
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.run.supervisor import Changes
from tests import ROOT
from tests.certificates import Certificate, make_certificate

from .test_supervisor import ANY, HANG_SECONDS, World

if not HAS_EPOLL:
    pytest.skip("TLS of our own needs epoll", allow_module_level=True)


@pytest_twisted.async_yield_fixture
async def world() -> Any:
    world = World()
    yield world
    await world.end()


@attrs.frozen
class Files:
    """A certificate and its key, for others to be put in their place."""

    folder: Path
    certificate: Path
    key: Path

    def put(self, made: Certificate) -> None:
        self.certificate.write_bytes(made.certificate.read_bytes())
        self.key.write_bytes(made.key.read_bytes())

    @property
    def tls(self) -> ListenTls:
        return ListenTls(str(self.certificate), str(self.key))


@pytest.fixture
def certificates(tmp_path: Path) -> list[Certificate]:
    return [make_certificate(tmp_path / name, common_name=name) for name in ("old", "new")]


@pytest.fixture
def files(tmp_path: Path, certificates: list[Certificate]) -> Files:
    made = Files(tmp_path, tmp_path / "certificate.pem", tmp_path / "key.pem")
    made.put(certificates[0])
    return made


async def connect(world: World) -> ssl.SSLSocket:
    """A client that has got the backend's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port_of(world)), timeout=HANG_SECONDS)
        client = context.wrap_socket(plain)
        world.sockets.append(client)
        world.backends[b"A"].serve()
        assert client.recv(1) == b"A"
        return client

    client: ssl.SSLSocket = await deferToThread(connect)
    return client


def shown(client: ssl.SSLSocket) -> str:
    """The common name of the certificate that a client has seen."""
    der = client.getpeercert(binary_form=True)
    assert der is not None
    subject = x509.load_der_x509_certificate(der).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


async def answers(world: World, client: ssl.SSLSocket) -> bool:
    """Whether the first connection still works."""
    world.backends[b"A"].clients[0].sendall(b"!")
    answer: bytes = await deferToThread(client.recv, 1)
    return answer == b"!"


def port_of(world: World, name: str = "web") -> int:
    """The port of a service whose listener is written in whatever style."""
    found = re.search(r":(\d+)(:|$)", world.monitor(name).listen)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("style", ["keys", "endpoint string"])
@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate(
    world: World, files: Files, certificates: list[Certificate], style: str
) -> None:
    service = attrs.evolve(world.service(), tls=files.tls)
    if style == "endpoint string":
        ssl = f"ssl:0:interface=127.0.0.1:privateKey={files.key}:certKey={files.certificate}"
        service = world.service(listen=EndpointAddress(ssl))
    await world.supervisor.apply((), [service])
    port = port_of(world)
    old = await connect(world)
    assert shown(old) == "old"
    assert not await world.supervisor.apply([service], [service]), "nothing has changed"
    files.put(certificates[1])
    changes = await world.supervisor.apply([service], [service])
    assert changes == Changes(changed={"web": ("tls",)})
    assert port_of(world) == port
    assert shown(await connect(world)) == "new"
    assert await answers(world, old)
    assert not await world.supervisor.apply([service], [service])


@pytest_twisted.ensureDeferred
async def test_other_settings(world: World, files: Files) -> None:
    service = attrs.evolve(world.service(), tls=files.tls)
    await world.supervisor.apply((), [service])
    old = await connect(world)
    other = attrs.evolve(service, tls=attrs.evolve(files.tls, minimum_version="1.3"))
    changes = await world.supervisor.apply([service], [other])
    assert changes == Changes(changed={"web": ("tls",)})
    assert (await connect(world)).version() == "TLSv1.3"
    assert await answers(world, old)


@pytest_twisted.ensureDeferred
async def test_a_new_key_that_cannot_be_used_leaves_the_old_one(
    world: World, files: Files, certificates: list[Certificate]
) -> None:
    service = attrs.evolve(world.service(), tls=files.tls)
    await world.supervisor.apply((), [service])
    old = await connect(world)
    files.key.write_bytes(certificates[1].key.read_bytes())
    for new in ([service], [service.changed(conn_limit=1)], [service, world.service("second")]):
        with pytest.raises(ListenError, match="is not that of the first certificate in"):
            await world.supervisor.apply([service], new)
    assert world.supervisor.services == (service,)
    assert world.monitor().rules.conn_limit == 0
    assert shown(await connect(world)) == "old"
    assert await answers(world, old)


@pytest_twisted.ensureDeferred
async def test_an_expired_certificate_is_warned_of(
    world: World, files: Files, tmp_path: Path
) -> None:
    files.put(make_certificate(tmp_path / "expired", days=(-9, -2)))
    warned: list[LogEvent] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.warn:
            warned.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        await world.supervisor.apply((), [attrs.evolve(world.service(), tls=files.tls)])
    finally:
        globalLogPublisher.removeObserver(observe)
    (text,) = map(formatEvent, warned)
    assert text.startswith(f'web: the certificate in "{files.certificate}" has expired on 2')


@pytest_twisted.ensureDeferred
async def test_renewed_authorities_of_a_backend(
    world: World, files: Files, certificates: list[Certificate]
) -> None:
    backend = EndpointAddress(f"tls:{world.backends[b'A'].address}")
    tls = BackendTls(str(files.certificate))
    service = attrs.evolve(world.service(), backend=backend, backend_tls=tls)
    await world.supervisor.apply((), [service])
    assert world.monitor().backend == str(backend)
    assert not await world.supervisor.apply([service], [service])
    files.put(certificates[1])
    changes = await world.supervisor.apply([service], [service])
    assert changes == Changes(changed={"web": ("backend_tls",)})
    files.certificate.unlink()
    with pytest.raises(AddressError, match=r"^web: cannot use tls:.* cannot be read"):
        await world.supervisor.apply([service], [service])


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_missing_at_the_start(world: World, tmp_path: Path) -> None:
    tls = ListenTls(str(tmp_path / "missing"))
    with pytest.raises(ListenError, match=r"^cannot listen on 127\.0\.0\.1:0: .* cannot be read"):
        await world.supervisor.apply((), [attrs.evolve(world.service(), tls=tls)])
    assert world.registry.names() == []


@pytest_twisted.ensureDeferred
async def test_a_listener_moves_to_where_one_with_another_style_was(
    world: World, files: Files
) -> None:
    """The port that a port of 0 became is known for both styles, and is given up in time."""
    text = f"ssl:0:interface=127.0.0.1:privateKey={files.key}:certKey={files.certificate}"
    before = world.service("before", EndpointAddress(text))
    await world.supervisor.apply((), [before])
    port = port_of(world, "before")
    assert world.monitor("before").listen == text.replace(":0:", f":{port}:")
    after = attrs.evolve(world.service(listen=TcpAddress("127.0.0.1", port)), tls=files.tls)
    await world.supervisor.apply([before], [after])
    assert port_of(world) == port
    assert shown(await connect(world)) == "old"


@pytest_twisted.ensureDeferred
async def test_without_epoll_only_twisted_has_tls(world: World, files: Files) -> None:
    service = attrs.evolve(world.service(), tls=files.tls)
    with (
        patch("monconn.run.ports.HAS_EPOLL", False),
        pytest.raises(ListenError, match=r"^cannot listen on 127\.0\.0\.1:0: tls needs epoll"),
    ):
        await world.supervisor.apply((), [service])


@pytest.mark.parametrize("has_epoll", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_backend_with_tls(
    world: World, certificates: list[Certificate], has_epoll: bool
) -> None:
    """With or without epoll: then Twisted connects, and the TLS is the same."""
    trusted, other = certificates

    def serve(server: socket.socket) -> str:
        client, _ = server.accept()
        try:
            with trusted.server_side().wrap_socket(client, server_side=True) as wrapped:
                wrapped.sendall(b"hello")
                return "served"
        except ssl.SSLError as error:
            return str(error)

    def call(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as client:
            return client.recv(5)

    def service(name: str, port: int, ca: Certificate) -> ServiceConfig:
        tls = BackendTls(str(ca.certificate), server_name="localhost")
        backend = EndpointAddress(f"tls:127.0.0.1:{port}")
        return ServiceConfig(name, ANY, backend, backend_tls=tls)

    with (
        patch("monconn.run.ports.HAS_EPOLL", has_epoll),
        patch("monconn.relay.paths.HAS_EPOLL", has_epoll),
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        server.settimeout(HANG_SECONDS)
        port = server.getsockname()[1]
        services = [service("right", port, trusted), service("wrong", port, other)]
        await world.supervisor.apply((), services)
        for name, expected in (("right", b"hello"), ("wrong", b"")):
            serving = deferToThread(serve, server)
            assert await deferToThread(call, port_of(world, name)) == expected
            served = await serving
            assert served == "served" if expected else "alert" in served
    await world.until(lambda: world.monitor("wrong").closed_records)
    (record,) = world.monitor("wrong").closed_records
    assert record.reason == "backend_unreachable"
    assert record.detail.startswith("the backend's certificate is not trusted: it is self-signed")


def test_full_services_with_tls_may_leave_clients_waiting(files: Files) -> None:
    from monconn.run.supervisor import _policy_of

    ssl = EndpointAddress(f"ssl:0:privateKey={files.key}:certKey={files.certificate}")
    for listen in (ANY, ssl):
        config = ServiceConfig("web", listen, ANY).changed(when_full="wait")
        assert _policy_of(config).rules.when_full == "wait"
        with patch("monconn.run.ports.HAS_EPOLL", False):
            expected = "wait" if listen is ANY else "refuse"
            assert _policy_of(config).rules.when_full == expected


@pytest_twisted.ensureDeferred
async def test_the_program_of_the_page(
    world: World,
    certificates: list[Certificate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/tls.md has it, with a port that is free, and files that are renewed where it says."""
    page = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    files = Files(tmp_path, tmp_path / "web.pem", tmp_path / "web.key")
    files.put(certificates[0])
    monkeypatch.chdir(tmp_path)
    block = block.replace("8443", "0").replace("# once", "files.put(new)  #")
    block = block.replace("8080", str(world.backends[b"A"].address.port))
    lines = "".join(f"    {line}\n" for line in block.splitlines())
    names: dict[str, Any] = {
        "supervisor": world.supervisor,
        "files": files,
        "new": certificates[1],
    }
    exec(f"async def program():\n{lines}", names)
    await names["program"]()
    assert shown(await connect(world)) == "new"
