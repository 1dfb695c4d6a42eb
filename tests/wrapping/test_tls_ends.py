"""How TLS connections of wrapped factories end: in order, cut, reset or refused."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.ssl import (
    Certificate as TwistedCertificate,
)
from twisted.internet.ssl import CertificateOptions, PrivateCertificate, optionsForClientTLS
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.wrapping import MonitoringFactory
from tests.certificates import Certificate, make_certificate

PATIENCE_SECONDS = 20.0
HOST = "127.0.0.1"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
CUT = "the {} ended without close_notify"
UNFINISHED = "the {} has left amid the handshake"

Talk = Callable[[socket.socket, Callable[[socket.socket], ssl.SSLSocket]], None]


# -- what the peer does; it gets its socket, and what begins TLS on it


def greet(sock: socket.socket, begin: Callable[[socket.socket], ssl.SSLSocket]) -> ssl.SSLSocket:
    tls = begin(sock)
    tls.sendall(b"hello")
    assert tls.recv(5) == b"hello"
    return tls


def ends_in_order(sock: socket.socket, begin: Any) -> None:
    tls = greet(sock, begin)
    tls.unwrap()
    tls.close()


def ends_by_a_bare_fin(sock: socket.socket, begin: Any) -> None:
    greet(sock, begin).close()


def resets(sock: socket.socket, begin: Any) -> None:
    tls = greet(sock, begin)
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tls.close()


def says_nothing(sock: socket.socket, begin: Any) -> None:
    sock.close()


def listens_and_ends(sock: socket.socket, begin: Any) -> None:
    sock.recv(65536)  # else the kernel sends a reset, as something is unread
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(4096):
        pass


def resets_at_once(sock: socket.socket, begin: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def resets_amid_the_handshake(sock: socket.socket, begin: Any) -> None:
    sock.recv(1)
    resets_at_once(sock, begin)


def speaks_http(sock: socket.socket, begin: Any) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    while sock.recv(4096):
        pass


def answers_in_clear_text(sock: socket.socket, begin: Any) -> None:
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    while sock.recv(4096):
        pass


def begins_and_waits(sock: socket.socket, begin: Any) -> None:
    tls = begin(sock)
    while tls.recv(4096):
        pass


def waits_and_ends_by_a_bare_fin(sock: socket.socket, begin: Any) -> None:
    tls = begin(sock)
    tls.sendall(b"bye")
    while tls.recv(4096):
        pass
    tls.close()


# -- the wrapped side


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        if data == b"bye":
            self.transport.loseConnection()


class StartsTls(Echo):
    def __init__(self, options: CertificateOptions) -> None:
        self.options = options

    def connectionMade(self) -> None:
        self.transport.startTLS(self.options)


class ClosesBeneath(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.transport.loseConnection()  # that of the wrapper


class ClosesAtOnce(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.loseConnection()


class World:
    def __init__(self, certificate: Certificate) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.certificate = certificate
        self.monitor = Monitor("tls")
        self.over: DeferredQueue[ConnectionRecord] = DeferredQueue()
        observer = Observer()
        observer.closed = self.over.put  # type: ignore[assignment,method-assign]
        self.monitor.add_observer(observer)
        self.ports: list[Any] = []
        self.socket = socket.create_server((HOST, 0))
        self.socket.settimeout(PATIENCE_SECONDS)

    def options(self) -> CertificateOptions:
        pem = self.certificate.key.read_bytes() + self.certificate.certificate.read_bytes()
        options: CertificateOptions = PrivateCertificate.loadPEM(pem).options()
        return options

    def ended(self) -> Deferred[ConnectionRecord]:
        return self.over.get().addTimeout(PATIENCE_SECONDS, self.reactor)

    async def client_does(
        self,
        talk: Talk,
        context: ssl.SSLContext,
        protocol: Callable[[], Protocol] = Echo,
        *,
        tls: bool = True,
    ) -> ConnectionRecord:
        """The record of a wrapped server's connection."""
        factory: Any = Factory()
        factory.buildProtocol = lambda _: protocol()
        wrapped = MonitoringFactory(self.monitor, factory)
        if tls:
            port = self.reactor.listenSSL(0, wrapped, self.options(), interface=HOST)
        else:
            port = self.reactor.listenTCP(0, wrapped, interface=HOST)
        self.ports.append(port)
        where = HOST, port.getHost().port

        def run() -> None:
            with socket.create_connection(where, timeout=PATIENCE_SECONDS) as sock:
                talk(sock, lambda s: context.wrap_socket(s, server_hostname="localhost"))

        return await self._record(run)

    async def server_does(
        self, talk: Talk, version: ssl.TLSVersion, creator: Any, protocol: type[Protocol] = Echo
    ) -> ConnectionRecord:
        """The record of a wrapped client's connection."""
        context = self.certificate.server_side()
        context.minimum_version = context.maximum_version = version
        wrapped = MonitoringFactory(self.monitor, _client_factory(protocol), is_client=True)
        tls = TLSMemoryBIOFactory(creator, True, wrapped)
        self.reactor.connectTCP(*self.socket.getsockname(), tls)

        def run() -> None:
            sock, _ = self.socket.accept()
            sock.settimeout(PATIENCE_SECONDS)
            with sock:
                talk(sock, lambda s: context.wrap_socket(s, server_side=True))

        return await self._record(run)

    async def _record(self, run: Callable[[], None]) -> ConnectionRecord:
        def ignore_expected(failure: Failure) -> None:
            failure.trap(OSError)  # the peer of a connection that fails has an error itself

        talking = deferToThread(run).addErrback(ignore_expected)
        record = await self.ended()
        await talking.addTimeout(PATIENCE_SECONDS, self.reactor)
        return record

    async def clear(self) -> None:
        self.socket.close()
        for port in self.ports:
            await port.stopListening()


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.certificate))


