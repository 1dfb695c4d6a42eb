"""``monconn -p …``, ``monconn -c FILE`` and the verbs."""

from __future__ import annotations

import click

from monconn._version import __version__
from monconn.config.config import from_pairs
from monconn.config.http import USUAL_HTTP
from monconn.faces.cli.check import check, configuration
from monconn.faces.cli.completion import files
from monconn.faces.cli.help import help_command
from monconn.faces.cli.inspect import VERBS
from monconn.faces.cli.output import Program
from monconn.run.sources import fault, load


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
@click.option(
    "--record",
    is_flag=True,
    help="With -p: record the first and the last bytes of each connection (monconn recording).",
)
@click.option(
    "--http",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value=USUAL_HTTP,
    help=f"With -p: serve the page and the HTTP API, at {USUAL_HTTP} unless told otherwise"
    " (monconn web opens it).",
)
@click.option("-D", "--debug", is_flag=True, help="Log all that happens to each connection.")
@click.version_option(__version__, prog_name="monconn")
@click.pass_context
def main(
    context: click.Context,
    pairs: tuple[str, ...],
    file: str | None,
    record: bool,
    http: str | None,
    debug: bool,
) -> None:
    """See what happens on the TCP connections of a service."""
    if context.invoked_subcommand is not None:
        if pairs or file is not None or record or http is not None:
            raise click.UsageError("-p, -c, --record and --http do not go with a command")
        # The signals' handlers of monconn_command are for what runs services.
        if context.obj is not None and context.invoked_subcommand != demo.name:
            context.obj()
        context.obj = {"debug": debug}
        return
    if problem := fault(file, pairs, record, "monconn", http):
        raise click.UsageError(problem)
    from monconn.faces.cli.run import install_reactor, run  # Twisted and all: not needed for --help

    install_reactor()  # before endpoints are parsed: Twisted would install its default reactor
    if file is None:
        config = configuration(lambda: from_pairs(pairs, record=record, http=http))
        context.exit(run(config, debug=debug))
    loaded = configuration(lambda: load(file))
    context.exit(run(loaded.config, file=loaded, debug=debug))


@main.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Watch a few simulated devices talk to a backend."""
    from monconn.faces.cli.demo import run_demo

    context.exit(run_demo(debug=context.obj["debug"]))


for verb in (check, *VERBS, help_command):
    main.add_command(verb)
