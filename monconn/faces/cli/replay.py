"""The verb ``replay``: sends what a client had sent to a backend, and compares the answers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click

from monconn import hexlines
from monconn.addresses import Address, parse_backend
from monconn.errors import MonconnError, QuestionError, os_error_text, printable
from monconn.faces.cli import completion
from monconn.faces.cli.output import (
    has_colours,
    print_error,
    print_json,
    print_note,
    print_text,
    understood,
)
from monconn.faces.cli.recording import recorded_events
from monconn.faces.cli.replaying import Replayed, replay
from monconn.faces.cli.verbs import json_option, positive_seconds, reports_errors, server_option
from monconn.faces.control.client import Client, NoServer, find_server
from monconn.files import read_until_end
from monconn.model.flow import FlowEvent, from_json
from monconn.model.reasons import SideEnd
from monconn.model.uid import parse_uid
from monconn.ops.replay import Conversation, conversation_of
from monconn.units import format_bytes, format_duration

_MOST_FILE_BYTES = 64 * 1024 * 1024
_SHOWN_LINES = 16
_LONG_SECONDS = 3.0
_ENDS: dict[SideEnd | None, str] = {
    "fin": "an end in order",
    "reset": "a reset",
    "timeout": "no answer any more",
    "none": "no end",
    None: "no end",
}


def _address(context: click.Context, option: click.Parameter, text: str) -> Address:
    try:
        return parse_backend(text)
    except MonconnError as error:
        raise click.BadParameter(str(error)) from None


@click.command("replay")
@click.argument("what", metavar="ID|UID|FILE", shell_complete=completion.connection_ids)
@click.option(
    "--to",
    "where",
    metavar="ADDRESS",
    required=True,
    callback=_address,
    help="The backend: HOST:PORT, unix:PATH or tls:HOST:PORT; or tls:HOST:PORT:trustRoots=FILE,"
    " with the certificate of an authority of your own.",
)
@click.option("--at-once", is_flag=True, help="Without the pauses that the client made.")
@click.option("--partial", is_flag=True, help="Even if not all of it is recorded.")
@click.option(
    "--timeout",
    "patience",
    metavar="TIME",
    default="10s",
    show_default=True,
    callback=positive_seconds,
    help="How much longer than recorded an answer may take.",
)
@json_option
@server_option
@reports_errors
def replay_command(
    what: str,
    where: Address,
    at_once: bool,
    partial: bool,
    patience: float,
    as_json: bool,
    control: str | None,
) -> None:
    """Send to a backend what a client had sent; compare the answers.

    ID or UID is a connection that is recorded (docs/bytes.md); FILE has what monconn recording
    --json or monconn tap --json printed, and - is the standard input. Exit status: 0 if the
    answer is the same, 1 if it differs, 2 if it cannot be tried.
    """
    try:
        conversation = _recorded(what, control)
        _check_whole(conversation, partial)
        done = replay(
            conversation, where, at_once, patience, lambda: _announce(conversation, at_once)
        )
    except NoServer:
        raise
    except MonconnError as error:  # 1 is for an answer that differs
        print_error(error)
        raise click.exceptions.Exit(2) from None
    if as_json:
        print_json(_to_json(conversation, where, done))
    else:
        print_text("".join(f"{line}\n" for line in _lines(conversation, done)))
    raise click.exceptions.Exit(0 if done.answer.is_same else 1)


# -- what was recorded


def _recorded(what: str, control: str | None) -> Conversation:
    if re.fullmatch(r"[0-9]{1,18}", what) or parse_uid(what):
        with Client(find_server(control)) as server, understood(server.where):
            return conversation_of(recorded_events(server, what, "replay"))
    with understood(what):
        return conversation_of(_of_lines(_content(what)))


def _content(path: str) -> bytes:
    try:
        content = read_until_end("/dev/stdin" if path == "-" else path, _MOST_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise QuestionError(
            f"{path} is no id and no uid of a connection, and no file that can be read:"
            f" {os_error_text(error)}"
        ) from None
    if len(content) > _MOST_FILE_BYTES:
        raise QuestionError(f"{path} has more than {format_bytes(_MOST_FILE_BYTES)}")
    return content


def _of_lines(content: bytes) -> Iterator[FlowEvent]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            event = from_json(_with_seconds(json.loads(line)))
        except (AttributeError, TypeError, ValueError, RecursionError):
            raise QuestionError(
                f"line {number} is no event of monconn recording --json, or monconn tap --json"
            ) from None
        if event is not None:  # such as a gap, which the offsets tell as well
            yield event


def _with_seconds(values: dict[str, Any]) -> dict[str, Any]:
    """An event with its times in seconds, and not as texts of ISO 8601."""
    times = {
        key: datetime.fromisoformat(values[key]).timestamp()
        for key in ("at", "opened_at")
        if isinstance(values.get(key), str)
    }
    return {**values, **times}


def _check_whole(conversation: Conversation, partial: bool) -> None:
    if not conversation.missing or partial:
        return
    missing = "; ".join(map(str, conversation.missing))
    raise QuestionError(
        f"the recording is not whole: {missing}. With --partial, what is there is sent and compared"
    )


def _announce(conversation: Conversation, at_once: bool) -> None:
    if not at_once and conversation.sending_seconds > _LONG_SECONDS:
        print_note(
            f"takes {format_duration(conversation.sending_seconds)}, as the client did;"
            " --at-once does not"
        )


# -- what came


def _lines(conversation: Conversation, done: Replayed) -> Iterator[str]:
    began, answer = conversation.began, done.answer
    who = f"{began.client} at {began.service}"
    yield f"connection {began.connection} of {printable(who)}"
    for each in conversation.missing:
        yield f"missing    {each}"
    chunks = sum(1 for step in conversation.steps if step.data)
    end = {"fin": ", and an end", "reset": ", and a reset"}.get(conversation.client_end or "", "")
    yield (
        f"sent       {format_bytes(done.sent)} in {chunks} chunk{'' if chunks == 1 else 's'}{end},"
        f" within {format_duration(done.seconds)}"
    )
    for note in done.notes:
        yield f"           {note}"
    recorded, got = conversation.answered, answer.received
    at = answer.differs_at
    if answer.is_endless:
        yield f"cut        after {format_bytes(got)}: more than was recorded, and no end"
    was_cut = at is not None and answer.ended is not None and conversation.backend_end is None
    if answer.ends_otherwise or was_cut:  # what was not recorded is no difference, but explains one
        ends = f"{_ENDS[answer.ended]}; recorded: {_ENDS[conversation.backend_end]}"
        yield f"end        {ends}"
    if at is None:
        yield f"answer     the same: {format_bytes(got)}"
        return
    yield f"answer     differs at byte {at:,}: recorded {recorded:,} bytes, came {got:,}"
    yield ""
    yield "- recorded, + came:"
    yield from _difference(answer.lines())


def _difference(lines: Iterable[tuple[int, bytes, bytes]]) -> Iterator[str]:
    """The lines that differ, with the last equal one before them."""
    before: tuple[int, bytes] | None = None
    shown = more = 0
    for offset, recorded, came in lines:
        if recorded == came:
            before = (offset, came)
            continue
        if shown >= _SHOWN_LINES:
            more += 1
            continue
        if before is not None:
            yield f"  {hexlines.line(*before)}"
            before = None
        if recorded:
            yield _painted("31", f"- {hexlines.line(offset, recorded)}")
        if came:
            yield _painted("32", f"+ {hexlines.line(offset, came)}")
        shown += 1
    if more:
        yield f"and {more:,} more line{'' if more == 1 else 's'} (--json has all)"


def _painted(colour: str, line: str) -> str:
    return f"\x1b[{colour}m{line}\x1b[0m" if has_colours() else line


def _to_json(conversation: Conversation, where: Address, done: Replayed) -> dict[str, Any]:
    answer = done.answer

    def pieces(found: Iterable[tuple[int, bytes]]) -> list[dict[str, Any]]:
        return [
            {"offset": offset, "data": base64.b64encode(data).decode()} for offset, data in found
        ]

    came = [
        (offset, bytes(piece))
        for (offset, _), piece in zip(conversation.answer, answer.pieces, strict=True)
        if piece
    ]
    if answer.extra:
        came.append((conversation.answered, bytes(answer.extra)))
    return {
        "connection": conversation.began.connection,
        "uid": conversation.began.uid,
        "to": str(where),
        "sent_bytes": done.sent,
        "seconds": round(done.seconds, 6),
        "missing": [
            {"direction": each.direction, "offset": each.offset, "bytes": each.size}
            for each in conversation.missing
        ],
        "notes": list(done.notes),
        "is_same": answer.is_same,
        "differs_at": answer.differs_at,
        "recorded": {
            "bytes": conversation.answered,
            "end": conversation.backend_end,
            "data": pieces(conversation.answer),
        },
        "came": {"bytes": answer.received, "end": answer.ended, "data": pieces(came)},
    }
