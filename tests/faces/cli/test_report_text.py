from __future__ import annotations

import time
from typing import Any

import pytest

from monconn.faces.cli.report_text import report

NOTHING: dict[str, Any] = {
    "resolution": "exact",
    "since": "2026-01-31T00:00:00.000+00:00",
    "until": "2026-02-01T00:00:00.000+00:00",
    "kept_since": None,
    "service": None,
    "connections": 0,
    "up": 0,
    "down": 0,
    "refused": 0,
    "reasons": {},
    "refusals": {},
    "alarms": {},
    "lost": 0,
    "clients_by_connections": [],
    "clients_by_bytes": [],
    "hours": [],
    "hours_each": 1,
    "busiest": [],
    "duration_seconds": None,
    "connect_seconds": None,
}


def client(ip: str, connections: int, up: int, down: int = 0) -> dict[str, Any]:
    return {"client_ip": ip, "connections": connections, "up": up, "down": down}


def hour(at: int, connections: int) -> dict[str, Any]:
    iso = f"2026-01-31T{at:02}:00:00.000+00:00"
    return {"at": iso, "connections": connections, "up": 1024 * connections, "down": 0}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def lines(**made: Any) -> list[str]:
    return report(NOTHING | made).splitlines()


def test_nothing_happened() -> None:
    assert lines() == [
        "2026-01-31 00:00:00 to 2026-02-01 00:00:00",
        "",
        "connections  0, refused 0",
        "bytes        up 0 B, down 0 B",
    ]


def test_bars_are_in_proportion() -> None:
    found = lines(reasons={"client_closed": 400, "backend_reset": 100, "error": 1})
    assert found[4:] == [
        "",
        "why they ended",
        f"  client_closed  {'█' * 30}  400",
        f"  backend_reset  {('█' * 7 + '▌').ljust(30)}  100",
        f"  error          {'▏'.ljust(30)}  1",
    ]


def test_clients_by_connections_and_by_bytes() -> None:
    few, many = client("10.0.0.1", 1, 2048, 2048), client("10.0.0.2", 8, 1024)
    found = lines(clients_by_connections=[many, few], clients_by_bytes=[few, many])
    assert found[5] == "clients with most connections"
    assert found[6].endswith("█  8 connections, 1.0 KiB")
    assert found[7] == f"  10.0.0.1  {('█' * 3 + '▊').ljust(30)}  1 connection, 4.0 KiB"
    assert found[9] == "clients with most bytes"
    assert found[10].startswith(f"  10.0.0.1  {'█' * 30}  1 connection")


def test_clients_that_moved_nothing_have_no_bars() -> None:
    assert "clients with most bytes" not in lines(clients_by_bytes=[client("10.0.0.1", 1, 0)])


def test_hours_are_a_chart() -> None:
    counts = [0, 1, 4, 8]
    found = lines(hours=[hour(at, count) for at, count in enumerate(counts)], busiest=[hour(3, 8)])
    assert found[5:] == [
        "connections each hour",
        "  2026-01-31 00:00:00  ▁▃▅█",
        "busiest",
        "  2026-01-31 03:00:00  8 connections, 8.0 KiB",
    ]


def test_a_long_chart_continues_in_the_next_line() -> None:
    points = [hour(1, 1)] * 100
    found = lines(hours=points, hours_each=5)
    assert found[5].startswith("connections each 5 hours")
    assert [len(line) for line in found[6:8]] == [23 + 56, 23 + 44]


def test_limits_of_the_figures_are_reported() -> None:
    found = lines(
        resolution="hours",
        kept_since="2026-01-31T06:00:00.000+00:00",
        service="web",
        lost=7,
        duration_seconds={"mean": 0.0021, "median": 1.5, "p95": 100},
    )
    assert found[0].endswith(" of web")
    assert found[1].startswith("single connections of this time have been deleted")
    assert found[2] == "nothing is stored of the time before 2026-01-31 06:00:00"
    assert "lasted       mean 2.1ms, median 1.50s, p95 1m40s" in found
    assert "not stored   7: more than could be written" in found


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in report(NOTHING | {"service": "\x1b[2J"})
