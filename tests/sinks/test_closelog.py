from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IObserver
from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from monconn.sinks.closelog import LINES_A_SECOND, CloseLog

DRY_RUN = Policy.of(block=["192.0.2.0/24"], allow=["10.0.0.0/8"], dry_run=["block", "allow"])


@pytest.fixture
def events() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000.0)
    return clock


@pytest.fixture
def log(clock: Clock) -> CloseLog:
    return CloseLog(clock)


def closed(**fields: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 1,
        "service": "web",
        "client": "192.0.2.1:4711",
        "client_ip": "192.0.2.1",
        "listener": ":80",
        "backend": "10.0.0.5:80",
        "opened_at": 0.0,
        "opened": 100.0,
        "state": "closed",
        "closed": 112.5,
        "reason": "client_closed",
    }
    return ConnectionRecord(**known | fields)


def refused(refusal: str = "blocked") -> ConnectionRecord:
    return closed(refusal=refusal, reason=None, closed=100.0)


def lines(events: Sequence[LogEvent]) -> list[str]:
    return [formatEvent(event) for event in events]


# -- one line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "web: 192.0.2.1:4711 client_closed after 12.5s, up 0 B, down 0 B"),
        (
            {"up": 812, "down": 1229, "closed": 345.0, "reason": "idle_timeout"},
            "web: 192.0.2.1:4711 idle_timeout after 4m05s, up 812 B, down 1.2 KiB",
        ),
        (
            {"reason": "backend_refused", "detail": "connection refused", "client": "unix:77"},
            "web: unix:77 backend_refused after 12.5s, up 0 B, down 0 B (connection refused)",
        ),
        (
            {"detail": "{braces}"},  # which are not for formatting
            "web: 192.0.2.1:4711 client_closed after 12.5s, up 0 B, down 0 B ({braces})",
        ),
    ],
)
def test_line_of_a_closed_connection(
    log: CloseLog, events: Sequence[LogEvent], fields: dict[str, Any], line: str
) -> None:
    log.closed(closed(**fields))
    assert lines(events) == [line]


def test_line_is_the_one_that_the_record_gives(log: CloseLog, events: Sequence[LogEvent]) -> None:
    class Described(ConnectionRecord):
        def describe(self, now: float) -> str:
            return "as described"

    fields: Any = {"listener": ":80", "backend": ":81", "opened_at": 0.0, "opened": 100.0}
    record = Described(id=1, service="web", client="a:1", client_ip="a", closed=101.0, **fields)
    log.closed(record)
    log.refused(record)
    assert lines(events) == ["web: as described"] * 2


def test_line_of_a_refused_client(log: CloseLog, events: Sequence[LogEvent]) -> None:
    log.refused(refused("ip_limit"))
    assert lines(events) == ["web: 192.0.2.1:4711 refused: ip_limit"]


def test_lines_are_logged_under_the_programs_own_name(
    log: CloseLog, events: Sequence[LogEvent]
) -> None:
    """Logging may be set to show this namespace from info on, and others only from warn on."""
    log.closed(closed())
    (event,) = events
    assert event["log_namespace"].startswith("monconn")
    assert event["log_level"] == LogLevel.info


def test_other_events_are_ignored(log: CloseLog, events: Sequence[LogEvent]) -> None:
    assert verifyObject(IObserver, log)
    log.opened(closed())
    assert (log.watches_payload, events) == (False, [])


# -- many


