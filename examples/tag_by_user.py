"""Tag each connection with the user who has logged in on it, and find it by that.

    python examples/tag_by_user.py

It serves, talks to itself as two users, and ends. In a program with a control port,
``monconn list user:ada`` and ``monconn close user:ada`` do the same from outside.
"""

from __future__ import annotations

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineReceiver

import monconn


class Login(LineReceiver):
    """Takes the first line for the user's name."""

    def lineReceived(self, line: bytes) -> None:
        # The transport of a wrapped protocol is monconn's, and has the connection's record.
        self.transport.record.facts["user"] = line.decode(errors="replace")
        self.sendLine(b"hello " + line)


class User(LineReceiver):
    def __init__(self, name: bytes) -> None:
        self.name, self.greeted, self.gone = name, Deferred(), Deferred()

    def connectionMade(self) -> None:
        self.sendLine(self.name)

    def lineReceived(self, line: bytes) -> None:
        print(line.decode())
        self.greeted.callback(None)

    def connectionLost(self, reason: object = None) -> None:
        self.gone.callback(None)


class Lines(monconn.Observer):
    def closed(self, record: monconn.ConnectionRecord) -> None:
        print(f"{record.facts['user']}: {record.reason}")


async def run(reactor: object) -> None:
    monitor = monconn.new("logins", monconn.Rules(conn_limit=10))
    monitor.add_observer(Lines())
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Login))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    server = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    users: list[Protocol] = []
    for name in (b"ada", b"grace"):
        user = await connectProtocol(server, User(name))
        await user.greeted
        users.append(user)
    for record in monitor.connections():
        if record.facts.get("user") == "ada":
            monitor.close(record.id)
    await users[0].gone
    users[1].transport.loseConnection()
    await users[1].gone
    await port.stopListening()
    await monitor.stop(wait_seconds=5)


task.react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
