from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monconn.errors import MonconnError
from monconn.model.reasons import CLOSERS, HISTORY_EVENT_KINDS, PIPES, REASONS, STATES
from monconn.model.record import ConnectionRecord
from monconn.ops import filters
from monconn.ops.filter_keys import (
    CONNECTION_KEYS,
    DEVICE_KEYS,
    EVENT_KEYS,
    HISTORY_EVENT_KEYS,
    HISTORY_KEYS,
    IP_KEYS,
)
from monconn.ops.filters import (
    MAX_IDS,
    Context,
    Filter,
    FilterError,
    Keys,
    Mode,
    Part,
    Term,
    complete,
    parse,
    port_of,
)
from monconn.ops.rates import Rates
from monconn.sinks.history.filters import rows
from monconn.sinks.history.schema import _SCHEMA
from monconn.sinks.history.store import facts_text

NOW = 1000.0


def record(**fields: Any) -> ConnectionRecord:
    """A connection that is 600 s old, and has been idle for 300 s."""
    usual: dict[str, Any] = {
        "id": 7,
        "service": "mqtt",
        "client": "10.1.2.3:40001",
        "client_ip": "10.1.2.3",
        "listener": "0.0.0.0:1883",
        "backend": "192.0.2.9:1884",
        "opened_at": 0.0,
        "opened": NOW - 600,
        "last_up": NOW - 300,
        "state": "open",
        "pipe": "copy",
        "up": 2 << 20,
        "down": 100,
    }
    return ConnectionRecord(**{**usual, **fields})


def matches(text: str, row: Any, keys: Keys = CONNECTION_KEYS) -> bool:
    return parse(text, keys).matches(row, Context(NOW, Rates()))


