"""Tables and lines for people, made of the values that ``--json`` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monconn.addresses import device_text
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


def event_line(event: Json, *, coloured: bool = False) -> str:
    """An event of the feed as a line, in the words of the log.

    :param coloured: with the colours of a terminal, by which a reason or an alarm stands out.
    """
    text, word, column = _event_text(event)
    line = printable(f"{local_time(event['at'])} {text}")
    colour = colour_of(column, word)
    if coloured and colour:
        # Not within the name of a service: the word stands alone.
        line = re.sub(
            rf"(?<= ){re.escape(word)}(?= |$)", f"{_COLOURS[colour]}{word}{_PLAIN}", line, count=1
        )
    return line


def _event_text(event: Json) -> tuple[str, str, str]:
    """The line without its time, the word in it that has a meaning, and which kind of word."""
    kind = event["event"]
    if kind == "action":
        return str(event["text"]), "", ""
    if kind == "alarm":
        verb = "is over" if event["over"] else "alarm"
        alarm = event["alarm"]
        who = ""
        if event["device"]:
            name, addresses = str(event.get("name") or ""), event.get("addresses") or ()
            who = f"{device_text(str(event['device']), name, addresses)} "
        text = f"{event['service']}: {who}{alarm} {verb}: {event['detail']}"
        return text, alarm, "" if event["over"] else "alarm"
    client = f"{event['service']}: {event.get('client')}"
    if kind == "half_closed":
        return f"{client} half-closed by the {event['side']}, id {event['id']}", "", ""
    if kind == "opened":
        would = event.get("would_refuse")
        dry_run = f", would be refused: {', '.join(map(str, would))} (dry_run)" if would else ""
        return f"{client} opened, id {event['id']}{dry_run}", "", ""
    detail = f" ({event['detail']})" if event.get("detail") else ""
    if kind == "refused":
        return f"{client} refused: {event['refusal']}{detail}", event["refusal"], "refusal"
    moved = f"up {format_bytes(event['up'])}, down {format_bytes(event['down'])}"
    duration = format_duration(event["duration_seconds"])
    reason = event["reason"]
    return f"{client} {reason} after {duration}, {moved}{detail}", reason, "reason"
