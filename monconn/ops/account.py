"""One connection in sentences, made of the figures of its record and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from monconn.errors import printable
from monconn.ops.columns import Row
from monconn.ops.explanations import Explanation, Step, explained_in, in_brief, of_kind
from monconn.units import format_bytes, format_duration, local_time

Values = Mapping[str, Any]

_LOST = ("client_lost", "backend_lost")
_SIDES = ("client", "backend")
_USUAL_TIMEOUTS: tuple[tuple[float, str], ...] = (
    (60.0, "AWS application load balancers, nginx (proxy_read_timeout), many others"),
    (75.0, "nginx (keepalive_timeout)"),
    (240.0, "Azure's load balancers and NAT"),
    (350.0, "AWS network load balancers and NAT gateways"),
    (600.0, "Google Cloud's firewalls and load balancers"),
    (7_440.0, "NATs that follow RFC 5382"),
    (432_000.0, "Linux' connection tracking (nf_conntrack_tcp_timeout_established)"),
)
"""Default idle time-outs of what is often on the way, in seconds, and whose they are."""
_ENDED_BY_PEER = frozenset(
    ("client_reset", "client_closed", "client_lost", "backend_reset", "backend_closed", *_LOST)
)
_GRACE_SECONDS = 5.0
"""How long peers may take to close: ``GRACE_SECONDS`` of :mod:`monconn.policy.timeouts`."""
_DECIDED_BY_US = frozenset(
    (
        *("connect_timeout", "read_timeout", "idle_timeout", "half_close_timeout"),
        *("lifetime", "operator", "blocked", "stopping"),
    )
)
"""Reasons of ends in good order that monconn begins, and whose peers may take their time."""
_SEE_RECORDING = Step("What was said, and what was the last of it?", "monconn recording ID --text")
_PLACEHOLDER = re.compile(r"\b(BACKEND-IP|IP|CLIENT-ID|ID|DEVICE|SERVICE)\b")


@attrs.frozen
class Account:
    """What is to be said of one connection.

    :param sentences: what its record shows.
    :param unknown: what it does not show.
    :param explanations: what its reason, its refusal and its detail mean; the
        commands of their steps name this connection.
    """

    sentences: tuple[str, ...]
    unknown: tuple[str, ...]
    explanations: tuple[Explanation, ...]


def account_of(connection: Row | Values) -> Account:
    """Say in words what a record shows: of a live connection, a closed one, or of the history.

    :param connection: a row, or its JSON.
    """
    values = connection.to_json() if isinstance(connection, Row) else connection
    found = [
        of_kind(str(values.get("reason")), "reason"),
        of_kind(str(values.get("refusal")), "refusal"),
    ]
    if not any(found):
        found = [of_kind(str(values.get("state")), "state")]
    explanations = [each for each in (*found, *explained_in(_text(values, "detail"))) if each]
    if explanations and values.get("recorded"):
        first = explanations[0]
        explanations[0] = attrs.evolve(first, next=(_SEE_RECORDING, *first.next))
    return Account(
        tuple(map(printable, _sentences(values))),
        tuple(map(printable, _unknown(values))),
        tuple(_about(each, values) for each in explanations),
    )


def _about(explanation: Explanation, values: Values) -> Explanation:
    """An explanation whose steps name the connection instead of ``IP``, ``ID``, ``DEVICE`` and
    others.

    ``DEVICE`` is the client id that it has told, or else its address.
    """
    words = {
        "IP": _text(values, "client_ip"),
        "ID": _text(values, "id"),
        "SERVICE": _text(values, "service"),
        "BACKEND-IP": re.sub(r"^\[?(.+?)\]?:\d+$", r"\1", _text(values, "backend")),
        "CLIENT-ID": _text(values.get("facts") or {}, "mqtt_client_id"),
    }
    # What a shell or a verb would take for something else, as an option, stays a placeholder.
    words = {name: word for name, word in words.items() if re.fullmatch(r"[\w.:][\w.:-]*", word)}
    for name in ("IP", "BACKEND-IP"):
        if not re.fullmatch(r"[0-9a-fA-F.:]+", words.get(name, "")):
            words.pop(name, None)  # "unix" and "local" are no addresses
    if device := words.get("CLIENT-ID") or words.get("IP"):
        words["DEVICE"] = device

    def fill(step: Step) -> Step:
        command = _PLACEHOLDER.sub(lambda found: words.get(found[0], found[0]), step.command)
        return attrs.evolve(step, command=command)

    return attrs.evolve(explanation, next=tuple(map(fill, explanation.next)))


def _sentences(values: Values) -> Iterator[str]:
    yield _how_it_ended(values)
    if values.get("refusal"):
        if values.get("detail"):
            yield f"Detail: {values['detail']}."
        return
    age = _seconds(values, "duration_seconds") or 0.0
    is_large_share = _GRACE_SECONDS <= age <= 20 * _GRACE_SECONDS
    if values.get("reason") in _DECIDED_BY_US and is_large_share:
        yield (
            f"That has up to {format_duration(_GRACE_SECONDS)} in it which its peers had to take"
            " the rest and to close, once its end was decided."
        )
    if values.get("detail"):
        yield f"Detail: {values['detail']}."
    yield from _mqtt(values)
    if not values.get("backend"):
        pass  # a wrapped factory's: it is the backend
    elif values.get("connect_seconds") is not None:
        yield (
            f"The backend {_text(values, 'backend')} was connected after"
            f" {format_duration(values['connect_seconds'])}."
        )
    elif values.get("phase") == "connecting":  # a wrapped factory's is "open" from the start
        yield f"The backend {_text(values, 'backend')} was never connected."
    elif values.get("state") == "connecting":
        yield f"The backend {_text(values, 'backend')} is not connected yet."
    yield from _what_was_sent(values)
    if values.get("limited_seconds"):
        yield (
            f"For {format_duration(values['limited_seconds'])} in all, monconn did not read a side"
            " as its bandwidth was used up (bandwidth, per_connection_bandwidth)."
        )
    yield from _ends(values)
    for side in _SIDES:
        yield from _network(values, side)
    yield from _usual_timeout(values)
    if values.get("code") not in (None, "--"):
        yield f"HAProxy writes this end as {values['code']} (monconn explain {values['code']})."


def _how_it_ended(values: Values) -> str:
    client = f"{_text(values, 'client')} at {_text(values, 'service')}"
    if values.get("refusal"):
        return f"The client {client} was refused ({values['refusal']})."
    reason = values.get("reason")
    age = _seconds(values, "duration_seconds", "age_seconds")
    lasted = "" if age is None else f" after {format_duration(age)}"
    if values.get("closed_at"):
        lasted += (
            f", on {local_time(values['closed_at'])}"
            if _is_dated(values)
            else (f", at {local_time(values['closed_at'])}")
        )
    if reason is None:
        state = str(values.get("state", "")).replace("_", "-")
        old = "" if age is None else f", {format_duration(age)} old"
        return f"The client {client} is {state}{old}."
    side, _, text = in_brief(reason).removeprefix("the ").partition(" ")
    text = re.sub(r"\bit\b", "the connection", text, count=1)
    if side == "client" and reason.startswith("client_"):
        return f"The client {client} {text}{lasted}."
    if side == "backend":
        backend = _text(values, "backend")
        return f"The backend {backend} {text}{lasted}; the client was {client}."
    return f"The connection of the client {client} ended by {reason}{lasted}."


def _is_dated(values: Values) -> bool:
    return " " in local_time(values["closed_at"])


def _what_was_sent(values: Values) -> Iterator[str]:
    age = _seconds(values, "duration_seconds", "age_seconds")
    had = "had" if values.get("reason") else "has"
    before = "before the end" if values.get("reason") else "ago"
    parts = []
    for side, count, last in (
        ("client", "up", "last_up_seconds"),
        ("backend", "down", "last_down_seconds"),
    ):
        sent = values.get(count)
        if not sent:
            parts.append(f"the {side} {had} sent nothing")
            continue
        part = f"the {side} {had} sent {format_bytes(int(sent))}"
        if age is not None and values.get(last) is not None:
            part += f", the last of it {format_duration(max(0.0, age - values[last]))} {before}"
        parts.append(part)
    text = "; ".join(parts)
    yield f"{text[0].upper()}{text[1:]}."


def _mqtt(values: Values) -> Iterator[str]:
    facts = values.get("facts") or {}
    if facts.get("protocol") != "mqtt":
        return
    has_ended = values.get("reason") is not None
    text = f"It {'spoke' if has_ended else 'speaks'} MQTT"
    if facts.get("mqtt_version"):
        text += f" {facts['mqtt_version']}"
    if facts.get("mqtt_client_id"):
        text += f" as {facts['mqtt_client_id']}"
    if facts.get("mqtt_user"):
        text += f", user {facts['mqtt_user']}"
    keepalive = facts.get("mqtt_keepalive_seconds")
    if keepalive is not None:
        text += f", with a keepalive of {keepalive} s" if keepalive else ", without a keepalive"
    answer = facts.get("mqtt_connack")
    if answer == "accepted":
        text += "; the broker let it in"
    elif answer:
        text += f"; the broker refused it: {str(answer).replace('_', ' ')}"
    yield f"{text}."


def _has_said_why(values: Values) -> bool:
    """Whether MQTT's packets tell why one side closed in good order."""
    facts = values.get("facts") or {}
    if values.get("reason") == "client_closed":
        return facts.get("mqtt_disconnect_by") == "client"
    return (
        facts.get("mqtt_connack") not in (None, "accepted")
        or "mqtt_disconnect" in facts
        or any(each.word == "keepalive_missed" for each in explained_in(_text(values, "detail")))
    )


