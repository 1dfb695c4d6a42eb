"""A blocking client of the control port.

It needs nothing of Twisted's, and is a model for clients in other languages.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from monconn.errors import (
    ControlError,
    QuestionError,
    os_error_text,
    printable,
    printable_lines,
    quoted,
)
from monconn.files import path_fault

VERSION = 1
ANSWER_SECONDS = 20.0
"""How long an answer may take, from the request to its last byte, unless a client allows more."""
LIST_SECONDS = 300.0
"""How long the pages of one list may take, not counting what is done with their rows meanwhile."""
LIST_ROWS = 500_000
"""The most rows of one list; a long one, of all client IPs, has some 100,000."""
LIST_BYTES = 256 * 1024 * 1024
"""The most bytes of one list. The rows of 100,000 live connections are half as much."""
BOX_BYTES = 256 * 1024
"""The most bytes of one answer: one value of 65,535 bytes at most, and a few small ones."""
_EARLY_EVENTS = 100
"""The most events that may come before the answer to the request that subscribes to them."""
_READ_BYTES = 64 * 1024
_LENGTH = struct.Struct("!H")
_MOST_BYTES = 65_535
_MOST_KEY_BYTES = 255
_ERROR_CHARACTERS = 2_000
_TLS_ADDRESS = re.compile(r"(\[[^]]+\]|[^:]+):(\d{1,5}):([^:]+):([^:]+):([^:]+)")


class NoServer(ControlError):
    """No server answers at the control port."""


class BadAnswer(ControlError):
    """The server's answer cannot be understood, or has no end."""


