from __future__ import annotations

import json
import struct
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from monconn.model import uid
from monconn.model.reasons import BROKEN_REASONS, CLOSED_REASONS, REASONS, REFUSALS, Reason, Side
from monconn.model.record import (
    FACT_CHARACTERS,
    FACT_NAME_CHARACTERS,
    FACTS,
    ConnectionRecord,
    iso_time,
)
from monconn.net.sockets import TCP_INFO_BYTES
from tests.properties import examples

PHASES = ("connecting", "open", "half_closed")
SIDES: tuple[Side, ...] = ("client", "backend")


def make_record(**fields: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 7,
        "service": "web",
        "client": "192.0.2.1:4711",
        "client_ip": "192.0.2.1",
        "listener": "127.0.0.1:80",
        "backend": "10.0.0.5:80",
        "opened_at": 1_700_000_000.25,
        "opened": 100.0,
    }
    return ConnectionRecord(**known | fields)


def ended(reason: Reason, **fields: Any) -> ConnectionRecord:
    record = make_record(**fields)
    assert record.end(reason, now=110.0)
    return record


# -- the closed lists


def test_reasons_are_those_of_the_design() -> None:
    assert REASONS == (
        "client_closed",
        "client_reset",
        "client_lost",
        "backend_closed",
        "backend_reset",
        "backend_lost",
        "backend_refused",
        "backend_unreachable",
        "connect_timeout",
        "read_timeout",
        "write_timeout",
        "idle_timeout",
        "half_close_timeout",
        "lifetime",
        "operator",
        "blocked",
        "stopping",
        "error",
    )


def test_refusals_are_those_of_the_design() -> None:
    assert REFUSALS == (
        "blocked",
        "not_allowed",
        "conn_limit",
        "ip_limit",
        "per_ip_limit",
        "rate",
        "per_ip_rate",
        "draining",
        "handshake_failed",
        "handshake_timeout",
        "stopping",
    )


# -- closed_by and code, by reason


