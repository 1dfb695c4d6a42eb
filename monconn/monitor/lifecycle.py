"""Whether a service runs, is paused, drains or stops, and how it comes from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.errors import Conflict, SettingError
from monconn.model.actions import Actor
from monconn.model.reasons import ServiceState
from monconn.monitor.ending import Ending
from monconn.monitor.interfaces import IConnection, IPausable
from monconn.monitor.live import LiveConnections
from monconn.monitor.observers import when_delivered
from monconn.monitor.spread import Spread
from monconn.monitor.subscriptions import Subscriptions
from monconn.policy.pauses import Pauses

STOP_GRACE_SECONDS = 1.0
"""How long peers may take to end their side once we have ended ours because we stop."""


class Lifecycle:
    """The state of one service: running, paused, draining or stopping.

    It reports nothing: that is up to its monitor, which knows who has asked.

    :param live: the service's connections.
    :param ending: ends them.
    :param clock: monotonic time and timers.
    :param notify_room: is called when those who wait are to ask again whether they must.
    :param pause_is_over: is called with who has asked for a pause, once its time has ended it.
    """

    def __init__(
        self,
        live: LiveConnections,
        ending: Ending,
        clock: Clock,
        notify_room: Callable[[], object],
        pause_is_over: Callable[[Actor], object],
    ) -> None:
        self._live = live
        self._ending = ending
        self._clock = clock
        self._notify_room = notify_room
        self._report_pause_is_over = pause_is_over
        self.stopping = False
        """Whether clients are refused, and the live connections are ended, or will be."""
        self.draining = False
        """Whether clients are refused while the live connections go on."""
        self.is_paused = False
        """Whether nothing is read and nobody is accepted."""
        self.can_pause = True
        """False of a wrapped factory: the program that it is a part of reads, and not we."""
        self.pauses = Pauses()
        """When it stood still: time that counts for no limit on silence."""
        self.paused_until: float | None = None
        """When a pause ends by itself, in monotonic seconds."""
        self.resumed = 0.0
        """When a pause or the draining ended last, in monotonic seconds; 0 for never."""
        self.when_paused = Subscriptions[[bool]]()
        """Called with True when it is paused, and with False when that is over."""
        self.when_empty: list[Deferred[None]] = []
        """What :meth:`stop` has returned, until the last connection has ended."""
        self._pause_timer: IDelayedCall | None = None
        self._holding: Deferred[None] = succeed(None)
        self._drain_spread: Spread | None = None
        self._stop_timers: list[IDelayedCall] = []

    @property
    def state(self) -> ServiceState:
        """What the service does."""
        if self.stopping:
            return "stopping"
        if self.is_paused:
            return "paused"
        return "draining" if self.draining else "running"

    # -- pause

    def pause(self, seconds: float | None, by: Actor) -> bool:
        """Have nothing read, and nobody accepted.

        :param seconds: after which it ends by itself; None for never.
        :param by: who has asked for it.
        :returns: whether anything has changed.
        :raises Conflict: it is draining or stopping, or is a wrapped factory's.
        :raises SettingError: the time is not more than 0.
        """
        name = self._live.service
        if seconds is not None and not 0 < seconds <= 1e9:
            raise SettingError(f"a pause of {seconds:g} s: must be more than 0")
        if not self.can_pause:
            raise Conflict(
                f"{name} cannot be paused: it is a part of a program, which reads by itself"
            )
        if self.stopping or self.draining:
            advice = "" if self.stopping else f": resume {name} first"
            raise Conflict(f"{name} is {self.state}, and cannot be paused{advice}")
        had_end = self.paused_until is not None
        self._cancel_pause_timer()
        if seconds is not None:
            self.paused_until = self._clock.seconds() + seconds
            self._pause_timer = self._clock.callLater(seconds, self._pause_is_over, by)
        is_new = not self.is_paused
        if is_new:
            self._set_paused(True)
        return is_new or had_end or seconds is not None

    def _cancel_pause_timer(self) -> None:
        self.paused_until = None
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None

    def _pause_is_over(self, by: Actor) -> None:
        self._pause_timer = None
        self._end_pause()
        self._report_pause_is_over(by)

    def _end_pause(self) -> None:
        self._cancel_pause_timer()
        if self.is_paused:
            self._set_paused(False)
            self.resumed = self._clock.seconds()
            self._notify_room()

    def _set_paused(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        now = self._clock.seconds()
        if is_paused:
            self.pauses.begin(now)
        else:
            self.pauses.end(now)
        self.when_paused.notify(is_paused)
        self._holding.cancel()  # what follows does all of it
        change = _pause if is_paused else _unpause
        self._holding = self._live.in_turns(change, "failed to pause")

    # -- drain and stop

    def drain(self, spread_seconds: float) -> bool:
        """Have clients refused, and let the live connections go on; it ends a pause.

        :param spread_seconds: the time over which the connections are ended; 0 leaves them alone.
            It takes the place of what an earlier call has said.
        :returns: whether anything has changed.
        :raises Conflict: it is stopping.
        """
        if self.stopping:
            raise Conflict(f"{self._live.service} is stopping, and refuses clients already")
        is_new, self.draining = not self.draining, True
        self._end_pause()
        had_spread = self._drain_spread is not None and len(self._drain_spread) > 0
        if self._drain_spread is not None:
            self._drain_spread.cancel()
            self._drain_spread = None
        if spread_seconds:
            self._drain_spread = self._ending.spread("operator", spread_seconds)
        self._notify_room()  # who waits is refused
        return is_new or had_spread or spread_seconds > 0

    def stop(self, wait_seconds: float, spread_seconds: float) -> Deferred[None]:
        """Have clients refused, and end the connections that still live after a time.

        :param wait_seconds: that time; :data:`STOP_GRACE_SECONDS` later what is left is reset.
        :param spread_seconds: if not 0, they are ended evenly over this time, or over
            ``wait_seconds`` if that is less.
        :returns: fires when the last connection has ended, or with :meth:`resume`.
        """
        self.stopping, self.draining = True, False
        self._end_pause()
        self._notify_room()  # who waits for a slot is refused, instead of waiting for the others
        done: Deferred[None] = Deferred()
        self.when_empty.append(done)
        if not self._live.by_id:
            self.notify_empty()
            return done
        self._stop_timers += [
            self._clock.callLater(wait_seconds, self._ending.end, "stopping"),
            self._clock.callLater(wait_seconds + STOP_GRACE_SECONDS, self.stop_now),
        ]
        if seconds := min(spread_seconds, wait_seconds):
            self._ending.cancel_spreads()
            self._ending.spread("stopping", seconds)
        return done

    def stop_now(self) -> None:
        """Have clients refused, and reset every connection."""
        self.stopping, self.draining = True, False
        self._ending.cancel_spreads()
        self._end_pause()
        self._ending.end("stopping", reset=True)

    def notify_empty(self) -> None:
        """The last connection has ended, or need not end any more: whoever waits for it goes on."""
        waiting, self.when_empty = self.when_empty, []
        timers, self._stop_timers = self._stop_timers, []
        for timer in timers:
            if timer.active():
                timer.cancel()
        for deferred in waiting:
            # Whoever has waited stops what observes: that has to hear of the last end before.
            when_delivered(partial(deferred.callback, None))

    def resume(self) -> bool:
        """Go on, whatever it did; connections that were still to be ended by it stay open.

        :returns: False if there was nothing to end.
        """
        was_running = not (self.stopping or self.is_paused or self.draining)
        if self.draining:
            self.resumed = self._clock.seconds()
        self.stopping = self.draining = False
        had_spreads = self._ending.cancel_spreads()
        self._drain_spread = None
        self._end_pause()
        self._ending.withdraw("stopping")
        self.notify_empty()
        self._notify_room()
        return had_spreads or not was_running


def _pause(connection: IConnection) -> None:
    if IPausable.providedBy(connection):
        cast(IPausable, connection).pause()


def _unpause(connection: IConnection) -> None:
    if IPausable.providedBy(connection):
        cast(IPausable, connection).unpause()