def _ends(values: Values) -> Iterator[str]:
    """How the sides had ended, where the reason does not say that already."""
    reason = values.get("reason")
    ends = {side: values.get(f"{side}_end") for side in _SIDES}
    for side, other in (_SIDES, _SIDES[::-1]):
        if ends[side] != "fin":
            continue
        if reason in _LOST or reason == "half_close_timeout":
            yield f"The {side} had closed its side before, in good order."
        elif reason in (None, f"{other}_reset"):
            has = "had" if reason else "has"
            yield f"The {side} {has} closed its side in good order."
    if reason == "write_timeout":
        stalled = next((side for side in _SIDES if ends[side] == "timeout"), None)
        if stalled:
            yield f"It was the {stalled} that took no bytes."
    if reason in _LOST and values.get("closed_by") not in (None, reason.partition("_")[0]):
        yield f"Because of that the {values['closed_by']} ended the connection first (closed_by)."


def _network(values: Values, side: str) -> Iterator[str]:
    tcp = values.get(f"{side}_tcp")
    is_over = values.get("reason") is not None
    if tcp:
        rtt, retransmits = tcp.get("rtt_seconds"), tcp.get("retransmits")
    else:
        rtt, retransmits = values.get(f"{side}_rtt_seconds"), values.get(f"{side}_retransmits")
    parts = []
    if rtt:
        parts.append(f"round trip {format_duration(rtt)}")
    if retransmits == 0:
        parts.append("nothing was sent to it again")
    elif retransmits is not None:
        of = f" of {tcp['segments_sent']:,}" if tcp and tcp.get("segments_sent") else ""
        parts.append(f"{retransmits:,}{of} segments sent to it again")
    if tcp:
        if tcp.get("unacked_segments"):
            parts.append(f"{tcp['unacked_segments']:,} segments unacknowledged")
        if tcp.get("not_sent_bytes"):
            parts.append(f"{format_bytes(int(tcp['not_sent_bytes']))} not sent yet")
        if tcp.get("window_limited_seconds"):
            full = format_duration(tcp["window_limited_seconds"])
            parts.append(f"its receive window was full for {full}")
    heard = values.get(f"{side}_last_heard_seconds")
    if heard is not None and is_over and heard < 0.001:
        parts.append("it sent or acknowledged until the end")
    elif heard is not None:
        when = "before the end" if is_over else "ago"
        # A reset does not count in tcp_info.
        parts.append(f"its last byte or acknowledgement came {format_duration(heard)} {when}")
    unreachable = values.get(f"{side}_unreachable_seconds")
    if unreachable is not None:
        had = "had" if is_over else "has"
        parts.append(f"it {had} not answered for {format_duration(unreachable)}")
    if parts:
        yield f"The network to the {side}: {', '.join(parts)}."


