"""Whether clients of one service are to wait for room, and who is called when there may be some."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.monitor.admission import Admission
from monconn.monitor.lifecycle import Lifecycle
from monconn.monitor.live import LiveConnections
from monconn.monitor.subscriptions import Cancel, Subscriptions


class Room:
    """Says who waits to enter, and calls them to ask again.

    Clients wait in the accept queue of a listener, or with us once we know enough of them.

    :param admission: says whether the service is full, and until when its rate lets nobody in.
    :param lifecycle: says whether the service is paused, drains or stops.
    :param live: the service's connections.
    :param clock: monotonic time and timers.
    :param waiting: is called when there may be room.
    """

    def __init__(
        self,
        admission: Admission,
        lifecycle: Lifecycle,
        live: LiveConnections,
        clock: Clock,
        waiting: Subscriptions[[]],
    ) -> None:
        self._admission = admission
        self._lifecycle = lifecycle
        self._live = live
        self._clock = clock
        self.waiting = waiting
        self._rate_timer: IDelayedCall | None = None

    def must_wait(self) -> bool:
        """Whether the next client is to be left in the accept queue.

        Those who were told so are called (:meth:`subscribe`) when that is over.
        """
        lifecycle = self._lifecycle
        if lifecycle.is_paused:
            return True
        if lifecycle.draining or lifecycle.stopping:
            return False  # it is refused: a place would not be for it
        if not self._admission.may_wait:  # asked twice for each client
            return False
        if self.is_full():
            return True
        now = self._clock.seconds()
        until = self._admission.waits_until(now)
        if until is None:
            return False
        if self._rate_timer is None:  # one for all who ask
            self._rate_timer = self._clock.callLater(until - now, self._rate_allows)
        return True

    def must_hold(self) -> bool:
        """Whether a client that we have accepted, and know enough of, is to wait with us.

        As a TLS client whose handshake is complete; see :meth:`subscribe`.
        """
        lifecycle = self._lifecycle
        return lifecycle.is_paused or (
            self.is_full() and not (lifecycle.stopping or lifecycle.draining)
        )

    def is_full(self) -> bool:
        """Whether the next client is to wait until a connection ends."""
        return self._admission.is_full(len(self._live.by_id))

    @property
    def holds_clients(self) -> bool:
        """Whether there is a listener that leaves clients in its accept queue when they are to
        wait: only those of our own do, and subscribe."""
        return len(self.waiting) > 0

    def subscribe(self, call: Callable[[], object]) -> Cancel:
        """Call something each time there may be room: a connection has left, or rules changed.

        :returns: cancels the subscription.
        """
        return self.waiting.add(call)

    def notify(self) -> None:
        """Have those who wait ask again."""
        self.waiting.notify()

    def _rate_allows(self) -> None:
        self._rate_timer = None
        self.notify()

    def forget_rate(self) -> None:
        """The rate has changed, or lets everybody in: who waits for it is to ask again."""
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None
