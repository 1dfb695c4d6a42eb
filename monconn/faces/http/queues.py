"""How many answers are made for one caller at a time: the others of that caller wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred

from monconn.clock import Clock
from monconn.faces.http.caller import Caller
from monconn.faces.http.problems import Problem
from monconn.net.http.messages import Answer, Response
from monconn.turns import TurnQueue

MADE_AT_ONCE = 6
"""As many as a browser has connections. The rows of one answer may take 5 MB: those of 200 that one
caller had asked for at once took 1 GB, and its queries all of the history's places."""
MOST_WAITING = 32
"""How many more requests of one caller may wait. Who waits keeps its place among the clients: those
of one caller must not take all of them."""
MOST_SHARED = 160
"""How many requests of one caller may wait for answers that they share with others: three of each
of fifty pages."""
_Key = tuple[str, str]


@attrs.define(eq=False)
class _Queue:
    """Of one caller: how many answers are being made, and which wait, the oldest first."""

    making: int = 0
    waiting: dict[Deferred[None], None] = attrs.field(factory=dict)


class CallerQueues:
    """The answers that are being made, by callers.

    :param clock: for turns.
    """

    def __init__(self, clock: Clock) -> None:
        self._turns = TurnQueue(clock)
        self._queues: dict[_Key, _Queue] = {}
        self._sharing: Counter[_Key] = Counter()
        self.most_waiting = MOST_WAITING
        self.most_shared = MOST_SHARED

    def fit(self, clients: int) -> None:
        """Have one caller's requests leave some of so many places for clients to others."""
        self.most_waiting = min(MOST_WAITING, clients // 8)
        self.most_shared = min(MOST_SHARED, clients * 5 // 8)

    def __len__(self) -> int:
        """For how many callers answers are being made."""
        return len(self._queues)

    def run(self, caller: Caller, make: Callable[[], Answer]) -> Deferred[Response]:
        """Make an answer, now or once it is its turn.

        :param make: makes it; not called if the result is cancelled before.
        :raises Problem: too many of this caller wait already.
        """
        key = caller.kind, caller.name
        queue = self._queues.setdefault(key, _Queue())
        if queue.making < MADE_AT_ONCE and not queue.waiting:
            return self._make(key, queue, make)
        if len(queue.waiting) >= self.most_waiting:
            raise _too_many(caller, MADE_AT_ONCE + self.most_waiting)
        place: Deferred[None] = Deferred(queue.waiting.pop)
        queue.waiting[place] = None
        return place.addCallback(lambda _: self._make(key, queue, make))

    def share(self, caller: Caller, get: Callable[[], Deferred[Response]]) -> Deferred[Response]:
        """Wait for an answer that is made for others, too.

        :param get: asks for it.
        :raises Problem: too many requests of this caller wait so already.
        """
        key = caller.kind, caller.name
        if self._sharing[key] >= self.most_shared:
            raise _too_many(caller, self.most_shared)
        self._sharing[key] += 1

        def over(result: Response) -> Response:  # or the failure
            self._sharing[key] -= 1
            if not self._sharing[key]:
                del self._sharing[key]
            return result

        return get().addBoth(over)

    def _make(self, key: _Key, queue: _Queue, make: Callable[[], Answer]) -> Deferred[Response]:
        queue.making += 1
        call: Callable[..., Any] = make
        made: Deferred[Response] = maybeDeferred(call)

        def over(result: Response) -> Response:  # or the failure
            queue.making -= 1
            if queue.waiting:
                # In another turn: a hundred that are made at once would call each other.
                self._turns.add(partial(self._next, key, queue))
            else:
                self._drop_unused(key, queue)
            return result

        return made.addBoth(over)

    def _next(self, key: _Key, queue: _Queue) -> None:
        if queue.waiting:
            place = next(iter(queue.waiting))
            del queue.waiting[place]
            place.callback(None)
        else:
            self._drop_unused(key, queue)

    def _drop_unused(self, key: _Key, queue: _Queue) -> None:
        if not queue.making and self._queues.get(key) is queue:
            del self._queues[key]


def _too_many(caller: Caller, count: int) -> Problem:
    return Problem(
        429,
        f"{caller.name} waits for {count} answers already",
        "too-many-requests",
        headers=(("Retry-After", "1"),),
    )
