"""Observers whose methods are coroutines, behind a queue with a limit."""

from __future__ import annotations

import asyncio
import types
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.clock import Clock
from monconn.errors import SettingError, SettingTypeError
from monconn.log import Logger
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.ratelimit import RateLimitedLog

QUEUED_EVENTS = 1_000
QUEUED_BYTES = 1 << 20
TURN_SECONDS = 0.002
"""How long methods that wait for nothing run one after the other, before the reactor's turn."""


class Owner(Protocol):
    """Notifies an observer; the observers of a monitor."""

    def remove(self, observer: AsyncObserver) -> None:
        """Notify it no more."""


class AsyncObserver:
    """An observer whose methods are coroutines (``async def``): override those that you need.

    What happens is queued, and a method runs when the one before it has ended, in a turn of the
    reactor of its own: no connection waits for it. It may await Twisted's Deferreds and, under
    Twisted's asyncio reactor, anything of asyncio's.

    An event that finds the queue full is dropped: it is counted in :attr:`dropped`, and the log
    has a line a second about it. A method that raises is logged, and the observer is switched off:
    what is queued is dropped, too.

    As methods run later, a record may have changed since its event.

    :param queued_events: how many events may wait, besides the one whose method runs;
        :data:`QUEUED_EVENTS`, or the class's attribute of this name, if left out.
    :param queued_bytes: how much payload may wait; likewise.
    :raises SettingError: a limit is not a positive whole number.
    """

    watches_payload = False
    queued_events = QUEUED_EVENTS
    queued_bytes = QUEUED_BYTES
    # Made when the observer is added, so that a class whose __init__ does not call ours works, too.
    _monconn_queue: _Queue | None = None

    def __init__(
        self, *, queued_events: int | None = None, queued_bytes: int | None = None
    ) -> None:
        for name, value in (("queued_events", queued_events), ("queued_bytes", queued_bytes)):
            if value is None:
                continue  # what the class has
            if not isinstance(value, int) or isinstance(value, bool):
                raise SettingTypeError(f"{name}={value!r}: must be a whole number")
            if value < 1:
                raise SettingError(f"{name}={value!r}: must be at least 1")
            setattr(self, name, value)

    async def opened(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    async def refused(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    async def backend_connected(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    async def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Does nothing; called only if :attr:`watches_payload` is true."""

    async def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Does nothing."""

    async def identified(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    async def closed(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    async def alarmed(self, alarm: Alarm) -> None:
        """Does nothing."""

    async def acted(self, action: Action) -> None:
        """Does nothing."""

    @property
    def dropped(self) -> int:
        """How many events were dropped."""
        return 0 if self._monconn_queue is None else self._monconn_queue.dropped

    def stop(self, wait_seconds: float) -> Deferred[bool]:
        """Queue nothing more, and wait until what is queued is handled.

        After ``wait_seconds`` the method that runs is cancelled, and what is queued is dropped.

        :returns: fires with whether all was handled in time.
        """
        queue = self._monconn_queue
        return succeed(True) if queue is None else queue.stop(wait_seconds)


def queue_calls(
    observer: AsyncObserver,
    calls: Mapping[str, Callable[..., object]],
    clock: Clock,
    owner: Owner,
) -> dict[str, Callable[..., object]]:
    """Functions that queue the calls of an observer's methods.

    :param calls: the methods, by hook.
    :param clock: monotonic time and timers; those of the first call are used.
    :param owner: who calls the functions; is told if the observer is switched off.
    """
    queue = observer._monconn_queue
    if queue is None:
        queue = observer._monconn_queue = _Queue(observer, clock)
    queue.owners.add(owner)
    return {hook: partial(queue.put, hook, call) for hook, call in calls.items()}


class _Item(NamedTuple):
    hook: str
    call: Callable[..., object]
    args: tuple[object, ...]
    size: int


class _Queue:
    """Runs methods one after the other."""

    _log = Logger()

    def __init__(self, observer: AsyncObserver, clock: Clock) -> None:
        self.owners: WeakSet[Owner] = WeakSet()  # monitors come and go
        self.dropped = 0
        self._observer = observer
        self._name = type(observer).__name__
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._is_open = True
        self._is_failed = False
        self._is_in_turn = False
        self._timer: IDelayedCall | None = None  # for the next method
        self._running: Deferred[list[Failure]] | None = None
        self._drop_log = RateLimitedLog(clock, 1, self._write_drops)
        self._stopped: list[Deferred[bool]] = []
        self._stop_timer: IDelayedCall | None = None

    # -- events come

    def put(self, hook: str, call: Callable[..., object], *args: object) -> None:
        """Queue a call, or drop it."""
        size = len(args[2]) if hook == "data" else 0  # type: ignore[arg-type]
        if not self._is_open:
            self.dropped += not self._is_failed  # else it is known to hear of nothing more
        # An empty queue takes any chunk, however big: else that one could never pass.
        elif self._items and (
            len(self._items) >= self._observer.queued_events
            or self._bytes + size > self._observer.queued_bytes
        ):
            self.dropped += 1
            self._drop_log.add(hook)
        else:
            self._items.append(_Item(hook, call, args, size))
            self._bytes += size
            # In a turn of its own: the data path, whose turn this is, goes on at once.
            if not self._is_in_turn:
                self._proceed()

    def _write_drops(self, count: int, hooks: str) -> None:
        self._log.warn(
            "observer {observer}: {count} events dropped, as its queue was full: {hooks}",
            observer=self._name,
            count=count,
            hooks=hooks,
        )

    # -- methods run

    def _run(self) -> None:
        self._timer = None
        self._is_in_turn = True
        until = self._clock.seconds() + TURN_SECONDS
        while self._items and self._running is None and self._clock.seconds() <= until:
            item = self._items.popleft()
            self._bytes -= item.size
            running = self._running = _start(item.call, item.args)
            running.addCallback(self._ended)
        self._is_in_turn = False
        self._proceed()

    def _ended(self, failures: list[Failure]) -> None:
        self._running = None
        if failures and not self._is_failed:
            self._fail(failures[0])
        if not self._is_in_turn:
            self._proceed()

    def _proceed(self) -> None:
        if self._running is not None:
            return
        if not self._items:
            self._all_is_handled()
        elif self._timer is None:
            # In a turn of its own, too: else each method would run within the callbacks of the one
            # before.
            self._timer = self._clock.callLater(0, self._run)

    def _fail(self, failure: Failure) -> None:
        self._log.failure(
            "observer {observer} failed and is switched off",
            failure,
            observer=self._name,
        )
        self._is_open, self._is_failed = False, True
        for owner in tuple(self.owners):
            owner.remove(self._observer)
        self._drop_all("it is switched off")

    def _drop_all(self, why: str) -> None:
        self._drop_log.flush()
        if not self._items:
            return
        hooks = Counter(item.hook for item in self._items)
        self.dropped += len(self._items)
        self._log.warn(
            "observer {observer}: {count} events dropped, as {why}: {hooks}",
            observer=self._name,
            count=len(self._items),
            why=why,
            hooks=", ".join(f"{count} {hook}" for hook, count in hooks.most_common()),
        )
        self._items.clear()
        self._bytes = 0

    # -- the end

    def stop(self, wait_seconds: float) -> Deferred[bool]:
        """See :meth:`AsyncObserver.stop`."""
        self._is_open = False
        self._drop_log.flush()  # no timer may fire any more to do it
        if not self._items and self._running is None:
            return succeed(not self._is_failed)
        done: Deferred[bool] = Deferred()
        self._stopped.append(done)
        if self._stop_timer is None:
            self._stop_timer = self._clock.callLater(
                wait_seconds, self._give_up, f"it had {wait_seconds:g} s to handle them"
            )
        return done

    def _give_up(self, why: str) -> None:
        self._stop_timer = None
        self._is_failed = True  # so that what the cancelled method raises is not logged
        self._drop_all(why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None:
            self.dropped += 1
            self._running.cancel()
        self._all_is_handled()  # it may go on for all that

    def _all_is_handled(self) -> None:
        if self._stop_timer is not None:
            self._stop_timer.cancel()
            self._stop_timer = None
        stopped, self._stopped = self._stopped, []
        for each in stopped:
            each.callback(not self._is_failed)


# -- awaiting


def _start(call: Callable[..., object], args: tuple[object, ...]) -> Deferred[list[Failure]]:
    """Call a method, and await what it returns.

    :returns: fires with the failure of the method, if it has failed; in a list, as a Deferred
        takes a Failure for its own.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # the reactor is not asyncio's
        started = Deferred.fromCoroutine(_caught(call, args))
    else:
        task = loop.create_task(_with_deferreds(_caught(call, args), loop))
        started = Deferred.fromFuture(task)
    return started.addErrback(lambda failure: [failure])  # it was cancelled


async def _caught(call: Callable[..., object], args: tuple[object, ...]) -> list[Failure]:
    # Whatever is raised is caught here: asyncio's tasks pass a SystemExit on to the loop, which
    # would end the program.
    try:
        result = call(*args)
        if isawaitable(result):  # else it is an ordinary method
            await result
    except BaseException:
        return [Failure()]
    return []


async def _with_deferreds(
    coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Any:
    """Run a coroutine within a task of asyncio's, though it awaits Deferreds, too."""
    return await _translated(coroutine, loop)


@types.coroutine
def _translated(
    coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Generator[Any, Any, Any]:
    step: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        try:
            # What a coroutine awaits comes out of it when it is driven: asyncio's future, which
            # goes on to the task, or a Deferred, for which a task has no use.
            if isinstance(awaited, Deferred):
                yield from _future_of(awaited, loop).__await__()
            else:
                yield awaited
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, None)


def _future_of(deferred: Deferred[Any], loop: asyncio.AbstractEventLoop) -> Awaitable[None]:
    """A future that is done when a Deferred has fired, whose result stays in it.

    Unlike ``Deferred.asFuture``, which takes the result away: what awaits the Deferred looks for
    its result there, once it is driven on.
    """
    future: asyncio.Future[None] = loop.create_future()

    def fired(result: object) -> object:
        if not future.done():
            future.set_result(None)
        return result

    def cancelled(future: asyncio.Future[None]) -> None:
        if future.cancelled():
            deferred.cancel()
            deferred.addErrback(lambda failure: None)  # nobody will look for it there

    deferred.addBoth(fired)
    future.add_done_callback(cancelled)
    return future
