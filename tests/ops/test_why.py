"""What would happen to a client at each service, from which line, and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from monconn.config.config import parse_file
from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.errors import AddressError, UnknownConnection, UnknownService
from monconn.ops.operations import Operations
from monconn.ops.text_table import cell_width
from monconn.ops.why_rows import WhyRow, why_lines
from monconn.policy.policy import Policy
from monconn.run.application import Application

from .world import World

FILE = """\
defaults:
  per_ip_rate: 10/m burst 5
  dry_run: [ip_limit]
  auto_block: {after: 3, of: [client_reset, per_ip_rate], for: 1h}
control: false
services:
  mqtt:
    listen: ":1883"
    backend: ":1884"
    conn_limit: 1000
    ip_limit: 1
    allow:
      - 10.0.0.0/8
      - 192.0.2.0/24
    ip_blacklist:
      - 10.9.0.0/16
  web: {listen: ":80", backend: ":81", per_ip_rate: 5/s}
"""


def rows_of(world: World, text: str, service: str | None = None) -> list[WhyRow]:
    result: Any = world.result(world.operations.why(text, service=service))
    if isinstance(result, Failure):
        result.raiseException()
    rows: list[WhyRow] = result
    return rows


@pytest.fixture
def configured() -> World:
    """The services of the file, without sockets."""
    file = parse_file(FILE, "m.yaml")
    world = World()
    app = Application(file.config, MemoryReactorClock(), file=file)
    for service in file.config.services:
        world.registry.new(service.name, policy=service.policy, clock=world.clock)
    world.operations = Operations(world.registry, world.clock, origin_of=app._origin_of)
    return world


def test_each_rule_names_its_line(configured: World) -> None:
    configured.connect("mqtt", "10.0.0.1", "10.0.0.1")
    mqtt, web = rows_of(configured, "10.0.0.1:5000")
    assert (mqtt.outcome, mqtt.connections, web.connections) == ("enters", 2, 0)
    assert {each["rule"]: (each["origin"], each["is_default"]) for each in mqtt.rules} == {
        "block": ("m.yaml:15", False),
        "allow": ("m.yaml:13", False),
        "per_ip_rate": ("m.yaml:2", True),
        "conn_limit": ("m.yaml:10", False),
        "ip_limit": ("m.yaml:11", False),
    }
    (rule,) = web.rules
    assert (rule["origin"], rule["is_default"], rule["rate"]) == ("m.yaml:17", False, "5/s")
    assert mqtt.auto_block is not None
    assert mqtt.auto_block["origin"] == "m.yaml:4"
    line = next(each for each in why_lines([mqtt.to_json()], None) if "auto_block" in each)
    assert line == (
        "  auto_block    0 of 3 (per_ip_rate, client_reset) within 1m00s, then blocked for 1h00m"
        " [m.yaml:4, defaults]"
    )
    (mqtt,) = rows_of(configured, "10.9.9.9", "mqtt")
    assert (mqtt.outcome, mqtt.by, mqtt.refusal) == ("refused", "block", "blocked")
    assert mqtt.would_refuse == []
    assert mqtt.rules[0]["origin"] == "m.yaml:16"
    assert mqtt.rules[0]["block"]["network"] == "10.9.0.0/16"


def test_a_network_of_the_file_that_was_unblocked_is_named(configured: World) -> None:
    mqtt = configured.registry.get("mqtt")
    mqtt.unblock("10.9.0.0/16")
    (row,) = rows_of(configured, "10.9.9.9", "mqtt")
    rule = row.rules[0]
    assert (row.outcome, rule["refuses"], rule.get("block")) == ("enters", False, None)
    assert (rule["unblocked"], rule["origin"]) == ("10.9.0.0/16", "m.yaml:16")
    text = "\n".join(why_lines([row.to_json()], None))
    what = "10.9.0.0/16, which an operator has unblocked"
    assert f"  block         no network has it, but {what} [m.yaml:16]\n" in text
    assert "unblocked" not in rows_of(configured, "10.0.0.1", "mqtt")[0].rules[0]
    mqtt.block("10.9.9.9")
    rule = rows_of(configured, "10.9.9.9", "mqtt")[0].rules[0]
    assert rule["block"]["network"] == "10.9.9.9/32"
    assert "unblocked" not in rule


def test_the_blocks_of_the_file_are_listed_with_their_lines(configured: World) -> None:
    configured.registry.get("web").block("10.0.0.1")
    listed = [each for each in configured.operations.blocks() if each is not None]
    assert [(each.service, each.network, each.origin) for each in listed] == [
        ("mqtt", "10.9.0.0/16", "m.yaml:16"),
        ("web", "10.0.0.1/32", None),
    ]


def test_what_was_set_while_it_runs_has_no_line(configured: World) -> None:
    mqtt = configured.registry.get("mqtt")
    mqtt.rules.conn_limit = 7
    mqtt.block("10.0.0.1", reason="scans", for_seconds=60)
    (row,) = rows_of(configured, "10.0.0.1", "mqtt")
    rules = {each["rule"]: each for each in row.rules}
    assert rules["conn_limit"]["origin"] is None
    assert rules["block"]["origin"] is None
    text = "\n".join(why_lines([row.to_json()], None))
    assert "conn_limit    0 of 7 connections [set while it runs]" in text
    assert "refuses: 10.0.0.1/32 is blocked by own code since" in text
    assert " (scans) [set while it runs]" in text
    text = "\n".join(
        why_lines([row.to_json() for row in rows_of(configured, "10.0.0.2", "mqtt")], 80)
    )
    assert "  block         no network has it [m.yaml:15]\n" in text


def test_an_id_or_a_device_stands_for_its_address() -> None:
    world = World("web")
    devices = DevicesService(DevicesConfig(), world.registry, world.clock)
    world.operations = Operations(world.registry, world.clock, devices=devices)
    (connection,) = world.connect("web", "10.0.0.7")
    record = connection.record
    for text in (str(record.id), record.uid):
        assert [row.ip for row in rows_of(world, text)] == ["10.0.0.7"]
    record.add_facts({"mqtt_client_id": "pump-7"})
    world.registry.get("web").identified(record)
    (row,) = rows_of(world, "pump-7")
    assert (row.ip, row.device) == ("10.0.0.7", "pump-7")
    assert next(why_lines([row.to_json()], 80)) == "web: pump-7 (10.0.0.7) would enter"


def test_what_is_not_known() -> None:
    world = World("web")
    with pytest.raises(UnknownService):
        world.operations.why("10.0.0.1", service="wb")
    with pytest.raises(UnknownConnection):
        rows_of(world, "999999999")
    for text in ("10.0.0.0/8", "pump", "", "::g"):
        with pytest.raises(AddressError):
            rows_of(world, text)


def test_lines_fit_a_terminal(configured: World) -> None:
    configured.connect("mqtt", *["10.0.0.1"] * 3)
    mqtt = configured.registry.get("mqtt")
    mqtt.block("2001:db8::/32", reason="a long reason of some words " * 6, for_seconds=60)
    for ip in ("10.0.0.1", "2001:db8:1:2:3:4:5:6", "192.0.2.1", "unix"):
        rows = [row.to_json() for row in rows_of(configured, ip)]
        lines = list(why_lines(rows, 80))
        assert max(map(cell_width, lines)) <= 80
        assert all(line.isprintable() for line in lines)


def test_each_outcome_is_a_sentence() -> None:
    world = World("web")
    monitor = world.registry.get("web")

    def head(**settings: Any) -> str:
        monitor.apply(Policy.of(**settings))
        (row,) = rows_of(world, "10.0.0.1")
        return next(why_lines([row.to_json()], None)).partition(" would ")[2]

    assert head() == "enter"
    world.connect("web", "10.0.0.2")
    assert head(conn_limit=1) == "be refused: conn_limit"
    assert head(block=["10.0.0.1"]) == "be refused: block (blocked)"
    monitor.room.subscribe(lambda: None)
    waits = "wait in the accept queue (conn_limit), and then"
    assert head(conn_limit=1) == f"{waits} enter"
    assert head(conn_limit=1, block=["10.0.0.1"]) == f"{waits} be refused (blocked)"
    monitor.pause()
    assert head() == "wait in the accept queue (the service is paused), and then enter"
    monitor.resume()
    monitor.drain()
    assert head() == "be refused: the service is draining"


def test_a_file_of_networks_that_cannot_be_read_is_told(configured: World, tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text("10.0.0.0/8\n")
    mqtt = configured.registry.get("mqtt")
    mqtt.apply(mqtt.policy.changed(block_files=[str(file)]))
    (row,) = rows_of(configured, "10.0.0.1", "mqtt")
    assert (row.refusal, row.unreadable_files) == ("blocked", None)
    assert row.rules[0]["origin"] == f"{file}:1"
    configured.registry.unreadable_files[str(file)] = f'"{file}" cannot be read: gone'
    (row,) = rows_of(configured, "10.0.0.1", "mqtt")
    assert row.unreadable_files == [f'"{file}" cannot be read: gone']
    text = " ".join(why_lines([row.to_json()], None))
    assert f'block_files   "{file}" cannot be read: gone: what it listed before is in force' in text
