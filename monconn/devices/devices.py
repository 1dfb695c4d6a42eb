"""The usual behavior of each device, and alarms when a device departs from it."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import attrs

from monconn.addresses import Network, address_text, name_of_text, network_of
from monconn.clock import Clock
from monconn.config.sections import DevicesConfig
from monconn.devices.alarms import DeviceAlarms, count_text
from monconn.devices.backends import BackendWatch
from monconn.devices.heartbeat import (
    ADDRESSES_RETAINED,
    CLIENT_ID,
    DUPLICATE_SECONDS,
    GOOD_ENDS,
    INFINITE,
    KEEPALIVE,
    NEVER,
    NO_ATTEMPTS,
    Device,
    Rivals,
    two_at_once,
)
from monconn.devices.identity import AddressNames, DeviceIdentity, is_within
from monconn.devices.outages import Outages
from monconn.devices.users import AddressUsers
from monconn.model.alarms import Alarm
from monconn.model.devices import StoredDevice
from monconn.model.record import ConnectionRecord
from monconn.monitor.deadlines import DeadlineWheel
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.units import format_duration

BUCKET_SECONDS = 1.0
"""How late an alarm may be raised; see :class:`DeadlineWheel`."""
MOST_MEASURED = 100
"""Connections of one device about which the kernel is asked: some microseconds each,
and a network behind one address may have thousands."""
MOST_PENDING = 1_000
"""Connections that may wait to be counted."""
COUNTED_AT_ONCE = 200
"""How many are counted when there are more, as everybody else waits meanwhile: 3 ms."""
MOST_UNSCHEDULED = 100
"""Devices that may wait to be scheduled while others are counted."""


class Devices(Observer):
    """The devices of one service.

    Opened and closed connections are only queued as they come, so that the data path pays next to
    nothing; :meth:`poll` and queries count them first.

    :param config: what a device is, and the limits for alarms, where the service's policy does not
        say otherwise.
    :param monitor: the service; its observers are notified of alarms.
    :param clock: monotonic time.
    """

    def __init__(self, config: DevicesConfig, monitor: Monitor, clock: Clock) -> None:
        self._usual = config
        self._is_configured = False  # anew; the next poll follows
        self._rules = monitor.policy.devices
        self._config = attrs.evolve(config, **self._rules.given())
        self._monitor = monitor
        self._clock = clock
        self._identity = DeviceIdentity(self._config)
        self._names = AddressNames(self._config.names)
        self._deadlines: DeadlineWheel[Device] = DeadlineWheel(BUCKET_SECONDS)
        self._opened: OrderedDict[ConnectionRecord, None] = OrderedDict()
        self._closed: deque[ConnectionRecord] = deque()  # of those counted as opened
        self._identified: deque[ConnectionRecord] = deque()
        # The hook, without a call in Python: nearly every connection tells something.
        self.identified = self._identified.append  # type: ignore[assignment]
        self._told: dict[ConnectionRecord, None] = {}  # those of them that are counted as opened
        # The devices of live connections that have told its name; others are by their address.
        self._named: dict[ConnectionRecord, Device] = {}
        self._users = AddressUsers()
        # By IP or network, how many devices with such a name were known from there first.
        self._introduced: Counter[str] = Counter()
        # By name, the one seen longest ago first.
        self._connected: OrderedDict[str, Device] = OrderedDict()
        self._away: OrderedDict[str, Device] = OrderedDict()
        self._outages = Outages(monitor, clock, self._connected)
        self._backend = BackendWatch(monitor)
        self._configure_outages()
        self._unscheduled: set[Device] = set()  # of those counted: each once, however often
        self._refused: deque[ConnectionRecord] = deque(maxlen=MOST_PENDING)
        self._alarms = DeviceAlarms(monitor, self._outages, self.given_name, self._note_alarm)
        self._changed: dict[Device, None] | None = None  # since it was stored; None: none is
        self._deleted: dict[str, None] = {}  # those forgotten that are stored
        self.may_store = False
        """Whether all devices of earlier runs are restored, so that they may be replaced."""
        self.has_urgent = False
        """Whether an alarm has begun or ended since devices were taken."""
        self.forgotten = 0
        """How many devices were dropped to make room for others."""
        self._opened.update(dict.fromkeys(monitor.connections()))

    def _configure_outages(self) -> None:
        self._outages.least = self._config.outage_devices
        self._outages.percent = self._config.outage_percent

    def apply_config(self, config: DevicesConfig) -> None:
        """Follow another section ``devices``: with the next poll, in steps."""
        self._usual = config
        self._is_configured = True

    @property
    def alarms(self) -> deque[Alarm]:
        """The last alarms that began or ended."""
        return self._alarms.last

    def __len__(self) -> int:
        self.catch_up()
        return len(self._connected) + len(self._away)

    # -- counting connections

    def opened(self, record: ConnectionRecord) -> None:
        """Queue a connection to be counted."""
        self._opened[record] = None
        if len(self._opened) > MOST_PENDING:
            self._count_some()

    def closed(self, record: ConnectionRecord) -> None:
        """Queue the end of a connection to be counted."""
        if record not in self._opened:  # else it is found closed when it is counted
            self._closed.append(record)
            if len(self._closed) > MOST_PENDING:
                self._count_some()

    def refused(self, record: ConnectionRecord) -> None:
        """Queue an attempt that was refused: of many, the last ones."""
        if record.refusal not in NO_ATTEMPTS:
            self._refused.append(record)

    def _count_some(self) -> None:
        # Those that have told names are counted last, and must not pile up either.
        is_pile = len(self._told) > MOST_PENDING
        queued = self._count_told() if is_pile else self._count_queued()
        for _ in islice(queued, COUNTED_AT_ONCE):
            pass
        self._schedule_counted()

    def _queued(self) -> int:
        """How much is queued, some of it perhaps twice."""
        of_live = len(self._opened) + len(self._identified) + len(self._told)
        return of_live + len(self._closed) + len(self._refused)

    def catch_up(self) -> None:
        """Count all connections that are queued."""
        for _ in self._count_queued():
            pass
        while self._outages.notify_few():
            for _ in self._count_queued():
                pass

    def _count_queued(self) -> Iterator[None]:
        """Count, yielding after each connection."""
        # Those that are still to be counted as opened are counted by their names at once.
        while self._identified:
            record = self._identified.popleft()
            if record not in self._opened:
                self._told[record] = None
        while self._opened:
            record, _ = self._opened.popitem(last=False)
            device = self._count_opened(record)
            if record.closed is not None:
                self._count_closed(record, self._last_chance(record, device))
            if len(self._unscheduled) >= MOST_UNSCHEDULED:
                self._schedule_counted()
            yield
        for _ in self._count_told():
            yield
            if self._opened:
                break
        while self._closed and not self._opened:
            record = self._closed.popleft()
            known = self._device_of(record)
            if known is not None:
                self._count_closed(record, self._last_chance(record, known))
            if len(self._unscheduled) >= MOST_UNSCHEDULED:
                self._schedule_counted()
            yield
        while self._refused and not self._opened:
            self._count_refused(self._refused.popleft())
            yield
        self._schedule_counted()

    def _count_told(self) -> Iterator[None]:
        while self._told:
            record, _ = self._told.popitem()
            self._count_identified(record)
            if len(self._unscheduled) >= MOST_UNSCHEDULED:
                self._schedule_counted()
            yield

    def _schedule_counted(self) -> None:
        while self._unscheduled:
            device = self._unscheduled.pop()
            if not device.is_forgotten:
                self._schedule(device)

    def _device_of(self, record: ConnectionRecord) -> Device | None:
        """The device for which a live connection is counted."""
        return self._named.get(record) or self._connected.get(self._identity.of(record.client_ip))

    def _count_opened(self, record: ConnectionRecord) -> Device:
        said = self._identity.said(record) if record.has_facts else None
        if said is not None:
            name, fact = said
            # One host with ever new names must not have all others forgotten; over IPv6, it has as
            # many addresses as it likes.
            origin = self._identity.of(record.client_ip)
            most = max(1, self._config.kept // 2)
            if self._introduced[origin] < most or self.get(name) is not None:
                return self._count_for(record, name, fact)
        return self._count_for(record, self._identity.of(record.client_ip), "")

    def _count_for(self, record: ConnectionRecord, name: str, fact: str) -> Device:
        device = self._connected.get(name)
        if device is None:
            device = self._away.pop(name, None)
            if device is None:
                device = Device(name, record.opened_at, fact)
                if fact:
                    self._introduce(device, record.client_ip)
            self._connected[name] = device
        else:
            self._connected.move_to_end(name)
            if fact == CLIENT_ID:
                rivals = device.rivals = device.rivals or Rivals()
                rivals.arrivals.append((record.opened, record.client))
        if fact:
            self._named[record] = device
            self._leave_address(record, name)
        if record.client_ip != name:
            self._note_address(device, record.client_ip)
        word = device.failed
        storm_begins = device.open(record, self._config)
        if record.has_facts:
            self._note_facts(record, device)
        self._unscheduled.add(device)
        if self._changed is not None:
            self._changed[device] = None
        if device.is_away_too_long:
            away = format_duration(record.opened - device.left)
            self._alarms.end_silence(device, f"came back after {away}")
        if storm_begins:
            self._alarms.begin_storm(device, word)
        if len(self._connected) + len(self._away) > self._config.kept:
            self._drop_oldest()
        return device

    def _introduce(self, device: Device, address: str) -> None:
        device.origin = self._identity.of(address)
        self._introduced[device.origin] += 1

    def _count_identified(self, record: ConnectionRecord) -> None:
        """Count a live connection for the device that it is of, as far as is known by now."""
        device = self._device_of(record)
        if device is None or device.is_forgotten or record not in (device.live or ()):
            return  # it has closed meanwhile, or its device was dropped
        said = self._identity.said(record)
        if said is not None and said[0] != device.name:
            device = self._move(record, device)
            if record.closed is not None and record not in self._closed:
                # An observer of an alarm that has ended here has closed it.
                self._count_closed(record, device)
        else:
            self._note_facts(record, device)
            self._unscheduled.add(device)

    def _move(self, record: ConnectionRecord, device: Device) -> Device:
        """Count a connection for another device than before, which nothing is left of if it was
        there for this connection alone."""
        self._named.pop(record, None)
        self._take_back(record, device)
        return self._count_opened(record)

    def _take_back(self, record: ConnectionRecord, device: Device) -> None:
        device.take_back(record)
        if device.live is None:
            del self._connected[device.name]
            if device.total:
                self._away[device.name] = device
            else:
                self._drop(device, "its only connection is another device's")
        self._unscheduled.add(device)
        if self._changed is not None and not device.is_forgotten:
            self._changed[device] = None

    def _leave_address(self, record: ConnectionRecord, name: str) -> None:
        """Expect nothing of an address any more whose connections tell names by now.

        Else a device that was known by its address, as before names were told, would seem silent.
        """
        device = self._away.get(self._identity.of(record.client_ip))
        if device is None or device.fact:
            return
        if device.expect_nothing() and self._changed is not None:
            self._changed[device] = None
        self._deadlines.cancel(device)
        if device.is_silent:
            self._alarms.end_silence(device, f"is back, and calls itself {name}")
        if device.is_storm:
            self._alarms.end_storm(device, f"is back, and calls itself {name}")

    def _last_chance(self, record: ConnectionRecord, device: Device) -> Device:
        """Find the device of a connection that has closed and is counted for its address so far.

        Somebody may have set the fact with its name without a word (:meth:`identified`). And one
        that has failed before its client could say anything is an attempt of the only device that
        is known at that address: else, while a broker is down, its devices would seem to be others.
        """
        if device.fact or not self._identity.facts or record not in (device.live or ()):
            return device
        if record.has_facts and self._identity.said(record) is not None:
            return self._move(record, device)
        user = self._users.only(record.client_ip)
        if user is not None and not record.up and record.reason not in GOOD_ENDS:
            self._take_back(record, device)
            return self._count_for(record, user.name, user.fact)
        return device

    def _note_facts(self, record: ConnectionRecord, device: Device) -> None:
        """Note what a connection tells of its device, beside its name."""
        if not device.fact and (name := name_of_text(str(record.facts.get(CLIENT_ID, "")))):
            device.called = name if device.called in (None, name) else ""
        declared = record.facts.get(KEEPALIVE)
        if isinstance(declared, int | float) and not isinstance(declared, bool) and declared >= 0:
            device.declare(float(declared), self._config.silent_heartbeats)

    def _note_address(self, device: Device, address: str) -> None:
        addresses = device.addresses
        if addresses is None:
            addresses = device.addresses = []
        elif addresses[-1:] == [address]:
            return
        if address in addresses:
            addresses.remove(address)
        elif device.fact:
            self._users.add(device, address)
        addresses.append(address)
        if len(addresses) > ADDRESSES_RETAINED:
            self._users.remove(device, addresses.pop(0))

    def _count_refused(self, record: ConnectionRecord) -> None:
        """Count an attempt of a device that has had a connection; no stranger becomes a device."""
        name = self._identity.of(record.client_ip)
        device = self.get(name)
        if device is None:
            device = self._users.only(record.client_ip)
            if device is None:
                return
        storm_begins = device.failed is not None and device.attempt(record.opened, self._config)
        device.failed = record.refusal
        if storm_begins:
            self._alarms.begin_storm(device, record.refusal)

    def _count_closed(self, record: ConnectionRecord, device: Device) -> None:
        self._named.pop(record, None)
        if device.is_forgotten or device.live is None or record not in device.live:
            # An observer of the alarm raised for its opening has closed so many connections that
            # catch_up() ran, and this one was counted there.
            return
        silence = device.note_message(record, self._config.silent_heartbeats)
        device.close(record, self._clock.seconds())
        if device.rivals is not None:
            rival = device.rivals.note_closed(record)
            if rival is not None and not device.is_duplicate and not self._monitor.stopping:
                ousted = device.rivals.ousted
                self._alarms.begin_duplicate(
                    device,
                    f"{len(ousted)} connections within {format_duration(ousted[-1] - ousted[0])}"
                    " were taken over while their client was still there: the last one from"
                    f" {record.client}, by {rival}",
                )
        if device.live is not None:
            self._connected.move_to_end(device.name)
        else:
            del self._connected[device.name]
            self._away[device.name] = device
            self._outages.note_closed(device, record)
        self._unscheduled.add(device)
        if self._changed is not None:
            self._changed[device] = None
        if device.is_silent:
            if silence is not None:
                self._alarms.end_silence(device, _spoke_after(silence))
            elif device.signed_off() and not self._monitor.stopping:
                self._alarms.end_silence(device, f"its connection has ended: {record.reason}")

    def _drop_oldest(self) -> None:
        """Drop the device seen longest ago, one without a connection if there is any."""
        _, device = (self._away or self._connected).popitem(last=False)
        self.forgotten += 1
        self._drop(device, _FORGOTTEN)

    def _drop(self, device: Device, why: str) -> None:
        """End the alarms of a device that is no longer among those that are known."""
        device.is_forgotten = True
        self._deadlines.cancel(device)
        if device.origin is not None:
            self._introduced[device.origin] -= 1
            if not self._introduced[device.origin]:
                del self._introduced[device.origin]
        if device.fact:
            for address in device.addresses or ():
                self._users.remove(device, address)
        if self._changed is not None:
            self._changed.pop(device, None)
            if device.is_stored:
                self._deleted[device.name] = None
                self.has_urgent = self.has_urgent or device.alarms is not None
        self._alarms.end_those_of(device, why)

    def forget(self, network: Network) -> int:
        """Forget every device that has an address in a network, and what is usual for it.

        One that has live connections is a new device from now on. Of a device with a name of its
        own, which has used other addresses as well, only those in the network are forgotten.

        :param network: an IP or a network; a device that is a larger network, as IPv6 clients are,
            is forgotten for one address of it.
        :returns: how many devices were forgotten.
        """
        return last_of(self.forget_in_steps(network))

    def forget_in_steps(self, network: Network) -> Iterator[int]:
        """The same in steps, each of which yields how many were forgotten so far."""

        count = 0
        for device in self.all():
            if device.is_forgotten:
                continue
            if has_address(network, device.name) or self._forget_addresses(device, network):
                self._forget_one(device, "forgotten by the operator")
                count += 1
                # Its live connections now, and in steps: with those of many devices, whatever
                # comes next would have to count all of them at once.
                for _ in self._count_queued():
                    yield count
            yield count
        # Also those of devices that were dropped to make room for others. By identity, and removed
        # in one step: others are raised meanwhile.
        gone = set()
        for alarm in tuple(self.alarms):
            if has_address(network, alarm.device) or any(
                is_within(network, address) for address in alarm.addresses
            ):
                gone.add(id(alarm))
            yield count
        self._alarms.forget(gone)

    def _forget_addresses(self, device: Device, network: Network) -> bool:
        """Forget the addresses of a device that are in a network.

        :returns: whether it has had no others, and has a name of its own.
        """
        found = [each for each in device.addresses or () if is_within(network, each)]
        if not found or device.addresses is None or not device.fact:
            return False  # of a device that is a network, the network itself was asked about
        if len(found) == len(device.addresses):
            return True
        for address in found:
            device.addresses.remove(address)
            self._users.remove(device, address)
        device.rivals = None
        if device.is_duplicate:
            self._alarms.end_duplicate(device, "forgotten by the operator")
        for kind, alarm in (device.alarms or {}).items():
            left = tuple(each for each in alarm.addresses if each not in found)
            device.alarms[kind] = attrs.evolve(alarm, addresses=left)  # type: ignore[index]
        if self._changed is not None:
            self._changed[device] = None
        return False

    def _forget_one(self, device: Device, why: str) -> None:
        """Forget a device; its live connections are those of a new one."""
        (self._away if device.live is None else self._connected).pop(device.name)
        for record in device.live or ():
            self._named.pop(record, None)
            self._opened[record] = None
        self._drop(device, why)

    def _schedule(self, device: Device) -> None:
        """Have a device checked when its next alarm begins or ends."""
        due = device.silent_due()
        if device.is_storm:
            due = min(due, device.calm_due(self._config))
        # A check that comes too early does no harm, so a device whose deadline has moved to later,
        # as with each message, is left where it is.
        if due < INFINITE and (device.bucket is None or due < (device.bucket - 1) * BUCKET_SECONDS):
            self._deadlines.schedule(device, due)

    # -- polling

    def poll(self, now: float) -> Iterator[None]:
        """Count what is queued, check each live connection for new messages, and check the
        devices that are due; yields after each step, for others to run.

        No payload is watched for this: a record has the time of its last bytes.

        :param now: the time as of which devices are checked; monotonic seconds.
        """
        if self._monitor.policy.devices is not self._rules or self._is_configured:
            yield from self._apply()
        yield from self._count_queued()
        for device in tuple(self._connected.values()):
            for record in tuple(device.live or ()):
                # Tested here as well as in note_message(): most have sent nothing new.
                if record.last_up is not None and record.last_up > device.last_message:
                    self._note_message(record, device)
                yield
            if device.rivals is not None:
                self._check_rivals(device, now)
        # No device is checked that has connected meanwhile.
        while self._queued() > COUNTED_AT_ONCE:
            yield from self._count_queued()
        self.catch_up()
        for device in self._deadlines.take_due(now):
            self._check(device, now)
            yield
        for device in self._alarms.active():
            self._check_alarms(device)
            yield
        self._backend.poll()
        # In a pause nobody can come back either, and the operator knows that.
        yield from self._outages.decide(now, self._backend.is_down or self._monitor.is_paused)

    def _apply(self) -> Iterator[None]:
        """Follow a policy that was replaced; alarms that it switches off are ended by the poll."""
        self._is_configured = False
        before, self._rules = self._config, self._monitor.policy.devices
        self._config = config = attrs.evolve(self._usual, **self._rules.given())
        self._configure_outages()
        if config.names != before.names:
            self._names = AddressNames(config.names)
        if (config.prefix_v4, config.prefix_v6) != (before.prefix_v4, before.prefix_v6):
            self.catch_up()  # by their names of before
            self._identity = DeviceIdentity(config)
            for device in self.all():
                if not device.is_forgotten:
                    self._forget_one(device, "forgotten, as another prefix makes a device now")
                yield
        elif config.identity != before.identity:
            self.catch_up()
            self._identity = DeviceIdentity(config)
            for device in self.all():
                if not device.is_forgotten:
                    yield from self._apply_identity(device)
                yield
        elif config.silent_heartbeats != before.silent_heartbeats:
            for device in self.all():
                if not device.is_forgotten:
                    device.apply(config.silent_heartbeats)
                    self._schedule(device)
                yield
        while len(self._connected) + len(self._away) > config.kept:
            self._drop_oldest()
            yield

    def _apply_identity(self, device: Device) -> Iterator[None]:
        """Follow another identity: devices of names that it does not have are forgotten, and live
        connections are counted for the device that they are of now."""
        if device.fact and device.fact not in self._identity.facts:
            self._forget_one(device, "forgotten, as another identity makes a device now")
            return
        for record in tuple(device.live or ()):
            if record.has_facts:
                self._identified.append(record)
            yield

    def _note_message(self, record: ConnectionRecord, device: Device) -> None:
        silence = device.note_message(record, self._config.silent_heartbeats)
        if device.is_forgotten or device.live is None or silence is None:
            return
        self._connected.move_to_end(device.name)
        self._schedule(device)
        if self._changed is not None:
            self._changed[device] = None
        if device.is_silent:
            self._alarms.end_silence(device, _spoke_after(silence))

    def _check(self, device: Device, now: float) -> None:
        """Raise and end the alarms that are due."""
        within = self._config.storm_within
        if device.calm_due(self._config) <= now:
            self._alarms.end_storm(device, count_text(device.opened_since(now - within), within))
        if device.silent_due() <= now:
            if self._monitor.stopping:
                return  # no client can come back, and all are being disconnected
            if self._is_kept_out(device) or self._is_unrecognizable(device):
                device.restored = now  # it cannot come back; once it may, it is given its time
            elif self._monitor.lifecycle.resumed > max(device.restored, device.quiet_since):
                device.restored = self._monitor.lifecycle.resumed
            elif device.is_unread(now):
                device.quiet_since = now  # as far as is known; it is given its time anew
            else:
                self._alarms.begin_silence(device, now)
        if not device.is_forgotten:
            self._schedule(device)

    def _is_kept_out(self, device: Device) -> bool:
        """Whether nothing can be heard of a device, or it cannot come back, because of us."""
        if self._monitor.is_paused or (self._monitor.draining and device.live is None):
            return True
        return self._is_blocked(device)

    def _is_blocked(self, device: Device) -> bool:
        if device.live is not None:
            return False
        addresses = device.last_addresses() if device.fact else (device.name.partition("/")[0],)
        # Of one with a name of its own, by which another address may have come, all must be.
        return bool(addresses) and all(map(self._monitor.is_blocked, addresses))

    def _is_unrecognizable(self, device: Device) -> bool:
        """Whether a device could not be recognized if it came back, as nobody asks for its name."""
        is_off = self._monitor.policy.decode == "off"
        return device.live is None and device.fact == CLIENT_ID and is_off

    def _check_alarms(self, device: Device) -> None:
        """End the alarms for which there is no reason any more, though the device did nothing."""
        why = "it is blocked" if self._is_blocked(device) else None
        if device.is_silent and (why or not self._config.silent_heartbeats):
            self._alarms.end_silence(device, why or "silent_heartbeats is 0 now")
        if device.is_storm and (why or not self._config.storm_connections):
            self._alarms.end_storm(device, why or "storm_connections is 0 now")
        if device.is_duplicate:
            seen_at = NEVER if device.rivals is None else device.rivals.seen_at
            calm = self._clock.seconds() - seen_at
            if why or calm > DUPLICATE_SECONDS:
                text = f"no sign of a second device for {format_duration(DUPLICATE_SECONDS)}"
                self._alarms.end_duplicate(device, why or text)

    def _check_rivals(self, device: Device, now: float) -> None:
        """Check whether two connections of a device are there at once, with clients behind both."""
        if device.rivals is None or device.live is None or len(device.live) < 2:
            return
        both = two_at_once(device.live, now)
        if both is None or self._monitor.stopping:
            return
        device.rivals.seen_at = self._clock.seconds()
        if not device.is_duplicate:
            older, newer = both
            together = format_duration(now - newer.opened)
            detail = f"connected from {older.client} and {newer.client} at once, for {together}"
            self._alarms.begin_duplicate(device, f"{detail}; both have sent something since")

    def stop(self) -> None:
        """Count what is queued, and keep for the next run what is not decided."""
        self.catch_up()
        self._outages.stop()

    def end_alarms(self, why: str) -> None:
        """End every alarm that is active.

        :param why: the reason in words.
        """
        self._alarms.end_all(why)
        self._outages.end(why)
        self._backend.end(why)

    def _note_alarm(self, device: Device) -> None:
        """Have a device stored soon whose alarms have changed, and checked when that changes."""
        self._schedule(device)
        if self._changed is not None:
            self._changed.pop(device, None)
            self._changed[device] = None
            self.has_urgent = True

    # -- from one run to the next

    def store_changes(self) -> None:
        """Remember from now on what changes, and take all that is there for changed."""
        self._changed = dict.fromkeys(self.all())

    def take_changed(self, most: int) -> tuple[list[StoredDevice], list[str]]:
        """The devices that have changed since they were taken, and names of forgotten ones.

        Those whose alarms have changed come first.

        :param most: how many of each.
        """
        changed = self._changed
        if changed is None or not self.may_store:
            return [], []
        now, wall_now = self._clock.seconds(), time.time()
        devices: list[Device] = []
        while changed and len(devices) < most:
            device, _ = changed.popitem()  # the last one
            device.is_stored = True
            devices.append(device)
        names = list(islice(self._deleted, most))
        for name in names:
            del self._deleted[name]
        self.has_urgent = self.has_urgent and bool(changed or self._deleted)
        stored = [each.to_store(self._monitor.name, now, wall_now) for each in devices]
        return stored, [name for name in names if self.get(name) is None]

    def restore(self, stored: StoredDevice) -> None:
        """Add a device of an earlier run, or what that knew of a device that was seen again.

        They must come in the order in which they were seen, the last one first.
        """
        name = stored.device
        if stored.fact and stored.fact not in self._identity.facts:
            self._discard(stored, "forgotten, as another identity makes a device now")
            return
        device = self.get(name)
        if device is None:
            if len(self._connected) + len(self._away) >= self._config.kept:
                self._discard(stored, _FORGOTTEN)
                return
            device = self._away[name] = Device(name, stored.first_seen_at, stored.fact)
            self._away.move_to_end(name, last=False)
            if stored.fact and stored.addresses:
                self._introduce(device, stored.addresses[0])
        times = self._config.silent_heartbeats
        was_seen = bool(device.total)
        device.restore(stored, self._clock.seconds(), time.time(), times)
        device.is_stored = True
        self._restore_addresses(device, stored.addresses)
        for alarm in stored.alarms:
            if alarm.kind == "silent" and not was_seen:
                device.is_silent, device.is_away_too_long = True, alarm.is_away
                # What was part of an outage is part of another one, or is notified now.
                self._alarms.notify(
                    "silent", device, False, alarm.detail, alarm.at, alarm.is_folded
                )
            elif alarm.is_folded:
                continue
            elif alarm.kind == "silent":
                self._alarms.notify("silent", device, True, "came back while monconn was restarted")
            else:
                self._alarms.notify(alarm.kind, device, True, "monconn was restarted")
        self._schedule(device)

    def _discard(self, stored: StoredDevice, why: str) -> None:
        """Have a stored device deleted, and its alarms ended."""
        self._deleted[stored.device] = None
        device = Device(stored.device, stored.first_seen_at, stored.fact)
        device.is_forgotten = True
        for alarm in stored.alarms:
            if not alarm.is_folded:
                self._alarms.notify(alarm.kind, device, True, why)

    def _restore_addresses(self, device: Device, addresses: Iterable[str]) -> None:
        """Have a device know addresses that it has used in an earlier run."""
        for address in addresses:  # the last one first
            known = device.addresses = [] if device.addresses is None else device.addresses
            if address not in known and len(known) < ADDRESSES_RETAINED:
                known.insert(0, address)
                if device.fact:
                    self._users.add(device, address)

    # -- queries

    def given_name(self, device: Device) -> str | None:
        """The best name of a device whose own is its address: the client id that all its
        connections tell, or the one that the configuration gives."""
        return None if device.fact else device.called or self._names.of(device.name)

    def snapshot(self, device: Device) -> dict[str, Any]:
        """The row of a device as plain values for JSON."""
        name = self.given_name(device)
        return device.snapshot(self._monitor.name, self._clock.seconds(), name)

    def users_of(self, address: str) -> list[str]:
        """Devices with names of their own that have used an address lately, by name; not all of
        more than a hundred."""
        return self._users.names(address)

    def called(self, text: str) -> list[str]:
        """The devices whose addresses the configuration gives a name."""
        given = (address_text(network) for network, name in self._config.names if name == text)
        return [name for name in given if self.get(name) is not None]

    def device_of(self, record: ConnectionRecord) -> str:
        """The name of the device that a connection is of, known or not."""
        said = self._identity.said(record) if record.has_facts else None
        return self._identity.of(record.client_ip) if said is None else said[0]

    def measure(self, name: str) -> float | None:
        """Ask the kernel about a device's connections, and return for how long it was not heard.

        :returns: seconds; None without a live connection over TCP.
        """
        device = self._connected.get(name)
        if device is None:
            return None
        for record in islice(device.live or (), MOST_MEASURED):
            if record.id in self._monitor:
                self._monitor.measure(record.id)
        return device.last_heard_seconds(self._clock.seconds())

    def get(self, name: str) -> Device | None:
        """The device with a name."""
        return self._connected.get(name) or self._away.get(name)

    def name_of(self, client_ip: str) -> str:
        """The name of the device that a client's IP belongs to, known or not."""
        return self._identity.of(client_ip)

    def all(self) -> list[Device]:
        """Every device, in no order."""
        self.catch_up()
        # An OrderedDict's own values() take ten times as long: 20 ms for a hundred thousand.
        return [*dict.values(self._connected), *dict.values(self._away)]


def last_of(counts: Iterable[int]) -> int:
    """The last of the counts that steps yield; 0 if there were none."""
    count = 0
    for count in counts:  # noqa: B007
        pass
    return count


def has_address(network: Network, device: str) -> bool:
    """Whether a device has an address in a network, by its name."""
    found = network_of(device)
    return found is not None and found.version == network.version and found.overlaps(network)


_FORGOTTEN = "forgotten, as others were seen later"


def _spoke_after(silence_seconds: float) -> str:
    return f"spoke after {format_duration(silence_seconds)}"
