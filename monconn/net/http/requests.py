"""Reads requests from the bytes of a client: their framing is h11's, within limits."""

from __future__ import annotations

import re

import attrs
import h11

from monconn.net.http.messages import Request

MOST_HEADERS = 100
"""Of a request; h11 takes 3 µs for each."""
MOST_CHUNKS = 256
"""Of a chunked body: h11 takes 20 µs for each, and a read may have thousands of one byte."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# h11 joins folded lines, which RFC 9112 (5.2) has deprecated and servers read differently, and lets
# control characters pass. Checked first, as it tries every division of the spaces before one that
# it refuses: 0.6 s for 16 kB of them.
_FAULTY_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n[\t ]")
_ABSOLUTE_FORM = re.compile(r"(?i:https?)://([^/?#]*)")  # RFC 9112, 3.2.2
_MALFORMED = "the request is malformed"


@attrs.frozen
class Limits:
    """What the clients of one server may use.

    :param clients: how many are served at a time, apart from those that get a stream.
    :param streams: how many streams there may be.
    :param head_bytes: of a request's first line and headers together.
    :param body_bytes: of a request; with 0 a body is not waited for, nor read.
    :param idle_seconds: how long a connection is kept for the next request; with 0 it is for one
        request, which RFC 9112 (9.6) leaves to the server.
    """

    clients: int = 64
    streams: int = 0
    head_bytes: int = 8192
    body_bytes: int = 0
    idle_seconds: float = 0.0


class Refused(Exception):
    """A request that the handler does not see."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RequestReader:
    """Reads one request after the other from what a client sends.

    :param limits: on heads and bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.exchange: h11.Connection | None = None
        """The present request and its answer; None until its head is there."""
        self.is_head = False
        """Whether its method is HEAD: the answer has no body then."""
        self.is_whole = False
        """Whether all of it was received."""
        self._request = Request("", "")  # without its body
        self._body = bytearray()
        self._chunks = 0
        self._received = bytearray()
        self._searched = 0  # how much of that has no end of a head

    def __len__(self) -> int:
        """How many bytes are held that are of no request yet."""
        return len(self._received)

    def add(self, data: bytes) -> None:
        """Take what was received."""
        self._received += data

    def discard(self) -> None:
        """Hold no bytes of later requests."""
        self._received.clear()

    def has_begun(self) -> bool:
        """Whether a request has begun."""
        return bool(self._received) or self.exchange is not None

    def take(self) -> Request | None:
        """The next request; None until all of it is there.

        :raises Refused: it is none, or is over a limit. Where it ends is not known then.
        """
        try:
            if self.exchange is None:
                self._take_head()
            if self.exchange is None:
                return None
            return self._take_body(self.exchange) if self._limits.body_bytes else self._request
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, _MALFORMED) from None

    def finish(self) -> None:
        """The request is answered: go on with the next."""
        self.exchange = None
        self.is_head = self.is_whole = False
        self._body.clear()

    def continuation(self) -> bytes:
        """What to write so that the client goes on (``Expect: 100-continue``); mostly nothing."""
        exchange = self.exchange
        if exchange is None or not exchange.they_are_waiting_for_100_continue:
            return b""
        event = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
        return exchange.send(event)

    def _take_head(self) -> None:
        received = self._received
        if not self._searched:
            del received[: len(received) - len(received.lstrip(b"\r\n"))]  # RFC 9112, 2.2
            if not received:
                return
            if received[0] < 0x21:  # no method begins so, but the handshake of TLS does
                raise Refused(400, _MALFORMED)
        most = self._limits.head_bytes
        # Only what is new is searched, with the bytes that an end may have begun in.
        end = _END_OF_HEAD.search(received, max(self._searched - 3, 0))
        self._searched = len(received)
        if end is None and len(received) < most + len(b"\r\n\r\n"):
            return
        if (
            end is None
            or end.start() > most
            or received.count(b"\n", 0, end.start()) > MOST_HEADERS
        ):
            status = 431 if b"\n" in received[:most] else 414  # is it the target that is too long?
            detail = f"the head of a request may have {most} bytes and {MOST_HEADERS} headers"
            raise Refused(status, detail)
        head = bytes(received[: end.end()])
        del received[: end.end()]
        self._searched = 0
        self._begin(head)

    def _begin(self, raw: bytes) -> None:
        """Begin with a request whose head is there."""
        # An exchange of its own for each, which takes 10 µs: so none is kept while idle.
        exchange = self.exchange = h11.Connection(h11.SERVER)
        self._chunks = 0
        if _FAULTY_HEAD.search(raw):
            raise Refused(400, _MALFORMED)
        exchange.receive_data(raw)
        head = exchange.next_event()
        assert isinstance(head, h11.Request)  # as there is a whole head
        self.is_head = head.method == b"HEAD"
        if head.http_version[:1] != b"1":
            raise Refused(505, "the version must be HTTP/1.1")
        if head.method == b"CONNECT":
            raise Refused(501, "this is no proxy")
        names = [name for name, _ in head.headers]
        if b"transfer-encoding" in names and (
            b"content-length" in names or head.http_version < b"1.1"
        ):
            # Others may find the end of the body elsewhere (RFC 9112, 6.1 and 6.3).
            raise Refused(400, "the length of the body is ambiguous")
        self._request = _request_of(head)
        most = self._limits.body_bytes
        length = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if most and length > most:
            raise Refused(413, f"the body has more than {most} bytes")

    def _take_body(self, exchange: h11.Connection) -> Request | None:
        if self._received:  # no bytes would be the end of its input
            exchange.receive_data(bytes(self._received))
            self._received.clear()
        most = self._limits.body_bytes
        while not isinstance(event := exchange.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return None
            self._chunks += event.chunk_start
            self._body += event.data
            if len(self._body) > most:
                raise Refused(413, f"the body has more than {most} bytes")
            if self._chunks > MOST_CHUNKS:
                raise Refused(413, f"the body has more than {MOST_CHUNKS} chunks")
        self.is_whole = True
        self._received += exchange.trailing_data[0]
        return attrs.evolve(self._request, body=bytes(self._body))


def _request_of(head: h11.Request) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = head.target.decode("ascii")
    if absolute := _ABSOLUTE_FORM.match(target):
        if not absolute[1] or "@" in absolute[1]:  # RFC 9110, 4.2.1 and 4.2.4
            raise Refused(400, "the target is malformed")
        headers["host"] = absolute[1]  # instead of what the header says (RFC 9112, 3.2.2)
        target = target[absolute.end() :]
        target = target if target.startswith("/") else f"/{target}"
    elif not target.startswith("/") and (target, head.method) != ("*", b"OPTIONS"):
        raise Refused(400, "the target is malformed")
    path, _, query = target.partition("?")
    return Request(head.method.decode("ascii"), path, query, headers)
