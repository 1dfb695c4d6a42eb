from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from monconn.errors import AddressError, Forbidden, UnknownConnection
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IObserver, Observer
from monconn.monitor.lifecycle import STOP_GRACE_SECONDS
from monconn.monitor.monitor import CLOSED_RETAINED, Monitor
from monconn.policy.policy import Policy
from monconn.policy.rules import Rules
from monconn.testing import RecordingObserver
from monconn.turns import WORK_SECONDS
from tests.logged import logged_lines
from tests.turning import TurnClock


@implementer(IConnection)
class Connection:
    """A connection without sockets: it is over as soon as it is ended.

    :param is_deaf: its peers do not answer an ordinary end; only a reset makes it go.
    """

    def __init__(self, monitor: Monitor, record: ConnectionRecord, is_deaf: bool) -> None:
        self.monitor = monitor
        self.record = record
        self.is_deaf = is_deaf
        self.resets: list[bool] = []
        self.policy_changes = 0

    def end(self, reason: Any, reset: bool = False) -> None:
        self.record.end(reason, self.monitor.clock.seconds())
        self.resets.append(reset)
        if reset or not self.is_deaf:
            self.monitor.closed(self)

    def measure(self) -> None:
        self.record.note_tcp("client", bytes(232), 0.0)

    def policy_changed(self) -> None:
        self.policy_changes += 1


def try_to_connect(
    monitor: Monitor, ip: str = "10.0.0.1", *, is_deaf: bool = False
) -> Connection | None:
    record = monitor.admit(f"{ip}:4711", ip)
    if record is None:
        return None
    connection = Connection(monitor, record, is_deaf)
    record.state = "open"
    monitor.opened(connection)
    return connection


def enter(monitor: Monitor, ip: str = "10.0.0.1", *, is_deaf: bool = False) -> Connection:
    connection = try_to_connect(monitor, ip, is_deaf=is_deaf)
    assert connection is not None
    return connection


class Recorder(Observer):
    """Records each call, as its name and the client."""

    def __init__(self, watches_payload: bool = False) -> None:
        self.watches_payload = watches_payload
        self.calls: list[tuple[Any, ...]] = []

    def opened(self, record: ConnectionRecord) -> None:
        self.calls.append(("opened", record.client_ip))

    def refused(self, record: ConnectionRecord) -> None:
        self.calls.append(("refused", record.client_ip, record.refusal))

    def data(self, record: ConnectionRecord, direction: Any, data: bytes) -> None:
        self.calls.append(("data", direction, data))

    def closed(self, record: ConnectionRecord) -> None:
        self.calls.append(("closed", record.client_ip, record.reason))


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000.0)
    return clock


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    return Monitor("web", listen="127.0.0.1:80", backend="10.9.9.9:80", clock=clock)


def test_fakes_provide_the_interfaces(monitor: Monitor) -> None:
    assert verifyObject(IConnection, enter(monitor))
    assert verifyObject(IObserver, Recorder())


# -- one connection's life


def test_record_of_an_admitted_client(monitor: Monitor) -> None:
    record = enter(monitor, "192.0.2.7").record
    assert (record.service, record.client, record.client_ip) == (
        "web",
        "192.0.2.7:4711",
        "192.0.2.7",
    )
    assert (record.listener, record.backend) == ("127.0.0.1:80", "10.9.9.9:80")
    assert record.opened == 1000.0
    assert monitor.connection(record.id) is record
    assert monitor.connections() == [record]


def test_record_of_a_closed_connection(monitor: Monitor, clock: Clock) -> None:
    connection = enter(monitor)
    clock.advance(5.0)
    connection.end("client_closed")
    record = connection.record
    assert (record.state, record.reason, record.closed) == ("closed", "client_closed", 1005.0)
    assert record.closed_at is not None
    assert record.closed_at >= record.opened_at
    assert list(monitor.closed_records) == [record]
    assert monitor.connections() == []


def test_ids_are_never_used_twice(clock: Clock) -> None:
    monitors = [Monitor("a", clock=clock), Monitor("b", clock=clock)]
    ids = [enter(monitor).record.id for monitor in monitors * 3]
    assert ids == sorted(set(ids))


