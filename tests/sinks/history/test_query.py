from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monconn.addresses import parse_network
from monconn.errors import QuestionError
from monconn.model.alarms import Alarm
from monconn.model.record import iso_time
from monconn.ops.filter_keys import HISTORY_EVENT_KEYS, HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.sinks.history import report as report_module
from monconn.sinks.history.query import HistoryFilter, connections, events, report
from monconn.sinks.history.retention import prune
from monconn.sinks.history.store import Event, write
from tests import ROOT

from .past import HOUR, NOON, RUN, closed, history, refused

IPS = ["192.0.2.1", "192.0.2.200", "32.1.13.184", "2001:db8::1", "2001:db8:1::1", "unix"]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = history(tmp_path / "history.db")
    yield db
    db.close()


def ips(found: list[dict[str, Any]]) -> list[str]:
    return [each["client_ip"] for each in found]


# -- filters


@pytest.mark.parametrize("find", [connections, events])
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("192.0.2.0/24", ["192.0.2.1", "192.0.2.200"]),
        ("192.0.2.128/25", ["192.0.2.200"]),
        ("0.0.0.0/0", ["192.0.2.1", "192.0.2.200", "32.1.13.184"]),
        ("2001:db8::/48", ["2001:db8::1"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:db8:1::1"]),
        ("2000::/3", ["2001:db8::1", "2001:db8:1::1"]),  # 32.1.13.184 lies between, as bytes
        ("::/0", ["2001:db8::1", "2001:db8:1::1"]),
        ("198.51.100.0/24", []),
    ],
)
def test_by_network(db: sqlite3.Connection, find: Any, network: str, expected: list[str]) -> None:
    write(db, [make(NOON, ip) for ip in IPS for make in (closed, refused)], {}, RUN)
    assert sorted(ips(find(db, HistoryFilter(client=parse_network(network))))) == sorted(expected)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("", [1, 2, 3]),
        ("service:STRASSE", [2]),
        ("client:192.0.2.0/24 port:4711", [1]),
        ("not:client:192.0.2.0/24", [2, 3]),
        ("client:unix client:192.0.2.1", [1, 3]),
        ("age:1m..", [2]),
        ("idle:..10s age:1m..", [2]),
        ("up:1MiB.. reason:backend", [2]),
        ("not:reason:client_closed", [2]),
        ("id:2..3 port:80", [2, 3]),
        ("broken", [2]),
        ("tag:berlin", [1]),
        ("fact.tag:=Berlin-7 not:fact.tag:x", [1]),
        ("tag:berlin tag:oslo", [1, 3]),
        ("not:tag:oslo", [1, 2]),
        ("oslo", [3]),
        ("Tag:berlin", []),
        ("state:closed pipe:splice", [3]),
        ("state:open", []),
    ],
)
def test_connections_by_terms(db: sqlite3.Connection, terms: str, expected: list[int]) -> None:
    lost: dict[str, Any] = {"reason": "backend_lost", "up": 2 * (1 << 20), "detail": "Broken"}
    items = [
        closed(id=1),
        closed(id=2, ip="2001:db8::1", service="straße", seconds=90, last_down=185.0, **lost),
        closed(id=3, ip="unix", client="unix:4711", pipe="splice"),
    ]
    items[0].set_fact("tag", "berlin-7")
    items[2].set_fact("tag", "OSLO")
    write(db, items, {}, RUN)
    condition = parse(terms, HISTORY_KEYS).to_sql()
    found = connections(db, HistoryFilter(condition=condition))
    assert sorted(each["id"] for each in found) == expected
    assert connections(db, HistoryFilter(condition=condition, since=NOON + 1)) == []


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("event:refused", 1),
        ("reason:rate client:192.0.2.0/24", 1),
        ("reason:silent", 1),
        ("client:10.0.0.0/8", 1),
        ("not:reason:rate", 2),
        ("started", 1),
    ],
)
def test_events_by_terms(db: sqlite3.Connection, terms: str, expected: int) -> None:
    alarm = Alarm("silent", "web", "10.0.0.7", NOON, False, "")
    write(db, [refused(word="rate"), alarm, Event(NOON, "started")], {}, RUN)
    past = HistoryFilter(condition=parse(terms, HISTORY_EVENT_KEYS).to_sql())
    assert len(events(db, past)) == expected


