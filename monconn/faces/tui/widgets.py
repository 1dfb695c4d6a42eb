"""Lines of text of which only those that changed are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """Shows lines; a slow terminal or SSH connection is sent only those that changed."""

    DEFAULT_CSS = "Lines { height: 1; width: 100%; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Text] = []
        self.lines_redrawn = 0
        """How many lines have changed so far."""

    @property
    def plain(self) -> list[str]:
        """The lines as plain text."""
        return [line.plain.rstrip() for line in self._lines]

    def set_lines(self, lines: Sequence[Text]) -> None:
        """Show these lines from now on."""
        before, self._lines = self._lines, list(lines)
        blank = Text()
        for y in range(max(len(before), len(lines))):
            old = before[y] if y < len(before) else blank
            new = lines[y] if y < len(lines) else blank
            if old != new:
                self.lines_redrawn += 1
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One line, cut to the widget's width, as Textual's compositor asks for it."""
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        line = self._lines[y].copy()
        line.truncate(width, overflow="ellipsis", pad=True)
        line.end = ""
        segments = list(line.render(self.app.console))
        return Strip(segments).adjust_cell_length(width).apply_style(self.rich_style)