def test_closing_twice_changes_nothing(monitor: Monitor, clock: Clock) -> None:
    monitor.add_observer(recorder := Recorder())
    first, second = enter(monitor), enter(monitor)
    first.record.up = 10
    first.end("client_closed")
    clock.advance(1.0)
    monitor.closed(first)
    assert first.record.closed == 1000.0
    assert monitor.bytes() == (10, 0)
    assert monitor.connections_by_ip() == {"10.0.0.1": 1}
    assert recorder.calls[2:] == [("closed", "10.0.0.1", "client_closed")]
    assert monitor.connections() == [second.record]


@pytest.mark.parametrize("what", ["connection", "close"])
def test_unknown_id(monitor: Monitor, what: str) -> None:
    gone = enter(monitor)
    gone.end("client_closed")
    with pytest.raises(UnknownConnection, match=f"no live connection has the id {gone.record.id}"):
        getattr(monitor, what)(gone.record.id)


def test_monitor_without_connections_is_still_true(monitor: Monitor) -> None:
    assert len(monitor) == 0
    assert monitor


# -- admission


@pytest.mark.parametrize(
    ("rules", "ips", "refusals"),
    [
        (Rules(), ["10.0.0.1", "10.0.0.1", "10.0.0.2"], {}),
        (Rules(conn_limit=2), ["10.0.0.1", "10.0.0.2", "10.0.0.1"], {"conn_limit": 1}),
        (Rules(ip_limit=1), ["10.0.0.1", "10.0.0.2", "10.0.0.1"], {"ip_limit": 1}),
        (
            Rules(block=(ipaddress.ip_network("10.0.0.0/31"),)),
            ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.0"],
            {"blocked": 2},
        ),
    ],
)
def test_refused_are_counted_by_reason(
    clock: Clock, rules: Rules, ips: list[str], refusals: dict[str, int]
) -> None:
    monitor = Monitor(rules=rules, clock=clock)
    for ip in ips:
        try_to_connect(monitor, ip)
    stats = monitor.stats()
    assert (stats["refused_by"], stats["refused"]) == (refusals, sum(refusals.values()))
    assert stats["connections"] == stats["total"] == len(ips) - stats["refused"]


def test_observers_are_notified_of_a_refusal_and_nothing_is_stored(monitor: Monitor) -> None:
    monitor.rules.conn_limit = 1
    enter(monitor)
    monitor.add_observer(observer := RecordingObserver())
    assert try_to_connect(monitor, "10.0.0.2") is None
    ((hook, record),) = observer.events
    assert (hook, record.client_ip, record.refusal) == ("refused", "10.0.0.2", "conn_limit")
    assert (record.state, record.closed, record.closed_at) == (
        "closed",
        record.opened,
        record.opened_at,
    )
    assert monitor.connections_by_ip() == {"10.0.0.1": 1}
    assert len(monitor.clients) == 1


def test_slot_is_free_again(monitor: Monitor) -> None:
    monitor.rules.conn_limit = monitor.rules.ip_limit = 1
    for number in range(5):
        connection = enter(monitor, f"10.0.0.{number}")
        assert try_to_connect(monitor, "10.0.0.99") is None
        connection.end("client_reset")


def test_must_wait_and_room(monitor: Monitor) -> None:
    monitor.rules.conn_limit = 2
    room: list[int] = []
    monitor.room.subscribe(lambda: room.append(len(monitor)))
    first, second = enter(monitor), enter(monitor)
    assert monitor.room.must_wait()
    first.end("client_closed")
    assert not monitor.room.must_wait()
    second.end("client_closed")
    assert room == [1, 0]


@pytest.mark.parametrize("live", [0, 2])
def test_who_waits_when_it_stops_is_refused(monitor: Monitor, live: int) -> None:
    monitor.apply(Policy.of(conn_limit=2, rate="2/1h"))
    for connection in [enter(monitor), enter(monitor)][live:]:
        connection.end("client_closed")
    assert monitor.room.must_wait()
    told: list[bool] = []
    monitor.room.subscribe(lambda: told.append(monitor.room.must_wait()))
    monitor.stop(60)
    assert told == [False]
    assert try_to_connect(monitor) is None
    assert monitor.totals().refused == {"stopping": 1}


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unix", "unix"),
    ],
)
def test_one_client_has_one_ip(monitor: Monitor, ip: str, expected: str) -> None:
    enter(monitor, ip)
    enter(monitor, expected)
    assert monitor.connections_by_ip() == {expected: 2}
    assert monitor.stats()["ips"] == [expected]


