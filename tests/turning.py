"""A clock whose time passes by work, and whose turns the test makes."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurningClock(Clock):
    """Time passes by :meth:`work`, and only then, unless the clock is advanced."""

    def work(self, seconds: float) -> None:
        """Let time pass, as work does: no timer fires amid it."""
        self.rightNow += seconds

    def turn(self) -> None:
        """Make the calls that are due; what they set is due in the next turn."""
        now = self.seconds()
        due = [call for call in self.calls if call.getTime() <= now]
        self.calls = [call for call in self.calls if call.getTime() > now]
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)
