from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider
from zope.interface.verify import verifyObject

from monconn.config.sections import HistoryConfig
from monconn.errors import FileError
from monconn.model.actions import OWN_CODE, Action
from monconn.model.alarms import Alarm
from monconn.model.totals import Totals
from monconn.monitor.interfaces import IObserver
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks.history import schema, service, store, write_queue
from monconn.sinks.history.query import HistoryFilter, connections, events, open_read_only, report
from monconn.sinks.history.service import HistoryService
from monconn.sinks.history.write_queue import WriteQueue

from .past import closed, count, refused

WAIT_SECONDS = 20.0


class World:
    """A history that uses the running reactor's threads, and a fake clock."""

    def __init__(self, path: Path, **config: Any) -> None:
        from twisted.internet import reactor

        self.path = path
        self.clock = Clock()
        self.registry = Registry()
        self.monitor = self.registry.new("web", clock=self.clock)
        config = {"keep": 1e10, **config}  # the connections are of a past long gone
        self.reactor: Any = reactor
        self.history = HistoryService(
            HistoryConfig(str(path), **config), self.registry, reactor, self.clock
        )

    def notify(self, hook: str, *arguments: Any) -> None:
        """Have the monitor notify its observers."""
        for each in arguments:
            self.monitor.observers.notify(hook, each)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Advance the clock by seconds until a condition holds."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            assert time.monotonic() < deadline
            self.clock.advance(1.0)
            await deferLater(self.reactor, 0.01)

    def rows(self, table: str = "connections") -> int:
        db = open_read_only(str(self.path))
        try:
            return count(db, table)
        finally:
            db.close()

    async def stop(self) -> None:
        await self.history.stopService()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []

    @provider(ILogObserver)
    def observer(event: LogEvent) -> None:
        if event["log_namespace"].startswith("monconn.sinks.history"):
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def test_the_write_queue_is_an_observer() -> None:
    verifyObject(IObserver, WriteQueue(Clock()))


# -- writing


@pytest_twisted.ensureDeferred
async def test_events_are_written_a_second_later(path: Path) -> None:
    world = World(path)
    world.notify("closed", closed())  # before it has started
    world.history.startService()
    world.notify("refused", refused())
    world.notify("alarmed", Alarm("silent", "web", "192.0.2.1", 1.0, False, "so long"))
    world.notify("acted", Action("block", OWN_CODE, 1.0, "web", "192.0.2.1/32"))
    assert world.rows() == 0
    await world.until(lambda: world.rows() == 1)
    found = await world.history.run(lambda db: events(db, HistoryFilter()))
    assert Counter(each["event"] for each in found) == Counter(
        ["started", "refused", "alarm", "action"]
    )
    world.notify("closed", closed(), closed())
    await world.stop()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "history.db",
        "history.db.lock",
    ]  # tidied up
    assert world.rows() == 3
    db = open_read_only(str(path))
    assert events(db, HistoryFilter())[0]["event"] == "stopped"
    db.close()
    assert world.history.dropped == 0


@pytest_twisted.ensureDeferred
async def test_each_history_has_one_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    world, other = World(path), World(path)
    world.history.startService()
    with pytest.raises(FileError, match="another monconn writes it: each needs a file of its own"):
        other.history.startService()
    assert slept == []  # never in the thread of a running reactor
    await world.stop()
    other.history.startService()
    await other.stop()


def test_before_the_reactor_runs_a_writer_may_wait_for_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "retry_pauses", lambda pauses: pauses)
    before = schema.lock(str(path))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            os.close(before)

    monkeypatch.setattr(time, "sleep", sleep)
    os.close(schema.lock(str(path)))
    assert slept == [0.1, 0.2]


@pytest_twisted.ensureDeferred
async def test_one_transaction_for_all_of_a_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    write = store.write

    def recording(db: Any, items: list[Any], *others: Any) -> None:
        batches.append(len(items))
        write(db, items, *others)

    monkeypatch.setattr(store, "write", recording)
    world = World(path)
    world.history.startService()
    for _ in range(5):
        world.notify("closed", *[closed()] * 100)
        world.clock.advance(0.1)
    await world.until(lambda: world.rows() == 500)
    await world.until(lambda: len(batches) == 1)
    for _ in range(5):  # seconds in which nothing happens
        world.clock.advance(1.0)
        await deferLater(world.reactor, 0.01)
    assert batches == [501]
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_refusals_beyond_a_few_a_second_are_only_counted(path: Path) -> None:
    world = World(path)
    world.history.startService()
    world.notify("refused", *[refused(time.time(), word="rate") for _ in range(1000)])
    await world.stop()
    assert world.rows("events") == 2 + write_queue.REFUSALS_A_SECOND + 1
    db = open_read_only(str(path))
    made = report(db, HistoryFilter(since=time.time() - 60))
    assert made["refusals"] == {"rate": 1000}
    assert db.execute("SELECT count FROM refusals").fetchone() == (1000,)
    db.close()


