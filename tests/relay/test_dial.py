"""Every kind of address that a backend can have."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import Address, EndpointAddress, TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.net.resolver import Resolver
from monconn.relay.transports.dial import Dial, OneProtocol, dialler
from monconn.relay.transports.names import EndpointReactor

KINDS = ["ipv4", "ipv6", "unix", "localhost", "endpoint string"]


@implementer(IHalfCloseableProtocol)
class Caller(Protocol):
    """Records its events; complete once the connection has ended."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.end: Deferred[str] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.end.callback("half")

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.end.called:
            self.end.callback("whole")
        self.lost.callback(None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def listen(kind: str, folder: Path) -> tuple[socket.socket, Address]:
    """A backend, and its address of that kind."""
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / "back"))
        address: Address = UnixAddress(str(folder / "back"))
    else:
        host = "::1" if kind == "ipv6" else "127.0.0.1"
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.bind((host, 0))
        address = tcp_address(kind, host, sock.getsockname()[1])
    sock.settimeout(10)
    return sock, address


def tcp_address(kind: str, host: str, port: int) -> Address:
    if kind == "localhost":
        return TcpAddress("localhost", port)
    if kind == "endpoint string":
        return EndpointAddress(f"tcp:host={host}:port={port}")
    return TcpAddress(host, port)


def dial_to(address: Address) -> Dial:
    from twisted.internet import reactor

    threads: Any = reactor

    def resolver(name: TcpAddress) -> Resolver:
        return Resolver(name, threads, MonotonicClock())

    return dialler(address, EndpointReactor(reactor, resolver))


def serve_one(sock: socket.socket) -> bytes:
    """Send a banner, end, and receive what still comes."""
    client, _ = sock.accept()
    with client:
        client.settimeout(10)
        client.sendall(b"220 welcome")
        client.shutdown(socket.SHUT_WR)
        return client.recv(100)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_connects_the_very_protocol(
    kind: str, folder: Path, listeners: list[socket.socket]
) -> None:
    sock, address = listen(kind, folder)
    listeners.append(sock)
    sock.listen()
    serving = deferToThread(serve_one, sock)
    caller = Caller()
    await dial_to(address)(caller)
    assert await caller.end == "half", "the end of a protocol's input must not close it"
    assert caller.received == b"220 welcome"
    caller.transport.write(b"late")
    assert await serving == b"late"
    caller.transport.loseConnection()
    await caller.lost


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_a_refused_connection_fails(
    kind: str, folder: Path, listeners: list[socket.socket]
) -> None:
    sock, address = listen(kind, folder)
    listeners.append(sock)  # bound, and not listening
    with pytest.raises(error.ConnectionRefusedError):
        await dial_to(address)(Caller())


@pytest_twisted.ensureDeferred
async def test_a_missing_unix_socket_fails(folder: Path) -> None:
    with pytest.raises(error.ConnectError):
        await dial_to(UnixAddress(str(folder / "none")))(Caller())


@pytest_twisted.ensureDeferred
async def test_an_ipv6_address_with_a_scope_is_no_host_name() -> None:
    with pytest.raises(error.ConnectError):  # a name would fail with a DNSLookupError
        await dial_to(TcpAddress("fe80::1%lo", 1))(Caller())


@pytest_twisted.ensureDeferred
async def test_dialling_can_be_given_up(folder: Path, listeners: list[socket.socket]) -> None:
    sock, address = listen("ipv4", folder)
    listeners.append(sock)
    sock.listen(0)
    with socket.create_connection(sock.getsockname()):  # which fills the queue
        dialling = dial_to(address)(Caller())
        dialling.cancel()
        with pytest.raises((CancelledError, error.UserError, error.ConnectingCancelledError)):
            await dialling


def test_one_protocol_gives_the_one_it_has() -> None:
    protocol = Protocol()
    factory = OneProtocol(protocol)
    assert factory.buildProtocol(None) is protocol
    assert not factory.noisy
