"""``monconn demo``: an MQTT broker, a few devices, and monconn between them.

Each device does one thing that happens to real ones. That one vanishes, and one's network loses
packets, is real as well where the kernel lets us: the device's own socket drops what comes in.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import shlex
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from monconn.addresses import TcpAddress
from monconn.config.config import Config, ServiceConfig
from monconn.config.sections import DevicesConfig
from monconn.errors import ControlError, ListenError
from monconn.faces.cli import demo_mqtt as mqtt
from monconn.faces.cli.logs import TextLog
from monconn.faces.cli.run import install_reactor, run
from monconn.faces.control import instances
from monconn.monitor.monitor import Monitor
from monconn.net.listen import open_listener
from monconn.policy.policy import Policy
from monconn.policy.sides import Sides
from monconn.run.application import Application

_NAME = "demo"
_WELCOME_SECONDS = 0.3
_STEADY_DEVICE, _SILENT_DEVICE, _SLOW_DEVICE = "127.0.0.11", "127.0.0.13", "127.0.0.15"
_CRASHING_DEVICE = "127.0.0.14"
_LISTEN_PORT, _BROKER_PORT = 1883, 11883
"""Where these are free: the first is MQTT's own, by which Wireshark knows what it is shown."""
_WELCOME = """
monconn demo: {count} simulated devices, an MQTT broker, and monconn between them. Each
line below is a connection that has ended, with the reason, an alarm, or a client
that a rule on trial (dry_run) would have refused.

{devices}

Try, in a second terminal:

{commands}

A connection of your own:   nc -N {host} {port}
Then watch one of your own: {monconn} -p :2222=127.0.0.1:22
{others}Ctrl-C ends it.

"""
_COMMANDS = (
    ("list", "who is connected"),
    ("list --closed", "who was, and why each ended"),
    ("devices", "how often each sends, and its alarms"),
    ("device valve-4", "the story of one"),
    ("explain client_reset", "what a reason means"),
    ("why {crashing}", "what a rule on trial (dry_run) says of valve-4"),
    ("show {slow_id}", "what is slow about 127.0.0.15"),
    ("tap {steady_id}", "the bytes of pump-1, as they come"),
    ("recording {silent_id}", "the bytes of pump-3, also when it has gone"),
    ("top", "all of it on the whole screen"),
)
_DEVICES_CONFIG = DevicesConfig(storm_connections=5, storm_within=30.0)
"""A storm is seen soon, and is one as long as the device crashes every few seconds."""
_RULE_ON_TRIAL: dict[str, Any] = {"per_ip_rate": "8/m burst 4", "dry_run": ["per_ip_rate"]}
"""What only a device that crashes again and again would feel."""
_UNREACHABLE_SECONDS = 8.0
_IDLE_SECONDS = 20.0


def run_demo(*, debug: bool = False) -> int:
    """Run the demonstration until a signal stops it.

    :returns: the exit status.
    """
    install_reactor()
    backend = _open(_BROKER_PORT)
    listener = _open(_LISTEN_PORT)
    port = listener.getsockname()[1]
    listener.close()
    drops = _may_drop_packets()
    limits: dict[str, Any] = (
        {"unreachable_timeout": Sides(client=_UNREACHABLE_SECONDS, backend=0.0)}
        if drops
        else {"max_idle": _IDLE_SECONDS}
    )
    service = ServiceConfig(
        name=_NAME,
        listen=TcpAddress("127.0.0.1", port),
        backend=TcpAddress("127.0.0.1", backend.getsockname()[1]),
        # wait_timeout is for the stop: most devices never end their connection.
        policy=Policy.of(
            wait_timeout=0.5, decode="mqtt", recorder=True, **_RULE_ON_TRIAL, **limits
        ),
    )
    kinds = _KINDS_THAT_DROP if drops else _KINDS

    def prepare(app: Application, reactor: Any, log: TextLog) -> None:
        reactor.adoptStreamPort(backend.fileno(), backend.family, _BrokerFactory(reactor))
        backend.close()
        monitor = app.registry.get(_NAME)
        host, _, port = monitor.listen.rpartition(":")
        for number, kind in enumerate(kinds):
            _Device(reactor, kind, _address(number), host, int(port)).connect()
        # Once they are connected, so that it can name a connection.
        reactor.callLater(_WELCOME_SECONDS, lambda: log.write(_welcome(monitor, kinds)))

    config = Config(services=(service,), devices=_DEVICES_CONFIG)
    return run(config, debug=debug, prepare=prepare)


