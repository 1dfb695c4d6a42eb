"""Connections and devices as tables."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import pytest

from monconn.faces.cli.output import print_json
from monconn.faces.cli.render import event_line, table
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord
from monconn.ops.columns import Row
from monconn.ops.details import detail_lines
from monconn.ops.rows import (
    ClosedConnectionRow,
    ConnectionRow,
    DeviceRow,
    HistoryConnectionRow,
    HistoryEventRow,
)

DEMO = ConnectionRow.columns("id", "client", "state", "up", "down", "age_seconds", "idle_seconds")
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
LONG_CLIENT = "[2001:db8:1111:2222:3333:4444:5555:6666]:40022"
LONG_NAME = "a-service-with-a-long-name"


def connections_table(*records: ConnectionRecord, coloured: bool = False) -> str:
    return table(DEMO, [record.snapshot(130.0) for record in records], coloured=coloured)


def test_each_connection_is_a_row() -> None:
    other = attrs.evolve(RECORD, id=12, client="[2001:db8::1]:40022", state="half_closed")
    lines = connections_table(RECORD, other).splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == ["ID", "CLIENT", "STATE", "UP", "DOWN", "AGE", "IDLE"]
    assert rows[1] == ["7", "192.0.2.7:51312", "open", "5.6", "KiB", "12", "B", "30.0s", "2.00s"]
    assert rows[2][:3] == ["12", "[2001:db8::1]:40022", "half_closed"]
    assert len(rows) == 3


def test_no_connections_are_a_header() -> None:
    assert "CLIENT" in connections_table()


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" in connections_table(RECORD, coloured=True)
    plain = connections_table(RECORD)
    assert "\x1b" not in plain
    assert not [line for line in plain.splitlines() if line != line.rstrip()]


def test_colours_leave_the_text_as_it_is() -> None:
    records = [attrs.evolve(RECORD, state=state) for state in ("half_closed", "open", "closing")]
    coloured = connections_table(*records, coloured=True)
    assert "\x1b[36mhalf_closed\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == connections_table(*records)


def test_only_cells_with_a_meaning_are_coloured() -> None:
    row = {"device": "closing", "alarms": ["silent", "reconnect_storm"]}
    coloured = table(DeviceRow.columns("device", "alarms"), [row], coloured=True)
    assert coloured.splitlines()[1] == "closing  \x1b[31msilent, reconnect_storm\x1b[0m"


CONNECTION: dict[str, Any] = {
    "id": 123456,
    "client": LONG_CLIENT,
    "service": LONG_NAME,
    "state": "half_closed",
    "reason": "handshake_timeout",
    "code": "CD",
    "up": 5 << 30,
    "down": 7 << 20,
    "up_rate": 3e6,
    "down_rate": 5e3,
    "age_seconds": 93784.0,
    "idle_seconds": 12.5,
    "duration_seconds": 93784.0,
    "closed_at": "2020-01-01T00:00:00+00:00",
}
DEVICE: dict[str, Any] = {
    "device": "2001:db8:1111:2222::/64",
    "service": LONG_NAME,
    "connections": 2,
    "total": 40_000,
    "reconnect_seconds": 3600.0,
    "heartbeat_seconds": 30.0,
    "silent_seconds": 500.0,
    "up": 5 << 30,
    "down": 7 << 20,
    "last_seen": "2020-01-01T00:00:00+00:00",
    "last_reason": "client_lost",
    "alarms": ["silent", "reconnect_storm"],
}


def test_details_break_between_words_where_a_terminal_is_narrow() -> None:
    why = "a round trip to the client takes 231 ms, and 14 segments were sent again, of 310"
    connection = {"state": "open", "diagnosis": {"looks_like": "slow network", "because": [why]}}
    assert detail_lines(connection)[-1] == f"because     {why}"
    *_, first, second = detail_lines(connection, 80)
    assert first.startswith("because     a round trip")
    assert len(first) <= 80
    assert second.startswith("            ")
    assert len(second) <= 80
    assert f"{first.partition('     ')[2]} {second.strip()}" == why


@pytest.mark.parametrize("width", [80, 70])
@pytest.mark.parametrize(
    ("row_class", "row", "uncut"),
    [
        (ConnectionRow, CONNECTION, ["123456", LONG_CLIENT, "half_closed"]),
        (ClosedConnectionRow, CONNECTION, [LONG_CLIENT, "handshake_timeout"]),
        (HistoryConnectionRow, CONNECTION, [LONG_CLIENT, "handshake_timeout"]),
        (DeviceRow, DEVICE, ["2001:db8:1111:2222::/64", "silent, reconnect_storm"]),
    ],
)
def test_a_narrow_table_leaves_out_columns_and_cuts_no_cell(
    row_class: type[Row], row: dict[str, Any], uncut: list[str], width: int
) -> None:
    titles, line = table(row_class.columns(), [row], width=width).splitlines()
    assert len(line) <= width
    for text in uncut:
        assert text in line
    assert LONG_NAME not in line
    assert "SERVICE" not in titles


@pytest.mark.parametrize("coloured", [False, True])
def test_where_not_even_client_and_reason_fit_each_row_is_a_block(coloured: bool) -> None:
    text = table(ClosedConnectionRow.columns(), [CONNECTION] * 2, width=60, coloured=coloured)
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert (plain != text) == coloured
    block = [
        "ID        123456",
        f"CLIENT    {LONG_CLIENT}",
        f"SERVICE   {LONG_NAME}",
        "REASON    handshake_timeout",
        "CODE      CD",
        "UP        5.0 GiB",
        "DOWN      7.0 MiB",
        "LASTED    1d02h",
        "CLOSED    2020-01-01 00:00:00",
    ]
    assert [each for each in plain.splitlines() if not each.startswith("CLOSED")] == [
        *(block[:-1]),
        "",
        *(block[:-1]),
    ]
    narrow = table(ClosedConnectionRow.columns(), [CONNECTION], width=48).splitlines()
    assert ["CLIENT", f"  {LONG_CLIENT}"] == narrow[1:3]


@pytest.mark.parametrize("row_class", [ClosedConnectionRow, HistoryConnectionRow])
def test_the_reason_stays_in_80_columns(row_class: type[Row]) -> None:
    row = CONNECTION | {"client": "192.0.2.123:51312"}
    for width in (80, 60):
        line = table(row_class.columns(), [row], width=width).splitlines()[-1]
        assert "192.0.2.123:51312" in line
        assert "handshake_timeout" in line
        assert len(line) <= width


def test_the_id_of_a_closed_connection_outlives_its_service_in_80_columns() -> None:
    long = {"client": "192.0.2.123:51312", "service": "mqtt-production", "id": 123456}
    for reason in ("client_lost", "half_close_timeout"):
        row = CONNECTION | long | {"reason": reason}
        titles, line = table(ClosedConnectionRow.columns(), [row], width=80).splitlines()
        assert titles.split()[:3] == ["ID", "CLIENT", "REASON"]
        assert "CLOSED" in titles
        assert line.startswith("123456 ")


EVENT: dict[str, Any] = {"at": "2020-01-01T00:00:00+00:00", "service": "mqtt-production"}
REFUSED = EVENT | {"event": "refused", "client": "192.0.2.123:51312"}


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (REFUSED | {"refusal": "handshake_failed", "detail": "the client offers none"}, "the clie"),
        (
            EVENT | {"event": "action", "action": "close", "detail": "closed 3 connections"},
            "closed",
        ),
        (
            EVENT
            | {"event": "alarm", "alarm": "reconnect_storm", "device": "192.0.2.123", "over": True}
            | {"detail": "connected 14 times in 60 s, usually every 3600 s"},
            "connected",
        ),
        (EVENT | {"event": "started", "detail": "monconn 0.2.0, pid 7"}, "started  monconn 0"),
    ],
)
def test_the_detail_of_an_event_stays_in_80_columns(event: dict[str, Any], shown: str) -> None:
    others = [REFUSED | {"refusal": "blocked", "detail": "x" * 100}]
    text = table(HistoryEventRow.columns(), [event, *others], width=80)
    assert re.search(shown.replace("  ", " +(- +)?"), text.splitlines()[1])
    assert max(map(len, text.splitlines())) <= 80


def test_event_and_service_leave_for_the_detail_of_an_alarm() -> None:
    detail = "no message for 35s, usually every 10s"
    alarm = {"event": "alarm", "alarm": "silent", "device": "192.0.2.123", "detail": detail}
    for width, has_service in ((80, False), (120, True)):
        line = table(HistoryEventRow.columns(), [EVENT | alarm], width=width).splitlines()[1]
        assert line.endswith(detail)
        assert ("mqtt-production" in line) is has_service


CLOSED_EVENT = {
    "event": "closed",
    "at": "2020-01-01T00:00:00+00:00",
    "service": "operator blocked",
    "client": "192.0.2.7:5",
    "reason": "blocked",
    "duration_seconds": 0.0382,
    "up": 2048,
    "down": 0,
}


@pytest.mark.parametrize(
    ("event", "text", "coloured"),
    [
        (
            CLOSED_EVENT,
            "operator blocked: 192.0.2.7:5 blocked after 38ms, up 2.0 KiB, down 0 B",
            "\x1b[33mblocked\x1b[0m after",
        ),
        (
            CLOSED_EVENT | {"reason": "client_reset", "detail": "ECONNRESET"},
            "192.0.2.7:5 client_reset after 38ms, up 2.0 KiB, down 0 B (ECONNRESET)",
            "\x1b[31mclient_reset\x1b[0m after",
        ),
        (
            CLOSED_EVENT | {"reason": "client_closed"},
            "client_closed after 38ms, up 2.0 KiB, down 0 B",
            "",
        ),
        (
            CLOSED_EVENT | {"event": "opened", "id": 5, "would_refuse": ["per_ip_rate", "rate"]},
            "192.0.2.7:5 opened, id 5, would be refused: per_ip_rate, rate (dry_run)",
            "",
        ),
        (
            CLOSED_EVENT | {"event": "refused", "refusal": "ip_limit"},
            "192.0.2.7:5 refused: ip_limit",
            "refused: \x1b[33mip_limit\x1b[0m",
        ),
        (
            Alarm("silent", "mqtt", "192.0.2.7", 0.0, False, "said nothing for 31.0s").snapshot()
            | {"event": "alarm"},
            "mqtt: 192.0.2.7 silent alarm: said nothing for 31.0s",
            "\x1b[31msilent\x1b[0m alarm",
        ),
        (
            Alarm("silent", "mqtt", "192.0.2.7", 0.0, True, "spoke after 31.0s").snapshot()
            | {"event": "alarm"},
            "mqtt: 192.0.2.7 silent is over: spoke after 31.0s",
            "",
        ),
        (
            Alarm("outage", "mqtt", "", 0.0, False, "20 of 40 devices are missing").snapshot()
            | {"event": "alarm"},
            "mqtt: outage alarm: 20 of 40 devices are missing",
            "\x1b[31moutage\x1b[0m alarm",
        ),
    ],
)
def test_events_are_lines_in_the_words_of_the_log(
    event: dict[str, Any], text: str, coloured: str
) -> None:
    line = event_line(event)
    assert line.endswith(text)
    painted = event_line(event, coloured=True)
    assert re.sub(r"\x1b\[\d*m", "", painted) == line
    assert (painted != line) == bool(coloured)
    assert coloured in painted


def test_json_of_a_path_that_is_no_utf_8(capfd: pytest.CaptureFixture[str]) -> None:
    value = {"listen": "unix:/run/caf\udce9", "name": "café"}
    print_json(value)
    text = capfd.readouterr().out
    assert json.loads(text) == value
    assert "café" in text
