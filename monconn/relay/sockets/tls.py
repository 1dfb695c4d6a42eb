"""Ends over TLS on sockets: OpenSSL reads and writes memory, and we the socket.

What such an End passes on is what its peer's application sent, so bytes are copied and never
spliced. An end has two shapes here: ``close_notify``, which the peer has authenticated, and the
bare FIN, which anybody on the way may have sent. See :meth:`TlsEnd._handle_end_of_input`.
"""

from __future__ import annotations

import errno
import select
import socket

from OpenSSL import SSL

from monconn.errors import MonconnError
from monconn.model.reasons import Reason, Side, SideEnd
from monconn.model.record import ConnectionRecord
from monconn.net.tls import ClientTls, fault_text
from monconn.net.tls_faults import UNFINISHED, cut_text, is_alert
from monconn.relay.sockets.connect import Connector
from monconn.relay.sockets.end import (
    BROKEN,
    CHUNK_BYTES,
    COPY_BYTES,
    ENDED,
    LEAST_BYTES,
    Shared,
    SocketEnd,
    read_buffer,
)
from monconn.relay.sockets.handshake import PIECE_BYTES, Handshake, RecordFinder
from monconn.relay.sockets.loop import RDHUP
from monconn.relay.sockets.pipes import PipePool
from monconn.relay.sockets.send_queue import QueueOwner, SendQueue