IPV6 = {"client": "[2001:db8::5]:40001", "client_ip": "2001:db8::5"}
UNIX = {"client": "unix:4711", "client_ip": "unix"}
LOST = {"state": "closed", "reason": "client_lost", "closed": NOW - 100}


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("", {}, True),
        ("service:mqtt", {}, True),
        ("SERVICE:MQ", {}, True),
        ("service:=mq", {}, False),
        ("service:=MQTT", {}, True),
        ("service:web", {}, False),
        ("service:web service:mqtt", {}, True),
        ("service:mqtt state:half_closed", {}, False),
        ("not:service:web not:service:mqtt", {}, False),
        ("not:service:web not:service:smtp", {}, True),
        ("client:10.0.0.0/8", {}, True),
        ("client:10.1.2.3", {}, True),
        ("client:10.1.2.30", {}, False),
        ("client:10.1.2.3:40001", {}, True),
        ("client:10.2.0.0/16 client:10.1.2.0/24", {}, True),
        ("not:client:10.0.0.0/8", {}, False),
        ("client:0.0.0.0/0", IPV6, False),
        ("client:2001:db8::/32", IPV6, True),
        ("client:2001:db8::5", IPV6, True),
        ("client:2001:db9::/32", IPV6, False),
        ("client:[2001:db8::5]:40001", IPV6, True),
        ("client:unix", UNIX, True),
        ("client:unix client:10.0.0.0/8", {}, True),
        ("client:unix client:10.0.0.0/8", UNIX, True),
        ("client:unix client:11.0.0.0/8", {}, False),
        ("client:0.0.0.0/0", UNIX, False),
        ("client:fe80::/10", {"client_ip": "fe80::1%eth0"}, True),
        ("state:open", {}, True),
        ("state:closed", {"state": "half_closed"}, False),
        ("state:close", {"state": "half_closed"}, True),
        ("pipe:copy", {}, True),
        ("pipe:splice", {}, False),
        ("age:10m..", {}, True),
        ("age:10m1s..", {}, False),
        ("heard:0..", {}, False),
        ("heard:20s..", {"client_heard": NOW - 20, "backend_heard": NOW - 1}, True),
        ("heard:20s..", {"client_heard": NOW - 1, "backend_heard": NOW - 20}, True),
        ("heard:..19s", {"client_heard": NOW - 20, "backend_heard": None}, False),
        ("heard:20s..", {**LOST, "client_heard": NOW - 119}, False),
        ("unreachable:0..", {}, False),
        ("not:unreachable:0..", {}, True),
        ("unreachable:4s..", {"client_unreachable": NOW - 5}, True),
        ("unreachable:6s..", {"client_unreachable": NOW - 5}, False),
        (
            "unreachable:6s..",
            {"client_unreachable": NOW - 5, "backend_unreachable": NOW - 6},
            True,
        ),
        ("age:10s..10m", {}, True),
        ("age:..9m", {}, False),
        ("idle:300..", {}, True),
        ("idle:..299s", {}, False),
        ("idle:..1m idle:5m..", {}, True),
        ("up:2MiB..", {}, True),
        ("up:..2MiB", {}, True),
        ("up:2097153..", {}, False),
        ("down:1..100", {}, True),
        ("rate:3KiB/s..", {}, True),
        ("rate:4KiB..", {}, False),
        ("reason:client_lost", {}, False),
        ("not:reason:client_lost", {}, True),
        ("reason:client_lost", LOST, True),
        ("reason:client", LOST, True),
        ("reason:lost", LOST, True),
        ("reason:backend", LOST, False),
        ("not:reason:client_lost", LOST, False),
        ("closed_by:client", LOST, True),
        ("closed_by:client", {}, False),
        ("rate:1..", LOST, False),
        ("backend:192.0.2", {}, True),
        ("port:1883", {}, True),
        ("port:1884", {}, True),
        ("port:40001", {}, True),
        ("port:188", {}, False),
        ("port:1800..1900", {}, True),
        ("port:4711", UNIX, False),
        ("not:port:1883", {}, False),
        ("id:7", {}, True),
        ("id:8..", {}, False),
        ("mqtt", {}, True),
        ("MQTT 192.0", {}, True),
        ("mqtt absent", {}, False),
        ("not:absent", {}, True),
        ("not:mqtt", {}, False),
        ("10.0.0.0/8", {}, True),
        ("11.0.0.0/8", {}, False),
        ("2001:db8::/32", IPV6, True),
        ("unix:47", UNIX, True),
        ("[2001:db8::5]:4", IPV6, True),
        ("open", {}, True),
        ("closed", {"state": "half_closed"}, False),
        ("client=10.1.2.3 service=mqtt state=open", {}, True),
        ("mqtt_client_id:sensor", {}, False),
        ("not:mqtt_client_id:sensor", {}, True),
    ],
)
def test_matches(text: str, fields: dict[str, Any], expected: bool) -> None:
    assert matches(text, record(**fields)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt_client_id:sensor-7", True),
        ("fact.mqtt_client_id:SENSOR", True),
        ("mqtt_client_id:=sensor-7", True),
        ("mqtt_client_id:=sensor", False),
        ("mqtt_client_id:sensor-8", False),
        ("packets:12", True),
        ("absent:12", False),
        ("not:absent:12", True),
        ("sensor-7", True),  # a bare word
    ],
)
def test_facts(text: str, expected: bool) -> None:
    with_facts = ConnectionRecord(7, "mqtt", "10.1.2.3:4", "10.1.2.3", ":1", ":2", 0.0, 0.0)
    with_facts.set_fact("mqtt_client_id", "Sensor-7")
    with_facts.set_fact("packets", 12)
    assert matches(text, with_facts) is expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sevice:mqtt", 'unknown key "sevice" in term 1 "sevice:mqtt": did you mean service?'),
        ("mqtt idel:5m..", 'unknown key "idel" in term 2 "idel:5m..": did you mean idle?'),
        (
            "client_ip:10.1",
            'unknown key "client_ip" in term 1 "client_ip:10.1": did you mean client?',
        ),
        ("code:SC", 'unknown key "code" in term 1 "code:SC": did you mean reason?'),
        ("serv:mqtt", 'unknown key "serv" in term 1 "serv:mqtt": did you mean service?'),
        (
            "reason:handshake_failed",
            '"handshake_failed" is a refusal, and no reason of a connection in term 1'
            ' "reason:handshake_failed": refused clients are in events, and in history --events',
        ),
        (
            "reason:client_lots",
            'unknown reason "client_lots" in term 1 "reason:client_lots":'
            " did you mean client_lost?",
        ),
        (
            "pipe:zzz",
            'unknown pipe "zzz" in term 1 "pipe:zzz": there are splice, copy, tls, stream',
        ),
        ("state:=half", 'unknown state "=half" in term 1 "state:=half": did you mean half_closed?'),
        (
            "up:1MiB",
            '"1MiB" is no range in term 1 "up:1MiB":'
            " write up:1MiB.. for at least, up:..1MiB for at most",
        ),
        ("idle:..", 'a range without ends in term 1 "idle:..": write idle:5m..'),
        (
            "idle:5m..1m",
            'a range that ends before it begins in term 1 "idle:5m..1m": write idle:1m..5m',
        ),
        (
            "client:10.0.0.0/33",
            '"10.0.0.0/33" is no network in term 1 "client:10.0.0.0/33":'
            " write 10.0.0.0/8 or 2001:db8::/32",
        ),
        ("port:99999", '"99999" is not a port from 0 to 65535 in term 1 "port:99999"'),
        ("id:x", '"x" is not a whole number in term 1 "id:x": write id:5'),
        ("service:", 'no value after service: in term 1 "service:": write service:VALUE'),
        ("not:", 'not: without a term in term 1 "not:": write not:KEY:VALUE'),
        ("not:not:x", 'not: twice in term 1 "not:not:x": write not:KEY:VALUE'),
        ("''", 'nothing in term 1 "": leave it out'),
        ("up:9999EiB..", '"9999EiB" is more bytes than are ever counted in term 1 "up:9999EiB.."'),
        ("\x1b[2J:5m sevice:\x1b", "unknown key \"sevice\" in term 2 'sevice:\\x1b'"),
    ],
)
def test_errors_say_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text, CONNECTION_KEYS)
    assert str(caught.value).startswith(f"filter: {problem}")
    assert str(caught.value).isprintable()


