"""Many devices that are missing together: one alarm, instead of one for each of them."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator
from ipaddress import ip_address
from itertools import islice

from monconn.clock import Clock
from monconn.devices.heartbeat import NEVER, Device
from monconn.model.alarms import Alarm, AlarmKind
from monconn.model.reasons import CONNECT_FAILURES, Reason
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.monitor import Monitor
from monconn.units import format_duration

TOGETHER_SECONDS = 120.0
"""Within which devices are missing together: one whose messages come every minute is only known to
be silent a minute and a half after its last one, and another one that had just spoken later."""
SETTLE_SECONDS = 5.0
"""For how long no further device must be missing before the alarm is raised: then it says how many
there are, and a backend that has thrown all out and takes them back at once is none."""
MOST_SETTLE_SECONDS = 30.0
"""After which it is raised, though there are still more."""
RETURN_SECONDS = 90.0
"""How long devices may take to come back once their backend is there again, or a pause is over:
many wait longer after each attempt that failed, and a reconnect storm is over after a minute."""
NETWORKS_SECONDS = 10.0
"""How often all devices are counted by network, at most: 0.2 s of work for a hundred thousand."""
BACK_OF = (4, 5)
"""It is over when four of five are back: a few are always switched off meanwhile."""
MOSTLY = 0.9
"""What so many of them have is what they have in common."""
LOST: frozenset[Reason | None] = frozenset(("client_lost", "backend_lost", "backend_reset"))
"""Ends after which a device without another connection is missing. Clients that reset or leave by a
time limit do so all day."""
HELD: frozenset[AlarmKind] = frozenset(("silent", "reconnect_storm"))
"""Alarms that many devices raise for one cause."""
_PREFIXES = {4: (24, 16), 6: (48, 32)}
"""By version, the bits of networks that devices may have in common: those of a site and of a
provider."""
_NAMES_SHOWN = 5


class Outages:
    """The outages of one service's devices, of which there is one at a time.

    Alarms of devices that begin wait here until the end of the poll in which they do, when it is
    known how many they are. Whatever is done for all missing devices is a step of the poll.

    :param monitor: its observers are notified.
    :param clock: monotonic time.
    :param connected: the service's devices with live connections, by name, as they are at any
        time.
    """

    def __init__(self, monitor: Monitor, clock: Clock, connected: OrderedDict[str, Device]) -> None:
        self._monitor = monitor
        self._clock = clock
        self._connected = connected
        self._held: dict[tuple[Device, AlarmKind], Alarm] = {}
        self._folded: dict[Device, None] = {}
        # Since when each is missing, the first one first.
        self._missing: dict[Device, float] = {}
        self._backends: dict[Device, str] = {}  # of those that are missing, lost or not
        self._counted_at = NEVER
        self._outage: _Outage | None = None
        # When those are expected back whose backend was down, or whose service was paused.
        self._return_at: float | None = None
        self.least = 0
        """How many devices make an outage; 0 is never."""
        self.percent = 100
        """And how many percent of all."""

    @property
    def is_active(self) -> bool:
        """Whether the alarm is active."""
        return self._outage is not None and self._outage.is_notified

    # -- what happens to devices

    def notify(self, device: Device, alarm: Alarm) -> None:
        """Notify the monitor's observers of a device's alarm, now or later or not at all."""
        key = device, alarm.kind
        if alarm.is_over:
            if self._held.pop(key, None) is not None or self._unfold(device, alarm.kind):
                return
        elif alarm.kind in HELD and not alarm.goes_on:
            self._held[key] = alarm
            self._note(device)
            return
        self._monitor.alarm(alarm)

    def note_closed(self, device: Device, record: ConnectionRecord) -> None:
        """A connection of a device has ended."""
        if self._monitor.stopping or self._monitor.draining:
            return  # it is kept out: whoever drains may well end the backend then
        if device.live is None and record.reason in LOST:
            self._note(device, record.backend)

    def _note(self, device: Device, backend: str | None = None) -> None:
        if device not in self._missing:
            self._missing[device] = self._clock.seconds()
        if backend is None:
            records = device.live or ()
            backend = next((each.backend for each in islice(records, 1)), "")
        if backend:
            self._backends[device] = backend

    def _unfold(self, device: Device, kind: AlarmKind) -> bool:
        """Forget that an alarm is folded; returns whether it was."""
        if device.folded is None or kind not in device.folded:
            return False
        device.folded.discard(kind)
        if not device.folded:
            device.folded = None
            self._folded.pop(device, None)
        return True

    def notify_few(self) -> bool:
        """Notify observers at once of alarms that wait, unless they may be a part of an outage.

        :returns: whether there was any, about which an observer may have done something.
        """
        many = self.least and len(self._missing) >= self.least
        if not self._held or many or self._outage is not None:
            return False
        for _ in self._notify_held():
            pass
        return True

    def stop(self) -> None:
        """What waits is decided about by the next run, which begins with what is stored."""
        for _ in self._fold():
            pass

    # -- decisions

    def decide(self, now: float, is_cut_off: bool) -> Iterator[None]:
        """Notify observers of what has begun and what is over, in steps.

        :param now: monotonic seconds.
        :param is_cut_off: whether none can come back, which is why devices are missing: the
            backend is down, which has its own alarm, or the service is paused.
        """
        yield from self._drop_those_back(now)
        if is_cut_off:
            self._return_at = now + RETURN_SECONDS
            if self._outage is not None and not self._outage.is_notified:
                self._outage = None
        elif self._return_at is not None and now >= self._return_at:
            self._return_at = None
            yield from self._release()
        count = len(self._missing) + (0 if self._return_at is None else len(self._folded))
        many = self.least and count >= self.least
        if many and self._return_at is not None:
            yield from self._fold()
        outage = self._outage
        if not self.least:
            if outage is not None:
                yield from self._end("outage_devices is 0 now")
        elif outage is not None:
            yield from self._go_on(outage, now)
        elif many and self._return_at is None:
            of = len(self._connected) + sum(each.live is None for each in self._missing)
            if len(self._missing) * 100 >= self.percent * of or (yield from self._is_network(now)):
                self._outage = _Outage(now, of)
                yield from self._go_on(self._outage, now)
        if self._outage is None:
            yield from self._notify_held()

    def _drop_those_back(self, now: float) -> Iterator[None]:
        for device, since in tuple(self._missing.items()):
            if now - since > TOGETHER_SECONDS or not _is_missing(device):
                self._missing.pop(device, None)
                self._backends.pop(device, None)
            yield

    def _notify_held(self) -> Iterator[None]:
        while self._held:
            key = next(iter(self._held))
            self._monitor.alarm(self._held.pop(key))
            yield

    def _fold(self) -> Iterator[None]:
        while self._held:
            device, kind = next(iter(self._held))
            del self._held[device, kind]
            device.folded = {kind, *(device.folded or ())}
            self._folded[device] = None
            yield

    def _release(self) -> Iterator[None]:
        """Decide anew about the alarms that were folded and are still active."""
        for device in tuple(self._folded):
            for kind in tuple(device.folded or ()):
                alarm = (device.alarms or {}).get(kind)
                if self._unfold(device, kind) and alarm is not None:
                    self._held[device, kind] = alarm
                    self._note(device)
            yield

    def _is_network(self, now: float) -> Generator[None, None, bool]:
        """Whether so many of one network's devices are missing, though few of the service's."""
        if now - self._counted_at < NETWORKS_SECONDS:
            return False
        self._counted_at = now
        missing: Counter[_Network] = Counter()
        for device in tuple(self._missing):
            missing.update(_networks_of(device))
            yield
        wanted = {each for each, count in missing.items() if count >= self.least}
        if not wanted:
            return False
        of: Counter[_Network] = Counter()
        for device in (
            *dict.values(self._connected),
            *(e for e in self._missing if e.live is None),
        ):
            of.update(wanted.intersection(_networks_of(device)))
            yield
        return any(missing[each] * 100 >= self.percent * of[each] for each in wanted)

    def _go_on(self, outage: _Outage, now: float) -> Iterator[None]:
        """Have missing devices join, and raise or end the alarm."""
        if now - outage.joined <= TOGETHER_SECONDS or len(self._missing) >= self.least:
            for device in tuple(self._missing):
                backend = self._backends.pop(device, "")
                if device not in outage.devices and not device.is_forgotten:
                    outage.join(device, backend, now)
                self._missing.pop(device, None)  # and not those that come during these steps
                yield
            yield from self._fold()
        else:  # a few, long after it: they have nothing to do with it
            yield from self._notify_held()
        gone = _Gone()
        for device in tuple(outage.devices):
            if device.is_forgotten:  # so nobody knows whether it is back
                outage.leave(device)
            elif _is_missing(device):
                gone.add(device)
            yield
        if not outage.is_notified:
            is_settled = now - outage.joined >= SETTLE_SECONDS
            if not is_settled and now - outage.began < MOST_SETTLE_SECONDS:
                return
            if gone.count < self.least:  # the others are back already
                self._outage = None
                yield from self._release()
                return
            outage.is_notified = True
            self._alarm(outage, False, outage.describe(gone, self._clock.seconds()), gone.count)
        elif gone.count * BACK_OF[1] <= len(outage.devices) * (BACK_OF[1] - BACK_OF[0]):
            yield from self._end(outage.describe_end(gone, now), gone.count)

    def _end(self, why: str, still_missing: int = 0) -> Iterator[None]:
        outage, self._outage = self._outage, None
        assert outage is not None
        if outage.is_notified:
            self._alarm(outage, True, why, len(outage.devices))
        # What is left of it are single devices again, unless they are as many as an outage.
        if still_missing < max(self.least, 1):
            yield from self._release()

    def end(self, why: str) -> None:
        """End the alarm at once, if it is active.

        :param why: the reason in words.
        """
        outage, self._outage = self._outage, None
        if outage is not None and outage.is_notified:
            self._alarm(outage, True, why, len(outage.devices))

    def _alarm(self, outage: _Outage, is_over: bool, detail: str, count: int) -> None:
        self._monitor.alarm(
            Alarm(
                "outage",
                self._monitor.name,
                "",
                time.time(),
                is_over,
                detail,
                subject=outage.network or outage.backend or self._monitor.name,
                figures=outage.figures(count),
            )
        )


class _Gone:
    """Those of an outage's devices that are missing now, added up one by one."""

    def __init__(self) -> None:
        self.count = self.silent = self.storms = 0
        self.since = NEVER
        """When anything was heard of one of them last: it began then, or later."""
        self._names: list[str] = []

    def add(self, device: Device) -> None:
        """Count one."""
        self.count += 1
        self.silent += device.is_silent
        self.storms += device.is_storm and not device.is_silent
        is_lost = device.live is None and device.last_reason in LOST
        self.since = max(self.since, device.left if is_lost else device.last_message)
        if len(self._names) < _NAMES_SHOWN:
            self._names.append(device.name)

    def describe(self) -> str:
        """The first of them by name, as the end of a text; empty if there is none."""
        if not self.count:
            return ""
        more = f" and {self.count - len(self._names)} more" if self.count > _NAMES_SHOWN else ""
        return f"; missing still: {', '.join(self._names)}{more}"