# -- figures


def test_connections_by_ip(monitor: Monitor) -> None:
    first = enter(monitor, "10.0.0.1")
    enter(monitor, "10.0.0.1")
    other = enter(monitor, "10.0.0.2")
    assert monitor.connections_by_ip() == {"10.0.0.1": 2, "10.0.0.2": 1}
    first.end("client_closed")
    other.end("client_closed")
    assert monitor.connections_by_ip() == {"10.0.0.1": 1}


def test_given_counts_are_copies(monitor: Monitor) -> None:
    enter(monitor)
    monitor.connections_by_ip().clear()  # type: ignore[attr-defined]
    monitor.connections().clear()
    monitor.stats()["refused_by"]["blocked"] = 7
    assert monitor.connections_by_ip() == {"10.0.0.1": 1}
    assert (len(monitor.connections()), monitor.stats()["refused"]) == (1, 0)


def test_bytes_are_of_live_and_closed_connections(monitor: Monitor) -> None:
    first, second = enter(monitor), enter(monitor)
    first.record.up, second.record.down = 10, 200
    assert monitor.bytes() == (10, 200)
    first.end("client_closed")
    assert monitor.bytes() == (10, 200)
    second.record.down += 5
    assert monitor.bytes() == (10, 205)


def test_stats(monitor: Monitor, clock: Clock) -> None:
    connection = enter(monitor, "10.0.0.2")
    enter(monitor, "10.0.0.1").end("client_closed")
    connection.record.up, connection.record.down = 3, 4
    monitor.block("10.0.0.3")
    try_to_connect(monitor, "10.0.0.3")
    clock.advance(12.5)
    stats = monitor.stats()
    assert json.loads(json.dumps(stats)) == stats
    for key in ("booted_at", "accessed"):
        assert datetime.fromisoformat(stats.pop(key)).tzinfo is not None
    assert stats == {
        "state": "running",
        "sid": "web",
        "listen": "127.0.0.1:80",
        "backend": "10.9.9.9:80",
        "uptime": 12.5,
        "connections": 1,
        "total": 2,
        "ips": ["10.0.0.2"],
        "refused": 1,
        "refused_by": {"blocked": 1},
        "up": 3,
        "down": 4,
        "closed_by": {"client_closed": 1},
        "alarms": [],
    }


def test_describe(monitor: Monitor, clock: Clock) -> None:
    connection = enter(monitor)
    connection.record.up, connection.record.down = 3, 2048
    clock.advance(12.3456)
    assert monitor.stats()["uptime"] == 12.346
    assert monitor.describe() == (
        "web: connections 1, ips 1, total 1, refused 0, up 3 B, down 2.0 KiB, uptime 12.3s"
    )


def test_a_monitor_without_any_client_so_far(monitor: Monitor) -> None:
    stats = monitor.stats()
    assert stats["accessed"] is None
    assert (stats["connections"], stats["total"], stats["ips"]) == (0, 0, [])


def test_closed_records_are_bounded(monitor: Monitor) -> None:
    records = []
    for _ in range(CLOSED_RETAINED + 10):
        records.append((connection := enter(monitor)).record)
        connection.end("client_closed")
    assert CLOSED_RETAINED == 1000
    assert list(monitor.closed_records) == records[10:]
    assert monitor.stats()["total"] == CLOSED_RETAINED + 10


def test_client_ips_are_bounded(monitor: Monitor) -> None:
    enter(monitor, "192.0.2.1")  # lives all the while
    for number in range(10_000):
        connection = enter(monitor, f"10.0.{number // 250}.{number % 250}")
        connection.record.up = 1
        connection.end("client_closed")
    assert (len(monitor.clients), monitor.clients.forgotten) == (10_000, 1)
    # The record is dropped; the counters are not.
    assert monitor.bytes() == (10_000, 0)
    assert monitor.stats()["ips"] == ["192.0.2.1"]


