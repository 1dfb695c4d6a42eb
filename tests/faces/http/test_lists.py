"""What the lists of the API have, and what is done by its actions."""

from __future__ import annotations

import base64
import json
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from monconn.config.config import parse_file
from monconn.config.explain import Section, Setting, explain
from monconn.errors import ConfigError, NotConfigured, Problem
from monconn.ops.reload import Change, ReloadResult
from monconn.ops.rows import ConnectionRow
from tests.ops.tapping import WatchableConnection

from .api import Api


@pytest.fixture
def api() -> Api:
    return Api("web", "mqtt")


# -- what there is


def test_a_session_tells_who_asks_and_what_there_is(api: Api) -> None:
    answer = api.get("/api/v1/session", role="view", name="ops")
    assert (answer["name"], answer["role"], answer["kind"]) == ("ops", "view", "token")
    assert answer["served"] == api.operations.token
    assert answer["has"] == {
        "blocks": True,
        "captures": True,
        "configuration": False,
        "devices": False,
        "history": False,
        "outputs": False,
        "recordings": False,
        "reload": False,
    }
    web = api.registry.get("web")
    web.apply(web.policy.changed(recorder=True))
    assert api.get("/api/v1/session")["has"]["recordings"]


def test_columns_say_what_a_page_needs_to_show_any_listing(api: Api) -> None:
    answer = api.get("/api/v1/columns")
    assert set(answer) >= {"services", "connections", "closed", "devices", "blocks", "history"}
    for name, listing in answer.items():
        names = [each["name"] for each in listing["columns"]]
        assert len(names) == len(set(names)), name
        for column in listing["columns"]:
            assert column["align"] in ("left", "right")
        for key in listing["keys"]:
            assert key["help"], (name, key)
    (up,) = [each for each in answer["connections"]["columns"] if each["name"] == "up"]
    assert (up["unit"], up["align"], up["order"], up["descending"]) == (
        "bytes",
        "right",
        "up",
        True,
    )
    assert {"name": "state", "computed": True, "usual": True}.items() <= next(
        each for each in answer["connections"]["columns"] if each["name"] == "state"
    ).items()
    # Rows of a listing that the server does not sort are sorted by the page, in the same order.
    descending = {each["name"]: each["descending"] for each in answer["devices"]["columns"]}
    assert (descending["device"], descending["connections"]) == (False, True)
    (state,) = [each for each in answer["connections"]["keys"] if each["name"] == "state"]
    assert "half_closed" in state["choices"]


def test_each_field_of_a_single_connection_is_explained(api: Api) -> None:
    (live,) = api.connect("web", "10.0.0.1")
    columns = {
        each["name"]: each["help"] for each in api.get("/api/v1/columns")["connection"]["columns"]
    }
    shown = api.get(f"/api/v1/connections/{live.record.id}")
    assert [name for name in shown if not columns.get(name)] == []


def test_connections_can_be_sorted_by_each_column_that_says_so(api: Api) -> None:
    api.connect("web", "10.0.0.1", "10.0.0.2")
    for column in api.get("/api/v1/columns")["connections"]["columns"]:
        if column["order"]:
            assert api.get(f"/api/v1/connections?sort={column['order']}")["total"] == 2


# -- lists


def test_services(api: Api) -> None:
    api.connect("web", "10.0.0.1", "10.0.0.2")
    assert [row["sid"] for row in api.get("/api/v1/services")["rows"]] == ["web", "mqtt"]
    assert api.get("/api/v1/services/web")["connections"] == 2
    assert [row["ip"] for row in api.get("/api/v1/services/web/ips")["rows"]] == [
        "10.0.0.1",
        "10.0.0.2",
    ]
    assert len(api.get("/api/v1/services/web/ips?filter=ip:10.0.0.2")["rows"]) == 1
    for path in ("nope", "nope/ips"):
        reply = api.ask("GET", f"/api/v1/services/{path}")
        assert reply.json["type"] == "urn:monconn:problem:unknown-service"


def test_the_name_of_a_service_may_have_any_character() -> None:
    api = Api("a/b ü?")
    assert api.get("/api/v1/services/a%2Fb%20%C3%BC%3F")["sid"] == "a/b ü?"


