"""The verbs ``history`` and ``report``: closed connections, events, and statistics of a period."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import click

from monconn.errors import UnitError
from monconn.faces.cli import completion
from monconn.faces.cli.output import (
    print_csv,
    print_error,
    print_json,
    print_rows,
    print_text,
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
from monconn.units import parse_duration

_USUAL_ROWS = 1_000
_MOST_ROWS = 1_000_000
_REPORT_SECONDS = 86400.0
_FILE_SECONDS = 60.0
"""How long a query of a file may take: six times as long as one of a running monconn."""
_NOT_IN_CSV = {"pipe", "facts", "client_last_heard_seconds", "backend_last_heard_seconds"}
"""Fields that rows have gained since 0.1; whoever reads a CSV by position relies on its columns."""


def parse_moment(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Wall-clock seconds from ``2h`` (ago), or from a date and time."""
    if text is None:
        return None
    try:
        return time.time() - parse_duration(text)
    except UnitError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is neither a time ago, such as 2h, nor a date, such as 2026-01-31T08:00"
        ) from None


_since_option = click.option(
    "--since", metavar="TIME", callback=parse_moment, help="From then: 2h ago, or a date."
)
_until_option = click.option("--until", metavar="TIME", callback=parse_moment, help="Until then.")
_file_option = click.option(
    "--file", type=click.Path(dir_okay=False), help="The history's file, if monconn does not run."
)


@click.command()
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
@click.option(
    "--limit", type=click.IntRange(1, _MOST_ROWS), help="No more than so many, else 1,000."
)
@click.option("--events", is_flag=True, help="Refusals, alarms, actions, starts, stops instead.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@json_option
@_file_option
@server_option
@reports_errors
def history(
    terms: Sequence[str],
    file: str | None,
    control: str | None,
    events: bool,
    as_csv: bool,
    as_json: bool,
    **period: Any,
) -> None:
    """Connections that are over, the latest first.

    A FILTER is a term such as reason:client_lost or age:1h.. (docs/filters.md), or a word that is
    searched everywhere.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv or --json, not both")
    row_class: type[Row] = HistoryEventRow if events else HistoryConnectionRow
    with _open_history(file, control) as source:
        rows = source.rows(events, terms, period)
        if as_csv:
            # Always the same columns: what a newer server has more is left out.
            columns = [name for name in row_class.fields() if name not in _NOT_IN_CSV]
            count = print_csv(columns, rows)
        else:
            count = print_rows(row_class, rows, as_json)
        most_rows = source.most_rows if period["limit"] else _USUAL_ROWS
    if count == most_rows:
        print_error(f"only the latest {most_rows} are shown: say --limit, or --until")


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
    with _open_history(file, control) as source:
        made = source.report(period)
        if as_json:
            print_json(made)
        else:
            from monconn.faces.cli.report_text import report as report_text

            print_text(report_text(made))


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
        condition = wanted.to_sql() if wanted else None
        return find(self._db, query.make_filter(events=events, condition=condition, **period))

    def report(self, period: dict[str, Any]) -> dict[str, Any]:
        from monconn.sinks.history import query

        made: dict[str, Any] = query.report(self._db, query.make_filter(**period))
        return made


@contextmanager
def _open_history(file: str | None, control: str | None) -> Iterator[_ServerHistory | _FileHistory]:
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