def test_an_error_has_its_position() -> None:
    with pytest.raises(FilterError) as caught:
        parse("service:'a b'  sevice:mqtt", CONNECTION_KEYS)
    error = caught.value
    assert isinstance(error, MonconnError)
    assert isinstance(error, ValueError)
    assert (error.term, error.text, error.position) == (2, "sevice:mqtt", 15)
    assert (error.problem, error.suggestion) == ('unknown key "sevice"', "did you mean service?")
    with pytest.raises(FilterError) as caught:
        parse(["a", "sevice:mqtt"], CONNECTION_KEYS)
    assert (caught.value.term, caught.value.position) == (2, None)


@pytest.mark.parametrize(("line", "position"), [("a 'b c", 2), ('a "b', 2), ("ab\\", 2)])
def test_a_line_with_an_open_quote(line: str, position: int) -> None:
    with pytest.raises(FilterError) as caught:
        parse(line, CONNECTION_KEYS)
    assert caught.value.position == position


def test_one_argument_is_one_term() -> None:
    assert parse(["backend:a b"], CONNECTION_KEYS) == parse("backend:'a b'", CONNECTION_KEYS)
    assert parse(['it"s'], CONNECTION_KEYS).to_text() == "'it\"s'"


def test_too_many_terms() -> None:
    ids = [f"id:{number}" for number in range(2_000)]
    assert matches(" ".join([*ids, "mqtt"]), record())
    with pytest.raises(FilterError, match="too many ids, 2001: at most 2000"):
        parse([*ids, "id:2000"], CONNECTION_KEYS)
    with pytest.raises(FilterError, match="too many terms, 101: at most 100"):
        parse([f"x{number}" for number in range(101)], CONNECTION_KEYS)


