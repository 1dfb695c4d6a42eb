"""Files as monconn 0.1 made them, with version 1 of the schema."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .past import NOON, RUN

SCHEMA = """
CREATE TABLE connections (
    entry INTEGER PRIMARY KEY,
    run_started_at REAL NOT NULL,
    id INTEGER NOT NULL,
    service TEXT NOT NULL,
    client TEXT NOT NULL,
    client_ip TEXT NOT NULL,
    client_address BLOB,
    backend TEXT NOT NULL,
    opened_at REAL NOT NULL,
    closed_at REAL NOT NULL,
    duration_seconds REAL NOT NULL,
    connect_seconds REAL,
    first_up_seconds REAL,
    first_down_seconds REAL,
    last_up_seconds REAL,
    last_down_seconds REAL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    reason TEXT NOT NULL,
    phase TEXT NOT NULL,
    code TEXT NOT NULL,
    closed_by TEXT NOT NULL,
    client_end TEXT NOT NULL,
    backend_end TEXT NOT NULL,
    client_rtt_seconds REAL,
    client_retransmits INTEGER,
    backend_rtt_seconds REAL,
    backend_retransmits INTEGER,
    detail TEXT NOT NULL
);
CREATE INDEX connections_by_time ON connections (closed_at);
CREATE INDEX connections_by_client ON connections (client_address, closed_at);
CREATE TABLE events (
    entry INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    service TEXT,
    client TEXT,
    client_ip TEXT,
    client_address BLOB,
    word TEXT,
    over INTEGER NOT NULL,
    count INTEGER NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (at);
CREATE TABLE hours (
    hour INTEGER NOT NULL,
    service TEXT NOT NULL,
    client_ip TEXT NOT NULL,
    reason TEXT NOT NULL,
    client_address BLOB,
    connections INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    PRIMARY KEY (hour, service, client_ip, reason)
) WITHOUT ROWID;
CREATE TABLE refusals (
    hour INTEGER NOT NULL,
    service TEXT NOT NULL,
    refusal TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour, service, refusal)
) WITHOUT ROWID;
CREATE TABLE counters (
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (service, name)
) WITHOUT ROWID;
CREATE TABLE kept (
    name TEXT PRIMARY KEY,
    since REAL NOT NULL
) WITHOUT ROWID;
PRAGMA application_id = 0x6D6F6E63;
PRAGMA user_version = 1;
"""


def make_version_1(path: Path) -> None:
    """A file with two connections and the counters of one service."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    db.execute("PRAGMA journal_mode = WAL")
    with db:
        db.executemany(
            "INSERT INTO connections VALUES (NULL, ?, ?, 'web', '192.0.2.1:4711', '192.0.2.1',"
            " x'c0000201', '10.0.0.5:80', ?, ?, 2.0, NULL, NULL, NULL, NULL, NULL, 10, 20,"
            " 'client_closed', 'open', '--', 'client', 'fin', 'fin', NULL, NULL, NULL, NULL, '')",
            [(RUN, number, NOON + number - 2, NOON + number) for number in (1, 2)],
        )
        db.execute(
            "INSERT INTO hours VALUES (?, 'web', '192.0.2.1', 'client_closed', x'c0000201', 2, 20,"
            " 40)",
            (NOON,),
        )
        db.execute("INSERT INTO counters VALUES ('web', 'opened', 2)")
    db.close()
