"""How many attempts to connect to a backend have failed since the last one that succeeded."""

from __future__ import annotations

from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord


class BackendAttempts:
    """The attempts of one service to connect to its backend.

    A data path sets ``failed`` to 0 with each success: one assignment for a connection, and no
    call. Times are monotonic seconds, as of when the attempt was given up.
    """

    __slots__ = ("backend", "failed", "first_failed", "first_failed_at", "last_failed", "reason")

    def __init__(self) -> None:
        self.failed = 0
        """How many have failed since the last success, or the start."""
        self.first_failed = self.last_failed = 0.0
        self.first_failed_at = 0.0
        """The first failure by the wall clock."""
        self.reason: Reason | None = None
        """How the last one failed."""
        self.backend = ""
        """To which address."""

    def count_failure(self, record: ConnectionRecord) -> None:
        """Count a connection that has closed without one to the backend."""
        closed, closed_at = record.closed or 0.0, record.closed_at or 0.0
        if not self.failed:
            self.first_failed, self.first_failed_at = closed, closed_at
        self.failed += 1
        self.last_failed = closed
        self.reason, self.backend = record.reason, record.backend
