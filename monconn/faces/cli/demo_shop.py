"""The web shop of ``monconn demo``: many short connections of HTTP, now more and now fewer."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

VISITORS = tuple(f"127.0.0.{number}" for number in range(51, 59))
CRAWLER = "127.0.0.66"
"""A client that the shop's configuration keeps out; it asks again and again."""
_TICK_SECONDS = 0.25
_WAVE_SECONDS = 60.0
_MOST_A_SECOND = 3.0
_RUSH_EVERY, _RUSH_SECONDS, _RUSH_A_SECOND = 45.0, 2.0, 12.0
_CRAWLER_EVERY = 15.0
_PATHS = {
    "/": 20,
    "/item/7": 20,
    "/item/12": 20,
    "/search?q=pump": 10,
    "/picture/7.jpg": 10,
    "/film": 4,
    "/slow": 4,
    "/broken": 1,
}
"""What is asked for, and how often beside the others."""
_IMPATIENT_ONE_IN = 25
_SLOW_SECONDS = 4.0
_PICTURE_BYTES = 60_000
_FILM_SECONDS, _FILM_PART_BYTES = 15.0, 16_384
_LEAVES_AFTER_BYTES = 8_000


class Shop(Protocol):
    """The backend, for one connection: answers one request, and closes."""

    reactor: ClassVar[Any]
    transport: Any

    def __init__(self) -> None:
        self._request = b""

    def dataReceived(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" not in self._request:
            return
        path = self._request.split(b" ", 2)[1]
        if path == b"/broken":
            self.transport.abortConnection()
        elif path == b"/slow":
            self.reactor.callLater(_SLOW_SECONDS, self._answer, 2_000)
        elif path == b"/film":
            self._film(self.reactor.seconds() + _FILM_SECONDS)
        else:
            self._answer(_PICTURE_BYTES if b"picture" in path else random.randint(500, 9_000))

    def _answer(self, length: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + bytes(length))
        self.transport.loseConnection()

    def _film(self, end: float) -> None:
        if self.reactor.seconds() < end:
            self.transport.write(bytes(random.randrange(_FILM_PART_BYTES)))
            self.reactor.callLater(_TICK_SECONDS, self._film, end)
        else:
            self.transport.loseConnection()


class _Visit(Protocol):
    """A client's connection: one request; a few do not wait for all of the answer."""

    transport: Any

    def __init__(self) -> None:
        self._received = 0
        self._is_impatient = random.randrange(_IMPATIENT_ONE_IN) == 0

    def connectionMade(self) -> None:
        path = "/picture/7.jpg"
        if not self._is_impatient:
            (path,) = random.choices([*_PATHS], [*_PATHS.values()])
        self.transport.write(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._is_impatient and self._received > _LEAVES_AFTER_BYTES:
            self.transport.abortConnection()


def shop_factory(reactor: Any) -> Any:
    """The shop itself, for its listener."""
    Shop.reactor = reactor
    return _quiet(Shop)


class Visitors:
    """The shop's clients, who come and go.

    :param host: where the shop is reached.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._reactor = reactor
        self._where = (host, port)
        self._factory = _quiet(_Visit)
        self._due = 0.0

    def start(self) -> None:
        """Visit the shop from now on, until the reactor stops."""
        self._began = self._reactor.seconds()
        for seconds, call in ((_TICK_SECONDS, self._come), (_CRAWLER_EVERY, self._crawl)):
            looping = LoopingCall(call)
            looping.clock = self._reactor
            looping.start(seconds)

    def _come(self) -> None:
        self._due += self._a_second() * _TICK_SECONDS * random.uniform(0.5, 1.5)
        while self._due >= 1:
            self._due -= 1
            self._connect(random.choice(VISITORS))

    def _a_second(self) -> float:
        """How many come now: more and fewer in turn, and many at once now and then."""
        seconds = self._reactor.seconds() - self._began
        wave = (1 - math.cos(2 * math.pi * seconds / _WAVE_SECONDS)) / 2
        is_rush = seconds % _RUSH_EVERY > _RUSH_EVERY - _RUSH_SECONDS
        return 0.4 + wave * _MOST_A_SECOND + (_RUSH_A_SECOND if is_rush else 0.0)

    def _crawl(self) -> None:
        self._connect(CRAWLER)

    def _connect(self, address: str) -> None:
        endpoint = TCP4ClientEndpoint(self._reactor, *self._where, bindAddress=(address, 0))
        endpoint.connect(self._factory).addErrback(lambda failure: None)  # at a stop


def _quiet(protocol: type[Protocol]) -> Any:
    factory: Any = Factory.forProtocol(protocol)
    factory.noisy = False
    return factory
