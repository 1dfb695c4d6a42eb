"""The screen of ``monconn top``, and its keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.events import Key
from textual.message import Message
from textual.widgets import Input

from monconn.errors import printable
from monconn.faces.control.client import Client
from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.dialogs import Confirm, Details, Help, key_line
from monconn.faces.tui.model import Model
from monconn.faces.tui.poller import ActionResult, Caller, Lost, Poller, Refused, Update
from monconn.faces.tui.status import heights, status_line
from monconn.faces.tui.tables import closed_table, live_table, service_table
from monconn.faces.tui.widgets import Lines

SILENT_SECONDS = 3.0
"""A server that takes longer to answer is reported."""
MESSAGE_SECONDS = 6.0
"""How long a message stays."""
MAX_FILTER_CHARACTERS = 4000
"""The longest filter, in characters; a value on the wire holds 65,535 bytes."""
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
    # Left out first on a narrow screen: the arrows, which everybody tries anyway.
    ("u", "unblock"),
    ("↑↓", "select"),
)
_FILTER_KEYS = (("Enter", "keep the filter"), ("Esc", "remove it"))


class PollerUpdate(Message):
    """The poller has an update; a message, as it comes from another thread."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update


class _FilterInput(Input):
    """Takes keys in the order in which they were typed.

    Textual inserts characters at once, but does what Backspace is bound to only after the key has
    gone up to the application: of keys that arrive together, as over a slow connection, Backspace
    would delete characters that were typed after it.
    """

    def on_key(self, event: Key) -> None:
        """Delete at once."""
        if event.key == "backspace":
            event.stop()
            self.action_delete_left()


