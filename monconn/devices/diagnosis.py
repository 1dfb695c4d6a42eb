"""Diagnosis of a slow connection: the network of one side, or the program at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from monconn.model import tcpinfo
from monconn.model.reasons import CLOSED_REASONS, LOST_REASONS, Reason, Side
from monconn.model.record import ConnectionRecord, iso_time
from monconn.model.tcpinfo import TcpInfo
from monconn.units import format_duration

SLOW_ROUND_TRIP_SECONDS = 0.1
SLOW_ANSWER_SECONDS = 0.2
LONG_LIMITED_SECONDS = 0.5
MANY_RETRANSMITS = 0.02
"""The share of segments with data that is called a loss."""
_FEWEST_RETRANSMITS = 3
_RETRANSMIT_SECONDS = 0.2
"""The least delay by a lost segment: Linux' shortest retransmission timeout (TCP_RTO_MIN)."""
LONG_WINDOW_LIMITED_SECONDS = 0.5
"""How long the peer's receive window must have been full before its reading is called slow."""
LARGE_SHARE = 0.2
"""The share of the time with something to send that this must be, too."""
_FAILED_TO_CONNECT: dict[Reason, str] = {
    "backend_refused": "the backend refused",
    "backend_unreachable": "the backend was found unreachable",
    "error": "the attempt to connect to the backend failed",
}
"""Ends of an attempt to connect that say something else than that it takes long."""


@attrs.frozen
class _Suspect:
    name: str
    seconds: float
    """An estimate of the delay that it causes."""
    because: str


def diagnose(record: ConnectionRecord, now: float) -> dict[str, Any]:
    """Name the most likely cause of a connection's slowness, with the figures.

    :param record: of a connection that is closed, or whose ``tcp_info`` was just read.
    :param now: monotonic seconds.
    :returns: ``looks_like``: ``slow network to the client``, ``slow network to the backend``,
        ``slow client``, ``slow backend``, ``slow to connect``, ``limited by bandwidth``,
        ``nothing slow`` or ``unknown``; before all of these, ``client unreachable`` or
        ``backend unreachable``;
        ``because``: the figures as text, those of the cause first.
    """
    suspects = sorted(_suspects(record, now), key=lambda each: each.seconds, reverse=True)
    figures = [*_figures(record, now)]
    if not suspects:
        looks_like = "nothing slow" if figures else "unknown"
        return {"looks_like": looks_like, "because": figures}
    because = [each.because for each in suspects]
    return {
        "looks_like": suspects[0].name,
        "because": because + [each for each in figures if each not in because],
    }


def _suspects(record: ConnectionRecord, now: float) -> Iterator[_Suspect]:
    backend_rtt = 0.0
    # One that has ended owes nothing any more, however long ago that was.
    may_answer = record.backend_end == "none" or record.closed is not None
    for side, raw in _measured(record):
        yield from _unreachable_suspect(record, side, raw, now)
        info = tcpinfo.parse(raw)
        if side == "backend":
            backend_rtt = info.rtt_seconds
        yield from _network_suspect(side, info)
        if side == "client" or may_answer:
            yield from _reader_suspect(side, info)
    limited = record.all_limited_seconds(now)
    if limited >= LONG_LIMITED_SECONDS:
        text = f"a side was not read from for {format_duration(limited)}: its bandwidth was used up"
        yield _Suspect("limited by bandwidth", limited, text)
    answer = _answer_seconds(record, now)
    if may_answer and answer is not None and answer - backend_rtt >= SLOW_ANSWER_SECONDS:
        yield _Suspect("slow backend", answer - backend_rtt, _answer_text(record, answer))
    connecting = _connect_seconds(record, now)
    if connecting - backend_rtt >= SLOW_ANSWER_SECONDS and not _has_failed_to_connect(record):
        yield _Suspect("slow to connect", connecting, _connect_text(record, connecting))


def _measured(record: ConnectionRecord) -> Iterator[tuple[Side, bytes]]:
    if record.client_tcp is not None:
        yield "client", record.client_tcp
    if record.backend_tcp is not None:
        yield "backend", record.backend_tcp


