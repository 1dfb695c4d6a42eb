"""TLS loads, with the same protocol on stdin and stdout as ``load.c``.

``tls_load.py MODE PORT AT_ONCE COUNT SECONDS``: MODE is ``bulk``, ``connect`` or ``held``, and the
last only holds its connections open. For the others there is a thread per connection: OpenSSL works
outside the interpreter's lock.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MESSAGE_BYTES = 64
REQUEST_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
GRACE_SECONDS = 15
SERVE_SECONDS = 1200
CIPHER = ("TLS_AES_256_GCM_SHA384", "TLSv1.3")
"""What every server must choose, so that all do the same work."""


def client_context() -> ssl.SSLContext:
    """Verifies nothing: the certificate is made for this run, and the port is on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Loads:
    """Runs one mode repeatedly, and sums up the work of its threads."""

    def __init__(self, mode: str, port: int, at_once: int, limit: int, seconds: float) -> None:
        self._port = port
        self._context = client_context()
        self._seconds = seconds
        self._limit = limit
        self._lock = threading.Lock()
        self._done = 0
        works: dict[str, Callable[[Any], int]] = {"bulk": self._bulk, "connect": self._connect}
        self._work = works.get(mode)
        self._streams = [None if mode == "connect" else self._open() for _ in range(at_once)]
        self.errors: list[str] = []

    def _open(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=GRACE_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = self._context.wrap_socket(plain)  # without a session: each is a full handshake
        cipher = stream.cipher()
        if cipher is None or cipher[:2] != CIPHER:
            raise OSError(f"the server has chosen {cipher} and not {CIPHER}")
        _greet(stream)
        return stream

    def run(self) -> dict[str, object]:
        if self._work is None:
            return self.result(len(self._streams), 0.0)
        self._done = 0
        since = time.monotonic()
        end = since + self._seconds
        threads = [
            threading.Thread(target=self._guarded, args=(stream, end), daemon=True)
            for stream in self._streams
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.result(self._done, time.monotonic() - since)

    def result(self, done: int, seconds: float) -> dict[str, object]:
        return {
            "done": done,
            "seconds": seconds,
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else "",
        }

    def _guarded(self, stream: ssl.SSLSocket | None, end: float) -> None:
        assert self._work is not None
        try:
            while time.monotonic() < end and self._done < self._limit:
                amount = self._work(stream)
                with self._lock:
                    self._done += amount
        except OSError as error:
            self.errors.append(str(error))

    def _connect(self, _: None) -> int:
        with self._open() as stream:
            try:
                stream.unwrap()
            except ssl.SSLEOFError:
                pass  # nginx has got our end, and closes without one of its own
        return 1

    def _bulk(self, stream: ssl.SSLSocket) -> int:
        stream.sendall(_request(b"D", REQUEST_BYTES))
        return _skip(stream, REQUEST_BYTES)


def _request(letter: bytes, count: int) -> bytes:
    return letter.ljust(8, b"\0") + struct.pack("=Q", count).ljust(MESSAGE_BYTES - 8, b"\0")


def _greet(stream: ssl.SSLSocket) -> None:
    message = _request(b"E", 0)
    stream.sendall(message)
    answer = b""
    while len(answer) < MESSAGE_BYTES:
        chunk = stream.recv(MESSAGE_BYTES - len(answer))
        if not chunk:
            raise OSError("the connection was closed")
        answer += chunk
    if answer != message:
        raise OSError("answer: not what was sent")


def _skip(stream: ssl.SSLSocket, count: int) -> int:
    left = count
    room = bytearray(CHUNK_BYTES)
    while left:
        got = stream.recv_into(room, min(left, CHUNK_BYTES))
        if not got:
            raise OSError("the connection was closed")
        left -= got
    return count


def main() -> int:
    mode, port, at_once, limit, seconds = sys.argv[1:]
    signal.alarm(4 * GRACE_SECONDS)
    loads = Loads(mode, int(port), int(at_once), int(limit), float(seconds))
    print(json.dumps(loads.result(int(at_once), 0.0)), flush=True)
    signal.alarm(SERVE_SECONDS)
    for _ in sys.stdin:
        signal.alarm(int(float(seconds)) + GRACE_SECONDS)
        print(json.dumps(loads.run()), flush=True)
        signal.alarm(SERVE_SECONDS)
    return int(bool(loads.errors))


if __name__ == "__main__":
    sys.exit(main())
