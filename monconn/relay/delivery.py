"""Resetting connections once the bytes that came before the reset are delivered."""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.log import Logger
from monconn.relay.ends import End

CHECK_INTERVAL_SECONDS = 0.01
CHECKS_A_TURN = 64
"""Bounds what thousands of resetting connections cost the others: about 0.3 ms every 10 ms. With
more than 64 of them each is checked less often."""


class DeliveryWatch:
    """Aborts Ends in phase ``resetting`` once their peers have acknowledged everything.

    A reset makes the peer's kernel drop what its application has not read, and ours what was not
    sent. The kernel has no event for "all is acknowledged" (``EPOLLOUT`` comes when a third of the
    buffer is free), so the Ends are polled: all of them by one timer, in turns. Those whose peers
    never read are aborted by their relays.

    :param clock: gives timers.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: deque[End] = deque()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many Ends are watched; some of them may be closed by now."""
        return len(self._ends)

    def add(self, end: End) -> None:
        """Abort an End as soon as everything is delivered, which may be at once."""
        if end.is_delivered():
            end.abort()
            return
        self._ends.append(end)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(CHECK_INTERVAL_SECONDS, self._check_some)

    def _check_some(self) -> None:
        self._timer = None
        for _ in range(min(len(self._ends), CHECKS_A_TURN)):
            end = self._ends.popleft()
            try:
                if end.phase != "resetting":
                    continue
                if end.is_delivered():
                    end.abort()
                else:
                    self._ends.append(end)
            except Exception:
                self._log.failure("a relay could not be reset")
        if self._ends:
            self._set_timer()
