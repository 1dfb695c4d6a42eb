"""The order of rows, kept calm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

CLEARLY_MORE = 1.25
"""By how much a rate must be higher than that of the row above, to pass it."""

Row = dict[str, Any]


def calm(
    rows: Sequence[Row], before: Sequence[Any], key: str, rate: Callable[[Row], float]
) -> list[Row]:
    """Rows with the highest rate first, without rows of about the same rate changing places.

    Rates are never the same twice, so that sorted by them alone most rows would jump at each poll,
    and nobody could read them.

    :param rows: in their exact order.
    :param before: the keys of the rows in the order of the last poll.
    :param key: the field that a row is known by.
    """
    places = {each: place for place, each in enumerate(before)}
    known = sorted((row for row in rows if row[key] in places), key=lambda row: places[row[key]])
    found: list[Row] = []
    rates: list[float] = []
    for row in [*known, *(row for row in rows if row[key] not in places)]:
        own = rate(row)
        place = len(found)
        while place and own > rates[place - 1] * CLEARLY_MORE:
            place -= 1
        found.insert(place, row)
        rates.insert(place, own)
    return found
