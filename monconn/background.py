"""A thread that does slow work, behind a queue that never grows past its bound."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

Item = TypeVar("Item")


class BackgroundQueue(Generic[Item]):
    """Hands items to a thread of its own; those that find the queue full are dropped.

    The thread is started by the first item, and does not keep the program alive.

    :param handle: called in the thread with an item and how many were dropped before it.
    :param limit: the most that may wait, in whatever unit :meth:`put` is told.
    """

    _log = Logger()

    def __init__(self, handle: Callable[[Item, int], object], limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._queue: deque[tuple[Item, int, int]] = deque()
        self._waiting = 0
        self._dropped_now = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.dropped = 0
        """How many items were dropped, ever."""

    def put(self, item: Item, size: int = 1) -> bool:
        """Queue an item; False if it was dropped. Never waits for the thread's work."""
        with self._changed:
            # One item may always wait, however big it is: else it could never pass.
            if self._stopped or (self._queue and self._waiting + size > self._limit):
                self.dropped += 1
                self._dropped_now += 1
                return False
            self._queue.append((item, size, self._dropped_now))
            self._dropped_now = 0
            self._waiting += size
            self._ensure_thread()
            self._changed.notify()
        return True

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        is_failing = False
        while True:
            with self._changed:
                while not self._queue:
                    if self._stopped:
                        return
                    self._changed.wait()
                item, size, dropped = self._queue.popleft()
            try:
                self._handle(item, dropped)
                is_failing = False
            except Exception:
                # Once in a row: it may be the log itself that comes through here.
                if not is_failing:
                    is_failing = True
                    self._log.failure("work in the background failed")
            with self._changed:
                self._waiting -= size

    def stop(self, wait_seconds: float) -> bool:
        """Take nothing more, and wait for what is queued.

        :returns: whether all of it was done in time.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()
