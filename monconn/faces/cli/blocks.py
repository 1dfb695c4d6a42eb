"""``monconn block``, ``unblock`` and ``blocks``: who is kept out, until when, and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from monconn.addresses import address_text, parse_network
from monconn.errors import AddressError, ControlError, printable
from monconn.faces.cli import completion
from monconn.faces.cli.listings import listing
from monconn.faces.cli.output import print_json, print_line, print_note
from monconn.faces.cli.verbs import (
    asks_server,
    dry_run_option,
    json_option,
    positive_seconds,
    service_option,
)
from monconn.faces.control.client import Client
from monconn.ops.filter_keys import BLOCK_KEYS
from monconn.ops.rows import BlockRow
from monconn.units import local_time

_NOT_KEPT = (
    "monconn has no file for its state, or cannot write it (its log says why): what it blocks ends"
    " with it"
)


@listing(
    *("blocks", BLOCK_KEYS, BlockRow),
    short_help="The blocked networks: by whom, until when, and their hits.",
)
def blocks(server: Client, **arguments: Any) -> Iterable[Any]:
    """The blocked networks: by whom, until when, and how many clients they have met.

    One without a service is blocked at all of them.
    """
    return server.rows("ListBlocks", **arguments)


@click.command(short_help="Refuse clients of an IP or a network, and end their connections.")
@click.argument(
    "networks", metavar="NET...", nargs=-1, required=True, shell_complete=completion.clients
)
@service_option
@click.option(
    "--for",
    "for_seconds",
    metavar="TIME",
    callback=positive_seconds,
    help="End by itself after this time, as in 1h.",
)
@click.option("--reason", metavar="TEXT", help="Why, for monconn blocks and the log.")
@click.option("--keep-open", is_flag=True, help="Leave alone who is connected.")
@dry_run_option
@json_option
@asks_server
def block(server: Client, networks: Sequence[str], as_json: bool, **arguments: Any) -> None:
    """Refuse clients of an IP or a network, and end those that are connected.

    At all services, also those that are added later, unless one is named. To block a network again
    changes when its block ends.
    """
    arguments["keep_open"] = arguments["keep_open"] or None
    if "blocks" not in server.hello:  # it would ignore them, and block for ever
        given = [each for each in ("for_seconds", "reason", "keep_open") if arguments[each]]
        if given:
            option = {"for_seconds": "--for"}.get(given[0], f"--{given[0].replace('_', '-')}")
            runs = printable(server.hello.get("server"))
            raise ControlError(f"{runs} runs, which is too old for {option}: restart it")
    dry_run, service = arguments["dry_run"], arguments["service"]
    arguments["dry_run"] = dry_run or None
    _check_networks(networks)
    rows: list[dict[str, Any]] = []
    is_kept = True
    for network in networks:
        answer = server.call("Block", network=network, **arguments)
        is_changed, is_update = answer["changed"] == "True", answer.get("updated") == "True"
        count, until = int(answer.get("closed", 0)), answer.get("until")
        is_kept = is_kept and answer.get("kept") != "False"
        row: dict[str, Any] = {"network": network, "changed": is_changed}
        if is_update:
            row["updated"] = True
        if until is not None:
            row["until_at"] = until
        if dry_run:
            row |= {"dry_run": True, "closed": count}
        rows.append(row)
        if not as_json:
            text = f"{_whole(network)} {_BLOCKED[_what(is_changed, is_update), dry_run]}"
            print_line(text + _at(service) + _until(until, is_update) + _ended(count, dry_run))
    if as_json:
        print_json(rows)
    if not (is_kept or dry_run):
        print_note(_NOT_KEPT)


def _check_networks(networks: Sequence[str]) -> None:
    """Have a mistake in one of them change nothing of the others."""
    for each in networks:
        parse_network(each)


_BLOCKED = {
    ("new", False): "is blocked",
    ("new", True): "would be blocked",
    ("updated", False): "was blocked already, and is now blocked",
    ("updated", True): "is blocked already, and would then be blocked",
    ("unchanged", False): "was blocked already",
    ("unchanged", True): "is blocked already",
}
"""By what becomes of the block, and dry run."""


def _what(is_changed: bool, is_update: bool) -> str:
    return "updated" if is_update else "new" if is_changed else "unchanged"


@click.command(short_help="Let clients of an IP or a network in again.")
@click.argument(
    "networks", metavar="NET...", nargs=-1, required=True, shell_complete=completion.blocked
)
@service_option
@dry_run_option
@json_option
@asks_server
def unblock(
    server: Client, networks: Sequence[str], service: str | None, dry_run: bool, as_json: bool
) -> None:
    """Let clients of exactly this IP or network in again, whoever has blocked it."""
    _check_networks(networks)
    if len(networks) > 1 and not dry_run:  # one may be blocked at all services, and not at one
        for network in networks:
            server.call("Unblock", network=network, service=service, dry_run=True)
    rows: list[dict[str, Any]] = []
    for network in networks:
        answer = server.call("Unblock", network=network, service=service, dry_run=dry_run or None)
        is_changed = answer["changed"] == "True"
        row: dict[str, Any] = {"network": network, "changed": is_changed}
        text = f"{_whole(network)} {_UNBLOCKED[is_changed, dry_run]}{_at(service)}"
        if dry_run:
            row |= {"dry_run": True, "closed": 0}
        if wider := answer.get("still_blocked_by"):
            row["still_blocked_by"] = wider
            text += f"; {wider} is blocked, which it is in"
        rows.append(row)
        if not as_json:
            print_line(text)
    if as_json:
        print_json(rows)


_UNBLOCKED = {
    (True, False): "is let in again",
    (True, True): "would be let in again",
    (False, False): "was not blocked",
    (False, True): "is not blocked",
}
"""By whether it is changed, and dry run."""


def _whole(network: str) -> str:
    """What a server takes it for: of 10.1.2.3/8, which may be a slip, all of 10.0.0.0/8."""
    try:
        return address_text(parse_network(network))
    except AddressError:  # a newer server may understand more
        return network


def _at(service: str | None) -> str:
    return "" if service is None else f" at {service}"


def _until(until: str | None, is_update: bool) -> str:
    if until is not None:
        return f" until {local_time(until)}"
    return ": it has no end" if is_update else ""


def _ended(count: int, dry_run: bool) -> str:
    if not count:
        return ""
    connections = f"{count} connection{'' if count == 1 else 's'}"
    return f", {connections} {'would be ' if dry_run else ''}closed"
