"""Writes the history, and runs queries on it."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from monconn import files
from monconn._version import __version__
from monconn.addresses import Network
from monconn.clock import Clock
from monconn.config.sections import HistoryConfig
from monconn.errors import Busy, FileError, os_error_text
from monconn.log import Logger
from monconn.model.devices import StoredDevice
from monconn.model.totals import Totals
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks.history import devices, file_time, schema, store
from monconn.sinks.history.devices import DeviceSource, OpenAlarm
from monconn.sinks.history.file_time import LEAP_SECONDS, FileTime, Stretch
from monconn.sinks.history.forget import Removal, empty_log, overwrite
from monconn.sinks.history.retention import prune
from monconn.sinks.history.schema import OPEN_SECONDS, limited, no_history, open_read_only
from monconn.sinks.history.store import Event, Item
from monconn.sinks.history.write_queue import WriteQueue
from monconn.turns import in_turns
from monconn.units import format_duration

T = TypeVar("T")

_RESTARTED = "monconn was restarted"
_LOAD_PAUSES_SECONDS = (1.0, 2.0, 4.0)

FOLLOWED = frozenset({"keep", "max_size"})
"""The keys of the configuration that hold at once when it is changed."""
WRITE_SECONDS = 1.0
QUERY_SECONDS = 10.0
STOP_SECONDS = 2.0
OVERWRITE_SECONDS = 300.0
"""How long the file may be made anew at most, once a client's rows are removed."""
EMPTY_LOG_TRIES = 25
"""How often it is tried to empty the log, while queries read what it had before."""
READERS = 2
MOST_QUERIES = 16
"""The most queries that may run or wait; whoever asks more is told at once."""
_PRUNE_SECONDS = 60.0
_REFUSED_LINE_SECONDS = 60.0
_LIVE_PER_TICK = 10_000
DEVICES_SECONDS = 60.0
"""How often devices are stored that have changed; those whose alarms have, are at once."""
DEVICES_PER_TICK = 500
"""They are taken in one turn of the loop: 3 ms."""
_TIMES_AT_STOP = 10
"""How many times as many at once when no connection waits any more."""


@attrs.frozen
class _Batch:
    """What is written together."""

    items: list[Item]
    totals: dict[str, Totals]
    run: float
    stretches: list[Stretch]
    devices: list[StoredDevice]
    forgotten: list[tuple[str, str]]


@attrs.frozen
class Forgotten:
    """What was removed of a client, or of a dry run, what would be.

    :param counts: how many rows, by what they are (:data:`monconn.sinks.history.forget.COUNTED`).
    :param problem: why bytes of them may be left in the file; empty if there are none.
    """

    counts: dict[str, int]
    problem: str = ""


