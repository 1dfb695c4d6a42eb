"""The verb ``reload``: has the configuration's file read again."""

from __future__ import annotations

import json
from typing import Any

import click

from monconn.errors import ControlError, Problem, printable
from monconn.faces.cli.output import print_error, print_json, print_line
from monconn.faces.cli.verbs import asks_server, dry_run_option, json_option
from monconn.faces.control.client import Client
from monconn.ops.reload import ReloadResult

_MOST_SECONDS = 150.0
"""How long the answer may take: files are waited for, and addresses that are in use."""
_BAD_FILE = 2


@click.command(short_help="Read the configuration again, and apply what is different.")
@dry_run_option
@json_option
@asks_server
def reload(server: Client, dry_run: bool, as_json: bool) -> None:
    """Read the configuration file again, and apply what is different.

    All of it or nothing: a file with problems changes nothing, and the exit status is 2. No
    connection ends, and all counters go on. What needs a restart is listed, and not changed.
    """
    if "pauses" not in server.hello:  # which came together with this
        running = printable(server.hello.get("server"))
        raise ControlError(f"{running} runs, which is too old for reload: restart it")
    server.answer_seconds = _MOST_SECONDS
    answer = server.call("Reload", dry_run=dry_run or None)
    head: dict[str, Any] = json.loads(answer["result"])
    rows = list(server.rows_of(answer))
    if "problems" in head:
        if as_json:
            print_json({"dry_run": dry_run, "problems": rows})
        else:
            _print_problems(rows)
        raise click.exceptions.Exit(_BAD_FILE)
    result = ReloadResult.from_json(head, rows)
    if as_json:
        print_json({**result.to_json(), "changes": [each.to_json() for each in result.changes]})
        return
    for line in result.lines():
        print_line(line)


def _print_problems(rows: list[dict[str, Any]]) -> None:
    for each in rows:
        line = None if each["line"] is None else int(each["line"])
        click.echo(Problem(each["source"], line, each["path"], each["message"]), err=True)
    print_error("nothing was changed")
