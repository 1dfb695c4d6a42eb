"""Lists in parts: by a cursor, and by an offset."""

from __future__ import annotations

from typing import Any

import pytest

from monconn.faces.http import walks
from monconn.faces.http.app import ROUTES
from monconn.faces.http.routes import Route
from monconn.faces.http.walks import MOST_OF_CALLER, MOST_WALKS, REST_SECONDS
from monconn.turns import SLICE_SECONDS, WORK_SECONDS

from .api import Api


@pytest.fixture
def api() -> Api:
    return Api("web", "mqtt")


LIST = "/api/v1/connections"


def ids(answer: Any) -> list[int]:
    return [row["id"] for row in answer["rows"]]


def connect(api: Api, count: int) -> list[Any]:
    return api.connect("web", *(f"10.0.0.{number}" for number in range(1, count + 1)))


def following(api: Api, answer: Any, more: str = "", **kwargs: Any) -> Any:
    return api.get(f"{LIST}?cursor={answer['next']}{more}", **kwargs)


def test_a_list_has_a_hundred_rows_and_a_cursor_for_the_rest(api: Api) -> None:
    connect(api, 120)
    first = api.get(LIST)
    assert len(first["rows"]) == 100
    assert first["total"] == 120
    rest = following(api, first)
    assert len(rest["rows"]) == 20
    assert rest["total"] == 120
    assert "next" not in rest
    assert len({*ids(first), *ids(rest)}) == 120


def test_a_list_that_ends_before_its_limit_has_no_cursor(api: Api) -> None:
    connect(api, 3)
    assert "next" not in api.get(f"{LIST}?limit=4")
    assert "next" not in api.get("/api/v1/blocks")


def test_a_list_that_ends_with_its_part_has_an_empty_one_more(api: Api) -> None:
    connect(api, 3)
    assert following(api, api.get(f"{LIST}?limit=3")) == {"rows": [], "total": 3}


def test_a_walk_repeats_none_and_leaves_none_out_while_all_changes(api: Api) -> None:
    connections = connect(api, 30)
    for number, each in enumerate(connections):
        each.record.up = number
    answer = api.get(f"{LIST}?sort=up&limit=7")
    found = ids(answer)
    ended = set()
    while "next" in answer:
        # The first ones become the last, some end, and others come.
        for each in connections:
            each.record.up = 1000 - each.record.up
        one = next(each for each in reversed(connections) if each.record.id not in found)
        if one.record.reason is None:
            one.end("operator")
            ended.add(one.record.id)
        api.connect("web", "10.9.9.9")
        answer = following(api, answer, "&limit=7")
        found += ids(answer)
    assert len(found) == len(set(found))
    assert set(found) == {each.record.id for each in connections} - ended


def test_closed_connections_are_walked_though_others_end(api: Api) -> None:
    for each in connect(api, 20):
        each.end("operator")
    first = api.get(f"{LIST}?closed=true&limit=12")
    for each in connect(api, 5):
        each.end("operator")
    rest = following(api, first)
    assert sorted({*ids(first), *ids(rest)}) == list(range(min(ids(rest)), max(ids(first)) + 1))
    assert len(ids(first) + ids(rest)) == 20


def test_of_a_walk_over_connections_only_ids_are_held(api: Api) -> None:
    connections = connect(api, 30)
    answer = api.get(f"{LIST}?limit=7")
    for each in connections:
        each.end("operator")
    assert ids(following(api, answer)) == []


def test_a_part_that_is_asked_for_again_is_the_same(api: Api) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?limit=10")
    second = following(api, first, "&limit=10")
    connect(api, 1)
    assert following(api, first, "&limit=10") == second
    third = following(api, second)
    assert len(third["rows"]) == 10
    assert following(api, second) == third
    assert api.ask("GET", f"{LIST}?cursor={first['next']}").status == 404


def test_no_cursor_leads_behind_the_last_part(api: Api) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?limit=20")
    last = following(api, first)
    assert "next" not in last
    token = first["next"].rpartition(".")[0]
    replies = [api.ask("GET", f"{LIST}?cursor={token}.{number}") for number in range(-1, 4)]
    assert [each.status for each in replies] == [404, 404, 200, 404, 404]
    assert replies[2].json == last


def test_who_asks_twice_at_a_time_gets_the_same(api: Api) -> None:
    connect(api, 300)
    first = api.get(f"{LIST}?limit=10")
    path = f"{LIST}?cursor={first['next']}&limit=100"
    results: list[Any] = []
    for _ in range(2):
        api.send("GET", path).addBoth(results.append)
    gone = api.send("GET", path)
    gone.addErrback(lambda _: None)
    gone.cancel()
    for _ in range(100):
        api.clock.turn()
    assert len(results) == 2
    assert results[0].body == results[1].body


