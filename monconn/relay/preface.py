"""Reading a client's first bytes before it is admitted and the backend is dialled.

From them a :class:`Preface` determines the client's address (a PROXY header), its backend (a TLS
server name) or its protocol. Then admission and dialling go on as usual, and the backend gets every
byte that the preface did not consume, once. A service without a preface does not use this module.

While they wait, clients take no slot of the service, as the address that is to be limited is not
known yet. Their number, bytes and time are bounded separately. Once its preface is complete, a
client is judged: it has been accepted, so one that finds ``conn_limit`` or ``rate`` used up by then
is refused, whatever ``when_full`` says. A client that never completes its preface is admitted or
refused by its socket's address, so that it is counted and logged; such a connection ends at once:

- ``read_timeout``: it sent too little within the preface's time, or had to make room for others,
- ``client_closed``, ``client_reset``, ``client_lost``: it ended before it had sent enough,
- ``error``, with the details: what it sent is no preface, or too long for one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from typing import Protocol as TypingProtocol

import attrs
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import Address
from monconn.errors import MonconnError
from monconn.log import Logger
from monconn.model.reasons import BROKEN_REASONS, Reason, SideEnd
from monconn.model.record import ConnectionRecord, Fact
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.subscriptions import Cancel
from monconn.net.sockets import (
    ErrorTrackingSocket,
    descriptor_of,
    end_by_errno,
    track_errors,
)
from monconn.relay.sockets.loop import HUP, RDHUP, SocketLoop
from monconn.turns import in_turns

MOST_WAITING = 1000
"""How many clients of a service may wait at the same time. Beyond it, the one that has waited
longest is dropped, so that a crowd of silent clients does not lock out others."""


class PrefaceError(MonconnError):
    """The bytes of a client are no valid preface; the text says why."""


@attrs.frozen
class Decision:
    """The result of reading a client's preface; a field left out has no effect."""

    consumed: int = 0
    """How many bytes were the preface's own, and are not for the backend."""
    client: str = ""
    """The client's address, for display: ``IP:PORT``."""
    client_ip: str = ""
    """Its IP, by which it is admitted; given together with :attr:`client`."""
    backend: Address | None = None
    """Where to forward it."""
    facts: Mapping[str, Fact] = attrs.field(factory=dict)


class Preface(TypingProtocol):
    """Decides by a client's first bytes; one object serves all clients."""

    max_bytes: int
    """How many bytes it may take to decide."""
    timeout_seconds: float
    """How long a client may take to send them."""

    def read(self, data: bytes, ended: bool) -> Decision | None:
        """Decide, if that is possible already.

        :param data: everything that the client has sent so far, at least one byte.
        :param ended: whether it will send no more.
        :returns: None if more bytes are needed.
        :raises PrefaceError: more bytes will not help.
        """


class WaitingClient(TypingProtocol):
    """A client whose preface is not complete yet."""

    peer: tuple[str, str]
    """Its socket's address, for display, and the IP."""
    bucket: int | None

    def check(self, now: float) -> float | None:
        """Its time to send a preface is over."""

    def how_it_ended(self) -> SideEnd:
        """Whether its end was one in order; asked once, when nothing more is expected of it."""

    def admitted(self, record: ConnectionRecord, decision: Decision) -> None:
        """It is admitted."""

    def hold(self) -> None:
        """Read nothing more, as the service is paused or full; :meth:`admitted` follows, or its
        end."""

    def drop(self) -> None:
        """Close the connection."""


