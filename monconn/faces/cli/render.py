"""What people read: tables and lines, made of the values that ``--json`` prints."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monconn.errors import printable
from monconn.units import format_bytes, format_duration

Row = Mapping[str, Any]
Side = Literal["left", "right"]
Column = tuple[str, Side, Callable[[Row], str]]


def _value(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row.get(key) is None else str(row[key])


def _bytes(key: str) -> Callable[[Row], str]:
    return lambda row: format_bytes(row[key])


def _rate(key: str) -> Callable[[Row], str]:
    return lambda row: f"{format_bytes(int(row[key]))}/s" if row[key] >= 1 else "-"


def _duration(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else format_duration(row[key])


def _time(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row.get(key) is None else local_time(row[key])


def _what(row: Row) -> str:
    """The word for what an event of the history is about."""
    if "alarm" in row:
        return f"{row['alarm']}{' is over' if row['over'] else ''}"
    return str(row.get("refusal") or row.get("count") or "-")


def local_time(iso: str) -> str:
    """A time of day, with the date unless it is today."""
    moment = datetime.fromisoformat(iso).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")


LIVE: tuple[Column, ...] = (
    ("ID", "right", _value("id")),
    ("CLIENT", "left", _value("client")),
    ("SERVICE", "left", _value("service")),
    ("STATE", "left", _value("state")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("UP/S", "right", _rate("up_rate")),
    ("DOWN/S", "right", _rate("down_rate")),
    ("AGE", "right", _duration("age_seconds")),
    ("IDLE", "right", _duration("idle_seconds")),
)
OF_THE_DEMO = tuple(column for column in LIVE if column[0] not in ("SERVICE", "UP/S", "DOWN/S"))
CLOSED: tuple[Column, ...] = (
    ("ID", "right", _value("id")),
    ("CLIENT", "left", _value("client")),
    ("SERVICE", "left", _value("service")),
    ("REASON", "left", _value("reason")),
    ("CODE", "left", _value("code")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("LASTED", "right", _duration("age_seconds")),
    ("CLOSED", "left", _time("closed_at")),
)
SERVICES: tuple[Column, ...] = (
    ("SERVICE", "left", _value("sid")),
    ("LISTEN", "left", _value("listen")),
    ("BACKEND", "left", _value("backend")),
    ("NOW", "right", _value("connections")),
    ("IPS", "right", lambda row: str(len(row["ips"]))),
    ("TOTAL", "right", _value("total")),
    ("REFUSED", "right", _value("refused")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("UPTIME", "right", _duration("uptime")),
)
CLIENTS: tuple[Column, ...] = (
    ("IP", "left", _value("ip")),
    ("NOW", "right", _value("connections")),
    ("TOTAL", "right", _value("total")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("FIRST SEEN", "left", _time("first_seen")),
    ("LAST SEEN", "left", _time("last_seen")),
    ("LAST END", "left", _value("last_reason")),
)
HISTORY: tuple[Column, ...] = (
    ("CLOSED", "left", _time("closed_at")),
    ("CLIENT", "left", _value("client")),
    ("SERVICE", "left", _value("service")),
    ("REASON", "left", _value("reason")),
    ("CODE", "left", _value("code")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("LASTED", "right", _duration("duration_seconds")),
)
EVENTS: tuple[Column, ...] = (
    ("AT", "left", _time("at")),
    ("EVENT", "left", _value("event")),
    ("SERVICE", "left", _value("service")),
    ("CLIENT", "left", lambda row: row.get("client") or row.get("device") or "-"),
    ("WHAT", "left", _what),
    ("DETAIL", "left", _value("detail")),
)
DEVICES: tuple[Column, ...] = (
    ("DEVICE", "left", _value("device")),
    ("SERVICE", "left", _value("service")),
    ("NOW", "right", _value("connections")),
    ("TOTAL", "right", _value("total")),
    ("COMES EVERY", "right", _duration("reconnect_seconds")),
    ("SPEAKS EVERY", "right", _duration("heartbeat_seconds")),
    ("SILENT FOR", "right", _duration("silent_seconds")),
    ("UP", "right", _bytes("up")),
    ("DOWN", "right", _bytes("down")),
    ("LAST SEEN", "left", _time("last_seen")),
    ("LAST END", "left", _value("last_reason")),
    ("ALARMS", "left", lambda row: ", ".join(row["alarms"])),
)
BLOCKS: tuple[Column, ...] = (
    ("NETWORK", "left", _value("network")),
    ("SERVICE", "left", _value("service")),
)

_MOST_LAID_OUT = 500
"""Rows; more take too long to be made to fit a terminal."""
_STYLES = {
    "closing": "yellow",
    "half_closed": "yellow",
    "connecting": "cyan",
    **dict.fromkeys(("silent", "reconnect_storm", "silent, reconnect_storm"), "red"),
}


def table(
    columns: Iterable[Column], rows: Iterable[Row], coloured: bool, width: int | None = None
) -> str:
    """Rows as a table.

    :param coloured: whether the reader is a terminal.
    :param width: in characters; the terminal's if left out.
    """
    columns, rows = tuple(columns), tuple(rows)
    if not coloured or len(rows) > _MOST_LAID_OUT:
        return _plain_table(columns, rows)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, side, _ in columns:
        made.add_column(title, justify=side)
    for row in rows:
        # As Text, for rich would take brackets in a client's words for its own marks.
        cells = [printable(show(row)) for _, _, show in columns]
        made.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return _as_text(made, coloured, width)


def _plain_table(columns: tuple[Column, ...], rows: tuple[Row, ...]) -> str:
    """The same without colours, and as wide as it takes; a hundred times as fast."""
    cells = [[printable(show(row)) for row in rows] for _, _, show in columns]
    filled = [
        _filled([title, *column], side)
        for (title, side, _), column in zip(columns, cells, strict=True)
    ]
    head, *lines = ("   ".join(line).rstrip() for line in zip(*filled, strict=True))
    rule = "─" * (sum(cell_len(column[0]) + 3 for column in filled) - 1)
    return "".join(f" {line}\n" if line else "\n" for line in ("", head, rule, *lines, ""))


def _filled(column: list[str], side: Side) -> list[str]:
    widest = max(map(cell_len, column))
    if side == "right":
        return [" " * (widest - cell_len(cell)) + cell for cell in column]
    return [cell + " " * (widest - cell_len(cell)) for cell in column]


def details(row: Row) -> str:
    """One connection, a line for each thing that is known of it."""
    lines = [*_lines_of(row)]
    widest = max(len(key) for key, _ in lines)
    return "".join(f"{key:{widest}}  {printable(text)}\n" for key, text in lines)


def _lines_of(row: Row) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if key == "diagnosis":
            yield "looks_like", value["looks_like"]
            yield from (("because", each) for each in value["because"])
        elif key.endswith("_tcp"):
            yield key, _tcp_words(value)
        else:
            yield key, _detail(key, value)


def _tcp_words(tcp: Row) -> str:
    round_trip, variation = tcp["rtt_seconds"] * 1000, tcp["rtt_variation_seconds"] * 1000
    return (
        f"round trip {round_trip:.3g} ms ± {variation:.3g},"
        f" sent again {tcp['retransmits']} of {tcp['segments_sent']} segments,"
        f" unacknowledged {tcp['unacked_segments']}, lost {tcp['lost_segments']},"
        f" congestion window {tcp['cwnd_segments']} × {format_bytes(tcp['mss_bytes'])},"
        f" not sent yet {format_bytes(tcp['not_sent_bytes'])}"
    )


def _detail(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in ("up", "down") or key.endswith("_bytes"):
        return f"{value} ({format_bytes(value)})"
    if key.endswith("_rate"):
        return f"{format_bytes(int(value))}/s"
    if key.endswith("_seconds"):
        return f"{value} ({format_duration(value)})" if value >= 1 else f"{value * 1000:.3g} ms"
    return str(value)


def event_line(event: Row) -> str:
    """An event as a line."""
    return printable(_event_words(event))


def _event_words(event: Row) -> str:
    if event["event"] == "action":
        return f"{local_time(event['at'])} {event['text']}"
    what = f"{local_time(event['at'])} {event['service']}: {event.get('client')}"
    if event["event"] == "alarm":
        word = "is over" if event["over"] else "begins"
        what = f"{local_time(event['at'])} {event['service']}: {event['device']}"
        return f"{what} {event['alarm']} {word}: {event['detail']}"
    if event["event"] == "opened":
        return f"{what} opened, id {event['id']}"
    if event["event"] == "refused":
        return f"{what} refused: {event['refusal']}"
    detail = f" ({event['detail']})" if event.get("detail") else ""
    moved = f"up {format_bytes(event['up'])}, down {format_bytes(event['down'])}"
    lasted = format_duration(event["duration_seconds"])
    return f"{what} {event['reason']} after {lasted}, {moved}{detail}"


def _as_text(made: Table, coloured: bool, width: int | None) -> str:
    out = io.StringIO()
    Console(file=out, force_terminal=coloured, width=width, highlight=False).print(made)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
