"""Colours of values, trends, and the lines of the details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Unit, format_value
from monconn.ops.rows import ConnectionRow
from monconn.units import sparkline

_ORDERLY = ("client_closed", "backend_closed")
_BROKEN = ("_reset", "_lost", "_refused", "_unreachable", "error")
_STATE_STYLES = {"connecting": "yellow", "half_closed": "cyan", "closing": "magenta"}


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
        return _STATE_STYLES.get(text, "")
    if name not in ("reason", "refusal") or not text or text in _ORDERLY:
        return ""
    return "red" if text.endswith(_BROKEN) else "yellow"


def details(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The JSON name, the text and the colour of each field that a connection has.

    Fields that only a newer server knows are there, too, as they were sent.
    """
    fields = ConnectionRow.fields()
    for name, value in row.items():
        unit = fields[name].unit if name in fields else "text"
        yield name, printable(_detail(value, unit)), style_of(name, value)


def _detail(value: Any, unit: Unit) -> str:
    """The text as in a table, with the exact value beside it where a table rounds."""
    text = format_value(value, unit)
    if value is None:
        return text
    if unit == "seconds" and 0 < value < 1:
        return f"{value * 1000:.1f}ms"
    if unit == "bytes":
        return f"{text}  ({int(value):,} bytes)"
    if unit == "time":
        return f"{text}  ({value})"
    return text