def _unreachable_suspect(
    record: ConnectionRecord, side: Side, raw: bytes, now: float
) -> Iterator[_Suspect]:
    since = record.unreachable_since(side)
    if since is not None:
        seconds = (now if record.closed is None else record.closed) - since
        at = iso_time(record.opened_at + since - record.opened)
        text = (
            f"{side} unreachable since {at}, for {format_duration(seconds)}:"
            f" {tcpinfo.unanswered(raw)} questions (bytes sent again, probes) are unanswered"
        )
    elif record.reason is not None and LOST_REASONS.get(record.reason) == side:
        # The kernel has given up (ETIMEDOUT), and its counters of unanswered probes tell nothing.
        heard = record.client_heard if side == "client" else record.backend_heard
        since = record.last_activity if heard is None else heard
        at = iso_time(record.opened_at + since - record.opened)
        text = f"{side} unreachable since {at}: nothing was heard of it after that"
    else:
        return
    # Any delay is of no account beside it.
    yield _Suspect(f"{side} unreachable", float("inf"), text)


def _answer_seconds(record: ConnectionRecord, now: float) -> float | None:
    """As of the record; None of a backend that has ended without any answer."""
    if record.first_down is None and record.backend_end != "none":
        return None
    return record.answer_seconds(now)


def _network_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    ratio = info.retransmits / max(info.segments_sent, 1)
    # A ratio over 1: SYNs were retransmitted, which counts as time to connect instead.
    loses = info.retransmits >= _FEWEST_RETRANSMITS and MANY_RETRANSMITS <= ratio <= 1
    if not loses and info.rtt_seconds < SLOW_ROUND_TRIP_SECONDS:
        return
    seconds = info.rtt_seconds
    if loses:
        seconds += ratio * max(_RETRANSMIT_SECONDS, 2 * info.rtt_seconds)
    yield _Suspect(f"slow network to the {side}", seconds, _network_text(side, info))


def _reader_suspect(side: Side, info: TcpInfo) -> Iterator[_Suspect]:
    least = max(LONG_WINDOW_LIMITED_SECONDS, info.busy_seconds * LARGE_SHARE)
    if info.window_limited_seconds >= least:
        seconds = info.window_limited_seconds
        text = f"the {side} was slow to read what it was sent: {format_duration(seconds)} in all"
        yield _Suspect(f"slow {side}", seconds, text)


def _figures(record: ConnectionRecord, now: float) -> Iterator[str]:
    if record.reason is not None and _has_failed_to_connect(record):
        took = format_duration(_connect_seconds(record, now))
        yield f"{_FAILED_TO_CONNECT[record.reason]} after {took}"
    for side, raw in _measured(record):
        yield _network_text(side, tcpinfo.parse(raw))
    answer = _answer_seconds(record, now)
    if answer is not None:
        yield _answer_text(record, answer)
    is_awaited = record.closed is None and record.backend_end == "none"
    if is_awaited and (record.last_up or 0.0) > (record.last_down or now):
        waiting = format_duration(now - (record.last_up or now))
        yield f"the backend has sent nothing for {waiting} since the client's last bytes"


# -- what a device's connections have in common

FEWEST_ENDS = 4
"""The fewest ends of the same kind that are called a pattern."""
MOST_ENDS = 50
"""The last ends that are looked at: an older pattern may be over."""
_MOST = 0.75
"""The share of ends that are most of them."""
_ALIKE = 1.25
"""How many times the shortest of several times the longest may be for them to be the same."""
_LEAST_IDLE_SECONDS = 20.0
_LEAST_IDLE_SHARE = 0.5
_RESETS = ("client_reset", "backend_reset")
_CUTS_IDLE = (
    "The same silence before each reset: {}, or something on the way, cuts idle connections."
    " Keepalive or heartbeats at shorter intervals prevent that."
)
_NOTICED = (
    "That silence is what it takes to notice (keepalive, or a time limit) that nobody answers:"
    " it had vanished before."
)
_AFTER_SILENCE = {
    "client_reset": _CUTS_IDLE.format("the client"),
    "backend_reset": _CUTS_IDLE.format("the backend"),
    "client_closed": "The same silence before each end: an idle timeout of the client.",
    "backend_closed": "The same silence before each end: an idle timeout of the backend.",
    "client_lost": _NOTICED,
    "backend_lost": _NOTICED,
}
"""What the same silence before each end says."""


