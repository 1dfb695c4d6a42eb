"""The live view's queries, and what it displays of the answers."""

from __future__ import annotations

import itertools
import re
from datetime import datetime, time
from typing import Any

import pytest

from monconn.errors import printable
from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.charts import Trends, trend
from monconn.faces.tui.cursor import Cursor
from monconn.faces.tui.format import details
from monconn.faces.tui.layout import FOCUSES, Focus, share_out
from monconn.faces.tui.model import (
    MAX_ROWS,
    ORDERS,
    Model,
    Snapshot,
)
from monconn.faces.tui.tables import Table, closed_table, live_table, service_table
from monconn.ops.columns import Row
from monconn.ops.rows import ORDERS as ORDERS_OF_THE_SERVER
from monconn.ops.rows import ClosedConnectionRow, ConnectionRow, ServiceRow

from .fake import closed, connection


def rows(*ids: int) -> list[dict[str, Any]]:
    return [connection(each) for each in ids]


def answered(model: Model, *ids: int, **others: Any) -> None:
    query = model.query()
    assert query is not None
    model.update(Snapshot(query, pid=1, rows=rows(*ids), **{"at": 1.0, **others}))


@pytest.fixture
def model() -> Model:
    model = Model()
    model.set_heights(3, 2)
    return model


def service(name: str, up: int, down: int) -> dict[str, Any]:
    return {"sid": name, "connections": 1, "total": 2, "refused": 0, "up": up, "down": down}


def test_orders_are_among_the_servers() -> None:
    assert set(ORDERS) <= set(ORDERS_OF_THE_SERVER)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("  ", ""),
        ("10.0.0.0/8", "client:10.0.0.0/8"),
        (" 2001:db8::1 ", "client:2001:db8::1"),
        ("10.0.", "10.0."),
        ("10.0.0.3:40", "10.0.0.3:40"),
        ("half_closed", "state:half_closed"),
        ("web", "service:=web"),
        ("we", "we"),
        ("open", "state:open"),
        ("service=open", "service:=open"),
        ("client=10.1.2.3", "client:10.1.2.3"),
        ("state=open", "state:open"),
        (
            "service:we idle:60s.. not:client:10.0.0.0/8",
            "service:we idle:1m.. not:client:10.0.0.0/8",
        ),
        ("'two words'", "'two words'"),
    ],
)
def test_filter_is_that_of_every_listing(model: Model, text: str, canonical: str) -> None:
    answered(model, services=[service("web", 0, 0), service("open", 0, 0)])
    model.filter_by(text)
    assert model.filter_error is None
    query = model.query()
    assert query is not None
    assert query.filter.to_text() == canonical


def test_word_becomes_the_name_of_a_service(model: Model) -> None:
    model.filter_by("web")
    assert model.filter.to_text() == "web"
    answered(model, services=[service("web", 0, 0)])
    assert model.filter.to_text() == "service:=web"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("sevice:mqtt", "did you mean service?"),
        ("idle:5m", "write idle:5m.. for at least"),
        ("state=web", "unknown state"),
        ("state:open 'open", "is not closed"),
        ('backend:"unix', "is not closed"),
        ("not: web", "without a term"),
    ],
)
def test_terms_before_a_mistake_hold(model: Model, typed: str, message: str) -> None:
    model.filter_by("client:10.0.0.0/8")
    model.paused = True
    text = f"client:10.0.0.0/8 {typed}"
    model.filter_by(text)
    assert model.filter_text == text
    assert message in str(model.filter_error)
    assert model.filter.to_text().split()[0] == "client:10.0.0.0/8"
    assert model.paused is ("state:open" not in typed)  # nothing changes but for a term more
    model.filter_by("client:10.0.0.0/9")
    assert model.filter_error is None
    assert model.filter.to_text() == "client:10.0.0.0/9"
    assert not model.paused


def test_too_many_terms_change_nothing(model: Model) -> None:
    model.filter_by("web")
    model.filter_by(" ".join(map(str, range(1000))))
    assert "too many" in str(model.filter_error)
    assert model.filter.to_text() == "web"


def test_asks_for_a_page_more_than_fits(model: Model) -> None:
    query = model.query()
    assert query is not None
    assert (query.order, query.limit, query.closed_limit) == ("rate", 6, 4)


def test_never_asks_for_more_than_the_most(model: Model) -> None:
    for _ in range(400):
        query = model.query()
        assert query is not None
        answered(model, *range(1, query.limit + 1))
        model.move(3)
    assert query is not None
    assert query.limit == MAX_ROWS


def test_paused_asks_for_nothing_and_changes_nothing(model: Model) -> None:
    answered(model, 2, 1)
    query = model.query()
    model.paused = True
    assert model.query() is None
    assert query is not None
    model.update(Snapshot(query, 2.0, rows=rows(3)))
    assert [row["id"] for row in model.rows] == [2, 1]


def test_another_order_ends_the_pause(model: Model) -> None:
    model.paused = True
    model.next_order()
    assert (model.order, model.paused) == ("down", False)
    model.next_order(-2)
    assert model.order == "id"


