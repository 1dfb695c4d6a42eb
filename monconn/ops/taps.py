"""Live taps: the bytes of chosen connections, as flow events, from now on.

A :class:`Tap` is a bounded queue. The data path puts events into it and goes on, however slowly
they are taken: what does not fit is dropped and counted, and the next chunk's offset shows the gap.
Only connections that are tapped are copied through Python; the others go on being spliced, and so
does each of these once no tap is on it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from monconn.clock import Clock
from monconn.errors import Conflict, Forbidden, UnknownConnection
from monconn.log import Logger
from monconn.model import flow
from monconn.model.flow import Data, FlowEvent, SideEnded
from monconn.model.reasons import Direction, Side, SideEnd
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.monitor.subscriptions import Cancel
from monconn.ops.filter_keys import BLOCK_KEYS, MEASURED_KEYS
from monconn.ops.filters import Context, Exact, Filter
from monconn.turns import in_turns

MOST_TAPS = 32
"""Taps at the same time, those of captures included; one more is refused."""
MOST_CONNECTIONS = 1_000
"""Connections of one tap at the same time; others are left out, and counted. One counts until its
last event is taken."""
MOST_LEFT_OUT = 10 * MOST_CONNECTIONS
"""Live connections of which a tap remembers that they are left out, so that each is counted once:
they are tried again when they are identified."""
QUEUE_BYTES = 4 * 1024 * 1024
"""The most that the events of one tap may hold; so a reader may be late by that much."""
EVENT_BYTES = 256
"""What an event counts beside its bytes: chunks of one byte must not fill the memory."""


@attrs.frozen
class TapResult:
    """The result of :meth:`monconn.ops.operations.Operations.tap`.

    :param unknown: the ids asked for that no live connection has.
    :param services_left_out: those that were asked for and have ``payload: never``.
    """

    tap: Tap
    unknown: tuple[int, ...]
    services_left_out: tuple[str, ...]


class Named(Protocol):
    """Has the name of a service."""

    @property
    def name(self) -> str:
        """The service's name."""


N = TypeVar("N", bound=Named)


class Choice(Protocol):
    """Which connections a tap is for, as a :class:`~monconn.ops.filters.Filter` says."""

    def uses(self, key: str) -> bool:
        """Whether this key of a filter is asked for."""

    def matches(self, row: Any, context: Context) -> bool:
        """Whether a record is wanted."""


