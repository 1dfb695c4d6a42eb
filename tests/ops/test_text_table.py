"""Tables of plain text."""

from __future__ import annotations

from monconn.ops.columns import Column
from monconn.ops.text_table import cell_width, text_table

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


def test_wide_characters_and_control_characters() -> None:
    assert [cell_width(each) for each in ("abc", "é", "e\u0301", "日本")] == [3, 1, 1, 4]
    columns = (Column("client", "C"), Column("detail", "DETAIL", width=8))
    rows = [{"client": "日本", "detail": "\x1b[2J"}, {"client": "x", "detail": "日" * 9}]
    assert text_table(columns, rows, 16) == ["C     DETAIL", "日本  \\x1b[2J", "x     日日日..."]
