"""``monconn demo``: a backend, a few devices, and monconn between them."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from monconn.addresses import TcpAddress
from monconn.app import App
from monconn.cli.logs import TextLog
from monconn.cli.render import connections_table
from monconn.cli.run import run
from monconn.config import Config, ServiceConfig
from monconn.forward.accept import open_listener

_TABLE_SECONDS = 5.0
_WELCOME = """
monconn demo: a small backend on {backend}, monconn in front of it on {listen},
and five simulated devices that talk through it:

  steady     sends a reading every second          silent     connects and says nothing
  chatty     sends bigger readings, faster         visitor    comes, talks and leaves, every 4 s
  crasher    is cut off by a reset, every 7 s

The table below shows the live connections every {seconds:.0f} s; each connection that ends gets
a line that says why. Try, in a second terminal:

  printf 'hello\\n' | nc -N {host} {port}                a connection of your own
  monconn -p :2222=127.0.0.1:22                        watch your SSH server on port 2222
  monconn -p :8080=127.0.0.1:80 -p unix:/tmp/s=:80     several services at once
  monconn check FILE                                   validate a configuration file

Ctrl-C ends it.
"""


def run_demo(*, debug: bool = False) -> int:
    """Run the demonstration until a signal stops it.

    :returns: the exit status.
    """
    backend = open_listener(TcpAddress("127.0.0.1", 0))
    backend_port = backend.getsockname()[1]
    config = Config(
        services=(
            ServiceConfig(
                name="demo",
                listen=TcpAddress("127.0.0.1", 0),
                backend=TcpAddress("127.0.0.1", backend_port),
                wait_timeout=0.5,  # the devices would never end by themselves
            ),
        )
    )

    def prepare(app: App, reactor: Any, log: TextLog) -> None:
        reactor.adoptStreamPort(backend.fileno(), backend.family, _Backend())
        backend.close()
        monitor = app.registry.get("demo")
        host, _, port = monitor.listen.rpartition(":")
        log.write(
            _WELCOME.format(
                backend=monitor.backend,
                listen=monitor.listen,
                host=host,
                port=port,
                seconds=_TABLE_SECONDS,
            )
            + "\n"
        )
        _start_devices(TCP4ClientEndpoint(reactor, host, int(port)), reactor)
        table = LoopingCall(
            lambda: log.write(
                connections_table(monitor.connections(), monitor.clock.seconds(), log.is_terminal)
            )
        )
        table.clock = reactor
        reactor.callLater(1.0, table.start, _TABLE_SECONDS)

    return run(config, debug=debug, prepare=prepare)


class _Answering(Protocol):
    """The backend: answers each reading with a short word."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"ok %d\n" % len(data))


class _Backend(Factory):
    protocol = _Answering
    noisy = False


class _Device(Protocol):
    """A device: sends readings while it is connected.

    :param every_seconds: between two readings; 0 = says nothing.
    :param size: bytes of a reading.
    :param stays_seconds: before it leaves; 0 = stays.
    :param resets: whether it leaves by a reset.
    """

    def __init__(
        self, every_seconds: float, size: int, stays_seconds: float = 0.0, resets: bool = False
    ) -> None:
        self._every_seconds = every_seconds
        self._size = size
        self._stays_seconds = stays_seconds
        self._resets = resets
        self._sending = LoopingCall(self._send)

    def connectionMade(self) -> None:
        from twisted.internet import reactor

        if self._every_seconds:
            self._sending.start(self._every_seconds)
        if self._stays_seconds:
            reactor.callLater(self._stays_seconds, self._go)

    def _send(self) -> None:
        size = max(1, int(random.gauss(self._size, self._size / 4)))
        self.transport.write(random.randbytes(size).hex()[: size - 1].encode() + b"\n")

    def _go(self) -> None:
        if self._resets:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        if self._sending.running:
            self._sending.stop()


def _start_devices(endpoint: TCP4ClientEndpoint, reactor: Any) -> None:
    def connect(*args: Any, **kwargs: Any) -> None:
        factory = Factory.forProtocol(lambda: _Device(*args, **kwargs))
        factory.noisy = False
        endpoint.connect(factory).addErrback(lambda failure: None)  # we are stopping

    connect(1.0, 60)
    connect(0.3, 1500)
    connect(0.0, 0)
    for every_seconds, device in (
        (4.0, {"every_seconds": 0.5, "size": 200, "stays_seconds": 2.5}),
        (7.0, {"every_seconds": 1.0, "size": 100, "stays_seconds": 5.0, "resets": True}),
    ):
        calls = LoopingCall(connect, **device)
        calls.clock = reactor
        calls.start(every_seconds)
