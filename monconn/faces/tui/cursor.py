"""Which row is selected, and which rows are visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs


@attrs.define
class Cursor:
    """A selected row among rows that change.

    The selection stays with its row wherever it moves. Only the first row is
    different: there the selection stays on the first row, for users who merely watch.

    :param height: how many rows fit.
    :param top: how many rows are above the visible ones.
    :param index: the place of the selected row.
    :param id: the id of the selected row; None on the first row.
    :param key: the field that has the rows' ids.
    """

    height: int = 0
    top: int = 0
    index: int = 0
    id: Any = None
    key: str = "id"

    def move(self, steps: int, rows: Sequence[dict[str, Any]]) -> None:
        """Go down, or up by a negative number of steps."""
        self.index = max(0, min(self.index + steps, len(rows) - 1))
        self.id = rows[self.index][self.key] if self.index else None
        self._scroll(len(rows))

    def to_top(self) -> None:
        """Select the first row."""
        self.index, self.id, self.top = 0, None, 0

    def follow(self, rows: Sequence[dict[str, Any]]) -> None:
        """Find the selected row among new rows; if it is gone, keep the place."""
        places = {row[self.key]: place for place, row in enumerate(rows)}
        if self.id in places:
            self.index = places[self.id]
        else:
            self.index = max(0, min(self.index, len(rows) - 1))
            self.id = rows[self.index][self.key] if self.index else None
        self._scroll(len(rows))

    def selected(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The selected row; None if there are no rows."""
        return rows[self.index] if self.index < len(rows) else None

    def visible(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows that fit."""
        return rows[self.top : self.top + self.height]

    def _scroll(self, count: int) -> None:
        """Scroll as little as brings the selected row into view."""
        lowest_top = max(self.index - self.height + 1, 0)
        highest_top = min(self.index, max(count - self.height, 0))
        self.top = min(max(self.top, lowest_top), max(highest_top, lowest_top))
