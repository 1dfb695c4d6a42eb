"""Watchers of single connections' payload."""

from __future__ import annotations

from collections.abc import Callable

from monconn.log import Logger
from monconn.model.reasons import Direction

Watch = Callable[[Direction, bytes], object]
"""Called with each chunk, as it is read from its sender. It must return quickly.

The record has counted the chunk already: it begins at ``record.up - len(data)`` of its direction's
bytes, or ``record.down - len(data)``.
"""
ADDED_AMID_CHUNK = 64
"""Watchers added while a chunk is shown that are shown this very chunk; more get the next one. It
bounds a watcher that adds another each time."""


class Watchers:
    """The subscribers to one connection's payload; one that raises is removed.

    :param changed: called when the first one was added or the last one removed, with whether there
        are any.
    """

    _log = Logger()

    def __init__(self, changed: Callable[[bool], object] = lambda _: None) -> None:
        self._changed = changed
        self._calls: tuple[Watch, ...] = ()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Watch) -> Callable[[], None]:
        """Call a watcher with every chunk from now on, the one that is being shown included.

        :returns: cancels that; harmless the second time.
        """

        def watch(direction: Direction, data: bytes) -> None:
            call(direction, data)

        self._calls += (watch,)  # a function of its own: the same call may be added twice
        if len(self._calls) == 1:
            self._changed(True)
        return lambda: self._remove(watch)

    def _remove(self, watch: Watch) -> None:
        calls = self._calls
        if watch in calls:
            # Not by a loop in Python: with a tap, a thousand connections lose one at the same time.
            at = calls.index(watch)
            self._calls = calls[:at] + calls[at + 1 :]
            if not self._calls:
                self._changed(False)

    def show(self, direction: Direction, data: bytes) -> None:
        """Call every watcher with a chunk, those that are added meanwhile included.

        What a watcher finds in a chunk may be why another one is added, which then gets that too.
        """
        calls = self._calls
        due = list(calls)
        most = len(due) + ADDED_AMID_CHUNK
        for watch in due:  # which may grow
            if watch not in self._calls:
                continue  # an earlier one has cancelled it
            try:
                watch(direction, data)
            except KeyboardInterrupt:
                raise
            except BaseException:  # sys.exit() must not end the program either
                self._remove(watch)
                self._log.failure("a watcher of a connection failed and is removed")
            if self._calls is not calls:
                calls = self._calls
                due += [each for each in calls if each not in due][: most - len(due)]
