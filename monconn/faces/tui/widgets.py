"""Lines of text of which only those that changed are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Span, Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from monconn.faces.tui.theme import STYLES, WITHOUT_COLOURS

_WHEEL_LINES = 3


class Lines(Widget):
    """Shows lines; a slow terminal or SSH connection is sent only those that changed.

    The styles of their parts are names in :data:`monconn.faces.tui.theme.STYLES`, or Rich's.
    """

    COMPONENT_CLASSES = {f"lines--{name}" for name in STYLES}
    DEFAULT_CSS = "Lines { height: 1; width: 100%; }\n" + "\n".join(
        f"Lines .lines--{name} {{ {css} }}" for name, css in STYLES.items()
    )

    class Clicked(Message):
        """A line was clicked.

        :param name: the id of the widget.
        :param y: the line's number.
        :param is_double: whether it is the second click of two.
        """

        def __init__(self, name: str, y: int, is_double: bool) -> None:
            super().__init__()
            self.name, self.y, self.is_double = name, y, is_double

    class Scrolled(Message):
        """The mouse's wheel was turned by so many lines, negative for up."""

        def __init__(self, name: str, lines: int) -> None:
            super().__init__()
            self.name, self.lines = name, lines

    def __init__(self, *, id: str, classes: str = "") -> None:
        super().__init__(id=id, classes=classes)
        self._lines: list[Text] = []
        self._styles_by_name: dict[str, Style] = {}
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
        width, style = self.size.width, self.rich_style
        if y >= len(self._lines):
            return Strip.blank(width, style)
        line = self._lines[y].copy()
        line.truncate(width, overflow="ellipsis", pad=True)
        line.end = ""
        # Rich leaves out the style of a text without spans.
        spans = [Span(0, len(line), line.style), *line.spans]
        line.spans = [Span(each.start, each.end, self._style(each.style)) for each in spans]
        segments = list(line.render(self.app.console))
        return Strip(segments).adjust_cell_length(width).apply_style(style)

    def _style(self, name: str | Style) -> str | Style:
        if not isinstance(name, str) or name not in STYLES:
            return name
        if name not in self._styles_by_name:
            if self.app.no_color:
                style = Style.parse(WITHOUT_COLOURS.get(name, ""))
            else:
                style = self.get_component_rich_style(f"lines--{name}", partial=True)
            self._styles_by_name[name] = style
        return self._styles_by_name[name]

    def notify_style_update(self) -> None:
        """Take the colours of another theme; Textual calls it."""
        super().notify_style_update()
        self._styles_by_name.clear()

    def on_click(self, event: events.Click) -> None:
        """Say which line it was; a part of a line with an action of its own is Textual's."""
        if "@click" not in event.style.meta:
            # Of the content: a border is no line.
            y = event.screen_y - self.content_region.y
            if 0 <= y < self.content_region.height:
                self.post_message(self.Clicked(self.id or "", y, event.chain == 2))

    def on_mouse_scroll_down(self) -> None:
        """Pass it on."""
        self.post_message(self.Scrolled(self.id or "", _WHEEL_LINES))

    def on_mouse_scroll_up(self) -> None:
        """Pass it on."""
        self.post_message(self.Scrolled(self.id or "", -_WHEEL_LINES))


def action(name: str) -> Style:
    """The style of a part of a line that calls one of the app's actions when it is clicked."""
    return Style.from_meta({"@click": name})
