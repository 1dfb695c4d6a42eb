"""Colours of values, trends, and the lines of the details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monconn.ops.details import connection_details
from monconn.units import sparkline

_ORDERLY = ("client_closed", "backend_closed")
_BROKEN = ("_reset", "_lost", "_refused", "_unreachable", "error")
_STATE_STYLES = {
    "connecting": "yellow",
    "half_closed": "cyan",
    "closing": "magenta",
    "unreachable": "red",
}


def trend(values: Sequence[float], width: int) -> str:
    """The last values as a sparkline of so many characters, the newest on the right."""
    return sparkline(values[-width:] if width > 0 else ()).rjust(width)


def style_of(name: str, value: Any) -> str:
    """The colour of a field's value; empty for none.

    States other than open have one each. A reason is red if something broke off, yellow if it is
    a limit or the operator's decision, and has none after an orderly close.
    """
    text = str(value or "")
    if name == "state":
        return _STATE_STYLES.get("unreachable" if "unreachable" in text else text, "")
    if name not in ("reason", "refusal") or not text or text in _ORDERLY:
        return ""
    return "red" if text.endswith(_BROKEN) else "yellow"


def details(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The name, the text and the colour of each line of a connection's details."""
    for name, text in connection_details(row):
        yield name, text, style_of(name, text if name == "state" else row.get(name))
