"""One connection, written out for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Row, Unit, format_value
from monconn.ops.rows import ConnectionRow, unreachable_text
from monconn.ops.text_table import beside, cell_width
from monconn.units import format_bytes, format_duration, format_rate, local_time

GROUP_END = ("", "")
"""Between two groups of lines: an empty one."""
_NAME_CHARACTERS = 24
"""The most of the name of a fact, or of a field that only a newer server knows."""
_NAMES = ("id", "uid", "community_id", "backend_community_id")
"""What a connection is called, here and elsewhere."""
_Lines = Iterator[tuple[str, str]]


def connection_details(connection: Row | Mapping[str, Any]) -> _Lines:
    """The lines of a connection, each with a name and a text; with :data:`GROUP_END` between
    groups: who it is, how it goes or ended and when, how much, each side, and what it looks like.

    What is not known is left out. Where a table would round, the exact value stands beside it. The
    state says if a side is unreachable. Fields that only a newer server knows come last.

    :param connection: a row, or its JSON.
    """
    values = connection.to_json() if isinstance(connection, Row) else connection
    is_first = True
    for group in (_who, _end_and_times, _traffic, _sides, _diagnosis, _others):
        lines = [(name, printable(text)) for name, text in group(values)]
        if lines and not is_first:
            yield GROUP_END
        is_first = is_first and not lines
        yield from lines


def detail_lines(connection: Row | Mapping[str, Any], width: int | None = None) -> list[str]:
    """The same as aligned lines, of which long ones go on beneath, between words.

    :param width: in terminal cells; None for lines as long as they are.
    """
    details = [*connection_details(connection)]
    margin = max((cell_width(name) for name, _ in details), default=0) + 2
    return [line for name, text in details for line in beside(name, margin, text, width)]


def _who(values: Mapping[str, Any]) -> _Lines:
    for name in (*_NAMES, "service", "client", "listener", "backend", "pipe"):
        if values.get(name) is not None:
            yield name, str(values[name])
    ip = values.get("client_ip")
    if ip is not None and str(ip) not in str(values.get("client")):
        yield "client IP", str(ip)
    for name, fact in (values.get("facts") or {}).items():
        yield printable(str(name)[:_NAME_CHARACTERS]), str(fact)


def _end(values: Mapping[str, Any]) -> _Lines:
    if values.get("state") is not None:
        limited = "limited by bandwidth" if values.get("is_limited") else ""
        paused = "its service is paused" if values.get("is_paused") else ""
        texts = values["state"], paused, limited, unreachable_text(values)
        yield "state", ", ".join(filter(None, texts))
    for name in ("refusal", "reason"):
        if values.get(name) is not None:
            yield name, str(values[name])
    if values.get("would_refuse"):
        yield "would refuse it", format_value(values["would_refuse"], "list")
    if values.get("code") is not None:
        yield "code", str(values["code"])
    if values.get("closed_by") is not None:
        phase = f", while it was {values['phase']}" if values.get("phase") else ""
        yield "closed by", f"{values['closed_by']}{phase}"
    if values.get("detail"):
        yield "detail", str(values["detail"])


def _end_and_times(values: Mapping[str, Any]) -> _Lines:
    yield from _end(values)
    yield from _times(values)


def _times(values: Mapping[str, Any]) -> _Lines:
    for name, title in (("opened_at", "opened"), ("closed_at", "closed")):
        if values.get(name) is not None:
            yield title, f"{local_time(values[name])} ({values[name]})"
    is_closed = values.get("closed_at") is not None
    if values.get("age_seconds") is not None:
        yield "lasted" if is_closed else "age", format_duration(values["age_seconds"])
    if values.get("idle_seconds") is not None:
        idle = format_duration(values["idle_seconds"])
        yield "idle", f"{idle} before the end" if is_closed else idle
    if values.get("connect_seconds") is not None:
        yield "connected in", format_duration(values["connect_seconds"])
    if values.get("limited_seconds"):
        limited = format_duration(values["limited_seconds"])
        yield "limited", f"not read from for {limited}, as its bandwidth was used up"


def _traffic(values: Mapping[str, Any]) -> _Lines:
    for name in ("up", "down"):
        count = values.get(name)
        if count is None:
            continue
        text = format_bytes(int(count))
        if count >= 1024:  # below, the text is exact
            text += f" ({int(count):,} bytes)"
        if values.get(f"{name}_rate"):
            text += f", {format_rate(values[f'{name}_rate'])}"
        moments = [
            f"{which} byte after {format_duration(values[f'{which}_{name}_seconds'])}"
            for which in ("first", "last")
            if values.get(f"{which}_{name}_seconds") is not None
        ]
        yield name, ", ".join((text, *moments))
    if values.get("recorded") is not None:
        recorded = format_bytes(int(values["recorded"]))
        yield "recorded", f"{recorded}: monconn recording {values.get('id')}"


def _sides(values: Mapping[str, Any]) -> _Lines:
    for side in ("client", "backend"):
        texts = []
        how, after = values.get(f"{side}_end"), values.get(f"{side}_ended_seconds")
        ended = [] if how in (None, "none") else [f"by {how}"]
        if after is not None:
            ended.append(f"after {format_duration(after)}")
        if ended:
            texts.append(" ".join(("ended", *ended)))
        heard = values.get(f"{side}_last_heard_seconds")
        if heard is not None:
            until = "before the end" if values.get("closed_at") is not None else "ago"
            texts.append(f"heard {format_duration(heard)} {until}")
        if texts:
            yield f"{side} side", ", ".join(texts)
        tcp = values.get(f"{side}_tcp")
        if tcp is not None:
            yield f"{side} TCP", _tcp_text(tcp)


def _tcp_text(tcp: Mapping[str, Any]) -> str:
    round_trip, variation = tcp["rtt_seconds"], tcp["rtt_variation_seconds"]
    return (
        f"round trip {format_duration(round_trip)} ± {format_duration(variation)},"
        f" sent again {tcp['retransmits']:,} of {tcp['segments_sent']:,} segments,"
        f" unacknowledged {tcp['unacked_segments']:,}, lost {tcp['lost_segments']:,},"
        f" congestion window {tcp['cwnd_segments']:,} × {format_bytes(tcp['mss_bytes'])},"
        f" not sent yet {format_bytes(tcp['not_sent_bytes'])}"
    )


def _diagnosis(values: Mapping[str, Any]) -> _Lines:
    diagnosis = values.get("diagnosis")
    if diagnosis is not None:
        yield "looks like", str(diagnosis["looks_like"])
        for each in diagnosis["because"]:
            yield "because", str(each)


def _others(values: Mapping[str, Any]) -> _Lines:
    known = ConnectionRow.fields()
    for name, value in values.items():
        if name not in known and value is not None:
            unit: Unit = "text"
            if isinstance(value, list | dict):
                unit = "list" if isinstance(value, list) else "object"
            yield printable(name[:_NAME_CHARACTERS]), format_value(value, unit)
