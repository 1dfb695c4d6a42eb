"""Connecting a Twisted protocol to a backend."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
)
from twisted.internet.interfaces import IAddress, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from monconn.addresses import Address, EndpointAddress, TcpAddress, UnixAddress
from monconn.net.sockets import zone_index

Dial = Callable[[IProtocol], "Deferred[Any]"]

_KINDS_WITH_TIMEOUT = frozenset({"tcp", "ssl", "tls", "unix"})
_ENDPOINT_TIMEOUT_SECONDS = 3600
"""Longer than any connect timeout of the relay, which applies to every kind of endpoint."""


class NamelessCertificate(Exception):
    """A backend's certificate is trusted, but names no host."""


class NoBackend(Exception):
    """Choosing the backend for a client failed: a fault on our side."""


class LoopOfServices(Exception):
    """The connection has come through this very service; the text has the way."""


class OneProtocol(Factory):
    """A factory for one connection, whose protocol exists already.

    :param protocol: an ``IProtocol``.
    """

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol, as ``IProtocolFactory`` asks."""
        return self._protocol


def dialler(address: Address, reactor: Any) -> Dial:
    """A function that connects a protocol to an address; it raises ``OSError`` if it cannot."""
    endpoint = _endpoint(address, reactor)
    zone = address.host.partition("%")[2] if isinstance(address, TcpAddress) else ""

    def dial(protocol: IProtocol) -> Deferred[Any]:
        if zone:
            zone_index(zone)  # whose error says what is missing, as Twisted's does not
        connecting: Deferred[Any] = endpoint.connect(OneProtocol(protocol))
        return connecting

    return dial


def verifies_host(address: Address) -> bool:
    """Whether a backend's certificate must be for its host."""
    if not isinstance(address, EndpointAddress):
        return False
    kind, _, options = address.description.partition(":")
    return kind == "tls" or (kind == "ssl" and ":hostname=" in options)


def refuse_nameless(certificate: x509.Certificate) -> None:
    """Refuse a certificate that names no host; ``service_identity`` accepts it for any host.

    :raises NamelessCertificate: it has neither a DNS name nor an IP address (RFC 6125 knows no
        others for a host).
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    if not any(isinstance(name, x509.DNSName | x509.IPAddress) for name in names):
        raise NamelessCertificate("the backend's certificate names no host (subjectAltName)")


def _endpoint(address: Address, reactor: Any) -> IStreamClientEndpoint:
    timeout = _ENDPOINT_TIMEOUT_SECONDS
    if isinstance(address, UnixAddress):
        return UNIXClientEndpoint(reactor, address.path, timeout=timeout)
    if not isinstance(address, TcpAddress):
        description = _with_long_timeout(address.description)
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
        return endpoint
    version = _ip_version(address.host)
    if version == 4:
        return TCP4ClientEndpoint(reactor, address.host, address.port, timeout=timeout)
    if version == 6:
        return TCP6ClientEndpoint(reactor, address.host, address.port, timeout=timeout)
    return HostnameEndpoint(reactor, address.host, address.port, timeout=timeout)


def _with_long_timeout(description: str) -> str:
    """An endpoint string whose own timeout, if its kind has one, comes after the relay's."""
    kind = description.partition(":")[0]
    if kind not in _KINDS_WITH_TIMEOUT or ":timeout=" in description:
        return description
    return f"{description}:timeout={_ENDPOINT_TIMEOUT_SECONDS}"


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
