"""Invented connections, and history files of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monconn.model.record import ConnectionRecord
from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import HOUR_SECONDS, Item, write

HOUR = HOUR_SECONDS
NOON = 1_700_049_600.0
"""2023-11-15T12:00:00+00:00."""
RUN = NOON - 1
MEBIBYTE = 1 << 20


def closed(
    at: float = NOON, ip: str = "192.0.2.1", *, seconds: float = 2.0, **fields: Any
) -> ConnectionRecord:
    """A connection that closed at a time."""
    usual: dict[str, Any] = {
        "id": 1,
        "service": "web",
        "client": f"[{ip}]:4711" if ":" in ip else f"{ip}:4711",
        "client_ip": ip,
        "listener": ":80",
        "backend": "10.0.0.5:80",
        "opened_at": at - seconds,
        "closed_at": at,
        "opened": 100.0,
        "closed": 100.0 + seconds,
        "state": "closed",
        "phase": "open",
        "reason": "client_closed",
        "up": 10,
        "down": 20,
    }
    return ConnectionRecord(**{**usual, **fields})


def refused(at: float = NOON, ip: str = "192.0.2.1", word: str = "blocked", **fields: Any) -> Any:
    """A client that was refused at a time."""
    return closed(at, ip, seconds=0.0, reason=None, refusal=word, up=0, down=0, **fields)


def history(path: Path, items: Iterable[Item] = (), max_size: int = 64 * MEBIBYTE) -> Any:
    """A file that contains the items, open for writing."""
    db = open_for_writing(str(path), max_size)
    write(db, items, {}, RUN)
    return db


def count(db: sqlite3.Connection, table: str) -> int:
    """How many rows a table has."""
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
