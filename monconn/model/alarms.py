"""Alarms about devices that behave abnormally."""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs

from monconn.addresses import device_text
from monconn.model.record import iso_time

AlarmKind = Literal["silent", "reconnect_storm", "duplicate"]
ALARM_KINDS: tuple[AlarmKind, ...] = get_args(AlarmKind)


@attrs.frozen
class Alarm:
    """An alarm that begins, or one that is over."""

    kind: AlarmKind
    service: str
    device: str
    """Which device: the name that its connections tell, such as an MQTT client id, or the client's
    IP, or the network that counts as one device."""
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
        if self.goes_on:
            values["goes_on"] = True
        return values

    def describe(self) -> str:
        """One line for people."""
        word = "is over" if self.is_over else "alarm goes on" if self.goes_on else "alarm"
        device = device_text(self.device, self.name, self.addresses)
        return f"{device} {self.kind} {word}: {self.detail}"
