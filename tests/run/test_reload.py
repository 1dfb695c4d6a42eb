"""A configuration is read again: all of it is applied, or nothing, and everything else goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.internet.testing import MemoryReactorClock

from monconn.config.config import from_pairs
from monconn.errors import ConfigError, FileError, NotConfigured, ReloadError
from monconn.model.actions import Actor
from monconn.ops.reload import Change, ReloadResult
from monconn.run import reload, sources
from monconn.run.application import Application
from tests.certificates import make_certificate
from tests.logged import logged_lines
from tests.run.reloading import ADMIN, World


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> Any:
    with (
        patch.object(reload, "SETTLE_SECONDS", 0.0),
        patch("monconn.run.supervisor.PAUSES_SECONDS", ()),
    ):
        made = World(tmp_path)
        yield made
        await made.stop()


def reloads(world: World) -> list[tuple[str, bool]]:
    return [(e.target, e.changed) for e in world.actions.actions if e.kind == "reload"]


# -- what is different, and what goes on


@pytest_twisted.ensureDeferred
async def test_only_the_difference_is_applied_and_all_else_goes_on(world: World) -> None:
    two = {"web": world.service(max_idle="5m"), "ssh": world.service()}
    world.start({**world.config(), "services": two})
    web, ssh = world.monitor("web"), world.monitor("ssh")
    client, other = await world.connect("web"), await world.connect("ssh")
    web.block("192.0.2.0/24")
    listens, policy = (web.listen, ssh.listen), ssh.policy
    two["web"] = world.service(max_idle="7m", backend=world.b)
    result = await world.reload({**world.config(), "services": two})
    assert (result.changed, result.added, result.removed) == (("web",), (), ())
    place = f"{world.file}:1"
    assert result.changes == (
        Change("services.web", "backend", world.a, world.b, "new connections", "web", place),
        Change("services.web", "max_idle", "5m", "7m", "at once", "web", place),
    )
    assert (web.listen, ssh.listen, ssh.policy) == (*listens, policy)
    assert (await client.ask(), await other.ask()) == (b"x", b"x")
    assert (web.totals().opened, len(web), web.policy.timeouts.max_idle) == (1, 1, 420.0)
    assert web.blocks()
    told = f"services.web.backend: {world.a} -> {world.b}, services.web.max_idle: 5m -> 7m"
    assert reloads(world) == [(told, True)]
    assert (await world.reload()).changes == ()
    assert reloads(world)[1:] == [("nothing is different", False)]


@pytest_twisted.ensureDeferred
async def test_services_are_added_and_removed_and_come_back_with_their_counters(
    world: World,
) -> None:
    world.start(world.config())
    web = world.monitor()
    client = await world.connect()
    both = {**world.config(), "services": {"ssh": world.service(), "ftp": world.service()}}
    result = await world.reload(both)
    assert (result.added, result.removed) == (("ssh", "ftp"), ("web",))
    assert await client.ask() == b"x"  # it has its wait_timeout
    assert client.transport is not None
    client.transport.loseConnection()
    await world.until(lambda: world.app.registry.names() == ["ssh", "ftp"])
    result = await world.reload(world.config())
    assert (result.added, result.removed) == (("web",), ("ssh", "ftp"))
    assert world.monitor() is web
    await world.connect()
    assert web.totals().opened == 2


@pytest_twisted.ensureDeferred
async def test_a_service_may_take_the_address_of_one_that_is_gone(world: World) -> None:
    world.start(world.config())
    address = world.monitor().listen
    moved = {**world.config(), "services": {"new": world.service(listen=address)}}
    foreseen = await world.reload(moved, dry_run=True)
    result = await world.reload()
    assert (foreseen.added, foreseen.removed) == (result.added, result.removed)
    assert world.monitor("new").listen == address
    await world.connect("new")


@pytest_twisted.ensureDeferred
async def test_a_dry_run_changes_nothing_and_is_no_action(world: World) -> None:
    world.start(world.config())
    before = world.app.config, world.monitor().policy
    result = await world.reload(world.config({"max_idle": 5}, devices={"kept": 7}), dry_run=True)
    assert [each.name for each in result.changes] == ["services.web.max_idle", "devices.kept"]
    assert (world.app.config, world.monitor().policy) == before
    assert reloads(world) == []
    assert result.lines()[0] == "would be changed at once"


@pytest_twisted.ensureDeferred
async def test_what_needs_a_restart_is_told_until_there_is_one(world: World) -> None:
    one, other = (str(world.folder / name) for name in ("one", "other"))
    world.start(world.config(json_log={"path": one}))
    for keep in ("5m", "6m"):
        changed = world.config({"max_idle": keep}, json_log={"path": other, "at_open": True})
        result = await world.reload(changed)
        (waits,) = result.needs_restart
        assert (waits.name, waits.old, waits.new) == ("json_log.path", one, other)
    assert not os.path.exists(other)
    assert world.app.config.json_log is not None
    assert (world.app.config.json_log.path, world.app.config.json_log.at_open) == (one, True)
    result = await world.reload(world.config({"max_idle": keep}, json_log={"path": one}))
    assert [each.name for each in result.changes] == ["json_log.at_open"]


@pytest_twisted.ensureDeferred
async def test_secrets_are_not_shown_and_their_change_is_told(world: World) -> None:
    use = "tests.run.test_reload_keys:Seen"
    world.start(world.config(observers=[{"use": use, "note": "https://u:one@example.org"}]))
    changed = world.config(observers=[{"use": use, "note": "https://u:other@example.org"}])
    result = await world.reload(changed)
    assert [(each.name, each.holds) for each in result.changes] == [("observers", "restart")]
    assert "other" not in str(result)


# -- all or nothing


@pytest_twisted.ensureDeferred
async def test_a_bad_file_changes_nothing_and_says_all_that_is_wrong(world: World) -> None:
    world.start(world.config())
    before = world.app.config, world.app.supervisor.services
    world.write("services:\n  web: {listen: ':0', backend: ':1', max_idle: soon}\nmetrics: 7\n")
    with pytest.raises(ConfigError) as caught:
        await world.reload()
    assert [(each.line, each.path) for each in caught.value.problems] == [
        (2, "services.web.max_idle"),
        (3, "metrics"),
    ]
    assert (world.app.config, world.app.supervisor.services) == before
    assert reloads(world) == [("nothing, as there are 2 problems", False)]
    assert (await world.reload(world.config())).changes == ()


@pytest_twisted.ensureDeferred
async def test_an_address_that_is_taken_changes_nothing_and_is_named_with_its_line(
    world: World,
) -> None:
    world.start(world.config())
    before = world.app.config
    changed = world.config({"max_idle": 7}, devices={"kept": 7})
    changed["services"]["new"] = world.service(listen=world.a, backend=world.b)
    for dry_run in (True, False):
        with pytest.raises(ReloadError, match=rf"yaml:1: services.new.listen: .* {world.a}: addr"):
            await world.reload(changed, dry_run=dry_run)
    assert world.app.config == before
    assert (world.app.registry.names(), world.monitor().policy.timeouts.max_idle) == (
        ["web"],
        900.0,
    )


@pytest_twisted.ensureDeferred
async def test_files_that_run_may_become_unreadable_and_new_ones_may_not(
    world: World, tmp_path: Path
) -> None:
    one, new = (tmp_path / name for name in ("one", "new"))
    for folder in (one, new):
        folder.mkdir()
    own, other = make_certificate(one), make_certificate(new)

    def tls(of: Any) -> dict[str, Any]:
        return {"certificate": str(of.certificate), "key": str(of.key)}

    world.start(world.config({"tls": tls(own)}))
    files = world.app.supervisor.files_of("web")
    own.key.chmod(0)
    other.key.chmod(0)
    refused = os.open

    def as_user(path: Any, *args: Any, **kwargs: Any) -> int:
        # Root may read all, whatever the mode; the program under test has given that up.
        if str(path).endswith("key.pem"):
            raise PermissionError(13, "Permission denied", str(path))
        return refused(path, *args, **kwargs)

    with patch("monconn.files.os.open", as_user):
        result = await world.reload(world.config({"tls": tls(own), "max_idle": 5}))
        assert [each.name for each in result.changes] == ["services.web.max_idle"]
        (note,) = result.notes
        assert note.startswith(f"services.web.tls: {own.key} cannot be read by this user any more")
        result = await world.reload(world.config({"tls": tls(own), "backend": world.b}))
        assert [each.key for each in result.changes] == ["backend", "max_idle"]
        now = world.app.supervisor.files_of("web")
        assert files is not None
        assert now is not None
        assert now.server is files.server
        with pytest.raises(ConfigError, match=r"web\.tls\.key: .*Permission denied"):
            await world.reload(world.config({"tls": tls(other)}))


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_a_change(world: World, tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    tls = {"certificate": str(own.certificate), "key": str(own.key)}
    world.start(world.config({"tls": tls}))
    (tmp_path / "renewed").mkdir()
    renewed = make_certificate(tmp_path / "renewed")
    own.certificate.write_bytes(renewed.certificate.read_bytes())
    with pytest.raises(ConfigError, match="is not that of the first certificate"):
        await world.reload()  # half of it is there
    own.key.write_bytes(renewed.key.read_bytes())
    (change,) = (await world.reload()).changes
    assert (change.name, change.holds) == ("services.web.tls", "new connections")
    assert (await world.reload()).changes == ()


# -- one after the other


@pytest_twisted.ensureDeferred
async def test_the_log_has_one_line_of_a_few_changes_and_else_one_for_each(world: World) -> None:
    world.start(world.config())
    with logged_lines() as lines:
        await world.reload(world.config({"max_idle": 5}))
        (line,) = [each for each in lines if each.startswith("reload")]
        assert line.startswith("reloaded the configuration: services.web.max_idle: 15m -> 5s for")
        lines.clear()
        keys = ("max_idle", "read_timeout", "write_timeout", "conn_limit", "ip_limit")
        await world.reload(world.config(dict.fromkeys(keys, 7)))
    assert reloads(world)[1] == ("changed web, 5 settings", True)
    told = [each.split(": ")[1] for each in lines if each.startswith("reload: ")]
    assert sorted(told) == sorted(f"services.web.{each}" for each in keys)


@pytest_twisted.ensureDeferred
async def test_a_thousand_requests_are_two_reloads(world: World) -> None:
    world.start(world.config())
    first = world.reload(world.config({"max_idle": 5}))
    others = [world.app.reload(Actor.signal("SIGHUP")) for _ in range(1000)]
    assert len((await first).changes) == 1
    results: list[ReloadResult] = await gatherResults(others)
    assert {each.changes for each in results} == {()}
    assert [what for what, _ in reloads(world)] == [
        "services.web.max_idle: 15m -> 5s",
        "nothing is different (asked for 1000 times)",
    ]


@pytest_twisted.ensureDeferred
async def test_none_while_it_stops_nor_before_it_has_started(world: World) -> None:
    app = world.start(world.config({"wait_timeout": 30}))
    client = await world.connect()
    reading = world.reload(world.config({"max_idle": 5}))
    stopped = app.stopService()
    for each in (reading, world.reload()):
        with pytest.raises(ReloadError, match="monconn is stopping"):
            await each
    assert await client.ask() == b"x"
    app.stop_now()
    await stopped
    with pytest.raises(ReloadError):
        await world.reload()


@pytest_twisted.ensureDeferred
async def test_a_file_that_does_not_answer_is_given_up_and_holds_up_nothing(world: World) -> None:
    world.start(world.config())
    answers = threading.Event()
    real = sources.load

    def hang(path: str) -> Any:
        answers.wait(30)
        return real(path)

    with patch.object(reload, "load", hang), patch.object(reload, "READ_SECONDS", 0.01):
        with pytest.raises(FileError, match="were not read within"):
            await world.reload()
        with pytest.raises(FileError, match="still reads a file"):
            await world.reload()
        await world.connect()
        answers.set()
        await world.until(lambda: not world.app._reloader._is_reading)
    assert (await world.reload()).changes == ()


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_written_meanwhile_is_read_again(world: World) -> None:
    world.start(world.config())
    real, loads = sources.load, 0

    def load_while_it_is_written(path: str) -> Any:
        nonlocal loads
        loads += 1
        loaded = real(path)
        if loads == 1:  # half of it was read: a valid file, without the second service
            both = {"web": world.service(), "ssh": world.service()}
            world.write({**world.config(), "services": both})
        return loaded

    with patch.object(reload, "load", load_while_it_is_written):
        result = await world.reload()
    assert (loads, result.added) == (2, ("ssh",))


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_always_written_is_an_error(world: World) -> None:
    world.start(world.config())
    stamps = iter(range(1000))
    with (
        patch.object(reload, "stamp", lambda path: (0, 0, next(stamps))),
        pytest.raises(ConfigError, match="is written all the time"),
    ):
        await world.reload()


@pytest_twisted.ensureDeferred
async def test_a_listener_that_moves_loses_nobody(world: World) -> None:
    """Those in the queue of the old listener are let in before it is closed."""
    world.start(world.config({"listen": "127.0.0.1:0"}))
    monitor = world.monitor()
    with contextlib.ExitStack() as sockets:
        for listen in ("127.0.0.2:0", "127.0.0.1:0") * 2:
            host, _, port = monitor.listen.rpartition(":")
            await world.connect()
            sockets.enter_context(socket.create_connection((host, int(port))))
            await world.reload(world.config({"listen": listen}))
        assert {await each.ask() for each in world.clients} == {b"x"}
        assert (len(monitor), monitor.totals().opened) == (8, 8)


# -- where there is no file


@pytest_twisted.ensureDeferred
async def test_pairs_have_no_file(world: World) -> None:
    config = from_pairs([f"127.0.0.1:0={world.a}"])
    app = Application(config, MemoryReactorClock())
    with pytest.raises(NotConfigured, match=r"from the command line \(-p\)"):
        await app.reload(ADMIN)
    assert not app.operations.has()["reload"]  # so the page offers none


@pytest_twisted.ensureDeferred
async def test_a_pipe_cannot_be_read_again(world: World) -> None:
    app = world.start(world.config())
    world.file.unlink()
    os.mkfifo(world.file)
    with pytest.raises(ConfigError, match="is no regular file"):  # as if it were gone
        await app.reload(ADMIN)


@pytest_twisted.ensureDeferred
async def test_a_file_of_networks_that_is_lost_lists_what_it_did(world: World) -> None:
    world.write("192.0.2.0/24\n", "networks")
    world.start(world.config({"block_files": "networks"}))
    (world.folder / "networks").unlink()
    result = await world.reload(world.config({"block_files": "networks", "max_idle": 5}))
    assert [each.key for each in result.changes] == ["max_idle"]
    (note,) = result.notes
    assert "networks" in note
    assert note.endswith(
        "No such file or directory: what it listed before stays blocked, until a restart"
    )
    assert world.monitor().blocks("file") == [ip_network("192.0.2.0/24")]
    world.write("192.0.2.0/24\n", "networks")
    assert (await world.reload()).notes == ()
    (world.folder / "networks").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        await world.reload(world.config({"block_files": ["networks", "others"]}))


@pytest_twisted.ensureDeferred
async def test_a_file_of_networks_is_compared_with_what_it_listed_last(world: World) -> None:
    file = world.folder / "networks"
    world.write("192.0.2.0/24\n", file.name)
    world.start(world.config({"block_files": file.name}))
    monitor = world.monitor()
    world.write("10.0.0.0/8\n", file.name)
    monitor.apply(monitor.policy.changed(block_files=[file]))  # as what watches it does
    for _ in range(2):
        result = await world.reload(world.config({"block_files": file.name}))
        assert result.changes == ()
        assert monitor.blocks("file") == [ip_network("10.0.0.0/8")]
        file.unlink(missing_ok=True)  # and so does one that is lost
    world.write("192.0.2.0/24\n", file.name)
    result = await world.reload(world.config({"block_files": file.name}))
    assert [each.key for each in result.changes] == ["block_files"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_reloaded_no_connection_and_no_counter_is_lost(
    world: World, seed: int
) -> None:
    """Services come, go, move and change at random, and some files are wrong."""
    chosen = random.Random(seed)
    usual = world.config({"wait_timeout": "10m"})
    world.start(usual)
    services: dict[str, Any] = dict(usual["services"])
    opened: Counter[str] = Counter()
    for _ in range(60):
        after = dict(services)
        name = chosen.choice(["web", "ssh", "ftp"])
        if name in after and len(after) > 1 and chosen.random() < 0.4:
            del after[name]
        else:
            after[name] = world.service(
                listen=f"127.0.0.{chosen.randint(1, 2)}:0",
                backend=chosen.choice([world.a, world.b]),
                max_idle=chosen.choice(["5m", "6m"]),
                conn_limit=chosen.choice([0, 1000]),
                wait_timeout="10m",
            )
        is_wrong = chosen.random() < 0.2
        extra = {"metrics": 7} if is_wrong else {}
        try:
            result = await world.reload({**usual, "services": after, **extra})
        except ConfigError:
            assert is_wrong
        else:
            assert not is_wrong
            assert set(result.added) == after.keys() - services.keys()
            assert set(result.removed) == services.keys() - after.keys()
            services = after
        assert {each.name for each in world.app.supervisor.services} == services.keys()
        name = chosen.choice([*services])
        await world.connect(name)
        opened[name] += 1
    assert {await each.ask() for each in world.clients} == {b"x"}
    for name, count in opened.items():
        if name in world.app.registry.names():
            assert (world.monitor(name).totals().opened, len(world.monitor(name))) == (count, count)
