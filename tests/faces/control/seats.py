"""A control port without a network, on a clock of the test's own."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import alsoProvides

from monconn.faces.control import peers
from monconn.faces.control.server import ControlFactory, ControlProtocol
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations
from tests.turning import TurnClock

Address = IPv4Address | IPv6Address


def box(**values: str) -> bytes:
    strings = [text.encode() for pair in values.items() for text in pair]
    return b"".join(struct.pack("!H", len(each)) + each for each in strings) + b"\0\0"


HELLO = box(_command="Hello", _ask="1", version="1")
LIST = box(_command="ListServices", _ask="2")


class Transport(StringTransport):
    """A transport that pauses its producer as Twisted's do, with as much as is written."""

    was_aborted = False
    has_hung_up = False
    is_full = False
    producer: Any

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self.is_full and len(self.value()) > 2**16:
            self.is_full = True
            self.producer.pauseProducing()

    def taken(self) -> None:
        """The client has read everything."""
        self.clear()
        self.is_full = False
        self.producer.resumeProducing()

    def abortConnection(self) -> None:
        self.was_aborted = True

    @property
    def is_read_from(self) -> bool:
        return self.producerState == "producing"


class Server:
    """A control port without a network."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.registry = Registry()
        self.operations = Operations(self.registry, self.clock)
        self.factory = ControlFactory(self.operations)

    def connect(self, address: Address | None = None, *, tls: bool = False) -> ControlProtocol:
        """One more client, amid its handshake if it speaks TLS."""
        client = self.factory.buildProtocol(address)
        transport = Transport()
        if tls:
            alsoProvides(transport, ISSLTransport)
        client.makeConnection(transport)
        return client

    def greeted(self) -> ControlProtocol:
        """One more client that has said Hello."""
        client = self.connect()
        client.dataReceived(HELLO)
        self.turns(2)
        assert count(client) == 1
        client.transport.clear()
        return client

    def turns(self, number: int) -> None:
        for _ in range(number):
            self.clock.turn()


def patch_peers(patch: pytest.MonkeyPatch) -> None:
    """Have clients that have no socket take part."""
    patch.setattr(peers, "is_authorized", lambda transport, access: True)
    patch.setattr(peers, "has_hung_up", lambda transport: transport.has_hung_up)


def count(client: ControlProtocol) -> int:
    """How many answers were written."""
    return client.transport.value().count(b"_answer")  # type: ignore[no-any-return]
