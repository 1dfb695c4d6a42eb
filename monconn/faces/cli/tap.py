"""``monconn tap``: the bytes of live connections."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import click

from monconn.faces.cli.flows import (
    check_no_terminal,
    encoder_of,
    opened,
    pcap_option,
    write_bytes,
    write_text,
)
from monconn.faces.cli.output import print_error, print_note
from monconn.faces.cli.verbs import (
    asks_server,
    filter_argument,
    filter_text,
    json_option,
    service_option,
)
from monconn.faces.control.client import Client
from monconn.model import flow
from monconn.model.flow import FlowEncoder
from monconn.model.reasons import Direction
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.flow_text import PlainTextEncoder, RawEncoder
from monconn.units import format_bytes

NOTE_SECONDS = 1.0
"""How often it is said that bytes were lost."""
_HOW_TO_CHOOSE = (
    "say which connections: by ids (monconn tap 42), by terms (monconn tap service:mqtt --follow),"
    " or --all of them"
)


@click.command()
@filter_argument(CONNECTION_KEYS, "[ID|TERM]...", or_else="ids")
@service_option
@click.option("--all", "is_all", is_flag=True, help="All connections.")
@click.option("--follow", is_flag=True, help="Connections that match later, too.")
@click.option("--text", "as_text", is_flag=True, help="Print text, and no hex dump.")
@click.option(
    "--raw",
    metavar="up|down",
    type=click.Choice(["up", "down"]),
    help="Write the bytes of one connection as they are: those of its client, or its backend.",
)
@json_option
@pcap_option
@asks_server
def tap(
    server: Client,
    terms: Sequence[str],
    service: str | None,
    is_all: bool,
    follow: bool,
    as_text: bool,
    raw: Direction | None,
    as_json: bool,
    pcap: str | None,
) -> None:
    """The bytes of live connections, as they come: a hex dump.

    Those with these IDs, or that match all TERMs, such as client:10.0.0.0/8 or
    mqtt_client_id:pump-7 (docs/filters.md). It ends when they have ended, or with Ctrl-C. Bytes
    that come faster than they are read here are not shown, and it is said how many.
    """
    if as_text + as_json + (raw is not None) + (pcap is not None) > 1:
        raise click.UsageError("--text, --raw, --json and --pcap: one of them")
    if bool(terms or service) == is_all:
        raise click.UsageError("--all goes with no other choice" if is_all else _HOW_TO_CHOOSE)
    if raw is not None or pcap == "-":
        check_no_terminal()
    how = "raw" if raw else "json" if as_json else "text" if as_text else "pcap" if pcap else "hex"
    answer = server.tap(filter=filter_text(terms), service=service, follow=follow or None, how=how)
    unknown = json.loads(answer["unknown"])
    for each in unknown:
        print_error(f"no live connection has the id {each}")
    for name in json.loads(answer["services_left_out"]):
        print_note(f"service {name} is left out: it has payload: never")
    count = int(answer["connections"])
    if raw is not None and count > 1:
        raise click.UsageError(f"{count} connections match, and --raw is for one: give its id")
    if not (count or follow):
        print_error("no live connection matches: --follow waits for those that come")
        raise click.exceptions.Exit(1)
    print_note(_beginning(count, follow))
    if pcap is not None:
        from monconn.sinks.pcapng import PcapngEncoder  # only here: other verbs start sooner

        packets = PcapngEncoder()
        with opened(pcap) as write:
            try:
                _show(server, packets, write)
            finally:  # after Ctrl-C, connections go on: what was seen of them is acknowledged
                write(packets.finish(time.time()))
    elif raw is not None:
        _show(server, RawEncoder(raw, print_note), write_bytes)
    else:
        encoder = encoder_of(as_text=as_text, as_json=as_json)
        try:
            _show(server, encoder, write_text)
        finally:  # after Ctrl-C, the prompt is on a line of its own
            if isinstance(encoder, PlainTextEncoder):
                write_text(encoder.finish())
    if unknown:  # as close does
        raise click.exceptions.Exit(1)


def _beginning(count: int, follow: bool) -> str:
    if not count:
        return "waiting for connections that match: Ctrl-C ends it"
    connections = f"{count} connection{'' if count == 1 else 's'}"
    return f"tapping {connections}{' and those to come' if follow else ''}: Ctrl-C ends it"


def _show(server: Client, encoder: FlowEncoder, write: Callable[[bytes], None]) -> None:
    """Write events as they come, until no more will."""
    losses = _Losses(server)
    write(encoder.start())
    try:
        for events in server.flow_events():
            write(b"".join(encoder.encode(event) for event in map(flow.from_json, events) if event))
            losses.say()
            if isinstance(encoder, RawEncoder) and encoder.has_ended:
                break
    finally:  # also after Ctrl-C
        losses.say(is_last=True)


class _Losses:
    """Says on standard error what is not shown, once a second at most.

    :param server: counts it.
    """

    def __init__(self, server: Client) -> None:
        self._server = server
        self._said_bytes = self._said_connections = 0
        self._quiet_until = 0.0

    def say(self, *, is_last: bool = False) -> None:
        """Say what was lost since it was said last, if that is long enough ago."""
        dropped, left_out = self._server.bytes_dropped, self._server.connections_left_out
        if (dropped, left_out) == (self._said_bytes, self._said_connections):
            return
        now = time.monotonic()
        if now < self._quiet_until and not is_last:
            return
        self._quiet_until = now + NOTE_SECONDS
        if dropped > self._said_bytes:
            size = format_bytes(dropped - self._said_bytes)
            print_note(f"{size} not shown: they came faster than they were read here")
        if left_out > self._said_connections:
            print_note(f"{left_out - self._said_connections} connections left out: too many match")
        self._said_bytes, self._said_connections = dropped, left_out
