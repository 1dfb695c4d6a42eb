"""The order of rows, kept calm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
"""The JSON of a row of :mod:`monconn.ops.rows`."""
SORT_SECONDS = 5.0
"""How long rows that are sorted by their rate keep their places. Rates are never the same twice: at
each poll most rows would jump, and of thousands of connections that send now and then, all others
would come into view."""


def kept(rows: Sequence[Row], before: Sequence[Any], key: str) -> list[Row]:
    """Rows in the order that they had before, and then those that are new.

    :param before: the keys of the rows as they stood.
    :param key: the field that a row is known by.
    """
    places = {each: place for place, each in enumerate(before)}
    return sorted(rows, key=lambda row: places.get(row[key], len(places)))