WHO = {
    "client_closed": ("client", "-"),
    "client_reset": ("client", "C"),
    "client_lost": ("client", "C"),
    "backend_closed": ("backend", "-"),
    "backend_reset": ("backend", "S"),
    "backend_lost": ("backend", "S"),
    "backend_refused": ("backend", "S"),
    "backend_unreachable": ("backend", "S"),
    "connect_timeout": ("monconn", "s"),
    "read_timeout": ("monconn", "c"),
    "write_timeout": ("monconn", "c"),
    "idle_timeout": ("monconn", "c"),
    "half_close_timeout": ("monconn", "c"),
    "lifetime": ("monconn", "P"),
    "operator": ("operator", "K"),
    "blocked": ("monconn", "P"),
    "stopping": ("monconn", "K"),
    "error": ("monconn", "I"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_closed_by(reason: Reason) -> None:
    assert ended(reason).closed_by == WHO[reason][0]


@pytest.mark.parametrize(
    ("phase", "backend_end", "letter"),
    [
        ("connecting", "none", "C"),
        ("open", "none", "D"),
        ("half_closed", "none", "D"),
        ("half_closed", "fin", "L"),  # the last bytes, after the backend has finished
    ],
)
@pytest.mark.parametrize("reason", REASONS)
def test_code(reason: Reason, phase: str, backend_end: str, letter: str) -> None:
    who = WHO[reason][1]
    record = ended(reason, state=phase, backend_end=backend_end)
    assert record.code == ("--" if who == "-" else who + letter)


@pytest.mark.parametrize(
    ("reason", "ends", "code"),
    [
        ("write_timeout", {"client_end": "timeout"}, "cD"),
        ("write_timeout", {"backend_end": "timeout"}, "sD"),
        # The side that has not ended is the one that was waited for.
        ("half_close_timeout", {"backend_end": "fin"}, "cL"),
        ("half_close_timeout", {"client_end": "fin"}, "sD"),
        ("idle_timeout", {"backend_end": "fin", "last_up": 105.0}, "cL"),
        ("idle_timeout", {"client_end": "fin", "last_down": 105.0}, "sD"),
        ("half_close_timeout", {"client_end": "fin", "backend_end": "fin"}, "cL"),
        # If neither has, it is the receiver of the last bytes.
        ("idle_timeout", {}, "cD"),
        ("idle_timeout", {"last_up": 105.0}, "sD"),
        ("idle_timeout", {"last_up": 105.0, "last_down": 104.0}, "sD"),
        ("idle_timeout", {"last_up": 105.0, "last_down": 106.0}, "cD"),
        ("idle_timeout", {"last_down": 105.0}, "cD"),
    ],
)
def test_code_names_the_side_that_timed_out(
    reason: Reason, ends: dict[str, str], code: str
) -> None:
    assert ended(reason, state="half_closed", **ends).code == code


@pytest.mark.parametrize("refusal", REFUSALS)
def test_code_of_a_refused_client(refusal: str) -> None:
    record = make_record(refusal=refusal, state="closed")
    assert (record.code, record.closed_by) == ("PR", None)


@pytest.mark.parametrize("phase", PHASES)
def test_a_live_connection_was_ended_by_no_side(phase: str) -> None:
    record = make_record(state=phase)
    assert (record.reason, record.closed_by, record.code) == (None, None, None)


def test_new_record() -> None:
    record = make_record()
    assert (record.state, record.up, record.down) == ("connecting", 0, 0)
    assert (record.client_end, record.backend_end) == ("none", "none")


# -- ending


def test_end_records_reason_phase_and_time() -> None:
    record = make_record(state="half_closed")
    assert record.end("operator", now=123.0)
    assert (record.reason, record.phase, record.ending) == ("operator", "half_closed", 123.0)
    assert record.state == "closing"


def test_first_reason_stays() -> None:
    record = make_record(state="open")
    assert record.end("client_reset", now=110.0, detail="ECONNRESET")
    assert not record.end("stopping", now=200.0, detail="later")
    assert record.detail == "ECONNRESET"
    assert (record.reason, record.phase, record.ending) == ("client_reset", "open", 110.0)


def test_ends_after_the_verdict_are_answers_to_it() -> None:
    record = make_record(state="open")
    record.note_end("backend", "fin")
    record.end("operator", now=110.0)
    record.note_end("client", "fin")
    record.note_end("backend", "reset")
    assert (record.client_end, record.backend_end) == ("none", "fin")


@pytest.mark.parametrize("side", ["client", "backend"])
def test_reason_of_a_side_that_ends_is_that_sides(side: Any) -> None:
    reasons = [CLOSED_REASONS[side], *(BROKEN_REASONS[side, how] for how in ("reset", "timeout"))]
    assert reasons == [f"{side}_closed", f"{side}_reset", f"{side}_lost"]
    assert BROKEN_REASONS[side, "none"] == "error"  # a failure on our side


# -- one line for people


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"state": "open", "last_up": 104.0, "up": 812, "down": 2048},
            "192.0.2.1:4711 open, 10.0s old, idle 6.00s, up 812 B, down 2.0 KiB",
        ),
        (
            {"reason": "client_closed", "closed": 345.0},
            "192.0.2.1:4711 client_closed after 4m05s, up 0 B, down 0 B",
        ),
        (
            {"reason": "backend_refused", "detail": "refused by {name}", "closed": 101.0},
            "192.0.2.1:4711 backend_refused after 1.00s, up 0 B, down 0 B (refused by {name})",
        ),
        ({"refusal": "ip_limit", "closed": 100.0}, "192.0.2.1:4711 refused: ip_limit"),
    ],
)
def test_describe(fields: dict[str, Any], line: str) -> None:
    assert make_record(**fields).describe(now=110.0) == line


# -- durations


@pytest.mark.parametrize(
    ("fields", "activity"),
    [
        ({}, 100.0),
        ({"last_up": 103.0}, 103.0),
        ({"last_down": 104.0}, 104.0),
        ({"last_up": 103.0, "last_down": 102.0}, 103.0),
        ({"last_up": 103.0, "last_delivered": 105.0}, 105.0),  # what had waited for a peer
    ],
)
def test_activity_is_either_way_and_counts_from_the_opening(
    fields: dict[str, float], activity: float
) -> None:
    record = make_record(**fields)
    assert record.last_activity == activity
    assert record.idle_seconds(now=110.0) == 110.0 - activity


