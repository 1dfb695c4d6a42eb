"""Connections of this program to its own listeners, and whether they go round in a loop.

A service may forward to another one of ours (A → B → elsewhere). In a loop (A → B → A), each
connection would make another until no descriptor is left. What configurations show is refused when
they are read; what only addresses show as they are resolved, such as a name or another address of
this host, is found here: of a backend's socket that is about to connect to a port on which we
listen, the local address is noted; the client that is accepted from that address is the same
connection's other end, and its record gets the record that it has come through.

Other sockets cost nothing but a look-up of their port in a set, and those to the same port on
another host one more. What lies behind other programs, or behind a translation of addresses, is not
found.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from monconn.addresses import TcpAddress, UnixAddress, is_loopback, plain_ip
from monconn.model.record import ConnectionRecord

MOST_DIALS = 1000
"""How many connections that were not accepted yet are noted; the oldest are forgotten."""
OWN_HOST_SECONDS = 10.0
"""How long it is taken for granted whether an address is one of this host."""

Target = int | str
"""What is listened on: a TCP port, at whichever address, or the path of a UNIX socket, without
symbolic links."""


def target_of(address: TcpAddress | UnixAddress) -> Target:
    """What an address is about."""
    return _path(address.path) if isinstance(address, UnixAddress) else address.port


def target_of_name(name: Any) -> Target:
    """What a socket's name (``getsockname``, ``getpeername``) is about."""
    return int(name[1]) if isinstance(name, tuple) else _path(name)


def _path(path: str | bytes) -> str:
    name = os.fsdecode(path)
    # Neither no name nor an abstract one (unix(7)) is a path.
    return os.path.realpath(name) if name and "\0" not in name else name


class Loops:
    """The listeners of this program, and its connections to them."""

    def __init__(self) -> None:
        self.listening: Counter[Target] = Counter()
        """What we listen on, and how often: a port may be used at several addresses."""
        self.dials: OrderedDict[object, tuple[Any, ConnectionRecord]] = OrderedDict()
        """By local address: connections to our listeners, and the records that they belong to."""
        self.unknown_dials = 0
        """How many connections are being made that may lead to a listener of ours, and whose local
        address is known only once they are made: those of Twisted's endpoints."""
        self._accepted: dict[object, ConnectionRecord] = {}  # meanwhile, by the client's address
        self._awaited: set[int] = set()  # the ids of these records
        self._own_hosts: dict[object, tuple[float, bool]] = {}  # by address, and until when

    def listens(self, target: Target) -> Callable[[], object]:
        """Note a listener of ours.

        :returns: forgets it; to be called once.
        """
        self.listening[target] += 1
        return lambda: self._listens_no_more(target)

    def _listens_no_more(self, target: Target) -> None:
        self.listening[target] -= 1
        if self.listening[target] <= 0:
            del self.listening[target]

    def leads_here(self, target: Target, family: int, where: Any) -> bool:
        """Whether an address may be that of a listener of ours.

        :param target: its port or path.
        :param where: as ``connect`` takes it.
        """
        if target not in self.listening:
            return False
        if family == socket.AF_UNIX:
            return True
        return self._is_this_host(family, where)

    def _is_this_host(self, family: int, where: Any) -> bool:
        """Whether an address is one of this host, as far as that was asked lately."""
        key, now = (where[0], where[2:]), time.monotonic()
        until, is_own = self._own_hosts.get(key, (0.0, False))
        if now >= until:
            if len(self._own_hosts) >= MOST_DIALS:
                self._own_hosts.clear()
            is_own = is_own_host(family, where)
            self._own_hosts[key] = now + OWN_HOST_SECONDS, is_own
        return is_own

    def dialled(self, sock: Any, record: ConnectionRecord) -> None:
        """Note a socket that is connecting, or is connected, to a listener of ours."""
        key = _key(sock.getsockname())
        if not key:  # a UNIX socket without a name
            return
        client = self._accepted.pop(key, None)
        if client is not None:
            client.came_through = record
            self._awaited.discard(client.id)
            return
        if len(self.dials) >= MOST_DIALS:
            self.dials.popitem(last=False)
        self.dials[key] = sock, record

    def accepted(self, record: ConnectionRecord, sock: Any) -> None:
        """Note in a client's record which of our connections it has come through, if any.

        To be asked only while there are :attr:`dials` or :attr:`unknown_dials`.
        """
        try:
            peer = sock.getpeername()
        except OSError:  # it has left already (ENOTCONN)
            return
        key = _key(peer)
        if not key:
            return
        dial = self.dials.pop(key, None)
        if dial is not None:
            # Of one that is closed (-1) the address may be anybody's by now.
            if dial[0].fileno() >= 0:
                record.came_through = dial[1]
            return
        has_room = len(self._accepted) < MOST_DIALS
        if self.unknown_dials and has_room and self._is_local(peer):
            self._accepted[key] = record
            self._awaited.add(record.id)

    def _is_local(self, peer: Any) -> bool:
        """Whether a client is on this host. Its address need not be the one that it goes to: a
        backend's ``bindAddress`` may be another."""
        if not isinstance(peer, tuple):
            return True
        family = socket.AF_INET6 if len(peer) > 2 else socket.AF_INET
        return is_loopback(plain_ip(peer[0])) or self._is_this_host(family, peer)

    def is_awaited(self, record: ConnectionRecord) -> bool:
        """Whether it may be known in a moment that a client has come through a service of ours.

        The listener's event comes before that of the socket at the other end, if in the same turn.
        """
        return record.id in self._awaited

    def unknown_dial_ends(self) -> None:
        """One of :attr:`unknown_dials` is known, or has failed."""
        self.unknown_dials -= 1
        if not self.unknown_dials:
            self._accepted.clear()
            self._awaited.clear()


