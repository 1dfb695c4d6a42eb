"""What the live view wants to see, and what it was told: no screen and no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from monconn.addresses import parse_network
from monconn.errors import AddressError
from monconn.faces.tui.cursor import Cursor

Row = dict[str, Any]
"""A connection or a service, as the control port tells it."""

ORDERS = ("rate", "down", "up", "age", "idle", "id")
STATES = ("connecting", "open", "half_closed", "closing", "closed")
MOST_ROWS = 500
"""However far down one goes, no more rows are asked for."""
TREND_LENGTH = 120
LEAST_SECONDS = 0.2
"""Between two looks at the services' totals, for a rate to mean anything."""


@attrs.frozen
class Filter:
    """Which connections to show, as the user typed it.

    :param kind: what the text was taken for.
    """

    kind: Literal["none", "client", "service", "state", "text"] = "none"
    value: str = ""

    def arguments(self) -> dict[str, str]:
        """What the server is told to filter by."""
        return {} if self.kind == "none" else {self.kind: self.value}


def parse_filter(text: str, services: Iterable[str]) -> Filter:
    """Take a text for a state, an IP or network, a service's name, or else for a text.

    ``client=``, ``service=`` and ``state=`` before it say which, where it could be several.
    """
    text = text.strip()
    if not text:
        return Filter()
    kind, equals, value = text.partition("=")
    if not equals:
        kind, value = "", text
    if kind in ("", "state") and value in STATES:
        return Filter("state", value)
    if kind in ("", "client") and _is_network(value):
        return Filter("client", value)
    if kind in ("", "service") and value in services:
        return Filter("service", value)
    return Filter("text", text)


def _is_network(text: str) -> bool:
    try:
        parse_network(text)
    except AddressError:
        return False
    return True


@attrs.frozen
class Question:
    """What to ask the server for, all at once.

    :param details: the id of the one connection to ask for, instead of all else.
    """

    order: str = "rate"
    filter: Filter = Filter()
    limit: int = 0
    closed_limit: int = 0
    details: int | None = None


@attrs.frozen
class Answer:
    """What the server said to a question.

    :param at: when, in monotonic seconds.
    :param total: how many live connections pass the server's filter.
    :param details: None also if nobody knows the connection any more.
    """

    question: Question
    at: float
    server: str = ""
    pid: int = 0
    services: Sequence[Row] = ()
    rows: Sequence[Row] = ()
    total: int = 0
    closed: Sequence[Row] = ()
    details: Row | None = None


class Trends:
    """The last rates of what is shown, and of nothing else."""

    def __init__(self) -> None:
        self._kept: dict[Any, deque[float]] = {}

    def add(self, rates: dict[Any, float]) -> None:
        """Add one rate for each; whatever is not among them is forgotten."""
        kept = self._kept
        self._kept = {key: kept.get(key) or deque(maxlen=TREND_LENGTH) for key in rates}
        for key, rate in rates.items():
            self._kept[key].append(rate)

    def clear(self) -> None:
        """Forget them all."""
        self._kept.clear()

    def of(self, key: Any) -> Sequence[float]:
        """The rates, oldest first."""
        return tuple(self._kept.get(key, ()))

    def __len__(self) -> int:
        return len(self._kept)