class TopApp(App[int]):
    """A live view of a running monconn.

    :param connect: makes a client of its control port.
    :param where: the address of that port, for messages.
    :param seconds: between two polls.
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
        Binding("u", "act('u')", "unblock"),
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
        self.poller = Poller(connect, self.post_update, seconds)
        self._where = where
        self._live_table = live_table(self.model.trends)
        self._closed_table = closed_table()
        self._service_table = service_table()
        self._updated_at = time.monotonic()
        self._service_rows_fit = 0
        self._message = Text()
        self._message_at = 0.0

    # -- life cycle, and updates

    def compose(self) -> ComposeResult:
        """The lines of the main screen from top to bottom, with the filter hidden."""
        for name in ("status", "services", "live", "closed", "message"):
            yield Lines(id=name)
        # Disabled while hidden, or it would be given the focus.
        yield _FilterInput(
            id="filter",
            placeholder="IP, network, service, state, text, or key:value",
            max_length=MAX_FILTER_CHARACTERS,
            disabled=True,
        )
        yield Lines(id="keys")

    def on_mount(self) -> None:
        """Start to poll."""
        self.set_interval(1.0, self.draw)
        self._lay_out()
        self._set_query()
        self.poller.start()

    def on_unmount(self) -> None:
        """Stop to poll."""
        self.poller.stop()

    def on_resize(self) -> None:
        """Lay out again: more or fewer rows fit."""
        self._lay_out()
        self._changed()

    def post_update(self, update: Update) -> None:
        """Take an update from the poller; may be called from any thread."""
        self.post_message(PollerUpdate(update))

    def on_poller_update(self, message: PollerUpdate) -> None:
        """Show an update."""
        if not self._has_lines():
            return
        update = message.update
        self._updated_at = time.monotonic()
        if isinstance(update, ActionResult):
            self._say(update.message, "red" if update.failed else "bold")
        elif isinstance(update, Refused):
            self._say(f"the server says: {update.message}", "red")
        elif isinstance(update, Lost):
            self.model.lost = update.message
        else:
            self.model.update(update)
            self._lay_out()
        self._changed()

    def _set_query(self) -> None:
        self.poller.set_query(self.model.query())

    def _changed(self) -> None:
        """Apply a change of what to query or to display."""
        self._set_query()
        self.draw()

    # -- drawing

    def _has_lines(self) -> bool:
        """Whether there is a screen to draw on: while the app is closed, its widgets go first."""
        if not self.is_running or not self.screen_stack:
            return False
        return bool(self.screen_stack[0].query("#keys"))

    def _lines(self, name: str) -> Lines:
        return self.screen_stack[0].query_one(f"#{name}", Lines)

    def _lay_out(self) -> None:
        """Give each table its height."""
        fit = heights(self.size.height, len(self.model.snapshot.services))
        for name, rows in (("services", fit.services), ("closed", fit.closed)):
            height = rows + 1 if rows else 0  # with the line of titles
            style = self._lines(name).styles
            if style.height is None or style.height.value != height:
                style.height = height
        self.model.set_heights(fit.live, fit.closed)
        self._service_rows_fit = fit.services

    def draw(self) -> None:
        """Show what the model holds now; only lines that changed are sent to the terminal."""
        if not self._has_lines():
            return
        if len(self.screen_stack) > 1 and isinstance(self.screen_stack[1], Details):
            self.screen_stack[1].draw(self._message_line())
            return
        model, width = self.model, self.size.width
        is_old = bool(model.lost)
        selected = None if model.closed_has_focus else model.selected
        live = model.live.visible(model.rows)
        self._lines("live").set_lines(
            self._live_table.lines(live, width, selected=selected, order=model.order, is_old=is_old)
        )
        selected = model.selected if model.closed_has_focus else None
        closed = model.closed.visible(model.closed_rows)
        self._lines("closed").set_lines(
            self._closed_table.lines(closed, width, selected=selected, is_old=is_old)
        )
        services = model.service_rows(self._service_rows_fit)
        self._lines("services").set_lines(self._service_table.lines(services, width, is_old=is_old))
        self._lines("status").set_lines([status_line(model, width)])
        self._lines("message").set_lines([self._message_line()])
        self._lines("keys").set_lines([self._key_line(width)])

    def _message_line(self) -> Text:
        now = time.monotonic()
        if self.model.lost:
            return Text(f" {self.model.lost}; trying again", "bold red")
        if self._message and now - self._message_at < MESSAGE_SECONDS:
            return self._message
        silent = now - self._updated_at
        if self.model.query() is not None and silent > SILENT_SECONDS:
            return Text(
                f" no answer from {printable(self._where)} for {silent:.0f} s", "bold yellow"
            )
        return Text()

    def _key_line(self, width: int) -> Text:
        """The keys; while a filter is typed, what is wrong with it, as they are not needed then."""
        error = self.model.filter_error
        if error is not None:
            # Without the term, which the user has just typed: there must be room for the advice.
            advice = ": ".join(filter(None, (error.problem, error.suggestion)))
            return Text(f" {printable(advice)}", "yellow")
        return key_line(_FILTER_KEYS if self._filter_box().display else _KEYS, width)

    def _say(self, text: str, style: str = "") -> None:
        self._message, self._message_at = Text(f" {text}", style), time.monotonic()

    # -- keys

    def action_move(self, steps: int) -> None:
        """Select another row."""
        self.model.move(steps)
        self._changed()

    def action_page(self, pages: int) -> None:
        """Select a row a page away."""
        self.action_move(pages * max(self.model.live.height - 1, 1))

    def action_other_table(self) -> None:
        """Move the focus from the live connections to the closed ones, or back."""
        model = self.model
        if len(self.screen_stack) > 1:
            return
        model.closed_has_focus = not model.closed_has_focus and bool(model.closed_rows)
        self.draw()

    def action_order(self, steps: int) -> None:
        """Sort by another order."""
        self.model.next_order(steps)
        self._changed()

    def action_pause(self) -> None:
        """Stop to poll, or go on."""
        self.model.paused = not self.model.paused
        self._updated_at = time.monotonic()
        self._changed()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_leave(self) -> None:
        """Quit."""
        self.exit(0)

    def action_details(self) -> None:
        """Show all of the selected connection."""
        row = self.model.selected
        if row is None:
            return
        self.model.open_details(row["id"])
        self.push_screen(Details(self.model, self.action_act), self._details_closed)
        self._set_query()
        self.call_after_refresh(self.draw)

    def _details_closed(self, _: Any) -> None:
        self.model.close_details()
        self._changed()

    def action_act(self, key: str) -> None:
        """Close, reset, block or unblock, after a question."""
        row = self.model.selected
        if row is None:
            return
        planned = plan(key, row)
        if isinstance(planned, str):
            self._say(planned)
            self.draw()
            return
        pid = self.model.snapshot.pid
        self.push_screen(
            Confirm(planned.question, planned.context, planned.answers),
            lambda answer: self._confirmed(planned, answer, pid),
        )

    def _confirmed(self, planned: Plan, answer: str | None, pid: int) -> None:
        action = planned.requests.get(answer or "")
        if action is not None:
            self._say(f"{action.text} …")
            self.poller.request(action, pid)
        self.draw()

    # -- the filter

    def _filter_box(self) -> Input:
        return self.screen_stack[0].query_one("#filter", Input)

    def action_filter(self) -> None:
        """Let a filter be typed."""
        box = self._filter_box()
        self._lines("message").display, box.display = False, True
        box.disabled = False
        box.value = self.model.filter_text
        box.focus()
        self.draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter by what has been typed so far."""
        self.model.filter_by(event.value)
        self._changed()

    def on_input_submitted(self) -> None:
        """Keep the filter; one that cannot be understood stays to be corrected."""
        if self.model.filter_error is None:
            self._close_filter()

    def action_no_filter(self) -> None:
        """Show all connections again."""
        self.model.filter_by("")
        self._close_filter()

    def _close_filter(self) -> None:
        box = self._filter_box()
        self.set_focus(None)
        box.display, box.disabled = False, True
        self._lines("message").display = True
        self._changed()


def run_top(where: str, *, seconds: float = 1.0) -> int:
    """Show a running monconn until the user leaves.

    :param where: its control port, as :class:`monconn.faces.control.client.Client` takes it.
    :param seconds: between two polls.
    :returns: the exit status.
    :raises NoServer: no server answers there at the start.
    """
    Client(where).close()
    status = TopApp(lambda: Client(where), where, seconds).run()
    return 0 if status is None else status
