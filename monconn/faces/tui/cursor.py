"""Which row is chosen, and which rows are in sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs


@attrs.define
class Cursor:
    """A chosen row among rows that change.

    It stays with its connection wherever the row goes; but on the first row it stays on the
    first, for those who only watch.
    """

    height: int = 0
    """How many rows fit."""
    top: int = 0
    """How many rows are above those in sight."""
    index: int = 0
    id: int | None = None

    def move(self, steps: int, rows: Sequence[dict[str, Any]]) -> None:
        """Go down, or up by a negative number of steps."""
        self.index = max(0, min(self.index + steps, len(rows) - 1))
        self.id = rows[self.index]["id"] if self.index else None
        self._bring_into_sight(len(rows))

    def to_top(self) -> None:
        """Choose the first row."""
        self.index, self.id, self.top = 0, None, 0

    def follow(self, rows: Sequence[dict[str, Any]]) -> None:
        """Find the chosen connection among new rows; if it is gone, take what is in its place."""
        places = {row["id"]: place for place, row in enumerate(rows)}
        if self.id in places:
            self.index = places[self.id]
        else:
            self.index = max(0, min(self.index, len(rows) - 1))
            self.id = rows[self.index]["id"] if self.index else None
        self._bring_into_sight(len(rows))

    def chosen(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The chosen row; None if there are no rows."""
        return rows[self.index] if self.index < len(rows) else None

    def in_sight(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows that fit."""
        return rows[self.top : self.top + self.height]

    def _bring_into_sight(self, count: int) -> None:
        lowest_top = max(self.index - self.height + 1, 0)
        highest_top = min(self.index, max(count - self.height, 0))
        self.top = min(max(self.top, lowest_top), max(highest_top, lowest_top))
