"""The state of the live view: what to ask the server for, and what it answered.

Knows neither a screen nor a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs

from monconn.faces.tui.cursor import Cursor
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Filter, FilterError, parse
from monconn.ops.rows import Order

Row = dict[str, Any]
"""The JSON of a row of :mod:`monconn.ops.rows`."""
ORDERS: tuple[Order, ...] = ("rate", "down", "up", "age", "idle", "id")
"""Those of the live connections, in the order in which a key goes through them."""
MAX_ROWS = 500
"""The most rows to query, however far down the user goes."""
TREND_LENGTH = 120
MIN_RATE_SECONDS = 0.2
"""The shortest time between two samples of the totals that gives a meaningful rate."""
NO_FILTER = parse("", CONNECTION_KEYS)


@attrs.frozen
class Query:
    """The query of one poll.

    :param order: by what the server sorts the live connections.
    :param limit: how many live connections to send.
    :param closed_limit: how many closed ones.
    :param details: the id of the one connection to ask for, instead of all else.
    """

    order: Order = "rate"
    filter: Filter = NO_FILTER
    limit: int = 0
    closed_limit: int = 0
    details: int | None = None


@attrs.frozen
class Snapshot:
    """The server's answer to a query.

    :param at: when, in monotonic seconds.
    :param server: its name and version.
    :param pid: its process id.
    :param total: how many live connections pass the filter.
    :param details: None also if the server no longer knows the connection.
    """

    query: Query
    at: float
    server: str = ""
    pid: int = 0
    services: Sequence[Row] = ()
    rows: Sequence[Row] = ()
    total: int = 0
    closed: Sequence[Row] = ()
    details: Row | None = None


class Trends:
    """The last rates of the rows that are shown, and of no others."""

    def __init__(self) -> None:
        self._rates: dict[Any, deque[float]] = {}

    def add(self, rates: dict[Any, float]) -> None:
        """Add one rate for each key; keys that are not among them are forgotten."""
        before = self._rates
        self._rates = {key: before.get(key) or deque(maxlen=TREND_LENGTH) for key in rates}
        for key, rate in rates.items():
            self._rates[key].append(rate)

    def clear(self) -> None:
        """Forget all rates."""
        self._rates.clear()

    def of(self, key: Any) -> Sequence[float]:
        """The rates in bytes a second, oldest first."""
        return tuple(self._rates.get(key, ()))

    def __len__(self) -> int:
        return len(self._rates)


class Model:
    """The state of the live view."""

    def __init__(self) -> None:
        self.order: Order = ORDERS[0]
        self.filter_text = ""
        """The filter as it was typed."""
        self.filter = NO_FILTER
        """The parsed text, up to a term that cannot be parsed."""
        self.filter_error: FilterError | None = None
        """Why the text cannot be understood; None if it can."""
        self.paused = False
        self.details: int | None = None
        self.live = Cursor()
        self.closed = Cursor()
        self.closed_has_focus = False
        """Whether the arrow keys move among the closed connections."""
        self.snapshot = self._sample = Snapshot(Query(), 0.0)
        self.trends = Trends()
        self.service_trends = Trends()
        self.detail_trends = Trends()
        self.details_row: Row | None = None
        self.details_known = True
        self.lost = ""
        """Why the server cannot be asked; empty while it can."""

    # -- what to ask for

    def query(self) -> Query | None:
        """The query of the next poll; None while paused."""
        if self.details is not None:
            return Query(details=self.details)
        if self.paused:
            return None
        # A page more than fits, so that turning the page does not wait for the server.
        limit = min(self.live.top + 2 * self.live.height, MAX_ROWS)
        return Query(self.order, self.filter, limit, self.closed.height)

    def next_order(self, steps: int = 1) -> None:
        """Sort by the order that is ``steps`` further in the list."""
        self.order = ORDERS[(ORDERS.index(self.order) + steps) % len(ORDERS)]
        self.paused = False
        self.live.to_top()

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
        known = {"service": [str(row.get("sid")) for row in self.snapshot.services]}
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
        rows = (*self.snapshot.rows, *self.snapshot.closed)
        self.details, self.details_known = connection_id, True
        self.details_row = next((row for row in rows if row["id"] == connection_id), None)
        self.detail_trends = Trends()

    def close_details(self) -> None:
        """Ask for the lists again."""
        self.details = self.details_row = None

    # -- what to show

    @property
    def rows(self) -> Sequence[Row]:
        """The live connections, as far as they were queried."""
        return self.snapshot.rows

    @property
    def closed_rows(self) -> Sequence[Row]:
        """The closed connections, newest first."""
        return self.snapshot.closed

    def service_rows(self, limit: int) -> list[Row]:
        """At most ``limit`` services, with rates; of several, the last row is the sum."""
        rows = [self._with_rates(row, row["sid"]) for row in self.snapshot.services]
        if len(rows) < 2 or limit < 2:
            return rows[:limit]
        keys = ("connections", "total", "refused", "up", "down")
        sums: Row = {key: sum(int(row.get(key) or 0) for row in rows) for key in keys}
        total = self._with_rates({"sid": f"all {len(rows)}", **sums}, "")
        return [*rows[: limit - 1], total]

    def _with_rates(self, row: Row, service: str) -> Row:
        up, down = (self.service_trends.of((service, way)) for way in ("up", "down"))
        trend = [sum(rates) for rates in zip(up, down, strict=True)]
        return row | {
            "up_rate": up[-1] if up else 0.0,
            "down_rate": down[-1] if down else 0.0,
            "trend": trend,
        }

    @property
    def live_count(self) -> int:
        """How many connections are live, at all services."""
        return sum(int(each.get("connections") or 0) for each in self.snapshot.services)

    @property
    def selected(self) -> Row | None:
        """The connection that a key acts on."""
        if self.details is not None:
            return self.details_row
        if self.closed_has_focus:
            return self.closed.selected(self.closed_rows)
        return self.live.selected(self.rows)

    def move(self, steps: int) -> None:
        """Go down among the rows, or up by a negative number of steps."""
        if self.closed_has_focus:
            self.closed.move(steps, self.closed_rows)
        else:
            self.live.move(steps, self.rows)

    def set_heights(self, live: int, closed: int) -> None:
        """Set how many rows fit."""
        self.live.height, self.closed.height = max(live, 0), max(closed, 0)
        if not self.closed.height:
            self.closed_has_focus = False
        self._follow()

    # -- what the server answered

    def update(self, snapshot: Snapshot) -> None:
        """Take over what the server answered, unless the query has changed since."""
        self.lost = ""
        if snapshot.query.details is not None:
            self._update_details(snapshot)
            return
        if self.paused:
            return
        before, self.snapshot = self.snapshot, snapshot
        if snapshot.pid != before.pid:  # another process numbers its own connections
            self.trends.clear()
            self.service_trends.clear()
        is_other_process = snapshot.pid != self._sample.pid
        if is_other_process or snapshot.at - self._sample.at >= MIN_RATE_SECONDS:
            self.service_trends.add(_service_rates(self._sample, snapshot))
            self._sample = snapshot
        self.trends.add({row["id"]: _rate(row) for row in snapshot.rows})
        if _names(snapshot) != _names(before):
            self._parse_filter()  # a word may have become the name of a service
        self._follow()

    def _update_details(self, snapshot: Snapshot) -> None:
        if snapshot.query.details != self.details:
            return
        self.details_known = snapshot.details is not None
        if snapshot.details is not None:
            self.details_row = snapshot.details
            rates = {key: float(snapshot.details.get(key) or 0) for key in ("up_rate", "down_rate")}
            self.detail_trends.add(rates)

    def _follow(self) -> None:
        self.live.follow(self.rows)
        self.closed.follow(self.closed_rows)


def _rate(row: Row) -> float:
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