class Tap:
    """The events of some connections, until they are taken; made by :meth:`Taps.open`.

    :param taps: knows all taps.
    :param ready: is called with the tap when there is an event where there was none, and when it is
        over; also before :meth:`Taps.open` has returned. As it is called from within the data path,
        it may do no more than take what there is, or arrange for that.
    """

    def __init__(
        self,
        taps: Taps,
        ready: Callable[[Tap], object],
        filter: Choice | None,
        services: frozenset[str] | None,
        follows: bool,
        first: int | None,
        queue_bytes: int,
    ) -> None:
        self._taps = taps
        self._ready = ready
        self._filter = filter
        self._services = services
        self._first = first
        self._queue: deque[FlowEvent] = deque()
        self._room = queue_bytes
        self._flows: dict[int, _Flow] = {}
        self._policies: dict[Monitor, Cancel] = {}
        """Subscriptions to those of the services of tapped connections."""
        self._held: set[int] = set()
        """The connections whose last event was not taken yet."""
        self._left_out: set[int] = set()
        """Live connections that are counted as left out."""
        self._forbidden: set[Monitor] = set()
        """Services of which nothing may be seen any more, and whose connections are being ended."""
        self._wake_is_due = True
        self.follows = follows
        """Whether connections that are opened, or match, later are tapped as well."""
        self.is_closed = False
        self.dropped_bytes = 0
        """How many bytes were dropped, as they came faster than they were taken."""
        self.left_out = 0
        """How many connections matched and are not tapped, as there are too many."""
        self.chosen: Deferred[None] = succeed(None)
        """Fires once all connections were tried that were live as the tap was opened. To cancel it
        closes the tap."""

    def __len__(self) -> int:
        """How many connections are tapped now."""
        return len(self._flows)

    @property
    def is_over(self) -> bool:
        """Whether no event will come any more, beside those that are in the queue."""
        if self.is_closed:
            return True
        return not (self.follows or self._flows) and bool(self.chosen.called)

    def take(self) -> FlowEvent | None:
        """The next event; None if there is none now: ``ready`` is called for the next one."""
        if not self._queue:
            self._wake_is_due = True
            return None
        event = self._queue.popleft()
        self._room += EVENT_BYTES
        if isinstance(event, Data):
            self._room += len(event.data)
        elif isinstance(event, flow.Ended):
            self._held.discard(event.connection)
        return event

    def close(self) -> None:
        """Tap nothing any more, and drop what was not taken; harmless the second time.

        The connections are spliced again.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._taps._remove(self)
        self.chosen.cancel()
        for each in self._flows.values():
            each.stop()
        for cancel in self._policies.values():
            cancel()
        self._flows.clear()
        self._policies.clear()
        self._left_out.clear()
        self._queue.clear()

    # -- called by Taps

    def _wants(self, record: ConnectionRecord, context: Context) -> bool:
        if self._services is not None and record.service not in self._services:
            return False
        return self._filter is None or self._filter.matches(record, context)

    def _add(self, monitor: Monitor, record: ConnectionRecord, is_amid_chunk: bool = False) -> None:
        """Tap a connection, unless there are too many, or it cannot be watched.

        :param is_amid_chunk: the first chunk that is seen may be one that is counted already.
        """
        if record.id in self._flows or self.is_closed:
            return
        if monitor.policy.payload == "never" or monitor in self._forbidden:
            return
        if len(self._held) >= MOST_CONNECTIONS:
            self._leave_out(record.id)
            return
        added = _Flow(self, monitor, record, self._first)
        try:
            added.start()
        except UnknownConnection:  # it has ended, or is one that cannot be watched
            return
        self._flows[record.id] = added
        self._held.add(record.id)
        if monitor not in self._policies:
            self._policies[monitor] = monitor.when_applied(lambda: self._applied(monitor))
        if is_amid_chunk:
            self._taps._clock.callLater(0, added.begin)
        else:
            added.begin()

    def _leave_out(self, connection_id: int) -> None:
        if connection_id not in self._left_out:
            self.left_out += 1
            if len(self._left_out) < MOST_LEFT_OUT:
                self._left_out.add(connection_id)

    def _put(self, event: FlowEvent) -> None:
        """Queue an event that is never dropped; there are four of each connection at most."""
        self._room -= EVENT_BYTES
        self._queue.append(event)
        self._wake()

    def _put_data(self, event: Data) -> None:
        size = len(event.data)
        if size + EVENT_BYTES > self._room:
            self.dropped_bytes += size
            return
        self._room -= size + EVENT_BYTES
        self._queue.append(event)
        self._wake()

    def _end(self, connection_id: int) -> None:
        """A connection is closed, or must not be seen any more: its last events."""
        self._left_out.discard(connection_id)
        ended = self._flows.get(connection_id)
        if ended is not None:
            ended.stop()
            # Before it is removed: whoever takes one of its last events must not find the tap over,
            # and leave the others.
            ended.finish()
            self._flows.pop(connection_id, None)
            self._wake_if_over()

    def _end_all(self, monitor: Monitor) -> None:
        """Show no byte of a service from now on, and end its connections, in turns.

        Those of all taps may be tens of thousands, at 5 µs each.
        """
        if monitor not in self._forbidden:
            self._forbidden.add(monitor)
            in_turns(self._taps._clock, self._ending(monitor)).addErrback(self._failed_to_end)

    def _ending(self, monitor: Monitor) -> Iterator[None]:
        for connection_id, each in tuple(self._flows.items()):
            if each.belongs_to(monitor):
                self._end(connection_id)
                yield
        self._forbidden.discard(monitor)

    def _failed_to_end(self, failure: Failure) -> None:
        self._taps._log.failure("a tap failed to end its connections, and is closed", failure)
        self.close()

    def _applied(self, monitor: Monitor) -> None:
        """A service has another policy: that may forbid to see its bytes."""
        if monitor.policy.payload == "never":
            self._end_all(monitor)

    def _wake_if_over(self) -> None:
        if self.is_over and not self.is_closed:
            self._wake()

    def _wake(self) -> None:
        if self._wake_is_due:
            self._wake_is_due = False
            self._ready(self)


def _nothing() -> None:
    """Cancels what was cancelled."""


class _Flow:
    """One connection of one tap."""

    __slots__ = ("_cancel", "_has_begun", "_left", "_monitor", "_record", "_seen_ends", "_tap")

    def __init__(
        self, tap: Tap, monitor: Monitor, record: ConnectionRecord, first: int | None
    ) -> None:
        self._tap = tap
        self._monitor = monitor
        self._record = record
        self._left: dict[Direction, int] | None = (
            None if first is None else {"up": first, "down": first}
        )
        self._has_begun = False
        self._seen_ends: dict[Side, SideEnd] = {}
        self._cancel: Callable[[], None] = _nothing

    def start(self) -> None:
        """Watch the connection's payload.

        :raises UnknownConnection: it has ended, or is one that cannot be watched.
        """
        self._cancel = self._monitor.watch(self._record.id, self._see)
        self._monitor.ask_addresses(self._record.id)  # for whoever makes packets of it

    def stop(self) -> None:
        """Watch it no more: it is spliced again, if nobody else watches it."""
        # It leads back to here: no cycle is left to be collected; a tap may have thousands of them.
        cancel, self._cancel = self._cancel, _nothing
        cancel()

    def belongs_to(self, monitor: Monitor) -> bool:
        """Whether it is a connection of this monitor's."""
        return self._monitor is monitor

    def begin(self, direction: Direction | None = None, counted: int = 0) -> None:
        """Say that it is seen from now on, if that was not said.

        :param direction: of a chunk that is seen and counted already.
        :param counted: its size.
        """
        if self._has_begun or self._tap.is_closed:
            return
        self._has_begun = True
        record = self._record
        up, down = record.up, record.down
        if direction == "up":
            up -= counted
        elif direction == "down":
            down -= counted
        began = flow.began(record, time.time())
        self._tap._put(attrs.evolve(began, up=up, down=down))
        if record.first_end is not None:
            at = began.at
            if record.half_closed is not None:  # not after that, though the wall clock was set back
                at = min(at, record.opened_at + (record.half_closed - record.opened))
            self.note_end(record.first_end, "fin", at)

    def _see(self, direction: Direction, data: bytes) -> None:
        if self._monitor in self._tap._forbidden:
            return
        record, size = self._record, len(data)
        if not self._has_begun:
            self.begin(direction, size)
        offset = (record.up if direction == "up" else record.down) - size
        if self._left is not None:
            data = data[: self._left[direction]]
            self._left[direction] -= len(data)
            if not any(self._left.values()):
                self.stop()
        if data:
            self._tap._put_data(Data(record.id, time.time(), direction, offset, data))

    def note_end(self, side: Side, how: SideEnd, at: float | None = None) -> None:
        """Say that a side has ended, if that was not said.

        :param at: when, in wall-clock seconds; now if left out.
        """
        if self._seen_ends.get(side) != how:
            self._seen_ends[side] = how
            record = self._record
            sent = record.up if side == "client" else record.down
            self._tap._put(SideEnded(record.id, at or time.time(), side, how, sent))

    def finish(self) -> None:
        """Say how it has ended, as far as that is known by now."""
        self.begin()
        record = self._record
        sides: tuple[Side, Side] = ("client", "backend")
        for side in sides if record.first_end != "backend" else reversed(sides):
            how = record.end_of(side)
            if how != "none":
                self.note_end(side, how)
        self._tap._put(flow.ended(record, time.time()))


