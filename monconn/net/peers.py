"""Who connects to Twisted's listeners: how to show them, and how to turn them away."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from monconn.addresses import TcpAddress


def describe_peer(address: Any) -> tuple[str, str]:
    """How to show the peer with this Twisted address, and its IP (``unix`` if it has none)."""
    if hasattr(address, "port"):
        return str(TcpAddress(address.host, address.port)), address.host
    return "unix", "unix"


@implementer(IProtocol)
class RefusedProtocol(Protocol):
    """A refused client: its connection is closed as soon as it stands.

    ``buildProtocol`` may not return None for it: TLS would fail on that and leave the
    client's socket open.
    """

    def makeConnection(self, transport: ITransport) -> None:
        """See :class:`IProtocol`."""
        super().makeConnection(transport)
        transport.loseConnection()
