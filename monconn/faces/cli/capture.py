"""``monconn capture``: the bytes of connections, to files of the server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from monconn.errors import ControlError, UnitError, printable
from monconn.faces.cli import completion
from monconn.faces.cli.listings import Asked, doubt_services, listing_options
from monconn.faces.cli.output import print_json, print_line, print_note, print_rows
from monconn.faces.cli.verbs import (
    asks_server,
    filter_argument,
    filter_text,
    json_option,
    positive_seconds,
    service_option,
)
from monconn.faces.control.client import Client
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.rows import CaptureRow
from monconn.units import format_bytes, parse_size

_ALL_BYTES = "all"
_HOW_TO_CHOOSE = (
    "say which connections: by ids (monconn capture start 42), by terms (monconn capture start"
    " service:mqtt), or --all of them"
)


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return 0 if text == _ALL_BYTES else parse_size(text)
    except UnitError as error:
        raise click.BadParameter(f"{error}, or {_ALL_BYTES}") from None


@click.group()
def capture() -> None:
    """Write bytes of connections to files, which Wireshark opens.

    The files are in the server's folder (docs/configuration.md#captures), and only its user may
    read them.
    """


@capture.command()
@filter_argument(CONNECTION_KEYS, "[ID|TERM]...", or_else="ids")
@service_option
@click.option("--all", "is_all", is_flag=True, help="All connections.")
@click.option(
    "--first",
    metavar="SIZE",
    callback=_size,
    help="So many bytes of each direction of a connection, as in 4KiB; or all.",
)
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    callback=positive_seconds,
    help="End after this time, as in 10m; at most a week.",
)
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after so many connections.",
)
@json_option
@asks_server
def start(
    server: Client,
    terms: Sequence[str],
    service: str | None,
    is_all: bool,
    first: int | None,
    seconds: float | None,
    connections: int | None,
    as_json: bool,
) -> None:
    """Begin a capture.

    Of the connections with these IDs; or of those that match all TERMs, such as service:mqtt or
    client:10.0.0.0/8 (docs/filters.md), now and later. It goes on until it is stopped, or monconn
    ends.
    """
    if service is not None:
        if any(
            term.lower().startswith("service:") for term in terms
        ):  # would mean one or the other
            raise click.UsageError("--service or a term service:, not both")
        terms = [*terms, f"service:={service}"]
    if bool(terms) == is_all:
        raise click.UsageError("--all goes with no other choice" if is_all else _HOW_TO_CHOOSE)
    _require(server)
    answer = server.call(
        "CaptureStart",
        filter=filter_text(terms),
        first=first,
        seconds=seconds,
        connections=connections,
    )
    made, left_out = json.loads(answer["capture"]), json.loads(answer["services_left_out"])
    if as_json:
        print_json(made)
    else:
        number, size = made["id"], made["first"]
        what = f"the first {format_bytes(size)} of each direction" if size else "all bytes"
        print_line(f"capture {number} of {made['filter']}: {what}, to files in {made['folder']}")
        print_line(f"monconn capture stop {number} ends it, monconn capture list shows it")
    doubt_services(server, terms, CONNECTION_KEYS)
    for name in left_out:
        print_note(f"service {name} is left out: it has payload: never")


@capture.command()
@click.argument(
    "numbers", metavar="[ID]...", nargs=-1, type=int, shell_complete=completion.captures
)
@click.option("--all", "is_all", is_flag=True, help="All captures, the configuration's as well.")
@json_option
@asks_server
def stop(server: Client, numbers: Sequence[int], is_all: bool, as_json: bool) -> None:
    """End captures, by their IDs."""
    if bool(numbers) == is_all:
        raise click.UsageError("give the IDs of captures, or --all: monconn capture list has them")
    _require(server)
    answer = server.call("CaptureStop", ids=None if is_all else list(numbers))
    rows = list(server.rows_of(answer))
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(_ended_text(row))
    if not rows:
        print_line("no capture runs")


def _ended_text(row: dict[str, Any]) -> str:
    count = row["connections"]
    text = (
        f"capture {row['id']} has ended: {count} connection{'' if count == 1 else 's'},"
        f" {format_bytes(row['bytes'])}"
    )
    if row["lost_bytes"]:
        text += f", and {format_bytes(row['lost_bytes'])} that could not be written"
    if row["file"]:
        more = row["files"] - 1
        text += f", in {os.path.join(row['folder'], row['file'])}"
        text += f" and {more} before it" if more else ""
    return text


@capture.command("list")
@listing_options(CaptureRow)
@asks_server
def list_captures(server: Client, asked: Asked) -> None:
    """The captures that run, and those that have ended last."""
    _require(server)
    print_rows(CaptureRow, asked.arranged(server.rows("ListCaptures")), look=asked.look)


def _require(server: Client) -> None:
    if "captures" not in server.hello:
        running = printable(server.hello.get("server"))
        raise ControlError(f"{running} runs, which is too old for capture: restart it")
