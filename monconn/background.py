"""Threads for slow work: one behind a queue with a limit, or one for a single piece of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from monconn.log import Logger

Item = TypeVar("Item")


class ThreadReactor(Protocol):
    """What a thread reports to."""

    def callFromThread(self, call: Callable[..., object], /, *args: Any) -> object:
        """Call something in the reactor's thread."""


def run_in_thread(
    reactor: ThreadReactor,
    name: str,
    work: Callable[[], object],
    done: Callable[[Any], object],
) -> None:
    """Do work that may hang in a thread of its own, which keeps the program from ending in no case.

    :param name: of the thread, for debuggers.
    :param done: called in the reactor's thread with the result, or with the exception.
    :raises RuntimeError: the system gives us no more threads.
    """

    run = partial(_do, reactor, work, done)
    threading.Thread(target=run, name=name, daemon=True).start()


def _do(reactor: ThreadReactor, work: Callable[[], object], done: Callable[[Any], object]) -> None:
    outcome: object
    try:
        outcome = work()
    except BaseException as error:
        outcome = error
    reactor.callFromThread(done, outcome)


class BackgroundQueue(Generic[Item]):
    """Handles items in a thread of its own; those that find the queue full are dropped.

    The thread starts with the first item; while the system gives us none, items are dropped. It is
    a daemon thread, as a disk or a terminal that hangs must not keep the program from ending.

    :param handle: called in the thread with an item and the number of items dropped since the one
        before it. An exception is logged, and the thread goes on.
    :param limit: how much may be queued, in the unit of :meth:`put`'s ``size``.
    """

    _log = Logger()

    def __init__(self, handle: Callable[[Item, int], object], limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._queue: deque[tuple[Item, int, int]] = deque()
        self._queued_size = 0  # with the item that is being handled
        self._dropped_since = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.dropped = 0
        """How many items were dropped in all."""

    def put(self, item: Item, size: int = 1) -> bool:
        """Queue an item, without ever waiting for the thread's work.

        :returns: False if it was dropped.
        """
        with self._changed:
            # An empty queue takes any item, however large: else that one could never pass.
            is_full = bool(self._queue) and self._queued_size + size > self._limit
            if self._stopped or is_full or not self._has_thread():
                self.dropped += 1
                self._dropped_since += 1
                return False
            self._queue.append((item, size, self._dropped_since))
            self._dropped_since = 0
            self._queued_size += size
            self._changed.notify()
        return True

    def _has_thread(self) -> bool:
        """Whether there is a thread; it is started if there is none yet."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives us no more threads; the next item tries again
                return False
            self._thread = thread
        return True

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
                # Only the first of a row: the log itself may be what is handled here.
                if not is_failing:
                    is_failing = True
                    self._log.failure("work in the background failed")
            with self._changed:
                self._queued_size -= size

    def stop(self, wait_seconds: float) -> bool:
        """Accept nothing more, and wait until what is queued is handled.

        :returns: whether that was done in time.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()


class LastingThread:
    """A thread that stays, for work that may hang and comes again and again, one piece at a time.

    Whoever starts a thread waits until the system runs it: 0.36 s were measured on a busy machine,
    which the reactor's thread does not have each second.

    :param reactor: is told the outcomes.
    """

    def __init__(self, reactor: ThreadReactor) -> None:
        self._reactor = reactor
        self._queue: BackgroundQueue[Callable[[], object]] = BackgroundQueue(lambda do, _: do(), 1)

    def do(self, work: Callable[[], object], done: Callable[[Any], object]) -> bool:
        """Do work after that which was asked for before; as :func:`run_in_thread`.

        :returns: False if there is too much of it already, or the system gives us no thread now.
        """
        return self._queue.put(partial(_do, self._reactor, work, done))

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._queue.stop(0)