def test_a_cursor_goes_on_with_its_own_list(api: Api) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?filter=state:open&limit=10")
    assert len(following(api, first, "&filter=state:open&limit=3")["rows"]) == 3
    for other in ("&filter=state:closing", "&sort=up", "&service=web"):
        reply = api.ask("GET", f"{LIST}?cursor={first['next']}{other}")
        assert reply.status == 400
        assert "cursor" in reply.json["detail"]
    assert api.ask("GET", f"/api/v1/clients?cursor={first['next']}").status == 404


def test_a_cursor_is_its_callers_own(api: Api) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?limit=10")
    reply = api.ask("GET", f"{LIST}?cursor={first['next']}", name="another")
    assert reply.status == 404
    assert reply.json["type"] == "urn:monconn:problem:unknown-cursor"


@pytest.mark.parametrize("cursor", ["", "x", ".", "x.1", "1", "\u0661.1", "a.-1"])
def test_a_cursor_that_is_none(api: Api, cursor: str) -> None:
    assert api.ask("GET", f"{LIST}?cursor={cursor}").status == 404


@pytest.mark.parametrize(
    "route",
    [
        each
        for each in ROUTES
        if any(parameter.name == "cursor" for parameter in each.parameters)
        and not each.path.startswith("/api/v1/history")  # whose cursors hold nothing
    ],
    ids=lambda route: route.path,
)
def test_each_list_that_has_a_cursor_looks_for_it(api: Api, route: Route) -> None:
    path = route.path.replace("{name}", "web")
    for given in ("", "&client=10.0.0.1"):
        reply = api.ask("GET", f"{path}?cursor=x.1{given}")
        if reply.status != 400:  # an argument is missing, or is none of this list's
            assert reply.json["type"] == "urn:monconn:problem:unknown-cursor"
            break
    else:
        pytest.fail("the cursor is not looked for")


def test_what_nobody_asks_for_is_not_held(api: Api) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?limit=10")
    api.clock.advance(REST_SECONDS - 1)
    second = following(api, first, "&limit=10")  # held as long again
    api.clock.advance(REST_SECONDS - 1)
    third = following(api, second)
    assert "next" not in third
    api.clock.advance(REST_SECONDS + 1)
    assert api.ask("GET", f"{LIST}?cursor={second['next']}").status == 404
    assert len(api.app.shared.walks) == 0


def test_one_caller_holds_so_many_lists_and_drops_its_own(api: Api) -> None:
    connect(api, 30)
    other = api.get(f"{LIST}?limit=10", name="other")
    own = [api.get(f"{LIST}?limit=10") for _ in range(MOST_OF_CALLER + 1)]
    assert len(api.app.shared.walks) == MOST_OF_CALLER + 1
    assert api.ask("GET", f"{LIST}?cursor={own[0]['next']}").status == 404
    assert following(api, own[1])["rows"]
    assert following(api, other, name="other")["rows"]


def test_all_callers_together_hold_so_many(api: Api) -> None:
    connect(api, 12)
    few = api.get(f"{LIST}?limit=10", name="few")
    for number in range(MOST_WALKS):
        api.get(f"{LIST}?limit=10", name=f"many{number // MOST_OF_CALLER}")
    assert len(api.app.shared.walks) == MOST_WALKS
    assert following(api, few, name="few")["rows"]


def test_a_list_that_fails_amid_is_dropped(
    api: Api, monkeypatch: pytest.MonkeyPatch, logged_failures: list[Any]
) -> None:
    connect(api, 30)
    first = api.get(f"{LIST}?limit=10")

    def broken(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(walks, "encode_rows", broken)
        assert api.ask("GET", f"{LIST}?cursor={first['next']}").status == 500
    logged_failures.clear()
    assert api.ask("GET", f"{LIST}?cursor={first['next']}").status == 404


def test_a_part_by_its_offset_has_no_cursor(api: Api) -> None:
    connections = connect(api, 30)
    answer = api.get(f"{LIST}?offset=10&limit=5&sort=id")
    assert ids(answer) == [each.record.id for each in connections[10:15]]
    assert answer["total"] == 30
    assert "next" not in answer
    assert ids(api.get(f"{LIST}?offset=1000")) == []
    assert "next" not in api.get(f"{LIST}?max_age=1&limit=5")


def test_long_lists_take_no_long_turn(api: Api) -> None:
    connect(api, 250)
    monitor = api.registry.get("web")
    measured: list[int] = []

    def measure(connection_id: int) -> None:
        measured.append(connection_id)
        api.clock.work(SLICE_SECONDS / 2)

    monitor.measure = measure  # type: ignore[method-assign]
    answers: list[Any] = []
    api.send("GET", f"{LIST}?limit=250").addBoth(answers.append)
    api.clock.work(0.25)  # rates are known
    turns = 0
    while not answers:
        before = len(measured)
        api.clock.turn()
        assert len(measured) - before <= 2 * WORK_SECONDS / SLICE_SECONDS + 1
        turns += 1
    assert len(measured) == 250
    assert turns >= 250 / (2 * WORK_SECONDS / SLICE_SECONDS + 1)
