"""How fast a service's bytes may pass: all connections together, and each by itself.

Nothing is queued for it: a sender that may not be read from is put on hold, and its bytes wait in
the kernel's buffers, as those for a slow receiver do. While a service has no bandwidth, nothing of
this exists.

- Each direction of a connection that is limited has a :class:`Throttle`, which is asked before a
  read how many bytes that may return, and charged after it with those that came.
- The buckets are :class:`~monconn.policy.buckets.ByteBucket`; one that is in debt lets nobody read.
- Connections that wait for the bucket that they share take turns: each reads one quantum and goes
  to the end of the queue. So all of them have the same share, whatever they send.
- There is one timer for a service, and none for a connection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from monconn.clock import Clock
from monconn.log import Logger
from monconn.model.reasons import Direction
from monconn.monitor.deadlines import Deadlines
from monconn.policy.buckets import MOST_QUANTUM, ByteBucket
from monconn.policy.rules import Rules
from monconn.turns import in_turns


class Throttled(Protocol):
    """A connection of which a direction may be throttled; implemented by the relay."""

    def hold_for_bandwidth(self, direction: Direction) -> None:
        """Stop reading a direction's bytes."""

    def resume_after_bandwidth(self, direction: Direction) -> bool:
        """Read a direction's bytes again.

        :returns: whether that will be later: it was not done before this returned.
        """

    def throttle_failed(self) -> None:
        """Resuming has raised: end what can be ended."""


class Throttle:
    """How much of one direction of one connection may be read now.

    :param connection: is put on hold, and resumed.
    :param direction: which of its directions.
    :param limits: the service's, of this direction.
    """

    __slots__ = (
        "_connection",
        "_direction",
        "_has_turn",
        "_held_since",
        "_limits",
        "_own",
        "bucket",
    )
    _log = Logger()

    def __init__(
        self, connection: Throttled, direction: Direction, limits: DirectionLimits
    ) -> None:
        self.bucket: int | None = None
        self._connection = connection
        self._direction: Direction = direction
        self._limits = limits
        self._own = ByteBucket(limits.each) if limits.each else None
        self._has_turn = False  # to read a quantum before those who wait
        self._held_since: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether the direction is on hold because of us."""
        return self._held_since is not None

    def allowance(self, now: float) -> int:
        """How many bytes may be read at once; 0 if the direction is, or was now put, on hold.

        :param now: monotonic seconds.
        """
        if self._must_wait(now):
            return 0
        self._has_turn = False
        return self._limits.quantum(self._own)

    def charge(self, count: int, now: float) -> None:
        """Some bytes were read: put the direction on hold if no more may be.

        :param now: monotonic seconds.
        """
        self._has_turn = False
        if self._own is not None:
            self._own.take(count, now)
        if self._limits.shared is not None:
            self._limits.shared.take(count, now)
        self._must_wait(now)

    def _must_wait(self, now: float) -> bool:
        limits = self._limits
        if self._own is not None and self._own.is_in_debt(now):
            limits.leave(self)
            limits.timers.schedule(self, self._own.next_at(now))
        elif limits.must_wait(now, self._has_turn):
            limits.enter(self, self._has_turn, now)
        else:
            return False
        if self._held_since is None:
            self._held_since = now
            self._connection.hold_for_bandwidth(self._direction)
        return True

    def check(self, now: float) -> float | None:
        """The connection's own bucket is paid; see :class:`~monconn.monitor.deadlines.Checked`."""
        self._wake(now)
        return None

    def take_turn(self, now: float) -> bool:
        """It is this direction's turn to read a quantum.

        :returns: whether it will, later.
        """
        self._has_turn = True
        return self._wake(now) and self._has_turn

    def _wake(self, now: float) -> bool:
        """Resume unless there is more to wait for.

        :returns: whether what there is will be read later.
        """
        if self._held_since is None or self._must_wait(now):
            return False
        self._limits.leave(self)  # it waits there if the bucket has been taken away
        self._limits.held_seconds += now - self._held_since
        self._held_since = None
        try:
            return self._connection.resume_after_bandwidth(self._direction)
        except Exception:  # as in SocketLoop.serve: amid reading, bytes may have been lost
            self._log.failure("a throttled relay failed")
            try:
                self._connection.throttle_failed()
            except Exception:
                self._log.failure("a throttled relay that failed could not be ended")
            return False

    def configured(self, now: float) -> None:
        """The service's limits have changed."""
        each, own = self._limits.each, self._own
        if not each:
            self._own = None
        elif own is None:
            self._own = ByteBucket(each)
        elif own.per_second != each:
            self._own = own.with_rate(each, now)
        self._limits.timers.cancel(self)
        self._wake(now)

    def close(self) -> None:
        """Nothing is limited any more, or the connection is over; nobody is resumed by this."""
        self._limits.timers.cancel(self)
        self._limits.leave(self)
        if self._held_since is not None:
            self._limits.held_seconds += self._limits.clock.seconds() - self._held_since
            self._held_since = None


