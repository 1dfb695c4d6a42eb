"""Every query about, and action on, the services of a program.

Faces (control port, manhole, HTTP) translate to this and back: they parse their input, call one
method, and render rows. A query gives rows of :mod:`monconn.ops.rows`; an action takes the
:class:`~monconn.model.actions.Actor` that asked for it, and leaves one line in the log and one
event for observers, unless it is a dry run.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.addresses import Network, parse_network
from monconn.clock import Clock
from monconn.config.sections import USUAL_CAPTURE, CaptureConfig
from monconn.devices.devices import DevicesService
from monconn.devices.diagnosis import diagnose
from monconn.errors import FileError, NotConfigured, QuestionError, UnknownConnection, quoted
from monconn.model.actions import Action, ActionKind, Actor
from monconn.model.flow import FlowEvent
from monconn.model.reasons import STATES
from monconn.model.record import ConnectionRecord, known_fact_names
from monconn.monitor.blocking import block_detail
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.blocks import (
    BlockResult,
    block_network,
    block_rows,
    check_block_network,
    unblock_network,
)
from monconn.ops.captures import CaptureResult, Captures
from monconn.ops.columns import Row
from monconn.ops.device import DeviceStory, tell_story
from monconn.ops.feed import Feed, FeedEvent, Subscription, connection_row
from monconn.ops.filter_keys import (
    BLOCK_KEYS,
    CONNECTION_KEYS,
    DEVICE_KEYS,
    EVENT_KEYS,
    HISTORY_EVENT_KEYS,
    HISTORY_KEYS,
    IP_KEYS,
    MEASURED_KEYS,
)
from monconn.ops.filters import (
    MAX_IDS,
    Context,
    Exact,
    Filter,
    Keys,
    Mode,
    Part,
    Range,
    Term,
    parse,
)
from monconn.ops.forget import ForgetResult, memory_steps
from monconn.ops.rates import LEAST_SECONDS, MOST_SECONDS, Rates
from monconn.ops.record_keys import MEASURED_FIELDS, record_key
from monconn.ops.reload import ReloadResult
from monconn.ops.rows import (
    BlockRow,
    CaptureRow,
    ClientRow,
    ClosedConnectionRow,
    ConnectionRow,
    DeviceRow,
    HistoryConnectionRow,
    HistoryEventRow,
    IpRow,
    NotifyRow,
    NotifyTestRow,
    ReportRow,
    ServiceRow,
)
from monconn.ops.sorting import first_in_order, parse_sort
from monconn.ops.taps import (
    Tap,
    TapResult,
    Taps,
    payload_forbidden,
    service_concerned,
    services_by_payload,
)
from monconn.ops.why import FindOrigin, why_rows
from monconn.ops.why_rows import WhyRow
from monconn.steps import RowSteps, sort_in_steps
from monconn.turns import in_turns, result_of
from monconn.units import format_duration

if TYPE_CHECKING:
    from monconn.sinks.history.query import Order as HistoryOrder
    from monconn.sinks.history.service import HistoryService  # SQLite and all: only if it is wanted
    from monconn.sinks.notify.service import NotifyService

QUERIES_AT_ONCE = 4
"""Queries over live connections that are worked on at the same time; the others wait for them.
Each makes lists of all connections, 100 bytes for each of them."""
_MOST_ROWS = 10**9  # more than there are, and what islice() takes
MOST_SECONDS_ASKED = 1e9
_LISTED_IDS = 10
"""Ids that a line of the log names."""
_MAX_TARGET_CHARACTERS = 500

Terms = str | Sequence[str] | None
"""A filter: one line as typed into a shell, its terms one by one, or None for everything."""
R = TypeVar("R", bound=Row)
T = TypeVar("T")


@attrs.frozen
class Listing(Generic[R]):
    """Rows that were found.

    :param rows: in order; each is made as it is asked for, and is as things are at that moment.
    :param total: how many there are, of connections without offset and limit.
    """

    rows: Iterator[R]
    total: int


@attrs.frozen
class CloseResult:
    """The result of :meth:`Operations.close`, or of its dry run.

    :param ids: the connections that were ended.
    :param unknown: the ids asked for that no live connection (of the service) has.
    :param rows: of a dry run, the connections; each is made as it is asked for.
    """

    ids: tuple[int, ...]
    unknown: tuple[int, ...] = ()
    rows: Iterable[ConnectionRow] = attrs.field(default=(), eq=False, repr=False)


@attrs.frozen
class ChangeResult:
    """The result of an action on services, or of its dry run.

    :param changed: False if everything was so already.
    :param count: how many connections were ended by it.
    :param services: those that it concerned.
    """

    changed: bool
    count: int
    services: tuple[str, ...]


class Operations:
    """Queries, actions and the event feed over the monitors of a program.

    What costs something for each connection is done in turns of the reactor: a query fires its
    Deferred once it knows which rows there are, and those that return rows with None among them
    have looked at something that is no row there. A cancelled query does nothing more.

    :param registry: the monitors.
    :param clock: monotonic time, and the wait until rates are known.
    :param devices: knows the devices; None if there is none.
    :param history: stores what happened; None if there is none.
    :param manhole: says where the manhole is; None from it if there is none.
    :param keeps_blocks: says whether what operators block outlasts the program.
    :param capture: what is captured to files, and where; None if nothing may be.
    :param origin_of: says where a service's setting is written.
    :param notify: sends events to outputs; None if there are none.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        devices: DevicesService | None = None,
        history: HistoryService | None = None,
        manhole: Callable[[], str | None] = lambda: None,
        keeps_blocks: Callable[[], bool] = lambda: False,
        capture: CaptureConfig | None = USUAL_CAPTURE,
        origin_of: FindOrigin = lambda *_: None,
        notify: NotifyService | None = None,
    ) -> None:
        self.registry = registry
        self.clock = clock
        self.token = secrets.token_hex(8)
        """Tells it from others: who is asked about it at several addresses asks one."""
        self.manhole = manhole
        self._keeps_blocks = keeps_blocks
        self.feed = Feed(registry, clock)
        self.reloader: Callable[..., Deferred[ReloadResult]] | None = None
        """Reads the configuration again; whoever runs one puts it here."""
        self._devices = devices
        self._history = history
        self._origin_of = origin_of
        self._notify = notify
        self._rates = Rates()
        self._waiting_for_rates: list[Deferred[None]] = []
        self._forget_timer: IDelayedCall | None = None
        self._room = DeferredSemaphore(QUERIES_AT_ONCE)
        self.taps = Taps(registry, clock, self._context)
        self.captures = Captures(
            registry,
            clock,
            self.taps,
            capture,
            self._context,
            self._report,
            None if devices is None else devices.identity,
        )

    def monitors(self, service: str | None = None) -> list[Monitor]:
        """One service's monitor, or all of them.

        :raises UnknownService: there is none with this name.
        """
        return list(self.registry) if service is None else [self.registry.get(service)]

    def filter(self, terms: Terms, keys: Keys = CONNECTION_KEYS, mode: Mode = "listing") -> Filter:
        """Parse a filter; the names of services are known to it, and those of facts, but of a
        history's, which has facts of earlier runs.

        :raises FilterError: it cannot be understood.
        """
        known: dict[str, Collection[str]] = {"service": self.registry.names()}
        facts = None if keys is HISTORY_KEYS else known_fact_names()
        if facts is not None:
            known["fact"] = facts
        return parse(terms or "", keys, mode, known)

    # -- queries of what is live

    def services(self, service: str | None = None) -> RowSteps[ServiceRow]:
        """Each service in figures but for its ``ips``, or one of them.

        :raises UnknownService: there is none with this name.
        """
        return self._service_rows(self.monitors(service))

    def _service_rows(self, monitors: Iterable[Monitor]) -> RowSteps[ServiceRow]:
        for monitor in monitors:
            figures = yield from monitor.stats_in_steps()
            yield ServiceRow(**figures, ip_count=monitor.client_ips())

    def connections(
        self,
        filter: Terms = None,
        *,
        service: str | None = None,
        client: str | None = None,
        state: str | None = None,
        idle_over: float | None = None,
        text: str | None = None,
        sort: str | None = None,
        offset: int | None = None,
        limit: int | None = None,
        closed: bool | None = None,
    ) -> Deferred[Listing[ConnectionRow]]:
        """Live connections, or (``closed``) those that ended last.

        Fires at once if they are few and rates are known, or else some turns later, or
        :data:`LEAST_SECONDS`.

        :param filter: over :data:`~monconn.ops.filter_keys.CONNECTION_KEYS`.
        :param service: short form of a term, as client, state, idle_over and text: what a short
            form says must hold, whatever the filter says.
        :param idle_over: seconds.
        :param text: is searched in client, service, state, backend and reason.
        :param sort: the name of a column, as :func:`~monconn.ops.sorting.parse_sort` takes it; the
            default is ``id``, oldest first.
        :raises UnknownService: there is no such service.
        :raises FilterError: the filter cannot be understood.
        :raises QuestionError: there is no such state or order.
        :raises AddressError: the client is no network.
        """
        monitors = self.monitors(service)
        wanted = (self.filter(filter), _short_forms(client, state, idle_over, text))
        order = parse_sort(sort or "id", ClosedConnectionRow if closed else ConnectionRow)
        first = min(max(offset or 0, 0), _MOST_ROWS)
        last = min(first + (_MOST_ROWS if limit is None else max(limit, 0)), _MOST_ROWS)

        def find(
            records: Iterable[ConnectionRecord],
        ) -> Generator[None, None, tuple[list[ConnectionRecord], int]]:
            now = self.clock.seconds()
            chosen, total = yield from first_in_order(
                _sift(records, wanted, Context(now, self._rates)),
                record_key(order, self._rates, now),
                order.is_descending,
                last,
            )
            return chosen[first:], total

        def list_closed() -> Generator[None, None, Listing[ConnectionRow]]:
            # Copies: others close meanwhile.
            copies = [tuple(monitor.closed_records) for monitor in monitors]
            ended, total = yield from find(chain.from_iterable(copies))
            rows = (
                connection_row(each, self._rates, self.clock.seconds(), ClosedConnectionRow)
                for each in ended
            )
            return Listing(rows, total)

        def list_live() -> Generator[None, None, Listing[ConnectionRow]]:
            if _must_measure(wanted) or order.fields[0] in MEASURED_FIELDS:
                yield from self._measure(monitors)
            live, total = yield from find(_live(monitors))
            return Listing(self._measured_rows(live), total)

        if closed:
            return self._in_line(list_closed())
        return self._rates_known().addCallback(lambda _: self._in_line(list_live()))

    def _in_line(self, steps: Generator[None, None, T]) -> Deferred[T]:
        """Run steps in turns, once those of few other queries are under way."""
        result: Deferred[T] = self._room.run(result_of, self.clock, steps)
        return result

    def _measure(self, monitors: Iterable[Monitor]) -> Iterator[None]:
        """Have the kernel asked about every live connection: two system calls for each."""
        for monitor in monitors:
            for record in monitor.iter_connections():
                if record.id in monitor:
                    monitor.measure(record.id)
                yield

    def _measured_rows(self, records: Iterable[ConnectionRecord]) -> Iterator[ConnectionRow]:
        """Rows of live connections, each as it is when it is asked for, also to the kernel."""
        monitors = {monitor.name: monitor for monitor in self.registry}
        for record in records:
            monitor = monitors.get(record.service)
            if monitor is not None and record.id in monitor:
                monitor.measure(record.id)
            yield connection_row(record, self._rates, self.clock.seconds())

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
            )

        return self._rates_known().addCallback(make)

    def _rates_known(self) -> Deferred[None]:
        """Fires once the counters were read twice, far enough apart for rates."""
        waiting: Deferred[None] = Deferred()
        self._waiting_for_rates.append(waiting)
        if len(self._waiting_for_rates) == 1:
            self._sample_rates()
        return waiting

    def _sample_rates(self) -> None:
        """Read the counters for all who wait; one of them that gives up stops nothing."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        self._forget_timer = self.clock.callLater(MOST_SECONDS, self._forget_rates)
        steps = self._rates.sample(_live(self.registry), self.clock.seconds)
        in_turns(self.clock, steps).addCallbacks(lambda _: self._sampled(), self._not_sampled)

    def _forget_rates(self) -> None:
        self._forget_timer = None
        in_turns(self.clock, self._rates.forget())

    def _sampled(self) -> None:
        if not self._rates.are_known:
            self.clock.callLater(LEAST_SECONDS, self._sample_rates)
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

    def ips(self, service: str, filter: Terms = None) -> RowSteps[IpRow]:
        """The IPs that have live connections at a service.

        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        (monitor,) = self.monitors(service)
        return self._ip_rows(monitor, self.filter(filter, IP_KEYS))

    def _ip_rows(self, monitor: Monitor, wanted: Filter) -> RowSteps[IpRow]:
        keyed: list[tuple[str, int]] = []
        for each in monitor.connections_by_ip().items():
            keyed.append(each)
            yield None
        ordered = yield from sort_in_steps(keyed)
        rows = ({"service": monitor.name, "ip": ip, "connections": count} for ip, count in ordered)
        for row in wanted.sift(rows, self._context()):
            yield row and IpRow(ip=row["ip"], connections=row["connections"])

    def clients(self, service: str | None = None, filter: Terms = None) -> RowSteps[ClientRow]:
        """The totals of each client IP at each service, for the IPs seen last.

        :func:`~monconn.ops.rows.sum_by_ip` adds up an IP's rows.

        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        monitors = self.monitors(service)
        wanted = self.filter(filter, IP_KEYS)
        rows = (
            client and {"service": monitor.name, **client}
            for monitor in monitors
            for client in monitor.clients.snapshot_in_steps(monitor.iter_connections())
        )
        return (row and ClientRow(**row) for row in wanted.sift(rows, self._context()))

    def devices(self, service: str | None = None, filter: Terms = None) -> RowSteps[DeviceRow]:
        """Each device that was seen, the one seen last first.

        :raises UnknownService: there is no such service.
        :raises NotConfigured: devices are not watched.
        :raises FilterError: the filter cannot be understood.
        """
        self.monitors(service)
        if self._devices is None:
            raise NotConfigured("devices are not watched here")
        measured = self._devices.measured
        rows, wanted = self._devices.rows_in_steps(service), self.filter(filter, DEVICE_KEYS)
        if wanted.uses("heard"):
            found = wanted.sift((row and measured(row) for row in rows), self._context())
        else:
            found = (row and measured(row) for row in wanted.sift(rows, self._context()))
        return (row and DeviceRow(**row) for row in found)

    def device(
        self,
        name: str,
        *,
        service: str | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> Deferred[DeviceStory]:
        """The story of one device; arguments are those of :func:`~monconn.ops.device.tell_story`.

        :raises UnknownService: there is no such service.
        :raises NotConfigured: devices are not watched.
        :raises UnknownDevice: in the Deferred: nothing is known of such a device.
        """
        monitors = self.monitors(service)
        if self._devices is None:
            raise NotConfigured("devices are not watched here")
        run = None if self._history is None else self._run_in_history
        telling = tell_story(
            name, monitors, self._devices, self.clock, run, since=since, limit=limit
        )
        return Deferred.fromCoroutine(telling)

    def blocks(self, service: str | None = None, filter: Terms = None) -> RowSteps[BlockRow]:
        """The blocked networks: a row for each network and place, that is one service or all.

        :param service: what holds at this service, be it blocked there or at all services.
        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        monitors = self.monitors(service)
        wanted = self.filter(filter, BLOCK_KEYS)
        return block_rows(self.registry, monitors, wanted, self._context())

    def _context(self) -> Context:
        return Context(self.clock.seconds(), self._rates)

    # -- queries of what is over

    def history(
        self, filter: Terms = None, **period: Any
    ) -> Deferred[Listing[HistoryConnectionRow]]:
        """Connections that have ended, newest first.

        :param filter: over :data:`~monconn.ops.filter_keys.HISTORY_KEYS`.
        :param period: ``service``, ``client``, ``since``, ``until`` (wall-clock seconds),
            ``reason`` and ``limit``, as :func:`monconn.sinks.history.query.make_filter` takes them;
            and ``sort``, as :func:`~monconn.ops.sorting.parse_sort` does.
        :raises NotConfigured: no history is stored.
        :raises FilterError: the filter cannot be understood.
        :raises QuestionError: there is no such reason or order, or no time between since and until.
        """
        return self._from_history("connections", HISTORY_KEYS, filter, period).addCallback(
            lambda found: Listing((HistoryConnectionRow(**each) for each in found), len(found))
        )

    def history_events(
        self, filter: Terms = None, **period: Any
    ) -> Deferred[Listing[HistoryEventRow]]:
        """Refusals, alarms, actions, starts and stops, newest first; arguments and errors are
        those of :meth:`history`, with a refusal, an alarm or an action for the reason.

        :param filter: over :data:`~monconn.ops.filter_keys.HISTORY_EVENT_KEYS`.
        """
        period["events"] = True
        return self._from_history("events", HISTORY_EVENT_KEYS, filter, period).addCallback(
            lambda found: Listing((HistoryEventRow(**each) for each in found), len(found))
        )

    def _from_history(
        self, what: str, keys: Keys, filter: Terms, period: Mapping[str, Any]
    ) -> Deferred[list[dict[str, Any]]]:
        self._stored_history()
        from monconn.sinks.history import query

        wanted = self.filter(filter, keys)
        sort = period.get("sort")
        row_class = HistoryEventRow if what == "events" else HistoryConnectionRow
        selection = query.make_filter(
            **{
                **{name: each for name, each in period.items() if name != "sort"},
                "order": None if sort is None else _history_order(sort, row_class),
                "limit": min(period.get("limit") or query.USUAL_ROWS, query.MOST_ROWS),
                "condition": wanted.to_sql() if wanted else None,
            }
        )
        find = query.events if what == "events" else query.connections
        return self._run_in_history(lambda db: find(db, selection))

    def report(self, **period: Any) -> Deferred[ReportRow]:
        """A period in figures.

        :param period: ``service``, ``client``, ``since`` and ``until``.
        :raises NotConfigured: no history is stored.
        :raises QuestionError: there is no time between since and until.
        """
        self._stored_history()
        from monconn.sinks.history import query

        selection = query.make_filter(**period)
        return self._run_in_history(lambda db: query.report(db, selection)).addCallback(
            lambda made: ReportRow(**made)
        )

    def _run_in_history(self, query: Callable[[Any], T]) -> Deferred[T]:
        """Run a query in a thread of the history's, which cannot be taken back.

        So it counts among those that are under way until it is over, though who asked has left.
        """
        return _uncancellable(self._stored_history().run(query))

    def _stored_history(self) -> HistoryService:
        if self._history is None:
            raise NotConfigured("no history is stored: docs/history.md says how to have one")
        return self._history

    # -- events

    def subscribe(
        self,
        deliver: Callable[[FeedEvent], object],
        *,
        service: str | None = None,
        filter: Terms = None,
    ) -> Subscription:
        """Have events delivered from now on, as :meth:`Feed.subscribe` does.

        :param filter: over :data:`~monconn.ops.filter_keys.EVENT_KEYS`.
        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        self.monitors(service)
        wanted = self.filter(filter, EVENT_KEYS)
        return self.feed.subscribe(deliver, service=service, filter=wanted or None)

    # -- actions

    def close(
        self,
        actor: Actor,
        *,
        ids: Sequence[int] | None = None,
        filter: Terms = None,
        service: str | None = None,
        client: str | None = None,
        reset: bool | None = None,
        spread: float | None = None,
        dry_run: bool | None = None,
    ) -> Deferred[CloseResult]:
        """End live connections, with the reason ``operator``: those for which all that is given
        is true. One that is ending already is only ended again by its id, or by a reset.

        Fires at once if there are few connections, unless the filter asks for rates, or for what
        the kernel knows: these are measured first. Where ids are given and none of them is live,
        nothing is logged and no observer is notified. It may be cancelled until it begins to end
        connections.

        :param ids: at most :data:`~monconn.ops.filters.MAX_IDS`; the other arguments may narrow
            them.
        :param filter: terms with keys, or ids.
        :param service: short form of a term, as ``client``.
        :param reset: at once, dropping what is under way; else what is held is delivered first.
        :param spread: seconds over which they are ended evenly, in random order; now if left out.
        :raises QuestionError: nothing, or too many ids are given, or a time makes no sense.
        :raises FilterError: the filter cannot be understood.
        :raises UnknownConnection: it has the uid of another run of the program.
        :raises UnknownService: there is no such service.
        :raises AddressError: the client is no network.
        """
        monitors = self.monitors(service)
        if ids is None and not filter and client is None and service is None:
            raise QuestionError("say which: by ids, by client, by service or by a filter")
        if ids is not None and len(ids) > MAX_IDS:
            raise QuestionError(f"no more than {MAX_IDS} ids at once")
        seconds = _checked_seconds(spread)
        terms = self.filter(filter, mode="action").terms if filter else ()
        terms = tuple(map(self._by_id, terms))
        if ids is None:
            ids, terms = _split_ids(terms)
        wanted = (Filter(terms, CONNECTION_KEYS), _short_forms(client))
        target = (
            "" if service is None else f"service:{service}",
            *(each.to_text() for each in wanted),
            "" if ids is None else _ids_text(ids),
            f"spread over {format_duration(seconds)}" if seconds else "",
        )

        def choose() -> Generator[None, None, CloseResult | Deferred[CloseResult]]:
            if _must_measure(wanted):
                yield from self._measure(monitors)
            known: set[int] = set()
            chosen: list[tuple[Monitor, ConnectionRecord]] = []
            chosen_ids: list[int] = []
            context = self._context()
            for monitor in monitors:
                live: Iterable[ConnectionRecord] = monitor.iter_connections()
                if ids is not None:
                    live = _with_ids(monitor, ids)
                    known.update(record.id for record in live)
                for record in _sift(live, wanted, context):
                    if record is not None and (ids is not None or reset or record.reason is None):
                        chosen.append((monitor, record))
                        chosen_ids.append(record.id)
                    yield
            unknown = tuple(each for each in ids or () if each not in known)
            if dry_run:
                yield from self._rates.sample(_live(self.registry), self.clock.seconds)
                rows = self._measured_rows(record for _, record in chosen)
                return CloseResult(tuple(chosen_ids), unknown, rows)
            if not known and ids is not None:
                return CloseResult((), unknown)  # nothing is live that was asked for: no action
            done = CloseResult(tuple(chosen_ids), unknown)
            return _uncancellable(result_of(self.clock, end(chosen, done)))

        def end(
            chosen: list[tuple[Monitor, ConnectionRecord]], done: CloseResult
        ) -> Generator[None, None, CloseResult]:
            if seconds:
                by_monitor: dict[Monitor, list[int]] = {}
                for monitor, record in chosen:
                    by_monitor.setdefault(monitor, []).append(record.id)
                    yield
                for monitor in by_monitor:
                    monitor.check_spread()  # all, or nothing
                for monitor, chosen_ids in by_monitor.items():
                    monitor.close_spread(chosen_ids, seconds, reset=bool(reset))
            for monitor, record in () if seconds else chosen:
                if record.id in monitor:  # to end another may have ended this one
                    monitor.close(record.id, reset=bool(reset), actor=None)
                yield
            self._report(
                "reset" if reset else "close",
                actor,
                monitors,
                service,
                " ".join(each for each in target if each),
                len(chosen),
            )
            return done

        ready = self._rates_known() if wanted[0].uses("rate") else succeed(None)
        return ready.addCallback(lambda _: self._in_line(choose()))

    def _by_id(self, term: Term) -> Term:
        """The same term, but for a uid: by the id that it has here, as ids are looked up.

        :raises UnknownConnection: it is none of this process's.
        """
        if term.key != "uid" or term.is_negated or not isinstance(term.value, Exact):
            return term
        connection_id = self.registry.id_of(term.value.text)
        return Term("id", Range(connection_id, connection_id))

    def block(
        self,
        actor: Actor,
        network: str | Network,
        *,
        service: str | None = None,
        for_seconds: float | None = None,
        reason: str | None = None,
        keep_open: bool | None = None,
        dry_run: bool | None = None,
    ) -> BlockResult:
        """Refuse clients of an IP or a network, and end those that are connected.

        At all services, those that are added later included, unless one is named. To block a
        network again changes its end and its reason.

        :param for_seconds: how long; for ever if left out.
        :param reason: why, for people.
        :param keep_open: leave those alone that are connected.
        :raises AddressError: it is no network.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it cannot last so long, or the reason is too long.
        """
        parsed = parse_network(str(network))
        reason = " ".join((reason or "").split())
        how: dict[str, Any] = {
            "for_seconds": for_seconds,
            "reason": reason,
            "keep_open": bool(keep_open),
        }
        if dry_run:
            result = check_block_network(self.registry, parsed, service, **how)
        else:
            result = block_network(self.registry, parsed, service, actor=actor, **how)
            self._report(
                "block",
                actor,
                self.monitors(service),
                service,
                str(parsed),
                result.count,
                result.changed,
                block_detail(for_seconds, reason),
            )
        return attrs.evolve(result, is_kept=self._keeps_blocks())

    def unblock(
        self,
        actor: Actor,
        network: str | Network,
        *,
        service: str | None = None,
        dry_run: bool | None = None,
    ) -> BlockResult:
        """Let the clients of exactly this IP or network in again, whoever has blocked it.

        :raises AddressError: it is no network.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it is blocked at all services, and is to be unblocked at one.
        """
        parsed = parse_network(str(network))
        result = unblock_network(self.registry, parsed, service, dry_run=bool(dry_run))
        if not dry_run:
            monitors = self.monitors(service)
            self._report("unblock", actor, monitors, service, str(parsed), 0, result.changed)
        return attrs.evolve(result, is_kept=self._keeps_blocks())

    def reset_stats(
        self, actor: Actor, *, service: str | None = None, dry_run: bool | None = None
    ) -> ChangeResult:
        """Set the totals (bytes, connections opened, refusals) to zero.

        :raises UnknownService: there is no such service.
        """
        monitors = self.monitors(service)
        if not dry_run:
            for monitor in monitors:
                monitor.reset_stats(actor=None)
            self._report("reset_stats", actor, monitors, service)
        return _change(True, monitors)

    def subtract_stats(
        self, actor: Actor, service: str, up: int, down: int, *, dry_run: bool | None = None
    ) -> ChangeResult:
        """Subtract bytes from a service's totals, once they are stored elsewhere.

        :raises UnknownService: there is no such service.
        :raises QuestionError: fewer than none, or more than there are.
        """
        (monitor,) = self.monitors(service)
        try:
            if dry_run:
                monitor.check_subtract(up, down)
            else:
                monitor.subtract(up, down, actor=None)
        except ValueError as error:
            raise QuestionError(str(error)) from None
        if not dry_run:
            self._report("subtract_stats", actor, [monitor], service, f"{up} B up, {down} B down")
        return _change(True, [monitor])

    def forget(
        self, actor: Actor, client: str | Network, *, dry_run: bool | None = None
    ) -> Deferred[ForgetResult]:
        """Remove what is stored of a client: in memory, in the history, and what is usual for it.

        Its live connections go on, and are recorded when they end. The action's entry in the log
        and in the history does not name the client. It goes on to its end though who asked leaves.

        :param client: an IP, or a network of clients.
        :param dry_run: only count.
        :raises AddressError: it is no network.
        """
        network = parse_network(str(client))
        monitors, history = list(self.registry), self._history

        async def run() -> ForgetResult:
            # First of all in memory: what ends alarms of its devices is stored by that.
            steps = memory_steps(self.registry, monitors, self._devices, network, bool(dry_run))
            done = await self._in_line(steps)
            if not dry_run:
                await self._in_line(self.captures.forget_in_steps(network))
            done = attrs.evolve(done, capture_files=self.captures.file_count())
            kind = "a client" if network.num_addresses == 1 else "a network's clients"
            try:
                if history is not None:
                    found = await history.forget(network, dry_run=bool(dry_run))
                    stored = {f"history_{name}": count for name, count in found.counts.items()}
                    removed = {**done.removed, **stored}
                    done = attrs.evolve(done, removed=removed, problem=found.problem)
            except FileError:
                if not dry_run:  # what is gone is gone
                    target = f"{kind}: {done.summary()}; the history failed"
                    self._report("forget", actor, monitors, None, target)
                raise
            if not dry_run:
                self._report("forget", actor, monitors, None, f"{kind}: {done.summary()}")
            return done

        return _uncancellable(Deferred.fromCoroutine(run()))

    def tap(
        self,
        actor: Actor,
        ready: Callable[[Tap], object],
        *,
        filter: Terms = None,
        service: str | None = None,
        follow: bool | None = None,
        how: str | None = None,
        replaced: Tap | None = None,
    ) -> Deferred[TapResult]:
        """Have the bytes of live connections queued from now on, as :meth:`Taps.open` does.

        Fires once the connections are tapped that are live now. To cancel it closes the tap.

        :param filter: ids, or terms with keys; all connections if left out.
        :param follow: tap connections that match later, too.
        :param how: what is done with the bytes, for the log.
        :param replaced: see :meth:`Taps.open`.
        :raises QuestionError: there are too many taps already.
        :raises FilterError: the filter cannot be understood.
        :raises UnknownService: there is no such service.
        :raises UnknownConnection: only ids are given, and no live connection has one of them.
        :raises Forbidden: all services that are meant, or one of a connection that is given by its
            id, have ``payload: never``.
        """
        monitors = self.monitors(service)
        terms = self.filter(filter, mode="action").terms if filter else ()
        wanted = Filter(tuple(map(self._by_id, terms)), CONNECTION_KEYS)
        allowed, forbidden = services_by_payload(monitors, wanted)
        ids, others = (None, wanted.terms) if follow else _split_ids(wanted.terms)
        target = wanted.to_text() or "all connections"
        unknown: tuple[int, ...] = ()
        if ids is not None:
            owners = {each: monitor for monitor in monitors for each in ids if each in monitor}
            unknown = tuple(each for each in ids if each not in owners)
            if len(unknown) == len(ids):
                recorded = [each for each in ids if any(m.recorder.find(each) for m in monitors)]
                hint = f": monconn recording {recorded[0]} has what was said" if recorded else ""
                raise UnknownConnection(f"no live connection has the {_ids_text(ids)}{hint}")
            allowed = list(dict.fromkeys(owners.values()))
            if names := [each.name for each in allowed if each.policy.payload == "never"]:
                raise payload_forbidden(names)
            forbidden = ()  # no other is meant
            target = f"connection{_ids_text(ids).removeprefix('id')}"
        details = [each for each in (how, "following" if follow else None) if each]
        if details:
            target += f" ({', '.join(details)})"

        async def run() -> TapResult:
            if wanted.uses("rate"):
                await self._rates_known()
            tap = self.taps.open(
                ready,
                filter=Filter(others, CONNECTION_KEYS) if others else None,
                ids=ids,
                services=None if service is None else [service],
                follow=bool(follow),
                replaced=replaced,
            )
            concerned = service or service_concerned(allowed, wanted, follows=bool(follow))
            self._report("tap", actor, allowed, concerned, target)
            await tap.chosen
            return TapResult(tap, unknown, forbidden)

        return Deferred.fromCoroutine(run())

    def capture_start(
        self,
        actor: Actor,
        *,
        filter: Terms = None,
        first: int | None = None,
        seconds: float | None = None,
        connections: int | None = None,
    ) -> CaptureResult:
        """Write the bytes of connections to files from now on, as :meth:`Captures.begin` does.

        :param filter: ids, or terms with keys: those that match later are captured, too; all
            connections if left out.
        :param first: bytes of each direction; 0 for all.
        :param seconds: after which it ends by itself.
        :param connections: after how many connections it does.
        :raises QuestionError: there are too many captures already, or an amount makes no sense.
        :raises FilterError: the filter cannot be understood.
        :raises UnknownConnection: an id is given that no live connection has.
        :raises Forbidden: all that is meant has ``payload: never``.
        :raises NotConfigured: the configuration allows no captures.
        :raises FileError: the folder for the files cannot be used.
        """
        terms = self.filter(filter, mode="action").terms if filter else ()
        wanted = Filter(tuple(map(self._by_id, terms)), CONNECTION_KEYS)
        ids, others = _split_ids(wanted.terms)
        target = wanted.to_text() or "all"
        if ids is not None:
            target = f"connection{_ids_text(ids).removeprefix('id')}"
            owners = {each: m for m in self.registry for each in ids if each in m}
            if unknown := [each for each in ids if each not in owners]:
                raise UnknownConnection(f"no live connection has the {_ids_text(unknown)}")
            if never := [m.name for m in owners.values() if m.policy.payload == "never"]:
                raise payload_forbidden(list(dict.fromkeys(never)))
        return self.captures.begin(
            actor,
            target,
            Filter(others, CONNECTION_KEYS),
            ids,
            first=first,
            seconds=seconds,
            connections=connections,
        )

    def capture_stop(self, actor: Actor, ids: Sequence[int] | None = None) -> list[CaptureRow]:
        """Stop captures, by their numbers, or all of them.

        :raises UnknownCapture: none of this number runs; then none is stopped.
        """
        return self.captures.end(actor, ids)

    def recording(
        self, actor: Actor, connection_id: int | str, *, how: str | None = None
    ) -> list[FlowEvent]:
        """What is recorded of a connection, live or closed: its first and its last bytes.

        :param connection_id: its id, or its uid.
        :param how: what is done with the bytes, for the log.
        :raises UnknownConnection: there is no connection with this id, or no recording of it, or
            not any more.
        :raises NotConfigured: its service has no recorder.
        :raises Forbidden: its service has ``payload: never``.
        """
        if isinstance(connection_id, str):
            connection_id = self.registry.id_of(connection_id)
        for monitor in self.registry:
            events = monitor.recorder.events(connection_id)
            if events is not None:
                target = f"connection {connection_id}" + (f" ({how})" if how else "")
                self._report("read_recording", actor, [monitor], monitor.name, target)
                return events
        for monitor in self.registry:
            if monitor.recorder.has_dropped(connection_id):
                break
        else:
            monitor = self.registry.get(self.registry.record(connection_id).service)
        if monitor.policy.payload == "never":
            raise payload_forbidden([monitor.name])
        why = monitor.recorder.why_not(connection_id)
        error = NotConfigured if monitor.policy.recorder is None else UnknownConnection
        raise error(f"connection {connection_id} is not recorded: {why}")

    # -- pause, drain

    def pause(self, actor: Actor, service: str, *, seconds: float | None = None) -> ChangeResult:
        """Read nothing from a service's connections, and accept nobody; see :meth:`Monitor.pause`.

        :param seconds: after which it ends by itself.
        :returns: with how many connections are live.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it cannot be paused now, or the time makes no sense.
        """
        monitor = self.registry.get(service)
        changed = monitor.pause(_checked_seconds(seconds) or None, actor=actor)
        return _change(changed, [monitor], len(monitor))

    def resume(self, actor: Actor, service: str) -> ChangeResult:
        """End a service's pause, its draining, and what ends its connections evenly over a time.

        :raises UnknownService: there is no such service.
        :raises QuestionError: it is stopping, which nobody takes back.
        """
        monitor = self.registry.get(service)
        if monitor.stopping:
            raise QuestionError(f"{monitor.name} is stopping, and cannot be resumed")
        return _change(monitor.resume(actor=actor), [monitor], len(monitor))

    def drain(self, actor: Actor, service: str, *, spread: float | None = None) -> ChangeResult:
        """Refuse a service's clients, and let its connections go on; see :meth:`Monitor.drain`.

        :param spread: seconds over which they are ended evenly; not at all if left out.
        :returns: with how many connections are live.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it is stopping, or the time makes no sense.
        """
        monitor = self.registry.get(service)
        count = len(monitor)
        changed = monitor.drain(_checked_seconds(spread), actor=actor)
        return _change(changed, [monitor], count)

    def report_stop(self, actor: Actor, *, at_once: bool = False) -> None:
        """Report that the whole program stops; whoever calls this stops it.

        :param at_once: without waiting for the live connections.
        """
        live = sum(map(len, self.registry))
        self._report("stop_now" if at_once else "stop", actor, list(self.registry), None, "", live)

    def why(self, client: str, *, service: str | None = None) -> Deferred[list[WhyRow]]:
        """What would happen to a client now at each service, as :meth:`Monitor.why` says.

        :param client: an address; the id or the uid of a connection, or the name of a device, for
            its address.
        :raises UnknownService: there is no such service.
        :raises AddressError: in the Deferred, as are the others: it is none of these.
        :raises UnknownConnection: no connection has this id.
        :raises UnknownDevice: several devices are meant.
        """
        monitors = self.monitors(service)
        steps = why_rows(client, monitors, self.registry, self._devices, self._origin_of)
        return self._in_line(steps)

    def reload(self, actor: Actor, *, dry_run: bool = False) -> Deferred[ReloadResult]:
        """Read the configuration's file again, and apply what is different.

        :returns: fails with a :class:`ConfigError` if the file has problems, or another
            :class:`MonconnError`; then nothing has changed.
        :raises NotConfigured: this program runs no configuration.
        """
        if self.reloader is None:
            raise NotConfigured("this program runs no configuration: there is nothing to reload")
        return self.reloader(actor, dry_run=dry_run)

    def report_reload(self, actor: Actor, what: str, changed: bool) -> None:
        """Report that the configuration was read again.

        :param what: what is different now.
        """
        self._report("reload", actor, list(self.registry), None, what, changed=changed)

    def outputs(self) -> list[NotifyRow]:
        """Who is told of events, and how that goes."""
        return [] if self._notify is None else [NotifyRow(**each) for each in self._notify.rows()]

    def notify_test(self, actor: Actor, number: int | None = None) -> Deferred[list[NotifyTestRow]]:
        """Send a test to one output or to all; those that do not answer are given up in time.

        :raises QuestionError: there is no such output, or none at all.
        """
        if self._notify is None:
            raise QuestionError("there is no output: the configuration has no notify:")
        sent = self._notify.test(number)
        target = "all outputs" if number is None else f"output {number}"
        self._report("notify_test", actor, (), None, target)
        return sent.addCallback(
            lambda results: [
                NotifyTestRow(number=each.number, url=each.url, ok=each.is_ok, answer=each.answer)
                for each in results
            ]
        )

    def _report(
        self,
        kind: ActionKind,
        actor: Actor,
        monitors: Sequence[Monitor],
        service: str | None,
        target: str = "",
        count: int = 0,
        changed: bool = True,
        detail: str = "",
    ) -> None:
        """Write the one log line and the one event of an action.

        :param monitors: those concerned; all if it concerns none yet, as a tap of services to come.
        """
        monitors = monitors or list(self.registry)
        if len(target) > _MAX_TARGET_CHARACTERS:
            target = target[: _MAX_TARGET_CHARACTERS - 1] + "…"
        if monitors:
            first, *others = monitors
            action = Action(kind, actor, time.time(), service, target, count, changed, detail)
            first.report(action, others)


def _history_order(text: str, row_class: type[Row]) -> HistoryOrder:
    from monconn.sinks.history import query

    sort = parse_sort(text, row_class)
    return query.Order(sort.fields[0], sort.is_descending)


def _change(changed: bool, monitors: Iterable[Monitor], count: int = 0) -> ChangeResult:
    return ChangeResult(changed, count, tuple(monitor.name for monitor in monitors))


def _checked_seconds(seconds: float | None) -> float:
    """A time that was asked for; 0 if none was.

    :raises QuestionError: it is negative, or longer than thirty years.
    """
    if seconds is not None and not 0 < seconds <= MOST_SECONDS_ASKED:
        raise QuestionError(f"a time of {seconds:g} s: must be more than 0, and below 30 years")
    return seconds or 0.0


def _short_forms(
    client: str | None = None,
    state: str | None = None,
    idle_over: float | None = None,
    text: str | None = None,
) -> Filter:
    """The arguments that are older than the filter language, as a filter.

    A filter of its own, since two terms with the same key in one filter are alternatives.
    """
    terms: list[Term] = []
    if client is not None:
        terms.append(Term("client", parse_network(client)))
    if _one_of(STATES, state) is not None:
        terms.append(Term("state", Exact(str(state))))
    if idle_over:
        terms.append(Term("idle", Range(idle_over, None)))
    if text:
        terms.append(Term("", Part(text.casefold())))
    return Filter(tuple(terms), CONNECTION_KEYS)


def _live(monitors: Iterable[Monitor]) -> Iterator[ConnectionRecord]:
    """The live connections of some monitors, in the order of their opening at each."""
    return chain.from_iterable(monitor.iter_connections() for monitor in monitors)


def _sift(
    records: Iterable[ConnectionRecord], filters: Iterable[Filter], context: Context
) -> Iterator[ConnectionRecord | None]:
    """The records that pass all filters, and None for each other."""
    sifted: Iterable[ConnectionRecord | None] = records
    for each in filters:
        if each:
            sifted = each.sift(sifted, context)
    return iter(sifted)


def _uncancellable(deferred: Deferred[T]) -> Deferred[T]:
    """A Deferred for the same result; to cancel it has no effect on the work."""
    result: Deferred[T] = Deferred()

    def finished(value: Any) -> None:
        if not result.called:
            result.callback(value)  # or the failure

    deferred.addBoth(finished)
    return result


def _must_measure(filters: Iterable[Filter]) -> bool:
    return any(each.uses(key) for each in filters for key in MEASURED_KEYS)


def _one_of(values: Collection[str], value: str | None) -> str | None:
    if value is not None and value not in values:
        raise QuestionError(f"{quoted(value)} is none of {', '.join(values)}")
    return value


def _split_ids(terms: Sequence[Term]) -> tuple[list[int] | None, tuple[Term, ...]]:
    """The ids that terms name one by one, and the other terms.

    Ids are looked up in a dictionary; as ranges, each would be tested on every connection.
    """
    named = dict.fromkeys(term for term in terms if term.key == "id" and not term.is_negated)
    ids = [
        int(term.value.low)
        for term in named
        if isinstance(term.value, Range)
        and term.value.low is not None
        and term.value.low == term.value.high
    ]
    if not named or len(ids) < len(named):
        return None, tuple(terms)
    return ids, tuple(term for term in terms if term not in named)


def _with_ids(monitor: Monitor, ids: Collection[int]) -> list[ConnectionRecord]:
    """The live connections of a monitor with these ids; searches the smaller of the two sets."""
    if len(ids) <= len(monitor):
        return [monitor.connection(each) for each in dict.fromkeys(ids) if each in monitor]
    wanted = frozenset(ids)
    return [record for record in monitor.connections() if record.id in wanted]


def _ids_text(ids: Sequence[int]) -> str:
    listed = ", ".join(map(str, ids[:_LISTED_IDS]))
    more = f" and {len(ids) - _LISTED_IDS} more" if len(ids) > _LISTED_IDS else ""
    return f"{'id' if len(ids) == 1 else 'ids'} {listed}{more}"
