"""Rows as lines of a table that is as wide as the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui import format as words
from monconn.faces.tui.model import Row, Trends
from monconn.units import format_bytes, format_duration

_GAP = 1
_TREND_MOST = 32
HEADER_STYLE = "bold underline"
CHOSEN_STYLE = "reverse"
OLD_STYLE = "dim"
"""Of what was true when the server was last heard of."""


@attrs.frozen
class Column:
    """One column.

    :param rank: the lower, the longer it stays when the screen gets narrow.
    :param most: how wide it may become where there is room; 0 for no wider than ``width``.
    """

    title: str
    width: int
    rank: int
    cell: Callable[[Row], str]
    most: int = 0
    is_number: bool = False
    style: Callable[[Row], str] = lambda row: ""
    order: str = ""
    """What the server calls it when it sorts by it."""


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: printable(row.get(key))


def _bytes(key: str) -> Callable[[Row], str]:
    return lambda row: format_bytes(int(row.get(key) or 0))


def _rate(key: str) -> Callable[[Row], str]:
    return lambda row: words.rate(row.get(key))


def _seconds(key: str) -> Callable[[Row], str]:
    return lambda row: format_duration(float(row.get(key) or 0))


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: f"{int(row.get(key) or 0):,}"


def _state_style(row: Row) -> str:
    return words.state_style(row.get("state"))


def _reason_style(row: Row) -> str:
    return words.reason_style(words.reason_of(row))


_ID = Column("ID", 6, 1, _text("id"), is_number=True, order="id")
_CLIENT = Column("CLIENT", 21, 0, _text("client"), most=28)
_SERVICE = Column("SERVICE", 10, 8, _text("service"), most=18)
_UP = Column("UP", 10, 9, _bytes("up"), is_number=True, order="up")
_DOWN = Column("DOWN", 10, 9, _bytes("down"), is_number=True, order="down")


def _live_columns(trends: Trends) -> tuple[Column, ...]:
    def trend(row: Row) -> str:
        return words.sparkline(trends.of(row["id"]), _TREND_MOST)

    return (
        _ID,
        _CLIENT,
        _SERVICE,
        Column("BACKEND", 21, 11, _text("backend"), most=28),
        Column("STATE", 11, 2, _text("state"), style=_state_style),
        Column("UP/s", 10, 4, _rate("up_rate"), is_number=True),
        Column("DOWN/s", 10, 3, _rate("down_rate"), is_number=True),
        Column("TREND", 8, 5, trend, most=_TREND_MOST, is_number=True, order="rate"),
        _UP,
        _DOWN,
        Column("AGE", 7, 6, _seconds("age_seconds"), is_number=True, order="age"),
        Column("IDLE", 7, 10, _seconds("idle_seconds"), is_number=True, order="idle"),
        Column("PIPE", 6, 12, _text("pipe")),
    )


_CLOSED_COLUMNS = (
    _ID,
    _CLIENT,
    _SERVICE,
    Column("CLOSED", 8, 5, lambda row: words.moment(row.get("closed_at"))),
    Column("REASON", 19, 2, words.reason_of, style=_reason_style),
    Column("CODE", 4, 7, _text("code")),
    _UP,
    _DOWN,
    Column("AFTER", 7, 4, _seconds("age_seconds"), is_number=True),
    Column("DETAIL", 20, 12, _text("detail"), most=60),
)


def _service_columns(trends: Trends) -> tuple[Column, ...]:
    def rate(row: Row, way: str) -> str:
        return words.rate((trends.of((row["sid"], way)) or (0,))[-1])

    def both(row: Row) -> Sequence[float]:
        ways = zip(trends.of((row["sid"], "up")), trends.of((row["sid"], "down")), strict=True)
        return [up + down for up, down in ways]

    return (
        Column("SERVICE", 14, 0, lambda row: printable(row["title"]), most=30),
        Column("BACKEND", 15, 10, _text("backend"), most=40),
        Column("LIVE", 7, 1, _count("connections"), is_number=True),
        Column("TOTAL", 9, 3, _count("total"), is_number=True),
        Column("REFUSED", 8, 4, _count("refused"), is_number=True),
        Column("UP/s", 10, 5, lambda row: rate(row, "up"), is_number=True),
        Column("DOWN/s", 10, 2, lambda row: rate(row, "down"), is_number=True),
        Column(
            "TREND", 8, 6, lambda row: words.sparkline(both(row), _TREND_MOST), _TREND_MOST, True
        ),
        Column("UP", 10, 8, _bytes("up"), is_number=True),
        Column("DOWN", 10, 7, _bytes("down"), is_number=True),
    )


def fitted(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that there is room for, in their order, and how wide each is."""
    chosen: list[Column] = []
    room = width
    for column in sorted(columns, key=lambda each: each.rank):
        if column.width > room:
            break  # not one of lower rank instead: what is there must not hang on a cell more
        chosen.append(column)
        room -= column.width + _GAP
    room += _GAP
    return list(_widened([each for each in columns if each in chosen], max(room, 0)))


def _widened(columns: Sequence[Column], room: int) -> Iterator[tuple[Column, int]]:
    """Share what is left among those that may grow, the ones of the lowest rank first."""
    more = {}
    for column in sorted(columns, key=lambda each: each.rank):
        more[column.title] = min(room, max(column.most - column.width, 0))
        room -= more[column.title]
    for column in columns:
        yield column, column.width + more[column.title]


class Table:
    """The lines of one of the three tables.

    :param columns: all that there are.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def lines(
        self,
        rows: Sequence[Row],
        width: int,
        *,
        chosen: Row | None = None,
        order: str = "",
        is_old: bool = False,
    ) -> list[Text]:
        """A line of titles, and one for each row.

        :param order: by what the rows are sorted, to be marked in its title.
        """
        columns = fitted(self._columns, width)
        header = Text()
        for column, cells in columns:
            mark = "▼" if order and column.order == order else ""
            _put(header, column.title + mark, cells, column.is_number, "")
        header.append(" " * (width - header.cell_len))
        header.stylize(HEADER_STYLE)
        lines = [header]
        for row in rows:
            style = CHOSEN_STYLE if row is chosen else ""
            lines.append(_line(columns, row, f"{style} {OLD_STYLE if is_old else ''}".strip()))
        return lines


def live_table(trends: Trends) -> Table:
    """Of the live connections."""
    return Table(_live_columns(trends))


def closed_table() -> Table:
    """Of the connections closed last."""
    return Table(_CLOSED_COLUMNS)


def service_table(trends: Trends) -> Table:
    """Of the services."""
    return Table(_service_columns(trends))


def _line(columns: Sequence[tuple[Column, int]], row: Row, style: str) -> Text:
    line = Text()
    for column, cells in columns:
        # The chosen row is one block, without colours.
        of_cell = "" if CHOSEN_STYLE in style else column.style(row)
        _put(line, column.cell(row), cells, column.is_number, of_cell)
    line.stylize(style)
    return line


def _put(line: Text, text: str, cells: int, is_number: bool, style: str) -> None:
    if line:
        line.append(" " * _GAP)
    line.append(_sized(text, cells, is_number), style or None)


def _sized(text: str, cells: int, is_number: bool) -> str:
    size = cell_len(text)
    if size <= cells:
        return " " * (cells - size) + text if is_number else text + " " * (cells - size)
    if is_number:
        return text[-cells:]  # the newest bars of a trend
    # The end of an address tells more than its middle.
    kept = (cells - 1) // 2
    return set_cell_size(text, cells - 1 - kept) + "…" + text[len(text) - kept :]
