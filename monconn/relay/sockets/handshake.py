"""TLS handshakes over sockets, and the clients of a listener that are amid one.

OpenSSL reads and writes memory, never the socket: so it is we who see an end of input, a reset or a
socket that takes no more, and who decide what follows. A bare FIN that OpenSSL saw itself would be
a fatal error to it, after which it sends nothing any more.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from OpenSSL import SSL

from monconn.addresses import Address
from monconn.errors import os_error_text
from monconn.model.reasons import Refusal, SideEnd
from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.monitor.subscriptions import Cancel
from monconn.net.listen import BATCH
from monconn.net.sockets import end_by_errno
from monconn.net.tls import ServerTls, fault_text, handshake_facts
from monconn.relay.sockets.loop import OUT, READ_ON, SocketLoop, TurnShare

MOST_HANDSHAKES = 1000
"""How many clients of a listener may be amid a handshake, or wait for a slot after it. Others wait
in the kernel's queue."""
_READ_BYTES = 1 << 12
"""More than a hello has. What comes behind a handshake goes to OpenSSL at once, uncounted."""
_OUTPUT_BYTES = 1 << 14
RECORDS_A_PIECE = 32
PIECE_BYTES = 1 << 15
"""How much OpenSSL is given at once. Its buffers grow to a third more than that, and never shrink:
it is what a connection that was busy once goes on holding. With half as much, bulk costs 6 % more.
"""

_LOST: dict[SideEnd, str] = {
    "fin": "closed amid the handshake",
    "reset": "reset amid the handshake",
    "timeout": "lost amid the handshake",
}

_buffer = memoryview(bytearray(_READ_BYTES))  # empty again before the next read, as the Ends' is


class RecordFinder:
    """Finds the records in what a peer sends, by the five bytes in front of each (RFC 8446, 5.1).

    OpenSSL reads on until a record has data, and one without costs 20 µs: an update of keys, or a
    wish for another handshake. So whoever gives it bytes has to know how many records they are.
    """

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""  # the beginning of one
        self._left = 0  # bytes up to the next one

    def pieces(self, received: memoryview) -> list[tuple[int, int]]:
        """Divide what was received next.

        :returns: where each piece ends, and how many records begin in it: no more than
            :data:`RECORDS_A_PIECE`, and after :data:`PIECE_BYTES` another piece begins.
        """
        size, at = len(received), self._left
        ends: list[tuple[int, int]] = []
        begin = count = 0
        if self._header:
            missing = 5 - len(self._header)
            self._header += received[:missing]
            if size < missing:
                return [(size, 0)]
            at = missing + (self._header[3] << 8 | self._header[4])
            self._header, count = b"", 1
        while at + 5 <= size:
            if count == RECORDS_A_PIECE or at - begin >= PIECE_BYTES:
                ends.append((at, count))
                begin, count = at, 0
            count += 1
            at += 5 + (received[at + 3] << 8 | received[at + 4])
        if at < size:
            self._header, self._left = bytes(received[at:]), 0
        else:
            self._left = at - size
        ends.append((size, count))
        return ends


class HandshakeListener(Protocol):
    """Receives the result of a handshake."""

    def handshake_done(self, handshake: Handshake) -> None:
        """It is complete. The socket is still in the loop, with the handshake as its handler."""

    def handshake_failed(self, how: SideEnd, detail: str) -> None:
        """It has failed, and the socket is closed.

        :param how: how the peer has ended; ``none`` if it was TLS that failed.
        :param detail: what went wrong, in words.
        """

    def failed(self) -> None:
        """An unexpected exception: end what can be ended."""


