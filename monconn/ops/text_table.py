"""Rows as a table of plain text: no colours, and only ASCII besides the values."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Column, Row

_FREE_TEXT = frozenset({"detail", "mqtt_client_id", "target"})
"""Fields whose cells may be cut: the start of a sentence is useful, half an address is not."""
_GAPS = (2, 1)
"""Spaces between two columns: one where a column that is worth it would have to leave otherwise."""
_WORTH_IT = 6
"""The greatest importance of such a column."""
_LEAST_BLOCK_WIDTH = 20
"""Below it, a single column is no worse than a block: each value would take several lines."""
_LEAST_FREE_TEXT = 8
_ROWS_PER_STEP = 10
_CUT_MARK = "..."


Paint = Callable[[Column | None, str, str], str]
"""Colours a cell: takes its column, its text, and the text as it is shown, which may be cut.
Without a column it is a title, or the line of them."""


def text_table(
    columns: Sequence[Column],
    rows: Iterable[Row | Mapping[str, Any]],
    width: int | None = None,
    paint: Paint | None = None,
) -> list[str]:
    """The lines of a table: the titles, then a line for each row, without spaces at their ends.

    Where the table is too wide, the columns that are least important leave it, as many as must for
    the longest values of the others; those of importance 0 (or, if there are none, the most
    important ones) never do. Cells of free text are cut to what room is left; no other cell is ever
    cut. If even the columns that never leave are too wide together, there is no table but a block
    for each row, with a line for each of its values, of all columns: a value on a line of its own
    if it is too long to stand beside its title.

    :param rows: rows, or their JSON.
    :param width: in terminal cells; None for as wide as the rows need.
    :param paint: None for no colours.
    """
    lines: list[str] = []
    for _ in text_table_steps(columns, rows, width, lines.append, paint):
        pass
    return lines


def text_table_steps(
    columns: Sequence[Column],
    rows: Iterable[Row | Mapping[str, Any] | None],
    width: int | None,
    write: Callable[[str], object],
    paint: Paint | None = None,
) -> Iterator[None]:
    """:func:`text_table` in steps of a few rows each, as ``monconn.turns.in_turns`` takes them.

    :param rows: with a None for each step of a query that has brought no row.
    :param write: takes each line.
    """
    texts: list[list[str]] = [[column.title] for column in columns]
    widths = [cell_width(column.title) for column in columns]
    for count, row in enumerate(rows, 1):
        if row is not None:
            for index, column in enumerate(columns):
                text = printable(column.text(row))
                texts[index].append(text)
                widths[index] = max(widths[index], cell_width(text))
        if not count % _ROWS_PER_STEP:
            yield
    there = [
        index
        for index, column in enumerate(columns)
        # What never leaves was asked for; and what reads a pipe relies on its columns.
        if not (column.is_for_some and column.importance)
        or width is None
        or set(texts[index][1:]) - {"-"}
    ]
    columns = [columns[index] for index in there]
    texts = [texts[index] for index in there]
    widths = [widths[index] for index in there]
    fitted = _fit(columns, widths, width)
    row_count = len(texts[0]) if texts else 0
    if fitted is None and row_count > 1:
        yield from _write_blocks(columns, texts, width or 0, write, paint)
        return
    cells, gap = fitted or (dict(enumerate(widths)), _GAPS[-1])
    last = max(cells, default=0)
    for number in range(row_count):
        line = []
        for index, cell in cells.items():
            column, text = columns[index], texts[index][number]
            shown = shortened(text, cell)
            padding = " " * (cell - cell_width(shown))
            if paint is not None and number:
                shown = paint(column, text, shown)
            if column.align == "right":
                shown = padding + shown
            elif index != last:
                shown += padding
            line.append(shown)
        joined = (" " * gap).join(line).rstrip()
        write(joined if paint is None or number else paint(None, joined, joined))
        if not number % _ROWS_PER_STEP:
            yield


def _write_blocks(
    columns: Sequence[Column],
    texts: Sequence[Sequence[str]],
    width: int,
    write: Callable[[str], object],
    paint: Paint | None,
) -> Iterator[None]:
    """Write a block of lines for each row, with an empty line between two of them."""
    margin = max(cell_width(column.title) for column in columns) + _GAPS[0]
    for number in range(1, len(texts[0])):
        if number > 1:
            write("")
        for column, column_texts in zip(columns, texts, strict=True):
            text = column_texts[number]
            if text == "-" and column.importance:
                continue  # what is not known would only push who and why off the screen
            lines = wrapped(text, width - margin) if column.name in _FREE_TEXT else [text]
            widest = max(map(cell_width, lines))
            title, indent = column.title.ljust(margin), margin
            if paint is not None:
                title = paint(None, column.title, title)
                lines = [paint(column, text, line) for line in lines]
            if margin + widest > width:
                write(title.rstrip())
                indent = _GAPS[0]
                title = " " * indent
            for position, line in enumerate(lines):
                write(f"{' ' * indent if position else title}{line}")
        yield


def cell_width(text: str) -> int:
    """How many cells of a terminal a text takes: two for each wide character, as of CJK."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def wrapped(text: str, width: int) -> list[str]:
    """A text as lines that break between words.

    :param width: in terminal cells; words that are longer are broken, and never to less than 20.
    """
    width = max(width, 20)
    if cell_width(text) <= width:
        return [text]
    if text.isascii():
        return textwrap.wrap(text, width, break_on_hyphens=False)
    # The same for wide characters: textwrap counts characters, and not cells.
    lines = [""]
    for word in text.split():
        needed, left = cell_width(word), width - cell_width(lines[-1]) - 1
        if not lines[-1]:
            lines.pop()
            lines += _broken(word, width, width)
        elif needed <= left:
            lines[-1] += f" {word}"
        elif needed <= width:
            lines.append(word)
        else:
            first, *others = _broken(word, left, width)
            lines[-1] = f"{lines[-1]} {first}".rstrip()
            lines += others
    return lines