class HistoryService(Service):
    """Writes events once a second, in a thread, and removes those that are too old.

    :param config: which file, and how much to retain.
    :param registry: the monitors to observe; later ones are observed, too.
    :param reactor: an ``IReactorThreads``.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(
        self, config: HistoryConfig, registry: Registry, reactor: Any, clock: Clock
    ) -> None:
        self._config = config
        self._registry = registry
        self._reactor = reactor
        self._clock = clock
        self._queue = WriteQueue(clock)
        self._totals: dict[str, Totals] = {}
        """The counters as they are in the file."""
        self._last: dict[str, Totals] = {}
        """The counters of deleted monitors, until they are in the file."""
        self._resumed: WeakSet[Monitor] = WeakSet()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock  # type: ignore[assignment]  # uses these two methods only
        self._ticks = 0
        self._lock = -1
        self._next_prune = 0.0
        self._next_refused_line = 0.0
        self._is_failing = False
        self._lost = 0
        self._lost_reported = 0
        self._saving: Deferred[None] | None = None
        self._batches = DeferredLock()
        """Held while a batch is taken out of the queue and written: there is one at a time."""
        self._queries = 0
        self._devices: DeviceSource | None = None
        self._next_devices = 0.0
        self._unsaved: tuple[list[StoredDevice], list[tuple[str, str]]] = ([], [])
        """The devices taken last, until they are in the file."""
        self._to_restore: list[str] = []
        """Services whose devices are to be restored."""
        self._restoring: Deferred[None] | None = None
        self._is_forgetting = False
        registry.observe(self._queue)
        registry.when_added(self._resume)
        registry.when_deleted(self._note_last)

    def keep_devices(self, source: DeviceSource) -> None:
        """Store devices from now on, and restore those of earlier runs; called before the start."""
        self._devices = source
        source.store_changes()

    def apply_config(self, config: HistoryConfig) -> None:
        """Have other limits on what is retained; they hold from the next removal of old rows on."""
        self._config = attrs.evolve(config, path=self._config.path)
        self._next_prune = self._clock.seconds()

    @property
    def dropped(self) -> int:
        """How many items are not in the file because they could not be written."""
        return self._queue.dropped + self._lost

    # -- start and stop

    def startService(self) -> None:
        """Open the file, and continue the counters that it has.

        :raises FileError: it cannot be opened.
        """
        config = self._config
        path = config.path
        self._lock = schema.lock(path)
        try:
            file = _open_file(path, config.max_size)
        except FileError:
            os.close(self._lock)
            raise
        self._run_started_at = time.time()
        self._is_stopping = False
        self._totals = file.totals
        self._writers, self._readers = _pool(1), _pool(READERS)
        super().startService()
        for monitor in self._registry:
            self._resume(monitor)
        self._queue.add(Event(self._run_started_at, "started", detail=f"monconn {__version__}"))
        self._use(file)
        self._next_prune = self._next_devices = self._clock.seconds()
        self._has_checked_services, self._started = False, self._next_prune
        if self._devices is not None:
            self._restoring = Deferred.fromCoroutine(self._begin_with_devices())
            self._restoring.addErrback(self._log_failure)
        self._ticking.start(WRITE_SECONDS, now=False).addErrback(self._log_failure)

    def _use(self, file: _File) -> None:
        """Go on with a file that has been opened, and tell of a wall clock that is wrong."""
        self._db, self._identity = file.db, file.identity
        self._index = schema.restore_index(self._config.path, None)
        self._time = FileTime(file.stretches)
        gap = self._time.gap_seconds
        if gap <= -LEAP_SECONDS:
            self._note_leap(f"is behind the time of the file's last row by {format_duration(-gap)}")
        elif gap >= self._config.keep:
            self._note_leap(
                f"is ahead of the time of the file's last row by {format_duration(gap)}"
            )

    def _note_leap(self, text: str) -> None:
        self._log.warn("history: the wall clock {text}", text=text)
        self._queue.add(Event(time.time(), "clock", detail=text))

    def _check_clock(self) -> None:
        if leap := self._time.check():
            direction = "ahead" if leap > 0 else "back"
            self._note_leap(f"was set {direction} by {format_duration(abs(leap))}")

    def stopService(self) -> Deferred[None]:
        """Write what is queued, waiting for at most :data:`STOP_SECONDS`, and close the file."""
        if not self.running:
            return succeed(None)
        super().stopService()
        self._is_stopping = True
        if self._ticking.running:
            self._ticking.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        in_time: Deferred[bool] = Deferred()
        timer = self._clock.callLater(STOP_SECONDS, in_time.callback, False)

        def written(_: object) -> None:
            if timer.active():
                timer.cancel()
                in_time.callback(True)

        rest = Deferred.fromCoroutine(self._write_queued())
        rest.addErrback(self._log_failure).addCallback(written)
        if not await in_time:
            self._log.warn("history: {path} does not answer", path=self._config.path)
        os.close(self._lock)
        for pool in (self._writers, self._readers):
            # It joins the pool's threads, which may wait for a disk that does not answer.
            with suppress(RuntimeError):  # the system gives us no more threads
                _daemon_thread(target=_stop_pool, args=(pool,)).start()

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("writing the history failed", failure)

    async def _write_queued(self) -> None:
        if self._saving is not None:
            waiting: Deferred[None] = Deferred()
            self._saving.addBoth(lambda _: waiting.callback(None))
            await waiting
        async with self._batches:
            self._check_clock()
            self._queue.add(Event(time.time(), "stopped"))
            if not await self._save(self._changed_totals()):
                await self._save(self._changed_totals())  # into a file that was begun anew for it
            self._take_devices(at_once=True)
            while any(self._unsaved) and await self._save({}):
                self._take_devices(at_once=True)
            await self._in_writer(lambda db: db.close())  # SQLite removes its log with the last one

    # -- counters

    def _resume(self, monitor: Monitor) -> None:
        """Have a monitor continue the counters that the file has of its service."""
        if not self.running or monitor in self._resumed:
            return
        self._resumed.add(monitor)
        totals = self._last.get(monitor.name, self._totals.get(monitor.name))
        if self._config.resume_counters and totals is not None:
            monitor.counters.carry_over(totals)
        if self._devices is not None:
            self._to_restore.append(monitor.name)
            if self._restoring is not None and self._restoring.called:
                self._restoring = Deferred.fromCoroutine(self._restore_devices())
                self._restoring.addErrback(self._log_failure)

    def _note_last(self, monitor: Monitor) -> None:
        if self.running:
            self._last[monitor.name] = monitor.totals()

    def _changed_totals(self) -> dict[str, Totals]:
        now = self._last | {monitor.name: monitor.totals() for monitor in self._registry}
        return {name: totals for name, totals in now.items() if totals != self._totals.get(name)}

    def _counts_live_bytes(self) -> bool:
        """Whether this tick counts live connections' bytes: if there are many, not each does."""
        live = sum(len(monitor) for monitor in self._registry)
        return self._ticks % (1 + live // _LIVE_PER_TICK) == 0

    # -- devices

    async def _end_alarms(self, when: Callable[[], Awaitable[list[OpenAlarm]]], why: str) -> None:
        """End alarms that nobody would end any more."""
        try:
            ended = await when()
        except (sqlite3.Error, OSError, FileError) as error:
            self._log_devices(error)
            return
        for service, device, kind in ended:
            now = time.time()
            self._queue.add(Event(now, "alarm", service, device, device, kind, True, 1, why))

    async def _begin_with_devices(self) -> None:
        await self._end_alarms(lambda: self.run(devices.open_service_alarms), _RESTARTED)
        await self._end_alarms(lambda: self.run(devices.open_alarms), _RESTARTED)
        await self._restore_devices()

    async def _end_alarms_elsewhere(self) -> None:
        services = self._registry.names()
        await self._end_alarms(
            lambda: self._in_writer(lambda db: devices.end_alarms_elsewhere(db, services)),
            "there is no such service any more",
        )

    async def _restore_devices(self) -> None:
        """Have the devices of services go on; page by page, in the threads for queries."""
        source = self._devices
        while source is not None and self._to_restore and self.running:
            service = self._to_restore.pop(0)
            unusable = 0
            after: tuple[float, str] | None = (math.inf, "")
            try:
                while after is not None:
                    page = await self._next_page(service, after)
                    await in_turns(self._clock, source.restore(service, page.devices))
                    unusable += page.unusable
                    after = page.next
            except (sqlite3.Error, OSError, FileError) as error:
                if not self.running:
                    return  # those that are not restored stay as they are in the file
                self._log_devices(error)
            if unusable:
                self._log_devices(f"{unusable} of {service} have values that no device can have")
            source.restored(service)

    async def _next_page(self, service: str, after: tuple[float, str]) -> devices.Page:
        for pause in (*_LOAD_PAUSES_SECONDS, None):
            try:
                return await self.run(lambda db: devices.load(db, service, after))
            except FileError:  # many others may ask at this moment
                if pause is None or not self.running:
                    raise
                await deferLater(self._clock, pause)  # type: ignore[arg-type]
        raise AssertionError

    def _log_devices(self, error: object) -> None:
        self._log.warn(
            "history: {path}: not every device can go on from the last run: {error}",
            path=self._config.path,
            error=error,
        )

    def _take_devices(self, *, at_once: bool = False) -> None:
        """Take some that have changed, if it is time and all taken before are in the file."""
        if self._devices is None or any(self._unsaved):
            return
        now = self._clock.seconds()
        if at_once or self._devices.has_urgent or now >= self._next_devices:
            most = DEVICES_PER_TICK * (_TIMES_AT_STOP if self._is_stopping else 1)
            self._unsaved = self._devices.take_changed(most)
            if not any(self._unsaved):
                self._next_devices = now + DEVICES_SECONDS

    # -- writing

    def _tick(self) -> Deferred[None]:
        self._ticks += 1
        self._check_clock()
        totals = self._changed_totals() if self._counts_live_bytes() else {}
        self._saving = Deferred.fromCoroutine(self._save_and_prune(totals))
        return self._saving

    async def _save_and_prune(self, totals: dict[str, Totals]) -> None:
        async with self._batches:
            all_are_there = self._clock.seconds() >= self._started + DEVICES_SECONDS
            if self._devices is not None and all_are_there and not self._has_checked_services:
                self._has_checked_services = True
                await self._end_alarms_elsewhere()
            is_written = await self._save(totals)
            if is_written and self._clock.seconds() >= self._next_prune and await self._prune():
                self._log_recovery()

    async def _save(self, totals: dict[str, Totals]) -> bool:
        """Write what is queued; returns False if it must be tried again."""
        self._take_devices()
        items = [*self._queue.take(), *self._lost_event()]
        stretches = self._time.changed()
        batch = _Batch(items, totals, self._run_started_at, stretches, *self._unsaved)
        try:
            errors = await self._in_writer(lambda db: self._write(db, batch))
        except (schema.FileReplaced, sqlite3.OperationalError, OSError) as error:
            # It may be over soon: the file is locked, or the disk full, or the folder unreadable.
            self._queue.put_back(items)
            if isinstance(error, schema.FileReplaced):
                await self._begin_anew(error)
            else:
                self._log_error(error)
            return False
        except Exception as error:
            self._queue.done()
            self._unsaved = ([], [])
            self._lost += len(items)
            self._log_error(error)
            return False
        self._queue.done()
        has_devices, self._unsaved = any(self._unsaved), ([], [])
        self._lost += len(errors)
        if errors and self._clock.seconds() >= self._next_refused_line:
            self._next_refused_line = self._clock.seconds() + _REFUSED_LINE_SECONDS
            self._log.warn(
                "history: {path}: {count} cannot be stored and are lost, one of them as: {error}",
                path=self._config.path,
                count=len(errors),
                error=errors[0],
            )
        if items or totals or has_devices:
            self._next_prune = self._clock.seconds()
        self._totals.update(totals)
        self._last = {name: last for name, last in self._last.items() if last != totals.get(name)}
        return True

    def _write(self, db: sqlite3.Connection, batch: _Batch) -> list[Exception]:
        """Write a batch; called in the thread.

        :raises FileReplaced: the file is not under its path any more. The batch is to be written
            again: one that was written into a file that is gone is lost.
        """
        path, before = self._config.path, self._identity
        if not schema.is_locked(path, self._lock):
            self._lock_again()
        self._check_identity(before)
        if not (batch.items or batch.totals or batch.devices or batch.forgotten):
            return []
        if schema.log_size(path) > self._config.max_size:
            raise sqlite3.OperationalError("another program reads it and does not stop")
        errors = store.write(
            db,
            batch.items,
            batch.totals,
            batch.run,
            batch.stretches,
            batch.devices,
            batch.forgotten,
        )
        self._check_identity(before)
        return errors

    def _check_identity(self, known: schema.Identity) -> None:
        """Compare inodes: SQLite goes on writing into a file that has no name any more."""
        (file, log), (now_file, now_log) = known, schema.identity(self._config.path)
        if now_file != file:
            raise schema.FileReplaced("the file was moved, removed or replaced")
        if schema.is_emptied(self._config.path, known):
            raise schema.FileReplaced("the file was emptied")
        if log is None:
            self._identity = (file, now_log)  # there is one from the first write on
        elif now_log != log:
            raise schema.FileReplaced("its write-ahead log (-wal) was moved, removed or replaced")

    def _lock_again(self) -> None:
        """Make a lock file anew that was removed; called in the thread."""
        try:
            lock = schema.lock(self._config.path)
        except FileError as error:  # somebody has made one before us
            raise sqlite3.OperationalError(str(error)) from None
        os.close(self._lock)
        self._lock = lock

    async def _begin_anew(self, error: schema.FileReplaced) -> None:
        """Open what is under the path now, or create a file, for the next batch."""
        config, known = self._config, self._identity

        def open_again(db: sqlite3.Connection) -> _File:
            if schema.is_emptied(config.path, known):
                os.unlink(config.path)  # else it gets the log's pages below, and lacks all others
            # A file that was moved without its log gets what that has. SQLite leaves the log of a
            # file that has no name behind, and would take it for the next file's.
            with suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.close()
            self._identity = schema.GONE  # so that a file that comes back is opened again, too
            schema.remove_log(config.path, known)
            return _open_file(config.path, config.max_size)

        try:
            file = await self._in_writer(open_again)
        except Exception as failure:  # the folder is gone, or another program's file is there
            self._log_error(failure)
            return
        files.lost["history"] += 1
        self._log.warn("history: {path}: {error}: begun anew", path=config.path, error=error)
        self._totals = {}  # all counters are written again
        if self._devices is not None:
            self._devices.store_changes()  # and all devices
        self._queue.add(Event(time.time(), "started", detail=f"{error}: begun anew"))
        self._use(file)

    def _lost_event(self) -> list[Item]:
        """An event that counts the items lost before, once the file can be written again."""
        lost = self.dropped - self._lost_reported
        if not lost or self._is_failing:
            return []
        self._lost_reported += lost
        return [Event(time.time(), "lost", count=lost)]

    async def _prune(self) -> bool:
        """Remove rows that are too old or too many; returns False if that failed."""
        has_more = False
        self._time.forget(self._config.keep)
        stretches = self._time.stretches()
        try:
            has_more = await self._in_writer(lambda db: self._prune_in(db, stretches))
        except Exception as error:
            self._log_error(error)
            return False
        finally:
            self._next_prune = self._clock.seconds() + (0.0 if has_more else _PRUNE_SECONDS)
        return True

    def _prune_in(self, db: sqlite3.Connection, stretches: list[Stretch]) -> bool:
        """Remove rows; called in the thread."""
        config = self._config
        file_time.remove(db, stretches)
        return prune(db, config.path, config.keep, config.max_size, time.time(), stretches)

    async def _in_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Use the writing connection in its thread, or here while the reactor does not run yet."""
        path = self._config.path

        def use(db: sqlite3.Connection) -> T:
            self._index = schema.restore_index(path, self._index)
            try:
                return work(db)
            finally:
                self._index = schema.restore_index(path, self._index)  # it may have grown

        if not self._reactor.running:
            return use(self._db)
        result: T = await self._in_pool(self._writers, use, self._db)
        return result

    def _in_pool(self, pool: ThreadPool, work: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Call something in a thread of a pool.

        :raises OSError: EAGAIN, if the system gives us no thread for it.
        """
        try:
            result: Deferred[T] = deferToThreadPool(self._reactor, pool, work, *arguments)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        return result

    def _log_error(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            if isinstance(error, FileError):  # which names the file
                self._log.warn("{error}: nothing can be written for now", error=error)
                return
            self._log.warn(
                "history: {path} cannot be written: {error}",
                path=self._config.path,
                error=os_error_text(error) if isinstance(error, OSError) else error,
            )

    def _log_recovery(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._log.info(
                "history: {path} can be written again; lost so far: {dropped}",
                path=self._config.path,
                dropped=self.dropped,
            )

    # -- forgetting clients

    def forget(self, network: Network, *, dry_run: bool = False) -> Deferred[Forgotten]:
        """Remove all that the file has of a network's clients; nothing waits for that.

        What is queued is written before, and is removed, too. Between its parts what happens goes
        on being written; while the file is made anew at the end it is queued.

        :param dry_run: only count.
        :returns: fires once it is done, or fails with a ``FileError``; what was removed by then is.
        """
        if not self.running:
            return fail(no_history(self._config.path, "the history is closed"))
        if self._is_forgetting:
            text = "a client is being removed: ask again later"
            return fail(no_history(self._config.path, text, Busy))
        if self._restoring is not None and not self._restoring.called and not dry_run:
            # Else those that have been read, and are not in memory yet, would be stored again.
            text = "devices are being read: ask again later"
            return fail(no_history(self._config.path, text, Busy))
        self._is_forgetting = True

        def ended(result: Any) -> Any:
            self._is_forgetting = False
            return result

        removal = Removal(network, dry_run)
        work = self._count(removal) if dry_run else self._forget(removal)
        return Deferred.fromCoroutine(work).addBoth(ended).addErrback(self._explain)

    async def _count(self, removal: Removal) -> Forgotten:
        while await self.run(removal.work):
            pass
        return Forgotten(dict(removal.counts))

    async def _forget(self, removal: Removal) -> Forgotten:
        async with self._batches:
            if not await self._save({}):
                raise no_history(self._config.path, "cannot be written: the log says why")
        while await self._in_part(removal.work):
            pass
        store.forget_addresses()
        try:
            await self._in_part(overwrite)
            problem = await self._empty_log()
        except (sqlite3.Error, FileError) as error:  # all rows are removed nevertheless
            problem = str(error)
        return Forgotten(dict(removal.counts), problem)

    async def _empty_log(self) -> str:
        for _ in range(EMPTY_LOG_TRIES):
            if await self._in_part(empty_log):
                return ""
            await deferLater(self._clock, WRITE_SECONDS / 2)  # type: ignore[arg-type]
        return "another program reads the file, and keeps its log (-wal) from being emptied"

    async def _in_part(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in the writing thread between two batches, until the history is closed."""
        path = self._config.path

        def use(db: sqlite3.Connection) -> T:
            self._check_identity(self._identity)
            with limited(db, path, OVERWRITE_SECONDS, lambda: self._is_stopping):
                return work(db)

        async with self._batches:
            if self._is_stopping:
                raise no_history(path, "the history is closed")
            return await self._in_writer(use)

    # -- reading

    def run(self, query: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Run a query in a thread, over a connection that cannot write.

        :param query: called in the thread.
        :returns: fires with its result, or fails with a ``FileError`` if it took longer than
            :data:`QUERY_SECONDS` or the file cannot be read.
        """
        if not self.running:
            return fail(no_history(self._config.path, "the history is closed"))
        if self._queries >= MOST_QUERIES:
            return fail(self._busy())
        try:
            answer = self._in_pool(self._readers, self._query, query, time.monotonic())
        except OSError as error:
            return fail(no_history(self._config.path, os_error_text(error)))
        self._queries += 1
        answer.addBoth(self._answered)
        return answer.addErrback(self._explain)

    def _answered(self, result: T) -> T:
        self._queries -= 1
        return result

    def _busy(self) -> FileError:
        return no_history(self._config.path, "too many queries at a time: ask again later", Busy)

    def _query(self, query: Callable[[sqlite3.Connection], T], asked: float) -> T:
        """Run a query; called in a thread."""
        if time.monotonic() > asked + QUERY_SECONDS:
            raise self._busy()  # whoever asked may have gone; so a long queue gets short at once
        # SQLite shares the index of the log between all connections of a process.
        schema.restore_index(self._config.path, self._index)
        # Opened for each query, which costs a millisecond: it is the file that is there now.
        with (
            closing(open_read_only(self._config.path)) as db,
            limited(db, self._config.path, QUERY_SECONDS, lambda: self._is_stopping),
        ):
            return query(db)

    def _explain(self, failure: Failure) -> NoReturn:
        if failure.check(sqlite3.Error, schema.FileReplaced):
            raise no_history(self._config.path, f"cannot be read: {failure.value}") from None
        failure.raiseException()


@attrs.frozen
class _File:
    """A file that is open for writing, as it was before."""

    db: sqlite3.Connection
    identity: schema.Identity
    totals: dict[str, Totals]
    stretches: list[Stretch]


def _open_file(path: str, max_size: int) -> _File:
    """Open a file and read what is needed to go on with it; it is created if there is none."""
    db = schema.open_for_writing(path, max_size)
    try:
        with limited(db, path, OPEN_SECONDS):
            return _File(db, schema.identity(path), store.load_totals(db), file_time.load(db))
    except (OSError, sqlite3.Error) as error:
        db.close()
        raise no_history(path, f"cannot be read: {os_error_text(error)}") from None


def _pool(threads: int) -> ThreadPool:
    """Daemon threads: a disk that does not answer must not keep the program from ending."""
    pool = ThreadPool(minthreads=0, maxthreads=threads, name="history")
    pool.threadFactory = _daemon_thread  # type: ignore[assignment]
    pool.start()
    return pool


def _stop_pool(pool: ThreadPool) -> None:
    with suppress(RuntimeError):  # one of its threads could not be started, nor be joined now
        pool.stop()


def _daemon_thread(*args: Any, **kwargs: Any) -> threading.Thread:
    return threading.Thread(*args, daemon=True, **kwargs)