def test_as_many_terms_as_there_may_be_suit_sqlite() -> None:
    ids = [f"id:{number}" for number in range(MAX_IDS)]
    ports = [f"port:{number}..{number + 1}" for number in range(100)]
    row = {"id": MAX_IDS - 1, "client": "10.0.0.5:100", "backend": "", "client_ip": "10.0.0.5"}
    full = {"service": "", "detail": "", "up": 0, "down": 0, "duration_seconds": 0}
    full |= {"reason": "error", "closed_by": "monconn"}
    wanted = parse([*ids, *ports], HISTORY_KEYS)
    assert wanted.matches(row, Context())
    assert found_in_sql("connections", {**row, **full, **unneeded}, wanted)


def test_invalid_unicode_is_refused() -> None:
    with pytest.raises(FilterError):
        parse(["service:\udc80"], CONNECTION_KEYS)


# -- what exists now


@pytest.mark.parametrize("keys", [CONNECTION_KEYS, EVENT_KEYS, HISTORY_KEYS])
def test_a_uid_in_full_is_only_itself(keys: Keys) -> None:
    short, long = (record(id=each) for each in (4, 42))
    for term in (short.uid, f"uid:{short.uid}", f"uid:{short.uid.upper()}"):
        wanted = parse(term, keys)
        assert wanted.to_text() == f"uid:={short.uid}"
        assert parse(wanted.to_text(), keys) == wanted
        rows: list[Any] = [short, long]
        if keys is not CONNECTION_KEYS:
            rows = [each.snapshot(NOW) for each in rows]
        assert list(wanted.select(rows, Context(NOW))) == rows[:1]
    run = short.uid.partition("-")[0]
    assert len(list(parse(f"uid:{run}", CONNECTION_KEYS).select([short, long], Context()))) == 2


def test_what_a_dry_run_would_have_refused() -> None:
    counted, free = record(would_refuse=("per_ip_rate", "rate")), record(id=8)
    for keys, found in (
        (CONNECTION_KEYS, [counted, free]),
        (EVENT_KEYS, [each.snapshot(NOW) for each in (counted, free)]),
    ):
        for text in ("would_refuse:per_ip_rate", "would_refuse:rate", "would_refuse:per_ip"):
            assert list(parse(text, keys).select(found, Context(NOW))) == found[:1]
        assert not list(parse("would_refuse:blocked", keys).select(found, Context(NOW)))
    with pytest.raises(FilterError, match="would_refuse"):
        parse("would_refuse:never", CONNECTION_KEYS)


def test_a_service_in_full_is_only_itself() -> None:
    known = {"service": ["web", "web2"]}
    for text in ("service:web", "web", "service=web"):
        wanted = parse(text, CONNECTION_KEYS, known=known)
        assert wanted.to_text() == "service:=web"
        assert not wanted.matches(record(service="web2"), Context(NOW))
    assert parse("service:we", CONNECTION_KEYS, known=known).to_text() == "service:we"


def test_a_known_fact_is_no_misspelling() -> None:
    assert parse("stat:x", CONNECTION_KEYS, known={"fact": ["stat"]}).to_text() == "fact.stat:x"


@pytest.mark.parametrize("text", ["foo:bar", "not:foo:bar", "foo:1", "Tag:x"])
def test_where_facts_are_known_any_other_key_is_an_error(text: str) -> None:
    known = {"fact": ["tag"]}
    with pytest.raises(FilterError) as caught:
        parse(text, CONNECTION_KEYS, known=known)
    assert "there are id, uid, service, client, state," in str(caught.value)
    assert f"fact.{text.split(':')[-2]}:VALUE for a fact that no connection has had yet" in str(
        caught.value
    )
    parse(text, CONNECTION_KEYS)  # facts of earlier runs, or of an observer's own
    for right in ("tag:bar", "not:tag:bar", "fact.foo:bar"):
        parse(right, CONNECTION_KEYS, known=known)
    with pytest.raises(FilterError, match=r"write not:fact\.tag:VALUE"):  # none may have it now
        parse("not:tag:bar", CONNECTION_KEYS, mode="action", known=known)


