"""``monconn check``: what a start of a configuration would find, and the settings in effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from monconn.config.config import GO_KEYS, ConfigFile, load_file
from monconn.config.yaml import Path, format_path
from monconn.errors import ConfigError, Problem
from monconn.faces.cli.output import print_line

if TYPE_CHECKING:
    from monconn.run.check import Finding

T = TypeVar("T")


@click.command()
@click.argument("file")
@click.pass_context
def check(context: click.Context, file: str) -> None:
    """Find what a start with a configuration FILE would find.

    Exit status 0 if it would start, perhaps with warnings, and 2 if not. It listens on nothing,
    makes no file, and connects to no backend.
    """
    from monconn.faces.cli.run import install_reactor
    from monconn.run.check import check_start

    install_reactor()  # before endpoints are parsed: Twisted would install its default reactor
    loaded = configuration(lambda: load(file))
    found = check_start(loaded.config, file)
    for line in _lines(loaded, found):
        click.echo(line, err=True)
    errors = sum(each.level == "error" for each in found)
    if errors:
        context.exit(2)
    count = len(loaded.config.services)
    print_line(f"{file} is valid: {count} service{'' if count == 1 else 's'}")


def _lines(loaded: ConfigFile, found: Iterable[Finding]) -> list[str]:
    """The findings as the problems of a file, in the order of its lines."""
    problems = []
    for each in found:
        path = _written_path(loaded, each.path)
        level = "" if each.level == "error" else f"{each.level}: "
        text = f"{level}{each.message}"
        problems.append(Problem(loaded.source, loaded.line_of(path), format_path(path), text))
    return [str(each) for each in sorted(problems, key=lambda each: each.line or 0)]


def _written_path(loaded: ConfigFile, path: Path) -> Path:
    """A key's path as the file has it."""
    if path[:1] != ("services",):
        return path
    keys = path[2:]
    if loaded.is_go_style:
        keys = tuple(GO_KEYS.get(str(key), key) for key in keys)
    return (*loaded.path_of_service(str(path[1])), *keys)


def load(file: str) -> ConfigFile:
    """A configuration file, with its observers checked.

    :raises ConfigError: with all problems.
    """
    loaded = load_file(file)
    if loaded.config.observers:
        from monconn.run.observers import check_observers

        check_observers(loaded.config, file)
    return loaded


def configuration(read: Callable[[], T]) -> T:
    """What a reader of a configuration returns; its problems end the command."""
    try:
        return read()
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
