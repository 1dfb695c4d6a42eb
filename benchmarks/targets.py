"""The targets of monconn, and whether they were met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from benchmarks.contestants import CONTESTANTS
from benchmarks.results import Results, Summary, Values, difference, highest, ratio, summary

KIB = 1024
MIB = 1024 * 1024
HELD = 5000
Verdict = Literal["met", "missed", "not measured"]


@attrs.frozen
class Target:
    """A figure per round, and the limit of its median."""

    what: str
    limit: float
    unit: str
    values: Callable[[Results], Values]
    at_least: bool = False

    def summary(self, results: Results) -> Summary | None:
        return summary(self.values(results).values())

    def verdict(self, results: Results) -> Verdict:
        found = self.summary(results)
        if found is None:
            return "not measured"
        reached = found.median >= self.limit if self.at_least else found.median <= self.limit
        return "met" if reached else "missed"

    def limit_text(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}"


def _beside(
    contestant: str, peer: str, load: str, metric: str
) -> Callable[[Results], dict[int, float]]:
    def values(results: Results) -> dict[int, float]:
        return ratio(results.values(contestant, load, metric), results.values(peer, load, metric))

    return values


def _beside_best(contestant: str, load: str) -> Callable[[Results], dict[int, float]]:
    """The ratio to HAProxy with the cheapest of its settings."""

    def values(results: Results) -> dict[int, float]:
        best = results.best("haproxy", load, _CPU_GB)
        return _beside(contestant, best, load, _CPU_GB)(results)

    return values


def _beside_fastest(load: str) -> Callable[[Results], dict[int, float]]:
    def values(results: Results) -> dict[int, float]:
        peers = [contestant.name for contestant in CONTESTANTS if contestant.peer]
        fastest = highest(results.values(peer, load, "gb_per_s") for peer in peers)
        return ratio(results.values("monconn", load, "gb_per_s"), fastest)

    return values


def _added_latency(results: Results) -> dict[int, float]:
    """The latency that a forwarder adds, relative to what HAProxy adds."""
    load, metric = "messages-1", "p50_us"
    direct = results.values("direct", load, metric)
    added = difference(results.values("monconn", load, metric), direct)
    haproxy = difference(results.values("haproxy", load, metric), direct)
    return ratio(added, haproxy)


def _own(load: str, metric: str, unit: float = 1.0) -> Callable[[Results], dict[int, float]]:
    def values(results: Results) -> dict[int, float]:
        found = results.values("monconn", load, metric)
        return {number: value / unit for number, value in found.items()}

    return values


def _held(
    metric: str, unit: float = 1.0, contestant: str = "monconn"
) -> Callable[[Results], dict[int, float]]:
    """None if the descriptor limit allowed fewer connections."""

    def values(results: Results) -> dict[int, float]:
        held = results.values(contestant, "held", "connections")
        found = results.values(contestant, "held", metric)
        return {number: value / unit for number, value in found.items() if held[number] >= HELD}

    return values


def _tls_held(results: Results) -> dict[int, float]:
    found = results.values("monconn-tls", "tls-held", "bytes_per_connection")
    return {number: value / KIB for number, value in found.items()}


_CPU_GB, _CPU = "cpu_s_per_gb", "cpu_us"
_HAPROXY, _HAPROXY_LOG = "× HAProxy's", "× HAProxy's with tcplog"
_PORTFORWARD = "× portforward's"


def _bulk(contestant: str, what: str, limit: float) -> list[Target]:
    """Compared with HAProxy as installed, and with its best settings."""
    targets = []
    for load, streams in (("bulk-1", "1 stream"), ("bulk-8", "8 streams")):
        title = f"bulk, {what}, {streams}: processor time per GB"
        beside = _beside(contestant, "haproxy", load, _CPU_GB)
        targets += [
            Target(title, limit, _HAPROXY, beside),
            Target(title, limit, "× tuned HAProxy's", _beside_best(contestant, load)),
        ]
    return targets


TARGETS = (
    *_bulk("monconn", "nobody watching", 0.25),
    Target(
        "bulk, nobody watching, 1 stream: GB/s",
        1.0,
        "× the fastest peer's",
        _beside_fastest("bulk-1"),
        at_least=True,
    ),
    Target(
        "bulk, nobody watching, 8 streams: GB/s",
        1.0,
        "× the fastest peer's",
        _beside_fastest("bulk-8"),
        at_least=True,
    ),
    *_bulk("monconn-watched", "payload watched", 0.8),
    Target(
        "new connections, 64 at once: processor time each",
        1.25,
        _HAPROXY,
        _beside("monconn", "haproxy", "connect", _CPU),
    ),
    Target(
        "new connections, with JSON log: processor time each",
        1.3,
        _HAPROXY_LOG,
        _beside("monconn-json", "haproxy-log", "connect", _CPU),
    ),
    Target(
        "new connections, with JSON log, history and metrics: processor time each",
        1.5,
        _HAPROXY_LOG,
        _beside("monconn-all", "haproxy-log", "connect", _CPU),
    ),
    Target(
        "64-byte messages, 64 connections: processor time each",
        1.2,
        _HAPROXY,
        _beside("monconn", "haproxy", "messages-64", _CPU),
    ),
    Target("added latency, 1 connection, p50", 1.4, _HAPROXY, _added_latency),
    Target(
        "over Twisted's transports, bulk: processor time per GB",
        0.7,
        _PORTFORWARD,
        _beside("monconn-transports", "portforward", "bulk-1", _CPU_GB),
    ),
    Target(
        "over Twisted's transports, new connections: processor time each",
        0.8,
        _PORTFORWARD,
        _beside("monconn-transports", "portforward", "connect", _CPU),
    ),
    Target(
        "TLS from the client, bulk: processor time per GB",
        1.0,
        _HAPROXY,
        _beside("monconn-tls", "haproxy-tls", "tls-bulk", _CPU_GB),
    ),
    Target(
        "TLS from the client, full handshakes: processor time each",
        1.7,
        _HAPROXY,
        _beside("monconn-tls", "haproxy-tls", "tls-connect", _CPU),
    ),
    Target("idle TLS connections: memory of each", 30, "KiB", _tls_held),
    Target("5,000 held connections: memory in all", 70, "MiB", _held("held_bytes", MIB)),
    Target(
        "5,000 held connections: memory of each",
        4,
        "KiB",
        _held("bytes_per_connection", KIB),
    ),
    Target(
        "after they have closed: memory",
        1.1,
        "× the start's",
        _held("after_by_start"),
    ),
    Target(
        "after they have closed: memory in use, without what the interpreter holds free",
        1.1,
        "× the start's",
        _held("in_use_after_by_start", contestant="monconn-in-use"),
    ),
    Target(
        "as many connections again: memory in all",
        1.05,
        "× that of the first",
        _held("again_by_first"),
    ),
    Target(
        "stalled readers: memory of each, pipes included",
        64,
        "KiB",
        _own("stalled", "bytes_each", KIB),
    ),
    Target(
        "from the start of the program to the first byte forwarded",
        0.8,
        "s",
        _own("startup", "seconds"),
    ),
    Target(
        "processor time per message with 5,000 connections open",
        1.3,
        "× that with 50",
        _held("growth"),
    ),
)