def _open(port: int) -> socket.socket:
    """A listener on a port, or on any if that is taken."""
    try:
        return open_listener(TcpAddress("127.0.0.1", port))
    except ListenError:
        return open_listener(TcpAddress("127.0.0.1", 0))


def _address(number: int) -> str:
    return f"127.0.0.{11 + number}"


def _welcome(monitor: Monitor, kinds: Sequence[type[_DeviceProtocol]]) -> str:
    host, _, port = monitor.listen.rpartition(":")
    monconn = typed_command()
    devices = [
        f"  {_address(n)}  {kind.name:8}  {kind.does:9} {kind.how}" for n, kind in enumerate(kinds)
    ]
    by_ip = {each.client_ip: each.id for each in monitor.connections()}
    ids = {
        "steady_id": by_ip.get(_STEADY_DEVICE, "ID"),
        "silent_id": by_ip.get(_SILENT_DEVICE, "ID"),
        "slow_id": by_ip.get(_SLOW_DEVICE, "ID"),
        "crashing": _CRASHING_DEVICE,
    }
    commands = [(f"{monconn} {what.format(**ids)}", why) for what, why in _COMMANDS]
    width = max(len(what) for what, _ in commands)
    return _WELCOME.format(
        count=len(devices),
        devices="\n".join(devices),
        commands="\n".join(f"  {what:{width}}  {why}" for what, why in commands),
        host=host,
        port=port,
        monconn=monconn,
        others=f"Others run, too: add --name {_NAME} to each command.\n" if _others() else "",
    )


def _others() -> bool:
    """Whether other monconns of this user run, so that one must be chosen."""
    try:
        return any(each.pid != os.getpid() for each in instances.running())
    except ControlError:
        return False


def typed_command() -> str:
    """This command as it must be typed in a shell: by its path, unless it is found without."""
    path = sys.argv[0]
    found = shutil.which("monconn")
    if found is not None and os.path.exists(path) and os.path.samefile(found, path):
        return "monconn"
    relative = os.path.relpath(path)
    if relative.startswith(".."):
        return shlex.quote(os.path.abspath(path))
    return shlex.quote(relative if "/" in relative else f"./{relative}")