def test_durations_do_not_grow_after_the_close() -> None:
    record = make_record(last_up=101.0, closed=105.0)
    assert (record.age_seconds(now=999.0), record.idle_seconds(now=999.0)) == (5.0, 4.0)


@pytest.mark.parametrize(("connected", "seconds"), [(None, None), (100.5, 0.5)])
def test_connect_seconds(connected: float | None, seconds: float | None) -> None:
    assert make_record(connected=connected).connect_seconds == seconds


# -- the snapshot


LIVE_TYPES = {
    "id": int,
    "uid": str,
    "service": str,
    "client": str,
    "client_ip": str,
    "listener": str,
    "backend": str,
    "state": str,
    "pipe": str,
    "up": int,
    "down": int,
    "opened_at": str,
    "age_seconds": float,
    "idle_seconds": float,
    "connect_seconds": float,
    "first_up_seconds": float,
    "first_down_seconds": float,
    "last_up_seconds": float,
    "last_down_seconds": float,
    "client_end": str,
    "backend_end": str,
    "client_last_heard_seconds": float,
    "backend_last_heard_seconds": type(None),
}
CLOSED_TYPES = LIVE_TYPES | {
    "closed_at": str,
    "duration_seconds": float,
    "reason": str,
    "phase": str,
    "code": str,
    "closed_by": str,
    "detail": str,
}
REFUSED_TYPES = LIVE_TYPES | {
    "client_last_heard_seconds": type(None),
    "connect_seconds": type(None),
    "first_up_seconds": type(None),
    "first_down_seconds": type(None),
    "last_up_seconds": type(None),
    "last_down_seconds": type(None),
    "closed_at": str,
    "duration_seconds": float,
    "refusal": str,
    "code": str,
}

MOVED = {"first_up": 100.6, "first_down": 100.7, "last_up": 101.2, "last_down": 101.3}
LIVE = {"state": "open", "connected": 100.5, "client_heard": 101.2, **MOVED}
CLOSED = {
    "state": "closed",
    "connected": 100.5,
    "client_heard": 104.5,
    **MOVED,
    "reason": "backend_reset",
    "phase": "open",
    "closed": 105.0,
    "closed_at": 1_700_000_005.25,
    "detail": "ECONNRESET",
}
REFUSED = {
    "state": "closed",
    "refusal": "blocked",
    "closed": 100.0,
    "closed_at": 1_700_000_000.25,
}


@pytest.mark.parametrize(
    ("fields", "types"),
    [(LIVE, LIVE_TYPES), (CLOSED, CLOSED_TYPES), (REFUSED, REFUSED_TYPES)],
    ids=["live", "closed", "refused"],
)
def test_snapshot_is_json(fields: dict[str, Any], types: dict[str, type]) -> None:
    snapshot = make_record(**fields).snapshot(now=110.0)
    assert {key: type(value) for key, value in snapshot.items()} == types
    assert json.loads(json.dumps(snapshot, allow_nan=False)) == snapshot


def test_snapshot_of_a_closed_connection() -> None:
    """Durations are rounded: to microseconds, and where the kernel counts them, to milliseconds."""
    fields = {
        **CLOSED,
        "up": 12,
        "down": 34,
        "connected": 100.5000014,
        "first_up": 100.6,
        "first_down": 100.7000004,
        "last_up": 101.2,
        "last_down": 101.1,
        "closed": 105.0123,
        "client_end": "fin",
    }
    assert make_record(**fields).snapshot(now=999.0) == {
        "id": 7,
        "uid": f"{uid.run}-7",
        "service": "web",
        "client": "192.0.2.1:4711",
        "client_ip": "192.0.2.1",
        "listener": "127.0.0.1:80",
        "backend": "10.0.0.5:80",
        "state": "closed",
        "pipe": "stream",
        "up": 12,
        "down": 34,
        "opened_at": "2023-11-14T22:13:20.250+00:00",
        "closed_at": "2023-11-14T22:13:25.250+00:00",
        "age_seconds": 5.0123,
        "idle_seconds": 3.8123,
        "duration_seconds": 5.0123,
        "connect_seconds": 0.500001,
        "first_up_seconds": 0.6,
        "first_down_seconds": 0.7,
        "last_up_seconds": 1.2,
        "last_down_seconds": 1.1,
        "client_end": "fin",
        "backend_end": "none",
        "client_last_heard_seconds": 0.512,
        "backend_last_heard_seconds": None,
        "reason": "backend_reset",
        "phase": "open",
        "code": "SD",
        "closed_by": "backend",
        "detail": "ECONNRESET",
    }


