"""When devices were there, as the API tells it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.faces.http.api_devices import read_names
from monconn.ops.operations import Operations
from monconn.ops.presence import MOST_NAMES
from tests.properties import examples

from .api import Api


class DevicesApi(Api):
    def __init__(self, *services: str) -> None:
        super().__init__(*services)
        self.devices = DevicesService(DevicesConfig(), self.registry, self.clock)
        self.operations = Operations(self.registry, self.clock, devices=self.devices)
        self.app._operations = self.operations


@pytest.fixture
def api() -> DevicesApi:
    return DevicesApi("web", "mqtt")


def test_who_was_there(api: DevicesApi) -> None:
    api.connect("web", "10.0.0.7", "10.0.0.8")
    answer = api.get("/api/v1/devices/presence?names=10.0.0.7,10.0.0.9&since=1h", role="view")
    (row,) = answer["rows"]
    assert (row["device"], row["service"], row["connections"]) == ("10.0.0.7", "web", 1)
    assert len(row["connected"]) == 1
    assert not answer["history"]
    # It is no device of this name.
    assert api.ask("GET", "/api/v1/devices/presenc").status == 404


def test_a_name_with_a_comma(api: DevicesApi) -> None:
    (made,) = api.connect("web", "10.0.0.7")
    made.record.facts["mqtt_client_id"] = "a,b\\c"
    query = quote(r"x,a\,b\\c")
    (row,) = api.get(f"/api/v1/devices/presence?names={query}")["rows"]
    assert row["device"] == "a,b\\c"


@pytest.mark.parametrize("name", [".", "..", "presence", "a/b", "%2f", "__proto__"])
def test_a_name_that_a_path_cannot_have(api: DevicesApi, name: str) -> None:
    (made,) = api.connect("web", "10.0.0.7")
    made.record.facts["mqtt_client_id"] = name
    story = api.get(f"/api/v1/device?name={quote(name, safe='')}")
    assert story["device"]["device"] == name
    assert api.ask("GET", "/api/v1/device").status == 400


@pytest.mark.parametrize(
    "query",
    [
        "",
        "names=",
        "names=,",
        f"names={','.join(map(str, range(MOST_NAMES + 1)))}",
        "names=10.0.0.7&since=nonsense",
        "names=10.0.0.7&since=20&until=10",
        "names=10.0.0.7&since=99999999999999",
    ],
)
def test_what_is_no_question(api: DevicesApi, query: str) -> None:
    assert api.ask("GET", f"/api/v1/devices/presence?{query}").status in (400, 422)


def test_of_a_service_that_there_is_not(api: DevicesApi) -> None:
    target = "/api/v1/devices/presence?names=10.0.0.7&service=ssh"
    assert api.ask("GET", target).json["type"] == "urn:monconn:problem:unknown-service"


def test_where_devices_are_not_watched() -> None:
    reply = Api("web").ask("GET", "/api/v1/devices/presence?names=10.0.0.7")
    assert reply.json["type"] == "urn:monconn:problem:not-configured"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20))
@settings(max_examples=examples(50), deadline=None)
def test_names_are_read_as_they_are_written(names: list[str]) -> None:
    text = ",".join(each.replace("\\", "\\\\").replace(",", "\\,") for each in names)
    assert read_names(text) == tuple(names)
