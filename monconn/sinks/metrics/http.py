"""The HTTP server for metrics: two pages, with limits on clients, bytes and time.

It is a server of its own, as ``twisted.web`` serves any number of pipelined requests in one turn of
the reactor, grants each byte of a request its whole timeout anew, and stores bodies and unread
answers. Here a connection is one request and one answer, which RFC 9112 (9.6) leaves to the server;
what follows the request, a body or more requests, is discarded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.utils import formatdate
from enum import Enum
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IPullProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from monconn.clock import Clock
from monconn.sinks.metrics.encoding import Encoder
from monconn.sinks.metrics.figures import Sample

MOST_CLIENTS = 64
CLIENTS_PER_TURN = 8
"""Accepted in one turn of the reactor."""
GRACE_SECONDS = 0.05
"""How long a client is not displaced by another: one that has connected, or has just read a piece
of its answer. Newcomers wait in the kernel's queue meanwhile."""
REQUEST_SECONDS = 10.0
"""How long a request may take, from the connection's beginning."""
ANSWER_SECONDS = 30.0
"""How long an answer may take, with the wait for it."""
LINGER_SECONDS = 2.0
"""How long what a client still sends is read after its answer. To close a socket with unread bytes
resets the connection, and the client may lose the answer (RFC 9112, 9.6)."""
MOST_LINGER_BYTES = 1 << 20
MOST_HEAD_BYTES = 8192
"""Of a request's first line and headers together."""
PIECE_BYTES = 1 << 16
"""Of an answer, written at a time: a client that does not read costs no more memory than this, as
the answer itself is shared."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/([0-9])\.[0-9]" % _TOKEN)
# The spaces around the value are stripped later: a second repetition that matches them, too, would
# have every division of them tried, for 0.15 s, if a line of 8 kB ends with a control character.
_HEADER = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_ORIGIN = re.compile(rb"(?i:https?)://[^/?#]*")  # of the absolute form (RFC 9112, 3.2.2)

_PLAIN = "text/plain; charset=utf-8"
_START_PAGE = (
    b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>monconn</title></head>\n'
    b'<body><p>monconn: <a href="/metrics">metrics</a></p></body></html>\n'
)


class MetricsFactory(Factory):
    """Serves ``/metrics`` over HTTP to a bounded number of clients.

    :param sample: takes the present figures; called in the reactor's thread.
    :param reactor: an ``IReactorFromThreads``.
    :param clock: monotonic time and timers.
    """

    noisy = False
    batch = CLIENTS_PER_TURN
    retry_seconds = GRACE_SECONDS

    def __init__(self, sample: Callable[[], Sample], reactor: Any, clock: Clock) -> None:
        self.encoder = Encoder(sample, reactor, clock)
        self.clock = clock
        self.clients: dict[_Client, None] = {}
        """The one that has longest done nothing first: neither connected nor read."""

    def is_full(self) -> bool:
        """Whether all places are taken, by clients who have not had their time yet."""
        return len(self.clients) >= MOST_CLIENTS and self._displaceable() is None

    def _displaceable(self) -> _Client | None:
        """Who makes room: one that has its answer, or the one that has longest done nothing.

        One that waits for the figures never does: that is not its own doing, and soon over.
        """
        ended = (each for each in self.clients if each.phase is _Phase.ENDING)
        active = (each for each in self.clients if each.phase is not _Phase.WAITING)
        found = next(ended, None) or next(active, None)
        if found is None or found.phase is _Phase.ENDING:
            return found
        is_spared = self.clock.seconds() - found.active_at < GRACE_SECONDS
        return None if is_spared else found

    def buildProtocol(self, addr: Any) -> Any:
        """Make a client's protocol, in the place of another if all are taken.

        :returns: None, which closes the connection, if there is nobody to displace.
        """
        if len(self.clients) >= MOST_CLIENTS:
            displaced = self._displaceable()
            if displaced is None:
                return None
            displaced.leave()
        client = _Client(self)
        self.clients[client] = None
        return client

    def close(self) -> None:
        """Disconnect all clients."""
        self.encoder.stop()
        for each in tuple(self.clients):
            each.abort()


class _Phase(Enum):
    """What a client does."""

    REQUESTING = "requesting"
    WAITING = "waiting"
    """For the figures."""
    ANSWERED = "answered"
    """The answer is being written."""
    ENDING = "ending"
    """The kernel has the whole answer."""


@attrs.frozen
class _Request:
    method: bytes
    path: bytes
    accept: str

    @classmethod
    def parsed(cls, head: bytes) -> _Request | str:
        """Parse the first line and the headers; an HTTP status if that cannot be done."""
        first, *lines = re.split(rb"\r?\n", head)
        matched = _REQUEST_LINE.fullmatch(first)
        if matched is None:
            return "400 Bad Request"
        method, target, major = matched.groups()
        if major != b"1":
            return "505 HTTP Version Not Supported"
        accepts = []
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                return "400 Bad Request"
            if header[1].lower() == b"accept":
                accepts.append(header[2].strip(b" \t").decode("latin-1"))
        path = _ORIGIN.sub(b"", target, count=1) if not target.startswith(b"/") else target
        return cls(method, path.partition(b"?")[0] or b"/", ",".join(accepts))


@implementer(IPullProducer)
class _Client(Protocol):
    """One connection: a request, and its answer."""

    factory: MetricsFactory
    transport: Any

    def __init__(self, factory: MetricsFactory) -> None:
        self.factory = factory
        self.phase = _Phase.REQUESTING
        self.active_at = factory.clock.seconds()
        self._head = bytearray()
        self._lingering_bytes = 0
        self._is_head = False
        self._pieces: Iterator[bytes] = iter(())
        self._deadline: IDelayedCall | None = None

    # -- IProtocol

    def connectionMade(self) -> None:
        """Wait for the request."""
        self._set_deadline(REQUEST_SECONDS, self.abort)

    def connectionLost(self, reason: Any = None) -> None:
        """Forget the client."""
        self._forget()

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the request, or discard what follows it."""
        if self.phase is _Phase.REQUESTING:
            self._take_head(data)
        else:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > MOST_LINGER_BYTES:
                self.leave()

    # -- the request

    def _take_head(self, data: bytes) -> None:
        if not self._head:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2
        # Only what is new is searched, with the bytes that an end may have begun in.
        searched = max(len(self._head) - 3, 0)
        self._head += data[: MOST_HEAD_BYTES + 4 - len(self._head)]
        end = _END_OF_HEAD.search(self._head, searched)
        if end is None and len(self._head) <= MOST_HEAD_BYTES:
            return
        # Nothing more is read until the answer is written: what a client sends meanwhile stays
        # in the kernel, which slows the client down.
        self.transport.pauseProducing()
        self._set_deadline(ANSWER_SECONDS, self.abort)
        if end is None:
            self._refuse("431 Request Header Fields Too Large")
            return
        request = _Request.parsed(bytes(self._head[: end.start()]))
        self._head.clear()
        if isinstance(request, str):
            self._refuse(request)
        else:
            self._serve(request)

    def _serve(self, request: _Request) -> None:
        self._is_head = request.method == b"HEAD"
        if request.path not in (b"/", b"/metrics"):
            self._refuse("404 Not Found")
        elif request.method not in (b"GET", b"HEAD"):
            self._refuse("405 Method Not Allowed", "Allow: GET, HEAD\r\n")
        elif request.path == b"/":
            self._answer("200 OK", "text/html; charset=utf-8", _START_PAGE)
        else:
            self.phase = _Phase.WAITING
            self.factory.encoder.request(request.accept, self)

    def encoded(self, content_type: str, text: bytes | None) -> None:
        """Implements ``Client.encoded``."""
        if text is None:
            self._answer("500 Internal Server Error", _PLAIN, b"the metrics could not be written\n")
        else:
            self._answer("200 OK", content_type, text)

    # -- the answer

    def _refuse(self, status: str, header: str = "") -> None:
        self._answer(status, _PLAIN, f"{status[4:].lower()}\n".encode(), header)

    def _answer(self, status: str, content_type: str, body: bytes, header: str = "") -> None:
        self.phase = _Phase.ANSWERED
        head = (
            f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n{header}\r\n"
        ).encode("latin-1")
        self._pieces = _pieces(head, b"" if self._is_head else body)
        self.transport.registerProducer(self, False)  # which calls resumeProducing at once

    def resumeProducing(self) -> None:
        """Implements ``IPullProducer.resumeProducing``: the kernel has what was written."""
        piece = next(self._pieces, None)
        if piece is not None:
            clients = self.factory.clients
            clients[self] = clients.pop(self)  # to the end
            self.active_at = self.factory.clock.seconds()
            self.transport.write(piece)
            return
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self.phase = _Phase.ENDING
        self._set_deadline(LINGER_SECONDS, self.leave)
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Implements ``IProducer.stopProducing``: the connection is lost."""

    # -- the end

    def leave(self) -> None:
        """Make room: what the kernel has of an answer is still delivered, what it lacks is not."""
        if self.phase is _Phase.ENDING:
            self._forget()
            self.transport.loseConnection()
        else:
            self.abort()

    def abort(self) -> None:
        """Disconnect at once."""
        self._forget()
        self.transport.abortConnection()

    def _forget(self) -> None:
        self.factory.clients.pop(self, None)
        self.factory.encoder.forget(self)
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _set_deadline(self, seconds: float, then: Callable[[], None]) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self.factory.clock.callLater(seconds, then)


def _pieces(head: bytes, body: bytes) -> Iterator[bytes]:
    yield head + body[:PIECE_BYTES]
    for start in range(PIECE_BYTES, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
