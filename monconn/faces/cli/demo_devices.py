"""The devices of ``monconn demo``: each does one thing that happens to real ones."""

from __future__ import annotations

import itertools
import json
import random
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from monconn.faces.cli import demo_broker
from monconn.faces.cli import demo_mqtt as mqtt
from monconn.faces.cli.demo_network import DROP_A_FIFTH, DROP_ALL, drop_packets

_USER = "demo"
_KEEPALIVE_SECONDS = 5
UNREACHABLE_SECONDS = 8.0
"""After which a device that answers nothing is lost."""


class Device:
    """A device, which connects again and again from one address.

    :param kind: what it does while it is connected, and how long it is away in between.
    :param name: its MQTT client id; None for that of its kind.
    """

    def __init__(
        self,
        reactor: Any,
        kind: type[DeviceProtocol],
        address: str,
        host: str,
        port: int,
        name: str | None = None,
    ) -> None:
        self.reactor = reactor
        self.name = kind.name if name is None else name
        self._kind = kind
        self._pauses = kind.pauses()
        self._endpoint = TCP4ClientEndpoint(reactor, host, port, bindAddress=(address, 0))
        self._factory = _DeviceFactory(self)
        self.connections = 0

    def connect(self) -> None:
        self._endpoint.connect(self._factory).addErrback(lambda failure: None)  # at a stop

    def made(self) -> DeviceProtocol:
        self.connections += 1
        return self._kind(self)

    def away(self) -> None:
        """Connect again later, if this kind ever does."""
        pause = next(self._pauses, None)
        if pause is not None:
            self.reactor.callLater(pause, self.connect)


class _DeviceFactory(Factory):
    noisy = False

    def __init__(self, device: Device) -> None:
        self._device = device

    def buildProtocol(self, addr: object) -> DeviceProtocol:
        return self._device.made()


class DeviceProtocol(Protocol):
    """A connection of a device: once the broker has accepted it, it publishes readings."""

    name: ClassVar[str] = ""
    """The MQTT client id of the only device of its kind."""
    does: ClassVar[str]
    how: ClassVar[str]
    every = 1.0
    stay: ClassVar[float | None] = None

    transport: Any

    @staticmethod
    def pauses() -> Iterator[float]:
        """The seconds between its connections."""
        return iter(())

    def __init__(self, device: Device) -> None:
        self.device = device
        self._packets = mqtt.Packets()
        self._repeated = []
        for call in (self.send, self._ping):
            looping = LoopingCall(call)
            looping.clock = device.reactor
            self._repeated.append(looping)

    def connectionMade(self) -> None:
        self.transport.write(mqtt.connect(self.device.name, _KEEPALIVE_SECONDS, _USER))

    def dataReceived(self, data: bytes) -> None:
        for kind, _, _ in self._packets.of(data):
            if kind == mqtt.CONNACK:
                self.accepted()

    def accepted(self) -> None:
        self.transport.write(mqtt.subscribe(f"{self.device.name}/set"))
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
        self.transport.write(mqtt.publish(f"{self.device.name}/{level}", payload, packet_id))

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


class _Steady(DeviceProtocol):
    name, does, how = "pump-1", "steady", "a reading every second"


class _Chatty(DeviceProtocol):
    name, does, how = "meter-2", "chatty", "bigger readings, three a second"
    every = 0.33

    def reading(self) -> dict[str, Any]:
        return {"volts": [round(random.gauss(230, 1), 1) for _ in range(12)]}


class _Vanishing(DeviceProtocol):
    name, does = "pump-3", "vanishes"
    how = "no end, no reset: it just stops answering"
    stay = 6.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(0.0)

    def leave(self) -> None:
        """Say a last word, and be gone when the answer comes."""
        self.stop()
        self.publish(
            demo_broker.ALARM, {"bearing_celsius": 96.4, "text": "bearing too hot"}, packet_id=2
        )
        reactor = self.device.reactor
        reactor.callLater(demo_broker.ANSWER_SECONDS / 2, self._vanish)
        # By then it is lost. Its socket has heard nothing of that: it is let go without a word.
        reactor.callLater(2.5 * UNREACHABLE_SECONDS, self.transport.abortConnection)

    def _vanish(self) -> None:
        if self.transport.connected:
            drop_packets(self.transport.getHandle(), DROP_ALL)