def test_a_report_takes_no_terms(db: sqlite3.Connection) -> None:
    with pytest.raises(QuestionError, match="it takes no other filter"):
        report(db, HistoryFilter(condition=parse("up:1..", HISTORY_KEYS).to_sql()))


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        (HistoryFilter(), [4, 3, 2, 1]),
        (HistoryFilter(limit=2), [4, 3]),
        (HistoryFilter(service="mqtt"), [2]),
        (HistoryFilter(since=NOON + 2), [4, 3, 2]),
        (HistoryFilter(until=NOON + 2), [1]),
        (HistoryFilter(since=NOON + 2, until=NOON + 4), [3, 2]),
        (HistoryFilter(reason="client_reset"), [3]),
        (HistoryFilter(service="mqtt", reason="client_reset"), []),
    ],
)
def test_connections_by_other_conditions(
    db: sqlite3.Connection, past: HistoryFilter, expected: list[int]
) -> None:
    records = [
        closed(NOON + 1, id=1),
        closed(NOON + 2, id=2, service="mqtt"),
        closed(NOON + 3, id=3, reason="client_reset"),
        closed(NOON + 4, id=4),
    ]
    write(db, reversed(records), {}, RUN)
    assert [each["id"] for each in connections(db, past)] == expected


def test_events_by_kind(db: sqlite3.Connection) -> None:
    write(db, [refused(word="rate"), refused(word="blocked"), Event(NOON, "started")], {}, RUN)
    assert [each["refusal"] for each in events(db, HistoryFilter(reason="rate"))] == ["rate"]


# -- the report


def fill(db: sqlite3.Connection) -> None:
    """Three hours: one connection every ten minutes from each of two, and a refusal each."""
    items: list[Any] = []
    for minute in range(0, 180, 10):
        at = NOON + minute * 60
        items.append(closed(at, "192.0.2.1", up=1, down=2, seconds=1.0))
        items.append(closed(at, "2001:db8::1", up=100, reason="idle_timeout", seconds=3.0))
        items.append(refused(at, "192.0.2.9", "rate"))
    items.append(closed(NOON + HOUR + 1, "192.0.2.1", up=1, down=2, service="mqtt"))
    items.append(Alarm("silent", "web", "192.0.2.1", NOON + HOUR, False, ""))
    items.append(Alarm("silent", "web", "192.0.2.1", NOON + HOUR + 9, True, ""))
    items.append(Event(NOON + HOUR + 2, "lost", count=5))
    write(db, items, {}, RUN)


def test_report_of_everything(db: sqlite3.Connection) -> None:
    fill(db)
    made = report(db, HistoryFilter())
    assert (made["resolution"], made["since"], made["kept_since"]) == (
        "exact", iso_time(NOON), None,
    )  # fmt: skip
    assert (made["connections"], made["up"], made["down"]) == (37, 18 * 101 + 1, 18 * 22 + 2)
    assert made["reasons"] == {"client_closed": 19, "idle_timeout": 18}
    assert (made["refused"], made["refusals"]) == (18, {"rate": 18})
    assert (made["alarms"], made["lost"]) == ({"silent": 1}, 5)
    assert ips(made["clients_by_connections"]) == ["192.0.2.1", "2001:db8::1"]
    assert made["clients_by_bytes"][0] == {
        "client_ip": "2001:db8::1", "connections": 18, "up": 1800, "down": 360,
    }  # fmt: skip
    assert [each["connections"] for each in made["hours"]] == [12, 13, 12]
    assert made["busiest"][0] == {
        "at": iso_time(NOON + HOUR), "connections": 13, "up": 607, "down": 134,
    }  # fmt: skip
    assert made["hours_each"] == 1


@pytest.mark.parametrize("service", ["web", None])
@pytest.mark.parametrize("client", ["192.0.2.0/24", "2001:db8::/32", None])
@pytest.mark.parametrize("reason", ["idle_timeout", None])
@pytest.mark.parametrize(
    ("since", "until"),
    [(None, None), (0, None), (None, 7200), (1800, 9000), (600, 1200), (3600, 7200), (1800, 3600),
     (4200, 4201), (-99999, 4200), (99999, None), (5400, 99999), (3600, 3600)],
)  # fmt: skip
def test_exact_figures_are_those_of_the_connections(
    db: sqlite3.Connection, since: int | None, until: int | None, service: str | None,
    client: str | None, reason: str | None,
) -> None:  # fmt: skip
    fill(db)
    past = HistoryFilter(
        service=service,
        client=None if client is None else parse_network(client),
        since=None if since is None else NOON + since,
        until=None if until is None else NOON + until,
        reason=reason,
    )
    made, found = report(db, past), connections(db, past)
    assert made["resolution"] == "exact"
    assert made["connections"] == len(found)
    assert made["up"] == sum(each["up"] for each in found)
    assert made["down"] == sum(each["down"] for each in found)
    assert sum(each["connections"] for each in made["hours"]) == len(found)
    assert sum(each["connections"] for each in made["clients_by_bytes"]) == len(found)
    if reason is None:
        refusals = [each for each in events(db, past) if each["event"] == "refused"]
        assert made["refused"] == len(refusals)


