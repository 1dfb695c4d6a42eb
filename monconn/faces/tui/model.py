"""The state of the live view: what to ask the server for, and what it answered.

Knows neither a screen nor a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from monconn.faces.tui.charts import Chart, Trends
from monconn.faces.tui.cursor import Cursor
from monconn.faces.tui.layout import FOCUSES, Focus, Layout
from monconn.faces.tui.ordering import Row, kept
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Filter, FilterError, parse
from monconn.ops.rows import Order

ORDERS: tuple[Order, ...] = ("rate", "down", "up", "age", "idle", "id")
"""Those of the live connections, in the order in which a key goes through them."""
CLOSED_ORDERS: tuple[Order, ...] = ("closed", "down", "up", "age", "id")
SERVICE_ORDERS = ("name", "now", "rate", "total", "refused")
MAX_ROWS = 500
"""The most rows to query, however far down the user goes."""
MIN_RATE_SECONDS = 0.2
"""The shortest time between two samples of the totals that gives a meaningful rate."""
NO_FILTER = parse("", CONNECTION_KEYS)
_ROOM_STEP = 4
_ROOM_SECONDS = 30.0
"""For how long fewer connections leave the tables' heights as they are."""


@attrs.frozen
class Query:
    """The query of one poll.

    :param order: by what the server sorts the live connections.
    :param limit: how many live connections to send.
    :param closed_order: by what it sorts the closed ones.
    :param closed_limit: how many of them.
    :param details: the id of the one connection to ask for, instead of all else.
    :param devices: whether to ask for devices, instead of all else.
    """

    order: Order = "rate"
    filter: Filter = NO_FILTER
    limit: int = 0
    closed_order: Order = "closed"
    closed_limit: int = 0
    details: int | None = None
    devices: bool = False


@attrs.frozen
class Snapshot:
    """The server's answer to a query.

    :param at: when, in monotonic seconds.
    :param server: its name and version.
    :param pid: its process id.
    :param total: how many live connections pass the filter.
    :param closed_total: how many closed ones.
    :param details: None also if the server no longer knows the connection.
    :param devices: the first devices, those with alarms before the others.
    :param alarms: how many devices have alarms; None if the server does not say.
    :param role: what the control port allows: ``view`` or ``operate``; empty if it is not known.
    :param is_sorted: whether the live connections are in a new order: see
        :data:`~monconn.faces.tui.ordering.SORT_SECONDS`.
    """

    query: Query
    at: float
    server: str = ""
    pid: int = 0
    services: Sequence[Row] = ()
    rows: Sequence[Row] = ()
    total: int = 0
    closed: Sequence[Row] = ()
    closed_total: int = 0
    details: Row | None = None
    devices: Sequence[Row] = ()
    alarms: int | None = None
    is_sorted: bool = True
    role: str = ""


