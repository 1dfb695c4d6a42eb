"""The line in which a filter is typed, and what it can go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.text import Text
from textual.binding import Binding
from textual.events import Key
from textual.suggester import Suggester
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from monconn.errors import printable
from monconn.faces.tui.model import Model
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Kind, complete

MAX_FILTER_CHARACTERS = 4000
"""The longest filter, in characters; a value on the wire holds 65,535 bytes."""
_MOST_VALUES = 50
_RANGES: Mapping[Kind, Sequence[str]] = {
    "seconds": ("10s..", "1m..", "10m..", "1h..", "..1m"),
    "bytes": ("1KiB..", "1MiB..", "1GiB..", "..1KiB"),
    "rate": ("1KiB..", "1MiB.."),
}
"""Examples of values that can be anything, to show how they are written."""


def known_values(model: Model) -> dict[str, list[str]]:
    """What each key can be followed by, but for the values that the language has itself.

    Services are all of them; clients, backends and facts are those that are on the screen.
    """
    known: dict[str, list[str]] = {
        key.name: list(_RANGES.get(key.kind, ())) for key in CONNECTION_KEYS.by_name.values()
    }
    known["service"] = model.service_names
    facts: dict[str, dict[str, None]] = {}
    clients: dict[str, None] = {}
    backends: dict[str, None] = {}
    for row in (*model.live.visible(model.rows), *model.closed.visible(model.closed_rows)):
        clients[str(row.get("client_ip") or "")] = None
        backends[str(row.get("backend") or "")] = None
        for name, value in (row.get("facts") or {}).items():
            facts.setdefault(str(name), {})[str(value)] = None
    known["client"], known["backend"] = list(clients), list(backends)
    for name, values in facts.items():
        if name not in CONNECTION_KEYS.by_name:
            known[name] = list(values)
    known["fact"] = [name for name in facts if name not in CONNECTION_KEYS.by_name]
    return {
        key: [each for each in values[:_MOST_VALUES] if each and printable(each) == each]
        for key, values in known.items()
    }


def choices(text: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    """What the last term of a filter may become: itself with a key, or with a value.

    :param text: as typed so far, up to the cursor.
    """
    term = text[_term_start(text) :]
    if any(each in term for each in "'\"\\"):
        return []  # in quotes: what it is can only be guessed
    found = complete(term, CONNECTION_KEYS, known)
    if ":" not in term:  # a word may be a state, a service or a client, too
        values = (
            *CONNECTION_KEYS.by_name["state"].choices,
            *known.get("service", ()),
            *(known.get("client", ()) if term else ()),
        )
        found = [*found, *(each for each in values if term and each.startswith(term))]
    return [each for each in dict.fromkeys(found) if each != term and " " not in each]


def _term_start(text: str) -> int:
    return max(text.rfind(" "), text.rfind("\t")) + 1


class _FilterSuggester(Suggester):
    """Completes the last term, in the text that is dimmed after the cursor."""

    def __init__(self, first: Callable[[str], str | None]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)  # values come and go
        self._first = first

    async def get_suggestion(self, value: str) -> str | None:
        """The text with its term completed; None if it cannot be."""
        choice = self._first(value)
        term = value[_term_start(value) :]
        if choice is None or not choice.startswith(term) or not term:
            return None
        return value[: _term_start(value)] + choice


class FilterInput(Input):
    """Takes keys in the order in which they were typed, and completes terms.

    Textual inserts characters at once, but does what Backspace is bound to only after the key has
    gone up to the application: of keys that arrive together, as over a slow connection, Backspace
    would delete characters that were typed after it.

    :param model: has what values are completed from.
    :param choice_list: shows the choices while a term is typed.
    """

    BINDINGS = [
        Binding("down", "choose(1)", show=False),
        Binding("up", "choose(-1)", show=False),
    ]

    def __init__(self, model: Model, choice_list: ChoiceList) -> None:
        super().__init__(
            id="filter",
            placeholder="IP, network, service, state, text, or key:value",
            max_length=MAX_FILTER_CHARACTERS,
            disabled=True,  # while hidden, or it would be given the focus
            suggester=_FilterSuggester(self._first),
        )
        self._model = model
        self._list = choice_list
        self._choices: list[str] = []
        self._is_choosing = False

    def on_key(self, event: Key) -> None:
        """Delete at once; accept a choice."""
        if event.key == "backspace":
            event.stop()
            self.action_delete_left()
        elif event.key == "tab" or (event.key == "enter" and self._is_choosing):
            event.stop()
            event.prevent_default()
            self.accept()

    def offer(self) -> None:
        """Show what the term at the cursor can become."""
        at_end = self.cursor_position == len(self.value)
        is_shown = self.has_focus and at_end
        self._choices = choices(self.value, known_values(self._model)) if is_shown else []
        self._is_choosing = False
        self._list.show(self._choices)

    def withdraw(self) -> None:
        """Show no choices."""
        self._choices, self._is_choosing = [], False
        self._list.show([])

    def action_choose(self, steps: int) -> None:
        """Go to another choice."""
        if self._choices:
            self._list.move(steps, is_first=not self._is_choosing)
            self._is_choosing = True

    def accept(self, choice: str | None = None) -> None:
        """Put a choice, by default the marked one, in place of the last term."""
        if choice is None:
            place = self._list.highlighted if self._is_choosing else 0
            if not self._choices or place is None:
                return
            choice = self._choices[place]
        # A value is complete, and another term may follow; a key wants its value.
        end = "" if choice.endswith(":") else " "
        self.value = f"{self.value[: _term_start(self.value)]}{choice}{end}"
        self.cursor_position = len(self.value)

    def _first(self, text: str) -> str | None:
        return next(iter(choices(text, known_values(self._model))), None)


class ChoiceList(OptionList, can_focus=False):
    """The choices above the filter; a click takes one."""

    DEFAULT_CSS = """
    ChoiceList { layer: above; dock: bottom; width: auto; min-width: 24; max-width: 60%;
                 height: auto; max-height: 10; margin: 0 0 2 1; padding: 0 1; display: none;
                 border: round $border; background: $surface; scrollbar-size-vertical: 1; }
    """

    def show(self, texts: Sequence[str]) -> None:
        """Show these choices; without any, nothing."""
        self.clear_options()
        if texts:
            self.add_options([Option(Text(each)) for each in texts])
        self.highlighted = None
        self.display = bool(texts)

    def move(self, steps: int, *, is_first: bool) -> None:
        """Mark the next choice."""
        count = self.option_count
        place = self.highlighted or 0
        if is_first:
            place = 0 if steps > 0 else count - 1
        else:
            place = (place + steps) % count
        self.highlighted = place
