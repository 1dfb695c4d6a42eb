"""The verbs for a running monconn: what it does now, and actions on its connections."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import click

from monconn.errors import ControlError, UnitError
from monconn.faces.cli import completion
from monconn.faces.cli.blocks import block, blocks, unblock
from monconn.faces.cli.capture import capture
from monconn.faces.cli.device import device, with_hint
from monconn.faces.cli.explain import explain
from monconn.faces.cli.forget import forget
from monconn.faces.cli.history import history, report
from monconn.faces.cli.listings import Asked, listing, listing_options
from monconn.faces.cli.notify import notify
from monconn.faces.cli.output import (
    has_colours,
    print_error,
    print_json,
    print_line,
    print_rows,
    print_text,
    terminal_width,
)
from monconn.faces.cli.pausing import drain, pause, resume, spread_option
from monconn.faces.cli.ps import ps
from monconn.faces.cli.recording import recording
from monconn.faces.cli.reload import reload
from monconn.faces.cli.replay import replay_command
from monconn.faces.cli.tap import tap
from monconn.faces.cli.verbs import (
    asks_server,
    client_option,
    dry_run_option,
    filter_argument,
    filter_text,
    json_option,
    service_option,
)
from monconn.faces.cli.web import web
from monconn.faces.cli.why import why
from monconn.faces.control.client import LIST_SECONDS, BadAnswer, Client
from monconn.faces.tui.terminal import check_terminal
from monconn.model.reasons import STATES
from monconn.model.uid import parse_uid
from monconn.ops.columns import Row
from monconn.ops.details import detail_lines
from monconn.ops.filter_keys import (
    CONNECTION_KEYS,
    DEVICE_KEYS,
    EVENT_KEYS,
    IP_KEYS,
    SERVICE_KEYS,
)
from monconn.ops.filters import Context, parse
from monconn.ops.rows import (
    ClientRow,
    ClosedConnectionRow,
    ConnectionRow,
    DeviceRow,
    ServiceRow,
    sum_by_ip,
)
from monconn.units import format_duration, parse_duration

_HOW_TO_ASK_WHY = "monconn explain ID tells why one has ended, and what to type next"
_IDS_AT_ONCE = 1_000
"""A value on the wire has room for some 6,000, and an action takes 2,000."""


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


# -- listings


def _connection_class(closed: bool = False, **_: Any) -> type[Row]:
    return ClosedConnectionRow if closed else ConnectionRow


@listing(
    "list",
    CONNECTION_KEYS,
    _connection_class,
    client_option,
    click.option(
        "--state",
        metavar="STATE",
        shell_complete=completion.choices(STATES),
        help="Only those that are open, half_closed, ...",
    ),
    click.option(
        "--idle-over", metavar="TIME", callback=_seconds, help="Only those idle longer, as in 5m."
    ),
    click.option("--text", metavar="WORD", help="Only those with this text in any column."),
    click.option("--closed", is_flag=True, help="Those that were closed last, instead."),
    is_arranged=True,
)
def list_connections(
    server: Client, closed: bool, sort: str | None, **arguments: Any
) -> Iterable[Any]:
    """Connections, one a line.

    A FILTER is a term such as service:mqtt, client:10.0.0.0/8, idle:5m.. or not:state:open
    (docs/filters.md), or a word that is searched in every column.
    """
    if closed:
        arguments |= {"closed": True}
        sort = sort or "closed"
    rows = server.rows("ListConnections", sort=sort, **arguments)
    return with_hint(rows, _HOW_TO_ASK_WHY) if closed else rows


@listing(
    "devices",
    DEVICE_KEYS,
    DeviceRow,
    click.option("--alarms", is_flag=True, help="Only those with an alarm that goes on."),
)
def devices(server: Client, alarms: bool, **arguments: Any) -> Iterable[Any]:
    """Devices: how often each connects and sends, and its alarms.

    monconn device NAME tells more of one of them.
    """
    rows = server.rows("ListDevices", **arguments)
    chosen = (row for row in rows if row["alarms"]) if alarms else rows
    return with_hint(chosen, "monconn device NAME tells more of one of them")


@listing("ip", IP_KEYS, ClientRow)
def clients(server: Client, **arguments: Any) -> Iterable[Any]:
    """What each client IP has done.

    A FILTER is tried on what the IP has done at each service, before that is added up.
    """
    rows = server.rows("ListClients", **arguments)
    return sum_by_ip(map(ClientRow.of, rows))


@click.command(short_help="The services in figures: all, or those that match.")
@filter_argument(SERVICE_KEYS, "[SERVICE|FILTER]...", or_else="services")
@listing_options(ServiceRow)
@asks_server
def stats(server: Client, terms: Sequence[str], asked: Asked) -> None:
    """The services in figures: all, or the one of this name, or those that match.

    A FILTER is a term such as connections:100.. or up:1GiB.. (docs/filters.md).
    """
    name = terms[0] if len(terms) == 1 and not _is_term(terms[0]) else None
    wanted = parse(() if name is not None else terms, SERVICE_KEYS)
    rows = wanted.select(server.rows("ListServices", service=name), Context())
    arranged = list(asked.arranged(rows))
    if asked.look.form == "json":  # how many IPs there are is in the rows
        arranged = list(_with_ips(server, arranged))
        if name is not None and asked.look.columns is None:
            (row,) = arranged
            print_json(row)
            return
    print_rows(ServiceRow, arranged, look=asked.look)


def _is_term(text: str) -> bool:
    key, colon, _ = text.removeprefix("not:").partition(":")
    return bool(colon) and (key in SERVICE_KEYS.by_name or text.startswith("not:"))


def _with_ips(server: Client, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Services with their IPs, which are a list of their own, as they may be too many."""
    ends = time.monotonic() + LIST_SECONDS
    for row in rows:
        if time.monotonic() > ends:
            raise BadAnswer(f"{server.where} has sent only a part in {LIST_SECONDS:.0f} s")
        yield row | {"ips": list(server.rows("ListIps", service=row["sid"]))}


