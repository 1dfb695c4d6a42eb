"""The first and the last bytes of connections, within a bounded amount of memory."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface import implementer

from monconn.addresses import parse_network
from monconn.errors import SettingError
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IRecordable, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.recorder import (
    RECORDING_OVERHEAD,
    TIDIED_AT_ONCE,
    Arena,
    Recorder,
    Recording,
)
from monconn.monitor.registry import Registry
from monconn.monitor.tracks import CHUNK_OVERHEAD, MOST_CHUNKS, Track
from monconn.ops.forget import concerning
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from tests.properties import examples

STREAM = random.Random(1).randbytes(1 << 20)


# -- one direction


def recorded(track: Track) -> dict[int, bytes]:
    """What a track has: its pieces without gaps, by offset."""
    pieces: dict[int, bytes] = {}
    end = -1
    for _, offset, data in track.chunks():
        if offset == end:
            start = max(pieces)
            pieces[start] += data
        else:
            assert offset > end, "it goes back"
            pieces[offset] = data
        end = offset + len(data)
    return pieces


def wanted(count: int, first: int, last: int) -> dict[int, bytes]:
    """What there is to be of so many bytes of the stream."""
    if count <= first + last:
        return {0: STREAM[:count]} if count else {}
    pieces = {0: STREAM[:first], count - last: STREAM[count - last : count]}
    return {offset: data for offset, data in pieces.items() if data}


sizes = st.integers(1, 3) | st.integers(1, 300) | st.integers(1, 20_000)


@settings(max_examples=examples(100), deadline=None)
@given(
    first=st.sampled_from([0, 1, 100, 2048]),
    last=st.sampled_from([0, 1, 100, 8192]),
    runs=st.lists(st.tuples(sizes, st.integers(1, 150)), max_size=5),
    spliced=st.lists(st.tuples(st.integers(1, 5), st.integers(40_000, 100_000)), max_size=2),
)
def test_a_track_has_the_first_and_the_last_bytes(
    first: int, last: int, runs: list[tuple[int, int]], spliced: list[tuple[int, int]]
) -> None:
    arena = Arena()
    track = Track(RecorderSettings(first=first, last=last), arena.charge)
    chunks = [(size, False) for size, count in runs for _ in range(count)]
    if spliced:
        # Nothing is spliced before a big chunk was copied.
        chunks += [(1 << 16, False), *((size, True) for n, size in spliced for _ in range(n))]
        chunks += [(size, False) for size, _ in runs]
    at, now = 0, 0.0
    for size, is_spliced in chunks:
        if at + size > len(STREAM):
            break
        data = STREAM[at : at + size]
        at, now = at + size, now + 1.0
        if not is_spliced:
            track.add(memoryview(data), now)
        elif (tail := track.tail_of(size, now)) is not None:
            tail.record(data[-tail.count :])
        held = list(track.chunks())
        assert len(held) <= 2 * MOST_CHUNKS
        assert track.size == arena.used
        assert sum(len(data) + CHUNK_OVERHEAD for _, _, data in held) <= track.size
        assert track.size <= first + 2 * last + 2 * MOST_CHUNKS * CHUNK_OVERHEAD
    assert track.count == at
    assert recorded(track) == wanted(at, first, last)
    times = [time for time, _, _ in track.chunks()]
    assert times == sorted(times)


def test_single_bytes_are_joined_and_the_latest_keep_their_times() -> None:
    track = Track(RecorderSettings(), Arena().charge)
    for number in range(50_000):
        track.add(STREAM[number : number + 1], float(number))
    last = [chunk for chunk in track.chunks() if chunk[1] >= 2048]
    assert recorded(track) == wanted(50_000, 2048, 8192)
    assert len(last) <= MOST_CHUNKS
    latest = last[-MOST_CHUNKS // 4 :]
    assert [(time, offset) for time, offset, _ in latest] == [
        (float(number), number) for number in range(50_000 - len(latest), 50_000)
    ]
    for time, offset, _ in last[1:]:  # the first of them may be cut
        assert time == offset, "the time of its first byte"


# -- one service


@implementer(IConnection, IRecordable)
class Connection:
    """A connection without sockets."""

    def __init__(self, record: ConnectionRecord) -> None:
        self.record = record
        self.recording: Recording | None = None

    def record_payload(self, recording: Recording) -> None:
        self.recording = recording

    def end(self, reason: Reason, reset: bool = False) -> None: ...

    def measure(self) -> None: ...

    def policy_changed(self) -> None: ...


class World:
    """A monitor with a recorder, on a fake clock.

    :param limit: of the arena.
    :param recorder: what is recorded.
    """

    def __init__(self, limit: int = 1 << 20, **recorder: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        policy = Policy.of(recorder=RecorderSettings(**recorder))
        self.monitor = Monitor("web", policy=policy, clock=self.clock)
        self.arena = Arena(limit)
        self.monitor.recorder = self.recorder = Recorder(self.clock, self.arena)
        self.recorder.configure(policy.recorder)

    def open(self, client: str = "10.0.0.1") -> Connection:
        record = self.monitor.admit(f"{client}:5", client)
        assert record is not None
        connection = Connection(record)
        self.monitor.opened(connection)
        return connection

    def close(self, connection: Connection, reason: Reason = "client_closed") -> int:
        connection.record.end(reason, self.clock.seconds())
        self.monitor.closed(connection)
        return connection.record.id

    def send(self, connection: Connection, data: bytes) -> None:
        connection.record.count("up", len(data), self.clock.seconds())
        assert connection.recording is not None
        connection.recording.up.add(data, self.clock.seconds())

    def there(self, *ids: int) -> list[int]:
        """Which of these have a recording."""
        return [each for each in ids if self.recorder.events(each) is not None]


def result(steps: Generator[None, None, int]) -> int:
    """What steps return that are all done at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return int(done.value)


