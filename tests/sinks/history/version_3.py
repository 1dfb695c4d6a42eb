"""Files with version 3 of the schema, which monconn made before connections had uids."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .version_2 import make_version_2


def make_version_3(path: Path) -> None:
    """A file with two connections, as its writer made it of one of version 2."""
    make_version_2(path)
    db = sqlite3.connect(path)
    for side in ("client", "backend"):
        db.execute(f"ALTER TABLE connections ADD COLUMN {side}_last_heard_seconds REAL")
    db.execute("PRAGMA user_version = 3")
    db.close()
