"""As much of MQTT 3.1.1 as the devices of ``monconn demo`` and their broker speak.

Section numbers are those of the OASIS standard *MQTT Version 3.1.1*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 12, 13, 14
_AT_LEAST_ONCE = 0x02  # QoS 1 in the flags of a PUBLISH (3.3.1.2)
_MOST_BYTES = 1024 * 1024


class Packets:
    """Splits what comes from one side into packets, wherever chunks begin and end."""

    def __init__(self) -> None:
        self._received = bytearray()

    def of(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The type, the flags and the rest of each packet that is complete by now.

        :raises ValueError: this is not MQTT, or a packet is longer than any of ours.
        """
        self._received += data
        while (head := _head(self._received)) is not None:
            begin, length = head
            end = begin + length
            if len(self._received) < end:
                return
            first, body = self._received[0], bytes(self._received[begin:end])
            del self._received[:end]
            yield first >> 4, first & 0x0F, body


def _head(data: bytearray) -> tuple[int, int] | None:
    """Where the rest of the first packet begins, and its length (2.2.3); None if more must come."""
    length = 0
    for at, byte in enumerate(data[1:5]):
        length |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            if length > _MOST_BYTES:
                raise ValueError("a packet is too long")
            return 2 + at, length
    if len(data) >= 5:
        raise ValueError("a length has no end")
    return None


def _packet(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    length, left = bytearray(), len(body)
    while True:
        left, low = left >> 7, left & 0x7F
        length.append(low | (0x80 if left else 0))
        if not left:
            return bytes([kind << 4 | flags]) + length + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


# -- what a device says


def connect(client_id: str, keepalive_seconds: int, user: str) -> bytes:
    """CONNECT of a clean session, with a user name and no password (3.1)."""
    head = _text("MQTT") + bytes([4, 0b10000010]) + struct.pack("!H", keepalive_seconds)
    return _packet(CONNECT, head + _text(client_id) + _text(user))


def subscribe(topic: str) -> bytes:
    """SUBSCRIBE to one topic, at most once each message (3.8)."""
    return _packet(SUBSCRIBE, struct.pack("!H", 1) + _text(topic) + b"\0", flags=2)


def publish(topic: str, payload: bytes, packet_id: int | None = None) -> bytes:
    """PUBLISH (3.3).

    :param packet_id: has the other side acknowledge it (QoS 1).
    """
    if packet_id is None:
        return _packet(PUBLISH, _text(topic) + payload)
    head = _text(topic) + struct.pack("!H", packet_id)
    return _packet(PUBLISH, head + payload, flags=_AT_LEAST_ONCE)


def ping() -> bytes:
    """PINGREQ (3.12)."""
    return _packet(PINGREQ)


def disconnect() -> bytes:
    """DISCONNECT (3.14)."""
    return _packet(DISCONNECT)


# -- what the broker says


def accepted() -> bytes:
    """CONNACK of a connection that is accepted (3.2)."""
    return _packet(CONNACK, b"\0\0")


def acknowledged(packet_id: bytes) -> bytes:
    """PUBACK (3.4)."""
    return _packet(PUBACK, packet_id)


def subscribed(body: bytes) -> bytes:
    """SUBACK of a SUBSCRIBE (3.9)."""
    return _packet(SUBACK, body[:2] + b"\0")


def alive() -> bytes:
    """PINGRESP (3.13)."""
    return _packet(PINGRESP)


def published(flags: int, body: bytes) -> tuple[str, bytes]:
    """The topic of a PUBLISH, and its packet id: empty if it need not be acknowledged."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode(errors="replace")
    return topic, body[end : end + 2] if flags & _AT_LEAST_ONCE else b""


def subscribed_topic(body: bytes) -> str:
    """The first topic of a SUBSCRIBE."""
    return body[4 : 4 + int.from_bytes(body[2:4], "big")].decode(errors="replace")
