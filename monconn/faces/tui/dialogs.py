"""Screens over the tables: a question, and the keys."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Click, Key
from textual.screen import ModalScreen
from textual.widgets import Static

_KEYS = (
    ("↑ ↓  PgUp PgDn", "select a row; so does a click"),
    ("Home  End", "select the first, the last row"),
    ("Tab", "go to the next table"),
    ("Enter", "all details; of a service: filter by it"),
    ("c", "close the connection in good order"),
    ("r", "reset it at once"),
    ("b  u", "block its client's IP, or unblock it"),
    ("/", "filter; Tab completes, Enter keeps it"),
    ("Escape", "remove the filter"),
    ("s  S", "sort by the next, the previous order"),
    ("d", "devices, those with alarms first"),
    ("p", "pause the screen, and go on"),
    ("t", "dark, light, the terminal's own colours"),
    ("q  Ctrl-C", "quit"),
)
_ACTING = ("c", "r", "b  u")
_HELP_ON_FILTERS = """\
service:web client:10.0.0.0/8   both must match
idle:5m.. up:1MiB.. age:..10s   at least, at most
not:state:open                  all but these
half_closed  10.0.0.0/8  web    state, client, service
anything else                   a text anywhere"""
_HELP_ON_MOUSE = """\
a click selects, a second one opens; on a title: sorts
the wheel scrolls; a click on a key below presses it"""


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
    """The keys, and what a filter may be; any key closes it but those that scroll.

    :param may_act: False leaves out the keys that end or block something.
    """

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help > VerticalScroll { width: 62; max-width: 100%; height: auto; max-height: 100%;
                            padding: 0 2; border: round $primary; background: $surface;
                            border-title-color: $primary; border-subtitle-color: $text-muted;
                            scrollbar-size-vertical: 1; }
    """
    AUTO_FOCUS = "VerticalScroll"
    _SCROLLING = ("up", "down", "pageup", "pagedown", "home", "end")

    def __init__(self, *, may_act: bool = True) -> None:
        super().__init__()
        self._keys = [each for each in _KEYS if may_act or each[0] not in _ACTING]

    def compose(self) -> ComposeResult:
        """All keys, whatever the width of the screen."""
        text = Text()
        for key, meaning in self._keys:
            text.append(f"{key:<16}", "bold")
            text.append(f"{meaning}\n")
        for title, help in (("mouse", _HELP_ON_MOUSE), ("filters", _HELP_ON_FILTERS)):
            text.append(f"\n{title}\n", "bold")
            text.append(f"{help}\n")
        text.right_crop(1)
        with VerticalScroll() as scroll:
            scroll.border_title = "keys"
            scroll.border_subtitle = "↑↓ scroll, any other key closes"
            yield Static(text)

    def on_key(self, event: Key) -> None:
        """Close, whatever the key, or scroll."""
        if event.key not in self._SCROLLING:
            event.stop()
            self.dismiss(None)

    def on_click(self, event: Click) -> None:
        """Close."""
        event.stop()
        self.dismiss(None)
