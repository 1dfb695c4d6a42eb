"""Connections as people want to read them."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from monconn.core.record import ConnectionRecord
from monconn.units import format_bytes, format_duration

_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("ID", "right"),
    ("CLIENT", "left"),
    ("STATE", "left"),
    ("UP", "right"),
    ("DOWN", "right"),
    ("AGE", "right"),
    ("IDLE", "right"),
)
_WIDTH = 100


def connections_table(records: Iterable[ConnectionRecord], now: float, coloured: bool) -> str:
    """Live connections as a table.

    :param now: monotonic seconds.
    :param coloured: whether the reader is a terminal.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, side in _COLUMNS:
        table.add_column(title, justify=side)
    for record in records:
        table.add_row(
            str(record.id),
            record.client,
            record.state,
            format_bytes(record.up),
            format_bytes(record.down),
            format_duration(record.age_seconds(now)),
            format_duration(record.idle_seconds(now)),
        )
    return _as_text(table, coloured)


def _as_text(table: Table, coloured: bool) -> str:
    out = io.StringIO()
    Console(file=out, force_terminal=coloured, width=_WIDTH).print(table)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
