"""The screen of ``monconn top``, and its keys."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.containers import Horizontal
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, OptionList

from monconn.errors import printable
from monconn.faces.control.client import Client
from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.details import Details
from monconn.faces.tui.devices import Devices
from monconn.faces.tui.dialogs import Confirm, Help
from monconn.faces.tui.filter_bar import ChoiceList, FilterInput
from monconn.faces.tui.header import CHARTS, chart_line, chart_lines, chart_titles, status_line
from monconn.faces.tui.keys import key_line
from monconn.faces.tui.layout import FOCUSES, Focus, Layout, share_out
from monconn.faces.tui.model import Model
from monconn.faces.tui.poller import ActionResult, Caller, Lost, Poller, Refused, Update
from monconn.faces.tui.tables import closed_table, live_table, service_table
from monconn.faces.tui.theme import THEMES, first_theme, next_theme
from monconn.faces.tui.widgets import Lines

SILENT_SECONDS = 3.0
"""A server that takes longer to answer is reported."""
MESSAGE_SECONDS = 6.0
"""How long a message stays."""
_KEYS = (
    ("↵", "open", "app.details"),
    ("c", "close", "app.act('c')"),
    ("b", "block", "app.act('b')"),
    ("/", "filter", "app.filter"),
    ("s", "sort", "app.order(1)"),
    ("d", "devices", "app.devices"),
    ("p", "pause", "app.pause"),
    ("?", "help", "app.help"),
    ("q", "quit", "app.leave"),
    # Left out first on a narrow screen: help has all of them.
    ("Tab", "next table", "app.other_table(1)"),
    ("r", "reset", "app.act('r')"),
    ("u", "unblock", "app.act('u')"),
    ("t", "theme", "app.next_theme"),
    ("^p", "commands", "app.command_palette"),
)
_FILTER_KEYS = (
    ("Tab", "complete", "app.other_table(1)"),
    ("↑↓", "choose", ""),
    ("Enter", "keep the filter", ""),
    ("Esc", "remove it", "app.no_filter"),
)
_ONLY_VIEW = "this control port gives the role view: it needs operate"
_TITLES: dict[Focus, str] = {"services": "services", "live": "live", "closed": "closed"}


class PollerUpdate(Message):
    """The poller has an update; a message, as it comes from another thread."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update


