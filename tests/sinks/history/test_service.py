from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from zope.interface.verify import verifyObject

from monconn import files, processes
from monconn.config.sections import HistoryConfig
from monconn.errors import Busy, FileError
from monconn.model.actions import OWN_CODE, Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Reason
from monconn.model.totals import Totals
from monconn.monitor.interfaces import IObserver
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks.history import schema, service, store, write_queue
from monconn.sinks.history.query import HistoryFilter, connections, events, open_read_only, report
from monconn.sinks.history.service import HistoryService
from monconn.sinks.history.write_queue import WriteQueue
from tests.logged import logged_lines

from .past import closed, count, history, refused

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

    async def idle(self) -> None:
        """Wait until the thread that writes has nothing to do, as the clock stands still."""
        saving = self.history._saving
        while saving is not None and not saving.called:
            await deferLater(self.reactor, 0.01)

    async def stop(self) -> None:
        await self.history.stopService()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def log() -> Iterator[list[str]]:
    with logged_lines("monconn.sinks.history") as lines:
        yield lines


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
    monkeypatch.setattr(processes, "retry_pauses", lambda pauses: pauses)
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

    def recording(db: Any, items: list[Any], *others: Any) -> list[Exception]:
        batches.append(len(items))
        return write(db, items, *others)

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
    monkeypatch.setattr(store, "write", lambda *_: answers.wait(WAIT_SECONDS) and [])
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
    ends = Counter[Reason]({"client_closed": 2})
    totals = Totals(3, 40, 500, Counter({"blocked": 2}), closed=ends)
    world.monitor.counters.carry_over(totals)  # as if it had counted them
    await world.until(lambda: world.rows("counters") == 5)
    world.monitor.counters.carry_over(Totals(1, 1, 1))  # in the last second
    await world.stop()

    world = World(path)
    late = Monitor("late", clock=world.clock)
    late.counters.carry_over(Totals(up=1))
    assert world.monitor.totals() == Totals()
    world.history.startService()
    assert world.monitor.totals() == Totals(4, 41, 501, Counter({"blocked": 2}), closed=ends)
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
    world.monitor.counters.carry_over(Totals(3, 4, 5))
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
    world.monitor.counters.carry_over(Totals(3))
    await world.stop()
    world = World(path, resume_counters=False)
    world.history.startService()
    assert world.monitor.totals() == Totals()
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_stopped_and_started_again(path: Path) -> None:
    world = World(path)
    world.history.startService()
    world.monitor.counters.carry_over(Totals(3))
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


# -- a wall clock that leaps


def notes_of_the_clock(path: Path) -> list[str]:
    db = open_read_only(str(path))
    try:
        return [each["detail"] for each in events(db, HistoryFilter()) if each["event"] == "clock"]
    finally:
        db.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [(400 * 86400.0, "is ahead of the time of the file's last row by 400d00h"),
     (-400 * 86400.0, "is behind the time of the file's last row by 400d00h")],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_a_wrong_clock_at_the_start_empties_no_history(
    path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch, error: float, text: str
) -> None:
    world = World(path, keep=30 * 86400.0)
    world.history.startService()
    world.notify("closed", *(closed(time.time()) for _ in range(5)))
    await world.stop()
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + error)
    world = World(path, keep=30 * 86400.0)
    world.history.startService()
    world.notify("closed", closed(time.time()))
    for _ in range(5):
        world.clock.advance(60)  # and removes what is too old
        await deferLater(world.reactor, 0.01)
    await world.until(lambda: world.rows() == 6)
    await world.stop()
    assert [line.partition("wall clock ")[2] for line in log] == [text]
    assert notes_of_the_clock(path) == [text]
    assert (world.rows(), world.rows("hours")) == (6, 2)


@pytest.mark.parametrize(
    ("leap", "text"), [(3601.0, "was set ahead by 1h00m"), (-90.2, "was set back by 1m30s")]
)
@pytest_twisted.ensureDeferred
async def test_a_leap_is_told(
    path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch, leap: float, text: str
) -> None:
    right = time.time
    world = World(path)
    world.history.startService()
    monkeypatch.setattr(time, "time", lambda: right() + leap)
    await world.until(lambda: notes_of_the_clock(path) != [])
    await world.stop()
    assert notes_of_the_clock(path) == [text]
    assert len(log) == 1


# -- files that are moved, removed or replaced


def remove_all(path: Path) -> None:
    for each in path.parent.glob("history.db*"):
        each.unlink()


def remove_file(path: Path) -> None:
    path.unlink()


def move_all(path: Path) -> None:
    (path.parent / "old").mkdir()
    for each in path.parent.glob("history.db*"):
        each.rename(path.parent / "old" / each.name)


