"""Requests and answers of HTTP, without any connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

Headers = tuple[tuple[str, str], ...]
PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"
PROBLEM = "application/problem+json"
EVENT_STREAM = "text/event-stream"


@attrs.frozen
class Request:
    """A request, whole, within the limits of the server.

    :param method: such as ``GET``.
    :param path: of the target, as it was sent: neither percent-decoded nor split.
    :param query: what follows the first ``?``, as it was sent; empty without one.
    :param headers: by their names in lower case; the values of one that was sent more than once
        are joined by commas (RFC 9110, 5.3).
    :param body: without its transfer coding.
    :param is_tls: whether it came over TLS of our own.
    :param origin: where the client comes from: its IP, or empty for a UNIX socket.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    is_tls: bool = False
    origin: str = ""


class StreamWriter(Protocol):
    """Where a stream writes to: the connection of one client."""

    @property
    def is_slow(self) -> bool:
        """Whether the client has not yet taken what was written: write nothing for now, and drop
        or keep within a bound what is to be written."""

    def write(self, data: bytes) -> None:
        """Send a part of the body; does nothing once the client has left."""

    def finish(self) -> None:
        """End the body in order."""


class Stream(Protocol):
    """A body that is written as things happen."""

    def start(self, writer: StreamWriter) -> None:
        """The head of the answer is sent: write from now on."""

    def resume(self) -> None:
        """The client has taken what was written, after ``is_slow`` was true."""

    def stop(self) -> None:
        """The client has left, or the server stops: write nothing more. Called once, also for a
        stream that was not started; not after its writer's ``finish``."""


@attrs.frozen
class Response:
    """An answer.

    :param status: such as 200.
    :param body: all of it, or what writes it.
    :param headers: others than Content-Type, Content-Length, Connection and Date, which are the
        server's part.
    """

    status: int = 200
    body: bytes | Stream = b""
    content_type: str = PLAIN
    headers: Headers = ()


Answer = Response | Deferred[Response]
"""An answer now or later; a Deferred is cancelled if the client leaves meanwhile."""
Handler = Callable[[Request], Answer]


def problem(status: int, detail: str = "", headers: Headers = ()) -> Response:
    """An error as RFC 9457 has it.

    :param detail: what is wrong, in a sentence for people.
    """
    values = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body = json.dumps(values | ({"detail": detail} if detail else {})).encode() + b"\n"
    return Response(status, body, PROBLEM, headers)
