"""One feed of what happens at every service: connections, refusals, alarms and actions."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
from twisted.python.failure import Failure

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import EVENT_KINDS, EventKind, Side
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.ops.columns import Row
from monconn.ops.filters import Context, Exact, Filter, Part, Value
from monconn.ops.rates import Rates
from monconn.ops.rows import ActionRow, AlarmRow, ConnectionRow, HalfClosedRow
from monconn.ratelimit import RateLimiter
from monconn.turns import in_turns

EVENTS_PER_SECOND = 1_000
"""The limit on delivered events; others are dropped and counted, so that subscribers cannot
overload the reactor."""
CHECKS_PER_SECOND = 5_000
"""Events that filters are tried on; to make the row of an event costs some 20 µs."""
QUEUED_EVENTS = 1_000
"""Events that may wait until they are delivered. Each is made as it happens and delivered in turns
of the reactor: to try 64 subscribers' filters on it may take milliseconds."""


class FeedEvent:
    """One event; every subscriber gets the same object.

    :param sequence: grows by one or more from one event to the next, as long as the program runs.
    :param kind: one of :data:`~monconn.model.reasons.EVENT_KINDS`.
    :param service: None for an action on all services.
    :param row: a connection's, an alarm's or an action's.
    """

    __slots__ = ("_encoded", "_json", "kind", "row", "sequence", "service")

    def __init__(self, sequence: int, kind: EventKind, service: str | None, row: Row) -> None:
        self.sequence = sequence
        self.kind = kind
        self.service = service
        self.row = row
        self._json: dict[str, Any] = {
            "event": kind,
            "at": iso_time(time.time()),
            **row.to_json(),
            "sequence": sequence,
        }
        self._encoded: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """The row's fields, with ``event``, ``at`` and ``sequence``."""
        return self._json

    def encode(self) -> bytes:
        """The same as JSON text; encoded once for all subscribers."""
        if self._encoded is None:
            self._encoded = json.dumps(self._json).encode()
        return self._encoded


class Subscription:
    """One subscriber's part of the feed, made by :meth:`Feed.subscribe`."""

    def __init__(
        self,
        feed: Feed,
        deliver: Callable[[FeedEvent], object],
        service: str | None,
        filter: Filter | None,
    ) -> None:
        self._feed = feed
        self._deliver = deliver
        self._service = service
        self._filter = filter
        self._is_paused = False
        self._kinds = _kinds_of(filter)
        self.dropped = 0
        """How many events were not delivered, as they came too fast or during a pause."""

    def pause(self) -> None:
        """Drop and count events from now on: the subscriber's queue is full."""
        self._is_paused = True

    def resume(self) -> None:
        """Deliver again."""
        self._is_paused = False

    def cancel(self) -> None:
        """Deliver nothing more; harmless the second time."""
        self._feed._remove(self)

    @property
    def is_filtered(self) -> bool:
        """Whether an event must be made before it is known to be wanted."""
        return self._filter is not None

    def concerns(self, kind: EventKind, service: str | None) -> bool:
        """Whether such events of a service (None: of all of them) are subscribed at all."""
        if kind not in self._kinds:
            return False
        return self._service is None or service is None or self._service == service

    @property
    def is_cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self not in self._feed._subscriptions

    def wants(self, event: FeedEvent) -> bool:
        """Whether the event passes the filter."""
        return self._filter is None or self._filter.matches(event.to_json(), Context())

    def deliver(self, event: FeedEvent) -> None:
        """Hand an event over, or count it as dropped."""
        if self._is_paused:
            self.dropped += 1
        else:
            self._deliver(event)


