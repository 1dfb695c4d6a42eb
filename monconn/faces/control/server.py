"""The control port's deeds and events; each asks the monitors, which do all there is to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory

from monconn.addresses import parse_network
from monconn.devices.devices import DevicesService
from monconn.faces.control import commands
from monconn.faces.control.feed import Feed
from monconn.faces.control.lists import Lists
from monconn.monitor.registry import Registry
from monconn.ops.rates import Rates

if TYPE_CHECKING:
    from monconn.sinks.history.service import HistoryService  # SQLite and all: only if it is wanted

IDS_AT_ONCE = 2_000


class ControlFactory(Factory):
    """Serves the control port's clients.

    :param registry: the monitors to ask.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param manhole: says where the manhole is; None if there is none.
    :param devices: knows the devices; None if nobody does.
    :param history: keeps what happened; None if nobody does.
    """

    noisy = False

    def __init__(
        self,
        registry: Registry,
        clock: Any,
        manhole: Callable[[], str | None] = lambda: None,
        devices: DevicesService | None = None,
        history: HistoryService | None = None,
    ) -> None:
        self.registry = registry
        self.clock = clock
        self.manhole = manhole
        self.devices = devices
        self.history = history
        self.rates = Rates()
        self.feed = Feed(registry, clock)
        self.clients: set[ControlProtocol] = set()

    def buildProtocol(self, addr: Any) -> ControlProtocol:
        """See ``IProtocolFactory``."""
        return ControlProtocol(self)

    def greeted(self) -> int:
        """How many clients have said Hello."""
        return sum(client.greeted for client in self.clients)

    def close(self) -> None:
        """Let go of all clients."""
        for client in tuple(self.clients):
            client.transport.abortConnection()


class ControlProtocol(Lists):
    """One client of the control port, with all that it can ask for."""

    def __init__(self, factory: ControlFactory) -> None:
        super().__init__(factory)
        self._dropped = 0

    @commands.CloseConnections.responder
    def close_connections(
        self,
        ids: bytes | None = None,
        client: str | None = None,
        service: str | None = None,
        reset: bool | None = None,
    ) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.CloseConnections`."""
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
        """See :class:`~monconn.faces.control.commands.Block`."""
        parsed = parse_network(network)
        changed = [each.block(parsed) for each in self._monitors(service)]
        return {"changed": any(changed)}

    @commands.Unblock.responder
    def unblock(self, network: str, service: str | None = None) -> dict[str, bool]:
        """See :class:`~monconn.faces.control.commands.Unblock`."""
        parsed = parse_network(network)
        changed = [each.unblock(parsed) for each in self._monitors(service)]
        return {"changed": any(changed)}

    @commands.ResetStats.responder
    def reset_stats(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ResetStats`."""
        for monitor in self._monitors(service):
            monitor.reset_stats()
        return {}

    @commands.SubtractStats.responder
    def subtract_stats(self, service: str, up: int, down: int) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.SubtractStats`."""
        (monitor,) = self._monitors(service)
        try:
            monitor.subtract(up, down)
        except ValueError as error:
            raise commands.BadRequest(str(error)) from None
        return {}

    # -- events

    @commands.Subscribe.responder
    def subscribe(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.Subscribe`."""
        self._monitors(service)
        self._factory.feed.subscribe(self, service)
        return {}

    def push(self, event: bytes) -> None:
        """See :class:`~monconn.faces.control.feed.Subscriber`."""
        if self._is_slow:
            self._dropped += 1
        else:
            self.callRemote(commands.Event, event=event, dropped=self._dropped)

    def drop(self) -> None:
        """See :class:`~monconn.faces.control.feed.Subscriber`."""
        self._dropped += 1


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