# -- subtracting


def test_subtract(monitor: Monitor) -> None:
    connection = enter(monitor)
    connection.record.up, connection.record.down = 10, 20
    monitor.subtract(4, 20)
    assert monitor.bytes() == (6, 0)
    connection.record.up += 1
    connection.end("client_closed")
    assert monitor.bytes() == (7, 0)
    assert (connection.record.up, connection.record.down) == (11, 20)


@pytest.mark.parametrize(("up", "down"), [(-1, 0), (0, -1), (11, 0), (0, 21)])
def test_subtract_takes_no_more_than_there_is(monitor: Monitor, up: int, down: int) -> None:
    connection = enter(monitor)
    connection.record.up, connection.record.down = 10, 20
    with pytest.raises(
        ValueError, match=f"cannot subtract {up} up and {down} down from 10 up and 20"
    ):
        monitor.subtract(up, down)
    assert monitor.bytes() == (10, 20)


def test_reset_stats(monitor: Monitor) -> None:
    connection = enter(monitor)
    connection.record.up, connection.record.down = 10, 20
    monitor.subtract(1, 2)
    monitor.block("10.0.0.3")
    try_to_connect(monitor, "10.0.0.3")
    monitor.reset_stats()
    stats = monitor.stats()
    assert monitor.bytes() == (0, 0)
    assert (stats["total"], stats["refused"], stats["refused_by"]) == (0, 0, {})
    # What lives stays, and counting goes on.
    assert (stats["connections"], stats["ips"]) == (1, ["10.0.0.1"])
    connection.record.up += 5
    connection.end("client_closed")
    enter(monitor)
    try_to_connect(monitor, "10.0.0.3")
    stats = monitor.stats()
    assert monitor.bytes() == (5, 0)
    assert (stats["total"], stats["refused_by"]) == (1, {"blocked": 1})


# -- ending and blocking


@pytest.mark.parametrize(("options", "reset"), [({}, False), ({"reset": True}, True)])
def test_close(monitor: Monitor, options: dict[str, bool], reset: bool) -> None:
    connection, other = enter(monitor), enter(monitor)
    monitor.close(connection.record.id, **options)  # type: ignore[arg-type]
    assert (connection.record.reason, connection.resets) == ("operator", [reset])
    assert monitor.connections() == [other.record]


@pytest.mark.parametrize(
    "network",
    [
        "10.0.0.2",
        "::ffff:10.0.0.2",
        "10.0.0.2/31",
        ipaddress.ip_network("10.0.0.2"),
        ipaddress.ip_network("::ffff:10.0.0.2"),
    ],
    ids=str,
)
def test_block_ends_live_connections(monitor: Monitor, network: Any) -> None:
    stays, goes = enter(monitor, "10.0.0.1"), [enter(monitor, "10.0.0.2") for _ in range(3)]
    assert monitor.block(network)
    assert [connection.record.reason for connection in goes] == ["blocked"] * 3
    assert monitor.connections() == [stays.record]
    assert try_to_connect(monitor, "10.0.0.2") is None
    assert not monitor.block(network)  # it is known already
    assert monitor.unblock(network)
    enter(monitor, "10.0.0.2")
    assert not monitor.unblock(network)


def test_blocks_are_in_order(monitor: Monitor) -> None:
    networks = ["2001:db8::/32", "10.0.0.2", "10.0.0.0/8", "9.9.9.9"]
    for network in networks:
        monitor.block(network)
    assert [str(network) for network in monitor.blocks()] == [
        "9.9.9.9/32",
        "10.0.0.0/8",
        "10.0.0.2/32",
        "2001:db8::/32",
    ]


@pytest.mark.parametrize("what", ["block", "unblock"])
def test_block_of_no_network(monitor: Monitor, what: str) -> None:
    with pytest.raises(AddressError, match="is neither an IP address nor a network"):
        getattr(monitor, what)("10.0.0.256")
    assert monitor.blocks() == []


# -- observers


