"""What would happen to a client now is what does happen to it."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.monitor.admission import ADMITTED, Admission, Verdict
from monconn.policy.blocks import Blocks
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.quantities import Rate
from monconn.policy.rules import REFUSAL_OF, RULES, Rules
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
        would_refuse = []
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