class Model:
    """The state of the live view."""

    def __init__(self) -> None:
        self.order: Order = ORDERS[0]
        self.closed_order: Order = CLOSED_ORDERS[0]
        self.service_order = SERVICE_ORDERS[0]
        self.filter_text = ""
        """The filter as it was typed."""
        self.filter = NO_FILTER
        """The parsed text, up to a term that cannot be parsed."""
        self.filter_error: FilterError | None = None
        """Why the text cannot be understood; None if it can."""
        self.paused = False
        self.may_act = True
        """Whether the control port allows more than to look."""
        self.details: int | None = None
        self.shows_devices = False
        self.cursors = {"live": Cursor(), "closed": Cursor(), "services": Cursor(key="sid")}
        self.device_cursor = Cursor(key="key")
        self.focus: Focus = "live"
        """The table that the keys act on."""
        self.snapshot = self._sample = Snapshot(Query(), 0.0)
        self.rows: Sequence[Row] = ()
        """The live connections, as far as they were queried."""
        self.service_rows: Sequence[Row] = ()
        """The services with their rates."""
        self.devices: Sequence[Row] = ()
        self.alarms: int | None = None
        """How many devices have alarms."""
        self.trends = Trends()
        self.service_trends = Trends()
        self.detail_trends = Trends()
        self.charts = {"connections": Chart(), "up": Chart(), "down": Chart()}
        self.details_row: Row | None = None
        self.details_known = True
        self.lost = ""
        """Why the server cannot be asked; empty while it can."""
        self._room = _Room()

    @property
    def live(self) -> Cursor:
        """The selection among the live connections."""
        return self.cursors["live"]

    @property
    def closed(self) -> Cursor:
        """The selection among the closed connections."""
        return self.cursors["closed"]

    # -- what to ask for

    def query(self) -> Query | None:
        """The query of the next poll; None while paused."""
        if self.details is not None:
            return Query(details=self.details)
        if self.shows_devices:
            return Query(devices=True)
        if self.paused:
            return None
        # A page more than fits, so that turning the page does not wait for the server.
        limit, closed_limit = (
            min(each.top + 2 * each.height, MAX_ROWS) for each in (self.live, self.closed)
        )
        return Query(self.order, self.filter, limit, self.closed_order, closed_limit)

    def next_order(self, steps: int = 1) -> None:
        """Sort the table with the focus by the order that is ``steps`` further in the list."""
        orders, order = {
            "live": (ORDERS, self.order),
            "closed": (CLOSED_ORDERS, self.closed_order),
            "services": (SERVICE_ORDERS, self.service_order),
        }[self.focus]
        self.sort_by(self.focus, orders[(orders.index(order) + steps) % len(orders)])

    def sort_by(self, table: Focus, order: Any) -> None:
        """Sort a table."""
        if table == "live":
            self.order = order
        elif table == "closed":
            self.closed_order = order
        else:
            self.service_order = order
            self._sort_services(is_kept=False)
        self.paused = False
        self.cursors[table].to_top()

    def filter_by(self, text: str) -> None:
        """Show only what a text of the filter language selects.

        While a term cannot be understood, those before it are what is filtered by.
        """
        before, self.filter_text = self.filter, text
        self._parse_filter()
        if self.filter != before:
            self.paused = False
            self.live.to_top()
            self.closed.to_top()

    def _parse_filter(self) -> None:
        known = {"service": self.service_names}
        text, self.filter_error = self.filter_text, None
        while True:
            try:
                self.filter = parse(text, CONNECTION_KEYS, known=known)
                return
            except FilterError as error:
                self.filter_error = self.filter_error or error
                if error.position is None:  # no single term is wrong
                    return
                text = text[: error.position]

    def open_details(self, connection_id: int) -> None:
        """Ask for one connection instead of the lists."""
        rows = (*self.rows, *self.closed_rows)
        self.details, self.details_known = connection_id, True
        self.details_row = next((row for row in rows if row["id"] == connection_id), None)
        self.detail_trends = Trends()

    def close_details(self) -> None:
        """Ask for the lists again."""
        self.details = self.details_row = None

    # -- what to show

    @property
    def closed_rows(self) -> Sequence[Row]:
        """The closed connections, newest first unless sorted otherwise."""
        return self.snapshot.closed

    @property
    def service_names(self) -> list[str]:
        """The names of all services."""
        return [str(row.get("sid")) for row in self.snapshot.services]

    @property
    def live_count(self) -> int:
        """How many connections are live, at all services."""
        return sum(int(each.get("connections") or 0) for each in self.snapshot.services)

    @property
    def expected_rows(self) -> int:
        """For how many live connections there should be room."""
        return self._room.rows

    def table_rows(self, table: Focus) -> Sequence[Row]:
        """All rows of a table that are known."""
        if table == "live":
            return self.rows
        return self.closed_rows if table == "closed" else self.service_rows

    @property
    def selected(self) -> Row | None:
        """The connection that a key acts on."""
        if self.details is not None:
            return self.details_row
        return None if self.focus == "services" else self.selected_in(self.focus)

    def selected_in(self, table: Focus) -> Row | None:
        """The selected row of a table; None if it has none."""
        return self.cursors[table].selected(self.table_rows(table))

    def move(self, steps: int) -> None:
        """Go down among the rows, or up by a negative number of steps."""
        self.cursors[self.focus].move(steps, self.table_rows(self.focus))

    def next_focus(self, steps: int) -> None:
        """Have the keys act on the next table that has rows."""
        place = FOCUSES.index(self.focus)
        for _ in FOCUSES:
            place = (place + steps) % len(FOCUSES)
            focus = FOCUSES[place]
            if focus == "live" or (self.cursors[focus].height and self.table_rows(focus)):
                self.focus = focus
                return

    def set_layout(self, layout: Layout) -> None:
        """Set how many rows fit."""
        self.set_heights(layout.live, layout.closed, layout.services)

    def set_heights(self, live: int, closed: int, services: int = 0) -> None:
        """Set how many rows fit into each table."""
        for name, height in (("live", live), ("closed", closed), ("services", services)):
            self.cursors[name].height = max(height, 0)
        if not self.cursors[self.focus].height:
            self.focus = "live"
        self._follow()

    # -- what the server answered

    def update(self, snapshot: Snapshot) -> None:
        """Take over what the server answered, unless the query has changed since."""
        self.lost = ""
        if snapshot.role:
            self.may_act = snapshot.role != "view"
        if snapshot.query.details is not None:
            self._update_details(snapshot)
            return
        if snapshot.query.devices:
            self._update_devices(snapshot)
            return
        if self.paused:
            return
        before, before_rows = self.snapshot, self.rows
        self.snapshot = snapshot
        self.alarms = snapshot.alarms
        is_other = snapshot.pid != before.pid
        if is_other:  # another process numbers its own connections
            self.trends.clear()
            self.service_trends.clear()
            for chart in self.charts.values():
                chart.clear()
        if snapshot.pid != self._sample.pid or snapshot.at - self._sample.at >= MIN_RATE_SECONDS:
            self._update_rates(snapshot)
        self.trends.add({row["id"]: row_rate(row) for row in snapshot.rows})
        self._room.update(snapshot.at, snapshot.total)
        if _names(snapshot) != _names(before):
            self._parse_filter()  # a word may have become the name of a service
        is_sorted = snapshot.is_sorted or is_other
        self.rows = snapshot.rows
        if not is_sorted:
            self.rows = kept(snapshot.rows, [row["id"] for row in before_rows], "id")
        self._sort_services(is_kept=not is_sorted)
        self._follow()

    def _update_rates(self, snapshot: Snapshot) -> None:
        rates = _service_rates(self._sample, snapshot)
        self.service_trends.add(rates)
        self._sample = snapshot
        self.charts["connections"].add(snapshot.at, self.live_count)
        for way in ("up", "down"):
            self.charts[way].add(snapshot.at, rates.get(("", way), 0.0))

    def _sort_services(self, *, is_kept: bool) -> None:
        before = [row["sid"] for row in self.service_rows]
        rows = [self._with_rates(row, row["sid"]) for row in self.snapshot.services]
        order = self.service_order
        key = {"now": "connections", "total": "total", "refused": "refused"}.get(order)
        if key is not None:
            rows.sort(key=lambda row: -(row.get(key) or 0))
        elif order == "rate" and is_kept:
            rows = kept(rows, before, "sid")
        elif order == "rate":
            rows.sort(key=lambda row: -row_rate(row))
        else:
            rows.sort(key=lambda row: str(row["sid"]).casefold())
        self.service_rows = rows

    def _with_rates(self, row: Row, service: str) -> Row:
        up, down = (self.service_trends.of((service, way)) for way in ("up", "down"))
        trend = [sum(rates) for rates in zip(up, down, strict=True)]
        return row | {
            "up_rate": up[-1] if up else 0.0,
            "down_rate": down[-1] if down else 0.0,
            "trend": trend,
        }

    def _update_details(self, snapshot: Snapshot) -> None:
        if snapshot.query.details != self.details:
            return
        self.details_known = snapshot.details is not None
        if snapshot.details is not None:
            self.details_row = snapshot.details
            rates = {key: float(snapshot.details.get(key) or 0) for key in ("up_rate", "down_rate")}
            self.detail_trends.add(rates)

    def _update_devices(self, snapshot: Snapshot) -> None:
        self.devices = [
            # A device is known at each service by itself.
            row | {"key": f"{row.get('service')} {row['device']}"}
            for row in snapshot.devices
        ]
        self.alarms = snapshot.alarms
        self.device_cursor.follow(self.devices)

    def _follow(self) -> None:
        for table in FOCUSES:
            self.cursors[table].follow(self.table_rows(table))


