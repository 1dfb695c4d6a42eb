"""SSH: the identification strings of both sides (RFC 4253, 4.2)."""

from __future__ import annotations

from monconn.decode.interfaces import NEED_MORE, Outcome, text
from monconn.model.record import Fact

_PREFIX = b"SSH-"
_MOST_BANNER = 255
"""With CR and LF."""


def decode(up: bytes, down: bytes, is_all: bool) -> Outcome | None:
    """Decode the identification strings; see :data:`~monconn.decode.interfaces.Decoder`."""
    client, server = _banner(up), _banner(down)
    if client is None or server is None:
        return None
    facts: dict[str, Fact] = {}
    if client:
        facts["ssh_client"] = text(client)
    if server:
        facts["ssh_server"] = text(server)
    if not facts:
        return NEED_MORE
    return Outcome({"protocol": "ssh", **facts}, bool(client and server))


def _banner(data: bytes) -> bytes | None:
    """A side's banner; empty if it has not come, and None if it is none."""
    if not data.startswith(_PREFIX[: len(data)]):
        return None
    end = data.find(b"\n", 0, _MOST_BANNER)
    if end < 0:
        return None if len(data) >= _MOST_BANNER else b""
    return data[:end].rstrip(b"\r")
