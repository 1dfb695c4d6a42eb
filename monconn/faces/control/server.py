"""The control port's protocol: AMP commands to operations, and rows and events back to AMP."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn._version import __version__
from monconn.faces.control import commands, peers
from monconn.faces.control.pages import Pager
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.ops.feed import FeedEvent, Subscription
from monconn.ops.operations import Operations

CLIENTS_AT_ONCE = 64
MAX_UNAUTHENTICATED = 64
"""The most clients that have not sent Hello."""
HELLO_SECONDS = 10.0
BOX_BYTES = 256 * 1024
"""The most that a request may be long."""


class ControlFactory(Factory):
    """Serves the control port's clients.

    :param operations: what they can ask for.
    """

    noisy = False

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.clients: set[ControlProtocol] = set()

    def buildProtocol(self, addr: Any) -> ControlProtocol:
        """Implements ``IProtocolFactory.buildProtocol``."""
        return ControlProtocol(self)

    def greeted(self) -> int:
        """How many clients have sent Hello."""
        return sum(client.greeted for client in self.clients)

    def close(self) -> None:
        """Abort the connections of all clients, and deliver no more events to them."""
        for client in tuple(self.clients):
            client.unsubscribe()
            client.transport.abortConnection()


@implementer(IPushProducer)
class ControlProtocol(amp.AMP):
    """One client of the control port.

    :param factory: knows the other clients, and what can be asked for.
    """

    transport: Any
    _log = Logger()

    def __init__(self, factory: ControlFactory) -> None:
        super().__init__()
        self._factory = factory
        self._operations = factory.operations
        self.greeted = False
        self._box_bytes = 0
        self._timer: Any = None
        self._pager = Pager()
        self._is_slow = False
        self._subscription: Subscription | None = None

    # -- authentication, and limits on what a client may use

    def makeConnection(self, transport: Any) -> None:
        """Connect, without the log line that AMP writes for each connection."""
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionMade(self) -> None:
        """Abort the connection of a peer that may not use the control port."""
        super().connectionMade()
        unauthenticated = len(self._factory.clients) - self._factory.greeted()
        if unauthenticated >= MAX_UNAUTHENTICATED or not peers.is_authorized(self.transport):
            self.transport.abortConnection()
            return
        self._factory.clients.add(self)
        self.transport.registerProducer(self, True)
        self._timer = self._operations.clock.callLater(HELLO_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Limit a whole request's size: AMP limits only the parts of a box."""
        self._box_bytes += len(data)
        if self._box_bytes > BOX_BYTES + len(data):
            self.transport.abortConnection()
            return
        try:
            super().dataReceived(data)
        except Exception:  # it does not speak AMP
            self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """Implements ``IBoxReceiver.ampBoxReceived``."""
        self._box_bytes = 0
        super().ampBoxReceived(box)

    def locateResponder(self, name: bytes) -> Any:
        """Find a command's responder; before Hello, every other command is denied."""
        if not self.greeted and name != commands.Hello.commandName:
            return _deny
        return super().locateResponder(name)

    def unhandledError(self, failure: Failure) -> None:
        """Disconnect without a traceback: a client's malformed request is not an internal error."""
        self._log.debug("control client: {reason}", reason=failure.getErrorMessage())
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Implements ``IProtocol.connectionLost``."""
        self._factory.clients.discard(self)
        self.unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        amp.BinaryBoxProtocol.connectionLost(self, reason)

    def pauseProducing(self) -> None:
        """The client reads slowly: read no more requests, and drop events."""
        self._is_slow = True
        if self._subscription is not None:
            self._subscription.pause()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Implements ``IPushProducer.resumeProducing``."""
        self._is_slow = False
        if self._subscription is not None:
            self._subscription.resume()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Implements ``IPushProducer.stopProducing``; ``connectionLost`` follows."""

    @commands.Hello.responder
    def hello(self, version: int) -> dict[str, Any]:
        """Agree on a version, and take one of the places for clients."""
        if version < 1:
            raise commands.BadRequest(f"there is no version {version} of this protocol")
        if not self.greeted and self._factory.greeted() >= CLIENTS_AT_ONCE:
            raise commands.Denied(f"{CLIENTS_AT_ONCE} clients are served already")
        self.greeted = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return {
            "version": min(version, commands.VERSION),
            "server": f"monconn {__version__}",
            "pid": os.getpid(),
            "manhole": self._operations.manhole(),
            "filters": True,
        }

    # -- queries. Each hands its arguments, which AMP has parsed, to the operation of its name.

    @commands.ListServices.responder
    def list_services(self, service: str | None = None) -> dict[str, Any]:
        """Each service's figures; its IPs may be too many for a page, and have their own list."""
        rows = self._operations.services(service)
        without_ips = (
            {key: value for key, value in row.to_json().items() if key != "ips"} for row in rows
        )
        return self._pager.first(without_ips)

    @commands.ListConnections.responder
    def list_connections(self, **arguments: Any) -> Deferred[dict[str, Any]]:
        """Connections, with how many there are in all."""
        return self._operations.connections(**arguments).addCallback(
            lambda found: self._rows(found.rows) | {"total": found.total}
        )

    @commands.ListIps.responder
    def list_ips(self, **arguments: Any) -> dict[str, Any]:
        """The bare IPs."""
        return self._pager.first(row.ip for row in self._operations.ips(**arguments))

    @commands.ListClients.responder
    def list_clients(self, **arguments: Any) -> dict[str, Any]:
        """The totals of each client IP."""
        return self._rows(self._operations.clients(**arguments))

    @commands.ListDevices.responder
    def list_devices(self, **arguments: Any) -> dict[str, Any]:
        """Each device that was seen."""
        return self._rows(self._operations.devices(**arguments))

    @commands.ListBlocks.responder
    def list_blocks(self, **arguments: Any) -> dict[str, Any]:
        """The blocked networks."""
        return self._rows(self._operations.blocks(**arguments))

    @commands.ListHistory.responder
    def list_history(
        self, events: bool | None = None, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """Connections that are over, or events."""
        find = self._operations.history_events if events else self._operations.history
        found: Deferred[Any] = find(**arguments)
        return found.addCallback(self._rows)

    @commands.Report.responder
    def report(self, **arguments: Any) -> Deferred[dict[str, Any]]:
        """A period summed up."""
        return self._operations.report(**arguments).addCallback(
            lambda row: {"report": _json(row.to_json())}
        )

    @commands.ShowConnection.responder
    def show_connection(self, id: int) -> Deferred[dict[str, Any]]:
        """One connection, whole."""
        return self._operations.connection(id).addCallback(
            lambda row: {"connection": _json(row.to_json())}
        )

    @commands.NextPage.responder
    def next_page(self, next: int) -> dict[str, Any]:
        """More of the list that was requested last."""
        page = self._pager.next(next)
        if page is None:
            raise commands.UnknownPage("there is no such page: ask for the list again")
        return page

    def _rows(self, rows: Any) -> dict[str, Any]:
        return self._pager.first(row.to_json() for row in rows)

    # -- actions

    @commands.CloseConnections.responder
    def close_connections(
        self, ids: bytes | None = None, dry_run: bool | None = None, **arguments: Any
    ) -> Deferred[dict[str, Any]]:
        """End connections; a dry run answers which."""
        wanted = None if ids is None else _ids(ids)
        return self._operations.close(
            self._actor(), ids=wanted, dry_run=dry_run, **arguments
        ).addCallback(
            lambda done: {
                "closed": len(done.ids),
                "unknown": json.dumps(done.unknown, separators=(",", ":")).encode(),
                **(self._rows(done.rows) if dry_run else {}),
            }
        )

    @commands.Block.responder
    def block(self, **arguments: Any) -> dict[str, Any]:
        """Refuse a network's clients."""
        done = self._operations.block(self._actor(), **arguments)
        return {"changed": done.changed, "closed": done.count}

    @commands.Unblock.responder
    def unblock(self, **arguments: Any) -> dict[str, Any]:
        """Admit a network's clients again."""
        return {"changed": self._operations.unblock(self._actor(), **arguments).changed}

    @commands.ResetStats.responder
    def reset_stats(self, **arguments: Any) -> dict[str, Any]:
        """Set totals to zero."""
        self._operations.reset_stats(self._actor(), **arguments)
        return {}

    @commands.SubtractStats.responder
    def subtract_stats(self, **arguments: Any) -> dict[str, Any]:
        """Subtract from totals."""
        self._operations.subtract_stats(self._actor(), **arguments)
        return {}

    def _actor(self) -> Actor:
        actor = peers.actor(self.transport)
        if actor is None:
            raise commands.Denied("the client's user is not known")
        return actor

    # -- events

    @commands.Subscribe.responder
    def subscribe(self, **arguments: Any) -> dict[str, Any]:
        """Push events from now on; instead of those of an earlier subscription."""
        subscription = self._operations.subscribe(self._push, **arguments)
        if self._subscription is not None:
            subscription.dropped = self._subscription.dropped
        self.unsubscribe()
        self._subscription = subscription
        if self._is_slow:
            subscription.pause()
        return {}

    def unsubscribe(self) -> None:
        """Push no more events; harmless without a subscription."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def _push(self, event: FeedEvent) -> None:
        if self._subscription is not None:
            self.callRemote(
                commands.Event, event=event.encode(), dropped=self._subscription.dropped
            )


def _deny(box: amp.AmpBox) -> Any:
    raise amp.RemoteAmpError(b"DENIED", "say Hello first")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _ids(text: bytes) -> list[int]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise commands.BadRequest("ids must be a JSON array of integers")
    return ids
