"""The commands of an SSH user: one-shot commands such as ``ssh host show 42``, and the
functions of the prompt, both in lines of text over :class:`~monconn.ops.operations.Operations`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from keyword import iskeyword

import attrs
from twisted.internet.defer import Deferred, succeed

from monconn.addresses import parse_network
from monconn.errors import (
    AddressError,
    MonconnError,
    QuestionError,
    UnitError,
    UnknownConnection,
    printable,
    quoted,
)
from monconn.model.actions import Actor
from monconn.model.record import iso_time
from monconn.model.uid import parse_uid
from monconn.ops import explain_text
from monconn.ops.account import account_of
from monconn.ops.closing import CloseResult
from monconn.ops.columns import Row
from monconn.ops.details import detail_lines
from monconn.ops.device_rows import story_lines
from monconn.ops.filters import FilterError
from monconn.ops.flow_text import HexEncoder
from monconn.ops.operations import ChangeResult, Operations, Terms
from monconn.ops.rows import (
    BlockRow,
    ClosedConnectionRow,
    ConnectionRow,
    NotifyRow,
    NotifyTestRow,
)
from monconn.ops.text_table import text_table_steps
from monconn.ops.why_rows import why_lines
from monconn.turns import in_turns
from monconn.units import local_time, parse_duration

DONE, FAILED, MISUSED = 0, 1, 2
"""Exit statuses."""
_DEVICE_ROWS = 20
_DEVICE_WIDTH = 100
"""Where there is no terminal."""


class Commands:
    """The commands of one login.

    Each writes its answer; those that return a Deferred have written it when that fires. What
    cannot be done raises a :class:`~monconn.errors.MonconnError`.

    :param actor: the user that actions are attributed to.
    :param write: takes the text of an answer, which ends with a newline.
    :param width: characters in a line of the terminal; None if there is no terminal.
    """

    def __init__(
        self,
        operations: Operations,
        actor: Actor,
        write: Callable[[str], object],
        width: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._operations = operations
        self._actor = actor
        self._write = write
        self._width = width

    def connections(
        self,
        filter: Terms = None,
        *,
        sort: str | None = None,
        limit: int | str | None = None,
        closed: bool = False,
    ) -> Deferred[None]:
        """The live connections as a table, oldest first; or those that were closed last.

        :param sort: a column such as ``idle``; ``-idle`` for the other way round.
        """
        if limit is not None and not re.fullmatch(r"[0-9]{1,9}", str(limit)):
            raise QuestionError(f"{quoted(str(limit))} is no number of rows")
        limit = None if limit is None else int(limit)
        if closed:
            sort = sort or "closed"
        row_class = ClosedConnectionRow if closed else ConnectionRow
        return self._operations.connections(
            filter, sort=sort, limit=limit, closed=closed
        ).addCallback(lambda found: self._write_table(row_class, found.rows, "no connections"))

    def stats(self, service: str | None = None) -> None:
        """A line for each service."""
        lines = [monitor.describe() for monitor in self._operations.monitors(service)]
        self._write_lines(lines or ["no services"])

    def show(self, connection_id: int | str) -> Deferred[None]:
        """All that is known of a connection, live or closed lately: a line for each field."""
        return self._operations.connection(_id_or_uid(connection_id)).addCallback(
            lambda row: self._write_lines(detail_lines(row, self._width()))
        )

    def recording(self, connection_id: int | str) -> None:
        """What is recorded of a connection, live or closed: a hex dump."""
        events = self._operations.recording(self._actor, _id_or_uid(connection_id), how="hex")
        self._write(b"".join(map(HexEncoder().encode, events)).decode())

    def explain(self, word: int | str = "") -> Deferred[None]:
        """What a word of a log line, one of HAProxy's codes, or the end of a connection means."""
        text = str(word).strip()
        is_id = re.fullmatch(r"[0-9]{1,18}", text)
        if is_id or parse_uid(text):
            return self._operations.connection(int(text) if is_id else text).addCallback(
                lambda row: self._write_blocks(explain_text.account(account_of(row)))
            )
        self._write_blocks(explain_text.looked_up(text))
        return succeed(None)

    def device(self, name: str) -> Deferred[None]:
        """One device: who it is, what is usual for it, and what happened to it."""
        return self._operations.device(str(name), limit=_DEVICE_ROWS).addCallback(
            lambda story: self._write_lines(
                story_lines(
                    story.head,
                    [row.to_json() for row in story.rows],
                    self._width() or _DEVICE_WIDTH,
                    None,
                    how_to_see_all="",
                )
            )
        )

    def close(
        self,
        connections: int | Terms,
        *,
        reset: bool = False,
        spread: float | str | None = None,
        dry_run: bool = False,
    ) -> Deferred[None]:
        """End connections: one by its id, or those that a filter of ids and terms finds."""
        wanted = str(connections) if isinstance(connections, int) else connections
        seconds = _seconds(spread)
        will_be = "would be " if dry_run else "will be " if seconds else ""
        done = f"{will_be}{'reset' if reset else 'closed'}"

        def write(result: CloseResult) -> None:
            self._write_lines(f"connection {each} {done}" for each in result.ids)
            if result.unknown:
                ids = ", ".join(map(str, result.unknown))
                raise UnknownConnection(f"no live connection has the id {ids}")
            if not result.ids:
                self._write_lines(["no connections"])

        return self._operations.close(
            self._actor, filter=wanted, reset=reset, spread=seconds, dry_run=dry_run
        ).addCallback(write)

    def block(
        self,
        network: str,
        *,
        service: str | None = None,
        for_: float | str | None = None,
        reason: str | None = None,
        keep_open: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Refuse a network's clients, at every service or at one, and end those that are connected.

        :param for_: how long, as ``"1h"`` or in seconds; for ever if left out.
        :param keep_open: leave those alone that are connected.
        """
        parsed = parse_network(str(network))
        try:
            for_seconds = parse_duration(for_) if isinstance(for_, str) else for_
        except UnitError as error:
            raise QuestionError(f"for: {error}") from None
        result = self._operations.block(
            self._actor,
            parsed,
            service=service,
            for_seconds=for_seconds,
            reason=reason,
            keep_open=keep_open,
            dry_run=dry_run,
        )
        at = "" if service is None else f" at {service}"
        done = f"would be blocked{at}, connections ended: {result.count}"
        if not dry_run:
            done = f"blocked{at}"
            if result.until_at is not None:
                done += f" until {local_time(iso_time(result.until_at))}"
            if result.is_update:
                done += ", and was so before until another time or for another reason"
        self._write_lines([f"{parsed} {done if result.changed else 'was blocked already'}"])

    def unblock(self, network: str, *, service: str | None = None, dry_run: bool = False) -> None:
        """Admit the clients of exactly this network again."""
        parsed = parse_network(str(network))
        result = self._operations.unblock(self._actor, parsed, service=service, dry_run=dry_run)
        done = "would be unblocked" if dry_run else "unblocked"
        text = f"{parsed} {done if result.changed else 'was not blocked'}"
        if result.still_blocked_by:
            text += f"; {result.still_blocked_by} is blocked, which it is in"
        self._write_lines([text])

    def blocks(self) -> Deferred[None]:
        """The blocked networks; one without a service is blocked at all of them."""
        return self._write_table(BlockRow, self._operations.blocks(), "nothing is blocked")

    def why(self, client: str, *, service: str | None = None) -> Deferred[None]:
        """What would happen to a client now at each service, and by which rule."""
        return self._operations.why(str(client), service=service).addCallback(
            lambda rows: self._write_lines(
                why_lines([row.to_json() for row in rows], self._width())
            )
        )

    def reload(self, *, dry_run: bool = False) -> Deferred[None]:
        """Read the configuration's file again, and apply what is different."""
        reloading = self._operations.reload(self._actor, dry_run=dry_run)
        return reloading.addCallback(lambda result: self._write_lines(result.lines()))

    def pause(self, service: str, *, for_: float | str | None = None) -> None:
        """Have a service stand still; after so many seconds, or a time such as 30s, it goes on."""
        result = self._operations.pause(self._actor, str(service), seconds=_seconds(for_))
        self._write_lines([f"{service} {'is paused' if _is_new(result) else 'was paused already'}"])

    def resume(self, service: str) -> None:
        """Have a service go on that is paused, or drains."""
        result = self._operations.resume(self._actor, str(service))
        self._write_lines([f"{service} {'goes on' if result.changed else 'was running'}"])

    def drain(self, service: str, *, spread: float | str | None = None) -> None:
        """Let nobody in any more; end the connections evenly over a time, if one is given."""
        result = self._operations.drain(self._actor, str(service), spread=_seconds(spread))
        done = "refuses clients" if _is_new(result) else "refused clients already"
        self._write_lines([f"{service} {done}, connections: {result.count}"])

    def notify(self, what: str = "", number: int | str | None = None) -> Deferred[None]:
        """Who is notified of events; or, after ``test``, what each says to a test."""
        if what == "":
            return self._write_table(NotifyRow, self._operations.outputs(), "there is no output")
        if what != "test" or not re.fullmatch("[0-9]{1,9}", str(number or 0)):
            raise QuestionError(f"{quoted(str(what))} is not test, or what follows is no number")
        wanted = None if number is None else int(number)

        def write(rows: list[NotifyTestRow]) -> None:
            self._write_lines(
                f"{each.number} {each.url}: {'ok' if each.ok else 'FAILED'}, {each.answer}"
                for each in rows
            )
            if failed := sum(not each.ok for each in rows):
                raise MonconnError(f"{failed} of {len(rows)} outputs failed")

        return self._operations.notify_test(self._actor, wanted).addCallback(write)

    def help(self) -> None:
        """The one-shot commands."""
        width = max(len(each.usage) for each in COMMANDS.values())
        self._write_lines(f"{each.usage:<{width}}  {each.help}" for each in COMMANDS.values())

    def _write_table(
        self, kind: type[Row], rows: Iterable[Row | None], if_empty: str
    ) -> Deferred[None]:
        """Write a table, which is made in as many turns of the reactor as it takes."""
        lines: list[str] = []
        steps = text_table_steps(kind.columns(), rows, self._width(), lines.append)

        def write(_: object) -> None:
            self._write_lines(lines if len(lines) > 1 else [if_empty])  # the first has the titles

        return in_turns(self._operations.clock, steps).addCallback(write)

    def _write_blocks(self, blocks: Iterable[explain_text.Block]) -> None:
        self._write(explain_text.rendered(blocks, self._width()))

    def _write_lines(self, lines: Iterable[str]) -> None:
        text = "".join(f"{printable(line)}\n" for line in lines)
        if text:
            self._write(text)


def _is_new(done: ChangeResult) -> bool:
    return done.changed and not done.is_update


def _seconds(time: float | str | None) -> float | None:
    try:
        return parse_duration(time) if isinstance(time, str) else time
    except UnitError as error:
        raise QuestionError(str(error)) from None


def _id_or_uid(connection_id: int | str) -> int | str:
    text = str(connection_id)
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if parse_uid(text) is None:
        raise QuestionError(f"{quoted(text)} is not the id of a connection")
    return text


@attrs.frozen
class Command:
    """A one-shot command.

    :param usage: its name, then what follows it; in brackets what may be left out, with ``...``
        what may come several times. Arguments are checked against it.
    :param method: called with the operands (as one list if there may be several), and with the
        options by keyword.
    """

    usage: str
    help: str
    method: Callable[..., Deferred[None] | None]

    def run(self, commands: Commands, arguments: list[str]) -> Deferred[None] | None:
        """Run the command.

        :raises QuestionError: the arguments do not match the usage.
        """
        form = self.usage.split()[1:]
        options = [each.strip("[]") for each in form if each.startswith("[--")]
        takes_value = {name: bool(value) for name, _, value in (e.partition("=") for e in options)}
        operands = [each for each in form if not each.startswith("[--")]
        given = [word for word in arguments if word.startswith("--")]
        arguments = [word for word in arguments if not word.startswith("--")]
        takes_several = any("..." in each for each in operands)
        by_keyword: dict[str, str | bool] = {}
        for word in given:
            name, equals, value = word.partition("=")
            if name not in takes_value:
                raise QuestionError(f"there is no option {quoted(word)}")
            if takes_value[name] != bool(value) or bool(equals) != bool(value):
                form_of_it = next(each for each in options if each.partition("=")[0] == name)
                raise QuestionError(f"{quoted(word)} is not {form_of_it}")
            keyword = name[2:].replace("-", "_")
            by_keyword[f"{keyword}_" if iskeyword(keyword) else keyword] = value or True
        if len(arguments) < sum(not each.startswith("[") for each in operands):
            raise QuestionError("missing operand")
        if len(arguments) > len(operands) and not takes_several:
            raise QuestionError(f"unexpected operand {quoted(arguments[len(operands)])}")
        return self.method(commands, *([arguments] if takes_several else arguments), **by_keyword)


_USAGES: tuple[tuple[str, str, Callable[..., Deferred[None] | None]], ...] = (
    (
        "list [FILTER...] [--closed] [--sort=COLUMN] [--limit=N]",
        "the live connections, or those that ended last",
        Commands.connections,
    ),
    ("stats [SERVICE]", "each service in figures", Commands.stats),
    ("show ID", "all that is known of a connection", Commands.show),
    ("recording ID", "the first and last bytes of a connection", Commands.recording),
    ("explain [REASON|CODE|ID]", "what an end means, and what to look at next", Commands.explain),
    ("device NAME|IP", "one device: its rhythm, its alarms, its last connections", Commands.device),
    (
        "close ID|TERM... [--reset] [--spread=TIME] [--dry-run]",
        "end connections, or reset them",
        Commands.close,
    ),
    (
        "block NET [--for=TIME] [--service=NAME] [--reason=TEXT] [--keep-open] [--dry-run]",
        "refuse an IP or a network, and end its connections",
        Commands.block,
    ),
    (
        "unblock NET [--service=NAME] [--dry-run]",
        "let exactly this IP or network in again",
        Commands.unblock,
    ),
    ("blocks", "what is blocked", Commands.blocks),
    (
        "why IP|NAME|ID [--service=NAME]",
        "what would happen to a client now, and by which rule",
        Commands.why,
    ),
    ("reload [--dry-run]", "read the configuration's file again", Commands.reload),
    ("pause SERVICE [--for=TIME]", "read nothing, and accept nobody", Commands.pause),
    ("resume SERVICE", "go on after a pause, or after draining", Commands.resume),
    ("drain SERVICE [--spread=TIME]", "let nobody in any more", Commands.drain),
    ("notify [test] [NUMBER]", "who is notified of events, or a test of it", Commands.notify),
    ("help", "this list", Commands.help),
)
COMMANDS = {usage.split()[0]: Command(usage, help, method) for usage, help, method in _USAGES}


@attrs.frozen
class Answer:
    """The result of a one-shot command: exit status, standard output and standard error."""

    status: int
    out: str = ""
    err: str = ""


async def run(line: str, operations: Operations, actor: Actor) -> Answer:
    """Run a command line, split as a POSIX shell does; nothing of it is evaluated as Python."""
    try:
        arguments = shlex.split(line)
    except ValueError as error:
        return Answer(MISUSED, err=f"{quoted(line)}: {error}\n".lower())
    if not arguments or arguments[0] not in COMMANDS:
        problem = f"there is no command {quoted(arguments[0])}" if arguments else "no command"
        return Answer(MISUSED, err=f"{problem}; try: help\n")
    command = COMMANDS[arguments[0]]
    written: list[str] = []
    status, err = DONE, ""
    try:
        answered = command.run(Commands(operations, actor, written.append), arguments[1:])
        if answered is not None:
            await answered
    except (QuestionError, FilterError, AddressError) as error:
        status, err = MISUSED, f"{error}; usage: {command.usage}\n"
    except MonconnError as error:
        status, err = FAILED, f"{error}\n"
    return Answer(status, "".join(written), err)
