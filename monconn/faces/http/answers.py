"""Answers that several requests share, as each may be some time old: ``max_age``.

Pages ask for the same lists again each second. Each list is made at most once in that time, for
all who ask for it, and all of them together take no more than a part of the loop's time: beyond
that, answers get older.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.model.record import iso_time
from monconn.net.http.messages import Answer, Response
from monconn.turns import TurnQueue, worked_seconds

SHARE = 0.2
"""The most of the loop's time that goes into such answers, as a part of it."""
BURST_SECONDS = 0.1
"""How much of that may be used at once, after a time in which nothing was asked."""
MADE_AT_ONCE = 8
ANSWERED_AT_ONCE = 8
MOST_ANSWERS = 256
"""The most answers that are held, beside those that requests wait for."""
MOST_BYTES = 16 * 1024 * 1024
"""The most bytes of them."""
HELD_SECONDS = 30.0
"""How long an answer is held that nobody asks for; and how old one may get, as there is no time to
make another."""


@attrs.define(eq=False)
class _Shared:
    """One answer, as it was made last."""

    key: Hashable
    make: Callable[[], Answer]
    response: Response | None = None
    made: tuple[float, int] = (0.0, 0)
    """When the making of that began, and which making it was."""
    asked: float = 0.0
    is_queued: bool = False
    making: tuple[float, int] | None = None
    """The same of the one that is being made."""
    waiting: dict[Deferred[Response], tuple[float, int]] = attrs.field(factory=dict)
    """Who waits for one, and how new it must be."""

    @property
    def size(self) -> int:
        """The bytes that are held."""
        body = b"" if self.response is None else self.response.body
        return len(body) if isinstance(body, bytes) else 0

    def is_as_of(self, since: float, acted: int) -> bool:
        """Whether there is an answer that is new enough.

        :param since: when its making must have begun.
        :param acted: the making that it must come after.
        """
        began, number = self.made
        return self.response is not None and began >= since and number > acted

    def aged(self, now: float) -> Response:
        """The answer, with how old it is."""
        assert self.response is not None
        age = str(int(now - self.made[0]))
        return attrs.evolve(self.response, headers=(*self.response.headers, ("Age", age)))


def _leave(shared: _Shared, waiting: Deferred[Response]) -> None:
    shared.waiting.pop(waiting, None)


