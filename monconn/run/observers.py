"""The custom observers of a configuration: made, limited to what they chose, and stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred, DeferredList

from monconn.clock import Clock
from monconn.config.config import Config
from monconn.config.sections import ObserverConfig
from monconn.errors import ConfigError, ObserverError, Problem
from monconn.model.record import ConnectionRecord
from monconn.monitor.async_observer import AsyncObserver
from monconn.monitor.interfaces import IObserver
from monconn.monitor.observers import AnyObserver, check_class
from monconn.monitor.registry import Registry
from monconn.ops.filter_keys import record_filter
from monconn.ops.filters import FilterError


class CustomObservers:
    """Makes the custom observers, and has them notified.

    :param config: what to run.
    :param registry: the services' monitors, with those to come.
    :param clock: monotonic time.
    :raises ObserverError: one cannot be made, is no observer, or has a filter that is wrong.
    """

    def __init__(self, config: Config, registry: Registry, clock: Clock) -> None:
        self._async: list[tuple[str, AsyncObserver]] = []
        services = [each.name for each in config.services]
        for each in config.observers:
            observer = _make_observer(each)
            try:
                where = _where(each, services, clock.seconds)
                registry.observe(observer, services=each.services, where=where)
            except (FilterError, ObserverError) as error:
                raise ObserverError(f"observers: {each.use}: {error}") from None
            if isinstance(observer, AsyncObserver):
                self._async.append((each.use, observer))

    def dropped(self) -> dict[str, int]:
        """How many events each observer with a queue has dropped, by its class."""
        counts: Counter[str] = Counter()
        for use, observer in self._async:
            counts[use] += observer.dropped
        return dict(counts)

    def stop(self, wait_seconds: float) -> Deferred[object]:
        """Have those with a queue handle what is in it; what is left after that time is dropped."""
        stopping = [observer.stop(wait_seconds) for _, observer in self._async]
        return DeferredList(stopping)  # type: ignore[return-value]


def check_observers(config: Config, source: str) -> Config:
    """Check what the configuration's reader cannot: filters, and the methods of the classes.

    :param source: the file's name, for the problems.
    :returns: the configuration.
    :raises ConfigError: with all problems.
    """
    services = [each.name for each in config.services]
    problems: list[Problem] = []
    for index, each in enumerate(config.observers):
        checks: list[tuple[str, Callable[[], object]]] = [
            ("filter", lambda each=each: _where(each, services)),  # type: ignore[misc]
            ("use", lambda each=each: _check_class(each)),  # type: ignore[misc]
        ]
        for key, check in checks:
            try:
                check()
            except (FilterError, ObserverError) as error:
                line = each.lines.get(key)
                place = (each.source or source, line, f"observers[{index}].{key}")
                problems.append(Problem(*place, str(error)))
    if problems:
        raise ConfigError(problems)
    return config


def _check_class(config: ObserverConfig) -> None:
    if isinstance(config.make, type):
        check_class(config.make)


def _where(
    config: ObserverConfig, services: Iterable[str], now: Callable[[], float] = time.monotonic
) -> Callable[[ConnectionRecord], bool] | None:
    """The filter of an observer.

    :raises FilterError: it cannot be understood.
    """
    if config.filter is None:
        return None
    return record_filter(config.filter, now=now, services=services)


def _make_observer(config: ObserverConfig) -> AnyObserver:
    """A custom observer.

    :raises ObserverError: it cannot be made, or is not an observer.
    """
    try:
        observer = config.make(**config.options)
        missing = [each for each in IObserver if not hasattr(observer, each)]
    except BaseException as error:  # it is the user's code, and may fail in any way
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise ObserverError(f"observers: {config.use} cannot be made: {message}") from error
    if missing:
        raise ObserverError(
            f"observers: {config.use} is no observer, it has no {', '.join(sorted(missing))}:"
            " derive it from monconn.Observer"
        )
    return observer  # type: ignore[no-any-return]