def test_trends_are_stored_for_visible_rows_only(model: Model) -> None:
    answered(model, 1, 2)
    answered(model, 2, 3)
    assert len(model.trends) == 2
    assert list(model.trends.of(2)) == [220.0, 220.0]
    assert list(model.trends.of(1)) == []


def test_trends_are_bounded(model: Model) -> None:
    for _ in range(1000):
        answered(model, 1)
    assert len(model.trends.of(1)) == 120


def test_another_process_has_other_connections_with_the_same_ids(model: Model) -> None:
    answered(model, 1)
    query = model.query()
    assert query is not None
    model.update(Snapshot(query, 2.0, pid=2, rows=rows(1)))
    assert len(model.trends.of(1)) == 1


def test_rates_of_services_and_of_all_of_them(model: Model) -> None:
    answered(model, services=[service("a", 0, 0), service("b", 100, 100)], at=1.0)
    answered(model, services=[service("a", 10, 20), service("b", 50, 300)], at=3.0)
    assert model.service_trends.of(("a", "up"))[-1] == 5.0
    assert model.service_trends.of(("b", "up"))[-1] == 0.0  # the totals were reset
    assert model.service_trends.of(("", "down"))[-1] == 110.0
    assert [row["sid"] for row in model.service_rows] == ["a", "b"]
    assert [row["down_rate"] for row in model.service_rows] == [10.0, 100.0]
    assert model.service_rows[0]["trend"] == [0.0, 15.0]
    assert model.charts["down"].last == 110.0
    assert model.live_count == 2


def test_details_take_over_and_give_back(model: Model) -> None:
    answered(model, 1, 2)
    model.open_details(2)
    assert model.details_row == connection(2)
    query = model.query()
    assert query is not None
    assert query.details == 2
    model.update(Snapshot(query, 2.0, details=None))
    assert not model.details_known
    assert model.selected == connection(2)
    model.close_details()
    model.update(Snapshot(query, 3.0, details=connection(2)))
    assert model.details_row is None


def test_cursor_follows_its_connection_except_on_the_first_row() -> None:
    cursor = Cursor(height=2)
    cursor.follow(rows(5, 6, 7))
    cursor.follow(rows(6, 5, 7))
    assert cursor.selected(rows(6, 5, 7)) == connection(6)
    cursor.move(1, rows(6, 5, 7))
    cursor.follow(rows(6, 7, 5))
    assert (cursor.index, cursor.top) == (2, 1)
    cursor.follow(rows(6, 7))  # it is gone
    assert cursor.selected(rows(6, 7)) == connection(7)
    cursor.follow([])
    assert cursor.selected([]) is None


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200, 400])
def test_lines_are_never_wider_than_the_screen(width: int, model: Model) -> None:
    answered(model, 1, 2)
    for line in live_table(model.trends).lines(model.rows, width, order="rate"):
        assert line.cell_len <= width
    for line in closed_table().lines([closed(1)], width):
        assert line.cell_len <= width
    answered(model, services=[service("web", 0, 0), service("ssh", 0, 0)])
    for line in service_table().lines(model.service_rows, width):
        assert line.cell_len <= width


def test_narrow_screens_show_the_most_important_columns(model: Model) -> None:
    row = connection(123456, client="192.168.100.200:54321", service="mqtt-prod")

    def titles(width: int, *without: str) -> list[str]:
        table = live_table(model.trends)
        return table.lines([row], width, without=without)[0].plain.split()

    assert titles(80) == ["ID", "CLIENT", "SERVICE", "STATE", "UP/S", "DOWN/S", "IDLE"]
    assert titles(80, "service")[:4] == ["ID", "CLIENT", "STATE", "UP/S"]
    assert titles(97)[-3:] == ["TREND", "AGE", "IDLE"]
    assert titles(200)[2:5] == ["NAME", "SERVICE", "BACKEND"]


@pytest.mark.parametrize("width", [80, 200])
def test_an_unreachable_peer_is_seen_in_the_table(model: Model, width: int) -> None:
    answered(model, 1, 2)
    rows = [{**model.rows[0], "client_unreachable_seconds": 12.3}, *model.rows[1:]]
    _, first, second = live_table(model.trends).lines(rows, width)
    text = "client unreachable for 12.3s" if width == 200 else "unreachable"
    assert f" {text} " in first.plain
    assert "error" in {str(span.style) for span in first.spans}
    assert " unreachable " not in second.plain
    assert ("state", "open, client unreachable for 12.3s", "error") in list(details(rows[0]))


def test_every_column_of_a_listing_is_there(model: Model) -> None:
    def titles(table: Table) -> str:
        return table.lines([], 400)[0].plain

    tables: list[tuple[Table, type[Row]]] = [
        (live_table(model.trends), ConnectionRow),
        (closed_table(), ClosedConnectionRow),
        (service_table(), ServiceRow),
    ]
    for table, row in tables:
        for column in row.columns():
            assert re.search(rf"(^| ){re.escape(column.title)}(▼|▲| |$)", titles(table))


