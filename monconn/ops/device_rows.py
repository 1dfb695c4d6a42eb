"""The rows of a device's timeline, and its story as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from monconn.addresses import device_text
from monconn.errors import printable
from monconn.ops.columns import Row, TableOf, field
from monconn.ops.explanations import in_brief
from monconn.ops.text_table import beside, cell_width, shortened, wrapped
from monconn.units import format_bytes, format_duration, local_time

Json = Mapping[str, Any]

_NAME_WIDTH = 11
_LEAST_ROWS = 5
_MOST_SERVICES = 4
"""If there are more, those where the device is gone and that know no rhythm have no lines."""
_SERVICE_WIDTH = 16
"""Of a service's name in the timeline, in characters: the reason after it must be seen."""


@attrs.frozen(slots=False)
class TimelineRow(Row):
    """One thing that a device did, or that happened to it."""

    TABLE: ClassVar[TableOf] = (
        *("at", "what", "service", "duration_seconds", "up", "down", "reason", "alarm", "detail"),
    )

    at: str = field("AT", "time", importance=0)
    what: str = field(
        importance=1, width=10, help="ended, open, absent, refused, alarm, alarm_over, started, ..."
    )
    service: str | None = field(optional=True, importance=5, width=10, max_width=18)
    id: int | None = field("ID", "count", optional=True, importance=8)
    client: str | None = field(optional=True, importance=8, width=21, max_width=28)
    opened_at: str | None = field("OPENED", "time", optional=True, importance=9)
    duration_seconds: float | None = field(
        "LASTED", "seconds", optional=True, importance=3, help="Of an absence, how long it was."
    )
    up: int | None = field("UP", "bytes", optional=True, importance=5)
    down: int | None = field("DOWN", "bytes", optional=True, importance=5)
    reason: str | None = field(optional=True, importance=2, width=19)
    code: str | None = field(optional=True, importance=9, width=4)
    usual_seconds: float | None = field(
        "USUALLY", "seconds", optional=True, importance=9, help="The usual time to come back."
    )
    refusal: str | None = field(optional=True, importance=3, width=12)
    alarm: str | None = field(optional=True, importance=2, width=15)
    detail: str | None = field(optional=True, importance=4, width=20, max_width=60)


def story_lines(
    head: Json,
    rows: Sequence[Json],
    width: int,
    most_lines: int | None,
    how_to_see_all: str = "--all",
) -> list[str]:
    """A device's story for people.

    :param head: all but the timeline, as JSON.
    :param rows: the timeline as JSON, newest first.
    :param width: in characters.
    :param most_lines: of all of it, unless the timeline would have less than five rows, each of
        which gets a line; None for all rows, in as many lines as they need.
    :param how_to_see_all: put after the number of rows that are left out.
    """
    lines = [printable(line) for line in _head_lines(head, width)]
    has_services = len({row["service"] for row in rows if row.get("service")}) > 1
    cells = []
    is_this_run = True
    for row in rows:
        # Ids begin anew with each run: what explain and recording would show is another connection.
        is_this_run = is_this_run and row["what"] != "started"
        cells.append(_cells(row, has_services, has_id=is_this_run))
    if not cells:
        return [*lines, "", "nothing is known of its connections"]
    titles = ("WHEN", "ID", "LASTED", "UP", "DOWN")
    widths = [max(cell_width(row[n]) for row in (titles, *cells)) for n in range(len(titles))]
    room = max(width - sum(widths) - 2 * len(widths), 20)
    timeline: list[list[str]] = []
    for event, (*fixed, what) in zip(
        (None, *rows), ([*titles, "WHAT (newest first)"], *cells), strict=True
    ):
        first = "  ".join(
            f"{text:<{widths[n]}}" if n == 0 else f"{text:>{widths[n]}}"
            for n, text in enumerate(fixed)
        )
        parts = wrapped(printable(what), room)
        if most_lines is not None and " ALARM " not in f" {what}":
            if len(parts) > 1 and event is not None:  # the detail goes before the reason's meaning
                what = _cells(event, has_services, is_brief=True, has_id=False)[-1]
            parts = [shortened(printable(what), room)]  # the reason comes first
        indent = " " * (sum(widths) + 2 * len(widths))
        timeline.append([f"{first}  {parts[0]}", *(indent + part for part in parts[1:])])
    shown: list[str] = []
    count = 0
    for entry in timeline:
        is_full = most_lines is not None and len(lines) + 2 + len(shown) + len(entry) > most_lines
        if is_full and count > _LEAST_ROWS:
            break
        shown += entry
        count += 1
    left = len(timeline) - count + head.get("timeline_total", len(rows)) - len(rows)
    more = [f"{left:,} more{how_to_see_all and f': {how_to_see_all}'}"] if left else []
    return [*lines, "", *shown, *more]


