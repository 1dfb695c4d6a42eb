"""Watch a web server: each connection that ends gets a line that says why.

    python examples/wrap_web.py [PORT]

Ask it for ``/`` or, to see what it knows of its own service, for ``/stats``. Ctrl-C stops it.
"""

from __future__ import annotations

import json
import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import Data

import monconn


class Stats(Resource):
    def __init__(self, monitor: monconn.Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("Content-Type", "application/json")
        now = self.monitor.clock.seconds()
        connections = [record.snapshot(now) for record in self.monitor.connections()]
        return json.dumps({**self.monitor.stats(), "live": connections}, indent=2).encode()


class Lines(monconn.Observer):
    def closed(self, record: monconn.ConnectionRecord) -> None:
        print(record.describe(record.closed), flush=True)


monitor = monconn.new("web", monconn.Rules(conn_limit=1000))
monitor.add_observer(Lines())

root = Resource()
root.putChild(b"", Data(b"hello\n", "text/plain"))
root.putChild(b"stats", Stats(monitor))

port = reactor.listenTCP(
    int(sys.argv[1]) if sys.argv[1:] else 0,
    monconn.MonitoringFactory(monitor, Site(root)),
    interface="127.0.0.1",
)
print(f"listening on http://127.0.0.1:{port.getHost().port}/", flush=True)
reactor.run()
