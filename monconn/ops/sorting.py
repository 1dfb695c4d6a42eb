"""The order of a listing: ``up``, ``idle``, ``-client``; by any column of its rows.

It is parsed once, and sorts live records at the server, rows or their JSON at the client, and, as
names of columns, the rows of a history in SQL. A query over a hundred thousand connections does it
in steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TypeVar

import attrs

from monconn.errors import QuestionError, quoted
from monconn.ops.columns import Column, Row
from monconn.steps import SORTED_AT_ONCE, sort_in_steps

T = TypeVar("T")
R = TypeVar("R", bound=Row | Mapping[str, Any])

_NOT_SORTABLE = ("list", "object")
_SHORT = re.compile(r"_(seconds|at)$")
_DIGITS = re.compile(r"[0-9]+")
_LONGEST_NUMBER = 10
RATE = "rate"
"""The order by both of a connection's rates, which no column is."""


@attrs.frozen
class Sort:
    """An order.

    Figures and times begin with the most, texts with A, and ids with the least: what an operator
    asks for is the busiest, the latest, the oldest. What has no value comes last either way.

    :param fields: the names of the fields, whose values are added up if there are several.
    :param is_descending: whether the greatest comes first.
    """

    fields: tuple[str, ...]
    is_descending: bool


def parse_sort(text: str, row_class: type[Row]) -> Sort:
    """Understand an order.

    :param text: the name of a column, as :meth:`Row.find_column` takes it; with a ``-`` before it
        for the other way round.
    :raises QuestionError: there is no such column; it names those that there are.
    """
    name = text.removeprefix("-")
    fields = {"up_rate", "down_rate"}
    if name == RATE and fields <= row_class.fields().keys():
        return Sort(("up_rate", "down_rate"), not text.startswith("-"))
    column = row_class.find_column(name)
    if column is None or column.unit in _NOT_SORTABLE:
        known = ", ".join(sort_names(row_class))
        raise QuestionError(
            f"{quoted(text)} is nothing to sort by; there are {known}; each with - the other way"
        )
    return Sort((column.name,), begins_with_most(column) != text.startswith("-"))


def begins_with_most(column: Column) -> bool:
    """Whether the greatest value of a column comes first, unless the other way round is wanted."""
    return column.unit not in ("text", "flag") and column.name != "id"


def sort_names(row_class: type[Row]) -> list[str]:
    """By what rows can be sorted: short names, those of the usual table first."""
    columns = row_class.known_columns()
    known = {
        name: _SHORT.sub("", name)
        for name, each in columns.items()
        if each.unit not in _NOT_SORTABLE
    }
    short = list(dict.fromkeys(known.values()))
    return [*short, RATE] if {"up_rate", "down_rate"} <= columns.keys() else short


def sort_key(value: Any) -> Any:
    """A value as it is compared: digits within a text as numbers, so that 10.0.0.9 comes before
    10.0.0.10, and its letters whatever their case."""
    if not isinstance(value, str):
        return value
    # Texts again: a thousand of them are sorted in a tenth of a millisecond, and lists of pieces in
    # more than one. Whoever sorts has a part of a turn only.
    return _DIGITS.sub(_padded, value.casefold())


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(_LONGEST_NUMBER)


def first_in_order(
    items: Iterable[T | None], key: Callable[[T], Any], is_descending: bool, most: int
) -> Generator[None, None, tuple[list[T], int]]:
    """The first items in an order, and how many there are in all; in steps.

    :param items: with a None for each step that has brought none.
    :param key: what is compared; items of which it is None come last.
    """
    keyed: list[tuple[Any, T]] = []
    without: list[T] = []
    total = 0
    for item in items:
        if item is not None:
            total += 1
            value = key(item)
            if value is not None:
                keyed.append((value, item))
                if most <= SORTED_AT_ONCE and len(keyed) == 2 * SORTED_AT_ONCE:
                    keyed.sort(key=itemgetter(0), reverse=is_descending)
                    del keyed[most:]
            elif len(without) < most:
                without.append(item)
        yield
    ordered = yield from sort_in_steps(keyed, reverse=is_descending)
    chosen = []
    for item in islice(chain(map(itemgetter(1), ordered), without), most):
        chosen.append(item)
        yield
    return chosen, total


def sorted_rows(rows: Iterable[R], sort: Sort, row_class: type[Row]) -> list[R]:
    """Rows, or their JSON, in order."""
    known = row_class.known_columns()
    columns = [known[name] for name in sort.fields]
    keyed = [(_row_key(columns, row), row) for row in rows]
    ordered = sorted(
        (each for each in keyed if each[0] is not None),
        key=itemgetter(0),
        reverse=sort.is_descending,
    )
    return [row for _, row in ordered] + [row for key, row in keyed if key is None]


def _row_key(columns: Sequence[Column], row: Row | Mapping[str, Any]) -> Any:
    if len(columns) == 1:
        return sort_key(columns[0].raw(row))
    return sum(column.raw(row) or 0 for column in columns)
