"""``monconn notify``: who is notified of events, and whether that works."""

from __future__ import annotations

from typing import Any

import click

from monconn.errors import ControlError, printable
from monconn.faces.cli import completion
from monconn.faces.cli.listings import Asked, listing_options
from monconn.faces.cli.output import print_json, print_line, print_note, print_rows
from monconn.faces.cli.verbs import asks_server, json_option
from monconn.faces.control.client import Client
from monconn.ops.rows import NotifyRow


class _OrList(click.Group):
    """Lists, if no other verb is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_OrList)
def notify() -> None:
    """Who is notified of events, and whether that works.

    Outputs are in the section notify: of the configuration (docs/notify.md). Without a verb they
    are listed.
    """


@notify.command("list", short_help="The outputs: their state, and how many messages were sent.")
@listing_options(NotifyRow)
@asks_server
def list_outputs(server: Client, asked: Asked) -> None:
    """The outputs: their state, and how many messages were sent, failed or wait."""
    _require(server)
    rows = list(asked.arranged(server.rows("ListOutputs")))
    print_rows(NotifyRow, rows, look=asked.look)
    if not rows and asked.look.form == "table":
        print_note("there is no output: see monconn help notify")


@notify.command("test", short_help="Send a test to every output, or to the one with this NUMBER.")
@click.argument("number", required=False, type=int, shell_complete=completion.outputs)
@json_option
@asks_server
def test(server: Client, number: int | None, as_json: bool) -> None:
    """Send a test to every output, or to one by its NUMBER, and print what each said.

    Exits with 1 if one of them failed.
    """
    _require(server)
    rows: list[dict[str, Any]] = list(server.rows_of(server.call("NotifyTest", number=number)))
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        word = "ok" if row["ok"] else "FAILED"
        print_line(f"{row['number']} {row['url']}: {word}, {row['answer']}")
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(1)


def _require(server: Client) -> None:
    if "outputs" not in server.hello:
        running = printable(server.hello.get("server"))
        raise ControlError(f"{running} runs, which is too old for notify: restart it")
