"""Connections as a table."""

from __future__ import annotations

import attrs

from monconn.faces.cli.render import OF_THE_DEMO, table
from monconn.model.record import ConnectionRecord

RECORD = ConnectionRecord(
    id=7,
    service="web",
    client="192.0.2.7:51312",
    client_ip="192.0.2.7",
    listener=":80",
    backend="10.0.0.5:80",
    opened_at=0.0,
    opened=100.0,
    state="open",
    up=5734,
    down=12,
    last_up=128.0,
)


def connections_table(*records: ConnectionRecord, coloured: bool = False) -> str:
    rows = [record.snapshot(130.0) for record in records]
    return table(OF_THE_DEMO, rows, coloured, 100)


def test_each_connection_is_a_row() -> None:
    other = attrs.evolve(RECORD, id=12, client="[2001:db8::1]:40022", state="half_closed")
    shown = connections_table(RECORD, other).splitlines()
    rows = [line.split() for line in shown if line]
    assert rows[0] == ["ID", "CLIENT", "STATE", "UP", "DOWN", "AGE", "IDLE"]
    assert rows[2] == ["7", "192.0.2.7:51312", "open", "5.6", "KiB", "12", "B", "30.0s", "2.00s"]
    assert rows[3][:3] == ["12", "[2001:db8::1]:40022", "half_closed"]
    assert len(rows) == 4


def test_no_connections_are_a_header() -> None:
    assert "CLIENT" in connections_table()


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" in connections_table(RECORD, coloured=True)
    plain = connections_table(RECORD)
    assert "\x1b" not in plain
    assert not [line for line in plain.splitlines() if line != line.rstrip()]
