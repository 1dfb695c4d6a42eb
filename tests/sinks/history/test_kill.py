"""If it is killed at any time, monconn loses what it has not written yet, and never the file."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import load_totals
from tests import ROOT

from .past import MEBIBYTE

RUNS = 8
WRITER = """
import sys, time
from tests.sinks.history.past import closed
from monconn.model.totals import Totals
from monconn.sinks.history.retention import prune
from monconn.sinks.history.schema import open_for_writing
from monconn.sinks.history.store import write

path, first, max_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
db = open_for_writing(path, max_size)
while True:
    records = [closed(time.time(), id=first + n) for n in range(50)]
    first += 50
    write(db, records, {"web": Totals(first)}, 0)
    print(first, flush=True)
    prune(db, path, 3600.0, max_size, time.time())
"""


def write_and_be_killed(path: Path, first: int, max_size: int, lines: int) -> int:
    """The first connection that was not reported as written."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first), str(max_size)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        reported += writer.stdout.readlines()
    whole = [line for line in reported if line.endswith("\n")]
    return int(whole[-1])


def test_killed_while_writing(tmp_path: Path) -> None:
    path, reported, moments = tmp_path / "history.db", 0, random.Random(7)
    for _ in range(RUNS):
        reported = write_and_be_killed(path, reported, 64 * MEBIBYTE, moments.randrange(1, 60))
        db = open_for_writing(str(path), 64 * MEBIBYTE)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (written,) = db.execute("SELECT max(id) + 1 FROM connections").fetchone()
        assert written in (
            reported,
            reported + 50,
        )  # it may have been killed before it could report
        assert db.execute("SELECT count(*), count(DISTINCT id) FROM connections").fetchone() == (
            written, written,
        )  # fmt: skip
        assert db.execute("SELECT sum(connections) FROM hours").fetchone() == (written,)
        assert load_totals(db)["web"].opened == written
        db.close()
        reported = written


def test_killed_while_removing_rows(tmp_path: Path) -> None:
    path, reported, moments = tmp_path / "history.db", 0, random.Random(11)
    max_size = MEBIBYTE // 4
    for _ in range(RUNS):
        reported = write_and_be_killed(path, reported, max_size, moments.randrange(40, 120))
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (written,) = db.execute("SELECT sum(connections) FROM hours").fetchone()
        assert written in (reported, reported + 50)
        assert db.execute("SELECT count(*) FROM connections").fetchone()[0] <= written
        db.close()
        reported = written
    assert path.stat().st_size <= 2 * max_size
