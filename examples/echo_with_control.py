"""Inspect a program from outside: a watched echo server with a control port.

    python examples/echo_with_control.py [PORT]

Talk to it, as with ``nc 127.0.0.1 PORT``, and in another terminal say ``monconn list``,
``monconn stats`` or ``monconn close 1``. Ctrl-C stops it.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

import monconn
from monconn.clock import MonotonicClock
from monconn.config.sections import ControlConfig
from monconn.faces.control.service import ControlService


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


monitor = monconn.new("echo")
factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Echo))

port = reactor.listenTCP(int(sys.argv[1]) if sys.argv[1:] else 0, factory, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)

# The control port, for all that monconn.new() has made and will make. ControlConfig() is the path
# that the command uses by default; ControlConfig(UnixAddress("/run/echo.sock")) is another one.
control = ControlService(ControlConfig(), monconn.registry, reactor, MonotonicClock(reactor))
control.startService()
print(f"control port at {control.where}", flush=True)

reactor.addSystemEventTrigger("before", "shutdown", control.stopService)
reactor.addSystemEventTrigger("before", "shutdown", lambda: monconn.shutdown(wait_seconds=1))
reactor.run()