def test_an_event_costs_little() -> None:
    holder, record = WriteQueue(Clock()), closed()
    began = time.perf_counter()
    for _ in range(20_000):
        holder.closed(record)
    assert (time.perf_counter() - began) / 20_000 < 20e-6


def test_the_write_queue_never_exceeds_its_limit() -> None:
    holder = WriteQueue(Clock(), 20)
    for _ in range(30):
        holder.closed(closed())
    assert holder.dropped == 10
    first = holder.take()
    holder.closed(closed())  # there is no room while those are being written
    assert (len(first), holder.dropped) == (20, 11)
    holder.put_back(first)
    for _ in range(1000):  # what is only counted waits for room, and is not lost
        holder.refused(refused())
    assert len(holder.take()) == 20
    holder.done()
    (counted,) = holder.take()
    assert isinstance(counted, store.Event)
    assert counted.count == 1000 - write_queue.REFUSALS_A_SECOND
    assert holder.dropped == 11 + write_queue.REFUSALS_A_SECOND


# -- trouble


@pytest_twisted.ensureDeferred
async def test_a_locked_file_loses_nothing_that_can_be_queued(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history._queue._limit = world.history._queue._room = 100  # instead of 50,000
    world.history.startService()
    locking = sqlite3.connect(path)
    locking.execute("BEGIN IMMEDIATE")
    world.notify("closed", *[closed()] * 150)
    await world.until(lambda: bool(log))
    for _ in range(3):
        world.clock.advance(1.0)
        await deferLater(world.reactor, 0.6)
    assert len(log) == 1
    assert log[0].endswith("history.db cannot be written: database is locked")
    assert world.history.dropped == 51  # with the one that says that we have started
    locking.close()
    await world.until(lambda: len(log) == 2)
    assert "can be written again; lost so far: 51" in log[1]
    assert world.rows() == 99
    await world.until(lambda: world.rows("events") == 2)
    found = await world.history.run(lambda db: events(db, HistoryFilter()))
    assert [each["count"] for each in found if each["event"] == "lost"] == [51]
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_full_disk(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    await world.until(lambda: world.rows("events") == 1)

    async def limit(pages: str) -> None:
        await world.history._in_writer(
            lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        )

    await limit("1")  # which means: no more than now
    world.notify("closed", *[closed()] * 1000)
    await world.until(lambda: bool(log))
    assert log == [f"history: {path} cannot be written: database or disk is full"]
    world.notify("closed", *[closed()] * 100)
    await limit("1000000")
    await world.until(lambda: len(log) == 2)
    assert world.rows() == 1100
    assert world.history.dropped == 0
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_what_can_never_be_written_is_dropped(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    await world.until(lambda: world.rows("events") == 1)
    world.notify("closed", closed(up=1 << 70))
    await world.until(lambda: bool(log))
    world.notify("closed", closed())
    await world.until(lambda: world.rows() == 1)
    assert world.history.dropped == 1
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_disk_that_does_not_answer_does_not_delay_the_stop(
    path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(store, "write", lambda *_: answers.wait(WAIT_SECONDS))
    world = World(path)
    world.history.startService()
    stopped = Deferred.fromCoroutine(world.stop())
    await deferLater(world.reactor, 0.05)
    assert not stopped.called
    world.clock.advance(service.STOP_SECONDS)
    await stopped
    assert log == [f"history: {path} does not answer"]
    answers.set()


# -- counters


def carried(world: World) -> Totals:
    return world.monitor.totals()


@pytest_twisted.ensureDeferred
async def test_counters_continue_in_the_next_run(path: Path) -> None:
    world = World(path)
    world.history.startService()
    totals = Totals(3, 40, 500, Counter({"blocked": 2}))
    world.monitor.carry_over(totals)  # as if it had counted them
    await world.until(lambda: world.rows("counters") == 4)
    world.monitor.carry_over(Totals(1, 1, 1))  # in the last second
    await world.stop()

    world = World(path)
    late = Monitor("late", clock=world.clock)
    late.carry_over(Totals(up=1))
    assert world.monitor.totals() == Totals()
    world.history.startService()
    assert world.monitor.totals() == Totals(4, 41, 501, Counter({"blocked": 2}))
    world.registry.add(late)
    await world.stop()

    world = World(path)
    world.registry.delete("web")
    world.history.startService()
    for name, expected in (("web", 4), ("late", 0)):  # added only now
        monitor = world.registry.new(name, clock=world.clock)
        assert monitor.totals().opened == expected
    assert world.registry.get("late").totals().up == 1
    await world.stop()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seconds", [0.0, 5.0])  # before its counters are written, and after
async def test_counters_continue_when_a_removed_service_returns(path: Path, seconds: float) -> None:
    world = World(path)
    world.history.startService()
    world.monitor.carry_over(Totals(3, 4, 5))
    world.registry.delete("web")
    if seconds:
        await world.until(lambda: world.rows("counters") > 0 and not world.history._last)
    again = world.registry.new("web", clock=world.clock)
    assert again.totals() == Totals(3, 4, 5)
    world.registry.delete("web")
    await world.stop()

    world = World(path)
    world.history.startService()
    assert world.monitor.totals() == Totals(3, 4, 5)
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_counters_start_at_0_if_configured(path: Path) -> None:
    world = World(path)
    world.history.startService()
    world.monitor.carry_over(Totals(3))
    await world.stop()
    world = World(path, resume_counters=False)
    world.history.startService()
    assert world.monitor.totals() == Totals()
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_stopped_and_started_again(path: Path) -> None:
    world = World(path)
    world.history.startService()
    world.monitor.carry_over(Totals(3))
    await world.stop()
    world.notify("closed", closed())
    world.history.startService()
    assert world.monitor.totals().opened == 3  # and not twice as many
    await world.stop()
    assert (world.rows(), world.rows("events")) == (1, 4)


# -- reading


@pytest_twisted.ensureDeferred
async def test_a_query_cannot_write(path: Path) -> None:
    world = World(path)
    world.history.startService()
    with pytest.raises(FileError, match="attempt to write a readonly database"):
        await world.history.run(lambda db: db.execute("DELETE FROM events"))
    assert await world.history.run(lambda db: connections(db, HistoryFilter())) == []
    await world.stop()
    with pytest.raises(FileError, match="the history is closed"):
        await world.history.run(lambda db: connections(db, HistoryFilter()))


def endless(db: sqlite3.Connection) -> Any:
    return db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    ).fetchone()


@pytest_twisted.ensureDeferred
async def test_a_query_that_takes_too_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "QUERY_SECONDS", 0.05)
    world = World(path)
    world.history.startService()
    with pytest.raises(FileError, match=r"longer than 0.05 s: ask for a shorter period"):
        await world.history.run(endless)
    assert await world.history.run(lambda db: connections(db, HistoryFilter())) == []
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_stopping_ends_a_query(path: Path) -> None:
    world = World(path)
    world.history.startService()
    asking = world.history.run(endless)
    await deferLater(world.reactor, 0.05)
    began = time.monotonic()
    await world.stop()
    assert time.monotonic() - began < 5
    with pytest.raises(FileError, match="cannot be read"):
        await asking


# -- start


def test_a_file_that_cannot_be_opened(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    world = World(path)
    with pytest.raises(FileError, match="is not a database"):
        world.history.startService()
    assert not world.history.running


@pytest_twisted.ensureDeferred
async def test_old_rows_are_removed(path: Path) -> None:
    world = World(path, keep=3600.0)
    world.history.startService()
    now = time.time()
    world.notify("closed", closed(now - 7200), closed(now))
    await world.until(lambda: world.rows() == 1)
    await world.until(lambda: world.rows("hours") == 1)
    await world.stop()


def test_the_private_attributes_of_adbapi_that_abandoning_a_pool_uses() -> None:
    from twisted.internet import reactor

    pool = ConnectionPool("sqlite3", ":memory:", cp_reactor=reactor)
    assert pool._reactor is reactor
    pool.start()
    assert pool.shutdownID is not None
    pool.close()