def _head_lines(head: Json, width: int) -> Iterator[str]:
    services: Sequence[Json] = head["services"]
    yield from _named("device", _who(head), width)
    is_long = len(services) > _MOST_SERVICES
    for each in services:
        if is_long and not each["alarms"] and not each["connections"] and not _has_rhythm(each):
            continue
        name = f"{each['service']}: " if len(services) > 1 else ""
        yield from _named("heard", name + _heard(each), width)
        yield from _named("usual", name + _rhythm(each), width)
        yield from _named("total", name + _totals(each), width)
    if is_long:
        total = {
            "total": sum(each["total"] for each in services),
            "first_seen": min(each["first_seen"] for each in services),
            "up": sum(each["up"] for each in services),
            "down": sum(each["down"] for each in services),
        }
        yield from _named("total", f"{len(services)} services: {_totals(total)}", width)
    if head["connections_total"]:
        for each in head["connections"][:3]:
            yield from _named("now", _live_text(each), width)
        if head["connections_total"] > 3:
            yield from _named("", f"and {head['connections_total'] - 3} more connections", width)
    elif services:
        yield from _named("now", "no connection", width)
    for each in head["alarms"]:
        since = local_time(each["since"])
        yield from _named("ALARM", f"{each['alarm']} since {since}: {each['detail']}", width)
    addresses = [each["address"] for each in head["addresses"]]
    if addresses and addresses != [head["device"]]:
        yield from _named("addresses", ", ".join(addresses), width)
    if head["facts"]:
        text = ", ".join(f"{name} {value}" for name, value in head["facts"].items())
        yield from _named("facts", text, width)
    for number, sentence in enumerate(head["pattern"]):
        yield from _named("" if number else "pattern", sentence, width)
    if head.get("history_problem"):
        yield from _named("history", f"not asked: {head['history_problem']}", width)


def _has_rhythm(row: Json) -> bool:
    return row.get("heartbeat_seconds") is not None or row.get("reconnect_seconds") is not None


def _named(name: str, text: str, width: int) -> list[str]:
    return beside(name, _NAME_WIDTH, printable(text), width)


def _who(head: Json) -> str:
    services = [each["service"] for each in head["services"]]
    text = device_text(str(head["device"]), str(head.get("name") or ""), ())
    if services:
        text += f" at {', '.join(services)}"
    else:
        text += ", known from the history only"
    return f"{text}, blocked" if head["blocked"] else text


def _heard(row: Json) -> str:
    parts = []
    if row.get("last_heard_seconds") is not None:
        parts.append(f"answered {format_duration(row['last_heard_seconds'])} ago")
    if row.get("silent_seconds") is not None:
        parts.append(f"last sent something {format_duration(row['silent_seconds'])} ago")
    else:
        parts.append("has never sent anything")
    if not row["connections"]:
        end = f", ended with {row['last_reason']}" if row.get("last_reason") else ""
        parts.append(f"last seen {local_time(row['last_seen'])}{end}")
    return "; ".join(parts)


def _rhythm(row: Json) -> str:
    parts = []
    limit = row.get("silent_after_seconds")
    if row.get("keepalive_seconds") is not None:
        text = f"declared keepalive {row['keepalive_seconds']:g} s"
        parts.append(text + (f" (alarm after {format_duration(limit)})" if limit else ""))
        limit = None
    if row.get("heartbeat_seconds") is not None:
        text = f"says something every {format_duration(row['heartbeat_seconds'])}"
        parts.append(text + (f" (alarm after {format_duration(limit)})" if limit else ""))
    if row.get("reconnect_seconds") is not None:
        limit = row.get("away_after_seconds")
        text = f"connects every {format_duration(row['reconnect_seconds'])}"
        parts.append(text + (f" (alarm after {format_duration(limit)})" if limit else ""))
    return "; ".join(parts) or "not known yet: too few messages and connections"


def _totals(row: Json) -> str:
    return (
        f"{row['total']} connection{'' if row['total'] == 1 else 's'} since"
        f" {local_time(row['first_seen'])}, up {format_bytes(row['up'])},"
        f" down {format_bytes(row['down'])}"
    )


def _live_text(connection: Json) -> str:
    return (
        f"id {connection['id']} from {connection['client']}, {connection['state']},"
        f" {format_duration(connection['age_seconds'])} old, idle"
        f" {format_duration(connection['idle_seconds'])}, up {format_bytes(connection['up'])},"
        f" down {format_bytes(connection['down'])}"
    )


def _cells(
    row: Json, has_services: bool, is_brief: bool = False, *, has_id: bool
) -> tuple[str, ...]:
    duration = row.get("duration_seconds")
    what = _what(row, is_brief)
    if has_services and row.get("service"):
        what = f"{shortened(printable(str(row['service'])), _SERVICE_WIDTH)}: {what}"
    return (
        local_time(row["at"]),
        str(row["id"]) if has_id and row.get("id") is not None else "",
        "" if duration is None else format_duration(duration),
        "" if row.get("up") is None else format_bytes(row["up"]),
        "" if row.get("down") is None else format_bytes(row["down"]),
        what,
    )


def _what(row: Json, is_brief: bool) -> str:
    """What happened, in one line.

    :param is_brief: without what a reason means, if there is a detail that says more.
    """
    kind, detail = row["what"], row.get("detail")
    more = f" ({detail})" if detail else ""
    if kind == "ended":
        reason = str(row.get("reason"))
        if is_brief and detail:
            return f"{reason}: {detail}"
        return f"{reason}: {in_brief(reason) or 'it ended'}{more}"
    if kind == "open":
        return f"open since then, id {row.get('id')}"
    if kind == "absent":
        usual = row.get("usual_seconds")
        if detail:
            return f"no connection; {detail}"
        return "no connection until then" + (
            f", usually every {format_duration(usual)}" if usual is not None else ""
        )
    if kind == "refused":
        return f"refused: {row.get('refusal')}{more}"
    if kind == "alarm":
        return f"ALARM {row.get('alarm')}: {detail}"
    if kind == "alarm_over":
        return f"{row.get('alarm')} is over: {detail}"
    return f"monconn {kind}{more}"
