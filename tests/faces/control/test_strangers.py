"""Strangers at a control port: they keep no operator out, and take little of each turn."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import Certificate as TwistedCertificate
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import BufferingTLSTransport

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import ControlConfig, TlsConfig
from monconn.faces.control import service as module
from monconn.faces.control.client import Client
from monconn.faces.control.server import MAX_STRANGERS, ControlProtocol
from monconn.faces.control.service import CLIENTS_PER_TURN, ControlService
from monconn.monitor.registry import Registry
from monconn.net.tls_serving import HANDSHAKE_SHARE, TlsFactory
from monconn.turns import BURST_SECONDS, QUEUE_SECONDS
from tests import running_reactor
from tests.certificates import make_certificate
from tests.turning import TurnClock

from .conftest import Port
from .seats import Server, patch_peers


@pytest_twisted.ensureDeferred
async def test_an_operator_gets_in_among_handshakes_that_stand_still(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    tls = TlsConfig(str(own.certificate), str(own.key), str(own.certificate))

    def play() -> None:
        with Port(tmp_path, listen=TcpAddress("127.0.0.1", 0), tls=tls) as port:
            where = ("127.0.0.1", int(port.where.rpartition(":")[2]))
            address = f"tls:{port.where}:{own.certificate}:{own.key}:{own.certificate}"
            strangers = [socket.create_connection(where) for _ in range(2 * MAX_STRANGERS)]
            for stranger in strangers[::2]:
                with suppress(ConnectionError):  # another has its place already
                    stranger.sendall(b"\x16\x03\x01")  # the beginning of a handshake
            with Client(address) as operator:
                more = [socket.create_connection(where) for _ in range(2 * MAX_STRANGERS)]
                assert operator.call("Hello", version=1)["version"] == "1"
            for each in (*strangers, *more):
                each.close()

    await deferToThread(play)


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="there")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_handshakes_share_the_time_of_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_peers(monkeypatch)
    own = make_certificate(tmp_path)
    authority = TwistedCertificate.loadPEM(own.certificate.read_bytes())
    pem = own.key.read_bytes() + own.certificate.read_bytes()
    server = Server()
    options = PrivateCertificate.loadPEM(pem).options(authority)
    factory = TlsFactory(options, server.factory, server.factory.queue)
    step = BufferingTLSTransport.dataReceived

    def slow_step(self: Any, data: bytes) -> None:
        server.clock.rightNow += QUEUE_SECONDS / 2
        step(self, data)

    monkeypatch.setattr(BufferingTLSTransport, "dataReceived", slow_step)
    hello, transports = client_hello(), []
    for _ in range(10):
        protocol = factory.buildProtocol(None)
        transports.append(StringTransport())
        protocol.makeConnection(transports[-1])
        protocol.dataReceived(hello[:50])
        protocol.dataReceived(hello[50:])

    def answered() -> int:
        return sum(bool(each.value()) for each in transports)

    assert answered() == 0
    assert {each.producerState for each in transports} == {"paused"}
    for turn in range(1, 6):
        server.turns(1)
        assert answered() == 2 * turn
    assert {each.producerState for each in transports} == {"producing"}
    server.factory.close()


def test_handshakes_take_a_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_peers(monkeypatch)
    own = make_certificate(tmp_path)
    tls = TlsConfig(str(own.certificate), str(own.key), str(own.certificate))
    clock, served = TurnClock(), []

    def serve(sock: Any, reactor: Any, factory: Any, batch: int) -> Any:
        served.append(factory)
        return sock

    monkeypatch.setattr(module, "serve_factory", serve)
    config = ControlConfig(TcpAddress("127.0.0.1", 0), tls=tls)
    service = ControlService(config, Registry(), running_reactor(), clock)
    service.privilegedStartService()
    (factory,) = served
    steps = []

    def slow_step(self: Any, data: bytes) -> None:
        steps.append(data)
        clock.work(0.01)

    monkeypatch.setattr(BufferingTLSTransport, "dataReceived", slow_step)
    for _ in range(MAX_STRANGERS):
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"hello")
    ends = clock.seconds() + 1
    while clock.seconds() < ends:
        clock.turn()
        clock.work(0.001)  # what others do
    assert 0.01 * len(steps) == pytest.approx(BURST_SECONDS + HANDSHAKE_SHARE, abs=0.02)
    service.close_listener()


@pytest_twisted.ensureDeferred
async def test_a_few_are_accepted_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reactor, turns = running_reactor(), [0]
    connected = ControlProtocol.connectionMade

    def counted(self: ControlProtocol) -> None:
        turns[-1] += 1
        connected(self)

    monkeypatch.setattr(ControlProtocol, "connectionMade", counted)
    path = str(tmp_path / "control")
    service = ControlService(
        ControlConfig(UnixAddress(path)), Registry(), reactor, MonotonicClock()
    )
    service.startService()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(30)]
    for client in clients:
        client.connect(path)

    while sum(turns) < len(clients):
        turns.append(0)
        await deferLater(reactor, 0)
    assert max(turns) <= 2 * CLIENTS_PER_TURN  # this loop's turns may hold two of the reactor's
    for client in clients:
        client.close()
    service.stopService()
