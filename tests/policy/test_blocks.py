"""Blocks of the configuration and of the operator."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monconn.policy.blocks import Blocks
from monconn.policy.networks import ips_within

A, B = ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")
NOW = 1000.0
INSIDE = {A: "10.1.2.3", B: "2001:db8::1"}
DO = st.one_of(
    st.tuples(st.just("block"), st.sampled_from([A, B])),
    st.tuples(st.just("unblock"), st.sampled_from([A, B])),
    st.tuples(st.just("configure"), st.sets(st.sampled_from([A, B]))),
)


@given(st.sets(st.sampled_from([A, B])), st.lists(DO, max_size=12))
def test_what_is_in_force(configured: set[object], steps: list[tuple[str, object]]) -> None:
    """Compared with a model: the sources of a network's block, and whether it was unblocked."""
    blocks = Blocks(configured)  # type: ignore[arg-type]
    by_file, by_operator, lifted = set(configured), set[object](), set[object]()
    for do, what in steps:
        before = (by_file - lifted) | by_operator
        result: Any
        if do == "configure":
            result = blocks.configure(what, now=NOW)  # type: ignore[arg-type]
        elif do == "block":
            result = blocks.block(what, NOW).is_new  # type: ignore[arg-type]
        else:
            result = blocks.unblock(what, NOW)  # type: ignore[arg-type]
        if do == "block":
            by_operator.add(what)
            lifted.discard(what)
            assert result == (what not in before)
        elif do == "unblock":
            by_operator.discard(what)
            lifted |= {what} & by_file
            assert result == (what in before)
        else:
            assert isinstance(what, set)
            by_file = set(what)
            lifted &= by_file
        now = (by_file - lifted) | by_operator
        if do == "configure":
            assert set(result) == now - before
        assert set(blocks.networks(now=NOW)) == now
        assert set(blocks.networks("operator", now=NOW)) == by_operator
        assert set(blocks.networks("configuration", now=NOW)) == by_file - lifted
        assert {network for network, ip in INSIDE.items() if blocks.covers(ip, NOW)} == now


def test_ips_within() -> None:
    ips = ["10.0.0.1", "11.0.0.1", "2001:db8::5", "fe80::1%eth0", "unix", "local", "10.0.0.300"]
    assert ips_within([A, B], ips) == {"10.0.0.1", "2001:db8::5"}
    assert ips_within([ip_network("fe80::1")], ips) == {"fe80::1%eth0"}
    assert ips_within([], ips) == set()