class _FallingSilent(DeviceProtocol):
    name, does = "pump-3", "silent"
    how = "sends for a while, then nothing, with no end"
    stay = 6.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(5.0)

    def leave(self) -> None:
        self.stop()


class _Crashing(DeviceProtocol):
    name, does, how = "valve-4", "crashes", "soon after it has connected, again and again"
    stay = 0.5

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.chain(itertools.repeat(0.5, 6), itertools.repeat(5.0))

    def reading(self) -> dict[str, Any]:
        return {"boot": self.device.connections, "cause": "watchdog"}

    def leave(self) -> None:
        self.transport.abortConnection()


class _FarAway(DeviceProtocol):
    name, does, how = "buoy-5", "far away", "its network loses one packet in five"
    every = 0.33

    def connectionMade(self) -> None:
        drop_packets(self.transport.getHandle(), DROP_A_FIFTH)
        super().connectionMade()

    def send(self) -> None:
        """Ask for a part of a sea chart: what comes in is what gets lost."""
        super().send()
        self.publish(demo_broker.CHART, {"part": random.randrange(1000)})


class _ReadingSlowly(DeviceProtocol):
    name, does, how = "panel-5", "slow", "asks for its firmware, and reads it slowly"

    def connectionMade(self) -> None:
        self._left = 0
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        super().connectionMade()

    def send(self) -> None:
        """Ask if there is nothing left to be read; read a little."""
        if self._left <= 0:
            self._left = demo_broker.FIRMWARE_BYTES
            self.publish(demo_broker.FIRMWARE, {"version": "2.0.1"})
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._left > 0:
            self._left -= len(data)
            self.transport.pauseProducing()


class _Asking(DeviceProtocol):
    name, does, how = "tag-6", "asks", "ends its side (half-close), takes its answer"
    stay = 0.1

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(8.0)

    def leave(self) -> None:
        self.stop()
        self.transport.loseWriteConnection()


class _Visiting(DeviceProtocol):
    name, does, how = "logger-7", "visits", "for 3 s, every 9 s, and leaves in good order"
    every, stay = 0.5, 3.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(6.0)


KINDS_THAT_DROP = (_Steady, _Chatty, _Vanishing, _Crashing, _FarAway, _Asking, _Visiting)
KINDS = (_Steady, _Chatty, _FallingSilent, _Crashing, _ReadingSlowly, _Asking, _Visiting)
"""Those where the kernel drops no packets for us."""


# -- a fleet of sensors


class _Sensor(DeviceProtocol):
    does, how = "steady", "a reading every two seconds"
    every = 2.0

    def reading(self) -> dict[str, Any]:
        return {"celsius": round(random.gauss(19, 1), 1), "humidity": random.randint(40, 60)}


class _SleepingSensor(_Sensor):
    """Leaves in good order to spare its battery, and comes back."""

    stay = 25.0

    @staticmethod
    def pauses() -> Iterator[float]:
        return itertools.repeat(15.0)


class _FreezingSensor(_Sensor):
    """Its program hangs from time to time: it says nothing, and is still connected."""

    _HANGS_AFTER, _HANGS_FOR = 40, 15
    _readings = 0

    def send(self) -> None:
        self._readings += 1
        if self._readings * self.every > self._HANGS_AFTER:
            self.stop()
            self._readings = 0
            self.device.reactor.callLater(self._HANGS_FOR, self._awake)
        else:
            super().send()

    def _awake(self) -> None:
        if self.transport.connected:
            self.accepted()


_FLEET: tuple[type[DeviceProtocol], ...] = (
    *(_Sensor,) * 5,
    _SleepingSensor,
    _FreezingSensor,
    _SleepingSensor,
    *(_Sensor,) * 4,
)
_FLEET_STARTS_WITHIN = 4.0


def start_fleet(reactor: Any, host: str, port: int) -> int:
    """Connect sensors to the broker, one after the other.

    :returns: how many there are.
    """
    for number, kind in enumerate(_FLEET):
        name, address = f"sensor-{101 + number}", f"127.0.0.{101 + number}"
        sensor = Device(reactor, kind, address, host, port, name)
        reactor.callLater(number * _FLEET_STARTS_WITHIN / len(_FLEET), sensor.connect)
    return len(_FLEET)
