"""The verb ``device``: one device, and its timeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import click

from monconn.errors import printable
from monconn.faces.cli import completion
from monconn.faces.cli.history import parse_moment
from monconn.faces.cli.output import has_colours, print_json, print_text, terminal_width
from monconn.faces.cli.verbs import asks_server, json_option, service_option
from monconn.faces.control.client import Client
from monconn.ops.device_rows import story_lines

_USUAL_ROWS = 100
_MOST_ROWS = 1_000
_PIPE_WIDTH = 100
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def with_hint(rows: Iterable[Any], hint: str) -> Iterator[Any]:
    """The rows of a table, below which a terminal shows what to type next.

    :param hint: a line.
    """
    count = 0
    for row in rows:
        yield row
        count += 1
    context = click.get_current_context()
    is_table = not (context.params.get("as_json") or context.params.get("as_csv"))
    if count and is_table and terminal_width() is not None:
        context.call_on_close(lambda: print_text(f"\n{hint}\n"))


@click.command(short_help="One device: its rhythm and alarms, and what happened.")
@click.argument("name", metavar="NAME|IP", shell_complete=completion.devices)
@service_option
@click.option(
    "--since",
    metavar="TIME",
    callback=parse_moment,
    help="The timeline from then: 2h ago, or a date; else a week.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, _MOST_ROWS),
    help="So many lines of the timeline.",
)
@click.option("--all", "shows_all", is_flag=True, help="The whole timeline, and not one screen.")
@json_option
@asks_server
def device(
    server: Client,
    name: str,
    limit: int | None,
    shows_all: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """One device: who it is, its rhythm and alarms, and what happened, newest first.

    NAME|IP is as monconn devices lists it, or any address of it, or a fact about one of its
    connections, such as a TLS server name.
    """
    rows = limit or (_MOST_ROWS if shows_all else _USUAL_ROWS)
    answer = server.call("ShowDevice", device=name, limit=rows, **arguments)
    head = json.loads(answer["device"])
    timeline = list(server.rows_of(answer))
    if as_json:
        print_json({**head, "timeline": timeline})
        return
    width = terminal_width()
    most_lines = None
    if width is not None and not (limit or shows_all):
        most_lines = shutil.get_terminal_size().lines - 2  # the prompt, and what is left out
    coloured = has_colours()
    how_to_see_all = "" if shows_all else "--all"
    for line in story_lines(head, timeline, width or _PIPE_WIDTH, most_lines, how_to_see_all):
        text = printable(line)
        if coloured and (text.startswith("ALARM ") or "  ALARM " in text):
            text = text.replace("ALARM", f"{_RED}ALARM{_PLAIN}", 1)
        print_text(f"{text}\n")
