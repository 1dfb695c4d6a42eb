"""Rows as lines of a table that is as wide as the screen.

The columns are those of :mod:`monconn.ops.rows`; added here are trends, and what a full screen has
room for. Column widths, colours, and how a cell is cut are also decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui.charts import Trends, trend
from monconn.faces.tui.format import style_of
from monconn.faces.tui.ordering import Row
from monconn.faces.tui.widgets import action
from monconn.ops.columns import Column
from monconn.ops.rows import ClosedConnectionRow, ConnectionRow, DeviceRow, ServiceRow

_GAP = 1
_MAX_TREND = 32
_UNREACHABLE = "unreachable"
_TREND = Column("trend", "TREND", importance=8, width=8, max_width=_MAX_TREND)
_WHOLE = ("client", "device", "reason", "alarms", "id", "sid")
"""Columns whose values are never cut, as long as there is any room: they say who, and why."""
_SHORTEST = 4
"""The narrowest column: the title, and no value that is cut beyond recognition."""
_MOST_WHOLE = 47  # an IPv6 address in brackets, and its port
_MOST_NAME = 14  # of a service, beside who and why in 80 columns
_ONLY_IF_ANY = ("protocol", "facts", "detail")
"""Columns that most rows have nothing for: without any value they are left out."""
_NOTHING = len("-")


class Table:
    """The lines of one of the tables.

    A column is as wide as its values need, and never narrower again: columns that move with each
    poll cannot be read. :meth:`forget` lets them.

    :param name: of the table, for the action of a click on a title.
    :param columns: from left to right; the least important go first where there is no room.
    """

    def __init__(self, name: str, columns: Sequence[Column]) -> None:
        self._name = name
        self._columns = [_compact(column) for column in columns]
        self._needed: dict[str, int] = {}

    def forget(self) -> None:
        """Let columns be narrow again, as other rows are to come."""
        self._needed.clear()

    def lines(
        self,
        rows: Sequence[Row],
        width: int,
        *,
        selected: Row | None = None,
        order: str = "",
        is_old: bool = False,
        without: Sequence[str] = (),
    ) -> list[Text]:
        """A line of titles, and one for each row.

        :param width: in cells of the terminal.
        :param order: by what the rows are sorted: marked in the column's title.
        :param is_old: whether the rows are from before the server was lost.
        :param without: the names of columns that would say nothing.
        """
        columns = [column for column in self._columns if column.name not in without]
        texts = [[_text(column, row) for row in rows] for column in columns]
        self._measure(columns, texts)
        has_values = [
            not rows or column.name not in _ONLY_IF_ANY or self._needed[column.name] > _NOTHING
            for column in columns
        ]
        columns = [*compress(columns, has_values)]
        texts = [*compress(texts, has_values)]
        fitting = list(_fit([self._sized(column) for column in columns], width))
        places = {column.name: place for place, column in enumerate(columns)}
        lines = [self._titles(fitting, width, order)]
        for number, row in enumerate(rows):
            line = Text()
            for column, cells in fitting:
                text = texts[places[column.name]][number]
                if column.name == "state" and cell_len(text) > cells:
                    text = _UNREACHABLE  # which side, and for how long, is in the details
                # The selected row is one block, without colours.
                style = "" if row is selected else style_of(column.name, text)
                _append(line, _padded(text, column, cells), style)
            if row is selected:
                line.append(" " * max(width - line.cell_len, 0))
                line.stylize("selected")
            elif is_old:
                line.stylize("old")
            lines.append(line)
        return lines

    def _titles(self, fitting: Sequence[tuple[Column, int]], width: int, order: str) -> Text:
        line = Text()
        for column, cells in fitting:
            is_sorted = bool(order) and column.order == order
            text = _padded(f"{column.title}{'▼' if is_sorted else ''}", column, cells)
            start = len(line) + (_GAP if line else 0)
            _append(line, text)
            if column.order:
                line.stylize(action(f"app.sort_by('{self._name}', '{column.order}')"), start)
            if is_sorted:
                line.stylize("sorted", start)
        line.append(" " * max(width - line.cell_len, 0))
        titles = Text(line.plain, "header")
        titles.spans = line.spans
        return titles

    def _measure(self, columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> None:
        for column, cells in zip(columns, texts, strict=True):
            needed = max(map(cell_len, cells), default=0)
            self._needed[column.name] = max(needed, self._needed.get(column.name, 0))

    def _sized(self, column: Column) -> Column:
        """The column with the width that it must have, and the one that it can make use of."""
        needed = max(self._needed[column.name], len(column.title) + bool(column.order), _SHORTEST)
        if column.name == _TREND.name:
            return column
        if column.unit == "time":  # a date is not worth much without its time
            return attrs.evolve(column, width=needed, max_width=needed)
        if column.name in _WHOLE:
            width = min(needed, _MOST_WHOLE)
            return attrs.evolve(column, width=width, max_width=needed)
        if column.name == "service":
            return attrs.evolve(column, width=min(needed, _MOST_NAME), max_width=needed)
        if column.align == "right":
            return attrs.evolve(column, width=max(column.width, needed))
        return attrs.evolve(column, width=min(column.width, needed), max_width=needed)


def live_table(trends: Trends) -> Table:
    """The table of live connections."""
    last_rates = attrs.evolve(
        _TREND, order="rate", value=lambda row: trend(trends.of(row["id"]), _MAX_TREND)
    )
    # A screen that changes every second is watched for rates rather than for totals.
    importances = {
        "state": 2,
        "service": 3,
        "down_rate": 4,
        "up_rate": 5,
        "up": 9,
        "down": 9,
        "mqtt_client_id": 10,
    }
    usual = _weighted(ConnectionRow.columns(), **importances)
    columns = _insert(usual, "service", *ConnectionRow.columns("backend"))
    columns = _insert(columns, "down_rate", last_rates)
    return Table("live", [*columns, *ConnectionRow.columns("pipe", "facts")])


def closed_table() -> Table:
    """The table of the connections that were closed last."""
    usual = _weighted(
        ClosedConnectionRow.columns(),
        id=1,
        service=5,
        up=6,
        down=6,
        duration_seconds=5,
        mqtt_client_id=10,
    )
    columns = _insert(usual, "service", *ClosedConnectionRow.columns("backend"))
    columns = _insert(columns, "code", *ClosedConnectionRow.columns("closed_by"))
    return Table("closed", [*columns, *ClosedConnectionRow.columns("facts")])


def service_table() -> Table:
    """The table of the services; rates and trends come from the model."""
    up_rate, down_rate = ConnectionRow.columns("up_rate", "down_rate")
    rates = (
        attrs.evolve(up_rate, importance=5, order="rate"),
        attrs.evolve(down_rate, importance=2, order="rate"),
        attrs.evolve(_TREND, importance=6, value=lambda row: trend(row["trend"], _MAX_TREND)),
    )
    orders = {"sid": "name", "connections": "now", "total": "total", "refused": "refused"}
    columns = [attrs.evolve(each, order=orders.get(each.name, "")) for each in ServiceRow.columns()]
    # Rates are more than what rules in dry_run say, if only one of them has room.
    columns = list(_weighted(columns, would_refuse=12))
    return Table("services", _insert(columns, "refused", *rates))


def device_table() -> Table:
    """The table of devices, whose alarms come second."""
    device, *others = DeviceRow.columns()
    alarms = [each for each in others if each.name == "alarms"]
    return Table("devices", [device, *alarms, *(each for each in others if each not in alarms)])


def _weighted(columns: Sequence[Column], **importances: int) -> tuple[Column, ...]:
    """Columns with the importance that they have here."""
    return tuple(
        attrs.evolve(each, importance=importances.get(each.name, each.importance))
        for each in columns
    )


def _insert(columns: Sequence[Column], after: str, *more: Column) -> tuple[Column, ...]:
    place = [column.name for column in columns].index(after) + 1
    return (*columns[:place], *more, *columns[place:])


def _compact(column: Column) -> Column:
    """A column as a full screen has it: 80 cells must do for the important ones."""
    if column.unit == "bytes_per_second":
        return attrs.evolve(column, width=column.width - len("/s"))
    return column


def _text(column: Column, row: Mapping[str, object]) -> str:
    text = printable(column.text(row))
    if column.unit == "bytes_per_second":
        return text.removesuffix("/s")  # the title says so
    return text


def _fit(columns: Sequence[Column], width: int) -> Iterator[tuple[Column, int]]:
    """The columns that there is room for, in their order, and how many cells each gets."""
    by_importance = sorted(columns, key=lambda each: each.importance)
    room = width + _GAP
    fitting: list[Column] = []
    for column in by_importance:
        if column.width + _GAP > room and fitting:
            break  # no narrower one instead: columns would come and go with every cell of width
        cells = min(column.width, room - _GAP)
        fitting.append(attrs.evolve(column, width=cells))
        room -= cells + _GAP
    more: dict[str, int] = {}
    for column in fitting:  # the most important ones grow first
        more[column.name] = min(room, max(column.max_width - column.width, 0))
        room -= more[column.name]
    widths = {column.name: column.width + more[column.name] for column in fitting}
    for column in columns:
        if column.name in widths:
            yield column, widths[column.name]


def _append(line: Text, text: str, style: str = "") -> None:
    if line:
        line.append(" " * _GAP)
    line.append(text, style or None)


def _padded(text: str, column: Column, cells: int) -> str:
    """A text padded or cut to so many cells."""
    size, is_trend = cell_len(text), column.name == _TREND.name
    if size <= cells:
        padding = " " * (cells - size)
        return padding + text if is_trend or column.align == "right" else text + padding
    if is_trend or column.unit == "time":
        return text[-cells:]  # the newest bars; the time of day without its date
    # Addresses and numbers differ most at their end: cut the middle.
    at_end = (cells - 1) // 2
    return set_cell_size(text, cells - 1 - at_end) + "…" + text[len(text) - at_end :]
