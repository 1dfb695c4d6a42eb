"""Shared parts of the verbs: the choice of a server, filters, and error reports.

A verb that lists rows is declared in a few lines: see :func:`listing`.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from monconn.errors import AddressError, MonconnError, QuestionError, quoted
from monconn.faces.cli import completion
from monconn.faces.cli.output import print_error, print_rows, understood
from monconn.faces.control.client import BadAddress, Client, NoServer, SeveralServers, find_server
from monconn.ops.columns import Row
from monconn.ops.filters import Exact, FilterError, Keys, Part, parse

F = TypeVar("F", bound=Callable[..., Any])
Listed = tuple[type[Row], Iterable[Any]]
"""The result of a listing: the row class, which has the columns, and the rows, as JSON or not."""

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


def listing(
    name: str, keys: Keys, *options: Callable[[Any], Any]
) -> Callable[[Callable[..., Listed]], click.Command]:
    """Make a function a verb that lists rows: with ``FILTER…``, ``--service`` and ``--json``.

    The function takes the server and, as arguments of the control port's command, ``filter``,
    ``service`` and the options. Its docstring is the verb's help::

        @listing("blocks", BLOCK_KEYS)
        def blocks(server: Client, **arguments: Any) -> Listed:
            \"""The blocked networks.\"""
            return BlockRow, server.rows("ListBlocks", **arguments)

    :param keys: what the filter may ask for.
    :param options: more options of click, in the order of the help.
    """

    def declare(function: Callable[..., Listed]) -> click.Command:
        @functools.wraps(function)
        def run(server: Client, terms: Sequence[str], as_json: bool, **arguments: Any) -> None:
            row_class, made = function(server, filter=filter_text(terms), **arguments)
            if not print_rows(row_class, made, as_json):
                _doubt_services(server, terms, keys)

        verb: Callable[..., Any] = asks_server(run)
        for option in reversed((filter_argument(keys), service_option, *options, json_option)):
            verb = option(verb)
        return click.command(name)(verb)

    return declare


# -- filters


def filter_argument(
    keys: Keys, metavar: str = "[FILTER]...", *, with_ids: bool = False
) -> Callable[[Any], Any]:
    """The argument ``terms``, which the shell can complete."""
    return click.argument(
        "terms", metavar=metavar, nargs=-1, shell_complete=completion.terms(keys, with_ids)
    )


def filter_text(terms: Sequence[str]) -> str | None:
    """The terms in one line, as the control port takes them; None if there are none."""
    return shlex.join(terms) or None


def _doubt_services(server: Client, terms: Sequence[str], keys: Keys) -> None:
    """Say which terms match the name of no service that runs: nothing matches a slip, either."""
    try:
        wanted = [each for each in parse(terms, keys).terms if each.key == "service"]
    except FilterError:  # the server, which has understood it, is newer
        return
    texts = [
        each.value.text
        for each in wanted
        if not each.is_negated and isinstance(each.value, Part | Exact)
    ]
    names = [row["sid"] for row in server.rows("ListServices")] if texts else []
    for text in texts:
        if not any(text in name.casefold() for name in names):
            print_error(f"no service's name has {quoted(text)} in it: {', '.join(names)}")
