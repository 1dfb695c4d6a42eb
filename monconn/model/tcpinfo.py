"""What Linux knows of a TCP connection: ``struct tcp_info`` of ``linux/tcp.h``, field by field."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

# After eight bytes of small fields: rto, mss, what is under way, times, path and window, …
_LAYOUT = struct.Struct("=8x 4I 5I 4I 8I 2I I 4Q 2I 4I Q 3Q 2I 2Q 4I")
_MICROSECONDS = 1e-6


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

    def snapshot(self) -> dict[str, Any]:
        """The figures as plain values for JSON."""
        return self._asdict()


def parse(raw: bytes) -> TcpInfo:
    """Decode a ``struct tcp_info``; fields that an older kernel does not have are 0."""
    fields = _LAYOUT.unpack(raw[: _LAYOUT.size].ljust(_LAYOUT.size, b"\0"))
    return TcpInfo(
        rtt_seconds=_seconds(fields[15]),
        rtt_variation_seconds=_seconds(fields[16]),
        min_rtt_seconds=0.0 if fields[31] == _UNKNOWN else _seconds(fields[31]),
        retransmits=fields[23],
        segments_sent=fields[33],
        unacked_segments=fields[4],
        lost_segments=fields[6],
        cwnd_segments=fields[18],
        mss_bytes=fields[2],
        not_sent_bytes=fields[30],
        delivery_rate=fields[34],
        busy_seconds=_seconds(fields[35]),
        window_limited_seconds=_seconds(fields[36]),
    )


def decode(raw: bytes) -> dict[str, Any]:
    """The figures of a ``struct tcp_info`` as plain values for JSON."""
    return parse(raw).snapshot()


_UNKNOWN = 2**32 - 1


def _seconds(microseconds: int) -> float:
    return round(microseconds * _MICROSECONDS, 6)
