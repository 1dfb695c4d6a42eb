"""Payload as a readable hex dump."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from monconn.background import BackgroundQueue
from monconn.errors import printable
from monconn.hexlines import ARROWS, dump
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.units import format_bytes

QUEUED_BYTES = 4 * 1024 * 1024


@attrs.frozen
class _Chunk:
    at: float
    service: str
    client: str
    backend: str
    direction: Direction
    data: bytes


class HexDump(Observer):
    """Writes each chunk of payload in the layout of ``hexdump -C``, in a thread of its own.

    Chunks that arrive faster than they can be written are dropped, and counted.

    :param write: takes text; called in the thread.
    :param queued_bytes: how much payload may be queued.
    """

    watches_payload = True

    def __init__(self, write: Callable[[str], object], queued_bytes: int = QUEUED_BYTES) -> None:
        self._write = write
        self._queue: BackgroundQueue[_Chunk] = BackgroundQueue(self._write_chunk, queued_bytes)

    @property
    def dropped(self) -> int:
        """How many chunks were dropped."""
        return self._queue.dropped

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Queue a chunk to be written."""
        chunk = _Chunk(time.time(), record.service, record.client, record.backend, direction, data)
        self._queue.put(chunk, len(data))

    def _write_chunk(self, chunk: _Chunk, dropped: int) -> None:
        if dropped:
            self._write(f"... {dropped} chunks not shown: more than could be written\n")
        self._write(_headline(chunk) + dump(chunk.data))

    def stop(self, wait_seconds: float) -> bool:
        """Stop, after what is queued is written; whether that was done in time."""
        return self._queue.stop(wait_seconds)


def _headline(chunk: _Chunk) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(chunk.at)) + f".{int(chunk.at % 1 * 1000):03d}"
    arrow = ARROWS[chunk.direction]
    line = (
        f"{at} {chunk.service} {chunk.client} {arrow} {chunk.backend}"
        f" {chunk.direction} {format_bytes(len(chunk.data))}"
    )
    return f"{printable(line)}\n"  # a path may hold anything
