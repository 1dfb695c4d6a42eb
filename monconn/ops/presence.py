"""When devices were there: their connections and alarms within a period, for a strip of time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any

import attrs

from monconn.clock import Clock
from monconn.devices.devices import Devices
from monconn.devices.service import DevicesService
from monconn.errors import FileError, QuestionError
from monconn.model.record import iso_time
from monconn.monitor.monitor import Monitor
from monconn.turns import result_of

MOST_NAMES = 100
USUAL_SECONDS = 86_400.0
MOST_INTERVALS = 240
"""Of one device: a strip has some hundred pixels."""
MOST_ALARMS = 100
"""Of one device: the latest ones."""
_MOST_CHARACTERS = 512
_LAST_SECONDS = 253_402_214_400.0  # which datetime can write in any zone

RunInHistory = Callable[[Callable[[Any], Any]], Awaitable[Any]]
Interval = tuple[float, float]
Key = tuple[str, str]
"""A service and a device."""
_Change = tuple[float, str, bool, str]
"""Of an alarm: when, which kind, whether it is over, and the figures."""


@attrs.frozen
class Presence:
    """When some devices were there within a period.

    :param since: of the period; wall-clock seconds, as are all times here.
    :param resolution_seconds: gaps between connections that are shorter may be left out.
    :param rows: one for each device at each service, as plain values for JSON.
    :param problem: why the history says nothing; None if it was asked, or there is none.
    """

    since: float
    until: float
    resolution_seconds: float
    rows: Sequence[dict[str, Any]]
    has_history: bool
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        values: dict[str, Any] = {
            "since": iso_time(self.since),
            "until": iso_time(self.until),
            "resolution_seconds": round(self.resolution_seconds, 3),
            "history": self.has_history,
            "rows": list(self.rows),
        }
        if self.problem is not None:
            values["history_problem"] = self.problem
        return values


@attrs.define
class _Found:
    """What is found of a device at a service, from wherever."""

    spells: list[Interval] = attrs.Factory(list)
    connections: int = 0
    seconds: float = 0.0
    changes: dict[tuple[float, str, bool], str] = attrs.Factory(dict)


async def presence_of(
    names: Sequence[str],
    monitors: Sequence[Monitor],
    devices: DevicesService,
    clock: Clock,
    run_in_history: RunInHistory | None = None,
    *,
    since: float | None = None,
    until: float | None = None,
) -> Presence:
    """When devices were there, from memory and from the history.

    :param names: of devices, as their rows have them.
    :param since: wall-clock seconds; a day before ``until`` if left out.
    :param until: now if left out, or if it is later.
    :raises QuestionError: they are too many, or the period is none.
    """
    names = list(dict.fromkeys(names))
    if len(names) > MOST_NAMES or any(len(each) > _MOST_CHARACTERS for each in names):
        raise QuestionError(f"no more than {MOST_NAMES} devices at once")
    now = time.time()
    until = now if until is None else min(until, now)
    since = until - USUAL_SECONDS if since is None else since
    if not 0 <= since < until <= _LAST_SECONDS:
        raise QuestionError("there is no time between since and until")
    followed = [(monitor, devices.of(monitor.name)) for monitor in monitors]
    width = (until - since) / MOST_INTERVALS
    found: dict[Key, _Found] = {}
    unknown: list[tuple[float, float, str]] = []
    problem = None
    if run_in_history is not None and names and monitors:
        from monconn.sinks.history.presence import presence_of as past_presence_of

        wanted = _wanted(names, followed, devices)
        services = [monitor.name for monitor in monitors]
        begin, end = since, until
        try:
            past = await run_in_history(
                lambda db: past_presence_of(db, wanted, services, begin, end, width)
            )
        except FileError as error:
            problem = str(error)
        else:
            unknown = [(each.begin, each.end, each.why) for each in past.unknown]
            for spell in past.spells:
                entry = found.setdefault((spell.service, spell.device), _Found())
                entry.spells.append((spell.begin, spell.end))
                entry.connections += spell.count
                entry.seconds += spell.seconds
            for each in past.alarms:
                entry = found.setdefault((each.service, each.device), _Found())
                entry.changes[round(each.at, 3), each.kind, each.is_over] = each.detail
    from_memory = run_in_history is None or problem is not None
    rows = await result_of(clock, _rows(names, followed, found, since, until, unknown, from_memory))
    return Presence(since, until, width, rows, run_in_history is not None, problem)


Followed = list[tuple[Monitor, Devices]]


def _wanted(names: Sequence[str], followed: Followed, service: DevicesService) -> Any:
    """Which devices a history is asked for: those that go by a fact are in memory, too."""
    from monconn.sinks.history.presence import Wanted

    told: dict[str, None] = {}
    addresses: dict[str, None] = {}
    for name in names:
        for _, devices in followed:
            device = devices.get(name)
            if device is not None and device.fact:
                told[name] = None
                addresses.update(dict.fromkeys(device.last_addresses()))
    by_address = [name for name in names if name not in told]
    return Wanted(by_address, told.keys(), list(addresses), service.identity.facts)


def _rows(
    names: Sequence[str],
    followed: Followed,
    found: dict[Key, _Found],
    since: float,
    until: float,
    unknown: Sequence[tuple[float, float, str]],
    from_memory: bool,
) -> Generator[None, None, list[dict[str, Any]]]:
    """Add what memory has to what is found, and make the rows.

    :param from_memory: whether nothing else is known.
    """
    rows = []
    wanted = frozenset(names)
    for monitor, devices in followed:
        devices.catch_up()
        ours: dict[str, _Found] = {
            name: entry for (service, name), entry in found.items() if service == monitor.name
        }
        yield
        records = tuple(monitor.closed_records)
        for record in records:
            # That of an address is of all who have come from there, as is its story.
            for name in {devices.device_of(record), devices.name_of(record.client_ip)} & wanted:
                begin, end = record.opened_at, record.closed_at or record.opened_at
                if begin < until and end >= since:
                    entry = ours.setdefault(name, _Found())
                    entry.spells.append((begin, end))
                    if from_memory:
                        entry.connections += 1
                        entry.seconds += min(end, until) - max(begin, since)
            yield
        for alarm in tuple(devices.alarms):
            if alarm.device in wanted and not alarm.goes_on and alarm.at >= since:
                entry = ours.setdefault(alarm.device, _Found())
                entry.changes[round(alarm.at, 3), alarm.kind, alarm.is_over] = alarm.detail
            yield
        for name in names:
            device = devices.get(name)
            if device is not None:
                entry = ours.setdefault(name, _Found())
                live = device.live or ()
                openings = [record.opened_at for record in live if record.opened_at < until]
                if openings:
                    entry.spells.append((min(openings), until))
                    entry.connections += len(openings)
                    entry.seconds += sum(until - max(each, since) for each in openings)
                for kind, alarm in (device.alarms or {}).items():
                    if alarm.at < until:
                        entry.changes.setdefault((round(alarm.at, 3), kind, False), alarm.detail)
            yield
        missing = _not_recorded(monitor, since, until) if from_memory else unknown
        for name in names:
            if name in ours:
                rows.append(_row(monitor.name, name, ours[name], since, until, missing))
            yield
    return rows


def _not_recorded(monitor: Monitor, since: float, until: float) -> list[tuple[float, float, str]]:
    """The part of a period of which memory does not have all connections."""
    known = time.time() - monitor.uptime_seconds()
    closed = monitor.closed_records
    if len(closed) == closed.maxlen:
        known = max(known, closed[0].closed_at or known)
    return [(since, min(known, until), "not_recorded")] if known > since else []


def _row(
    service: str,
    name: str,
    found: _Found,
    since: float,
    until: float,
    unknown: Iterable[tuple[float, float, str]],
) -> dict[str, Any]:
    clipped = [(max(begin, since), min(end, until)) for begin, end in found.spells]
    connected = merged(clipped)
    covered = sum(end - begin for begin, end in connected)
    shown = with_fewer(connected, MOST_INTERVALS)
    alarms = _alarms(found.changes, since, until)
    return {
        "service": service,
        "device": name,
        "connections": found.connections,
        # Those that were live at the same time count once; gaps that are left out do not count.
        "connected_seconds": round(min(covered, found.seconds), 3),
        "connected": [[round(begin, 3), round(end, 3)] for begin, end in shown],
        "alarms": alarms[-MOST_ALARMS:],
        "alarms_total": len(alarms),
        "unknown": [
            {"since": round(begin, 3), "until": round(end, 3), "why": why}
            for begin, end, why in unknown
        ],
    }


def _alarms(
    changes: dict[tuple[float, str, bool], str], since: float, until: float
) -> list[dict[str, Any]]:
    """The alarms of a device that were active within a period, by when they began.

    One that only its end is known of had begun before; ``until`` is None if it goes on.
    """
    alarms: list[dict[str, Any]] = []
    active: dict[str, dict[str, Any]] = {}
    for (at, kind, is_over), detail in sorted(changes.items()):
        if not is_over:
            if kind not in active:
                active[kind] = {"alarm": kind, "since": at, "until": None, "detail": detail}
                alarms.append(active[kind])
            continue
        begun = active.pop(kind, None)
        if begun is not None:
            begun["until"] = at
        elif all(each["alarm"] != kind for each in alarms):
            alarms.append({"alarm": kind, "since": None, "until": at, "detail": detail})
    return [
        each
        for each in alarms
        if (each["since"] is None or each["since"] < until)
        and (each["until"] is None or each["until"] >= since)
    ]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals in order, of which none overlaps or touches another one."""
    made: list[list[float]] = []
    for begin, end in sorted(intervals):
        if made and begin <= made[-1][1]:
            made[-1][1] = max(made[-1][1], end)
        else:
            made.append([begin, max(begin, end)])
    return [(begin, end) for begin, end in made]


def with_fewer(intervals: Sequence[Interval], most: int) -> list[Interval]:
    """Intervals in order, with the shortest gaps left out until there are few enough."""
    if len(intervals) <= most:
        return list(intervals)
    gaps = sorted(
        range(1, len(intervals)), key=lambda each: intervals[each][0] - intervals[each - 1][1]
    )
    filled = frozenset(gaps[: len(intervals) - most])
    made: list[Interval] = []
    for number, (begin, end) in enumerate(intervals):
        if number in filled:
            made[-1] = (made[-1][0], end)
        else:
            made.append((begin, end))
    return made
