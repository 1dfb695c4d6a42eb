"""Names in Twisted's endpoints: looked up in threads of the service's own, once for all."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from monconn.addresses import Address, EndpointAddress, TcpAddress, parse_backend
from monconn.clock import MonotonicClock
from monconn.errors import AddressError
from monconn.monitor.monitor import Monitor
from monconn.net.resolver import MOST_LOOKUPS, Lookups, Resolver
from monconn.relay.paths import DataPaths
from monconn.relay.transports.dial import Dial, dialler
from monconn.relay.transports.names import EndpointReactor, NotResolved
from tests import running_reactor

STRINGS = {
    "tcp": "tcp:name.test:{port}:timeout=5",  # the reactor's connector asks for the address
    "ssl": "ssl:name.test:{port}:timeout=5",
    "tls": "tls:name.test:{port}:timeout=5",  # HostnameEndpoint does
    "nested": r"tls:x.test:443:endpoint=tcp\:name.test\:{port}",
}


class Answers:
    """In the place of ``getaddrinfo``: the answer of each name, which hangs without one."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.released = threading.Event()

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        self.threads.add(threading.current_thread().name)
        if host not in self.of:
            self.released.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        answer = self.of[host]
        if isinstance(answer, BaseException):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port))]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    answers = Answers()
    monkeypatch.setattr(socket, "getaddrinfo", answers.getaddrinfo)
    yield answers
    answers.released.set()


class Names:
    """What a service's endpoints have in common."""

    def __init__(self) -> None:
        self.lookups = Lookups(running_reactor())
        self.resolvers: list[Resolver] = []

    def resolver(self, name: TcpAddress) -> Resolver:
        made = Resolver(name, running_reactor(), MonotonicClock(), self.lookups)
        self.resolvers.append(made)
        return made

    def dial(self, address: Address) -> Dial:
        return dialler(address, EndpointReactor(running_reactor(), self.resolver))


class Noticing(Protocol):
    """Fires when the connection has ended."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


@pytest_twisted.ensureDeferred
async def test_a_name_is_found(answers: Answers) -> None:
    answers.of["name.test"] = "127.0.0.1"
    reactor = running_reactor()
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    address = EndpointAddress(STRINGS["tcp"].format(port=port.getHost().port))
    dial = Names().dial(address)
    for _ in range(3):
        protocol = Noticing()
        await dial(protocol)
        assert protocol.transport is not None
        protocol.transport.loseConnection()
        await protocol.lost
    await port.stopListening()
    assert answers.asked == ["name.test"]
    assert answers.threads == {"monconn lookup"}


@pytest.mark.parametrize("string", STRINGS.values(), ids=STRINGS)
@pytest_twisted.ensureDeferred
async def test_a_name_that_hangs_takes_one_thread_of_its_service_alone(
    answers: Answers, string: str
) -> None:
    answers.of["other.test"] = OSError(errno.EMFILE, "Too many open files")
    names = Names()
    dial = names.dial(EndpointAddress(string.format(port=1)))
    dials = [dial(Noticing()) for _ in range(25)]
    for other in ("tcp:other.test:1:timeout=5", "tls:other.test:1:timeout=5"):
        with pytest.raises(NotResolved) as caught:
            await Names().dial(EndpointAddress(other))(Noticing())
        assert caught.value.reason == "error", "ours, as a backend's cannot be told"
        assert "other.test: too many open files" in str(caught.value)
    # Every thread of the reactor's pool is free.
    at_once = [deferToThread(lambda: "done") for _ in range(10)]
    assert [await each for each in at_once] == ["done"] * 10
    assert answers.asked.count("name.test") == 1
    assert answers.threads == {"monconn lookup"}
    assert not any(each.called for each in dials)

    waiting = names.resolvers[-1]._waiting
    assert len(waiting) == 25
    for each in dials[1:]:
        each.addErrback(lambda _: None)
        each.cancel()
    assert len(waiting) == 1, "who gives up is forgotten"
    answers.released.set()
    with pytest.raises(NotResolved, match="temporary failure") as caught:
        await dials[0]
    assert caught.value.reason == "backend_unreachable"


@pytest_twisted.ensureDeferred
async def test_a_name_without_an_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted has chosen the socket's family before it asks."""
    only = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: only)
    with pytest.raises(NotResolved, match="has no IPv4 address"):
        await Names().dial(EndpointAddress("tcp:name.test:1:timeout=5"))(Noticing())


@pytest_twisted.ensureDeferred
async def test_an_address_needs_no_name_server(answers: Answers) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and no listen(2): nobody else can have the port
        port = nobody.getsockname()[1]
        for kind in ("tcp", "tls"):
            with pytest.raises(error.ConnectionRefusedError):
                await Names().dial(EndpointAddress(f"{kind}:127.0.0.1:{port}"))(Noticing())
    assert answers.asked == []


@pytest.mark.parametrize("kind", ["tcp", "tls", "ssl"])
def test_a_name_to_connect_from_is_refused(kind: str) -> None:
    """Twisted would look it up in the reactor's thread, for each connection."""
    address = parse_backend(f"{kind}:127.0.0.1:1:bindAddress=name.test")
    with pytest.raises(AddressError, match="bindAddress must be an IP address"):
        Names().dial(address)
    for own in ("127.0.0.1", "localhost"):
        Names().dial(parse_backend(f"{kind}:127.0.0.1:1:bindAddress={own}"))


@pytest_twisted.ensureDeferred
async def test_a_service_that_asks_for_many_names_uses_up_no_threads_of_another(
    answers: Answers,
) -> None:
    answers.of["other.test"] = "192.0.2.1"
    paths = DataPaths(running_reactor(), MonotonicClock())
    greedy, other = Monitor("greedy"), Monitor("other")
    queries = [
        paths.address_of(greedy, TcpAddress(f"name{number}.test", 1))
        for number in range(MOST_LOOKUPS)
    ]
    with pytest.raises(OSError, match="too many names are being looked up"):
        await paths.address_of(greedy, TcpAddress("other.test", 1))
    assert await paths.address_of(other, TcpAddress("other.test", 1)) == (
        socket.AF_INET,
        ("192.0.2.1", 1),
    )
    answers.released.set()
    for each in queries:
        with pytest.raises(socket.gaierror):
            await each
