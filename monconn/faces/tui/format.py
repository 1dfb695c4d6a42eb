"""Which style a value has, and the lines of a connection's details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monconn.ops.colours import Colour, colour_of
from monconn.ops.details import connection_details

_NOTHING = ("-", "0 B", "")
_BY_NAME = {"up": "up", "up_rate": "up", "down": "down", "down_rate": "down", "trend": "trend"}
_BY_COLOUR: Mapping[Colour, str] = {
    "": "",
    "red": "error",
    "yellow": "warning",
    "cyan": "half_closed",
    "magenta": "closing",
}


def style_of(name: str, text: str) -> str:
    """The name of the style of a field's value; empty for none.

    Bytes have the style of their direction; all else that of its meaning, as everywhere.

    :param text: the value, as in a table.
    """
    if name in _BY_NAME:
        return "dim" if text in _NOTHING else _BY_NAME[name]
    return _BY_COLOUR[colour_of(name, text)]


def details(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The name, the text and the style of each line of a connection's details."""
    for name, text in connection_details(row):
        yield name, text, style_of(name, text)