def _connection_id(
    context: click.Context, argument: click.Parameter, text: str
) -> tuple[int, str | None]:
    """An id, and the uid that it was read from, if it was."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text), None
    parsed = parse_uid(text)
    if parsed is None:
        raise click.BadParameter(f"{text!r} is no id, and no uid of a connection")
    return parsed[1], text.lower()


@click.command()
@click.argument(
    "id_",
    metavar="ID|UID",
    callback=_connection_id,
    shell_complete=completion.connection_ids,
)
@json_option
@asks_server
def show(server: Client, id_: tuple[int, str | None], as_json: bool) -> None:
    """All that is known of one connection, live or closed lately."""
    number, uid = id_
    connection = json.loads(server.call("ShowConnection", id=number, uid=uid)["connection"])
    if uid is not None and connection.get("uid") != uid:
        raise ControlError(f"the monconn at {server.where} is too old to know uids: give an id")
    if as_json:
        print_json(connection)
    else:
        print_text("".join(f"{line}\n" for line in detail_lines(connection, terminal_width())))


@click.command()
@filter_argument(EVENT_KEYS)
@service_option
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="End after so many.")
@json_option
@asks_server
def events(
    server: Client, terms: Sequence[str], service: str | None, limit: int | None, as_json: bool
) -> None:
    """What happens, as it happens: a line for each event.

    Connections opened, refused and closed; alarms; actions. A FILTER such as event:closed
    (docs/filters.md) chooses among them. Half-closed connections are there if it names them
    (event:half_closed).
    """
    from monconn.faces.cli import render

    dropped = 0
    for event in islice(server.events(service=service, filter=filter_text(terms)), limit):
        if server.events_dropped > dropped:
            print_error(f"{server.events_dropped - dropped} events missed")
            dropped = server.events_dropped
        if as_json:
            print_json(event)
        else:
            print_text(f"{render.event_line(event, coloured=has_colours())}\n")


# -- actions


@click.command()
@filter_argument(CONNECTION_KEYS, "[ID|TERM]...", or_else="ids")
@click.option(
    "--client",
    metavar="NET",
    shell_complete=completion.clients,
    help="All connections of this IP or network.",
)
@service_option
@click.option("--reset", is_flag=True, help="At once, by a reset; else what is held is delivered.")
@spread_option
@dry_run_option
@json_option
@asks_server
def close(
    server: Client,
    terms: Sequence[str],
    client: str | None,
    service: str | None,
    reset: bool,
    spread: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """End connections: by their IDs, or by TERMs.

    A TERM has a key, as in client:10.0.0.0/8 idle:1h.. (docs/filters.md). Connections must match
    each of them.
    """
    ids = [int(each) for each in terms if re.fullmatch(r"[0-9]{1,18}", each)]
    if (ids and (client or service)) or not (terms or client or service):
        raise click.UsageError("give IDs or terms, or --client or --service")
    wanted = {"client": client, "service": service}
    choices: list[dict[str, Any]] = [{"filter": filter_text(terms)}]
    if len(ids) == len(terms) > 0:
        parts = (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))
        choices = [{"ids": part} for part in parts]
    count = 0
    unknown: list[int] = []
    rows: list[Any] = []
    for choice in choices:
        answer = server.call(
            "CloseConnections",
            **wanted,
            **choice,
            reset=reset,
            spread=spread,
            dry_run=dry_run or None,
        )
        count += int(answer["closed"])
        unknown += json.loads(answer["unknown"])
        if dry_run:
            rows += server.rows_of(answer)
    if as_json:
        made = {"closed": count, "unknown": unknown}
        print_json(made | {"dry_run": True, "connections": rows} if dry_run else made)
    else:
        if rows:
            print_rows(ConnectionRow, rows)
        would_be = " would be" if dry_run else ""
        if count or not unknown:
            over = f" within {format_duration(spread)}, evenly" if spread else ""
            is_over = "will be closed" if spread and not dry_run else f"{would_be.strip()} closed"
            print_line(f"{_connections(count)} {is_over.strip()}{over}")
        for each in unknown:
            print_error(f"no live connection has the id {each}")
    if unknown and not dry_run:
        raise click.exceptions.Exit(1)


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"


# -- other programs


@click.command(
    short_help="Open the manhole: Python inside of a running monconn.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("command", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
@asks_server
def shell(server: Client, command: Sequence[str]) -> None:
    """Open the manhole: Python inside of a running monconn; or run one COMMAND there."""
    from monconn.faces.cli.shell import open_shell

    open_shell(server, command)


@click.command()
@asks_server
def top(server: Client) -> None:
    """Watch connections on the whole screen."""
    check_terminal()
    try:
        from monconn.faces.tui.screen import run_top
    except ImportError:
        raise ControlError("this needs Textual: pip install 'monconn[tui]'") from None
    raise click.exceptions.Exit(run_top(server.where))


VERBS = (
    list_connections,
    show,
    stats,
    clients,
    close,
    block,
    unblock,
    blocks,
    pause,
    resume,
    drain,
    events,
    tap,
    recording,
    devices,
    device,
    history,
    report,
    explain,
    why,
    forget,
    reload,
    replay_command,
    capture,
    notify,
    top,
    web,
    shell,
    ps,
    completion.completion,
)