def kinds(events: Sequence[FlowEvent]) -> list[str]:
    return [event.kind for event in events]


def test_a_recording_is_a_flow_of_events() -> None:
    world = World(first=4, last=4)
    connection = world.open()
    record = connection.record
    record.facts["mqtt_client_id"] = "pump-7"
    recording = connection.recording
    assert recording is not None
    for direction, data in (("up", b"CONNECT..."), ("down", b"ACK"), ("up", b"bye!")):
        world.clock.advance(1)
        record.count(direction, len(data), world.clock.seconds())  # type: ignore[arg-type]
        getattr(recording, direction).add(data, world.clock.seconds())
    live = world.recorder.events(record.id)
    assert live is not None
    world.clock.advance(1)
    record.note_end("client", "fin")
    record.half_closed = world.clock.seconds()
    world.clock.advance(1)
    record.note_end("backend", "reset")
    world.close(connection, "backend_reset")
    at = record.opened_at
    facts = {"mqtt_client_id": "pump-7"}
    began = Began(
        record.id, at, at, record.uid, "web", "10.0.0.1:5", None, "", up=0, down=0, facts=facts
    )
    of_bytes: list[FlowEvent] = [
        began,
        Data(record.id, at + 1, "up", 0, b"CONN"),
        Data(record.id, at + 2, "down", 0, b"ACK"),
        Data(record.id, at + 3, "up", 10, b"bye!"),
    ]
    assert rounded(live) == rounded([*of_bytes, Ended(record.id, at + 3, 14, 3, None, "", facts)])
    closed = world.recorder.events(record.id)
    assert closed is not None
    assert rounded(closed) == rounded(
        [
            *of_bytes,
            SideEnded(record.id, at + 4, "client", "fin", 14),
            SideEnded(record.id, at + 5, "backend", "reset", 3),
            Ended(record.id, at + 5, 14, 3, "backend_reset", "", facts),
        ]
    )


