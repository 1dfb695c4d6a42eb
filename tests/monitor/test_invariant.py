"""Invariant 1: each admitted connection opens once and closes once, with one reason; totals are
those of the closed and the live, less what was subtracted, at every moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from twisted.internet.task import Clock
from zope.interface import implementer

from monconn.errors import UnknownConnection
from monconn.model.reasons import REASONS, Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, Observer
from monconn.monitor.monitor import Monitor
from monconn.policy.rules import Rules
from tests.properties import examples

IPS = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "2001:db8::1"]
SPELLINGS = [*IPS, "::ffff:10.0.0.1", "::ffff:a01:1"]
NETWORKS = {
    "10.0.0.1": {"10.0.0.1"},
    "10.0.0.0/8": {"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1"},
    "10.0.0.2/31": {"10.0.0.2", "10.0.0.3"},
    "2001:db8::/32": {"2001:db8::1"},
}
BYTES = st.integers(0, 1000)


@implementer(IConnection)
@attrs.define(eq=False)
class Connection:
    """A connection whose sockets are closed by a rule of the machine, later than it is ended."""

    monitor: Monitor
    record: ConnectionRecord

    def end(self, reason: Any, reset: bool = False) -> None:
        self.record.end(reason, self.monitor.clock.seconds())

    def policy_changed(self) -> None:
        """There are no deadlines."""

    def measure(self) -> None:
        pass


class CountingObserver(Observer):
    """Counts its notifications, and checks the totals in the middle of each change."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.opened_ids: list[int] = []
        self.closed_reasons: dict[int, str | None] = {}
        self.refusals: Counter[str | None] = Counter()
        self.bytes_seen = (0, 0)

    def opened(self, record: ConnectionRecord) -> None:
        self.opened_ids.append(record.id)
        self._no_byte_moves()

    def closed(self, record: ConnectionRecord) -> None:
        assert record.id not in self.closed_reasons
        self.closed_reasons[record.id] = record.reason
        self._no_byte_moves()

    def refused(self, record: ConnectionRecord) -> None:
        self.refusals[record.refusal] += 1
        self._no_byte_moves()

    def _no_byte_moves(self) -> None:
        assert self.monitor.bytes() == self.bytes_seen