class PrefaceRoom:
    """The clients of one service that wait to be admitted.

    :param monitor: the service's monitor.
    :param preface: decides.
    :param deadlines: checks how long they wait.
    """

    _log = Logger()

    def __init__(self, monitor: Monitor, preface: Preface, deadlines: Deadlines) -> None:
        self.preface = preface
        self._monitor = monitor
        self._deadlines = deadlines
        self._waiting: dict[WaitingClient, None] = {}
        # Those whose preface is complete, while the service is paused or lets nobody in: no backend
        # is dialled then. They were accepted before that was so.
        self._decided: dict[WaitingClient, Decision] = {}
        self._cancel: Cancel | None = None

    def __len__(self) -> int:
        """How many clients wait."""
        return len(self._waiting) + len(self._decided)

    def enter(self, client: WaitingClient) -> None:
        """Have a client wait."""
        if len(self._waiting) >= MOST_WAITING:
            self.time_out(next(iter(self._waiting)), "too many clients wait")
        self._waiting[client] = None
        now = self._monitor.clock.seconds()
        self._deadlines.schedule(client, now + self.preface.timeout_seconds)

    def consider(self, client: WaitingClient, data: bytes, ended: bool) -> None:
        """A client has sent something, or has ended.

        :param data: everything that it has sent.
        """
        if client in self._decided:
            return  # what has come since is read once it is admitted
        try:
            decision = self.preface.read(data, ended) if data else None
        except PrefaceError as error:
            self.give_up(client, "error", "none", str(error))
        except Exception:
            self._log.failure("a preface failed")
            self.give_up(client, "error", "none", "the preface failed")
        else:
            if decision is not None and (self._decided or self._must_hold()):
                self._hold(client, decision)
            elif decision is not None:
                self._admit(client, decision)
            elif ended:
                self.end_early(client, client.how_it_ended())
            elif len(data) >= self.preface.max_bytes:
                self.give_up(client, "error", "none", f"no preface in {len(data)} bytes")

    def _must_hold(self) -> bool:
        return self._monitor.room.must_wait()

    def _hold(self, client: WaitingClient, decision: Decision) -> None:
        self._leave(client)
        if len(self._decided) >= MOST_WAITING:
            self.time_out(client, "too many clients wait")
            return
        self._decided[client] = decision
        client.hold()
        if self._cancel is None:
            self._cancel = self._monitor.room.subscribe(self._admit_decided)

    def _admit_decided(self) -> None:
        if self._cancel is None or self._must_hold():
            return
        self._cancel()
        self._cancel = None
        in_turns(self._monitor.clock, self._admitting())

    def _admitting(self) -> Iterator[None]:
        while self._decided and not self._must_hold():
            client = next(iter(self._decided))
            self._admit(client, self._decided.pop(client))
            yield
        if self._decided and self._cancel is None:  # paused, or full, again meanwhile
            self._cancel = self._monitor.room.subscribe(self._admit_decided)

    def _admit(self, client: WaitingClient, decision: Decision) -> None:
        self._leave(client)
        peer = (decision.client, decision.client_ip) if decision.client_ip else client.peer
        record = self._monitor.admit(*peer)
        if record is None:
            client.drop()
            return
        if decision.client_ip:
            record.client_peer = client.peer[0]
        try:
            for name, value in decision.facts.items():
                record.set_fact(name, value)
        except (TypeError, ValueError):
            self._log.failure("a preface gave an invalid fact")
            self.give_up(client, "error", "none", "the preface failed")
        else:
            client.admitted(record, decision)

    def end_early(self, client: WaitingClient, how: SideEnd) -> None:
        """A client has ended, or failed, before it sent enough."""
        if how == "fin":
            is_complete = client in self._decided
            detail = "" if is_complete else "it ended before its preface did"
            self.give_up(client, "client_closed", how, detail)
        else:
            self.give_up(client, BROKEN_REASONS["client", how], how, "")

    def time_out(self, client: WaitingClient, detail: str) -> None:
        """A client has taken too long."""
        self.give_up(client, "read_timeout", "timeout", detail)

    def give_up(
        self,
        client: WaitingClient,
        reason: Reason,
        how: SideEnd,
        detail: str,
        *,
        is_shortage: bool = False,
    ) -> None:
        """Count a client without a complete preface as a connection, which ends at once.

        :param how: how its side has ended.
        :param is_shortage: whether it ends because we had no descriptor left.
        """
        self._leave(client)
        client.drop()
        record = self._monitor.admit(*client.peer)
        if record is None:
            return
        connection = _EndedConnection(record)
        self._monitor.opened(connection)
        record.note_end("client", how)
        record.is_shortage = is_shortage
        record.end(reason, self._monitor.clock.seconds(), detail)
        self._monitor.closed(connection)

    def _leave(self, client: WaitingClient) -> None:
        self._waiting.pop(client, None)
        self._decided.pop(client, None)
        self._deadlines.cancel(client)

    def close(self) -> None:
        """Drop all clients that wait: the service stops."""
        for client in (*self._waiting, *self._decided):
            self._leave(client)
            client.drop()


@implementer(IConnection)
class _EndedConnection:
    """A connection that is over as soon as it is counted.

    :param record: its record.
    """

    def __init__(self, record: ConnectionRecord) -> None:
        self.record = record

    def end(self, reason: Reason, reset: bool = False) -> None:
        """Do nothing: there is no socket any more."""

    def measure(self) -> None:
        """Do nothing, for the same reason."""

    def policy_changed(self) -> None:
        """Do nothing, for the same reason."""


