"""What is needed of recorded events to hold the conversation again, and to compare the answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import get_args

import attrs

from monconn.errors import QuestionError
from monconn.hexlines import BYTES_A_LINE
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.model.reasons import DIRECTION_OF, Direction, SideEnd

EXTRA_BYTES = 64 * 1024
"""How much more than was recorded an answer may have before its rest is not awaited."""
_SHOWN_EXTRA_BYTES = 256


@attrs.frozen
class Missing:
    """Bytes of one direction that were sent, and are not recorded."""

    direction: Direction
    offset: int
    size: int

    def __str__(self) -> str:
        whose = "client" if self.direction == "up" else "backend"
        bytes_ = f"{self.size:,} byte{'' if self.size == 1 else 's'}"
        return f"{bytes_} of the {whose}'s, from byte {self.offset:,} on"


@attrs.frozen
class Step:
    """Something that the client did, to be done again.

    :param data: what it sent; empty for its end.
    :param since_step: seconds since the step before it, or the beginning.
    :param since_event: seconds since what happened before it, an answer included.
    :param answered: how many bytes of answers the backend had sent by then.
    """

    data: bytes
    since_step: float
    since_event: float
    answered: int


@attrs.frozen
class Conversation:
    """A recorded connection, from the client's side."""

    began: Began
    steps: tuple[Step, ...]
    client_end: SideEnd | None
    """How the client ended its side; None if it did not, or was not seen to."""
    answer: tuple[tuple[int, bytes], ...]
    """The recorded pieces of what the backend sent, each with its offset."""
    answered: int
    """How many bytes the backend sent in all."""
    backend_end: SideEnd | None
    """How the backend ended its side; None if it did not before the connection was closed."""
    missing: tuple[Missing, ...]
    sending_seconds: float
    """How long the client took until its last step."""
    waiting_seconds: float
    """How long the backend took after that."""

    @property
    def sent(self) -> int:
        """How many bytes of the client's are recorded."""
        return sum(len(step.data) for step in self.steps)


def conversation_of(events: Iterable[FlowEvent]) -> Conversation:
    """The conversation that the events of one connection tell.

    :raises QuestionError: there is nothing to be sent, or there are events of several connections.
    :raises ValueError: they contradict each other.
    """
    return _Reader().read(events)


class _Reader:
    def __init__(self) -> None:
        self._began: Began | None = None
        self._steps: list[Step] = []
        self._pieces: list[tuple[int, bytearray]] = []
        self._missing: list[Missing] = []
        self._seen: dict[Direction, int] = {"up": 0, "down": 0}
        self._ends: dict[str, SideEnd] = {}
        self._last = 0.0
        self._last_step = 0.0

    def read(self, events: Iterable[FlowEvent]) -> Conversation:
        ended: Ended | None = None
        for event in events:
            if isinstance(event, Began):
                self._begin(event)
                continue
            if self._began is None:
                raise QuestionError("it does not say how the connection began: it is no recording")
            if event.connection != self._began.connection:
                raise _several(self._began.connection, event.connection)
            now = self._time(event.at)
            if isinstance(event, Data):
                self._add(event, now)
            elif isinstance(event, SideEnded):
                self._end_side(event, now)
            else:
                ended = event
        return self._made(ended)

    def _begin(self, event: Began) -> None:
        if self._began is not None:
            raise _several(self._began.connection, event.connection)
        if not isinstance(event.connection, int):
            raise ValueError("an id is no number")
        self._began = event
        self._last = self._last_step = self._time(event.at)

    @staticmethod
    def _time(at: float) -> float:
        if not math.isfinite(at):  # JSON of Python's may have it
            raise ValueError(f"{at} is no time")
        return at

    def _add(self, event: Data, now: float) -> None:
        if type(event.offset) is not int:  # JSON may have 3.0, which cuts nothing
            raise ValueError("an offset is no whole number")
        if event.offset < self._seen[event.direction]:
            raise ValueError(f"byte {event.offset} comes twice")
        self._note_missing(event.direction, event.offset)
        self._seen[event.direction] = event.offset + len(event.data)
        if event.direction == "up":
            self._add_step(event.data, now)
            return
        if self._pieces and self._pieces[-1][0] + len(self._pieces[-1][1]) == event.offset:
            self._pieces[-1][1].extend(event.data)
        else:
            self._pieces.append((event.offset, bytearray(event.data)))
        self._last = now

    def _add_step(self, data: bytes, now: float) -> None:
        # The wall clock may have been set back in the meantime.
        since_step, since_event = max(0.0, now - self._last_step), max(0.0, now - self._last)
        self._steps.append(Step(data, since_step, since_event, self._seen["down"]))
        self._last = self._last_step = now

    def _end_side(self, event: SideEnded, now: float) -> None:
        if event.how not in get_args(SideEnd):
            raise ValueError("a side has ended in no way that is known")
        self._ends[event.side] = event.how
        if event.offset is not None:
            self._end_at(DIRECTION_OF[event.side], event.offset)
        if event.side == "client" and event.how in ("fin", "reset"):
            assert self._began is not None
            self._add_step(b"", max(now, self._began.at))  # it may have been before that

    def _note_missing(self, direction: Direction, offset: int) -> None:
        seen = self._seen[direction]
        if offset > seen:
            self._missing.append(Missing(direction, seen, offset - seen))

    def _made(self, ended: Ended | None) -> Conversation:
        if self._began is None:
            raise QuestionError("there is nothing in it: it is no recording")
        # A recording that does not say how much there was is of what was seen until then.
        for event in (self._began, ended or self._began):
            self._end_at("up", event.up)
            self._end_at("down", event.down)
        if not any(step.data for step in self._steps):
            raise QuestionError("nothing of what the client sent is recorded: nothing to send")
        last = self._last if ended is None else self._time(ended.at)
        return Conversation(
            self._began,
            tuple(self._steps),
            self._ends.get("client"),
            tuple((offset, bytes(data)) for offset, data in self._pieces),
            self._seen["down"],
            self._ends.get("backend"),
            tuple(self._missing),
            max(0.0, self._last_step - self._began.at),
            max(0.0, last - self._last_step),
        )

    def _end_at(self, direction: Direction, count: int) -> None:
        self._note_missing(direction, count)
        self._seen[direction] = max(self._seen[direction], count)