def _broken(word: str, room: int, width: int) -> Iterator[str]:
    """A word in pieces: the first takes no more cells than there is room for, which may be none,
    and each other one no more than a line."""
    start = used = 0
    for place, character in enumerate(word):
        cells = _character_width(character)
        if used + cells > room:
            yield word[start:place]
            start, used, room = place, 0, width
        used += cells
    yield word[start:]


def beside(name: str, margin: int, text: str, width: int | None) -> list[str]:
    """A name with a text beside it, which goes on beneath itself, between words.

    :param margin: the terminal cells of the name and what is between.
    :param width: of all, in terminal cells; None for one line, as long as it is.
    """
    pieces = [text] if width is None else wrapped(text, width - margin)
    return [f"{'' if n else name:{margin}}{piece}".rstrip() for n, piece in enumerate(pieces)]


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(
    columns: Sequence[Column], widths: Sequence[int], width: int | None
) -> tuple[dict[int, int], int] | None:
    """Which columns stay, in their order, with the width that each gets; and the gap between two.

    :param widths: what each column needs, so that no cell of it is cut.
    :returns: None if those that never leave are too wide.
    """
    chosen = list(range(len(columns)))
    if width is None or not chosen:
        return {index: widths[index] for index in chosen}, _GAPS[0]

    def least(index: int) -> int:
        column, needed = columns[index], widths[index]
        if column.name not in _FREE_TEXT:
            return needed
        is_next_to_leave = column.importance == importance
        wanted = column.width if is_next_to_leave else max(column.width, column.wanted_width)
        return min(needed, max(wanted, cell_width(column.title), _LEAST_FREE_TEXT))

    def room(gap: int) -> int:
        """What is left beside the least that the chosen columns need."""
        return width - sum(map(least, chosen)) - gap * (len(chosen) - 1)

    most_important = min(column.importance for column in columns)
    while True:
        importance = max(columns[index].importance for index in chosen)
        gaps = _GAPS if importance <= _WORTH_IT else _GAPS[:1]
        if room(gaps[-1]) >= 0:
            break
        if importance == most_important:
            is_block = len(chosen) > 1 or (len(columns) > 1 and width >= _LEAST_BLOCK_WIDTH)
            return None if is_block else ({chosen[0]: widths[chosen[0]]}, _GAPS[0])
        chosen = [index for index in chosen if columns[index].importance != importance]
    gap = next(each for each in gaps if room(each) >= 0)
    spare = room(gap)
    cells = {}
    for index in chosen:
        more = min(spare, widths[index] - least(index))
        cells[index] = least(index) + more
        spare -= more
    return cells, gap


def shortened(text: str, width: int) -> str:
    """A text that takes at most so many cells of a terminal, with a mark where it was cut."""
    if cell_width(text) <= width:
        return text
    room = width - len(_CUT_MARK)
    text = text[:room]
    while cell_width(text) > room:  # wide characters
        text = text[:-1]
    return text + _CUT_MARK
