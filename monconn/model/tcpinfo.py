"""What Linux knows of a TCP connection: ``struct tcp_info`` of ``linux/tcp.h``, field by field."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

# The fields of TcpInfo, in the kernel's order: snd_mss; unacked; lost; rtt, rttvar; snd_cwnd;
# total_retrans; notsent_bytes, min_rtt; data_segs_out, delivery_rate, busy_time, rwnd_limited. Only
# these: each field that is decoded takes time, for both sides of each connection.
_FIGURES = struct.Struct("=16x I 4x I 4x I 32x 2I 4x I 16x I 40x 2I 4x I 3Q")
ROUND_TRIP_AND_RETRANSMITS = struct.Struct("=68x I 28x I")
"""Two fields in every kernel's: the smoothed round-trip time in µs, and segments sent again."""
_MICROSECONDS = 1e-6
_MILLISECONDS = 1e-3

# The fields that tell whether the peer answers: state, retransmits, probes, backoff; rto, unacked;
# last_data_sent; notsent_bytes (since Linux 4.6).
_ANSWERS = struct.Struct("=B x 3B 3x I 12x I 16x I 96x I")
RETRANSMITS, PROBES = 2, 3
"""Offsets of two of them, each a byte."""
UNACKED, NOT_SENT = slice(24, 28), slice(144, 148)
"""Where two fields are that are 0 if the peer has acknowledged everything: segments in flight, and
bytes not sent yet (none in kernels before 4.6). A FIN counts in either."""
HEARD = struct.Struct("=52x 2I")
"""Since when nothing was heard of the peer, in ms: last_data_recv and last_ack_recv. Either alone
misleads: the one is as old as the peer's last byte, the other up to a second old under a stream
that the peer sends."""
UNREACHABLE_SECONDS = 3.0
"""For how long a peer must not have answered to be called unreachable after the fact."""
LEAST_UNANSWERED = 2
"""How many retransmissions or probes must be unanswered: a single one may have been lost."""
_LEAST_RTO_SECONDS = 0.2
"""TCP_RTO_MIN of include/net/tcp.h."""
_MOST_RTO_SECONDS = 120.0
"""TCP_RTO_MAX of include/net/tcp.h."""
_LOCAL_RETRY_SECONDS = 0.5
"""TCP_RESOURCE_PROBE_INTERVAL: when the kernel retries what it could not send at all."""
_LEAST_KEEPALIVE_SECONDS = 1.0
"""The shortest interval between keepalive probes that the kernel takes."""
_CLOSE = 7
"""TCP_CLOSE of include/net/tcp_states.h."""


class TcpInfo(NamedTuple):
    """The figures that distinguish a slow network from a slow peer; of one socket, on our side."""

    rtt_seconds: float
    """Smoothed round-trip time; 0 before any was measured."""
    rtt_variation_seconds: float
    min_rtt_seconds: float
    retransmits: int
    """Segments sent again, ever."""
    segments_sent: int
    """Segments with data, ever."""
    unacked_segments: int
    lost_segments: int
    cwnd_segments: int
    """Congestion window."""
    mss_bytes: int
    not_sent_bytes: int
    """Bytes that the kernel holds and has not sent yet."""
    delivery_rate: int
    """Bytes a second, lately."""
    busy_seconds: float
    """How long there was anything to send."""
    window_limited_seconds: float
    """How much of that time the peer's receive window was full."""


def parse(raw: bytes) -> TcpInfo:
    """Decode a ``struct tcp_info``; fields that an older kernel does not have are 0."""
    return TcpInfo(**decode(raw))


def decode(raw: bytes) -> dict[str, Any]:
    """The fields of :class:`TcpInfo` as plain values for JSON; see :func:`parse`."""
    if len(raw) < _FIGURES.size:
        raw = raw.ljust(_FIGURES.size, b"\0")
    (
        mss,
        unacked,
        lost,
        rtt,
        rtt_variation,
        cwnd,
        retransmits,
        not_sent,
        min_rtt,
        segments_sent,
        delivery_rate,
        busy,
        window_limited,
    ) = _FIGURES.unpack_from(raw)
    # Times are microseconds. Divided, and not multiplied by 1e-6, they need no rounding: the
    # quotient is the float nearest to the decimal fraction.
    return {
        "rtt_seconds": rtt / 1e6,
        "rtt_variation_seconds": rtt_variation / 1e6,
        "min_rtt_seconds": 0.0 if min_rtt == _UNKNOWN else min_rtt / 1e6,
        "retransmits": retransmits,
        "segments_sent": segments_sent,
        "unacked_segments": unacked,
        "lost_segments": lost,
        "cwnd_segments": cwnd,
        "mss_bytes": mss,
        "not_sent_bytes": not_sent,
        "delivery_rate": delivery_rate,
        "busy_seconds": busy / 1e6,
        "window_limited_seconds": window_limited / 1e6,
    }


def heard_seconds(raw: bytes) -> float:
    """Seconds since the peer's last ACK or data."""
    return float(min(HEARD.unpack_from(raw)) * _MILLISECONDS)


def unanswered(raw: bytes) -> int:
    """How many retransmissions and probes in a row the peer has not answered."""
    return raw[RETRANSMITS] + raw[PROBES]


def is_over(raw: bytes) -> bool:
    """Whether the connection has failed, or has ended both ways with everything acknowledged."""
    return raw[0] == _CLOSE


def unanswered_seconds(raw: bytes, keepalive_seconds: float | None = None) -> float:
    """For how long at least the peer has not answered, as the kernel's timers must have run.

    From one snapshot, as often there was none before: a limit strikes, or the other side leaves.
    The timers are those of Linux' net/ipv4/tcp_timer.c.

    :param keepalive_seconds: the interval between keepalive probes; None if it is not known.
    """
    _, retransmits, probes, backoff, rto, unacked, data_sent, not_sent = _answers(raw)
    rto_seconds = rto * _MICROSECONDS
    if retransmits:
        # Each retransmission doubles icsk_rto, so rto/2 + rto/4 + … have passed before the last
        # one (more with tcp_thin_linear_timeouts or at the longest rto). That of bytes sets
        # last_data_sent; that of a FIN alone does not, so that it is at least as old as this sum.
        before_last = rto_seconds * (1 - 0.5**retransmits)
        since_last = data_sent * _MILLISECONDS
        return before_last + (since_last if since_last < before_last else 0.0)
    if not_sent and not unacked:
        # Window probes, or bytes that could not leave this machine (tcp_send_probe0). Each follows
        # after rto << backoff, and adds 1 to the backoff, which goes on growing while a peer with
        # a shut window answers: an answer sets only the number of probes to 0. If a probe could
        # not leave either, there is no backoff but a retry.
        if not backoff:
            return (probes - 1) * _LOCAL_RETRY_SECONDS
        base = max(rto_seconds, _LEAST_RTO_SECONDS)
        intervals = range(max(1, backoff - probes + 1), backoff)
        return sum(min(base * (1 << each), _MOST_RTO_SECONDS) for each in intervals)
    # Keepalive probes: only sent while nothing is queued, the first one after `idle` of silence.
    return max(0, probes - 1) * (keepalive_seconds or _LEAST_KEEPALIVE_SECONDS)


def _answers(raw: bytes) -> tuple[int, ...]:
    return _ANSWERS.unpack(raw[: _ANSWERS.size].ljust(_ANSWERS.size, b"\0"))


_UNKNOWN = 2**32 - 1
