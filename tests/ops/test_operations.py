"""Queries and actions, without any transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.errors import (
    AddressError,
    NotConfigured,
    QuestionError,
    UnknownConnection,
    UnknownService,
)
from monconn.model.actions import OWN_CODE, Action, Actor
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.ops.filters import MAX_IDS, FilterError, Part, Range, Term
from monconn.ops.operations import (
    Operations,
)
from monconn.ops.rows import ClosedConnectionRow, ConnectionRow
from monconn.ops.selection import split_ids
from monconn.turns import WORK_SECONDS
from tests.logged import logged_lines

from .world import World, rows

ALICE = Actor.process(1000, 4242, "alice")


# -- queries


def test_connections_are_filtered_sorted_and_counted() -> None:
    world = World("web", "ssh")
    first, second = world.connect("web", "192.0.2.1", "198.51.100.1")
    (third,) = world.connect("ssh", "192.0.2.2")
    second.record.up, third.record.up = 5, 9
    third.record.opened -= 100.0
    all_ids = [each.record.id for each in (first, second, third)]
    assert world.ids() == all_ids
    assert world.ids("service:web client:192.0.2.0/24") == all_ids[:1]
    assert world.ids("192.0.2.0/24", service="ssh") == all_ids[2:]
    assert world.ids("up:6..") == all_ids[2:]
    assert world.ids(sort="up") == [all_ids[2], all_ids[1], all_ids[0]]
    assert world.ids(idle_over=50.0) == all_ids[2:]
    assert world.ids(text="198.51") == all_ids[1:2]
    listing = world.result(world.operations.connections(sort="up", offset=1, limit=1))
    assert ([row.id for row in listing.rows], listing.total) == ([all_ids[1]], 3)


def test_facts_from_the_bytes_are_keys_before_any_connection_has_them() -> None:
    world = World("web")
    made = world.connect("web", "192.0.2.1", "192.0.2.2")[0]
    made.record.add_facts({"protocol": "tls", "tls_server_name": "a.example"})
    assert world.ids("protocol:tls tls_server_name:example") == [made.record.id]
    assert world.ids("not:protocol:tls") != [made.record.id]
    for name in ("http_host", "http_method", "http_path", "ssh_client", "ssh_server"):
        assert not world.ids(f"{name}:x")
    for name in ("tls_alpn_offered", "postgresql_user", "postgresql_database", "mqtt_client_id"):
        assert not world.ids(f"{name}:x")


def test_a_key_that_no_connection_has_ever_had_as_a_fact_is_an_error() -> None:
    world = World("web")
    (made,) = world.connect("web", "10.0.0.1")
    unknown = "kind_of_x:7"
    for ask in (
        lambda: world.operations.connections(unknown),
        lambda: world.operations.subscribe(lambda *_: None, filter=unknown),
        lambda: world.operations.close(ALICE, filter=unknown),
    ):
        with pytest.raises(FilterError, match='unknown key "kind_of_x"'):
            ask()
    assert not world.ids("fact.kind_of_x:7 tls_version:1")
    made.record.facts["kind_of_x"] = 7
    assert world.ids(unknown) == [made.record.id]
    made.end("client_closed")
    assert not world.ids(unknown)  # but is no mistake


def test_a_short_form_narrows_a_filter() -> None:
    """In one filter, two terms of a key would be alternatives."""
    world = World("web")
    (first, _) = world.connect("web", "192.0.2.1", "192.0.2.2")
    assert world.ids("client:192.0.2.0/24", client="192.0.2.1") == [first.record.id]
    assert world.ids("client:192.0.2.2", client="192.0.2.1") == []
    assert world.ids("state:open", state="closing") == []


def test_closed_connections_are_rows_of_their_own() -> None:
    world = World("web")
    first, second = world.connect("web", "192.0.2.1", "192.0.2.2")
    first.end("operator")
    world.clock.advance(1)
    second.end("stopping")
    listing = world.result(world.operations.connections(closed=True, sort="closed"))
    rows = list(listing.rows)
    assert [row.reason for row in rows] == ["stopping", "operator"]
    assert all(type(row) is ClosedConnectionRow for row in rows)
    assert world.ids("reason:operator", closed=True) == [first.record.id]


def test_rates_are_waited_for_once() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    made.record.opened -= 1000.0
    waiting = world.operations.connections(sort="rate")
    assert not waiting.called
    made.record.up += 500
    world.clock.advance(0.25)
    (row,) = world.result(waiting).rows
    assert (row.up_rate, row.down_rate) == (2000.0, 0.0)
    assert world.operations.connections().called  # the two samples are new enough


def test_rows_are_made_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    snapshot = ConnectionRecord.snapshot

    def counting(record: ConnectionRecord, now: float) -> dict[str, Any]:
        made.append(record.id)
        return snapshot(record, now)

    monkeypatch.setattr(ConnectionRecord, "snapshot", counting)
    world = World("web")
    connections = world.connect("web", *["192.0.2.1"] * 100)
    listing = world.result(world.operations.connections("client:192.0.2.1", sort="up"))
    assert (listing.total, made) == (100, [])
    connections[0].record.up = 77  # after the list was made
    assert next(listing.rows).up == 77
    assert len(made) == 1


def test_one_connection_is_measured_and_diagnosed() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    made.record.connected = made.record.first_up = made.record.opened
    made.record.first_down = made.record.opened + 3.0
    row = world.result(world.operations.connection(made.record.id))
    assert type(row) is ConnectionRow
    assert row.diagnosis is not None
    assert row.diagnosis["looks_like"] == "slow backend"
    assert made.measured == 1
    made.end("operator")
    assert world.result(world.operations.connection(made.record.id)).reason == "operator"
    with pytest.raises(UnknownConnection):
        world.operations.connection(10**9)


def test_one_connection_says_when_its_sides_have_ended() -> None:
    world = World("web")
    [connection] = world.connect("web", "10.0.0.1")
    record = connection.record
    world.clock.advance(2)
    record.note_end("backend", "fin")
    record.half_closed = record.backend_ended = world.clock.seconds()
    world.clock.advance(3)
    row = world.result(world.operations.connection(record.id))
    assert row.backend_ended_seconds == 2
    assert row.client_ended_seconds is None
    [listed] = world.result(world.operations.connections()).rows
    assert "backend_ended_seconds" not in listed.to_json()

    record.note_end("client", "reset")
    connection.end("client_reset")
    ended = world.result(world.operations.connection(record.id))
    assert ended.client_ended_seconds == ended.duration_seconds
    assert ended.backend_ended_seconds == 2


def test_what_is_listed_is_measured_and_nothing_else() -> None:
    world = World("web")
    made = world.connect("web", *["192.0.2.1"] * 5)
    listing = world.result(world.operations.connections(offset=1, limit=3))
    next(listing.rows)
    assert [each.measured for each in made] == [0, 1, 0, 0, 0]
    list(listing.rows)
    assert [each.measured for each in made] == [0, 1, 1, 1, 0]
    made[4].end("operator")
    list(world.result(world.operations.connections(closed=True)).rows)
    assert made[4].measured == 0


def test_a_row_of_one_that_has_closed_since_is_as_it_was_at_its_end() -> None:
    world = World("web")
    first, second = world.connect("web", "192.0.2.1", "192.0.2.2")
    rows = world.result(world.operations.connections()).rows
    second.end("operator")
    assert [row.state for row in rows] == ["open", "closed"]
    assert (first.measured, second.measured) == (1, 0)


@pytest.mark.parametrize("term", ["heard:10s..", "unreachable:10s.."])
def test_a_filter_by_what_the_kernel_knows_asks_it_first(term: str) -> None:
    world = World("web")
    first, second = world.connect("web", "192.0.2.1", "192.0.2.2")

    def measure() -> None:
        first.measured += 1
        since = world.clock.seconds() - 11
        first.record.client_heard = first.record.client_unreachable = since

    first.measure = measure  # type: ignore[method-assign]
    assert world.ids(term) == [first.record.id]
    assert (first.measured, second.measured) == (2, 1)  # once for its row
    dry_run = world.result(world.operations.close(ALICE, filter=term, dry_run=True))
    assert dry_run.ids == (first.record.id,)
    world.result(world.operations.close(ALICE, filter=f"not:{term}"))
    assert world.ids() == [first.record.id]


def test_the_kernel_is_asked_about_the_devices_that_are_listed() -> None:
    world = World("web")
    devices = DevicesService(DevicesConfig(), world.registry, world.clock)
    operations = Operations(world.registry, world.clock, devices=devices)
    first, second = world.connect("web", "192.0.2.1", "192.0.2.2")
    assert [row.device for row in rows(operations.devices(filter="192.0.2.1"))] == ["192.0.2.1"]
    assert (first.measured, second.measured) == (1, 0)
    assert rows(operations.devices(filter="heard:1h..")) == []
    assert (first.measured, second.measured) == (2, 1)


def test_to_ask_the_kernel_about_thousands_takes_turns() -> None:
    world = World("web")
    made = world.connect("web", *["192.0.2.1"] * 150)
    world.ids()  # so that rates are known

    measured: list[None] = []

    def measure() -> None:
        measured.append(None)
        world.clock.rightNow += WORK_SECONDS / 20
        made[0].record.client_heard = 0.0

    for each in made:
        each.measure = measure  # type: ignore[method-assign]
    found: list[int] = []
    waiting = world.operations.connections("heard:1s..", limit=0)
    waiting.addCallback(lambda listing: found.append(listing.total))
    made[-1].end("operator")  # meanwhile
    assert found == []
    assert len(measured) <= 21  # of one turn
    world.clock.advance(0)
    assert (found, len(measured)) == ([1], len(made) - 1)


def test_an_error_in_a_later_turn_is_that_of_the_query() -> None:
    world = World("web")
    made = world.connect("web", *["192.0.2.1"] * 50)

    def fail() -> None:
        raise ZeroDivisionError

    def measure() -> None:
        world.clock.rightNow += WORK_SECONDS
        made[-1].measure = fail  # type: ignore[method-assign]

    made[0].measure = measure  # type: ignore[method-assign]
    waiting = world.operations.close(ALICE, filter="unreachable:0..")
    world.clock.advance(0)
    assert isinstance(world.result(waiting), Failure)


def test_ips_clients_and_blocks_are_filtered() -> None:
    world = World("web", "ssh")
    world.connect("web", "192.0.2.1", "192.0.2.1", "198.51.100.1")
    operations = world.operations
    assert [(row.ip, row.connections) for row in rows(operations.ips("web"))] == [
        ("192.0.2.1", 2),
        ("198.51.100.1", 1),
    ]
    assert [row.ip for row in rows(operations.ips("web", "connections:2.."))] == ["192.0.2.1"]
    assert [row.ip for row in rows(operations.clients(filter="198.51.100.0/24"))] == [
        "198.51.100.1"
    ]
    operations.block(OWN_CODE, "203.0.113.0/24")
    operations.block(OWN_CODE, "2001:db8::/32", service="ssh")
    blocks = [(row.service, row.network) for row in rows(operations.blocks(filter="service:ssh"))]
    assert blocks == [(None, "203.0.113.0/24"), ("ssh", "2001:db8::/32")]
    assert [row.service for row in rows(operations.blocks(filter="client:2001:db8::/16"))] == [
        "ssh"
    ]


def test_what_is_not_configured_is_an_error() -> None:
    operations = World("web").operations
    ask: list[Callable[[], Any]] = [
        operations.devices,
        operations.history,
        operations.history_events,
        operations.report,
    ]
    for each in ask:
        with pytest.raises(NotConfigured):
            each()


def test_thousands_of_ids_are_not_compared_with_each_other() -> None:
    class Counting(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counting.compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    ids = 2_000
    terms = [Term("id", Range(Counting(each), Counting(each))) for each in range(ids)]
    service = Term("service", Part("web"))
    assert split_ids([*terms, service]) == (list(range(ids)), (service,))
    assert Counting.compared < 20 * ids


def test_errors_come_before_anything_is_done() -> None:
    world = World("web")
    operations = world.operations
    for error, call in (
        (UnknownService, lambda: operations.connections(service="ftp")),
        (UnknownService, lambda: operations.subscribe(print, service="ftp")),
        (UnknownService, lambda: operations.block(ALICE, "192.0.2.1", service="ftp")),
        (FilterError, lambda: operations.connections("idle:soon")),
        (FilterError, lambda: operations.subscribe(print, filter="idle:soon")),
        (FilterError, lambda: operations.close(ALICE, filter="web")),
        (QuestionError, lambda: operations.connections(sort="colour")),
        (QuestionError, lambda: operations.connections(state="shut")),
        (QuestionError, lambda: operations.close(ALICE)),
        (QuestionError, lambda: operations.close(ALICE, ids=range(MAX_IDS + 1))),
        (FilterError, lambda: operations.close(ALICE, filter=list(map(str, range(MAX_IDS + 1))))),
        (QuestionError, lambda: operations.subtract_stats(ALICE, "web", 1, 0)),
        (AddressError, lambda: operations.block(ALICE, "all")),
        (AddressError, lambda: operations.close(ALICE, client="all")),
    ):
        with pytest.raises(error):
            call()
    assert world.actions.all == []


def test_the_history_is_asked_with_the_filter() -> None:
    class History:
        def run(self, query: Any) -> Deferred[Any]:
            asked.append(query)
            return succeed(([], None))

    asked: list[Any] = []
    world = World("web")
    operations = Operations(world.registry, world.clock, history=History())  # type: ignore[arg-type]
    found = world.result(operations.history("idle:5m.. reason:client_lost", limit=5))
    assert (list(found.rows), found.total) == ([], 0)
    assert world.result(operations.history_events("event:action")).total == 0
    with pytest.raises(FilterError):
        operations.history("rate:1..")
    assert len(asked) == 2


# -- actions


def closed_ids(world: World, **arguments: Any) -> tuple[int, ...]:
    return world.result(world.operations.close(ALICE, **arguments)).ids


def test_connections_are_closed_by_ids_and_filters() -> None:
    world = World("web", "ssh")
    first, second, third = world.connect("web", "192.0.2.1", "192.0.2.2", "198.51.100.1")
    (fourth,) = world.connect("ssh", "192.0.2.1")
    result = world.result(world.operations.close(ALICE, ids=[first.record.id, 10**9]))
    assert (result.ids, result.unknown) == ((first.record.id,), (10**9,))
    assert (first.record.reason, first.was_reset) == ("operator", False)
    assert closed_ids(world, filter=f"{second.record.id}", reset=True) == (second.record.id,)
    assert second.was_reset
    assert closed_ids(world, filter="client:192.0.2.0/24", service="web") == ()
    assert closed_ids(world, ids=[third.record.id], client="192.0.2.1") == ()
    assert closed_ids(world, service="web") == (third.record.id,)
    assert closed_ids(world, filter=["service:ssh", "client:192.0.2.1"]) == (fourth.record.id,)


def test_an_unknown_id_in_a_filter_is_reported() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    filter = f"{10**9} {made.record.id} client:192.0.2.0/24"
    result = world.result(world.operations.close(ALICE, filter=filter))
    assert (result.ids, result.unknown) == ((made.record.id,), (10**9,))


def test_connections_are_closed_and_shown_by_their_uids() -> None:
    world = World("web")
    first, second, third, fourth = (
        each.record for each in world.connect("web", *(f"192.0.2.{each}" for each in range(4)))
    )
    row = world.result(world.operations.connection(second.uid))
    assert (row.id, row.uid) == (second.id, second.uid)
    assert closed_ids(world, filter=first.uid.upper()) == (first.id,)
    # Like ids, several are alternatives, also together with ids.
    filter = f"{second.uid} {third.id} uid:{second.uid}"
    assert closed_ids(world, filter=filter) == (second.id, third.id)
    result = world.result(world.operations.close(ALICE, filter=f"{first.uid} {fourth.uid}"))
    assert (result.ids, result.unknown) == ((fourth.id,), (first.id,))
    with pytest.raises(UnknownConnection, match="is of another run"):
        world.operations.close(ALICE, filter="k7xq2m9tbw4c-1")


def test_an_ending_connection_is_closed_only_by_its_id_or_a_reset() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    made.record.end("operator", 1000.0)
    assert closed_ids(world, service="web") == ()
    assert closed_ids(world, ids=[made.record.id], dry_run=True) == (made.record.id,)
    assert closed_ids(world, service="web", reset=True) == (made.record.id,)


def test_closing_by_rate_waits_for_rates() -> None:
    world = World("web")
    fast, slow = world.connect("web", "192.0.2.1", "192.0.2.2")
    for each in (fast, slow):
        each.record.opened, each.record.up = 1.0, 10**9  # much, long ago
    waiting = world.operations.close(ALICE, filter="rate:1KiB..")
    assert not waiting.called
    fast.record.up += 10**6
    world.clock.advance(0.25)
    assert world.result(waiting).ids == (fast.record.id,)
    assert slow.record.reason is None


Act = Callable[[Operations, bool], Any]
ACTIONS: list[tuple[Act, str, str, int, bool]] = [
    (
        lambda ops, dry: ops.close(ALICE, filter="client:192.0.2.0/24", dry_run=dry),
        "close",
        "closed 2 connections (client:192.0.2.0/24)",
        2,
        True,
    ),
    (
        lambda ops, dry: ops.close(ALICE, service="web", client="192.0.2.1", dry_run=dry),
        "close",
        "closed 1 connection (service:web client:192.0.2.1)",
        1,
        True,
    ),
    (
        lambda ops, dry: ops.close(ALICE, service="ssh", reset=True, dry_run=dry),
        "reset",
        "reset 1 connection (service:ssh)",
        1,
        True,
    ),
    (
        lambda ops, dry: ops.close(ALICE, client="198.51.100.99", dry_run=dry),
        "close",
        "closed 0 connections (client:198.51.100.99)",
        0,
        True,
    ),
    (
        lambda ops, dry: ops.block(ALICE, "192.0.2.1", dry_run=dry),
        "block",
        "blocked 192.0.2.1/32 at all services, ended 2 connections",
        2,
        True,
    ),
    (
        lambda ops, dry: ops.block(ALICE, "203.0.113.0/24", service="web", dry_run=dry),
        "block",
        "blocked 203.0.113.0/24 at web, ended 0 connections (no change)",
        0,
        False,
    ),
    (
        lambda ops, dry: ops.unblock(ALICE, "203.0.113.0/24", dry_run=dry),
        "unblock",
        "unblocked 203.0.113.0/24 at all services",
        0,
        True,
    ),
    (
        lambda ops, dry: ops.unblock(ALICE, "192.0.2.1", service="ssh", dry_run=dry),
        "unblock",
        "unblocked 192.0.2.1/32 at ssh (no change)",
        0,
        False,
    ),
    (
        lambda ops, dry: ops.reset_stats(ALICE, dry_run=dry),
        "reset_stats",
        "set the totals of all services to zero",
        0,
        True,
    ),
    (
        lambda ops, dry: ops.subtract_stats(ALICE, "web", 3, 4, dry_run=dry),
        "subtract_stats",
        "subtracted 3 B up, 4 B down from the totals of web",
        0,
        True,
    ),
]


def world_to_act_on() -> World:
    world = World("web", "ssh")
    (made, _) = world.connect("web", "192.0.2.1", "198.51.100.1")
    made.record.up, made.record.down = 10, 10
    world.connect("ssh", "192.0.2.1")
    world.registry.get("web").block("203.0.113.0/24", actor=None)
    return world


@pytest.mark.parametrize("which", [{"ids": [10**9]}, {"filter": f"id:{10**9}"}])
def test_to_close_ids_of_which_none_is_live_is_no_action(which: dict[str, Any]) -> None:
    world = world_to_act_on()
    with logged_lines() as lines:
        result = world.result(world.operations.close(ALICE, **which))
    assert (result.ids, result.unknown) == ((), (10**9,))
    assert (lines, world.actions.all) == ([], [])


def state_of(world: World) -> Any:
    return [
        (monitor.stats()["total"], monitor.bytes(), monitor.blocks(), len(monitor))
        for monitor in world.registry
    ]


@pytest.mark.parametrize(("act", "kind", "line", "count", "changed"), ACTIONS)
def test_an_action_is_one_line_and_one_event(
    act: Act, kind: str, line: str, count: int, changed: bool
) -> None:
    world = world_to_act_on()
    with logged_lines() as lines:
        act(world.operations, False)
    assert lines == [f"{line} for uid 1000 (alice), pid 4242"]
    (action,) = world.actions.all
    assert (action.kind, action.actor, action.count, action.changed) == (
        kind,
        ALICE,
        count,
        changed,
    )


@pytest.mark.parametrize(("act", "count", "changed"), [(each[0], *each[3:]) for each in ACTIONS])
def test_a_dry_run_says_the_same_and_does_nothing(act: Act, count: int, changed: bool) -> None:
    world = world_to_act_on()
    before = state_of(world)
    with logged_lines() as lines:
        result = act(world.operations, True)
    if isinstance(result, Deferred):
        assert len(world.result(result).ids) == count
    else:
        assert (result.count, result.changed) == (count, changed)
    assert (lines, world.actions.all, state_of(world)) == ([], [], before)


def test_a_dry_run_cannot_subtract_too_much() -> None:
    world = world_to_act_on()
    for dry_run in (True, False):
        with pytest.raises(QuestionError, match=r"^cannot subtract 11 up and 0 down from "):
            world.operations.subtract_stats(ALICE, "web", 11, 0, dry_run=dry_run)


OWN: list[tuple[Callable[[Monitor], Any], str]] = [
    (lambda web: web.close(web.connections()[0].id), "close"),
    (lambda web: web.close(web.connections()[0].id, reset=True), "reset"),
    (lambda web: web.close_all("192.0.2.0/24"), "close"),
    (lambda web: web.block("192.0.2.1"), "block"),
    (lambda web: web.unblock("192.0.2.1"), "unblock"),
    (lambda web: web.subtract(1, 1), "subtract_stats"),
    (lambda web: web.reset_stats(), "reset_stats"),
]


@pytest.mark.parametrize(("act", "kind"), OWN)
def test_calls_of_the_library_are_actions_of_own_code(
    act: Callable[[Monitor], Any], kind: str
) -> None:
    world = world_to_act_on()
    with logged_lines() as lines:
        act(world.registry.get("web"))
    (action,) = world.actions.all
    assert (action.kind, action.actor, action.service) == (kind, OWN_CODE, "web")
    (line,) = lines
    assert line.endswith("for own code")


def test_a_loop_of_own_code_does_not_flood_the_log() -> None:
    world = World("web")
    web = world.registry.get("web")
    made = world.connect("web", *("192.0.2.1" for _ in range(1000)))
    with logged_lines() as lines:
        for each in made:
            web.close(each.record.id)
        assert len(lines) == 20
        web.block("192.0.2.1", actor=ALICE)  # an operator's is written, whatever the code does
        assert lines[20:] == [
            "blocked 192.0.2.1/32 at web, ended 0 connections for uid 1000 (alice), pid 4242"
        ]
        world.clock.advance(1)
        assert lines[21:] == ["web: 980 more actions for own code: 980 close"]
        web.reset_stats()
        assert lines[22:] == ["set the totals of web to zero for own code"]
        for _ in range(20):
            web.reset_stats()
        web.stop(0)
        assert lines[42:] == ["web: 1 more actions for own code: 1 reset_stats"]
    assert not world.clock.getDelayedCalls()
    assert len(world.actions.all) == 1022


def test_an_observer_without_the_hook_goes_on_working() -> None:
    class Older:
        """An observer without the optional hook ``acted``."""

        watches_payload = False
        closed_ids: tuple[int, ...] = ()

        def opened(self, record: Any) -> None:
            pass

        refused = data = alarmed = opened

        def closed(self, record: Any) -> None:
            self.closed_ids += (record.id,)

    world = World("web")
    older: Any = Older()
    world.registry.get("web").add_observer(older)
    (made,) = world.connect("web", "192.0.2.1")
    closed_ids(world, service="web")
    assert older.closed_ids == (made.record.id,)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit])
def test_a_failing_observer_does_not_prevent_an_action(
    error: type[BaseException], logged_failures: list[Any]
) -> None:
    class Failing:
        watches_payload = False

        def acted(self, action: Action) -> None:
            raise error("it fails")

        def opened(self, record: Any) -> None:
            pass

        refused = data = closed = alarmed = opened

    world = World("web")
    failing: Any = Failing()
    world.registry.get("web").add_observer(failing)
    world.connect("web", "192.0.2.1")
    assert len(closed_ids(world, service="web")) == 1
    assert len(logged_failures) == 1
    logged_failures.clear()
    world.operations.reset_stats(ALICE)
    assert not logged_failures  # it is switched off
    assert [action.kind for action in world.actions.all] == ["close", "reset_stats"]


def test_a_long_target_is_cut() -> None:
    world = World("web")
    (made,) = world.connect("web", "192.0.2.1")
    first = made.record.id
    closed_ids(world, ids=range(first, first + 2000))
    closed_ids(world, filter=" ".join(f"not:client:10.0.{n}.0/24" for n in range(90)))
    by_ids, by_filter = world.actions.all
    assert by_ids.target.endswith(f"{first + 9} and 1990 more")
    assert len(by_filter.target) == 500


@pytest.mark.parametrize(
    ("actor", "text"),
    [
        (Actor.process(0, 1), "uid 0, pid 1"),
        (Actor.process(1000, 4242, "alice"), "uid 1000 (alice), pid 4242"),
        (Actor.certificate("CN=alice\n,O=x"), "certificate CN=alice\\n,O=x"),
        (Actor.ssh("SHA256:abc", "root"), "ssh key SHA256:abc (user root)"),
        (Actor.signal("SIGTERM"), "signal SIGTERM"),
    ],
)
def test_every_actor_has_a_text_without_control_characters(actor: Actor, text: str) -> None:
    assert actor.describe() == text
    assert len(Actor.ssh("x" * 10**6, "y" * 10**6).describe()) < 300


# -- cost


class Counting(dict[Any, Any]):
    """Counts look-ups."""

    count = 0

    def __contains__(self, key: object) -> bool:
        self.count += 1
        return super().__contains__(key)


def test_many_ids_are_not_tried_on_each_connection() -> None:
    world = World("web", "ssh")
    made = world.connect("web", *["192.0.2.1"] * 1000) + world.connect("ssh", *["192.0.2.1"] * 10)
    monitors = list(world.registry)
    for monitor in monitors:
        monitor.live.by_id = Counting(monitor.live.by_id)
    closed = closed_ids(world, ids=[each.record.id for each in made], dry_run=True)
    assert len(closed) == 1010
    assert sum(monitor.live.by_id.count for monitor in monitors) <= 1010  # type: ignore[attr-defined]


def test_a_stop_by_a_signal_is_an_action_of_all_services() -> None:
    world = World("web", "ssh")
    world.connect("web", "192.0.2.1")
    with logged_lines() as lines:
        world.operations.report_stop(Actor.signal("SIGTERM"))
        world.operations.report_stop(Actor.signal("SIGINT"), at_once=True)
    assert lines == [
        "stopping (1 connection live) for signal SIGTERM",
        "stopping at once (1 connection live) for signal SIGINT",
    ]
    assert [(each.kind, each.service, each.count) for each in world.actions.all] == [
        ("stop", None, 1),
        ("stop_now", None, 1),
    ]
