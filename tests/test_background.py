from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from monconn.background import BackgroundQueue

WAIT_SECONDS = 10.0


class Handler:
    """Handles items as the test releases them, and records them."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self._begun = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)

    def __call__(self, item: str, dropped: int) -> None:
        self._begun.release()
        assert self._gate.acquire(timeout=WAIT_SECONDS)
        self.handled.append((item, dropped))

    def wait_for_next(self) -> None:
        """Wait until one more item is being handled."""
        assert self._begun.acquire(timeout=WAIT_SECONDS)

    def release(self, count: int = 1000) -> None:
        self._gate.release(count)


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    yield handler
    handler.release()


def stuck(handler: Handler, limit: int) -> BackgroundQueue[str]:
    """A queue whose thread is blocked by a first item."""
    queue = BackgroundQueue(handler, limit)
    assert queue.put("first", 0)
    handler.wait_for_next()
    return queue


def test_order_is_kept(handler: Handler) -> None:
    queue = stuck(handler, limit=1000)
    items = [str(number) for number in range(500)]
    assert all(map(queue.put, items))
    handler.release()
    assert queue.stop(WAIT_SECONDS)
    assert handler.handled == [("first", 0), *((item, 0) for item in items)]


def test_put_does_not_wait_for_a_handler_that_blocks(handler: Handler) -> None:
    queue = stuck(handler, limit=10)
    taken = [queue.put("more") for _ in range(10_000)]  # would never return
    assert taken == [True] * 10 + [False] * 9_990
    assert queue.dropped == 9_990


def test_the_number_dropped_comes_with_the_next_item(handler: Handler) -> None:
    queue = stuck(handler, limit=3)
    for item in ("a", "b", "c", "dropped", "dropped"):
        queue.put(item)
    for item in ("d", "e"):
        handler.release(2)
        handler.wait_for_next()
        handler.wait_for_next()  # two are done, and so there is room
        assert queue.put(item)
    handler.release()
    assert queue.stop(WAIT_SECONDS)
    assert handler.handled == [("first", 0), ("a", 0), ("b", 0), ("c", 0), ("d", 2), ("e", 0)]
    assert queue.dropped == 2


def test_idle_thread_wakes_for_each_item(handler: Handler) -> None:
    handler.release()
    queue = BackgroundQueue(handler, limit=1)
    for _ in range(100):
        assert queue.put("item")  # the queue is empty: all earlier items are being handled
        handler.wait_for_next()
    assert queue.stop(WAIT_SECONDS)


def test_limit_counts_sizes(handler: Handler) -> None:
    queue = stuck(handler, limit=100)
    assert queue.put("a", 60)
    assert not queue.put("b", 41)
    assert queue.put("c", 40)
    assert not queue.put("d", 1)
    assert queue.dropped == 2


def test_an_item_counts_until_it_is_handled(handler: Handler) -> None:
    queue = stuck(handler, limit=100)
    for item, size in (("a", 60), ("b", 20), ("c", 20)):
        assert queue.put(item, size)
    handler.release(1)
    handler.wait_for_next()
    assert not queue.put("too much", 1)  # "a" is being handled
    handler.release(1)
    handler.wait_for_next()
    assert queue.put("d", 60)  # "a" is done
    assert not queue.put("too much", 1)


def test_an_empty_queue_takes_any_item(handler: Handler) -> None:
    queue = stuck(handler, limit=10)
    assert queue.put("huge", 1000)
    assert not queue.put("another", 1000)
    handler.release()
    assert queue.stop(WAIT_SECONDS)
    assert [item for item, _ in handler.handled] == ["first", "huge"]


# -- stopping


def test_stop_without_any_item(handler: Handler) -> None:
    assert BackgroundQueue(handler, 1).stop(0)


def test_stop_gives_up_after_its_time(handler: Handler) -> None:
    queue = stuck(handler, limit=10)
    assert not queue.stop(0.01)
    handler.release()
    assert queue.stop(WAIT_SECONDS)  # which may be asked again


def test_nothing_is_accepted_after_stop(handler: Handler) -> None:
    queue = stuck(handler, limit=10)
    handler.release()
    assert queue.stop(WAIT_SECONDS)
    assert not queue.put("late")
    assert queue.dropped == 1
    assert handler.handled == [("first", 0)]


def test_thread_does_not_keep_the_program_alive(handler: Handler) -> None:
    before = set(threading.enumerate())
    stuck(handler, limit=10)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon


# -- what goes wrong


def test_handler_that_fails_goes_on_with_the_next(logged_failures: list[Failure]) -> None:
    handled: list[int] = []

    def handle(item: int, dropped: int) -> None:
        handled.append(item)
        if item % 2:
            raise ZeroDivisionError

    queue = BackgroundQueue(handle, 100)
    for item in range(5):
        queue.put(item)
    assert queue.stop(WAIT_SECONDS)
    assert handled == [0, 1, 2, 3, 4]
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError] * 2
    logged_failures.clear()


def test_handler_that_goes_on_failing_is_logged_once(logged_failures: list[Failure]) -> None:
    """The log itself may be written here, into a pipe that is not read."""
    queue: BackgroundQueue[str] = BackgroundQueue(lambda item, dropped: 1 / 0, 1000)

    @provider(ILogObserver)
    def log_lines_go_through_it(event: LogEvent) -> None:
        queue.put("a line of the log")

    globalLogPublisher.addObserver(log_lines_go_through_it)
    try:
        for _ in range(5):
            queue.put("")
        assert queue.stop(WAIT_SECONDS)
    finally:
        globalLogPublisher.removeObserver(log_lines_go_through_it)
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_first_items_from_many_threads_start_one_thread() -> None:
    """Two would change the order."""
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert {workers_of_first_items(4) for _ in range(50)} == {1}
    finally:
        sys.setswitchinterval(switch_interval)


def workers_of_first_items(count: int) -> int:
    """How many threads handle items that are the first ones, all at the same time."""
    workers: set[int] = set()
    queue: BackgroundQueue[int] = BackgroundQueue(
        lambda item, dropped: workers.add(threading.get_ident()), 100
    )
    gate = threading.Barrier(count)

    def put() -> None:
        gate.wait(WAIT_SECONDS)
        queue.put(1)

    threads = [threading.Thread(target=put) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.stop(WAIT_SECONDS)
    return len(workers)


def test_no_thread_can_be_started_for_a_while(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a limit on processes: what comes meanwhile is counted, and all later is handled."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = BackgroundQueue(handler, limit=1000)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert not queue.put("lost")
        assert not queue.put("lost")
        assert BackgroundQueue(handler, limit=1000).stop(WAIT_SECONDS)
    assert queue.put("handled")
    handler.release()
    assert queue.stop(WAIT_SECONDS)
    assert (handler.handled, queue.dropped) == ([("handled", 2)], 2)
