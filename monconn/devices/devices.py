"""What each device is used to do, and an alarm when it does something else."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from twisted.application.service import Service

from monconn.config.sections import DevicesConfig
from monconn.devices.alarmlog import AlarmLog
from monconn.devices.heartbeat import INFINITE, Deadlines, Device, typical_seconds
from monconn.devices.identity import DeviceIdentity
from monconn.model.alarms import Alarm, AlarmKind
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.units import format_duration

LOOK_SECONDS = 1.0
"""From one look at all live connections to the next."""
TURN_SECONDS = 0.002
"""For how long to look before others have their turn."""
LOOKS_A_STEP = 100
"""Connections or devices that are looked at before we ask how late it is."""
MOST_PUT_ASIDE = 1_000
"""Connections that wait to be counted."""


class Devices(Observer):
    """The devices of one service.

    :param config: what a device is, and when it is worth an alarm.
    :param monitor: the service.
    :param log: is told of alarms.
    :param clock: gives monotonic ``seconds()``.
    """

    def __init__(self, config: DevicesConfig, monitor: Monitor, log: AlarmLog, clock: Any) -> None:
        self._config = config
        self._monitor = monitor
        self._log = log
        self._clock = clock
        self._names = DeviceIdentity(config)
        self._deadlines = Deadlines(clock.seconds())
        # Put aside until the next look, so that a connection costs its own path next to nothing.
        self._opened: OrderedDict[ConnectionRecord, None] = OrderedDict()
        self._closed: deque[ConnectionRecord] = deque()  # of those counted as opened
        # By name, the one seen longest ago first.
        self._connected: OrderedDict[str, Device] = OrderedDict()
        self._away: OrderedDict[str, Device] = OrderedDict()
        self.forgotten = 0
        self._opened.update(dict.fromkeys(monitor.connections()))

    def __len__(self) -> int:
        self.catch_up()
        return len(self._connected) + len(self._away)

    # -- what happens to connections

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""
        self._opened[record] = None
        if len(self._opened) > MOST_PUT_ASIDE:
            self.catch_up()

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        if record not in self._opened:  # else it is found closed as it is counted
            self._closed.append(record)
            if len(self._closed) > MOST_PUT_ASIDE:
                self.catch_up()

    def catch_up(self) -> None:
        """Count all that was put aside."""
        for _ in self._catching_up():
            pass

    def _catching_up(self) -> Iterator[None]:
        while self._opened:
            record, _ = self._opened.popitem(last=False)
            device = self._count_in(record)
            if record.closed is not None:
                self._count_out(record, device)
            yield
        while self._closed and not self._opened:
            record = self._closed.popleft()
            known = self._connected.get(self._names.of(record.client_ip))
            if known is not None:
                self._count_out(record, known)
            yield

    def _count_in(self, record: ConnectionRecord) -> Device:
        name = self._names.of(record.client_ip)
        device = self._connected.get(name)
        if device is None:
            device = self._away.pop(name, None) or Device(name, record.opened_at)
            self._connected[name] = device
        else:
            self._connected.move_to_end(name)
        storm_begins = device.open(record, self._config)
        if record.closed is None:  # else it is counted out at once
            self._expect(device)
        if device.is_away_too_long:
            away = format_duration(record.opened - device.left)
            self._end_silence(device, f"came back after {away}")
        if storm_begins:
            self._begin_storm(device)
        if len(self._connected) + len(self._away) > self._config.kept:
            self._forget_one()
        return device

    def _count_out(self, record: ConnectionRecord, device: Device) -> None:
        if device.is_forgotten or device.live is None or record not in device.live:
            return  # an alarm, as it was counted in, had somebody end so many that it was its turn
        silence = device.hear(record, self._config.silent_heartbeats)
        device.close(record, self._clock.seconds())
        if device.live is not None:
            self._connected.move_to_end(device.name)
        else:
            del self._connected[device.name]
            self._away[device.name] = device
        self._expect(device)
        if device.is_silent:
            if silence is not None:
                self._end_silence(device, _spoke(silence))
            elif device.signed_off():
                self._end_silence(device, f"its connection has ended: {record.reason}")

    def _forget_one(self) -> None:
        """Forget who was seen longest ago, of those without a connection if there are any."""
        _, device = (self._away or self._connected).popitem(last=False)
        self.forgotten += 1
        device.is_forgotten = True
        self._deadlines.drop(device)
        if device.is_silent:
            self._end_silence(device, _FORGOTTEN)
        if device.is_storm:
            self._end_storm(device, _FORGOTTEN)

    def _expect(self, device: Device) -> None:
        due = device.silent_due()
        if device.is_storm:
            due = min(due, device.calm_due(self._config))
        if due < INFINITE and (not device.due or due < device.due - 1):
            self._deadlines.set(device, due)

    # -- what is looked at

    def looks(self, now: float) -> Iterator[None]:
        """Count what was put aside, look at each live connection, and then at the devices that are
        overdue, step by step.

        :param now: the moment to judge them as of; monotonic seconds.
        """
        yield from self._catching_up()
        for device in tuple(self._connected.values()):
            for record in tuple(device.live or ()):
                # Asked here as well as in hear(): most have said nothing new.
                if record.last_up is not None and record.last_up > device.heard:
                    self._hear(record, device)
                yield
        self.catch_up()  # nobody is judged who has come meanwhile
        for device in self._deadlines.take(now):
            self._judge(device, now)
            yield

    def _hear(self, record: ConnectionRecord, device: Device) -> None:
        silence = device.hear(record, self._config.silent_heartbeats)
        if device.is_forgotten or device.live is None or silence is None:
            return
        self._connected.move_to_end(device.name)
        self._expect(device)
        if device.is_silent:
            self._end_silence(device, _spoke(silence))

    def _judge(self, device: Device, now: float) -> None:
        """Raise and end the alarms that are due."""
        within = self._config.storm_within
        if device.calm_due(self._config) <= now:
            self._end_storm(device, _counted(device.opened_since(now - within), within))
        if device.silent_due() <= now:
            if self._monitor.stopping:
                return  # nobody can come back, and all are asked to go
            self._begin_silence(device, now)
        self._expect(device)

    # -- alarms

    def _begin_silence(self, device: Device, now: float) -> None:
        device.is_away_too_long = device.live is None and device.return_due() <= now
        device.is_silent = True
        if device.is_away_too_long:
            gaps, what, usual = device.reconnect_gaps, "stayed away", "comes"
            since = device.left
        else:
            gaps, what, usual = device.message_gaps, "said nothing", "says something"
            since = device.quiet_since
        typical = format_duration(typical_seconds(gaps) or 0.0)
        words = f"{what} for {format_duration(now - since)}, usually {usual} every {typical}"
        self._notify("silent", device, False, words)

    def _end_silence(self, device: Device, words: str) -> None:
        device.is_silent = device.is_away_too_long = False
        if not device.is_forgotten:
            self._expect(device)
        self._notify("silent", device, True, words)

    def _begin_storm(self, device: Device) -> None:
        device.is_storm = True
        self._expect(device)
        openings = device.openings or (0.0,)
        words = _counted(len(openings), openings[-1] - openings[0])
        self._notify("reconnect_storm", device, False, words)

    def _end_storm(self, device: Device, words: str) -> None:
        device.is_storm = False
        self._notify("reconnect_storm", device, True, words)

    def _notify(self, kind: AlarmKind, device: Device, is_over: bool, detail: str) -> None:
        alarm = Alarm(kind, self._monitor.name, device.name, time.time(), is_over, detail)
        self._log.write(alarm)
        self._monitor.alarm(alarm)

    # -- what can be asked

    def seen(self) -> Iterator[tuple[Device, str]]:
        """Each device with its service, the one seen last first."""
        self.catch_up()
        lists = [tuple(each.values()) for each in (self._connected, self._away)]
        merged = merge(*map(reversed, lists), key=_last_seen, reverse=True)
        return ((device, self._monitor.name) for device in merged)


class DevicesService(Service):
    """Knows the devices of every service, and raises the alarms.

    :param config: what a device is, and when it is worth an alarm.
    :param registry: the monitors to follow, with those to come.
    :param reactor: not asked for anything; all time is the clock's.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    def __init__(self, config: DevicesConfig, registry: Registry, reactor: Any, clock: Any) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._log = AlarmLog(clock)
        self._followed: dict[Monitor, Devices] = {}
        self._turns = self._pauses()
        self._timer: Any = None
        for monitor in registry:
            self._follow(monitor)
        registry.when_added(self._follow)

    def _follow(self, monitor: Monitor) -> None:
        devices = Devices(self._config, monitor, self._log, self._clock)
        self._followed[monitor] = devices
        monitor.add_observer(devices)

    def _leave_deleted(self) -> None:
        kept = set(self._registry)
        for monitor in self._followed.keys() - kept:
            monitor.remove_observer(self._followed.pop(monitor))

    @property
    def forgotten(self) -> int:
        """How many devices were forgotten, as there were more than are kept."""
        for devices in self._followed.values():
            devices.catch_up()
        return sum(devices.forgotten for devices in self._followed.values())

    def rows(self, service: str | None = None) -> Iterator[dict[str, Any]]:
        """The devices as plain values for JSON, the one seen last first; each is made as it is
        asked for.

        :param service: only those of this service.
        :raises UnknownService: there is none with this name.
        """
        chosen = list(self._registry) if service is None else [self._registry.get(service)]
        seen = [self._followed[each].seen() for each in chosen]
        merged = merge(*seen, key=lambda each: each[0].last_seen_at, reverse=True)
        return (device.snapshot(name, self._clock.seconds()) for device, name in merged)

    def startService(self) -> None:
        """See ``IService``."""
        super().startService()
        if self._timer is None:
            self._timer = self._clock.callLater(LOOK_SECONDS, self._turn)

    def stopService(self) -> None:
        """See ``IService``."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for devices in self._followed.values():
            devices.catch_up()
        self._log.flush()

    def _turn(self) -> None:
        self._timer = self._clock.callLater(next(self._turns), self._turn)

    def _pauses(self) -> Iterator[float]:
        """Look at everything again and again; gives the seconds to wait before each next turn."""
        started = self._clock.seconds()
        while True:
            self._leave_deleted()
            # Judged as of the look before: if the process was stopped for a while, what came
            # meanwhile is read between the two.
            before, started = started, self._clock.seconds()
            looks = chain.from_iterable(
                devices.looks(before) for devices in tuple(self._followed.values())
            )
            turn_ends = started + TURN_SECONDS
            while sum(1 for _ in islice(looks, LOOKS_A_STEP)) == LOOKS_A_STEP:
                if self._clock.seconds() >= turn_ends:
                    yield 0.0
                    turn_ends = self._clock.seconds() + TURN_SECONDS
            yield max(started + LOOK_SECONDS - self._clock.seconds(), 0.0)


_last_seen = attrgetter("last_seen_at")
_FORGOTTEN = "forgotten, as others were seen later"


def _spoke(silence_seconds: float) -> str:
    return f"spoke after {format_duration(silence_seconds)}"


def _counted(connections: int, seconds: float) -> str:
    return f"{connections} connections within {format_duration(seconds)}"
