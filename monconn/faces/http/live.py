"""What every open page is sent: once a second the figures of all services, and what is rare.

Each tick is made and encoded once, in turns of the loop, for all who watch; while nobody does,
there is neither a timer nor an observer.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn._version import __version__
from monconn.faces.http.caller import Caller
from monconn.faces.http.sse import RETRY, EventStream, event_bytes, json_event
from monconn.log import Logger
from monconn.model.record import iso_time
from monconn.ops.feed import FeedEvent, Subscription
from monconn.ops.operations import Operations
from monconn.turns import in_turns

TICK_SECONDS = 1.0
RECENT_TICKS = 180
RECENT_BYTES = 128 * 1024
"""The most ticks that are held for those who join, and the most bytes of them."""
RARE_BYTES = 256 * 1024
"""The most bytes of alarms and actions that are gathered to be sent; more are counted."""
GATHERING_SECONDS = 0.05
"""How long these are gathered, as there may be a thousand a second."""
RECENT_FIELDS = ("sid", "connections", "total", "refused", "closed_by", "up", "down")
"""The fields of a service in a tick that is held: those that change, and lines are drawn of."""
_RARE = "event:alarm event:action"


class Live:
    """The ticks, and who watches them.

    :param operations: are asked for figures, and for alarms and actions.
    """

    _log = Logger()

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._clock = operations.clock
        self._streams: dict[EventStream, int] = {}  # with how many events it has missed
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None
        self._subscription: Subscription | None = None
        self._rare: list[bytes] = []  # alarms and actions to be sent
        self._rare_bytes = 0
        self._dropped = 0  # how many of them were not held
        self._gathering: IDelayedCall | None = None
        self._sending: Deferred[None] | None = None
        self._sequence = 0
        self._latest: bytes | None = None
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0

    def __len__(self) -> int:
        """How many watch."""
        return len(self._streams)

    def stream(self, caller: Caller) -> EventStream:
        """One more who watches, once it is started.

        :param caller: is told who it is.
        """
        return EventStream(partial(self._started, caller), self._stopped, self._resumed)

    def _started(self, caller: Caller, stream: EventStream) -> None:
        hello = {
            "served": self._operations.token,
            "version": __version__,
            "role": caller.role,
            "name": caller.name,
            "now": iso_time(time.time()),
        }
        first = RETRY + json_event("hello", hello)
        if self._recent:
            first += event_bytes("recent", b'{"ticks":[' + b",".join(self._recent) + b"]}")
        self._streams[stream] = 0
        stream.send(first + (self._latest or b""))
        if len(self._streams) == 1 and self._subscription is None:
            self._subscription = self._operations.subscribe(self._happened, filter=_RARE)
            self._begin_tick()

    def _stopped(self, stream: EventStream) -> None:
        if self._streams.pop(stream, None) is None or self._streams:
            return
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._rare.clear()
        self._rare_bytes = self._dropped = 0
        for work in (self._work, self._sending):
            if work is not None:
                work.cancel()
        # What follows after a while in which nobody counted is no part of the same line.
        self._latest = None
        self._recent.clear()
        self._recent_bytes = 0

    def close(self) -> None:
        """End all streams."""
        for stream in tuple(self._streams):
            stream.finish()

    # -- ticks

    def _begin_tick(self) -> None:
        self._timer = None
        next_at = self._clock.seconds() + TICK_SECONDS

        def finished(failure: Failure | None) -> None:
            self._work = None
            if failure is not None and not failure.check(CancelledError):
                self._log.failure("a second's figures could not be made", failure)
            if self._streams:
                pause = max(0.0, next_at - self._clock.seconds())
                self._timer = self._clock.callLater(pause, self._begin_tick)

        self._work = in_turns(self._clock, self._tick())
        self._work.addBoth(finished)

    def _tick(self) -> Iterator[None]:
        at = iso_time(time.time())
        services: list[bytes] = []
        recent: list[bytes] = []
        connections = 0
        for row in self._operations.services():
            if row is not None:
                values = row.to_json()
                connections += row.connections
                services.append(_encode(values))
                recent.append(_encode({name: values.get(name) for name in RECENT_FIELDS}))
            yield
        self._sequence += 1
        head = _encode({"at": at, "sequence": self._sequence, "connections": connections})[:-1]
        self._latest = event_bytes("tick", _tick_bytes(head, services))
        self._hold(_tick_bytes(head, recent))
        for stream in tuple(self._streams):
            if not stream.is_slow:  # else the next one will do
                stream.send(self._latest)
            yield

    def _hold(self, tick: bytes) -> None:
        self._recent.append(tick)
        self._recent_bytes += len(tick)
        while self._recent_bytes > RECENT_BYTES or len(self._recent) > RECENT_TICKS:
            self._recent_bytes -= len(self._recent.popleft())

    # -- what is rare

    def _happened(self, event: FeedEvent) -> None:
        encoded = event_bytes(event.kind, event.encode())
        if self._rare_bytes + len(encoded) > RARE_BYTES:
            self._dropped += 1
        else:
            self._rare.append(encoded)
            self._rare_bytes += len(encoded)
        if self._gathering is None and self._sending is None:
            self._gathering = self._clock.callLater(GATHERING_SECONDS, self._send_rare)

    def _send_rare(self) -> None:
        self._gathering = None

        def finished(failure: Failure | None) -> None:
            self._sending = None
            if failure is not None and not failure.check(CancelledError):
                self._log.failure("alarms and actions could not be sent", failure)
            if self._rare or self._dropped:
                self._gathering = self._clock.callLater(GATHERING_SECONDS, self._send_rare)

        self._sending = in_turns(self._clock, self._sending_rare())
        self._sending.addBoth(finished)

    def _sending_rare(self) -> Iterator[None]:
        count, data, dropped = len(self._rare), b"".join(self._rare), self._dropped
        self._rare.clear()
        self._rare_bytes = self._dropped = 0
        for stream in tuple(self._streams):
            if stream in self._streams:
                self._streams[stream] += dropped
                if stream.is_slow:
                    self._streams[stream] += count
                else:
                    stream.send(data)
                    self._send_missed(stream)
            yield

    def _resumed(self, stream: EventStream) -> None:
        self._send_missed(stream)

    def _send_missed(self, stream: EventStream) -> None:
        missed = self._streams.get(stream, 0)
        if missed:
            self._streams[stream] = 0
            stream.send(json_event("missed", {"events": missed}))


def _encode(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _tick_bytes(head: bytes, services: list[bytes]) -> bytes:
    return head + b',"services":[' + b",".join(services) + b"]}"