class SharedAnswers:
    """The answers that were made last, and those that are being made.

    :param clock: monotonic time, and turns.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[Hashable, _Shared] = {}  # the one that was asked for last is last
        self._bytes = 0
        self._queue: deque[_Shared] = deque()
        self._making = 0
        self._makings = 0  # how many there ever were
        self._acted: dict[str, tuple[float, int]] = {}  # callers: when, after how many makings
        self._left_seconds = BURST_SECONDS  # less than none after more was used
        self._counted_at = clock.seconds()
        self._worked_seconds = 0.0
        self._turns = TurnQueue(clock)
        self._is_choosing = False
        self._timer: IDelayedCall | None = None
        self._cleaner: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many are held, or made."""
        return len(self._answers)

    def acted(self, name: str) -> None:
        """A caller has changed something: no answer to it is as of a time before that."""
        now = self._clock.seconds()
        self._acted.pop(name, None)
        self._acted[name] = now, self._makings
        for each, (at, _) in tuple(self._acted.items()):
            if now - at <= HELD_SECONDS:
                break  # the others are later
            del self._acted[each]

    def get(
        self, key: Hashable, max_age: float, make: Callable[[], Answer], name: str = ""
    ) -> Deferred[Response]:
        """An answer that is no older than this; or older, as there is no time for another.

        :param key: what is asked for: the same for all who may share an answer.
        :param max_age: seconds.
        :param make: makes the answer: a JSON object; called now or later, or not at all.
        :param name: of the caller.
        :returns: an answer with its age in the header ``Age``, and ``at``, as of when it is; or
            any other one than 200, or the failure, of ``make``. To cancel it concerns no other
            request.
        """
        now = self._clock.seconds()
        shared = self._answers.pop(key, None) or _Shared(key, make)
        self._answers[key] = shared
        shared.make, shared.asked = make, now  # the latest: of times like 1h, the end moves on
        self._drop_oldest()
        _, acted = self._acted.get(name, (0.0, 0))
        if shared.is_as_of(now - max_age, acted):
            return succeed(shared.aged(now))
        result: Deferred[Response] = Deferred(partial(_leave, shared))
        shared.waiting[result] = now - max_age, acted
        if not (shared.is_queued or shared.making):
            shared.is_queued = True
            self._queue.append(shared)
            self._make_next()
        is_late = shared.is_queued and result in shared.waiting
        if is_late and shared.is_as_of(now - HELD_SECONDS, acted):
            del shared.waiting[result]
            result.callback(shared.aged(now))
        return result

    # -- making them

    def _make_next(self) -> None:
        if self._is_choosing:  # one was made at once: the loop below goes on
            return
        self._is_choosing = True
        try:
            self._choose()
        finally:
            self._is_choosing = False

    def _choose(self) -> None:
        begun = 0
        while self._queue and self._making < MADE_AT_ONCE and self._has_time():
            if begun == MADE_AT_ONCE:
                self._try_later(0)
                break
            # Those that somebody waits for first: others have an older one meanwhile.
            shared = next((each for each in self._queue if each.waiting), self._queue[0])
            self._queue.remove(shared)
            shared.is_queued = False
            if shared.waiting or self._answers.get(shared.key) is shared:
                begun += 1
                self._make(shared)

    def _has_time(self) -> bool:
        """Whether there is time to make an answer; else :meth:`_make_next` is called once there
        is."""
        self._count()
        if self._left_seconds > 0:
            return True
        self._try_later(BURST_SECONDS / 10 - self._left_seconds / SHARE)
        return False

    def _try_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._time_passed)

    def _count(self) -> None:
        """Count what was worked in turns since the last call, all of it, if answers were made."""
        now, worked = self._clock.seconds(), worked_seconds(self._clock)
        if self._making:
            self._left_seconds -= worked - self._worked_seconds
        self._left_seconds += SHARE * (now - self._counted_at)
        self._left_seconds = min(self._left_seconds, BURST_SECONDS)
        self._counted_at, self._worked_seconds = now, worked

    def _time_passed(self) -> None:
        self._timer = None
        self._make_next()

    def _make(self, shared: _Shared) -> None:
        self._making += 1
        self._makings += 1
        shared.making = self._clock.seconds(), self._makings
        maybeDeferred(shared.make).addBoth(self._made, shared, shared.making, iso_time(time.time()))

    def _made(self, result: Any, shared: _Shared, making: tuple[float, int], at: str) -> None:
        self._count()
        self._making -= 1
        shared.making = None
        is_held = isinstance(result, Response) and result.status == 200
        if is_held:
            self._hold(shared, attrs.evolve(result, body=_with_time(result.body, at)), making)
        elif shared.response is None:
            self._drop(shared)  # nobody else is to find it; who waits is answered all the same
        answered = [
            each
            for each, (since, acted) in shared.waiting.items()
            if (shared.is_as_of(since, acted) if is_held else making[1] > acted)
        ]
        for number, each in enumerate(answered):
            del shared.waiting[each]
            answer = partial(self._answer, each, shared if is_held else result)
            # To write an answer takes a fraction of a millisecond, and many may wait for this one.
            if number < ANSWERED_AT_ONCE:
                answer()
            else:
                self._turns.add(answer)
        if shared.waiting and not shared.is_queued:
            shared.is_queued = True
            self._queue.append(shared)
        self._make_next()

    def _answer(self, waiting: Deferred[Response], result: Any) -> None:
        if not waiting.called:  # else it has left
            if isinstance(result, _Shared):
                result = result.aged(self._clock.seconds())
            waiting.callback(result)  # or the failure

    def close(self) -> None:
        """Hold nothing any more; who waits is not answered."""
        for timer in (self._timer, self._cleaner):
            if timer is not None:
                timer.cancel()
        self._timer = self._cleaner = None
        self._queue.clear()
        self._answers.clear()
        self._bytes = 0

    # -- bounds

    def _hold(self, shared: _Shared, response: Response, making: tuple[float, int]) -> None:
        if self._answers.get(shared.key) is not shared:
            shared.response, shared.made = response, making  # only for those who wait
            return
        self._bytes -= shared.size
        shared.response, shared.made = response, making
        self._bytes += shared.size
        self._drop_oldest()
        if self._cleaner is None:
            self._cleaner = self._clock.callLater(HELD_SECONDS, self._clean)

    def _drop_oldest(self) -> None:
        if len(self._answers) <= MOST_ANSWERS and self._bytes <= MOST_BYTES:
            return
        for shared in tuple(self._answers.values()):
            if len(self._answers) <= MOST_ANSWERS and self._bytes <= MOST_BYTES:
                break
            if not (shared.waiting or shared.making):
                self._drop(shared)

    def _drop(self, shared: _Shared) -> None:
        if self._answers.get(shared.key) is shared:
            del self._answers[shared.key]
            self._bytes -= shared.size

    def _clean(self) -> None:
        """Drop what nobody has asked for lately."""
        self._cleaner = None
        now = self._clock.seconds()
        for shared in tuple(self._answers.values()):
            if now - shared.asked < HELD_SECONDS:
                break  # the others were asked for later
            if not (shared.waiting or shared.making):
                self._drop(shared)
        if self._answers:
            self._cleaner = self._clock.callLater(HELD_SECONDS, self._clean)


def _with_time(body: Any, at: str) -> bytes:
    """A JSON object with one more member."""
    assert isinstance(body, bytes)
    assert body.endswith(b"}")
    comma = b"" if body == b"{}" else b","
    return body[:-1] + comma + b'"at":"' + at.encode() + b'"}'
