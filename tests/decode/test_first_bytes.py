"""Which decoder gets a connection's first bytes, and what its record says then."""

from __future__ import annotations

import pytest

from monconn.decode.first_bytes import decoding
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord, Fact

CLIENT, SERVER = b"SSH-2.0-OpenSSH_9.2p1\r\n", b"SSH-2.0-dropbear\r\n"
BOTH = {
    "protocol": "ssh",
    "ssh_client": "SSH-2.0-OpenSSH_9.2p1",
    "ssh_server": "SSH-2.0-dropbear",
}


def a_record() -> ConnectionRecord:
    return ConnectionRecord(
        id=1,
        service="web",
        client="192.0.2.1:40000",
        client_ip="192.0.2.1",
        listener="127.0.0.1:80",
        backend="127.0.0.1:8080",
        opened_at=1e9,
        opened=0.0,
    )


def decoded(*chunks: tuple[Direction, bytes]) -> dict[str, Fact]:
    """The facts that a connection has at its end."""
    record, now = a_record(), decoding("auto")
    for direction, data in chunks:
        if now is not None:
            now = now.chunk(record, direction, data)
    if now is not None:
        now.ended(record)
    return dict(record.facts)


@pytest.mark.parametrize(
    "chunks",
    [
        [("up", CLIENT), ("down", SERVER)],
        [("down", SERVER), ("up", CLIENT)],
        [("up", CLIENT[:1]), ("down", SERVER[:5]), ("up", CLIENT[1:]), ("down", SERVER[5:])],
    ],
)
def test_both_sides_of_ssh_are_told(chunks: list[tuple[Direction, bytes]]) -> None:
    assert decoded(*chunks) == BOTH