def test_connections(api: Api) -> None:
    api.connect("web", "10.0.0.1", "10.0.0.2")
    (mqtt,) = api.connect("mqtt", "10.0.0.1")
    answer = api.get("/api/v1/connections")
    assert [(row["service"], row["client"]) for row in answer["rows"]] == [
        ("web", "10.0.0.1:1024"),
        ("web", "10.0.0.2:1025"),
        ("mqtt", "10.0.0.1:1024"),
    ]
    assert set(answer["rows"][0]) <= set(ConnectionRow.fields())
    assert api.get("/api/v1/connections?service=mqtt")["total"] == 1
    assert api.get("/api/v1/connections?client=10.0.0.1")["total"] == 2
    assert api.get("/api/v1/connections?filter=service:mqtt+client:10.0.0.0/8")["total"] == 1
    mqtt.end("operator")
    assert api.get("/api/v1/connections?service=mqtt")["total"] == 0
    closed = api.get("/api/v1/connections?closed=true")
    assert [row["reason"] for row in closed["rows"]] == ["operator"]


def test_one_connection_by_its_id_and_its_uid(api: Api) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    record = connection.record
    for name in (record.id, record.uid, record.uid.upper()):
        answer = api.get(f"/api/v1/connections/{name}")
        assert answer["id"] == record.id
        assert "diagnosis" in answer
    connection.end("operator")
    assert api.get(f"/api/v1/connections/{record.id}")["reason"] == "operator"


@pytest.mark.parametrize("name", ["999999", "x", "9" * 40, "k7xq2m9tbw4c-42", "-1", "1.0"])
def test_a_connection_that_is_none(api: Api, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/recording"), ("POST", "/close")):
        reply = api.ask(method, f"/api/v1/connections/{name}{path}")
        assert reply.status == 404
        assert reply.json["type"] == "urn:monconn:problem:unknown-connection"


def test_clients(api: Api) -> None:
    api.connect("web", "10.0.0.1", "10.0.0.2")
    api.connect("mqtt", "10.0.0.1")
    assert len(api.get("/api/v1/clients")["rows"]) == 3
    assert len(api.get("/api/v1/clients?service=web&filter=ip:10.0.0.1")["rows"]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "devices",
        "devices/10.0.0.1",
        "history",
        "history/events",
        "history/reasons",
        "report",
        "config",
    ],
)
def test_a_part_that_is_not_configured(api: Api, path: str) -> None:
    reply = api.ask("GET", f"/api/v1/{path}")
    assert reply.status == 404
    assert reply.json["type"] == "urn:monconn:problem:not-configured"


def test_words(api: Api) -> None:
    answer = api.get("/api/v1/words/client_lost")
    assert answer["explanations"][0]["word"] == "client_lost"
    assert api.get("/api/v1/words/cD")["code"]["code"] == "cD"
    assert api.get("/api/v1/words/connection%20reset%20by%20peer")["explanations"]
    assert "client_lost" in api.ask("GET", "/api/v1/words/client_lst").json["detail"]


# -- actions


def test_an_action_is_its_callers(api: Api) -> None:
    api.ask("POST", "/api/v1/services/web/pause", {"seconds": 5}, name="ops-laptop")
    (action,) = api.actions.all
    assert (action.kind, action.actor.describe()) == ("pause", "token ops-laptop")


def test_pause_resume_and_drain(api: Api) -> None:
    web = api.registry.get("web")
    api.connect("web", "10.0.0.1")
    answer = api.ask("POST", "/api/v1/services/web/pause", {"seconds": 5}).json
    assert answer == {"changed": True, "updated": False, "connections": 1}
    assert web.is_paused
    assert api.ask("POST", "/api/v1/services/web/pause", {"seconds": 6}).json["updated"]
    assert api.ask("POST", "/api/v1/services/web/resume").json["changed"]
    assert not api.ask("POST", "/api/v1/services/web/resume", {}).json["changed"]
    assert api.ask("POST", "/api/v1/services/web/drain", {"spread": 3}).json["changed"]
    assert web.draining
    reply = api.ask("POST", "/api/v1/services/web/pause")
    assert reply.status == 409
    assert "resume web first" in reply.json["detail"]


def test_totals_are_reset_and_subtracted(api: Api) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    connection.record.up = 100
    connection.end("operator")
    path = "/api/v1/services/web"
    assert api.ask("POST", f"{path}/subtract_stats", {"up": 60, "down": 0}).status == 200
    assert api.get(path)["up"] == 40
    assert api.ask("POST", f"{path}/subtract_stats", {"up": 60, "down": 0}).status == 409
    assert api.ask("POST", f"{path}/reset_stats", {"dry_run": True}).status == 200
    assert api.get(path)["up"] == 40
    assert api.ask("POST", f"{path}/reset_stats").status == 200
    assert api.get(path)["up"] == 0


