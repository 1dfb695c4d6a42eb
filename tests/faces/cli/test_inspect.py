"""The verbs for a running monconn: what they print, and their exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread

from monconn.faces.cli import device as device_verb
from monconn.faces.cli.main import main
from monconn.monitor.monitor import Monitor
from monconn.ops.operations import Operations
from monconn.ops.sorting import sort_key
from tests import ROOT
from tests.faces.control.conftest import FakeConnection, Port

HANG_SECONDS = 30.0
EXAMPLE = ROOT / "examples" / "control_client.py"


@attrs.frozen
class Services:
    """A control port with two services and three connections."""

    port: Port
    web: Monitor
    ssh: Monitor
    connections: list[FakeConnection]

    def monconn(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--control", self.port.where])

    def lines(self, *arguments: str) -> list[list[str]]:
        """Each line that is printed, split at blanks."""
        result = self.monconn(*arguments)
        assert result.exit_code == 0, result.output
        return [line.split() for line in result.stdout.splitlines() if line.strip()]

    def json(self, *arguments: str) -> Any:
        result = self.monconn(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


def with_services(check: Callable[[Services], None]) -> Any:
    """A test that runs in a thread, with a control port on the running reactor."""

    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def run() -> None:
            with Port(tmp_path) as port:
                web = port.monitor("web", listen=":80", backend="10.0.0.5:80")
                ssh = port.monitor("ssh", listen=":22", backend="10.0.0.5:22")
                made = port.connections(web, "192.0.2.1", "2001:db8::1")
                made += port.connections(ssh, "192.0.2.1")
                made[0].record.up = 5734
                check(Services(port, web, ssh, made))

        await deferToThread(run)

    test.__name__ = check.__name__
    return test


@with_services
def test_list_is_a_table(services: Services) -> None:
    head, *rows = services.lines("list")
    assert head == [
        "ID",
        "CLIENT",
        "NAME",
        "SERVICE",
        "STATE",
        "UP",
        "DOWN",
        "UP/S",
        "DOWN/S",
        "AGE",
        "IDLE",
        "HEARD",
        "PROTOCOL",
    ]
    first = services.connections[0].record
    assert rows[0][:8] == [str(first.id), "192.0.2.1:1024", "-", "web", "open", "5.6", "KiB", "0"]
    assert rows[1][1] == "[2001:db8::1]:1025"  # brackets are no mark-up
    assert len(rows) == 3


@with_services
def test_list_takes_options(services: Services) -> None:
    def ids(*arguments: str) -> list[int]:
        return [row["id"] for row in services.json("list", *arguments)]

    web, web6, ssh = (each.record.id for each in services.connections)
    assert ids() == [web, web6, ssh]
    assert ids("--service", "ssh") == [ssh]
    assert ids("--client", "192.0.2.0/24") == [web, ssh]
    assert ids("--sort", "up", "--limit", "1") == [web]
    assert ids("--idle-over", "5m") == []
    assert ids("--state", "half_closed") == []
    assert services.monconn("list", "--idle-over", "soon").exit_code == 2
    assert services.monconn("list", "--sort", "colour").exit_code == 2
    failed = services.monconn("list", "--client", "nonsense")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert failed.stderr.startswith('monconn: "nonsense" is neither')


@with_services
def test_listings_have_the_same_options(services: Services) -> None:
    services.lines("block", "192.0.2.128/25", "10.0.0.0/8", "192.0.2.64/26")
    for verb, column, others in (
        ("list", "client", ["id", "service"]),
        ("ip", "ip", ["up", "down"]),
        ("stats", "service", ["connections"]),
        ("blocks", "network", ["service"]),
    ):
        head, *rows = services.lines(verb, "--columns", f"{column},{others[0]}")
        assert len(head) == 2
        names = [row[0] for row in rows]
        for arguments, expected in (
            (["--sort", column], sorted(names, key=sort_key)),
            (["--sort", f"-{column}"], sorted(names, key=sort_key, reverse=True)),
            (["--sort", column, "--limit", "1"], sorted(names, key=sort_key)[:1]),
        ):
            columns = ["--columns", f"{column},{others[0]}"]
            assert [row[0] for row in services.lines(verb, *columns, *arguments)[1:]] == expected
            csv = services.monconn(verb, *columns, *arguments, "--csv").stdout.splitlines()
            assert [line.split(",")[0] for line in csv[1:]] == expected
            made = services.json(verb, *columns, *arguments)
            assert [next(iter(row.values())) for row in made] == expected
            assert all(len(row) == 2 for row in made)
        assert len(services.lines(verb, "--limit", "1", "--wide")) == 2


@with_services
def test_a_fact_is_a_column_by_its_name(services: Services) -> None:
    services.connections[0].record.facts.update({"mqtt_client_id": "pump-7", "mqtt_user": True})
    columns = ("--columns", "id,mqtt_client_id,MQTT_USER")
    head, *rows = services.lines("list", *columns)
    assert head == ["ID", "NAME", "MQTT_USER"]
    assert [row[1:] for row in rows] == [["pump-7", "True"], ["-", "-"], ["-", "-"]]
    assert services.json("list", *columns)[0]["mqtt_client_id"] == "pump-7"
    assert services.monconn("ip", "--columns", "mqtt_user").exit_code == 2  # has no facts


@pytest.mark.parametrize("verb", ["list", "devices", "ip", "stats", "blocks", "history"])
def test_a_mistake_in_an_option_is_told_before_a_server_is_asked(verb: str) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [verb, *arguments, "--control", "/nowhere"])

    result = run("--columns", "colour")
    assert (result.exit_code, result.stdout) == (2, "")
    assert '"colour" is no column; there are ' in result.stderr
    assert "--columns help" in result.stderr
    result = run("--sort", "colour")
    assert (result.exit_code, result.stdout) == (2, "")
    assert '"colour" is nothing to sort by; there are ' in result.stderr
    for option in ("--columns", "--sort"):  # all that there are would be a screen of names
        message = run(option, "colour").stderr.splitlines()[-1]
        assert len(message) <= 2 * 80
        assert message.endswith("(--columns help lists them all)")
        assert "did you mean service" in run(option, "servcie").stderr or verb in ("stats", "ip")
    assert run("--csv", "--json").exit_code == 2
    result = run("--columns", "help")
    assert result.exit_code == 0
    titles, *lines = result.stdout.splitlines()
    assert titles.split() == ["COLUMN", "TITLE", "MEANING"]
    assert all(line.endswith(".") for line in lines)


@with_services
def test_services_are_chosen_by_name_or_by_filter(services: Services) -> None:
    def names(*arguments: str) -> list[str]:
        return [row["sid"] for row in services.json("stats", *arguments)]

    assert names("connections:2..") == ["web"]
    assert names("not:service:web") == ["ssh"]
    assert names("service:web", "service:ssh") == ["web", "ssh"]
    assert names("10.0.0.5", "port:22") == ["ssh"]
    assert services.json("stats", "web")["sid"] == "web"
    failed = services.monconn("stats", "connections:many")
    assert (failed.exit_code, failed.stdout) == (2, "")


@with_services
def test_piped_listings_are_for_awk(services: Services) -> None:
    for verb in (["list"], ["list", "--closed"], ["ip"], ["stats"], ["blocks"], ["devices"]):
        result = services.monconn(*verb)
        if result.exit_code:  # devices are not watched here
            continue
        title = result.stdout.splitlines()[0]
        assert title == title.upper()
        assert title.strip()
        assert result.stderr == ""
        assert "none" not in result.stdout


@with_services
def test_a_filter_that_names_no_service_is_doubted(services: Services) -> None:
    doubt = 'monconn: no service\'s name has "webb" in it: web, ssh\n'
    for verb in ("list", "ip", "blocks"):
        result = services.monconn(verb, "service:WEBB")
        assert (result.exit_code, result.stdout.count("\n"), result.stderr) == (0, 1, doubt)
    result = services.monconn("list", "service:webb", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "[]\n", doubt)
    for terms in (
        ["service:webb", "service:ssh"],  # either will do
        ["service:we", "idle:5m.."],
        ["not:service:webb", "idle:5m.."],
    ):
        assert services.monconn("list", *terms).stderr == ""


@with_services
def test_closed_connections_have_a_reason(services: Services) -> None:
    record = services.connections[0].record
    services.port.on_reactor(services.connections[0].end, "operator")
    head, row = services.lines("list", "--closed")
    assert head[:5] == ["ID", "CLIENT", "NAME", "SERVICE", "REASON"]
    assert head[5:] == ["CODE", "UP", "DOWN", "LASTED", "CLOSED", "PROTOCOL", "DETAIL"]
    assert row[:6] == [str(record.id), "192.0.2.1:1024", "-", "web", "operator", "KD"]
    (printed,) = services.json("list", "--closed")
    assert printed["reason"] == "operator"
    with patch.object(device_verb, "terminal_width", lambda: 80):
        *_, hint = services.monconn("list", "--closed").stdout.splitlines()
        assert hint.startswith("monconn explain ID")
        for quiet in (["--closed", "--json"], ["--closed", "reason:client_lost"], []):
            assert "explain" not in services.monconn("list", *quiet).stdout


@with_services
def test_show(services: Services) -> None:
    id_ = str(services.connections[0].record.id)
    assert ["up", "5.6", "KiB", "(5,734", "bytes)"] in services.lines("show", id_)
    assert services.json("show", id_)["up"] == 5734
    uid = services.connections[0].record.uid
    assert services.json("show", uid)["id"] == services.json("show", uid.upper())["id"] == int(id_)
    assert [row["uid"] for row in services.json("list", f"uid:{uid}")] == [uid]
    assert services.json("list", uid[:-1] + "99") == []
    run = uid.partition("-")[0]
    assert len(services.json("list", f"uid:{run}")) == len(services.json("list"))
    failed = services.monconn("show", "k7xq2m9tbw4c-1")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "is of another run of monconn" in failed.stderr
    assert services.monconn("show", "nonsense").exit_code == 2
    failed = services.monconn("show", "987654321")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == "monconn: no connection has the id 987654321, or had it lately\n"


@with_services
def test_stats(services: Services) -> None:
    _, web, ssh = services.lines("stats")
    assert web[:7] == ["web", "running", ":80", "10.0.0.5:80", "2", "2", "2"]
    assert ssh[0] == "ssh"
    assert [row["sid"] for row in services.json("stats")] == ["web", "ssh"]
    printed = services.json("stats", "web")
    assert printed["ips"] == ["192.0.2.1", "2001:db8::1"]
    assert printed["up"] == 5734
    assert services.monconn("stats", "ftp").exit_code == 1


@with_services
def test_ips_are_summed_up_over_services(services: Services) -> None:
    rows = {row["ip"]: row for row in services.json("ip")}
    assert rows["192.0.2.1"]["connections"] == 2
    assert rows["192.0.2.1"]["up"] == 5734
    assert rows["2001:db8::1"]["total"] == 1
    assert "service" not in rows["192.0.2.1"]
    only = services.json("ip", "--service", "ssh")
    assert [(row["ip"], row["connections"]) for row in only] == [("192.0.2.1", 1)]
    assert services.lines("ip")[0][:3] == ["IP", "NOW", "TOTAL"]


@with_services
def test_close(services: Services) -> None:
    first, second, third = services.connections
    result = services.monconn("close", str(first.record.id), "987654321")
    assert result.exit_code == 1
    assert result.stdout == "1 connection closed\n"
    assert result.stderr == "monconn: no live connection has the id 987654321\n"
    assert services.lines("close", "--client", "2001:db8::/32", "--reset") == [
        ["1", "connection", "closed"]
    ]
    assert second.was_reset
    services.lines("close", "--service", "ssh")
    assert [each.record.reason for each in (first, second, third)] == ["operator"] * 3
    assert services.monconn("close").exit_code == 2
    assert services.monconn("close", "1", "--service", "web").exit_code == 2


@with_services
def test_actions_in_json(services: Services) -> None:
    id_ = services.connections[0].record.id
    many = [str(each) for each in range(10**8, 10**8 + 2500)]
    result = services.monconn("close", str(id_), *many, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"closed": 1, "unknown": [int(each) for each in many]}
    assert services.json("block", "10.0.0.1") == [{"network": "10.0.0.1", "changed": True}]
    assert services.json("unblock", "10.0.0.2") == [{"network": "10.0.0.2", "changed": False}]


@with_services
def test_control_characters_do_not_reach_the_terminal(services: Services) -> None:
    services.connections[0].record.client = "\x1b]0;mine\x07"
    assert "\x1b" not in services.monconn("list").stdout
    assert "\x1b" not in services.monconn("show", str(services.connections[0].record.id)).stdout


@with_services
def test_an_empty_table_has_its_titles(services: Services) -> None:
    result = services.monconn("list", "--closed")
    assert result.stdout.split()[:5] == ["ID", "CLIENT", "NAME", "SERVICE", "REASON"]
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
    assert services.json("list", "--closed") == []


@with_services
def test_block(services: Services) -> None:
    assert services.monconn("block", "192.0.2.0/24", "192.0.2.0/24").stdout == (
        "192.0.2.0/24 is blocked, 2 connections closed\n192.0.2.0/24 was blocked already\n"
    )
    assert [each.record.reason for each in services.connections] == ["blocked", None, "blocked"]
    at_ssh = services.monconn("block", "--service", "ssh", "10.0.0.1")
    assert at_ssh.stdout == "10.0.0.1 is blocked at ssh\n"
    assert [(row["service"], row["network"]) for row in services.json("blocks")] == [
        (None, "192.0.2.0/24"),
        ("ssh", "10.0.0.1/32"),
    ]
    assert services.lines("blocks")[1][:6] == ["192.0.2.0/24", "all", "operator", "-", "0", "-"]
    assert services.monconn("unblock", "192.0.2.0/24", "10.9.9.9").stdout == (
        "192.0.2.0/24 is let in again\n10.9.9.9 was not blocked\n"
    )
    assert services.monconn("block", "nonsense").exit_code == 2


@with_services
def test_events(services: Services) -> None:
    """In a process of its own, which goes on until it is ended."""
    with watching(services.port, "--json") as output:
        services.port.on_reactor(services.connections[0].end, "operator")
        event = json.loads(output.readline())
        assert (event["event"], event["reason"]) == ("closed", "operator")
    with watching(services.port) as output:
        services.port.connections(services.web, "192.0.2.5")
        services.port.on_reactor(services.web.block, "192.0.2.5")
        lines = [output.readline().split(None, 1)[1] for _ in range(2)]
        assert lines[0].startswith("web: 192.0.2.5:1024 opened, id ")
        assert re.match(r"web: 192\.0\.2\.5:1024 blocked after [0-9.]+m?s, up 0 B", lines[1])
    with watching(services.port, "event:opened", "client:192.0.2.7") as output:
        services.port.connections(services.web, "192.0.2.6")
        services.port.connections(services.web, "192.0.2.7")
        assert "192.0.2.7:1024 opened" in output.readline()


@contextmanager
def watching(port: Port, *options: str) -> Iterator[IO[str]]:
    """What ``monconn events`` prints, from when it has subscribed."""
    subscribed = threading.Event()
    subscribe = Operations.subscribe

    def subscribe_and_notify(self: Operations, *args: Any, **kwargs: Any) -> Any:
        subscription = subscribe(self, *args, **kwargs)
        subscribed.set()
        return subscription

    command = [sys.executable, "-c", "from monconn.faces.cli.main import main; main()", "events"]
    with (
        patch.object(Operations, "subscribe", subscribe_and_notify),
        subprocess.Popen(
            [*command, *options, "--control", port.where], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            assert subscribed.wait(HANG_SECONDS)
            assert process.stdout is not None
            yield process.stdout
        finally:
            process.kill()


@with_services
def test_a_client_that_uses_only_sockets(services: Services) -> None:
    path = services.port.where.removeprefix("unix:")
    printed = subprocess.run(
        [sys.executable, EXAMPLE, path], capture_output=True, text=True, check=True, timeout=30
    ).stdout.splitlines()
    record = services.connections[0].record
    assert printed[0].startswith("monconn ")
    assert f"{record.id} 192.0.2.1:1024 open 5734 0" in printed
    assert len(printed) == 4


# -- filters


@with_services
def test_listings_take_filters_and_bare_words(services: Services) -> None:
    def ids(*arguments: str) -> list[int]:
        return [row["id"] for row in services.json("list", *arguments)]

    web, web6, ssh = (each.record.id for each in services.connections)
    assert ids("service:web", "up:1KiB..") == [web]
    assert ids("client:192.0.2.0/24", "not:service:ssh") == [web]
    assert ids("client:192.0.2.0/24", "client:2001:db8::/32") == [web, web6, ssh]
    assert ids("ssh") == ids("--text", "ssh") == [ssh]
    assert ids("192.0.2.1", "10.0.0.5:80") == [web]
    assert ids("state:open", "--service", "web", "--client", "2001:db8::/32") == [web6]
    assert len(services.lines("list", "state:closed")) == 1
    services.port.on_reactor(services.connections[2].end, "operator")
    assert ids("--closed", "reason:operator") == [ssh]
    assert ids("--closed", "reason:client_lost") == []


@with_services
def test_a_term_with_a_blank_is_one_term(services: Services) -> None:
    services.connections[0].record.backend = "unix:/run/my app"
    assert [row["service"] for row in services.json("list", "backend:unix:/run/my app")] == ["web"]
    assert services.json("list", "backend:'") == []
    failed = services.monconn("list", "my app", "sevice:it's")
    assert failed.stderr == (
        'monconn: filter: unknown key "sevice" in term 2 "sevice:it\'s": did you mean service?\n'
    )


@with_services
def test_other_listings_take_filters(services: Services) -> None:
    services.lines("block", "10.0.0.0/8", "192.0.2.128/25")
    blocks = services.json("blocks", "client:10.0.0.0/8", "service:ssh")
    assert [(row["service"], row["network"]) for row in blocks] == [(None, "10.0.0.0/8")]
    assert [row["ip"] for row in services.json("ip", "client:2001:db8::/32")] == ["2001:db8::1"]
    (row,) = services.json("ip", "service:ssh", "connections:1..")
    assert (row["ip"], row["connections"], row["up"]) == ("192.0.2.1", 1, 0)


@with_services
def test_a_mistake_in_a_filter(services: Services) -> None:
    for verb in ("list", "events", "close", "ip", "blocks"):
        result = services.monconn(verb, "service:web", "servce:web")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            'monconn: filter: unknown key "servce" in term 2 "servce:web": did you mean service?\n'
        )
    assert [each.record.reason for each in services.connections] == [None] * 3


@with_services
def test_close_takes_terms_and_no_bare_words(services: Services) -> None:
    web, web6, ssh = services.connections
    for arguments, advice in (
        (("web",), "write service:web"),
        (("192.0.2.1",), "write client:192.0.2.1"),
        ((str(ssh.record.id), "open"), "write an id, or KEY:VALUE"),
        (("", "service:web"), "leave it out"),
    ):
        result = services.monconn("close", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith(f": {advice}\n")
    assert services.monconn("close", "service:web", "up:1KiB..").stdout == "1 connection closed\n"
    assert [each.record.reason for each in (web, web6, ssh)] == ["operator", None, None]
    # Terms narrow ids, and options narrow terms.
    narrowed = services.monconn("close", str(web6.record.id), str(ssh.record.id), "service:ssh")
    assert narrowed.stdout == "1 connection closed\n"
    assert (web6.record.reason, ssh.record.reason) == (None, "operator")
    unknown = services.monconn("close", "987654321", "id:987654322", "service:ssh")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "id 987654321\n" in unknown.stderr
    assert "id 987654322\n" in unknown.stderr
    assert (
        services.monconn("close", "up:0..", "--service", "ssh").stdout == "0 connections closed\n"
    )
    assert services.monconn("close", "up:0..", "--reset").stdout == "1 connection closed\n"
    assert web6.was_reset


@with_services
def test_an_argument_that_is_no_utf8(services: Services) -> None:
    for arguments in (
        ("list", "\udcff"),
        ("list", "--text", "\udcff"),
        ("close", "backend:\udcff"),
    ):
        result = services.monconn(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith(" is not UTF-8\n")


# -- dry runs


@with_services
def test_a_dry_run_of_close(services: Services) -> None:
    web, _, ssh = services.connections
    dry = services.lines("close", "client:192.0.2.0/24", "--dry-run")
    assert [line[0] for line in dry[1:-1]] == [str(web.record.id), str(ssh.record.id)]
    assert dry[-1] == ["2", "connections", "would", "be", "closed"]
    made = services.json("close", "--dry-run", str(ssh.record.id), "987654321", "up:..0")
    assert (made["closed"], made["unknown"], made["dry_run"]) == (1, [987654321], True)
    assert [row["client"] for row in made["connections"]] == ["192.0.2.1:1024"]
    assert services.lines("close", "--dry-run", "--service", "ssh", "--client", "10.0.0.1") == [
        ["0", "connections", "would", "be", "closed"]
    ]
    unknown = services.monconn("close", "987654321", "--dry-run")
    assert unknown.exit_code == 0
    assert unknown.stdout == ""
    assert unknown.stderr == "monconn: no live connection has the id 987654321\n"
    assert services.monconn("close", "--dry-run").exit_code == 2
    assert [each.record.reason for each in services.connections] == [None] * 3


@with_services
def test_a_dry_run_of_close_does_not_count_what_is_ending(services: Services) -> None:
    web, _, ssh = services.connections
    web.record.reason = "operator"  # and it still delivers what it holds
    only = services.json("close", "client:192.0.2.1", "--dry-run")
    assert (only["closed"], [row["id"] for row in only["connections"]]) == (1, [ssh.record.id])
    for id_ in (str(web.record.id), f"id:{web.record.id}"):
        by_id = services.json("close", id_, "client:192.0.2.1", "--dry-run")
        assert (by_id["closed"], [row["id"] for row in by_id["connections"]]) == (
            1,
            [web.record.id],
        )
    by_range = services.json("close", f"id:{web.record.id}..{ssh.record.id}", "--dry-run")
    assert by_range["closed"] == len(by_range["connections"]) == 2
    with_reset = services.json("close", "client:192.0.2.1", "--dry-run", "--reset")
    assert (with_reset["closed"], len(with_reset["connections"])) == (2, 2)


@with_services
def test_a_dry_run_of_block(services: Services) -> None:
    services.lines("block", "10.0.0.0/8")
    result = services.monconn("block", "10.0.0.0/8", "192.0.2.0/24", "192.0.2.9", "--dry-run")
    assert result.stdout == (
        "10.0.0.0/8 is blocked already\n"
        "192.0.2.0/24 would be blocked, 2 connections would be closed\n"
        "192.0.2.9 would be blocked\n"
    )
    assert services.json("block", "192.0.2.0/24", "--service", "ssh", "--dry-run") == [
        {"network": "192.0.2.0/24", "changed": True, "dry_run": True, "closed": 1}
    ]
    result = services.monconn("unblock", "10.0.0.0/8", "192.0.2.9", "--dry-run")
    assert result.stdout == "10.0.0.0/8 would be let in again\n192.0.2.9 is not blocked\n"
    assert {row["network"] for row in services.json("blocks")} == {"10.0.0.0/8"}
    assert [each.record.reason for each in services.connections] == [None] * 3


# -- which server


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = CliRunner().invoke(main, ["list"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert (
        result.stderr == f"monconn: no monconn is running: nobody answers in {tmp_path}/monconn;"
        " start one: monconn -p LISTEN=BACKEND, monconn -c FILE, or monconn demo\n"
    )
    result = CliRunner().invoke(main, ["list", "--control", f"unix:{tmp_path}/none"])
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("MONCONN_CONTROL", str(tmp_path / "elsewhere"))
    result = CliRunner().invoke(main, ["stats"])
    assert (result.exit_code, "elsewhere" in result.stderr) == (3, True)


@pytest.mark.parametrize("where", ["nonsense", "host:80", "tls:a:b", "tls:[::1]:7:c:k", ":"])
def test_invalid_addresses(where: str) -> None:
    result = CliRunner().invoke(main, ["list", "--control", where])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
