"""What real clients send first, and what a record says of it at its end."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable

from monconn.decode.first_bytes import decoding
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord, Fact

Chunk = tuple[Direction, bytes]


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


def decoded(*chunks: Chunk) -> dict[str, Fact]:
    """The facts that a connection has at its end."""
    record, now = a_record(), decoding("auto")
    for direction, data in chunks:
        if now is not None:
            now = now.chunk(record, direction, data)
    if now is not None:
        now.ended(record)
    return dict(record.facts)


def client_hello(name: str | None = "broker.example.org", protocols: Iterable[str] = ()) -> bytes:
    """OpenSSL's, in one record."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    output = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), output, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return output.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same message in records that carry so many bytes each (RFC 8446, 5.1)."""
    message, head = hello[5:], hello[:3]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(head + struct.pack(">H", len(each)) + each for each in pieces)


def startup(version: int = 3 << 16, **parameters: str) -> bytes:
    """A PostgreSQL client's start-up."""
    pairs = [f"{name}\0{value}\0" for name, value in parameters.items()]
    body = struct.pack(">I", version) + "".join(pairs).encode() + b"\0"
    return struct.pack(">I", 4 + len(body)) + body
