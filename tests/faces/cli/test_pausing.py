"""``monconn pause``, ``resume``, ``drain`` and ``close --spread``."""

from __future__ import annotations

from .test_inspect import Services, with_services


@with_services
def test_a_service_is_paused_resumed_and_drained(services: Services) -> None:
    def said(*arguments: str) -> str:
        done = services.monconn(*arguments)
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout

    assert said("pause", "web", "--for", "1h") == (
        "web is paused for 1h00m: 2 connections held, clients wait in its queue\n"
    )
    assert said("pause", "web") == "web was paused already: from now on until it is resumed\n"
    unchanged = {"service": "web", "changed": False, "connections": 2}
    assert services.json("pause", "web") == [unchanged]
    updated = {"service": "web", "changed": True, "connections": 2, "updated": True}
    assert services.json("pause", "web", "--for", "1h") == [updated]
    _, web, ssh = services.lines("stats")
    assert (web[1], ssh[1]) == ("paused", "running")
    assert services.json("stats", "state:paused")[0]["sid"] == "web"
    connection = str(services.connections[0].record.id)
    assert "its service is paused" in said("show", connection)
    assert services.json("show", connection)["is_paused"] is True
    assert services.json("resume", "web", "ssh") == [
        {"service": "web", "changed": True, "connections": 2},
        {"service": "ssh", "changed": False, "connections": 1},
    ]
    assert "is_paused" not in services.json("show", connection)
    assert said("resume", "ssh") == "ssh was running\n"
    assert said("drain", "ssh", "--spread", "5m") == (
        "ssh refuses clients: 1 connection will end within 5m00s\n"
    )
    assert services.json("drain", "ssh", "--spread", "1m") == [
        {"service": "ssh", "changed": True, "connections": 1, "updated": True}
    ]
    assert said("drain", "ssh") == "ssh refused clients already: 1 connection left\n"
    assert services.json("drain", "ssh") == [{"service": "ssh", "changed": False, "connections": 1}]
    refused = services.monconn("pause", "ssh")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "resume ssh first" in refused.stderr
    assert said("resume", "ssh") == "ssh goes on\n"
    assert services.monconn("drain", "ftp").exit_code == 1
    assert services.monconn("pause", "web", "--for", "0").exit_code == 2
    assert services.monconn("pause").exit_code == 2


@with_services
def test_an_unknown_service_among_several_changes_nothing(services: Services) -> None:
    for verb in ("pause", "drain", "resume"):
        done = services.monconn(verb, "web", "ftp", "ssh")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "ftp" in done.stderr
        assert {line[1] for line in services.lines("stats")[1:]} == {"running"}


@with_services
def test_connections_are_closed_over_a_time(services: Services) -> None:
    done = services.monconn("close", "--service", "web", "--spread", "5m")
    assert done.stdout == "2 connections will be closed within 5m00s, evenly\n"
    done = services.monconn("close", "--service", "web", "--spread", "5m", "--dry-run")
    assert done.stdout.endswith("2 connections would be closed within 5m00s, evenly\n")
    assert len(services.json("list", "service:web")) == 2
    services.port.on_reactor(services.port.registry.get("web").resume)
