"""The verb ``why``: what would happen to a client now."""

from __future__ import annotations

import click

from monconn.errors import ControlError, printable
from monconn.faces.cli import completion
from monconn.faces.cli.output import print_json, print_text, terminal_width
from monconn.faces.cli.verbs import asks_server, json_option, service_option
from monconn.faces.control.client import Client
from monconn.ops.why_rows import WhyRow, why_lines


@click.command(short_help="What would happen to a client now, and by which rule.")
@click.argument("client", metavar="IP|NAME|ID", shell_complete=completion.devices)
@service_option
@json_option
@asks_server
def why(server: Client, client: str, service: str | None, as_json: bool) -> None:
    """What would happen to a client now, by which rule, and what it has used up.

    At each service: whether it would enter, wait or be refused; each rule that is set, with the
    file and line that say so; and whether it is connected. IP is an address; NAME of a device and
    ID of a connection stand for its address. The exit status is 0 whatever the answer is.
    """
    if "why" not in server.hello:
        name = printable(server.hello.get("server"))
        raise ControlError(f"{name} runs, which is too old for why: restart it")
    rows = list(server.rows("Why", client=client, service=service))
    for row in rows:
        WhyRow.check(row)
    if as_json:
        print_json(rows)
    else:
        print_text("".join(f"{line}\n" for line in why_lines(rows, terminal_width())))
