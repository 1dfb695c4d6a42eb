"""The alarms of a service's devices as they begin and end, and in which words."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container

from monconn.devices.heartbeat import Device, typical_seconds
from monconn.devices.outages import Outages
from monconn.model.alarms import Alarm, AlarmKind
from monconn.monitor.monitor import Monitor
from monconn.units import format_duration

ALARMS_RETAINED = 1_000
"""Alarms of one service that are remembered after they are over."""


class DeviceAlarms:
    """The alarms of one service's devices.

    Whether one begins or ends is decided by :class:`monconn.devices.devices.Devices`, and whether
    observers hear of it at once by the outages.

    :param monitor: the service.
    :param outages: they notify its observers.
    :param given_name: the name that people gave a device, if any.
    :param note: is called with a device that is still known as an alarm of it has begun or ended,
        before observers are notified: these may close connections, and so end up here again.
    """

    def __init__(
        self,
        monitor: Monitor,
        outages: Outages,
        given_name: Callable[[Device], str | None],
        note: Callable[[Device], None],
    ) -> None:
        self._service = monitor.name
        self._outages = outages
        self._given_name = given_name
        self._note = note
        self._alarmed: dict[Device, None] = {}  # those with an alarm that is active
        self.last: deque[Alarm] = deque(maxlen=ALARMS_RETAINED)
        """The last alarms that began or ended."""

    def active(self) -> tuple[Device, ...]:
        """The devices with an alarm that is active."""
        return tuple(self._alarmed)

    def begin_silence(self, device: Device, now: float) -> None:
        """A device stays away, or says nothing, for longer than is usual.

        :param now: monotonic seconds.
        """
        if device.is_forgotten:  # by the observers of an alarm before this one
            return
        device.is_away_too_long = device.live is None and device.return_due() <= now
        device.is_silent = True
        if device.is_away_too_long:
            gaps, what, usual = device.reconnect_gaps, "stayed away", "comes"
            since = device.left
        else:
            gaps, what, usual = device.message_gaps, "said nothing", "says something"
            since = device.quiet_since
        detail = f"{what} for {format_duration(now - since)}"
        if device.declared_limit is not None and not device.is_away_too_long:
            detail += f", declared keepalive {device.keepalive:g} s"
        else:
            detail += f", usually {usual} every {format_duration(typical_seconds(gaps) or 0.0)}"
        if device.restored > since:  # by a restart, or as it was paused, draining or blocked
            detail += f"; it could not be heard until {format_duration(now - device.restored)} ago"
        self.notify("silent", device, False, detail)

    def end_silence(self, device: Device, detail: str) -> None:
        """It is there again, or there is no reason any more to expect it."""
        device.is_silent = device.is_away_too_long = False
        self.notify("silent", device, True, detail)

    def begin_storm(self, device: Device, word: str | None) -> None:
        """A device reconnects again and again.

        :param word: how its connections fail.
        """
        if device.is_forgotten:
            return
        device.is_storm = True
        openings = device.openings or (0.0,)
        detail = count_text(len(openings), openings[-1] - openings[0])
        self.notify("reconnect_storm", device, False, f"{detail}, each after a failure ({word})")

    def end_storm(self, device: Device, detail: str) -> None:
        """It does not any more."""
        device.is_storm = False
        self.notify("reconnect_storm", device, True, detail)

    def begin_duplicate(self, device: Device, detail: str) -> None:
        """Two clients call themselves by the same name."""
        if device.is_forgotten:
            return
        device.is_duplicate = True
        self.notify("duplicate", device, False, detail)

    def end_duplicate(self, device: Device, detail: str) -> None:
        """Only one does."""
        device.is_duplicate = False
        self.notify("duplicate", device, True, detail)

    def end_those_of(self, device: Device, why: str) -> None:
        """End every alarm of a device that is active.

        :param why: the reason in words.
        """
        if device.is_silent:
            self.end_silence(device, why)
        if device.is_storm:
            self.end_storm(device, why)
        if device.is_duplicate:
            self.end_duplicate(device, why)

    def end_all(self, why: str) -> None:
        """End every alarm of every device."""
        for device in self.active():
            self.end_those_of(device, why)

    def notify(
        self,
        kind: AlarmKind,
        device: Device,
        is_over: bool,
        detail: str,
        goes_on_from: float | None = None,
        is_new: bool = False,
    ) -> None:
        """Note an alarm, and have observers notified of it.

        :param goes_on_from: when it began, in an earlier run; seconds of the wall clock.
        :param is_new: whether observers have not been notified of it, though it began then.
        """
        at = time.time() if goes_on_from is None else goes_on_from
        goes_on = goes_on_from is not None and not is_new
        alarm = Alarm(
            kind,
            self._service,
            device.name,
            at,
            is_over,
            detail,
            goes_on,
            name=self._given_name(device) or "",
            addresses=device.last_addresses(),
        )
        active = device.alarms = device.alarms or {}
        if is_over:
            active.pop(kind, None)
        else:
            active[kind] = alarm
        if active:
            self._alarmed[device] = None
        else:
            device.alarms = None
            self._alarmed.pop(device, None)
        self.last.append(alarm)
        if not device.is_forgotten:
            self._note(device)
        self._outages.notify(device, alarm)

    def forget(self, gone: Container[int]) -> None:
        """Remove alarms from the last ones.

        :param gone: their identities, as :func:`id` has them.
        """
        kept = [alarm for alarm in self.last if id(alarm) not in gone]
        self.last.clear()
        self.last += kept


def count_text(connections: int, seconds: float) -> str:
    """So many connections in such a time, in words."""
    return f"{connections} connections within {format_duration(seconds)}"
