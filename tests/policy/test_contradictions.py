"""Settings that can never matter among others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monconn.policy.auto_block import AutoBlock
from monconn.policy.contradictions import contradictions
from monconn.policy.policy import Policy


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, {}),
        ({"allow": ["10.0.0.0/8"], "block": ["10.1.0.0/16"], "conn_limit": 9}, {}),
        (
            {"allow": ["10.0.0.0/8", "10.1.2.0/24"], "block": ["10.1.0.0/16"]},
            {"allow": "never lets in 10.1.2.0/24, as block goes before it"},
        ),
        (
            {"allow": ["10.1.2.0/24", "2001:db8::1"], "block": ["10.0.0.0/8", "2001:db8::/32"]},
            {"allow": "lets nobody in: all of it is blocked, and block goes before it"},
        ),
        (
            {"allow": ["10.0.0.0/8"], "block": [f"192.0.2.{each}" for each in range(5)]},
            {
                "block": "needs no 192.0.2.0, 192.0.2.1, 192.0.2.2 and 2 more: allow lets none of"
                " that in"
            },
        ),
        # A block that is only counted blocks nothing.
        ({"allow": ["10.0.0.0/8"], "block": ["10.0.0.0/8"], "dry_run": ["block"]}, {}),
        (
            {"conn_limit": 5, "ip_limit": 6, "per_ip_limit": 7},
            {
                "ip_limit": "is never reached: conn_limit is 5",
                "per_ip_limit": "is never reached: conn_limit is 5",
            },
        ),
        ({"conn_limit": 5, "ip_limit": 6, "per_ip_limit": 7, "dry_run": ["conn_limit"]}, {}),
        (
            {"conn_limit": 50, "ip_limit": 6, "per_ip_limit": 7},
            {"conn_limit": "is never reached: there are at most 6 clients with 7 connections each"},
        ),
        (
            {"rate": "5/s", "per_ip_rate": "10/s"},
            {"per_ip_rate": "of 10/s never refuses anybody: rate is 5/s for all"},
        ),
        ({"rate": "5/s burst 20", "per_ip_rate": "10/s"}, {}),
        ({"rate": "5/s", "per_ip_rate": "100/m"}, {}),
        (
            {"when_full": "refuse"},
            {"when_full": "is without effect: neither conn_limit nor rate is set"},
        ),
        ({"when_full": "refuse", "rate": "5/s"}, {}),
        ({"auto_block": AutoBlock(of=("blocked", "client_reset"))}, {}),
        ({"auto_block": AutoBlock(of=("rate", "client_reset"))}, {}),
        ({"auto_block": AutoBlock(of=("rate",)), "rate": "5/s", "when_full": "refuse"}, {}),
        (
            {"auto_block": AutoBlock(of=("rate", "per_ip_limit")), "rate": "5/s"},
            {
                "auto_block": "blocks nobody, as per_ip_limit, rate refuse nobody: not set, in"
                " dry_run, or such that clients wait (when_full)"
            },
        ),
        ({"dry_run": ["rate"]}, {"dry_run": "has rate, which is not set"}),
        ({"dry_run": ["rate", "block"]}, {"dry_run": "has block, rate, which are not set"}),
    ],
)
def test_contradictions(settings: dict[str, Any], found: dict[str, str]) -> None:
    assert dict(contradictions(Policy.of(**settings))) == found


def test_those_of_files(tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text("10.0.0.0/8\n")
    policy = Policy.of(block_files=[str(file)], allow=["10.1.0.0/16"])
    assert [key for key, _ in contradictions(policy)] == ["allow"]
    assert not list(contradictions(Policy.of(block_files=[str(file)], dry_run=["block"])))


def test_clients_of_a_unix_socket_have_no_address() -> None:
    policy = Policy.of(allow=["10.0.0.0/8"], per_ip_limit=5, per_ip_rate="5/s", conn_limit=9)
    found = dict(contradictions(policy, have_addresses=False))
    assert found.keys() == {"allow", "per_ip_limit", "per_ip_rate"}
    assert found["allow"] == "lets nobody in: clients of a UNIX socket have no address"
    found = dict(contradictions(Policy.of(block=["10.0.0.0/8"]), have_addresses=False))
    assert found == {"block": "blocks nobody: clients of a UNIX socket have no address"}
