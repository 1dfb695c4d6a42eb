"""What every verb shares that asks a running monconn: which one, how to print, what failed."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from monconn.errors import AddressError, MonconnError, QuestionError
from monconn.faces.control.client import BadAddress, Client, NoServer, SeveralServers, find_server

F = TypeVar("F", bound=Callable[..., Any])


def reports_errors(call: F) -> F:
    """A verb whose errors are told in one line, by its exit status, and without a traceback."""

    @functools.wraps(call)
    def verb(*args: Any, **arguments: Any) -> None:
        try:
            call(*args, **arguments)
        except MonconnError as error:
            click.echo(f"monconn: {error}", err=True)
            raise click.exceptions.Exit(_status(error)) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None

    return verb  # type: ignore[return-value]


which_server = click.option(
    "--control",
    envvar="MONCONN_CONTROL",
    metavar="ADDRESS",
    help="The server to ask: a path, or as docs/control.md has it. [env: MONCONN_CONTROL]",
)


def asks(call: F) -> F:
    """A verb that talks to a server: which one, and what to say if that fails."""

    @which_server
    @functools.wraps(call)
    @reports_errors
    def verb(control: str | None, **arguments: Any) -> None:
        with Client(find_server(control)) as server:
            call(server, **arguments)

    return verb  # type: ignore[return-value]


def _status(error: MonconnError) -> int:
    if isinstance(error, NoServer):
        return 3
    is_usage = isinstance(error, SeveralServers | BadAddress | AddressError | QuestionError)
    is_usage = is_usage or getattr(error, "code", "") == "BAD_REQUEST"
    return 2 if is_usage else 1


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
of_service = click.option("--service", metavar="NAME", help="Only this service.")


def print_text(text: str) -> None:
    """Print what has its own line ends."""
    click.echo(text, nl=False)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(columns: str, rows: list[Any], as_json: bool) -> None:
    """Print rows, as a table with these columns of :mod:`monconn.faces.cli.render` or as JSON."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("none")
        return
    from monconn.faces.cli import render  # and rich, which `monconn -p` starts without

    print_text(render.table(getattr(render, columns), rows, sys.stdout.isatty()))
