"""A socket that speaks TLS, for the outer sides of a world: it can do all that TLS can.

Python's own ``ssl`` cannot end its half and go on reading, nor tell an end from a cut.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from OpenSSL import SSL

from tests.certificates import Certificate, make_certificate

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
RECORD_BYTES = 1 << 14


class Cut(Exception):
    """The peer has ended without close_notify."""


@lru_cache(1)
def certificate() -> Certificate:
    """A certificate for the loopback, and its key."""
    return make_certificate(Path(mkdtemp(prefix="monconn-tls-")))


def context(version: str) -> SSL.Context:
    """For either side, with one version of TLS."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.use_certificate_chain_file(str(certificate().certificate))
    made.use_privatekey_file(str(certificate().key))
    made.set_min_proto_version(VERSIONS[version])
    made.set_max_proto_version(VERSIONS[version])
    return made


class TlsSocket(socket.socket):
    """Speaks TLS over a connected socket; the handshake is done as it is made.

    One thread may send while another receives.

    :param sock: taken over.
    :param tls: without a socket of its own, and in its state.
    """

    def __init__(self, sock: socket.socket, tls: SSL.Connection) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self.tls = tls
        self.has_ended = False
        self._engine = threading.RLock()
        self._sending = threading.RLock()
        self._has_failed = False
        self._plain = b""
        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                self.tls.bio_write(self._raw())
            except SSL.Error:
                self._flush()  # the alert
                raise
        with suppress(ConnectionError):  # tickets may meet the reset of one who has sent all
            self._flush()

    def _raw(self) -> bytes:
        data = super().recv(1 << 16)
        if not data:
            with self._sending:
                if self._has_failed:  # the thread that sends has got the error
                    raise ConnectionResetError
            raise Cut
        return data

    def _flush(self) -> None:
        with self._sending:
            while True:
                with self._engine:
                    try:
                        records = self.tls.bio_read(1 << 16)
                    except SSL.WantReadError:
                        return
                try:
                    super().sendall(records)
                except ConnectionError:
                    self._has_failed = True
                    raise

    def _decrypt(self, count: int) -> bytes | None:
        """What has come; None if it was no whole record."""
        with self._engine:
            try:
                return self.tls.recv(count)
            except SSL.ZeroReturnError:
                return b""
            except SSL.WantReadError:
                return None

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Receive; nothing means close_notify."""
        if self._plain:
            data, self._plain = self._plain[:count], self._plain[count:]
            return data
        while (received := self._decrypt(count)) is None:
            raw = self._raw()
            with self._engine:
                self.tls.bio_write(raw)
        return received

    def arrived(self) -> int:
        """How many bytes have come and were not received; takes them from the kernel."""
        timeout = self.gettimeout()
        self.settimeout(0)
        try:
            while True:
                self.tls.bio_write(self._raw())
        except (BlockingIOError, Cut):
            pass
        finally:
            self.settimeout(timeout)
        while data := self._decrypt(RECORD_BYTES):
            self._plain += data
        return len(self._plain)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send one record."""
        with self._sending:
            with self._engine:
                sent = self.tls.send(data[:RECORD_BYTES])
            self._flush()
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def end(self) -> None:
        """Send close_notify, and no FIN."""
        if not self.has_ended:
            self.has_ended = True
            with self._engine:
                self.tls.shutdown()
            self._flush()

    def shutdown(self, how: int) -> None:
        """End the writing: close_notify and FIN."""
        assert how == socket.SHUT_WR
        self.end()
        super().shutdown(how)

    def fin(self) -> None:
        """Send a FIN, and no close_notify."""
        super().shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in order: without a reset because of bytes unread."""
        if self.fileno() >= 0:
            try:
                self.end()
                self.arrived()
            except (OSError, SSL.Error):
                pass
        super().close()

    def cut(self) -> None:
        """Close TCP in order, and say nothing of it in TLS."""
        self.arrived()
        super().close()
