"""Forgetting clients: nothing of them is found in the file afterwards, and nothing else is gone."""

from __future__ import annotations

import random
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.addresses import parse_network
from monconn.errors import FileError
from monconn.model.actions import Action, Actor
from monconn.model.alarms import Alarm
from monconn.model.devices import StoredDevice
from monconn.policy.mentions import mentions
from monconn.sinks.history import devices, forget, schema
from monconn.sinks.history.forget import Removal, empty_log, overwrite
from monconn.sinks.history.past import Told, past_of
from monconn.sinks.history.query import HistoryFilter, connections, events
from tests.properties import examples

from .past import HOUR, NOON, closed, count, history, refused
from .test_service import World

CLIENT = "198.51.100.77"
ACTOR = Actor.process(0, 1)


def traces(path: Path, ip: str) -> list[str]:
    """The files that have an IP, as text or in network byte order."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    signs = (ip.encode(), socket.inet_pton(family, ip))
    files = [path, *path.parent.glob(f"{path.name}-*")]
    return [file.name for file in files if any(sign in file.read_bytes() for sign in signs)]


def made(ip: str, at: float = NOON) -> list[Any]:
    """All that may name a client."""
    proxied = closed(at, "192.0.2.200")
    proxied.facts["real_client"] = ip
    return [
        closed(at, ip, detail="connection reset by peer"),
        proxied,
        refused(at, ip),
        Alarm("silent", "web", ip, at, False, "said nothing"),
        Action("block", ACTOR, at, None, ip),
        Action("close", ACTOR, at, None, f"client:{ip}"),
    ]


def run(db: sqlite3.Connection, network: str, dry_run: bool = False) -> dict[str, int]:
    removal = Removal(parse_network(network), dry_run)
    while removal.work(db):
        pass
    return dict(removal.counts)


@pytest.mark.parametrize("ip", [CLIENT, "2001:db8:7::77"])
def test_nothing_is_found_afterwards(ip: str, tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    others = "2001:db8:9::9", "198.51.100.7"  # the end of it is not another client's
    db = history(path, [*made(ip), *(each for other in others for each in made(other))])
    assert traces(path, ip)
    expected = {"connections": 2, "events": 4, "hourly_sums": 1, "devices": 0}
    assert run(db, ip, dry_run=True) == expected
    assert count(db, "connections") == 6  # it has only counted
    assert run(db, ip) == expected
    overwrite(db)
    assert empty_log(db)
    assert traces(path, ip) == []
    assert count(db, "connections") == 4
    assert count(db, "events") == 8
    assert run(db, ip) == dict.fromkeys(expected, 0)
    assert sum(row[0] for row in db.execute("SELECT count FROM refusals")) == 3  # no addresses
    db.close()
    assert traces(path, ip) == []


def test_nothing_of_older_copies_is_found_either(tmp_path: Path) -> None:
    """What trees have moved from page to page as they grew, and what retention has removed."""
    rng = random.Random(7)
    path = tmp_path / "h.db"
    many = [f"203.0.113.{rng.randrange(250)}" for _ in range(6_000)]
    many[::40] = [CLIENT] * len(many[::40])
    past = [closed(NOON + rng.randrange(40) * HOUR, ip) for ip in many]
    db = history(path, past)
    db.execute("DELETE FROM connections WHERE entry % 3 = 0")  # as retention does
    db.commit()
    left = db.execute("SELECT count(*) FROM connections WHERE client_ip != ?", [CLIENT]).fetchone()
    found = run(db, CLIENT)
    assert found["connections"] == 100
    assert traces(path, CLIENT)  # in the log, and in pages
    overwrite(db)
    assert empty_log(db)
    assert traces(path, CLIENT) == []
    assert (count(db, "connections"),) == left
    db.close()


def test_a_network_and_the_device_around_a_client(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    device = "2001:db8:7::/64"
    db = history(path, [Alarm("silent", "web", device, NOON, False, ""), *made("10.1.2.3")])
    assert run(db, "2001:db8:7::5")["events"] == 1
    assert run(db, "10.1.0.0/16", dry_run=True)["events"] == 4
    assert run(db, "10.1.2.3/32") == {
        "connections": 2,
        "events": 4,
        "hourly_sums": 1,
        "devices": 0,
    }
    db.close()


def test_a_wider_network_that_was_blocked_names_nobody(tmp_path: Path) -> None:
    db = history(tmp_path / "h.db", [Action("block", ACTOR, NOON, None, "198.51.100.0/24")])
    assert run(db, CLIENT)["events"] == 0
    assert run(db, "198.51.100.0/24")["events"] == 1
    db.close()


def test_the_work_is_done_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forget, "STEP_ROWS", 10)
    monkeypatch.setattr(forget, "PART_SECONDS", 0.0)  # a step each
    db = history(tmp_path / "h.db", [closed(NOON + each, CLIENT) for each in range(95)])
    removal, parts, before = Removal(parse_network(CLIENT)), 0, 0
    while removal.work(db):
        parts += 1
        assert removal.counts["connections"] - before <= 10
        before = removal.counts["connections"]
    assert removal.counts["connections"] == 95
    assert parts >= 10
    db.close()


@pytest.mark.parametrize(
    ("text", "network", "expected"),
    [
        ("client:192.0.2.7", "192.0.2.7", True),
        ("closed 3 connections (client:192.0.2.7) for uid 0", "192.0.2.7", True),
        ("from 192.0.2.7:51312.", "192.0.2.7", True),
        ("192.0.2.77", "192.0.2.7", False),
        ("1192.0.2.7", "192.0.2.7", False),
        ("1.192.0.2.7", "192.0.2.7", False),
        ("192.0.2.0/24", "192.0.2.7", False),
        ("192.0.2.7/32", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("client:2001:db8::1", "2001:db8::1", True),
        ("fac:2001:DB8:0::1", "2001:db8::1", True),
        ("[2001:db8::1]:80", "2001:db8::1", True),
        ("2001:db8::11", "2001:db8::1", False),
        ("at 12:30:05", "2001:db8::1", False),
        (None, "2001:db8::1", False),
        ("", "0.0.0.0/0", False),
    ],
)
def test_what_a_text_names(text: str | None, network: str, expected: bool) -> None:
    assert mentions(parse_network(network))(text) is expected


@given(st.text(alphabet="0123456789abcdef.:/%[] x", max_size=80))
@settings(max_examples=examples(100))
def test_any_text_may_be_asked_about(text: str) -> None:
    for network in ("10.0.0.0/8", "::/0", "192.0.2.7"):
        assert mentions(parse_network(network))(text) in (True, False)


# -- while it is written


@pytest_twisted.ensureDeferred
async def test_while_it_is_written(tmp_path: Path) -> None:
    world = World(tmp_path / "h.db")
    world.history.startService()
    world.notify("closed", closed(ip=CLIENT), closed(ip="192.0.2.9"))  # queued, not written
    counted = await world.history.forget(parse_network(CLIENT), dry_run=True)
    assert counted.counts["connections"] == 0  # not in the file yet
    done = await world.history.forget(parse_network(CLIENT))
    assert done.counts == {"connections": 1, "events": 0, "hourly_sums": 1, "devices": 0}
    assert done.problem == ""
    assert traces(world.path, CLIENT) == []
    world.notify("closed", closed(ip="192.0.2.9"))
    await world.until(lambda: world.rows() == 2)  # and it goes on
    await world.history.stopService()
    assert traces(world.path, CLIENT) == []


@pytest_twisted.ensureDeferred
async def test_a_program_that_reads_keeps_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monconn.sinks.history import service

    monkeypatch.setattr(service, "EMPTY_LOG_TRIES", 1)
    monkeypatch.setattr(schema, "LOCKED_SECONDS", 0.01)
    world = World(tmp_path / "h.db")
    world.history.startService()
    world.notify("closed", closed(ip=CLIENT))
    await world.until(lambda: world.rows() == 1)
    with closing(sqlite3.connect(world.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM connections").fetchone()
        waiting = world.history.forget(parse_network(CLIENT))
        results: list[Any] = []
        waiting.addBoth(results.append)
        await world.until(lambda: bool(results))
    assert results[0].counts["connections"] == 1
    assert "another program reads the file" in results[0].problem
    done = await world.history.forget(parse_network(CLIENT))  # again, without the reader
    assert done.problem == ""
    assert traces(world.path, CLIENT) == []
    await world.history.stopService()


@pytest_twisted.ensureDeferred
async def test_one_client_at_a_time_and_none_once_it_is_closed(tmp_path: Path) -> None:
    world = World(tmp_path / "h.db")
    with pytest.raises(FileError, match="is closed"):
        await world.history.forget(parse_network(CLIENT))
    world.history.startService()
    first = world.history.forget(parse_network(CLIENT))
    with pytest.raises(FileError, match="ask again later"):
        await world.history.forget(parse_network(CLIENT))
    await first
    await world.history.stopService()


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued is written nevertheless."""
    monkeypatch.setattr(forget, "STEP_ROWS", 1)
    monkeypatch.setattr(forget, "PART_SECONDS", 0.0)
    path = tmp_path / "h.db"
    history(path, [closed(NOON, CLIENT) for _ in range(500)]).close()
    world = World(path)
    world.history.startService()
    results: list[Any] = []
    world.history.forget(parse_network(CLIENT)).addBoth(results.append)
    world.notify("closed", closed(ip="192.0.2.9"))
    await world.history.stopService()
    with closing(schema.open_read_only(str(path))) as db:
        found = connections(db, HistoryFilter(client=parse_network("192.0.2.9")))
        assert [row["client_ip"] for row in found] == ["192.0.2.9"]
        assert next(row["event"] for row in events(db, HistoryFilter())) == "stopped"


