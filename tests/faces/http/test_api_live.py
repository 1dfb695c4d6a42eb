"""The routes of streams, as requests reach them."""

from __future__ import annotations

import json

import pytest

from monconn.faces.http.events import MOST_OF_CALLER
from monconn.faces.http.shared import STREAMS_OF_CALLER
from monconn.model.actions import OWN_CODE
from monconn.net.http.messages import Response
from tests.ops.tapping import WatchableConnection

from .api import Api
from .streaming import Client


@pytest.fixture
def api() -> Api:
    return Api("web")


def open_stream(api: Api, target: str, role: str = "view", **headers: str) -> Client:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Response = api.result(api.send("GET", target, role=role, headers=named))
    assert (response.status, response.content_type) == (200, "text/event-stream; charset=utf-8")
    assert dict(response.headers)["Cache-Control"] == "no-store"
    return Client(response.body)


def test_live(api: Api) -> None:
    client = open_stream(api, "/api/v1/live")
    api.clock.advance(1)
    assert [each.event for each in client.take()] == ["hello", "tick", "tick"]


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_events_are_resumed_by_a_header_or_an_argument(api: Api, how: str) -> None:
    client = open_stream(api, "/api/v1/events?filter=event:action")
    api.operations.block(OWN_CODE, "192.0.2.1")
    api.operations.block(OWN_CODE, "192.0.2.2")
    api.clock.pump([0.1, 0])
    first, second = client.take()
    client.leave()
    target, headers = "/api/v1/events?filter=event:action", {}
    if how != "header":
        # A browser repeats the address that it began with: the header is newer.
        target += f"&last_event_id={first.id if how == 'query' else 'older'}"
    if how != "query":
        headers = {"last_event_id": first.id}
    resumed = open_stream(api, target, **headers)
    api.clock.pump([0.1, 0])
    assert resumed.take() == [second]


def test_a_tap_needs_operate_and_ends(api: Api) -> None:
    live = WatchableConnection(api.registry.get("web")).open()
    target = f"/api/v1/tap?filter=id:{live.record.id}"
    assert api.ask("GET", target, role="view").status == 403
    client = open_stream(api, target, "operate")
    live.data("up", b"hello")
    live.end("client_closed")
    api.clock.pump([0] * 5)
    *_, last = client.take()
    assert last.event == "end"
    assert api.ask("GET", target, headers={"last-event-id": last.id}).status == 204
    (action,) = (each for each in api.actions.all if each.kind == "tap")
    assert (action.actor.kind, action.actor.name) == ("token", "test")


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/events?service=nope",
        "/api/v1/events?filter=nope:1",
        "/api/v1/tap?filter=99",
        "/api/v1/tap?follow=yes",
        "/api/v1/live?filter=web",
    ],
)
def test_mistakes_are_problems(api: Api, target: str) -> None:
    reply = api.ask("GET", target)
    assert reply.status in (400, 404)
    assert reply.response.content_type == "application/problem+json"


def test_a_caller_has_so_many_streams(api: Api) -> None:
    clients = [open_stream(api, "/api/v1/live") for _ in range(STREAMS_OF_CALLER)]
    reply = api.ask("GET", "/api/v1/events", role="view")
    assert (reply.status, reply.header("Retry-After")) == (429, "10")
    clients[0].leave()
    open_stream(api, "/api/v1/events")


def test_a_caller_reads_so_many_filters(api: Api) -> None:
    target = "/api/v1/events?filter=client:192.0.2."
    clients = [open_stream(api, f"{target}{number}") for number in range(MOST_OF_CALLER)]
    assert api.ask("GET", f"{target}99", role="view").status == 429
    others = api.ask("GET", f"{target}99", role="view", name="another")
    assert others.status == 200
    # Those that are read already take nothing more.
    clients.append(open_stream(api, f"{target}1"))
    clients[0].leave()
    open_stream(api, f"{target}99")
    assert api.ask("GET", f"{target}0", role="view").status == 429


def test_lists_with_max_age_are_shared(api: Api) -> None:
    api.connect("web", "192.0.2.1")
    first = api.get("/api/v1/services?max_age=60")
    api.connect("web", "192.0.2.2")
    assert api.get("/api/v1/services?max_age=60", name="other", role="view") == first
    assert api.get("/api/v1/services?max_age=0")["rows"][0]["connections"] == 2
    assert api.get("/api/v1/services")["rows"][0]["connections"] == 2
    reply = api.ask("GET", "/api/v1/services?limit=7&max_age=60")
    assert reply.header("Age") == "0"


def test_an_action_makes_the_next_answers_new(api: Api) -> None:
    target = "/api/v1/blocks?max_age=60"
    assert api.get(target)["rows"] == []
    assert api.ask("POST", "/api/v1/blocks", {"network": "192.0.2.1"}).status == 200
    assert len(api.get(target)["rows"]) == 1


def test_times_are_shared_as_they_were_written(api: Api) -> None:
    """Of ``1h``, the moment is another one with each request."""
    shared = api.app.shared.answers
    for _ in range(3):
        api.ask("GET", "/api/v1/history?since=1h&max_age=1")
        api.ask("GET", "/api/v1/connections?closed=true&limit=5&max_age=1")
        api.ask("GET", "/api/v1/connections?max_age=3&limit=5&closed=true")
        api.clock.advance(0.001)
    assert len(shared) <= 2


def test_nothing_is_left_of_streams_that_have_ended(api: Api) -> None:
    live = WatchableConnection(api.registry.get("web")).open()
    clients = [open_stream(api, f"/api/v1/{each}", "operate") for each in ("live", "events", "tap")]
    api.ask("GET", "/api/v1/services?max_age=1")
    assert live.is_watched
    api.clock.pump([1, 1])
    for each in clients:
        each.leave()
    api.clock.pump([60, 60, 2])
    assert not live.is_watched
    assert all(
        each is api.actions
        for monitor in api.registry
        for observers in monitor.observers.by_hook.values()
        for each, _ in observers
    )
    assert api.clock.calls == []
    json.dumps(api.get("/api/v1/services"))


@pytest.mark.parametrize("path", ["live", "events", "tap"])
def test_a_head_opens_nothing(api: Api, path: str) -> None:
    live = WatchableConnection(api.registry.get("web")).open()
    target = f"/api/v1/{path}"
    shared = api.app.shared
    head, calls = api.ask("HEAD", target).response, [*api.clock.calls]
    assert not live.is_watched
    assert api.actions.all == []
    assert (len(shared.taps), len(shared.events), calls) == (0, 0, [])
    full = api.ask("GET", target).response
    assert (head.status, head.content_type, head.headers) == (
        full.status,
        full.content_type,
        full.headers,
    )
    assert not isinstance(full.body, bytes)
    full.body.stop()
    if path != "live":
        assert api.ask("HEAD", f"{target}?service=nope").status == 404
        assert api.ask("HEAD", f"{target}?filter=nope:1").status == 400