def test_values_are_written_as_in_a_listing(model: Model) -> None:
    answered(model, 7)
    line = live_table(model.trends).lines(model.rows, 400)[1].plain
    for column in ConnectionRow.columns():
        assert column.text(connection(7)).removesuffix("/s") in line


def test_times_have_their_dates_unless_they_are_of_today() -> None:
    row = closed(1, closed_at="2020-01-01T01:02:03+00:00", detail="x")
    at = datetime.fromisoformat(row["closed_at"]).astimezone()
    for width in (80, 200):
        assert f" {at:%Y-%m-%d %H:%M:%S}" in closed_table().lines([row], width)[1].plain
    now = datetime.now().astimezone()
    row = closed(1, closed_at=now.isoformat(), detail="x")
    line = closed_table().lines([row], 80)[1].plain
    assert f" {now:%H:%M:%S}" in line
    assert f"{now:%Y-%m-%d}" not in line or now.time() < time(0, 1)  # midnight in between


def test_who_and_why_are_never_cut_in_80_columns() -> None:
    client = "[2001:db8:1111:2222:3333:4444:5555:6666]:54321"
    row = closed(12345678, client=client, reason="backend_unreachable")
    line = closed_table().lines([row], 80)[1].plain
    assert line.startswith(f"12345678 {client}")
    assert "backend_unreachable" in line
    assert client in live_table(Trends()).lines([connection(1, client=client)], 80)[1].plain


def test_a_column_never_gets_narrower_while_the_same_is_listed(model: Model) -> None:
    table = live_table(model.trends)
    short, long = connection(1, client="10.0.0.1:1"), connection(2, client="192.168.100.200:54321")
    wide = table.lines([long], 120)[0]
    assert table.lines([short], 120)[0] == wide
    table.forget()
    assert table.lines([short], 120)[0] != wide


def test_unused_room_is_for_text_that_needs_it(model: Model) -> None:
    row = connection(1, facts={"mqtt_client": "a-rather-long-name-of-a-sensor-42"})
    assert (
        "a-rather-long-name-of-a-sensor-42" in live_table(model.trends).lines([row], 220)[1].plain
    )


def test_details_have_every_field() -> None:
    found = {
        name: (text, style)
        for name, text, style in details(closed(4, refusal=None, shape={"a": 1}, reason="x_reset"))
    }
    assert found["id"] == ("4", "")
    assert found["down"][0].startswith("212.2 KiB (217,284 bytes)")
    assert found["down"][1] == "down"
    assert found["connected in"] == ("1.2ms", "")
    assert found["opened"][0].endswith("(2026-11-23T01:02:03.456+00:00)")
    assert found["reason"] == ("x_reset", "error")
    assert found["shape"] == ("a 1", "")  # of a newer server


def test_long_addresses_keep_both_ends(model: Model) -> None:
    client = "[2001:db8:1111:2222:3333:4444:5555:6666]:54321"
    line = live_table(model.trends).lines([connection(1, client=client)], 40)[1].plain
    assert "[2001:db8:" in line
    assert ":54321" in line


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"


def test_trend() -> None:
    assert trend([0, 1, 10], 5) == "  ▁▃█"
    assert trend([0, 0], 2) == "▁▁"
    assert trend([], 3) == "   "
    assert trend([1, 2, 3], 0) == ""


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_on_every_screen(columns: int, focus: Focus) -> None:
    for lines, services, live in itertools.product(range(1, 100), (0, 1, 2, 9, 50), (0, 5, 500)):
        given = share_out(columns, lines, services=services, live=live, focus=focus, other_lines=2)
        chart = given.chart and given.chart + given.frame
        used = sum(map(given.height, (given.services, given.closed))) + chart + 2
        assert used + given.live + 1 + given.frame == lines or lines < 3
        assert given.live >= min(3, lines - 3)
        assert given.services <= services


def test_live_connections_get_most_of_a_small_screen() -> None:
    def shared(services: int, live: int, focus: Focus = "live") -> tuple[int, int, int]:
        given = share_out(80, 24, services=services, live=live, focus=focus, other_lines=2)
        return given.services, given.live, given.closed

    assert shared(1, 5000) == (0, 15, 4)
    assert shared(50, 5000) == (4, 10, 4)
    assert shared(50, 5000, "services") == (8, 6, 4)
    assert shared(8, 4) == (8, 4, 6)  # what live ones do not need is for services
    assert shared(2, 4) == (2, 4, 12)  # and then for closed ones


def test_impossible_actions_are_reported() -> None:
    assert plan("c", closed(7)) == "connection 7 has ended already"
    assert plan("b", connection(7, client_ip="unix")) == "connection 7 has no client IP to block"
    assert plan("u", connection(7, client_ip="local")) == "connection 7 has no client IP to unblock"
    assert isinstance(plan("b", closed(7)), Plan)


def test_a_block_holds_on_every_interface() -> None:
    planned = plan("b", connection(7, client_ip="fe80::1%eth0"))
    assert isinstance(planned, Plan)
    assert planned.requests["y"].arguments == {"network": "fe80::1"}
    assert planned.requests["h"].arguments == {"network": "fe80::1", "for_seconds": 3600}