def test_observers_are_notified_of_a_connection_in_order(monitor: Monitor) -> None:
    monitor.add_observer(recorder := Recorder(watches_payload=True))
    connection = enter(monitor)
    monitor.saw(connection.record, "up", b"question")
    monitor.saw(connection.record, "down", b"answer")
    connection.end("backend_closed")
    assert recorder.calls == [
        ("opened", "10.0.0.1"),
        ("data", "up", b"question"),
        ("data", "down", b"answer"),
        ("closed", "10.0.0.1", "backend_closed"),
    ]


def test_only_watchers_see_payload(monitor: Monitor) -> None:
    assert not monitor.watched
    monitor.add_observer(blind := Recorder())
    assert not monitor.watched
    monitor.add_observer(watcher := Recorder(watches_payload=True))
    assert monitor.watched
    monitor.saw(enter(monitor).record, "up", b"x")
    assert (len(blind.calls), len(watcher.calls)) == (1, 2)
    monitor.remove_observer(watcher)
    assert not monitor.watched


def test_payload_never_keeps_bytes_from_observers() -> None:
    """From those that were there before a policy forbade it as well; but nothing else."""
    monitor = Monitor("web", policy=Policy(payload="never"), clock=Clock())
    first = Recorder(watches_payload=True)
    with logged_lines() as lines:
        monitor.add_observer(first)
        monitor.apply(Policy.of(payload="never", max_idle=5))
    assert lines == ["web: payload: never keeps bytes from observer Recorder"]
    assert not monitor.watched
    connection = enter(monitor)
    with pytest.raises(Forbidden, match="web: payload: never forbids to watch bytes"):
        monitor.watch(connection.record.id, lambda *_: None)
    monitor.apply(Policy())
    assert monitor.watched
    assert monitor.observers.watched
    with logged_lines() as lines:
        monitor.apply(Policy(payload="never"))
    assert lines == ["web: payload: never keeps bytes from observer Recorder"]
    assert not monitor.watched
    monitor.remove_observer(first)
    monitor.apply(Policy())
    assert not monitor.watched
    connection.end("client_closed")
    assert [call[0] for call in first.calls] == ["opened"]


def test_removed_observer_is_not_notified(monitor: Monitor) -> None:
    monitor.add_observer(recorder := Recorder(watches_payload=True))
    monitor.remove_observer(recorder)
    monitor.remove_observer(recorder)  # harmless
    monitor.saw(enter(monitor).record, "up", b"x")
    assert recorder.calls == []


HOOKS = ("opened", "refused", "data", "closed")


def live_through_all_hooks(monitor: Monitor) -> None:
    connection = enter(monitor)
    monitor.block("10.0.0.3")
    try_to_connect(monitor, "10.0.0.3")
    monitor.saw(connection.record, "up", b"x")
    connection.end("client_closed")


@pytest.mark.parametrize("hook", HOOKS)
def test_failing_observer_is_switched_off(
    monitor: Monitor, hook: str, logged_failures: list[Failure]
) -> None:
    before, failing, after = (Recorder(watches_payload=True) for _ in range(3))
    calls: list[str] = []

    def fail(*args: object) -> None:
        calls.append(hook)
        raise ZeroDivisionError

    setattr(failing, hook, fail)
    for observer in (before, failing, after):
        monitor.add_observer(observer)
    live_through_all_hooks(monitor)
    live_through_all_hooks(monitor)
    assert calls == [hook]
    assert [calls[0] for calls in failing.calls] == list(HOOKS[: HOOKS.index(hook)])
    assert [calls[0] for calls in before.calls] == list(HOOKS) * 2
    assert after.calls == before.calls
    assert monitor.watched
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()


def test_observers_may_be_given_at_the_beginning() -> None:
    observer = RecordingObserver()
    monitor = Monitor("web", clock=Clock(), observers=[observer])
    assert monitor.watched
    enter(monitor).end("operator")
    assert [event[0] for event in observer.events] == ["opened", "closed"]


def test_observer_that_would_end_the_program_does_not(
    monitor: Monitor, logged_failures: list[Failure]
) -> None:
    failing, after = Recorder(), Recorder()
    failing.closed = sys.exit  # type: ignore[assignment,method-assign]
    for observer in (failing, after):
        monitor.add_observer(observer)
    for _ in range(2):
        enter(monitor).end("operator")
    assert [calls[0] for calls in after.calls] == ["opened", "closed"] * 2
    assert [failure.type for failure in logged_failures] == [SystemExit]
    logged_failures.clear()


