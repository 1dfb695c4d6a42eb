"""AMP's boxes, taken one at a time out of what a client has sent.

Twisted's parser calls with every box of a received chunk in one go: 60 kB of requests are a few
thousand answers, whatever ``pauseProducing`` says in between.
"""

from __future__ import annotations

from twisted.protocols.amp import AmpBox

BOX_BYTES = 256 * 1024
"""The most that a request may be long."""
BOX_KEYS = 64
"""The most keys that a request may have; no command has more than twelve."""
_KEY_BYTES = 255  # the first byte of a key's length is 0


class MalformedBox(Exception):
    """This is no box, or too long a one."""


class BoxReader:
    """Received bytes, and the boxes in them."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._box = AmpBox()
        self._keys = 0
        self._box_bytes = 0  # of the pairs that are in the box already

    def __len__(self) -> int:
        """How many bytes were received and are not in a box yet."""
        return len(self._received)

    def add(self, data: bytes) -> None:
        """Append what was received."""
        self._received += data

    def take(self) -> AmpBox | None:
        """The next whole box; None if it has not come yet.

        :raises MalformedBox: there will be none.
        """
        received = self._received
        while len(received) >= 2:
            key_length = received[0] << 8 | received[1]
            if not key_length:
                del received[:2]
                box, self._box = self._box, AmpBox()
                self._keys = self._box_bytes = 0
                return box
            if key_length > _KEY_BYTES:
                raise MalformedBox("a key is longer than 255 bytes")
            key_ends = 2 + key_length
            if len(received) < key_ends + 2:
                break
            value_ends = key_ends + 2 + (received[key_ends] << 8 | received[key_ends + 1])
            self._keys += 1
            if self._keys > BOX_KEYS or self._box_bytes + value_ends > BOX_BYTES:
                raise MalformedBox(f"more than {BOX_KEYS} keys or {BOX_BYTES} bytes")
            if len(received) < value_ends:
                self._keys -= 1
                break
            self._box[bytes(received[2:key_ends])] = bytes(received[key_ends + 2 : value_ends])
            self._box_bytes += value_ends
            del received[:value_ends]
        return None
