"""The monitors of a program, by name."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred, gatherResults

from monconn.addresses import Network, parse_network
from monconn.clock import Clock, MonotonicClock
from monconn.errors import (
    DuplicateService,
    SettingTypeError,
    UnknownConnection,
    UnknownService,
    quoted,
)
from monconn.log import Logger
from monconn.model import uid
from monconn.model.actions import NOBODY, OWN_CODE, Action, ActionKind, Actor, whose_code
from monconn.model.record import ConnectionRecord
from monconn.monitor.blocking import Blocking, block_detail
from monconn.monitor.monitor import Monitor
from monconn.monitor.observers import AnyObserver, Where, hooks_of
from monconn.monitor.subscriptions import Cancel, Subscriptions
from monconn.policy.blocks import Block, Blocks

WAIT_SECONDS = 60.0
MOST_GONE = 1000


class Registry:
    """Monitors by the names of their services, and what is blocked at all of them.

    :param clock: monotonic time and timers for blocks; if left out, the clock of the first
        monitor that there is when something is blocked.
    """

    _log = Logger()

    def __init__(self, clock: Clock | None = None) -> None:
        self.blocks = Blocks()
        """What is blocked at all services, also at those that are added later."""
        self.unreadable_files: dict[str, str] = {}
        """Why files of ``block_files`` cannot be read now, by path; what they listed before is in
        force. Whoever watches them sets it."""
        self.unblocked = Subscriptions[[Network]]()
        """Called with each network that was unblocked everywhere."""
        self.gone: OrderedDict[str, Monitor] = OrderedDict()
        """Monitors of services that were removed, as a later configuration may have their names
        again: their counters, and what was blocked by hand, go on then; :data:`MOST_GONE` at most.
        """
        self._clock = clock
        self._blocking: Blocking | None = None
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
        self.gone.pop(monitor.name, None)
        monitor.admission.shared_blocks = self.blocks
        if len(monitor):
            monitor.ending.end_blocked(
                [e.network for e in self.blocks.in_force() if not e.keep_open]
            )
        monitor.recorder.configure(monitor.policy.recorder)  # it may have been deleted before
        self._when_added.notify(monitor)

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
        self._when_deleted.notify(monitor)
        return monitor

    def keep(self, monitor: Monitor) -> None:
        """Keep a deleted monitor without connections, in case its service comes back."""
        self.gone[monitor.name] = monitor
        if len(self.gone) > MOST_GONE:
            self.gone.popitem(last=False)

    # -- what is blocked at all services

    @property
    def blocking(self) -> Blocking:
        """What is blocked at all services, with its ends."""
        if self._blocking is None:
            if self._clock is None:
                monitor = next(iter(self), None)
                self._clock = MonotonicClock() if monitor is None else monitor.clock
            self._blocking = Blocking(
                self.blocks, self._clock, self._end_blocked, self._block_ended
            )
        return self._blocking

    def block(
        self,
        network: str | Network,
        *,
        for_seconds: float | None = None,
        reason: str = "",
        keep_open: bool = False,
        actor: Actor = OWN_CODE,
    ) -> bool:
        """Block an IP or a network at every service, also at those that are added later.

        Arguments, result and errors are those of :meth:`Monitor.block`.
        """
        network = parse_network(str(network))
        actor = whose_code() if actor is OWN_CODE else actor
        change, count = self.blocking.block_and_end(
            network, for_seconds=for_seconds, reason=reason, keep_open=keep_open, actor=actor
        )
        changed = change.is_new or change.is_changed
        detail = block_detail(for_seconds, reason)
        self._report("block", actor, network, count, changed, detail)
        return change.is_new

    def unblock(self, network: str | Network, *, actor: Actor = OWN_CODE) -> bool:
        """Unblock exactly this IP or network at every service, whoever has blocked it, and whether
        at one service or at all.

        :returns: False if it was blocked nowhere.
        :raises AddressError: it is no network.
        """
        network = parse_network(str(network))
        was_there = self.unblock_everywhere(network)
        actor = whose_code() if actor is OWN_CODE else actor
        self._report("unblock", actor, network, 0, was_there)
        return was_there

    def unblock_everywhere(self, network: Network) -> bool:
        """Do what :meth:`unblock` does, without a report."""
        found = [self.blocking.unblock(network)]
        found += [each.unblock(network, actor=None) for each in self]
        for monitor in self.gone.values():  # should it come back, it is to have it unblocked
            monitor.unblock(network, actor=None)
        self.unblocked.notify(network)
        return any(found)

    def _end_blocked(self, networks: Collection[Network]) -> int:
        return sum(each.ending.end_blocked(networks) for each in self)

    def get_block(self, network: Network) -> Block | None:
        """The block of exactly this network at all services."""
        return self.blocks.get(network, self.blocking.seconds())

    def _block_ended(self, block: Block) -> None:
        self._report("block_ended", NOBODY, block.network)

    def _report(
        self,
        kind: ActionKind,
        actor: Actor,
        network: Network,
        count: int = 0,
        changed: bool = True,
        detail: str = "",
    ) -> None:
        action = Action(kind, actor, time.time(), None, str(network), count, changed, detail)
        monitors = list(self)
        if monitors:
            monitors[0].report(action, monitors[1:])
        else:
            self._log.info("{action}", action=action.describe())

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