@pytest.mark.parametrize(
    "text",
    [
        *("::1", "10.0.0.1:80", "[::1]:80", "fe80::1%eth0", "12:30", "unix:7"),
        *("localhost:80", "db.example:5432", "db-1:5432"),
    ],
)
def test_addresses_and_times_are_no_keys(text: str) -> None:
    for known in ({}, {"fact": ["tag"]}):
        (term,) = parse(text, CONNECTION_KEYS, known=known).terms
        assert term.key in ("", "client")
        again = parse(parse(text, CONNECTION_KEYS).to_text(), CONNECTION_KEYS)
        assert again.terms == (term,)


# -- actions


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (["7"], True),
        (["6", "7"], True),
        (["6"], False),
        (["7", "service:web"], False),
        (["id:7"], True),
        (["client:10.0.0.0/8"], True),
        (["mqtt_client_id:x"], False),
        (["not:fact.mqtt_client_id:x"], True),
    ],
)
def test_an_action_takes_ids_and_terms(terms: Sequence[str], expected: bool) -> None:
    wanted = parse(terms, CONNECTION_KEYS, mode="action")
    assert wanted.matches(record(), Context(NOW)) is expected


@pytest.mark.parametrize(
    ("terms", "advice"),
    [
        ([], "give ids, or terms"),
        (["10.0.0.5"], "write client:10.0.0.5"),
        (["2001:db8::5"], "write client:2001:db8::5"),
        (["mqtt"], "write service:mqtt"),
        (["other"], "write an id, or KEY:VALUE"),
        (["service=mqtt"], "write an id, or KEY:VALUE"),
        (["not:other"], "write an id, or KEY:VALUE"),
        (["unix:5"], "write an id, or KEY:VALUE"),
        (["-1"], "write an id, or KEY:VALUE"),
        (["not:clint_id:x"], "write not:fact.clint_id:VALUE for a fact"),
    ],
)
def test_an_action_takes_no_vague_term(terms: Sequence[str], advice: str) -> None:
    with pytest.raises(FilterError, match=advice):
        parse(terms, CONNECTION_KEYS, mode="action", known={"service": ["mqtt"]})


# -- other listings


def test_devices() -> None:
    row = {
        **{"device": "10.0.5.0/24", "service": "mqtt", "connections": 2, "total": 9, "up": 5},
        **{"down": 0, "last_reason": None, "alarms": ["silent"], "silent_seconds": 90.0},
    }
    for text in ("client:10.0.0.0/8", "device:10.0.5", "connections:2 total:5..", "alarm:silent"):
        assert matches(text, row, DEVICE_KEYS), text
    for text in ("alarm:reconnect_storm", "reason:error", "silent:2m..", "heartbeat:0.."):
        assert not matches(text, row, DEVICE_KEYS), text
    with pytest.raises(FilterError, match="there are service, client, device"):
        parse("pipe:copy", DEVICE_KEYS)


def test_ips() -> None:
    row = {"ip": "10.0.0.5", "connections": 1, "total": 3, "up": 1, "down": 2, "last_reason": None}
    assert matches("ip:10.0.0.0/8 total:3", row, IP_KEYS)
    assert not matches("client:unix", row, IP_KEYS)


