"""Shared parts of the verbs: the choice of a server, filters, and error reports."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from monconn.errors import AddressError, MonconnError, QuestionError, UnitError
from monconn.faces.cli import completion
from monconn.faces.cli.output import print_error, understood
from monconn.faces.control.client import BadAddress, Client, NoServer, SeveralServers, find_server
from monconn.ops.filters import FilterError, Keys
from monconn.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

_USAGE_ERRORS = (SeveralServers, BadAddress, AddressError, QuestionError, FilterError)
_USAGE_CODES = ("BAD_REQUEST", "BAD_FILTER")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
service_option = click.option(
    "--service",
    metavar="NAME",
    shell_complete=completion.services,
    help="Only this service.",
)
client_option = click.option(
    "--client",
    metavar="NET",
    shell_complete=completion.clients,
    help="Only clients of this IP or network.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say what would be done, and change nothing."
)


def server_option(function: F) -> F:
    """The options that choose a server; the function gets an address, or None, as ``control``."""

    @click.option(
        "--control",
        envvar="MONCONN_CONTROL",
        metavar="ADDRESS",
        help="The server to ask: a path, or as docs/control.md has it. [env: MONCONN_CONTROL]",
    )
    @click.option(
        "--pid",
        "server_pid",
        type=click.IntRange(min=1),
        metavar="PID",
        shell_complete=completion.pids,
        help="Of several that run, the one with this process id: monconn ps lists them.",
    )
    @click.option(
        "--name",
        "server_name",
        metavar="NAME",
        shell_complete=completion.instance_names,
        help="Of several, the one that has this service, or runs this file.",
    )
    @functools.wraps(function)
    def run(
        control: str | None, server_pid: int | None, server_name: str | None, **arguments: Any
    ) -> None:
        where = server_address(control, server_pid, server_name)
        function(control=where, **arguments)

    return run  # type: ignore[return-value]


def server_address(control: str | None, pid: int | None, name: str | None) -> str | None:
    """What the three options mean, as :func:`find_server` takes it.

    ``--pid`` and ``--name`` go before an address in the environment.

    :raises click.UsageError: more than one is given.
    """
    context = click.get_current_context()
    is_given = context.get_parameter_source("control") is ParameterSource.COMMANDLINE
    if (pid is not None) + (name is not None) + is_given > 1:
        raise click.UsageError("--control, --pid and --name: one of them")
    if pid is not None:
        return f"pid:{pid}"
    return control if name is None else f"name:{name}"


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


def positive_seconds(
    context: click.Context, option: click.Parameter, text: str | None
) -> float | None:
    """The callback of an option that is a duration, and not 0."""
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None
    if not seconds:
        raise click.BadParameter("must be more than 0")
    return seconds


def filter_argument(
    keys: Keys, metavar: str = "[FILTER]...", *, or_else: Literal["", "ids", "services"] = ""
) -> Callable[[Any], Any]:
    """The argument ``terms``, which the shell can complete.

    :param or_else: what may be given in place of a term.
    """
    return click.argument(
        "terms", metavar=metavar, nargs=-1, shell_complete=completion.terms(keys, or_else)
    )


def filter_text(terms: Sequence[str]) -> str | None:
    """The terms in one line, as the control port takes them; None if there are none."""
    return shlex.join(terms) or None
