"""The order of listings: at the server, at a client, and alike."""

from __future__ import annotations

from typing import Any

import pytest

from monconn.errors import QuestionError
from monconn.ops.columns import Row
from monconn.ops.rates import Rates
from monconn.ops.record_keys import record_key
from monconn.ops.rows import (
    ClosedConnectionRow,
    ConnectionRow,
    DeviceRow,
    HistoryConnectionRow,
    HistoryEventRow,
    ServiceRow,
)
from monconn.ops.sorting import Sort, parse_sort, sort_key, sort_names, sorted_rows
from tests.ops.test_rows import full_record, live_record
from tests.ops.world import World


@pytest.mark.parametrize(
    ("text", "row_class", "fields", "is_descending"),
    [
        ("up", ConnectionRow, ("up",), True),
        ("-up", ConnectionRow, ("up",), False),
        ("id", ConnectionRow, ("id",), False),
        ("idle", ConnectionRow, ("idle_seconds",), True),
        ("idle_seconds", ConnectionRow, ("idle_seconds",), True),
        ("closed", ClosedConnectionRow, ("closed_at",), True),
        ("lasted", ClosedConnectionRow, ("duration_seconds",), True),
        ("client", ConnectionRow, ("client",), False),
        ("-client", ConnectionRow, ("client",), True),
        ("rate", ConnectionRow, ("up_rate", "down_rate"), True),
        ("silent for", DeviceRow, ("silent_seconds",), True),
        ("COMES_EVERY", DeviceRow, ("reconnect_seconds",), True),
        ("now", ServiceRow, ("connections",), True),
        ("what", HistoryEventRow, ("what",), False),
    ],
)
def test_orders(
    text: str, row_class: type[Row], fields: tuple[str, ...], is_descending: bool
) -> None:
    assert parse_sort(text, row_class) == Sort(fields, is_descending)


@pytest.mark.parametrize(
    ("text", "row_class"),
    [
        ("colour", ConnectionRow),
        ("", ConnectionRow),
        ("-", ConnectionRow),
        ("facts", ConnectionRow),
        ("rate", HistoryConnectionRow),
        ("alarms", DeviceRow),
    ],
)
def test_what_is_no_order_is_an_error_that_names_those_that_are(
    text: str, row_class: type[Row]
) -> None:
    with pytest.raises(QuestionError) as caught:
        parse_sort(text, row_class)
    assert ", ".join(sort_names(row_class)) in str(caught.value)


def test_every_name_that_an_error_names_is_an_order() -> None:
    for row_class in (ConnectionRow, ClosedConnectionRow, DeviceRow, HistoryEventRow, ServiceRow):
        for name in sort_names(row_class):
            parse_sort(name, row_class)


def test_digits_in_texts_are_numbers() -> None:
    texts = ["10.0.0.10:7", "10.0.0.9:80", "10.0.0.9:8", "unix:12", "[2001:db8::1]:5", "", "9" * 60]
    ordered = sorted(texts, key=sort_key)
    assert ordered.index("10.0.0.9:8") < ordered.index("10.0.0.9:80") < ordered.index("10.0.0.10:7")
    assert sort_key(5) == 5
    assert sort_key(None) is None


def test_rows_without_a_value_come_last_either_way() -> None:
    rows: list[dict[str, Any]] = [
        {"device": "a", "silent_seconds": None},
        {"device": "b", "silent_seconds": 1.0},
        {"device": "c", "silent_seconds": 2.0},
    ]
    for text, order in (("silent", "cba"), ("-silent", "bca"), ("device", "abc")):
        found = sorted_rows(rows, parse_sort(text, DeviceRow), DeviceRow)
        assert "".join(row["device"] for row in found) == order


@pytest.mark.parametrize("name", [*sort_names(ConnectionRow), *sort_names(ClosedConnectionRow)])
def test_a_server_sorts_records_as_a_client_sorts_their_rows(name: str) -> None:
    world = World("web", "mqtt")
    made = world.connect("web", "192.0.2.10", "192.0.2.9", "2001:db8::1")
    made += world.connect("mqtt", "192.0.2.9", "192.0.2.3")
    for number, each in enumerate(made):
        record = each.record
        record.up, record.down = number * 7 % 5, number * 3 % 5
        record.connected = record.opened + 0.001 * (number * 2 % 5)
        record.opened -= number * 3 % 4
        record.opened_at += number * 3 % 5
        record.client_heard = None if number == 2 else record.opened + number * 4 % 5
        record.last_up = None if number == 1 else record.opened + number % 3
        record.backend_end = "fin" if number == 3 else "none"
        if number != 1:
            record.set_fact("protocol", ("tls", 7, "http")[number % 3])
            record.set_fact("mqtt_client_id", ("pump-10", 7, "pump-9", "")[number % 4])
    for text in (name, f"-{name}"):
        found = list(world.result(world.operations.connections(sort=text)).rows)
        again = sorted_rows(
            sorted(found, key=lambda row: row.id), parse_sort(text, ConnectionRow), ConnectionRow
        )
        assert found == again


def test_every_order_of_connections_has_a_value_of_a_record() -> None:
    rates = Rates()
    for record in (full_record(), live_record()):
        for name in sort_names(ClosedConnectionRow):
            record_key(parse_sort(name, ClosedConnectionRow), rates, 110.0)(record)


def test_the_first_of_many_are_the_first_of_all() -> None:
    world = World("web")
    made = world.connect("web", *(f"10.0.{n >> 8}.{n & 255}" for n in range(5000)))
    for number, each in enumerate(made):
        each.record.up = number * 7919 % 5000
    listing = world.result(world.operations.connections(sort="up", limit=3, offset=1))
    assert [row.up for row in listing.rows] == [4998, 4997, 4996]
    assert listing.total == 5000
    listing = world.result(world.operations.connections(sort="-client", limit=2))
    assert [row.client_ip for row in listing.rows] == ["10.0.19.135", "10.0.19.134"]


def test_closed_ones_are_sorted_by_their_reason() -> None:
    world = World("web")
    for each, reason in zip(
        world.connect("web", "10.0.0.1", "10.0.0.2", "10.0.0.3"),
        ("operator", "client_lost", "stopping"),
        strict=True,
    ):
        each.end(reason)  # type: ignore[arg-type]
    listing = world.result(world.operations.connections(sort="reason", closed=True))
    assert [row.reason for row in listing.rows] == ["client_lost", "operator", "stopping"]
