"""One service: the clients of a listener, each relayed to the backend."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from monconn.addresses import TcpAddress, plain_ip
from monconn.core.monitor import Monitor
from monconn.core.sockets import peer_pid
from monconn.core.timeouts import Deadlines
from monconn.core.wrapping import TurnedAway, name_of_peer
from monconn.forward.dial import Dial, OneProtocol
from monconn.forward.relay import Relay
from monconn.forward.stream import StreamEnd


class Forwarder:
    """Makes a relay for each client that may enter.

    :param monitor: the service's monitor.
    :param reactor: an ``IReactorSocket``.
    :param dial: begins to connect a protocol to the backend.
    :param deadlines: looks after the relays' time limits.
    :param keepalive: whether the system is to ask silent peers if they are still there.
    """

    def __init__(
        self,
        monitor: Monitor,
        reactor: Any,
        dial: Dial,
        deadlines: Deadlines,
        *,
        keepalive: bool = True,
    ) -> None:
        self._monitor = monitor
        self._reactor = reactor
        self._dial = dial
        self._deadlines = deadlines
        self._keepalive = keepalive

    def accepted(self, sock: socket.socket, address: Any) -> None:
        """Relay a client off a listener of our own, or turn it away.

        :param sock: taken over, and closed.
        :param address: as ``accept`` gave it.
        """
        with sock:  # Twisted makes a descriptor of its own
            relay = self._admit(*_socket_peer(sock, address))
            if relay is not None:
                self._adopt(relay, sock)

    def _adopt(self, relay: Relay, sock: socket.socket) -> None:
        try:
            self._reactor.adoptStreamConnection(
                sock.fileno(), sock.family, OneProtocol(relay.client)
            )
        except OSError as error:
            # Either it has reset the connection before we came to look, or there is a
            # shortage of descriptors.
            relay.connected(relay.client)
            has_reset = error.errno == errno.ENOTCONN
            relay.broken(relay.client, "reset" if has_reset else "none", str(error))

    def factory(self) -> Factory:
        """What a foreign endpoint is to listen with."""
        return _ForeignFactory(self)

    def protocol_for(self, address: IAddress | None) -> Any:
        """The protocol for a client off a foreign endpoint."""
        relay = self._admit(*name_of_peer(address))
        return TurnedAway() if relay is None else relay.client

    def _admit(self, client: str, client_ip: str) -> Relay | None:
        record = self._monitor.admit(client, client_ip)
        if record is None:
            return None
        clock, keepalive = self._monitor.clock, self._keepalive
        return Relay(
            self._monitor,
            record,
            StreamEnd("client", clock, keepalive=keepalive),
            StreamEnd("backend", clock, dial=self._dial, keepalive=keepalive),
            self._deadlines,
        )


class _ForeignFactory(Factory):
    noisy = False

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._forwarder.protocol_for(addr)


def _socket_peer(sock: socket.socket, address: Any) -> tuple[str, str]:
    """How to show a client, and its IP."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{peer_pid(sock)}", "unix"
    host, port = plain_ip(address[0]), address[1]
    return str(TcpAddress(host, port)), host
