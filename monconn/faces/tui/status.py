"""How the screen is shared out, and its first line."""

from __future__ import annotations

import attrs
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui.model import Model

_AROUND = 3
"""The lines for status, message and keys."""


@attrs.frozen
class Heights:
    """How many rows each table has, beside its titles."""

    services: int
    live: int
    closed: int


def heights(lines: int, services: int) -> Heights:
    """Share a screen's lines; the live connections get what the others leave."""
    total_line = 1 if services > 1 else 0
    service_rows = min(services + total_line, max(lines // 6, 1)) if lines >= 12 else 0
    closed_rows = min(max(lines // 6, 3), 12) if lines >= 16 else 0
    used = sum(rows + 1 for rows in (service_rows, closed_rows) if rows)
    return Heights(service_rows, max(lines - _AROUND - used - 1, 0), closed_rows)


def status_line(model: Model, width: int) -> Text:
    """How many there are, in which order, which of them are shown."""
    line = Text(" monconn top ", "bold reverse")
    line = Text.assemble(line, f"  {model.live_count:,} live  sort ", (model.order, "bold"))
    if model.paused:
        line.append("  ")
        line.append(" PAUSED ", "bold reverse")
    if model.lost:
        line.append("  ")
        line.append(" NO SERVER, OLD PICTURE ", "bold reverse")
    words = _filter_words(model)
    if words:
        line.append(f"  {words}", "bold cyan")
    about = printable(f"{model.answer.server} pid {model.answer.pid} ")
    if model.answer.server and len(line) + len(about) + 2 <= width:
        line.append(about.rjust(width - len(line)), "dim")
    return line


def _filter_words(model: Model) -> str:
    wanted, answer = model.filter, model.answer
    if wanted.kind == "none":
        return ""
    if answer.question.filter != wanted:
        return f"{wanted.kind} {printable(wanted.value)}: …"
    return f"{wanted.kind} {printable(wanted.value)}: {answer.total:,}"
