"""What is recorded of one direction of a connection: its first and its last bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from monconn.policy.recorder import RecorderSettings

CHUNK_OVERHEAD = 128
"""What Python needs for a chunk beside its bytes: a tuple, a float, a bytes object and a place in a
list are 137 to 152 bytes, and most chunks share their float with others."""
MOST_CHUNKS = 64
"""Chunks of either end of a direction. When there are more, neighbours among the older ones are
joined: ten thousand single bytes are not ten thousand objects."""
_Chunk = tuple[float, bytes]


class Track:
    """The first and the last bytes of one direction.

    :param settings: how many.
    :param charge: is told how much more memory it takes, or less; in bytes.
    """

    __slots__ = (
        "_charge",
        "_first",
        "_held",
        "_last",
        "_most_first",
        "_most_last",
        "count",
        "size",
    )

    def __init__(self, settings: RecorderSettings, charge: Callable[[int], object]) -> None:
        self._charge = charge
        self._most_first = settings.first
        self._most_last = settings.last
        self._first: list[_Chunk] = []
        self._last: list[_Chunk] = []  # without gaps, up to count
        self._held = 0  # bytes in _last; it may be some more than are wanted
        self.count = 0
        """How many bytes of the direction have come by."""
        self.size = 0
        """Memory, in bytes."""

    def add(self, data: bytes | memoryview, now: float) -> None:
        """Record a chunk. Nothing is concatenated for it, as a chunk may be a single byte.

        :param now: monotonic seconds.
        """
        begin, count, more = self.count, len(data), 0
        self.count = begin + count
        if begin < self._most_first:
            head = bytes(data[: self._most_first - begin])
            self._first.append((now, head))
            more = len(head) + CHUNK_OVERHEAD
            if len(self._first) > MOST_CHUNKS:
                more -= CHUNK_OVERHEAD * _join(self._first, self._most_first)
            data = data[len(head) :]
            count -= len(head)
        most = self._most_last
        if count and most:
            last = self._last
            if count >= most:
                more -= self._clear_last()
                data, count = data[-most:], most
            last.append((now, bytes(data)))
            held = self._held + count
            more += count + CHUNK_OVERHEAD
            while held - (oldest := len(last[0][1])) >= most:
                del last[0]
                held -= oldest
                more -= oldest + CHUNK_OVERHEAD
            self._held = held
            if len(last) > MOST_CHUNKS:
                more -= CHUNK_OVERHEAD * _join(last, most)
        if more:
            self.size += more
            self._charge(more)

    def tail_of(self, count: int, now: float) -> Tail | None:
        """A chunk has come that is about to be spliced: which part of it must be read.

        :param count: its size.
        :param now: monotonic seconds.
        :returns: its last bytes; None if none are recorded, and it is counted already.
        """
        if self._most_last:
            return Tail(self, min(count, self._most_last), count, now)
        self.count += count
        return None

    def skip(self, count: int) -> None:
        """Bytes have come by that are not recorded."""
        if not count:
            return
        self.count += count
        # The first bytes are complete: before 64 KiB have come, nothing is spliced.
        self._most_first = 0
        size = self._clear_last()
        self.size -= size
        self._charge(-size)

    def _clear_last(self) -> int:
        size = self._held + len(self._last) * CHUNK_OVERHEAD
        self._last.clear()
        self._held = 0
        return size

    def drop(self) -> None:
        """Forget all of it, and record no more."""
        self._most_first = self._most_last = self._held = self.size = 0
        self._first, self._last = [], []

    def chunks(self) -> Iterator[tuple[float, int, bytes]]:
        """What is recorded: each chunk's time, its offset and its bytes."""
        at = 0
        for time, data in self._first:
            yield time, at, data
            at += len(data)
        at = self.count - self._held
        surplus = self._held - self._most_last
        for time, data in self._last:
            if surplus > 0:
                data, surplus, at = data[surplus:], 0, at + surplus
            yield time, at, data
            at += len(data)


@attrs.define(eq=False)
class Tail:
    """The last bytes of a chunk, which are recorded while the others are spliced.

    :param count: how many they are.
    """

    _track: Track
    count: int
    _chunk_bytes: int
    _at: float

    def record(self, data: bytes) -> None:
        """They are read now; called once."""
        self._track.skip(self._chunk_bytes - len(data))
        self._track.add(data, self._at)


def _join(chunks: list[_Chunk], most: int) -> int:
    """Join neighbours in the older half of a list; each has the time of the first of them.

    :param most: the bytes that the whole list may have: a sixteenth of them is the size up to which
        chunks are joined.
    :returns: how many chunks there are less.
    """
    half, limit = len(chunks) // 2, most // 16 + 1
    joined: list[tuple[float, list[bytes]]] = []
    size = 0
    for now, data in chunks[:half]:
        if joined and size + len(data) <= limit:
            joined[-1][1].append(data)
            size += len(data)
        else:
            joined.append((now, [data]))
            size = len(data)
    chunks[:half] = [(now, b"".join(pieces)) for now, pieces in joined]
    return half - len(joined)
