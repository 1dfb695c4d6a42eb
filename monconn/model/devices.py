"""What is known of a device, as it is stored from one run to the next."""

from __future__ import annotations

import attrs

from monconn.model.alarms import AlarmKind
from monconn.model.reasons import Reason


@attrs.frozen
class StoredAlarm:
    """An alarm that was active as its device was stored."""

    kind: AlarmKind
    at: float
    """When it began; wall-clock seconds, as are the other times here."""
    detail: str
    is_away: bool = False
    """Whether a silent device had stayed away; else, its connection was silent."""
    is_folded: bool = False
    """Whether it was a part of an outage, so that no event tells of it."""


@attrs.frozen
class StoredDevice:
    """One device of one service: its totals, and what is usual for it."""

    service: str
    device: str
    first_seen_at: float
    last_seen_at: float
    total: int
    up: int
    down: int
    last_reason: Reason | None
    left_at: float | None
    """When its last connection ended; None while it has one."""
    last_message_at: float | None
    message_gaps: tuple[float, ...] = ()
    """Its last intervals between messages, in seconds."""
    message_gaps_for: float | None = None
    """For how many seconds these have been regular; None if they are not."""
    reconnect_gaps: tuple[float, ...] = ()
    reconnect_gaps_for: float | None = None
    alarms: tuple[StoredAlarm, ...] = ()
    fact: str = ""
    """The fact about its connections that is its name; empty if its name is an address."""
    addresses: tuple[str, ...] = ()
    """Those that it has used last, the last one first, where its name is none."""
    keepalive_seconds: float | None = None
    """The keepalive that it has declared; None if it has not."""
