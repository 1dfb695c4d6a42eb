"""What outlasts the program: stored while it runs, and restored when it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from weakref import WeakSet

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.config.sections import StateConfig
from monconn.errors import MonconnError, os_error_text
from monconn.files import (
    explained,
    file_name,
)
from monconn.log import Logger
from monconn.monitor.blocking import Blocking
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.monitor.subscriptions import Cancel
from monconn.policy.blocks import Block
from monconn.processes import InUse, take_flock
from monconn.run.state_file import (
    State,
    StoredBlock,
    StoredUnblock,
    in_use,
    lock_path,
    no_state,
    not_kept,
    path_of,
    read_state,
    write_state,
)
from monconn.turns import in_turns

SOON_SECONDS = 0.05
"""How long after a change it is written: what changes at once is written at once."""
LEAST_PAUSE_SECONDS = 1.0
"""From one writing to the next; ten times as long as it takes if that is more."""
RETRY_SECONDS = 10.0
STOP_SECONDS = 5.0
"""How long the program's end waits for the disk."""
_STEP = 64


class StateService(Service):
    """Restores at the start what an earlier run has blocked, and stores what changes.

    Blocks of services that there are not are stored on, for when they come.

    :param config: where the file is.
    :param registry: the monitors, and what is blocked at all of them.
    :param clock: monotonic time and timers.
    :param run: does work in a thread: :func:`~monconn.background.run_in_thread`, but for the
        reactor and the name.
    """

    _log = Logger()

    def __init__(
        self,
        config: StateConfig,
        registry: Registry,
        clock: Clock,
        run: Callable[[Callable[[], object], Callable[[Exception | None], object]], object],
    ) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._run = run
        self.path = path_of(config)
        self.failures = 0
        """How often the file could not be written."""
        self.is_kept = False
        """Whether what is blocked outlasts the program, as long as its file can be written."""
        self._lock: int | None = None
        self._absent: dict[str, tuple[list[StoredBlock], list[StoredUnblock]]] = {}
        self._cancels: list[Cancel] = []
        self._of_monitors: dict[Monitor, Cancel] = {}
        self._unfollowed = WeakSet[Monitor]()
        self._timer: IDelayedCall | None = None
        self._is_dirty = self._is_saving = self._is_failing = False
        self._next_save = 0.0
        self._when_saved: list[Deferred[None]] = []

    def keeps(self) -> bool:
        """Whether what is blocked now outlasts the program, as far as is known."""
        return self.is_kept and not self._is_failing

    # -- start and stop

    def privilegedStartService(self) -> None:
        """Lock the file before any service listens: a second program, which cannot have it, would
        take clients that it then has to reset.

        :raises FileError: another monconn has it.
        """
        try:
            self._take_lock()
        except OSError:  # startService says what is wrong, once twistd has given up root's rights
            pass

    def _take_lock(self) -> None:
        """Lock the file, unless that is done.

        :raises FileError: another monconn has it.
        :raises OSError: the file that is locked cannot be opened.
        """
        if self._lock is not None:
            return
        path = lock_path(self.path)
        try:
            self._lock = take_flock(path)
        except InUse as error:
            raise in_use(self.path, error.holder) from None
        if os.geteuid() == 0:  # the user that twistd changes to is to remove it, and to check it
            folder = os.stat(os.path.dirname(path))
            os.fchown(self._lock, folder.st_uid, folder.st_gid)

    def startService(self) -> None:
        """Lock the file, read it, and block what is in it.

        :raises FileError: it is damaged, cannot be made, or another monconn has it. Where no file
            is configured, one that cannot be made is only told.
        """
        try:
            if self._config.path is None:
                os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            self._take_lock()
        except OSError as error:
            error = explained(error, self.path)
            if self._config.path is not None:
                raise no_state(self.path, os_error_text(error)) from None
            self._log.warn("{problem}", problem=not_kept(self.path, error))
            return
        try:
            state = read_state(self.path)
        except MonconnError:
            self._release()
            raise
        super().startService()
        self.is_kept = True
        if state is not None:
            self._restore(state)
        registry = self._registry
        self._cancels = [
            registry.blocking.changes.add(self._changed),
            registry.unblocked.add(self._unblocked),
            registry.when_added(self._follow),
            registry.when_deleted(self._unfollow),
        ]
        for monitor in registry:
            self._follow(monitor)

    def stopService(self) -> Deferred[None]:
        """Store what there is now.

        :returns: fires when that is done, or has taken :data:`STOP_SECONDS`.
        """
        if not self.is_kept:
            if not self._is_saving:  # else it is stopping
                self._release()
            return succeed(None)
        self.is_kept = False
        super().stopService()
        for cancel in (*self._cancels, *self._of_monitors.values()):
            cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done: Deferred[None] = Deferred()
        limit = self._clock.callLater(STOP_SECONDS, self._finish, done, None)

        def save(_: object) -> None:
            self._save().addCallback(lambda _: self._finish(done, limit))

        if self._is_saving:
            saved: Deferred[None] = Deferred()
            saved.addCallback(save)
            self._when_saved.append(saved)
        else:
            save(None)
        return done

    def _finish(self, done: Deferred[None], limit: IDelayedCall | None) -> None:
        if done.called:
            return
        if limit is None:
            self.failures += 1
            self._log.error(
                "state: {file} could not be written within {seconds} s: the last changes may lack",
                file=file_name(self.path),
                seconds=f"{STOP_SECONDS:g}",
            )
        elif limit.active():
            limit.cancel()
        self._release()
        done.callback(None)

    def _release(self) -> None:
        if self._lock is not None:
            with suppress(OSError):
                os.unlink(lock_path(self.path))
            os.close(self._lock)
            self._lock = None

    # -- from the file

    def _restore(self, state: State) -> None:
        for each in state.blocks:
            if each.service is None:
                _restore_block(self._registry.blocking, each, state.saved_at)
            else:
                self._of_absent(each.service)[0].append(_as_of_now(each, state.saved_at))
        for lifted in state.unblocked:
            self._of_absent(lifted.service)[1].append(lifted)

    def _of_absent(self, service: str) -> tuple[list[StoredBlock], list[StoredUnblock]]:
        return self._absent.setdefault(service, ([], []))

    def _follow(self, monitor: Monitor) -> None:
        blocks, lifted = self._absent.pop(monitor.name, ([], []))
        if monitor in self._unfollowed:  # it still has them, and knows which have ended
            blocks, lifted = [], []
        for each in blocks:
            _restore_block(monitor.blocking, each, time.time())
        for one in lifted:
            monitor.blocking.blocks.restore_lifted(one.network, one.source)
        self._of_monitors[monitor] = monitor.blocking.changes.add(self._changed)
        self._changed()

    def _unfollow(self, monitor: Monitor) -> None:
        cancel = self._of_monitors.pop(monitor, None)
        if cancel is not None:
            cancel()
            self._unfollowed.add(monitor)
            blocks, lifted = self._of_absent(monitor.name)
            now, wall = self._clock.seconds(), time.time()
            for each in monitor.blocking.blocks.run_time():
                blocks.append(_stored(each, monitor.name, now, wall))
            lifted += _lifted(monitor)

    def _unblocked(self, network: Network) -> None:
        """Services that are not there have it unblocked, too."""
        for blocks, _ in self._absent.values():
            blocks[:] = (each for each in blocks if each.network != network)
        self._changed()

    # -- to the file

    def _changed(self) -> None:
        self._is_dirty = True
        if self._timer is None and not self._is_saving and self.is_kept:
            delay = max(SOON_SECONDS, self._next_save - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._save()

    def _save(self) -> Deferred[None]:
        """Take what there is now in turns of the loop, and write it in a thread."""
        self._is_dirty, self._is_saving = False, True
        began = self._clock.seconds()
        saved: Deferred[None] = Deferred()
        self._when_saved.append(saved)
        found: list[State] = []

        def write(_: object) -> None:
            is_empty = not (found[0].blocks or found[0].unblocked)
            if is_empty and not os.path.lexists(self.path):  # nobody has ever blocked anything
                self._saved(began, None)
                return
            try:
                self._run(partial(write_state, self.path, found[0]), partial(self._saved, began))
            except RuntimeError as error:  # no thread
                self._saved(began, error)

        in_turns(self._clock, self._take(found)).addCallback(write).addErrback(
            lambda failure: self._saved(began, failure.value)
        )
        return saved

    def _take(self, found: list[State]) -> Iterator[None]:
        blocks: list[StoredBlock] = []
        lifted: list[StoredUnblock] = []
        now, wall = self._clock.seconds(), time.time()
        holders: list[tuple[str | None, Blocking]] = [(None, self._registry.blocking)]
        holders += [(monitor.name, monitor.blocking) for monitor in self._registry]
        for name, holder in holders:
            for number, each in enumerate(holder.blocks.run_time()):
                blocks.append(_stored(each, name, now, wall))
                if number % _STEP == 0:
                    yield
        for monitor in self._registry:
            lifted += _lifted(monitor)
            yield
        for stored, unblocked in tuple(self._absent.values()):
            blocks += [each for each in stored if each.until_at is None or each.until_at > wall]
            lifted += unblocked
            yield
        found.append(State(wall, tuple(blocks), tuple(lifted)))

    def _saved(self, began: float, failure: BaseException | None) -> None:
        self._is_saving = False
        now = self._clock.seconds()
        self._next_save = now + max(LEAST_PAUSE_SECONDS, 10 * (now - began))
        if failure is not None:
            self.failures += 1
            self._next_save = now + RETRY_SECONDS
            self._is_dirty = True
            if not self._is_failing:  # only the first of a row
                problem = os_error_text(failure) if isinstance(failure, OSError) else str(failure)
                self._log.error(
                    "state: {file} cannot be written: {problem}: what is blocked now may be lost"
                    " with the program; it is tried again every {seconds} s",
                    file=file_name(self.path),
                    problem=problem,
                    seconds=f"{RETRY_SECONDS:g}",
                )
        elif self._is_failing:
            self._log.info("state: {file} is written again", file=file_name(self.path))
        self._is_failing = failure is not None
        waiting, self._when_saved = self._when_saved, []
        for deferred in waiting:
            deferred.callback(None)
        if self._is_dirty:
            self._changed()


def _stored(block: Block, service: str | None, now: float, wall: float) -> StoredBlock:
    return StoredBlock(
        service=service,
        network=block.network,
        source=block.source,
        by=block.by,
        since_at=block.since_at,
        until_at=None if block.until is None else wall + block.until - now,
        reason=block.reason,
        keep_open=block.keep_open,
        hits=block.hits,
    )


def _lifted(monitor: Monitor) -> list[StoredUnblock]:
    lifted = monitor.blocking.blocks.lifted()
    return [StoredUnblock(monitor.name, each, source) for each, source in lifted.items()]


def _as_of_now(stored: StoredBlock, saved_at: float) -> StoredBlock:
    """The same block, with an end that a wall clock which was set back has not put off."""
    if stored.until_at is None:
        return stored
    left = min(stored.until_at - time.time(), stored.until_at - saved_at)
    return attrs.evolve(stored, until_at=time.time() + left)


def _restore_block(blocking: Blocking, stored: StoredBlock, saved_at: float) -> None:
    # One that has ended meanwhile is removed, and told of, as any that ends.
    until_at = _as_of_now(stored, saved_at).until_at
    blocking.blocks.restore(
        Block(
            stored.network,
            stored.source,
            by=stored.by,
            since_at=stored.since_at,
            until=None if until_at is None else blocking.seconds() + until_at - time.time(),
            reason=stored.reason,
            keep_open=stored.keep_open,
            hits=stored.hits,
        )
    )
