"""Every chunk of payload as a hex dump for people."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from monconn.background import BackgroundQueue
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.units import format_bytes

QUEUED_BYTES = 4 * 1024 * 1024
BYTES_A_LINE = 16
_ARROW = {"up": "→", "down": "←"}


@attrs.frozen
class _Chunk:
    at: float
    service: str
    client: str
    backend: str
    direction: Direction
    data: bytes


class HexDump(Observer):
    """Shows each chunk in the layout of ``hexdump -C``, off the data path.

    Chunks that come faster than they can be written are left out, and counted.

    :param write: takes text; called in a thread.
    :param queued_bytes: how much payload may wait to be written.
    """

    watches_payload = True

    def __init__(self, write: Callable[[str], object], queued_bytes: int = QUEUED_BYTES) -> None:
        self._write = write
        self._offload: BackgroundQueue[_Chunk] = BackgroundQueue(self._show, queued_bytes)

    @property
    def dropped(self) -> int:
        """How many chunks were left out."""
        return self._offload.dropped

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """See :meth:`IObserver.data`."""
        chunk = _Chunk(time.time(), record.service, record.client, record.backend, direction, data)
        self._offload.put(chunk, len(data))

    def _show(self, chunk: _Chunk, dropped: int) -> None:
        if dropped:
            self._write(f"... {dropped} chunks not shown: more than could be written\n")
        self._write(_headline(chunk) + dump(chunk.data))

    def stop(self, wait_seconds: float) -> bool:
        """Write what is queued; whether all of it was written in time."""
        return self._offload.stop(wait_seconds)


def _headline(chunk: _Chunk) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(chunk.at)) + f".{int(chunk.at % 1 * 1000):03d}"
    arrow = _ARROW[chunk.direction]
    return (
        f"{at} {chunk.service} {chunk.client} {arrow} {chunk.backend}"
        f" {chunk.direction} {format_bytes(len(chunk.data))}\n"
    )


def dump(data: bytes) -> str:
    """Bytes as lines of offset, hex and ASCII, as ``hexdump -C`` lays them out."""
    return "".join(
        _line(offset, data[offset : offset + BYTES_A_LINE])
        for offset in range(0, len(data), BYTES_A_LINE)
    )


def _line(offset: int, piece: bytes) -> str:
    left, right = piece[:8].hex(" "), piece[8:].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
    return f"{offset:08x}  {left:<23}  {right:<23}  |{text}|\n"
