"""Alarms about devices that behave abnormally, and about services that fail as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs

from monconn.addresses import device_text
from monconn.model.record import iso_time

DeviceAlarmKind = Literal["silent", "reconnect_storm", "duplicate"]
ServiceAlarmKind = Literal["backend_down", "outage"]
AlarmKind = Literal[DeviceAlarmKind, ServiceAlarmKind]
DEVICE_ALARM_KINDS: tuple[DeviceAlarmKind, ...] = get_args(DeviceAlarmKind)
"""Those about one device."""
SERVICE_ALARM_KINDS: tuple[ServiceAlarmKind, ...] = get_args(ServiceAlarmKind)
"""Those about a service: of each kind, a service has one at a time."""
ALARM_KINDS: tuple[AlarmKind, ...] = get_args(AlarmKind)


@attrs.frozen
class Alarm:
    """An alarm that begins, or one that is over."""

    kind: AlarmKind
    service: str
    device: str
    """Which device: the name that its connections tell, such as an MQTT client id, or the client's
    IP, or the network that counts as one device; empty if it is about no single device."""
    at: float
    """Wall clock, in seconds."""
    is_over: bool
    detail: str
    """The figures for which it was raised or ended, as text."""
    goes_on: bool = False
    """Whether it began in an earlier run of monconn, and is active still: it is no new one."""
    name: str = ""
    """The best name of the device that is known; empty if ``device`` is."""
    addresses: tuple[str, ...] = ()
    """The addresses that the device has used last, the last one first."""
    subject: str = ""
    """What an alarm about no single device is about: the backend, or a network, or the service."""
    figures: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """The figures in ``detail``, of those about no single device, as plain values for JSON."""

    def snapshot(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        values = {
            "alarm": self.kind,
            "service": self.service,
            "device": self.device,
            "name": self.name or self.device,
            "addresses": list(self.addresses),
            "at": iso_time(self.at),
            "over": self.is_over,
            "detail": self.detail,
        }
        if not self.device:
            values |= {"subject": self.subject, **self.figures}
        if self.goes_on:
            values["goes_on"] = True
        return values

    def describe(self) -> str:
        """One line for people."""
        word = "is over" if self.is_over else "alarm goes on" if self.goes_on else "alarm"
        if not self.device:
            return f"{self.kind} {word}: {self.detail}"
        device = device_text(self.device, self.name, self.addresses)
        return f"{device} {self.kind} {word}: {self.detail}"