class Handshake:
    """One TLS handshake, on either side of it.

    :param sock: connected; taken over.
    :param make: makes the TLS connection, once it is needed: a client that sends nothing costs
        us none.
    :param loop: reports the socket's events.
    :param share: when there is time for it.
    :param listener: notified of the result.
    :param is_server: whether the peer is a client.
    """

    __slots__ = (
        "_is_server",
        "_is_waiting",
        "_listener",
        "_loop",
        "_make",
        "_share",
        "is_done",
        "output",
        "records",
        "seen",
        "sock",
        "tls",
    )

    def __init__(
        self,
        sock: socket.SocketType,
        make: Callable[[], SSL.Connection],
        loop: SocketLoop,
        share: TurnShare,
        listener: HandshakeListener,
        *,
        is_server: bool,
    ) -> None:
        self.sock = sock
        self.tls: SSL.Connection | None = None
        self.output = bytearray()
        """What is to be sent and the kernel did not take yet, also when it is complete."""
        self.records = RecordFinder()
        """Knows where the next record begins, for who reads on."""
        self.seen = 0
        """The events that say that the input must be read to its end, for who reads on."""
        self.is_done = False
        self._is_waiting = False  # for its share of a turn
        self._is_server = is_server
        self._make = make
        self._loop = loop
        self._share = share
        self._listener: HandshakeListener | None = listener

    def start(self, events: int) -> None:
        """Speak first, as the client, on a socket that is in the loop.

        :param events: what was reported of the socket when it was connected.
        """
        self._loop.set_handler(self.sock.fileno(), self)
        self.ready(events)

    def ready(self, events: int) -> None:
        """Implements ``SocketHandler.ready``."""
        self.seen |= events & READ_ON
        if self.is_done or self._listener is None:
            return  # it waits for a slot: what has come is read then
        how = self._send() if events & OUT else "none"
        speaks_first = self.tls is None and not self._is_server
        if how != "none":
            self._fail(how, _LOST[how])
        elif (speaks_first or events & ~OUT) and not self._is_waiting:
            if not self._share.take(self):
                self._is_waiting = True
                return
            if speaks_first:
                self._step()
            if events & ~OUT:  # what came with the connection is not reported again
                self._receive()

    def resume(self) -> None:
        """Implements ``SharingHandler.resume``."""
        self._is_waiting = False
        if self._listener is None:
            return
        if self.tls is None and not self._is_server:
            self._step()
        self._receive()  # whatever has been reported meanwhile

    def failed(self) -> None:
        """Implements ``SocketHandler.failed``."""
        if self._listener is not None:
            self._listener.failed()

    def _receive(self) -> None:
        """Read on until there is nothing more, or the handshake is over."""
        while not self.is_done and self._listener is not None:
            try:
                count = self.sock.recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError as error:
                how = end_by_errno(error.errno or 0)
                self._fail(how, _LOST[how])
                return
            if not count:
                self._fail("fin", _LOST["fin"])
                return
            if self.tls is None:
                self.tls = self._make()
            self.tls.bio_write(_buffer[:count])
            self.records.pieces(_buffer[:count])
            self._step()
            # As in SocketEnd: a read that returned less than it may has emptied the socket.
            if count < _READ_BYTES and not self.seen:
                return

    def _step(self) -> None:
        """Go as far as what was received allows, and send the answer."""
        if self.tls is None:
            self.tls = self._make()
        is_done, fault = False, None
        try:
            self.tls.do_handshake()
            is_done = True
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            fault = fault_text(error, self.tls)
        if not (is_done and self._has_only_tickets()):
            try:
                while True:
                    self.output += self.tls.bio_read(_OUTPUT_BYTES)
            except SSL.WantReadError:
                pass
        how = self._send()  # an alert, too: the peer is to know why
        if fault is not None:
            self._fail("none", fault)
        elif how != "none":
            self._fail(how, _LOST[how])
        elif is_done:
            assert self._listener is not None
            self.is_done = True
            self._listener.handshake_done(self)

    def _has_only_tickets(self) -> bool:
        """Whether all that OpenSSL has still written is a client's tickets, which can wait.

        They go with the first bytes to the client. Sent at once (RFC 8446, 4.6.1), they find the
        socket of one that sends and closes closed: its kernel answers with a reset, and what it has
        sent before may be lost.
        """
        assert self.tls is not None
        return self._is_server and self.tls.get_protocol_version() == SSL.TLS1_3_VERSION

    def _send(self) -> SideEnd:
        """Send what there is, as far as the kernel takes it.

        :returns: how the connection has failed; ``none`` if it has not.
        """
        if self.output:
            try:
                del self.output[: self.sock.send(self.output)]
            except BlockingIOError:
                pass
            except OSError as error:
                return end_by_errno(error.errno or 0)
        return "none"

    def _fail(self, how: SideEnd, detail: str) -> None:
        listener = self._listener
        self.drop()
        if listener is not None:
            listener.handshake_failed(how, detail)

    def drop(self) -> None:
        """Close the socket and report nothing; harmless the second time."""
        if self._listener is not None:
            self._listener = None
            self._loop.remove(self.sock.fileno())
            self.sock.close()

    def leave(self) -> tuple[SSL.Connection, bytearray]:
        """Hand over the socket, which stays open and in the loop.

        :returns: the TLS connection, and what is still to be sent.
        """
        assert self.tls is not None
        self._listener = None
        return self.tls, self.output


Begin = Callable[[ConnectionRecord, socket.SocketType, "Address | None", Handshake], object]