moments = strategies.none() | strategies.floats(1e5, 1e5 + 1e6)


@settings(max_examples=examples(100), deadline=None)
@given(moments, moments, strategies.floats(1e5, 1e5 + 1e6))
def test_durations_are_rounded_as_round_does(
    connected: float | None, heard: float | None, closed: float
) -> None:
    """But for the last digit, where a figure lies between two."""
    record = make_record(opened=1e5, connected=connected, client_heard=heard, closed=closed)
    values = record.snapshot(0.0)
    expected = {
        "age_seconds": (closed - 1e5, 6),
        "connect_seconds": (None if connected is None else connected - 1e5, 6),
        "client_last_heard_seconds": (None if heard is None else max(0.0, closed - heard), 3),
    }
    for key, (seconds, digits) in expected.items():
        if seconds is None:
            assert values[key] is None
        else:
            assert abs(values[key] - seconds) <= 0.5000001 * 10**-digits
            assert values[key] == round(values[key], digits)


def test_snapshot_grows_while_the_connection_lives() -> None:
    record = make_record(last_down=104.0)
    snapshot = record.snapshot(now=110.0)
    assert (snapshot["age_seconds"], snapshot["idle_seconds"]) == (10.0, 6.0)


@pytest.mark.parametrize("wall_seconds", [0.0, 1_700_000_000.0, 1_700_000_000.9994])
def test_iso_time_has_milliseconds_and_zone(wall_seconds: float) -> None:
    moment = datetime.fromisoformat(iso_time(wall_seconds))
    assert moment.utcoffset() == timedelta(0)
    assert moment.timestamp() == pytest.approx(wall_seconds, abs=0.001)
    assert len(iso_time(wall_seconds)) == len("2023-11-14T22:13:20.250+00:00")


# -- facts, and counting


def test_facts_are_in_json_once_there_are_any() -> None:
    record = make_record()
    assert record.facts == {}
    assert "facts" not in record.snapshot(record.opened)
    record.set_fact("protocol", "mqtt")
    before = record.snapshot(record.opened)["facts"]
    record.set_fact("version", 5)
    assert record.snapshot(record.opened)["facts"] == {"protocol": "mqtt", "version": 5}
    assert before == {"protocol": "mqtt"}, "a snapshot taken earlier is unchanged"
    json.dumps(record.snapshot(record.opened))


def test_a_fact_is_set_as_an_item_and_taken_back() -> None:
    record, other = make_record(), make_record()
    facts = record.facts
    facts["user"] = "ada"
    record.facts.update(site="berlin", seat=7)
    assert record.facts == facts == {"user": "ada", "site": "berlin", "seat": 7}
    assert repr(facts) == repr(dict(facts))
    del record.facts["seat"]
    assert record.snapshot(record.opened)["facts"] == {"user": "ada", "site": "berlin"}
    with pytest.raises(KeyError):
        del record.facts["seat"]
    facts.clear()
    assert "facts" not in record.snapshot(record.opened)
    assert other.facts == {}, "no connection has another one's facts"


def test_facts_that_are_added_replace_none_and_never_raise() -> None:
    record = make_record()
    told = {"protocol": "http", "http_host": "theirs"}
    record.add_facts(told)
    record.add_facts({"protocol": "tls", "http_path": "/"})
    assert record.facts == {"protocol": "http", "http_host": "theirs", "http_path": "/"}
    assert told == {"protocol": "http", "http_host": "theirs"}
    record.facts.update({f"tag_{number}": number for number in range(FACTS - 4)})
    record.add_facts({"one": 1, "two": 2})
    assert len(record.facts) == FACTS
    assert "two" not in record.facts
    other = make_record()
    other.add_facts({f"tag_{number}": number for number in range(FACTS + 9)})
    assert len(other.facts) == FACTS


