"""Metrics as Prometheus has them: names, help texts and labels.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import attrs
import twisted
from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from monconn._version import __version__
from monconn.histogram import Histogram
from monconn.model.reasons import REFUSALS, SERVICE_STATES
from monconn.policy.rules import REFUSAL_OF
from monconn.policy.sides import Sides
from monconn.policy.timeouts import Timeouts
from monconn.sinks.capture_files import CaptureTotals
from monconn.sinks.metrics.figures import Sample, ServiceFigures, TcpFigures
from monconn.sinks.notify.output import OutputTotals
from monconn.turns import TurnFigures

_PROCESS = ProcessCollector(registry=None)  # type: ignore[no-untyped-call, unused-ignore]
_Rows = Iterable[tuple[Sequence[str], float]]


@attrs.frozen
class Families(Collector):
    """A sample as metric families; nothing in it changes, so any thread may encode it."""

    sample: Sample

    def collect(self) -> Iterator[Metric]:
        """All metric families; see ``prometheus_client.registry.Collector``."""
        yield from self._counts()
        yield from self._limits()
        yield from self._histograms()
        yield from self._alarms()
        yield from self._program()
        if self.sample.captures is not None:
            yield from self._captures(self.sample.captures)
        if self.sample.outputs:
            yield from self._notifications(self.sample.outputs)
        if self.sample.turns is not None:
            yield from self._turns(self.sample.turns)
        yield from _PROCESS.collect()

    def _counts(self) -> Iterator[Metric]:
        services = self.sample.services
        yield _counter(
            "monconn_connections_opened_total",
            "Connections whose client was admitted.",
            ["service"],
            (([each.name], each.totals.opened) for each in services),
        )
        yield _counter(
            "monconn_connections_closed_total",
            "Connections that have closed, by the reason why.",
            ["service", "reason"],
            (
                ([each.name, reason], count)
                for each in services
                for reason, count in each.figures.closed_by_reason.items()
            ),
        )
        yield _counter(
            "monconn_protocol_connections_total",
            "Connections that have closed, by the protocol that their first bytes have told.",
            ["service", "protocol"],
            (
                ([each.name, protocol], count)
                for each in services
                for protocol, count in each.figures.closed_by_protocol.items()
            ),
        )
        yield _counter(
            "monconn_connections_refused_total",
            "Clients that were refused, by the reason why.",
            ["service", "reason"],
            (
                ([each.name, refusal], each.totals.refused[refusal])
                for each in services
                for refusal in REFUSALS
            ),
        )
        yield _counter(
            "monconn_would_refuse_total",
            "Clients that rules in dry_run would have refused, by the reason why.",
            ["service", "reason"],
            (
                ([each.name, refusal], each.totals.would_refuse[refusal])
                for each in services
                for rule, refusal in REFUSAL_OF.items()
                if rule in each.policy.rules.dry_run or each.totals.would_refuse[refusal]
            ),
        )
        yield _gauge(
            "monconn_connections",
            "Live connections.",
            ["service"],
            (([each.name], each.connections) for each in services),
        )
        yield _gauge(
            "monconn_service_state",
            "What a service does: 1 for the state that it is in, and 0 for the others.",
            ["service", "state"],
            (
                ([each.name, state], float(each.state == state))
                for each in services
                for state in SERVICE_STATES
            ),
        )
        yield _gauge(
            "monconn_client_ips",
            "Distinct client IPs that have a live connection.",
            ["service"],
            (([each.name], each.client_ips) for each in services),
        )
        yield _gauge(
            "monconn_clients",
            "Distinct clients that have a live connection, as ip_limit counts them; absent if"
            " neither that nor per_ip_limit is set.",
            ["service"],
            (([each.name], each.clients) for each in services if each.clients is not None),
        )
        yield _counter(
            "monconn_bytes_total",
            "Bytes received from clients (up) and from backends (down).",
            ["service", "direction"],
            (
                ([each.name, direction], count)
                for each in services
                for direction, count in (("up", each.totals.up), ("down", each.totals.down))
            ),
        )
        yield _counter(
            "monconn_bandwidth_held_seconds_total",
            "How long connections were not read from, as the bandwidth was used up, together.",
            ["service", "direction"],
            (
                ([each.name, direction], seconds)
                for each in services
                for direction, seconds in each.held_seconds.items()
            ),
        )

    def _limits(self) -> Iterator[Metric]:
        """The limits that are configured; one that is off is absent, and matches no expression."""
        services = self.sample.services
        yield _gauge(
            "monconn_connections_limit",
            "How many connections there may be at once (conn_limit), if there is a limit.",
            ["service"],
            (
                ([each.name], each.policy.rules.conn_limit)
                for each in services
                if each.policy.rules.conn_limit
            ),
        )
        yield _gauge(
            "monconn_client_ips_limit",
            "How many clients may have connections at once (ip_limit), if there is a limit.",
            ["service"],
            (
                ([each.name], each.policy.rules.ip_limit)
                for each in services
                if each.policy.rules.ip_limit
            ),
        )
        yield _gauge(
            "monconn_connections_per_client_limit",
            "How many connections each client may have at once (per_ip_limit), if there is a"
            " limit.",
            ["service"],
            (
                ([each.name], each.policy.rules.per_ip_limit)
                for each in services
                if each.policy.rules.per_ip_limit
            ),
        )
        yield _gauge(
            "monconn_opening_limit_per_second",
            "How many connections may be opened in a second, in the long run: by all clients"
            " (rate), and by each (per_ip_rate), as far as there is a limit.",
            ["service", "limit"],
            (
                ([each.name, key], rate.per_second)
                for each in services
                for key in ("rate", "per_ip_rate")
                if (rate := getattr(each.policy.rules, key)) is not None
            ),
        )
        yield _gauge(
            "monconn_time_limit_seconds",
            "Time limits of connections, by the name of the setting, as far as they are on.",
            ["service", "limit"],
            (
                ([each.name, limit], seconds)
                for each in services
                for limit, seconds in _time_limits(each.policy.timeouts)
                if seconds
            ),
        )

    def _histograms(self) -> Iterator[Metric]:
        yield self._histogram(
            "monconn_connection_duration_seconds",
            "How long connections lasted, from opening to close.",
            lambda figures: figures.duration,
        )
        yield self._histogram(
            "monconn_connect_seconds",
            "Time from opening until the backend connected, of connections that have closed.",
            lambda figures: figures.connect,
        )
        yield self._histogram(
            "monconn_first_byte_seconds",
            "Time from when the backend connected until its first byte, of connections that have"
            " closed.",
            lambda figures: figures.first_byte,
        )

        yield self._tcp_histogram(
            "monconn_rtt_seconds",
            "Smoothed round-trip time of TCP as a connection closed, of each side that is on TCP.",
            lambda figures: figures.rtt,
        )
        yield self._tcp_histogram(
            "monconn_retransmitted_segments",
            "How many TCP segments were sent again, of each connection that has closed.",
            lambda figures: figures.retransmits,
        )

    def _tcp_histogram(
        self, name: str, text: str, choose: Callable[[TcpFigures], Histogram]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=["service", "side"])
        for each in self.sample.services:
            for side, figures in each.figures.tcp.items():
                _add_histogram(family, [each.name, side], choose(figures))
        return family

    def _histogram(
        self, name: str, text: str, choose: Callable[[ServiceFigures], Histogram]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=["service"])
        for each in self.sample.services:
            _add_histogram(family, [each.name], choose(each.figures))
        return family

    def _alarms(self) -> Iterator[Metric]:
        labels = ["service", "alarm"]
        yield _counter(
            "monconn_alarms_total",
            "Alarms that have begun.",
            labels,
            (
                ([each.name, kind], count)
                for each in self.sample.services
                for kind, count in each.figures.alarms.items()
            ),
        )
        yield _gauge(
            "monconn_alarms_active",
            "Alarms that have begun and are not over.",
            labels,
            (
                ([each.name, kind], count)
                for each in self.sample.services
                for kind, count in each.figures.alarms_active.items()
            ),
        )

    def _program(self) -> Iterator[Metric]:
        yield _counter(
            "monconn_observer_dropped_total",
            "What an observer dropped because it could not write as fast as it came.",
            ["observer"],
            (([name], count) for name, count in self.sample.dropped.items()),
        )
        yield _counter(
            "monconn_files_lost_total",
            "How often a file was moved, removed or replaced by others, and made anew.",
            ["file"],
            (([name], count) for name, count in self.sample.files_lost.items()),
        )
        yield _gauge(
            "monconn_unreadable_block_files",
            "Files of blocked networks (block_files) that cannot be read now: what they listed"
            " before is in force.",
            [],
            [([], self.sample.unreadable_block_files)],
        )
        yield GaugeMetricFamily(
            "monconn_reactor_lag_seconds",
            "How late the reactor's last one-second timer was.",
            self.sample.lag_seconds,
        )
        yield GaugeMetricFamily(
            "monconn_reactor_lag_max_seconds",
            "How late the latest of the reactor's one-second timers was, in the last minute.",
            self.sample.lag_max_seconds,
        )
        yield GaugeMetricFamily(
            "monconn_connections_possible",
            "How many connections the limit on descriptors has room for, in all services.",
            self.sample.connections_possible,
        )
        yield CounterMetricFamily(
            "monconn_descriptor_waits_total",
            "How often clients were left in the queue as the limit on descriptors had no room.",
            self.sample.descriptor_waits,
        )
        yield GaugeMetricFamily(
            "monconn_start_time_seconds",
            "When monconn started, in seconds since 1970.",
            self.sample.started_at,
        )
        yield InfoMetricFamily(
            "monconn_build",
            "The version of monconn, and what it runs on.",
            {
                "version": __version__,
                "python": platform.python_version(),
                "twisted": twisted.__version__,
            },
        )

    def _captures(self, captures: CaptureTotals) -> Iterator[Metric]:
        yield GaugeMetricFamily("monconn_captures", "Captures to files that run.", captures.running)
        yield _counter(
            "monconn_capture_bytes_total",
            "Bytes of connections that are in capture files, or lost, as the disk did not take"
            " them.",
            ["result"],
            ((["written"], captures.written), (["lost"], captures.lost)),
        )
        yield CounterMetricFamily(
            "monconn_capture_files_total", "Capture files that were begun.", captures.files
        )
        yield _counter(
            "monconn_capture_triggers_total",
            "What the configuration has captures begin on, by whether it began one.",
            ["trigger", "result"],
            (
                ([trigger, result], count)
                for result, counts in (("begun", captures.begun), ("skipped", captures.skipped))
                for trigger, count in counts.items()
            ),
        )

    def _notifications(self, outputs: Mapping[int, OutputTotals]) -> Iterator[Metric]:
        yield _counter(
            "monconn_notify_messages_total",
            "Notifications, by output: sent; failed, as they could not be delivered in time; or"
            " dropped, as too many waited.",
            ["output", "result"],
            (
                ([str(number), result], count)
                for number, each in outputs.items()
                for result, count in (
                    ("sent", each.sent),
                    ("failed", each.failed),
                    ("dropped", each.dropped),
                )
            ),
        )
        yield _gauge(
            "monconn_notify_queued",
            "Notifications that wait for their output.",
            ["output"],
            (([str(number)], each.queued) for number, each in outputs.items()),
        )

    def _turns(self, turns: TurnFigures) -> Iterator[Metric]:
        for name, text, histogram in (
            ("monconn_turn_seconds", "How long turns of the event loop took.", turns.wall),
            (
                "monconn_turn_cpu_seconds",
                "Processor time that the event loop's thread used in its turns.",
                turns.cpu,
            ),
        ):
            family = HistogramMetricFamily(name, text, labels=[])
            _add_histogram(family, [], histogram)
            yield family
        yield GaugeMetricFamily(
            "monconn_turn_max_seconds",
            "How long the longest turn of the event loop took, in the last minute.",
            turns.longest_seconds,
        )
        yield GaugeMetricFamily(
            "monconn_turn_cpu_max_seconds",
            "The most processor time that a turn of the event loop used, in the last minute.",
            turns.longest_cpu_seconds,
        )


def _time_limits(timeouts: Timeouts) -> Iterator[tuple[str, float | None]]:
    """The settings by name, with the side where each has its own, and their seconds."""
    for field in attrs.fields(type(timeouts)):
        value = getattr(timeouts, field.name)
        if isinstance(value, Sides):
            yield f"client_{field.name}", value.client
            yield f"backend_{field.name}", value.backend
        elif field.init:  # else it follows from others
            yield field.name, value


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram
) -> None:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    buckets = [*zip(bounds, accumulate(histogram.counts), strict=True)]
    family.add_metric(labels, buckets, histogram.sum)


def _counter(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _gauge(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _filled(family: Any, rows: _Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]


def encoder_for(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Choose the text format of an answer: OpenMetrics, or Prometheus' own.

    There are no more than these two, whatever versions and ways to escape names are asked for: all
    who want one share an encoding, and each more would make all others wait. (No name of ours has
    anything to escape.)

    :param accept: the request's ``Accept`` header; what cannot be parsed gets the plain format.
    :returns: a function that encodes metrics, and the content type.
    """
    try:
        chosen: str = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # a malformed version parameter
        chosen = ""
    return choose_encoder(_OPEN_METRICS if chosen.startswith(_OPEN_METRICS) else "")


_OPEN_METRICS = "application/openmetrics-text"