def test_fifty_lines_then_a_summary(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    for number in range(LINES_A_SECOND + 9):
        reason = "client_reset" if number < 52 else "blocked"
        log.closed(closed(up=1024, down=number, reason=reason))
    assert LINES_A_SECOND == 50
    assert len(events) == 50
    clock.advance(1.0)
    assert lines(events)[50:] == [
        "9 more connections ended, up 9.0 KiB, down 486 B: 7 blocked, 2 client_reset"
    ]
    clock.advance(60.0)
    assert len(events) == 51


def test_refused_clients_are_summarized_too(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    for _ in range(LINES_A_SECOND + 3):
        log.refused(refused("blocked"))
    log.refused(refused("stopping"))
    log.closed(closed(up=5))
    clock.advance(1.0)
    assert lines(events)[50:] == [
        "5 more connections ended, up 5 B, down 0 B:"
        " 3 refused: blocked, 1 refused: stopping, 1 client_closed"
    ]


def test_next_second_has_lines_of_its_own(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    for _ in range(LINES_A_SECOND):
        log.closed(closed())
    clock.advance(1.0)
    log.closed(closed(client="later"))
    assert len(events) == 51
    assert "later" in lines(events)[50]
    assert clock.getDelayedCalls() == []


def test_one_summary_a_second(log: CloseLog, clock: Clock, events: Sequence[LogEvent]) -> None:
    seconds = 10
    for _ in range(seconds * 10):
        for _ in range(100):
            log.closed(closed())
        clock.advance(0.1)
    sums = [line for line in lines(events) if "more connections" in line]
    assert seconds - 1 <= len(sums) <= seconds
    assert len(events) - len(sums) == LINES_A_SECOND * seconds


def test_summaries_count_every_connection(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    total = 2_345
    for number in range(total):
        log.closed(closed(up=1, down=2, reason=("lifetime", "operator")[number % 2]))
        clock.advance(0.003)
    log.flush()
    singles = [event for event in events if "line" in event]
    sums = [event for event in events if "count" in event]
    counted: Counter[str] = Counter(event["line"].split()[1] for event in singles)
    for event in sums:
        for part in event["reasons"].split(", "):
            count, _, reason = part.partition(" ")
            counted[reason] += int(count)
    assert counted == {"lifetime": 1173, "operator": 1172}
    assert len(singles) + sum(event["count"] for event in sums) == total
    assert len(singles) < total / 2


def test_flush_at_the_end(log: CloseLog, clock: Clock, events: Sequence[LogEvent]) -> None:
    for _ in range(LINES_A_SECOND + 1):
        log.closed(closed())
    log.flush()
    assert lines(events)[50:] == [
        "1 more connections ended, up 0 B, down 0 B: 1 client_closed",
    ]
    assert clock.getDelayedCalls() == []
    log.flush()
    assert len(events) == 51


def test_summaries_start_again_after_a_flush(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    for _ in range(2):
        for _ in range(LINES_A_SECOND + 2):
            log.closed(closed(up=1))
        clock.advance(1.0)
    sums = [line for line in lines(events) if "more connections" in line]
    assert sums == ["2 more connections ended, up 2 B, down 0 B: 2 client_closed"] * 2


# -- what rules in dry_run would have refused


def test_a_client_that_would_be_refused_is_a_line(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    monitor = Monitor("web", policy=DRY_RUN, clock=clock, observers=[log])
    for ip in ("10.0.0.1", "192.0.2.7"):
        assert monitor.admit(f"{ip}:4711", ip) is not None
    assert lines(events) == ["web: 192.0.2.7:4711 would be refused: blocked, not_allowed (dry_run)"]


def test_of_many_that_would_be_refused_the_others_are_counted(
    log: CloseLog, clock: Clock, events: Sequence[LogEvent]
) -> None:
    monitor = Monitor("web", policy=DRY_RUN, clock=clock, observers=[log])
    for _ in range(LINES_A_SECOND + 3):
        assert monitor.admit("192.0.2.7:4711", "192.0.2.7") is not None
    log.closed(closed())  # has its line all the same
    assert len(events) == LINES_A_SECOND + 1
    clock.advance(1.0)
    assert lines(events)[-1] == (
        "more clients would be refused (dry_run): 3 blocked, 3 not_allowed"
    )
    assert not clock.getDelayedCalls()


def test_a_quiet_service_is_logged_where_something_went_wrong(
    log: CloseLog, events: Sequence[LogEvent]
) -> None:
    log.quiet_services = frozenset({"shop"})
    for reason in ("client_closed", "backend_closed"):
        log.closed(closed(service="shop", reason=reason))
    assert lines(events) == []
    log.closed(closed(service="shop", reason="client_reset"))
    log.refused(refused())
    log.refused(closed(service="shop", refusal="blocked", reason=None, closed=100.0))
    log.closed(closed())
    assert [line.partition(":")[0] for line in lines(events)] == ["shop", "web", "shop", "web"]
