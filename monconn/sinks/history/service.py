"""Writes the history, and runs queries on it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

from twisted.application.service import Service
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from monconn._version import __version__
from monconn.clock import Clock
from monconn.config.sections import HistoryConfig
from monconn.errors import FileError
from monconn.log import Logger
from monconn.model.totals import Totals
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks.history import schema, store
from monconn.sinks.history.retention import prune
from monconn.sinks.history.schema import LOCKED_SECONDS, no_history
from monconn.sinks.history.store import Event, Item
from monconn.sinks.history.write_queue import WriteQueue

T = TypeVar("T")

WRITE_SECONDS = 1.0
QUERY_SECONDS = 10.0
STOP_SECONDS = 2.0
_PRUNE_SECONDS = 60.0
_LIVE_PER_TICK = 10_000
_STEPS_PER_CHECK = 10_000


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
        self._is_failing = False
        self._lost = 0
        self._lost_reported = 0
        self._saving: Deferred[None] | None = None
        registry.observe(self._queue)
        registry.when_added(self._resume)
        registry.when_deleted(self._note_last)

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
            self._totals = _totals_in(path, config.max_size)
        except FileError:
            os.close(self._lock)
            raise
        self._run_started_at = time.time()
        self._is_stopping = False
        self._writer = self._pool(path, 1, cp_openfun=lambda db: schema.set_up(db, config.max_size))
        uri = Path(path).absolute().as_uri() + "?mode=ro"
        self._reader = self._pool(uri, 2, uri=True)
        super().startService()
        for monitor in self._registry:
            self._resume(monitor)
        self._queue.add(Event(self._run_started_at, "started", detail=f"monconn {__version__}"))
        self._next_prune = self._clock.seconds()
        self._ticking.start(WRITE_SECONDS, now=False).addErrback(self._log_failure)

    def _pool(self, database: str, threads: int, **options: Any) -> ConnectionPool:
        pool = ConnectionPool(
            "sqlite3",
            database,
            timeout=LOCKED_SECONDS,
            check_same_thread=False,  # opened in a pool's thread, closed in the reactor's
            cp_min=0,  # no thread is started before the next statement makes them daemons
            cp_max=threads,
            cp_reactor=self._reactor,
            **options,
        )
        # Daemon threads: a disk that does not answer must not keep the program from ending.
        pool.threadpool.threadFactory = _daemon_thread  # type: ignore[assignment]
        return pool

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
        is_in_time = await in_time
        if not is_in_time:
            self._log.warn("history: {path} does not answer", path=self._config.path)
        os.close(self._lock)
        for pool in (self._reader, self._writer):  # SQLite removes its log when the last one closes
            if is_in_time:
                pool.close()
            else:
                _abandon(pool)

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("writing the history failed", failure)

    async def _write_queued(self) -> None:
        if self._saving is not None:
            waiting: Deferred[None] = Deferred()
            self._saving.addBoth(lambda _: waiting.callback(None))
            await waiting
        self._queue.add(Event(time.time(), "stopped"))
        await self._save(self._changed_totals())

    # -- counters

    def _resume(self, monitor: Monitor) -> None:
        """Have a monitor continue the counters that the file has of its service."""
        if not self.running or monitor in self._resumed:
            return
        self._resumed.add(monitor)
        totals = self._last.get(monitor.name, self._totals.get(monitor.name))
        if self._config.resume_counters and totals is not None:
            monitor.carry_over(totals)

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

    # -- writing

    def _tick(self) -> Deferred[None]:
        self._ticks += 1
        totals = self._changed_totals() if self._counts_live_bytes() else {}
        self._saving = Deferred.fromCoroutine(self._save_and_prune(totals))
        return self._saving

    async def _save_and_prune(self, totals: dict[str, Totals]) -> None:
        is_written = await self._save(totals)
        if is_written and self._clock.seconds() >= self._next_prune and await self._prune():
            self._log_recovery()

    async def _save(self, totals: dict[str, Totals]) -> bool:
        """Write what is queued; returns False if it must be tried again."""
        items = [*self._queue.take(), *self._lost_event()]
        if not (items or totals):
            return True
        run = self._run_started_at
        try:
            await self._in_writer(lambda db: self._write(db, items, totals, run))
        except sqlite3.OperationalError as error:  # locked or full: may be over soon
            self._queue.put_back(items)
            self._log_error(error)
            return False
        except Exception as error:
            self._queue.done()
            self._lost += len(items)
            self._log_error(error)
            return False
        self._queue.done()
        self._totals.update(totals)
        self._last = {name: last for name, last in self._last.items() if last != totals.get(name)}
        self._next_prune = self._clock.seconds()
        return True

    def _write(
        self, db: sqlite3.Connection, items: list[Item], totals: dict[str, Totals], run: float
    ) -> None:
        """Write a batch; called in the thread."""
        if schema.log_size(self._config.path) > self._config.max_size:
            raise sqlite3.OperationalError("another program reads it and does not stop")
        store.write(db, items, totals, run)

    def _lost_event(self) -> list[Item]:
        """An event that counts the items lost before, once the file can be written again."""
        lost = self.dropped - self._lost_reported
        if not lost or self._is_failing:
            return []
        self._lost_reported += lost
        return [Event(time.time(), "lost", count=lost)]

    async def _prune(self) -> bool:
        """Remove rows that are too old or too many; returns False if that failed."""
        config = self._config
        has_more = False
        try:
            has_more = await self._in_writer(
                lambda db: prune(db, config.path, config.keep, config.max_size, time.time())
            )
        except Exception as error:
            self._log_error(error)
            return False
        finally:
            self._next_prune = self._clock.seconds() + (0.0 if has_more else _PRUNE_SECONDS)
        return True

    async def _in_writer(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Use the writing connection in its thread, or here while the reactor does not run yet."""
        pool = self._writer
        if not pool.running:
            return work(pool.connect())
        result: T = await pool.runWithConnection(lambda _: work(pool.connect()))
        return result

    def _log_error(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.warn(
                "history: {path} cannot be written: {error}", path=self._config.path, error=error
            )

    def _log_recovery(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._log.info(
                "history: {path} can be written again; lost so far: {dropped}",
                path=self._config.path,
                dropped=self.dropped,
            )

    # -- reading

    def run(self, query: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Run a query in a thread, over a connection that cannot write.

        :param query: called in the thread.
        :returns: fires with its result, or fails with a ``FileError`` if it took longer than
            :data:`QUERY_SECONDS` or the file cannot be read.
        """
        if not self.running:
            return fail(no_history(self._config.path, "the history is closed"))
        answer: Deferred[T] = self._reader.runWithConnection(lambda _: self._query(query))
        return answer.addErrback(self._explain)

    def _query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; called in a thread."""
        until = time.monotonic() + QUERY_SECONDS
        db = self._reader.connect()
        # The one way to interrupt a statement from within: SQLite calls it every so many of its
        # virtual machine's instructions.
        db.set_progress_handler(
            lambda: self._is_stopping or time.monotonic() > until, _STEPS_PER_CHECK
        )
        try:
            return query(db)
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise no_history(
                    self._config.path,
                    f"this took longer than {QUERY_SECONDS:g} s: ask for a shorter period",
                ) from None
            raise

    def _explain(self, failure: Failure) -> NoReturn:
        if failure.check(sqlite3.Error):
            raise no_history(self._config.path, f"cannot be read: {failure.value}") from None
        failure.raiseException()


def _totals_in(path: str, max_size: int) -> dict[str, Totals]:
    """The counters of the previous run; creates the file if there is none."""
    db = schema.open_for_writing(path, max_size)
    try:
        return store.load_totals(db)
    except sqlite3.Error as error:
        raise no_history(path, f"cannot be read: {error}") from None
    finally:
        db.close()


def _daemon_thread(*args: Any, **kwargs: Any) -> threading.Thread:
    return threading.Thread(*args, daemon=True, **kwargs)


def _abandon(pool: ConnectionPool) -> None:
    """Do not wait for a pool's threads, not even when the reactor stops."""
    # adbapi has no public way to close a pool without joining its threads, which wait for a disk
    # that does not answer; a test names the two attributes.
    if pool.shutdownID is not None:
        pool._reactor.removeSystemEventTrigger(pool.shutdownID)
        pool.shutdownID = None
