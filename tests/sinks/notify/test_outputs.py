"""Who is told of what, how often, and what becomes of what cannot be delivered."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer

from monconn.config.notify import NotifyConfig, NotifyUrl, Secret
from monconn.errors import QuestionError
from monconn.model.actions import CONFIGURATION, Action, ActionKind
from monconn.model.alarms import Alarm, AlarmKind
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.run.notify import parse_filter
from monconn.sinks.notify import output as outputs
from monconn.sinks.notify import service as services
from monconn.sinks.notify.messages import MOST_BYTES, Message, make_message
from monconn.sinks.notify.output import Done
from monconn.sinks.notify.senders import DeliveryError
from monconn.sinks.notify.service import NotifyService
from monconn.testing import make_monitor
from tests.turning import TurnClock

PASSWORD = "hunter2hunter2"


class FakeDelivery:
    """Notes messages, and answers when it is told to, or at once."""

    made: list[FakeDelivery] = []

    def __init__(self, config: NotifyConfig, reactor: object) -> None:
        self.messages: list[Message] = []
        self.waiting: list[Done] = []
        self.answer: Callable[[], DeliveryError | None] | None = lambda: None
        self.is_closed = False
        self.made.append(self)

    def begin(self, message: Message, done: Done) -> None:
        self.messages.append(message)
        if self.answer is None:
            self.waiting.append(done)
        else:
            done("ok", self.answer())

    def close(self) -> None:
        self.is_closed = True

    def texts(self) -> list[str]:
        return [message.text for message in self.messages]

    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]


@implementer(IConnection)
class Connection:
    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        record = monitor.admit("10.0.0.1:4711", "10.0.0.1")
        assert record is not None
        self.record: ConnectionRecord = record
        monitor.opened(self)

    def end(self, reason: Any, reset: bool = False) -> None:
        self.record.reason = reason
        self.monitor.closed(self)

    def policy_changed(self) -> None:
        pass

    def measure(self) -> None:
        pass


class World:
    def __init__(self, *configs: NotifyConfig) -> None:
        FakeDelivery.made = []
        self.clock = Clock()
        self.clock.advance(1_000.0)
        self.registry = Registry()
        self.monitor = make_monitor("web", self.clock)
        self.registry.add(self.monitor)
        self.notify = NotifyService(
            configs,
            self.registry,
            None,
            self.clock,
            lambda text: parse_filter(text, ["web"]),
            FakeDelivery,
        )
        self.deliveries = FakeDelivery.made
        self.notify.startService()

    def alarm(self, kind: AlarmKind = "silent", is_over: bool = False, **more: Any) -> None:
        device = "" if kind in ("outage", "backend_down") else "pump-7"
        self.monitor.alarm(Alarm(kind, "web", device, 1e9, is_over, "it is so", **more))

    def act(self, kind: ActionKind, changed: bool = True) -> None:
        self.monitor.report(Action(kind, CONFIGURATION, 1e9, "web", "10.0.0.0/8", 0, changed), ())

    def connect(self, reason: Any = "client_closed") -> Connection:
        connection = Connection(self.monitor)
        connection.end(reason)
        return connection

    def wait(self, seconds: float = 1.0) -> None:
        self.clock.pump([0.25] * int(seconds * 4))

    def row(self) -> Mapping[str, Any]:
        return self.notify.rows()[0]


def config(*on: str, **more: Any) -> NotifyConfig:
    url = NotifyUrl(f"https://example.com/{PASSWORD}")
    return NotifyConfig(url, on=on or ("alarm",), **more)


def test_an_event_is_sent_with_its_own_fields() -> None:
    world = World(config())
    world.alarm()
    assert world.deliveries[0].messages == [], "nothing is done as it happens"
    world.wait()
    (message,) = world.deliveries[0].messages
    values = json.loads(message.body)
    assert values["version"] == 1
    assert values["id"] == message.id
    assert values["kind"] == "silent"
    assert values["text"] == "web: pump-7 silent alarm: it is so"
    alarm = Alarm("silent", "web", "pump-7", 1e9, False, "it is so")
    assert values["event"] == {"event": "alarm", **alarm.snapshot()}
    assert (message.title, message.is_good) == ("monconn: silent at web", False)


def test_an_action_says_once_where_it_was_done() -> None:
    world = World(config("action"))
    by = "the time of the pause is over"
    world.monitor.report(Action("resume", CONFIGURATION, 1e9, "web", by))
    world.wait()
    (text,) = world.deliveries[0].texts()
    assert text == "resumed web (the time of the pause is over) for the configuration"


def test_the_fields_of_a_connection_are_those_of_the_json_log() -> None:
    world = World(config("closed"))
    record = world.connect().record
    world.wait()
    (message,) = world.deliveries[0].messages
    event = json.loads(message.body)["event"]
    assert (event["event"], event["reason"], event["id"]) == ("closed", "client_closed", record.id)
    assert event["at"] == event["closed_at"]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("alarm", ["silent", "outage", "backend_down", "backend_up", "silent"]),
        ("silent", ["silent", "silent"]),
        ("outage", ["outage"]),
        ("backend_down", ["backend_down"]),
        ("backend_up", ["backend_up"]),
        ("action", ["blocked", "unblocked", "unblocked", "action", "action"]),
        ("blocked", ["blocked"]),
        ("unblocked", ["unblocked", "unblocked"]),
        ("opened", ["opened"]),
        ("closed", ["closed"]),
        ("refused", ["refused"]),
        ("duplicate", []),
    ],
)
def test_each_is_told_of_what_it_has_chosen(on: str, expected: list[str]) -> None:
    world = World(config(on))
    world.alarm("silent")
    world.alarm("outage")
    world.alarm("backend_down")
    world.alarm("backend_down", True)
    world.alarm("silent", True)
    world.alarm("silent", goes_on=True)  # it has been told before the restart
    world.act("block")
    world.act("unblock")
    world.act("block_ended")
    world.act("block", changed=False)
    world.act("close")
    world.act("notify_test")  # by which somebody has been told already
    world.connect()
    world.monitor.block("10.0.0.0/8", actor=None)
    assert world.monitor.admit("10.0.0.1:1", "10.0.0.1") is None
    world.wait()
    assert world.deliveries[0].kinds() == expected


def test_filters_are_those_of_events() -> None:
    world = World(
        config("closed", filter="reason:client_lost client:10.0.0.0/8"),
        config("closed", filter="reason:client_closed"),
        config("alarm", filter="not:reason:silent"),
    )
    world.connect("client_lost")
    world.connect("client_closed")
    world.connect("client_reset")
    world.alarm("silent")
    world.alarm("backend_down")
    world.wait()
    lost, closed, alarms = world.deliveries
    assert [json.loads(each.body)["event"]["reason"] for each in lost.messages] == ["client_lost"]
    assert len(closed.messages) == 1
    assert alarms.kinds() == ["backend_down"]


def test_hooks_of_what_nobody_wants_are_not_called() -> None:
    world = World(config("alarm"))
    by_hook = world.monitor.observers.by_hook
    assert not by_hook["opened"]
    assert not by_hook["closed"]
    assert by_hook["alarmed"]
    world.notify.apply_config([])
    assert not by_hook["alarmed"]
    world.notify.apply_config([config("closed")])
    assert by_hook["closed"]
    assert not by_hook["opened"]


def test_a_herd_is_summed_up() -> None:
    world = World(config("closed", "alarm", per_minute=5))
    for _ in range(400):
        world.connect("client_reset")
    for _ in range(90):
        world.connect("client_closed")
    world.alarm("outage")  # has room of its own
    world.wait()
    delivery = world.deliveries[0]
    assert delivery.kinds() == ["closed"] * 5 + ["outage"]
    world.wait(60)
    (summary,) = delivery.messages[6:]
    assert summary.text == "and 485 more: 395 closed client_reset, 90 closed client_closed"
    event = json.loads(summary.body)["event"]
    assert (event["event"], event["count"]) == ("summary", 485)
    assert event["counts"] == {"closed client_reset": 395, "closed client_closed": 90}
    world.wait(60)
    world.connect()
    world.wait()
    assert delivery.kinds()[7:] == ["closed"]


@pytest.mark.parametrize("per_minute", [1, 2, 20])
def test_there_are_never_more_messages_in_a_minute(per_minute: int) -> None:
    world = World(config("closed", per_minute=per_minute))
    times: list[float] = []
    delivery = world.deliveries[0]
    for _ in range(400):
        world.connect()
        world.clock.advance(0.5)
        times += [world.clock.seconds()] * (len(delivery.messages) - len(times))
    # One is sent within DRAIN_SECONDS of its event.
    for first, later in zip(times, times[per_minute:], strict=False):
        assert later - first >= 59.0
    told = sum(
        each.kind == "closed" or json.loads(each.body)["event"]["count"]
        for each in delivery.messages
    )
    world.wait(61)
    (*_, last) = delivery.messages
    if last.kind == "summary" and len(times) < len(delivery.messages):
        told += json.loads(last.body)["event"]["count"]
    assert told == 400, "each is sent or counted"


def test_events_beyond_what_may_wait_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MOST_PENDING", 100)
    world = World(config("closed", per_minute=1), config("closed", filter="reason:error"))
    for _ in range(250):
        world.connect()
    world.alarm()
    world.wait(62)
    texts = world.deliveries[0].texts()
    assert texts[1:] == ["and 249 more: 150 closed at web, 99 closed client_closed"]
    assert world.deliveries[1].texts() == [
        "and 150 more: 150 closed at web, not looked at one by one"
    ]


# -- failures


def failing(world: World, number: int = 0) -> FakeDelivery:
    delivery = world.deliveries[number]
    delivery.answer = lambda: DeliveryError("answered 500")
    return delivery


@pytest.fixture
def _longest_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


@pytest.mark.usefixtures("_longest_pauses")
def test_it_is_tried_again_after_growing_pauses() -> None:
    world = World(config(retry_for=600.0))
    delivery = failing(world)
    world.alarm()
    times: list[float] = []
    for _ in range(1_400):
        world.clock.advance(0.5)
        times += [world.clock.seconds()] * (len(delivery.messages) - len(times))
    assert [b - a for a, b in itertools.pairwise(times)] == [
        *(1.5, 3.0, 7.5, 15.0, 30.0, 60.0),
        *[90.0] * 6,
    ]
    assert len({message.id for message in delivery.messages}) == 1, "the same delivery"
    assert len({message.body for message in delivery.messages}) == 1
    row = world.row()
    assert (row["failed"], row["queued"], row["state"]) == (1, 0, "failing")
    assert row["last_error"] == "answered 500"


def test_a_line_when_it_fails_and_one_when_it_works_again() -> None:
    world = World(config())
    delivery = failing(world)
    with capturedLogs() as events:
        for _ in range(3):
            world.alarm()
        world.wait(120)
        assert len(events) == 1
        delivery.answer = lambda: None
        world.wait(120)
        world.alarm()
        world.wait()
    assert [formatEvent(event) for event in events] == [
        "notify 1 (https://example.com/...) fails: answered 500; each message is tried for 15m00s",
        "notify 1 (https://example.com/...) works again, 2 messages wait",
    ]
    assert PASSWORD not in str(events)
    row = world.row()
    assert (row["sent"], row["failed"], row["queued"], row["state"]) == (4, 0, 0, "ready")


def test_what_is_refused_for_good_keeps_no_other_from_being_sent() -> None:
    world = World(config())
    delivery = world.deliveries[0]
    answers = iter([DeliveryError("answered 400", is_final=True), None])
    delivery.answer = lambda: next(answers)
    world.alarm("silent")
    world.alarm("outage")
    world.wait(4)
    assert delivery.kinds() == ["silent", "outage"]
    row = world.row()
    assert (row["sent"], row["failed"], row["dropped"], row["state"]) == (1, 1, 0, "ready")


def test_one_that_hangs_delays_no_other() -> None:
    world = World(config(), config())
    world.deliveries[0].answer = None
    for _ in range(5):
        world.alarm()
    world.wait()
    assert [len(each.messages) for each in world.deliveries] == [1, 5]
    assert [row["state"] for row in world.notify.rows()] == ["sending", "ready"]
    world.wait(60)
    assert [row["state"] for row in world.notify.rows()] == ["stuck", "ready"]
    (done,) = world.deliveries[0].waiting
    done("ok", None)
    assert world.row()["state"] == "sending", "the next one"


def test_queues_are_bounded_and_what_is_dropped_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "MOST_QUEUED", 10)
    world = World(config(per_minute=1_000))
    world.deliveries[0].answer = None
    for _ in range(25):
        world.alarm()
    world.wait()
    row = world.row()
    assert (row["queued"], row["dropped"]) == (10, 15)
    monkeypatch.setattr(outputs, "MOST_QUEUED_BYTES", 5_000)
    world = World(config(per_minute=1_000))
    world.deliveries[0].answer = None
    for _ in range(25):
        world.alarm()
    world.wait()
    totals = world.notify.totals()[1]
    assert 0 < totals.queued < 25
    assert totals.queued + totals.dropped == 25


def test_long_messages_are_cut() -> None:
    event = {"event": "closed", "at": "now", "service": "web", "facts": {"a": "x" * MOST_BYTES}}
    values = json.loads(make_message("closed", "y" * 10_000, event).body)
    assert values["event"] == {**event, "facts": {}, "truncated": True}
    assert len(values["text"]) == 2_000
    event["detail"] = "x" * MOST_BYTES
    values = json.loads(make_message("closed", "text", event).body)
    assert values["event"] == {"event": "closed", "at": "now", "service": "web", "truncated": True}


def test_text_of_peers_is_printable() -> None:
    message = make_message("silent", "pump\x1b[31m\r\n\udc80", {"name": "\udc80\x00"})
    assert message.text.isprintable()
    assert json.loads(message.body)["event"] == {"name": "\udc80\x00"}


# -- another configuration, tests, the end


def test_outputs_that_are_the_same_go_on() -> None:
    kept = config("alarm")
    world = World(config("closed"), kept)
    delivery = failing(world, 1)
    world.alarm()
    world.wait()
    world.notify.apply_config([attrs.evolve(kept), config("blocked")])
    first, second = world.notify.rows()
    assert (first["number"], first["state"], first["queued"]) == (1, "failing", 1)
    assert (second["number"], second["on"]) == (2, ["blocked"])
    assert world.deliveries[0].is_closed
    assert not delivery.is_closed
    delivery.answer = lambda: None
    world.wait(60)
    assert world.row()["sent"] == 1


def test_another_secret_is_another_output() -> None:
    world = World(config(secret=Secret(b"one")))
    world.notify.apply_config([config(secret=Secret(b"two"))])
    assert len(world.deliveries) == 2


def test_a_wrong_filter_changes_nothing() -> None:
    world = World(config())
    with pytest.raises(ValueError, match="reason"):
        world.notify.apply_config([config("closed"), config(filter="reasn:x")])
    assert world.row()["on"] == ["alarm"]
    world.alarm()
    world.wait()
    assert world.row()["sent"] == 1


def results_of(world: World, number: int | None = None) -> list[tuple[int, bool, str]]:
    found: list[Any] = []
    world.notify.test(number).addCallback(found.extend)
    world.clock.advance(services.TEST_SECONDS + 1)
    return [(each.number, each.is_ok, each.answer) for each in found]


def test_a_test_says_what_each_has_said() -> None:
    world = World(config(), config(), config())
    made = iter([lambda: None, lambda: DeliveryError("answered 500"), None])

    class Tested(FakeDelivery):
        def __init__(self, config: NotifyConfig, reactor: object) -> None:
            super().__init__(config, reactor)
            self.answer = next(made)

    world.notify._make_delivery = Tested
    assert results_of(world) == [
        (1, True, "ok"),
        (2, False, "answered 500"),
        (3, False, "no answer within 18 s"),
    ]
    assert all(each.is_closed for each in world.deliveries[3:])
    assert all(row["sent"] == row["failed"] == 0 for row in world.notify.rows())
    (message,) = world.deliveries[3].messages
    assert json.loads(message.body)["event"]["event"] == "test"


def test_a_test_of_one_and_of_none() -> None:
    world = World(config(), config())
    assert results_of(world, 2) == [(2, True, "ok")]
    with pytest.raises(QuestionError, match="no output 3: there are 2"):
        world.notify.test(3)
    with pytest.raises(QuestionError, match="no notify:"):
        World().notify.test()


def test_a_stop_delivers_what_waits() -> None:
    world = World(config("closed", "alarm", per_minute=2))
    for _ in range(10):
        world.connect()
    world.alarm()
    stopped = world.notify.stopService()
    assert stopped.called
    assert world.deliveries[0].kinds() == ["closed", "closed", "silent", "summary"]
    assert world.clock.getDelayedCalls() == []
    assert not world.monitor.observers.by_hook["closed"]


def test_a_herd_is_looked_at_in_many_turns_at_a_change_and_at_the_end() -> None:
    clock = TurnClock()

    def matches(_: object) -> bool:
        clock.work(0.001)  # the time that it takes to look at one
        return True

    world = World()
    notify = NotifyService(
        [config("closed")], world.registry, None, clock, lambda _: matches, FakeDelivery
    )
    for _ in range(100):
        world.connect()
    began = clock.seconds()
    notify.apply_config([config("closed", filter="x")])
    assert clock.seconds() == began
    stopped = notify.stopService()
    turns = 0
    while not stopped.called:
        before = clock.seconds()
        clock.turn()
        assert clock.seconds() - before < 0.01
        turns += 1
    assert turns > 10
    assert FakeDelivery.made[-1].kinds()[-1] == "summary"
    assert sum(output.sent for output in notify.outputs) == 21
    assert "and 80 more" in FakeDelivery.made[-1].texts()[-1]


def test_a_stop_is_short() -> None:
    world = World(config(), config())
    world.deliveries[0].answer = None
    failing(world, 1)
    world.alarm()
    world.alarm()
    world.wait()
    with capturedLogs() as events:
        stopped = world.notify.stopService()
        assert not stopped.called
        world.clock.advance(services.FLUSH_SECONDS)
    assert stopped.called
    assert [formatEvent(event) for event in events] == [
        f"notify {number} (https://example.com/...): 2 messages could not be sent any more"
        for number in (2, 1)
    ]
    (done,) = world.deliveries[0].waiting
    done("late", None)  # the thread has its answer now
    assert world.clock.getDelayedCalls() == []
