"""What can be asked of the control port: each answer is made of what the monitors know."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.defer import Deferred

from monconn.addresses import parse_network
from monconn.devices.diagnosis import diagnose
from monconn.errors import quoted
from monconn.faces.control import commands
from monconn.faces.control.session import Session
from monconn.model.reasons import STATES, State
from monconn.model.record import ConnectionRecord
from monconn.ops.listing import ORDERS, ConnectionQuery, Order, listed, row
from monconn.ops.rates import LEAST_SECONDS


class Lists(Session):
    """The commands that change nothing."""

    @commands.ListServices.responder
    def list_services(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ListServices`."""
        return self._first_page(_without_ips(each.stats()) for each in self._monitors(service))

    @commands.ListIps.responder
    def list_ips(self, service: str) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ListIps`."""
        (monitor,) = self._monitors(service)
        return self._first_page(sorted(monitor.connections_by_ip()))

    @commands.ListClients.responder
    def list_clients(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ListClients`."""
        return self._first_page(
            {"service": monitor.name, **client}
            for monitor in self._monitors(service)
            for client in monitor.clients.snapshot(monitor.connections())
        )

    @commands.ListDevices.responder
    def list_devices(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ListDevices`."""
        self._monitors(service)  # whether there is one
        devices = self._factory.devices
        if devices is None:
            raise commands.NotKept("nobody looks after devices here")
        return self._first_page(devices.rows(service))

    # -- the past

    @commands.ListHistory.responder
    def list_history(
        self, events: bool | None = None, limit: int | None = None, **filters: Any
    ) -> Any:
        """See :class:`~monconn.faces.control.commands.ListHistory`."""
        history = self._history()
        from monconn.sinks.history import query

        limit = min(limit or query.USUAL_ROWS, query.MOST_ROWS)
        past = query.make_filter(events=bool(events), limit=limit, **filters)
        find = query.events if events else query.connections
        return history.run(lambda db: find(db, past)).addCallback(self._first_page)

    @commands.Report.responder
    def report(self, **filters: Any) -> Any:
        """See :class:`~monconn.faces.control.commands.Report`."""
        history = self._history()
        from monconn.sinks.history import query

        past = query.make_filter(**filters)
        made = history.run(lambda db: query.report(db, past))
        return made.addCallback(lambda report: {"report": json.dumps(report).encode()})

    def _history(self) -> Any:
        self._check_greeted()
        if self._factory.history is None:
            raise commands.NotKept("no history is kept: docs/history.md says how to have one")
        return self._factory.history

    @commands.ListBlocks.responder
    def list_blocks(self, service: str | None = None) -> dict[str, Any]:
        """See :class:`~monconn.faces.control.commands.ListBlocks`."""
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
        """See :class:`~monconn.faces.control.commands.ListConnections`."""
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
        self, records: Iterable[ConnectionRecord], wanted: ConnectionQuery, shown: slice
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

    def _look(self) -> Any:
        live = (record for monitor in self._registry for record in monitor.connections())
        return self._factory.rates.look(live, self._factory.clock.seconds())

    @commands.ShowConnection.responder
    def show_connection(self, id: int) -> Any:
        """See :class:`~monconn.faces.control.commands.ShowConnection`."""
        self._check_greeted()

        def answer() -> dict[str, bytes]:
            record, now = self._registry.record(id), self._factory.clock.seconds()
            for monitor in self._registry:
                if id in monitor:
                    monitor.measure(id)
            shown_row = row(record, self._factory.rates, now)
            shown_row["diagnosis"] = diagnose(record, now)
            return {"connection": json.dumps(shown_row).encode()}

        self._registry.record(id)  # whether there is one is said at once
        return self._once_rates_are_known(answer)


def _without_ips(stats: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stats.items() if key != "ips"}


def _wanted(
    client: str | None = None,
    state: str | None = None,
    idle_over: float | None = None,
    text: str | None = None,
    sort: str | None = None,
) -> ConnectionQuery:
    return ConnectionQuery(
        client=None if client is None else parse_network(client),
        state=cast("State | None", _one_of(STATES, state)),
        idle_over_seconds=idle_over or 0.0,
        text=(text or "").lower(),
        order=cast(Order, _one_of(ORDERS, sort) or "id"),
    )


def _one_of(words: tuple[str, ...], word: str | None) -> str | None:
    if word is not None and word not in words:
        raise commands.BadRequest(f"{quoted(word)} is none of {', '.join(words)}")
    return word