class DirectionLimits:
    """What the connections of a service share in one direction.

    :param clock: monotonic time and timers.
    :param timers: the service's.
    """

    def __init__(self, clock: Clock, timers: Deadlines) -> None:
        self.each = 0
        """Bytes in a second of each connection; 0 = no limit."""
        self.shared: ByteBucket | None = None
        """For the bytes of all connections together; None without a limit."""
        self.held_seconds = 0.0
        """For how long directions of connections were on hold, all together, up to their last
        resuming."""
        self.timers = timers
        """Wakes those who wait, within a hundredth of a second."""
        self.bucket: int | None = None
        self.clock = clock
        self._waiting: OrderedDict[Throttle, None] = OrderedDict()
        self._is_taking_turns = False

    def __len__(self) -> int:
        """How many wait for the bucket that is shared."""
        return len(self._waiting)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.each or self.shared is not None)

    def configure(self, shared: int, each: int) -> None:
        """Set the bandwidths; 0 is no limit. :meth:`Throttle.configured` is for each throttle."""
        now = self.clock.seconds()
        self.each = each
        if not shared:
            self.shared = None
        elif self.shared is None:
            self.shared = ByteBucket(shared)
        elif self.shared.per_second != shared:
            self.shared = self.shared.with_rate(shared, now)
        if self._waiting:
            self.timers.schedule(self, now)

    def quantum(self, own: ByteBucket | None) -> int:
        """How many bytes to read at once.

        :param own: the connection's bucket.
        """
        if self.shared is None:
            # With neither, what was limited has not learnt yet that it is not any more.
            return MOST_QUANTUM if own is None else own.quantum()
        shared = self.shared.quantum(1 + len(self._waiting))
        return shared if own is None else min(shared, own.quantum())

    def must_wait(self, now: float, has_turn: bool) -> bool:
        """Whether a connection has to wait for the others.

        :param has_turn: it has waited already.
        """
        shared = self.shared
        if shared is None:
            return False
        return shared.is_in_debt(now) or bool(self._waiting and not has_turn)

    def enter(self, throttle: Throttle, is_first: bool, now: float) -> None:
        """Have a throttle wait for its turn; one that waits already keeps its place.

        :param is_first: it had its turn, but others had read meanwhile.
        """
        if throttle not in self._waiting:
            self._waiting[throttle] = None
            if is_first:
                self._waiting.move_to_end(throttle, last=False)
        if self.bucket is None and not self._is_taking_turns:
            assert self.shared is not None
            self.timers.schedule(self, self.shared.next_at(now))

    def leave(self, throttle: Throttle) -> None:
        """Do not have a throttle wait any more; harmless if it does not."""
        self._waiting.pop(throttle, None)

    def check(self, now: float) -> float | None:
        """The bucket is paid; see :class:`~monconn.monitor.deadlines.Checked`."""
        if not self._is_taking_turns:
            self._is_taking_turns = True
            turns = in_turns(self.clock, self._take_turns())
            turns.addBoth(lambda _: self._turns_taken())
        return None

    def _take_turns(self) -> Iterator[None]:
        reading_later = 0  # what those will read who could not at once
        while self._waiting:
            now, shared = self.clock.seconds(), self.shared
            if shared is not None and shared.is_in_debt(now - reading_later / shared.per_second):
                return
            quantum = 0 if shared is None else shared.quantum(1 + len(self._waiting))
            throttle, _none = self._waiting.popitem(last=False)
            if throttle.take_turn(now):
                reading_later += quantum
            yield

    def _turns_taken(self) -> None:
        self._is_taking_turns = False
        if self._waiting:
            now = self.clock.seconds()
            self.timers.schedule(self, now if self.shared is None else self.shared.next_at(now))


class Timers(Deadlines):
    """Wakes those who wait for bandwidth."""

    BUCKET_SECONDS = 0.01


class BandwidthLimits:
    """The bandwidths of one service.

    :param clock: monotonic time and timers.
    """

    def __init__(self, clock: Clock) -> None:
        timers = Timers(clock)
        self.up = DirectionLimits(clock, timers)
        self.down = DirectionLimits(clock, timers)

    def configure(self, rules: Rules) -> None:
        """Have other rules in force."""
        shared, each = rules.bandwidth, rules.per_connection_bandwidth
        self.up.configure(shared.up if shared else 0, each.up if each else 0)
        self.down.configure(shared.down if shared else 0, each.down if each else 0)

    def held_seconds(self) -> dict[Direction, float]:
        """For how long connections were on hold, all together."""
        return {"up": self.up.held_seconds, "down": self.down.held_seconds}
