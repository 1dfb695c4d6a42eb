"""One connection, field by field, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monconn.errors import printable
from monconn.ops.columns import Row, Unit, format_value
from monconn.ops.rows import ConnectionRow, unreachable_text
from monconn.units import format_bytes

_NAME_CHARACTERS = 40
"""The most of the name of a field that only a newer server knows."""


def connection_details(connection: Row | Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the text of each field that a connection has, in the order of its JSON.

    Where a table would round, the exact value stands beside it. The state says if a side is
    unreachable. A diagnosis is a line for what the connection looks like, and one for each figure
    that says so. Fields that only a newer server knows are included, as they were sent.

    :param connection: a row, or its JSON.
    """
    values = connection.to_json() if isinstance(connection, Row) else connection
    fields = ConnectionRow.fields()
    for name, value in values.items():
        if name == "diagnosis" and value is not None:
            yield "looks_like", printable(value["looks_like"])
            yield from (("because", printable(each)) for each in value["because"])
        elif name in ("client_tcp", "backend_tcp") and value is not None:
            yield name, _tcp_text(value)
        elif name == "state":
            yield name, printable(", ".join(filter(None, (value, unreachable_text(values)))))
        else:
            unit = fields[name].unit if name in fields else "text"
            yield printable(name[:_NAME_CHARACTERS]), printable(_exact_text(value, unit))


def _exact_text(value: Any, unit: Unit) -> str:
    text = format_value(value, unit)
    if value is None:
        return text
    if unit == "seconds" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "bytes" and value >= 1024:  # below, the text is exact
        return f"{text} ({int(value):,} bytes)"
    if unit == "time":
        return f"{text} ({value})"
    return text


def _tcp_text(tcp: Mapping[str, Any]) -> str:
    round_trip, variation = tcp["rtt_seconds"] * 1000, tcp["rtt_variation_seconds"] * 1000
    return (
        f"round trip {round_trip:.3g} ms ± {variation:.3g},"
        f" sent again {tcp['retransmits']} of {tcp['segments_sent']} segments,"
        f" unacknowledged {tcp['unacked_segments']}, lost {tcp['lost_segments']},"
        f" congestion window {tcp['cwnd_segments']} × {format_bytes(tcp['mss_bytes'])},"
        f" not sent yet {format_bytes(tcp['not_sent_bytes'])}"
    )
