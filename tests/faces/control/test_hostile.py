"""The client of the control port against servers that are none, or mean no good."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.errors import ControlError, MonconnError
from monconn.faces.control import client as module
from monconn.faces.control.client import BadAddress, BadAnswer, Client, CommandFailed, NoServer
from tests.faces.hostile import HELLO, Answer, HostileServer, answer, box, hostile_server
from tests.properties import examples


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostileServer]:
    with hostile_server(tmp_path) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take a fifth of a second."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)


# -- greetings


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no control port: .* does not speak AMP"),
        (b"", "does not answer: it has closed the connection"),
        (b"\0", "does not answer: it has closed the connection"),
        (b"\0\0", "is no control port: .* does not answer what it is asked"),
        (box({"_answer": "7", **HELLO}), "does not answer what it is asked"),
        (box({"_answer": "1", "server": b"\xff"}), "a text that is not UTF-8"),
    ],
)
def test_who_is_no_control_port(server: HostileServer, greeting: bytes, message: str) -> None:
    def greet(request: dict[str, str]) -> Iterator[bytes]:
        yield greeting
        raise OSError  # which has it close the connection

    server.greeting = greet
    with pytest.raises(NoServer, match=message):
        Client(server.where)


@pytest.mark.parametrize("version", ["2", "0", "-1", "9" * 5000, "one\x1b[31m", ""])
def test_another_version(server: HostileServer, version: str) -> None:
    server.greeting = lambda request: iter([answer(request, HELLO | {"version": version})])
    with pytest.raises(ControlError, match=r"speaks version .* of the control protocol") as caught:
        Client(server.where)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# -- one answer


def endless_box(request: dict[str, str]) -> Iterator[bytes]:
    yield box({"_answer": request["_ask"]})[:-2]
    for number in itertools.count():
        yield box({f"key{number}": "x" * 50_000})[:-2]


def test_a_box_without_end_is_given_up_after_so_many_bytes(server: HostileServer) -> None:
    server.answers = endless_box
    with Client(server.where) as client, pytest.raises(BadAnswer, match="an answer without end"):
        client.call("ListConnections")
    assert len(client._received) < 2 * module._MOST_BYTES + module._READ_BYTES


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("piece", [b"", b"x"])
def test_who_sends_byte_by_byte_is_given_up_as_who_sends_nothing(
    server: HostileServer, piece: bytes
) -> None:
    over = threading.Event()

    def dribble(request: dict[str, str]) -> Iterator[bytes]:
        yield b"\0\1x\xff\xff"  # the longest value
        while not over.wait(0.01):
            yield piece

    server.answers = dribble
    with Client(server.where) as client:
        with pytest.raises(NoServer, match="does not answer: timed out"):
            client.call("ListConnections")
        over.set()


@pytest.mark.usefixtures("impatient")
def test_events_without_end_are_no_answer(server: HostileServer) -> None:
    event = box({"_command": "Event", "event": "{}", "dropped": "0"})
    server.answers = lambda request: itertools.repeat(event)
    with Client(server.where) as client:
        with pytest.raises(NoServer, match="timed out"):
            client.call("ListConnections")
        assert len(client._early_events) <= module._EARLY_EVENTS


def test_events_before_the_answer_are_not_lost(server: HostileServer) -> None:
    def events(request: dict[str, str]) -> Iterator[bytes]:
        for number in range(3):
            if number == 2:
                yield answer(request, {})
            event = {"event": json.dumps({"n": number}), "dropped": "5"}
            yield box({"_command": "Event", **event})

    server.answers = events
    with Client(server.where) as client:
        got = list(itertools.islice(client.events(), 3))
        assert [each["n"] for each in got] == [0, 1, 2]
        assert client.events_dropped == 5


def test_an_error_text_is_printable_and_short(server: HostileServer) -> None:
    text = "\x1b]0;owned\x07\n" * 4000
    values = {"_error_code": "BAD\x1b[2J", "_error_description": text}
    server.answers = lambda request: iter([box({"_error": request["_ask"], **values})])
    with Client(server.where) as client, pytest.raises(CommandFailed) as caught:
        client.call("ListConnections")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 10_000
    assert caught.value.code == r"BAD\x1b[2J"


# -- lists


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rows": "{}"},
        {"rows": "7"},
        {"rows": "[1,"},
        {"rows": "[" * 60_000},
        {"rows": "[" * 30_000 + "]" * 30_000},
        {"rows": "[" + "9" * 60_000 + "]"},
        {"rows": "[]", "next": "x"},
        {"rows": "[]", "next": "9" * 5000},
    ],
)
def test_a_malformed_page(server: HostileServer, values: dict[str, str]) -> None:
    server.answers = lambda request: iter([answer(request, values)])
    with Client(server.where) as client, pytest.raises(BadAnswer, match="a list that cannot be"):
        list(client.rows("ListConnections"))


def endless(rows: str) -> Answer:
    return lambda request: iter([answer(request, {"rows": rows, "next": "1"})])


def test_pages_without_end_are_given_up_after_so_many_rows(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_ROWS", 1000)
    server.answers = endless("[{}, {}]")
    with Client(server.where) as client, pytest.raises(BadAnswer, match="list without end"):
        list(client.rows("ListConnections"))
    assert len(server.requests) == 1 + 501


def test_pages_without_end_are_given_up_after_so_many_bytes(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_BYTES", 1_000_000)
    server.answers = endless(json.dumps([{"text": "x" * 50_000}]))
    with Client(server.where) as client, pytest.raises(BadAnswer, match="list without end"):
        list(client.rows("ListConnections"))
    assert len(server.requests) == 1 + 20


def test_empty_pages_without_end_are_given_up_in_time(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.1)
    server.answers = endless("[]")
    with Client(server.where) as client, pytest.raises(BadAnswer, match="list without end"):
        list(client.rows("ListConnections"))


def test_a_list_as_long_as_a_busy_service_has_clients(server: HostileServer) -> None:
    row = {"ip": "2001:db8:1111:2222:3333:4444:5555:6666", "up": 1 << 40, "seen": "x" * 150}
    page = json.dumps([row] * 240)
    pages = iter(range(500))  # 120,000 rows

    def list_them(request: dict[str, str]) -> Iterator[bytes]:
        more = {"next": "1"} if next(pages) < 499 else {}
        yield answer(request, {"rows": page, **more})

    server.answers = list_them
    with Client(server.where) as client:
        assert sum(1 for _ in client.rows("ListClients")) == 120_000


# -- events


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"event": "{}"},
        {"dropped": "0"},
        {"event": "[]", "dropped": "0"},
        {"event": "{", "dropped": "0"},
        {"event": "{}", "dropped": "many"},
        {"event": "[" * 60_000, "dropped": "0"},
    ],
)
def test_what_is_no_event(server: HostileServer, values: dict[str, str]) -> None:
    server.answers = lambda request: iter([answer(request, {}), box({"_command": "x", **values})])
    with Client(server.where) as client, pytest.raises(BadAnswer, match="that is no event"):
        next(client.events())


@pytest.mark.usefixtures("impatient")
def test_half_an_event_is_waited_for_no_longer_than_an_answer(server: HostileServer) -> None:
    server.answers = lambda request: iter([answer(request, {}), b"\0"])
    with Client(server.where) as client, pytest.raises(NoServer, match="no more events: timed out"):
        next(client.events())


# -- anything


@settings(max_examples=examples(60), deadline=None)
@given(st.binary(max_size=200), st.booleans())
@example(b"\0\x07_answer\0\x012\0\x04rows\0\x02[]\0\0", False)
@example(b"\xff", False)
@example(b"\0\x07_answer\0\x012\0\0" + b"\0\x08_command\0\x05Event\0\0", True)
def test_whatever_bytes_come_there_is_an_answer_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, is_subscribed: bool
) -> None:
    with hostile_server(tmp_path_factory.mktemp("any")) as server:

        def send(request: dict[str, str]) -> Iterator[bytes]:
            yield data
            raise OSError  # which has it close the connection

        server.answers = send
        with Client(server.where) as client:
            try:
                if is_subscribed:
                    list(itertools.islice(client.events(), 3))
                else:
                    list(client.rows("ListConnections"))
            except MonconnError as error:
                shown = str(error)
                assert shown.isprintable()


# -- addresses


@pytest.mark.parametrize(
    "where",
    [
        "",
        "x",
        "tls:",
        "tls:h:99999:/dev/null:/dev/null:/dev/null",
        "tls:h:0:a:b:c",
        "tls:h:1:/dev/zero:/dev/zero:/dev/zero",
        "tls:h:1:/tmp:/tmp:/tmp",
        "/a\0b",
        "unix:\0",
        "\x1b[31m\nx",
    ],
)
def test_what_is_no_address(where: str) -> None:
    with pytest.raises(BadAddress) as caught:
        Client(where)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("where", ["/\udcff/x", "unix:", "unix:" + "x" * 200, "/\x1b[2J\n"])
def test_nobody_is_there(where: str) -> None:
    with pytest.raises(NoServer) as caught:
        Client(where)
    assert str(caught.value).isprintable()
