"""The verbs that look into a running monconn, and act on its connections."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import get_completion_class

from monconn.errors import ControlError, UnitError
from monconn.faces.cli.asking import (
    as_json,
    asks,
    of_service,
    print_json,
    print_table,
    print_text,
)
from monconn.faces.cli.past import devices, history, report
from monconn.faces.control.client import Client
from monconn.units import parse_duration

_ORDERS = ("id", "up", "down", "age", "idle", "rate", "closed")
_IDS_AT_ONCE = 1_000
_SHELLS = ("bash", "zsh", "fish")


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


@click.command("list")
@of_service
@click.option("--client", metavar="NET", help="Only clients of this IP or network.")
@click.option("--state", metavar="STATE", help="Only those that are open, half_closed, …")
@click.option(
    "--idle-over", metavar="TIME", callback=_seconds, help="Only those idle longer, as in 5m."
)
@click.option("--text", metavar="WORD", help="Only those with a word in them, in any column.")
@click.option("--sort", type=click.Choice(_ORDERS), help="The most first; id: oldest first.")
@click.option("--limit", type=click.IntRange(min=1), help="No more than so many.")
@click.option("--closed", is_flag=True, help="Those that were closed last, instead.")
@as_json
@asks
def list_connections(server: Client, as_json: bool, closed: bool, **wanted: Any) -> None:
    """Connections, one a line."""
    if closed:
        wanted = {**wanted, "closed": True, "sort": wanted["sort"] or "closed"}
    rows = list(server.rows("ListConnections", **wanted))
    print_table("CLOSED" if closed else "LIVE", rows, as_json)


@click.command()
@click.argument("id_", metavar="ID", type=int)
@as_json
@asks
def show(server: Client, id_: int, as_json: bool) -> None:
    """All that is known of one connection, live or closed lately."""
    connection = json.loads(server.call("ShowConnection", id=id_)["connection"])
    if as_json:
        print_json(connection)
    else:
        from monconn.faces.cli import render

        print_text(render.details(connection))


@click.command()
@click.argument("service", required=False)
@as_json
@asks
def stats(server: Client, service: str | None, as_json: bool) -> None:
    """The services in figures, or one of them."""
    rows = list(server.rows("ListServices", service=service))
    for row in rows:
        row["ips"] = list(server.rows("ListIps", service=row["sid"]))
    if as_json and service is not None:
        print_json(rows[0])
    else:
        print_table("SERVICES", rows, as_json)


@click.command("ip")
@of_service
@as_json
@asks
def clients(server: Client, service: str | None, as_json: bool) -> None:
    """What each client IP has done."""
    rows = _by_ip(server.rows("ListClients", service=service))
    print_table("CLIENTS", rows, as_json)


def _by_ip(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each IP, whatever the services; the one seen last first."""
    by_ip: dict[str, dict[str, Any]] = {}
    for row in rows:
        del row["service"]
        other = by_ip.get(row["ip"])
        by_ip[row["ip"]] = row if other is None else _sum(row, other)
    return sorted(by_ip.values(), key=lambda row: str(row["last_seen"]), reverse=True)


def _sum(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    later = max(row, other, key=lambda each: str(each["last_seen"]))
    return {
        **later,
        **{key: row[key] + other[key] for key in ("connections", "total", "up", "down")},
        "first_seen": min(row["first_seen"], other["first_seen"]),
    }


@click.command()
@click.argument("ids", metavar="ID...", type=int, nargs=-1)
@click.option("--client", metavar="NET", help="All connections of this IP or network.")
@of_service
@click.option("--reset", is_flag=True, help="At once, by a reset; else what is held is delivered.")
@as_json
@asks
def close(
    server: Client,
    ids: tuple[int, ...],
    client: str | None,
    service: str | None,
    reset: bool,
    as_json: bool,
) -> None:
    """End connections: by their IDs, or by client or service."""
    if bool(ids) == bool(client or service):
        raise click.UsageError("give IDs, or --client or --service")
    count, unknown = 0, []
    for start in range(0, max(len(ids), 1), _IDS_AT_ONCE):
        some = list(ids[start : start + _IDS_AT_ONCE]) or None
        answer = server.call(
            "CloseConnections", ids=some, client=client, service=service, reset=reset
        )
        count += int(answer["closed"])
        unknown += json.loads(answer["unknown"])
    if as_json:
        print_json({"closed": count, "unknown": unknown})
    else:
        click.echo(f"{count} connection{'' if count == 1 else 's'} closed")
        for each in unknown:
            click.echo(f"monconn: no live connection has the id {each}", err=True)
    if unknown:
        raise click.exceptions.Exit(1)


def _change(
    server: Client, command: str, networks: tuple[str, ...], service: str | None, as_json: bool
) -> None:
    """Block or unblock, and say what has changed."""
    done, not_done = {
        "Block": ("is blocked", "was blocked already"),
        "Unblock": ("is let in again", "was not blocked"),
    }[command]
    rows = []
    for network in networks:
        changed = server.call(command, network=network, service=service)["changed"] == "True"
        rows.append({"network": network, "changed": changed})
        if not as_json:
            click.echo(f"{network} {done if changed else not_done}")
    if as_json:
        print_json(rows)


@click.command()
@click.argument("networks", metavar="NET...", nargs=-1, required=True)
@of_service
@as_json
@asks
def block(server: Client, networks: tuple[str, ...], service: str | None, as_json: bool) -> None:
    """Refuse clients of an IP or a network, and end those that are connected."""
    _change(server, "Block", networks, service, as_json)


@click.command()
@click.argument("networks", metavar="NET...", nargs=-1, required=True)
@of_service
@as_json
@asks
def unblock(server: Client, networks: tuple[str, ...], service: str | None, as_json: bool) -> None:
    """Let clients of exactly this IP or network in again."""
    _change(server, "Unblock", networks, service, as_json)


@click.command()
@of_service
@as_json
@asks
def blocks(server: Client, service: str | None, as_json: bool) -> None:
    """The blocked networks."""
    print_table("BLOCKS", list(server.rows("ListBlocks", service=service)), as_json)


@click.command()
@of_service
@as_json
@asks
def events(server: Client, service: str | None, as_json: bool) -> None:
    """Connections opened, refused and closed, as it happens."""
    from monconn.faces.cli import render

    dropped = 0
    for event in server.events(service=service):
        if server.events_dropped > dropped:
            click.echo(f"monconn: {server.events_dropped - dropped} events missed", err=True)
            dropped = server.events_dropped
        if as_json:
            print_json(event)
        else:
            click.echo(render.event_line(event))
        sys.stdout.flush()


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
@asks
def shell(server: Client, words: tuple[str, ...]) -> None:
    """Open the manhole: Python inside of a running monconn; or run one COMMAND there."""
    from monconn.faces.cli.shell import open_shell

    open_shell(server, words)


@click.command()
@asks
def top(server: Client) -> None:
    """Watch connections on the whole screen."""
    try:
        from monconn.faces.tui.screen import run_top
    except ImportError:
        raise ControlError("this needs Textual: pip install 'monconn[tui]'") from None
    raise click.exceptions.Exit(run_top(server.where))


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes monconn's words in a SHELL.

    For bash, for example: eval "$(monconn completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "monconn", "_MONCONN_COMPLETE").source())


VERBS = (
    list_connections,
    show,
    stats,
    clients,
    close,
    block,
    unblock,
    blocks,
    events,
    devices,
    history,
    report,
    top,
    shell,
    completion,
)
