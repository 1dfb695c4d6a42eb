"""Watch an echo server: two lines around its factory.

    python examples/wrap_echo.py [PORT]

Then talk to it, as with ``nc 127.0.0.1 PORT``. Ctrl-C lets the connections end, and stops it.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

import monconn


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


factory = Factory.forProtocol(Echo)

rules = monconn.Rules(conn_limit=100, ip_limit=20)  # which clients are admitted
timeouts = monconn.Timeouts(max_idle=60)  # when a connection has to end

# The two lines:
monitor = monconn.new("echo", rules, timeouts)
factory = monconn.MonitoringFactory(monitor, factory)


def show() -> None:
    print(monitor.describe(), flush=True)
    for record in monitor.connections():
        print("   ", record.id, record.describe(monitor.clock.seconds()), flush=True)


port = reactor.listenTCP(int(sys.argv[1]) if sys.argv[1:] else 0, factory, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)
LoopingCall(show).start(1.0)
reactor.addSystemEventTrigger("before", "shutdown", lambda: monconn.shutdown(wait_seconds=1))
reactor.run()
show()
