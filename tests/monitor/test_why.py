"""What would happen to a client now is what does happen to it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.addresses import parse_client_ip
from monconn.errors import AddressError
from monconn.model.reasons import Refusal
from monconn.monitor.admission import ADMITTED, Admission, Verdict
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.blocks import Blocks
from monconn.policy.policy import Policy
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.quantities import Rate
from monconn.policy.rules import REFUSAL_OF, RULES, Rules
from tests.monitor.test_invariant import Connection
from tests.properties import examples

NOW = 1000.0
IPS = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "2001:db8::1", "2001:db8::2", "unix"]
NETWORKS = [
    ipaddress.ip_network(each)
    for each in ("10.0.0.1", "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/64")
]
networks = st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True)
limits = st.integers(0, 3)
rates = st.none() | st.builds(Rate, st.integers(1, 3), st.sampled_from([1.0, 60.0]))
rules_of_any_kind = st.builds(
    Rules,
    block=networks,
    allow=networks,
    conn_limit=limits,
    ip_limit=limits,
    per_ip_limit=limits,
    rate=rates,
    per_ip_rate=rates,
    dry_run=st.lists(st.sampled_from(RULES), unique=True),
)


@given(
    rules_of_any_kind,
    st.lists(st.tuples(st.sampled_from(IPS), st.sampled_from([0.0, 0.3, 5.0])), max_size=8),
    st.sampled_from([(32, 64), (16, 128), (8, 48)]),
)
@settings(max_examples=examples(200), deadline=None)
def test_it_is_what_judge_does(
    rules: Rules, clients: list[tuple[str, float]], prefixes: tuple[int, int]
) -> None:
    admission = Admission(rules, Blocks(rules.block), ClientPrefixes(*prefixes))
    now, connections = NOW, 0
    for ip, seconds in clients:
        now += seconds
        states = admission.explain(ip, connections, now)
        assert states == admission.explain(ip, connections, now), "it changes nothing"
        expected: Any = ADMITTED
        would_refuse: list[Refusal] = []
        for state in states:
            if state.refuses and not state.is_dry_run:
                expected = Verdict(REFUSAL_OF[state.rule], tuple(would_refuse))
                break
            if state.refuses:
                would_refuse.append(REFUSAL_OF[state.rule])
        else:
            expected = Verdict(None, tuple(would_refuse))
        assert admission.judge(ip, connections, now) == expected
        if expected.refusal is None:
            admission.opened(ip)
            connections += 1


@given(rules_of_any_kind)
def test_each_rule_that_is_set_is_told(rules: Rules) -> None:
    admission = Admission(rules, Blocks(rules.block), ClientPrefixes())
    told = [state.rule for state in admission.explain("10.0.0.9", 0, NOW)]
    assert told == [rule for rule in RULES if getattr(rules, rule)]


def monitor_with(clock: Clock, **settings: Any) -> Monitor:
    return Monitor("web", policy=Policy.of(**settings), clock=clock)


def connect(monitor: Monitor, ip: str) -> None:
    record = monitor.admit(f"[{ip}]:1", ip)
    assert record is not None
    monitor.opened(Connection(monitor, record))


def test_who_enters_has_used_up_something() -> None:
    clock = Clock()
    monitor = monitor_with(clock, per_ip_limit=5, conn_limit=1000, per_ip_rate="10/m")
    for ip in ("2001:db8::1", "2001:db8::2", "10.0.0.1"):
        connect(monitor, ip)
    why = monitor.why("[2001:DB8::0:3]:5000")
    assert (why.outcome, why.by, why.refusal, why.state) == ("enters", None, None, "running")
    assert (why.ip, why.client, why.connections) == ("2001:db8::3", "2001:db8::/64", 2)
    assert why.ids == tuple(record.id for record in monitor.connections()[:2])
    assert why.since == monitor.connections()[0].opened_at
    assert [(each.rule, each.used, each.limit) for each in why.rules] == [
        ("per_ip_limit", 2, 5),
        ("per_ip_rate", 2, 10),
        ("conn_limit", 3, 1000),
    ]


def test_who_is_refused() -> None:
    clock = Clock()
    monitor = monitor_with(clock, per_ip_limit=1, ip_limit=1, dry_run=["per_ip_limit"])
    connect(monitor, "10.0.0.1")
    why = monitor.why("::ffff:10.0.0.1")
    assert (why.outcome, why.would_refuse) == ("enters", ("per_ip_limit",))
    why = monitor.why("10.0.0.2")
    assert (why.outcome, why.by, why.refusal, why.since) == (
        *("refused", "ip_limit", "ip_limit"),
        None,
    )
    monitor.stop(10)
    why = monitor.why("10.0.0.1")
    assert (why.outcome, why.by, why.refusal) == ("refused", "stopping", "stopping")


def test_who_waits_where_a_listener_holds_clients() -> None:
    clock = Clock()
    monitor = monitor_with(clock, conn_limit=1, rate="1/m", block=["10.0.0.3"])
    connect(monitor, "10.0.0.1")
    assert monitor.why("10.0.0.2").outcome == "refused"
    cancel = monitor.room.subscribe(lambda: None)
    why = monitor.why("10.0.0.2")
    assert (why.outcome, why.by, why.refusal) == ("waits", "conn_limit", None)
    monitor.rules.conn_limit = 0
    why = monitor.why("10.0.0.2")
    assert (why.outcome, why.by, why.refusal) == ("waits", "rate", None)
    assert why.rules[-1].wait_seconds == pytest.approx(60, rel=1e-4)
    why = monitor.why("10.0.0.3")
    assert (why.outcome, why.by, why.refusal) == ("waits", "rate", "blocked")
    cancel()
    assert monitor.why("10.0.0.3").outcome == "refused"


@pytest.mark.parametrize("text", ["", "10.0.0.0/8", "10.0.0.1:", "[10.0.0.1", "pump", "1.2.3"])
def test_it_asks_for_an_address(text: str) -> None:
    with pytest.raises(AddressError):
        Monitor(clock=Clock()).why(text)


@given(st.text(max_size=40) | st.from_regex(r"[\[\]0-9a-f:.%]{0,40}", fullmatch=True))
@settings(max_examples=examples(200))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        ip = parse_client_ip(text)
    except AddressError:
        return
    assert parse_client_ip(ip) == ip


def test_a_service_that_is_paused_or_drains() -> None:
    monitor = monitor_with(Clock(), block=["10.0.0.3"])
    monitor.pause()
    why = monitor.why("10.0.0.1")
    assert (why.state, why.outcome, why.by, why.refusal) == ("paused", "waits", "paused", None)
    why = monitor.why("10.0.0.3")
    assert (why.outcome, why.by, why.refusal) == ("waits", "paused", "blocked")
    monitor.resume()
    monitor.drain()
    why = monitor.why("10.0.0.3")
    assert (why.state, why.outcome, why.by, why.refusal) == (
        *("draining", "refused", "draining"),
        "draining",
    )


def test_the_block_of_a_client_is_told() -> None:
    clock = Clock()
    registry = Registry()
    monitor = monitor_with(clock, block=["10.0.0.0/8"])
    registry.add(monitor)
    registry.block("10.0.0.1", for_seconds=60, reason="scans")
    assert monitor.why("10.0.0.9").rules[0].block is monitor.find_block("10.0.0.9")
    monitor.block("192.0.2.7", for_seconds=60, reason="scans")
    (state,) = monitor.why("192.0.2.7").rules
    assert state.refuses
    assert state.block is not None
    assert (state.block.source, state.block.reason) == ("operator", "scans")
    clock.advance(60)
    (state,) = monitor.why("192.0.2.7").rules
    assert not state.refuses
    assert state.block is None
