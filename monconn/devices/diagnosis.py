"""What makes a connection slow: the network on one of its sides, or who is at the end of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from monconn.model import tcpinfo
from monconn.model.reasons import Side
from monconn.model.record import ConnectionRecord
from monconn.model.tcpinfo import TcpInfo
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
LARGE_SHARE = 0.2
"""As much of the time in which there was something to send it must be, too."""


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
        ``slow client``, ``slow backend``, ``slow to connect``, ``nothing slow`` or
        ``unknown``; ``because``: the figures in words.
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


def _suspects(record: ConnectionRecord, now: float) -> Iterator[_Suspect]:
    backend_rtt = 0.0
    for side, raw in _measured(record):
        info = tcpinfo.parse(raw)
        if side == "backend":
            backend_rtt = info.rtt_seconds
        yield from _network_suspect(side, info)
        yield from _reader_suspect(side, info)
    answer = record.answer_seconds(now)
    if answer is not None and answer - backend_rtt >= SLOW_ANSWER_SECONDS:
        yield _Suspect("slow backend", answer - backend_rtt, _answer_words(record, answer))
    connecting = _connect_seconds(record, now)
    if connecting - backend_rtt >= SLOW_ANSWER_SECONDS:
        yield _Suspect("slow to connect", connecting, _connect_words(record, connecting))


def _measured(record: ConnectionRecord) -> Iterator[tuple[Side, bytes]]:
    if record.client_tcp is not None:
        yield "client", record.client_tcp
    if record.backend_tcp is not None:
        yield "backend", record.backend_tcp


def _network_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    ratio = info.retransmits / max(info.segments_sent, 1)
    # More than were sent with data: those of the opening, which count by their time.
    loses = info.retransmits >= _FEWEST_RETRANSMITS and MANY_RETRANSMITS <= ratio <= 1
    if not loses and info.rtt_seconds < SLOW_ROUND_TRIP_SECONDS:
        return
    seconds = info.rtt_seconds
    if loses:
        seconds += ratio * max(_RETRANSMIT_SECONDS, 2 * info.rtt_seconds)
    yield _Suspect(f"slow network to the {side}", seconds, _network_words(side, info))


def _reader_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    least = max(LONG_HELD_UP_SECONDS, info.busy_seconds * LARGE_SHARE)
    if info.window_limited_seconds >= least:
        seconds = info.window_limited_seconds
        words = f"the {side} was slow to read what it was sent: {format_duration(seconds)} in all"
        yield _Suspect(f"slow {side}", seconds, words)


def _figures(record: ConnectionRecord, now: float) -> Iterator[str]:
    for side, raw in _measured(record):
        yield _network_words(side, tcpinfo.parse(raw))
    answer = record.answer_seconds(now)
    if answer is not None:
        yield _answer_words(record, answer)
    if record.closed is None and (record.last_up or 0.0) > (record.last_down or now):
        waiting = format_duration(now - (record.last_up or now))
        yield f"the backend has sent nothing for {waiting} since the client's last bytes"


def _network_words(side: Side, info: TcpInfo) -> str:
    return (
        f"a round trip to the {side} takes {info.rtt_seconds * 1000:.3g} ms, and"
        f" {info.retransmits} segments were sent again, of {info.segments_sent} with data"
    )


def _answer_words(record: ConnectionRecord, answer: float) -> str:
    took = f"{answer * 1000:.3g} ms" if answer < 1 else format_duration(answer)
    if record.first_down is None:
        return f"the backend has not answered for {took}"
    return f"the backend's first byte took {took}"


def _connect_seconds(record: ConnectionRecord, now: float) -> float:
    if record.connect_seconds is not None:
        return record.connect_seconds
    return (now if record.closed is None else record.closed) - record.opened


def _connect_words(record: ConnectionRecord, seconds: float) -> str:
    if record.connected is None:
        return f"the backend has not accepted for {format_duration(seconds)}"
    return f"the backend took {format_duration(seconds)} to accept"
