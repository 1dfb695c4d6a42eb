"""``monconn check``: what a start of a configuration would find, and the settings in effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from monconn.config.config import GO_ADDRESSES, ConfigFile
from monconn.config.explain import Section, Setting
from monconn.config.explain import explain as explain_file
from monconn.config.yaml import Path, format_path
from monconn.errors import ConfigError, Problem, printable
from monconn.faces.cli.completion import files
from monconn.faces.cli.output import print_json, print_line, print_text, terminal_width
from monconn.ops.text_table import wrapped
from monconn.run.chosen import chosen_at_start
from monconn.run.sources import load

if TYPE_CHECKING:
    from monconn.run.check import Finding

T = TypeVar("T")


@click.command()
@click.argument("file", shell_complete=files)
@click.option(
    "--explain",
    is_flag=True,
    help="Print the settings in effect, each with where it comes from.",
)
@click.option("--json", "as_json", is_flag=True, help="With --explain: print JSON.")
@click.pass_context
def check(context: click.Context, file: str, explain: bool, as_json: bool) -> None:
    """Find what a start with a configuration FILE would find.

    Exit status 0 if it would start, perhaps with warnings, and 2 if not. It listens on nothing,
    makes no file, and connects to no backend.
    """
    from monconn.faces.cli.run import install_reactor
    from monconn.run.check import check_start

    if as_json and not explain:
        raise click.UsageError("--json goes with --explain")
    install_reactor()  # before endpoints are parsed: Twisted would install its default reactor
    loaded = configuration(lambda: load(file))
    if explain:
        _print_settings(loaded, as_json)
        return
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
        problems.append(Problem(*loaded.place_of(path), format_path(path), text))
    order = {name: number for number, name in enumerate(loaded.sources)}
    problems.sort(key=lambda each: (order.get(each.source, 0), each.line or 0))
    return [str(each) for each in problems]


def _written_path(loaded: ConfigFile, path: Path) -> Path:
    """A key's path as the file has it."""
    if path[:1] != ("services",):
        return path
    keys = path[2:]
    if loaded.is_go_style:
        keys = tuple(GO_ADDRESSES.get(str(key), (key,))[-1] for key in keys)
    return (*loaded.path_of_service(str(path[1])), *keys)


# -- settings


def _print_settings(loaded: ConfigFile, as_json: bool) -> None:
    """Print every setting in effect: its key, its value, and where that comes from."""
    sections = explain_file(loaded, chosen_at_start(loaded))
    if as_json:
        print_json(
            [
                {"section": section.path, **each.to_json()}
                for section in sections
                for each in section.settings
            ]
        )
        return
    width = terminal_width() or _PIPE_COLUMNS
    print_text(_settings_text(sections, len(loaded.sources) > 1, width))


_PIPE_COLUMNS = 200
_LEAST_VALUE_COLUMNS = 20


def _settings_text(sections: list[Section], with_files: bool, width: int) -> str:
    """Three columns: what does not fit into the second goes on in the next line."""
    rows = [
        (printable(each.key), printable(each.value), _origin(each, with_files))
        for section in sections
        for each in section.settings
    ]
    keys, origins = (max(len(row[column]) for row in rows) for column in (0, 2))
    keys = min(keys, width * 2 // 5)
    most = max(_LEAST_VALUE_COLUMNS, width - keys - origins - 6)
    values = min(most, max(len(row[1]) for row in rows))
    lines: list[str] = []
    for section in sections:
        is_off = [each.value for each in section.settings] == ["off"]
        if not is_off or not lines[-2:-1] or lines[-1]:
            lines.append("")
        title = printable(section.path)
        if is_off:
            origin = _origin(section.settings[0], with_files)
            lines.append(f"{title:{keys + 2}}  {'off':{values}}  {origin}")
            continue
        lines.append(title)
        for each in section.settings:
            key, value = printable(each.key), printable(each.value)
            first, *rest = wrapped(value, values)
            if len(key) > keys:
                lines.append(f"  {key}")
                key = ""
            lines.append(f"  {key:{keys}}  {first:{values}}  {_origin(each, with_files)}")
            lines += [f"  {'':{keys}}  {piece}" for piece in rest]
    return "\n".join(line.rstrip() for line in lines[1:]) + "\n"


def _origin(setting: Setting, with_files: bool) -> str:
    if setting.origin == "built_in":
        return "built in"
    where = f"line {setting.line}"
    if with_files:
        where = printable(f"{setting.file}:{setting.line}")
    if setting.origin != "file":
        where = f"{setting.origin}, {where}"
    return f"{where} ({setting.written_as})" if setting.written_as else where


# -- files


def configuration(read: Callable[[], T]) -> T:
    """What a reader of a configuration returns; its problems end the command."""
    try:
        return read()
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
