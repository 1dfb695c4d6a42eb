"""What all listings have in common: a filter, the order, how many rows, which columns, which form.

A verb that lists rows is declared in a few lines: see :func:`listing`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import attrs
import click

from monconn.errors import QuestionError, quoted
from monconn.faces.cli.output import Look, print_error, print_line, print_rows, terminal_width
from monconn.faces.cli.verbs import asks_server, filter_argument, filter_text, service_option
from monconn.faces.control.client import Client
from monconn.model.record import OWN_FACTS
from monconn.ops.columns import Column, Row
from monconn.ops.filters import Exact, FilterError, Keys, Part, parse
from monconn.ops.sorting import parse_sort, sort_names, sorted_rows
from monconn.ops.text_table import text_table

RowClass = type[Row] | Callable[..., type[Row]]
"""The class of a listing's rows, or a function of the verb's arguments that chooses it."""
_HELP = "help"
_MOST_NAMES = 4
_ALL_COLUMNS = "--columns help lists them all"


@attrs.frozen
class Asked:
    """What the options that all listings have say.

    :param sort: as it was typed; None for the listing's own order.
    :param limit: the most rows; None for all.
    """

    row_class: type[Row]
    look: Look
    sort: str | None = None
    limit: int | None = None

    def arranged(self, rows: Iterable[Any]) -> Iterable[Any]:
        """Rows in the order that was asked for, and no more of them than that."""
        if self.sort is not None:
            rows = sorted_rows(rows, parse_sort(self.sort, self.row_class), self.row_class)
        return rows if self.limit is None else islice(rows, self.limit)


def listing(
    name: str,
    keys: Keys,
    row_class: RowClass,
    *options: Callable[[Any], Any],
    is_arranged: bool = False,
    short_help: str | None = None,
) -> Callable[[Callable[..., Iterable[Any]]], click.Command]:
    """Make a function a verb that lists rows: with ``FILTER…``, ``--service`` and the options of
    all listings.

    The function takes the server and, as arguments of the control port's command, ``filter``,
    ``service`` and the options; it returns rows, or their JSON. Its docstring is the verb's help::

        @listing("blocks", BLOCK_KEYS, BlockRow)
        def blocks(server: Client, **arguments: Any) -> Iterable[Any]:
            \"""The blocked networks.\"""
            return server.rows("ListBlocks", **arguments)

    :param keys: what the filter may ask for.
    :param row_class: given the verb's own options, if it is a function.
    :param options: more options of click, in the order of the help.
    :param short_help: for the list of all verbs, if the first sentence is too long for it.
    :param is_arranged: whether the function takes ``sort`` and ``limit`` too, as the server sorts.
    """

    def declare(function: Callable[..., Iterable[Any]]) -> click.Command:
        @functools.wraps(function)
        def run(server: Client, terms: Sequence[str], asked: Asked, **arguments: Any) -> None:
            if is_arranged:
                arguments |= {"sort": asked.sort, "limit": asked.limit}
            rows = function(server, filter=filter_text(terms), **arguments)
            if not is_arranged:
                rows = asked.arranged(rows)
            if not print_rows(asked.row_class, rows, look=asked.look):
                doubt_services(server, terms, keys)

        verb: Callable[..., Any] = listing_options(row_class)(asks_server(run))
        for option in reversed((filter_argument(keys), service_option, *options)):
            verb = option(verb)
        return click.command(name, short_help=short_help)(verb)

    return declare


