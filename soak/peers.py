"""Backends and clients of the soak, each role a process: ``python -m soak.peers ROLE …``.

A backend prints ``{"port": N}`` once it listens. Clients run until their standard input ends, and
then print their counts. Everything is on loopback, and SIGALRM ends what takes far too long.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

LIMIT_SECONDS = 24 * 3600
CHUNK_BYTES = 16 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: ``close(2)`` sends a reset."""
MESSAGE = b"device says something.\n"
VANISHED_SECONDS = 1.0


def serve(handle: Callable[[socket.socket], None]) -> None:
    """Accept until the process is stopped, with a thread for each client."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_guarded, args=(handle, client), daemon=True).start()


def _guarded(handle: Callable[[socket.socket], None], client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        client.settimeout(60)
        handle(client)


def behave(client: socket.socket) -> None:
    """A backend that echoes; the first byte says how it ends.

    ``E``: as the client does. ``C``, ``R``: it closes or resets after the number of bytes that the
    next four bytes say.
    """
    header = _receive_all(client, 5)
    ending, after = header[:1], struct.unpack("!I", header[1:])[0]
    echoed = 0
    while True:
        data = client.recv(CHUNK_BYTES)
        if not data:
            return
        client.sendall(data)
        echoed += len(data)
        if ending != b"E" and echoed >= after:
            if ending == b"R":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return


def _receive_all(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = sock.recv(count - len(received))
        if not data:
            raise OSError("the connection was closed")
        received += data
    return received


def acknowledge(client: socket.socket) -> None:
    """A backend for devices: two bytes for each message."""
    while client.recv(CHUNK_BYTES):
        client.sendall(b"ok")


def deaf() -> None:
    """A backend that accepts and never reads."""
    raise_limit()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    clients = []
    while True:
        clients.append(listener.accept()[0])


def chaos(port: int, threads: int, seed: int) -> None:
    """Clients that send random bytes in random pieces, check the echo, and end in every way."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    stopped = threading.Event()

    def run(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        while not stopped.is_set():
            how, fault = _one_chaotic(port, rng)
            with lock:
                counts["connections"] += 1
                counts[how] += 1
                if fault:
                    counts["faults"] += 1
                    print(json.dumps({"fault": fault}), flush=True)

    workers = [threading.Thread(target=run, args=(each,), daemon=True) for each in range(threads)]
    for worker in workers:
        worker.start()
    sys.stdin.read()
    stopped.set()
    for worker in workers:
        worker.join(30)
    print(json.dumps(dict(counts)), flush=True)


def _one_chaotic(port: int, rng: random.Random) -> tuple[str, str]:
    """One connection; returns how it was ended, and what was wrong with it."""
    how = rng.choice(["half-close", "half-close", "close", "reset", "backend C", "backend R"])
    size = int(2 ** rng.uniform(0, 20))
    sent = rng.randbytes(size)
    ending = how[-1:].encode() if how.startswith("backend") else b"E"
    after = rng.randrange(size) + 1
    received = bytearray()
    fault = ""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(ending + struct.pack("!I", after))
            reader = threading.Thread(target=_collect, args=(sock, received), daemon=True)
            reader.start()
            _send_in_pieces(sock, sent if how not in ("close", "reset") else sent[:after], rng)
            if how == "half-close":
                sock.shutdown(socket.SHUT_WR)
            if how in ("close", "reset"):
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.shutdown(socket.SHUT_RD)  # wakes the reader up
            reader.join(40)
            if reader.is_alive():
                fault = f"{how}: no end after {len(received)} of {size} bytes"
    except OSError as error:
        if how not in ("backend C", "backend R"):
            fault = f"{how}: {error}"
    if received != sent[: len(received)]:
        fault = f"{how}: the echo differs within its first {len(received)} bytes"
    elif how == "half-close" and len(received) < size and not fault:
        fault = f"half-close: {len(received)} of {size} bytes came back"
    elif how == "backend C" and len(received) < after and not fault:
        fault = ""  # its kernel resets if bytes of ours were still unread: that may cut the echo
    return how, fault


def _send_in_pieces(sock: socket.socket, data: bytes, rng: random.Random) -> None:
    at = 0
    while at < len(data):
        piece = rng.choice([1, 7, 1460, CHUNK_BYTES, 200_000])
        sock.sendall(data[at : at + piece])
        at += piece
        if rng.random() < 0.05:
            time.sleep(rng.random() * 0.05)


def _collect(sock: socket.socket, received: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := sock.recv(65536):
            received += data


def devices(port: int, count: int, seed: int) -> None:
    """Devices that send a message now and then, drop off and come back."""
    rng = random.Random(seed)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    due = {each: time.monotonic() + rng.random() for each in range(count)}
    socks: dict[int, socket.socket] = {}
    counts: Counter[str] = Counter()
    while True:
        for key, _ in selector.select(0.05):
            if key.fileobj is sys.stdin:
                print(json.dumps(dict(counts)), flush=True)
                return
            with contextlib.suppress(OSError):
                if key.data in socks and not socks[key.data].recv(65536):
                    _drop(selector, socks, key.data)
        now = time.monotonic()
        for device in [each for each, at in due.items() if at <= now]:
            due[device] = now + rng.uniform(0.2, 1.0)
            try:
                if device not in socks:
                    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
                    socks[device] = sock
                    selector.register(sock, selectors.EVENT_READ, device)
                    counts["connections"] += 1
                socks[device].send(MESSAGE)
                counts["messages"] += 1
            except OSError:
                _drop(selector, socks, device)
                continue
            if rng.random() < 0.03:
                if rng.random() < 0.5:
                    socks[device].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                _drop(selector, socks, device)
                due[device] = now + VANISHED_SECONDS


def _drop(selector: selectors.BaseSelector, socks: dict[int, socket.socket], device: int) -> None:
    sock = socks.pop(device, None)
    if sock is not None:
        selector.unregister(sock)
        sock.close()


def raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    signal.alarm(LIMIT_SECONDS)
    role, *arguments = sys.argv[1:]
    numbers = [int(each) for each in arguments]
    roles: dict[str, Callable[..., None]] = {
        "behave": lambda: serve(behave),
        "acknowledge": lambda: serve(acknowledge),
        "deaf": deaf,
        "chaos": chaos,
        "devices": devices,
    }
    roles[role](*numbers)


if __name__ == "__main__":
    main()
