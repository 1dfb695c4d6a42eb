"""The relay between fake Ends that record their calls, on a fake clock."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.bandwidth import Throttle
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.tracks import Track
from monconn.net.sockets import TCP_INFO_BYTES
from monconn.policy.policy import Policy
from monconn.policy.sides import Keepalive, Sides
from monconn.policy.timeouts import BACKEND_ENDED_SECONDS, GRACE_SECONDS, Timeouts
from monconn.relay.ends import (
    HOLD_CONNECTING,
    HOLD_FULL,
    ByteSink,
    End,
    EndListener,
    Phase,
)
from monconn.relay.relay import Relay
from monconn.relay.stages import StageChain
from tests.properties import examples

ALL_OFF = {
    "connect_timeout": 0,
    "read_timeout": 0,
    "write_timeout": 0,
    "max_idle": 0,
    "half_close_timeout": 0,
    "max_lifetime": 0,
}
SIDES: tuple[Side, ...] = ("client", "backend")
OTHER = {"client": "backend", "backend": "client"}
STEP_SECONDS = 0.05
LATE_SECONDS = Deadlines.BUCKET_SECONDS + STEP_SECONDS


class FakeEnd:
    """Records its calls in a list that both Ends share; has the methods of an End only."""

    accepts_pipes = False
    reads_at_once = True
    reports: EndListener
    peer: End

    def __init__(self, side: Side, calls: list[str]) -> None:
        self.side: Side = side
        self.phase: Phase = "open"
        self.holds = 0
        self.is_watched = False
        self.track: Track | None = None
        self.stages: StageChain | None = None
        self.throttle: Throttle | None = None
        self.held = 0
        self.given = 0
        self.keepalive: Keepalive | str | None = "unset"
        self.tcp: bytes | None = None
        self._calls = calls

    def _note(self, verb: str, *details: object) -> None:
        self._calls.append(" ".join([verb, self.side, *map(repr, details)]))

    @property
    def sink(self) -> ByteSink:
        return self if self.stages is None else self.stages

    def set_stages(self, stages: StageChain | None) -> None:
        self.stages = stages

    def set_throttle(self, throttle: Throttle | None) -> None:
        self.throttle = throttle

    def dial(self) -> None:
        self._note("dial")

    def hold(self, hold: int) -> None:
        self.holds |= hold
        self._note("hold", hold)

    def release(self, hold: int) -> None:
        if self.holds & hold:
            self.holds &= ~hold
            self._note("release", hold)

    def end_writing(self) -> None:
        self._note("end_writing")

    def close(self) -> None:
        self._note("close")

    def reset(self) -> None:
        self._note("reset")

    def abort(self) -> None:
        self._note("abort")

    def send(self, data: bytes | memoryview) -> None:
        self._note("send", data)

    def room(self) -> int:
        return 0

    def set_keepalive(self, keepalive: Keepalive | None) -> None:
        self.keepalive = keepalive  # not recorded

    def tcp_info(self) -> bytes | None:
        return self.tcp

    def addresses(self) -> tuple[str | None, str | None]:
        return None, None

    def pending_bytes(self) -> int:
        return self.held

    def delivered_bytes(self) -> int:
        return self.given

    def is_delivered(self) -> bool:
        return not self.held

    def stages_drained(self) -> None:
        self._note("stages_drained")


def unanswered_for(seconds: float) -> bytes:
    """A ``tcp_info`` of a peer that has not answered five retransmissions, or nothing if 0."""
    raw = bytearray(TCP_INFO_BYTES)
    raw[0] = 1
    raw[2] = 5 if seconds else 0
    struct.pack_into("=I", raw, 8, round(seconds / (1 - 0.5**5) * 1e6))  # rto
    struct.pack_into("=2I", raw, 52, *[round(seconds * 1000)] * 2)
    return bytes(raw)


class Watcher(Observer):
    watches_payload = True

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def opened(self, record: ConnectionRecord) -> None:
        self.seen.append(("opened", record.id))

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.seen.append((direction, data))

    def closed(self, record: ConnectionRecord) -> None:
        self.seen.append(("closed", record.reason))


class Stage:
    """A relay that is about to begin, with all time limits off but those given."""

    def __init__(self, **timeouts: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        limits = Timeouts(**{**ALL_OFF, **timeouts})
        self.monitor = Monitor("web", timeouts=limits, clock=self.clock)
        self.deadlines = Deadlines(self.clock)
        record = self.monitor.admit("192.0.2.1:4711", "192.0.2.1")
        assert record is not None
        self.record = record
        self.calls: list[str] = []
        self.client = FakeEnd("client", self.calls)
        self.backend = FakeEnd("backend", self.calls)
        self.relay = Relay(self.monitor, record, self.client, self.backend, self.deadlines)

    def open(self) -> Stage:
        self.client.holds = HOLD_CONNECTING  # as a socket's
        self.relay.connected(self.client)
        self.relay.connected(self.backend)
        self.calls.clear()
        return self

    def end_of(self, side: str) -> FakeEnd:
        return self.client if side == "client" else self.backend

    def data(self, end: FakeEnd, data: bytes) -> None:
        self.relay.data(end, data, self.clock.seconds())

    def asked(self) -> list[str]:
        """The calls of the Ends since the last time."""
        asked = list(self.calls)
        self.calls.clear()
        return asked

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pump([STEP_SECONDS] * round(seconds / STEP_SECONDS))

    def summary(self) -> tuple[Any, ...]:
        record = self.record
        return record.reason, record.code, record.client_end, record.backend_end, record.closed_by

    def ends_in(self, seconds: float) -> bool:
        """Whether the reason is decided after so many seconds, and not before."""
        self.pass_seconds(seconds - STEP_SECONDS)
        too_early = self.record.reason is not None
        self.pass_seconds(STEP_SECONDS + LATE_SECONDS)
        return not too_early and self.record.reason is not None


@pytest.fixture
def stage() -> Stage:
    return Stage().open()


# -- the beginning


def test_opens_and_dials_once_the_client_is_connected() -> None:
    stage = Stage()
    assert len(stage.monitor) == 0
    stage.relay.connected(stage.client)
    assert stage.asked() == ["dial backend"]
    assert stage.monitor.connections() == [stage.record]
    assert stage.record.state == "connecting"
    assert stage.record.connected is None


def test_open_once_the_backend_is_connected() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.clock.advance(2)
    stage.relay.connected(stage.backend)
    assert stage.record.state == "open"
    assert stage.record.connect_seconds == 2


def test_early_bytes_are_passed_on_at_once() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.data(stage.client, b"GET")
    assert stage.asked() == ["dial backend", "send backend b'GET'"]


@pytest.mark.parametrize("reason", ["backend_refused", "backend_unreachable"])
def test_an_unreachable_backend(reason: Any) -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.asked()
    stage.relay.connect_failed(stage.backend, reason, "no luck")
    assert stage.asked() == ["close client"]
    assert stage.summary() == (reason, "SC", "none", "none", "backend")
    assert (stage.record.state, stage.record.detail) == ("closing", "no luck")
    stage.relay.gone(stage.client)
    assert stage.record.state == "closed"


# -- bytes


def test_bytes_are_counted_and_passed_on(stage: Stage) -> None:
    stage.clock.advance(1)
    stage.data(stage.client, b"ping")
    stage.clock.advance(1)
    stage.data(stage.backend, b"pong!")
    assert stage.asked() == ["send backend b'ping'", "send client b'pong!'"]
    assert (stage.record.up, stage.record.down) == (4, 5)
    assert (stage.record.last_up, stage.record.last_down) == (1001, 1002)
    assert stage.monitor.bytes() == (4, 5)


def test_observers_see_everything_in_order() -> None:
    stage, watcher = Stage(), Watcher()
    stage.monitor.add_observer(watcher)
    stage.open()
    stage.data(stage.client, b"ping")
    stage.data(stage.backend, b"pong")
    close_in_order(stage)
    assert watcher.seen == [
        ("opened", stage.record.id),
        ("up", b"ping"),
        ("down", b"pong"),
        ("closed", "client_closed"),
    ]


def test_a_full_side_holds_the_other_back(stage: Stage) -> None:
    stage.relay.filled(stage.backend)
    stage.relay.drained(stage.backend)
    assert stage.asked() == [f"hold client {HOLD_FULL}", f"release client {HOLD_FULL}"]
    stage.relay.filled(stage.client)
    stage.relay.drained(stage.client)
    assert stage.asked() == [f"hold backend {HOLD_FULL}", f"release backend {HOLD_FULL}"]


def test_reading_since_is_none_while_the_client_is_on_hold(stage: Stage) -> None:
    assert stage.record.reading_since == 1000
    stage.relay.filled(stage.backend)
    assert stage.record.reading_since is None
    stage.clock.advance(7)
    stage.relay.filled(stage.client)
    stage.relay.drained(stage.client)
    assert stage.record.reading_since is None
    stage.relay.drained(stage.backend)
    assert stage.record.reading_since == 1007


def test_backend_reading_since_is_none_while_the_backend_is_on_hold(stage: Stage) -> None:
    stage.relay.filled(stage.client)
    assert stage.record.backend_reading_since is None
    stage.clock.advance(7)
    stage.relay.drained(stage.client)
    assert stage.record.backend_reading_since == 1007


# -- ends in order


def close_in_order(stage: Stage) -> None:
    stage.relay.eof(stage.client)
    stage.relay.eof(stage.backend)
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)


@pytest.mark.parametrize(("first", "second"), [("client", "backend"), ("backend", "client")])
def test_both_sides_end(stage: Stage, first: str, second: str) -> None:
    stage.clock.advance(3)
    stage.relay.eof(stage.end_of(first))
    assert stage.asked() == [f"end_writing {second}"]
    assert (stage.record.state, stage.record.half_closed) == ("half_closed", 1003)
    stage.clock.advance(1)
    stage.data(stage.end_of(second), b"late")
    assert stage.asked() == [f"send {first} b'late'"]
    stage.relay.eof(stage.end_of(second))
    assert stage.asked() == ["close client", "close backend"]
    assert (stage.record.half_closed, stage.record.reason) == (1003, None)
    stage.relay.gone(stage.end_of(second))
    assert len(stage.monitor) == 1
    stage.relay.gone(stage.end_of(first))
    assert len(stage.monitor) == 0
    assert stage.summary() == (f"{first}_closed", "--", "fin", "fin", first)
    assert (stage.record.state, stage.record.closed) == ("closed", 1004)


def test_a_client_that_ends_before_the_backend_is_connected() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.data(stage.client, b"all")
    stage.relay.eof(stage.client)
    assert stage.asked() == ["dial backend", "send backend b'all'", "end_writing backend"]
    assert stage.record.state == "connecting"
    stage.relay.connected(stage.backend)
    assert (stage.record.state, stage.record.reason) == ("half_closed", None)
    stage.data(stage.backend, b"answer")
    assert stage.asked() == ["send client b'answer'"]


def test_bytes_of_a_client_that_left_before_the_backend_connected_are_delivered() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.relay.eof(stage.client)
    stage.relay.gone(stage.client)
    stage.asked()
    stage.relay.connected(stage.backend)
    assert stage.asked() == ["close backend"]
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("client_closed", "--", "fin", "none", "client")


def test_no_cycle_is_left_for_the_collector(stage: Stage) -> None:
    close_in_order(stage)
    for end in (stage.client, stage.backend):
        assert not hasattr(end, "reports")
        assert not hasattr(end, "peer")


# -- resets and losses


@pytest.mark.parametrize(
    ("side", "how", "reason", "code"),
    [
        ("client", "reset", "client_reset", "CD"),
        ("client", "timeout", "client_lost", "CD"),
        ("client", "none", "error", "ID"),
        ("backend", "reset", "backend_reset", "SD"),
        ("backend", "timeout", "backend_lost", "SD"),
        ("backend", "none", "error", "ID"),
    ],
)
def test_a_broken_side(stage: Stage, side: str, how: Any, reason: str, code: str) -> None:
    other = "backend" if side == "client" else "client"
    stage.relay.broken(stage.end_of(side), how, "ECONNRESET")
    assert stage.asked() == [f"reset {other}"]
    assert stage.summary()[:2] == (reason, code)
    assert stage.record.detail == "ECONNRESET"
    ends = {"client": stage.record.client_end, "backend": stage.record.backend_end}
    assert ends == {side: how, other: "none"}
    assert len(stage.monitor) == 1
    stage.relay.gone(stage.end_of(other))
    assert len(stage.monitor) == 0
    assert len(stage.deadlines) == 0


def test_a_client_that_breaks_while_connecting() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.asked()
    stage.relay.broken(stage.client, "reset", "")
    assert stage.asked() == ["abort backend"]
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("client_reset", "CC", "reset", "none", "client")


def test_a_peers_answer_to_our_close_changes_no_reason(stage: Stage) -> None:
    stage.relay.end("operator")
    stage.relay.eof(stage.client)
    stage.relay.broken(stage.client, "reset", "ECONNRESET")
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("operator", "KD", "none", "none", "operator")
    assert stage.record.detail == ""


# -- ended by us


def test_a_loop_ends_from_where_it_was_found(stage: Stage) -> None:
    """Its connections have their reason, and each is closed as soon as the next one is."""
    stage.record.end("error", stage.clock.seconds(), "a loop of services")
    stage.relay.eof(stage.backend)
    assert stage.asked() == ["close client", "close backend"]
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("error", "ID", "none", "none", "monconn")


def test_an_orderly_end_closes_both(stage: Stage) -> None:
    stage.relay.end("operator")
    assert stage.asked() == ["close client", "close backend"]
    assert stage.summary() == ("operator", "KD", "none", "none", "operator")
    assert stage.record.state == "closing"


def test_an_end_by_reset_aborts_both(stage: Stage) -> None:
    stage.relay.end("operator", reset=True)
    assert stage.asked() == ["abort client", "abort backend"]
    assert stage.record.reason == "operator"


def test_an_end_while_connecting() -> None:
    stage = Stage()
    stage.relay.connected(stage.client)
    stage.asked()
    stage.relay.end("stopping")
    assert stage.asked() == ["close client", "abort backend"]
    assert stage.summary()[:2] == ("stopping", "KC")


def test_the_second_reason_does_not_count(stage: Stage) -> None:
    stage.relay.end("blocked")
    stage.asked()
    stage.relay.end("stopping")
    assert stage.asked() == []
    assert stage.record.reason == "blocked"
    stage.relay.end("operator", reset=True)
    assert stage.asked() == ["abort client", "abort backend"]
    assert stage.record.reason == "blocked"


def test_after_the_grace_time_what_is_left_is_aborted(stage: Stage) -> None:
    stage.relay.end("operator")
    stage.asked()
    stage.pass_seconds(GRACE_SECONDS - STEP_SECONDS)
    assert stage.asked() == []
    stage.pass_seconds(STEP_SECONDS + LATE_SECONDS)
    assert stage.asked() == ["abort client", "abort backend"]
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    assert stage.record.reason == "operator"


def test_an_end_after_all_is_over_changes_nothing(stage: Stage) -> None:
    close_in_order(stage)
    stage.asked()
    stage.relay.end("operator")
    stage.relay.end("stopping", reset=True)
    assert stage.asked() == []
    assert (stage.record.reason, stage.record.state) == ("client_closed", "closed")


def test_a_reset_has_the_grace_time_to_be_passed_on(stage: Stage) -> None:
    stage.relay.broken(stage.backend, "reset", "")
    assert stage.asked() == ["reset client"]
    stage.pass_seconds(GRACE_SECONDS - STEP_SECONDS)
    assert stage.asked() == []
    stage.pass_seconds(STEP_SECONDS + LATE_SECONDS)
    assert "abort client" in stage.asked()


def test_a_side_that_closes_in_time_is_not_aborted(stage: Stage) -> None:
    stage.relay.end("operator")
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    stage.asked()
    stage.pass_seconds(3 * GRACE_SECONDS)
    assert stage.asked() == []
    assert len(stage.deadlines) == 0


# -- time limits


def test_without_limits_nothing_ends(stage: Stage) -> None:
    stage.clock.advance(1e7)
    stage.relay.eof(stage.client)
    stage.clock.advance(1e7)
    assert stage.record.reason is None


def test_connect_timeout() -> None:
    stage = Stage(connect_timeout=5)
    stage.relay.connected(stage.client)
    stage.asked()
    assert stage.ends_in(5)
    assert stage.asked() == ["close client", "abort backend"]
    assert stage.summary() == ("connect_timeout", "sC", "none", "timeout", "monconn")


def test_connect_timeout_also_for_a_client_that_has_ended() -> None:
    stage = Stage(connect_timeout=5)
    stage.relay.connected(stage.client)
    stage.relay.eof(stage.client)
    assert stage.ends_in(5)
    assert stage.summary()[:2] == ("connect_timeout", "sC")


def test_connect_timeout_is_over_once_the_backend_is_connected() -> None:
    stage = Stage(connect_timeout=5).open()
    stage.pass_seconds(20)
    assert stage.record.reason is None


def test_idle_timeout_counts_from_the_opening() -> None:
    stage = Stage(max_idle=10)
    stage.relay.connected(stage.client)
    stage.pass_seconds(4)
    stage.relay.connected(stage.backend)
    stage.asked()
    assert stage.ends_in(6)
    assert stage.asked() == ["close client", "close backend"]
    assert stage.summary() == ("idle_timeout", "cD", "none", "none", "monconn")


@pytest.mark.parametrize("side", ["client", "backend"])
def test_bytes_either_way_restart_idle_timeout(side: str) -> None:
    stage = Stage(max_idle=10).open()
    for _ in range(3):
        stage.pass_seconds(8)
        stage.data(stage.end_of(side), b"x")
    assert stage.ends_in(10)
    assert stage.record.reason == "idle_timeout"


def test_read_timeout_depends_on_the_clients_bytes_only() -> None:
    stage = Stage(read_timeout=10).open()
    stage.pass_seconds(8)
    stage.data(stage.client, b"x")
    stage.pass_seconds(8)
    stage.data(stage.backend, b"y")
    stage.asked()
    assert stage.ends_in(2)
    assert stage.asked() == ["close client", "close backend"]
    assert stage.summary() == ("read_timeout", "cD", "timeout", "none", "monconn")


def test_read_timeout_counts_from_the_opening() -> None:
    stage = Stage(read_timeout=10).open()
    assert stage.ends_in(10)
    assert stage.record.reason == "read_timeout"


def test_no_read_timeout_while_the_client_is_held_back() -> None:
    stage = Stage(read_timeout=10).open()
    stage.relay.filled(stage.backend)
    stage.pass_seconds(60)
    assert stage.record.reason is None
    stage.relay.drained(stage.backend)
    stage.data(stage.backend, b"has nothing to do with it")
    assert stage.ends_in(10)
    assert stage.record.reason == "read_timeout"


def test_no_read_timeout_once_the_client_has_ended() -> None:
    stage = Stage(read_timeout=10).open()
    stage.relay.eof(stage.client)
    stage.pass_seconds(60)
    assert stage.record.reason is None


@pytest.mark.parametrize(("side", "letter"), [("client", "c"), ("backend", "s")])
def test_write_timeout(side: str, letter: str) -> None:
    stage = Stage(write_timeout=8).open()
    stage.end_of(side).held = 10
    stage.pass_seconds(8 - STEP_SECONDS)
    assert stage.record.reason is None
    stage.pass_seconds(8 / 4 + LATE_SECONDS * 4)
    assert stage.asked() == ["abort client", "abort backend"]
    assert stage.summary()[:2] == ("write_timeout", f"{letter}D")
    ends = {"client": stage.record.client_end, "backend": stage.record.backend_end}
    assert ends.pop(side) == "timeout"
    assert list(ends.values()) == ["none"]


def test_write_timeout_names_the_side_that_stalled_first() -> None:
    stage = Stage(write_timeout=8).open()
    stage.backend.held = 10
    stage.pass_seconds(5)
    stage.client.held = 10
    stage.pass_seconds(8)
    assert stage.summary() == ("write_timeout", "sD", "none", "timeout", "monconn")


def test_no_write_timeout_while_there_is_progress() -> None:
    stage = Stage(write_timeout=8).open()
    stage.client.held = 10
    for _ in range(40):
        stage.pass_seconds(1)
        stage.client.given += 1
    assert stage.record.reason is None


def test_no_write_timeout_once_the_bytes_are_delivered() -> None:
    stage = Stage(write_timeout=8).open()
    stage.client.held = 10
    stage.pass_seconds(6)
    stage.client.held, stage.client.given = 0, 10
    stage.pass_seconds(4)
    stage.client.held = 10
    stage.pass_seconds(8 - 2 - LATE_SECONDS)
    assert stage.record.reason is None


def test_no_half_close_timeout_while_the_other_side_reads_slowly() -> None:
    stage = Stage(half_close_timeout=10).open()
    stage.client.held = 100
    stage.relay.eof(stage.backend)
    for _ in range(40):
        stage.pass_seconds(1)
        stage.client.given += 1
    assert stage.record.reason is None
    stage.pass_seconds(10 + 10 / 4 + LATE_SECONDS * 4)
    assert stage.record.reason == "half_close_timeout"


@pytest.mark.parametrize(("side", "letter"), [("client", "s"), ("backend", "c")])
def test_half_close_timeout(side: str, letter: str) -> None:
    stage = Stage(half_close_timeout=10).open()
    stage.pass_seconds(30)
    stage.relay.eof(stage.end_of(side))
    stage.asked()
    assert stage.ends_in(10)
    assert stage.asked() == ["close client", "close backend"]
    assert stage.record.reason == "half_close_timeout"
    assert stage.record.code is not None
    assert stage.record.code[0] == letter


def test_bytes_restart_half_close_timeout() -> None:
    stage = Stage(half_close_timeout=10).open()
    stage.relay.eof(stage.client)
    for _ in range(3):
        stage.pass_seconds(8)
        stage.data(stage.backend, b"still here")
    assert stage.ends_in(10)
    assert stage.record.reason == "half_close_timeout"


def test_lifetime_does_not_depend_on_bytes() -> None:
    stage = Stage(max_lifetime=10).open()
    for _ in range(9):
        stage.pass_seconds(1)
        stage.data(stage.client, b"x")
        stage.data(stage.backend, b"y")
    stage.asked()
    assert stage.ends_in(1)
    assert stage.asked() == ["close client", "close backend"]
    assert stage.summary() == ("lifetime", "PD", "none", "none", "monconn")


def test_the_nearest_limit_counts() -> None:
    stage = Stage(max_lifetime=10, max_idle=5, read_timeout=7).open()
    assert stage.ends_in(5)
    assert stage.record.reason == "idle_timeout"


# -- who has vanished


@pytest.mark.parametrize("limit", [10, None])
def test_a_client_that_still_takes_its_bytes_is_not_half_closed(limit: float | None) -> None:
    stage = Stage(half_close_timeout=limit, write_timeout=600).open()
    stage.client.held = 2_000
    stage.relay.eof(stage.backend)
    while stage.client.held:
        stage.client.held -= 10
        stage.client.given += 10
        stage.pass_seconds(1)
        assert stage.record.reason is None
    stage.pass_seconds(0.7 * (limit or BACKEND_ENDED_SECONDS))  # since then, as far as is known
    assert stage.record.reason is None


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("max_idle", "idle_timeout"),
        ("read_timeout", "read_timeout"),
        ("write_timeout", "write_timeout"),
        ("half_close_timeout", "half_close_timeout"),
        ("max_lifetime", "lifetime"),
    ],
)
def test_a_limit_asks_whether_a_side_has_vanished(side: str, limit: str, reason: str) -> None:
    stage = Stage(**{limit: 10}).open()
    if limit == "half_close_timeout":
        stage.relay.eof(stage.end_of(OTHER[side]))
    stage.end_of(side).held = 5
    stage.end_of(side).tcp = unanswered_for(4)
    stage.asked()
    stage.pass_seconds(16)
    assert stage.asked()[:2] == [f"reset {OTHER[side]}", f"abort {side}"]
    assert stage.record.reason == f"{side}_lost"
    assert getattr(stage.record, f"{side}_end") == "timeout"
    assert stage.record.detail == reason
    ended = limit == "half_close_timeout"
    assert stage.record.closed_by == (OTHER[side] if ended else side)


def test_a_side_that_has_hardly_had_time_to_answer_is_not_lost() -> None:
    stage = Stage(max_idle=10).open()
    stage.client.tcp = unanswered_for(2.5)
    assert stage.ends_in(10)
    assert stage.record.reason == "idle_timeout"


@pytest.mark.parametrize("side", SIDES)
def test_a_reset_because_the_other_side_has_vanished(side: str) -> None:
    stage = Stage().open()
    stage.end_of(OTHER[side]).tcp = unanswered_for(4)
    stage.relay.broken(stage.end_of(side), "reset", "ECONNRESET")
    assert stage.asked() == [f"reset {OTHER[side]}"]
    assert stage.record.reason == f"{OTHER[side]}_lost"
    assert getattr(stage.record, f"{side}_end") == "reset"
    assert stage.record.closed_by == side


@pytest.mark.parametrize("side", SIDES)
def test_a_side_is_unreachable_for_no_longer_than_it_may(side: str) -> None:
    stage = Stage(unreachable_timeout=8).open()
    stage.pass_seconds(20)
    assert stage.record.reason is None
    began = stage.clock.seconds()
    while stage.record.reason is None:
        stage.end_of(side).tcp = unanswered_for(stage.clock.seconds() - began + 0.01)
        stage.pass_seconds(STEP_SECONDS)
    assert 8 <= stage.clock.seconds() - began < 8 + 1 + LATE_SECONDS
    assert stage.record.reason == f"{side}_lost"
    assert stage.record.detail == "unreachable_timeout"


def test_one_side_may_be_unreachable_and_the_other_not() -> None:
    stage = Stage().open()
    stage.monitor.apply(stage.monitor.policy.changed(unreachable_timeout=Sides(0.0, 5.0)))
    stage.client.tcp = unanswered_for(90)
    stage.pass_seconds(30)
    assert stage.record.reason is None
    stage.backend.tcp = unanswered_for(90)
    stage.pass_seconds(3)
    assert stage.record.reason == "backend_lost"


def test_what_a_client_sent_before_its_end_outlives_it() -> None:
    """The backend takes it at its own pace, whenever it was found that the client has vanished."""
    stage = Stage(unreachable_timeout=5).open()
    stage.relay.eof(stage.client)
    stage.backend.held = 100
    stage.client.tcp = unanswered_for(6)
    stage.asked()
    while not stage.calls:
        stage.pass_seconds(STEP_SECONDS)
    assert stage.asked() == ["reset backend", "abort client"]
    stage.relay.gone(stage.client)
    stage.client.tcp = None
    stage.pass_seconds(60)
    assert stage.asked() == []
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("client_lost", "CD", "timeout", "none", "client")
    assert stage.record.detail == "unreachable_timeout"


# -- a client that does not follow its backend's end


def test_a_client_that_does_not_end_once_its_backend_has() -> None:
    stage = Stage(half_close_timeout=None).open()
    stage.pass_seconds(30)
    stage.relay.eof(stage.backend)
    stage.client.tcp = unanswered_for(0)
    stage.asked()
    assert stage.ends_in(BACKEND_ENDED_SECONDS)
    assert stage.asked() == ["close client", "close backend"]
    assert stage.summary() == ("half_close_timeout", "cL", "none", "fin", "monconn")


def test_a_client_that_has_ended_may_wait_for_its_answer() -> None:
    stage = Stage(half_close_timeout=None).open()
    stage.relay.eof(stage.client)
    stage.pass_seconds(10 * BACKEND_ENDED_SECONDS)
    assert stage.record.reason is None


def test_a_client_that_reads_slowly_is_not_one_that_does_not_end() -> None:
    stage = Stage(half_close_timeout=None, write_timeout=200).open()
    stage.client.held = 10
    stage.client.tcp = unanswered_for(0)  # its kernel answers window probes
    stage.relay.eof(stage.backend)
    stage.pass_seconds(2 * BACKEND_ENDED_SECONDS)
    assert stage.record.reason is None
    stage.pass_seconds(200)
    assert stage.summary() == ("write_timeout", "cL", "timeout", "fin", "monconn")


def test_most_connections_whose_backend_ends_first_need_no_other_check() -> None:
    """To schedule one anew would cost each of them 5 µs."""
    stage = Stage(half_close_timeout=None).open()
    first = stage.relay.bucket
    stage.pass_seconds(1)
    stage.relay.eof(stage.backend)
    stage.relay.eof(stage.client)
    assert stage.relay.bucket == first is not None


def test_an_old_connection_whose_backend_has_ended_is_checked_in_time() -> None:
    stage = Stage(half_close_timeout=None, write_timeout=800).open()
    stage.pass_seconds(40)
    stage.relay.eof(stage.backend)
    assert stage.ends_in(BACKEND_ENDED_SECONDS)
    assert stage.record.reason == "half_close_timeout"


def test_a_client_that_vanished_before_its_backend_ended() -> None:
    stage = Stage(half_close_timeout=None).open()
    stage.relay.eof(stage.backend)
    began = stage.clock.seconds()
    stage.client.held = 1  # our FIN
    while stage.record.reason is None:
        stage.client.tcp = unanswered_for(stage.clock.seconds() - began + 0.01)
        stage.pass_seconds(STEP_SECONDS)
    took = stage.clock.seconds() - began
    assert BACKEND_ENDED_SECONDS <= took < BACKEND_ENDED_SECONDS + 1 + LATE_SECONDS
    assert stage.summary() == ("client_lost", "CL", "timeout", "fin", "backend")


# -- a side that had ended in order, and fails after that


def test_a_client_that_resets_after_its_end(stage: Stage) -> None:
    stage.relay.eof(stage.client)
    stage.asked()
    stage.relay.broken(stage.client, "reset", "EPIPE")
    assert stage.asked() == ["reset backend"]
    stage.pass_seconds(3 * GRACE_SECONDS)
    assert stage.asked() == []  # the backend gets the rest at its own pace
    stage.relay.gone(stage.backend)
    assert stage.summary() == ("client_closed", "--", "fin", "none", "client")


def test_a_backend_that_resets_after_its_end(stage: Stage) -> None:
    stage.relay.eof(stage.backend)
    stage.asked()
    stage.relay.broken(stage.backend, "reset", "EPIPE")
    assert stage.asked() == ["close client"]
    stage.pass_seconds(3 * GRACE_SECONDS)
    assert stage.asked() == []
    stage.relay.eof(stage.client)
    stage.relay.gone(stage.client)
    assert stage.summary() == ("backend_closed", "--", "fin", "fin", "backend")


@pytest.mark.parametrize("side", SIDES)
def test_a_side_that_vanishes_after_its_end(stage: Stage, side: str) -> None:
    stage.relay.eof(stage.end_of(side))
    stage.relay.broken(stage.end_of(side), "timeout", "ETIMEDOUT")
    assert stage.record.reason is None, "what it sent is still to be delivered"
    stage.relay.gone(stage.end_of(OTHER[side]))
    assert stage.record.reason == f"{side}_lost"
    assert (stage.record.closed_by, stage.record.detail) == (side, "ETIMEDOUT")


def test_a_limit_of_the_side_that_is_left_does_not_hide_that_the_other_has_vanished() -> None:
    stage = Stage(half_close_timeout=20).open()
    stage.relay.eof(stage.backend)
    stage.relay.broken(stage.backend, "timeout", "EHOSTUNREACH")
    assert stage.record.reason is None
    assert stage.ends_in(20)
    assert stage.summary() == ("backend_lost", "SD", "none", "timeout", "backend")
    assert stage.record.detail == "EHOSTUNREACH"


# -- whatever the order


class ClosesCounted(Observer):
    def __init__(self) -> None:
        self.opened_count = 0
        self.closed_count = 0

    def opened(self, record: ConnectionRecord) -> None:
        self.opened_count += 1

    def closed(self, record: ConnectionRecord) -> None:
        self.closed_count += 1


class ActingEnd(FakeEnd):
    """An End that reports nothing impossible; if aborted unconnected, it is gone at once."""

    def __init__(self, side: Side, calls: list[str]) -> None:
        super().__init__(side, calls)
        self.is_connected = self.has_ended = self.is_leaving = self.is_gone = False

    def close(self) -> None:
        self.is_leaving = True
        self._go_if_undialled()

    def reset(self) -> None:
        self.close()

    def abort(self) -> None:
        self._calls.append(f"abort {self.side}")
        self.close()

    def _go_if_undialled(self) -> None:
        if not (self.is_connected or self.is_gone):
            self.go()

    def go(self) -> None:
        self.is_gone = True
        self.phase = "closed"
        self.reports.gone(self)


class Course:
    """Plays the reports of two Ends in any possible order, and checks invariants."""

    def __init__(self) -> None:
        self.stage = stage = Stage(max_idle=60, half_close_timeout=30, write_timeout=40)
        self.ends = [ActingEnd(side, stage.calls) for side in SIDES]
        self.client, self.backend = self.ends
        self.relay = Relay(stage.monitor, stage.record, self.client, self.backend, stage.deadlines)
        self.observer = ClosesCounted()
        stage.monitor.add_observer(self.observer)
        self.client.is_connected = True
        self.relay.connected(self.client)
        self.sent = {"client": 0, "backend": 0}
        self.reason: str | None = None

    def play(self, step: str, end: ActingEnd) -> None:
        if not end.is_gone:
            getattr(self, f"_{step}")(end)
        self.check()

    def _connected(self, end: ActingEnd) -> None:
        if not end.is_connected:
            end.is_connected = True
            self.relay.connected(end)

    def _connect_failed(self, end: ActingEnd) -> None:
        if not end.is_connected:
            end.is_gone = True
            self.relay.connect_failed(end, "backend_refused", "")

    def _data(self, end: ActingEnd) -> None:
        if end.is_connected and not (end.has_ended or end.is_leaving):
            self.sent[end.side] += 3
            self.relay.data(end, b"abc", self.stage.clock.seconds())

    def _filled(self, end: ActingEnd) -> None:
        self.relay.filled(end)

    def _drained(self, end: ActingEnd) -> None:
        self.relay.drained(end)

    def _stalls(self, end: ActingEnd) -> None:
        end.held = 100

    def _eof(self, end: ActingEnd) -> None:
        if end.is_connected and not (end.has_ended or end.is_leaving):
            end.has_ended = True
            self.relay.eof(end)

    def _gone(self, end: ActingEnd) -> None:
        if end.is_connected and (end.has_ended or end.is_leaving):
            end.go()

    def _broken(self, end: ActingEnd) -> None:
        if end.is_connected:
            end.is_gone = True
            self.relay.broken(end, "reset", "")

    def _end(self, end: ActingEnd) -> None:
        if len(self.stage.monitor):
            self.relay.end("operator")

    def _end_hard(self, end: ActingEnd) -> None:
        if len(self.stage.monitor):
            self.relay.end("stopping", reset=True)

    def _time(self, end: ActingEnd) -> None:
        self.stage.clock.advance(7)

    def check(self) -> None:
        stage, record = self.stage, self.stage.record
        is_over = all(end.is_gone for end in self.ends)
        assert self.observer.opened_count == 1
        assert self.observer.closed_count == len(stage.monitor.closed_records) == int(is_over)
        assert len(stage.monitor) == int(not is_over)
        assert (record.state == "closed") == is_over
        assert (record.up, record.down) == (self.sent["client"], self.sent["backend"])
        assert stage.monitor.bytes() == (record.up, record.down)
        assert self.reason in (None, record.reason)
        self.reason = record.reason
        if is_over:
            assert record.reason is not None
            assert len(stage.deadlines) == 0
        elif record.reason is None:
            assert len(stage.deadlines) == 1  # for its time limits

    def finish(self) -> None:
        """Once there is a reason, every open side is closed or aborted within the grace time."""
        self.relay.end("lifetime")
        self.check()
        self.stage.clock.advance(GRACE_SECONDS + LATE_SECONDS)
        left = [end for end in self.ends if not end.is_gone]
        assert {f"abort {end.side}" for end in left} <= set(self.stage.calls)
        for end in left:
            end.go()
            self.check()
        assert self.observer.closed_count == 1


STEPS = [
    "connected",
    "connect_failed",
    "data",
    "filled",
    "drained",
    "stalls",
    "eof",
    "gone",
    "broken",
    "end",
    "end_hard",
    "time",
]


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 1])), max_size=30))
def test_closes_exactly_once_whatever_the_order(steps: list[tuple[str, int]]) -> None:
    course = Course()
    for step, number in steps:
        course.play(step, course.ends[number])
    course.finish()


# -- limits that change


@pytest.mark.parametrize("before", [{}, {"max_idle": 10_000}], ids=["off", "longer"])
def test_a_limit_that_is_switched_on_or_shortened_applies(before: dict[str, float]) -> None:
    stage = Stage(**before).open()
    stage.pass_seconds(100)
    stage.monitor.timeouts = Timeouts(**{**ALL_OFF, "max_idle": 105})
    stage.relay.policy_changed()
    assert stage.ends_in(5)
    assert stage.record.reason == "idle_timeout"


def test_a_limit_that_has_passed_already_applies_at_once() -> None:
    stage = Stage().open()
    stage.pass_seconds(100)
    stage.monitor.timeouts = Timeouts(**{**ALL_OFF, "max_idle": 10})
    stage.relay.policy_changed()
    stage.pass_seconds(LATE_SECONDS)
    assert stage.record.reason == "idle_timeout"


def test_a_limit_that_is_switched_off_no_longer_applies() -> None:
    stage = Stage(max_idle=10).open()
    stage.monitor.timeouts = Timeouts(**ALL_OFF)
    stage.relay.policy_changed()
    stage.pass_seconds(50)
    assert stage.record.reason is None
    assert len(stage.deadlines) == 0


def test_a_change_while_it_ends_or_afterwards_changes_nothing() -> None:
    stage = Stage().open()
    stage.relay.end("operator")
    stage.relay.policy_changed()
    stage.asked()
    stage.pass_seconds(GRACE_SECONDS + LATE_SECONDS)
    assert stage.asked() == ["abort client", "abort backend"]
    stage.relay.gone(stage.client)
    stage.relay.gone(stage.backend)
    stage.relay.policy_changed()
    assert len(stage.deadlines) == 0


# -- keepalive


def test_keepalive_is_set_at_the_first_check_and_not_before() -> None:
    stage = Stage()
    backend = Keepalive(idle=7, interval=1, count=2)
    stage.monitor.policy = Policy.of(keepalive=Sides(False, backend))
    stage.open()
    assert (stage.client.keepalive, stage.backend.keepalive) == ("unset", "unset")
    stage.pass_seconds(7 + LATE_SECONDS)
    assert (stage.client.keepalive, stage.backend.keepalive) == (None, backend)


def test_keepalive_is_set_in_time_whatever_else_is_to_be_checked() -> None:
    stage = Stage(read_timeout=900)
    stage.monitor.policy = stage.monitor.policy.changed(keepalive=Keepalive(idle=5))
    stage.open()
    stage.pass_seconds(5 + LATE_SECONDS)
    assert stage.client.keepalive == stage.backend.keepalive == Keepalive(idle=5)


def test_a_changed_keepalive_applies_to_live_connections(stage: Stage) -> None:
    changed = Keepalive(idle=10)
    stage.monitor.apply(stage.monitor.policy.changed(keepalive=Sides(changed, False)))
    assert (stage.client.keepalive, stage.backend.keepalive) == (changed, None)
