"""Whatever the sides do, and in whatever order: each relay has a deadline, and ends by it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.model.reasons import Side, SideEnd
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.monitor import Monitor
from monconn.policy.timeouts import GRACE_SECONDS, Timeouts
from monconn.relay.ends import HOLD_CONNECTING, HOLD_RATE
from monconn.relay.relay import Relay

from ..properties import examples
from .test_relay import FakeEnd

LATE_SECONDS = 2 * Deadlines.BUCKET_SECONDS
HOWS: tuple[SideEnd, ...] = ("reset", "timeout", "none")


class VerbFailed(Exception):
    """What an End raises that is not to."""


class LivingEnd(FakeEnd):
    """An End whose peer does anything at any time; so events also come amid its verbs.

    :param draw: Hypothesis' choice of one of some things.
    :param may_raise: whether verbs may fail.
    """

    def __init__(self, side: Side, draw: Any, *, may_raise: bool = False) -> None:
        super().__init__(side, [])
        self.phase = "connecting"
        self.has_ended = False
        self.unread = 0
        self._draw = draw
        self._depth = 0
        self._may_raise = may_raise

    # -- what the peer does

    def events(self) -> list[str]:
        """What may happen now."""
        if self.phase == "connecting":
            if self.side == "client":
                return ["connected"]
            return ["connected", "connect_failed"] if self.is_dialled() else []
        if self.phase in ("closed",):
            return []
        if self.phase == "resetting":
            return ["broken", "abort"]
        events = ["broken"]
        if not self.has_ended:
            if self.phase == "open" and not self.holds:
                events += ["data", "eof"]
            if self.phase == "draining":
                events.append("eof")
        if self.phase == "open":
            events += ["filled", "drained"]
        if self.has_ended and self.phase == "draining":
            events.append("gone")
        return events

    def is_dialled(self) -> bool:
        return "dial backend" in self._calls

    def happen(self, event: str) -> None:
        if event not in self.events():
            return
        if event == "connected":
            self.phase = "open"
            self.reports.connected(self)
        elif event == "connect_failed":
            self.phase = "closed"
            self.reports.connect_failed(self, "backend_refused", "")
        elif event == "data":
            self.reports.data(self, b"x" * 10, 0.0)
        elif event == "eof":
            self.has_ended = True
            self.reports.eof(self)
        elif event == "broken":
            self.phase = "closed"
            self.reports.broken(self, self._draw(HOWS), "")
        elif event == "gone":
            self._leave()
        elif event == "abort":
            self.abort()
        else:
            getattr(self.reports, event)(self)

    def _meanwhile(self, *events: str) -> None:
        """Amid a verb something may happen to this side."""
        if self._may_raise and self._draw(range(6)) == 5:
            raise VerbFailed
        if self._depth < 3:
            self._depth += 1
            try:
                self.happen(self._draw(("", *events)))
            finally:
                self._depth -= 1

    # -- verbs

    def release(self, hold: int) -> None:
        was_held = self.holds & hold
        super().release(hold)
        if was_held and not self.holds:
            self._meanwhile("data", "eof", "broken")

    def send(self, data: bytes | memoryview) -> None:
        if self.phase == "open":
            self._meanwhile("filled", "broken")

    def end_writing(self) -> None:
        self._meanwhile("broken")

    def close(self) -> None:
        if self.phase == "connecting":
            self._leave()
        elif self.phase == "open":
            self.phase = "draining"
            self._meanwhile("eof", "gone", "broken")

    def reset(self) -> None:
        if self.phase == "connecting":
            self._leave()
        elif self.phase == "open":
            self.phase = "resetting"
            self._meanwhile("abort")

    def abort(self) -> None:
        if self.phase != "closed":
            self._leave()

    def _leave(self) -> None:
        self.phase = "closed"
        self.reports.gone(self)


class Play:
    """A relay between two such Ends.

    :param draw: Hypothesis' choice.
    """

    def __init__(self, draw: Any, *, may_raise: bool = False) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        half_close = draw((None, 0.0, 7.0))
        timeouts = Timeouts(half_close_timeout=half_close, read_timeout=draw((0.0, 20.0)))
        self.monitor = Monitor("web", timeouts=timeouts, clock=self.clock)
        record = self.monitor.admit("192.0.2.1:4711", "192.0.2.1")
        assert record is not None
        self.record = record
        client = LivingEnd("client", draw, may_raise=may_raise)
        backend = LivingEnd("backend", draw, may_raise=may_raise)
        client.holds = HOLD_CONNECTING
        self.ends = client, backend
        self.relay = Relay(self.monitor, record, client, backend, Deadlines(self.clock))
        client.happen("connected")

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds / 0.1))

    def check(self) -> None:
        if not len(self.monitor):
            assert self.record.reason is not None
            assert self.relay.bucket is None
            return
        assert self.relay.bucket is not None, self.record
        if self.record.ending is not None:
            due = self.relay.bucket * Deadlines.BUCKET_SECONDS
            assert due <= self.record.ending + GRACE_SECONDS + LATE_SECONDS
            assert self.clock.seconds() <= self.record.ending + GRACE_SECONDS + LATE_SECONDS
        elif self.record.state == "closing":
            raise AssertionError("it is closing, and nobody knows since when")


OTHER_EVENTS = ("wait", "long", "close", "reset", "hold", "release")


def play(data: st.DataObject, *, may_raise: bool) -> None:
    def draw(choices: Any) -> Any:
        return data.draw(st.sampled_from(list(choices)))

    scene = Play(draw, may_raise=may_raise)
    for _ in range(data.draw(st.integers(1, 25))):
        client = scene.ends[0]
        options = [(end, event) for end in scene.ends for event in end.events()]
        end, event = draw([*options, *((client, each) for each in OTHER_EVENTS)])
        try:
            if event == "wait":
                scene.pass_seconds(0.3)
            elif event == "long":
                scene.pass_seconds(GRACE_SECONDS + 1)
            elif event in ("close", "reset"):
                if len(scene.monitor):
                    scene.relay.end("operator", reset=event == "reset")
            elif event in ("hold", "release"):
                if len(scene.monitor):
                    getattr(scene.relay, event)(draw(("up", "down")), HOLD_RATE)
            else:
                end.happen(event)
        except VerbFailed:
            # What the loop does then: SocketLoop.handler_failed, and SocketEnd.failed.
            if draw((True, False)) and len(scene.monitor):
                try:
                    scene.relay.end("error", reset=True)
                except VerbFailed:
                    pass
        scene.check()
        if not len(scene.monitor):
            return
    for each in scene.ends:
        each._may_raise = False
    scene.relay.end("operator")
    scene.pass_seconds(GRACE_SECONDS + 2 * LATE_SECONDS)
    assert not len(scene.monitor)
    scene.check()


@settings(max_examples=examples(80), deadline=None)
@given(data=st.data())
def test_a_relay_that_is_closing_has_a_deadline(data: st.DataObject) -> None:
    play(data, may_raise=False)


def test_a_relay_whose_ends_fail_ends_all_the_same(logged_failures: list[Failure]) -> None:
    @settings(max_examples=examples(60), deadline=None)
    @given(data=st.data())
    def play_with_failures(data: st.DataObject) -> None:
        play(data, may_raise=True)

    play_with_failures()
    logged_failures.clear()  # those of checks


def test_an_end_that_is_closed_without_a_report_is_not_waited_for() -> None:
    """Something has raised as it closed."""
    scene = Play(lambda choices: next(iter(choices)))
    client, backend = scene.ends
    backend.happen("connected")
    backend.phase = "closed"
    scene.relay.end("operator")
    scene.pass_seconds(GRACE_SECONDS + 2 * LATE_SECONDS)
    assert client.phase == "closed"
    assert not len(scene.monitor)
