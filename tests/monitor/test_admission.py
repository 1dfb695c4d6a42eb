from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from monconn.monitor.admission import ADMITTED, Admission, Verdict
from monconn.policy.blocks import Blocks
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.rules import Rules

TWO_IPS = {"10.0.0.1": 2, "10.0.0.2": 1}
BLOCK = (ipaddress.ip_network("10.0.0.0/30"),)
NOW = 1000.0


def admission(
    rules: Rules, live: dict[str, int] | None = None, prefixes: tuple[int, int] = (32, 64)
) -> Admission:
    made = Admission(rules, Blocks(rules.block), ClientPrefixes(*prefixes))
    for ip, count in (live or {}).items():
        for _ in range(count):
            made.opened(ip)
    return made


@pytest.mark.parametrize(
    ("rules", "client_ip", "refusal"),
    [
        ({}, "10.0.0.3", None),
        # conn_limit: three are live
        ({"conn_limit": 4}, "10.0.0.3", None),
        ({"conn_limit": 3}, "10.0.0.3", "conn_limit"),
        ({"conn_limit": 3}, "10.0.0.1", "conn_limit"),
        ({"conn_limit": 2}, "10.0.0.1", "conn_limit"),  # it was set while they were live
        # ip_limit: two are live, and a known one may always come again
        ({"ip_limit": 3}, "10.0.0.3", None),
        ({"ip_limit": 2}, "10.0.0.3", "ip_limit"),
        ({"ip_limit": 2}, "10.0.0.1", None),
        ({"ip_limit": 1}, "10.0.0.2", None),
        ({"ip_limit": 1}, "10.0.0.3", "ip_limit"),
        # per_ip_limit
        ({"per_ip_limit": 2}, "10.0.0.1", "per_ip_limit"),
        ({"per_ip_limit": 2}, "10.0.0.2", None),
        ({"per_ip_limit": 2}, "10.0.0.3", None),
        # networks
        ({"block": BLOCK}, "10.0.0.3", "blocked"),
        ({"block": BLOCK}, "10.0.0.1", "blocked"),
        ({"block": BLOCK}, "10.0.0.4", None),
        ({"block": BLOCK}, "unix", None),
        ({"allow": BLOCK}, "10.0.0.3", None),
        ({"allow": BLOCK}, "10.0.0.4", "not_allowed"),
        ({"allow": BLOCK}, "unix", "not_allowed"),
        ({"allow": BLOCK}, "10.0.0.3\0", "not_allowed"),  # as a preface may say
        ({"allow": BLOCK, "block": BLOCK}, "10.0.0.3", "blocked"),
        # several: what will not change by itself comes first
        ({"conn_limit": 3, "ip_limit": 2, "block": BLOCK}, "10.0.0.3", "blocked"),
        ({"conn_limit": 3, "ip_limit": 2}, "10.0.0.3", "conn_limit"),
        ({"conn_limit": 3, "per_ip_limit": 2}, "10.0.0.1", "per_ip_limit"),
    ],
)
def test_refusal(rules: dict[str, Any], client_ip: str, refusal: str | None) -> None:
    assert admission(Rules(**rules), TWO_IPS).judge(client_ip, 3, NOW).refusal == refusal


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_limits_are_exact(limit: int) -> None:
    rules = Rules(conn_limit=limit)
    refusals = [
        admission(rules).judge("10.0.0.1", count, NOW).refusal for count in range(limit + 1)
    ]
    assert refusals == [None] * limit + ["conn_limit"]

    made = admission(Rules(ip_limit=limit))
    refusals = []
    for number in range(limit + 1):
        refusals.append(made.judge(f"10.0.0.{number}", number, NOW).refusal)
        made.opened(f"10.0.0.{number}")
    assert refusals == [None] * limit + ["ip_limit"]

    made = admission(Rules(per_ip_limit=limit))
    refusals = []
    for number in range(limit + 1):
        refusals.append(made.judge("10.0.0.1", number, NOW).refusal)
        made.opened("10.0.0.1")
    assert refusals == [None] * limit + ["per_ip_limit"]
    made.closed("10.0.0.1")
    made.closed("10.0.0.1")
    assert made.judge("10.0.0.1", limit - 1, NOW) is ADMITTED