def _usual_timeout(values: Values) -> Iterator[str]:
    """That the last silence is as long as a time-out that is often on the way."""
    age = _seconds(values, "duration_seconds")
    if age is None or values.get("reason") not in _ENDED_BY_PEER:
        return
    moments = [values.get("last_up_seconds"), values.get("last_down_seconds")]
    silence = age - max((each for each in moments if each is not None), default=0.0)
    for seconds, whose in _USUAL_TIMEOUTS:
        if seconds - 0.5 <= silence <= seconds + max(2.0, seconds * 0.01):
            yield (
                f"Nothing had been sent for {format_duration(silence)}, close to"
                f" {format_duration(seconds)}, the idle time-out of {whose}; that may be a"
                " coincidence."
            )


def _unknown(values: Values) -> Iterator[str]:
    """What the figures do not tell."""
    if values.get("refusal"):
        return
    if values.get("reason") in ("client_closed", "backend_closed"):
        if not _has_said_why(values):
            side = values["reason"].partition("_")[0]
            yield f"Not known: why the {side}'s program closed; TCP does not tell."
    elif values.get("reason") in ("client_reset", "backend_reset"):
        yield "Not known: whether the peer itself reset it, or something on the way."
    elif values.get("reason") in _LOST:
        yield "Not known: whether the host is gone, or only the way to it."
    missing = [
        side
        for side in _SIDES
        if not values.get(f"{side}_tcp") and values.get(f"{side}_rtt_seconds") is None
    ]
    if missing:
        yield f"Nothing is recorded of TCP on the side of the {' and of the '.join(missing)}."


def _seconds(values: Values, *names: str) -> float | None:
    """The first of these values that is there."""
    return next((float(values[each]) for each in names if values.get(each) is not None), None)


def _text(values: Values, name: str) -> str:
    value = values.get(name)
    return "" if value is None else str(value)
