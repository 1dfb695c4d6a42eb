"""Rows as a table of plain text: no colours, and only ASCII besides the values."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Column, Row

_FREE_TEXT = frozenset({"detail", "target"})
"""Fields whose cells may be cut: the start of a sentence is useful, half an address is not."""
_GAP = "  "
_CUT_MARK = "..."


def text_table(
    columns: Sequence[Column],
    rows: Iterable[Row | Mapping[str, Any]],
    width: int | None = None,
) -> list[str]:
    """The lines of a table: the titles, then a line for each row, without spaces at their ends.

    Where the table is too wide, cells of free text are cut down to their column's least width,
    and then columns are left out, the least important first. No other cell is ever cut, and one
    column always stays: the table is wider than asked for only if that column is.

    :param rows: rows, or their JSON.
    :param width: in terminal cells; None for as wide as the rows need.
    """
    rows = list(rows)
    cells = [(c, [c.title, *(printable(c.text(row)) for row in rows)]) for c in columns]
    fitted = _fit([(column, texts, max(map(cell_width, texts))) for column, texts in cells], width)
    padded = [
        [_pad(text, column_width, column.align == "right") for text in texts]
        for column, texts, column_width in fitted
    ]
    return [_GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


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
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


_Fitted = list[tuple[Column, list[str], int]]


def _fit(columns: _Fitted, width: int | None) -> _Fitted:
    """The columns that stay, each with the width that it gets."""
    while width is not None and len(columns) > 1:
        excess = sum(each + len(_GAP) for _, _, each in columns) - len(_GAP) - width
        if excess <= 0:
            break
        cut = [
            (column, texts, max(each - excess, column.width))
            if column.name in _FREE_TEXT and each > column.width
            else (column, texts, each)
            for column, texts, each in columns
        ]
        if cut == columns:
            least = max(range(len(columns)), key=lambda index: columns[index][0].importance)
            del cut[least]
        columns = cut
    return columns


def _pad(text: str, width: int, to_the_right: bool) -> str:
    if cell_width(text) > width:
        room = width - len(_CUT_MARK)
        text = text[:room]
        while cell_width(text) > room:  # wide characters
            text = text[:-1]
        text += _CUT_MARK
    padding = " " * (width - cell_width(text))
    return padding + text if to_the_right else text + padding
