"""Shared parts of the verbs: the choice of a server, filters, and error reports."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from monconn.errors import AddressError, MonconnError, QuestionError
from monconn.faces.cli.output import print_error, understood
from monconn.faces.control.client import BadAddress, Client, NoServer, SeveralServers, find_server
from monconn.ops.filters import FilterError, Keys, complete

F = TypeVar("F", bound=Callable[..., Any])

_USAGE_ERRORS = (SeveralServers, BadAddress, AddressError, QuestionError, FilterError)
_USAGE_CODES = ("BAD_REQUEST", "BAD_FILTER")

server_option = click.option(
    "--control",
    envvar="MONCONN_CONTROL",
    metavar="ADDRESS",
    help="The server to ask: a path, or as docs/control.md has it. [env: MONCONN_CONTROL]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
service_option = click.option("--service", metavar="NAME", help="Only this service.")
client_option = click.option("--client", metavar="NET", help="Only clients of this IP or network.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say what would be done, and change nothing."
)


def reports_errors(function: F) -> F:
    """Print errors in one line, without a traceback, and exit with their status."""

    @functools.wraps(function)
    def run(*args: Any, **arguments: Any) -> None:
        try:
            function(*args, **arguments)
        except MonconnError as error:
            print_error(error)
            raise click.exceptions.Exit(_status(error)) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None  # as a shell does for SIGINT

    return run  # type: ignore[return-value]


def _status(error: MonconnError) -> int:
    if isinstance(error, NoServer):
        return 3
    is_usage = isinstance(error, _USAGE_ERRORS) or getattr(error, "code", "") in _USAGE_CODES
    return 2 if is_usage else 1


def asks_server(function: F) -> F:
    """Call a verb's function with a connection to the server that ``--control`` names."""

    @server_option
    @functools.wraps(function)
    @reports_errors
    def run(control: str | None, **arguments: Any) -> None:
        with Client(find_server(control)) as server, understood(server.where):
            function(server, **arguments)

    return run  # type: ignore[return-value]


# -- filters


def filter_argument(keys: Keys, metavar: str = "[FILTER]...") -> Callable[[Any], Any]:
    """The argument ``terms``, which the shell can complete."""
    return click.argument(
        "terms", metavar=metavar, nargs=-1, shell_complete=functools.partial(_complete_term, keys)
    )


def filter_text(terms: Sequence[str]) -> str | None:
    """The terms in one line, as the control port takes them; None if there are none."""
    return shlex.join(terms) or None


def _complete_term(
    keys: Keys, context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    typed_words = [*(context.params.get("terms") or ()), incomplete]
    start = len(typed_words) - 1
    # bash makes each colon a word of its own, and replaces only what follows the last one.
    while start > 0 and ":" in (typed_words[start], typed_words[start - 1]):
        start -= 1
    typed = "".join(typed_words[start:])
    is_split = start < len(typed_words) - 1
    prefix = typed[: typed.rindex(":") + 1] if is_split else ""
    services = _service_names(context) if "service:" in typed else []
    return [each.removeprefix(prefix) for each in complete(typed, keys, {"service": services})]


def _service_names(context: click.Context) -> list[str]:
    try:
        with Client(find_server(context.params.get("control"))) as server:
            with understood(server.where):
                names = [str(row["sid"]) for row in server.rows("ListServices")]
            return [name for name in names if name.isprintable()]
    except MonconnError:
        return []
