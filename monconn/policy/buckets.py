"""Token buckets: how many clients may come, or bytes pass, in a time."""

from __future__ import annotations

from collections import OrderedDict

from monconn.policy.quantities import Rate

MOST_CLIENTS = 65_536
"""Clients that a :class:`ClientBuckets` remembers: 100 bytes for each."""


class TokenBucket:
    """Lets ``rate.burst`` in at once, and one more each time that a token has grown again.

    One number is all that it stores, the time at which it will be full (the *theoretical arrival
    time* of ITU-T I.371's generic cell rate algorithm): so nothing has to be done as time passes.

    :param rate: of tokens.
    """

    __slots__ = ("_full_at", "_interval", "_tolerance")

    def __init__(self, rate: Rate) -> None:
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

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, client: str, now: float) -> bool:
        """Whether a client has a token."""
        bucket = self._buckets.get(client)
        return bucket is None or bucket.has(now)

    def take(self, client: str, now: float) -> None:
        """Take one of a client's tokens, which there must be."""
        bucket = self._buckets.pop(client, None)
        if bucket is None:
            bucket = TokenBucket(self.rate)
            self._drop_full(now)
        bucket.take(now)
        self._buckets[client] = bucket

    def _drop_full(self, now: float) -> None:
        # Two for each that is added: so the full ones are gone before there are too many.
        for _ in range(2):
            if not self._buckets:
                return
            oldest = next(iter(self._buckets))
            if len(self._buckets) < self._most and self._buckets[oldest].used(now):
                return
            del self._buckets[oldest]

    def next_at(self, client: str, now: float) -> float:
        """When a client has a token (monotonic seconds); ``now`` if it has one."""
        bucket = self._buckets.get(client)
        return now if bucket is None else bucket.next_at(now)

    def used(self, client: str, now: float) -> float:
        """How many of a client's tokens are missing."""
        bucket = self._buckets.get(client)
        return 0.0 if bucket is None else bucket.used(now)

    def with_rate(self, rate: Rate, now: float) -> ClientBuckets:
        """The same clients with buckets of another rate."""
        other = ClientBuckets(rate, self._most)
        for client, bucket in self._buckets.items():
            other._buckets[client] = bucket.with_rate(rate, now)
        return other
