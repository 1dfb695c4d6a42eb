"""The control port's answers: each asks the monitors, which do all there is to do."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn._version import __version__
from monconn.addresses import parse_network
from monconn.control import commands
from monconn.control.feed import Feed
from monconn.control.peers import may_enter
from monconn.core.listing import ORDERS, Order, Wanted, listed, row
from monconn.core.monitor import Monitor
from monconn.core.rates import LEAST_SECONDS, Rates
from monconn.core.record import STATES, ConnectionRecord, State
from monconn.core.registry import Registry
from monconn.errors import shown

PAGE_BYTES = 60_000
"""Rows in one answer; AMP takes 65,535."""
CLIENTS_AT_ONCE = 64
STRANGERS_AT_ONCE = 64
"""Clients that have not said Hello."""
IDS_AT_ONCE = 2_000
HELLO_SECONDS = 10.0
BOX_BYTES = 256 * 1024
"""The most that a request may be long."""


class ControlFactory(Factory):
    """Serves the control port's clients.

    :param registry: the monitors to ask.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param manhole: says where the manhole is; None if there is none.
    """

    noisy = False

    def __init__(
        self, registry: Registry, clock: Any, manhole: Callable[[], str | None] = lambda: None
    ) -> None:
        self.registry = registry
        self.clock = clock
        self.manhole = manhole
        self.rates = Rates()
        self.feed = Feed(registry, clock)
        self.clients: set[ControlProtocol] = set()

    def buildProtocol(self, addr: Any) -> ControlProtocol:
        """See ``IProtocolFactory``."""
        return ControlProtocol(self)

    def greeted(self) -> int:
        """How many clients have said Hello."""
        return sum(client._greeted for client in self.clients)

    def close(self) -> None:
        """Let go of all clients."""
        for client in tuple(self.clients):
            client.transport.abortConnection()


@implementer(IPushProducer)
class ControlProtocol(amp.AMP):
    """One client of the control port."""

    transport: Any
    _log = Logger(namespace="monconn.control")

    def __init__(self, factory: ControlFactory) -> None:
        super().__init__()
        self._factory = factory
        self._registry = factory.registry
        self._greeted = False
        self._box_bytes = 0
        self._timer: Any = None
        self._rest: Iterator[bytes] = iter(())
        self._pages = 0
        self._next: int | None = None
        self._dropped = 0
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
        """See :class:`~monconn.control.commands.Hello`."""
        if version < 1:
            raise commands.BadRequest(f"there is no version {version} of this protocol")
        if not self._greeted and self._factory.greeted() >= CLIENTS_AT_ONCE:
            raise commands.Denied(f"{CLIENTS_AT_ONCE} clients are served already")
        self._greeted = True
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
        if not self._greeted:
            raise commands.Denied("say Hello first")

    # -- lists

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
        """See :class:`~monconn.control.commands.NextPage`."""
        self._check_greeted()
        if next != self._next:
            raise commands.UnknownPage("there is no such page: ask for the list again")
        return self._one_page()

    @commands.ListServices.responder
    def list_services(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.ListServices`."""
        return self._first_page(_without_ips(each.stats()) for each in self._monitors(service))

    @commands.ListIps.responder
    def list_ips(self, service: str) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.ListIps`."""
        (monitor,) = self._monitors(service)
        return self._first_page(sorted(monitor.connections_by_ip()))

    @commands.ListClients.responder
    def list_clients(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.ListClients`."""
        return self._first_page(
            {"service": monitor.name, **client}
            for monitor in self._monitors(service)
            for client in monitor.clients.snapshot(monitor.connections())
        )

    @commands.ListBlocks.responder
    def list_blocks(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.ListBlocks`."""
        return self._first_page(
            {"service": monitor.name, "network": str(network)}
            for monitor in self._monitors(service)
            for network in monitor.blocks()
        )

    @commands.ListConnections.responder
    def list_connections(
        self,
        service: str | None = None,
        closed: bool | None = None,
        offset: int | None = None,
        limit: int | None = None,
        **filters: Any,
    ) -> Any:
        """See :class:`~monconn.control.commands.ListConnections`."""
        monitors = self._monitors(service)
        wanted = _wanted(**filters)
        shown = slice(
            max(offset or 0, 0), None if limit is None else max(offset or 0, 0) + max(limit, 0)
        )
        if closed:
            return self._listed(
                (r for each in monitors for r in each.closed_records), wanted, shown
            )

        def answer() -> dict[str, Any]:
            live = (record for monitor in monitors for record in monitor.connections())
            return self._listed(live, wanted, shown)

        return self._once_rates_are_known(answer)

    def _listed(
        self, records: Iterable[ConnectionRecord], wanted: Wanted, shown: slice
    ) -> dict[str, Any]:
        rates, seconds = self._factory.rates, self._factory.clock.seconds
        found = listed(records, wanted, rates, seconds())
        # Each row is as things are when its page is made.
        rows = (row(record, rates, seconds()) for record in found[shown])
        return self._first_page(rows) | {"total": len(found)}

    def _once_rates_are_known(self, answer: Any) -> Any:
        if self._look():
            return answer()
        waiting: Deferred[Any] = Deferred()
        self._factory.clock.callLater(LEAST_SECONDS, waiting.callback, None)
        return waiting.addCallback(lambda _: self._look()).addCallback(lambda _: answer())

    def _look(self) -> bool:
        live = (record for monitor in self._registry for record in monitor.connections())
        return self._factory.rates.look(live, self._factory.clock.seconds())

    @commands.ShowConnection.responder
    def show_connection(self, id: int) -> Any:
        """See :class:`~monconn.control.commands.ShowConnection`."""
        self._check_greeted()

        def answer() -> dict[str, bytes]:
            record = self._registry.record(id)
            shown = row(record, self._factory.rates, self._factory.clock.seconds())
            return {"connection": json.dumps(shown).encode()}

        self._registry.record(id)  # whether there is one is said at once
        return self._once_rates_are_known(answer)

    # -- deeds

    @commands.CloseConnections.responder
    def close_connections(
        self,
        ids: bytes | None = None,
        client: str | None = None,
        service: str | None = None,
        reset: bool | None = None,
    ) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.CloseConnections`."""
        monitors = self._monitors(service)
        if ids is None and client is None and service is None:
            raise commands.BadRequest("say which: by ids, by client or by service")
        if ids is not None:
            return self._close_by_ids(_ids(ids), bool(reset))
        network = None if client is None else parse_network(client)
        count = sum(monitor.close_all(network, reset=bool(reset)) for monitor in monitors)
        return {"closed": count, "unknown": b"[]"}

    def _close_by_ids(self, ids: list[int], reset: bool) -> dict[str, Any]:
        known = {
            record.id: monitor for monitor in self._registry for record in monitor.connections()
        }
        found = [each for each in ids if each in known]
        for each in found:
            if each in known[each]:  # the end of another may have been its end
                known[each].close(each, reset=reset)
        unknown = [each for each in ids if each not in known]
        return {
            "closed": len(found),
            "unknown": json.dumps(unknown, separators=(",", ":")).encode(),
        }

    @commands.Block.responder
    def block(self, network: str, service: str | None = None) -> dict[str, bool]:
        """See :class:`~monconn.control.commands.Block`."""
        parsed = parse_network(network)
        changed = [each.block(parsed) for each in self._monitors(service)]
        return {"changed": any(changed)}

    @commands.Unblock.responder
    def unblock(self, network: str, service: str | None = None) -> dict[str, bool]:
        """See :class:`~monconn.control.commands.Unblock`."""
        parsed = parse_network(network)
        changed = [each.unblock(parsed) for each in self._monitors(service)]
        return {"changed": any(changed)}

    @commands.ResetStats.responder
    def reset_stats(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.ResetStats`."""
        for monitor in self._monitors(service):
            monitor.reset_stats()
        return {}

    @commands.SubtractStats.responder
    def subtract_stats(self, service: str, up: int, down: int) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.SubtractStats`."""
        (monitor,) = self._monitors(service)
        try:
            monitor.subtract(up, down)
        except ValueError as error:
            raise commands.BadRequest(str(error)) from None
        return {}

    # -- events

    @commands.Subscribe.responder
    def subscribe(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.control.commands.Subscribe`."""
        self._monitors(service)
        self._factory.feed.subscribe(self, service)
        return {}

    def push(self, event: bytes) -> None:
        """See :class:`~monconn.control.feed.Subscriber`."""
        if self._is_slow:
            self._dropped += 1
        else:
            self.callRemote(commands.Event, event=event, dropped=self._dropped)

    def drop(self) -> None:
        """See :class:`~monconn.control.feed.Subscriber`."""
        self._dropped += 1


def _array(encoded: list[bytes]) -> bytes:
    return b"[" + b", ".join(encoded) + b"]"


def _without_ips(stats: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stats.items() if key != "ips"}


def _wanted(
    client: str | None = None,
    state: str | None = None,
    idle_over: float | None = None,
    text: str | None = None,
    sort: str | None = None,
) -> Wanted:
    return Wanted(
        client=None if client is None else parse_network(client),
        state=cast("State | None", _one_of(STATES, state)),
        idle_over_seconds=idle_over or 0.0,
        text=(text or "").lower(),
        order=cast(Order, _one_of(ORDERS, sort) or "id"),
    )


def _one_of(words: tuple[str, ...], word: str | None) -> str | None:
    if word is not None and word not in words:
        raise commands.BadRequest(f"{shown(word)} is none of {', '.join(words)}")
    return word


def _ids(text: bytes) -> list[int]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise commands.BadRequest("ids must be a JSON array of integers")
    if len(ids) > IDS_AT_ONCE:
        raise commands.BadRequest(f"no more than {IDS_AT_ONCE} ids at once")
    return ids