def test_a_protocol_is_a_text_whoever_has_set_it() -> None:
    record = make_record()
    assert record.protocol is None
    record.facts["protocol"] = 7
    assert record.protocol == "7"


def test_a_fact_can_always_be_encoded() -> None:
    record = make_record()
    record.facts["user"] = b"caf\xe9 \xf0\x9f\x98\x80".decode("utf-8", "surrogateescape")
    assert record.facts["user"] == "caf? \U0001f600"


def test_facts_may_be_changed_while_one_reads_them() -> None:
    record = make_record()
    record.facts.update(one=1, two=2)
    for name in record.facts:
        record.facts[f"seen_{name}"] = True
        del record.facts[name]
    assert record.facts == {"seen_one": True, "seen_two": True}


def test_an_item_is_checked_and_cut_as_any_fact() -> None:
    record = make_record()
    record.facts["name"] = "x" * 10_000
    assert record.facts["name"] == "x" * FACT_CHARACTERS
    odd: Any = record.facts
    for name, value in (("name", None), ("number", float("nan")), ("Ä", 1), (1, 1)):
        with pytest.raises((TypeError, ValueError)):
            odd[name] = value
    for number in range(FACTS - 1):
        record.facts[f"fact_{number}"] = True
    with pytest.raises(ValueError, match=f"at most {FACTS}"):
        record.facts["one_more"] = 1
    assert len(record.facts) == FACTS


def test_connections_without_facts_share_an_empty_dict() -> None:
    assert make_record()._facts is make_record()._facts
    assert make_record()._facts == {}


def test_facts_are_bounded() -> None:
    record = make_record()
    record.set_fact("name", "x" * 10_000)
    assert record.facts["name"] == "x" * FACT_CHARACTERS
    for number in range(FACTS - 1):
        record.set_fact(f"fact_{number}", True)
    with pytest.raises(ValueError, match=f"at most {FACTS}"):
        record.set_fact("one_more", 1.5)
    record.set_fact("name", "it may be replaced")


def test_facts_fit_into_a_message_of_the_control_port() -> None:
    record = make_record()
    for number in range(FACTS):
        name = f"f{number}".ljust(FACT_NAME_CHARACTERS, "x")
        record.set_fact(name, "\U0001f600" * FACT_CHARACTERS)
    assert len(json.dumps(record.snapshot(2.0))) < 60_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1 << 63, -(1 << 63)])
def test_a_number_that_json_cannot_have_is_no_fact(value: float) -> None:
    record = make_record()
    with pytest.raises(ValueError, match="finite"):
        record.set_fact("number", value)
    assert record.facts == {}


@pytest.mark.parametrize("name", ["", "A", "1st", "with space", "a-b", "x" * 33, "ä"])
def test_a_facts_name_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        make_record().set_fact(name, 1)


@pytest.mark.parametrize("value", [None, b"bytes", [1], {}])
def test_a_facts_value_is_checked(value: Any) -> None:
    with pytest.raises(TypeError, match="a fact is a str"):
        make_record().set_fact("name", value)


def test_bytes_and_times_are_counted_in_one_place() -> None:
    record = make_record()
    record.count("up", 3, 1.0)
    record.count("up", 4, 2.0)
    record.count("down", 5, 3.0)
    record.count("up", 1, 4.0)
    record.count("down", 6, 5.0)
    assert (record.up, record.first_up, record.last_up) == (8, 1.0, 4.0)
    assert (record.down, record.first_down, record.last_down) == (11, 3.0, 5.0)
    assert record.asked == 2.0


# -- whether a side answers


