"""Post each connection that has ended to a web server; no connection waits for it.

    python examples/webhook.py

Has a web server of its own to post to, watches one short conversation, and ends by itself.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site

import monconn


class Webhook(monconn.AsyncObserver):
    """Posts records as JSON, one after the other.

    :param url: where to.
    :param timeout: seconds for each; whatever takes longer is given up.
    """

    def __init__(self, reactor: Any, url: str, timeout: float = 10.0) -> None:
        super().__init__(queued_events=500)
        self.reactor = reactor
        self.url = url.encode()
        self.timeout = timeout
        self.agent = Agent(reactor, connectTimeout=timeout)

    async def closed(self, record: monconn.ConnectionRecord) -> None:
        body = json.dumps(record.snapshot(record.closed or 0.0)).encode()
        try:
            answer = await self.post(body).addTimeout(self.timeout, self.reactor)
            print(f"posted {record.reason}, answered {answer.decode()}")
        except Exception as error:  # else one failure would switch the observer off
            print(f"not posted: {type(error).__name__}")

    def post(self, body: bytes) -> Deferred[bytes]:
        headers = Headers({"Content-Type": ["application/json"]})
        producer = FileBodyProducer(BytesIO(body))
        return self.agent.request(b"POST", self.url, headers, producer).addCallback(readBody)


class Thanks(Resource):
    """The web server's part."""

    isLeaf = True

    def render_POST(self, request: Any) -> bytes:
        record = json.load(request.content)
        return f"thanks for {record['service']}, up {record['up']}".encode()


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
    web = reactor.listenTCP(0, Site(Thanks()), interface="127.0.0.1")
    webhook = Webhook(reactor, f"http://127.0.0.1:{web.getHost().port}/")
    monitor = monconn.new("upper", observers=[webhook])
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Upper))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    asking = await endpoint.connect(Factory.forProtocol(Asks))
    await asking.over
    await monitor.stop(wait_seconds=1)
    print("all posted:", await webhook.stop(wait_seconds=5))


react(main)