def test_events() -> None:
    refusal = {
        "event": "refused",
        "client_ip": "10.0.0.5",
        "client": "10.0.0.5:1",
        "refusal": "rate",
    }
    alarm = {"event": "alarm", "alarm": "silent", "service": "web", "device": "10.0.0.0/24"}
    facts = {"event": "opened", "facts": {"tag": "x"}}
    assert matches(
        "event:refused reason:rate client:10.0.0.0/8 up:0..", {**refusal, "up": 0}, EVENT_KEYS
    )
    assert not matches("up:0..", refusal, EVENT_KEYS)
    assert matches("event:alarm reason:silent 10.0.0.0/8 web", alarm, EVENT_KEYS)
    assert matches("fact.tag:x", facts, EVENT_KEYS)
    assert matches("fact.rate:9", {**facts, "facts": {"rate": 9}}, EVENT_KEYS)
    with pytest.raises(FilterError, match='unknown key "rate"'):
        parse("rate:1KiB..", EVENT_KEYS)


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("10.0.0.5:80", 80),
        ("[::1]:443", 443),
        (":80", 80),
        ("unix:4711", None),
        ("unix:/run/x", None),
        ("443", None),
        ("host:name", None),
        ("", None),
        (None, None),
    ],
)
def test_port_of(address: str | None, port: int | None) -> None:
    assert port_of(address) == port


# -- completion


def test_completes_keys_and_values() -> None:
    known = {"service": ["mqtt", "web"], "fact": ["tag"]}
    assert complete("s", CONNECTION_KEYS, known) == ["service:", "state:"]
    assert complete("t", CONNECTION_KEYS, known) == ["tag:"]
    assert complete("t", HISTORY_KEYS, known) == ["tag:"]
    assert complete("t", HISTORY_EVENT_KEYS, known) == []
    assert complete("n", CONNECTION_KEYS) == ["not:"]
    assert complete("not:cl", CONNECTION_KEYS) == ["not:client:", "not:closed_by:"]
    assert complete("service:m", CONNECTION_KEYS, known) == ["service:mqtt"]
    assert complete("service:=w", CONNECTION_KEYS, known) == ["service:=web"]
    assert complete("not:pipe:s", CONNECTION_KEYS) == ["not:pipe:splice", "not:pipe:stream"]
    assert complete("idle:5", CONNECTION_KEYS) == []
    for word in complete("reason:", CONNECTION_KEYS):
        parse(word, CONNECTION_KEYS)


# -- properties

