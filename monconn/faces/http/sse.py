"""Server-sent events: their form, and the stream of one client.

Source of the format: the HTML standard, "Server-sent events"
(https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from monconn.net.http.messages import EVENT_STREAM, Headers, Response, StreamWriter

HEADERS: Headers = (
    ("Cache-Control", "no-store"),
    # nginx holds answers back until its buffer is full, unless it is told otherwise.
    ("X-Accel-Buffering", "no"),
)
RETRY_MILLISECONDS = 2_000
"""After how long a browser connects again."""
HEARTBEAT_SECONDS = 15.0
"""How often a comment is sent, so that proxies, and both sides, know that the other is there."""
_DIGITS = 19  # more than any number has: who sends longer ones has none of ours
HEARTBEAT = b":\n\n"
RETRY = f"retry: {RETRY_MILLISECONDS}\n\n".encode()


def event_bytes(event: str, data: bytes, id: str = "") -> bytes:
    """One event.

    :param event: its type.
    :param data: JSON in one line.
    :param id: what a client that connects again says as ``Last-Event-ID``.
    """
    head = f"id: {id}\nevent: {event}\ndata: " if id else f"event: {event}\ndata: "
    return head.encode() + data + b"\n\n"


def json_event(event: str, values: Any, id: str = "") -> bytes:
    """One event with plain values, as :func:`event_bytes`."""
    return event_bytes(event, json.dumps(values, separators=(",", ":")).encode(), id)


def number_after(prefix: str, last_id: str, most: int) -> int | None:
    """The number at the end of an id that a client has sent.

    :param prefix: what ours begin with.
    :param most: the highest that there is.
    :returns: None if it is none of these.
    """
    digits = last_id.removeprefix(prefix)
    if not (last_id.startswith(prefix) and digits.isascii() and digits.isdecimal()):
        return None
    number = int(digits[:_DIGITS])
    return number if number <= most else None


class EventStream:
    """What one client is sent; a :class:`~monconn.net.http.messages.Stream`.

    :param started: is called with this once it can be written to.
    :param stopped: is called with this once nothing more is to be written.
    :param resumed: is called with this once the client has taken what it was slow to take.
    """

    def __init__(
        self,
        started: Callable[[EventStream], object],
        stopped: Callable[[EventStream], object],
        resumed: Callable[[EventStream], object] = lambda _: None,
    ) -> None:
        self._started = started
        self._stopped = stopped
        self._resumed = resumed
        self._writer: StreamWriter | None = None
        self._is_over = False
        self._over: Callable[[], object] = lambda: None

    def answer(self, over: Callable[[], object]) -> Response:
        """The answer that is this stream.

        :param over: is called once nothing more is to be written.
        """
        self._over = over
        return Response(200, self, f"{EVENT_STREAM}; charset=utf-8", HEADERS)

    @property
    def is_slow(self) -> bool:
        """Whether nothing can be sent for now."""
        return self._writer is None or self._writer.is_slow

    @property
    def is_open(self) -> bool:
        """Whether the client is there."""
        return self._writer is not None

    def send(self, data: bytes) -> None:
        """Send one or several whole events; does nothing once the client has left."""
        if self._writer is not None:
            self._writer.write(data)

    def finish(self) -> None:
        """End the stream in order; harmless the second time."""
        writer = self._writer
        self.stop()
        if writer is not None:
            writer.finish()

    # -- called by the server

    def start(self, writer: StreamWriter) -> None:
        """Implements ``Stream.start``."""
        if not self._is_over:
            self._writer = writer
            self._started(self)

    def resume(self) -> None:
        """Implements ``Stream.resume``."""
        if self._writer is not None:
            self._resumed(self)

    def stop(self) -> None:
        """Implements ``Stream.stop``; harmless the second time."""
        if not self._is_over:
            self._is_over, self._writer = True, None
            self._over()
            self._stopped(self)
