"""The line that names the keys, each of which may be clicked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from monconn.faces.tui.widgets import action

KeyHint = tuple[str, str, str]
"""A key, what it does, and the action that a click on it does; empty for none."""
_GAP = 2


_ACTS = "app.act("


def key_line(keys: Sequence[KeyHint], width: int, *, may_act: bool = True) -> Text:
    """The keys that work here, as many as there is room for; the first ones before the others.

    :param may_act: False leaves out those that end or block something.
    """
    line = Text()
    for key, meaning, what in keys:
        if what.startswith(_ACTS) and not may_act:
            continue
        gap = _GAP if line else 0
        if line.cell_len + cell_len(key) + cell_len(meaning) + 1 + gap > width:
            continue
        line.append(" " * gap)
        start = len(line)
        line.append(key, "key")
        line.append(f" {meaning}")
        if what:
            line.stylize(action(what), start)
    return line