def test_bytes_come_in_their_order_whatever_their_times() -> None:
    world = World(first=4, last=4)
    connection = world.open()
    recording = connection.recording
    assert recording is not None
    now = world.clock.seconds()
    for data, at in ((b"first", now + 0.002), (b"second", now), (b"third", now - 0.001)):
        connection.record.count("up", len(data), at)
        recording.up.add(data, at)
    world.clock.advance(1)
    world.close(connection)
    events = world.recorder.events(connection.record.id)
    assert events is not None
    pieces = [(event.offset, event.data) for event in events if isinstance(event, Data)]
    assert pieces == [(0, b"firs"), (12, b"hird")]
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_an_end_has_its_own_time_whoever_asks_and_when() -> None:
    world = World()
    connection = world.open()
    world.clock.advance(1)
    connection.record.note_end("client", "fin")  # of a wrapped protocol without a half-close
    world.close(connection, "client_closed")
    world.clock.advance(10)
    events = world.recorder.events(connection.record.id)
    assert events is not None
    *_, side_ended, last = rounded(events)
    assert isinstance(side_ended, SideEnded)
    assert side_ended.at == last.at == round(connection.record.opened_at + 1, 3)


def rounded(events: Sequence[FlowEvent]) -> list[FlowEvent]:
    return [attrs.evolve(event, at=round(event.at, 3)) for event in events]


def test_a_recording_is_complete_when_observers_learn_of_the_end() -> None:
    world = World()
    seen: list[list[str]] = []

    class Captures(Observer):
        def closed(self, record: ConnectionRecord) -> None:
            events = world.monitor.recorder.events(record.id)
            assert events is not None
            seen.append(kinds(events))
            assert isinstance(events[-1], Ended)
            assert events[-1].reason == record.reason

    world.monitor.add_observer(Captures())
    connection = world.open()
    world.send(connection, b"x")
    world.close(connection)
    assert seen == [["began", "data", "ended"]]


def test_without_a_recorder_there_is_none() -> None:
    monitor = Monitor("web", clock=Clock())
    record = monitor.admit("10.0.0.1:5", "10.0.0.1")
    assert record is not None
    connection = Connection(record)
    monitor.opened(connection)
    assert connection.recording is None
    assert monitor.recorder.events(record.id) is None
    assert "no recorder" in monitor.recorder.why_not(record.id)
    monitor.closed(connection)


def test_a_connection_that_opened_before_has_none() -> None:
    world = World()
    world.monitor.apply(Policy())
    connection = world.open()
    world.monitor.apply(Policy.of(recorder=True))
    assert "before its service had a recorder" in world.recorder.why_not(connection.record.id)
    assert world.recorder.events(world.close(connection)) is None


# -- what is dropped


def test_of_those_that_have_ended_abnormal_ones_are_kept_longest() -> None:
    world = World(keep=3)
    lost = world.close(world.open(), "client_lost")
    orderly = [world.close(world.open()) for _ in range(4)]
    assert world.there(lost, *orderly) == [lost, *orderly[2:]]
    more = [world.close(world.open(), "backend_reset") for _ in range(3)]
    assert world.there(lost, *orderly, *more) == more
    assert "keep:" in world.recorder.why_not(lost)
    assert len(world.recorder) == 3
    assert world.recorder.dropped["keep"] == 5
    assert world.arena.used == 3 * RECORDING_OVERHEAD


def test_each_is_kept_for_some_time_only_though_nothing_happens() -> None:
    world = World(keep_for=60)
    first = world.close(world.open(), "client_lost")
    live = world.open()
    world.clock.advance(30)
    second = world.close(world.open())
    world.clock.advance(29.9)
    assert world.there(first, second) == [first, second]
    world.clock.advance(0.1)
    assert world.there(first, second, live.record.id) == [second, live.record.id]
    assert "too old" in world.recorder.why_not(first)
    world.clock.advance(30)
    assert len(world.recorder) == 1
    assert len(world.clock.getDelayedCalls()) == 0, "nothing is left to wait for"
    assert world.arena.used == RECORDING_OVERHEAD


def test_when_there_is_no_room_those_in_good_order_go_first_and_live_ones_last() -> None:
    world = World(limit=5 * (RECORDING_OVERHEAD + CHUNK_OVERHEAD + 100))

    def opened() -> Connection:
        connection = world.open()
        world.send(connection, bytes(100))
        return connection

    first_live = opened()
    lost = world.close(opened(), "client_lost")
    orderly = [world.close(opened()) for _ in range(2)]
    lives = [first_live]
    fates = []
    for _ in range(6):
        lives.append(opened())
        fates.append(world.there(lost, *orderly))
        assert world.arena.used <= world.arena.limit
    assert fates[:3] == [[lost, *orderly], [lost, orderly[1]], [lost]]
    assert fates[3:] == [[]] * 3
    ids = [each.record.id for each in lives]
    assert world.there(*ids) == ids[2:], "the latest are recorded"
    assert "no room" in world.recorder.why_not(ids[0])
    assert (len(world.recorder), world.recorder.dropped["room"]) == (5, 5)
    stats = world.monitor.stats()
    assert (stats["recordings"], stats["recordings_dropped"]) == (5, 5)
    world.send(first_live, bytes(100))  # it goes on, unrecorded
    assert world.recorder.events(world.close(first_live)) is None


