"""The JSON log: its lines, their content, and what happens to them on a failing disk."""

from __future__ import annotations

import enum
import errno
import io
import ipaddress
import json
import os
import resource
import signal
import stat
import syslog
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings, strategies
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from monconn import files
from monconn.config.sections import JsonLogConfig
from monconn.errors import FileError
from monconn.model.actions import OWN_CODE, Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Side
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import IConnection, IObserver
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks import jsonlog
from monconn.sinks.jsonlog import BATCH_SECONDS, SCHEMA, JsonLog, JsonLogService, Updates, encode
from monconn.sinks.outputs import FileSink, StdoutSink, SyslogSink, WriteFailed, sink_for
from tests.counting import calls_in_python
from tests.properties import examples

WAIT_SECONDS = 10.0
HAS_DEV_FULL = os.path.exists("/dev/full")


class MemorySink:
    """Stores what is written; may be made to block, or to fail."""

    place = "memory"

    def __init__(self) -> None:
        self.data = b""
        self.writes = 0
        self.reopened = 0
        self.is_closed = False
        self.is_full = False
        self.may_write = threading.Event()
        self.may_write.set()
        self.is_writing = threading.Event()

    def open(self) -> None:
        pass

    def reopen(self) -> None:
        self.reopened += 1

    def write(self, lines: bytes) -> None:
        self.is_writing.set()
        assert self.may_write.wait(WAIT_SECONDS)
        self.writes += 1
        if self.is_full and lines:
            raise WriteFailed(lines, OSError(errno.ENOSPC, "No space left on device"))
        self.data += lines

    def close(self) -> None:
        self.is_closed = True


@implementer(IConnection)
class Connection:
    """A connection without sockets."""

    def __init__(self, record: ConnectionRecord) -> None:
        self.record = record

    def end(self, reason: Any, reset: bool = False) -> None:
        self.record.end(reason, 0.0)

    def policy_changed(self) -> None:
        """There are no deadlines."""

    def measure(self) -> None:
        self.record.note_tcp("client", bytes(232), 0.0)


