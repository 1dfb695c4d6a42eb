"""Holds a recorded conversation again: a client that does what another one did."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs

from monconn.addresses import Address, EndpointAddress, TcpAddress, UnixAddress
from monconn.errors import ControlError, QuestionError, os_error_text, quoted
from monconn.model.reasons import SideEnd
from monconn.ops.replay import Answer, Conversation
from monconn.policy.tls import BackendTls
from monconn.policy.tls_endpoints import tls_backend

_READ_BYTES = 64 * 1024
_LONGEST_WAIT_SECONDS = 3600.0  # poll(2) takes milliseconds in an int
_MORE_SECONDS = 0.3
"""How long to look for more than the recorded answer, where its end is not recorded."""


@attrs.frozen
class Replayed:
    """What became of a conversation that was held again."""

    answer: Answer
    sent: int
    seconds: float
    notes: tuple[str, ...]
    """What was not as recorded, beside the answer."""


def replay(
    conversation: Conversation,
    where: Address,
    at_once: bool,
    patience_seconds: float,
    connected: Callable[[], object],
) -> Replayed:
    """Send to a backend what a client had sent, and take its answer.

    Each chunk is sent as long after what came before it as it was recorded: after the client's
    chunk before it, and after the answer that the client had got by then. So a backend that is
    slower than the recorded one is not overrun. Once the backend has ended its side, the rest is
    sent at once.

    :param at_once: all chunks without a pause; the client's end still comes after the answer.
    :param patience_seconds: how much longer than recorded the backend may take for each answer,
        and how long it may refuse to take what is sent.
    :param connected: is called once there is a connection.
    :raises ControlError: there is no connection.
    """
    with _connected(where, patience_seconds) as link:
        connected()
        return _Exchange(conversation, link, at_once, patience_seconds).run()


class _Exchange:
    def __init__(
        self, conversation: Conversation, link: _Link, at_once: bool, patience_seconds: float
    ) -> None:
        self._conversation = conversation
        self._link = link
        self._at_once = at_once
        self._patience = patience_seconds
        self._answer = Answer(conversation)
        self._steps = list(reversed(conversation.steps))
        self._notes: list[str] = []
        self._began = self._stepped_at = self._received_at = time.monotonic()
        self._waits = True

    def run(self) -> Replayed:
        while (until := self._proceed()) is not None:
            seconds = max(0.0, until - time.monotonic())
            if self._link.wait(seconds, reads=self._answer.ended is None):
                self._receive()
        unsent = self._link.unsent + sum(len(each.data) for each in self._steps)
        if unsent:
            self._notes.append(f"{unsent:,} byte{'' if unsent == 1 else 's'} could not be sent")
        seconds = time.monotonic() - self._began
        return Replayed(self._answer, self._conversation.sent - unsent, seconds, tuple(self._notes))

    def _proceed(self) -> float | None:
        """Do what is due.

        :returns: when something else is, if nothing comes before; None if all is over.
        """
        if self._answer.ended == "reset" or self._answer.is_endless:
            return None
        now = time.monotonic()
        while self._steps and not self._link.unsent and not self._link.is_broken:
            due = self._due()
            if due > now:
                return due
            self._step(now)
            now = time.monotonic()
        if not self._link.unsent or self._link.is_broken:
            return self._end(now)
        until = self._link.sent_at + self._patience
        if until <= now:
            self._notes.append(f"the backend took nothing for {self._patience:g} s")
            return None
        return until

    def _due(self) -> float:
        step = self._steps[-1]
        waits = self._waits and self._answer.ended is None and not (self._at_once and step.data)
        if waits and self._answer.received < step.answered:
            until = self._stepped_at + step.since_step + self._patience
            if until > time.monotonic():
                return until
            short = step.answered - self._answer.received
            self._notes.append(
                f"the answer stayed {short:,} byte{'' if short == 1 else 's'} short of the"
                " recorded one: the rest was sent without waiting for more"
            )
            self._waits = False
        if self._at_once or self._answer.ended is not None:  # nobody is there for a pause
            return self._stepped_at
        if self._waits:
            return max(self._stepped_at, self._received_at) + step.since_event
        return self._stepped_at + step.since_step

    def _step(self, now: float) -> None:
        step = self._steps.pop()
        self._stepped_at = now
        if step.data:
            self._link.send(step.data)
        elif self._conversation.client_end == "fin":
            self._link.end()
        else:
            self._link.reset()

    def _end(self, now: float) -> float | None:
        """When the rest of the answer is not awaited any more; None if that is now."""
        if self._answer.ended is not None or self._link.is_closed:
            return None
        until = self._stepped_at + self._conversation.waiting_seconds + self._patience
        is_whole = self._answer.received >= self._conversation.answered
        if is_whole and self._conversation.backend_end is None:
            until = min(until, max(self._stepped_at, self._received_at) + _MORE_SECONDS)
        return until if until > now else None

    def _receive(self) -> None:
        data, ended = self._link.receive()
        if data:
            # More than the client had got before its next step delays that no further: a broker
            # that goes on publishing would have it wait for ever.
            if not self._steps or self._answer.received < self._steps[-1].answered:
                self._received_at = time.monotonic()
            self._answer.add(data)
        self._answer.ended = ended


# -- connections


class _Link:
    """A connection to the backend.

    :param sock: connected; it need not be blocking.
    :param tls: OpenSSL's side of it, after the handshake; None without TLS.
    """

    def __init__(self, sock: socket.socket, tls: Any = None) -> None:
        self._sock = sock
        self._tls = tls
        self._has_unread = tls is not None  # what came with the end of the handshake
        self._pending = b""
        self._ends = False
        self.sent_at = time.monotonic()
        """When the kernel last took something."""
        self.is_broken = False
        """Whether nothing can be sent any more."""
        self.is_closed = False
        sock.setblocking(False)

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not taken yet."""
        return len(self._pending)

    def send(self, data: bytes) -> None:
        """Send bytes as soon as the kernel takes them."""
        if self._tls is not None:
            self._tls.send(data)  # a memory BIO takes all
            data = _taken_from(self._tls)
        self._pending += data
        self.sent_at = time.monotonic()
        self._flush()

    def end(self) -> None:
        """End our side, in order."""
        if self._tls is not None:
            self._tls.shutdown()
            self._pending += _taken_from(self._tls)
        self._ends = True
        self._flush()

    def reset(self) -> None:
        """End the connection by a reset."""
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        self.is_closed = True

    def wait(self, seconds: float, reads: bool) -> bool:
        """Wait until something has come, or until something more could be sent.

        :param reads: whether the backend's side has not ended.
        :returns: whether to call :meth:`receive`.
        """
        if self._has_unread:
            return True
        poll = select.poll()
        poll.register(
            self._sock,
            (select.POLLIN if reads else 0) | (select.POLLOUT if self._pending else 0),
        )
        # In whole milliseconds: rounded down, it would turn in circles until the time has come.
        events = poll.poll(int(min(seconds, _LONGEST_WAIT_SECONDS) * 1000) + 1)
        if not events:
            return False
        if self._pending:
            self._flush()
        if not reads and events[0][1] & (select.POLLERR | select.POLLHUP):
            self.is_broken = True  # reported on and on
        return reads and bool(events[0][1] & ~select.POLLOUT)

    def receive(self) -> tuple[bytes, SideEnd | None]:
        """What has come, and how the backend's side has ended; None if it has not."""
        self._has_unread = False
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return (b"", None) if self._tls is None else self._decrypted()
        except OSError:
            return b"", "reset"
        if self._tls is None:
            return data, None if data else "fin"
        if not data:
            return b"", "reset"  # RFC 8446, 6.1: without a close_notify it is cut
        self._tls.bio_write(data)
        return self._decrypted()

    def _decrypted(self) -> tuple[bytes, SideEnd | None]:
        from OpenSSL import SSL

        plain = bytearray()
        try:
            while True:
                plain += self._tls.recv(_READ_BYTES)
        except SSL.WantReadError:
            self._pending += _taken_from(self._tls)  # such as the answer to a key update
            return bytes(plain), None
        except SSL.ZeroReturnError:
            return bytes(plain), "fin"
        except SSL.Error:
            return bytes(plain), "reset"

    def _flush(self) -> None:
        while self._pending:
            try:
                sent = self._sock.send(self._pending)
            except BlockingIOError:
                return
            except OSError:
                self.is_broken = True  # what has come before may still be read
                return
            self._pending = self._pending[sent:]
            self.sent_at = time.monotonic()
        if self._ends:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)


