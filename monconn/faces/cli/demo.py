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
from monconn.ops.rows import ConnectionRow
from monconn.policy.policy import Policy
from monconn.run.application import Application

_COLUMNS = ("id", "client", "state", "up", "down", "age_seconds", "idle_seconds")
_TABLE_SECONDS = 5.0
_FIRST_TABLE_SECONDS = 1.0
_WELCOME = """
monconn demo: a small backend on {backend}, monconn in front of it on {listen},
and simulated devices that connect through it, each from an address of its own:

{devices}

Live connections are listed every {seconds:.0f} s, and each connection that ends gets a line that
says why. Try, in a second terminal:

  {hello:<41} a connection of your own
  monconn list idle:2s..                    who says nothing
  monconn list --closed client:127.0.0.15   how the crasher's connections ended
  monconn top                               all of it on the whole screen
  monconn -p :2222=127.0.0.1:22             watch your SSH server on port 2222

In a clone whose .venv is not active, write .venv/bin/monconn.

Ctrl-C ends it.

"""


@attrs.frozen
class _Device:
    """The behaviour of a simulated device.

    :param address: the address that it connects from, which tells devices apart in the table.
    :param send_seconds: between two readings that it sends; 0: it sends nothing.
    :param size: of a reading, in bytes, on average.
    :param connect_seconds: between two connections; 0: it connects once.
    :param stay_seconds: the length of a connection; 0: it never ends.
    :param resets: whether it ends a connection by a reset.
    """

    address: str
    description: str
    send_seconds: float
    size: int
    connect_seconds: float = 0.0
    stay_seconds: float = 0.0
    resets: bool = False


_DEVICES = (
    _Device("127.0.0.11", "steady: a reading every second", 1.0, 60),
    _Device("127.0.0.12", "chatty: bigger readings, faster", 0.3, 1500),
    _Device("127.0.0.13", "silent: connects and sends nothing", 0.0, 0),
    _Device("127.0.0.14", "visitor: connects, sends and leaves, every 4 s", 0.5, 200, 4.0, 2.5),
    _Device("127.0.0.15", "crasher: ends by a reset, every 7 s", 1.0, 100, 7.0, 5.0, True),
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
        policy=Policy(wait_timeout=0.5),  # at a stop: most devices never end their connection
    )

    def prepare(app: Application, reactor: Any, log: TextLog) -> None:
        reactor.adoptStreamPort(backend.fileno(), backend.family, _BackendFactory())
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
    columns = ConnectionRow.columns(*_COLUMNS)

    def write_table() -> None:
        now = monitor.clock.seconds()
        rows = [record.snapshot(now) for record in monitor.connections()]
        log.write(f"\n{render.table(columns, rows, coloured=log.is_terminal)}\n")

    _repeat(reactor, _TABLE_SECONDS, write_table)


def _start_devices(reactor: Any, host: str, port: int) -> None:
    for device in _DEVICES:
        endpoint = TCP4ClientEndpoint(reactor, host, port, bindAddress=(device.address, 0))
        if device.connect_seconds:
            _repeat(reactor, device.connect_seconds, _connect, reactor, endpoint, device)
        else:
            _connect(reactor, endpoint, device)


def _connect(reactor: Any, endpoint: TCP4ClientEndpoint, device: _Device) -> None:
    connecting = endpoint.connect(_DeviceFactory(reactor, device))
    connecting.addErrback(lambda failure: None)  # at a stop nothing listens


def _repeat(reactor: Any, seconds: float, call: Any, *args: Any) -> LoopingCall:
    calls = LoopingCall(call, *args)
    calls.clock = reactor
    calls.start(seconds)
    return calls


class _BackendProtocol(Protocol):
    """The backend: answers each reading with its length."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"ok %d\n" % len(data))


class _BackendFactory(Factory):
    protocol = _BackendProtocol
    noisy = False


class _DeviceProtocol(Protocol):
    """A device's connection."""

    transport: Any

    def __init__(self, reactor: Any, device: _Device) -> None:
        self._reactor = reactor
        self._device = device
        self._readings: LoopingCall | None = None

    def connectionMade(self) -> None:
        if self._device.send_seconds:
            self._readings = _repeat(self._reactor, self._device.send_seconds, self._send)
        if self._device.stay_seconds:
            self._reactor.callLater(self._device.stay_seconds, self._leave)

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


class _DeviceFactory(Factory):
    noisy = False

    def __init__(self, reactor: Any, device: _Device) -> None:
        self._reactor = reactor
        self._device = device

    def buildProtocol(self, addr: object) -> _DeviceProtocol:
        return _DeviceProtocol(self._reactor, self._device)