class _Client:
    """A client that is amid its handshake, or waits for a slot after it.

    :param room: where it is.
    :param record: what it was admitted with, for the time being.
    :param backend: where it is forwarded to, if not where the service does.
    :param begin: relays it, once it is admitted.
    """

    __slots__ = ("_room", "backend", "begin", "bucket", "handshake", "record")

    def __init__(
        self,
        room: HandshakeRoom,
        record: ConnectionRecord,
        backend: Address | None,
        begin: Begin,
    ) -> None:
        self.record = record
        self.backend = backend
        self.begin = begin
        self.bucket: int | None = None
        self.handshake: Handshake
        self._room = room

    def handshake_done(self, handshake: Handshake) -> None:
        """Implements ``HandshakeListener.handshake_done``."""
        self._room.done(self)

    def handshake_failed(self, how: SideEnd, detail: str) -> None:
        """Implements ``HandshakeListener.handshake_failed``."""
        self.record.note_end("client", how)
        self._room.refuse(self, "handshake_failed", detail)

    def failed(self) -> None:
        """Implements ``HandshakeListener.failed``."""
        self._room.refuse(self, "handshake_failed", "the handshake raised an exception")

    def check(self, now: float) -> float | None:
        """Implements ``Checked.check``: its time is over."""
        self.record.note_end("client", "timeout")
        said = "nothing was received" if self.handshake.tls is None else "it was not complete"
        self._room.refuse(self, "handshake_timeout", f"{said} in {self._room.timeout_seconds:g} s")
        return None


class HandshakeRoom:
    """The clients of one listener between the accept queue and their admission.

    They take no slot of the service and no connection to the backend. What they cost is bounded in
    number, bytes and time.

    :param monitor: the service's monitor.
    :param tls: makes their TLS connections.
    :param loop: reports their sockets' events.
    :param share: when there is time for them.
    :param deadlines: checks how long they take.
    """

    def __init__(
        self,
        monitor: Monitor,
        tls: ServerTls,
        loop: SocketLoop,
        share: TurnShare,
        deadlines: Deadlines,
    ) -> None:
        self.timeout_seconds = tls.settings.handshake_timeout
        self._monitor = monitor
        self._tls = tls
        self._loop = loop
        self._share = share
        self._deadlines = deadlines
        self._clients: set[_Client] = set()
        self._waiting: deque[_Client] = deque()  # for a slot; they are among _clients
        self._cancel: Cancel | None = None
        self._is_admitting = False

    def __len__(self) -> int:
        """How many clients are amid a handshake, or wait for a slot."""
        return len(self._clients)

    def must_wait(self) -> bool:
        """Whether the next client is to be left in the accept queue."""
        return len(self._clients) >= MOST_HANDSHAKES or self._monitor.room.must_wait()

    def enter(
        self,
        record: ConnectionRecord,
        sock: socket.SocketType,
        backend: Address | None,
        begin: Begin,
    ) -> None:
        """Begin a client's handshake.

        :param record: what :meth:`Monitor.admit` has made.
        :param sock: does not block; taken over.
        :param begin: relays it, once its handshake is complete and it is admitted.
        """
        record.pipe = "tls"  # of a refused client, too
        client = _Client(self, record, backend, begin)
        client.handshake = Handshake(
            sock, self._tls.connection, self._loop, self._share, client, is_server=True
        )
        self._clients.add(client)
        self._deadlines.schedule(client, record.opened + self.timeout_seconds)
        try:
            self._loop.add(sock.fileno(), client.handshake)
        except OSError as error:  # ENOMEM, ENOSPC: the user's share of watches is used up
            self.refuse(client, "handshake_failed", os_error_text(error))

    def done(self, client: _Client) -> None:
        """A client's handshake is complete: admit it, or have it wait for a slot.

        While the service is paused it waits as well, without a limit: no backend is dialled then.
        """
        self._deadlines.cancel(client)
        if self._waiting or self._monitor.room.must_hold():
            self._waiting.append(client)
            if self._cancel is None:
                self._cancel = self._monitor.room.subscribe(self._admit_waiting)
        else:
            self._admit(client)

    def _admit_waiting(self) -> None:
        if self._is_admitting:  # one that was admitted has ended at once: the loop below goes on
            return
        self._is_admitting = True
        try:
            for _ in range(BATCH):
                if not self._waiting or self._monitor.room.must_hold():
                    break
                self._admit(self._waiting.popleft())
            else:
                self._monitor.clock.callLater(0, self._admit_waiting)
        finally:
            self._is_admitting = False
        if not self._waiting and self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _admit(self, client: _Client) -> None:
        record = client.record
        try:
            if self._monitor.admit(record.client, record.client_ip, record=record) is None:
                client.handshake.drop()
                return
            assert client.handshake.tls is not None
            with suppress(ValueError):  # a preface has found all the facts that there may be
                for name, value in handshake_facts(client.handshake.tls).items():
                    record.set_fact(name, value)
            client.begin(record, client.handshake.sock, client.backend, client.handshake)
        finally:
            self._leave(client)

    def refuse(self, client: _Client, refusal: Refusal, detail: str) -> None:
        """Turn a client away."""
        self._deadlines.cancel(client)
        client.handshake.drop()
        self._monitor.refuse(client.record, refusal, detail)
        self._leave(client)

    def _leave(self, client: _Client) -> None:
        was_full = len(self._clients) >= MOST_HANDSHAKES
        self._clients.discard(client)
        if was_full:
            self._monitor.room.notify()

    def close(self) -> None:
        """Turn all clients away that are here: the program stops."""
        self._waiting.clear()
        for client in tuple(self._clients):
            self.refuse(client, "stopping", "")
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