def test_addresses_of_one_network_are_one_client() -> None:
    live = {"2001:db8::1": 1, "2001:db8::2": 1}
    made = admission(Rules(per_ip_limit=2, ip_limit=1), live)
    assert made.judge("2001:db8::3", 2, NOW).refusal == "per_ip_limit"
    assert made.judge("2001:db8:0:1::3", 2, NOW).refusal == "ip_limit"
    made.configure(made.rules, ClientPrefixes(32, 128), live, NOW)
    assert made.judge("2001:db8::1", 2, NOW) is ADMITTED


def test_rates_take_tokens_of_those_who_enter() -> None:
    made = admission(Rules(rate="2/s", per_ip_rate="1/s", block=BLOCK))  # type: ignore[arg-type]
    assert made.judge("10.0.0.1", 0, NOW).refusal == "blocked"
    assert made.judge("10.1.0.1", 0, NOW) is ADMITTED
    assert made.judge("10.1.0.1", 0, NOW).refusal == "per_ip_rate"
    assert made.judge("10.1.0.1", 0, NOW, takes_tokens=False) is ADMITTED
    assert made.judge("10.1.0.2", 0, NOW) is ADMITTED
    assert made.judge("10.1.0.3", 0, NOW).refusal == "rate"
    assert made.judge("10.1.0.3", 0, NOW + 0.51) is ADMITTED


def test_dry_run_lets_in_and_says_what_it_would_do() -> None:
    rules = Rules(conn_limit=1, per_ip_limit=1, ip_limit=1, dry_run=("conn_limit", "per_ip_limit"))
    made = admission(rules, {"10.0.0.1": 1})
    assert made.judge("10.0.0.1", 1, NOW) == Verdict(None, ("per_ip_limit", "conn_limit"))
    assert made.judge("10.0.0.2", 1, NOW) == Verdict("ip_limit", ("conn_limit",))
    assert not made.is_full(1)


@pytest.mark.parametrize(
    ("rules", "connections", "is_full"),
    [
        (Rules(), 1_000_000, False),
        (Rules(conn_limit=2), 1, False),
        (Rules(conn_limit=2), 2, True),
        (Rules(conn_limit=2), 3, True),
        (Rules(conn_limit=2, when_full="refuse"), 2, False),
    ],
)
def test_full(rules: Rules, connections: int, is_full: bool) -> None:
    assert admission(rules).is_full(connections) == is_full


def test_clients_wait_for_the_rate() -> None:
    made = admission(Rules(rate="2/s"))  # type: ignore[arg-type]
    assert made.waits_until(NOW) is None
    made.judge("10.0.0.1", 0, NOW)
    made.judge("10.0.0.2", 0, NOW)
    assert made.waits_until(NOW) == pytest.approx(NOW + 0.5)
    refusing = Rules(rate="2/s", when_full="refuse")  # type: ignore[arg-type]
    made.configure(refusing, made.prefixes, {}, NOW)
    assert made.waits_until(NOW) is None
    assert made.judge("10.0.0.3", 0, NOW).refusal == "rate"


def test_limits_that_are_set_later_count_who_is_there() -> None:
    made = admission(Rules(), TWO_IPS)
    made.configure(Rules(per_ip_limit=2), made.prefixes, TWO_IPS, NOW)
    assert made.judge("10.0.0.1", 3, NOW).refusal == "per_ip_limit"
    assert made.judge("10.0.0.2", 3, NOW) is ADMITTED
    made.closed("10.0.0.1")
    assert made.judge("10.0.0.1", 2, NOW) is ADMITTED


@pytest.mark.parametrize("ip", ["", "unix", "10.0.0.3\0", "::1\0", "::1%eth0", "300.0.0.1", ":"])
def test_what_is_no_ip_is_a_client_of_its_own(ip: str) -> None:
    rules = Rules(per_ip_limit=1, block=BLOCK)
    assert admission(rules, prefixes=(24, 64)).judge(ip, 0, NOW) is ADMITTED
    assert admission(rules, {ip: 1}, (24, 64)).judge(ip, 1, NOW) == Verdict("per_ip_limit")