def _client_factory(protocol: type[Protocol]) -> ClientFactory:
    factory = ClientFactory()
    factory.noisy = False
    factory.protocol = protocol
    return factory


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest_twisted.async_yield_fixture
async def world(certificate: Certificate) -> Any:
    world = World(certificate)
    yield world
    await world.clear()


@attrs.frozen
class Ends:
    reason: str
    client_end: str
    backend_end: str
    detail: str = ""

    @classmethod
    def of(cls, record: ConnectionRecord) -> Ends:
        return cls(str(record.reason), record.client_end, record.backend_end, record.detail)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("talk", "ends"),
    [
        (ends_in_order, Ends("client_closed", "fin", "none")),
        (ends_by_a_bare_fin, Ends("client_closed", "fin", "none", CUT.format("client"))),
        (resets, Ends("client_reset", "reset", "none")),
        (says_nothing, Ends("client_closed", "fin", "none", UNFINISHED.format("client"))),
        (resets_at_once, Ends("client_reset", "reset", "none")),
        (waits_and_ends_by_a_bare_fin, Ends("backend_closed", "none", "fin")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_how_a_client_ends(
    world: World, version: ssl.TLSVersion, talk: Talk, ends: Ends
) -> None:
    context = trusting(world.certificate)
    context.minimum_version = context.maximum_version = version
    assert Ends.of(await world.client_does(talk, context)) == ends


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("talk", "ends"),
    [
        (ends_in_order, Ends("backend_closed", "none", "fin")),
        (ends_by_a_bare_fin, Ends("backend_reset", "none", "reset", CUT.format("backend"))),
        (resets, Ends("backend_reset", "none", "reset")),
        (listens_and_ends, Ends("backend_reset", "none", "reset", UNFINISHED.format("backend"))),
        (resets_amid_the_handshake, Ends("backend_reset", "none", "reset")),
        (waits_and_ends_by_a_bare_fin, Ends("client_closed", "fin", "none")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_how_a_server_ends(
    world: World, version: ssl.TLSVersion, talk: Talk, ends: Ends
) -> None:
    creator = CertificateOptions(verify=False)
    assert Ends.of(await world.server_does(talk, version, creator)) == ends


@pytest.mark.parametrize(
    ("talk", "ends"),
    [
        (ends_in_order, Ends("client_closed", "fin", "none")),
        (ends_by_a_bare_fin, Ends("client_closed", "fin", "none", CUT.format("client"))),
        (resets, Ends("client_reset", "reset", "none")),
        (waits_and_ends_by_a_bare_fin, Ends("backend_closed", "none", "fin")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_how_a_client_ends_after_start_tls(world: World, talk: Talk, ends: Ends) -> None:
    context, options = trusting(world.certificate), world.options()
    record = await world.client_does(talk, context, lambda: StartsTls(options), tls=False)
    assert Ends.of(record) == ends


def assert_error_in_words(record: ConnectionRecord, words: str = "") -> None:
    assert (record.reason, record.client_end, record.backend_end) == ("error", "none", "none")
    assert words in record.detail.casefold()
    assert " " in record.detail
    assert not {*"[(\\"} & {*record.detail}, "no list, and no bytes"


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_speak_tls(world: World) -> None:
    record = await world.client_does(speaks_http, trusting(world.certificate))
    assert_error_in_words(record, "http")


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_speak_tls(world: World) -> None:
    creator = CertificateOptions(verify=False)
    record = await world.server_does(answers_in_clear_text, VERSIONS[1], creator)
    assert_error_in_words(record)  # OpenSSL's versions differ in what they call it


@pytest_twisted.ensureDeferred
async def test_a_close_beneath_the_wrapper_is_ours(world: World) -> None:
    context = trusting(world.certificate)
    record = await world.client_does(waits_and_ends_by_a_bare_fin, context, ClosesBeneath)
    assert Ends.of(record) == Ends("backend_closed", "none", "fin")


@pytest_twisted.ensureDeferred
async def test_a_close_before_the_handshake_is_a_reset_and_says_so(world: World) -> None:
    context = trusting(world.certificate)
    record = await world.client_does(begins_and_waits, context, ClosesAtOnce)
    detail = "closed before the TLS handshake was done"
    assert Ends.of(record) == Ends("backend_reset", "none", "reset", detail)


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_trust_us_says_why(world: World) -> None:
    record = await world.client_does(begins_and_waits, ssl.create_default_context())
    assert (record.reason, record.client_end) == ("client_reset", "reset")
    assert record.detail.startswith("the client has sent the alert unknown_ca: it does not trust")


@pytest.mark.parametrize(("name", "is_trusted"), [("localhost", False), ("other.example", True)])
@pytest_twisted.ensureDeferred
async def test_a_certificate_that_a_client_does_not_accept(
    world: World, name: str, is_trusted: bool
) -> None:
    pem = world.certificate.certificate.read_bytes()
    trust = TwistedCertificate.loadPEM(pem) if is_trusted else None
    creator = optionsForClientTLS(name, trust)
    record = await world.server_does(begins_and_waits, VERSIONS[1], creator)
    assert_error_in_words(record, "certificate")