class TopApp(App[int]):
    """A live view of a running monconn.

    :param connect: makes a client of its control port.
    :param where: the address of that port, for messages.
    :param seconds: between two polls.
    """

    TITLE = "monconn top"
    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Screen { layout: vertical; overflow: hidden; layers: base above; }
    #filter { height: 1; border: none; padding: 0 1; display: none; background: $panel; }
    #live { height: 1fr; }
    #keys { background: $panel; }
    #closed, #services, #charts, #chart_line { height: 0; }
    #charts Lines { width: 1fr; height: 100%; }
    .-boxed #charts Lines {
        border: round $border-blurred; border-title-color: $foreground;
        border-subtitle-color: $text-muted;
    }
    .-boxed #charts #up { border-title-color: $text-success; }
    .-boxed #charts #down { border-title-color: $text-primary; }
    .-boxed .table {
        border: round $border-blurred; border-title-color: $foreground;
        border-subtitle-color: $text-muted;
    }
    .-boxed .table.-focused { border: round $primary; border-title-color: $primary; }
    """
    BINDINGS = [
        Binding("ctrl+c", "leave", show=False, priority=True),
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000)", show=False),
        Binding("end", "move(1000)", show=False),
        Binding("tab", "other_table(1)", show=False, priority=True),
        Binding("shift+tab", "other_table(-1)", show=False, priority=True),
        Binding("enter", "details", "details"),
        Binding("c", "act('c')", "close"),
        Binding("r", "act('r')", "reset"),
        Binding("b", "act('b')", "block"),
        Binding("u", "act('u')", "unblock"),
        Binding("slash", "filter", "filter"),
        Binding("s", "order(1)", "sort"),
        Binding("S", "order(-1)", show=False),
        Binding("d", "devices", "devices"),
        Binding("p", "pause", "pause"),
        Binding("t", "next_theme", show=False),
        Binding("question_mark,h,f1", "help", "help"),
        Binding("escape", "no_filter", show=False),
        Binding("q", "leave", "quit"),
    ]

    def __init__(self, connect: Callable[[], Caller], where: str, seconds: float = 1.0) -> None:
        # Or Textual would turn colours into greys: they are colours, too, for NO_COLOR.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self._first_theme()
        self.model = Model()
        self.poller = Poller(connect, self.post_update, seconds)
        self._where = where
        self._tables = {
            "live": live_table(self.model.trends),
            "closed": closed_table(),
            "services": service_table(),
        }
        self._layout = Layout(0, 0, 0, 0, False)
        self._updated_at = time.monotonic()
        self._message = Text()
        self._message_at = 0.0

    def _first_theme(self) -> str:
        theme = first_theme(os.environ, self.console.color_system)
        return theme if theme in self.available_themes else THEMES[0].name

    # -- life cycle, and updates

    def compose(self) -> ComposeResult:
        """The lines of the main screen from top to bottom, with the filter hidden."""
        yield Lines(id="status")
        yield Lines(id="chart_line")
        with Horizontal(id="charts"):
            for name, *_ in CHARTS:
                yield Lines(id=name)
        for table in ("services", "live", "closed"):
            yield Lines(id=table, classes="table")
        yield Lines(id="message")
        choice_list = ChoiceList()
        yield FilterInput(self.model, choice_list)
        yield Lines(id="keys")
        yield choice_list

    def on_mount(self) -> None:
        """Start to poll."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Or the terminal would be left without a cursor, and reporting the mouse.
            try:
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
            except (RuntimeError, ValueError, NotImplementedError):
                pass  # not the main thread
        self.set_interval(1.0, self.draw)
        self._lay_out()
        self._set_query()
        self.poller.start()

    def on_unmount(self) -> None:
        """Stop to poll."""
        self.poller.stop()

    def on_resize(self) -> None:
        """Lay out again: more or fewer rows fit."""
        self._forget_widths()
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
            self._say(update.message, "failed" if update.failed else "strong")
        elif isinstance(update, Refused):
            self._say(f"the server says: {update.message}", "failed")
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
        model = self.model
        bottom = 2 if self._filter_box().display else 1
        layout = self._layout = share_out(
            *self.size,
            services=len(model.snapshot.services),
            live=model.expected_rows,
            focus=model.focus,
            other_lines=1 + bottom,
        )
        main = self.screen_stack[0]
        main.set_class(layout.is_boxed, "-boxed")
        chart = layout.chart
        for widget, height in (
            (self._lines("services"), layout.height(layout.services)),
            (self._lines("closed"), layout.height(layout.closed)),
            (self._lines("chart_line"), 0 if layout.is_boxed else chart),
            (main.query_one("#charts"), chart + layout.frame if layout.is_boxed else 0),
        ):
            style = widget.styles
            widget.display = bool(height)  # a frame would need room even then
            if style.height is None or style.height.value != height:
                style.height = height
        model.set_layout(layout)

    def _forget_widths(self) -> None:
        """Let columns be narrow again, as other rows are to come."""
        for table in self._tables.values():
            table.forget()

    def draw(self) -> None:
        """Show what the model holds now; only lines that changed are sent to the terminal."""
        if not self._has_lines():
            return
        for screen in self.screen_stack[1:]:
            if isinstance(screen, Details | Devices):
                screen.draw(self._message_line())
                return
        for table in FOCUSES:
            self._draw_table(table)
        self._draw_charts()
        width = self.size.width
        self._lines("status").set_lines([status_line(self.model, width)])
        message = self._message_line()
        self._lines("message").set_lines([message])
        self._lines("message").display = bool(message) and not self._filter_box().display
        self._lines("keys").set_lines([self._key_line(width)])
        self._lines("keys").display = not self._lines("message").display

    def _draw_table(self, table: Focus) -> None:
        model, widget = self.model, self._lines(table)
        width = self.size.width - self._layout.frame
        cursor, rows = model.cursors[table], model.table_rows(table)
        visible = cursor.visible(rows)
        order: str = {
            "live": model.order,
            "closed": model.closed_order,
            "services": model.service_order,
        }[table]
        lines = self._tables[table].lines(
            visible,
            width,
            selected=model.selected_in(table) if table == model.focus else None,
            order=order,
            is_old=bool(model.lost),
            without=() if len(model.snapshot.services) > 1 else ("service",),
        )
        if not rows and cursor.height:
            lines += [Text(f" {text}", "dim") for text in self._empty_texts(table)]
        widget.set_lines(lines)
        widget.set_class(table == model.focus, "-focused")
        if self._layout.is_boxed:
            count = {
                "live": model.snapshot.total,
                "closed": model.snapshot.closed_total,
                "services": len(rows),
            }[table]
            widget.border_title = f"{_TITLES[table]} {count:,}"
            first, last = cursor.top + 1, cursor.top + len(visible)
            widget.border_subtitle = f"{first:,}–{last:,}" if len(visible) < count else ""

    def _empty_texts(self, table: Focus) -> list[str]:
        """What stands in a table without rows."""
        model = self.model
        if not model.snapshot.pid:
            return [f"Asking {printable(self._where)} …"] if table == "live" else []
        if model.filter:
            texts = [f"No {table} connection matches the filter; Escape removes it."]
            if table == "live" and any(model.filter.uses(key) for key in ("reason", "closed_by")):
                texts.append("Only closed connections have a reason.")
            facts = [term.key for term in model.filter.terms if term.key.startswith("fact.")]
            if table == "live" and facts:
                name = printable(facts[0].removeprefix("fact."))
                texts.append(f"{name} is none of the keys, which Tab completes, but a fact's name.")
            return texts
        if table == "closed":
            return ["No connection has ended yet. When one does, its reason is listed here."]
        texts = ["No live connection. As soon as a client connects, it is listed here."]
        if table == "live":
            for row in model.snapshot.services[: max(model.live.height - 1, 0)]:
                name, listen = printable(row["sid"]), printable(row.get("listen") or "?")
                texts.append(f"{name} listens on {listen}")
        return texts

    def _draw_charts(self) -> None:
        model = self.model
        self._lines("chart_line").set_lines([chart_line(model, self.size.width)])
        if not self._layout.is_boxed:
            return
        for name, *_ in CHARTS:
            widget = self._lines(name)
            width = widget.size.width
            widget.set_lines(chart_lines(model, name, width, self._layout.chart))
            widget.border_title, widget.border_subtitle = chart_titles(model, name, width)

    def _message_line(self) -> Text:
        now = time.monotonic()
        if self.model.lost:
            return Text(f" {self.model.lost}; trying again", "failed")
        if self._message and now - self._message_at < MESSAGE_SECONDS:
            return self._message
        silent = now - self._updated_at
        if self.model.query() is not None and silent > SILENT_SECONDS:
            return Text(f" no answer from {printable(self._where)} for {silent:.0f} s", "warning")
        return Text()

    def _key_line(self, width: int) -> Text:
        """The keys; while a filter is typed, what is wrong with it, as they are not needed then."""
        error = self.model.filter_error
        if error is not None:
            # Without the term, which the user has just typed: there must be room for the advice.
            advice = ": ".join(filter(None, (error.problem, error.suggestion)))
            return Text(f" {printable(advice)}", "warning")
        keys = _FILTER_KEYS if self._filter_box().display else _KEYS
        return key_line(keys, width, may_act=self.model.may_act)

    def _say(self, text: str, style: str = "") -> None:
        self._message, self._message_at = Text(f" {text}", style), time.monotonic()

    # -- keys

    def action_move(self, steps: int) -> None:
        """Select another row."""
        self.model.move(steps)
        self._changed()

    def action_page(self, pages: int) -> None:
        """Select a row a page away."""
        height = self.model.cursors[self.model.focus].height
        self.action_move(pages * max(height - 1, 1))

    def action_other_table(self, steps: int) -> None:
        """Move the focus to another table; in the filter, complete a term."""
        if self._filter_box().display:
            self._filter_box().accept()
        elif len(self.screen_stack) == 1:
            self.model.next_focus(steps)
            self._lay_out()
            self._changed()

    def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """Select the row that was clicked, and open it by a double click."""
        table = event.name
        if table in FOCUSES and event.y > 0 and len(self.screen_stack) == 1:
            cursor = self.model.cursors[table]
            place = cursor.top + event.y - 1
            if place < len(self.model.table_rows(table)):
                self.model.focus = table
                self.action_move(place - cursor.index)
                if event.is_double:
                    self.action_details()

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
        """Scroll a table by the mouse's wheel."""
        if event.name in FOCUSES and len(self.screen_stack) == 1:
            cursor = self.model.cursors[event.name]
            cursor.move(event.lines, self.model.table_rows(event.name))
            self._changed()

    def action_order(self, steps: int) -> None:
        """Sort by another order."""
        self.model.next_order(steps)
        self._changed()

    def action_sort_by(self, table: Focus, order: str) -> None:
        """Sort a table by the column whose title was clicked."""
        self.model.sort_by(table, order)
        self._changed()

    def action_pause(self) -> None:
        """Stop to poll, or go on."""
        self.model.paused = not self.model.paused
        self._updated_at = time.monotonic()
        self._changed()

    def action_next_theme(self) -> None:
        """Change the colours."""
        self.theme = next_theme(self.theme)
        self._say(f"colours: {self.theme}")
        self.draw()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the command palette offers."""
        for title, help, call in (
            ("Filter", "Show only some connections", self.action_filter),
            ("Devices", "Devices, those with alarms first", self.action_devices),
            ("Pause", "Stop to poll, or go on", self.action_pause),
            ("Theme", "Choose the colours", self.action_change_theme),
            ("Help", "The keys, and how filters are written", self.action_help),
            ("Quit", "Leave monconn top", self.action_leave),
        ):
            yield SystemCommand(title, help, call)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help(may_act=self.model.may_act))

    def action_leave(self) -> None:
        """Quit."""
        self.exit(0)

    def action_details(self) -> None:
        """Show all of the selected connection; or the connections of the selected service."""
        if self.model.focus == "services" and self.model.details is None:
            service = self.model.selected_in("services")
            if service is not None:
                self.model.focus = "live"
                self.model.filter_by(f"service:={service['sid']}")
                self._lay_out()
                self._changed()
            return
        row = self.model.selected
        if row is None:
            return
        self.model.open_details(row["id"])
        self.push_screen(Details(self.model, self.action_act), self._details_closed)
        self._set_query()
        self.call_after_refresh(self.draw)

    def action_devices(self) -> None:
        """Show the devices."""
        if self._filter_box().display or len(self.screen_stack) > 1:
            return
        self.model.shows_devices = True
        self.push_screen(Devices(self.model), self._devices_closed)
        self._set_query()
        self.call_after_refresh(self.draw)

    def _devices_closed(self, text: str | None) -> None:
        self.model.shows_devices = False
        if text is not None:
            self.model.filter_by(text)
        self._changed()

    def action_leave_screen(self) -> None:
        """Close the details, or the devices."""
        if isinstance(self.screen, Details | Devices):
            self.screen.action_back()

    def _details_closed(self, _: Any) -> None:
        self.model.close_details()
        self._changed()

    def action_act(self, key: str) -> None:
        """Close, reset, block or unblock, after a question."""
        row = self.model.selected
        if row is None:
            return
        planned = plan(key, row) if self.model.may_act else _ONLY_VIEW
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

    def _filter_box(self) -> FilterInput:
        return self.screen_stack[0].query_one("#filter", FilterInput)

    def action_filter(self) -> None:
        """Let a filter be typed."""
        box = self._filter_box()
        if len(self.screen_stack) > 1:
            return
        box.display, box.disabled = True, False
        box.value = self.model.filter_text
        box.focus()
        self.call_after_refresh(box.offer)
        self._lay_out()
        self.draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter by what has been typed so far."""
        box = self._filter_box()
        if event.input is not box or not box.display:
            return
        self.model.filter_by(event.value)
        self._forget_widths()
        box.offer()
        self._changed()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter; one that cannot be understood stays to be corrected."""
        if event.input is self._filter_box() and self.model.filter_error is None:
            self._close_filter()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the choice that was clicked."""
        if isinstance(event.option_list, ChoiceList):
            event.stop()
            self._filter_box().accept(str(event.option.prompt))
            self._filter_box().focus()

    def action_no_filter(self) -> None:
        """Show all connections again."""
        if len(self.screen_stack) == 1:
            self.model.filter_by("")
            self._forget_widths()
            self._close_filter()

    def _close_filter(self) -> None:
        box = self._filter_box()
        box.withdraw()
        self.set_focus(None)
        box.display, box.disabled = False, True
        self._lay_out()
        self._changed()


def run_top(where: str) -> int:
    """Show a running monconn until the user leaves.

    :param where: its control port, as :class:`monconn.faces.control.client.Client` takes it.
    :returns: the exit status.
    :raises NoServer: no server answers there at the start.
    """
    Client(where).close()
    status = TopApp(lambda: Client(where), where).run()
    return 0 if status is None else status
