"""Tables and lines for people, made of the values that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monconn.errors import printable
from monconn.ops.colours import colour_of
from monconn.ops.columns import Column, Row
from monconn.ops.text_table import text_table
from monconn.units import format_bytes, format_duration, local_time

Json = Mapping[str, Any]

_PLAIN = "\x1b[0m"
_DIM = "\x1b[2m"
_COLOURS = {
    "red": "\x1b[31m",
    "yellow": "\x1b[33m",
    "cyan": "\x1b[36m",
    "magenta": "\x1b[35m",
}


def table(
    columns: Sequence[Column],
    rows: Iterable[Row | Json],
    *,
    width: int | None = None,
    coloured: bool = False,
) -> str:
    """Rows as a table, titles first; or as blocks where not even the most important columns fit.

    :param rows: rows, or their JSON.
    :param width: in characters, of a terminal: the least important columns leave a table that is
        wider. None for as wide as it takes.
    :param coloured: with the colours of a terminal: quiet titles, and what values mean.
    """
    lines = text_table(columns, rows, width, _paint if coloured else None)
    return "".join(f"{line}\n" for line in lines)


def _paint(column: Column | None, text: str, cell: str) -> str:
    if column is None:
        return f"{_DIM}{cell}{_PLAIN}"
    colour = colour_of(column.name, text)
    return f"{_COLOURS[colour]}{cell}{_PLAIN}" if colour else cell


def event_line(event: Json) -> str:
    """An event of the feed as a line."""
    return printable(f"{local_time(event['at'])} {_event_text(event)}")


def _event_text(event: Json) -> str:
    kind = event["event"]
    if kind == "action":
        return str(event["text"])
    if kind == "alarm":
        verb = "is over" if event["over"] else "begins"
        return f"{event['service']}: {event['device']} {event['alarm']} {verb}: {event['detail']}"
    client = f"{event['service']}: {event.get('client')}"
    if kind == "half_closed":
        return f"{client} half-closed by the {event['side']}, id {event['id']}"
    if kind == "opened":
        return f"{client} opened, id {event['id']}"
    detail = f" ({event['detail']})" if event.get("detail") else ""
    if kind == "refused":
        return f"{client} refused: {event['refusal']}{detail}"
    moved = f"up {format_bytes(event['up'])}, down {format_bytes(event['down'])}"
    duration = format_duration(event["duration_seconds"])
    return f"{client} {event['reason']} after {duration}, {moved}{detail}"
