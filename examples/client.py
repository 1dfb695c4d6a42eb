"""Watch outgoing connections: ``up`` is what we send, ``down`` what we get.

    python examples/client.py

Talks to a small server of its own, and ends by itself.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

import monconn


class Greeter(Protocol):
    """The server: answers a name with a greeting, and closes."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"good morning, " + data)
        self.transport.loseConnection()


class Caller(Protocol):
    """The client, which knows nothing of being watched."""

    def __init__(self) -> None:
        self.answer = b""
        self.over: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.answer += data

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(None)


async def main(reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Greeter), interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    monitor = monconn.new("greetings", monconn.Rules(conn_limit=10), monconn.Timeouts(max_idle=30))
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Caller), is_client=True)

    for name in (b"Ada", b"Grace"):
        # An endpoint gives what the factory has built: the wrapper, around our protocol.
        caller = (await endpoint.connect(factory)).wrappedProtocol
        caller.transport.write(name)
        await caller.over
        print(caller.answer.decode())
    for record in monitor.closed_records:
        print(f"{record.client} to {record.backend}: {record.reason},", end=" ")
        print(f"up {record.up}, down {record.down}")
    print(monitor.describe())


react(main)
