"""The words of a log line, explained; and one connection in words."""

from __future__ import annotations

import errno
import os
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.decode import mqtt
from monconn.errors import QuestionError
from monconn.faces.cli.main import main
from monconn.model.alarms import ALARM_KINDS
from monconn.model.reasons import (
    EVENT_KINDS,
    HISTORY_EVENT_KINDS,
    PIPES,
    REASONS,
    REFUSALS,
    SERVICE_STATES,
    STATES,
    SideEnd,
)
from monconn.net import sockets
from monconn.ops import explain_text
from monconn.ops.account import account_of
from monconn.ops.explanations import (
    EXPLANATIONS,
    PHASE_LETTERS,
    WHO_LETTERS,
    close_matches,
    explain,
    explain_code,
    in_brief,
    of_kind,
)
from monconn.ops.filter_keys import BLOCK_KEYS, CONNECTION_KEYS, HISTORY_EVENT_KEYS, HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.units import format_duration
from tests import ROOT
from tests.properties import examples
from tests.sinks.history.past import closed, refused

VALUES = {
    "reason": REASONS,
    "refusal": REFUSALS,
    "state": (*STATES, "limited"),  # which the column STATE has
    "service state": SERVICE_STATES,
    "setting": ("dry_run", "auto_block"),
    "end": get_args(SideEnd),
    "alarm": ALARM_KINDS,
    "event": (*EVENT_KINDS, *HISTORY_EVENT_KINDS),
    "pipe": PIPES,
}


def test_each_value_of_each_list_has_one_explanation() -> None:
    for kind, values in VALUES.items():
        found = [each.word for each in EXPLANATIONS if each.kind == kind]
        assert sorted(found) == sorted(set(values)), kind


def test_each_error_that_ends_a_connection_has_one() -> None:
    numbers = {*sockets.SHORTAGES, *sockets.RESET_ERRNOS, *sockets._PEER_LOST_ERRNOS}
    numbers |= {errno.ECONNREFUSED, errno.EACCES, errno.ENOENT}
    if hasattr(errno, "ENONET"):
        numbers.remove(errno.ENONET)  # of a machine without any network: nobody sees it
    words = {each.word for each in EXPLANATIONS if each.kind == "error"}
    assert {errno.errorcode[each] for each in numbers} <= words
    for word in words:
        (found,) = explain(os.strerror(getattr(errno, word)))
        assert found.word == word


def test_reasons_refusals_and_alarms_say_why_and_what_next() -> None:
    for each in EXPLANATIONS:
        assert each.short
        if each.kind in ("reason", "alarm") or (each.kind == "refusal" and each.causes):
            assert each.meaning
            assert each.causes
            assert each.next
            assert each.see


def test_the_letters_are_those_that_records_have() -> None:
    """Every pair that a record can have has its letters, and its reason, explained."""
    for reason, phase, client, backend, is_shortage in product(
        REASONS, ("connecting", "open"), get_args(SideEnd), get_args(SideEnd), (False, True)
    ):
        record = closed(
            reason=reason,
            phase=phase,
            client_end=client,
            backend_end=backend,
            is_shortage=is_shortage,
        )
        assert record.code is not None
        found = explain_code(record.code)
        assert found is not None
        known = of_kind(reason, "reason")
        assert known is not None
        assert record.code[0] in {each[0] for each in known.codes}
        if phase == "connecting":
            assert known in found.reasons
    assert {each.word for each in explain_code("PR").reasons} == set(REFUSALS)  # type: ignore[union-attr]
    assert explain_code("cd") is None
    assert {code[0] for each in EXPLANATIONS for code in each.codes} == set(WHO_LETTERS)
    assert {code[1] for each in EXPLANATIONS for code in each.codes} | {"R"} == set(PHASE_LETTERS)


