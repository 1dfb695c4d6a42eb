"""TLS before the admin interfaces: whatever a stranger sends raises nothing, and others go on."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from monconn.faces.http.service import _TlsConnections
from monconn.net.tls import ServerTls
from monconn.net.tls_serving import TlsFactory
from monconn.policy.tls import ListenTls
from monconn.turns import TurnQueue
from tests.certificates import Certificate, make_certificate
from tests.properties import examples


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


class Greeting(Protocol):
    """Writes at once, before there is a handshake, as Twisted lets protocols do."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")


class World:
    """A server without sockets."""

    def __init__(self, certificate: Certificate) -> None:
        self.clock = Clock()
        tls = ServerTls(
            ListenTls(str(certificate.certificate), str(certificate.key), alpn=("http/1.1",))
        )
        served: Any = Factory.forProtocol(Greeting)
        self.factory = TlsFactory(_TlsConnections(tls, b""), served, TurnQueue(self.clock))
        self.factory._clock = self.clock

    def connect(self) -> tuple[Any, StringTransport]:
        protocol, transport = self.factory.buildProtocol(None), StringTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def send(self, protocol: Any, transport: StringTransport, data: bytes) -> None:
        if transport.producerState == "producing" and not transport.disconnecting:
            protocol.dataReceived(data)
        self.clock.advance(0)


def client(*protocols: str) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols([*protocols])
    return context.wrap_bio(incoming, outgoing), incoming, outgoing


def hello(*protocols: str) -> bytes:
    """The beginning of a handshake."""
    tls, _, outgoing = client(*protocols)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def greeted(world: World) -> bytes:
    """What a client gets that does as it should."""
    tls, incoming, outgoing = client("http/1.1")
    protocol, transport = world.connect()
    for _ in range(5):
        try:
            return tls.read(100)
        except ssl.SSLWantReadError:
            world.send(protocol, transport, outgoing.read())
            incoming.write(transport.value())
            transport.clear()
    return b""


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=100), st.integers(0, 600)), max_size=6),
    st.sampled_from([(), ("h2",), ("h2", "http/1.1")]),
)
@example([], ("h2",))
@example([b"GET / HTTP/1.1\r\n\r\n"], ())
@example([b"\x16\x03\x01\xff\xff", b"\x00" * 100], ())
def test_a_handshake_of_any_bytes(
    certificate: Certificate, changes: list[bytes | int], protocols: tuple[str, ...]
) -> None:
    world = World(certificate)
    sent = bytearray(hello(*protocols))
    for each in changes:
        if isinstance(each, bytes):
            sent = bytearray(each) + sent
        else:
            sent[each % len(sent)] ^= 0xFF
    protocol, transport = world.connect()
    for start in range(0, len(sent), 100):
        world.send(protocol, transport, bytes(sent[start : start + 100]))
    assert greeted(world) == b"hello"


def test_a_client_of_other_protocols_hears_of_it(certificate: Certificate) -> None:
    world = World(certificate)
    protocol, transport = world.connect()
    world.send(protocol, transport, hello("h2"))
    # An alert that is fatal: no_application_protocol (RFC 7301, 3.2).
    assert transport.value() == b"\x15\x03\x03\x00\x02\x02\x78"
    assert transport.disconnecting