def test_a_connection_that_ends_while_the_recorder_is_off_leaves_nothing() -> None:
    world = World(keep_for=60)
    live = world.open()
    world.monitor.apply(Policy())
    world.close(live)
    world.monitor.apply(Policy.of(recorder=RecorderSettings(keep_for=60)))
    world.clock.advance(60)
    assert world.arena.used == 0


@settings(max_examples=examples(50), deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["open", "send", "send", "close", "wait"]), st.integers(0, 99)),
        max_size=60,
    )
)
def test_the_memory_is_bounded_and_counted(steps: list[tuple[str, int]]) -> None:
    world = World(limit=20_000, keep=4, keep_for=10, first=500, last=1000)
    lives: list[Connection] = []
    for what, number in steps:
        if what == "open":
            lives.append(world.open())
        elif what == "wait":
            world.clock.advance(number / 10)
        elif lives and what == "send":
            world.send(lives[number % len(lives)], bytes(30 * number + 1))
        elif lives:
            reason: Reason = "client_closed" if number % 2 else "client_lost"
            world.close(lives.pop(number % len(lives)), reason)
        assert 0 <= world.arena.used <= 20_000
        recordings = world.arena.shelves.all()
        assert world.arena.used == sum(each.size() for each in recordings)
        assert len(world.recorder) <= 4 + len(lives)


def test_the_recordings_of_a_client_can_be_forgotten() -> None:
    world = World()
    live = world.open("10.9.0.1")
    world.send(live, b"secret")
    closed = world.close(world.open("10.9.0.1"))
    other = world.close(world.open("10.8.0.1"))
    for dry_run in (True, False):
        network = parse_network("10.9.0.0/16")
        steps = world.recorder.forget_in_steps(concerning(network), dry_run=dry_run)
        assert result(steps) == 2
    assert world.there(live.record.id, closed, other) == [other]
    assert "forgotten" in world.recorder.why_not(closed)


def test_a_recorder_that_is_switched_off_drops_all_in_turns() -> None:
    world = World(keep=2 * TIDIED_AT_ONCE)
    live = world.open()
    ids = [world.close(world.open()) for _ in range(TIDIED_AT_ONCE + 10)]
    world.monitor.apply(Policy.of(payload="never"))
    assert world.there(live.record.id, *ids) == [], "at once, whatever is still to be freed"
    tidies = world.clock.getDelayedCalls()[0]
    tidies.func()  # type: ignore[attr-defined]
    assert world.arena.used == 11 * RECORDING_OVERHEAD
    world.clock.advance(0)
    assert world.arena.used == 0
    world.send(live, b"not recorded")
    assert world.arena.used == 0


def test_a_service_that_is_deleted_has_no_recordings() -> None:
    """Nobody could read them, nor have a client forgotten."""
    world = World()
    registry = Registry()
    registry.add(world.monitor)
    closed = world.close(world.open())
    registry.delete("web")
    world.clock.advance(0)
    assert world.arena.used == 0
    assert world.open().recording is None
    registry.add(world.monitor)
    assert world.there(closed) == []
    assert world.open().recording is not None


# -- its settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": "1MiB"}, "must be from 0 to 64KiB"),
        ({"last": True}, "must be a number of bytes"),
        ({"keep": 0}, "recorder: false"),
        ({"keep_for": 0}, "must be more than 0"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RecorderSettings(**given)


def test_nothing_is_recorded_where_payload_is_never() -> None:
    with pytest.raises(SettingError, match="payload: never forbids recordings"):
        Policy.of(payload="never", recorder=True)
    assert Policy.of(payload="never", recorder=False).recorder is None
