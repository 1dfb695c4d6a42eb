"""Act on connections: close one, reset one, block an address, and let it in again.

    python examples/block_and_close.py

Connects to a server of its own, and ends by itself.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

import monconn


class Client(Protocol):
    def __init__(self) -> None:
        self.over: Deferred[str] = Deferred()

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(reason.getErrorMessage())


class Server(Protocol):
    def connectionMade(self) -> None:
        self.factory.made.callback(self)


class ServerFactory(Factory):
    """Its Deferred ``made`` fires with the next connection."""

    protocol = Server
    made: Deferred[Server]


async def main(reactor: Any) -> None:
    monitor = monconn.new("server")
    factory = ServerFactory()
    port = reactor.listenTCP(0, monconn.MonitoringFactory(monitor, factory), interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    async def connected() -> Client:
        factory.made = Deferred()
        client = await endpoint.connect(Factory.forProtocol(Client))
        await factory.made
        return client

    client = await connected()
    (record,) = monitor.connections()
    monitor.close(record.id)
    print(f"closed: the client sees {await client.over!r}, the record says {record.reason}")

    client = await connected()
    (record,) = monitor.connections()
    monitor.close(record.id, reset=True)
    print(f"reset: the client sees {await client.over!r}, the record says {record.reason}")

    client = await connected()
    (record,) = monitor.connections()
    monitor.block("127.0.0.0/8")
    print(f"blocked: the client sees {await client.over!r}, the record says {record.reason}")

    client = await endpoint.connect(Factory.forProtocol(Client))
    await client.over
    print(f"while blocked: {monitor.stats()['refused_by']}")

    monitor.unblock("127.0.0.0/8")
    client = await connected()
    print(f"let in again: {len(monitor)} connection")
    client.transport.loseConnection()
    await client.over


react(main)
