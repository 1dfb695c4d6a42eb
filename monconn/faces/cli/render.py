"""Tables and lines for people, made of the values that ``--json`` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Column, Row, local_time
from monconn.ops.text_table import cell_width, text_table
from monconn.units import format_bytes, format_duration

Json = Mapping[str, Any]

_PLAIN = "\x1b[0m"
_BOLD = "\x1b[1m"
_COLOURS = {
    "closing": "\x1b[33m",
    "half_closed": "\x1b[33m",
    "connecting": "\x1b[36m",
    "silent": "\x1b[31m",
    "reconnect_storm": "\x1b[31m",
}
"""Transient states, and alarms; coloured wherever they are a separate word in a table."""
_COLOURED = re.compile(rf"(?<!\S)({'|'.join(_COLOURS)})(?=,| |$)(?! is over)")


def table(
    columns: Sequence[Column],
    rows: Iterable[Row | Json],
    *,
    width: int | None = None,
    coloured: bool = False,
) -> str:
    """Rows as a table: titles, a rule, and a line for each row.

    :param rows: rows, or their JSON.
    :param width: in characters, of a terminal: the least important columns leave a table that is
        wider. None for as wide as it takes.
    """
    titles, *lines = text_table(columns, rows, width)
    rule = "─" * max(map(cell_width, (titles, *lines)))
    if coloured:
        titles = f"{_BOLD}{titles}{_PLAIN}"
        lines = [_COLOURED.sub(_coloured, line) for line in lines]
    return "".join(f"{line}\n" for line in (titles, rule, *lines))


def _coloured(found: re.Match[str]) -> str:
    return f"{_COLOURS[found[1]]}{found[1]}{_PLAIN}"


def details(connection: Json) -> str:
    """One connection, with a line for each of its fields."""
    lines = [*_detail_lines(connection)]
    widest = max(len(name) for name, _ in lines)
    return "".join(f"{name:{widest}}  {printable(text)}\n" for name, text in lines)


def _detail_lines(connection: Json) -> Iterator[tuple[str, str]]:
    for name, value in connection.items():
        if name == "diagnosis":
            yield "looks_like", value["looks_like"]
            yield from (("because", each) for each in value["because"])
        elif name.endswith("_tcp"):
            yield name, _tcp_text(value)
        else:
            yield name, _detail_text(name, value)


def _tcp_text(tcp: Json) -> str:
    round_trip, variation = tcp["rtt_seconds"] * 1000, tcp["rtt_variation_seconds"] * 1000
    return (
        f"round trip {round_trip:.3g} ms ± {variation:.3g},"
        f" sent again {tcp['retransmits']} of {tcp['segments_sent']} segments,"
        f" unacknowledged {tcp['unacked_segments']}, lost {tcp['lost_segments']},"
        f" congestion window {tcp['cwnd_segments']} × {format_bytes(tcp['mss_bytes'])},"
        f" not sent yet {format_bytes(tcp['not_sent_bytes'])}"
    )


def _detail_text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("up", "down") or name.endswith("_bytes"):
        return f"{value} ({format_bytes(value)})"
    if name.endswith("_rate"):
        return f"{format_bytes(int(value))}/s"
    if name.endswith("_seconds"):
        return f"{value} ({format_duration(value)})" if value >= 1 else f"{value * 1000:.3g} ms"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "-"
    return str(value)


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
    if kind == "opened":
        return f"{client} opened, id {event['id']}"
    if kind == "refused":
        return f"{client} refused: {event['refusal']}"
    moved = f"up {format_bytes(event['up'])}, down {format_bytes(event['down'])}"
    detail = f" ({event['detail']})" if event.get("detail") else ""
    duration = format_duration(event["duration_seconds"])
    return f"{client} {event['reason']} after {duration}, {moved}{detail}"