@attrs.frozen
class DeviceEnd:
    """The end of one connection of a device."""

    reason: str
    lasted_seconds: float
    idle_seconds: float
    """Before the end, without a byte in either direction."""
    away_seconds: float | None = None
    """From the end to the device's next connection; None if there is none."""


def device_pattern(ends: Sequence[DeviceEnd]) -> list[str]:
    """What a device's last connections have in common, in sentences; none if they have nothing.

    :param ends: newest first.
    """
    ends = ends[:MOST_ENDS]
    if not ends:
        return []
    counts = Counter(each.reason for each in ends)
    reason, count = counts.most_common(1)[0]
    if count < FEWEST_ENDS or count < _MOST * len(ends):
        return []
    alike = [each for each in ends if each.reason == reason]
    which = f"All of its last {len(ends)} connections"
    if count < len(ends):
        which = f"Of its last {len(ends)} connections {count}"
    text = begin = f"{which} ended with {reason}"
    lasted, idle = [each.lasted_seconds for each in alike], [each.idle_seconds for each in alike]
    same_idle = (
        _are_alike(idle)
        and min(idle) >= _LEAST_IDLE_SECONDS
        and min(idle) >= _LEAST_IDLE_SHARE * max(lasted)
    )
    if _are_alike(lasted):
        text += f", each after {_span(lasted)}"
    if same_idle:
        text += f", {'when' if _are_alike(lasted) else 'each when'} no byte had moved for"
        text += f" {_span(idle)}"
    away = [each.away_seconds for each in alike if each.away_seconds is not None]
    if len(away) >= FEWEST_ENDS and _are_alike(away):
        text += f"; it is back after {_span(away)}"
    if text == begin and reason in CLOSED_REASONS.values():
        return []  # that they ended in good order is nothing to point out
    sentences = [f"{text}."]
    if same_idle and reason in _AFTER_SILENCE:
        sentences.append(_AFTER_SILENCE[reason])
    elif not same_idle and _are_alike(lasted) and reason in _RESETS:
        sentences.append("The same age at each end points to a timer, and not to the network.")
    return sentences


def _are_alike(seconds: Sequence[float]) -> bool:
    """Whether all are nearly the same, and long enough for that to say something."""
    return bool(seconds) and min(seconds) >= 1.0 and max(seconds) <= _ALIKE * min(seconds)


def _span(seconds: Sequence[float]) -> str:
    shortest, longest = format_duration(min(seconds)), format_duration(max(seconds))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _network_text(side: Side, info: TcpInfo) -> str:
    return (
        f"a round trip to the {side} takes {format_duration(info.rtt_seconds)}, and"
        f" {info.retransmits:,} segments were sent again, of {info.segments_sent:,} with data"
    )


def _answer_text(record: ConnectionRecord, answer: float) -> str:
    took = format_duration(answer)
    if record.first_down is None:
        return f"the backend has not answered for {took}"
    return f"the backend's first byte took {took}"


def _connect_seconds(record: ConnectionRecord, now: float) -> float:
    if record.connect_seconds is not None:
        return record.connect_seconds
    return (now if record.closed is None else record.closed) - record.opened


def _has_failed_to_connect(record: ConnectionRecord) -> bool:
    return record.connected is None and record.reason in _FAILED_TO_CONNECT


def _connect_text(record: ConnectionRecord, seconds: float) -> str:
    if record.connected is None:
        return f"the backend has not accepted for {format_duration(seconds)}"
    return f"the backend took {format_duration(seconds)} to accept"
