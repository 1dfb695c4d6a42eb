"""Names in Twisted's client endpoints, looked up as those of backends on sockets are.

Twisted does so in the reactor's pool: ten threads for the whole program, joined at its end. Ten
names that hang there keep every other user of the pool waiting, and the program from ending.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from twisted.internet.tcp import Connector
from zope.interface import alsoProvides, implementer, providedBy

from monconn.addresses import TcpAddress
from monconn.model.reasons import Reason
from monconn.net.resolver import Cancel, Found, NotFound, Resolver

_MOST_NAMES = 1000


class NotResolved(DNSLookupError):
    """A backend's name was not resolved.

    :param reason: the reason to end the connection.
    :param detail: what went wrong.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail  # Twisted's has a text of its own in front


@implementer(IHostnameResolver)
class EndpointReactor:
    """What one backend's endpoint takes for the reactor.

    It is the reactor, but for names: these are looked up, and their addresses retained, by a
    :class:`~monconn.net.resolver.Resolver` each.

    :param reactor: all else is its.
    :param resolver: makes the resolver of a name.
    """

    def __init__(self, reactor: Any, resolver: Callable[[TcpAddress], Resolver]) -> None:
        self._reactor = reactor
        self._make_resolver = resolver
        self._resolvers: dict[TcpAddress, Resolver] = {}
        self.failure: NotResolved | None = None
        """Why the last name was not resolved; ``IResolutionReceiver`` has no way to say so."""
        self.cancel: Cancel | None = None
        """Has the query that was begun last call nobody. Twisted never does that, and whoever gives
        up would stay in memory as long as the name server hangs."""
        alsoProvides(self, providedBy(reactor), IReactorPluggableNameResolver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def nameResolver(self) -> IHostnameResolver:
        """Implements ``IReactorPluggableNameResolver.nameResolver``, which ``HostnameEndpoint``
        asks."""
        return self

    # Endpoints with tcp: or ssl: have the reactor connect to a name, and its connectors ask the
    # reactor that they are given for an address.

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> Any:
        """Implements ``IReactorTCP.connectTCP``."""
        if isIPAddress(host) or isIPv6Address(host):
            return self._reactor.connectTCP(host, port, factory, timeout, bindAddress)
        asking = _ConnectorReactor(self, self._reactor)
        self.cancel = asking.cancel
        connector = Connector(host, port, factory, timeout, bindAddress, asking)
        connector.connect()
        return connector

    def connectSSL(self, *args: Any, **kwargs: Any) -> Any:
        """Implements ``IReactorSSL.connectSSL``, which ends in :meth:`connectTCP`."""
        return type(self._reactor).connectSSL(self, *args, **kwargs)

    def resolve(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        """The first IPv4 address of a name, as ``IReactorCore.resolve`` has it.

        :param timeout: of no effect: the backend's time limit holds.
        """
        if not name:
            here: Deferred[str] = self._reactor.resolve(name)
            return here
        answer: Deferred[str] = Deferred()

        def found(addresses: Sequence[tuple[int, Any]]) -> None:
            ips = [where[0] for family, where in addresses if family == socket.AF_INET]
            if ips:
                answer.callback(ips[0])
            else:
                failed("backend_unreachable", f"{name} has no IPv4 address")

        def failed(reason: Reason, detail: str) -> None:
            self.failure = NotResolved(reason, detail)
            answer.errback(self.failure)

        self._look_up(name, 0, found, failed)
        return answer

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Implements ``IHostnameResolver.resolveHostName``."""

        def found(addresses: Sequence[tuple[int, Any]]) -> None:
            for family, where in addresses:
                kind = IPv4Address if family == socket.AF_INET else IPv6Address
                if addressTypes is None or kind in addressTypes:
                    resolutionReceiver.addressResolved(kind(transportSemantics, *where))  # type: ignore[arg-type]
            resolutionReceiver.resolutionComplete()

        def failed(reason: Reason, detail: str) -> None:
            self.failure = NotResolved(reason, detail)
            resolutionReceiver.resolutionComplete()

        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        self._look_up(hostName, portNumber, found, failed)
        return resolution

    def _look_up(self, host: str, port: int, found: Found, failed: NotFound) -> None:
        where = TcpAddress(host, port)
        resolver = self._resolvers.get(where)
        if resolver is None:
            if len(self._resolvers) >= _MOST_NAMES:  # of an endpoint that chooses them itself
                self._resolvers.clear()
            resolver = self._resolvers[where] = self._make_resolver(where)
        addresses = resolver.cached()
        if addresses:
            found(addresses)
        else:
            self.cancel = resolver.resolve(found, failed)


class _ConnectorReactor:
    """What one of Twisted's connectors takes for the reactor: it asks for the name a turn later.

    :param names: resolves it.
    :param reactor: all else is its.
    """

    def __init__(self, names: EndpointReactor, reactor: Any) -> None:
        self._names = names
        self._reactor = reactor
        self._cancel: Cancel | None = None
        self._is_cancelled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolve(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:
        """Implements ``IReactorCore.resolve``."""
        if self._is_cancelled:
            return Deferred()
        self._names.cancel = None
        answer = self._names.resolve(name)
        self._cancel = self._names.cancel
        return answer

    def cancel(self) -> None:
        """Ask nobody, or have the query call nobody."""
        self._is_cancelled = True
        if self._cancel is not None:
            self._cancel()


@implementer(IHostResolution)
class _Resolution:
    """A name that is being resolved.

    :param name: which.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Implements ``IHostResolution.cancel``: not implemented, as in Twisted's own."""
        raise NotImplementedError
