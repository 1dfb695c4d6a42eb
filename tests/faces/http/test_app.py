"""From a request to its route, its arguments and its answer, errors included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from monconn.errors import (
    AddressError,
    Busy,
    ConfigError,
    Conflict,
    FileError,
    Forbidden,
    NotConfigured,
    Problem,
    QuestionError,
    ReloadError,
    SettingError,
    UnknownCapture,
    UnknownConnection,
    UnknownDevice,
    UnknownService,
)
from monconn.faces.http.app import ROUTES
from monconn.faces.http.problems import problem_of
from monconn.model.record import ConnectionRecord
from monconn.ops.filters import FilterError
from tests.logged import logged_lines
from tests.properties import examples

from .api import Api


@pytest.fixture
def api() -> Api:
    return Api("web", "mqtt")


def names(reply: Any) -> list[str]:
    return [each["name"] for each in reply.json["errors"]]


def test_a_list_is_answered_as_json(api: Api) -> None:
    reply = api.ask("GET", "/api/v1/services")
    assert reply.status == 200
    assert reply.response.content_type == "application/json"
    assert [row["sid"] for row in reply.json["rows"]] == ["web", "mqtt"]


def test_an_answer_has_the_headers_that_the_guard_adds(api: Api) -> None:
    for target in ("/api/v1/services", "/nowhere"):
        assert api.ask("GET", target).header("Cache-Control") == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nothing",
        "/",
        "/api/v1/services/",
        "/api/v1//services",
        "/api/v1/services/web/x",
        "",
    ],
)
def test_an_unknown_path_is_no_route(api: Api, path: str) -> None:
    reply = api.ask("GET", path)
    assert reply.status == 404
    assert reply.response.content_type == "application/problem+json"
    assert reply.json["type"] == "urn:monconn:problem:unknown-path"


def test_what_is_elsewhere_is_asked_for_paths_that_are_no_route() -> None:
    from monconn.faces.http.app import HttpApp
    from monconn.net.http.messages import Request, Response

    api = Api("web")
    asked: list[str] = []

    def page(request: Request) -> Response | None:
        asked.append(request.path)
        return Response(200, b"hello") if request.path == "/" else None

    api.app = HttpApp(api.operations, api.guard, elsewhere=page)
    assert api.ask("GET", "/", role="").response.body == b"hello"
    assert api.ask("GET", "/nowhere").status == 404
    assert api.ask("GET", "/api/v1/services").status == 200
    assert asked == ["/", "/nowhere"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/v1/services", "GET, HEAD"),
        ("DELETE", "/api/v1/blocks", "GET, HEAD, POST"),
        ("GET", "/api/v1/blocks/10.0.0.0", "DELETE"),
        ("GET", "/api/v1/connections/close", "POST"),
        ("OPTIONS", "/api/v1/services", "GET, HEAD"),
    ],
)
def test_another_method_is_told_those_that_there_are(
    api: Api, method: str, path: str, allow: str
) -> None:
    reply = api.ask(method, path)
    assert reply.status == 405
    assert reply.header("Allow") == allow


def test_a_path_without_parameters_comes_before_one_that_has_some(api: Api) -> None:
    assert api.ask("POST", "/api/v1/connections/close", {"ids": [1]}).json["unknown"] == [1]


def test_head_is_answered_as_get(api: Api) -> None:
    assert api.ask("HEAD", "/api/v1/services").status == 200


# -- who may


def test_nobody_who_is_unknown_is_served(api: Api) -> None:
    for route in ROUTES:
        if route.role is not None:
            path = route.path.replace("{", "").replace("}", "")
            assert api.ask(route.method, path, role="").status == 401, route.path


def test_routes_that_need_nobody() -> None:
    open_routes = {(each.method, each.path) for each in ROUTES if each.role is None}
    assert open_routes <= {
        ("POST", "/api/v1/session"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
    }


def test_bytes_and_actions_need_the_role_operate(api: Api) -> None:
    for route in ROUTES:
        shows_bytes = route.path.endswith(("/recording", "/tap"))
        changes = route.method != "GET" and route.path != "/api/v1/session"
        assert (route.role == "operate") == (shows_bytes or changes), route
        if route.role == "operate":
            path = route.path.replace("{", "").replace("}", "")
            reply = api.ask(route.method, path, role="view")
            assert reply.status == 403
            assert "needs the role operate" in reply.json["detail"]


# -- arguments


def test_unknown_arguments_are_errors_that_name_those_that_there_are(api: Api) -> None:
    reply = api.ask("GET", "/api/v1/clients?filtre=x&servcie=y")
    assert reply.status == 400
    assert names(reply) == ["filtre", "servcie"]
    assert "there are filter, service, limit" in reply.json["errors"][0]["detail"]


def test_all_that_is_wrong_is_told_at_once(api: Api) -> None:
    reply = api.ask("GET", "/api/v1/connections?limit=0&sort=nothing&closed=maybe&client=me")
    assert sorted(names(reply)) == ["client", "closed", "limit", "sort"]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.0", "", "ten", "9" * 30, "\u0661"])
def test_a_limit_is_from_1_to_1000(api: Api, limit: str) -> None:
    assert names(api.ask("GET", f"/api/v1/services?limit={limit}")) == ["limit"]


def test_an_argument_is_given_once(api: Api) -> None:
    reply = api.ask("GET", "/api/v1/connections?filter=state:open&filter=idle:5m..")
    assert reply.json["errors"] == [{"name": "filter", "detail": "is given more than once"}]


def test_an_argument_that_is_missing_is_named(api: Api) -> None:
    assert names(api.ask("POST", "/api/v1/blocks", {})) == ["network"]
    assert names(api.ask("GET", "/api/v1/why")) == ["client"]


def test_arguments_may_be_percent_encoded_in_queries_and_paths(api: Api) -> None:
    api.connect("web", "10.0.0.1")
    assert api.get("/api/v1/connections?filter=client:10.0.0.0%2F8%20state%3Aopen")["total"] == 1
    assert api.get("/api/v1/connections?filter=client:10.0.0.0/8+state:open")["total"] == 1
    assert api.ask("DELETE", "/api/v1/blocks/10.0.0.0%2F8").json["changed"] is False


@pytest.mark.parametrize("target", ["/api/v1/services/%ff", "/api/v1/connections?filter=%ff"])
def test_what_is_no_utf_8_is_an_error(api: Api, target: str) -> None:
    assert api.ask("GET", target).status == 400


def test_many_arguments_are_an_error(api: Api) -> None:
    """Whoever may not even log in must not have a long answer made."""
    reply = api.ask("POST", "/api/v1/session", {f"{n}": n for n in range(3000)}, role="")
    assert reply.status == 400
    assert len(reply.json["detail"]) < 100
    assert api.ask("GET", "/api/v1/services?" + "&".join(["a=1"] * 1000)).status == 400


def test_arguments_of_an_action_belong_into_its_body(api: Api) -> None:
    reply = api.ask("POST", "/api/v1/services/web/pause?seconds=3")
    assert reply.status == 400
    assert "body" in reply.json["errors"][0]["detail"]
    assert not api.registry.get("web").is_paused


def test_a_filter_says_where_it_is_wrong(api: Api) -> None:
    reply = api.ask("GET", "/api/v1/connections?filter=state:open+idel:5m..")
    assert reply.status == 400
    assert reply.json["errors"] == [
        {
            "name": "filter",
            "detail": 'unknown key "idel" in term 2 "idel:5m..": did you mean idle?',
            "position": 11,
            "suggestion": "did you mean idle?",
        }
    ]


# -- bodies


def test_a_body_must_say_that_it_is_json(api: Api) -> None:
    reply = api.ask(
        "POST", "/api/v1/services/web/pause", b"{}", headers={"content-type": "text/plain"}
    )
    assert reply.status == 415
    reply = api.ask(
        "POST",
        "/api/v1/services/web/pause",
        b"{}",
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    assert reply.status == 200


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"3", b"null", b'"x"', b"\xff", b"{'a': 1}", b"[" * 2000, b'{"a": NaN}']
)
def test_a_body_must_be_an_object(api: Api, body: bytes) -> None:
    reply = api.ask("POST", "/api/v1/services/web/pause", body)
    assert reply.status == 400
    assert reply.json["type"] == "urn:monconn:problem:bad-body"


def test_only_a_post_has_a_body(api: Api) -> None:
    api.ask("POST", "/api/v1/blocks", {"network": "192.0.2.0/24"})
    refused = api.ask("DELETE", "/api/v1/blocks/192.0.2.0%2F24", {"dry_run": True})
    assert refused.status == 400
    assert "in the query" in refused.json["detail"]
    assert len(api.get("/api/v1/blocks")["rows"]) == 1
    assert api.ask("GET", "/api/v1/blocks", {"service": "web"}).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("services/web/pause", {"seconds": 0}),
        ("services/web/pause", {"seconds": -1}),
        ("services/web/pause", {"seconds": 1e10}),
        ("services/web/pause", {"seconds": "5m"}),
        ("services/web/pause", {"seconds": True}),
        ("services/web/pause", {"seconds": None}),
        ("services/web/pause", {"secs": 5}),
        ("services/web/resume", {"seconds": 5}),
        ("services/web/subtract_stats", {"up": 1}),
        ("services/web/subtract_stats", {"up": 1, "down": 0.5}),
        ("services/web/subtract_stats", {"up": 1, "down": -1}),
        ("services/web/subtract_stats", {"up": 1, "down": True}),
        ("services/web/subtract_stats", {"up": 1, "down": 10**30}),
        ("connections/close", {"ids": 3}),
        ("connections/close", {"ids": ["3"]}),
        ("connections/close", {"ids": [1] * 2001}),
        ("connections/close", {"dry_run": "true", "service": "web"}),
        ("connections/close", {"filter": ["state:open"]}),
        ("connections/close", {"filter": "open"}),
        ("captures", {"seconds": 8 * 86400}),
        ("connections/1/close", {"id": 2}),
        ("blocks", {"network": 10}),
        ("blocks", {"network": "10.0.0.0/33"}),
        ("forget", {"client": "me"}),
        ("captures", {"first": -1}),
        ("outputs/test", {"number": 0}),
    ],
)
def test_a_body_with_wrong_arguments_changes_nothing(api: Api, path: str, body: Any) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    reply = api.ask("POST", f"/api/v1/{path}", body)
    assert reply.status == 400
    assert reply.json["type"] in (
        "urn:monconn:problem:bad-argument",
        "urn:monconn:problem:bad-filter",
    )
    assert api.actions.all == []
    assert connection.record.reason is None


def test_a_service_with_any_name_is_paused_and_resumed(api: Api) -> None:
    """Of a path, clients take ``..`` out."""
    for action, is_paused in (("pause", True), ("resume", False)):
        reply = api.ask("POST", f"/api/v1/service/{action}", {"name": "web"})
        assert reply.status == 200
        assert api.registry.get("web").is_paused is is_paused
    assert api.ask("POST", "/api/v1/service/drain", {"name": ".."}).status == 404
    assert api.ask("POST", "/api/v1/service/drain", {"name": 1}).status == 400
    assert api.ask("POST", "/api/v1/service/drain", {}).status == 400


# -- errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (QuestionError("x"), 422, "unfit-arguments"),
        (AddressError("x"), 400, "bad-argument"),
        (SettingError("x"), 422, "unfit-arguments"),
        (FilterError("x", 1, "y", 3), 400, "bad-filter"),
        (Forbidden("x"), 403, "forbidden"),
        (UnknownService("x"), 404, "unknown-service"),
        (UnknownConnection("x"), 404, "unknown-connection"),
        (UnknownDevice("x"), 404, "unknown-device"),
        (UnknownCapture("x"), 404, "unknown-capture"),
        (NotConfigured("x"), 404, "not-configured"),
        (Conflict("x"), 409, "conflict"),
        (ReloadError("x"), 409, "conflict"),
        (ConfigError([Problem("f", 1, "a.b", "x")]), 422, "bad-configuration"),
        (FileError("x"), 503, "file-unavailable"),
        (Busy("x"), 503, "busy"),
    ],
)
def test_each_error_of_an_operation_has_its_status(error: Any, status: int, kind: str) -> None:
    problem = problem_of(error)
    values = problem.to_json()
    assert (problem.status, values["status"]) == (status, status)
    assert values["type"] == f"urn:monconn:problem:{kind}"
    assert "x" in values["detail"]


def test_problems_of_a_configuration_are_listed() -> None:
    problem = problem_of(ConfigError([Problem("f.yaml", 3, "a.b", "is wrong")]))
    assert problem.to_json()["problems"] == [
        {"source": "f.yaml", "line": 3, "path": "a.b", "message": "is wrong"}
    ]


def test_a_fault_of_our_own_tells_nothing_and_is_in_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, logged_failures: list[Any]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(api.operations, "services", broken)
    with logged_lines("monconn.faces.http") as lines:
        reply = api.ask("GET", "/api/v1/services")
    assert reply.status == 500
    assert "42" not in json.dumps(reply.json)
    assert lines == ["GET /api/v1/services"]
    logged_failures.clear()


def test_a_client_that_leaves_cancels_its_query(api: Api) -> None:
    api.connect("web", "10.0.0.1")
    answer = api.send("GET", "/api/v1/connections")  # rates are not known yet
    assert not answer.called
    failures: list[Any] = []
    answer.addErrback(failures.append)
    answer.cancel()
    assert len(failures) == 1


def test_texts_of_peers_are_escaped(api: Api) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    record: ConnectionRecord = connection.record
    record.set_fact("mqtt_client_id", "\u202e\x1b[2J\x7f")
    answer = api.ask("GET", "/api/v1/connections").response.body
    assert isinstance(answer, bytes)
    assert answer.isascii()
    assert b"\x7f" not in answer
    assert b"\x1b" not in answer
    assert json.loads(answer)["rows"][0]["facts"]["mqtt_client_id"] == "\u202e\x1b[2J\x7f"


# -- nothing that is sent raises


_TEXT = st.text(st.sampled_from("a1.:/%\u00fc\x00\u202e"), max_size=5)
_SEGMENT = st.one_of(
    st.sampled_from([part for route in ROUTES for part in route.path.split("/")]),
    _TEXT,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PATCH"]),
    route=st.sampled_from(ROUTES),
    segments=st.lists(_SEGMENT, max_size=3),
    query=st.text(st.sampled_from("abilmitfer=&%10:.+ "), max_size=30),
    body=st.one_of(
        st.none(),
        st.binary(max_size=20),
        st.dictionaries(
            st.sampled_from(["ids", "filter", "seconds", "network", "dry_run", "client", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=4,
            ),
            max_size=3,
        ),
    ),
)
def test_any_request_is_answered(
    method: str, route: Any, segments: list[str], query: str, body: Any
) -> None:
    api = Api("web")
    api.connect("web", "10.0.0.1")
    values = iter(segments)
    path = "/".join(
        next(values, "web") if part.startswith("{") else part for part in route.path.split("/")
    )
    if route.content_type == "text/event-stream":
        return
    answer = api.send(method, f"{path}?{query}", body)
    assert isinstance(answer, Deferred)
    response = api.result(answer)
    assert response.status < 500, response
