"""Blocks clients that were refused, or whose connections failed, too often."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from monconn.addresses import Network, address_text, network_of
from monconn.log import Logger
from monconn.model.actions import AUTO_BLOCK, Action
from monconn.model.reasons import Reason, Refusal
from monconn.monitor.blocking import block_detail
from monconn.policy.auto_block import AutoBlock, Counted
from monconn.policy.networks import overlapping
from monconn.units import duration_text

if TYPE_CHECKING:
    from monconn.monitor.monitor import Monitor

MOST_CLIENTS = 32_768
"""Clients whose refusals and ends are counted, at 300 bytes and those of each event; beyond, the
one seen longest ago is forgotten."""
MOST_COUNTED = 131_072
"""Refusals and ends that are remembered, of all clients together: 90 bytes for each."""
MOST_TOLD = 1_000
"""Clients that would be blocked and must not be, which the log has once each."""


class AutoBlocker:
    """Counts what clients of a service are refused for and how their connections end, and blocks
    those with too much of it.

    The window slides: it ends with each event, so that twice as many cannot pass around the
    boundary between two fixed ones.

    :param monitor: the service's monitor.
    :param settings: what is counted, and when a client is blocked.
    """

    _log = Logger()

    def __init__(self, monitor: Monitor, settings: AutoBlock) -> None:
        self._monitor = monitor
        self._events: OrderedDict[str, list[tuple[float, Counted]]] = OrderedDict()
        # Lists, as an empty deque has 700 bytes.
        self._event_count = 0
        self._to_end: dict[str, tuple[Network, str]] = {}
        self.configure(settings)

    def configure(self, settings: AutoBlock) -> None:
        """Put other settings in force; blocks that there are stay as they are.

        What was counted stays so, unless other things are counted from now on.
        """
        if getattr(self, "settings", settings).of != settings.of:
            self._events.clear()
            self._event_count = 0
        self.settings = settings
        self._counted = frozenset(settings.of)
        self._is_never = overlapping(settings.never)
        self._told: set[str] = set()
        self._is_full_told = False

    def used(self, ip: str) -> int:
        """How much of ``after`` an IP's client has used up."""
        client = self._monitor.admission.prefixes.client_of(ip)
        first = self._monitor.clock.seconds() - self.settings.within
        return sum(at >= first for at, _ in self._events.get(client, ()))

    def refused(self, ip: str, refusal: Refusal) -> None:
        """A client was refused."""
        if refusal in self._counted:
            self._count(ip, refusal)

    def closed(self, ip: str, reason: Reason | None) -> None:
        """A client's connection has ended; those that a block has ended are not counted."""
        if reason in self._counted and reason is not None and reason != "blocked":
            self._count(ip, reason)

    def _count(self, ip: str, what: Counted) -> None:
        now = self._monitor.clock.seconds()
        client = self._monitor.admission.prefixes.client_of(ip)
        events = self._events.pop(client, None)
        if events is None:
            events = []
            self._drop_old(now)
        first = now - self.settings.within
        if events and events[0][0] < first:
            old = bisect_left(events, (first,))
            del events[:old]
            self._event_count -= old
        events.append((now, what))
        self._event_count += 1
        if len(events) >= self.settings.after:
            self._event_count -= len(events)
            self._block(ip, client, Counter(each for _, each in events))
            return
        self._events[client] = events
        while len(self._events) > MOST_CLIENTS or self._event_count > MOST_COUNTED:
            _, forgotten = self._events.popitem(last=False)
            self._event_count -= len(forgotten)

    def _drop_old(self, now: float) -> None:
        """Forget clients of whom there is nothing within the window.

        Two for each that is added: so none stays long after others have come.
        """
        for _ in range(2):
            oldest = next(iter(self._events.values()), None)
            if oldest is None or oldest[-1][0] >= now - self.settings.within:
                return
            self._events.popitem(last=False)
            self._event_count -= len(oldest)

    def _block(self, ip: str, client: str, counts: Counter[Counted]) -> None:
        network = network_of(client)
        if network is None:  # a client on a UNIX socket
            return
        monitor, settings = self._monitor, self.settings
        now = monitor.clock.seconds()
        before = monitor.admission.find_block(ip, now)
        if before is not None and monitor.admission.is_dry_run("block", ip, now):
            before = None
        if before is not None and (before.source != "auto" or "blocked" not in self._counted):
            return  # it ends, or does not, as whoever has begun it has said
        counted = ", ".join(f"{count} × {each}" for each, count in counts.most_common())
        reason = f"{counted} in {duration_text(settings.within)}"
        if self._is_never(network):
            if client not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(client)
                self._tell(network, reason, "is in never")
            return
        blocked = monitor.blocking.blocks.count("auto")
        if before is None and blocked >= settings.at_most:
            if not self._is_full_told:
                self._is_full_told = True
                what = "is 1 such block" if blocked == 1 else f"are {blocked} such blocks"
                self._tell(network, reason, f"there {what} already (at_most)")
            return
        self._is_full_told = self._is_full_told and before is not None
        monitor.blocking.block(
            network, for_seconds=settings.for_, reason=reason, source="auto", actor=AUTO_BLOCK
        )
        if before is not None:  # it is only longer, and there is nobody of it
            return
        # Nobody else of it enters from now on. The connections of all who are blocked in this turn
        # are looked for together, as there may be many of both.
        if not self._to_end:
            monitor.clock.callLater(0, self._end_blocked)
        self._to_end[client] = network, reason

    def forget_in_steps(self, is_one: Callable[[str], bool]) -> Iterator[None]:
        """Drop what was counted of some clients."""
        for client in tuple(self._events):
            if is_one(client):
                self._event_count -= len(self._events.pop(client, ()))
                self._told.discard(client)
            yield

    def _tell(self, network: Network, reason: str, why_not: str) -> None:
        self._log.warn(
            "{service}: auto_block leaves {client} alone ({reason}): {why_not}",
            service=self._monitor.name,
            client=address_text(network),
            reason=reason,
            why_not=why_not,
        )

    def _end_blocked(self) -> None:
        """End the connections of those who were blocked last, and report each block."""
        monitor, blocked = self._monitor, self._to_end
        self._to_end = {}
        counts: Counter[str] = Counter()
        client_of = monitor.admission.prefixes.client_of
        for record in monitor.iter_connections() if len(blocked) > 1 else ():
            if record.reason is None and (client := client_of(record.client_ip)) in blocked:
                counts[client] += 1
        ended = monitor.ending.end_blocked([network for network, _ in blocked.values()])
        for client, (network, reason) in blocked.items():
            count = counts[client] if len(blocked) > 1 else ended
            detail = block_detail(self.settings.for_, reason)
            now, target = time.time(), str(network)
            monitor.report(
                Action("block", AUTO_BLOCK, now, monitor.name, target, count, detail=detail)
            )
