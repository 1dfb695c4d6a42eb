"""The verb ``forget``: removes what is stored of a client."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from monconn.addresses import parse_network
from monconn.errors import AddressError, FileError, QuestionError, os_error_text
from monconn.faces.cli.output import print_error, print_json, print_line, understood
from monconn.faces.cli.verbs import dry_run_option, json_option, reports_errors, server_option
from monconn.faces.control.client import Client, find_server

_MOST_SECONDS = 900.0
"""How long the answer for one client may take: a history of some gigabytes is made anew."""
_FILE_SECONDS = 3600.0
_FILE_BYTES = 1 << 30
"""Bounds only the write-ahead log here: nothing is removed because of the file's size."""


@click.command(short_help="Remove what is stored of a CLIENT, in history and memory.")
@click.argument("clients", metavar="CLIENT...", nargs=-1, required=True)
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")
@click.option(
    "--file", type=click.Path(dir_okay=False), help="A history's file, while no monconn writes it."
)
@json_option
@server_option
@reports_errors
def forget(
    clients: Sequence[str],
    dry_run: bool,
    yes: bool,
    file: str | None,
    as_json: bool,
    control: str | None,
) -> None:
    """Remove what is stored of a CLIENT, an IP or a network: in the history and in memory.

    It asks first, unless --yes is given. --dry-run says how much there is. What monconn cannot
    remove, such as lines of logs, is listed at the end (docs/personal-data.md).
    """
    networks = [_text(each) for each in clients]
    where = file if file is not None else find_server(control)
    if not (dry_run or yes):
        _confirm(networks)
    made = []
    if file is not None:
        with understood(file):
            made = [_forget_in_file(file, each, dry_run) for each in networks]
    else:
        with Client(where) as server, understood(where):
            server.answer_seconds = _MOST_SECONDS
            for each in networks:
                answer = server.call("Forget", network=each, dry_run=dry_run or None)
                made.append({"client": each, **json.loads(answer["forgotten"])})
    if as_json:
        print_json([{**each, "dry_run": dry_run} for each in made])
    else:
        for done in made:
            _print(done, dry_run)
        _print_not_removed(made[0].get("not_removed", ()))
    if any(each.get("problem") for each in made):
        raise click.exceptions.Exit(1)


def _text(client: str) -> str:
    """A client as it is written elsewhere: an IP without the length of its prefix."""
    try:
        network = parse_network(client)
    except AddressError as error:
        raise AddressError(
            f"{error}; of a device with a name, forget each address that it has used:"
            f" monconn device NAME shows them"
        ) from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _confirm(networks: Sequence[str]) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise QuestionError("this cannot be undone: say --yes, or --dry-run to see how much it is")
    question = f"Remove all that is stored of {', '.join(networks)}? This cannot be undone."
    click.confirm(question, abort=True, err=True)


def _print(made: dict[str, Any], dry_run: bool) -> None:
    from monconn.ops.forget import label

    client, removed = made["client"], made["removed"]
    print_line(f"{client}: {'would be removed' if dry_run else 'removed'}")
    widest = max(len(f"{count:,}") for count in removed.values())
    for name, count in removed.items():
        print_line(f"  {count:>{widest},}  {label(name, count)}")
    if made["live"]:
        text = "1 live connection of it goes on, and is recorded at its end"
        if made["live"] > 1:
            text = f"{made['live']} live connections of it go on, and are recorded at their end"
        print_line(f"  {text}: close first (monconn close client:{client}), and forget again")
    if count := made.get("capture_files"):
        files = "1 capture file" if count == 1 else f"{count:,} capture files"
        print_line(f"  {files} may have bytes of it (monconn capture list)")
    if made["blocks"]:
        print_line(
            f"  it is blocked at {', '.join(made['blocks'])}, by an entry that names it:"
            f" monconn unblock {client}"
        )
    if made.get("problem"):
        print_error(
            f"{client}: its rows are removed, but bytes of them may be left in the history's file:"
            f" {made['problem']}; forget it again later"
        )


def _print_not_removed(what: Sequence[str]) -> None:
    if what:
        print_line("not removed, as monconn cannot:")
        for each in what:
            print_line(f"  - {each}")


# -- a file that nobody writes


def _forget_in_file(path: str, client: str, dry_run: bool) -> dict[str, Any]:
    """Remove a client from a file; as the JSON of a :class:`~monconn.ops.forget.ForgetResult`.

    :raises FileError: there is no such file, it is no history, or a monconn writes it.
    """
    import sqlite3

    from monconn.ops.forget import NOT_REMOVED, amounts
    from monconn.sinks.history import forget as history
    from monconn.sinks.history import schema

    removal = history.Removal(parse_network(client), dry_run)
    problem = ""
    if not os.path.exists(path):
        raise schema.no_history(path, "no such file or directory")
    lock = None if dry_run else schema.lock(path)
    try:
        opened = (
            schema.open_read_only(path) if dry_run else schema.open_for_writing(path, _FILE_BYTES)
        )
        with closing(opened) as db, schema.limited(db, path, _FILE_SECONDS):
            while removal.work(db):
                pass
            removed = {f"history_{name}": count for name, count in removal.counts.items()}
            if not dry_run:
                _record(db, f"{_kind(client)}: {amounts(removed)}")
                problem = _overwrite(db)
    except sqlite3.Error as error:
        raise schema.no_history(path, os_error_text(error)) from None
    finally:
        if lock is not None:
            os.close(lock)
    return {
        "client": client,
        "removed": removed,
        "live": 0,
        "blocks": [],
        "problem": problem,
        "not_removed": list(NOT_REMOVED),
    }


def _kind(client: str) -> str:
    return "a network's clients" if "/" in client else "a client"


def _record(db: Any, target: str) -> None:
    """Add the action to the file, as a running monconn would."""
    from monconn.model.actions import Action, Actor
    from monconn.sinks.history.store import write

    actor = Actor.process(os.getuid(), os.getpid())
    write(db, [Action("forget", actor, time.time(), target=target)], {}, time.time())


def _overwrite(db: Any) -> str:
    """Make the file anew; why bytes may be left in it, or nothing."""
    import sqlite3

    from monconn.sinks.history import forget as history

    try:
        history.overwrite(db)
    except (sqlite3.Error, FileError) as error:
        return os_error_text(error)
    return "" if history.empty_log(db) else "another program reads the file"
