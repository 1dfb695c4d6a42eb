"""What the live view asks for, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from monconn.errors import printable
from monconn.faces.tui import format as words
from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.cursor import Cursor
from monconn.faces.tui.model import (
    MOST_ROWS,
    ORDERS,
    STATES,
    Answer,
    Model,
    parse_filter,
)
from monconn.faces.tui.status import heights
from monconn.faces.tui.tables import closed_table, live_table
from monconn.model.reasons import STATES as STATES_OF_THE_SERVER
from monconn.ops.operations import ORDERS as ORDERS_OF_THE_SERVER

from .fake import closed, connection


def rows(*ids: int) -> list[dict[str, Any]]:
    return [connection(each) for each in ids]


def answered(model: Model, *ids: int, **others: Any) -> None:
    question = model.question()
    assert question is not None
    model.take(Answer(question, pid=1, rows=rows(*ids), **{"at": 1.0, **others}))


@pytest.fixture
def model() -> Model:
    model = Model()
    model.set_heights(3, 2)
    return model


def service(name: str, up: int, down: int) -> dict[str, Any]:
    return {"sid": name, "connections": 1, "total": 2, "refused": 0, "up": up, "down": down}


def test_words_are_the_servers() -> None:
    assert set(ORDERS) <= set(ORDERS_OF_THE_SERVER)
    assert STATES == STATES_OF_THE_SERVER


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("", "none", ""),
        ("  ", "none", ""),
        ("10.0.0.0/8", "client", "10.0.0.0/8"),
        (" 2001:db8::1 ", "client", "2001:db8::1"),
        ("10.0.", "text", "10.0."),
        ("half_closed", "state", "half_closed"),
        ("web", "service", "web"),
        ("we", "text", "we"),
        ("open", "state", "open"),
        ("service=open", "service", "open"),
        ("client=10.1.2.3", "client", "10.1.2.3"),
        ("state=web", "text", "state=web"),
    ],
)
def test_filter_is_the_servers_where_it_can_be(text: str, kind: str, value: str) -> None:
    found = parse_filter(text, ["web", "open"])
    assert (found.kind, found.value) == (kind, value)


def test_asks_for_a_page_more_than_fits(model: Model) -> None:
    question = model.question()
    assert question is not None
    assert (question.order, question.limit, question.closed_limit) == ("rate", 6, 2)


def test_never_asks_for_more_than_the_most(model: Model) -> None:
    for _ in range(400):
        question = model.question()
        assert question is not None
        answered(model, *range(1, question.limit + 1))
        model.move(3)
    assert question is not None
    assert question.limit == MOST_ROWS


def test_paused_asks_for_nothing_and_keeps_the_picture(model: Model) -> None:
    answered(model, 1, 2)
    question = model.question()
    model.paused = True
    assert model.question() is None
    assert question is not None
    model.take(Answer(question, 2.0, rows=rows(3)))
    assert [row["id"] for row in model.rows] == [1, 2]


def test_another_order_ends_the_pause(model: Model) -> None:
    model.paused = True
    model.next_order()
    assert (model.order, model.paused) == ("down", False)
    model.next_order(-2)
    assert model.order == "id"


def test_trends_are_kept_for_what_is_shown_only(model: Model) -> None:
    answered(model, 1, 2)
    answered(model, 2, 3)
    assert len(model.trends) == 2
    assert list(model.trends.of(2)) == [220.0, 220.0]
    assert list(model.trends.of(1)) == []


def test_trends_are_bounded(model: Model) -> None:
    for _ in range(1000):
        answered(model, 1)
    assert len(model.trends.of(1)) == 120


def test_another_program_has_other_connections_by_the_same_ids(model: Model) -> None:
    answered(model, 1)
    question = model.question()
    assert question is not None
    model.take(Answer(question, 2.0, pid=2, rows=rows(1)))
    assert len(model.trends.of(1)) == 1


def test_rates_of_services_and_of_all_of_them(model: Model) -> None:
    answered(model, services=[service("a", 0, 0), service("b", 100, 100)], at=1.0)
    answered(model, services=[service("a", 10, 20), service("b", 50, 300)], at=3.0)
    assert model.service_trends.of(("a", "up"))[-1] == 5.0
    assert model.service_trends.of(("b", "up"))[-1] == 0.0  # somebody reset it
    assert model.service_trends.of(("", "down"))[-1] == 110.0
    assert [row["title"] for row in model.service_rows(5)] == ["a", "b", "all 2"]
    assert [row["title"] for row in model.service_rows(2)] == ["a", "all 2"]
    assert model.live_count == 2


def test_details_take_over_and_give_back(model: Model) -> None:
    answered(model, 1, 2)
    model.open_details(2)
    assert model.shown_details == connection(2)
    question = model.question()
    assert question is not None
    assert question.details == 2
    model.take(Answer(question, 2.0, details=None))
    assert not model.details_known
    assert model.chosen == connection(2)
    model.close_details()
    model.take(Answer(question, 3.0, details=connection(2)))
    assert model.shown_details is None


def test_cursor_stays_with_its_connection_but_on_the_first_row() -> None:
    cursor = Cursor(height=2)
    cursor.follow(rows(5, 6, 7))
    cursor.follow(rows(6, 5, 7))
    assert cursor.chosen(rows(6, 5, 7)) == connection(6)
    cursor.move(1, rows(6, 5, 7))
    cursor.follow(rows(6, 7, 5))
    assert (cursor.index, cursor.top) == (2, 1)
    cursor.follow(rows(6, 7))  # it is gone
    assert cursor.chosen(rows(6, 7)) == connection(7)
    cursor.follow([])
    assert cursor.chosen([]) is None


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200, 400])
def test_lines_are_never_wider_than_the_screen(width: int, model: Model) -> None:
    answered(model, 1, 2)
    for line in live_table(model.trends).lines(model.rows, width, order="rate"):
        assert line.cell_len <= width
    for line in closed_table().lines([closed(1)], width):
        assert line.cell_len <= width


def test_narrow_screens_keep_what_matters(model: Model) -> None:
    titles = live_table(model.trends).lines([], 80)[0].plain.split()
    assert titles == ["ID", "CLIENT", "STATE", "UP/s", "DOWN/s", "TREND", "AGE"]
    titles = live_table(model.trends).lines([], 200)[0].plain.split()
    assert titles[2:4] == ["SERVICE", "BACKEND"]


def test_long_addresses_keep_both_ends(model: Model) -> None:
    client = "[2001:db8:1111:2222:3333:4444:5555:6666]:54321"
    line = live_table(model.trends).lines([connection(1, client=client)], 80)[1].plain
    assert "[2001:db8:…555:6666]:54321"[:8] in line
    assert ":54321" in line


def test_texts_cannot_harm_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n") == "a�[2Jb�"


def test_sparkline() -> None:
    assert words.sparkline([0, 1, 10], 5) == "  ▁▃█"
    assert words.sparkline([0, 0], 2) == "▁▁"
    assert words.sparkline([], 3) == "   "
    assert words.sparkline([1, 2, 3], 0) == ""


@pytest.mark.parametrize("lines", range(1, 100))
def test_heights_fit(lines: int) -> None:
    given = heights(lines, services=9)
    titles = 1 + bool(given.services) + bool(given.closed)
    used = given.services + given.live + given.closed + titles + 3
    assert used == lines or (given.live == 0 and lines < 5)


def test_what_cannot_be_done_is_said() -> None:
    assert plan("c", closed(7)) == "connection 7 has ended already"
    assert plan("b", connection(7, client_ip="unix")) == "connection 7 has no client IP to block"
    assert isinstance(plan("b", closed(7)), Plan)
