"""A wall clock that leaps while monconn runs, or is wrong at its start."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from .programs import Monconn, connect, receive, until

# Python reads it at its start: before Twisted, whose timers would go by this clock.
CLOCK = """
import os, time
_true = time.time
def _wall():
    with open({file!r}) as file:
        return _true() + float(file.read() or 0)
time.time = _wall
"""


class WallClock:
    """The wall clock of a program, by how much it is wrong."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "error"
        self.set(0)
        (folder / "sitecustomize.py").write_text(CLOCK.format(file=str(self._file)))
        self.env = {**os.environ, "PYTHONPATH": str(folder)}

    def set(self, error_seconds: float) -> None:
        self._file.with_name("new").write_text(str(error_seconds))
        self._file.with_name("new").replace(self._file)


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    folder = tmp_path / "clock"
    folder.mkdir()
    return WallClock(folder)


def count(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM connections").fetchone()[0])


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_a_leap_delays_nothing(
    how: str,
    launch: Callable[..., Monconn],
    echo_port: int,
    tmp_path: Path,
    wall: WallClock,
) -> None:
    file, log = tmp_path / "history.db", tmp_path / "log.json"
    config = tmp_path / "monconn.yaml"
    web = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}", "max_idle": 1}
    sections = {"history": {"path": str(file)}, "json_log": {"path": str(log)}}
    config.write_text(json.dumps({"services": {"web": web}, **sections}))
    monconn = launch(how, "-c", config, env=wall.env)
    port = monconn.port()
    live = []
    for error_seconds in (0, -3600, 400 * 86400, -400 * 86400):
        wall.set(error_seconds)
        live.append(connect(port))
        live[-1].sendall(b"x")
        assert receive(live[-1], 1) == b"x"
    for client in live:  # a leap neither ends them at once nor leaves them
        assert client.recv(1) == b""
        client.close()
    until(lambda: count(file) == 4)
    wall.set(-3600)
    monconn.send(signal.SIGTERM)
    monconn.status()
    closed = [json.loads(line) for line in log.read_text().splitlines()]
    durations = [each["duration_seconds"] for each in closed if each["event"] == "closed"]
    assert len(durations) == 4
    assert all(1 <= each < 30 for each in durations)
    with closing(sqlite3.connect(file)) as db:
        kinds = [row[0] for row in db.execute("SELECT event FROM events")]
    assert "clock" in kinds
    assert kinds.count("stopped") == 1
