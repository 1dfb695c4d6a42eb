"""The HTTP/1.1 server (RFC 9112), with limits on clients, bytes and time.

h11 parses and writes the messages. What is not its part is here: who may stay, for how long, and
how much may be held for one. ``twisted.web`` serves any number of pipelined requests in one turn of
the reactor, grants each byte of a request its whole timeout anew, and stores unread answers.

One request of a client is under way at a time, and each is begun in a turn that all clients share.
The next one is read once the client has taken the whole answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from ipaddress import ip_network
from typing import Any

import attrs
import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import plain_ip
from monconn.clock import Clock
from monconn.log import Logger
from monconn.net.http.messages import Handler, Headers, Request, Response, Stream, problem
from monconn.turns import TurnQueue

CLIENTS_PER_TURN = 8
"""Accepted in one turn of the reactor."""
GRACE_SECONDS = 0.05
"""How long a client is not displaced by another: one that has connected, or has just read a piece
of its answer. Newcomers wait in the kernel's queue meanwhile."""
REQUEST_SECONDS = 10.0
"""How long a request may take, from the connection's beginning or from its own first byte."""
ANSWER_SECONDS = 30.0
"""How long an answer may take to be made, and each piece of it to be taken by the client."""
LINGER_SECONDS = 2.0
"""How long what a client still sends is read after the last answer. To close a socket with unread
bytes resets the connection, and the client may lose the answer (RFC 9112, 9.6)."""
MOST_LINGER_BYTES = 1 << 20
MOST_HEADERS = 100
"""h11 takes 3 µs for each."""
MOST_CHUNKS = 256
"""Of a chunked body: h11 takes 20 µs for each, and a read may have thousands of one byte."""
MOST_HELD_BYTES = 1 << 14
"""Of requests that wait for their turn: from here on no more is read, so one read more is held."""
PIECE_BYTES = 1 << 16
"""Of an answer, written at a time: a client that does not read costs no more memory than this, as
the answer itself is shared."""
MOST_BODIES_BYTES = 64 << 20
"""Of all answers that are being written, one that several clients share counting once. For one more
the client is disconnected that has longest taken nothing."""
MOST_LEAVING = 64
"""Clients that have all they get, and whose connection is not closed yet: TLS has an end of its
own, which they may wait with. More are disconnected at once."""
MOST_UNSENT_BYTES = 1 << 20
"""What a stream may write although its client is slow; one that writes more is ended."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# h11 joins folded lines, which RFC 9112 (5.2) has deprecated and servers read differently, and lets
# control characters pass. Checked first, as it tries every division of the spaces before one that
# it refuses: 0.6 s for 16 kB of them.
_FAULTY_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n[\t ]")
_ABSOLUTE_FORM = re.compile(r"(?i:https?)://([^/?#]*)")  # RFC 9112, 3.2.2


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


class HttpFactory(Factory):
    """Serves HTTP to a bounded number of clients.

    :param handler: answers requests; called in the reactor's thread.
    :param clock: monotonic time and timers.
    :param headers: those of answers that are not the handler's, such as to what is malformed.
    """

    noisy = False
    batch = CLIENTS_PER_TURN
    retry_seconds = GRACE_SECONDS

    def __init__(
        self,
        handler: Handler,
        clock: Clock,
        limits: Limits | None = None,
        headers: Headers = (),
    ) -> None:
        self.handler = handler
        self.headers = headers
        self.clock = clock
        self.limits = Limits() if limits is None else limits
        self.queue = TurnQueue(clock)
        """Requests of all clients."""
        self.clients: dict[_Client, None] = {}
        """The one that has longest done nothing first: neither connected nor read."""
        self.streams: set[_Client] = set()
        """Those that get a stream."""
        self.leaving: set[_Client] = set()
        """Those that are closed once they have taken what is written."""
        self.bodies = _Bodies()
        """The answers that are being written."""

    def is_full(self) -> bool:
        """Whether all places are taken, by clients who have not had their time yet."""
        return len(self.clients) >= self.limits.clients and all(
            each.is_waiting or self._is_spared(each) for each in self.clients
        )

    def _is_spared(self, client: _Client) -> bool:
        is_recent = self.clock.seconds() - client.active_at < GRACE_SECONDS
        return is_recent and not client.has_ended

    def _displaced_by(self, group: str) -> _Client | None:
        """Who makes room: one that has its last answer, or the one that has longest done nothing of
        those from the network that has the most. So many from one drive out none from another.

        One that waits for its answer never does: that is not its own doing, and soon over.
        """
        if ended := next((each for each in self.clients if each.has_ended), None):
            return ended
        movable = [each for each in self.clients if not each.is_waiting]
        counts = Counter(each.group for each in movable)
        counts[group] += 1
        ((crowded, _),) = counts.most_common(1)
        found = next((each for each in movable if each.group == crowded), None)
        if found is not None and crowded == group and self._is_spared(found):
            return None
        return found

    def buildProtocol(self, addr: Any) -> Any:
        """Make a client's protocol, in the place of another if all are taken.

        :returns: None, which closes the connection, if there is nobody to displace.
        """
        client = _Client(self, plain_ip(getattr(addr, "host", None) or ""))
        return client if self.enter(client) else None

    def enter(self, client: _Client) -> bool:
        """Give a client a place; False if there is none."""
        if len(self.clients) >= self.limits.clients:
            displaced = self._displaced_by(client.group)
            if displaced is None:
                return False
            displaced.leave()
        self.clients[client] = None
        return True

    def hold(self, body: bytes) -> None:
        """Hold an answer for a client that is to take it, instead of older ones if need be."""
        self.bodies.add(body)
        while self.bodies.size > MOST_BODIES_BYTES:
            oldest = next((each for each in self.clients if each.is_answered), None)
            if oldest is None:
                return
            oldest.abort()

    def close(self) -> None:
        """Disconnect all clients, and end all streams."""
        for each in (*self.clients, *self.streams, *self.leaving):
            each.abort()


class _Bodies:
    """Bytes that are held for several clients at a time."""

    def __init__(self) -> None:
        self.size = 0
        self._counts: Counter[int] = Counter()

    def add(self, body: bytes) -> None:
        """Hold one for one more client."""
        self._counts[id(body)] += 1
        if self._counts[id(body)] == 1:
            self.size += len(body)

    def remove(self, body: bytes) -> None:
        """Hold it for one less."""
        self._counts[id(body)] -= 1
        if not self._counts[id(body)]:
            del self._counts[id(body)]
            self.size -= len(body)


class _Phase(Enum):
    """What a client does."""

    REQUESTING = "requesting"
    """Its request is not there yet, or not whole."""
    WAITING = "waiting"
    """For the handler."""
    ANSWERED = "answered"
    """The answer is being written."""
    STREAMING = "streaming"
    ENDING = "ending"
    """The whole of the last answer is written."""


class _Refused(Exception):
    """A request that the handler does not see."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@implementer(IHalfCloseableProtocol)
