from __future__ import annotations

import ipaddress

import attrs
import pytest

from monconn.policy.blocks import Blocks
from monconn.policy.rules import Rules

TWO_IPS = {"10.0.0.1": 2, "10.0.0.2": 1}
BANS = (ipaddress.ip_network("10.0.0.0/30"),)


@pytest.mark.parametrize(
    ("rules", "client_ip", "refusal"),
    [
        (Rules(), "10.0.0.3", None),
        # conn_limit: three are live
        (Rules(conn_limit=4), "10.0.0.3", None),
        (Rules(conn_limit=3), "10.0.0.3", "conn_limit"),
        (Rules(conn_limit=3), "10.0.0.1", "conn_limit"),
        (Rules(conn_limit=2), "10.0.0.1", "conn_limit"),  # it was set while they were live
        # ip_limit: two are live, and a known one may always come again
        (Rules(ip_limit=3), "10.0.0.3", None),
        (Rules(ip_limit=2), "10.0.0.3", "ip_limit"),
        (Rules(ip_limit=2), "10.0.0.1", None),
        (Rules(ip_limit=1), "10.0.0.2", None),
        (Rules(ip_limit=1), "10.0.0.3", "ip_limit"),
        # bans
        (Rules(bans=BANS), "10.0.0.3", "blocked"),
        (Rules(bans=BANS), "10.0.0.1", "blocked"),
        (Rules(bans=BANS), "10.0.0.4", None),
        (Rules(bans=BANS), "unix", None),
        # several: what will not change by itself comes first
        (Rules(conn_limit=3, ip_limit=2, bans=BANS), "10.0.0.3", "blocked"),
        (Rules(conn_limit=3, ip_limit=2), "10.0.0.3", "conn_limit"),
    ],
)
def test_refusal(rules: Rules, client_ip: str, refusal: str | None) -> None:
    is_blocked = Blocks(rules.bans).covers(client_ip)
    assert rules.refusal(client_ip, 3, TWO_IPS, is_blocked=is_blocked) == refusal


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_limits_are_exact(limit: int) -> None:
    rules = Rules(conn_limit=limit)
    verdicts = [rules.refusal("10.0.0.1", count, {"10.0.0.1": count}) for count in range(limit + 1)]
    assert verdicts == [None] * limit + ["conn_limit"]

    rules = Rules(ip_limit=limit)
    live = [{f"10.0.0.{number}": 1 for number in range(count)} for count in range(limit + 1)]
    verdicts = [rules.refusal("10.9.9.9", len(by_ip), by_ip) for by_ip in live]
    assert verdicts == [None] * limit + ["ip_limit"]


@pytest.mark.parametrize(
    ("rules", "connections", "is_full", "must_wait"),
    [
        (Rules(), 1_000_000, False, False),
        (Rules(conn_limit=2), 1, False, False),
        (Rules(conn_limit=2), 2, True, True),
        (Rules(conn_limit=2), 3, True, True),
        (Rules(conn_limit=2, when_full="refuse"), 2, True, False),
    ],
)
def test_full(rules: Rules, connections: int, is_full: bool, must_wait: bool) -> None:
    assert (rules.refusal("10.0.0.1", connections, {}) == "conn_limit") == is_full
    assert rules.must_wait(connections) == must_wait


def test_rules_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Rules().conn_limit = 5  # type: ignore[misc]
    assert Rules().bans == ()
