"""The verb ``explain``: what a reason, a code or an end of a connection means."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from monconn.errors import ControlError
from monconn.faces.cli import completion
from monconn.faces.cli.history import open_history
from monconn.faces.cli.output import (
    print_error,
    print_json,
    print_text,
    terminal_width,
    understood,
)
from monconn.faces.cli.verbs import json_option, reports_errors, server_option
from monconn.faces.control.client import Client, CommandFailed, find_server
from monconn.model.uid import parse_uid
from monconn.ops import explain_text
from monconn.ops.account import account_of
from monconn.ops.explanations import EXPLANATIONS, explain_code
from monconn.ops.explanations import explain as explain_word

_ID = re.compile(r"[0-9]{1,18}")


class _WithDashes(click.Command):
    """A command that takes ``--``, HAProxy's code of a normal end, as an argument, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, which drops the first ``--``."""
        if args.count("--") == 1 and args[-1] == "--":
            args = [*args, "--"]
        return super().parse_args(ctx, args)


@click.command(short_help="Say what an end means, and what usually causes it.", cls=_WithDashes)
@click.argument(
    "words", metavar="[REASON|CODE|ID]", nargs=-1, shell_complete=lambda *given: _complete(*given)
)
@json_option
@click.option(
    "--file", type=click.Path(dir_okay=False), help="The history's file in which to look for ID."
)
@server_option
@reports_errors
def explain(words: Sequence[str], as_json: bool, file: str | None, control: str | None) -> None:
    """Say what an end means, what usually causes it, and what to look at next.

    REASON is any word of a log line, such as client_reset, half_closed, silent or ECONNRESET; CODE
    is HAProxy's pair of letters, such as CD or --. With the ID or uid of a connection, live, closed
    lately or in the history, it says what happened to that one. All words, if none is given.
    """
    text = " ".join(words).strip()
    if _ID.fullmatch(text) or parse_uid(text):
        _explain_connection(text, file, control, as_json)
        return
    blocks = explain_text.looked_up(text)
    if as_json:
        pair = None if explain_word(text) else explain_code(text)
        found = explain_word(text) if text else EXPLANATIONS
        print_json([each.to_json() for each in found] if pair is None else pair.to_json())
    else:
        print_text(explain_text.rendered(blocks, terminal_width()))


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """Words in the order of docs/reasons.md, why connections end first; then ids."""
    words = dict.fromkeys(each.word for each in EXPLANATIONS)
    found = [CompletionItem(each) for each in words if each.startswith(incomplete)]
    return [*found, *completion.connection_ids(context, parameter, incomplete)]


# -- one connection


def _explain_connection(text: str, file: str | None, control: str | None, as_json: bool) -> None:
    if file is None:
        with Client(find_server(control)) as server, understood(server.where):
            values, note = _shown(server, text), ""
            if values is None:
                values, note = _from_history(text, None, control)
            _print_connection(values, note, as_json)
    else:
        with understood(file):
            _print_connection(*_from_history(text, file, control), as_json)


def _shown(server: Client, text: str) -> dict[str, Any] | None:
    """The connection that a running monconn still knows; None if it has none with this id.

    :param text: its id, or its uid.
    """
    parsed = parse_uid(text)
    number, uid = (int(text), None) if parsed is None else (parsed[1], text.lower())
    try:
        answer = server.call("ShowConnection", id=number, uid=uid)
    except CommandFailed as error:
        if error.code != "UNKNOWN_CONNECTION":
            raise
        return None
    values: dict[str, Any] = json.loads(answer["connection"])
    return values if uid in (None, values.get("uid")) else None  # a server that knows no uids


def _from_history(text: str, file: str | None, control: str | None) -> tuple[dict[str, Any], str]:
    """The latest connection of the history with an id, and what is to be said of others."""
    is_uid = parse_uid(text) is not None
    what = "uid" if is_uid else "id"
    unknown = f"no connection has the {what} {text}, or had it lately"
    period = dict.fromkeys(("service", "client", "since", "until", "reason")) | {"limit": 2}
    try:
        with open_history(file, control) as source:
            found = list(source.rows(False, [f"{what}:{text}"], period))
    except CommandFailed as error:
        if error.code != "NOT_KEPT":
            raise
        raise ControlError(f"{unknown}, and no history is stored") from None
    if not found:
        raise ControlError(f"{unknown}, nor in the history")
    note = ""
    if len(found) > 1:
        note = (
            f"ids begin anew with each run of monconn: this is the latest with the id {text}, of"
            f" the run since {found[0]['run_started_at']}; a uid names one connection of all"
        )
    return dict(found[0]), note


def _print_connection(values: dict[str, Any], note: str, as_json: bool) -> None:
    account = account_of(values)
    if as_json:
        print_json(
            {
                "connection": values,
                "account": list(account.sentences),
                "not_known": list(account.unknown),
                "explanations": [each.to_json() for each in account.explanations],
            }
        )
    else:
        print_text(explain_text.rendered(explain_text.account(account), terminal_width()))
    if note:
        print_error(note)