# -- a kernel that drops what comes in

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
# Of classic BPF (linux/filter.h): the operation, two jumps, and a value. What a filter returns is
# how many bytes of a packet remain; a packet of none is dropped before TCP sees it.
_Instruction = tuple[int, int, int, int]
_RETURN, _LOAD_WORD, _JUMP_IF_GREATER = 0x06, 0x20, 0x25
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_DROP: _Instruction = (_RETURN, 0, 0, 0)
_KEEP: _Instruction = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP_ALL = (_DROP,)
_DROP_A_FIFTH = (
    (_LOAD_WORD, 0, 0, _RANDOM),
    (_JUMP_IF_GREATER, 0, 1, 0xFFFFFFFF // 5 * 4),
    _DROP,
    _KEEP,
)


def _drop_packets(sock: socket.socket, program: tuple[_Instruction, ...]) -> None:
    """Have the kernel drop packets to a TCP socket, as a network would.

    :raises OSError: this kernel, or this user, must not: newer ones ask for CAP_NET_ADMIN.
    """
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HL", len(program), ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def _may_drop_packets() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with socket.socket() as sock:
        try:
            _drop_packets(sock, _DROP_A_FIFTH)
        except OSError:
            return False
    return True


# -- devices

_USER = "demo"
_KEEPALIVE_SECONDS = 5
_FIRMWARE_BYTES = 256 * 1024
_ALARM, _FIRMWARE = "alarm", "firmware"
"""The last levels of topics that the broker treats in a way of their own."""
_ANSWER_SECONDS = 2.0


class _Device:
    """A device, which connects again and again from one address.

    :param kind: what it does while it is connected, and how long it is away in between.
    """

    def __init__(
        self, reactor: Any, kind: type[_DeviceProtocol], address: str, host: str, port: int
    ) -> None:
        self.reactor = reactor
        self._kind = kind
        self._pauses = kind.pauses()
        self._endpoint = TCP4ClientEndpoint(reactor, host, port, bindAddress=(address, 0))
        self._factory = _DeviceFactory(self)
        self.connections = 0

    def connect(self) -> None:
        self._endpoint.connect(self._factory).addErrback(lambda failure: None)  # at a stop

    def made(self) -> _DeviceProtocol:
        self.connections += 1
        return self._kind(self)

    def away(self) -> None:
        """Connect again later, if this kind ever does."""
        pause = next(self._pauses, None)
        if pause is not None:
            self.reactor.callLater(pause, self.connect)


class _DeviceFactory(Factory):
    noisy = False

    def __init__(self, device: _Device) -> None:
        self._device = device

    def buildProtocol(self, addr: object) -> _DeviceProtocol:
        return self._device.made()


class _DeviceProtocol(Protocol):
    """A connection of a device: once the broker has accepted it, it publishes readings."""

    name: ClassVar[str]
    """Its MQTT client id."""
    does: ClassVar[str]
    how: ClassVar[str]
    every = 1.0
    stay: ClassVar[float | None] = None

    transport: Any

    @staticmethod
    def pauses() -> Iterator[float]:
        """The seconds between its connections."""
        return iter(())

    def __init__(self, device: _Device) -> None:
        self.device = device
        self._packets = mqtt.Packets()
        self._repeated = []
        for call in (self.send, self._ping):
            looping = LoopingCall(call)
            looping.clock = device.reactor
            self._repeated.append(looping)

    def connectionMade(self) -> None:
        self.transport.write(mqtt.connect(self.name, _KEEPALIVE_SECONDS, _USER))

    def dataReceived(self, data: bytes) -> None:
        for kind, _, _ in self._packets.of(data):
            if kind == mqtt.CONNACK:
                self.accepted()

    def accepted(self) -> None:
        self.transport.write(mqtt.subscribe(f"{self.name}/set"))
        readings, pings = self._repeated
        readings.start(self.every)
        pings.start(_KEEPALIVE_SECONDS, now=False)
        if self.stay is not None:
            self.device.reactor.callLater(self.stay, self.leave)

    def send(self) -> None:
        self.publish("reading", self.reading())

    def reading(self) -> dict[str, Any]:
        return {"celsius": round(random.gauss(41, 1), 1), "rpm": round(random.gauss(1450, 20))}

    def publish(self, level: str, values: dict[str, Any], packet_id: int | None = None) -> None:
        payload = json.dumps(values).encode()
        self.transport.write(mqtt.publish(f"{self.name}/{level}", payload, packet_id))

    def _ping(self) -> None:
        self.transport.write(mqtt.ping())

    def stop(self) -> None:
        for each in self._repeated:
            if each.running:
                each.stop()

    def leave(self) -> None:
        """Leave in good order."""
        self.stop()
        self.transport.write(mqtt.disconnect())
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.stop()
        self.device.away()


class _Steady(_DeviceProtocol):
    name, does, how = "pump-1", "steady", "a reading every second"


class _Chatty(_DeviceProtocol):
    name, does, how = "meter-2", "chatty", "bigger readings, three a second"
    every = 0.33

    def reading(self) -> dict[str, Any]:
        return {"volts": [round(random.gauss(230, 1), 1) for _ in range(12)]}


class _Vanishing(_DeviceProtocol):
    name, does = "pump-3", "vanishes"
    how = "no end, no reset: from one moment on, it answers nothing"
    stay = 6.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(0.0)

    def leave(self) -> None:
        """Say a last word, and be gone when the answer comes."""
        self.stop()
        self.publish(_ALARM, {"bearing_celsius": 96.4, "text": "bearing too hot"}, packet_id=2)
        reactor = self.device.reactor
        reactor.callLater(_ANSWER_SECONDS / 2, self._vanish)
        # By then it is lost. Its socket has heard nothing of that: it is let go without a word.
        reactor.callLater(2.5 * _UNREACHABLE_SECONDS, self.transport.abortConnection)

    def _vanish(self) -> None:
        if self.transport.connected:
            _drop_packets(self.transport.getHandle(), _DROP_ALL)


class _FallingSilent(_DeviceProtocol):
    name, does = "pump-3", "silent"
    how = "sends for a while, then nothing, and does not end"
    stay = 6.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(5.0)

    def leave(self) -> None:
        self.stop()


class _Crashing(_DeviceProtocol):
    name, does, how = "valve-4", "crashes", "soon after it has connected, again and again"
    stay = 0.5

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.chain(itertools.repeat(0.5, 6), itertools.repeat(5.0))

    def reading(self) -> dict[str, Any]:
        return {"boot": self.device.connections, "cause": "watchdog"}

    def leave(self) -> None:
        self.transport.abortConnection()


class _FarAway(_DeviceProtocol):
    name, does, how = "buoy-5", "far away", "its network loses one packet in five"
    every = 0.33

    def connectionMade(self) -> None:
        _drop_packets(self.transport.getHandle(), _DROP_A_FIFTH)
        super().connectionMade()


class _ReadingSlowly(_DeviceProtocol):
    name, does, how = "panel-5", "slow", "asks for its firmware, and reads it slowly"

    def connectionMade(self) -> None:
        self._left = 0
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        super().connectionMade()

    def send(self) -> None:
        """Ask if there is nothing left to be read; read a little."""
        if self._left <= 0:
            self._left = _FIRMWARE_BYTES
            self.publish(_FIRMWARE, {"version": "2.0.1"})
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._left > 0:
            self._left -= len(data)
            self.transport.pauseProducing()


class _Asking(_DeviceProtocol):
    name, does, how = "tag-6", "asks", "ends its side, then takes its answer (a half-close)"
    stay = 0.1

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(8.0)

    def leave(self) -> None:
        self.stop()
        self.transport.loseWriteConnection()


class _Visiting(_DeviceProtocol):
    name, does, how = "logger-7", "visits", "for 3 s, every 9 s, and leaves in good order"
    every, stay = 0.5, 3.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(6.0)


_KINDS_THAT_DROP = (_Steady, _Chatty, _Vanishing, _Crashing, _FarAway, _Asking, _Visiting)
_KINDS = (_Steady, _Chatty, _FallingSilent, _Crashing, _ReadingSlowly, _Asking, _Visiting)


# -- the broker


@implementer(IHalfCloseableProtocol)
class _BrokerProtocol(Protocol):
    """The broker, for one connection: of a device, or of somebody who types.

    It needs time to store an alarm, and to say goodbye to a client that ends its side.
    """

    transport: Any

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._packets = mqtt.Packets()
        self._understand: Callable[[bytes], None] | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._understand is None:
            is_mqtt = data[0] >> 4 == mqtt.CONNECT
            self._understand = self._understand_packets if is_mqtt else self._understand_text
        self._understand(data)

    def _understand_text(self, data: bytes) -> None:
        self.transport.write(b"ok %d\n" % len(data))

    def _understand_packets(self, data: bytes) -> None:
        try:
            for kind, flags, body in self._packets.of(data):
                self._answer(kind, flags, body)
        except ValueError:
            self.transport.abortConnection()

    def _answer(self, kind: int, flags: int, body: bytes) -> None:
        if kind == mqtt.CONNECT:
            self.transport.write(mqtt.accepted())
        elif kind == mqtt.SUBSCRIBE:
            settings = mqtt.publish(mqtt.subscribed_topic(body), b'{"interval_seconds": 1}')
            self.transport.write(mqtt.subscribed(body) + settings)
        elif kind == mqtt.PINGREQ:
            self.transport.write(mqtt.alive())
        elif kind == mqtt.DISCONNECT:
            self.transport.loseConnection()
        elif kind == mqtt.PUBLISH:
            self._store(*mqtt.published(flags, body))

    def _store(self, topic: str, packet_id: bytes) -> None:
        level = topic.rpartition("/")[2]
        if level == _FIRMWARE:
            self.transport.write(mqtt.publish(topic, bytes(_FIRMWARE_BYTES)))
        if packet_id:
            seconds = _ANSWER_SECONDS if level == _ALARM else 0.0
            self._reactor.callLater(seconds, self.transport.write, mqtt.acknowledged(packet_id))

    def readConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol.readConnectionLost``."""
        self._reactor.callLater(_ANSWER_SECONDS, self._say_goodbye)

    def _say_goodbye(self) -> None:
        is_text = self._understand == self._understand_text
        goodbye = b"goodbye\n" if is_text else mqtt.publish("goodbye", b"{}")
        self.transport.write(goodbye)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol.writeConnectionLost``: nothing follows."""


class _BrokerFactory(Factory):
    noisy = False

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def buildProtocol(self, addr: object) -> _BrokerProtocol:
        return _BrokerProtocol(self._reactor)
