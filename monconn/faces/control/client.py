"""A blocking client of the control port.

It needs nothing of Twisted's, and is a model for clients in other languages.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from monconn.errors import ControlError, QuestionError, os_error_text, printable, quoted
from monconn.faces.control.place import check_folder, control_folder, live_sockets

VERSION = 1
ANSWER_SECONDS = 20.0
_LENGTH = struct.Struct("!H")
_MOST_BYTES = 65_535
_TLS_ADDRESS = re.compile(r"(\[[^]]+\]|[^:]+):(\d{1,5}):([^:]+):([^:]+):([^:]+)")


class NoServer(ControlError):
    """No server answers at the control port."""


class SeveralServers(ControlError):
    """More than one monconn runs, and none was chosen."""


class BadAddress(ControlError):
    """The address of a server cannot be understood."""


class CommandFailed(ControlError):
    """The server did not do what was asked; the text says why.

    :param code: one of those in ``docs/control.md``: ``UNKNOWN_CONNECTION``, ``BAD_FILTER``, …
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def find_server(where: str | None) -> str:
    """The address of the server to talk to.

    :param where: as :class:`Client` takes it; if None, the one control socket of this user.
    :raises NoServer: there is none.
    :raises SeveralServers: there is more than one.
    :raises ControlError: other users can put sockets into the folder of control sockets.
    """
    if where:
        return where
    folder = control_folder()
    if folder.exists():
        check_folder(folder)
    found = live_sockets(folder)
    if not found:
        raise NoServer(f"no monconn is running: nobody answers in {folder}")
    if len(found) > 1:
        lines = "\n".join(f"  --control {path}" for path in found)
        raise SeveralServers(f"{len(found)} monconns are running; say which:\n{lines}")
    return os.fspath(found[0])


class Client:
    """A connection to a control port; a context manager that closes it.

    :param where: ``unix:PATH``, a path, or ``tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY``, the
        last three PEM files.
    :raises BadAddress: this is no address.
    :raises NoServer: nobody answers there, or it is no control port.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        try:
            self._sock = _connected(where)
        except OSError as error:
            raise NoServer(f"nobody answers at {where}: {os_error_text(error)}") from None
        self._input: BinaryIO = self._sock.makefile("rb")
        self._asked = 0
        self.events_dropped = 0
        """Events that the server has dropped so far, as this client reads too slowly."""
        self.hello = self.call("Hello", version=VERSION)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._input.close()
        self._sock.close()

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Send a command, and wait for the answer, whose values are text, often JSON.

        :param arguments: those that are None are left out; lists are sent as JSON.
        :raises CommandFailed: the server answers with an error.
        :raises NoServer: the connection is lost, or there is no answer in time.
        :raises ControlError: the server is too old to understand ``filter`` and ``dry_run``.
        :raises QuestionError: an argument is not UTF-8.
        """
        # It would ignore them, and so list everything, or act where it should only answer.
        needed = [each for each in ("filter", "dry_run") if arguments.get(each)]
        if needed and "filters" not in self.hello:
            server = printable(self.hello.get("server"))
            raise ControlError(f"{server} runs, which is too old for {needed[0]}: restart it")
        self._asked += 1
        box = {"_command": command, "_ask": str(self._asked)}
        box |= {key: _text(value) for key, value in arguments.items() if value is not None}
        try:
            self._sock.sendall(_encoded(box))
            answer = self._box()
        except (OSError, UnicodeDecodeError) as error:
            raise NoServer(f"{self.where} does not answer: {os_error_text(error)}") from None
        if "_error" in answer:
            code, message = answer.get("_error_code", ""), answer.get("_error_description", "")
            raise CommandFailed(code, printable(message))
        if "_answer" not in answer:
            raise NoServer(f"{self.where} is no control port")
        return answer

    def rows(self, command: str, **arguments: Any) -> Iterator[Any]:
        """The rows of a list, whose pages are requested one after the other."""
        yield from self.rows_of(self.call(command, **arguments))

    def rows_of(self, answer: dict[str, str]) -> Iterator[Any]:
        """The rows in an answer to the last command, and those of the pages that follow it."""
        yield from json.loads(answer["rows"])
        while "next" in answer:
            answer = self.call("NextPage", next=int(answer["next"]))
            yield from json.loads(answer["rows"])

    def events(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Subscribe, and wait for each event as it happens.

        :param arguments: ``service`` and ``filter``.
        :raises NoServer: the server has closed the connection.
        """
        self.call("Subscribe", **arguments)
        self._sock.settimeout(None)
        while True:
            try:
                box = self._box()
            except OSError as error:
                raise NoServer(
                    f"{self.where} sends no more events: {os_error_text(error)}"
                ) from None
            self.events_dropped = int(box["dropped"])
            yield json.loads(box["event"])

    def _box(self) -> dict[str, str]:
        box = {}
        while key := self._string():
            box[key] = self._string()
        return box

    def _string(self) -> str:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length).decode()

    def _exactly(self, count: int) -> bytes:
        data = self._input.read(count)
        if len(data) < count:
            raise ConnectionError("it has closed the connection")
        return data


def _connected(where: str) -> socket.socket:
    kind, _, rest = where.partition(":")
    if kind == "unix" or ("/" in where and kind != "tls"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(rest if kind == "unix" else where)
        return sock
    if kind == "tls":
        found = _TLS_ADDRESS.fullmatch(rest)
        if found is None:
            raise BadAddress(f"{quoted(where)} is not tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY")
        host, port, certificate, key, authority = found.groups()
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
        plain = socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS)
        return context.wrap_socket(plain, server_hostname=host.strip("[]"))
    forms = "/PATH, unix:PATH or tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY"
    raise BadAddress(f"{quoted(where)} is no address of a control port: write {forms}")


def _encoded(box: dict[str, str]) -> bytes:
    try:
        strings = [text.encode() for pair in box.items() for text in pair]
    except UnicodeEncodeError as error:  # of argv: bytes that are no UTF-8
        raise QuestionError(f"{quoted(error.object)} is not UTF-8") from None
    if any(len(each) > _MOST_BYTES for each in strings):
        raise ControlError("too long: a value on the wire holds 65,535 bytes at most")
    return b"".join(_LENGTH.pack(len(each)) + each for each in strings) + _LENGTH.pack(0)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    return str(value)
