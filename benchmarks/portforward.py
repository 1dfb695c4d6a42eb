"""The peer that Twisted brings along: ``portforward.py LISTEN HOST PORT``, LISTEN an endpoint."""

import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.protocols.portforward import ProxyFactory

listen, host, port = sys.argv[1:]
listening = serverFromString(reactor, listen).listen(ProxyFactory(host, int(port)))
listening.addErrback(lambda failure: (failure.printTraceback(), reactor.stop()))
reactor.run()