def loop_of(record: ConnectionRecord) -> list[ConnectionRecord]:
    """The records of connections that lead back to this one's service and backend, itself last.

    :returns: empty if it is in no loop. The same service with another backend is none: where the
        backend is chosen for each connection, that may end elsewhere.
    """
    loop = [record]
    through = record.came_through
    while through is not None:
        loop.append(through)
        if (through.service, through.backend) == (record.service, record.backend):
            return loop[::-1]
        through = through.came_through
    return []


def end_loop(loop: list[ConnectionRecord], now: float) -> str:
    """Give all connections of a loop, and what came into it, the reason ``error``.

    :param loop: as :func:`loop_of` gives it.
    :param now: monotonic seconds.
    :returns: the detail.
    """
    detail = f"a loop of services: {' → '.join(each.service for each in loop)}"
    each: ConnectionRecord | None = loop[-1].came_through
    while each is not None:
        each.end("error", now, detail)
        each = each.came_through
    return detail


def _key(name: Any) -> object:
    """A socket's name for comparison: the same connection has an IPv4 address at one end, and at
    the other, if that listens on all, an IPv4-mapped one."""
    return (plain_ip(name[0]), name[1]) if isinstance(name, tuple) else name


def is_own_host(family: int, where: Any) -> bool:
    """Whether an address is one of this host: only to such a one can a socket be bound.

    (To any, if ``net.ipv4.ip_nonlocal_bind`` is set; then more connections are noted in vain.)
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((where[0], 0, *where[2:]))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def is_own_address(local: Any, remote: Any) -> bool:
    """Whether a TCP socket is connected to itself.

    A connection to a port that nobody listens on may come about nevertheless if the kernel happens
    to give that very port to it as its local one: it is both ends then (simultaneous open,
    RFC 9293, 3.5).

    :param local: as ``getsockname`` gives it.
    :param remote: the address that was connected to; "any" stands for the host itself.
    """
    same_port: bool = local[1] == remote[1]
    return same_port and (local[0] == remote[0] or remote[0] in ("0.0.0.0", "::"))


def ephemeral_ports() -> range:
    """The ports that the kernel gives to sockets that connect; all where that is not known."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return range(1, 65536)
    return range(first, last + 1)


def has_source_address(family: int, address: Any) -> bool:
    """Whether this host has an address from which another one can be connected to.

    ``connect`` fails with ``EADDRNOTAVAIL`` if it has none (an IPv6 address where IPv6 is switched
    off), and also if all local ports are taken. UDP has ports of its own, and sends nothing here.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
