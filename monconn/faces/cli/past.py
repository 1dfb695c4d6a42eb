"""The verbs that look back: what is over, summed up, and what devices are used to do."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import click

from monconn.errors import UnitError
from monconn.faces.cli.asking import (
    as_json,
    asks,
    of_service,
    print_json,
    print_table,
    print_text,
    reports_errors,
    which_server,
)
from monconn.faces.control.client import Client, find_server
from monconn.units import parse_duration

_USUAL_ROWS = 1_000
_MOST_ROWS = 1_000_000
_REPORTED_SECONDS = 86400.0


@click.command()
@of_service
@as_json
@asks
def devices(server: Client, service: str | None, as_json: bool) -> None:
    """Devices: how often they come, how often they speak, and their alarms."""
    print_table("DEVICES", list(server.rows("ListDevices", service=service)), as_json)


def _moment(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
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


_since = click.option(
    "--since", metavar="TIME", callback=_moment, help="From then: 2h ago, or a date."
)
_until = click.option("--until", metavar="TIME", callback=_moment, help="Until then.")
_client = click.option("--client", metavar="NET", help="Only clients of this IP or network.")
_file = click.option(
    "--file", type=click.Path(dir_okay=False), help="The history's file, if monconn does not run."
)


@click.command()
@of_service
@_client
@_since
@_until
@click.option("--reason", metavar="REASON", help="Only those that ended so, as in docs/reasons.md.")
@click.option(
    "--limit", type=click.IntRange(1, _MOST_ROWS), help="No more than so many, else 1,000."
)
@click.option("--events", is_flag=True, help="Refusals, alarms, starts and stops instead.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@as_json
@_file
@which_server
@reports_errors
def history(
    file: str | None, control: str | None, events: bool, as_csv: bool, as_json: bool, **past: Any
) -> None:
    """Connections that are over, the latest first."""
    if as_csv and as_json:
        raise click.UsageError("--csv or --json, not both")
    with _history(file, control) as kept:
        rows = kept.rows(events, past)
        most = kept.most_rows if past["limit"] else _USUAL_ROWS
    if as_csv:
        _print_csv(rows, events)
    else:
        print_table("EVENTS" if events else "HISTORY", rows, as_json)
    if len(rows) == most:
        click.echo(f"monconn: only the latest {most} are shown: say --limit, or --until", err=True)


def _print_csv(rows: list[dict[str, Any]], events: bool) -> None:
    from monconn.sinks.history.query import CONNECTION_KEYS, EVENT_KEYS

    writer = csv.DictWriter(
        sys.stdout, EVENT_KEYS if events else CONNECTION_KEYS, lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)


@click.command()
@of_service
@_client
@_since
@_until
@as_json
@_file
@which_server
@reports_errors
def report(file: str | None, control: str | None, as_json: bool, **past: Any) -> None:
    """A period summed up: clients, reasons, and the busiest hours.

    The last 24 hours, or those before --until.
    """
    if past["since"] is None:
        past["since"] = (past["until"] or time.time()) - _REPORTED_SECONDS
    with _history(file, control) as kept:
        made = kept.report(past)
    if as_json:
        print_json(made)
    else:
        from monconn.faces.cli.report_text import report as report_text

        print_text(report_text(made))


# -- where the history is


class _Asked:
    """The history of a running monconn."""

    most_rows = 10_000

    def __init__(self, server: Client) -> None:
        self._server = server

    def rows(self, events: bool, past: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self._server.rows("ListHistory", events=events or None, **past))

    def report(self, past: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self._server.call("Report", **past)["report"])
        return made


class _Read:
    """The history in a file."""

    most_rows = _MOST_ROWS

    def __init__(self, db: Any) -> None:
        self._db = db

    def rows(self, events: bool, past: dict[str, Any]) -> list[dict[str, Any]]:
        from monconn.sinks.history import query

        find: Callable[..., list[dict[str, Any]]] = query.events if events else query.connections
        return find(self._db, query.make_filter(events=events, **past))

    def report(self, past: dict[str, Any]) -> dict[str, Any]:
        from monconn.sinks.history import query

        made: dict[str, Any] = query.report(self._db, query.make_filter(**past))
        return made


@contextmanager
def _history(file: str | None, control: str | None) -> Iterator[_Asked | _Read]:
    if file is None:
        with Client(find_server(control)) as server:
            yield _Asked(server)
    else:
        import sqlite3

        from monconn.sinks.history.schema import no_history, open_read_only

        with closing(open_read_only(file)) as db:
            try:
                yield _Read(db)
            except sqlite3.Error as error:
                raise no_history(file, f"cannot be read: {error}") from None
