"""Whether a service's backend can be connected to, as far as its clients' attempts tell."""

from __future__ import annotations

import time

from monconn.model.alarms import Alarm
from monconn.model.record import iso_time
from monconn.monitor.monitor import Monitor
from monconn.units import format_duration

ATTEMPTS = 3
"""How many attempts must have failed: one may be a backend's restart, two a client's retry."""
LEAST_SECONDS = 1.0
"""And over which time: a hundred clients that come in the same moment are one piece of evidence,
as is a backend that is restarted just then."""


class BackendWatch:
    """Raises and ends the alarm ``backend_down`` of one service.

    It looks at the outcomes of the attempts that clients caused, however far apart: where one
    client comes a day, three failed days in a row are all that is known. Nothing connects by
    itself, so that a backend sees nobody but clients.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._attempts = monitor.attempts
        self._began: float | None = None  # the first failure, monotonic; None while it is up
        self._failed = 0

    @property
    def is_down(self) -> bool:
        """Whether the alarm is active."""
        return self._began is not None

    def poll(self) -> None:
        """Compare what has happened since the last poll."""
        attempts = self._attempts
        if self._began is not None:
            if attempts.failed and attempts.first_failed == self._began:
                self._failed = attempts.failed
                return
            self.end(
                f"{attempts.backend} is connected to again, after"
                f" {format_duration(self._monitor.clock.seconds() - self._began)} and"
                f" {self._failed} failed attempts"
            )
        lasted = attempts.last_failed - attempts.first_failed
        if attempts.failed < ATTEMPTS or lasted < LEAST_SECONDS or self._monitor.stopping:
            return
        self._began, self._failed = attempts.first_failed, attempts.failed
        self._alarm(
            False,
            f"{attempts.failed} attempts to connect to {attempts.backend} have failed within"
            f" {format_duration(lasted)}, and none has succeeded: the last one with"
            f" {attempts.reason}",
        )

    def end(self, why: str) -> None:
        """End the alarm, if it is active.

        :param why: the reason in words.
        """
        if self._began is not None:
            self._alarm(True, why)
            self._began = None

    def _alarm(self, is_over: bool, detail: str) -> None:
        attempts, now = self._attempts, time.time()
        assert self._began is not None
        since = now - (self._monitor.clock.seconds() - self._began)
        self._monitor.alarm(
            Alarm(
                "backend_down",
                self._monitor.name,
                "",
                now,
                is_over,
                detail,
                subject=attempts.backend,
                figures={
                    "backend": attempts.backend,
                    "since": iso_time(since),
                    "attempts": self._failed,
                },
            )
        )
