"""Start, change and stop a forwarder inside of a Twisted program of your own.

    python examples/forwarder_in_a_program.py

Forwards to a small server of its own, and ends by itself.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

import monconn
from monconn.addresses import TcpAddress
from monconn.config.config import ServiceConfig
from monconn.run.supervisor import Supervisor


class Upper(Protocol):
    """The backend: answers in capitals."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper())


class Client(Protocol):
    """Sends a word, prints the answer, and stays."""

    def __init__(self) -> None:
        self.answered: Deferred[None] = Deferred()
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        print(data.decode())
        self.answered.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(None)


async def main(reactor: Any) -> None:
    backend = reactor.listenTCP(0, Factory.forProtocol(Upper), interface="127.0.0.1")
    supervisor = Supervisor(reactor, monconn.registry)

    policy = monconn.Policy(monconn.Rules(conn_limit=10), monconn.Timeouts(max_idle=3600))
    service = ServiceConfig(
        "upper",
        listen=TcpAddress("127.0.0.1", 0),
        backend=TcpAddress("127.0.0.1", backend.getHost().port),
        policy=policy,
    )
    print((await supervisor.apply((), [service])).describe())

    monitor = monconn.get("upper")
    port = int(monitor.listen.rpartition(":")[2])  # chosen by the kernel
    client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Client())
    await client.answered

    # It applies to live connections: ours exceeds the new limit in a moment.
    changed = service.changed(max_idle=0.2, conn_limit=5)
    print((await supervisor.apply([service], [changed])).describe())
    await client.over

    print((await supervisor.apply([changed], ())).describe())
    await supervisor.drained()
    print([record.reason for record in monitor.closed_records], monconn.names())


react(main)
