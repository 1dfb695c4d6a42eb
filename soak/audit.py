"""Whether all that is said of a load agrees: totals, log, history, metrics, and its clients."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

import attrs

from soak.loads import MESSAGE_BYTES, metrics_url, verb
from soak.process import Place

AGREE_SECONDS = 5.0
"""How long the log and the history may take until their last lines are written."""
ROUNDING_SECONDS = 0.001
LOST_SECONDS = 1.5
"""What a kill may cost: the history is written once a second."""
_METRIC = re.compile(r"^(\w+)\{([^}]*)\} ([\d.e+]+)$", re.MULTILINE)


@attrs.frozen
class Figures:
    """One service, as one of its sources says it."""

    connections: int = 0
    up: int = 0
    down: int = 0

    def since(self, before: Figures | None) -> Figures:
        """What has been added."""
        if before is None:
            return self
        return Figures(
            self.connections - before.connections, self.up - before.up, self.down - before.down
        )

    def __str__(self) -> str:
        return f"{self.connections:,} ({self.up:,} up, {self.down:,} down)"


Snapshot = dict[str, dict[str, Figures]]
"""Each source's figures of each service."""


def snapshot(place: Place) -> Snapshot:
    """What each source says now."""
    return {
        "totals": in_totals(place),
        "log": in_log(place.json_log),
        "history": in_history(place.history),
        "metrics": in_metrics(place),
    }


def audit(place: Place, before: Snapshot, churned: int) -> list[str]:
    """Compare what the sources say of a load, once no connection lives.

    :param before: what they said before the load.
    :param churned: how many connections the clients of the service ``churn`` have made since.
    :returns: what does not agree.
    """
    until = time.monotonic() + AGREE_SECONDS
    while True:
        faults = list(_faults(place, before, churned))
        if not faults or time.monotonic() > until:
            return faults
        time.sleep(0.5)


def _faults(place: Place, before: Snapshot, churned: int) -> Iterator[str]:
    bytes_each_way = churned * MESSAGE_BYTES
    now = snapshot(place)
    for service in now["totals"]:
        seen = {
            source: now[source].get(service, Figures()).since(before[source].get(service))
            for source in now
        }
        if service == "churn":
            seen["clients"] = Figures(churned, bytes_each_way, bytes_each_way)
        if len(set(seen.values())) > 1:
            yield f"{service}: " + ", ".join(f"{source} {each}" for source, each in seen.items())
    for observer, count in dropped(place).items():
        if count:
            yield f"{observer} has dropped {count}"


def lost_by_kill(place: Place, killed_at: float) -> list[str]:
    """What is missing after monconn was killed: no more than its last moments may be.

    :param killed_at: wall-clock seconds.
    """
    surely = killed_at - LOST_SECONDS
    logged = logged_about = damaged = 0  # the log's times are rounded to milliseconds
    for line in place.json_log.read_bytes().split(b"\n")[:-1]:  # the last one may be cut
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if row["event"] == "closed":
            closed_at = datetime.fromisoformat(row["closed_at"].replace("Z", "+00:00")).timestamp()
            logged += closed_at < surely - ROUNDING_SECONDS
            logged_about += closed_at < surely + ROUNDING_SECONDS
    query = "SELECT count(*) FROM connections WHERE closed_at < ?"
    with closing(sqlite3.connect(f"file:{place.history}?mode=ro", uri=True)) as database:
        stored = database.execute(query, (surely,)).fetchone()[0]
    faults = []
    if not logged <= stored <= logged_about:
        faults.append(
            f"before the last {LOST_SECONDS:g} s: log {logged} to {logged_about}, history {stored}"
        )
    if damaged:
        faults.append(f"{damaged} lines of the log are no JSON")
    return faults


def in_totals(place: Place) -> dict[str, Figures]:
    """Each service's counters, as ``monconn stats`` prints them."""
    return {
        each["sid"]: Figures(each["total"], each["up"], each["down"])
        for each in json.loads(verb(place, "stats", "--json"))
    }


def in_log(path: Path) -> dict[str, Figures]:
    """Each service's connections in the JSON log."""
    counts: Counter[tuple[str, str]] = Counter()
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            if row["event"] == "closed":
                counts[row["service"], "connections"] += 1
                counts[row["service"], "up"] += row["up"]
                counts[row["service"], "down"] += row["down"]
    services = {service for service, _ in counts}
    return {
        service: Figures(*(counts[service, each] for each in ("connections", "up", "down")))
        for service in services
    }


def in_history(path: Path) -> dict[str, Figures]:
    """Each service's hourly sums in the history."""
    query = "SELECT service, sum(connections), sum(up), sum(down) FROM hours GROUP BY service"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {service: Figures(*figures) for service, *figures in database.execute(query)}


def in_metrics(place: Place) -> dict[str, Figures]:
    """Each service's counters in the metrics."""
    values = _metrics(place)
    return {
        service: Figures(
            count,
            values["monconn_bytes_total", service, "up"],
            values["monconn_bytes_total", service, "down"],
        )
        for (name, service, _), count in values.items()
        if name == "monconn_connections_opened_total"
    }


def dropped(place: Place) -> dict[str, int]:
    """How much each observer has dropped."""
    return {
        observer: count
        for (name, observer, _), count in _metrics(place).items()
        if name == "monconn_observer_dropped_total"
    }


def _metrics(place: Place) -> dict[tuple[str, str, str], int]:
    """Values by a metric's name, and the values of its first two labels, in a fixed order."""
    with urlopen(metrics_url(place), timeout=10) as answer:
        text = answer.read().decode()
    values = {}
    for name, labels, value in _METRIC.findall(text):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        first = found.get("service") or found.get("observer") or ""
        values[name, first, found.get("direction", "")] = int(float(value))
    return values
