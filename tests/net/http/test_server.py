"""The HTTP server for hostile and broken clients: what they cost is counted; others are served."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.faces.http.service import make_factory
from monconn.net.http import requests as http_requests
from monconn.net.http import server as http_server
from monconn.net.http import writing
from monconn.net.http.messages import Answer, Request, Response, StreamWriter
from monconn.net.http.requests import Limits
from monconn.net.http.server import HttpFactory
from tests.net.http.clients import Clients, Transport, status, statuses
from tests.properties import examples

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HOST = b" HTTP/1.1\r\nHost: x\r\n"


class World(Clients):
    """A server whose requests are remembered; what a path answers may be set."""

    def __init__(self, make: Callable[..., HttpFactory] = make_factory) -> None:
        self.requests: list[Request] = []
        self.answers: dict[str, Callable[[], Answer]] = {}
        clock = Clock()
        super().__init__(make(self._answer, clock), clock)

    def _answer(self, request: Request) -> Answer:
        self.requests.append(request)
        make = self.answers.get(request.path)
        return Response(200, b"hello\n") if make is None else make()


class Events:
    """A stream that the test writes."""

    def __init__(self) -> None:
        self.writer: StreamWriter | None = None
        self.resumed = 0
        self.stopped = 0

    def start(self, writer: StreamWriter) -> None:
        self.writer = writer

    def write(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def resume(self) -> None:
        self.resumed += 1

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(params=["metrics", "http"])
def either(request: pytest.FixtureRequest) -> Iterator[World]:
    """With the limits of each port that has this server."""
    world = World(HttpFactory if request.param == "metrics" else make_factory)
    yield world
    world.close()


def body_of(transport: Transport) -> bytes:
    return bytes(transport.written).partition(b"\r\n\r\n")[2]


def streaming(world: World, path: str = "/events") -> Events:
    """Have a path answer with a stream."""
    events = Events()
    world.answers[path] = lambda: Response(200, events, "text/event-stream")
    return events


def flood(world: World, host: str, count: int | None = None) -> None:
    """Connect from a host as often as there are places, and send no request."""
    for _ in range(world.factory.limits.clients if count is None else count):
        transport = Transport()
        transport.protocol = world.factory.buildProtocol(IPv4Address("TCP", host, 4711))
        if transport.protocol is not None:
            transport.protocol.makeConnection(transport)


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b%b%b\r\n" % (method, path, HOST, b"".join(each + b"\r\n" for each in headers))


# -- one request after the other


def test_a_connection_is_kept_for_the_next_request(world: World) -> None:
    client = world.connect(GET)
    client.read_all()
    assert body_of(client) == b"hello\n"
    assert b"connection: close" not in client.written.lower()
    world.send(client, get(b"/other?a=b"))
    client.read_all()
    assert statuses(client) == [200, 200]
    assert [(each.path, each.query) for each in world.requests] == [("/", ""), ("/other", "a=b")]
    assert client.how_closed is None


def test_an_idle_connection_is_closed_after_a_while(world: World) -> None:
    client = world.connect(GET)
    client.read_all()
    world.clock.advance(http_server.REQUEST_SECONDS + 1)
    assert client.how_closed is None
    world.clock.advance(world.factory.limits.idle_seconds)
    assert client.how_closed == "closed"
    assert not world.factory.clients


def test_a_request_that_comes_as_the_time_is_over_is_answered(world: World) -> None:
    for sent, expected in ((GET, [200, 200]), (b"\r\n", [200])):
        client = world.connect(GET)
        client.read_all()
        client.protocol.dataReceived(sent)  # in the turn in which the deadline strikes
        client.protocol._too_late()
        world.turn()
        client.read_all()
        assert statuses(client) == expected
        world.clock.advance(world.factory.limits.idle_seconds)
        assert client.how_closed == "closed"


@pytest.mark.parametrize("line", [b"HTTP/1.0\r\n", b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"])
def test_a_client_that_wants_no_other_request_is_disconnected(world: World, line: bytes) -> None:
    client = world.connect(b"GET / " + line + b"\r\n")
    client.read_all()
    assert (status(client), client.has_ended) == (200, True)
    assert b"Connection: close\r\n" in client.written


def test_pipelined_requests_are_served_one_by_one(world: World) -> None:
    waiting: list[Deferred[Response]] = []
    world.answers["/"] = lambda: waiting.append(Deferred()) or waiting[-1]  # type: ignore[func-returns-value]
    client = world.connect(GET * 10)
    assert len(waiting) == 1
    for number in range(10):
        waiting[-1].callback(Response(200, b"%d" % number))
        world.turn()
        assert len(waiting) == number + 1, "the client has not taken the answer yet"
        client.read_all()
        world.turn()
    assert statuses(client) == [200] * 10
    assert [int(each) for each in re.findall(rb"\r\n\r\n(\d)", client.written)] == [*range(10)]


def test_many_pipelined_requests_take_a_turn_each_and_little_memory(world: World) -> None:
    client = world.connect(GET * 2000)
    assert client.is_paused
    for count in range(1, 5):
        assert len(world.requests) == count
        client.unread = 0
        client.producer.resumeProducing()  # it has taken the answer
        assert len(world.requests) == count, "the next one has its own turn"
        world.turn()


def test_a_second_client_is_served_between_the_requests_of_the_first(world: World) -> None:
    first = world.connect(GET * 100)
    second = world.connect(GET)
    first.read_all()
    second.read_all()
    assert status(second) == 200
    assert len(world.requests) == 2


# -- what a client is limited to; with the limits of either port


def test_bytes_of_a_request_grant_it_no_more_time(either: World) -> None:
    client = either.connect()
    for byte in GET[:5]:
        either.send(client, bytes([byte]))
        either.clock.advance(2)
    assert client.how_closed == "aborted"
    assert not either.factory.clients


def test_an_answer_that_is_not_read_costs_one_piece_and_ends(either: World) -> None:
    either.answers["/"] = lambda: Response(200, b"x" * 10_000_000)
    client = either.connect(GET)
    assert client.unread <= writing.PIECE_BYTES + 500
    either.clock.advance(http_server.ANSWER_SECONDS)
    assert client.how_closed == "aborted"


def test_a_long_answer_is_complete_in_pieces(either: World) -> None:
    body = bytes(range(256)) * 10_000
    either.answers["/"] = lambda: Response(200, body)
    client = either.connect(GET)
    client.read_all()
    assert body_of(client) == body
    assert client.most_unread <= writing.PIECE_BYTES + 500


def test_answers_that_are_not_read_take_so_much_together(either: World) -> None:
    size = http_server.MOST_BODIES_BYTES // 8
    either.answers["/"] = lambda: Response(200, bytes(size))
    clients = [either.connect(GET) for _ in range(20)]
    assert [each.how_closed for each in clients] == ["aborted"] * 12 + [None] * 8
    assert either.factory.bodies.size == 8 * size
    clients[12].unread = 0
    clients[12].producer.resumeProducing()  # one that reads stays longer
    either.connect(GET)
    assert [each.how_closed for each in clients[12:15]] == [None, "aborted", None]
    clients[12].read_all()
    assert len(body_of(clients[12])) == size


def test_an_answer_that_many_share_counts_once(either: World) -> None:
    body = bytes(http_server.MOST_BODIES_BYTES // 2)
    either.answers["/"] = lambda: Response(200, body)
    clients = [either.connect(GET) for _ in range(20)]
    assert {each.how_closed for each in clients} == {None}
    assert either.factory.bodies.size == len(body)
    either.factory.close()
    assert either.factory.bodies.size == 0


def test_an_answer_that_is_longer_than_all_may_be_gives_way_to_the_next(either: World) -> None:
    either.answers["/"] = lambda: Response(200, bytes(http_server.MOST_BODIES_BYTES + 1))
    long = either.connect(GET)
    assert (status(long), long.how_closed) == (200, None)
    either.answers["/"] = lambda: Response(200, b"hello\n")
    client = either.connect(GET)
    client.read_all()
    assert (status(client), long.how_closed) == (200, "aborted")
    assert either.factory.bodies.size == 0


@pytest.mark.parametrize("line", [b"A: b\r\n", b"A: " + b"b" * 60_000, b"x", b"\x00"])
def test_a_head_without_end_is_refused(either: World, line: bytes) -> None:
    most = either.factory.limits.head_bytes
    client = either.connect(b"GET / HTTP/1.1\r\n")
    sent = 0
    while not client.written:
        either.send(client, line)
        sent += len(line)
        assert sent < most + len(line)
    assert status(client) == 431


def test_a_head_may_have_as_many_bytes_in_whatever_pieces(either: World) -> None:
    most = either.factory.limits.head_bytes
    head = GET[:-4] + b"\r\nA: "
    for length, expected in ((most, 200), (most + 1, 431)):
        whole = head + b"b" * (length - len(head)) + b"\r\n\r\n"
        pieces = either.connect()
        for start in range(0, len(whole), 100):
            either.send(pieces, whole[start : start + 100])
        assert (status(either.connect(whole)), status(pieces)) == (expected, expected)


def test_a_target_that_is_too_long_is_refused_as_one(either: World) -> None:
    long = get(b"/" + b"x" * either.factory.limits.head_bytes)
    pieces = either.connect()
    for start in range(0, len(long), 1000):
        either.send(pieces, long[start : start + 1000])
    assert (status(either.connect(long)), status(pieces)) == (414, 414)


def test_as_many_headers_as_take_long_are_refused(either: World) -> None:
    few, many = ([b"a:"] * count for count in (http_requests.MOST_HEADERS - 1, 101))
    assert status(either.connect(get(b"/", *few))) == 200
    assert status(either.connect(get(b"/", *many))) == 431


def test_a_newcomer_displaces_the_oldest_without_a_request(either: World) -> None:
    most = either.factory.limits.clients
    slow = [either.connect(b"GET /") for _ in range(most)]
    assert either.factory.is_full()
    either.clock.advance(http_server.GRACE_SECONDS)
    assert not either.factory.is_full()
    client = either.connect(GET)
    assert [each.how_closed for each in slow] == ["aborted", *[None] * (most - 1)]
    assert status(client) == 200


def test_many_from_one_network_displace_none_from_another(either: World) -> None:
    other = either.connect(b"GET /", host="192.0.2.1")
    for _ in range(3):
        flood(either, "198.51.100.1")
        either.clock.advance(http_server.GRACE_SECONDS)
    either.send(other, GET[5:])
    other.read_all()
    assert status(other) == 200
    # Nor do those that have just come keep another out.
    flood(either, "198.51.100.1")
    late = either.connect(GET, host="2001:db8::1")
    assert status(late) == 200


def test_many_from_one_host_are_one_network(either: World) -> None:
    other = either.connect(b"GET /", host="192.0.2.1")
    for number in range(3 * either.factory.limits.clients):
        if either.factory.is_full():
            either.clock.advance(http_server.GRACE_SECONDS)
        flood(either, f"2001:db8::{number:x}", 1)
    assert other.how_closed is None


def test_those_who_wait_for_their_answer_are_not_displaced(either: World) -> None:
    either.answers["/"] = Deferred
    waiting = [either.connect(GET) for _ in range(either.factory.limits.clients)]
    either.clock.advance(1)
    assert either.factory.is_full()
    assert {each.how_closed for each in waiting} == {None}


def test_those_that_leave_have_a_bound(world: World) -> None:
    clients = [world.connect(GET) for _ in range(http_server.MOST_LEAVING + 10)]
    for each in clients:
        each.read_all()
    world.clock.advance(world.factory.limits.idle_seconds)
    assert [each.how_closed for each in clients] == ["closed"] * http_server.MOST_LEAVING + [
        "aborted"
    ] * 10
    world.clock.advance(http_server.LINGER_SECONDS)
    assert not world.factory.leaving


# -- what is understood


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET / HTTP/1.0\n\n", 200),
        (b"\r\n\r\nGET /?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),  # HTTP/2 with prior knowledge
        (get(b"/", b"Connection: Upgrade", b"Upgrade: h2c"), 200),
        (get(b"*", method=b"OPTIONS"), 200),
        (get(b"*"), 400),
        (get(b"elsewhere"), 400),
        (get(b"x:80", method=b"CONNECT"), 501),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (get(b"/", b"A: b\r\n folded"), 400),
        (get(b"/", b"A : b"), 400),
        (get(b"/", b"A: \x00"), 400),
        (get(b"/", b"A: \x1b[31m"), 400),
        (get(b"/", b"A: b\rB: c"), 400),
        (get(b"/", b"A:" + b" " * 8000 + b"\x00"), 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),  # a TLS handshake, of which no more comes before an answer
        # The length of the body: others might find its end elsewhere.
        (get(b"/", b"Content-Length: 1", b"Transfer-Encoding: chunked", method=b"POST"), 400),
        (get(b"/", b"Content-Length: 1", b"Content-Length: 2", method=b"POST"), 400),
        (get(b"/", b"Content-Length: +1", method=b"POST"), 400),
        (get(b"/", b"Content-Length: " + b"9" * 19, method=b"POST"), 413),
        (get(b"/", b"Content-Length: " + b"9" * 5000, method=b"POST"), 400),
        (get(b"/", b"Content-Length: 1 ", b"Content-Length: 1", method=b"POST") + b"x", 200),
        (get(b"/", b"Transfer-Encoding: gzip, chunked", method=b"POST"), 501),
        (get(b"/", b"Transfer-Encoding: chunked, chunked", method=b"POST"), 501),
        (get(b"/", b"Transfer-Encoding: \x0bchunked", method=b"POST"), 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"x\r\n", 400),
        (get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"1\r\naXX0\r\n\r\n", 400),
        (get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"-1\r\n", 400),
        (get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"f" * 21 + b"\r\n", 400),
        (get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\na\x00: b\r\n\r\n", 400),
    ],
)
def test_requests(world: World, sent: bytes, expected: int) -> None:
    whole = world.connect(sent)
    in_bytes = world.connect()
    for byte in sent:
        world.send(in_bytes, bytes([byte]))
    assert (status(whole), status(in_bytes)) == (expected, expected)
    whole.read_all()
    if expected != 200:
        assert whole.has_ended
        assert b"Content-Type: application/problem+json\r\n" in whole.written
        assert b"Connection: close\r\n" in whole.written
        assert not world.requests


def test_a_head_request_that_is_refused_gets_no_body(world: World) -> None:
    both = (b"Content-Length: 1", b"Transfer-Encoding: chunked")
    client = world.connect(get(b"/", method=b"HEAD") + get(b"/", *both, method=b"HEAD"))
    for _ in range(2):
        client.read_all()
        world.turn()
    assert statuses(client) == [200, 400]
    assert client.written.endswith(b"\r\n\r\n")
    after = world.connect(get(b"/", method=b"HEAD") + b"nonsense\r\n\r\n")
    for _ in range(2):
        after.read_all()
        world.turn()
    assert statuses(after) == [200, 400]
    assert after.written.endswith(b"}\n")


def test_what_a_request_is_made_of(world: World) -> None:
    sent = get(
        b"/a%2Fb?c=d?e",
        b"ACCEPT: one",
        b"accept:\t two \t",
        b"X: \xe9",
        b"Content-Length: 3",
        method=b"PUT",
    )
    world.connect(sent + b"abc")
    (request,) = world.requests
    assert request == Request(
        "PUT",
        "/a%2Fb",
        "c=d?e",
        {"host": "x", "accept": "one, two", "x": "\xe9", "content-length": "3"},
        b"abc",
        False,
        "127.0.0.1",
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://other:1/p?q", ("other:1", "/p")),
        (b"HTTPS://other", ("other", "/")),
        (b"http://other?q", ("other", "/")),
    ],
)
def test_the_host_of_an_absolute_target_counts(
    world: World, target: bytes, expected: tuple[str, str]
) -> None:
    world.connect(get(target))
    (request,) = world.requests
    assert (request.headers["host"], request.path) == expected


@pytest.mark.parametrize("target", [b"http:///p", b"http://user@x/", b"ftp://x/", b"http:x"])
def test_other_absolute_targets_are_refused(world: World, target: bytes) -> None:
    assert status(world.connect(get(target))) == 400


# -- bodies


def test_a_chunked_body(world: World) -> None:
    head = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    client = world.connect(head + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n" + GET)
    client.read_all()
    world.turn()
    client.read_all()
    assert [(each.method, each.body) for each in world.requests] == [
        ("POST", b"abcde"),
        ("GET", b""),
    ]


def test_a_body_that_is_too_long_is_refused_before_it_comes(world: World) -> None:
    most = world.factory.limits.body_bytes
    allowed = world.connect(get(b"/", b"Content-Length: %d" % most, method=b"POST"))
    world.send(allowed, b"x" * most)
    assert status(allowed) == 200
    for headers in ([], [b"Expect: 100-continue"]):
        length = b"Content-Length: %d" % (most + 1)
        refused = world.connect(get(b"/", length, *headers, method=b"POST"))
        refused.read_all()
        assert statuses(refused) == [413]
        world.send(refused, b"x" * (most + 1))  # it is read, and the answer is not lost
        assert refused.how_closed is None


def test_chunks_that_are_too_long_or_too_many_are_refused(world: World) -> None:
    head = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
    most = world.factory.limits.body_bytes
    for body in (
        b"ffffffff\r\n" + b"x" * (most + 1),
        b"1\r\nx\r\n" * (http_requests.MOST_CHUNKS + 1),
        b"%x\r\n%b\r\n" % (most, b"x" * most) + b"1\r\nx\r\n",
    ):
        client = world.connect(head)
        for start in range(0, len(body), 50_000):
            world.send(client, body[start : start + 50_000])
        assert status(client) == 413
        assert len(client.protocol._reader._body) <= most + 50_000
    assert not world.requests


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(world: World) -> None:
    head = get(b"/", b"Expect: 100-Continue", b"Content-Length: 3", method=b"POST")
    asks = world.connect(head)
    assert asks.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.send(asks, b"abc")
    assert statuses(asks) == [100, 200]
    sends = world.connect(head + b"abc")
    assert statuses(sends) == [200]
    assert [each.body for each in world.requests] == [b"abc"] * 2


def test_a_body_that_does_not_come_is_not_waited_for(world: World) -> None:
    client = world.connect(get(b"/", b"Content-Length: 9", method=b"POST"))
    for _ in range(5):
        world.send(client, b"x")
        world.clock.advance(2)
    assert client.how_closed == "aborted"
    assert not world.requests


# -- answers


def test_a_head_request_gets_no_body(world: World) -> None:
    world.answers["/"] = lambda: Response(200, b"x" * 1000, headers=(("ETag", '"1"'),))
    client = world.connect(get(b"/", method=b"HEAD") + GET)
    client.read_all()
    assert b"Content-Length: 1000\r\n" in client.written
    assert b'ETag: "1"\r\n' in client.written
    assert client.written.endswith(b"\r\n\r\n")
    world.turn()
    client.read_all()
    assert statuses(client) == [200, 200]
    assert client.written.endswith(b"x" * 1000)


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_content_says_nothing_of_it(world: World, code: int) -> None:
    world.answers["/"] = lambda: Response(code, headers=(("ETag", '"1"'),))
    client = world.connect(GET)
    client.read_all()
    assert status(client) == code
    assert b"content-" not in client.written.lower()
    world.send(client, GET)
    client.read_all()
    assert statuses(client) == [code, code]


def test_a_handler_that_fails_is_logged_and_answered_with_500(
    world: World, logged_failures: list[Failure]
) -> None:
    def fail() -> Answer:
        raise RuntimeError("a mistake")

    later: Deferred[Response] = Deferred()
    world.answers.update({"/": fail, "/later": lambda: later})
    clients = [world.connect(get(path)) for path in (b"/", b"/later")]
    later.errback(RuntimeError("a mistake"))
    for client in clients:
        client.read_all()
        assert status(client) == 500
        assert b"mistake" not in client.written
    assert len(logged_failures) == 2
    logged_failures.clear()


@pytest.mark.parametrize(
    "headers", [(("X", "a\r\nSet-Cookie: b"),), (("A b", "c"),), (("X", "\u20ac"),)]
)
def test_headers_that_are_none_are_not_sent(
    world: World, headers: Any, logged_failures: list[Failure]
) -> None:
    events = Events()
    world.answers["/"] = lambda: Response(200, b"x", headers=headers)
    world.answers["/events"] = lambda: Response(200, events, headers=headers)
    for path in (b"/", b"/events"):
        client = world.connect(get(path))
        client.read_all()
        assert statuses(client) == [500]
        assert b"Set-Cookie" not in client.written
    assert events.stopped == 1
    assert len(logged_failures) == 2
    logged_failures.clear()


def test_an_answer_is_not_waited_for_for_ever(world: World) -> None:
    cancelled: list[object] = []
    world.answers["/"] = lambda: Deferred(cancelled.append)
    client = world.connect(GET)
    world.clock.advance(http_server.ANSWER_SECONDS)
    client.read_all()
    assert (status(client), len(cancelled)) == (503, 1)
    world.send(client, get(b"/other"))
    client.read_all()
    assert statuses(client) == [503, 200]


def test_nothing_is_done_for_a_client_that_has_left(world: World) -> None:
    cancelled: list[object] = []
    world.answers["/"] = lambda: Deferred(cancelled.append)
    client = world.connect(GET)
    assert not client.is_paused, "its leave would not be noticed"
    client.protocol.connectionLost(None)
    assert len(cancelled) == 1
    assert not world.factory.clients


# -- a client that ends its side


def test_a_client_that_ends_its_side_gets_all_its_answers(world: World) -> None:
    found: Deferred[Response] = Deferred()
    world.answers["/later"] = lambda: found
    client = world.connect(get(b"/later") + GET)
    client.protocol.readConnectionLost()
    found.callback(Response(200, b"one"))
    for _ in range(3):
        client.read_all()
        world.turn()
    assert statuses(client) == [200, 200]
    assert client.how_closed == "closed"


def test_a_client_that_ends_its_side_amid_a_request_is_left(world: World) -> None:
    for sent in (b"", b"GET /", get(b"/", b"Content-Length: 2", method=b"POST") + b"x"):
        client = world.connect(sent)
        client.protocol.readConnectionLost()
        world.turn()
        assert client.how_closed is not None
    assert not world.factory.clients


def test_a_client_that_ends_its_side_after_its_last_answer_is_closed(world: World) -> None:
    client = world.connect(get(b"/", b"Connection: close"))
    client.read_all()
    assert (client.has_ended, client.how_closed) == (True, None)
    client.protocol.readConnectionLost()
    assert client.how_closed == "closed"


# -- streams


def test_a_stream_is_written_as_it_happens(world: World) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events"))
    assert b"Transfer-Encoding: chunked\r\n" in client.written
    events.write(b"one")
    events.write(b"")
    assert client.written.endswith(b"3\r\none\r\n")
    world.clock.advance(10_000)  # it may take as long as it likes
    assert events.writer is not None
    events.writer.finish()
    client.read_all()
    assert client.written.endswith(b"3\r\none\r\n0\r\n\r\n")
    world.send(client, GET)
    client.read_all()
    assert statuses(client) == [200, 200]
    events.writer.write(b"nothing more")
    assert b"nothing more" not in client.written
    assert events.stopped == 0


def test_a_stream_for_http_1_0_ends_with_the_connection(world: World) -> None:
    events = streaming(world)
    client = world.connect(b"GET /events HTTP/1.0\r\n\r\n")
    events.write(b"one")
    assert events.writer is not None
    events.writer.finish()
    client.read_all()
    assert body_of(client) == b"one"
    assert client.has_ended


def test_a_head_request_starts_no_stream(world: World) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events", method=b"HEAD"))
    client.read_all()
    assert (events.writer, events.stopped) == (None, 1)
    assert client.written.endswith(b"\r\n\r\n")


def test_a_slow_client_is_told_of_and_resumed(world: World) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events"))
    assert events.writer is not None
    assert not events.writer.is_slow
    events.write(b"x" * 70_000)
    assert events.writer.is_slow
    world.clock.advance(http_server.ANSWER_SECONDS - 1)
    client.read_all()
    assert (events.writer.is_slow, events.resumed) == (False, 1)
    world.clock.advance(http_server.ANSWER_SECONDS)
    assert client.how_closed is None


def test_a_client_that_does_not_read_its_stream_loses_it(world: World) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events"))
    events.write(b"x" * 70_000)
    world.clock.advance(http_server.ANSWER_SECONDS)
    assert (client.how_closed, events.stopped) == ("aborted", 1)
    assert not world.factory.streams


def test_what_is_written_to_a_slow_client_is_bounded(world: World) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events"))
    for _ in range(2 * writing.MOST_UNSENT_BYTES // 1000):
        events.write(b"x" * 1000)
    assert (client.how_closed, events.stopped) == ("aborted", 1)
    assert client.unread < writing.MOST_UNSENT_BYTES + (1 << 17)


@pytest.mark.parametrize("leave", ["connectionLost", "readConnectionLost", "stop"])
def test_a_stream_is_stopped_once(world: World, leave: str) -> None:
    events = streaming(world)
    client = world.connect(get(b"/events"))
    if leave == "stop":
        world.factory.close()
    elif leave == "connectionLost":
        client.protocol.connectionLost(None)
    else:
        client.protocol.readConnectionLost()
        assert client.how_closed == "aborted"
    world.factory.close()
    assert events.stopped == 1
    events.write(b"x")
    assert not world.factory.streams


def test_a_stream_that_cannot_start_is_logged(
    world: World, logged_failures: list[Failure], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(events: Events, writer: StreamWriter) -> None:
        raise RuntimeError("a mistake")

    streaming(world)
    monkeypatch.setattr(Events, "start", fail)
    assert world.connect(get(b"/events")).how_closed == "aborted"
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_a_stream_may_end_at_once(world: World) -> None:
    class Short(Events):
        def start(self, writer: StreamWriter) -> None:
            writer.write(b"all")
            writer.finish()

    world.answers["/"] = lambda: Response(200, Short())
    client = world.connect(GET * 3)
    for _ in range(3):
        client.read_all()
        world.turn()
    client.read_all()
    assert statuses(client) == [200] * 3


def test_streams_have_places_of_their_own(world: World) -> None:
    streams = [streaming(world, f"/{number}") for number in range(3)]
    watching = [world.connect(get(b"/%d" % number)) for number in range(3)]
    for _ in range(3):
        for _ in range(world.factory.limits.clients):
            world.connect(b"GET /")
        world.clock.advance(http_server.GRACE_SECONDS)
    for events, client in zip(streams, watching, strict=True):
        events.write(b"still there")
        assert b"still there" in client.written


def test_there_are_so_many_streams(world: World) -> None:
    world.factory.limits = Limits(clients=8, streams=2, idle_seconds=1)
    streams = [streaming(world, f"/{number}") for number in range(3)]
    clients = [world.connect(get(b"/%d" % number)) for number in range(3)]
    clients[2].read_all()
    assert [status(each) for each in clients] == [200, 200, 503]
    assert b"Retry-After: " in clients[2].written
    assert [each.stopped for each in streams] == [0, 0, 1]
    clients[0].protocol.connectionLost(None)
    assert status(world.connect(get(b"/2"))) == 200


# -- the stop


def test_a_stop_sends_the_ends_of_streams_and_answers(world: World) -> None:
    events = streaming(world)
    watching = world.connect(get(b"/events"))
    world.answers["/long"] = lambda: Response(200, b"x" * 200_000)
    reading, idle = world.connect(get(b"/long")), world.connect(GET)
    idle.read_all()
    half = world.connect(b"GET /")
    events.write(b"one")
    assert events.writer is not None
    events.writer.finish()  # as its service stops first
    left: list[None] = []
    world.factory.close().addCallback(left.append)
    assert half.how_closed == "aborted"
    for client in (watching, reading, idle):
        client.read_all()
        assert client.how_closed == "closed"
    assert watching.written.endswith(b"3\r\none\r\n0\r\n\r\n")
    assert len(body_of(reading)) == 200_000
    for client in (watching, reading, idle):
        assert not left
        client.protocol.connectionLost(None)
    assert left == [None]


def test_a_stop_waits_for_nobody_long(world: World) -> None:
    world.answers["/long"] = lambda: Response(200, b"x" * 200_000)
    client = world.connect(get(b"/long"))
    left: list[None] = []
    world.factory.close().addCallback(left.append)
    client.protocol.transport.producer.resumeProducing()  # it takes a piece, and then no more
    world.clock.advance(http_server.LINGER_SECONDS)
    assert left == [None]
    assert not world.clock.getDelayedCalls()


# -- anything


_PIECES = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"/",
        b"/later",
        b"/events",
        b"http://x/",
        b" HTTP/1.1\r\nHost: x\r\n",
        b" HTTP/1.0\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 99999\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"A: " + b"b" * 9000,
        GET,
        get(b"/", method=b"HEAD"),
        get(b"/events"),
        get(b"/later"),
        get(b"/", b"Content-Length: 3", method=b"POST") + b"abc",
        get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n",
    ]
)


class Short(Events):
    """A stream of two events."""

    def start(self, writer: StreamWriter) -> None:
        writer.write(b"one")
        writer.write(b"two")
        writer.finish()


def answers_to(chunks: list[bytes]) -> tuple[bytes, list[Request], bool]:
    """What a client gets that sends chunks, and takes what comes; without the dates."""
    world = World()
    world.answers["/events"] = lambda: Response(200, Short())

    def later() -> Answer:
        answer: Deferred[Response] = Deferred()
        world.clock.callLater(0, answer.callback, Response(200, b"later"))
        return answer

    world.answers["/later"] = later
    client = world.connect()
    queue = [each for each in chunks if each]
    for _ in range(10 + 4 * sum(map(len, chunks))):
        if queue and not client.is_paused and client.how_closed is None:
            client.protocol.dataReceived(queue.pop(0))
        world.turn()
        client.read_all()
        if not queue and not client.protocol._is_queued and not client.protocol.is_waiting:
            break
    is_over = client.has_ended or client.how_closed is not None
    other = world.connect(GET)
    other.read_all()
    assert status(other) == 200
    requests = world.requests[:-1]
    world.close()
    return re.sub(rb"Date: [^\r]*\r\n", b"", bytes(client.written)), requests, is_over


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.one_of(_PIECES, st.binary(max_size=40)), max_size=12), st.data())
@example([GET, b"\r\n", get(b"/events"), GET], None)
def test_any_bytes_get_the_same_answers_in_whatever_pieces(
    pieces: list[bytes], data: st.DataObject | None
) -> None:
    whole = b"".join(pieces)
    if data is None:
        chunks = [whole[each : each + 1] for each in range(len(whole))]
    else:
        cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
        edges = [0, *sorted(cuts), len(whole)]
        chunks = [whole[a:b] for a, b in pairwise(edges)]
    assert answers_to([whole]) == answers_to(chunks)
