"""The rest of long lists, held for those who go on with it by a cursor."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.faces.http.caller import Caller
from monconn.faces.http.encoding import encode_rows
from monconn.faces.http.problems import Problem
from monconn.net.http.messages import JSON, Response
from monconn.steps import RowSteps
from monconn.turns import result_of

MOST_WALKS = 32
"""The most lists of which a rest is held: of 100,000 blocks it has 10 MB."""
MOST_OF_CALLER = 4
"""Of these, the most of one caller."""
REST_SECONDS = 120.0
"""How long a rest is held for a client that does not ask for it."""
_NO_PAGE = -1
"""Once the last page was made; no cursor names it, as its number has digits only."""
_Owner = tuple[str, str]


class _Walk:
    """A list of which a part was answered.

    :param arguments: of the request, so that one who goes on with others learns that they count for
        nothing.
    """

    def __init__(
        self,
        owner: _Owner,
        path: str,
        arguments: Mapping[str, Any],
        others: Mapping[str, Any],
        rest: Iterator[Any],
    ) -> None:
        self.token = secrets.token_urlsafe(9)
        self.owner = owner
        self.path = path
        self.arguments = arguments
        self.others = others
        self.rest = rest
        self.number = 1
        """Of the page that is asked for next."""
        self.page: tuple[int, bytes] | None = None
        """The last one, for a client that has not got it and asks again."""
        self.waiting: list[Deferred[Response]] | None = None
        """Who waits for the page that is being made."""
        self.timer: IDelayedCall | None = None

    def cursor(self) -> str:
        return f"{self.token}.{self.number}"


class Walks:
    """Lists in parts.

    A part that is asked for twice is the same both times: a GET may be sent again by anybody on the
    way. What is held of a list is what its iterator holds, and its last part.

    :param clock: for turns, and how long a rest is held.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._walks: dict[str, _Walk] = {}  # the one that was used last is last

    def first(
        self,
        caller: Caller,
        path: str,
        arguments: Mapping[str, Any],
        rows: RowSteps[Any],
        limit: int,
        others: Mapping[str, Any],
        *,
        is_continued: bool,
    ) -> Deferred[Response]:
        """The first rows of a list.

        :param path: of the request.
        :param rows: plain values; the rest of them is made when it is asked for.
        :param limit: how many.
        :param others: other members of each answer.
        :param is_continued: whether the rest is held for a cursor, if there is one.
        """
        owner = (caller.kind, caller.name)

        def make() -> Generator[None, None, Response]:
            walk = _Walk(owner, path, arguments, others, iter(rows))
            encoded, has_more = yield from self._page(walk, limit, is_continued=is_continued)
            if has_more:
                self._add(walk)
            return Response(200, encoded, JSON)

        return result_of(self._clock, make())

    def following(
        self, caller: Caller, path: str, arguments: Mapping[str, Any], cursor: str, limit: int
    ) -> Response | Deferred[Response]:
        """The next rows of a list.

        :raises Problem: there is no such list, or it is another one.
        """
        token, _, digits = cursor.rpartition(".")
        walk = self._walks.get(token)
        is_asked = walk is not None and (walk.owner, walk.path) == (
            (caller.kind, caller.name),
            path,
        )
        if walk is None or not is_asked or not digits.isdecimal():
            raise _unknown()
        for name, value in arguments.items():
            if walk.arguments.get(name) != value:
                raise Problem(
                    400,
                    f"{name} is another one than that of the list that this cursor goes on with:"
                    " leave it out",
                    "bad-argument",
                )
        if walk.page is not None and digits == str(walk.page[0]):
            return Response(200, walk.page[1], JSON)
        if digits != str(walk.number):
            raise _unknown()
        # Whoever has asked may leave, and ask again: the work goes on to its end.
        waiting: Deferred[Response] = Deferred()
        if walk.waiting is not None:
            walk.waiting.append(waiting)
            return waiting
        walk.waiting = [waiting]
        self._stop_timer(walk)
        result_of(self._clock, self._next(walk, limit)).addBoth(self._made, walk)
        return waiting

    def _next(self, walk: _Walk, limit: int) -> Generator[None, None, Response]:
        number = walk.number
        walk.number += 1
        encoded, has_more = yield from self._page(walk, limit, is_continued=True)
        walk.page = (number, encoded)
        if not has_more:
            walk.rest, walk.number = iter(()), _NO_PAGE
        return Response(200, encoded, JSON)

    def _made(self, result: Any, walk: _Walk) -> None:
        waiting, walk.waiting = walk.waiting or [], None
        if isinstance(result, Response):
            if walk.token in self._walks:
                self._use(walk)
        else:
            self._drop(walk)
        for each in waiting:
            if not each.called:
                each.callback(result)

    def _page(
        self, walk: _Walk, limit: int, *, is_continued: bool
    ) -> Generator[None, None, tuple[bytes, bool]]:
        """The next rows encoded, and whether there may be more.

        No row is made ahead to know whether there is one: it would be as of too early.
        """
        others = dict(walk.others)
        has_more = False

        def rows() -> RowSteps[Any]:
            nonlocal has_more
            count = 0
            for row in walk.rest:
                yield row
                count += row is not None
                if count == limit:
                    has_more = is_continued
                    return

        def all_others() -> dict[str, Any]:
            if has_more:
                others["next"] = walk.cursor()
            return others

        return (yield from encode_rows(rows(), all_others)), has_more

    # -- bounds

    def _add(self, walk: _Walk) -> None:
        counts = Counter(each.owner for each in self._walks.values())
        if counts[walk.owner] >= MOST_OF_CALLER:
            self._drop(self._oldest_of(walk.owner))
        elif len(self._walks) >= MOST_WALKS:
            self._drop(self._oldest_of(counts.most_common(1)[0][0]))
        self._use(walk)

    def _oldest_of(self, owner: _Owner) -> _Walk:
        return next(each for each in self._walks.values() if each.owner == owner)

    def _use(self, walk: _Walk) -> None:
        self._walks.pop(walk.token, None)
        self._walks[walk.token] = walk
        self._stop_timer(walk)
        walk.timer = self._clock.callLater(REST_SECONDS, self._expired, walk)

    def _expired(self, walk: _Walk) -> None:
        walk.timer = None
        self._drop(walk)

    def _drop(self, walk: _Walk) -> None:
        self._walks.pop(walk.token, None)
        self._stop_timer(walk)

    def _stop_timer(self, walk: _Walk) -> None:
        if walk.timer is not None:
            walk.timer.cancel()
            walk.timer = None

    def close(self) -> None:
        """Hold nothing any more."""
        for walk in tuple(self._walks.values()):
            self._drop(walk)

    def __len__(self) -> int:
        return len(self._walks)


def _unknown() -> Problem:
    return Problem(
        404,
        "the rest of this list is not held any more: ask for the list again",
        "unknown-cursor",
    )
