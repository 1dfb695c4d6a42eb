"""Writing over TLS: what Twisted's transport does, in fewer and larger steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL.SSL import Error, WantReadError
from twisted.protocols.tls import TLSMemoryBIOProtocol

_RECORD_BYTES = 1 << 14
"""The most that one TLS record carries (RFC 8446, section 5.1)."""
_RECORD_OVERHEAD_BYTES = 128
"""More than any cipher adds to a record."""


class TlsWriter:
    """Encrypts a chunk whole, where Twisted would read and write each of its records apart.

    Twisted also holds small writes until a later turn, and would have them overtaken by ours: so
    all that is written to the transport must go through here.

    :param transport: does the handshake, reads and ends; what cannot be encrypted now is its.
    :param send: takes encrypted bytes, to be delivered in order with those of the transport's own.
    """

    __slots__ = ("_connection", "_send", "_transport")

    def __init__(self, transport: TLSMemoryBIOProtocol, send: Callable[[bytes], object]) -> None:
        self._transport = transport
        self._connection: Any = transport.getHandle()
        self._send = send

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt bytes and send them, or leave that to the transport if it cannot be done yet."""
        left = memoryview(data)
        while left:
            try:
                sent = self._connection.send(left[:_RECORD_BYTES])
            except Error:  # before the handshake, above all
                self._flush(len(data))
                TLSMemoryBIOProtocol.write(self._transport, bytes(left))
                return
            left = left[sent:]
        self._flush(len(data))

    def _flush(self, plain_bytes: int) -> None:
        records = plain_bytes // _RECORD_BYTES + 1
        most = plain_bytes + records * _RECORD_OVERHEAD_BYTES
        try:
            while True:
                encrypted = self._connection.bio_read(most)
                self._send(encrypted)
                if len(encrypted) < most:
                    return
        except WantReadError:
            pass  # there is nothing more
