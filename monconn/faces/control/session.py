"""One client of the control port: who it is, what it may burden us with, and pages of answers."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn._version import __version__
from monconn.faces.control import commands
from monconn.faces.control.peers import may_enter
from monconn.monitor.monitor import Monitor

PAGE_BYTES = 60_000
"""Rows in one answer; AMP takes 65,535."""
CLIENTS_AT_ONCE = 64
STRANGERS_AT_ONCE = 64
"""Clients that have not said Hello."""
HELLO_SECONDS = 10.0
BOX_BYTES = 256 * 1024
"""The most that a request may be long."""


@implementer(IPushProducer)
class Session(amp.AMP):
    """One client of the control port, without the commands.

    :param factory: the :class:`~monconn.faces.control.server.ControlFactory`.
    """

    transport: Any
    _log = Logger()

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self._factory = factory
        self._registry = factory.registry
        self.greeted = False
        self._box_bytes = 0
        self._timer: Any = None
        self._rest: Iterator[bytes] = iter(())
        self._pages = 0
        self._next: int | None = None
        self._is_slow = False

    # -- who it is, and what it may burden us with

    def makeConnection(self, transport: Any) -> None:
        """See ``IProtocol``; without the line in the log that AMP has for each connection."""
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionMade(self) -> None:
        """See ``IProtocol``."""
        super().connectionMade()
        strangers = len(self._factory.clients) - self._factory.greeted()
        if strangers >= STRANGERS_AT_ONCE or not may_enter(self.transport):
            self.transport.abortConnection()
            return
        self._factory.clients.add(self)
        self.transport.registerProducer(self, True)
        self._timer = self._factory.clock.callLater(HELLO_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        self._box_bytes += len(data)
        if self._box_bytes > BOX_BYTES + len(data):
            self.transport.abortConnection()
            return
        try:
            super().dataReceived(data)
        except Exception:  # it does not speak AMP
            self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """See ``IBoxReceiver``."""
        self._box_bytes = 0
        super().ampBoxReceived(box)

    def unhandledError(self, failure: Failure) -> None:
        """See ``IBoxReceiver``: what a client says is no failure of ours."""
        self._log.debug("control client: {reason}", reason=failure.getErrorMessage())
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self._factory.clients.discard(self)
        self._factory.feed.unsubscribe(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        amp.BinaryBoxProtocol.connectionLost(self, reason)

    def pauseProducing(self) -> None:
        """See ``IPushProducer``: it reads slowly, so it is read from no more until it does."""
        self._is_slow = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """See ``IPushProducer``."""
        self._is_slow = False
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """See ``IPushProducer``; ``connectionLost`` follows."""

    @commands.Hello.responder
    def hello(self, version: int) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.Hello`."""
        if version < 1:
            raise commands.BadRequest(f"there is no version {version} of this protocol")
        if not self.greeted and self._factory.greeted() >= CLIENTS_AT_ONCE:
            raise commands.Denied(f"{CLIENTS_AT_ONCE} clients are served already")
        self.greeted = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        agreed = min(version, commands.VERSION)
        return {
            "version": agreed,
            "server": f"monconn {__version__}",
            "pid": os.getpid(),
            "manhole": self._factory.manhole(),
        }

    def _monitors(self, service: str | None) -> list[Monitor]:
        """Where a command is to act; every command asks here or at :meth:`_check_greeted`."""
        self._check_greeted()
        return list(self._registry) if service is None else [self._registry.get(service)]

    def _check_greeted(self) -> None:
        if not self.greeted:
            raise commands.Denied("say Hello first")

    # -- pages

    def _first_page(self, rows: Iterable[Any]) -> dict[str, Any]:
        self._rest = (json.dumps(each).encode() for each in rows)
        return self._one_page()

    def _one_page(self) -> dict[str, Any]:
        page: list[bytes] = []
        size = 0
        self._next = None  # whatever was to come next is over
        for encoded in self._rest:
            size += len(encoded) + 2
            if page and size > PAGE_BYTES:
                self._rest = itertools.chain([encoded], self._rest)
                self._pages += 1
                self._next = self._pages
                return {"rows": _array(page), "next": self._next}
            page.append(encoded)
        return {"rows": _array(page)}

    @commands.NextPage.responder
    def next_page(self, next: int) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.NextPage`."""
        self._check_greeted()
        if next != self._next:
            raise commands.UnknownPage("there is no such page: ask for the list again")
        return self._one_page()


def _array(encoded: list[bytes]) -> bytes:
    return b"[" + b", ".join(encoded) + b"]"