class _Room:
    """For how many rows there should be room: more at once, fewer only after some time.

    The tables' heights depend on it, and should not change with each connection.
    """

    def __init__(self) -> None:
        self.rows = MAX_ROWS
        self._is_known = False
        self._fewer_since: float | None = None

    def update(self, at: float, count: int) -> None:
        """Take over how many there are."""
        wanted = -(-count // _ROOM_STEP) * _ROOM_STEP
        if wanted >= self.rows or not self._is_known:
            self._is_known = True
            self.rows, self._fewer_since = wanted, None
        elif self._fewer_since is None:
            self._fewer_since = at
        elif at - self._fewer_since >= _ROOM_SECONDS:
            self.rows, self._fewer_since = wanted, None


def row_rate(row: Row) -> float:
    """Bytes a second, both ways together."""
    return float(row.get("up_rate") or 0) + float(row.get("down_rate") or 0)


def _names(snapshot: Snapshot) -> list[Any]:
    return [row.get("sid") for row in snapshot.services]


def _service_rates(before: Snapshot, now: Snapshot) -> dict[Any, float]:
    """Bytes a second by service and direction; the service is empty for all of them."""
    seconds = now.at - before.at
    earlier = {row["sid"]: row for row in before.services} if before.pid == now.pid else {}
    rates: dict[Any, float] = {}
    for row in now.services:
        for way in ("up", "down"):
            moved = (row.get(way) or 0) - (earlier.get(row["sid"], row).get(way) or 0)
            # Totals decrease when they are reset.
            rate = max(moved, 0) / seconds if seconds > 0 else 0.0
            rates[row["sid"], way] = rate
            rates["", way] = rates.get(("", way), 0.0) + rate
    return rates
