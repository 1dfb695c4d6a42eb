"""What can be asked of the control port, by the client that comes with it."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.addresses import UnixAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import ControlConfig
from monconn.errors import ControlError
from monconn.faces.control.client import Client, CommandFailed
from monconn.faces.control.service import ControlService
from monconn.model.alarms import Alarm
from monconn.monitor.registry import Registry
from tests import running_reactor
from tests.logged import logged_lines

from .conftest import Port, with_port


def failure_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> CommandFailed:
    try:
        call(*args, **kwargs)
    except CommandFailed as failed:
        return failed
    raise AssertionError("it did not fail")


@with_port
def test_hello_returns_name_and_version(port: Port) -> None:
    hello = port.client().hello
    assert hello["version"] == "1"
    assert hello["server"].startswith("monconn ")
    assert int(hello["pid"]) > 0


@with_port
def test_a_newer_client_gets_the_newest_version_that_both_speak(port: Port) -> None:
    client = port.client()
    assert client.call("Hello", version=99)["version"] == "1"
    assert failure_of(client.call, "Hello", version=0).code == "BAD_REQUEST"


@with_port
def test_connections_have_all_their_keys(port: Port) -> None:
    web = port.monitor("web", listen=":80", backend="10.0.0.5:80")
    (made,) = port.connections(web, "192.0.2.1")
    made.record.up, made.record.down = 1000, 20
    (details,) = port.client().rows("ListConnections")
    assert details["id"] == made.record.id
    assert (details["service"], details["client"], details["client_ip"]) == (
        "web",
        "192.0.2.1:1024",
        "192.0.2.1",
    )
    assert (details["listener"], details["backend"]) == (":80", "10.0.0.5:80")
    assert (details["state"], details["pipe"]) == ("open", "stream")
    assert (details["up"], details["down"]) == (1000, 20)
    assert details["age_seconds"] >= details["idle_seconds"] >= 0
    assert details["connect_seconds"] is None
    assert {"up_rate", "down_rate"} <= details.keys()
    assert datetime.fromisoformat(details["opened_at"]).tzinfo is not None
    assert "reason" not in details


@with_port
def test_closed_connections_have_their_reason(port: Port) -> None:
    web = port.monitor("web")
    (made, _) = port.connections(web, "192.0.2.1", "192.0.2.2")
    port.on_reactor(made.end, "operator")
    client = port.client()
    (details,) = client.rows("ListConnections", closed=True)
    assert details["id"] == made.record.id
    assert (details["reason"], details["code"], details["closed_by"]) == (
        "operator",
        "KD",
        "operator",
    )
    assert (details["client_end"], details["backend_end"]) == ("none", "none")
    assert details["duration_seconds"] >= 0
    assert datetime.fromisoformat(details["closed_at"]).tzinfo is not None
    assert len(list(client.rows("ListConnections"))) == 1


@with_port
def test_connections_are_filtered(port: Port) -> None:
    web, ssh = port.monitor("web"), port.monitor("ssh")
    first, second = port.connections(web, "192.0.2.1", "2001:db8::1")
    (third,) = port.connections(ssh, "192.0.2.2")
    second.record.state = "half_closed"
    third.record.opened -= 100

    client = port.client()

    def ids(**wanted: Any) -> list[int]:
        return [row["id"] for row in client.rows("ListConnections", **wanted)]

    assert ids() == [first.record.id, second.record.id, third.record.id]
    assert ids(service="ssh") == [third.record.id]
    assert ids(client="192.0.2.0/24") == [first.record.id, third.record.id]
    assert ids(client="2001:db8::1") == [second.record.id]
    assert ids(state="half_closed") == [second.record.id]
    assert ids(idle_over=50.0) == [third.record.id]
    assert failure_of(ids, client="nonsense").code == "BAD_REQUEST"
    assert failure_of(ids, state="shut").code == "BAD_REQUEST"
    assert failure_of(ids, sort="colour").code == "BAD_REQUEST"
    assert failure_of(ids, service="ftp").code == "UNKNOWN_SERVICE"


@with_port
def test_connections_are_sorted_and_counted(port: Port) -> None:
    made = port.connections(port.monitor("web"), *["192.0.2.1"] * 4)
    for number, each in enumerate(made):
        each.record.up = (number * 3) % 4
        each.record.opened -= (number * 5) % 7
    client = port.client()
    for order, key in (("up", "up"), ("age", "age_seconds"), ("idle", "idle_seconds")):
        rows = list(client.rows("ListConnections", sort=order))
        assert len(rows) == 4
        assert rows == sorted(rows, key=lambda row: -row[key])
    answer = client.call("ListConnections", sort="up", limit=2)
    assert [row["up"] for row in json.loads(answer["rows"])] == [3, 2]
    assert answer["total"] == "4"


@with_port
def test_a_list_is_limited_by_text_and_offset(port: Port) -> None:
    web = port.monitor("web", backend="Backend:80")
    made = port.connections(web, "192.0.2.1", "192.0.2.2", "198.51.100.1")
    client = port.client()

    def ids(**wanted: Any) -> list[int]:
        return [row["id"] for row in client.rows("ListConnections", **wanted)]

    all_ids = [each.record.id for each in made]
    assert ids(text="192.0.2") == all_ids[:2]
    assert ids(text="backend") == all_ids
    assert ids(text="nowhere") == []
    assert ids(offset=1, limit=1) == all_ids[1:2]
    assert ids(offset=2) == all_ids[2:]
    assert ids(offset=-5, limit=-1) == []
    for each in made:
        port.on_reactor(each.end, "operator")
    assert ids(closed=True, sort="closed", limit=2) == [all_ids[2], all_ids[1]]
    assert ids(closed=True, text="operator") == all_ids


@with_port
def test_rates_are_bytes_a_second(port: Port) -> None:
    fast, slow = port.connections(port.monitor("web"), "192.0.2.1", "192.0.2.2")
    fast.record.opened = slow.record.opened = port.clock.seconds() - 1000
    client = port.client()
    list(client.rows("ListConnections"))
    fast.record.up += 1_000_000
    slow.record.down += 1_000
    rows: list[Any] = []
    while not rows or not rows[0]["up_rate"]:  # not before a quarter of a second has passed
        rows = list(client.rows("ListConnections", sort="rate"))
    assert [row["id"] for row in rows] == [fast.record.id, slow.record.id]
    assert 10_000 < rows[0]["up_rate"] <= 4_000_000
    assert rows[0]["down_rate"] == 0
    assert 0 < rows[1]["down_rate"] <= 4_000


@with_port
def test_thousands_come_in_pages(port: Port) -> None:
    made = port.connections(port.monitor("web"), *["192.0.2.1"] * 3000)
    client = port.client()
    answer = client.call("ListConnections")
    assert len(answer["rows"]) < 65_536
    assert answer["total"] == "3000"
    rows = list(client.rows("ListConnections"))
    assert [row["id"] for row in rows] == [each.record.id for each in made]


@with_port
def test_a_page_is_unavailable_after_another_list_was_requested(port: Port) -> None:
    port.connections(port.monitor("web"), *["192.0.2.1"] * 500)
    client = port.client()
    page = int(client.call("ListConnections")["next"])
    assert failure_of(client.call, "NextPage", next=page + 1).code == "UNKNOWN_PAGE"
    client.call("ListServices")
    assert failure_of(client.call, "NextPage", next=0).code == "UNKNOWN_PAGE"
    assert failure_of(client.call, "NextPage", next=page).code == "UNKNOWN_PAGE"


@with_port
def test_show_of_a_live_and_of_a_closed_connection(port: Port) -> None:
    (made,) = port.connections(port.monitor("web"), "192.0.2.1")
    client = port.client()
    details = json.loads(client.call("ShowConnection", id=made.record.id)["connection"])
    assert (details["id"], details["state"]) == (made.record.id, "open")
    port.on_reactor(made.end, "operator")
    details = json.loads(client.call("ShowConnection", id=made.record.id)["connection"])
    assert (details["state"], details["reason"]) == ("closed", "operator")
    uid = made.record.uid
    details = json.loads(client.call("ShowConnection", id=0, uid=uid)["connection"])
    assert (details["id"], details["uid"]) == (made.record.id, uid)
    for unknown in ("k7xq2m9tbw4c-1", "k7xq2m9tbw4c"):
        failed = failure_of(client.call, "ShowConnection", id=made.record.id, uid=unknown)
        assert failed.code == "UNKNOWN_CONNECTION"
        assert unknown in str(failed)
    failed = failure_of(client.call, "ShowConnection", id=made.record.id + 10**9)
    assert failed.code == "UNKNOWN_CONNECTION"
    assert str(made.record.id + 10**9) in str(failed)


@with_port
def test_services_have_the_go_tools_keys_and_ours(port: Port) -> None:
    web = port.monitor("web", listen=":80", backend="10.0.0.5:80")
    port.monitor("ssh")
    port.connections(web, "192.0.2.2", "192.0.2.1", "192.0.2.2")
    client = port.client()
    details, other = client.rows("ListServices")
    assert (details["sid"], other["sid"]) == ("web", "ssh")
    keys = {"uptime", "connections", "accessed", "up", "down", "total", "refused", "refused_by"}
    assert keys <= details.keys()
    assert (details["connections"], details["total"], details["refused"]) == (3, 3, 0)
    assert details["refused_by"] == {}
    assert list(client.rows("ListIps", service="web")) == ["192.0.2.1", "192.0.2.2"]
    assert [row["sid"] for row in client.rows("ListServices", service="ssh")] == ["ssh"]


@with_port
def test_clients_are_summed_up_by_ip(port: Port) -> None:
    web = port.monitor("web")
    first, _, _ = port.connections(web, "192.0.2.1", "192.0.2.1", "192.0.2.2")
    first.record.up = 5
    port.on_reactor(first.end, "operator")
    rows = {row["ip"]: row for row in port.client().rows("ListClients")}
    assert rows.keys() == {"192.0.2.1", "192.0.2.2"}
    one = rows["192.0.2.1"]
    assert (one["connections"], one["total"], one["up"]) == (1, 2, 5)
    assert one["last_reason"] == "operator"


@with_port
def test_connections_are_closed_by_their_ids(port: Port) -> None:
    web = port.monitor("web")
    first, second = port.connections(web, "192.0.2.1", "192.0.2.2")
    client = port.client()
    answer = client.call("CloseConnections", ids=[first.record.id, 10**9])
    assert (answer["closed"], json.loads(answer["unknown"])) == ("1", [10**9])
    assert (first.record.reason, first.was_reset) == ("operator", False)
    client.call("CloseConnections", ids=[second.record.id], reset=True)
    assert second.was_reset
    assert failure_of(client.call, "CloseConnections").code == "BAD_REQUEST"
    assert failure_of(client.call, "CloseConnections", ids="[1.5]").code == "BAD_REQUEST"
    assert failure_of(client.call, "CloseConnections", ids="[true]").code == "BAD_REQUEST"
    assert failure_of(client.call, "CloseConnections", ids="{").code == "BAD_REQUEST"
    assert failure_of(client.call, "CloseConnections", ids="[" * 65_000).code == "BAD_REQUEST"
    assert failure_of(client.call, "CloseConnections", ids=[1] * 2_001).code == "BAD_REQUEST"
    with pytest.raises(ControlError, match="too long"):
        client.call("CloseConnections", ids=list(range(30_000)))


@with_port
def test_connections_are_closed_by_client_and_by_service(port: Port) -> None:
    web, ssh = port.monitor("web"), port.monitor("ssh")
    port.connections(web, "192.0.2.1", "192.0.2.2", "198.51.100.1")
    port.connections(ssh, "192.0.2.1")
    client = port.client()
    assert client.call("CloseConnections", client="192.0.2.2")["closed"] == "1"
    assert client.call("CloseConnections", client="192.0.2.1", service="ssh")["closed"] == "1"
    assert client.call("CloseConnections", client="192.0.2.0/24")["closed"] == "1"
    assert client.call("CloseConnections", service="web")["closed"] == "1"
    assert (len(web), len(ssh)) == (0, 0)


@with_port
def test_networks_are_blocked_in_all_services_or_one(port: Port) -> None:
    web, ssh = port.monitor("web"), port.monitor("ssh")
    (made,) = port.connections(web, "192.0.2.1")
    client = port.client()
    assert client.call("Block", network="192.0.2.0/24")["changed"] == "True"
    assert client.call("Block", network="192.0.2.0/24")["changed"] == "False"
    assert made.record.reason == "blocked"
    assert port.on_reactor(web.admit, "192.0.2.9:1", "192.0.2.9") is None
    client.call("Block", network="2001:db8::1", service="ssh")
    rows = list(client.rows("ListBlocks"))
    assert [(row["service"], row["network"], row["hits"]) for row in rows] == [
        (None, "192.0.2.0/24", 1),
        ("ssh", "2001:db8::1/128", 0),
    ]
    assert client.call("Unblock", network="192.0.2.0/24")["changed"] == "True"
    assert client.call("Unblock", network="192.0.2.0/24")["changed"] == "False"
    assert [str(network) for network in ssh.blocks()] == ["2001:db8::1/128"]
    assert failure_of(client.call, "Block", network="all").code == "BAD_REQUEST"


@with_port
def test_counters_are_reset_and_subtracted(port: Port) -> None:
    web = port.monitor("web")
    (made,) = port.connections(web, "192.0.2.1")
    made.record.up, made.record.down = 100, 50
    client = port.client()
    client.call("SubtractStats", service="web", up=30, down=50)
    assert web.bytes() == (70, 0)
    assert failure_of(client.call, "SubtractStats", service="web", up=71, down=0).code == (
        "BAD_REQUEST"
    )
    client.call("ResetStats")
    assert web.bytes() == (0, 0)
    assert web.stats()["total"] == 0


@with_port
def test_events_are_pushed_as_they_happen(port: Port) -> None:
    web, ssh = port.monitor("web"), port.monitor("ssh")
    client = port.client()
    events = client.events(service="web")
    pushed = port_events(port, events, web, ssh)
    assert [(event["event"], event["service"]) for event in pushed] == [
        ("opened", "web"),
        ("closed", "web"),
        ("action", "web"),
        ("refused", "web"),
    ]
    assert pushed[1]["reason"] == "operator"
    assert (pushed[2]["action"], pushed[2]["target"]) == ("block", "192.0.2.1/32")
    assert pushed[3]["refusal"] == "blocked"
    numbers = [event["sequence"] for event in pushed]
    assert numbers == sorted(set(numbers))
    assert all(datetime.fromisoformat(event["at"]).tzinfo for event in pushed)


def port_events(port: Port, events: Any, web: Any, ssh: Any) -> list[Any]:
    """Open, close and refuse one connection, once the subscription is active."""
    from twisted.internet import reactor

    def happen() -> None:
        if not web.observers.by_hook["opened"]:
            reactor.callLater(0.01, happen)
            return
        port._open(ssh, ("192.0.2.1",))
        (made,) = port._open(web, ("192.0.2.1",))
        made.end("operator")
        web.block("192.0.2.1")
        web.admit("192.0.2.1:5", "192.0.2.1")

    port.on_reactor(happen)
    return [next(events) for _ in range(4)]


@with_port
def test_events_of_a_service_added_later_are_pushed(port: Port) -> None:
    client = port.client()
    client.call("Subscribe")
    late = port.on_reactor(port.monitor, "late")
    port.connections(late, "192.0.2.1")
    event = client._box()
    assert json.loads(event["event"])["service"] == "late"
    assert {"up_rate", "down_rate"} <= json.loads(event["event"]).keys()


@with_port
def test_what_is_closing_can_still_be_reset(port: Port) -> None:
    web = port.monitor("web")
    (made,) = port.connections(web, "192.0.2.1")
    made.record.end("operator", port.clock.seconds())
    client = port.client()
    assert client.call("CloseConnections", service="web")["closed"] == "0"
    assert client.call("CloseConnections", service="web", reset=True)["closed"] == "1"
    assert made.was_reset


@with_port
def test_monitors_are_not_observed_without_a_subscriber(port: Port) -> None:
    web = port.monitor("web")
    client = port.client()
    client.call("Subscribe")
    assert web.observers.by_hook["opened"]
    client.close()
    deadline = time.monotonic() + 20
    while web.observers.by_hook["opened"]:  # until the server has noticed the end
        assert time.monotonic() < deadline
        port.on_reactor(lambda: None)  # one turn of the reactor


@with_port
def test_show_includes_the_diagnosis(port: Port) -> None:
    web = port.monitor("web")
    (made,) = port.connections(web, "192.0.2.1")
    made.record.connected = made.record.first_up = made.record.opened
    made.record.first_down = made.record.opened + 3.0
    details = json.loads(port.client().call("ShowConnection", id=made.record.id)["connection"])
    assert made.was_measured
    assert details["diagnosis"]["looks_like"] == "slow backend"
    assert details["diagnosis"]["because"] == ["the backend's first byte took 3.00s"]


@with_port
def test_alarms_are_events(port: Port) -> None:
    web = port.monitor("web")
    client = port.client()
    client.call("Subscribe", service="web")
    alarm = Alarm("silent", "web", "192.0.2.1", 1_700_000_000.0, False, "said nothing")
    port.on_reactor(web.alarm, alarm)
    pushed = json.loads(client._box()["event"])
    assert (pushed["event"], pushed["alarm"], pushed["device"]) == ("alarm", "silent", "192.0.2.1")
    assert (pushed["over"], pushed["detail"]) == (False, "said nothing")


@with_port
def test_a_query_of_a_part_that_is_not_configured_is_an_error(port: Port) -> None:
    for command in ("ListHistory", "Report", "ListDevices"):
        assert failure_of(port.client().call, command).code == "NOT_KEPT"


# -- filters, dry runs, and actors


@with_port
def test_every_list_takes_a_filter(port: Port) -> None:
    web, ssh = port.monitor("web"), port.monitor("ssh")
    first, second = port.connections(web, "192.0.2.1", "198.51.100.1")
    (third,) = port.connections(ssh, "192.0.2.1")
    client = port.client()

    def rows(command: str, filter: str, **arguments: Any) -> list[Any]:
        return list(client.rows(command, filter=filter, **arguments))

    found = rows("ListConnections", "client:192.0.2.0/24 service:web")
    assert [row["id"] for row in found] == [first.record.id]
    found = rows("ListConnections", "client:192.0.2.0/24", service="ssh", text="192")
    assert [row["id"] for row in found] == [third.record.id]
    assert rows("ListIps", "198.51.100.0/24", service="web") == ["198.51.100.1"]
    found = rows("ListClients", "198.51.100.0/24")
    assert [row["ip"] for row in found] == ["198.51.100.1"]
    client.call("Block", network="203.0.113.0/24", service="web")
    client.call("Block", network="2001:db8::/32", service="ssh")
    assert [row["service"] for row in rows("ListBlocks", "client:203.0.113.0/24")] == ["web"]
    port.on_reactor(second.end, "operator")
    found = rows("ListConnections", "reason:operator", closed=True)
    assert [row["id"] for row in found] == [second.record.id]


@with_port
def test_a_wrong_filter_is_an_error_of_its_own(port: Port) -> None:
    port.monitor("web")
    client = port.client()
    for command, arguments in (
        ("ListConnections", {}),
        ("ListIps", {"service": "web"}),
        ("ListClients", {}),
        ("ListBlocks", {}),
        ("CloseConnections", {}),
        ("Subscribe", {}),
    ):
        failed = failure_of(
            client.call, command, filter="client:10.0.0.0/8 servcie:web", **arguments
        )
        assert failed.code == "BAD_FILTER", command
        assert "servcie:web" in str(failed)
    assert failure_of(client.call, "CloseConnections", filter="web").code == "BAD_FILTER"


@with_port
def test_connections_are_closed_by_a_filter(port: Port) -> None:
    web = port.monitor("web")
    first, second = port.connections(web, "192.0.2.1", "198.51.100.1")
    client = port.client()
    answer = client.call("CloseConnections", filter="client:192.0.2.0/24", dry_run=True)
    assert answer["closed"] == "1"
    assert [row["id"] for row in client.rows_of(answer)] == [first.record.id]
    assert first.record.reason is None
    answer = client.call("CloseConnections", filter=f"client:192.0.2.0/24 {first.record.id}")
    assert (answer["closed"], answer["unknown"]) == ("1", "[]")
    assert first.record.reason == "operator"
    assert second.record.reason is None
    answer = client.call("CloseConnections", ids=[second.record.id], client="192.0.2.1")
    assert (answer["closed"], second.record.reason) == ("0", None)


@with_port
def test_a_dry_run_changes_nothing(port: Port) -> None:
    web = port.monitor("web")
    (made,) = port.connections(web, "192.0.2.1")
    made.record.up = 10
    client = port.client()
    answer = client.call("Block", network="192.0.2.1", dry_run=True)
    assert (answer["changed"], answer["closed"]) == ("True", "1")
    assert client.call("Unblock", network="192.0.2.1", dry_run=True)["changed"] == "False"
    client.call("ResetStats", dry_run=True)
    client.call("SubtractStats", service="web", up=1, down=0, dry_run=True)
    failed = failure_of(client.call, "SubtractStats", service="web", up=11, down=0, dry_run=True)
    assert failed.code == "BAD_REQUEST"
    assert (web.bytes(), web.blocks(), made.record.reason) == ((10, 0), [], None)
    answer = client.call("Block", network="192.0.2.1")
    assert (answer["changed"], answer["closed"]) == ("True", "1")


@with_port
def test_an_action_has_the_process_and_user_of_its_client(port: Port) -> None:
    port.monitor("web")
    watching = port.client()
    watching.call("Subscribe", filter="event:action")
    with logged_lines() as lines:
        port.client().call("Block", network="192.0.2.0/24")
    event = json.loads(watching._box()["event"])
    name = pwd.getpwuid(os.getuid()).pw_name
    who = f"uid {os.getuid()} ({name}), pid {os.getpid()}"
    assert (event["event"], event["actor"]) == ("action", who)
    assert lines == [f"blocked 192.0.2.0/24 at all services, ended 0 connections for {who}"]


@with_port
def test_an_event_that_a_filter_leaves_out_is_not_pushed(port: Port) -> None:
    web = port.monitor("web")
    client = port.client()
    client.call("Subscribe", filter="event:opened client:198.51.100.0/24")
    port.connections(web, "192.0.2.1", "198.51.100.1")
    event = json.loads(client._box()["event"])
    assert (event["event"], event["client_ip"]) == ("opened", "198.51.100.1")
    client.call("Subscribe", service="web")  # instead of the first
    (made,) = port.connections(web, "192.0.2.1")
    event = json.loads(client._box()["event"])
    assert (event["event"], event["id"]) == ("opened", made.record.id)


@pytest_twisted.ensureDeferred
async def test_a_control_port_leaves_nothing_behind_in_the_registry(tmp_path: Path) -> None:

    registry, clock = Registry(), MonotonicClock()
    monitor = registry.new("web", clock=clock)
    before = len(registry._when_added), monitor.observers.by_hook

    def use(where: str) -> None:
        with Client(where) as client:
            client.call("Subscribe")

    for _ in range(50):
        config = ControlConfig(UnixAddress(str(tmp_path / "control")))
        service = ControlService(config, registry, running_reactor(), clock)
        service.startService()
        await deferToThread(use, str(service.where))
        service.stopService()
    assert (len(registry._when_added), monitor.observers.by_hook) == before
