"""Flow events as text: a hex dump and plain text for people, JSON lines and raw bytes for programs.

Each is a :class:`~monconn.model.flow.FlowEncoder`, for whoever has flow events: taps, recordings.
What people read begins with the time since the connection was opened. Nothing that a peer has sent
reaches a terminal raw, except by :class:`RawEncoder`, which is not for terminals.
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import attrs

from monconn.errors import printable
from monconn.hexlines import ARROWS, dump
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded, to_json
from monconn.model.reasons import DIRECTION_OF, Direction, SideEnd
from monconn.ops.colours import colour_of
from monconn.units import format_bytes

PAUSE_SECONDS = 0.2
"""After a pause as long as this, text of the same sender gets its time once more."""
_ENDS: dict[SideEnd, str] = {
    "fin": "ended its side (FIN)",
    "reset": "reset the connection",
    "timeout": "vanished",
}
_COLOURS = {
    "": "",
    "up": "\x1b[36m",
    "down": "\x1b[32m",
    "red": "\x1b[31m",
    "yellow": "\x1b[33m",
    "magenta": "\x1b[35m",
    "cyan": "\x1b[36m",
    "bold": "\x1b[1m",
}
_PLAIN = "\x1b[0m"
_MARGIN = "  "
"""Before each line of a peer's text, so that none passes for one of ours."""


@attrs.frozen
class Gap:
    """Bytes that were not seen.

    :param offset: of the first of them, in their direction's stream.
    :param size: how many.
    """

    connection: int
    at: float
    direction: Direction
    offset: int
    size: int


class Gaps:
    """Finds the bytes that are missing in sequences of events, by their offsets."""

    def __init__(self) -> None:
        self._expected: dict[int, dict[Direction, int]] = {}

    def before(self, event: FlowEvent) -> Iterator[Gap]:
        """What is missing between the events before this one and this one."""
        connection = event.connection
        if isinstance(event, Began):
            self._expected[connection] = {"up": event.up, "down": event.down}
        elif isinstance(event, Data):
            expected = self._expected.setdefault(connection, {})
            yield from self._missing(event, event.direction, event.offset, expected)
            expected[event.direction] = event.offset + len(event.data)
        elif isinstance(event, SideEnded):
            if event.offset is not None:
                expected = self._expected.setdefault(connection, {})
                direction = DIRECTION_OF[event.side]
                yield from self._missing(event, direction, event.offset, expected)
                expected[direction] = event.offset
        elif isinstance(event, Ended):
            expected = self._expected.pop(connection, {})
            yield from self._missing(event, "up", event.up, expected)
            yield from self._missing(event, "down", event.down, expected)

    def _missing(
        self, event: FlowEvent, direction: Direction, now: int, expected: dict[Direction, int]
    ) -> Iterator[Gap]:
        before = expected.get(direction, now)  # of a flow without a beginning nothing is known
        if now > before:
            yield Gap(event.connection, event.at, direction, before, now - before)


