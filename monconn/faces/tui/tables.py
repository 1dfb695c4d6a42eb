"""Rows as lines of a table that is as wide as the screen.

The columns are those of :mod:`monconn.ops.rows`; added here are trends, and what a full screen has
room for. Column widths, colours, and how a cell is cut are also decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui.format import style_of, trend
from monconn.faces.tui.model import Row, Trends
from monconn.ops.columns import Column
from monconn.ops.rows import ClosedConnectionRow, ConnectionRow, ServiceRow

_GAP = 1
_MAX_TREND = 32
_UNREACHABLE = "unreachable"
_TREND = Column("trend", "TREND", importance=8, width=8, max_width=_MAX_TREND)
_DATE_AND_TIME = len("2026-11-23 01:02:03")
HEADER_STYLE = "bold underline"
SELECTED_STYLE = "reverse"
OLD_STYLE = "dim"
"""The style of data from before the server was lost."""


class Table:
    """The lines of one of the three tables.

    :param columns: from left to right; the least important go first where there is no room.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [_compact(column) for column in columns]

    def lines(
        self,
        rows: Sequence[Row],
        width: int,
        *,
        selected: Row | None = None,
        order: str = "",
        is_old: bool = False,
    ) -> list[Text]:
        """A line of titles, and one for each row.

        :param width: in cells of the terminal.
        :param order: by what the rows are sorted: marked in the column's title.
        :param is_old: whether the rows are from before the server was lost.
        """
        columns = list(_fit([_wide_enough(each, rows) for each in self._columns], width))
        header = Text()
        for column, cells in columns:
            mark = "▼" if order and column.order == order else ""
            _append(header, _sized(column.title + mark, column, cells))
        header.append(" " * (width - header.cell_len))
        header.stylize(HEADER_STYLE)
        lines = [header]
        for row in rows:
            line = Text()
            for column, cells in columns:
                text = printable(column.text(row))
                if column.name == "state" and cell_len(text) > cells:
                    text = _UNREACHABLE  # which side, and for how long, is in the details
                if column.unit == "bytes_per_second":
                    text = text.removesuffix("/s")  # the title says so; see _compact
                # The selected row is one block, without colours.
                value = text if column.name == "state" else row.get(column.name)
                style = "" if row is selected else style_of(column.name, value)
                _append(line, _sized(text, column, cells), style)
            if row is selected:
                line.stylize(SELECTED_STYLE)
            if is_old:
                line.stylize(OLD_STYLE)
            lines.append(line)
        return lines


def live_table(trends: Trends) -> Table:
    """The table of live connections."""
    last_rates = attrs.evolve(
        _TREND, order="rate", value=lambda row: trend(trends.of(row["id"]), _MAX_TREND)
    )
    # A screen that changes every second is watched for rates rather than for totals.
    importances = {"state": 2, "service": 3, "down_rate": 4, "up_rate": 5, "up": 9, "down": 9}
    usual = _weighted(ConnectionRow.columns(), **importances)
    columns = _insert(usual, "service", *ConnectionRow.columns("backend"))
    columns = _insert(columns, "down_rate", last_rates)
    return Table([*columns, *ConnectionRow.columns("pipe")])


def closed_table() -> Table:
    """The table of the connections that were closed last."""
    return Table(_weighted(ClosedConnectionRow.columns(), id=1, up=6, down=6, duration_seconds=5))


def service_table() -> Table:
    """The table of the services; rates and trends come from the model."""
    up_rate, down_rate = ConnectionRow.columns("up_rate", "down_rate")
    rates = (
        attrs.evolve(up_rate, importance=5),
        attrs.evolve(down_rate, importance=2),
        attrs.evolve(_TREND, importance=6, value=lambda row: trend(row["trend"], _MAX_TREND)),
    )
    return Table(_insert(ServiceRow.columns(), "refused", *rates))


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
    if column.unit == "time":
        return attrs.evolve(column, max_width=_DATE_AND_TIME)
    return column


def _wide_enough(column: Column, rows: Sequence[Row]) -> Column:
    """The column of states is wider, where there is room, if one says who is unreachable."""
    if column.name != "state":
        return column
    return attrs.evolve(
        column, max_width=max((cell_len(column.text(row)) for row in rows), default=0)
    )


def _fit(columns: Sequence[Column], width: int) -> Iterator[tuple[Column, int]]:
    """The columns that there is room for, in their order, and how many cells each gets."""
    by_importance = sorted(columns, key=lambda each: each.importance)
    room = width + _GAP
    fitting: list[Column] = []
    for column in by_importance:
        if column.width + _GAP > room:
            break  # no narrower one instead: columns would come and go with every cell of width
        fitting.append(column)
        room -= column.width + _GAP
    more: dict[str, int] = {}
    for column in fitting:  # the most important ones grow first
        more[column.name] = min(room, max(column.max_width - column.width, 0))
        room -= more[column.name]
    for column in columns:
        if column in fitting:
            yield column, column.width + more[column.name]


def _append(line: Text, text: str, style: str = "") -> None:
    if line:
        line.append(" " * _GAP)
    line.append(text, style or None)


def _sized(text: str, column: Column, cells: int) -> str:
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