def test_words_are_found_however_they_are_written() -> None:
    assert [each.word for each in explain(" Client Reset ")] == ["client_reset"]
    assert [each.word for each in explain("half-closed")] == ["half_closed", "half_closed"]
    assert [each.kind for each in explain("blocked")] == ["reason", "refusal"]
    assert [each.word for each in explain("max_idle")] == ["idle_timeout"]
    assert [each.kind for each in explain("draining")] == ["refusal", "service state"]
    assert [each.word for each in explain("per_connection_bandwidth")] == ["limited"]
    assert [each.word for each in explain("econnreset")] == ["ECONNRESET"]
    assert explain("") == explain("no such word") == []
    assert close_matches("client_rest")[0] == "client_reset"
    assert close_matches("storm")[:3] == ["reconnect_storm", "storm_connections", "storm_within"]


@given(st.text(max_size=200))
@settings(max_examples=examples(50))
def test_any_text_is_explained_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        assert explain_text.rendered(explain_text.looked_up(text), 80)
    except QuestionError as error:
        message = str(error)
    assert message.isprintable()


def steps() -> list[tuple[str, str]]:
    return [
        (each.word, step.command) for each in EXPLANATIONS for step in each.next if step.command
    ]


@pytest.mark.parametrize(
    ("word", "command"), [each for each in steps() if each[1][:7] == "monconn"]
)
def test_each_command_is_understood(word: str, command: str) -> None:
    values = {"CLIENT-ID": "a", "DEVICE": "a", "IP": "192.0.2.7", "ID": "42", "SERVICE": "mqtt"}
    for placeholder, value in values.items():
        command = command.replace(placeholder, value)
    verb, *arguments = shlex.split(command)[1:]
    context = main.commands[verb].make_context(verb, [*arguments])
    keys = {
        "history": HISTORY_EVENT_KEYS if "--events" in arguments else HISTORY_KEYS,
        "list": CONNECTION_KEYS,
        "blocks": BLOCK_KEYS,
    }
    if verb in keys:
        parse(context.params["terms"], keys[verb])
    context.close()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for each in EXPLANATIONS:
        for block in explain_text.words([each]):
            for line in explain_text.rendered([block], width).splitlines():
                assert len(line) <= width or block.is_whole


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings}


def test_rules_point_to_the_page_of_rules() -> None:
    rules = ("per_ip_rate", "rate", "per_ip_limit", "blocked", "not_allowed", "dry_run")
    for word in (*rules, "auto_block", "limited"):
        assert {each.see.partition("#")[0] for each in explain(word)} == {"rules.md"}, word


def test_the_sections_that_it_points_to_are_there() -> None:
    for see in {each.see for each in EXPLANATIONS if each.see}:
        name, _, anchor = see.partition("#")
        assert not anchor or anchor in anchors(ROOT / "docs" / name), see


def cells(heading: str) -> dict[str, list[str]]:
    """The rows of a table of docs/reasons.md by their first cell, without links and code marks."""
    text = (ROOT / "docs/reasons.md").read_text(encoding="utf-8")
    table = text[text.index(heading) :].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    plain = [
        [re.sub(r" \(\[[^]]*\]\([^)]*\)\)|`", "", cell).strip() for cell in row] for row in rows
    ]
    return {row[0]: row[1:] for row in plain}


def test_the_docs_say_the_same() -> None:
    assert cells("| reason |") == {
        each.word: [each.short, cells("| reason |")[each.word][1], " ".join(each.codes)]
        for each in EXPLANATIONS
        if each.kind == "reason"
    }
    assert cells("| refusal |") == {
        each.word: [each.short] for each in EXPLANATIONS if each.kind == "refusal"
    }
    for title, letters in (("| first |", WHO_LETTERS), ("| second |", PHASE_LETTERS)):
        assert cells(title) == {letter: [text] for letter, text in letters.items()}


# -- one connection


