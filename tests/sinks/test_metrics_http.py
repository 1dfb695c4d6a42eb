"""Metrics over HTTP for hostile and broken clients: what they cost is counted; scrapes go on."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.config.sections import MetricsConfig
from monconn.monitor.registry import Registry
from monconn.net.http import server as http_server
from monconn.net.http import writing
from monconn.net.http.requests import Limits
from monconn.sinks.metrics import encoding
from monconn.sinks.metrics.figures import Sample
from monconn.sinks.metrics.http import MetricsPages
from monconn.sinks.metrics.service import MetricsService
from tests import running_reactor
from tests.net.http.clients import PEER, Clients, status
from tests.properties import examples

HANG_SECONDS = 30.0
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
MOST_CLIENTS, MOST_HEAD_BYTES = Limits().clients, Limits().head_bytes


class Threads:
    """The part of a reactor that takes calls from threads, which the test runs one by one."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        self._calls.put(lambda: call(*args))

    def run_one(self) -> None:
        self._calls.get(timeout=HANG_SECONDS)()


class World(Clients):
    """The server without sockets, with a fake clock."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.samples = 0
        self.sample = self._sample
        clock = Clock()
        config = MetricsConfig(TcpAddress("127.0.0.1", 0))
        self._service = MetricsService(
            config,
            Registry(),
            object(),
            clock,
            lambda: {f"observer{self.samples}": self.samples},
        )
        self._pages = MetricsPages(lambda: self.sample(), self.threads, clock)
        super().__init__(self._pages.factory(), clock)

    def _sample(self) -> Sample:
        self.samples += 1
        return self._service.sample()

    def encode(self) -> None:
        """Run one encoding, and the pause after it."""
        self.threads.run_one()
        self.clock.advance(encoding.MOST_PAUSE_SECONDS)

    def close(self) -> None:
        self._pages.stop()
        super().close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


# -- pipelining, and many at once


def test_of_pipelined_requests_the_first_is_answered(world: World) -> None:
    client = world.connect(GET * 1000)
    assert client.is_paused
    world.encode()
    client.read_all()
    assert world.samples == 1
    assert client.written.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nConnection: close\r\n" in client.written
    assert client.has_ended
    for _ in range(100):
        world.send(client, GET * 1000)
    assert client.how_closed == "closed"
    assert world.samples == 1
    assert not world.factory.clients


def test_those_who_wait_together_share_an_encoding(world: World) -> None:
    first = world.connect(GET)
    others = [world.connect(GET) for _ in range(30)]
    formats = [
        world.connect(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n"
        )
        for _ in range(30)
    ]
    for _ in range(3):
        world.encode()
    assert world.samples == 3
    for each in (first, *others, *formats):
        each.read_all()
        assert status(each) == 200
    # Nobody has figures from before the request.
    assert b'{observer="observer1"} 1.0' in first.written
    assert all(b'{observer="observer2"} 2.0' in each.written for each in others)
    assert all(b'{observer="observer3"} 3.0' in each.written for each in formats)


def test_those_who_want_versions_of_their_own_share_an_encoding(world: World) -> None:
    world.connect(GET)
    accept = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: %b;version=1.%d.0;escaping=%b\r\n\r\n"
    strangers = [
        world.connect(accept % (kind, number, escaping))
        for number in range(10)
        for kind in (b"application/openmetrics-text", b"text/plain")
        for escaping in (b"allow-utf-8", b"dots", b"values")
    ]
    for _ in range(3):
        world.encode()
    assert world.samples == 3
    for each in strangers:
        each.read_all()
        assert status(each) == 200


def test_between_two_encodings_there_is_a_pause(world: World) -> None:
    world.connect(GET)
    world.threads.run_one()
    later = world.connect(GET)
    assert world.samples == 1
    world.clock.advance(encoding.LEAST_PAUSE_SECONDS / 2)
    assert world.samples == 1
    world.clock.advance(encoding.MOST_PAUSE_SECONDS)
    assert world.samples == 2
    world.encode()
    assert status(later) == 200


def test_a_failure_is_the_answer_of_all_who_waited(
    world: World, logged_failures: list[Failure]
) -> None:
    def fail() -> Sample:
        raise RuntimeError("no figures")

    world.connect(GET)
    others = [world.connect(GET) for _ in range(3)]
    world.sample = fail
    world.encode()
    assert [status(each) for each in others] == [500] * 3
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_without_a_thread_scrapes_fail_and_later_ones_do_not(
    world: World, logged_failures: list[Failure], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert status(world.connect(GET)) == 500
    logged_failures.clear()
    later = world.connect(GET)
    world.clock.advance(encoding.LEAST_PAUSE_SECONDS)
    world.encode()
    assert status(later) == 200


# -- clients who are slow, or do not read


def test_bytes_of_a_request_grant_it_no_more_time(world: World) -> None:
    client = world.connect()
    for byte in GET[:5]:
        world.send(client, bytes([byte]))
        world.clock.advance(2)
    assert client.how_closed == "aborted"
    assert not world.factory.clients


def encode_to(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(encoding, "encoder_for", lambda _: (lambda _: text, "text/plain"))


def test_an_answer_that_is_not_read_costs_one_piece_and_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_to(monkeypatch, b"x" * 10_000_000)
    client = world.connect(GET)
    world.encode()
    assert client.unread <= writing.PIECE_BYTES + 500
    world.clock.advance(http_server.ANSWER_SECONDS)
    assert client.how_closed == "aborted"


def test_a_long_answer_is_complete_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 10_000
    encode_to(monkeypatch, body)
    client = world.connect(GET)
    world.encode()
    client.read_all()
    assert client.written.partition(b"\r\n\r\n")[2] == body
    assert client.most_unread <= writing.PIECE_BYTES + 500


def test_what_the_kernel_has_of_an_answer_is_still_delivered(world: World) -> None:
    client = world.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.read_all()
    assert client.how_closed is None
    world.clock.advance(http_server.LINGER_SECONDS)
    assert client.how_closed == "closed"


def test_a_body_without_end_is_not_read_for_ever(world: World) -> None:
    client = world.connect(
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    client.read_all()
    assert status(client) == 405
    for _ in range(http_server.MOST_LINGER_BYTES // 65536):
        world.send(client, b"x" * 65536)
        assert client.how_closed is None
    world.send(client, b"x")
    assert client.how_closed == "closed"


@pytest.mark.parametrize("line", [b"A: b\r\n", b"A: " + b"b" * 60_000, b"x", b"\x00"])
def test_a_head_without_end_is_refused(world: World, line: bytes) -> None:
    client = world.connect(b"GET /metrics HTTP/1.1\r\n")
    sent = 0
    while not client.is_paused and not client.written:
        world.send(client, line)
        sent += len(line)
        assert sent < MOST_HEAD_BYTES + len(line)
    assert status(client) == 431
    assert len(client.protocol._reader) <= len(line)


# -- all places taken


def test_a_newcomer_displaces_the_oldest_without_a_request(world: World) -> None:
    waiting = world.connect(GET)
    slow = [world.connect(b"GET /") for _ in range(MOST_CLIENTS - 1)]
    world.clock.advance(http_server.GRACE_SECONDS)
    assert not world.factory.is_full()
    scraper = world.connect(GET)
    assert [each.how_closed for each in slow] == ["aborted", *[None] * (len(slow) - 1)]
    assert len(world.factory.clients) == MOST_CLIENTS
    for _ in range(2):
        world.encode()
    assert (status(waiting), status(scraper)) == (200, 200)


def test_one_who_has_its_answer_is_displaced_before_one_who_asks(world: World) -> None:
    asking = world.connect(b"GET /")
    answered = world.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answered.read_all()
    for _ in range(MOST_CLIENTS - 1):
        world.connect(b"GET /")
    assert (answered.how_closed, asking.how_closed) == ("closed", None)


def test_one_who_does_not_read_is_displaced_before_one_who_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_to(monkeypatch, bytes(10 * writing.PIECE_BYTES))
    reader = world.connect(GET)
    stuck = [world.connect(GET) for _ in range(MOST_CLIENTS - 1)]
    for _ in range(2):
        world.encode()
    reader.producer.resumeProducing()
    for _ in range(3):
        world.connect(GET)
    assert [each.how_closed for each in stuck[:4]] == [*["aborted"] * 3, None]
    reader.read_all()
    assert len(reader.written) > 10 * writing.PIECE_BYTES
    world.encode()


def test_newcomers_wait_while_nobody_has_had_its_time(world: World) -> None:
    waiting = [world.connect(GET) for _ in range(MOST_CLIENTS - 1)]
    world.connect(b"GET /")
    assert world.factory.is_full()
    assert world.factory.buildProtocol(PEER) is None
    world.clock.advance(http_server.GRACE_SECONDS)
    assert not world.factory.is_full()  # one has not sent its request
    world.connect(GET)
    assert world.factory.is_full()  # all wait for the figures
    for _ in range(2):
        world.encode()
    assert [status(each) for each in waiting] == [200] * len(waiting)
    assert not world.factory.is_full()


# -- what is understood


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET / HTTP/1.0\n\n", 200),
        (b"\r\n\r\nGET /?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET http://x:1/ HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET HTTP://x HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),  # HTTP/2 with prior knowledge
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA:" + b" " * 8000 + b"\x00\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),  # a TLS handshake
    ],
)
def test_requests(world: World, sent: bytes, expected: int) -> None:
    whole = world.connect(sent)
    in_bytes = world.connect()
    for byte in sent:
        world.send(in_bytes, bytes([byte]))
    assert (status(whole), status(in_bytes)) == (expected, expected)


_PIECES = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"/metrics",
        b" HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"Accept: application/openmetrics-text; version=\xff",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"Expect: 100-continue\r\n",
        b"A: " + b"b" * 9000,
        GET,
    ]
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.one_of(_PIECES, st.binary(max_size=40)), max_size=12))
@example([b"\r", b"\nGET / HTTP/1.1\r", b"\n\r", b"\n"])
@example([b"GET / HTTP/2.0\r\n\r\n"])
def test_after_any_garbage_a_scrape_is_answered(chunks: list[bytes]) -> None:
    world = World()
    odd = world.connect()
    for chunk in chunks:
        world.send(odd, chunk)
    waits = world.samples == 1
    scraper = world.connect(GET)
    world.encode()
    if waits:
        odd.read_all()
        assert status(odd) == 200
        world.encode()
    scraper.read_all()
    assert status(scraper) == 200
    assert b"monconn_build_info" in scraper.written
    if odd.written:
        odd.read_all()
        assert odd.written.count(b"HTTP/1.1 ") == 1
    world.close()


# -- on the running reactor


class Server:
    """Metrics on the running reactor."""

    def __init__(self) -> None:
        registry = Registry()
        registry.new("web")
        self.service = MetricsService(
            MetricsConfig(TcpAddress("127.0.0.1", 0)),
            registry,
            running_reactor(),
            MonotonicClock(),
            dict,
        )
        self.service.startService()

    @property
    def address(self) -> tuple[str, int]:
        assert self.service.where is not None
        host, _, port = self.service.where.rpartition(":")
        return host, int(port)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.service.stopService()


def answer_to(address: tuple[str, int], sent: bytes, *, ends: bool = False) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection(address, HANG_SECONDS) as client:
        client.sendall(sent)
        if ends:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_its_side_at_once_is_answered(server: Server) -> None:
    answer = await deferToThread(answer_to, server.address, GET, ends=True)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"


@pytest_twisted.ensureDeferred
async def test_scrapes_need_none_of_the_reactors_threads(server: Server) -> None:
    reactor = running_reactor()
    is_over = threading.Event()
    pool = reactor.getThreadPool()
    busy = [deferToThread(is_over.wait, HANG_SECONDS) for _ in range(pool.max)]
    answers: queue.Queue[bytes] = queue.Queue()
    scraper = threading.Thread(
        target=lambda: answers.put(answer_to(server.address, GET)), daemon=True
    )
    scraper.start()
    try:
        while answers.empty() and scraper.is_alive():
            await running_reactor_turn(reactor)
    finally:
        is_over.set()
        for each in busy:
            await each
    assert answers.get(timeout=HANG_SECONDS).startswith(b"HTTP/1.1 200 OK\r\n")


def running_reactor_turn(reactor: Any) -> Any:
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_clients_are_accepted_a_few_in_a_turn(server: Server) -> None:
    count = http_server.CLIENTS_PER_TURN + 3
    listener = server.service._listener
    assert listener is not None
    assert server.service._factory is not None
    listener._stop_reading()
    clients = [socket.create_connection(server.address, HANG_SECONDS) for _ in range(count)]
    listener.doRead()
    assert len(server.service._factory.clients) == http_server.CLIENTS_PER_TURN
    listener.doRead()
    assert len(server.service._factory.clients) == count
    for each in clients:
        each.close()
