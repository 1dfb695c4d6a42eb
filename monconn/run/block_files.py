"""Watches the files of blocked networks that services name, and puts in force what they list."""

from __future__ import annotations

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

from monconn.background import BackgroundQueue, ThreadReactor
from monconn.clock import Clock
from monconn.errors import FileError, os_error_text
from monconn.files import file_name
from monconn.log import Logger
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.monitor.subscriptions import Cancel
from monconn.policy import block_files
from monconn.policy.block_files import BlockFile, Signature

WATCH_SECONDS = 2.0
"""How often the files are looked at."""
MOST_LOOKS = 5
"""A file that is another one at each look is read nevertheless after so many."""


@attrs.frozen
class _Looked:
    """What is known of a file."""

    signature: Signature | str | None = None
    """Of the file when it was read last, or why it could not be found; None if it has to be read.
    """
    fault: str = ""
    """Why it cannot be read, if it cannot."""
    pending: Signature | str | None = None
    """What it was at the last look, if it was another one then."""
    looks: int = 0
    """For how many looks it has been another one."""
    file: BlockFile | None = None
    """What was read at the last look, if anything was."""


class BlockFileWatch(Service):
    """Reads files of blocked networks again once they have changed.

    Disks may hang: files are looked at and read in a thread of its own. Who writes a file in place
    has it empty for a moment: a file is read once it was the same at two looks. One that is gone,
    cannot be read, is too big or has no other lines than bad ones changes nothing of what is in
    force; else the lines that are networks are.

    :param registry: the monitors whose policies name files.
    :param reactor: where the thread reports to.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, registry: Registry, reactor: ThreadReactor, clock: Clock) -> None:
        self._registry = registry
        self._reactor = reactor
        self._clock = clock
        self._unreadable = registry.unreadable_files
        self._known: dict[str, _Looked] = {}
        self._queue: BackgroundQueue[dict[str, _Looked]] | None = None
        self._is_looking = False
        self._timer: IDelayedCall | None = None
        self._cancels: list[Cancel] = []
        self._cancels_of: dict[str, Cancel] = {}

    def startService(self) -> None:
        """Watch the files of all monitors from now on; without any, nothing is done."""
        super().startService()
        self._queue = BackgroundQueue(lambda known, _: self._look(known), 1)
        self._cancels = [
            self._registry.when_added(self._follow),
            self._registry.when_deleted(self._unfollow),
        ]
        for monitor in self._registry:
            self._follow(monitor)

    def stopService(self) -> None:
        """Watch no more; what is in force stays so."""
        super().stopService()
        for cancel in (*self._cancels, *self._cancels_of.values()):
            cancel()
        self._cancels, self._cancels_of = [], {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue is not None:
            self._queue.stop(0)  # it may hang on a disk
            self._queue = None
        for path in self._known:
            self._unreadable.pop(path, None)
        self._known = {}

    def _follow(self, monitor: Monitor) -> None:
        self._unfollow(monitor)
        self._cancels_of[monitor.name] = monitor.when_applied(self._begin)
        self._begin()

    def _unfollow(self, monitor: Monitor) -> None:
        cancel = self._cancels_of.pop(monitor.name, None)
        if cancel is not None:
            cancel()

    def _begin(self) -> None:
        """Look soon, if there is a file and that is not to be done already."""
        if self._timer is None and any(each.policy.rules.block_files for each in self._registry):
            self._timer = self._clock.callLater(WATCH_SECONDS, self._poll)

    def _poll(self) -> None:
        self._timer = None
        files = self._files()
        for path in self._known.keys() - files.keys():
            del self._known[path]
            self._unreadable.pop(path, None)
        for path, file in files.items():
            if path not in self._known:
                self._known[path] = _Looked(file.signature)
        if not self._is_looking and self._queue is not None and self._known:
            self._is_looking = True
            if not self._queue.put(dict(self._known)):  # the system gives us no thread now
                self._is_looking = False
        self._begin()

    def _files(self) -> dict[str, BlockFile]:
        """The files that are in force, each as it was read last."""
        files: dict[str, BlockFile] = {}
        for monitor in self._registry:
            for each in monitor.policy.rules.block_files:
                if each.path not in files or files[each.path].number < each.number:
                    files[each.path] = each
        return files

    # -- in the thread

    def _look(self, known: dict[str, _Looked]) -> None:
        looked = {path: _look_at(path, before) for path, before in known.items()}
        self._reactor.callFromThread(self._looked, known, looked)

    # -- in the reactor's thread again

    def _looked(self, before: dict[str, _Looked], after: dict[str, _Looked]) -> None:
        self._is_looking = False
        for path, looked in after.items():
            if self._known.get(path) is not before[path]:  # it is named no more, or anew
                continue
            self._known[path] = attrs.evolve(looked, file=None)
            if looked.fault:
                self._tell_fault(path, looked.fault)
            elif looked.pending is None and path in self._unreadable:
                del self._unreadable[path]
                self._log.info("{path} can be read again", path=file_name(path))
            if looked.file is not None:
                self._put_in_force(looked.file)

    def _tell_fault(self, path: str, fault: str) -> None:
        if self._unreadable.get(path) != fault:
            self._unreadable[path] = fault
            self._log.warn("{fault}: what it listed before stays blocked", fault=fault)

    def _put_in_force(self, file: BlockFile) -> None:
        is_other = False
        for monitor in self._registry:
            rules = monitor.policy.rules
            files = block_files.with_newer(rules.block_files, [file])
            if files != rules.block_files:
                is_other = True
                changed = attrs.evolve(rules, block_files=files)
                monitor.apply(attrs.evolve(monitor.policy, rules=changed))
        if is_other:
            self._log.info(
                "{path} has changed: networks that it lists to block: {count}",
                path=file_name(file.path),
                count=len(file.origins),
            )
            for fault in file.faults:
                self._log.warn("{fault}", fault=fault)


def _look_at(path: str, before: _Looked) -> _Looked:
    """Look at a file, and read it if it has changed and does not change any more."""
    now: Signature | str
    try:
        now = block_files.signature_of(path)
    except (OSError, ValueError) as error:
        now = f"{file_name(path)} cannot be read: {os_error_text(error)}"
    if now == before.signature:
        return _Looked(now, before.fault)
    if now != before.pending and before.looks < MOST_LOOKS:
        return _Looked(before.signature, before.fault, now, before.looks + 1)
    if isinstance(now, str):
        return _Looked(now, now)
    try:
        file = block_files.read_block_file(path)
    except FileError as error:
        return _Looked(now, str(error))
    if file.faults and not file.origins:  # the page of an error, say, that was downloaded instead
        return _Looked(now, f"{file_name(path)} lists no networks: {file.faults[0]}")
    return _Looked(file.signature, file=file)
