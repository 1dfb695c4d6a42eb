"""Finds out a connection's protocol by its first bytes, and has them decoded.

Whoever speaks first is asked first, and by the very first byte there are but few decoders to ask,
if any: most connections are decided with their first chunk, without any object of their own.
"""

from __future__ import annotations

import string

from monconn.decode import http, postgresql, ssh, tls
from monconn.decode.interfaces import MOST_BYTES, MOST_CHUNKS, UNKNOWN, Decoder, Decoding
from monconn.decode.mqtt import CONNECT, Mqtt
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord

_Decoders = tuple[Decoder, ...]
_BY_FIRST_BYTE: dict[str, dict[int, _Decoders]] = {
    "up": {
        # A new decoder is one line here: by each first byte that its protocol may have.
        **dict.fromkeys(string.ascii_uppercase.encode(), (http.decode,)),
        ord("S"): (ssh.decode, http.decode),
        0x16: (tls.decode,),
        0x00: (postgresql.decode,),
    },
    # Of those whose server may speak first. All others are unknown once the server has.
    "down": {
        ord("S"): (ssh.decode,),
    },
}


class FirstBytes:
    """Has no state, so that all connections share one: what they begin with.

    :param follows_mqtt: whether MQTT is followed to its end.
    """

    def __init__(self, follows_mqtt: bool = False) -> None:
        self._follows_mqtt = follows_mqtt

    def chunk(self, record: ConnectionRecord, direction: Direction, data: bytes) -> Decoding | None:
        """Implements ``Decoding.chunk``."""
        decoders = _BY_FIRST_BYTE[direction].get(data[0])
        if decoders is None:
            if data[0] == CONNECT and direction == "up":
                return Mqtt(record, self._follows_mqtt).chunk(record, direction, data)
            record.add_facts(UNKNOWN)
            return None
        first = data[:MOST_BYTES]
        for decoder in decoders:
            outcome = (
                decoder(first, b"", False) if direction == "up" else decoder(b"", first, False)
            )
            if outcome is not None:
                if outcome.is_done:
                    record.add_facts(outcome.facts)
                    return None
                return _Undecided(decoders).chunk(record, direction, data)
        record.add_facts(UNKNOWN)
        return None

    def ended(self, record: ConnectionRecord) -> None:
        """Implements ``Decoding.ended``: nobody has said anything."""


class _Undecided:
    """What a connection has whose first chunk is not enough.

    :param decoders: those that are still to be asked.
    """

    __slots__ = ("_chunks", "_decoders", "_down", "_up")

    def __init__(self, decoders: _Decoders) -> None:
        self._decoders = decoders
        self._up = self._down = b""
        self._chunks = 0

    def chunk(self, record: ConnectionRecord, direction: Direction, data: bytes) -> Decoding | None:
        """Implements ``Decoding.chunk``."""
        if direction == "up":
            self._up = (self._up + data[:MOST_BYTES])[:MOST_BYTES]
        else:
            self._down = (self._down + data[:MOST_BYTES])[:MOST_BYTES]
        self._chunks += 1
        return self if self._decode(record, self._chunks >= MOST_CHUNKS) else None

    def ended(self, record: ConnectionRecord) -> None:
        """Implements ``Decoding.ended``: there is no more than has come."""
        self._decode(record, is_all=True)

    def _decode(self, record: ConnectionRecord, is_all: bool) -> bool:
        """Ask the decoders; return whether more bytes are wanted."""
        left = []
        for decoder in self._decoders:
            outcome = decoder(self._up, self._down, is_all)
            if outcome is None:
                continue
            if outcome.facts:
                record.add_facts(outcome.facts)
                self._decoders = (decoder,)
                return not (outcome.is_done or is_all)
            left.append(decoder)
        self._decoders = tuple(left)
        if left and not is_all:
            return True
        record.add_facts(UNKNOWN)
        return False


_DECODINGS = {"auto": FirstBytes(), "mqtt": FirstBytes(follows_mqtt=True)}


def decoding(setting: str) -> Decoding | None:
    """What connections begin with, by a service's setting; None if nothing is decoded.

    :param setting: ``auto``, ``off`` or ``mqtt``.
    """
    return _DECODINGS.get(setting)
