"""The screen of ``monconn top``, and its keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.widgets import Input

from monconn.faces.control.client import Client
from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.dialogs import Confirm, Details, Help, key_line
from monconn.faces.tui.model import Model
from monconn.faces.tui.poller import ActionRequest, Caller, Done, Lost, Poller, Refused, Told
from monconn.faces.tui.status import heights, status_line
from monconn.faces.tui.tables import closed_table, live_table, service_table
from monconn.faces.tui.widgets import Lines

SILENT_SECONDS = 3.0
"""An answer that takes longer is worth a word."""
WORDS_SECONDS = 6.0
"""So long what became of a deed is to be read."""
_KEYS = (
    ("Enter", "open"),
    ("c", "close"),
    ("r", "reset"),
    ("b", "block"),
    ("/", "filter"),
    ("s", "sort"),
    ("p", "pause"),
    ("?", "help"),
    ("q", "quit"),
    ("↑↓", "choose"),  # what everybody tries; the first to go on a narrow screen
)


class Heard(Message):
    """The asking thread has something to tell."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self.told = told


class TopApp(App[int]):
    """A live view of a running monconn.

    :param connect: makes a client of its control port.
    :param where: what that port is called.
    :param seconds: between two looks.
    """

    TITLE = "monconn top"
    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; overflow: hidden; }
    #filter { height: 1; border: none; padding: 0 1; display: none; }
    #live { height: 1fr; }
    #closed, #services { height: 0; }
    """
    BINDINGS = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000)", show=False),
        Binding("tab,shift+tab", "other_table", show=False, priority=True),
        Binding("enter", "details", "details"),
        Binding("c", "act('c')", "close"),
        Binding("r", "act('r')", "reset"),
        Binding("b", "act('b')", "block"),
        Binding("slash", "filter", "filter"),
        Binding("s", "order(1)", "sort"),
        Binding("S", "order(-1)", show=False),
        Binding("p", "pause", "pause"),
        Binding("question_mark,h,f1", "help", "help"),
        Binding("escape", "no_filter", show=False),
        Binding("q", "leave", "quit"),
    ]

    def __init__(self, connect: Callable[[], Caller], where: str, seconds: float = 1.0) -> None:
        super().__init__()
        self.model = Model()
        self._where = where
        self._asker = Poller(connect, self._hear, seconds)
        self._live_table = live_table(self.model.trends)
        self._closed_table = closed_table()
        self._service_table = service_table(self.model.service_trends)
        self._heard_at = time.monotonic()
        self._service_rows_fit = 0
        self._words = Text()
        self._words_at = 0.0

    # -- its life

    def compose(self) -> ComposeResult:
        """See ``App``."""
        for name in ("status", "services", "live", "closed", "message"):
            yield Lines(id=name)
        # Disabled while hidden, or it would be given the focus.
        yield Input(id="filter", placeholder="IP, network, service or state", disabled=True)
        yield Lines(id="keys")

    def on_mount(self) -> None:
        """See ``App``."""
        self.set_interval(1.0, self.draw)
        self._lay_out()
        self._ask()
        self._asker.start()

    def on_unmount(self) -> None:
        """See ``App``."""
        self._asker.stop()

    def on_resize(self) -> None:
        """See ``App``."""
        self._lay_out()
        self._ask()
        self.draw()

    def _hear(self, told: Told) -> None:
        """Called in the asking thread."""
        self.post_message(Heard(told))

    def on_heard(self, message: Heard) -> None:
        """Something was told."""
        if not self.screen_stack:
            return  # it is being closed
        told = message.told
        self._heard_at = time.monotonic()
        if isinstance(told, Done):
            self._say(told.words, "red" if told.failed else "bold")
        elif isinstance(told, Refused):
            self._say(f"the server says: {told.words}", "red")
        elif isinstance(told, Lost):
            self.model.lost = told.words
        else:
            self.model.take(told)
            self._lay_out()
        self._ask()
        self.draw()

    def _ask(self) -> None:
        self._asker.ask(self.model.question())

    # -- what is shown

    def _lines(self, name: str) -> Lines:
        return self.screen_stack[0].query_one(f"#{name}", Lines)

    def _lay_out(self) -> None:
        """Give each table its height."""
        services = len(self.model.answer.services)
        given = heights(self.size.height, services)
        for name, height in (("services", given.services), ("closed", given.closed)):
            # A line of titles belongs to each.
            wanted = height + 1 if height else 0
            style = self._lines(name).styles
            if style.height is None or style.height.value != wanted:
                style.height = wanted
        self.model.set_heights(given.live, given.closed)
        self._service_rows_fit = given.services

    def draw(self) -> None:
        """Show what the model holds now; only what changed is sent to the terminal."""
        if not self.screen_stack or not self.is_running:
            return  # it is being closed
        if len(self.screen_stack) > 1 and isinstance(self.screen_stack[1], Details):
            self.screen_stack[1].draw(self._message())
            return
        model, width = self.model, self.size.width
        is_old = bool(model.lost)
        chosen = None if model.looks_at_closed else model.live.chosen(model.rows)
        live = model.live.in_sight(model.rows)
        self._lines("live").put(
            self._live_table.lines(live, width, chosen=chosen, order=model.order, is_old=is_old)
        )
        chosen = model.closed.chosen(model.closed_rows) if model.looks_at_closed else None
        closed = model.closed.in_sight(model.closed_rows)
        self._lines("closed").put(
            self._closed_table.lines(closed, width, chosen=chosen, is_old=is_old)
        )
        services = model.service_rows(self._service_rows_fit)
        self._lines("services").put(self._service_table.lines(services, width, is_old=is_old))
        self._lines("status").put([status_line(model, width)])
        self._lines("message").put([self._message()])
        self._lines("keys").put([key_line(_KEYS, width)])

    def _message(self) -> Text:
        now = time.monotonic()
        if self.model.lost:
            return Text(f" {self.model.lost}; trying again", "bold red")
        if self._words and now - self._words_at < WORDS_SECONDS:
            return self._words
        silent = now - self._heard_at
        if self.model.question() is not None and silent > SILENT_SECONDS:
            return Text(f" no answer from {self._where} for {silent:.0f} s", "bold yellow")
        return Text()

    def _say(self, words: str, style: str = "") -> None:
        self._words, self._words_at = Text(f" {words}", style), time.monotonic()

    # -- keys

    def _changed(self) -> None:
        self._ask()
        self.draw()

    def action_move(self, steps: int) -> None:
        """Choose another row."""
        self.model.move(steps)
        self._changed()

    def action_page(self, pages: int) -> None:
        """Choose a row a page away."""
        self.action_move(pages * max(self.model.live.height - 1, 1))

    def action_other_table(self) -> None:
        """Go from the live ones to the closed ones, and back."""
        model = self.model
        if len(self.screen_stack) > 1:
            return
        model.looks_at_closed = not model.looks_at_closed and bool(model.closed_rows)
        self.draw()

    def action_order(self, steps: int) -> None:
        """Sort by something else."""
        self.model.next_order(steps)
        self._changed()

    def action_pause(self) -> None:
        """Stop asking, or go on."""
        self.model.paused = not self.model.paused
        self._heard_at = time.monotonic()
        self._changed()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_leave(self) -> None:
        """Quit."""
        self.exit(0)

    def action_details(self) -> None:
        """Show all of the chosen connection."""
        row = self.model.chosen
        if row is None:
            return
        self.model.open_details(row["id"])
        self.push_screen(Details(self.model, self.action_act), self._details_closed)
        self._ask()
        self.call_after_refresh(self.draw)

    def _details_closed(self, _: Any) -> None:
        self.model.close_details()
        self._changed()

    def action_act(self, key: str) -> None:
        """Close, reset or block, after a question."""
        row = self.model.chosen
        if row is None:
            return
        intended = plan(key, row)
        if isinstance(intended, str):
            self._say(intended)
            self.draw()
            return
        pid = self.model.answer.pid
        self.push_screen(
            Confirm(intended.question, intended.facts, intended.answers),
            lambda answer: self._confirmed(intended, answer, pid),
        )

    def _confirmed(self, intended: Plan, answer: str | None, pid: int) -> None:
        deed: ActionRequest | None = intended.deeds.get(answer or "")
        if deed is not None:
            self._say(f"{deed.words} …")
            self._asker.do(deed, pid)
        self.draw()

    # -- the filter

    def action_filter(self) -> None:
        """Let a filter be typed."""
        box = self.query_one("#filter", Input)
        self._lines("message").display, box.display = False, True
        box.disabled = False
        box.value = self.model.text
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter by what is there so far."""
        self.model.filter_by(event.value)
        self._changed()

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._close_filter()

    def action_no_filter(self) -> None:
        """Show all again."""
        self.model.filter_by("")
        self._close_filter()

    def _close_filter(self) -> None:
        box = self.query_one("#filter", Input)
        self.set_focus(None)
        box.display, box.disabled = False, True
        self._lines("message").display = True
        self._changed()


def run_top(where: str, *, seconds: float = 1.0) -> int:
    """Show a running monconn until the user leaves.

    :param where: its control port, as :class:`monconn.faces.control.client.Client` takes it.
    :param seconds: between two looks.
    :returns: the exit status.
    :raises NoServer: nobody answers there to begin with.
    """
    Client(where).close()
    status = TopApp(lambda: Client(where), where, seconds).run()
    return 0 if status is None else status
