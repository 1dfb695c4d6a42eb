from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monconn.addresses import Network, plain_ip
from monconn.policy.networks import NetworkSet, matcher


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


@st.composite
def networks_and_ips(draw: st.DrawFn) -> tuple[list[Network], str]:
    """Networks and an IP that are often, but not always, near one another."""
    base = draw(st.ip_addresses())
    bits = base.max_prefixlen
    near = st.integers(0, bits).flatmap(
        lambda free: st.integers(0, 2**free - 1).map(lambda flip: int(base) ^ flip)
    )
    networks = draw(
        st.lists(
            st.tuples(near, st.integers(0, bits)).map(
                lambda pair: ipaddress.ip_network((type(base)(pair[0]), pair[1]), strict=False)
            )
            | st.ip_addresses().map(ipaddress.ip_network),
            max_size=10,
        )
    )
    ip = draw(near.map(type(base)) | st.ip_addresses())
    return networks, str(ip)


@given(networks_and_ips())
@example(([net("0.0.0.0/0")], "255.255.255.255"))
@example(([net("::/0")], "10.0.0.1"))  # IPv4 is no part of IPv6
@example(([net("::a00:1/128")], "10.0.0.1"))  # the same number
def test_covers_as_a_loop_over_all_would(case: tuple[list[Network], str]) -> None:
    networks, text = case
    ip = ipaddress.ip_address(text)
    naive = any(ip.version == network.version and ip in network for network in networks)
    assert NetworkSet(networks).covers(text) == naive
    assert matcher(networks)(text) == naive


FEW_NETWORKS = [
    net(f"{base}{number}/{bits - free}")
    for base, bits in (("10.0.0.", 32), ("2001:db8::", 128))
    for free in range(3)
    for number in range(0, 8, 2**free)
]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(FEW_NETWORKS)), max_size=50))
def test_add_and_remove_as_a_set_would(steps: list[tuple[bool, Network]]) -> None:
    bans, known = NetworkSet(), set()
    for is_added, network in steps:
        if is_added:
            assert bans.add(network) == (network not in known)
            known.add(network)
        else:
            assert bans.remove(network) == (network in known)
            known.discard(network)
        assert len(bans) == len(known)
        assert set(bans) == known


@pytest.mark.parametrize(
    ("ip", "is_covered"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("fe80::1%eth0", True),  # a scope names an interface, and is not part of the address
        ("fe80::2%eth0", False),
        ("unix", False),
        ("", False),
        ("local", False),
    ],
)
def test_covers(ip: str, is_covered: bool) -> None:
    networks = [*map(net, ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::1"])]
    assert NetworkSet(networks).covers(ip) == is_covered
    assert matcher(networks)(ip) == is_covered


@given(st.ip_addresses(v=4))
def test_covers_ipv4_that_came_as_ipv6(ip: ipaddress.IPv4Address) -> None:
    bans = NetworkSet([ipaddress.ip_network(ip)])
    assert bans.covers(plain_ip(f"::ffff:{ip}"))


def test_only_exactly_this_network_is_removed() -> None:
    bans = NetworkSet([net("10.0.0.0/8"), net("10.0.0.0/16")])
    assert not bans.remove(net("10.0.0.0/12"))
    assert bans.remove(net("10.0.0.0/8"))
    assert list(bans) == [net("10.0.0.0/16")]
    assert not bans.covers("10.1.0.1")


def test_no_bans() -> None:
    assert not NetworkSet().covers("10.0.0.1")
    assert len(NetworkSet()) == 0


def test_ten_thousand_cost_no_more_than_their_lengths() -> None:
    """Counted in look-ups, as time would depend on the machine."""
    look_ups = 0

    class Counting(dict[int, Network]):
        def __contains__(self, key: object) -> bool:
            nonlocal look_ups
            look_ups += 1
            return super().__contains__(key)

    bans = NetworkSet(net(f"10.{number // 250}.{number % 250}.1") for number in range(10_000))
    bans.add(net("192.0.2.0/24"))
    for length, networks in bans._by_prefix.items():
        bans._by_prefix[length] = Counting(networks)
    assert not bans.covers("10.0.0.2")
    assert look_ups == 2