class _TextEncoder(ABC):
    """What the two formats for people have in common: lines about what is no data.

    :param coloured: for a terminal that has colours.
    """

    def __init__(self, *, coloured: bool = False) -> None:
        self._coloured = coloured
        self._gaps = Gaps()
        self._connections: dict[int, Began] = {}

    def start(self) -> bytes:
        """Implements ``FlowEncoder.start``."""
        return b""

    def encode(self, event: FlowEvent) -> bytes:
        """Implements ``FlowEncoder.encode``: UTF-8, without anything that a terminal obeys but
        the colours, if there are any."""
        text = "".join(map(self._gap_text, self._gaps.before(event)))
        if isinstance(event, Began):
            self._connections[event.connection] = event
            text += self._began_text(event)
        elif isinstance(event, Data):
            text += self._data_text(event)
        elif isinstance(event, Ended):
            text += self._ended_text(event)
            self._connections.pop(event.connection, None)
        else:
            text += self._line(event, f"{event.side} {_ENDS[event.how]}", colour="bold")
        return text.encode("utf-8", "backslashreplace")

    @abstractmethod
    def _data_text(self, event: Data) -> str:
        """The bytes, below a line that says whose they are."""

    def _gap_text(self, gap: Gap) -> str:
        return self._line(gap, f"… {format_bytes(gap.size)} not seen", gap.direction, "yellow")

    def _began_text(self, event: Began) -> str:
        to_backend = f", to {event.backend}" if event.backend else ""
        if event.up or event.down:
            sent = f"up {format_bytes(event.up)}, down {format_bytes(event.down)}"
            return self._line(event, f"seen from here on, after {sent}", colour="bold")
        return self._line(event, f"opened{to_backend}", colour="bold")

    def _ended_text(self, event: Ended) -> str:
        sent = f"up {format_bytes(event.up)}, down {format_bytes(event.down)}"
        if event.reason is None:
            return self._line(event, f"still open; seen until here ({sent})", colour="bold")
        colour = colour_of("reason", event.reason) or "bold"
        detail = f": {event.detail}" if event.detail else ""
        return self._line(event, f"closed: {event.reason}{detail} ({sent})", colour=colour)

    def _line(
        self,
        event: FlowEvent | Gap,
        text: str,
        direction: Direction | None = None,
        colour: str = "",
    ) -> str:
        """A line of ours: when, where, and what.

        :param colour: that of the direction if left out.
        """
        began = self._connections.get(event.connection)
        words = [f"id {event.connection}"]
        if began is not None:
            words = [f"+{_after(event.at - began.opened_at)}", *words, began.service, began.client]
        if direction is not None:
            words += [ARROWS[direction], direction]
        line = printable(" ".join([*words, text] if text else words))
        return f"{self._paint(colour or direction or '', line)}\n"

    def _paint(self, colour: str, text: str) -> str:
        code = _COLOURS[colour] if self._coloured else ""
        return f"{code}{text}{_PLAIN}" if code else text


class HexEncoder(_TextEncoder):
    """A hex dump; offsets are those in the direction's stream."""

    def _data_text(self, event: Data) -> str:
        head = self._line(event, format_bytes(len(event.data)), event.direction)
        lines = dump(event.data, event.offset)
        if not self._coloured:
            return head + lines
        return head + self._paint(event.direction, lines.removesuffix("\n")) + "\n"


class PlainTextEncoder(_TextEncoder):
    """UTF-8 as it is, across the borders of chunks; all that is not printable is an escape.

    A line feed begins a new line; a carriage return before it is shown. Bytes of one sender follow
    each other without a line of ours, until the other has sent something, or after a pause. So that
    line has no size: it would be that of the first chunk, and more may follow.
    """

    def __init__(self, *, coloured: bool = False) -> None:
        super().__init__(coloured=coloured)
        self._decoders: dict[tuple[int, Direction], codecs.IncrementalDecoder] = {}
        self._sender: tuple[int, Direction] | None = None
        """Whose text came last, if no line of ours has followed."""
        self._sent_at = 0.0
        self._is_amid_line = False

    def finish(self) -> bytes:
        """The end of the last line, if there is none yet."""
        is_amid_line, self._is_amid_line = self._is_amid_line, False
        return b"\n" if is_amid_line else b""

    def _data_text(self, event: Data) -> str:
        sender = event.connection, event.direction
        head = ""
        if sender != self._sender or event.at - self._sent_at >= PAUSE_SECONDS:
            head = self._line(event, "", event.direction)
        self._sender, self._sent_at = sender, event.at
        if sender not in self._decoders:
            make = codecs.getincrementaldecoder("utf-8")
            self._decoders[sender] = make(errors="backslashreplace")
        return head + self._indented(self._decoders[sender].decode(event.data), event.direction)

    def _indented(self, text: str, direction: Direction) -> str:
        if not text:
            return ""
        *lines, last = text.split("\n")
        shown = [self._paint(direction, printable(each)) for each in lines]
        if last:
            shown.append(self._paint(direction, printable(last)))
        margin = "" if self._is_amid_line else _MARGIN
        self._is_amid_line = bool(last)
        return margin + f"\n{_MARGIN}".join(shown) + ("" if last else "\n")

    def _line(
        self,
        event: FlowEvent | Gap,
        text: str,
        direction: Direction | None = None,
        colour: str = "",
    ) -> str:
        # A character that is cut off by a gap or the end will not be completed.
        cut = ""
        if not isinstance(event, Data):
            sides: tuple[Direction, ...] = ("up", "down")
            for each in sides:
                ended_side = DIRECTION_OF[event.side] if isinstance(event, SideEnded) else None
                is_over = isinstance(event, Ended) or each in (direction, ended_side)
                decoder = self._decoders.pop((event.connection, each), None) if is_over else None
                rest = decoder.decode(b"", final=True) if decoder is not None else ""
                cut += self._indented(rest, each)
        newline = "\n" if self._is_amid_line else ""
        self._is_amid_line = False
        self._sender = None
        return cut + newline + super()._line(event, text, direction, colour)


