"""The running monconns of this user: which there are, and which one is meant.

What the kernel knows of them is known of each; what only they can say is asked for in little time,
as one of them may be stopped, or hang.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath

import attrs

from monconn.errors import ControlError, printable, printable_lines
from monconn.faces.control.client import BadAddress, Client, NoServer, SeveralServers
from monconn.faces.control.place import check_folder, control_folder, live_sockets
from monconn.processes import Process

ASK_SECONDS = 1.0
"""How long each of three steps may take: connecting, Hello, and the names of its services."""
MOST_ASKED = 64
_ASKED_AT_ONCE = 16
_LISTED = 20
_SERVICES_CHARACTERS = 28
_LINE_CHARACTERS = 79
_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group
_ROLES = (None, "view", "operate")
HOW_TO_START = "monconn -p LISTEN=BACKEND, monconn -c FILE, or monconn demo"


@attrs.frozen
class Instance:
    """One running monconn, or whatever listens at a control socket of this user.

    :param where: the path of its control socket.
    :param pid: its process id, as the kernel says; None if it does not.
    :param command: its arguments, the interpreter included; empty if they are not known.
    :param started_at: when its process began, in seconds since 1970; None if it is not known.
    """

    where: str
    pid: int | None
    command: tuple[str, ...] = ()
    started_at: float | None = None

    @property
    def short_command(self) -> str:
        """The command as it was typed, as far as is known: without interpreter and path."""
        words = list(self.command)
        if len(words) > 1 and PurePath(words[0]).name.startswith("python"):
            del words[0]
        if words:
            words[0] = PurePath(words[0]).name
        return printable(" ".join(words))

    @property
    def config_file(self) -> str | None:
        """What ``-c`` or ``--config`` gives, of the ``monconn`` command and of ``twistd``."""
        words = iter(self.command[1:])
        for word in words:
            if word in ("-c", "--config"):
                return next(words, None)
            if word.startswith("--config="):
                return word.partition("=")[2]
            if word.startswith("-c"):
                return word[2:]
        return None

    def runs_file(self, name: str) -> bool:
        """Whether its configuration is a file of this name, with or without folder and ending."""
        file = self.config_file
        return file is not None and name in (file, PurePath(file).name, PurePath(file).stem)


@attrs.frozen
class Answer:
    """What an instance says of itself.

    :param server: its name and version; None if it does not answer.
    :param services: the names of its services; None if it does not answer.
    :param role: what this socket allows: ``view`` or ``operate``; None if it does not answer.
    :param served: the same for all sockets of one program's control port; None if it says nothing.
    """

    server: str | None = None
    services: list[str] | None = None
    role: str | None = None
    served: str | None = None

    def services_text(self) -> str:
        """The names, as many as there is room for, and how many more there are."""
        if self.services is None:
            return "(does not answer)"
        if not self.services:
            return "(no services)"
        names = [printable(each) for each in self.services]
        shown = names[:1]
        for name in names[1:]:
            if len(", ".join([*shown, name])) > _SERVICES_CHARACTERS:
                break
            shown.append(name)
        more = len(names) - len(shown)
        return f"{', '.join(shown)}{f' and {more} more' if more else ''}"


class NoSuchServer(NoServer):
    """Some monconn runs, and none that was chosen."""

    def __str__(self) -> str:
        return printable_lines(Exception.__str__(self))  # a line for each


def running() -> list[Instance]:
    """The instances whose control socket is where the command looks; none of them is asked.

    :raises ControlError: other users can put sockets into that folder.
    """
    folder = control_folder()
    if folder.exists():
        check_folder(folder)
    return [_instance(os.fspath(path)) for path in live_sockets(folder)]


def ask(instances: Iterable[Instance]) -> list[tuple[Instance, Answer]]:
    """Each instance with what it says; several are asked at once, and none for long.

    :returns: of no more than the first :data:`MOST_ASKED`.
    """
    asked = list(instances)[:MOST_ASKED]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(zip(asked, pool.map(_ask, asked), strict=True))


def ask_each(instances: Iterable[Instance]) -> list[tuple[Instance, Answer]]:
    """The same with one entry for each program: of several sockets, the one that allows most."""
    best: dict[object, tuple[Instance, Answer]] = {}
    for number, (instance, said) in enumerate(ask(instances)):
        key = (instance.pid, said.served) if said.served else number
        if key not in best or _ROLES.index(said.role) > _ROLES.index(best[key][1].role):
            best[key] = instance, said
    return list(best.values())


def none_running() -> NoServer:
    """The error that there is no instance, with how to start one."""
    folder = control_folder()
    return NoServer(f"no monconn is running: nobody answers in {folder}; start one: {HOW_TO_START}")


def choose(where: str) -> str:
    """The control socket of the instance that is meant.

    :param where: ``pid:PID``; ``name:NAME``, of one of its services or of its configuration file;
        or empty for the only one.
    :raises BadAddress: a PID that is no number.
    :raises NoServer: none is meant, or none is running.
    :raises SeveralServers: more than one is meant.
    """
    found = running()
    if not found:
        raise none_running()
    kind, _, value = where.partition(":")
    meant = found
    if kind == "pid":
        if not value.isascii() or not value.isdigit():
            raise BadAddress(f"pid:{printable(value)} is no process id")
        meant = [each for each in found if each.pid == int(value)]
    elif kind == "name":
        meant = _named(found, value)
    if not meant:
        what = f"has the pid {value}" if kind == "pid" else f"has a service or a file {value}"
        if kind == "name" and len(found) > MOST_ASKED:
            what += f", of {MOST_ASKED} that were asked for their services, of {len(found)}"
        head = f"no running monconn {printable(what)}; there are:"
        raise NoSuchServer(_lines(head, ask_each(found[:_LISTED]), len(found[_LISTED:])))
    if len(meant) == 1:
        return meant[0].where
    asked = ask_each(meant[:_LISTED])
    more = len(meant[_LISTED:])
    if kind == "pid" and not any(said.server for _, said in asked):
        return meant[0].where  # it hangs, whichever of its sockets is asked
    if len(asked) + more > 1:
        head = f"{len(asked) + more} monconns are running; say which:"
        raise SeveralServers(_lines(head, asked, more))
    return asked[0][0].where


def _named(instances: Sequence[Instance], name: str) -> list[Instance]:
    """Those with a service of this name; else those whose configuration file has it."""
    with_service = [each for each, said in ask(instances) if name in (said.services or ())]
    return with_service or [each for each in instances if each.runs_file(name)]


def _lines(head: str, asked: Sequence[tuple[Instance, Answer]], more: int) -> str:
    """A line for each instance, with the option that chooses it.

    :param more: how many there are besides.
    """
    pids = [each.pid for each, _ in asked]
    rows = []
    for each, said in asked:
        is_unique = each.pid and pids.count(each.pid) == 1
        option = f"--pid {each.pid}" if is_unique else f"--control {printable(each.where)}"
        rows.append((option, said.services_text(), each.short_command))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [head]
    for option, services, command in rows:
        line = f"  {option:{widths[0]}}  {services:{widths[1]}}"
        room = max(_LINE_CHARACTERS - len(line) - 2, 0)
        if len(command) > room:
            command = f"{command[: room - 1]}…" if room > 1 else ""
        lines.append(f"{line}  {command}".rstrip())
    if more:
        lines.append(f"  and {more} more: monconn ps")
    return "\n".join(lines)


def _ask(instance: Instance) -> Answer:
    try:
        with Client(instance.where, ASK_SECONDS) as client:
            rows = json.loads(client.call("ListServices")["rows"])  # of many, the first page
            server = client.hello.get("server")
            role = client.hello.get("role", "operate")
            names = [str(row["sid"]) for row in rows]
            role = "view" if role == "view" else "operate"
            return Answer(server, names, role, client.hello.get("served"))
    except (ControlError, LookupError, TypeError, ValueError, RecursionError):
        return Answer()


def _instance(path: str) -> Instance:
    pid = _listener(path)
    if not pid:
        return Instance(path, None)
    process = Process.of(pid)
    return Instance(path, pid, tuple(process.arguments()), process.started_at())


def _listener(path: str) -> int:
    """The id of the process that listens at a path; 0 if it is not known.

    Not known: its queue is full, it is in a PID namespace that is not ours, or the system has no
    ``SO_PEERCRED`` (unix(7): of who has called listen(2)).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) or not hasattr(socket, "SO_PEERCRED"):
            return 0
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
