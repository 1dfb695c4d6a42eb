"""The MQTT broker of ``monconn demo``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from monconn.faces.cli import demo_mqtt as mqtt

ALARM, FIRMWARE, CHART = "alarm", "firmware", "chart"
"""The last levels of topics that it treats in a way of their own."""
ANSWER_SECONDS = 2.0
"""How long it takes to store an alarm, and to say goodbye."""
FIRMWARE_BYTES, CHART_BYTES = 256 * 1024, 4096


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
        if level in (FIRMWARE, CHART):
            asked = bytes(FIRMWARE_BYTES if level == FIRMWARE else CHART_BYTES)
            self.transport.write(mqtt.publish(topic, asked))
        if packet_id:
            seconds = ANSWER_SECONDS if level == ALARM else 0.0
            self._reactor.callLater(seconds, self.transport.write, mqtt.acknowledged(packet_id))

    def readConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol.readConnectionLost``."""
        self._reactor.callLater(ANSWER_SECONDS, self._say_goodbye)

    def _say_goodbye(self) -> None:
        is_text = self._understand == self._understand_text
        goodbye = b"goodbye\n" if is_text else mqtt.publish("goodbye", b"{}")
        self.transport.write(goodbye)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Implements ``IHalfCloseableProtocol.writeConnectionLost``: nothing follows."""


class BrokerFactory(Factory):
    """Serves whoever connects."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def buildProtocol(self, addr: object) -> _BrokerProtocol:
        return _BrokerProtocol(self._reactor)
