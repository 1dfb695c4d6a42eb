"""Whatever bytes and boxes come: an error, or the end of that client and of nobody else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute, succeed
from twisted.protocols import amp

from monconn.addresses import Network
from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.faces.control import commands
from monconn.faces.control.boxes import BoxReader
from monconn.faces.control.server import ControlFactory, ControlProtocol
from monconn.model.actions import OWN_CODE
from monconn.ops.operations import Operations
from monconn.ops.rates import LEAST_SECONDS, MOST_SECONDS
from monconn.sinks.history import schema
from monconn.sinks.history.service import Forgotten
from tests.ops.world import FakeConnection
from tests.properties import examples

from .seats import HELLO, LIST, Server, count, patch_peers

CODES = {
    *(
        "DENIED",
        "BAD_REQUEST",
        "BAD_FILTER",
        "UNKNOWN_CAPTURE",
        "UNKNOWN_CONNECTION",
        "UNKNOWN_SERVICE",
    ),
    *("UNKNOWN_PAGE", "UNKNOWN_DEVICE", "NOT_KEPT", "CANNOT_READ", "UNHANDLED"),
}
COMMANDS = [
    each
    for each in vars(commands).values()
    if isinstance(each, type)
    and issubclass(each, amp.Command)
    and each not in (amp.Command, commands._Command, commands.Event)
]


class Program:
    """A control port over everything that can be asked, with a few connections."""

    def __init__(self, path: Path) -> None:
        self.server = Server()
        registry, clock = self.server.registry, self.server.clock
        clock.advance(1000)
        db = schema.open_for_writing(str(path), 1 << 20)

        class History:
            def run(self, query: Callable[[Any], Any]) -> Deferred[Any]:
                return execute(query, db)

            def forget(self, network: Network, *, dry_run: bool = False) -> Deferred[Forgotten]:
                return succeed(Forgotten({}))

        self.server.operations = Operations(
            registry,
            clock,
            devices=DevicesService(DevicesConfig(), registry, clock),
            history=History(),  # type: ignore[arg-type]
        )
        self.server.factory = ControlFactory(self.server.operations)
        for name in ("web", "s\u00fc\u00df \u20ac"):
            monitor = registry.new(name, clock=clock, backend="10.0.0.1:80")
            for number in range(3):
                record = monitor.admit(f"192.0.2.{number}:5", f"192.0.2.{number}")
                assert record is not None
                record.facts["tag"] = "a\tb"
                monitor.opened(FakeConnection(monitor, record))
        registry.get("web").block("198.51.100.0/24", actor=OWN_CODE)
        self.good = self.server.greeted()

    def check(self, client: ControlProtocol) -> None:
        """The client is gone: nothing of it is left, and others are served."""
        for monitor in self.server.operations.registry:
            monitor.resume(actor=None)  # it may have paused or drained it, for some time
        client.connectionLost()
        client.transport.clear()
        self.good.dataReceived(LIST)
        self.server.turns(50)
        assert count(self.good) == 1
        self.good.transport.clear()
        factory = self.server.factory
        assert factory.clients == factory.greeted == {self.good}
        assert (len(factory.handshaking), len(factory.silent)) == (0, 0)
        assert not self.server.operations.feed._subscriptions
        for _ in range(4):  # what it waited for
            self.server.clock.advance(LEAST_SECONDS)
        self.server.clock.advance(MOST_SECONDS)  # the rates
        self.server.turns(50)
        assert not self.server.clock.getDelayedCalls()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with pytest.MonkeyPatch.context() as patch:
        patch_peers(patch)
        patch.setattr(ControlProtocol, "_actor", lambda self: OWN_CODE)
        yield Program(tmp_path_factory.mktemp("history") / "history.db")


def pair(key: bytes, value: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(each)) + each for each in (key, value))


def boxed(values: dict[bytes, bytes]) -> bytes:
    return b"".join(pair(key, value) for key, value in values.items()) + b"\0\0"


def answers(client: ControlProtocol) -> list[dict[bytes, bytes]]:
    reader = BoxReader()
    reader.add(client.transport.value())
    found = []
    while (each := reader.take()) is not None:
        found.append(dict(each))
    return [each for each in found if b"_command" not in each]  # no events


SILLY = [
    *(b"", b"0", b"-1", b"1", b"9" * 19, b"-" + b"9" * 19, b"9" * 30, b"9" * 5000, b"9" * 65_000),
    *(b"1e309", b"-1e309", b"nan", b"inf", b"-inf", b"1e300", b"-1e300", b"1e-320", b"1_0"),
    *(b" 1 ", "\u0661".encode(), b"0x10", b"True", b"False", b"true", b"253402300800"),
    *(
        b"-62135596801",
        b"\0",
        b"a\0b",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        "\ud7ff".encode(),
        b"x" * 65_535,
    ),
    *(
        b"[1,2]",
        b"[" * 60_000,
        b"[1e999]",
        b"[true]",
        b'["1"]',
        b"{}",
        b"[-1]",
        b"[" + b"9" * 18 + b"]",
    ),
    *(b"[" + b"9" * 4000 + b"]", b"[" + b",".join([b"7" * 4000] * 15) + b"]"),
    *(json.dumps([*range(2_000)]).encode(), json.dumps([*range(2_001)]).encode()),
    json.dumps([10**18 - each for each in range(2_001)]).encode(),
    *(
        b"127.0.0.1",
        b"0.0.0.0/0",
        b"::/0",
        b"fe80::1%eth0",
        b"1.2.3.4/0.0.0.0",
        b"::ffff:1.2.3.4/96",
    ),
    *(
        b"web",
        b"ssh",
        b"operator",
        b"client_closed",
        b"blocked",
        b"open",
        b"rate",
        b"id",
        b"*",
        b"?",
    ),
    *(b"'", b'"', b"\\", b"'; DROP TABLE connections; --", b"%' OR 1=1", b"\xe2\x80\xae\x1b[2J"),
    *(b"not:", b"not:not:a:b", b"id:..", b"idle:..", b"idle:5m..", b"rate:1..", b"up:1EiB..9EiB"),
    *(b"up:" + b"9" * 5000 + b"..", b"idle:" + b"9" * 60_000, b"id:" + b"9" * 30, b"port:70000"),
    *(
        b"event:half_closed",
        b"reason:" + b"a" * 60_000,
        b"a" * 60_000 + b":b",
        b"fact.:x",
        b"fact.a:",
    ),
    *(
        b"x " * 30_000,
        b"1 " * 30_000,
        b"\\ " * 30_000,
        b"'" * 65_000,
        b"not:x " * 100,
        b"heard:0..",
    ),
    b" ".join(b"client:10.%d.%d.0/24" % (each // 250, each % 250) for each in range(101)),
]


class Value(bytes):
    """A value that a failing test does not print whole."""

    def __repr__(self) -> str:
        return super().__repr__() if len(self) < 100 else f"SILLY[{SILLY.index(self)}]"


SILLY = [*map(Value, SILLY)]
VALUES = st.sampled_from(SILLY) | st.binary(max_size=40) | st.text(max_size=40).map(str.encode)


@st.composite
def requests(draw: st.DrawFn) -> dict[bytes, bytes]:
    """One request of any command, with any of its arguments."""
    command = draw(st.sampled_from(COMMANDS))
    chosen = draw(st.sets(st.sampled_from([name for name, _ in command.arguments] or [b"x"])))
    found = {b"_command": command.commandName, b"_ask": b"7"}
    return found | {name: draw(VALUES) for name in sorted(chosen)}


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(requests(), min_size=1, max_size=4))
@example([{b"_command": b"StartTLS", b"_ask": b"7"}])
@example([{b"_command": b"\xff\xfe" * 30_000, b"_ask": b"7"}])
@example([{b"_command": b"ShowConnection", b"_ask": b"7", b"id": b"9" * 5000}])
@example([{b"_command": b"ListConnections", b"_ask": b"7", b"idle_over": b"nan"}])
@example([{b"_command": b"ListHistory", b"_ask": b"7", b"limit": b"-1", b"since": b"-1e300"}])
@example([{b"_command": b"CloseConnections", b"_ask": b"7", b"ids": SILLY[43]}])
@example([{b"_command": b"Report", b"_ask": b"7", b"service": b"\\" * 60_000}])
@example([{b"_command": b"Report", b"_ask": b"7", b"since": b"-1e300"}])
@example([{b"_command": b"Report", b"_ask": b"7", b"until": b"1e300"}])
@example([{b"_command": b"Forget", b"_ask": b"7", b"client": b"192.0.2.1"}])
@example([{b"_command": b"Hello", b"_ask": b"7" * 65_535, b"version": b"1"}])
def test_every_request_has_one_answer(program: Program, sent: list[dict[bytes, bytes]]) -> None:
    client = program.server.greeted()
    for request in sent:
        client.dataReceived(boxed(request))
        for _ in range(400):
            program.server.clock.advance(0.01)
            if answers(client) or client.transport.was_aborted:
                break
        (answer,) = answers(client)
        assert not client.transport.was_aborted
        if b"_error" in answer:
            assert answer[b"_error_code"].decode() in CODES
            assert answer[b"_error_description"].decode().isprintable()
        for name in (b"rows", b"connection", b"report", b"unknown"):
            if name in answer:
                json.loads(answer[name], parse_constant=pytest.fail)
        client.transport.clear()
        if client.transport.is_full:
            client.transport.taken()
    program.check(client)


GARBAGE = st.one_of(
    st.binary(max_size=500),
    st.dictionaries(st.binary(min_size=1, max_size=40), VALUES, max_size=5).map(boxed),
    requests().map(boxed),
    st.sampled_from([HELLO, LIST, b"\0\0", b"\0\7_answer\0\x015\0\0", b"GET / HTTP/1.1\r\n\r\n"]),
)


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.booleans(), st.lists(GARBAGE, max_size=5), st.lists(st.integers(0, 99_999), max_size=4))
@example(False, [b"\0\0"], [])
@example(True, [b"\0\6_error\0\x011\0\0"], [])
@example(True, [boxed({b"_command": b"Hello"}), LIST], [])
def test_garbage_ends_its_sender_at_most(
    program: Program, says_hello: bool, garbage: list[bytes], cuts: list[int]
) -> None:
    client = program.server.connect()
    data = (HELLO if says_hello else b"") + b"".join(garbage)
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(bounds):
        client.dataReceived(data[begin:end])
        program.server.turns(3)
    program.check(client)
