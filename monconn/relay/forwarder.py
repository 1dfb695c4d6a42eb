"""One service: its clients are admitted or refused, and those admitted are relayed."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from monconn.addresses import plain_ip
from monconn.monitor.monitor import Monitor
from monconn.net.peers import RefusedProtocol, describe_peer
from monconn.net.sockets import local_address, peer_pid, zone_name
from monconn.relay.paths import DataPath, TransportPath
from monconn.relay.preface import Preface


class Forwarder:
    """Admits and relays the clients of one of our listening sockets.

    :param monitor: the service's monitor.
    :param path: moves their bytes.
    :param preface: reads their first bytes before they are admitted, if given.
    :param local: the address of the listening socket, if it is a single one; see
        :attr:`~monconn.model.record.ConnectionRecord.client_local`.
    """

    def __init__(
        self,
        monitor: Monitor,
        path: DataPath,
        preface: Preface | None = None,
        *,
        local: str | None = None,
    ) -> None:
        self._monitor = monitor
        self._local = local
        self._preface = preface
        self.use(path)

    def use(self, path: DataPath) -> None:
        """Relay the clients that come from now on over another path."""
        self._path = path
        self._room = None if self._preface is None else path.preface_room(self._preface)
        self.must_wait = path.must_wait
        """Whether the next client is to be left in the accept queue."""

    def accepted(self, sock: socket.SocketType, address: Any) -> None:
        """Relay a client, or turn it away.

        :param sock: taken over.
        :param address: as ``accept`` returned it.
        """
        peer = _socket_peer(sock, address)
        if self._room is not None:
            self._path.wait(self._room, peer, sock)
            return
        local = self._local
        if local is None and self._monitor.observers.wants_addresses:
            local = local_address(sock)
        record = self._monitor.admit(*peer, local=local)
        if record is None:
            sock.close()
        else:
            self._path.begin(record, sock)


class ForwardingFactory(Factory):
    """Admits and relays the clients of a Twisted endpoint, which come on transports.

    :param monitor: the service's monitor.
    :param path: moves their bytes.
    :param preface: reads their first bytes before they are admitted, if given.
    """

    noisy = False

    def __init__(
        self, monitor: Monitor, path: TransportPath, preface: Preface | None = None
    ) -> None:
        self._monitor = monitor
        self._preface = preface
        self.use(path)

    def use(self, path: TransportPath) -> None:
        """Relay the clients that come from now on over another path."""
        self._path = path
        self._room = None if self._preface is None else path.preface_room(self._preface)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a client's End, as ``IProtocolFactory`` asks for a protocol."""
        peer = describe_peer(addr)
        if self._room is not None:
            return self._path.waiting(self._room, peer)
        record = self._monitor.admit(*peer)
        return RefusedProtocol() if record is None else self._path.client_end(record)


def _socket_peer(sock: socket.SocketType, address: Any) -> tuple[str, str]:
    """A client's address for display, and its IP."""
    if not isinstance(address, tuple):  # of a UNIX socket's client: its path, if it has bound one
        return f"unix:{peer_pid(sock)}", "unix"
    host = address[0]
    if ":" in host:
        host = plain_ip(host)
        if address[3]:  # of a link-local address, which names a host on this network only
            host = f"{host}%{zone_name(address[3])}"
    return (f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"), host
