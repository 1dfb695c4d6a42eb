"""Writing to Twisted's transports in fewer and larger steps, and without waiting for a turn."""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL.SSL import Error, WantReadError
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOProtocol

from monconn.net.sockets import buffered_bytes, send_buffer_room

BUFFER_BYTES = 1 << 16
"""How much a transport of Twisted's buffers before it pauses its producer."""
_RECORD_BYTES = 1 << 14
"""The most that one TLS record carries (RFC 8446, section 5.1)."""
_RECORD_OVERHEAD_BYTES = 128
"""More than any cipher adds to a record."""


class Writer:
    """Passes bytes to the kernel at once, which Twisted would do in a later turn of the reactor.

    :param transport: takes what the kernel does not.
    :param descriptor: the socket transport beneath, if there is one.
    :param sock: its socket.
    """

    __slots__ = ("_descriptor", "_sends_at_once", "_sock", "_transport")

    def __init__(self, transport: Any, descriptor: Any, sock: Any) -> None:
        self._transport = transport
        self._descriptor = descriptor
        self._sock = sock
        # Writing past the transport is correct only if it is the socket's own: TLS that was begun
        # on a plain transport (startTLS), or a wrapper, would be bypassed. UNIX transports send
        # with sendmsg, which may carry descriptors that must stay with their bytes.
        is_direct = transport is descriptor and not ISSLTransport.providedBy(transport)
        self._sends_at_once = is_direct and sock is not None and sock.family != socket.AF_UNIX

    def write(self, data: bytes | memoryview) -> None:
        """Deliver bytes; a memoryview may be reused as soon as this returns."""
        sent = self._send(data) if self._sends_at_once else 0
        if sent < len(data):
            self._transport.write(bytes(data[sent:]))

    def _send(self, data: bytes | memoryview) -> int:
        """Pass bytes to the kernel.

        :returns: how many it took.
        """
        if buffered_bytes(self._descriptor):
            return 0
        try:
            return self._sock.send(data)  # type: ignore[no-any-return]
        except OSError:  # EAGAIN, or a failure: the transport's own write meets it and acts on it
            return 0

    def room(self) -> int:
        """About how many bytes can be written at once."""
        if buffered_bytes(self._descriptor):
            return 0
        return max(send_buffer_room(self._sock) if self._sends_at_once else 0, BUFFER_BYTES)


class TlsWriter(Writer):
    """Encrypts a chunk whole, where Twisted encrypts and writes each 16-KiB record by itself.

    Twisted also holds small writes until a later turn, and they would be overtaken by ours: so
    everything that is written to the TLS transport must go through here.

    :param transport: does the handshake, the reading and the end; it also takes what cannot be
        encrypted yet.
    :param descriptor: see :class:`Writer`.
    :param sock: see :class:`Writer`.
    """

    __slots__ = ("_connection", "_tls")

    def __init__(self, transport: TLSMemoryBIOProtocol, descriptor: Any, sock: Any) -> None:
        super().__init__(transport.transport, descriptor, sock)
        self._tls = transport
        self._connection: Any = transport.getHandle()

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt bytes, and pass the records to the kernel at once."""
        left = memoryview(data)
        while left:
            try:
                sent = self._connection.send(left[:_RECORD_BYTES])
            except Error:  # usually WantRead: the handshake is not done; the transport buffers
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
            pass  # the BIO is empty


def writer_to(transport: Any, descriptor: Any, sock: Any) -> Writer:
    """The right writer for a connected transport; see :class:`Writer` for the parameters."""
    if isinstance(transport, TLSMemoryBIOProtocol):
        return TlsWriter(transport, descriptor, sock)
    return Writer(transport, descriptor, sock)
