"""Whether the bytes that wait for a peer make progress."""

from __future__ import annotations


class SendProgress:
    """Detects that bytes queued for one side, here or in the kernel, are not being acknowledged.

    The kernel sends no event when queued bytes are acknowledged, so the queues are polled.
    """

    __slots__ = ("_checked", "_delivered", "_pending", "stalled_since")

    def __init__(self) -> None:
        self._checked = 0.0
        self._delivered = 0
        self._pending = 0
        self.stalled_since: float | None = None
        """Since when bytes have been pending without progress, as far as the checks can know
        (monotonic seconds); None if no bytes are pending."""

    def check(self, pending: int, delivered: int, now: float) -> float | None:
        """Compare the queues with the last check.

        :param pending: bytes that the peer has not acknowledged yet.
        :param delivered: bytes that it has acknowledged, ever.
        :param now: monotonic seconds.
        :returns: the time of the last check if some of the bytes that were pending then have been
            acknowledged since: a lower bound of when that happened. None otherwise.
        """
        has_moved = self._pending > 0 and delivered > self._delivered
        moved_after = self._checked if has_moved else None
        if not pending:
            self.stalled_since = None
        elif has_moved or self.stalled_since is None:
            self.stalled_since = now
        self._checked, self._pending = now, pending
        self._delivered = max(delivered, self._delivered)
        return moved_after
