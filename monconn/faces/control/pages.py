"""Lists in pages, as a value on the wire holds 65,535 bytes at most."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

PAGE_BYTES = 60_000
"""The most bytes of rows in one answer."""


class Pager:
    """The rest of the list that one client requested last.

    Rows are made and encoded page by page: a long list costs no more at once than a short one.
    """

    def __init__(self) -> None:
        self._rest: Iterator[bytes] = iter(())
        self._count = 0
        self._next: int | None = None

    def first(self, rows: Iterable[Any]) -> dict[str, Any]:
        """Begin another list.

        :param rows: plain values.
        :returns: ``rows`` as JSON, and the number of the ``next`` page, if there is one.
        """
        self._rest = (json.dumps(each).encode() for each in rows)
        return self._page()

    def next(self, number: int) -> dict[str, Any] | None:
        """The next page; None if this is not its number, or another list has begun since."""
        return self._page() if number == self._next else None

    def _page(self) -> dict[str, Any]:
        page: list[bytes] = []
        size = 0
        self._next = None  # the page before this one cannot be requested again
        for encoded in self._rest:
            size += len(encoded) + 2
            if page and size > PAGE_BYTES:
                self._rest = itertools.chain([encoded], self._rest)
                self._count += 1
                self._next = self._count
                return {"rows": _array(page), "next": self._next}
            page.append(encoded)
        return {"rows": _array(page)}


def _array(encoded: list[bytes]) -> bytes:
    return b"[" + b", ".join(encoded) + b"]"