class JsonEncoder:
    """A JSON object a line for each event, as :func:`~monconn.model.flow.to_json` makes it, but for
    its times, which are ISO 8601.

    Where bytes are missing, there is an object more: ``{"event": "gap", "connection": …, "at": …,
    "direction": …, "offset": …, "size": …}``.
    """

    def __init__(self) -> None:
        self._gaps = Gaps()

    def start(self) -> bytes:
        """Implements ``FlowEncoder.start``."""
        return b""

    def encode(self, event: FlowEvent) -> bytes:
        """Implements ``FlowEncoder.encode``."""
        gaps = ({"event": "gap", **attrs.asdict(gap)} for gap in self._gaps.before(event))
        lines = [json.dumps(_with_iso_times(each)) for each in (*gaps, to_json(event))]
        # DEL, which JSON allows raw, and a terminal need not see.
        return "".join(f"{line}\n" for line in lines).replace("\x7f", "\\u007f").encode()


def _with_iso_times(values: dict[str, Any]) -> dict[str, Any]:
    # With microseconds: others have milliseconds, but these are chunks' times.
    times: dict[str, Any] = {
        key: datetime.fromtimestamp(values[key], timezone.utc).isoformat(timespec="microseconds")
        for key in ("at", "opened_at")
        if key in values
    }
    return {**values, **times}


class RawEncoder:
    """The bytes of one direction of one connection, the first that begins, and nothing else.

    :param direction: whose bytes.
    :param note: is called with a sentence for each gap, and if other connections are left out.
    """

    def __init__(self, direction: Direction, note: Callable[[str], object]) -> None:
        self._direction = direction
        self._note = note
        self._gaps = Gaps()
        self._connection: int | None = None
        self._others: set[int] = set()
        self.has_ended = False
        """Whether the connection has ended: no bytes will come."""

    def start(self) -> bytes:
        """Implements ``FlowEncoder.start``."""
        return b""

    def encode(self, event: FlowEvent) -> bytes:
        """Implements ``FlowEncoder.encode``."""
        if self._connection is None:
            self._connection = event.connection
        if event.connection != self._connection:
            if isinstance(event, Began):
                self._note(f"connection {event.connection} is left out: raw bytes are of one")
            return b""
        if isinstance(event, Began):
            before = event.up if self._direction == "up" else event.down
            if before:
                self._note(f"seen from its middle, after {format_bytes(before)}")
        for gap in self._gaps.before(event):
            if gap.direction == self._direction:
                self._note(f"{format_bytes(gap.size)} not seen, at offset {gap.offset}")
        self.has_ended = isinstance(event, Ended)
        if isinstance(event, Data) and event.direction == self._direction:
            return event.data
        return b""


def _after(seconds: float) -> str:
    """The time since an opening: in seconds, then as minutes, hours and days, as clocks show it.

    A clock that was set back meanwhile may have made it negative.
    """
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    whole, rest = divmod(milliseconds, 1000)
    if not (days or hours or minutes):
        return f"{whole}.{rest:03}"
    clock = f"{minutes:02}:{whole:02}.{rest:03}"
    if not (days or hours):
        return clock.removeprefix("0")
    return f"{days}d {hours:02}:{clock}" if days else f"{hours}:{clock}"