def tcp(*, retransmits: int = 0, probes: int = 0, heard: float = 0.0, state: int = 1) -> bytes:
    """A ``tcp_info``, whose retransmissions (with a rto of 0) do not tell for how long."""
    raw = bytearray(TCP_INFO_BYTES)
    raw[0], raw[2], raw[3] = state, retransmits, probes
    struct.pack_into("=2I", raw, 52, round(heard * 1000), round(heard * 1000) + 5)
    return bytes(raw)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_that_answers_is_not_unreachable_however_long_ago(side: Side) -> None:
    record = make_record()
    record.note_tcp(side, tcp(heard=900.0), 1000.0)
    assert getattr(record, f"{side}_heard") == 100.0
    assert getattr(record, f"{side}_unreachable") is None
    snapshot = record.snapshot(1000.5)
    assert snapshot[f"{side}_last_heard_seconds"] == 900.5
    assert f"{side}_unreachable_seconds" not in snapshot


@pytest.mark.parametrize("side", SIDES)
def test_a_side_becomes_unreachable_by_what_checks_have_seen(side: Side) -> None:
    record = make_record()
    for now, retransmits, unreachable in (
        (1000.0, 0, None),
        (1001.0, 1, None),  # idle for an hour, and one segment lost
        (1001.6, 2, None),
        (1003.9, 2, None),
        (1004.0, 2, 1001.0),
        (1009.0, 5, 1001.0),
    ):
        record.note_tcp(side, tcp(retransmits=retransmits, heard=now), now)
        assert getattr(record, f"{side}_unreachable") == unreachable, now
    assert record.snapshot(1010.0)[f"{side}_unreachable_seconds"] == 9.0
    assert record.is_unreachable(side, 8.0, 1009.0)
    assert not record.is_unreachable(side, 8.1, 1009.0)
    record.note_tcp(side, tcp(heard=0.1), 1011.0)
    assert getattr(record, f"{side}_unreachable") is None


def test_one_snapshot_may_do() -> None:
    record = make_record()
    record.note_tcp("client", tcp(probes=3, heard=95.0), 1000.0, keepalive_seconds=30.0)
    assert record.client_unreachable == 940.0


def test_an_answer_between_two_checks_begins_anew() -> None:
    record = make_record()
    record.note_tcp("client", tcp(retransmits=2, heard=60.0), 1000.0)
    record.note_tcp("client", tcp(retransmits=2, heard=1.5), 1010.0)
    assert record.client_unanswered == 1008.5
    assert record.client_unreachable is None


def test_a_single_retransmission_is_not_enough() -> None:
    record = make_record()
    for now in (1000.0, 1100.0):
        record.note_tcp("client", tcp(retransmits=1, heard=now), now)
    assert record.client_unreachable is None


def test_what_is_over_tells_nothing_new() -> None:
    """A reset leaves the kernel's counters as they were."""
    record = make_record()
    record.note_tcp("client", tcp(retransmits=9, heard=500.0, state=7), 1000.0)
    assert record.client_heard == 500.0
    assert record.client_unreachable is None


@pytest.mark.parametrize(
    ("reason", "first_end", "closer"),
    [
        ("client_lost", None, "client"),
        ("client_lost", "backend", "backend"),  # it has noticed, and ended in order
        ("client_lost", "client", "client"),
        ("backend_lost", "client", "client"),
        ("backend_lost", None, "backend"),
        ("client_reset", "backend", "client"),
        ("idle_timeout", "backend", "monconn"),
    ],
)
def test_who_ended_a_connection_whose_side_was_lost(
    reason: Reason, first_end: Side | None, closer: str
) -> None:
    record = make_record()
    if first_end is not None:
        record.note_end(first_end, "fin")
    record.end(reason, 110.0)
    assert record.closed_by == closer


@pytest.mark.parametrize(("lost", "resets"), [("client", "backend"), ("backend", "client")])
def test_one_that_resets_because_the_other_was_lost_has_ended_it(lost: Side, resets: Side) -> None:
    record = make_record()
    record.note_end(resets, "reset")
    record.note_end(lost, "timeout")
    record.end("client_lost" if lost == "client" else "backend_lost", 110.0)
    assert record.closed_by == resets


def test_the_end_of_a_closed_record_stays() -> None:
    record = make_record(closed=106.0, client_heard=100.0, client_unreachable=102.0)
    snapshot = record.snapshot(999.0)
    assert snapshot["client_last_heard_seconds"] == 6.0
    assert snapshot["client_unreachable_seconds"] == 4.0
