"""Notifies observers, in the order in which things happen; an exception in one affects neither the
caller nor the others."""

from __future__ import annotations

import inspect
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from monconn.clock import Clock
from monconn.errors import ObserverError
from monconn.log import Logger
from monconn.model.actions import AUTO_BLOCK, NOBODY, OWN_CODE, Action, Actor
from monconn.model.record import ConnectionRecord
from monconn.monitor.async_observer import AsyncObserver, queue_calls
from monconn.monitor.interfaces import IObserver, Observer
from monconn.ratelimit import RateLimitedLog

AnyObserver: TypeAlias = "IObserver | AsyncObserver"
Where: TypeAlias = Callable[[ConnectionRecord], object]
"""Whether an observer is to be notified of a connection."""
_Call = Callable[..., object]
_Entry = tuple[AnyObserver, _Call]
OWN_CODE_LINES_PER_SECOND = 20
CAUSED_EVENTS = 10_000
"""How many events an observer may cause in answer to actions (or alarms) that themselves followed
from an event, before the first event is delivered; and how many events of connections that followed
from another it may answer by causing more. One that answers each action with others would never
come to an end; one that ends connections does, as there are only so many."""
_OF_CONNECTIONS = (
    "opened",
    "refused",
    "backend_connected",
    "data",
    "half_closed",
    "identified",
    "would_refuse",
    "closed",
)
_HOOKS = (*_OF_CONNECTIONS, "alarmed", "acted")
_OPTIONAL = ("backend_connected", "half_closed", "identified", "would_refuse", "acted")
"""Hooks that are in interfaces of their own: observers were there before them."""


class _Event(NamedTuple):
    """One that has happened while another one was delivered."""

    hook: str
    args: tuple[object, ...]
    subscribed: tuple[tuple[Observers, tuple[_Entry, ...]], ...]
    """Those who were subscribed when it happened, by service."""


class _Delivery:
    """What is being delivered, and what has happened meanwhile.

    An observer may act on the connections of its event, and of others, which is an event again.
    Delivered at once it would reach the observers after this one before the event that it
    follows from; so it waits until all have been notified of the earlier one.
    """

    def __init__(self) -> None:
        self.is_running = False
        self.waiting: deque[_Event | Callable[[], object]] = deque()
        self.added = 0
        """How many events have waited, ever."""
        self.interrupt: KeyboardInterrupt | None = None
        """Raised once all observers are notified."""


# One for all monitors of the process, as one observer may observe many: a log of several services
# has their events in the order in which they happened.
_delivery = _Delivery()


def when_delivered(call: Callable[[], object]) -> None:
    """Call something once observers are notified of all that has happened so far: at once, unless
    an observer is running."""
    if _delivery.is_running:
        _delivery.waiting.append(call)
    else:
        call()


