"""Watches the devices of every service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.config.sections import DevicesConfig
from monconn.devices.alarmlog import AlarmLog
from monconn.devices.devices import Devices, last_of
from monconn.devices.heartbeat import Device
from monconn.devices.identity import DeviceIdentity
from monconn.model.devices import StoredDevice
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.steps import RowSteps, sort_in_steps

POLL_SECONDS = 1.0
"""The time between two polls of all live connections."""
TURN_SECONDS = 0.002
"""The longest that a poll holds the reactor before it lets others run."""
STEPS_PER_TIME_CHECK = 100
"""Connections or devices polled before the clock is read again, which costs as much as one."""


class DevicesService(Service):
    """The devices of every service, and their alarms.

    :param config: what a device is, and the limits for alarms.
    :param registry: the monitors; later ones are followed, too.
    :param clock: monotonic time and timers.
    """

    def __init__(self, config: DevicesConfig, registry: Registry, clock: Clock) -> None:
        self._config = config
        self.identity = DeviceIdentity(config)
        """Tells devices apart where a service's own settings do not matter."""
        self._registry = registry
        self._clock = clock
        self._log = AlarmLog(clock)
        self._followed: dict[Monitor, Devices] = {}
        self._is_stored = False
        self._left: list[tuple[str, Devices]] = []  # of deleted services, until they are stored
        self._turns = self._poll_for_ever()
        self._timer: IDelayedCall | None = None
        # An observer like any other, so that it logs the alarms that other code raises, too.
        registry.observe(self._log)
        for monitor in registry:
            self._follow(monitor)
        registry.when_added(self._follow)

    def apply_config(self, config: DevicesConfig) -> None:
        """Follow another configuration; what is known of devices goes on, as far as they are the
        same ones."""
        self._config = config
        self.identity.apply_config(config)
        for devices in self._followed.values():
            devices.apply_config(config)

    def _follow(self, monitor: Monitor) -> None:
        devices = Devices(self._config, monitor, self._clock)
        self._followed[monitor] = devices
        if self._is_stored:
            devices.store_changes()
        monitor.add_observer(devices)

    def _leave_deleted(self) -> None:
        remaining = set(self._registry)
        for monitor in self._followed.keys() - remaining:
            devices = self._followed.pop(monitor)
            devices.end_alarms("the service was removed")
            if self._is_stored:
                self._left.append((monitor.name, devices))
            monitor.remove_observer(devices)

    @property
    def forgotten(self) -> int:
        """How many devices were dropped to make room for others."""
        for devices in self._followed.values():
            devices.catch_up()
        return sum(devices.forgotten for devices in self._followed.values())

    def rows(self, service: str | None = None) -> list[dict[str, Any]]:
        """The devices as plain values for JSON, the one seen last first.

        :param service: only those of this service.
        :raises UnknownService: there is none with this name.
        """
        return [row for row in self.rows_in_steps(service) if row is not None]

    def rows_in_steps(self, service: str | None = None) -> RowSteps[dict[str, Any]]:
        """The same in steps, for :func:`monconn.turns.in_turns`.

        Each row is made when it is iterated to: a caller that pages pays for one page.
        """
        chosen = list(self._registry) if service is None else [self._registry.get(service)]
        return self._make_rows([self._followed[each] for each in chosen])

    def _make_rows(self, followed: Iterable[Devices]) -> RowSteps[dict[str, Any]]:
        keyed: list[tuple[float, tuple[Device, Devices]]] = []
        for devices in followed:
            for device in devices.all():
                keyed.append((device.last_seen_at, (device, devices)))
                yield None
        ordered = yield from sort_in_steps(keyed, reverse=True)
        for _, (device, of_service) in ordered:
            yield of_service.snapshot(device)

    # -- from one run to the next: what a history asks for

    def _all(self) -> Iterator[tuple[str, Devices]]:
        yield from self._left
        for monitor, devices in self._followed.items():
            yield monitor.name, devices

    @property
    def has_urgent(self) -> bool:
        """Whether an alarm has begun or ended since devices were taken."""
        return any(devices.has_urgent for _, devices in self._all())

    def store_changes(self) -> None:
        """Remember from now on what changes, and take all that is there for changed."""
        self._is_stored = True
        for _, devices in self._all():
            devices.store_changes()

    def take_changed(self, most: int) -> tuple[list[StoredDevice], list[tuple[str, str]]]:
        """Devices that have changed since they were taken, and those that were forgotten.

        :param most: how many of each.
        :returns: of those that were forgotten, the service and the name.
        """
        stored: list[StoredDevice] = []
        forgotten: list[tuple[str, str]] = []
        for service, devices in self._all():
            room = most - max(len(stored), len(forgotten))
            if room <= 0:
                return stored, forgotten
            changed, names = devices.take_changed(room)
            stored += changed
            forgotten += [(service, name) for name in names]
        if not stored and not forgotten:
            self._left.clear()
        return stored, forgotten

    def restore(self, service: str, stored: Iterable[StoredDevice]) -> Iterator[None]:
        """Add devices of an earlier run, the one seen last first; in steps."""
        for monitor, devices in tuple(self._followed.items()):
            if monitor.name == service:
                devices.catch_up()
                for each in stored:
                    devices.restore(each)
                    yield

    def restored(self, service: str) -> None:
        """There are no more: its devices may be taken from now on."""
        for monitor, devices in self._followed.items():
            if monitor.name == service:
                devices.may_store = True

    def of(self, service: str) -> Devices:
        """The devices of one service.

        :raises UnknownService: there is none with this name.
        """
        monitor = self._registry.get(service)
        if monitor not in self._followed:
            self._follow(monitor)
        return self._followed[monitor]

    def measured(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row whose ``last_heard_seconds`` are those of this moment, by asking the kernel.

        :param row: one of :meth:`rows`; it is changed.
        """
        for monitor, devices in self._followed.items():
            if monitor.name == row["service"]:
                row["last_heard_seconds"] = devices.measure(row["device"])
        return row

    def forget(self, network: Network, service: str | None = None) -> int:
        """Forget the devices of a network at one service, or at all: see :meth:`Devices.forget`.

        :raises UnknownService: there is none with this name.
        """
        return last_of(self.forget_in_steps(network, service))

    def forget_in_steps(self, network: Network, service: str | None = None) -> Iterator[int]:
        """The same in steps, each of which yields how many were forgotten so far."""
        if service is not None:
            self._registry.get(service)  # to raise
        before = count = 0
        # Also those of removed services, which are still to be stored.
        for devices in [each for name, each in self._all() if service in (None, name)]:
            for count in devices.forget_in_steps(network):
                yield before + count
            before, count = before + count, 0

    def startService(self) -> None:
        """Start to poll."""
        super().startService()
        if self._timer is None:
            self._timer = self._clock.callLater(POLL_SECONDS, self._turn)

    def stopService(self) -> None:
        """Stop polling; what is queued is counted and logged."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for devices in self._followed.values():
            devices.stop()
        self._log.flush()

    def _turn(self) -> None:
        self._timer = self._clock.callLater(next(self._turns), self._turn)

    def _poll_for_ever(self) -> Iterator[float]:
        """Poll, yielding the seconds until the next turn of the reactor that is needed."""
        started = self._clock.seconds()
        while True:
            self._leave_deleted()
            # Devices are checked as of the previous poll. If this process was stopped for a while
            # (SIGSTOP, a suspended laptop), their messages wait in the sockets, and are read
            # between the two polls; as of now all of them would seem silent.
            previous, started = started, self._clock.seconds()
            steps = chain.from_iterable(
                devices.poll(previous) for devices in tuple(self._followed.values())
            )
            turn_ends = started + TURN_SECONDS
            while len(tuple(islice(steps, STEPS_PER_TIME_CHECK))) == STEPS_PER_TIME_CHECK:
                if self._clock.seconds() >= turn_ends:
                    yield 0.0
                    turn_ends = self._clock.seconds() + TURN_SECONDS
            yield max(started + POLL_SECONDS - self._clock.seconds(), 0.0)
