"""A report for people: figures, bars and a small chart, in the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from monconn.errors import printable
from monconn.units import format_bytes, format_duration, local_time, sparkline

_BAR_CHARACTERS = 30
_LEAST_BAR_CHARACTERS = 4
_NAME_CHARACTERS = 100
"""The most of a name beside a bar; an address has 50 at most."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_CHART_CHARACTERS = 56
_RESOLUTION = "single connections of this time have been deleted: these are the sums of whole hours"


def report(made: Mapping[str, Any], width: int | None = None) -> str:
    """The text of what ``monconn report --json`` prints.

    :param width: in characters, of a terminal: bars are shorter where it is narrow.
    """
    lines = (printable(line) if line else "" for line in _lines(made, width))
    return "".join(f"{line}\n" for line in lines).rstrip("\n") + "\n"


def _lines(made: Mapping[str, Any], width: int | None) -> Iterator[str]:
    service = f" of {made['service']}" if made["service"] else ""
    yield f"{_moment(made['since'])} to {_moment(made['until'])}{service}"
    if made["resolution"] != "exact":
        yield _RESOLUTION
    if made["kept_since"] is not None:
        yield f"nothing is stored of the time before {_moment(made['kept_since'])}"
    yield ""
    yield f"connections  {made['connections']}, refused {made['refused']}"
    yield f"bytes        up {format_bytes(made['up'])}, down {format_bytes(made['down'])}"
    for name, title in (("duration_seconds", "lasted"), ("connect_seconds", "connected in")):
        if made[name] is not None:
            yield f"{title:12} {_spread(made[name])}"
    if made["lost"]:
        yield f"not stored   {made['lost']}: more than could be written"
    yield from _counts("why they ended", made["reasons"], width)
    yield from _counts("why clients were refused", made["refusals"], width)
    yield from _counts("alarms", made["alarms"], width)
    yield from _clients(
        "clients with most connections", made["clients_by_connections"], False, width
    )
    yield from _clients("clients with most bytes", made["clients_by_bytes"], True, width)
    yield from _hours(made)


def _moment(iso: str) -> str:
    return local_time(iso, always_dated=True)  # the lines of a chart have it, or none of them


def _spread(spread: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in spread.items())


def _counts(title: str, counts: Mapping[str, int], width: int | None) -> Iterator[str]:
    if counts:
        rows = [(name, count, str(count)) for name, count in counts.items()]
        yield from _bars(title, rows, width)


def _clients(
    title: str, clients: Iterable[Mapping[str, Any]], by_bytes: bool, width: int | None
) -> Iterator[str]:
    rows = []
    for each in clients:
        moved = each["up"] + each["down"]
        text = f"{_connections(each['connections'])}, {format_bytes(moved)}"
        rows.append((each["client_ip"], moved if by_bytes else each["connections"], text))
    if any(amount for _, amount, _ in rows):
        yield from _bars(title, rows, width)


def _bars(title: str, rows: list[tuple[str, int, str]], width: int | None) -> Iterator[str]:
    yield ""
    yield title
    rows = [(name[:_NAME_CHARACTERS], amount, text) for name, amount, text in rows]
    widest = max(len(name) for name, _, _ in rows)
    most = max(amount for _, amount, _ in rows) or 1
    length = _BAR_CHARACTERS
    if width is not None:
        room = width - widest - max(len(text) for _, _, text in rows) - len("  " * 3)
        length = max(min(length, room), _LEAST_BAR_CHARACTERS)
    for name, amount, text in rows:
        yield f"  {name:{widest}}  {_bar(amount / most, length)}  {text}"


def _bar(share: float, length: int) -> str:
    share = min(max(share, 0.0), 1.0)  # whatever a server says
    eighths = max(round(share * length * 8), 1) if share else 0
    whole, rest = divmod(eighths, 8)
    return f"{'█' * whole}{_EIGHTHS[rest] if rest else ''}".ljust(length)


def _hours(made: Mapping[str, Any]) -> Iterator[str]:
    points = made["hours"]
    if not points:
        return
    every = "hour" if made["hours_each"] == 1 else f"{made['hours_each']} hours"
    yield ""
    yield f"connections each {every}"
    chart = sparkline([point["connections"] for point in points])
    for start in range(0, len(points), _CHART_CHARACTERS):
        line = chart[start : start + _CHART_CHARACTERS]
        yield f"  {_moment(points[start]['at'])}  {line}"
    yield "busiest"
    for each in made["busiest"]:
        moved = format_bytes(each["up"] + each["down"])
        yield f"  {_moment(each['at'])}  {_connections(each['connections'])}, {moved}"


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"