class Observers:
    """The observers of one monitor; one that raises is logged and not notified again.

    :param service: the service's name, for the log.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._log_by_actor = {
            actor: RateLimitedLog(
                clock, OWN_CODE_LINES_PER_SECOND, partial(self._write_summary, actor)
            )
            for actor in (OWN_CODE, NOBODY, AUTO_BLOCK)
        }
        self.watched = False
        """Whether any is shown payload: checked before bytes are copied out of the kernel."""
        self._is_payload_forbidden = False
        self.wants_addresses = False
        """Whether any wants the addresses of the sockets in each record."""
        self._wanting_addresses: tuple[AnyObserver, ...] = ()
        self.by_hook: dict[str, tuple[_Entry, ...]] = dict.fromkeys(_HOOKS, ())
        """The observers to notify, by hook; only those that override it. The tuples are replaced
        and never changed, so that an event keeps those who were there when it happened."""

    def add(self, observer: AnyObserver, where: Where | None = None) -> None:
        """Notify an observer from now on, through the methods that it has now.

        :param where: called with the record, for each event of a connection: whether to notify the
            observer of it. Alarms and actions concern no single connection, and are not asked for.
        :raises ObserverError: a method is a coroutine function, though it is no AsyncObserver.
        """
        # All hooks are read before any is added: an observer that raises here is not added at all.
        calls = hooks_of(observer)
        if isinstance(observer, AsyncObserver):
            calls = queue_calls(observer, calls, self._clock, self)
        if where is not None:
            for hook in calls.keys() & set(_OF_CONNECTIONS):
                calls[hook] = _only(calls[hook], where)
        for hook, call in calls.items():
            self.by_hook[hook] += ((observer, call),)
        self._set_watched()
        if "data" in calls and self._is_payload_forbidden:
            self._log_forbidden(observer)
        if getattr(observer, "wants_addresses", False):
            self._wanting_addresses += (observer,)
            self.wants_addresses = True

    def remove(self, observer: AnyObserver) -> None:
        """Notify an observer no more; harmless for one that is not subscribed."""
        for hook, subscribed in self.by_hook.items():
            self.by_hook[hook] = tuple(each for each in subscribed if each[0] is not observer)
        self._set_watched()
        self._wanting_addresses = tuple(
            each for each in self._wanting_addresses if each is not observer
        )
        self.wants_addresses = bool(self._wanting_addresses)

    def forbid_payload(self, is_forbidden: bool) -> None:
        """Show payload to no observer, whatever it wants; or to those that want it again."""
        if is_forbidden and not self._is_payload_forbidden:
            for observer, _ in self.by_hook["data"]:
                self._log_forbidden(observer)
        self._is_payload_forbidden = is_forbidden
        self._set_watched()

    def _set_watched(self) -> None:
        self.watched = bool(self.by_hook["data"]) and not self._is_payload_forbidden

    def _log_forbidden(self, observer: AnyObserver) -> None:
        self._log.warn(
            "{service}: payload: never keeps bytes from observer {observer}",
            service=self._service,
            observer=type(observer).__name__,
        )

    def notify(self, hook: str, subject: object, *more: object) -> None:
        """Call a hook of each observer that overrides it; within a hook, after that one's event.

        :param subject: the record, or what else has changed.
        :param more: the hook's other arguments.
        :raises KeyboardInterrupt: the user has interrupted the program while an observer ran.
        """
        before = self.by_hook[hook]
        if not before:
            return
        if _delivery.is_running:
            self._add(_Event(hook, (subject, *more), ((self, before),)))
            return
        _delivery.is_running = True
        try:
            for each in before:
                now = self.by_hook[hook]
                # An earlier one in this very loop may have had it removed.
                if now is before or any(each is other for other in now):
                    try:
                        # Most hooks have one argument, and a call with a tuple takes longer.
                        if more:
                            each[1](subject, *more)
                        else:
                            each[1](subject)
                    except BaseException:
                        self._failed(each[0])
        finally:
            _delivery.is_running = False
        if _delivery.waiting or _delivery.interrupt is not None:
            _deliver_waiting()

    def report(self, action: Action, others: Iterable[Observers] = ()) -> None:
        """Write an action into the log, and notify every observer of it, each once.

        Of the actions of the program's own code, which may be a loop over thousands of
        connections, of ``auto_block``, and of what ends by time, the log has
        :data:`OWN_CODE_LINES_PER_SECOND` and sums up the others; an operator's are all there.

        :param others: those of the other services that it concerned.
        :raises KeyboardInterrupt: the user has interrupted the program while an observer ran.
        """
        log = self._log_by_actor.get(action.actor)
        if log is None or log.has_room():
            self._log.info("{action}", action=action.describe())
        else:
            log.add(action.kind)
        notified: dict[int, tuple[Observers, _Entry]] = {}
        for observers in (self, *others):
            for each in observers.by_hook["acted"]:
                notified.setdefault(id(each[0]), (observers, each))
        if notified:
            subscribed = tuple((observers, (each,)) for observers, each in notified.values())
            self._add(_Event("acted", (action,), subscribed))
            if not _delivery.is_running:
                _deliver_waiting(is_caused=False)

    def _add(self, event: _Event) -> None:
        _delivery.waiting.append(event)
        _delivery.added += 1

    def flush_log(self) -> None:
        """Write the summaries of the actions that were not logged one by one, if there are any."""
        for log in self._log_by_actor.values():
            log.flush()

    def _write_summary(self, actor: Actor, count: int, kinds: str) -> None:
        self._log.info(
            "{service}: {count} more actions for {actor}: {kinds}",
            service=self._service,
            count=count,
            actor=actor.describe(),
            kinds=kinds,
        )

    def _failed(self, observer: AnyObserver) -> None:
        """Switch off an observer whose exception is being handled.

        sys.exit() in an observer must not end the program either: the connections of others
        depend on it. The user's interrupt does, once the other observers are notified.
        """
        # Decided here: to call the observers through a common function would cost a call of that
        # for each chunk.
        error = sys.exc_info()[1]
        if isinstance(error, KeyboardInterrupt):
            _delivery.interrupt = error
            return
        self.remove(observer)
        self._log.failure(
            "{service}: observer {observer} failed and is switched off",
            service=self._service,
            observer=type(observer).__name__,
        )

    def _stop_endless(self, observer: AnyObserver) -> None:
        self.remove(observer)
        self._log.error(
            "{service}: observer {observer} is switched off: it answers events that follow from"
            " others by causing more, without an end ({count})",
            service=self._service,
            observer=type(observer).__name__,
            count=CAUSED_EVENTS,
        )


def _deliver_waiting(is_caused: bool = True) -> None:
    """Deliver what has happened meanwhile, until nothing more does.

    :param is_caused: whether the first of these events, too, follows from another one.
    :raises KeyboardInterrupt: the user has interrupted the program while an observer ran.
    """
    causing: Counter[int] = Counter()
    _delivery.is_running = True
    try:
        while _delivery.waiting:
            event = _delivery.waiting.popleft()
            if not isinstance(event, _Event):
                _call_safely(event)
                continue
            for observers, subscribed in event.subscribed:
                for each in subscribed:
                    if not any(each is other for other in observers.by_hook[event.hook]):
                        continue  # it was removed meanwhile
                    added_before = _delivery.added
                    try:
                        each[1](*event.args)
                    except BaseException:
                        observers._failed(each[0])
                    added = _delivery.added - added_before
                    if added and is_caused:
                        causing[id(each[0])] += 1 if event.hook in _OF_CONNECTIONS else added
                        if causing[id(each[0])] > CAUSED_EVENTS:
                            observers._stop_endless(each[0])
            is_caused = True
    finally:
        _delivery.is_running = False
    interrupt, _delivery.interrupt = _delivery.interrupt, None
    if interrupt is not None:
        raise interrupt


def _call_safely(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # it must keep no observer from what comes after it
        Observers._log.failure("what waited for observers failed")


def hooks_of(observer: AnyObserver) -> dict[str, _Call]:
    """The methods through which an observer is notified: calls to those of the base class, which
    do nothing, are saved.

    :raises AttributeError: one is missing.
    :raises ObserverError: one is a coroutine function, though it is no AsyncObserver.
    """
    base = AsyncObserver if isinstance(observer, AsyncObserver) else Observer
    calls: dict[str, _Call] = {}
    for hook in _HOOKS:
        if hook in _OPTIONAL and not hasattr(observer, hook):
            continue
        if hook == "data" and not observer.watches_payload:
            continue
        call = getattr(observer, hook)
        if hook == "data" or getattr(call, "__func__", None) is not getattr(base, hook):
            calls[hook] = call
    if base is Observer:
        for hook, call in calls.items():
            _refuse_coroutine(type(observer), hook, call)
    return calls


def check_class(cls: type) -> None:
    """Check a class of observers before there is an instance.

    :raises ObserverError: a method is a coroutine function, though it is no AsyncObserver.
    """
    if not issubclass(cls, AsyncObserver):
        for hook in _HOOKS:
            _refuse_coroutine(cls, hook, getattr(cls, hook, None))


def _refuse_coroutine(cls: type, hook: str, call: object) -> None:
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise ObserverError(
            f"{cls.__name__}.{hook} is an async def, which would never run: derive the class from"
            " monconn.AsyncObserver, or write def"
        )


def _only(call: _Call, where: Where) -> _Call:
    def notify(record: ConnectionRecord, *args: object) -> None:
        if where(record):
            call(record, *args)

    return notify
