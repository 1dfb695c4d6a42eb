"""``monconn forget``: of a running monconn, and of a file."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monconn.faces.cli.main import main
from monconn.sinks.history import schema
from monconn.sinks.history.query import HistoryFilter, connections, events
from tests.faces.cli.test_inspect import Services, with_services
from tests.sinks.history.past import NOON, closed, history
from tests.sinks.history.test_forget import CLIENT, made, traces


def forget(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["forget", *arguments], input=input)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "h.db"
    history(path, [*made(CLIENT), closed(NOON, "192.0.2.9")]).close()
    return path


def test_it_is_not_done_without_yes(path: Path) -> None:
    result = forget(CLIENT, "--file", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "say --yes, or --dry-run" in result.stderr
    assert traces(path, CLIENT)


def test_a_dry_run_of_a_file_counts(path: Path) -> None:
    before = path.read_bytes()
    result = forget(CLIENT, "--file", str(path), "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:5] == [
        f"{CLIENT}: would be removed",
        "  2  connections in the history",
        "  4  events in the history",
        "  1  hourly sum in the history",
        "  0  devices in the history",
    ]
    assert path.read_bytes() == before


def test_a_client_is_removed_from_a_file(path: Path) -> None:
    result = forget(f"{CLIENT}/32", "--file", str(path), "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{CLIENT}: removed\n")
    assert "not removed, as monconn cannot:\n  - lines of logs" in result.stdout
    assert traces(path, CLIENT) == []
    with closing(schema.open_read_only(str(path))) as db:
        assert len(connections(db, HistoryFilter())) == 1
        action = events(db, HistoryFilter())[0]
    assert action["action"] == "forget"
    assert action["detail"].startswith("removed what was stored of a client: connections in the")


def test_json(path: Path) -> None:
    (row,) = json.loads(forget(CLIENT, "--file", str(path), "--yes", "--json").stdout)
    assert row["client"] == CLIENT
    assert row["removed"]["history_connections"] == 2
    assert (row["live"], row["blocks"], row["problem"], row["dry_run"]) == (0, [], "", False)


def test_a_file_that_is_written_or_is_none(path: Path) -> None:
    lock = schema.lock(str(path))
    try:
        result = forget(CLIENT, "--file", str(path), "--yes")
    finally:
        os.close(lock)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "another monconn writes it" in result.stderr
    result = forget(CLIENT, "--file", f"{path}.other", "--yes")
    assert result.stderr.endswith("no such file or directory\n")
    assert not Path(f"{path}.other").exists()
    assert forget("nobody", "--yes").exit_code == 2


@with_services
def test_of_a_running_monconn(services: Services) -> None:
    services.port.on_reactor(services.connections[1].end, "client_closed")
    result = services.monconn("forget", "2001:db8::1", "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  1  closed connection in memory\n" in result.stdout
    assert "live" not in result.stdout
    result = services.monconn("forget", "192.0.2.1", "--dry-run")
    assert "2 live connections of it go on, and are recorded at their end: " in result.stdout
    services.monconn("block", "192.0.2.7", "--service", "web")
    result = services.monconn("forget", "192.0.2.7", "--yes")
    assert "it is blocked at web, by an entry that names it" in result.stdout
    (row,) = services.json("forget", "192.0.2.1", "--yes")
    assert (row["live"], row["removed"]["ips"]) == (2, 2)
