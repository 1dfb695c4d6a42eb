"""The verbs ``history`` and ``report``: closed connections, events, and statistics of a period."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import click

from monconn import units
from monconn.errors import UnitError
from monconn.faces.cli import completion
from monconn.faces.cli.listings import Asked, listing_options
from monconn.faces.cli.output import (
    print_error,
    print_json,
    print_rows,
    print_text,
    terminal_width,
    understood,
)
from monconn.faces.cli.verbs import (
    client_option,
    filter_argument,
    filter_text,
    json_option,
    reports_errors,
    server_option,
    service_option,
)
from monconn.faces.control.client import Client, find_server
from monconn.model.reasons import REASONS, REFUSALS
from monconn.ops.columns import Row
from monconn.ops.filter_keys import HISTORY_EVENT_KEYS, HISTORY_KEYS
from monconn.ops.filters import parse
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow
from monconn.ops.sorting import parse_sort

_USUAL_ROWS = 1_000
_MOST_ROWS = 1_000_000
_REPORT_SECONDS = 86400.0
_FILE_SECONDS = 60.0
"""How long a query of a file may take: six times as long as one of a running monconn."""


def parse_moment(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Wall-clock seconds from ``2h`` (ago), or from a date and time."""
    if text is None:
        return None
    try:
        return units.parse_moment(text, time.time())
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


_since_option = click.option(
    "--since", metavar="TIME", callback=parse_moment, help="From then: 2h ago, or a date."
)
_until_option = click.option("--until", metavar="TIME", callback=parse_moment, help="Until then.")
_file_option = click.option(
    "--file", type=click.Path(dir_okay=False), help="The history's file, if monconn does not run."
)


def _row_class(events: bool = False, **_: Any) -> type[Row]:
    return HistoryEventRow if events else HistoryConnectionRow


@click.command(short_help="Connections that are over, from a history; the latest first.")
@filter_argument(HISTORY_KEYS)
@service_option
@client_option
@_since_option
@_until_option
@click.option(
    "--reason",
    metavar="REASON",
    shell_complete=completion.choices((*REASONS, *REFUSALS)),
    help="Only those that ended so, as in docs/reasons.md.",
)
@click.option("--events", is_flag=True, help="Refusals, alarms, actions, starts, stops instead.")
@listing_options(_row_class)
@_file_option
@server_option
@reports_errors
def history(
    terms: Sequence[str],
    file: str | None,
    control: str | None,
    events: bool,
    asked: Asked,
    **period: Any,
) -> None:
    """Connections that are over, the latest first; the latest 1,000 unless --limit says more.

    A FILTER is a term such as reason:client_lost or age:1h.. (docs/filters.md), or a word that is
    searched everywhere.
    """
    period |= {"limit": asked.limit, "sort": asked.sort}
    with open_history(file, control) as source:
        count = print_rows(asked.row_class, source.rows(events, terms, period), look=asked.look)
        most_rows = source.most_rows if asked.limit else _USUAL_ROWS
    if count == most_rows:
        which = "first" if asked.sort else "latest"
        print_error(f"only the {which} {most_rows} are shown: say --limit, or --until")


@click.command()
@service_option
@client_option
@_since_option
@_until_option
@json_option
@_file_option
@server_option
@reports_errors
def report(file: str | None, control: str | None, as_json: bool, **period: Any) -> None:
    """A period in figures: clients, reasons, and the busiest hours.

    The last 24 hours, or those before --until.
    """
    if period["since"] is None:
        period["since"] = (period["until"] or time.time()) - _REPORT_SECONDS
    with open_history(file, control) as source:
        made = source.report(period)
        if as_json:
            print_json(made)
        else:
            from monconn.faces.cli.report_text import report as report_text

            print_text(report_text(made, terminal_width()))


# -- where the history is


class _ServerHistory:
    """The history of a running monconn."""

    most_rows = 10_000

    def __init__(self, server: Client) -> None:
        self._server = server

    def rows(self, events: bool, terms: Sequence[str], period: dict[str, Any]) -> Iterator[Any]:
        return self._server.rows(
            "ListHistory", events=events or None, filter=filter_text(terms), **period
        )

    def report(self, period: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self._server.call("Report", **period)["report"])
        return made


class _FileHistory:
    """The history in a file."""

    most_rows = _MOST_ROWS

    def __init__(self, db: Any) -> None:
        self._db = db

    def rows(
        self, events: bool, terms: Sequence[str], period: dict[str, Any]
    ) -> list[dict[str, Any]]:
        from monconn.sinks.history import query

        find: Callable[..., list[dict[str, Any]]] = query.events if events else query.connections
        wanted = parse(terms, HISTORY_EVENT_KEYS if events else HISTORY_KEYS)
        sort = period.pop("sort", None)
        order = None
        if sort is not None:
            parsed = parse_sort(sort, _row_class(events))
            order = query.Order(parsed.fields[0], parsed.is_descending)
        period |= {
            "limit": min(period["limit"] or _USUAL_ROWS, _MOST_ROWS),
            "condition": wanted.to_sql() if wanted else None,
            "order": order,
        }
        return find(self._db, query.make_filter(events=events, **period))

    def report(self, period: dict[str, Any]) -> dict[str, Any]:
        from monconn.sinks.history import query

        made: dict[str, Any] = query.report(self._db, query.make_filter(**period))
        return made


@contextmanager
def open_history(file: str | None, control: str | None) -> Iterator[_ServerHistory | _FileHistory]:
    """The history of a running monconn, or of a file.

    :param file: its path; None for that of the server.
    :param control: the server, as :func:`find_server` takes it.
    """
    if file is None:
        with Client(find_server(control)) as server, understood(server.where):
            yield _ServerHistory(server)
    else:
        import sqlite3

        from monconn.sinks.history.schema import limited, no_history, open_read_only

        with closing(open_read_only(file)) as db:
            try:
                with limited(db, file, _FILE_SECONDS), understood(file):
                    yield _FileHistory(db)
            except sqlite3.Error as error:
                raise no_history(file, f"cannot be read: {error}") from None