class Model:
    """The state of the live view."""

    def __init__(self) -> None:
        self.order = ORDERS[0]
        self.text = ""
        self.paused = False
        self.details: int | None = None
        self.live = Cursor()
        self.closed = Cursor()
        self.looks_at_closed = False
        """Whether the arrows move among the closed ones."""
        self.answer = self._counted = Answer(Question(), 0.0)
        self.trends = Trends()
        self.service_trends = Trends()
        self.detail_trends = Trends()
        self.shown_details: Row | None = None
        self.details_known = True
        self.lost = ""
        """Why the server cannot be asked; empty while it can."""

    # -- what is wanted

    @property
    def filter(self) -> Filter:
        """What the typed text means."""
        return parse_filter(self.text, [str(each.get("sid")) for each in self.answer.services])

    def question(self) -> Question | None:
        """What to ask for; None while nothing is to be asked."""
        if self.details is not None:
            return Question(details=self.details)
        if self.paused:
            return None
        # A page more than fits, so that to turn the page needs no wait.
        limit = min(self.live.top + 2 * self.live.height, MOST_ROWS)
        return Question(self.order, self.filter, limit, self.closed.height)

    def next_order(self, steps: int = 1) -> None:
        """Sort by the next of the orders, or the one so many steps on."""
        self.order = ORDERS[(ORDERS.index(self.order) + steps) % len(ORDERS)]
        self.paused = False
        self.live.to_top()

    def filter_by(self, text: str) -> None:
        """Show only what a text says."""
        if text == self.text:
            return
        self.text, self.paused = text, False
        self.live.to_top()
        self.closed.to_top()

    def open_details(self, connection_id: int) -> None:
        """Want one connection instead of the lists."""
        rows = (*self.answer.rows, *self.answer.closed)
        self.details, self.details_known = connection_id, True
        self.shown_details = next((row for row in rows if row["id"] == connection_id), None)
        self.detail_trends = Trends()

    def close_details(self) -> None:
        """Want the lists again."""
        self.details = self.shown_details = None

    # -- what is shown

    @property
    def rows(self) -> list[Row]:
        """The live connections that were given."""
        return list(self.answer.rows)

    @property
    def closed_rows(self) -> list[Row]:
        """The same of the closed ones, newest first."""
        return list(self.answer.closed)

    def service_rows(self, limit: int) -> list[Row]:
        """So many services at most; if there are several, the last row is all of them."""
        rows = [row | {"title": row["sid"]} for row in self.answer.services]
        if len(rows) < 2 or limit < 2:
            return rows[:limit]
        return [*rows[: limit - 1], _all_services(rows)]

    @property
    def live_count(self) -> int:
        """How many connections live, in all services."""
        return sum(int(each.get("connections", 0)) for each in self.answer.services)

    @property
    def chosen(self) -> Row | None:
        """The connection that a key acts on."""
        if self.details is not None:
            return self.shown_details
        if self.looks_at_closed:
            return self.closed.chosen(self.closed_rows)
        return self.live.chosen(self.rows)

    def move(self, steps: int) -> None:
        """Go down among the rows, or up by a negative number of steps."""
        if self.looks_at_closed:
            self.closed.move(steps, self.closed_rows)
        else:
            self.live.move(steps, self.rows)

    def set_heights(self, live: int, closed: int) -> None:
        """Say how many rows fit."""
        self.live.height, self.closed.height = max(live, 0), max(closed, 0)
        if not self.closed.height:
            self.looks_at_closed = False
        self._follow()

    # -- what was told

    def take(self, answer: Answer) -> None:
        """Take over what the server said, unless it is no longer what is wanted."""
        self.lost = ""
        if answer.question.details is not None:
            self._take_details(answer)
            return
        if self.paused:
            return
        if answer.pid != self.answer.pid:  # another program counts its ids anew
            self.trends.clear()
            self.service_trends.clear()
        if answer.at - self._counted.at >= LEAST_SECONDS or answer.pid != self._counted.pid:
            self.service_trends.add(_service_rates(self._counted, answer))
            self._counted = answer
        self.trends.add({row["id"]: rate_of(row) for row in answer.rows})
        self.answer = answer
        self._follow()

    def _take_details(self, answer: Answer) -> None:
        if answer.question.details != self.details:
            return
        self.details_known = answer.details is not None
        if answer.details is not None:
            self.shown_details = answer.details
            rates = {key: float(answer.details.get(key, 0)) for key in ("up_rate", "down_rate")}
            self.detail_trends.add(rates)

    def _follow(self) -> None:
        self.live.follow(self.rows)
        self.closed.follow(self.closed_rows)


def rate_of(row: Row) -> float:
    """Bytes a second, both ways together."""
    return float(row.get("up_rate", 0)) + float(row.get("down_rate", 0))


def _all_services(rows: Sequence[Row]) -> Row:
    keys = ("connections", "total", "refused", "up", "down")
    sums = {key: sum(int(row.get(key) or 0) for row in rows) for key in keys}
    return {"sid": "", "title": f"all {len(rows)}", **sums}


def _service_rates(before: Answer, now: Answer) -> dict[Any, float]:
    """Bytes a second by service and direction; the service is empty for all of them."""
    seconds = now.at - before.at
    earlier = {row["sid"]: row for row in before.services} if before.pid == now.pid else {}
    rates: dict[Any, float] = {}
    for row in now.services:
        for way in ("up", "down"):
            moved = row[way] - earlier.get(row["sid"], row)[way]
            # Totals that somebody reset go back.
            rate = max(moved, 0) / seconds if seconds > 0 else 0.0
            rates[row["sid"], way] = rate
            rates["", way] = rates.get(("", way), 0.0) + rate
    return rates