class SeveralServers(ControlError):
    """More than one monconn runs, and none was chosen."""

    def __str__(self) -> str:
        return printable_lines(Exception.__str__(self))  # a line for each


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

    :param where: as :class:`Client` takes it, or ``pid:PID`` or ``name:NAME``, which choose among
        the servers of this user (:mod:`monconn.faces.control.instances`); None for the only one.
    :raises NoServer: there is none.
    :raises SeveralServers: there is more than one.
    :raises ControlError: other users can put sockets into the folder of control sockets.
    """
    if where and not where.startswith(("pid:", "name:")):
        return where
    from monconn.faces.control import instances  # which asks them, by the client

    return instances.choose(where or "")


class Client:
    """A connection to a control port; a context manager that closes it.

    The server need not be monconn, nor mean well: whatever it sends ends in an answer or in a
    :class:`~monconn.errors.ControlError`, after bounded time and memory.

    :param where: ``unix:PATH``, a path, or ``tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY``, the
        last three PEM files.
    :param answer_seconds: how long connecting, and each answer, may take; usually 20 s.
    :raises BadAddress: this is no address.
    :raises NoServer: nobody answers there, or it is no control port.
    :raises ControlError: it speaks another version of the protocol.
    """

    def __init__(self, where: str, answer_seconds: float | None = None) -> None:
        self.where = where
        self.answer_seconds = ANSWER_SECONDS if answer_seconds is None else answer_seconds
        """How long an answer may take, from the request to its last byte."""
        try:
            self._sock = _connected(where, self.answer_seconds)
        except OSError as error:
            raise NoServer(f"nobody answers at {where}: {os_error_text(error)}") from None
        self._received = bytearray()
        self._deadline: float | None = None
        self._early_events: deque[dict[str, str]] = deque(maxlen=_EARLY_EVENTS)
        self._asked = 0
        self.events_dropped = 0
        """Events that the server has dropped so far, as this client reads too slowly."""
        self.bytes_dropped = 0
        """Bytes of tapped connections that the server has dropped, as this client reads too
        slowly."""
        self.connections_left_out = 0
        """Connections that a tap should show, and does not, as there are too many."""
        self.hello: dict[str, str] = {}
        try:
            self.hello = self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> dict[str, str]:
        try:
            hello = self.call("Hello", version=VERSION)
        except BadAnswer as error:
            raise NoServer(f"{self.where} is no control port: {error}") from None
        if hello.get("version") != str(VERSION):
            version = quoted(hello.get("version", ""))
            raise ControlError(
                f"{self.where} speaks version {version} of the control protocol, and this monconn"
                f" version {VERSION}: use the monconn that runs there"
            )
        return hello

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Send a command, and wait for the answer, whose values are text, often JSON.

        :param arguments: those that are None are left out; lists are sent as JSON.
        :raises CommandFailed: the server answers with an error.
        :raises NoServer: the connection is lost, or there is no answer in time.
        :raises BadAnswer: the answer is none to this request, or malformed.
        :raises ControlError: an argument is too long, or the server too old for ``filter``,
            ``dry_run``, ``sort`` and ``spread``.
        :raises QuestionError: an argument is not UTF-8.
        """
        # It would ignore them, and so list everything, or act where it should only answer.
        needed = [each for each in ("filter", "dry_run") if arguments.get(each)]
        if "filters" in self.hello:
            needed.clear()
        # An older server knows some orders of connections, and says which.
        if command == "ListHistory" and arguments.get("sort") and "sorts" not in self.hello:
            needed.append("sort")
        # It would end all of them at once.
        if arguments.get("spread") and "pauses" not in self.hello:
            needed.append("spread")
        if needed:
            server = printable(self.hello.get("server"))
            raise ControlError(f"{server} runs, which is too old for {needed[0]}: restart it")
        self._asked += 1
        tag = str(self._asked)
        box = {"_command": command, "_ask": tag}
        box |= {key: _text(value) for key, value in arguments.items() if value is not None}
        data = _encoded(box)
        try:
            self._deadline = time.monotonic() + self.answer_seconds
            self._sock.settimeout(self.answer_seconds)
            self._sock.sendall(data)
            answer = self._answer()
        except OSError as error:
            raise NoServer(f"{self.where} does not answer: {os_error_text(error)}") from None
        if answer.get("_error") == tag:
            code, message = answer.get("_error_code", ""), answer.get("_error_description", "")
            raise CommandFailed(printable(code), printable(message[:_ERROR_CHARACTERS]))
        if answer.get("_answer") != tag:
            raise BadAnswer(f"{self.where} does not answer what it is asked")
        return answer

    def rows(self, command: str, **arguments: Any) -> Iterator[Any]:
        """The rows of a list, whose pages are requested one after the other.

        :raises BadAnswer: a page is malformed, or there are more rows than a list may have.
        """
        yield from self.rows_of(self.call(command, **arguments))

    def rows_of(self, answer: dict[str, str]) -> Iterator[Any]:
        """The rows in an answer to the last command, and those of the pages that follow it."""
        return rows_of(self.call, answer, self.where)

    def events(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Subscribe, and wait for each event as it happens.

        :param arguments: ``service`` and ``filter``.
        :raises NoServer: the server has closed the connection.
        :raises BadAnswer: what it sends is no event.
        """
        self.call("Subscribe", **arguments)
        while True:
            try:
                box = self._early_events.popleft() if self._early_events else self._next_event()
            except OSError as error:
                raise NoServer(
                    f"{self.where} sends no more events: {os_error_text(error)}"
                ) from None
            try:
                dropped, event = int(box["dropped"]), json.loads(box["event"])
            except (KeyError, ValueError, RecursionError):
                event = None
            if not isinstance(event, dict):
                raise BadAnswer(f"{self.where} sends something that is no event")
            self.events_dropped = dropped
            yield event

    def tap(self, **arguments: Any) -> dict[str, str]:
        """Have the bytes of live connections sent from now on: :meth:`flow_events` takes them.

        Nothing else can be asked for on this connection, which has to be closed to end it.

        :param arguments: ``service``, ``filter``, ``follow`` and ``how``.
        :returns: the answer.
        :raises ControlError: the server is too old.
        """
        if "taps" not in self.hello:
            server = printable(self.hello.get("server"))
            raise ControlError(f"{server} runs, which is too old for tap: restart it")
        return self.call("Tap", **arguments)

    def flow_events(self) -> Iterator[list[dict[str, Any]]]:
        """Wait for events of tapped connections, as :func:`monconn.model.flow.to_json` makes them.

        It ends when no more will come.

        :raises NoServer: the server has closed the connection.
        :raises BadAnswer: what it sends are no such events.
        """
        is_over = False
        while not is_over:
            try:
                box = self._next_event()
            except OSError as error:
                raise NoServer(
                    f"{self.where} sends no more bytes: {os_error_text(error)}"
                ) from None
            try:
                events, is_over = json.loads(box["events"]), box["is_over"] == "True"
                self.bytes_dropped = int(box["dropped_bytes"])
                self.connections_left_out = int(box["left_out"])
            except (KeyError, ValueError, RecursionError):
                events = None
            if not isinstance(events, list) or not all(isinstance(each, dict) for each in events):
                raise BadAnswer(f"{self.where} sends something that are no bytes of connections")
            yield events

    def _next_event(self) -> dict[str, str]:
        self._deadline = None  # until the next event begins; then it must come whole in time
        self._receive(1)
        self._deadline = time.monotonic() + self.answer_seconds
        return self._box()

    def _answer(self) -> dict[str, str]:
        """The next box that is not an event."""
        while True:
            box = self._box()
            if box.get("_command") != "Event":
                return box
            self._early_events.append(box)

    def _box(self) -> dict[str, str]:
        box: dict[str, str] = {}
        size = 0
        while key := self._string(_MOST_KEY_BYTES):
            box[key] = value = self._string(_MOST_BYTES)
            size += len(key) + len(value)
            if size > BOX_BYTES:
                raise BadAnswer(f"{self.where} sends an answer without end")
        return box

    def _string(self, most_bytes: int) -> str:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > most_bytes:
            raise BadAnswer(f"{self.where} does not speak AMP")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise BadAnswer(f"{self.where} sends a text that is not UTF-8") from None

    def _take(self, count: int) -> bytes:
        self._receive(count)
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _receive(self, count: int) -> None:
        """Wait until so many bytes are here, or until the deadline."""
        while len(self._received) < count:
            if self._deadline is not None:
                # Not a time limit on each read: that would wait for ever for whoever dribbles.
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                self._sock.settimeout(left)
            else:
                self._sock.settimeout(None)
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("it has closed the connection")
            self._received += data


def rows_of(
    call: Callable[..., dict[str, str]], answer: dict[str, str], where: str
) -> Iterator[Any]:
    """The rows in an answer to the last command, and those of the pages that follow it.

    :param call: :meth:`Client.call`.
    :param where: the server's address, for messages.
    :raises BadAnswer: a page is malformed, or there are more rows than a list may have.
    """
    rows = size = 0
    seconds = 0.0
    while True:
        try:
            text = answer["rows"]
            page = json.loads(text)
            following = int(answer["next"]) if "next" in answer else None
        except (KeyError, ValueError, RecursionError):
            page = None
        if not isinstance(page, list):
            raise BadAnswer(f"{where} sends a list that cannot be understood")
        rows += len(page)
        size += len(text)
        if rows > LIST_ROWS or size > LIST_BYTES or seconds > LIST_SECONDS:
            raise BadAnswer(
                f"{where} sends a list without end: after {rows:,} rows, {size:,} bytes and"
                f" {seconds:.0f} s there are more"
            )
        yield from page
        if following is None:
            return
        began = time.monotonic()
        answer = call("NextPage", next=following)
        seconds += time.monotonic() - began


def _connected(where: str, seconds: float) -> socket.socket:
    kind, _, rest = where.partition(":")
    if kind == "tls":
        return _connected_by_tls(where, rest, seconds)
    if kind != "unix" and "/" not in where:
        forms = "/PATH, unix:PATH or tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY"
        raise BadAddress(f"{quoted(where)} is no address of a control port: write {forms}")
    path = rest if kind == "unix" else where
    # connect(2) would end a path at a NUL, or take it for an abstract name.
    if fault := path_fault(path):
        raise BadAddress(f"{quoted(where)} cannot be a path: {fault}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connected_by_tls(where: str, rest: str, seconds: float) -> socket.socket:
    found = _TLS_ADDRESS.fullmatch(rest)
    if found is None or not 0 < int(found[2]) <= 65_535:
        raise BadAddress(f"{quoted(where)} is not tls:HOST:PORT:CERTIFICATE:KEY:AUTHORITY")
    import ssl  # only here: it is a part of the time that each verb takes to start

    host, port, *files = found.groups()
    host = host.strip("[]")
    certificate, key, authority = files
    for path in files:
        if not os.path.isfile(path):  # OpenSSL would read a device for ever
            raise BadAddress(f"{quoted(path)} is not a file: --control tls: needs three in PEM")
    try:
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise BadAddress(f"{quoted(where)} cannot be used: {os_error_text(error)}") from None
    try:
        plain = socket.create_connection((host, int(port)), seconds)
    except UnicodeError:
        raise BadAddress(f"{quoted(host)} cannot be the name of a host") from None
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


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