def move_file(path: Path) -> None:
    (path.parent / "old").mkdir()
    path.rename(path.parent / "old" / path.name)


def replace_file(path: Path) -> None:
    other = path.parent / "other"
    history(other, [closed(id=77)]).close()
    other.replace(path)


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


@pytest.mark.parametrize(
    ("change", "rows_before"),
    [(remove_all, 0), (remove_file, 0), (move_all, 0), (move_file, 0), (replace_file, 1),
     (remove_log, 3), (move_folder, 0)],
)  # fmt: skip
@pytest.mark.parametrize("is_idle", [False, True], ids=["busy", "idle"])
@pytest_twisted.ensureDeferred
async def test_a_file_that_is_gone_is_made_anew(
    tmp_path: Path,
    log: list[str],
    change: Callable[[Path], None],
    rows_before: int,
    is_idle: bool,
) -> None:
    path = tmp_path / "folder" / "history.db"
    path.parent.mkdir()
    world = World(path)
    world.history.startService()
    world.monitor.counters.carry_over(Totals(3, 4, 5))
    world.notify("closed", *(closed(id=each) for each in (1, 2, 3)))
    await world.until(lambda: world.rows() == 3)
    asking = await world.history.run(lambda db: connections(db, HistoryFilter()))
    assert len(asking) == 3
    lost_before = files.lost["history"]
    change(path)
    new = 0 if is_idle else 2
    world.notify("closed", *[closed(id=5)] * new)
    await world.until(lambda: bool(log))
    assert "moved, removed or replaced: begun anew" in log[0]
    await world.until(lambda: path.exists() and world.rows() == rows_before + new)
    await world.until(lambda: world.rows("counters") == 3)
    assert (log[1:], world.history.dropped) == ([], 0)
    assert files.lost["history"] == lost_before + 1
    assert len(await world.history.run(lambda db: connections(db, HistoryFilter()))) == (
        rows_before + new
    )
    assert path.stat().st_mode & 0o777 == 0o600
    world.notify("closed", closed())
    await world.stop()
    assert (world.rows(), log[1:]) == (rows_before + new + 1, [])
    db = open_read_only(str(path))
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    texts = [each["detail"] for each in events(db, HistoryFilter()) if each["event"] == "started"]
    assert any("begun anew" in text for text in texts)
    db.close()
    old = path.parent / "old" / path.name
    if old.exists():  # what was moved is whole
        db = open_read_only(str(old))
        assert count(db, "connections") == 3
        db.close()


