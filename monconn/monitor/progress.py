"""Whether the bytes that wait for a peer make progress."""

from __future__ import annotations


class SendProgress:
    """Whether the bytes that wait for one side, here or in the system's queue, make progress."""

    __slots__ = ("_delivered", "_looked", "_waiting", "stalled_since")

    def __init__(self) -> None:
        self._looked = 0.0
        self._delivered = 0
        self._waiting = 0
        self.stalled_since: float | None = None
        """Since when bytes wait without progress, as far as looks have told; None if none do."""

    def check(self, waiting: int, delivered: int, now: float) -> float | None:
        """Note how things stand now.

        :param waiting: bytes that the peer has not taken yet.
        :param delivered: bytes that it has taken, ever.
        :returns: when the last look was, if some of what waited then was taken since.
        """
        has_moved = self._waiting > 0 and delivered > self._delivered
        moved_after = self._looked if has_moved else None
        if not waiting:
            self.stalled_since = None
        elif has_moved or self.stalled_since is None:
            self.stalled_since = now
        self._looked, self._waiting = now, waiting
        self._delivered = max(delivered, self._delivered)
        return moved_after
