"""TLS in front of the servers that are Twisted factories: the admin interfaces'."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocolFactory
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from monconn.turns import TurnQueue

HANDSHAKE_SHARE = 0.2
"""The most of the loop's time that may go into the handshakes of strangers, as a part of it. Each
costs 10 ms with an RSA key of 4,096 bits, and a stranger nothing: with as many as come, relayed
messages took 25 ms longer."""


class TlsTransport(BufferingTLSTransport):
    """TLS whose handshakes go on in turns that all clients share: each step costs a millisecond.

    A stranger needs no certificate to cause it, and may come a thousand times a second.
    """

    factory: TlsFactory
    transport: Any
    _handshake_input = b""

    def dataReceived(self, data: bytes) -> None:
        """Implements ``IProtocol.dataReceived``."""
        if self._handshakeDone:
            super().dataReceived(data)
            return
        if not self._handshake_input:
            self.factory.queue.add(self._go_on)
            self.transport.pauseProducing()
        self._handshake_input += data

    def _go_on(self) -> None:
        data, self._handshake_input = self._handshake_input, b""
        if self.connected:
            self.transport.resumeProducing()
            super().dataReceived(data)


class TlsFactory(TLSMemoryBIOFactory):
    """Serves a factory's clients over TLS.

    :param connections: an ``IOpenSSLServerConnectionCreator``.
    :param served: the factory.
    :param queue: for the steps of handshakes.
    """

    protocol = TlsTransport

    def __init__(self, connections: Any, served: IProtocolFactory, queue: TurnQueue) -> None:
        super().__init__(connections, False, served)
        self.queue = queue

    def buildProtocol(self, addr: Any) -> Any:
        """Implements ``IProtocolFactory.buildProtocol``, None included: Twisted wraps that, too."""
        served = self.wrappedFactory.buildProtocol(addr)
        return None if served is None else self.protocol(self, served)
