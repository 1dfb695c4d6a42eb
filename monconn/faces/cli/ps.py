"""``monconn ps``: the monconns of this user that run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

import attrs
import click

from monconn.faces.cli.output import print_error, print_rows
from monconn.faces.cli.verbs import json_option, reports_errors
from monconn.faces.control import instances
from monconn.ops.columns import Column, Row, TableOf, field


def _services_text(row: Mapping[str, Any]) -> str:
    return instances.Answer(services=row["services"]).services_text()


@attrs.frozen(slots=False)
class InstanceRow(Row):
    """One running monconn."""

    TABLE: ClassVar[TableOf] = (
        # A number that nobody adds up: no thousands separators.
        Column("pid", "PID", importance=0, width=7, value=lambda row: row["pid"] or ""),
        Column("services", "SERVICES", importance=1, width=14, max_width=30, value=_services_text),
        "started_at",
        Column("command", "COMMAND", importance=2, width=20, max_width=60),
        "control",
    )

    pid: int | None = field("PID", "count", nullable=True, importance=0)
    services: list[str] | None = field(
        "SERVICES", "list", nullable=True, importance=1, help="None: it does not answer."
    )
    started_at: str | None = field("STARTED", "time", nullable=True, importance=3)
    command: str = field("COMMAND", importance=2, help="Without interpreter and path.")
    control: str = field("CONTROL", importance=4, width=20, max_width=60, help="Its socket.")
    server: str | None = field("VERSION", nullable=True, importance=5)
    role: str | None = field(
        "ROLE", nullable=True, importance=5, help="What that socket allows: view or operate."
    )
    config: str | None = field("CONFIG", nullable=True, importance=5, help="The file of -c.")
    arguments: str = field("ARGUMENTS", importance=6, help="The whole command line.")


def _row(instance: instances.Instance, said: instances.Answer) -> InstanceRow:
    started = instance.started_at
    return InstanceRow(
        pid=instance.pid,
        services=said.services,
        started_at=None
        if started is None
        else datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        command=instance.short_command,
        control=instance.where,
        server=said.server,
        role=said.role,
        config=instance.config_file,
        arguments=shlex.join(instance.command),
    )


@click.command()
@json_option
@reports_errors
def ps(as_json: bool) -> None:
    """The monconns that run, with their services.

    One line for each; of several sockets, the one that allows most. Those of this user whose
    control port is where it usually is. One that is stopped or hangs is listed as one that does
    not answer.
    """
    found = instances.running()
    asked = found[: instances.MOST_ASKED]
    rows = [_row(*each) for each in instances.ask_each(asked)]
    if rows or as_json:
        print_rows(InstanceRow, rows, as_json)
    if len(found) > len(asked):
        print_error(f"{len(found) - len(asked)} more run: only the first {len(asked)} are asked")
    if not rows:
        raise instances.none_running()
