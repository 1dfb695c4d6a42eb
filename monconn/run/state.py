"""What outlasts the program: the blocks of operators and of ``auto_block``, in a file.

The file is JSON, one entry a line, with its version in ``monconn_state``; it is replaced as a
whole. Ends are stored as wall-clock times, as a monotonic clock begins anew with each start of the
machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args
from weakref import WeakSet

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from monconn.addresses import Network, parse_network
from monconn.clock import Clock
from monconn.config.sections import StateConfig
from monconn.errors import AddressError, FileError, MonconnError, Remark, os_error_text
from monconn.files import (
    explained,
    file_name,
    making_fault,
    read_file,
    state_folder,
    writing_fault,
)
from monconn.log import Logger
from monconn.model.reasons import BlockSource
from monconn.monitor.blocking import MAX_REASON_CHARACTERS, Blocking
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.monitor.subscriptions import Cancel
from monconn.policy.blocks import Block
from monconn.processes import InUse, Process, flock_holder, take_flock
from monconn.turns import in_turns

VERSION = 1
MAX_BYTES = 64 << 20
"""The size up to which a file is read, and written: some 200,000 blocks."""
SOON_SECONDS = 0.05
"""How long after a change it is written: what changes at once is written at once."""
LEAST_PAUSE_SECONDS = 1.0
"""From one writing to the next; ten times as long as it takes if that is more."""
RETRY_SECONDS = 10.0
STOP_SECONDS = 5.0
"""How long the program's end waits for the disk."""
MAX_NAME_CHARACTERS = 1_000
_STEP = 64
_LATEST = 1e11  # seconds since 1970: the year 5138; NaN and infinity are not below it
_SOURCES: tuple[BlockSource, ...] = get_args(BlockSource)


# -- where it is


def default_path(config_path: str) -> str:
    """The file of a configuration's state if it names none.

    In systemd's ``STATE_DIRECTORY`` (systemd.exec(5)), or else in the user's state folder. Its name
    is that of the configuration's file and a hash of its path: so two never meet.

    :param config_path: of the configuration.
    """
    path = os.path.realpath(config_path)
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(path).stem)[:40]
    name = f"state-{stem}-{digest}.json"
    return os.path.join(folder if os.path.isabs(folder) else state_folder(), name)


def path_of(config: StateConfig) -> str:
    """The absolute path of the file, with links followed: a daemon changes its directory, and what
    a link leads to is what is replaced."""
    return os.path.realpath(os.path.expanduser(config.path or default_path(config.config_path)))


def _lock_path(path: str) -> str:
    return f"{path}.lock"


def check_state(config: StateConfig) -> list[Remark]:
    """Find what :meth:`StateService.startService` would fail with, without making anything.

    :returns: whether nothing can be kept, where no file is configured.
    :raises FileError: the file is damaged or others may write to it, it cannot be made or written,
        or another monconn has it.
    """
    path = path_of(config)
    try:
        if config.path is None:
            first = next(each for each in (path, *map(str, Path(path).parents)) if _is_below(each))
            fault = writing_fault(path) if first == path else making_fault(first)
        else:
            fault = writing_fault(_lock_path(path)) or writing_fault(path)
        if fault is not None:
            raise fault
    except OSError as error:
        if config.path is None:
            return [Remark(_not_kept(path, error), True)]
        raise _no_state(path, os_error_text(error)) from None
    read_state(path)
    # Not tried: a monconn that starts right now would find it locked.
    if holder := flock_holder(_lock_path(path)):
        raise _in_use(path, holder)
    return []


def _is_below(path: str) -> bool:
    return os.path.lexists(os.path.dirname(path))


def _not_kept(path: str, error: OSError) -> str:
    return (
        f"what is blocked while monconn runs ends with it, as {file_name(path)} cannot be used:"
        f" {os_error_text(error)} (state: FILE says another place, state: false none)"
    )


def _no_state(path: str, problem: str) -> FileError:
    return FileError(f"state: {file_name(path)}: {problem}")


def _in_use(path: str, holder: Process | None) -> FileError:
    message = "another monconn has it: each needs a file of its own"
    error = _no_state(path, message if holder is None else f"{message} ({holder} has this one)")
    error.__cause__ = InUse(message, holder)
    return error


# -- what is in it


@attrs.frozen
class StoredBlock:
    """One block, with its end in wall-clock seconds."""

    service: str | None
    network: Network
    source: BlockSource
    by: str
    since_at: float
    until_at: float | None
    reason: str
    keep_open: bool
    hits: int


@attrs.frozen
class StoredUnblock:
    """A configured network that an operator has unblocked at a service."""

    service: str
    network: Network
    source: BlockSource


@attrs.frozen
class State:
    """The content of a file.

    :param saved_at: wall-clock seconds.
    """

    saved_at: float
    blocks: tuple[StoredBlock, ...] = ()
    unblocked: tuple[StoredUnblock, ...] = ()


class Damaged(ValueError):
    """What is in a file is no state."""