@pytest_twisted.ensureDeferred
async def test_no_thread_can_be_started_for_a_while(
    path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world = World(path)
    world.history.startService()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        world.notify("closed", closed())
        await world.until(lambda: bool(log))
        for _ in range(service.MOST_QUERIES + 1):
            with pytest.raises(FileError, match="can't start new thread"):
                await world.history.run(lambda db: connections(db, HistoryFilter()))
    assert "cannot be written: can't start new thread" in log[0]
    await world.until(lambda: world.rows() == 1)
    await world.until(lambda: len(log) == 2)
    assert "can be written again; lost so far: 0" in log[1]
    assert len(await world.history.run(lambda db: connections(db, HistoryFilter()))) == 1
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_an_index_that_is_cut_off_ends_nothing(path: Path, log: list[str]) -> None:
    """SQLite maps it: without its pages, to read it is SIGBUS, which ends the process."""
    world = World(path)
    world.history.startService()
    world.notify("closed", closed(id=1))
    await world.until(lambda: world.rows() == 1)
    await world.idle()
    index = Path(f"{path}-shm")
    size = index.stat().st_size
    for length in (0, 1, size - 1):
        os.truncate(index, length)
        found = await world.history.run(lambda db: connections(db, HistoryFilter()))
        os.truncate(index, length)
        world.notify("closed", closed(id=2))
        world.clock.advance(1.0)
        await world.idle()
        assert (index.stat().st_size, world.rows()) == (size, len(found) + 1)
    os.truncate(index, 0)
    await world.stop()
    assert (world.rows(), log) == (4, [])


@pytest_twisted.ensureDeferred
async def test_files_that_are_emptied_are_made_anew(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    world.monitor.counters.carry_over(Totals(3, 4, 5))
    world.notify("closed", *(closed(id=each) for each in (1, 2, 3)))
    await world.until(lambda: world.rows() == 3)
    await world.idle()
    lost_before = files.lost["history"]
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        os.truncate(each, 0)
    world.notify("closed", closed(id=4))
    await world.until(lambda: bool(log))
    assert "the file was emptied: begun anew" in log[0]
    assert files.lost["history"] == lost_before + 1
    await world.until(lambda: path.exists() and path.stat().st_size > 0 and world.rows() == 1)
    await world.until(lambda: world.rows("counters") == 3)
    await world.stop()
    assert (world.rows(), world.history.dropped, log[1:]) == (1, 0, [])


@pytest_twisted.ensureDeferred
async def test_a_batch_that_went_into_a_file_that_is_gone_is_written_again(
    path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write

    def removing(*arguments: Any) -> list[Exception]:
        if not log:
            path.unlink()  # after it was looked for, and before it is written to
        return write(*arguments)

    world = World(path)
    world.history.startService()
    await world.until(lambda: world.rows("events") == 1)
    monkeypatch.setattr(store, "write", removing)
    world.notify("closed", closed(), closed())
    await world.until(lambda: path.exists() and bool(log) and world.rows() == 2)
    assert world.history.dropped == 0
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_no_file_can_be_made_anew_for_a_while(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    await world.until(lambda: world.rows("events") == 1)
    path.rename(path.with_name("moved"))
    path.write_text("dear diary, " * 1000)
    world.notify("closed", closed())
    await world.until(lambda: bool(log))
    for _ in range(3):
        world.clock.advance(1.0)
        await deferLater(world.reactor, 0.05)
    (line,) = log
    assert "is not a database" in line
    assert path.read_text().startswith("dear diary, ")
    path.unlink()
    await world.until(lambda: path.exists() and len(log) == 3 and world.rows() == 1)
    assert "begun anew" in log[1]
    assert "can be written again; lost so far: 0" in log[2]
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_folder_in_the_place_of_the_file_is_named_once(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    await world.until(lambda: world.rows("events") == 1)
    path.unlink()
    path.mkdir()
    await world.until(lambda: bool(log))
    assert log == [
        f"history: {path}: is a folder, and no regular file: nothing can be written for now"
    ]
    path.rmdir()
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_file_that_comes_back(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    world.notify("closed", closed(id=1))
    await world.until(lambda: world.rows() == 1)
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    world.notify("closed", closed(id=2))
    await world.until(lambda: bool(log))
    assert "no such file or directory" in log[0]
    moved.rename(path.parent)
    await world.until(lambda: path.exists() and world.rows() == 2)
    assert world.history.dropped == 0
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_lock_file_that_is_removed_is_made_anew(path: Path, log: list[str]) -> None:
    world = World(path)
    world.history.startService()
    lock = Path(f"{path}.lock")
    lock.unlink()
    await world.until(lock.exists)
    with pytest.raises(FileError, match="another monconn writes it"):
        schema.lock(str(path))
    # Removed again, and another program is there before us: nothing is written beside it.
    lock.unlink()
    other = schema.lock(str(path))
    world.notify("closed", closed())
    await world.until(lambda: bool(log))
    assert "another monconn writes it" in log[0]
    assert world.rows() == 0
    os.close(other)
    await world.until(lambda: world.rows() == 1)
    assert world.history.dropped == 0
    await world.stop()


# -- many queries


@pytest_twisted.ensureDeferred
async def test_queries_do_not_queue_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked, each is answered, or refused at once."""
    monkeypatch.setattr(service, "MOST_QUERIES", 5)
    world = World(path)
    world.history.startService()
    wait = threading.Event()
    asked = [world.history.run(lambda db: wait.wait(WAIT_SECONDS)) for _ in range(5)]
    for _ in range(100):
        with pytest.raises(Busy, match="too many queries at a time: ask again later"):
            await world.history.run(lambda db: connections(db, HistoryFilter()))
    wait.set()
    assert [await each for each in asked] == [True] * 5
    assert await world.history.run(lambda db: connections(db, HistoryFilter())) == []
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_who_has_waited_too_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "QUERY_SECONDS", 0.3)
    world = World(path)
    world.history.startService()
    asked = [world.history.run(endless) for _ in range(2)]  # takes both readers
    late = [world.history.run(lambda db: connections(db, HistoryFilter())) for _ in range(4)]
    for each in asked:
        with pytest.raises(FileError, match="took longer"):
            await each
    for each in late:
        with suppress(FileError):  # too many at a time, if the machine is slow
            assert await each == []
    world.history._queries = 0
    with pytest.raises(Busy, match="too many queries at a time"):
        world.history._query(lambda db: connections(db, HistoryFilter()), time.monotonic() - 1)
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_reader_that_hangs_does_not_delay_the_stop(path: Path) -> None:
    world = World(path)
    world.history.startService()
    answers = threading.Event()
    asked = world.history.run(lambda db: answers.wait(WAIT_SECONDS))
    await world.stop()
    assert not asked.called
    answers.set()
    assert await asked is True
