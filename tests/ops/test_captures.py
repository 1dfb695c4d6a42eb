"""Captures: what is captured, until when, and what begins one by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monconn.config.sections import CaptureConfig
from monconn.errors import (
    FileError,
    Forbidden,
    NotConfigured,
    QuestionError,
    UnknownCapture,
    UnknownConnection,
)
from monconn.model import flow
from monconn.model.actions import Actor
from monconn.model.alarms import Alarm
from monconn.model.flow import Began, Data, Ended, FlowEvent
from monconn.model.reasons import Reason
from monconn.ops import triggers
from monconn.ops.captures import MOST_CAPTURES
from monconn.ops.filters import FilterError
from monconn.ops.operations import Operations
from monconn.ops.rows import CaptureRow
from monconn.ops.taps import Tap
from monconn.ops.triggers import MOST_CLIENTS, PLACE_SECONDS, TRIGGERS_PER_SECOND
from monconn.policy.policy import Policy
from monconn.sinks.capture_files import CaptureFile
from tests.logged import logged_lines

from .tapping import WatchableConnection
from .world import World

ACTOR = Actor.process(1000, 7, "ada")
WAIT_SECONDS = 10.0


class Capturing(World):
    """Operations whose captures go to a folder, and the events that go there."""

    def __init__(self, folder: Path, *services: str, **config: Any) -> None:
        super().__init__(*services)
        self.folder = folder
        self.operations = Operations(
            self.registry, self.clock, capture=CaptureConfig(str(folder), **config)
        )
        self.events: list[FlowEvent] = []

    def open(self, ip: str = "192.0.2.1", service: str = "mqtt") -> WatchableConnection:
        return WatchableConnection(self.registry.get(service), ip).open()

    def lose(self, ip: str, reason: Reason = "client_lost", service: str = "mqtt") -> int:
        """A connection that ends for a reason at once; returns its id."""
        connection = self.open(ip, service)
        connection.end(reason)
        return connection.record.id

    def start(self, *terms: str, **arguments: Any) -> CaptureRow:
        return self.operations.capture_start(ACTOR, filter=terms or None, **arguments).row

    @property
    def rows(self) -> list[CaptureRow]:
        return list(self.operations.captures.rows())

    def captured(self) -> list[int]:
        """The connections that were captured."""
        return [event.connection for event in self.events if isinstance(event, Began)]

    def done(self) -> list[str]:
        return [each.describe() for each in self.actions.all]


@pytest.fixture
def capturing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Capturing]]:
    made: list[Capturing] = []
    put = CaptureFile.put

    def record(files: CaptureFile, event: FlowEvent) -> bool:
        made[-1].events.append(event)
        return put(files, event)

    monkeypatch.setattr(CaptureFile, "put", record)

    def make(*services: str, **config: Any) -> Capturing:
        made.append(Capturing(tmp_path / "captures", *(services or ("mqtt",)), **config))
        return made[-1]

    yield make
    for each in made:
        each.operations.captures.stop(WAIT_SECONDS)


# -- by an operator


def test_what_matches_is_captured_now_and_later(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    live, other = world.open("10.0.0.1"), world.open("192.0.2.1")
    row = world.start("client:10.0.0.0/8")
    later = world.open("10.0.0.2")
    live.data("up", b"one")
    other.data("up", b"none")
    later.data("down", b"two")
    live.end("operator")
    assert world.captured() == [live.record.id, later.record.id]
    assert [event.data for event in world.events if isinstance(event, Data)] == [b"one", b"two"]
    (now,) = world.rows
    assert (row.id, row.filter, row.state) == (1, "client:10.0.0.0/8", "waiting")
    assert (now.connections, now.live, now.by) == (2, 1, "uid 1000 (ada), pid 7")
    assert not other.is_watched


def test_ids_are_of_live_connections_and_the_capture_ends_with_them(
    capturing: Callable[..., Capturing],
) -> None:
    world = capturing()
    live = world.open()
    world.start(str(live.record.id))
    world.open().data("up", b"none")
    assert world.captured() == [live.record.id]
    live.end("operator")
    assert [row.state for row in world.rows] == ["done"]
    with pytest.raises(UnknownConnection, match="no live connection has the id 9999"):
        world.start("9999")


def test_a_capture_that_ends_with_its_connection_has_the_reason(
    capturing: Callable[..., Capturing],
) -> None:
    world = capturing()
    live = world.open()
    world.start(str(live.record.id))
    live.data("up", b"bye")
    live.record.note_end("client", "reset")
    live.end("client_reset")
    assert [event.kind for event in world.events] == ["began", "data", "side_ended", "ended"]
    assert isinstance(world.events[-1], Ended)
    assert world.events[-1].reason == "client_reset"


def test_only_the_first_bytes_are_captured(capturing: Callable[..., Capturing]) -> None:
    world = capturing(first=4)
    live = world.open()
    world.start()
    live.data("up", b"123456")
    live.data("down", b"abcdef")
    assert not live.is_watched
    other = world.open()
    world.start("client:192.0.2.0/24", first=0)
    other.data("up", bytes(100))
    live.end("operator")
    pieces = [event.data for event in world.events if isinstance(event, Data)]
    assert sorted(pieces) == sorted([b"1234", b"abcd", bytes(100), bytes(4)])
    ends = [event for event in world.events if isinstance(event, Ended)]
    assert [(each.up, each.down) for each in ends] == [(6, 6), (6, 6)]


def test_it_ends_after_a_time(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    live = world.open()
    row = world.start(seconds=60)
    assert row.until is not None
    world.clock.advance(59)
    assert live.is_watched
    world.clock.advance(1)
    assert not live.is_watched
    assert isinstance(world.events[-1], Ended)
    assert world.events[-1].reason is None  # it lives on
    assert [row.state for row in world.rows] == ["done"]


def test_it_ends_after_so_many_connections(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    first, second, third = (world.open() for _ in range(3))
    world.start(connections=2)
    assert not third.is_watched
    first.end("operator")
    assert world.open().is_watched is False
    second.end("operator")
    assert [row.state for row in world.rows] == ["done"]
    assert world.captured() == [first.record.id, second.record.id]


def test_it_is_stopped_by_its_number(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    live = world.open()
    for _ in range(3):
        world.start()
    (row,) = world.operations.capture_stop(ACTOR, [2])
    assert (row.id, row.state) == (2, "done")
    with pytest.raises(UnknownCapture, match="no capture 2, 9 runs"):
        world.operations.capture_stop(ACTOR, [1, 2, 9])
    assert len(world.operations.captures) == 2
    assert [row.id for row in world.operations.capture_stop(ACTOR)] == [1, 3]
    assert not live.is_watched
    assert world.operations.capture_stop(ACTOR) == []


def test_each_is_an_action_of_whoever_asks(capturing: Callable[..., Capturing]) -> None:
    world = capturing("mqtt", "web")
    world.start("service:web")
    world.start()
    world.operations.capture_stop(ACTOR, [1])
    assert world.done() == [
        "began to capture service:=web (capture 1) at web for uid 1000 (ada), pid 7",
        "began to capture all (capture 2) at all services for uid 1000 (ada), pid 7",
        "stopped capturing service:=web (capture 1) at web for uid 1000 (ada), pid 7",
    ]


def test_the_only_service_is_named_if_no_other_can_come(
    capturing: Callable[..., Capturing],
) -> None:
    world = capturing("mqtt")
    world.start()
    world.start("service:mqtt")
    world.start(str(world.open().record.id))
    assert [each.split(") at ")[1].split(" for ")[0] for each in world.done()] == [
        "all services",
        "mqtt",
        "mqtt",
    ]


def test_one_of_services_to_come_is_an_action_too(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    world.start("service:later")
    assert world.done() == [
        "began to capture service:later (capture 1) at all services for uid 1000 (ada), pid 7"
    ]


def test_there_are_not_too_many(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    for _ in range(MOST_CAPTURES):
        world.start()
    with pytest.raises(QuestionError, match="8 captures run already: stop one first"):
        world.start()
    world.operations.capture_stop(ACTOR, [1])
    world.start()


def test_there_are_no_more_than_files_may_be_kept(capturing: Callable[..., Capturing]) -> None:
    world = capturing(keep=1)
    world.start()
    with pytest.raises(QuestionError, match=r"1 captures run already \(keep: 1\)"):
        world.start()


def test_payload_never_is_left_out_and_said(capturing: Callable[..., Capturing]) -> None:
    world = capturing("mqtt", "secret")
    world.registry.get("secret").apply(Policy(payload="never"))
    live, secret = world.open(), world.open(service="secret")
    done = world.operations.capture_start(ACTOR)
    assert done.services_left_out == ("secret",)
    assert (live.is_watched, secret.is_watched) == (True, False)
    assert "(capture 1; without secret: payload: never) at all services" in world.done()[0]
    with pytest.raises(Forbidden, match="service secret has payload: never"):
        world.start("service:secret")
    with pytest.raises(Forbidden, match="service secret has payload: never"):
        world.start(str(secret.record.id))
    assert len(world.operations.captures) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"first": -1}, {"connections": 0}, {"seconds": 0.0}, {"seconds": -1.0}, {"seconds": 1e300}],
)
def test_amounts_that_make_no_sense(
    capturing: Callable[..., Capturing], arguments: dict[str, Any]
) -> None:
    with pytest.raises(QuestionError):
        capturing().start(**arguments)


def test_captures_may_be_switched_off() -> None:
    world = World("mqtt")
    operations = Operations(world.registry, world.clock, capture=None)
    operations.captures.start()
    with pytest.raises(NotConfigured, match="capture: false"):
        operations.capture_start(ACTOR)
    assert list(operations.captures.rows()) == []
    assert operations.captures.totals() is None
    operations.captures.stop()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    world = World("mqtt")
    (tmp_path / "file").touch()
    operations = Operations(
        world.registry, world.clock, capture=CaptureConfig(str(tmp_path / "file"))
    )
    with pytest.raises(FileError, match="it is a file, and no folder"):
        operations.captures.start()
    with pytest.raises(FileError, match="it is a file, and no folder"):
        operations.capture_start(ACTOR)
    assert len(operations.captures) == 0


def test_nothing_is_made_at_the_start_if_nothing_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    world = World("mqtt")
    world.operations.captures.start()
    assert list(tmp_path.iterdir()) == []
    assert not world.registry.get("mqtt").observers.by_hook["opened"]


# -- by the configuration


def test_the_configuration_captures_from_the_start(capturing: Callable[..., Capturing]) -> None:
    world = capturing("mqtt", "web", filter="service:mqtt")
    world.operations.captures.start()
    live, other = world.open(), world.open(service="web")
    assert (live.is_watched, other.is_watched) == (True, False)
    assert world.done() == [
        "began to capture service:=mqtt (capture 1) at mqtt for the configuration"
    ]
    world.operations.captures.stop(WAIT_SECONDS)
    assert not live.is_watched


def test_all_is_every_connection(capturing: Callable[..., Capturing]) -> None:
    world = capturing("mqtt", "web", filter="all")
    world.operations.captures.start()
    assert world.open(service="web").is_watched


@pytest.mark.parametrize("filter", ["nonsense", "servcie:mqtt", "rate:1KiB..", ""])
def test_filters_that_are_wrong(capturing: Callable[..., Capturing], filter: str) -> None:
    world = capturing(filter=filter, on=("client_lost",))
    with pytest.raises(FilterError):
        world.operations.captures.start()
    assert world.rows == []
    if filter:
        with pytest.raises(FilterError):
            world.start(filter)


# -- triggers


def recorded(connection_id: int) -> list[FlowEvent] | None:
    return [
        flow.Began(
            connection_id, 1.0, 1.0, "r-1", "mqtt", "192.0.2.1:4711", None, "192.0.2.250:1883"
        ),
        Data(connection_id, 1.0, "up", 0, b"last words"),
        Ended(connection_id, 2.0, 10, 0, "client_lost"),
    ]


def armed(
    capturing: Callable[..., Capturing], *on: str, services: tuple[str, ...] = (), **config: Any
) -> Capturing:
    world = capturing(*services, on=on, **config)
    for monitor in world.registry:  # stands for the flight recorder
        monitor.recorder.events = recorded  # type: ignore[method-assign]
    world.operations.captures.start()
    return world


def test_an_end_stores_the_recording_and_captures_the_next_ones(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "client_lost", next=2)
    before, other = world.open(), world.open("192.0.2.9")
    assert not before.is_watched
    lost = world.lose("192.0.2.1")
    assert world.captured() == [lost]
    assert [event.data for event in world.events if isinstance(event, Data)] == [b"last words"]
    first, second, third = (world.open() for _ in range(3))
    assert [each.is_watched for each in (first, second, third)] == [True, True, False]
    assert not world.open("192.0.2.9").is_watched
    assert not other.is_watched
    assert world.captured() == [lost, first.record.id, second.record.id]
    assert world.done()[1:] == [
        f"began to capture the next 2 connections of 192.0.2.1 (client_lost, connection {lost})"
        " at mqtt for the configuration"
    ]
    (row,) = world.rows
    assert (row.filter, row.triggers, row.skipped_triggers) == ("on client_lost", 1, 0)


def test_every_end_that_is_no_orderly_one(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "abnormal", "backend_reset")
    world.lose("192.0.2.1", "client_closed")
    first = world.lose("192.0.2.2", "idle_timeout")
    second = world.lose("192.0.2.3", "backend_reset")
    assert world.captured() == [first, second]
    assert f"192.0.2.2 (abnormal: idle_timeout, connection {first})" in world.done()[1]
    assert f"192.0.2.3 (backend_reset, connection {second})" in world.done()[2]


def test_a_client_is_known_by_its_name_where_many_have_one_address(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "client_lost", "alarm:reconnect_storm", next=2)
    lost = world.open()
    lost.tell(b"CONNECT", mqtt_client_id="pump-1")
    lost.end("client_lost")
    assert world.done()[1].startswith("began to capture the next 2 connections of pump-1 (")
    other, again = world.open(), world.open("198.51.100.7")
    assert not other.is_watched
    other.tell(b"CONNECT other", mqtt_client_id="pump-2")
    again.tell(b"CONNECT again", mqtt_client_id="pump-1")
    assert (other.is_watched, again.is_watched) == (False, True)
    pieces = [event.data for event in world.events if isinstance(event, Data)]
    assert pieces == [b"last words", b"CONNECT again"]
    world.registry.get("mqtt").alarm(alarm("pump-2"))
    assert other.is_watched


def test_other_ends_begin_nothing(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost")
    world.lose("192.0.2.1", "client_closed")
    assert not world.open().is_watched
    assert world.events == []


def test_the_filter_holds_for_what_begins_one_and_for_what_is_captured(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(
        capturing,
        "client_lost",
        services=("mqtt", "web"),
        filter="service:mqtt client:192.0.2.0/24",
    )
    world.lose("192.0.2.1", service="web")
    assert not world.open().is_watched
    world.lose("198.51.100.1")
    assert not world.open("198.51.100.1").is_watched
    world.lose("192.0.2.1")
    assert not world.open(service="web").is_watched
    assert world.open().is_watched


def test_a_client_that_is_lost_again_begins_nothing_for_a_while(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "client_lost", next=1, within=600.0)
    world.lose("192.0.2.1")
    captured = world.open()
    captured.end("client_lost")
    assert world.captured()[1:] == [captured.record.id], "it is in the file already"
    assert not world.open().is_watched
    world.clock.advance(600)
    again = world.lose("192.0.2.1")
    assert world.captured()[-1] == again
    (row,) = world.rows
    assert (row.triggers, row.skipped_triggers) == (2, 1)


def test_what_does_not_come_in_time_is_not_captured(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost", within=600.0)
    world.lose("192.0.2.1")
    world.clock.advance(600)
    assert not world.open().is_watched


def test_a_storm_of_ends_begins_few_captures(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost")
    with logged_lines("monconn.ops.triggers") as lines:
        for number in range(100):
            world.lose(f"10.0.0.{number}")
        assert len(world.captured()) == TRIGGERS_PER_SECOND
        for second in range(20):
            world.clock.advance(1)
            for number in range(100):
                world.lose(f"10.0.{second + 1}.{number}")
    assert lines == [
        "capture: too much happens at once: not all of it begins a capture; skipped so far: 1"
    ]
    assert len(world.captured()) == MOST_CLIENTS
    (row,) = world.rows
    assert row.triggers == MOST_CLIENTS
    assert row.skipped_triggers == 2_100 - MOST_CLIENTS
    assert len(world.done()) == 1 + MOST_CLIENTS


def test_clients_that_do_not_come_again_make_place_for_others(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "client_lost")
    for number in range(MOST_CLIENTS):
        world.lose(f"10.0.0.{number}")
        world.clock.advance(1)
    world.lose("192.0.2.1")
    assert not world.open().is_watched
    world.clock.advance(PLACE_SECONDS - MOST_CLIENTS + 0.5)
    world.lose("192.0.2.1")
    world.lose("192.0.2.2")
    assert world.open().is_watched, "the first one's time is over"
    assert not world.open("192.0.2.2").is_watched
    assert not world.open("10.0.0.0").is_watched
    assert world.open("10.0.0.1").is_watched


def test_the_clients_that_are_remembered_are_bounded(
    capturing: Callable[..., Capturing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "CLIENTS_REMEMBERED", 3)
    world = armed(capturing, "client_lost", next=1)
    for number in range(20):
        world.lose(f"10.0.0.{number}")
        world.open(f"10.0.0.{number}")
        world.clock.advance(1)
    assert world.operations.captures._triggers is not None
    assert len(world.operations.captures._triggers._remembered) <= 3
    assert world.rows[0].triggers == 20


def alarm(device: str, *, is_over: bool = False, goes_on: bool = False) -> Alarm:
    return Alarm("reconnect_storm", "mqtt", device, 1_000.0, is_over, "10 in 60 s", goes_on)


def test_an_alarm_captures_the_devices_live_connections_and_the_next(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "alarm:reconnect_storm", next=2)
    live, other = world.open("2001:db8::1"), world.open("2001:db8:0:1::1")
    monitor = world.registry.get("mqtt")
    monitor.alarm(alarm("2001:db8::/64", is_over=True))
    monitor.alarm(alarm("2001:db8::/64", goes_on=True))
    assert not live.is_watched
    monitor.alarm(alarm("2001:db8::/64"))
    assert (live.is_watched, other.is_watched) == (True, False)
    assert world.open("2001:db8::2").is_watched
    assert not world.open("2001:db8::3").is_watched


def test_an_alarm_without_a_live_connection_stores_the_last_recording(
    capturing: Callable[..., Capturing],
) -> None:
    world = armed(capturing, "alarm:reconnect_storm")
    world.lose("192.0.2.1")
    last = world.lose("192.0.2.1")
    world.lose("192.0.2.2")
    world.registry.get("mqtt").alarm(alarm("192.0.2.1"))
    assert world.captured() == [last]


def test_an_alarm_of_what_has_no_address(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "alarm:reconnect_storm")
    world.registry.get("mqtt").alarm(alarm("unix"))
    assert world.open("unix").is_watched


def test_payload_never_begins_nothing(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost", services=("mqtt", "secret"))
    world.registry.get("secret").apply(Policy(payload="never"))
    world.lose("192.0.2.1", service="secret")
    assert world.events == []
    assert not world.open(service="secret").is_watched


def test_once_stopped_nothing_begins(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost")
    world.operations.capture_stop(ACTOR)
    world.lose("192.0.2.1")
    assert world.events == []
    totals = world.operations.captures.totals()
    assert totals is not None
    assert (totals.running, totals.begun, totals.skipped) == (
        0,
        {"client_lost": 0},
        {"client_lost": 0},
    )


def test_totals(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost", "backend_reset")
    world.lose("192.0.2.1")
    world.lose("192.0.2.1", "backend_reset")
    world.operations.captures.stop(WAIT_SECONDS)
    totals = world.operations.captures.totals()
    assert totals is not None
    assert totals.begun == {"client_lost": 1, "backend_reset": 0}
    assert totals.skipped == {"client_lost": 0, "backend_reset": 1}
    assert (totals.written, totals.lost, totals.files) == (10, 0, 1)


def test_who_forgets_a_client_is_told_of_the_files(capturing: Callable[..., Capturing]) -> None:
    world = capturing()
    forget = world.operations.forget
    assert world.result(forget(ACTOR, "192.0.2.1", dry_run=True)).capture_files == 0
    live = world.open()
    world.start()
    live.data("up", b"secret")
    world.operations.captures.stop(WAIT_SECONDS)
    done = world.result(forget(ACTOR, "192.0.2.1"))
    assert done.to_json()["capture_files"] == 1
    assert "192.0.2.1" not in world.actions.all[-1].describe()
    again = capturing()
    again.start()
    assert world.result(again.operations.forget(ACTOR, "192.0.2.1")).capture_files == 1


def test_who_is_forgotten_is_not_captured_any_more(capturing: Callable[..., Capturing]) -> None:
    world = armed(capturing, "client_lost")
    for ip in ("192.0.2.1", "192.0.2.2"):
        world.lose(ip)
    world.result(world.operations.forget(ACTOR, "192.0.2.1", dry_run=True))
    world.result(world.operations.forget(ACTOR, "192.0.2.2"))
    world.events.clear()
    live = world.open("192.0.2.1")
    world.open("192.0.2.2")
    assert world.captured() == [live.record.id]


def test_a_tap_that_is_refused_leaves_nothing(
    capturing: Callable[..., Capturing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.ops.taps.MOST_TAPS", 1)
    world = capturing()
    taken: list[Tap] = []
    world.operations.taps.open(taken.append, follow=True)
    with pytest.raises(QuestionError, match="1 taps and captures are open"):
        world.start(seconds=5)
    assert world.rows == []