def test_an_interrupt_of_the_user_ends_the_program_even_in_an_observer(monitor: Monitor) -> None:
    def interrupted(record: ConnectionRecord) -> None:
        raise KeyboardInterrupt

    observer = Recorder()
    observer.opened = interrupted  # type: ignore[method-assign]
    monitor.add_observer(observer)
    with pytest.raises(KeyboardInterrupt):
        enter(monitor)


@pytest.mark.parametrize("hook", HOOKS)
def test_observer_may_remove_itself(monitor: Monitor, hook: str) -> None:
    leaving, other = Recorder(watches_payload=True), Recorder(watches_payload=True)
    setattr(leaving, hook, lambda *args: monitor.remove_observer(leaving))
    monitor.add_observer(leaving)
    monitor.add_observer(other)
    live_through_all_hooks(monitor)
    live_through_all_hooks(monitor)
    assert len(leaving.calls) == HOOKS.index(hook)
    assert [calls[0] for calls in other.calls] == list(HOOKS) * 2


@pytest.mark.parametrize("hook", HOOKS)
def test_observer_that_another_removes_is_not_notified_again(monitor: Monitor, hook: str) -> None:
    remover, removed = Recorder(watches_payload=True), Recorder(watches_payload=True)
    setattr(remover, hook, lambda *args: monitor.remove_observer(removed))
    monitor.add_observer(remover)
    monitor.add_observer(removed)
    live_through_all_hooks(monitor)
    assert len(removed.calls) == HOOKS.index(hook)


@attrs.define(eq=False)
class AlikeObserver(Observer):
    """Equal to any other of its class until it is notified; comparing it then is an error."""

    calls: int = 0

    def opened(self, record: ConnectionRecord) -> None:
        self.calls += 1

    def __eq__(self, other: object) -> bool:
        assert not self.calls, "it was compared"
        return isinstance(other, AlikeObserver)


def test_equal_observers_are_distinguished(monitor: Monitor) -> None:
    first, second = AlikeObserver(), AlikeObserver()
    monitor.add_observer(first)
    monitor.add_observer(second)
    monitor.remove_observer(first)
    enter(monitor)
    assert (first.calls, second.calls) == (0, 1)
    monitor.remove_observer(second)


def test_observer_may_add_another(monitor: Monitor) -> None:
    added = Recorder()
    adding = Recorder()
    adding.opened = lambda record: monitor.add_observer(added)  # type: ignore[method-assign, assignment]
    monitor.add_observer(adding)
    enter(monitor).end("client_closed")
    assert added.calls == [("closed", "10.0.0.1", "client_closed")]


@pytest.mark.parametrize("missing", ["opened", "refused", "closed", "watches_payload"])
def test_an_object_without_the_hooks_is_refused(monitor: Monitor, missing: str) -> None:
    """Wholly, and before any connection could come to harm."""
    monitor.add_observer(watcher := Recorder(watches_payload=True))
    parts: dict[str, Any] = dict.fromkeys(HOOKS, unexpected) | {"watches_payload": True}
    del parts[missing]
    with pytest.raises(AttributeError, match=missing):
        monitor.add_observer(SimpleNamespace(**parts))  # type: ignore[arg-type]
    live_through_all_hooks(monitor)
    assert [calls[0] for calls in watcher.calls] == list(HOOKS)


def unexpected(*args: object) -> None:
    raise AssertionError("it is no observer")


def test_observer_may_end_the_connection_of_its_event(monitor: Monitor) -> None:
    watcher, other = Recorder(watches_payload=True), Recorder()
    watcher.data = (  # type: ignore[method-assign]
        lambda record, direction, data: monitor.close(record.id)
    )
    monitor.add_observer(watcher)
    monitor.add_observer(other)
    monitor.saw(enter(monitor).record, "up", b"bad word")
    assert other.calls == [("opened", "10.0.0.1"), ("closed", "10.0.0.1", "operator")]
    assert len(monitor) == 0


# -- stopping


def fired(deferred: Deferred[None]) -> bool:
    return bool(deferred.called)


