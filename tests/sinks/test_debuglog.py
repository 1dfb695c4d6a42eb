"""What ``-D`` tells of each connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock

from monconn.config.config import Config
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.policy import Policy
from monconn.run.application import Application
from monconn.sinks.debuglog import DebugLog
from tests.logged import logged_lines


class Service:
    """A monitor that is observed, and connections without sockets."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.registry = Registry()
        self.registry.observe(DebugLog(self.registry))
        self.monitor: Monitor = self.registry.new(
            "web", policy=Policy.of(**settings), clock=self.clock, backend="10.0.0.5:80"
        )

    def enter(self, ip: str) -> Any:
        record = self.monitor.admit(f"{ip}:4711", ip)
        if record is None:
            return None
        connection = Mock(record=record)
        self.monitor.opened(connection)
        return connection

    def connected(self, record: ConnectionRecord, seconds: float) -> None:
        self.clock.advance(seconds)
        record.connected = self.clock.seconds()
        self.monitor.backend_connected(record)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    with logged_lines("monconn.sinks.debuglog") as lines:
        yield lines


def test_the_life_of_a_connection(lines: list[str]) -> None:
    service = Service(max_idle=60)
    connection = service.enter("192.0.2.1")
    record = connection.record
    service.connected(record, 0.0123)
    service.clock.advance(2.0)
    service.monitor.half_closed(record, "client")
    record.note_end("client", "fin")
    record.end("idle_timeout", service.clock.seconds(), "")
    service.monitor.closed(connection)
    head = f"web: 192.0.2.1:4711 id {record.id}: "
    assert lines == [
        f"{head}admitted, dialling 10.0.0.5:80",
        f"{head}connected to 10.0.0.5:80 in 12ms",
        f"{head}the client has ended its side after 2.01s, the backend has not",
        f"{head}closed: idle_timeout, the client's end: fin, the backend's: none,"
        " max_idle is 1m00s",
    ]


def test_a_dial_that_fails(lines: list[str]) -> None:
    service = Service()
    connection = service.enter("192.0.2.1")
    connection.record.end("backend_refused", 0.0, "connection refused")
    service.monitor.closed(connection)
    assert lines[-1].endswith(
        "closed: backend_refused, never connected to 10.0.0.5:80,"
        " the client's end: none, the backend's: none (connection refused)"
    )


def test_limits_and_what_they_were_compared_with(lines: list[str]) -> None:
    service = Service(conn_limit=2, when_full="refuse", ip_blacklist=["192.0.2.0/24"])
    service.enter("10.0.0.1")
    service.enter("10.0.0.1")
    assert service.enter("10.0.0.2") is None
    assert service.enter("192.0.2.9") is None
    service.monitor.apply(Policy.of(ip_limit=1, conn_limit=2))
    service.monitor.apply(Policy.of(ip_limit=1))
    assert service.enter("10.0.0.3") is None
    texts = [line.partition(": ")[2].partition(": ")[2] for line in lines]
    assert texts == [
        "admitted, connection 1 of 2 (conn_limit), dialling 10.0.0.5:80",
        "admitted, connection 2 of 2 (conn_limit), dialling 10.0.0.5:80",
        "refused by conn_limit: 2 connections are live, of 2 that may be",
        "refused by blocked: 192.0.2.9 is in 192.0.2.0/24",
        "refused by ip_limit: 1 clients are connected, of 1 that may be",
    ]


def test_a_full_service_whose_clients_wait(lines: list[str]) -> None:
    service = Service(conn_limit=1, ip_limit=5)
    service.enter("10.0.0.1")
    assert (
        "connection 1 of 1 (conn_limit), further ones wait in the accept queue,"
        " client 1 of 5 (ip_limit)"
    ) in lines[0]


def test_which_block(lines: list[str]) -> None:
    """Also among a hundred thousand; and what comes over a UNIX socket has no IP."""
    networks = [f"10.0.{number // 256}.{number % 256}" for number in range(2_000)]
    service = Service(ip_blacklist=networks)
    assert service.enter("10.0.0.1") is None
    assert lines[-1].endswith(": refused by blocked: 10.0.0.1 is in 10.0.0.1/32")


def test_who_does_not_ask_pays_nothing() -> None:
    reactor = Mock(spec=["seconds", "callLater"])
    for debug in (False, True):
        app = Application(Config(control=None), reactor, debug=debug)
        monitor = app.registry.new("web", clock=Clock())
        assert bool(monitor.observers.by_hook["backend_connected"]) is debug
