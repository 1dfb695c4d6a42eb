"""Forgetting clients in memory, and the action's entry, which does not name them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from monconn.addresses import Network, parse_network
from monconn.config.sections import DevicesConfig
from monconn.devices.devices import Devices
from monconn.devices.service import POLL_SECONDS, DevicesService
from monconn.errors import AddressError, FileError
from monconn.model.actions import Actor
from monconn.model.alarms import Alarm
from monconn.ops.operations import Operations
from monconn.policy.policy import Policy
from tests.logged import logged_lines
from tests.ops.world import World

ACTOR = Actor.process(1000, 42, "ada")
CLIENT = "198.51.100.77"


def world_of_clients() -> World:
    world = World("mqtt", "web")
    devices = DevicesService(DevicesConfig(), world.registry, world.clock)
    world.operations = Operations(world.registry, world.clock, devices=devices)
    for service in ("mqtt", "web"):
        for ended in world.connect(service, CLIENT, "192.0.2.9"):
            ended.end("client_closed")
    return world


def test_a_client_is_forgotten_and_others_are_not() -> None:
    world = world_of_clients()
    with logged_lines("monconn") as lines:
        dry = world.result(world.operations.forget(ACTOR, CLIENT, dry_run=True))
        assert (world.actions.all, lines) == ([], [])
        done = world.result(world.operations.forget(ACTOR, CLIENT))
    assert dry == done
    assert done.removed == {"closed": 2, "ips": 2, "devices": 2}
    assert (done.live, done.blocks, done.problem) == (0, (), "")
    for monitor in world.registry:
        assert [each.client_ip for each in monitor.closed_records] == ["192.0.2.9"]
        assert monitor.clients.ips() == ["192.0.2.9"]
        assert monitor.totals().opened == 2  # sums without addresses stay
    assert [row.device for row in world.operations.devices() if row] == ["192.0.2.9"] * 2
    (action,) = world.actions.all
    assert (action.kind, action.actor, action.service) == ("forget", ACTOR, None)
    assert action.describe() == (
        "removed what was stored of a client: closed connections in memory 2, IPs' totals in"
        " memory 2, devices in memory 2 for uid 1000 (ada), pid 42"
    )
    assert CLIENT not in "".join(lines)
    again = world.result(world.operations.forget(ACTOR, CLIENT))
    assert set(again.removed.values()) == {0}


def test_what_its_rate_has_counted_is_forgotten() -> None:
    world = World("mqtt")
    monitor = next(iter(world.registry))
    monitor.apply(Policy.of(per_ip_rate="1/1h"))
    ips = (CLIENT, "192.0.2.9", "2001:db8::1")
    for ended in world.connect("mqtt", *ips):
        ended.end("client_closed")
    for forgotten in (CLIENT, "2001:db8::/32"):
        world.result(world.operations.forget(ACTOR, forgotten, dry_run=True))
    assert [monitor.admit("", ip) for ip in ips] == [None] * 3
    for forgotten in (CLIENT, "2001:db8::/32"):
        world.result(world.operations.forget(ACTOR, forgotten))
    assert [monitor.admit("", ip) is None for ip in ips] == [False, True, False]


def test_a_removed_service_does_not_bring_a_forgotten_client_back() -> None:
    world = world_of_clients()
    gone = world.registry.delete("web")
    world.registry.keep(gone)
    done = world.result(world.operations.forget(ACTOR, CLIENT))
    assert (done.removed["closed"], done.removed["ips"]) == (2, 2)
    assert [each.client_ip for each in gone.closed_records] == ["192.0.2.9"]
    assert gone.clients.ips() == ["192.0.2.9"]


def test_live_connections_and_blocks_stay_and_are_told() -> None:
    world = world_of_clients()
    (live,) = world.connect("mqtt", CLIENT)
    world.operations.block(ACTOR, CLIENT, service="web")
    world.operations.block(ACTOR, "198.51.0.0/16", service="web")
    done = world.result(world.operations.forget(ACTOR, CLIENT))
    assert (done.live, done.blocks) == (1, ("web",))
    assert live.record.id in world.registry.get("mqtt")
    live.end("client_closed")  # and is recorded
    assert [each.client_ip for each in world.registry.get("mqtt").closed_records][-1] == CLIENT


def test_a_network_and_connections_that_name_it_in_a_fact() -> None:
    world = world_of_clients()
    (proxied,) = world.connect("web", "10.0.0.1")
    proxied.record.facts["real_client"] = "198.51.100.78"
    proxied.end("client_closed")
    done = world.result(world.operations.forget(ACTOR, "198.51.100.0/24"))
    assert done.removed["closed"] == 3
    assert "a network's clients" in world.actions.all[-1].describe()


def test_no_alarm_that_is_remembered_names_it() -> None:
    world = World("mqtt")
    monitor = world.registry.get("mqtt")
    devices = Devices(DevicesConfig(), monitor, world.clock)
    for ip in (CLIENT, "192.0.2.9"):
        devices.alarms.append(Alarm("silent", "mqtt", ip, 0.0, True, ""))
    assert devices.forget(parse_network(CLIENT)) == 0
    assert [each.device for each in devices.alarms] == ["192.0.2.9"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_was_removed_before_the_history_failed_is_told(dry_run: bool) -> None:
    class Broken:
        def forget(self, network: Network, *, dry_run: bool) -> Deferred[Any]:
            return fail(FileError("history: is full"))

    world = world_of_clients()
    history: Any = Broken()
    world.operations = Operations(world.registry, world.clock, history=history)
    failed: list[Failure] = []
    world.operations.forget(ACTOR, CLIENT, dry_run=dry_run).addErrback(failed.append)
    world.clock.advance(1.0)
    assert [each.type for each in failed] == [FileError]
    expected = "a client: closed connections in memory 2, IPs' totals in memory 2"
    assert [each.target for each in world.actions.all] == (
        [] if dry_run else [f"{expected}; the history failed"]
    )


@pytest.mark.parametrize("is_noticed", [False, True])
def test_devices_of_a_removed_service_are_not_stored_afterwards(is_noticed: bool) -> None:
    world = World("mqtt", "web")
    devices = DevicesService(DevicesConfig(), world.registry, world.clock)
    devices.store_changes()
    devices.restored("mqtt")
    for ended in world.connect("mqtt", CLIENT):
        ended.end("client_closed")
    world.registry.delete("mqtt")
    if is_noticed:
        devices.startService()
        world.clock.advance(POLL_SECONDS)
        devices.stopService()
    assert devices.forget(parse_network(CLIENT)) == 1
    assert devices.take_changed(10)[0] == []


def test_live_connections_of_many_devices_are_counted_in_steps() -> None:
    """Else the next client would wait until all of them are."""
    world = World("mqtt")
    devices = Devices(DevicesConfig(), world.registry.get("mqtt"), world.clock)
    world.registry.get("mqtt").add_observer(devices)
    world.connect("mqtt", *[f"10.0.0.{number}" for number in range(100)])
    assert len(devices) == 100
    waiting = [len(devices._opened) for _ in devices.forget_in_steps(parse_network("0.0.0.0/0"))]
    assert len(waiting) >= 100
    assert max(waiting) == 0
    assert len(devices) == 100  # new ones


@pytest.mark.parametrize("client", ["unix", "", "fe80::1%eth0"])
def test_what_is_no_client(client: str) -> None:
    with pytest.raises(AddressError):
        world_of_clients().operations.forget(ACTOR, client)
