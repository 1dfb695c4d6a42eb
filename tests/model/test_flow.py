"""The events of a flow, and their form in JSON."""

import json
from typing import get_args

import pytest

from monconn.model import flow
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.model.record import ConnectionRecord

EVENTS: tuple[FlowEvent, ...] = (
    Began(7, 1.5, 1.0, "abc-7", "mqtt", "10.0.0.1:50", None, "b:1883", 3, 4, {"protocol": "mqtt"}),
    Data(7, 2.0, "up", 3, b"\x00\xff\n"),
    SideEnded(7, 2.5, "client", "fin"),
    Ended(7, 3.0, 6, 4, "client_closed", "said goodbye", {"protocol": "mqtt"}),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_json_and_back(event: FlowEvent) -> None:
    assert flow.from_json(json.loads(json.dumps(flow.to_json(event)))) == event


def test_all_kinds_are_tried() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(FlowEvent))


def test_what_a_later_version_sends_is_passed_over() -> None:
    assert flow.from_json({"event": "renamed", "connection": 7}) is None
    values = {**flow.to_json(EVENTS[2]), "new": 1}
    assert flow.from_json(values) == EVENTS[2]


@pytest.mark.parametrize(
    "wrong", [{"data": "§"}, {"data": 7}, {"data": None}, {"data": "AAA"}], ids=str
)
def test_malformed_data(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="malformed event"):
        flow.from_json({**flow.to_json(EVENTS[1]), **wrong})
    with pytest.raises(ValueError, match="malformed event"):
        flow.from_json({"event": "ended"})


def test_events_of_a_record() -> None:
    record = ConnectionRecord(7, "mqtt", "10.0.0.1:50", "10.0.0.1", "", "b:1883", 5.0, 9.0)
    record.count("up", 5, 10.0)
    record.set_fact("user", "ada")
    began = flow.began(record, 20.0)
    assert (began.connection, began.up, began.down, began.facts) == (
        record.id,
        5,
        0,
        {"user": "ada"},
    )
    record.end("operator", 11.0, "by hand")
    assert flow.ended(record, 21.0).reason is None, "it is not closed yet"
    record.closed = 12.0
    ended = flow.ended(record, 22.0)
    assert (ended.up, ended.reason, ended.detail) == (5, "operator", "by hand")