def _several(one: int, other: int) -> QuestionError:
    return QuestionError(
        f"it has events of several connections ({one}, {other}): give those of one, as from"
        f" jq -c 'select(.connection == {one})'"
    )


# -- the answer


@attrs.define
class Answer:
    """What a backend answers this time, as far as it can be compared with what was recorded.

    Bounded by the recording: where that has a gap, bytes are only counted.
    """

    conversation: Conversation
    received: int = 0
    ended: SideEnd | None = None
    """How the backend has ended its side; None if it has not."""
    pieces: list[bytearray] = attrs.field(init=False)
    extra: bytearray = attrs.field(init=False, factory=bytearray)
    """The first bytes beyond the recorded answer."""

    def __attrs_post_init__(self) -> None:
        self.pieces = [bytearray() for _ in self.conversation.answer]

    def add(self, data: bytes) -> None:
        """Take what comes next."""
        begin, end = self.received, self.received + len(data)
        for (offset, recorded), piece in zip(self.conversation.answer, self.pieces, strict=True):
            low, high = max(begin, offset), min(end, offset + len(recorded))
            if low < high:
                piece += data[low - begin : high - begin]
        room = _SHOWN_EXTRA_BYTES - len(self.extra)
        if end > self.conversation.answered and room > 0:
            self.extra += data[max(0, self.conversation.answered - begin) :][:room]
        self.received = end

    @property
    def is_endless(self) -> bool:
        """Whether it is so much longer than recorded that its rest does not matter."""
        return self.received > self.conversation.answered + EXTRA_BYTES

    @property
    def differs_at(self) -> int | None:
        """The first byte that is another one than recorded, or that only one of them has."""
        for (offset, recorded), piece in zip(self.conversation.answer, self.pieces, strict=True):
            if piece != recorded:
                same = (at for at in range(len(piece)) if piece[at] != recorded[at])
                return offset + next(same, len(piece))
        if self.received != self.conversation.answered:
            return min(self.received, self.conversation.answered)
        return None

    @property
    def ends_otherwise(self) -> bool:
        """Whether the backend was seen to end its side, and did so in another way this time."""
        recorded = self.conversation.backend_end
        return recorded is not None and self.ended != recorded

    @property
    def is_same(self) -> bool:
        """Whether nothing differs from what was recorded."""
        return self.differs_at is None and not self.ends_otherwise

    def lines(self) -> Iterator[tuple[int, bytes, bytes]]:
        """The answer in lines of a hex dump: offset, what was recorded, what came."""
        pieces = [
            (offset, recorded, bytes(piece))
            for (offset, recorded), piece in zip(self.conversation.answer, self.pieces, strict=True)
        ]
        end = self.conversation.answered
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == end:
            offset, recorded, came = pieces.pop()
            pieces.append((offset, recorded, came + self.extra))
        else:
            pieces.append((end, b"", bytes(self.extra)))
        for offset, recorded, came in pieces:
            size = max(len(recorded), len(came))
            for at in range(-(offset % BYTES_A_LINE), size, BYTES_A_LINE):
                low, high = max(at, 0), at + BYTES_A_LINE
                yield offset + low, recorded[low:high], came[low:high]
