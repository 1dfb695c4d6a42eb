"""Queries of live connections, and of those that have closed lately."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.clock import Clock
from monconn.devices.diagnosis import diagnose
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.columns import Listing
from monconn.ops.feed import connection_row
from monconn.ops.filters import Context, Filter
from monconn.ops.rates import LEAST_SECONDS, MOST_SECONDS, Rates
from monconn.ops.record_keys import MEASURED_FIELDS, record_key
from monconn.ops.rows import ClientRow, ClosedConnectionRow, ConnectionRow, IpRow
from monconn.ops.selection import live_records, must_measure, sift
from monconn.ops.sorting import first_in_order, parse_sort
from monconn.steps import RowSteps, sort_in_steps
from monconn.turns import in_turns, result_of

QUERIES_AT_ONCE = 4
"""Queries over live connections that are worked on at the same time; the others wait for them.
Each makes lists of all connections, 100 bytes for each of them."""
_MOST_ROWS = 10**9  # more than there are, and what islice() takes

_SOUGHT_AT_ONCE = 100
"""Closed connections that are sought in one step among all that a service remembers."""

T = TypeVar("T")


@attrs.frozen
class LastingListing:
    """Connections that were found, whose rows may be taken over minutes.

    :param rows: in order, each as it is when it is asked for; None for one that has ended meanwhile
        or, of closed ones, is not remembered any more.
    :param total: how many were found.
    """

    rows: RowSteps[ConnectionRow]
    total: int


class LiveQueries:
    """Asks monitors, the kernel and the counters about many connections, in turns of the reactor.

    :param registry: the monitors.
    :param clock: monotonic time, and the wait until rates are known.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self.registry = registry
        self.clock = clock
        self._rates = Rates()
        self._waiting_for_rates: list[Deferred[None]] = []
        self._forget_timer: IDelayedCall | None = None
        self._room = DeferredSemaphore(QUERIES_AT_ONCE)

    def context(self) -> Context:
        """What filters need beside a record."""
        return Context(self.clock.seconds(), self._rates)

    def in_line(self, steps: Generator[None, None, T]) -> Deferred[T]:
        """Run steps in turns, once those of few other queries are under way."""
        result: Deferred[T] = self._room.run(result_of, self.clock, steps)
        return result

    # -- connections

    def connections(
        self,
        monitors: Sequence[Monitor],
        wanted: Sequence[Filter],
        *,
        sort: str | None,
        offset: int | None,
        limit: int | None,
        closed: bool,
    ) -> Deferred[Listing[ConnectionRow]]:
        """Live connections, or (``closed``) those that ended last, for which all filters hold.

        :raises QuestionError: there is no such order.
        """

        def list_closed(ended: list[ConnectionRecord]) -> Iterator[ConnectionRow]:
            for each in ended:
                yield connection_row(each, self._rates, self.clock.seconds(), ClosedConnectionRow)

        rows_of = list_closed if closed else self.measured_rows
        return self._found(monitors, wanted, sort, offset, limit, closed).addCallback(
            lambda found: Listing(rows_of(found[0]), found[1])
        )

    def lasting_connections(
        self,
        monitors: Sequence[Monitor],
        wanted: Sequence[Filter],
        *,
        sort: str | None,
        closed: bool,
    ) -> Deferred[LastingListing]:
        """The same, whose rows may be taken over minutes: only their ids are held.

        :raises QuestionError: there is no such order.
        """
        rows_of = self._closed_rows if closed else self._live_rows

        def hold(
            found: tuple[list[ConnectionRecord], int],
        ) -> Generator[None, None, LastingListing]:
            ids = array("q")
            for record in found[0]:
                ids.append(record.id)
                yield
            return LastingListing(rows_of(ids, monitors), found[1])

        return self._found(monitors, wanted, sort, None, None, closed).addCallback(
            lambda found: result_of(self.clock, hold(found))
        )

    def _found(
        self,
        monitors: Sequence[Monitor],
        wanted: Sequence[Filter],
        sort: str | None,
        offset: int | None,
        limit: int | None,
        closed: bool,
    ) -> Deferred[tuple[list[ConnectionRecord], int]]:
        """The connections that are wanted, in order, and how many there are in all."""
        order = parse_sort(sort or "id", ClosedConnectionRow if closed else ConnectionRow)
        first = min(max(offset or 0, 0), _MOST_ROWS)
        last = min(first + (_MOST_ROWS if limit is None else max(limit, 0)), _MOST_ROWS)

        def find(
            records: Iterable[ConnectionRecord],
        ) -> Generator[None, None, tuple[list[ConnectionRecord], int]]:
            now = self.clock.seconds()
            chosen, total = yield from first_in_order(
                sift(records, wanted, Context(now, self._rates)),
                record_key(order, self._rates, now),
                order.is_descending,
                last,
            )
            return chosen[first:], total

        def find_closed() -> Generator[None, None, tuple[list[ConnectionRecord], int]]:
            # Copies: others close meanwhile.
            copies = [tuple(monitor.closed_records) for monitor in monitors]
            return (yield from find(chain.from_iterable(copies)))

        def find_live() -> Generator[None, None, tuple[list[ConnectionRecord], int]]:
            if must_measure(wanted) or order.fields[0] in MEASURED_FIELDS:
                yield from self.measure(monitors)
            return (yield from find(live_records(monitors)))

        if closed:
            return self.in_line(find_closed())
        return self.rates_known().addCallback(lambda _: self.in_line(find_live()))

    def connection(self, connection_id: int | str) -> Deferred[ConnectionRow]:
        """One connection, live or closed lately, with its diagnosis and what TCP knows.

        :param connection_id: its id, or its uid.
        :raises UnknownConnection: there is none with this id.
        """
        if isinstance(connection_id, str):
            connection_id = self.registry.id_of(connection_id)
        self.registry.record(connection_id)  # raises at once, not in the Deferred

        def make(_: object) -> ConnectionRow:
            record, now = self.registry.record(connection_id), self.clock.seconds()
            is_paused = None
            for monitor in self.registry:
                if connection_id in monitor:
                    monitor.measure(connection_id)
                    monitor.ask_addresses(connection_id)
                    is_paused = monitor.is_paused or None
            row = connection_row(
                record,
                self._rates,
                now,
                ConnectionRow if record.closed is None else ClosedConnectionRow,
            )
            found = (monitor.recorder.find(connection_id) for monitor in self.registry)
            recording = next(filter(None, found), None)
            return attrs.evolve(
                row,
                diagnosis=diagnose(record, now),
                community_id=record.community_id,
                backend_community_id=record.backend_community_id,
                recorded=None if recording is None else recording.byte_count(),
                is_paused=is_paused,
                client_ended_seconds=_seconds_to(record, record.ended_since("client")),
                backend_ended_seconds=_seconds_to(record, record.ended_since("backend")),
            )

        return self.rates_known().addCallback(make)

    def measure(self, monitors: Iterable[Monitor]) -> Iterator[None]:
        """Have the kernel asked about every live connection: two system calls for each."""
        for monitor in monitors:
            for record in monitor.iter_connections():
                if record.id in monitor:
                    monitor.measure(record.id)
                yield

    def measured_rows(self, records: Iterable[ConnectionRecord]) -> Iterator[ConnectionRow]:
        """Rows of live connections, each as it is when it is asked for, also to the kernel."""
        monitors = {monitor.name: monitor for monitor in self.registry}
        for record in records:
            monitor = monitors.get(record.service)
            if monitor is not None and record.id in monitor:
                monitor.measure(record.id)
            yield connection_row(record, self._rates, self.clock.seconds())

    def _live_rows(
        self, ids: array[int], monitors: Sequence[Monitor]
    ) -> Iterator[ConnectionRow | None]:
        for each in ids:
            monitor = next((monitor for monitor in monitors if each in monitor), None)
            if monitor is None:
                yield None
            else:
                monitor.measure(each)
                yield connection_row(monitor.connection(each), self._rates, self.clock.seconds())

    def _closed_rows(
        self, ids: array[int], monitors: Sequence[Monitor]
    ) -> Iterator[ConnectionRow | None]:
        for start in range(0, len(ids), _SOUGHT_AT_ONCE):
            sought = ids[start : start + _SOUGHT_AT_ONCE]
            is_sought = frozenset(sought).__contains__
            found: dict[int, ConnectionRecord] = {}
            for monitor in monitors:
                found |= {each.id: each for each in monitor.closed_records if is_sought(each.id)}
                yield None
            for each in sought:
                record, now = found.get(each), self.clock.seconds()
                yield (
                    None
                    if record is None
                    else connection_row(record, self._rates, now, ClosedConnectionRow)
                )

    # -- clients

    def ips(self, monitor: Monitor, wanted: Filter) -> RowSteps[IpRow]:
        """The IPs that have live connections at a service."""
        keyed: list[tuple[str, int]] = []
        for each in monitor.connections_by_ip().items():
            keyed.append(each)
            yield None
        ordered = yield from sort_in_steps(keyed)
        rows = ({"service": monitor.name, "ip": ip, "connections": count} for ip, count in ordered)
        for row in wanted.sift(rows, self.context()):
            yield row and IpRow(ip=row["ip"], connections=row["connections"])

    def clients(self, monitors: Iterable[Monitor], wanted: Filter) -> RowSteps[ClientRow]:
        """The totals of each client IP at each service."""
        rows = (
            client and {"service": monitor.name, **client}
            for monitor in monitors
            for client in monitor.clients.snapshot_in_steps(monitor.iter_connections())
        )
        return (row and ClientRow(**row) for row in wanted.sift(rows, self.context()))

    # -- rates

    def rates_known(self) -> Deferred[None]:
        """Fires once the counters were read twice, far enough apart for rates."""
        waiting: Deferred[None] = Deferred()
        self._waiting_for_rates.append(waiting)
        if len(self._waiting_for_rates) == 1:
            self._sample_for_all()
        return waiting

    def sample_rates(self) -> Iterator[None]:
        """Read the counters of all live connections, in steps."""
        return self._rates.sample(live_records(self.registry), self.clock.seconds)

    def _sample_for_all(self) -> None:
        """Read the counters for all who wait; one of them that gives up stops nothing."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        self._forget_timer = self.clock.callLater(MOST_SECONDS, self._forget_rates)
        in_turns(self.clock, self.sample_rates()).addCallbacks(
            lambda _: self._sampled(), self._not_sampled
        )

    def _forget_rates(self) -> None:
        self._forget_timer = None
        in_turns(self.clock, self._rates.forget())

    def _sampled(self) -> None:
        if not self._rates.are_known:
            self.clock.callLater(LEAST_SECONDS, self._sample_for_all)
            return
        waiting, self._waiting_for_rates = self._waiting_for_rates, []
        for each in waiting:
            if not each.called:  # else it was cancelled
                each.callback(None)

    def _not_sampled(self, failure: Failure) -> None:
        waiting, self._waiting_for_rates = self._waiting_for_rates, []
        for each in waiting:
            if not each.called:
                each.errback(failure)


def _seconds_to(record: ConnectionRecord, moment: float | None) -> float | None:
    """How long after a connection's opening that was."""
    return None if moment is None else round(moment - record.opened, 6)
