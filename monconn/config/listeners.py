"""What listeners of a configuration take from each other, and services that lead to each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    is_loopback,
    socket_address,
)
from monconn.config.fields import Found
from monconn.config.yaml import Path
from monconn.errors import quoted

if TYPE_CHECKING:
    from monconn.config.config import Config, ServiceConfig

_Place = tuple[str, object]
"""A port of an address family, a path, or an endpoint string."""

_EVERY_HOST = {"": ("IPv4", "IPv6"), "0.0.0.0": ("IPv4",), "::": ("IPv6",)}
# Where a connection to "any address" of each family leads, and what the names of this host are.
_THIS_HOST = {
    "": ("127.0.0.1",),
    "0.0.0.0": ("127.0.0.1",),
    "::": ("::1",),
    "localhost": ("127.0.0.1", "::1"),
}


def clashes(services: Iterable[ServiceConfig]) -> list[tuple[str, str]]:
    """The name of each service that listens where an earlier one does, and a message."""
    taken: dict[_Place, dict[str, str]] = {}
    clashes = []
    for service in services:
        others = [
            _claim(taken.setdefault(place, {}), host, service.name)
            for place, host in _places(service.listening()[0])
        ]
        other = next(filter(None, others), None)
        if other is not None:
            clashes.append((service.name, _taken_message(service, other)))
    return clashes


def _taken_message(service: ServiceConfig, other: str) -> str:
    return f"cannot listen on {service.listen}: the service {quoted(other)} listens there already"


def taken_by_others(config: Config, services: tuple[ServiceConfig, ...]) -> Found:
    """The admin interfaces that listen where a service or another one does."""
    taken: dict[_Place, dict[str, str]] = {}
    listeners: list[tuple[str, Path, Address | None]] = [
        (f"the service {quoted(each.name)}", (), each.listening()[0]) for each in services
    ]
    for index, control in enumerate(config.control):
        above: Path = ("control", index) if len(config.control) > 1 else ("control",)
        listeners.append(("control", (*above, "listen"), control.listen))
    for key in ("manhole", "metrics", "http"):
        address = getattr(getattr(config, key), "listen", None)
        listeners.append((key, (key, "listen"), address))
    found: Found = []
    for name, path, address in listeners:
        others = [_claim(taken.setdefault(each, {}), host, name) for each, host in _places(address)]
        other = next(filter(None, others), None)
        if other is not None and path:  # those of services are reported with them
            found.append((path, f"cannot listen on {address}: {other} listens there already"))
    return found


def _places(listen: Address | None) -> list[tuple[_Place, str]]:
    """The places that a listener takes: a port per address family, or a path; and the host.

    Of an endpoint string that names no socket, it is the string.
    """
    if isinstance(listen, EndpointAddress):
        where = socket_address(listen, listens=True)
        return [(("endpoint", listen.description), "")] if where is None else _places(where)
    if isinstance(listen, UnixAddress):
        return [(("unix", os.path.realpath(listen.path)), "")]
    if not isinstance(listen, TcpAddress) or listen.port == 0:
        return []
    host = _first_of_localhost() if listen.host.lower() == "localhost" else listen.host.lower()
    families = _EVERY_HOST.get(host) or (_family(host),)
    return [((family, listen.port), "" if host in _EVERY_HOST else host) for family in families]


def _first_of_localhost() -> str:
    """The address that a listener on ``localhost`` gets; no name server is asked for it."""
    try:
        found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return "localhost"
    return str(found[0][4][0])


def _family(host: str) -> str:
    return "IPv6" if ":" in host else "IPv4"


def _claim(names: dict[str, str], host: str, name: str) -> str | None:
    """Take a host of one place, where "" is every host.

    :returns: the service that has it already, if one has.
    """
    other = names.get(host) or names.get("")
    if host == "" and names:
        other = other or next(iter(names.values()))
    names.setdefault(host, name)
    return other


def cycles(
    services: Iterable[ServiceConfig],
    *,
    addresses: Callable[[str], Iterable[str]] = lambda host: (host,),
    is_own: Callable[[str], bool] = is_loopback,
) -> list[tuple[str, str]]:
    """Each cycle of services that forward to each other: the name of its first one, and a message.

    Each connection would make another, without end. What names stand for, and which addresses this
    host has, is only known to whoever asks: :mod:`monconn.net.loops` finds that as connections are
    made.

    :param addresses: gives the IP addresses that a host of a backend stands for.
    :param is_own: whether an IP address is one of this host.
    """
    by_name = {service.name: service for service in services}
    listeners: dict[_Place, dict[str, list[str]]] = {}
    for service in by_name.values():
        for place, host in _reached_at(socket_address(service.listen, listens=True)):
            listeners.setdefault(place, {}).setdefault(host, []).append(service.name)
    leads_to = {
        name: list(
            dict.fromkeys(
                other
                for place, host in _leads_to(
                    socket_address(service.backend, listens=False), addresses
                )
                for other in _listening_at(listeners.get(place, {}), host, is_own)
            )
        )
        for name, service in by_name.items()
    }
    return [(cycle[0], _cycle_message(by_name, cycle)) for cycle in _find_cycles(leads_to)]


def _reached_at(listen: Address | None) -> list[tuple[_Place, str]]:
    """The places at which a listener can be reached; one on a name of this host, at its IPs."""
    if isinstance(listen, TcpAddress) and _plain_host(listen.host) == "localhost":
        hosts = _THIS_HOST["localhost"]
        return [each for host in hosts for each in _places(TcpAddress(host, listen.port))]
    if isinstance(listen, TcpAddress):
        listen = TcpAddress(_plain_host(listen.host), listen.port)
    return _places(listen)


def _leads_to(
    backend: Address | None, addresses: Callable[[str], Iterable[str]]
) -> list[tuple[_Place, str]]:
    """The places that a connection to a backend may lead to."""
    if not isinstance(backend, TcpAddress):
        return _places(backend)
    host = _plain_host(backend.host)
    hosts = _THIS_HOST.get(host) or addresses(host)
    return [((_family(each), backend.port), each) for each in hosts]


def _plain_host(host: str) -> str:
    name = host.lower().rstrip(".")
    return "localhost" if name.endswith(".localhost") else name  # RFC 6761, 6.3


def _listening_at(
    by_host: dict[str, list[str]], host: str, is_own: Callable[[str], bool]
) -> list[str]:
    """The services that a host of a place leads to; a listener on all addresses has this host's.

    ``by_host`` has "" for all addresses.
    """
    every = by_host.get("", []) if is_own(host) else []
    return by_host.get(host, []) + every


def _find_cycles(leads_to: dict[str, list[str]]) -> list[list[str]]:
    """Cycles, if there are any; of those with services in common perhaps not all.

    Each begins with the service that comes first in the configuration.
    """
    found: list[list[str]] = []
    order = {name: index for index, name in enumerate(leads_to)}
    done: set[str] = set()
    for first in leads_to:
        if first in done:
            continue
        # Depth first, without recursion: a chain may have thousands of services.
        done.add(first)
        path = {first: iter(leads_to[first])}
        while path:
            name = next(reversed(path))
            other = next(path[name], None)
            if other is None:
                del path[name]
            elif other in path:
                way = list(path)
                cycle = way[way.index(other) :]
                start = cycle.index(min(cycle, key=order.__getitem__))
                found.append(cycle[start:] + cycle[:start])
            elif other not in done:
                done.add(other)
                path[other] = iter(leads_to[other])
    return found


def _cycle_message(services: dict[str, ServiceConfig], cycle: list[str]) -> str:
    first = services[cycle[0]]
    if len(cycle) == 1:
        return f"forwards to its own listener, {first.listen}: each connection would make another"
    way = " → ".join([*cycle, cycle[0]])
    return f"leads back to its own listener ({way}): each connection would make another"
