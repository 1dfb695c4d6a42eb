"""Screens over the tables: a question, one connection's details, the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

from monconn.faces.tui.format import details, trend
from monconn.faces.tui.model import TREND_LENGTH, Model
from monconn.faces.tui.tables import HEADER_STYLE, OLD_STYLE
from monconn.faces.tui.widgets import Lines
from monconn.ops.rows import ConnectionRow
from monconn.ops.text_table import wrapped

_KEYS = (
    ("↑ ↓  PgUp PgDn", "select a connection"),
    ("Home", "select the first row"),
    ("Tab", "switch between live and closed ones"),
    ("Enter", "show all details of the selected one"),
    ("c", "close it in good order"),
    ("r", "reset it at once"),
    ("b  u", "block its client's IP, or unblock it"),
    ("/", "filter; Enter keeps, Escape removes it"),
    ("s  S", "sort by the next, the previous order"),
    ("p", "pause, and go on"),
    ("q", "quit"),
)
_HELP_ON_FILTERS = """\
service:web client:10.0.0.0/8   both must match
idle:5m.. up:1MiB.. age:..10s   at least, at most
not:state:open                  all but these
half_closed  10.0.0.0/8  web    state, client, service
anything else                   a text anywhere"""


_NAME_WIDTH = max(map(len, ConnectionRow.fields()))


class Confirm(ModalScreen[str | None]):
    """A question that is answered by one key; Escape and n are no.

    :param question: what is going to be done.
    :param context: lines that say to which connection.
    :param answers: the keys that confirm, and what each means.
    """

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Static { width: auto; max-width: 90%; height: auto; padding: 1 2;
                       border: round $warning; background: $surface; }
    """

    def __init__(
        self, question: str, context: Sequence[str], answers: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__()
        self.text = Text(question, style="bold")
        for line in context:
            self.text.append(f"\n{line}", "not bold")
        self.text.append("\n")
        self._keys = [key for key, _ in answers]
        for key, meaning in [*answers, ("n", "no")]:
            self.text.append(f"\n {key} ", "bold reverse")
            self.text.append(f" {meaning}", "not bold")

    def compose(self) -> ComposeResult:
        """The question with its answers."""
        yield Static(self.text)

    def key_escape(self) -> None:
        """The answer is no."""
        self.dismiss(None)

    def on_key(self, event: Key) -> None:
        """Answer; keys that are not among the answers do nothing, Enter included."""
        if event.key in self._keys:
            self.dismiss(event.key)
        elif event.key in ("n", "q"):
            self.dismiss(None)


class Help(ModalScreen[None]):
    """The keys, and what a filter may be; any key closes it."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help > Static { width: auto; max-width: 100%; height: auto; padding: 0 2;
                    border: round $primary; background: $surface; }
    """

    def compose(self) -> ComposeResult:
        """All keys, whatever the width of the screen."""
        text = Text()
        for key, meaning in _KEYS:
            text.append(f"{key:<15}", "bold")
            text.append(f"{meaning}\n")
        text.append("\nfilters\n", "bold")
        text.append(_HELP_ON_FILTERS)
        yield Static(text)

    def on_key(self) -> None:
        """Close, whatever the key."""
        self.dismiss(None)


class Details(ModalScreen[None]):
    """All that the server knows of one connection.

    :param model: holds the connection.
    :param act: is called with the key of an action on it.
    """

    DEFAULT_CSS = """
    Details { background: $background; }
    Details VerticalScroll { height: 1fr; }
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
        """A title, the details, which scroll, a message and the keys."""
        yield Lines(id="title")
        with VerticalScroll():
            yield Lines(id="details")
        yield Lines(id="message")
        yield Lines(id="keys")

    def on_resize(self) -> None:
        """Draw: trends are as wide as the screen."""
        self.draw(Text())

    def draw(self, message: Text) -> None:
        """Show what the model holds now."""
        if not self.query("#keys"):
            return  # its widgets are not mounted yet
        model, width = self._model, self.size.width
        title = Text(f" connection {model.details}", HEADER_STYLE)
        if not model.details_known:
            title.append("  no longer known: as it was when last seen", "not underline")
        lines = self._lines(width)
        widget = self.query_one("#details", Lines)
        widget.styles.height = len(lines)
        widget.set_lines(lines)
        self.query_one("#title", Lines).set_lines([title])
        self.query_one("#message", Lines).set_lines([message])
        keys = [("Esc", "back"), ("c", "close"), ("r", "reset"), ("b", "block"), ("u", "unblock")]
        if len(lines) > self.query_one(VerticalScroll).size.height:
            keys.insert(1, ("↑↓", "scroll"))
        self.query_one("#keys", Lines).set_lines([key_line(keys, width)])

    def _lines(self, width: int) -> list[Text]:
        model = self._model
        lines = []
        for name, value, style in details(model.details_row or {}):
            for text in wrapped(value, width - _NAME_WIDTH - 4):  # 2 for the scroll bar
                line = Text(f" {name:<{_NAME_WIDTH}} ")
                line.append(text, style or None)
                lines.append(line)
                name = ""
        for name in ("up_rate", "down_rate"):
            width_left = max(min(width - _NAME_WIDTH - 3, TREND_LENGTH), 0)
            bars = trend(model.detail_trends.of(name), width_left).lstrip()
            lines.append(Text(f" {name.replace('rate', 'trend'):<{_NAME_WIDTH}} {bars}"))
        if model.lost or not model.details_known:
            for line in lines:
                line.stylize(OLD_STYLE)
        return lines

    def action_back(self) -> None:
        """Go back to the tables."""
        self.dismiss(None)

    def action_act(self, key: str) -> None:
        """Close, reset, block or unblock, after a question."""
        self._act(key)


def key_line(keys: Sequence[tuple[str, str]], width: int) -> Text:
    """The keys that work here, as many as there is room for; the first ones before the others."""
    line = Text()
    for key, meaning in keys:
        if len(line) + len(key) + len(meaning) + (3 if line else 1) > width:
            continue
        line.append("  " if line else "")
        line.append(key, "bold")
        line.append(f" {meaning}")
    return line
