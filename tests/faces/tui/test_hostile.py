"""The screen under a server whose answers are malformed: it goes on, and says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.faces.tui.header import chart_line, chart_titles, status_line
from monconn.faces.tui.model import Model, Query, Snapshot
from monconn.faces.tui.poller import Lost, Poller, Refused, Update
from monconn.faces.tui.tables import closed_table, device_table, live_table, service_table
from monconn.ops.columns import RowError
from monconn.ops.details import connection_details
from monconn.ops.rows import ConnectionRow, DeviceRow
from tests.properties import examples

from .fake import FakeClient, FakeServer, connection

odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=9)
    | st.sampled_from([10**400, -(10**30), float("nan"), "\x1b[2J", "x" * 9000]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = [
    *ConnectionRow.fields(),
    "sid",
    "uptime",
    "connections",
    "total",
    "refused",
    *DeviceRow.fields(),
]


class Tampered(FakeClient):
    """A client whose answers have other values in each row."""

    def __init__(self, changes: dict[str, Any], left_out: set[str]) -> None:
        super().__init__(FakeServer(3))
        self._changes = changes
        self._left_out = left_out

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        answer = super().call(command, **arguments)
        for key in ("rows", "connection"):
            if key in answer:
                made = json.loads(answer[key])
                rows = made if isinstance(made, list) else [made]
                rows = [self._changed(row) for row in rows]
                answer[key] = json.dumps(rows if isinstance(made, list) else rows[0])
        return answer

    def _changed(self, row: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in row.items() if key not in self._left_out}
        return kept | self._changes


def poll(client: FakeClient, query: Query) -> list[Update]:
    updates: list[Update] = []
    poller = Poller(lambda: client, updates.append, 1.0)
    poller.set_query(query)
    poller.poll()
    return updates


def draw(model: Model) -> None:
    """All that is drawn of a model."""
    model.set_heights(20, 5, 5)
    model.move(1)
    live = live_table(model.trends)
    lines = live.lines(model.rows, 120, selected=model.selected, order=model.order)
    lines += closed_table().lines(model.closed_rows, 80)
    lines += service_table().lines(model.service_rows, 100)
    lines += device_table().lines(model.devices, 100)
    lines += [status_line(model, 80), chart_line(model, 80)]
    assert all(text.isprintable() for text in chart_titles(model, "up", 30))
    assert all(line.plain.isprintable() for line in lines)
    if model.details_row is not None:
        fields = connection_details(model.details_row)
        assert all(name.isprintable() and text.isprintable() for name, text in fields)


@settings(max_examples=examples(120), deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), odd, max_size=3),
    st.sets(st.sampled_from(KEYS), max_size=3),
)
@example({"up": "12"}, set())
@example({"up": None, "up_rate": None, "connections": None}, set())
@example({}, {"id"})
@example({"id": None}, set())
@example({"sid": ["a"]}, set())
@example({"diagnosis": {"looks_like": 1}}, set())
@example({"client_tcp": {"rtt_seconds": "x"}}, set())
@example({"opened_at": "0001-01-01T00:00:00+14:00"}, set())
def test_whatever_rows_a_server_sends_they_are_drawn_or_it_is_lost(
    changes: dict[str, Any], left_out: set[str]
) -> None:
    model = Model()
    for query in (
        Query(limit=9, closed_limit=3),
        Query(devices=True),
        Query(limit=9, details=1),
    ):
        if query.details is not None:
            model.open_details(1) if not model.rows else model.open_details(model.rows[0]["id"])
            query = Query(details=model.details)
        for _ in range(2):
            (update,) = poll(Tampered(changes, left_out), query)
            if isinstance(update, Snapshot):
                model.update(update)
                draw(model)
            else:
                assert isinstance(update, Lost | Refused)
                assert update.message.isprintable()


@pytest.mark.parametrize(
    ("row", "is_right"),
    [
        (connection(1), True),
        (connection(1) | {"new_key": []}, True),
        ({}, True),
        (connection(1) | {"up": 1 << 63}, True),
        (connection(1) | {"client_end": None}, True),
        ([], False),
        ("x", False),
        (connection(1) | {"up": "12"}, False),
        (connection(1) | {"up": 1.5}, False),
        (connection(1) | {"up": True}, False),
        (connection(1) | {"up": 1 << 64}, False),
        (connection(1) | {"age_seconds": float("nan")}, False),
        (connection(1) | {"age_seconds": float("inf")}, False),
        (connection(1) | {"opened_at": "yesterday"}, False),
        (connection(1) | {"client": 7}, False),
        (connection(1) | {"facts": []}, False),
    ],
)
def test_a_row_is_checked(row: Any, is_right: bool) -> None:
    if is_right:
        ConnectionRow.check(row)
    else:
        with pytest.raises(RowError):
            ConnectionRow.check(row)


def test_more_rows_than_can_be_shown() -> None:
    class Endless(FakeClient):
        def call(self, command: str, **arguments: Any) -> dict[str, str]:
            rows = json.dumps([connection(number) | {"sid": "web"} for number in range(100)])
            return {"rows": rows, "total": "1", "next": "1"}

    (update,) = poll(Endless(FakeServer()), Query(limit=9))
    assert isinstance(update, Lost)
    assert "more than 10,000 rows" in update.message