class FakeReactor:
    """Calls from other threads are queued until the test runs them."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()


@attrs.define
class Running:
    """A started service, with its registry, clock and reactor."""

    service: JsonLogService
    monitor: Monitor
    clock: Clock
    reactor: FakeReactor

    def open(self, client: str = "192.0.2.1:4711") -> Connection:
        record = self.monitor.admit(client, client.rpartition(":")[0] or client)
        assert record is not None
        connection = Connection(record)
        self.monitor.opened(connection)
        return connection

    def close(self, connection: Connection) -> None:
        connection.record.end("client_closed", self.clock.seconds())
        self.monitor.closed(connection)

    def open_and_close(self, client: str = "192.0.2.1:4711") -> None:
        self.close(self.open(client))


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[JsonLogService] = []

    def start(sink: Any = None, path: str = "unused", **config: Any) -> Running:
        clock, registry, reactor = Clock(), Registry(), FakeReactor()
        clock.advance(1000.0)
        monitor = registry.new("web", listen=":80", backend="10.0.0.5:80", clock=clock)
        service = JsonLogService(JsonLogConfig(path, **config), registry, reactor, clock, sink=sink)
        service.startService()
        started.append(service)
        return Running(service, monitor, clock, reactor)

    yield start
    for service in started:
        if service.running:
            service.stopService()


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines_of(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n") or not data

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        assert len(values) == len(pairs), "a name comes twice"
        return values

    return [json.loads(line, object_pairs_hook=once) for line in data.splitlines()]


def events_of(data: bytes) -> list[str]:
    return [line["event"] for line in lines_of(data)]


def texts(logged: Sequence[LogEvent]) -> list[str]:
    return [formatEvent(event) for event in logged]


def raises(error: int) -> Callable[..., int]:
    def fail(*args: object) -> int:
        raise OSError(error, os.strerror(error))

    return fail


# -- which lines


def test_a_closed_connection_is_a_line_with_the_keys_of_its_record(
    start: Start, sink: MemorySink
) -> None:
    running = start(sink)
    connection = running.open()
    running.clock.advance(2.5)
    connection.record.up = 77
    running.close(connection)
    running.service.stopService()

    (line,) = lines_of(sink.data)
    record = connection.record
    expected = {"schema": SCHEMA, "event": "closed", **record.snapshot(running.clock.seconds())}
    assert {key: line[key] for key in expected} == expected
    assert line.keys() - expected.keys() == {"at"}
    assert list(line)[:3] == ["schema", "event", "at"]
    assert line["duration_seconds"] == 2.5
    assert line["up"] == 77
    assert line["reason"] == "client_closed"
    assert sink.is_closed


def test_opened_comes_before_closed_with_the_values_of_that_time(
    start: Start, sink: MemorySink
) -> None:
    running = start(sink, at_open=True)
    connection = running.open()
    connection.record.state = "open"
    running.close(connection)
    running.service.stopService()

    opened, closed = lines_of(sink.data)
    assert (opened["event"], opened["state"]) == ("opened", "connecting")
    assert (closed["event"], closed["state"]) == ("closed", "closed")
    assert opened["id"] == closed["id"]
    assert "reason" not in opened


def test_an_opening_is_a_line_only_if_configured(start: Start, sink: MemorySink) -> None:
    running = start(sink, at_open=False)
    running.open()
    running.service.stopService()
    assert sink.data == b""


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_half_close_is_a_line_if_configured(start: Start, sink: MemorySink, side: Side) -> None:
    for at_half_close in (False, True):
        running = start(sink, at_half_close=at_half_close)
        connection = running.open()
        connection.record.note_end(side, "fin")
        connection.record.state = "half_closed"
        running.monitor.half_closed(connection.record, side)
        running.close(connection)
        running.service.stopService()
    without, half_closed, closed = lines_of(sink.data)
    assert (without["event"], closed["event"]) == ("closed", "closed")
    assert (half_closed["event"], half_closed["side"]) == ("half_closed", side)
    assert (half_closed["state"], half_closed[f"{side}_end"]) == ("half_closed", "fin")
    assert "reason" not in half_closed
    assert half_closed.keys() - closed.keys() == {"side"}


def test_a_refusal_is_a_line(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    running.monitor.block("192.0.2.0/24")
    assert running.monitor.admit("192.0.2.9:1", "192.0.2.9") is None
    running.service.stopService()
    action, line = lines_of(sink.data)
    assert (action["event"], action["action"], action["count"]) == ("action", "block", 0)
    assert action["text"] == "blocked 192.0.2.0/24 at web, ended 0 connections for own code"
    assert line["event"] == "refused"
    assert line["refusal"] == "blocked"
    assert line["code"] == "PR"


def test_what_rules_would_have_refused_is_told(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    running.monitor.rules.allow = [ipaddress.ip_network("10.0.0.0/8")]
    running.monitor.rules.dry_run = ["allow"]
    for client in ("10.0.0.1:1", "192.0.2.9:1"):
        running.open_and_close(client)
    running.service.stopService()
    first, second = lines_of(sink.data)
    assert "would_refuse" not in first
    assert second["would_refuse"] == ["not_allowed"]


def test_an_action_is_a_line(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    action = Action("close", OWN_CODE, 1_700_000_000.0, None, "client:192.0.2.0/24", 3)
    running.monitor.report(action)
    running.service.stopService()
    assert lines_of(sink.data) == [{"schema": SCHEMA, "event": "action", **action.to_dict()}]


def test_an_alarm_is_a_line(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    alarm = Alarm("silent", "web", "192.0.2.1", 1_700_000_000.0, False, "silent for 3m")
    running.monitor.alarm(alarm)
    running.service.stopService()
    assert lines_of(sink.data) == [{"schema": SCHEMA, "event": "alarm", **alarm.snapshot()}]


def test_services_that_come_later_are_logged_too(start: Start, sink: MemorySink) -> None:
    registry, clock = Registry(), Clock()
    service = JsonLogService(JsonLogConfig("x"), registry, FakeReactor(), clock, sink=sink)
    service.startService()
    running = Running(service, registry.new("late", clock=clock), clock, FakeReactor())
    running.open_and_close()
    service.stopService()
    assert [line["service"] for line in lines_of(sink.data)] == ["late"]


@pytest.mark.parametrize("client", ['we"ird\\', "line\nbreak\r\u2028", "nul\0\x1b[2J", "\udc80é😀"])
def test_odd_names_make_one_line_of_ascii(start: Start, sink: MemorySink, client: str) -> None:
    running = start(sink)
    running.open_and_close(client)
    running.service.stopService()
    assert sink.data.count(b"\n") == 1
    assert sink.data.isascii()
    (line,) = lines_of(sink.data)
    assert line["client"] == client


texts_or_numbers = strategies.one_of(
    strategies.text(),
    strategies.text(strategies.characters(categories=["Cs", "Cc", "Cf"])),
    strategies.integers(),
    strategies.floats(allow_nan=False, allow_infinity=False),
    strategies.booleans(),
    strategies.none(),
)


@settings(max_examples=examples(200), deadline=None)
@given(strategies.dictionaries(strategies.text(), texts_or_numbers))
@example({"half of a pair": "\udc80", "\ud800": 1})
@example({"right to left": "\u202e", "C1": "\x9b2J"})
@example({"DEL": "\x7f", "and more": "\x7f\u202e"})
@example({"beyond 64 bits": 1 << 64})
@example({"lone": "\ud83d", "whole": "😀", "also": 1e300, "small": 5e-324})
def test_a_line_means_what_the_standard_librarys_means(values: dict[str, Any]) -> None:
    line = encode(values)
    assert line.isascii()
    assert line[:-1].decode().isprintable()
    assert line.endswith(b"}\n")
    assert json.loads(line) == json.loads(json.dumps(values))


class Colour(str, enum.Enum):
    RED = "red"


class Weight(float):
    pass


@pytest.mark.parametrize("extra", [{}, {"é": "é"}], ids=["ASCII", "other"])
@pytest.mark.parametrize(
    ("value", "written"),
    [(Colour.RED, "red"), (Weight(1.5), 1.5), (True, True), (object, str(object))],
)
def test_values_of_other_types(value: Any, written: Any, extra: dict[str, str]) -> None:
    """Facts may be of a subclass of what a fact may be."""
    assert json.loads(encode({"fact": value, **extra})) == {"fact": written, **extra}


def test_a_line_that_cannot_be_encoded_costs_no_other(
    start: Start, sink: MemorySink, logged_failures: list[Failure]
) -> None:
    running = start(sink)
    for number in range(4):
        connection = running.open()
        if number in (1, 2):
            connection.record.opened_at = float("inf")  # no year has it
        running.close(connection)
    running.clock.advance(BATCH_SECONDS)
    wait_until(lambda: running.service.dropped == 2)
    running.open_and_close()
    running.service.stopService()
    assert events_of(sink.data) == ["closed", "closed", "dropped", "closed"]
    assert lines_of(sink.data)[2]["count"] == 2
    assert len(logged_failures) == 1  # only the first is logged
    logged_failures.clear()


def test_what_is_not_configured_is_not_observed(start: Start, sink: MemorySink) -> None:
    hooks = start(sink, every=0).monitor.observers.by_hook
    assert {hook for hook, observers in hooks.items() if observers} == {
        "closed",
        "refused",
        "alarmed",
        "acted",
    }


CALLS_PER_LINE = 13
"""In Python. A time is a call or two more, unless the last lines had the same."""


def test_calls_in_python_for_a_line() -> None:
    """The work for each connection cannot grow unnoticed, however fast the machine is."""
    record = ConnectionRecord(1, "web", "192.0.2.1:1", "192.0.2.1", ":80", "b:80", 0.0, 0.0)
    record.note_tcp("client", bytes(232), 1.0)
    record.note_tcp("backend", bytes(232), 1.0)
    record.end("client_closed", 1.0)
    record.closed, record.closed_at = 1.0, 1.0
    writer = jsonlog._Writer(MemorySink())
    writer._encoded([record])
    assert calls_in_python(lambda: writer._encoded([record] * 100)) <= 2 + 100 * CALLS_PER_LINE


def test_lines_are_written_soon_and_together(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    for _ in range(3):
        running.open_and_close()
    running.clock.advance(BATCH_SECONDS)
    wait_until(lambda: sink.data)
    assert events_of(sink.data) == ["closed"] * 3
    assert sink.writes == 1


def test_it_is_an_observer(sink: MemorySink) -> None:
    log = JsonLog(sink, Clock(), at_open=True)
    assert verifyObject(IObserver, log)
    assert verifyObject(IObserver, Updates(log, Registry(), Clock(), 60.0))


# -- updates


def advance(clock: Clock, seconds: float) -> None:
    """In small steps, as a reactor would."""
    clock.pump([0.25] * round(seconds * 4))


def test_a_live_connection_has_updates(start: Start, sink: MemorySink) -> None:
    running = start(sink, every=10.0)
    connection = running.open()
    advance(running.clock, 9.5)
    connection.record.up = 5
    advance(running.clock, 25.0)  # 34.5 s old
    running.close(connection)
    advance(running.clock, 30.0)
    running.service.stopService()

    *updates, closed = lines_of(sink.data)
    assert closed["event"] == "closed"
    assert [line["event"] for line in updates] == ["update"] * 3
    for line, age in zip(updates, [10.0, 20.0, 30.0], strict=True):
        assert age <= line["age_seconds"] <= age + 1.0
        assert line["up"] == 5
        assert "client_tcp" in line  # measured now, not when it was last queried


def test_updates_are_off_with_0(start: Start, sink: MemorySink) -> None:
    running = start(sink, every=0.0)
    running.open()
    advance(running.clock, 200.0)
    running.service.stopService()
    assert sink.data == b""
    assert not running.clock.getDelayedCalls()


def test_updates_of_a_service_that_was_deleted(start: Start, sink: MemorySink) -> None:
    clock, registry = Clock(), Registry()
    service = JsonLogService(JsonLogConfig("x"), registry, FakeReactor(), clock, sink=sink)
    service.startService()
    running = Running(service, registry.new("web", clock=clock), clock, FakeReactor())
    running.open()
    registry.delete("web")
    advance(clock, 61.0)
    service.stopService()
    assert events_of(sink.data) == ["update"]


def test_thousands_due_at_once_are_written_a_few_per_turn(
    start: Start, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(sink, every=60.0)
    in_a_turn: list[int] = []
    add = JsonLog.update

    def count(log: JsonLog, record: ConnectionRecord) -> None:
        in_a_turn[-1] += 1
        add(log, record)

    monkeypatch.setattr(JsonLog, "update", count)
    opened = [running.open().record.id for _ in range(5000)]
    advance(running.clock, 59.0)
    for _ in range(200):
        in_a_turn.append(0)
        running.clock.advance(jsonlog.TURN_SECONDS)
    assert max(in_a_turn) == jsonlog.UPDATES_A_TURN
    assert sum(in_a_turn) == 5000  # within two seconds
    running.service.stopService()
    assert [line["id"] for line in lines_of(sink.data)] == opened


def test_updates_missed_in_a_stall_are_skipped(start: Start, sink: MemorySink) -> None:
    running = start(sink, every=10.0)
    running.open()
    running.clock.advance(95.0)
    advance(running.clock, 5.0)
    running.service.stopService()
    assert events_of(sink.data) == ["update"]


def test_closed_connections_are_not_held(sink: MemorySink) -> None:
    updates = Updates(JsonLog(sink, Clock(), at_open=False), Registry(), Clock(), 60.0)
    record = ConnectionRecord(1, "web", "c", "c", "l", "b", 0.0, 0.0)
    updates.opened(record)
    assert len(updates._due) == 1
    updates.closed(record)
    updates.closed(record)
    assert len(updates._due) == 0


def test_no_timer_is_left_after_the_stop(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    running.open_and_close()
    running.service.stopService()
    assert not running.clock.getDelayedCalls()


# -- dropped lines


def test_a_disk_that_hangs_is_told_once_a_minute(
    start: Start, sink: MemorySink, monkeypatch: pytest.MonkeyPatch, logged: Sequence[LogEvent]
) -> None:
    monkeypatch.setattr(jsonlog, "QUEUED_LINES", 100)
    running = start(sink)
    sink.may_write.clear()
    for _ in range(100):
        running.open_and_close()
    assert sink.is_writing.wait(WAIT_SECONDS)
    for _ in range(400):  # an empty queue takes the first hundred
        running.open_and_close()
    line = f"json_log: {sink.place} does not take lines in time; dropped so far:"
    assert texts(logged) == [f"{line} 100"]
    running.clock.advance(jsonlog.DROPPED_LINE_SECONDS)
    for _ in range(200):
        running.open_and_close()
    assert texts(logged) == [f"{line} 100", f"{line} 400"]
    sink.may_write.set()


def test_lines_that_find_the_queue_full_are_dropped_and_reported(
    start: Start, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonlog, "QUEUED_LINES", 200)
    running = start(sink)
    sink.may_write.clear()
    for _ in range(100):
        running.open_and_close()
    assert sink.is_writing.wait(WAIT_SECONDS)  # holds the first hundred
    for _ in range(250):  # room for the next hundred
        running.open_and_close()
    running.clock.advance(BATCH_SECONDS)
    assert running.service.dropped == 150

    sink.may_write.set()
    wait_until(lambda: sink.data.count(b"\n") == 200)
    running.open_and_close()
    running.service.stopService()
    lines = lines_of(sink.data)
    assert [line["event"] for line in lines] == ["closed"] * 200 + ["dropped", "closed"]
    assert lines[200].items() >= {"schema": SCHEMA, "event": "dropped", "count": 150}.items()
    assert lines[200].keys() == {"schema", "event", "at", "count"}
    assert running.service.dropped == 150


def test_lines_dropped_last_are_reported_at_the_stop(
    start: Start, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonlog, "QUEUED_LINES", 250)
    running = start(sink)
    sink.may_write.clear()
    for _ in range(100):
        running.open_and_close()
    assert sink.is_writing.wait(WAIT_SECONDS)
    for count in (100, 50, 7):  # these fill the queue, but for the last
        for _ in range(count):
            running.open_and_close()
        running.clock.advance(BATCH_SECONDS)
    assert running.service.dropped == 7
    sink.may_write.set()
    running.service.stopService()
    assert lines_of(sink.data)[-1]["count"] == 7


def test_a_sink_that_blocks_delays_neither_events_nor_the_stop(
    start: Start, sink: MemorySink, logged: Sequence[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonlog, "FLUSH_SECONDS", 0.05)
    running = start(sink)
    sink.may_write.clear()
    running.open_and_close()
    running.service.stopService()
    assert texts(logged) == ["json_log: the last lines could not be written in time"]
    assert not sink.is_closed  # the thread may be using it
    sink.may_write.set()


def test_a_failing_sink_loses_lines_and_is_logged_once(
    start: Start, sink: MemorySink, logged: Sequence[LogEvent]
) -> None:
    running = start(sink)
    sink.is_full = True
    for number in (1, 2, 3):
        running.open_and_close()
        running.clock.advance(BATCH_SECONDS)
        wait_until(partial(lambda number: running.service.dropped == number, number))
    sink.is_full = False
    for _ in (1, 2):
        running.open_and_close()
        running.clock.advance(BATCH_SECONDS)
    running.service.stopService()

    assert events_of(sink.data) == ["dropped", "closed", "closed"]
    assert lines_of(sink.data)[0]["count"] == 3
    assert running.service.dropped == 3
    assert texts(logged) == [
        "json_log: cannot write to memory: no space left on device; lines are lost",
        "json_log: writing to memory again",
    ]


# -- the file


def test_the_file_is_created_and_appended_to(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    umask = os.umask(0)
    try:
        for _ in (1, 2):
            running = start(path=str(path))
            running.open_and_close()
            running.service.stopService()
    finally:
        os.umask(umask)
    assert events_of(path.read_bytes()) == ["closed"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_path_is_that_of_the_start(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    running = start(path="log.json")
    monkeypatch.chdir("/")
    (tmp_path / "log.json").unlink()
    running.clock.advance(1.0)
    running.open_and_close()
    running.service.stopService()
    assert events_of((tmp_path / "log.json").read_bytes()) == ["closed"]


@pytest.mark.parametrize("first_step", ["privilegedStartService", "startService"])
def test_a_file_that_cannot_be_opened_prevents_the_start(tmp_path: Path, first_step: str) -> None:
    path = tmp_path / "none" / "y.json"
    config = JsonLogConfig(str(path))
    service = JsonLogService(config, Registry(), FakeReactor(), Clock())
    with pytest.raises(FileError) as caught:
        getattr(service, first_step)()
    problem = f'there is no folder "{path.parent}", and monconn makes none'
    assert str(caught.value) == f"json_log: {path}: no such file or directory: {problem}"
    assert not service.running


def test_a_folder_or_a_pipe_without_reader_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "pipe", "no such device")):
        with pytest.raises(FileError, match=reason):
            FileSink(str(path), time.monotonic).open()


def test_a_pipe_that_is_full_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(str(tmp_path / "pipe"), time.monotonic)
    sink.open()
    lines = b"line\n" * 100_000  # more than a pipe holds

    def write() -> None:
        try:
            sink.write(lines)
        finally:
            sink.close()

    writer = threading.Thread(target=write, daemon=True)
    os.set_blocking(reader, True)
    writer.start()
    writer.join(0.1)
    assert writer.is_alive()
    read = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    writer.join(WAIT_SECONDS)
    assert read == lines


def test_a_service_that_was_never_started_creates_no_file(tmp_path: Path) -> None:
    config = JsonLogConfig(str(tmp_path / "log.json"))
    JsonLogService(config, Registry(), FakeReactor(), Clock()).stopService()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file_sink(path: Path, clock: Clock) -> Iterator[FileSink]:
    sink = FileSink(str(path), clock.seconds)
    sink.open()
    yield sink
    sink.close()


def test_a_renamed_file_is_replaced_by_a_new_one(
    file_sink: FileSink, path: Path, clock: Clock
) -> None:
    file_sink.write(b"1\n")
    old = path.rename(path.with_suffix(".1"))
    file_sink.write(b"2\n")  # its path is checked once a second
    clock.advance(1.0)
    file_sink.write(b"3\n")
    assert (old.read_bytes(), path.read_bytes()) == (b"1\n2\n", b"3\n")

    path.rename(path.with_suffix(".1"))
    path.write_bytes(b"made by logrotate\n")
    clock.advance(1.0)
    file_sink.write(b"4\n")
    assert path.read_bytes() == b"made by logrotate\n4\n"


def test_the_path_is_checked_at_most_once_a_second(
    file_sink: FileSink, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[float] = []
    has_same = os.path.samestat

    def check(*both: Any) -> bool:
        checks.append(clock.seconds())
        return has_same(*both)

    monkeypatch.setattr(os.path, "samestat", check)
    for _ in range(30):
        clock.advance(0.125)
        file_sink.write(b"\n")
    assert checks == [1.0, 2.0, 3.0]


def test_no_descriptor_is_left_open(file_sink: FileSink, path: Path, clock: Clock) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        path.unlink()
        clock.advance(1.0)
        file_sink.write(b"1\n")
    assert len(os.listdir("/dev/fd")) == before
    assert not os.get_inheritable(file_sink._fd)


def test_lines_are_not_lost_in_a_file_that_was_removed(
    file_sink: FileSink, path: Path, logged: Sequence[LogEvent]
) -> None:
    file_sink.write(b"1\n")
    path.unlink()
    file_sink.write(b"2\n")
    assert path.read_bytes() == b"2\n"
    assert texts(logged) == [
        f"json_log: {path} was moved, removed or replaced; writing to a new file there"
    ]


def test_a_file_that_cannot_be_made_anew_at_once_is_counted_when_it_can(
    file_sink: FileSink, path: Path, logged: Sequence[LogEvent]
) -> None:
    before = files.lost["json_log"]
    path.unlink()
    path.mkdir()
    for _ in range(2):
        with pytest.raises(WriteFailed, match="is a folder"):
            file_sink.write(b"1\n")
    path.rmdir()
    file_sink.write(b"2\n")
    file_sink.write(b"3\n")
    assert path.read_bytes() == b"2\n3\n"
    assert files.lost["json_log"] == before + 1
    assert len(texts(logged)) == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkdir, "is a folder"),
        (os.mkfifo, "nobody reads this named pipe (no such device or address)"),
        (lambda path: os.symlink("/proc/self/mem", path), "is a file of the kernel's"),
    ],
)
def test_what_takes_the_place_of_a_file_is_told_and_counted_once(
    file_sink: FileSink,
    path: Path,
    logged: Sequence[LogEvent],
    make: Callable[[Path], object],
    reason: str,
) -> None:
    lost_before = files.lost["json_log"]
    file_sink.write(b"1\n")
    path.unlink()
    make(path)
    for _ in range(3):
        with pytest.raises(WriteFailed) as caught:
            file_sink.write(b"2\n")
        assert str(caught.value) == reason
    path.rename(path.with_name("other"))
    file_sink.write(b"3\n")
    assert path.read_bytes() == b"3\n"
    assert files.lost["json_log"] == lost_before + 1
    assert texts(logged) == [
        f"json_log: {path} was moved, removed or replaced; writing to a new file there"
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/proc/self/mem", "it is a file of the kernel's"),
        ("a\0b", "a path has no NUL in it"),
        ("a\ud800", "it has a character that no path can have"),
    ],
)
def test_what_is_no_place_for_a_log(path: str, reason: str) -> None:
    with pytest.raises(FileError, match=reason) as caught:
        FileSink(path, time.monotonic).open()
    assert str(caught.value).isprintable()


def test_a_pipe_whose_reader_has_gone_loses_lines_until_there_is_one(
    start: Start, tmp_path: Path, logged: Sequence[LogEvent]
) -> None:
    os.mkfifo(tmp_path / "pipe")

    def open_reader() -> int:
        return os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    reader = open_reader()
    running = start(path=str(tmp_path / "pipe"))
    os.close(reader)
    running.open_and_close()
    running.clock.advance(BATCH_SECONDS)
    wait_until(lambda: running.service.dropped == 1)
    reader = open_reader()
    running.open_and_close()
    running.service.stopService()
    assert events_of(os.read(reader, 65536)) == ["dropped", "closed"]
    os.close(reader)
    assert texts(logged) == [
        f"json_log: cannot write to {tmp_path}/pipe: broken pipe; lines are lost",
        f"json_log: writing to {tmp_path}/pipe again",
    ]


def test_a_file_that_cannot_be_reopened_is_written_on(
    file_sink: FileSink, path: Path, clock: Clock, logged: Sequence[LogEvent]
) -> None:
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    for line in (b"1\n", b"2\n"):
        clock.advance(1.0)
        file_sink.write(line)
    assert old.read_bytes() == b"1\n2\n"
    assert texts(logged) == [
        f"json_log: cannot reopen {path}: is a folder; going on with the file that is open"
    ]
    path.rmdir()
    clock.advance(1.0)
    file_sink.write(b"3\n")
    assert path.read_bytes() == b"3\n"


def test_a_deleted_file_that_cannot_be_created_again_loses_lines(
    file_sink: FileSink, path: Path, clock: Clock
) -> None:
    path.unlink()
    path.mkdir()
    clock.advance(1.0)
    for _ in range(3):  # and later lines do not go into the deleted file
        with pytest.raises(WriteFailed, match="is a folder") as caught:
            file_sink.write(b"1\n")
        assert caught.value.rest == b"1\n"
        clock.advance(0.1)
    path.rmdir()
    file_sink.write(b"2\n")
    assert path.read_bytes() == b"2\n"


def test_reopen_creates_the_new_file_at_once(start: Start, path: Path) -> None:
    running = start(path=str(path))
    running.open_and_close()
    running.clock.advance(BATCH_SECONDS)
    wait_until(path.read_bytes)
    path.rename(path.with_suffix(".1"))
    running.service.reopen()
    wait_until(path.exists)
    running.open_and_close()
    running.service.stopService()
    assert events_of(path.read_bytes()) == ["closed"]


# -- a disk that is full


@pytest.mark.skipif(not HAS_DEV_FULL, reason="no /dev/full")
def test_a_full_disk(start: Start, logged: Sequence[LogEvent]) -> None:
    running = start(path="/dev/full")
    for _ in range(5):
        running.open_and_close()
    running.service.stopService()
    assert running.service.dropped == 5
    assert texts(logged) == [
        "json_log: cannot write to /dev/full: no space left on device; lines are lost"
    ]


def test_the_next_line_after_a_partial_one_starts_on_a_new_line(
    file_sink: FileSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    takes = iter([7, 0])

    def fill_up(fd: int, data: bytes) -> int:
        room = next(takes)
        return write(fd, data[:room]) if room else raises(errno.ENOSPC)()

    monkeypatch.setattr(os, "write", fill_up)
    with pytest.raises(WriteFailed) as caught:
        file_sink.write(b"first\nsecond\nthird\n")
    monkeypatch.setattr(os, "write", raises(errno.ENOSPC))
    with pytest.raises(WriteFailed):
        file_sink.write(b"fourth\n")
    monkeypatch.undo()
    file_sink.write(b"fifth\n")
    assert caught.value.rest.count(b"\n") == 2  # so many lines are lost
    assert path.read_bytes() == b"first\ns\nfifth\n"


def test_a_line_in_two_writes_is_one_line(
    file_sink: FileSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:4]))
    file_sink.write(b"first\nsecond\n")
    assert path.read_bytes() == b"first\nsecond\n"


def test_lines_are_complete_after_a_file_size_limit(
    start: Start, path: Path, logged: Sequence[LogEvent]
) -> None:
    running = start(path=str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        for _ in range(5):
            running.open_and_close()
        running.clock.advance(BATCH_SECONDS)
        wait_until(lambda: running.service.dropped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    running.open_and_close()
    running.service.stopService()

    lines = path.read_bytes().splitlines()
    assert len(path.read_bytes()) > 1500
    cut = [line for line in lines if not line.endswith(b"}")]
    assert len(cut) == 1
    whole = lines_of(b"".join(line + b"\n" for line in lines if line not in cut))
    assert [line["event"] for line in whole[-2:]] == ["dropped", "closed"]
    assert whole[-2]["count"] == running.service.dropped == 5 - (len(whole) - 2)
    assert [text.partition(": ")[2].split()[0] for text in texts(logged)] == ["cannot", "writing"]


def test_a_file_whose_last_line_has_no_newline(path: Path) -> None:
    path.write_bytes(b'{"schema":1,"ev')
    sink = FileSink(str(path), time.monotonic)
    sink.open()
    sink.write(b"1\n")
    sink.close()
    assert path.read_bytes() == b'{"schema":1,"ev\n1\n'


# -- SIGUSR1


def test_sigusr1_reopens_in_the_reactors_thread(start: Start, sink: MemorySink) -> None:
    running = start(sink)
    os.kill(os.getpid(), signal.SIGUSR1)
    wait_until(lambda: running.reactor.calls)
    assert sink.reopened == 0  # nothing is done in the handler itself
    running.reactor.run()
    assert sink.reopened == 1
    wait_until(lambda: sink.writes == 1)


def test_the_previous_handler_is_called_too_and_restored(start: Start, sink: MemorySink) -> None:
    signals: list[int] = []

    def earlier(number: int, frame: Any) -> None:
        signals.append(number)

    before = signal.signal(signal.SIGUSR1, earlier)
    try:
        running = start(sink)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: signals)
        assert signals == [signal.SIGUSR1]
        assert len(running.reactor.calls) == 1
        running.service.stopService()
        assert signal.getsignal(signal.SIGUSR1) is earlier
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_later_handler_is_left_alone(start: Start, sink: MemorySink) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        running = start(sink)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        running.service.stopService()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_there_is_no_handler(start: Start, sink: MemorySink) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    running: list[Running] = []
    thread = threading.Thread(target=lambda: running.append(start(sink)))
    thread.start()
    thread.join(WAIT_SECONDS)
    assert running[0].service.running
    assert signal.getsignal(signal.SIGUSR1) == before
    running[0].service.stopService()
    assert signal.getsignal(signal.SIGUSR1) == before


# -- stdout and syslog


def test_the_sink_that_is_configured() -> None:
    kinds = {"stdout": StdoutSink, "syslog": SyslogSink, "./stdout": FileSink, "x": FileSink}
    for path, kind in kinds.items():
        assert type(sink_for(path, time.monotonic)) is kind


def test_stdout(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    running = start(path="stdout")
    running.open_and_close()
    running.service.stopService()
    print("goes on")
    out = capfd.readouterr().out.encode()
    first, second = out.splitlines()
    assert json.loads(first)["event"] == "closed"
    assert second == b"goes on"


class Stream:
    """What is used of sys.stdout."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


