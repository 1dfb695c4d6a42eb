"""The verbs ``pause``, ``resume`` and ``drain``: what becomes of a service as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from monconn.errors import ControlError, printable
from monconn.faces.cli import completion
from monconn.faces.cli.output import print_json, print_line
from monconn.faces.cli.verbs import asks_server, json_option, positive_seconds
from monconn.faces.control.client import Client
from monconn.units import format_duration

_services = click.argument(
    "names", metavar="SERVICE...", nargs=-1, required=True, shell_complete=completion.services
)
spread_option = click.option(
    "--spread",
    metavar="TIME",
    callback=positive_seconds,
    help="End the connections evenly over this time, in random order.",
)
_Text = Callable[[str, bool, int], str]


@click.command(short_help="Have a SERVICE stand still: nothing is read, all wait.")
@_services
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    callback=positive_seconds,
    help="End the pause by itself after this time, as in 30s.",
)
@json_option
@asks_server
def pause(server: Client, names: Sequence[str], seconds: float | None, as_json: bool) -> None:
    """Have a SERVICE stand still: nothing is read, and nobody accepted.

    Clients wait in the kernel's queue, up to its length; nothing is refused or ended because of it,
    and idle and read limits stand still. monconn resume SERVICE ends it.
    """
    until = f" for {format_duration(seconds)}" if seconds else ""

    def text(name: str, is_new: bool, count: int) -> str:
        if is_new:
            return f"{name} is paused{until}: {_connections(count)} held, clients wait in its queue"
        return f"{name} was paused already: from now on{until or ' until it is resumed'}"

    _change(server, "Pause", names, text, as_json, seconds=seconds)


@click.command()
@_services
@json_option
@asks_server
def resume(server: Client, names: Sequence[str], as_json: bool) -> None:
    """Have a SERVICE go on that is paused, or drains.

    Connections that are still to be ended by --spread stay open.
    """

    def text(name: str, is_new: bool, count: int) -> str:
        return f"{name} goes on" if is_new else f"{name} was running"

    _change(server, "Resume", names, text, as_json)


@click.command(short_help="Let nobody in any more at a SERVICE; its connections go on.")
@_services
@spread_option
@json_option
@asks_server
def drain(server: Client, names: Sequence[str], spread: float | None, as_json: bool) -> None:
    """Let nobody in any more at a SERVICE; its connections go on in peace.

    Those who come are refused (draining). monconn resume SERVICE ends it.
    """

    def text(name: str, is_new: bool, count: int) -> str:
        what = "refuses clients" if is_new else "refused clients already"
        if spread:
            return f"{name} {what}: {_connections(count)} will end within {format_duration(spread)}"
        return f"{name} {what}: {_connections(count)} left"

    _change(server, "Drain", names, text, as_json, spread=spread)


def _change(
    server: Client,
    command: str,
    names: Sequence[str],
    text: _Text,
    as_json: bool,
    **arguments: Any,
) -> None:
    if "pauses" not in server.hello:
        about = printable(server.hello.get("server"))
        raise ControlError(f"{about} runs, which is too old for {command.lower()}: restart it")
    names = list(dict.fromkeys(names))
    if len(names) > 1:  # a mistake in one of them changes nothing of the others
        for name in names:
            server.call("ListServices", service=name)
    rows: list[dict[str, Any]] = []
    for name in names:
        answer = server.call(command, service=name, **arguments)
        is_changed, is_update = answer["changed"] == "True", answer.get("updated") == "True"
        count = int(answer["connections"])
        rows.append({"service": name, "changed": is_changed, "connections": count})
        if is_update:
            rows[-1]["updated"] = True
        if not as_json:
            print_line(text(name, is_changed and not is_update, count))
    if as_json:
        print_json(rows)


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"
