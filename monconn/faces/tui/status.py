"""How the screen's lines are shared out, and its first line."""

from __future__ import annotations

import attrs
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui.model import Model

_FIXED_LINES = 3
"""Those for status, message and keys."""


@attrs.frozen
class Heights:
    """How many rows each table has, below its titles."""

    services: int
    live: int
    closed: int


def heights(lines: int, services: int) -> Heights:
    """Share out a screen's lines; the live connections get what the others leave."""
    total_line = 1 if services > 1 else 0
    service_rows = min(services + total_line, max(lines // 6, 1)) if lines >= 12 else 0
    closed_rows = min(max(lines // 6, 3), 12) if lines >= 16 else 0
    used = sum(rows + 1 for rows in (service_rows, closed_rows) if rows)
    return Heights(service_rows, max(lines - _FIXED_LINES - used - 1, 0), closed_rows)


def status_line(model: Model, width: int) -> Text:
    """How many connections are live, how they are sorted, and by what they are filtered."""
    line = Text(" monconn top ", "bold reverse")
    line = Text.assemble(line, f"  {model.live_count:,} live  sort ", (model.order, "bold"))
    if model.paused:
        line.append("  ")
        line.append(" PAUSED ", "bold reverse")
    if model.lost:
        line.append("  ")
        line.append(" NO SERVER, OLD DATA ", "bold reverse")
    if model.filter:
        is_answered = model.snapshot.query.filter == model.filter
        count = f"matches {model.snapshot.total:,}" if is_answered else "…"
        line.append(f"  filter {printable(model.filter.to_text())} {count}", "bold cyan")
    about = printable(f"{model.snapshot.server} pid {model.snapshot.pid} ")
    if model.snapshot.server and len(line) + len(about) + 2 <= width:
        line.append(about.rjust(width - len(line)), "dim")
    return line
