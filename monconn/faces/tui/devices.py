"""The screen with the devices, those with alarms first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import ModalScreen

from monconn.faces.tui.keys import key_line
from monconn.faces.tui.layout import is_boxed
from monconn.faces.tui.model import Model
from monconn.faces.tui.poller import MOST_DEVICES
from monconn.faces.tui.tables import device_table
from monconn.faces.tui.widgets import Lines

_KEYS = (
    ("Esc", "back", "app.leave_screen"),
    ("Enter", "its connections", "screen.filter"),
    ("↑↓", "select", ""),
)


def _connections_filter(row: Mapping[str, Any]) -> str:
    """The filter that finds the connections of a device."""
    device, identity = str(row["device"]), row.get("identity") or "address"
    if identity == "address":
        return f"client:{device}"
    return shlex.quote(f"{identity}:={device}")


class Devices(ModalScreen[str | None]):
    """Devices and their alarms; dismissed with the filter that shows a device's connections.

    :param model: holds the devices.
    """

    DEFAULT_CSS = """
    Devices { background: $background; }
    Devices #keys { background: $panel; }
    Devices #devices { height: 1fr; }
    Devices.-boxed #devices {
        border: round $border; border-title-color: $foreground; border-subtitle-color: $text-muted;
    }
    """
    BINDINGS = [
        ("escape,q,d", "back", "back"),
        ("enter", "filter", "its connections"),
        ("up,k", "move(-1)", ""),
        ("down,j", "move(1)", ""),
        ("pageup", "page(-1)", ""),
        ("pagedown", "page(1)", ""),
        ("home", "move(-1000)", ""),
        ("end", "move(1000)", ""),
    ]

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._table = device_table()
        self._message = Text()

    def compose(self) -> ComposeResult:
        """A title, the devices, a message and the keys."""
        yield Lines(id="title")
        yield Lines(id="devices")
        yield Lines(id="message")
        yield Lines(id="keys")

    def on_resize(self) -> None:
        """Draw: more or fewer rows fit."""
        self.call_after_refresh(self.draw, self._message)

    def draw(self, message: Text) -> None:
        """Show what the model holds now."""
        if not self.query("#keys"):
            return  # its widgets are not mounted yet
        model, (width, height) = self._model, self.size
        self._message = message
        boxed = is_boxed(width, height)
        self.set_class(boxed, "-boxed")
        table = self.query_one("#devices", Lines)
        inner_width = width - (2 if boxed else 0)
        model.device_cursor.height = height - 3 - (2 if boxed else 0)
        model.device_cursor.follow(model.devices)
        rows = model.device_cursor.visible(model.devices)
        selected = model.device_cursor.selected(model.devices)
        without = () if len({row.get("service") for row in model.devices}) > 1 else ("service",)
        lines = self._table.lines(
            rows, inner_width, selected=selected, is_old=bool(model.lost), without=without
        )
        if not rows:
            lines.append(Text(" No device yet: each client that connects becomes one.", "dim"))
        table.set_lines(lines)
        count = f"{len(model.devices):,}{'+' if len(model.devices) == MOST_DEVICES else ''}"
        if boxed:
            table.border_title = f"devices {count}"
            last = model.device_cursor.top + len(rows)
            table.border_subtitle = f"{model.device_cursor.top + 1}–{last}" if rows else ""
        title = Text.assemble((" devices ", "badge"), (f"  {count}", "strong"))
        if model.alarms:
            title.append("  ")
            title.append(f" {model.alarms:,} with alarms ", "alarm")
        elif model.alarms == 0:
            title.append("  no alarms", "dim")
        self.query_one("#title", Lines).set_lines([title])
        for name, shown in (("message", bool(message)), ("keys", not message)):
            self.query_one(f"#{name}", Lines).display = shown
        self.query_one("#message", Lines).set_lines([message])
        self.query_one("#keys", Lines).set_lines([key_line(_KEYS, width)])

    def action_move(self, steps: int) -> None:
        """Select another row."""
        self._model.device_cursor.move(steps, self._model.devices)
        self.draw(self._message)

    def action_page(self, pages: int) -> None:
        """Select a row a page away."""
        self.action_move(pages * max(self._model.device_cursor.height - 1, 1))

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
        """Scroll by the mouse's wheel."""
        event.stop()
        self.action_move(event.lines)

    def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """Select a row; open it by a double click."""
        event.stop()
        cursor = self._model.device_cursor
        if event.name == "devices" and event.y > 0:
            self.action_move(cursor.top + event.y - 1 - cursor.index)
            if event.is_double:
                self.action_filter()

    def action_filter(self) -> None:
        """Show the connections of the selected device."""
        row = self._model.device_cursor.selected(self._model.devices)
        if row is None:
            return
        terms = [_connections_filter(row)]
        if row.get("service") and len(self._model.service_names) > 1:
            terms.append(f"service:={row['service']}")
        self.dismiss(" ".join(terms))

    def action_back(self) -> None:
        """Go back to the tables."""
        self.dismiss(None)
