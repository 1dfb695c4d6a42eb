"""Which style a value has, and the lines of a connection's details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monconn.ops.details import connection_details

_ORDERLY = ("client_closed", "backend_closed")
_BROKEN = ("_reset", "_lost", "_refused", "_unreachable", "error")
_STATE_STYLES = {
    "connecting": "connecting",
    "half_closed": "half_closed",
    "closing": "closing",
    "unreachable": "error",
}
_NOTHING = (None, "", 0, 0.0)
_UP = ("up", "up_rate")
_DOWN = ("down", "down_rate")
_REASONS = ("reason", "refusal", "last_reason")


def style_of(name: str, value: Any) -> str:
    """The name of the style of a field's value; empty for none.

    States other than open have one each. A reason is an error if something broke off, a warning if
    it is a limit or the operator's decision, and has no style after an orderly close. Bytes have
    the style of their direction.
    """
    if name in _UP or name in _DOWN:
        if value in _NOTHING:
            return "dim"
        return "up" if name in _UP else "down"
    if name == "trend":
        return name
    text = str(value or "")
    if name == "state":
        return _STATE_STYLES.get("unreachable" if "unreachable" in text else text, "")
    if name == "alarms":
        return "error" if value else ""
    if name not in _REASONS or not text or text in _ORDERLY:
        return ""
    return "error" if text.endswith(_BROKEN) else "warning"


def details(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The name, the text and the style of each line of a connection's details."""
    for name, text in connection_details(row):
        yield name, text, style_of(name, text if name == "state" else row.get(name))
