"""A clock whose time passes by work, and whose turns the test makes."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """Time passes by :meth:`work`, and only then, unless the clock is advanced."""

    def work(self, seconds: float) -> None:
        """Let time pass, as work does: no timer fires amid it."""
        self.rightNow += seconds

    def turn(self) -> None:
        """Make the calls that are due, as a reactor does: what they set is due in the next turn."""
        for call in [each for each in self.calls if each.getTime() <= self.rightNow]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
