"""Work on long lists in steps, for :func:`monconn.turns.in_turns`.

A query over a hundred thousand connections is a generator that yields after every few microseconds
of work, so that whoever runs it can let others run in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator
from operator import itemgetter
from typing import TypeVar

from twisted.internet.defer import Deferred

from monconn.clock import Clock
from monconn.turns import in_turns

T = TypeVar("T")

RowSteps = Iterator[T | None]
"""Rows, and a None for each step of work that has brought none."""

SORTED_AT_ONCE = 1_000
"""Elements sorted in one step: less than half a millisecond."""


def result_of(clock: Clock, steps: Generator[None, None, T]) -> Deferred[T]:
    """Run steps in as many turns as they take.

    :returns: fires with what the generator returns, or has raised; at once if that is soon.
    """
    results: list[T] = []

    def run() -> Iterator[None]:
        results.append((yield from steps))

    return in_turns(clock, run()).addCallback(lambda _: results[0])


def rows_of(clock: Clock, rows: Iterable[T | None]) -> Deferred[list[T]]:
    """All the rows, made in as many turns as they take."""

    def collect() -> Generator[None, None, list[T]]:
        found = []
        for row in rows:
            if row is not None:
                found.append(row)
            yield
        return found

    return result_of(clock, collect())


def sort_in_steps(
    keyed: list[tuple[object, T]], *, reverse: bool = False, part: slice = slice(None)
) -> Generator[None, None, list[T]]:
    """Sort, as ``sorted`` does: in pieces, which are merged one element at a time.

    :param keyed: each element after its key; the keys are compared, and nothing else.
    :param part: which elements of the sorted list to return; without a step.
    """
    key = itemgetter(0)
    pieces = []
    for start in range(0, len(keyed), SORTED_AT_ONCE):
        pieces.append(sorted(keyed[start : start + SORTED_AT_ONCE], key=key, reverse=reverse))
        yield
    merged: Iterable[tuple[object, T]]
    merged = pieces[0] if len(pieces) == 1 else heapq.merge(*pieces, key=key, reverse=reverse)
    first, last, _ = part.indices(len(keyed))
    chosen: list[T] = []
    for number, (_, element) in enumerate(merged):
        if number >= last:
            break
        if number >= first:
            chosen.append(element)
        yield
    return chosen
