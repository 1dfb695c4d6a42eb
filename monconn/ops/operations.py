"""Every query about, and action on, the services of a program.

Faces (control port, manhole, HTTP) translate to this and back: they parse their input, call one
method, and render rows. A query gives rows of :mod:`monconn.ops.rows`; an action takes the
:class:`~monconn.model.actions.Actor` that asked for it, and leaves one line in the log and one
event for observers, unless it is a dry run.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred

from monconn.addresses import Network, parse_network
from monconn.clock import Clock
from monconn.config.explain import Section
from monconn.config.sections import USUAL_CAPTURE, CaptureConfig
from monconn.devices.service import DevicesService
from monconn.errors import Conflict, NotConfigured, QuestionError
from monconn.model.actions import Actor
from monconn.model.flow import FlowEvent
from monconn.model.record import known_fact_names
from monconn.monitor.blocking import block_detail
from monconn.monitor.figures import figures_in_steps
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
from monconn.ops.closing import CloseResult, Closing
from monconn.ops.columns import Listing
from monconn.ops.device import DeviceStory, tell_story
from monconn.ops.feed import Feed, FeedEvent, Subscription
from monconn.ops.filter_keys import (
    BLOCK_KEYS,
    CONNECTION_KEYS,
    DEVICE_KEYS,
    EVENT_KEYS,
    HISTORY_EVENT_KEYS,
    HISTORY_KEYS,
    IP_KEYS,
)
from monconn.ops.filters import (
    MAX_IDS,
    Filter,
    Keys,
    Mode,
    Term,
    parse,
)
from monconn.ops.forget import ForgetResult, Forgetting
from monconn.ops.history_queries import MOST_BUCKETS, USUAL_BUCKETS, HistoryQueries
from monconn.ops.live_queries import LastingListing, LiveQueries
from monconn.ops.payload import Payload
from monconn.ops.presence import Presence, presence_of
from monconn.ops.reload import ReloadResult
from monconn.ops.reporting import Reporter
from monconn.ops.rows import (
    BlockRow,
    CaptureRow,
    ClientRow,
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
from monconn.ops.selection import by_id, short_forms, split_ids
from monconn.ops.taps import (
    Tap,
    TapResult,
    Taps,
)
from monconn.ops.why import FindOrigin, why_rows
from monconn.ops.why_rows import WhyRow
from monconn.steps import RowSteps

if TYPE_CHECKING:
    from monconn.ops.access import Access
    from monconn.sinks.history.service import HistoryService  # SQLite and all: only if it is wanted
    from monconn.sinks.notify.service import NotifyService

MOST_SECONDS_ASKED = 1e9

Terms = str | Sequence[str] | None
"""A filter: one line as typed into a shell, its terms one by one, or None for everything."""


@attrs.frozen
class ChangeResult:
    """The result of an action on services, or of its dry run.

    :param changed: False if everything was so already.
    :param count: how many connections were ended by it.
    :param services: those that it concerned.
    :param is_update: whether it was so already, and only until when, or over which time, has
        changed.
    """

    changed: bool
    count: int
    services: tuple[str, ...]
    is_update: bool = False


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
        self.configuration: Callable[[], Iterable[Section]] | None = None
        """The settings that run, without what is secret; whoever runs some puts it here."""
        self.access: Access | None = None
        """Who may use the HTTP API; whoever serves it puts it here."""
        self._devices = devices
        self._origin_of = origin_of
        self._notify = notify
        self._report = Reporter(registry)
        self._live = LiveQueries(registry, clock)
        self._history = HistoryQueries(history)
        self._closing = Closing(self._live, self._report)
        self.taps = Taps(registry, clock, self._live.context)
        self.captures = Captures(
            registry,
            clock,
            self.taps,
            capture,
            self._live.context,
            self._report,
            None if devices is None else devices.identity,
        )
        self._payload = Payload(registry, self._live, self.taps, self.captures, self._report)
        self._forgetting = Forgetting(
            registry, devices, history, self.captures, self._live, self._report
        )

    def http_access(self) -> Access:
        """Who may use the HTTP API: links, tokens and sessions.

        :raises NotConfigured: it is not served.
        """
        if self.access is None:
            raise NotConfigured(
                "this monconn serves no HTTP: add http: {listen: 127.0.0.1:9180} to its"
                " configuration (with -p: the option --http; at an endpoint: mon.http=9180), and"
                " restart it"
            )
        return self.access

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

    def _terms_of(self, filter: Terms) -> tuple[Term, ...]:
        """The terms of an action's filter; a uid of ours as the id that it has here."""
        terms = self.filter(filter, mode="action").terms if filter else ()
        return tuple(by_id(self.registry, each) for each in terms)

    def has(self) -> dict[str, bool]:
        """Which parts that need not be there are."""
        return {
            "blocks": True,
            "captures": self.captures.are_allowed,
            "configuration": self.configuration is not None,
            "devices": self._devices is not None,
            "history": self._history.is_stored,
            "outputs": bool(self.outputs()),
            "recordings": any(each.policy.recorder is not None for each in self.registry),
            # With -p there is one, which says that there is no file.
            "reload": self.reloader is not None and self.configuration is not None,
        }

    # -- queries of what is live

    def services(self, service: str | None = None) -> RowSteps[ServiceRow]:
        """Each service in figures but for its ``ips``, or one of them.

        :raises UnknownService: there is none with this name.
        """
        return self._service_rows(self.monitors(service))

    def _service_rows(self, monitors: Iterable[Monitor]) -> RowSteps[ServiceRow]:
        for monitor in monitors:
            figures = yield from figures_in_steps(monitor)
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
        return self._live.connections(
            self.monitors(service),
            (self.filter(filter), short_forms(client, state, idle_over, text)),
            sort=sort,
            offset=offset,
            limit=limit,
            closed=bool(closed),
        )

    def lasting_connections(
        self,
        filter: Terms = None,
        *,
        service: str | None = None,
        client: str | None = None,
        sort: str | None = None,
        closed: bool = False,
    ) -> Deferred[LastingListing]:
        """The same, whose rows may be taken over minutes: none of them twice, and each that is
        there all the time."""
        return self._live.lasting_connections(
            self.monitors(service),
            (self.filter(filter), short_forms(client)),
            sort=sort,
            closed=closed,
        )

    def connection(self, connection_id: int | str) -> Deferred[ConnectionRow]:
        """One connection, live or closed lately, with its diagnosis and what TCP knows.

        :param connection_id: its id, or its uid.
        :raises UnknownConnection: there is none with this id.
        """
        return self._live.connection(connection_id)

    def ips(self, service: str, filter: Terms = None) -> RowSteps[IpRow]:
        """The IPs that have live connections at a service.

        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        (monitor,) = self.monitors(service)
        return self._live.ips(monitor, self.filter(filter, IP_KEYS))

    def clients(self, service: str | None = None, filter: Terms = None) -> RowSteps[ClientRow]:
        """The totals of each client IP at each service, for the IPs seen last.

        :func:`~monconn.ops.rows.sum_by_ip` adds up an IP's rows.

        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        monitors = self.monitors(service)
        wanted = self.filter(filter, IP_KEYS)
        return self._live.clients(monitors, wanted)

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
            found = wanted.sift((row and measured(row) for row in rows), self._live.context())
        else:
            found = (row and measured(row) for row in wanted.sift(rows, self._live.context()))
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
        run = self._history.run if self._history.is_stored else None
        telling = tell_story(
            name, monitors, self._devices, self.clock, run, since=since, limit=limit
        )
        return Deferred.fromCoroutine(telling)

    def presence(
        self,
        names: Sequence[str],
        *,
        service: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Deferred[Presence]:
        """When devices were there; arguments are those of
        :func:`~monconn.ops.presence.presence_of`.

        :raises UnknownService: there is no such service.
        :raises NotConfigured: devices are not watched.
        :raises QuestionError: in the Deferred: they are too many, or the period is none.
        """
        monitors = self.monitors(service)
        if self._devices is None:
            raise NotConfigured("devices are not watched here")
        run = self._history.run if self._history.is_stored else None
        asked = presence_of(
            names, monitors, self._devices, self.clock, run, since=since, until=until
        )
        return Deferred.fromCoroutine(asked)

    def blocks(self, service: str | None = None, filter: Terms = None) -> RowSteps[BlockRow]:
        """The blocked networks: a row for each network and place, that is one service or all.

        :param service: what holds at this service, be it blocked there or at all services.
        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        """
        monitors = self.monitors(service)
        wanted = self.filter(filter, BLOCK_KEYS)
        return block_rows(
            self.registry, monitors, wanted, self._live.context(), self._place_of_block
        )

    def _place_of_block(self, monitor: Monitor, network: Network) -> str:
        origin = self._origin_of(monitor.name, "block", monitor.policy.rules.block, network)
        return "" if origin is None else origin.place

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
        return self._live.in_line(steps)

    def outputs(self) -> list[NotifyRow]:
        """Who is notified of events, and how that goes."""
        return [] if self._notify is None else [NotifyRow(**each) for each in self._notify.rows()]

    # -- queries of what is over

    def history(
        self, filter: Terms = None, **period: Any
    ) -> Deferred[Listing[HistoryConnectionRow]]:
        """Connections that have ended, newest first.

        :param filter: over :data:`~monconn.ops.filter_keys.HISTORY_KEYS`.
        :param period: ``service``, ``client``, ``since``, ``until`` (wall-clock seconds),
            ``reason``, ``limit`` and ``after`` (a place of :class:`Listing`), as
            :func:`monconn.sinks.history.query.make_filter` takes them; and ``sort``, as
            :func:`~monconn.ops.sorting.parse_sort` does.
        :raises NotConfigured: no history is stored.
        :raises FilterError: the filter cannot be understood.
        :raises QuestionError: there is no such reason or order, or no time between since and until.
        """
        return self._history.connections(self.filter(filter, HISTORY_KEYS), period)

    def history_events(
        self, filter: Terms = None, **period: Any
    ) -> Deferred[Listing[HistoryEventRow]]:
        """Refusals, alarms, actions, starts and stops, newest first; arguments and errors are
        those of :meth:`history`, with a refusal, an alarm or an action for the reason.

        :param filter: over :data:`~monconn.ops.filter_keys.HISTORY_EVENT_KEYS`.
        """
        return self._history.events(self.filter(filter, HISTORY_EVENT_KEYS), period)

    def history_reasons(
        self, filter: Terms = None, *, buckets: int | None = None, **period: Any
    ) -> Deferred[dict[str, Any]]:
        """How many connections have ended with which reason, over time: of each of some buckets of
        the same, round length.

        :param filter: over :data:`~monconn.ops.filter_keys.HISTORY_KEYS`.
        :param buckets: how many there may be.
        :param period: ``service``, ``client``, ``since`` and ``until``; the last 24 hours if they
            are left out.
        :raises NotConfigured: no history is stored.
        :raises FilterError: the filter cannot be understood.
        :raises QuestionError: there is no time between since and until.
        """
        most = min(max(buckets or USUAL_BUCKETS, 2), MOST_BUCKETS)
        return self._history.reasons(self.filter(filter, HISTORY_KEYS), period, most)

    def report(self, **period: Any) -> Deferred[ReportRow]:
        """A period in figures.

        :param period: ``service``, ``client``, ``since`` and ``until``.
        :raises NotConfigured: no history is stored.
        :raises QuestionError: there is no time between since and until.
        """
        return self._history.report(period)

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
        spread_seconds = _checked_seconds(spread)
        terms = self._terms_of(filter)
        if ids is None:
            ids, terms = split_ids(terms)
        return self._closing.close(
            actor,
            monitors,
            (Filter(terms, CONNECTION_KEYS), short_forms(client)),
            ids,
            service=service,
            reset=bool(reset),
            spread_seconds=spread_seconds,
            dry_run=bool(dry_run),
        )

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
                monitor.counters.check_subtract(up, down)
            else:
                monitor.subtract(up, down, actor=None)
        except ValueError as error:
            raise Conflict(str(error)) from None
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
        return self._forgetting.forget(actor, network, dry_run=bool(dry_run))

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
        return self._payload.tap(
            actor,
            ready,
            self.monitors(service),
            Filter(self._terms_of(filter), CONNECTION_KEYS),
            service=service,
            follow=bool(follow),
            how=how,
            replaced=replaced,
        )

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
        return self._payload.start_capture(
            actor,
            Filter(self._terms_of(filter), CONNECTION_KEYS),
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
        return self._payload.recording(actor, connection_id, how=how)

    # -- pause, drain

    def pause(self, actor: Actor, service: str, *, seconds: float | None = None) -> ChangeResult:
        """Read nothing from a service's connections, and accept nobody; see :meth:`Monitor.pause`.

        :param seconds: after which it ends by itself.
        :returns: with how many connections are live.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it cannot be paused now, or the time makes no sense.
        """
        monitor = self.registry.get(service)
        was_paused = monitor.is_paused
        changed = monitor.pause(_checked_seconds(seconds) or None, actor=actor)
        return _change(changed, [monitor], len(monitor), is_update=changed and was_paused)

    def resume(self, actor: Actor, service: str) -> ChangeResult:
        """End a service's pause, its draining, and what ends its connections evenly over a time.

        :raises UnknownService: there is no such service.
        :raises QuestionError: it is stopping, which nobody takes back.
        """
        monitor = self.registry.get(service)
        if monitor.stopping:
            raise Conflict(f"{monitor.name} is stopping, and cannot be resumed")
        return _change(monitor.resume(actor=actor), [monitor], len(monitor))

    def drain(self, actor: Actor, service: str, *, spread: float | None = None) -> ChangeResult:
        """Refuse a service's clients, and let its connections go on; see :meth:`Monitor.drain`.

        :param spread: seconds over which they are ended evenly; not at all if left out.
        :returns: with how many connections are live.
        :raises UnknownService: there is no such service.
        :raises QuestionError: it is stopping, or the time makes no sense.
        """
        monitor = self.registry.get(service)
        count, was_draining = len(monitor), monitor.draining
        changed = monitor.drain(_checked_seconds(spread), actor=actor)
        return _change(changed, [monitor], count, is_update=changed and was_draining)

    # -- the program, its configuration and its outputs

    def report_stop(self, actor: Actor, *, at_once: bool = False) -> None:
        """Report that the whole program stops; whoever calls this stops it.

        :param at_once: without waiting for the live connections.
        """
        live = sum(map(len, self.registry))
        self._report("stop_now" if at_once else "stop", actor, list(self.registry), None, "", live)

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


def _change(
    changed: bool, monitors: Iterable[Monitor], count: int = 0, *, is_update: bool = False
) -> ChangeResult:
    return ChangeResult(changed, count, tuple(each.name for each in monitors), is_update)


def _checked_seconds(seconds: float | None) -> float:
    """A time that was asked for; 0 if none was.

    :raises QuestionError: it is negative, or longer than thirty years.
    """
    if seconds is not None and not 0 < seconds <= MOST_SECONDS_ASKED:
        raise QuestionError(f"a time of {seconds:g} s: must be more than 0, and below 30 years")
    return seconds or 0.0
