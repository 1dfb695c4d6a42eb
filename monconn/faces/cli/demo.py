"""``monconn demo``: a backend, a few devices, and monconn between them."""

from __future__ import annotations

import random
from typing import Any

import attrs
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from monconn.addresses import TcpAddress
from monconn.config.config import Config, ServiceConfig
from monconn.faces.cli import render
from monconn.faces.cli.logs import TextLog
from monconn.faces.cli.run import install_reactor, run
from monconn.monitor.monitor import Monitor
from monconn.net.listen import open_listener
from monconn.policy.policy import Policy
from monconn.run.application import Application

_TABLE_WIDTH = 100
_TABLE_SECONDS = 5.0
_FIRST_TABLE_SECONDS = 1.0
_WELCOME = """
monconn demo: a small backend on {backend}, monconn in front of it on {listen},
and simulated devices that talk through it, each from an address of its own:

{devices}

The table below shows the live connections every {seconds:.0f} s; each connection that ends gets
a line that says why. Try, in a second terminal:

  {hello:<50} a connection of your own
  monconn -p :2222=127.0.0.1:22                      watch your SSH server on port 2222
  monconn -p :8080=127.0.0.1:80 -p unix:/tmp/s=:80   several services at once
  monconn check FILE                                 validate a configuration file

Ctrl-C ends it.

"""


@attrs.frozen
class _Device:
    """What a simulated device does."""

    address: str
    """Where it connects from: the table then tells who is who."""
    description: str
    every_seconds: float
    """Between two readings that it sends; 0 = says nothing."""
    size: int
    """Bytes of a reading, more or less."""
    comes_every_seconds: float = 0.0
    """Between two connections; 0 = connects once."""
    stays_seconds: float = 0.0
    """Until it leaves; 0 = stays."""
    resets: bool = False
    """Whether it leaves by a reset."""


_DEVICES = (
    _Device("127.0.0.11", "steady: a reading every second", 1.0, 60),
    _Device("127.0.0.12", "chatty: bigger readings, faster", 0.3, 1500),
    _Device("127.0.0.13", "silent: connects and says nothing", 0.0, 0),
    _Device("127.0.0.14", "visitor: comes, talks and leaves, every 4 s", 0.5, 200, 4.0, 2.5),
    _Device("127.0.0.15", "crasher: is cut off by a reset, every 7 s", 1.0, 100, 7.0, 5.0, True),
)


def run_demo(*, debug: bool = False) -> int:
    """Run the demonstration until a signal stops it.

    :returns: the exit status.
    """
    install_reactor()
    backend = open_listener(TcpAddress("127.0.0.1", 0))
    service = ServiceConfig(
        name="demo",
        listen=TcpAddress("127.0.0.1", 0),
        backend=TcpAddress("127.0.0.1", backend.getsockname()[1]),
        policy=Policy(wait_timeout=0.5),  # most devices would never leave by themselves
    )

    def prepare(app: Application, reactor: Any, log: TextLog) -> None:
        reactor.adoptStreamPort(backend.fileno(), backend.family, _Backend())
        backend.close()
        monitor = app.registry.get("demo")
        host, _, port = monitor.listen.rpartition(":")
        log.write(_welcome(monitor, f"printf 'hello\\n' | nc -N {host} {port}"))
        _start_devices(reactor, host, int(port))
        reactor.callLater(_FIRST_TABLE_SECONDS, _start_table, reactor, monitor, log)

    return run(Config(services=(service,)), debug=debug, prepare=prepare)


def _welcome(monitor: Monitor, hello: str) -> str:
    devices = "\n".join(f"  {device.address}  {device.description}" for device in _DEVICES)
    return _WELCOME.format(
        backend=monitor.backend,
        listen=monitor.listen,
        devices=devices,
        seconds=_TABLE_SECONDS,
        hello=hello,
    )


def _start_table(reactor: Any, monitor: Monitor, log: TextLog) -> None:
    def show() -> None:
        now = monitor.clock.seconds()
        rows = [record.snapshot(now) for record in monitor.connections()]
        log.write(render.table(render.OF_THE_DEMO, rows, log.is_terminal, _TABLE_WIDTH))

    _repeat(reactor, _TABLE_SECONDS, show)


def _start_devices(reactor: Any, host: str, port: int) -> None:
    for device in _DEVICES:
        endpoint = TCP4ClientEndpoint(reactor, host, port, bindAddress=(device.address, 0))
        if device.comes_every_seconds:
            _repeat(reactor, device.comes_every_seconds, _connect, reactor, endpoint, device)
        else:
            _connect(reactor, endpoint, device)


def _connect(reactor: Any, endpoint: TCP4ClientEndpoint, device: _Device) -> None:
    connecting = endpoint.connect(_Devices(reactor, device))
    connecting.addErrback(lambda failure: None)  # we are stopping


def _repeat(reactor: Any, seconds: float, call: Any, *args: Any) -> LoopingCall:
    calls = LoopingCall(call, *args)
    calls.clock = reactor
    calls.start(seconds)
    return calls


class _Answering(Protocol):
    """The backend: answers each reading with a short word."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"ok %d\n" % len(data))


class _Backend(Factory):
    protocol = _Answering
    noisy = False


class _Sending(Protocol):
    """A device's connection."""

    transport: Any

    def __init__(self, reactor: Any, device: _Device) -> None:
        self._reactor = reactor
        self._device = device
        self._readings: LoopingCall | None = None

    def connectionMade(self) -> None:
        if self._device.every_seconds:
            self._readings = _repeat(self._reactor, self._device.every_seconds, self._send)
        if self._device.stays_seconds:
            self._reactor.callLater(self._device.stays_seconds, self._leave)

    def _send(self) -> None:
        size = max(1, int(random.gauss(self._device.size, self._device.size / 4)))
        self.transport.write(random.randbytes(size).hex()[: size - 1].encode() + b"\n")

    def _leave(self) -> None:
        if self._device.resets:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        if self._readings is not None:
            self._readings.stop()


class _Devices(Factory):
    noisy = False

    def __init__(self, reactor: Any, device: _Device) -> None:
        self._reactor = reactor
        self._device = device

    def buildProtocol(self, addr: object) -> _Sending:
        return _Sending(self._reactor, self._device)
