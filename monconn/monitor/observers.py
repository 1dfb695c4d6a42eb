"""Notifies observers; an exception in one affects neither the caller nor the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from twisted.logger import Logger

from monconn.clock import Clock
from monconn.model.actions import OWN_CODE, Action
from monconn.monitor.interfaces import IObserver, Observer
from monconn.ratelimit import RateLimitedLog

_Call = Callable[..., object]
OWN_CODE_LINES_PER_SECOND = 20
_HOOKS = ("opened", "refused", "data", "closed", "alarmed", "acted")


class Observers:
    """The observers of one monitor; one that raises is logged and not notified again.

    :param service: the service's name, for the log.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._own_code_log = RateLimitedLog(clock, OWN_CODE_LINES_PER_SECOND, self._write_summary)
        self.flush_log = self._own_code_log.flush
        """Write the summary of the actions that were not logged one by one, if there are any."""
        self.watched = False
        """Whether any wants payload: checked before bytes are copied out of the kernel."""
        self.by_hook: dict[str, tuple[tuple[IObserver, _Call], ...]] = dict.fromkeys(_HOOKS, ())
        """The observers to notify, by hook; only those that override it."""

    def add(self, observer: IObserver) -> None:
        """Notify an observer from now on, through the methods that it has now."""
        # All hooks are read before any is added: an observer that raises here is not added at all.
        calls = {hook: getattr(observer, hook) for hook in _HOOKS if _is_overridden(observer, hook)}
        for hook, call in calls.items():
            self.by_hook[hook] += ((observer, call),)
        self.watched = bool(self.by_hook["data"])

    def remove(self, observer: IObserver) -> None:
        """Notify an observer no more; harmless for one that is not subscribed."""
        for hook, subscribed in self.by_hook.items():
            self.by_hook[hook] = tuple(each for each in subscribed if each[0] is not observer)
        self.watched = bool(self.by_hook["data"])

    def notify(self, hook: str, *args: object) -> None:
        """Call a hook of each observer that overrides it.

        :raises KeyboardInterrupt: the user interrupts the program while an observer runs.
        """
        before = self.by_hook[hook]
        for each in before:
            now = self.by_hook[hook]
            # An earlier one in this very loop may have had it removed.
            if now is before or any(each is other for other in now):
                try:
                    each[1](*args)
                except BaseException:
                    self._failed(each[0])

    def report(self, action: Action, others: Iterable[Observers] = ()) -> None:
        """Write an action into the log, and notify every observer of it, each once.

        Of the actions of the program's own code, which may be a loop over thousands of
        connections, the log has :data:`OWN_CODE_LINES_PER_SECOND` and sums up the others; an
        operator's are all there.

        :param others: those of the other services that it concerned.
        :raises KeyboardInterrupt: the user interrupts the program while an observer runs.
        """
        if action.actor != OWN_CODE or self._own_code_log.has_room():
            self._log.info("{action}", action=action.describe())
        else:
            self._own_code_log.add(action.kind)
        notified: set[int] = set()
        for observers in (self, *others):
            for observer, call in observers.by_hook["acted"]:
                if id(observer) not in notified:
                    notified.add(id(observer))
                    try:
                        call(action)
                    except BaseException:
                        observers._failed(observer)

    def _write_summary(self, count: int, kinds: str) -> None:
        self._log.info(
            "{service}: {count} more actions for {actor}: {kinds}",
            service=self._service,
            count=count,
            actor=OWN_CODE.describe(),
            kinds=kinds,
        )

    def _failed(self, observer: IObserver) -> None:
        """Switch off an observer whose exception is being handled.

        sys.exit() in an observer must not end the program either: the connections of others
        depend on it.

        :raises KeyboardInterrupt: it is that.
        """
        # Decided here: to call the observers through a common function would cost a call of that
        # for each chunk.
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise
        self.remove(observer)
        self._log.failure(
            "{service}: observer {observer} failed and is switched off",
            service=self._service,
            observer=type(observer).__name__,
        )


def _is_overridden(observer: IObserver, hook: str) -> bool:
    """Whether a hook does anything: calls to the base class's empty ones are saved."""
    if hook == "data":
        return observer.watches_payload
    if hook == "acted" and not hasattr(observer, hook):  # optional: not in IObserver
        return False
    return getattr(getattr(observer, hook), "__func__", None) is not getattr(Observer, hook)
