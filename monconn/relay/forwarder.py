"""One service: its clients are judged, and those that may enter are relayed."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from monconn.addresses import plain_ip
from monconn.monitor.monitor import Monitor
from monconn.net.peers import RefusedProtocol, describe_peer
from monconn.net.sockets import peer_pid
from monconn.relay.paths import DataPath, TransportPath


class Forwarder:
    """Relays the clients off a listener of our own that may enter.

    :param monitor: the service's monitor.
    :param path: moves their bytes.
    """

    def __init__(self, monitor: Monitor, path: DataPath) -> None:
        self._monitor = monitor
        self.path = path

    def accepted(self, sock: socket.SocketType, address: Any) -> None:
        """Relay a client, or turn it away.

        :param sock: taken over.
        :param address: as ``accept`` gave it.
        """
        record = self._monitor.admit(*_socket_peer(sock, address))
        if record is None:
            sock.close()
        else:
            self.path.begin(record, sock)


class ForwardingFactory(Factory):
    """The same for clients off a foreign endpoint, which hands over transports.

    :param monitor: the service's monitor.
    :param path: moves their bytes.
    """

    noisy = False

    def __init__(self, monitor: Monitor, path: TransportPath) -> None:
        self._monitor = monitor
        self.path = path

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See ``IProtocolFactory``."""
        record = self._monitor.admit(*describe_peer(addr))
        return RefusedProtocol() if record is None else self.path.client_end(record)


def _socket_peer(sock: socket.SocketType, address: Any) -> tuple[str, str]:
    """How to show a client, and its IP."""
    if not isinstance(address, tuple):  # a UNIX socket's client, which may have a name of its own
        return f"unix:{peer_pid(sock)}", "unix"
    host = address[0]
    if ":" in host:
        host = plain_ip(host)
    return (f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"), host
