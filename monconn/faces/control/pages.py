"""Lists in pages, as a value on the wire holds 65,535 bytes at most."""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.turns import result_of

PAGE_BYTES = 60_000
"""The most bytes of rows in one answer."""
_TEXT_CHARACTERS = 200  # of a row that does not fit otherwise; its facts have limits of their own
REST_SECONDS = 300.0
"""How long the rest of a list is held for a client that does not ask for it."""
MOST_HELD_ROWS = 50_000
"""The most rows from the history that are held, for all clients together. Other lists hold their
connections only, which exist anyway, or have existed some minutes ago."""


def encoded_row(row: Any) -> bytes:
    """A row as JSON, which fits into a value on the wire: texts of own code may have any length."""
    encoded = json.dumps(row).encode()
    if len(encoded) <= PAGE_BYTES or not isinstance(row, dict):
        return encoded
    return json.dumps({key: _shortened(value) for key, value in row.items()}).encode()


def _shortened(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= _TEXT_CHARACTERS:
        return value
    return f"{value[: _TEXT_CHARACTERS - 1]}…"


class HeldRows:
    """The lists whose rows are held until they are asked for, of all clients."""

    def __init__(self) -> None:
        self._counts: dict[Pager, int] = {}  # the one that began first is first

    def add(self, pager: Pager, count: int) -> None:
        """Note that a list has begun; the oldest others are dropped if there are too many rows."""
        self._counts.pop(pager, None)
        self._counts[pager] = count
        while sum(self._counts.values()) > MOST_HELD_ROWS and len(self._counts) > 1:
            next(iter(self._counts)).drop()

    def remove(self, pager: Pager) -> None:
        """Note that a list has ended; harmless for one that is not there."""
        self._counts.pop(pager, None)


class Pager:
    """The rest of the list that one client requested last.

    Rows are made and encoded page by page, and in turns of the reactor: a long list costs no more
    at once than a short one.

    :param clock: for turns, and how long a rest is held.
    :param held: the rows of all clients.
    """

    def __init__(self, clock: Clock, held: HeldRows) -> None:
        self._clock = clock
        self._held = held
        self._rest: Iterator[Any] = iter(())
        self._count = 0
        self._next: int | None = None
        self._timer: IDelayedCall | None = None

    def first(self, rows: Iterable[Any], held: int = 0) -> Deferred[dict[str, Any]]:
        """Begin another list.

        :param rows: plain values, and None for a step of work that has brought none.
        :param held: how many rows exist already, of those that are nowhere else.
        :returns: ``rows`` as JSON, and the number of the ``next`` page, if there is one.
        """
        self.drop()
        self._rest = iter(rows)
        if held:
            self._held.add(self, held)
        return result_of(self._clock, self._page())

    def next(self, number: int) -> Deferred[dict[str, Any]] | None:
        """The next page; None if this is not its number, or another list has begun since."""
        return result_of(self._clock, self._page()) if number == self._next else None

    def drop(self) -> None:
        """Hold nothing any more."""
        self._rest, self._next = iter(()), None
        self._held.remove(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        self.drop()

    def _page(self) -> Generator[None, None, dict[str, Any]]:
        page: list[bytes] = []
        size = 0
        self._next = None  # the page before this one cannot be requested again
        self._stop_timer()
        rest = self._rest
        for row in rest:
            if row is None:
                yield
                continue
            encoded = encoded_row(row)
            size += len(encoded) + 2
            if page and size > PAGE_BYTES:
                self._rest = itertools.chain([row], rest)
                self._count += 1
                self._next = self._count
                self._timer = self._clock.callLater(REST_SECONDS, self._expired)
                return {"rows": _array(page), "next": self._next}
            page.append(encoded)
            yield
        self.drop()
        return {"rows": _array(page)}


def _array(encoded: list[bytes]) -> bytes:
    return b"[" + b", ".join(encoded) + b"]"
