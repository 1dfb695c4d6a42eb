"""Files of blocked networks are watched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.task import Clock

from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy import block_files
from monconn.policy.policy import Policy
from monconn.run import block_files as watching
from monconn.run.block_files import MOST_LOOKS, WATCH_SECONDS, BlockFileWatch
from tests.logged import logged_lines

HANG_SECONDS = 30.0


class Inline:
    """In the place of a thread: works at once, unless the disk hangs."""

    hangs = False

    def __init__(self, handle: Callable[[Any, int], object], limit: int) -> None:
        self._handle = handle
        self.held: list[Any] = []

    def put(self, item: Any) -> bool:
        if Inline.hangs:
            self.held.append(item)
        else:
            self._handle(item, 0)
        return True

    def stop(self, seconds: float) -> bool:
        return True


class World:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.clock = Clock()
        self.registry = Registry()
        self.watch = BlockFileWatch(self.registry, self, self.clock)
        self.watch.startService()

    def callFromThread(self, call: Callable[..., object], *args: Any) -> object:
        return call(*args)

    def monitor(self, name: str = "web") -> Monitor:
        policy = Policy.of(block_files=[str(self.file)])
        return self.registry.new(name, policy=policy, clock=self.clock)

    def write(self, text: str) -> None:
        """Write a file as if a minute ago, with times that are different each time."""
        self.file.write_text(text)
        self.written = getattr(self, "written", 1_000_000_000) + 1
        os.utime(self.file, (self.written, self.written))

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.clock.advance(WATCH_SECONDS)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(watching, "BackgroundQueue", Inline)
    monkeypatch.setattr(Inline, "hangs", False)
    made = World(tmp_path / "blocked")
    made.write("10.0.0.1\n")
    yield made
    made.watch.stopService()
    assert not made.clock.getDelayedCalls()
    assert not made.registry.unreadable_files


def networks(monitor: Monitor) -> list[str]:
    return [str(each) for file in monitor.policy.rules.block_files for each in file.origins]


def test_a_changed_file_is_read_once_it_is_quiet(world: World) -> None:
    monitor, other = world.monitor(), world.registry.new("other", clock=world.clock)
    applied: list[Policy] = []
    other.when_applied(lambda: applied.append(other.policy))
    world.look()
    world.write("")  # as an editor does that writes it in place
    world.look(1)
    world.write("10.0.0.2\n10.0.0.3\n")
    world.look(1)
    assert networks(monitor) == ["10.0.0.1/32"]
    with logged_lines("monconn.run.block_files") as lines:
        world.look(2)
        assert networks(monitor) == ["10.0.0.2/32", "10.0.0.3/32"]
        world.look(5)
    assert lines == [f'"{world.file}" has changed: networks that it lists to block: 2']
    assert not applied


def test_one_that_never_is_quiet_is_read_nevertheless(world: World) -> None:
    monitor = world.monitor()
    world.look()
    for number in range(MOST_LOOKS + 1):
        world.write(f"10.0.1.{number}\n")
        world.look(1)
    assert networks(monitor) == [f"10.0.1.{MOST_LOOKS}/32"]


def test_what_was_written_just_before_it_was_read_is_read_again(world: World) -> None:
    world.file.write_text("10.0.0.1\n")
    monitor = world.monitor()
    assert monitor.policy.rules.block_files[0].signature is None
    found = os.stat(world.file)
    world.file.write_text("10.0.0.2\n")
    os.utime(world.file, ns=(found.st_atime_ns, found.st_mtime_ns))  # within the same tick
    world.look(2)
    assert networks(monitor) == ["10.0.0.2/32"]


def test_a_file_that_is_lost_keeps_what_it_listed(world: World) -> None:
    monitor = world.monitor()
    with logged_lines("monconn.run.block_files") as lines:
        world.look()
        world.file.unlink()
        world.look(5)
        fault = f'"{world.file}" cannot be read: no such file or directory'
        assert world.registry.unreadable_files == {str(world.file): fault}
        assert lines == [f"{fault}: what it listed before stays blocked"]
        assert networks(monitor) == ["10.0.0.1/32"]
        world.write("10.0.0.1\n10.0.0.2\n")
        world.look()
    assert lines[1:] == [
        f'"{world.file}" can be read again',
        f'"{world.file}" has changed: networks that it lists to block: 2',
    ]
    assert not world.registry.unreadable_files
    assert networks(monitor) == ["10.0.0.1/32", "10.0.0.2/32"]


def test_a_rename_in_its_place_loses_nothing(world: World, tmp_path: Path) -> None:
    monitor = world.monitor()
    world.look()
    with logged_lines("monconn.run.block_files") as lines:
        world.file.unlink()
        world.look(1)  # in between
        world.write("10.0.0.9\n")
        world.look(2)
    assert lines == [f'"{world.file}" has changed: networks that it lists to block: 1']
    assert networks(monitor) == ["10.0.0.9/32"]


def test_one_that_is_too_big_or_no_file_is_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = world.monitor()
    world.look()
    monkeypatch.setattr(block_files, "MOST_NETWORKS", 2)
    reads: list[str] = []
    read = block_files.read_block_file

    def counted(path: str) -> block_files.BlockFile:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(block_files, "read_block_file", counted)
    world.write("10.0.0.1\n10.0.0.2\n10.0.0.3\n")
    with logged_lines("monconn.run.block_files") as lines:
        world.look(20)
    (line,) = lines
    assert "lists too many networks" in line
    assert networks(monitor) == ["10.0.0.1/32"]
    assert len(reads) == 1


def test_bad_lines_are_told_and_cost_no_other(world: World) -> None:
    monitor = world.monitor()
    world.look()
    world.write("10.0.0.1\nweb\n10.0.0.2\n")
    with logged_lines("monconn.run.block_files") as lines:
        world.look(20)
    assert lines[0] == f'"{world.file}" has changed: networks that it lists to block: 2'
    assert lines[1].startswith(f'{world.file}:2: "web" is neither')
    assert len(lines) == 2
    assert networks(monitor) == ["10.0.0.1/32", "10.0.0.2/32"]


def test_one_with_nothing_but_bad_lines_is_no_list(world: World) -> None:
    monitor = world.monitor()
    world.look()
    world.write("<html>\n<h1>404 Not Found</h1>\n")
    with logged_lines("monconn.run.block_files") as lines:
        world.look(20)
        assert networks(monitor) == ["10.0.0.1/32"]
        (line,) = lines
        assert f'lists no networks: {world.file}:1: "<html>" is neither' in line
        world.write("# nobody any more\n")
        world.look(2)
    assert networks(monitor) == []


def test_another_change_of_the_policy_keeps_what_was_read_last(world: World) -> None:
    monitor = world.monitor()
    before = monitor.policy
    world.look()
    world.write("10.0.0.2\n")
    world.look()
    monitor.apply(before.changed(conn_limit=5))
    assert networks(monitor) == ["10.0.0.2/32"]
    assert monitor.policy.rules.conn_limit == 5


def test_a_disk_that_hangs_is_asked_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = world.monitor()
    world.look()
    monkeypatch.setattr(Inline, "hangs", True)
    world.write("10.0.0.2\n")
    world.look(20)
    queue: Any = world.watch._queue
    assert len(queue.held) == 1
    monkeypatch.setattr(Inline, "hangs", False)
    queue._handle(queue.held.pop(), 0)
    world.look(2)
    assert networks(monitor) == ["10.0.0.2/32"]
    monitor.apply(monitor.policy.changed(block_files=()))
    world.look(2)
    assert not world.clock.getDelayedCalls()
    monitor.apply(monitor.policy.changed(block_files=[str(world.file)]))
    assert world.clock.getDelayedCalls()
    world.registry.delete("web")
    world.look(1)
    assert not world.clock.getDelayedCalls()


def test_nothing_is_done_without_a_file(world: World) -> None:
    world.registry.new("web", clock=world.clock)
    assert not world.clock.getDelayedCalls()


def test_what_is_read_while_it_stops_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = world.monitor()
    world.look()
    monkeypatch.setattr(Inline, "hangs", True)
    world.write("10.0.0.2\n")
    world.look(1)
    queue: Any = world.watch._queue
    world.watch.stopService()
    queue._handle(queue.held.pop(), 0)
    assert networks(monitor) == ["10.0.0.1/32"]
    world.watch.startService()
    world.look(3)


def test_in_a_thread_of_its_own(tmp_path: Path) -> None:
    """With a real thread; what it has found is put in force in the reactor's."""
    calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
    world = World(tmp_path / "blocked")
    world.callFromThread = lambda call, *args: calls.put(partial(call, *args))  # type: ignore[method-assign]
    world.write("10.0.0.1\n")
    monitor = world.monitor()
    world.write("10.0.0.2\n")
    for _ in range(2):
        world.look(1)
        calls.get(timeout=HANG_SECONDS)()
    assert networks(monitor) == ["10.0.0.2/32"]
    assert [str(each) for each in monitor.blocks()] == ["10.0.0.2/32"]
    world.watch.stopService()
