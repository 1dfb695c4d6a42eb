"""Rows: their JSON, and their columns in tables."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest

from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.model.actions import OWN_CODE, Action, Actor
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord
from monconn.ops import rows
from monconn.ops.columns import Column, Row, format_value
from monconn.ops.details import connection_details, detail_lines
from monconn.ops.feed import connection_row
from monconn.ops.operations import Operations
from monconn.ops.rates import Rates
from monconn.ops.text_table import text_table
from monconn.sinks.history.query import CONNECTION_KEYS, EVENT_KEYS
from monconn.units import local_time

from .world import World
from .world import rows as rows_of

ROW_CLASSES = [
    each
    for each in vars(rows).values()
    if isinstance(each, type) and issubclass(each, Row) and each is not Row
]
TCP = bytes(232)


def full_record() -> ConnectionRecord:
    """A closed connection of which everything is known."""
    record = ConnectionRecord(
        7, "web", "192.0.2.1:5", "192.0.2.1", ":80", "10.0.0.5:80", 1_700_000_000.0, 100.0
    )
    record.connected, record.first_up, record.first_down = 100.5, 101.0, 101.25
    record.up, record.down, record.last_up, record.last_down = 10, 20, 102.0, 103.0
    record.client_tcp = record.backend_tcp = TCP
    record.set_fact("mqtt_client_id", "sensor-7")
    record.state = "open"
    record.end("client_reset", 104.0, "ECONNRESET")
    record.state, record.closed, record.closed_at = "closed", 104.5, 1_700_000_004.5
    return record


def live_record() -> ConnectionRecord:
    return ConnectionRecord(
        8, "web", "192.0.2.1:5", "192.0.2.1", ":80", "10.0.0.5:80", 1_700_000_000.0, 100.0
    )


def refused_record() -> ConnectionRecord:
    record = live_record()
    record.refusal, record.state = "blocked", "closed"
    record.closed, record.closed_at = record.opened, record.opened_at
    return record


@pytest.mark.parametrize("make", [live_record, full_record, refused_record])
def test_a_connection_is_its_snapshot_and_its_rates(make: Any) -> None:
    record = make()
    row = connection_row(record, Rates(), 110.0)
    rates = {"up_rate": 0.0, "down_rate": 0.0}
    assert json.dumps(row.to_json()) == json.dumps(record.snapshot(110.0) | rates)


def test_services_clients_and_devices_are_their_snapshots() -> None:
    world = World("web")
    world.connect("web", "192.0.2.1", "192.0.2.2")
    monitor = world.registry.get("web")
    devices = DevicesService(DevicesConfig(), world.registry, world.clock)
    operations = Operations(world.registry, world.clock, devices=devices)
    (service,) = rows_of(operations.services())
    figures = monitor.stats()
    del figures["ips"]  # a list of its own
    assert service.to_json() == figures | {"ip_count": 2}
    clients = [row.to_json() for row in rows_of(operations.clients())]
    assert clients == [
        {"service": "web", **each} for each in monitor.clients.snapshot(monitor.connections())
    ]
    assert [row.to_json() for row in rows_of(operations.devices())] == list(devices.rows())


def test_alarms_and_actions_are_their_dictionaries() -> None:
    alarm = Alarm("silent", "web", "192.0.2.1", 1_700_000_000.0, False, "said nothing")
    assert rows.AlarmRow(**alarm.snapshot()).to_json() == alarm.snapshot()
    action = Action("block", Actor.process(1000, 4242, "alice"), 1.0, None, "192.0.2.0/24", 3)
    assert rows.ActionRow(**action.to_dict()).to_json() == action.to_dict()


def test_history_rows_have_the_columns_of_csv() -> None:
    assert tuple(rows.HistoryConnectionRow.fields()) == CONNECTION_KEYS
    assert tuple(rows.HistoryEventRow.fields()) == EVENT_KEYS


@pytest.mark.parametrize("row_class", ROW_CLASSES, ids=lambda each: each.__name__)
def test_every_column_of_a_table_is_of_a_field(row_class: type[Row]) -> None:
    columns = row_class.columns()
    assert len({column.title for column in columns}) == len(columns)
    for column in columns:
        assert column.value is not None or column.name in row_class.fields()
        assert column.width > 0
        assert column.title == column.title.upper()
    assert [each.name for each in attrs.fields(row_class)] == list(row_class.fields())


LISTINGS: list[type[Row]] = [
    rows.ServiceRow,
    rows.ConnectionRow,
    rows.ClosedConnectionRow,
    rows.ClientRow,
    rows.DeviceRow,
    rows.BlockRow,
    rows.HistoryConnectionRow,
    rows.HistoryEventRow,
]


@pytest.mark.parametrize("row_class", LISTINGS, ids=lambda each: each.__name__)
def test_every_column_of_a_listing_says_what_it_means(row_class: type[Row]) -> None:
    for name, column in row_class.known_columns().items():
        assert column.help.endswith("."), name
        assert len(column.help) <= 52, name  # beside its name in 80 columns
        # A title that people see counts more than a field that they don't.
        assert name == "ips" or row_class.find_column(name) is column
    for column in row_class.columns():
        assert row_class.find_column(column.title) == column
        assert row_class.find_column(column.title.lower().replace(" ", "_")) == column
    assert row_class.find_column("colour") is None


def test_the_usual_table_of_services_has_what_dry_runs_say_where_there_are_any() -> None:
    service = {"sid": "web", "state": "running", "connections": 1, "refused": 0}
    columns = rows.ServiceRow.columns()
    titles, row = text_table(columns, [service | {"would_refuse": {"per_ip_rate": 3}}], 80)
    assert "REFUSED  WOULD REFUSE" in titles
    assert "per_ip_rate 3" in row
    assert "WOULD" not in text_table(columns, [service | {"would_refuse": {}}], 80)[0]


@pytest.mark.parametrize("row_class", [rows.ConnectionRow, rows.ClosedConnectionRow])
def test_a_listing_offers_no_column_that_only_show_can_fill(row_class: type[Row]) -> None:
    in_csv = [column.name for column in row_class.csv_columns()]
    for name in ("community_id", "backend_community_id", "diagnosis"):
        assert name in row_class.fields()
        assert row_class.find_column(name) is None
        assert name not in row_class.known_columns()
        assert name not in in_csv


def test_details_say_all_that_a_row_knows() -> None:
    """Whatever fields rows will have."""
    for name, column in rows.ConnectionRow.fields().items():
        if name in ("phase", "diagnosis", "client_ip", "duration_seconds"):
            continue  # beside another one, or the same as one
        sample: dict[str, Any] = {
            "text": "a sample",
            "time": "2020-01-01T00:00:00+00:00",
            "object": {"sample": 7},
            "list": ["a sample"],
        }
        value = sample.get(column.unit, 7)
        if name.endswith("_tcp"):
            value = full_record().snapshot(110.0)[name]
        given = {"up": 7, "down": 7, name: value, "state": "open"}
        without = {key: each for key, each in given.items() if key != name}
        assert list(connection_details(given)) != list(connection_details(without)), name


def test_details_have_counts_with_separators() -> None:
    tcp = full_record().snapshot(110.0)["client_tcp"]
    values = {"state": "open", "client_tcp": {**tcp, "retransmits": 1004, "segments_sent": 31_357}}
    text = dict(filter(None, connection_details(values)))["client TCP"]
    assert "sent again 1,004 of 31,357 segments" in text


def test_details_have_no_dictionaries_or_lists_and_empty_lines_only_between_groups() -> None:
    for record in (full_record(), live_record(), refused_record()):
        row = connection_row(record, Rates(), 110.0)
        row = attrs.evolve(row, diagnosis={"looks_like": "nothing slow", "because": ["a", "b"]})
        lines = detail_lines({**row.to_json(), "shape": {"a": 1}, "sizes": [1, 2]}, 80)
        text = "\n".join(lines)
        assert not set("{}[]") & set(text)
        assert max(map(len, lines)) <= 80
        assert lines[0].startswith("id ")
        assert "\n\n\n" not in text
        assert lines[-1].split() == ["sizes", "1,", "2"]


@pytest.mark.parametrize("row_class", ROW_CLASSES, ids=lambda each: each.__name__)
def test_rows_are_frozen(row_class: type[Row]) -> None:
    row = row_class(**dict.fromkeys(row_class.fields()))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(row, next(iter(row_class.fields())), 1)


@pytest.mark.parametrize(
    ("unreachable", "text"),
    [
        ({}, ""),
        ({"client": 12.34}, "client unreachable for 12.3s"),
        ({"backend": 245.0}, "backend unreachable for 4m05s"),
        ({"client": 4.0, "backend": 12.0}, "both unreachable for 12.0s"),
    ],
)
def test_a_side_that_is_unreachable_is_in_the_state(
    unreachable: dict[str, float], text: str
) -> None:
    record = live_record()
    record.state, record.client_heard = "half_closed", 90.0
    for side, seconds in unreachable.items():
        setattr(record, f"{side}_unreachable", 110.0 - seconds)
    row = connection_row(record, Rates(), 110.0)
    assert row.state == row.to_json()["state"] == "half_closed"
    titles, line = text_table(rows.ConnectionRow.columns(), [row.to_json()])
    assert line[titles.index("STATE") :].startswith(text or "half_closed")
    assert (titles.split()[-2:], line.split()[-2:]) == (["HEARD", "PROTOCOL"], ["20.0s", "-"])
    details = dict(connection_details(row))
    assert details["state"] == f"half_closed, {text}".removesuffix(", ")
    narrow = text_table(rows.ConnectionRow.columns(), [row.to_json()], 80)
    assert (text or "half_closed") in narrow[1]
    assert {"ID", "CLIENT", "SERVICE", "STATE", "IDLE"} <= set(narrow[0].split())


def test_one_that_has_closed_is_not_called_unreachable() -> None:
    record = full_record()
    record.client_unreachable = 101.0
    row = connection_row(record, Rates(), 110.0)
    assert row.client_unreachable_seconds == 3.5
    assert dict(connection_details(row))["state"] == "closed"


def test_a_table_is_made_of_rows_or_of_their_json() -> None:
    row = connection_row(full_record(), Rates(), 110.0, rows.ClosedConnectionRow)
    columns = rows.ClosedConnectionRow.columns()
    assert [column.title for column in columns] == [
        *(
            "ID",
            "CLIENT",
            "NAME",
            "SERVICE",
            "REASON",
            "CODE",
            "UP",
            "DOWN",
            "LASTED",
            "CLOSED",
            "PROTOCOL",
        ),
        "DETAIL",
    ]
    assert [column.align for column in columns[:7]] == ["right", *["left"] * 5, "right"]
    cells = [column.text(row) for column in columns]
    assert cells[:6] == ["7", "192.0.2.1:5", "sensor-7", "web", "client_reset", "CD"]
    assert cells[6:9] == ["10 B", "20 B", "4.50s"]
    assert [column.text(row.to_json()) for column in columns] == cells


@pytest.mark.parametrize("kind", [rows.ConnectionRow, rows.ClosedConnectionRow])
def test_a_listing_has_names_where_there_are_any(kind: type[rows.ConnectionRow]) -> None:
    nameless, named = live_record(), live_record()
    named.facts["mqtt_client_id"] = "pump-3"
    listed = [connection_row(record, Rates(), 110.0, kind) for record in (nameless, named)]
    assert "NAME" not in text_table(kind.columns(), listed[:1], 200)[0].split()
    titles, first, second = text_table(kind.columns(), listed, 80)
    place = titles.index("NAME")
    assert first[place:].split()[0] == "-"
    assert second[place:].split()[0] == "pump-3"
    asked = kind.find_column("mqtt_client_id")
    assert asked is not None
    assert kind.find_column("name") == asked
    assert text_table([attrs.evolve(asked, importance=0)], listed[:1]) == ["NAME", "-"]


def test_a_long_name_of_a_clients_own_is_cut() -> None:
    record = live_record()
    record.facts["mqtt_client_id"] = "x" * 200
    row = connection_row(record, Rates(), 110.0)
    with_name = text_table(rows.ConnectionRow.columns(), [row], 80)
    assert "xxxxx..." in with_name[1]
    assert {"IDLE", "UP", "DOWN", "STATE", "SERVICE"} <= set(with_name[0].split())
    assert max(map(len, with_name)) <= 80


def test_a_client_reads_rows_of_a_newer_server() -> None:
    sent = connection_row(live_record(), Rates(), 110.0).to_json()
    assert rows.ConnectionRow.of(sent | {"colour": "green"}).to_json() == sent
    with pytest.raises(TypeError):
        rows.ConnectionRow.of({"id": 1})


@pytest.mark.parametrize(
    ("event", "who", "what"),
    [
        ({"event": "started"}, "-", "started"),
        ({"event": "lost", "count": 5}, "-", "lost 5"),
        ({"event": "alarm", "alarm": "silent", "over": True, "device": "a"}, "a", "silent is over"),
        ({"event": "refused", "client": "b", "refusal": "rate", "count": 1}, "b", "rate"),
        ({"event": "action", "action": "block", "actor": "uid 0", "count": 2}, "-", "block"),
    ],
)
def test_each_event_has_its_actor_and_subject(event: dict[str, Any], who: str, what: str) -> None:
    by_title = {column.title: column for column in rows.HistoryEventRow.columns()}
    row = rows.HistoryEventRow.of({"at": "2026-01-01T00:00:00.000+00:00", **event})
    for given in (event, row):
        assert by_title["CLIENT"].text(given) == who
        assert by_title["WHAT"].text(given) == what


def test_refusals_counted_together_have_no_client() -> None:
    row = rows.HistoryEventRow(event="refused", at="x", service="web", refusal="rate", count=9)
    assert row.to_json()["client"] is None
    assert row.to_json()["client_ip"] is None


def test_clients_of_several_services_are_added_up() -> None:
    def row(service: str, ip: str, last_seen: str, reason: str | None) -> rows.ClientRow:
        return rows.ClientRow(
            service=service,
            ip=ip,
            connections=1,
            total=2,
            up=3,
            down=4,
            first_seen=last_seen,
            last_seen=last_seen,
            last_reason=reason,
        )

    given = [row("a", "1", "t1", "x"), row("b", "2", "t2", None), row("b", "1", "t3", "y")]
    first, second = rows.sum_by_ip(given)
    assert (first.ip, first.connections, first.total, first.up, first.down) == ("1", 2, 4, 6, 8)
    assert (first.first_seen, first.last_seen, first.last_reason) == ("t1", "t3", "y")
    assert "service" not in first.to_json()
    assert second.ip == "2"
    # At the service where it was seen last, none of its connections has ended yet.
    (only,) = rows.sum_by_ip([row("a", "1", "t1", "x"), row("b", "1", "t2", None)])
    assert (only.last_seen, only.last_reason) == ("t2", "x")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "bytes", "-"),
        ("", "text", "-"),
        (0, "count", "0"),
        (2048, "bytes", "2.0 KiB"),
        (0.4, "bytes_per_second", "-"),
        (2048.7, "bytes_per_second", "2.0 KiB/s"),
        (61.0, "seconds", "1m01s"),
        ([], "list", "-"),
        (["a", "b"], "list", "a, b"),
        (False, "flag", "no"),
        ({"rate": 2}, "object", "rate 2"),
    ],
)
def test_values_are_formatted_by_their_unit(value: Any, unit: Any, text: str) -> None:
    assert format_value(value, unit) == text


def test_a_time_of_another_day_has_its_date() -> None:
    assert len(local_time("2001-01-01T12:00:00.000+00:00")) == len("2001-01-01 12:00:00")


def test_a_column_can_be_titled_anew() -> None:
    titles = [each.title for each in rows.ConnectionRow.columns("id", "pipe")]
    assert titles == ["ID", "PIPE"]
    assert isinstance(rows.ConnectionRow.columns()[0], Column)


def test_actions_of_own_code_have_that_actor() -> None:
    assert OWN_CODE.describe() == "own code"


def test_on_80_columns_a_device_has_its_service() -> None:
    columns = rows.DeviceRow.columns()
    row = dict.fromkeys(rows.DeviceRow.fields()) | {
        "device": "192.0.2.7",
        "service": "mqtt",
        "connections": 1,
        "total": 3,
        "reconnect_seconds": 60.0,
        "heartbeat_seconds": 10.0,
        "silent_seconds": 4.0,
        "up": 1000,
        "down": 1000,
        "last_seen": "2026-01-01T00:00:00.000+00:00",
        "last_reason": "client_closed",
        "alarms": ["silent"],
    }
    titles, line = text_table(columns, [row], 80)
    assert titles.split()[:2] == ["DEVICE", "SERVICE"]
    assert line.split()[:2] == ["192.0.2.7", "mqtt"]
    assert line.endswith("silent")


def test_on_80_columns_an_action_of_the_history_says_what_was_done() -> None:
    actor = f"ssh key SHA256:{'x' * 43} (user root)"
    event = {
        "at": datetime.now().astimezone().isoformat(),
        "event": "action",
        "action": "block",
        "actor": actor,
        "detail": f"blocked 10.0.0.0/8 at all services, ended 0 connections for {actor}",
    }
    titles, line = text_table(rows.HistoryEventRow.columns(), [event], 80)
    assert titles.split() == ["AT", "EVENT", "SERVICE", "CLIENT", "WHAT", "DETAIL"]
    assert "block" in line
    assert "blocked 10.0.0.0/8 at all services" in line


def test_what_is_left_of_a_pause_has_no_more_precision_than_it_is_written_with() -> None:
    until = datetime.now(timezone.utc) + timedelta(seconds=5.4)
    text = rows.service_state_text({"state": "paused", "paused_until": until.isoformat()})
    word, left = text.split()
    assert (word, left[-1]) == ("paused", "s")
    assert 5.0 < float(left[:-1]) <= 5.4
