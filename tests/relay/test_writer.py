from __future__ import annotations

import gc
import random
import socket
import ssl
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.monitor.monitor import Monitor
from monconn.relay.paths import DataPaths
from monconn.relay.transports.end import TransportEnd, TransportShared
from monconn.relay.transports.writer import TlsWriter
from tests.certificates import make_certificate

from .world import until

CHUNK = random.Random(7).randbytes(300_000)


class CountingTransport(StringTransport):
    """Counts what is written."""

    writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)


class Server:
    """TLS over memory: a client of Python's on one side, Twisted's transport on ours."""

    def __init__(self, folder: Path) -> None:
        certificate = make_certificate(folder)
        context = DefaultOpenSSLContextFactory(str(certificate.key), str(certificate.certificate))
        factory = TLSMemoryBIOFactory(context, False, Factory.forProtocol(Protocol))
        self.transport = factory.buildProtocol(None)
        self.beneath = CountingTransport()
        self.transport.makeConnection(self.beneath)
        self.writer = TlsWriter(self.transport, None, None)
        self._to_client, self._from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = certificate.client_side().wrap_bio(
            self._to_client, self._from_client, server_hostname="localhost"
        )

    def shake_hands(self) -> None:
        for _ in range(3):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.exchange()

    def exchange(self) -> None:
        said = self._from_client.read()
        if said:
            self.transport.dataReceived(said)
        self._to_client.write(self.beneath.value())
        self.beneath.clear()

    def received(self) -> bytes:
        """What the client can read now, after everything under way has come."""
        self.exchange()
        got = b""
        try:
            while piece := self.client.read(1 << 20):
                got += piece
        except ssl.SSLWantReadError:
            pass
        return got


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_chunk_of_many_records_is_sent_whole(server: Server) -> None:
    server.shake_hands()
    server.beneath.writes = 0
    server.writer.write(memoryview(CHUNK))
    assert server.beneath.writes == 1
    assert server.received() == CHUNK


def test_a_small_write_waits_for_no_later_turn(server: Server) -> None:
    server.shake_hands()
    server.writer.write(b"now")
    assert server.received() == b"now"


def test_what_is_written_before_the_handshake_comes_first_after_it(server: Server) -> None:
    server.writer.write(CHUNK)
    server.writer.write(b"second")
    assert server.received() == b""
    server.shake_hands()
    server.writer.write(b"third")
    assert server.received() == CHUNK + b"second" + b"third"


@pytest.mark.parametrize("seed", range(5))
def test_writes_of_any_size_arrive_in_order(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    server.shake_hands()
    written = b""
    for _ in range(50):
        size = chance.choice([0, 1, 100, 16383, 16384, 16385, 65536, 70_001])
        chunk = chance.randbytes(size)
        server.writer.write(chunk)
        written += chunk
    assert server.received() == written


def test_what_is_written_after_the_end_is_dropped_as_by_twisted(server: Server) -> None:
    server.shake_hands()
    server.writer.write(b"before")
    server.transport.loseConnection()
    server.writer.write(b"after")
    server.exchange()
    assert server.client.read(100) == b"before"
    assert server.client.read(100) == b""  # close_notify


class Negotiating(Protocol):
    """Has begun TLS on its own, when it hands the transport over."""

    transport: Any

    def __init__(self, context: DefaultOpenSSLContextFactory) -> None:
        self._context = context

    def connectionMade(self) -> None:
        end = TransportEnd("client", TransportShared.of(MonotonicClock(reactor)))
        end.reports = Mock()
        self.transport.protocol = end
        self.transport.startTLS(self._context)
        end.makeConnection(self.transport)
        end.send(b"secret")


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_in_clear_where_tls_was_begun_on_a_plain_transport(
    tmp_path: Path,
) -> None:
    certificate = make_certificate(tmp_path)
    context = DefaultOpenSSLContextFactory(str(certificate.key), str(certificate.certificate))
    factory: Any = Factory()
    factory.buildProtocol = lambda _: Negotiating(context)
    port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")

    def play() -> bytes:
        with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=10) as plain:
            client = certificate.client_side().wrap_socket(plain, server_hostname="localhost")
            return client.recv(6)

    try:
        assert await deferToThread(play) == b"secret"
    finally:
        await port.stopListening()


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


@pytest_twisted.ensureDeferred
async def test_what_openssl_keeps_does_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    """It is tens of thousands of bytes for each connection."""
    certificate = make_certificate(tmp_path)
    context = DefaultOpenSSLContextFactory(str(certificate.key), str(certificate.certificate))
    clock = MonotonicClock(reactor)
    monitor = Monitor("web", clock=clock)
    running: Any = reactor
    backend = running.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
    path = DataPaths(reactor, clock).from_endpoint(
        monitor, TcpAddress("127.0.0.1", backend.getHost().port)
    )
    ends: list[TransportEnd] = []

    def client_end(address: Any) -> TransportEnd:
        record = monitor.admit("a client", address.host)
        assert record is not None
        ends.append(path.client_end(record))
        return ends[0]

    factory: Any = Factory()
    factory.buildProtocol = client_end
    port = running.listenSSL(0, factory, context, interface="127.0.0.1")

    def play() -> None:
        with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=10) as plain:
            client = certificate.client_side().wrap_socket(plain, server_hostname="localhost")
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            handle_ref = weakref.ref(ends.pop().transport.getHandle())
            assert handle_ref() is not None
            client.unwrap().close()
        until(lambda: not len(monitor) and handle_ref() is None)

    gc.disable()
    try:
        await deferToThread(play)
    finally:
        gc.enable()
        await port.stopListening()
        await backend.stopListening()