def test_stdout_without_a_reader_is_like_a_full_disk(
    start: Start, logged: Sequence[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("sys.stdout", Stream(writer))
    running = start(path="stdout")
    os.close(reader)
    for _ in (1, 2):
        running.open_and_close()
        running.clock.advance(BATCH_SECONDS)
    running.service.stopService()
    os.close(writer)  # which was not ours to close
    assert running.service.dropped == 2
    assert texts(logged) == ["json_log: cannot write to stdout: broken pipe; lines are lost"]


def test_each_line_on_stdout_is_a_write_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other writers' lines then come between these, and never within one."""
    sink = StdoutSink()
    monkeypatch.setattr("sys.stdout", Stream(1))
    sink.open()
    writes: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        writes.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    sink.write(b"first\nsecond\n")
    monkeypatch.undo()
    assert writes == [b"first\n", b"second\n"]


@pytest.mark.parametrize("stdout", [None, io.StringIO()])
def test_no_stdout(monkeypatch: pytest.MonkeyPatch, stdout: Any) -> None:
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("sys.__stdout__", None)
    with pytest.raises(FileError, match="json_log: stdout: there is no standard output"):
        StdoutSink().open()


def test_syslog(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(syslog, "openlog", lambda *args: calls.append(("open", *args)))
    monkeypatch.setattr(syslog, "syslog", lambda *args: calls.append(args))
    monkeypatch.setattr(syslog, "closelog", lambda: calls.append(("close",)))
    running = start(path="syslog")
    running.open_and_close()
    running.open_and_close()
    running.service.stopService()
    opened, first, second, closed = calls
    assert opened == ("open", "monconn", syslog.LOG_PID, syslog.LOG_DAEMON)
    for priority, line in (first, second):
        assert priority == syslog.LOG_INFO
        assert "\n" not in line
        assert json.loads(line)["event"] == "closed"
    assert closed == ("close",)


def test_times_are_those_of_the_record(start: Start, sink: MemorySink) -> None:
    before = time.time()
    running = start(sink)
    running.open_and_close()
    running.service.stopService()
    (line,) = lines_of(sink.data)
    assert iso_time(before) <= line["opened_at"] <= line["at"] <= iso_time(time.time())