class Feed(Observer):
    """Observes the monitors while there is a subscriber, and only then.

    :param registry: the monitors, with those to come.
    :param clock: limits the events of each second.
    """

    _log = Logger()

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._subscriptions: dict[Subscription, None] = {}
        self._stop_observing: Callable[[], None] = lambda: None
        self._room = RateLimiter(clock, EVENTS_PER_SECOND)
        self._checks = RateLimiter(clock, CHECKS_PER_SECOND)
        self._sequence = 0
        self._queue: deque[tuple[FeedEvent, list[Subscription]]] = deque()
        self._is_delivering = False

    def subscribe(
        self,
        deliver: Callable[[FeedEvent], object],
        *,
        service: str | None = None,
        filter: Filter | None = None,
    ) -> Subscription:
        """Deliver events from now on.

        :param deliver: is called with each event; must not block. If it raises, it is logged and
            the subscription is cancelled.
        :param service: only events of this service, and actions on all of them.
        :param filter: over :data:`~monconn.ops.filter_keys.EVENT_KEYS`. Events ``half_closed`` are
            delivered only if it names them, as ``event:half_closed`` does.
        """
        subscription = Subscription(self, deliver, service, filter)
        if not self._subscriptions:
            self._stop_observing = self._registry.observe(self)
        self._subscriptions[subscription] = None
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        if subscription not in self._subscriptions:
            return
        del self._subscriptions[subscription]
        if not self._subscriptions:
            self._stop_observing()

    # -- what happens

    def opened(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.opened``: queue an event for each subscriber."""
        self._happened("opened", record.service, lambda: self._row(record))

    def refused(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.refused``."""
        self._happened("refused", record.service, lambda: self._row(record))

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Implements ``IHalfCloseObserver.half_closed``."""
        self._happened(
            "half_closed",
            record.service,
            lambda: self._row(record, partial(HalfClosedRow, side=side)),
        )

    def closed(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.closed``."""
        self._happened("closed", record.service, lambda: self._row(record))

    def alarmed(self, alarm: Alarm) -> None:
        """Implements ``IObserver.alarmed``."""
        self._happened("alarm", alarm.service, lambda: _alarm_row(alarm))

    def acted(self, action: Action) -> None:
        """Implements ``IActionObserver.acted``."""
        self._happened("action", action.service, lambda: ActionRow(**action.to_dict()))

    def _row(
        self, record: ConnectionRecord, make: Callable[..., ConnectionRow] = ConnectionRow
    ) -> ConnectionRow:
        return connection_row(record, Rates(), self._clock.seconds(), make)

    def _happened(self, kind: EventKind, service: str | None, make_row: Callable[[], Row]) -> None:
        concerned = [each for each in self._subscriptions if each.concerns(kind, service)]
        if not concerned:
            return
        self._sequence += 1
        # Without a filter, no row need be made of an event that is dropped. With one, whether a
        # dropped event would have passed is not known: it counts.
        is_filtered = any(each.is_filtered for each in concerned)
        has_room = len(self._queue) < QUEUED_EVENTS
        if not (has_room and (self._checks if is_filtered else self._room).take()):
            for each in concerned:
                each.dropped += 1
            return
        self._queue.append((FeedEvent(self._sequence, kind, service, make_row()), concerned))
        if not self._is_delivering:
            self._is_delivering = True
            in_turns(self._clock, self._deliver_queued()).addErrback(self._failed)

    def _deliver_queued(self) -> Iterator[None]:
        while self._queue:
            event, concerned = self._queue.popleft()
            # Of one that somebody filters it is asked for once somebody wants it.
            has_room: bool | None = None if any(each.is_filtered for each in concerned) else True
            for each in concerned:
                yield
                if each.is_cancelled or not each.wants(event):
                    continue
                if has_room is None:
                    has_room = self._room.take()
                if not has_room:
                    each.dropped += 1
                    continue
                try:
                    each.deliver(event)
                except Exception:
                    self._log.failure("a subscriber of events failed and is cancelled")
                    each.cancel()
        self._is_delivering = False

    def _failed(self, failure: Failure) -> None:
        self._is_delivering = False
        self._log.failure("events are lost", failure)


def _alarm_row(alarm: Alarm) -> AlarmRow:
    # Own code may raise alarms with figures of its own, which no row has a field for.
    values = alarm.snapshot()
    names = {each.name for each in attrs.fields(AlarmRow)}
    return AlarmRow(**{name: each for name, each in values.items() if name in names})


def _kinds_of(filter: Filter | None) -> frozenset[EventKind]:
    """The kinds of event that a filter may want.

    Where it names them, no row is made of the others: who waits for alarms costs connections that
    come and go nothing. Connections that are half-closed are events only for those who ask, as
    there may be one for each: by a term that can mean no other kind.
    """
    usual: list[EventKind] = [kind for kind in EVENT_KINDS if kind != "half_closed"]
    terms = () if filter is None else filter.terms
    named = [each.value for each in terms if each.key == "event" and not each.is_negated]
    if not named:
        return frozenset(usual)
    kinds: set[EventKind] = set()
    for value in named:
        wanted = [kind for kind in usual if _names(value, kind)]
        kinds.update(wanted if wanted else ("half_closed",))
    return frozenset(kinds)


def _names(value: Value, kind: EventKind) -> bool:
    if isinstance(value, Exact):
        return value.text == kind
    return not isinstance(value, Part) or value.text in kind


def connection_row(
    record: ConnectionRecord,
    rates: Rates,
    now: float,
    make: Callable[..., ConnectionRow] = ConnectionRow,
) -> ConnectionRow:
    """A connection as it is at this moment.

    :param now: monotonic seconds.
    :param make: the row's class.
    """
    up_rate, down_rate = rates.of(record, now)
    return make(**record.snapshot(now), up_rate=round(up_rate, 1), down_rate=round(down_rate, 1))