def device(name: str, *addresses: str) -> StoredDevice:
    return StoredDevice(
        *("web", name, NOON, NOON, 1, 0, 0, None, None, None),
        fact="mqtt_client_id",
        addresses=addresses,
    )


def test_a_device_with_a_name_loses_the_address_or_goes_with_its_only_one(tmp_path: Path) -> None:
    path = tmp_path / "history"
    alarms = [
        Alarm("silent", "web", name, NOON, False, "said nothing", addresses=addresses)
        for name, addresses in (("pump-7", ("192.0.2.1",)), ("pump-8", ()))
    ]
    with closing(history(path, alarms)) as db:
        with db:
            devices.save(
                db,
                [
                    device("pump-7", "192.0.2.1", CLIENT),
                    device("pump-8", CLIENT),
                    device("pump-9", "192.0.2.1"),
                ],
            )
        assert run(db, CLIENT, dry_run=True) == run(db, CLIENT)
        left = {each.device: each.addresses for each in devices.load(db, "web").devices}
        assert left == {"pump-7": ("192.0.2.1",), "pump-9": ("192.0.2.1",)}
        found = events(db, HistoryFilter())
        assert [each["device"] for each in found if each["event"] == "alarm"] == ["pump-7"]
        overwrite(db)
        empty_log(db)
    assert traces(path, CLIENT) == []


def test_the_past_of_a_device_with_a_name(tmp_path: Path) -> None:
    mine, another, unnamed = (closed(NOON, CLIENT, id=number) for number in range(3))
    mine.facts["mqtt_client_id"] = "pump-7"
    another.facts["mqtt_client_id"] = "pump-8"
    alarm = Alarm("silent", "web", "pump-7", NOON, False, "said nothing", addresses=(CLIENT,))
    items = [mine, another, unnamed, alarm, refused(NOON, CLIENT)]
    with closing(history(tmp_path / "h", items)) as db:
        told = Told("mqtt_client_id", [CLIENT, "unix"], [])
        past = past_of(db, "pump-7", ["web"], 0.0, 10, told)
        assert [each["id"] for each in past.connections] == [0]
        assert [each["event"] for each in past.events] == ["alarm"]
        own = past_of(db, "pump-7", ["web"], 0.0, 10, attrs.evolve(told, own=[CLIENT]))
        assert {each["event"] for each in own.events} == {"alarm", "refused"}
        by_address = past_of(db, CLIENT, ["web"], 0.0, 10)
        assert len(by_address.connections) == 3
        assert [each["event"] for each in by_address.events] == ["refused"]
