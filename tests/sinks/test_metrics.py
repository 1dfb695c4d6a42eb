"""Metrics: every one after known events, over HTTP, and as read by Prometheus' own tools."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import MetricsConfig
from monconn.errors import ListenError
from monconn.histogram import Histogram
from monconn.model import tcpinfo
from monconn.model.alarms import ALARM_KINDS, SERVICE_ALARM_KINDS, Alarm
from monconn.model.reasons import REASONS, REFUSALS, Reason
from monconn.model.record import PROTOCOLS, ConnectionRecord
from monconn.monitor.interfaces import IConnection
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.net.http import server as http_server
from monconn.net.http.requests import Limits
from monconn.net.sockets import TCP_INFO_BYTES
from monconn.policy.policy import SETTINGS, Policy
from monconn.policy.quantities import Bandwidth
from monconn.policy.rules import Rules
from monconn.policy.sides import Sides
from monconn.policy.timeouts import Timeouts
from monconn.sinks.capture_files import CaptureTotals
from monconn.sinks.metrics.families import Families, _time_limits, encoder_for
from monconn.sinks.metrics.figures import DECODED_AT_ONCE, ServiceFigures
from monconn.sinks.metrics.service import MetricsService
from monconn.sinks.notify.output import OutputTotals
from monconn.turns import TurnMeter
from tests import ROOT
from tests.counting import calls_in_python

RULES = ROOT / "examples" / "prometheus-rules.yml"
DASHBOARD = ROOT / "examples" / "grafana-dashboard.json"
HANG_SECONDS = 30.0
FREE_PORT = TcpAddress("127.0.0.1", 0)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
COUNTERS = re.compile(r"monconn_\w+_(total|bucket|sum|count)")


@implementer(IConnection)
class Connection:
    """A connection without sockets, which moves bytes as the test chooses."""

    def __init__(self, monitor: Monitor, ip: str) -> None:
        record = monitor.admit(f"{ip}:4711", ip)
        assert record is not None
        self.record: ConnectionRecord = record
        self._monitor = monitor
        monitor.opened(self)

    def end(self, reason: Reason, reset: bool = False) -> None:
        self.record.end(reason, self._monitor.clock.seconds())
        self._monitor.closed(self)

    def policy_changed(self) -> None:
        """There are no deadlines."""

    def measure(self) -> None:
        """There are no sockets."""

    def connect(self) -> None:
        self.record.connected = self._monitor.clock.seconds()
        self.record.state = "open"

    def move(self, up: int, down: int) -> None:
        now = self._monitor.clock.seconds()
        self.record.up += up
        self.record.down += down
        if down and self.record.first_down is None:
            self.record.first_down = now


class Program:
    """A registry with a fake clock, and its metrics.

    :param turns: measures the turns of its reactor, if that one does.
    """

    def __init__(self, *services: str, turns: TurnMeter | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.registry = Registry()
        for name in services:
            self.registry.new(name, clock=self.clock)
        self.drops: dict[str, int] = {}
        self.captures: CaptureTotals | None = None
        self.outputs: dict[int, OutputTotals] = {}
        config = MetricsConfig(FREE_PORT)
        reactor = object() if turns is None else SimpleNamespace(turn_meter=turns)
        self.service = MetricsService(
            config,
            self.registry,
            reactor,
            self.clock,
            lambda: self.drops,
            captures=lambda: self.captures,
            outputs=lambda: self.outputs,
        )

    def text(self, accept: str = "") -> str:
        encode, _ = encoder_for(accept)
        return encode(Families(self.service.sample())).decode()

    def values(self) -> dict[str, float]:
        """Every sample by its name and labels, as in the text format."""
        return values_of(self.text())


def values_of(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def bucket_counts(values: dict[str, float], name: str) -> dict[str, float]:
    """The number of values in each bucket of a histogram that is not empty."""
    found, before = {}, 0.0
    for key, count in values.items():
        if matched := re.fullmatch(rf'{name}_bucket{{le="(.+)",service="web"}}', key):
            if count > before:
                found[matched[1]] = count - before
            before = count
    return found


# -- every figure


def test_a_service_without_clients_has_every_figure_at_0() -> None:
    values = Program("web").values()
    expected = [
        *(f'monconn_connections_closed_total{{reason="{each}",service="web"}}' for each in REASONS),
        *(f'monconn_connections_refused_total{{reason="{r}",service="web"}}' for r in REFUSALS),
        *(f'monconn_alarms_total{{alarm="{each}",service="web"}}' for each in ALARM_KINDS),
        *(f'monconn_alarms_active{{alarm="{each}",service="web"}}' for each in ALARM_KINDS),
        *(f'monconn_bytes_total{{direction="{each}",service="web"}}' for each in ("up", "down")),
        'monconn_connections_opened_total{service="web"}',
        'monconn_connections{service="web"}',
        'monconn_client_ips{service="web"}',
        'monconn_connection_duration_seconds_count{service="web"}',
        'monconn_connect_seconds_sum{service="web"}',
        'monconn_first_byte_seconds_bucket{le="+Inf",service="web"}',
        "monconn_reactor_lag_seconds",
        "monconn_reactor_lag_max_seconds",
    ]
    assert {name: values.get(name) for name in expected} == dict.fromkeys(expected, 0.0)


def test_time_on_hold_for_bandwidth_is_there_once_there_was_a_bandwidth() -> None:
    program = Program("web")
    name = 'monconn_bandwidth_held_seconds_total{direction="down",service="web"}'
    assert name not in program.values()
    monitor = program.registry.get("web")
    monitor.rules = Rules(bandwidth=Bandwidth(down=5000))
    assert program.values()[name] == 0
    assert monitor.bandwidth is not None
    monitor.bandwidth.down.held_seconds = 2.5
    assert program.values()[name] == 2.5


def test_files_that_were_lost_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monconn.files.lost", {"socket": 2, "json_log": 0})
    values = Program().values()
    assert values['monconn_files_lost_total{file="socket"}'] == 2
    assert values['monconn_files_lost_total{file="json_log"}'] == 0


def test_turns_of_the_loop() -> None:
    now = [1000.0]
    meter = TurnMeter(lambda: now[0])
    meter.start()
    for seconds in (0.0004, 0.03, 0.003):
        began = now[0]
        now[0] += seconds
        meter.sum_seconds += seconds
        meter.measure(began, now[0])
        meter.count += 1
    values = Program("web", turns=meter).values()
    assert values["monconn_turn_seconds_count"] == values["monconn_turn_cpu_seconds_count"] == 3
    assert values['monconn_turn_seconds_bucket{le="0.001"}'] == 1
    assert values['monconn_turn_seconds_bucket{le="0.005"}'] == 2
    assert values['monconn_turn_seconds_bucket{le="0.05"}'] == 3
    assert values["monconn_turn_seconds_sum"] == pytest.approx(0.0334)
    assert values["monconn_turn_max_seconds"] == pytest.approx(0.03)
    assert 0 <= values["monconn_turn_cpu_max_seconds"] <= 0.03


def test_a_loop_that_is_not_measured_has_no_turns() -> None:
    assert "monconn_turn" not in Program("web").text()


def test_live_connections_count_at_once() -> None:
    program = Program("web", "ssh")
    monitor = program.registry.get("web")
    first, second, third = (Connection(monitor, f"10.0.0.{each}") for each in (1, 1, 2))
    first.move(up=10, down=3)
    second.move(up=5, down=0)
    third.end("client_closed")
    values = program.values()
    assert values['monconn_connections_opened_total{service="web"}'] == 3
    assert values['monconn_connections{service="web"}'] == 2
    assert values['monconn_client_ips{service="web"}'] == 1
    assert values['monconn_bytes_total{direction="up",service="web"}'] == 15
    assert values['monconn_bytes_total{direction="down",service="web"}'] == 3
    assert values['monconn_connections_opened_total{service="ssh"}'] == 0


def test_an_end_counts_under_its_reason_only() -> None:
    program = Program("web", "ssh")
    for reason in ("client_reset", "client_reset", "idle_timeout"):
        Connection(program.registry.get("web"), "10.0.0.1").end(reason)
    values = program.values()
    closed = {key: n for key, n in values.items() if key.startswith("monconn_connections_closed")}
    assert {key: count for key, count in closed.items() if count} == {
        'monconn_connections_closed_total{reason="client_reset",service="web"}': 2,
        'monconn_connections_closed_total{reason="idle_timeout",service="web"}': 1,
    }


def test_a_connection_counts_under_its_protocol_once_it_has_closed() -> None:
    program = Program("web", "ssh")
    # Anyone may set facts: what is not listed makes no label of its own.
    for protocol in ("tls", "tls", "unknown", "coap", 7, None):
        connection = Connection(program.registry.get("web"), "10.0.0.1")
        if protocol is not None:
            connection.record.set_fact("protocol", protocol)
        connection.end("client_closed")
    name = "monconn_protocol_connections_total"
    found = {key: count for key, count in program.values().items() if key.startswith(name)}
    assert len(found) == 2 * len(PROTOCOLS)
    assert {key: count for key, count in found.items() if count} == {
        f'{name}{{protocol="tls",service="web"}}': 2,
        f'{name}{{protocol="unknown",service="web"}}': 3,
    }


def test_a_refusal_counts_under_its_kind_only() -> None:
    program = Program()
    monitor = program.registry.new("web", Rules(conn_limit=1), clock=program.clock)
    Connection(monitor, "10.0.0.1")
    assert monitor.admit("10.0.0.2:1", "10.0.0.2") is None
    values = program.values()
    assert values['monconn_connections_refused_total{reason="conn_limit",service="web"}'] == 1
    assert values['monconn_connections_refused_total{reason="blocked",service="web"}'] == 0
    assert values['monconn_connections_opened_total{service="web"}'] == 1


def test_durations() -> None:
    program = Program("web")
    monitor = program.registry.get("web")
    connection = Connection(monitor, "10.0.0.1")
    program.clock.advance(0.002)
    connection.connect()
    program.clock.advance(0.3)
    connection.move(up=0, down=1)
    program.clock.advance(50)
    connection.end("backend_closed")
    never_connected = Connection(monitor, "10.0.0.1")
    program.clock.advance(0.02)
    never_connected.end("backend_refused")
    silent = Connection(monitor, "10.0.0.1")
    silent.connect()
    program.clock.advance(2 * 86400)
    silent.end("client_closed")
    values = program.values()
    duration = bucket_counts(values, "monconn_connection_duration_seconds")
    assert duration == {"0.1": 1, "60.0": 1, "+Inf": 1}
    assert bucket_counts(values, "monconn_connect_seconds") == {"0.0005": 1, "0.0025": 1}
    assert bucket_counts(values, "monconn_first_byte_seconds") == {"0.5": 1}
    total = values['monconn_connection_duration_seconds_sum{service="web"}']
    assert total == pytest.approx(50.302 + 0.02 + 2 * 86400)
    assert values['monconn_first_byte_seconds_sum{service="web"}'] == pytest.approx(0.3)
    assert values['monconn_connect_seconds_count{service="web"}'] == 2


@pytest.mark.parametrize(
    ("value", "counts"),
    [(0, [1, 0, 0]), (1, [1, 0, 0]), (1.5, [0, 1, 0]), (2, [0, 1, 0]), (2.5, [0, 0, 1])],
)
def test_a_bound_is_within_its_bucket(value: float, counts: list[int]) -> None:
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert (histogram.counts, histogram.sum) == (counts, value)


def alarm(is_over: bool, kind: Any = "silent") -> Alarm:
    return Alarm(kind, "web", "10.0.0.1", 0.0, is_over, "")


def test_alarms_that_begin_and_end() -> None:
    program = Program("web")
    monitor = program.registry.get("web")
    for is_over in (False, False, True):
        monitor.alarm(alarm(is_over))
    monitor.alarm(alarm(True, "reconnect_storm"))  # began before we were there
    values = program.values()
    assert values['monconn_alarms_total{alarm="silent",service="web"}'] == 2
    assert values['monconn_alarms_active{alarm="silent",service="web"}'] == 1
    assert values['monconn_alarms_total{alarm="reconnect_storm",service="web"}'] == 0
    assert values['monconn_alarms_active{alarm="reconnect_storm",service="web"}'] == 0


def test_what_observers_dropped() -> None:
    program = Program("web")
    assert not any("dropped_total{" in name for name in program.values())
    program.drops = {"json_log": 7, "history": 0}
    values = program.values()
    assert values['monconn_observer_dropped_total{observer="json_log"}'] == 7
    assert values['monconn_observer_dropped_total{observer="history"}'] == 0


def test_notifications() -> None:
    program = Program("web")
    assert "notify" not in program.text()
    program.outputs = {1: OutputTotals(5, 1, 2, 3)}
    values = program.values()
    assert values['monconn_notify_messages_total{output="1",result="sent"}'] == 5
    assert values['monconn_notify_messages_total{output="1",result="failed"}'] == 1
    assert values['monconn_notify_messages_total{output="1",result="dropped"}'] == 2
    assert values['monconn_notify_queued{output="1"}'] == 3


def test_alarms_of_the_service_itself() -> None:
    program = Program("web")
    monitor = program.registry.get("web")
    for each in SERVICE_ALARM_KINDS:
        monitor.alarm(Alarm(each, "web", "", 0.0, False, "it is so"))
    values = program.values()
    assert values['monconn_alarms_active{alarm="backend_down",service="web"}'] == 1
    assert values['monconn_alarms_total{alarm="outage",service="web"}'] == 1


def test_captures() -> None:
    program = Program("web")
    assert "capture" not in program.text()
    program.captures = CaptureTotals(2, 1000, 30, 4, {"client_lost": 5}, {"client_lost": 60})
    values = program.values()
    assert values["monconn_captures"] == 2
    assert values['monconn_capture_bytes_total{result="written"}'] == 1000
    assert values['monconn_capture_bytes_total{result="lost"}'] == 30
    assert values["monconn_capture_files_total"] == 4
    trigger = 'monconn_capture_triggers_total{result="%s",trigger="client_lost"}'
    assert (values[trigger % "begun"], values[trigger % "skipped"]) == (5, 60)


def test_the_program_itself() -> None:
    values = Program().values()
    build = next(name for name in values if name.startswith("monconn_build_info{"))
    assert re.fullmatch(r'.*{python="3\.[\d.]+\S*",twisted="[\d.]+",version="[\w.]+"}', build)
    assert values[build] == 1
    assert values["monconn_start_time_seconds"] > 1.7e9
    if sys.platform == "linux":
        assert 3 <= values["process_open_fds"] <= values["process_max_fds"]


class BusyClock(Clock):
    """A clock that can advance without running the timers."""

    def block(self, seconds: float) -> None:
        self.rightNow += seconds
        self.advance(0)


def test_how_late_the_reactor_is() -> None:
    program = Program()
    program.service._lag._clock = clock = BusyClock()
    program.service._lag.start()

    def lags() -> tuple[float, float]:
        sample = program.service.sample()
        return sample.lag_seconds, sample.lag_max_seconds

    clock.advance(1)
    assert lags() == (0, 0)
    clock.block(1.75)
    assert lags() == (0.75, 0.75)
    clock.advance(1)
    assert lags() == (0, 0.75)
    for _ in range(60):
        clock.advance(1)
    assert lags() == (0, 0)
    program.service._lag.stop()
    program.service._lag.stop()
    assert not clock.getDelayedCalls()


# -- services that come and go, and counters that only rise


def test_services_that_are_added_and_deleted_later() -> None:
    program = Program()
    monitor = program.registry.new("late", clock=program.clock)
    Connection(monitor, "10.0.0.1").end("client_closed")
    closed = 'monconn_connections_closed_total{reason="client_closed",service="late"}'
    assert program.values()[closed] == 1
    program.registry.delete("late")
    assert not any('service="late"' in name for name in program.values())
    program.registry.add(monitor)
    Connection(monitor, "10.0.0.1").end("client_closed")
    assert program.values()[closed] == 2  # not 3: it is watched once
    program.registry.delete("late")
    program.registry.new("late", clock=program.clock)
    assert program.values()[closed] == 0


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["open", "connect", "move", "end", "reset", "refuse", "subtract", "wait"]),
        max_size=40,
    )
)
def test_counters_never_fall(steps: list[str]) -> None:
    program = Program("web")
    monitor = program.registry.get("web")
    live: list[Connection] = []
    before = program.values()
    for number, step in enumerate(steps):
        if step == "open":
            live.append(Connection(monitor, f"10.0.0.{number}"))
        elif step == "connect" and live:
            live[-1].connect()
        elif step == "move" and live:
            live[0].move(up=number, down=number)
        elif step == "end" and live:
            live.pop(number % len(live)).end(REASONS[number % len(REASONS)])
        elif step == "reset":
            monitor.reset_stats()
        elif step == "refuse":
            monitor.block("192.0.2.7")
            monitor.admit("192.0.2.7:1", "192.0.2.7")
        elif step == "subtract":
            monitor.subtract(*monitor.bytes())
        program.clock.advance(0.1)
        after = program.values()
        assert {n for n in after if COUNTERS.match(n) and after[n] < before[n]} == set()
        before = after
    closed = sum(n for name, n in before.items() if name.startswith("monconn_connections_closed"))
    assert before['monconn_connections_opened_total{service="web"}'] == closed + len(live)


def test_a_sample_does_not_change() -> None:
    """It is encoded in a thread, while connections go on."""
    program = Program("web")
    sample = program.service.sample()
    before = encoder_for("")[0](Families(sample)).decode()
    connection = Connection(program.registry.get("web"), "10.0.0.1")
    connection.record.client_tcp = tcp_info(20_000, 3)
    connection.end("client_closed")
    program.registry.get("web").alarm(alarm(False))
    program.registry.get("web").rules.conn_limit = 7
    text = encoder_for("")[0](Families(sample)).decode()
    figures, then = (
        {name: n for name, n in values_of(each).items() if 'service="web"' in name}
        for each in (text, before)
    )
    assert figures == then
    always = ("time_limit", "service_state")
    assert {n for name, n in figures.items() if not any(each in name for each in always)} == {0.0}


# -- limits, and what TCP knows


def tcp_info(rtt_microseconds: int, retransmits: int) -> bytes:
    """A ``struct tcp_info`` with two of its fields."""
    raw = bytearray(TCP_INFO_BYTES)
    tcpinfo.ROUND_TRIP_AND_RETRANSMITS.pack_into(raw, 0, rtt_microseconds, retransmits)
    return bytes(raw)


def test_rules_of_clients_and_rates_are_gauges_if_they_are_set() -> None:
    program = Program("web")
    web = program.registry.get("web")
    assert not [name for name in program.values() if "opening" in name or "_clients" in name]
    web.apply(Policy.of(per_ip_limit=5, rate="100/m", per_ip_rate="1/s burst 9"))
    for ip in ("2001:db8::1", "2001:db8::2", "10.0.0.1"):
        Connection(web, ip)
    program.registry.unreadable_files["/a"] = "gone"
    values = program.values()
    assert values['monconn_connections_per_client_limit{service="web"}'] == 5
    opening = 'monconn_opening_limit_per_second{limit="%s",service="web"}'
    assert values[opening % "rate"] == pytest.approx(100 / 60)
    assert values[opening % "per_ip_rate"] == 1
    assert values['monconn_clients{service="web"}'] == 2  # the same IPv6 network is one
    assert values['monconn_client_ips{service="web"}'] == 3
    assert values["monconn_unreadable_block_files"] == 1


def test_what_rules_would_have_refused_is_counted() -> None:
    program = Program("web")
    web = program.registry.get("web")
    name = 'monconn_would_refuse_total{reason="%s",service="web"}'
    web.apply(Policy.of(per_ip_limit=1, dry_run=["per_ip_limit", "rate"]))
    Connection(web, "10.0.0.1")
    Connection(web, "10.0.0.1")
    values = program.values()
    assert (values[name % "per_ip_limit"], values[name % "rate"]) == (1, 0)
    assert name % "ip_limit" not in values
    web.apply(Policy())
    assert program.values()[name % "per_ip_limit"] == 1


def test_limits_are_gauges_if_they_are_on() -> None:
    program = Program("web")
    web = program.registry.get("web")
    assert not [name for name in program.values() if re.search("(connections|ips)_limit", name)]
    web.apply(Policy.of(conn_limit=100, ip_limit=50, max_idle=60, read_timeout=0))
    web.apply(web.policy.changed(unreachable_timeout=Sides(30.0, 0.0), half_close_timeout=7))
    values = program.values()
    assert values['monconn_connections_limit{service="web"}'] == 100
    assert values['monconn_client_ips_limit{service="web"}'] == 50
    limits = {
        found[1]: seconds
        for name, seconds in values.items()
        if (found := re.fullmatch(r'monconn_time_limit_seconds{limit="(\w+)",service="web"}', name))
    }
    assert limits == {
        "connect_timeout": 10,
        "write_timeout": 600,
        "max_idle": 60,
        "half_close_timeout": 7,
        "client_unreachable_timeout": 30,
    }


def test_every_time_limit_is_a_setting() -> None:
    names = [name for name, _ in _time_limits(Timeouts())]
    assert {name.removeprefix("client_").removeprefix("backend_") for name in names} == {
        key for key, each in SETTINGS.items() if each.path[0] == "timeouts"
    }


@pytest.mark.parametrize("count", [1, DECODED_AT_ONCE - 1, DECODED_AT_ONCE, DECODED_AT_ONCE + 1])
def test_what_tcp_knows_of_each_side(count: int) -> None:
    program = Program("web")
    web = program.registry.get("web")
    for _ in range(count):
        connection = Connection(web, "10.0.0.1")
        connection.record.client_tcp = tcp_info(23_000, 3)
        connection.record.backend_tcp = tcp_info(400, 0)
        connection.end("client_closed")
    Connection(web, "10.0.0.2").end("backend_refused")  # which has none
    fresh = Connection(web, "10.0.0.2")
    fresh.record.client_tcp = tcp_info(0, 0)  # nothing was measured
    fresh.end("client_closed")
    values = program.values()

    def buckets(name: str, side: str) -> dict[str, float]:
        labels = f'service="web",side="{side}"'
        found, before = {}, 0.0
        for key, value in values.items():
            if matched := re.fullmatch(rf'{name}_bucket{{le="(.+)",{labels}}}', key):
                if value > before:
                    found[matched[1]] = value - before
                before = value
        return found

    assert buckets("monconn_rtt_seconds", "client") == {"0.025": count}
    assert buckets("monconn_rtt_seconds", "backend") == {"0.0005": count}
    assert buckets("monconn_retransmitted_segments", "client") == {"0.0": 1, "5.0": count}
    assert buckets("monconn_retransmitted_segments", "backend") == {"0.0": count}
    client = '{service="web",side="client"}'
    assert values[f"monconn_rtt_seconds_sum{client}"] == pytest.approx(0.023 * count)
    assert values[f"monconn_retransmitted_segments_sum{client}"] == 3 * count


def test_what_is_put_aside_is_bounded() -> None:
    figures, program = ServiceFigures(), Program("web")
    program.registry.get("web").add_observer(figures)
    for _ in range(5 * DECODED_AT_ONCE + 3):
        Connection(program.registry.get("web"), "10.0.0.1").end("client_closed")
    assert len(figures._undecoded) == 3


CALLS_AT_AN_END = 5
"""In Python, for each connection that closes. In batches, so that decoding adds hardly any."""


def test_calls_in_python_for_an_end() -> None:
    record = ConnectionRecord(1, "web", "192.0.2.1:1", "192.0.2.1", ":80", "b:80", 0.0, 0.0)
    record.client_tcp = record.backend_tcp = tcp_info(23_000, 3)
    record.connected, record.first_down = 0.5, 0.6
    record.end("client_closed", 1.0)
    record.closed = 1.0
    figures, count = ServiceFigures(), 10 * DECODED_AT_ONCE

    def close() -> None:
        for _ in range(count):
            figures.closed(record)

    assert calls_in_python(close) <= count * (CALLS_AT_AN_END + 0.1)


# -- formats


def test_both_formats_can_be_parsed_and_say_the_same() -> None:
    program = Program("web", 'o"d\\d')
    Connection(program.registry.get("web"), "10.0.0.1").end("client_closed")

    def samples(families: Any) -> set[tuple[Any, ...]]:
        return {
            (sample.name, *sorted(sample.labels.items()), sample.value)
            for family in families
            for sample in family.samples
            if sample.name.startswith("monconn_")
        }

    plain = samples(parse_text(program.text()))
    assert plain == samples(parse_openmetrics(program.text(OPENMETRICS)))
    assert ("monconn_connections", ("service", 'o"d\\d'), 0.0) in plain


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_accepted(accept: str, expected: str) -> None:
    assert encoder_for(accept)[1].startswith(expected)


@settings(deadline=None)
@given(st.text(), st.sampled_from(["text/plain", "application/openmetrics-text"]))
def test_every_accept_header_gets_an_answer(version: str, kind: str) -> None:
    encode, content_type = encoder_for(f"{kind}; version={version}")
    assert encode(Families(Program().service.sample()))
    assert content_type.startswith((kind, "text/plain"))


# -- over HTTP


class Server:
    """Metrics on the running reactor."""

    def __init__(self, listen: TcpAddress | UnixAddress = FREE_PORT) -> None:
        from twisted.internet import reactor

        self.registry = Registry()
        self.registry.new("web")
        self.drops: Callable[[], dict[str, int]] = dict
        self.service = MetricsService(
            MetricsConfig(listen), self.registry, reactor, MonotonicClock(), lambda: self.drops()
        )
        self.service.privilegedStartService()
        self.service.startService()

    @property
    def port(self) -> int:
        assert self.service.where is not None
        return int(self.service.where.rpartition(":")[2])

    def ask(
        self, path: str = "/metrics", method: str = "GET", **options: Any
    ) -> Deferred[tuple[HTTPResponse, str]]:
        """Send a request from a thread; fires with the response and its body."""
        return deferToThread(self._ask, method, path, **options)

    def _ask(self, method: str, path: str, **options: Any) -> tuple[HTTPResponse, str]:
        client = HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        try:
            client.request(method, path, **options)
            response = client.getresponse()
            return response, response.read().decode()
        finally:
            client.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    if server.service.running:
        server.service.stopService()


@pytest_twisted.ensureDeferred
async def test_metrics_over_http(server: Server) -> None:
    connection = Connection(server.registry.get("web"), "10.0.0.1")
    connection.move(up=5, down=0)
    response, text = await server.ask()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(response.headers["Content-Length"]) == len(text.encode())
    assert values_of(text)['monconn_bytes_total{direction="up",service="web"}'] == 5
    response, text = await server.ask(headers={"Accept": OPENMETRICS})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest_twisted.ensureDeferred
async def test_head_is_get_without_a_body(server: Server) -> None:
    response, text = await server.ask(method="HEAD")
    assert (response.status, text) == (200, "")
    assert int(response.headers["Content-Length"]) > 1000


@pytest_twisted.ensureDeferred
async def test_the_first_page_links_to_the_metrics(server: Server) -> None:
    response, text = await server.ask("/")
    assert response.status == 200
    assert '<a href="/metrics">' in text


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/metrics/x", "/../etc/passwd"])
@pytest_twisted.ensureDeferred
async def test_other_paths_are_not_there(server: Server, path: str) -> None:
    response, _ = await server.ask(path)
    assert response.status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/metrics"])
@pytest_twisted.ensureDeferred
async def test_other_methods_are_not_allowed(server: Server, path: str, method: str) -> None:
    response, _ = await server.ask(path, method, body=b"x" * 300_000)
    assert response.status == 405
    assert "GET" in response.headers["Allow"]


@pytest_twisted.ensureDeferred
async def test_a_failure_is_logged_and_the_next_answer_is_good(
    server: Server, logged_failures: list[Failure]
) -> None:
    def fail() -> dict[str, int]:
        raise RuntimeError("no drops")

    server.drops = fail
    response, text = await server.ask()
    assert (response.status, text) == (500, "the metrics could not be written\n")
    assert [str(each.value) for each in logged_failures] == ["no drops"]
    logged_failures.clear()
    server.drops = dict
    response, _ = await server.ask()
    assert response.status == 200


@pytest_twisted.ensureDeferred
async def test_a_client_that_disconnects_early_does_no_harm(server: Server) -> None:
    def ask_and_leave() -> None:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), HANG_SECONDS) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    await deferToThread(ask_and_leave)
    response, _ = await server.ask()
    assert response.status == 200


@pytest_twisted.ensureDeferred
async def test_one_client_too_many_displaces_one_that_does_not_ask(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.service._factory is not None
    server.service._factory.limits = Limits(clients=1)
    monkeypatch.setattr(http_server, "GRACE_SECONDS", 0.01)

    def two_clients() -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", server.port), HANG_SECONDS) as first:
            first.sendall(b"GET / HTT")
            with socket.create_connection(("127.0.0.1", server.port), HANG_SECONDS) as second:
                second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = second.recv(12)
                try:
                    return answer, first.recv(12)
                except ConnectionResetError:
                    return answer, b"reset"

    assert await deferToThread(two_clients) == (b"HTTP/1.1 200", b"reset")


@pytest_twisted.ensureDeferred
async def test_stopping_disconnects_clients_and_closes_the_port(server: Server) -> None:
    port = server.port
    client = socket.create_connection(("127.0.0.1", port), HANG_SECONDS)

    def talk() -> None:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"

    def rest() -> bytes:
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return b""

    await deferToThread(talk)
    server.service.stopService()
    assert server.service.where is None
    assert await deferToThread(rest) == b""
    client.close()
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", port)) != 0


# -- where it listens


def start(listen: TcpAddress | UnixAddress) -> MetricsService:
    return Server(listen).service


@pytest_twisted.ensureDeferred
async def test_a_plain_start_listens_and_logs_the_url() -> None:
    from twisted.internet import reactor

    lines: list[str] = []

    @provider(ILogObserver)
    def log(event: LogEvent) -> None:
        if event["log_namespace"].startswith("monconn.sinks.metrics"):
            lines.append(event["log_format"].format(**event))

    config = MetricsConfig(TcpAddress("::1", 0) if socket.has_ipv6 else FREE_PORT)
    service = MetricsService(config, Registry(), reactor, MonotonicClock(), dict)
    assert service.where is None
    globalLogPublisher.addObserver(log)
    service.startService()
    globalLogPublisher.removeObserver(log)
    assert service.where is not None
    assert re.fullmatch(r"(\[::1\]|127\.0\.0\.1):[1-9]\d*", service.where)
    assert lines == [f"metrics at http://{service.where}/metrics"]
    service.stopService()


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o660, 0o660)])
@pytest_twisted.ensureDeferred
async def test_unix_socket(tmp_path: Path, mode: int | None, expected: int) -> None:
    path = tmp_path / "metrics.sock"
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(path))
    left_behind.close()
    service = start(UnixAddress(str(path), mode))
    assert service.where == f"unix:{path}"
    assert stat.S_IMODE(os.stat(path).st_mode) == expected

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_SECONDS)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: client.recv(65536), b""))

    assert b'\nmonconn_connections{service="web"} 0.0\n' in await deferToThread(ask)
    service.stopService()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError) as raised:
            start(TcpAddress("127.0.0.1", port))
    expected = f"metrics: cannot listen on 127.0.0.1:{port}: address already in use by process "
    assert str(raised.value).startswith(f"{expected}{os.getpid()} (")


@pytest_twisted.ensureDeferred
async def test_a_unix_path_that_is_taken(tmp_path: Path) -> None:
    a_file, live = tmp_path / "file", tmp_path / "live"
    a_file.write_text("precious")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(live))
        other.listen()
        for path in (a_file, live):
            with pytest.raises(ListenError) as raised:
                start(UnixAddress(str(path)))
            expected = f"metrics: cannot listen on unix:{path}: address already in use"
            assert str(raised.value).startswith(expected)
            assert path.exists()
    missing = tmp_path / "missing" / "sock"
    with pytest.raises(ListenError, match="no such file or directory"):
        start(UnixAddress(str(missing)))


@pytest_twisted.ensureDeferred
async def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith(("prometheus_client", "monconn.sinks.metrics.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ListenError) as raised:
        start(FREE_PORT)
    expected = "metrics need prometheus-client: pip install 'monconn[metrics]'"
    assert str(raised.value) == expected


# -- as Prometheus and Grafana read it


def promtool(path: str, *arguments: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [path, *arguments], input=stdin, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_the_metrics(program: Callable[[str], str]) -> None:
    ours = Program("web", "ssh")
    ours.drops = {"json_log": 1}
    Connection(ours.registry.get("web"), "10.0.0.1").end("client_closed")
    assert promtool(program("promtool"), "check", "metrics", stdin=ours.text()) == ""


def test_promtool_accepts_the_rules(program: Callable[[str], str]) -> None:
    rules = [rule for group in rule_groups() for rule in group["rules"]]
    said = promtool(program("promtool"), "check", "rules", RULES)
    assert f"SUCCESS: {len(rules)} rules found" in said


def test_promtool_sees_the_alerts_fire(program: Callable[[str], str], tmp_path: Path) -> None:
    tests = tmp_path / "tests.yml"
    fires, stays_quiet = (
        [_alert_test(case, is_bad) for case in ALERTS] for is_bad in (True, False)
    )
    tests.write_text(
        yaml.safe_dump(
            {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": fires + stays_quiet}
        )
    )
    assert "SUCCESS" in promtool(program("promtool"), "test", "rules", tests)


# An alert, and the series of the case that it is for: minute by minute from 0, each with a value
# that is bad and one that is good, in promtool's notation (0+6x60: 6 more each of 60 minutes).
ALERTS: dict[str, list[tuple[str, str, str]]] = {
    "MonconnDown": [("up{%s}", "0x60", "1x60")],
    "MonconnRestarts": [
        ("monconn_start_time_seconds{%s}", "1x40 2 3 4 5 6x16", "1x40 2x20"),
    ],
    "MonconnBackendFails": [
        ('monconn_connections_closed_total{%s,reason="backend_refused"}', "0+6x60", "0+1x60"),
        ('monconn_connections_closed_total{%s,reason="client_closed"}', "0+60x60", "0+60x60"),
    ],
    "MonconnConnectsSlowly": [
        ('monconn_connect_seconds_bucket{%s,le="0.5"}', "0+6x60", "0+60x60"),
        ('monconn_connect_seconds_bucket{%s,le="2.5"}', "0+60x60", "0+60x60"),
        ('monconn_connect_seconds_bucket{%s,le="+Inf"}', "0+60x60", "0+60x60"),
    ],
    "MonconnManyResets": [
        ('monconn_connections_closed_total{%s,reason="client_reset"}', "0+30x60", "0+1x60"),
        ('monconn_connections_closed_total{%s,reason="client_closed"}', "0+60x60", "0+60x60"),
    ],
    "MonconnClientsLost": [
        ('monconn_connections_closed_total{%s,reason="client_lost"}', "0+6x60", "0x60"),
        ('monconn_connections_closed_total{%s,reason="client_closed"}', "0+6x60", "0+6x60"),
    ],
    "MonconnRefuses": [
        ('monconn_connections_refused_total{%s,reason="conn_limit"}', "0+6x60", "0x60"),
        ('monconn_connections_refused_total{%s,reason="blocked"}', "0+6x60", "0+6x60"),
    ],
    "MonconnNearLimit": [
        ("monconn_connections{%s}", "95x60", "80x60"),
        ("monconn_connections_limit{%s}", "100x60", "100x60"),
        ("monconn_clients{%s}", "5x60", "5x60"),
    ],
    "MonconnSegmentsLost": [
        (
            'monconn_retransmitted_segments_bucket{%s,side="client",le="5.0"}',
            *("0+40x60", "0+59x60"),
        ),
        ('monconn_retransmitted_segments_count{%s,side="client"}', "0+60x60", "0+60x60"),
    ],
    "MonconnHandshakesFail": [
        ('monconn_connections_refused_total{%s,reason="handshake_failed"}', "0+6x60", "0+3x60"),
        ("monconn_connections_opened_total{%s}", "0+3x60", "0+6x60"),
    ],
    "MonconnReconnectStorm": [
        ('monconn_alarms_active{%s,alarm="reconnect_storm"}', "1x60", "0x60"),
    ],
    "MonconnDevicesSilent": [('monconn_alarms_active{%s,alarm="silent"}', "2x60", "0x60")],
    "MonconnReactorLate": [("monconn_reactor_lag_max_seconds{%s}", "0.8x60", "0.01x60")],
    "MonconnDrops": [
        ('monconn_observer_dropped_total{%s,observer="json_log"}', "0+6x60", "3x60"),
    ],
    "MonconnFileLost": [
        ('monconn_files_lost_total{%s,file="history"}', "0x40 1x20", "1x60"),
        ('monconn_files_lost_total{%s,file="json_log"}', "0+1x60", "0+1x60"),
    ],
    "MonconnDescriptorsShort": [
        ("process_open_fds{%s}", "900x60", "90x60"),
        ("process_max_fds{%s}", "1000x60", "1000x60"),
    ],
    "MonconnClientsWait": [("monconn_descriptor_waits_total{%s}", "0+1x60", "3x60")],
}


def _alert_test(alert: str, is_bad: bool) -> dict[str, Any]:
    labels = 'job="monconn",instance="a",service="web"'
    series = [
        {"series": name % labels, "values": bad if is_bad else good}
        for name, bad, good in ALERTS[alert]
    ]
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if is_bad else []
    expected = {"expr": query, "eval_time": "50m", "exp_samples": samples}
    return {"interval": "1m", "input_series": series, "promql_expr_test": [expected]}


def rule_groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return groups


def test_every_rule_is_tested_and_has_advice() -> None:
    rules = [rule for group in rule_groups() for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == [*ALERTS]
    for rule in rules:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning")


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression of the examples, by its place."""
    found = {rule["alert"]: rule["expr"] for group in rule_groups() for rule in group["rules"]}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found[variable["name"]] = variable["query"]["query"]
    return found


