"""What would happen to a client at each service: a row, and the lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import attrs

from monconn.errors import printable
from monconn.ops.columns import Row, TableOf, field
from monconn.ops.text_table import beside
from monconn.units import format_duration, local_time

Json = Mapping[str, Any]

_UNITS = {
    "per_ip_limit": "connections of this client",
    "conn_limit": "connections",
    "ip_limit": "clients",
    "per_ip_rate": "of this client's",
    "rate": "of all clients'",
}
"""What the figures of a rule count; of rates, whose tokens."""
_MARGIN = 14


@attrs.frozen(slots=False)
class WhyRow(Row):
    """What would happen to a client of one service."""

    TABLE: ClassVar[TableOf] = ("service", "ip", "outcome", "by", "refusal", "connections")

    service: str = field(importance=0, width=14, max_width=30, help="The service's name.")
    ip: str = field("IP", importance=1, width=15, max_width=40, help="As connections have it.")
    device: str | None = field(
        optional=True, help="The device that was asked for, if it was no address."
    )
    client: str = field(help="Whom rules per client count it as: its IP, or its network.")
    state: str = field(help="Of the service: running, paused, draining or stopping.")
    outcome: str = field(importance=0, help="enters, waits or refused.")
    by: str | None = field(
        nullable=True, importance=1, width=12, help="The rule, or the service's state."
    )
    refusal: str | None = field(
        nullable=True, width=12, help="Why it is refused, at once or after its wait."
    )
    would_refuse: list[str] = field(unit="list", help="What rules in dry_run would say.")
    connections: int = field(unit="count", help="Live connections of the client.")
    since: str | None = field(unit="time", nullable=True, help="The opening of the oldest.")
    ids: list[int] = field(unit="list", help="Their ids, ten at most, the oldest first.")
    unreadable_files: list[str] | None = field(
        unit="list",
        optional=True,
        help="Why files of block_files cannot be read now.",
    )
    rules: list[dict[str, Any]] = field(
        unit="list", help="Each rule that is set, in the order in which they are asked."
    )
    auto_block: dict[str, Any] | None = field(
        unit="object", optional=True, help="How much of it is used up, and what it says."
    )


def why_lines(rows: Iterable[Json], width: int | None) -> Iterator[str]:
    """What would happen, for people: some lines for each service.

    :param rows: as JSON.
    :param width: of the terminal; None for lines as long as they are.
    """
    is_first = True
    for row in rows:
        if not is_first:
            yield ""
        is_first = False
        yield from map(printable, _of_service(row, width))


def _of_service(row: Json, width: int | None) -> Iterator[str]:
    yield from beside("", 0, f"{row['service']}: {_who(row)} {_outcome(row)}", width)
    pairs = [*_of_client(row), *((each["rule"], _rule(each, row)) for each in row["rules"])]
    if row.get("auto_block"):
        pairs.append(("auto_block", _auto_block(row["auto_block"])))
    if not row["rules"]:
        pairs.append(("rules", "none is set"))
    for fault in row.get("unreadable_files") or ():
        pairs.append(("block_files", f"{fault}: what it listed before is in force"))
    for name, text in pairs:
        yield from beside(f"  {name}", _MARGIN + 2, text, width)


def _who(row: Json) -> str:
    return f"{row['device']} ({row['ip']})" if row.get("device") else str(row["ip"])


def _outcome(row: Json) -> str:
    by, refusal = row.get("by"), row.get("refusal")
    if row["outcome"] == "enters":
        return "would enter"
    if row["outcome"] == "refused":
        why = f"the service is {by}" if by in ("draining", "stopping") else by
        return f"would be refused: {why}" + ("" if refusal == by else f" ({refusal})")
    after = "enter" if refusal is None else f"be refused ({refusal})"
    why = "the service is paused" if by == "paused" else by
    return f"would wait in the accept queue ({why}), and then {after}"


def _of_client(row: Json) -> Iterator[tuple[str, str]]:
    if row["client"] != row["ip"]:
        prefix = "prefix_v6" if ":" in row["client"] else "prefix_v4"
        yield "client", f"{row['client']}, which is one client by {prefix}"
    count, ids = row["connections"], row["ids"]
    if count:
        more = f", and {count - len(ids)} more" if count > len(ids) else ""
        listed = f"{', '.join(map(str, ids))}{more}"
        several = "" if count == 1 else "s, the oldest"
        id_or_ids = "id" if len(ids) == 1 else "ids"
        since = local_time(row["since"])
        yield "connected", f"{count} connection{several} since {since} ({id_or_ids} {listed})"
    else:
        yield "connected", "not now"
    if row["would_refuse"]:
        yield "dry run", f"would refuse it: {', '.join(row['would_refuse'])}"


def _rule(rule: Json, row: Json) -> str:
    text = ", ".join(_figures(rule))
    if rule["rule"] == "ip_limit" and row["connections"]:
        text += ", of which it is one"
    if rule["refuses"]:
        text = f"{_verdict(rule, row)}: {text}"
    elif rule["dry_run"]:
        text += " (dry run)"
    if rule["rule"] == "block" and not rule.get("block") and not rule.get("origin"):
        return text
    return f"{text} {_place(rule)}"


def _verdict(rule: Json, row: Json) -> str:
    if rule["dry_run"]:
        return "would refuse (dry run)"
    # Rules of single clients always refuse, and would be the refusal.
    waits = row["outcome"] == "waits" and rule["rule"] != row.get("refusal")
    return "full, clients wait" if waits and rule["rule"] in ("conn_limit", "rate") else "refuses"


def _place(written: Json) -> str:
    if not written.get("origin"):
        return "[set while it runs]"
    return f"[{written['origin']}{', defaults' if written.get('is_default') else ''}]"


def _auto_block(auto_block: Json) -> str:
    used, limit, counted = auto_block["used"], auto_block["limit"], auto_block["of"]
    within, time = (format_duration(auto_block[f"{each}_seconds"]) for each in ("within", "for"))
    text = f"{used} of {limit} ({', '.join(map(str, counted))}) within {within}"
    return f"{text}, then blocked for {time} {_place(auto_block)}"


def _figures(rule: Json) -> Iterator[str]:
    name = rule["rule"]
    if name == "block":
        yield _block(rule["block"]) if rule.get("block") else "no network has it"
        if rule.get("unblocked"):
            yield f"but {rule['unblocked']}, which an operator has unblocked"
    elif name == "allow":
        yield f"{rule['network']}" if rule.get("network") else "no network has it"
    elif rule.get("rate") is not None:
        tokens = f"{round(rule['used'], 1):g} of {rule['limit']} {_UNITS[name]} tokens used"
        yield f"{tokens} ({rule['rate']})"
        if rule.get("wait_seconds"):
            yield f"the next in {format_duration(rule['wait_seconds'])}"
    else:
        yield f"{rule['used']:g} of {rule['limit']} {_UNITS[name]}"


def _block(block: Json) -> str:
    text = f"{block['network']} is blocked"
    if block.get("by"):
        text += f" by {block['by']}"
    if block.get("since"):
        text += f" since {local_time(block['since'])}"
    if block.get("until"):
        text += f" until {local_time(block['until'])}"
    return text + (f" ({block['reason']})" if block.get("reason") else "")
