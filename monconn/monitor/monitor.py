"""One service's live connections, totals and operations."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from monconn.addresses import Network, parse_client_ip, parse_network, plain_ip
from monconn.clock import Clock, MonotonicClock
from monconn.decode import first_bytes
from monconn.errors import (
    Forbidden,
    QuestionError,
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
    Reason,
    Refusal,
    ServiceState,
    Side,
)
from monconn.model.record import ConnectionRecord, iso_time
from monconn.model.totals import Totals
from monconn.monitor.admission import ADMITTED, Admission, Verdict
from monconn.monitor.attempts import BackendAttempts
from monconn.monitor.auto_block import AutoBlocker
from monconn.monitor.bandwidth import BandwidthLimits
from monconn.monitor.blocking import Blocking, block_detail
from monconn.monitor.clients import ClientTotals
from monconn.monitor.interfaces import (
    IAddressed,
    IConnection,
    IDecoded,
    IPausable,
    IRecordable,
    IWatchable,
)
from monconn.monitor.liverules import LiveRules
from monconn.monitor.observers import AnyObserver, Observers, Where, when_delivered
from monconn.monitor.recorder import Recorder
from monconn.monitor.spread import MOST_SPREADS, Spread
from monconn.monitor.subscriptions import Cancel, Subscriptions
from monconn.monitor.watchers import Watch
from monconn.monitor.why import Why, why_in_steps
from monconn.policy.block_files import BlockFile, faults, with_newer
from monconn.policy.blocks import CONFIGURED, Block, BlockChange, Blocks, network_order
from monconn.policy.mentions import mentions
from monconn.policy.networks import ips_within, matcher
from monconn.policy.pauses import Pauses
from monconn.policy.policy import Policy
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.steps import at_once
from monconn.turns import in_turns
from monconn.units import format_bytes, format_duration

CLOSED_RETAINED = 1_000
USUAL_PREFIXES = ClientPrefixes()
_NO_RULES = Rules()
STOP_GRACE_SECONDS = 1.0
"""How long peers may take to end their side once we have ended ours because we stop."""

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
        self.stopping = False
        self.draining = False
        """Whether clients are refused while the live connections go on."""
        self.is_paused = False
        """Whether nothing is read and nobody is accepted."""
        self.can_pause = True
        """False of a wrapped factory: the program that it is a part of reads, and not we."""
        self.pauses = Pauses()
        """When it stood still: time that counts for no limit on silence."""
        self.resumed = 0.0
        """When a pause or the draining ended last, in monotonic seconds; 0 for never."""
        self.paused_until: float | None = None
        """When a pause ends by itself, in monotonic seconds."""
        self.closed_records: deque[ConnectionRecord] = deque(maxlen=CLOSED_RETAINED)
        self.clients = ClientTotals()
        self.observers = Observers(name, self.clock)
        self.recorder = Recorder(self.clock)
        """The first and last bytes of its connections, if the policy has them recorded."""
        self.recorder.configure(policy.recorder)
        self.observers.forbid_payload(policy.payload == "never")
        self.attempts = BackendAttempts()
        """Those to connect to the backend."""
        self.alarms: dict[AlarmKind, Alarm] = {}
        """The alarms about the service itself that are active, as they began."""
        self.decoding = first_bytes.decoding(policy.decode)
        """What new connections are decoded by; None if nothing is."""
        self._blocks = Blocks()
        self._blocks.configure(policy.rules.block, since_at=self.booted_at)
        self._filed: dict[str, BlockFile] = {}  # what of block_files is in force
        self._filing: Deferred[None] = succeed(None)
        for _ in self._put_files_in_force(policy.rules.block_files):
            pass  # at once, before the first client comes
        self.blocking = Blocking(self._blocks, self.clock, self._block_ended)
        """What is blocked at this service alone."""
        self._auto_block: AutoBlocker | None = None
        self.bandwidth: BandwidthLimits | None = None
        """How fast bytes may pass; None if that was never limited."""
        self._configure_bandwidth(policy.rules)
        self.admission = Admission(policy.rules, self._blocks, _prefixes(policy, USUAL_PREFIXES))
        """Judges who may enter."""
        self._usual_prefixes = USUAL_PREFIXES
        self._rate_timer: IDelayedCall | None = None
        self._booted = self.clock.seconds()
        self._live: dict[int, IConnection] = {}
        self._live_by_ip: dict[str, int] = {}
        self._to_end: dict[int, tuple[Reason, bool]] = {}  # and whether by a reset
        self._rescheduling: Deferred[None] = succeed(None)
        self._holding: Deferred[None] = succeed(None)
        self._pause_timer: IDelayedCall | None = None
        self._when_paused = Subscriptions[[bool]]()
        self._spreads: list[Spread] = []
        self._drain_spread: Spread | None = None
        self._ended = Totals()  # of connections that are over; ``opened`` of all
        self._subtracted = Totals()
        self._room = Subscriptions[[]]()
        self._applied = Subscriptions[[]]()
        self._when_empty: list[Deferred[None]] = []
        self._stop_timers: list[IDelayedCall] = []
        self._configure_auto_block()
        for observer in observers:
            self.add_observer(observer)

    # -- its policy

    def apply(self, policy: Policy) -> None:
        """Replace every setting; it applies to live connections and waiting clients.

        Thousands of connections learn of it within some turns of the loop.

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
        self.decoding = first_bytes.decoding(policy.decode)
        if policy.rules != before.rules or policy.devices != before.devices:
            self._configure_admission()
        if policy.rules != before.rules:
            self._configure_blocks(before.rules)
        if policy.rules.auto_block != before.rules.auto_block:
            self._configure_auto_block()
        is_limited_otherwise = self._configure_bandwidth(policy.rules, before.rules)
        if (
            is_limited_otherwise
            or policy.timeouts != before.timeouts
            or policy.keepalive != before.keepalive
        ):
            self._rescheduling.cancel()  # what follows does all of it
            live = tuple(self._live.values())
            self._rescheduling = in_turns(
                self.clock,
                self._each(live, _apply_limits, "failed to change the time limits of"),
            ).addErrback(lambda failure: failure.trap(CancelledError) and None)
        if policy.rules != before.rules:
            self._stop_rate_timer()  # its time is that of the rate before; who waits asks again
            self.notify_room()
        for call in self._applied.calls:
            call()

    def _configure_blocks(self, before: Rules) -> None:
        rules = self.policy.rules
        is_dry_run = "block" in rules.dry_run
        if rules.block != before.block:
            now, since_at = self.clock.seconds(), time.time()
            new = self._blocks.configure(rules.block, since_at=since_at, now=now)
            if not is_dry_run:
                self.end_blocked(new)
        is_real_now = "block" in before.dry_run and not is_dry_run
        if rules.block_files != before.block_files or is_real_now:

            def configure() -> Iterator[None]:
                yield from self._put_files_in_force(rules.block_files)
                yield from self._end_configured()

            self._filing.cancel()  # what follows does all of it
            self._filing = in_turns(self.clock, configure())
            self._filing.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _put_files_in_force(self, files: Collection[BlockFile]) -> Iterator[None]:
        named = {each.path: each for each in files}
        for path in {*self._filed, *named}:
            file = named.get(path)
            if file is not None and self._filed.get(path) == file:
                continue
            # Until it is done, it is neither what it was nor what it is to be.
            self._filed[path] = attrs.evolve(self._filed.get(path) or named[path], digest=b"")
            origins = {} if file is None else file.origins
            yield from self._blocks.configure_file(
                path, origins, since_at=time.time(), now=self.clock.seconds()
            )
            if file is None:
                del self._filed[path]
            else:
                self._filed[path] = file

    def _end_configured(self) -> Iterator[None]:
        """End the live connections whose clients the configuration blocks, in steps."""
        now, ips = self.clock.seconds(), set()
        for ip in tuple(self._live_by_ip):
            block = self.admission.find_block(ip, now)
            if block is not None and block.source in CONFIGURED:
                ips.add(ip)
            yield
        if ips and "block" not in self.policy.rules.dry_run:
            self._end_all("blocked", ips)

    def _configure_admission(self) -> None:
        prefixes = _prefixes(self.policy, self._usual_prefixes)
        now = self.clock.seconds()
        self.admission.configure(self.policy.rules, prefixes, self._live_by_ip, now)

    def _configure_auto_block(self) -> None:
        settings = self.policy.rules.auto_block
        if settings is None:
            self._auto_block = None
        elif self._auto_block is None:
            self._auto_block = AutoBlocker(self, settings)
        else:
            self._auto_block.configure(settings)

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

    def _each(
        self,
        connections: Iterable[IConnection],
        act: Callable[[IConnection], object],
        problem: str,
    ) -> Iterator[None]:
        """Do something to those connections that are still live, one a step.

        One failure keeps it from no other.
        """
        for connection in connections:
            if connection.record.id not in self._live:
                continue
            try:
                act(connection)
            except Exception:
                self._log.failure(
                    "{service}: {problem} connection {id}",
                    service=self.name,
                    problem=problem,
                    id=connection.record.id,
                )
            yield

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
        refusal: Refusal | None = "stopping" if self.stopping else "draining"
        if not (self.stopping or self.draining):
            verdict = self.admission.judge(
                client_ip, len(self._live), record.opened, takes_tokens=not is_known
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
        self._ended.would_refuse.update(new)
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
        self._ended.refused[refusal] += 1
        self.observers.notify("refused", record)
        if self._auto_block is not None:
            self._auto_block.refused(record.client_ip, refusal)

    def opened(self, connection: IConnection) -> None:
        """A connection whose record :meth:`admit` has made is live from now on."""
        record = connection.record
        self._live[record.id] = connection
        self._live_by_ip[record.client_ip] = self._live_by_ip.get(record.client_ip, 0) + 1
        if self.admission.counts_clients:
            self.admission.opened(record.client_ip)
        self._ended.opened += 1
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

    def decode(self, connection: IDecoded, direction: Direction, data: bytes) -> None:
        """Have a chunk decoded, and notify observers if it has told something.

        Data paths ask whether there is a ``decoding`` first, as there is none after the first
        chunks.

        :param data: was counted, and is not passed on yet.
        """
        record = connection.record
        facts = record.unchanging_facts
        try:
            assert connection.decoding is not None
            connection.decoding = connection.decoding.chunk(record, direction, data)
        except Exception:  # the bytes are passed on, whatever they are
            connection.decoding = None
            self._log.failure("{service}: failed to decode", service=self.name)
        if record.unchanging_facts is not facts and self.observers.by_hook["identified"]:
            self.observers.notify("identified", record)

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
        if self._live.pop(record.id, None) is None:
            return
        if getattr(connection, "decoding", None) is not None:
            self._end_decoding(cast(IDecoded, connection))
        self._to_end.pop(record.id, None)
        left = self._live_by_ip[record.client_ip] - 1
        if left:
            self._live_by_ip[record.client_ip] = left
        else:
            del self._live_by_ip[record.client_ip]
        if self.admission.counts_clients:
            self.admission.closed(record.client_ip)
        record.state = "closed"
        record.closed, record.closed_at = self.clock.seconds(), time.time()
        self._ended.up += record.up
        self._ended.down += record.down
        self.clients.closed(record)
        self.closed_records.append(record)
        if record.reason in CONNECT_FAILURES:
            self.attempts.count_failure(record)
        if self.recorder.live:
            self.recorder.closed(record)
        self.observers.notify("closed", record)
        if self._auto_block is not None:
            self._auto_block.closed(record.client_ip, record.reason)
        # As notify_room does, whose call each connection would pay for.
        for call in self._room.calls:
            call()
        for spread in self._spreads:
            spread.left(record.id)
        if self._when_empty and not self._live:
            self._notify_empty()

    def _end_decoding(self, connection: IDecoded) -> None:
        decoding, connection.decoding = connection.decoding, None
        assert decoding is not None
        try:
            decoding.ended(connection.record)
        except Exception:  # it ends, whatever its bytes were
            self._log.failure("{service}: failed to decode", service=self.name)

    def _notify_empty(self) -> None:
        waiting, self._when_empty = self._when_empty, []
        timers, self._stop_timers = self._stop_timers, []
        for timer in timers:
            if timer.active():
                timer.cancel()
        for deferred in waiting:
            # Whoever has waited stops what observes: that has to hear of the last end before.
            when_delivered(partial(deferred.callback, None))

    def must_wait(self) -> bool:
        """Whether the next client is to be left in the accept queue.

        Those who were told so are called (:meth:`when_room`) when that is over.
        """
        if self.is_paused:
            return True
        if self.draining:
            return False  # it is refused: a place would not be for it
        if not self.admission.may_wait:  # asked twice for each client
            return False
        if self.is_full():
            return True
        now = self.clock.seconds()
        until = None if self.stopping else self.admission.waits_until(now)
        if until is None:
            return False
        if self._rate_timer is None:  # one for all who ask
            self._rate_timer = self.clock.callLater(until - now, self._rate_allows)
        return True

    def must_hold(self) -> bool:
        """Whether a client that we have accepted, and know enough of, is to wait with us.

        As a TLS client whose handshake is complete; see :meth:`when_room`.
        """
        return self.is_paused or (self.is_full() and not (self.stopping or self.draining))

    def is_full(self) -> bool:
        """Whether the next client is to wait until a connection ends."""
        return self.admission.is_full(len(self._live))

    def _rate_allows(self) -> None:
        self._rate_timer = None
        self.notify_room()

    def _stop_rate_timer(self) -> None:
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None

    def when_room(self, call: Callable[[], object]) -> Cancel:
        """Call something each time there may be room: a connection has left, or rules changed.

        :returns: cancels the subscription.
        """
        return self._room.add(call)

    def notify_room(self) -> None:
        """Have those who wait for room look again; see :meth:`when_room`."""
        for call in self._room.calls:
            call()

    # -- queries

    def __len__(self) -> int:
        """How many connections are live."""
        return len(self._live)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, connection_id: object) -> bool:
        """Whether a live connection has this id."""
        return connection_id in self._live

    def connections(self) -> list[ConnectionRecord]:
        """The live connections, oldest first."""
        return [connection.record for connection in self._live.values()]

    def iter_connections(self) -> Iterator[ConnectionRecord]:
        """The connections that are live now, oldest first, for work that goes on over turns of the
        reactor: some will have closed when their records come."""
        return map(_record_of, tuple(self._live.values()))

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
            return self._live[connection_id]
        except KeyError:
            raise UnknownConnection(f"no live connection has the id {connection_id}") from None

    def connections_by_ip(self) -> Mapping[str, int]:
        """How many live connections each client IP has; only IPs that have any."""
        return dict(self._live_by_ip)

    def client_ips(self) -> int:
        """How many client IPs have live connections."""
        return len(self._live_by_ip)

    def bytes(self) -> tuple[int, int]:
        """Bytes up and down of closed and live connections, less what was subtracted."""
        totals = self.totals()
        return totals.up, totals.down

    def totals(self) -> Totals:
        """The counters, less what was subtracted."""
        return self.counted() - self._subtracted

    def carry_over(self, totals: Totals) -> None:
        """Add what an earlier run of the program has counted."""
        self._ended += totals

    def counted(self) -> Totals:
        """All that was ever counted, whatever was subtracted."""
        up = down = 0
        for connection in self._live.values():  # half the time of two sums
            record = connection.record
            up += record.up
            down += record.down
        return self._ended + Totals(up=up, down=down)

    def uptime_seconds(self) -> float:
        """Seconds since the monitor was made."""
        return float(self.clock.seconds() - self._booted)

    def stats(self) -> dict[str, Any]:
        """The service's figures as plain values for JSON."""
        return self._figures(self.totals()) | {"ips": sorted(self._live_by_ip)}

    def stats_in_steps(self) -> Generator[None, None, dict[str, Any]]:
        """Return what :meth:`stats` does but for ``ips``, as of now; for
        :func:`monconn.turns.in_turns`, as every live connection is asked for its bytes."""
        totals = self._ended - self._subtracted
        up = down = 0
        for record in self.iter_connections():  # also those that close before they are asked
            up += record.up
            down += record.down
            yield
        return self._figures(totals + Totals(up=up, down=down))

    def _figures(self, totals: Totals) -> dict[str, Any]:
        of_recorder = {}
        if self.policy.recorder is not None:
            of_recorder = {
                "recordings": len(self.recorder),
                "recordings_dropped": self.recorder.dropped["room"],
            }
        of_dry_run = {}
        if self.policy.rules.dry_run or totals.would_refuse:
            of_dry_run = {"would_refuse": dict(totals.would_refuse)}
        return {
            "sid": self.name,
            "state": self.state,
            **self._paused_until_text(),
            "listen": self.listen,
            "backend": self.backend,
            "booted_at": iso_time(self.booted_at),
            "uptime": round(self.uptime_seconds(), 3),
            "accessed": None if self.accessed_at is None else iso_time(self.accessed_at),
            "connections": len(self._live),
            "total": totals.opened,
            "refused": sum(totals.refused.values()),
            "refused_by": dict(totals.refused),
            "up": totals.up,
            "down": totals.down,
            **of_dry_run,
            **of_recorder,
            "alarms": list(self.alarms),
        }

    def describe(self) -> str:
        """The service's figures in one line for people."""
        stats = self._figures(self.totals())
        return (
            f"{self.name}: {'' if self.state == 'running' else f'{self.state}, '}"
            f"connections {len(self)}, ips {self.client_ips()},"
            f" total {stats['total']}, refused {stats['refused']},"
            f" up {format_bytes(stats['up'])}, down {format_bytes(stats['down'])},"
            f" uptime {format_duration(self.uptime_seconds())}"
        )

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
        ips = None if network is None else ips_within([_network(network)], self._live_by_ip)
        count = self._end_all("operator", ips, reset=reset)
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
        change, count = self.block_and_count(
            network, for_seconds=for_seconds, reason=reason, keep_open=keep_open, actor=actor
        )
        changed = change.is_new or change.is_changed
        self._acted(actor, "block", str(network), count, changed, block_detail(for_seconds, reason))
        return change.is_new

    def block_and_count(
        self,
        network: Network,
        *,
        for_seconds: float | None = None,
        reason: str = "",
        keep_open: bool = False,
        source: BlockSource = "operator",
        actor: Actor | None = None,
    ) -> tuple[BlockChange, int]:
        """Do what :meth:`block` does, without a report.

        :param source: ``auto`` for what no person has blocked.
        :returns: what has changed, and how many connections were ended.
        """
        change = self.blocking.block(
            network,
            for_seconds=for_seconds,
            reason=reason,
            keep_open=keep_open,
            source=source,
            actor=actor,
        )
        return change, 0 if keep_open else self.end_blocked([network])

    def end_blocked(self, networks: Collection[Network]) -> int:
        """End the live connections from some networks, which are blocked now.

        Each client's IP is checked, and only against these networks: a block costs the same
        however many there are already.

        :returns: how many were ended; those that were ending already are not counted.
        """
        if not networks or not self._live:
            return 0
        ips = ips_within(networks, self._live_by_ip)
        return self._end_all("blocked", ips) if ips else 0

    def unblock(self, network: str | Network, *, actor: Actor | None = OWN_CODE) -> bool:
        """Admit the clients of exactly this IP or network again, whether the operator or the
        configuration blocked it.

        A network of the configuration's stays unblocked until the program ends, or until the
        operator blocks it again; a changed configuration that goes on naming it changes nothing.
        What is blocked at all services (:meth:`Registry.block`) is not this one's to unblock.

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
        return self._blocks.networks(source, now=self.clock.seconds())

    def block_entries(self) -> list[Block]:
        """The same with who has blocked each, until when and why, and how many clients it met."""
        now = self.clock.seconds()
        found = [each for each in self._blocks.in_force() if not each.is_over(now)]
        return sorted(found, key=lambda each: network_order(each.network))

    def unreadable_files(self) -> list[str]:
        """Why files of ``block_files`` cannot be read now; what they listed before is in force."""
        files = self.policy.rules.block_files
        return [faults[each.path] for each in files if each.path in faults]

    def iter_blocks(self) -> Iterator[Block]:
        """The same in no order, for work in steps; some may have ended by the time they come."""
        return self._blocks.in_force()

    def get_block(self, network: Network) -> Block | None:
        """The block of exactly this network at this service alone."""
        return self._blocks.get(network, self.clock.seconds())

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

    def auto_block_used(self, ip: str) -> int | None:
        """How much of ``auto_block``'s ``after`` a client has used up; None if it is not set.

        :param ip: as :func:`~monconn.addresses.plain_ip` gives it.
        """
        return None if self._auto_block is None else self._auto_block.used(ip)

    @property
    def holds_clients(self) -> bool:
        """Whether there is a listener that leaves clients in its accept queue when they are to
        wait: only those of our own do, and subscribe to room."""
        return len(self._room) > 0

    def forget_in_steps(
        self, network: Network, *, dry_run: bool = False
    ) -> Generator[None, None, tuple[int, int]]:
        """Drop what is remembered of a network's clients: closed connections, IPs' totals, and what
        ``auto_block`` has counted.

        Live connections, and the service's totals, stay as they are.

        :param dry_run: only count.
        :returns: how many closed connections and how many IPs there were.
        """
        is_within, concerns = matcher([network]), _concerning(network)
        found: set[int] = set()
        for record in tuple(self.closed_records):
            if concerns(record):
                found.add(record.id)
            yield
        if found and not dry_run:
            kept = [each for each in self.closed_records if each.id not in found]
            self.closed_records.clear()
            self.closed_records.extend(kept)
        ips = 0
        for ip in self.clients.ips():
            if is_within(ip) and (dry_run or self.clients.forget(ip)):
                ips += 1
            yield
        if self._auto_block is not None and not dry_run:
            yield from self._auto_block.forget_in_steps(is_within)
        return len(found), ips

    def forget_recordings(
        self, network: Network, *, dry_run: bool = False
    ) -> Generator[None, None, int]:
        """Drop what is recorded of a network's clients; those that are live are recorded no more.

        :param dry_run: only count.
        :returns: how many recordings there were.
        """
        return self.recorder.forget_in_steps(_concerning(network), dry_run=dry_run)

    def subtract(self, up: int, down: int, *, actor: Actor | None = OWN_CODE) -> None:
        """Subtract bytes from the totals, once they are stored elsewhere.

        :raises ValueError: a count is negative or higher than the total.
        """
        self.check_subtract(up, down)
        self._subtracted.up += up
        self._subtracted.down += down
        self._acted(actor, "subtract_stats", f"{up} B up, {down} B down")

    def check_subtract(self, up: int, down: int) -> None:
        """Check that :meth:`subtract` would do this.

        :raises ValueError: it would not; with the message that it has.
        """
        now_up, now_down = self.bytes()
        if not (0 <= up <= now_up and 0 <= down <= now_down):
            raise ValueError(
                f"cannot subtract {up} up and {down} down from {now_up} up and {now_down} down"
            )

    def reset_stats(self, *, actor: Actor | None = OWN_CODE) -> None:
        """Set the totals (bytes, connections opened, refusals) to zero."""
        self._subtracted = self.counted()
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

    @property
    def state(self) -> ServiceState:
        """What the service does."""
        if self.stopping:
            return "stopping"
        if self.is_paused:
            return "paused"
        return "draining" if self.draining else "running"

    def _paused_until_text(self) -> dict[str, str | None]:
        if self.paused_until is None:
            return {}
        return {"paused_until": iso_time(time.time() + self.paused_until - self.clock.seconds())}

    def pause(self, seconds: float | None = None, *, actor: Actor | None = OWN_CODE) -> bool:
        """Read nothing, and accept nobody: clients wait in the kernel's queue.

        Nothing is refused or ended because of it. Limits on silence and on progress stand still;
        ``connect_timeout``, ``max_lifetime`` and the limits of handshakes go on. Thousands of
        connections are held within some turns of the loop; one that opens meanwhile begins held.

        :param seconds: after which it ends by itself; None for never. Of a service that is paused
            already, this is what is changed.
        :returns: False if it was paused already.
        :raises QuestionError: it is draining or stopping, or is a wrapped factory's.
        :raises SettingError: the time is not more than 0.
        """
        if seconds is not None and not 0 < seconds <= 1e9:
            raise SettingError(f"a pause of {seconds:g} s: must be more than 0")
        if not self.can_pause:
            raise QuestionError(
                f"{self.name} cannot be paused: it is a part of a program, which reads by itself"
            )
        if self.stopping or self.draining:
            advice = "" if self.stopping else f": resume {self.name} first"
            raise QuestionError(f"{self.name} is {self.state}, and cannot be paused{advice}")
        had_end = self.paused_until is not None
        self._end_pause_timer()
        if seconds is not None:
            self.paused_until = self.clock.seconds() + seconds
            by = whose_code() if actor is None or actor is OWN_CODE else actor
            self._pause_timer = self.clock.callLater(seconds, self._pause_is_over, by)
        is_new = not self.is_paused
        if is_new:
            self._set_paused(True)
        target = "" if seconds is None else f"for {format_duration(seconds)}"
        self._acted(actor, "pause", target, changed=is_new or had_end or seconds is not None)
        return is_new

    def _end_pause_timer(self) -> None:
        self.paused_until = None
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None

    def _pause_is_over(self, by: Actor) -> None:
        self._pause_timer = None
        self._end_pause()
        self._acted(by, "resume", "the time of the pause is over")

    def _end_pause(self) -> None:
        self._end_pause_timer()
        if self.is_paused:
            self._set_paused(False)
            self.resumed = self.clock.seconds()
            self.notify_room()

    def _set_paused(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        now = self.clock.seconds()
        if is_paused:
            self.pauses.begin(now)
        else:
            self.pauses.end(now)
        for call in self._when_paused.calls:
            call(is_paused)
        self._holding.cancel()  # what follows does all of it
        live = tuple(self._live.values())
        change = _pause if is_paused else _unpause
        self._holding = in_turns(
            self.clock, self._each(live, change, "failed to pause")
        ).addErrback(lambda failure: failure.trap(CancelledError) and None)

    def when_paused(self, call: Callable[[bool], object]) -> Cancel:
        """Call something with True when the service is paused, and with False when that is over.

        :returns: cancels the subscription.
        """
        return self._when_paused.add(call)

    def drain(self, spread_seconds: float = 0.0, *, actor: Actor | None = OWN_CODE) -> bool:
        """Refuse clients from now on (``draining``), and let the live connections go on.

        It ends a pause. It goes on until :meth:`resume`, also once no connection is left.

        :param spread_seconds: end the connections, with the reason ``operator``, evenly over this
            time; 0 leaves them alone. Draining again takes the place of that which was said before.
        :returns: False if it was draining already.
        :raises QuestionError: it is stopping.
        """
        if self.stopping:
            raise QuestionError(f"{self.name} is stopping, and refuses clients already")
        is_new, self.draining = not self.draining, True
        self._end_pause()
        if self._drain_spread is not None:
            self._drain_spread.cancel()
            self._drain_spread = None
        count = len(self._live)
        if spread_seconds:
            self._drain_spread = self._spread("operator", self._not_ending(), spread_seconds)
        self.notify_room()  # who waits is refused
        target = f"spread over {format_duration(spread_seconds)}" if spread_seconds else ""
        self._acted(actor, "drain", target, count, is_new)
        return is_new

    def close_spread(
        self, connection_ids: Iterable[int], seconds: float, *, reset: bool = False
    ) -> int:
        """End connections with the reason ``operator``, in random order, evenly over a time.

        :meth:`resume` ends that. It is not reported as an action.

        :returns: how many will be ended.
        :raises QuestionError: there are too many such orders already.
        """
        self.check_spread()
        chosen = [each for each in connection_ids if each in self._live]
        self._spread("operator", chosen, seconds, reset=reset)
        return len(chosen)

    def check_spread(self) -> None:
        """Check that :meth:`close_spread` would do one thing more.

        :raises QuestionError: there are too many such orders already.
        """
        if len(self._spreads) >= MOST_SPREADS:
            raise QuestionError(
                f"{self.name} ends connections by {MOST_SPREADS} orders already: wait for one of"
                f" them, or resume {self.name}, which ends them"
            )

    def _not_ending(self) -> list[int]:
        return [
            connection_id
            for connection_id, connection in self._live.items()
            if connection.record.reason is None
        ]

    def _spread(
        self, reason: Reason, connection_ids: list[int], seconds: float, *, reset: bool = False
    ) -> Spread:
        def end(chosen: list[int]) -> None:
            connections = []
            for connection_id in chosen:
                connection = self._live.get(connection_id)
                if connection is None or connection_id in self._to_end:
                    continue
                if reset or connection.record.reason is None:
                    self._to_end[connection_id] = reason, reset
                    connections.append(connection)
            in_turns(self.clock, self._each(connections, self._end_chosen, "failed to end"))

        spread = Spread(self.clock, connection_ids, seconds, end, self._spread_is_over)
        self._spreads.append(spread)
        spread.start()
        return spread

    def _spread_is_over(self, spread: Spread) -> None:
        # Replaced, and not changed: closed() goes through it.
        self._spreads = [each for each in self._spreads if each is not spread]

    def _cancel_spreads(self) -> bool:
        """End no more connections by any spread.

        :returns: whether there was one.
        """
        spreads = self._spreads
        for spread in spreads:
            spread.cancel()
        self._drain_spread = None
        return bool(spreads)

    def stop(self, wait_seconds: float) -> Deferred[None]:
        """Refuse new clients, and wait for the live connections.

        Those that still live after ``wait_seconds`` are ended with the reason
        ``stopping``; a moment later what is left of them is reset. If the policy has a ``spread``,
        they are ended evenly over that time, or over ``wait_seconds`` if that is less. A pause is
        over: what was sent meanwhile is delivered.

        :returns: fires when the last connection has ended, or with :meth:`resume`.
        """
        self.stopping, self.draining = True, False
        self._end_pause()
        self.observers.flush_log()  # no timer may fire any more to do it
        self._stop_rate_timer()
        done: Deferred[None] = Deferred()
        self._when_empty.append(done)
        if not self._live:
            self._notify_empty()
            return done
        self.notify_room()  # who waits for a slot is refused, instead of waiting for the others
        self._stop_timers += [
            self.clock.callLater(wait_seconds, self._end_all, "stopping"),
            self.clock.callLater(wait_seconds + STOP_GRACE_SECONDS, self.stop_now),
        ]
        if seconds := min(self.policy.spread, wait_seconds):
            self._cancel_spreads()
            self._spread("stopping", self._not_ending(), seconds)
        return done

    def resume(self, *, actor: Actor | None = OWN_CODE) -> bool:
        """Go on after :meth:`pause`, :meth:`drain` or :meth:`stop`.

        Connections that were still to be ended by a stop, or evenly over a time, stay open.

        :returns: False if there was nothing to end.
        """
        was_stopping, was_held = self.stopping, self.is_paused or self.draining
        if self.draining:
            self.resumed = self.clock.seconds()
        self.stopping = self.draining = False
        had_spreads = self._cancel_spreads()
        self._end_pause()
        if actor is not None and (was_held or had_spreads) and not was_stopping:
            self._acted(actor, "resume")
        for connection_id, (reason, _) in tuple(self._to_end.items()):
            if reason == "stopping":
                del self._to_end[connection_id]
        self._notify_empty()
        self.notify_room()
        return was_stopping or was_held or had_spreads

    def stop_now(self) -> None:
        """End every connection with a reset, within as many turns of the loop as that takes."""
        self.stopping, self.draining = True, False
        self._cancel_spreads()
        self._end_pause()
        self._end_all("stopping", reset=True)

    def _end_all(
        self, reason: Reason, ips: Collection[str] | None = None, *, reset: bool = False
    ) -> int:
        """End all connections, or those of some client IPs, in as many turns as that takes.

        Each that lives on until then is ended once, for the reason that came first; a reset that
        follows takes the place of an end in order that is still to come.

        :returns: how many; those that were ending already are not counted, unless for a reset.
        """
        chosen = []
        for connection in self._live.values():
            record = connection.record
            if ips is not None and record.client_ip not in ips:
                continue
            before = self._to_end.get(record.id)
            if before is not None:
                if reset and not before[1]:
                    self._to_end[record.id] = before[0], True
                    chosen.append(connection)
            elif reset or record.reason is None:
                self._to_end[record.id] = reason, reset
                chosen.append(connection)
        if chosen:
            in_turns(self.clock, self._each(chosen, self._end_chosen, "failed to end"))
        return len(chosen)

    def _end_chosen(self, connection: IConnection) -> None:
        chosen = self._to_end.pop(connection.record.id, None)
        if chosen is not None:  # else it was done already, or is not to be any more
            connection.end(*chosen)


def _pause(connection: IConnection) -> None:
    if IPausable.providedBy(connection):
        cast(IPausable, connection).pause()


def _unpause(connection: IConnection) -> None:
    if IPausable.providedBy(connection):
        cast(IPausable, connection).unpause()


def _apply_limits(connection: IConnection) -> None:
    connection.policy_changed()


def _prefixes(policy: Policy, usual: ClientPrefixes) -> ClientPrefixes:
    v4, v6 = policy.devices.prefix_v4, policy.devices.prefix_v6
    return ClientPrefixes(usual.v4 if v4 is None else v4, usual.v6 if v6 is None else v6)


def _as_policy(policy: Policy) -> Policy:
    if not isinstance(policy, Policy):
        raise SettingTypeError(f"Monitor(policy={policy!r}): must be Policy(...)")
    return policy


def _concerning(network: Network) -> Callable[[ConnectionRecord], bool]:
    """Whether a connection is one of a network's clients, or mentions one."""
    is_within, is_mentioned = matcher([network]), mentions(network)

    def concerns(record: ConnectionRecord) -> bool:
        facts = map(str, record.facts.values()) if record.has_facts else ()
        return is_within(record.client_ip) or any(map(is_mentioned, (record.detail, *facts)))

    return concerns


def _network(network: str | Network) -> Network:
    return parse_network(str(network))  # turns IPv4-mapped IPv6 into IPv4
