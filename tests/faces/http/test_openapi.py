"""The API's description: a valid one, and true of what is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.internet.defer import Deferred, succeed

from monconn.config.explain import Section, Setting
from monconn.errors import ConfigError, Problem
from monconn.faces.http.app import ROUTES
from monconn.faces.http.health import health_routes
from monconn.faces.http.openapi import describe
from monconn.faces.http.problems import Problem as HttpProblem
from monconn.faces.http.problems import problem_of
from monconn.ops.reload import Change, ReloadResult
from tests.ops.tapping import WatchableConnection

from .api import Api


@pytest.fixture(scope="module")
def description() -> Any:
    return Api("web").get("/openapi.json")


def test_it_is_valid(description: Any) -> None:
    OpenAPIV31SpecValidator(description).validate()
    assert description["openapi"] == "3.1.0"


def test_what_only_a_server_adds_is_described_as_well() -> None:
    made = describe([*ROUTES, *health_routes(lambda: False)], "session")
    OpenAPIV31SpecValidator(made).validate()
    for path in ("/health", "/health/ready"):
        content = made["paths"][path]["get"]["responses"]["503"]["content"]
        assert list(content) == ["application/json"]


def test_it_is_for_those_who_may_see_the_api() -> None:
    assert Api("web").ask("GET", "/openapi.json", role="").status == 401


def test_it_has_each_route_with_its_parameters(description: Any) -> None:
    for route in ROUTES:
        operation = description["paths"][route.path][route.method.lower()]
        in_body = operation.get("requestBody", {}).get("content", {})
        properties = in_body.get("application/json", {}).get("schema", {}).get("properties", {})
        names = {each["name"] for each in operation["parameters"]} | set(properties)
        assert names == {each.name for each in route.parameters}, route.path
        for each in operation["parameters"]:
            assert each["description"]
            assert (each["in"] == "path") == (f"{{{each['name']}}}" in route.path)
        assert operation["summary"] == route.summary


def test_operations_have_names_of_their_own(description: Any) -> None:
    names = [
        each["operationId"] for path in description["paths"].values() for each in path.values()
    ]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z_]+", each) for each in names)


def test_nobody_needs_a_token_where_none_is_asked_for(description: Any) -> None:
    for route in ROUTES:
        operation = description["paths"][route.path][route.method.lower()]
        assert (operation.get("security") == []) == (route.role is None)


def test_fields_of_rows_have_types_units_and_help(description: Any) -> None:
    connection = description["components"]["schemas"]["Connection"]
    properties = connection["properties"]
    assert properties["up"] == {
        "type": "integer",
        "description": "Bytes from the client to the backend. (in bytes)",
    }
    assert properties["opened_at"]["format"] == "date-time"
    assert properties["connect_seconds"]["type"] == ["number", "null"]
    assert {"id", "connect_seconds"} <= set(connection["required"])
    assert "reason" not in connection["required"]


def check(description: Any, method: str, path: str, status: int, answer: Any) -> None:
    """Make sure that an answer is as the description says."""
    (operation,) = [
        operations[method.lower()]
        for template, operations in sorted(description["paths"].items())
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
        and method.lower() in operations
        and not (template.count("{") and path in description["paths"])
    ]
    response = operation["responses"][str(status)]
    if "$ref" in response:
        response = description["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if status == 204:
        assert "content" not in response
        return
    (content,) = response["content"].values()
    schema = {**content["schema"], "components": description["components"]}
    OAS31Validator(schema, format_checker=OAS31Validator.FORMAT_CHECKER).validate(answer)


def full_api() -> Api:
    """An API with something in all of its lists that need neither a disk nor a network."""
    api = Api("web", "mqtt")
    web = api.registry.get("web")
    web.apply(web.policy.changed(recorder=True, conn_limit=100, per_ip_limit=10))
    api.connect("web", "10.0.0.1", "10.0.0.2")
    (closed,) = api.connect("web", "10.0.0.3")
    closed.record.set_fact("protocol", "mqtt")
    closed.end("client_lost")
    WatchableConnection(web).open().data("up", b"ping")
    api.registry.get("mqtt").block("192.0.2.0/24")
    setting = Setting("listen", ":80", "built_in", None)
    api.operations.configuration = lambda: [Section("services.web", None, [setting])]
    change = Change("services.web", "max_idle", "0", "5m", "at once", "web", "f.yaml:3")

    def reload(actor: Any, *, dry_run: bool) -> Deferred[ReloadResult]:
        return succeed(ReloadResult("f.yaml", (change,), changed=("web",), dry_run=dry_run))

    api.operations.reloader = reload
    return api


_IDS = "{live}"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "session", None),
        ("GET", "columns", None),
        ("GET", "words/client_lost", None),
        ("GET", "words/cD", None),
        ("GET", "config", None),
        ("GET", "services", None),
        ("GET", "services/web", None),
        ("GET", "services/web/ips", None),
        ("GET", "connections", None),
        ("GET", "connections?limit=1", None),
        ("GET", "connections?closed=true", None),
        ("GET", "connections?offset=1&max_age=1", None),
        ("GET", f"connections/{_IDS}", None),
        ("GET", f"connections/{_IDS}/recording", None),
        ("POST", f"connections/{_IDS}/close", {"reset": True}),
        ("POST", "connections/close", {"service": "web", "dry_run": True}),
        ("POST", "connections/close", {"ids": [1, 999999]}),
        ("GET", "clients", None),
        ("GET", "blocks", None),
        ("POST", "blocks", {"network": "10.0.0.0/8", "for_seconds": 5}),
        ("DELETE", "blocks/192.0.2.0%2F24", None),
        ("GET", "why?client=10.0.0.1", None),
        ("POST", "services/web/pause", {"seconds": 3}),
        ("POST", "services/web/resume", None),
        ("POST", "services/web/drain", {}),
        ("POST", "services/web/reset_stats", {}),
        ("POST", "services/web/subtract_stats", {"up": 0, "down": 0}),
        ("POST", "reload", {}),
        ("POST", "forget", {"client": "10.0.0.3"}),
        ("GET", "captures", None),
        ("GET", "outputs", None),
        # and errors
        ("GET", "services/nope", None),
        ("GET", "connections/nope", None),
        ("GET", "connections?filter=zap:1", None),
        ("GET", "connections?limit=0", None),
        ("GET", "connections?cursor=x", None),
        ("GET", "devices", None),
        ("GET", "history", None),
        ("GET", "history/reasons", None),
        ("GET", "report", None),
        ("GET", "words/nope", None),
        ("POST", "services/nope/pause", {}),
        ("POST", "services/web/pause", b"x"),
        ("POST", "captures", {"filter": "zap"}),
        ("DELETE", "captures/1", None),
        ("POST", "outputs/test", {}),
    ],
)
def test_what_is_answered_is_as_described(
    description: Any, method: str, target: str, body: Any
) -> None:
    api = full_api()
    (live,) = [row["id"] for row in api.get("/api/v1/connections?filter=client:10.0.0.1")["rows"]]
    if "recording" in target:
        (live,) = [
            row["id"]
            for row in api.get("/api/v1/connections?limit=1000")["rows"]
            if row["up"] == len(b"ping")
        ]
    target = f"/api/v1/{target.replace(_IDS, str(live))}"
    reply = api.ask(method, target, body)
    check(description, method, target.partition("?")[0], reply.status, reply.json)
    for role in ("view", ""):
        refused = api.ask(method, target, body, role=role)
        if refused.status != reply.status:
            check(description, method, target.partition("?")[0], refused.status, refused.json)


def test_problems_of_all_kinds_are_as_described(description: Any) -> None:
    schema = description["components"]["schemas"]["Problem"]
    for problem in (
        problem_of(ConfigError([Problem("f", None, "a", "x"), Problem("f", 3, "a", "x")])),
        HttpProblem(404, "x"),
        HttpProblem(404, "x", "unknown-thing"),
    ):
        OAS31Validator(schema).validate(problem.to_json())


def test_each_path_of_it_is_in_the_reference(description: Any) -> None:
    text = (Path(__file__).parents[3] / "docs" / "http.md").read_text(encoding="utf-8")
    missing = [path for path in description["paths"] if f"{path}`" not in text]
    assert not missing
