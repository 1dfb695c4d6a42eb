"""Connecting a Twisted protocol to a backend."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    wrapClientTLS,
)
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import Address, TcpAddress, UnixAddress, refuse_local_names
from monconn.net.resolver import Cancel
from monconn.net.sockets import zone_index
from monconn.net.tls import ClientTls
from monconn.policy.tls import BackendTls
from monconn.policy.tls_endpoints import tls_backend_parts
from monconn.relay.transports.names import EndpointReactor

Dial = Callable[[IProtocol], "Deferred[Any]"]

_KINDS_WITH_TIMEOUT = frozenset({"tcp", "ssl", "tls", "unix"})
_ENDPOINT_TIMEOUT_SECONDS = 3600
"""Longer than any connect timeout of the relay, which applies to every kind of endpoint."""


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


def dialler(address: Address, reactor: EndpointReactor, tls: ClientTls | None = None) -> Dial:
    """A function that connects a protocol to an address; it raises ``OSError`` if it cannot.

    :param tls: makes the TLS connections, if :func:`backend_tls` has it for the address.
    :raises AddressError: to connect would have a name looked up in the reactor's thread.
    """
    refuse_local_names(address, listens=False)
    endpoint = _endpoint(address, reactor, tls)
    zone = address.host.partition("%")[2] if isinstance(address, TcpAddress) else ""

    def dial(protocol: IProtocol) -> Deferred[Any]:
        if zone:
            zone_index(zone)  # whose error says what is missing, as Twisted's does not
        connecting: Deferred[Any] = endpoint.connect(OneProtocol(protocol))
        cancel, reactor.cancel = reactor.cancel, None
        return connecting.addErrback(failed, cancel)

    def failed(failure: Failure, cancel: Cancel | None) -> Failure:
        if cancel is not None:
            cancel()
        if failure.check(DNSLookupError) and reactor.failure is not None:
            return Failure(reactor.failure)
        return failure

    return dial


def backend_tls(
    address: Address, settings: BackendTls | ClientTls | None = None
) -> ClientTls | None:
    """What makes the TLS connections to a backend with an endpoint string.

    :param settings: take the place of the string's options; or what makes them already.
    :returns: None if there is no TLS, or only Twisted knows what the string's options mean.
    :raises TlsError: a file that is named cannot be used.
    """
    parts = tls_backend_parts(address)
    if parts is None:
        return None
    if isinstance(settings, ClientTls):
        return settings
    return ClientTls(settings or parts[1], parts[0].host)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Has Twisted use TLS connections of ours.

    Its own verification accepts a certificate that names no host, and logs a traceback for one that
    it cannot read.
    """

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Implements ``IOpenSSLClientConnectionCreator``."""
        return self._tls.connection()


def _endpoint(address: Address, reactor: Any, tls: ClientTls | None) -> IStreamClientEndpoint:
    timeout = _ENDPOINT_TIMEOUT_SECONDS
    if isinstance(address, UnixAddress):
        return UNIXClientEndpoint(reactor, address.path, timeout=timeout)
    if isinstance(address, TcpAddress):
        return _tcp_endpoint(address, reactor, timeout)
    parts = tls_backend_parts(address)
    endpoint: IStreamClientEndpoint
    if tls is None or parts is None:
        endpoint = clientFromString(reactor, _with_long_timeout(address.description))
        return endpoint
    where, _, options = parts
    if "endpoint" in options:
        endpoint = clientFromString(reactor, options["endpoint"])
    else:
        bind = options.get("bindAddress")
        endpoint = _tcp_endpoint(
            where,
            reactor,
            int(options.get("timeout", timeout)),
            None if bind is None else (bind, 0),
        )
    return wrapClientTLS(_Creator(tls), endpoint)


def _tcp_endpoint(
    address: TcpAddress, reactor: Any, timeout: int, bind: tuple[str, int] | None = None
) -> IStreamClientEndpoint:
    kinds = {4: TCP4ClientEndpoint, 6: TCP6ClientEndpoint}
    kind = kinds.get(_ip_version(address.host) or 0, HostnameEndpoint)
    made: IStreamClientEndpoint = kind(
        reactor, address.host, address.port, timeout=timeout, bindAddress=bind
    )
    return made


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
