"""What a decoder is, and what follows a connection's bytes.

A *decoder* is a pure function of the first bytes of both directions. A *decoding* is what a live
connection holds while its bytes are decoded; most connections' ends with the first chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from monconn.model.reasons import Direction
from monconn.model.record import FACT_CHARACTERS, ConnectionRecord, Fact

MOST_BYTES = 4096
"""How many of each direction's first bytes are decoded. A ClientHello with post-quantum keys has
2 KiB; longer ones, with long tickets, have their server name before those (RFC 8446, 4.2.11: the
ticket's extension is the last one)."""
MOST_CHUNKS = 64
"""In how many chunks, of both directions, these may come: each of them is copied, and has the
decoder begin anew."""


UNKNOWN: Mapping[str, Fact] = {"protocol": "unknown"}
"""The facts of bytes that no decoder knows."""


class Outcome(NamedTuple):
    """What a decoder has found so far.

    The same bytes and more must give the same facts, and maybe more.

    :param facts: by their names; texts as :func:`text` makes them. With any, the bytes are this
        decoder's, and no other one is asked any more.
    :param is_done: whether further bytes tell nothing more.
    """

    facts: Mapping[str, Fact]
    is_done: bool = True


NEED_MORE = Outcome({}, is_done=False)
"""They may be this decoder's; more bytes will tell."""

Decoder: TypeAlias = Callable[[bytes, bytes, bool], "Outcome | None"]
"""Called with the first bytes up and down, each at most :data:`MOST_BYTES` and maybe none, and
whether these are all that it will get. Returns None if they are not its protocol. Never raises."""


class Decoding(Protocol):
    """Decodes one connection's bytes; one without a state of its own may be shared by many."""

    def chunk(self, record: ConnectionRecord, direction: Direction, data: bytes) -> Decoding | None:
        """Decode a chunk, and add what it tells to the record's facts.

        :param record: has counted the chunk, so that ``record.last_up`` or ``last_down`` is now.
        :param data: not empty.
        :returns: what decodes the next chunk; None if nothing need be decoded any more.
        """

    def ended(self, record: ConnectionRecord) -> None:
        """The connection is closed, and its reason known; observers are notified after this."""


def text(raw: bytes) -> str:
    """Bytes of a peer's as the text of a fact."""
    # A character is four bytes at most.
    return raw[: 4 * FACT_CHARACTERS].decode("utf-8", "replace")[:FACT_CHARACTERS]
