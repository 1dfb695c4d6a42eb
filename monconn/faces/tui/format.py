"""Values as they are read on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from monconn import units
from monconn.errors import printable
from monconn.units import format_bytes, format_duration

_ORDERLY = ("client_closed", "backend_closed")
_BROKEN = ("_reset", "_lost", "_refused", "_unreachable", "error")
_STATE_STYLES = {"connecting": "yellow", "half_closed": "cyan", "closing": "magenta"}


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars, the newest on the right; the highest of them fills a bar."""
    return units.sparkline(values[-width:] if width > 0 else ()).rjust(width)


def rate(value: Any) -> str:
    """Bytes a second, without the words *a second*."""
    return format_bytes(round(float(value or 0)))


def moment(iso: Any) -> str:
    """The time of day, here, of a moment."""
    try:
        return datetime.fromisoformat(str(iso)).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return ""


def reason_of(row: dict[str, Any]) -> str:
    """Why a connection ended, or was not let in."""
    return printable(row.get("reason") or row.get("refusal") or "")


def state_style(state: Any) -> str:
    """The colour of a state; an open connection needs none."""
    return _STATE_STYLES.get(str(state), "")


def reason_style(reason: str) -> str:
    """The colour of a reason: none if all went well, red if something broke off."""
    if reason in _ORDERLY:
        return ""
    return "red" if reason.endswith(_BROKEN) else "yellow"


def details(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Every key of a connection, its value in words, and its style."""
    return [(key, _detail(key, value), _detail_style(key, value)) for key, value in row.items()]


def _detail(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.endswith("_seconds"):
        return f"{value * 1000:.1f}ms" if 0 < value < 1 else format_duration(float(value))
    if key in ("up", "down"):
        return f"{format_bytes(int(value))}  ({int(value):,} bytes)"
    if key.endswith("_rate"):
        return f"{rate(value)} a second"
    if key.endswith("_at"):
        return f"{moment(value)}  ({printable(value)})"
    return printable(value)


def _detail_style(key: str, value: Any) -> str:
    if key == "state":
        return state_style(value)
    return reason_style(str(value)) if key in ("reason", "refusal") else ""
