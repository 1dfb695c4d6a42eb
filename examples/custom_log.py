"""Log in your own way: a function of yours gets every event (the Go tool's ``DebugFunc``).

    python examples/custom_log.py

Watches one short conversation, and ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

import monconn


class LogTo(monconn.Observer):
    """Calls a function with every event, bytes included.

    :param log: takes one line.
    """

    watches_payload = True

    def __init__(self, log: Callable[[str], object]) -> None:
        self.log = log

    def opened(self, record: monconn.ConnectionRecord) -> None:
        self.log(f"{record.service} #{record.id} opened by {record.client_ip}")

    def refused(self, record: monconn.ConnectionRecord) -> None:
        self.log(f"{record.service} #{record.id} refused: {record.refusal}")

    def data(self, record: monconn.ConnectionRecord, direction: str, data: bytes) -> None:
        self.log(f"{record.service} #{record.id} {direction} {data.hex(' ')}")

    def closed(self, record: monconn.ConnectionRecord) -> None:
        self.log(f"{record.service} #{record.id} closed: {record.reason}")


class Upper(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper())


class Asks(Protocol):
    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(None)


async def main(reactor: Any) -> None:
    monitor = monconn.new("upper", monconn.Rules(conn_limit=1))
    monitor.add_observer(LogTo(lambda line: print(f"my log: {line}")))
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Upper))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    asking = await endpoint.connect(Factory.forProtocol(Asks))
    await asking.over
    await monitor.stop(wait_seconds=1)


react(main)