def test_stop_of_an_empty_monitor_is_over_at_once(monitor: Monitor, clock: Clock) -> None:
    assert fired(monitor.stop(60.0))
    assert clock.getDelayedCalls() == []


def test_stop_is_over_with_the_last_connection(monitor: Monitor, clock: Clock) -> None:
    first, second = enter(monitor), enter(monitor)
    stopped = monitor.stop(60.0)
    clock.advance(1.0)
    first.end("client_closed")
    assert not fired(stopped)
    second.end("client_closed")
    assert fired(stopped)
    assert clock.getDelayedCalls() == []


def test_stop_ends_connections_after_the_wait(monitor: Monitor, clock: Clock) -> None:
    connection = enter(monitor)
    stopped = monitor.stop(60.0)
    clock.advance(59.9)
    assert (connection.record.reason, fired(stopped)) == (None, False)
    clock.advance(0.1)
    assert (connection.record.reason, connection.resets) == ("stopping", [False])
    assert fired(stopped)


def test_stop_resets_connections_that_do_not_close(monitor: Monitor, clock: Clock) -> None:
    connection = enter(monitor, is_deaf=True)
    stopped = monitor.stop(60.0)
    clock.advance(60.0)
    assert (connection.resets, fired(stopped)) == ([False], False)
    clock.advance(STOP_GRACE_SECONDS)
    assert (connection.resets, fired(stopped)) == ([False, True], True)
    assert connection.record.reason == "stopping"
    assert clock.getDelayedCalls() == []
    assert STOP_GRACE_SECONDS == 1.0


@pytest.mark.parametrize("is_deaf", [False, True])
def test_stop_now(monitor: Monitor, is_deaf: bool) -> None:
    connections = [enter(monitor, is_deaf=is_deaf) for _ in range(3)]
    stopped = monitor.stop(60.0)
    monitor.stop_now()
    assert [connection.resets for connection in connections] == [[True]] * 3
    assert fired(stopped)
    assert len(monitor) == 0


def test_stop_now_needs_no_stop_before(monitor: Monitor) -> None:
    enter(monitor)
    monitor.stop_now()
    assert len(monitor) == 0
    assert try_to_connect(monitor) is None


def test_stop_twice(monitor: Monitor, clock: Clock) -> None:
    """Such as an operator who decides not to wait."""
    enter(monitor)
    patient, impatient = monitor.stop(60.0), monitor.stop(1.0)
    clock.advance(1.0)
    assert fired(patient)
    assert fired(impatient)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("has_connection", [False, True])
def test_stopping_refuses(monitor: Monitor, has_connection: bool) -> None:
    if has_connection:
        enter(monitor)
    monitor.add_observer(recorder := Recorder())
    monitor.stop(60.0)
    assert try_to_connect(monitor) is None
    assert recorder.calls == [("refused", "10.0.0.1", "stopping")]
    assert monitor.stats()["refused_by"] == {"stopping": 1}


# -- thousands at once

MANY = 1000
ENDED_A_TURN = 40
STEP_SECONDS = WORK_SECONDS / ENDED_A_TURN


class SlowConnection(Connection):
    """Each call takes as long as :data:`ENDED_A_TURN` of a turn's work."""

    def end(self, reason: Any, reset: bool = False) -> None:
        assert isinstance(self.monitor.clock, TurnClock)
        self.monitor.clock.work(STEP_SECONDS)
        super().end(reason, reset)

    def policy_changed(self) -> None:
        assert isinstance(self.monitor.clock, TurnClock)
        self.monitor.clock.work(STEP_SECONDS)
        super().policy_changed()


@pytest.fixture
def busy() -> tuple[Monitor, TurnClock, list[SlowConnection]]:
    """A monitor with many connections, and the turns of its clock."""
    clock = TurnClock()
    monitor = Monitor("web", clock=clock)
    connections = []
    for number in range(MANY):
        ip = f"10.0.{number // 250}.{number % 250}"
        record = monitor.admit(f"{ip}:1", ip)
        assert record is not None
        connections.append(SlowConnection(monitor, record, is_deaf=False))
        monitor.opened(connections[-1])
    return monitor, clock, connections


Busy = tuple[Monitor, TurnClock, list[SlowConnection]]