def listing_options(row_class: RowClass) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of all listings to a verb, whose function is given an :class:`Asked`.

    A mistake in them is an error before any server is asked.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(
            sort: str | None,
            limit: int | None,
            columns: str | None,
            wide: bool,
            as_csv: bool,
            as_json: bool,
            **arguments: Any,
        ) -> None:
            if as_csv and as_json:
                raise click.UsageError("--csv or --json, not both")
            row_type = _chosen(row_class, arguments)
            if columns == _HELP:
                _print_columns(row_type)
                return
            look = Look(
                None if columns is None else _columns(columns, row_type),
                wide,
                "csv" if as_csv else "json" if as_json else "table",
            )
            try:
                if sort is not None:
                    parse_sort(sort, row_type)
            except QuestionError:
                names = _some_names((sort or "").removeprefix("-"), sort_names(row_type))
                text = f"{quoted(sort or '')} is nothing to sort by; {names}"
                raise click.BadParameter(text, param_hint="--sort") from None
            function(asked=Asked(row_type, look, sort, limit), **arguments)

        verb: Callable[..., Any] = run
        for option in reversed(
            (
                click.option(
                    "--sort",
                    metavar="COLUMN",
                    help="The most or latest first, texts from A; -COLUMN: the other way.",
                    shell_complete=functools.partial(_complete_sort, row_class),
                ),
                click.option(
                    "--limit",
                    metavar="N",
                    type=click.IntRange(min=1),
                    help="No more than so many rows.",
                ),
                click.option(
                    "--columns",
                    metavar="A,B,...",
                    help="These columns; help lists them all.",
                    shell_complete=functools.partial(_complete_columns, row_class),
                ),
                click.option(
                    "--wide", is_flag=True, help="All usual columns, even if lines get too long."
                ),
                click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets."),
                click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
            )
        ):
            verb = option(verb)
        return verb

    return declare


def _chosen(row_class: RowClass, arguments: dict[str, Any]) -> type[Row]:
    if isinstance(row_class, type):
        return row_class
    return row_class(**arguments)


# -- columns


def _fact_column(name: str, row_class: type[Row]) -> Column | None:
    """The column of one of monconn's own facts, in rows that have facts."""
    name = name.strip().lower()
    if name not in OWN_FACTS or row_class.find_column("facts") is None:
        return None
    return Column(
        name, name.upper(), value=lambda row: (row.get("facts") or {}).get(name), nullable=True
    )


def _columns(text: str, row_class: type[Row]) -> tuple[Column, ...]:
    """The columns with these names, which are separated by commas."""
    names = [each for each in text.split(",") if each.strip()]
    found = [row_class.find_column(each) or _fact_column(each, row_class) for each in names]
    unknown = [name for name, column in zip(names, found, strict=True) if column is None]
    if unknown or not names:
        what = f"{quoted(unknown[0])} is no column" if unknown else "no column is named"
        known = _some_names(unknown[0] if unknown else "", list(row_class.known_columns()))
        raise click.BadParameter(f"{what}; {known}", param_hint="--columns")
    return tuple({each.name: each for each in found if each is not None}.values())


def _some_names(wanted: str, names: Sequence[str]) -> str:
    """Say what may be meant by the name of a column that there is not: all of forty names would be
    five lines of a terminal.

    :param names: those of the usual table first.
    """
    alike = difflib.get_close_matches(wanted.strip().casefold(), names, 3)
    if alike:
        return f"did you mean {' or '.join(alike)}? ({_ALL_COLUMNS})"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"there are {', '.join(names[:_MOST_NAMES])}{more} ({_ALL_COLUMNS})"


def _print_columns(row_class: type[Row]) -> None:
    """Print each column that there is, and what it means."""
    known = row_class.known_columns()
    rows = [
        {"name": name, "title": column.title, "help": column.help} for name, column in known.items()
    ]
    columns = (
        Column("name", "COLUMN", importance=0),
        Column("title", "TITLE", importance=1),
        Column("help", "MEANING", importance=0),
    )
    for line in text_table(columns, rows, terminal_width()):
        print_line(line)


def _complete_sort(
    row_class: RowClass, context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    sign = "-" if incomplete.startswith("-") else ""
    names = sort_names(_chosen(row_class, context.params))
    return [f"{sign}{each}" for each in names if each.startswith(incomplete.removeprefix("-"))]


def _complete_columns(
    row_class: RowClass, context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    names = _chosen(row_class, context.params).known_columns()
    return [f"{before}{comma}{each}" for each in names if each.startswith(last)]


# -- filters


def doubt_services(server: Client, terms: Sequence[str], keys: Keys) -> None:
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
