"""How an answer is written: piece by piece as the client takes them, or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import h11
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

from monconn.net.http.messages import Stream

PIECE_BYTES = 1 << 16
"""Of an answer, written at a time: a client that does not read costs no more memory than this, as
the answer itself is shared."""
MOST_UNSENT_BYTES = 1 << 20
"""What a stream may write although its client is slow; one that writes more is ended."""


class Client(Protocol):
    """The connection that is written to, as far as it concerns this."""

    transport: Any

    def touch(self) -> None:
        """It has taken a piece of its answer."""

    def answered(self) -> None:
        """The whole answer is written."""

    def stream_stalled(self) -> None:
        """It does not take what a stream has written."""

    def set_no_deadline(self) -> None:
        """It has taken all of it."""

    def stream_finished(self, rest: bytes) -> None:
        """A stream has ended in order.

        :param rest: the end of the body, which is still to be written.
        """

    def abort(self) -> None:
        """Disconnect at once."""


def in_pieces(exchange: h11.Connection, head: bytes, body: bytes) -> Iterator[bytes]:
    """An answer of one request, with its head, as it is written piece by piece."""
    yield head + exchange.send(h11.Data(data=body[:PIECE_BYTES]))
    for start in range(PIECE_BYTES, len(body), PIECE_BYTES):
        yield exchange.send(h11.Data(data=body[start : start + PIECE_BYTES]))
    yield exchange.send(h11.EndOfMessage())


@implementer(IPullProducer)
class PieceProducer:
    """Writes an answer piece by piece, as the client takes them."""

    def __init__(self, client: Client, pieces: Iterator[bytes]) -> None:
        self._client = client
        self._pieces = pieces

    def resumeProducing(self) -> None:
        """Implements ``IPullProducer.resumeProducing``: the kernel has what was written."""
        # An empty piece would not be asked after: nothing of it is sent.
        piece = next(filter(None, self._pieces), None)
        self._client.touch()
        if piece is not None:
            self._client.transport.write(piece)
        else:
            self._client.transport.unregisterProducer()
            self._client.answered()

    def stopProducing(self) -> None:
        """Implements ``IProducer.stopProducing``: the connection is lost."""


@implementer(IPushProducer)
class ClientWriter:
    """Where a stream writes to."""

    def __init__(self, client: Client, exchange: h11.Connection, stream: Stream) -> None:
        self._client = client
        self._exchange = exchange
        self._stream = stream
        self._is_over = False
        self._unsent_bytes = 0
        self.is_slow = False
        """Implements ``StreamWriter.is_slow``."""

    def write(self, data: bytes) -> None:
        """Implements ``StreamWriter.write``."""
        if self._is_over or not data:
            return
        if self.is_slow:
            self._unsent_bytes += len(data)
            if self._unsent_bytes > MOST_UNSENT_BYTES:
                self._client.abort()
                return
        self._client.transport.write(self._exchange.send(h11.Data(data=data)))

    def finish(self) -> None:
        """Implements ``StreamWriter.finish``."""
        if not self._is_over:
            self._is_over = True
            self._client.stream_finished(self._exchange.send(h11.EndOfMessage()))

    def stop(self) -> None:
        """The client has left."""
        if not self._is_over:
            self._is_over = True
            self._stream.stop()

    def pauseProducing(self) -> None:
        """Implements ``IPushProducer.pauseProducing``: the client is slow."""
        if not self.is_slow:
            self.is_slow = True
            self._unsent_bytes = 0
            self._client.stream_stalled()

    def resumeProducing(self) -> None:
        """Implements ``IPushProducer.resumeProducing``: it has taken all that was written."""
        if self.is_slow and not self._is_over:
            self.is_slow = False
            self._client.set_no_deadline()
            self._stream.resume()

    def stopProducing(self) -> None:
        """Implements ``IProducer.stopProducing``: the connection is lost."""