def turns_until(clock: TurnClock, count: Callable[[], int], end: int) -> list[int]:
    """Turn until a count has reached its end; by how much it has changed in each turn."""
    changes: list[int] = []
    before = count()
    while before != end:
        assert len(changes) < 2 * MANY / ENDED_A_TURN, "it comes to an end"
        clock.turn()
        now = count()
        changes.append(abs(now - before))
        before = now
    return changes


@pytest.mark.parametrize(
    "act",
    [
        lambda monitor: monitor.close_all(),
        lambda monitor: monitor.close_all(reset=True),
        lambda monitor: monitor.block("10.0.0.0/8"),
        lambda monitor: monitor.stop_now(),
        lambda monitor: monitor.apply(
            Policy(rules=Rules(block=(ipaddress.ip_network("10.0.0.0/8"),)))
        ),
    ],
    ids=["close", "reset", "block", "stop_now", "apply"],
)
def test_thousands_are_ended_in_parts(busy: Busy, act: Callable[[Monitor], object]) -> None:
    monitor, clock, connections = busy
    act(monitor)
    assert MANY - len(monitor) <= ENDED_A_TURN + 1
    changes = turns_until(clock, lambda: len(monitor), 0)
    assert max(changes) <= ENDED_A_TURN + 1
    assert [len(each.resets) for each in connections] == [1] * MANY, "each is ended once"
    assert not monitor.ending.to_come


def test_how_many_are_closed_is_known_at_once_and_each_counts_once(busy: Busy) -> None:
    monitor, clock, _ = busy
    live = len(monitor)
    assert monitor.close_all() == live
    assert monitor.close_all() == 0
    network = ipaddress.ip_network("10.0.0.0/8")
    change, ended = monitor.blocking.block_and_end(
        network, for_seconds=None, reason="", keep_open=False, actor=None
    )
    assert (change.is_new, ended) == (True, 0)
    turns_until(clock, lambda: len(monitor), 0)
    assert {record.reason for record in monitor.closed_records} == {"operator"}


def test_a_reset_takes_the_place_of_an_end_that_is_still_to_come(busy: Busy) -> None:
    monitor, clock, connections = busy
    monitor.block("10.0.0.0/8")
    left = len(monitor)
    assert monitor.close_all(reset=True) == left
    turns_until(clock, lambda: len(monitor), 0)
    assert sum(each.resets == [True] for each in connections) == left
    assert {record.reason for record in monitor.closed_records} == {"blocked"}


def test_one_that_ends_by_itself_meanwhile_is_left_alone(busy: Busy) -> None:
    monitor, clock, connections = busy
    monitor.close_all()
    Connection.end(connections[-1], "client_closed")
    turns_until(clock, lambda: len(monitor), 0)
    assert connections[-1].resets == [False]
    assert connections[-1].record.reason == "client_closed"


def test_those_that_a_stop_was_to_end_stay_open_after_resume(busy: Busy) -> None:
    monitor, clock, _ = busy
    monitor.stop(0.0)
    clock.turn()
    monitor.resume()
    left = len(monitor)
    assert left > MANY / 2
    for _ in range(5):
        clock.turn()
    assert len(monitor) == left


def test_one_that_cannot_be_ended_keeps_no_other_from_its_end(
    busy: Busy, logged_failures: list[Failure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, clock, connections = busy
    monkeypatch.setattr(connections[0], "end", lambda *args: 1 / 0)
    monitor.close_all()
    turns_until(clock, lambda: len(monitor), 1)
    assert [failure.type for failure in logged_failures] == [ZeroDivisionError]
    logged_failures.clear()


def test_thousands_learn_of_new_limits_in_parts_and_each_of_the_last_ones(busy: Busy) -> None:
    monitor, clock, connections = busy
    monitor.apply(monitor.policy.changed(max_idle=60.0))
    monitor.apply(monitor.policy.changed(max_idle=30.0))

    def told() -> int:
        return sum(each.policy_changes for each in connections)

    first = told()
    assert first <= ENDED_A_TURN + 1
    changes = turns_until(clock, lambda: sum(not each.policy_changes for each in connections), 0)
    assert max(changes) <= ENDED_A_TURN + 1
    clock.turn()
    assert told() <= MANY + first, "what the second change does is not done twice"
