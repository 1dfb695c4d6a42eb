"""Clients of an HTTP server without sockets, with a fake clock."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from monconn.net.http.server import LINGER_SECONDS, HttpFactory

PEER = IPv4Address("TCP", "127.0.0.1", 4711)


class Transport:
    """A connection whose peer reads when the test says so."""

    protocol: Any

    def __init__(self) -> None:
        self.written = bytearray()
        self.unread = 0
        self.most_unread = 0
        self.producer: Any = None
        self.is_streaming = False
        self.is_paused = False
        self.has_ended = False
        self.how_closed: str | None = None

    def write(self, data: bytes) -> None:
        assert not self.has_ended
        self.written += data
        self.unread += len(data)
        self.most_unread = max(self.most_unread, self.unread)
        if self.is_streaming and self.unread > 1 << 16:
            self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        self.producer = producer
        self.is_streaming = streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        self.is_streaming = False

    def read_all(self) -> None:
        """Let the peer read what there is, until there is no more."""
        while self.unread:
            self.unread = 0
            if self.producer is not None:
                self.producer.resumeProducing()

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def loseWriteConnection(self) -> None:
        self.has_ended = True

    def loseConnection(self) -> None:
        self.how_closed = self.how_closed or "closed"

    def abortConnection(self) -> None:
        self.how_closed = self.how_closed or "aborted"


class Clients:
    """A server, and those who connect to it."""

    def __init__(self, factory: HttpFactory, clock: Clock) -> None:
        self.factory = factory
        self.clock = clock
        self.factory.doStart()

    def connect(self, data: bytes = b"", host: str = PEER.host) -> Transport:
        """Connect, and send something."""
        transport = Transport()
        transport.protocol = self.factory.buildProtocol(IPv4Address("TCP", host, 4711))
        assert transport.protocol is not None
        transport.protocol.makeConnection(transport)
        if data:
            self.send(transport, data)
        return transport

    def send(self, transport: Transport, data: bytes) -> None:
        """Send something, as far as it is read."""
        if not transport.is_paused and transport.how_closed is None:
            transport.protocol.dataReceived(data)
            self.turn()

    def turn(self) -> None:
        """Pass a turn of the loop."""
        self.clock.advance(0)

    def close(self) -> None:
        """Stop the server, which must leave no timer."""
        self.factory.close()
        self.clock.advance(LINGER_SECONDS)
        assert not self.clock.getDelayedCalls()


def status(transport: Transport) -> int:
    """Of the first answer."""
    matched = re.match(rb"HTTP/1\.1 (\d+) ", transport.written)
    assert matched, bytes(transport.written)
    return int(matched[1])


def statuses(transport: Transport) -> list[int]:
    """Of all answers, as far as their bodies have none."""
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+) ", transport.written)]
