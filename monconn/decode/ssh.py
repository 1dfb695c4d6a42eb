"""SSH: the identification strings of both sides (RFC 4253, 4.2)."""

from __future__ import annotations

import re

from monconn.decode.interfaces import MOST_BYTES, NEED_MORE, Outcome, text
from monconn.model.record import Fact

_PREFIX = b"SSH-"
_MOST_CHARACTERS = 253  # before CR and LF
_BANNER = re.compile(rb"(SSH-[^\r\n]{1,%d})\r?\n" % _MOST_CHARACTERS)
# A server may send other lines before it.
_SERVER_BANNER = re.compile(rb"^" + _BANNER.pattern, re.MULTILINE)
_PART_OF_BANNER = re.compile(rb"SSH-[^\r\n]{0,%d}\r?" % _MOST_CHARACTERS)


def decode(up: bytes, down: bytes, is_all: bool) -> Outcome | None:
    """Decode the identification strings; see :data:`~monconn.decode.interfaces.Decoder`."""
    client, server = _BANNER.match(up), _SERVER_BANNER.search(down)
    if not client:
        is_part = _PREFIX.startswith(up) or _PART_OF_BANNER.fullmatch(up)
        if not is_part or (not up and not down.startswith(_PREFIX[: len(down)])):
            return None
    if not (client or server):
        return NEED_MORE
    facts: dict[str, Fact] = {"protocol": "ssh"}
    if client:
        facts["ssh_client"] = text(client[1])
    if server:
        facts["ssh_server"] = text(server[1])
    is_done = client is not None and (server is not None or len(down) >= MOST_BYTES)
    return Outcome(facts, is_done)
