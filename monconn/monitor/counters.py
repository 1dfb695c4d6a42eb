"""What one service has counted: of connections that are over, and of those that live."""

from __future__ import annotations

from collections.abc import Generator

from monconn.model.totals import Totals
from monconn.monitor.live import LiveConnections


class Counters:
    """The totals of a service, exact at every moment.

    :param live: its connections, whose bytes count as they pass.
    """

    def __init__(self, live: LiveConnections) -> None:
        self._live = live
        self.ended = Totals()
        """Of connections that are over; its ``opened`` counts those that live, too. The monitor
        adds to it."""
        self._subtracted = Totals()

    def totals(self) -> Totals:
        """All that was counted, less what was subtracted."""
        return self.counted() - self._subtracted

    def counted(self) -> Totals:
        """All that was ever counted, whatever was subtracted."""
        up = down = 0
        for connection in self._live.by_id.values():  # half the time of two sums
            record = connection.record
            up += record.up
            down += record.down
        return self.ended + Totals(up=up, down=down)

    def totals_in_steps(self) -> Generator[None, None, Totals]:
        """Return what :meth:`totals` does, as of now, asking one live connection a step."""
        totals = self.ended - self._subtracted
        up = down = 0
        # Also those that close before they are asked: what they count is in their records.
        for connection in tuple(self._live.by_id.values()):
            record = connection.record
            up += record.up
            down += record.down
            yield
        return totals + Totals(up=up, down=down)

    def carry_over(self, totals: Totals) -> None:
        """Add what an earlier run of the program has counted."""
        self.ended += totals

    def check_subtract(self, up: int, down: int) -> None:
        """Check that :meth:`subtract` would do this.

        :raises ValueError: it would not; with the message that it has.
        """
        now = self.totals()
        if not (0 <= up <= now.up and 0 <= down <= now.down):
            raise ValueError(
                f"cannot subtract {up} up and {down} down from {now.up} up and {now.down} down"
            )

    def subtract(self, up: int, down: int) -> None:
        """Subtract bytes.

        :raises ValueError: a count is negative or higher than the total.
        """
        self.check_subtract(up, down)
        self._subtracted.up += up
        self._subtracted.down += down

    def reset(self) -> None:
        """Set all of them to zero."""
        self._subtracted = self.counted()
