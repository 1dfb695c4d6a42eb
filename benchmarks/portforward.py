"""Twisted's own forwarder: ``portforward.py LISTEN HOST PORT``, LISTEN an endpoint."""

import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.protocols.portforward import ProxyFactory
from twisted.python.failure import Failure

listen, host, port = sys.argv[1:]
listening = serverFromString(reactor, listen).listen(ProxyFactory(host, int(port)))


def give_up(failure: Failure) -> None:
    failure.printTraceback()
    reactor.stop()


listening.addErrback(give_up)
reactor.run()
