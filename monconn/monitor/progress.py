"""Whether the bytes that wait for a peer make progress."""

from __future__ import annotations


class SendProgress:
    """Detects that bytes queued for one side, here or in the kernel, are not being acknowledged.

    The kernel sends no event when queued bytes are acknowledged, so the queues are polled.
    """

    __slots__ = ("_delivered", "_pending", "stalled_since")

    def __init__(self) -> None:
        self._delivered = 0
        self._pending = 0
        self.stalled_since: float | None = None
        """Since when bytes have been pending without progress, as far as the checks can know
        (monotonic seconds); None if no bytes are pending."""

    def check(self, pending: int, delivered: int, now: float) -> bool:
        """Compare the queues with the last check.

        :param pending: bytes that the peer has not acknowledged yet.
        :param delivered: bytes that it has acknowledged, ever.
        :param now: monotonic seconds.
        :returns: whether some of the bytes that were pending then have been acknowledged since.
        """
        has_moved = self._pending > 0 and delivered > self._delivered
        if not pending:
            self.stalled_since = None
        elif has_moved or self.stalled_since is None:
            self.stalled_since = now
        self._pending = pending
        self._delivered = max(delivered, self._delivered)
        return has_moved
