"""What begins a capture of a client by itself: an end or an alarm that the configuration names."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator

import attrs

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.config.sections import ABNORMAL, CaptureConfig
from monconn.devices.devices import has_address
from monconn.devices.identity import DeviceIdentity
from monconn.log import Logger
from monconn.model.alarms import Alarm
from monconn.model.reasons import ORDERLY_REASONS, REASONS, Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.ops.filters import Context, Filter
from monconn.ratelimit import RateLimiter

MOST_CLIENTS = 16
"""Clients whose next connections are captured at the same time; what happens to others begins
nothing, and is counted."""
PLACE_SECONDS = 60.0
"""How long a client that does not come again keeps its place among them, if others want it."""
CLIENTS_REMEMBERED = 10_000
"""Clients of which it is known that they began a capture lately."""
TRIGGERS_PER_SECOND = 5
SKIPPED_LINE_SECONDS = 60.0
"""The time between two lines that say how often nothing was begun."""


@attrs.frozen(eq=False)
class Occasion:
    """Something that begins a capture of a client.

    :param trigger: as the configuration names it.
    :param device: whose next connections are captured.
    :param connection: the one that has ended; None if it is about no single one.
    :param reason: why that has ended.
    """

    trigger: str
    device: str
    service: str
    connection: int | None = None
    reason: Reason | None = None


@attrs.define(eq=False)
class _Client:
    """A client that something has happened to."""

    since: float
    """Monotonic seconds, as is:"""
    until: float
    left: int
    """How many of its next connections are to be captured."""


class Triggers(Observer):
    """Waits for what begins a capture, and knows whose next connections are captured then.

    :param config: what begins one, how many connections are captured, and how long it may take.
    :param clock: monotonic time.
    :param wanted: the connections that may begin one, and are captured.
    :param context: what a filter needs beside a record.
    :param identity: tells devices apart.
    :param begin: called with each that begins a capture.
    """

    _log = Logger()

    def __init__(
        self,
        config: CaptureConfig,
        clock: Clock,
        wanted: Filter | None,
        context: Callable[[], Context],
        identity: DeviceIdentity,
        begin: Callable[[Occasion], object],
    ) -> None:
        self._identity = identity
        self._alarms = frozenset(config.on)
        self._reasons: dict[Reason, str] = {}
        """What each reason is named by in the configuration."""
        for reason in REASONS:
            if reason in config.on:
                self._reasons[reason] = reason
            elif ABNORMAL in config.on and reason not in ORDERLY_REASONS:
                self._reasons[reason] = ABNORMAL
        self._next = config.next
        self._within = config.within
        self._clock = clock
        self._wanted = wanted
        self._context = context
        self._begin = begin
        self._room = RateLimiter(clock, TRIGGERS_PER_SECOND)
        self._next_line = float("-inf")
        # In the order in which they are forgotten, as all are remembered for equally long.
        self._remembered: OrderedDict[str, float] = OrderedDict()
        self._active: dict[str, _Client] = {}
        self.begun: Counter[str] = Counter(dict.fromkeys(config.on, 0))
        """How often each trigger began a capture."""
        self.skipped: Counter[str] = Counter(dict.fromkeys(config.on, 0))
        """How often each did not: there were too many, or the same client had lately begun one."""

    def closed(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.closed``."""
        if record.reason is None or (trigger := self._reasons.get(record.reason)) is None:
            return
        if self._wanted is None or self._wanted.matches(record, self._context()):
            device = self.device_of(record)
            self._happened(Occasion(trigger, device, record.service, record.id, record.reason))

    def alarmed(self, alarm: Alarm) -> None:
        """Implements ``IObserver.alarmed``."""
        trigger = f"alarm:{alarm.kind}"
        if not (alarm.is_over or alarm.goes_on) and trigger in self._alarms:
            self._happened(Occasion(trigger, alarm.device, alarm.service))

    def _happened(self, occasion: Occasion) -> None:
        now, device = self._clock.seconds(), occasion.device
        self._forget(now)
        if device in self._remembered:
            self.skipped[occasion.trigger] += 1
            return
        if not (self._has_place(now) and self._room.take()):
            self.skipped[occasion.trigger] += 1
            self._say_too_many(now)
            return
        self._remembered[device] = now + self._within
        self._active[device] = _Client(now, now + self._within, self._next)
        self.begun[occasion.trigger] += 1
        self._begin(occasion)

    def _forget(self, now: float) -> None:
        remembered = self._remembered
        while remembered:
            client = next(iter(remembered))
            if remembered[client] > now and len(remembered) < CLIENTS_REMEMBERED:
                break
            del remembered[client]
        for client, each in tuple(self._active.items()):
            if each.until <= now:
                del self._active[client]

    def forget_in_steps(self, network: Network) -> Generator[None, None, None]:
        """Forget that clients of a network have begun captures, and capture no more of them.

        Those that are known by names of their own are forgotten after ``within``, as all are.
        """
        for device in tuple(self._remembered):
            if has_address(network, device):
                self._remembered.pop(device, None)
                self._active.pop(device, None)
            yield

    def _has_place(self, now: float) -> bool:
        """Whether one more client can be waited for; perhaps instead of one that does not come:
        strangers with ever new names would keep all places else."""
        if len(self._active) < MOST_CLIENTS:
            return True
        oldest = next(iter(self._active))
        if self._active[oldest].since + PLACE_SECONDS > now:
            return False
        del self._active[oldest]
        return True

    def covers(self, record: ConnectionRecord) -> bool:
        """Whether a connection is one of those that are to be captured.

        One whose device is known by name tells it with its first bytes: so it is tried again then,
        and captured with these bytes.
        """
        if not self._active:
            return False
        client = self._active.get(self.device_of(record))
        return client is not None and client.until > self._clock.seconds()

    def count(self, record: ConnectionRecord) -> None:
        """One of a device's connections is captured."""
        device = self.device_of(record)
        client = self._active.get(device)
        if client is not None:
            client.left -= 1
            if not client.left:
                del self._active[device]

    def device_of(self, record: ConnectionRecord) -> str:
        """The name of a connection's device, as far as is known by now."""
        said = self._identity.said(record) if record.has_facts else None
        return self._identity.of(record.client_ip) if said is None else said[0]

    def _say_too_many(self, now: float) -> None:
        if now >= self._next_line:
            self._next_line = now + SKIPPED_LINE_SECONDS
            self._log.warn(
                "capture: too much happens at once: not all of it begins a capture; skipped so far:"
                " {skipped}",
                skipped=sum(self.skipped.values()),
            )
