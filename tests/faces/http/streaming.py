"""A client of a stream, without a server."""

from __future__ import annotations

import json
from typing import Any

import attrs

from monconn.net.http.messages import Stream


@attrs.frozen
class Sent:
    """One event as its client gets it."""

    event: str
    data: Any
    id: str = ""


class FakeWriter:
    """Collects what a stream writes; is slow when it is told to be."""

    def __init__(self) -> None:
        self.is_slow = False
        self.written: list[bytes] = []
        self.is_finished = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def finish(self) -> None:
        self.is_finished = True


class Client:
    """Reads one stream."""

    def __init__(self, stream: Any) -> None:
        self.writer = FakeWriter()
        self.stream: Stream = stream
        self._last_id = ""
        self.stream.start(self.writer)

    def take(self) -> list[Sent]:
        """The events that have come since the last call."""
        text, self.writer.written = b"".join(self.writer.written).decode(), []
        sent = [_parse(each) for each in text.split("\n\n")]
        self._last_id = next((each.id for each in reversed(sent) if each.id), self._last_id)
        return [each for each in sent if each.event]

    def last_id(self) -> str:
        """The ``Last-Event-ID`` of all that was taken: also of what has an id and no data."""
        return self._last_id

    def comments(self) -> int:
        """How many comments came since the last call; nothing else may have."""
        written, self.writer.written = self.writer.written, []
        assert all(each == b":\n\n" for each in written)
        return len(written)

    def be_slow(self) -> None:
        self.writer.is_slow = True

    def catch_up(self) -> None:
        self.writer.is_slow = False
        self.stream.resume()

    def leave(self) -> None:
        self.stream.stop()


def _parse(text: str) -> Sent:
    fields = dict(line.partition(": ")[::2] for line in text.split("\n") if line)
    data = json.loads(fields["data"]) if "data" in fields else None
    return Sent(fields.get("event", ""), data, fields.get("id", ""))
