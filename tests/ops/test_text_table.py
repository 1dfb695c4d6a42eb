"""Tables of plain text."""

from __future__ import annotations

import re
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.errors import printable
from monconn.ops.columns import Column, Row
from monconn.ops.text_table import cell_width, text_table, wrapped
from tests.properties import examples

from .test_rows import LISTINGS

COLUMNS = (
    Column("id", "ID", "count", importance=1),
    Column("client", "CLIENT", importance=0),
    Column("up", "UP", "bytes", importance=9),
    Column("reason", "REASON", importance=2),
    Column("detail", "DETAIL", importance=6, width=10),
)
ROWS = [
    {"id": 7, "client": "10.0.0.1:4567", "up": 2048, "reason": "client_closed", "detail": "d" * 30},
    {"id": 12, "client": "unix:1", "up": 0, "reason": None, "detail": None},
]


def test_as_wide_as_the_rows_need() -> None:
    assert text_table(COLUMNS[:4], ROWS) == [
        "ID  CLIENT              UP  REASON",
        " 7  10.0.0.1:4567  2.0 KiB  client_closed",
        "12  unix:1             0 B  -",
    ]
    assert text_table(COLUMNS[:2], []) == ["ID  CLIENT"]


def test_free_text_is_cut_before_columns_are_left_out() -> None:
    wide = text_table(COLUMNS, ROWS)
    assert max(map(len, wide)) == 73
    assert text_table(COLUMNS, ROWS, 73) == wide
    narrower = text_table(COLUMNS, ROWS, 60)
    assert narrower[1] == f" 7  10.0.0.1:4567  2.0 KiB  client_closed  {'d' * 14}..."
    assert max(map(len, narrower)) == 60


def test_the_least_important_columns_are_left_out_and_addresses_are_never_cut() -> None:
    for width, titles in (
        (53, "ID CLIENT UP REASON DETAIL"),
        (52, "ID CLIENT REASON DETAIL"),
        (41, "ID CLIENT REASON DETAIL"),
        (40, "ID CLIENT REASON"),
        (20, "ID CLIENT"),
        (16, "ID CLIENT"),
        (15, "CLIENT"),
        (1, "CLIENT"),
    ):
        heading, first, _ = text_table(COLUMNS, ROWS, width)
        assert heading.split() == titles.split()
        assert "10.0.0.1:4567" in first
        assert len(first) <= max(width, len("10.0.0.1:4567"))


def test_less_important_columns_leave_for_as_much_free_text_as_is_wanted() -> None:
    columns = (*COLUMNS[:-1], attrs.evolve(COLUMNS[-1], wanted_width=25))
    for width, titles, characters in (
        (70, "ID CLIENT UP REASON DETAIL", 24),
        (64, "ID CLIENT REASON DETAIL", 30),
        (56, "ID CLIENT REASON DETAIL", 19),
        (41, "ID CLIENT REASON DETAIL", 7),  # but it does not leave itself for that
        (40, "ID CLIENT REASON", 0),
    ):
        heading, first, _ = text_table(columns, ROWS, width)
        assert heading.split() == titles.split()
        shown = first.removesuffix("...")
        # Without a detail, the reason ends with a d: client_closed.
        assert len(shown) - len(shown.rstrip("d")) == (characters or 1)


def test_wide_characters_and_control_characters() -> None:
    assert [cell_width(each) for each in ("abc", "é", "e\u0301", "日本")] == [3, 1, 1, 4]
    columns = (Column("client", "C"), Column("detail", "DETAIL", width=8))
    both = [{"client": "日本", "detail": "\x1b[2J"}, {"client": "x", "detail": "日" * 9}]
    assert text_table(columns, both, 16) == ["C     DETAIL", "日本  \\x1b[2J", "x     日日日..."]


def test_lines_of_wide_characters_break_by_cells() -> None:
    assert wrapped("日本語 " * 7, 20) == ["日本語 日本語 日本語"] * 2 + ["日本語"]
    assert wrapped("x " + "日" * 25, 20) == ["x " + "日" * 9, "日" * 10, "日" * 6]
    assert wrapped("y" * 19 + " " + "日" * 11, 20) == ["y" * 19, "日" * 10, "日"]