def encode(state: State) -> Iterator[bytes]:
    """The text of a file, a line for each entry.

    In pieces: a JSON encoder that is written in C keeps the interpreter's lock until it has made
    all of a text, and the thread that moves the bytes would wait for that.
    """
    yield f'{{"monconn_state": {VERSION}, "saved_at": {state.saved_at!r},\n"blocks": ['.encode()
    yield from _lines(state.blocks)
    yield b'],\n"unblocked": ['
    yield from _lines(state.unblocked)
    yield b"]}\n"


def _lines(entries: Iterable[Any]) -> Iterator[bytes]:
    separator = b"\n"
    for each in entries:
        values = {name: getattr(each, name) for name in _names(type(each))}
        values["network"] = str(values["network"])
        yield separator + json.dumps(values).encode()
        separator = b",\n"


def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in attrs.fields(kind))


def decode(data: bytes) -> State:
    """What is in a file.

    :raises Damaged: it is no state, or of a newer version.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged("it is no JSON") from None
    if not isinstance(content, dict) or "monconn_state" not in content:
        raise Damaged("it is no state of monconn's")
    if content["monconn_state"] != VERSION:
        raise Damaged(f"it is of another version than {VERSION}: a newer monconn has written it")
    return State(
        _time(content, "saved_at"),
        tuple(map(_block, _list(content, "blocks"))),
        tuple(map(_unblock, _list(content, "unblocked"))),
    )


def _block(entry: dict[str, Any]) -> StoredBlock:
    hits = entry.get("hits")
    if type(hits) is not int or not 0 <= hits < 1 << 63:
        raise Damaged("the hits of a block are no count")
    if type(entry.get("keep_open")) is not bool:
        raise Damaged("keep_open of a block is neither true nor false")
    return StoredBlock(
        service=None if entry.get("service") is None else _text(entry, "service"),
        network=_network(entry),
        source=_source(entry, ("operator", "auto")),
        by=_text(entry, "by"),
        since_at=_time(entry, "since_at"),
        until_at=None if entry.get("until_at") is None else _time(entry, "until_at"),
        reason=_text(entry, "reason", MAX_REASON_CHARACTERS),
        keep_open=entry["keep_open"],
        hits=hits,
    )


def _unblock(entry: dict[str, Any]) -> StoredUnblock:
    source = _source(entry, ("configuration", "file"))
    return StoredUnblock(_text(entry, "service"), _network(entry), source)


def _list(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise Damaged(f"{key} is no list of objects")
    return entries


def _text(entry: dict[str, Any], key: str, most: int = MAX_NAME_CHARACTERS) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or len(text) > most:
        raise Damaged(f"{key} of an entry is no text of {most} characters at most")
    return text


def _time(entry: dict[str, Any], key: str) -> float:
    moment = entry.get(key)
    is_number = isinstance(moment, (int, float)) and not isinstance(moment, bool)
    if not is_number or not abs(moment) < _LATEST:  # type: ignore[arg-type]
        raise Damaged(f"{key} is no time")
    return float(moment)  # type: ignore[arg-type]


def _network(entry: dict[str, Any]) -> Network:
    try:
        return parse_network(_text(entry, "network"))
    except AddressError as error:
        raise Damaged(str(error)) from None


def _source(entry: dict[str, Any], known: tuple[BlockSource, ...]) -> BlockSource:
    for each in known:
        if entry.get("source") == each:
            return each
    raise Damaged(f"the source of an entry is none of {', '.join(known)}")


def read_state(path: str) -> State | None:
    """What is in a file; None if there is no file.

    :raises FileError: it is damaged, too big or cannot be read, or others may write to it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _no_state(path, os_error_text(error)) from None
    if found.st_uid not in (0, os.geteuid()):
        raise _no_state(path, "it belongs to another user, who could let in whom he likes")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise _no_state(path, f"others may write to it (mode {mode:04o}): chmod 600")
    try:
        data = read_file(path, MAX_BYTES)
    except FileError as error:
        raise FileError(f"state: {error}") from None
    try:
        return decode(data)
    except Damaged as problem:
        raise _no_state(
            path,
            f"{problem}; it is left as it is: mend it, or move it away to begin without the blocks"
            " in it",
        ) from None


def write_state(path: str, state: State) -> None:
    """Replace a file, which only this user may read.

    It is whole under its name at any time: written under another one, on the disk, then renamed.

    :raises OSError: it cannot be written; then the one before is still there.
    """
    draft = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(draft)  # of a program that was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for piece in encode(state):
                file.write(piece)
                if file.tell() > MAX_BYTES:
                    raise OSError(f"there are too many blocks for {MAX_BYTES >> 20} MiB")
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else the name may still be the old file's after a loss of power
    finally:
        os.close(folder)


# -- keeping it


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

    def startService(self) -> None:
        """Lock the file, read it, and block what is in it.

        :raises FileError: it is damaged, cannot be made, or another monconn has it. Where no file
            is configured, one that cannot be made is only told.
        """
        try:
            if self._config.path is None:
                os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            self._lock = take_flock(_lock_path(self.path))
        except InUse as error:
            raise _in_use(self.path, error.holder) from None
        except OSError as error:
            error = explained(error, self.path)
            if self._config.path is not None:
                raise _no_state(self.path, os_error_text(error)) from None
            self._log.warn("{problem}", problem=_not_kept(self.path, error))
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
                os.unlink(_lock_path(self.path))
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
