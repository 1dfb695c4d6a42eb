"""PostgreSQL: user and database of a start-up, which may come after requests for encryption.

Source: PostgreSQL's manual, *Frontend/Backend Protocol*, *Message Flow* and *Message Formats*.
"""

from __future__ import annotations

import struct

from monconn.decode import tls
from monconn.decode.interfaces import MOST_BYTES, NEED_MORE, Outcome, text
from monconn.model.record import Fact

_HEAD = struct.Struct(">II")  # the length, itself included; the version, or what takes its place
_REQUESTS = (_HEAD.pack(8, 80877103), _HEAD.pack(8, 80877104))
"""For TLS and for GSSAPI; a client may ask for one after the other."""
_CANCEL, _CANCEL_BYTES = 80877102, range(16, 269)
"""With a key of 4 to 256 bytes."""
_STARTUP_BYTES = range(9, 10_001)
"""The server refuses longer ones (MAX_STARTUP_PACKET_LENGTH of libpq/pqcomm.h)."""
_MAJOR_VERSION = 3
_POSTGRESQL: dict[str, Fact] = {"protocol": "postgresql"}


def decode(up: bytes, down: bytes, is_all: bool) -> Outcome | None:
    """Decode a start-up; see :data:`~monconn.decode.interfaces.Decoder`.

    If the server agrees to TLS, a ClientHello follows; what follows GSSAPI's agreement is left.
    """
    is_all = is_all or len(up) >= MOST_BYTES
    rest = up
    while rest.startswith(_REQUESTS) and len(up) - len(rest) < 8 * len(_REQUESTS):
        rest = rest[8:]
    outcome = _decode_rest(rest, is_all)
    if len(rest) == len(up):
        return outcome
    if outcome is None and rest.startswith(tls.HANDSHAKE):
        outcome = tls.decode(rest, b"", is_all)
    if outcome is None:
        return Outcome(_POSTGRESQL)
    return Outcome({**outcome.facts, **_POSTGRESQL}, outcome.is_done)


def _decode_rest(rest: bytes, is_all: bool) -> Outcome | None:
    """Decode what is neither of the requests."""
    if len(rest) < _HEAD.size:
        return NEED_MORE if rest[:1] in (b"\0", b"") and not is_all else None
    size, version = _HEAD.unpack_from(rest)
    if version == _CANCEL and size in _CANCEL_BYTES:
        return Outcome(_POSTGRESQL)
    if version >> 16 != _MAJOR_VERSION or size not in _STARTUP_BYTES:
        return None
    if len(rest) < size and not is_all:
        return NEED_MORE
    # Names and values in turn, each with a NUL behind it; what has none has been cut.
    texts = rest[_HEAD.size : size].split(b"\0")[:-1]
    given = dict(zip(texts[::2], texts[1::2], strict=False))
    # A user must be there (Kafka's requests may begin as a start-up does, and have none).
    if not given.get(b"user"):
        return None
    facts = {**_POSTGRESQL, "postgresql_user": text(given[b"user"])}
    if given.get(b"database"):  # left out, it has the user's name
        facts["postgresql_database"] = text(given[b"database"])
    return Outcome(facts)
