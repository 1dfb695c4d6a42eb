"""A device's story: who it is, its rhythm, its alarms, and a timeline of its connections."""

from __future__ import annotations

import heapq
import ipaddress
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import attrs

from monconn.clock import Clock
from monconn.devices.devices import Devices
from monconn.devices.diagnosis import MOST_ENDS, DeviceEnd, device_pattern
from monconn.devices.heartbeat import INFINITE, Device
from monconn.devices.service import DevicesService
from monconn.errors import FileError, UnknownDevice, quoted
from monconn.model.record import OWN_FACTS, ConnectionRecord, iso_time
from monconn.monitor.monitor import Monitor
from monconn.ops.device_rows import TimelineRow
from monconn.ops.rows import DeviceRow
from monconn.turns import result_of

USUAL_ROWS = 100
MOST_ROWS = 1_000
"""Of a timeline, and of each kind of thing that is looked for in a history."""
USUAL_SECONDS = 7 * 86400.0
"""How far a timeline reaches back."""
_MOST_LIVE = 20
_MOST_ADDRESSES = 20
_MOST_FACTS = 8
_MOST_SIMILAR = 5
_LEAST_AWAY_SECONDS = 5.0
_TIMES_AWAY = 2.0
"""How many times the median a gap between connections must be to be told, if there are several."""
_FEWEST_GAPS = 3

RunInHistory = Callable[[Callable[[Any], Any]], Awaitable[Any]]


@attrs.frozen
class DeviceStory:
    """All that is told of one device.

    :param head: everything but the timeline, as plain values for JSON.
    :param rows: the timeline, newest first.
    """

    head: Mapping[str, Any]
    rows: Sequence[TimelineRow]

    def to_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {**self.head, "timeline": [row.to_json() for row in self.rows]}


@attrs.define
class _Memory:
    """What memory has of a device."""

    services: list[dict[str, Any]] = attrs.Factory(list)
    live: list[ConnectionRecord] = attrs.Factory(list)
    live_since: dict[str, float] = attrs.Factory(dict)
    """By service, the opening of the oldest live connection (wall clock)."""
    live_total: int = 0
    closed: list[ConnectionRecord] = attrs.Factory(list)
    alarms: list[dict[str, Any]] = attrs.Factory(list)
    active: list[dict[str, Any]] = attrs.Factory(list)
    addresses: dict[str, str | None] = attrs.Factory(dict)
    """When each was seen last; None if no connection that is known of has come from there."""
    name: str = ""
    """The best that is known; empty for the device's own."""
    identity: str = "address"
    is_blocked: bool = False


async def tell_story(
    name: str,
    monitors: Sequence[Monitor],
    devices: DevicesService,
    clock: Clock,
    run_in_history: RunInHistory | None = None,
    *,
    since: float | None = None,
    limit: int | None = None,
) -> DeviceStory:
    """Tell the story of a device at some services.

    :param name: a device's name; an IP of it; or what is a fact about one of its connections.
    :param run_in_history: runs a query on the history; None if none is stored.
    :param since: wall-clock seconds; a week ago if left out.
    :param limit: the most rows of the timeline.
    :raises UnknownDevice: nothing is known of such a device.
    """
    limit = min(max(limit or USUAL_ROWS, 1), MOST_ROWS)
    most_ends = max(limit, MOST_ENDS)  # a pattern is that of its ends, however few are shown
    since = time.time() - USUAL_SECONDS if since is None else since
    followed = [(monitor, devices.of(monitor.name)) for monitor in monitors]
    device, is_known = await result_of(clock, find_device(name, followed))
    if device is None:
        similar = await result_of(clock, _similar(name, followed))
        raise UnknownDevice(_unknown_text(name, similar))
    memory = await result_of(clock, _remember(device, followed, devices))
    connections: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    problem = None
    if run_in_history is not None:
        from monconn.sinks.history.past import past_of

        names = [monitor.name for monitor in monitors]
        try:
            told = _told(device, followed)
            past = await run_in_history(
                lambda db: past_of(db, device, names, since, most_ends, told)
            )
            connections, events = past.connections, past.events
        except FileError as error:
            problem = str(error)
    if not (is_known or memory.closed or connections or any(map(_is_of_device, events))):
        similar = await result_of(clock, _similar(name, followed))
        raise UnknownDevice(_unknown_text(name, similar))
    story = _Story(device, memory, since, most_ends)
    head, rows = await result_of(clock, story.assemble(connections, events, clock.seconds()))
    head["history"] = run_in_history is not None
    if problem is not None:
        head["history_problem"] = problem
    return DeviceStory(head, rows[:limit])