class Taps(Observer):
    """All taps of a program. Observes the monitors while there is a tap, and only then.

    :param registry: the monitors, with those to come.
    :param clock: for turns.
    :param context: what filters need beside a record.
    """

    _log = Logger()

    def __init__(
        self, registry: Registry, clock: Clock, context: Callable[[], Context] = Context
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._context = context
        self._taps: dict[Tap, None] = {}
        self._stop_observing: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """How many taps are open."""
        return len(self._taps)

    def open(
        self,
        ready: Callable[[Tap], object],
        *,
        filter: Choice | None = None,
        ids: Collection[int] | None = None,
        services: Collection[str] | None = None,
        follow: bool = False,
        first: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        replaced: Tap | None = None,
    ) -> Tap:
        """Tap live connections from now on.

        Connections of services with ``payload: never`` are not tapped. A filter is tried on each
        connection that is live now, and with ``follow`` on others as they are opened, and on any
        one when its bytes have told more of it: then the very chunk that told it is seen, too.

        :param ready: see :class:`Tap`.
        :param filter: over :data:`~monconn.ops.filter_keys.CONNECTION_KEYS`; all if left out.
        :param ids: of those that are live now, only these.
        :param services: only connections of these.
        :param follow: tap those that match later as well; else the tap is over once its
            connections have ended.
        :param first: how many bytes of each direction are seen; after both, the connection is
            spliced again, and of what follows only its end is seen.
        :param queue_bytes: how much may wait until it is taken.
        :param replaced: is closed next by whoever calls this, so it does not count.
        :raises Conflict: there are too many taps already.
        """
        if len(self._taps) - (replaced in self._taps) >= MOST_TAPS:
            raise Conflict(f"{MOST_TAPS} taps and captures are open already: end one first")
        chosen_services = None if services is None else frozenset(services)
        tap = Tap(self, ready, filter, chosen_services, follow, first, queue_bytes)
        if not self._taps:
            stop_following = self._registry.when_deleted(self._deleted)
            stop_observing = self._registry.observe(self)

            def stop() -> None:
                stop_following()
                stop_observing()

            self._stop_observing = stop
        self._taps[tap] = None
        choosing = in_turns(self._clock, self._choose(tap, ids)).addErrback(self._failed, tap)
        tap.chosen = choosing.addCallback(lambda _: tap._wake_if_over())
        return tap

    def _choose(self, tap: Tap, ids: Collection[int] | None) -> Iterator[None]:
        """Try the connections that are live now, one a step."""
        context = self._context()
        wanted = None if ids is None else frozenset(ids)
        measures = tap._filter is not None and any(map(tap._filter.uses, MEASURED_KEYS))
        for monitor in self._registry:
            live = monitor.iter_connections()
            if wanted is not None:
                live = (monitor.connection(each) for each in wanted if each in monitor)
            for record in live:
                yield
                if record.id not in monitor:
                    continue
                if measures:
                    monitor.measure(record.id)
                if tap._wants(record, context):
                    tap._add(monitor, record)

    def add(self, tap: Tap, record: ConnectionRecord) -> None:
        """Try one live connection, as what a tap is for has changed."""
        if not tap.is_closed and tap._wants(record, self._context()):
            for monitor in self._registry:
                if record.id in monitor:
                    tap._add(monitor, record)

    def _failed(self, failure: Failure, tap: Tap) -> None:
        tap.close()
        if not failure.check(CancelledError):
            self._log.failure("a tap failed to find its connections", failure)

    def _remove(self, tap: Tap) -> None:
        del self._taps[tap]
        if not self._taps:
            self._stop_observing()

    # -- what happens

    def opened(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.opened``: tap it, if a tap that follows wants it."""
        self._try(record)

    def identified(self, record: ConnectionRecord) -> None:
        """Implements ``IIdentifiedObserver.identified``: try the filters once more."""
        self._try(record, is_amid_chunk=True)

    def _try(self, record: ConnectionRecord, is_amid_chunk: bool = False) -> None:
        context: Context | None = None
        for tap in tuple(self._taps):
            if not tap.follows or record.id in tap._flows:
                continue
            context = context or self._context()
            if tap._wants(record, context):
                for monitor in self._registry:
                    if record.id in monitor:
                        tap._add(monitor, record, is_amid_chunk)

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Implements ``IHalfCloseObserver.half_closed``."""
        for tap in self._taps:
            if seen := tap._flows.get(record.id):
                seen.note_end(side, "fin")

    def closed(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.closed``."""
        for tap in tuple(self._taps):
            tap._end(record.id)

    def _deleted(self, monitor: Monitor) -> None:
        """A service is removed: what is left of its connections is seen no more."""
        for tap in tuple(self._taps):
            tap._end_all(monitor)
            tap._policies.pop(monitor, lambda: None)()


def services_by_payload(
    monitors: Iterable[Monitor], filter: Filter
) -> tuple[list[Monitor], tuple[str, ...]]:
    """The services that a filter can mean, and may be seen; and the names of those that may not.

    :param filter: over connections.
    :raises Forbidden: none of them may be seen.
    """
    meant = services_meant(monitors, filter)
    allowed = [each for each in meant if each.policy.payload != "never"]
    forbidden = tuple(each.name for each in meant if each.policy.payload == "never")
    if forbidden and not allowed:
        raise payload_forbidden(forbidden)
    return allowed, forbidden


def services_meant(services: Iterable[N], filter: Filter) -> list[N]:
    """The services that a filter can mean.

    :param services: monitors, or configurations of services.
    """
    names = Filter(tuple(term for term in filter.terms if term.key == "service"), BLOCK_KEYS)
    return [each for each in services if names.matches({"service": each.name}, Context())]


def service_concerned(services: Sequence[N], filter: Filter, *, follows: bool) -> str | None:
    """The service that a tap is of, for the log; None for all of them.

    :param services: those that are tapped now.
    :param filter: over connections.
    :param follows: those of services to come are tapped as well, unless the filter names one.
    """
    if len(services) != 1:
        return None
    names = [t for t in filter.terms if t.key == "service" and not t.is_negated]
    if follows and not (names and all(isinstance(each.value, Exact) for each in names)):
        return None
    return services[0].name


def payload_forbidden(services: Sequence[str]) -> Forbidden:
    """The error for those who ask for bytes of services with ``payload: never``."""
    names = ", ".join(services)
    what = f"service {names} has" if len(services) == 1 else f"services {names} have"
    return Forbidden(f"{what} payload: never in the configuration: no bytes are shown or stored")
