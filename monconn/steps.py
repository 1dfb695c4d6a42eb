"""Work on long lists in steps, for :func:`monconn.turns.in_turns`.

A query over a hundred thousand connections is a generator that yields after every few microseconds
of work, so that whoever runs it can let others run in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from operator import itemgetter
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K")

RowSteps = Iterator[T | None]
"""Rows, and a None for each step of work that has brought none."""

SORTED_AT_ONCE = 1_000
"""Elements sorted in one step: less than half a millisecond."""


def at_once(steps: Generator[None, None, T]) -> T:
    """The result of work in steps, which is done without letting others run in between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def sort_in_steps(
    keyed: list[tuple[K, T]], *, reverse: bool = False
) -> Generator[None, None, Iterator[tuple[K, T]]]:
    """Sort, as ``sorted`` does: in pieces, which the iterator that is returned merges.

    :param keyed: each element after its key; it is emptied. Only keys are compared.
    """
    key = itemgetter(0)
    pieces = []
    while keyed:
        piece = keyed[-SORTED_AT_ONCE:]
        del keyed[-SORTED_AT_ONCE:]
        piece.sort(key=key, reverse=reverse)
        pieces.append(piece)
        yield
    pieces.reverse()  # of equal elements, the first comes first
    return heapq.merge(*map(_emptied, pieces), key=key, reverse=reverse)


def _emptied(piece: list[T]) -> Iterator[T]:
    """The elements of a list, each freed when the next is taken: to free a hundred thousand at once
    takes milliseconds."""
    piece.reverse()
    while piece:
        yield piece.pop()