@attrs.define
class _Story:
    device: str
    memory: _Memory
    since: float
    most_ends: int

    def assemble(
        self, connections: list[dict[str, Any]], events: list[dict[str, Any]], now: float
    ) -> Generator[None, None, tuple[dict[str, Any], list[TimelineRow]]]:
        """Put together what memory has and what only the history has.

        :param connections: of the history, as its events.
        """
        memory = self.memory
        by_key = {_connection_key(each): each for each in connections}
        for record in memory.closed[-self.most_ends :]:
            values = record.snapshot(now)
            if _seconds(values["closed_at"]) >= self.since:
                by_key[_connection_key(values)] = values
            yield
        known = set(by_key)
        for record in memory.closed:
            known.add((record.service, record.id, iso_time(record.opened_at)))
            yield
        ended = sorted(by_key.values(), key=lambda each: str(each["closed_at"]), reverse=True)
        del ended[self.most_ends :]
        live = [record.snapshot(now) for record in memory.live]
        happened = {_event_key(each): each for each in (*events, *memory.alarms)}
        timeline = []
        for each in ended:
            timeline.append(_end_row(each))
            yield
        timeline += [_live_row(record, now) for record in memory.live]
        for each in happened.values():
            timeline.append(_event_row(each))
            yield
        runs = [each for each in events if each["event"] in ("started", "stopped")]
        timeline += yield from _absences([*ended, *live], runs, memory.services, memory.live_since)
        timeline.sort(key=lambda row: (row.at, _ORDER.get(row.what, 0)), reverse=True)
        for connection in (*live, *ended):
            address = connection["client_ip"]
            if memory.addresses.get(address) is None:
                memory.addresses[address] = connection.get("closed_at") or iso_time(time.time())
        head = {
            "device": self.device,
            "name": memory.name or self.device,
            "identity": memory.identity,
            "services": memory.services,
            "connections": [_live_values(each) for each in live],
            "connections_total": memory.live_total,
            "addresses": [
                {"address": address, "last_seen": seen}
                for address, seen in islice(memory.addresses.items(), _MOST_ADDRESSES)
            ],
            "facts": _facts([*live, *ended]),
            "blocked": memory.is_blocked,
            "alarms": memory.active,
            "pattern": device_pattern(_ends(ended, live)),
            "since": iso_time(self.since),
            "timeline_total": len(timeline) + len(known) - len(ended),
        }
        return head, timeline


Followed = list[tuple[Monitor, Devices]]


def _told(device: str, followed: Followed) -> Any:
    """What a history must know of a device whose name is a fact; None of another one."""
    from monconn.sinks.history.past import Told

    fact = ""
    addresses: dict[str, bool] = {}
    for _, devices in followed:
        found = devices.get(device)
        if found is not None and found.fact:
            fact = found.fact
            for address in found.last_addresses():
                is_own = devices.users_of(address) == [device]
                addresses[address] = is_own and addresses.get(address, True)
    own = [address for address, is_own in addresses.items() if is_own]
    return Told(fact, list(addresses), own) if fact else None


