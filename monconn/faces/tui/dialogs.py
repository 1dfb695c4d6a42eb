"""What lies over the tables: a question, one connection's details, the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from monconn.faces.tui import format as words
from monconn.faces.tui.model import Model
from monconn.faces.tui.tables import HEADER_STYLE, OLD_STYLE
from monconn.faces.tui.widgets import Lines

_KEYS = (
    ("↑ ↓  PgUp PgDn", "choose a connection"),
    ("Home", "the first one, whichever it is"),
    ("Tab", "from the live ones to the closed ones and back"),
    ("Enter", "all details of the chosen one"),
    ("c", "close it: each side is told the end"),
    ("r", "reset it: both sides at once"),
    ("b", "block its client's IP"),
    ("/", "filter; Enter keeps it, Escape takes it away"),
    ("s  S", "the next or the previous order"),
    ("p", "pause, and go on"),
    ("q", "quit"),
)
_HELP_ON_FILTERS = """\
10.0.0.0/8     an IP or network
half_closed    a state
web            a service's name
anything else  a text in client, service, state,
               backend or reason
client=, service= or state= before it says which."""


class Confirm(ModalScreen[str | None]):
    """A question that is answered by one key; Escape and n are no.

    :param question: what is going to be done.
    :param facts: to whom.
    :param answers: the keys that say yes, and what each means.
    """

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Static { width: auto; max-width: 90%; height: auto; padding: 1 2;
                       border: round $warning; background: $surface; }
    """

    def __init__(
        self, question: str, facts: Sequence[str], answers: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__()
        self.text = Text(question, style="bold")
        for fact in facts:
            self.text.append(f"\n{fact}", "not bold")
        self.text.append("\n")
        self._keys = [key for key, _ in answers]
        for key, meaning in [*answers, ("n", "no")]:
            self.text.append(f"\n {key} ", "bold reverse")
            self.text.append(f" {meaning}", "not bold")

    def compose(self) -> ComposeResult:
        """See ``Screen``."""
        yield Static(self.text)

    def key_escape(self) -> None:
        """No."""
        self.dismiss(None)

    def on_key(self, event: object) -> None:
        """Only one of the keys says yes."""
        key = getattr(event, "key", "")
        if key in self._keys:
            self.dismiss(key)
        elif key in ("n", "q"):
            self.dismiss(None)


class Help(ModalScreen[None]):
    """The keys, and what a filter may be; any key closes it."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help > Static { width: auto; max-width: 100%; height: auto; padding: 0 2;
                    border: round $primary; background: $surface; }
    """

    def compose(self) -> ComposeResult:
        """See ``Screen``."""
        text = Text()
        for key, meaning in _KEYS:
            text.append(f"{key:<15}", "bold")
            text.append(f"{meaning}\n")
        text.append("\nfilters\n", "bold")
        text.append(_HELP_ON_FILTERS)
        yield Static(text)

    def on_key(self) -> None:
        """Any key."""
        self.dismiss(None)


class Details(ModalScreen[None]):
    """All there is to know of one connection.

    :param model: holds it.
    :param act: is called with the key of what to do with it.
    """

    DEFAULT_CSS = """
    Details { background: $background; }
    Details VerticalScroll { height: 1fr; }
    """
    BINDINGS = [
        ("escape,q,enter", "back", "back"),
        ("c", "act('c')", "close"),
        ("r", "act('r')", "reset"),
        ("b", "act('b')", "block"),
    ]

    def __init__(self, model: Model, act: Callable[[str], None]) -> None:
        super().__init__()
        self._model = model
        self._act = act

    def compose(self) -> ComposeResult:
        """See ``Screen``."""
        yield Lines(id="title")
        with VerticalScroll():
            yield Lines(id="details")
        yield Lines(id="message")
        yield Lines(id="keys")

    def on_resize(self) -> None:
        """See ``Screen``."""
        self.draw(Text())

    def draw(self, message: Text) -> None:
        """Show what the model holds now."""
        if not self.query("#keys"):
            return  # it is being made
        model, width = self._model, self.size.width
        title = Text(f" connection {model.details}", HEADER_STYLE)
        if not model.details_known:
            title.append("  no longer known: as it was when last seen", "not underline")
        lines = self._lines(width)
        shown = self.query_one("#details", Lines)
        shown.styles.height = len(lines)
        shown.put(lines)
        self.query_one("#title", Lines).put([title])
        self.query_one("#message", Lines).put([message])
        keys = [("Esc", "back"), ("c", "close"), ("r", "reset"), ("b", "block")]
        self.query_one("#keys", Lines).put([key_line(keys, width)])

    def _lines(self, width: int) -> list[Text]:
        model = self._model
        is_old = bool(model.lost) or not model.details_known
        lines = []
        for key, value, style in words.details(model.shown_details or {}):
            line = Text(f" {key:<16} ")
            line.append(value, style or None)
            lines.append(line)
        for key in ("up_rate", "down_rate"):
            trend = words.sparkline(model.detail_trends.of(key), max(min(width - 19, 120), 0))
            lines.append(Text(f" {key.replace('rate', 'trend'):<16} {trend.lstrip()}"))
        if is_old:
            for line in lines:
                line.stylize(OLD_STYLE)
        return lines

    def action_back(self) -> None:
        """Back to the tables."""
        self.dismiss(None)

    def action_act(self, key: str) -> None:
        """Do something with this connection."""
        self._act(key)


def key_line(keys: Sequence[tuple[str, str]], width: int) -> Text:
    """The keys that work here, as many as there is room for."""
    line = Text()
    for key, meaning in keys:
        if len(line) + len(key) + len(meaning) + (3 if line else 1) > width:
            continue
        line.append("  " if line else "")
        line.append(key, "bold")
        line.append(f" {meaning}")
    return line
