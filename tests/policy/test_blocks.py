"""Blocks of the configuration and of the operator."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monconn.policy.blocks import Blocks, result_of
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


NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0")))
IPS = ("10.1.2.3", "10.1.2.4", "10.2.0.1", "11.0.0.1", "2001:db8::1", "unix")
TIMED = st.one_of(
    st.tuples(
        st.just("block"),
        st.sampled_from(NETWORKS),
        st.sampled_from([None, 1, 5, 20]),
        st.sampled_from(["operator", "auto"]),
    ),
    st.tuples(st.just("unblock"), st.sampled_from(NETWORKS)),
    st.tuples(st.just("configure"), st.sets(st.sampled_from(NETWORKS))),
    st.tuples(st.just("file"), st.sets(st.sampled_from(NETWORKS))),
    st.tuples(st.just("pass"), st.integers(0, 10)),
    st.tuples(st.just("tidy")),
)


@given(st.lists(TIMED, max_size=20))
def test_what_holds_as_time_passes(steps: list[Any]) -> None:
    """Compared with a model that looks at every entry: each source has one end of each network."""
    blocks, now = Blocks(), 0.0
    ends: dict[str, dict[Any, float]] = {
        each: {} for each in ("operator", "auto", "configuration", "file")
    }
    lifted: set[Any] = set()

    def in_force(network: Any) -> bool:
        return any(
            until > now and not (network in lifted and source in ("configuration", "file"))
            for source, of_source in ends.items()
            for each, until in of_source.items()
            if each == network
        )

    for step in steps:
        if step[0] == "pass":
            now += step[1]
        elif step[0] == "block":
            _, network, seconds, source = step
            until = None if seconds is None else now + seconds
            was_there = in_force(network)
            assert blocks.block(network, now, source=source, until=until).is_new != was_there
            ends[source][network] = float("inf") if until is None else until
            if until is None:  # else it is unblocked again at the end
                lifted.discard(network)
        elif step[0] == "unblock":
            assert blocks.unblock(step[1], now) == in_force(step[1])
            ends["operator"].pop(step[1], None)
            ends["auto"].pop(step[1], None)
            if any(step[1] in ends[each] for each in ("configuration", "file")):
                lifted.add(step[1])
        elif step[0] == "tidy":
            for each in tuple(blocks.run_time()):
                blocks.remove_ended(each, now)
        else:
            source = "configuration" if step[0] == "configure" else "file"
            ends[source] = dict.fromkeys(step[1], float("inf"))
            if source == "file":
                result_of(blocks.configure_file("f", dict.fromkeys(step[1], ""), now=now))
            else:
                blocks.configure(step[1], now=now)
            lifted &= ends["configuration"].keys() | ends["file"].keys()
        holding = {each for each in NETWORKS if in_force(each)}
        assert set(blocks.networks(now=now)) == holding
        for ip in IPS:
            number = ip_address(ip) if ip != "unix" else None
            covering = [each for each in holding if number is not None and number in each]
            found = blocks.find(ip, now)
            smallest = max(covering, key=lambda each: each.prefixlen, default=None)
            assert (None if found is None else found.network) == smallest


def test_what_is_configured_and_unblocked_is_found() -> None:
    blocks = Blocks(NETWORKS[:1])
    assert result_of(blocks.configure_file("f", {NETWORKS[2]: "f:7"})) == [NETWORKS[2]]
    assert blocks.find_lifted("10.1.2.3") is None
    for each in (NETWORKS[0], NETWORKS[1], NETWORKS[2]):
        blocks.unblock(each, NOW)
    found = {ip: blocks.find_lifted(ip) for ip in IPS}
    assert {ip: (each.network, each.source, each.origin) for ip, each in found.items() if each} == {
        "10.1.2.3": (NETWORKS[2], "file", "f:7"),
        "10.1.2.4": (NETWORKS[0], "configuration", ""),
        "10.2.0.1": (NETWORKS[0], "configuration", ""),
    }
    blocks.configure(())
    assert blocks.find_lifted("10.2.0.1") is None


def test_ten_thousand_networks_cost_no_more_steps_than_their_lengths() -> None:
    blocks = Blocks(ip_network(f"10.{each >> 8}.{each & 255}.0/24") for each in range(10_000))
    assert [len(table) for table in blocks.tables.values()] == [1]
    assert blocks.covers("10.39.15.7", NOW)
    assert not blocks.covers("10.39.16.7", NOW)
