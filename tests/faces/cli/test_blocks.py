"""``monconn block``, ``unblock`` and ``blocks``."""

from __future__ import annotations

import csv
import io
import re

import pytest

from monconn.faces.control.client import Client
from monconn.ops.rows import BlockRow
from monconn.ops.text_table import text_table
from tests.faces.cli.test_inspect import Services, with_services

NET = "192.0.2.0/24"


@with_services
def test_a_block_with_an_end_a_reason_and_connections_left_open(services: Services) -> None:
    result = services.monconn("block", NET, "--for", "1h", "--reason", "a\n  scan", "--keep-open")
    assert re.fullmatch(rf"{NET} is blocked until [-0-9: ]+\n", result.stdout)
    assert "ends with it" in result.stderr  # there is no file for its state
    assert [each.record.reason for each in services.connections] == [None] * 3
    (row,) = services.json("blocks")
    assert (row["service"], row["source"], row["reason"]) == (None, "operator", "a scan")
    assert (row["keep_open"], row["hits"], row["origin"]) == (True, 0, None)
    assert 3500 < row["left_seconds"] <= 3600
    assert row["since_at"] < row["until_at"]
    assert row["by"].startswith("uid ")

    again = services.monconn("block", NET, "--for", "2h")
    assert re.fullmatch(
        rf"{NET} was blocked already, and is now blocked until [-0-9: ]+,"
        r" 2 connections closed\n",
        again.stdout,
    )
    (changed,) = services.json("block", NET)
    assert changed == {"network": NET, "changed": True, "updated": True}
    assert services.monconn("block", NET).stdout == f"{NET} was blocked already\n"
    (timed,) = services.json("block", "203.0.113.7", "--for", "5m")
    assert set(timed) == {"network", "changed", "until_at"}


@with_services
def test_a_slip_in_a_network_is_seen_in_the_answer(services: Services) -> None:
    for verb in ("block", "unblock"):
        for option in (["--dry-run"], []):
            said = services.monconn(verb, "203.0.113.7/8", "203.0.113.7/32", *option).stdout
            assert [line.split()[0] for line in said.splitlines()] == ["203.0.0.0/8", "203.0.113.7"]


@with_services
def test_the_listing_and_its_filters(services: Services) -> None:
    services.monconn("block", NET, "--for", "1h", "--reason", "brute force at the login")
    services.monconn("block", "10.0.0.0/8", "--service", "ssh")
    services.monconn("block", "2001:db8:1234:5678::/64", "--service", "web")

    def found(*terms: str) -> list[str]:
        return [row["network"] for row in services.json("blocks", *terms)]

    assert found("source:operator", "left:30m..") == [NET]
    assert found("reason:brute") == [NET]
    assert found("service:ssh") == [NET, "10.0.0.0/8"]
    assert found("--service", "web") == [NET, "2001:db8:1234:5678::/64"]
    assert found("hits:1..") == []
    assert found("not:source:operator") == []
    assert found("by:uid", "login") == [NET]
    rows = list(csv.DictReader(io.StringIO(services.monconn("blocks", "--csv").stdout)))
    assert list(rows[0])[:2] == ["service", "network"]  # as it always was
    assert rows[1]["service"] == "web"
    lines = text_table(BlockRow.columns(), services.json("blocks"), 80)
    assert max(map(len, lines)) <= 80
    for name in ("NETWORK", "SERVICE", "SOURCE", "LEFT", "HITS", "REASON"):
        assert name in lines[0]


@with_services
def test_what_is_blocked_at_all_services_is_not_unblocked_at_one(services: Services) -> None:
    services.monconn("block", NET)
    for more in ([], ["--dry-run"]):
        refused = services.monconn("unblock", NET, "--service", "web", *more)
        assert refused.exit_code == 2
        assert "is blocked at all services" in refused.stderr
    services.monconn("block", "10.1.1.1", "--service", "web")
    assert services.monconn("unblock", "10.1.1.1", NET, "--service", "web").exit_code == 2
    assert services.json("unblock", "10.1.1.1", "--service", "web")[0]["changed"], "it was before"
    assert services.json("unblock", "192.0.2.7") == [
        {"network": "192.0.2.7", "changed": False, "still_blocked_by": NET}
    ]
    assert services.monconn("unblock", "192.0.2.7").stdout == (
        f"192.0.2.7 was not blocked; {NET} is blocked, which it is in\n"
    )
    assert services.monconn("unblock", NET).stdout == f"{NET} is let in again\n"
    assert services.json("blocks") == []


@with_services
def test_all_addresses_need_nothing_special(services: Services) -> None:
    result = services.monconn("block", "0.0.0.0/0", "::/0", "--for", "10s")
    ended = [line.partition(", ")[2] for line in result.stdout.splitlines()]
    assert ended == ["2 connections closed", "1 connection closed"]
    assert services.monconn("unblock", "0.0.0.0/0", "::/0").exit_code == 0


@with_services
def test_what_cannot_be(services: Services) -> None:
    for options in (["--for", "0"], ["--for", "soon"], ["--for", "400000d"]):
        assert services.monconn("block", NET, *options).exit_code == 2
    assert services.monconn("block", NET, "--reason", "x" * 201).exit_code == 2
    for verb in ("block", "unblock"):
        result = services.monconn(verb, NET, "10.0.0.999")
        assert (result.exit_code, result.stdout) == (2, "")
        assert '"10.0.0.999" is neither an IP address nor a network' in result.stderr
    assert services.json("blocks") == []


@with_services
def test_an_older_server_would_block_for_ever(services: Services) -> None:
    greet = Client._greet

    def older(self: Client) -> dict[str, str]:
        hello = greet(self)
        del hello["blocks"]
        return hello

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_greet", older)
        for options in (["--for", "1h"], ["--reason", "x"], ["--keep-open"]):
            refused = services.monconn("block", NET, *options)
            assert refused.exit_code == 1
            assert f"too old for {options[0]}" in refused.stderr
    assert services.json("blocks") == []
    assert services.monconn("block", NET).exit_code == 0