@settings(max_examples=examples(100))
@given(text=st.text("ab é日本\u0301", max_size=200), width=st.integers(20, 90))
def test_wrapped_lines_fit_and_nothing_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(cell_width(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


# -- whatever is in the rows

LONG = st.sampled_from(
    [
        "192.0.2.1:5",
        "[2001:db8:1111:2222:3333:4444:5555:6666]:40022",
        "half_close_timeout",
        "silent, reconnect_storm",
        "unix:/run/a/very/long/path/of/a/socket/that/does/not/fit/anywhere",
        "日本語のサービス",
        "",
    ]
)
TEXTS = LONG | st.text(max_size=60)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "count": st.integers(0, 10**9),
    "bytes": st.integers(0, 1 << 50),
    "bytes_per_second": st.floats(0, 1e12),
    "seconds": st.floats(0, 1e9),
    "time": st.sampled_from(["2020-01-01T00:00:00+00:00", "2026-11-26T09:16:05.065+00:00"]),
    "flag": st.booleans(),
    "list": st.lists(st.sampled_from(["silent", "reconnect_storm"]), max_size=2),
    "object": st.dictionaries(TEXTS, st.integers(), max_size=2),
}


def rows_of(row_class: type[Row]) -> st.SearchStrategy[list[dict[str, Any]]]:
    values = {name: VALUES[column.unit] for name, column in row_class.fields().items()}
    return st.lists(st.fixed_dictionaries({}, optional=values), max_size=4)


@settings(max_examples=examples(150), deadline=None)
@given(st.data(), st.sampled_from(LISTINGS), st.integers(40, 250))
def test_no_line_is_too_long_and_nothing_that_matters_is_cut(
    data: st.DataObject, row_class: type[Row], width: int
) -> None:
    found = data.draw(rows_of(row_class))
    columns = row_class.columns()
    never_leave = [column for column in columns if column.importance == 0]
    lines = text_table(columns, found, width)
    # A value that is longer than a line stands alone on it; there is no better place.
    values = {printable(column.text(row)) for row in found for column in columns}
    assert all(
        cell_width(line) <= width or any(line in (value, f"  {value}") for value in values)
        for line in lines
    )
    plain = "\n".join(lines)
    for column in never_leave:
        assert not found or column.title in plain
        for row in found:
            assert printable(column.text(row)).strip() in plain
    is_table = not found or len(lines) == len(found) + 1
    if is_table:
        assert all(column.title in lines[0] for column in never_leave)


@settings(max_examples=examples(50), deadline=None)
@given(st.data(), st.sampled_from(LISTINGS), st.integers(40, 250))
def test_columns_leave_by_importance(data: st.DataObject, row_class: type[Row], width: int) -> None:
    found = data.draw(rows_of(row_class))
    lines = text_table(row_class.columns(), found, width)
    if len(lines) != len(found) + 1:
        return  # blocks
    columns = row_class.columns()
    stays: set[int] = set()
    gone: set[int] = set()
    for column in columns:
        if column.is_for_some and {column.text(row) for row in found} <= {"-"}:
            continue
        is_there = re.search(rf"(?<!\S){re.escape(column.title)}(?!\S)", lines[0])
        (stays if is_there else gone).add(column.importance)
    if gone:
        assert max(stays) < min(gone)


@given(st.data(), st.sampled_from(LISTINGS), st.integers(40, 250))
def test_colours_change_nothing_else(data: st.DataObject, row_class: type[Row], width: int) -> None:
    found = data.draw(rows_of(row_class))
    plain = text_table(row_class.columns(), found, width)
    painted = text_table(row_class.columns(), found, width, mark)
    assert [line.replace("\x00", "").replace("\x01", "").rstrip() for line in painted] == plain


def mark(column: Column | None, text: str, cell: str) -> str:
    return f"\x00{cell}\x01"


def test_in_a_pipe_every_usual_column_is_there() -> None:
    for row_class in LISTINGS:
        (titles,) = text_table(row_class.columns(), [])
        assert titles == "  ".join(column.title for column in row_class.columns())


def test_figures_stay_beside_a_name_wider_than_the_terminal() -> None:
    columns = [Column("service", "SERVICE", importance=0), Column("total", "TOTAL", importance=1)]
    lines = text_table(columns, [{"service": "n" * 200, "total": "12345"}], 80)
    assert "12345" in "\n".join(lines)
    assert "n" * 200 in "\n".join(lines)
