"""Files with version 2 of the schema, which monconn made before it stored when a side was heard."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .past import NOON, RUN
from .version_1 import SCHEMA as SCHEMA_1

_END = "\n);\nCREATE INDEX connections_by_time"
SCHEMA = SCHEMA_1.replace(_END, f",\n    facts TEXT,\n    pipe TEXT{_END}").replace(
    "user_version = 1", "user_version = 2"
)


def make_version_2(path: Path) -> None:
    """A file with two connections, which have facts, and the counters of one service."""
    assert "pipe TEXT" in SCHEMA
    db = sqlite3.connect(path)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    db.execute("PRAGMA journal_mode = WAL")
    with db:
        db.executemany(
            "INSERT INTO connections VALUES (NULL, ?, ?, 'web', '192.0.2.1:4711', '192.0.2.1',"
            " x'c0000201', '10.0.0.5:80', ?, ?, 2.0, NULL, NULL, NULL, NULL, NULL, 10, 20,"
            " 'client_closed', 'open', '--', 'client', 'fin', 'fin', NULL, NULL, NULL, NULL, '',"
            " '{\"tag\":\"x\"}', 'splice')",
            [(RUN, number, NOON + number - 2, NOON + number) for number in (1, 2)],
        )
        db.execute("INSERT INTO counters VALUES ('web', 'opened', 2)")
    db.close()
