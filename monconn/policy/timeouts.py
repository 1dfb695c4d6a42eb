"""When a connection must end."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from monconn.model.reasons import Reason, Side
from monconn.model.record import ConnectionRecord
from monconn.policy.kinds import OptionalSeconds, PositiveSeconds, Seconds
from monconn.policy.pauses import NO_PAUSES, Pauses
from monconn.policy.settings import FORWARDING_ONLY, validated
from monconn.policy.sides import SecondsOfSides, check_seconds

GRACE_SECONDS = 5.0
"""How long a peer may take to receive what is under way once the connection's end is decided."""
BACKEND_ENDED_SECONDS = 60.0
"""What ``half_close_timeout`` is for a client that does not follow its backend's end, if unset."""
_CHECKS_A_LIMIT = 4
_UNANSWERED_CHECK_SECONDS = 1.0
"""How often a side that does not answer is checked, if it may not for ever."""
_LEAST_CHECK_SECONDS = 0.25
_NEVER = float("inf")
_SETTLED_SECONDS = 30.0
"""When a connection is checked for the first time even without a limit."""


@attrs.frozen(field_transformer=validated)
class Timeouts:
    """The time limits of one service, in seconds; 0 = off.

    :raises SettingError: a value is not valid.
    """

    connect_timeout: PositiveSeconds = attrs.field(default=10.0, metadata=FORWARDING_ONLY)
    """The time until the backend is connected; a configuration cannot switch it off."""
    read_timeout: Seconds = 0.0
    """The time without a byte from a client that is read from and has not ended its side."""
    write_timeout: Seconds = 600.0
    """The time during which bytes wait for a side without any progress."""
    max_idle: Seconds = 900.0
    """The time without a byte either way, counted from the opening."""
    half_close_timeout: OptionalSeconds = None
    """The time without a byte either way once one side has ended.

    Unset, it is :data:`BACKEND_ENDED_SECONDS` once the backend has ended, for a client that has
    taken all bytes and does not end its side; and off while a client that has ended waits for its
    answer. Wrapped factories have no such default.
    """
    max_lifetime: Seconds = 0.0
    """The time from the opening, whatever happens."""
    unreachable_timeout: SecondsOfSides = attrs.field(default=0.0, converter=check_seconds)
    """The time for which a side is unreachable: nothing is heard of it although it has been asked.

    For both sides, or :class:`~monconn.policy.sides.Sides` of it.
    """

    first_check_seconds: float = attrs.field(init=False, repr=False, eq=False)
    """How long after its opening a connection must be checked for the first time."""
    follow_changes: bool = attrs.field(init=False, repr=False, eq=False)
    """Whether a change of the connection's state can bring a deadline nearer."""

    @first_check_seconds.default
    def _first_check_seconds(self) -> float:
        limits = (
            _SETTLED_SECONDS,
            self.connect_timeout,
            self.read_timeout,
            self.write_timeout / _CHECKS_A_LIMIT,
            self.max_idle / _CHECKS_A_LIMIT,
            self.max_lifetime,
            self.unreachable_timeout.client / _CHECKS_A_LIMIT,
            self.unreachable_timeout.backend / _CHECKS_A_LIMIT,
        )
        return min(limit for limit in limits if limit)

    @follow_changes.default
    def _follow_changes(self) -> bool:
        return bool(self.half_close_timeout or self.read_timeout)

    def next_deadline(
        self, record: ConnectionRecord, pauses: Pauses = NO_PAUSES
    ) -> tuple[float, Reason | None]:
        """When the connection is to end if nothing more happens, and with which reason.

        :param pauses: of its service. Limits on silence and on progress stand still meanwhile; a
            connect, and the whole lifetime, go on.
        :returns: monotonic seconds and the reason; infinity and None without any limit.
        """
        never: tuple[float, Reason | None] = (_NEVER, None)
        return min(self._deadlines(record, pauses), key=lambda deadline: deadline[0], default=never)

    def _deadlines(
        self, record: ConnectionRecord, pauses: Pauses
    ) -> Iterator[tuple[float, Reason]]:
        delay_of = pauses.delay_of
        if self.connect_timeout and record.state == "connecting":
            yield record.opened + self.connect_timeout, "connect_timeout"
        if self.max_lifetime:
            yield record.opened + self.max_lifetime, "lifetime"
        # A side that waits for bandwidth is silent because of us.
        if record.limited_since is None:
            yield from self._idle_deadlines(record, pauses)
        if self.read_timeout and record.reading_since is not None and record.client_end == "none":
            # It is None during a pause, and set so that what was used up before it is so after it.
            since = max(record.reading_since, record.last_up or 0.0)
            yield since + self.read_timeout, "read_timeout"
        if self.write_timeout:
            for stalled in (record.client_stalled, record.backend_stalled):
                if stalled is not None:
                    yield stalled + self.write_timeout + delay_of(stalled), "write_timeout"

    def _idle_deadlines(
        self, record: ConnectionRecord, pauses: Pauses
    ) -> Iterator[tuple[float, Reason]]:
        delay_of = pauses.delay_of
        active = max(record.last_activity, record.limited_until or 0.0)
        if self.max_idle:
            yield active + self.max_idle + delay_of(active), "idle_timeout"
        if self.half_close_timeout is None:
            # A client that reads slowly is not one that forgot to end: write_timeout is for it.
            if record.backend_ended is not None and record.client_stalled is None:
                since = max(record.backend_ended, active)
                yield since + BACKEND_ENDED_SECONDS + delay_of(since), "half_close_timeout"
        elif self.half_close_timeout and record.half_closed is not None:
            since = max(record.half_closed, active)
            yield since + self.half_close_timeout + delay_of(since), "half_close_timeout"

    def next_check(self, record: ConnectionRecord, now: float, pauses: Pauses = NO_PAUSES) -> float:
        """When to check the connection again, in monotonic seconds.

        Bytes that wait in the kernel's send queue and then move cause no event, so a
        connection is checked four times within each limit that such progress counts for.
        """
        when = self.next_deadline(record, pauses)[0]
        for limit in (self.write_timeout, self.max_idle, self._half_close_limit(record)):
            if limit:
                when = min(when, now + limit / _CHECKS_A_LIMIT)
        for limit, unanswered in (
            (self.unreachable_limit("client", record), record.client_unanswered),
            (self.unreachable_limit("backend", record), record.backend_unanswered),
        ):
            if limit:
                when = min(when, now + limit / _CHECKS_A_LIMIT)
                if unanswered is not None:
                    # For how long is a lower bound, and whether it answers again comes as no event.
                    due = max(unanswered + limit, now + _LEAST_CHECK_SECONDS)
                    when = min(when, due, now + _UNANSWERED_CHECK_SECONDS)
        return when

    def latest_check(self, backend_ended: float) -> float | None:
        """When a connection must have been checked once its backend has ended; None for never.

        It has other limits then, if they are unset. Most clients end soon after that: half of the
        time leaves the check as it is for those that have just begun, which are most of them.
        """
        if self.half_close_timeout is not None:
            return None
        return backend_ended + BACKEND_ENDED_SECONDS / 2

    def _half_close_limit(self, record: ConnectionRecord) -> float:
        """For how many seconds no byte may move, as a side has ended; 0 for as long as it likes."""
        if self.half_close_timeout is None:
            return BACKEND_ENDED_SECONDS if record.backend_ended is not None else 0.0
        return self.half_close_timeout if record.half_closed is not None else 0.0

    def unreachable_limit(self, side: Side, record: ConnectionRecord) -> float:
        """For how many seconds a side may be unreachable; 0 for as long as it likes.

        Once the backend has ended, that is what ``half_close_timeout`` is if both are unset: the
        bytes or the end that a vanished client has not acknowledged would hold it for a quarter of
        an hour.
        """
        limit = self.unreachable_timeout.of(side)
        if not limit and self.half_close_timeout is None and record.backend_ended is not None:
            return BACKEND_ENDED_SECONDS
        return limit