TABLES = [CONNECTION_KEYS, DEVICE_KEYS, IP_KEYS, EVENT_KEYS, HISTORY_KEYS, HISTORY_EVENT_KEYS]
MODES: list[Mode] = ["listing", "action"]
IPS = ["10.0.0.1", "10.200.0.1", "192.0.2.7", "2001:db8::1", "fe80::1", "unix", "local"]
NETWORKS = ["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "2001:db8::/32", "::/0", "::ffff:10.0.0.0/104"]
SERVICES = ["web", "Web2", "straße", "ТЕСТ", "a b", "x\0y"]
TEXTS = ["we", "=web", "STRASSE", "тест", "unix", ":80", "10.", "б", "\0", "'"]
FACTS = ["sensor-7", "true", "=1", "1e+20", "0.5"]
NUMBERS = ["0", "1", "443", "1.5"]
UNITS = {"seconds": ["", "s", "ms", "m", "h"], "bytes": ["", "KiB", "MiB"], "rate": ["/s", "KiB/s"]}


def values(kind: str, choices: Sequence[str]) -> st.SearchStrategy[str]:
    if kind == "choice":
        return st.sampled_from([*choices, "client", "e"])
    if kind == "network":
        return st.sampled_from(NETWORKS) | st.sampled_from(TEXTS)
    if kind == "text":
        return st.sampled_from(TEXTS + FACTS) | st.sampled_from(SERVICES) | st.text(min_size=1)
    number = st.builds(
        str.__add__, st.sampled_from(NUMBERS), st.sampled_from(UNITS.get(kind, [""]))
    )
    end = st.just("") | number
    return number | st.builds(lambda low, high: f"{low}..{high}", end, end)


def terms(keys: Keys) -> st.SearchStrategy[str]:
    keyed = st.sampled_from(list(keys.by_name.values())).flatmap(
        lambda key: values(key.kind, key.choices).map(lambda value: f"{key.name}:{value}")
    )
    words = st.sampled_from([*NETWORKS, *TEXTS, *SERVICES, *STATES]) | st.text(min_size=1)
    facts = st.sampled_from(["fact.x:", "mqtt_client_id:"]).flatmap(
        lambda name: values("text", ()).map(lambda value: name + value)
    )
    return st.builds(str.__add__, st.sampled_from(["", "", "not:"]), keyed | keyed | words | facts)


def parsed(given_terms: Sequence[str], keys: Keys) -> Filter:
    """A filter of those of the terms that are right."""
    right = []
    for term in given_terms:
        try:
            parse([term], keys)
        except FilterError:
            continue
        right.append(term)
    return parse(right, keys)


@given(st.data(), st.sampled_from(TABLES))
def test_the_canonical_text_means_the_same(data: st.DataObject, keys: Keys) -> None:
    wanted = parsed(data.draw(st.lists(terms(keys), max_size=4)), keys)
    assert parse(wanted.to_text(), keys) == wanted
    assert parse(wanted.to_terms(), keys) == wanted


@given(st.text(), st.sampled_from(TABLES), st.sampled_from(MODES))
def test_any_text_is_understood_or_an_error(text: str, keys: Keys, mode: Mode) -> None:
    complete(text, keys)
    for given_terms in (text, [text], text.split()):
        try:
            wanted = parse(given_terms, keys, mode)
        except FilterError:
            continue
        assert parse(wanted.to_text(), keys) == wanted


@given(st.data(), st.sampled_from(TABLES))
def test_any_term_is_understood_or_an_error(data: st.DataObject, keys: Keys) -> None:
    name = data.draw(st.sampled_from([*keys.by_name, "fact.a", "not:port", "unix", "ſervice"]))
    value = data.draw(st.text("0123456789.:/=abcdefKMiB-%ſ ", max_size=12) | st.text(max_size=5))
    try:
        wanted = parse([f"{name}:{value}"], keys)
    except FilterError:
        return
    assert parse(wanted.to_text(), keys) == wanted


def client_of(ip: Any) -> str:
    return f"[{ip}]:443" if ":" in ip else "unix:443" if ip == "unix" else f"{ip}:443"


def packed(ip: str | None) -> bytes | None:
    network = None if ip is None else filters._network(ip)
    return None if network is None else network.network_address.packed


seconds = st.none() | st.sampled_from([0.0, 0.001, 1.0, 1.5, 60.0, 443.0])
counts = st.sampled_from([0, 1, 443, 1024, 1 << 20])
fact_values = st.one_of(
    st.sampled_from([*TEXTS, *SERVICES, "Sensor-7", True, False, 1, 0.5, 1e20, -(1 << 62)]),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
)
connections = st.fixed_dictionaries(
    {
        **{
            "id": counts,
            "service": st.sampled_from(SERVICES) | st.text(st.characters(codec="utf-8")),
        },
        **{"client_ip": st.sampled_from(IPS), "backend": st.sampled_from(["h:80", "unix:/x", ""])},
        **{"duration_seconds": seconds.map(lambda each: each or 0.0)},
        **{"last_up_seconds": seconds, "last_down_seconds": seconds, "up": counts, "down": counts},
        **{"reason": st.sampled_from(REASONS), "detail": st.sampled_from(TEXTS)},
        "closed_by": st.sampled_from(CLOSERS),
        "pipe": st.none() | st.sampled_from(PIPES),
        "facts": st.dictionaries(st.sampled_from(["x", "mqtt_client_id", "y"]), fact_values),
    }
).map(lambda row: {**row, "client": client_of(row["client_ip"])})
unneeded = {
    **{"run_started_at": 0, "opened_at": 0, "closed_at": 0, "phase": "open", "code": "--"},
    **{"client_end": "fin", "backend_end": "fin"},
}
DB = sqlite3.connect(":memory:")
DB.executescript(_SCHEMA)


def found_in_sql(table: str, row: dict[str, Any], wanted: Filter) -> bool:
    DB.execute(f"DELETE FROM {table}")
    names = ", ".join(row)
    DB.execute(
        f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()]
    )
    condition = wanted.to_sql()
    statement = f"SELECT 1 FROM {table} WHERE {condition.text}"
    return bool(rows(DB, statement, condition.values, condition))