def told(**fields: Any) -> str:
    """What is said of a connection that lasted 10 s, as a row's JSON."""
    values = {
        "id": 42,
        "service": "mqtt",
        "client": "192.0.2.7:51312",
        "client_ip": "192.0.2.7",
        "backend": "10.0.0.5:1883",
        "state": "closed",
        "phase": "open",
        "up": 2150,
        "down": 12_000,
        "age_seconds": 10.0,
        "duration_seconds": 10.0,
        "connect_seconds": 0.003,
        "last_up_seconds": 7.2,
        "last_down_seconds": 9.5,
        "client_end": "none",
        "backend_end": "none",
        **fields,
    }
    account = account_of(values)
    return " ".join((*account.sentences, *account.unknown))


def test_counts_of_segments_have_separators() -> None:
    tcp = {"retransmits": 1004, "segments_sent": 31_000, "unacked_segments": 1009}
    text = told(reason="client_lost", code="CD", client_end="timeout", client_tcp=tcp)
    assert "1,004 of 31,000 segments sent to it again, 1,009 segments unacknowledged." in text


def test_a_reset_is_told_with_its_figures() -> None:
    tcp = {"rtt_seconds": 0.038, "retransmits": 4, "segments_sent": 31, "unacked_segments": 9}
    text = told(reason="client_reset", code="CD", client_end="reset", client_tcp=tcp)
    assert text.startswith("The client 192.0.2.7:51312 at mqtt reset the connection after 10.0s.")
    assert "The backend 10.0.0.5:1883 was connected after 3.0ms." in text
    assert "The client had sent 2.1 KiB, the last of it 2.80s before the end; " in text
    assert "the backend had sent 11.7 KiB, the last of it 500ms before the end." in text
    assert (
        "The network to the client: round trip 38ms, 4 of 31 segments sent to it again,"
        " 9 segments unacknowledged."
    ) in text
    assert "HAProxy writes this end as CD (monconn explain CD)." in text
    assert "Not known: whether the peer itself reset it, or something on the way." in text
    assert "Nothing is recorded of TCP on the side of the backend." in text


def test_only_what_the_figures_prove_is_said() -> None:
    text = told(reason="client_closed", code="--", up=0, down=0)
    assert "The client had sent nothing; the backend had sent nothing." in text
    assert "HAProxy" not in text
    assert "Nothing is recorded of TCP on the side of the client and of the backend." in text
    assert "never connected" in told(
        reason="backend_refused", phase="connecting", connect_seconds=None
    )
    # A wrapped factory has no backend to connect to.
    assert "connected" not in told(reason="client_closed", backend="", connect_seconds=0.0)
    assert "connected" not in told(reason="client_closed", connect_seconds=None)


def test_who_ended_because_of_a_lost_side() -> None:
    text = told(reason="client_lost", closed_by="backend", client_end="timeout", backend_end="fin")
    assert "The client 192.0.2.7:51312 at mqtt vanished after 10.0s." in text
    assert "The backend had closed its side before, in good order." in text
    assert "Because of that the backend ended the connection first" in text


@pytest.mark.parametrize(
    ("seconds", "says"), [(349.9, True), (350.2, True), (355.0, False), (340.0, False)]
)
def test_a_silence_as_long_as_a_usual_timeout_is_named(seconds: float, says: bool) -> None:
    text = told(
        reason="client_reset",
        duration_seconds=100.0 + seconds,
        last_up_seconds=100.0,
        last_down_seconds=50.0,
    )
    assert ("the idle time-out of AWS network load balancers" in text) is says


def test_live_refused_and_stored_ones_are_told_too() -> None:
    text = told(state="half_closed", duration_seconds=None, backend_end="fin")
    assert text.startswith("The client 192.0.2.7:51312 at mqtt is half-closed, 10.0s old.")
    assert "The backend has closed its side in good order." in text
    assert "the last of it 2.80s ago" in text
    row = refused(word="blocked").snapshot(102.0)
    account = account_of(row)
    assert account.sentences == ("The client 192.0.2.1:4711 at web was refused (blocked).",)
    assert account.unknown == ()
    assert [each.kind for each in account.explanations] == ["refusal"]