_WITH_LIMITS = Policy.of(conn_limit=9, ip_limit=9, rate="9/s", dry_run=["rate"])


def test_the_examples_use_only_existing_metrics() -> None:
    ours = Program("web", turns=TurnMeter())
    ours.registry.get("web").apply(_WITH_LIMITS)
    ours.drops = {"json_log": 0}
    names = {re.split("[{ ]", name)[0] for name in ours.values()} | {"up"}
    reasons = {*REASONS, *REFUSALS}
    for where, expression in expressions().items():
        used = set(re.findall(r"\b(?:(?:monconn|process)_\w+|up\b(?={))", expression))
        assert used, where
        assert used <= names, where
        for words in re.findall(r'reason=~?"([^"$]+)"', expression):
            assert {*words.split("|")} <= reasons, where
        for word in re.findall(r'alarm="(\w+)"', expression):
            assert word in ALARM_KINDS, where


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    ours = Program("web")
    ours.registry.get("web").apply(_WITH_LIMITS)
    ours.drops = {"json_log": 0}
    names = {re.split("[{ ]", name)[0] for name in ours.values()}
    ours_alone = {re.sub("_(sum|count)$", "_bucket", n) for n in names if n.startswith("monconn_")}
    names_on_panels = {word for text in expressions().values() for word in re.findall(r"\w+", text)}
    assert ours_alone - names_on_panels == set()


def test_the_dashboard_can_be_imported() -> None:
    read = dashboard()
    assert read["id"] is None
    assert read["schemaVersion"] >= 39
    variables = {each["name"] for each in read["templating"]["list"]}
    assert {"datasource", "job", "service"} <= variables
    ids = [panel["id"] for panel in read["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        used = {word for t in panel["targets"] for word in re.findall(r"\$(\w+)", t["expr"])}
        assert used <= variables | {"__rate_interval"}, panel["title"]


def test_no_panel_overlaps_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_the_page_documents_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    ours = Program("web")
    ours.registry.get("web").apply(_WITH_LIMITS.changed(per_ip_limit=9))
    ours.drops = {"json_log": 0}
    names = {re.split("[{ ]", name)[0] for name in ours.values()}
    ours_alone = {re.sub("_(sum|count|bucket)$", "", n) for n in names if n.startswith("monconn_")}
    assert ours_alone == set(re.findall(r"\bmonconn_\w+", page)) & ours_alone