def _taken_from(tls: Any) -> bytes:
    from OpenSSL import SSL

    taken = b""
    try:
        while True:
            taken += tls.bio_read(_READ_BYTES)
    except SSL.WantReadError:
        return taken


def _connected(where: Address, seconds: float) -> _Link:
    """A connection to an address.

    :raises ControlError: there is none.
    :raises QuestionError: it is no address of a backend that can be connected to from here.
    """
    tls: BackendTls | None = None
    if isinstance(where, EndpointAddress):
        found = tls_backend(where)
        if found is None:
            raise QuestionError(
                f"{quoted(str(where))}: write HOST:PORT, unix:PATH or tls:HOST:PORT"
            )
        where, tls = found
    sock = _connected_socket(where, seconds)
    if tls is None:
        return _Link(sock)
    try:
        assert isinstance(where, TcpAddress)
        return _Link(sock, _shaken_hands(sock, tls, where.host, seconds))
    except BaseException:
        sock.close()
        raise


def _connected_socket(where: TcpAddress | UnixAddress, seconds: float) -> socket.socket:
    try:
        if isinstance(where, TcpAddress):
            return socket.create_connection((where.host, where.port), seconds)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(seconds)
            sock.connect(where.path)
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, UnicodeError) as error:
        raise ControlError(f"{where} cannot be connected to: {os_error_text(error)}") from None


def _shaken_hands(sock: socket.socket, tls: BackendTls, host: str, seconds: float) -> Any:
    from OpenSSL import SSL

    from monconn.net.tls import ClientTls, fault_text

    client = ClientTls(tls, host)
    connection = client.connection()
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                connection.do_handshake()
                client.check_peer(connection)
                sock.sendall(_taken_from(connection))
                return connection
            except SSL.WantReadError:
                sock.sendall(_taken_from(connection))
                sock.settimeout(max(0.001, until - time.monotonic()))
                data = sock.recv(_READ_BYTES)
                if not data:
                    raise ConnectionError("it has closed the connection") from None
                connection.bio_write(data)
    except SSL.Error as error:
        raise ControlError(f"TLS with {host}: {fault_text(error, connection)}") from None
    except OSError as error:
        raise ControlError(f"TLS with {host}: {os_error_text(error)}") from None