class OneService(RuleBasedStateMachine):
    """A monitor beside a model that knows only lists and sums."""

    live = Bundle("live")
    over = Bundle("over")

    @initialize(conn_limit=st.integers(0, 5), ip_limit=st.integers(0, 3))
    def boot(self, conn_limit: int, ip_limit: int) -> None:
        self.clock = Clock()
        self.service_rules = Rules(conn_limit=conn_limit, ip_limit=ip_limit)
        self.monitor = Monitor(rules=self.service_rules, clock=self.clock)
        self.witness = CountingObserver(self.monitor)
        self.monitor.add_observer(self.witness)
        self.stopped: Any = None
        # The model.
        self.connections: list[Connection] = []  # those that live
        self.all: list[ConnectionRecord] = []
        self.reasons: dict[int, str] = {}  # of those that were ended: the first reason
        self.blocked: set[str] = set()
        self.up = self.down = self.total = 0  # less what was subtracted
        self.refused: Counter[str] = Counter()
        self.refused_ever: Counter[str] = Counter()
        self.closed_before: Counter[str | None] = Counter()  # before the last reset

    # -- what clients and sockets do

    @rule(target=live, spelling=st.sampled_from(SPELLINGS))
    def come(self, spelling: str) -> Any:
        ip = {"::ffff:10.0.0.1": "10.0.0.1", "::ffff:a01:1": "10.1.0.1"}.get(spelling, spelling)
        expected = self.expected_refusal(ip)
        record = self.monitor.admit(f"[{spelling}]:1", spelling)
        if expected is not None:
            assert record is None
            self.refused[expected] += 1
            self.refused_ever[expected] += 1
            return multiple()
        assert record is not None
        assert record.client_ip == ip
        connection = Connection(self.monitor, record)
        self.connections.append(connection)
        self.all.append(record)
        self.total += 1
        self.monitor.opened(connection)
        return connection

    def expected_refusal(self, ip: str) -> str | None:
        ips = {connection.record.client_ip for connection in self.connections}
        if self.stopped is not None:
            return "stopping"
        if any(ip in NETWORKS[network] for network in self.blocked):
            return "blocked"
        if 0 < self.service_rules.conn_limit <= len(self.connections):
            return "conn_limit"
        if 0 < self.service_rules.ip_limit <= len(ips - {ip}):
            return "ip_limit"
        return None

    @rule(connection=live, up=BYTES, down=BYTES)
    def send(self, connection: Connection, up: int, down: int) -> None:
        """Bytes may still come once the verdict has fallen, until the sockets are closed."""
        connection.record.up += up
        connection.record.down += down
        self.up += up
        self.down += down
        self.witness.bytes_seen = (self.up, self.down)

    @rule(connection=live, reason=st.sampled_from(REASONS))
    def end(self, connection: Connection, reason: Reason) -> None:
        connection.record.end(reason, self.clock.seconds())
        self.note_reason(connection, reason)

    @rule(target=over, connection=consumes(live), reason=st.sampled_from(REASONS))
    def close(self, connection: Connection, reason: Reason) -> Connection:
        self.end(connection, reason)
        self.connections.remove(connection)
        self.monitor.closed(connection)
        return connection

    @rule(connection=over)
    def close_again(self, connection: Connection) -> None:
        self.monitor.closed(connection)

    # -- what the operator does

    @rule(connection=live, reset=st.booleans())
    def operator_closes(self, connection: Connection, reset: bool) -> None:
        self.monitor.close(connection.record.id, reset=reset)
        self.note_reason(connection, "operator")

    @rule(connection=over)
    def operator_closes_what_is_over(self, connection: Connection) -> None:
        try:
            self.monitor.close(connection.record.id)
        except UnknownConnection:
            return
        raise AssertionError("it is known still")

    @rule(network=st.sampled_from(sorted(NETWORKS)))
    def block(self, network: str) -> None:
        assert self.monitor.block(network) == (network not in self.blocked)
        self.blocked.add(network)
        for connection in self.connections:
            if connection.record.client_ip in NETWORKS[network]:
                self.note_reason(connection, "blocked")

    @rule(network=st.sampled_from(sorted(NETWORKS)))
    def unblock(self, network: str) -> None:
        assert self.monitor.unblock(network) == (network in self.blocked)
        self.blocked.discard(network)

    @rule(data=st.data())
    def subtract(self, data: st.DataObject) -> None:
        up = data.draw(st.integers(0, self.up))
        down = data.draw(st.integers(0, self.down))
        self.monitor.subtract(up, down)
        self.up -= up
        self.down -= down
        self.witness.bytes_seen = (self.up, self.down)

    @rule(more_up=st.integers(0, 2), more_down=st.integers(1, 2))
    def subtract_too_much(self, more_up: int, more_down: int) -> None:
        try:
            self.monitor.subtract(self.up + more_up, self.down + more_down)
        except ValueError:
            return
        raise AssertionError("more was subtracted than there was")

    @rule()
    def reset_stats(self) -> None:
        self.monitor.reset_stats()
        self.up = self.down = self.total = 0
        self.witness.bytes_seen = (0, 0)
        self.refused.clear()
        self.closed_before = Counter(self.witness.closed_reasons.values())

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def stop(self) -> None:
        if self.stopped is None:
            self.stopped = self.monitor.stop(wait_seconds=1e9)

    def note_reason(self, connection: Connection, reason: str) -> None:
        self.reasons.setdefault(connection.record.id, reason)

    # -- invariants

    @invariant()
    def totals_are_right(self) -> None:
        stats = self.monitor.stats()
        assert self.monitor.bytes() == (self.up, self.down) == (stats["up"], stats["down"])
        assert stats["total"] == self.total
        assert stats["refused_by"] == {key: count for key, count in self.refused.items() if count}
        assert self.witness.refusals == self.refused_ever
        closed = Counter(self.witness.closed_reasons.values())
        assert stats["closed_by"] == closed - self.closed_before

    @invariant()
    def slots_are_exact(self) -> None:
        records = [connection.record for connection in self.connections]
        by_ip = Counter(record.client_ip for record in records)
        assert self.monitor.connections() == records
        assert len(self.monitor) == len(records)
        assert self.monitor.connections_by_ip() == by_ip
        assert self.monitor.stats()["ips"] == sorted(by_ip)
        limit = self.service_rules.conn_limit
        is_full = 0 < limit <= len(records)
        assert self.monitor.room.must_wait() == (is_full and self.stopped is None)

    @invariant()
    def each_opens_once_and_closes_once_with_one_reason(self) -> None:
        live_ids = {connection.record.id for connection in self.connections}
        assert self.witness.opened_ids == [record.id for record in self.all]
        assert self.witness.closed_reasons == {
            record.id: self.reasons[record.id] for record in self.all if record.id not in live_ids
        }
        for record in self.all:
            assert record.reason == self.reasons.get(record.id)
            assert (record.state == "closed") == (record.id not in live_ids)

    @invariant()
    def clients_add_up(self) -> None:
        clients = self.monitor.clients.snapshot(self.monitor.connections())
        assert {client["ip"]: client["total"] for client in clients} == Counter(
            record.client_ip for record in self.all
        )
        assert sum(client["connections"] for client in clients) == len(self.connections)
        assert sum(client["up"] for client in clients) == sum(record.up for record in self.all)
        assert sum(client["down"] for client in clients) == sum(record.down for record in self.all)

    @invariant()
    def stopping_ends_with_the_last_connection(self) -> None:
        if self.stopped is not None:
            assert self.stopped.called == (not self.connections)


OneService.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=40, deadline=None
)
TestInvariant = OneService.TestCase
