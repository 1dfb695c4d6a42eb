"""One service's live connections, totals and operations."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import Deferred, succeed

from monconn.addresses import Network, parse_client_ip, parse_network, plain_ip
from monconn.clock import Clock, MonotonicClock
from monconn.errors import (
    Forbidden,
    SettingError,
    SettingTypeError,
    UnknownConnection,
    quoted,
)
from monconn.log import Logger
from monconn.model.actions import NOBODY, OWN_CODE, Action, ActionKind, Actor, whose_code
from monconn.model.alarms import Alarm, AlarmKind
from monconn.model.reasons import (
    CONNECT_FAILURES,
    BlockSource,
    Direction,
    Refusal,
    ServiceState,
    Side,
)
from monconn.model.record import ConnectionRecord
from monconn.model.totals import Totals
from monconn.monitor.admission import ADMITTED, Admission, Verdict
from monconn.monitor.attempts import BackendAttempts
from monconn.monitor.auto_block import AutoBlocker
from monconn.monitor.bandwidth import BandwidthLimits
from monconn.monitor.blocking import Blocking, block_detail
from monconn.monitor.clients import ClientTotals
from monconn.monitor.configured_blocks import ConfiguredBlocks
from monconn.monitor.counters import Counters
from monconn.monitor.decoding import Decoders
from monconn.monitor.ending import Ending
from monconn.monitor.figures import describe, figures
from monconn.monitor.interfaces import (
    IAddressed,
    IConnection,
    IRecordable,
    IWatchable,
)
from monconn.monitor.lifecycle import Lifecycle
from monconn.monitor.live import LiveConnections
from monconn.monitor.liverules import LiveRules
from monconn.monitor.observers import AnyObserver, Observers, Where
from monconn.monitor.recorder import Recorder
from monconn.monitor.room import Room
from monconn.monitor.subscriptions import Cancel, Subscriptions
from monconn.monitor.watchers import Watch
from monconn.monitor.why import Why, why_in_steps
from monconn.policy.block_files import with_newer
from monconn.policy.blocks import Block, Blocks, network_order
from monconn.policy.networks import ips_within
from monconn.policy.policy import Policy
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.steps import at_once
from monconn.units import format_duration

CLOSED_RETAINED = 1_000
USUAL_PREFIXES = ClientPrefixes()
_NO_RULES = Rules()

_record_of: Callable[[IConnection], ConnectionRecord] = attrgetter("record")
# Global, so that an id names one connection of all services: ``monconn close 42``.
_ids = itertools.count(1)


class Monitor:
    """Watches one service, and is the only place where anything is done to it.

    :param name: the service's name (``sid`` in the Go tool); printable text.
    :param rules: which clients to admit; all if left out.
    :param timeouts: when to end connections.
    :param policy: every setting at once; rules and timeouts go before those in it.
    :param listen: where the service listens, for display.
    :param backend: where it forwards to, for display.
    :param clock: the installed reactor's timers, and monotonic time, if left out.
    :param observers: notified of everything.
    :raises SettingError: an argument is not valid.
    """

    _log = Logger()

    def __init__(
        self,
        name: str = "default",
        rules: Rules | None = None,
        timeouts: Timeouts | None = None,
        *,
        policy: Policy | None = None,
        listen: str = "",
        backend: str = "",
        clock: Clock | None = None,
        observers: Iterable[AnyObserver] = (),
    ) -> None:
        if not isinstance(name, str):
            raise SettingTypeError(f"Monitor(name={name!r}): must be a text")
        if not name.strip() or not name.isprintable():  # as a service's key in a configuration
            raise SettingError(f"Monitor(name={quoted(name)}): must be printable text")
        policy = Policy() if policy is None else _as_policy(policy)
        if rules is not None:
            policy = attrs.evolve(policy, rules=rules)
        if timeouts is not None:
            policy = attrs.evolve(policy, timeouts=timeouts)
        self.name = name
        self.policy = policy
        """Every setting in force; :meth:`apply` replaces it."""
        self.listen = listen
        self.backend = backend
        self.clock: Clock = MonotonicClock() if clock is None else clock
        self.booted_at = time.time()
        self.accessed_at: float | None = None
        self.closed_records: deque[ConnectionRecord] = deque(maxlen=CLOSED_RETAINED)
        self.clients = ClientTotals()
        self.observers = Observers(name, self.clock)
        self.recorder = Recorder(self.clock)
        """The first and last bytes of its connections, if the policy has them recorded."""
        self.recorder.configure(policy.recorder)
        self.observers.forbid_payload(policy.payload == "never")
        self.attempts = BackendAttempts()
        """Those to connect to the backend."""
        waiting = Subscriptions[[]]()
        self.live = LiveConnections(name, self.clock)
        self.ending = Ending(self.live, self.clock)
        """Ends many of them: in turns, or evenly over a time."""
        self.counters = Counters(self.live)
        self.lifecycle = Lifecycle(
            self.live, self.ending, self.clock, waiting.notify, self._pause_is_over
        )
        """Whether it runs, is paused, drains or stops."""
        self.pauses = self.lifecycle.pauses
        """When it stood still: time that counts for no limit on silence."""
        self.alarms: dict[AlarmKind, Alarm] = {}
        """The alarms about the service itself that are active, as they began."""
        self.decoders = Decoders(policy.decode, name, self.observers)
        """What the first bytes of its connections are decoded by."""
        self._usual_prefixes = USUAL_PREFIXES
        blocks = Blocks()
        self.admission = Admission(policy.rules, blocks, _prefixes(policy, USUAL_PREFIXES))
        """Judges who may enter."""
        self.room = Room(self.admission, self.lifecycle, self.live, self.clock, waiting)
        """Says who waits to enter."""
        self.configured_blocks = ConfiguredBlocks(
            policy.rules, blocks, self.live, self.ending, self.clock
        )
        self.blocking = Blocking(blocks, self.clock, self.ending.end_blocked, self._block_ended)
        """What is blocked at this service alone."""
        self.auto_block: AutoBlocker | None = None
        """Blocks clients that are refused too often, say; None if the policy has no such rule."""
        self.bandwidth: BandwidthLimits | None = None
        """How fast bytes may pass; None if that was never limited."""
        self._configure_bandwidth(policy.rules)
        self._booted = self.clock.seconds()
        self._rescheduling: Deferred[None] = succeed(None)
        self._applied = Subscriptions[[]]()
        self._configure_auto_block()
        for observer in observers:
            self.add_observer(observer)

    # -- its policy

    def apply(self, policy: Policy) -> None:
        """Replace every setting; it applies to live connections and waiting clients.

        Thousands of connections learn of it within some turns of the loop, in which thousands of
        networks in ``block`` are put in force, too.

        Connections of newly blocked networks end with the reason ``blocked``; time limits that
        were switched on, shortened or prolonged hold for those that live, and so do bandwidths;
        clients that waited for a higher ``conn_limit`` are let in. Lower limits on connections end
        none.

        :raises SettingError: it is no policy; then nothing is changed.
        """
        before, policy = self.policy, _as_policy(policy)
        rules = policy.rules
        newer = with_newer(rules.block_files, before.rules.block_files)
        if newer != rules.block_files:  # they were read again since this policy was made
            policy = attrs.evolve(policy, rules=attrs.evolve(rules, block_files=newer))
        self.policy = policy
        self.recorder.configure(policy.recorder)
        self.observers.forbid_payload(policy.payload == "never")
        self.decoders.configure(policy.decode)
        if policy.rules != before.rules or policy.devices != before.devices:
            self._configure_admission()
        if policy.rules != before.rules:
            self.configured_blocks.configure(policy.rules)
        if policy.rules.auto_block != before.rules.auto_block:
            self._configure_auto_block()
        is_limited_otherwise = self._configure_bandwidth(policy.rules, before.rules)
        if (
            is_limited_otherwise
            or policy.timeouts != before.timeouts
            or policy.keepalive != before.keepalive
        ):
            self._rescheduling.cancel()  # what follows does all of it
            self._rescheduling = self.live.in_turns(
                _apply_limits, "failed to change the time limits of"
            )
        if policy.rules != before.rules:
            self.room.forget_rate()
            self.room.notify()
        self._applied.notify()

    def _configure_admission(self) -> None:
        prefixes = _prefixes(self.policy, self._usual_prefixes)
        now = self.clock.seconds()
        self.admission.configure(self.policy.rules, prefixes, self.live.by_ip, now)

    def _configure_auto_block(self) -> None:
        settings = self.policy.rules.auto_block
        if settings is None:
            self.auto_block = None
        elif self.auto_block is None:
            self.auto_block = AutoBlocker(self, settings)
        else:
            self.auto_block.configure(settings)

    def _configure_bandwidth(self, rules: Rules, before: Rules = _NO_RULES) -> bool:
        """Limit what passes as other rules say.

        :returns: whether live connections are to learn of it.
        """
        if (rules.bandwidth, rules.per_connection_bandwidth) == (
            before.bandwidth,
            before.per_connection_bandwidth,
        ):
            return False
        if self.bandwidth is None:
            self.bandwidth = BandwidthLimits(self.clock)
        self.bandwidth.configure(rules)
        return True

    def use_prefixes(self, v4: int, v6: int) -> None:
        """Have addresses with so many leading bits in common be one client, unless the policy says
        otherwise."""
        prefixes = ClientPrefixes(v4, v6)
        if prefixes != self._usual_prefixes:
            self._usual_prefixes = prefixes
            self._configure_admission()

    def when_applied(self, call: Callable[[], object]) -> Cancel:
        """Call something each time another policy is in force.

        :returns: cancels the subscription.
        """
        return self._applied.add(call)

    @property
    def rules(self) -> LiveRules:
        """The rules in force; setting one of its attributes applies a changed policy."""
        return LiveRules(self)

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self.apply(attrs.evolve(self.policy, rules=rules))

    def _set_timeouts(self, timeouts: Timeouts) -> None:
        self.apply(attrs.evolve(self.policy, timeouts=timeouts))

    if TYPE_CHECKING:
        timeouts: Timeouts
        """The time limits in force; others are put in place by assigning them."""
    else:
        # Read for every connection: attrgetter spares a Python call each time.
        timeouts = property(attrgetter("policy.timeouts"), _set_timeouts)

    # -- observers

    @property
    def watched(self) -> bool:
        """Whether any observer is shown payload. Data paths ask :attr:`observers` each time."""
        return self.observers.watched

    def add_observer(self, observer: AnyObserver, *, where: Where | None = None) -> Cancel:
        """Notify an observer of everything from now on, through the methods that it has now.

        :param where: called with the record for each event of a connection; the observer is not
            notified if that returns something false. Of alarms and actions it always is.
        :returns: removes it, as :meth:`remove_observer` does.
        :raises ObserverError: a method is an ``async def``, though it is no ``AsyncObserver``.
        """
        self.observers.add(observer, where)
        return lambda: self.remove_observer(observer)

    def remove_observer(self, observer: AnyObserver) -> None:
        """Notify an observer no more; harmless for one that is not notified of anything."""
        self.observers.remove(observer)

    # -- called by the data paths

    def admit(
        self,
        client: str,
        client_ip: str,
        *,
        backend: str = "",
        local: str | None = None,
        record: ConnectionRecord | None = None,
    ) -> ConnectionRecord | None:
        """Admit or refuse a client.

        It takes a slot with :meth:`opened` only: one whose TLS handshake comes in between is
        asked about before and after it.

        :param client: its address, in the form of :attr:`ConnectionRecord.client`.
        :param client_ip: its IP, in any notation.
        :param backend: where it is forwarded to, if not to the service's own backend.
        :param local: the address that it has connected to, as :attr:`ConnectionRecord.client_local`
            says, if that is known already.
        :param record: what was returned before, if it is asked about again; it begins anew.
        :returns: a record for :meth:`opened`; or None if it was refused, which is then counted
            and observers are notified.
        """
        if ":" in client_ip:  # else it is in its only notation
            client_ip = plain_ip(client_ip)
        is_known = record is not None
        if record is None:
            record = ConnectionRecord(
                id=next(_ids),
                service=self.name,
                client=client,
                client_ip=client_ip,
                listener=self.listen,
                backend=backend or self.backend,
                opened_at=time.time(),
                opened=self.clock.seconds(),
                client_local=local,
            )
        else:
            record.opened_at, record.opened = time.time(), self.clock.seconds()
        self.accessed_at = record.opened_at
        lifecycle = self.lifecycle
        refusal: Refusal | None = "stopping" if lifecycle.stopping else "draining"
        if not (lifecycle.stopping or lifecycle.draining):
            verdict = self.admission.judge(
                client_ip, len(self.live.by_id), record.opened, takes_tokens=not is_known
            )
            refusal = verdict.refusal
            if verdict is not ADMITTED:
                self._note_dry_run(record, verdict)
        if refusal is None:
            return record
        record.closed, record.closed_at = record.opened, record.opened_at
        self.refuse(record, refusal)
        return None

    def _note_dry_run(self, record: ConnectionRecord, verdict: Verdict) -> None:
        """Count what rules in ``dry_run`` would have refused, once for each client."""
        new = tuple(each for each in verdict.would_refuse if each not in record.would_refuse)
        record.would_refuse += new
        self.counters.ended.would_refuse.update(new)
        if new and self.observers.by_hook["would_refuse"]:
            self.observers.notify("would_refuse", record, new)

    def refuse(self, record: ConnectionRecord, refusal: Refusal, detail: str = "") -> None:
        """Count a client as refused, and notify observers; it must not have been opened.

        :param record: what :meth:`admit` made for it.
        :param detail: what was wrong with it, if the refusal alone does not say.
        """
        record.refusal = refusal
        record.detail = detail
        record.state = "closed"
        if record.closed is None:  # else it is refused at once
            record.closed, record.closed_at = self.clock.seconds(), time.time()
        self.counters.ended.refused[refusal] += 1
        self.observers.notify("refused", record)
        if self.auto_block is not None:
            self.auto_block.refused(record.client_ip, refusal)

    def opened(self, connection: IConnection) -> None:
        """A connection whose record :meth:`admit` has made is live from now on."""
        record = connection.record
        live = self.live
        live.by_id[record.id] = connection
        live.by_ip[record.client_ip] = live.by_ip.get(record.client_ip, 0) + 1
        if self.admission.counts_clients:
            self.admission.opened(record.client_ip)
        self.counters.ended.opened += 1
        self.clients.opened(record)
        if self.policy.recorder is not None:
            self._record(connection)
        if self.observers.by_hook["opened"]:
            self.observers.notify("opened", record)

    def _record(self, connection: IConnection) -> None:
        if IRecordable.providedBy(connection):
            recording = self.recorder.begin(connection.record)
            if recording is not None:
                cast(IRecordable, connection).record_payload(recording)

    def saw(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Notify the observers that watch payload of a chunk."""
        self.observers.notify("data", record, direction, data)

    def backend_connected(self, record: ConnectionRecord) -> None:
        """Notify observers that a connection's backend is connected.

        Data paths ask ``observers.by_hook`` first, as few observers want to know.
        """
        self.observers.notify("backend_connected", record)

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Notify observers that the first of the two sides has ended in order.

        Data paths ask ``observers.by_hook`` first, as few observers want to know.
        """
        self.observers.notify("half_closed", record, side)

    def identified(self, record: ConnectionRecord) -> None:
        """Notify observers that a live connection's bytes have told more of it.

        :param record: whose facts have changed.
        """
        self.observers.notify("identified", record)

    def alarm(self, alarm: Alarm) -> None:
        """Notify observers that a device, or the service, is in trouble, or no longer is."""
        if not alarm.device:
            if alarm.is_over:
                self.alarms.pop(alarm.kind, None)
            else:
                self.alarms[alarm.kind] = alarm
        self.observers.notify("alarmed", alarm)

    def closed(self, connection: IConnection) -> None:
        """A connection's sockets are closed: complete and count it; harmless the second time."""
        record = connection.record
        live = self.live
        if live.by_id.pop(record.id, None) is None:
            return
        if getattr(connection, "decoding", None) is not None:
            self.decoders.end(connection)
        self.ending.to_come.pop(record.id, None)
        left = live.by_ip[record.client_ip] - 1
        if left:
            live.by_ip[record.client_ip] = left
        else:
            del live.by_ip[record.client_ip]
        if self.admission.counts_clients:
            self.admission.closed(record.client_ip)
        record.state = "closed"
        record.closed, record.closed_at = self.clock.seconds(), time.time()
        self.counters.ended.up += record.up
        self.counters.ended.down += record.down
        if record.reason is not None:
            self.counters.ended.closed[record.reason] += 1
        self.clients.closed(record)
        self.closed_records.append(record)
        if record.reason in CONNECT_FAILURES:
            self.attempts.count_failure(record)
        if self.recorder.live:
            self.recorder.closed(record)
        self.observers.notify("closed", record)
        if self.auto_block is not None:
            self.auto_block.closed(record.client_ip, record.reason)
        # As notify does, whose call each connection would pay for.
        for call in self.room.waiting.calls:
            call()
        for spread in self.ending.spreads:
            spread.left(record.id)
        if self.lifecycle.when_empty and not live.by_id:
            self.lifecycle.notify_empty()

    # -- queries

    def __len__(self) -> int:
        """How many connections are live."""
        return len(self.live.by_id)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, connection_id: object) -> bool:
        """Whether a live connection has this id."""
        return connection_id in self.live.by_id

    def connections(self) -> list[ConnectionRecord]:
        """The live connections, oldest first."""
        return [connection.record for connection in self.live.by_id.values()]

    def iter_connections(self) -> Iterator[ConnectionRecord]:
        """The connections that are live now, oldest first, for work that goes on over turns of the
        reactor: some will have closed when their records come."""
        return map(_record_of, tuple(self.live.by_id.values()))

    def connection(self, connection_id: int) -> ConnectionRecord:
        """One live connection.

        :raises UnknownConnection: there is none with this id.
        """
        return self._connection(connection_id).record

    def measure(self, connection_id: int) -> None:
        """Update a connection's record from what the kernel knows of its sockets.

        :raises UnknownConnection: there is none with this id.
        """
        self._connection(connection_id).measure()

    def ask_addresses(self, connection_id: int) -> None:
        """Have a connection's record say which addresses its sockets have, as far as the kernel
        knows.

        :raises UnknownConnection: there is none with this id.
        """
        connection = self._connection(connection_id)
        if IAddressed.providedBy(connection):
            IAddressed(connection).ask_addresses()

    def watch(self, connection_id: int, call: Watch) -> Cancel:
        """Subscribe to one connection's payload, at no cost to the others.

        :param call: called with the direction and each chunk, as it is read from its sender.
        :returns: cancels that.
        :raises UnknownConnection: there is none with this id, or its payload cannot be watched.
        :raises Forbidden: the policy has ``payload: never``; if it gets that later, the call comes
            without bytes.
        """
        connection = self._connection(connection_id)
        if self.policy.payload == "never":
            raise Forbidden(f"{self.name}: payload: never forbids to watch bytes")
        if not IWatchable.providedBy(connection):
            raise UnknownConnection(f"the connection {connection_id} cannot be watched")

        def watch(direction: Direction, data: bytes) -> None:
            call(direction, b"" if self.policy.payload == "never" else data)

        return IWatchable(connection).add_watcher(watch)

    def _connection(self, connection_id: int) -> IConnection:
        try:
            return self.live.by_id[connection_id]
        except KeyError:
            raise UnknownConnection(f"no live connection has the id {connection_id}") from None

    def connections_by_ip(self) -> Mapping[str, int]:
        """How many live connections each client IP has; only IPs that have any."""
        return dict(self.live.by_ip)

    def client_ips(self) -> int:
        """How many client IPs have live connections."""
        return len(self.live.by_ip)

    def bytes(self) -> tuple[int, int]:
        """Bytes up and down of closed and live connections, less what was subtracted."""
        totals = self.totals()
        return totals.up, totals.down

    def totals(self) -> Totals:
        """The counters, less what was subtracted."""
        return self.counters.totals()

    def uptime_seconds(self) -> float:
        """Seconds since the monitor was made."""
        return float(self.clock.seconds() - self._booted)

    def stats(self) -> dict[str, Any]:
        """The service's figures as plain values for JSON."""
        return figures(self, self.totals()) | {"ips": sorted(self.live.by_ip)}

    def describe(self) -> str:
        """The service's figures in one line for people."""
        return describe(self)

    # -- actions
    #
    # Each is reported as an action of an actor; with None for the actor it is not, as
    # monconn.ops.operations reports what it does to many monitors as one action.

    def close(
        self, connection_id: int, *, reset: bool = False, actor: Actor | None = OWN_CODE
    ) -> None:
        """End a connection, with the reason ``operator``.

        :raises UnknownConnection: there is none with this id.
        """
        self._connection(connection_id).end("operator", reset)
        self._acted(actor, "reset" if reset else "close", f"id {connection_id}", 1)

    def close_all(
        self,
        network: str | Network | None = None,
        *,
        reset: bool = False,
        actor: Actor | None = OWN_CODE,
    ) -> int:
        """End every connection, or those of a network's clients, with the reason ``operator``.

        Which ones is decided at once; thousands are ended within some turns of the loop.

        :returns: how many; those that were ending already are not counted, unless for a reset.
        :raises AddressError: it is no network.
        """
        ips = None if network is None else ips_within([_network(network)], self.live.by_ip)
        count = self.ending.end("operator", ips, reset=reset)
        target = f"service:{self.name}" + ("" if network is None else f" client:{network}")
        self._acted(actor, "reset" if reset else "close", target, count)
        return count

    def block(
        self,
        network: str | Network,
        *,
        for_seconds: float | None = None,
        reason: str = "",
        keep_open: bool = False,
        actor: Actor | None = OWN_CODE,
    ) -> bool:
        """Refuse clients of an IP or a network, and end those that are connected.

        This is the operator's block: it holds until it ends or is lifted, whatever the
        configuration blocks. To block a network again changes its end and its reason.

        :param for_seconds: how long it lasts, by the monotonic clock; for ever if left out.
        :param reason: why, for people; if left out, one that there is already stays.
        :param keep_open: leave those alone that are connected.
        :returns: False if it was blocked already.
        :raises AddressError: it is no network.
        :raises SettingError: it cannot last so long, or the reason is too long.
        """
        network = _network(network)
        actor = whose_code() if actor is OWN_CODE else actor
        change, count = self.blocking.block_and_end(
            network, for_seconds=for_seconds, reason=reason, keep_open=keep_open, actor=actor
        )
        changed = change.is_new or change.is_changed
        self._acted(actor, "block", str(network), count, changed, block_detail(for_seconds, reason))
        return change.is_new

    def unblock(self, network: str | Network, *, actor: Actor | None = OWN_CODE) -> bool:
        """Admit the clients of exactly this IP or network again, whether the operator or the
        configuration blocked it.

        A network of the configuration's stays unblocked until the program ends, or until the
        operator blocks it again for good; a changed configuration that goes on naming it changes
        nothing, nor does a block with an end, once it has ended. What is blocked at all services
        (:meth:`Registry.block`) is not this one's to unblock.

        :returns: False if it was not blocked.
        :raises AddressError: it is no network.
        """
        network = _network(network)
        was_there = self.blocking.unblock(network)
        self._acted(actor, "unblock", str(network), 0, was_there)
        return was_there

    def _block_ended(self, block: Block) -> None:
        self._acted(NOBODY, "block_ended", str(block.network))

    def blocks(self, source: BlockSource | None = None) -> list[Network]:
        """The networks that are blocked at this service, in order; those at all services are in
        :attr:`Registry.blocks`.

        :param source: only those that the ``operator``, the ``configuration``, a ``file`` of
            ``block_files``, or ``auto`` (``auto_block``) has blocked.
        """
        return self.blocking.blocks.networks(source, now=self.clock.seconds())

    def block_entries(self) -> list[Block]:
        """The same with who has blocked each, until when and why, and how many clients it met."""
        now = self.clock.seconds()
        found = [each for each in self.blocking.blocks.in_force() if not each.is_over(now)]
        return sorted(found, key=lambda each: network_order(each.network))

    def iter_blocks(self) -> Iterator[Block]:
        """The same in no order, for work in steps; some may have ended by the time they come."""
        return self.blocking.blocks.in_force()

    def get_block(self, network: Network) -> Block | None:
        """The block of exactly this network at this service alone."""
        return self.blocking.blocks.get(network, self.clock.seconds())

    def find_block(self, ip: str) -> Block | None:
        """The block that a client's IP meets: of this service, or of all services."""
        return self.admission.find_block(plain_ip(ip), self.clock.seconds())

    def is_blocked(self, ip: str) -> bool:
        """Whether a client's IP is in a blocked network."""
        return self.find_block(ip) is not None

    def why(self, ip: str) -> Why:
        """What would happen to a client now, by which rule, and what it has used up of each limit.

        :param ip: in any notation, perhaps with a port; or ``unix``.
        :raises AddressError: it is none.
        """
        return at_once(why_in_steps(self, parse_client_ip(ip)))

    def subtract(self, up: int, down: int, *, actor: Actor | None = OWN_CODE) -> None:
        """Subtract bytes from the totals, once they are stored elsewhere.

        :raises ValueError: a count is negative or higher than the total.
        """
        self.counters.subtract(up, down)
        self._acted(actor, "subtract_stats", f"{up} B up, {down} B down")

    def reset_stats(self, *, actor: Actor | None = OWN_CODE) -> None:
        """Set the totals (bytes, connections opened, refusals) to zero."""
        self.counters.reset()
        self._acted(actor, "reset_stats")

    def report(self, action: Action, others: Iterable[Monitor] = ()) -> None:
        """Write an action into the log, and notify every observer of it, each once.

        :param others: the other monitors that it concerned.
        """
        self.observers.report(action, [monitor.observers for monitor in others])

    def _acted(
        self,
        actor: Actor | None,
        kind: ActionKind,
        target: str = "",
        count: int = 0,
        changed: bool = True,
        detail: str = "",
    ) -> None:
        if actor is not None:
            if actor is OWN_CODE:
                actor = whose_code()
            self.report(Action(kind, actor, time.time(), self.name, target, count, changed, detail))

    # -- pause, drain and stop

    if TYPE_CHECKING:

        @property
        def state(self) -> ServiceState:
            """What the service does."""

        @property
        def stopping(self) -> bool:
            """Whether clients are refused, and the live connections are ended, or will be."""

        @property
        def draining(self) -> bool:
            """Whether clients are refused while the live connections go on."""

        @property
        def is_paused(self) -> bool:
            """Whether nothing is read and nobody is accepted."""
    else:
        # Asked for every connection: attrgetter spares a Python call each time.
        state = property(attrgetter("lifecycle.state"))
        stopping = property(attrgetter("lifecycle.stopping"))
        draining = property(attrgetter("lifecycle.draining"))
        is_paused = property(attrgetter("lifecycle.is_paused"))

    def pause(self, seconds: float | None = None, *, actor: Actor | None = OWN_CODE) -> bool:
        """Read nothing, and accept nobody: clients wait in the kernel's queue.

        Nothing is refused or ended because of it. Limits on silence and on progress stand still;
        ``connect_timeout``, ``max_lifetime`` and the limits of handshakes go on. Thousands of
        connections are held within some turns of the loop; one that opens meanwhile begins held.

        :param seconds: after which it ends by itself; None for never. Of a service that is paused
            already, this is what is changed.
        :returns: False if nothing is different: it was paused already, and neither had nor has an
            end.
        :raises QuestionError: it is draining or stopping, or is a wrapped factory's.
        :raises SettingError: the time is not more than 0.
        """
        by = whose_code() if actor is None or actor is OWN_CODE else actor
        changed = self.lifecycle.pause(seconds, by)
        target = "" if seconds is None else f"for {format_duration(seconds)}"
        self._acted(actor, "pause", target, changed=changed)
        return changed

    def _pause_is_over(self, by: Actor) -> None:
        self._acted(by, "resume", "the time of the pause is over")

    def when_paused(self, call: Callable[[bool], object]) -> Cancel:
        """Call something with True when the service is paused, and with False when that is over.

        :returns: cancels the subscription.
        """
        return self.lifecycle.when_paused.add(call)

    def drain(self, spread_seconds: float = 0.0, *, actor: Actor | None = OWN_CODE) -> bool:
        """Refuse clients from now on (``draining``), and let the live connections go on.

        It ends a pause. It goes on until :meth:`resume`, also once no connection is left.

        :param spread_seconds: end the connections, with the reason ``operator``, evenly over this
            time; 0 leaves them alone. Draining again takes the place of that which was said before.
        :returns: False if nothing is different: it was draining already, and nothing had or has
            its connections ended.
        :raises QuestionError: it is stopping.
        """
        changed = self.lifecycle.drain(spread_seconds)
        target = f"spread over {format_duration(spread_seconds)}" if spread_seconds else ""
        self._acted(actor, "drain", target, len(self), changed)
        return changed

    def stop(self, wait_seconds: float) -> Deferred[None]:
        """Refuse new clients, and wait for the live connections.

        Those that still live after ``wait_seconds`` are ended with the reason
        ``stopping``; a moment later what is left of them is reset. If the policy has a ``spread``,
        they are ended evenly over that time, or over ``wait_seconds`` if that is less. A pause is
        over: what was sent meanwhile is delivered.

        :returns: fires when the last connection has ended, or with :meth:`resume`.
        """
        self.observers.flush_log()  # no timer may fire any more to do it
        self.room.forget_rate()
        return self.lifecycle.stop(wait_seconds, self.policy.spread)

    def resume(self, *, actor: Actor | None = OWN_CODE) -> bool:
        """Go on after :meth:`pause`, :meth:`drain` or :meth:`stop`.

        Connections that were still to be ended by a stop, or evenly over a time, stay open.

        :returns: False if there was nothing to end.
        """
        was_stopping = self.stopping
        changed = self.lifecycle.resume()
        if changed and not was_stopping:
            self._acted(actor, "resume")
        return changed

    def stop_now(self) -> None:
        """End every connection with a reset, within as many turns of the loop as that takes."""
        self.lifecycle.stop_now()


def _apply_limits(connection: IConnection) -> None:
    connection.policy_changed()


def _prefixes(policy: Policy, usual: ClientPrefixes) -> ClientPrefixes:
    v4, v6 = policy.devices.prefix_v4, policy.devices.prefix_v6
    return ClientPrefixes(usual.v4 if v4 is None else v4, usual.v6 if v6 is None else v6)


def _as_policy(policy: Policy) -> Policy:
    if not isinstance(policy, Policy):
        raise SettingTypeError(f"Monitor(policy={policy!r}): must be Policy(...)")
    return policy


def _network(network: str | Network) -> Network:
    return parse_network(str(network))  # turns IPv4-mapped IPv6 into IPv4
