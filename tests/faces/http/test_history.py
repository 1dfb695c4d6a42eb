"""The stored history, as the API has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute

from monconn.faces.http.api_history import cursor_of, read_cursor
from monconn.faces.http.parameters import read_moment
from monconn.model.record import iso_time
from monconn.ops.history_queries import HistoryQueries
from monconn.sinks.history.query import open_read_only
from monconn.sinks.history.store import write
from tests.sinks.history.past import HOUR, NOON, RUN, closed, history, refused

from .api import Api


class HistoryFile:
    """Runs queries on a file at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, query: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        with closing(open_read_only(str(self.path))) as db:
            return execute(query, db)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api("web")
    db = history(tmp_path / "history.db")
    # Several at the same moment, as after a restart of the backend.
    items = [closed(NOON + number // 7, id=number) for number in range(50)]
    write(db, [*items, *(refused(NOON + number // 7) for number in range(20))], {}, RUN)
    file: Any = HistoryFile(tmp_path / "history.db")
    api.operations._history = HistoryQueries(file)
    yield api
    db.close()


def test_the_latest_are_first(api: Api) -> None:
    rows = api.get("/api/v1/history")["rows"]
    assert [row["id"] for row in rows] == list(reversed(range(50)))
    period = f"since={NOON + 1}&until={iso_time(NOON + 2)[:19]}Z"
    assert len(api.get(f"/api/v1/history?{period}&filter=service:web")["rows"]) == 7
    assert api.get("/api/v1/history?reason=client_lost")["rows"] == []


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_a_walk_has_each_row_once(api: Api, limit: int) -> None:
    for path, key, count in (("history", "id", 50), ("history/events", "at", 20)):
        arguments, rows = f"filter=service:web&limit={limit}", []
        while True:
            answer = api.get(f"/api/v1/{path}?{arguments}")
            rows += [row[key] for row in answer["rows"]]
            if "next" not in answer:
                break
            arguments = f"filter=service:web&limit={limit}&cursor={answer['next']}"
        assert len(rows) == count
        assert rows == sorted(rows, reverse=True)
        assert key == "at" or len(set(rows)) == count


def test_another_order_has_no_cursor(api: Api) -> None:
    answer = api.get("/api/v1/history?sort=id&limit=5")
    assert [row["id"] for row in answer["rows"]] == [0, 1, 2, 3, 4]
    assert "next" not in answer
    cursor = api.get("/api/v1/history?limit=5")["next"]
    assert api.ask("GET", f"/api/v1/history?sort=id&cursor={cursor}").status == 422


@pytest.mark.parametrize("cursor", ["", "x", "41d9", "7ff8000000000000-1", "41d9552cb1800000-"])
def test_a_cursor_that_is_none(api: Api, cursor: str) -> None:
    reply = api.ask("GET", f"/api/v1/history?cursor={cursor}")
    assert reply.status == 400
    assert reply.json["errors"][0]["name"] == "cursor"


@given(
    st.tuples(st.floats(0, 4e11).filter(lambda at: at == 0 or at > 1), st.integers(0, 10**18 - 1))
)
def test_a_place_as_text(place: tuple[float, int]) -> None:
    assert read_cursor(cursor_of(place)) == place


def test_all_who_look_share_the_reasons(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    reasons = api.operations.history_reasons

    def count(**arguments: Any) -> Any:
        asked.append(arguments)
        return reasons(**arguments)

    monkeypatch.setattr(api.operations, "history_reasons", count)
    for _ in range(50):
        answer = api.get("/api/v1/history/reasons?since=24h&buckets=60&max_age=15")
        assert answer["buckets"]
    assert len(asked) == 1


def test_reasons_over_time(api: Api) -> None:
    answer = api.get(f"/api/v1/history/reasons?since={NOON}&until={NOON + 10}&buckets=11")
    assert [each["total"] for each in answer["buckets"]] == [7, 7, 7, 7, 7, 7, 7, 1, 0, 0]
    assert answer["buckets"][0]["reasons"] == {"client_closed": 7}
    reply = api.ask("GET", f"/api/v1/history/reasons?since={NOON}&until={NOON - 1}")
    assert reply.status == 422


def test_a_report(api: Api) -> None:
    answer = api.get(f"/api/v1/report?since={NOON}&until={NOON + HOUR}")
    assert (answer["connections"], answer["refused"]) == (50, 20)


@pytest.mark.parametrize("text", ["", "soon", "-2h", "1e300", "-1", "0001-01-01", "2026-13-01"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a time ago|1970 to 9999"):
        read_moment(text)


@pytest.mark.parametrize("text", ["1769846400", "2026-01-31T08:00Z", "2026-01-31T09:00+01:00"])
def test_a_time(text: str) -> None:
    assert read_moment(text) == 1769846400


@pytest.mark.parametrize("path", ["history", "history/events", "history/reasons", "report"])
def test_answers_of_the_same_question_are_shared(api: Api, path: str) -> None:
    for _ in range(3):
        api.get(f"/api/v1/{path}?max_age=60&since=1")
    assert len(api.app.shared.answers) == 1
