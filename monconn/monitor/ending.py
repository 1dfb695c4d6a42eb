"""Ends live connections of one service: as many as there are at once, or evenly over a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.errors import Conflict
from monconn.model.reasons import Reason
from monconn.monitor.interfaces import IConnection
from monconn.monitor.live import LiveConnections
from monconn.monitor.spread import MOST_SPREADS, Spread
from monconn.policy.networks import ips_within


class Ending:
    """Ends live connections, in as many turns of the loop as that takes.

    Each that lives on until its turn comes is ended once, for the reason that came first; a reset
    that follows takes the place of an end in order that is still to come.

    :param live: the service's connections.
    :param clock: monotonic time and timers.
    """

    def __init__(self, live: LiveConnections, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self.to_come: dict[int, tuple[Reason, bool]] = {}
        """By id, the connections whose turn is still to come: why, and whether by a reset."""
        self.spreads: tuple[Spread, ...] = ()
        """Replaced and never changed, so that it may be iterated while they come and go."""

    def end(
        self, reason: Reason, ips: Collection[str] | None = None, *, reset: bool = False
    ) -> int:
        """End all connections, or those of some client IPs.

        :returns: how many; those that were ending already are not counted, unless for a reset.
        """
        chosen = []
        for connection in self._live.by_id.values():
            record = connection.record
            if ips is not None and record.client_ip not in ips:
                continue
            before = self.to_come.get(record.id)
            if before is not None:
                if reset and not before[1]:
                    self.to_come[record.id] = before[0], True
                    chosen.append(connection)
            elif reset or record.reason is None:
                self.to_come[record.id] = reason, reset
                chosen.append(connection)
        if chosen:
            self._live.in_turns(self._end, "failed to end", chosen)
        return len(chosen)

    def end_blocked(self, networks: Collection[Network]) -> int:
        """End the connections from some networks, which are blocked now.

        Each client's IP is checked, and only against these networks: a block costs the same
        however many there are already.

        :returns: how many were ended; those that were ending already are not counted.
        """
        if not networks or not self._live.by_id:
            return 0
        ips = ips_within(networks, self._live.by_ip)
        return self.end("blocked", ips) if ips else 0

    def _end(self, connection: IConnection) -> None:
        chosen = self.to_come.pop(connection.record.id, None)
        if chosen is not None:  # else it was done already, or is not to be any more
            connection.end(*chosen)

    def withdraw(self, reason: Reason) -> None:
        """Leave those connections alone whose end for a reason is still to come."""
        for connection_id, (chosen, _) in tuple(self.to_come.items()):
            if chosen == reason:
                del self.to_come[connection_id]

    # -- evenly over a time

    def spread(
        self,
        reason: Reason,
        seconds: float,
        connection_ids: Iterable[int] | None = None,
        *,
        reset: bool = False,
    ) -> Spread:
        """End connections in random order, evenly over a time.

        :param connection_ids: which ones; all that are not ending already if left out.
        """

        def end(chosen: list[int]) -> None:
            connections = []
            for connection_id in chosen:
                connection = self._live.by_id.get(connection_id)
                if connection is None or connection_id in self.to_come:
                    continue
                if reset or connection.record.reason is None:
                    self.to_come[connection_id] = reason, reset
                    connections.append(connection)
            self._live.in_turns(self._end, "failed to end", connections)

        if connection_ids is None:
            every = self._live.by_id.items()
            connection_ids = [each for each, live in every if live.record.reason is None]
        spread = Spread(self._clock, connection_ids, seconds, end, self._spread_is_over)
        self.spreads += (spread,)
        spread.start()
        return spread

    def close_spread(
        self, connection_ids: Iterable[int], seconds: float, *, reset: bool = False
    ) -> int:
        """End connections with the reason ``operator``, evenly over a time.

        :returns: how many will be ended.
        :raises Conflict: there are too many such orders already.
        """
        self.check_spread()
        chosen = [each for each in connection_ids if each in self._live.by_id]
        self.spread("operator", seconds, chosen, reset=reset)
        return len(chosen)

    def check_spread(self) -> None:
        """Check that :meth:`close_spread` would do one thing more.

        :raises Conflict: there are too many such orders already.
        """
        if len(self.spreads) >= MOST_SPREADS:
            service = self._live.service
            raise Conflict(
                f"{service} ends connections by {MOST_SPREADS} orders already: wait for one of"
                f" them, or resume {service}, which ends them"
            )

    def _spread_is_over(self, spread: Spread) -> None:
        self.spreads = tuple(each for each in self.spreads if each is not spread)

    def cancel_spreads(self) -> bool:
        """End no more connections by any spread.

        :returns: whether there was one.
        """
        spreads = self.spreads
        for spread in spreads:
            spread.cancel()
        return bool(spreads)
