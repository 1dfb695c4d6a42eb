"""Taps for HTTP clients: the bytes of connections as server-sent events.

A tap stays open for some seconds after its client is gone, and is given to one that connects again
and names the last event that it got. What it cannot hold meanwhile is dropped, and counted.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from monconn.faces.http.caller import Caller
from monconn.faces.http.sse import (
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    RETRY,
    EventStream,
    event_bytes,
    json_event,
    number_after,
)
from monconn.model.flow import FlowEvent, encode, in_pieces
from monconn.ops.operations import Operations
from monconn.ops.taps import Tap, TapResult
from monconn.turns import TurnQueue

HELD_SECONDS = 10.0
"""How long a tap stays open without its client, and what is to be said of its end is held."""
MOST_HELD_BYTES = 1024 * 1024
"""The most bytes of events of one tap that were sent, and are held as they may not have arrived."""
TURN_BYTES = 64 * 1024
"""The most that one client is sent in a turn."""
PIECE_BYTES = 44_000
"""The most bytes of a connection in one event."""


class HttpTap:
    """One tap, and the client that is sent its events.

    :param taps: knows the others.
    :param key: whose it is, and what it is of: only the same is given to one who connects again.
    :param prefix: of the ids of its events.
    """

    def __init__(self, taps: HttpTaps, key: Hashable, prefix: str) -> None:
        self._taps = taps
        self._clock = taps.operations.clock
        self.key = key
        self._prefix = prefix
        self._tap: Tap | None = None
        self._stream: EventStream | None = None
        self._events: Iterator[FlowEvent] = iter(())  # pieces of what was taken
        self._held: deque[bytes] = deque()
        """Events that were sent, as they were sent; the last one has the number ``_last``."""
        self._held_bytes = 0
        self._last = 0
        self._position = 0
        """The number of the last event that the present client was sent."""
        self._told = (0, 0)
        """How many bytes were dropped, and connections left out, as far as that was sent."""
        self._is_queued = False
        self._has_ended = False
        self._heartbeat: IDelayedCall | None = None
        self._end: IDelayedCall | None = None

    def ready(self, tap: Tap) -> None:
        """There are events, or it is over."""
        if self._tap is not None:  # else it is told what there is at first
            self._send_later()

    def begin(self, done: TapResult, missed: bool) -> EventStream:
        """The stream of the client that has asked for it.

        :param missed: whether the client has had an earlier one, which is closed.
        """
        self._tap = tap = done.tap
        if missed:
            self._hold("missed", {"events": None})
        self._hold(
            "started",
            {
                "connections": len(tap),
                "left_out": tap.left_out,
                "unknown": done.unknown,
                "services_left_out": done.services_left_out,
            },
        )
        self._told = 0, tap.left_out
        return self.stream(0)

    # -- its client

    def number_of(self, last_id: str) -> int | None:
        """The number of the event with an id; None if it is none of this tap's."""
        return number_after(self._prefix, last_id, self._last)

    def is_over_after(self, number: int) -> bool:
        """Whether there is nothing after an event."""
        return self._has_ended and number == self._last

    def stream(self, position: int) -> EventStream:
        """The stream of a client that connects, in place of another that has not left.

        :param position: the number of the last event that it got.
        """
        self._stay()
        return EventStream(partial(self._started, position), self._stopped, self._resumed)

    def _started(self, position: int, stream: EventStream) -> None:
        before, self._stream = self._stream, stream
        if before is not None:
            before.finish()
        self._position = position
        self._stay()
        stream.send(RETRY + f"id: {self._prefix}{position}\n\n".encode())
        if self._heartbeat is None:
            self._heartbeat = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)
        self._send_later()

    def _resumed(self, stream: EventStream) -> None:
        self._send_later()

    def _stopped(self, stream: EventStream) -> None:
        if self._stream is stream:
            self._stream = None
        if self._stream is None:
            if self._heartbeat is not None:
                self._heartbeat.cancel()
                self._heartbeat = None
            self._stay()

    def _stay(self) -> None:
        """Stay open for another while."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if self._stream is None and not self._taps.is_closed:
            self._end = self._clock.callLater(HELD_SECONDS, self._expired)

    def _expired(self) -> None:
        # In turns: a client that leaves may have had all taps, of a thousand connections each.
        self._end = None
        self._taps.queue.add(self._close_alone)

    def _close_alone(self) -> None:
        if self._stream is None and self._end is None:  # else it was asked for meanwhile
            self.close()

    def close(self) -> None:
        """Tap nothing more, and end the stream; harmless the second time."""
        self._taps.remove(self)
        if self._tap is not None:
            self._tap.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.finish()
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _beat(self) -> None:
        self._heartbeat = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)
        if self._stream is not None and not self._stream.is_slow:
            self._stream.send(HEARTBEAT)
            self._send_later()  # what was dropped, though nothing came after it

    # -- events

    def _send_later(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._taps.queue.add(self._send)

    def _send(self) -> None:
        self._is_queued = False
        stream = self._stream
        if stream is None or stream.is_slow:
            return
        parts: list[bytes] = []
        size = 0
        while size < TURN_BYTES:
            if self._position == self._last and not self._take():
                break
            oldest = self._last - len(self._held) + 1
            if self._position + 1 < oldest:
                number = oldest - 1
                missed = {"events": number - self._position}
                parts.append(json_event("missed", missed, f"{self._prefix}{number}"))
                self._position = number
            # All but the newest only for one that has connected again.
            data = self._held[self._position + 1 - oldest]
            parts.append(data)
            size += len(data)
            self._position += 1
        if parts:
            stream.send(b"".join(parts))
        if self._has_ended and self._position == self._last:
            stream.finish()
        elif size >= TURN_BYTES:
            self._send_later()

    def _take(self) -> bool:
        """Hold the next event, to be sent; False if there is none now."""
        tap = self._tap
        if tap is None or self._has_ended:
            return False
        event = next(self._events, None)
        if event is None and (taken := tap.take()) is not None:
            self._events = in_pieces(taken, PIECE_BYTES)
            event = next(self._events)
        if event is not None:
            self._hold(event.kind, event)
            return True
        counts = tap.dropped_bytes, tap.left_out
        if counts != self._told:
            self._told = counts
            self._hold("dropped", {"bytes": counts[0], "left_out": counts[1]})
            return True
        if tap.is_over:
            self._has_ended = True
            self._hold("end", {"dropped_bytes": counts[0], "left_out": counts[1]})
            tap.close()
            return True
        return False

    def _hold(self, kind: str, values: Any) -> None:
        self._last += 1
        id = f"{self._prefix}{self._last}"
        if isinstance(values, dict):
            data = json_event(kind, values, id)
        else:
            data = event_bytes(kind, encode(values), id)
        self._held.append(data)
        self._held_bytes += len(data)
        while self._held_bytes > MOST_HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= len(self._held.popleft())


class HttpTaps:
    """The taps of HTTP clients.

    :param operations: open them, as many as there may be.
    """

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.queue = TurnQueue(operations.clock)
        self.is_closed = False
        self._taps: dict[HttpTap, None] = {}
        self._made = itertools.count(1)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._taps)

    def remove(self, tap: HttpTap) -> None:
        """Forget one; harmless the second time."""
        self._taps.pop(tap, None)

    def open(
        self,
        caller: Caller,
        *,
        filter: str | None = None,
        service: str | None = None,
        follow: bool = False,
        last_id: str | None = None,
    ) -> Deferred[EventStream] | EventStream | None:
        """A tap, as :meth:`~monconn.ops.operations.Operations.tap` opens one; or the caller's own,
        with the events after the one that it names.

        :param last_id: of the last event that the client got; None if it begins.
        :returns: None if it has all events of a tap that is over.
        """
        key = caller.kind, caller.name, filter, service, follow
        if last_id is not None:
            for each in self._taps:
                number = each.number_of(last_id) if each.key == key else None
                if number is not None:
                    return None if each.is_over_after(number) else each.stream(number)
        tap = HttpTap(self, key, f"{self.operations.token}-tap{next(self._made)}-")
        opening = self.operations.tap(
            caller.actor(),
            tap.ready,
            filter=filter,
            service=service,
            follow=follow,
            how="HTTP",
        )

        def begin(done: TapResult) -> EventStream:
            self._taps[tap] = None
            return tap.begin(done, last_id is not None)

        return opening.addCallback(begin)

    def close(self) -> None:
        """Close all of them."""
        self.is_closed = True
        for each in tuple(self._taps):
            each.close()
