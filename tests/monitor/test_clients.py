from __future__ import annotations

import json
from typing import Any

import pytest

from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.clients import CLIENTS_RETAINED, ClientTotals


def make_record(ip: str, opened_at: float, **fields: Any) -> ConnectionRecord:
    return ConnectionRecord(
        id=1,
        service="",
        client=f"{ip}:1",
        client_ip=ip,
        listener="",
        backend="",
        opened_at=opened_at,
        opened=0.0,
        **fields,
    )


@pytest.fixture
def clients() -> ClientTotals:
    return ClientTotals(retained=3)


def ips(clients: ClientTotals) -> list[str]:
    return [row["ip"] for row in clients.snapshot([])]


def test_snapshot_adds_up_the_closed_and_the_live(clients: ClientTotals) -> None:
    over = make_record("10.0.0.1", 100.0, up=1, down=2, closed_at=130.0, reason="client_reset")
    live = [make_record("10.0.0.1", at, up=10, down=20) for at in (110.0, 120.0)]
    for record in (over, *live):
        clients.opened(record)
    clients.closed(over)
    snapshot = clients.snapshot(live)
    assert snapshot == [
        {
            "ip": "10.0.0.1",
            "connections": 2,
            "total": 3,
            "up": 21,
            "down": 42,
            "first_seen": iso_time(100.0),
            "last_seen": iso_time(130.0),
            "last_reason": "client_reset",
        }
    ]
    assert json.loads(json.dumps(snapshot)) == snapshot


def test_last_reason_is_the_last_ones(clients: ClientTotals) -> None:
    for reason in ("client_closed", "idle_timeout"):
        record = make_record("10.0.0.1", 100.0, closed_at=101.0, reason=reason)
        clients.opened(record)
        clients.closed(record)
    assert clients.snapshot([])[0]["last_reason"] == "idle_timeout"


def test_live_connections_belong_to_their_own_ip(clients: ClientTotals) -> None:
    live = [make_record(ip, 100.0, up=1) for ip in ("10.0.0.1", "10.0.0.2", "10.0.0.2")]
    for record in live:
        clients.opened(record)
    counts = {row["ip"]: (row["connections"], row["up"]) for row in clients.snapshot(live)}
    assert counts == {"10.0.0.1": (1, 1), "10.0.0.2": (2, 2)}


def test_last_seen_comes_first(clients: ClientTotals) -> None:
    records = [make_record(ip, 100.0, closed_at=101.0) for ip in ("a", "b", "c")]
    for record in records:
        clients.opened(record)
    assert ips(clients) == ["c", "b", "a"]
    clients.closed(records[0])
    assert ips(clients) == ["a", "c", "b"]
    clients.opened(make_record("b", 102.0))
    assert ips(clients) == ["b", "a", "c"]


def test_seen_longest_ago_is_forgotten_and_counted(clients: ClientTotals) -> None:
    for ip in ("a", "b", "c", "a", "d", "e"):
        clients.opened(make_record(ip, 100.0))
    assert ips(clients) == ["e", "d", "a"]
    assert (len(clients), clients.forgotten) == (3, 2)


def test_forgotten_ip_begins_anew(clients: ClientTotals) -> None:
    for ip in ("a", "a", "b", "c", "d", "a"):
        clients.opened(make_record(ip, 100.0))
    assert clients.snapshot([])[0]["total"] == 1


def test_end_of_a_forgotten_ips_connection_counts(clients: ClientTotals) -> None:
    record = make_record("a", 100.0, up=5, closed_at=110.0)
    clients.opened(record)
    for ip in ("b", "c", "d"):
        clients.opened(make_record(ip, 100.0))
    clients.closed(record)
    row = clients.snapshot([])[0]
    assert (row["ip"], row["up"]) == ("a", 5)


def test_bound_left_out() -> None:
    clients = ClientTotals()
    for number in range(CLIENTS_RETAINED + 5):
        clients.opened(make_record(str(number), 100.0))
    assert CLIENTS_RETAINED == 10_000
    assert (len(clients), clients.forgotten) == (10_000, 5)
