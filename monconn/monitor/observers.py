"""Telling observers, so that none of them can do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from monconn.model.actions import Action
from monconn.monitor.interfaces import IObserver, Observer

_Call = Callable[..., object]
_HOOKS = ("opened", "refused", "data", "closed", "alarmed", "acted")


class Notifier:
    """Tells observers what they want to hear of; one that raises is told nothing more.

    :param name: of the service, for the log.
    :param observers: who is told from the beginning.
    """

    _log = Logger()

    def __init__(self, name: str, observers: Iterable[IObserver] = ()) -> None:
        self.name = name
        self.watched = False
        """Whether anyone wants to see payload: asked before it is shown to anyone."""
        self._subscribers: dict[str, tuple[tuple[IObserver, _Call], ...]] = dict.fromkeys(
            _HOOKS, ()
        )
        for observer in observers:
            self.add_observer(observer)

    def add_observer(self, observer: IObserver) -> None:
        """Tell an observer of everything from now on, by the methods that it has now."""
        heeded = [hook for hook in _HOOKS if _subscribes(observer, hook)]  # or none, if that fails
        for hook in heeded:
            self._subscribers[hook] += ((observer, getattr(observer, hook)),)
        self.watched = bool(self._subscribers["data"])

    def remove_observer(self, observer: IObserver) -> None:
        """Tell an observer nothing more; harmless for one that is not told anything."""
        for hook, heeding in self._subscribers.items():
            self._subscribers[hook] = tuple(each for each in heeding if each[0] is not observer)
        self.watched = bool(self._subscribers["data"])

    def _notify(self, hook: str, *args: object) -> None:
        told = self._subscribers[hook]
        for each in told:
            heeding = self._subscribers[hook]
            # An earlier one may have had it removed.
            if heeding is told or any(each is other for other in heeding):
                try:
                    each[1](*args)
                except BaseException:  # sys.exit() too: others' connections are in our hands
                    self._switch_off(each[0])

    def report(self, action: Action, others: Iterable[Notifier] = ()) -> None:
        """Write an action into the log, and notify every observer of it, each once.

        :param others: the other monitors that it concerned, whose observers are notified, too.
        """
        self._log.info("{action}", action=action.describe())
        notified: set[int] = set()
        for notifier in (self, *others):
            for observer, call in notifier._subscribers["acted"]:
                if id(observer) not in notified:
                    notified.add(id(observer))
                    try:
                        call(action)
                    except (Exception, SystemExit):
                        notifier._switch_off(observer)

    def _switch_off(self, observer: IObserver) -> None:
        self.remove_observer(observer)
        self._log.failure(
            "{service}: observer {observer} failed and is switched off",
            service=self.name,
            observer=type(observer).__name__,
        )


def _subscribes(observer: IObserver, hook: str) -> bool:
    """Whether a hook of an observer's is worth calling."""
    if hook == "data":
        return observer.watches_payload
    if hook == "acted" and not hasattr(observer, hook):  # optional: not in IObserver
        return False
    return getattr(getattr(observer, hook), "__func__", None) is not getattr(Observer, hook)