class _Outage:
    """The devices that are missing together, and what they have in common."""

    def __init__(self, now: float, of: int) -> None:
        self.began = self.joined = now
        self.devices: dict[Device, None] = {}
        self.is_notified = False
        self.forgotten = 0
        """How many are not known any more: more than are known may come and go meanwhile."""
        self.network = self.backend = ""
        self._of = of
        self._since = NEVER
        self._since_at = 0.0
        self._networks: Counter[_Network] = Counter()
        self._backends: Counter[str] = Counter()

    def join(self, device: Device, backend: str, now: float) -> None:
        """One more is missing."""
        self.devices[device] = None
        self.joined = now
        if self.is_notified:
            return  # and so what they have in common is told
        self._networks.update(_networks_of(device))
        self._backends.update((backend,) if backend else ())

    def leave(self, device: Device) -> None:
        """One is not known any more."""
        self.devices.pop(device, None)
        self.forgotten += 1

    def describe_end(self, gone: _Gone, now: float) -> str:
        """How many are back, in words."""
        count, lasted = len(self.devices), format_duration(now - self.began)
        if not count:
            return f"all {self.forgotten} devices are forgotten after {lasted}"
        text = f"{count - gone.count} of {count} devices are back after {lasted}"
        forgotten = f"; forgotten: {self.forgotten}" if self.forgotten else ""
        return text + forgotten + gone.describe()

    def describe(self, gone: _Gone, now: float) -> str:
        """What they have in common, in words."""
        count = gone.count
        self._since = gone.since
        self._since_at = time.time() - (now - self._since)
        self._of = max(self._of, count)
        most = MOSTLY * len(self.devices)
        common = [each for each, many in self._networks.items() if many >= most]
        self.network = _network_text(max(common, key=lambda each: each[2])) if common else ""
        self.backend = next((each for each, many in self._backends.items() if many >= most), "")
        parts = [
            f"{number} {word}"
            for number, word in (
                (gone.silent, "silent"),
                (count - gone.silent - gone.storms, "lost"),
                (gone.storms, "reconnecting"),
            )
            if number
        ]
        text = f"{count} of {self._of} devices are missing: {', '.join(parts)}"
        if self._since > NEVER:
            text += f", for {format_duration(max(0.0, now - self._since))}"
        if self.network:
            text += f"; in common: network {self.network}"
        if self.backend:
            text += f"{', ' if self.network else '; in common: '}backend {self.backend}"
        return text

    def figures(self, count: int) -> dict[str, object]:
        """The same for programs."""
        values: dict[str, object] = {"devices": count, "devices_of": self._of}
        if self._since > NEVER:
            values["since"] = iso_time(self._since_at)
        if self.network:
            values["network"] = self.network
        if self.backend:
            values["backend"] = self.backend
        return values


def _is_missing(device: Device) -> bool:
    if device.is_forgotten:
        return False
    is_lost = device.live is None and device.last_reason in LOST | CONNECT_FAILURES
    return device.is_silent or device.is_storm or is_lost


_Network = tuple[int, int, int]
"""The version, the first address without the bits that differ, and how many bits are in common."""


def _networks_of(device: Device) -> tuple[_Network, ...]:
    address = next(iter(device.last_addresses()), device.name.partition("/")[0])
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:  # of a UNIX socket, or one whose addresses are forgotten
        return ()
    value, bits = int(found), found.max_prefixlen
    return tuple(
        (found.version, value >> (bits - length), length) for length in _PREFIXES[found.version]
    )


def _network_text(network: _Network) -> str:
    version, value, length = network
    bits = 32 if version == 4 else 128
    first = value << (bits - length)
    packed = first.to_bytes(bits // 8, "big")
    return f"{ip_address(packed)}/{length}"
