"""How the screen's lines are shared out among the tables."""

from __future__ import annotations

from typing import Literal

import attrs

Focus = Literal["live", "closed", "services"]
FOCUSES: tuple[Focus, ...] = ("live", "closed", "services")
"""The tables that the keys may act on, in the order of the Tab key."""

_BOXED_COLUMNS, _BOXED_LINES = 100, 36
"""From which size on tables have frames; a smaller screen has no lines and columns for them."""
_FEWEST_LINES = 12
"""A lower screen has room for the live connections only."""
_CHART_LINES = 3


@attrs.frozen
class Layout:
    """How many rows each table has, below its titles.

    :param is_boxed: whether tables and charts have frames.
    :param chart: how many lines the bars of the charts have; 0: there are no charts.
    """

    services: int
    live: int
    closed: int
    chart: int
    is_boxed: bool

    @property
    def frame(self) -> int:
        """The lines of a frame."""
        return 2 if self.is_boxed else 0

    def height(self, rows: int) -> int:
        """The height of a table: with titles and frame; 0 without rows."""
        return rows + 1 + self.frame if rows else 0


def is_boxed(columns: int, lines: int) -> bool:
    """Whether a screen has room for frames."""
    return columns >= _BOXED_COLUMNS and lines >= _BOXED_LINES


def share_out(
    columns: int, lines: int, *, services: int, live: int, focus: Focus, other_lines: int
) -> Layout:
    """Share out a screen's lines.

    The live connections get most of them. What they do not need is for the services, and then for
    the closed connections. Either of these gets a third while it has the focus.

    :param services: how many services there are; a single one has no table.
    :param live: how many live connections there are, or will be soon.
    :param other_lines: those without tables and charts.
    """
    boxed = is_boxed(columns, lines)
    if lines < _FEWEST_LINES:
        return Layout(0, max(lines - other_lines - 1, 0), 0, 0, False)
    chart = _CHART_LINES if boxed else 1
    titles = 3 if boxed else 1
    count = services if services > 1 else 0
    service_rows = min(count, lines // 3 if focus == "services" else max(lines // 6, 1))
    closed_rows = min(max(lines // 6, 3), 12) if lines >= 16 else 0
    if closed_rows and focus == "closed":
        closed_rows = max(closed_rows, lines // 3)
    tables = 1 + bool(service_rows) + bool(closed_rows)
    room = lines - other_lines - chart - (2 if boxed else 0) - tables * titles
    least = min(3, room)
    if service_rows + closed_rows > room - least:
        service_rows = min(service_rows, max(room - least - closed_rows, 1)) if service_rows else 0
        closed_rows = max(min(closed_rows, room - least - service_rows), 0)
    spare = max(room - service_rows - closed_rows - max(live, least), 0)
    if service_rows:
        more = min(spare, count - service_rows)
        service_rows, spare = service_rows + more, spare - more
    if closed_rows:
        closed_rows += spare
    return Layout(service_rows, room - service_rows - closed_rows, closed_rows, chart, boxed)
