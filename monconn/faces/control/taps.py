"""The events of a tap, sent to a client of the control port as fast as it reads, and no faster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from monconn.faces.control.pages import PAGE_BYTES, encoded_row
from monconn.model.flow import Data, FlowEvent, encode, in_pieces, to_json
from monconn.ops.taps import Tap, TapResult
from monconn.turns import TurnQueue

BOXES_A_TURN = 4
"""The most boxes that one client is sent in a turn; each takes a tenth of a millisecond to make. A
transport that holds 64 KiB stops it before, so that it is one or two where the kernel is slow."""
PIECE_BYTES = 44_000
"""The most bytes of a connection in one event: base64 makes them a third longer."""


class TapSender:
    """Sends one tap's events: a few boxes in a turn, and none while the client reads slowly.

    :param send: sends the values of a box.
    :param queue: the turns that all clients share.
    """

    def __init__(self, send: Callable[..., object], queue: TurnQueue) -> None:
        self._send = send
        self._queue = queue
        self.tap: Tap | None = None
        """What is sent from; None before the start, and after the end."""
        self._pieces: Iterator[FlowEvent] = iter(())
        """Of the event that was taken last, what is not sent."""
        self._left: bytes | None = None
        """What was encoded, and did not fit into a box."""
        self._is_queued = False
        self._is_paused = False
        self._is_closed = False

    def ready(self, tap: Tap) -> None:
        """There are events; nothing is sent before :meth:`start`, as the answer goes before."""
        if self.tap is not None:
            self._queue_box()

    def start(self, done: TapResult) -> dict[str, Any]:
        """Send events from now on.

        :returns: the values of the answer.
        """
        tap = done.tap
        if self._is_closed:
            tap.close()
        else:
            self.tap = tap
            self._queue_box()
        return {
            "connections": len(tap),
            "left_out": tap.left_out,
            "unknown": json.dumps(done.unknown).encode(),
            "services_left_out": json.dumps(done.services_left_out).encode(),
        }

    def pause(self) -> None:
        """The client reads slowly: what its tap cannot hold any more is dropped, and counted."""
        self._is_paused = True

    def resume(self) -> None:
        """Send again."""
        self._is_paused = False
        self._queue_box()

    def close(self) -> None:
        """Close the tap, and send nothing more; harmless the second time."""
        self._is_closed = True
        if self.tap is not None:
            self.tap.close()
            self.tap = None

    def _queue_box(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._queue.add(self._send_boxes)

    def _send_boxes(self) -> None:
        self._is_queued = False
        for _ in range(BOXES_A_TURN):
            if self.tap is None or self._is_paused:
                return
            if not self._send_box(self.tap):
                return
        self._queue_box()

    def _send_box(self, tap: Tap) -> bool:
        """Send the next events that fit into one box.

        :returns: whether there are more.
        """
        events: list[bytes] = []
        size = 0
        while (encoded := self._left or self._next(tap)) is not None:
            size += len(encoded) + 1
            if events and size > PAGE_BYTES:
                break
            events.append(encoded)
            self._left = None
        self._left = encoded
        is_over = encoded is None and tap.is_over
        if events or is_over:
            self._send(
                events=b"[" + b",".join(events) + b"]",
                dropped_bytes=tap.dropped_bytes,
                left_out=tap.left_out,
                is_over=is_over,
            )
        if is_over:
            self.close()
        return encoded is not None

    def _next(self, tap: Tap) -> bytes | None:
        """The next event, or a part of one with many bytes, as JSON; None if there is none."""
        event = next(self._pieces, None)
        if event is None and (taken := tap.take()) is not None:
            self._pieces = in_pieces(taken, PIECE_BYTES)
            event = next(self._pieces)
        if event is None:
            return None
        return encode(event) if isinstance(event, Data) else encoded_row(to_json(event))