@given(connections, st.lists(terms(HISTORY_KEYS), min_size=1, max_size=4))
def test_sql_and_python_agree_on_connections(row: dict[str, Any], given_terms: list[str]) -> None:
    wanted = parsed(given_terms, HISTORY_KEYS)
    stored = {**row, **unneeded, "client_address": packed(row["client_ip"])}
    stored["facts"] = facts_text(row["facts"])
    assert found_in_sql("connections", stored, wanted) == wanted.matches(row, Context())


@given(st.data(), st.lists(terms(HISTORY_EVENT_KEYS), min_size=1, max_size=4))
def test_sql_and_python_agree_on_events(data: st.DataObject, given_terms: list[str]) -> None:
    wanted = parsed(given_terms, HISTORY_EVENT_KEYS)
    event = data.draw(st.sampled_from(HISTORY_EVENT_KINDS))
    row: dict[str, Any] = {"event": event, "detail": data.draw(st.sampled_from(TEXTS))}
    stored = {**row, "at": 0, "over": 0, "count": 1}
    if event in ("refused", "alarm"):
        service, ip = data.draw(st.sampled_from(SERVICES)), data.draw(st.sampled_from(IPS))
        is_alarm = event == "alarm"
        word = "silent" if is_alarm else "rate"
        client = ip if is_alarm else client_of(ip)
        row |= {"service": service, "alarm" if is_alarm else "refusal": word}
        row |= {"device": client} if is_alarm else {"client": client, "client_ip": ip}
        stored |= {"service": service, "word": word, "client": client, "client_ip": ip}
        stored["client_address"] = packed(ip)
    assert found_in_sql("events", stored, wanted) == wanted.matches(row, Context())


def test_what_has_no_column_is_an_error() -> None:
    with pytest.raises(FilterError, match="state cannot be asked of the history"):
        parse("state:open", CONNECTION_KEYS).to_sql()
    with pytest.raises(FilterError, match=r"fact\.tag cannot be asked of the history"):
        parse("tag:x", CONNECTION_KEYS).to_sql()
    assert parse("", HISTORY_KEYS).to_sql().text == "TRUE"


def test_the_name_of_a_fact_is_not_in_the_statement() -> None:
    name = "x'); DROP TABLE connections; --\""
    wanted = Filter((Term(f"fact.{name}", Part("a")), Term("fact.y", Part("b"))), HISTORY_KEYS)
    assert "DROP" not in wanted.to_sql().text
    row = {"client": "", "backend": "", "service": "", "detail": "", "client_ip": ""}
    full = {"id": 1, "up": 0, "down": 0, "duration_seconds": 0, "reason": "", "closed_by": ""}
    stored = {**row, **full, **unneeded, "facts": facts_text({name: "A", "y": "B"})}
    assert found_in_sql("connections", stored, wanted)
    assert not found_in_sql("connections", {**stored, "facts": facts_text({name: "A"})}, wanted)


def test_a_network_is_found_by_the_index() -> None:
    condition = parse("client:10.0.0.0/8 service:web", HISTORY_KEYS).to_sql()
    for name, function in condition.functions.items():
        DB.create_function(name, 1, function, deterministic=True)
    plan = DB.execute(
        f"EXPLAIN QUERY PLAN SELECT * FROM connections WHERE {condition.text}", condition.values
    )
    assert "connections_by_client" in str(plan.fetchall())
