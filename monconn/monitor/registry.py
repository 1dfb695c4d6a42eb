"""The monitors of a program, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred, gatherResults

from monconn.errors import (
    DuplicateService,
    SettingTypeError,
    UnknownConnection,
    UnknownService,
    quoted,
)
from monconn.model import uid
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.observers import AnyObserver, Where, hooks_of
from monconn.monitor.subscriptions import Cancel, Subscriptions

WAIT_SECONDS = 60.0


class Registry:
    """Monitors by the names of their services."""

    def __init__(self) -> None:
        self._monitors: dict[str, Monitor] = {}
        self._when_added = Subscriptions[[Monitor]]()
        self._when_deleted = Subscriptions[[Monitor]]()

    def new(self, name: str = "default", *args: Any, **kwargs: Any) -> Monitor:
        """Make a monitor and add it; what follows the name is as for :class:`Monitor`.

        :raises DuplicateService: there is one with this name.
        :raises SettingError: an argument is not valid.
        """
        monitor = Monitor(name, *args, **kwargs)
        self.add(monitor)
        return monitor

    def add(self, monitor: Monitor) -> None:
        """Add a monitor that was made elsewhere.

        :raises DuplicateService: there is one with this name.
        """
        if monitor.name in self._monitors:
            raise DuplicateService(f"a service named {monitor.name!r} exists already")
        self._monitors[monitor.name] = monitor
        monitor.recorder.configure(monitor.policy.recorder)  # it may have been deleted before
        for call in self._when_added.calls:
            call(monitor)

    def when_added(self, call: Callable[[Monitor], object]) -> Cancel:
        """Call something with each monitor that is added from now on.

        :returns: cancels the subscription.
        """
        return self._when_added.add(call)

    def when_deleted(self, call: Callable[[Monitor], object]) -> Cancel:
        """Call something with each monitor that is deleted from now on.

        :returns: cancels the subscription.
        """
        return self._when_deleted.add(call)

    def observe(
        self,
        observer: AnyObserver,
        *,
        services: Collection[str] | None = None,
        where: Where | None = None,
    ) -> Cancel:
        """Add an observer to every monitor, and to each that is added from now on.

        :param services: only to the monitors with these names.
        :param where: as for :meth:`Monitor.add_observer`.
        :returns: removes the observer from all of them and cancels the subscription.
        :raises ObserverError: a method is an ``async def``, though it is no ``AsyncObserver``.
        """
        if isinstance(services, str):
            raise SettingTypeError(
                f"services={services!r}: must be several names, as in [{services!r}]"
            )
        hooks_of(observer)  # what is no observer is refused now, and not with the first monitor
        # Those that were deleted meanwhile may still have connections: they are released, too.
        observed: WeakSet[Monitor] = WeakSet()

        def follow(monitor: Monitor) -> None:
            if services is None or monitor.name in services:
                observed.add(monitor)
                monitor.add_observer(observer, where=where)

        stop_following = self.when_added(follow)
        for monitor in self:
            follow(monitor)

        def cancel() -> None:
            stop_following()
            for monitor in tuple(observed):
                monitor.remove_observer(observer)

        return cancel

    def get(self, name: str) -> Monitor:
        """The monitor of a service.

        :raises UnknownService: there is none with this name.
        """
        try:
            return self._monitors[name]
        except KeyError:
            raise UnknownService(f"there is no service named {quoted(name)}") from None

    def delete(self, name: str) -> Monitor:
        """Remove a monitor, which goes on watching its connections.

        What is recorded of them is dropped, as it can be neither read nor forgotten any more.

        :raises UnknownService: there is none with this name.
        """
        monitor = self.get(name)
        del self._monitors[name]
        monitor.recorder.configure(None)
        for call in self._when_deleted.calls:
            call(monitor)
        return monitor

    def record(self, connection_id: int) -> ConnectionRecord:
        """A connection of any service, live or closed recently.

        :raises UnknownConnection: there is none with this id.
        """
        for monitor in self:
            if connection_id in monitor:
                return monitor.connection(connection_id)
        for monitor in self:
            for record in monitor.closed_records:
                if record.id == connection_id:
                    return record
        raise UnknownConnection(f"no connection has the id {connection_id}, or had it lately")

    def id_of(self, connection_uid: str) -> int:
        """The id that a connection with this uid has, or had, in this process.

        :raises UnknownConnection: it is none of this process's.
        """
        parsed = uid.parse_uid(connection_uid)
        if parsed is None:
            raise UnknownConnection(f"{quoted(connection_uid)} is no uid of a connection")
        run, connection_id = parsed
        if run != uid.run:
            raise UnknownConnection(
                f"the connection {connection_uid} is of another run of monconn: a history, if one"
                f" is stored, has it as uid:{connection_uid}"
            )
        return connection_id

    def names(self) -> list[str]:
        """The services' names, oldest first."""
        return list(self._monitors)

    def __iter__(self) -> Iterator[Monitor]:
        return iter(tuple(self._monitors.values()))

    def __len__(self) -> int:
        return len(self._monitors)

    def __bool__(self) -> bool:
        return True

    def shutdown(self, wait_seconds: float = WAIT_SECONDS) -> Deferred[list[None]]:
        """Stop every monitor, as :meth:`Monitor.stop` does.

        :returns: fires when the last connection of all has ended.
        """
        return gatherResults([monitor.stop(wait_seconds) for monitor in self])
