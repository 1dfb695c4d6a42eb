"""What makes a connection slow: the network on one of its sides, or who is at the end of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from monconn.core import tcpinfo
from monconn.core.record import ConnectionRecord, Side
from monconn.core.tcpinfo import TcpInfo
from monconn.units import format_duration

SLOW_ROUND_TRIP_SECONDS = 0.1
SLOW_ANSWER_SECONDS = 0.2
MANY_RETRANSMITS = 0.02
"""Of all segments with data."""
_FEWEST_RETRANSMITS = 3
_RETRANSMIT_SECONDS = 0.2
"""What a lost segment costs at the least: Linux' shortest retransmission timeout."""
LONG_HELD_UP_SECONDS = 0.5
"""How long the peer's receive window is full before its reading is called slow."""


@attrs.frozen
class _Suspect:
    what: str
    seconds: float
    """About how long it makes people wait."""
    because: str


def diagnose(record: ConnectionRecord, now: float) -> dict[str, Any]:
    """Say what a connection's slowness looks like, and from what figures.

    :param record: measured just now, or closed.
    :param now: monotonic seconds.
    :returns: ``looks_like``: ``slow network to the client``, ``slow network to the backend``,
        ``slow client``, ``slow backend`` or ``nothing slow``; ``because``: the figures in words.
    """
    suspects = sorted(_suspects(record, now), key=lambda each: each.seconds, reverse=True)
    figures = [*_figures(record, now)]
    if not suspects:
        looks_like = "nothing slow" if figures else "unknown"
        return {"looks_like": looks_like, "because": figures}
    because = [each.because for each in suspects]
    return {
        "looks_like": suspects[0].what,
        "because": because + [each for each in figures if each not in because],
    }


def answer_seconds(record: ConnectionRecord, now: float) -> float | None:
    """How long the backend took for its first byte, or has let us wait for it until now.

    Counted from the client's first byte, or from when the backend stood: whichever came later.

    :returns: None if nobody waits: the backend never stood, or nothing was sent to it yet.
    """
    if record.connected is None:
        return None
    first_up, first_down = record.first_up, record.first_down
    speaks_first = first_down is not None and (first_up is None or first_down < first_up)
    if first_up is None and first_down is None:
        return None
    asked = record.connected if speaks_first else max(first_up or 0.0, record.connected)
    until = now if record.closed is None else record.closed
    return max(0.0, (until if first_down is None else first_down) - asked)


def _suspects(record: ConnectionRecord, now: float) -> Iterator[_Suspect]:
    backend_rtt = 0.0
    for side, raw in _measured(record):
        info = tcpinfo.parse(raw)
        if side == "backend":
            backend_rtt = info.rtt_seconds
        yield from _network_suspect(side, info)
        yield from _reader_suspect(side, info)
    answer = answer_seconds(record, now)
    if answer is not None and answer - backend_rtt >= SLOW_ANSWER_SECONDS:
        yield _Suspect("slow backend", answer - backend_rtt, _answer_words(record, answer))


def _measured(record: ConnectionRecord) -> Iterator[tuple[Side, bytes]]:
    if record.client_tcp is not None:
        yield "client", record.client_tcp
    if record.backend_tcp is not None:
        yield "backend", record.backend_tcp


def _network_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    ratio = info.retransmits / max(info.segments_sent, 1)
    loses = info.retransmits >= _FEWEST_RETRANSMITS and ratio >= MANY_RETRANSMITS
    if not loses and info.rtt_seconds < SLOW_ROUND_TRIP_SECONDS:
        return
    seconds = info.rtt_seconds
    if loses:
        seconds += min(ratio, 1.0) * max(_RETRANSMIT_SECONDS, 2 * info.rtt_seconds)
    yield _Suspect(f"slow network to the {side}", seconds, _network_words(side, info))


def _reader_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    if info.window_limited_seconds >= LONG_HELD_UP_SECONDS:
        seconds = info.window_limited_seconds
        words = f"the {side} was slow to read what it was sent: {format_duration(seconds)} in all"
        yield _Suspect(f"slow {side}", seconds, words)


def _figures(record: ConnectionRecord, now: float) -> Iterator[str]:
    for side, raw in _measured(record):
        yield _network_words(side, tcpinfo.parse(raw))
    answer = answer_seconds(record, now)
    if answer is not None:
        yield _answer_words(record, answer)


def _network_words(side: Side, info: TcpInfo) -> str:
    return (
        f"a round trip to the {side} takes {info.rtt_seconds * 1000:.3g} ms, and"
        f" {info.retransmits} of {info.segments_sent} segments were sent again"
    )


def _answer_words(record: ConnectionRecord, answer: float) -> str:
    took = f"{answer * 1000:.3g} ms" if answer < 1 else format_duration(answer)
    if record.first_down is None:
        return f"the backend has not answered for {took}"
    return f"the backend's first byte took {took}"
