"""The screen with all that is known of one connection."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen

from monconn.errors import printable
from monconn.faces.tui.charts import TREND_LENGTH, bars
from monconn.faces.tui.format import details, style_of
from monconn.faces.tui.keys import key_line
from monconn.faces.tui.layout import is_boxed
from monconn.faces.tui.model import Model
from monconn.faces.tui.widgets import Lines
from monconn.ops.columns import format_value
from monconn.ops.text_table import wrapped

_RATES = (("up_rate", "up"), ("down_rate", "down"))
_CHART_LINES = 3
_FIGURE_CELLS = len(" down 1023.9 MiB/s ")
_KEYS = (
    ("Esc", "back", "app.leave_screen"),
    ("c", "close", "app.act('c')"),
    ("r", "reset", "app.act('r')"),
    ("b", "block", "app.act('b')"),
    ("u", "unblock", "app.act('u')"),
)


class Details(ModalScreen[None]):
    """All that the server knows of one connection.

    :param model: holds the connection.
    :param act: is called with the key of an action on it.
    """

    DEFAULT_CSS = """
    Details { background: $background; }
    Details #keys { background: $panel; }
    Details Horizontal { height: 1; }
    Details Horizontal Lines { width: 1fr; height: 100%; }
    Details VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    Details.-boxed Horizontal { height: 5; }
    Details.-boxed Horizontal Lines, Details.-boxed VerticalScroll {
        border: round $border-blurred; border-title-color: $foreground;
        border-subtitle-color: $text-muted;
    }
    Details.-boxed VerticalScroll { border: round $border; }
    """
    AUTO_FOCUS = "VerticalScroll"  # which then scrolls by its own keys
    BINDINGS = [
        ("escape,q,enter", "back", "back"),
        ("c", "act('c')", "close"),
        ("r", "act('r')", "reset"),
        ("b", "act('b')", "block"),
        ("u", "act('u')", "unblock"),
    ]

    def __init__(self, model: Model, act: Callable[[str], None]) -> None:
        super().__init__()
        self._model = model
        self._act = act

    def compose(self) -> ComposeResult:
        """A title, charts, the details, which scroll, a message and the keys."""
        yield Lines(id="title")
        with Horizontal():
            for name, _ in _RATES:
                yield Lines(id=name)
        with VerticalScroll():
            yield Lines(id="details")
        yield Lines(id="message")
        yield Lines(id="keys")

    def on_resize(self) -> None:
        """Draw: lines are as wide as the screen."""
        self.draw(Text())

    def draw(self, message: Text) -> None:
        """Show what the model holds now."""
        if not self.query("#keys"):
            return  # its widgets are not mounted yet
        model, (width, height) = self._model, self.size
        boxed = is_boxed(width, height)
        self.set_class(boxed, "-boxed")
        self.query_one("#title", Lines).set_lines([self._title()])
        for name, title in _RATES:
            self._draw_chart(self.query_one(f"#{name}", Lines), name, title, boxed)
        scroll = self.query_one(VerticalScroll)
        scroll.border_title = "details" if boxed else ""
        lines = self._lines(width - (3 if boxed else 1))  # 1 for the scroll bar
        widget = self.query_one("#details", Lines)
        widget.styles.height = len(lines)
        widget.set_lines(lines)
        if model.lost or not model.details_known:
            scroll.border_subtitle = "old data" if boxed else ""
        messages = self.query_one("#message", Lines)
        messages.set_lines([message])
        messages.display = bool(message)
        is_closed = "closed_at" in (model.details_row or {})
        self.query_one(Horizontal).display = not is_closed  # its bytes do not move any more
        keys = [each for each in _KEYS if not is_closed or each[1] not in ("close", "reset")]
        if len(lines) > scroll.size.height:
            keys.insert(1, ("↑↓", "scroll", ""))
        self.query_one("#keys", Lines).set_lines([key_line(keys, width, may_act=model.may_act)])
        self.query_one("#keys", Lines).display = not message

    def _title(self) -> Text:
        model = self._model
        row = model.details_row or {}
        line = Text(f" connection {model.details} ", "badge")
        title = Text.assemble(line)
        client, backend = (printable(row.get(each) or "") for each in ("client", "backend"))
        if client:
            title.append(f"  {client} → {backend}", "strong")
        word = str(row.get("reason") or row.get("state") or "")
        if word:
            name = "reason" if row.get("reason") else "state"
            title.append(f"  {printable(word)}", style_of(name, word) or "strong")
        if not model.details_known:
            title.append("  no longer known: as it was when last seen", "warning")
        return title

    def _draw_chart(self, lines: Lines, name: str, title: str, boxed: bool) -> None:
        width, height = lines.size.width, _CHART_LINES if boxed else 1
        values = self._model.detail_trends.of(name)
        row = self._model.details_row or {}
        figure = f"{title} {format_value(float(row.get(name) or 0), 'bytes_per_second')}"
        lines.border_title = figure if boxed else ""
        if boxed:
            room = min(width, TREND_LENGTH)
            lines.set_lines([Text(each, title) for each in bars(values, room, height)])
        else:
            shown = values[-max(width - _FIGURE_CELLS, 0) :]
            (text,) = bars(shown, len(shown), 1)
            lines.set_lines([Text(f" {figure}".ljust(_FIGURE_CELLS) + text, title)])

    def _lines(self, width: int) -> list[Text]:
        model = self._model
        found = list(details(model.details_row or {}))
        name_width = max((len(name) for name, _, _ in found), default=0)
        lines = []
        for name, value, style in found:
            for text in wrapped(value, width - name_width - 4):
                line = Text(" ")
                line.append(f"{name:<{name_width}}", "name")
                line.append("  ")
                line.append(text, style or None)
                lines.append(line)
                name = ""
        if model.lost or not model.details_known:
            for line in lines:
                line.stylize("old")
        return lines

    def action_back(self) -> None:
        """Go back to the tables."""
        self.dismiss(None)

    def action_act(self, key: str) -> None:
        """Close, reset, block or unblock, after a question."""
        self._act(key)