def test_a_report_of_removed_rows_is_by_the_hour(db: sqlite3.Connection, tmp_path: Path) -> None:
    fill(db)
    before = report(db, HistoryFilter(since=NOON, until=NOON + 2 * HOUR))
    db.execute("DELETE FROM connections WHERE closed_at < ?", (NOON + 7000,))
    db.execute("INSERT INTO kept VALUES ('connections', ?)", (NOON + 7000,))
    db.commit()
    made = report(db, HistoryFilter(since=NOON + 1800, until=NOON + 5400))
    assert (made["resolution"], made["since"], made["until"]) == (
        "hours", iso_time(NOON), iso_time(NOON + 2 * HOUR),
    )  # fmt: skip
    same = ("connections", "up", "down", "reasons", "refusals", "clients_by_bytes", "hours")
    assert {name: made[name] for name in same} == {name: before[name] for name in same}
    assert made["duration_seconds"] is None
    whole = report(db, HistoryFilter(since=NOON, until=NOON + 2 * HOUR))
    assert whole["resolution"] == "exact"  # whole hours are summed up for good
    late = report(db, HistoryFilter(since=NOON + 7100))
    assert (late["resolution"], late["connections"]) == ("exact", 12)


def test_a_report_says_from_when_on_rows_are_stored(db: sqlite3.Connection, tmp_path: Path) -> None:
    fill(db)
    prune(db, str(tmp_path / "history.db"), HOUR, 1 << 30, NOON + 2 * HOUR + 1)
    made = report(db, HistoryFilter(since=NOON))
    assert made["kept_since"] == iso_time(NOON + HOUR)
    assert made["connections"] == 25
    assert report(db, HistoryFilter(since=NOON + HOUR))["kept_since"] is None


def test_the_distribution_of_durations(db: sqlite3.Connection) -> None:
    records = [
        closed(NOON + each, seconds=float(each), connected=100.5 if each % 2 else None)
        for each in range(1, 101)
    ]
    write(db, records, {}, RUN)
    made = report(db, HistoryFilter())
    assert made["duration_seconds"] == {"mean": 50.5, "median": 50.0, "p95": 95.0}
    assert made["connect_seconds"] == {"mean": 0.5, "median": 0.5, "p95": 0.5}


def test_too_many_to_sort(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MOST_SORTED", 3)
    write(db, [closed()] * 4, {}, RUN)
    assert report(db, HistoryFilter())["duration_seconds"] is None


def test_points_are_never_too_many(db: sqlite3.Connection) -> None:
    hours = 1000
    write(db, [closed(NOON + each * HOUR) for each in (0, 1, hours)], {}, RUN)
    made = report(db, HistoryFilter())
    assert made["hours_each"] == 6
    assert len(made["hours"]) == 167
    assert [each["connections"] for each in made["hours"] if each["connections"]] == [2, 1]
    assert made["hours"][1]["at"] == iso_time(NOON + 6 * HOUR)


def test_the_documented_queries(db: sqlite3.Connection) -> None:
    fill(db)
    named = closed(NOON - 7 * HOUR, id=9, service="mqtt", seconds=90.0, up=0, down=0)
    named.set_fact("mqtt_client_id", "sensor-7")
    write(db, [named], {}, RUN)
    text = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    found = [db.execute(query).fetchall() for query in queries]
    assert found[1] == [("2023-11-15", "mqtt", 1, 2), ("2023-11-15", "web", 1818, 396)]
    assert found[3] == [("sensor-7", 1, 90.0)]
    assert len(found) == 4


def test_the_documented_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.db"
    history(path, [closed(time.time(), service="mqtt", reason="client_lost")]).close()
    text = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example.replace("/var/lib/monconn/history.db", str(path)), {})
    connection, reasons = capsys.readouterr().out.splitlines()
    assert " 192.0.2.1:4711 2.0" in connection
    assert reasons == "{'client_lost': 1}"


def test_a_report_of_nothing(db: sqlite3.Connection) -> None:
    made = report(db, HistoryFilter(since=NOON))
    assert (made["connections"], made["refused"], made["hours"]) == (0, 0, [])
    assert made["duration_seconds"] is None
