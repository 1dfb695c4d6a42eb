"""Clients of Twisted's listeners: their address as text, and how to refuse them."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from monconn.addresses import TcpAddress


def describe_peer(address: Any) -> tuple[str, str]:
    """The address of a peer as text, and its IP; ``unix`` for both if it has none.

    :param address: an ``IAddress`` of Twisted's.
    """
    if hasattr(address, "port"):
        return str(TcpAddress(address.host, address.port)), address.host
    return "unix", "unix"


@implementer(IProtocol)
class RefusedProtocol(Protocol):
    """The protocol of a refused client: it closes the connection at once.

    ``buildProtocol`` must not return None instead: Twisted's TLS raises ``AttributeError`` on that,
    and leaves the client's socket open.
    """

    def makeConnection(self, transport: ITransport) -> None:
        """Close the connection."""
        super().makeConnection(transport)
        transport.loseConnection()
