"""What tries to make monconn wait, each a process: ``python -m soak.strangers NAME WHERE …``.

Each prints a line once it has begun, and goes on until its standard input ends. All are bounded.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from soak.peers import RESET, raise_limit

LIMIT_SECONDS = 120
ROUND_SECONDS = 0.5
PIPELINED_BYTES = 60_000
_stopped = threading.Event()


def begun() -> None:
    """Say so, and have the end of standard input stop us."""
    print("begun", flush=True)

    def wait() -> None:
        sys.stdin.read()
        _stopped.set()

    threading.Thread(target=wait, daemon=True).start()


def control_pipelined(path: str, clients: str) -> None:
    """Control clients that ask and ask, and read nothing."""
    hello = _box(_command="Hello", _ask="1", version="1")
    request = _box(_command="ListConnections", _ask="2")
    chunk = request * (PIPELINED_BYTES // len(request))
    socks = [_unix(path) for _ in range(int(clients))]
    for sock in socks:
        sock.sendall(hello)
        sock.setblocking(False)
    begun()
    _send_again_and_again(socks, chunk)


def _box(**values: str) -> bytes:
    parts = b""
    for key, value in values.items():
        for text in (key.encode(), value.encode()):
            parts += struct.pack("!H", len(text)) + text
    return parts + b"\0\0"


def metrics_pipelined(port: str, clients: str) -> None:
    """Scrapers that pipeline; half of them read the answers."""
    chunk = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    begun()
    while not _stopped.is_set():
        socks = [_tcp(int(port)) for _ in range(int(clients))]
        for sock in socks[::2]:
            threading.Thread(target=_drain, args=(sock,), daemon=True).start()
        for sock in socks:
            sock.setblocking(False)
        _send_again_and_again(socks, chunk, time.monotonic() + ROUND_SECONDS)
        for sock in socks:
            sock.close()


def metrics_dribbled(port: str, clients: str) -> None:
    """Scrapers that send a byte of a request every two seconds."""
    socks = _opened(int(port), int(clients))
    begun()
    while True:
        for number, sock in enumerate(socks):
            try:
                sock.send(b"x")
            except OSError:
                with contextlib.suppress(OSError):
                    socks[number] = _tcp(int(port))
        if _stopped.wait(2):
            return


def names(port: str, clients: str) -> None:
    """Clients of a service whose name server does not answer."""
    begun()
    while not _stopped.is_set():
        socks = _opened(int(port), int(clients))
        _stopped.wait(ROUND_SECONDS)
        for sock in socks:
            sock.close()


def waiting(port: str, clients: str) -> None:
    """Clients of a backend that has no room for them."""
    socks = _opened(int(port), int(clients))
    begun()
    _stopped.wait()
    for sock in socks:
        sock.close()


def resets(port: str, clients: str) -> None:
    """Clients that fill all queues towards a backend that does not read, and all reset at once."""
    socks = _opened(int(port), int(clients))
    for sock in socks:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with contextlib.suppress(OSError):
            for _ in range(4):
                sock.send(bytes(65536))
    begun()
    for sock in socks:
        sock.close()
    _stopped.wait()


def hellos(port: str, clients: str) -> None:
    """TLS clients that begin a handshake, have the server work for it, and leave."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    output = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), output).do_handshake()
    hello = output.read()
    begun()
    while not _stopped.is_set():
        socks = _opened(int(port), int(clients))
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(hello)
        _stopped.wait(ROUND_SECONDS)
        for sock in socks:
            sock.close()


def ping(port: str) -> None:
    """A message there and back, again and again; prints the median and the worst, in seconds."""
    sock = _tcp(int(port))
    sock.settimeout(60)
    begun()
    trips = []
    while not _stopped.is_set():
        since = time.monotonic()
        sock.sendall(b"ping")
        if not sock.recv(64):
            break
        trips.append(time.monotonic() - since)
        time.sleep(0.002)
    trips.sort()
    print(trips[len(trips) // 2] if trips else -1, trips[-1] if trips else -1, flush=True)


def _send_again_and_again(
    socks: list[socket.socket], chunk: bytes, until: float = float("inf")
) -> None:
    """Send as much as the other side takes."""
    rest = {sock: memoryview(chunk) for sock in socks}
    selector = selectors.DefaultSelector()
    for sock in socks:
        selector.register(sock, selectors.EVENT_WRITE, sock)
    while rest and not _stopped.is_set() and time.monotonic() < until:
        for key, _ in selector.select(0.1):
            ready: socket.socket = key.data
            try:
                rest[ready] = rest[ready][ready.send(rest[ready]) :] or memoryview(chunk)
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(ready)
                del rest[ready]
    selector.close()


def _drain(sock: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    with contextlib.suppress(OSError, ValueError):
        while selector.select(1) and sock.recv(1 << 20):
            pass


def _opened(port: int, count: int) -> list[socket.socket]:
    """Connections; from several addresses, as one has no more than 28,000 ports."""
    return [sock for sock in _try(port, count) if sock is not None]


def _try(port: int, count: int) -> Iterator[socket.socket | None]:
    for number in range(count):
        try:
            yield _tcp(port, f"127.0.0.{2 + number % 8}")
        except OSError:
            yield None


def _tcp(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def _unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


NAMES: tuple[Callable[..., None], ...] = (
    control_pipelined,
    metrics_pipelined,
    metrics_dribbled,
    names,
    waiting,
    resets,
    hellos,
    ping,
)


def main() -> None:
    signal.alarm(LIMIT_SECONDS)
    raise_limit()
    name, *arguments = sys.argv[1:]
    {each.__name__: each for each in NAMES}[name](*arguments)


if __name__ == "__main__":
    main()