RECORD_BYTES = 1 << 14
"""The most that one record carries (RFC 8446, 5.1), and so one read of OpenSSL's."""
MOST_EMPTY_RECORDS = 32
"""Records without data in one read, or in all over TLS 1.2: nobody needs as many, and each may cost
as much as a kilobyte of data, or an alert for an answer."""
_RECORD_OVERHEAD_BYTES = 128  # at most: 22 in TLS 1.3, 29 with AES-GCM in 1.2, more with CBC
# Upper half: what is read. Lower half: what that contains, and a record begun before it.
_encrypted = read_buffer[COPY_BYTES // 2 :][:CHUNK_BYTES]
_LEAST_BYTES_A_READ = 1 << 12
_MANY_RECORDS = 64
_SHORT_RECORD_BYTES = 128
"""Who sends as many that are as short is read from little by little, and in its share of a turn."""
_RECORD_COST_BYTES = 1 << 11
"""A record takes 2 µs or more, however short it is: as much as so many bytes."""
_ACKNOWLEDGED_SECONDS = 0.2
"""How often a peer that has said its end, and sent no FIN, is checked for having all of ours."""
_IN = getattr(select, "EPOLLIN", 1)


class TlsSendQueue(SendQueue):
    """Encrypts bytes, and sends or queues the records.

    Until the handshake is complete it holds the bytes themselves.
    """

    accepts_pipes = False
    __slots__ = ("_has_ended", "_tls")

    def __init__(self, owner: QueueOwner, pipes: PipePool) -> None:
        super().__init__(owner, pipes)
        self._tls: SSL.Connection | None = None
        self._has_ended = False

    def start(self, tls: SSL.Connection, output: bytearray) -> None:
        """The handshake is complete: encrypt what is queued; ``connect_succeeded`` follows.

        :param output: what is to be sent before it.
        """
        early, self._pending = self._pending, output
        self._tls = tls
        if early:
            self.send(early)  # still blocked: it is queued

    def send(self, chunk: bytes | bytearray | memoryview) -> None:
        """Encrypt bytes; send the records, and queue what the kernel does not take of them."""
        tls = self._tls
        if tls is None:
            super().send(chunk)
            return
        size = len(chunk)
        if self.error is not None or not size:
            return  # OpenSSL must not be given nothing to write
        try:
            if size <= RECORD_BYTES:
                tls.send(chunk)
                self.send_output(size + _RECORD_OVERHEAD_BYTES)
            else:
                records = []
                for at in range(0, size, PIECE_BYTES):
                    # send() takes one record only: pyOpenSSL switches partial writes on.
                    tls.sendall(chunk[at : at + PIECE_BYTES])
                    records.append(self._records(PIECE_BYTES + 3 * _RECORD_OVERHEAD_BYTES))
                super().send(b"".join(records))
        except SSL.Error as error:
            self._fail(OSError(errno.EPROTO, fault_text(error, tls)))

    def send_output(self, expected: int = RECORD_BYTES) -> None:
        """Send what OpenSSL has written: records, alerts.

        :param expected: about how many bytes; more are sent, too.
        """
        records = self._records(expected)
        if records:
            super().send(records)

    def _records(self, expected: int) -> bytes:
        assert self._tls is not None
        records = b""
        try:
            records = self._tls.bio_read(expected)
            while len(records) >= expected:  # before the first ones, there may be tickets
                expected = len(records) + RECORD_BYTES
                records += self._tls.bio_read(RECORD_BYTES)
        except SSL.WantReadError:
            pass
        return records

    def room(self) -> int:
        """About how many bytes the kernel has room for, once they are encrypted."""
        room = super().room()
        return room - room // 128

    def end(self) -> None:
        """Send the end: ``close_notify``, and FIN once the kernel has taken that."""
        assert self._tls is not None
        if not self._has_ended:
            self._has_ended = True
            try:
                self._tls.shutdown()
            except SSL.Error:
                pass  # after a fatal alert there is nothing more to say
            self.send_output()
        if not (self.blocked or self.has_sent_end or self._sock is None):
            super().end()

    def close(self) -> None:
        """Drop what is queued; the End closes the socket."""
        super().close()
        self._tls = None


class TlsEnd(SocketEnd):
    """One side of a relay over TLS (see :class:`~monconn.relay.sockets.end.SocketEnd`).

    A client's handshake is complete before there is an End. A backend's is a part of the
    connecting.

    :param handshake: the client's, which is complete.
    :param tls: makes and checks the backend's TLS connection.
    """

    __slots__ = (
        "_client_tls",
        "_down_before_end",
        "_empty_records",
        "_handshake",
        "_is_fresh",
        "_is_waiting",
        "_may_answer",
        "_most_bytes",
        "_records",
        "_sends_short_records",
        "_tls",
    )

    def __init__(
        self,
        side: Side,
        record: ConnectionRecord,
        shared: Shared,
        connector: Connector | None = None,
        *,
        handshake: Handshake | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        super().__init__(side, record, shared, connector)
        self.send_queue = TlsSendQueue(self, shared.pipes)
        self.sink = self.send_queue
        self._handshake = handshake
        self._client_tls = tls
        self._tls: SSL.Connection | None = None
        self._may_answer = False
        self._records: RecordFinder
        self._empty_records = 0  # those that have begun, less those that had data
        self._is_fresh = True  # OpenSSL may have got more than the handshake, which is not read yet
        self._down_before_end = -1  # the record's ``down`` when our end was sent to a backend
        self._has_unread = True  # no event reports what came with the handshake
        # What is read at once is decrypted at once, and 64 KiB may be 3,000 records.
        self._most_bytes = _LEAST_BYTES_A_READ
        self._sends_short_records: bool | None = None  # not known yet
        self._is_waiting = False  # for its share of a turn

    # -- the beginning

    def begin(self, sock: socket.SocketType) -> None:
        """Take over the socket of a client whose handshake is complete."""
        seen = self._take_over()
        self._attach(sock)
        self._seen |= seen
        self._loop.set_handler(self._fd, self)
        self.reports.connected(self)
        if self.send_queue.blocked and self.phase != "closed":
            self.send_queue.flush()

    def _take_over(self) -> int:
        """Go on where the handshake has ended.

        :returns: the events that it has seen.
        """
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        assert isinstance(self.send_queue, TlsSendQueue)
        self._tls, output = handshake.leave()
        self._records = handshake.records
        # A refused renegotiation is answered by an alert. In TLS 1.3 there is none, nor anything
        # else to say at once; and a client's tickets wait for the first bytes to it.
        self._may_answer = self._tls.get_protocol_version() < SSL.TLS1_3_VERSION
        self.send_queue.start(self._tls, output)
        return handshake.seen

    def connect_succeeded(
        self, sock: socket.SocketType, events: int, error_number: int = 0
    ) -> None:
        """Implements ``ConnectListener.connect_succeeded``: the handshake is next.

        One that was reset already fails as it sends its first bytes.
        """
        assert self._client_tls is not None
        self._attempt = None
        make = self._client_tls.connection
        self._handshake = Handshake(
            sock, make, self._loop, self._shared.handshakes, self, is_server=False
        )
        self._handshake.start(events)

    def handshake_done(self, handshake: Handshake) -> None:
        """Implements ``HandshakeListener.handshake_done``: only now the backend is connected."""
        assert self._client_tls is not None
        assert handshake.tls is not None
        try:
            self._client_tls.check_peer(handshake.tls)
        except MonconnError as error:
            self.connect_failed("backend_unreachable", str(error))
            return
        seen = self._take_over()
        super().connect_succeeded(handshake.sock, seen | _IN)

    def handshake_failed(self, how: SideEnd, detail: str) -> None:
        """Implements ``HandshakeListener.handshake_failed``."""
        reasons: dict[SideEnd, Reason] = {"reset": "backend_reset", "timeout": "connect_timeout"}
        self.connect_failed(reasons.get(how, "backend_unreachable"), detail)

    # -- reading

    def _has_input(self) -> bool:
        if self._is_fresh:
            assert self._tls is not None
            try:
                self._tls.recv(1, socket.MSG_PEEK)
                return True
            except SSL.WantReadError:
                self._is_fresh = False
            except SSL.Error:
                return True  # an end or a fault: reading will show it
        return super()._has_input()

    def _read_bulk(self) -> int:
        return self._copy(min(CHUNK_BYTES, max(LEAST_BYTES, self.peer.sink.room())))

    def _copy(self, wanted: int = CHUNK_BYTES) -> int:
        """See ``SocketEnd._copy``; but who sends short records waits for its share of a turn.

        So does who has sent nothing yet; and who has ever sent many goes on doing so. All others
        wait, too, once much was read in this turn: what is in 64 KiB is not known before.
        """
        if self._sends_short_records is not False or self._shared.records.is_needed():
            if self._is_waiting:
                return 0
            if not self._shared.records.take(self):
                self._is_waiting = True
                return 0
        return self._copy_records(min(wanted, self._most_bytes))

    def resume(self) -> None:
        """Implements ``SharingHandler.resume``."""
        self._is_waiting = False
        if self.phase != "open" or self._input_ended:
            return
        self._loop.refresh()
        if self.holds:
            self._has_unread = True
            return
        wanted = self._most_bytes
        if self.throttle is not None:
            wanted = min(wanted, self.throttle.allowance(self._loop.now))
        if wanted and self._copy_records(wanted):
            self._read()

    def _copy_records(self, wanted: int) -> int:
        """Read records, and pass on what is in them; see ``SocketEnd._copy``.

        OpenSSL's buffer is empty after it, but for the beginning of a record: so nothing is left
        there that no event of the socket's would report.
        """
        tls = self._tls
        assert tls is not None
        was_fresh, self._is_fresh = self._is_fresh, False
        taken, pieces = 0, [(0, 0)]
        if not was_fresh:
            try:
                taken = self._sock.recv_into(_encrypted, wanted)
            except OSError as error:
                return self._cannot_read(error)
            if not taken:
                return self._handle_end_of_input()
            pieces = self._records.pieces(_encrypted[:taken])
        # Errors themselves are not kept: each has the frame that would have it.
        at, count, reads, has_ended, detail = 0, 0, 0, False, ""
        how: SideEnd = "none"
        empty = self._empty_records if self._may_answer else 0
        try:
            for end, records in pieces:
                if end:
                    tls.bio_write(_encrypted[at:end])
                    at = end
                empty += records
                try:
                    while True:
                        reads += 1
                        count += tls.recv_into(read_buffer[count:], RECORD_BYTES)
                        empty -= 1
                except SSL.WantReadError:
                    if empty > MOST_EMPTY_RECORDS:
                        detail = f"the {self.side} sends too many records without data"
                        break
        except SSL.ZeroReturnError:
            has_ended = True
        except SSL.Error as error:
            # An alert is how the peer says that it has given up; all else it was we who refused.
            how = "reset" if is_alert(error) else "none"
            detail = fault_text(error, tls)
        self._empty_records = empty
        self._shared.records.count(taken + reads * _RECORD_COST_BYTES)
        if count:
            if self.is_watched or self._observers.watched:
                self.reports.data(self, bytes(read_buffer[:count]), self._loop.now)
            else:
                self.record.count(self._direction, count, self._loop.now)
                chunk = read_buffer[:count]
                if self.track is not None:
                    self.track.add(chunk, self._loop.now)
                self.peer.sink.send(chunk)
            if self.phase != "open":
                return 0
        elif self._may_answer and not self._output_ended:
            assert isinstance(self.send_queue, TlsSendQueue)
            self.send_queue.send_output()
        if has_ended:
            self._input_ended = True
            self.reports.eof(self)
            failure = self.send_queue.error
            if (failure is not None or self._seen & BROKEN) and self.phase != "closed":
                self._break(failure or self._socket_error())  # which came after the end
        elif detail:
            self._refuse_records(how, detail)
        if self.holds or self._input_ended or self.phase != "open":
            return 0
        if was_fresh:
            return 1  # the socket was not read from yet
        self._is_bulk = taken >= CHUNK_BYTES or taken == wanted or self.throttle is not None
        if reads * _SHORT_RECORD_BYTES < taken:
            self._most_bytes = min(2 * self._most_bytes, CHUNK_BYTES)
        elif reads > _MANY_RECORDS:
            self._most_bytes = _LEAST_BYTES_A_READ
            self._sends_short_records = True
        # Else they are few only because no more had come yet: more are not asked for.
        self._sends_short_records = self._sends_short_records or False
        # A record takes 3 µs, however short it is: one who sends single bytes gets no larger share.
        return max(taken, reads * _LEAST_BYTES_A_READ) if taken == wanted or self._seen else 0

    def _refuse_records(self, how: SideEnd, detail: str) -> None:
        """Act on records that OpenSSL does not take, or on a fatal alert."""
        assert isinstance(self.send_queue, TlsSendQueue)
        if not self._output_ended:
            self.send_queue.send_output()  # an alert of our own
        if self.phase == "open":
            self._dispose()
            self.reports.broken(self, how, detail)

    def _handle_end_of_input(self) -> int:
        """Act on a FIN without close_notify before it.

        A client's ends its half only: many clients close so, and what it has asked for is still to
        be delivered. A backend's is a cut: whoever waits for the rest of an answer must not take a
        part of it for the whole.
        """
        if self.send_queue.error is not None and not self._seen & ENDED:
            return super()._handle_end_of_input()  # it is none
        detail = cut_text(self.side)
        if self.side == "client":
            self.record.add_detail(detail)
            return super()._handle_end_of_input()
        if self.record.client_end == "fin" and self._down_before_end == self.record.down:
            # Many servers close at once when they get our end, and say nothing. It was the client
            # who has ended the connection; should it wait for an answer, it hears of a cut.
            self.record.note_end("backend", "fin")
            self.record.end("client_closed", self._loop.now, detail)
        self._dispose()
        self.reports.broken(self, "reset", detail)
        return 0

    # -- called by the relay

    def end_writing(self) -> None:
        """Implements ``End.end_writing``."""
        self._down_before_end = self.record.down
        super().end_writing()

    def close(self) -> None:
        """Implements ``End.close``."""
        if self.phase == "open" and self._input_ended:
            self.phase = "draining"
            self.end_writing()
            if self.phase == "draining" and not self._has_output():
                self._finish()
        else:
            super().close()

    def _finish(self) -> None:
        super()._finish()
        # With its FIN still to come, no event says that the peer has acknowledged ours.
        if self.phase == "draining" and not self._seen & RDHUP and self.bucket is None:
            when = self._monitor.clock.seconds() + _ACKNOWLEDGED_SECONDS
            self._shared.deadlines.schedule(self, when)

    def check(self, now: float) -> float | None:
        """Implements ``Checked.check``."""
        if not self._is_finishing:
            return super().check(now)
        super()._finish()
        return None if self.phase == "closed" else now + _ACKNOWLEDGED_SECONDS

    # -- the end

    def _dispose(self, tcp: bytes | None = None) -> None:
        if self._handshake is not None:
            if self.record.reason == "connect_timeout":
                self.record.add_detail(UNFINISHED)
            self._handshake.drop()
            self._handshake = None
        super()._dispose(tcp)
        self._tls = None
