"""Token buckets: how many clients may come, or bytes pass, in a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs

from monconn.policy.quantities import Rate

MOST_CLIENTS = 65_536
"""Clients that a :class:`ClientBuckets` remembers: 100 bytes for each."""
MOST_CHANGES = 16
"""Changes of a rate that are remembered: a bucket that was not used since before the first of them
is taken for one that was used just before it."""


class TokenBucket:
    """Lets ``rate.burst`` in at once, and one more each time that a token has grown again.

    One number is all that it stores, the time at which it will be full (the *theoretical arrival
    time* of ITU-T I.371's generic cell rate algorithm): so nothing has to be done as time passes.

    :param rate: of tokens.
    """

    __slots__ = ("_full_at", "_interval", "_tolerance", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._interval = 1 / rate.per_second
        # And a millionth: the sum of many intervals is not quite their product.
        self._tolerance = (rate.burst - 1 + 1e-6) * self._interval
        self._full_at = float("-inf")

    def has(self, now: float) -> bool:
        """Whether there is a token.

        :param now: monotonic seconds.
        """
        return self._full_at - self._tolerance <= now

    def take(self, now: float) -> None:
        """Take a token, which there must be."""
        self._full_at = max(self._full_at, now) + self._interval

    def next_at(self, now: float) -> float:
        """When there is a token (monotonic seconds); ``now`` if there is one."""
        return max(now, self._full_at - self._tolerance)

    def used(self, now: float) -> float:
        """How many tokens are missing."""
        return max(0.0, (self._full_at - now) / self._interval)

    def with_rate(self, rate: Rate, now: float) -> TokenBucket:
        """A bucket of another rate, in which as many tokens are missing, but at most all."""
        other = TokenBucket(rate)
        other._full_at = now + min(self.used(now), float(rate.burst)) * other._interval
        return other


class ClientBuckets:
    """A token bucket for each client; those that are full again need no place.

    Of more clients than it remembers the one that came longest ago is forgotten, and so has a full
    bucket again.

    :param rate: of each client's tokens.
    :param most: how many clients are remembered.
    """

    def __init__(self, rate: Rate, most: int = MOST_CLIENTS) -> None:
        self.rate = rate
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._changes: list[tuple[float, Rate, Rate]] = []

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, client: str, now: float) -> bool:
        """Whether a client has a token."""
        bucket = self._bucket(client)
        return bucket is None or bucket.has(now)

    def _bucket(self, client: str) -> TokenBucket | None:
        bucket = self._buckets.get(client)
        if bucket is None or bucket.rate is self.rate:
            return bucket
        # To change the rate of 65,536 at once would take a third of a second.
        known = (number for number, each in enumerate(self._changes) if each[1] is bucket.rate)
        for at, _, rate in self._changes[next(known, 0) :]:
            bucket = bucket.with_rate(rate, at)
        self._buckets[client] = bucket
        return bucket

    def take(self, client: str, now: float) -> None:
        """Take one of a client's tokens, which there must be."""
        bucket = self._bucket(client)
        if bucket is None:
            bucket = TokenBucket(self.rate)
            self._drop_full(now)
        bucket.take(now)
        self._buckets[client] = bucket
        self._buckets.move_to_end(client)

    def _drop_full(self, now: float) -> None:
        # Two for each that is added: so the full ones are gone before there are too many.
        for _ in range(2):
            if not self._buckets:
                return
            oldest = next(iter(self._buckets))
            if len(self._buckets) < self._most and self.used(oldest, now):
                return
            del self._buckets[oldest]

    def next_at(self, client: str, now: float) -> float:
        """When a client has a token (monotonic seconds); ``now`` if it has one."""
        bucket = self._bucket(client)
        return now if bucket is None else bucket.next_at(now)

    def used(self, client: str, now: float) -> float:
        """How many of a client's tokens are missing."""
        bucket = self._bucket(client)
        return 0.0 if bucket is None else bucket.used(now)

    def forget_in_steps(self, is_one: Callable[[str], bool]) -> Iterator[None]:
        """Drop the buckets of some clients, which so have full ones."""
        for client in tuple(self._buckets):
            if is_one(client):
                self._buckets.pop(client, None)
            yield

    def set_rate(self, rate: Rate, now: float) -> None:
        """Have buckets of another rate, in which as many tokens are missing, but at most all.

        Each gets it when it is used next, as if it had had it from now on.
        """
        rate = attrs.evolve(rate)  # told from the same rate at another time
        self._changes = [*self._changes[1 - MOST_CHANGES :], (now, self.rate, rate)]
        self.rate = rate


BURST_SECONDS = 0.1
"""How much may pass at once after a pause: what passes in so many seconds. A timer that is late by
less than this costs no bandwidth, and ten seconds are exact within a hundredth."""
QUANTUM_SECONDS = 0.05
LEAST_QUANTUM = 1 << 10
MOST_QUANTUM = 1 << 16
"""How much is read at once: what passes in :data:`QUANTUM_SECONDS`, within these bounds. Smaller
pieces would cost more for each byte, and larger ones take longer to be made up for."""
MOST_DEBT_SECONDS = 1.0
"""For how long many reads together may be made up for: what a reset leaves to be read at once is
not to keep others from reading for minutes. It is always enough for one read."""


class ByteBucket:
    """Lets so many bytes pass in a second. It may go into debt, which is made up for.

    How much a read returns is known only after it: so one may begin while the bucket is not in
    debt, and all that it returned is taken. In the long run exactly ``per_second`` bytes pass in a
    second. One number is all that it stores, as in :class:`TokenBucket`: when the debt is paid, or
    was.

    :param per_second: bytes a second.
    """

    __slots__ = ("_paid_at", "per_second")

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._paid_at = float("-inf")

    def is_in_debt(self, now: float) -> bool:
        """Whether nothing may pass now.

        :param now: monotonic seconds.
        """
        return self._paid_at > now

    def take(self, count: int, now: float) -> None:
        """Some bytes pass, or have passed."""
        seconds = count / self.per_second
        paid_at = max(self._paid_at, now - BURST_SECONDS) + seconds
        self._paid_at = min(paid_at, now + max(seconds, MOST_DEBT_SECONDS))

    def next_at(self, now: float) -> float:
        """When it is not in debt (monotonic seconds); ``now`` if it is not now."""
        return max(now, self._paid_at)

    def quantum(self, sharers: int = 1) -> int:
        """How many bytes to read at once.

        :param sharers: how many take turns at it: each is to have its turn soon.
        """
        most = int(self.per_second * QUANTUM_SECONDS / sharers)
        return max(LEAST_QUANTUM, min(most, MOST_QUANTUM))

    def with_rate(self, per_second: int, now: float) -> ByteBucket:
        """A bucket of another bandwidth with the same debt, but paid no later than it would be."""
        other = ByteBucket(per_second)
        if self._paid_at > now:
            seconds = self._paid_at - now
            other._paid_at = now + seconds * min(1.0, self.per_second / per_second)
        return other
