"""``monconn -p …``, ``monconn -c FILE`` and the verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import click

from monconn._version import __version__
from monconn.addresses import UnixAddress
from monconn.config.config import Config, from_pairs, load
from monconn.errors import ConfigError, FileError, Problem, printable
from monconn.faces.cli.completion import files
from monconn.faces.cli.inspect import VERBS
from monconn.faces.cli.output import Program, print_line
from monconn.files import file_name
from monconn.run.sources import fault


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-p",
    "--pair",
    "pairs",
    metavar="LISTEN=BACKEND",
    multiple=True,
    help="Forward, as in :2222=127.0.0.1:22, [::1]:80=[::1]:8080 or unix:PATH on either"
    " side; may be given more than once.",
)
@click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    shell_complete=files,
    help="Run the services of a YAML file.",
)
@click.option("-D", "--debug", is_flag=True, help="Log all that happens to each connection.")
@click.version_option(__version__, prog_name="monconn")
@click.pass_context
def main(context: click.Context, pairs: tuple[str, ...], file: str | None, debug: bool) -> None:
    """See what happens on the TCP connections of a service."""
    if context.invoked_subcommand is not None:
        if pairs or file is not None:
            raise click.UsageError("-p and -c do not go with a command")
        # The signals' handlers of monconn_command are for what runs services.
        if context.obj is not None and context.invoked_subcommand != demo.name:
            context.obj()
        context.obj = {"debug": debug}
        return
    if problem := fault(file, pairs, "monconn"):
        raise click.UsageError(problem)
    from monconn.faces.cli.run import install_reactor, run  # Twisted and all: not needed for --help

    install_reactor()  # before endpoints are parsed: Twisted would install its default reactor
    config = _configuration(lambda: from_pairs(pairs) if file is None else _load(file))
    context.exit(run(config, debug=debug))


@main.command()
@click.argument("file", shell_complete=files)
@click.pass_context
def check(context: click.Context, file: str) -> None:
    """Validate a configuration FILE: exit status 0 if it is right, 2 if not."""
    config = _configuration(lambda: _checked(file))
    count = len(config.services)
    print_line(f"{file} is valid: {count} service{'' if count == 1 else 's'}")
    for key, warning in (*_missing(config), *_certificates(config)):
        click.echo(printable(f"{file}: {key}: warning: {warning}"), err=True)


def _missing(config: Config) -> Iterator[tuple[str, str]]:
    """What has to be there at the start, and is not yet: each key and what to say of it."""
    listeners = [(f"services.{each.name}", each.listening()[0]) for each in config.services]
    for name in ("control", "metrics", "manhole"):
        section = getattr(config, name)
        listeners.append((name, section and section.listen))
    paths = [(f"{key}.listen", at.path) for key, at in listeners if isinstance(at, UnixAddress)]
    if config.json_log is not None and config.json_log.path not in ("stdout", "syslog"):
        paths.append(("json_log.path", os.path.expanduser(config.json_log.path)))
    if config.history is not None:
        paths.append(("history.path", config.history.path))
    for key, path in paths:
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            yield key, f"there is no folder {file_name(folder)}: monconn makes none"
    if config.manhole is not None:
        path = os.path.expanduser(config.manhole.authorized_keys)
        if not os.path.exists(path):
            yield "manhole.authorized_keys", f"there is no file {file_name(path)}"


def _certificates(config: Config) -> Iterator[tuple[str, str]]:
    """What is to be said of the services' certificates."""
    for service in config.services:
        _, tls = service.listening()
        if tls is not None:
            from monconn.net.tls import ServerTls  # and OpenSSL, only if it is wanted

            for warning in ServerTls(tls).warnings:
                yield f"services.{service.name}", warning


@main.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Watch a few simulated devices talk to a backend."""
    from monconn.faces.cli.demo import run_demo

    context.exit(run_demo(debug=context.obj["debug"]))


for verb in VERBS:
    main.add_command(verb)


def _load(file: str) -> Config:
    config = load(file)
    if config.observers:
        from monconn.run.observers import check_observers

        check_observers(config, file)
    return config


def _checked(file: str) -> Config:
    """The configuration in a file, whose history, if it exists, is one."""
    config = _load(file)
    if config.history is not None:
        from monconn.sinks.history.schema import check_file  # and SQLite, only if it is wanted

        try:
            check_file(config.history.path)
        except FileError as error:
            message = str(error).removeprefix("history: ")
            raise ConfigError([Problem(file, None, "history.path", message)]) from None
    return config


def _configuration(read: Callable[[], Config]) -> Config:
    try:
        return read()
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
