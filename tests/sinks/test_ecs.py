"""The JSON log in the Elastic Common Schema: every event has only fields of its types."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies
from twisted.internet.task import Clock

from monconn.config.sections import JsonLogConfig
from monconn.model.actions import ACTION_KINDS, Action, Actor
from monconn.model.alarms import Alarm
from monconn.model.reasons import REASONS, Reason
from monconn.model.record import ConnectionRecord
from monconn.sinks import ecs, jsonlog
from monconn.sinks.jsonlog import JsonLog, _Writer, format_of
from tests.counting import calls_in_python
from tests.properties import examples

from .test_jsonlog import MemorySink

FORMAT = format_of(JsonLogConfig("unused", format="ecs"))
NOON = 1_700_000_000.0

# Of the fields that are used: their types in ECS 8.11, as in its generated/csv/fields.csv.
TYPES = {
    "@timestamp": "date",
    "ecs.version": "keyword",
    "error.message": "text",
    **{
        f"event.{name}": "keyword"
        for name in ("action", "category", "dataset", "kind", "module", "outcome", "reason", "type")
    },
    "event.duration": "long",
    "event.end": "date",
    "event.start": "date",
    **{
        f"{end}.{name}": kind
        for end in ("source", "destination", "client", "server")
        for name, kind in (
            ("address", "keyword"),
            ("ip", "ip"),
            ("port", "long"),
            ("bytes", "long"),
        )
    },
    "http.request.method": "keyword",
    "labels": "object",
    "message": "text",
    "network.bytes": "long",
    "network.community_id": "keyword",
    "network.direction": "keyword",
    "network.protocol": "keyword",
    "network.transport": "keyword",
    "network.type": "keyword",
    "observer.hostname": "keyword",
    "observer.product": "keyword",
    "observer.type": "keyword",
    "observer.version": "keyword",
    "rule.name": "keyword",
    "service.name": "keyword",
    "tls.client.server_name": "keyword",
    "tls.established": "boolean",
    "tls.next_protocol": "keyword",
    "tls.version": "keyword",
    "tls.version_protocol": "keyword",
    "url.domain": "keyword",
    "url.path": "wildcard",
    "url.port": "long",
    "user.id": "keyword",
    "user.name": "keyword",
}
VALUES = {
    "event.kind": {"alert", "event", "pipeline_error"},
    "event.category": {
        *("network", "configuration", "database", "process", "authentication", "session", "iam"),
    },
    "event.outcome": {"success", "failure", "unknown"},
    "network.direction": {"ingress", "egress"},
    "network.type": {"ipv4", "ipv6"},
    "network.transport": {"tcp"},
}
EXPECTED_TYPES = {
    "authentication": {"start", "end", "info"},
    "session": {"start", "end", "info"},
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
    "database": {"access", "change", "error", "info"},
    "process": {"access", "change", "end", "info", "start"},
}
"""Which types ECS expects of the events of a category."""
OWN = {"monconn", "labels"}


def fields(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict) and prefix + key not in OWN:
            yield from fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def is_of(kind: str, value: Any) -> bool:
    if kind == "long":
        return type(value) is int and abs(value) < 1 << 63
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "ip":
        return "%" not in value and bool(ipaddress.ip_address(value))
    if kind == "date":
        return datetime.fromisoformat(value).tzinfo is not None
    if kind == "object":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    return isinstance(value, str) and value != "" and bool(value.encode())  # is Unicode


def check(document: Mapping[str, Any]) -> None:
    """Make sure that an index with the mappings of ECS takes a document."""
    for name, value in fields(document):
        if name == "monconn":
            assert None not in value.values()
            continue
        several = value if isinstance(value, list) else [value]
        assert all(is_of(TYPES[name], each) for each in several), (name, value)
        if name in VALUES:
            assert VALUES[name].issuperset(several), (name, value)
    event = document["event"]
    assert {"kind", "action", "type"} <= event.keys()
    for category in event.get("category", ()):
        assert set(event["type"]) <= EXPECTED_TYPES[category]
    for one, other in (("source", "client"), ("destination", "server")):
        assert document.get(one) == document.get(other)


def make_record(**values: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 7,
        "service": "web",
        "client": "192.0.2.1:4711",
        "client_ip": "192.0.2.1",
        "listener": ":80",
        "backend": "10.0.0.5:80",
        "opened_at": NOON,
        "opened": 100.0,
    }
    return ConnectionRecord(**known | values)


def close(record: ConnectionRecord, reason: Reason = "client_closed", detail: str = "") -> None:
    record.end(reason, 102.5, detail)
    record.state = "closed"
    record.closed, record.closed_at = 102.5, NOON + 2.5


def ended(record: ConnectionRecord) -> dict[str, Any]:
    line = FORMAT.encode_ended(record)
    assert line.isascii()
    made: dict[str, Any] = json.loads(line)
    check(made)
    return made


def test_a_closed_connection() -> None:
    record = make_record(client_local="198.51.100.9:80", backend_peer="10.0.0.5:80")
    record.backend_local = "10.0.0.1:40000"
    record.up, record.down, record.connected = 300, 12, 100.5
    record.note_tcp("client", bytes(232), 102.0)
    close(record)
    made = ended(record)
    assert made["@timestamp"] == made["event"]["end"] == "2023-11-14T22:13:22.500+00:00"
    assert made["event"] == {
        "kind": "event",
        "category": ["network"],
        "type": ["connection", "end"],
        "action": "connection_closed",
        "module": "monconn",
        "dataset": "monconn.log",
        "outcome": "success",
        "reason": "client_closed",
        "duration": 2_500_000_000,
        "start": "2023-11-14T22:13:20.000+00:00",
        "end": "2023-11-14T22:13:22.500+00:00",
    }
    assert made["source"] == {
        "address": "192.0.2.1",
        "ip": "192.0.2.1",
        "port": 4711,
        "bytes": 300,
    }
    assert made["destination"] == {
        "address": "198.51.100.9",
        "ip": "198.51.100.9",
        "port": 80,
        "bytes": 12,
    }
    assert made["network"] == {
        "transport": "tcp",
        "type": "ipv4",
        "direction": "ingress",
        "bytes": 312,
        "community_id": record.community_id,
    }
    assert made["service"] == {"name": "web"}
    own = made["monconn"]
    assert (own["uid"], own["id"], own["code"]) == (record.uid, 7, "--")
    assert own["backend"] == {
        "address": "10.0.0.5",
        "ip": "10.0.0.5",
        "port": 80,
        "local": {"address": "10.0.0.1", "ip": "10.0.0.1", "port": 40000},
        "community_id": record.backend_community_id,
    }
    assert own["client_tcp"]["retransmits"] == 0
    # Nothing of our own format is lost.
    moved = {"service", "client", "client_ip", "up", "down", "opened_at", "closed_at"}
    moved |= {"duration_seconds", "reason"}
    values = {k: v for k, v in record.snapshot(102.5).items() if v is not None}
    assert {*values} - {*own} == moved
    assert {key: own[key] for key in values.keys() - moved - {"backend"}} == {
        key: values[key] for key in values.keys() - moved - {"backend"}
    }


@pytest.mark.parametrize("reason", REASONS)
def test_the_outcome_of_each_reason(reason: Reason) -> None:
    record = make_record()
    close(record, reason, "ECONNRESET")
    made = ended(record)
    on_purpose = ("operator", "blocked", "stopping", "lifetime")
    outcome = "success" if record.code == "--" else "failure"
    assert made["event"]["outcome"] == ("unknown" if reason in on_purpose else outcome)
    assert made["event"]["reason"] == reason
    is_failure = made["event"]["outcome"] == "failure"
    assert made.get("error") == ({"message": "ECONNRESET"} if is_failure else None)
    assert made["monconn"]["detail"] == "ECONNRESET"


def test_a_refused_client() -> None:
    record = make_record(refusal="handshake_failed", state="closed", detail="no TLS")
    record.closed, record.closed_at = record.opened, record.opened_at
    made = ended(record)
    event = made["event"]
    assert (event["action"], event["type"]) == ("connection_refused", ["connection", "denied"])
    assert (event["outcome"], event["reason"]) == ("failure", "handshake_failed")
    assert made["error"] == {"message": "no TLS"}
    assert made["monconn"]["code"] == "PR"


ADDRESSES: list[tuple[str, dict[str, Any]]] = [
    ("192.0.2.1:80", {"address": "192.0.2.1", "ip": "192.0.2.1", "port": 80}),
    ("[2001:db8::1]:80", {"address": "2001:db8::1", "ip": "2001:db8::1", "port": 80}),
    ("[fe80::1%eth0]:80", {"address": "fe80::1%eth0", "ip": "fe80::1", "port": 80}),
    ("db.example:5432", {"address": "db.example", "port": 5432}),
    (":80", {"port": 80}),
    ("0.0.0.0:80", {"port": 80}),
    ("[::]:80", {"port": 80}),
    ("unix:4711", {"address": "unix:4711"}),
    ("unix", {"address": "unix"}),
    ("unix:/run/web.sock", {"address": "unix:/run/web.sock"}),
    ("tls:db.example:5432", {"address": "tls:db.example:5432"}),
    ("tcp:80", {"address": "tcp:80"}),
    ("local", {"address": "local"}),
    ("80", {"address": "80"}),
    ("a:999999", {"address": "a:999999"}),
]


@pytest.mark.parametrize(("text", "expected"), ADDRESSES)
def test_addresses_of_every_form(text: str, expected: dict[str, Any]) -> None:
    assert ecs._endpoint(text) == expected
    record = make_record(client=text, listener=text, backend=text)
    close(record)
    made = ended(record)
    assert made["source"] == {**expected, "bytes": 0}
    assert made["monconn"]["backend"] == expected
    assert ("transport" in made["network"]) == ("ip" in expected)


ANY_TEXT = strategies.one_of(
    strategies.text(),
    strategies.text(strategies.characters()),  # with halves of surrogate pairs
    strategies.from_regex(r"\[?[0-9a-f.:%]{1,20}\]?:[0-9]{1,6}", fullmatch=True),
)


@settings(max_examples=examples(300))
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
@example("\udc80", "unix:/\udcff", "\ud83d\ude00")
@example("127.0.0.1:65536", "[::1]:٣", "127.0.0.1\0:1")
def test_any_text_is_an_address(client: str, listener: str, backend: str) -> None:
    record = make_record(client=client, listener=listener, backend=backend)
    record.client_local, record.backend_peer = listener or None, backend or None
    close(record)
    ended(record)


def test_a_wrapped_server_has_no_backend() -> None:
    record = make_record(listener="127.0.0.1:80", backend="")
    close(record)
    assert "backend" not in ended(record)["monconn"]


def test_a_connection_that_we_made_as_a_client() -> None:
    record = make_record(client="10.0.0.1:40000", client_ip="local", listener="")
    record.backend_local, record.backend_peer = "10.0.0.1:40000", "10.0.0.5:80"
    close(record)
    made = ended(record)
    assert made["destination"] == {
        "address": "10.0.0.5",
        "ip": "10.0.0.5",
        "port": 80,
        "bytes": 0,
    }
    assert made["network"]["direction"] == "egress"
    assert made["network"]["community_id"] == record.backend_community_id is not None


def test_facts_are_labels_and_those_of_tls_have_their_fields() -> None:
    record = make_record(pipe="tls")
    for name, value in (
        *(("tls_version", "1.3"), ("tls_server_name", "web.example"), ("alpn", "h2")),
        *(("retries", 3), ("is_test", True)),
    ):
        record.set_fact(name, value)
    close(record)
    made = ended(record)
    assert made["tls"] == {
        "established": True,
        "version_protocol": "tls",
        "version": "1.3",
        "client": {"server_name": "web.example"},
        "next_protocol": "h2",
    }
    assert made["labels"]["retries"] == "3"
    assert made["labels"]["is_test"] == "true"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("www.example.org", {"domain": "www.example.org"}),
        ("www.example.org:8080", {"domain": "www.example.org", "port": 8080}),
        ("[2001:db8::1]:80", {"domain": "[2001:db8::1]", "port": 80}),
        ("www.example.org:", {"domain": "www.example.org:"}),
        ("a:99999", {"domain": "a:99999"}),
        ("a:" + "9" * 250, {"domain": "a:" + "9" * 250}),
        (":80", {"domain": ":80"}),
    ],
)
def test_what_a_request_has_told_has_its_fields(host: str, url: dict[str, Any]) -> None:
    record = make_record()
    record.add_facts(
        {"protocol": "http", "http_method": "GET", "http_path": "/pumps", "http_host": host}
    )
    close(record)
    made = ended(record)
    assert made["network"]["protocol"] == "http"
    assert made["http"] == {"request": {"method": "GET"}}
    assert made["url"] == {**url, "path": "/pumps"}


def test_tls_that_passes_through_has_its_server_name_only() -> None:
    record = make_record()
    record.add_facts({"protocol": "tls", "tls_server_name": "web.example"})
    close(record)
    assert ended(record)["tls"] == {"client": {"server_name": "web.example"}}


def test_an_unknown_protocol_is_none() -> None:
    record = make_record()
    record.add_facts({"protocol": "unknown"})
    close(record)
    assert "protocol" not in ended(record)["network"]


def lines_of(log: JsonLog, sink: MemorySink) -> list[dict[str, Any]]:
    assert log.stop(10.0)
    lines = [json.loads(line) for line in sink.data.splitlines()]
    for line in lines:
        check(line)
    return lines


def make_log(sink: MemorySink) -> JsonLog:
    clock = Clock()
    clock.advance(101.5)
    return JsonLog(sink, clock, at_open=True, at_half_close=True, format=FORMAT)


def test_events_of_a_live_connection_are_as_of_then() -> None:
    sink = MemorySink()
    log, record = make_log(sink), make_record(state="open")
    log.opened(record)
    log.half_closed(record, "client")
    record.up = 5
    log.update(record)
    close(record)
    opened, half_closed, update = lines_of(log, sink)
    assert opened["event"]["type"] == ["connection", "start", "allowed"]
    assert opened["event"]["duration"] == 1_500_000_000
    assert [line["source"]["bytes"] for line in (opened, half_closed, update)] == [0, 0, 5]
    assert half_closed["monconn"]["side"] == "client"
    assert update["monconn"]["state"] == "open"
    actions = [line["event"]["action"] for line in (opened, half_closed, update)]
    assert actions == ["connection_opened", "connection_half_closed", "connection_update"]


@pytest.mark.parametrize("device", ["192.0.2.1", "2001:db8::/64"])
def test_an_alarm(device: str) -> None:
    sink = MemorySink()
    log = make_log(sink)
    for is_over in (False, True):
        log.alarmed(Alarm("silent", "web", device, NOON, is_over, "silent for 3m"))
    alarm, over = lines_of(log, sink)
    assert (alarm["event"]["kind"], alarm["rule"]["name"]) == ("alert", "silent")
    assert (alarm["event"]["action"], over["event"]["action"]) == ("alarm", "alarm_over")
    assert alarm["monconn"] == {
        "alarm": "silent",
        "device": device,
        "name": device,
        "addresses": [],
        "over": False,
        "detail": "silent for 3m",
    }
    assert ("source" in alarm) == ("/" not in device)


def test_an_alarm_of_a_device_with_a_name() -> None:
    sink = MemorySink()
    log = make_log(sink)
    log.alarmed(Alarm("duplicate", "web", "pump-7", NOON, False, "twice", addresses=("192.0.2.1",)))
    (alarm,) = lines_of(log, sink)
    assert alarm["client"] == {"address": "192.0.2.1", "ip": "192.0.2.1"}
    assert (alarm["monconn"]["device"], alarm["monconn"]["addresses"]) == ("pump-7", ["192.0.2.1"])
    assert alarm["message"] == "pump-7 (192.0.2.1) duplicate alarm: twice"


def test_an_alarm_of_the_service_itself() -> None:
    sink = MemorySink()
    log = make_log(sink)
    figures = {"backend": "10.9.9.9:80", "attempts": 3}
    alarm = Alarm(
        "backend_down", "web", "", NOON, False, "gone", subject="10.9.9.9:80", figures=figures
    )
    log.alarmed(alarm)
    (line,) = lines_of(log, sink)
    assert line["message"] == "backend_down alarm: gone"
    assert (line["monconn"]["subject"], line["monconn"]["attempts"]) == ("10.9.9.9:80", 3)
    assert "client" not in line


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_alarm_that_goes_on_is_no_new_one(goes_on: bool) -> None:
    sink = MemorySink()
    log = make_log(sink)
    log.alarmed(Alarm("silent", "web", "192.0.2.1", NOON, False, "said nothing", goes_on))
    (line,) = lines_of(log, sink)
    assert line["monconn"].get("goes_on", False) == goes_on


@pytest.mark.parametrize("kind", ACTION_KINDS)
@pytest.mark.parametrize(
    ("actor", "user"),
    [
        (Actor.process(1000, 77, "ada"), {"id": "1000", "name": "ada"}),
        (Actor.process(1000, 77), {"id": "1000"}),
        (Actor.ssh("SHA256:abc", "ada"), {"name": "ada"}),
        (Actor.certificate("CN=ada"), {"name": "CN=ada"}),
        (Actor.token("grafana"), {"name": "grafana"}),
        (Actor.session("uid 0 (root)"), {"name": "uid 0 (root)"}),
        (Actor.signal("SIGTERM"), None),
        (Actor("code"), None),
    ],
)
def test_an_action(kind: Any, actor: Actor, user: dict[str, str] | None) -> None:
    sink = MemorySink()
    log = make_log(sink)
    log.acted(Action(kind, actor, NOON, None if kind == "stop" else "web", "id 7", 1))
    (line,) = lines_of(log, sink)
    assert line["event"]["action"] == kind
    assert line.get("user") == user
    assert line["monconn"] == {
        "actor": actor.describe(),
        "target": "id 7",
        "count": 1,
        "changed": True,
    }


def test_lines_that_are_missing() -> None:
    sink = MemorySink()
    _Writer(sink, FORMAT).write(jsonlog._Batch([], 250))
    (line,) = [json.loads(each) for each in sink.data.splitlines()]
    check(line)
    assert line["event"]["kind"] == "pipeline_error"
    assert line["monconn"] == {"count": 250}


CALLS_PER_LINE = 27
"""In Python: some twice as many as a line of the native format, and addresses met before."""


def test_calls_in_python_for_a_line() -> None:
    record = make_record(client_local="198.51.100.9:80", backend_peer="10.0.0.5:80")
    record.backend_local = "10.0.0.1:40000"
    record.note_tcp("client", bytes(232), 102.0)
    record.note_tcp("backend", bytes(232), 102.0)
    close(record)
    writer = _Writer(MemorySink(), FORMAT)
    writer._encoded([record])
    assert calls_in_python(lambda: writer._encoded([record] * 100)) <= 2 + 100 * CALLS_PER_LINE
