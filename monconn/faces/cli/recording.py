"""``monconn recording``: what the flight recorder has of one connection."""

from __future__ import annotations

from collections.abc import Iterable

import click

from monconn.errors import ControlError, printable, quoted
from monconn.faces.cli import completion
from monconn.faces.cli.flows import (
    check_no_terminal,
    encoder_of,
    opened,
    pcap_option,
    write_text,
)
from monconn.faces.cli.verbs import asks_server, json_option
from monconn.faces.control.client import BadAnswer, Client
from monconn.model import flow
from monconn.model.flow import Ended, FlowEncoder, FlowEvent
from monconn.model.uid import parse_uid


@click.command()
@click.argument("what", metavar="ID|UID", shell_complete=completion.connection_ids)
@click.option("--text", "as_text", is_flag=True, help="Print text, and no hex dump.")
@json_option
@pcap_option
@asks_server
def recording(server: Client, what: str, as_text: bool, as_json: bool, pcap: str | None) -> None:
    """The first and last bytes of a connection, live or closed.

    As a hex dump. They are there if its service has a recorder: recorder: true in the
    configuration, or --record beside -p.
    """
    if as_text + as_json + (pcap is not None) > 1:
        raise click.UsageError("--text, --json and --pcap: one of them")
    if pcap == "-":
        check_no_terminal()
    how = "pcap" if pcap else "json" if as_json else "text" if as_text else "hex"
    events = recorded_events(server, what, how)
    if pcap is not None:
        _write_pcap(pcap, events)
        return
    write_text(encoded(encoder_of(as_text=as_text, as_json=as_json), events))


def recorded_events(server: Client, what: str, how: str | None = None) -> list[FlowEvent]:
    """What is recorded of a connection.

    :param what: its id, or its uid.
    :param how: what is done with the bytes, for the log.
    :raises click.BadParameter: it is no id and no uid.
    :raises ControlError: the server is too old, or has sent what is no recording.
    :raises CommandFailed: there is none; the message says why.
    """
    parsed = parse_uid(what)
    if parsed is None and not (what.isascii() and what.isdigit() and len(what) <= 18):
        raise click.BadParameter(
            f"{quoted(what)} is no id, and no uid of a connection: monconn list, and monconn list"
            " --closed, have them"
        )
    if "recordings" not in server.hello:
        name = printable(server.hello.get("server"))
        raise ControlError(f"{name} runs, which is too old for recordings: restart it")
    uid = None if parsed is None else what.lower()
    number = int(what) if parsed is None else parsed[1]
    try:
        rows = server.rows("ReadRecording", id=number, uid=uid, how=how)
        events = [event for event in map(flow.from_json, rows) if event is not None]
    except (ValueError, TypeError, AttributeError) as error:
        raise BadAnswer(f"{server.where} sends something that is no recording: {error}") from None
    if not events or not isinstance(events[-1], Ended):
        raise BadAnswer(f"{server.where} sends a recording without an end")
    return events


def encoded(encoder: FlowEncoder, events: Iterable[FlowEvent]) -> bytes:
    """All of it in one format."""
    return encoder.start() + b"".join(map(encoder.encode, events))


def _write_pcap(path: str, events: list[FlowEvent]) -> None:
    from monconn.sinks.pcapng import PcapngEncoder  # only here: other verbs start sooner

    with opened(path) as write:
        write(encoded(PcapngEncoder(), events))
