"""A control server that is not monconn, or does not mean well: it sends what a test tells it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Box = Mapping[str, str | bytes]
Answer = Callable[[dict[str, str]], Iterator[bytes]]
"""Takes a request, and makes the bytes that are sent for it."""
_CAN = ("filters", "why", "blocks", "pauses", "outputs")
HELLO = {"version": "1", "server": "monconn 9", "pid": "1", **dict.fromkeys(_CAN, "True")}


def box(values: Box) -> bytes:
    """A box of AMP."""
    made = b""
    for pair in values.items():
        for each in pair:
            data = each if isinstance(each, bytes) else each.encode("utf-8", "surrogatepass")
            made += struct.pack("!H", len(data)) + data
    return made + b"\0\0"


def answer(request: dict[str, str], values: Box) -> bytes:
    """The box that answers a request."""
    return box({"_answer": request["_ask"], **values})


class HostileServer:
    """Greets as a control port does, and then sends for each request what ``answers`` makes.

    :param path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.answers: Answer = lambda request: iter(())
        self.greeting: Answer = lambda request: iter([answer(request, HELLO)])
        self.requests: list[dict[str, str]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.where)
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def answer_json(self, **values: Any) -> None:
        """Answer every request with these values, those that are no texts as JSON."""
        made = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
        }
        self.answers = lambda request: iter([answer(request, made)])

    def close(self) -> None:
        """Stop; each client's thread ends with its client."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, run: Callable[..., None], *args: Any) -> None:
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(threading.Thread(target=run, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve_until_it_goes, client)

    def _serve_until_it_goes(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            try:
                self._serve(client, stream)
            except (OSError, ValueError, struct.error):
                pass  # the client has had enough

    def _serve(self, client: socket.socket, stream: Any) -> None:
        while True:
            request = _read_box(stream)
            self.requests.append(request)
            is_greeting = request["_command"] == "Hello"
            for data in (self.greeting if is_greeting else self.answers)(request):
                client.sendall(data)


def _read_box(stream: Any) -> dict[str, str]:
    strings: list[str] = []
    while True:
        (length,) = struct.unpack("!H", stream.read(2))
        if not length and len(strings) % 2 == 0:
            return dict(zip(strings[::2], strings[1::2], strict=True))
        strings.append(stream.read(length).decode())


@contextmanager
def hostile_server(folder: Path) -> Iterator[HostileServer]:
    """A hostile server with its socket in a folder."""
    server = HostileServer(folder / "hostile.sock")
    try:
        yield server
    finally:
        server.close()
