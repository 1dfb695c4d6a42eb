"""Writing to a transport of Twisted's: what it does, in fewer and larger steps, and at once."""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL.SSL import Error, WantReadError
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOProtocol

from monconn.net.sockets import buffered_bytes, send_buffer_room

BUFFER_BYTES = 1 << 16
"""As much as a transport of Twisted's holds before it asks for a pause."""
_RECORD_BYTES = 1 << 14
"""The most that one TLS record carries (RFC 8446, section 5.1)."""
_RECORD_OVERHEAD_BYTES = 128
"""More than any cipher adds to a record."""


class Writer:
    """Gives bytes to the system, which Twisted would do in a later turn.

    :param transport: takes what the system does not.
    :param descriptor: the socket transport beneath, if there is one.
    :param sock: its socket.
    """

    __slots__ = ("_descriptor", "_sends_at_once", "_sock", "_transport")

    def __init__(self, transport: Any, descriptor: Any, sock: Any) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self._sock = sock
        # Only what nothing lies between: neither TLS that was begun on a plain transport (startTLS)
        # nor a wrapper's doing may be left out. A UNIX transport sends in a way of its own, with
        # descriptors.
        is_next = transport is descriptor and not ISSLTransport.providedBy(transport)
        self._sends_at_once = is_next and sock is not None and sock.family != socket.AF_UNIX

    def write(self, data: bytes | memoryview) -> None:
        """Deliver bytes; a memoryview is not looked at again later."""
        sent = self._send(data) if self._sends_at_once else 0
        if sent < len(data):
            self._transport.write(bytes(data[sent:]))

    def _send(self, data: bytes | memoryview) -> int:
        """Give bytes to the system; how many it took."""
        if buffered_bytes(self._descriptor):
            return 0
        try:
            return self._sock.send(data)  # type: ignore[no-any-return]
        except OSError:  # nothing is lost: the transport will meet it, too, and act on it
            return 0

    def room(self) -> int:
        """For how many bytes there is room at once, about."""
        if buffered_bytes(self._descriptor):
            return 0
        return max(send_buffer_room(self._sock) if self._sends_at_once else 0, BUFFER_BYTES)


class TlsWriter(Writer):
    """Encrypts a chunk whole, where Twisted would read and write each of its records apart.

    Twisted also holds small writes until a later turn, and would have them overtaken by ours: so
    all that is written to the TLS transport must go through here.

    :param transport: does the handshake, reads and ends; what cannot be encrypted now is its.
    :param descriptor: see :class:`Writer`.
    :param sock: see :class:`Writer`.
    """

    __slots__ = ("_connection", "_tls")

    def __init__(self, transport: TLSMemoryBIOProtocol, descriptor: Any, sock: Any) -> None:
        super().__init__(transport.transport, descriptor, sock)
        self._tls = transport
        self._connection: Any = transport.getHandle()

    def write(self, data: bytes | memoryview) -> None:
        """See :meth:`Writer.write`."""
        left = memoryview(data)
        while left:
            try:
                sent = self._connection.send(left[:_RECORD_BYTES])
            except Error:  # before the handshake, above all
                self._write_encrypted(len(data))
                TLSMemoryBIOProtocol.write(self._tls, bytes(left))
                return
            left = left[sent:]
        self._write_encrypted(len(data))

    def _write_encrypted(self, plain_bytes: int) -> None:
        records = plain_bytes // _RECORD_BYTES + 1
        most = plain_bytes + records * _RECORD_OVERHEAD_BYTES
        try:
            while True:
                encrypted = self._connection.bio_read(most)
                super().write(encrypted)
                if len(encrypted) < most:
                    return
        except WantReadError:
            pass  # there is nothing more


def writer_to(transport: Any, descriptor: Any, sock: Any) -> Writer:
    """The writer for a transport that stands; see :class:`Writer` for what it takes."""
    if isinstance(transport, TLSMemoryBIOProtocol):
        return TlsWriter(transport, descriptor, sock)
    return Writer(transport, descriptor, sock)