def test_one_connection_is_closed(api: Api) -> None:
    one, other = api.connect("web", "10.0.0.1", "10.0.0.2")
    path = f"/api/v1/connections/{one.record.id}/close"
    assert api.ask("POST", path, {"reset": True}).json == {"closed": 1}
    assert one.was_reset
    assert other.record.reason is None
    assert api.ask("POST", path).status == 404
    assert api.ask("POST", f"/api/v1/connections/{other.record.uid}/close").json["closed"] == 1


def test_connections_are_closed_by_what_they_are(api: Api) -> None:
    one, other, third = api.connect("web", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    would = api.ask(
        "POST", "/api/v1/connections/close", {"client": "10.0.0.0/30", "dry_run": True}
    ).json
    assert would["closed"] == 3
    assert [row["id"] for row in would["rows"]] == [each.record.id for each in (one, other, third)]
    assert api.actions.all == []
    body = {"ids": [one.record.id, 77777], "filter": "client:10.0.0.1"}
    done = api.ask("POST", "/api/v1/connections/close", body).json
    assert done == {"closed": 1, "unknown": [77777]}
    assert other.record.reason is None
    assert api.ask("POST", "/api/v1/connections/close", {"service": "nope"}).status == 404
    reply = api.ask("POST", "/api/v1/connections/close")
    assert reply.status == 422
    assert "say which" in reply.json["detail"]


def test_a_recording_is_the_bytes_of_a_connection(api: Api) -> None:
    web = api.registry.get("web")
    web.apply(web.policy.changed(recorder=True))
    connection = WatchableConnection(web).open()
    connection.data("up", b"ping\x00")
    path = f"/api/v1/connections/{connection.record.id}/recording"
    kinds = [each["event"] for each in api.get(path)["events"]]
    assert kinds == ["began", "data", "ended"]
    (data,) = [each["data"] for each in api.get(path)["events"] if "data" in each]
    assert base64.b64decode(data) == b"ping\x00"
    assert {each.kind for each in api.actions.all} == {"read_recording"}


def test_bytes_that_the_configuration_keeps_from_everybody(api: Api) -> None:
    web = api.registry.get("web")
    web.apply(web.policy.changed(payload="never"))
    connection = WatchableConnection(web).open()
    reply = api.ask("GET", f"/api/v1/connections/{connection.record.id}/recording")
    assert reply.status == 403
    assert reply.json["type"] == "urn:monconn:problem:forbidden"


def test_blocks(api: Api) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    body = {"network": "10.0.0.0/8", "for_seconds": 60, "reason": "a test"}
    would = api.ask("POST", "/api/v1/blocks", {**body, "dry_run": True}).json
    assert (would["changed"], would["closed"]) == (True, 1)
    assert api.get("/api/v1/blocks")["rows"] == []
    done = api.ask("POST", "/api/v1/blocks", body).json
    assert (done["closed"], done["services"]) == (1, ["web", "mqtt"])
    assert "until" in done
    assert connection.record.reason is not None
    (row,) = api.get("/api/v1/blocks?filter=reason:test")["rows"]
    assert (row["network"], row["by"]) == ("10.0.0.0/8", "token test")
    assert api.ask("DELETE", "/api/v1/blocks/10.0.0.0%2F8?service=web").status == 409
    assert api.ask("DELETE", "/api/v1/blocks/10.0.0.0%2F8?dry_run=true").json["changed"]
    assert api.ask("DELETE", "/api/v1/blocks/10.0.0.0%2F8").json["changed"]
    assert not api.ask("DELETE", "/api/v1/blocks/10.0.0.0%2F8").json["changed"]
    assert api.ask("DELETE", "/api/v1/blocks/10.0.0.0/8").status == 404  # another path
    assert api.ask("DELETE", "/api/v1/blocks/nobody").status == 400


def test_what_would_happen_to_a_client(api: Api) -> None:
    rows = api.get("/api/v1/why?client=10.0.0.1")["rows"]
    assert [(row["service"], row["outcome"]) for row in rows] == [
        ("web", "enters"),
        ("mqtt", "enters"),
    ]
    assert len(api.get("/api/v1/why?client=10.0.0.1&service=web")["rows"]) == 1
    assert api.ask("GET", "/api/v1/why?client=nobody").status == 404


def test_forgetting_a_client(api: Api) -> None:
    (connection,) = api.connect("web", "10.0.0.1")
    connection.end("operator")
    would = api.ask("POST", "/api/v1/forget", {"client": "10.0.0.1", "dry_run": True}).json
    assert would["removed"]["closed"] == 1
    assert api.get("/api/v1/connections?closed=true")["total"] == 1
    api.ask("POST", "/api/v1/forget", {"client": "10.0.0.1"})
    assert api.get("/api/v1/connections?closed=true")["total"] == 0


def test_captures_and_outputs_of_a_program_without_any(api: Api) -> None:
    assert api.get("/api/v1/captures")["rows"] == []
    assert api.ask("DELETE", "/api/v1/captures/1").status == 404
    assert api.ask("DELETE", "/api/v1/captures/x").status == 400
    assert api.get("/api/v1/outputs")["rows"] == []
    assert api.ask("POST", "/api/v1/outputs/test").status == 404


# -- the configuration


def test_the_configuration_is_what_runs_with_where_it_is_written(api: Api) -> None:
    setting = Setting("listen", ":80", "file", 3, file="monconn.yaml")
    api.operations.configuration = lambda: [Section("services.web", 2, [setting])]
    assert api.get("/api/v1/config")["sections"] == [
        {
            "path": "services.web",
            "settings": [
                {
                    "key": "listen",
                    "value": ":80",
                    "from": "file",
                    "line": 3,
                    "file": "monconn.yaml",
                }
            ],
        }
    ]


def test_the_configuration_has_no_secrets(api: Api, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2hunter2")
    text = f"""
        services: {{web: {{listen: ":80", backend: "10.0.0.5:80"}}}}
        http: {{listen: 127.0.0.1:9180, tokens: {tmp_path}/tokens}}
        notify:
          - {{url: "https://ada:hunter2@example.com/hunter2?key=hunter2", secret: hunter2hunter2}}
          - {{url: "http://127.0.0.1:9/hunter2", secret_file: {tmp_path}/secret}}
        observers:
          - {{use: "builtins:dict", password: hunter2, nested: {{api_key: hunter2}}}}
          - {{use: "builtins:dict", url: "postgresql://ada:hunter2@example.com/db"}}
    """
    file = parse_file(textwrap.dedent(text), "monconn.yaml")
    api.operations.configuration = lambda: explain(file)
    answer = api.get("/api/v1/config")
    assert "hunter2" not in json.dumps(answer)
    shown = {
        (section["path"], setting["key"]): setting["value"]
        for section in answer["sections"]
        for setting in section["settings"]
    }
    assert shown["notify[0]", "url"] == "https://example.com/..."
    assert ("notify[1]", "secret_file") in shown
    assert shown["services.web", "backend"] == "10.0.0.5:80"


def test_a_reload_answers_what_has_changed(api: Api) -> None:
    asked: list[Any] = []
    change = Change("services.web", "max_idle", "0", "5m", "at once", "web", "f.yaml:3")

    def reload(actor: Any, *, dry_run: bool) -> Deferred[ReloadResult]:
        asked.append((actor.describe(), dry_run))
        return succeed(ReloadResult("f.yaml", (change,), changed=("web",), dry_run=dry_run))

    api.operations.reloader = reload
    answer = api.ask("POST", "/api/v1/reload", {"dry_run": True}).json
    assert answer["changed"] == ["web"]
    assert answer["changes"] == [attrs.asdict(change)]
    assert asked == [("token test", True)]


def test_a_configuration_with_problems_is_not_applied(api: Api) -> None:
    problem = Problem("f.yaml", 3, "services.web", "is wrong")
    api.operations.reloader = lambda actor, dry_run: fail(ConfigError([problem]))
    reply = api.ask("POST", "/api/v1/reload")
    assert reply.status == 422
    assert reply.json["problems"][0]["line"] == 3


def test_there_is_nothing_to_reload(api: Api) -> None:
    assert api.ask("POST", "/api/v1/reload").status == 404
    api.operations.reloader = lambda actor, dry_run: fail(NotConfigured("no file"))
    assert not api.get("/api/v1/session")["has"]["reload"]  # as with -p
    api.operations.configuration = list
    assert api.get("/api/v1/session")["has"]["reload"]