def test_the_next_steps_name_the_connection() -> None:
    account = account_of(
        closed(reason="client_reset", detail="connection reset by peer").snapshot(102.0)
    )
    assert [each.word for each in account.explanations] == ["client_reset", "ECONNRESET"]
    commands = [step.command for step in account.explanations[0].next]
    assert "monconn show 1" in commands
    assert "monconn history client:192.0.2.1 reason:client_reset --since 1d" in commands


@pytest.mark.parametrize(
    ("client_id", "device", "filter"),
    [
        ("pump-7", "monconn device pump-7", "mqtt_client_id:=pump-7"),
        (None, "monconn device 192.0.2.1", "mqtt_client_id:=CLIENT-ID"),
        ("--all", "monconn device 192.0.2.1", "mqtt_client_id:=CLIENT-ID"),  # no option
    ],
)
def test_the_next_steps_name_the_device(client_id: str | None, device: str, filter: str) -> None:
    record = closed(reason="client_lost", detail="device closed without DISCONNECT")
    facts = {} if client_id is None else {"mqtt_client_id": client_id}
    account = account_of({**record.snapshot(102.0), "facts": facts})
    commands = [step.command for each in account.explanations for step in each.next]
    assert device in commands
    assert f"monconn list --closed {filter}" in commands


def test_the_first_step_is_to_the_recording_if_there_is_one() -> None:
    values = {"reason": "client_lost", "id": 3, "recorded": 503}
    first, *_ = account_of(values).explanations[0].next
    assert first.command == "monconn recording 3 --text"
    for nothing in ({}, {"recorded": None}, {"recorded": 0}):
        steps_there = account_of({"reason": "client_lost", "id": 3, **nothing}).explanations[0].next
        assert not any("recording" in step.command for step in steps_there)


def test_the_next_steps_name_the_device_and_the_backend() -> None:
    facts = {"mqtt_client_id": "pump-3"}
    closed_silently = {"reason": "client_closed", "detail": "device closed without DISCONNECT"}
    asked = "monconn list --closed mqtt_client_id:="
    assert f"{asked}pump-3" in commands_of({**closed_silently, "facts": facts})
    odd = {"mqtt_client_id": "$(reboot)"}
    assert f"{asked}CLIENT-ID" in commands_of({**closed_silently, "facts": odd})
    lost = {"reason": "backend_unreachable", "client_ip": "192.0.2.7"}
    assert "ip route get 192.0.2.9" in commands_of({**lost, "backend": "192.0.2.9:1883"})
    assert "ip route get 2001:db8::9" in commands_of({**lost, "backend": "[2001:db8::9]:1883"})
    assert "ip route get BACKEND-IP" in commands_of({**lost, "backend": "unix:/run/broker.sock"})


def commands_of(values: dict[str, Any]) -> list[str]:
    return [step.command for each in account_of(values).explanations for step in each.next]


def test_a_name_that_a_shell_would_run_stays_a_placeholder() -> None:
    record = closed(reason="backend_closed", service="x; rm -rf ~", client_ip="unix")
    (explanation,) = account_of(record.snapshot(102.0)).explanations
    assert not any("rm" in step.command for step in explanation.next)
    assert any("service:SERVICE" in step.command for step in explanation.next)


@given(st.dictionaries(st.sampled_from(("service", "client", "backend", "detail")), st.text()))
@settings(max_examples=examples(50))
def test_what_a_peer_has_said_stays_printable(texts: dict[str, str]) -> None:
    assert all(each.isprintable() for each in [told(reason="client_closed", **texts)])


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_few_words_for_a_line_of_a_list(reason: str) -> None:
    words = in_brief(reason)
    assert 0 < len(words) <= 60
    assert not words.endswith(".")


def test_a_reason_of_a_newer_server_has_no_words() -> None:
    assert in_brief("eaten") == ""


@pytest.mark.parametrize(
    ("reason", "duration_seconds", "is_told"),
    [("idle_timeout", 9.2, True), ("idle_timeout", 900.0, False), ("client_closed", 9.2, False)],
)
def test_a_duration_has_the_time_in_it_that_the_peers_had_to_close(
    reason: str, duration_seconds: float, is_told: bool
) -> None:
    values = {"client": "10.0.0.7:1", "service": "web", "reason": reason, "state": "closed"}
    account = account_of({**values, "duration_seconds": duration_seconds})
    grace = f"up to {format_duration(GRACE_SECONDS)} in it"
    assert any(grace in each for each in account.sentences) == is_told