class WaitingSocket:
    """A client on a socket in the loop.

    Its bytes are only peeked at (``MSG_PEEK``), so that the ordinary data path reads them once it
    is admitted. That works as the loop is edge-triggered: unread bytes are reported once.

    :param room: where it waits.
    :param peer: its address.
    :param sock: taken over.
    :param loop: reports the socket's events.
    :param begin: relays it, once it is admitted.
    """

    def __init__(
        self,
        room: PrefaceRoom,
        peer: tuple[str, str],
        sock: socket.SocketType,
        loop: SocketLoop,
        begin: Callable[[ConnectionRecord, socket.SocketType, Address | None], object],
    ) -> None:
        self.peer = peer
        self.bucket: int | None = None
        self._room = room
        self._sock = sock
        self._loop = loop
        self._begin = begin
        self._has_ended = False
        room.enter(self)
        loop.add(sock.fileno(), self)

    def ready(self, events: int) -> None:
        """Implements ``SocketHandler.ready``."""
        self._has_ended = self._has_ended or bool(events & (RDHUP | HUP))
        try:
            data = self._sock.recv(self._room.preface.max_bytes, socket.MSG_PEEK)
        except BlockingIOError:
            return  # only EPOLLOUT: nothing was received
        except OSError as error:
            self._room.end_early(self, end_by_errno(error.errno or 0))
            return
        self._room.consider(self, data, self._has_ended or not data)

    def hold(self) -> None:
        """Implements ``WaitingClient.hold``: bytes are only peeked at, and stay in the kernel."""

    def failed(self) -> None:
        """Implements ``SocketHandler.failed``."""
        self._room.give_up(self, "error", "none", "")

    def check(self, now: float) -> float | None:
        """Implements ``Checked.check``."""
        self._room.time_out(self, "it sent no preface in time")
        return None

    def how_it_ended(self) -> SideEnd:
        """Implements ``WaitingClient.how_it_ended``."""
        # What came before a reset can still be peeked at, and hides it: only SO_ERROR shows it.
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return end_by_errno(number) if number else "fin"

    def admitted(self, record: ConnectionRecord, decision: Decision) -> None:
        """Implements ``WaitingClient.admitted``."""
        self._loop.unregister(self._sock.fileno())
        left = decision.consumed
        while left:  # recv cannot block: these bytes were peeked at
            left -= len(self._sock.recv(left)) or left
        self._begin(record, self._sock, decision.backend)

    def drop(self) -> None:
        """Implements ``WaitingClient.drop``."""
        if self._sock.fileno() >= 0:
            self._loop.remove(self._sock.fileno())
            self._sock.close()


@implementer(IHalfCloseableProtocol)
class WaitingProtocol(Protocol):
    """A client on a Twisted transport, over TLS for example.

    Once it is admitted, its transport's calls go to the client's End directly.

    :param room: where it waits.
    :param peer: its address.
    :param make_end: makes the client's End, once it is admitted.
    """

    def __init__(
        self,
        room: PrefaceRoom,
        peer: tuple[str, str],
        make_end: Callable[[ConnectionRecord, Address | None], Protocol],
    ) -> None:
        self.peer = peer
        self.bucket: int | None = None
        self._room = room
        self._make_end = make_end
        self._socket: ErrorTrackingSocket | None = None
        self._data = b""
        self._is_over = False
        self._has_ended = False
        self._is_held = False

    def connectionMade(self) -> None:
        """The client is connected."""
        self._socket = track_errors(descriptor_of(self.transport))
        self._room.enter(self)

    def dataReceived(self, data: bytes) -> None:
        """The client has sent bytes."""
        if not self._is_over:
            self._data += data
            self._room.consider(self, self._data, False)

    def readConnectionLost(self) -> None:
        """The client has ended its side."""
        if not self._is_over:
            self._has_ended = True
            self._room.consider(self, self._data, True)

    def writeConnectionLost(self) -> None:
        """Ignored: nothing was written."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed, or has failed."""
        if self._is_over:
            return
        error_number = 0 if self._socket is None else self._socket.error_number
        if reason.check(ConnectionLost) and error_number:
            self._room.end_early(self, end_by_errno(error_number))
        else:
            self._room.end_early(self, "fin")

    def check(self, now: float) -> float | None:
        """Implements ``Checked.check``."""
        self._room.time_out(self, "it sent no preface in time")
        return None

    def hold(self) -> None:
        """Implements ``WaitingClient.hold``."""
        pause = getattr(self.transport, "pauseProducing", None)
        if pause is not None:
            self._is_held = True
            pause()

    def how_it_ended(self) -> SideEnd:
        """In order: a transport reports a failure by ``connectionLost``."""
        return "fin"

    def admitted(self, record: ConnectionRecord, decision: Decision) -> None:
        """Implements ``WaitingClient.admitted``."""
        self._is_over = True
        end: Protocol = self._make_end(record, decision.backend)
        # Transports look these up for each call.
        for name in (
            "dataReceived",
            "readConnectionLost",
            "writeConnectionLost",
            "connectionLost",
        ):
            setattr(self, name, getattr(end, name))
        data, self._data = self._data, b""
        assert self.transport is not None
        if self._is_held and not self._has_ended:
            self.transport.resumeProducing()  # type: ignore[attr-defined]
        end.makeConnection(self.transport)
        if len(data) > decision.consumed:
            end.dataReceived(data[decision.consumed :])
        if self._has_ended:
            end.readConnectionLost()  # type: ignore[attr-defined]

    def drop(self) -> None:
        """Implements ``WaitingClient.drop``."""
        self._is_over = True
        transport: Any = self.transport
        if ISSLTransport.providedBy(transport):
            # It would wait for the peer's close_notify, which may never come: nothing bounds those
            # that are no longer waiting.
            transport.abortConnection()
        elif transport is not None:
            transport.loseConnection()