def find_device(name: str, followed: Followed) -> Generator[None, None, tuple[str | None, bool]]:
    """The name of the device that is meant, and whether it is known.

    A device's own name comes first, then its address, then devices that have used that address,
    then names that the configuration gives, and facts at last.

    :raises UnknownDevice: several are meant.
    """
    possible: str | None = None
    try:
        ip = str(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        ip = ""
    for _, devices in followed:
        devices.catch_up()
        if devices.get(name) is not None:
            return name, True
        if ip:
            own = devices.name_of(name if "%" in name else ip)
            if devices.get(own) is not None:
                return own, True
            possible = possible or own
    found: dict[str, None] = {}
    for _, devices in followed:
        found.update(dict.fromkeys(devices.users_of(name if "%" in name else ip or name)))
    if found:
        return _only_one(name, found, "an address of"), True
    for _, devices in followed:
        found.update(dict.fromkeys(devices.called(name)))
    if found:
        return _only_one(name, found, "the name of"), True
    if possible is not None:
        return possible, False
    try:
        return str(ipaddress.ip_network(name)), False
    except ValueError:
        pass
    wanted = name.casefold()
    for monitor, devices in followed:
        for records in (monitor.iter_connections(), reversed(tuple(monitor.closed_records))):
            for record in records:
                if record.has_facts and wanted in (
                    str(value).casefold() for value in record.facts.values()
                ):
                    found[devices.device_of(record)] = None
                yield
    return (_only_one(name, found, "said of"), True) if found else (None, False)


def _only_one(name: str, found: Mapping[str, None], what: str) -> str:
    """The only device that was found.

    :param what: what the name is to each, for a message.
    :raises UnknownDevice: there are several.
    """
    if len(found) == 1:
        return next(iter(found))
    names = ", ".join(islice(found, _MOST_SIMILAR))
    more = f" and {len(found) - _MOST_SIMILAR} more" if len(found) > _MOST_SIMILAR else ""
    raise UnknownDevice(f"{quoted(name)} is {what} several devices: {names}{more}; name one")


def _similar(name: str, followed: Followed) -> Generator[None, None, list[str]]:
    """Devices whose names, or facts, have the text or its first part in them."""
    wanted = name.casefold()
    separator = ":" if ":" in wanted else "."
    beginning = wanted.rpartition(separator)[0] + separator if separator in wanted else wanted
    found: dict[str, None] = {}
    for monitor, devices in followed:
        for device in devices.all():
            if wanted in device.name or device.name.startswith(beginning):
                found[device.name] = None
            if len(found) > _MOST_SIMILAR:
                break
            yield
        for record in monitor.iter_connections():
            if record.has_facts and len(wanted) > 2:
                for value in record.facts.values():
                    if wanted in str(value).casefold():
                        found[str(value)] = None
            yield
    return list(islice(found, _MOST_SIMILAR))


def _unknown_text(name: str, similar: Sequence[str]) -> str:
    text = f"there is no device {quoted(name)}"
    if similar:
        return f"{text}; similar: {', '.join(similar)}"
    return f"{text}: monconn devices lists those that there are"


def _remember(
    name: str, followed: Followed, service: DevicesService
) -> Generator[None, None, _Memory]:
    memory = _Memory()
    for monitor, devices in followed:
        devices.catch_up()
        device = devices.get(name)
        address = name.partition("/")[0]
        if device is not None and device.fact:
            address = next(iter(device.last_addresses()), "")
            for each in device.last_addresses():
                memory.addresses.setdefault(each, None)
        memory.is_blocked = memory.is_blocked or monitor.is_blocked(address)
        if device is not None:
            memory.identity = device.fact or memory.identity
            memory.name = devices.given_name(device) or memory.name
            memory.services.append(_service_values(device, monitor, service))
            memory.live_total += len(device.live or ())
            live = device.live or ()
            memory.live += heapq.nlargest(_MOST_LIVE, live, key=lambda record: record.opened)
            if live:
                memory.live_since[monitor.name] = min(record.opened_at for record in live)
            memory.active += [
                {
                    "alarm": kind,
                    "service": monitor.name,
                    "since": iso_time(alarm.at),
                    "detail": alarm.detail,
                }
                for kind, alarm in (device.alarms or {}).items()
            ]
            yield
        for record in tuple(monitor.closed_records):
            # The story of an address is that of all who have come from there.
            if name in (devices.device_of(record), devices.name_of(record.client_ip)):
                memory.closed.append(record)
            yield
        for alarm in tuple(devices.alarms):
            if alarm.device == name and not alarm.goes_on:
                memory.alarms.append({"event": "alarm", **alarm.snapshot()})
            yield
    memory.live.sort(key=lambda record: record.opened, reverse=True)
    memory.services.sort(key=lambda row: str(row["last_seen"]), reverse=True)
    return memory


def _service_values(device: Device, monitor: Monitor, service: DevicesService) -> dict[str, Any]:
    row = service.measured(service.of(monitor.name).snapshot(device))
    values = DeviceRow(**row).to_json()
    for key, limit in (
        ("silent_after_seconds", device.silence_limit),
        ("away_after_seconds", device.reconnect_limit),
    ):
        values[key] = None if limit == INFINITE else round(limit, 3)
    return values


def _live_values(connection: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "service", "client", "state", "opened_at", "age_seconds", "idle_seconds")
    return {name: connection[name] for name in (*names, "up", "down")}


def _connection_key(connection: Mapping[str, Any]) -> Any:
    return connection["service"], connection["id"], connection["opened_at"]


def _event_key(event: Mapping[str, Any]) -> Any:
    names = ("event", "at", "service", "alarm", "refusal", "over", "client")
    return tuple(event.get(name) for name in names)


def _is_of_device(event: Mapping[str, Any]) -> bool:
    return event["event"] in ("alarm", "refused")


# -- the rows of a timeline

_ORDER = {
    "stopped": 0,
    "started": 1,
    "absent": 2,
    "refused": 3,
    "ended": 4,
    "open": 5,
    "alarm": 6,
    "alarm_over": 7,
}
"""Of what happened at the same moment, the order in which it did."""


def _end_row(connection: Mapping[str, Any]) -> TimelineRow:
    names = ("service", "id", "client", "opened_at", "duration_seconds", "up", "down", "reason")
    return TimelineRow(
        at=connection["closed_at"],
        what="ended",
        **{name: connection[name] for name in names},
        code=connection.get("code"),
        detail=connection.get("detail"),
    )


def _live_row(record: ConnectionRecord, now: float) -> TimelineRow:
    return TimelineRow(
        at=iso_time(record.opened_at),
        what="open",
        service=record.service,
        id=record.id,
        client=record.client,
        opened_at=iso_time(record.opened_at),
        duration_seconds=round(record.age_seconds(now), 3),
        up=record.up,
        down=record.down,
    )


def _event_row(event: Mapping[str, Any]) -> TimelineRow:
    kind = event["event"]
    if kind == "alarm":
        return TimelineRow(
            at=event["at"],
            what="alarm_over" if event["over"] else "alarm",
            service=event["service"],
            alarm=event["alarm"],
            detail=event.get("detail"),
        )
    if kind == "refused":
        return TimelineRow(
            at=event["at"],
            what="refused",
            service=event["service"],
            client=event.get("client"),
            refusal=event.get("refusal"),
            detail=event.get("detail"),
        )
    return TimelineRow(at=event["at"], what=kind, detail=event.get("detail"))


def _absences(
    connections: Iterable[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    services: Sequence[Mapping[str, Any]],
    live_since: Mapping[str, float],
) -> Generator[None, None, list[TimelineRow]]:
    """The times without a connection that were longer than usual, at each service.

    :param live_since: since when there has been a live connection, as not all are given.
    """
    usual = {each["service"]: each["reconnect_seconds"] for each in services}
    times = [_seconds(each["at"]) for each in runs]
    by_service = {service: [(since, INFINITE)] for service, since in live_since.items()}
    for each in connections:
        until = _seconds(each["closed_at"]) if each.get("closed_at") else INFINITE
        by_service.setdefault(each["service"], []).append((_seconds(each["opened_at"]), until))
        yield
    rows = []
    for service, spans in by_service.items():
        spans.sort()
        gaps = []
        until = spans[0][1]
        for opened, closed in spans[1:]:
            if opened > until:
                gaps.append((until, opened))
            until = max(until, closed)
        lengths = sorted(end - begin for begin, end in gaps)
        least = _LEAST_AWAY_SECONDS
        if len(gaps) >= _FEWEST_GAPS:
            least = max(least, _TIMES_AWAY * lengths[len(lengths) // 2])
        for begin, end in gaps:
            if end - begin >= least:
                is_ours = any(begin <= at <= end for at in times)
                rows.append(
                    TimelineRow(
                        at=iso_time(end),
                        what="absent",
                        service=service,
                        duration_seconds=round(end - begin, 3),
                        usual_seconds=usual.get(service),
                        detail="monconn did not run all the time" if is_ours else None,
                    )
                )
            yield
    return rows


def _ends(ended: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]]) -> list[DeviceEnd]:
    """The last ends of connections, newest first, each with the time to the next connection."""
    ended = ended[:MOST_ENDS]
    openings = sorted(_seconds(each["opened_at"]) for each in (*ended, *live))
    ends = []
    for each in ended:
        closed, lasted = _seconds(each["closed_at"]), each["duration_seconds"]
        following = bisect_left(openings, closed)
        away = openings[following] - closed if following < len(openings) else None
        moved = max(each.get("last_up_seconds") or 0.0, each.get("last_down_seconds") or 0.0)
        ends.append(DeviceEnd(each["reason"], lasted, max(lasted - moved, 0.0), away))
    return ends


def _facts(connections: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts about a device's connections, the latest value of each.

    Those that monconn itself sets are of one connection, the latest that has any: how an earlier
    one has said goodbye is not true of one that is live.
    """
    facts: dict[str, Any] = {}
    for each in connections:
        is_latest = not any(name in OWN_FACTS for name in facts)
        for name, value in (each.get("facts") or {}).items():
            if (is_latest or name not in OWN_FACTS) and (name in facts or len(facts) < _MOST_FACTS):
                facts.setdefault(name, value)
    return facts


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