# -- MQTT


def mqtt_said(detail: str, **facts: Any) -> str:
    reason = "backend_closed" if facts.pop("by", "backend") == "backend" else "client_closed"
    facts = {"protocol": "mqtt", "mqtt_version": "3.1.1", **facts}
    return told(reason=reason, code="--", detail=detail, facts=facts)


def test_each_word_of_mqtt_is_explained_and_documented() -> None:
    page = (ROOT / "docs/reasons.md").read_text(encoding="utf-8")
    for word in mqtt.WORDS:
        assert [each.kind for each in explain(word)] == ["mqtt"], word
        assert f"`{word}`" in page


@pytest.mark.parametrize(
    ("detail", "word"),
    [
        ("broker said not authorised", "not_authorised"),
        ("broker said session taken over", "session_taken_over"),
        ("device said goodbye", "normal"),
        ("broker said goodbye", "normal"),
        ("device said goodbye, and wants its will to be sent", "with_will"),
        ("device said packet too large", "packet_too_large"),
        ("device missed its own MQTT keepalive of 60 s by 31.5 s", "keepalive_missed"),
        (
            "no packet from the device became whole for 9.0 s, with its own MQTT keepalive of 5 s",
            "keepalive_missed",
        ),
        (
            "device was silent for 7.2 s, longer than its own MQTT keepalive of 5 s",
            "keepalive_missed",
        ),
        ("device closed without DISCONNECT, so its will is due", "no_disconnect"),
        ("broker closed without DISCONNECT", "no_disconnect"),
        ("broker did not answer the CONNECT", "no_connack"),
        ("device's ping had no answer for 20.0 s", "ping_not_answered"),
        ("device's last packet (PUBLISH) is not whole", "packet_not_whole"),
        ("broker's bytes are no MQTT after 29 B", "no_mqtt"),
        ("device's packets were too many to be followed after 1.0 KiB", "too_many_packets"),
    ],
)
def test_each_detail_of_mqtt_is_explained(detail: str, word: str) -> None:
    assert [each.word for each in explain(detail)] == [word]
    account = account_of({"reason": "backend_closed", "detail": f"something else; {detail}"})
    assert [each.word for each in account.explanations] == ["backend_closed", word]


def test_a_broker_that_refuses_has_told_why() -> None:
    text = mqtt_said(
        "broker said not authorised",
        mqtt_client_id="pump-3",
        mqtt_user="ada",
        mqtt_keepalive_seconds=60,
        mqtt_connack="not_authorised",
    )
    assert "Detail: broker said not authorised." in text
    assert (
        "It spoke MQTT 3.1.1 as pump-3, user ada, with a keepalive of 60 s;"
        " the broker refused it: not authorised."
    ) in text
    assert "Not known: why" not in text


def test_what_mqtt_does_not_tell_stays_unknown() -> None:
    text = mqtt_said("", mqtt_keepalive_seconds=0, mqtt_connack="accepted")
    assert "It spoke MQTT 3.1.1, without a keepalive; the broker let it in." in text
    assert "Not known: why the backend's program closed" in text
    goodbye = {"mqtt_connack": "accepted", "mqtt_disconnect": "normal"}
    said = {**goodbye, "mqtt_disconnect_by": "client"}
    assert "Not known: why" not in mqtt_said("device said goodbye", **said)
    assert "Not known: why" not in mqtt_said("device said goodbye", **said, by="client")
    text = mqtt_said("device closed without DISCONNECT", mqtt_connack="accepted", by="client")
    assert "Not known: why the client's program closed" in text
    text = mqtt_said("device missed its own MQTT keepalive of 60 s by 31.0 s")
    assert "Not known: why" not in text
