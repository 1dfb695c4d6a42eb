"""The HTTP/1.1 server (RFC 9112), with limits on clients, bytes and time.

h11 parses and writes the messages. What is not its part is here: who may stay, for how long, and
how much may be held for one. ``twisted.web`` serves any number of pipelined requests in one turn of
the reactor, grants each byte of a request its whole timeout anew, and stores unread answers.

One request of a client is under way at a time, and each is begun in a turn that all clients share.
The next one is read once the client has taken the whole answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import Any

import attrs
import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import plain_ip
from monconn.clock import Clock
from monconn.log import Logger
from monconn.net.http.messages import Handler, Headers, Request, Response, Stream, problem
from monconn.net.http.requests import Limits, Refused, RequestReader
from monconn.net.http.writing import ClientWriter, PieceProducer, in_pieces
from monconn.places import network_of
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
MOST_HELD_BYTES = 1 << 14
"""Of requests that wait for their turn: from here on no more is read, so one read more is held."""
MOST_BODIES_BYTES = 64 << 20
"""Of all answers that are being written, one that several clients share counting once. For one more
the client is disconnected that has longest taken nothing."""
MOST_LEAVING = 64
"""Clients that have all they get, and whose connection is not closed yet: TLS has an end of its
own, which they may wait with. More are disconnected at once."""


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
        self._closing: list[Deferred[None]] = []

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

    def close(self) -> Deferred[None]:
        """Disconnect all clients; those first who still take the rest of their answer, such as the
        end of a stream, have :data:`LINGER_SECONDS` for it.

        :returns: fires once all have left.
        """
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        for each in (*self.clients, *self.streams):
            each.close()
        self.left()
        return closed

    def left(self) -> None:
        """A client has left."""
        if not (self.clients or self.streams or self.leaving):
            closing, self._closing = self._closing, []
            for each in closing:
                each.callback(None)


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
        self._reader = RequestReader(factory.limits)
        self._is_queued = False
        self._is_reading = True
        self._has_ended_input = False
        self._lingering_bytes = 0
        self._awaited: Deferred[Response] | None = None
        self._answer_body = b""
        self._writer: ClientWriter | None = None
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
        self.factory.left()

    def dataReceived(self, data: bytes) -> None:
        """Take a part of a request, or discard what follows the last one."""
        if self._phase is _Phase.ENDING:
            self._lingering_bytes += len(data)
            if self._lingering_bytes > MOST_LINGER_BYTES:
                self.leave()
            return
        self._reader.add(data)
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
        must_read = is_needed or self._phase is _Phase.ENDING or len(self._reader) < MOST_HELD_BYTES
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
            request = self._reader.take()
        except Refused as refused:
            self._refuse(refused)
        else:
            if request is not None:
                self._serve(request)
            elif self._reader.has_begun():
                self._go_on()
        if self._has_ended_input and self._phase is _Phase.REQUESTING:
            self.leave()  # the rest never comes
        else:
            self._pause_or_resume()

    def _go_on(self) -> None:
        """More of a request is to come."""
        if self._is_idle:
            self._is_idle = False
            self._set_deadline(REQUEST_SECONDS)
        if continuation := self._reader.continuation():
            self.transport.write(continuation)

    def _serve(self, request: Request) -> None:
        """Have the handler answer."""
        is_tls = ISSLTransport.providedBy(self.transport)
        request = attrs.evolve(request, is_tls=is_tls, origin=self.ip)
        exchange = self._reader.exchange
        assert exchange is not None
        self._begin_answer()
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

    # -- the answer

    def _begin_answer(self) -> None:
        self._phase = _Phase.WAITING
        self._is_idle = False
        self._set_deadline(ANSWER_SECONDS)

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that cannot be served, as the last one: where it ends is not known."""
        self._reader.discard()
        self._begin_answer()
        exchange = self._reader.exchange or h11.Connection(h11.SERVER)
        self._answer(exchange, self._own(refused.status, refused.detail))

    def _fail(self, exchange: h11.Connection, failure: Failure) -> None:
        if not self._is_over and self._awaited is not None and self._reader.exchange is exchange:
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
        if self._reader.is_head or response.status in (204, 304):
            _drop(response)
            self._write(in_pieces(exchange, head, b""))
        elif isinstance(response.body, bytes):
            if response.body:
                self._answer_body = response.body
                self.factory.hold(response.body)
            self._write(in_pieces(exchange, head, response.body))
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
        if not (self._reader.is_whole and self.factory.limits.idle_seconds):
            headers.append(("Connection", "close"))
        phrase = HTTPStatus(response.status).phrase
        event = h11.Response(status_code=response.status, headers=headers, reason=phrase)
        return exchange.send(event)

    def _write(self, pieces: Iterator[bytes]) -> None:
        self._phase = _Phase.ANSWERED
        self._set_deadline(ANSWER_SECONDS)
        # Calls resumeProducing at once.
        self.transport.registerProducer(PieceProducer(self, pieces), False)

    def touch(self) -> None:
        """It has taken a piece of its answer: grant it time for the next."""
        if self._is_over:  # it has what time it gets
            return
        clients = self.factory.clients
        if self in clients:
            clients[self] = clients.pop(self)  # to the end
        self.active_at = self.factory.clock.seconds()
        self._set_deadline(ANSWER_SECONDS)

    def answered(self) -> None:
        """The whole answer is written: wait for the next request, or end."""
        if self._is_over:  # the server stops
            self.transport.loseConnection()
            return
        exchange = self._reader.exchange
        self._reader.finish()
        self._release()
        limits = self.factory.limits
        is_kept = exchange is not None and exchange.our_state is exchange.their_state is h11.DONE
        if is_kept and limits.idle_seconds:
            self._phase = _Phase.REQUESTING
            self._is_idle = True
            self._set_deadline(limits.idle_seconds)
            self._continue()
            return
        self._phase = _Phase.ENDING
        self._reader.discard()
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
        writer = self._writer = ClientWriter(self, exchange, body)
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
        if self._has_all() and len(self.factory.leaving) < MOST_LEAVING:
            self._begin_to_leave()
            self.transport.loseConnection()
        else:
            self.abort()

    def close(self) -> None:
        """The server stops: what is written of an answer, or is being written, is still sent."""
        if self._has_all():
            self._begin_to_leave()
            self.transport.loseConnection()
        elif self._phase is _Phase.ANSWERED:
            # Not closed yet: Twisted's TLS then drops what it has gathered for its next turn, once
            # the last piece is written.
            self._begin_to_leave()
        else:
            self.abort()

    def _has_all(self) -> bool:
        return self._phase is _Phase.ENDING or (self._phase is _Phase.REQUESTING and self._is_idle)

    def _begin_to_leave(self) -> None:
        """Serve it no more; it has some time to take what is to be sent."""
        self._forget()
        self.factory.leaving.add(self)
        self._deadline = self.factory.clock.callLater(LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Disconnect at once."""
        self._forget()
        self.transport.abortConnection()
        self.factory.left()

    def _forget(self) -> None:
        self._is_over = True
        self.factory.clients.pop(self, None)
        self.factory.streams.discard(self)
        self.factory.leaving.discard(self)
        self._reader.discard()
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
            exchange = self._reader.exchange
            assert exchange is not None
            self._answer(exchange, self._own(503, f"no answer within {ANSWER_SECONDS:g} s"))
            if awaited is not None:
                awaited.cancel()
        elif self._is_idle and self._reader.has_begun():
            self._set_deadline(REQUEST_SECONDS)  # its next request has just come
        else:
            self.leave()


def _drop(response: Response) -> None:
    """Do not send an answer, of which only a stream has to know."""
    if not isinstance(response.body, bytes):
        response.body.stop()