class _Client(Protocol):
    """One connection.

    :param ip: the client's; empty for a UNIX socket.
    """

    factory: HttpFactory
    transport: Any
    _log = Logger()

    def __init__(self, factory: HttpFactory, ip: str) -> None:
        self.factory = factory
        self.ip = ip
        self.group = network_of(ip)
        self.active_at = factory.clock.seconds()
        self._phase = _Phase.REQUESTING
        self._is_over = False
        self._is_idle = False
        """Whether it has had an answer, and sent nothing since."""
        self._received = bytearray()
        """Of requests, what is not parsed yet."""
        self._searched = 0
        """How much of it has no end of a head."""
        self._is_queued = False
        self._is_reading = True
        self._has_ended_input = False
        self._lingering_bytes = 0
        self._exchange: h11.Connection | None = None
        """The present request and its answer; None until its head is there."""
        self._request: Request | None = None
        """The same, without its body."""
        self._is_head = False
        """Whether its method is HEAD: the answer has no body then."""
        self._is_whole = False
        """Whether all of it was received."""
        self._body = bytearray()
        self._chunks = 0
        self._awaited: Deferred[Response] | None = None
        self._answer_body = b""
        self._writer: _StreamWriter | None = None
        self._deadline: IDelayedCall | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for the handler."""
        return self._phase is _Phase.WAITING

    @property
    def is_answered(self) -> bool:
        """Whether its answer is being written."""
        return self._phase is _Phase.ANSWERED

    @property
    def has_ended(self) -> bool:
        """Whether it has all that it gets."""
        return self._phase is _Phase.ENDING

    # -- IProtocol

    def connectionMade(self) -> None:
        """Wait for the first request."""
        self._set_deadline(REQUEST_SECONDS)

    def connectionLost(self, reason: Any = None) -> None:
        """Forget the client."""
        self._forget()

    def dataReceived(self, data: bytes) -> None:
        """Take a part of a request, or discard what follows the last one."""
        if self._phase is _Phase.ENDING:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > MOST_LINGER_BYTES:
                self.leave()
            return
        self._received += data
        self._continue()

    def readConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol``: what it has asked for is still answered.

        A stream ends: a client that closes its connection and one that closes its side only look
        the same, and a stream may have nothing to write that would tell them apart.
        """
        self._has_ended_input = True
        if self._phase is _Phase.STREAMING:
            self.abort()
        elif self._phase is _Phase.ENDING:
            self.leave()
        else:
            self._continue()

    def writeConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol``: the end that we have sent."""

    # -- the request

    def _continue(self) -> None:
        """Go on with a request, in a turn that all clients share."""
        if self._phase is _Phase.REQUESTING and not self._is_queued:
            self._is_queued = True
            self.factory.queue.add(self._take)
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Read only what is soon needed: what a client sends meanwhile stays in the kernel, which
        slows the client down."""
        is_needed = self._phase is _Phase.REQUESTING and not self._is_queued
        must_read = (
            is_needed or self._phase is _Phase.ENDING or len(self._received) < MOST_HELD_BYTES
        )
        if must_read != self._is_reading and not (self._is_over or self._has_ended_input):
            self._is_reading = must_read
            if must_read:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _take(self) -> None:
        self._is_queued = False
        if self._is_over or self._phase is not _Phase.REQUESTING:
            return
        try:
            if self._exchange is None:
                self._take_head()
            if self._exchange is not None and self._phase is _Phase.REQUESTING:
                self._take_body(self._exchange)
        except _Refused as refused:
            self._refuse(refused)
        except h11.RemoteProtocolError as error:
            self._refuse(_Refused(error.error_status_hint, "the request is malformed"))
        if self._has_ended_input and self._phase is _Phase.REQUESTING:
            self.leave()  # the rest never comes
        else:
            self._pause_or_resume()

    def _take_head(self) -> None:
        received = self._received
        if not self._searched:
            del received[: len(received) - len(received.lstrip(b"\r\n"))]  # RFC 9112, 2.2
            if not received:
                return
            if self._is_idle:
                self._is_idle = False
                self._set_deadline(REQUEST_SECONDS)
            if received[0] < 0x21:  # no method begins so, but the handshake of TLS does
                raise _Refused(400, "the request is malformed")
        most = self.factory.limits.head_bytes
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
            raise _Refused(status, detail)
        head = bytes(received[: end.end()])
        del received[: end.end()]
        self._searched = 0
        self._begin(head)

    def _begin(self, raw: bytes) -> None:
        """Begin with a request whose head is there."""
        # An exchange of its own for each, which takes 10 µs: so none is kept while idle.
        exchange = self._exchange = h11.Connection(h11.SERVER)
        self._is_whole = False
        self._body.clear()
        self._chunks = 0
        if _FAULTY_HEAD.search(raw):
            raise _Refused(400, "the request is malformed")
        exchange.receive_data(raw)
        head = exchange.next_event()
        assert isinstance(head, h11.Request)  # as there is a whole head
        self._is_head = head.method == b"HEAD"
        if head.http_version[:1] != b"1":
            raise _Refused(505, "the version must be HTTP/1.1")
        if head.method == b"CONNECT":
            raise _Refused(501, "this is no proxy")
        names = [name for name, _ in head.headers]
        if b"transfer-encoding" in names and (
            b"content-length" in names or head.http_version < b"1.1"
        ):
            # Others may find the end of the body elsewhere (RFC 9112, 6.1 and 6.3).
            raise _Refused(400, "the length of the body is ambiguous")
        self._request = self._request_of(head)
        most = self.factory.limits.body_bytes
        if not most:
            self._serve(exchange)
            return
        length = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if length > most:
            raise _Refused(413, f"the body has more than {most} bytes")
        if exchange.they_are_waiting_for_100_continue and not self._received:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(exchange.send(go_on))

    def _take_body(self, exchange: h11.Connection) -> None:
        if self._received:  # no bytes would be the end of its input
            exchange.receive_data(bytes(self._received))
            self._received.clear()
        most = self.factory.limits.body_bytes
        while not isinstance(event := exchange.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                return
            self._chunks += event.chunk_start
            self._body += event.data
            if len(self._body) > most:
                raise _Refused(413, f"the body has more than {most} bytes")
            if self._chunks > MOST_CHUNKS:
                raise _Refused(413, f"the body has more than {MOST_CHUNKS} chunks")
        self._is_whole = True
        self._received += exchange.trailing_data[0]
        self._serve(exchange)

    def _serve(self, exchange: h11.Connection) -> None:
        """Have the handler answer."""
        assert self._request is not None
        request = attrs.evolve(self._request, body=bytes(self._body))
        self._phase = _Phase.WAITING
        self._set_deadline(ANSWER_SECONDS)
        try:
            answer = self.factory.handler(request)
        except Exception:
            self._log.failure("a request could not be answered")
            answer = self._own(500)
        if isinstance(answer, Deferred):
            self._awaited = answer
            answer.addCallbacks(
                lambda response: self._answer(exchange, response),
                lambda failure: self._fail(exchange, failure),
            )
        else:
            self._answer(exchange, answer)

    def _request_of(self, head: h11.Request) -> Request:
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        target = head.target.decode("ascii")
        if absolute := _ABSOLUTE_FORM.match(target):
            if not absolute[1] or "@" in absolute[1]:  # RFC 9110, 4.2.1 and 4.2.4
                raise _Refused(400, "the target is malformed")
            headers["host"] = absolute[1]  # instead of what the header says (RFC 9112, 3.2.2)
            target = target[absolute.end() :]
            target = target if target.startswith("/") else f"/{target}"
        elif not target.startswith("/") and (target, head.method) != ("*", b"OPTIONS"):
            raise _Refused(400, "the target is malformed")
        path, _, query = target.partition("?")
        return Request(
            head.method.decode("ascii"),
            path,
            query,
            headers,
            is_tls=ISSLTransport.providedBy(self.transport),
            origin=self.ip,
        )

    # -- the answer

    def _refuse(self, refused: _Refused) -> None:
        """Answer a request that cannot be served, as the last one: where it ends is not known."""
        exchange = self._exchange or h11.Connection(h11.SERVER)
        self._received.clear()
        self._phase = _Phase.WAITING
        self._answer(exchange, self._own(refused.status, refused.detail))

    def _fail(self, exchange: h11.Connection, failure: Failure) -> None:
        if not self._is_over and self._awaited is not None and self._exchange is exchange:
            self._log.failure("a request could not be answered", failure)
            self._answer(exchange, self._own(500))

    def _answer(self, exchange: h11.Connection, response: Response) -> None:
        """Begin to write an answer."""
        self._awaited = None
        if self._is_over or self._phase is not _Phase.WAITING:
            _drop(response)
            return
        streams, most = len(self.factory.streams), self.factory.limits.streams
        if not isinstance(response.body, bytes) and streams >= most:
            _drop(response)
            response = self._own(503, "there are too many streams", (("Retry-After", "10"),))
        try:
            head = self._head_of(exchange, response)
        except Exception:
            self._log.failure("an answer could not be written")
            _drop(response)
            response = self._own(500)
            head = self._head_of(exchange, response)
        if self._is_head or response.status in (204, 304):
            _drop(response)
            self._write(_pieces(exchange, head, b""))
        elif isinstance(response.body, bytes):
            if response.body:
                self._answer_body = response.body
                self.factory.hold(response.body)
            self._write(_pieces(exchange, head, response.body))
        else:
            self._stream(exchange, head, response.body)

    def _own(self, status: int, detail: str = "", headers: Headers = ()) -> Response:
        """An answer that is not the handler's."""
        return problem(status, detail, (*headers, *self.factory.headers))

    def _head_of(self, exchange: h11.Connection, response: Response) -> bytes:
        headers = [("Date", formatdate(usegmt=True))]
        if response.status not in (204, 304):
            headers.append(("Content-Type", response.content_type))
            if isinstance(response.body, bytes):
                headers.append(("Content-Length", str(len(response.body))))
        headers += response.headers
        if not (self._is_whole and self.factory.limits.idle_seconds):
            headers.append(("Connection", "close"))
        phrase = HTTPStatus(response.status).phrase
        event = h11.Response(status_code=response.status, headers=headers, reason=phrase)
        return exchange.send(event)

    def _write(self, pieces: Iterator[bytes]) -> None:
        self._phase = _Phase.ANSWERED
        self._set_deadline(ANSWER_SECONDS)
        # Calls resumeProducing at once.
        self.transport.registerProducer(_PieceProducer(self, pieces), False)

    def touch(self) -> None:
        """It has taken a piece of its answer: grant it time for the next."""
        clients = self.factory.clients
        if self in clients:
            clients[self] = clients.pop(self)  # to the end
        self.active_at = self.factory.clock.seconds()
        self._set_deadline(ANSWER_SECONDS)

    def answered(self) -> None:
        """The whole answer is written: wait for the next request, or end."""
        exchange, self._exchange, self._request = self._exchange, None, None
        self._is_head = False
        self._release()
        limits = self.factory.limits
        is_kept = exchange is not None and exchange.our_state is exchange.their_state is h11.DONE
        if is_kept and limits.idle_seconds and not self._is_over:
            self._phase = _Phase.REQUESTING
            self._is_idle = True
            self._set_deadline(limits.idle_seconds)
            self._continue()
            return
        self._phase = _Phase.ENDING
        self._received.clear()
        if self._has_ended_input:
            self.leave()
            return
        self._set_deadline(LINGER_SECONDS)
        if ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()  # TLS has no end of one direction (of Twisted's)
        else:
            self.transport.loseWriteConnection()
        self._pause_or_resume()

    def _release(self) -> None:
        body, self._answer_body = self._answer_body, b""
        if body:
            self.factory.bodies.remove(body)

    # -- streams

    def _stream(self, exchange: h11.Connection, head: bytes, body: Stream) -> None:
        self._phase = _Phase.STREAMING
        self.factory.clients.pop(self, None)
        self.factory.streams.add(self)
        self.set_no_deadline()
        writer = self._writer = _StreamWriter(self, exchange, body)
        self.transport.write(head)
        self.transport.registerProducer(writer, True)
        if self._is_over:  # the connection was lost by that
            return
        if self._has_ended_input:
            self.abort()
            return
        try:
            body.start(writer)
        except Exception:
            self._log.failure("a stream could not be started")
            self.abort()

    def stream_stalled(self) -> None:
        """Grant the client some time to take what is written."""
        self._set_deadline(ANSWER_SECONDS)

    def stream_finished(self, rest: bytes) -> None:
        """A stream has ended in order: write the end of it."""
        self._writer = None
        self.transport.unregisterProducer()
        self.factory.streams.discard(self)
        if self.factory.enter(self):
            self._write(iter([rest]))
        else:
            self.abort()

    # -- the end

    def leave(self) -> None:
        """Make room: what the kernel has of an answer is still delivered, what it lacks is not."""
        has_all = self._phase is _Phase.ENDING or (
            self._phase is _Phase.REQUESTING and self._is_idle
        )
        if has_all and len(self.factory.leaving) < MOST_LEAVING:
            self._forget()
            self.factory.leaving.add(self)
            self._deadline = self.factory.clock.callLater(LINGER_SECONDS, self.abort)
            self.transport.loseConnection()
        else:
            self.abort()

    def abort(self) -> None:
        """Disconnect at once."""
        self._forget()
        self.transport.abortConnection()

    def _forget(self) -> None:
        self._is_over = True
        self.factory.clients.pop(self, None)
        self.factory.streams.discard(self)
        self.factory.leaving.discard(self)
        self._received.clear()
        self._release()
        self.set_no_deadline()
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.cancel()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()

    def _set_deadline(self, seconds: float) -> None:
        self.set_no_deadline()
        self._deadline = self.factory.clock.callLater(seconds, self._too_late)

    def set_no_deadline(self) -> None:
        """Grant any time."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _too_late(self) -> None:
        if self._phase is _Phase.WAITING:
            awaited, self._awaited = self._awaited, None
            exchange = self._exchange
            assert exchange is not None
            self._answer(exchange, self._own(503, f"no answer within {ANSWER_SECONDS:g} s"))
            if awaited is not None:
                awaited.cancel()
        elif self._is_idle and self._received:
            self._set_deadline(REQUEST_SECONDS)  # its next request has just come
        else:
            self.leave()


@implementer(IPullProducer)
class _PieceProducer:
    """Writes an answer piece by piece, as the client takes them."""

    def __init__(self, client: _Client, pieces: Iterator[bytes]) -> None:
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


def _drop(response: Response) -> None:
    """Do not send an answer, of which only a stream has to know."""
    if not isinstance(response.body, bytes):
        response.body.stop()


def _pieces(exchange: h11.Connection, head: bytes, body: bytes) -> Iterator[bytes]:
    yield head + exchange.send(h11.Data(data=body[:PIECE_BYTES]))
    for start in range(PIECE_BYTES, len(body), PIECE_BYTES):
        yield exchange.send(h11.Data(data=body[start : start + PIECE_BYTES]))
    yield exchange.send(h11.EndOfMessage())


@implementer(IPushProducer)
class _StreamWriter:
    """Where a stream writes to."""

    def __init__(self, client: _Client, exchange: h11.Connection, stream: Stream) -> None:
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


def network_of(ip: str) -> str:
    """The network that one host may have to itself: an IPv4 address, or an IPv6 /64.

    :param ip: may be empty, and have a zone.
    """
    if ":" not in ip:
        return ip
    return str(ip_network((ip.partition("%")[0], 64), strict=False))
