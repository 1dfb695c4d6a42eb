"""Tells Twisted of monconn; what it names is imported only when it is used."""

from typing import Any

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class MonconnEndpointParser:
    """Reads endpoint strings such as ``monconn:tcp:8080:mon.name=web``."""

    prefix = "monconn"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        """See ``IStreamServerEndpointStringParser``."""
        from monconn.run.endpoints import parse_stream_server

        return parse_stream_server(reactor, *args, **kwargs)


monconn = ServiceMaker(
    "monconn", "monconn.run.plugin", "Watch the TCP connections of a service.", "monconn"
)
monconn_endpoint = MonconnEndpointParser()
monconn_reactor = Reactor(
    "monconn", "monconn.relay.sockets.reactor", "epoll with a faster way for monconn's connections."
)
