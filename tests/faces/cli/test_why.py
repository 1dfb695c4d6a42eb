"""``monconn why`` over a control port."""

from __future__ import annotations

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
def test_what_is_no_client_is_misused(services: Services) -> None:
    result = services.monconn("why", "192.0.2.0/24")
    assert (result.exit_code, result.stderr) == (
        2,
        'monconn: "192.0.2.0/24" is not one address: write one of its addresses,'
        " such as 10.1.2.3\n",
    )
    assert services.monconn("why", "192.0.2.1", "--service", "wb").exit_code == 1
