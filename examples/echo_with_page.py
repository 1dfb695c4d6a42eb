"""Look into a program with a browser: a watched echo server with the page and the HTTP API.

    python examples/echo_with_page.py [PORT [PORT_OF_THE_PAGE]]

In another terminal say ``monconn web``, which opens the page, logged in; ``monconn web --print``
prints the link. Ctrl-C stops it. It needs the extra ``http``.
"""

from __future__ import annotations

import sys

from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

import monconn
from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.config.http import HttpConfig
from monconn.config.sections import ControlConfig
from monconn.faces.control.service import ControlService
from monconn.faces.http.service import HttpService
from monconn.ops.operations import Operations


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


port, page_port = (int(each) for each in [*sys.argv[1:], 0, 0][:2])
monitor = monconn.new("echo")
factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Echo))
listening = reactor.listenTCP(port, factory, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{listening.getHost().port}", flush=True)

# The page is for all that monconn.new() has made and will make. Its tokens and sessions are kept in
# the state folder of the user; the control port hands out the links that log a browser in.
config = HttpConfig(TcpAddress("127.0.0.1", page_port))
clock = MonotonicClock(reactor)
operations = Operations(monconn.registry, clock)
control = ControlService(ControlConfig(), monconn.registry, reactor, clock, operations)
http = HttpService(config, monconn.registry, reactor, clock, operations)

services = MultiService()  # under twistd, the application
for each in (control, http):
    each.setServiceParent(services)
services.startService()
print(f"page at http://{http.where}/", flush=True)

reactor.addSystemEventTrigger("before", "shutdown", services.stopService)
reactor.addSystemEventTrigger("before", "shutdown", lambda: monconn.shutdown(wait_seconds=1))
reactor.run()
