"""``monconn why`` over a control port."""

from __future__ import annotations

from monconn.ops.why_rows import why_lines
from monconn.policy.policy import Policy

from .test_inspect import Services, with_services


@with_services
def test_the_answer_is_text_or_json(services: Services) -> None:
    services.port.on_reactor(services.web.apply, Policy.of(per_ip_limit=1, when_full="refuse"))
    result = services.monconn("why", "192.0.2.1")
    assert result.exit_code == 0, result.output
    heads = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert heads == [
        "web: 192.0.2.1 would be refused: per_ip_limit",
        "ssh: 192.0.2.1 would enter",
    ]
    (row,) = services.json("why", "192.0.2.1", "--service", "web")
    (rule,) = row["rules"]
    assert (row["outcome"], rule["used"], rule["limit"]) == ("refused", 1, 1)
    assert row["ids"] == [services.connections[0].record.id]
    assert services.json("why", str(row["ids"][0]), "--service", "web") == [row]


@with_services
def test_a_rule_that_has_clients_wait_does_not_say_that_it_refuses(services: Services) -> None:
    services.port.on_reactor(services.web.apply, Policy.of(conn_limit=1))
    (row,) = services.json("why", "2001:db8::9", "--service", "web")
    waits = row | {"outcome": "waits", "by": "conn_limit", "refusal": None}
    lines = [*why_lines([waits], None)]
    assert (
        lines[0] == "web: 2001:db8::9 would wait in the accept queue (conn_limit), and then enter"
    )
    assert lines[-1].split(None, 1)[1].startswith("full, clients wait: 2 of 1 connections")
    paused = row | {"outcome": "waits", "by": "paused", "refusal": "conn_limit"}
    assert [*why_lines([paused], None)][-1].split(None, 1)[1].startswith("refuses: 2 of 1")


@with_services
def test_the_prefix_that_makes_it_a_client_is_named(services: Services) -> None:
    text = services.monconn("why", "2001:db8::9", "--service", "web").stdout
    assert "2001:db8::/64, which is one client by prefix_v6\n" in text


@with_services
def test_what_is_no_client_is_misused(services: Services) -> None:
    result = services.monconn("why", "192.0.2.0/24")
    assert (result.exit_code, result.stderr) == (
        2,
        'monconn: "192.0.2.0/24" is not one address: write one of its addresses,'
        " such as 10.1.2.3\n",
    )
    assert services.monconn("why", "192.0.2.1", "--service", "wb").exit_code == 1
