from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from monconn.model.tcpinfo import (
    NOT_SENT,
    UNACKED,
    decode,
    heard_seconds,
    parse,
    unanswered,
    unanswered_seconds,
)
from monconn.net.sockets import TCP_INFO_BYTES, tcp_info, track_errors
from tests.net.test_sockets import Descriptor, send_for_ever, tcp_pair, wait_for

PIECES = 20


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = tcp_pair()
    yield ours, peer
    ours.close()
    peer.close()


def test_a_fresh_connection_has_measured_its_round_trip(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = pair
    for _ in range(PIECES):
        ours.sendall(b"x")
        assert peer.recv(10)
    raw = tcp_info(ours)
    assert raw is not None
    info = parse(raw)
    assert 0 < info.min_rtt_seconds <= info.rtt_seconds < 1
    assert info.segments_sent == PIECES
    assert info.retransmits == info.lost_segments == info.not_sent_bytes == 0
    assert info.cwnd_segments >= 1
    assert info.mss_bytes >= 500


def test_unread_bytes_wait_in_the_kernel(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        send_for_ever(ours)
    info = parse(tcp_info(ours) or b"")
    assert info.not_sent_bytes > 0


def test_a_unix_socket_has_none() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        assert tcp_info(ours) is None


def test_a_closed_socket_has_none_unless_its_errors_are_tracked() -> None:
    ours, peer = tcp_pair()
    with peer:
        tracking = track_errors(Descriptor(ours))
        assert tracking is not None
        peer.sendall(b"x")
        wait_for(tracking, 1)
        tracking.close()
        raw = tracking.tcp_info()
        assert raw is not None
        assert parse(raw).mss_bytes > 0
        assert tcp_info(peer) is not None
    assert tcp_info(peer) is None


def test_fields_are_at_the_kernels_offsets() -> None:
    """By ``linux/tcp.h``: offsets of some fields, in bytes."""
    raw = bytearray(TCP_INFO_BYTES)
    for offset, form, value in (
        (16, "I", 1448),  # snd_mss
        (24, "I", 5),  # unacked
        (32, "I", 6),  # lost
        (68, "I", 1_500_000),  # rtt, in microseconds
        (72, "I", 250_000),  # rttvar
        (80, "I", 10),  # snd_cwnd
        (100, "I", 7),  # total_retrans
        (144, "I", 8),  # notsent_bytes
        (148, "I", 900),  # min_rtt
        (156, "I", 99),  # data_segs_out
        (160, "Q", 1 << 33),  # delivery_rate
        (168, "Q", 3_000_000),  # busy_time
        (176, "Q", 2_000_000),  # rwnd_limited
    ):
        struct.pack_into(f"={form}", raw, offset, value)
    assert decode(bytes(raw)) == {
        "rtt_seconds": 1.5,
        "rtt_variation_seconds": 0.25,
        "min_rtt_seconds": 0.0009,
        "retransmits": 7,
        "segments_sent": 99,
        "unacked_segments": 5,
        "lost_segments": 6,
        "cwnd_segments": 10,
        "mss_bytes": 1448,
        "not_sent_bytes": 8,
        "delivery_rate": 1 << 33,
        "busy_seconds": 3.0,
        "window_limited_seconds": 2.0,
    }


def test_fields_that_an_older_kernel_lacks_are_0() -> None:
    raw = bytearray(104)  # as Linux 3 has it
    struct.pack_into("=I", raw, 100, 7)
    info = parse(bytes(raw))
    assert info.retransmits == 7
    assert info.segments_sent == info.delivery_rate == info.busy_seconds == 0


def test_a_round_trip_that_was_never_measured() -> None:
    raw = bytearray(TCP_INFO_BYTES)
    struct.pack_into("=I", raw, 148, 2**32 - 1)
    assert parse(bytes(raw)).min_rtt_seconds == 0


# -- whether the peer answers


def answering(**fields: int) -> bytes:
    """A ``tcp_info`` of an established connection, with other values at the kernel's offsets."""
    raw = bytearray(TCP_INFO_BYTES)
    values = {"state": 1, "rto": 200_000} | fields
    for name, (offset, form) in {
        "state": (0, "B"),
        "retransmits": (2, "B"),
        "probes": (3, "B"),
        "backoff": (4, "B"),
        "rto": (8, "I"),
        "unacked": (24, "I"),
        "data_sent": (44, "I"),
        "data_received": (52, "I"),
        "ack_received": (56, "I"),
        "not_sent": (144, "I"),
    }.items():
        struct.pack_into(f"={form}", raw, offset, values.get(name, 0))
    return bytes(raw)


def test_heard_is_the_later_of_data_and_ack() -> None:
    assert heard_seconds(answering(data_received=5000, ack_received=250)) == 0.25
    assert heard_seconds(answering(data_received=1500, ack_received=90_000)) == 1.5


def test_where_it_says_whether_everything_is_acknowledged() -> None:
    raw = answering(unacked=1, not_sent=2)
    assert struct.unpack("=I", raw[UNACKED]) == (1,)
    assert struct.unpack("=I", raw[NOT_SENT]) == (2,)


# Each row was seen in a network namespace, and at that time: see the kernel's timers.
@pytest.mark.parametrize(
    ("fields", "count", "seconds"),
    [
        ({}, 0, 0.0),
        # Bytes: sent again after 0.2, 0.6, 1.4 and 3 s, the last time 0.17 s ago.
        ({"retransmits": 1, "rto": 400_000, "unacked": 1, "data_sent": 80}, 1, 0.28),
        ({"retransmits": 4, "rto": 3_200_000, "unacked": 1, "data_sent": 170}, 4, 3.17),
        # A FIN alone: the last bytes went out long before, or just before.
        ({"retransmits": 4, "rto": 3_200_000, "unacked": 1, "data_sent": 9_000}, 4, 3.0),
        ({"retransmits": 4, "rto": 3_200_000, "unacked": 1, "data_sent": 3_010}, 4, 3.0),
        # Window probes after 0.2, 0.4, 0.8 and 1.6 s; and one in the middle of such a row, as
        # those before it were answered.
        ({"probes": 4, "backoff": 4, "not_sent": 9}, 4, 2.8),
        ({"probes": 1, "backoff": 9, "not_sent": 9}, 1, 0.0),
        ({"probes": 2, "backoff": 5, "not_sent": 9}, 2, 3.2),
        ({"probes": 3, "backoff": 15, "not_sent": 9}, 3, 240.0),
        # Nothing can leave this machine, not even the probe: it is tried again and again.
        ({"probes": 3, "backoff": 0, "not_sent": 9}, 3, 1.0),
        # Keepalive probes, of which nothing but the number is known.
        ({"probes": 1}, 1, 0.0),
        ({"probes": 4}, 4, 30.0),
        ({"probes": 4, "backoff": 6}, 4, 30.0),  # left over from an earlier outage
        ({"probes": 1, "unacked": 1}, 1, 0.0),
    ],
)
def test_how_long_the_peer_has_not_answered(
    fields: dict[str, int], count: int, seconds: float
) -> None:
    raw = answering(**fields)
    assert unanswered(raw) == count
    assert unanswered_seconds(raw, 10.0) == pytest.approx(seconds)
